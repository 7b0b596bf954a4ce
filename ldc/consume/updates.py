"""What a consumer of updates gets: `BookUpdate`, and the three policies.

The levels of an item are decoded when they are read, in the number type of the stream, and kept. An item that nobody
looks into costs no level.
"""

from decimal import Decimal
from typing import Any, NamedTuple

from ldc.book import decode_levels, decode_price, decode_update, event_of

POLICIES = {"latest": 0, "changes": 1, "every": 2}
"""The number by which the books know each policy."""

UpdateNumberType = type[float] | type[Decimal] | type[str] | type[int]
"""The types of the prices and quantities of an item; int: units of 10**-decimals."""


def policy_number(policy: str) -> int:
    """Return the number of a policy; raise ``ValueError`` with the choices if there is no such policy."""
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(map(repr, POLICIES))}, not {policy!r}")
    return POLICIES[policy]


def checked_number(number: UpdateNumberType) -> UpdateNumberType:
    """Return a number type, or raise ``ValueError`` with the choices."""
    if number not in (float, Decimal, str, int):
        raise ValueError(f"number must be float, Decimal, str or int, not {number!r}")
    return number


class Source(NamedTuple):
    """Whose book an item is of, and how its numbers are read."""

    market: str
    """As the user spelt it."""
    exchange: str
    number: UpdateNumberType = float
    handle: Any = None
    """Whose item it is, where several consumers share a queue."""


class BookUpdate:
    """One item of a stream: what happened to the book of one market. Immutable.

    | kind | `is_lost` | `is_snapshot` | `bids`, `asks` | `first_update_id` |
    | --- | --- | --- | --- | --- |
    | an update, or coalesced ones | False | False | what has changed; quantity 0 removes | set |
    | a refresh or a deepening | False | False | what it has changed, at the same update id | None |
    | the first item, a return, or an overflow | False | True | the whole book | None |
    | the loss of the book | True | False | empty | None |

    A stream of the policy "latest" has no levels in its items: read the book.

    Levels past a horizon are levels too, as far as they are known. What is complete ends at `bid_horizon` and
    `ask_horizon`.
    """

    __slots__ = (
        "_asks",
        "_bids",
        "_horizons",
        "_message",
        "_source",
        "_units",
        "cause",
        "epoch",
        "event_time_ms",
        "first_update_id",
        "is_lost",
        "is_snapshot",
        "last_update_id",
        "missed",
        "price_decimals",
        "quantity_decimals",
        "received_time_ns",
        "transaction_time_ms",
    )

    is_lost: bool
    """Whether the book cannot be read as of this item; `cause` says why."""
    is_snapshot: bool
    """Whether it replaces everything before it."""
    cause: str | None
    """Of a loss. Of any other item: the book was lost since the last item and is back; why it was lost."""
    missed: int
    """Updates of this market, applied since the last item, that have no item of their own."""
    first_update_id: int | None
    """`U` of the first update that the item covers; None: it covers none."""
    last_update_id: int | None
    """The update id of the book as of this item. None: the book was never loaded."""
    event_time_ms: int | None
    """`E` of the message that brought the book there: the exchange's clock, Unix milliseconds."""
    transaction_time_ms: int | None
    """`T` of that message (futures), Unix milliseconds."""
    received_time_ns: int | None
    """When that message arrived: the local clock, Unix nanoseconds."""
    epoch: int
    """Grows whenever the book can be read again after it could not. As in `BookView`."""
    price_decimals: int
    """The unit of prices read as int is 10**-price_decimals."""
    quantity_decimals: int
    """The unit of quantities read as int is 10**-quantity_decimals."""

    def __init__(self, fields: tuple[Any, ...]) -> None:
        (
            self._source,
            self.is_lost,
            self.is_snapshot,
            self.cause,
            self.missed,
            self.first_update_id,
            self.last_update_id,
            self.event_time_ms,
            self.transaction_time_ms,
            self.received_time_ns,
            self.epoch,
            self.price_decimals,
            self.quantity_decimals,
            *horizons,
            self._message,
            bids,
            asks,
        ) = fields
        self._horizons = horizons
        self._units = bids, asks
        self._bids: list[tuple[Any, Any]] | None = None
        self._asks: list[tuple[Any, Any]] | None = None

    def __repr__(self) -> str:
        what = "loss" if self.is_lost else "snapshot" if self.is_snapshot else "update"
        why = "" if self.cause is None else f", {self.cause}"
        return f"<{what} of {self.market} at update id {self.last_update_id}, epoch {self.epoch}{why}>"

    @property
    def market(self) -> str:
        """As the user spelt it; at another exchange than the manager's own, "exchange:market"."""
        return self._source.market  # type: ignore[no-any-return]

    @property
    def exchange(self) -> str:
        """The exchange of the market."""
        return self._source.exchange  # type: ignore[no-any-return]

    @property
    def bids(self) -> list[tuple[Any, Any]]:
        """[(price, quantity)], best first, except of "every": as the exchange sent them. Quantity 0 removes."""
        if self._bids is None:
            self._decode()
        return self._bids  # type: ignore[return-value]

    @property
    def asks(self) -> list[tuple[Any, Any]]:
        """As `bids`."""
        if self._asks is None:
            self._decode()
        return self._asks  # type: ignore[return-value]

    def _decode(self) -> None:
        decimals, number = (self.price_decimals, self.quantity_decimals), self._source.number
        if self._message is not None:
            self._bids, self._asks = decode_update(self._message, *decimals, number)
            return
        bids, asks = self._units
        self._bids = [] if bids is None else decode_levels(bids, *decimals, number)
        self._asks = [] if asks is None else decode_levels(asks, *decimals, number)

    @property
    def bid_horizon(self) -> Any:
        """The lowest price to which the bids are complete; None: complete at every price."""
        return decode_price(self._horizons[0], self.price_decimals, self._source.number)

    @property
    def ask_horizon(self) -> Any:
        """The highest price to which the asks are complete; None: complete at every price."""
        return decode_price(self._horizons[1], self.price_decimals, self._source.number)

    @property
    def payload(self) -> bytes | None:
        """The event as received, byte for byte, without the wrapper that names its stream. Only of "every".

        None of an item that is no single update: a snapshot, a refresh, a loss.
        """
        return None if self._message is None else event_of(self._message)
