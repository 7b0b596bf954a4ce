"""The manager as its users see it, over real sockets: every method, every parameter, every promise."""

import contextlib
import gc
import math
import threading
import time
import warnings

import pytest
from live_kit import (  # noqa: F401
    TRIES,
    assert_exact,
    connection_count,
    eventually,
    live,
    no_jitter,
    no_thread_is_left,
    reach,
    synchronize,
)
from log_kit import logged
from loopback_exchange import PATIENCE_S, LoopbackExchange, Market, RestReply

import binance_local_depth_cache
import ldc.manager.manager
import ldc.manager.routes
from ldc.errors import (
    DepthCacheAlreadyStopped,
    DepthCacheNotFound,
    DepthCacheOutOfSync,
    UnknownExchange,
    UnknownMarket,
)
from ldc.limits import Timing
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.types import Cause, SyncState

pytestmark = pytest.mark.usefixtures("no_jitter")

# ------------------------------------------------------------------------------------------------ reading and updates


@pytest.mark.parametrize("kind", ["spot", "usdm", "coinm"])
@pytest.mark.parametrize("markets_per_connection", [1, 100])
def test_a_market_is_synchronized_followed_and_exact(kind, markets_per_connection):
    markets = ("BTCUSDT", "ETHUSDT")
    with live(kind, markets, markets_per_connection=markets_per_connection) as (exchange, manager):
        synchronize(exchange, manager, *markets)
        for _ in range(20):
            for market in markets:
                reach(exchange, manager, market)
                assert_exact(exchange, manager, market)
        assert len(exchange.connections) == (2 if markets_per_connection == 1 else 1)
        assert {request.path for request in exchange.rest_requests} == {exchange.depth_path}
        assert manager.get_status("BTCUSDT").resyncs == {}


def test_the_example_program_runs_as_it_stands(monkeypatch, capsys):
    with LoopbackExchange() as exchange:
        exchange.add_market()
        whole = binance_local_depth_cache.BinanceLocalDepthCacheManager

        def manager_at_the_loopback(**parameters):
            return whole(**parameters, **exchange.uris)

        monkeypatch.setattr(binance_local_depth_cache, "BinanceLocalDepthCacheManager", manager_at_the_loopback)
        names: dict[str, object] = {}
        exec(EXAMPLE, names)
    printed = capsys.readouterr().out
    assert printed.startswith(("Top 10 asks: [[", "ERROR: ")), printed


EXAMPLE = """
import binance_local_depth_cache
from binance_local_depth_cache import DepthCacheOutOfSync
depth_cache = binance_local_depth_cache.BinanceLocalDepthCacheManager(exchange="binance.com")
depth_cache.create_depth_cache("BTCUSDT")
try:
    print(f"Top 10 asks: {depth_cache.get_asks(market='BTCUSDT')[:10]}")
    print(f"Top 10 bids: {depth_cache.get_bids(market='BTCUSDT')[:10]}")
except DepthCacheOutOfSync as error_msg:
    print(f"ERROR: {error_msg}")
depth_cache.is_depth_cache_synchronized("BTCUSDT")
depth_cache.stop_depth_cache("BTCUSDT")
depth_cache.stop_manager_with_all_depth_caches()
"""


def test_reads_return_levels_best_first_up_to_the_limit():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        assert manager.get_asks("BTCUSDT", 2) == [[100.01, 3.25], [100.02, 4.25]]
        assert manager.get_bids(market="btcusdt", limit_count=2) == [[99.99, 2.5], [99.98, 3.5]]
        assert manager.get_asks("BTCUSDT", threshold_volume=400) == [[100.01, 3.25]]
        assert len(manager.get_asks("BTCUSDT")) == 20
        book = manager.get_book("BTCUSDT", 3)
        assert (len(book.bids), len(book.asks), book.last_update_id) == (3, 3, 1003)
        assert manager.get_depth_cache("BTCUSDT").reader.best_bid == (99.99, 2.5)


def test_a_quiet_market_can_be_read_without_any_update():
    with live() as (exchange, manager):
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        assert manager.get_book("BTCUSDT").last_update_id == 1000
        reach(exchange, manager)
        assert_exact(exchange, manager)


def test_a_book_deepens_step_by_step_without_being_taken_away():
    with live() as (exchange, manager):
        exchange.add_market("DEEPUSDT", levels=6000)
        synchronize(exchange, manager, "DEEPUSDT")
        cache = manager.get_depth_cache("DEEPUSDT")
        counts = set()

        def is_deep():
            exchange.update("DEEPUSDT", bids=[("99.99", "1")])
            assert cache.is_synchronized
            counts.add(cache.reader.bid_count)
            return cache.reader.bid_count >= 5000

        eventually(is_deep, "the deepest snapshot")
        assert counts >= {100, 5000}
        assert [request.limit for request in exchange.rest_requests] == [100, 1000, 5000]
        assert_exact(exchange, manager, "DEEPUSDT")


# ------------------------------------------------------------------------------------------------ waiting


def test_wait_for_update_returns_the_new_id_or_none_at_the_timeout():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        assert manager.wait_for_update("BTCUSDT", 1002) == 1003
        assert manager.wait_for_update("BTCUSDT", 1003, timeout=0.01) is None
        results = []
        waiters = [
            threading.Thread(target=lambda: results.append(manager.wait_for_update("BTCUSDT", timeout=PATIENCE_S)))
            for _ in range(5)
        ]
        for waiter in waiters:
            waiter.start()
        binding = manager.get_depth_cache("BTCUSDT").live.binding
        eventually(lambda: binding.waiting == 5, "five waiting threads")
        exchange.update()
        for waiter in waiters:
            waiter.join(PATIENCE_S)
        assert results == [1006] * 5
        assert binding.waiting == 0


def in_thread(call):
    """Call something in a thread; return the thread, and where its result, or what it raised, will be."""
    results = []

    def run():
        try:
            results.append(call())
        except DepthCacheOutOfSync as error:
            results.append((error.cause, str(error)))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@contextlib.contextmanager
def lost(exchange, manager):
    """BTCUSDT, out of sync for a lost update; what comes in the end of the block is its next snapshot."""
    hold = threading.Event()
    exchange.on_rest = lambda request: RestReply(body=exchange.snapshot("BTCUSDT", request.limit), hold=hold)
    exchange.update(is_sent=False)
    exchange.update()
    eventually(lambda: not manager.is_depth_cache_synchronized("BTCUSDT"), "the loss")
    try:
        yield hold
    finally:
        hold.set()


@pytest.mark.parametrize("after", [1003, None])
def test_a_wait_for_an_update_raises_at_once_when_the_book_is_lost(after):
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        waiter, results = in_thread(lambda: manager.wait_for_update("BTCUSDT", after))  # without a timeout
        binding = manager.get_depth_cache("BTCUSDT").live.binding
        eventually(lambda: binding.waiting, "the waiting thread")
        with lost(exchange, manager):  # its snapshot is held back: nothing else can wake anybody
            waiter.join(PATIENCE_S)
            assert not waiter.is_alive()
        assert results[0][0] == "GAP"
        assert "(cause: GAP): an update was lost; " in results[0][1]
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        assert_exact(exchange, manager)


def test_a_wait_with_an_id_raises_for_a_book_lost_before_the_call_and_one_without_waits():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        with lost(exchange, manager) as hold:
            with pytest.raises(DepthCacheOutOfSync) as caught:
                manager.wait_for_update("BTCUSDT", 1003, PATIENCE_S)
            assert caught.value.cause == "GAP"
            assert manager.wait_for_update("BTCUSDT", timeout=0.01) is None
            waiter, results = in_thread(lambda: manager.wait_for_update("BTCUSDT"))
            binding = manager.get_depth_cache("BTCUSDT").live.binding
            eventually(lambda: binding.waiting, "the waiting thread")
            hold.set()  # no update follows
            waiter.join(PATIENCE_S)
        assert results == [1009]
        assert manager.get_status("BTCUSDT").resyncs == {"GAP": 1}
        assert manager.wait_for_update("BTCUSDT", 1003) == 1009  # it is past the loss, which the caller need not know
        assert_exact(exchange, manager)


def test_a_wait_with_an_id_from_before_a_restart_of_the_ids_returns():
    with live() as (exchange, manager):
        exchange.add_market("ETHUSDT", last_update_id=5_000_000)
        synchronize(exchange, manager, "ETHUSDT")
        seen = manager.get_book("ETHUSDT").last_update_id
        waiter, results = in_thread(lambda: manager.wait_for_update("ETHUSDT", seen))
        binding = manager.get_depth_cache("ETHUSDT").live.binding
        eventually(lambda: binding.waiting, "the waiting thread")
        exchange.add_market("ETHUSDT", last_update_id=2_000)  # the same market, with restarted ids

        def is_noticed():
            exchange.update("ETHUSDT")
            return manager.get_status("ETHUSDT").resyncs

        eventually(is_noticed, "the restart of the ids to be noticed")
        waiter.join(PATIENCE_S)
        assert not waiter.is_alive()
        assert results[0] < seen if isinstance(results[0], int) else results[0][0] == "IDS_WENT_BACK"
        # A later call with an id from before the restart returns too.
        reached = reach(exchange, manager, "ETHUSDT")
        assert 2_000 < reached < seen
        assert manager.wait_for_update("ETHUSDT", seen, PATIENCE_S) == reached
        waiter, results = in_thread(lambda: manager.wait_for_update("ETHUSDT", reached))
        last = exchange.update("ETHUSDT")
        waiter.join(PATIENCE_S)
        assert results == [last]
        assert manager.wait_for_update("ETHUSDT", seen + 1, timeout=0.01) is None  # which no caller can have read


def test_wait_until_synchronized_is_false_at_the_timeout_and_waits_for_all():
    with live(markets=("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        hold = threading.Event()
        exchange.on_rest = lambda request: (
            RestReply(body=exchange.snapshot("ETHUSDT", 100), hold=hold) if request.symbol == "ETHUSDT" else None
        )
        manager.create_depth_cache(["BTCUSDT", "ETHUSDT"])
        assert manager.wait_until_synchronized(["BTCUSDT"], PATIENCE_S)
        assert not manager.wait_until_synchronized(timeout=0.05)
        hold.set()
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)


def test_a_timeout_is_a_number_and_may_be_beyond_what_a_lock_can_wait():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        for wait in (
            lambda timeout: manager.wait_until_synchronized(timeout=timeout),
            lambda timeout: manager.wait_for_update("BTCUSDT", timeout=timeout),
            lambda timeout: cache.wait_until_synchronized(timeout),
            lambda timeout: cache.wait_for_update(timeout=timeout),
        ):
            with pytest.raises(ValueError, match="not nan"):
                wait(math.nan)
        waiter, results = in_thread(lambda: cache.wait_for_update(1003, timeout=2.0**70))
        eventually(lambda: cache.live.binding.waiting, "the waiting thread")
        exchange.update()
        waiter.join(PATIENCE_S)
        assert results == [1006]


@pytest.mark.parametrize("wait", ["wait_until_synchronized", "wait_for_update"])
def test_a_refresh_that_makes_a_book_readable_again_ends_a_wait(wait):
    with live(snapshot_limit=5) as (exchange, manager):
        synchronize(exchange, manager)
        hold = threading.Event()
        exchange.on_rest = lambda request: RestReply(body=exchange.snapshot("BTCUSDT", 5), hold=hold)
        exchange.update(bids=[(f"{100 - n * 0.01:.2f}", "0") for n in range(1, 6)])
        eventually(lambda: manager.get_status("BTCUSDT").cause == Cause.LEFT_HORIZON, "the end of what is known")
        assert manager.get_status("BTCUSDT").state is SyncState.SYNCHRONIZED
        results = []
        waiter = threading.Thread(target=lambda: results.append(getattr(manager, wait)("BTCUSDT", timeout=PATIENCE_S)))
        waiter.start()
        binding = manager.get_depth_cache("BTCUSDT").live.binding
        eventually(lambda: binding.waiting, "the waiting thread")
        hold.set()  # no update follows
        began = time.monotonic()
        waiter.join(PATIENCE_S)
        assert time.monotonic() - began < PATIENCE_S / 2
        assert results == [True if wait == "wait_until_synchronized" else 1006]
        assert_exact(exchange, manager)


def test_waiting_for_what_does_not_exist_raises():
    with live() as (exchange, manager):
        for wait in (manager.wait_until_synchronized, manager.wait_for_update):
            with pytest.raises(DepthCacheNotFound, match="ETHUSDT"):
                wait("ETHUSDT")
        manager.create_depth_cache("NOSUCHUSDT")
        for wait in (manager.wait_until_synchronized, manager.wait_for_update):
            with pytest.raises(UnknownMarket, match=r"NOSUCHUSDT.*-1121") as caught:
                wait("NOSUCHUSDT", timeout=PATIENCE_S)
            assert caught.value.cause == Cause.UNKNOWN_MARKET
        with pytest.raises(UnknownMarket, match="NOSUCHUSDT"):
            manager.get_asks("NOSUCHUSDT")
        assert len(exchange.requests_of("NOSUCHUSDT")) == 2  # the second one confirms the first
        status = manager.get_status("NOSUCHUSDT")
        assert (status.state, status.cause) == (SyncState.FAILED, Cause.UNKNOWN_MARKET)


@pytest.mark.parametrize("wait", ["wait_until_synchronized", "wait_for_update"])
@pytest.mark.parametrize("end", ["stop_depth_cache", "stop_manager"])
def test_the_end_of_a_market_ends_a_wait(wait, end):
    with live() as (exchange, manager):
        exchange.on_handshake = lambda connection, answer: None
        manager.create_depth_cache("BTCUSDT")
        raised = []

        def run():
            with pytest.raises(DepthCacheAlreadyStopped) as caught:
                getattr(manager, wait)("BTCUSDT", timeout=PATIENCE_S)
            raised.append(caught.value.market)

        waiter = threading.Thread(target=run)
        binding = manager.get_depth_cache("BTCUSDT").live.binding
        waiter.start()
        eventually(lambda: binding.waiting, "the waiting thread")
        getattr(manager, end)(*(["BTCUSDT"] if end == "stop_depth_cache" else []))
        waiter.join(PATIENCE_S)
        assert raised == ["BTCUSDT"]


def test_a_wait_for_a_market_created_while_the_manager_stops_ends():
    for _ in range(50):
        with live() as (_, manager):
            manager.create_depth_cache("BTCUSDT")
            cache = manager.get_depth_cache("BTCUSDT")
            manager.stop_manager()
            with pytest.raises(DepthCacheAlreadyStopped):
                cache.wait_until_synchronized(PATIENCE_S)


# ------------------------------------------------------------------------------------------------ life


def test_old_and_new_names_do_the_same():
    with live() as (exchange, manager):
        assert manager.create_depthcache("BTCUSDT") is True
        assert manager.get_list_of_depthcaches() == manager.get_list_of_depth_caches() == ["BTCUSDT"]
        exchange.subscribed()
        assert manager.stop_depthcache("BTCUSDT") is True
        assert manager.get_list_of_depthcaches() == []
        assert manager.stop_manager_with_all_depth_caches() is True


def test_what_exists_is_left_alone_and_what_was_stopped_starts_again():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        before = manager.get_depth_cache("BTCUSDT")
        assert manager.create_depth_cache("btcUSDT")
        assert manager.get_depth_cache("BTCUSDT") is before
        assert manager.stop_depth_cache("btcusdt")
        for read in (manager.get_asks, manager.get_book, manager.get_status, manager.wait_for_update):
            with pytest.raises(DepthCacheAlreadyStopped, match="BTCUSDT"):
                read("BTCUSDT")
        eventually(lambda: not before.is_synchronized, "the end of the book")
        with pytest.raises(DepthCacheAlreadyStopped) as caught:
            before.reader.bids()
        assert caught.value.cause == Cause.STOPPED
        with pytest.raises(DepthCacheAlreadyStopped):
            before.wait_for_update(timeout=PATIENCE_S)
        assert manager.is_stop_request("BTCUSDT")
        synchronize(exchange, manager)
        assert not manager.is_stop_request("BTCUSDT")
        reach(exchange, manager)
        assert_exact(exchange, manager)


def test_markets_are_added_and_removed_live_on_the_open_connection():
    with live(markets=("AUSDT", "BUSDT", "CUSDT"), markets_per_connection=100) as (exchange, manager):
        synchronize(exchange, manager, "AUSDT")
        synchronize(exchange, manager, "BUSDT", "CUSDT")
        manager.stop_depth_cache("BUSDT")
        connection = exchange.connection()
        exchange.wait_for(lambda: exchange.stream("BUSDT") not in connection.streams, "the end of the subscription")
        reach(exchange, manager, "AUSDT")
        reach(exchange, manager, "CUSDT")
        assert len(exchange.connections) == 1
        methods = [(request["method"], request["params"]) for request in connection.requests()]
        assert methods[0] == ("SUBSCRIBE", ["ausdt@depth@100ms"])
        assert sorted(param for method, params in methods[1:] if method == "SUBSCRIBE" for param in params) == [
            "busdt@depth@100ms", "cusdt@depth@100ms",
        ]  # fmt: skip
        assert methods[-1] == ("UNSUBSCRIBE", ["busdt@depth@100ms"])


def test_updates_of_a_market_just_stopped_are_no_fault():
    with live(markets=("AUSDT", "BUSDT")) as (exchange, manager):
        synchronize(exchange, manager, "AUSDT", "BUSDT")
        group = manager.get_depth_cache("AUSDT").group
        exchange.on_request = lambda connection, request: ()  # the end of the subscription is not noticed
        manager.stop_depth_cache("BUSDT")
        exchange.update("BUSDT")
        reach(exchange, manager, "AUSDT")
        assert sum(group.messages_dropped.values()) == 0


def test_a_manager_that_was_stopped_stays_stopped():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        assert not manager.is_stop_request()
        assert manager.stop_manager()
        assert manager.stop_manager()
        assert manager.is_stop_request()
        assert manager.is_stop_request("BTCUSDT")
        with pytest.raises(DepthCacheAlreadyStopped):
            manager.get_bids("BTCUSDT")
        with pytest.raises(DepthCacheAlreadyStopped):
            manager.create_depth_cache("BTCUSDT")
        with pytest.raises(DepthCacheAlreadyStopped):
            manager.wait_until_synchronized()
        assert exchange.connections[0].ended.wait(PATIENCE_S)


def test_an_empty_group_ends_and_takes_its_connection_along():
    with live(markets=("AUSDT", "BUSDT"), markets_per_connection=1) as (exchange, manager):
        synchronize(exchange, manager)
        thread = manager.get_depth_cache("AUSDT").group._loop._thread
        manager.stop_depth_cache("AUSDT")
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        reach(exchange, manager, "BUSDT")
        synchronize(exchange, manager, "AUSDT")


def test_a_connection_is_closed_with_a_close_frame():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        manager.stop_manager()
        connection = exchange.connections[0]
        assert connection.ended.wait(PATIENCE_S)
        assert [message.payload for message in connection.opcodes(8)] == [(1000).to_bytes(2, "big")]


def test_a_normal_stop_logs_no_warning(caplog):
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        manager.stop_manager()
    assert [record.message for record in logged(caplog).records if record.levelno >= 30] == []


def test_the_constructor_opens_nothing():
    with LoopbackExchange() as exchange:
        threads = set(threading.enumerate())
        manager = BinanceLocalDepthCacheManager(**exchange.uris)
        assert set(threading.enumerate()) <= threads
        assert manager.stop_manager()
        assert exchange.connections == exchange.rest_requests == []


# ------------------------------------------------------------------------------------------------ requests and state


def test_a_refresh_on_request_takes_a_snapshot_and_never_the_book():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        before = len(exchange.rest_requests)
        assert manager.set_refresh_request(["BTCUSDT"])
        exchange.wait_for(lambda: len(exchange.rest_requests) == before + 1, "the snapshot")
        reach(exchange, manager)
        eventually(lambda: sum(manager.get_status("BTCUSDT").audits.values()), "the audit")
        assert manager.get_status("BTCUSDT").audits == {"EQUAL": 1}
        assert manager.get_status("BTCUSDT").resyncs == {}


@pytest.mark.parametrize("unsubscribe", [True, False])
def test_a_resync_on_request_synchronizes_again(unsubscribe):
    with live(markets=("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        synchronize(exchange, manager)
        connection = exchange.connection_of("BTCUSDT")
        assert manager.set_resync_request("BTCUSDT", unsubscribe=unsubscribe)
        eventually(lambda: manager.get_status("BTCUSDT").resyncs == {"REQUESTED": 1}, "the resync")
        if unsubscribe:
            exchange.wait_for(lambda: len(connection.requests("SUBSCRIBE")) == 2, "the new subscription")
        exchange.update()
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        reach(exchange, manager)
        assert_exact(exchange, manager)
        assert len(connection.requests("UNSUBSCRIBE")) == unsubscribe
        assert len(exchange.requests_of("BTCUSDT")) == 2
        assert manager.get_status("ETHUSDT").resyncs == {}


def test_status_and_times_tell_what_happened():
    with live() as (exchange, manager):
        manager.create_depth_cache("btcUsdt")
        status = manager.get_status("BTCUSDT")
        assert (status.market, status.exchange, status.is_synchronized) == ("btcUsdt", "binance.com", False)
        assert status.cause == Cause.NOT_LOADED
        assert manager.get_last_update_time("BTCUSDT") is None
        began = time.time()
        synchronize(exchange, manager)
        reach(exchange, manager)
        status = manager.get_status("BTCUSDT")
        assert (status.state, status.cause, status.last_update_id) == (SyncState.SYNCHRONIZED, None, 1006)
        assert abs(status.state_since - began) < PATIENCE_S
        assert abs(manager.get_last_update_time("BTCUSDT") / 1000 - time.time()) < PATIENCE_S
        assert (manager.get_last_restart_time("BTCUSDT"), manager.get_restart_count("BTCUSDT")) == (None, 0)
        exchange.connections[0].reset()
        exchange.subscribed(number=2)
        reach(exchange, manager)
        eventually(lambda: manager.get_restart_count("BTCUSDT") == 1, "the restart")
        assert abs(manager.get_last_restart_time("BTCUSDT") - time.time()) < PATIENCE_S
        status = manager.get_status("BTCUSDT")
        assert (status.resyncs, status.restart_count, status.reconnects) == ({"STREAM_CLOSED": 1}, 1, 1)
        assert "reset" in status.last_error.lower()


def test_only_print_summary_prints(capsys):
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        assert manager.get_version() in manager.get_user_agent()
        assert capsys.readouterr() == ("", "")
        manager.print_summary()
        printed = capsys.readouterr().out
        assert "BTCUSDT" in printed
        assert "SYNCHRONIZED" in printed


def test_reading_out_of_sync_raises_with_the_market_and_the_cause():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        hold = threading.Event()
        exchange.on_rest = lambda request: hold.wait(PATIENCE_S) and None
        exchange.update(is_sent=False)
        exchange.update()
        eventually(lambda: not manager.is_depth_cache_synchronized("BTCUSDT"), "the gap")
        for read in (manager.get_asks, manager.get_bids, manager.get_book):
            with pytest.raises(DepthCacheOutOfSync, match="BTCUSDT") as caught:
                read("BTCUSDT")
            assert (caught.value.market, caught.value.cause) == ("BTCUSDT", "GAP")
        hold.set()
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)


def test_a_planned_renewal_leaves_every_book_readable():
    markets = ("AUSDT", "BUSDT")
    with live(markets=markets) as (exchange, manager):
        synchronize(exchange, manager)
        caches = [manager.get_depth_cache(market) for market in markets]
        manager.renew_connections()

        def is_taken_over():
            for market in markets:
                exchange.update(market)
            assert all(cache.is_synchronized for cache in caches)
            return all(previous.ended.is_set() for previous in exchange.connections[: connection_count(markets)])

        eventually(is_taken_over, "the end of the handover")
        for market in markets:
            reach(exchange, manager, market)
            assert_exact(exchange, manager, market)
            status = manager.get_status(market)
            assert (status.resyncs, status.restart_count, status.reconnects) == ({}, 0, 1)
        assert len(exchange.connections) == 2 * connection_count(markets)
        assert len(exchange.rest_requests) == 2


# ------------------------------------------------------------------------------------------------ callbacks


def test_on_restart_is_called_after_an_interruption_only():
    calls = []
    with live(markets=("AUSDT", "BUSDT"), on_restart=lambda *call: calls.append(call)) as (exchange, manager):
        synchronize(exchange, manager)
        assert calls == []
        for connection in tuple(exchange.connections):
            connection.close(1001)
        eventually(lambda: len(calls) == 2, "the callbacks")
        assert {market for market, _ in calls} == {"AUSDT", "BUSDT"}
        assert calls[0][1] == manager.get_last_restart_time(calls[0][0])


def test_the_narrower_the_known_range_the_sooner_it_is_made_deeper():
    asked: dict[str, float] = {}
    with live(markets=("AUSDT",)) as (exchange, manager):
        exchange.add_market("AUSDT", levels=150)
        far = [(f"{100 - n:.2f}", "1") for n in range(1, 99)], [(f"{100 + n:.2f}", "1") for n in range(1, 199)]
        exchange.markets["BUSDT"] = Market("BUSDT", 1000, *far)
        manager.create_depth_cache("AUSDT")
        request = manager._own.downloads.request

        def note(symbol, epoch, purpose, limit, *, owner, due, need):
            if purpose is ldc.manager.routes.Purpose.DEEPEN:
                asked[symbol] = need
            request(symbol, epoch, purpose, limit, owner=owner, due=due, need=need)

        manager._own.downloads.request = note
        manager.create_depth_cache("BUSDT")
        eventually(lambda: len(asked) == 2, "two deeper snapshots")
        assert asked["AUSDT"] > 50 > asked["BUSDT"] > 0


def test_a_market_whose_thread_could_not_be_started_starts_when_it_is_created_again(monkeypatch):
    """Once, it was put into the group that had no thread, and was never synchronized."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("ldc-feed"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with live() as (exchange, manager):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                manager.create_depth_cache("BTCUSDT")
        assert manager.get_list_of_depth_caches() == []
        synchronize(exchange, manager)


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_callback_that_raises_disturbs_no_market(caplog, kind):
    def on_restart(market, unix_time):
        raise kind(f"the callback of {market}")

    with live(on_restart=on_restart) as (exchange, manager):
        synchronize(exchange, manager)
        for number in (2, 3):
            exchange.connections[-1].reset()
            exchange.subscribed(number=number)
            reach(exchange, manager)
            assert_exact(exchange, manager)
        eventually(lambda: manager._callbacks.raised == 2, "two exceptions")
    assert "The callback" in logged(caplog).text


def seconds_to_stop_while_a_callback_blocks():
    entered, release = threading.Event(), threading.Event()

    def on_restart(market, unix_time):
        entered.set()
        release.wait(PATIENCE_S)

    with live(on_restart=on_restart) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.connections[0].reset()
        assert entered.wait(PATIENCE_S)
        exchange.subscribed(number=2)
        for _ in range(10):
            reach(exchange, manager)
        began = time.monotonic()
        manager.stop_manager()
        seconds = time.monotonic() - began
        release.set()
    return seconds


def test_a_callback_that_blocks_disturbs_no_market_and_delays_no_stop():
    assert any(seconds_to_stop_while_a_callback_blocks() < 1.0 for _ in range(TRIES))


@pytest.mark.parametrize("action", ["stop_manager", "stop_depth_cache", "set_resync_request", "create_depth_cache"])
def test_a_callback_may_call_the_manager(action):
    done = threading.Event()

    def on_restart(market, unix_time):
        arguments = {"stop_manager": [], "create_depth_cache": ["ETHUSDT"]}.get(action, [market])
        getattr(manager, action)(*arguments)
        done.set()

    with live(markets=("BTCUSDT", "ETHUSDT"), on_restart=on_restart) as (exchange, manager):
        synchronize(exchange, manager, "BTCUSDT")
        exchange.connections[0].reset()
        assert done.wait(PATIENCE_S)
        if action == "create_depth_cache":
            assert manager.wait_until_synchronized("ETHUSDT", PATIENCE_S)


# ------------------------------------------------------------------------------------------------ every parameter


def test_parameters_after_the_exchange_are_keyword_only():
    with pytest.raises(TypeError):
        BinanceLocalDepthCacheManager("binance.com", 60)


@pytest.mark.parametrize(
    ("parameter", "value", "word"),
    [
        ("default_refresh_interval", 0, "default_refresh_interval"),
        ("default_refresh_interval", float("nan"), "default_refresh_interval"),
        ("depth_cache_update_interval", 50, "100, 1000"),
        ("snapshot_limit", 0, "1 level"),
        ("weight_share", 1.5, "weight_share"),
        ("weight_share", 0, "weight_share"),
        ("markets_per_connection", 0, "1 to 1024"),
        ("markets_per_connection", 1025, "1 to 1024"),
        ("init_interval", -1, "init_interval"),
        ("init_time_window", 0, "init_time_window"),
        ("websocket_ping_interval", 0, "websocket_ping_interval"),
        ("websocket_ping_timeout", float("inf"), "websocket_ping_timeout"),
        ("websocket_close_timeout", True, "websocket_close_timeout"),
        ("restful_base_uri", "ftp://host", "https"),
        ("websocket_base_uri", "ws://host/path", "without a path"),
        ("proxy", "gopher://host", "http://"),
        ("ubra_manager", object(), "restful_base_uri"),
        ("ubdcc_address", "http://host", "without a scheme"),
        ("ubdcc_address", 100, "without a scheme"),
    ],
)
def test_a_wrong_parameter_is_refused_by_the_constructor_in_its_users_words(parameter, value, word):
    with pytest.raises(ValueError, match=word):
        BinanceLocalDepthCacheManager(**{parameter: value})


def test_an_unknown_exchange_is_refused_with_the_choices():
    with pytest.raises(UnknownExchange, match=r"binance\.com-futures"):
        BinanceLocalDepthCacheManager("binance.moon")


@pytest.mark.parametrize("name", ["warn_on_update", "disable_colorama", "auto_data_cleanup_stopped_streams"])
def test_ignored_compat_parameters_are_accepted_with_a_warning(name):
    with pytest.warns(DeprecationWarning, match=name):
        BinanceLocalDepthCacheManager(**{name: True})
    with pytest.raises(TypeError, match="no_such_parameter"):
        BinanceLocalDepthCacheManager(no_such_parameter=1)


@pytest.mark.parametrize("where", ["manager", "create"])
def test_a_refresh_interval_refreshes_and_audits(where):
    parameters = {"default_refresh_interval": 0.2 if where == "manager" else 3600}
    with live(**parameters) as (exchange, manager):
        if where == "create":
            manager.create_depth_cache("BTCUSDT", refresh_interval=0.2)
        synchronize(exchange, manager)

        def is_audited():
            exchange.update()
            return manager.get_status("BTCUSDT").audits.get("EQUAL", 0) >= 2

        eventually(is_audited, "two refreshes")
        assert manager.get_status("BTCUSDT").resyncs == {}


def test_a_wrong_refresh_interval_starts_nothing():
    with live() as (_, manager):
        with pytest.raises(ValueError, match="refresh_interval"):
            manager.create_depth_cache("BTCUSDT", refresh_interval=-1)
        assert manager.get_list_of_depth_caches() == []


def test_a_name_that_can_be_no_market_starts_nothing():
    with live() as (_, manager):
        with pytest.raises(ValueError, match="BTC/USDT"):
            manager.create_depth_cache(["ETHUSDT", "BTC/USDT"])
        assert manager.get_list_of_depth_caches() == []


@pytest.mark.parametrize(
    ("kind", "interval", "stream"),
    [
        ("spot", None, "btcusdt@depth@100ms"),
        ("spot", 1000, "btcusdt@depth"),
        ("usdm", None, "btcusdt@depth@100ms"),
        ("usdm", 250, "btcusdt@depth"),
        ("coinm", 500, "btcusdt@depth@500ms"),
    ],
)
def test_the_update_interval_chooses_the_stream(kind, interval, stream):
    with live(kind, depth_cache_update_interval=interval) as (exchange, manager):
        manager.create_depth_cache("BTCUSDT")
        connection = exchange.connection()
        exchange.wait_for(lambda: connection.streams, "the subscription")
        assert connection.streams == {stream}
        assert connection.path == exchange.stream_path


@pytest.mark.parametrize(("snapshot_limit", "limits"), [(50, [50]), (100, [100]), (700, [100, 700])])
def test_the_snapshot_limit_caps_the_requested_levels(snapshot_limit, limits):
    with live(snapshot_limit=snapshot_limit) as (exchange, manager):
        exchange.add_market("DEEPUSDT", levels=900)
        synchronize(exchange, manager, "DEEPUSDT")
        cache = manager.get_depth_cache("DEEPUSDT")

        def is_deep():
            exchange.update("DEEPUSDT")
            return cache.reader.bid_count == snapshot_limit

        eventually(is_deep, "the deepest step")
        assert [request.limit for request in exchange.rest_requests] == limits


@pytest.mark.parametrize(
    ("parameters", "share"), [({"weight_share": 0.5}, 0.5), ({}, 0.8), ({"high_performance": True}, 1)]
)
def test_the_weight_share_bounds_the_weight_of_a_minute(parameters, share):
    markets = tuple(f"M{number}USDT" for number in range(20))
    with live(markets=markets, **parameters) as (exchange, manager):
        # Others at this address have used all but 50 of what the share allows, which is 10 first snapshots.
        others = int(6000 * share) - 50
        date = "Sun, 22 Nov 2026 18:22:10 GMT"  # the exchange's minute has 50 s to go
        exchange.on_rest = lambda request: RestReply(
            200,
            exchange.snapshot(request.symbol, request.limit),
            {"X-MBX-USED-WEIGHT-1M": str(others + used()), "Date": date},
        )

        def used():
            return sum(request.weight for request in tuple(exchange.rest_requests))

        manager.create_depth_cache(markets)

        def synchronized():
            return sum(manager.is_depth_cache_synchronized(market) for market in markets)

        # While requests are in flight, the exchange may have counted any of them; all are counted, to be safe.
        eventually(lambda: synchronized() >= 6, "most of the ten")
        assert not manager.wait_until_synchronized(timeout=0.3)
        assert 30 <= used() <= 50


def test_init_interval_spaces_the_snapshots_of_a_manager():
    markets = ("AUSDT", "BUSDT", "CUSDT")
    with live(markets=markets, init_interval=0.3, snapshot_limit=100) as (exchange, manager):
        began = time.monotonic()  # from here: how far they are apart when they arrive is the machine's business as well
        synchronize(exchange, manager)
        assert len(exchange.rest_requests) == 3
        assert all(request.time - began >= 0.3 * number for number, request in enumerate(exchange.rest_requests))


def test_init_time_window_allows_a_market_one_snapshot_in_it():
    with live(init_time_window=1.0, snapshot_limit=100) as (exchange, manager):
        began = time.monotonic()
        synchronize(exchange, manager)
        manager.set_resync_request("BTCUSDT", unsubscribe=False)
        exchange.update()
        eventually(lambda: len(exchange.rest_requests) == 2, "the second snapshot")
        assert exchange.rest_requests[1].time - began >= 1.0


def test_pings_are_sent_at_the_ping_interval():
    with live(websocket_ping_interval=0.2) as (exchange, manager):
        began = time.monotonic()
        synchronize(exchange, manager)
        connection = exchange.connection()
        exchange.wait_for(lambda: len(connection.opcodes(9)) >= 4, "four pings")
        assert all(ping.time - began >= 0.2 * number for number, ping in enumerate(connection.opcodes(9), 1))


def test_a_link_without_pongs_is_given_up_after_the_ping_timeout():
    with live(websocket_ping_interval=0.2, websocket_ping_timeout=0.5) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.connections[0].is_deaf = True
        exchange.subscribed(number=2)
        reach(exchange, manager)
        assert "no pong within 0.5 s" in manager.get_status("BTCUSDT").last_error


def test_the_close_timeout_bounds_the_wait_for_the_answer():
    patient = Timing(close_s_max=PATIENCE_S, stop_s_max=PATIENCE_S)  # what is waited otherwise
    with live(websocket_close_timeout=0.01, timing=patient) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.connections[0].is_deaf = True
        began = time.monotonic()
        manager.stop_manager()
        assert time.monotonic() - began < 4.0  # until its pings find the link dead, otherwise


def test_the_proxy_is_used_for_both():
    with LoopbackExchange() as proxy:
        uris = {"restful_base_uri": "http://exchange.invalid", "websocket_base_uri": "ws://exchange.invalid"}
        asked = []
        proxy.on_rest = lambda request: asked.append(request.path) or None
        with BinanceLocalDepthCacheManager(**uris, proxy=proxy.restful_base_uri) as manager:
            manager.create_depth_cache("BTCUSDT")
            eventually(lambda: manager.get_status("BTCUSDT").last_error, "an error")
            assert "proxy" in manager.get_status("BTCUSDT").last_error.lower()
            manager._own.downloads.request("BTCUSDT", 1 << 32 | 1, ldc.manager.routes.Purpose.SYNCHRONIZE, 100)
            eventually(lambda: any("depth" in path for path in asked), "a snapshot through the proxy")


def test_a_manager_that_nobody_holds_warns_and_continues():
    with LoopbackExchange() as exchange:
        exchange.add_market()
        manager = BinanceLocalDepthCacheManager("binance.com", **exchange.uris)
        synchronize(exchange, manager)
        cache, routes = manager.get_depth_cache("BTCUSDT"), manager._own.routes
        with pytest.warns(ResourceWarning, match=r"'BTCUSDT', continue; call stop_manager\(\)"):
            del manager
        last = exchange.update()
        assert cache.wait_for_update(last - 1, PATIENCE_S) == last
        exchange.update(is_sent=False)  # a lost update: the snapshots of its resync still come
        reached = exchange.update()
        eventually(lambda: cache.is_synchronized and cache.reader.last_update_id >= reached, "the resync")
        cache.group.stop()
        assert cache.group.join(PATIENCE_S)
        routes.downloads.close()


def test_a_stopped_or_unused_manager_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager = BinanceLocalDepthCacheManager("binance.com")
        del manager
        with live() as (exchange, manager):
            synchronize(exchange, manager)
        del manager
        gc.collect()


def test_the_user_agent_is_said_to_both():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        agents = {exchange.rest_requests[0].headers["user-agent"], exchange.connections[0].headers["user-agent"]}
        assert agents == {manager.get_user_agent()}
