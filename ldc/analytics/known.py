"""The analytics of whatever knows its levels: a book in plain Python, and both readers of shared memory."""

from typing import Any, SupportsIndex

from ldc.analytics import exact
from ldc.analytics.exact import KnownBook, PastHorizon
from ldc.errors import DepthCacheError
from ldc.types import Amount, Depth, Fill, NumberType, Prices, Side


class KnownReads:
    """Exact answers inside the horizon; `ldc.analytics.exact` computes them."""

    __slots__ = ()

    def _known(self, *names: str, limit: int | None = None) -> KnownBook:
        """Return the levels of these sides inside their horizons, of one update id. Raises as a read."""
        raise NotImplementedError

    def _needs_more(self, book: KnownBook, name: str) -> DepthCacheError:
        """Return the error for a question that needs what lies past the horizon of a side."""
        raise NotImplementedError

    @property
    def mid(self) -> float | None:
        """(best bid + best ask) / 2, or None while a complete side is empty."""
        found = self.prices()
        return None if found is None else found.mid

    @property
    def spread(self) -> float | None:
        """Best ask - best bid, or None while a complete side is empty."""
        found = self.prices()
        return None if found is None else found.spread

    @property
    def micro_price(self) -> float | None:
        """The mean of both best prices, each weighed by the quantity at the other; None as `mid`."""
        found = self.prices()
        return None if found is None else found.micro_price

    def prices(self, *, number: NumberType = float) -> Prices[Any] | None:
        """Return mid, spread and micro-price, or None while a complete side is empty."""
        exact.check_number(number)
        return exact.prices(self._known("bids", "asks", limit=1), number)

    def imbalance(
        self, *, levels: SupportsIndex | None = None, bps: Amount | None = None, number: NumberType = float
    ) -> Any:
        """Return (bids - asks) / (bids + asks) of quantities: of the best levels, or of a range around mid."""
        exact.one_of("imbalance", levels=levels, bps=bps)
        count = exact.count_of(levels, "levels", 1)
        distance = exact.positive(bps, "bps") if bps is not None else None
        exact.check_number(number)
        book = self._known("bids", "asks")
        try:
            return exact.imbalance(book, count, distance, number)
        except PastHorizon as past:
            needed = past.side
        raise self._needs_more(book, needed)

    def fill(
        self, side: Side, *, quantity: Amount | None = None, notional: Amount | None = None, number: NumberType = float
    ) -> Fill[Any]:
        """Return what an order gets that takes a quantity, or the worth of a notional, from a side."""
        exact.one_of("fill", quantity=quantity, notional=notional)
        exact.check_side(side)
        amount = exact.order_of(quantity, notional)
        exact.check_number(number)
        return exact.fill(self._known(side), side, amount, by_notional=quantity is None, number=number)

    def price_at(
        self, side: Side, *, quantity: Amount | None = None, notional: Amount | None = None, number: NumberType = float
    ) -> Any:
        """Return the worst price that a `fill` needs, or None: the side is complete and has not enough."""
        exact.one_of("price_at", quantity=quantity, notional=notional)
        exact.check_side(side)
        amount = exact.order_of(quantity, notional)
        exact.check_number(number)
        book = self._known(side)
        try:
            return exact.price_at(book, side, amount, by_notional=quantity is None, number=number)
        except PastHorizon:
            pass
        raise self._needs_more(book, side)

    def depth(
        self, side: Side, *, to_price: Amount | None = None, bps: Amount | None = None, number: NumberType = float
    ) -> Depth[Any] | None:
        """Return what rests on a side up to a price, or up to so many basis points from mid."""
        exact.one_of("depth", to_price=to_price, bps=bps)
        exact.check_side(side)
        bound = exact.price_bound(to_price) if to_price is not None else None
        distance = exact.positive(bps, "bps") if bps is not None else None
        exact.check_number(number)
        book = self._known(side) if bps is None else self._known("bids", "asks")
        return exact.depth(book, side, bound, distance, number)

    def grouped(
        self, side: Side, step: Amount, limit: SupportsIndex | None = None, *, number: NumberType = float
    ) -> tuple[tuple[Any, Any], ...]:
        """Return (price, quantity) of groups at multiples of a step, best first: bids round down, asks up."""
        exact.check_side(side)
        width = exact.positive(step, "step")
        count = exact.count_of(limit, "limit", 0)
        exact.check_number(number)
        return exact.grouped(self._known(side), side, width, count, number)
