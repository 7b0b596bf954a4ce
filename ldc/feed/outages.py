"""What the log of a feed group says about its markets: when they are lost, and when and how soon they are back.

Rule 1: each loss and each return is one line. What concerns a connection is one line for all its markets.
Rule 2: what was requested is no warning. What is expected, such as a stop, is at DEBUG.
Rule 3: the lines are bounded. Past `SINGLE_LOSSES_MAX` in a minute, losses of single markets are at DEBUG, and counted.
Rule 4: no clock; `now` is an argument.

| event | level | line |
| --- | --- | --- |
| the markets of a new group, or of a lost connection, can be read | INFO | one, with the number and the seconds |
| some of them still cannot, after 10, 20, 40 ... s | INFO | one, with the number and an example |
| one market is lost by itself (a gap, a crossed book, ...) | WARNING; on request INFO | one |
| it can be read again | INFO | one, with the seconds |
| the exchange does not know a market | WARNING | one |
"""

import logging
from collections.abc import Iterable

from ldc.consume.log import logger
from ldc.feed.market import LiveMarket
from ldc.limits import RollingLimit
from ldc.sync.actions import StateChanged
from ldc.types import Cause, SyncState

SINGLE_LOSSES_MAX = 10
"""Losses of single markets that a group logs in `SINGLE_LOSSES_S`. Further ones, and their ends, are at DEBUG."""

SINGLE_LOSSES_S = 60.0

STILL_S = 10.0
"""Seconds until it is logged that some markets still cannot be read. The wait for the next such line doubles."""


class OutageLog:
    """The losses and returns of a group's markets. The group's thread calls it.

    Args:
        name: of the group, at the beginning of each line.
    """

    def __init__(self, name: str) -> None:
        self.next_due = float("inf")
        """When `tick` has something to log."""
        self._name = name
        self._together: set[LiveMarket] = set()  # lost with a connection, or new
        self._together_since = 0.0
        self._together_count = 0
        self._is_return = False  # some of them could be read before
        self._still_s = STILL_S
        self._alone: dict[LiveMarket, tuple[float, int]] = {}  # lost by themselves: since when, and the level
        self._pace = RollingLimit(SINGLE_LOSSES_MAX, SINGLE_LOSSES_S)
        self._unsaid = 0  # single losses that were logged at DEBUG since the last one that was not

    def added(self, market: LiveMarket, now: float) -> None:
        """A market is new: it cannot be read yet."""
        self._wait_together(market, now)

    def _forget(self, market: LiveMarket) -> None:
        """Nothing more is said about a market."""
        self._alone.pop(market, None)
        if market in self._together:
            self._together.discard(market)
            self._together_count -= 1
            if not self._together:
                self.next_due = float("inf")

    def note(self, market: LiveMarket, change: StateChanged, now: float) -> None:
        """A market has changed its state."""
        if change.state is SyncState.SYNCHRONIZED:
            self._back(market, change, now)
        elif change.state is SyncState.FAILED:
            logger.warning(
                "%s: %s has failed (%s): %s", self._name, market.market, change.cause.value, market.last_error or "-"
            )
            was_last = self._together == {market}
            self._forget(market)
            if was_last:
                self._end_if_complete(now)
        elif change.state is SyncState.STOPPED:
            self._forget(market)
        elif change.previous_state is SyncState.SYNCHRONIZED:
            if change.cause is Cause.STREAM_CLOSED:
                self._wait_together(market, now)
                self._is_return = True
            else:
                self._lose_alone(market, change, now)

    def tick(self, now: float, markets: Iterable[LiveMarket]) -> None:
        """Log, if it is due, that some markets still cannot be read."""
        if now < self.next_due:
            return
        self._still_s *= 2
        self.next_due = now + self._still_s
        example = next((market for market in markets if market in self._together), None)
        logger.info(
            "%s: %d of %d markets cannot be read after %.1f s, such as %s: %s",
            self._name,
            len(self._together),
            self._together_count,
            now - self._together_since,
            "-" if example is None else example.market,
            "it waits" if example is None or example.last_error is None else example.last_error,
        )

    def _wait_together(self, market: LiveMarket, now: float) -> None:
        self._alone.pop(market, None)
        if not self._together:
            self._together_since, self._together_count, self._is_return = now, 0, False
            self._still_s = STILL_S
            self.next_due = now + STILL_S
        if market not in self._together:
            self._together.add(market)
            self._together_count += 1

    def _lose_alone(self, market: LiveMarket, change: StateChanged, now: float) -> None:
        level = logging.INFO if change.cause is Cause.REQUESTED else logging.WARNING
        if self._pace.earliest(now) > now:
            level = logging.DEBUG
            self._unsaid += 1
        else:
            self._pace.spend(now)
        self._alone[market] = now, level
        more = f"; {self._unsaid} more were lost meanwhile" if self._unsaid and level != logging.DEBUG else ""
        self._unsaid = 0 if level != logging.DEBUG else self._unsaid
        logger.log(
            level,
            "%s: %s is out of sync (%s) at update id %s; ldc synchronizes it again%s",
            self._name,
            market.market,
            change.cause.value,
            change.last_update_id,
            more,
        )

    def _back(self, market: LiveMarket, change: StateChanged, now: float) -> None:
        if market in self._together:
            self._together.discard(market)
            self._end_if_complete(now)
            return
        since, level = self._alone.pop(market, (None, logging.DEBUG))
        if since is not None:
            logger.log(
                min(level, logging.INFO),
                "%s: %s is synchronized again after %.2f s (%s)",
                self._name,
                market.market,
                now - since,
                change.cause.value,
            )

    def _end_if_complete(self, now: float) -> None:
        if self._together:
            return
        self.next_due = float("inf")
        if self._together_count:
            logger.info(
                "%s: all %d markets are synchronized%s, after %.2f s",
                self._name,
                self._together_count,
                " again" if self._is_return else "",
                now - self._together_since,
            )
