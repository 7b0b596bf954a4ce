"""The families of the exchange: which keys their messages have, in which order, and how their connections behave.

Rule 1: families differ in data only: one frozen row each.
Rule 2: the order of fields is that of recorded traffic; the newer `ps` and `st` stand where documents have them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ldc.venues import Venue, venue_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The format of one of the exchange's families."""

    name: str
    depth_path: str
    """The path by which a row of `ldc.venues` identifies it."""
    diff: tuple[str, ...]
    partial: tuple[str, ...]
    ticker: tuple[str, ...]
    snapshot: tuple[str, ...]
    bids_ascending: bool
    """In a diff. Snapshots begin with the best price everywhere."""
    engine_ids: bool
    """Whether the ids of all markets are counted together: then ids have holes, and snapshots are inside windows."""
    partial_intervals: Mapping[str, int]
    """Suffix of a partial depth stream -> milliseconds."""
    constants: Mapping[str, str]
    """Keys with a constant value."""
    stream_prefixes: tuple[str, ...]
    """The possible prefixes of /ws and /stream."""
    ping_interval_s: float
    """Of the server's pings; a connection that does not answer one within `pong_timeout_s` is closed."""
    pong_timeout_s: float
    pong_must_match: bool
    """Whether only a pong with the ping's payload counts."""
    rate_limit_headers: tuple[str, ...]
    tells_shutdown: bool
    """Whether it sends `serverShutdown`."""
    exchange_info_weight: int
    rest_ticker: tuple[str, ...]
    """The keys of the REST `ticker/bookTicker`; empty: the family has no such path."""
    rest_ticker_is_list: bool
    """Whether it is a list even for one symbol."""
    default_limit: int
    """Levels a side of a snapshot whose request names no limit."""


_FUTURES_DIFF = ("e", "E", "T", "s", "U", "u", "pu", "b", "a")
_FUTURES_TICKER = ("e", "u", "s", "b", "B", "a", "A", "T", "E")
_FUTURES_PARTIAL_INTERVALS = {"": 250, "@500ms": 500, "@100ms": 100}

_SPOT = Family(
    name="spot",
    depth_path="/api/v3/depth",
    diff=("e", "E", "s", "U", "u", "b", "a"),
    partial=("lastUpdateId", "bids", "asks"),
    ticker=("u", "s", "b", "B", "a", "A"),
    snapshot=("lastUpdateId", "bids", "asks"),
    bids_ascending=False,
    engine_ids=False,
    partial_intervals={"": 1000, "@100ms": 100},
    constants={},
    stream_prefixes=("",),
    ping_interval_s=20,
    pong_timeout_s=60,
    pong_must_match=True,
    rate_limit_headers=("x-mbx-used-weight", "x-mbx-used-weight-1m"),
    tells_shutdown=True,
    exchange_info_weight=20,
    rest_ticker=("symbol", "bidPrice", "bidQty", "askPrice", "askQty"),
    rest_ticker_is_list=False,
    default_limit=100,
)
_USD_M = Family(
    name="usd_m",
    depth_path="/fapi/v1/depth",
    diff=(*_FUTURES_DIFF, "ps", "st"),
    partial=(*_FUTURES_DIFF, "ps", "st"),
    ticker=(*_FUTURES_TICKER, "ps", "st"),
    snapshot=("lastUpdateId", "E", "T", "bids", "asks"),
    bids_ascending=True,
    engine_ids=True,
    partial_intervals=_FUTURES_PARTIAL_INTERVALS,
    constants={"st": "1"},
    # Connections without a prefix are accepted and get the public streams, as observed in 2026.
    stream_prefixes=("/public", ""),
    ping_interval_s=180,
    pong_timeout_s=600,
    pong_must_match=False,
    rate_limit_headers=("x-mbx-used-weight-1m",),
    tells_shutdown=False,
    exchange_info_weight=1,
    rest_ticker=("symbol", "bidPrice", "bidQty", "askPrice", "askQty", "time", "lastUpdateId"),
    rest_ticker_is_list=False,
    default_limit=500,
)
_COIN_M = Family(
    name="coin_m",
    depth_path="/dapi/v1/depth",
    diff=("e", "E", "T", "s", "ps", "U", "u", "pu", "b", "a", "st"),
    partial=("e", "E", "T", "s", "ps", "U", "u", "pu", "b", "a", "st"),
    ticker=("u", "e", "s", "ps", "b", "B", "a", "A", "T", "E", "st"),
    snapshot=("lastUpdateId", "E", "T", "symbol", "pair", "bids", "asks"),
    bids_ascending=True,
    engine_ids=True,
    partial_intervals=_FUTURES_PARTIAL_INTERVALS,
    constants={"st": "2"},
    stream_prefixes=("",),
    ping_interval_s=180,
    pong_timeout_s=600,
    pong_must_match=False,
    rate_limit_headers=("x-mbx-used-weight-1m",),
    tells_shutdown=False,
    exchange_info_weight=1,
    rest_ticker=("lastUpdateId", "symbol", "pair", "bidPrice", "bidQty", "askPrice", "askQty", "time"),
    rest_ticker_is_list=True,
    default_limit=500,
)
_OPTIONS = Family(
    name="options",
    depth_path="/eapi/v1/depth",
    diff=_FUTURES_DIFF,
    partial=_FUTURES_DIFF,
    ticker=("e", "u", "s", "b", "B", "a", "A", "T", "E"),
    snapshot=("bids", "asks", "T", "lastUpdateId"),
    bids_ascending=True,
    engine_ids=True,
    partial_intervals={"@500ms": 500, "@100ms": 100},
    constants={},
    stream_prefixes=("/public",),
    ping_interval_s=300,
    pong_timeout_s=900,
    pong_must_match=False,
    rate_limit_headers=("x-mbx-used-weight-1m",),
    tells_shutdown=False,
    exchange_info_weight=1,
    rest_ticker=(),
    rest_ticker_is_list=False,
    default_limit=100,
)

FAMILIES = {family.depth_path: family for family in (_SPOT, _USD_M, _COIN_M, _OPTIONS)}
"""Every family, by the path of its snapshots."""


def family_of(venue: Venue) -> Family:
    """Return the family of a row."""
    return FAMILIES[venue.depth_path]


def rows_of(exchange: str) -> tuple[Venue, Family]:
    """Return the row of an exchange and its family's; raise `UnknownExchange` if there is none."""
    venue = venue_named(exchange)
    return venue, family_of(venue)
