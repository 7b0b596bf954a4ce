"""Runs user callbacks: on one thread with a bounded queue, in the feed's thread, or in the event loop they belong to.

Rule 1: no thread that writes books waits for a callback, but for one that asked to be run inline.
Rule 2: a callback that blocks or raises affects other callbacks at most. An inline one that raises is cancelled.
"""

import asyncio
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from ldc.book import UpdateQueue
from ldc.consume.log import logger
from ldc.consume.signal import wait_on
from ldc.consume.stream import LOOK_AGAIN_S, UpdateStream
from ldc.consume.updates import BookUpdate

CALLBACKS_MAX = 1_000
"""Calls that may wait while a callback blocks. One more drops the oldest, which is counted."""

INLINE_MS_MAX = 1.0
"""An inline callback that takes longer is logged, once: all books of its feed wait meanwhile."""


class CallbackHandle:
    """A callback that was registered. Thread-safety: any thread may cancel it and read its counters."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.calls = 0
        """How often it was called."""
        self.raised = 0
        """How often it raised."""
        self.slowest_ms = 0.0
        """The longest call, in milliseconds; of a coroutine function with all that it awaited."""
        self._is_cancelled = False
        self._on_cancelled: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<CallbackHandle of {self.function!r}{', cancelled' if self._is_cancelled else ''}>"

    @property
    def is_cancelled(self) -> bool:
        """Whether it is called no more."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Call it no more. A call that is under way is not interrupted, but a coroutine is cancelled. Idempotent."""
        if not self._is_cancelled:
            self._is_cancelled = True
            if self._on_cancelled is not None:
                self._on_cancelled()

    @property
    def release(self) -> Callable[[], object] | None:
        """What is called when the handle is cancelled."""
        return self._on_cancelled

    def on_cancelled(self, release: Callable[[], object]) -> None:
        """Call `release` when the handle is cancelled; at once if it is."""
        self._on_cancelled = release
        if self._is_cancelled:
            release()

    def call(self, *arguments: object) -> bool:
        """Call the function; return whether it returned. What it raises is logged and counted."""
        if self._is_cancelled:
            return True
        began = time.perf_counter()
        try:
            self.function(*arguments)
        except BaseException:  # a thread's top: sys.exit() would end it, and with it all later calls
            self.raised += 1
            logger.exception("The callback %r raised; the depth caches are not affected", self.function)
            return False
        finally:
            self.calls += 1
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1e3)
        return True

    async def call_async(self, *arguments: object) -> None:
        """Call a coroutine function and await it. What it raises is logged and counted."""
        began = time.perf_counter()
        try:
            result = self.function(*arguments)
            assert asyncio.iscoroutine(result)
            await result
        except Exception:
            self.raised += 1
            logger.exception("The callback %r raised; the depth caches are not affected", self.function)
        finally:
            self.calls += 1
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1e3)


class CallbackThread:
    """Runs callbacks one after the other. The first call starts the thread. Thread-safe."""

    def __init__(self) -> None:
        self.dropped = 0
        """Calls that were dropped because too many waited, or because the manager stopped."""
        self.raised = 0
        """Callbacks that raised."""
        self.queue = UpdateQueue()
        """Updates for the handles that their sources name. They are called after the calls that wait."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def call(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Queue a call."""
        with self._lock:
            if self._is_stopped:
                self.dropped += 1
                return
            if len(self._waiting) >= CALLBACKS_MAX:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((callback, arguments))
            self._start()
        self.queue.wake()

    def start(self) -> None:
        """Start the thread, if it has not started: something will come from the queue."""
        with self._lock:
            if not self._is_stopped:
                self._start()

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="ldc-callbacks", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # there can be no more threads
            logger.warning("No thread can be started for callbacks: %s; the next call tries again", error)
        else:
            self._thread = thread

    def stop(self) -> None:
        """Start no more calls. A callback that is running is not interrupted."""
        with self._lock:
            self._is_stopped = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
        self.queue.clear()
        self.queue.wake()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, unless it is the caller's own."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._is_stopped:
            if self._waiting:
                self._run_call()
            elif (fields := self.queue.take()) is not None:
                self.raised += not fields[0].handle.call(BookUpdate(fields))
            elif self.queue.arm() and not self._waiting:
                wait_on(self.queue, LOOK_AGAIN_S)
                self.queue.check_leases()

    def _run_call(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            callback, arguments = self._waiting.popleft()
        try:
            callback(*arguments)
        except BaseException:  # a thread's top: sys.exit() would end it, and with it all later calls
            self.raised += 1
            logger.exception("The callback %r raised; the depth caches are not affected", callback)


class InlineCalls:
    """Runs callbacks in the thread of a feed, right after what it has received is applied.

    Thread-safety: `queue` from any thread; `run` and `close` belong to the feed's thread.
    """

    def __init__(self) -> None:
        self._queue: UpdateQueue | None = None
        self._wake_fd = -1
        self._lock = threading.Lock()
        self._is_closed = False

    def queue(self, wake_fd: int) -> UpdateQueue:
        """Return the queue of all inline handles. `wake_fd` wakes the feed's thread, for what other threads do."""
        with self._lock:
            if self._queue is None:
                self._queue = UpdateQueue(is_inline=True)
                if not self._is_closed and wake_fd >= 0:
                    self._wake_fd = os.dup(wake_fd)
                    self._queue.set_descriptor(-1, self._wake_fd, False)
            return self._queue

    def run(self) -> None:
        """Call what has news. Costs one comparison while there is none."""
        queue = self._queue
        if queue is None or not queue.has_ready:
            return
        while True:
            while (fields := queue.take()) is not None:
                self._call(fields[0].handle, BookUpdate(fields))
            if queue.arm():
                return

    @staticmethod
    def _call(handle: CallbackHandle, update: BookUpdate) -> None:
        slowest_ms = handle.slowest_ms
        if not handle.call(update):
            handle.cancel()
            logger.warning("The inline callback %r is cancelled, because it raised", handle.function)
        elif slowest_ms <= INLINE_MS_MAX < handle.slowest_ms:
            logger.warning(
                "The inline callback %r took %.3f ms; over %.1f ms, register it without inline",
                handle.function,
                handle.slowest_ms,
                INLINE_MS_MAX,
            )

    def close(self) -> None:
        """Call nothing more."""
        with self._lock:
            self._is_closed = True
            queue, wake_fd = self._queue, self._wake_fd
            self._wake_fd = -1
        if queue is not None:
            queue.set_descriptor(-1, -1, False)
            queue.clear()
        if wake_fd >= 0:
            os.close(wake_fd)


def is_coroutine_function(function: Callable[..., object]) -> bool:
    """Return whether a call returns a coroutine, also if the function is a bound method, a partial or an object."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def loop_of_caller(function: Callable[..., object]) -> asyncio.AbstractEventLoop:
    """Return the event loop that registers a coroutine function; raise ``RuntimeError`` if none runs here."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            f"{function!r} is a coroutine function, which runs in the event loop that registers it; no loop runs in "
            "this thread: register it in a coroutine, or give a plain function"
        ) from None


class LoopCalls:
    """Runs the calls of one coroutine function in its event loop, in order. Made in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: CallbackHandle) -> None:
        self._loop = loop
        self._handle = handle
        self._task: asyncio.Task[None] | None = None
        handle.on_cancelled(self._cancel)

    def follow(self, stream: UpdateStream) -> None:
        """Call it with each item of a stream, until that ends."""
        self._start(self._run_stream(stream))

    def follow_calls(self) -> Callable[..., None]:
        """Return a function that queues a call, from any thread. The oldest is dropped beyond `CALLBACKS_MAX`."""
        waiting: deque[tuple[object, ...]] = deque(maxlen=CALLBACKS_MAX)
        has_come = asyncio.Event()

        async def run() -> None:
            while True:
                while waiting:
                    await self._handle.call_async(*waiting.popleft())
                has_come.clear()
                await has_come.wait()

        def queue(*arguments: object) -> None:
            waiting.append(arguments)
            try:
                self._loop.call_soon_threadsafe(has_come.set)
            except RuntimeError:  # the loop is closed
                self._handle.cancel()

        self._start(run())
        return queue

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._task = self._loop.create_task(coroutine, name=f"ldc callback {self._handle.function!r}")

    async def _run_stream(self, stream: UpdateStream) -> None:
        with stream:
            async for update in stream:
                await self._handle.call_async(update)

    def _cancel(self) -> None:
        if self._task is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._task.cancel)
        except RuntimeError:  # the loop is closed, and has cancelled its tasks
            pass
