"""What surrounds the threads of ldc: log handlers, a full pipe, nothing left of what a system has, a dead writer.

Each on 1 and 20 markets, with a reader that judges every view: none is ever wrong by more than the lease. No waiter
hangs, and a stop is quick. What takes long is marked `check`; `make check-hostile` runs it all.
"""

import contextlib
import ctypes
import functools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

import pytest
from live_kit import SLOW_S, eventually, live, no_jitter, no_thread_is_left, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, LoopbackExchange

from ldc.book import BookReader
from ldc.consume.log import logger
from ldc.errors import DepthCacheAlreadyStopped, DepthCacheError, DepthCacheOutOfSync
from ldc.limits import Timing
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.types import Cause

pytestmark = [
    pytest.mark.usefixtures("no_jitter"),
    pytest.mark.xdist_group("hostile"),
    # What is raised in a generator that is collected, or in a __del__, reaches nobody.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PINGS = {"websocket_ping_interval": 0.3, "websocket_ping_timeout": 0.9}
LEASE_S = sum(PINGS.values()) + 1.0
ONE_AND_MANY = pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.check)])


def names(count: int) -> tuple[str, ...]:
    return tuple(f"M{number}USDT" for number in range(count))


class Watch:
    """Moves all markets all the time, and judges what readers get: how long ago was a view overtaken?"""

    def __init__(self, exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager | None = None) -> None:
        self.overtaken_s = 0.0
        self.views = 0
        self.published: dict[str, list[tuple[float, int]]] = {market: [] for market in exchange.markets}
        self._exchange, self._end = exchange, threading.Event()
        self._readers = {name: manager.get_depth_cache(name).reader for name in exchange.markets if manager is not None}
        self._threads = [threading.Thread(target=work) for work in (self._move, self._read)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        assert self.overtaken_s <= LEASE_S + SLOW_S

    def _move(self) -> None:
        while not self._end.wait(0.05):
            for market, published in self.published.items():
                update_id = self._exchange.update(market)
                published.append((time.monotonic(), update_id))

    def _read(self) -> None:
        while not self._end.wait(0.01):
            for market, reader in self._readers.items():
                now = time.monotonic()
                with contextlib.suppress(DepthCacheError):
                    self.note(market, now, reader.view(1).last_update_id)

    def note(self, market: str, at: float, update_id: int) -> None:
        """A view of this id was read at this time."""
        self.views += 1
        overtaken_at = next((when for when, published in self.published[market] if published > update_id), at)
        self.overtaken_s = max(self.overtaken_s, at - overtaken_at)


@contextlib.contextmanager
def watched(count: int, **parameters: Any) -> Iterator[tuple[LoopbackExchange, BinanceLocalDepthCacheManager]]:
    """So many markets that are in sync, move, and are read. At the end the manager is stopped, and must be quick."""
    parameters = PINGS | {"timing": Timing(fault_pause_s=0.01)} | parameters
    with live("spot", names(count), **parameters) as (exchange, manager):
        synchronize(exchange, manager)
        with Watch(exchange, manager):
            yield exchange, manager
            readers = [manager.get_depth_cache(market).reader for market in exchange.markets]
            began = time.monotonic()
            manager.stop_manager()
            assert time.monotonic() - began < 1.0 + SLOW_S
            assert {reader.unreadable_cause for reader in readers} == {Cause.STOPPED}


def follow(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    """Wait until every market can be read and has all that was published before this call."""
    for market in exchange.markets:
        has_followed = functools.partial(is_at, manager.get_depth_cache(market).reader, exchange.update(market))
        eventually(has_followed, f"an up-to-date book of {market}")


def is_at(reader: BookReader, update_id: int) -> bool:
    return reader.is_readable and reader.last_update_id >= update_id


class Waiter:
    """A thread that waits for one update after the other, without a timeout."""

    def __init__(self, manager: BinanceLocalDepthCacheManager, market: str = "M0USDT") -> None:
        self.error: BaseException | None = None
        self.update_id: int | None = None
        self._cache = manager.get_depth_cache(market)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            while True:
                self.update_id = self._cache.wait_for_update(self.update_id)
        except BaseException as error:  # a thread's top
            self.error = error

    def goes_on(self, update_id: int | None) -> bool:
        """Whether it follows the market: it did not notice that the book was lost for a moment."""
        return self._thread.is_alive() and update_id is not None and (self.update_id or 0) >= update_id

    def ended_by(self) -> BaseException | None:
        """Return what ended it."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the waiter hangs"
        return self.error


# ------------------------------------------------------------------------------------------------ the log


class Handler(logging.Handler):
    """A handler that does what a function does, whatever its base class would catch."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.work = work
        self.threads: set[str] = set()

    def handle(self, record: logging.LogRecord) -> bool:
        self.threads.add(threading.current_thread().name)
        self.work()
        return True


@contextlib.contextmanager
def handled(work: Callable[[], object]) -> Iterator[Handler]:
    library, handler = logging.getLogger("binance_local_depth_cache"), Handler(work)
    level = library.level
    library.addHandler(handler)
    library.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


def fail() -> None:
    raise ZeroDivisionError("a handler with a bug")


def leave() -> None:
    sys.exit("a handler that ends its thread")


def log_again() -> None:
    logger.info("once more")


@ONE_AND_MANY
@pytest.mark.parametrize("kind", ["raises", "exits", "blocks", "recurses"])
def test_a_log_handler_harms_no_book(count, kind):
    """Reproduced before: the book stayed readable for ever while the exchange moved on."""
    gate = threading.Event()
    work = {"raises": fail, "exits": leave, "blocks": lambda: gate.wait(PATIENCE_S), "recurses": log_again}[kind]
    with handled(work) as handler:
        with watched(count) as (exchange, manager):
            reader = manager.get_depth_cache("M0USDT").reader
            handshake, exchange.on_handshake = exchange.on_handshake, lambda *_: b"HTTP/1.1 503 no\r\n\r\n"
            exchange.connections[-1].reset()
            eventually(lambda: not reader.is_readable, "the loss of the book")
            exchange.on_handshake = handshake
            follow(exchange, manager)
            waiter = Waiter(manager)
        assert isinstance(waiter.ended_by(), DepthCacheAlreadyStopped)
        gate.set()
    assert handler.threads == {"ldc-log"}


# ------------------------------------------------------------------------------------------------ a process of its own

ALONE = """
import ctypes, json, os, sys, threading, time, ldc
from ldc.errors import DepthCacheError
rest, ws, markets, parameters = sys.argv[1], sys.argv[2], sys.argv[3].split(","), json.loads(sys.argv[4])
manager = ldc.BinanceLocalDepthCacheManager("binance.com", restful_base_uri=rest, websocket_base_uri=ws,
    _random=lambda: 0.5, **parameters)  # at 0.0 no try waits, and a lack of memory uses up the connects of five minutes
manager.create_depth_cache(markets)
assert manager.wait_until_synchronized(timeout=20)
readers = {market: manager.get_depth_cache(market).reader for market in markets}
is_over = threading.Event()

def exhaust_descriptors():
    import resource
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), most))

def tell(*words):
    # A line is one write of the system: print writes it in pieces, and another thread's words come between them.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def exhaust_memory():
    import resource
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 300_000, resource.RLIM_INFINITY))

def exhaust_disk():
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

def lift():
    import resource
    for name in ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_FSIZE"):
        most = resource.getrlimit(getattr(resource, name))[1]
        resource.setrlimit(getattr(resource, name), (most, most))

def hold_gil(held_s):
    ctypes.PyDLL(None).usleep(int(float(held_s) * 1e6))  # PyDLL: without releasing the GIL

orders = {each.__name__: each for each in (exhaust_descriptors, exhaust_memory, exhaust_disk, lift, hold_gil)}

def obey():
    for line in sys.stdin:
        name, *arguments = line.split()
        orders[name](*arguments)
        tell(name)
    is_over.set()

threading.Thread(target=obey, daemon=True).start()

def wait():
    try:
        update_id = None
        while True:
            try:
                update_id = manager.wait_for_update(markets[0], update_id)
            except ldc.DepthCacheOutOfSync:
                update_id = None
    except ldc.DepthCacheAlreadyStopped:
        pass

waiter = threading.Thread(target=wait)
waiter.start()
tell("ready")

def look():
    for market, reader in readers.items():
        now = time.monotonic()
        try:
            found = reader.view(1).last_update_id
        except DepthCacheError as error:
            found = error.cause
        except MemoryError:
            found = "MEMORY"
        if time.monotonic() - now < 0.1:  # the time of the view is known
            tell(market, now, found)

while not is_over.is_set():
    try:
        is_over.wait(0.05)
        look()
    except MemoryError:
        pass
began = time.monotonic()
manager.stop_manager()
took_s = time.monotonic() - began
waiter.join(10)
causes = sorted({str(reader.unreadable_cause) for reader in readers.values()})
tell(json.dumps({"stopped_s": took_s, "causes": causes, "waits": waiter.is_alive()}))
os._exit(0)  # logging.shutdown waits for a handler that is blocked, as it does in any program
"""


class Alone:
    """A process with a manager, a reader and a waiter."""

    def __init__(self, exchange: LoopbackExchange, stderr: int | None = None, **parameters: Any) -> None:
        addresses = [exchange.uris["restful_base_uri"], exchange.uris["websocket_base_uri"]]
        arguments = [*addresses, ",".join(exchange.markets), json.dumps(PINGS | parameters)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", ALONE, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        for market in exchange.markets:
            exchange.subscribed(market)
            exchange.update(market)
        assert self.process.stdout.readline() == "ready\n"
        self.lines: list[str] = []
        self._collector = threading.Thread(target=self.lines.extend, args=(self.process.stdout,))
        self._collector.start()

    def order(self, *words: object, is_awaited: bool = True) -> None:
        """Let it do something."""
        assert self.process.stdin is not None
        done = self.lines.count(f"{words[0]}\n")
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        if is_awaited:
            eventually(lambda: self.lines.count(f"{words[0]}\n") > done, str(words))

    def found(self, market: str = "M0USDT") -> str:
        """Return the update id or the cause that its reader found last."""
        return next((line.split()[2] for line in reversed(self.lines) if line.startswith(f"{market} ")), "")

    def end(self, watch: Watch) -> set[str]:
        """End it, judge all that it has read, and return the causes of its refusals."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_S) == 0
        self._collector.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        causes = set()
        for market, at, what in (line.split() for line in self.lines[:-1] if line.startswith("M")):
            if what.isdigit():
                watch.note(market, float(at), int(what))
            else:
                causes.add(what)
        told = json.loads(self.lines[-1])
        assert (told["causes"], told["waits"]) == (["STOPPED"], False)
        assert told["stopped_s"] < 1.0 + SLOW_S
        assert watch.views > 0
        return causes


@contextlib.contextmanager
def exchange_of(count: int) -> Iterator[LoopbackExchange]:
    with LoopbackExchange("spot") as exchange:
        for market in names(count):
            exchange.add_market(market)
        yield exchange


def reads_on(alone: Alone, exchange: LoopbackExchange) -> None:
    """Wait until the process has read something that is published from now on."""
    update_id = exchange.update("M0USDT")

    def has_followed() -> bool:
        found = alone.found()
        return found.isdigit() and int(found) >= update_id

    eventually(has_followed, "a book that follows", 3 * PATIENCE_S)


@ONE_AND_MANY
@pytest.mark.skipif(sys.platform != "linux", reason="a pipe is made small as Linux does it")
def test_a_standard_error_that_nobody_reads_harms_no_book(count):
    import fcntl

    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # type: ignore[attr-defined]
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    with exchange_of(count) as exchange:
        alone = Alone(exchange, stderr=writer)
        with Watch(exchange) as watch:
            handshake, exchange.on_handshake = exchange.on_handshake, lambda *_: b"HTTP/1.1 503 no\r\n\r\n"
            exchange.connections[-1].reset()
            eventually(lambda: alone.found() == "STREAM_CLOSED", "the loss")
            exchange.on_handshake = handshake
            reads_on(alone, exchange)
            alone.end(watch)
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is counted as Linux shows it")
@pytest.mark.parametrize("what", ["descriptors", "memory", "disk"])
@ONE_AND_MANY
def test_a_process_that_has_no_more_of_something_shows_no_old_book_and_comes_back(count, what, tmp_path):
    """Its connection ends while there is none left; every thread that is started needs memory, too."""
    with exchange_of(count) as exchange:
        alone = Alone(exchange, stderr=subprocess.DEVNULL, shared_budget=str(tmp_path))
        with Watch(exchange) as watch:
            alone.order(f"exhaust_{what}")
            exchange.connections[-1].reset()
            eventually(lambda: alone.found() in ("STREAM_CLOSED", "NOT_LOADED", "STALLED", "MEMORY"), "the loss")
            alone.order("lift")
            reads_on(alone, exchange)
            alone.end(watch)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
@pytest.mark.parametrize("stopped_s", [LEASE_S + 0.5, pytest.param(20.0, marks=pytest.mark.check)])
@ONE_AND_MANY
def test_a_process_that_was_stopped_shows_no_old_book(count, stopped_s):
    with exchange_of(count) as exchange:
        alone = Alone(exchange, stderr=subprocess.DEVNULL)
        with Watch(exchange) as watch:
            alone.process.send_signal(signal.SIGSTOP)
            threading.Event().wait(stopped_s)
            alone.process.send_signal(signal.SIGCONT)
            reads_on(alone, exchange)
            alone.end(watch)


@pytest.mark.skipif(not hasattr(ctypes, "PyDLL") or sys.platform == "win32", reason="usleep is of POSIX")
@pytest.mark.parametrize("held_s", [LEASE_S + 0.5, pytest.param(15.0, marks=pytest.mark.check)])
@ONE_AND_MANY
def test_a_thread_that_keeps_the_gil_makes_no_book_wrong(count, held_s):
    with exchange_of(count) as exchange:
        alone = Alone(exchange, stderr=subprocess.DEVNULL)
        with Watch(exchange) as watch:
            alone.order("hold_gil", held_s)
            reads_on(alone, exchange)
            alone.end(watch)


# ------------------------------------------------------------------------------------------------ no more threads


@ONE_AND_MANY
@pytest.mark.parametrize(
    "thread", ["ldc-log", "ldc-callbacks", "ldc-connect", pytest.param("ldc-snapshot", marks=pytest.mark.check)]
)
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=["threads", "memory"])
def test_a_thread_that_cannot_be_started_is_started_later(count, thread, error, monkeypatch):
    start, refused, called = threading.Thread.start, [], threading.Event()

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith(thread) and len(refused) < 3:
            refused.append(self.name)
            raise error
        start(self)

    eventually(lambda: logger._thread is None, "the end of a log thread that an earlier test had")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with watched(count, on_restart=lambda market, at: called.set()) as (exchange, manager):
        for number in range(4):
            exchange.connections[-1].reset()
            exchange.subscribed("M0USDT", number=number + 2)
            follow(exchange, manager)
        assert called.wait(PATIENCE_S)
    assert len(refused) == 3


def test_without_more_threads_a_manager_stops_all_the_same(monkeypatch):
    with watched(1):
        start = threading.Thread.start

        def refuse(self: threading.Thread) -> None:
            if self.name == "ldc-stop":
                raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", refuse)  # the end of this block stops the manager


def test_whatever_a_connector_raises_is_reported(monkeypatch):
    """Without a report the group would wait for the deadline of the connection."""

    class Unforeseen(BaseException):
        pass

    with watched(1) as (exchange, manager):

        def fail_once(*_arguments: object, **_named: object) -> None:
            monkeypatch.undo()
            raise Unforeseen("on purpose")

        monkeypatch.setattr("ldc.feed.connection.open_websocket", fail_once)
        exchange.connections[-1].reset()
        eventually(lambda: "Unforeseen" in (manager.get_status("M0USDT").last_error or ""), "the report")
        follow(exchange, manager)


# ------------------------------------------------------------------------------------- a feed thread that fails


class Unforeseen(BaseException):
    """No Exception, as SystemExit and KeyboardInterrupt are none."""


SPARED = {"release", "__exit__", "_release_save", "setprofile"}
"""Calls that end something held. They cannot fail; and where one is made to, nothing can help."""


class Injection:
    """An exception in the n-th call that a feed's thread makes from now on, of Python or of C; or from a call on."""

    def __init__(self, group: Any, number: int, error: type[BaseException], begin_in: str | None = None) -> None:
        self.calls = 0
        self.raised_in: str | None = None
        self.is_over = False
        self._number, self._error, self._begin_in = number, error, begin_in
        self._installed = threading.Event()

        def install(_now: float) -> None:
            self._installed.set()
            sys.setprofile(self._profile)

        group.post(install)
        assert self._installed.wait(PATIENCE_S)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.is_over:
            sys.setprofile(None)
            return
        if event not in ("call", "c_call"):
            return
        name = frame.f_code.co_name if event == "call" else argument.__name__
        if name == self._begin_in:
            self._begin_in = None
        if self._begin_in is not None or name in SPARED or frame.f_code.co_name in SPARED:
            return
        self.calls += 1
        if self.calls > self._number:
            sys.setprofile(None)
            self.is_over, self.raised_in = True, name
            raise self._error(f"injected in {name}")


class Reconnect:
    """Notes how many connections there were, to see the next one."""

    def __init__(self, exchange: LoopbackExchange) -> None:
        self._exchange, self._count = exchange, len(exchange.connections)

    def is_past(self, injection: Injection) -> bool:
        """Whether the exception was raised, or the feed has subscribed again without reaching so many calls."""
        connections = self._exchange.connections
        return injection.is_over or (len(connections) > self._count and bool(connections[-1].streams))


def stir(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    """Let a feed do most of what a feed does: it reads replies, loses its connection, and synchronizes again."""
    exchange.connections[-1].send('{"result":null,"id":99999}')
    manager.set_refresh_request("M0USDT")
    with contextlib.suppress(IndexError):
        exchange.connections[-1].reset()


TRIES_OF_A_MANAGER = 100
"""Each try costs a connection or two, and an address has 300 in five minutes."""

IN_EVERY_CALL = bool(os.environ.get("LDC_EVERY_CALL"))
"""Whether an exception is raised in each call in turn, not in some of them: half an hour."""


def batches(numbers: list[int]) -> Iterator[list[int]]:
    for first in range(0, len(numbers), TRIES_OF_A_MANAGER):
        yield numbers[first : first + TRIES_OF_A_MANAGER]


def calls_of_a_feed(count: int) -> int:
    """Return how many calls, at least, a feed's thread makes when it is stirred."""
    with watched(count) as (exchange, manager):
        injection = Injection(manager.get_depth_cache("M0USDT").group, 10**9, RuntimeError)
        stir(exchange, manager)
        exchange.subscribed("M0USDT", number=2)
        follow(exchange, manager)
        injection.is_over = True
        return injection.calls


@pytest.mark.parametrize("error", [RuntimeError, Unforeseen])
@pytest.mark.parametrize(("count", "tries"), [
    (1, 12), pytest.param(1, 90, marks=pytest.mark.check), pytest.param(20, 60, marks=pytest.mark.check),
])  # fmt: skip
def test_whatever_is_raised_in_any_call_of_a_feed_thread_is_survived(count, tries, error):
    seed = int(os.environ.get("LDC_SEED", random.SystemRandom().randrange(10**6)))
    print(f"LDC_SEED={seed}")
    calls, chosen, raised_in = calls_of_a_feed(count), random.Random(seed), set()
    numbers = list(range(calls)) if IN_EVERY_CALL else [chosen.randrange(calls) for _ in range(tries)]
    for some in batches(numbers):
        with watched(count) as (exchange, manager):
            for number in some:
                injection = Injection(manager.get_depth_cache("M0USDT").group, number, error)
                reconnect = Reconnect(exchange)
                stir(exchange, manager)
                eventually(functools.partial(reconnect.is_past, injection), "the exception")
                injection.is_over = True
                print(number, injection.raised_in)
                raised_in.add(injection.raised_in)
                follow(exchange, manager)
    print(f"raised in {len(numbers)} calls, of {len(raised_in - {None})} functions")
    assert raised_in - {None}, "not one of the calls was reached"


@pytest.mark.parametrize("error", [RuntimeError, Unforeseen])
@ONE_AND_MANY
def test_a_feed_thread_that_cannot_recover_closes_its_books_and_can_be_replaced(count, error):
    with watched(count) as (exchange, manager):
        cache = manager.get_depth_cache("M0USDT")
        waiter = Waiter(manager)

        def raises(*_arguments: object) -> None:
            raise error("nobody foresaw this")

        cache.group._loop._recover = raises
        cache.group.post(raises)
        assert cache.group.join(PATIENCE_S)
        assert isinstance(waiter.ended_by(), DepthCacheAlreadyStopped)
        for market in exchange.markets:
            assert manager.get_depth_cache(market).reader.unreadable_cause == Cause.STOPPED
            with pytest.raises(DepthCacheAlreadyStopped):
                manager.wait_until_synchronized(market)
        manager.create_depth_cache(names(count))
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        assert manager.get_depth_cache("M0USDT").group is not cache.group
        follow(exchange, manager)


@pytest.mark.parametrize("error", [RuntimeError, Unforeseen])
@pytest.mark.parametrize(("count", "step"), [
    (1, 47), pytest.param(1, 23, marks=pytest.mark.check), pytest.param(20, 211, marks=pytest.mark.check),
])  # fmt: skip
def test_an_exception_in_each_call_of_a_recovery_leaves_no_book_that_looks_alive(count, step, error):
    """Either the feed recovers, or its books say STOPPED, its waiters end, and the markets can be created again."""
    number, ended = 0, {"recovered": 0, "stopped": 0}
    is_past_the_last = False
    while not is_past_the_last:
        with watched(count) as (exchange, manager):
            for _ in range(TRIES_OF_A_MANAGER):
                end = after_an_exception_in_recovery(exchange, manager, number, error)
                if end is None:
                    is_past_the_last = True
                    break
                ended[end] += 1
                number += 1 if IN_EVERY_CALL else step
    assert ended["recovered"] > 0
    print(f"{ended}, calls {number}")


def after_an_exception_in_recovery(
    exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager, number: int, error: type[BaseException]
) -> str | None:
    """Raise in the call of that number of a recovery, and judge what follows; None if a recovery has fewer calls."""
    cache = manager.get_depth_cache("M0USDT")
    waiter = Waiter(manager)
    injection = Injection(cache.group, number, error, begin_in="_recover")
    reconnect = Reconnect(exchange)
    cache.group.post(lambda now: fail())
    eventually(functools.partial(reconnect.is_past, injection), "the end of the recovery")
    if injection.raised_in is None:
        injection.is_over = True
        return None
    has_ended = cache.group.has_ended
    if has_ended:
        assert cache.group.join(PATIENCE_S)
        assert cache.reader.unreadable_cause == Cause.STOPPED
        manager.create_depth_cache(list(exchange.markets))
    assert manager.wait_until_synchronized(timeout=PATIENCE_S)
    follow(exchange, manager)
    assert waiter.goes_on(cache.reader.last_update_id) or isinstance(waiter.ended_by(), DepthCacheError)
    return "stopped" if has_ended else "recovered"


# ------------------------------------------------------------------------------------- a feed thread that hangs


@ONE_AND_MANY
def test_the_books_of_a_feed_thread_that_hangs_are_stalled_until_it_goes_on(count):
    gate = threading.Event()
    with watched(count) as (exchange, manager):
        cache = manager.get_depth_cache("M0USDT")
        waiter = Waiter(manager)
        cache.group.post(lambda now: gate.wait(2 * PATIENCE_S))
        ended_by = waiter.ended_by()
        assert isinstance(ended_by, DepthCacheOutOfSync)
        assert ended_by.cause == Cause.STALLED
        assert not manager.is_depth_cache_synchronized("M0USDT")
        assert manager.get_status("M0USDT").cause == Cause.STALLED
        with pytest.raises(DepthCacheOutOfSync) as raised:
            manager.get_book("M0USDT")
        assert raised.value.cause == Cause.STALLED
        assert not manager.wait_until_synchronized("M0USDT", timeout=0.2)
        gate.set()
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)


@ONE_AND_MANY
def test_a_stop_closes_the_books_of_a_feed_thread_that_hangs(count):
    gate = threading.Event()
    with live("spot", names(count), **PINGS) as (exchange, manager):
        synchronize(exchange, manager)
        caches = [manager.get_depth_cache(market) for market in exchange.markets]
        waiter = Waiter(manager)
        caches[0].group.post(lambda now: gate.wait(2 * PATIENCE_S))
        manager.stop_depth_cache("M0USDT")
        assert caches[0].reader.unreadable_cause == Cause.STOPPED
        caches[0].live.book.resume()  # as a feed may that knows nothing of it yet
        assert caches[0].reader.unreadable_cause == Cause.STOPPED
        assert isinstance(waiter.ended_by(), DepthCacheAlreadyStopped)
        began = time.monotonic()
        manager.stop_manager()
        assert time.monotonic() - began < 1.0 + SLOW_S
        assert {cache.reader.unreadable_cause for cache in caches} == {Cause.STOPPED}
        gate.set()
