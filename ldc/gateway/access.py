"""Who may ask: Host, Origin, token. Decisions over a request's headers, without a socket.

Rule 1: a web page of another site must not read or change anything, whatever the browser sends along. Host is checked
    against DNS rebinding, Origin against websockets of other sites, Sec-Fetch-Site against their links and images.
Rule 2: a token is compared in constant time, and never stands in a URL, a log or an answer.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from ldc.gateway.reply import Reply, error_reply

TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")
"""Characters that may stand in a header and in the name of a websocket's subprotocol."""

COOKIE = "ldc_session"
SUBPROTOCOL = "ldc"
"""What a browser's websocket requests beside `ldc.bearer.<token>`, and what the gateway chooses."""
_BEARER_SUBPROTOCOL = "ldc.bearer."

HOSTS_KEPT = 64
"""Hosts whose reading is kept, because clients send the same with each request."""

_SAFE_METHODS = ("GET", "HEAD")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens on that host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def checked_token(text: str) -> str:
    """Return a token; raise ``ValueError``, without it in the text, for one that cannot be sent in every way."""
    if TOKEN.fullmatch(text) is None:
        raise ValueError(
            "a token is 16 to 200 letters, digits and . _ ~ - , such as `openssl rand -hex 32` prints; "
            f"another text of {len(text)} characters was given"
        )
    return text


class Access:
    """The rules of one gateway. Immutable, but for a random number of its own.

    Args:
        token: what a request must carry; None: nothing.
        hosts: names by which clients may address the gateway, beside localhost and IP addresses.
        is_tls: whether it is served over TLS.
    """

    def __init__(self, token: str | None, hosts: Iterable[str], is_tls: bool) -> None:
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})
        self._is_tls = is_tls
        self._digest = None if token is None else _digest(token)
        # Another one in each process: a cookie is worth nothing after a restart, nor to another gateway.
        self._session = None if token is None else secrets.token_hex(32)

    @property
    def needs_token(self) -> bool:
        """Whether requests must carry a token."""
        return self._digest is not None

    def refused_host(self, host: str | None) -> Reply | None:
        """Return the refusal of a Host header, or None. An IP address cannot be rebound by DNS, so each is right."""
        name = _name_of(host)
        if name is not None and (name in self._hosts or _is_address(name)):
            return None
        return error_reply(421, "this gateway is not addressed by that Host; name it with --allow-host if it should be")

    def refused_origin(
        self, method: str, is_websocket: bool, is_change: bool, headers: Mapping[str, str]
    ) -> Reply | None:
        """Return the refusal of a request that a page of another site has sent, or None."""
        if not is_websocket and not is_change and method in _SAFE_METHODS:
            return None  # without a CORS header, the other site's page cannot read the answer
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("Host", "").lower():
            return error_reply(403, "a page of another Origin may not do this")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return error_reply(403, "a page of another site may not do this")
        return None

    def refused_token(self, headers: Mapping[str, str], subprotocols: Iterable[str] = ()) -> Reply | None:
        """Return the refusal of a request without the right token, or None."""
        if self._digest is None:
            return None
        given = [headers.get("X-MBX-APIKEY")]  # where clients of the exchange put their key
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        given += [
            name.removeprefix(_BEARER_SUBPROTOCOL) for name in subprotocols if name.startswith(_BEARER_SUBPROTOCOL)
        ]
        if any(text is not None and hmac.compare_digest(_digest(text), self._digest) for text in given):
            return None
        if self._session is not None and hmac.compare_digest(_cookie(headers).encode(), self._session.encode()):
            return None
        return error_reply(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    @property
    def cookie(self) -> str:
        """The Set-Cookie of a page that has shown the token: no script reads it, no other site sends it along."""
        assert self._session is not None
        secure = "; Secure" if self._is_tls else ""
        return f"{COOKIE}={self._session}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _digest(text: str) -> bytes:
    """Return what is compared: of one length, so that the time says nothing about the token's."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("Cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


@lru_cache(HOSTS_KEPT)
def _name_of(host: str | None) -> str | None:
    """Return the name in a Host header, without the port; None for a text that is none."""
    if host is None:
        return None
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", host)
    return None if match is None else match[1].lower().rstrip(".")


@lru_cache(HOSTS_KEPT)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
