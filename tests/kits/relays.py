"""What may stand between a client and an exchange: TLS, and proxies. Real sockets on loopback, a thread each."""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from loopback_exchange import PATIENCE_S

Greet = Callable[["Relay", socket.socket], bool]


class Relay:
    """Takes connections, says what a proxy says, and passes everything on to one place.

    Args:
        target: base URI of the server that everybody is led to, wherever they wanted to go.
        greet: what is said first, to a client; False ends the connection.
        tls: what TLS is ended with here, if it is.
    """

    def __init__(self, target: str, greet: Greet | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.wanted: list[str] = []
        """Where clients wanted to go, as they told the proxy."""
        self._target = urlsplit(target)
        self._greet = greet
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="relay", daemon=True)]
        self._is_ended = False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._is_ended = True
            for sock in (self._listener, *self._sockets):
                _hang_up(sock)
        for thread in self._threads:  # the first one, which starts the others, ends first
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(sock,), name="relay", daemon=True))
                self._threads[-1].start()

    def _keep(self, sock: socket.socket) -> socket.socket:
        """Remember a socket that the end shall reach; raise if this is the end."""
        with self._lock:
            if self._is_ended:
                sock.close()
                raise OSError("the relay has ended")
            self._sockets.add(sock)
        return sock

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            sock.settimeout(PATIENCE_S)
            here = sock = stack.enter_context(self._keep(sock))
            if self._tls is not None:
                here = stack.enter_context(self._keep(self._tls.wrap_socket(sock, server_side=True)))
            if self._greet is not None and not self._greet(self, here):
                return
            target = (self._target.hostname, self._target.port)
            _pump(here, stack.enter_context(self._keep(socket.create_connection(target, PATIENCE_S))))


def _pump(here: socket.socket, there: socket.socket) -> None:
    """Pass on what comes, both ways, until either end hangs up. One thread: TLS sockets cannot do with two."""
    while True:
        has_more = isinstance(here, ssl.SSLSocket) and here.pending()
        for sock in [here] if has_more else select.select([here, there], [], [])[0]:
            data = sock.recv(65_536)
            if not data:
                return
            (there if sock is here else here).sendall(data)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's own, which is for the thread that reads


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise OSError("the client hung up")
        data += part
    return data


def socks5(relay: Relay, sock: socket.socket) -> bool:
    """Greet as a SOCKS 5 proxy (RFC 1928, without a password)."""
    _exactly(sock, _exactly(sock, 2)[1])
    sock.sendall(b"\x05\x00")
    kind = _exactly(sock, 4)[3]
    host = _exactly(sock, 4 if kind == 1 else _exactly(sock, 1)[0])
    (port,) = struct.unpack(">H", _exactly(sock, 2))
    relay.wanted.append(f"{socket.inet_ntoa(host) if kind == 1 else host.decode()}:{port}")
    sock.sendall(b"\x05\x00\x00\x01\0\0\0\0\0\0")
    return True


def http_tunnel(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Greet:
    """Return how an HTTP proxy answers CONNECT."""

    def greet(relay: Relay, sock: socket.socket) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _exactly(sock, 1)
        relay.wanted.append(head.decode("latin-1").split("\r\n")[0])
        sock.sendall(answer)
        return b" 200 " in answer

    return greet


def say_nothing(relay: Relay, sock: socket.socket) -> bool:
    """Stall until the client hangs up."""
    while sock.recv(65_536):
        pass
    return False
