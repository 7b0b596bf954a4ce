"""What the synchronizer does in each cell of its table: the handlers.

Rule 1: which handler runs when, and in which states it may end, is said by `ldc.sync.machine.TABLE`; read that first.
Rule 2: a handler is named in the table by its name without the underscore, and takes `now` and the input's arguments.
"""

from typing import TYPE_CHECKING

from ldc.errors import BookNotLoaded, MalformedMessage
from ldc.sequence import check_ids
from ldc.sync.actions import (
    Payload,
    Purpose,
    SnapshotDrop,
    Update,
    UpdateDrop,
    are_prices_far_apart,
    is_far_from_updates,
    is_later,
    middle_price,
)
from ldc.sync.streams import RESYNC_AFTER_STALE
from ldc.sync.transitions import Transitions
from ldc.types import Cause, Header, SyncState, Verdict

if TYPE_CHECKING:
    from ldc.book import OrderBook

__all__ = ["IMPLAUSIBLE_IN_A_ROW_MAX", "STALE_AFTER_SNAPSHOT_S", "Handlers"]

STALE_AFTER_SNAPSHOT_S = 10.0
"""Right after a snapshot STALE updates are normal, for REST may be ahead of the stream. So long after it they show that
the snapshot's id is not of the numbering that the stream has now."""

IMPLAUSIBLE_IN_A_ROW_MAX = 2
"""So many snapshots in a row are refused because they are behind the id that was readable, or far from its prices. The
next one is believed: exchanges do restart their ids, and prices do jump while a market is halted."""


class Handlers(Transitions):
    """The handlers. `ldc.sync.machine.Synchronizer` adds the inputs, the table, and the outputs."""

    # -- feeds

    def _open_stream(self, now: float, connection_id: int) -> None:
        if connection_id in self._streams:
            self._close_stream(now, connection_id)
        self._streams.open(connection_id)
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
        if self._streams.is_any_live:
            if self.state is SyncState.SYNCHRONIZED and self._streams.have_all_skipped:
                self._give_up_gap(now)
            return
        state = SyncState.BUFFERING if len(self._streams) > 0 else SyncState.IDLE
        if self.state is SyncState.SYNCHRONIZED:
            self._desynchronize(Cause.STREAM_CLOSED, now, state=state)
            self._has_retained_levels = True
        else:
            self._blame(Cause.STREAM_CLOSED)
            if state is not self.state:
                self._enter(state, Cause.STREAM_CLOSED, now)
        self._request_due = None
        self.requests.cancel()
        self._drop(UpdateDrop.STREAM_CLOSED, self._buffer.clear())

    # -- updates while there is no book to apply them to

    def _buffer_update(self, now: float, connection_id: int, payload: Payload, received_time_ns: int | None) -> None:
        if connection_id not in self._streams:
            self._drop(UpdateDrop.NOT_OPEN)
            return
        header = self._header_of(payload)
        if header is None:
            self._drop(UpdateDrop.MALFORMED)
            return
        self._streams.note_update(connection_id)
        if not self._has_retained_levels:
            self.judged_at = now
            self._keep(now, connection_id, header, payload, received_time_ns)
            return
        self._wait_for_update(now)  # for one that continues the levels kept aside
        try:
            verdict = self.book.apply(payload, received_time_ns)
        except MalformedMessage:
            self._drop(UpdateDrop.MALFORMED)
            return
        except BookNotLoaded:  # running out of memory in the middle of an update empties a book
            verdict = Verdict.GAP
        self.judged_at = now
        if verdict == Verdict.APPLIED:
            self._resume_or_give_up(now, header)
        elif verdict == Verdict.GAP:
            self._has_retained_levels = False
            self._keep(now, connection_id, header, payload, received_time_ns)
        elif self._is_stale_for_long(now, connection_id, header):
            self._note_ids_restarted()
            self._keep(now, connection_id, header, payload, received_time_ns)
        elif self.requests.awaited is not None and is_later(header.event_time_ms, self.book.event_time_ms):
            # It may be of a new numbering. If so the snapshot is as well, and needs it.
            update = Update.of(self.book.rule, header, payload, received_time_ns)
            self._drop(UpdateDrop.BUFFER_FULL, self._buffer.add(update))
        else:
            # This stream stands before the book's id. It will come past it, or `tick` ends the waiting.
            self._drop(UpdateDrop.STALE)

    def _header_of(self, payload: Payload) -> Header | None:
        """Return the header of a depth update whose ids make sense, or None. Its levels are read when it is applied."""
        try:
            header = self._read_header(payload)
        except MalformedMessage:
            return None
        if header.event not in (None, "depthUpdate"):
            return None
        # As the book does it: of a symbol, which may be in any script, only the ASCII letters have a case to ignore.
        if self._symbol is not None and header.symbol is not None and header.symbol.encode().lower() != self._symbol:
            return None
        ids = header.first_update_id, header.last_update_id, header.previous_update_id
        return header if check_ids(self.book.rule, *ids) is None else None

    def _keep(
        self, now: float, connection_id: int, header: Header, payload: Payload, received_time_ns: int | None
    ) -> None:
        """Buffer an update for a snapshot, and see that one is asked for."""
        update = Update.of(self.book.rule, header, payload, received_time_ns)
        newest = self._buffer.newest
        if newest is not None and update.last_update_id <= newest.last_update_id:
            if self._streams.note_stale(connection_id, header, newest.last_update_id, newest.event_time_ms, now):
                # What is buffered is of the old numbering. The request under way stays: its answer will be of the new.
                self._drop(UpdateDrop.IDS_WENT_BACK, self._buffer.clear())
                self._note_ids_restarted()
            elif self._buffer.holds(update):
                self._drop(UpdateDrop.REPEATED)
                return
            else:
                self._discard_previous_numbering(update)
        self._drop(UpdateDrop.BUFFER_FULL, self._buffer.add(update))
        self._request(now)

    def _discard_previous_numbering(self, update: Update) -> None:
        """What is buffered may be of a numbering that is over: no snapshot would ever reach it.

        A market that is quiet brings one update in a minute, so this one has to do. It is one witness only, so the ids
        that were published still count (`_why_implausible`). A snapshot from where the book stood is of the old one.
        """
        former = self._buffer.forget_previous_numbering(update)
        if not former:
            return
        self._drop(UpdateDrop.IDS_WENT_BACK, len(former))
        left_id = min(other.start for other in former)
        if self.book.last_update_id is not None and self.book.last_update_id > update.last_update_id:
            left_id = min(left_id, self.book.last_update_id)
        self._abandoned_id = left_id

    def _resume_or_give_up(self, now: float, header: Header) -> None:
        """The next stream has continued the levels that were kept aside."""
        if self.book.is_crossed:
            self._has_retained_levels = False
            self._blame(Cause.CROSSED)
            self._request(now)
            return
        self.resumes += 1
        self._drop(UpdateDrop.STALE, self._buffer.clear())
        self.requests.cancel()
        self._publish(now, header)
        self.refresher.resume(now)
        self._look_after_book(now, header, None)

    def _discard_retained_levels(self, now: float, _cause: Cause) -> None:
        self._has_retained_levels = False
        if self.state is SyncState.BUFFERING and self._streams.is_any_live:
            self._request(now)

    def _note_ids_restarted(self) -> None:
        """The exchange has: no id from before says anything now."""
        self._abandoned_id = self.book.last_update_id
        self._published_id = None
        self._has_retained_levels = False

    # -- snapshots

    def _end_wait_for_update(self, now: float) -> None:
        if self._request_due is not None and now >= self._request_due:
            self._request(now)

    def _begin_snapshot(self, _now: float, epoch: int) -> None:
        if self.requests.begin(epoch) and self.state is SyncState.SYNCHRONIZED:
            self.refresher.begin()

    def _synchronize(
        self, now: float, epoch: int, body: Payload, limit: int | None, received_time_ns: int | None
    ) -> None:
        request = self.requests.take(epoch)
        if request is None:
            return
        why_not = self._load(now, body, limit, received_time_ns)
        if why_not is not None:
            self.requests.dropped[why_not] += 1
            self._refetch(now)
            return
        self.requests.used += 1
        self._publish(now)
        self.refresher.start(now, request.limit)

    def _load(self, now: float, body: Payload, limit: int | None, received_time_ns: int | None) -> SnapshotDrop | None:
        """Load a snapshot and bring it up to date from the buffer, or say why it is of no use."""
        candidate = self._make_book()
        try:
            candidate.load_snapshot(body, limit)
        except MalformedMessage:
            return SnapshotDrop.MALFORMED
        assert candidate.last_update_id is not None
        self._drop(UpdateDrop.HOLE, self._buffer.forget_before_last_hole())
        if not self._buffer.continues(self.book.rule, candidate.last_update_id):
            return SnapshotDrop.TOO_OLD
        doubt = self._why_implausible(candidate)
        if doubt is not None and self._implausible_in_a_row < IMPLAUSIBLE_IN_A_ROW_MAX:
            self._implausible_in_a_row += 1
            return doubt
        self.book.load_snapshot(body, limit, received_time_ns=received_time_ns)
        self._has_retained_levels = False  # if this snapshot proves useless yet, no update may continue it
        self._snapshot_id = candidate.last_update_id
        self._snapshot_at = now
        self._stale_after_snapshot = 0
        newest = self._buffer.newest
        self._stream_reached = (0, None) if newest is None else (newest.last_update_id, newest.event_time_ms)
        return self._catch_up()

    def _why_implausible(self, candidate: "OrderBook") -> SnapshotDrop | None:
        """Return what is suspicious about a snapshot that could be used, or None."""
        snapshot_id = candidate.last_update_id
        assert snapshot_id is not None
        reached_id = max(snapshot_id, self._buffer.newest.last_update_id) if self._buffer.newest else snapshot_id
        if self._published_id is not None and reached_id < self._published_id and not self._is_stream_later():
            return SnapshotDrop.LAGGING
        if self._abandoned_id is not None and snapshot_id >= self._abandoned_id:
            return SnapshotDrop.LAGGING  # of the numbering that is over
        if are_prices_far_apart(middle_price(candidate), self._published_price):
            return SnapshotDrop.WRONG_PRICES
        if self._published_price is None and is_far_from_updates(candidate, self._buffer, self._make_book()):
            return SnapshotDrop.WRONG_PRICES
        return None

    def _is_stream_later(self) -> bool:
        """Whether an update that is buffered was sent after the last one that the book has applied.

        If even so it does not reach the id that was readable, then the stream says what the snapshot says: the exchange
        counts anew. Two witnesses are enough; a single one, a node that is behind, is not.
        """
        newest = self._buffer.newest
        return newest is not None and is_later(newest.event_time_ms, self.book.event_time_ms)

    def _catch_up(self) -> SnapshotDrop | None:
        """Apply what is buffered to the snapshot just loaded, or say why that failed."""
        for place, update in enumerate(self._buffer):
            try:
                verdict = self.book.apply(update.payload, update.received_time_ns)
            except MalformedMessage:
                self._drop(UpdateDrop.MALFORMED)
                continue
            if verdict == Verdict.GAP:  # one that could not be read came before it
                self._buffer.forget_first(place)
                return SnapshotDrop.INCOMPLETE
            if verdict == Verdict.STALE:
                self._drop(UpdateDrop.STALE)
        self._buffer.clear()
        if self.book.is_crossed:
            self._published_id = self.book.last_update_id  # the buffer is used up: nothing older can be continued
            return SnapshotDrop.CROSSED
        return None

    def _retry_or_fail(self, now: float, epoch: int, permanent: Cause | None, retry_at: float | None) -> None:
        if self.requests.take(epoch) is None:
            return
        self.requests.failed += 1
        if permanent is not None:
            self._end(now, SyncState.FAILED, permanent)
        else:
            self._refetch(now, retry_at)

    # -- updates of a synchronized book

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
        self._streams.note_update(connection_id)
        self.judged_at = now
        self._judge_update(now, connection_id, verdict, payload, received_time_ns)

    def _judge_update(
        self, now: float, connection_id: int, verdict: Verdict, payload: Payload, received_time_ns: int | None
    ) -> None:
        header = self.book.last_header
        assert header is not None
        if verdict == Verdict.APPLIED:
            self.refresher.note_applied(now, payload, received_time_ns)
            self._fill_gap(now, connection_id)
            self._look_after_book(now, header, payload)
        elif connection_id not in self._streams:
            self._drop(UpdateDrop.NOT_OPEN)
        elif verdict == Verdict.GAP:
            self._meet_gap(now, connection_id, header, payload, received_time_ns)
        elif self._is_stale_for_long(now, connection_id, header):
            self._desynchronize(Cause.IDS_WENT_BACK, now, header=header)
            self._drop(UpdateDrop.IDS_WENT_BACK, self._buffer.clear())
            self._note_ids_restarted()
            self._keep(now, connection_id, header, payload, received_time_ns)
        else:
            self._drop(UpdateDrop.STALE)

    def _is_stale_for_long(self, now: float, connection_id: int, header: Header) -> bool:
        """Note a STALE update; return whether there were so many that the ids must have gone backwards."""
        reached_id = self.book.last_update_id
        assert reached_id is not None
        if reached_id == self._snapshot_id:  # no update has been applied since the snapshot
            self._stale_after_snapshot += 1
            is_late = now - self._snapshot_at >= STALE_AFTER_SNAPSHOT_S
            if is_late and self._stale_after_snapshot >= RESYNC_AFTER_STALE:
                return True
            # The snapshot may be far ahead of the stream; but the stream itself does not go back, unless its ids do.
            reached_id, reached_time_ms = self._stream_reached
            assert header.last_update_id is not None
            return header.last_update_id <= reached_id and self._streams.note_stale(
                connection_id, header, reached_id, reached_time_ms, now
            )
        return self._streams.note_stale(connection_id, header, reached_id, self.book.event_time_ms, now)

    def _look_after_book(self, now: float, header: Header, payload: Payload | None) -> None:
        """An update has been applied: is the book sane, and is its horizon far enough?"""
        if not self.book.needs_attention:
            return
        if self.book.is_crossed:
            self._desynchronize(Cause.CROSSED, now, header=header, payload=payload)
            self._request(now)
        else:
            self.refresher.want(Purpose.HORIZON, now)

    def _meet_gap(
        self, now: float, connection_id: int, header: Header, payload: Payload, received_time_ns: int | None
    ) -> None:
        update = Update.of(self.book.rule, header, payload, received_time_ns)
        if self._buffer.holds(update):
            self._drop(UpdateDrop.REPEATED)
        else:
            self._drop(UpdateDrop.BUFFER_FULL, self._buffer.add(update))
        self._streams.note_skip(connection_id)
        self._gap_header = self._gap_header or header
        if self._streams.have_all_skipped:
            self._give_up_gap(now)
        elif self._gap_deadline is None:
            self._wait_for_gap(now, since=now)

    def _wait_for_gap(self, now: float, since: float) -> None:
        self.gap_waits += 1
        self._gap_since = since
        self._gap_deadline = now + self._gap_wait_s

    def _fill_gap(self, now: float, connection_id: int) -> None:
        """Apply the updates that waited, as far as nothing is missing any more.

        Behind a gap that is filled there may be another one, which has the whole time and any feed to fill it: who has
        skipped it is seen by what each stream brings next. How old the book is counts from the first one still.
        """
        if len(self._buffer) == 0:
            return
        done = 0
        for update in self._buffer:
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
                    self.refresher.note_applied(now, update.payload, update.received_time_ns)
            done += 1
        if done == 0:
            return
        self._buffer.forget_first(done)
        self.gaps_filled += 1
        if connection_id in self._streams:
            self._streams.note_filled(connection_id)
        since = None if self._gap_deadline is None else self._gap_since
        self._end_gap()
        if len(self._buffer) > 0:
            self._gap_header = self.book.last_header
            self._wait_for_gap(now, since=now if since is None else since)

    def _give_up_gap(self, now: float) -> None:
        """Nobody will fill the gap. What waited behind it now waits for a snapshot."""
        self._desynchronize(Cause.GAP, now, header=self._gap_header)
        self._request(now)

    def _end_waits(self, now: float) -> None:
        if self._gap_deadline is not None and now >= self._gap_deadline:
            self._give_up_gap(now)
        else:
            self.refresher.tick(now)

    def _resync(self, now: float, cause: Cause) -> None:
        self._desynchronize(cause, now)
        self._request(now)

    # -- the refresh

    def _start_refresh(self, now: float) -> None:
        self.refresher.want(Purpose.REQUESTED, now)

    def _refresh(self, now: float, epoch: int, body: Payload, limit: int | None, _received_time_ns: int | None) -> None:
        request = self.requests.take(epoch)
        if request is not None:
            self.refresher.snapshot_received(now, request, body, limit)

    def _retry_refresh_or_fail(self, now: float, epoch: int, permanent: Cause | None, retry_at: float | None) -> None:
        if self.requests.take(epoch) is None:
            return
        self.requests.failed += 1
        if self.refresher.snapshot_failed(now, retry_at, is_permanent=permanent is not None):
            assert permanent is not None
            self._end(now, SyncState.FAILED, permanent)

    # -- the rest

    def _ignore(self, _now: float, *_arguments: object) -> None:
        pass

    def _refuse(self, _now: float, *_arguments: object) -> None:
        raise RuntimeError(
            f"after_apply() of {self.book.market!r} in the state {self.state}: the book may be fed directly only while "
            "wants_every_update is False; call receive_update()"
        )

    def _drop_unexpected_update(self, _now: float, *_update: object) -> None:
        self._drop(UpdateDrop.NOT_OPEN)

    def _drop_inactive_update(self, _now: float, *_update: object) -> None:
        self._drop(UpdateDrop.INACTIVE)

    def _drop_malformed_update(self, _now: float) -> None:
        self._drop(UpdateDrop.MALFORMED)

    def _drop_late_answer(self, _now: float, epoch: int, *_answer: object) -> None:
        request = self.requests.take(epoch)
        assert request is None, "a request was awaited by a market that has no use for it"

    def _end_stopped(self, now: float) -> None:
        self._end(now, SyncState.STOPPED, Cause.STOPPED)
