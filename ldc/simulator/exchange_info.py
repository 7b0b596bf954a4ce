"""The body of `exchangeInfo`, with the fields of each family.

It has only what a client may need: symbols, assets, status, precisions, and the filters of prices and quantities.
"""

from collections.abc import Iterable
from typing import Any

from ldc.simulator.listing import Listing
from ldc.wire.families import Family
from ldc.wire.texts import decimal_text

_ORDER_TYPES = ["LIMIT", "LIMIT_MAKER", "MARKET"]


def exchange_info(
    family: Family, listed: Iterable[tuple[Listing, str]], server_time_ms: int, weight_per_minute: int
) -> dict[str, Any]:
    """Return the body for these markets, each with its status such as "TRADING"."""
    limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_per_minute}]
    common: dict[str, Any] = {"timezone": "UTC", "serverTime": server_time_ms}
    if family.name == "spot":
        raw = {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000}
        symbols = [_spot(listing, status) for listing, status in listed]
        return common | {"rateLimits": [*limits, raw], "exchangeFilters": [], "symbols": symbols}
    if family.name == "options":
        options = [_option(listing, status) for listing, status in listed]
        return common | {"optionContracts": [], "optionAssets": [], "optionSymbols": options, "rateLimits": limits}
    return {
        "timezone": "UTC",
        "serverTime": server_time_ms,
        "futuresType": "U_MARGINED" if family.name == "usd_m" else "D_MARGINED",
        "rateLimits": limits,
        "exchangeFilters": [],
        "assets": [],
        "symbols": [_futures(family, listing, status) for listing, status in listed],
    }


def _filters(listing: Listing) -> list[dict[str, Any]]:
    price, quantity = listing.price_decimals, listing.quantity_decimals
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": decimal_text(listing.tick, price),
            "maxPrice": decimal_text(listing.first_price * 100, price),
            "tickSize": decimal_text(listing.tick, price),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": decimal_text(listing.lot, quantity),
            "maxQty": decimal_text(listing.lot * 10**9, quantity),
            "stepSize": decimal_text(listing.lot, quantity),
        },
    ]


def _spot(listing: Listing, status: str) -> dict[str, Any]:
    decimals = listing.quantity_decimals
    return {
        "symbol": listing.symbol,
        "status": status,
        "baseAsset": listing.base,
        "baseAssetPrecision": decimals,
        "quoteAsset": listing.quote,
        "quotePrecision": decimals,
        "quoteAssetPrecision": decimals,
        "baseCommissionPrecision": decimals,
        "quoteCommissionPrecision": decimals,
        "orderTypes": _ORDER_TYPES,
        "icebergAllowed": False,
        "ocoAllowed": False,
        "quoteOrderQtyMarketAllowed": False,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(listing),
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _futures(family: Family, listing: Listing, status: str) -> dict[str, Any]:
    is_coin_m = family.name == "coin_m"
    delivery = listing.symbol.rpartition("_")[2] if "_" in listing.symbol else ""
    symbol = {
        "symbol": listing.symbol,
        "pair": listing.symbol.partition("_")[0],
        "contractType": "CURRENT_QUARTER" if delivery.isdigit() else "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "contractStatus" if is_coin_m else "status": status,
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.base if is_coin_m else listing.quote,
        "pricePrecision": listing.price_decimals,
        "quantityPrecision": listing.quantity_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "filters": _filters(listing),
        "orderTypes": _ORDER_TYPES,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }
    return symbol | {"contractSize": 100 if listing.base == "BTC" else 10} if is_coin_m else symbol


def _option(listing: Listing, status: str) -> dict[str, Any]:
    underlying, _, strike, side = listing.symbol.split("-")
    return {
        "expiryDate": 4133404800000,
        "filters": _filters(listing),
        "symbol": listing.symbol,
        "side": "CALL" if side == "C" else "PUT",
        "strikePrice": strike,
        "underlying": f"{underlying}USDT",
        "unit": 1,
        "minQty": decimal_text(listing.lot, listing.quantity_decimals),
        "maxQty": decimal_text(listing.lot * 10**6, listing.quantity_decimals),
        "priceScale": listing.price_decimals,
        "quantityScale": listing.quantity_decimals,
        "quoteAsset": "USDT",
        "status": status,
    }
