"""Both order books, driven by the same random history, are the same in everything that can be read.

After every step all looks and reads of both books are compared, also the types of what comes out and of what is raised,
and each checks its invariants. The history: snapshots, updates that fit, repeat, overlap and leave gaps, payloads that
are broken, suspensions, leases, widening decimals, and a second pair of books to compare with and adopt from.
"""

import functools
import operator
from decimal import Decimal
from types import ModuleType
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from messages import everything, make_snapshot, make_update, outcome

from ldc.types import Comparison, Verdict


def printed(units: int, decimals: int, zeros: int) -> str:
    """Return units / 10**decimals as text, with so many zeros more than it needs."""
    digits = str(units).rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :] + "0" * zeros
    return f"{whole}.{fraction}" if fraction else whole


# Few prices and quantities, so that they meet, and zeros enough; nearly all of one scale.
USUAL_PRICES = st.builds(printed, st.integers(9_980, 10_020), st.just(2), st.integers(0, 1))
USUAL_QUANTITIES = st.builds(printed, st.integers(0, 5), st.just(0), st.integers(0, 2))
LEVELS = st.lists(st.tuples(USUAL_PRICES, USUAL_QUANTITIES), max_size=8)
# Of other scales, which widen those of the book, and at the edge of int64, which a book can seldom hold.
FINE_PRICES = st.builds(printed, st.integers(99_800, 100_200), st.just(3), st.integers(0, 3))
FINE_QUANTITIES = st.builds(printed, st.integers(0, 30), st.integers(0, 3), st.integers(0, 2))
EDGES = st.sampled_from(["9223372036854775807", "92233720368.54775807", "92233720368547758.07", "0.000000000000000001"])
ODD_LEVELS = st.lists(
    st.tuples(USUAL_PRICES | FINE_PRICES | EDGES, USUAL_QUANTITIES | FINE_QUANTITIES | EDGES), max_size=4
)
RESTING = st.builds(printed, st.integers(1, 30), st.integers(0, 2), st.just(0))
TIMES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["5", 1.5, 2**63])
HOUR_NS = 3_600_000_000_000
RARELY = st.integers(0, 9).map(lambda number: number == 7)


def side(first: int, step: int, steps: list[int], quantities: list[str]) -> list[tuple[str, str]]:
    """Return levels at rising distances from the first price, as a snapshot has them."""
    levels = []
    for distance, quantity in zip(steps, quantities, strict=False):
        levels.append((printed(first, 2, 0), quantity))
        first += step * distance
    return levels


STEPS = st.lists(st.integers(1, 9), max_size=8)
BID_SIDES = st.builds(side, st.integers(9_990, 10_000), st.just(-1), STEPS, st.lists(RESTING, min_size=1, max_size=8))
ASK_SIDES = st.builds(side, st.integers(10_001, 10_010), st.just(1), STEPS, st.lists(RESTING, min_size=1, max_size=8))
LIMITS = st.none() | st.integers(1, 9)


class BothBooks(RuleBasedStateMachine):
    """Drives a book of each implementation, and a second one of each for comparing and adopting."""

    def __init__(self, modules: tuple[ModuleType, ModuleType]) -> None:
        super().__init__()
        self.modules = modules

    @initialize(
        name=st.sampled_from(["spot", "futures"]),
        market=st.sampled_from([None, "BTCUSDT"]),
        bids=BID_SIDES,
        asks=ASK_SIDES,
        limit=LIMITS,
        loaded=RARELY.map(operator.not_),
    )
    def make(self, name: str, market: str | None, bids: Any, asks: Any, limit: int | None, loaded: bool) -> None:
        self.books = [module.OrderBook(name, market=market, symbol="BTCUSDT") for module in self.modules]
        self.others = [module.OrderBook(name) for module in self.modules]
        if loaded:
            self.both(lambda book: book.load_snapshot(make_snapshot(bids, asks, 100), limit))

    def both(self, call: Any, of: list[Any] | None = None) -> Any:
        """Do the same with both; it has the same outcome, which is returned."""
        ours, theirs = (outcome(lambda book=book: call(book)) for book in of or self.books)
        assert repr(ours) == repr(theirs)
        return ours

    @property
    def book_id(self) -> int:
        return self.books[0].last_update_id or 100

    @rule(
        bids=BID_SIDES,
        asks=ASK_SIDES,
        limit=LIMITS,
        step=st.integers(-5, 5),
        time=TIMES,
        received=st.none() | st.integers(0, 9),
    )
    def load(self, bids: Any, asks: Any, limit: int | None, step: int, time: Any, received: int | None) -> None:
        body = make_snapshot(bids, asks, max(self.book_id + step, 1), E=time, T=time)
        self.both(lambda book: book.load_snapshot(body, limit, received_time_ns=received))

    @rule(bids=ODD_LEVELS, asks=ODD_LEVELS, limit=LIMITS)
    def load_anything(self, bids: Any, asks: Any, limit: int | None) -> None:
        self.both(lambda book: book.load_snapshot(make_snapshot(bids, asks, self.book_id), limit))

    @rule(
        bids=LEVELS, asks=LEVELS, length=st.integers(0, 3), time=TIMES, stream=st.sampled_from([None, "btcusdt@depth"])
    )
    def continue_it(self, bids: Any, asks: Any, length: int, time: Any, stream: str | None) -> None:
        first = self.book_id + 1
        update = make_update(first, first + length, first - 1, bids=bids, asks=asks, E=time, T=time, stream=stream)
        result = self.both(lambda book: book.apply(update, 7))
        assert result not in (Verdict.STALE, Verdict.GAP)

    @rule(bids=ODD_LEVELS, asks=ODD_LEVELS)
    def continue_it_with_odd_numbers(self, bids: Any, asks: Any) -> None:
        update = make_update(self.book_id + 1, self.book_id + 1, self.book_id, bids=bids, asks=asks)
        self.both(lambda book: book.apply(update))

    @rule(bids=LEVELS, asks=LEVELS, starts=st.integers(-4, 3), ends=st.integers(-4, 6), before=st.integers(0, 4))
    def apply_anywhere(self, bids: Any, asks: Any, starts: int, ends: int, before: int) -> None:
        update = make_update(
            self.book_id + starts, self.book_id + ends, self.book_id + starts - before, bids=bids, asks=asks
        )
        self.both(lambda book: book.apply(update))

    @rule(
        bids=LEVELS,
        wrong=st.sampled_from(
            [b"", b"{", b"null", b'{"e":"depthUpdate"}', b'{"data":[]}', b'{"U":1,"u":2,"b":[],"a":[["1"]]}', b"\xff"]
        ),
        cut=st.integers(0, 200),
        byte=st.integers(0, 255),
    )
    def break_it(self, bids: Any, wrong: bytes, cut: int, byte: int) -> None:
        sound = make_update(self.book_id + 1, self.book_id + 1, self.book_id, bids=bids)
        cut = min(cut, len(sound) - 1)
        for payload in (wrong, sound[:cut], sound[:cut] + bytes([byte]) + sound[cut + 1 :]):
            self.both(lambda book, payload=payload: book.apply(payload))
            self.both(lambda book, payload=payload: book.load_snapshot(payload))

    @rule(
        symbol=st.sampled_from(["btcusdt", "ETHUSDT", None, 5]), event=st.sampled_from(["trade", "depthUpdate", None])
    )
    def apply_of_another(self, symbol: Any, event: Any) -> None:
        update = make_update(self.book_id + 1, self.book_id + 1, self.book_id, s=symbol, e=event)
        self.both(lambda book: book.apply(update))

    @rule(cause=st.sampled_from(["GAP", "STREAM_CLOSED", "", None]))
    def suspend(self, cause: Any) -> None:
        self.both(lambda book: book.suspend(cause))

    @rule()
    def resume(self) -> None:
        self.both(lambda book: book.resume())

    @rule(cause=st.sampled_from(["STOPPED", "", None]), really=RARELY)
    def close(self, cause: Any, really: bool) -> None:
        if really:
            self.both(lambda book: book.close(cause))

    @rule(kind=st.sampled_from([None, None, "proven", "expired", "never proven"]))
    def lease(self, kind: str | None) -> None:
        for module, book in zip(self.modules, self.books, strict=True):
            lease = None if kind is None else module.Lease(1 if kind == "expired" else HOUR_NS)
            if lease is not None and kind != "never proven":
                lease.renew(module.Lease.now_ns() if kind == "proven" else 0)
            book.lease = lease

    @rule(really=RARELY)
    def clear(self, really: bool) -> None:
        if really:
            self.both(lambda book: book.clear())

    @rule(bids=BID_SIDES, asks=ASK_SIDES, limit=LIMITS, step=st.sampled_from([0, 0, 0, 1]))
    def load_other(self, bids: Any, asks: Any, limit: int | None, step: int) -> None:
        self.both(lambda book: book.load_snapshot(make_snapshot(bids, asks, self.book_id + step), limit), self.others)

    @precondition(lambda self: self.books[0].is_loaded)
    @rule(limit=LIMITS, bids=LEVELS)
    def load_other_as_ours_is(self, limit: int | None, bids: Any) -> None:
        view = self.books[0].held_levels(number=str)
        body = make_snapshot(view.bids, view.asks, self.book_id - 1)
        self.both(lambda book: book.load_snapshot(body, limit), self.others)
        update = make_update(self.book_id, self.book_id, self.book_id - 1, bids=bids)
        self.both(lambda book: book.apply(update), self.others)

    @rule()
    def compare(self) -> None:
        pairs = list(zip(self.books, self.others, strict=True))
        there = [outcome(lambda ours=ours, other=other: ours.compare(other)) for ours, other in pairs]
        back = [outcome(lambda ours=ours, other=other: other.compare(ours)) for ours, other in pairs]
        assert there[0] == there[1]
        assert back[0] == back[1]
        if isinstance(there[0], Comparison):
            assert back[0] == there[0]._replace(missing=there[0].extra, extra=there[0].missing)

    @rule(itself=RARELY)
    def adopt(self, itself: bool) -> None:
        pairs = zip(self.books, self.books if itself else self.others, strict=True)
        results = [outcome(lambda ours=ours, other=other: ours.adopt(other)) for ours, other in pairs]
        assert results[0] == results[1]

    @invariant()
    def all_that_can_be_read_is_the_same(self) -> None:
        for ours, theirs in (self.books, self.others):
            assert everything(ours) == everything(theirs)
            assert everything(ours.reader) == everything(theirs)
            for number in (float, Decimal, str):
                held = [outcome(functools.partial(book.held_levels, number=number)) for book in (ours, theirs)]
                assert repr(held[0]) == repr(held[1])
            ours.check()
            theirs.check()


def test_both_books_live_through_the_same_history(both_books: tuple[ModuleType, ModuleType]) -> None:
    run_state_machine_as_test(lambda: BothBooks(both_books), settings=settings(stateful_step_count=40))
