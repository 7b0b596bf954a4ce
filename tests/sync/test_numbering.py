"""Whether the ids of a market restarted, and which snapshot is of the right numbering: on each book."""

from types import ModuleType
from typing import Any

import pytest
from sync_kit import BOOKS, snapshot, update

from ldc.sequence import SPOT
from ldc.sync.actions import SnapshotDrop
from ldc.sync.buffer import Update, UpdateBuffer
from ldc.sync.numbering import IMPLAUSIBLE_IN_A_ROW_MAX, STALE_AFTER_SNAPSHOT_S, Numbering
from ldc.sync.streams import RESYNC_AFTER_STALE, Streams
from ldc.types import Header

FAR = {"bids": {"10.00": "1"}, "asks": {"11.00": "1"}}


def header(last: int, time_ms: int | None) -> Header:
    return Header(None, "depthUpdate", "BTCUSDT", last, last, None, time_ms)


def waiting(*windows: tuple[int, int, int]) -> UpdateBuffer:
    buffer = UpdateBuffer()
    for start, last, time_ms in windows:
        payload = update(start, last, rule=SPOT)
        buffer.add(Update(start, start + 1, last, time_ms, payload, None))
    return buffer


class Numbered:
    """A book at the id 100, whose last update was sent at 1,000 ms, its only stream, and its numbering."""

    def __init__(self, books: ModuleType) -> None:
        self.make_book = lambda: books.OrderBook("spot")
        self.book = self.make_book()
        self.streams = Streams("BTCUSDT")
        self.streams.open(0)
        self.streams.note_update(0, header(95, 900))
        self.numbering = Numbering(self.book, self.streams, self.make_book, 0.0)
        self.book.load_snapshot(snapshot(95))
        self.numbering.note_snapshot(0.0, None)
        self.book.apply(update(90, 100, rule=SPOT, event_time_ms=1_000))
        self.numbering.note_published()

    def lose(self, price: float | None = 100.5) -> "Numbered":
        self.numbering.note_lost(price)
        return self

    def candidate(self, update_id: int, **sides: Any) -> Any:
        book = self.make_book()
        book.load_snapshot(snapshot(update_id, **sides))
        return book

    def judge(self, update_id: int, buffer: UpdateBuffer | None = None, **sides: Any) -> SnapshotDrop | None:
        return self.numbering.judge_snapshot(self.candidate(update_id, **sides), buffer or UpdateBuffer())

    def publish(self, update_id: int) -> None:
        self.book.load_snapshot(snapshot(update_id))
        self.numbering.note_snapshot(0.0, None)
        self.numbering.note_published()


@pytest.fixture(params=BOOKS.values(), ids=BOOKS)
def numbered(request: pytest.FixtureRequest) -> Numbered:
    return Numbered(request.param)


# ------------------------------------------------------------------------------------------------------ the ids restart


def test_stale_updates_of_later_times_show_a_restart(numbered: Numbered) -> None:
    shown = [numbered.numbering.has_restarted(0.0, 0, header(10 + n, 2_000 + n)) for n in range(RESYNC_AFTER_STALE)]
    assert shown == [False] * (RESYNC_AFTER_STALE - 1) + [True]


def test_stale_updates_of_old_times_show_none(numbered: Numbered) -> None:
    assert not any(numbered.numbering.has_restarted(0.0, 0, header(10, 900)) for _ in range(10))


def test_stale_updates_after_a_snapshot_show_a_restart_only_after_a_while(numbered: Numbered) -> None:
    numbered.book.load_snapshot(snapshot(500))
    numbered.numbering.note_snapshot(1_000.0, None)
    for n in range(RESYNC_AFTER_STALE):
        assert not numbered.numbering.has_restarted(999.9 + STALE_AFTER_SNAPSHOT_S, 0, header(101 + n, 2_000 + n))
    assert numbered.numbering.has_restarted(1_000.0 + STALE_AFTER_SNAPSHOT_S, 0, header(110, 2_100))


def test_a_stream_that_goes_back_behind_its_snapshots_buffer_shows_a_restart_at_once(numbered: Numbered) -> None:
    numbered.book.load_snapshot(snapshot(500))
    numbered.numbering.note_snapshot(1_000.0, waiting((400, 450, 1_500)).newest)
    shown = [numbered.numbering.has_restarted(1_000.0, 0, header(last, 2_000)) for last in (451, 450, 10, 11)]
    assert shown == [False, False, False, True]


def test_updates_below_the_newest_buffered_one_show_a_restart(numbered: Numbered) -> None:
    newest = waiting((400, 450, 1_500)).newest
    assert newest is not None
    shown = [numbered.numbering.has_restarted_below(newest, 0.0, 0, header(10, 2_000)) for _ in range(3)]
    assert shown == [False, False, True]


# ------------------------------------------------------------------------------------------------ snapshots are refused


def test_a_snapshot_below_what_was_readable_is_refused_unless_the_buffer_reaches_it(numbered: Numbered) -> None:
    numbered.lose()
    assert numbered.judge(99) is SnapshotDrop.LAGGING
    assert numbered.judge(100) is None
    assert numbered.judge(99, waiting((95, 100, 900))) is None


def test_a_snapshot_that_a_later_and_lower_update_agrees_with_is_believed(numbered: Numbered) -> None:
    numbered.lose()
    assert numbered.judge(10, waiting((5, 12, 1_000))) is SnapshotDrop.LAGGING
    assert numbered.judge(10, waiting((5, 12, 1_001))) is None


def test_only_so_many_snapshots_in_a_row_are_refused(numbered: Numbered) -> None:
    numbered.lose()
    for _ in range(2):
        assert [numbered.judge(50) for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX + 1)] == [
            *[SnapshotDrop.LAGGING] * IMPLAUSIBLE_IN_A_ROW_MAX,
            None,
        ]
        numbered.publish(100)
        numbered.lose()


def test_a_snapshot_of_the_previous_numbering_is_refused_after_a_restart(numbered: Numbered) -> None:
    numbered.lose()
    numbered.numbering.note_restart()
    assert numbered.judge(100) is SnapshotDrop.LAGGING
    assert numbered.judge(99) is None
    numbered.publish(20)
    assert numbered.lose().judge(100) is None


@pytest.mark.parametrize(("lower_id", "refused_from"), [(20, 100), (100, 150)])
def test_discarded_updates_mark_the_previous_numbering(numbered: Numbered, lower_id: int, refused_from: int) -> None:
    """From where they started, or from the book's id if that is higher than the update that showed the restart."""
    previous = list(waiting((150, 160, 1_000), (200, 210, 1_000)))
    [lower] = waiting((lower_id - 1, lower_id, 5_000))
    numbered.numbering.note_discarded(previous, lower)
    assert numbered.judge(refused_from) is SnapshotDrop.LAGGING
    assert numbered.judge(refused_from - 1) is None


def test_after_a_crossed_snapshot_an_older_one_is_refused(numbered: Numbered) -> None:
    numbered.numbering.note_crossed()
    assert numbered.judge(99) is SnapshotDrop.LAGGING
    assert numbered.judge(100) is None


def test_a_snapshot_far_from_the_readable_price_is_refused(numbered: Numbered) -> None:
    assert numbered.lose(100.5).judge(200, **FAR) is SnapshotDrop.WRONG_PRICES
    assert numbered.lose(None).judge(200, **FAR) is None


# ---------------------------------------------------------------------------------------------- the id before a restart


def test_the_id_before_the_restart_is_that_at_which_the_book_was_lost(numbered: Numbered) -> None:
    numbered.lose()
    numbered.publish(100)
    assert numbered.numbering.id_before_restart is None
    numbered.lose()
    numbered.publish(40)
    assert numbered.numbering.id_before_restart == 100


def test_of_several_restarts_the_highest_id_counts(numbered: Numbered) -> None:
    for update_id in (60, 200, 30, 10):
        numbered.lose()
        numbered.publish(update_id)
    assert numbered.numbering.id_before_restart == 200
