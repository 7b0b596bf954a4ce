"""The wait for another live stream to fill a gap, while the book stays readable at the id before the gap.

Rule 1: a stream keeps the order. One that has skipped the missing updates does not bring them later.
Rule 2: this is bookkeeping. `ldc.sync.machine` applies the updates that waited, or ends the wait at its deadline.
"""

from ldc.sync.buffer import BufferBudget, UpdateBuffer
from ldc.sync.streams import Streams
from ldc.types import Header

GAP_WAIT_MS = 500
"""How long a gap waits for another live stream. Windows of updates are 100 to 250 ms long by default. At the deadline
the market leaves SYNCHRONIZED with the cause GAP."""


class GapWait:
    """One gap at a time, and the updates that wait behind it.

    Thread-safety: one thread calls it. Other threads may read its attributes.
    """

    def __init__(self, streams: Streams, wait_s: float, buffers: BufferBudget) -> None:
        self._streams = streams
        self._buffers = buffers
        self.wait_s = wait_s
        """From the update that showed the gap until the deadline."""
        self.waits = 0
        """Gaps that waited for another live stream."""
        self.filled = 0
        """Those of them that were filled."""
        self.waiting = UpdateBuffer(budget=buffers)
        """The updates past the gap. Empty while no gap waits."""
        self.deadline: float | None = None
        """When the wait ends; None while no gap waits."""
        self.since: float | None = None
        """Since when the book has stood at an old id; None while no gap waits."""
        self.header: Header | None = None
        """Of the first update past the gap."""

    @property
    def is_waiting(self) -> bool:
        """Whether updates wait behind a gap."""
        return len(self.waiting) > 0

    @property
    def can_be_filled(self) -> bool:
        """Whether there is a live stream that has not skipped the missing updates."""
        return not self._streams.have_all_skipped

    def note_skip(self, connection_id: int, header: Header) -> None:
        """The stream has brought an update past the gap."""
        self._streams.note_skip(connection_id)
        self.header = self.header or header

    def begin(self, now: float) -> None:
        """Wait for another stream. A wait that has begun keeps its deadline."""
        if self.deadline is None:
            self.since = now
            self._wait(now)

    def note_filled(self, now: float, connection_id: int, count: int, header: Header | None) -> None:
        """The book has taken the first `count` of the waiting updates, after one of that stream.

        Behind the filled gap there may be another one. It has the whole time, and any stream may fill it: which ones
        skip it is seen from what they bring next. The age of the book still counts from the first gap. `header` is of
        the first update that still waits.
        """
        self.waiting.discard_first(count)
        self.filled += 1
        if connection_id in self._streams:
            self._streams.note_filled(connection_id)
        self._streams.forget_skips()
        if self.is_waiting:
            self.header = header
            self._wait(now)
        else:
            self._forget()

    def end(self) -> UpdateBuffer:
        """End the wait, if there is one; return the updates that waited."""
        waiting, self.waiting = self.waiting, UpdateBuffer(budget=self._buffers)
        self._streams.forget_skips()
        self._forget()
        return waiting

    def _wait(self, now: float) -> None:
        self.waits += 1
        self.deadline = now + self.wait_s

    def _forget(self) -> None:
        self.deadline = self.since = self.header = None
