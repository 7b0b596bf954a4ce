"""A loopback server that does what a script says, byte by byte: for answers that no well-behaved server gives."""

import contextlib
import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

SNAPSHOT = b'{"lastUpdateId":1027024,"bids":[["4.00000000","431.00000000"]],"asks":[["4.00000200","12.00000000"]]}'

# A key and a certificate for 127.0.0.1 that nobody trusts and that guard nothing.
LOOPBACK_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVfN7rKfibPkpXN0e
RiEydS+yQ25A/IB58TSoDu/S9SGhRANCAAQfoMPjUF0Vvtlx/pmAvYyZC/AQwD9B
vo0mjPDseKagKxfdTNmMGmVugo1e228Oo6LEL8fDhJm2zfzWYLK1ZM20
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBbDCCARKgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAkxMjcuMC4w
LjEwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CTEyNy4wLjAuMTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABB+gw+NQXRW+2XH+
mYC9jJkL8BDAP0G+jSaM8Ox4pqArF91M2YwaZW6CjV7bbw6josQvx8OEmbbN/NZg
srVkzbSjUzBRMA8GA1UdEQQIMAaHBH8AAAEwDwYDVR0TAQH/BAUwAwEB/zAdBgNV
HQ4EFgQUKC097ofKRMvRRSsCAuaVUUYHJwIwDgYDVR0PAQH/BAQDAgGGMAoGCCqG
SM49BAMCA0gAMEUCIQCBa1akRvEPSX2BgLKc6Bg1MJsXk8P09+FHaYJilI51SwIg
bDRpDE3OsCahDHzt/eb/30pgbcGny3Q8NRZ/hfFL2KY=
-----END CERTIFICATE-----
"""


def reply(body: bytes = SNAPSHOT, status: str = "200 OK", **headers: object) -> bytes:
    """Return an answer. Keyword arguments are headers, with _ for -; `Content_Length=None` leaves that out."""
    fields = {"Content_Length": len(body)} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


class Talk:
    """One connection, from the server's side."""

    def __init__(self, server: "ScriptedServer", sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self._unread = b""

    def read_head(self) -> str | None:
        """Return the next request's head, None if the client hung up."""
        while b"\r\n\r\n" not in self._unread:
            received = self.sock.recv(65536)
            if not received:
                return None
            self._unread += received
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        self.server.heads.append(head.decode())
        return head.decode()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hold(self) -> None:
        """Say nothing more until the client hangs up."""
        self.server.is_held.set()
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.server.was_hung_up.set()

    def trickle(self, piece: bytes) -> None:
        """Send something again and again, each time soon enough for a timeout of reads, until the client hangs up."""
        self.server.is_held.set()
        with contextlib.suppress(OSError):
            while not self.server.is_closing.wait(0.01):
                self.sock.sendall(piece)
        self.server.was_hung_up.set()

    def reset(self) -> None:
        """End the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def hang_up(self) -> None:
        """End the connection; may be called from another thread."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown(), which is for the thread that reads.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_side=True)


Script = Callable[[Talk], None]


def always(answer: bytes) -> Script:
    """Give this answer to every request."""
    return in_turn(answer)


def in_turn(*answers: bytes) -> Script:
    """Give these answers in turn, whichever connection asks; the last one again and again."""
    numbers = itertools.count()

    def script(talk: Talk) -> None:
        while talk.read_head() is not None:
            talk.send(answers[min(next(numbers), len(answers) - 1)])

    return script


def once(answer: bytes, then: Callable[[Talk], None] | None = None) -> Script:
    """Read a request, give the answer, and do what comes then; afterwards close the connection."""

    def script(talk: Talk) -> None:
        if talk.read_head() is not None:
            talk.send(answer)
            if then is not None:
                then(talk)

    return script


class ScriptedServer:
    """Serves each connection in a thread of its own, by its script."""

    def __init__(
        self,
        script: Script,
        scheme: str = "http",
        folder: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.heads: list[str] = []
        self.connections = 0
        self.is_held = threading.Event()
        self.was_hung_up = threading.Event()
        self.is_closing = threading.Event()
        self._script = script
        self._tls = tls_context(folder) if folder is not None else None
        self._listener = socket.create_server((host, port))
        self._listener.settimeout(0.01)
        self._talks: list[Talk] = []
        self._threads: list[threading.Thread] = []
        self.port = self._listener.getsockname()[1]
        self.base_uri = f"{scheme}://{host}:{self.port}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def close(self) -> None:
        self.is_closing.set()
        self._acceptor.join()
        for talk in self._talks:
            talk.hang_up()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with self._listener:
            while not self.is_closing.is_set():
                try:
                    sock, _ = self._listener.accept()
                except TimeoutError:
                    continue
                sock.setblocking(True)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                talk = Talk(self, sock)
                self._talks.append(talk)
                thread = threading.Thread(target=self._serve, args=(talk,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, talk: Talk) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                talk.start_tls(self._tls)
            self._script(talk)
        talk.hang_up()
        talk.sock.close()


def tls_context(folder: Path) -> ssl.SSLContext:
    pem = folder / "loopback.pem"
    pem.write_text(LOOPBACK_PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
