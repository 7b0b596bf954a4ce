"""Log records of ldc's own threads, brought to `logging` by a thread of their own.

Rule 1: the threads that write books, connect or download never run a handler, a filter or a formatter. Those are
    foreign code: one that blocks or raises would stop a feed while its books can be read.
Rule 2: a producer only appends to a queue. It takes no lock of `logging`, formats nothing, and never waits.
Rule 3: what waits is bounded. At `RECORDS_MAX` the newest record is dropped and counted; a later record says how many.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple

from ldc.book import has_system_threads

RECORDS_MAX = 10_000
"""Records that may wait while a handler blocks. Further ones are dropped, and counted."""

IDLE_S = 0.2
"""Seconds without a record after which the thread ends. The next record starts another one."""

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class _Record(NamedTuple):
    """A record as its producer made it."""

    created: float
    thread: tuple[int, str]
    place: tuple[str, int, str]
    level: int
    message: str
    arguments: tuple[object, ...]
    exception: ExceptionInfo | None


def _plain(argument: object) -> object:
    """Return a value that cannot change, and whose text needs no foreign code."""
    return argument if type(argument) in (int, float, bool, str, type(None)) else str(argument)


class QueuedLogger:
    """Has the methods of a logger that ldc's threads need. Thread-safe; no method blocks or raises."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self.dropped = 0
        """Records that were dropped because too many waited, or no thread could be started."""
        self._reset()

    def _reset(self) -> None:
        self._is_for_system_threads = has_system_threads()
        self._changed = threading.Condition()
        self._waiting: deque[_Record] = deque()
        self._is_handling = False
        self._thread: threading.Thread | None = None
        self._dropped_told = self.dropped

    def debug(self, message: str, *arguments: object) -> None:
        """Queue a record of this level."""
        self._put(logging.DEBUG, message, arguments)

    def info(self, message: str, *arguments: object) -> None:
        """Queue a record of this level."""
        self._put(logging.INFO, message, arguments)

    def warning(self, message: str, *arguments: object) -> None:
        """Queue a record of this level."""
        self._put(logging.WARNING, message, arguments)

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Queue a record of that level."""
        self._put(level, message, arguments)

    def exception(self, message: str, *arguments: object) -> None:
        """Queue an error with the exception that is being handled."""
        kind, error, traceback = sys.exc_info()
        found = (kind, error, traceback) if kind is not None and error is not None else None
        self._put(logging.ERROR, message, arguments, found)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all records have reached `logging`, at most so long; return whether they have."""
        if threading.current_thread() is self._thread:
            return False
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_handling, timeout_s)

    def _put(
        self, level: int, message: str, arguments: tuple[object, ...], exception: ExceptionInfo | None = None
    ) -> None:
        if self._is_for_system_threads is not has_system_threads():
            self._reset()  # a lock from before gevent or eventlet replaced threads excludes no greenlet
        frame = sys._getframe(2)
        place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        thread = threading.current_thread()
        plain = tuple(map(_plain, arguments))
        record = _Record(time.time(), (thread.ident or 0, thread.name), place, level, message, plain, exception)
        with self._changed:
            if len(self._waiting) >= RECORDS_MAX or not self._has_thread():
                self.dropped += 1
                return
            self._waiting.append(record)
            self._changed.notify_all()

    def _has_thread(self) -> bool:
        """Whether a thread will take records; start one if there is none. Under the lock."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="ldc-log", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # there can be no more threads: a log is less than a feed
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_handling = False
                self._changed.notify_all()
                if not self._waiting and not self._changed.wait_for(lambda: bool(self._waiting), IDLE_S):
                    self._thread = None
                    return
                record = self._waiting.popleft()
                self._is_handling = True
            try:
                self._handle(record)
            except BaseException:  # noqa: BLE001 - a thread's top: what a handler raises must not end the log
                self.dropped += 1

    def _handle(self, record: _Record) -> None:
        dropped, self._dropped_told = self.dropped - self._dropped_told, self.dropped
        if dropped:
            self._logger.warning("%d log records of ldc were dropped", dropped)
        if not self._logger.isEnabledFor(record.level):
            return
        file, line, function = record.place
        made = self._logger.makeRecord(
            self._logger.name, record.level, file, line, record.message, record.arguments, record.exception, function
        )
        made.created, made.msecs = record.created, record.created % 1 * 1000
        made.thread, made.threadName = record.thread
        self._logger.handle(made)


logger = QueuedLogger("binance_local_depth_cache")
"""The logger of ldc's own threads."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=logger._reset)
