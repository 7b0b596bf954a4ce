"""How a thread waits for a book that another thread writes."""

import threading
from collections.abc import Callable

from ldc.book import StreamBinding


class UpdateSignal:
    """Wakes threads that wait for a market. Costs the writer no lock while no thread waits.

    The writer publishes, then reads `StreamBinding.waiting`. A waiter increments that, then reads what is published.
    In either order one of the two sees the other, so no wake-up is lost.
    """

    __slots__ = ("_binding", "_changed")

    def __init__(self, binding: StreamBinding) -> None:
        self._changed = threading.Condition()
        self._binding = binding

    def notify(self) -> None:
        """Wake all waiting threads; each checks whether its condition holds."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, has_happened: Callable[[], bool], timeout_s: float | None) -> bool:
        """Block until `has_happened()`, for at most so many seconds; return whether it has."""
        with self._changed:
            self._binding.waiting += 1
            try:
                return self._changed.wait_for(has_happened, timeout_s)
            finally:
                self._binding.waiting -= 1
