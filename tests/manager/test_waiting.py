"""One thread waits for many markets, over real sockets."""

import contextlib
import os
import threading

import pytest
from live_kit import eventually, live, no_jitter, no_thread_is_left, reach, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, RestReply

from ldc.errors import DepthCacheAlreadyStopped, DepthCacheNotFound, DepthCacheOutOfSync
from ldc.feed import cpus
from ldc.manager.manager import BinanceLocalDepthCacheManager

pytestmark = pytest.mark.usefixtures("no_jitter")

MARKETS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")


@contextlib.contextmanager
def three(**parameters):
    """Three synchronized markets, and the ids at which their books stand."""
    with live(markets=MARKETS, **parameters) as (exchange, manager):
        synchronize(exchange, manager, *MARKETS)
        yield exchange, manager, {market: manager.get_book(market, 1).last_update_id for market in MARKETS}


@contextlib.contextmanager
def waiting(manager, *arguments):
    """A thread in `wait_for_any`; yield where its result, or what it raised, will be, and check that it ends."""
    results = []

    def run():
        try:
            results.append(manager.wait_for_any(*arguments))
        except (DepthCacheOutOfSync, DepthCacheAlreadyStopped) as error:
            results.append((error.market, error.cause))

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: manager.get_depth_cache(MARKETS[-1]).live.binding.waiting, "the waiting thread")
    yield results
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_greenlets_wait_for_many_without_compiled_code(monkeypatch):
    monkeypatch.setattr("ldc.manager.waiting.has_system_threads", lambda: False)
    with three() as (exchange, manager, seen):
        with waiting(manager, MARKETS, seen) as results:
            last = exchange.update("ETHUSDT")
        assert results == [{"ETHUSDT": last}]
        assert manager.wait_for_any(MARKETS, seen | {"ETHUSDT": last}, timeout=0.01) == {}


@pytest.mark.parametrize("markets_per_connection", [1, 100])
@pytest.mark.parametrize("moving", MARKETS)
def test_the_first_market_that_moves_ends_the_wait(markets_per_connection, moving):
    with three(markets_per_connection=markets_per_connection) as (exchange, manager, seen):
        with waiting(manager, MARKETS, seen) as results:
            last = exchange.update(moving)
        assert results == [{moving: last}]
        with waiting(manager, None, None, PATIENCE_S) as results:  # all markets, past what they are at
            last = exchange.update(moving)
        assert results == [{moving: last}]
        assert all(manager.get_depth_cache(market).live.binding.waiting == 0 for market in MARKETS)


def test_every_market_that_has_moved_is_returned_by_the_name_that_was_given():
    with three() as (exchange, manager, seen):
        reached = {market: reach(exchange, manager, market) for market in MARKETS[:2]}
        assert manager.wait_for_any(["btcusdt", "ETHUSDT", "bnbUSDT"], seen) == {
            "btcusdt": reached["BTCUSDT"],
            "ETHUSDT": reached["ETHUSDT"],
        }
        assert manager.wait_for_any("btcusdt", seen | {"DOGEUSDT": 1}) == {"btcusdt": reached["BTCUSDT"]}
        assert manager.wait_for_any(MARKETS, seen | reached, timeout=0.01) == {}
        assert manager.wait_for_any(MARKETS, seen | reached, timeout=0.01, spin_us=100) == {}
        assert manager.wait_for_any(MARKETS, {}) == seen | reached  # nothing was seen yet
        assert manager.wait_for_any(MARKETS, {"BNBUSDT": seen["BNBUSDT"]}) == reached


def test_a_lost_market_ends_the_wait_and_without_its_id_it_is_waited_for():
    with three() as (exchange, manager, seen):
        hold = threading.Event()
        exchange.on_rest = lambda request: RestReply(body=exchange.snapshot("ETHUSDT", request.limit), hold=hold)
        with waiting(manager, MARKETS, seen) as results:
            exchange.update("ETHUSDT", is_sent=False)
            exchange.update("ETHUSDT")
        assert results == [("ETHUSDT", "GAP")]
        with pytest.raises(DepthCacheOutOfSync, match="ETHUSDT"):
            manager.wait_for_any(MARKETS, seen)
        del seen["ETHUSDT"]
        with waiting(manager, MARKETS, seen) as results:
            last = exchange.update("BTCUSDT")
        assert results == [{"BTCUSDT": last}]
        seen["BTCUSDT"] = last
        with waiting(manager, MARKETS, seen) as results:
            hold.set()
        assert set(results[0]) == {"ETHUSDT"}


def test_a_stop_ends_the_wait_for_many():
    with three() as (_, manager, seen):
        with waiting(manager, MARKETS, seen) as results:
            manager.stop_depth_cache("ETHUSDT")
        assert results == [("ETHUSDT", "STOPPED")]
        with pytest.raises(DepthCacheAlreadyStopped):
            manager.wait_for_any(MARKETS, seen)
        with pytest.raises(DepthCacheNotFound):
            manager.wait_for_any(["DOGEUSDT"], {})
        with pytest.raises(ValueError, match="no market to wait for"):
            manager.wait_for_any([])
        with pytest.raises(ValueError, match="timeout is a number of seconds"):
            manager.wait_for_any(timeout=float("nan"))
        manager.stop_manager()
        with pytest.raises(DepthCacheAlreadyStopped):
            manager.wait_for_any()


def test_the_feeds_own_thread_cannot_wait_for_many():
    with three() as (_, manager, seen):
        group, raised = manager.get_depth_cache("ETHUSDT").group, []

        def work(_now):
            try:
                manager.wait_for_any(MARKETS, seen)
            except RuntimeError as error:
                raised.append(str(error))

        group.post(work)
        eventually(lambda: raised, "the refusal")
        assert "cannot wait for it; wait in another thread" in raised[0]


# ------------------------------------------------------------------------------------------------ spinning and CPUs


def test_a_feed_that_spins_does_all_that_one_that_sleeps_does():
    with three(feed_spin=True) as (exchange, manager, seen):
        for market in MARKETS:
            last = exchange.update(market)
            assert manager.wait_for_any(MARKETS, seen, PATIENCE_S, spin_us=50) == {market: last}
            seen[market] = last
        assert manager.wait_for_update("BTCUSDT", seen["BTCUSDT"], timeout=0.01, spin_us=100) is None
        exchange.subscribed().reset()
        eventually(lambda: manager.get_restart_count("BTCUSDT"), "the reconnect")
        synchronize(exchange, manager, *MARKETS)


@pytest.mark.skipif(not cpus.CAN_CHOOSE, reason="threads cannot choose their CPUs here")
def test_feed_threads_run_on_the_given_cpus_and_connectors_on_all(monkeypatch):
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    connectors = []
    whole = cpus.run_on_all_cpus

    def noted():
        whole()
        connectors.append(os.sched_getaffinity(threading.get_native_id()))

    monkeypatch.setattr("ldc.feed.connection.run_on_all_cpus", noted)
    with three(feed_cpus={one}) as (_, manager, _):
        found = []
        manager.get_depth_cache("BTCUSDT").group.post(
            lambda _now: found.append(os.sched_getaffinity(threading.get_native_id()))
        )
        eventually(lambda: found, "the group's CPUs")
        assert found == [{one}]
        assert connectors[0] == allowed
        assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("feed_cpus", [set(), {-1}, {10_000}, {"0"}, 0, {0.5}])
def test_cpus_that_do_not_exist_are_refused(feed_cpus):
    with pytest.raises(ValueError, match="feed_cpus"):
        BinanceLocalDepthCacheManager(feed_cpus=feed_cpus)


def test_cpus_are_refused_where_a_thread_cannot_choose(monkeypatch):
    monkeypatch.setattr(cpus, "CAN_CHOOSE", False)
    with pytest.raises(ValueError, match="leave it out"):
        BinanceLocalDepthCacheManager(feed_cpus={0})


def test_spinning_is_true_or_false():
    with pytest.raises(ValueError, match="feed_spin"):
        BinanceLocalDepthCacheManager(feed_spin=1)
