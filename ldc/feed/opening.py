"""Opens a websocket: address, proxy, TLS and handshake, with websocket-client. Blocking.

Rule 1: `ldc.network.connecting` tries the addresses of the host, or of the proxy. websocket-client gets a connected
    socket, so it looks neither for addresses nor for proxies. Only SOCKS is left to it.
Rule 2: TLS is left to the first write, when `FeedConnection` knows the socket and can end it: so the TLS handshake has
    the same deadline.
Rule 3: whatever goes wrong becomes one printable sentence without secrets, which names the proxy if it was the proxy.
"""

import socket
import ssl
from urllib.parse import urlsplit

import websocket

from ldc.feed.tls import tls_context
from ldc.network.certificates import ADVICE
from ldc.network.connecting import ProxyFailed, connect, mark_failed, open_tunnel, peer_of, reachable_host
from ldc.network.libraries import require_library
from ldc.network.proxy import Proxy
from ldc.network.text import described, printable

require_library(websocket, "websocket-client", "WebSocket", "ABNF", "create_connection", "WebSocketBadStatusException")

_SWITCHING_PROTOCOLS = 101
_EXCERPT_CHARACTERS_MAX = 120
_TLS_TEXT_CHARACTERS_MAX = 200


def new_websocket() -> websocket.WebSocket:
    """Return a websocket that is not open."""
    return websocket.WebSocket(
        skip_utf8_validation=True,
        sslopt={"do_handshake_on_connect": False},  # see rule 2; for SOCKS
    )


def open_websocket(
    opened: websocket.WebSocket, url: str, proxy: Proxy | None, *, user_agent: str, timeout_s: float
) -> str | None:
    """Open a websocket; return None, or what went wrong. Each step may take `timeout_s`.

    Closing the socket of `opened` from another thread ends it.
    """
    peer: tuple[str, int] | None = None
    parts = urlsplit(url)
    is_tls = parts.scheme == "wss"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    try:
        context = tls_context() if is_tls else None
        if proxy is not None and proxy.is_socks:
            if context is not None:
                opened.sock_opt.sslopt["context"] = context
            options = _socks_options(proxy, timeout_s)
        else:
            raw = opened.sock = _connected(host, port, proxy, timeout_s)
            peer = peer_of(raw)
            if proxy is not None:
                open_tunnel(raw, host, port, proxy, timeout_s)
            options = {
                "socket": context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
                if context is not None
                else raw
            }
        opened.connect(  # type: ignore[no-untyped-call]
            url,
            timeout=timeout_s,
            header=[f"User-Agent: {user_agent}"],
            redirect_limit=0,
            suppress_origin=True,
            **options,
        )
        problem = _refusal(opened)
    except Exception as error:  # noqa: BLE001 - what a hostile answer makes of a parser is not ours to foresee
        problem = _refusal(opened) or _problem(error, proxy)
    if problem is not None:
        mark_failed(peer)
    return problem


def _connected(host: str, port: int, proxy: Proxy | None, timeout_s: float) -> socket.socket:
    if proxy is None:
        return connect(host, port, timeout_s)
    try:
        return connect(proxy.host, proxy.port, timeout_s)
    except OSError as error:
        raise ProxyFailed(f"the proxy {proxy} cannot be reached: {described(error)}") from error


def _socks_options(proxy: Proxy, timeout_s: float) -> dict[str, object]:
    """Return keyword arguments for websocket-client's ``connect``."""
    try:
        host = reachable_host(proxy.host, proxy.port, timeout_s)
    except OSError as error:
        raise ProxyFailed(f"the proxy {proxy} cannot be reached: {described(error)}") from error
    return {
        "http_proxy_host": host,
        "http_proxy_port": proxy.port,
        "http_proxy_auth": None if proxy.user is None else (proxy.user, proxy.password or ""),
        "http_proxy_timeout": timeout_s,
        "proxy_type": proxy.scheme,
    }


def _refusal(opened: websocket.WebSocket) -> str | None:
    """Return what the answer to the handshake says, if it is not the one that opens a websocket."""
    response = opened.handshake_response
    if response is None or response.status == _SWITCHING_PROTOCOLS:
        return None
    location = response.headers.get("location")
    if location is None:
        return f"the handshake ended with HTTP status {response.status}"
    return (
        f"the handshake was answered by HTTP {response.status}, which leads to {printable(location, 200)}. No redirect "
        "is followed; see whether a login page or a gateway answers in place of the exchange"
    )


def _problem(error: Exception, proxy: Proxy | None) -> str:
    if isinstance(error, ProxyFailed):
        return str(error)
    if isinstance(error, websocket.WebSocketBadStatusException):
        body = error.resp_body or b""
        page = body[: 4 * _EXCERPT_CHARACTERS_MAX].decode(errors="replace") if isinstance(body, bytes) else str(body)
        said = f" and a body that begins: {printable(page, _EXCERPT_CHARACTERS_MAX)}" if page else ""
        return f"{_way(proxy)}the handshake was answered by HTTP status {error.status_code}{said}"
    text = f"{type(error).__name__}: {described(error, proxy, _TLS_TEXT_CHARACTERS_MAX)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_way(proxy)}{text}; {ADVICE}"
    if proxy is not None and type(error).__module__.startswith("python_socks"):
        return f"the proxy {proxy} failed: {text}"
    return _way(proxy) + text


def _way(proxy: Proxy | None) -> str:
    return "" if proxy is None else f"through the proxy {proxy}: "
