"""The messages of a market: its integers as text, in the words of its family."""

from ldc.simulator.changelog import Levels
from ldc.simulator.listing import Listing
from ldc.simulator.market import Update
from ldc.wire.families import Family
from ldc.wire.texts import (
    Tops,
    UpdateIds,
    decimal_text,
    diff_text,
    levels_text,
    partial_text,
    snapshot_text,
    ticker_text,
)


def diff_of(family: Family, listing: Listing, update: Update, event_time: int) -> str:
    """Return a depth update. `event_time` is the value of E, in the connection's unit."""
    bids = update.bids[::-1] if family.bids_ascending else update.bids
    sides = _levels(listing, bids), _levels(listing, update.asks)
    return diff_text(family, listing.symbol, _ids(update), event_time, *sides)


def partial_of(family: Family, listing: Listing, update: Update, event_time: int, bids: Levels, asks: Levels) -> str:
    """Return a partial depth: the best levels as they are after `update`."""
    sides = _levels(listing, bids), _levels(listing, asks)
    return partial_text(family, listing.symbol, _ids(update), event_time, *sides)


def ticker_of(
    family: Family, listing: Listing, update_id: int, event_time: int, tops: tuple[int, int, int, int]
) -> str:
    """Return a bookTicker: best bid, its quantity, best ask, its quantity."""
    prices, quantities = listing.price_decimals, listing.quantity_decimals
    bid, bid_quantity, ask, ask_quantity = tops
    texts = Tops(
        decimal_text(bid, prices),
        decimal_text(bid_quantity, quantities),
        decimal_text(ask, prices),
        decimal_text(ask_quantity, quantities),
    )
    return ticker_text(family, listing.symbol, update_id, event_time, texts)


def snapshot_of(
    family: Family, listing: Listing, update_id: int, event_time_ms: int, bids: Levels, asks: Levels
) -> str:
    """Return the body of a snapshot."""
    sides = _levels(listing, bids), _levels(listing, asks)
    return snapshot_text(family, listing.symbol, update_id, event_time_ms, *sides)


def _levels(listing: Listing, levels: Levels) -> str:
    return levels_text(levels, listing.price_decimals, listing.quantity_decimals)


def _ids(update: Update) -> UpdateIds:
    return UpdateIds(update.first_update_id, update.last_update_id, update.previous_update_id)
