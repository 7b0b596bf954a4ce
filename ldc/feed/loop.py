"""An event loop: one thread that waits for sockets, posted work and a deadline, and calls its owner for each.

Rule 1: `start`, `post`, `stop` and `join` may be called from any thread. Everything else belongs to the loop's thread.
Rule 2: most wake-ups bring one readable socket and move no deadline. So deadlines are checked only when `tick_due` has
    come. Code that may bring a deadline nearer sets `tick_due` to the present. The loop does so itself for posted work
    and for room to write.
Rule 3: a turn has a fixed order: posted work, readable sources, deadlines.
Rule 4: an exception in a turn does not end the thread, whatever its class. `recover` is called before anything else,
    and the loop continues after `Timing.fault_pause_s`. If `recover` itself fails, the thread ends. `release` is called
    whatever ends the thread, and accepted work is run.
Rule 5: the loop knows nothing of what it serves. What it calls is passed to its constructor.
"""

import contextlib
import math
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ldc.book import IMPLEMENTATION, NativeLoop, has_system_threads
from ldc.consume.log import logger
from ldc.feed.cpus import run_on
from ldc.feed.mailbox import Mailbox
from ldc.limits import Timing

WAIT_S_MAX = 3600.0
"""The longest wait without a tick, in seconds. A deadline that is farther away, or infinite, is checked then."""

_CLOCK_OF_SLEEP = next(
    (getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW") if hasattr(time, name)), None
)


def clock_of_sleep() -> float:
    """Return the seconds that the machine has slept since an arbitrary moment; always 0 where no clock shows it.

    The monotonic clock of all deadlines stands still while a Linux or macOS machine is suspended.
    """
    return time.clock_gettime(_CLOCK_OF_SLEEP) - time.monotonic() if _CLOCK_OF_SLEEP is not None else 0.0


def new_selector() -> NativeLoop | selectors.BaseSelector:
    """Return the loop that works without the GIL, for a thread of the system where there is one.

    Otherwise a selector of Python, which greenlets have replaced by their own; also with LDC_NATIVE_LOOP=0.
    """
    if IMPLEMENTATION == "cython" and os.environ.get("LDC_NATIVE_LOOP", "1") != "0" and has_system_threads():
        with contextlib.suppress(OSError):  # this system has no poll
            return NativeLoop()
    return selectors.DefaultSelector()


class Source(Protocol):
    """A socket, or an object that has one."""

    def fileno(self) -> int:
        """Return the descriptor that the selector watches."""


SourceT = TypeVar("SourceT", bound=Source)


class EventLoop(Generic[SourceT]):
    """A thread with a selector, a mailbox and one deadline.

    Args:
        name: of the thread.
        timing: `fault_pause_s` and `slept_s_max` are used.
        read: called with a readable source. A source that may hold more than the selector sees is added to `unread`.
        tick: called when `tick_due` has come; returns when it is to be called next.
        machine_slept: called before `tick` with the seconds, when the machine slept longer than `slept_s_max`.
        recover: called with the exception that ended a turn; it must leave nothing that looks alive.
        begin_stop: called once when the loop is to stop; returns how many seconds `has_stopped` may take.
        has_stopped: whether nothing is left to wait for.
        release: called as the last of all, when the thread ends or could not be started.
        spins: never sleep. It takes a whole CPU, without the GIL; a loop in Python ignores it.
        cpus: the only CPUs that the thread runs on; None: all.
    """

    def __init__(
        self,
        name: str,
        timing: Timing,
        *,
        read: Callable[[SourceT, float], None],
        tick: Callable[[float], float],
        machine_slept: Callable[[float, float], None],
        recover: Callable[[BaseException, float], None],
        begin_stop: Callable[[float], float],
        has_stopped: Callable[[], bool],
        release: Callable[[], None],
        spins: bool = False,
        cpus: frozenset[int] | None = None,
    ) -> None:
        self.name = name
        self.tick_due = -math.inf
        """When deadlines are checked next."""
        self.unread: set[SourceT] = set()
        """Sources to read in the next turn, which then does not wait."""
        self._timing = timing
        self._read = read
        self._tick = tick
        self._machine_slept = machine_slept
        self._recover = recover
        self._begin_stop = begin_stop
        self._has_stopped = has_stopped
        self._release = release
        self._mailbox = Mailbox()
        self.post = self._mailbox.post
        """Let the thread call `work(now)`. False: it will not; the loop has ended, or too much work waits."""
        self._stop_requested = threading.Event()
        self._stop_deadline = math.inf
        self._slept_s_before = clock_of_sleep()
        self._selector = new_selector()
        self._selector.register(self._mailbox.receiver, selectors.EVENT_READ)
        self._cpus = cpus
        if isinstance(self._selector, NativeLoop):
            self._selector.spins = spins
        elif spins:
            logger.warning("%s: feed_spin has no effect, because the loop that reads without the GIL is off", name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # from any thread

    def start(self) -> None:
        """Start the thread. Once. Raises ``RuntimeError`` if there can be no more threads."""
        self._thread.start()

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is the loop's thread."""
        return threading.current_thread() is self._thread

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_requested.is_set()

    def stop(self) -> None:
        """Begin to stop; `join` waits for the end. Idempotent."""
        self._stop_requested.set()
        self.post(lambda _now: None)  # wakes the selector

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended; return whether it has. True at once for the thread itself."""
        if self._thread.ident is None or self.is_own_thread:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Release everything. For the thread at its end, and for a loop whose thread could not be started."""
        self._stop_requested.set()  # also after a failure: the work that is left finds a loop that stops
        try:
            self._release()
        finally:
            self._mailbox.close()
            try:
                self._run_rest()
            finally:
                self._selector.close()

    def _run_rest(self) -> None:
        """Run accepted work, also when its result is of no use."""
        while (work := self._mailbox.take()) is not None:
            try:
                work(time.monotonic())
            except BaseException:  # a thread's top: the rest must be run, too
                logger.exception("%s: posted work failed at the end", self.name)

    # the sources

    def watch(self, source: SourceT, *, served: object = None) -> bool:
        """Read a source from now on. Return whether the native loop serves it: `NativeLoop` says what that needs."""
        if served is not None and isinstance(self._selector, NativeLoop):
            self._selector.register(source, selectors.EVENT_READ, source, served)
            return True
        self._selector.register(source, selectors.EVENT_READ, source)
        return False

    def set_keeps_alive(self, source: SourceT, *, keeps_alive: bool) -> None:
        """Let the native loop send the pings and pongs of a source that it serves, or no longer."""
        if isinstance(self._selector, NativeLoop):
            self._selector.set_sends_here(source, keeps_alive)

    def take_unsent(self, source: SourceT) -> bytes:
        """Return what the native loop could not send of a ping or a pong; the caller sends it."""
        return self._selector.take_unsent(source) if isinstance(self._selector, NativeLoop) else b""

    def watch_room(self, source: SourceT, *, is_wanted: bool) -> None:
        """Also run a tick as soon as a watched source has room to write, or no longer."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_wanted else 0)
        if self._selector.get_key(source).events != events:
            self._selector.modify(source, events, source)

    def unwatch(self, source: SourceT) -> None:
        """Read a source no more."""
        self._selector.unregister(source)
        self.unread.discard(source)

    # the thread

    def _run(self) -> None:
        try:
            self._choose_cpus()
            if type(self._selector).__module__ not in (NativeLoop.__module__, selectors.__name__):
                self._renew_selector()
            while True:
                try:
                    if self._stop_requested.is_set() and self._may_end():
                        break
                    self._turn()
                except BaseException as error:  # a thread's top: see rule 4
                    now = self.tick_due = time.monotonic()
                    self._recover(error, now)
                    if self._stop_requested.is_set():
                        break  # `close` ends what is left
                    logger.exception("%s failed, and starts again", self.name)
                    self._stop_requested.wait(self._timing.fault_pause_s)
        except BaseException:  # a thread's top
            logger.exception("%s failed while it recovered, and ends for good", self.name)
        finally:
            self.close()

    def _choose_cpus(self) -> None:
        if self._cpus is not None:
            try:
                run_on(self._cpus)
            except OSError as error:
                logger.warning("%s: cannot run on the CPUs %s only: %s", self.name, sorted(self._cpus), error)

    def _renew_selector(self) -> None:
        """Make the selector in the thread that uses it: one of gevent works only there."""
        self._selector.close()
        self._selector = new_selector()
        self._selector.register(self._mailbox.receiver, selectors.EVENT_READ)

    def _turn(self) -> None:
        """Wait for something to happen, and handle it."""
        # Posted work makes the selector return, so the mailbox need not be checked before.
        ready = self._selector.select(0.0 if self.unread else max(0.0, self.tick_due - time.monotonic()))
        now = time.monotonic()
        readable, self.unread = self.unread, set()
        for key, events in ready:
            if key.data is None:
                self._mailbox.drain_wake_ups()
            else:
                if events & selectors.EVENT_READ:
                    readable.add(key.data)
                if events & selectors.EVENT_WRITE:
                    self.tick_due = now
        # Posted work comes before the sources: a snapshot that begins decides what of their data is retained.
        if self._mailbox:
            self._mailbox.run_posted(now)
            self.tick_due = now
        for source in readable:
            self._read(source, now)
        slept_s = clock_of_sleep() - self._slept_s_before
        if slept_s > self._timing.slept_s_max:
            self.tick_due = now
        # Deadlines come after reading: an answer that waited for this thread came in time.
        if self.tick_due <= now:
            self._slept_s_before += slept_s
            if slept_s > self._timing.slept_s_max:
                self._machine_slept(slept_s, now)
            self.tick_due = min(self._tick(now), self._stop_deadline, now + WAIT_S_MAX)

    def _may_end(self) -> bool:
        """Whether the thread may end. The first call begins the stop."""
        now = time.monotonic()
        if self._stop_deadline == math.inf:
            self._stop_deadline = now + self._begin_stop(now)
            self.tick_due = now
        return self._has_stopped() or now >= self._stop_deadline
