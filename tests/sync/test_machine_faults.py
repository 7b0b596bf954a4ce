"""What the synchronizer does when the stream, the snapshots or the connections misbehave: by both rules, on each book.

The numbers in the headings are those of the project's list of faults; here are the ones that concern ids, frames,
snapshots and streams.
"""

from collections.abc import Callable

import pytest
from sync_kit import ASKS, BIDS, BOOKS, Market, market_in, snapshot, update

from ldc.sync import streams
from ldc.sync.actions import Purpose, StateChanged
from ldc.sync.buffer import BUFFER_UPDATES_MAX, PREVIOUS_NUMBERING_MS
from ldc.sync.numbering import IMPLAUSIBLE_IN_A_ROW_MAX, STALE_AFTER_SNAPSHOT_S
from ldc.sync.retry import USELESS_S_MAX
from ldc.sync.streams import RESYNC_AFTER_STALE, STALE_S_MAX
from ldc.types import Cause, SyncState

IDLE, BUFFERING, SYNCHRONIZED, STOPPED, FAILED = SyncState
MarketIn = Callable[..., Market]

a_restart_is_far = pytest.mark.usefixtures("restarts_are_far")


@pytest.fixture
def restarts_are_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of tests are small. A restart is taken for one far below, which a single update does not show."""
    monkeypatch.setattr(streams, "STEP_BACK_IDS_MAX", 0)


@pytest.fixture(params=[(rule, name) for rule in ("spot", "futures") for name in BOOKS], ids="-".join)
def market_at(request: pytest.FixtureRequest) -> MarketIn:
    """Return a function from a state to a market in it: on connection 0, and at the id 100 once it has a book."""
    rule, name = request.param
    return lambda state, **options: market_in(state, rule, books=BOOKS[name], **options)


def to_gap(market: Market) -> Market:
    """Lose the updates 100 to 104."""
    return market.update(104, 110)


# ---------------------------------------------------------------------------------------- 1, 3, 10: updates are missing


@pytest.mark.parametrize("last_lost", [101, 105, 10**12])
def test_a_lost_update_is_noticed_at_the_next_one_and_repaired_by_a_snapshot(
    market_at: MarketIn, last_lost: int
) -> None:
    market = market_at(SYNCHRONIZED).update(last_lost, last_lost + 10, bids={"99.00": "9"})
    assert market.changes[-1] == (BUFFERING, Cause.GAP)
    assert market.book.last_update_id == 100
    market.update(last_lost + 10, last_lost + 20, asks={"102.00": "8"}).snapshot(last_lost + 5)
    assert market.state is SYNCHRONIZED
    assert market.book.last_update_id == last_lost + 20
    assert market.bids()[99.0] == 9.0
    assert market.synchronizer.resyncs[Cause.GAP] == 1
    assert market.dropped() == {}


def test_a_snapshot_that_does_not_reach_over_the_gap_is_refetched(market_at: MarketIn) -> None:
    market = to_gap(market_at(SYNCHRONIZED)).snapshot(103)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"TOO_OLD": 1}
    market.snapshot(104)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 110)


def test_of_two_swapped_updates_the_early_one_is_a_gap_and_the_late_one_is_not_lost(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(110, 120, bids={"99.00": "7"}).update(100, 110, bids={"99.00": "6"})
    assert market.state is BUFFERING
    market.update(120, 130).snapshot(105)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 130)
    assert market.bids()[99.0] == 7.0


def test_an_update_that_comes_after_the_snapshot_that_contains_it_is_stale(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(110, 120).snapshot(125).update(100, 110)
    assert market.dropped() == {"STALE": 2}
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 125)


def test_a_hole_in_the_buffer_is_not_published_and_the_updates_before_it_are_forgotten(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100).update(105, 110).snapshot(95)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"TOO_OLD": 1}
    assert market.dropped() == {"HOLE": 1}
    market.snapshot(105)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 110)
    assert sum(market.synchronizer.resyncs.values()) == 0


# ------------------------------------------------------------------------------------ 2, 4: updates that come once more


def test_a_repeated_update_is_ignored_and_is_no_gap(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, bids={"99.00": "9"})
    for start in (100, 95, 50):  # on futures also with another `pu`
        market.update(start, 110, bids={"99.00": "5"}, event_time_ms=1000)
    assert market.bids()[99.0] == 9.0
    assert market.dropped() == {"STALE": 3}
    assert len(market.requests) == 1


def test_a_repeated_update_is_not_buffered_twice(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100).update(100, 110).update(90, 100).update(100, 110)
    assert market.synchronizer.buffered_count == 2
    assert market.dropped() == {"REPEATED": 2}


def test_an_overlap_is_applied(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    overlapping = market.book.counters.updates_overlapping
    market.update(95, 110, bids={"99.00": "9"})
    assert market.book.last_update_id == 110
    assert market.bids()[99.0] == 9.0
    assert market.book.counters.updates_overlapping == overlapping + 1
    assert market.state is SYNCHRONIZED


# -------------------------------------------------------------------------------- 5, 6, 7, 8: frames that are no update

CORRUPT = {
    "cut off": lambda frame: frame[:-5],
    "empty": lambda frame: b"",
    "text": lambda frame: b"<html>no</html>",
    "two objects": lambda frame: frame + frame,
    "byte order mark": lambda frame: b"\xef\xbb\xbf" + frame,
    "trailing bytes": lambda frame: frame + b"x",
    "null": lambda frame: b"null",
    "a control message": lambda frame: b'{"result":null,"id":1}',
    "another market": lambda frame: frame.replace(b'"s": "BTCUSDT"', b'"s": "BTCUSDC"'),
    "another event": lambda frame: frame.replace(b"depthUpdate", b"serverShutdown"),
    "no last id": lambda frame: frame.replace(b'"u"', b'"v"'),
    "id twice": lambda frame: frame.replace(b'"u": 110', b'"u": 110, "u": 110'),
    "id of a wrong type": lambda frame: frame.replace(b'"u": 110', b'"u": "110"'),
    "id that is null": lambda frame: frame.replace(b'"u": 110', b'"u": null'),
    "fraction as id": lambda frame: frame.replace(b'"u": 110', b'"u": 110.0'),
    "id 0": lambda frame: frame.replace(b'"u": 110', b'"u": 0'),
    "negative id": lambda frame: frame.replace(b'"u": 110', b'"u": -110'),
    "id beyond 63 bits": lambda frame: frame.replace(b'"u": 110', b'"u": 9223372036854775808'),
    "first id past the last": lambda frame: frame.replace(b'"u": 110', b'"u": 100'),
}


@pytest.mark.parametrize("what", CORRUPT)
@pytest.mark.parametrize("state", [BUFFERING, SYNCHRONIZED])
def test_a_frame_that_is_no_depth_update_is_dropped_and_counted(
    market_at: MarketIn, state: SyncState, what: str
) -> None:
    market = market_at(state)
    frame = update(100, 110, rule=market.rule, bids={"99.00": "9"})
    corrupt = CORRUPT[what](frame)
    assert corrupt != frame
    market.receive(corrupt)
    assert market.dropped() == {"MALFORMED": 1}
    assert market.state is state
    market.receive(frame)  # nothing was lost, so the next one continues the market
    if state is BUFFERING:
        market.snapshot(105)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 110)


def test_after_a_corrupt_frame_the_next_one_shows_what_was_lost(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).receive(update(100, 110, rule=market_at(IDLE).rule)[:-9])
    assert market.state is SYNCHRONIZED
    market.update(110, 120)
    assert market.changes[-1] == (BUFFERING, Cause.GAP)


def test_levels_that_cannot_be_read_are_noticed_when_the_buffer_is_applied(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100)
    market.update(100, 110, bids={"99.00": "NaN"}).update(110, 120)
    assert market.synchronizer.buffered_count == 3
    market.snapshot(95)
    # At 100 the book would be right, but is known to be behind: the rest waits for another snapshot.
    assert market.state is BUFFERING
    assert market.dropped() == {"MALFORMED": 1}
    assert market.snapshots_dropped() == {"INCOMPLETE": 1}
    assert market.synchronizer.buffered_count == 1
    market.snapshot(112)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 120)


def test_unreadable_levels_of_a_buffered_update_do_not_matter_if_the_snapshot_is_newer(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100, bids={"99.00": "NaN"}).update(100, 110).snapshot(105)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 110)


def test_the_letters_of_a_symbol_may_be_small(market_at: MarketIn) -> None:
    market = market_at(BUFFERING)
    market.receive(update(90, 100, rule=market.rule).replace(b'"s": "BTCUSDT"', b'"s": "btcusdt"'))
    assert market.dropped() == {}


def test_a_corrupt_frame_does_not_disturb_retained_levels(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(100, 105, bids={"99.00": "NaN"})
    assert market.dropped() == {"MALFORMED": 1}
    assert market.update(100, 110).state is SYNCHRONIZED


def test_the_memory_of_a_payload_may_be_used_again_after_the_call(market_at: MarketIn) -> None:
    market = market_at(BUFFERING)
    memory = bytearray(update(90, 100, rule=market.rule, bids={"99.00": "9"}))
    market.receive(memoryview(memory))
    memory[:] = b"x" * len(memory)
    assert market.snapshot(95).bids()[99.0] == 9.0


# -------------------------------------------------------------------------------------------- 9: the ids went backwards


@a_restart_is_far
def test_ids_that_restart_low_are_noticed_after_three_stale_updates_with_later_event_times(
    market_at: MarketIn,
) -> None:
    market = market_at(SYNCHRONIZED)
    for number in range(RESYNC_AFTER_STALE):
        assert market.state is SYNCHRONIZED
        market.update(10 + number, 11 + number, event_time_ms=5_000 + number)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    assert market.dropped() == {"STALE": RESYNC_AFTER_STALE - 1}
    market.snapshot(12).update(13, 14, event_time_ms=5_100, bids={"99.00": "9"})
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 14)
    assert market.bids()[99.0] == 9.0


@a_restart_is_far
@pytest.mark.parametrize("old_id", [100, 150])
def test_a_snapshot_of_the_old_numbering_is_refused_after_the_ids_went_back(market_at: MarketIn, old_id: int) -> None:
    market = market_at(SYNCHRONIZED)
    for number in range(RESYNC_AFTER_STALE):
        market.update(10 + number, 11 + number, event_time_ms=5_000 + number)
    market.snapshot(old_id)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"LAGGING": 1}
    assert market.snapshot(13).state is SYNCHRONIZED


@a_restart_is_far
def test_the_old_numbering_is_forgotten_once_the_new_one_is_synchronized(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    for number in range(RESYNC_AFTER_STALE):
        market.update(10 + number, 11 + number, event_time_ms=5_000 + number)
    market.snapshot(13).update(500, 510).snapshot(505)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 510)
    assert market.snapshots_dropped() == {}


def test_stale_updates_with_old_event_times_are_repetitions(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    for _ in range(10 * RESYNC_AFTER_STALE):
        market.update(90, 100)
    assert market.state is SYNCHRONIZED


@a_restart_is_far
def test_stale_updates_are_counted_in_a_row_only(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    for last in range(110, 400, 10):
        for number in range(RESYNC_AFTER_STALE - 1):
            market.update(10, 20, event_time_ms=50_000 + number)
        market.update(last - 10, last)
    assert market.state is SYNCHRONIZED


@a_restart_is_far
def test_one_old_event_time_breaks_the_row(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    for event_time_ms in (5_000, 5_001, 1_000, 5_002, 5_003):
        market.update(10, 20, event_time_ms=event_time_ms)
    assert market.state is SYNCHRONIZED
    assert market.update(10, 20, event_time_ms=5_004).changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)


@a_restart_is_far
def test_with_two_streams_the_ids_went_back_only_if_both_show_it(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).update(100, 110, connection_id=1)
    for number in range(2 * RESYNC_AFTER_STALE):
        market.update(10, 20, connection_id=1, event_time_ms=5_000 + number)
    assert market.state is SYNCHRONIZED
    for number in range(RESYNC_AFTER_STALE):
        assert market.state is SYNCHRONIZED
        market.update(10, 20, connection_id=0, event_time_ms=6_000 + number)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)


@pytest.mark.parametrize("event_time_ms", [None, 10**15, 0, -1])
def test_ids_that_restart_low_are_noticed_whatever_the_event_times_say(
    market_at: MarketIn, event_time_ms: int | None
) -> None:
    """One update whose time is of another unit, a clock that is set back: nothing that follows is later then."""
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=10**15)
    for number in range(9):
        assert market.update(10 + number, 11 + number, event_time_ms=event_time_ms).state is SYNCHRONIZED
        market.wait(1.0)
    assert market.wait(STALE_S_MAX - 9.1).update(19, 20, event_time_ms=event_time_ms).state is SYNCHRONIZED
    market.wait(0.1).update(20, 21, event_time_ms=event_time_ms)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    assert market.snapshot(21).book.last_update_id == 21


def test_with_two_streams_both_must_have_brought_nothing_else(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).update(100, 110, connection_id=1)
    for number in range(12):
        assert market.update(10 + number, 11 + number, connection_id=1, event_time_ms=0).wait(1.0).state is SYNCHRONIZED
    for number in range(10):
        assert market.update(10 + number, 11 + number, connection_id=0, event_time_ms=0).wait(1.0).state is SYNCHRONIZED
    market.update(20, 21, connection_id=0, event_time_ms=0)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    assert market.snapshot(21).book.last_update_id == 21


def test_few_stale_updates_however_old_are_repetitions(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    for _ in range(RESYNC_AFTER_STALE - 1):
        assert market.update(80, 95).wait(10 * STALE_S_MAX).state is SYNCHRONIZED
    for start in range(100, 200, 10):
        assert market.update(start, start + 10).update(80, 95).wait(STALE_S_MAX).update(80, 95).state is SYNCHRONIZED


def test_a_stream_that_lags_far_behind_another_one_does_not_show_that_ids_went_back(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).update(100, 110, connection_id=1)
    for number in range(30):
        assert market.update(50 + number, 51 + number, connection_id=1).wait(1.0).state is SYNCHRONIZED
    assert market.update(110, 120).state is SYNCHRONIZED


@a_restart_is_far
def test_an_update_of_high_ids_and_a_time_to_come_does_not_block_the_buffer_for_ever(market_at: MarketIn) -> None:
    """It would stay the newest one, behind a hole, and no snapshot would ever reach it."""
    market = market_at(BUFFERING).update(10**9, 10**9 + 1, event_time_ms=10**15)
    for last in range(101, 120):
        market.update(last - 1, last).wait(1.0)
    assert market.dropped() == {"IDS_WENT_BACK": 11}
    market.snapshot(118)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 119)


def test_stale_updates_right_after_a_snapshot_are_normal_for_some_time(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).wait(100.0).update(90, 100).snapshot(10_000)
    for last in range(101, 300):
        market.update(last - 1, last, event_time_ms=10**9 + last)
    assert market.state is SYNCHRONIZED
    assert market.wait(STALE_AFTER_SNAPSHOT_S - 0.1).update(300, 301).state is SYNCHRONIZED
    market.wait(0.1).update(301, 302)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    assert market.snapshot(301).book.last_update_id == 302


def test_stale_updates_after_a_snapshot_are_counted_for_each_snapshot(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).wait(1.0)
    for update_id in (100, 200):
        market.snapshot(update_id).wait(STALE_AFTER_SNAPSHOT_S)
        for _ in range(RESYNC_AFTER_STALE - 1):
            assert market.update(80, 95).state is SYNCHRONIZED
        market.resync()


@a_restart_is_far
@pytest.mark.parametrize("new_id", [10, 100 - RESYNC_AFTER_STALE])
def test_ids_that_restart_under_the_first_snapshot_are_noticed_although_it_is_young(
    market_at: MarketIn, new_id: int
) -> None:
    """Also where the last of the updates that show it ends at the very id at which the stream stood before."""
    market = market_at(BUFFERING).update(90, 100, event_time_ms=5_000).snapshot(150)
    for start in range(new_id, new_id + RESYNC_AFTER_STALE):
        assert market.state is SYNCHRONIZED
        market.update(start, start + 1, event_time_ms=5_100 + start)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    assert market.snapshot(150).snapshots_dropped() == {"LAGGING": 1}
    assert market.snapshot(start + 1).book.last_update_id == start + 1


def test_a_stream_that_comes_up_to_its_snapshot_does_not_go_back(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100, event_time_ms=5_000).snapshot(150)
    for start in range(100, 150, 5):
        assert market.update(start, start + 5, event_time_ms=5_000 + start).state is SYNCHRONIZED
    for _ in range(RESYNC_AFTER_STALE):
        assert market.update(80, 90, event_time_ms=4_900).state is SYNCHRONIZED
    assert market.update(150, 160, event_time_ms=6_000).book.last_update_id == 160


def test_a_single_stale_update_long_after_a_snapshot_is_a_repetition(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).wait(1.0).snapshot(100).wait(100.0)
    for _ in range(RESYNC_AFTER_STALE - 1):
        assert market.update(80, 95, event_time_ms=10**9).state is SYNCHRONIZED
    assert market.update(80, 95, event_time_ms=10**9).state is BUFFERING


@a_restart_is_far
def test_a_snapshot_of_the_old_numbering_is_refused_after_a_new_one_began_while_buffering(market_at: MarketIn) -> None:
    """Nothing that waits is missing after it, for all of that has lower ids; but the stream will never continue it."""
    market = market_at(SYNCHRONIZED).update(1_000, 1_010).update(1_010, 1_020)
    for number in range(RESYNC_AFTER_STALE):
        market.update(10 + number, 11 + number, event_time_ms=50_000 + number)
    assert market.snapshot(1_020).state is BUFFERING
    assert market.snapshots_dropped() == {"LAGGING": 1}
    assert market.snapshot(12).book.last_update_id == 13


@a_restart_is_far
def test_what_was_readable_does_not_bind_a_numbering_that_began_while_buffering(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(1_000, 1_010).update(1_010, 1_020)
    for number in range(RESYNC_AFTER_STALE):
        market.update(10 + number, 11 + number, event_time_ms=50_000 + number)
    assert market.snapshot(12).book.last_update_id == 13
    assert market.snapshots_dropped() == {}


@a_restart_is_far
def test_ids_that_go_back_while_buffering_empty_the_buffer_but_leave_the_request(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(9_990, 10_000, event_time_ms=5_000).update(10_000, 10_010, event_time_ms=5_100)
    request = market.request
    for number in range(RESYNC_AFTER_STALE):
        market.update(10 + number, 11 + number, event_time_ms=5_200 + number)
    assert market.dropped() == {"IDS_WENT_BACK": 4}
    assert market.request == request
    assert market.snapshot(12).state is SYNCHRONIZED
    assert market.book.last_update_id == 13


def test_a_snapshot_that_proved_useless_is_not_continued_like_the_retained_levels(market_at: MarketIn) -> None:
    """It was loaded into the market's book, where the retained levels had been."""
    market = market_at(SYNCHRONIZED).close().open().acknowledge().wait(1.0)
    market.update(10, 11, event_time_ms=50_000, bids={"900.00": "5"}).snapshot(10)
    assert market.snapshots_dropped() == {"CROSSED": 1}
    market.update(11, 12, event_time_ms=50_001, bids={"900.00": "0"})
    assert market.state is BUFFERING
    assert market.snapshot(11).state is SYNCHRONIZED


@a_restart_is_far
def test_one_update_of_a_later_time_and_a_lower_id_empties_the_buffer(market_at: MarketIn) -> None:
    """A quiet market brings no second one for long, and no snapshot would ever reach what is buffered."""
    market = market_at(SYNCHRONIZED).update(100, 1_010, event_time_ms=5_000).resync()
    market.update(1_050, 1_060, event_time_ms=5_100).snapshot(20)  # what lies between was lost
    assert market.snapshots_dropped() == {"TOO_OLD": 1}
    market.update(20, 22, event_time_ms=5_100 + PREVIOUS_NUMBERING_MS + 1)
    assert market.dropped() == {"IDS_WENT_BACK": 1}
    assert market.snapshot(21).state is SYNCHRONIZED
    assert market.book.last_update_id == 22
    assert market.snapshots_dropped() == {"TOO_OLD": 1}


@a_restart_is_far
@pytest.mark.parametrize("book_id", [1_010, None])
def test_a_snapshot_of_the_previous_numbering_is_refused(market_at: MarketIn, book_id: int | None) -> None:
    market = market_at(BUFFERING)
    if book_id is not None:
        market = market_at(SYNCHRONIZED).update(100, book_id, event_time_ms=5_000).resync()
    market.update(1_050, 1_060, event_time_ms=5_100).update(20, 22, event_time_ms=7_000)
    market.snapshot(book_id or 1_050)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"LAGGING": 1}
    assert market.snapshot(21).state is SYNCHRONIZED


def test_a_late_update_of_the_previous_numbering_makes_no_snapshot_of_the_new_one_implausible(
    market_at: MarketIn,
) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=9_000).resync()
    market.update(1_050, 1_060, event_time_ms=5_100).update(110, 120, event_time_ms=9_100)
    assert market.dropped() == {"IDS_WENT_BACK": 1}
    assert market.snapshot(115).book.last_update_id == 120
    assert market.snapshots_dropped() == {}


def test_a_price_that_crosses_by_far_is_no_measure_for_a_snapshot(market_at: MarketIn) -> None:
    """The asks lie past their horizon, so the bid that crosses them was the only price that was known."""
    market = market_at(SYNCHRONIZED, limits=(4,))
    market.update(100, 110, bids={"400.00": "1"}, asks={**dict.fromkeys(ASKS, "0"), "150.00": "1"})
    assert market.changes[-1] == (BUFFERING, Cause.CROSSED)
    market.update(110, 120, bids={"400.00": "0", "100.00": "5"}, asks={"101.00": "5"})
    market.snapshot(115, bids={"700.00": "1"}, asks={"701.00": "1"})
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"WRONG_PRICES": 1}
    market.snapshot(115)
    assert market.state is SYNCHRONIZED


# ------------------------------------------------------------------------------------- 9: the ids step back by a few


def test_ids_that_step_back_by_a_few_are_noticed_at_the_first_update(market_at: MarketIn) -> None:
    """The next one would end past the book, and would seem to continue it."""
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=5_000, bids={"99.00": "9"})
    market.update(105, 108, event_time_ms=5_100, bids={"98.00": "8"})
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)
    market.update(108, 115, event_time_ms=5_200, bids={"97.00": "7"})
    assert market.request is not None
    assert market.request.due == market.now
    market.snapshot(107, bids={**BIDS, "99.00": "9"})
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 115)
    assert (market.bids()[98.0], market.bids()[97.0]) == (8.0, 7.0)
    assert market.snapshots_dropped() == {}
    market.update(115, 120, event_time_ms=5_300)
    assert market.state is SYNCHRONIZED


def test_a_step_back_while_the_stream_goes_straight_to_the_book_is_noticed_as_well(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    for number in range(10):
        assert not market.synchronizer.wants_every_update
        market.update(100 + number, 101 + number, event_time_ms=5_000 + number)
    market.update(105, 108, event_time_ms=5_100)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)


@pytest.mark.parametrize("event_time_ms", [5_000, 4_900, None])
def test_an_update_that_is_repeated_or_late_is_no_step_back(market_at: MarketIn, event_time_ms: int | None) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=5_000)
    for start in (90, 100, 105):
        market.update(start, 110, event_time_ms=event_time_ms)
    assert market.state is SYNCHRONIZED
    assert market.dropped() == {"STALE": 3}


def test_an_update_that_covers_the_last_one_once_more_is_no_step_back(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=5_000).update(100, 120, event_time_ms=5_100)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 120)


def test_the_windows_of_a_second_connection_are_no_step_back(market_at: MarketIn) -> None:
    """It lags, and its clock is ahead: each of its updates ends below the book, at a later time."""
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1)
    for last in range(110, 300, 10):
        market.update(last - 10, last, event_time_ms=5_000 + last)
        if last % 20 == 0:
            market.update(last - 25, last - 5, connection_id=1, event_time_ms=5_001 + last)
    assert market.state is SYNCHRONIZED


@pytest.mark.parametrize("is_open_before", [True, False])
def test_a_connection_that_lags_behind_the_one_that_has_closed_is_no_step_back(
    market_at: MarketIn, is_open_before: bool
) -> None:
    market = market_at(SYNCHRONIZED)
    if is_open_before:
        market.open(1).acknowledge(1).update(95, 99, connection_id=1)
    for last in range(110, 160, 10):
        market.update(last - 10, last, event_time_ms=5_000 + last)
    market.close(0)
    if not is_open_before:
        market.open(1).acknowledge(1)
    market.update(99 if is_open_before else 105, 140, connection_id=1, event_time_ms=9_000)
    market.update(140, 160, connection_id=1, event_time_ms=9_100)
    assert market.state is SYNCHRONIZED
    market.update(150, 155, connection_id=1, event_time_ms=9_200)  # but its own ids are its own
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)


def test_a_stream_that_comes_up_to_a_snapshot_that_was_ahead_is_no_step_back(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100, event_time_ms=5_000).snapshot(150)
    for start in range(100, 150, 10):
        market.update(start, start + 10, event_time_ms=5_000 + start)
    assert market.state is SYNCHRONIZED
    market.update(120, 130, event_time_ms=6_000)
    assert market.changes[-1] == (BUFFERING, Cause.IDS_WENT_BACK)


def test_ids_that_step_back_while_buffering_empty_the_buffer_and_replace_a_download_under_way(
    market_at: MarketIn,
) -> None:
    """Either may be of the previous numbering, and would seem to continue the other."""
    market = market_at(BUFFERING).update(90, 100, event_time_ms=5_000).begin()
    epoch = market.request.epoch if market.request else 0
    market.update(94, 98, event_time_ms=5_100)
    assert market.dropped() == {"IDS_WENT_BACK": 1}
    assert market.request is not None
    assert market.request.epoch > epoch
    assert market.synchronizer.requests.cancelled == 1
    market.snapshot(96).update(98, 104, event_time_ms=5_200)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 104)


def test_a_snapshot_of_the_very_id_from_which_they_stepped_back_is_doubted(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=5_000).update(105, 108, event_time_ms=5_100)
    for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX):
        assert market.snapshot(110).state is BUFFERING
    assert market.snapshots_dropped() == {"LAGGING": IMPLAUSIBLE_IN_A_ROW_MAX}
    assert market.snapshot(110).state is SYNCHRONIZED
    market.update(110, 112, event_time_ms=5_200).resync()
    assert market.snapshot(112).state is SYNCHRONIZED


def test_updates_that_waited_behind_a_gap_say_nothing_of_the_stream_that_is_left(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1)
    market.update(110, 150, connection_id=1, event_time_ms=5_000).close(1)
    market.update(100, 110, event_time_ms=5_001).update(110, 120, event_time_ms=5_300)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 150)


def test_a_stream_that_lags_costs_snapshots_but_no_update(market_at: MarketIn) -> None:
    """Its node stamps with the time of now what the other one sent long ago: one numbering, which was taken for two."""
    market = market_at(SYNCHRONIZED).open(1).acknowledge(1).resync()
    market.update(100, 110, event_time_ms=5_000).update(110, 120, event_time_ms=5_100)
    market.update(90, 105, connection_id=1, event_time_ms=9_000)
    assert market.dropped() == {"IDS_WENT_BACK": 2}
    for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX):
        assert market.snapshot(118).state is BUFFERING
    assert market.snapshot(118).state is SYNCHRONIZED
    market.update(105, 115, connection_id=1, event_time_ms=9_100).update(115, 125, connection_id=1, event_time_ms=9_200)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 125)


# ---------------------------------------------------------------------------------------------- 22 to 26: bad snapshots


def test_a_snapshot_older_than_the_first_buffered_update_is_refetched_with_backoff(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(100, 110)
    for update_id in (50, 98, 99):
        market.snapshot(update_id)
        assert market.state is BUFFERING
        assert market.synchronizer.buffered_count == 1
        market.wait(20.0)
    assert [request.due for request in market.requests] == [1000.0, 1000.0, 1020.5, 1041.0]  # the second at once
    assert market.snapshots_dropped() == {"TOO_OLD": 3}
    assert market.snapshot(100).state is SYNCHRONIZED
    assert market.book.last_update_id == 110


def test_the_backoff_starts_again_after_success(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(100, 110).snapshot(50).snapshot(50).snapshot(50).snapshot(100).wait(60.0)
    market.update(115, 120).snapshot(100)
    assert market.request is not None
    assert market.request.due == market.now
    market.snapshot(100)
    assert market.request.due == market.now + 0.5


def test_a_first_failed_download_is_tried_again_at_once_then_after_a_backoff(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(100, 110).fail()
    assert market.request is not None
    assert market.request.due == market.now
    market.fail()
    assert market.request.due == market.now + 0.5
    assert market.snapshot(50).request.due == market.now + 0.5  # it came, so the host works


def test_a_cached_snapshot_is_fetched_again_soon_after_the_cache_can_have_changed(market_at: MarketIn) -> None:
    """That of options lives 25 to 30 s, and until then no update continues it."""
    market = market_at(BUFFERING).update(100, 101)
    last, began = 101, market.now
    while market.state is BUFFERING:
        assert market.request is not None
        market.update(last, last + 1).wait(market.request.due - market.now)
        last += 1
        market.snapshot(50 if market.now < began + 28.0 else last)
    assert market.now <= began + 28.0 + USELESS_S_MAX
    assert market.synchronizer.requests.issued[Purpose.SYNCHRONIZE] <= 33


@pytest.mark.parametrize("bid", ["101.00", "102.00"])
def test_a_market_whose_prices_are_locked_or_crossed_comes_back_soon_after(market_at: MarketIn, bid: str) -> None:
    """The stream and the snapshots say the same: it is the exchange that is locked."""
    market = market_at(SYNCHRONIZED).update(100, 110, bids={bid: "1"})
    assert market.changes[-1] == (BUFFERING, Cause.CROSSED)
    began = market.now
    while market.state is BUFFERING:
        assert market.request is not None
        market.wait(market.request.due - market.now)
        market.snapshot(110, bids={bid: "1", **BIDS} if market.now < began + 30.0 else BIDS)
    assert market.now <= began + 30.0 + USELESS_S_MAX
    assert set(market.snapshots_dropped()) == {"MALFORMED"}


def test_the_first_try_at_once_does_not_hurry_past_a_retry_after(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(100, 110).fail(retry_at=1_007.0)
    assert market.request is not None
    assert market.request.due == 1_007.0


def test_a_snapshot_newer_than_all_that_is_buffered_is_readable_at_once(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100, bids={"99.00": "9"}).snapshot(5_000)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 5_000)
    assert market.bids()[99.0] == 2.0
    assert market.dropped() == {"STALE": 1}
    market.update(100, 4_000).update(4_000, 5_010, bids={"99.00": "8"})
    assert market.bids()[99.0] == 8.0
    assert market.state is SYNCHRONIZED


def test_a_quiet_market_is_readable_without_any_update(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).wait(1.0).snapshot(100)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 100)
    assert market.wait(3600.0).update(100, 110).state is SYNCHRONIZED


def test_futures_start_with_the_update_that_ends_at_the_snapshot_or_bridges_it() -> None:
    at_its_end = market_in(BUFFERING, "futures").update(90, 100, bids={"99.00": "9"}).snapshot(100)
    assert at_its_end.bids()[99.0] == 9.0  # `u` is the snapshot's id
    in_the_hole = market_in(BUFFERING, "futures").update(90, 100, bids={"99.00": "9"}).snapshot(91)
    assert in_the_hole.bids()[99.0] == 9.0  # `pu` is before it, `U` past it
    assert in_the_hole.book.last_update_id == 100


def test_an_id_that_was_readable_does_not_come_back_lower_from_a_lagging_node(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).resync()
    for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX):
        market.snapshot(99)
        assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"LAGGING": IMPLAUSIBLE_IN_A_ROW_MAX}
    assert market.snapshot(100).state is SYNCHRONIZED


def test_a_low_id_that_the_stream_has_as_well_is_believed_at_once(market_at: MarketIn) -> None:
    """The ids restart while the market has no book, so no update can be STALE."""
    market = market_at(SYNCHRONIZED).update(100, 1_010, event_time_ms=5_000).resync()
    epoch = market.synchronizer.epoch
    market.update(10, 12, event_time_ms=5_100).snapshot(11)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 12)
    assert market.snapshots_dropped() == {}
    assert market.synchronizer.epoch == epoch


def test_a_low_id_is_believed_at_once_while_levels_are_retained(market_at: MarketIn) -> None:
    """The ids restart while there is no connection."""
    market = market_at(SYNCHRONIZED).update(100, 1_010, event_time_ms=5_000).close().open(1).acknowledge(1).wait(1.0)
    market.update(10, 12, connection_id=1, event_time_ms=5_100)
    assert market.synchronizer.buffered_count == 1
    assert market.snapshot(11).state is SYNCHRONIZED
    assert market.book.last_update_id == 12
    assert market.snapshots_dropped() == {}


def test_what_was_buffered_for_a_new_numbering_is_dropped_when_the_stream_continues_the_old_one(
    market_at: MarketIn,
) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=5_000).close().open(1).acknowledge(1).wait(1.0)
    market.update(90, 100, connection_id=1, event_time_ms=5_100).update(100, 120, connection_id=1, event_time_ms=5_200)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 120)
    assert market.request is None
    assert market.dropped() == {"STALE": 1}


@pytest.mark.parametrize("event_time_ms", [4_900, 5_000])
def test_a_low_id_of_an_old_update_proves_nothing(market_at: MarketIn, event_time_ms: int) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, event_time_ms=5_000).resync()
    market.update(95, 105, event_time_ms=event_time_ms).snapshot(100)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"LAGGING": 1}


def test_a_lagging_snapshot_is_used_if_the_buffer_brings_it_past_what_was_readable(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).resync().update(95, 110).snapshot(96)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 110)
    market.update(110, 120, event_time_ms=5_000).resync().update(115, 125, event_time_ms=5_000).snapshot(116)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 125)  # the times say nothing, the ids suffice


def test_the_same_lower_id_over_and_over_is_believed_under_a_new_epoch(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).resync()
    epoch = market.synchronizer.epoch
    for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX + 1):
        market.snapshot(50)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 50)
    assert market.synchronizer.epoch == epoch + IMPLAUSIBLE_IN_A_ROW_MAX


def test_a_snapshot_with_the_prices_of_another_market_is_refetched(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).resync()
    wrong = {"bids": {"10.00": "1"}, "asks": {"11.00": "1"}}
    market.snapshot(200, **wrong)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"WRONG_PRICES": 1}
    assert market.snapshot(200).state is SYNCHRONIZED


OTHER_MARKET = {"bids": {"10.00": "1"}, "asks": {"11.00": "1"}}


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"bids": {"99.00": "2"}, "asks": {"100.00": "3"}}, True),
        ({"bids": {"99.00": "2"}}, False),  # one side alone may be a level far out
        ({"bids": {"99.00": "2"}, "asks": {"12.00": "3"}}, False),
        ({"bids": {"10.50": "2"}, "asks": {"100.00": "3"}}, False),
        ({"bids": {"99.00": "0"}, "asks": {"100.00": "0"}}, False),  # nothing that rests
        ({}, False),
    ],
)
def test_a_first_snapshot_is_held_to_the_prices_of_the_updates(market_at: MarketIn, changes, is_refused) -> None:
    market = market_at(BUFFERING).update(150, 160, **changes)
    market.snapshot(170, **OTHER_MARKET)
    assert market.snapshots_dropped() == ({"WRONG_PRICES": 1} if is_refused else {})
    assert (market.state is BUFFERING) is is_refused
    if is_refused:
        assert market.snapshot(170).state is SYNCHRONIZED


def test_a_first_snapshot_is_held_to_the_prices_of_all_updates_that_wait(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(150, 160, bids={"99.00": "2"}).update(160, 170, asks={"100.00": "3"})
    assert market.snapshot(180, **OTHER_MARKET).snapshots_dropped() == {"WRONG_PRICES": 1}


def test_a_first_snapshot_that_repeats_is_believed(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(150, 160, bids={"99.00": "2"}, asks={"100.00": "3"})
    for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX + 1):
        assert market.state is BUFFERING
        market.snapshot(170, **OTHER_MARKET)
    assert market.state is SYNCHRONIZED


def test_prices_that_stay_far_away_are_believed(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).resync()
    for _ in range(IMPLAUSIBLE_IN_A_ROW_MAX + 1):
        assert market.state is BUFFERING
        market.snapshot(200, bids={"10.00": "1"}, asks={"11.00": "1"})
    assert market.state is SYNCHRONIZED


@pytest.mark.parametrize(
    "sides",
    [
        {"bids": {"100.00": "1", "100.0": "2"}},
        {"bids": {"100.00": "-1"}},
        {"bids": {"101.00": "1"}},
        {"bids": {"105.00": "1"}},
    ],
    ids=["a price twice", "a negative quantity", "locked", "crossed"],
)
def test_a_snapshot_that_cannot_be_right_is_refetched(market_at: MarketIn, sides: dict[str, dict[str, str]]) -> None:
    market = market_at(BUFFERING).update(90, 100).snapshot(95, **sides)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"MALFORMED": 1}
    assert market.request is not None
    assert market.request.due == market.now
    market.snapshot(95, **sides)
    assert market.request.due > market.now
    assert market.snapshot(95).state is SYNCHRONIZED


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"code":-1003,"msg":"x"}', snapshot(95)[:-20]])
def test_a_body_that_is_no_snapshot_is_refetched(market_at: MarketIn, body: bytes) -> None:
    market = market_at(BUFFERING).update(90, 100).answer(body)
    assert market.snapshots_dropped() == {"MALFORMED": 1}
    assert market.snapshot(95).state is SYNCHRONIZED


def test_an_unsorted_snapshot_is_used(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100).snapshot(95, bids=dict(reversed(BIDS.items())))
    assert list(market.bids()) == [100.0, 99.0, 98.0, 97.0]


@pytest.mark.parametrize("empty", ["bids", "asks"])
def test_an_empty_side_is_legal(market_at: MarketIn, empty: str) -> None:
    market = market_at(BUFFERING).update(90, 100).snapshot(95, **{empty: {}})
    assert market.state is SYNCHRONIZED
    assert getattr(market.book, empty)() == []


def test_a_snapshot_of_fewer_levels_than_requested_is_complete_and_needs_no_deeper_one(market_at: MarketIn) -> None:
    market = market_at(BUFFERING, limits=(5, 50)).update(90, 100).snapshot(95)
    assert (market.book.bid_horizon, market.book.ask_horizon) == (None, None)
    assert len(market.requests) == 1
    full = market_at(BUFFERING, limits=(4, 50)).update(90, 100).snapshot(95)
    assert (full.book.bid_horizon, full.book.ask_horizon) == (97.0, 104.0)
    assert [request.limit for request in full.requests] == [4, 50]


# --------------------------------------------------------------------------- 27, 28: what an update may do to the sides


@pytest.mark.parametrize("price", ["101.00", "101.50"], ids=["locked", "crossed"])
def test_a_crossed_book_is_resynchronized_and_the_update_is_kept_for_the_report(
    market_at: MarketIn, price: str
) -> None:
    market = market_at(SYNCHRONIZED)
    payload = update(100, 110, rule=market.rule, bids={price: "1"})
    market.receive(memoryview(payload))
    assert market.changes[-1] == (BUFFERING, Cause.CROSSED)
    change = next(action for action in market.drained if isinstance(action, StateChanged))
    assert change.payload == payload
    assert market.request is not None
    market.update(110, 120).snapshot(115)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 120)


def test_a_snapshot_that_the_buffer_crosses_is_refetched(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100, bids={"101.00": "1"}).snapshot(95)
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"CROSSED": 1}
    market.snapshot(99)  # behind what has been applied
    assert market.state is BUFFERING
    assert market.snapshot(100).state is SYNCHRONIZED


def test_a_book_that_crosses_when_it_resumes_needs_a_snapshot(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).close().open().update(100, 110, asks={"99.00": "1"})
    assert market.state is BUFFERING
    assert market.book.suspended_by == "CROSSED"
    assert market.synchronizer.resumes == 0
    assert market.snapshot(110).state is SYNCHRONIZED


def test_a_side_that_empties_through_deletes_is_empty_and_not_crossed(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).update(100, 110, bids=dict.fromkeys(BIDS, "0"))
    assert market.state is SYNCHRONIZED
    assert market.book.best_bid is None
    market.update(110, 120, asks=dict.fromkeys(ASKS, "0"))
    assert market.state is SYNCHRONIZED
    assert market.book.best_ask is None


# ----------------------------------------------------------------------------------------------- 41: the buffer is full


def test_a_full_buffer_drops_its_oldest_and_keeps_the_request(market_at: MarketIn) -> None:
    market = market_at(BUFFERING)
    last = 100 + BUFFER_UPDATES_MAX + 50
    for update_id in range(101, last + 1):
        market.update(update_id - 1, update_id)
    assert market.synchronizer.buffered_count == BUFFER_UPDATES_MAX
    assert market.dropped() == {"BUFFER_FULL": 50}
    assert len(market.requests) == 1
    # The answer is as new as the newest updates, however long ago it was requested.
    market.snapshot(last - 10)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, last)
    assert len(market.requests) == 1


def test_a_snapshot_from_before_the_oldest_that_is_left_is_too_old(market_at: MarketIn) -> None:
    market = market_at(BUFFERING)
    for update_id in range(101, 101 + BUFFER_UPDATES_MAX + 50):
        market.update(update_id - 1, update_id)
    market.snapshot(149)
    assert market.snapshots_dropped() == {"TOO_OLD": 1}
    market.snapshot(150)
    assert market.state is SYNCHRONIZED


# ------------------------------------------------------------------------------- the exchange does not know the market


def refused(market: Market) -> Market:
    return market.fail(permanent=Cause.UNKNOWN_MARKET)


def test_a_market_that_is_refused_once_is_requested_again_at_once(market_at: MarketIn) -> None:
    """A regression: one wrong answer of one gateway, while the market waited for its snapshot, failed it for good."""
    market = refused(market_at(BUFFERING).update(90, 100))
    assert market.request is not None
    assert market.request.due == market.now
    assert market.snapshot(95).state is SYNCHRONIZED


def test_a_market_that_never_speaks_and_is_refused_twice_fails_at_once(market_at: MarketIn) -> None:
    market = refused(market_at(BUFFERING).wait(0.5))
    assert market.state is BUFFERING
    assert refused(market).state is FAILED


def test_a_market_whose_stream_speaks_does_not_fail_however_often_it_is_refused(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100)
    waits = []
    for number in range(20):
        waits.append(refused(market).request.due - market.now)
        market.wait(9.9).update(100 + 10 * number, 110 + 10 * number)
        assert market.state is BUFFERING
    assert waits[0] == 0.0
    assert max(waits) > 2.0  # with the backoff of a download that fails
    assert refused(market.wait(9.9)).state is BUFFERING
    assert refused(market.wait(0.2)).state is FAILED


@pytest.mark.parametrize("what", ["a useless snapshot", "a book"])
def test_a_snapshot_between_two_refusals_shows_that_the_market_exists(market_at: MarketIn, what: str) -> None:
    market = refused(market_at(BUFFERING).wait(0.5))
    if what == "a book":
        market.snapshot(95)
        market.synchronizer.request_resync(market.now)
        market._drain()
    else:
        market.answer(b"<html>")
    assert refused(market).state is BUFFERING
    assert refused(market).state is FAILED


# --------------------------------------------------------------------------------------------------------- late answers


def test_the_answer_to_a_superseded_request_is_ignored(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100)
    late = market.request
    assert late is not None
    market.close().open().acknowledge().update(200, 210)
    assert market.request is not None
    market.synchronizer.snapshot_received(late.epoch, snapshot(95), 100, market.now)
    market._drain()
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"LATE": 1}
    market.synchronizer.snapshot_failed(late.epoch, market.now, permanent=Cause.UNKNOWN_MARKET)
    market._drain()
    assert market.state is BUFFERING
    assert market.snapshots_dropped() == {"LATE": 2}
    assert market.snapshot(205).state is SYNCHRONIZED


def test_a_download_of_a_superseded_request_begins_for_nothing(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    market.synchronizer.snapshot_begins(market.synchronizer.epoch, market.now)
    assert not market._drain().synchronizer.wants_every_update


def test_an_answer_that_comes_twice_counts_once(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(100, 110)
    request = market.request
    assert request is not None
    market.snapshot(50)
    market.synchronizer.snapshot_received(request.epoch, snapshot(105), 100, market.now)
    assert market._drain().state is BUFFERING
    assert market.snapshots_dropped() == {"TOO_OLD": 1, "LATE": 1}


def test_the_pair_of_epoch_and_id_never_goes_back(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED)
    seen = [(market.synchronizer.epoch, market.book.last_update_id)]
    for update_id in (200, 60, 60, 60, 30, 30, 30):
        market.resync() if market.state is SYNCHRONIZED else market
        market.snapshot(update_id)
        if market.state is SYNCHRONIZED:
            seen.append((market.synchronizer.epoch, market.book.last_update_id))
    assert [update_id for _, update_id in seen] == [100, 200, 60, 30]
    assert seen == sorted(set(seen))


def test_the_id_before_the_restart_is_the_highest_one_after_a_second_restart(market_at: MarketIn) -> None:
    market = market_at(SYNCHRONIZED).resync().snapshot(200)
    assert market.synchronizer.id_before_restart is None
    for update_id in (60, 60, 60, 30, 30, 30):
        if market.state is SYNCHRONIZED:
            market.resync()
        market.snapshot(update_id)
    assert market.book.last_update_id == 30
    assert market.synchronizer.id_before_restart == 200


def test_retry_after_is_obeyed_also_by_the_next_stream(market_at: MarketIn) -> None:
    market = market_at(BUFFERING).update(90, 100).fail(retry_at=1_060.0)
    assert market.request is not None
    assert market.request.due == 1_060.0
    market.close().open().acknowledge().update(200, 210)
    assert market.request is not None
    assert market.request.due == 1_060.0
