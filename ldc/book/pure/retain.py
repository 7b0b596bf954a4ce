"""Updates whose bytes a book keeps beside it, for a snapshot that is being downloaded.

Rule: what is kept has no hole: the oldest is discarded for the newest. If even that is impossible, nothing is kept.
"""

from collections import deque
from collections.abc import Iterator

from ldc.limits import RETAINED_BYTES_MAX, RETAINED_BYTES_MAX_OF_ALL, RETAINED_UPDATES_MAX
from ldc.types import Message

_bytes_kept: dict[int, int] = {}
"""By the `id` of each object that keeps some. Every operation on it is atomic, with and without the GIL."""


class RetainedUpdates:
    """The updates that one book keeps. Thread-safety: the book's writer only."""

    __slots__ = ("_updates",)

    def __init__(self) -> None:
        self._updates: deque[tuple[bytes, int | None]] = deque()

    def __del__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[tuple[bytes, int | None]]:
        return iter(self._updates)

    def add(self, payload: Message, received_time_ns: int | None) -> None:
        """Keep a message that was applied."""
        kept = payload.encode() if isinstance(payload, str) else bytes(payload)
        ours = _bytes_kept.pop(id(self), 0)
        room_of_all = RETAINED_BYTES_MAX_OF_ALL - sum(list(_bytes_kept.values())) - len(kept)
        while self._updates and (
            len(self._updates) >= RETAINED_UPDATES_MAX or ours > min(RETAINED_BYTES_MAX - len(kept), room_of_all)
        ):
            ours -= len(self._updates.popleft()[0])
        if ours <= room_of_all:
            self._updates.append((kept, received_time_ns))
            ours += len(kept)
        _bytes_kept[id(self)] = ours

    def clear(self) -> None:
        """Forget all of them."""
        self._updates.clear()
        _bytes_kept.pop(id(self), None)
