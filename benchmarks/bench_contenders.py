"""Who runs: each takes a snapshot and updates as bytes, and keeps what it keeps. Whoever keeps a book judges the ids.

A contender is a class with `apply(frame)`, which is timed, and `is_correct()`, without which it gets no number. Those
that are not ldc are written as a good programmer would for speed: local names, no abstraction, no more than the task.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

import orjson
from sortedcontainers import SortedDict

from bench_recordings import Market
from ldc._build import BUILD
from ldc.book.pure import book as pybook

if BUILD != "pure-python":
    from ldc import _book


class Contender(Protocol):
    """One market's book, at its snapshot when made."""

    apply: Callable[[bytes], object]

    def is_correct(self) -> bool:
        """Return whether it holds what the market's book is after the last frame."""
        ...


class Yardstick:
    """`orjson.loads` alone: no book at all, and the fastest way from bytes to Python objects."""

    def __init__(self, market: Market) -> None:
        self.apply = orjson.loads

    def is_correct(self) -> bool:
        return True


class PlainPython:
    """`OrderBook.apply`."""

    module: Any = pybook

    def __init__(self, market: Market) -> None:
        self.market = market
        self.book = self.module.OrderBook(market.rule)
        self.book.load_snapshot(market.snapshot, 1000)
        self.apply = self.book.apply

    def is_correct(self) -> bool:
        bids = self.book.bids(number=Decimal, beyond_horizon=True)
        asks = self.book.asks(number=Decimal, beyond_horizon=True)
        in_order = bids == sorted(bids, reverse=True) and asks == sorted(asks)
        return in_order and (dict(bids), dict(asks)) == (self.market.bids, self.market.asks)


class Compiled(PlainPython):
    """The same, compiled."""

    module = None if BUILD == "pure-python" else _book


class OrjsonAndDict:
    """Two dicts of floats: the least that can be called a book. It does not know its best price."""

    number: type = float
    mapping: type = dict

    def __init__(self, market: Market) -> None:
        body = orjson.loads(market.snapshot)
        self.market = market
        self.bids = self.side(body["bids"])
        self.asks = self.side(body["asks"])
        self.id = body["lastUpdateId"]
        self.chains_by_previous_id = market.rule == "futures"
        self.is_first = True

    def side(self, levels: Any) -> Any:
        return self.mapping((self.number(price), self.number(quantity)) for price, quantity in levels)

    def apply(self, frame: bytes) -> None:
        event = orjson.loads(frame)["data"]
        start = event["pu"] if self.chains_by_previous_id else event["U"] - 1
        if start > self.id and not (self.is_first and event["U"] <= self.id):
            raise ValueError("gap")
        number = self.number
        for side, changes in ((self.bids, event["b"]), (self.asks, event["a"])):
            for price, quantity in changes:
                held = number(quantity)
                if held:
                    side[number(price)] = held
                else:
                    side.pop(number(price), None)
        self.id = event["u"]
        self.is_first = False

    def is_correct(self) -> bool:
        expected = self.side(self.market.bids.items()), self.side(self.market.asks.items())
        return (self.bids, self.asks) == expected


class OrjsonAndDictOfDecimals(OrjsonAndDict):
    """The same, exact: what the plain Python book is compared with."""

    number = Decimal


class OrjsonAndSortedDict(OrjsonAndDict):
    """Sorted sides of floats, so that the best price can be read."""

    mapping = SortedDict


YARDSTICK = "orjson.loads alone"
COMPILED = "ldc, compiled"
PLAIN_PYTHON = "ldc, plain Python"
DECIMALS = "orjson + dict of Decimal"

CONTENDERS: dict[str, Callable[[Market], Contender]] = {
    YARDSTICK: Yardstick,
    COMPILED: Compiled,
    PLAIN_PYTHON: PlainPython,
    "orjson + dict of float": OrjsonAndDict,
    DECIMALS: OrjsonAndDictOfDecimals,
    "orjson + SortedDict of float": OrjsonAndSortedDict,
}
if BUILD == "pure-python":
    del CONTENDERS[COMPILED]
