"""The exchange's side of every benchmark that has a socket: one thread, blocking writes, no more protocol than needed.

It runs in a process of its own. The embedded exchange (`ldc.simulator`) would do, and would take a good part of the
processor that the clients share with it: a benchmark must not measure the sender. What is sent, and when, is the
caller's: `bench_socket` (all at once), `bench_scale` (a schedule), `bench_loopback` (a recording, with REST).
"""

import base64
import contextlib
import hashlib
import json
import re
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

sys.path.append(str(Path(__file__).parent.parent / "tests" / "kits"))

from wire_frames import CLOSE, PING, PONG, TEXT, frame

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %b\r\n"
    b"X-MBX-USED-WEIGHT: 10\r\nX-MBX-USED-WEIGHT-1M: 10\r\nContent-Length: %d\r\n\r\n"
)
UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)

Answer = Callable[[str, dict[str, str]], bytes]


class Client:
    """One TCP connection: REST, until a handshake makes it a websocket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = b""
        self.is_websocket = self.is_combined = False
        self.streams: set[str] = set()

    def read(self) -> bytes:
        """Return what there is to read; nothing at the end."""
        found = self.socket.recv(65_536)
        while found and isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            found += self.socket.recv(65_536)
        return found


class Sender:
    """A server on a free port of this machine.

    Args:
        answer: the body for a path and a query; None: there is no REST.
        tls: what TLS is spoken with, if it is.
    """

    def __init__(self, answer: Answer | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.websockets: list[Client] = []
        # Not epoll, whose time-outs are whole milliseconds.
        self._selector = selectors.SelectSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def listeners_of(self, stream: str) -> list[Client]:
        """Return the websockets that have subscribed a stream."""
        return [client for client in self.websockets if stream in client.streams]

    def order(self, pipe: Pipe) -> Any:
        """Serve until an order comes by the pipe, and return it; None at the end of the pipe."""
        self._selector.register(pipe, selectors.EVENT_READ)
        while not pipe.poll():
            self.serve()
        self._selector.unregister(pipe)
        with contextlib.suppress(EOFError):
            return pipe.recv()
        return None

    def serve_until(self, moment: float) -> None:
        """Serve until the monotonic clock has come so far."""
        while (wait_s := moment - time.monotonic()) > 0:
            self.serve(wait_s)

    def serve(self, wait_s: float | None = None) -> None:
        """Do what has come, and wait at most so long for it; None: for ever."""
        for key, _ in self._selector.select(wait_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, Client):
                self._take(key.data)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._selector.register(sock, selectors.EVENT_READ, Client(sock))

    def _take(self, client: Client) -> None:
        try:
            more = client.read()
            client.received += more
            is_over = not more or not (self._frames(client) if client.is_websocket else self._requests(client))
        except OSError:
            is_over = True
        if is_over:
            if client.is_websocket:
                self.websockets.remove(client)
            self._selector.unregister(client.socket)
            client.socket.close()

    def _requests(self, client: Client) -> bool:
        """Answer the requests that are all there; return False for the end of the connection."""
        while b"\r\n\r\n" in client.received:
            head, _, client.received = client.received.partition(b"\r\n\r\n")
            target = urlsplit(head.split(b" ", 2)[1].decode())
            key = re.search(rb"(?im)^sec-websocket-key:\s*(\S+)", head)
            if key is not None:
                digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
                client.socket.sendall(UPGRADE % base64.b64encode(digest))
                wanted = parse_qs(target.query).get("streams", [""])[0] or unquote(target.path.partition("/ws")[2])
                client.streams.update(filter(None, wanted.split("/")))
                client.is_websocket, client.is_combined = True, target.path.endswith("/stream")
                self.websockets.append(client)
                return self._frames(client)
            if self._answer is None:
                return False
            body = self._answer(target.path, {name: values[0] for name, values in parse_qs(target.query).items()})
            client.socket.sendall(HEAD % (formatdate(usegmt=True).encode(), len(body)) + body)
        return True

    @staticmethod
    def _frames(client: Client) -> bool:
        """Answer the frames that are all there; return False for the end of the connection."""
        while (taken := _first_frame(client.received)) is not None:
            opcode, payload, client.received = taken
            if opcode == PING:
                client.socket.sendall(frame(payload, PONG))
            elif opcode == CLOSE:
                client.socket.sendall(frame(payload, CLOSE))
                return False
            elif opcode == TEXT:
                request = json.loads(payload)
                is_more = request["method"] == "SUBSCRIBE"
                (client.streams.update if is_more else client.streams.difference_update)(request["params"])
                client.socket.sendall(frame(json.dumps({"result": None, "id": request["id"]}).encode()))
        return True


def _first_frame(received: bytes) -> tuple[int, bytes, bytes] | None:
    """Return opcode and payload of a client's first frame and what comes after it; None if it is not all there."""
    if len(received) < 2:
        return None
    size, start = received[1] & 127, 2
    if size > 125:
        start = 4 if size == 126 else 10
        size = int.from_bytes(received[2:start], "big")
    end = start + 4 + size
    if len(received) < end:
        return None
    mask = received[start : start + 4] * (size // 4 + 1)
    payload = bytes(one ^ other for one, other in zip(mask, received[start + 4 : end], strict=False))
    return received[0] & 15, payload, received[end:]


def tls_in(folder: Path | None) -> ssl.SSLContext | None:
    """Return what TLS is spoken with; its certificate is put into the folder. None: no folder, no TLS."""
    if folder is None:
        return None
    from scripted_server import tls_context

    return tls_context(folder)


def serve(pipe: Pipe, data: bytes, folder: Path | None) -> None:
    """Tell the port; on each "go" send everything to the websocket that was opened last; on anything else end.

    Args:
        pipe: told the port first; then it says "go" or "end".
        data: frames, ready to be sent.
        folder: where to put the certificate, if TLS is wanted.
    """
    sender = Sender(tls=tls_in(folder))
    pipe.send(sender.port)
    while sender.order(pipe) == "go":
        with contextlib.suppress(OSError):  # the client has had enough
            sender.websockets[-1].socket.sendall(data)
