"""A market that trades by itself: orders, cancels and trades around a price that moves.

Rule 1: the same seed gives the same market, byte for byte, on every Python. So it uses only integers and `getrandbits`
    of one generator of its own: no float, no libm, no clock, no hash of the process.
Rule 2: time is the number of windows, unless the owner says what time it is at the end of each. The fastest stream
    sends the changes of one window in one message.
Rule 3: every change of the book goes through `_set`, which adds it to the window and to the log.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from ldc.simulator.changelog import ChangeLog, Levels
from ldc.simulator.listing import Listing

LEVELS_MIN = 10
LEVELS_MAX = 20_000
"""Levels a side at the start, and about as many later. A low price leaves room for fewer."""

# The distance of an order or a cancel from the best price: a random number with one of these counts of bits. As in
# recorded traffic, half of all are in the first ten levels, a tenth beyond sixty, and a few at several hundred.
_DISTANCE_BITS = (0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 9)

# A part of each side is so far out that the price never reaches it. It is called still: it never changes.
_STILL_SHARE = 8
_STILL_LEVELS_MAX = 200

# The price stays within a quarter of the first price, orders within a half. The still levels are beyond that.
_RANGE_SHARE = 4

_SIDE_LEVELS_MIN = 4
"""Levels a side, besides the still ones, that trades and cancels always leave."""

_SWEEP_LEVELS_MAX = 40
"""Levels that a trade takes at most."""

_RESTART_ID = 1_000_000_000
"""Ids restart at a tenth of this, the next time at a hundredth, and so on: lower each time."""

_QUIET, _NORMAL, _BURST = 0, 1, 2
_SPELLS = (_QUIET, _QUIET, _NORMAL, _NORMAL, _NORMAL, _NORMAL, _NORMAL, _BURST)
_TRENDS = (-1, 0, 0, 1)


@dataclass(frozen=True, slots=True)
class Update:
    """The changes of a window. Quantities are absolute; each side begins with its best price."""

    first_update_id: int
    last_update_id: int
    previous_update_id: int
    event_time_ms: int
    bids: Levels
    asks: Levels


class _Era(NamedTuple):
    """A book and its past between two restarts of its update ids."""

    bids: dict[int, int]
    asks: dict[int, int]
    log: ChangeLog
    last_update_id: int


class Side:
    """The levels of one side: prices ascending, and the quantity at each."""

    __slots__ = ("is_bid", "prices", "quantities")

    def __init__(self, is_bid: bool) -> None:
        self.is_bid = is_bid
        self.prices: list[int] = []
        self.quantities: dict[int, int] = {}

    @property
    def best(self) -> int:
        """The best price. A side is never empty."""
        return self.prices[-1 if self.is_bid else 0]

    def at_rank(self, rank: int) -> int:
        """Return the price with `rank` better ones."""
        return self.prices[-1 - rank if self.is_bid else rank]

    def top(self, limit: int) -> Levels:
        """Return the best levels, best first."""
        prices = self.prices[: -limit - 1 : -1] if self.is_bid else self.prices[:limit]
        return [(price, self.quantities[price]) for price in prices]

    def set(self, price: int, quantity: int) -> None:
        """Set the quantity at a price; zero removes the level."""
        if not quantity:
            if self.quantities.pop(price, None) is not None:
                del self.prices[bisect_left(self.prices, price)]
            return
        if price not in self.quantities:
            insort(self.prices, price)
        self.quantities[price] = quantity


class Market:
    """One market. Not thread-safe: its owner locks.

    Args:
        listing: its name and grid.
        seed: an integer; equal seeds give equal markets.
        levels: levels a side, `LEVELS_MIN` to `LEVELS_MAX`.
        engine_ids: True: the exchange counts the events of all its markets together, so ids have holes (futures). A
            window then begins before it is sent, so a snapshot may be inside of it, as on futures. False: each market
            counts its own.
        start_time_ms, interval_ms: the time of the first window, and between two windows.
    """

    def __init__(
        self, listing: Listing, *, seed: int, levels: int, engine_ids: bool, start_time_ms: int, interval_ms: int
    ) -> None:
        if not LEVELS_MIN <= levels <= LEVELS_MAX:
            raise ValueError(f"a market has {LEVELS_MIN} to {LEVELS_MAX} levels a side, not {levels}")
        self.listing = listing
        self.bids, self.asks = Side(is_bid=True), Side(is_bid=False)
        self.windows = 0
        self._bits = Random(seed).getrandbits
        self._engine_ids = engine_ids
        self.event_time_ms = start_time_ms
        """The time of the last window."""
        self._interval_ms = interval_ms
        self.last_update_id = 1_000_000_000 + self._bits(30)
        """The update id of the book, which may be inside of a window."""
        self.sent_update_id = self.last_update_id
        """The update id at the end of the last window."""
        self._first_update_id = 0
        self._touched: tuple[dict[int, int], dict[int, int]] = ({}, {})  # bids, asks; price -> quantity
        self._events_left = 0
        self._spell, self._spell_left, self._trend, self._trend_left = _NORMAL, 64, 0, 64
        self._price = listing.first_price
        reach = listing.first_price // _RANGE_SHARE
        self._lowest, self._highest = listing.first_price - reach, listing.first_price + reach
        self._levels_wanted = {True: 0, False: 0}
        self._still = {True: 0, False: 0}
        self._build(self.bids, levels)
        self._build(self.asks, levels)
        self.log = ChangeLog(self.last_update_id)
        self._previous: _Era | None = None
        self._restarts = 0
        self.begin_window()

    @property
    def tops(self) -> tuple[int, int, int, int]:
        """Best bid, its quantity, best ask, its quantity."""
        bid, ask = self.bids.best, self.asks.best
        return bid, self.bids.quantities[bid], ask, self.asks.quantities[ask]

    def sides_at(self, update_id: int) -> tuple[Levels, Levels]:
        """Return bids and asks, best first, at an update id; raise ``KeyError``, with the known ids, for another."""
        for era in (self._era(), self._previous):
            if era is not None and era.log.oldest_update_id <= update_id <= era.last_update_id:
                bids, asks = era.bids.copy(), era.asks.copy()
                era.log.undo(bids, asks, update_id)
                return sorted(bids.items(), reverse=True), sorted(asks.items())
        raise KeyError(
            f"{self.listing.symbol}: the book at update id {update_id} is not known: it is known from "
            f"{self.log.oldest_update_id} to {self.last_update_id}"
        )

    def _era(self) -> "_Era":
        return _Era(self.bids.quantities, self.asks.quantities, self.log, self.last_update_id)

    def end_window(self, now_ms: int | None = None) -> Update | None:
        """Trade to the end of the window; return its changes, or None if there were none.

        `now_ms` is the time of that end, if it follows a clock. Times grow, also where that clock does not.
        """
        if not self._engine_ids:
            self._begin()
        while self._events_left:
            self._event()
        self.windows += 1
        if now_ms is None:
            self.event_time_ms += self._interval_ms
        else:
            self.event_time_ms = max(self.event_time_ms + 1, now_ms)
        return self._finished()

    def begin_window(self) -> None:
        """Begin the next window after the end of one. With `engine_ids`, a part of its events happens now."""
        if self._engine_ids:
            self._begin()

    def restart_ids(self) -> None:
        """Restart the update ids at a lower number, as after a loss of the exchange's state.

        `sides_at` still has the books from before, until the next restart.
        """
        self._previous = _Era(self.bids.quantities.copy(), self.asks.quantities.copy(), self.log, self.last_update_id)
        self._restarts += 1
        if self._engine_ids:
            self._events_left = 0
        for touched in self._touched:
            touched.clear()
        self.last_update_id = self.sent_update_id = _RESTART_ID // 10**self._restarts + self._bits(8)
        self.log = ChangeLog(self.last_update_id)

    # ------------------------------------------------------------------------------------------ windows

    def _begin(self) -> None:
        """Draw the number of events of the window; with `engine_ids`, let a part of them happen."""
        self._first_update_id = 0
        self._events_left = self._activity()
        if self._engine_ids:
            for _ in range(self._bits(16) * (self._events_left + 1) >> 16):
                self._event()

    def _activity(self) -> int:
        """Return a random number of events for the next window."""
        if not self._spell_left:
            self._spell = _SPELLS[self._bits(3)]
            self._spell_left = (8 if self._spell == _QUIET else 24) + self._bits(5)
        self._spell_left -= 1
        if self._spell == _QUIET:
            return int(self._bits(2) == 0)
        return 1 + self._bits(3) if self._spell == _NORMAL else 16 + self._bits(5)

    def _finished(self) -> Update | None:
        bids, asks = self._touched
        if not bids and not asks:
            return None
        update = Update(
            self._first_update_id,
            self.last_update_id,
            self.sent_update_id,
            self.event_time_ms,
            sorted(bids.items(), reverse=True),
            sorted(asks.items()),
        )
        bids.clear()
        asks.clear()
        self.sent_update_id = self.last_update_id
        return update

    # ------------------------------------------------------------------------------------------ events

    def _event(self) -> None:
        """Let one event happen: it has one update id, and changes at least one level."""
        self._events_left -= 1
        self.last_update_id += 1 + (self._bits(8) if self._engine_ids else 0)
        if not self._first_update_id:
            self._first_update_id = self.last_update_id
        self._move_price()
        if self._price >= self.asks.best:
            self._sweep(self.asks)
        elif self._price <= self.bids.best:
            self._sweep(self.bids)
        kind = self._bits(4)
        side = self.bids if self._bits(1) else self.asks
        if kind == 0:
            self._trade(side)
        elif kind < 9:
            self._place(side)
        else:
            self._cancel(side)

    def _move_price(self) -> None:
        if not self._trend_left:
            self._trend, self._trend_left = _TRENDS[self._bits(2)], 64 + self._bits(9)
        self._trend_left -= 1
        if self._bits(4):
            return
        ticks = 1 + self._bits(2)
        is_up = self._bits(1) if self._bits(1) or not self._trend else self._trend > 0
        price = self._price + (ticks if is_up else -ticks) * self.listing.tick
        self._price = min(max(price, self._lowest), self._highest)

    def _place(self, side: Side) -> None:
        """Add an order, at the price or behind it. A thin side is filled anywhere."""
        tick = self.listing.tick
        ticks = 1 + self._bits(self._distance_bits())
        if len(side.prices) < self._levels_wanted[side.is_bid] and self._bits(1):
            ticks = 1 + self._below(self._levels_wanted[side.is_bid])
        first, reach = self.listing.first_price, 2 * (self._highest - self.listing.first_price)
        if side.is_bid:
            price = max(min(self._price - ticks * tick, self.asks.best - tick), first - reach + tick)
        else:
            price = min(max(self._price + ticks * tick, self.bids.best + tick), first + reach - tick)
        price -= price % tick
        self._set(side, price, side.quantities.get(price, 0) + self._quantity())

    def _cancel(self, side: Side) -> None:
        """Cancel an order or a part of one. A side with too many levels loses one anywhere."""
        active = len(side.prices) - self._still[side.is_bid]
        missing = self._levels_wanted[side.is_bid] - len(side.prices)
        if active <= _SIDE_LEVELS_MIN or (missing > 0 and self._bits(1)):
            self._place(side)
            return
        if missing < 0 and self._bits(1):
            self._set(side, side.at_rank(self._below(active)), 0)
            return
        price = side.at_rank(min(self._bits(self._distance_bits()), active - 1))
        before, part = side.quantities[price], self._quantity()
        self._set(side, price, before - part if before > part and self._bits(1) else 0)

    def _trade(self, side: Side) -> None:
        """Trade at the best prices of a side, over at most a few levels."""
        wanted = self._quantity() << self._bits(1)
        for _ in range(_SWEEP_LEVELS_MAX):
            price = side.best
            there = side.quantities[price]
            if there > wanted:
                self._set(side, price, there - wanted)
                return
            if len(side.prices) - self._still[side.is_bid] <= _SIDE_LEVELS_MIN:
                break
            self._set(side, price, 0)
            wanted -= there
            if not wanted:
                return
        self._place(side)

    def _sweep(self, side: Side) -> None:
        """Trade away the levels of a side that the price has passed."""
        for _ in range(_SWEEP_LEVELS_MAX):
            best = side.best
            is_passed = best >= self._price if side.is_bid else best <= self._price
            if not is_passed or len(side.prices) - self._still[side.is_bid] <= _SIDE_LEVELS_MIN:
                return
            self._set(side, best, 0)

    def _set(self, side: Side, price: int, quantity: int) -> None:
        before = side.quantities.get(price, 0)
        side.set(price, quantity)
        self._touched[0 if side.is_bid else 1][price] = quantity
        self.log.note(self.last_update_id, side.is_bid, price, before)

    # ------------------------------------------------------------------------------------------ random numbers

    def _below(self, count: int) -> int:
        """Return a random number in [0, count)."""
        return self._bits(32) * count >> 32

    def _distance_bits(self) -> int:
        return _DISTANCE_BITS[self._bits(4)]

    def _quantity(self) -> int:
        """Return a random quantity: mostly small, sometimes large."""
        lots = 1 + (self.listing.typical_lots * (1 + self._bits(8)) >> 2 + self._bits(3))
        return lots * self.listing.lot

    # ------------------------------------------------------------------------------------------ the first book

    def _build(self, side: Side, levels: int) -> None:
        """Fill a side: dense near the price, with gaps further out, and the still levels far out."""
        tick, direction = self.listing.tick, -1 if side.is_bid else 1
        still = min(levels // _STILL_SHARE, _STILL_LEVELS_MAX)
        price = self.listing.first_price
        end = self._lowest if side.is_bid else self._highest
        for _ in range(levels - still):
            price += direction * tick * (1 + (self._bits(2) if not self._bits(1) else 0))
            if (price <= end) if side.is_bid else (price >= end):
                break
            side.quantities[price] = self._quantity()
        reach = self._highest - self.listing.first_price
        price, gap = self.listing.first_price + 2 * direction * reach, reach // (still + 1)
        for _ in range(still):
            # Off the grid where the exchange prints finer prices than it trades, because ticks were finer before.
            price += direction * (1 + self._below(gap))
            side.quantities[price] = self._quantity() + self._below(self.listing.lot)
            self._still[side.is_bid] += 1
        side.prices = sorted(side.quantities)
        self._levels_wanted[side.is_bid] = len(side.prices)
