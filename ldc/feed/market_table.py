"""When the markets of a feed group want to be called: one heap for all of them.

Rule 1: a market has at most one time that counts, `LiveMarket.timer_due`; what else stands in the heap for it is out
    of date, and is dropped when its time comes.
"""

import heapq
from itertools import count

from ldc.feed.market import LiveMarket

__all__ = ["MarketTimers"]


class MarketTimers:
    """Times at which synchronizers are to be ticked. For one thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, LiveMarket]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float | None:
        """The first of them, or None."""
        return self._heap[0][0] if self._heap else None

    def plan(self, market: LiveMarket, now: float) -> None:
        """Note when a market's synchronizer wants to be called next, if it does."""
        due = market.synchronizer.next_due()
        if due is not None and (market.timer_due is None or due < market.timer_due or market.timer_due <= now):
            market.timer_due = due
            heapq.heappush(self._heap, (due, next(self._order), market))

    def forget(self, market: LiveMarket) -> None:
        """Plan nothing for a market any more."""
        self._heap = [timer for timer in self._heap if timer[2] is not market]
        heapq.heapify(self._heap)

    def take_due(self, now: float) -> list[LiveMarket]:
        """Return the markets whose time has come."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        taken = []
        for market in due:
            if market.timer_due is not None and market.timer_due <= now and not market.is_removed:
                market.timer_due = None
                taken.append(market)
        return taken
