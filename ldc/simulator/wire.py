"""The wire format: the messages of each family of the exchange, with its order of fields and its decimals.

Rule 1: families differ in data only. A message is a list of keys; `_object` adds their values.
Rule 2: no socket, no clock, no random number.

The order of fields is that of recorded traffic; the places of `ps` and `st`, which are newer, are as documented.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ldc.simulator.changelog import Levels
from ldc.simulator.listing import Listing
from ldc.simulator.market import Update
from ldc.venues import Venue


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
)

FAMILIES = {family.depth_path: family for family in (_SPOT, _USD_M, _COIN_M, _OPTIONS)}
"""Every family, by the path of its snapshots."""


def family_of(venue: Venue) -> Family:
    """Return the family of a row."""
    return FAMILIES[venue.depth_path]


def decimal_text(value: int, decimals: int) -> str:
    """Return an integer in units of the last decimal as the exchange prints it: 35170000 with 8 is 0.35170000."""
    if not decimals:
        return str(value)
    whole, part = divmod(value, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"


def levels_text(listing: Listing, levels: Levels) -> str:
    """Return levels as JSON."""
    price_unit, quantity_unit = 10**listing.price_decimals, 10**listing.quantity_decimals
    price_width, quantity_width = listing.price_decimals, listing.quantity_decimals
    if not quantity_width:
        texts = [f'["{price // price_unit}.{price % price_unit:0{price_width}d}","{count}"]' for price, count in levels]
    else:
        texts = [
            f'["{price // price_unit}.{price % price_unit:0{price_width}d}",'
            f'"{quantity // quantity_unit}.{quantity % quantity_unit:0{quantity_width}d}"]'
            for price, quantity in levels
        ]
    return f"[{','.join(texts)}]"


def diff_text(family: Family, listing: Listing, update: Update, event_time: int) -> str:
    """Return a depth update. `event_time` is the value of E, in the connection's unit."""
    bids = update.bids[::-1] if family.bids_ascending else update.bids
    values = _depth_values(family, listing, update, event_time)
    return _object(family.diff, values | {"b": levels_text(listing, bids), "a": levels_text(listing, update.asks)})


def partial_text(family: Family, listing: Listing, update: Update, event_time: int, bids: Levels, asks: Levels) -> str:
    """Return a partial depth: the best levels as they are after `update`."""
    values = _depth_values(family, listing, update, event_time)
    sides = levels_text(listing, bids), levels_text(listing, asks)
    values |= {"lastUpdateId": str(update.last_update_id), "bids": sides[0], "asks": sides[1]}
    return _object(family.partial, values | {"b": sides[0], "a": sides[1]})


def ticker_text(
    family: Family, listing: Listing, update_id: int, event_time: int, tops: tuple[int, int, int, int]
) -> str:
    """Return a bookTicker: best bid, its quantity, best ask, its quantity."""
    prices, quantities = listing.price_decimals, listing.quantity_decimals
    values = {
        "e": '"bookTicker"',
        "u": str(update_id),
        "s": _quoted(listing.symbol),
        "ps": _quoted(_pair(family, listing)),
        "b": _quoted(decimal_text(tops[0], prices)),
        "B": _quoted(decimal_text(tops[1], quantities)),
        "a": _quoted(decimal_text(tops[2], prices)),
        "A": _quoted(decimal_text(tops[3], quantities)),
        "T": str(event_time),
        "E": str(event_time),
    }
    values.update(family.constants)
    return _object(family.ticker, values)


def snapshot_text(
    family: Family, listing: Listing, update_id: int, event_time_ms: int, bids: Levels, asks: Levels
) -> str:
    """Return the body of a snapshot."""
    values = {
        "lastUpdateId": str(update_id),
        "E": str(event_time_ms),
        "T": str(event_time_ms),
        "symbol": _quoted(listing.symbol),
        "pair": _quoted(_pair(family, listing)),
        "bids": levels_text(listing, bids),
        "asks": levels_text(listing, asks),
    }
    return _object(family.snapshot, values)


def wrapped(stream: str, text: str) -> str:
    """Return a message in the wrapper of combined streams."""
    return f'{{"stream":"{stream}","data":{text}}}'


def _depth_values(family: Family, listing: Listing, update: Update, event_time: int) -> dict[str, str]:
    values = {
        "e": '"depthUpdate"',
        "E": str(event_time),
        "T": str(event_time),
        "s": _quoted(listing.symbol),
        "ps": _quoted(_pair(family, listing)),
        "U": str(update.first_update_id),
        "u": str(update.last_update_id),
        "pu": str(update.previous_update_id),
    }
    values.update(family.constants)
    return values


def _pair(family: Family, listing: Listing) -> str:
    """Return the value of `ps`: the pair on COIN-M, such as BCHUSD of BCHUSD_PERP; the symbol on USD-M."""
    return listing.symbol.partition("_")[0] if family.name == "coin_m" else listing.symbol


def _quoted(text: str) -> str:
    return f'"{text}"'  # symbols need no escapes: see listing.py


def _object(keys: tuple[str, ...], values: Mapping[str, str]) -> str:
    fields = ",".join([f'"{key}":{values[key]}' for key in keys])
    return f"{{{fields}}}"
