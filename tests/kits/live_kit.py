"""What the tests of the live part share: a manager in front of the loopback exchange, and how to wait for things."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from loopback_exchange import EXCHANGES, PATIENCE_S, LoopbackExchange
from wire_frames import CLOSE

from ldc.consume import log
from ldc.errors import DepthCacheOutOfSync
from ldc.feed.connection import FeedConnection
from ldc.manager.manager import BinanceLocalDepthCacheManager

MARKETS_PER_CONNECTION = int(os.environ.get("LDC_MARKETS_PER_CONNECTION", "100"))
"""What managers are made with here unless a test says otherwise."""

needs_shared_connection = pytest.mark.skipif(
    MARKETS_PER_CONNECTION == 1, reason="it is about markets that share a connection"
)

SHORT_PING = {"websocket_ping_interval": 0.4, "websocket_ping_timeout": 1.2}
"""A dead link is noticed within their sum and a second. A busy machine may keep a pong waiting for half a second."""

NOTICED_S = sum(SHORT_PING.values()) + 1.0
"""The promise."""

SLOW_S = float(os.environ.get("LDC_SLOW_S", "2.0"))
"""So much longer than promised something may take a test on a machine that is busy with other things."""

TRIES = 3
"""What must be quick is tried so often, where any one try may meet a machine that is busy: the quickest counts."""


MANAGER_PARAMETERS: dict[str, Any] = {}
"""What this kit makes managers with, unless a test says otherwise. Fixtures fill it."""


@pytest.fixture
def no_jitter() -> Iterator[None]:
    """Every random number is 0: reconnects and retries come at once, so that tests need not wait for luck."""
    MANAGER_PARAMETERS["_random"] = lambda: 0.0
    yield
    MANAGER_PARAMETERS.clear()


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, all threads of ldc have ended some time after it."""
    monkeypatch.setattr(log, "IDLE_S", 0.01)  # each test would wait for the log's thread: 0.2 s, 500 times
    yield
    assert_no_thread_is_left()


def assert_no_thread_is_left() -> None:
    """All threads of ldc end, some time after what had them was closed."""
    deadline = time.monotonic() + PATIENCE_S
    for thread in threading.enumerate():
        # A start that an exception interrupted leaves a thread in the list that never was one.
        if thread.name.startswith("ldc-") and thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} is left"


@pytest.fixture
def sent_at(monkeypatch: pytest.MonkeyPatch) -> dict[FeedConnection, list[float]]:
    """When each connection sent a frame, by the clock that paces them: a busy exchange hears in one go what was not."""
    monkeypatch.setenv("LDC_NATIVE_LOOP", "0")  # what the loop in C sends is seen by nobody; its pace is the same code
    times: dict[FeedConnection, list[float]] = {}
    queue, tick = FeedConnection._queue, FeedConnection.tick
    ticked_at: dict[FeedConnection, float] = {}

    def note_time(connection: FeedConnection, now: float) -> None:
        ticked_at[connection] = now
        tick(connection, now)

    def note(connection: FeedConnection, opcode: int, payload: bytes | str) -> None:
        times.setdefault(connection, []).append(ticked_at[connection])
        queue(connection, opcode, payload)

    monkeypatch.setattr(FeedConnection, "tick", note_time)
    monkeypatch.setattr(FeedConnection, "_queue", note)
    return times


def assert_polite(exchange: LoopbackExchange, sent_at: dict[FeedConnection, list[float]]) -> None:
    """On no connection more than three frames went out in a second, and none that was not counted."""
    for times in sent_at.values():
        assert all(fourth - first > 0.999 for first, fourth in zip(times, times[3:], strict=False)), times
    heard = sum(message.opcode != CLOSE for each in exchange.connections for message in tuple(each.received))
    assert 0 < heard <= sum(map(len, sent_at.values()))


def connection_count(markets: Sequence[str]) -> int:
    """Return how many connections so many markets need."""
    return math.ceil(len(markets) / MARKETS_PER_CONNECTION)


@contextlib.contextmanager
def live(
    kind: str = "spot", markets: tuple[str, ...] = ("BTCUSDT",), **parameters: Any
) -> Iterator[tuple[LoopbackExchange, BinanceLocalDepthCacheManager]]:
    """An exchange that lists these markets, and a manager that knows where it is."""
    parameters = {"markets_per_connection": MARKETS_PER_CONNECTION} | MANAGER_PARAMETERS | parameters
    with LoopbackExchange(kind) as exchange:
        for market in markets:
            exchange.add_market(market)
        with BinanceLocalDepthCacheManager(EXCHANGES[kind], **exchange.uris, **parameters) as manager:
            yield exchange, manager


def synchronize(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager, *markets: str) -> None:
    """Create depth caches, and wait until they can be read; an update each spares the wait for a quiet market."""
    wanted = markets or tuple(exchange.markets)
    manager.create_depth_cache(wanted)
    for market in wanted:
        exchange.wait_for(
            lambda market=market: any(
                exchange.stream(market) in connection.streams for connection in exchange.connections
            ),
            f"a subscription of {market}",
        )
        exchange.update(market)
    assert manager.wait_until_synchronized(wanted, PATIENCE_S), [manager.get_status(market) for market in wanted]


def reach(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager, market: str = "BTCUSDT") -> int:
    """Move the market on, and wait until the depth cache has followed."""
    update_id = exchange.update(market, bids=[("99.99", "7.25")])
    wait_for_id(manager, market, update_id)
    return update_id


def wait_for_id(
    manager: BinanceLocalDepthCacheManager, market: str, update_id: int, timeout_s: float = PATIENCE_S
) -> None:
    """Wait until a depth cache can be read at an id, however often it is lost meanwhile."""
    deadline = time.monotonic() + timeout_s
    reader = manager.get_depth_cache(market).reader
    while not (reader.is_readable and reader.last_update_id == update_id):
        assert time.monotonic() < deadline, manager.get_status(market)
        with contextlib.suppress(DepthCacheOutOfSync):
            manager.wait_for_update(market, reader.last_update_id if reader.is_readable else None, 1.0)


def assert_exact(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager, market: str = "BTCUSDT") -> None:
    """What is read is the exchange's book at the id that it says, as far as it claims to be complete."""
    view = manager.get_depth_cache(market).reader.view(number=Decimal)
    true_book = exchange.true_book(market, view.last_update_id)
    for name, levels, horizon in (("bids", view.bids, view.bid_horizon), ("asks", view.asks, view.ask_horizon)):
        true_levels = true_book.side(name)
        if horizon is not None:
            true_levels = [
                pair for pair in true_levels if (pair[0] >= horizon if name == "bids" else pair[0] <= horizon)
            ]
        assert list(levels) == true_levels, f"{name} of {market} at {view.last_update_id}"


def eventually(predicate: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Look until something is so that nobody signals; it fails when that takes unreasonably long."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not predicate():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        pause.wait(0.002)
