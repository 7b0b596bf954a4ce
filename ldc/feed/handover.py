"""When a successor has taken over from an old connection: every market has been heard on it, or was proven quiet.

Rule 1: no I/O, and `now` is an argument. What is to be asked or subscribed is returned to the group, which does it.
Rule 2: a market has moved when the successor has brought an update of it that the book could judge. Nothing else
    proves that the successor brings it at all.
Rule 3: one that is too quiet for that is looked up by REST. If the exchange stands where the book stands, and nothing
    came since the successor's subscription was acknowledged, it has moved too: whatever comes next comes on both.
Rule 4: what must have come on the successor and did not is subscribed on it anew. A successor that fails at that for
    `HANDOVER_S_MAX` is given up, and the old connection stays.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from ldc.feed.market import MOVED_ON_S, LiveMarket
from ldc.types import SyncState

__all__ = ["HANDOVER_CHECK_S", "HANDOVER_QUIET_S", "HANDOVER_S_MAX", "PROBE_AGAIN_S", "Handover", "HandoverStep"]

HANDOVER_QUIET_S = 5.0
"""A market of which the successor has said nothing for so long is looked up."""

HANDOVER_CHECK_S = 1.0
"""How often the group looks at the markets that have not moved yet, past that."""

PROBE_AGAIN_S = 30.0
"""A look-up that brought nothing, or was not answered, is asked for again after so long. Look-ups have a small budget
of their own, so that an answer may take a minute when hundreds of markets are quiet."""

HANDOVER_S_MAX = 600.0
"""So long two connections feed the same books at most. Then the older one is closed, unless it brings markets that its
successor does not: then the successor is."""


class HandoverStep(NamedTuple):
    """What is to be done for the markets that have not moved yet."""

    to_probe: list[LiveMarket]
    to_resubscribe: list[LiveMarket]
    """On the successor only."""


class Handover:
    """The way of a group's markets from one connection to its successor, whose feed number is `feed`."""

    def __init__(self, connection_id: int, now: float) -> None:
        self.connection_id = connection_id
        self.next_due = now + HANDOVER_QUIET_S
        """When `step` has something to do that nothing else would call it for."""
        self._deadline = now + HANDOVER_S_MAX
        self._waits_for: LiveMarket | None = None  # one that has not moved: while it has not, no other one matters
        self._live_since: dict[LiveMarket, float] = {}  # acknowledged on the successor, and seen to be
        self._asked_at: dict[LiveMarket, float] = {}
        self._expected_since: dict[LiveMarket, float] = {}  # an update must come: the exchange has moved on
        self._quiet: dict[LiveMarket, float] = {}  # proven to be, by rule 3, as long as nothing was heard since
        self._missing: set[LiveMarket] = set()  # was to come on the successor, and did not

    def is_complete(self, markets: Iterable[LiveMarket]) -> bool:
        """Whether every market has moved. O(1) while one that has not is known."""
        if self._waits_for is not None and not self._has_moved(self._waits_for):
            return False
        self._waits_for = next((market for market in markets if not self._has_moved(market)), None)
        return self._waits_for is None

    def has_failed(self, now: float) -> bool | None:
        """Return at the deadline whether it was in vain; None before."""
        lacking = self._missing | self._expected_since.keys()
        return None if now < self._deadline else any(not self._has_moved(market) for market in lacking)

    def _has_moved(self, market: LiveMarket) -> bool:
        synchronizer = market.synchronizer
        if market.is_removed or synchronizer.state in (SyncState.FAILED, SyncState.STOPPED):
            return True
        if synchronizer.state is not SyncState.SYNCHRONIZED:
            return synchronizer.is_live(self.connection_id)  # it takes a snapshot, and can go on with this feed
        if synchronizer.has_spoken(self.connection_id):
            return True
        # One that was to come on the successor once, and did not, must be heard there: that it is quiet proves nothing.
        is_quiet = market not in self._missing and market.heard_at <= self._quiet.get(market, -math.inf)
        return is_quiet and synchronizer.gap_since is None

    def step(self, markets: Iterable[LiveMarket], now: float) -> HandoverStep:
        """Return what is to be done now. Call it at `next_due`."""
        step = HandoverStep([], [])
        if now < self.next_due:
            return step
        self.next_due = now + HANDOVER_CHECK_S
        for market in markets:
            if not self._has_moved(market) and market.synchronizer.is_live(self.connection_id):
                self._look_at(market, now, step)
        return step

    def _look_at(self, market: LiveMarket, now: float, step: HandoverStep) -> None:
        live_since = self._live_since.setdefault(market, now)
        if market.heard_at > live_since:  # on the old connection, and not on this one
            self._expected_since.setdefault(market, now)
        expected_since = self._expected_since.get(market)
        if expected_since is None:
            if now - self._asked_at.get(market, -PROBE_AGAIN_S) >= PROBE_AGAIN_S:
                self._asked_at[market] = now
                step.to_probe.append(market)
        elif now - expected_since >= MOVED_ON_S:
            del self._expected_since[market], self._live_since[market]
            self._asked_at.pop(market, None)
            self._missing.add(market)
            step.to_resubscribe.append(market)

    def probe_answered(self, market: LiveMarket, last_update_id: int | None, now: float) -> None:
        """Take the exchange's id as a look-up has shown it, or None: it could not be had."""
        has_moved_on = market.is_behind(last_update_id)
        live_since = self._live_since.get(market)
        if has_moved_on is None or live_since is None:
            return
        if has_moved_on:
            self._expected_since.setdefault(market, now)
        elif market.heard_at <= live_since:
            self._quiet[market] = live_since
