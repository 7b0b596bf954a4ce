"""The sockets of the embedded exchange: one thread, one event loop, one port for REST and websockets.

Rule 1: everything with a socket happens in this thread. Other threads post work to it with `call`.
Rule 2: markets are ticked at their times, late ones too. A market that is more than a second late skips windows, which
    are counted.
"""

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

from aiohttp import web

from ldc.simulator.connection import MESSAGE_BYTES_MAX, Connection, ConnectionTiming
from ldc.simulator.faults import Fault, PendingFaults, Place, kind_of
from ldc.simulator.limits import RollingCount
from ldc.simulator.markets import Markets, RunningMarket
from ldc.simulator.rest import Reply, Rest
from ldc.simulator.script import Script
from ldc.venues import Venue
from ldc.wire.control import Subscriptions
from ldc.wire.families import Family
from ldc.wire.streams import StreamName, parse_stream, requested_streams

Result = TypeVar("Result")

BEHIND_S_MAX = 1.0
"""Seconds; a market that is later skips the missed windows and continues from now."""

TICK_GROUPS = 10
"""Groups in which markets are ticked, evenly spread over an interval: fewer wake-ups, and fuller writes."""

CONNECT_SPAN_S = 300.0
"""Seconds in which connection attempts are limited."""

STOP_S = 5.0
"""Seconds that `stop` waits for the thread."""

CALL_S_MAX = 60.0
"""Seconds that other threads wait for `call`; ``TimeoutError`` after that, because the exchange is being stopped."""

PORTS_REFUSED_MAX = 100
"""Tries to get a port that no exchange of this process has had; after them a used one is taken."""

# Clients remember an address: the weight that they spent, and the pause after a ban. A new exchange at the same port
# would inherit both.
_ports_had: set[int] = set()


class Server:
    """Serves markets until it is stopped."""

    def __init__(
        self,
        family: Family,
        venue: Venue,
        markets: Markets,
        rest: Rest,
        timing: ConnectionTiming,
        interval_s: float,
        script: Script | None = None,
    ) -> None:
        self.port = 0
        self.counts: Counter[str] = Counter()
        self.late_s_max = 0.0
        self._family, self._venue, self._markets, self._rest = family, venue, markets, rest
        self._timing, self._interval_s, self._script = timing, interval_s, script
        self._faults: PendingFaults = markets.faults
        self._connections: dict[Connection, dict[str, StreamName]] = {}
        self._connects = RollingCount(venue.connects_per_5_minutes, CONNECT_SPAN_S)
        self._due: list[tuple[float, int, RunningMarket]] = []
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------ from other threads

    def start(self, host: str, port: int) -> None:
        """Open the port (0: any free one) and serve, in a thread of its own. Raises what opening raises."""
        self._started.clear()
        self._thread = threading.Thread(target=self._run, args=(host, port), name="ldc-simulator", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            failure, self._failure = self._failure, None
            raise failure

    def stop(self) -> None:
        """Abort all connections and end the thread. Raises ``RuntimeError`` if it had failed before."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None:
            return
        if loop is not None and stopping is not None and thread.is_alive():
            loop.call_soon_threadsafe(stopping.set)
        thread.join(STOP_S)
        self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RuntimeError("the embedded exchange had failed") from failure

    def call(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the thread of the event loop and return its result; in this thread if nothing is served."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive() or thread is threading.current_thread():
            return work()

        async def run() -> Result:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), loop).result(CALL_S_MAX)

    def refuse_connections(self) -> None:
        """Listen no longer. Connections that there are go on."""
        runner = self._runner
        assert runner is not None
        for site in list(runner.sites):
            asyncio.run_coroutine_threadsafe(site.stop(), self._running_loop).result(CALL_S_MAX)

    def call_soon(self, work: Callable[[], object]) -> None:
        """Run something in the thread of the event loop, some time after this call; never, once that has ended."""
        with contextlib.suppress(RuntimeError):
            self._running_loop.call_soon_threadsafe(work)

    @property
    def sockets_open(self) -> int:
        """How many TCP connections are open, websockets and idle ones included."""
        return self.call(lambda: len(self._runner.server.connections) if self._runner and self._runner.server else 0)

    @property
    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the embedded exchange is not started")
        return self._loop

    # ------------------------------------------------------------------------------------------ the thread

    def _run(self, host: str, port: int) -> None:
        try:
            asyncio.run(self._serve(host, port))
        except Exception as error:  # noqa: BLE001 - `start` or `stop` raises it
            self._failure = error
        finally:
            self._loop = self._stopping = None
            self._started.set()

    async def _serve(self, host: str, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            self.port = await _listen(runner, host, port)
            ticking = self._loop.create_task(self._tick_markets())
            self._started.set()
            stopping = self._loop.create_task(self._stopping.wait())
            await asyncio.wait({ticking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            ticking.cancel()
            for connection in list(self._connections):
                connection.abort()
            if not ticking.cancelled() and ticking.done():
                ticking.result()  # raises, because only an error ends it
        finally:
            await runner.cleanup()

    # ------------------------------------------------------------------------------------------ markets

    async def _tick_markets(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            self._add_started(now)
            while self._due and self._due[0][0] <= now:
                due, number, running = self._due[0]
                self.late_s_max = max(self.late_s_max, now - due)
                next_due = due + self._interval_s
                if next_due < now - BEHIND_S_MAX:
                    self.counts["ticks_skipped"] += int((now - next_due) / self._interval_s)
                    next_due = now
                heapq.heapreplace(self._due, (next_due, number, running))
                if not running.is_paused:
                    self.tick(running)
            self._flush()
            wait_s = self._due[0][0] - loop.time() if self._due else self._interval_s
            # A market that starts meanwhile is added within an interval.
            await asyncio.sleep(min(max(0.0, wait_s), self._interval_s))

    def _add_started(self, now: float) -> None:
        with self._markets.lock:
            started, self._markets.started[:] = list(self._markets.started), []
        for running in started:
            number = next(self._numbers)
            offset_s = self._interval_s * (number % TICK_GROUPS) / TICK_GROUPS
            heapq.heappush(self._due, (now + offset_s, number, running))

    def tick(self, running: RunningMarket) -> bool:
        """Trade in a market to the end of a window and send its messages; return whether anything changed."""
        has_changed, outgoing = self._markets.tick(running, time.monotonic())
        self.counts["ticks"] += 1
        self.counts["updates"] += has_changed
        for connection, frame in outgoing:
            if frame and Place.CONNECTION in self._faults.places:
                fault = self._faults.take(Place.CONNECTION, running.market.listing.symbol)
                if fault is not None:
                    connection.inject(fault)
            connection.send(frame)
            self.counts["frames_sent"] += bool(frame)
        return has_changed

    def advance(self, running: RunningMarket, updates: int) -> int:
        """Tick a market until that many updates have changed it; return the last update id."""
        while updates > 0:
            updates -= self.tick(running)
            if running.status(time.monotonic()) != "TRADING":
                raise RuntimeError(f"{running.market.listing.symbol} is halted and cannot be advanced")
        self._flush()
        return running.market.sent_update_id

    def _flush(self) -> None:
        for connection in self._connections:
            connection.flush()

    # ------------------------------------------------------------------------------------------ requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.path)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._handle_websocket(request, path)
        self.counts["requests"] += 1

        def usual(replaced: Reply | None) -> Reply:
            return self._rest.answer(request.method, path, request.query, request.remote or "", replaced)

        reply = usual(None) if self._script is None else await self._script.rest(request, usual)
        self.counts[f"status_{reply.status}"] += 1
        if self._timing.latency_s or reply.delay_s:
            await asyncio.sleep(self._timing.latency_s + reply.delay_s)
        if reply.is_cut or reply.announced_bytes is not None or reply.hold is not None:
            return await self._in_parts(request, reply)
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    @staticmethod
    async def _in_parts(request: web.Request, reply: Reply) -> web.StreamResponse:
        """Send the head, then the body or half of it; a body that is not what was announced ends the connection."""
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        body = reply.body[: len(reply.body) // 2] if reply.is_cut else reply.body
        response.content_length = len(reply.body) if reply.announced_bytes is None else reply.announced_bytes
        await response.prepare(request)
        if reply.hold is not None:
            await reply.hold()
        await response.write(body)
        if response.content_length != len(body) and request.transport is not None:
            request.transport.close()
        return response

    async def _handle_websocket(self, request: web.Request, path: str) -> web.StreamResponse:
        names, is_combined = requested_streams(self._family, path, request.query)
        if names is None:
            return web.Response(status=404)
        loop = asyncio.get_running_loop()
        self.counts["connects"] += 1
        if not self._connects.admits(loop.time()):
            return web.Response(status=429, headers={"Retry-After": str(int(CONNECT_SPAN_S))})
        fault = self._faults.take(Place.HANDSHAKE, None)
        if fault is not None and fault.name == "refused_handshake":
            return web.Response(status=503)
        await asyncio.sleep(self._timing.latency_s + (fault.lasts_s if fault is not None else 0.0))
        transport = request.transport
        if transport is None:
            return web.Response(status=400)  # the client has gone
        microseconds = self._family.name == "spot" and request.query.get("timeUnit", "").upper() == "MICROSECOND"
        subscriptions = Subscriptions(is_combined, microseconds, self._venue.streams_per_connection)
        changed, script = self._subscriptions_changed, self._script
        connection = Connection(transport, self._family, self._timing, subscriptions, self._faults, changed, script)
        try:
            return await self._serve_websocket(request, connection, names)
        finally:
            if self._script is not None:
                self._script.ended(connection)

    async def _serve_websocket(
        self, request: web.Request, connection: Connection, names: list[str]
    ) -> web.StreamResponse:
        if self._script is not None:
            instead = await self._script.handshake(connection, request)
            if instead is not None:
                connection.send_raw(instead)
                connection.end()
                return web.Response()  # aiohttp finds the transport closing, and says nothing more
        websocket = web.WebSocketResponse(
            autoping=False, autoclose=False, compress=False, max_msg_size=MESSAGE_BYTES_MAX, timeout=0.1
        )
        await websocket.prepare(request)
        self._connections[connection] = {}
        if self._script is not None:
            self._script.opened(connection)
        try:
            if connection.subscriptions.add(names):
                self._subscriptions_changed(connection)
                await connection.serve(websocket)
            else:
                connection.close(1008, "Too many streams")
                await connection.serve(websocket)
        finally:
            for name in self._connections.pop(connection).values():
                self._markets.remove_listener(name, connection)
        return websocket

    def _subscriptions_changed(self, connection: Connection) -> None:
        """Add and remove the connection's listeners, so that they match its subscriptions."""
        current, wanted = self._connections[connection], connection.subscriptions.streams
        for name in [name for name in current if name not in wanted]:
            self._markets.remove_listener(current.pop(name), connection)
        for name in wanted:
            if name not in current:
                stream = parse_stream(self._family, self._venue, name)
                if stream is not None:
                    current[name] = stream
                    self._markets.add_listener(stream, connection)
        if Place.CONNECTION in self._faults.places:
            self.inject_into_connections()

    def inject_into_connections(self) -> None:
        """Fire the pending faults without a probability on the open connections, oldest first."""
        for connection, streams in list(self._connections.items()):
            symbols: list[str | None] = [*dict.fromkeys(name.symbol for name in streams.values())]
            for symbol in symbols or [None]:
                fault = self._faults.take(Place.CONNECTION, symbol, certain_only=True) if connection.is_open else None
                if fault is not None:
                    connection.inject(fault)
                    break

    def inject(self, fault: Fault) -> None:
        """Add a fault. One of a connection fires now, others at their next occasion."""
        self._faults.add(fault)
        if kind_of(fault.name).place is Place.CONNECTION:
            self.inject_into_connections()

    @property
    def connection_count(self) -> int:
        """How many websockets are open."""
        return len(self._connections)


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Open the port, for port 0 a free one that is new, and return its number."""
    refused: list[web.TCPSite] = []
    while True:
        before = len(runner.addresses)
        site = web.TCPSite(runner, host, port, backlog=512)
        await site.start()
        opened: int = runner.addresses[before][1]
        if port or opened not in _ports_had or len(refused) == PORTS_REFUSED_MAX:
            break
        refused.append(site)  # stays open until another is found, or the system would return it again
    for old in refused:
        await old.stop()
    _ports_had.add(opened)
    return opened
