"""What the synchronizer does when streams end, begin again, or come in twos: by both rules, on each book."""

import math
from collections.abc import Callable

import pytest
from sync_kit import BOOKS, Market, market_in, snapshot

from ldc.sync.machine import SNAPSHOT_WAIT_S
from ldc.sync.streams import RESYNC_AFTER_STALE, STREAMS_MAX
from ldc.types import Cause, SyncState

IDLE, BUFFERING, SYNCHRONIZED, STOPPED, FAILED = SyncState
MarketIn = Callable[..., Market]


@pytest.fixture(params=[(rule, name) for rule in ("spot", "futures") for name in BOOKS], ids="-".join)
def market_at(request: pytest.FixtureRequest) -> MarketIn:
    """Return a function from a state to a market in it: on connection 0, and at the id 100 once it has a book."""
    rule, name = request.param
    return lambda state, **options: market_in(state, rule, books=BOOKS[name], **options)


# --------------------------------------------------------------------------- closed streams: resume, or take a snapshot


def test_a_new_stream_that_missed_something_takes_a_snapshot(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().wait(2.0).open().acknowledge().update(105, 110)
    assert market.state is BUFFERING
    assert market.request is not None
    market.snapshot(107)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 110)


def test_a_new_stream_that_begins_before_the_book_is_waited_for(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(80, 90).update(90, 100)
    assert market.state is BUFFERING
    assert market.request is None
    assert market.dropped() == {"STALE": 2}
    market.update(100, 110)
    assert market.state is SYNCHRONIZED
    assert len(market.requests) == 1


def test_a_new_stream_that_never_reaches_the_book_takes_a_snapshot_after_a_second(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(80, 90).wait(0.5).update(90, 95).wait(0.5)
    assert market.request is not None
    assert market.snapshot(100).state is SYNCHRONIZED


def test_a_quiet_new_stream_takes_a_snapshot_after_a_second(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().acknowledge().wait(1.0)
    assert market.request is not None
    assert market.book.suspended_by == "STREAM_CLOSED"
    assert market.snapshot(150).state is SYNCHRONIZED
    assert market.book.last_update_id == 150


def test_a_book_that_resumes_cancels_the_snapshot_under_way(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().acknowledge().wait(1.0).update(100, 110)
    assert market.state is SYNCHRONIZED
    assert market.request is None
    assert market.synchronizer.requests.cancelled == 1


def test_ids_that_went_back_between_two_streams_do_not_freeze_the_market(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open()
    for number in range(RESYNC_AFTER_STALE):
        market.update(10 + number, 11 + number, event_time_ms=5_000 + number)
    assert market.request is not None
    assert market.snapshot(12).state is SYNCHRONIZED
    assert market.book.last_update_id == 13


def test_updates_of_the_new_numbering_are_kept_although_the_retained_levels_have_higher_ids(
    market_at: MarketIn,
) -> None:
    market = market_at(SYNCHRONIZED).close().open()
    for number in range(RESYNC_AFTER_STALE + 1):
        market.update(10 + number, 11 + number, event_time_ms=5_000 + number)
    assert market.synchronizer.buffered_count == 2
    assert market.snapshot(12).book.last_update_id == 14


def test_a_book_that_crossed_when_it_resumed_is_not_resumed_by_the_next_update(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(100, 110, asks={"99.00": "1"})
    market.update(110, 120, asks={"99.00": "0"})
    assert market.state is BUFFERING
    assert market.synchronizer.buffered_count == 1


def test_a_wait_does_not_outlive_its_stream(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).wait(SNAPSHOT_WAIT_S / 2).close().open().wait(10.0)
    assert market.request is None
    market.acknowledge().wait(0.9 * SNAPSHOT_WAIT_S)
    assert market.request is None
    assert market.wait(0.1).request is not None


def test_the_time_without_a_book_is_counted(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).wait(3.0).snapshot(100).wait(100.0)
    assert (market.synchronizer.unsynchronized_s, market.synchronizer.state_since) == (3.0, 1_003.0)
    market.close().wait(2.0).open().wait(0.25).update(100, 110).wait(100.0)
    assert (market.synchronizer.unsynchronized_s, market.synchronizer.state_since) == (5.25, 1_105.25)


def test_how_old_a_book_is_that_is_back_counts_from_the_last_update_that_came_meanwhile(market_at: MarketIn) -> None:
    """It proves that the stream was alive then, although it had to wait for the snapshot."""
    market = market_at(BUFFERING).wait(0.5)
    assert market.synchronizer.judged_at == -math.inf
    market.update(90, 100).wait(2.0).update(100, 110).wait(3.0)
    market.receive(b"<html>").update(110, 120, connection_id=7)  # these prove nothing
    assert market.snapshot(95).state is SYNCHRONIZED
    assert market.synchronizer.judged_at == 1_002.5


def test_how_old_a_book_is_that_resumes_counts_from_the_update_that_continued_it(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().wait(30.0).open().wait(0.25).update(100, 110).wait(5.0)
    assert market.state is SYNCHRONIZED
    assert market.synchronizer.judged_at == 1_030.25


def test_levels_of_the_old_numbering_are_not_resumed_after_the_ids_went_back(market_at: MarketIn) -> None:
    for market in (market_at(SYNCHRONIZED), market_at(SYNCHRONIZED).close().open()):
        for number in range(RESYNC_AFTER_STALE):
            market.update(10 + number, 11 + number, event_time_ms=5_000 + number)
        assert market.update(90, 120, event_time_ms=6_000).state is BUFFERING


def test_levels_that_a_new_stream_did_not_continue_are_not_resumed_by_a_late_update(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(105, 110).update(100, 105)
    assert market.state is BUFFERING
    assert market.synchronizer.buffered_count == 2


def test_levels_are_not_resumed_after_a_later_gap(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(100, 110)
    assert market.state is SYNCHRONIZED
    assert market.update(115, 120).update(110, 115).state is BUFFERING


def test_levels_are_not_resumed_after_a_gap(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(104, 110).close().open().update(100, 110)
    assert market.state is BUFFERING
    assert market.request is not None


def test_retained_levels_survive_several_streams(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().close().open(5).acknowledge(5).close(5).open(6)
    assert market.update(100, 110, connection_id=6).state is SYNCHRONIZED
    assert len(market.requests) == 1


def test_an_update_of_a_closed_stream_is_dropped(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).close(0)
    assert market.update(100, 110, connection_id=0).state is BUFFERING
    assert market.dropped() == {"NOT_OPEN": 1}
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).close(0).update(100, 110, connection_id=0)
    assert market.dropped() == {"NOT_OPEN": 1}
    assert market.book.last_update_id == 100


def test_the_streams_of_a_market_are_limited(market_at: MarketIn) -> None:
    market = market_at(IDLE)
    for connection_id in range(STREAMS_MAX):
        market.open(connection_id)
    with pytest.raises(ValueError, match="opening 99"):
        market.open(99)
    market.open(3).close(4).open(99)


# ------------------------------------------------------------------------------------------------- a second live stream


def test_a_successor_that_is_ahead_has_not_spoken_for_itself_until_the_gap_is_filled(market_at: MarketIn) -> None:
    """So that no handover closes the only stream that can fill it."""
    market = market_at(SYNCHRONIZED).open(1).update(110, 120, connection_id=1)
    assert not market.synchronizer.has_spoken(1)
    market.update(100, 110, connection_id=0)
    assert market.synchronizer.has_spoken(1)
    assert market.close(0).state is SYNCHRONIZED
    assert market.book.last_update_id == 120


def test_a_gap_waits_readable_for_the_other_stream_and_is_filled(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).update(95, 100, connection_id=1)
    market.update(110, 120, connection_id=0, bids={"99.00": "7"}).update(120, 130, connection_id=0, bids={"98.00": "6"})
    assert market.state is SYNCHRONIZED
    assert market.book.last_update_id == 100
    assert market.synchronizer.wants_every_update
    market.wait(0.3).update(100, 115, connection_id=1, bids={"99.00": "5"})
    assert market.book.last_update_id == 130
    assert market.bids()[99.0] == 7.0
    assert market.bids()[98.0] == 6.0
    assert (market.synchronizer.gap.waits, market.synchronizer.gap.filled) == (1, 1)
    assert [market.synchronizer.gaps_filled_by(connection_id) for connection_id in (0, 1, 7)] == [0, 1, 0]
    assert not market.synchronizer.wants_every_update
    assert market.wait(10.0).state is SYNCHRONIZED
    assert len(market.requests) == 1


def test_updates_wait_in_the_order_of_their_starts(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).open(2).acknowledge(2)
    market.update(130, 140, connection_id=0, bids={"99.00": "14"}).update(
        110, 130, connection_id=1, bids={"99.00": "13"}
    )
    market.update(100, 110, connection_id=2, bids={"99.00": "11"})
    assert market.book.last_update_id == 140
    assert market.bids()[99.0] == 14.0


def test_a_gap_that_is_filled_in_part_does_not_wait_longer(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120).wait(0.3)
    market.update(100, 105, connection_id=1)
    assert market.book.last_update_id == 105
    assert market.synchronizer.gap.filled == 0
    assert market.wait(0.2).changes[-1] == (BUFFERING, Cause.GAP)


def test_a_gap_that_every_stream_has_skipped_is_not_waited_for(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120, connection_id=0)
    assert market.state is SYNCHRONIZED
    market.update(105, 115, connection_id=1)
    assert market.changes[-1] == (BUFFERING, Cause.GAP)
    market.snapshot(106)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 120)


def test_a_gap_is_not_waited_for_when_the_other_stream_closes(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120, connection_id=0).close(1)
    assert market.changes[-1] == (BUFFERING, Cause.GAP)


def test_a_stream_that_is_not_live_is_not_waited_for(market_at: MarketIn) -> None:
    assert market_at(SYNCHRONIZED).open(1).update(110, 120, connection_id=0).changes[-1] == (BUFFERING, Cause.GAP)


def test_when_all_streams_close_while_a_gap_waits_the_levels_are_still_right(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120, connection_id=0).close(0)
    assert market.state is SYNCHRONIZED  # the other one may still fill it
    market.close(1)
    assert market.changes[-1] == (IDLE, Cause.STREAM_CLOSED)
    assert market.dropped() == {"STREAM_CLOSED": 1}
    market.open(2).update(100, 130, connection_id=2)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 130)


def test_a_repeated_update_past_a_gap_waits_once(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120).update(110, 120).update(112, 118)
    assert market.synchronizer.buffered_count == 1
    assert market.dropped() == {"REPEATED": 2}


def test_an_update_that_waited_is_stale_when_the_other_stream_has_brought_more(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120).update(100, 125, connection_id=1)
    assert market.dropped() == {"STALE": 1}
    assert market.book.last_update_id == 125
    assert not market.synchronizer.wants_every_update


def test_the_close_of_a_stream_that_is_not_open_means_nothing(market_at: MarketIn) -> None:
    for state in (BUFFERING, SYNCHRONIZED):
        market = market_at(state).close(7)
        assert market.state is state
        assert market.actions == market_at(state).actions


def test_a_judged_update_of_a_stream_that_is_not_open_is_dropped(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(105, 110, connection_id=7)
    assert market.dropped() == {"NOT_OPEN": 1}
    assert market.state is SYNCHRONIZED


def test_a_late_answer_to_a_synchronized_market_is_ignored(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    market.synchronizer.snapshot_received(1, snapshot(500), 100, market.now)
    market.synchronizer.snapshot_failed(1, market.now, permanent=Cause.UNKNOWN_MARKET)
    assert market._drain().book.last_update_id == 100
    assert market.state is SYNCHRONIZED
    assert market.snapshots_dropped() == {"LATE": 2}


def test_a_second_gap_waits_its_full_time(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120).wait(0.4).update(100, 110, connection_id=1)
    market.update(130, 140).wait(0.4)
    assert market.state is SYNCHRONIZED
    market.update(110, 130, connection_id=1)
    assert market.book.last_update_id == 140
    assert (market.synchronizer.gap.waits, market.synchronizer.gap.filled) == (2, 2)


def test_a_gap_behind_a_filled_one_has_the_whole_time(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).wait(1.0).update(110, 120).update(130, 140)
    since = market.synchronizer.gap_since
    assert since == market.now
    market.wait(0.4).update(100, 110, connection_id=1)
    assert market.book.last_update_id == 120
    assert market.wait(0.4).state is SYNCHRONIZED
    assert market.synchronizer.gap_since == since  # the book is no newer for having waited twice
    market.update(120, 130, connection_id=1)
    assert market.book.last_update_id == 140
    assert (market.synchronizer.gap.waits, market.synchronizer.gap.filled) == (2, 2)
    assert market.synchronizer.gap_since is None


def test_a_gap_behind_a_filled_one_may_be_filled_by_the_stream_that_skipped_that(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).open(2).acknowledge(2)
    market.update(110, 120, connection_id=0).update(150, 160, connection_id=0).update(110, 115, connection_id=1).update(
        100, 110, connection_id=2
    )
    assert market.book.last_update_id == 120
    assert market.update(150, 155, connection_id=2).state is SYNCHRONIZED
    market.update(120, 150, connection_id=1)
    assert market.book.last_update_id == 160


def test_a_gap_of_the_other_stream_waits_as_well(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120).update(100, 120, connection_id=1)
    market.update(130, 140, connection_id=1)
    assert market.state is SYNCHRONIZED
    market.update(120, 130, connection_id=0)
    assert market.book.last_update_id == 140


def test_a_gap_after_a_gap_that_was_given_up_waits_its_full_time(market_at: MarketIn) -> None:
    market = (
        market_at(SYNCHRONIZED).open(1).acknowledge(1).update(110, 120).update(105, 115, connection_id=1).snapshot(110)
    )
    market.wait(0.4).update(130, 140)
    assert market.wait(0.4).state is SYNCHRONIZED
    assert market.wait(0.1).state is BUFFERING


def test_an_update_that_waited_and_cannot_be_applied_leaves_a_gap(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).update(100, 102, bids={"98.00": "50"})
    # Beside a quantity of 50, one of 18 decimals does not fit the book: only applying it shows that.
    market.update(110, 120, bids={"99.00": "0.000000000000000001"}).update(120, 130)
    assert market.dropped() == {}
    market.update(102, 110, connection_id=1)
    assert market.dropped() == {"MALFORMED": 1}
    assert market.book.last_update_id == 110
    assert market.wait(0.5).changes[-1] == (BUFFERING, Cause.GAP)


def test_updates_that_wait_behind_a_gap_are_forgotten_when_the_ids_went_back(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).update(95, 100, connection_id=1).update(110, 120, connection_id=0)
    for number in range(RESYNC_AFTER_STALE):
        for connection_id in (0, 1):
            market.update(10 + number, 11 + number, connection_id=connection_id, event_time_ms=5_000 + number)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    assert market.dropped()["IDS_WENT_BACK"] == 2  # what waited, and what the first stream brought
    assert market.synchronizer.buffered_count == 3
    assert market.snapshot(12).book.last_update_id == 13


def test_the_earliest_wait_is_due_first(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).refresh().begin().snapshot(150)
    assert market.synchronizer.next_due() == market.now + 300.0  # for the stream to reach the snapshot
    market.update(110, 120)
    assert market.synchronizer.next_due() == market.now + 0.5  # for the other stream to fill the gap


def test_redundant_updates_are_stale_and_cost_nothing_else(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).update(100, 110, connection_id=1)
    for last in range(120, 300, 10):
        market.update(last - 10, last, connection_id=0).update(
            last - 13, last - 3, connection_id=1, event_time_ms=last * 10 + 5
        )
        market.update(last - 3, last, connection_id=1, event_time_ms=last * 10 + 6)
    assert market.state is SYNCHRONIZED
    assert market.dropped() == {"STALE": 36}
    assert len(market.requests) == 1


def test_two_streams_are_buffered_as_one(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).open(1)
    market.update(90, 100, connection_id=0, bids={"99.00": "1"}).update(95, 105, connection_id=1, bids={"99.00": "2"})
    market.update(105, 115, connection_id=1, bids={"99.00": "3"}).update(100, 110, connection_id=0, bids={"98.00": "4"})
    market.snapshot(97)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 115)
    assert market.bids()[99.0] == 3.0
    assert market.bids()[98.0] == 4.0


# ------------------------------------------------------------------------------------------- limits of what is repeated


def test_a_market_that_never_lasts_requests_at_once_each_time(market_at: MarketIn) -> None:
    """What that may cost all markets, the weight pool decides: it knows what is left."""
    market = market_at(SYNCHRONIZED)
    delays = []
    last = 100
    for _ in range(30):
        market.update(last + 5, last + 10)
        assert market.request is not None
        delays.append(market.request.due - market.now)
        last += 10
        market.snapshot(last)
    assert delays == [0.0] * 30


def test_a_book_that_lost_its_memory_is_resynchronized(market_at: MarketIn) -> None:
    """When memory runs out in the middle of an update, a book empties itself rather than hold half of it."""
    market = market_at(SYNCHRONIZED).open(1)
    market.book.clear()
    market.update(100, 110)
    assert market.changes[-1] == (BUFFERING, Cause.NOT_LOADED)
    assert market.synchronizer.buffered_count == 1
    assert market.snapshot(105).state is SYNCHRONIZED


def test_retained_levels_that_were_lost_are_not_resumed(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open()
    market.book.clear()
    market.update(100, 110)
    assert market.state is BUFFERING
    assert market.request is not None
