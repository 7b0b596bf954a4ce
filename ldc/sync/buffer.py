"""Depth updates that wait for something: for a snapshot, for another stream, or for a refresh to load its snapshot.

Rule 1: a buffer decides nothing. `ldc.sync.machine` and `ldc.sync.refresh` decide what is added and what is discarded.
Rule 2: a buffer is bounded. At the limit it discards its oldest updates and returns how many; the owner counts them.
Rule 3: all buffers of a process are bounded together. During a ban of minutes a thousand markets buffer at once.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import NamedTuple

from ldc.sequence import SequenceRule, judge, start_id
from ldc.sync.actions import Payload
from ldc.types import Header, Verdict

BUFFER_UPDATES_MAX = 1_000
"""Updates in a buffer: 100 s at ten updates a second. At the limit the oldest is discarded and the request stays: a
snapshot is as new as its download, so the updates that it needs are the newest ones."""

BUFFER_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of payload in a buffer (recorded updates have 1.6 kB on average, 35 kB at most). At the limit the oldest update
is discarded. The newest is kept whatever its size, so a buffer holds at most this plus one message."""

ALL_BUFFERS_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of payload in all buffers of a process. Past the limit each buffer that grows discards its oldest updates, down
to its even part. So the total stays about this, and a snapshot still finds the newest updates of every market."""

PREVIOUS_NUMBERING_MS = 1_000
"""An update is of the previous numbering if one with a lower id was sent so much later. The exchange's nodes are less
than this apart. A node that lags by more costs two snapshots and nothing else, because it sends again what was
discarded."""


def is_later(event_time_ms: int | None, other_ms: int | None, by_ms: int = 0) -> bool:
    """Return whether both event times are known and the first is later than the other by more than `by_ms`."""
    return event_time_ms is not None and other_ms is not None and event_time_ms - other_ms > by_ms


class Update(NamedTuple):
    """A depth update that waits: its ids and its bytes."""

    start: int
    """The id that a book must have reached for this update to continue it."""
    first_update_id: int
    last_update_id: int
    event_time_ms: int | None
    payload: bytes | str
    received_time_ns: int | None

    @classmethod
    def of(cls, rule: SequenceRule, header: Header, payload: Payload, received_time_ns: int | None) -> "Update":
        """Return the update, with a copy of its bytes if they could change. `check_ids` must accept its header."""
        assert header.first_update_id is not None
        assert header.last_update_id is not None
        return cls(
            start_id(rule, header.first_update_id, header.previous_update_id),
            header.first_update_id,
            header.last_update_id,
            header.event_time_ms,
            payload if isinstance(payload, bytes | str) else bytes(payload),
            received_time_ns,
        )


class BufferBudget:
    """The payload that several buffers hold together. Each call is O(1).

    Thread-safety: that of `lock`, which is held for a few additions. Without one, one thread calls it.
    """

    def __init__(
        self, bytes_max: int = ALL_BUFFERS_BYTES_MAX, lock: AbstractContextManager[object] | None = None
    ) -> None:
        self.bytes_max = bytes_max
        self.lock = lock or nullcontext()
        self.held = 0
        """Bytes."""
        self.buffers = 0
        """Buffers that hold something."""
        self.discarded = 0
        """Updates that were discarded because of this limit. Their markets count them too."""
        self._forgotten: deque[int] = deque()  # the bytes of buffers that the garbage collector took

    def change(self, bytes_more: int, buffers_more: int = 0) -> int | None:
        """Count a change; return the bytes that a buffer may hold, or None: as many as its own limit allows."""
        with self.lock:
            while self._forgotten:
                self.held -= self._forgotten.popleft()
                self.buffers -= 1
            self.held += bytes_more
            self.buffers += buffers_more
            return None if self.held <= self.bytes_max else self.bytes_max // max(1, self.buffers)

    def note_discarded(self, count: int) -> None:
        """Count updates that were discarded because of this limit."""
        with self.lock:
            self.discarded += count

    def forget(self, held: int) -> None:
        """A buffer is gone that held so many bytes. Takes no lock, because the garbage collector may call it."""
        self._forgotten.append(held)


class UpdateBuffer:
    """Updates sorted by their starts, bounded; at the limit the oldest is discarded.

    On one connection that is the order of arrival, and `add` is O(1). The windows of several connections interleave.
    Thread-safety: none; one thread calls it.
    """

    __slots__ = ("_budget", "_bytes", "_bytes_max", "_updates", "_updates_max", "newest")

    def __init__(
        self,
        updates_max: int = BUFFER_UPDATES_MAX,
        bytes_max: int = BUFFER_BYTES_MAX,
        budget: BufferBudget | None = None,
    ) -> None:
        self._budget = budget or BufferBudget()
        self._updates: list[Update] = []
        self._bytes = 0
        self._updates_max = updates_max
        self._bytes_max = bytes_max
        self.newest: Update | None = None
        """The update with the highest last id; of several the one that was added last."""

    def __del__(self) -> None:
        if self._updates:
            self._budget.forget(self._bytes)

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[Update]:
        return iter(self._updates)

    def holds(self, update: Update) -> bool:
        """Return whether the update before its place covers it. A chain of several that covers it is not recognized."""
        place = bisect_right(self._updates, update.start, key=attrgetter("start"))
        return place > 0 and self._updates[place - 1].last_update_id >= update.last_update_id

    def add(self, update: Update) -> int:
        """Insert the update at its place; return how many of the oldest were discarded for it."""
        if not self._updates or self._updates[-1].start <= update.start:
            self._updates.append(update)
        else:
            self._updates.insert(bisect_right(self._updates, update.start, key=attrgetter("start")), update)
        size = len(update.payload)
        self._bytes += size
        part = self._budget.change(size, len(self._updates) == 1)
        if self.newest is None or update.last_update_id >= self.newest.last_update_id:
            self.newest = update
        surplus = self._surplus(self._bytes_max)
        if part is not None and self._bytes > part:
            more = max(surplus, self._surplus(part))
            self._budget.note_discarded(more - surplus)
            surplus = more
        return self.discard_first(surplus)

    def _surplus(self, bytes_max: int) -> int:
        """Return how many of the oldest updates are too many. The newest one may stay, whatever its size."""
        left, left_bytes = len(self._updates), self._bytes
        for update in self._updates:
            if left <= 1 or (left <= self._updates_max and left_bytes <= bytes_max):
                break
            left -= 1
            left_bytes -= len(update.payload)
        return len(self._updates) - left

    def discard_first(self, count: int) -> int:
        """Discard the first `count` updates; return `count`."""
        if count:
            self._release(self._updates[:count])
            self._remove_first(count)
        return count

    def _release(self, updates: list[Update]) -> None:
        """Count updates that are about to be removed."""
        held = sum(len(update.payload) for update in updates)
        self._bytes -= held
        self._budget.change(-held, -(len(updates) == len(self._updates)))

    def discard_before_last_hole(self) -> int:
        """Discard what lies before the last hole, so that the rest is one chain; return how many those were. O(n)."""
        after_hole = 0
        reached_id: int | None = None
        for place, update in enumerate(self._updates):
            if reached_id is not None and update.start > reached_id:
                after_hole = place
            reached_id = update.last_update_id if reached_id is None else max(reached_id, update.last_update_id)
        return self.discard_first(after_hole)

    def discard_previous_numbering(self, update: Update) -> list[Update]:
        """Discard the updates whose numbering this one shows to be over; return them.

        Within one numbering ids never go back. So they are the updates with a higher last id than this one, which was
        sent more than `PREVIOUS_NUMBERING_MS` after them. O(1) if this one has the highest id of all, else O(n).
        """
        if self.newest is None or not _is_of_previous_numbering(self.newest, update):
            return []
        previous = [other for other in self._updates if _is_of_previous_numbering(other, update)]
        self._release(previous)
        self._updates = [other for other in self._updates if not _is_of_previous_numbering(other, update)]
        self.newest = max(self._updates, key=attrgetter("last_update_id"), default=None)
        return previous

    def clear(self) -> int:
        """Discard everything; return how many updates those were."""
        return self.discard_first(len(self._updates))

    def continues(self, rule: SequenceRule, snapshot_id: int) -> bool:
        """Return whether no update is missing between a snapshot of that id and the first one here."""
        if not self._updates:
            return True
        first = self._updates[0]
        verdict = judge(rule, snapshot_id, True, first.first_update_id, first.last_update_id, first.start)
        return verdict is not Verdict.GAP

    def _remove_first(self, count: int) -> None:
        removed = self._updates[:count]
        del self._updates[:count]
        if any(update is self.newest for update in removed):
            self.newest = max(self._updates, key=attrgetter("last_update_id"), default=None)


def _is_of_previous_numbering(update: Update, later: Update) -> bool:
    return update.last_update_id > later.last_update_id and is_later(
        later.event_time_ms, update.event_time_ms, PREVIOUS_NUMBERING_MS
    )
