"""What the streams of a market have shown, without a market."""

import pytest

from ldc.sync.streams import RESYNC_AFTER_STALE, Streams
from ldc.types import Header


def stale(event_time_ms: int | None) -> Header:
    return Header(None, None, None, 1, 2, 0, event_time_ms)


def test_a_stream_is_live_once_it_was_acknowledged_or_has_brought_an_update() -> None:
    streams = Streams("BTCUSDT")
    streams.open(1)
    assert (streams.is_any_live, streams.have_all_spoken) == (False, False)
    streams.acknowledge(1)
    assert (streams.is_any_live, streams.have_all_spoken) == (True, False)
    streams.open(2)
    streams.note_update(2, stale(5))
    streams.close(1)
    assert (streams.is_any_live, streams.have_all_spoken) == (True, True)
    assert (streams.has_spoken(2), streams.has_spoken(1)) == (True, False)


def test_a_gap_is_given_up_when_every_live_stream_has_skipped_it() -> None:
    streams = Streams("BTCUSDT")
    for connection_id in (1, 2, 3):
        streams.open(connection_id)
    streams.note_update(1, stale(5))
    streams.acknowledge(2)
    streams.note_skip(1)
    assert not streams.have_all_skipped
    streams.note_skip(2)
    assert streams.have_all_skipped  # the third is not live
    streams.forget_skips()
    assert not streams.have_all_skipped


@pytest.mark.parametrize(("book_time_ms", "time_ms"), [(None, 5), (5, None), (5, 5), (5, 4)])
def test_stale_updates_without_a_later_event_time_prove_nothing(book_time_ms: int | None, time_ms: int | None) -> None:
    streams = Streams("BTCUSDT")
    streams.open(1)
    streams.note_update(1, stale(5))
    assert not any(streams.note_stale(1, stale(time_ms), 100, book_time_ms, 0.0) for _ in range(3 * RESYNC_AFTER_STALE))


def test_stale_updates_count_from_zero_when_the_book_has_moved() -> None:
    streams = Streams("BTCUSDT")
    streams.open(1)
    streams.note_update(1, stale(5))
    shown = [streams.note_stale(1, stale(6), book_id, 5, 0.0) for book_id in (100, 100, 101, 101, 101)]
    assert shown == [False, False, False, False, True]
