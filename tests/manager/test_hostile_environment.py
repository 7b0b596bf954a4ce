"""The surroundings of the threads: log handlers that raise or block, a feed thread that fails or stands still."""

import ctypes
import logging
import threading
import time
from collections.abc import Iterator

import pytest
from live_kit import eventually, live, no_jitter, no_thread_is_left, reach, synchronize  # noqa: F401

from ldc import DepthCacheAlreadyStopped, DepthCacheOutOfSync
from ldc.consume.log import logger
from ldc.feed.group import FeedGroup
from ldc.feed.loop import EventLoop
from ldc.types import Cause

pytestmark = pytest.mark.usefixtures("no_jitter")

DEADLINE_S = 20.0
SHORT_LEASE = {"websocket_ping_interval": 0.3, "websocket_ping_timeout": 0.3}
"""With the margin a lease of 1.6 s."""


class Raises(logging.Handler):
    """A handler that raises, whatever it gets."""

    def handle(self, record: logging.LogRecord) -> bool:
        raise ZeroDivisionError(record.getMessage())


class Blocks(logging.Handler):
    """A handler that blocks until it is released: a standard error that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.is_blocking = threading.Event()
        self.released = threading.Event()

    def handle(self, record: logging.LogRecord) -> bool:
        self.is_blocking.set()
        self.released.wait(DEADLINE_S)
        return True


class Recurses(logging.Handler):
    """A handler that logs by the very logger that it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def handle(self, record: logging.LogRecord) -> bool:
        logger.warning("again: %s", record.getMessage()[:50])
        return True


@pytest.fixture(params=[Raises, Blocks, Recurses])
def handler(request: pytest.FixtureRequest) -> Iterator[logging.Handler]:
    """Each hostile handler in turn, on ldc's logger."""
    made = request.param()
    library = logging.getLogger("binance_local_depth_cache")
    library.addHandler(made)
    yield made
    library.removeHandler(made)
    if isinstance(made, Blocks):
        made.released.set()


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_a_hostile_log_handler_costs_no_book_its_suspension_and_no_stop_its_second(kind, handler):
    """Reproduced before: the book stayed readable for ever while the exchange moved on."""
    with live(kind) as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        reader = cache.reader
        exchange.on_handshake = lambda *_: b"HTTP/1.1 503 no\r\n\r\n"
        exchange.connections[-1].reset()
        eventually(lambda: not reader.is_readable, "the loss of the book")
        assert reader.unreadable_cause == Cause.STREAM_CLOSED
        began = time.monotonic()
        manager.stop_manager()
        assert time.monotonic() - began < 1.0 + DEADLINE_S / 10
        assert reader.unreadable_cause == Cause.STOPPED


@pytest.mark.parametrize("place", ["_read", "_tick", "_run_actions", "_check_silence"])
def test_a_feed_that_fails_suspends_its_books_and_comes_back(place, monkeypatch):
    with live(**SHORT_LEASE) as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        intact, failures = getattr(FeedGroup, place), iter([MemoryError("on purpose"), SystemExit("on purpose")])

        def fail(*arguments):
            for failure in failures:
                raise failure
            return intact(*arguments)

        resyncs = sum(cache.status().resyncs.values())
        if place == "_check_silence":
            cache.group.post(lambda now: cache.group._check_silence(now))
        monkeypatch.setattr(FeedGroup, place, fail)
        exchange.connections[-1].reset()
        eventually(lambda: sum(cache.status().resyncs.values()) > resyncs, "the loss")
        eventually(lambda: cache.is_synchronized, "the book")
        reach(exchange, manager)


def test_a_reader_of_a_stopped_market_says_so_at_once_even_if_its_feed_stands_still():
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        stands, goes_on = threading.Event(), threading.Event()
        cache.group.post(lambda now: (stands.set(), goes_on.wait(DEADLINE_S)))
        assert stands.wait(DEADLINE_S)
        manager.stop_depth_cache("BTCUSDT")
        assert cache.reader.unreadable_cause == Cause.STOPPED
        with pytest.raises((DepthCacheOutOfSync, DepthCacheAlreadyStopped)):
            cache.reader.bids(1)
        cache.live.book.resume()  # as a feed may that knows nothing of it yet
        assert not cache.reader.is_readable
        goes_on.set()


def test_a_feed_that_stands_still_does_not_leave_its_books_readable_and_no_waiter_hangs():
    with live(**SHORT_LEASE) as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        stands, goes_on = threading.Event(), threading.Event()
        told: list[str | None] = []

        def wait() -> None:
            try:
                cache.wait_for_update(timeout=DEADLINE_S)
            except DepthCacheOutOfSync as error:
                told.append(error.cause)

        waiter = threading.Thread(target=wait)
        waiter.start()
        cache.group.post(lambda now: (stands.set(), goes_on.wait(DEADLINE_S)))
        assert stands.wait(DEADLINE_S)
        eventually(lambda: not cache.is_synchronized, "the end of the lease")
        assert cache.reader.unreadable_cause == Cause.STALLED
        with pytest.raises(DepthCacheOutOfSync, match="STALLED") as refused:
            manager.get_bids("BTCUSDT")
        assert refused.value.cause == Cause.STALLED
        assert not manager.is_depth_cache_synchronized("BTCUSDT")
        assert manager.get_status("BTCUSDT").cause == Cause.STALLED
        waiter.join(DEADLINE_S)
        assert told == [Cause.STALLED]
        goes_on.set()
        eventually(lambda: cache.is_synchronized, "another proof")
        reach(exchange, manager)


@pytest.mark.skipif(not hasattr(ctypes, "PyDLL"), reason="there is no way to hold the GIL in C here")
def test_after_a_thread_held_the_gil_the_book_is_stalled_until_another_proof():
    with live(**SHORT_LEASE) as (exchange, manager):
        synchronize(exchange, manager)
        reader = manager.get_depth_cache("BTCUSDT").reader
        for connection in exchange.connections:
            connection.is_ponging = False
        ctypes.PyDLL(None).usleep(2_500_000)  # keeps the GIL: no pong can be answered by the exchange in this process
        assert not reader.is_readable
        for connection in exchange.connections:
            connection.is_ponging = True
        reach(exchange, manager)


def test_a_fault_in_the_loop_itself_is_survived(monkeypatch):
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        intact, failures = EventLoop._turn, iter([OSError("on purpose")])

        def fail(loop):
            for failure in failures:
                raise failure
            return intact(loop)

        monkeypatch.setattr(EventLoop, "_turn", fail)
        cache.group.post(lambda now: None)
        eventually(lambda: sum(cache.status().resyncs.values()) > 0, "the loss")
        reach(exchange, manager)
