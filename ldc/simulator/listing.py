"""Listings: a market's name, its grid of prices and quantities, and its first price.

Rule 1: a listing follows from its name alone, so that a name is the same market in every run.
Rule 2: prices and quantities are integers in units of the last decimal that the exchange prints.
"""

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listing:
    """A market as exchangeInfo describes it."""

    symbol: str
    base: str
    quote: str
    price_decimals: int
    """How many decimals of a price are printed: the unit of prices."""
    quantity_decimals: int
    """How many decimals of a quantity are printed: the unit of quantities."""
    tick: int
    """Orders are placed at multiples of this."""
    lot: int
    """Orders come in multiples of this."""
    first_price: int
    """The price at the start, a multiple of `tick`."""
    typical_lots: int
    """About the lots of an order."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Powers of ten: a first price of `first_ticks` ticks of 10**-tick_decimals, lots of 10**-lot_decimals."""

    first_ticks: int
    tick_decimals: int
    lot_decimals: int
    typical_lots: int


_SPOT_DECIMALS = 8
"""Spot prints prices and quantities with the precision of the assets, which is 8 with few exceptions."""

_SPOT_GRIDS = {
    "BTCUSDT": _Grid(6_184_000, 2, 5, 3000),
    "ETHUSDT": _Grid(268_200, 2, 4, 6000),
    "BNBUSDT": _Grid(58_150, 2, 3, 900),
    "SOLUSDT": _Grid(15_480, 2, 3, 8000),
    "XRPUSDT": _Grid(60_210, 5, 1, 9000),
    "DOGEUSDT": _Grid(102_930, 6, 0, 9000),
    "ADAUSDT": _Grid(35_020, 5, 1, 9000),
    "LTCUSDT": _Grid(60_440, 3, 3, 9000),
    "ETHBTC": _Grid(43_370, 6, 4, 4000),
    "BNBBTC": _Grid(9_405, 6, 3, 900),
}
_USD_M_GRIDS = {
    "BTCUSDT": _Grid(618_400, 1, 3, 900),
    "ETHUSDT": _Grid(268_200, 2, 3, 9000),
    "BNBUSDT": _Grid(58_150, 2, 2, 900),
    "SOLUSDT": _Grid(154_800, 3, 0, 40),
    "XRPUSDT": _Grid(60_210, 5, 1, 9000),
    "DOGEUSDT": _Grid(102_930, 6, 0, 9000),
}
_COIN_M_GRIDS = {
    "BTCUSD_PERP": _Grid(618_400, 1, 0, 300),
    "ETHUSD_PERP": _Grid(268_200, 2, 0, 900),
    "BNBUSD_PERP": _Grid(581_500, 3, 0, 90),
}
_OPTIONS_GRIDS = {"BTC-261225-60000-C": _Grid(84_050, 1, 2, 200)}

DEFAULT_MARKETS = {
    "spot": tuple(_SPOT_GRIDS),
    "usd_m": tuple(_USD_M_GRIDS),
    "coin_m": tuple(_COIN_M_GRIDS),
    "options": tuple(_OPTIONS_GRIDS),
}
"""The usual markets of each family."""

_GRIDS = {"spot": _SPOT_GRIDS, "usd_m": _USD_M_GRIDS, "coin_m": _COIN_M_GRIDS, "options": _OPTIONS_GRIDS}

_SYMBOLS = {
    "spot": re.compile(r"(\w{2,20}?)(USDT|USDC|FDUSD|TUSD|USD|BTC|ETH|BNB|EUR|BRL|TRY|JPY)"),
    "usd_m": re.compile(r"([A-Z0-9]{2,20}?)(USDT|USDC|BTC)(?:_[0-9]{6})?"),
    "coin_m": re.compile(r"([A-Z0-9]{2,20}?)(USD)_(?:PERP|[0-9]{6})"),
    "options": re.compile(r"([A-Z0-9]{2,10})-[0-9]{6}-[0-9.]{1,10}-[CP]()"),
}
"""The symbols that a family can have: a name, then one of its quote assets."""

_DERIVATIVES_OFF_GRID_DECIMALS = 1
"""Decimals that futures print beyond those of their tick, as the exchange does since it made ticks coarser."""


def listing_of(family: str, symbol: str) -> Listing | None:
    """Return the listing of that symbol, or None if it cannot be a market of the family.

    A symbol that is not in the tables gets a grid by its hash, the same in every run.
    """
    match = _SYMBOLS[family].fullmatch(symbol)
    if match is None:
        return None
    grid = _GRIDS[family].get(symbol) or _made_up(family, symbol)
    price_decimals, quantity_decimals = grid.tick_decimals, grid.lot_decimals
    if family == "spot":
        price_decimals = quantity_decimals = _SPOT_DECIMALS
    elif family == "usd_m":
        price_decimals += _DERIVATIVES_OFF_GRID_DECIMALS
    tick = 10 ** (price_decimals - grid.tick_decimals)
    return Listing(
        symbol=symbol,
        base=match[1],
        quote=match[2] or "USDT",
        price_decimals=price_decimals,
        quantity_decimals=quantity_decimals,
        tick=tick,
        lot=10 ** (quantity_decimals - grid.lot_decimals),
        first_price=grid.first_ticks * tick,
        typical_lots=grid.typical_lots,
    )


def _made_up(family: str, symbol: str) -> _Grid:
    digest = hashlib.sha256(symbol.encode()).digest()
    decimals = 2 + digest[0] % 4
    first_ticks = 20_000 + int.from_bytes(digest[1:4], "big") % 980_000
    whole = family == "coin_m"
    return _Grid(first_ticks, decimals, 0 if whole else digest[4] % 4, 100 << digest[5] % 6)
