"""When the next snapshot that is to synchronize a market may be requested.

Rule 1: tries are limited in their rate, not in their number. A market that can be synchronized at all will be.
Rule 2: one more try at once costs little and mostly succeeds. The next ones wait, with full jitter. If a host fails for
        all markets, the snapshot queue pauses as well.
Rule 3: a Retry-After of the exchange is obeyed, also by the next stream of the market.
"""

from collections.abc import Callable

from ldc.limits import Backoff

RETRY_S_FIRST = 1.0
"""The first backoff is a random time up to this; each next one up to twice as long."""

RETRY_S_MAX = 30.0
"""At this the doubling ends. A full buffer spans more, so what is buffered meanwhile is not lost."""

STABLE_S = 60.0
"""A market that was SYNCHRONIZED for so long counts its resyncs from 0 again."""

RESYNCS_AT_ONCE_MAX = 8
"""Resyncs in a row whose snapshot is requested at once. The next ones wait for a backoff: a market whose updates never
fit must not use up the weight of all."""


class RetryPolicy:
    """The two backoffs of one market: of snapshots that fail or are useless, and of resyncs that do not last.

    Thread-safety: none; one thread calls it.
    """

    def __init__(self, random: Callable[[], float], now: float) -> None:
        self._not_before = now
        self._backoff = Backoff(random, first_s=RETRY_S_FIRST, max_s=RETRY_S_MAX)  # of useless snapshots
        self._has_retried_at_once = False  # since the market was last readable
        self._resync_backoff = Backoff(random, first_s=RETRY_S_FIRST, max_s=RETRY_S_MAX)  # of resyncs that do not last
        self._resyncs_in_a_row = 0

    def earliest(self, now: float) -> float:
        """Return from when on a snapshot may be requested."""
        return max(now, self._not_before)

    def note_useless(self, now: float, retry_at: float | None = None) -> None:
        """A download has failed, or its snapshot was of no use. `retry_at` is the exchange's Retry-After."""
        delay_s = self._backoff.next_delay_s() if self._has_retried_at_once else 0.0
        self._has_retried_at_once = True
        self._not_before = max(now + delay_s, retry_at or now)

    def note_published(self) -> None:
        """The market can be read."""
        self._backoff.reset()
        self._has_retried_at_once = False

    def note_lost(self, now: float, lasted_s: float) -> None:
        """The market has left SYNCHRONIZED after `lasted_s`."""
        if lasted_s >= STABLE_S:
            self._resyncs_in_a_row = 0
            self._resync_backoff.reset()
        self._resyncs_in_a_row += 1
        if self._resyncs_in_a_row > RESYNCS_AT_ONCE_MAX:
            self._not_before = now + self._resync_backoff.next_delay_s()
