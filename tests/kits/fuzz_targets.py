"""What fuzzing calls: one message at a time, judged by `strict_reading` (`json` and `Decimal`) and by the books.

A target takes any bytes and raises AssertionError where a book and the second opinion differ in anything that can be
read: accepted or refused, ids, times, scales, levels, horizons, counters. It returns whether the message was accepted.
It keeps no state that a message could change, so that an input that fails once fails always.
"""

from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any

import strict_reading
from messages import make_snapshot
from strict_reading import EXACT, INT64_MAX, RefusedError, decimals_of

from ldc.errors import MalformedMessage
from ldc.sequence import RULES, judge
from ldc.types import Verdict

Target = Callable[[bytes], bool]

BASES = {
    # rule: (bids, asks, decimals as printed): the two forms in which venues print.
    "spot": (
        [("61737.63000000", "1.00000000"), ("61730.17000000", "0.50000000"), ("56854.58000000", "2.00000000")],
        [("61837.64000000", "0.10000000"), ("61839.85000000", "1.00000000"), ("61848.49000000", "3.00000000")],
        (8, 8),
    ),
    "futures": ([("2671.65", "20.506"), ("2671.60", "1.000")], [("2689.90", "0.100"), ("2690.01", "7.250")], (2, 3)),
}
BASE_SIDES = {
    rule: [{Decimal(price): Decimal(quantity) for price, quantity in side} for side in (bids, asks)]
    for rule, (bids, asks, _) in BASES.items()
}
BASE_VIEWS = {rule: (tuple(bids), tuple(asks)) for rule, (bids, asks, _) in BASES.items()}
SNAPSHOT_LIMITS = (None, 3)
FAR_FROM_THE_END = b'"x":"' + b"." * 160 + b'"'
"""Behind a number: near the end of a message the compiled book reads with another piece of code than before it."""


class UpdateTarget:
    """Any bytes as a depth update, under both rules."""

    def __init__(self, module: ModuleType) -> None:
        """Make a book for each rule."""
        self.module = module
        self.books = {rule: module.OrderBook(rule, market="X") for rule in BASES}
        for rule, book in self.books.items():
            renew(book, rule, 1)

    def __call__(self, payload: bytes) -> bool:
        """Judge one message."""
        value = value_of(payload)
        accepted = [self.judge(rule, book, payload, value) for rule, book in self.books.items()]
        self.compare_header(payload, value)
        return any(accepted)

    def judge(self, rule: str, book: Any, payload: bytes, value: Any) -> bool:
        chains = RULES[rule].chains_by_previous_id
        decimals, sides = BASES[rule][2], [side.copy() for side in BASE_SIDES[rule]]
        start = book.last_update_id
        counted = book.counters
        try:
            update = strict_reading.Update(value, chains_by_previous_id=chains)
            wanted = (update.previous if chains else update.first - 1) or 1
            if wanted != start:
                renew(book, rule, wanted)
                start, counted = wanted, book.counters
            verdict = judge(RULES[rule], start, True, update.first, update.last, update.previous)
            if verdict is Verdict.APPLIED:
                strict_reading.applied(sides, decimals, update)
        except RefusedError:
            must_refuse(book.apply, payload)
            assert book.counters == counted._replace(updates_malformed=counted.updates_malformed + 1), payload
            assert book.last_update_id == start, payload
            assert_unchanged(book, rule, payload)
            return False
        assert book.apply(payload) is verdict, payload
        assert book.last_header == header(update), payload
        named = [level for level in update.bids + update.asks if level[1]]
        if verdict is Verdict.APPLIED:
            decimals = tuple(
                max([decimals[number], *(decimals_of(level[number]) for level in named)]) for number in (0, 1)
            )
            assert book.last_update_id == update.last, payload
            assert (book.event_time_ms, book.transaction_time_ms) == (update.event_time, update.transaction_time)
            repeated = sum(repeats(levels, decimals[0]) for levels in (update.bids, update.asks))
            assert book.counters.prices_repeated - counted.prices_repeated == repeated, payload
            saturated = sum(is_saturated(quantity) for _, quantity in named)
            assert book.counters.quantities_saturated - counted.quantities_saturated == saturated, payload
        assert_levels(book, sides, decimals, payload)
        book.check()
        renew(book, rule, 1)
        return True

    def compare_header(self, payload: bytes, value: Any) -> None:
        try:
            expected = strict_header(value)
        except RefusedError:
            must_refuse(self.module.read_header, payload)
        else:
            assert self.module.read_header(payload) == expected, payload


def renew(book: Any, rule: str, update_id: int) -> None:
    bids, asks, _ = BASES[rule]
    book.load_snapshot(make_snapshot(bids, asks, update_id), 3)


def header(update: Any) -> tuple[Any, ...]:
    return (
        update.stream, update.event, update.symbol, update.first, update.last, update.previous, update.event_time,
    )  # fmt: skip


def strict_header(value: Any) -> tuple[Any, ...]:
    """Return what read_header should, or raise RefusedError."""
    outermost = strict_reading.known(value, ("stream", "data", *strict_reading.EVENT_KEYS))
    fields = outermost
    if "data" in outermost:
        strict_reading.demand(not set(strict_reading.EVENT_KEYS) & set(outermost))
        fields = strict_reading.known(outermost["data"], strict_reading.EVENT_KEYS)
    texts = [
        strict_reading.read_text(where, key) for where, key in ((outermost, "stream"), (fields, "e"), (fields, "s"))
    ]
    ids = [strict_reading.read_id(fields, key, needed=False) for key in ("U", "u", "pu")]
    return (*texts, *ids, strict_reading.read_time(fields, "E"))


def repeats(levels: list[strict_reading.Level], decimals: int) -> int:
    """Return how many entries of a side name a price once more, of those that can be held at this scale."""
    held = [
        price for price, _ in levels if decimals_of(price) <= decimals and price.scaleb(decimals, EXACT) <= INT64_MAX
    ]
    return len(held) - len(set(held))


def is_saturated(quantity: Decimal) -> bool:
    return quantity.scaleb(decimals_of(quantity), EXACT) == INT64_MAX


def value_of(payload: bytes) -> Any:
    """Return what strict JSON says, or None, which is no message either."""
    try:
        return strict_reading.read_json(payload)
    except RefusedError:
        return None


def assert_unchanged(book: Any, rule: str, payload: bytes) -> None:
    """Assert that a book holds the levels it was made with, printed as they were sent."""
    view = book.held_levels(number=str)
    assert (view.bids, view.asks) == BASE_VIEWS[rule], payload
    assert (book.price_decimals, book.quantity_decimals) == BASES[rule][2], payload


def must_refuse(call: Callable[[bytes], object], payload: bytes) -> None:
    try:
        result = call(payload)
    except MalformedMessage:
        return
    raise AssertionError(f"accepted, with {result!r}: {payload!r}")


def assert_levels(book: Any, sides: list[dict[Decimal, Decimal]], decimals: tuple[int, ...], payload: bytes) -> None:
    """Assert that a book holds these levels, printed with these decimals."""
    assert (book.price_decimals, book.quantity_decimals) == decimals, payload
    view = book.held_levels(number=str)
    for held, side, worst_first in zip((view.bids, view.asks), sides, (True, False), strict=True):
        ordered = sorted(side.items(), reverse=worst_first)
        assert held == tuple(tuple(map(printed, level, decimals)) for level in ordered), payload


def printed(number: Decimal, decimals: int) -> str:
    return format(number.quantize(Decimal(1).scaleb(-decimals), context=EXACT), "f")


class SnapshotTarget:
    """Any bytes as a snapshot, with a limit and without."""

    def __init__(self, module: ModuleType) -> None:
        """Make the book that is to stay or to be replaced."""
        self.book = module.OrderBook("spot", market="X")
        renew(self.book, "spot", 1)

    def __call__(self, payload: bytes) -> bool:
        """Judge one message."""
        value = value_of(payload)
        accepted = [self.judge(payload, value, limit) for limit in SNAPSHOT_LIMITS]
        return any(accepted)

    def judge(self, payload: bytes, value: Any, limit: int | None) -> bool:
        book = self.book
        try:
            snapshot = strict_reading.Snapshot(value, limit)
        except RefusedError:
            must_refuse(lambda body: book.load_snapshot(body, limit), payload)
            assert book.last_update_id == 1, payload
            assert_unchanged(book, "spot", payload)
            return False
        counted = book.counters
        book.load_snapshot(payload, limit)
        assert book.last_update_id == snapshot.last, payload
        assert (book.event_time_ms, book.transaction_time_ms) == (snapshot.event_time, snapshot.transaction_time)
        saturated = sum(is_saturated(quantity) for side in snapshot.sides for quantity in side.values())
        assert book.counters.quantities_saturated - counted.quantities_saturated == saturated, payload
        assert_levels(book, snapshot.sides, snapshot.decimals, payload)
        view = book.view(number=Decimal)
        assert [view.bid_horizon, view.ask_horizon] == snapshot.horizons, payload
        book.check()
        renew(book, "spot", 1)
        return True


class NumberTarget:
    """Any bytes as the text of a price and of a quantity, near the end of a message and far from it; and as a time."""

    def __init__(self, module: ModuleType) -> None:
        """Make the targets through which numbers are seen."""
        self.update = UpdateTarget(module)
        self.snapshot = SnapshotTarget(module)

    def __call__(self, data: bytes) -> bool:
        """Judge one number."""
        level = b'[["' + data + b'","1.5"],["7","' + data + b'"]]'
        accepted = self.update(b'{"U":2,"u":3,"pu":1,"a":[],"b":' + level + b"}")
        accepted |= self.update(b'{"U":2,"u":3,"pu":1,"a":[],"b":' + level + b"," + FAR_FROM_THE_END + b"}")
        accepted |= self.snapshot(b'{"lastUpdateId":5,"bids":[],"asks":[["' + data + b'","' + data + b'"]]}')
        time = b'{"b":[],"a":[],"U":2,"u":3,"pu":1,"E":' + data
        accepted |= self.update(time + b"}")
        accepted |= self.update(time + b"," + FAR_FROM_THE_END + b',"T":' + data + b"}")
        return accepted


TARGETS: dict[str, Callable[[ModuleType], Target]] = {
    "update": UpdateTarget,
    "snapshot": SnapshotTarget,
    "number": NumberTarget,
}
