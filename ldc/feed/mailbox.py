"""How other threads reach the thread of a feed group: work is posted, and wakes its selector.

Rule 1: what was posted is done exactly once, also when the thread ends at this very moment; or the poster is told.
"""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Mailbox"]


class Mailbox:
    """Work for one thread. `post` may be called from any thread; the rest belongs to the one that does the work."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        """`receiver` is for the selector: readable when something was posted."""
        self.receiver.setblocking(False)
        self._sender.setblocking(False)
        self._posted: deque[Callable[[float], None]] = deque()
        self._lock = threading.Lock()  # between `post` and `close`, so that nothing posted is forgotten
        self._is_closed = False

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._posted)

    def post(self, work: Callable[[float], None]) -> bool:
        """Let the thread call `work(now)`. False: it has ended, and will not."""
        with self._lock:
            if self._is_closed:
                return False
            self._posted.append(work)
            with contextlib.suppress(BlockingIOError):  # it has been woken often enough
                self._sender.send(b"\0")
            return True

    def drain_wake_ups(self) -> None:
        """Take what made the receiver readable."""
        with contextlib.suppress(BlockingIOError):
            while self.receiver.recv(4096):
                pass

    def work_off(self, now: float) -> None:
        """Do everything that was posted."""
        while self._posted:
            self._posted.popleft()(now)

    def close(self) -> None:
        """Take nothing more. What was posted before can still be worked off."""
        with self._lock:
            self._is_closed = True
        self.receiver.close()
        self._sender.close()
