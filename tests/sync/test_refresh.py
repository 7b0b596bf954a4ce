"""The refresh and its audit: a newer or deeper snapshot is taken in, and the book is never taken away for it."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from sync_kit import ASKS, BIDS, BOOKS, Market, market_in, snapshot

from ldc.limits import RETAINED_UPDATES_MAX
from ldc.sync.actions import Purpose, ReadSnapshot, RefreshResult
from ldc.sync.refresh import (
    AHEAD_S_MAX,
    AHEAD_UPDATES_MAX,
    AHEAD_UPDATES_MAX_UNREADABLE,
    AUDIT_CONFIRM_S,
    CONFIRMS_MAX,
    DEEPEN_PAUSE_S,
    REFRESH_PAUSE_S,
    STABLE_S,
    Difference,
    differences,
    extended,
)
from ldc.types import Cause, SyncState

IDLE, BUFFERING, SYNCHRONIZED, STOPPED, FAILED = SyncState
MarketIn = Callable[..., Market]

DEEP_BIDS = {**BIDS, "96.00": "5.000", "95.00": "6.000"}
DEEP_ASKS = {**ASKS, "105.00": "5.000", "106.00": "6.000"}
WRONG_BIDS = {**BIDS, "98.00": "3.500"}
# 20 levels, so that one difference is less than a tenth of what can be compared.
LONG_BIDS = {f"{price}.00": "1.000" for price in range(100, 80, -1)}
LONG_ASKS = {f"{price}.00": "1.000" for price in range(101, 121)}


@pytest.fixture(params=[(rule, name) for rule in ("spot", "futures") for name in BOOKS], ids="-".join)
def market_at(request: pytest.FixtureRequest) -> MarketIn:
    """Return a function from a state to a market in it: on connection 0, and at the id 100 once it has a book."""
    rule, name = request.param
    return lambda state=SYNCHRONIZED, **options: market_in(state, rule, books=BOOKS[name], **options)


def long_market(market_at: MarketIn, **options: object) -> Market:
    """A synchronized market of 20 levels a side at the id 100, its horizons at 81 and 120."""
    market = market_at(BUFFERING, limits=(20,), **options)
    return market.update(90, 100).snapshot(95, bids=LONG_BIDS, asks=LONG_ASKS)


# ----------------------------------------------------------------------------------- from the request to the comparison


def test_an_equal_snapshot_is_adopted_with_its_horizon(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6))
    assert market.purposes == [Purpose.SYNCHRONIZE, Purpose.DEEPEN]
    assert (market.book.bid_horizon, market.book.ask_horizon) == (97.0, 104.0)
    market.begin().update(100, 110, bids={"99.00": "9"}).snapshot(105, bids=DEEP_BIDS, asks=DEEP_ASKS)
    assert (market.book.bid_horizon, market.book.ask_horizon) == (95.0, 106.0)
    assert market.bids() == {100.0: 1.0, 99.0: 9.0, 98.0: 3.0, 97.0: 4.0, 96.0: 5.0, 95.0: 6.0}
    assert [(done.result, done.limit, done.last_update_id) for done in market.refreshes] == [
        (RefreshResult.EQUAL, 6, 110)
    ]
    assert market.book.last_update_id == 110
    assert not market.synchronizer.wants_every_update
    assert market.synchronizer.refresher.started[Purpose.DEEPEN] == 1
    assert market.synchronizer.refresher.aborted == 0


def test_the_market_is_readable_at_every_moment_of_a_refresh(market_at: MarketIn) -> None:
    market = market_at()
    for step in (
        market.refresh,
        market.begin,
        lambda: market.update(100, 110),
        market.fail,
        market.begin,
        lambda: market.update(110, 120),
        lambda: market.snapshot(105),
        market.begin,
        lambda: market.update(120, 130),
        lambda: market.snapshot(135),
        lambda: market.update(130, 140),
    ):
        step()
        assert market.book.is_readable
    assert market.refreshes[-1].result is RefreshResult.EQUAL
    assert market.changes[-1] == (SYNCHRONIZED, Cause.NOT_LOADED)


def test_a_corrupt_frame_during_a_refresh_is_dropped_and_counted(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().receive(b"<html>").update(100, 110).snapshot(105)
    assert market.dropped() == {"MALFORMED": 1}
    assert market.refreshes[-1].result is RefreshResult.EQUAL


def test_a_snapshot_older_than_what_was_retained_is_refetched_and_the_retaining_goes_on(market_at: MarketIn) -> None:
    market = market_at().update(100, 110).refresh().begin().update(110, 120).snapshot(109)
    assert market.snapshots_dropped() == {"TOO_OLD": 1}
    assert market.request is not None
    assert market.request.due == market.now + 0.5
    assert market.book.retained_count == 1
    # A node that lags by one update is not refetched for ever.
    market.update(120, 130).begin().update(130, 140).snapshot(110)
    assert market.refreshes[-1].result is RefreshResult.EQUAL


def test_a_snapshot_without_anything_retained_is_used_if_nothing_lies_between(market_at: MarketIn) -> None:
    assert market_at().refresh().begin().snapshot(100).refreshes[-1].result is RefreshResult.EQUAL
    assert market_at().refresh().snapshot(100).refreshes[-1].result is RefreshResult.EQUAL  # begin() was forgotten
    assert market_at().refresh().begin().snapshot(99).snapshots_dropped() == {"TOO_OLD": 1}


@pytest.mark.parametrize("snapshot_id", [105, 120])
def test_updates_that_waited_behind_a_gap_are_retained_or_reach_the_candidate(
    market_at: MarketIn, snapshot_id: int
) -> None:
    market = market_at().open(1).acknowledge(1).refresh().begin().update(110, 120, bids={"99.00": "9"})
    if snapshot_id == 105:
        market.update(100, 110, connection_id=1).snapshot(snapshot_id)
    else:
        market.snapshot(snapshot_id, bids={**BIDS, "99.00": "9"}).update(100, 110, connection_id=1)
    assert market.snapshots_dropped() == {}
    assert [(done.result, done.last_update_id) for done in market.refreshes] == [(RefreshResult.EQUAL, 120)]


def test_a_snapshot_newer_than_the_book_waits_for_it(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6)).begin().update(100, 110).snapshot(125, bids=DEEP_BIDS, asks=DEEP_ASKS)
    assert market.refreshes == []
    assert market.synchronizer.refresher.has_candidate
    market.update(110, 120).update(120, 130, bids={"96.00": "9"})
    assert market.refreshes[-1].last_update_id == 130
    assert market.bids()[96.0] == 9.0


def test_a_snapshot_that_the_book_reaches_exactly_is_compared_there(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(120).update(100, 110).update(110, 120)
    assert market.refreshes[-1].last_update_id == 120
    assert market.refreshes[-1].result is RefreshResult.EQUAL


def test_a_snapshot_ahead_of_a_silent_stream_is_given_up_in_the_end(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(120).wait(AHEAD_S_MAX - 1)
    assert market.request is None
    market.wait(1)
    assert market.snapshots_dropped() == {"EXPIRED": 1}
    assert market.request is not None
    assert market.request.due == market.now + 0.5
    assert market.book.is_readable


def test_a_snapshot_far_ahead_of_a_lively_stream_is_given_up_in_the_end(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(1_000_000)
    for last in range(101, 100 + AHEAD_UPDATES_MAX):
        market.update(last - 1, last)
    assert market.snapshots_dropped() == {}
    market.update(last, last + 1)
    assert market.snapshots_dropped() == {"EXPIRED": 1}


def test_a_book_that_cannot_be_read_waits_less_long_for_a_stream_that_is_behind(market_at: MarketIn) -> None:
    market = market_at(limits=(4,)).refresh().begin().snapshot(1_000_000)
    market.update(100, 101, bids={**dict.fromkeys(BIDS, "0"), "90.00": "1"})
    assert not market.book.is_readable
    for last in range(102, 100 + AHEAD_UPDATES_MAX_UNREADABLE):
        market.update(last - 1, last)
    assert market.snapshots_dropped() == {}
    market.update(last, last + 1)
    assert market.snapshots_dropped() == {"EXPIRED": 1}
    assert market.request is not None


def test_the_updates_while_ahead_are_counted_for_each_snapshot(market_at: MarketIn) -> None:
    market = market_at().refresh()
    last = 100
    for expired in (1, 2):
        market.begin().snapshot(1_000_000)
        for _ in range(AHEAD_UPDATES_MAX):
            assert market.snapshots_dropped().get("EXPIRED", 0) == expired - 1
            market.update(last, last + 1)
            last += 1
        assert market.snapshots_dropped() == {"EXPIRED": expired}


def test_a_market_without_a_book_has_levels_of_no_limit() -> None:
    assert market_in(IDLE).synchronizer.refresher.limit == 0


def test_a_market_without_a_refresh_has_none_to_abort(market_at: MarketIn) -> None:
    assert market_at().close().synchronizer.refresher.aborted == 0


def test_a_snapshot_that_another_thread_has_read_is_as_good_as_its_body(market_at: MarketIn) -> None:
    """Nothing is parsed a second time: the market's own book takes it over."""
    for body, used in ((snapshot(95), 1), (b"<html>", 0)):
        market = market_at(BUFFERING).update(90, 100)
        read = market.synchronizer.read_snapshot(body, 100, 7)
        assert isinstance(read, ReadSnapshot)
        market.answer(read)
        assert market.synchronizer.requests.used == used
        assert market.book.is_readable == bool(used)
        if used:
            assert (market.book.last_update_id, market.book.counters.snapshots_loaded) == (100, 1)
            assert not read.book.is_loaded  # its levels have moved
    market = market_at().refresh().begin().update(100, 110, bids={"99.00": "9"})
    market.answer(market.synchronizer.read_snapshot(snapshot(105), 100, 7))
    assert [(done.result, done.last_update_id) for done in market.refreshes] == [(RefreshResult.EQUAL, 110)]


def test_an_update_under_way_to_the_candidate_needs_no_synchronizer(market_at: MarketIn) -> None:
    """While a refresh is under way only the update that reaches the snapshot is seen by the synchronizer."""
    market = market_at().refresh().begin().snapshot(150)
    seen = []
    whole = market.synchronizer.after_apply
    market.synchronizer.after_apply = lambda *arguments: (seen.append(market.book.last_update_id), whole(*arguments))
    for last in range(110, 190, 10):
        market.update(last - 10, last)
    assert seen == [150]
    assert market.refreshes[-1].last_update_id == 150


def test_what_is_retained_is_bounded(market_at: MarketIn) -> None:
    market = market_at().refresh().begin()
    for last in range(101, 101 + RETAINED_UPDATES_MAX + 10):
        market.update(last - 1, last)
    assert market.dropped() == {}  # they were applied: nothing is lost but an old snapshot
    market.snapshot(105)
    assert market.snapshots_dropped() == {"TOO_OLD": 1}
    market.begin().snapshot(111)
    assert market.refreshes[-1].result is RefreshResult.EQUAL


@pytest.mark.parametrize("loss", ["gap", "close", "resync", "stop"])
@pytest.mark.parametrize("moment", ["requested", "downloading", "waiting"])
def test_a_market_that_loses_its_book_aborts_the_refresh(market_at: MarketIn, loss: str, moment: str) -> None:
    market = market_at().refresh()
    if moment != "requested":
        market.begin().update(100, 110)
    if moment == "waiting":
        market.snapshot(150)
    {"gap": lambda: market.update(120, 130), "close": market.close, "resync": market.resync, "stop": market.stop}[
        loss
    ]()
    assert market.synchronizer.refresher.aborted == 1
    assert not market.synchronizer.refresher.is_under_way
    assert market.synchronizer.requests.cancelled == (moment != "waiting")
    assert market.snapshots_dropped() == ({"ABANDONED": 1} if moment == "waiting" else {})
    if loss == "gap":
        market.snapshot(125, bids=WRONG_BIDS)
        assert market.bids()[98.0] == 3.5  # nothing of the old refresh is left to compare it with
        assert market.refreshes == []


def test_a_snapshot_of_another_market_is_refetched(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids={"10.00": "1"}, asks={"11.00": "1"})
    assert market.snapshots_dropped() == {"WRONG_PRICES": 1}
    assert market.bids()[100.0] == 1.0


def test_a_snapshot_that_cannot_be_read_is_refetched(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().answer(b"<html>")
    assert market.snapshots_dropped() == {"MALFORMED": 1}
    assert not market.synchronizer.wants_every_update
    assert market.request is not None
    assert market.request.due == market.now + 0.5


def test_a_snapshot_that_crosses_with_the_updates_after_it_is_refetched(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().update(100, 110, bids={"100.50": "1"})
    market.snapshot(105, asks={"100.20": "1", **ASKS})
    assert market.snapshots_dropped() == {"CROSSED": 1}
    assert market.book.is_readable


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_snapshot_whose_decimals_refuse_an_update_is_refetched(market_at: MarketIn, is_ahead: bool) -> None:
    # 18 decimals are no trouble for the live book, but beside the snapshot's 50 they are.
    market = market_at().refresh().begin()
    if is_ahead:
        market.snapshot(105, bids={"98.00": "50"}).update(100, 110, bids={"99.00": "0.000000000000000001"})
    else:
        market.update(100, 110, bids={"99.00": "0.000000000000000001"}).snapshot(105, bids={"98.00": "50"})
    assert market.snapshots_dropped() == {"MALFORMED": 1}
    assert market.request is not None


# ---------------------------------------------------------------------------------------------------------- differences


def test_a_difference_is_not_adopted_but_confirmed_by_a_second_snapshot(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS)
    assert market.bids()[98.0] == 3.0
    assert market.refreshes == []
    assert market.snapshots_dropped() == {"DIFFERENT": 1}
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.CONFIRM, market.now + AUDIT_CONFIRM_S)
    assert market.book.is_readable


def test_updates_take_the_fast_path_until_the_second_snapshot_is_downloaded(market_at: MarketIn) -> None:
    """It is late on purpose: half a minute in which nothing needs to be kept."""
    market = market_at().refresh().begin().update(100, 110).snapshot(105, bids=WRONG_BIDS)
    assert not market.synchronizer.wants_every_update
    market.update(110, 120).begin().update(120, 130).snapshot(125)
    assert market.refreshes[-1].result is RefreshResult.SNAPSHOT_INCOHERENT
    assert market.book.last_update_id == 130


def test_a_confirmation_that_fails_is_requested_as_one_again(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS).fail()
    assert market.request is not None
    assert market.request.purpose is Purpose.CONFIRM


def test_the_same_difference_again_is_a_cure(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS)
    market.update(100, 110, bids={"99.00": "9"}).begin().snapshot(110, bids={**WRONG_BIDS, "99.00": "9"})
    assert market.bids()[98.0] == 3.5
    assert [(done.result, done.comparison.wrong_quantities) for done in market.refreshes] == [
        (RefreshResult.AUDIT_CURED, 1)
    ]
    assert market.synchronizer.refresher.ended[RefreshResult.AUDIT_CURED] == 1
    assert market.synchronizer.requests.used == 2
    assert market.snapshots_dropped() == {"DIFFERENT": 1}
    assert market.synchronizer.refresher.audits == 2


def test_what_is_left_of_a_difference_is_a_cure(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids={**WRONG_BIDS, "97.00": "4.5"})
    market.update(100, 110, bids={"97.00": "8"}).begin().snapshot(110, bids={**WRONG_BIDS, "97.00": "8"})
    assert market.refreshes[-1].result is RefreshResult.AUDIT_CURED
    assert market.bids()[98.0] == 3.5


def test_a_difference_of_an_aborted_refresh_proves_nothing(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS).close().open().update(100, 110)
    market.refresh().begin().snapshot(110, bids=WRONG_BIDS)
    assert market.refreshes == []
    assert market.bids()[98.0] == 3.0


def test_a_difference_that_is_gone_was_the_snapshots(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6)).begin().snapshot(100, bids={**DEEP_BIDS, "98.00": "3.5"}, asks=DEEP_ASKS)
    market.begin().snapshot(100, bids=DEEP_BIDS, asks=DEEP_ASKS)
    assert market.refreshes[-1].result is RefreshResult.SNAPSHOT_INCOHERENT
    assert market.bids() == {float(price): float(quantity) for price, quantity in DEEP_BIDS.items()}
    assert market.book.bid_horizon == 95.0


def test_a_difference_elsewhere_is_confirmed_in_its_turn(market_at: MarketIn) -> None:
    """Either snapshot may have been wrong, or both. The third one agrees with the book."""
    market = market_at(BUFFERING, limits=(20, 22)).update(90, 100).snapshot(95, bids=LONG_BIDS, asks=LONG_ASKS)
    deep = {**LONG_BIDS, "80.00": "7", "79.00": "8"}
    deep_asks = {**LONG_ASKS, "121.00": "7", "122.00": "8"}
    market.begin().snapshot(100, bids={**deep, "98.00": "3.5"}, asks=deep_asks)
    market.begin().update(100, 110, asks={"103.00": "2"}).snapshot(105, bids={**deep, "97.00": "3.5"}, asks=deep_asks)
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.CONFIRM, market.now + AUDIT_CONFIRM_S)
    assert (market.bids()[98.0], market.bids()[97.0], market.book.bid_horizon) == (1.0, 1.0, 81.0)  # as the stream said
    market.begin().snapshot(110, bids=deep, asks={**deep_asks, "103.00": "2"})
    assert [done.result for done in market.refreshes] == [RefreshResult.SNAPSHOT_INCOHERENT]
    assert (market.book.bid_horizon, market.book.ask_horizon) == (79.0, 122.0)
    assert market.snapshots_dropped() == {"DIFFERENT": 2}
    assert len(market.requests) == 4  # there is no deeper limit
    assert market.state is SYNCHRONIZED


def test_a_difference_elsewhere_that_is_confirmed_is_a_cure(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS)
    for _ in range(2):
        market.begin().snapshot(100, bids={**BIDS, "99.00": "9.5"})
    assert [done.result for done in market.refreshes] == [RefreshResult.AUDIT_CURED]
    assert (market.bids()[98.0], market.bids()[99.0]) == (3.0, 9.5)


def test_a_difference_that_is_confirmed_with_another_one_beside_it_is_a_resync(market_at: MarketIn) -> None:
    """The book is wrong, and what else the second snapshot says is not confirmed."""
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS)
    market.begin().snapshot(100, bids={**WRONG_BIDS, "97.00": "4.5"})
    assert market.changes[-1] == (BUFFERING, Cause.DIFFERENT)
    assert [done.result for done in market.refreshes] == [RefreshResult.RESYNCED]
    assert market.snapshots_dropped() == {"DIFFERENT": 2}
    assert market.synchronizer.refresher.aborted == 0
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.SYNCHRONIZE, market.now)
    assert market.snapshot(100, bids=WRONG_BIDS).state is SYNCHRONIZED
    assert (market.bids()[98.0], market.bids()[97.0]) == (3.5, 4.0)
    market.refresh().begin().snapshot(100, bids=BIDS)
    assert market.state is SYNCHRONIZED  # it begins again: one contradiction proves nothing


@pytest.mark.parametrize("is_same_price", [False, True])
def test_snapshots_that_contradict_the_book_each_in_another_way_are_a_resync_in_the_end(
    market_at: MarketIn, is_same_price: bool
) -> None:
    market = market_at().refresh()
    for number in range(1 + CONFIRMS_MAX):
        assert market.state is SYNCHRONIZED
        price = "98.00" if is_same_price else f"{97 + number}.00"
        market.begin().snapshot(100, bids={**BIDS, price: f"{7 + number}"})
    assert market.changes[-1] == (BUFFERING, Cause.DIFFERENT)
    assert [done.result for done in market.refreshes] == [RefreshResult.RESYNCED]
    assert market.synchronizer.refresher.ended[RefreshResult.RESYNCED] == 1
    assert market.snapshots_dropped() == {"DIFFERENT": 3}


def test_a_contradiction_that_an_update_shows_is_a_resync_as_well(market_at: MarketIn) -> None:
    """The snapshot was ahead of the stream. What has just been applied is not lost."""
    market = market_at().refresh().begin().snapshot(100, bids=WRONG_BIDS)
    market.begin().snapshot(110, bids={**WRONG_BIDS, "97.00": "4.5"})
    assert market.state is SYNCHRONIZED
    market.update(100, 110)
    assert market.changes[-1] == (BUFFERING, Cause.DIFFERENT)
    assert market.synchronizer.buffered_count == 0
    assert market.snapshot(110).update(110, 120).book.last_update_id == 120


def test_updates_behind_a_gap_survive_a_contradiction(market_at: MarketIn) -> None:
    market = market_at().open(1).acknowledge(1).refresh().begin().snapshot(100, bids=WRONG_BIDS).begin()
    market.update(110, 120)
    market.snapshot(100, bids={**WRONG_BIDS, "97.00": "4.5"})
    assert market.changes[-1] == (BUFFERING, Cause.DIFFERENT)
    assert market.synchronizer.buffered_count == 1
    assert market.snapshot(115).book.last_update_id == 120


@pytest.mark.parametrize(("count", "is_taken"), [(2, True), (3, False)])
def test_an_unreadable_book_takes_nothing_from_a_snapshot_that_differs_at_more_than_a_tenth_of_its_levels(
    market_at: MarketIn, count: int, is_taken: bool
) -> None:
    market = long_market(market_at)
    market.update(100, 110, bids={**dict.fromkeys(LONG_BIDS, "0"), "80.00": "1"})
    bids = {f"{price}.00": "1.000" for price in range(80, 60, -1)}
    market.begin().snapshot(110, bids=bids, asks={**LONG_ASKS, **dict.fromkeys(list(LONG_ASKS)[:count], "9")})
    assert market.book.is_readable is is_taken


def test_differences_past_a_horizon_do_not_count(market_at: MarketIn) -> None:
    market = market_at(limits=(4,)).update(100, 110, bids={"90.00": "9"})
    market.refresh().begin().snapshot(110, bids={**BIDS, "96.00": "1"}, asks=ASKS)
    assert market.refreshes[-1].result is RefreshResult.EQUAL


def test_a_book_that_cannot_be_read_and_is_very_different_is_confirmed_at_once(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6))
    market.update(100, 110, bids={**dict.fromkeys(BIDS, "0"), "90.00": "1"})
    assert not market.book.is_readable
    assert market.request is not None
    assert market.request.purpose is Purpose.HORIZON
    wrong_asks = {**ASKS, "102.00": "9", "105.00": "1", "106.00": "1"}
    market.begin().snapshot(110, bids={"90.00": "1"}, asks=wrong_asks)
    assert market.request is not None
    assert market.request.due == market.now
    market.begin().snapshot(110, bids={"90.00": "1"}, asks=wrong_asks)
    assert market.book.best_bid == (90.0, 1.0)
    assert market.refreshes[-1].result is RefreshResult.AUDIT_CURED


def test_a_book_that_cannot_be_read_takes_what_lies_past_its_horizon_from_the_first_snapshot(
    market_at: MarketIn,
) -> None:
    market = long_market(market_at)
    gone = dict.fromkeys(LONG_BIDS, "0")
    market.update(100, 110, bids={**gone, "80.00": "1"})
    assert not market.book.is_readable
    bids = {f"{price}.00": "2.000" for price in range(80, 60, -1)}
    market.begin().snapshot(110, bids=bids, asks={**LONG_ASKS, "105.00": "9"})
    assert market.book.is_readable
    assert market.book.best_bid == (80.0, 2.0)
    assert dict(market.book.asks())[105.0] == 1.0
    assert market.book.bid_horizon == 61.0
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.CONFIRM, market.now + AUDIT_CONFIRM_S)
    market.begin().snapshot(110, bids=bids, asks=LONG_ASKS)
    assert market.refreshes[-1].result is RefreshResult.SNAPSHOT_INCOHERENT
    assert dict(market.book.asks())[105.0] == 1.0


def test_of_a_snapshot_that_would_cross_the_book_nothing_is_taken(market_at: MarketIn) -> None:
    market = long_market(market_at)
    market.update(100, 110, bids=dict.fromkeys(LONG_BIDS, "0"), asks={"80.50": "1"})
    assert not market.book.is_readable
    market.begin().snapshot(110, bids={"80.75": "1"}, asks=LONG_ASKS)  # without the ask at 80.50
    assert not market.book.is_readable
    assert market.book.bid_horizon == 81.0
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.CONFIRM, market.now)
    market.begin().snapshot(110, bids={"80.25": "1"}, asks={"80.50": "1", **LONG_ASKS})
    assert (market.book.best_bid, market.book.best_ask) == ((80.25, 1.0), (80.5, 1.0))
    assert market.refreshes[-1].result is RefreshResult.SNAPSHOT_INCOHERENT


def test_a_confirmation_becomes_urgent_when_the_book_can_no_longer_be_read(market_at: MarketIn) -> None:
    market = market_at(limits=(4,)).refresh().begin().snapshot(100, bids=WRONG_BIDS)
    request = market.request
    assert request is not None
    assert request.due == market.now + AUDIT_CONFIRM_S
    market.update(100, 110, bids=dict.fromkeys(["98.00", "99.00", "100.00"], "0"))
    assert market.book.needs_attention
    assert market.request == request  # short, but readable: the second snapshot stays late
    market.update(110, 120, bids={"97.00": "0", "90.00": "1"})
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.HORIZON, market.now)


# ------------------------------------------------------------------------------------------ when a refresh is requested


def test_the_snapshot_limits_are_requested_step_by_step(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6, 8))
    market.begin().snapshot(100, bids=DEEP_BIDS, asks=DEEP_ASKS)
    market.begin().snapshot(100, limit=8, bids={**DEEP_BIDS, "94.00": "1", "93.00": "1"}, asks=DEEP_ASKS)
    assert [(request.limit, request.purpose) for request in market.requests] == [
        (4, Purpose.SYNCHRONIZE),
        (6, Purpose.DEEPEN),
        (8, Purpose.DEEPEN),
    ]
    assert [request.due - market.now for request in market.requests] == [0.0, 0.0, REFRESH_PAUSE_S]
    assert market.book.bid_horizon == 93.0
    assert market.book.ask_horizon is None
    assert market.request is None


def test_an_update_that_leaves_less_than_half_of_a_side_within_the_horizon_asks_for_a_refresh(
    market_at: MarketIn,
) -> None:
    market = market_at(limits=(4,)).update(100, 110, bids={"100.00": "0", "99.00": "0"})
    assert market.request is None
    market.update(110, 120, bids={"98.00": "0"})
    assert market.request is not None
    assert (market.request.purpose, market.request.limit) == (Purpose.HORIZON, 4)
    assert market.state is SYNCHRONIZED
    market.update(120, 130)
    assert len(market.requests) == 2  # one is enough
    market.begin().snapshot(130, bids={"97.00": "4", "96.00": "1", "95.00": "1", "94.00": "1"})
    assert market.book.bid_horizon == 94.0
    assert not market.book.needs_attention


def test_a_market_that_left_its_horizon_comes_back_by_a_refresh(market_at: MarketIn) -> None:
    market = market_at(limits=(4,)).update(100, 110, bids={**dict.fromkeys(BIDS, "0"), "90.00": "1"})
    assert market.state is SYNCHRONIZED
    assert not market.book.is_readable
    market.begin().snapshot(110, bids={"90.00": "1", "89.00": "1", "88.00": "1", "87.00": "1"})
    assert market.bids() == {90.0: 1.0, 89.0: 1.0, 88.0: 1.0, 87.0: 1.0}
    assert market.refreshes[-1].result is RefreshResult.EQUAL


def test_a_far_level_past_a_horizon_that_was_left_does_not_make_every_snapshot_look_wrong(market_at: MarketIn) -> None:
    """Then the best ask is unknown. The bids are still those of the market, wherever that one ask is."""
    market = market_at(limits=(4,)).update(100, 110, asks={**dict.fromkeys(ASKS, "0"), "10000.00": "1"})
    assert not market.book.is_readable
    market.begin().snapshot(110, asks={"120.00": "1", "121.00": "1", "122.00": "1", "123.00": "1"})
    assert market.snapshots_dropped() == {}
    assert market.book.best_ask == (120.0, 1.0)


def test_nor_does_it_when_the_market_is_lost_meanwhile(market_at: MarketIn) -> None:
    market = market_at(limits=(4,)).update(100, 110, asks={**dict.fromkeys(ASKS, "0"), "10000.00": "1"}).resync()
    market.snapshot(110, asks={"120.00": "1", "121.00": "1", "122.00": "1", "123.00": "1"})
    assert market.snapshots_dropped() == {}
    assert market.state is SYNCHRONIZED


def test_a_snapshot_of_another_market_is_found_different_by_a_book_that_left_both_horizons(
    market_at: MarketIn,
) -> None:
    market = market_at(limits=(4,)).update(100, 110, bids=dict.fromkeys(BIDS, "0"), asks=dict.fromkeys(ASKS, "0"))
    for times in (0.1, 10, 0.1):
        bids, asks = ({f"{float(price) * times:.2f}": "1" for price in side} for side in (BIDS, ASKS))
        market.begin().snapshot(110, bids=bids, asks=asks)
    assert not market.book.is_readable
    assert market.refreshes[-1].result is RefreshResult.RESYNCED


def test_a_short_horizon_makes_a_waiting_request_urgent(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6, 8))
    assert market.purposes == [Purpose.SYNCHRONIZE, Purpose.DEEPEN]
    market.update(100, 110, bids=dict.fromkeys(["98.00", "99.00", "100.00"], "0"))
    assert market.request is not None
    assert (market.request.purpose, market.request.limit) == (Purpose.HORIZON, 6)
    assert market.synchronizer.requests.cancelled == 1
    market.update(110, 120).update(120, 130)
    assert market.synchronizer.requests.cancelled == 1
    market.fail()
    assert market.request is not None
    assert market.request.purpose is Purpose.HORIZON


def test_a_download_under_way_is_not_replaced_by_a_more_urgent_one(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6)).begin()
    request = market.request
    market.update(100, 110, bids=dict.fromkeys(["98.00", "99.00", "100.00"], "0"))
    assert market.request == request
    market.snapshot(105, bids=DEEP_BIDS, asks=DEEP_ASKS)
    assert market.book.bid_horizon == 95.0


def test_a_backoff_is_not_cut_short_by_urgency(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6)).begin().fail(retry_at=1_060.0)
    market.update(100, 110, bids=dict.fromkeys(["98.00", "99.00", "100.00"], "0"))
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.HORIZON, 1_060.0)


def test_a_less_urgent_purpose_joins_the_refresh_under_way(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6), refresh_interval_s=60.0)
    request = market.request
    assert request is not None
    assert request.purpose is Purpose.DEEPEN
    market.wait(300.0)
    assert market.request == request
    market.refresh()
    assert market.request is not None
    assert (market.request.purpose, market.request.limit) == (Purpose.REQUESTED, 6)


def test_the_interval_restarts_with_each_refresh(market_at: MarketIn) -> None:
    market = market_at(refresh_interval_s=60.0)
    assert market.synchronizer.refresher.refreshed_at == 1_000.0
    market.wait(60.0)
    assert market.purposes[1:] == [Purpose.INTERVAL]
    market.begin().wait(5.0).snapshot(100)
    assert market.synchronizer.refresher.refreshed_at == 1_065.0
    market.wait(59.0)
    assert market.request is None
    market.wait(1.0)
    assert market.purposes[1:] == [Purpose.INTERVAL, Purpose.INTERVAL]


def test_a_market_that_resumes_often_is_refreshed_all_the_same(market_at: MarketIn) -> None:
    market = market_at(refresh_interval_s=60.0)
    for last in range(110, 170, 10):
        market.wait(11.0).close().open().update(last - 10, last)
    assert market.purposes[1:] == [Purpose.INTERVAL]


def test_an_aborted_interval_refresh_is_made_up_for(market_at: MarketIn) -> None:
    market = market_at(refresh_interval_s=60.0).wait(60.0).close().open().update(100, 110).wait(0.0)
    assert market.purposes[1:] == [Purpose.INTERVAL, Purpose.INTERVAL]


def test_a_market_that_resumes_goes_on_deepening(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6)).close().open().update(100, 110)
    assert market.purposes == [Purpose.SYNCHRONIZE, Purpose.DEEPEN, Purpose.DEEPEN]
    market.begin().snapshot(110, bids=DEEP_BIDS, asks=DEEP_ASKS)
    assert market.book.bid_horizon == 95.0


def test_after_a_resync_the_first_limit_is_requested_first(market_at: MarketIn) -> None:
    market = market_at(limits=(4, 6)).begin().snapshot(100, bids=DEEP_BIDS, asks=DEEP_ASKS).resync()
    assert market.request is not None
    assert market.request.limit == 4
    market.snapshot(100)
    assert market.request is not None
    assert (market.request.limit, market.request.purpose) == (6, Purpose.DEEPEN)


def test_refreshes_follow_each_other_with_a_pause(market_at: MarketIn) -> None:
    market = market_at().refresh().begin().snapshot(100).refresh()
    assert market.request is not None
    assert market.request.due == market.now + REFRESH_PAUSE_S


def test_failed_refreshes_back_off_and_forget_it_after_success(market_at: MarketIn) -> None:
    market = market_at().refresh().fail().fail().fail()
    assert [request.due - market.now for request in market.requests[1:]] == [0.0, 0.5, 1.0, 2.0]
    market.begin().snapshot(100).wait(10.0).refresh().fail()
    assert market.request is not None
    assert market.request.due == market.now + 0.5


def test_refusals_count_in_a_row_only(market_at: MarketIn) -> None:
    market = market_at().refresh()
    for _ in range(3):
        market.fail(permanent=Cause.UNKNOWN_MARKET).fail()
    market.fail(permanent=Cause.UNKNOWN_MARKET).answer(b"<html>").fail(permanent=Cause.UNKNOWN_MARKET)
    assert market.state is SYNCHRONIZED
    assert market.fail(permanent=Cause.UNKNOWN_MARKET).state is FAILED


def test_a_refusal_before_the_market_was_lost_does_not_count_with_one_after_it_is_back(market_at: MarketIn) -> None:
    market = market_at().refresh().fail(permanent=Cause.UNKNOWN_MARKET).close().open().update(100, 110)
    assert market.refresh().fail(permanent=Cause.UNKNOWN_MARKET).state is SYNCHRONIZED


# ----------------------------------------------------------------------------------------- the two functions over books


def loaded(name: str, limit: int | None, bids: dict[str, str], asks: dict[str, str]) -> object:
    book = BOOKS[name].OrderBook("spot")
    book.load_snapshot(snapshot(100, bids=bids, asks=asks), limit)
    return book


@pytest.mark.parametrize("name", BOOKS)
def test_differences_are_prices_with_both_quantities_inside_both_horizons(name: str) -> None:
    live = loaded(name, 4, BIDS, ASKS)
    theirs = {"100.00": "1", "98.00": "3.5", "97.50": "7", "97.00": "4", "96.00": "9"}
    found, compared_count = differences(live, loaded(name, 5, theirs, {**ASKS, "105.00": "9"}))
    assert found == {
        Difference(True, Decimal(99), Decimal(2), None),
        Difference(True, Decimal(98), Decimal(3), Decimal("3.5")),
        Difference(True, Decimal("97.5"), None, Decimal(7)),
    }
    assert compared_count == 5 + 4


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize(
    ("live_limit", "limit", "live_asks", "asks", "horizons"),
    [
        (4, 6, ASKS, DEEP_ASKS, (95.0, 106.0)),
        (4, 7, ASKS, DEEP_ASKS, (None, None)),
        (5, 7, ASKS, DEEP_ASKS, (None, None)),
        (5, 7, dict(list(ASKS.items())[:3]), DEEP_ASKS, (None, None)),
        # Only the asks are complete: they are fewer than the bids, so a limit can say so.
        (4, 6, dict(list(ASKS.items())[:3]), DEEP_ASKS, (95.0, None)),
    ],
)
def test_an_extended_book_has_the_live_levels_inside_and_the_others_outside(
    name: str,
    live_limit: int,
    limit: int,
    live_asks: dict[str, str],
    asks: dict[str, str],
    horizons: tuple[float | None, float | None],
) -> None:
    live = loaded(name, live_limit, BIDS, live_asks)
    book = extended(live, loaded(name, limit, {**DEEP_BIDS, "99.00": "77"}, asks), BOOKS_MAKE[name])
    assert book is not None
    assert book.last_update_id == 100
    assert (book.bid_horizon, book.ask_horizon) == horizons
    levels = dict(book.bids())
    assert levels[99.0] == 2.0
    assert (95.0 in levels) == (live.bid_horizon is not None)  # nothing lies past a side that is complete


BOOKS_MAKE = {name: lambda module=module: module.OrderBook("spot") for name, module in BOOKS.items()}


@pytest.mark.parametrize("name", BOOKS)
def test_a_side_is_not_called_complete_where_no_limit_could_say_that(name: str) -> None:
    three_asks = dict(list(ASKS.items())[:3])
    live, candidate = loaded(name, 4, BIDS, three_asks), loaded(name, 6, DEEP_BIDS, three_asks)
    more_asks = ",".join(f'["{price}.00","1"]' for price in range(200, 210))
    for book in (live, candidate):
        book.apply(f'{{"U":101,"u":101,"b":[],"a":[{more_asks}]}}')
    assert live.ask_horizon is None
    book = extended(live, candidate, BOOKS_MAKE[name])
    assert book is not None
    assert (book.bid_horizon, book.ask_horizon) == (95.0, 209.0)  # less than is known, and never wrong


@pytest.mark.parametrize("name", BOOKS)
def test_a_side_that_is_complete_by_one_level_is_called_so(name: str) -> None:
    three_asks, four_bids = dict(list(ASKS.items())[:3]), BIDS
    live, candidate = loaded(name, 4, four_bids, three_asks), loaded(name, 4, four_bids, three_asks)
    book = extended(live, candidate, BOOKS_MAKE[name])
    assert book is not None
    assert (book.bid_horizon, book.ask_horizon) == (97.0, None)


@pytest.mark.parametrize("name", BOOKS)
def test_levels_past_the_other_books_horizon_are_not_taken(name: str) -> None:
    live, candidate = loaded(name, 4, BIDS, ASKS), loaded(name, 6, DEEP_BIDS, DEEP_ASKS)
    for book in (live, candidate):
        book.apply('{"U":101,"u":101,"b":[["90.00","9"]],"a":[]}')
    book = extended(live, candidate, BOOKS_MAKE[name])
    assert book is not None
    assert book.bid_horizon == 95.0
    assert book.bid_count == 6


@pytest.mark.parametrize("name", BOOKS)
def test_there_is_no_extended_book_where_a_side_would_be_empty_without_being_known_to_be(name: str) -> None:
    live, candidate = loaded(name, 4, BIDS, ASKS), loaded(name, 4, BIDS, ASKS)
    deletes = ",".join(f'["{price}","0"]' for price in BIDS)
    for book in (live, candidate):
        book.apply(f'{{"U":101,"u":101,"b":[{deletes}],"a":[]}}')
    assert extended(live, candidate, BOOKS_MAKE[name]) is None


@pytest.mark.parametrize("name", BOOKS)
def test_there_is_no_extended_book_that_would_be_crossed(name: str) -> None:
    live = loaded(name, 4, BIDS, ASKS)
    deletes = ",".join(f'["{price}","0"]' for price in BIDS)
    live.apply(f'{{"U":101,"u":101,"b":[{deletes}],"a":[["96.00","1"]]}}')
    candidate = loaded(name, 4, {"96.50": "1"}, {"107.00": "1"})
    candidate.apply('{"U":101,"u":101,"b":[],"a":[]}')
    assert extended(live, candidate, BOOKS_MAKE[name]) is None


def test_the_backoff_of_refreshes_restarts_when_the_market_was_synchronized_again(market_at: MarketIn) -> None:
    market = market_at().refresh().fail().fail().fail().resync().snapshot(100).refresh().fail()
    assert market.request is not None
    assert market.request.due == market.now + 0.5


def test_a_market_that_was_synchronized_again_is_deepened_without_the_wait_of_the_previous_refresh(
    market_at: MarketIn,
) -> None:
    """The exchange has just answered, whatever kept it from answering the refresh that was given up."""
    market = market_at(limits=(4, 6)).fail(retry_at=1_160.0).wait(STABLE_S).resync().snapshot(100)
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.DEEPEN, market.now)


def test_a_market_that_was_lost_soon_is_deepened_later(market_at: MarketIn) -> None:
    """Each loss makes the deeper levels void, and the next loss needs their weight. What is urgent does not wait."""
    market = market_at(limits=(4, 6)).wait(STABLE_S - 1.0).resync().snapshot(100)
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.DEEPEN, market.now + DEEPEN_PAUSE_S)
    market.update(100, 110, bids=dict.fromkeys(["98.00", "99.00", "100.00"], "0"))
    assert (market.request.purpose, market.request.due) == (Purpose.HORIZON, market.now)


@pytest.mark.parametrize(("lasted_s", "pause_s"), [(STABLE_S - 1.0, DEEPEN_PAUSE_S), (STABLE_S, 0.0)])
def test_a_market_that_resumes_is_deepened_later_too_if_it_was_lost_soon(
    market_at: MarketIn, lasted_s: float, pause_s: float
) -> None:
    market = market_at(limits=(4, 6)).wait(lasted_s).close().open().update(100, 110)
    assert market.request is not None
    assert (market.request.purpose, market.request.due) == (Purpose.DEEPEN, market.now + pause_s)


@pytest.mark.parametrize(
    ("sides", "is_deepened"),
    [
        ({}, True),
        ({"bids": {"100.00": "1.000"}}, True),  # the bids are complete, the asks are not
        ({"asks": {"101.00": "1.000"}}, True),
        ({"bids": {"100.00": "1.000"}, "asks": {"101.00": "1.000"}}, False),
    ],
)
def test_a_market_is_deepened_unless_both_its_sides_are_complete(market_at: MarketIn, sides, is_deepened) -> None:
    market = market_at(BUFFERING, limits=(4, 6)).update(90, 100).snapshot(100, 4, **sides)
    assert (market.request is not None) is is_deepened
