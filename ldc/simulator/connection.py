"""One websocket connection of the embedded exchange: sending, receiving, and every way to end.

aiohttp does the handshake and reads frames. This module writes frames straight to the transport. So a frame is encoded
once for all its receivers, many frames are written in one call, and half a frame can be sent.
"""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from aiohttp import WSMessage, WSMsgType, web

from ldc.simulator.faults import Fault, PendingFaults, Place
from ldc.simulator.limits import MESSAGES_PER_SECOND_MAX, RollingCount
from ldc.simulator.script import Script
from ldc.wire.control import Subscriptions, answer
from ldc.wire.families import Family
from ldc.wire.streams import BINARY, CLOSE, PING, PONG, TEXT, framed

UNSENT_BYTES_MAX = 32 << 20
"""Bytes; the connection of a client that reads too slowly ends when more wait for it."""

CLOSE_S = 1.0
"""Seconds that the client has to answer a close before the connection is aborted."""

MESSAGE_BYTES_MAX = 1 << 20
"""Bytes; a longer message of a client ends the connection."""

GONE_CHECK_S = 0.01
"""How often `Connection.gone` looks."""


class ConnectionTiming:
    """The ping interval, the pong timeout, the lifetime and the latency of connections, in seconds."""

    def __init__(self, ping_interval_s: float, pong_timeout_s: float, lifetime_s: float, latency_s: float) -> None:
        self.ping_interval_s, self.pong_timeout_s = ping_interval_s, pong_timeout_s
        self.lifetime_s, self.latency_s = lifetime_s, latency_s


class Connection:
    """A client. Belongs to the thread of the exchange's event loop."""

    def __init__(
        self,
        transport: asyncio.Transport,
        family: Family,
        timing: ConnectionTiming,
        subscriptions: Subscriptions,
        faults: PendingFaults,
        changed: Callable[["Connection"], None],
        script: Script | None = None,
    ) -> None:
        self.subscriptions = subscriptions
        self.is_open = True
        self.frames_sent = 0
        self._transport, self._family, self._timing, self._faults = transport, family, timing, faults
        self._changed, self._script = changed, script
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._delayed: list[list[bytes]] = []
        self._is_frozen = False
        self._stall: Fault | None = None
        self._pongs = True
        self._messages = RollingCount(MESSAGES_PER_SECOND_MAX, 1.0)
        self._pings: dict[bytes, float] = {}  # payload -> time of sending
        self._last_pong = self._loop.time()

    # ------------------------------------------------------------------------------------------ out

    def send(self, frame: bytes) -> None:
        """Send a frame, with the next `flush`."""
        if self._is_frozen or not self.is_open or not frame:
            return
        if self._stall is not None:
            self._unsent.append(frame[: 1 + len(frame) // 2])
            self.flush()
            self.freeze(self._stall.lasts_s)
            return
        self.frames_sent += 1
        self._unsent.append(frame)

    def send_raw(self, data: bytes) -> None:
        """Write bytes at once and as they are, behind what was sent before: for scripts."""
        self.flush()
        if not self._transport.is_closing():
            self._transport.write(data)

    def flush(self) -> None:
        """Write the frames sent since the last flush, now or after the latency."""
        if not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        if self._timing.latency_s:
            # A list keeps the order, because timers of the same time have none.
            self._delayed.append(unsent)
            self._loop.call_later(self._timing.latency_s, lambda: self._write(self._delayed.pop(0)))
        else:
            self._write(unsent)

    def _write(self, frames: list[bytes]) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self.abort()

    # ------------------------------------------------------------------------------------------ in

    async def serve(self, websocket: web.WebSocketResponse) -> None:
        """Read until the end of the connection."""
        timers = self._loop.create_task(self._run_timers())
        try:
            while not self._transport.is_closing():
                message = await websocket.receive()
                if message.type in (WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                    return
                if self._script is not None and await self._script.received(self, *_unparsed(message)):
                    continue
                if message.type is WSMsgType.CLOSE:
                    self.send(framed((message.data or 1000).to_bytes(2, "big"), CLOSE))
                    self.flush()
                    return
                if not self.is_open:
                    continue  # until the client answers the close
                if not self._messages.admits(self._loop.time()):
                    self.close(1008, "Too many requests")
                    continue
                self._take(message.type, message.data)
                self.flush()
        finally:
            timers.cancel()
            self.is_open = False
            # Written frames are still sent. aiohttp finds the transport closing, and sends nothing more.
            self._transport.close()

    def _take(self, kind: WSMsgType, data: Any) -> None:
        if kind is WSMsgType.PING:
            if self._pongs:
                self.send(framed(bytes(data), PONG))
        elif kind is WSMsgType.PONG:
            if self._pings.pop(bytes(data), None) is not None or not self._family.pong_must_match:
                self._last_pong = self._loop.time()
        elif kind is WSMsgType.TEXT:
            self._control(data)

    def _control(self, text: str) -> None:
        if "SUBSCRIBE" in text and (fault := self._faults.take(Place.CONTROL, None)) is not None:
            if fault.name == "refused_subscription":
                refusal = {"code": 2, "msg": "Invalid request: the exchange cannot do this now"}
                with contextlib.suppress(ValueError, AttributeError):
                    refusal |= {"id": json.loads(text).get("id")}
                self.send(framed(json.dumps(refusal, separators=(",", ":")).encode()))
            return
        self.send(framed(answer(self.subscriptions, text).encode()))
        self._changed(self)

    # ------------------------------------------------------------------------------------------ time

    async def _run_timers(self) -> None:
        """Send pings, check pongs, and end the connection at the end of its lifetime."""
        started = self._loop.time()
        ends_at = started + self._timing.lifetime_s
        ping_at = started + self._timing.ping_interval_s
        while self.is_open:
            await asyncio.sleep(max(0.0, min(ping_at, ends_at, self._pong_due()) - self._loop.time()))
            now = self._loop.time()
            if now >= ends_at:
                self.close(1001, "connection lifetime reached")
                return
            if now >= self._pong_due():
                self.abort()
                return
            if now >= ping_at:
                payload = str(time.time_ns() // 1_000_000).encode()
                self._pings[payload] = now
                self.send(framed(payload, PING))
                self.flush()
                ping_at += self._timing.ping_interval_s

    def _pong_due(self) -> float:
        """Return when the connection ends because of an unanswered ping."""
        unanswered = (sent for sent in self._pings.values() if sent >= self._last_pong)
        return min(unanswered, default=float("inf")) + self._timing.pong_timeout_s

    # ------------------------------------------------------------------------------------------ the end

    def inject(self, fault: Fault) -> None:
        """Inject a fault of a connection."""
        match fault.name:
            case "half_open":
                self.freeze(fault.lasts_s)
            case "stall":
                self._stall = fault
            case "no_pong":
                self._pongs = False
                self._loop.call_later(fault.lasts_s, lambda: setattr(self, "_pongs", True))
            case "reset":
                self.abort()
            case "eof":
                self.end()
            case "server_shutdown":
                self._shut_down(fault.lasts_s)
            case name:
                self.close(int(name.removeprefix("close_")), "injected fault")

    def _shut_down(self, after_s: float) -> None:
        if self._family.tells_shutdown:
            text = f'{{"e":"serverShutdown","E":{time.time_ns() // 1_000_000}}}'
            if self.subscriptions.form.combined:
                text = f'{{"stream":"!serverShutdown","data":{text}}}'
            self.send(framed(text.encode()))
            self.flush()
        self._loop.call_later(after_s, lambda: self.close(1001, "server shutdown"))

    def close(self, code: int, reason: str = "") -> None:
        """End with a close frame; abort the connection if the client does not answer it."""
        if not self.is_open:
            return
        self.send(framed(code.to_bytes(2, "big") + reason.encode(), CLOSE))
        self.flush()
        self.is_open = False
        self._loop.call_later(CLOSE_S, self._cut)

    def freeze(self, duration_s: float) -> None:
        """Stop reading and writing, and abort the connection after `duration_s`."""
        self.flush()
        self._is_frozen = True
        with contextlib.suppress(RuntimeError):  # the transport is closing already
            self._transport.pause_reading()
        self._loop.call_later(duration_s, self._cut)

    def abort(self) -> None:
        """End with a TCP reset."""
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._cut()

    def _cut(self) -> None:
        self.is_open = False
        self._transport.abort()

    def end(self) -> None:
        """End without a close frame, after what was sent."""
        self.flush()
        self._transport.close()

    async def gone(self) -> None:
        """Wait until either side has ended the TCP connection."""
        while not self._transport.is_closing():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(GONE_CHECK_S)


def _unparsed(message: WSMessage) -> tuple[int, bytes]:
    """Return opcode and payload of a frame that aiohttp has parsed."""
    match message.type:
        case WSMsgType.CLOSE:
            return CLOSE, (message.data.to_bytes(2, "big") if message.data else b"") + (message.extra or "").encode()
        case WSMsgType.TEXT:
            return TEXT, message.data.encode()
        case kind:
            return {WSMsgType.PING: PING, WSMsgType.PONG: PONG}.get(kind, BINARY), bytes(message.data)
