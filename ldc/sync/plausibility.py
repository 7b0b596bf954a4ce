"""Whether two books, or a book and some updates, can be of one market by their prices.

Rule 1: nothing here decides what becomes of a snapshot with implausible prices. `ldc.sync.numbering` refuses a first
        snapshot for them, `ldc.sync.refresh` one of a refresh.
Rule 2: what is unknown is plausible. A price held past a horizon is not known to be the best one.
"""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from ldc.errors import MalformedMessage
from ldc.sync.buffer import Update

if TYPE_CHECKING:
    from ldc.book import OrderBook

PRICE_FACTOR_MAX = 2.0
"""Two prices further apart than by this factor can hardly be of one market."""

PRICED_UPDATES_MAX = 100
"""Updates whose prices are compared with a snapshot's. The rest would say the same."""


def middle_price(book: "OrderBook") -> float | None:
    """Return the middle of the best prices known, or the only one, or None. The book must not be suspended."""
    bests = [best for best in _best_prices(book) if best is not None]
    return sum(bests) / len(bests) if bests else None


def are_prices_far_apart(one: float | None, other: float | None) -> bool:
    """Return whether two prices can hardly be of one market. An unknown price is not far from any."""
    if not one or not other:
        return False
    return max(one, other) > PRICE_FACTOR_MAX * min(one, other)


def are_sides_far_apart(one: "OrderBook", other: "OrderBook") -> bool:
    """Return whether the best prices that both books know are far apart: on the one side, or on both sides."""
    bests = [pair for pair in zip(_best_prices(one), _best_prices(other), strict=True) if None not in pair]
    return bool(bests) and all(are_prices_far_apart(*pair) for pair in bests)


def is_far_from_updates(book: "OrderBook", updates: "Iterable[Update]", empty: "OrderBook") -> bool:
    """Return whether the updates that are to continue a book have prices of another market.

    `empty` is an empty book, which is loaded with the levels of at most `PRICED_UPDATES_MAX` updates. Both its best
    prices must be far from the book's middle: one side alone, or one of two, may be a level far out that changed.
    """
    middle = middle_price(book)
    is_loaded = False
    for update in islice(updates, PRICED_UPDATES_MAX):
        if not is_loaded:
            empty.load_snapshot(b'{"lastUpdateId":%d,"bids":[],"asks":[]}' % max(update.start, 1))
            is_loaded = True
        try:
            empty.apply(update.payload)
        except MalformedMessage:
            continue
    if not is_loaded or not empty.bid_count or not empty.ask_count:
        return False
    view = empty.held_levels(1)
    return all(are_prices_far_apart(middle, float(side[0][0])) for side in (view.bids, view.asks))


def _best_prices(book: "OrderBook") -> tuple[float | None, float | None]:
    """Return the best bid and ask that are known.

    A best price past its side's horizon is not: it may be a level far out. If the two cross by far, one of them is
    wrong; which one is unknown, so neither counts.
    """
    view: Any = book.held_levels(1)
    bid, ask = (float(side[0][0]) if side else None for side in (view.bids, view.asks))
    if bid is not None and ask is not None and bid > ask and are_prices_far_apart(bid, ask):
        return None, None
    return (
        bid if bid is not None and (view.bid_horizon is None or bid >= view.bid_horizon) else None,
        ask if ask is not None and (view.ask_horizon is None or ask <= view.ask_horizon) else None,
    )
