"""Many markets, many managers, many starts and stops: within the exchange's limits, in time, without a leak."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_kit import (  # noqa: F401
    TRIES,
    assert_exact,
    assert_polite,
    connection_count,
    eventually,
    live,
    no_jitter,
    no_thread_is_left,
    reach,
    sent_at,
    synchronize,
)
from loopback_exchange import PATIENCE_S, LoopbackExchange

from ldc.errors import DepthCacheAlreadyStopped
from ldc.feed.group import FeedGroup
from ldc.manager.manager import BinanceLocalDepthCacheManager

MARKETS = tuple(f"M{number:03}USDT" for number in range(200))

PROGRAM_S_MAX = 3 * PATIENCE_S
"""For a program of its own: where ten others run, an interpreter takes five seconds to begin."""


def most_in_any_window(events: list[tuple[float, int]], window_s: float) -> int:
    """Return the largest sum of events (time, amount) in any window of that length."""
    events = sorted(events)
    return max(
        sum(amount for time, amount in events[place:] if time < began + window_s)
        for place, (began, _) in enumerate(events)
    )


def test_200_markets_are_readable_in_time_within_the_weight_and_the_message_limits(sent_at):  # noqa: F811
    with live(markets=MARKETS, markets_per_connection=100) as (exchange, manager):
        began = time.monotonic()
        manager.create_depth_cache(MARKETS)
        assert manager.wait_until_synchronized(timeout=30)
        print(f"200 markets were readable after {time.monotonic() - began:.1f} s")
        for market in MARKETS:
            reach(exchange, manager, market)
            assert_exact(exchange, manager, market)
        weights = [(request.time, request.weight) for request in exchange.rest_requests]
        assert most_in_any_window(weights, 60.0) <= 0.8 * 6000
        assert {request.status for request in exchange.rest_requests} == {200}
        assert len(exchange.connections) == 2
        for connection in exchange.connections:
            sizes = [len(request["params"]) for request in connection.requests()]
            assert (sum(sizes), len(sizes) <= 4) == (100, True)  # the first went out while the last were being created
        assert_polite(exchange, sent_at)


def test_200_markets_with_deep_books_never_exceed_the_share():
    with live(weight_share=0.5) as (exchange, manager):
        for market in MARKETS:
            exchange.add_market(
                market, levels=101
            )  # more than the first snapshot brings, so that each wants a deeper one
        manager.create_depth_cache(MARKETS)
        assert manager.wait_until_synchronized(MARKETS, timeout=30)
        for market in MARKETS:
            exchange.update(market)
        # What follows the 1000 of the first snapshots is spare: the share is used up to three quarters, and no further.
        eventually(lambda: sum(request.weight for request in exchange.rest_requests) >= 2000, "deeper snapshots")
        weights = [(request.time, request.weight) for request in tuple(exchange.rest_requests)]
        assert most_in_any_window(weights, 60.0) <= 0.5 * 6000
        assert {exchange.requests_of(market)[0].limit for market in MARKETS} == {100}


def test_markets_created_one_by_one_on_an_open_connection_cost_few_requests(sent_at):  # noqa: F811
    with live(markets=MARKETS[:90], markets_per_connection=100) as (exchange, manager):
        synchronize(exchange, manager, MARKETS[0])
        connection = exchange.connection()
        for market in MARKETS[1:90]:
            manager.create_depth_cache(market)
        assert manager.wait_until_synchronized(timeout=30)
        for market in MARKETS[1:90]:
            manager.set_resync_request(market)
        exchange.wait_for(
            lambda: sum(len(request["params"]) for request in connection.requests("SUBSCRIBE")) == 179, "all"
        )
        assert manager.wait_until_synchronized(timeout=30)
        assert len(connection.requests()) <= 12
        assert_polite(exchange, sent_at)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors cannot be counted here")
def test_starts_and_stops_leave_no_thread_descriptor_or_socket():
    """200 of them, or LDC_CYCLES. The process may open 300 connections to one address in five minutes."""
    for first in range(0, int(os.environ.get("LDC_CYCLES", "200")), 200):
        start_and_stop_200_times(first)


def start_and_stop_200_times(first: int) -> None:
    with LoopbackExchange() as exchange:
        for market in MARKETS[:3]:
            exchange.add_market(market)

        def cycle(number: int) -> None:
            manager = BinanceLocalDepthCacheManager(
                **exchange.uris, markets_per_connection=1 if number % 20 == 0 else 100
            )
            manager.create_depth_cache(MARKETS[:3])
            if number % 4 == 0:
                stream = exchange.stream(MARKETS[0])
                exchange.wait_for(
                    lambda: any(stream in each.streams for each in exchange.connections if each.is_open), "it"
                )
            if number % 8 == 0:
                exchange.update(MARKETS[0])
            if number % 3 == 0:
                manager.stop_depth_cache(MARKETS[:2])
                manager.create_depth_cache(MARKETS[1])
            manager.stop_manager()

        def is_quiet() -> bool:
            gc.collect()
            ours = [thread.name for thread in threading.enumerate() if thread.name.startswith("ldc-")]
            return ours == ["ldc-simulator"] and not exchange.sockets_open

        cycle(0)
        eventually(is_quiet, "the end of the first cycle")
        descriptors, threads = open_descriptors(), threading.active_count()
        for number in range(first + 1, first + 201):
            cycle(number)
        eventually(is_quiet, "the end of all cycles")
        eventually(lambda: open_descriptors() <= descriptors, f"{descriptors} descriptors again")
        eventually(lambda: threading.active_count() <= threads, f"{threads} threads again")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors cannot be counted here")
def test_starting_and_stopping_markets_of_one_manager_leaves_nothing():
    with live(markets=MARKETS[:20], markets_per_connection=100) as (exchange, manager):
        synchronize(exchange, manager)

        def cycle() -> None:
            manager.stop_depth_cache(MARKETS[1:20])
            manager.create_depth_cache(MARKETS[1:20])

        cycle()
        descriptors, threads = open_descriptors(), threading.active_count()
        for _ in range(50):
            cycle()
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        # Four downloaders may have opened their connections only now: three descriptors each, as both ends are here,
        # and a thread of the exchange.
        eventually(lambda: open_descriptors() <= descriptors + 12, "the same descriptors")
        eventually(lambda: threading.active_count() <= threads + 4, "the same threads")
        assert len(manager.get_depth_cache(MARKETS[0]).group._markets._timers) < 200
        for market in MARKETS[:20]:
            reach(exchange, manager, market)
            assert_exact(exchange, manager, market)


def test_threads_that_start_and_stop_the_same_market_at_once_leave_no_feed_group_behind(monkeypatch):
    """Another thread stops and creates a market again between its lookup by the first thread and the stop."""
    interval_s = sys.getswitchinterval()
    failures: list[KeyError] = []
    with live(markets_per_connection=1) as (_, manager):
        groups: list[FeedGroup] = []
        start = FeedGroup.start
        monkeypatch.setattr(FeedGroup, "start", lambda group: (groups.append(group), start(group)))
        manager.create_depth_cache("BTCUSDT")

        def start_and_stop() -> None:
            try:
                for _ in range(100):
                    with contextlib.suppress(DepthCacheAlreadyStopped):
                        manager.stop_depth_cache("BTCUSDT")
                    manager.create_depth_cache("BTCUSDT")
            except KeyError as error:
                failures.append(error)

        threads = [threading.Thread(target=start_and_stop) for _ in range(4)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
        finally:
            sys.setswitchinterval(interval_s)
        assert failures == []
        kept = manager.get_depth_cache("BTCUSDT").group
        for group in groups:
            assert group is kept or group.join(PATIENCE_S), f"{group.name} goes on, and nobody can stop its market"


# ------------------------------------------------------------------------------------------------ stopping in a second


def connecting(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    manager.create_depth_cache(MARKETS[:3])


def stalled_handshake(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    exchange.on_handshake = lambda connection, answer: None
    manager.create_depth_cache(MARKETS[:3])
    exchange.wait_for(lambda: exchange.connections, "the handshake")


def buffering(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    hold = threading.Event()
    exchange.on_rest = lambda request: hold.wait(1.5) and None
    manager.create_depth_cache(MARKETS[:3])
    exchange.connection_of(MARKETS[0])
    exchange.update(MARKETS[0])
    exchange.wait_for(lambda: exchange.rest_requests, "the request")


def synchronized(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    synchronize(exchange, manager)


def half_open(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    synchronize(exchange, manager)
    exchange.connections[0].is_deaf = True


def waiting_to_reconnect(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    synchronize(exchange, manager)
    exchange.refuse_connections()
    for connection in exchange.connections:
        connection.reset()
    eventually(lambda: not manager.is_depth_cache_synchronized(MARKETS[0]), "the end of the connection")


def in_handover(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    synchronize(exchange, manager)
    exchange.on_handshake = lambda connection, answer: None
    manager.renew_connections()
    first = connection_count(MARKETS[:3])
    exchange.wait_for(lambda: len(exchange.connections) == 2 * first, "the next handshake")


def after_a_fault(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    synchronize(exchange, manager)
    manager.get_depth_cache(MARKETS[0]).group.post(lambda now: 1 // 0)


def with_a_frame_unfinished(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    synchronize(exchange, manager)
    exchange.connections[0].send_raw(b"\x81\x7f\0\0\0\0\0\x01\0\0xxx")


@pytest.mark.parametrize(
    "state",
    [
        connecting, stalled_handshake, buffering, synchronized, half_open, waiting_to_reconnect, in_handover,
        after_a_fault, with_a_frame_unfinished,
    ],
)  # fmt: skip
def test_a_manager_stops_within_a_second_from_every_state(state: Callable[..., None]):
    assert any(seconds_to_stop(state) < 1.0 for _ in range(TRIES))


def seconds_to_stop(state: Callable[..., None]) -> float:
    with live(markets=MARKETS[:3]) as (exchange, manager):
        state(exchange, manager)
        began = time.monotonic()
        manager.stop_manager()
        return time.monotonic() - began


def test_a_manager_stops_within_a_second_while_tls_stalls():
    assert any(seconds_to_stop_while_tls_stalls() < 1.0 for _ in range(TRIES))


def seconds_to_stop_while_tls_stalls() -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with BinanceLocalDepthCacheManager(
            restful_base_uri=f"https://127.0.0.1:{port}", websocket_base_uri=f"wss://127.0.0.1:{port}"
        ) as manager:
            manager.create_depth_cache("BTCUSDT")
            accepted, _ = server.accept()
            assert accepted.recv(1)  # it has begun, and no answer comes
            connector = next(thread for thread in threading.enumerate() if thread.name.startswith("ldc-connect"))
            began = time.monotonic()
            manager.stop_manager()
            seconds = time.monotonic() - began
            connector.join(5.0)
            assert not connector.is_alive()  # it was woken, and has not waited for its time-out
            accepted.close()
    return seconds


FORKING = """
import os
from ldc import DepthCacheAlreadyStopped
from ldc.manager.manager import BinanceLocalDepthCacheManager

with BinanceLocalDepthCacheManager(**{uris!r}) as manager:
    manager.create_depth_cache("BTCUSDT")
    assert manager.wait_until_synchronized("BTCUSDT", 20)
    cache = manager.get_depth_cache("BTCUSDT")
    reader = cache.reader
    child = os.fork()
    if child == 0:
        code = 7
        try:
            reader.best_bid
            code = 1
        except DepthCacheAlreadyStopped as error:
            code += 10 * (error.cause != "STOPPED")
        try:
            manager.get_bids("BTCUSDT")
            code = 2
        except DepthCacheAlreadyStopped:
            pass
        try:
            cache.wait_for_update(timeout=5)
            code = 3
        except DepthCacheAlreadyStopped:
            code += 20 * (cache.status().state != "STOPPED")
        manager.stop_manager()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 7, code
    assert manager.is_depth_cache_synchronized("BTCUSDT")
    assert manager.get_status("BTCUSDT").reconnects == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_in_a_forked_child_nothing_looks_alive_and_the_parent_continues():
    with LoopbackExchange() as exchange:
        exchange.add_market()
        program = FORKING.replace("{uris!r}", repr(exchange.uris))
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", program],
            timeout=PROGRAM_S_MAX, capture_output=True, text=True, env=os.environ, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_stops_nothing_ends_all_the_same():
    with LoopbackExchange() as exchange:
        exchange.add_market()
        program = (
            "from ldc.manager.manager import BinanceLocalDepthCacheManager\n"
            f"manager = BinanceLocalDepthCacheManager(**{exchange.uris!r})\n"
            "manager.create_depth_cache('BTCUSDT')\n"
            "assert manager.wait_until_synchronized('BTCUSDT', 20)\n"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            timeout=PROGRAM_S_MAX, capture_output=True, env=os.environ, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_signal_handler_may_stop_a_manager_that_is_starting_a_market():
    """The handler runs in the thread that holds the manager's lock. Once, it waited for that for ever."""
    with LoopbackExchange() as exchange:
        exchange.add_market()
        program = (
            "import signal, threading\n"
            "from ldc.feed.group import FeedGroup\n"
            "from ldc.manager.manager import BinanceLocalDepthCacheManager\n"
            f"manager = BinanceLocalDepthCacheManager(**{exchange.uris!r})\n"
            "signal.signal(signal.SIGINT, lambda *_: manager.stop_manager())\n"
            "start = FeedGroup.start\n"
            "FeedGroup.start = lambda group: (start(group), signal.raise_signal(signal.SIGINT))\n"
            "manager.create_depth_cache('BTCUSDT')\n"
            "assert manager.is_stop_request()\n"
            "def ours():\n"
            "    return [each for each in threading.enumerate() if each.name.startswith('ldc-')]\n"
            "while threads := ours():\n"  # a stopped one may have started another one just before
            "    threads[0].join(10)\n"
            "    assert not threads[0].is_alive(), threads\n"
            "assert manager.get_list_of_depth_caches() == []\n"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            timeout=PROGRAM_S_MAX, capture_output=True, env=os.environ, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
