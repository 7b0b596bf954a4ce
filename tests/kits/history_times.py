"""Simulated histories in which the exchange's clock, or single event times, are wrong.

Rule 1: event times are shown to users, and are a hint. Whatever they are, every oracle of `history` holds. Only the
        time to come back is longer if ids restart meanwhile, because no event time shows the restart. A repeated update
        with a later time looks like ids that stepped back and may cost a resync. Ids that do step back are not tried.
"""

import random
import re
from types import ModuleType

from history import Connection, History
from history_bounds import BACKOFF_S_MAX, RESTART_WITHOUT_TIMES_S
from history_market import SimulatedMarket

_EVENT_TIME = re.compile(rb'"E":-?\d+')
_STEPS_MS = (-3_600_000, -5_000, -1_500, -500, 500, 1_500, 5_000, 3_600_000)


class HistoryOfOddTimes(History):
    """A history with wrong event times: of some updates, or of all from a moment on; or without any."""

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
        """The clock jumps, or some updates get times of their own. The ids may restart as well."""
        if self.times.random() < 0.5:
            self.step_ms += self.times.choice(_STEPS_MS)
        else:
            self.odd_updates += self.times.randint(1, 4)
        if self.times.random() < 0.5:
            self.fault_restart(self.times.choice(self.markets))

    def fault_step_back(self, market: SimulatedMarket) -> None:
        """Nothing: only the event time shows a step back."""

    def send_with_fault(self, connection: Connection, market: SimulatedMarket, payload: bytes, what: str) -> None:
        """Do what a fault demands. What is sent again gets a time of its own."""
        market.resyncs_allowed += what in ("twice", "later twice", "late")
        super().send_with_fault(connection, market, payload, what)

    def post(self, connection: Connection, market: SimulatedMarket, payload: bytes) -> None:
        """Send bytes, with that time in them."""
        time_ms: int | None = 1_000_000 + int(self.now * 1000) + self.step_ms
        assert time_ms is not None
        if self.odd_updates and self.faults_over_at is None and self.times.random() < 0.6:
            self.odd_updates -= 1
            odd = (0, -5, time_ms * 1000, time_ms // 1000, 2**62, time_ms - 30_000, time_ms + 30_000, None)
            time_ms = self.times.choice(odd)
        text = b'"E":null' if time_ms is None or self.are_missing else b'"E":%d' % time_ms
        super().post(connection, market, _EVENT_TIME.sub(text, payload))

    def recovery_s_max(self, market: SimulatedMarket) -> float:
        """Return how long a market may take to come back."""
        return super().recovery_s_max(market) + 2 * RESTART_WITHOUT_TIMES_S + BACKOFF_S_MAX

    def three_rounds_s(self, market: SimulatedMarket) -> float:
        """Return how much of that the library may cause: it waits, and its backoff has grown meanwhile."""
        return super().three_rounds_s(market) + 2 * RESTART_WITHOUT_TIMES_S + 3 * BACKOFF_S_MAX
