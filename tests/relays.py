"""What may stand between a client and an exchange: TLS, and proxies. One thread each, real sockets on loopback."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Greet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._tasks: set[asyncio.Task] = set()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_error: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, what: Awaitable) -> object:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        others: list[asyncio.StreamWriter] = [writer]
        try:
            if self._greet is None or await self._greet(reader, writer):
                there = await asyncio.open_connection(self._target.hostname, self._target.port)
                others.append(there[1])
                await asyncio.wait(
                    [
                        asyncio.ensure_future(_pump(reader, there[1])),
                        asyncio.ensure_future(_pump(there[0], writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in others:
                each.transport.abort()
                with contextlib.suppress(OSError):
                    await each.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


def socks5(relay: "list[Relay]") -> Greet:
    """Return how a SOCKS 5 proxy greets (RFC 1928, without a password). The list will hold the relay."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        writer.write(b"\x05\x00")
        _, _, _, kind = await reader.readexactly(4)
        length = 4 if kind == 1 else (await reader.readexactly(1))[0]
        host = await reader.readexactly(length)
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        relay[0].wanted.append(f"{socket.inet_ntoa(host) if kind == 1 else host.decode()}:{port}")
        writer.write(b"\x05\x00\x00\x01\0\0\0\0\0\0")
        return True

    return greet


def http_tunnel(relay: "list[Relay]", answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Greet:
    """Return how an HTTP proxy answers CONNECT. The list will hold the relay."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        relay[0].wanted.append(head.split("\r\n")[0])
        writer.write(answer)
        await writer.drain()
        return b" 200 " in answer

    return greet
