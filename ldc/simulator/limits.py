"""The exchange's rate limits: arithmetic over (state, now).

Rule 1: the time is an argument. Request weight takes wall-clock seconds, because its minutes are those of the clock.
    The other limits take any monotonic clock.
"""

from collections import deque
from typing import NamedTuple

MESSAGES_PER_SECOND_MAX = 5
"""Messages of a client in any second: text, pings and pongs. The next one ends the connection with code 1008.
The futures documents say 10; 5 was observed."""

REFUSALS_BEFORE_BAN = 10
"""An address is banned at this 429 in a minute."""

BAN_S_MAX = 3 * 24 * 3600
"""Seconds: each ban is twice as long as the previous one, up to this."""


class Admission(NamedTuple):
    """The decision on a request."""

    status: int
    """200, 429 or 418."""
    used_weight: int
    retry_after_s: int
    """Whole seconds, rounded up; 0 with status 200."""
    banned_until_s: float


class RequestWeight:
    """The request weight of one address."""

    def __init__(self, weight_per_minute: int, ban_s: float) -> None:
        self.weight_per_minute = weight_per_minute
        self._ban_s = ban_s
        self._minute = 0
        self._used = 0
        self._refusals = 0
        self._banned_until_s = 0.0

    def charge(self, weight: int, now_s: float) -> Admission:
        """Count a request of that weight; return the decision."""
        if now_s < self._banned_until_s:
            return self._banned(now_s)
        minute = int(now_s // 60)
        if minute != self._minute:
            self._minute, self._used, self._refusals = minute, 0, 0
        self._used += weight
        if self._used <= self.weight_per_minute:
            return Admission(200, self._used, 0, 0.0)
        self._refusals += 1
        if self._refusals >= REFUSALS_BEFORE_BAN:
            self.ban(self._ban_s, now_s)
            self._ban_s = min(2 * self._ban_s, BAN_S_MAX)
            return self._banned(now_s)
        return Admission(429, self._used, 60 - int(now_s % 60), 0.0)

    def ban(self, duration_s: float, now_s: float) -> None:
        """Refuse every request for `duration_s`."""
        self._banned_until_s = now_s + duration_s

    def _banned(self, now_s: float) -> Admission:
        return Admission(418, self._used, int(self._banned_until_s - now_s) + 1, self._banned_until_s)


class RollingCount:
    """At most `limit` events in any `span_s` seconds."""

    def __init__(self, limit: int, span_s: float) -> None:
        self._limit, self._span_s = limit, span_s
        self._times: deque[float] = deque()

    def admits(self, now_s: float) -> bool:
        """Count an event; return whether it is within the limit."""
        times = self._times
        while times and times[0] <= now_s - self._span_s:
            times.popleft()
        times.append(now_s)
        return len(times) <= self._limit
