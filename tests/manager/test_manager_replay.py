"""Recorded markets, replayed over real sockets against a book of the exchange's own: no view is ever wrong.

The truth is the exchange's: the recorded snapshot and every update since, in dicts of Decimals. Reader threads keep
their views while the market moves as fast as it can. Afterwards each view is compared with the true book at the id
of the view.
"""

import contextlib
import functools
import heapq
import json
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from live_kit import eventually, live, no_jitter, no_thread_is_left, wait_for_id  # noqa: F401
from loopback_exchange import PATIENCE_S, LoopbackExchange, Recording

from ldc.analytics.view import BookView
from ldc.errors import DepthCacheOutOfSync
from ldc.manager.manager import BinanceLocalDepthCacheManager

RECORDINGS = {
    "spot": ["spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"],
    "usdm": ["usdm_ethusdt_20240808.gz"],
    "coinm": ["cm_ethusd_perp_20240808.gz"],
}

pytestmark = pytest.mark.usefixtures("no_jitter")

VIEW_LEVELS = 20
STOPS_MAX = 80
UPDATES_MAX = 1_500
"""Of a recording, where it matters what kind it is and not how far the market walks."""
LOOK_EVERY = 10
"""Where updates are lost, one look at least is past the one before in so many updates, whatever the readers come to."""


@pytest.fixture(autouse=True)
def eager_threads() -> Iterator[None]:
    """Let the interpreter change threads a hundred times as often as usual, so that more of what can happen does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def recording_of(captures: Path) -> Callable[[str], Recording]:
    """Reads a kind's recording, once in a process."""
    return functools.cache(lambda kind: Recording.read(*(captures / name for name in RECORDINGS[kind])))


class Truth:
    """The true books, in the order of their ids."""

    def __init__(self, recording: Recording) -> None:
        self.sides: dict[str, dict[Decimal, Decimal]] = {
            name: {Decimal(price): Decimal(quantity) for price, quantity in recording.snapshot[name]}
            for name in ("bids", "asks")
        }
        self.last_update_id = recording.snapshot["lastUpdateId"]
        self._updates = iter(recording.updates)

    def advance(self, update_id: int) -> None:
        while self.last_update_id < update_id:
            self.last_update_id, payload = next(self._updates)
            event = json.loads(payload)["data"]
            for name, changes in (("bids", event["b"]), ("asks", event["a"])):
                for price, quantity in changes:
                    if Decimal(quantity):
                        self.sides[name][Decimal(price)] = Decimal(quantity)
                    else:
                        self.sides[name].pop(Decimal(price), None)
        assert self.last_update_id == update_id, f"{update_id} is no id at which the book ever stood"

    def top(self, name: str, count: int, horizon: Decimal | None) -> tuple[tuple[Decimal, Decimal], ...]:
        best_first = heapq.nlargest if name == "bids" else heapq.nsmallest
        prices = best_first(count, self.sides[name])
        if horizon is not None:
            prices = [price for price in prices if (price >= horizon if name == "bids" else price <= horizon)]
        return tuple((price, self.sides[name][price]) for price in prices)


def read_until(
    stop: threading.Event, manager: BinanceLocalDepthCacheManager, market: str, views: dict[int, BookView]
) -> None:
    """Read as often as there is something new, and keep one view of each id."""
    reader = manager.get_depth_cache(market).reader
    while not stop.is_set():
        try:
            view = reader.view(VIEW_LEVELS, number=Decimal)
        except DepthCacheOutOfSync:
            pass
        else:
            views[view.last_update_id] = view
        with contextlib.suppress(DepthCacheOutOfSync):
            manager.wait_for_update(market, timeout=0.05)


def sees_past(update_id: int, manager: BinanceLocalDepthCacheManager, market: str, views: dict[int, BookView]) -> bool:
    """Look once, keep the view, and return whether it is past that id."""
    try:
        view = manager.get_depth_cache(market).reader.view(VIEW_LEVELS, number=Decimal)
    except DepthCacheOutOfSync:
        return False
    views[view.last_update_id] = view
    return view.last_update_id > update_id


def play(
    exchange: LoopbackExchange,
    manager: BinanceLocalDepthCacheManager,
    recording: Recording,
    updates_max: int | None = None,
    *,
    is_lossy: bool = False,
) -> dict[int, BookView]:
    """Play a recording with readers looking on; return what they saw."""
    market = recording.symbol
    exchange.replay(recording)
    manager.create_depth_cache(market)
    exchange.subscribed(market)
    views: dict[int, BookView] = {}
    stop = threading.Event()
    readers = [threading.Thread(target=read_until, args=(stop, manager, market, views)) for _ in range(2)]
    for reader in readers:
        reader.start()
    last = stops = seen = 0
    for number, (update_id, _) in enumerate(recording.updates[:updates_max]):
        assert exchange.step(market) == update_id
        last = update_id
        # A recording is minutes long: do not outrun the buffers, which are made for minutes. And stop where a top
        # of the book was recorded for this very id, to be sure to have seen it.
        is_stop = update_id in recording.tops and stops < STOPS_MAX
        if is_lossy:
            if number % LOOK_EVERY == 0:
                eventually(lambda seen=seen: sees_past(seen, manager, market, views), f"a view past {seen}")
                seen = max(list(views))  # not later: the updates that lead past it are still to come
        elif number % 50 == 0 or is_stop:
            stops += is_stop
            wait_for_id(manager, market, update_id)
            view = manager.get_depth_cache(market).reader.view(VIEW_LEVELS, number=Decimal)
            assert view.last_update_id == update_id
            views[update_id] = view
    # After several cuts in a row the back-off before the last connection may be long.
    wait_for_id(manager, market, last, 4 * PATIENCE_S)
    stop.set()
    for reader in readers:
        reader.join(PATIENCE_S)
        assert not reader.is_alive()
    return views


def assert_true(recording: Recording, views: dict[int, BookView]) -> int:
    """Every view is the exchange's book; return how many had a recorded top of the book to compare with."""
    truth, tops = Truth(recording), 0
    for update_id in sorted(views):
        view = views[update_id]
        truth.advance(update_id)
        assert view.bids == truth.top("bids", VIEW_LEVELS, view.bid_horizon), update_id
        assert view.asks == truth.top("asks", VIEW_LEVELS, view.ask_horizon), update_id
        if update_id in recording.tops:
            tops += 1
            seen = (*view.bids[0], *view.asks[0])
            assert tuple(map(float, seen)) == recording.tops[update_id], update_id
    return tops


@pytest.mark.parametrize("kind", RECORDINGS)
@pytest.mark.parametrize("markets_per_connection", [100, 1])
@pytest.mark.parametrize("updates_max", [UPDATES_MAX, pytest.param(None, marks=pytest.mark.check, id="whole")])
def test_no_view_is_wrong_and_no_snapshot_needless(kind, markets_per_connection, updates_max, recording_of):
    recording = recording_of(kind)
    with live(kind, (), markets_per_connection=markets_per_connection, snapshot_limit=1000) as (exchange, manager):
        views = play(exchange, manager, recording, updates_max)
        status = manager.get_status(recording.symbol)
        synchronizer = manager.get_depth_cache(recording.symbol).live.synchronizer
        assert status.resyncs == {}
        assert set(status.audits) <= {"EQUAL"}
        # The first snapshot, the deeper one, and one for each time that the market left half of what was known.
        issued = {purpose.name: count for purpose, count in synchronizer.requests.issued.items() if count}
        assert issued.pop("SYNCHRONIZE") == 1
        assert issued.pop("DEEPEN", 0) <= 1
        assert set(issued) <= {"HORIZON"}
        # The last update may have requested one that has not arrived yet. A request that a more urgent one replaced may
        # never be sent: on a slow machine the deeper one still waits when the horizon is reached.
        asked = synchronizer.requests
        eventually(
            lambda: len(exchange.rest_requests) >= sum(asked.issued.values()) - asked.cancelled, "what was asked for"
        )
        assert len(exchange.rest_requests) <= sum(asked.issued.values())
        assert len(exchange.connections) == 1
        assert not any(manager.get_depth_cache(recording.symbol).group.messages_dropped.values())
    assert len(views) > 100
    assert assert_true(recording, views) >= STOPS_MAX


def test_a_market_that_walks_out_of_its_snapshots_is_never_wrong(recording_of):
    recording = recording_of("spot")
    # 100 levels a side are left within seconds: the horizon is renewed again and again, the book stays.
    with live("spot", (), snapshot_limit=100, high_performance=True) as (exchange, manager):
        views = play(exchange, manager, recording, UPDATES_MAX)
        status = manager.get_status(recording.symbol)
        issued = manager.get_depth_cache(recording.symbol).live.synchronizer.requests.issued
        assert status.resyncs == {}
        assert set(status.audits) <= {"EQUAL"}
        assert sum(count for purpose, count in issued.items() if purpose.name == "HORIZON") > 3
    assert len(views) > 100
    assert_true(recording, views)


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_losses_and_reconnects_in_the_midst_leave_no_view_wrong(kind, recording_of):
    recording = recording_of(kind)
    with live(kind, (), snapshot_limit=1000) as (exchange, manager):
        frames = {"count": 0}

        def lose_some(connection, symbol, payload):
            frames["count"] += 1
            if frames["count"] % 400 == 0:
                connection.reset()
            return () if frames["count"] % 300 == 150 else (payload,)

        exchange.on_frame = lose_some
        views = play(exchange, manager, recording, UPDATES_MAX + 1, is_lossy=True)  # the last one is not lost
        resyncs = manager.get_status(recording.symbol).resyncs
        assert resyncs["GAP"] + resyncs["STREAM_CLOSED"] >= 4
        assert set(manager.get_status(recording.symbol).audits) <= {"EQUAL"}
    assert len(views) > 100
    assert_true(recording, views)
