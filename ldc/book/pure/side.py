"""The two sides of an order book in plain Python: levels, scales, horizons. Exact integers, no ids, no locks.

Rule 1: a price or quantity is ``units / 10**decimals``; one scale for the prices of a book, one for its quantities.
Rule 2: what would not fit int64 is refused, as the compiled book must, though Python's integers are endless.
Rule 3: reading levels and making room for them may raise `Unreadable`. Committing them (`put`, `cut`) cannot fail.

Theory of operation. A side is a dictionary, sort key -> quantity, and the sorted list of its keys. The key is the price
on the ask side and its negative on the bid side. So on both sides the smallest key is the best price, and the horizon
is the largest key to which the side is complete. Venues print all numbers of a market with the same decimals, and the
same ones over and over, so nearly every text of an update is found in a table (`levels_at_scale`). An update with a
number that the scales do not hold takes the slow path (`read_levels`, `Sides.fitted`), which widens them.
"""

import functools
import math
import re
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from decimal import Decimal
from itertools import chain, pairwise
from typing import Any, NamedTuple

from ldc.book.pure.json import (
    DECIMALS_MAX,
    INT64_MAX,
    POWERS_OF_TEN,
    Number,
    Snapshot,
    Unreadable,
    printed_decimals,
    read_number,
)
from ldc.types import Comparison

LEVELS_PER_SIDE_MAX = 50_000
"""Levels of a side. The worst levels beyond this are dropped and counted, and the horizon moves to the worst kept."""

TEXTS_REMEMBERED_MAX = 65_536
"""Texts of numbers whose value is remembered for each number of decimals (some 10 MB). Then all are forgotten."""
TEXT_LENGTH_REMEMBERED_MAX = 40
"""Characters of a text. A longer one may be valid, by its zeros, but is not remembered: no venue prints one."""

Level = tuple[int, int]
"""Price and quantity, in units of the book's scales."""
ExactLevel = tuple[Number, Number]
"""Price and quantity, each at its own decimals."""


class BookSide:
    """The bids or the asks of a book."""

    __slots__ = ("horizon", "keys", "loaded_count", "quantities", "sign")

    def __init__(self, sign: int, quantities: dict[int, int], horizon: int | None, loaded_count: int) -> None:
        self.sign = sign
        """-1 for bids, 1 for asks: key == sign * price."""
        self.quantities = quantities
        self.keys = sorted(quantities)
        self.horizon = horizon
        """The worst key to which the side is complete; None: complete without end."""
        self.loaded_count = loaded_count
        """How many levels the snapshot brought."""

    def put(self, changes: dict[int, int]) -> None:
        """Set the quantity at each price; zero removes the level. O(changes x log levels), plus moving list items."""
        keys, quantities, sign = self.keys, self.quantities, self.sign
        for price, quantity in changes.items():
            key = sign * price
            if quantity:
                if key not in quantities:
                    insort(keys, key)
                quantities[key] = quantity
            elif quantities.pop(key, None) is not None:
                del keys[bisect_left(keys, key)]

    def cut(self) -> int:
        """Drop the levels past `LEVELS_PER_SIDE_MAX`, move the horizon to the worst kept, and return their number."""
        surplus = self.keys[LEVELS_PER_SIDE_MAX:]
        if surplus:
            del self.keys[LEVELS_PER_SIDE_MAX:]
            for key in surplus:
                del self.quantities[key]
            worst = self.keys[-1]
            self.horizon = worst if self.horizon is None else min(self.horizon, worst)
        return len(surplus)

    @property
    def inside_count(self) -> int:
        """How many levels stand up to the horizon."""
        return len(self.keys) if self.horizon is None else bisect_right(self.keys, self.horizon)

    @property
    def has_left(self) -> bool:
        """Whether no level is left inside the horizon: the market has moved past it, and the top is not known."""
        return self.horizon is not None and not (self.keys and self.keys[0] <= self.horizon)

    @property
    def is_short(self) -> bool:
        """Less than half of what was loaded is left inside the horizon."""
        return self.horizon is not None and 2 * self.inside_count < self.loaded_count

    @property
    def horizon_price(self) -> int | None:
        """The price at the horizon, scaled; None: the side is complete."""
        return None if self.horizon is None else self.sign * self.horizon

    def top(self, limit: int | None, beyond_horizon: bool) -> list[Level]:
        """Return a copy of the best levels, best first."""
        end = len(self.keys) if beyond_horizon else self.inside_count
        if limit is not None:
            end = min(end, limit)
        sign, quantities = self.sign, self.quantities
        return [(sign * key, quantities[key]) for key in self.keys[:end]]

    def rescaled(self, price_factor: int, quantity_factor: int) -> "BookSide":
        """Return a copy with its numbers multiplied; with factors of 1, a copy."""
        quantities = {key * price_factor: quantity * quantity_factor for key, quantity in self.quantities.items()}
        horizon = None if self.horizon is None else self.horizon * price_factor
        return BookSide(self.sign, quantities, horizon, self.loaded_count)

    def check(self) -> None:
        """Assert every invariant."""
        assert self.sign in (-1, 1)
        assert all(key < next_key for key, next_key in pairwise(self.keys)), "the keys are not sorted"
        assert self.quantities.keys() == set(self.keys), "keys and quantities are not the same levels"
        assert all(0 <= self.sign * key <= INT64_MAX for key in self.keys), "a price is not an int64 from 0"
        assert all(1 <= quantity <= INT64_MAX for quantity in self.quantities.values()), "a quantity is not positive"
        assert self.horizon is None or 0 <= self.sign * self.horizon <= INT64_MAX, "the horizon is not a price"
        assert len(self.keys) <= LEVELS_PER_SIDE_MAX, "too many levels"
        assert 0 <= self.loaded_count <= LEVELS_PER_SIDE_MAX

    def __sizeof__(self) -> int:
        numbers = chain(self.quantities.keys(), self.quantities.values())
        containers = sys.getsizeof(self.keys) + sys.getsizeof(self.quantities)
        return object.__sizeof__(self) + containers + sum(map(sys.getsizeof, numbers))


class Sides:
    """Both sides of a book and their scales."""

    __slots__ = ("asks", "bids", "price_decimals", "quantity_decimals")

    def __init__(self, bids: BookSide, asks: BookSide, price_decimals: int, quantity_decimals: int) -> None:
        self.bids = bids
        self.asks = asks
        self.price_decimals = price_decimals
        self.quantity_decimals = quantity_decimals

    @property
    def is_crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        bids, asks = self.bids.keys, self.asks.keys
        return bool(bids and asks) and -bids[0] >= asks[0]

    def rescaled(self, price_decimals: int, quantity_decimals: int) -> "Sides":
        """Return a copy at these scales, which are not narrower."""
        price_factor = POWERS_OF_TEN[price_decimals - self.price_decimals]
        quantity_factor = POWERS_OF_TEN[quantity_decimals - self.quantity_decimals]
        bids = self.bids.rescaled(price_factor, quantity_factor)
        asks = self.asks.rescaled(price_factor, quantity_factor)
        return Sides(bids, asks, price_decimals, quantity_decimals)

    def copy(self) -> "Sides":
        """Return an independent copy."""
        return self.rescaled(self.price_decimals, self.quantity_decimals)

    def fitted(self, bids: list[ExactLevel], asks: list[ExactLevel]) -> tuple["Sides", list[Level], list[Level]]:
        """Return sides whose scales hold these levels (themselves if theirs do), and the levels at those scales.

        A level of quantity zero neither widens a scale nor is refused: where its price cannot be held, no level of
        this book has it, and it is left out.
        """
        named = [level for level in chain(bids, asks) if level[1].units]
        price_decimals = max([self.price_decimals, *(price.decimals for price, _ in named)])
        quantity_decimals = max([self.quantity_decimals, *(quantity.decimals for _, quantity in named)])
        scales = f"{price_decimals} and {quantity_decimals} decimals"
        for price, quantity in named:
            if scaled(price, price_decimals) > INT64_MAX or scaled(quantity, quantity_decimals) > INT64_MAX:
                raise Unreadable(f"a level does not fit int64 at {scales}")
        fitted = self
        if (price_decimals, quantity_decimals) != (self.price_decimals, self.quantity_decimals):
            fitted = self.rescaled(price_decimals, quantity_decimals)
            for side in (fitted.bids, fitted.asks):
                # The horizon is a held value, though the level that stood there may be gone.
                largest_price = max(map(abs, [*side.keys, side.horizon or 0]))
                if max(largest_price, *side.quantities.values(), 0) > INT64_MAX:
                    raise Unreadable(f"the book does not fit int64 at {scales}")
        scaled_bids = _levels_that_fit(bids, price_decimals, quantity_decimals)
        scaled_asks = _levels_that_fit(asks, price_decimals, quantity_decimals)
        return fitted, scaled_bids, scaled_asks

    def check(self) -> None:
        """Assert every invariant."""
        assert 0 <= self.price_decimals <= DECIMALS_MAX
        assert 0 <= self.quantity_decimals <= DECIMALS_MAX
        assert (self.bids.sign, self.asks.sign) == (-1, 1)
        self.bids.check()
        self.asks.check()

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sys.getsizeof(self.bids) + sys.getsizeof(self.asks)


def scaled(number: Number, decimals: int) -> int:
    """Return the number in units of so many decimals, which are not fewer than its own."""
    return number.units * POWERS_OF_TEN[decimals - number.decimals]


def read_levels(levels: list[list[str]]) -> list[ExactLevel]:
    """Read all numbers of a side exactly, or refuse them."""
    return [(read_number(price), read_number(quantity)) for price, quantity in levels]


class OffScale(Exception):
    """A number cannot be held at the requested scale."""


class _UnitsOfTexts(dict[str, int]):
    """The units, at one scale, of the texts read so far, for all books together."""

    def __init__(self, decimals: int) -> None:
        self.decimals = decimals
        # Printed as venues usually do, with exactly so many decimals, and below 10**18 units.
        whole = rf"[0-9]{{1,{DECIMALS_MAX - decimals}}}" if decimals < DECIMALS_MAX else "0"
        fraction = rf"\.[0-9]{{{decimals}}}" if decimals else ""
        self.is_usual = re.compile(whole + fraction).fullmatch

    def __missing__(self, text: str) -> int:
        if self.is_usual(text):
            units = int(text.replace(".", ""))
        else:
            number = read_number(text)
            if number.decimals > self.decimals:
                raise OffScale
            units = scaled(number, self.decimals)
            if units > INT64_MAX:
                raise OffScale
            if len(text) > TEXT_LENGTH_REMEMBERED_MAX:
                return units
        if len(self) >= TEXTS_REMEMBERED_MAX:
            self.clear()
        self[text] = units
        return units


_units_of_texts = functools.cache(_UnitsOfTexts)


def levels_at_scale(levels: list[list[str]], price_decimals: int, quantity_decimals: int) -> list[Level]:
    """Return the levels in units; raise `OffScale` if there is one that these scales cannot hold."""
    units_of_price, units_of_quantity = _units_of_texts(price_decimals), _units_of_texts(quantity_decimals)
    return [(units_of_price[price], units_of_quantity[quantity]) for price, quantity in levels]


def _levels_that_fit(levels: list[ExactLevel], price_decimals: int, quantity_decimals: int) -> list[Level]:
    """Return levels in units, without those of quantity zero whose price cannot be held: no book has them."""
    return [
        (scaled(price, price_decimals), scaled(quantity, quantity_decimals) if quantity.units else 0)
        for price, quantity in levels
        if price.decimals <= price_decimals and scaled(price, price_decimals) <= INT64_MAX
    ]


def applied_levels(levels: list[list[str]], price_decimals: int, quantity_decimals: int) -> list[Level]:
    """Return the levels of an update that a book of these decimals has applied, in units."""
    try:
        return levels_at_scale(levels, price_decimals, quantity_decimals)
    except OffScale:
        return _levels_that_fit(read_levels(levels), price_decimals, quantity_decimals)


class LoadedSides(NamedTuple):
    """The levels of a snapshot."""

    sides: Sides
    saturated_count: int
    dropped_count: int


def load_sides(snapshot: Snapshot, limit: int | None) -> LoadedSides:
    """Make a book's levels of a snapshot, or refuse it; `limit` is the number of levels that the venue honoured."""
    resting_bids, resting_asks = _resting(snapshot.bids), _resting(snapshot.asks)
    printed = [texts for texts, _ in chain(resting_bids, resting_asks)]
    price_decimals = max((printed_decimals(price) for price, _ in printed), default=0)
    quantity_decimals = max((printed_decimals(quantity) for _, quantity in printed), default=0)
    if max(price_decimals, quantity_decimals) > DECIMALS_MAX:
        raise Unreadable(f"it prints more than {DECIMALS_MAX} decimals")

    def side(
        sign: int, entries: list[list[str]], resting: list[tuple[list[str], ExactLevel]], has_horizon: bool
    ) -> BookSide:
        levels = [
            (scaled(price, price_decimals), scaled(quantity, quantity_decimals)) for _, (price, quantity) in resting
        ]
        if max(chain.from_iterable(levels), default=0) > INT64_MAX:
            raise Unreadable(f"a level does not fit int64 at {price_decimals} and {quantity_decimals} decimals")
        quantities = {sign * price: quantity for price, quantity in levels}
        if len(quantities) < len(levels):
            raise Unreadable("a price stands twice in a side")
        is_complete = not entries or (limit is not None and len(entries) < limit and not has_horizon)
        if not levels and not is_complete:
            raise Unreadable("a side has entries, but no price with a quantity")
        return BookSide(sign, quantities, None if is_complete else max(quantities), len(quantities))

    bids = side(-1, snapshot.bids, resting_bids, snapshot.has_bid_horizon)
    asks = side(1, snapshot.asks, resting_asks, snapshot.has_ask_horizon)
    sides = Sides(bids, asks, price_decimals, quantity_decimals)
    if sides.is_crossed:
        raise Unreadable("the best bid is not below the best ask")
    saturated_count = count_saturated([*bids.quantities.items(), *asks.quantities.items()])
    dropped_count = bids.cut() + asks.cut()
    bids.loaded_count, asks.loaded_count = len(bids.keys), len(asks.keys)
    return LoadedSides(sides, saturated_count, dropped_count)


def _resting(levels: list[list[str]]) -> list[tuple[list[str], ExactLevel]]:
    """Read all levels of a snapshot's side; return those with a quantity, as printed and as exact numbers."""
    return [(texts, exact) for texts, exact in zip(levels, read_levels(levels), strict=True) if exact[1].units]


def count_saturated(levels: list[Level]) -> int:
    """Return how many quantities are 2**63 - 1: this or more."""
    # 2**63 - 1 ends in a 7, and fits int64 only at its own decimals: so it is the same number at any scale.
    return [quantity for _, quantity in levels].count(INT64_MAX)


def compare_sides(ours: Sides, theirs: Sides) -> Comparison:
    """Compare by value, whatever the scales, inside the tighter of the two horizons of each side."""
    price_decimals = max(ours.price_decimals, theirs.price_decimals)
    quantity_decimals = max(ours.quantity_decimals, theirs.quantity_decimals)
    ours, theirs = (sides.rescaled(price_decimals, quantity_decimals) for sides in (ours, theirs))
    wrong_quantities = missing = extra = outside = 0
    for our_side, their_side in ((ours.bids, theirs.bids), (ours.asks, theirs.asks)):
        horizons = [side.horizon for side in (our_side, their_side) if side.horizon is not None]
        horizon = min(horizons, default=None)
        ours_inside, theirs_inside = (
            {key: quantity for key, quantity in side.quantities.items() if horizon is None or key <= horizon}
            for side in (our_side, their_side)
        )
        both = ours_inside.keys() & theirs_inside.keys()
        wrong_quantities += sum(ours_inside[key] != theirs_inside[key] for key in both)
        missing += len(theirs_inside) - len(both)
        extra += len(ours_inside) - len(both)
        outside += len(our_side.keys) + len(their_side.keys) - len(ours_inside) - len(theirs_inside)
    return Comparison(wrong_quantities, missing, extra, outside)


# --- units into Python numbers ---------------------------------------------------------------------------------------


def converter(number: type[Any], decimals: int) -> Callable[[int], Any]:
    """Return the function that makes units of so many decimals a float, a Decimal or a str."""
    if number is float:
        # Python divides integers with one correct rounding: the result is float(text), also above 2**53.
        divisor = POWERS_OF_TEN[decimals]
        return lambda units: units / divisor
    if number is str:
        return lambda units: _text(units, decimals)
    return lambda units: Decimal(_text(units, decimals))  # from a text a Decimal is exact in any context


def _text(units: int, decimals: int) -> str:
    if decimals == 0:
        return str(units)
    digits = str(units).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}"


def checked_threshold(value: float | Decimal | None) -> float | None:
    """Return a threshold volume as a float, or None. ``ValueError`` for NaN."""
    if value is None:
        return None
    if math.isnan(value):  # raises TypeError itself for what is no real number
        raise ValueError("threshold_volume must not be NaN")
    return float(value)


def count_worth(levels: list[Level], price_decimals: int, quantity_decimals: int, threshold: float) -> int:
    """Return how many levels, best first, are worth at most the threshold together; the first one always counts."""
    price_of, quantity_of = converter(float, price_decimals), converter(float, quantity_decimals)
    worth = 0.0
    for count, (price, quantity) in enumerate(levels):
        next_worth = worth + price_of(price) * quantity_of(quantity)
        if next_worth > threshold and worth != 0.0:
            return count
        worth = next_worth
    return len(levels)
