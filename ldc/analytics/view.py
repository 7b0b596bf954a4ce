"""A book at one moment, as an immutable value that computes the same as the book itself."""

from decimal import Decimal
from typing import Any, Generic, NamedTuple, SupportsIndex, TypeVar, overload

from ldc.analytics import exact
from ldc.analytics.arrow import LevelTable, table_of
from ldc.analytics.exact import Exact, KnownBook, KnownSide, PastHorizon
from ldc.errors import DepthCacheError, refused_for_more, refused_past_horizon
from ldc.types import Amount, Cause, Depth, Fill, N, Prices, Side

M = TypeVar("M", bound=float | Decimal | str)
"""The type that the caller names with `number`."""


class BookView(NamedTuple, Generic[N]):
    """Both sides of a book, read atomically: all fields belong to the same update id.

    Its analytics (`mid`, `fill`, `depth`, ...) are those of `OrderBook`, in plain Python, from the numbers of the view:
    a float means its repr. Their results have the number type of the view, unless `number` names another. Where
    `limit` left levels out, the last one of the view is a horizon for them.
    """

    bids: tuple[tuple[N, N], ...]
    """(price, quantity), best (highest) first."""
    asks: tuple[tuple[N, N], ...]
    """(price, quantity), best (lowest) first."""
    last_update_id: int
    """The exchange's update id of the book."""
    event_time_ms: int | None
    """`E` of the book's last message: the exchange's clock, Unix milliseconds; None if it had none."""
    transaction_time_ms: int | None
    """`T` of that message (futures): the matching engine's time, Unix milliseconds; None if it had none."""
    received_time_ns: int | None
    """When that message arrived, as the caller passed it; in depth caches the local clock, Unix nanoseconds."""
    bid_horizon: N | None
    """The lowest price to which the bids are complete; None: complete at every price."""
    ask_horizon: N | None
    """The highest price to which the asks are complete; None: complete at every price."""
    bids_truncated: bool = False
    """Whether `limit` left out bids that the read would have returned without it."""
    asks_truncated: bool = False
    """Whether `limit` left out asks that the read would have returned without it."""
    number: type[N] = float  # type: ignore[assignment]  # of a view that is made by hand
    """The type of its prices and quantities: float, Decimal or str."""

    @property
    def mid(self) -> N | None:
        """(best bid + best ask) / 2, or None while a complete side is empty. Raises as `fill`."""
        found = self._prices(self.number)
        return None if found is None else found.mid

    @property
    def spread(self) -> N | None:
        """Best ask - best bid, or None while a complete side is empty. Raises as `fill`."""
        found = self._prices(self.number)
        return None if found is None else found.spread

    @property
    def micro_price(self) -> N | None:
        """The mean of both best prices, each weighed by the quantity at the other; None as `mid`. Raises as `fill`."""
        found = self._prices(self.number)
        return None if found is None else found.micro_price

    @overload
    def prices(self, *, number: None = None) -> Prices[N] | None: ...
    @overload
    def prices(self, *, number: type[M]) -> Prices[M] | None: ...
    def prices(self, *, number: type[Any] | None = None) -> Prices[Any] | None:
        """Return mid, spread and micro-price, or None while a complete side is empty. Raises as `fill`."""
        return self._prices(self._type(number))

    @overload
    def imbalance(
        self, *, levels: SupportsIndex | None = None, bps: Amount | None = None, number: None = None
    ) -> N | None: ...
    @overload
    def imbalance(
        self, *, levels: SupportsIndex | None = None, bps: Amount | None = None, number: type[M]
    ) -> M | None: ...
    def imbalance(
        self, *, levels: SupportsIndex | None = None, bps: Amount | None = None, number: type[Any] | None = None
    ) -> Any:
        """Return (bids - asks) / (bids + asks) of quantities, from -1 to 1; None: there is nothing to compare.

        Args:
            levels: of so many best levels a side; a complete side may have fewer.
            bps: of all levels within so many basis points from mid; None is returned while a side is empty.
            number: the type of the result; None: that of the view.

        Raises as `fill`, and where it needs levels that the view does not know.
        """
        exact.one_of("imbalance", levels=levels, bps=bps)
        count = exact.count_of(levels, "levels", 1)
        distance = exact.positive(bps, "bps") if bps is not None else None
        as_type = self._type(number)
        book = self._known("bids", "asks", limit=count)
        try:
            return exact.imbalance(book, count, distance, as_type)
        except PastHorizon as past:
            needed = past.side
        raise self._needs_more(needed)

    @overload
    def fill(
        self, side: Side, *, quantity: Amount | None = None, notional: Amount | None = None, number: None = None
    ) -> Fill[N]: ...
    @overload
    def fill(
        self, side: Side, *, quantity: Amount | None = None, notional: Amount | None = None, number: type[M]
    ) -> Fill[M]: ...
    def fill(
        self,
        side: Side,
        *,
        quantity: Amount | None = None,
        notional: Amount | None = None,
        number: type[Any] | None = None,
    ) -> Fill[Any]:
        """Return what an order gets that takes a quantity, or the worth of a notional, from a side: a `Fill`.

        Args:
            side: "asks" for one that buys, "bids" for one that sells.
            quantity, notional: exactly one of them, above 0. A float means its repr.
            number: the type of the result; None: that of the view.

        Raises:
            DepthCacheOutOfSync: LEFT_HORIZON: the view has no level inside the horizon of that side.
        """
        exact.one_of("fill", quantity=quantity, notional=notional)
        exact.check_side(side)
        amount = exact.order_of(quantity, notional)
        as_type = self._type(number)
        return exact.fill(self._known(side), side, amount, by_notional=quantity is None, number=as_type)

    @overload
    def price_at(
        self, side: Side, *, quantity: Amount | None = None, notional: Amount | None = None, number: None = None
    ) -> N | None: ...
    @overload
    def price_at(
        self, side: Side, *, quantity: Amount | None = None, notional: Amount | None = None, number: type[M]
    ) -> M | None: ...
    def price_at(
        self,
        side: Side,
        *,
        quantity: Amount | None = None,
        notional: Amount | None = None,
        number: type[Any] | None = None,
    ) -> Any:
        """Return the worst price that a `fill` needs, or None: the side is complete and has not enough.

        Raises as `fill`, and where a level past the horizon might be needed.
        """
        exact.one_of("price_at", quantity=quantity, notional=notional)
        exact.check_side(side)
        amount = exact.order_of(quantity, notional)
        as_type = self._type(number)
        try:
            return exact.price_at(self._known(side), side, amount, by_notional=quantity is None, number=as_type)
        except PastHorizon:
            pass
        raise self._needs_more(side)

    @overload
    def depth(self, side: Side, *, to_price: Amount, number: None = None) -> Depth[N]: ...
    @overload
    def depth(self, side: Side, *, to_price: Amount, number: type[M]) -> Depth[M]: ...
    @overload
    def depth(self, side: Side, *, bps: Amount, number: None = None) -> Depth[N] | None: ...
    @overload
    def depth(self, side: Side, *, bps: Amount, number: type[M]) -> Depth[M] | None: ...
    def depth(
        self,
        side: Side,
        *,
        to_price: Amount | None = None,
        bps: Amount | None = None,
        number: type[Any] | None = None,
    ) -> Any:
        """Return what rests on a side up to a price, or up to so many basis points from mid: a `Depth`.

        With `bps` it is None while a complete side is empty: there is no mid. Raises as `fill`.
        """
        exact.one_of("depth", to_price=to_price, bps=bps)
        exact.check_side(side)
        bound = exact.price_bound(to_price) if to_price is not None else None
        distance = exact.positive(bps, "bps") if bps is not None else None
        as_type = self._type(number)
        book = self._known(side) if bps is None else self._known("bids", "asks")
        return exact.depth(book, side, bound, distance, as_type)

    @overload
    def grouped(
        self, side: Side, step: Amount, limit: SupportsIndex | None = None, *, number: None = None
    ) -> tuple[tuple[N, N], ...]: ...
    @overload
    def grouped(
        self, side: Side, step: Amount, limit: SupportsIndex | None = None, *, number: type[M]
    ) -> tuple[tuple[M, M], ...]: ...
    def grouped(
        self, side: Side, step: Amount, limit: SupportsIndex | None = None, *, number: type[Any] | None = None
    ) -> tuple[tuple[Any, Any], ...]:
        """Return (price, quantity) of groups at multiples of a step, best first: bids round down, asks up.

        A group that the horizon cuts is left out. Raises as `fill`.
        """
        exact.check_side(side)
        width = exact.positive(step, "step")
        count = exact.count_of(limit, "limit", 0)
        as_type = self._type(number)
        return exact.grouped(self._known(side), side, width, count, as_type)

    def to_arrow(self) -> LevelTable:
        """Return its levels as a table for Arrow, bids first: the columns `side`, `price` and `quantity`.

        The result has the methods of the Arrow PyCapsule interface, so that ``pyarrow.table``, ``polars.DataFrame``,
        ``pandas.DataFrame.from_arrow`` and duckdb take it. `side` is "bids" or "asks". Numbers are float64, decimal128
        (a view of Decimal; its digits must fit 38) or utf8. Ids, times and horizons are the metadata of its schema.

        Cost: O(levels), in plain Python.
        """
        return table_of(self)

    # inside

    def _type(self, number: type[Any] | None) -> type[Any]:
        if number is None:
            return self.number
        exact.check_number(number)
        return number

    def _prices(self, number: type[Any]) -> Prices[Any] | None:
        return exact.prices(self._known("bids", "asks", limit=1), number)

    def _known(self, *names: str, limit: int | None = None) -> KnownBook:
        """Return the levels of these sides, at common scales; raise if there is none inside a horizon.

        `limit`: so many levels a side are enough.
        """
        sides = {name: self._known_side(name, limit) for name in names}
        prices = [price for levels, _ in sides.values() for price, _ in levels]
        prices += [end for _, end in sides.values() if end is not None]
        sizes = [size for levels, _ in sides.values() for _, size in levels]
        price_decimals = max((price.decimals for price in prices), default=0)
        quantity_decimals = max((size.decimals for size in sizes), default=0)

        def side(name: str) -> KnownSide:
            levels, end = sides.get(name, ([], None))
            units = [(price.at(price_decimals), size.at(quantity_decimals)) for price, size in levels]
            return KnownSide(name, units, None if end is None else end.at(price_decimals))

        return KnownBook(side("bids"), side("asks"), price_decimals, quantity_decimals)

    def _known_side(self, name: str, limit: int | None) -> tuple[list[tuple[Exact, Exact]], Exact | None]:
        """Return the levels of a side inside its horizon, and the price to which it is complete (None: at any)."""
        if name == "bids":
            held, printed_end, is_cut, sign = self.bids, self.bid_horizon, self.bids_truncated, -1
        else:
            held, printed_end, is_cut, sign = self.asks, self.ask_horizon, self.asks_truncated, 1
        if is_cut and not held:
            raise refused_for_more(None, Cause.LEFT_HORIZON, self.last_update_id, name, "a view of none")
        levels = [(exact.read(price), exact.read(size)) for price, size in held[:limit]]
        horizon = None if printed_end is None else exact.read(printed_end)
        end = horizon
        if levels and (is_cut or len(levels) < len(held)):
            last = levels[-1][0]
            end = last if horizon is None or last.is_nearer(horizon, sign) else horizon
        if end is not None:
            levels = [level for level in levels if not end.is_nearer(level[0], sign)]
            if not levels:
                raise refused_past_horizon(None, Cause.LEFT_HORIZON, self.last_update_id, name, printed_end)
        return levels, end

    def _needs_more(self, name: str) -> DepthCacheError:
        _, end = self._known_side(name, None)
        assert end is not None
        at = exact.sum_as(end.units, end.decimals, self.number)
        return refused_for_more(None, Cause.LEFT_HORIZON, self.last_update_id, name, at)
