"""How a thread waits for a book that another thread writes."""

import time
from collections.abc import Callable

from ldc.book import StreamBinding, UpdateQueue, has_system_threads

GREENLET_LOOK_S = 0.002
"""Seconds between two looks of a greenlet that waits: no compiled code can wake it. It costs a wake-up each time."""


class UpdateSignal:
    """Wakes threads that wait for a market. Costs the writer nothing while no thread waits.

    The writer publishes, then reads `StreamBinding.waiting`. A waiter counts itself in, then reads what is published.
    In either order one of the two sees the other, so no wake-up is lost. The loop wakes by the same number, without
    the GIL.
    """

    __slots__ = ("_binding",)

    def __init__(self, binding: StreamBinding) -> None:
        self._binding = binding

    def notify(self) -> None:
        """Wake all waiting threads; each checks whether its condition holds."""
        self._binding.wake()

    def wait_for(self, has_happened: Callable[[], bool], timeout_s: float | None, spin_s: float = 0.0) -> bool:
        """Block until `has_happened()`, for at most so many seconds; return whether it has. Spin first for `spin_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not has_system_threads():
            return _look_for(has_happened, deadline)
        self._binding.count_waiter(1)
        try:
            while True:
                seen = self._binding.change
                if has_happened():
                    return True
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return False
                self._binding.wait(seen, left_s, spin_s)
        finally:
            self._binding.count_waiter(-1)


def wait_on(queue: UpdateQueue, timeout_s: float) -> None:
    """Block until an armed queue has news, at most so long. May return early: look again."""
    if has_system_threads():
        queue.wait(timeout_s)
    else:
        time.sleep(min(GREENLET_LOOK_S, timeout_s))


def _look_for(has_happened: Callable[[], bool], deadline: float | None) -> bool:
    """Look again and again, and let other greenlets run in between."""
    while not has_happened():
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(GREENLET_LOOK_S)
    return True
