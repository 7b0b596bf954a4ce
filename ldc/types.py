"""The small values that cross the borders between the parts: enums and frozen records, nothing that decides.

Prices and quantities in them are whatever ``number`` type the reader asked for; times are the exchange's, in the
exchange's unit (milliseconds unless a stream was asked for microseconds), except ``received_time_ns``, which is the
local clock of whoever received the bytes. A field that was not in the message is None.

Records are named tuples, because the compiled book makes them in a tenth of the time of a frozen dataclass.
"""

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

__all__ = [
    "BookCounters",
    "BookView",
    "Cause",
    "Comparison",
    "ConnectionStatus",
    "DepthCacheStatus",
    "Header",
    "Progress",
    "SyncState",
    "Verdict",
]

Message = bytes | bytearray | memoryview | str
"""What a message may come as: its bytes, or the text that they spell in UTF-8."""
Number = float | Decimal | str
NumberType = type[float] | type[Decimal] | type[str]
"""What prices and quantities may be read as."""
Level = tuple[Number, Number]


class Verdict(enum.IntEnum):
    """What became of a depth update. Only APPLIED changes the book."""

    APPLIED = 0
    """It continued the book (an overlap with what the book already had is harmless) and all its levels are in."""
    STALE = 1
    """The book already stands at or past its last update id; it was ignored."""
    GAP = 2
    """Updates between the book and this one are missing; it was not applied, and the book stands where it stood."""


class SyncState(enum.StrEnum):
    """The life of one market's local copy. Only a SYNCHRONIZED one can be read."""

    IDLE = "IDLE"
    """No stream carries the market."""
    BUFFERING = "BUFFERING"
    """A stream is open; updates are kept until a snapshot fits them."""
    SYNCHRONIZED = "SYNCHRONIZED"
    """The copy is the exchange's book at a known update id."""
    STOPPED = "STOPPED"
    """The caller stopped it."""
    FAILED = "FAILED"
    """The exchange refuses the market for good."""


class Cause(enum.StrEnum):
    """Why a book cannot be read, or why it was synchronized anew. A ``str``: compare it with its name."""

    NOT_LOADED = "NOT_LOADED"
    """No snapshot has been loaded yet."""
    LEFT_HORIZON = "LEFT_HORIZON"
    """The market has moved past the range in which the last snapshot makes the copy provably complete."""
    GAP = "GAP"
    """An update was lost."""
    STREAM_CLOSED = "STREAM_CLOSED"
    """The connection that carried the updates ended."""
    IDS_WENT_BACK = "IDS_WENT_BACK"
    """The exchange began to count its update ids anew."""
    TOO_OLD = "TOO_OLD"
    """The last proof that the copy is current is older than the caller allows."""
    SILENT = "SILENT"
    """The exchange moved on, and the stream did not say so."""
    CROSSED = "CROSSED"
    """The best bid reached the best ask, which no matching engine shows."""
    STALLED = "STALLED"
    """The thread that writes the book has not proven for too long that it runs and that its connection is alive."""
    HALTED = "HALTED"
    """The exchange has halted the market: it sends no updates, and the copy proves nothing."""
    FEEDER_GONE = "FEEDER_GONE"
    """The process that feeds the shared book has ended, or has never been there."""
    REQUESTED = "REQUESTED"
    """The caller asked for it."""
    STOPPED = "STOPPED"
    """The depth cache was stopped."""
    UNKNOWN_MARKET = "UNKNOWN_MARKET"
    """The exchange does not know the market."""


class BookView(NamedTuple):
    """One atomic look at both sides of a book: all fields belong to the same update id."""

    bids: tuple[Level, ...]
    """(price, quantity), best (highest) first."""
    asks: tuple[Level, ...]
    """(price, quantity), best (lowest) first."""
    last_update_id: int
    """The exchange's update id that the book stands at."""
    event_time_ms: int | None
    """`E` of the message that brought the book there: the exchange's clock, Unix milliseconds; None if it had none."""
    transaction_time_ms: int | None
    """`T` of that message (futures): the matching engine's time, Unix milliseconds; None if it had none."""
    received_time_ns: int | None
    """When that message arrived, as it was handed in: in depth caches the local clock, Unix nanoseconds."""
    bid_horizon: Number | None
    """The lowest price to which the bids are complete; None: complete without end."""
    ask_horizon: Number | None
    """The highest price to which the asks are complete; None: complete without end."""


class Header(NamedTuple):
    """What a message says about itself, without its levels."""

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
    """How a book differs from another at the same update id. The first three are 0 when the two agree."""

    wrong_quantities: int
    """Prices inside both horizons that both hold, with different quantities."""
    missing: int
    """Prices inside both horizons that only the other book holds."""
    extra: int
    """Prices inside both horizons that only this book holds."""
    outside: int
    """Levels of either book that lie past one of the horizons; nothing can be said of them."""

    @property
    def is_equal(self) -> bool:
        """True if the books agree wherever both are known to be complete."""
        return self.wrong_quantities == 0 and self.missing == 0 and self.extra == 0


class BookCounters(NamedTuple):
    """What has happened to an order book since it was made. Each only grows; ``clear`` keeps them."""

    snapshots_loaded: int
    """Snapshots that `load_snapshot` took."""
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
    """Of the applied ones, those that began before the book's id: usual after a snapshot, and with a second feed."""
    prices_repeated: int
    """Prices that stood twice in one side of an applied update; the last one won."""
    quantities_saturated: int
    """Quantities of 2**63 - 1 units, which Binance means as "this or more" (92233720368.54775807 on spot)."""
    levels_dropped: int
    """Far levels given up to keep a side within ``LEVELS_PER_SIDE_MAX``; the horizon moved with them."""


class Progress(NamedTuple):
    """How far a manager's depth caches are."""

    synchronized: int
    """Those that can be read."""
    failed: int
    """Those that the exchange refuses for good."""
    total: int
    """All there are, whatever their state."""
    seconds_left: float | None
    """About how long until the others can be read: the weights of the snapshots that wait, what of a minute's weight is
    left, and how long downloads have taken. 0 when all can be; None when nothing has been downloaded yet."""


class ConnectionStatus(NamedTuple):
    """What one connection has brought of a market, while several connections bring it. Counts since it was opened."""

    connection: int
    """Its number in the feed group, counted from 1; a successor has a new one."""
    url: str
    """Where it leads."""
    is_acknowledged: bool
    """Whether the exchange has accepted its subscription of this market."""
    first_arrivals: int
    """Updates that came here first, and moved the book."""
    duplicates: int
    """Updates that had come elsewhere before."""
    median_lead_ms: float | None
    """How much earlier than on the best of the other connections updates come here, over the last 256 of all markets of
    this connection; negative: later. None: not known yet, or there is no other connection."""
    gaps_filled: int
    """Gaps of other connections that this one filled."""


class DepthCacheStatus(NamedTuple):
    """What there is to know about a depth cache at one moment. Counters count since it was created."""

    market: str
    """As the user spelt it."""
    exchange: str
    """The exchange string of the manager."""
    state: SyncState
    """Where it is in its life."""
    state_since: float
    """When it entered that state: Unix time, in seconds."""
    is_synchronized: bool
    """Whether both sides can be read."""
    cause: str | None
    """Why it cannot be read; None if it can."""
    last_update_id: int | None
    """The exchange's update id that the book stands at; None before the first snapshot, as the next three."""
    event_time_ms: int | None
    """`E` of the last message that was used: the exchange's clock, Unix milliseconds."""
    transaction_time_ms: int | None
    """`T` of that message (futures): the matching engine's time, Unix milliseconds."""
    received_time_ns: int | None
    """When that message arrived: the local clock, Unix nanoseconds."""
    bid_count: int
    """Bids held, also past the horizon."""
    ask_count: int
    """Asks held, also past the horizon."""
    bid_horizon: float | None
    """The lowest price to which the bids are complete; None: without end, or nothing is loaded."""
    ask_horizon: float | None
    """The highest price to which the asks are complete; None: without end, or nothing is loaded."""
    counters: BookCounters
    """What has happened to the order book."""
    resyncs: Mapping[str, int]
    """How often it lost its synchronization, by cause."""
    updates_dropped: Mapping[str, int]
    """Depth updates that were not applied, by reason."""
    snapshots_dropped: Mapping[str, int]
    """Snapshots that were not used, by reason."""
    audits: Mapping[str, int]
    """Refreshes that ended, by their result: each compares the book with a snapshot at the same update id."""
    restart_count: int
    """How often its stream came back after an interruption."""
    last_restart_time: float | None
    """When it last did: Unix time, in seconds."""
    reconnects: int
    """Connections that its feed group began after the first one, planned renewals included."""
    last_error: str | None
    """The last thing that went wrong with its connection or its snapshots."""
    connections: tuple[ConnectionStatus, ...]
    """The connections that bring it now, oldest first."""
    proof_age_s: float
    """How long ago the last proof came that the book is current: see `max_age` of the manager's reads."""
    progress: Progress | None
    """How far all depth caches of the manager are, and about how long the others will take: its `get_progress`. None in
    a status that did not come from the manager's `get_status`."""

    @property
    def feeds(self) -> tuple[ConnectionStatus, ...]:
        """The name of `connections` up to 0.1."""
        return self.connections

    @property
    def frames_dropped(self) -> Mapping[str, int]:
        """The name of `updates_dropped` up to 0.1."""
        return self.updates_dropped
