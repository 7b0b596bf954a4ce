"""A feed group without a manager: what it requests, and what it does with the answers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from live_kit import eventually, no_thread_is_left  # noqa: F401
from loopback_exchange import PATIENCE_S, Connection, LoopbackExchange
from wire_frames import PING, PONG

from ldc.book import OrderBook, read_header
from ldc.feed.connection import ConnectionOptions
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.limits import Timing
from ldc.network.proxy import ProxyRules
from ldc.sync.actions import RequestSnapshot, SnapshotDrop
from ldc.sync.machine import SNAPSHOT_WAIT_S, Synchronizer
from ldc.types import Cause, SyncState

OPTIONS = ConnectionOptions(
    ping_interval_s=5,
    ping_timeout_s=3,
    close_timeout_s=2,
    messages_per_second=3,
    user_agent="test",
    proxies=ProxyRules(),
)


class Bench:
    """A group whose requests are noted, not sent."""

    def __init__(self, exchange: LoopbackExchange, connects: int = 300, options: ConnectionOptions = OPTIONS) -> None:
        self.exchange = exchange
        self.requests: list[tuple[LiveMarket, RequestSnapshot]] = []
        self.cancelled: list[int | None] = []
        self.timing = options.timing
        self.is_held = True
        self.held_asked = 0
        self.probed: list[LiveMarket] = []
        self.states: list[tuple[SyncState, str]] = []
        self.restarts: list[str] = []
        self.group = FeedGroup(
            "ldc-feed-test",
            [exchange.websocket_base_uri + exchange.stream_path],
            options,
            connect_budget=SharedConnectBudget(connects),
            request_snapshot=lambda market, action: self.requests.append((market, action)),
            cancel_snapshot=lambda market, epoch: self.cancelled.append(epoch),
            request_probe=lambda market: self.probed.append(market),
            holds_request=self.holds,
            random=lambda: 0.0,
        )
        self.group.start()

    def holds(self, _market: LiveMarket, _epoch: int | None) -> bool:
        self.held_asked += 1
        return self.is_held

    def market(self, symbol: str = "BTCUSDT") -> LiveMarket:
        book = OrderBook("spot", market=symbol, symbol=symbol)
        synchronizer = Synchronizer(
            book,
            make_book=lambda: OrderBook("spot"),
            read_header=read_header,
            random=lambda: 0.0,
            limits=(100,),
            now=time.monotonic(),
        )
        market = LiveMarket(
            symbol,
            symbol,
            f"{symbol.lower()}@depth@100ms",
            book,
            synchronizer,
            1,
            lambda market, change: self.states.append((change.state, change.cause.value)),
            lambda market: self.restarts.append(market.market),
            self.timing,
        )
        self.group.add(market)
        return market

    def answer(self, number: int = 1) -> None:
        """Deliver the snapshot that was requested as the number-th."""
        eventually(lambda: len(self.requests) >= number, "the request of a snapshot")
        market, action = self.requests[number - 1]
        body = self.exchange.snapshot(market.symbol, action.limit)
        self.group.post(lambda now: self.group.snapshot_received(market, action.epoch, body, action.limit, 1, now))

    def synchronized(self, symbol: str = "BTCUSDT") -> LiveMarket:
        market = self.market(symbol)
        self.exchange.subscribed(symbol)
        self.exchange.update(symbol)
        self.answer(len(self.exchange.markets))
        assert market.signal.wait_for(lambda: market.synchronizer.state is SyncState.SYNCHRONIZED, PATIENCE_S)
        return market


@contextmanager
def only_pings(**options: float) -> Iterator[tuple[Connection, Bench]]:
    """A group with a market without updates; yields its connection's other end.

    No periodic check makes up for a deadline whose approach was missed.
    """
    rare = Timing(silence_check_s=3600.0, pong_late_s=3600.0)
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange, options=OPTIONS._replace(timing=rare, **options))
        try:
            bench.synchronized()
            yield exchange.connections[0], bench
        finally:
            bench.group.stop()
            assert bench.group.join(PATIENCE_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange)
        yield bench
        bench.group.stop()
        assert bench.group.join(PATIENCE_S)


def test_a_group_without_markets_opens_no_connection_and_ends_at_once(bench):
    done = threading.Event()
    bench.group.post(lambda now: done.set())
    assert done.wait(PATIENCE_S)
    assert bench.exchange.connections == bench.exchange.rest_requests == []


def test_a_market_goes_through_its_states(bench):
    market = bench.synchronized()
    bench.group.remove(market)
    assert market.signal.wait_for(lambda: market.is_removed, PATIENCE_S)
    assert bench.exchange.connections[0].ended.wait(PATIENCE_S)  # no market is left
    assert bench.states == [
        (SyncState.BUFFERING, "NOT_LOADED"), (SyncState.SYNCHRONIZED, "NOT_LOADED"), (SyncState.STOPPED, "STOPPED"),
    ]  # fmt: skip


@contextmanager
def checking() -> Iterator[Bench]:
    """A group that checks its requests every few milliseconds, and probes a silent market as often."""
    often = Timing(request_check_s=0.005, quiet_s_first=0.01, quiet_s_max=0.01, silence_check_s=0.005)
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange, options=OPTIONS._replace(timing=often, ping_interval_s=0.05))
        try:
            yield bench
        finally:
            bench.group.stop()
            assert bench.group.join(PATIENCE_S)


def test_an_awaited_snapshot_that_the_downloader_does_not_hold_is_requested_again():
    """A regression: whatever lost the request, the market waited for its answer for ever."""
    with checking() as bench:
        market = bench.market()
        bench.exchange.subscribed("BTCUSDT")
        bench.exchange.update("BTCUSDT")
        eventually(lambda: len(bench.requests) == 1, "the request")
        eventually(lambda: bench.held_asked > 5, "some checks")
        assert len(bench.requests) == 1
        bench.is_held = False
        eventually(lambda: len(bench.requests) > 1, "the repeated request")
        bench.is_held = True
        assert market.synchronizer.requests.dropped[SnapshotDrop.LOST] >= 1
        assert market.last_error is not None
        assert "lost" in market.last_error
        bench.answer(len(bench.requests))
        assert market.signal.wait_for(lambda: market.synchronizer.state is SyncState.SYNCHRONIZED, PATIENCE_S)


def test_a_probe_that_the_downloader_does_not_hold_is_given_up_and_repeated():
    with checking() as bench:
        market = bench.synchronized()
        eventually(lambda: len(bench.probed) == 1, "the probe")
        eventually(lambda: bench.held_asked > 5, "some checks")
        assert len(bench.probed) == 1
        bench.is_held = False
        eventually(lambda: len(bench.probed) > 1, "the repeated probe")
        assert market.synchronizer.requests.dropped[SnapshotDrop.LOST] >= 1


def test_a_market_that_ends_cancels_all_its_requests(bench):
    market = bench.synchronized()
    bench.group.remove(market)
    eventually(lambda: None in bench.cancelled, "the cancellation")


class Clock:
    """The module `time`, with another wall clock."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def time_ns(self) -> int:
        return self._now_ns

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


@pytest.mark.parametrize("native", ["0", "1"])
def test_the_receive_time_of_an_update_is_that_of_its_receive_on_every_path(monkeypatch, native):
    """A regression: on the slow path it was the time of processing, which a busy interpreter delays."""
    monkeypatch.setenv("LDC_NATIVE_LOOP", native)
    monkeypatch.setattr("ldc.feed.connection.time", Clock(12345))
    monkeypatch.setattr("ldc.feed.group.time", Clock(54321))
    began_ns = time.time_ns()
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange)
        try:
            market = bench.market()
            exchange.subscribed("BTCUSDT")
            exchange.update("BTCUSDT")
            eventually(lambda: len(bench.requests) == 1, "the request of a snapshot")
            seen = []

            def synchronize(body: bytes, count: int) -> None:
                eventually(lambda: market.synchronizer.buffered_count == count, "the buffered updates")
                epoch = bench.requests[-1][1].epoch
                bench.group.post(lambda now: bench.group.snapshot_received(market, epoch, body, 100, 1, now))
                eventually(lambda: market.book.is_readable, "the book")
                seen.append(market.book.received_time_ns)

            body = exchange.snapshot("BTCUSDT", 100)
            exchange.update("BTCUSDT")  # buffered, and applied after the snapshot
            synchronize(body, 2)
            update_id = exchange.update("BTCUSDT")  # on the fast path
            eventually(lambda: market.book.last_update_id == update_id, "the update")
            seen.append(market.book.received_time_ns)
            exchange.update("BTCUSDT", is_sent=False)
            body = exchange.snapshot("BTCUSDT", 100)
            exchange.update("BTCUSDT")  # judged by the book, and kept for the snapshot
            synchronize(body, 1)
            is_native = native == "1" and next(iter(bench.group._connections)).reading == "native"
        finally:
            bench.group.stop()
            assert bench.group.join(PATIENCE_S)
    if is_native:
        assert all(began_ns <= each <= time.time_ns() for each in seen), seen
    else:
        assert seen == [12345] * 3


def test_what_a_caller_requests_in_a_loop_waits_once(bench):
    """A regression: a loop of refresh requests filled the memory while the feed's thread was busy."""
    market = bench.synchronized()
    entered, go_on = threading.Event(), threading.Event()

    def stand_still(_now: float) -> None:
        entered.set()
        assert go_on.wait(PATIENCE_S)

    bench.group.post(stand_still)
    assert entered.wait(PATIENCE_S)
    posted = bench.group._loop._mailbox._posted
    for _ in range(1000):
        bench.group.refresh(market)
        bench.group.resync(market, unsubscribe=False)
        bench.group.resync(market, unsubscribe=True)
    assert len(posted) == 3
    go_on.set()
    eventually(lambda: market.synchronizer.resyncs[Cause.REQUESTED] == 1, "the resync")
    eventually(lambda: not market.requested, "the other requests")  # what has begun does not keep the next one out


def test_a_request_that_is_cancelled_at_once_is_never_made(bench):
    market = bench.synchronized()
    bench.group.resync(market, unsubscribe=True)
    bench.exchange.wait_for(lambda: len(bench.exchange.connections[0].requests("SUBSCRIBE")) == 2, "the subscription")
    bench.exchange.update()
    bench.answer(2)
    assert market.signal.wait_for(lambda: market.synchronizer.state is SyncState.SYNCHRONIZED, PATIENCE_S)
    assert len(bench.requests) == 2
    assert bench.cancelled == [2]


def test_an_answer_for_a_market_that_was_removed_is_ignored(bench):
    market = bench.market()
    bench.exchange.subscribed()
    bench.exchange.update()
    eventually(lambda: bench.requests, "the request")
    bench.group.remove(market)
    bench.answer()
    done = threading.Event()
    bench.group.post(lambda now: done.set())
    assert done.wait(PATIENCE_S)
    assert market.synchronizer.state is SyncState.STOPPED


class Refusing:
    """Makes the adding of one market raise so often, in a group that starts again at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bench: Bench, symbol: str, times: int) -> None:
        self.raised = 0
        self._table, self._symbol, self._times = bench.group._markets, symbol, times
        self._add = self._table.add
        monkeypatch.setattr(self._table, "add", self)

    def __call__(self, market: LiveMarket) -> None:
        if market.symbol == self._symbol and self.raised < self._times:
            self.raised += 1
            raise ZeroDivisionError("on purpose")
        self._add(market)


@pytest.fixture
def quick_bench() -> Iterator[Bench]:
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange, options=OPTIONS._replace(timing=Timing(fault_pause_s=0.01)))
        yield bench
        bench.group.stop()
        assert bench.group.join(PATIENCE_S)


def test_a_market_whose_adding_raised_is_added_again(quick_bench, monkeypatch):
    """A regression: its posted work was lost, and the market waited for ever without a word."""
    quick_bench.exchange.add_market("ETHUSDT")
    refusing = Refusing(monkeypatch, quick_bench, "ETHUSDT", times=1)
    market = quick_bench.market("ETHUSDT")
    quick_bench.exchange.subscribed("ETHUSDT")
    quick_bench.exchange.update("ETHUSDT")
    quick_bench.answer(1)
    assert market.signal.wait_for(lambda: market.book.is_readable, PATIENCE_S)
    assert refusing.raised == 1
    assert "ZeroDivisionError: on purpose" in market.last_error
    assert market.book.lease is quick_bench.group._lease


def test_a_market_whose_adding_raises_again_is_given_up_and_the_others_go_on(quick_bench, monkeypatch):
    other = quick_bench.synchronized()
    quick_bench.exchange.add_market("ETHUSDT")
    connections, requests = len(quick_bench.exchange.connections), len(quick_bench.requests)
    refusing = Refusing(monkeypatch, quick_bench, "ETHUSDT", times=10)
    market = quick_bench.market("ETHUSDT")
    assert market.signal.wait_for(lambda: market.is_removed, PATIENCE_S)
    assert market.ended_by == "a fault of ldc: ZeroDivisionError: on purpose"
    assert market.book.reader.unreadable_cause == Cause.STOPPED
    assert refusing.raised == 2
    eventually(lambda: len(quick_bench.exchange.connections) > connections, "the next connection")
    eventually(lambda: len(quick_bench.requests) > requests, "the request of the other market")
    assert {asking.symbol for asking, _ in quick_bench.requests} == {"BTCUSDT"}
    quick_bench.exchange.update()
    quick_bench.answer(len(quick_bench.requests))
    assert other.signal.wait_for(lambda: other.book.is_readable, PATIENCE_S)
    assert not quick_bench.group._arriving


def test_a_market_whose_removal_raised_is_removed(quick_bench, monkeypatch):
    """A regression: its posted work was lost, and it stayed subscribed."""
    other = quick_bench.synchronized()
    quick_bench.exchange.add_market("ETHUSDT")
    market = quick_bench.market("ETHUSDT")
    quick_bench.exchange.subscribed("ETHUSDT")
    remove = quick_bench.group._markets.remove

    def refuse(_market: LiveMarket) -> bool:
        monkeypatch.setattr(quick_bench.group._markets, "remove", remove)
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(quick_bench.group._markets, "remove", refuse)
    quick_bench.group.remove(market)
    eventually(lambda: market.synchronizer.state is SyncState.STOPPED, "its end")
    assert list(quick_bench.group._markets) == [other]


def test_a_deadline_of_a_market_is_kept(bench):
    began = time.monotonic()
    bench.market()
    eventually(lambda: bench.requests, "the request of a quiet market")
    assert time.monotonic() - began > 0.9 * SNAPSHOT_WAIT_S  # after the acknowledgement, without any update


def test_an_update_on_the_fast_path_checks_no_deadline(bench):
    market = bench.synchronized()
    bench.exchange.update()
    true_book = bench.exchange.markets["BTCUSDT"].book
    eventually(lambda: market.binding.is_direct and market.book.last_update_id == true_book.last_update_id, "an update")
    ticks = []
    tick = bench.group._loop._tick
    bench.group._loop._tick = lambda now: ticks.append(now) or tick(now)
    for _ in range(50):
        bench.exchange.update()
        eventually(lambda: market.book.last_update_id == true_book.last_update_id, "an update")
    assert len(ticks) < 10  # the silence check is periodic


def test_a_ping_that_comes_alone_is_answered_though_nothing_else_is_due():
    with only_pings(ping_interval_s=3600) as (connection, _):
        for number in (1, 2):
            connection.send(b"%d" % number, PING)
            eventually(lambda number=number: len(connection.opcodes(PONG)) == number, "a pong")


def test_after_a_pong_the_next_ping_is_due_though_nothing_else_is():
    with only_pings(ping_interval_s=0.4, ping_timeout_s=3600) as (connection, _):
        eventually(lambda: len(connection.opcodes(PING)) >= 3, "the third ping")


def test_work_that_is_posted_is_done_though_nothing_else_is_due():
    with only_pings(ping_interval_s=3600) as (connection, bench):
        bench.exchange.add_market("ETHUSDT")
        bench.market("ETHUSDT")  # its subscription has to be paced: a deadline that the posted work made
        bench.exchange.wait_for(lambda: len(connection.requests("SUBSCRIBE")) == 2, "the subscription")


def test_the_end_of_a_connection_is_reported_to_every_market(bench):
    bench.exchange.add_market("ETHUSDT")
    markets = [bench.market(), bench.market("ETHUSDT")]
    for number, market in enumerate(markets, 1):
        bench.exchange.subscribed(market.symbol)
        bench.exchange.update(market.symbol)
        bench.answer(number)
    for market in markets:
        eventually(lambda market=market: market.synchronizer.state is SyncState.SYNCHRONIZED, "the book")
    bench.exchange.connections[0].reset()
    eventually(lambda: sorted(bench.restarts) == ["BTCUSDT", "ETHUSDT"], "the restarts")
    assert [market.restart_count for market in markets] == [1, 1]
    assert [market.synchronizer.resyncs[Cause.STREAM_CLOSED] for market in markets] == [1, 1]


def test_connects_wait_for_the_budget():
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange, connects=2)
        bench.market()
        for number in (1, 2):
            exchange.subscribed(number=number).reset()
        exchange.wait_for(lambda: exchange.connections[1].ended.is_set(), "the end of the second")
        done = threading.Event()
        bench.group.post(lambda now: done.set())
        assert done.wait(PATIENCE_S)
        assert len(exchange.connections) == 2
        bench.group.stop()
        assert bench.group.join(PATIENCE_S)
