"""What an order book in plain Python holds, and what a depth update does to it: judged, and applied or not.

Rule 1: decode, judge, commit. Whatever can be refused is refused before anything changes.
Rule 2: a book is whole or it is none. Nothing in a commit can fail, but Ctrl-C and a lack of memory strike anywhere;
        then the book is forgotten, because half an update must not be read.
Rule 3: methods that need the lock say so; those of `ldc.book.pure.book` take it, and never two at once.
"""

import threading
from typing import NoReturn

from ldc.book.pure.json import INT64_MAX, DepthUpdate, Snapshot, Unreadable
from ldc.book.pure.side import (
    LEVELS_PER_SIDE_MAX,
    Ladders,
    Level,
    LoadedLadders,
    OffScale,
    count_saturated,
    levels_at_scale,
    read_levels,
)
from ldc.errors import BookNotLoaded, DepthCacheOutOfSync, MalformedMessage
from ldc.sequence import SequenceRule, check_ids, judge, start_id
from ldc.types import BookCounters, Cause, Header, Verdict

_VERDICT_COUNTERS = ("updates_applied", "updates_stale", "updates_gap")  # indexed by Verdict


class State:
    """The fields of a book, shared by the `OrderBook` and its `BookReader`."""

    __slots__ = (
        "counts",
        "event_time_ms",
        "is_first_after_snapshot",
        "ladders",
        "last_header",
        "last_update_id",
        "lock",
        "market",
        "received_time_ns",
        "rule",
        "suspended_by",
        "symbol",
        "transaction_time_ms",
    )

    def __init__(self, rule: SequenceRule, market: str | None, symbol: str | None) -> None:
        self.lock = threading.Lock()
        self.rule = rule
        self.market = market
        self.symbol = None if symbol is None else _lower(symbol)
        self.counts = dict.fromkeys(BookCounters._fields, 0)
        self.suspended_by: str | None = None
        self.forget()

    def forget(self) -> None:
        """Become what a book is before its first snapshot, but for the counters and the suspension. Under the lock."""
        self.ladders: Ladders | None = None
        """None until a snapshot is loaded; from then on `last_update_id` is not None either."""
        self.last_update_id: int | None = None
        self.event_time_ms: int | None = None
        self.transaction_time_ms: int | None = None
        self.received_time_ns: int | None = None
        self.last_header: Header | None = None
        self.is_first_after_snapshot = False

    # refusals

    def loaded(self) -> Ladders:
        """Return the levels; raise `BookNotLoaded` if there are none."""
        if self.ladders is None:
            raise BookNotLoaded(self.market, Cause.NOT_LOADED)
        return self.ladders

    def readable(self) -> Ladders:
        """Return the levels, unless the whole book cannot be read. Under the lock."""
        ladders = self.loaded()
        if self.suspended_by is not None:
            raise DepthCacheOutOfSync(self.market, self.suspended_by)
        return ladders

    def raise_left_horizon(self, side: str, horizon: float) -> NoReturn:
        """Say that a side has no known level left."""
        raise DepthCacheOutOfSync(
            self.market,
            Cause.LEFT_HORIZON,
            f"{self._subject()} cannot be read at update {self.last_update_id}: no level is left in its {side} up to "
            f"{horizon}, where the last snapshot ended; load a new one, or wait until it is synchronized.",
        )

    def malformed(self, what: str, why: Unreadable) -> MalformedMessage:
        """Return the error for a message that was refused."""
        where = "it holds no snapshot" if self.ladders is None else f"it stays at update {self.last_update_id}"
        sentence = f"{self._subject()} refuses a {what}: {why}. Nothing of it was used; {where}."
        return MalformedMessage(self.market, None, sentence)

    def _subject(self) -> str:
        return f"The book of {self.market!r}" if self.market is not None else "The book"

    # writing, under the lock

    def load(self, snapshot: Snapshot, loaded: LoadedLadders, received_time_ns: int | None) -> None:
        """Replace everything by a snapshot, whose levels are ready."""
        try:
            self.ladders = loaded.ladders
            self.last_update_id = snapshot.last_update_id
            self.event_time_ms = snapshot.event_time_ms
            self.transaction_time_ms = snapshot.transaction_time_ms
            self.received_time_ns = received_time_ns
            self.is_first_after_snapshot = True
        except BaseException:
            self.forget()
            raise
        self.counts["snapshots_loaded"] += 1
        self.counts["quantities_saturated"] += loaded.saturated_count
        self.counts["levels_dropped"] += loaded.dropped_count

    def apply(self, update: DepthUpdate, received_time_ns: int | None) -> Verdict:
        """Read the numbers, judge the ids, commit the levels."""
        ladders, book_id, header = self.loaded(), self.last_update_id, update.header
        first_id, last_id, previous_id = header.first_update_id, header.last_update_id, header.previous_update_id
        wrong = check_ids(self.rule, first_id, last_id, previous_id)
        if wrong is not None:
            raise Unreadable(wrong)
        assert book_id is not None
        assert first_id is not None
        assert last_id is not None
        if self.symbol is not None and header.symbol is not None and _lower(header.symbol) != self.symbol:
            raise Unreadable("its symbol is not that of this book")
        exact = None
        try:
            bids = levels_at_scale(update.bids, ladders.price_decimals, ladders.quantity_decimals)
            asks = levels_at_scale(update.asks, ladders.price_decimals, ladders.quantity_decimals)
        except OffScale:
            exact = read_levels(update.bids), read_levels(update.asks)

        verdict = judge(self.rule, book_id, self.is_first_after_snapshot, first_id, last_id, previous_id)
        if verdict is Verdict.APPLIED:
            if exact is not None:
                ladders, bids, asks = ladders.fitted(*exact)
            try:
                self._commit(ladders, bids, asks)
                self.last_update_id = last_id
                self.event_time_ms = header.event_time_ms
                self.transaction_time_ms = update.transaction_time_ms
                self.received_time_ns = received_time_ns
                self.is_first_after_snapshot = False
            except BaseException:
                self.forget()
                raise
            if start_id(self.rule, first_id, previous_id) < book_id:
                self.counts["updates_overlapping"] += 1
        self.last_header = header
        self.counts[_VERDICT_COUNTERS[verdict]] += 1
        return verdict

    def _commit(self, ladders: Ladders, bids: list[Level], asks: list[Level]) -> None:
        self.ladders = ladders
        for side, levels in ((ladders.bids, bids), (ladders.asks, asks)):
            changes = dict(levels)  # the last entry of a price wins
            side.put(changes)
            if len(side.keys) > LEVELS_PER_SIDE_MAX:
                self.counts["levels_dropped"] += side.cut()
            if len(levels) > len(changes) or INT64_MAX in changes.values():
                self.counts["prices_repeated"] += len(levels) - len(changes)
                self.counts["quantities_saturated"] += count_saturated(levels)

    # copies and checks

    def ladders_copy(self) -> tuple[Ladders, int]:
        """Return a copy of the levels, and the update id that they are of. Takes the lock."""
        with self.lock:
            ladders = self.loaded()
            assert self.last_update_id is not None
            return ladders.copy(), self.last_update_id

    def check(self) -> None:
        """Raise ``AssertionError`` if an invariant is broken. Under the lock."""
        assert all(count >= 0 for count in self.counts.values())
        assert self.suspended_by is None or self.suspended_by != ""
        if self.ladders is None:
            assert self.last_update_id is None
            assert self.last_header is None
        else:
            assert self.last_update_id is not None
            assert self.last_update_id >= 1
            self.ladders.check()


def _lower(symbol: str) -> str:
    """Make the ASCII letters small, and only them: a symbol may be in any script."""
    return symbol.encode().lower().decode()
