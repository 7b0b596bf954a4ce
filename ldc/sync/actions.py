"""What the synchronizer requests of its caller, and the causes under which it counts.

Rule 1: an action is a value. The caller runs the actions that `Synchronizer.drain` returns, oldest first.
Rule 2: every discarded update and snapshot is counted under exactly one cause.
"""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ldc.errors import MalformedMessage
from ldc.types import Cause, Comparison, Header, Message, SyncState

if TYPE_CHECKING:
    from ldc.book import OrderBook

Payload = Message
"""A depth update or a snapshot, as it was received. What must be kept is copied, so the caller may reuse its memory."""


class ReadSnapshot(NamedTuple):
    """A snapshot that another thread has read already."""

    book: "OrderBook | None"
    """A book that has loaded it; None: it cannot be read."""

    @classmethod
    def of(
        cls,
        make_book: "Callable[[], OrderBook]",
        body: "Payload | ReadSnapshot",
        limit: int | None,
        received_time_ns: int | None = None,
    ) -> "ReadSnapshot":
        """Return a snapshot as a book, unless it is one already. From any thread."""
        if isinstance(body, ReadSnapshot):
            return body
        book = make_book()
        try:
            book.load_snapshot(body, limit, received_time_ns=received_time_ns)
        except MalformedMessage:
            return cls(None)
        return cls(book)


ACTIONS_MAX = 1_000
"""Actions that wait to be drained. At the limit every input but `stop` raises ``RuntimeError``: a caller that does not
drain never downloads a snapshot either, and its market would never be synchronized."""


class Purpose(enum.IntEnum):
    """What a snapshot is for. Serve the requests of all markets in this order: the smallest is the most urgent."""

    SYNCHRONIZE = 0
    """The market cannot be read until it has one."""
    HORIZON = 1
    """The market is about to leave its horizon, or has left it."""
    CONFIRM = 2
    """A refresh found a difference. This second snapshot decides whether the book or the first snapshot is wrong."""
    REQUESTED = 3
    """The user requested a refresh."""
    DEEPEN = 4
    """The next of the snapshot limits, for a deeper book."""
    INTERVAL = 5
    """The refresh interval has ended."""


class UpdateDrop(enum.StrEnum):
    """Why an update was discarded. Every received update was applied, is buffered, or is counted under one of these."""

    MALFORMED = "MALFORMED"
    """It cannot be read. The ids of the next update show whether it was missed."""
    STALE = "STALE"
    """The book, or the loaded snapshot, already had all of it."""
    REPEATED = "REPEATED"
    """The buffer already held all of it."""
    NOT_OPEN = "NOT_OPEN"
    """Its stream is not open."""
    BUFFER_FULL = "BUFFER_FULL"
    """It was the oldest of a full buffer."""
    HOLE = "HOLE"
    """Updates after it are missing. Only a snapshot newer than it can be continued."""
    STREAM_CLOSED = "STREAM_CLOSED"
    """It was buffered when the last live stream closed."""
    IDS_WENT_BACK = "IDS_WENT_BACK"
    """It was buffered when the ids restarted."""
    INACTIVE = "INACTIVE"
    """The market was stopped or has failed."""


class SnapshotDrop(enum.StrEnum):
    """Why a snapshot was discarded. All but LATE and ABANDONED lead to a new request, the first one at once."""

    LATE = "LATE"
    """It answers a superseded request."""
    MALFORMED = "MALFORMED"
    """It cannot be read, has a price twice, or is crossed."""
    TOO_OLD = "TOO_OLD"
    """Updates between it and the first buffered one are missing."""
    LAGGING = "LAGGING"
    """Its id is below one that was readable before, or it is of the previous numbering."""
    WRONG_PRICES = "WRONG_PRICES"
    """Its prices are far from the market's."""
    CROSSED = "CROSSED"
    """With the updates after it the best bid reaches the best ask."""
    INCOMPLETE = "INCOMPLETE"
    """An update after it could not be read."""
    EXPIRED = "EXPIRED"
    """It was ahead of the stream, and the stream did not reach it in time."""
    DIFFERENT = "DIFFERENT"
    """It differs from the live book. A second snapshot has to confirm that."""
    LOST = "LOST"
    """It never came: its request, or that of a probe, was lost in this process."""
    ABANDONED = "ABANDONED"
    """The market left SYNCHRONIZED while the snapshot waited for the stream."""


class RefreshResult(enum.StrEnum):
    """How a refresh ended."""

    EQUAL = "EQUAL"
    """The live book and the snapshot agreed inside both horizons. The snapshot's levels and horizon were adopted."""
    AUDIT_CURED = "AUDIT_CURED"
    """Two snapshots showed the same difference: the live book was wrong there and was corrected."""
    SNAPSHOT_INCOHERENT = "SNAPSHOT_INCOHERENT"
    """The last snapshot agreed with the live book: those before were wrong. Its levels and horizon were adopted."""
    RESYNCED = "RESYNCED"
    """Snapshots contradicted the live book again, each in another way. The market is synchronized again."""


class RequestSnapshot(NamedTuple):
    """Action: download a snapshot. Answer with ``snapshot_received`` or ``snapshot_failed``, unless it is cancelled."""

    epoch: int
    """Names the request; the answer must carry it."""
    purpose: Purpose
    limit: int
    """Levels a side."""
    due: float
    """The download must not begin before this time."""


class CancelSnapshot(NamedTuple):
    """Action: the request of this epoch is void. Its answer would be dropped as LATE; not to send it saves weight."""

    epoch: int


class StateChanged(NamedTuple):
    """Action: the market has changed its state."""

    state: SyncState
    previous_state: SyncState
    cause: Cause
    """Why the market cannot be read; when it becomes SYNCHRONIZED, why it could not be read until now."""
    last_update_id: int | None
    """Of the book."""
    header: Header | None
    """Of the update that caused the change, if one did."""
    payload: bytes | str | None
    """That update itself if the cause is CROSSED: no recording has such an update, so it is worth reporting."""


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


class SnapshotRequests:
    """The requests of one market: at most one is awaited, and only its own answer ends it.

    Every request has an epoch of its own. So the pair of epoch and update id never goes back, not even when the ids of
    the exchange restart. Thread-safety: one thread calls it; other threads may read its counters, whose keys never
    change.
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
        """Request a snapshot from the caller, under a new epoch."""
        assert self.awaited is None, "the previous request is neither answered nor cancelled"
        self.epoch += 1
        self.awaited = RequestSnapshot(self.epoch, purpose, limit, due)
        self.has_begun = False
        self.issued[purpose] += 1
        self._actions.append(self.awaited)

    def cancel(self) -> None:
        """Cancel the awaited request, if there is one."""
        if self.awaited is not None:
            self._actions.append(CancelSnapshot(self.awaited.epoch))
            self.awaited = None
            self.cancelled += 1

    def begin(self, epoch: int) -> bool:
        """Note that the download of this epoch begins; return False if that is not the awaited one."""
        if self.awaited is None or self.awaited.epoch != epoch:
            return False
        self.has_begun = True
        return True

    def take(self, epoch: int) -> RequestSnapshot | None:
        """End the awaited request and return it; None (counted as LATE) if the answer is of another epoch."""
        request = self.awaited
        if request is None or request.epoch != epoch:
            self.dropped[SnapshotDrop.LATE] += 1
            return None
        self.awaited = None
        return request
