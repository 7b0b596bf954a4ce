"""Sockets that are connected to a host by whichever of its addresses answers first.

Rule 1: when an address is tried is decided by `ldc.network.addresses`; here are the sockets and the clock.
Rule 2: everything after the name server ends at one deadline, for all addresses together.
Rule 3: what has failed is remembered for the whole process, in one memory.

Several attempts may be under way for a moment. All but the first that succeeds are closed before anything is sent, so
the exchange sees one connection.
"""

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from ldc.network.addresses import Address, AddressMemory, Attempts
from ldc.network.proxy import Proxy
from ldc.network.text import printable

TUNNEL_HEAD_BYTES_MAX = 16 * 1024
"""A proxy that answers CONNECT with a longer head is refused."""

_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 10035)})

# What is small goes out at once. A router that forgets silent connections is reminded, and a dead peer is noticed.
_OPTIONS = [
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    )
    if hasattr(socket, name)
]

_memory = AddressMemory()
_memory_lock = threading.Lock()


class ProxyFailed(OSError):
    """The proxy cannot be reached, refuses, or does not answer. The text names it, without user and password."""


def forget_addresses() -> None:
    """Forget which addresses have failed, and in a forked child who held the lock."""
    global _memory, _memory_lock  # noqa: PLW0603 - in the child it may be held by nobody
    _memory_lock = threading.Lock()
    _memory = AddressMemory()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_addresses)


class HasPeer(Protocol):
    """A socket, or what does TLS on one."""

    def getpeername(self) -> Any:
        """Return the address of the other end."""


def peer_of(sock: HasPeer) -> tuple[str, int] | None:
    """Return the address that a socket is connected to, for `mark_failed`; None if it is not connected."""
    try:
        name = sock.getpeername()
    except (OSError, ValueError):
        return None
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def mark_failed(peer: tuple[str, int] | None) -> None:
    """Begin with another address next time, where there is one: a connection to this one has failed."""
    if peer is not None:
        with _memory_lock:
            _memory.failed(peer, time.monotonic())


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a socket that is connected to a host, blocking with `timeout_s` for each call.

    The name server is waited for as long as the system does. Raises ``socket.gaierror`` for a host without an address,
    ``TimeoutError`` if none answers in time, and ``OSError`` of the last address otherwise.
    """
    addresses = _resolved(host, port)
    sock = _connect_to_any(addresses, host, time.monotonic() + timeout_s)
    sock.settimeout(timeout_s)
    return sock


def reachable_host(host: str, port: int, timeout_s: float) -> str:
    """Return a host as it is, or where it has several addresses the one that takes connections.

    For a library that tries only the first one. Raises as `connect` does.
    """
    addresses = _resolved(host, port)
    if len(addresses) == 1:
        return host
    with _connect_to_any(addresses, host, time.monotonic() + timeout_s) as sock:
        return str(sock.getpeername()[0])


def _resolved(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM)
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
    with _memory_lock:
        return _memory.ordered([Address(family, place) for family, _, _, _, place in found], time.monotonic())


def _connect_to_any(addresses: Sequence[Address], host: str, deadline: float) -> socket.socket:
    attempts = Attempts(addresses, time.monotonic())
    sockets: dict[Address, socket.socket] = {}
    errors: list[str] = []
    last_error: OSError | None = None
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        stack.callback(_close_all, sockets)
        while not attempts.is_over:
            now = time.monotonic()
            if now >= deadline:
                break
            address = attempts.begin(now)
            if address is not None:
                try:
                    sockets[address] = _begin(address)
                    selector.register(sockets[address], selectors.EVENT_WRITE, address)
                except OSError as error:
                    attempts.failed(address, time.monotonic())
                    last_error = _noted(address, error, errors)
                    continue
            for key, _ in selector.select(max(0.0, min(deadline, attempts.next_at) - time.monotonic())):
                address, sock = key.data, sockets[key.data]
                selector.unregister(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    _remember(worked=address, failed=attempts.overtaken_by(address))
                    return sockets.pop(address)
                sockets.pop(address).close()
                attempts.failed(address, time.monotonic())
                last_error = _noted(address, OSError(code, os.strerror(code)), errors)
    _remember(worked=None, failed=attempts.pending)
    if attempts.is_over and last_error is not None:
        if len(addresses) == 1:
            raise last_error
        raise OSError(last_error.errno, f"none of {len(addresses)} addresses: {'; '.join(errors)}")
    who = f"none of {len(addresses)} addresses of {host}" if len(addresses) > 1 else f"nobody at {host}"
    said = f" ({'; '.join(errors)})" if errors else ""
    raise TimeoutError(errno.ETIMEDOUT, f"{who} answered in time{said}")


def _close_all(sockets: dict[Address, socket.socket]) -> None:
    for sock in sockets.values():
        sock.close()


def _begin(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    for option in _OPTIONS:
        with contextlib.suppress(OSError):  # the socket works without
            sock.setsockopt(*option)
    sock.setblocking(False)
    code = sock.connect_ex(address.place)
    if code not in _UNDER_WAY:
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def _noted(address: Address, error: OSError, errors: list[str]) -> OSError:
    errors.append(f"{address.key[0]}: {error.strerror or error}")
    _remember(worked=None, failed=[address])
    return error


def _remember(worked: Address | None, failed: Sequence[Address]) -> None:
    now = time.monotonic()
    with _memory_lock:
        for address in failed:
            _memory.failed(address.key, now)
        if worked is not None:
            _memory.worked(worked.key)


def open_tunnel(sock: socket.socket, host: str, port: int, proxy: Proxy, timeout_s: float) -> None:
    """Ask an HTTP proxy, to which the socket is connected, to connect it to a host. Raises `ProxyFailed`.

    Reads nothing that follows the head of the answer.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: {proxy.credentials}")
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head = _head(sock, time.monotonic() + timeout_s)
    except TimeoutError as error:
        raise ProxyFailed(f"the proxy {proxy} does not answer CONNECT {target}") from error
    except OSError as error:
        raise ProxyFailed(f"the proxy {proxy} failed at CONNECT {target}: {printable(error)}") from error
    status = bytes(head.split(b"\r\n", 1)[0]).decode("latin-1")
    words = status.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].startswith("2"):
        hint = "; check user and password" if words[1:2] == ["407"] else ""
        raise ProxyFailed(f"the proxy {proxy} refuses CONNECT {target}: {printable(status, 100)}{hint}")


def _head(sock: socket.socket, deadline: float) -> bytes:
    """Return the head of an answer. Byte by byte, because what follows it is not ours to take."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        if time.monotonic() > deadline:
            raise TimeoutError
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError("it closed the connection")
        head += byte
        if len(head) > TUNNEL_HEAD_BYTES_MAX:
            raise OSError(f"its answer has a head of more than {TUNNEL_HEAD_BYTES_MAX} bytes")
    return bytes(head)
