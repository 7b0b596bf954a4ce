"""The exchange of `bench_loopback.py`: a process of its own that replays a recording by REST and websockets.

Every market plays the same recording, under a name of its own. A market begins to move, slowly, when somebody listens
to it, so that a client can find its place as it would on the exchange; a snapshot is the book of the moment at which it
is asked for. On command all markets move at a given pace, or as fast as they are read; then they stand still.
"""

import contextlib
import json
import re
import time
from array import array
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from bench_recordings import Market
from bench_sender import Client, Sender, frame, tls_in

WARM_UP_S = 0.1
"""Time between two updates of a market before anything is measured: what the exchange's own stream has."""

BATCH = 16
"""Updates in one write, when they are sent as fast as they are read."""

ALL_OF_IT = 0.0
"""The pace at which updates are sent as fast as they are read."""


def names_of(count: int) -> list[str]:
    """Return the names of so many markets."""
    return ["BTCUSDT"] if count == 1 else [f"M{number:02}USDT" for number in range(count)]


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
        text = self._frames[position]
        event = text[text.index(b'"data":') + len(b'"data":') : -1]
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


class Exchange:
    """All markets, and who is told of them."""

    def __init__(self, names: list[str], recorded: Market, tls_folder: Path | None = None) -> None:
        self.markets = {name: Replayed(name, recorded) for name in names}
        self.sender = Sender(self._answer, tls_in(tls_folder))

    def _answer(self, path: str, query: dict[str, str]) -> bytes:
        if path.endswith("/depth"):
            return self.markets[query["symbol"]].snapshot(int(query.get("limit", "100")))
        if path.endswith("/exchangeInfo"):
            return json.dumps(exchange_info(self.markets)).encode()
        if path.endswith("/time"):
            return b'{"serverTime":%d}' % (time.time_ns() // 1_000_000)
        return b"[]" if "/sapi/" in path else b"{}"

    def send(self, market: Replayed, event: bytes) -> None:
        """Send one update to all who listen."""
        for client in self.sender.listeners_of(market.stream):
            with contextlib.suppress(OSError):  # its end is noticed when it is read
                client.socket.sendall(frame(market.wrapped(event) if client.is_combined else event))

    def warm_up(self, pipe: Pipe) -> None:
        """Move the markets that have listeners, until an order comes."""
        while not pipe.poll():
            for market in self.markets.values():
                if self.sender.listeners_of(market.stream) and (event := market.next()):
                    self.send(market, event)
            self.sender.serve_until(time.monotonic() + WARM_UP_S)

    def run(self, pace: float, updates: int) -> tuple[dict[str, int], bytes, bytes]:
        """Send so many updates of each market, so many a second; return the last ids, and which was sent when."""
        markets = list(self.markets.values())
        which, when = array("q"), array("q")
        if pace == ALL_OF_IT:
            batches = self._batches(markets, updates)
            when.append(time.monotonic_ns())
            for client, frames in batches:
                client.socket.sendall(frames)  # a client that does not read holds it up
                self.sender.serve(0)
        else:
            began = time.monotonic()
            for step in range(updates):
                for number, market in enumerate(markets):
                    self.sender.serve_until(began + (step + number / len(markets)) / pace)
                    event = market.next()
                    which.append(market.last_update_id)
                    when.append(time.monotonic_ns())
                    self.send(market, event)
        return {market.name: market.last_update_id for market in markets}, which.tobytes(), when.tobytes()

    def _batches(self, markets: list[Replayed], updates: int) -> list[tuple[Client, bytes]]:
        """Return what is to be written, ready: the markets by turns, some updates in one write."""
        batches: list[tuple[Client, bytes]] = []
        waiting: dict[Client, list[bytes]] = {client: [] for client in self.sender.websockets}
        for step in range(updates):
            for market in markets:
                event = market.next()
                for client in self.sender.listeners_of(market.stream):
                    waiting[client].append(frame(market.wrapped(event) if client.is_combined else event))
            for client, frames in waiting.items():
                if len(frames) >= BATCH or step == updates - 1:
                    batches.append((client, b"".join(frames)))
                    frames.clear()
        return batches


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


def serve(pipe: Pipe, names: list[str], recorded: Market, tls_folder: Path | None = None) -> None:
    """Tell the port; then for each (updates a second, updates) of the pipe send them, and tell what `run` returns."""
    exchange = Exchange(names, recorded, tls_folder)
    pipe.send(exchange.sender.port)
    exchange.warm_up(pipe)
    while (order := exchange.sender.order(pipe)) is not None:
        pipe.send(exchange.run(*order))
