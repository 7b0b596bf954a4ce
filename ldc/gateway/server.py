"""The sockets of the gateway: one thread, one event loop, one port."""

import asyncio
import contextlib
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

from aiohttp import web

import ldc
from ldc.gateway.access import Access, checked_token, is_loopback
from ldc.gateway.books import Books
from ldc.gateway.changes import Changes
from ldc.gateway.channels import Hub
from ldc.gateway.connections import Connections, LimitedConnection
from ldc.gateway.diffs import Diffs
from ldc.gateway.exchange_info import ExchangeInfo
from ldc.gateway.forward import Elsewhere, Forward
from ldc.gateway.limits import STOP_S, GatewayLimits
from ldc.gateway.page import Page
from ldc.gateway.rest import BinanceRest
from ldc.gateway.routes import Parts, Routes
from ldc.gateway.status import Status
from ldc.gateway.ubdcc import Ubdcc
from ldc.wire.families import rows_of

Result = TypeVar("Result")


class Gateway:
    """Serves the books of a manager to other programs, by HTTP and websockets.

    Args:
        manager: whose books are served. It is the caller's, who stops it after the gateway.
        host: the address to listen on. Another one than this machine's own demands a token.
        port: 0 is any free one.
        token: what every request must carry: ``Authorization: Bearer``. None: none, on this machine only.
        no_token: listen on another address without a token. The books are public then.
        tls_cert, tls_key: files in PEM, for https and wss.
        allowed_hosts: names by which clients address the gateway, beside localhost and IP addresses.
        read_only: refuse requests that create or stop depth caches.
        elsewhere: called with a market that the manager does not keep; returns the base URI of a gateway that has it,
            to which reads of REST are passed on, or None. It is called on the gateway's thread, and returns at once.
        limits: a `GatewayLimits`; None: the defaults.

    Raises ``ValueError`` for what is not safe. Use it as a context manager, or call `start` and `stop`. Thread-safe.
    """

    def __init__(
        self,
        manager: ldc.BinanceLocalDepthCacheManager,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        no_token: bool = False,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        allowed_hosts: Iterable[str] = (),
        read_only: bool = False,
        elsewhere: Elsewhere | None = None,
        limits: GatewayLimits | None = None,
    ) -> None:
        if token is None and not no_token and not is_loopback(host):
            raise ValueError(
                f"others than this machine reach {host}: give a token (--token-file), or say that the books are public "
                "(no_token=True, --no-token)"
            )
        if (tls_cert is None) != (tls_key is None):
            raise ValueError("TLS needs both a certificate and its key: tls_cert and tls_key")
        self._manager, self._host, self._port, self._elsewhere = manager, host, port, elsewhere
        self._token = None if token is None else checked_token(token)
        self._hosts, self.is_read_only = tuple(allowed_hosts), read_only
        self._limits = limits or GatewayLimits()
        self._tls = None
        if tls_cert is not None and tls_key is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(tls_cert, tls_key)
        self.counts: Counter[str] = Counter()
        """What has happened, by name; limits by theirs."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._parts: Parts | None = None

    # ------------------------------------------------------------------------------------------ from other threads

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen. Idempotent. Raises ``OSError`` if the port cannot be opened."""
        if self._thread is not None:
            return self
        self._started.clear()
        self._thread = threading.Thread(target=self._run, name="ldc-gateway", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread, failure, self._failure = None, self._failure, None
            raise failure
        return self

    def stop(self) -> None:
        """Abort all connections and listen no more. Idempotent. Raises ``RuntimeError`` if the server had failed."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None:
            return
        if loop is not None and stopping is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(stopping.set)
        thread.join(STOP_S)
        self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RuntimeError("the gateway had failed") from failure

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def restful_base_uri(self) -> str:
        """Such as "http://127.0.0.1:8080", without the exchange's paths; also the address of the page."""
        return f"{'http' if self._tls is None else 'https'}://{self._address}"

    @property
    def websocket_base_uri(self) -> str:
        """Such as "ws://127.0.0.1:8080"."""
        return f"{'ws' if self._tls is None else 'wss'}://{self._address}"

    @property
    def depth_path(self) -> str:
        """The path of snapshots, which is the exchange's."""
        return rows_of(self._manager.exchange)[0].depth_path

    @property
    def stream_path(self) -> str:
        """The path of combined streams, which is the exchange's."""
        return rows_of(self._manager.exchange)[0].stream_path

    @property
    def _address(self) -> str:
        if self._thread is None:
            raise RuntimeError("the gateway has no address before it is started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    def call(self, work: Callable[[Parts], Result]) -> Result:
        """Run something in the thread of the event loop and return its result. For tests and tools."""
        loop, parts = self._loop, self._parts
        if loop is None or parts is None:
            raise RuntimeError("the gateway is not started")

        async def run() -> Result:
            return work(parts)

        return asyncio.run_coroutine_threadsafe(run(), loop).result(STOP_S)

    # ------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - `start` or `stop` raises it
            self._failure = error
        finally:
            self._loop = self._stopping = self._parts = None
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        limits, started_ms = self._limits, time.time_ns() // 1_000_000
        connections = Connections(limits, self.counts)
        books = Books(self._manager)
        hub, diffs, changes = Hub(books), Diffs(books, self.counts), Changes(books, self.counts)
        rest = BinanceRest(books)
        self._parts = Parts(
            access=Access(self._token, self._hosts, self._tls is not None),
            books=books,
            hub=hub,
            diffs=diffs,
            changes=changes,
            connections=connections,
            rest=rest,
            exchange_info=ExchangeInfo(books, rest.exchange_info_path),
            status=Status(books, self.counts, started_ms),
            page=Page(),
            ubdcc=Ubdcc(books, limits, self.is_read_only, started_ms),
            forward=Forward(books, self._elsewhere),
        )
        http = web.Server(
            Routes(self._parts).handle,
            access_log=None,
            keepalive_timeout=limits.request_s * 0.8,
            max_line_size=limits.line_bytes_max,
            max_field_size=limits.head_bytes_max,
            auto_decompress=False,
            handler_cancellation=True,  # a stream of events ends with its client, not at its next sign of life
            lingering_time=0,
        )

        def make_connection() -> LimitedConnection:
            return LimitedConnection(connections, http())

        tls: dict[str, Any] = {} if self._tls is None else {"ssl_handshake_timeout": limits.handshake_s}
        server = await self._loop.create_server(
            make_connection, self._host, self._port, ssl=self._tls, backlog=512, **tls
        )
        self._port = server.sockets[0].getsockname()[1]
        try:
            self._started.set()
            await self._stopping.wait()
        finally:
            server.close()
            hub.close()
            diffs.close()
            changes.close()
            connections.close()
            await self._parts.forward.close()
            await http.shutdown(0)
