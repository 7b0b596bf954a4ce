"""Updates whose bytes a book keeps beside it, for a snapshot that is being downloaded.

Rule: what is kept has no hole: the oldest is discarded for the newest. If even that is impossible, nothing is kept.
"""

import threading
from collections import deque
from collections.abc import Iterator

from ldc.limits import RETAINED_BYTES_MAX, RETAINED_BYTES_MAX_OF_ALL, RETAINED_UPDATES_MAX
from ldc.types import Message

_bytes_of_all = 0
_bytes_of_all_lock = threading.Lock()


def _note(count: int) -> None:
    global _bytes_of_all  # noqa: PLW0603
    with _bytes_of_all_lock:
        _bytes_of_all += count


class RetainedUpdates:
    """The updates that one book keeps. Thread-safety: the book's writer only."""

    __slots__ = ("_bytes", "_updates")

    def __init__(self) -> None:
        self._updates: deque[tuple[bytes, int | None]] = deque()
        self._bytes = 0

    def __del__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[tuple[bytes, int | None]]:
        return iter(self._updates)

    def add(self, payload: Message, received_time_ns: int | None) -> None:
        """Keep a message that was applied."""
        kept = payload.encode() if isinstance(payload, str) else bytes(payload)
        while self._updates and (
            len(self._updates) >= RETAINED_UPDATES_MAX
            or self._bytes + len(kept) > RETAINED_BYTES_MAX
            or _bytes_of_all + len(kept) > RETAINED_BYTES_MAX_OF_ALL
        ):
            self._discard_oldest()
        if _bytes_of_all + len(kept) <= RETAINED_BYTES_MAX_OF_ALL:
            self._updates.append((kept, received_time_ns))
            self._bytes += len(kept)
            _note(len(kept))

    def clear(self) -> None:
        """Forget all of them."""
        while self._updates:
            self._discard_oldest()

    def _discard_oldest(self) -> None:
        payload, _ = self._updates.popleft()
        self._bytes -= len(payload)
        _note(-len(payload))
