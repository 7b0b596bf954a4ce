"""The other end of `bench_socket`: a process that speaks just enough of the protocol, and sends when it is told to."""

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import sys
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests" / "kits"


def serve(pipe: Pipe, data: bytes, folder: Path | None) -> None:
    """Serve one connection after the other: on "go" send everything, on "end" end.

    Args:
        pipe: told the port first; then it says "go" or "end".
        data: frames, ready to be sent.
        folder: where to put the certificate, if TLS is wanted.
    """
    tls = None
    if folder is not None:
        sys.path.append(str(TESTS))
        from scripted_server import tls_context

        tls = tls_context(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        listener.settimeout(0.05)
        while True:
            if pipe.poll() and pipe.recv() == "end":
                return
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            with contextlib.suppress(OSError):
                _serve_one(sock, pipe, data, tls)
            sock.close()


def _serve_one(sock: socket.socket, pipe: Pipe, data: bytes, tls: ssl.SSLContext | None) -> None:
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    talk = tls.wrap_socket(sock, server_side=True) if tls is not None else sock
    head = b""
    while b"\r\n\r\n" not in head:
        head += talk.recv(4096)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    digest = hashlib.sha1(key.split(b":")[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    talk.sendall(answer + base64.b64encode(digest) + b"\r\n\r\n")
    if b"ldc benchmark" in head:
        reply = json.dumps({"result": None, "id": _request_number(talk)}).encode()
        talk.sendall(bytes([0x81, len(reply)]) + reply)
    if pipe.recv() == "go":
        talk.sendall(data)
        while talk.recv(4096):  # until the client has had enough
            pass


def _request_number(talk: socket.socket) -> int:
    """Read one masked frame of a client, and return the id of the request in it."""
    received = b""
    while True:
        received += talk.recv(4096)
        size = received[1] & 127 if len(received) > 1 else 0
        start = {126: 4, 127: 10}.get(size, 2)
        if len(received) < start + 4:
            continue
        length = int.from_bytes(received[2:start], "big") if start > 2 else size
        if len(received) >= start + 4 + length:
            mask = received[start : start + 4]
            body = bytes(byte ^ mask[place % 4] for place, byte in enumerate(received[start + 4 : start + 4 + length]))
            return int(json.loads(body)["id"])
