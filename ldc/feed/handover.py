"""When a successor has taken over from an old connection: it has brought every market, or the market was proven quiet.

Rule 1: no I/O, and `now` is an argument. Probes and resubscriptions are returned to the group, which makes them.
Rule 2: a market has moved when the successor has brought an update of it that the book could judge. Nothing else
    proves that the successor brings it at all.
Rule 3: a market that is too quiet for that is probed by REST. It has moved as well if the exchange is at the book's id,
    and no update came since the successor's subscription was acknowledged: the next update comes on both.
Rule 4: a market that should have come on the successor and did not is resubscribed there. A successor that fails at
    that for `Timing.handover_s_max` is given up, and the old connection stays.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from ldc.feed.market import LiveMarket
from ldc.limits import Timing
from ldc.types import SyncState


class HandoverStep(NamedTuple):
    """What to do for the markets that have not moved yet."""

    to_probe: list[LiveMarket]
    to_resubscribe: list[LiveMarket]
    """On the successor only."""


class Handover:
    """The move of a group's markets from one connection to its successor, whose number is `connection_id`."""

    def __init__(self, connection_id: int, now: float, timing: Timing) -> None:
        self.connection_id = connection_id
        self.next_due = now + timing.handover_quiet_s
        """When `step` is to be called, whether or not something else happens."""
        self._timing = timing
        self._deadline = now + timing.handover_s_max
        self._waits_for: LiveMarket | None = None  # has not moved: until it has, no other market needs a check
        self._live_since: dict[LiveMarket, float] = {}  # first seen to be acknowledged on the successor
        self._requested_at: dict[LiveMarket, float] = {}  # the last probe
        self._expected_since: dict[LiveMarket, float] = {}  # an update must come: the exchange has moved on
        self._quiet: dict[LiveMarket, float] = {}  # proven by rule 3, as long as no later update was judged
        self._missing: set[LiveMarket] = set()  # should have come on the successor, and did not

    def is_complete(self, markets: Iterable[LiveMarket]) -> bool:
        """Whether every market has moved. O(1) while one is known that has not."""
        if self._waits_for is not None and not self._has_moved(self._waits_for):
            return False
        self._waits_for = next((market for market in markets if not self._has_moved(market)), None)
        return self._waits_for is None

    def has_failed(self, now: float) -> bool | None:
        """Return at the deadline whether the successor lacks a market; None before the deadline."""
        lacking = self._missing | self._expected_since.keys()
        return None if now < self._deadline else any(not self._has_moved(market) for market in lacking)

    def _has_moved(self, market: LiveMarket) -> bool:
        synchronizer = market.synchronizer
        if market.is_removed or synchronizer.state in (SyncState.FAILED, SyncState.STOPPED):
            return True
        if synchronizer.state is not SyncState.SYNCHRONIZED:
            return synchronizer.is_live(self.connection_id)  # it needs a snapshot, and this connection is enough then
        if synchronizer.has_spoken(self.connection_id):
            return True
        # A market that once failed to come on the successor must come there: that it is quiet proves nothing.
        is_quiet = market not in self._missing and market.heard_at <= self._quiet.get(market, -math.inf)
        return is_quiet and synchronizer.gap_since is None

    def step(self, markets: Iterable[LiveMarket], now: float) -> HandoverStep:
        """Return what to do now. Call it at `next_due`."""
        step = HandoverStep([], [])
        if now < self.next_due:
            return step
        self.next_due = now + self._timing.handover_check_s
        for market in markets:
            if not self._has_moved(market) and market.synchronizer.is_live(self.connection_id):
                self._check(market, now, step)
        return step

    def _check(self, market: LiveMarket, now: float, step: HandoverStep) -> None:
        live_since = self._live_since.setdefault(market, now)
        if market.heard_at > live_since:  # on the old connection, and not on this one
            self._expected_since.setdefault(market, now)
        expected_since = self._expected_since.get(market)
        if expected_since is None:
            requested_at = self._requested_at.get(market)
            if requested_at is None or now - requested_at >= self._timing.probe_again_s:
                self._requested_at[market] = now
                step.to_probe.append(market)
        elif now - expected_since >= self._timing.moved_on_s:
            del self._expected_since[market], self._live_since[market]
            self._requested_at.pop(market, None)
            self._missing.add(market)
            step.to_resubscribe.append(market)

    def probe_answered(self, market: LiveMarket, last_update_id: int | None, now: float) -> None:
        """Note the exchange's id as a probe found it, or None: the probe failed."""
        has_moved_on = market.is_behind(last_update_id)
        live_since = self._live_since.get(market)
        if has_moved_on is None or live_since is None:
            return
        if has_moved_on:
            self._expected_since.setdefault(market, now)
        elif market.heard_at <= live_since:
            self._quiet[market] = live_since
