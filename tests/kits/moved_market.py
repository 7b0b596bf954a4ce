"""Markets that a test moves by hand, and recorded ones: dicts of Decimals, which share nothing with ldc."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from recordings import lines_of

Levels = dict[Decimal, Decimal]
Pairs = Iterable[tuple[str, str]]


@dataclass
class TrueBook:
    """A book at one update id."""

    last_update_id: int
    bids: Levels
    asks: Levels

    def side(self, name: str) -> list[tuple[Decimal, Decimal]]:
        """Return a side, best first."""
        levels = self.bids if name == "bids" else self.asks
        return sorted(levels.items(), reverse=name == "bids")

    def copy(self) -> "TrueBook":
        return TrueBook(self.last_update_id, dict(self.bids), dict(self.asks))

    def apply(self, last_update_id: int, bids: Pairs, asks: Pairs) -> None:
        """Change the book. Quantities are absolute; zero removes."""
        self.last_update_id = last_update_id
        for levels, changes in ((self.bids, bids), (self.asks, asks)):
            for price, quantity in changes:
                amount = Decimal(quantity)
                if amount:
                    levels[Decimal(price)] = amount
                else:
                    levels.pop(Decimal(price), None)


class Market:
    """One market: its book, and how it came to be so."""

    CHECKPOINT_EVERY = 128

    def __init__(self, symbol: str, last_update_id: int, bids: Pairs, asks: Pairs) -> None:
        self.symbol = symbol
        self.book = TrueBook(last_update_id, {}, {})
        self.book.apply(last_update_id, bids, asks)
        self.recording: Iterator[tuple[int, bytes]] = iter(())
        self._updates: list[tuple[int, list[tuple[str, str]], list[tuple[str, str]]]] = []
        self._checkpoints = [self.book.copy()]

    def apply(self, last_update_id: int, bids: Pairs, asks: Pairs) -> None:
        """Change the book."""
        self._updates.append((last_update_id, list(bids), list(asks)))
        self.book.apply(*self._updates[-1])
        if len(self._updates) % self.CHECKPOINT_EVERY == 0:
            self._checkpoints.append(self.book.copy())

    def at(self, update_id: int) -> TrueBook:
        """Return the book as it was at an update id at which it stood; KeyError for any other."""
        known = [place for place, checkpoint in enumerate(self._checkpoints) if checkpoint.last_update_id <= update_id]
        if not known:
            raise KeyError(update_id)
        book = self._checkpoints[known[-1]].copy()
        for update in self._updates[known[-1] * self.CHECKPOINT_EVERY :]:
            if update[0] > update_id:
                break
            book.apply(*update)
        if book.last_update_id != update_id:
            raise KeyError(update_id)
        return book


@dataclass
class Recording:
    """A recorded market from its snapshot on: updates as they came, and tops of the book by update id."""

    symbol: str
    snapshot: dict[str, Any]
    updates: list[tuple[int, bytes]]
    tops: dict[int, tuple[float, float, float, float]]

    @classmethod
    def read(cls, *paths: Path) -> "Recording":
        """Read files of one market that continue one another."""
        snapshot: dict[str, Any] = {}
        updates, tops, symbol = [], {}, ""
        for kind, market, payload in (message for path in paths for _, message in lines_of(path, "")):
            if kind == "snapshot":
                snapshot = snapshot or json.loads(payload)
            elif kind == "depthUpdate":
                symbol = market
                stream_end = payload.index(b'"', 11)
                wrapped = b'{"stream":"%s@depth@100ms' % symbol.lower().encode() + payload[stream_end:]
                updates.append((json.loads(payload)["data"]["u"], wrapped))
            else:
                ticker = json.loads(payload)["data"]
                tops[ticker["u"]] = tuple(float(ticker[key]) for key in "bBaA")
        assert snapshot, f"there is no snapshot in {paths}"
        first = snapshot["lastUpdateId"]
        return cls(symbol, snapshot, [update for update in updates if update[0] > first], tops)
