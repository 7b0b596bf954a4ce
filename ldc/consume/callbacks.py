"""Runs user callbacks on one thread with a bounded queue (drops the oldest).

Rule 1: `call` only queues; nobody waits for a callback.
Rule 2: a callback that blocks or raises affects other callbacks at most.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ldc.consume.log import logger

CALLBACKS_MAX = 1_000
"""Calls that may wait while a callback blocks. One more drops the oldest, which is counted."""


class CallbackThread:
    """Runs callbacks one after the other. The first call starts the thread. Thread-safe."""

    def __init__(self) -> None:
        self.dropped = 0
        """Calls that were dropped because too many waited, or because the manager stopped."""
        self.raised = 0
        """Callbacks that raised."""
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def call(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Queue a call."""
        with self._changed:
            if self._is_stopped:
                self.dropped += 1
                return
            if len(self._waiting) >= CALLBACKS_MAX:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((callback, arguments))
            if self._thread is None:
                self._start()
            self._changed.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="ldc-callbacks", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # there can be no more threads
            logger.warning("No thread can be started for callbacks: %s; the next call tries again", error)
        else:
            self._thread = thread

    def stop(self) -> None:
        """Start no more calls. A callback that is running is not interrupted."""
        with self._changed:
            self._is_stopped = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, unless it is the caller's own."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_stopped:
                    self._changed.wait()
                if self._is_stopped:
                    return
                callback, arguments = self._waiting.popleft()
            try:
                callback(*arguments)
            except BaseException:  # a thread's top: sys.exit() would end it, and with it all later calls
                self.raised += 1
                logger.exception("The callback %r raised; the depth caches are not affected", callback)
