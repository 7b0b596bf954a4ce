"""The manager's streams, callbacks and awaitable waits, over real sockets, on both loops."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_kit import live, no_thread_is_left, synchronize  # noqa: F401
from log_kit import logged
from loopback_exchange import PATIENCE_S, LoopbackExchange
from stream_kit import Follower

import ldc
from ldc.consume.callbacks import INLINE_MS_MAX
from ldc.types import Cause, SyncState

Manager = ldc.BinanceLocalDepthCacheManager


@pytest.fixture(autouse=True, params=["native", "python"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with the loop that works without the GIL, and with that in Python."""
    monkeypatch.setenv("LDC_NATIVE_LOOP", "1" if request.param == "native" else "0")


@pytest.fixture
def both() -> Iterator[tuple[LoopbackExchange, Manager]]:
    with live("spot", ("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        yield exchange, manager


class Calls:
    """A callback that notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, *arguments: Any) -> None:
        with self._changed:
            self.calls.append(arguments[0] if len(arguments) == 1 else arguments)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def wait_for(self, happened: Callable[[list[Any]], object]) -> None:
        """Wait until the calls so far are what is wanted."""
        with self._changed:
            assert self._changed.wait_for(lambda: happened(self.calls), PATIENCE_S), self.calls


def ids_of(calls: list[Any]) -> set[int | None]:
    return {update.last_update_id for update in calls}


@pytest.mark.parametrize("policy", ["latest", "changes", "every"])
def test_a_stream_of_all_markets_has_those_that_come_later(both: Any, policy: str) -> None:
    exchange, manager = both
    stream = manager.updates(policy=policy)
    synchronize(exchange, manager, "BTCUSDT")
    first = stream.get(PATIENCE_S)
    assert (first.market, first.is_snapshot, first.exchange) == ("BTCUSDT", True, "binance.com")
    synchronize(exchange, manager, "ETHUSDT")
    follower = Follower(policy)
    while (update := stream.get(PATIENCE_S)).market != "ETHUSDT":
        pass
    follower.take(update)
    exchange.update("ETHUSDT", bids=[("99.50", "7")])
    while follower.last is None or follower.last.last_update_id != exchange.markets["ETHUSDT"].book.last_update_id:
        if (update := stream.get(PATIENCE_S)).market == "ETHUSDT":
            follower.take(update)
    follower.assert_is(manager.get_depth_cache("ETHUSDT").reader.view(beyond_horizon=True))


def test_losses_come_at_once_and_a_stopped_market_that_starts_again_goes_on(both: Any) -> None:
    exchange, manager = both
    synchronize(exchange, manager, "BTCUSDT")
    stream = manager.updates("btcusdt")
    first = stream.get(PATIENCE_S)
    manager.resync("BTCUSDT")
    loss = stream.get(PATIENCE_S)
    assert loss.cause == Cause.REQUESTED
    exchange.update("BTCUSDT")
    back = loss if not loss.is_lost else stream.get(PATIENCE_S)
    assert back.epoch > first.epoch
    assert manager.get_status("BTCUSDT").epoch == manager.get_book("BTCUSDT").epoch == back.epoch
    manager.stop_depth_cache("BTCUSDT")
    while not (over := stream.get(PATIENCE_S)).is_lost:
        pass
    assert over.cause == Cause.STOPPED
    synchronize(exchange, manager, "BTCUSDT")
    assert stream.get(PATIENCE_S).is_snapshot


def test_stopping_the_manager_ends_streams_after_the_last_items(both: Any) -> None:
    exchange, manager = both
    synchronize(exchange, manager)
    streams = [manager.updates(policy=policy) for policy in ("latest", "changes", "every")]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda stream=stream: found.append(list(stream))) for stream in streams]
    for thread in threads:
        thread.start()
    manager.stop()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    for updates in found:
        assert {update.market: update.cause for update in updates} == {"BTCUSDT": "STOPPED", "ETHUSDT": "STOPPED"}
    assert list(manager.updates()) == []


def test_markets_that_are_not_there_are_refused(both: Any) -> None:
    exchange, manager = both
    with pytest.raises(ldc.DepthCacheNotFound):
        manager.updates("BTCUSDT")
    synchronize(exchange, manager, "BTCUSDT")
    manager.stop_depth_cache("BTCUSDT")
    with pytest.raises(ldc.DepthCacheAlreadyStopped):
        manager.on_update(print, ["BTCUSDT"])
    for wrong in ({"policy": "all"}, {"number": bytes}, {"queue_max": 0}, {"queue_max": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            manager.updates(**wrong)
    with pytest.raises(TypeError, match="callable"):
        manager.on_update(1)
    with pytest.raises(RuntimeError, match="event loop"):
        manager.on_update(awaited)
    with pytest.raises(ValueError, match="inline"):
        manager.on_update(awaited, inline=True)


async def awaited(_update: Any) -> None:
    pass


@pytest.mark.parametrize("inline", [False, True])
def test_callbacks_are_called_where_they_asked_to_be(both: Any, inline: bool) -> None:
    exchange, manager = both
    calls = Calls()
    handle = manager.on_update(calls, inline=inline, policy="every")
    synchronize(exchange, manager, "BTCUSDT")
    calls.wait_for(lambda calls: calls)
    for _ in range(5):
        exchange.update("BTCUSDT")
    update_id = exchange.markets["BTCUSDT"].book.last_update_id
    calls.wait_for(lambda calls: update_id in ids_of(calls))
    [thread] = calls.threads
    assert thread.startswith("ldc-feed" if inline else "ldc-callbacks")
    assert handle.calls >= 2
    assert handle.slowest_ms > 0
    manager.resync("BTCUSDT")
    calls.wait_for(lambda calls: any(update.is_lost for update in calls))
    handle.cancel()
    handle.cancel()
    assert handle.is_cancelled
    count = len(calls.calls)
    with manager.updates("BTCUSDT") as stream:
        exchange.update("BTCUSDT")
        stream.get(PATIENCE_S)
    assert len(calls.calls) <= count + 1


def test_what_another_thread_does_reaches_an_inline_callback(both: Any) -> None:
    exchange, manager = both
    calls = Calls()
    manager.on_update(calls, inline=True)
    synchronize(exchange, manager)
    calls.wait_for(lambda calls: len({update.market for update in calls}) == 2)
    manager.stop_depth_cache("ETHUSDT")
    calls.wait_for(lambda calls: [update.cause for update in calls if update.market == "ETHUSDT"][-1] == "STOPPED")


def test_a_callback_that_raises_is_counted_and_an_inline_one_is_cancelled(
    both: Any, caplog: pytest.LogCaptureFixture
) -> None:
    exchange, manager = both
    calls = Calls()

    def fail(update: Any) -> None:
        raise ArithmeticError(update.market)

    inline, other = manager.on_update(fail, inline=True), manager.on_update(fail)
    manager.on_update(calls)
    synchronize(exchange, manager, "BTCUSDT")
    calls.wait_for(lambda calls: calls)
    exchange.update("BTCUSDT")
    update_id = exchange.markets["BTCUSDT"].book.last_update_id
    calls.wait_for(lambda calls: update_id in ids_of(calls))
    assert (inline.raised, inline.is_cancelled) == (1, True)
    assert other.raised >= 1
    assert not other.is_cancelled
    assert "is cancelled, because it raised" in logged(caplog).text


def test_a_slow_inline_callback_is_measured_and_logged_once(both: Any, caplog: pytest.LogCaptureFixture) -> None:
    exchange, manager = both
    calls, pause = Calls(), threading.Event()

    def slow(update: Any) -> None:
        pause.wait(3 * INLINE_MS_MAX / 1e3)
        calls(update)

    handle = manager.on_update(slow, inline=True)
    synchronize(exchange, manager, "BTCUSDT")
    for _ in range(3):
        exchange.update("BTCUSDT")
    update_id = exchange.markets["BTCUSDT"].book.last_update_id
    calls.wait_for(lambda calls: update_id in ids_of(calls))
    assert handle.slowest_ms > INLINE_MS_MAX
    assert logged(caplog).text.count("register it without inline") == 1


def test_changes_of_state_are_told(both: Any) -> None:
    exchange, manager = both
    calls, of_another = Calls(), Calls()
    handle = manager.on_state_change(calls)
    synchronize(exchange, manager, "BTCUSDT")
    manager.on_state_change(of_another, ["BTCUSDT"])
    synchronize(exchange, manager, "ETHUSDT")
    calls.wait_for(lambda calls: len(calls) == 4)
    assert ("BTCUSDT", SyncState.SYNCHRONIZED, Cause.NOT_LOADED) in calls.calls
    manager.resync("BTCUSDT")
    calls.wait_for(lambda calls: ("BTCUSDT", SyncState.BUFFERING, Cause.REQUESTED) in calls)
    of_another.wait_for(lambda calls: calls[:1] == [("BTCUSDT", SyncState.BUFFERING, Cause.REQUESTED)])
    handle.cancel()
    assert {market for market, *_ in of_another.calls} == {"BTCUSDT"}


def test_asyncio_from_the_first_await_to_the_stop() -> None:
    async def trade(exchange: LoopbackExchange, manager: Manager) -> None:
        before = asyncio.all_tasks()
        async with manager:
            task = asyncio.create_task(asyncio.to_thread(synchronize, exchange, manager))
            with contextlib.suppress(ldc.DepthCacheNotFound):
                await manager.wait_until_synchronized_async(["BTCUSDT"], timeout=PATIENCE_S)
            await task
            assert await manager.wait_until_synchronized_async(timeout=PATIENCE_S)
            seen = manager.get_book("BTCUSDT").last_update_id
            with pytest.raises(TimeoutError, match="BTCUSDT"):
                await manager.wait_for_update_async("BTCUSDT", seen, timeout=0.01)
            waiting = asyncio.create_task(manager.wait_for_update_async("BTCUSDT", seen))
            await asyncio.sleep(0)
            exchange.update("BTCUSDT")
            assert await waiting > seen
            waiting = asyncio.create_task(manager.wait_for_update_async("BTCUSDT"))
            await asyncio.sleep(0)
            manager.resync("BTCUSDT")
            with pytest.raises(ldc.DepthCacheOutOfSync):
                await waiting
            stream = manager.updates("ETHUSDT")
            rest = asyncio.create_task(collect(stream))
        assert (await rest)[-1].cause == "STOPPED"
        with pytest.raises(ldc.DepthCacheAlreadyStopped):
            await manager.wait_until_synchronized_async()
        assert await manager.stop_manager_async()
        assert asyncio.all_tasks() == before

    with live("spot", ("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        asyncio.run(asyncio.wait_for(trade(exchange, manager), PATIENCE_S), debug=True)


async def collect(stream: Any) -> list[Any]:
    return [update async for update in stream]


def test_an_unknown_market_ends_an_awaited_wait() -> None:
    async def wait(manager: Manager) -> None:
        with pytest.raises(ldc.UnknownMarket):
            await manager.wait_until_synchronized_async("NOSUCHUSDT", timeout=PATIENCE_S)

    with live("spot", ("BTCUSDT",)) as (_, manager):
        manager.create_depth_cache("NOSUCHUSDT")
        stream = manager.updates("NOSUCHUSDT")
        asyncio.run(wait(manager))
        assert stream.get(PATIENCE_S).cause == Cause.UNKNOWN_MARKET


def test_coroutine_functions_run_in_the_loop_that_registered_them(both: Any) -> None:
    exchange, manager = both
    loops: list[Any] = []

    async def main() -> None:
        seen, states = asyncio.Event(), asyncio.Event()

        async def on_update(update: Any) -> None:
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)
            if update.last_update_id == exchange.markets["BTCUSDT"].book.last_update_id:
                seen.set()
            raise ArithmeticError

        async def on_state(market: str, state: SyncState, cause: Cause) -> None:
            loops.append(asyncio.get_running_loop())
            if state is SyncState.SYNCHRONIZED:
                states.set()

        handle, other = manager.on_update(on_update), manager.on_state_change(on_state)
        await asyncio.to_thread(synchronize, exchange, manager, "BTCUSDT")
        await asyncio.wait_for(asyncio.gather(seen.wait(), states.wait()), PATIENCE_S)
        assert set(loops) == {asyncio.get_running_loop()}
        assert handle.raised == handle.calls > 0
        handle.cancel()
        other.cancel()
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main(), debug=True)


def test_several_managers_in_one_loop_of_updates() -> None:
    with (
        live("spot", ("BTCUSDT",)) as (exchange, manager),
        live("usdm", ("BTCUSDT",)) as (other_exchange, other),
        ldc.merge(manager.updates(policy="changes"), other.updates()) as merged,
    ):
        synchronize(exchange, manager)
        synchronize(other_exchange, other)
        found = set()
        while found != {"binance.com", "binance.com-futures"}:
            found.add(merged.get(PATIENCE_S).exchange)
        manager.stop()
        other.stop()
        assert {update.cause for update in merged if update.is_lost} == {"STOPPED"}
