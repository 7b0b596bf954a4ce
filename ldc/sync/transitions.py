"""What a market remembers, and the few functions through which it changes its state.

Rule 1: the book is suspended before anything else happens, and resumed after everything else has happened.
Rule 2: when these are called is decided in `ldc.sync.handlers`, and whether they may be, in
        `ldc.sync.machine.TABLE`.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ldc.limits import Backoff
from ldc.sync.actions import (
    RETRY_S_FIRST,
    RETRY_S_MAX,
    Action,
    Payload,
    Purpose,
    SnapshotRequests,
    StateChanged,
    UpdateBuffer,
    UpdateDrop,
    middle_price,
)
from ldc.sync.refresh import Refresher
from ldc.sync.streams import Streams
from ldc.types import Cause, Header, SyncState

if TYPE_CHECKING:
    from ldc.book import OrderBook

__all__ = ["GAP_WAIT_MS", "RESYNCS_AT_ONCE_MAX", "SNAPSHOT_WAIT_S", "STABLE_S", "Transitions"]

SNAPSHOT_WAIT_S = 1.0
"""After the acknowledgement, how long the first update is waited for before a snapshot is asked for without it."""

GAP_WAIT_MS = 500
"""How long a gap waits for another live stream to fill it. Windows are 100 to 250 ms long by default."""

STABLE_S = 60.0
"""A market that stayed SYNCHRONIZED for so long starts to count its resyncs from 0."""

RESYNCS_AT_ONCE_MAX = 8
"""So many resyncs in a row ask for their snapshot at once. The next ones ask after a back-off, so that one market whose
updates never fit cannot use up the weight of all."""


class Transitions:
    """The market's memory, and its transitions."""

    book: "OrderBook"
    state: SyncState
    state_since: float
    unsynchronized_s: float
    """How long it was not SYNCHRONIZED, all in all, up to when it became so last."""
    cause: Cause | None
    """Why the book cannot be read; None when SYNCHRONIZED."""
    wants_every_update: bool
    """Whether every update must come to ``receive_update``; see the hot path in `ldc.sync.machine`."""
    state_changes: dict[Cause, int]
    """By the cause of the `StateChanged`."""
    judged_at: float
    """When an update last came this way that could be read and was of an open stream; -inf: never."""
    id_before_restart: int | None
    """The highest id at which the book could be read before the exchange began to count anew; None: it never has."""
    resyncs: dict[Cause, int]
    """How often the market left SYNCHRONIZED, other than to end, by cause."""
    resumes: int
    """How often it became SYNCHRONIZED again without a snapshot."""
    updates_dropped: dict[UpdateDrop, int]
    gap_waits: int
    """Gaps that waited for another live feed."""
    gaps_filled: int
    """Those of them that were filled."""
    requests: SnapshotRequests
    """Its counters: requests issued, cancelled and failed, snapshots used and dropped; and the epoch."""
    refresher: Refresher
    """Its counters: audits, and refreshes started, ended and aborted."""

    def __init__(
        self,
        book: "OrderBook",
        *,
        make_book: "Callable[[], OrderBook]",
        read_header: Callable[[Payload], Header],
        random: Callable[[], float],
        limits: Sequence[int],
        now: float,
        symbol: str | None = None,
        refresh_interval_s: float | None = None,
        gap_wait_ms: float = GAP_WAIT_MS,
    ) -> None:
        if not limits or list(limits) != sorted(set(limits)) or limits[0] < 1:
            raise ValueError(f"the limits of snapshots must ascend from at least 1, not {limits!r}")
        if refresh_interval_s is not None and not refresh_interval_s > 0:
            raise ValueError(f"a refresh interval must be positive, or None for never, not {refresh_interval_s!r}")
        book.suspend(Cause.NOT_LOADED.value)
        self.book = book
        self.state = SyncState.IDLE
        self.state_since = now
        self.unsynchronized_s = 0.0
        self.cause = Cause.NOT_LOADED
        self.wants_every_update = True
        self.state_changes = dict.fromkeys(Cause, 0)
        self.resyncs = dict.fromkeys(Cause, 0)
        self.resumes = self.gap_waits = self.gaps_filled = 0
        self.updates_dropped = dict.fromkeys(UpdateDrop, 0)
        self._actions: list[Action] = []
        self.requests = SnapshotRequests(self._actions)
        self.refresher = Refresher(book, make_book, self.requests, self._actions, limits, refresh_interval_s, random)

        self._make_book = make_book
        self._read_header = read_header
        self._first_limit = limits[0]
        self._symbol = None if symbol is None else symbol.encode().lower()
        self._gap_wait_s = gap_wait_ms / 1000
        self._streams = Streams()
        # While BUFFERING, what waits for a snapshot; while SYNCHRONIZED, what waits for another stream to fill a gap.
        self._buffer = UpdateBuffer()

        self._request_due: float | None = None  # when the first update is waited for no longer
        self._not_before = now  # no snapshot before this time: the back-off, or the exchange's Retry-After
        self._backoff = Backoff(random, first_s=RETRY_S_FIRST, max_s=RETRY_S_MAX)  # of snapshots that are of no use
        self._has_asked_at_once = False  # for another snapshot, since the market could be read last
        self._resyncs_in_a_row = self._implausible_in_a_row = 0
        self._resync_backoff = Backoff(random, first_s=RETRY_S_FIRST, max_s=RETRY_S_MAX)  # of those that do not last
        self._has_retained_levels = False  # the book is right as of its id, and the next stream may continue it
        self._published_id: int | None = None  # the book's id when it was last readable, while it is not
        self._published_price: float | None = None
        self.judged_at = -math.inf
        self.id_before_restart = None
        self._left_id: int | None = None  # the highest id at which the book was lost, in the numbering that it has now
        self._abandoned_id: int | None = None  # where the book stood when the ids went back
        self._snapshot_id: int | None = None  # of the snapshot that was loaded last
        self._snapshot_at = self._unsynchronized_since = self._gap_since = now
        self._stale_after_snapshot = 0
        self._stream_reached: tuple[int, int | None] = (0, None)  # when that was loaded: the id, and its event time
        self._gap_deadline: float | None = None
        self._gap_header: Header | None = None

    def _enter(
        self, state: SyncState, cause: Cause, now: float, header: Header | None = None, payload: Payload | None = None
    ) -> None:
        evidence = bytes(payload) if isinstance(payload, bytearray | memoryview) else payload
        self._actions.append(StateChanged(state, self.state, cause, self.book.last_update_id, header, evidence))
        self.state_changes[cause] += 1
        self.state = state
        self.state_since = now

    def _blame(self, cause: Cause) -> None:
        """Refuse to be read, with this cause."""
        self.book.suspend(cause.value)
        self.cause = cause

    def _publish(self, now: float, header: Header | None = None) -> None:
        """The book is the exchange's at its id: let it be read."""
        assert self.cause is not None
        assert len(self._buffer) == 0
        assert self._streams.is_any_live
        self._enter(SyncState.SYNCHRONIZED, self.cause, now, header)
        self.unsynchronized_s += now - self._unsynchronized_since
        self.cause = None
        self._request_due = None
        self._backoff.reset()
        self._has_asked_at_once = False
        self._implausible_in_a_row = 0
        self._has_retained_levels = False
        self._published_id = self._abandoned_id = None
        self._note_where_it_is_back()
        self.book.resume()

    def _note_where_it_is_back(self) -> None:
        """A book that comes back at a lower id is of another numbering. Before it is resumed: then threads may look."""
        reached_id = self.book.last_update_id
        if reached_id is not None and self._left_id is not None and reached_id < self._left_id:
            self.id_before_restart = max(self._left_id, self.id_before_restart or 0)
            self._left_id = None

    def _desynchronize(
        self,
        cause: Cause,
        now: float,
        *,
        state: SyncState = SyncState.BUFFERING,
        header: Header | None = None,
        payload: Payload | None = None,
    ) -> None:
        """The book can no longer be proven right."""
        price = middle_price(self.book) if self.book.is_loaded else None  # it cannot be read when suspended
        self._blame(cause)
        self._published_price = price
        self._published_id = self._left_id = self.book.last_update_id
        if now - self.state_since >= STABLE_S:
            self._resyncs_in_a_row = 0
            self._resync_backoff.reset()
        self._resyncs_in_a_row += 1
        if self._resyncs_in_a_row > RESYNCS_AT_ONCE_MAX:
            self._not_before = now + self._resync_backoff.next_delay_s()
        self.resyncs[cause] += 1
        self._end_gap()
        self.refresher.abort()
        self._unsynchronized_since = now
        self._enter(state, cause, now, header, payload)

    def _end(self, now: float, state: SyncState, cause: Cause) -> None:
        """Stop or fail: nothing waits any more."""
        self._blame(cause)
        self.refresher.abort()
        self.requests.cancel()
        self._drop(UpdateDrop.INACTIVE, self._buffer.clear())
        self._streams.clear()
        self._enter(state, cause, now)

    def _end_gap(self) -> None:
        self._gap_deadline = None
        self._gap_header = None
        self._streams.forget_skips()

    def _drop(self, why: UpdateDrop, count: int = 1) -> None:
        self.updates_dropped[why] += count

    def _wait_for_update(self, now: float) -> None:
        if self._request_due is None and self.requests.awaited is None:
            self._request_due = now + SNAPSHOT_WAIT_S

    def _request(self, now: float) -> None:
        """Ask for a snapshot, unless one is awaited."""
        self._request_due = None
        if self.requests.awaited is None:
            self.requests.issue(Purpose.SYNCHRONIZE, self._first_limit, max(now, self._not_before))

    def _refetch(self, now: float, retry_at: float | None = None) -> None:
        """Ask for another snapshot: after the first trouble at once, then after a back-off, never before `retry_at`.

        The tries are limited in their rate, not in their number. One more at once costs little, and mostly ends the
        trouble; where a host fails for everybody, the queue of the snapshots pauses.
        """
        delay_s = self._backoff.next_delay_s() if self._has_asked_at_once else 0.0
        self._has_asked_at_once = True
        self._not_before = max(now + delay_s, retry_at or now)
        self._request(now)
