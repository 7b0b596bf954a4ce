"""The fields of an order book in plain Python: what a commit changes, what a read is refused for, who consumes it.

Rule: whatever changes or reads the fields does so under the lock of the book, unless it says otherwise.
"""

import math
import threading

from ldc.book.pure.json import INT64_MAX, DepthUpdate, Snapshot, Unreadable
from ldc.book.pure.lease import Lease
from ldc.book.pure.retain import RetainedUpdates
from ldc.book.pure.shared import RegionWriter
from ldc.book.pure.side import (
    LEVELS_PER_SIDE_MAX,
    Level,
    LoadedSides,
    OffScale,
    Sides,
    converter,
    count_saturated,
    levels_at_scale,
    read_levels,
)
from ldc.book.pure.updates import BookWatch, UpdateQueue, differences
from ldc.errors import (
    BookNotLoaded,
    MalformedMessage,
    is_final,
    refused,
    refused_as_stalled,
    refused_past_horizon,
    refused_unloaded,
)
from ldc.sequence import SequenceRule, check_ids, judge, start_id
from ldc.types import BookCounters, Cause, Header, Message, Verdict

VERDICT_COUNTERS = ("updates_applied", "updates_stale", "updates_gap")
"""The counter of each `Verdict`."""


class State:
    """The fields of a book, shared by the `OrderBook` and its `BookReader`."""

    __slots__ = (
        "attend_at_count",
        "attend_at_id",
        "closed_by",
        "counts",
        "epoch",
        "event_time_ms",
        "is_first_after_snapshot",
        "last_header",
        "last_update_id",
        "lease",
        "lock",
        "market",
        "received_time_ns",
        "region",
        "retained",
        "rule",
        "sides",
        "suspended_by",
        "symbol",
        "transaction_time_ms",
        "was_lost",
        "watches",
    )

    def __init__(self, rule: SequenceRule, market: str | None, symbol: str | None) -> None:
        self.lock = threading.Lock()
        self.rule = rule
        self.market = market
        self.symbol = None if symbol is None else lower(symbol)
        self.counts = dict.fromkeys(BookCounters._fields, 0)
        self.suspended_by: str | None = None
        self.closed_by: str | None = None
        self.lease: Lease | None = None
        self.region: RegionWriter | None = None
        """Through which other processes read the book."""
        self.epoch = 0
        self.watches: tuple[BookWatch, ...] = ()
        """The consumers of its updates."""
        self.retained: RetainedUpdates | None = None
        """Updates that are kept for a snapshot; None: they are not wanted."""
        self.forget()

    def forget(self) -> None:
        """Become what a book is before its first snapshot, but for the counters and the suspension. Under the lock."""
        self.sides: Sides | None = None
        """None until a snapshot is loaded; from then on `last_update_id` is not None either."""
        self.last_update_id: int | None = None
        self.event_time_ms: int | None = None
        self.transaction_time_ms: int | None = None
        self.received_time_ns: int | None = None
        self.last_header: Header | None = None
        self.is_first_after_snapshot = False
        self.was_lost = False
        """It could not be read where it stood: crossed, or past its horizon."""
        self.attend_nowhere()

    def attend_nowhere(self) -> None:
        """Draw no attention at an update id. Under the lock."""
        self.attend_at_id: float = math.inf
        self.attend_at_count: float = math.inf

    @property
    def needs_attention(self) -> bool:
        """Whether the owner has to see the book. Under the lock."""
        sides = self.sides
        if sides is None:
            return False
        assert self.last_update_id is not None
        return (
            sides.is_crossed
            or sides.bids.is_short
            or sides.asks.is_short
            or self.last_update_id >= self.attend_at_id
            or self.counts["updates_applied"] >= self.attend_at_count
        )

    def publish(self) -> None:
        """Let other processes see a change. Under the lock."""
        if self.region is not None:
            self.region.inner.write(self)

    # refusals

    def loaded(self) -> Sides:
        """Return the levels; raise `BookNotLoaded` if there are none."""
        if self.sides is None:
            raise BookNotLoaded(self.market, Cause.NOT_LOADED)
        return self.sides

    def readable(self) -> Sides:
        """Return the levels, unless the whole book cannot be read. Under the lock. docs/order-book.md has the order."""
        sides, lease = self.sides, self.lease
        if self.closed_by is not None:
            raise refused(self.market, self.closed_by, self.last_update_id)
        if sides is None:
            raise refused_unloaded(self.market, Cause.NOT_LOADED, self.suspended_by)
        assert self.last_update_id is not None
        if self.suspended_by is not None:
            raise refused(self.market, self.suspended_by, self.last_update_id)
        if lease is not None:
            age_ns = lease.age_ns
            if age_ns is None or age_ns > lease.duration_ns:
                raise refused_as_stalled(self.market, Cause.STALLED, self.last_update_id, age_ns, lease.duration_ns)
        if sides.is_crossed:
            raise refused(self.market, Cause.CROSSED, self.last_update_id)
        return sides

    def readable_inside(self, *names: str) -> Sides:
        """Return the levels, unless the book or one of these sides cannot be read. Under the lock."""
        sides = self.readable()
        for name in names:
            side = getattr(sides, name)
            if side.has_left:
                assert self.last_update_id is not None
                horizon = converter(float, sides.price_decimals)(side.horizon_price)
                raise refused_past_horizon(self.market, Cause.LEFT_HORIZON, self.last_update_id, name, horizon)
        return sides

    def malformed(self, what: str, why: Unreadable) -> MalformedMessage:
        """Return the error for a message that was refused."""
        where = "it holds no snapshot" if self.sides is None else f"it stays at update {self.last_update_id}"
        sentence = f"{self._subject()} refuses a {what}: {why}. Nothing of it was used; {where}."
        return MalformedMessage(self.market, None, sentence)

    def _subject(self) -> str:
        return f"The book of {self.market!r}" if self.market is not None else "The book"

    # writing, under the lock

    def load(self, snapshot: Snapshot, loaded: LoadedSides, received_time_ns: int | None) -> None:
        """Replace everything by a snapshot, whose levels are ready."""
        try:
            self.sides = loaded.sides
            self.last_update_id = snapshot.last_update_id
            self.event_time_ms = snapshot.event_time_ms
            self.transaction_time_ms = snapshot.transaction_time_ms
            self.received_time_ns = received_time_ns
            self.is_first_after_snapshot = True
            self.attend_nowhere()
        except BaseException:
            self.forget()
            raise
        self.counts["snapshots_loaded"] += 1
        self.counts["quantities_saturated"] += loaded.saturated_count
        self.counts["levels_dropped"] += loaded.dropped_count
        self.epoch += self.suspended_by is None and self.closed_by is None
        self.note_epoch()
        self.note_state(is_replaced=True)
        self.publish()

    def apply(self, update: DepthUpdate, received_time_ns: int | None, payload: Message) -> Verdict:
        """Read the numbers, judge the ids, commit the levels."""
        sides, book_id, header = self.loaded(), self.last_update_id, update.header
        sides_before = sides
        first_id, last_id, previous_id = header.first_update_id, header.last_update_id, header.previous_update_id
        wrong = check_ids(self.rule, first_id, last_id, previous_id)
        if wrong is not None:
            raise Unreadable(wrong)
        assert book_id is not None
        assert first_id is not None
        assert last_id is not None
        if self.symbol is not None and header.symbol is not None and lower(header.symbol) != self.symbol:
            raise Unreadable("its symbol is not that of this book")
        exact = None
        try:
            bids = levels_at_scale(update.bids, sides.price_decimals, sides.quantity_decimals)
            asks = levels_at_scale(update.asks, sides.price_decimals, sides.quantity_decimals)
        except OffScale:
            exact = read_levels(update.bids), read_levels(update.asks)

        verdict = judge(self.rule, book_id, self.is_first_after_snapshot, first_id, last_id, previous_id)
        if verdict is Verdict.APPLIED:
            if exact is not None:
                sides, bids, asks = sides.fitted(*exact)
            try:
                self._commit(sides, bids, asks)
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
            self.note_epoch()
            if self.watches:
                self._note_update(payload, first_id, bids, asks, is_widened=sides is not sides_before)
            self.publish()
        self.last_header = header
        self.counts[VERDICT_COUNTERS[verdict]] += 1
        return verdict

    def _commit(self, sides: Sides, bids: list[Level], asks: list[Level]) -> None:
        self.sides = sides
        for side, levels in ((sides.bids, bids), (sides.asks, asks)):
            changes = dict(levels)  # the last entry of a price wins
            side.put(changes)
            if len(side.keys) > LEVELS_PER_SIDE_MAX:
                self.counts["levels_dropped"] += side.cut()
            if len(levels) > len(changes) or INT64_MAX in changes.values():
                self.counts["prices_repeated"] += len(levels) - len(changes)
                self.counts["quantities_saturated"] += count_saturated(levels)

    # the consumers of its updates, under the lock

    def watched_cause(self) -> str | None:
        """Return why it cannot be read, whatever its lease; None: it can."""
        sides, refusing = self.sides, self.closed_by or self.suspended_by
        if sides is None:
            return refusing if refusing is not None and is_final(refusing) else Cause.NOT_LOADED
        if refusing is not None:
            return refusing
        if sides.is_crossed:
            return Cause.CROSSED
        return Cause.LEFT_HORIZON if sides.bids.has_left or sides.asks.has_left else None

    def note_epoch(self) -> None:
        """A book that could not be read where it stood can be again: that begins an epoch."""
        sides = self.sides
        assert sides is not None
        is_lost = sides.is_crossed or sides.bids.has_left or sides.asks.has_left
        self.epoch += self.was_lost and not is_lost
        self.was_lost = is_lost

    def note_state(self, *, is_replaced: bool = False) -> None:
        """Tell the consumers that it was suspended, resumed, cleared or loaded."""
        if self.watches:
            cause = self.watched_cause()
            for watch in self.watches:
                watch.note_state(cause, is_replaced=is_replaced)

    def _note_update(
        self, payload: Message, first_id: int, bids: list[Level], asks: list[Level], *, is_widened: bool
    ) -> None:
        cause = self.watched_cause()
        message = payload.encode() if isinstance(payload, str) else bytes(payload)
        for watch in self.watches:
            watch.note_update(cause, message, first_id, bids, asks, is_widened)

    def note_adoption(self, before: Sides) -> None:
        """Tell the consumers that it has adopted other levels."""
        assert self.sides is not None
        if not self.watches:
            return
        cause, changed = self.watched_cause(), differences(before, self.sides)
        horizons = [(sides.bids.horizon, sides.asks.horizon) for sides in (before, self.sides)]
        is_none = changed == ([], []) and horizons[0] == horizons[1]
        for watch in self.watches:
            watch.note_adoption(cause, changed, is_none)

    def wake_consumers(self, *, is_feed: bool = False) -> bool:
        """Wake the queues that have news. `is_feed`: return whether one is inline, whose consumer then runs here."""
        if not self.watches:
            return False
        with self.lock:
            queues = self.queues_to_wake()
        calls = False
        for queue in queues:
            if is_feed and queue.is_inline:
                calls = True
            else:
                queue.wake()
        return calls

    def queues_to_wake(self) -> "list[UpdateQueue]":
        """Return the queues that have news, once. Under the lock."""
        queues = [watch.queue for watch in self.watches if watch.needs_wake]
        for watch in self.watches:
            watch.needs_wake = False
        return queues

    # copies and checks

    def copy_sides(self) -> tuple[Sides, int]:
        """Return a copy of the levels, and the update id that they are of. Takes the lock."""
        with self.lock:
            sides = self.loaded()
            assert self.last_update_id is not None
            return sides.copy(), self.last_update_id

    def check(self) -> None:
        """Raise ``AssertionError`` if an invariant is broken. Under the lock."""
        assert all(count >= 0 for count in self.counts.values())
        assert self.suspended_by is None or self.suspended_by != ""
        if self.sides is None:
            assert self.last_update_id is None
            assert self.last_header is None
        else:
            assert self.last_update_id is not None
            assert self.last_update_id >= 1
            self.sides.check()


def lower(symbol: str) -> str:
    """Make the ASCII letters small, and only them: a symbol may be in any script."""
    return symbol.encode().lower().decode()
