"""How other threads reach an event loop's thread: posted work, which wakes its selector.

Rule 1: work that was accepted is run exactly once, also when the thread ends at that moment. Otherwise `post` returns
    False.
Rule 2: what waits is bounded. A thread that stands still must not cost memory without end.
"""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

WORK_MAX = 100_000
"""Pieces of work that may wait. Further ones are refused and counted: a thread with so many has stood still for long.
An answer that is refused is requested again by the group, and nothing that waits is lost."""


class Mailbox:
    """Work for one thread. `post` may be called from any thread; the rest belongs to the thread that runs the work."""

    def __init__(self, work_max: int = WORK_MAX) -> None:
        self.refused = 0
        """Work that was refused because too much waited."""
        self._work_max = work_max
        self.receiver, self._sender = socket.socketpair()
        """`receiver` is for the selector: readable when something was posted."""
        self.receiver.setblocking(False)
        self._sender.setblocking(False)
        self._posted: deque[Callable[[float], None]] = deque()
        self._lock = threading.Lock()  # between `post` and `close`, so that no posted work is lost
        self._is_closed = False

    def __bool__(self) -> bool:
        """Whether work is waiting."""
        return bool(self._posted)

    def post(self, work: Callable[[float], None]) -> bool:
        """Let the thread call `work(now)`. False: it will not, because it has ended, or too much work waits."""
        with self._lock:
            if self._is_closed:
                return False
            if len(self._posted) >= self._work_max:
                self.refused += 1
                return False
            self._posted.append(work)
            with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups, and one is enough
                self._sender.send(b"\0")
            return True

    def drain_wake_ups(self) -> None:
        """Read what made the receiver readable."""
        with contextlib.suppress(BlockingIOError):
            while self.receiver.recv(4096):
                pass

    def run_posted(self, now: float) -> None:
        """Run everything that was posted."""
        while self._posted:
            self._posted.popleft()(now)

    def take(self) -> Callable[[float], None] | None:
        """Return the oldest work that was posted, for the caller to run; None: there is none."""
        return self._posted.popleft() if self._posted else None

    def close(self) -> None:
        """Accept nothing more. What was posted before can still be run."""
        with self._lock:
            self._is_closed = True
        self.receiver.close()
        self._sender.close()
