"""The texts of messages: each family's keys in its order, with the values given.

Rule 1: levels and numbers arrive as text, because the compiled book writes them so.
Rule 2: no socket, no clock, no random number.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ldc.wire.families import Family


class UpdateIds(NamedTuple):
    """The ids of an update."""

    first: int
    last: int
    previous: int
    """The last id of the update before."""


class Tops(NamedTuple):
    """The best level of each side, as text."""

    bid: str
    bid_quantity: str
    ask: str
    ask_quantity: str


def decimal_text(value: int, decimals: int) -> str:
    """Return an integer in units of the last decimal as the exchange prints it: 35170000 with 8 is 0.35170000."""
    if not decimals:
        return str(value)
    whole, part = divmod(value, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"


def levels_text(levels: Iterable[tuple[int, int]], price_decimals: int, quantity_decimals: int) -> str:
    """Return (price, quantity) in units of their last decimal as JSON. The prices have decimals."""
    price_unit, quantity_unit = 10**price_decimals, 10**quantity_decimals
    price_width, quantity_width = price_decimals, quantity_decimals
    if not quantity_width:
        texts = [f'["{price // price_unit}.{price % price_unit:0{price_width}d}","{count}"]' for price, count in levels]
    else:
        texts = [
            f'["{price // price_unit}.{price % price_unit:0{price_width}d}",'
            f'"{quantity // quantity_unit}.{quantity % quantity_unit:0{quantity_width}d}"]'
            for price, quantity in levels
        ]
    return f"[{','.join(texts)}]"


def diff_text(family: Family, symbol: str, ids: UpdateIds, event_time: int, bids: str, asks: str) -> str:
    """Return a depth update. `event_time` is the value of E, in the connection's unit."""
    return _object(family.diff, _depth_values(family, symbol, ids, event_time) | {"b": bids, "a": asks})


def partial_text(family: Family, symbol: str, ids: UpdateIds, event_time: int, bids: str, asks: str) -> str:
    """Return a partial depth: the best levels as they are after that update."""
    values = _depth_values(family, symbol, ids, event_time)
    values |= {"lastUpdateId": str(ids.last), "bids": bids, "asks": asks, "b": bids, "a": asks}
    return _object(family.partial, values)


def ticker_text(family: Family, symbol: str, update_id: int, event_time: int, tops: Tops) -> str:
    """Return a bookTicker."""
    values = {
        "e": '"bookTicker"',
        "u": str(update_id),
        "s": quoted(symbol),
        "ps": quoted(_pair(family, symbol)),
        "b": quoted(tops.bid),
        "B": quoted(tops.bid_quantity),
        "a": quoted(tops.ask),
        "A": quoted(tops.ask_quantity),
        "T": str(event_time),
        "E": str(event_time),
    }
    values.update(family.constants)
    return _object(family.ticker, values)


def snapshot_text(
    family: Family,
    symbol: str,
    update_id: int,
    event_time_ms: int,
    bids: str,
    asks: str,
    horizons: Mapping[str, str] | None = None,
) -> str:
    """Return the body of a snapshot. `horizons`: more keys, with which a gateway says where its knowledge ends."""
    values = {
        "lastUpdateId": str(update_id),
        "E": str(event_time_ms),
        "T": str(event_time_ms),
        "symbol": quoted(symbol),
        "pair": quoted(_pair(family, symbol)),
        "bids": bids,
        "asks": asks,
    }
    keys = family.snapshot
    if horizons:
        values.update(horizons)
        keys = (*keys, *horizons)
    return _object(keys, values)


def wrapped(stream: str, text: str) -> str:
    """Return a message in the wrapper of combined streams."""
    return f'{{"stream":"{stream}","data":{text}}}'


def quoted(text: str) -> str:
    """Return a symbol or a number as a JSON string; neither needs escapes."""
    return f'"{text}"'


def _depth_values(family: Family, symbol: str, ids: UpdateIds, event_time: int) -> dict[str, str]:
    values = {
        "e": '"depthUpdate"',
        "E": str(event_time),
        "T": str(event_time),
        "s": quoted(symbol),
        "ps": quoted(_pair(family, symbol)),
        "U": str(ids.first),
        "u": str(ids.last),
        "pu": str(ids.previous),
    }
    values.update(family.constants)
    return values


def _pair(family: Family, symbol: str) -> str:
    """Return the value of `ps`: the pair on COIN-M, such as BCHUSD of BCHUSD_PERP; the symbol on USD-M."""
    return symbol.partition("_")[0] if family.name == "coin_m" else symbol


def _object(keys: tuple[str, ...], values: Mapping[str, str]) -> str:
    fields = ",".join([f'"{key}":{values[key]}' for key in keys])
    return f"{{{fields}}}"
