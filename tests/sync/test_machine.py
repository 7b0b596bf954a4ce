"""Every cell of the synchronizer's table has a test, every outcome of it occurs, and the document shows the table.

The cells that ignore, refuse or drop late answers are tested alike, as the table lists them. The others have a case
each, registered with the cell and the state it leads to; a case fails if it does not pass through that very cell.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sync_kit import BIDS, Market, market_in, snapshot, update

from ldc.errors import DepthCacheOutOfSync
from ldc.sync.actions import ACTIONS_MAX, Purpose, RequestSnapshot, SnapshotDrop, StateChanged, UpdateDrop
from ldc.sync.machine import SNAPSHOT_WAIT_S, TABLE, Cell, Input, Synchronizer, state_diagram
from ldc.types import Cause, SyncState, Verdict

IDLE, BUFFERING, SYNCHRONIZED, STOPPED, FAILED = SyncState
Step = tuple[Input, SyncState, SyncState]
Run = Callable[[], Market]

CASES: dict[Step, list[Run]] = {}
ALIKE = ("ignore", "refuse", "drop_late_answer")
CELLS = [(event, state, cell) for event, row in TABLE.items() for state, cell in row.items()]


def case(event: Input, state: SyncState, next_state: SyncState) -> Callable[[Run], Run]:
    def register(function: Run) -> Run:
        CASES.setdefault((event, state, next_state), []).append(function)
        return function

    return register


def in_words(value: object) -> str | None:
    return value.value if isinstance(value, Input | SyncState) else None


def inputs(market: Market) -> dict[Input, Callable[[], None]]:
    """Return each input with meaningless arguments: an unawaited epoch, a stream that is not open."""
    synchronizer, now = market.synchronizer, market.now
    payload = update(100, 110, rule=market.rule)
    return {
        Input.STREAM_OPENED: lambda: synchronizer.stream_opened(7, now),
        Input.STREAM_ACKNOWLEDGED: lambda: synchronizer.stream_acknowledged(7, now),
        Input.STREAM_CLOSED: lambda: synchronizer.stream_closed(7, now),
        Input.RECEIVE_UPDATE: lambda: synchronizer.receive_update(7, payload, None, now),
        Input.AFTER_APPLY: lambda: synchronizer.after_apply(7, Verdict.STALE, payload, None, now),
        Input.UPDATE_MALFORMED: lambda: synchronizer.update_malformed(now),
        Input.SNAPSHOT_BEGINS: lambda: synchronizer.snapshot_begins(99, now),
        Input.SNAPSHOT_RECEIVED: lambda: synchronizer.snapshot_received(99, snapshot(100), 100, now),
        Input.SNAPSHOT_FAILED: lambda: synchronizer.snapshot_failed(99, now, permanent=Cause.UNKNOWN_MARKET),
        Input.TICK: lambda: synchronizer.tick(now),
        Input.REQUEST_RESYNC: lambda: synchronizer.request_resync(now),
        Input.REQUEST_REFRESH: lambda: synchronizer.request_refresh(now),
        Input.STOP: lambda: synchronizer.stop(now),
    }


def seen(market: Market) -> dict[str, object]:
    """What a caller can see of a market."""
    synchronizer, book = market.synchronizer, market.book
    return {
        "state": (synchronizer.state, synchronizer.state_since, synchronizer.cause, synchronizer.wants_every_update),
        "due": synchronizer.next_due(),
        "buffered": synchronizer.buffered_count,
        "awaited": (synchronizer.epoch, synchronizer.requests.awaited),
        "updates": dict(synchronizer.updates_dropped),
        "snapshots": dict(synchronizer.requests.dropped),
        "book": (book.last_update_id, book.suspended_by, book.counters),
    }


# ----------------------------------------------------------------------------------------------------- the table itself


def test_the_table_has_a_cell_for_every_input_in_every_state() -> None:
    assert list(TABLE) == list(Input)
    assert {event: list(row) for event, row in TABLE.items()} == {event: list(SyncState) for event in Input}


def test_every_input_is_a_method_and_no_cell_names_a_state_twice() -> None:
    for event, _, cell in CELLS:
        assert callable(getattr(Synchronizer, event.value))
        assert len(set(cell.next_states)) == len(cell.next_states) > 0


def test_every_cell_and_every_outcome_of_it_has_a_case() -> None:
    wanted = {
        (event, state, next_state)
        for event, state, cell in CELLS
        if cell.name not in ALIKE
        for next_state in cell.next_states
    }
    assert set(CASES) == wanted


@pytest.mark.parametrize(("event", "state", "cell"), [c for c in CELLS if c[2].name == "ignore"], ids=in_words)
def test_an_ignored_input_changes_nothing(event: Input, state: SyncState, cell: Cell) -> None:
    market = market_in(state)
    before = seen(market)
    inputs(market)[event]()
    assert seen(market) == before
    assert market.synchronizer.drain() == []
    assert cell.next_states == (state,)


@pytest.mark.parametrize(("event", "state", "cell"), [c for c in CELLS if c[2].name == "refuse"], ids=in_words)
def test_a_refused_input_raises_and_changes_nothing(event: Input, state: SyncState, cell: Cell) -> None:
    market = market_in(state)
    before = seen(market)
    with pytest.raises(RuntimeError, match=rf"'BTCUSDT' in the state {state}.*receive_update"):
        inputs(market)[event]()
    assert seen(market) == before


@pytest.mark.parametrize(
    ("event", "state", "cell"), [c for c in CELLS if c[2].name == "drop_late_answer"], ids=in_words
)
def test_an_unawaited_answer_is_counted_and_changes_nothing(event: Input, state: SyncState, cell: Cell) -> None:
    market = market_in(state)
    before = seen(market)
    inputs(market)[event]()
    after = seen(market)
    assert market.synchronizer.requests.dropped[SnapshotDrop.LATE] == 1
    assert {name for name in after if after[name] != before[name]} == {"snapshots"}
    assert market.synchronizer.drain() == []


def test_stopped_is_never_left_and_failed_only_to_stopped() -> None:
    ways = {(state, next_state) for _, state, cell in CELLS for next_state in cell.next_states if next_state != state}
    assert not [way for way in ways if way[0] is STOPPED]
    assert [way for way in ways if way[0] is FAILED] == [(FAILED, STOPPED)]


# ------------------------------------------------------------------------------------------------ the cells, one by one


@case(Input.STREAM_OPENED, IDLE, BUFFERING)
def a_first_stream_opens() -> Market:
    market = market_in(IDLE).open()
    assert market.changes == [(BUFFERING, Cause.NOT_LOADED)]
    assert market.synchronizer.next_due() is None  # the acknowledgement starts the clock
    return market


@case(Input.STREAM_OPENED, BUFFERING, BUFFERING)
def a_second_stream_opens_before_there_is_a_book() -> Market:
    market = market_in(BUFFERING).open(1)
    assert market.changes == [(BUFFERING, Cause.NOT_LOADED)]
    return market


@case(Input.STREAM_OPENED, BUFFERING, BUFFERING)
def a_stream_that_is_open_opens_again_and_what_it_brought_before_is_forgotten() -> Market:
    market = market_in(BUFFERING).update(90, 100).open()
    assert market.dropped() == {"STREAM_CLOSED": 1}
    assert market.request is None
    return market


@case(Input.STREAM_OPENED, SYNCHRONIZED, SYNCHRONIZED)
def a_successor_opens_beside_the_live_stream() -> Market:
    market = market_in(SYNCHRONIZED)
    assert not market.synchronizer.wants_every_update
    market.open(1)
    assert market.synchronizer.wants_every_update  # until it has spoken, so that this is noticed
    assert market.book.is_readable
    market.update(100, 110, connection_id=1)
    assert not market.synchronizer.wants_every_update
    assert market.synchronizer.has_spoken(1)
    return market


@case(Input.STREAM_OPENED, SYNCHRONIZED, BUFFERING)
def the_only_live_stream_opens_again() -> Market:
    market = market_in(SYNCHRONIZED).open()
    assert market.changes[-1] == (BUFFERING, Cause.STREAM_CLOSED)
    return market


@case(Input.STREAM_ACKNOWLEDGED, IDLE, BUFFERING)
def an_acknowledgement_opens_a_stream_that_is_not_open() -> Market:
    market = market_in(IDLE).acknowledge()
    assert market.synchronizer.next_due() == market.now + SNAPSHOT_WAIT_S
    return market


@case(Input.STREAM_ACKNOWLEDGED, BUFFERING, BUFFERING)
def an_acknowledgement_starts_the_wait_for_a_first_update() -> Market:
    market = Market().open().acknowledge().wait(SNAPSHOT_WAIT_S - 0.001)
    assert market.requests == []
    market.wait(0.001)
    assert market.requests == [RequestSnapshot(1, Purpose.SYNCHRONIZE, 100, market.now)]
    return market


@case(Input.STREAM_ACKNOWLEDGED, BUFFERING, BUFFERING)
def a_repeated_acknowledgement_does_not_prolong_the_wait() -> Market:
    market = Market().open().acknowledge().wait(0.6).acknowledge().wait(0.4)
    assert market.request is not None
    return market.acknowledge()


@case(Input.STREAM_ACKNOWLEDGED, SYNCHRONIZED, SYNCHRONIZED)
def an_acknowledged_successor_is_live() -> Market:
    market = market_in(SYNCHRONIZED).open(1).acknowledge(1).close(0)
    assert market.book.is_readable
    assert market.requests[1:] == []
    return market


@case(Input.STREAM_CLOSED, BUFFERING, IDLE)
def the_last_stream_closes_before_there_is_a_book() -> Market:
    market = market_in(BUFFERING).update(90, 100)
    assert market.request is not None
    market.close()
    assert market.request is None  # cancelled
    assert market.dropped() == {"STREAM_CLOSED": 1}
    assert market.book.suspended_by == "STREAM_CLOSED"
    return market


@case(Input.STREAM_CLOSED, BUFFERING, BUFFERING)
def one_of_two_live_streams_closes_before_there_is_a_book() -> Market:
    market = market_in(BUFFERING).update(90, 100).open(1).update(95, 105, connection_id=1).close(0)
    market.snapshot(95)
    assert (market.state, market.book.last_update_id) == (SYNCHRONIZED, 105)
    return market


@case(Input.STREAM_CLOSED, BUFFERING, BUFFERING)
def the_only_live_stream_closes_while_another_is_opening() -> Market:
    market = market_in(BUFFERING).update(90, 100).open(1).close(0)
    # A snapshot now would make a book that no stream keeps up to date.
    assert market.request is None
    assert market.changes == [(BUFFERING, Cause.NOT_LOADED)]  # it is still, and that is not reported again
    assert market.dropped() == {"STREAM_CLOSED": 1}
    market.acknowledge(1).wait(1.0)
    assert market.request is not None
    return market


@case(Input.STREAM_CLOSED, SYNCHRONIZED, SYNCHRONIZED)
def one_of_two_live_streams_closes_and_the_book_stays() -> Market:
    market = (
        market_in(SYNCHRONIZED).open(1).update(100, 110, connection_id=1).close(0).update(110, 120, connection_id=1)
    )
    assert market.bids()[100.0] == 1.0
    assert market.book.last_update_id == 120
    assert market.changes[-1] == (SYNCHRONIZED, Cause.NOT_LOADED)
    return market


@case(Input.STREAM_CLOSED, SYNCHRONIZED, BUFFERING)
def the_only_live_stream_closes_while_its_successor_is_opening() -> Market:
    market = market_in(SYNCHRONIZED).open(1).close(0)
    assert market.changes[-1] == (BUFFERING, Cause.STREAM_CLOSED)
    return market


@case(Input.STREAM_CLOSED, SYNCHRONIZED, IDLE)
def the_only_stream_closes() -> Market:
    market = market_in(SYNCHRONIZED).close()
    with pytest.raises(DepthCacheOutOfSync) as raised:
        market.book.bids()
    assert raised.value.cause == "STREAM_CLOSED"
    assert market.synchronizer.resyncs[Cause.STREAM_CLOSED] == 1
    return market


@case(Input.RECEIVE_UPDATE, IDLE, IDLE)
def an_update_without_a_stream_is_dropped() -> Market:
    market = market_in(IDLE).update(90, 100)
    assert market.dropped() == {"NOT_OPEN": 1}
    return market


@case(Input.RECEIVE_UPDATE, BUFFERING, BUFFERING)
def the_first_update_asks_for_a_snapshot_at_once() -> Market:
    market = market_in(BUFFERING).update(90, 100)
    assert market.requests == [RequestSnapshot(1, Purpose.SYNCHRONIZE, 100, market.now)]
    assert market.synchronizer.next_due() is None
    market.update(100, 110).wait(5.0)
    assert len(market.requests) == 1
    assert market.synchronizer.buffered_count == 2
    return market


@case(Input.RECEIVE_UPDATE, BUFFERING, SYNCHRONIZED)
def the_first_update_of_the_next_stream_continues_the_book() -> Market:
    market = market_in(SYNCHRONIZED).close().open(1).update(100, 110, connection_id=1, bids={"99.00": "9"})
    assert market.bids()[99.0] == 9.0
    assert market.synchronizer.resumes == 1
    assert len(market.requests) == 1  # the one of the beginning
    assert market.changes[-1] == (SYNCHRONIZED, Cause.STREAM_CLOSED)
    return market


@case(Input.RECEIVE_UPDATE, SYNCHRONIZED, SYNCHRONIZED)
def an_update_comes_while_every_one_is_wanted() -> Market:
    market = market_in(SYNCHRONIZED).open(1)
    assert market.synchronizer.wants_every_update  # until the new stream has spoken
    market.update(100, 110, bids={"99.00": "9"})
    assert market.bids()[99.0] == 9.0
    return market


@case(Input.RECEIVE_UPDATE, SYNCHRONIZED, BUFFERING)
def an_update_past_a_gap_comes_while_every_one_is_wanted() -> Market:
    market = market_in(SYNCHRONIZED).open(1).update(105, 110)
    assert market.changes[-1] == (BUFFERING, Cause.GAP)
    return market


@case(Input.RECEIVE_UPDATE, STOPPED, STOPPED)
def an_update_of_a_stopped_market_is_dropped() -> Market:
    market = market_in(STOPPED).update(90, 100)
    assert market.dropped() == {"INACTIVE": 1}
    return market


@case(Input.RECEIVE_UPDATE, FAILED, FAILED)
def an_update_of_a_failed_market_is_dropped() -> Market:
    market = market_in(FAILED)
    before = market.dropped().get("INACTIVE", 0)
    market.update(100, 110)
    assert market.dropped() == {"INACTIVE": before + 1}
    return market


@case(Input.AFTER_APPLY, SYNCHRONIZED, SYNCHRONIZED)
def the_book_has_judged_an_update_stale() -> Market:
    market = market_in(SYNCHRONIZED)
    market.update(90, 100)
    assert market.dropped() == {"STALE": 1}
    assert market.book.is_readable
    return market


@case(Input.AFTER_APPLY, SYNCHRONIZED, BUFFERING)
def the_book_has_seen_a_gap() -> Market:
    market = market_in(SYNCHRONIZED)
    market.update(105, 110)
    assert market.changes[-1] == (BUFFERING, Cause.GAP)
    change = next(action for action in market.drained if isinstance(action, StateChanged))
    assert change.last_update_id == 100
    assert change.header is not None
    assert change.header.last_update_id == 110
    assert market.synchronizer.buffered_count == 1
    assert market.request is not None
    assert market.request.due == market.now
    return market


def an_update_that_cannot_be_read(state: SyncState) -> Run:
    def is_counted_and_nothing_else() -> Market:
        market = market_in(state)
        before = seen(market)
        market.synchronizer.update_malformed(market.now)
        assert market.dropped()["MALFORMED"] == 1
        assert {name for name, value in seen(market).items() if value != before[name]} == {"updates"}
        return market

    return is_counted_and_nothing_else


for each_state in SyncState:
    case(Input.UPDATE_MALFORMED, each_state, each_state)(an_update_that_cannot_be_read(each_state))


@case(Input.SNAPSHOT_BEGINS, BUFFERING, BUFFERING)
def the_download_of_a_first_snapshot_begins_and_nothing_changes() -> Market:
    market = market_in(BUFFERING).update(90, 100).begin().update(100, 110).snapshot(95)
    assert market.book.last_update_id == 110
    assert not market.synchronizer.wants_every_update
    return market


@case(Input.SNAPSHOT_BEGINS, SYNCHRONIZED, SYNCHRONIZED)
def the_download_for_a_refresh_begins_and_updates_are_retained() -> Market:
    market = market_in(SYNCHRONIZED).refresh()
    assert market.update(100, 110).book.retained_count == 0  # it may wait for weight for minutes
    market.begin().update(110, 120)
    assert market.book.retained_count == 1
    assert not market.synchronizer.wants_every_update  # the book retains by itself
    return market


@case(Input.SNAPSHOT_RECEIVED, BUFFERING, BUFFERING)
def a_snapshot_that_cannot_be_read_is_refetched() -> Market:
    market = market_in(BUFFERING).update(90, 100).answer(b"<html>")
    assert market.snapshots_dropped() == {"MALFORMED": 1}
    assert market.request is not None
    assert market.request.due == market.now  # the first one in a row; the next ones after a backoff
    return market


@case(Input.SNAPSHOT_RECEIVED, BUFFERING, SYNCHRONIZED)
def a_snapshot_synchronizes() -> Market:
    market = market_in(BUFFERING).update(90, 100, bids={"99.00": "9"}).snapshot(95)
    assert market.changes == [(BUFFERING, Cause.NOT_LOADED), (SYNCHRONIZED, Cause.NOT_LOADED)]
    assert market.bids() == {100.0: 1.0, 99.0: 9.0, 98.0: 3.0, 97.0: 4.0}
    assert market.synchronizer.cause is None
    assert not market.synchronizer.wants_every_update
    return market


@case(Input.SNAPSHOT_RECEIVED, SYNCHRONIZED, BUFFERING)
def a_refresh_is_contradicted_for_good() -> Market:
    market = market_in(SYNCHRONIZED).refresh().begin().snapshot(100, bids={**BIDS, "98.00": "9"})
    market.begin().snapshot(100, bids={**BIDS, "98.00": "9", "97.00": "9"})
    assert market.changes[-1] == (BUFFERING, Cause.DIFFERENT)
    assert market.book.suspended_by == "DIFFERENT"
    return market


@case(Input.SNAPSHOT_RECEIVED, SYNCHRONIZED, SYNCHRONIZED)
def a_snapshot_refreshes() -> Market:
    market = market_in(SYNCHRONIZED).refresh().begin().snapshot(100)
    assert market.synchronizer.refresher.audits == 1
    assert market.book.counters.books_adopted == 1
    return market


@case(Input.SNAPSHOT_FAILED, BUFFERING, BUFFERING)
def a_failed_snapshot_is_tried_again() -> Market:
    market = market_in(BUFFERING).update(90, 100).fail().fail()
    assert [request.due - market.now for request in market.requests] == [0.0, 0.0, 0.5]
    assert [request.epoch for request in market.requests] == [1, 2, 3]
    return market


@case(Input.SNAPSHOT_FAILED, BUFFERING, FAILED)
def a_market_that_the_exchange_does_not_know_fails() -> Market:
    market = market_in(BUFFERING).update(90, 100).fail(permanent=Cause.UNKNOWN_MARKET)
    assert market.state is BUFFERING
    market.wait(10.0).fail(permanent=Cause.UNKNOWN_MARKET)
    assert market.changes[-1] == (FAILED, Cause.UNKNOWN_MARKET)
    assert market.book.suspended_by == "UNKNOWN_MARKET"
    assert market.request is None
    assert market.dropped() == {"INACTIVE": 1}  # what was buffered
    return market


@case(Input.SNAPSHOT_FAILED, SYNCHRONIZED, SYNCHRONIZED)
def a_failed_refresh_is_tried_again_and_takes_nothing_away() -> Market:
    market = market_in(SYNCHRONIZED).refresh().begin().fail()
    assert market.book.is_readable
    assert market.request is not None
    assert market.request.due == market.now + 0.5
    assert not market.synchronizer.wants_every_update  # until the next download begins
    return market


@case(Input.SNAPSHOT_FAILED, SYNCHRONIZED, FAILED)
def a_live_market_that_is_refused_twice_fails() -> Market:
    market = market_in(SYNCHRONIZED).refresh().fail(permanent=Cause.UNKNOWN_MARKET)
    assert market.state is SYNCHRONIZED
    market.fail(permanent=Cause.UNKNOWN_MARKET)
    assert market.changes[-1] == (FAILED, Cause.UNKNOWN_MARKET)
    return market


@case(Input.TICK, BUFFERING, BUFFERING)
def the_wait_for_a_first_update_ends() -> Market:
    market = market_in(BUFFERING)
    market.synchronizer.tick(market.now + SNAPSHOT_WAIT_S / 2)
    assert market._drain().request is None
    market.wait(1.0)
    assert market.request is not None
    return market


@case(Input.TICK, SYNCHRONIZED, SYNCHRONIZED)
def the_refresh_interval_ends() -> Market:
    market = market_in(SYNCHRONIZED, refresh_interval_s=60.0).wait(59.0)
    assert market.request is None
    market.wait(1.0)
    assert market.request is not None
    assert market.request.purpose is Purpose.INTERVAL
    return market


@case(Input.TICK, SYNCHRONIZED, BUFFERING)
def the_wait_for_another_stream_ends() -> Market:
    market = market_in(SYNCHRONIZED).open(1).acknowledge(1).update(105, 110)
    assert market.book.is_readable
    market.wait(0.499)
    assert market.book.is_readable
    market.wait(0.001)
    assert market.changes[-1] == (BUFFERING, Cause.GAP)
    return market


@case(Input.REQUEST_RESYNC, IDLE, IDLE)
def a_resync_without_a_stream_takes_effect_with_the_next_one() -> Market:
    market = market_in(SYNCHRONIZED).close().resync().open().update(100, 110)
    assert market.state is BUFFERING
    assert market.synchronizer.resumes == 0
    assert market.request is not None
    return market


@case(Input.REQUEST_RESYNC, BUFFERING, BUFFERING)
def a_resync_does_not_wait_for_a_first_update() -> Market:
    market = market_in(BUFFERING).resync()
    assert market.request is not None
    market.resync()
    assert len(market.requests) == 1
    return market


@case(Input.REQUEST_RESYNC, BUFFERING, BUFFERING)
def a_resync_requests_nothing_before_a_stream_is_live() -> Market:
    market = Market().open().resync()
    assert market.request is None  # a snapshot now would make a book that no stream keeps up to date
    market.acknowledge().wait(1.0)
    assert market.request is not None
    return market


@case(Input.REQUEST_RESYNC, SYNCHRONIZED, BUFFERING)
def a_resync_takes_the_book_away_until_there_is_a_new_one() -> Market:
    market = market_in(SYNCHRONIZED).resync()
    assert market.book.suspended_by == "REQUESTED"
    market.snapshot(100)
    assert market.state is SYNCHRONIZED
    return market


@case(Input.REQUEST_REFRESH, SYNCHRONIZED, SYNCHRONIZED)
def a_refresh_is_requested() -> Market:
    market = market_in(SYNCHRONIZED).wait(10.0).refresh()
    assert market.requests[-1] == RequestSnapshot(2, Purpose.REQUESTED, 100, market.now)
    return market


@case(Input.STOP, IDLE, STOPPED)
def an_idle_market_stops() -> Market:
    return market_in(IDLE).stop()


@case(Input.STOP, BUFFERING, STOPPED)
def a_buffering_market_stops() -> Market:
    market = market_in(BUFFERING).update(90, 100).stop()
    assert market.request is None
    assert market.dropped() == {"INACTIVE": 1}
    return market


@case(Input.STOP, SYNCHRONIZED, STOPPED)
def a_synchronized_market_stops() -> Market:
    market = market_in(SYNCHRONIZED).refresh().begin().stop()
    assert market.book.suspended_by == "STOPPED"
    assert market.request is None
    assert sum(market.synchronizer.resyncs.values()) == 0
    return market


@case(Input.STOP, FAILED, STOPPED)
def a_failed_market_stops() -> Market:
    return market_in(FAILED).stop()


@pytest.mark.parametrize(
    ("step", "run"),
    [pytest.param(step, run, id=f"{run.__name__}-{step[1]}") for step, runs in CASES.items() for run in runs],
)
def test_cell(step: Step, run: Run) -> None:
    market = run()
    assert step in market.synchronizer.steps


# ------------------------------------------------------------------------------------------ what holds for every market


def test_only_an_applied_update_has_a_verdict_that_is_false() -> None:
    """The hot path relies on it."""
    assert [verdict for verdict in Verdict if not verdict] == [Verdict.APPLIED]


def test_the_limits_of_snapshots_must_ascend() -> None:
    for limits in ((), (100, 100), (1000, 100), (0, 100)):
        with pytest.raises(ValueError, match="limits"):
            Market(limits=limits)


def test_a_single_limit_of_one_level_is_allowed() -> None:
    assert Market(limits=(1,)).open().acknowledge().wait(1.0).requests[0].limit == 1


def test_a_market_that_has_ended_knows_no_stream() -> None:
    market = market_in(SYNCHRONIZED)
    assert market.synchronizer.has_spoken(0)
    assert not market.stop().synchronizer.has_spoken(0)


def test_a_refresh_interval_must_be_positive() -> None:
    for interval_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="interval"):
            Market(refresh_interval_s=interval_s)
    assert market_in(SYNCHRONIZED, refresh_interval_s=0.5).wait(0.5).request is not None


def test_a_caller_that_never_drains_is_refused() -> None:
    market = Market()
    for _ in range(ACTIONS_MAX // 2):
        market.synchronizer.stream_opened(0, market.now)
        market.synchronizer.stream_closed(0, market.now)
    with pytest.raises(RuntimeError, match="drain"):
        market.synchronizer.stream_opened(0, market.now)
    assert market.state is IDLE
    market.synchronizer.stop(market.now)  # stopping is always possible
    assert market.state is STOPPED


def test_every_cause_of_a_dropped_update_can_be_read_while_it_is_counted() -> None:
    """Another thread copies the counters; a key that appeared meanwhile would raise."""
    market = Market()
    assert set(market.synchronizer.updates_dropped) == set(UpdateDrop)
    assert set(market.synchronizer.requests.dropped) == set(SnapshotDrop)
    assert set(market.synchronizer.resyncs) == set(market.synchronizer.state_changes) == set(Cause)


def test_the_document_shows_the_diagram_and_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "synchronizer.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{state_diagram()}```\n" in text
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    shown = {event: [cell.strip(" `") for cell in cells.split(" | ")] for event, cells in rows.items()}
    wanted = {event.value: [row[state].name for state in SyncState] for event, row in TABLE.items()}
    assert {event: cells for event, cells in shown.items() if event in wanted} == wanted
