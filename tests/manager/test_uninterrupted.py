"""Handovers and redundant connections with the embedded exchange: no reader notices them.

A thread reads all markets in turn and checks each view against the exchange's history. No read may be refused.
"""

import math
import threading
import time
from decimal import Decimal

import pytest
from live_kit import (  # noqa: F401
    SHORT_PING,
    eventually,
    live,
    no_jitter,
    no_thread_is_left,
    reach,
    synchronize,
    wait_for_id,
)
from loopback_exchange import PATIENCE_S, RestReply
from simulator_kit import assert_true, managed, simulated

from ldc import BinanceLocalDepthCacheManager, DepthCacheOutOfSync
from ldc.limits import Timing
from ldc.sync.gap import GAP_WAIT_MS

pytestmark = pytest.mark.usefixtures("no_jitter")

MARKETS = tuple(f"COIN{number}USDT" for number in range(20))
CALM = {"updates_per_second": 20.0, "levels": 50}


class Watch:
    """A thread that reads every market without pause."""

    def __init__(self, exchange, manager, markets):
        self.views = 0
        self.wrong = []
        self._exchange, self._caches = exchange, [manager.get_depth_cache(market) for market in markets]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="watch")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert self.wrong == []
        assert self.views > 0

    def _read(self):
        while not self._stop.is_set() and not self.wrong:
            for cache in self._caches:
                try:
                    assert_true(self._exchange, cache.market, cache.reader.view(number=Decimal))
                except (AssertionError, DepthCacheOutOfSync, KeyError) as error:
                    self.wrong.append(f"{cache.market}: {error!r}"[:500])
                    return
                self.views += 1
            self._stop.wait(0.002)


def assert_nothing_happened(manager, markets):
    for market in markets:
        status = manager.get_status(market)
        assert (status.resyncs, status.restart_count, status.counters.snapshots_loaded) == ({}, 0, 1), status


def rotate(count, timing):
    with (
        simulated(markets=MARKETS, connection_lifetime_s=10.0, **CALM) as exchange,
        managed(exchange, "binance.com", snapshot_limit=100, timing=timing) as manager,
    ):
        manager.create_depth_cache(MARKETS)
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        group = manager.get_depth_cache(MARKETS[0]).group
        with Watch(exchange, manager, MARKETS) as watch:
            wanted = group.reconnects + count
            eventually(
                lambda: watch.wrong or group.reconnects >= wanted, f"{count} rotations", PATIENCE_S + 2.0 * count
            )
            eventually(lambda: watch.wrong or exchange.statistics()["connections"] == 1, "the end of the last one")
        assert_nothing_happened(manager, MARKETS)
        assert group.last_error is None


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.check)])
def test_rotations_cost_no_market_a_moment(count):
    """The exchange closes connections after ten seconds; we renew them after one."""
    rotate(count, Timing(connection_s_max=1.0))


def are_redundant(manager, markets):
    """Whether two connections bring every market, and have brought an update of each."""
    return all(
        sum(
            feed.is_acknowledged and feed.first_arrivals + feed.duplicates > 0
            for feed in manager.get_status(each).connections
        )
        == 2
        for each in markets
    )


def cut(exchange, number):
    """Reset the connection of that place, oldest first."""
    server = exchange._server
    server.call(lambda: list(server._connections)[number].abort())


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.check)])
def test_with_redundancy_the_loss_of_either_connection_costs_no_market_a_moment(times):
    markets = MARKETS[:5]
    with (
        simulated(markets=markets, **CALM) as exchange,
        managed(exchange, "binance.com", snapshot_limit=100, redundancy=2) as manager,
    ):
        manager.create_depth_cache(markets)
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        eventually(lambda: are_redundant(manager, markets), "both connections")
        group = manager.get_depth_cache(markets[0]).group
        with Watch(exchange, manager, markets) as watch:
            for number in range(times):
                reconnects = group.reconnects
                cut(exchange, number % 2)
                eventually(lambda reconnects=reconnects: group.reconnects > reconnects, "the reconnect")
                eventually(lambda: watch.wrong or are_redundant(manager, markets), "both connections")
                assert watch.wrong == []
        assert_nothing_happened(manager, markets)
        assert exchange.statistics()["status_200"] == len(markets)


def test_what_one_connection_loses_the_other_one_fills():
    with live(redundancy=2) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.subscribed(number=2)
        eventually(lambda: reach(exchange, manager) and are_redundant(manager, ["BTCUSDT"]), "both connections")
        for number in (1, 2) * 10:
            lost = exchange.connection(number)
            exchange.on_frame = lambda connection, symbol, payload, lost=lost: () if connection is lost else (payload,)
            reach(exchange, manager)
            exchange.on_frame = lambda connection, symbol, payload: (payload,)
            reach(exchange, manager)
        status = manager.get_status("BTCUSDT")
        assert (status.resyncs, status.counters.snapshots_loaded, len(exchange.rest_requests)) == ({}, 1, 1)
        assert sum(feed.first_arrivals for feed in status.connections) > 20

        def are_all_accounted_for() -> bool:
            status = manager.get_status("BTCUSDT")
            return status.updates_dropped["STALE"] == status.counters.updates_stale

        eventually(are_all_accounted_for, "that every duplicate is counted")


def lose_next_update(connection):
    """In the exchange's thread: the next depth update is not sent on this connection."""
    send = connection.send

    def lose(frame):
        if b"depthUpdate" in frame:
            connection.send = send
        else:
            send(frame)

    connection.send = lose


def delay(connection, seconds):
    """In the exchange's thread: from now on everything is sent so much later on this connection."""
    write, waiting = connection._write, []

    def write_later(frames):
        waiting.append(frames)
        connection._loop.call_later(seconds, lambda: write(waiting.pop(0)))

    connection._write = write_later


@pytest.mark.check
@pytest.mark.parametrize(("late_ms", "wait_ms"), [(100, 5_000), (4 * GAP_WAIT_MS, GAP_WAIT_MS)])
def test_a_lost_update_is_waited_for_on_the_other_connection_for_as_long_as_is_said(late_ms, wait_ms):
    with (
        simulated(markets=MARKETS[:1], **CALM) as exchange,
        managed(exchange, "binance.com", snapshot_limit=100, redundancy=2) as manager,
    ):
        [market] = MARKETS[:1]
        manager.create_depth_cache(market)
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        eventually(lambda: are_redundant(manager, [market]), "both connections")
        exchange.pause(market)
        synchronizer, server = manager.get_depth_cache(market).live.synchronizer, exchange._server
        synchronizer.gap.wait_s = wait_ms / 1000
        wait_for_id(manager, market, exchange.advance(market, updates=1))
        server.call(lambda: lose_next_update(next(iter(server._connections))))
        server.call(lambda: delay(list(server._connections)[1], late_ms / 1000))
        before = manager.get_book(market).last_update_id
        lost_id = exchange.advance(market, updates=1)
        last_id = exchange.advance(market, updates=1)  # comes on the one at once, and shows the gap
        eventually(lambda: synchronizer.gap.waits == 1, "the gap")
        assert before < lost_id < last_id
        wait_for_id(manager, market, last_id)
        assert_true(exchange, market, manager.get_depth_cache(market).reader.view(number=Decimal))
        status = manager.get_status(market)
        filled = sum(feed.gaps_filled for feed in status.connections)
        if late_ms < wait_ms:
            assert (status.resyncs, filled, status.counters.snapshots_loaded) == ({}, 1, 1)
        else:
            assert (status.resyncs, filled, status.counters.snapshots_loaded) == ({"GAP": 1}, 0, 2)


def test_a_successor_of_one_of_two_connections_leaves_the_other_one_alone():
    with live(redundancy=2) as (exchange, manager):
        synchronize(exchange, manager)
        both = [exchange.subscribed(number=number) for number in (1, 2)]
        eventually(lambda: reach(exchange, manager) and are_redundant(manager, ["BTCUSDT"]), "both connections")
        both[0].send('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}')
        eventually(lambda: reach(exchange, manager) and both[0].ended.is_set(), "the handover")
        assert not both[1].ended.is_set()
        assert len(exchange.connections) == 3
        assert manager.get_status("BTCUSDT").resyncs == {}


def test_a_successor_that_is_to_be_shut_down_as_well_gets_one_of_its_own():
    """The exchange restarts its servers one after the other, and may announce it before the first handover is over."""
    announcement = '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'
    with live(markets=("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        synchronize(exchange, manager)
        first = exchange.connection(1)
        first.send(announcement)
        second = exchange.subscribed("ETHUSDT", number=2)
        second.send(announcement)
        reach(exchange, manager)  # one of two markets has moved
        assert not first.ended.is_set()
        eventually(lambda: reach(exchange, manager, "ETHUSDT") and first.ended.is_set(), "the first handover")
        eventually(
            lambda: [reach(exchange, manager, each) for each in exchange.markets] and second.ended.is_set(),
            "the second handover",
        )
        assert len(exchange.connections) == 3
        for market in exchange.markets:
            assert manager.get_status(market).resyncs == {}


def test_a_successor_for_which_there_is_no_thread_costs_no_book_a_moment(monkeypatch):
    start, refused = threading.Thread.start, []

    def refuse(thread):
        if thread.name.startswith("ldc-connect") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    with live() as (exchange, manager):
        synchronize(exchange, manager)
        first = exchange.connection(1)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        manager.renew_connections()
        eventually(lambda: reach(exchange, manager) and first.ended.is_set(), "the handover to the next successor")
        assert refused
        status = manager.get_status("BTCUSDT")
        assert (status.resyncs, status.restart_count, status.counters.snapshots_loaded) == ({}, 0, 1)
        assert "can't start new thread" in status.last_error


@pytest.mark.parametrize("redundancy", [0, 5, 1.0, True, "2"])
def test_a_redundancy_that_makes_no_sense_is_refused(redundancy):
    with pytest.raises(ValueError, match="redundancy is an int(,| from 1 to 4)"), live(redundancy=redundancy):
        pass


@pytest.mark.check
def test_after_a_cut_of_all_connections_200_markets_are_back_within_15_seconds():
    markets = tuple(f"COIN{number}USDT" for number in range(200))
    with (
        simulated(markets=markets, updates_per_second=2.0, levels=50) as exchange,
        managed(exchange, "binance.com", snapshot_limit=100, redundancy=2, markets_per_connection=50) as manager,
    ):
        manager.create_depth_cache(markets)
        assert manager.wait_until_synchronized(timeout=60)
        loads = [manager.get_status(market).counters.snapshots_loaded for market in markets]
        server = exchange._server
        server.call(lambda: [connection.abort() for connection in list(server._connections)])
        cut_at = time.monotonic()
        caches = [manager.get_depth_cache(market) for market in markets]
        eventually(lambda: any(not cache.is_synchronized for cache in caches), "that it is noticed")
        assert manager.wait_until_synchronized(timeout=15)
        print(f"back after {time.monotonic() - cut_at:.1f} s", exchange.statistics())
        statistics = exchange.statistics()
        assert statistics.get("status_429", 0) == statistics.get("status_418", 0) == 0
        assert statistics["connects"] <= 300
        # A market that missed nothing goes on with the book that was kept; any other loads one snapshot, and no more.
        again = [
            manager.get_status(market).counters.snapshots_loaded - load
            for market, load in zip(markets, loads, strict=True)
        ]
        assert set(again) <= {0, 1}
        assert statistics["status_200"] <= 2 * len(markets)


# ------------------------------------------------------------------------------------------------ cold start


def test_progress_counts_readable_books_and_estimates_the_rest():
    with BinanceLocalDepthCacheManager() as manager:
        assert manager.get_progress() == (0, 0, 0, 0.0)
    with live(markets=("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        hold = threading.Event()
        exchange.on_rest = lambda request: (
            RestReply(200, exchange.snapshot("ETHUSDT", 100), hold=hold) if (request.symbol == "ETHUSDT") else None
        )
        manager.create_depth_cache(["BTCUSDT", "ETHUSDT"])
        assert manager.get_progress().total == 2
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        eventually(lambda: manager.get_progress().seconds_left is not None, "an estimate")
        progress = manager.get_progress()
        assert progress[:3] == (1, 0, 2)
        assert 0.0 < progress.seconds_left < 60.0
        status = manager.get_status("BTCUSDT")
        assert status.is_synchronized
        assert status.progress[:3] == (1, 0, 2)
        assert 0.0 < status.progress.seconds_left < 60.0
        hold.set()
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        assert manager.get_progress() == (2, 0, 2, 0.0)
        assert manager.get_status("BTCUSDT").progress == manager.get_status("ETHUSDT").progress == (2, 0, 2, 0.0)
        assert manager.get_depth_cache("BTCUSDT").status().progress is None


# ------------------------------------------------------------------------------------------------ age


def test_a_read_with_max_age_refuses_a_book_that_nothing_proves(no_jitter):  # noqa: F811 - the fixture
    with live(**SHORT_PING | {"websocket_ping_timeout": 60}) as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        connection = exchange.connection()
        # Nothing trades, but pongs come.
        eventually(lambda: connection.opcodes(9), "a ping")
        eventually(lambda: manager.get_book("BTCUSDT", max_age=30).bids, "a proof")
        connection.is_ponging = False
        silent_since = time.monotonic()  # a pong may be under way yet, to a ping of before
        read = {
            "get_asks": lambda: manager.get_asks("BTCUSDT", 1, max_age=0.2),
            "get_bids": lambda: manager.get_bids("BTCUSDT", 1, max_age=0.2),
            "get_book": lambda: manager.get_book("BTCUSDT", 1, max_age=0.2),
        }
        eventually(lambda: time.monotonic() - silent_since > 0.3, "that no pong can prove it any more")
        eventually(lambda: manager.get_status("BTCUSDT").proof_age_s > 0.2, "that it is old")
        for each in read.values():
            with pytest.raises(
                DepthCacheOutOfSync, match=r"'BTCUSDT' cannot be read .*the last proof .* max_age is 0.2 s"
            ) as caught:
                each()
            assert caught.value.cause == "TOO_OLD"
        assert not manager.is_depth_cache_synchronized("BTCUSDT", max_age=0.2)
        with pytest.raises(DepthCacheOutOfSync):
            manager.get_book("BTCUSDT", max_age=math.nan)
        assert manager.is_depth_cache_synchronized("BTCUSDT")
        assert manager.get_bids("BTCUSDT", 1, max_age=3600) == manager.get_bids("BTCUSDT", 1)
        reach(exchange, manager)
        assert manager.get_book("BTCUSDT", max_age=10)


def test_the_max_age_of_the_constructor_is_that_of_each_call_without_one():
    with live(**SHORT_PING | {"websocket_ping_timeout": 60}, max_age=0.2) as (exchange, manager):
        synchronize(exchange, manager)
        connection = exchange.connection()
        connection.is_ponging = False
        reads = [manager.get_asks, manager.get_bids, manager.get_book]
        eventually(lambda: manager.get_status("BTCUSDT").proof_age_s > 1.0, "that it is old")
        for read in reads:
            with pytest.raises(DepthCacheOutOfSync, match=r"max_age is 0.2 s") as caught:
                read("BTCUSDT")
            assert caught.value.cause == "TOO_OLD"
            assert read("BTCUSDT", max_age=math.inf)
            assert read("BTCUSDT", max_age=60)
        assert not manager.is_depth_cache_synchronized("BTCUSDT")
        assert manager.is_depth_cache_synchronized("BTCUSDT", max_age=math.inf)
        assert manager.get_depth_cache("BTCUSDT").is_synchronized  # it has no max_age; the lease alone decides
        assert manager.get_depth_cache("BTCUSDT").best_bid is not None


def test_without_a_max_age_the_lease_alone_decides():
    with live(**SHORT_PING | {"websocket_ping_timeout": 60}) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.connection().is_ponging = False
        eventually(lambda: manager.get_status("BTCUSDT").proof_age_s > 0.3, "that it is old")
        assert manager.get_book("BTCUSDT").bids
        assert manager.is_depth_cache_synchronized("BTCUSDT")


@pytest.mark.parametrize("wrong", [-1, math.nan, "5", True])
def test_a_max_age_of_the_constructor_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="max_age"):
        BinanceLocalDepthCacheManager(max_age=wrong)


def test_pongs_prove_that_a_quiet_book_is_current():
    with live(**SHORT_PING | {"websocket_ping_timeout": 60}) as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        heard_at = manager.get_depth_cache("BTCUSDT").live.heard_at
        eventually(
            lambda: manager.get_status("BTCUSDT").proof_age_s < time.monotonic() - heard_at - 0.5, "a proof by a pong"
        )


GOOD = (
    '{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":999999,'
    '"b":[["9","1"]],"a":[]}}'
)


@pytest.mark.parametrize(
    "payload",
    [
        GOOD[:-1],
        GOOD.replace('["9","1"]', '["9e0","1"]'),
        GOOD.replace('"s":"BTCUSDT"', '"s":"ETHUSDT"'),
        GOOD.replace('"u":999999', '"u":0'),
        GOOD.replace('{"stream"', '{"x":0,"stream"').replace('["9","1"]', '["9e0","1"]'),
        GOOD.replace('{"stream"', '{ "stream"').replace('"s":"BTCUSDT"', '"s":"ETHUSDT"'),
    ],
    ids=["cut", "number", "symbol", "ids", "number, another way", "symbol, another way"],
)
@pytest.mark.parametrize("is_direct", [True, False])
def test_a_frame_that_cannot_be_read_proves_nothing(payload, is_direct):
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        feed = cache.live

        def take_the_long_way(_now):  # as in a handover, until the new connection has brought an update
            feed.synchronizer.wants_every_update, feed.binding.is_direct = True, False

        heard_at = feed.heard_at
        for count in range(1, 4):
            if not is_direct:
                cache.group.post(take_the_long_way)
                eventually(lambda: not feed.binding.is_direct, "the long way")
            exchange.connection().send(payload)
            eventually(lambda count=count: refused(manager) == count, "that it is refused")
        assert feed.heard_at == heard_at
        reach(exchange, manager)
        assert feed.heard_at > heard_at
        assert manager.get_status("BTCUSDT").resyncs == {}


def refused(manager):
    """How many updates could not be read."""
    return manager.get_status("BTCUSDT").updates_dropped.get("MALFORMED", 0)


def test_a_pong_proves_nothing_of_what_was_subscribed_after_its_ping():
    with live(**SHORT_PING | {"websocket_ping_timeout": 60}) as (exchange, manager):
        exchange.on_request = lambda connection, request: ()  # not acknowledged
        manager.create_depth_cache("BTCUSDT")
        cache = manager.get_depth_cache("BTCUSDT")
        connection = exchange.connection()
        # The exchange has it a moment before the group has.
        eventually(lambda: any(own.has_ponged for own in cache.group._connections), "a pong")
        connection.is_ponging = False
        exchange.wait_for(lambda: connection.requests(), "the request")
        eventually(lambda: len(connection.opcodes(9)) >= 2, "a ping that is not answered")
        connection.send('{"result":null,"id":1}')
        own = next(iter(cache.group._connections))
        eventually(lambda: own.requests.acknowledged, "the acknowledgement")
        assert cache.group.proven_at(cache.live) < own.proven_at
        connection.is_ponging = True


def test_a_gap_that_waits_is_no_proof():
    with live(redundancy=2) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.subscribed(number=2)
        eventually(lambda: reach(exchange, manager) and are_redundant(manager, ["BTCUSDT"]), "both connections")
        feed = manager.get_depth_cache("BTCUSDT").live
        feed.synchronizer.gap.wait_s = 3600.0
        other = exchange.connection(2)
        exchange.on_frame = lambda connection, symbol, payload: ()
        exchange.update("BTCUSDT")
        exchange.on_frame = lambda connection, symbol, payload: () if connection is other else (payload,)
        exchange.update("BTCUSDT")
        eventually(lambda: feed.synchronizer.gap_since is not None, "the gap")

        def is_as_old_as_the_gap() -> bool:
            exchange.update("BTCUSDT")  # which comes, and waits behind the gap
            return manager.get_status("BTCUSDT").proof_age_s > 0.3

        eventually(is_as_old_as_the_gap, "that the gap counts")
        assert manager.is_depth_cache_synchronized("BTCUSDT")
