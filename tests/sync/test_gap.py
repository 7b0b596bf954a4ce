"""The wait for another stream to fill a gap, without a market."""

import pytest

from ldc.sync.buffer import BufferBudget, Update
from ldc.sync.gap import GapWait
from ldc.sync.streams import Streams
from ldc.types import Header


def header(last: int) -> Header:
    return Header(None, "depthUpdate", "BTCUSDT", last - 9, last, None, None)


def update(last: int) -> Update:
    return Update(last - 10, last - 9, last, None, b"x", None)


@pytest.fixture
def streams() -> Streams:
    """The streams 0 and 1, both live."""
    streams = Streams("BTCUSDT")
    for connection_id in (0, 1):
        streams.open(connection_id)
        streams.acknowledge(connection_id)
    return streams


@pytest.fixture
def gap(streams: Streams) -> GapWait:
    """A gap before the updates 120 and 140, behind which there is another gap. It waits since 5.0, for 0.5 s."""
    gap = GapWait(streams, 0.5, BufferBudget())
    for last in (120, 140):
        gap.waiting.add(update(last))
        gap.note_skip(0, header(last))
        gap.begin(5.0 + last / 1000)
    return gap


def test_a_gap_waits_from_its_first_update_on(gap: GapWait) -> None:
    assert (gap.is_waiting, gap.waits, gap.filled) == (True, 1, 0)
    assert (gap.since, gap.deadline) == (5.12, 5.62)
    assert gap.header == header(120)


def test_a_gap_can_be_filled_while_a_live_stream_has_not_skipped_it(gap: GapWait, streams: Streams) -> None:
    assert gap.can_be_filled
    gap.note_skip(1, header(130))
    assert not gap.can_be_filled
    streams.close(0)
    assert not gap.can_be_filled


def test_a_gap_behind_a_filled_one_has_the_whole_time_and_any_stream(gap: GapWait, streams: Streams) -> None:
    gap.note_filled(6.0, 1, 1, header(140))
    assert [waiting.last_update_id for waiting in gap.waiting] == [140]
    assert (gap.since, gap.deadline) == (5.12, 6.5)
    assert gap.header == header(140)
    assert (gap.waits, gap.filled, streams.gaps_filled_by(1), streams.gaps_filled_by(0)) == (2, 1, 1, 0)
    gap.note_skip(1, header(150))
    assert gap.can_be_filled  # by the stream 0, which had skipped the first one only


def test_a_filled_gap_waits_no_longer(gap: GapWait, streams: Streams) -> None:
    gap.note_filled(6.0, 7, 2, header(130))  # by a stream that has closed meanwhile
    assert (gap.is_waiting, gap.since, gap.deadline, gap.header) == (False, None, None, None)
    assert (gap.waits, gap.filled, streams.gaps_filled_by(7)) == (1, 1, 0)


def test_the_end_of_a_wait_hands_out_what_waited(gap: GapWait) -> None:
    gap.note_skip(1, header(130))
    assert [waiting.last_update_id for waiting in gap.end()] == [120, 140]
    assert (gap.is_waiting, gap.since, gap.deadline, gap.header) == (False, None, None, None)
    assert gap.can_be_filled
    assert len(gap.end()) == 0


def test_the_next_gap_waits_again(gap: GapWait) -> None:
    gap.end()
    gap.waiting.add(update(220))
    gap.note_skip(0, header(220))
    gap.begin(9.0)
    assert (gap.since, gap.deadline, gap.header, gap.waits) == (9.0, 9.5, header(220), 2)
