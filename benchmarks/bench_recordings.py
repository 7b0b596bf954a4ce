"""What the benchmarks run on: markets, each with a snapshot, the updates after it, and the book that they must lead to.

The expected book comes from the reference at the end of this file: the standard library's JSON, `Decimal`, two dicts,
and the rules written down once more. It shares no code with ldc, and is itself held to the recorded tops of the book.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

Side = dict[Decimal, Decimal]


@dataclass(frozen=True, slots=True)
class Market:
    """One market's bytes, as they came from the exchange."""

    name: str
    rule: str
    snapshot: bytes
    frames: tuple[bytes, ...]
    """Depth updates, the first of which continues the snapshot."""
    bids: Side
    """What the book holds after the last frame."""
    asks: Side


@dataclass(frozen=True, slots=True)
class Recording:
    """Markets that were recorded together."""

    name: str
    markets: tuple[Market, ...]
    is_made_up: bool = False

    @property
    def updates(self) -> int:
        """Frames of all markets."""
        return sum(len(market.frames) for market in self.markets)

    @property
    def frame_bytes(self) -> int:
        """Bytes of all frames."""
        return sum(len(frame) for market in self.markets for frame in market.frames)

    @property
    def levels(self) -> int:
        """Levels named by all frames; a level is an array of two strings."""
        return sum(frame.count(b'["') for market in self.markets for frame in market.frames)


# --------------------------------------------------------------------------------------------------------- recorded


def load_recordings(folder: Path, updates_max: int | None = None) -> list[Recording]:
    """Read all recordings of real traffic, or the first updates of each.

    A missing file is an error: a benchmark that leaves some out deceives.
    """
    return [
        load_busy_spot_recording(folder, updates_max),
        _one_market(folder, "USD-M ETHUSDT 0 ms", "futures", ["usdm_ethusdt_20240808.gz"], updates_max),
        _one_market(folder, "COIN-M ETHUSD 0 ms", "futures", ["cm_ethusd_perp_20240808.gz"], updates_max),
        _four_markets(folder, "spot, 4 quiet markets", "spot", "BINANCE", updates_max),
        _four_markets(folder, "USD-M, 4 markets", "futures", "BINANCE_FUTURES", updates_max),
    ]


def load_busy_spot_recording(folder: Path, updates_max: int | None = None) -> Recording:
    """Read the recording of the busiest spot market, or its first updates."""
    files = ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"]
    return _one_market(folder, "spot BTCUSDT 100 ms", "spot", files, updates_max)


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        yield from file


def _one_market(folder: Path, name: str, rule: str, files: list[str], updates_max: int | None) -> Recording:
    """Lines of `receive time, a space, JSON`; the snapshot stands among them, within the first hundred."""
    snapshot, frames, tops = b"", [], []
    for line in (line for file in files for line in _lines(folder / file)):
        text = line.partition(b" ")[2].rstrip()
        if b'"e":"depthUpdate"' in text:
            frames.append(text)
        elif text.startswith(b'{"lastUpdateId"'):
            snapshot = text
        elif b"@bookTicker" in text:
            tops.append(text)
        if len(frames) == updates_max:
            break
    return Recording(name, (_market(name, rule, snapshot, frames, tops),))


def _four_markets(folder: Path, name: str, rule: str, prefix: str, updates_max: int | None) -> Recording:
    """Lines of `unix seconds: JSON`, after one line with the URL; the snapshots are in a file of their own."""
    frames: dict[str, list[bytes]] = {}
    tops: dict[str, list[bytes]] = {}
    for line in _lines(folder / f"{prefix}.ws.1.0.gz"):
        stream = re.match(rb'[\d.]+: \{"stream":"(\w+)@(depth|bookTicker)', line)
        if stream:
            by_market = frames if stream[2] == b"depth" else tops
            by_market.setdefault(stream[1].decode().upper(), []).append(line.partition(b": ")[2].rstrip())
    markets = []
    for line in _lines(folder / f"{prefix}.http.0.0.gz"):
        request = re.match(rb"\S+/depth\?symbol=(\w+)\S* -> [\d.]+: ", line)
        if request:
            market = request[1].decode()
            body = line[request.end() :].rstrip()
            markets.append(_market(market, rule, body, frames[market][:updates_max], tops.get(market, [])))
    return Recording(name, tuple(markets))


def with_larger_frames(recording: Recording, frame_bytes: int) -> Recording:
    """Return a recording with frames of about so many bytes, made of what follows one another; the books are the same.

    A price is named once, with its last quantity, best first, as the exchange does it.
    """
    markets = []
    for market in recording.markets:
        frames, joined = [], _Joined()
        for frame in market.frames:
            joined.add(json.loads(frame))
            if joined.size >= frame_bytes:
                frames.append(joined.frame())
                joined = _Joined()
        if joined.size:
            frames.append(joined.frame())
        markets.append(Market(market.name, market.rule, market.snapshot, tuple(frames), market.bids, market.asks))
    name = f"{recording.name}, frames of {frame_bytes:,} bytes"
    return Recording(name, tuple(markets), recording.is_made_up)


class _Joined:
    """Updates that follow one another, as one."""

    def __init__(self) -> None:
        self._first: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._levels: dict[str, dict[str, list[str]]] = {"b": {}, "a": {}}
        self.size = 0
        """Bytes of the levels, about."""

    def add(self, message: dict[str, Any]) -> None:
        self._first = self._first or message["data"]
        self._last = message
        for key, levels in self._levels.items():
            for level in message["data"][key]:
                if level[0] not in levels:
                    self.size += len(level[0]) + len(level[1]) + 8
                levels[level[0]] = level

    def frame(self) -> bytes:
        event = self._last["data"]
        event |= {key: self._first[key] for key in ("U", "pu") if key in event}
        for key, levels in self._levels.items():
            event[key] = sorted(levels.values(), key=lambda level: Decimal(level[0]), reverse=key == "b")
        return json.dumps(self._last, separators=(",", ":")).encode()


# -------------------------------------------------------------------------------------------------------- synthetic


def synthetic_recording(levels_per_update: int, updates: int, *, levels: int = 1000, seed: int = 1) -> Recording:
    """Return made-up spot traffic, the same for the same arguments.

    An update names a price once, best first, as Binance's do; most of them are near the top, a tenth is anywhere.
    """
    lots = random.Random(seed)
    best_bid, best_ask = 6_000_000, 6_000_001  # in ticks of 0.01; both sides stay where they are

    def level(side: int, rank: int, lives: float) -> list[str]:
        tick = best_bid - rank if side == 0 else best_ask + rank
        quantity = 0 if rank > 0 and lots.random() > lives else lots.randrange(1, 10**9)
        return [f"{tick // 100}.{tick % 100:02}000000", f"{quantity // 10**8}.{quantity % 10**8:08}"]

    sides = [[level(side, rank, lives=1) for rank in range(levels)] for side in (0, 1)]
    snapshot = json.dumps({"lastUpdateId": 1000, "bids": sides[0], "asks": sides[1]}, separators=(",", ":")).encode()
    frames = []
    for n in range(updates):
        ranks: tuple[set[int], set[int]] = (set(), set())
        while len(ranks[0]) + len(ranks[1]) < levels_per_update:
            near = lots.random() < 0.9
            rank = (
                min(int(lots.expovariate(1 / (15 + levels_per_update))), levels - 1) if near else lots.randrange(levels)
            )
            ranks[lots.randrange(2)].add(rank)
        changes = [[level(side, rank, lives=0.6) for rank in sorted(ranks[side])] for side in (0, 1)]
        event = {"e": "depthUpdate", "E": 1700000000000 + 100 * n, "s": "BTCUSDT", "U": 1001 + 3 * n, "u": 1003 + 3 * n}
        event |= {"b": changes[0], "a": changes[1]}
        frames.append(json.dumps({"stream": "btcusdt@depth@100ms", "data": event}, separators=(",", ":")).encode())
    name = f"synthetic, {levels_per_update} levels an update"
    return Recording(name, (_market(name, "spot", snapshot, frames, []),), is_made_up=True)


# -------------------------------------------------------------------------------------------------------- reference


def _market(name: str, rule: str, snapshot: bytes, frames: list[bytes], tops: list[bytes]) -> Market:
    """Run the reference over everything, and keep the frames that continue the snapshot."""
    body = json.loads(snapshot)
    book_id = body["lastUpdateId"]
    bids, asks = ({Decimal(price): Decimal(quantity) for price, quantity in body[side]} for side in ("bids", "asks"))
    top_at = {_number_after(b'"u":', text): text for text in tops}
    tops_compared = 0
    kept: list[bytes] = []
    for frame in frames:
        event = json.loads(frame)["data"]
        if event["u"] <= book_id and not (rule == "futures" and not kept and event["u"] == book_id):
            continue
        start = event["pu"] if rule == "futures" else event["U"] - 1
        assert start == book_id if kept else min(start, event["U"]) <= book_id, f"{name}: a gap before {event['u']}"
        for side, changes in ((bids, event["b"]), (asks, event["a"])):
            for price, quantity in changes:
                side[Decimal(price)] = Decimal(quantity)
                if not side[Decimal(price)]:
                    del side[Decimal(price)]
        book_id = event["u"]
        kept.append(frame)
        if book_id in top_at:
            top = json.loads(top_at[book_id])["data"]
            best_bid, best_ask = max(bids), min(asks)
            assert (best_bid, bids[best_bid]) == (Decimal(top["b"]), Decimal(top["B"])), f"{name}: bid at {book_id}"
            assert (best_ask, asks[best_ask]) == (Decimal(top["a"]), Decimal(top["A"])), f"{name}: ask at {book_id}"
            tops_compared += 1
    assert not tops or tops_compared or len(kept) < 100, f"{name}: no top of the book to compare with"
    return Market(name, rule, snapshot, tuple(kept), bids, asks)


def _number_after(key: bytes, text: bytes) -> int:
    """Return the first number after a key, without reading the rest: of the tops, only a few are compared."""
    found = re.search(re.escape(key) + rb"(\d+)", text)
    assert found is not None, f"no {key!r} in {text!r}"
    return int(found[1])
