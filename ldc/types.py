"""Values that the packages share: enums and immutable records, without logic.

Prices and quantities have the ``number`` type that the read requested. Times are the exchange's, in its unit:
milliseconds, unless the stream was requested in microseconds. Only ``received_time_ns`` is of the local clock. A field
that the message did not have is None.

Records are named tuples, because the compiled book creates them in a tenth of the time of a frozen dataclass.
"""

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Generic, Literal, NamedTuple, SupportsIndex, TypeVar

Message = bytes | bytearray | memoryview | str
"""A message: its bytes, or their text as UTF-8."""
Number = float | Decimal | str
NumberType = type[float] | type[Decimal] | type[str]
"""The types that prices and quantities may be read as."""
N = TypeVar("N", bound=float | Decimal | str)
"""The type that prices and quantities were read as."""
A = TypeVar("A")
"""The type of an array."""
Amount = float | Decimal | SupportsIndex
"""A quantity, a notional, a price, a step: an exact number. A float means its repr."""
Side = Literal["bids", "asks"]
MarketName = str | tuple[str, str]
"""What a manager calls a market: "BTCUSDT" of its own exchange; of another one ("binance.com-futures", "BTCUSDT") or
"binance.com-futures:BTCUSDT"."""


class Verdict(enum.IntEnum):
    """The result of a depth update. Only APPLIED changes the book."""

    APPLIED = 0
    """It continues the book, and all its levels are applied. An overlap with earlier updates is harmless."""
    STALE = 1
    """The book is already at or past its last update id; the update was ignored."""
    GAP = 2
    """Updates between the book and this one are missing; it was not applied, and the book is unchanged."""


class SyncState(enum.StrEnum):
    """The state of one market's local copy. Only a SYNCHRONIZED one can be read."""

    IDLE = "IDLE"
    """No stream carries the market."""
    BUFFERING = "BUFFERING"
    """A stream is open; updates are buffered until a snapshot fits them."""
    SYNCHRONIZED = "SYNCHRONIZED"
    """The copy equals the exchange's book at a known update id."""
    STOPPED = "STOPPED"
    """The caller stopped it."""
    FAILED = "FAILED"
    """The exchange refuses the market permanently."""


class Cause(enum.StrEnum):
    """Why a book cannot be read, or why it was synchronized again. A ``str``: compare it with its name."""

    NOT_LOADED = "NOT_LOADED"
    """No snapshot has been loaded yet."""
    LEFT_HORIZON = "LEFT_HORIZON"
    """The market has left the range in which the last snapshot proves the copy complete."""
    GAP = "GAP"
    """An update was lost."""
    STREAM_CLOSED = "STREAM_CLOSED"
    """The connection that carried the updates ended."""
    IDS_WENT_BACK = "IDS_WENT_BACK"
    """The exchange restarted its update ids."""
    TOO_OLD = "TOO_OLD"
    """The last proof that the copy is current is older than the caller allows."""
    SILENT = "SILENT"
    """The exchange has newer update ids, but the stream delivered no update."""
    CROSSED = "CROSSED"
    """The best bid reached the best ask, which no matching engine shows."""
    STALLED = "STALLED"
    """The thread that writes the book has not proven for too long that it runs and that its connection is alive."""
    HALTED = "HALTED"
    """The exchange has halted the market: it sends no updates, and the copy proves nothing."""
    FEEDER_GONE = "FEEDER_GONE"
    """The process that feeds the shared book has ended, or has never been there."""
    DIFFERENT = "DIFFERENT"
    """Snapshots contradicted the copy, and a confirmation did not settle where."""
    REQUESTED = "REQUESTED"
    """The caller requested it."""
    STOPPED = "STOPPED"
    """The depth cache was stopped."""
    UNKNOWN_MARKET = "UNKNOWN_MARKET"
    """The exchange does not know the market."""


class Prices(NamedTuple, Generic[N]):
    """The prices between the best bid and the best ask, of one update id."""

    mid: N
    """(bid + ask) / 2."""
    spread: N
    """ask - bid."""
    micro_price: N
    """Each price weighed by the quantity at the other: (bid x ask size + ask x bid size) / (bid size + ask size).
    It lies nearer to the side that has less."""


class Fill(NamedTuple, Generic[N]):
    """What an order gets that takes from one side of a book, best level first."""

    quantity: N
    """What it gets: the requested quantity, what the requested notional buys, or all that is known."""
    notional: N
    """What that costs: the sum of price x quantity, without fees."""
    average_price: N | None
    """notional / quantity; None: it gets nothing."""
    worst_price: N | None
    """Of the last level that it takes from; None: it gets nothing."""
    levels: int
    """How many levels it takes from, the last one perhaps in part."""
    is_complete: bool
    """Whether the known levels are enough. If not, and the side has a horizon, more may rest past it."""


class Depth(NamedTuple, Generic[N]):
    """What rests on one side of a book up to a price, inclusive."""

    quantity: N
    """The sum of the quantities."""
    notional: N
    """The sum of price x quantity."""
    levels: int
    """How many levels."""
    is_complete: bool
    """Whether the side is known up to that price. If not, these are the sums up to its horizon."""


class BookArrays(NamedTuple, Generic[A]):
    """Both sides of a book at one update id, as arrays of numpy of the shape (n, 2): price and quantity, best first."""

    bids: A
    """float64, or int64: units of the decimals below."""
    asks: A
    """As `bids`."""
    last_update_id: int
    """The exchange's update id of both."""
    price_decimals: int
    """Decimals of a price in whole numbers: it is units / 10**price_decimals."""
    quantity_decimals: int
    """Decimals of a quantity in whole numbers."""


class ArrayCounts(NamedTuple):
    """How many levels were written into the arrays that the caller gave."""

    bids: int
    """Rows of the array for bids that hold a level; the others are what they were."""
    asks: int
    """Rows of the array for asks that hold a level."""
    last_update_id: int
    """The exchange's update id of both."""
    price_decimals: int
    """Decimals of a price in whole numbers."""
    quantity_decimals: int
    """Decimals of a quantity in whole numbers."""


class BookTexts(NamedTuple):
    """Both sides of a book as JSON text, read atomically: all fields belong to the same update id."""

    bids: str
    """``[["price","quantity"],...]``, best (highest) first, with all decimals that the exchange prints."""
    asks: str
    """As `bids`, best (lowest) first."""
    bid_count: int
    """Levels in `bids`."""
    ask_count: int
    """Levels in `asks`."""
    last_update_id: int
    """The exchange's update id of the book."""
    event_time_ms: int | None
    """`E` of the book's last message."""
    transaction_time_ms: int | None
    """`T` of that message (futures)."""
    received_time_ns: int | None
    """When that message arrived: in depth caches the local clock, Unix nanoseconds."""
    bid_horizon: str | None
    """The lowest price to which the bids are complete; None: complete at every price."""
    ask_horizon: str | None
    """The highest price to which the asks are complete; None: complete at every price."""

    def horizons(self, limit: int | None) -> dict[str, str]:
        """Return `bidHorizon` and `askHorizon` as JSON: of the sides that end before `limit` levels at a horizon."""
        sides = (("bidHorizon", self.bid_count, self.bid_horizon), ("askHorizon", self.ask_count, self.ask_horizon))
        ended = ((name, edge) for name, count, edge in sides if edge is not None and (limit is None or count < limit))
        return {name: f'"{edge}"' for name, edge in ended}

    def to_json(self, limit: int | None) -> bytes:
        """Return the body of a snapshot of at most `limit` levels; see `OrderBook.to_json`."""
        times = (("E", self.event_time_ms), ("T", self.transaction_time_ms))
        fields = {"lastUpdateId": str(self.last_update_id)}
        fields |= {name: str(time) for name, time in times if time is not None}
        fields |= {"bids": self.bids, "asks": self.asks} | self.horizons(limit)
        return ("{" + ",".join([f'"{name}":{value}' for name, value in fields.items()]) + "}").encode()


class Header(NamedTuple):
    """The header of a message, without its levels."""

    stream: str | None
    """The name in the combined-stream wrapper."""
    event: str | None
    """`e`, such as "depthUpdate"."""
    symbol: str | None
    """`s`, in the exchange's spelling."""
    first_update_id: int | None
    """`U`."""
    last_update_id: int | None
    """`u`."""
    previous_update_id: int | None
    """`pu`: the last update id of the event before, on futures."""
    event_time_ms: int | None
    """`E`."""


class Comparison(NamedTuple):
    """How a book differs from another at the same update id. The first three are 0 if the books agree."""

    wrong_quantities: int
    """Prices inside both horizons that both books have, with different quantities."""
    missing: int
    """Prices inside both horizons that only the other book has."""
    extra: int
    """Prices inside both horizons that only this book has."""
    outside: int
    """Levels of either book past one of the horizons; they cannot be compared."""

    @property
    def is_equal(self) -> bool:
        """True if the books agree wherever both are known to be complete."""
        return self.wrong_quantities == 0 and self.missing == 0 and self.extra == 0


class BookCounters(NamedTuple):
    """Counters of an order book since its creation. Each only grows; ``clear`` keeps them."""

    snapshots_loaded: int
    """Snapshots that `load_snapshot` accepted."""
    snapshots_refused: int
    """Snapshots that raised ``MalformedMessage``."""
    books_adopted: int
    """Calls of `adopt` that took over another book's levels."""
    updates_applied: int
    """Updates with the verdict APPLIED."""
    updates_stale: int
    """Updates with the verdict STALE."""
    updates_gap: int
    """Updates with the verdict GAP."""
    updates_malformed: int
    """Updates that raised ``MalformedMessage``."""
    updates_overlapping: int
    """Applied updates that began before the book's id: usual after a snapshot, and with several connections."""
    prices_repeated: int
    """Prices that one side of an applied update had twice; the last one counts."""
    quantities_saturated: int
    """Quantities of 2**63 - 1 units, by which Binance means "this or more" (92233720368.54775807 on spot)."""
    levels_dropped: int
    """Far levels dropped to keep a side within ``LEVELS_PER_SIDE_MAX``; the horizon moved with them."""


class Progress(NamedTuple):
    """How many of a manager's depth caches can be read."""

    synchronized: int
    """Depth caches that can be read."""
    failed: int
    """Depth caches that the exchange refuses permanently."""
    total: int
    """All depth caches, in any state."""
    seconds_left: float | None
    """About how many seconds until the others can be read; 0 if all can, None before the first download. The estimate
    uses the weight of their snapshots, the weight left in the minute, and the duration of downloads."""


class ConnectionStatus(NamedTuple):
    """A market on one of the connections that carry it at the same time. Counters count since it was opened."""

    connection: int
    """Its number in the feed group, counted from 1; a successor has a new one."""
    url: str
    """Its address."""
    is_acknowledged: bool
    """Whether the exchange has accepted its subscription of this market."""
    first_arrivals: int
    """Updates that arrived here first and moved the book."""
    duplicates: int
    """Updates that another connection had delivered before."""
    median_lead_ms: float | None
    """How many milliseconds earlier updates arrive here than on the best other connection; negative: later. The median
    of the last 256 updates of all its markets. None: not known yet, or no other connection."""
    gaps_filled: int
    """Gaps of other connections that this one filled."""
    reading: Literal["native", "python"]
    """What reads its socket: "native", TLS by OpenSSL without the GIL; "python", Python's `socket` or `ssl`."""


class DepthCacheStatus(NamedTuple):
    """The status of a depth cache at one moment. Counters count since its creation."""

    market: str
    """As the user spelt it."""
    exchange: str
    """The exchange string of the manager."""
    state: SyncState
    """The state of its synchronization."""
    state_since: float
    """When it entered that state: Unix time, in seconds."""
    is_synchronized: bool
    """Whether both sides can be read."""
    cause: str | None
    """Why it cannot be read; None if it can."""
    last_update_id: int | None
    """The exchange's update id of the book; None before the first snapshot, like the next three fields."""
    event_time_ms: int | None
    """`E` of the last message used: the exchange's clock, Unix milliseconds."""
    transaction_time_ms: int | None
    """`T` of that message (futures): the matching engine's time, Unix milliseconds."""
    received_time_ns: int | None
    """When that message arrived: the local clock, Unix nanoseconds."""
    bid_count: int
    """Bids in the book, including those past the horizon."""
    ask_count: int
    """Asks in the book, including those past the horizon."""
    bid_horizon: float | None
    """The lowest price to which the bids are complete; None: at every price, or nothing is loaded."""
    ask_horizon: float | None
    """The highest price to which the asks are complete; None: at every price, or nothing is loaded."""
    counters: BookCounters
    """Counters of the order book."""
    resyncs: Mapping[str, int]
    """How often it lost its synchronization, by cause."""
    updates_dropped: Mapping[str, int]
    """Depth updates that were not applied, by reason."""
    snapshots_dropped: Mapping[str, int]
    """Snapshots that were not used, by reason."""
    audits: Mapping[str, int]
    """Completed refreshes by result. A refresh compares the book with a snapshot at the same update id."""
    restart_count: int
    """How often its stream has recovered from an interruption."""
    last_restart_time: float | None
    """When its stream last recovered: Unix time, in seconds."""
    reconnects: int
    """Connections that its feed group has begun after the first one, planned renewals included."""
    last_error: str | None
    """The last error of its connection or its snapshots."""
    connections: tuple[ConnectionStatus, ...]
    """The connections that carry it now, oldest first."""
    proof_age_s: float
    """Seconds since the last proof that the book is current; see `max_age` of the manager's reads."""
    progress: Progress | None
    """The manager's `get_progress`; None in a status that did not come from the manager's `get_status`."""
    epoch: int = 0
    """Grows whenever the book can be read again after it could not; 0 before the first time. As in `BookView`."""

    @property
    def feeds(self) -> tuple[ConnectionStatus, ...]:
        """The name of `connections` up to 0.1."""
        return self.connections

    @property
    def frames_dropped(self) -> Mapping[str, int]:
        """The name of `updates_dropped` up to 0.1."""
        return self.updates_dropped
