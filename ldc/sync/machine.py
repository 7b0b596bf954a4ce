"""The state machine of one market: when its local copy is the exchange's book, and how it becomes that again.

Rule 1: `TABLE`, at the end of this file, says what may happen: each of its cells holds the handler of one input in one
        state, and the states that it may lead to. Read it first.
Rule 2: sans-I/O. Inputs are method calls, outputs are actions that the caller drains. No clock, socket, thread or log:
        `now` is an argument, in seconds of any clock that never goes back. Randomness comes from the `random` argument.
Rule 3: never silently wrong. In every state but SYNCHRONIZED the book is suspended, with the cause. It is suspended
        before anything else happens, and resumed after everything else has happened.
Rule 4: whatever waits, is kept, or is tried again has a limit with a name, and is counted.

Theory of operation. Update ids are global per market, so ids alone decide. Which connection brought an update, and in
which order, matters only for how long to wait. A market becomes SYNCHRONIZED in one of two ways:

By a snapshot. While BUFFERING, updates are kept, sorted by their starts. The first of them requests the snapshot. If
none comes within `SNAPSHOT_WAIT_S` of the acknowledgement, the snapshot is requested without one: so a quiet market can
be read, and a misspelt one fails. What lies before a hole in the buffer is useless and is discarded. If the first
update left does not continue the snapshot, that is too old: the buffer stays and another snapshot is requested.
Otherwise it is loaded, the buffered updates past it are applied, and the book can be read. The buffer may be empty, for
a market may be quiet. A snapshot is loaded into a second book first; the market's own book is changed only after the
decision. After a first useless snapshot or failed download the next one is requested at once, then with a backoff.

By resuming. When the last live stream closes, the book retains its levels. If the first update of the next stream
continues them, nothing was missed. If it does not, or does not come within `SNAPSHOT_WAIT_S`, a snapshot is requested.

A market leaves SYNCHRONIZED by a gap (an update starts past the book), a crossed book, restarted ids, the end of its
last live stream, snapshots that contradict it, or on request. A stream is *live* once it was acknowledged or has
brought an update. If there are other live streams, a gap waits for them for `GAP_WAIT_MS`; meanwhile the book stays
readable at its old id. It does not wait if each of them has itself skipped the missing updates. A refresh leaves
SYNCHRONIZED only if snapshots contradict the book and their confirmation settles nothing (`ldc.sync.refresh`).

The objects that a synchronizer is composed of, each with its own rules at the top of its file:

    `ldc.sync.streams`     what each stream has shown, and whether its ids stepped back
    `ldc.sync.buffer`      the updates that wait
    `ldc.sync.numbering`   whether the ids restarted, and whether a snapshot is of the right numbering
    `ldc.sync.gap`         the wait for another stream to fill a gap
    `ldc.sync.retry`       when the next snapshot may be requested
    `ldc.sync.refresh`     the refresh of a synchronized market, and its audit
    `ldc.sync.actions`     actions, the causes that are counted, and the requests with their epochs

The hot path does not come here. One thread drives a market, like this:

    if synchronizer.wants_every_update:
        synchronizer.receive_update(connection_id, payload, received_time_ns, now)
    else:
        try:
            verdict = book.apply(payload, received_time_ns)
        except MalformedMessage:
            synchronizer.update_malformed(now)
        else:
            if verdict or book.needs_attention:                     # APPLIED is 0
                synchronizer.after_apply(connection_id, verdict, payload, received_time_ns, now)

Any other exception of `apply` (MemoryError, BookNotLoaded) leaves the book whole or empty. Let it propagate, after
``synchronizer.request_resync(now, Cause.NOT_LOADED)``. After any call here: run the actions that `drain` returns, read
`wants_every_update` again, and call `tick` at `next_due`.
"""

import enum
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Concatenate, NamedTuple

from ldc.errors import BookNotLoaded, MalformedMessage
from ldc.sequence import check_ids
from ldc.sync.actions import (
    ACTIONS_MAX,
    Action,
    Payload,
    Purpose,
    ReadSnapshot,
    SnapshotDrop,
    SnapshotRequests,
    StateChanged,
    UpdateDrop,
)
from ldc.sync.buffer import BufferBudget, Update, UpdateBuffer, is_later
from ldc.sync.gap import GAP_WAIT_MS, GapWait
from ldc.sync.numbering import Numbering
from ldc.sync.plausibility import middle_price
from ldc.sync.refresh import Refresher
from ldc.sync.retry import RetryPolicy
from ldc.sync.streams import Streams
from ldc.types import Cause, Header, SyncState, Verdict

if TYPE_CHECKING:
    from ldc.book import OrderBook

SNAPSHOT_WAIT_S = 0.5
"""After the acknowledgement, how long to wait for the first update. Then a snapshot is requested without it. Windows of
updates are 100 to 250 ms long by default; a quiet market is readable again within a second of a lost connection."""


class Input(enum.StrEnum):
    """What can happen to a market. Each is the method of `Synchronizer` of that name."""

    STREAM_OPENED = "stream_opened"
    STREAM_ACKNOWLEDGED = "stream_acknowledged"
    STREAM_CLOSED = "stream_closed"
    RECEIVE_UPDATE = "receive_update"
    AFTER_APPLY = "after_apply"
    UPDATE_MALFORMED = "update_malformed"
    SNAPSHOT_BEGINS = "snapshot_begins"
    SNAPSHOT_RECEIVED = "snapshot_received"
    SNAPSHOT_FAILED = "snapshot_failed"
    TICK = "tick"
    REQUEST_RESYNC = "request_resync"
    REQUEST_REFRESH = "request_refresh"
    STOP = "stop"


class Synchronizer:
    """One market's state machine around its book.

    Every input method reports what happened; then `drain` returns what is to be done.

    Thread-safety: one thread calls it. Other threads may read the attributes; the keys of a dict never change.

    Args:
        book: the market's book. From now on only this object suspends and resumes it.
        make_book: makes another book of the same class and rule; a snapshot is loaded into it to be judged.
        read_header: the function of that name beside the book's class.
        random: returns a number from 0 up to but not including 1, as ``random.random`` does; for the backoffs' jitter.
        limits: levels a side of the first snapshot, the second, and so on; ascending.
        now: the present.
        symbol: the market in the exchange's spelling. A buffered update that names another symbol is dropped, as the
            book does with one that is applied.
        refresh_interval_s: how often a synchronized market is refreshed without need; None: never.
        gap_wait_ms: how long a gap waits for another live stream.
        buffers: what the buffers of several markets may hold together; None: this market has a budget of its own.

    Raises:
        ValueError: the limits do not ascend from at least 1, or the interval is not positive.
    """

    book: "OrderBook"
    state: SyncState
    state_since: float
    cause: Cause | None
    """Why the book cannot be read; None when SYNCHRONIZED."""
    wants_every_update: bool
    """Whether every update must come to `receive_update`; see the hot path at the top of this file."""
    judged_at: float
    """When the last readable update of an open stream came through this object; -inf: never."""
    unsynchronized_s: float
    """How long the market was not SYNCHRONIZED, in total, until it became so last."""
    state_changes: dict[Cause, int]
    """By the cause of the `StateChanged`."""
    resyncs: dict[Cause, int]
    """How often the market left SYNCHRONIZED other than to end, by cause."""
    resumes: int
    """How often it became SYNCHRONIZED again without a snapshot."""
    updates_dropped: dict[UpdateDrop, int]
    requests: SnapshotRequests
    """Its counters: requests issued, cancelled and failed, snapshots used and dropped; and the epoch."""
    refresher: Refresher
    """Its counters: audits, and refreshes started, ended and aborted."""
    gap: GapWait
    """Its counters: gaps that waited, and those that were filled."""

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
        buffers: BufferBudget | None = None,
    ) -> None:
        buffers = buffers or BufferBudget()
        if not limits or list(limits) != sorted(set(limits)) or limits[0] < 1:
            raise ValueError(f"the snapshot limits of {book.market!r} must ascend from at least 1, not {limits!r}")
        if refresh_interval_s is not None and not refresh_interval_s > 0:
            raise ValueError(
                f"the refresh interval of {book.market!r} must be positive, or None for never, not "
                f"{refresh_interval_s!r}"
            )
        book.suspend(Cause.NOT_LOADED.value)
        self.book = book
        self.state = SyncState.IDLE
        self.state_since = self._unsynchronized_since = now
        self.cause = Cause.NOT_LOADED
        self.wants_every_update = True
        self.judged_at = -math.inf
        self.unsynchronized_s = 0.0
        self.state_changes = dict.fromkeys(Cause, 0)
        self.resyncs = dict.fromkeys(Cause, 0)
        self.resumes = 0
        self.updates_dropped = dict.fromkeys(UpdateDrop, 0)
        self._actions: list[Action] = []
        self.requests = SnapshotRequests(self._actions)
        self.refresher = Refresher(book, make_book, self.requests, self._actions, limits, refresh_interval_s, random)

        self._make_book = make_book
        self._read_header = read_header
        self._first_limit = limits[0]
        self._symbol = None if symbol is None else symbol.encode().lower()
        self._streams = Streams(book.market)
        self._numbering = Numbering(book, self._streams, make_book, now)
        self._retry = RetryPolicy(random, now)
        self.gap = GapWait(self._streams, gap_wait_ms / 1000, buffers)
        self._buffer = UpdateBuffer(budget=buffers)  # what waits for a snapshot; empty while SYNCHRONIZED
        self._request_due: float | None = None  # until when the first update is awaited
        self._has_retained_levels = False  # the book is right as of its id, and the next stream may continue it

    # -- inputs: streams and updates

    def stream_opened(self, connection_id: int, now: float) -> None:
        """A subscription is about to be sent: updates may come from now on. A stream that is open closes first."""
        self._take(Input.STREAM_OPENED, now, connection_id)

    def stream_acknowledged(self, connection_id: int, now: float) -> None:
        """The exchange has accepted the subscription."""
        self._take(Input.STREAM_ACKNOWLEDGED, now, connection_id)

    def stream_closed(self, connection_id: int, now: float) -> None:
        """The connection, or the subscription, has ended."""
        self._take(Input.STREAM_CLOSED, now, connection_id)

    def receive_update(self, connection_id: int, payload: Payload, received_time_ns: int | None, now: float) -> None:
        """An update has come that the book has not seen. One that cannot be read is dropped and counted, not raised."""
        self._take(Input.RECEIVE_UPDATE, now, connection_id, payload, received_time_ns)

    def after_apply(
        self, connection_id: int, verdict: Verdict, payload: Payload, received_time_ns: int | None, now: float
    ) -> None:
        """The book has judged this update: the verdict was not APPLIED, or the book needs attention."""
        self._take(Input.AFTER_APPLY, now, connection_id, verdict, payload, received_time_ns)

    def update_malformed(self, now: float) -> None:
        """The book has refused an update with ``MalformedMessage``."""
        self._take(Input.UPDATE_MALFORMED, now)

    # -- inputs: snapshots

    def snapshot_begins(self, epoch: int, now: float) -> None:
        """The download for this request is about to begin: what comes from now on is kept for it."""
        self._take(Input.SNAPSHOT_BEGINS, now, epoch)

    def read_snapshot(self, body: Payload, limit: int | None, received_time_ns: int | None) -> ReadSnapshot:
        """Read a snapshot for `snapshot_received`. Nothing changes here, so any thread may do that."""
        return ReadSnapshot.of(self._make_book, body, limit, received_time_ns)

    def snapshot_received(
        self,
        epoch: int,
        body: Payload | ReadSnapshot,
        limit: int | None,
        now: float,
        *,
        received_time_ns: int | None = None,
    ) -> None:
        """The snapshot is here; `limit` is the one that the exchange honoured.

        `body`: as it was received, or what `read_snapshot` made of it in another thread.
        """
        self._take(Input.SNAPSHOT_RECEIVED, now, epoch, body, limit, received_time_ns)

    def snapshot_failed(
        self, epoch: int, now: float, *, permanent: Cause | None = None, retry_at: float | None = None
    ) -> None:
        """There is no snapshot: for good (`permanent` says why), or for now.

        `retry_at`: the exchange has said when the next one is allowed. Then it is requested, no sooner and no later.
        """
        self._take(Input.SNAPSHOT_FAILED, now, epoch, permanent, retry_at)

    # -- inputs: time and requests

    def tick(self, now: float) -> None:
        """Time has passed. Needed at `next_due`, harmless at any other time."""
        self._take(Input.TICK, now)

    def request_resync(self, now: float, cause: Cause = Cause.REQUESTED) -> None:
        """Suspend the book, and synchronize it again from a snapshot."""
        self._take(Input.REQUEST_RESYNC, now, cause)

    def request_refresh(self, now: float) -> None:
        """Take in a new snapshot while the book stays readable."""
        self._take(Input.REQUEST_REFRESH, now)

    def stop(self, now: float) -> None:
        """End for good: every later input is ignored or counted as dropped."""
        self._take(Input.STOP, now)

    # -- outputs

    def drain(self) -> list[Action]:
        """Return the actions that wait, oldest first, and forget them. Call it after every input."""
        drained = self._actions.copy()
        self._actions.clear()
        return drained

    def next_due(self) -> float | None:
        """Return when to call `tick` next; None if nothing waits for the time to pass."""
        if self.state is SyncState.BUFFERING:
            return self._request_due
        if self.state is SyncState.SYNCHRONIZED:
            dues = [due for due in (self.gap.deadline, self.refresher.next_due) if due is not None]
            return min(dues, default=None)
        return None

    @property
    def epoch(self) -> int:
        """The newest epoch. The pair (epoch, update id) of a readable book never goes back."""
        return self.requests.epoch

    @property
    def id_before_restart(self) -> int | None:
        """The highest id at which the book was readable before the ids restarted; None if they never did."""
        return self._numbering.id_before_restart

    @property
    def buffered_count(self) -> int:
        """Updates that wait for a snapshot, or for another stream to fill a gap."""
        return len(self._buffer) + len(self.gap.waiting)

    @property
    def has_several_streams(self) -> bool:
        """Whether several streams are open: then most updates come more than once."""
        return len(self._streams) > 1

    @property
    def gap_since(self) -> float | None:
        """Since when a gap has waited for another stream, the book standing at an old id; None if none waits."""
        return self.gap.since

    def has_spoken(self, connection_id: int) -> bool:
        """Return whether this stream is open, has brought an update, and needs no other stream to fill a gap."""
        return not self.gap.is_waiting and self._streams.has_spoken(connection_id)

    def is_live(self, connection_id: int) -> bool:
        """Return whether this stream is open, and was acknowledged or has brought an update."""
        return self._streams.is_live(connection_id)

    def gaps_filled_by(self, connection_id: int) -> int:
        """Return how many gaps this open stream has filled."""
        return self._streams.gaps_filled_by(connection_id)

    # -- the table is obeyed

    def _take(self, event: Input, now: float, *arguments: object) -> None:
        """Call the handler that the table holds for the input, and hold the outcome to the table."""
        if len(self._actions) >= ACTIONS_MAX and event is not Input.STOP:
            raise RuntimeError(
                f"{len(self._actions)} actions of {self.book.market!r} wait; call drain() after every input"
            )
        cell = TABLE[event][self.state]
        try:
            cell.handler(self, now, *arguments)
            assert self.state in cell.next_states, f"{event} led by {cell.name} to {self.state}"
        finally:
            self.wants_every_update = (
                self.state is not SyncState.SYNCHRONIZED or self.gap.is_waiting or not self._streams.have_all_spoken
            )

    # -- handlers: streams

    def _open_stream(self, now: float, connection_id: int) -> None:
        if connection_id in self._streams:
            self._close_stream(now, connection_id)
        self._streams.open(connection_id)
        self._streams.note_others(self.book.last_update_id)
        if self.state is SyncState.IDLE:
            assert self.cause is not None
            self._enter(SyncState.BUFFERING, self.cause, now)

    def _acknowledge_stream(self, now: float, connection_id: int) -> None:
        if connection_id not in self._streams:
            self._open_stream(now, connection_id)
        self._streams.acknowledge(connection_id)
        if self.state is SyncState.BUFFERING:
            self._wait_for_update(now)

    def _close_stream(self, now: float, connection_id: int) -> None:
        if connection_id not in self._streams:
            return
        self._streams.close(connection_id)
        self._streams.note_others(self.book.last_update_id)
        if self._streams.is_any_live:
            if self.state is SyncState.SYNCHRONIZED and not self.gap.can_be_filled:
                self._give_up_gap(now)
            return
        state = SyncState.BUFFERING if len(self._streams) > 0 else SyncState.IDLE
        if self.state is SyncState.SYNCHRONIZED:
            self._desynchronize(Cause.STREAM_CLOSED, now, state=state)
            self._has_retained_levels = True
        else:
            self._suspend(Cause.STREAM_CLOSED)
            if state is not self.state:
                self._enter(state, Cause.STREAM_CLOSED, now)
        self._request_due = None
        self.requests.cancel()
        self._drop(UpdateDrop.STREAM_CLOSED, self._buffer.clear())

    # -- handlers: updates while BUFFERING

    def _buffer_update(self, now: float, connection_id: int, payload: Payload, received_time_ns: int | None) -> None:
        if connection_id not in self._streams:
            self._drop(UpdateDrop.NOT_OPEN)
            return
        header = self._header_of(payload)
        if header is None:
            self._drop(UpdateDrop.MALFORMED)
            return
        has_stepped_back = self._has_stepped_back(connection_id, header)
        self._streams.note_update(connection_id, header)
        if has_stepped_back:
            self._note_step_back()
        if not self._has_retained_levels:
            self.judged_at = now
            self._keep(now, connection_id, header, payload, received_time_ns)
            return
        self._wait_for_update(now)  # for one that continues the retained levels
        try:
            verdict = self.book.apply(payload, received_time_ns)
        except MalformedMessage:
            self._drop(UpdateDrop.MALFORMED)
            return
        except BookNotLoaded:  # running out of memory in the middle of an update empties a book
            verdict = Verdict.GAP
        self.judged_at = now
        if verdict == Verdict.APPLIED:
            self._resume(now, header)
        elif verdict == Verdict.GAP:
            self._has_retained_levels = False
            self._keep(now, connection_id, header, payload, received_time_ns)
        elif self._numbering.has_restarted(now, connection_id, header):
            self._note_restart()
            self._keep(now, connection_id, header, payload, received_time_ns)
        elif self.requests.awaited is not None and is_later(header.event_time_ms, self.book.event_time_ms):
            # It may be of a new numbering. If so the awaited snapshot is as well, and needs it.
            self._add_to_buffer(Update.of(self.book.rule, header, payload, received_time_ns))
        else:
            # This stream stands before the book's id. It will pass that, or `tick` ends the wait.
            self._drop(UpdateDrop.STALE)

    def _header_of(self, payload: Payload) -> Header | None:
        """Return the header of a depth update of this market with valid ids, or None. Its levels are not read yet."""
        try:
            header = self._read_header(payload)
        except MalformedMessage:
            return None
        if header.event not in (None, "depthUpdate"):
            return None
        # As in the book: a symbol may be in any script, and only the case of its ASCII letters is ignored.
        if self._symbol is not None and header.symbol is not None and header.symbol.encode().lower() != self._symbol:
            return None
        ids = header.first_update_id, header.last_update_id, header.previous_update_id
        return header if check_ids(self.book.rule, *ids) is None else None

    def _keep(
        self, now: float, connection_id: int, header: Header, payload: Payload, received_time_ns: int | None
    ) -> None:
        """Buffer an update for a snapshot, and request one."""
        update = Update.of(self.book.rule, header, payload, received_time_ns)
        newest = self._buffer.newest
        if newest is not None and update.last_update_id <= newest.last_update_id:
            if self._numbering.has_restarted_below(newest, now, connection_id, header):
                # The buffered updates are of the previous numbering. The awaited snapshot will be of the new one.
                self._drop(UpdateDrop.IDS_WENT_BACK, self._buffer.clear())
                self._note_restart()
            elif self._buffer.holds(update):
                self._drop(UpdateDrop.REPEATED)
                return
            elif previous := self._buffer.discard_previous_numbering(update):
                # No snapshot would ever reach them.
                self._drop(UpdateDrop.IDS_WENT_BACK, len(previous))
                self._numbering.note_discarded(previous, update)
        self._add_to_buffer(update)
        self._request(now)

    def _add_to_buffer(self, update: Update) -> None:
        self._drop(UpdateDrop.BUFFER_FULL, self._buffer.add(update))

    def _resume(self, now: float, header: Header) -> None:
        """The next stream has continued the retained levels: publish them, or request a snapshot if they cross."""
        if self.book.is_crossed:
            self._has_retained_levels = False
            self._suspend(Cause.CROSSED)
            self._request(now)
            return
        self.resumes += 1
        self._drop(UpdateDrop.STALE, self._buffer.clear())
        self.requests.cancel()
        self._publish(now, header)
        self.refresher.resume(now)
        self._check_book(now, header, None)

    def _discard_retained_levels(self, now: float, _cause: Cause) -> None:
        self._has_retained_levels = False
        if self._streams.is_any_live:
            self._request(now)

    def _has_stepped_back(self, connection_id: int, header: Header) -> bool:
        reached = self.book.last_update_id, self.book.event_time_ms
        return self._streams.has_stepped_back(connection_id, header, *reached)

    def _note_step_back(self) -> None:
        """The ids have stepped back by a few: what is buffered, or being downloaded, may be of the previous numbering.

        An id alone does not show that. The book, or an update, of the previous numbering would seem to continue.
        """
        self._drop(UpdateDrop.IDS_WENT_BACK, self._buffer.clear())
        self._numbering.note_step_back()
        self._has_retained_levels = False
        if self.requests.has_begun:
            self.requests.cancel()

    def _note_restart(self) -> None:
        """The ids have restarted: neither the retained levels nor the book's id can be continued."""
        self._numbering.note_restart()
        self._has_retained_levels = False

    # -- handlers: snapshots while BUFFERING

    def _end_wait_for_update(self, now: float) -> None:
        if self._request_due is not None and now >= self._request_due:
            self._request(now)

    def _begin_snapshot(self, _now: float, epoch: int) -> None:
        if self.requests.begin(epoch) and self.state is SyncState.SYNCHRONIZED:
            self.refresher.begin()

    def _synchronize(
        self, now: float, epoch: int, body: Payload | ReadSnapshot, limit: int | None, received_time_ns: int | None
    ) -> None:
        request = self.requests.take(epoch)
        if request is None:
            return
        why_useless = self._load(now, ReadSnapshot.of(self._make_book, body, limit, received_time_ns).book)
        if why_useless is not None:
            self.requests.dropped[why_useless] += 1
            self._retry.note_useless(now)
            self._request(now)
            return
        self.requests.used += 1
        self._publish(now)
        self.refresher.start(now, request.limit)

    def _load(self, now: float, candidate: "OrderBook | None") -> SnapshotDrop | None:
        """Take over a snapshot and apply the buffered updates; or return why the snapshot is useless."""
        if candidate is None:
            return SnapshotDrop.MALFORMED
        assert candidate.last_update_id is not None
        self._drop(UpdateDrop.HOLE, self._buffer.discard_before_last_hole())
        if not self._buffer.continues(self.book.rule, candidate.last_update_id):
            return SnapshotDrop.TOO_OLD
        why_refused = self._numbering.judge_snapshot(candidate, self._buffer)
        if why_refused is not None:
            return why_refused
        self.book.load_from(candidate)
        self._has_retained_levels = False  # the book has others now, and they may yet prove useless
        self._numbering.note_snapshot(now, self._buffer.newest)
        return self._catch_up()

    def _catch_up(self) -> SnapshotDrop | None:
        """Apply the buffered updates to the snapshot just loaded; or return why that failed."""
        for place, update in enumerate(self._buffer):
            try:
                verdict = self.book.apply(update.payload, update.received_time_ns)
            except MalformedMessage:
                self._drop(UpdateDrop.MALFORMED)
                continue
            if verdict == Verdict.GAP:  # the one before it could not be read
                self._buffer.discard_first(place)
                return SnapshotDrop.INCOMPLETE
            if verdict == Verdict.STALE:
                self._drop(UpdateDrop.STALE)
        self._buffer.clear()
        if self.book.is_crossed:
            self._numbering.note_crossed()
            return SnapshotDrop.CROSSED
        return None

    def _retry_or_fail(self, now: float, epoch: int, permanent: Cause | None, retry_at: float | None) -> None:
        if self.requests.take(epoch) is None:
            return
        self.requests.failed += 1
        if permanent is None:
            self._retry.note_failed(now, retry_at)
        elif self._retry.note_refused(now, self.judged_at):
            self._end(now, SyncState.FAILED, permanent)
            return
        self._request(now)

    # -- handlers: updates while SYNCHRONIZED

    def _apply_update(self, now: float, connection_id: int, payload: Payload, received_time_ns: int | None) -> None:
        if connection_id not in self._streams:
            self._drop(UpdateDrop.NOT_OPEN)
            return
        try:
            verdict = self.book.apply(payload, received_time_ns)
        except MalformedMessage:
            self._drop(UpdateDrop.MALFORMED)
            return
        except BookNotLoaded:  # running out of memory in the middle of an update empties a book
            self._resync(now, Cause.NOT_LOADED)
            self._buffer_update(now, connection_id, payload, received_time_ns)
            return
        self.judged_at = now
        self._judge_update(now, connection_id, verdict, payload, received_time_ns)

    def _judge_update(
        self, now: float, connection_id: int, verdict: Verdict, payload: Payload, received_time_ns: int | None
    ) -> None:
        header = self.book.last_header
        assert header is not None
        is_open = connection_id in self._streams
        has_stepped_back = is_open and verdict == Verdict.STALE and self._has_stepped_back(connection_id, header)
        if is_open:
            self._streams.note_update(connection_id, header)
        if verdict == Verdict.APPLIED:
            self.refresher.note_applied(now, payload)
            self._fill_gap(now, connection_id)
            self._check_book(now, header, payload)
            self._end_contradiction(now)
        elif not is_open:
            self._drop(UpdateDrop.NOT_OPEN)
        elif verdict == Verdict.GAP:
            self._wait_behind_gap(now, connection_id, header, payload, received_time_ns)
        elif has_stepped_back:
            self._desynchronize(Cause.IDS_WENT_BACK, now, header=header)
            self._note_step_back()
            self._keep(now, connection_id, header, payload, received_time_ns)
        elif self._numbering.has_restarted(now, connection_id, header):
            self._desynchronize(Cause.IDS_WENT_BACK, now, header=header)
            self._drop(UpdateDrop.IDS_WENT_BACK, self._buffer.clear())
            self._note_restart()
            self._keep(now, connection_id, header, payload, received_time_ns)
        else:
            self._drop(UpdateDrop.STALE)

    def _check_book(self, now: float, header: Header, payload: Payload | None) -> None:
        """An update was applied: resync a crossed book, refresh one that is short of levels within its horizon."""
        if not self.book.needs_attention:
            return
        if self.book.is_crossed:
            self._desynchronize(Cause.CROSSED, now, header=header, payload=payload)
            self._request(now)
        else:
            self.refresher.want(Purpose.HORIZON, now)

    def _wait_behind_gap(
        self, now: float, connection_id: int, header: Header, payload: Payload, received_time_ns: int | None
    ) -> None:
        update = Update.of(self.book.rule, header, payload, received_time_ns)
        if self.gap.waiting.holds(update):
            self._drop(UpdateDrop.REPEATED)
        else:
            self._drop(UpdateDrop.BUFFER_FULL, self.gap.waiting.add(update))
        self.gap.note_skip(connection_id, header)
        if self.gap.can_be_filled:
            self.gap.begin(now)
        else:
            self._give_up_gap(now)

    def _fill_gap(self, now: float, connection_id: int) -> None:
        """Apply the updates that wait behind a gap, as far as none is missing any more."""
        done = 0
        for update in self.gap.waiting:
            try:
                verdict = self.book.apply(update.payload, update.received_time_ns)
            except MalformedMessage:
                self._drop(UpdateDrop.MALFORMED)
            else:
                if verdict == Verdict.GAP:
                    break
                if verdict == Verdict.STALE:
                    self._drop(UpdateDrop.STALE)
                else:
                    self.refresher.note_applied(now, update.payload)
            done += 1
        if done > 0:
            self.gap.note_filled(now, connection_id, done, self.book.last_header)
            self._streams.note_others(self.book.last_update_id)

    def _give_up_gap(self, now: float) -> None:
        """No stream will fill the gap. The updates behind it wait for a snapshot from now on."""
        self._desynchronize(Cause.GAP, now, header=self.gap.header)
        self._request(now)

    def _end_waits(self, now: float) -> None:
        if self.gap.deadline is not None and now >= self.gap.deadline:
            self._give_up_gap(now)
        else:
            self.refresher.tick(now)

    def _resync(self, now: float, cause: Cause) -> None:
        self._desynchronize(cause, now)
        self._request(now)

    # -- handlers: the refresh

    def _start_refresh(self, now: float) -> None:
        self.refresher.want(Purpose.REQUESTED, now)

    def _refresh(
        self, now: float, epoch: int, body: Payload | ReadSnapshot, limit: int | None, _received_time_ns: int | None
    ) -> None:
        request = self.requests.take(epoch)
        if request is not None:
            self.refresher.snapshot_received(now, request, body, limit)
            self._end_contradiction(now)

    def _end_contradiction(self, now: float) -> None:
        """Resync a market whose book snapshots have contradicted for good."""
        if self.refresher.take_contradiction() and self.state is SyncState.SYNCHRONIZED:
            self._resync(now, Cause.DIFFERENT)

    def _retry_refresh_or_fail(self, now: float, epoch: int, permanent: Cause | None, retry_at: float | None) -> None:
        if self.requests.take(epoch) is None:
            return
        self.requests.failed += 1
        if self.refresher.snapshot_failed(now, retry_at, is_permanent=permanent is not None):
            assert permanent is not None
            self._end(now, SyncState.FAILED, permanent)

    # -- handlers: the rest

    def _ignore(self, _now: float, *_arguments: object) -> None:
        pass

    def _refuse(self, _now: float, *_arguments: object) -> None:
        raise RuntimeError(
            f"after_apply() of {self.book.market!r} in the state {self.state}: updates may be applied to the book "
            "directly only while wants_every_update is False; call receive_update()"
        )

    def _drop_unexpected_update(self, _now: float, *_update: object) -> None:
        self._drop(UpdateDrop.NOT_OPEN)

    def _drop_inactive_update(self, _now: float, *_update: object) -> None:
        self._drop(UpdateDrop.INACTIVE)

    def _drop_malformed_update(self, _now: float) -> None:
        self._drop(UpdateDrop.MALFORMED)

    def _drop_late_answer(self, _now: float, epoch: int, *_answer: object) -> None:
        request = self.requests.take(epoch)
        assert request is None, "a market that needs no snapshot has awaited one"

    def _end_stopped(self, now: float) -> None:
        self._end(now, SyncState.STOPPED, Cause.STOPPED)

    # -- changes of state

    def _enter(
        self, state: SyncState, cause: Cause, now: float, header: Header | None = None, payload: Payload | None = None
    ) -> None:
        evidence = bytes(payload) if isinstance(payload, bytearray | memoryview) else payload
        self._actions.append(StateChanged(state, self.state, cause, self.book.last_update_id, header, evidence))
        self.state_changes[cause] += 1
        self.state = state
        self.state_since = now

    def _suspend(self, cause: Cause) -> None:
        self.book.suspend(cause.value)
        self.cause = cause

    def _publish(self, now: float, header: Header | None = None) -> None:
        """The book is the exchange's at its id: make it readable."""
        assert self.cause is not None
        assert len(self._buffer) == 0
        assert self._streams.is_any_live
        self._enter(SyncState.SYNCHRONIZED, self.cause, now, header)
        self.unsynchronized_s += now - self._unsynchronized_since
        self.cause = None
        self._request_due = None
        self._has_retained_levels = False
        self._retry.note_published()
        self._numbering.note_published()
        self._streams.note_others(self.book.last_update_id)
        self.book.resume()  # last, because from here on other threads may read

    def _desynchronize(
        self,
        cause: Cause,
        now: float,
        *,
        state: SyncState = SyncState.BUFFERING,
        header: Header | None = None,
        payload: Payload | None = None,
    ) -> None:
        """The book can no longer be proven right. What waited behind a gap waits for a snapshot from now on."""
        price = middle_price(self.book) if self.book.is_loaded else None  # not readable once it is suspended
        self._suspend(cause)
        self._numbering.note_lost(price)
        self.resyncs[cause] += 1
        self._buffer = self.gap.end()
        self.refresher.abort(now - self.state_since)
        self._unsynchronized_since = now
        self._enter(state, cause, now, header, payload)

    def _end(self, now: float, state: SyncState, cause: Cause) -> None:
        """Stop or fail: nothing waits any more."""
        self._suspend(cause)
        self.refresher.abort(now - self.state_since)
        self.requests.cancel()
        self._drop(UpdateDrop.INACTIVE, self._buffer.clear() + len(self.gap.end()))
        self._streams.clear()
        self._enter(state, cause, now)

    def _drop(self, why: UpdateDrop, count: int = 1) -> None:
        self.updates_dropped[why] += count

    # -- requests for the snapshot that synchronizes

    def _wait_for_update(self, now: float) -> None:
        if self._request_due is None and self.requests.awaited is None:
            self._request_due = now + SNAPSHOT_WAIT_S

    def _request(self, now: float) -> None:
        """Request a snapshot, unless one is awaited."""
        self._request_due = None
        if self.requests.awaited is None:
            self.requests.issue(Purpose.SYNCHRONIZE, self._first_limit, self._retry.earliest(now))


Handler = Callable[Concatenate[Synchronizer, float, ...], None]
"""Handles one input: it takes the synchronizer, `now`, and the input's other arguments."""


class Cell(NamedTuple):
    """What an input does in a state."""

    handler: Handler
    next_states: tuple[SyncState, ...]
    """The states that the handler may leave the market in."""

    @property
    def name(self) -> str:
        """The handler's name without its underscore, as docs/synchronizer.md shows it."""
        return self.handler.__name__.removeprefix("_")


def _to(handler: Handler, *next_states: SyncState) -> Cell:
    return Cell(handler, next_states)


def _row(
    *,
    idle: Handler | Cell,
    buffering: Handler | Cell,
    synchronized: Handler | Cell,
    stopped: Handler | Cell,
    failed: Handler | Cell,
) -> dict[SyncState, Cell]:
    """Return the cells of an input by state. A handler without `_to` stays in its state."""
    cells = idle, buffering, synchronized, stopped, failed
    return {
        state: cell if isinstance(cell, Cell) else _to(cell, state)
        for state, cell in zip(SyncState, cells, strict=True)
    }


TABLE: dict[Input, dict[SyncState, Cell]] = {
    Input.STREAM_OPENED: _row(
        idle=_to(Synchronizer._open_stream, SyncState.BUFFERING),
        buffering=Synchronizer._open_stream,
        # A stream that is open closes first, and it may be the only live one.
        synchronized=_to(Synchronizer._open_stream, SyncState.SYNCHRONIZED, SyncState.BUFFERING),
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.STREAM_ACKNOWLEDGED: _row(
        idle=_to(Synchronizer._acknowledge_stream, SyncState.BUFFERING),
        buffering=Synchronizer._acknowledge_stream,
        synchronized=Synchronizer._acknowledge_stream,
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.STREAM_CLOSED: _row(
        idle=Synchronizer._ignore,
        buffering=_to(Synchronizer._close_stream, SyncState.BUFFERING, SyncState.IDLE),
        synchronized=_to(Synchronizer._close_stream, SyncState.SYNCHRONIZED, SyncState.BUFFERING, SyncState.IDLE),
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.RECEIVE_UPDATE: _row(
        idle=Synchronizer._drop_unexpected_update,
        buffering=_to(Synchronizer._buffer_update, SyncState.BUFFERING, SyncState.SYNCHRONIZED),
        synchronized=_to(Synchronizer._apply_update, SyncState.SYNCHRONIZED, SyncState.BUFFERING),
        stopped=Synchronizer._drop_inactive_update,
        failed=Synchronizer._drop_inactive_update,
    ),
    Input.AFTER_APPLY: _row(
        idle=Synchronizer._refuse,
        buffering=Synchronizer._refuse,
        synchronized=_to(Synchronizer._judge_update, SyncState.SYNCHRONIZED, SyncState.BUFFERING),
        stopped=Synchronizer._refuse,
        failed=Synchronizer._refuse,
    ),
    Input.UPDATE_MALFORMED: _row(
        idle=Synchronizer._drop_malformed_update,
        buffering=Synchronizer._drop_malformed_update,
        synchronized=Synchronizer._drop_malformed_update,
        stopped=Synchronizer._drop_malformed_update,
        failed=Synchronizer._drop_malformed_update,
    ),
    Input.SNAPSHOT_BEGINS: _row(
        idle=Synchronizer._ignore,
        buffering=Synchronizer._begin_snapshot,
        synchronized=Synchronizer._begin_snapshot,
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.SNAPSHOT_RECEIVED: _row(
        idle=Synchronizer._drop_late_answer,
        buffering=_to(Synchronizer._synchronize, SyncState.BUFFERING, SyncState.SYNCHRONIZED),
        synchronized=_to(Synchronizer._refresh, SyncState.SYNCHRONIZED, SyncState.BUFFERING),
        stopped=Synchronizer._drop_late_answer,
        failed=Synchronizer._drop_late_answer,
    ),
    Input.SNAPSHOT_FAILED: _row(
        idle=Synchronizer._drop_late_answer,
        buffering=_to(Synchronizer._retry_or_fail, SyncState.BUFFERING, SyncState.FAILED),
        synchronized=_to(Synchronizer._retry_refresh_or_fail, SyncState.SYNCHRONIZED, SyncState.FAILED),
        stopped=Synchronizer._drop_late_answer,
        failed=Synchronizer._drop_late_answer,
    ),
    Input.TICK: _row(
        idle=Synchronizer._ignore,
        buffering=Synchronizer._end_wait_for_update,
        synchronized=_to(Synchronizer._end_waits, SyncState.SYNCHRONIZED, SyncState.BUFFERING),
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.REQUEST_RESYNC: _row(
        idle=Synchronizer._discard_retained_levels,
        buffering=Synchronizer._discard_retained_levels,
        synchronized=_to(Synchronizer._resync, SyncState.BUFFERING),
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.REQUEST_REFRESH: _row(
        idle=Synchronizer._ignore,  # here and below there is nothing to refresh, and a snapshot comes anyway
        buffering=Synchronizer._ignore,
        synchronized=Synchronizer._start_refresh,
        stopped=Synchronizer._ignore,
        failed=Synchronizer._ignore,
    ),
    Input.STOP: _row(
        idle=_to(Synchronizer._end_stopped, SyncState.STOPPED),
        buffering=_to(Synchronizer._end_stopped, SyncState.STOPPED),
        synchronized=_to(Synchronizer._end_stopped, SyncState.STOPPED),
        stopped=Synchronizer._ignore,
        failed=_to(Synchronizer._end_stopped, SyncState.STOPPED),
    ),
}
"""Every input in every state: its handler, and the states it may lead to. The class, the tests and the docs obey it."""


def state_diagram() -> str:
    """Return the state changes of `TABLE` as a Mermaid diagram."""
    edges: dict[tuple[SyncState, SyncState], list[str]] = {}
    for event, row in TABLE.items():
        for state, cell in row.items():
            for next_state in cell.next_states:
                if next_state is not state:
                    edges.setdefault((state, next_state), []).append(event.value)
    order = list(SyncState)
    lines = ["stateDiagram-v2", f"    [*] --> {SyncState.IDLE}"]
    for state, next_state in sorted(edges, key=lambda edge: (order.index(edge[0]), order.index(edge[1]))):
        lines.append(f"    {state} --> {next_state} : {', '.join(edges[state, next_state])}")
    return "\n".join(lines) + "\n"
