"""Real traffic through both books, held to what the exchange itself said: its book tickers, and its ids without a gap.

Where a book ticker bears the id that the book stands at, the tops must be the same, digit by digit. An independent
replay (a dictionary of the texts, as they were sent) is compared with all that both books hold, again and again.
"""

import collections
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from messages import everything, outcome
from recordings import RECORDINGS, SNAPSHOT_LIMIT, messages_of

from ldc.errors import DepthCacheOutOfSync
from ldc.types import Verdict

try:
    from orjson import loads
except ModuleNotFoundError:  # it has no wheels for Pythons without the GIL
    from json import loads

COMPARE_ALL_EVERY = 1000

# What each recording is known to hold: updates applied; of them with a book ticker of the same id; and of them with a
# side that is past its horizon. (The market of the first one walked out of the range of its snapshot.)
EXPECTED = {
    "spot_btcusdt": (6_493, 1_072, 918),
    "usdm_ethusdt": (6_581, 551, 0),
    "cm_ethusd_perp": (22_887, 1_345, 0),
    "spot_2021": (172, 26, 0),
    "usdm_2021": (752, 50, 0),
}


class Replay:
    """One market in every book there is, and in a dictionary of price and quantity as they were sent."""

    def __init__(self, modules: list[ModuleType], rule: str, market: str, tickers: dict[int, Any]) -> None:
        self.books = [module.OrderBook(rule, market=market, symbol=market) for module in modules]
        self.sides: dict[str, dict[str, str]] = {"b": {}, "a": {}}
        self.tickers = tickers
        self.held: list[bytes] = []
        self.counts: collections.Counter[str] = collections.Counter()

    def load(self, body: bytes) -> None:
        for book in self.books:
            book.load_snapshot(body, SNAPSHOT_LIMIT)
        snapshot = loads(body)
        self.sides = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
        self.compare_all()
        for payload in self.held:
            self.apply(payload)

    def receive(self, payload: bytes) -> None:
        if self.books[0].is_loaded:
            self.apply(payload)
        else:
            self.held.append(payload)

    def apply(self, payload: bytes) -> None:
        verdicts = {book.apply(payload) for book in self.books}
        if verdicts == {Verdict.STALE} and self.counts["applied"] == 0:
            return  # older than the snapshot
        assert verdicts == {Verdict.APPLIED}
        self.counts["applied"] += 1
        update = loads(payload)["data"]
        for side, levels in self.sides.items():
            for price, quantity in update[side]:
                if quantity.strip("0."):
                    levels[price] = quantity
                else:
                    levels.pop(price, None)
        self.compare_tops(update["u"])
        if self.counts["applied"] % COMPARE_ALL_EVERY == 0:
            self.compare_all()

    def compare_tops(self, update_id: int) -> None:
        tops = [
            (
                book.last_update_id,
                book.bids(1, number=str, beyond_horizon=True),
                book.asks(1, number=str, beyond_horizon=True),
            )
            for book in self.books
        ]
        assert all(top == tops[0] for top in tops)
        stands_at, [bid], [ask] = tops[0]
        assert stands_at == update_id
        if update_id in self.tickers:
            self.counts["matched"] += 1
            assert [Decimal(number) for number in self.tickers[update_id]] == [Decimal(number) for number in bid + ask]
        for book in self.books:
            assert not book.is_crossed
            if book.is_readable:
                assert book.best_bid == tuple(map(float, bid))
                assert book.best_ask == tuple(map(float, ask))
            else:
                assert_tops_are_read_inside_the_horizons_only(book, float(bid[0]), float(ask[0]))
        self.counts["left"] += not self.books[0].is_readable

    def compare_all(self) -> None:
        exact = [{Decimal(price): Decimal(quantity) for price, quantity in self.sides[side].items()} for side in "ba"]
        bids, asks = sorted(exact[0].items(), reverse=True), sorted(exact[1].items())
        for book in self.books:
            assert list(map(tuple, book.bids(number=Decimal, beyond_horizon=True))) == bids
            assert list(map(tuple, book.asks(number=Decimal, beyond_horizon=True))) == asks
            assert everything(book) == everything(self.books[0])
            book.check()


def assert_tops_are_read_inside_the_horizons_only(book: Any, bid: float, ask: float) -> None:
    has_left = bid < book.bid_horizon, ask > book.ask_horizon
    assert any(has_left)
    refused = DepthCacheOutOfSync, book.market, "LEFT_HORIZON"
    assert outcome(lambda: book.best_bid[0]) == (refused if has_left[0] else bid)
    assert outcome(lambda: book.best_ask[0]) == (refused if has_left[1] else ask)
    assert outcome(book.view) == refused


def book_tickers(messages: list[Any]) -> dict[str, dict[int, Any]]:
    """Return the tops of each market by update id, as (bid, quantity, ask, quantity)."""
    tickers: dict[str, dict[int, Any]] = collections.defaultdict(dict)
    for message in messages:
        if message.kind == "bookTicker":
            ticker = loads(message.payload)["data"]
            tickers[message.market][ticker["u"]] = [ticker[key] for key in "bBaA"]
    return tickers


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_replayed_exactly(all_books: list[ModuleType], captures: Path, name: str) -> None:
    messages = messages_of(captures, name)
    tickers = book_tickers(messages)
    markets: dict[str, Replay] = {}
    for message in messages:
        if message.market not in markets:
            markets[message.market] = Replay(all_books, RECORDINGS[name].rule, message.market, tickers[message.market])
        if message.kind == "snapshot":
            markets[message.market].load(message.payload)
        elif message.kind == "depthUpdate":
            markets[message.market].receive(message.payload)
    counts: collections.Counter[str] = collections.Counter()
    for replay in markets.values():
        replay.compare_all()
        counts += replay.counts
    assert (counts["applied"], counts["matched"], counts["left"]) == EXPECTED[name]
