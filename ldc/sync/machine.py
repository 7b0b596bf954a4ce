"""When a local copy is the exchange's book, and how it becomes that again: the state machine of one market.

Rule 1: what may happen at all is in `TABLE` below. Each of its cells names the handler that does it.
Rule 2: sans-I/O. Inputs are method calls, outputs are actions that the caller drains. No clock, no random source, no
        socket, no thread, no log: `now` is an argument (seconds of any clock that never goes back), and dice are cast
        by a function that was passed in.
Rule 3: never silently wrong. In every state but SYNCHRONIZED the book is suspended, with the cause.
Rule 4: whatever waits, is kept, or is tried again has a limit with a name, and is counted.

Theory of operation. Update ids are global per market, so ids alone decide; which connection brought an update, and in
what order, only matters for how long to wait. A market comes to be SYNCHRONIZED in one of two ways:

By a snapshot. While BUFFERING, updates are kept in the order of their starts. The snapshot is asked for at the first of
them, or `SNAPSHOT_WAIT_S` after the acknowledgement: so a quiet market is ready, and a misspelt one is found. What
lies before a hole in the buffer is of no use, and forgotten. If the first update left does not continue the snapshot,
the snapshot is too old: the buffer stays, and another one is asked for. Otherwise it is loaded, what the buffer has
past it is applied, and the book can be read. Nothing needs to have arrived: a market may be quiet. A snapshot is read
into a second book first; the market's own is touched when the decision has been made. After a first snapshot of no use,
or a first failed download, the next one is asked for at once; then with a back-off.

By resuming. When the last live stream closes, the book keeps its levels, aside. If the first update of the next stream
continues them, nothing was missed. If not, or if there is none within `SNAPSHOT_WAIT_S`, a snapshot is asked for.

A SYNCHRONIZED market is left by a gap (an update's start is past the book), a crossed book, ids that went back, the end
of its last live stream, or on request. A stream is *live* once it was acknowledged or has brought an update. With
other live streams a gap waits for them for `GAP_WAIT_MS`, the book standing readable at its old id, unless each of
them has itself skipped what is missing. A refresh never leaves SYNCHRONIZED.

The rest of the machine, each with its own rules at its top: `ldc.sync.handlers` (what each cell does),
`ldc.sync.transitions` (the memory, and every change of state), `ldc.sync.refresh` (the refresh and its audit),
`ldc.sync.streams` (what each stream has shown), `ldc.sync.actions` (actions, counted causes, the buffer, the epochs).

The hot path does not come here. One thread drives a market, and this is how:

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

Any other exception of `apply` (MemoryError, BookNotLoaded) leaves the book whole or empty: pass it on, after
``synchronizer.request_resync(now, Cause.NOT_LOADED)``. After any call here: carry out what `drain` returns, look at
`wants_every_update` again, and call `tick` at `next_due`.
"""

import enum
from typing import NamedTuple

from ldc.sync.actions import ACTIONS_MAX, Action, Payload
from ldc.sync.handlers import Handlers
from ldc.types import Cause, SyncState, Verdict

__all__ = ["TABLE", "Cell", "Input", "Synchronizer", "state_diagram"]


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


class Cell(NamedTuple):
    """What an input does in a state."""

    handler: str
    """The method of `Synchronizer` that does it, without its underscore."""
    next_states: tuple[SyncState, ...]
    """The states that it may leave the market in."""


def _row(**cells: str) -> dict[SyncState, Cell]:
    """Read a row: ``state="handler"`` stays in the state, ``state="handler -> ONE | OTHER"`` leaves it for these."""
    row = {}
    for state in SyncState:
        handler, _, next_states = cells[state.name.lower()].partition(" -> ")
        row[state] = Cell(handler, tuple(SyncState[name] for name in (next_states or state.name).split(" | ")))
    return row


# fmt: off
TABLE: dict[Input, dict[SyncState, Cell]] = {
    Input.STREAM_OPENED: _row(
        idle="open_stream -> BUFFERING",
        buffering="open_stream",
        synchronized="open_stream -> SYNCHRONIZED | BUFFERING",  # a number that is open closes first
        stopped="ignore",
        failed="ignore",
    ),
    Input.STREAM_ACKNOWLEDGED: _row(
        idle="acknowledge_stream -> BUFFERING",
        buffering="acknowledge_stream",
        synchronized="acknowledge_stream",
        stopped="ignore",
        failed="ignore",
    ),
    Input.STREAM_CLOSED: _row(
        idle="ignore",
        buffering="close_stream -> BUFFERING | IDLE",
        synchronized="close_stream -> SYNCHRONIZED | BUFFERING | IDLE",
        stopped="ignore",
        failed="ignore",
    ),
    Input.RECEIVE_UPDATE: _row(
        idle="drop_unexpected_update",
        buffering="buffer_update -> BUFFERING | SYNCHRONIZED",
        synchronized="apply_update -> SYNCHRONIZED | BUFFERING",
        stopped="drop_inactive_update",
        failed="drop_inactive_update",
    ),
    Input.AFTER_APPLY: _row(
        idle="refuse",
        buffering="refuse",
        synchronized="judge_update -> SYNCHRONIZED | BUFFERING",
        stopped="refuse",
        failed="refuse",
    ),
    Input.UPDATE_MALFORMED: _row(
        idle="drop_malformed_update",
        buffering="drop_malformed_update",
        synchronized="drop_malformed_update",
        stopped="drop_malformed_update",
        failed="drop_malformed_update",
    ),
    Input.SNAPSHOT_BEGINS: _row(
        idle="ignore",
        buffering="begin_snapshot",
        synchronized="begin_snapshot",
        stopped="ignore",
        failed="ignore",
    ),
    Input.SNAPSHOT_RECEIVED: _row(
        idle="drop_late_answer",
        buffering="synchronize -> BUFFERING | SYNCHRONIZED",
        synchronized="refresh",
        stopped="drop_late_answer",
        failed="drop_late_answer",
    ),
    Input.SNAPSHOT_FAILED: _row(
        idle="drop_late_answer",
        buffering="retry_or_fail -> BUFFERING | FAILED",
        synchronized="retry_refresh_or_fail -> SYNCHRONIZED | FAILED",
        stopped="drop_late_answer",
        failed="drop_late_answer",
    ),
    Input.TICK: _row(
        idle="ignore",
        buffering="end_wait_for_update",
        synchronized="end_waits -> SYNCHRONIZED | BUFFERING",
        stopped="ignore",
        failed="ignore",
    ),
    Input.REQUEST_RESYNC: _row(
        idle="discard_retained_levels",
        buffering="discard_retained_levels",
        synchronized="resync -> BUFFERING",
        stopped="ignore",
        failed="ignore",
    ),
    Input.REQUEST_REFRESH: _row(
        idle="ignore",  # here and below: there is nothing to refresh, and a snapshot comes anyway
        buffering="ignore",
        synchronized="start_refresh",
        stopped="ignore",
        failed="ignore",
    ),
    Input.STOP: _row(
        idle="end_stopped -> STOPPED",
        buffering="end_stopped -> STOPPED",
        synchronized="end_stopped -> STOPPED",
        stopped="ignore",
        failed="end_stopped -> STOPPED",
    ),
}
# fmt: on
"""Every input in every state: who handles it, and what may come of it. The class, the tests and the docs obey it."""


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


class Synchronizer(Handlers):
    """One market's state machine around its book.

    Every method tells it what happened; then `drain` says what to do. Its attributes are for looking at: `state`,
    `state_since`, `cause`, `wants_every_update`, and counters of everything that was discarded, tried or waited for
    (`Transitions` describes them all).

    Thread-safety: one thread calls it. Other threads may look at the attributes; a dict's keys never change.

    Args:
        book: the market's book. From now on it is suspended and resumed here only.
        make_book: makes another book of the same class and rule, for snapshots that are to be looked at first.
        read_header: the function of that name beside the book's class.
        random: a number from 0 up to but not including 1, as ``random.random`` draws it; for the jitter of back-offs.
        limits: levels a side of the first snapshot, the second, and so on; ascending.
        now: the present.
        symbol: the market in the exchange's spelling. An update to be buffered that names another one is dropped, as
            the book does with one to be applied.
        refresh_interval_s: how often a synchronized market is refreshed without need; None: never.
        gap_wait_ms: how long a gap waits for another live feed.
    """

    # -- inputs: feeds and updates

    def stream_opened(self, connection_id: int, now: float) -> None:
        """A subscription is about to be sent: updates may come from now on. One that is open already closes first."""
        self._take(Input.STREAM_OPENED, now, connection_id)

    def stream_acknowledged(self, connection_id: int, now: float) -> None:
        """The exchange has accepted the subscription."""
        self._take(Input.STREAM_ACKNOWLEDGED, now, connection_id)

    def stream_closed(self, connection_id: int, now: float) -> None:
        """The connection, or the subscription, has ended."""
        self._take(Input.STREAM_CLOSED, now, connection_id)

    def receive_update(self, connection_id: int, payload: Payload, received_time_ns: int | None, now: float) -> None:
        """A frame has come, and the book has not seen it. What cannot be read is dropped and counted, never raised."""
        self._take(Input.RECEIVE_UPDATE, now, connection_id, payload, received_time_ns)

    def after_apply(
        self, connection_id: int, verdict: Verdict, payload: Payload, received_time_ns: int | None, now: float
    ) -> None:
        """The book has judged this frame: the verdict was not APPLIED, or the book needs attention."""
        self._take(Input.AFTER_APPLY, now, connection_id, verdict, payload, received_time_ns)

    def update_malformed(self, now: float) -> None:
        """The book has refused a frame with ``MalformedMessage``."""
        self._take(Input.UPDATE_MALFORMED, now)

    # -- inputs: snapshots

    def snapshot_begins(self, epoch: int, now: float) -> None:
        """The download for this request is about to begin: what comes from now on is kept for it."""
        self._take(Input.SNAPSHOT_BEGINS, now, epoch)

    def snapshot_received(
        self, epoch: int, body: Payload, limit: int | None, now: float, *, received_time_ns: int | None = None
    ) -> None:
        """The snapshot is here; `limit` is the one that the exchange honoured."""
        self._take(Input.SNAPSHOT_RECEIVED, now, epoch, body, limit, received_time_ns)

    def snapshot_failed(
        self, epoch: int, now: float, *, permanent: Cause | None = None, retry_at: float | None = None
    ) -> None:
        """There is no snapshot: for good (`permanent` says why), or for now (not again before `retry_at`)."""
        self._take(Input.SNAPSHOT_FAILED, now, epoch, permanent, retry_at)

    # -- inputs: time and requests

    def tick(self, now: float) -> None:
        """Time has passed. Needed at `next_due`; harmless at any other time."""
        self._take(Input.TICK, now)

    def request_resync(self, now: float, cause: Cause = Cause.REQUESTED) -> None:
        """Give up the book, and synchronize it anew from a snapshot."""
        self._take(Input.REQUEST_RESYNC, now, cause)

    def request_refresh(self, now: float) -> None:
        """Take in a new snapshot without giving up the book."""
        self._take(Input.REQUEST_REFRESH, now)

    def stop(self, now: float) -> None:
        """End for good: nothing is read, waited for or answered any more."""
        self._take(Input.STOP, now)

    # -- outputs

    def drain(self) -> list[Action]:
        """Return what is to be done, oldest first, and forget it. Call it after every input."""
        drained = self._actions.copy()
        self._actions.clear()
        return drained

    def next_due(self) -> float | None:
        """Return when to call `tick` next, or None if nothing waits for the time to pass."""
        if self.state is SyncState.BUFFERING:
            return self._request_due
        if self.state is SyncState.SYNCHRONIZED:
            dues = [due for due in (self._gap_deadline, self.refresher.next_due) if due is not None]
            return min(dues, default=None)
        return None

    @property
    def epoch(self) -> int:
        """The newest epoch. The pair (epoch, update id) of a readable book never goes back."""
        return self.requests.epoch

    @property
    def buffered_count(self) -> int:
        """Updates that wait for a snapshot, or for another stream to fill a gap."""
        return len(self._buffer)

    def has_spoken(self, connection_id: int) -> bool:
        """Whether this stream is open, has brought an update, and needs no other stream to fill a gap before it."""
        return self._gap_deadline is None and self._streams.has_spoken(connection_id)

    @property
    def has_several_streams(self) -> bool:
        """Whether several streams are open: then most updates come more than once."""
        return len(self._streams) > 1

    def gaps_filled_by(self, connection_id: int) -> int:
        """Return how many gaps this open stream has filled."""
        return self._streams.gaps_filled_by(connection_id)

    @property
    def gap_since(self) -> float | None:
        """Since when gaps wait for another stream, the book standing at an old id; None if none does."""
        return None if self._gap_deadline is None else self._gap_since

    def is_live(self, connection_id: int) -> bool:
        """Whether this stream is open, and was acknowledged or has brought an update."""
        return self._streams.is_live(connection_id)

    # -- the machine

    def _take(self, event: Input, now: float, *arguments: object) -> None:
        """Let the table say what the input does, and hold the outcome to it."""
        if len(self._actions) >= ACTIONS_MAX and event is not Input.STOP:
            raise RuntimeError(
                f"{len(self._actions)} actions of {self.book.market!r} wait; call drain() after every input"
            )
        cell = TABLE[event][self.state]
        try:
            getattr(self, f"_{cell.handler}")(now, *arguments)
            assert self.state in cell.next_states, f"{event} led from {cell} to {self.state}"
        finally:
            self.wants_every_update = (
                self.state is not SyncState.SYNCHRONIZED
                or len(self._buffer) > 0
                or self.refresher.wants_every_update
                or not self._streams.have_all_spoken
            )
