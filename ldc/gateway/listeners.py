"""Websocket clients: what waits for one, what it may send, and how it ends.

Frames are written straight to the transport. So one is encoded once for all who get it, and what waits is known.

Rule 1: a message that shows a book's latest state may be left out for a client that reads slowly; the newest follows.
Rule 2: a message that must not be missed is never left out: the client is aborted instead, and counted.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from typing import Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from ldc.gateway.limits import LINGER_S, PING_S, PONG_S, GatewayLimits
from ldc.wire.streams import CLOSE, PING, PONG, framed

_SECOND_S = 1.0
_CONTROL = WSMsgType.PING, WSMsgType.PONG


class Session(Protocol):
    """What a client's messages mean: one for each dialect."""

    def text(self, listener: "Listener", text: str) -> None:
        """Take a message."""

    def ended(self, listener: "Listener") -> None:
        """Forget the client."""


class Listener:
    """A websocket client. Belongs to the thread of the gateway's event loop."""

    __slots__ = ("_asked", "_limits", "_loop", "_pong_by", "_timer", "_transport", "counts", "is_open")

    def __init__(self, transport: asyncio.Transport, limits: GatewayLimits, counts: Counter[str]) -> None:
        self._transport, self._limits, self.counts = transport, limits, counts
        self._loop = asyncio.get_running_loop()
        self._asked: deque[float] = deque(maxlen=limits.messages_per_second)
        self._pong_by = float("inf")
        self.is_open = True

    # ------------------------------------------------------------------------------------------ out

    def send(self, frame: bytes) -> None:
        """Send a frame that must not be missed; abort the connection if too much waits."""
        if not self.is_open or self._transport.is_closing():
            return
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > self._limits.unsent_bytes_max:
            self.counts["unsent_bytes_max"] += 1
            self.abort()

    def send_latest(self, frame: bytes) -> bool:
        """Send a state of a book, unless so much waits that a newer one should be sent later; return whether it did."""
        if self._transport.get_write_buffer_size() > self._limits.conflated_bytes:
            self.counts["conflated_bytes"] += 1
            return False
        if self.is_open and not self._transport.is_closing():
            self._transport.write(frame)
        return True

    @property
    def reads(self) -> bool:
        """Whether a state may be sent to it."""
        return self._transport.get_write_buffer_size() <= self._limits.conflated_bytes

    # ------------------------------------------------------------------------------------------ in

    async def serve(self, websocket: web.WebSocketResponse, session: Session) -> None:
        """Read until the end of the connection."""
        self._timer = self._loop.call_later(PING_S, self._ping)
        try:
            while not self._transport.is_closing():
                message = await websocket.receive()
                if message.type in (WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                    if getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                        self.counts["message_bytes_max"] += 1
                    return
                if message.type is WSMsgType.CLOSE:
                    self.send(framed((message.data or 1000).to_bytes(2, "big"), CLOSE))
                    return
                if not self._admits():
                    await self.refuse(websocket, 1008, "Too many requests")
                    return
                self._take(message.type, message.data, session)
        finally:
            self._timer.cancel()
            self.is_open = False
            session.ended(self)
            self._transport.close()

    async def serve_events(self, alive: bytes, interval_s: float) -> None:
        """Send a sign of life now and then, until the client has gone."""
        try:
            while not self._transport.is_closing():
                self.send_latest(alive)
                await asyncio.sleep(interval_s)
        finally:
            self.is_open = False
            self._transport.close()

    def _admits(self) -> bool:
        """Count a message; return whether it is not too many in a second."""
        now, asked = self._loop.time(), self._asked
        is_full = len(asked) == asked.maxlen and now - asked[0] < _SECOND_S
        asked.append(now)
        if is_full:
            self.counts["messages_per_second"] += 1
        return not is_full

    def _take(self, kind: WSMsgType, data: bytes | str, session: Session) -> None:
        if kind is WSMsgType.PING:
            self.send(framed(bytes(data), PONG))  # type: ignore[arg-type]
        elif kind is WSMsgType.PONG:
            self._pong_by = float("inf")
        elif kind is WSMsgType.TEXT:
            session.text(self, str(data))

    def _ping(self) -> None:
        now = self._loop.time()
        if now >= self._pong_by:
            self.counts["pong_s"] += 1
            self.abort()
            return
        if self._pong_by == float("inf"):
            self._pong_by = now + PONG_S
        self.send(framed(str(time.time_ns() // 1_000_000).encode(), PING))
        self._timer = self._loop.call_later(PING_S, self._ping)

    # ------------------------------------------------------------------------------------------ the end

    async def refuse(self, websocket: web.WebSocketResponse, code: int, reason: str) -> None:
        """Send a close frame, and nothing any more; then end the connection."""
        self._say_end(code, reason)
        # With unread messages the connection would be reset, and the close frame lost: so they are read.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await websocket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY, *_CONTROL):
                    pass
        self._transport.close()

    def end(self, code: int, reason: str) -> None:
        """Send a close frame, and end the connection once it is sent."""
        self._say_end(code, reason)
        self._transport.close()

    def _say_end(self, code: int, reason: str) -> None:
        self.send(framed(code.to_bytes(2, "big") + reason.encode(), CLOSE))
        self.is_open = False

    def abort(self) -> None:
        """End without a word; what waits is dropped."""
        self.is_open = False
        self._transport.abort()
