"""When to probe a market that is silent, and what the answer means.

Rule 1: no I/O, and `now` is an argument. The group requests the probes.
"""

import math

from ldc.limits import Timing


class SilenceWatch:
    """Decides when to probe a silent market, and whether its subscription is dead."""

    __slots__ = ("_expected_since", "_quiet_s", "_timing", "is_probing", "requested_at")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._quiet_s = timing.quiet_s_first
        self._expected_since: float | None = None  # a probe has shown that an update must come
        self.requested_at: float | None = None
        """When the last probe was requested; None if an update came since."""
        self.is_probing = False
        """Whether the answer to a probe is awaited."""

    def is_due(self, heard_at: float, now: float) -> bool:
        """Whether to probe a market whose last update was judged at `heard_at`."""
        if self.requested_at is not None and heard_at > self.requested_at:
            self._quiet_s, self.requested_at, self._expected_since = self._timing.quiet_s_first, None, None
        quiet_since = heard_at if self.requested_at is None else self.requested_at
        return not self.is_probing and self._expected_since is None and now - quiet_since >= self._quiet_s

    def next_due(self, heard_at: float) -> float:
        """Return when `is_due` or `is_dead` may be true at the earliest, if no update comes."""
        if self._expected_since is not None:
            return self._expected_since + self._timing.moved_on_s
        if self.is_probing:
            return math.inf
        if self.requested_at is None or heard_at > self.requested_at:
            return heard_at + self._timing.quiet_s_first
        return self.requested_at + self._quiet_s

    def probe_requested(self, now: float) -> None:
        """Note a probe. The wait for the next one doubles, unless an update comes."""
        if self.requested_at is not None:
            self._quiet_s = min(2 * self._quiet_s, self._timing.quiet_s_max)
        self.requested_at = now
        self.is_probing = True

    def probe_answered(self, has_moved_on: bool, now: float) -> None:
        """Note the end of a probe. `has_moved_on`: whether the exchange's id is past the book's."""
        self.is_probing = False
        if has_moved_on:
            self._expected_since = now

    def is_dead(self, heard_at: float, now: float) -> bool:
        """Whether the exchange has moved on and no update came within `Timing.moved_on_s`. True once only."""
        if self._expected_since is None or now - self._expected_since < self._timing.moved_on_s:
            return False
        is_dead = heard_at <= self._expected_since
        self._expected_since = None
        if is_dead:
            self.requested_at = now
        return is_dead
