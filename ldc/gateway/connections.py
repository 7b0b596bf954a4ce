"""TCP connections: how many there may be, and by when each must have sent or read what.

aiohttp reads requests and waits for them without end. So each of its protocols is wrapped in one that counts, and that
has a time at which the connection is aborted unless it went on.
"""

import asyncio
from collections import Counter
from typing import Any

from ldc.gateway.limits import GatewayLimits

SWEEP_S = 0.5
"""Seconds between two looks for connections whose time is over."""

_NEVER = float("inf")


class Connections:
    """The connections of a gateway. Belongs to the thread of its event loop."""

    def __init__(self, limits: GatewayLimits, counts: Counter[str]) -> None:
        self.limits, self.counts = limits, counts
        self.loop = asyncio.get_running_loop()
        self.by_handler: dict[Any, LimitedConnection] = {}
        """By aiohttp's protocol, which requests know."""
        self._timer = self.loop.call_later(SWEEP_S, self._sweep)

    def close(self) -> None:
        """Abort all connections."""
        self._timer.cancel()
        for connection in list(self.by_handler.values()):
            connection.abort()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.by_handler.values()):
            if connection.deadline <= now:
                self.counts[connection.waits_for] += 1
                connection.abort()
        self._timer = self.loop.call_later(SWEEP_S, self._sweep)


class LimitedConnection(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol, and passes everything on."""

    __slots__ = ("_connections", "_handler", "_is_idle", "_transport", "deadline", "waits_for")

    def __init__(self, connections: Connections, handler: Any) -> None:
        self._connections, self._handler = connections, handler
        self._transport: asyncio.Transport | None = None
        self._is_idle = False
        self.deadline = _NEVER
        """When the connection is aborted, by the event loop's clock."""
        self.waits_for = "head_s"
        """The limit that is reached then."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Abort the connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)
        connections = self._connections
        if len(connections.by_handler) >= connections.limits.connections_max:
            connections.counts["connections_max"] += 1
            transport.abort()
            return
        self._transport = transport
        connections.by_handler[self._handler] = self
        connections.counts["connects"] += 1
        self._wait("head_s", connections.limits.head_s)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Note the first byte of a request."""
        if self._transport is None:
            return
        if self._is_idle:
            self._is_idle = False
            self._wait("head_s", self._connections.limits.head_s)
        self._handler.data_received(data)

    def request_begins(self) -> None:
        """Note that a whole head has arrived."""
        self._is_idle = False
        self._wait("request_s", self._connections.limits.request_s)

    def request_ends(self) -> None:
        """Note that an answer is ready. It must be read, and the next request begin, within the time of a request."""
        self._is_idle = True
        self._wait("request_s", self._connections.limits.request_s)

    def lives_on(self) -> None:
        """Note that this is a websocket or a stream of events, which ends by rules of its own."""
        self._is_idle = False
        self.deadline = _NEVER

    def _wait(self, limit: str, seconds: float) -> None:
        self.waits_for, self.deadline = limit, self._connections.loop.time() + seconds

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    # The rest is passed on as it is.

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return None if self._transport is None else self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._transport is not None:
            self._transport = None
            self._connections.by_handler.pop(self._handler, None)
            self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._transport is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._transport is not None:
            self._handler.resume_writing()
