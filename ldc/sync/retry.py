"""When the next snapshot that is to synchronize a market may be requested.

Rule 1: tries are limited in their rate, not in their number. A market that can be synchronized at all will be.
Rule 2: one more try at once costs little and mostly succeeds. The next ones wait, with full jitter, for as long as fits
        the cause: a snapshot that came and was of no use is soon followed by a better one, a host that fails is spared.
Rule 3: a Retry-After of the exchange is obeyed, also by the next stream of the market, and nothing is added to it.
Rule 4: a market is given up only when the exchange has refused it twice, and its stream is silent.
Rule 5: what all markets may spend together is no matter of this object. The weight pool knows what is left. It slows a
        market that synchronizes again and again, once less than half of the minute's weight is left
        (`ldc.snapshots.weight`). If a host fails for all markets, the snapshot queue pauses as well.
"""

from collections.abc import Callable

from ldc.limits import Backoff

RETRY_S_FIRST = 1.0
"""The first backoff is a random time up to this; each next one up to twice as long."""

RETRY_S_MAX = 30.0
"""At this the doubling ends for downloads that fail. A full buffer spans more, so what is buffered meanwhile is not
lost."""

USELESS_S_MAX = 2.0
"""At this the doubling ends for snapshots that came and were of no use: too old, lagging, locked or crossed.

The exchange works, and its next snapshot may fit: a cache has expired (that of options lives 25 to 30 s), or prices
have uncrossed."""


REFUSALS_MAX = 2
"""Permanent refusals of a market in a row that fail it. The first may be the error of one gateway; the second comes by
another connection, and from another host where the exchange has several."""

SPEAKS_S = 10.0
"""A market whose stream has brought an update in the last so many seconds exists, whatever REST says. It does not fail:
its snapshot is requested again, with the backoff of downloads that fail."""


class RetryPolicy:
    """The two backoffs of one market: of downloads that fail, and of snapshots that are of no use.

    Thread-safety: none; one thread calls it.
    """

    def __init__(self, random: Callable[[], float], now: float) -> None:
        self._not_before = now
        self._failed = Backoff(random, first_s=RETRY_S_FIRST, max_s=RETRY_S_MAX)
        self._useless = Backoff(random, first_s=RETRY_S_FIRST, max_s=USELESS_S_MAX)
        self._has_retried_at_once = False  # since the market was last readable
        self._refusals = 0  # in a row

    def earliest(self, now: float) -> float:
        """Return from when on a snapshot may be requested."""
        return max(now, self._not_before)

    def note_useless(self, now: float) -> None:
        """A snapshot came and is of no use."""
        self._refusals = 0
        self._failed.reset()
        self._wait(now, self._useless)

    def note_failed(self, now: float, retry_at: float | None = None) -> None:
        """A download has failed. `retry_at`: the exchange has said when the next one is allowed."""
        if retry_at is None:
            self._wait(now, self._failed)
        else:
            self._not_before = max(now, retry_at)

    def note_refused(self, now: float, spoke_at: float) -> bool:
        """The exchange says that it does not know the market; return whether that is to be believed.

        `spoke_at`: when the stream last brought an update of it. If it is not believed, the download has failed.
        """
        self._refusals += 1
        if self._refusals >= REFUSALS_MAX and now - spoke_at >= SPEAKS_S:
            return True
        self.note_failed(now)
        return False

    def note_published(self) -> None:
        """The market can be read."""
        self._refusals = 0
        self._failed.reset()
        self._useless.reset()
        self._has_retried_at_once = False

    def _wait(self, now: float, backoff: Backoff) -> None:
        delay_s = backoff.next_delay_s() if self._has_retried_at_once else 0.0
        self._has_retried_at_once = True
        self._not_before = max(self._not_before, now + delay_s)
