"""What ends a manager, and a wait: stops while the manager's lock is held, feeds that give a market up, Ctrl-C."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from live_kit import SLOW_S, eventually, live, no_jitter, no_thread_is_left, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, LoopbackExchange, RestReply

from ldc.errors import DepthCacheAlreadyStopped, DepthCacheError
from ldc.feed.market import LiveMarket
from ldc.feed.market_table import MarketTable
from ldc.limits import Timing
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.types import Cause, SyncState

pytestmark = pytest.mark.usefixtures("no_jitter")

PROGRAM_S_MAX = 40.0


# ------------------------------------------------------------------------------------------------ the lock


@contextlib.contextmanager
def lock_held(manager: BinanceLocalDepthCacheManager) -> Iterator[threading.Event]:
    """A thread of somebody else holds the manager's lock. The event lets it go."""
    is_held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with manager._lock:
            is_held.set()
            release.wait(2 * PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(PATIENCE_S)
    try:
        yield release
    finally:
        release.set()
        holder.join()


def stop_in_main_thread(manager: BinanceLocalDepthCacheManager) -> None:
    manager.stop_manager()


def stop_in_another_thread(manager: BinanceLocalDepthCacheManager) -> None:
    stopper = threading.Thread(target=manager.stop_manager)
    stopper.start()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive(), "the stop hangs"


@pytest.mark.parametrize("stop", [stop_in_main_thread, stop_in_another_thread])
def test_a_stop_closes_all_books_first_and_returns_though_the_lock_of_the_manager_is_held(stop):
    with live("spot", ("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        synchronize(exchange, manager)
        readers = [manager.get_depth_cache(market).reader for market in exchange.markets]
        ended: list[DepthCacheError] = []

        def wait() -> None:
            try:
                while True:
                    manager.wait_for_update("ETHUSDT")
            except DepthCacheError as error:
                ended.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        with lock_held(manager) as release:
            began = time.monotonic()
            stop(manager)
            assert time.monotonic() - began < 1.0 + SLOW_S
            assert {reader.unreadable_cause for reader in readers} == {Cause.STOPPED}
            waiter.join(PATIENCE_S)
            assert [type(error) for error in ended] == [DepthCacheAlreadyStopped]
            release.set()
        eventually(lambda: manager.markets() == [], "the rest of the stop")


def test_an_awaited_stop_closes_all_books_first_though_the_lock_of_the_manager_is_held():
    """A regression: they could be read until the lock was free."""

    async def stop(manager: BinanceLocalDepthCacheManager) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(manager.stop_manager_async(), 0.1)

    with live("spot", ("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        synchronize(exchange, manager)
        readers = [manager.get_depth_cache(market).reader for market in exchange.markets]
        with lock_held(manager):
            asyncio.run(stop(manager))
            assert {reader.unreadable_cause for reader in readers} == {Cause.STOPPED}
        eventually(lambda: manager.markets() == [], "the rest of the stop")


# ------------------------------------------------------------------------------------------------ given up


def test_a_market_that_its_feed_gives_up_says_why_and_can_be_created_again(monkeypatch):
    add = MarketTable.add

    def refuse(table: MarketTable, market: LiveMarket) -> None:
        if market.symbol == "ETHUSDT":
            raise ZeroDivisionError("on purpose")
        add(table, market)

    with live("spot", ("BTCUSDT", "ETHUSDT"), timing=Timing(fault_pause_s=0.01)) as (exchange, manager):
        synchronize(exchange, manager, "BTCUSDT")
        monkeypatch.setattr(MarketTable, "add", refuse)
        manager.create_depth_cache("ETHUSDT")
        with pytest.raises(DepthCacheAlreadyStopped, match="given it up: a fault of ldc: .* on purpose"):
            manager.wait_until_synchronized("ETHUSDT", PATIENCE_S)
        with pytest.raises(DepthCacheAlreadyStopped, match="given it up: .* on purpose; create it again"):
            manager.get_book("ETHUSDT")
        eventually(lambda: manager.get_status("ETHUSDT").state is SyncState.STOPPED, "its end")
        assert "on purpose" in (manager.get_status("ETHUSDT").last_error or "")
        monkeypatch.undo()
        synchronize(exchange, manager)


# ------------------------------------------------------------------------------------------------ Ctrl-C

PROGRAM = """
import asyncio, sys, threading, time, ldc

def say_when_the_main_thread_stands_still():
    looks, last, main = 0, None, threading.main_thread().ident
    while looks < 20:
        time.sleep(0.005)
        frame = sys._current_frames()[main]
        here = frame.f_code, frame.f_lasti
        looks = looks + 1 if here == last and frame.f_code.co_name != "<module>" else 0
        last = here
    print("waits", flush=True)

async def wait_in_a_thread():
    try:
        await asyncio.to_thread(manager.wait_for_update, "BTCUSDT")
    finally:
        await manager.stop_manager_async()

with ldc.BinanceLocalDepthCacheManager("binance.com", **{uris!r}) as manager:
    manager.create_depth_cache(["BTCUSDT", "MUTEUSDT"])
    assert manager.wait_until_synchronized("BTCUSDT", timeout=30)
    cache = manager.get_depth_cache("BTCUSDT")
    try:
        threading.Thread(target=say_when_the_main_thread_stands_still, daemon=True).start()
        {wait}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("stopped", flush=True)
"""

WAITS = {
    "update": 'manager.wait_for_update("BTCUSDT")',
    "update of an id": 'manager.wait_for_update("BTCUSDT", cache.last_update_id)',
    "update, of a depth cache": "cache.wait_for_update()",
    "any": 'manager.wait_for_any("BTCUSDT", {"BTCUSDT": cache.last_update_id})',
    "any, without an id": 'manager.wait_for_any("MUTEUSDT")',
    "synchronized": 'manager.wait_until_synchronized("MUTEUSDT")',
    "stream": "[update for update in manager.updates()]",
    "asyncio, in a thread": "asyncio.run(wait_in_a_thread())",
    "asyncio": 'asyncio.run(manager.wait_for_update_async("BTCUSDT"))',
}


@pytest.mark.skipif(sys.platform == "win32", reason="there, Ctrl-C cannot be sent to one process")
@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_ends_a_wait_without_a_timeout(name):
    """Of a real program whose main thread waits for a market on which nothing happens, or without a snapshot."""
    with LoopbackExchange() as exchange:
        exchange.add_market()
        exchange.add_market("MUTEUSDT")
        exchange.on_rest = lambda request: RestReply(500) if request.symbol == "MUTEUSDT" else None
        program = PROGRAM.replace("{uris!r}", repr(exchange.uris)).replace("{wait}", WAITS[name])
        with subprocess.Popen(
            [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            give_up = threading.Timer(PROGRAM_S_MAX, process.kill)
            give_up.start()
            try:
                line = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                rest, error = process.communicate()
                took_s = time.monotonic() - began
            finally:
                give_up.cancel()
    assert (process.returncode, line + rest) == (0, "waits\ninterrupted\nstopped\n"), error
    assert "Traceback" not in error
    assert took_s < 1.0 + 2 * SLOW_S


# ------------------------------------------------------------------------------------------------ the main thread ends

OUTLIVED = """
import threading, ldc

def live_on():
    threading.main_thread().join()
    with ldc.BinanceLocalDepthCacheManager("binance.com", **{uris!r}) as manager:
        manager.create_depth_cache("BTCUSDT")
        manager.wait_until_synchronized("BTCUSDT", timeout=30)
        status = manager.get_status("BTCUSDT")
        print(status.is_synchronized, status.last_error)

threading.Thread(target=live_on).start()
"""


@pytest.mark.skipif((3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2), reason="this Python starts no thread then")
def test_a_bot_may_live_on_in_a_thread_after_the_main_thread_has_ended():
    with LoopbackExchange() as exchange:
        exchange.add_market()
        done = subprocess.run(
            [sys.executable, "-P", "-c", OUTLIVED.replace("{uris!r}", repr(exchange.uris))],
            timeout=PROGRAM_S_MAX, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "True None\n", "")
