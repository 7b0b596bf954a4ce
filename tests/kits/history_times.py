"""Simulated histories in which the exchange's clock, or one message's idea of it, is not to be trusted.

Rule 1: event times are shown to users, and are a hint. With any of them, every oracle of `history` holds; only how long
        a market may take to come back is longer, where ids begin anew meanwhile and nothing that follows looks newer.
"""

import random
import re
from types import ModuleType

from history import Connection, History
from history_market import SimulatedMarket

from ldc.sync.retry import RETRY_S_MAX
from ldc.sync.streams import STALE_S_MAX

__all__ = ["HistoryOfOddTimes"]

_EVENT_TIME = re.compile(rb'"E":-?\d+')
_STEPS_MS = (-3_600_000, -5_000, -1_500, -500, 500, 1_500, 5_000, 3_600_000)


class HistoryOfOddTimes(History):
    """A history with event times that lie: of some updates, of all from a moment on, or nobody tells any."""

    def __init__(self, seed: int, books: ModuleType) -> None:
        super().__init__(seed, books)
        self.times = random.Random(f"times {seed}")
        self.are_missing = self.times.random() < 0.15
        self.step_ms = 0
        self.odd_updates = 0
        if not self.is_clean:
            for _ in range(self.times.randint(1, 3)):
                self.at(0.3 + self.times.random() * (self.faults_until - 0.4), self.fault_of_time)

    def fault_of_time(self) -> None:
        """The clock leaps, or some updates come with times of their own; the ids may begin anew as well."""
        if self.times.random() < 0.5:
            self.step_ms += self.times.choice(_STEPS_MS)
        else:
            self.odd_updates += self.times.randint(1, 4)
        if self.times.random() < 0.5:
            self.fault_restart(self.times.choice(self.markets))

    def post(self, connection: Connection, market: SimulatedMarket, frame: bytes) -> None:
        """Put bytes on the wire, with that time in them."""
        time_ms: int | None = 1_000_000 + int(self.now * 1000) + self.step_ms
        assert time_ms is not None
        if self.odd_updates and self.calm_at is None and self.times.random() < 0.6:
            self.odd_updates -= 1
            odd = (0, -5, time_ms * 1000, time_ms // 1000, 2**62, time_ms - 30_000, time_ms + 30_000, None)
            time_ms = self.times.choice(odd)
        told = b'"E":null' if time_ms is None or self.are_missing else b'"E":%d' % time_ms
        super().post(connection, market, _EVENT_TIME.sub(told, frame))

    def recovery_s_max(self, market: SimulatedMarket) -> float:
        """Return how long a market may take to come back."""
        return super().recovery_s_max(market) + 2 * STALE_S_MAX + RETRY_S_MAX

    def three_rounds_s(self, market: SimulatedMarket) -> float:
        """Return what the library may use of that: it waits, and its back-off has grown meanwhile."""
        return super().three_rounds_s(market) + 2 * STALE_S_MAX + 3 * RETRY_S_MAX
