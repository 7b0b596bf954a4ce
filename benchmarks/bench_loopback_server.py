"""The exchange of `bench_loopback.py`: a process of its own that replays a recording by REST and websockets.

Every market plays the same recording, under a name of its own. A market begins to move, slowly, when somebody listens
to it, so that a client can find its place as it would on the exchange; a snapshot is the book of the moment at which it
is asked for. On command all markets move at a given pace, or as fast as they are read; then they stand still.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from multiprocessing.connection import Connection as Pipe
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from bench_recordings import Market

WARM_UP_S = 0.1
"""Time between two updates of a market before anything is measured: what the exchange's own stream has."""

BATCH = 16
"""Updates in one write, when they are sent as fast as they are read."""

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %b\r\n"
    b"X-MBX-USED-WEIGHT: 10\r\nX-MBX-USED-WEIGHT-1M: 10\r\nContent-Length: %d\r\n\r\n"
)

ALL_OF_IT = 0.0
"""The pace at which updates are sent as fast as they are read."""


def names_of(count: int) -> list[str]:
    """Return the names of so many markets."""
    return ["BTCUSDT"] if count == 1 else [f"M{number:02}USDT" for number in range(count)]


def framed(payload: bytes, opcode: int = 1) -> bytes:
    """Return a websocket frame as a server sends it."""
    size, first = len(payload), bytes([0x80 | opcode])
    if size < 126:
        return first + bytes([size]) + payload
    return first + (struct.pack(">BH", 126, size) if size < 65_536 else struct.pack(">BQ", 127, size)) + payload


class Replayed:
    """One market: a recording under a name, and how far it is."""

    def __init__(self, name: str, recorded: Market) -> None:
        body = json.loads(recorded.snapshot)
        self.name, self.stream, self.position = name, f"{name.lower()}@depth@100ms", 0
        self._frames = recorded.frames
        self.last_update_id = int(body["lastUpdateId"])
        self._sides = [dict(body[side]) for side in ("bids", "asks")]
        self._folded = 0

    def _event(self, position: int) -> bytes:
        frame = self._frames[position]
        event = frame[frame.index(b'"data":') + len(b'"data":') : -1]
        return re.sub(rb'"s":"\w+"', b'"s":"%b"' % self.name.encode(), event, count=1)

    def wrapped(self, event: bytes) -> bytes:
        """Return an update as it stands in a combined stream."""
        return b'{"stream":"%b","data":%b}' % (self.stream.encode(), event)

    def next(self) -> bytes:
        """Move by one update, and return it; nothing at the end of the recording."""
        if self.position == len(self._frames):
            return b""
        event = self._event(self.position)
        found = re.search(rb'"u":(\d+)', event)
        assert found is not None
        self.position, self.last_update_id = self.position + 1, int(found[1])
        return event

    def snapshot(self, limit: int) -> bytes:
        """Return the best levels of the moment; the levels are kept as they are printed."""
        for position in range(self._folded, self.position):
            event = json.loads(self._event(position))
            for side, key in zip(self._sides, "ba", strict=True):
                side.update(event[key])
                for price, quantity in event[key]:
                    if not quantity.strip("0."):
                        side.pop(price, None)
        self._folded = self.position
        bids, asks = (
            sorted(side.items(), key=lambda level: float(level[0]), reverse=number == 0)[:limit]
            for number, side in enumerate(self._sides)
        )
        return json.dumps({"lastUpdateId": self.last_update_id, "bids": bids, "asks": asks}).encode()


@dataclass(eq=False)
class Listener:
    """One websocket, and what it listens to."""

    writer: asyncio.StreamWriter
    is_combined: bool
    streams: set[str] = field(default_factory=set)


class Exchange:
    """Everything that the process serves. Belongs to its event loop."""

    def __init__(self, names: list[str], recorded: Market) -> None:
        self.markets = {name: Replayed(name, recorded) for name in names}
        self.listeners: set[Listener] = set()
        self.is_warming_up = True

    # ------------------------------------------------------------------------------------------ what is sent

    def listeners_of(self, market: Replayed) -> list[Listener]:
        """Return who listens to a market."""
        return [listener for listener in self.listeners if market.stream in listener.streams]

    def send(self, market: Replayed, event: bytes) -> None:
        """Send one update to whoever listens."""
        for listener in self.listeners_of(market):
            listener.writer.write(framed(market.wrapped(event) if listener.is_combined else event))

    async def warm_up(self) -> None:
        """Move the markets that somebody listens to, until told otherwise."""
        while self.is_warming_up:
            for market in self.markets.values():
                if self.listeners_of(market) and (event := market.next()):
                    self.send(market, event)
            await asyncio.sleep(WARM_UP_S)

    async def run(self, pace: float, updates: int) -> tuple[dict[str, int], bytes, bytes]:
        """Send so many updates of each market, so many a second; return the last ids, and which was sent when."""
        markets = list(self.markets.values())
        which, when = array("q"), array("q")
        if pace == ALL_OF_IT:
            batches = self._batches(markets, updates)
            when.append(time.monotonic_ns())
            for writer, frames in batches:
                writer.write(frames)
                await writer.drain()  # whoever does not read holds it up
        else:
            began = time.monotonic()
            for step in range(updates):
                for number, market in enumerate(markets):
                    due = began + (step + number / len(markets)) / pace
                    if (wait_s := due - time.monotonic()) > 0:
                        await asyncio.sleep(wait_s)
                    event = market.next()
                    which.append(market.last_update_id)
                    when.append(time.monotonic_ns())
                    self.send(market, event)
        return {market.name: market.last_update_id for market in markets}, which.tobytes(), when.tobytes()

    def _batches(self, markets: list[Replayed], updates: int) -> list[tuple[asyncio.StreamWriter, bytes]]:
        """Return what is to be written, ready: the markets by turns, some updates in one write."""
        batches: list[tuple[asyncio.StreamWriter, bytes]] = []
        waiting: dict[Listener, list[bytes]] = {listener: [] for listener in self.listeners}
        for step in range(updates):
            for market in markets:
                event = market.next()
                for listener in self.listeners_of(market):
                    waiting[listener].append(framed(market.wrapped(event) if listener.is_combined else event))
            for listener, frames in waiting.items():
                if len(frames) >= BATCH or step == updates - 1:
                    batches.append((listener.writer, b"".join(frames)))
                    frames.clear()
        return batches

    # ------------------------------------------------------------------------------------------ what is asked

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one connection until it becomes a websocket, or ends."""
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = urlsplit(head.split(" ", 2)[1])
                key = re.search(r"(?im)^sec-websocket-key:\s*(\S+)", head)
                if key is not None:
                    await self._serve_websocket(reader, writer, key[1], path.path, path.query)
                    break
                body = self._answer(path.path, {name: values[0] for name, values in parse_qs(path.query).items()})
                writer.write(HEAD % (formatdate(usegmt=True).encode(), len(body)) + body)
        writer.close()

    def _answer(self, path: str, query: dict[str, str]) -> bytes:
        if path.endswith("/depth"):
            return self.markets[query["symbol"]].snapshot(int(query.get("limit", "100")))
        if path.endswith("/exchangeInfo"):
            return json.dumps(exchange_info(self.markets)).encode()
        if path.endswith("/time"):
            return b'{"serverTime":%d}' % (time.time_ns() // 1_000_000)
        return b"[]" if "/sapi/" in path else b"{}"

    async def _serve_websocket(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str, path: str, query: str
    ) -> None:
        digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(answer + b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n")
        wanted = parse_qs(query).get("streams", [""])[0] or unquote(path.partition("/ws")[2])
        listener = Listener(writer, path.endswith("/stream"), set(wanted.strip("/").split("/")))
        self.listeners.add(listener)
        try:
            while True:
                opcode, payload = await _read_frame(reader)
                if opcode == 8:
                    writer.write(framed(payload, 8))
                    break
                if opcode == 9:
                    writer.write(framed(payload, 10))
                elif opcode == 1:
                    request = json.loads(payload)
                    if request["method"] == "SUBSCRIBE":
                        listener.streams.update(request["params"])
                    writer.write(framed(json.dumps({"result": None, "id": request["id"]}).encode()))
        finally:
            self.listeners.discard(listener)


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return opcode and payload of a client's frame."""
    first, size = await reader.readexactly(2)
    size &= 127
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(size)
    return first & 15, bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))


def exchange_info(names: dict[str, Any]) -> dict[str, Any]:
    """Return what the clients need to know of the markets."""
    price = {"minPrice": "0.01000000", "maxPrice": "1000000.00000000", "tickSize": "0.01000000"}
    lot = {"minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"}
    common = {
        "status": "TRADING", "quoteAsset": "USDT", "orderTypes": ["LIMIT", "MARKET"], "icebergAllowed": False,
        "ocoAllowed": False, "quoteOrderQtyMarketAllowed": False, "allowTrailingStop": False, "otoAllowed": False,
        "cancelReplaceAllowed": False, "isSpotTradingAllowed": True, "isMarginTradingAllowed": False,
        "filters": [{"filterType": "PRICE_FILTER"} | price, {"filterType": "LOT_SIZE"} | lot],
        "permissions": ["SPOT"], "permissionSets": [["SPOT"]], "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }  # fmt: skip
    common |= dict.fromkeys(("baseAssetPrecision", "quotePrecision", "quoteAssetPrecision"), 8)
    symbols = [{"symbol": name, "baseAsset": name.removesuffix("USDT")} | common for name in names]
    now_ms = time.time_ns() // 1_000_000
    return {"timezone": "UTC", "serverTime": now_ms, "rateLimits": [], "exchangeFilters": [], "symbols": symbols}


def _told(pipe: Pipe) -> Iterator[Any]:
    with contextlib.suppress(EOFError):
        while True:
            yield pipe.recv()


async def _serve(pipe: Pipe, names: list[str], recorded: Market) -> None:
    exchange = Exchange(names, recorded)
    server = await asyncio.start_server(exchange.serve, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    warming_up = asyncio.create_task(exchange.warm_up())
    orders = _told(pipe)
    while (order := await asyncio.to_thread(next, orders, None)) is not None:
        exchange.is_warming_up = False
        await warming_up
        pipe.send(await exchange.run(*order))
    os._exit(0)  # the connections are not worth an orderly end


def serve(pipe: Pipe, names: list[str], recorded: Market) -> None:
    """Tell the port; then for each (updates a second, updates) of the pipe send them, and tell what `run` returns."""
    asyncio.run(_serve(pipe, names, recorded))
