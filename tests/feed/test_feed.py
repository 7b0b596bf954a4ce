"""A feed group without a manager: what it asks for, what it hands on, and that nothing posted to it is forgotten."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from live_kit import eventually, no_thread_is_left  # noqa: F401
from loopback_exchange import PATIENCE_S, PING, PONG, Connection, LoopbackExchange

from ldc.book import OrderBook, StreamBinding, read_header
from ldc.feed.connection import ConnectionOptions, ConnectionState
from ldc.feed.group import FeedGroup
from ldc.feed.mailbox import Mailbox
from ldc.feed.market import LiveMarket, SilenceWatch, UpdateSignal
from ldc.feed.pool import SharedConnectBudget
from ldc.feed.slot import TROUBLE_PAUSE_S, ConnectionSlot
from ldc.network.proxy import ProxyRules
from ldc.sync.machine import Synchronizer
from ldc.sync.parts import RequestSnapshot
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
    """A group, with everything it asks for noted instead of done."""

    def __init__(self, exchange: LoopbackExchange, connects: int = 300, options: ConnectionOptions = OPTIONS) -> None:
        self.exchange = exchange
        self.requests: list[tuple[LiveMarket, RequestSnapshot]] = []
        self.cancelled: list[int] = []
        self.states: list[tuple[SyncState, str]] = []
        self.restarts: list[str] = []
        self.group = FeedGroup(
            "ldc-feed-test",
            [exchange.websocket_base_uri + exchange.stream_path],
            options,
            connect_budget=SharedConnectBudget(connects),
            request_snapshot=lambda feed, action: self.requests.append((feed, action)),
            cancel_snapshot=lambda feed, epoch: self.cancelled.append(epoch),
            request_probe=lambda feed: None,
            random=lambda: 0.0,
        )
        self.group.start()

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
        feed = LiveMarket(
            symbol,
            symbol,
            f"{symbol.lower()}@depth@100ms",
            book,
            synchronizer,
            1,
            lambda market, change: self.states.append((change.state, change.cause.value)),
            lambda market: self.restarts.append(market.market),
        )
        self.group.add(feed)
        return feed

    def answer(self, number: int = 1) -> None:
        """Hand in the snapshot that was asked for as the number-th."""
        eventually(lambda: len(self.requests) >= number, "the request of a snapshot")
        feed, action = self.requests[number - 1]
        body = self.exchange.snapshot(feed.symbol, action.limit)
        self.group.post(lambda now: self.group.snapshot_received(feed, action.epoch, body, action.limit, 1, now))

    def synchronized(self, symbol: str = "BTCUSDT") -> LiveMarket:
        feed = self.market(symbol)
        self.exchange.subscribed(symbol)
        self.exchange.update(symbol)
        self.answer(len(self.exchange.markets))
        assert feed.signal.wait_for(lambda: feed.synchronizer.state is SyncState.SYNCHRONIZED, PATIENCE_S)
        return feed


@contextmanager
def only_pings(monkeypatch: pytest.MonkeyPatch, options: ConnectionOptions) -> Iterator[tuple[Connection, Bench]]:
    """A group with a market that has nothing to say; give its connection's other end.

    Nothing that is done now and then makes good for a deadline that was not seen to come nearer.
    """
    monkeypatch.setattr("ldc.feed.group.SILENCE_CHECK_S", 3600.0)
    monkeypatch.setattr("ldc.feed.connection.PONG_LATE_S", 3600.0)
    with LoopbackExchange() as exchange:
        exchange.add_market()
        bench = Bench(exchange, options=options)
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
    assert bench.exchange.accepted_count == 0


def test_a_market_goes_through_its_states(bench):
    feed = bench.synchronized()
    bench.group.remove(feed)
    assert feed.signal.wait_for(lambda: feed.is_removed, PATIENCE_S)
    assert bench.exchange.connections[0].ended.wait(PATIENCE_S)  # nobody is left who needs it
    assert bench.states == [
        (SyncState.BUFFERING, "NOT_LOADED"), (SyncState.SYNCHRONIZED, "NOT_LOADED"), (SyncState.STOPPED, "STOPPED"),
    ]  # fmt: skip


def test_a_request_that_is_cancelled_at_once_is_never_made(bench):
    feed = bench.synchronized()
    bench.group.resync(feed, unsubscribe=True)
    bench.exchange.wait_for(lambda: len(bench.exchange.connections[0].requests("SUBSCRIBE")) == 2, "the subscription")
    bench.exchange.update()
    bench.answer(2)
    assert feed.signal.wait_for(lambda: feed.synchronizer.state is SyncState.SYNCHRONIZED, PATIENCE_S)
    assert len(bench.requests) == 2
    assert bench.cancelled == [2]


def test_an_answer_for_a_market_that_was_removed_is_ignored(bench):
    feed = bench.market()
    bench.exchange.subscribed()
    bench.exchange.update()
    eventually(lambda: bench.requests, "the request")
    bench.group.remove(feed)
    bench.answer()
    done = threading.Event()
    bench.group.post(lambda now: done.set())
    assert done.wait(PATIENCE_S)
    assert feed.synchronizer.state is SyncState.STOPPED


def test_a_deadline_of_a_market_is_kept(bench):
    began = time.monotonic()
    bench.market()
    eventually(lambda: bench.requests, "the request of a quiet market")
    assert time.monotonic() - began > 0.9  # a second after the acknowledgement, without any update


def test_an_update_that_goes_the_short_way_looks_at_no_deadline(bench):
    feed = bench.synchronized()
    bench.exchange.update()
    eventually(
        lambda: (
            feed.binding.is_direct and feed.book.last_update_id == bench.exchange.markets["BTCUSDT"].book.last_update_id
        ),
        "an update",
    )
    looked = []
    next_due = bench.group._next_due
    bench.group._next_due = lambda now: looked.append(now) or next_due(now)
    for _ in range(50):
        bench.exchange.update()
        eventually(
            lambda: feed.book.last_update_id == bench.exchange.markets["BTCUSDT"].book.last_update_id, "an update"
        )
    assert len(looked) < 10  # the silence check comes by itself


def test_a_ping_that_comes_alone_is_answered_though_nothing_else_is_due(monkeypatch):
    with only_pings(monkeypatch, OPTIONS._replace(ping_interval_s=3600)) as (connection, _):
        for number in (1, 2):
            connection.send(b"%d" % number, PING)
            eventually(lambda number=number: len(connection.opcodes(PONG)) == number, "a pong")


def test_after_a_pong_the_next_ping_is_due_though_nothing_else_is(monkeypatch):
    options = OPTIONS._replace(ping_interval_s=0.4, ping_timeout_s=3600)
    with only_pings(monkeypatch, options) as (connection, _):
        eventually(lambda: len(connection.opcodes(PING)) >= 3, "the third ping")


def test_work_that_is_posted_is_done_though_nothing_else_is_due(monkeypatch):
    with only_pings(monkeypatch, OPTIONS._replace(ping_interval_s=3600)) as (connection, bench):
        bench.exchange.add_market("ETHUSDT")
        bench.market("ETHUSDT")  # its subscription has to be paced: a deadline that the posted work made
        bench.exchange.wait_for(lambda: len(connection.requests("SUBSCRIBE")) == 2, "the subscription")


def test_every_market_is_told_of_the_end_of_a_connection(bench):
    bench.exchange.add_market("ETHUSDT")
    feeds = [bench.market(), bench.market("ETHUSDT")]
    for number, feed in enumerate(feeds, 1):
        bench.exchange.subscribed(feed.symbol)
        bench.exchange.update(feed.symbol)
        bench.answer(number)
    for feed in feeds:
        assert feed.signal.wait_for(lambda feed=feed: feed.synchronizer.state is SyncState.SYNCHRONIZED, PATIENCE_S)
    bench.exchange.connections[0].reset()
    eventually(lambda: sorted(bench.restarts) == ["BTCUSDT", "ETHUSDT"], "the restarts")
    assert [feed.restart_count for feed in feeds] == [1, 1]
    assert [feed.synchronizer.resyncs[Cause.STREAM_CLOSED] for feed in feeds] == [1, 1]


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


class LateConnection:
    """As much of a connection as its line looks at: open from the start, and its pong is late."""

    state, opened_at = ConnectionState.OPEN, 0.0

    def __init__(self, connection_id: int) -> None:
        self.connection_id = connection_id

    def next_due(self, now: float) -> float:
        return math.inf

    def is_pong_late(self, now: float) -> bool:
        return True

    def say_goodbye(self) -> float:
        return 0.0


class LateOwner:
    """Lets a line connect at any time, and take over at once."""

    made = 0

    def take_connect(self, now: float) -> float:
        return now

    def make_connection(self, url: str, now: float) -> LateConnection:
        self.made += 1
        return LateConnection(self.made)

    def forget(self, connection: LateConnection, now: float) -> None:
        pass

    def handover_ended(self, *_: object) -> bool:
        return True


def test_a_pong_that_is_late_too_soon_after_another_is_looked_at_when_the_pause_ends():
    owner = LateOwner()
    line = ConnectionSlot(owner, "wss://nowhere", random=lambda: 0.0)
    line.tick(0.0)  # connects, and finds the pong to be late
    line.tick(10.0)  # opens a successor, which takes over
    assert owner.made == 2
    assert [connection.connection_id for connection in line] == [2]
    assert line.next_due(20.0) == TROUBLE_PAUSE_S
    line.tick(TROUBLE_PAUSE_S)
    line.tick(TROUBLE_PAUSE_S)
    assert owner.made == 3


class PromptConnection(LateConnection):
    """One that is in order."""

    def is_pong_late(self, now: float) -> bool:
        return False


class PromptOwner(LateOwner):
    def make_connection(self, url: str, now: float) -> LateConnection:
        self.made += 1
        return PromptConnection(self.made)


def test_a_host_that_announces_its_end_on_each_new_connection_does_not_use_up_the_connects():
    owner = PromptOwner()
    line = ConnectionSlot(owner, "wss://nowhere", random=lambda: 0.5)
    for tenth in range(3_000):  # the five minutes in which 300 are allowed, for all
        now = tenth / 10
        line.tick(now)
        newest = list(line)[-1]
        line.end_announced(newest, now)
        line.end_announced(newest, now)
        if tenth == 3:
            assert owner.made == 2  # the first time at once
    assert owner.made <= 20


def test_after_a_quiet_while_an_announced_end_is_followed_at_once_again():
    owner = PromptOwner()
    line = ConnectionSlot(owner, "wss://nowhere", random=lambda: 0.5)
    for announced_at in (0.0, 1_000.0, 2_000.0):
        line.tick(announced_at)
        made = owner.made
        line.end_announced(list(line)[-1], announced_at)
        for _ in range(3):
            line.tick(announced_at)
        assert owner.made == made + 1


def test_what_is_posted_is_done_or_refused_whatever_the_moment():
    for _ in range(100):
        mailbox = Mailbox()
        done: list[float] = []
        accepted: list[bool] = []

        def post(mailbox=mailbox, done=done, accepted=accepted):
            for _ in range(50):
                accepted.append(mailbox.post(done.append))

        posters = [threading.Thread(target=post) for _ in range(3)]
        for poster in posters:
            poster.start()
        mailbox.work_off(1.0)
        mailbox.close()
        mailbox.work_off(2.0)
        for poster in posters:
            poster.join()
        assert len(done) == accepted.count(True)


def test_a_signal_wakes_all_who_wait_and_no_wake_up_is_lost():
    binding = StreamBinding(OrderBook("spot"), None)
    signal, number, reached = UpdateSignal(binding), [0], []
    rounds = 2_000

    def follow():
        for target in range(1, rounds + 1, 7):
            assert signal.wait_for(lambda target=target: number[0] >= target, PATIENCE_S)
        reached.append(number[0])

    followers = [threading.Thread(target=follow) for _ in range(4)]
    for follower in followers:
        follower.start()
    for value in range(1, rounds + 1):
        number[0] = value
        if binding.waiting:
            signal.notify()
    for follower in followers:
        follower.join(PATIENCE_S)
    assert len(reached) == 4
    assert binding.waiting == 0


def test_the_silence_watch_asks_doubles_and_tells_the_dead_from_the_quiet():
    watch, heard_at = SilenceWatch(), 0.0
    assert not watch.is_due(heard_at, 59.0)
    assert watch.is_due(heard_at, 60.0)
    watch.ask(60.0)
    assert not watch.is_due(heard_at, 1000.0)  # one look-up is under way
    watch.answer(False, 61.0)
    assert not watch.is_due(heard_at, 119.0)
    assert watch.is_due(heard_at, 120.0)
    watch.ask(120.0)
    watch.answer(False, 121.0)
    assert not watch.is_due(heard_at, 239.0)
    assert watch.is_due(heard_at, 240.0)
    watch.ask(240.0)
    watch.answer(True, 241.0)
    assert not watch.is_dead(heard_at, 242.9)
    assert not watch.is_due(heard_at, 242.9)
    assert watch.is_dead(heard_at, 243.0)
    assert not watch.is_dead(heard_at, 244.0)  # it is said once


def test_an_update_after_the_look_up_shows_that_the_subscription_lives():
    watch = SilenceWatch()
    watch.ask(60.0)
    watch.answer(True, 61.0)
    assert not watch.is_dead(61.5, 63.0)
    assert not watch.is_due(61.5, 120.0)
    assert watch.is_due(61.5, 121.5)
