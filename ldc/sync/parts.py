"""The parts that the synchronizer and its refresh are made of: what goes in and out, and two small stores.

Rule 1: nothing here decides when a market is synchronized; that is `ldc.sync.machine`'s, with its table.
Rule 2: no clock, no random source, no socket, no thread, no log: `now` is an argument, in seconds of any steady clock.
Rule 3: whatever can grow has a limit with a name, and what is given up at the limit is counted with its cause.
"""

import enum
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ldc.errors import MalformedMessage
from ldc.sequence import SequenceRule, judge, start_id
from ldc.types import Cause, Comparison, Header, Message, SyncState, Verdict

if TYPE_CHECKING:
    from ldc.book import OrderBook

__all__ = [
    "ACTIONS_MAX",
    "BUFFER_BYTES_MAX",
    "BUFFER_UPDATES_MAX",
    "FORMER_NUMBERING_MS",
    "PRICE_FACTOR_MAX",
    "RETRY_S_FIRST",
    "RETRY_S_MAX",
    "Action",
    "CancelSnapshot",
    "Payload",
    "Purpose",
    "RefreshResult",
    "Refreshed",
    "RequestSnapshot",
    "SnapshotDrop",
    "SnapshotRequests",
    "StateChanged",
    "Update",
    "UpdateBuffer",
    "UpdateDrop",
    "are_prices_far_apart",
    "are_sides_far_apart",
    "is_far_from_updates",
    "is_later",
    "middle_price",
]

Payload = Message
"""A depth update as the frame brought it. What must be kept is copied, so the caller may reuse its memory."""

BUFFER_UPDATES_MAX = 1_000
"""Updates kept for a snapshot under way: 100 s at ten a second. At the limit the oldest is given up, and the request
stays: a snapshot is as new as its answer, so the updates that it needs are the newest ones."""

BUFFER_BYTES_MAX = 4 * 1024 * 1024
"""As above, in bytes of payload (a recorded update has 1.6 kB on average and 35 kB at most). The newest update is kept
whatever its size, so a buffer holds at most this plus one message."""

FORMER_NUMBERING_MS = 1_000
"""An update that reaches further than one sent so much later is of a numbering that is over. Nodes that send are
less than this apart. One that lags by more costs two snapshots, no more: what is given up for it, it will bring."""

ACTIONS_MAX = 1_000
"""Actions that nobody drained. One more input is then refused with a ``RuntimeError``: a caller who does not drain
never requests a snapshot either, and would wait for ever."""

PRICE_FACTOR_MAX = 2.0
"""A snapshot whose middle price is this many times away from the book's is taken for one of another market."""

WITNESSES_MAX = 100
"""So many buffered updates are asked for their prices; the rest would say the same."""

RETRY_S_FIRST = 1.0
"""After a first failure the next snapshot is asked for within this time, drawn by lot; then within twice as long."""

RETRY_S_MAX = 30.0
"""There the doubling ends. Less than a full buffer spans, so that what is buffered meanwhile is not lost."""


class Purpose(enum.IntEnum):
    """What a snapshot is for. The smaller, the more urgent: serve the requests of all markets in this order."""

    SYNCHRONIZE = 0
    """The market cannot be read without it."""
    HORIZON = 1
    """The market is about to leave, or has left, the range in which its copy is complete."""
    CONFIRM = 2
    """A refresh found a difference; this snapshot decides who is right."""
    REQUESTED = 3
    """The user asked for a refresh."""
    DEEPEN = 4
    """The next step of the ladder of limits."""
    INTERVAL = 5
    """The refresh interval is over."""


class UpdateDrop(enum.StrEnum):
    """Why an update was discarded. Every update that came in was applied, is buffered, or counts under one of these."""

    MALFORMED = "MALFORMED"
    """It cannot be read; the market's next update proves or disproves continuity."""
    STALE = "STALE"
    """The book, or the snapshot that was loaded, already had all of it."""
    REPEATED = "REPEATED"
    """The buffer already held all of it."""
    NOT_OPEN = "NOT_OPEN"
    """Its feed is not open."""
    BUFFER_FULL = "BUFFER_FULL"
    """The oldest one of a full buffer."""
    HOLE = "HOLE"
    """Updates after it are missing, so that only a snapshot newer than it can be continued."""
    STREAM_CLOSED = "STREAM_CLOSED"
    """It was buffered when the last stream closed."""
    IDS_WENT_BACK = "IDS_WENT_BACK"
    """It was buffered when the exchange began to count anew."""
    INACTIVE = "INACTIVE"
    """The market is stopped or has failed."""


class SnapshotDrop(enum.StrEnum):
    """Why a snapshot was discarded. All but LATE and ABANDONED lead to a new request, the first at once."""

    LATE = "LATE"
    """It belongs to an epoch that is over."""
    MALFORMED = "MALFORMED"
    """It cannot be read, has a price twice, or is crossed."""
    TOO_OLD = "TOO_OLD"
    """Updates between it and the first one at hand are missing."""
    LAGGING = "LAGGING"
    """It would take the market back behind an id that was readable before."""
    WRONG_PRICES = "WRONG_PRICES"
    """Its prices are far from the market's."""
    CROSSED = "CROSSED"
    """With the updates after it the best bid reaches the best ask."""
    INCOMPLETE = "INCOMPLETE"
    """An update after it could not be read."""
    EXPIRED = "EXPIRED"
    """It was ahead of the stream, and the stream did not reach it in time."""
    DIFFERENT = "DIFFERENT"
    """It differs from the live book, and a second snapshot has to confirm that."""
    ABANDONED = "ABANDONED"
    """The market lost its synchronization while the snapshot waited for the stream."""


class RefreshResult(enum.StrEnum):
    """How a refresh ended."""

    EQUAL = "EQUAL"
    """The live book and the snapshot agreed inside both horizons; the snapshot's levels and horizon were adopted."""
    AUDIT_CURED = "AUDIT_CURED"
    """Two snapshots showed the same difference: the live book was wrong there, and was corrected."""
    SNAPSHOT_INCOHERENT = "SNAPSHOT_INCOHERENT"
    """The second snapshot did not show the difference of the first: a snapshot was wrong; inside its horizon the live
    book was kept as it was."""


class RequestSnapshot(NamedTuple):
    """Action: download a snapshot. Answer with ``snapshot_received`` or ``snapshot_failed``, unless it is cancelled."""

    epoch: int
    """Hand it back with the answer."""
    purpose: Purpose
    limit: int
    """Levels a side."""
    due: float
    """Not before this time."""


class CancelSnapshot(NamedTuple):
    """Action: the request of this epoch is void. An answer to it would be ignored; save its weight if there is time."""

    epoch: int


class StateChanged(NamedTuple):
    """Action: the market is in another state."""

    state: SyncState
    previous_state: SyncState
    cause: Cause
    """The trouble that keeps the market from being read; when it becomes SYNCHRONIZED, the trouble that is over."""
    last_update_id: int | None
    """Where the book stands."""
    header: Header | None
    """Of the update that brought the change about, if one did."""
    payload: bytes | str | None
    """That update itself, when its cause is CROSSED: it is evidence of something that was never seen."""


class Refreshed(NamedTuple):
    """Action: a refresh has ended. Log anything but EQUAL."""

    result: RefreshResult
    purpose: Purpose
    limit: int
    last_update_id: int
    """At which the two books were compared."""
    comparison: Comparison
    """Of the live book with the last snapshot."""


Action = RequestSnapshot | CancelSnapshot | StateChanged | Refreshed


class Update(NamedTuple):
    """A depth update that is kept: its ids, and its bytes."""

    start: int
    """The id that a book must have reached for this update to continue it."""
    first_update_id: int
    last_update_id: int
    event_time_ms: int | None
    payload: bytes | str
    received_time_ns: int | None

    @classmethod
    def of(cls, rule: SequenceRule, header: Header, payload: Payload, received_time_ns: int | None) -> "Update":
        """Return the update with its bytes copied, if they could change. Its header must have passed `check_ids`."""
        assert header.first_update_id is not None
        assert header.last_update_id is not None
        return cls(
            start_id(rule, header.first_update_id, header.previous_update_id),
            header.first_update_id,
            header.last_update_id,
            header.event_time_ms,
            payload if isinstance(payload, bytes | str) else bytes(payload),
            received_time_ns,
        )


class UpdateBuffer:
    """Updates in the order of their starts, bounded; at the bound the oldest is given up.

    On one connection that is the order of arrival, and adding is O(1); with several, their windows interleave.
    """

    __slots__ = ("_bytes", "_bytes_max", "_updates", "_updates_max", "newest")

    def __init__(self, updates_max: int = BUFFER_UPDATES_MAX, bytes_max: int = BUFFER_BYTES_MAX) -> None:
        self._updates: list[Update] = []
        self._bytes = 0
        self._updates_max = updates_max
        self._bytes_max = bytes_max
        self.newest: Update | None = None
        """The one that reaches furthest."""

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[Update]:
        return iter(self._updates)

    def holds(self, update: Update) -> bool:
        """Whether one of its neighbours already covers the update (that a chain of several does is not looked for)."""
        place = bisect_right(self._updates, update.start, key=attrgetter("start"))
        return place > 0 and self._updates[place - 1].last_update_id >= update.last_update_id

    def add(self, update: Update) -> int:
        """Put the update in its place; return how many of the oldest were given up for it."""
        if not self._updates or self._updates[-1].start <= update.start:
            self._updates.append(update)
        else:
            self._updates.insert(bisect_right(self._updates, update.start, key=attrgetter("start")), update)
        self._bytes += len(update.payload)
        if self.newest is None or update.last_update_id >= self.newest.last_update_id:
            self.newest = update
        surplus = 0
        while len(self._updates) - surplus > 1 and (
            len(self._updates) - surplus > self._updates_max or self._bytes > self._bytes_max
        ):
            self._bytes -= len(self._updates[surplus].payload)
            surplus += 1
        self._remove_first(surplus)
        return surplus

    def forget_first(self, count: int) -> int:
        """Give up the first `count` updates; return `count`."""
        self._bytes -= sum(len(update.payload) for update in self._updates[:count])
        self._remove_first(count)
        return count

    def forget_before_last_hole(self) -> int:
        """Give up what lies before the last hole, so that the rest is one chain; return how many that were. O(n)."""
        after_hole = 0
        reach: int | None = None
        for place, update in enumerate(self._updates):
            if reach is not None and update.start > reach:
                after_hole = place
            reach = update.last_update_id if reach is None else max(reach, update.last_update_id)
        return self.forget_first(after_hole)

    def forget_previous_numbering(self, update: Update) -> list[Update]:
        """Give up what reaches further than an update that was sent `FORMER_NUMBERING_MS` later; return it.

        Within one numbering ids never go back. O(1) for an update that reaches furthest, else O(n).
        """
        if self.newest is None or not _is_of_former_numbering(self.newest, update):
            return []
        former = [other for other in self._updates if _is_of_former_numbering(other, update)]
        self._updates = [other for other in self._updates if not _is_of_former_numbering(other, update)]
        self._bytes -= sum(len(other.payload) for other in former)
        self.newest = max(self._updates, key=attrgetter("last_update_id"), default=None)
        return former

    def clear(self) -> int:
        """Give up everything; return how many that were."""
        return self.forget_first(len(self._updates))

    def continues(self, rule: SequenceRule, snapshot_id: int) -> bool:
        """Whether a snapshot of that id can be brought up to date from here: nothing is missing between the two."""
        if not self._updates:
            return True
        first = self._updates[0]
        verdict = judge(rule, snapshot_id, True, first.first_update_id, first.last_update_id, first.start)
        return verdict is not Verdict.GAP

    def _remove_first(self, count: int) -> None:
        gone = self._updates[:count]
        del self._updates[:count]
        if any(update is self.newest for update in gone):
            self.newest = max(self._updates, key=attrgetter("last_update_id"), default=None)


def is_later(event_time_ms: int | None, other_ms: int | None, by_ms: int = 0) -> bool:
    """Whether both event times are known, and the first is later than the other one by more than that."""
    return event_time_ms is not None and other_ms is not None and event_time_ms - other_ms > by_ms


def _is_of_former_numbering(update: Update, later: Update) -> bool:
    return update.last_update_id > later.last_update_id and is_later(
        later.event_time_ms, update.event_time_ms, FORMER_NUMBERING_MS
    )


class SnapshotRequests:
    """The bookkeeping of epochs: at most one request is awaited, and nothing but its own answer answers it.

    Every request opens an epoch of its own. So the pair of the epoch and the book's update id never goes back, also
    where the exchange begins to count anew.
    """

    __slots__ = ("_actions", "awaited", "cancelled", "dropped", "epoch", "failed", "has_begun", "issued", "used")

    def __init__(self, actions: list[Action]) -> None:
        self._actions = actions
        self.epoch = 0
        """The newest epoch; 0 before the first request."""
        self.awaited: RequestSnapshot | None = None
        self.has_begun = False
        """Whether the download of the awaited snapshot has begun."""
        self.issued = dict.fromkeys(Purpose, 0)
        self.cancelled = 0
        self.failed = 0
        self.used = 0
        self.dropped = dict.fromkeys(SnapshotDrop, 0)

    def issue(self, purpose: Purpose, limit: int, due: float) -> None:
        """Ask the caller for a snapshot, under a new epoch."""
        assert self.awaited is None, "the request before this one is neither answered nor cancelled"
        self.epoch += 1
        self.awaited = RequestSnapshot(self.epoch, purpose, limit, due)
        self.has_begun = False
        self.issued[purpose] += 1
        self._actions.append(self.awaited)

    def cancel(self) -> None:
        """Void the awaited request, if there is one."""
        if self.awaited is not None:
            self._actions.append(CancelSnapshot(self.awaited.epoch))
            self.awaited = None
            self.cancelled += 1

    def begin(self, epoch: int) -> bool:
        """Note that the download of this epoch begins; return False if nobody awaits it."""
        if self.awaited is None or self.awaited.epoch != epoch:
            return False
        self.has_begun = True
        return True

    def take(self, epoch: int) -> RequestSnapshot | None:
        """Return the request that an answer of this epoch answers, which ends it; None (counted) for a late one."""
        request = self.awaited
        if request is None or request.epoch != epoch:
            self.dropped[SnapshotDrop.LATE] += 1
            return None
        self.awaited = None
        return request


def middle_price(book: "OrderBook") -> float | None:
    """Return the price between the best levels known, or the only best one, or None. The book must not be suspended."""
    bests = [best for best in _best_prices(book) if best is not None]
    return sum(bests) / len(bests) if bests else None


def are_sides_far_apart(one: "OrderBook", other: "OrderBook") -> bool:
    """Whether the best prices that both books know, on one side or on both, can hardly be of one market."""
    bests = [pair for pair in zip(_best_prices(one), _best_prices(other), strict=True) if None not in pair]
    return bool(bests) and all(are_prices_far_apart(*pair) for pair in bests)


def _best_prices(book: "OrderBook") -> tuple[float | None, float | None]:
    """Return the best bid and ask. One held past a horizon may be a level far out: the best is not known from it.

    Of two that cross by far one must be wrong, and nobody knows which.
    """
    view: Any = book.held_levels(1)
    bid, ask = (float(side[0][0]) if side else None for side in (view.bids, view.asks))
    if bid is not None and ask is not None and bid > ask and are_prices_far_apart(bid, ask):
        return None, None
    return (
        bid if bid is not None and (view.bid_horizon is None or bid >= view.bid_horizon) else None,
        ask if ask is not None and (view.ask_horizon is None or ask <= view.ask_horizon) else None,
    )


def is_far_from_updates(book: "OrderBook", updates: "Iterable[Update]", empty: "OrderBook") -> bool:
    """Whether updates that shall continue a book speak of other prices altogether: it is hardly of their market.

    What they say rests is held in a book that was empty. Both its best prices must be far from the middle of the book
    in question: one side alone, or one of two, may well be a level far out that has changed.
    """
    middle = middle_price(book)
    is_loaded = False
    for update in islice(updates, WITNESSES_MAX):
        if not is_loaded:
            empty.load_snapshot(b'{"lastUpdateId":%d,"bids":[],"asks":[]}' % max(update.start, 1))
            is_loaded = True
        try:
            empty.apply(update.payload)
        except MalformedMessage:
            continue
    if not is_loaded or not empty.bid_count or not empty.ask_count:
        return False
    view = empty.held_levels(1)
    return all(are_prices_far_apart(middle, float(side[0][0])) for side in (view.bids, view.asks))


def are_prices_far_apart(one: float | None, other: float | None) -> bool:
    """Whether two middle prices can hardly be of one market. What is unknown is not far."""
    if not one or not other:
        return False
    return max(one, other) > PRICE_FACTOR_MAX * min(one, other)
