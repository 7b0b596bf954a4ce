"""Which numbering the update ids of a market have: whether they restarted, and whether a snapshot is of the right one.

Rule 1: within one numbering ids never go back. So lower ids show a restart, if they are neither repeated nor late.
Rule 2: one source can be wrong. A restart is believed when the stream shows it several times, or when the stream and a
        snapshot agree on it.
Rule 3: nothing is refused for ever. After `IMPLAUSIBLE_IN_A_ROW_MAX` refused snapshots the next one is believed.
Rule 4: this object changes no book and requests nothing; `ldc.sync.machine` acts on its answers.

Exchanges restart their ids on maintenance, mostly far below where they were. Four observations reveal it.

    a stream brings an update that ends a      `ldc.sync.streams` notices it, at the first such update;
    little below its last one, sent later      `note_step_back`
    updates end at or below the book's id      `has_restarted`; right after a snapshot that is normal for a while
    updates end below the buffered ones        `has_restarted_below`, or, for one of a much later time, the buffer
                                               discards them itself and `note_discarded` is called
    a snapshot's id is lower than before       `judge_snapshot`; believed at once if a buffered update is later than
                                               the book and lower as well
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ldc.sync.actions import SnapshotDrop
from ldc.sync.buffer import Update, UpdateBuffer, is_later
from ldc.sync.plausibility import are_prices_far_apart, is_far_from_updates, middle_price
from ldc.sync.streams import RESYNC_AFTER_STALE, Streams
from ldc.types import Header

if TYPE_CHECKING:
    from ldc.book import OrderBook

STALE_AFTER_SNAPSHOT_S = 10.0
"""How long after a snapshot STALE updates prove nothing, because REST may be ahead of the stream. Then
`RESYNC_AFTER_STALE` of them show that the snapshot's id is of another numbering than the stream's."""

IMPLAUSIBLE_IN_A_ROW_MAX = 2
"""Snapshots in a row that are refused as implausible. The next one is believed: exchanges do restart their ids, and
prices do jump while a market is halted."""


class Numbering:
    """The update ids of one market: where they stood, and what they must not fall behind.

    Thread-safety: one thread calls it. Other threads may read `id_before_restart`.
    """

    def __init__(self, book: "OrderBook", streams: Streams, make_book: "Callable[[], OrderBook]", now: float) -> None:
        self._book = book
        self._streams = streams
        self._make_book = make_book

        self.id_before_restart: int | None = None
        """The highest id at which the book was readable before the ids restarted; None if they never did."""
        self.readable_price: float | None = None
        """The book's middle price when it was last readable; None if it never was, or if no price was known."""

        self._id_min: int | None = None  # a snapshot, with the buffered updates, must reach it
        self._lost_id: int | None = None  # where the book stood when it left SYNCHRONIZED
        self._previous_id: int | None = None  # a snapshot that reaches it is of the previous numbering
        self._stepped_from_id: int | None = None  # a snapshot of exactly this id may be of the previous numbering
        self._snapshot_id: int | None = None  # of the snapshot that was loaded last
        self._snapshot_at = now
        self._stale_after_snapshot = 0
        self._stream_id = 0  # the highest id that the stream had reached when that snapshot was loaded
        self._stream_time_ms: int | None = None  # the event time of that
        self._implausible_in_a_row = 0

    # -- what happened to the book

    def note_lost(self, readable_price: float | None) -> None:
        """The book has left SYNCHRONIZED. It is the last readable one until there is a new one."""
        self.readable_price = readable_price
        self._id_min = self._lost_id = self._book.last_update_id

    def note_published(self) -> None:
        """The book is about to be readable. A lower id than the one at which it was lost is of a new numbering."""
        self._id_min = self._previous_id = self._stepped_from_id = None
        self._implausible_in_a_row = 0
        reached_id = self._book.last_update_id
        if reached_id is not None and self._lost_id is not None and reached_id < self._lost_id:
            self.id_before_restart = max(self._lost_id, self.id_before_restart or 0)
            self._lost_id = None

    def note_snapshot(self, now: float, newest: Update | None) -> None:
        """The book has loaded a snapshot. `newest` is the buffered update that the stream has reached."""
        self._snapshot_id = self._book.last_update_id
        self._snapshot_at = now
        self._stale_after_snapshot = 0
        self._stream_id = 0 if newest is None else newest.last_update_id
        self._stream_time_ms = None if newest is None else newest.event_time_ms

    def note_crossed(self) -> None:
        """The snapshot and all buffered updates were applied in vain. An older snapshot has nothing to continue it."""
        self._id_min = self._book.last_update_id

    # -- what shows that the ids restarted

    def has_restarted(self, now: float, connection_id: int, header: Header) -> bool:
        """Note an update that the book found STALE; return whether there are enough of them to show a restart."""
        reached_id = self._book.last_update_id
        assert reached_id is not None
        if reached_id != self._snapshot_id:
            return self._streams.note_stale(connection_id, header, reached_id, self._book.event_time_ms, now)
        # No update was applied since the snapshot.
        self._stale_after_snapshot += 1
        is_late = now - self._snapshot_at >= STALE_AFTER_SNAPSHOT_S
        if is_late and self._stale_after_snapshot >= RESYNC_AFTER_STALE:
            return True
        # The snapshot may be far ahead of the stream. The stream itself goes back only if its ids restarted.
        assert header.last_update_id is not None
        return header.last_update_id <= self._stream_id and self._streams.note_stale(
            connection_id, header, self._stream_id, self._stream_time_ms, now
        )

    def has_restarted_below(self, newest: Update, now: float, connection_id: int, header: Header) -> bool:
        """Note an update that ends at or below the newest buffered one; return whether that shows a restart."""
        return self._streams.note_stale(connection_id, header, newest.last_update_id, newest.event_time_ms, now)

    def note_restart(self) -> None:
        """The ids have restarted: a snapshot may have lower ids now, and must not have those of the book any more."""
        self._previous_id = self._book.last_update_id
        self._id_min = None

    def note_step_back(self) -> None:
        """The ids have stepped back by a few. The new ones soon pass the old, so a higher one is believed."""
        self._stepped_from_id = self._book.last_update_id
        self._id_min = None

    def note_discarded(self, previous: Sequence[Update], update: Update) -> None:
        """The buffer has discarded updates, because this one shows their numbering to be over.

        It is a single observation, and a quiet market sends no second update for long. So the ids that were readable
        still count, but a snapshot from where the discarded updates stood is taken for one of the previous numbering.
        """
        previous_id = min(other.start for other in previous)
        book_id = self._book.last_update_id
        if book_id is not None and book_id > update.last_update_id:
            previous_id = min(previous_id, book_id)
        self._previous_id = previous_id

    # -- whether a snapshot is believed

    def judge_snapshot(self, candidate: "OrderBook", waiting: UpdateBuffer) -> SnapshotDrop | None:
        """Return why a snapshot, loaded into `candidate`, is refused; None if it is believed.

        `waiting` are the updates that would continue it. At most `IMPLAUSIBLE_IN_A_ROW_MAX` in a row are refused.
        """
        why_implausible = self._why_implausible(candidate, waiting)
        if why_implausible is None or self._implausible_in_a_row >= IMPLAUSIBLE_IN_A_ROW_MAX:
            return None
        self._implausible_in_a_row += 1
        return why_implausible

    def _why_implausible(self, candidate: "OrderBook", waiting: UpdateBuffer) -> SnapshotDrop | None:
        snapshot_id = candidate.last_update_id
        assert snapshot_id is not None
        reached_id = max(snapshot_id, waiting.newest.last_update_id) if waiting.newest else snapshot_id
        if self._id_min is not None and reached_id < self._id_min and not self._is_stream_later(waiting.newest):
            return SnapshotDrop.LAGGING
        if self._previous_id is not None and snapshot_id >= self._previous_id:
            return SnapshotDrop.LAGGING
        if snapshot_id == self._stepped_from_id:
            return SnapshotDrop.LAGGING
        if are_prices_far_apart(middle_price(candidate), self.readable_price):
            return SnapshotDrop.WRONG_PRICES
        if self.readable_price is None and is_far_from_updates(candidate, waiting, self._make_book()):
            return SnapshotDrop.WRONG_PRICES
        return None

    def _is_stream_later(self, newest: Update | None) -> bool:
        """Return whether the newest buffered update was sent after the last one that the book applied.

        If it was and its id is lower, the stream and the snapshot agree that the ids restarted.
        """
        return newest is not None and is_later(newest.event_time_ms, self._book.event_time_ms)
