"""The analytics of a book in whole numbers: what the compiled book computes in C, written so that it can be read.

Rule 1: integers until the end. A price is ``units / 10**decimals``. A sum is exact. A result is rounded once: a float
        to the nearest, a quotient as a Decimal to `QUOTIENT_DIGITS` digits, in no thread's context.
Rule 2: what lies past the horizon is never guessed. The result says that it is not complete, or `PastHorizon` is
        raised.
Rule 3: nothing here knows a book, a lock or a thread. A side is its levels inside the horizon, best first.

The two books and `BookView` finish their results by the same functions (`finish_fill`, `finish_prices`, ...), so that
they cannot differ in the last digit.
"""

import numbers
import operator
import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal
from typing import Any, NamedTuple

from ldc.types import Depth, Fill, Prices

QUOTIENT_DIGITS = 28
"""Significant digits of a quotient as a Decimal; the last one is rounded half to even."""
ARGUMENT_DIGITS_MAX = 400
"""Digits of an argument before the point, and after it. More are a ``ValueError``; every float has fewer."""
BPS_DECIMALS = 4
"""A basis point is 10**-4."""

SIDES = ("bids", "asks")

_QUOTIENTS = Context(QUOTIENT_DIGITS, ROUND_HALF_EVEN, MIN_EMIN, MAX_EMAX, 1, 0, [], [])
_NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?")


class PastHorizon(Exception):
    """The answer needs what lies past the horizon of this side."""

    def __init__(self, side: str) -> None:
        self.side = side
        super().__init__(side)


# --- arguments --------------------------------------------------------------------------------------------------------


class Exact(NamedTuple):
    """An exact number: ``units / 10**decimals``, without zeros at its end."""

    units: int
    decimals: int

    def at(self, decimals: int) -> int:
        """Return it in units of so many decimals, which are not fewer than its own."""
        return int(self.units * 10 ** (decimals - self.decimals))

    def is_nearer(self, other: "Exact", sign: int) -> bool:
        """Whether it is a better price than another: lower for the sign 1, higher for -1."""
        decimals = max(self.decimals, other.decimals)
        return sign * self.at(decimals) < sign * other.at(decimals)


def read(number: object) -> Exact:
    """Return the exact value of a number of a view: a float, a Decimal or the text of one."""
    return exact(Decimal(number) if isinstance(number, str) else number, "a number of a view")


def exact(value: object, name: str) -> Exact:
    """Return the exact value of an int, a float (of its repr) or a Decimal; `name` is the argument's, for errors."""
    if isinstance(value, float):
        text = float.__repr__(value)
    elif isinstance(value, Decimal):
        text = str(value)
    elif hasattr(value, "__index__"):
        return Exact(operator.index(value), 0)
    elif isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        text = str(value)  # a float of numpy: the shortest text that means it
    else:
        raise TypeError(f"{name} must be an int, a float or a Decimal, not {type(value).__name__}")
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ValueError(f"{name} must be a finite number, not {value}")
    sign, whole, fraction, exponent = found[1], found[2], found[3] or "", int(found[4] or 0)
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return Exact(0, 0)
    decimals = len(fraction) - exponent - (len(digits) - len(stripped))
    if decimals > ARGUMENT_DIGITS_MAX or len(stripped) - decimals > ARGUMENT_DIGITS_MAX:
        raise ValueError(f"{name} must have at most {ARGUMENT_DIGITS_MAX} digits before and after the point")
    units = int(sign + stripped)
    return Exact(units, decimals) if decimals >= 0 else Exact(units * 10**-decimals, 0)


def positive(value: object, name: str) -> Exact:
    """Return the exact value of an argument that must be above 0."""
    found = exact(value, name)
    if found.units <= 0:
        raise ValueError(f"{name} must be above 0, and is {value}")
    return found


def order_of(quantity: object, notional: object) -> Exact:
    """Return the size of an order, of which exactly one of both is given."""
    return positive(quantity, "quantity") if notional is None else positive(notional, "notional")


def price_bound(value: object) -> Exact:
    """Return the exact value of `to_price`, which must not be negative."""
    found = exact(value, "to_price")
    if found.units < 0:
        raise ValueError(f"to_price must not be negative, and is {value}")
    return found


def check_side(side: object) -> None:
    """Raise ``ValueError`` for what is neither "bids" nor "asks"."""
    if side not in SIDES:
        raise ValueError(f'side must be "bids" or "asks", not {side!r}')


def check_number(number: object) -> None:
    """Raise ``ValueError`` for what is none of the types that numbers are read as."""
    if not (number is float or number is Decimal or number is str):
        raise ValueError(f"number must be float, Decimal or str, not {number!r}")


def one_of(method: str, **arguments: object) -> None:
    """Raise ``TypeError`` unless exactly one of these arguments is not None."""
    if sum(value is not None for value in arguments.values()) != 1:
        raise TypeError(f"{method} takes exactly one of {' and '.join(arguments)}")


def index(value: object, name: str) -> int:
    """Return a whole number, of Python or of numpy, as an int."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return operator.index(value)


def whole(value: object, name: str) -> int | None:
    """Return a whole number as an int; None stays None."""
    if value is not None and not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int or None, not {type(value).__name__}")
    return None if value is None else operator.index(value)


def count_of(value: object, name: str, least: int) -> int | None:
    """Return a number of levels or groups, or None: all."""
    count = whole(value, name)
    if count is not None and count < least:
        what = "must not be negative" if least == 0 else f"must be at least {least}"
        raise ValueError(f"{name} {what}, and is {count}")
    return count


# --- numbers ----------------------------------------------------------------------------------------------------------


def sum_as(units: int, decimals: int, number: type[Any]) -> Any:
    """Return ``units / 10**decimals``: exactly, or as the nearest float."""
    if number is float:
        return units / 10**decimals  # Python divides whole numbers with one rounding
    exactly = Decimal(f"{units}E-{decimals}")
    return exactly if number is Decimal else format(exactly, "f")


def quotient_as(numerator: int, denominator: int, number: type[Any]) -> Any:
    """Return a quotient, rounded once."""
    if number is float:
        return numerator / denominator
    rounded = _QUOTIENTS.copy().divide(Decimal(numerator), Decimal(denominator))
    return rounded if number is Decimal else format(rounded, "f")


# --- sides ------------------------------------------------------------------------------------------------------------


class KnownSide(NamedTuple):
    """The levels of a side inside its horizon."""

    name: str
    levels: Sequence[tuple[int, int]]
    """Price and quantity in units, best first."""
    horizon: int | None
    """The price, in units, to which the side is complete; None: at every price."""

    @property
    def is_bids(self) -> bool:
        """Whether higher prices are better."""
        return self.name == "bids"


class KnownBook(NamedTuple):
    """Both sides of a book, and its scales."""

    bids: KnownSide
    asks: KnownSide
    price_decimals: int
    quantity_decimals: int

    def side(self, name: str) -> KnownSide:
        """Return one side."""
        return self.bids if name == "bids" else self.asks


# --- the best of both sides -------------------------------------------------------------------------------------------


def prices(book: KnownBook, number: type[Any]) -> Prices[Any] | None:
    """Return mid, spread and micro-price, or None while a side is empty."""
    if not book.bids.levels or not book.asks.levels:
        return None
    return finish_prices(*book.bids.levels[0], *book.asks.levels[0], book.price_decimals, number)


def finish_prices(
    bid: int, bid_size: int, ask: int, ask_size: int, price_decimals: int, number: type[Any]
) -> Prices[Any]:
    """Return the prices between the best bid and the best ask."""
    return Prices(
        sum_as(5 * (bid + ask), price_decimals + 1, number),
        sum_as(ask - bid, price_decimals, number),
        quotient_as(bid * ask_size + ask * bid_size, (bid_size + ask_size) * 10**price_decimals, number),
    )


# --- taking from a side -----------------------------------------------------------------------------------------------


class Take(NamedTuple):
    """What an order takes from a side: whole levels, and a part of one more. In units of the book."""

    quantity: int
    """Of the whole levels."""
    notional: int
    """Of the whole levels, at the decimals of price and quantity together."""
    levels: int
    """Whole levels, and the one that is taken in part."""
    worst_price: int | None
    """Of all of them; None: there is no level."""
    is_partial: bool
    """Whether the last one is taken in part."""
    is_complete: bool
    """Whether there is enough."""


def take(side: KnownSide, amount: Exact, decimals: int, *, by_notional: bool) -> Take:
    """Take from the best level on until a quantity or notional is reached; `decimals` are those of the book for it."""
    # Compared at the finer of the two scales, where both are whole numbers.
    factor = 10 ** max(0, amount.decimals - decimals)
    left = amount.units * 10 ** max(0, decimals - amount.decimals)
    quantity = notional = 0
    worst_price = None
    for count, (price, level_quantity) in enumerate(side.levels, 1):
        worst_price = price
        size = price * level_quantity if by_notional else level_quantity
        if size * factor > left:
            return Take(quantity, notional, count, price, is_partial=True, is_complete=True)
        left -= size * factor
        quantity += level_quantity
        notional += price * level_quantity
        if left == 0:
            return Take(quantity, notional, count, price, is_partial=False, is_complete=True)
    return Take(quantity, notional, len(side.levels), worst_price, is_partial=False, is_complete=False)


def fill(book: KnownBook, side: str, amount: Exact, *, by_notional: bool, number: type[Any]) -> Fill[Any]:
    """Return what an order gets that takes this quantity or notional from a side."""
    decimals = book.quantity_decimals + (book.price_decimals if by_notional else 0)
    taken = take(book.side(side), amount, decimals, by_notional=by_notional)
    return finish_fill(taken, amount, by_notional, book.price_decimals, book.quantity_decimals, number)


def finish_fill(
    taken: Take, amount: Exact, by_notional: bool, price_decimals: int, quantity_decimals: int, number: type[Any]
) -> Fill[Any]:
    """Return a `Fill` from what was taken; the part of the last level is what the whole ones leave of the amount."""
    quantity, notional, levels, price, is_partial, is_complete = taken
    decimals, notional_decimals = quantity_decimals, price_decimals + quantity_decimals
    worst_price = None if price is None else sum_as(price, price_decimals, number)
    if is_partial:
        assert price is not None
        finer = max(0, amount.decimals - (notional_decimals if by_notional else quantity_decimals))
        quantity, notional = quantity * 10**finer, notional * 10**finer
        decimals, notional_decimals = decimals + finer, notional_decimals + finer
        if by_notional:
            # quantity + part / price, in one fraction.
            part = amount.units * 10 ** (notional_decimals - amount.decimals) - notional
            notional += part
            numerator = quantity * price + part
            return Fill(
                quotient_as(numerator, price * 10**decimals, number),
                sum_as(notional, notional_decimals, number),
                quotient_as(notional * price, numerator * 10**price_decimals, number),
                worst_price,
                levels,
                is_complete,
            )
        part = amount.units * 10 ** (decimals - amount.decimals) - quantity
        quantity, notional = quantity + part, notional + price * part
    return Fill(
        sum_as(quantity, decimals, number),
        sum_as(notional, notional_decimals, number),
        quotient_as(notional, quantity * 10**price_decimals, number) if quantity else None,
        worst_price,
        levels,
        is_complete,
    )


def price_at(book: KnownBook, side: str, amount: Exact, *, by_notional: bool, number: type[Any]) -> Any:
    """Return the worst price that this quantity or notional needs, or None: a complete side has not enough."""
    known = book.side(side)
    decimals = book.quantity_decimals + (book.price_decimals if by_notional else 0)
    taken = take(known, amount, decimals, by_notional=by_notional)
    if taken.is_complete:
        assert taken.worst_price is not None
        return sum_as(taken.worst_price, book.price_decimals, number)
    if known.horizon is not None:
        raise PastHorizon(side)
    return None


# --- up to a price ----------------------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """A price as a fraction of units: ``limit / factor``."""

    limit: int
    factor: int


def bound_at(price: Exact, price_decimals: int) -> Bound:
    """Return a price as a bound."""
    return Bound(price.units * 10**price_decimals, 10**price.decimals)


def bound_from_mid(book: KnownBook, side: str, bps: Exact) -> Bound | None:
    """Return the price so many basis points behind mid, or None while a side is empty."""
    if not book.bids.levels or not book.asks.levels:
        return None
    one = 10 ** (BPS_DECIMALS + bps.decimals)
    share = one - bps.units if side == "bids" else one + bps.units
    return Bound((book.bids.levels[0][0] + book.asks.levels[0][0]) * share, 2 * one)


class Total(NamedTuple):
    """The levels of a side up to a bound, in units of the book."""

    quantity: int
    notional: int
    levels: int
    is_complete: bool


def total_to(side: KnownSide, bound: Bound) -> Total:
    """Sum up the levels up to a price, inclusive."""
    quantity = notional = count = 0
    sign = -1 if side.is_bids else 1
    limit, factor = sign * bound.limit, sign * bound.factor
    for price, level_quantity in side.levels:
        if price * factor > limit:
            break
        quantity += level_quantity
        notional += price * level_quantity
        count += 1
    return Total(quantity, notional, count, side.horizon is None or side.horizon * factor >= limit)


def depth(
    book: KnownBook, side: str, to_price: Exact | None, bps: Exact | None, number: type[Any]
) -> Depth[Any] | None:
    """Return what rests up to a price, or up to so many basis points from mid; None while there is no mid."""
    bound = bound_at(to_price, book.price_decimals) if to_price is not None else None
    if bps is not None:
        bound = bound_from_mid(book, side, bps)
    if bound is None:
        return None
    return finish_depth(total_to(book.side(side), bound), book.price_decimals, book.quantity_decimals, number)


def finish_depth(total: Total, price_decimals: int, quantity_decimals: int, number: type[Any]) -> Depth[Any]:
    """Return a `Depth` of sums in units."""
    return Depth(
        sum_as(total.quantity, quantity_decimals, number),
        sum_as(total.notional, price_decimals + quantity_decimals, number),
        total.levels,
        total.is_complete,
    )


def imbalance(book: KnownBook, levels: int | None, bps: Exact | None, number: type[Any]) -> Any:
    """Return (bids - asks) / (bids + asks) of the best levels, or of those within so many basis points from mid."""
    sums = []
    for side in (book.bids, book.asks):
        if bps is not None:
            bound = bound_from_mid(book, side.name, bps)
            if bound is None:
                return None
            total = total_to(side, bound)
            if not total.is_complete:
                raise PastHorizon(side.name)
            sums.append(total.quantity)
        else:
            assert levels is not None
            if len(side.levels) < levels and side.horizon is not None:
                raise PastHorizon(side.name)
            sums.append(sum(quantity for _, quantity in side.levels[:levels]))
    return finish_imbalance(sums[0], sums[1], number)


def finish_imbalance(bids: int, asks: int, number: type[Any]) -> Any:
    """Return the imbalance of two sums, or None: nothing is there."""
    return quotient_as(bids - asks, bids + asks, number) if bids + asks else None


# --- groups -----------------------------------------------------------------------------------------------------------


def grouped(
    book: KnownBook, side: str, step: Exact, limit: int | None, number: type[Any]
) -> tuple[tuple[Any, Any], ...]:
    """Return (price, quantity) of groups whose prices are multiples of a step: bids round down, asks up."""
    known = book.side(side)
    finer = max(0, step.decimals - book.price_decimals)
    decimals, factor = book.price_decimals + finer, 10**finer
    width = step.units * 10 ** (decimals - step.decimals)
    groups: list[list[int]] = []
    for price, quantity in known.levels:
        fine_price = price * factor
        edge = fine_price // width * width if known.is_bids else -(-fine_price // width) * width
        if groups and groups[-1][0] == edge:
            groups[-1][1] += quantity
            continue
        if limit is not None and len(groups) >= limit:
            break
        if known.horizon is not None:
            # A group is whole if its far edge is not past the horizon.
            end = known.horizon * factor
            if edge < end if known.is_bids else edge > end:
                break
        groups.append([edge, quantity])
    return tuple(
        (sum_as(edge, decimals, number), sum_as(quantity, book.quantity_decimals, number)) for edge, quantity in groups
    )
