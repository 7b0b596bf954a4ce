"""The markets of a feed group: found by the name of their stream, and called when their synchronizers want it.

Rule 1: a market has at most one time that counts, `LiveMarket.timer_due`. Other entries of the heap are out of date.
    They are dropped when their time comes.
"""

import heapq
from collections.abc import Iterator
from itertools import count

from ldc.feed.market import LiveMarket


class MarketTable:
    """Markets by stream, and the times at which their synchronizers are ticked. For one thread."""

    def __init__(self) -> None:
        self._by_stream: dict[str, LiveMarket] = {}
        self._timers: list[tuple[float, int, LiveMarket]] = []  # a heap
        self._order = count()

    def __len__(self) -> int:
        return len(self._by_stream)

    def __iter__(self) -> Iterator[LiveMarket]:
        return iter(self._by_stream.values())

    def find(self, stream: str) -> LiveMarket | None:
        """Return the market of a stream, or None."""
        return self._by_stream.get(stream)

    def add(self, market: LiveMarket) -> None:
        """Add a market, instead of a previous one with the same stream."""
        self._by_stream[market.stream] = market

    def remove(self, market: LiveMarket) -> bool:
        """Remove a market and its timers; return whether it was there."""
        self._timers = [timer for timer in self._timers if timer[2] is not market]
        heapq.heapify(self._timers)
        if self._by_stream.get(market.stream) is not market:
            return False
        del self._by_stream[market.stream]
        return True

    # timers

    @property
    def next_due(self) -> float | None:
        """When the first synchronizer wants to be ticked, or None."""
        return self._timers[0][0] if self._timers else None

    def plan(self, market: LiveMarket, now: float) -> None:
        """Note when a market's synchronizer wants to be ticked next, if it does."""
        due = market.synchronizer.next_due()
        if due is not None and (market.timer_due is None or due < market.timer_due or market.timer_due <= now):
            market.timer_due = due
            heapq.heappush(self._timers, (due, next(self._order), market))

    def take_due(self, now: float) -> list[LiveMarket]:
        """Return the markets whose time has come, and forget those times."""
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        taken = []
        for market in due:
            if market.timer_due is not None and market.timer_due <= now and not market.is_removed:
                market.timer_due = None
                taken.append(market)
        return taken
