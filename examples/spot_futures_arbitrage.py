"""Spot against futures: two books that are both right, and what it would earn to buy the one and sell the other.

    python examples/spot_futures_arbitrage.py BTCUSDT --spot binance.com --futures binance.com-futures --fees 0.0012

It sends no orders. Without --spot and --futures it runs on two embedded exchanges, whose prices have nothing to do with
each other: pip install '.[simulator]'.
"""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import ldc

AGE_MS_MAX = 1_000
"""A top that arrived longer ago is not traded upon: the one side may have moved on without the other."""

LOOK_S = 1.0


class Opportunity(NamedTuple):
    """Something to buy here and to sell there."""

    text: str
    gain: float
    """As a part of the price, before fees."""
    quantity: float
    """What both sides show."""


def best_opportunity(spot: ldc.BookView[float], futures: ldc.BookView[float]) -> Opportunity | None:
    """Return the better of the two directions; None if a side is empty."""
    if not (spot.bids and spot.asks and futures.bids and futures.asks):
        return None
    found = []
    for text, asks, bids in (
        ("buy spot, sell futures", spot.asks, futures.bids),
        ("buy futures, sell spot", futures.asks, spot.bids),
    ):
        (ask, ask_size), (bid, bid_size) = (tuple(map(float, side[0])) for side in (asks, bids))
        found.append(Opportunity(text, (bid - ask) / ask, min(ask_size, bid_size)))
    return max(found, key=lambda opportunity: opportunity.gain)


def is_fresh(book: ldc.BookView[float]) -> bool:
    """Return whether the book has arrived just now."""
    return book.received_time_ns is not None and time.time_ns() - book.received_time_ns <= AGE_MS_MAX * 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what there is to earn, whenever the futures book moves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", nargs="?", default="BTCUSDT")
    parser.add_argument("--spot", default="simulator", metavar="EXCHANGE")
    parser.add_argument("--futures", default="simulator-futures", metavar="EXCHANGE")
    parser.add_argument("--fees", type=float, default=0.0012, help="of both trades, as a part of the price")
    parser.add_argument("--updates", type=int, help="end after so many (default: never)")
    options = parser.parse_args(arguments)

    # One manager an exchange. Each has its own thread, so that neither delays the other.
    with (
        ldc.BinanceLocalDepthCacheManager(options.spot) as spot,
        ldc.BinanceLocalDepthCacheManager(options.futures) as futures,
    ):
        for manager in (spot, futures):
            manager.create_depth_cache(options.market)
        for manager in (spot, futures):
            if not manager.wait_until_synchronized(timeout=30):
                raise SystemExit(f"{manager.exchange}: {manager.get_status(options.market).last_error}")
        seen = 0
        while options.updates is None or seen < options.updates:
            try:
                if futures.wait_for_update(options.market, timeout=LOOK_S) is None:
                    continue
                books = spot.get_book(options.market, 1), futures.get_book(options.market, 1)
            except ldc.DepthCacheOutOfSync as error:
                print(error)
                continue
            seen += 1
            if not all(is_fresh(book) for book in books):
                print("one of the two has not moved for a while")
                continue
            opportunity = best_opportunity(*books)
            if opportunity is not None:
                verdict = "TRADE" if opportunity.gain > options.fees else "wait"
                print(f"{verdict}  {opportunity.text}: {opportunity.gain * 1e4:+.2f} bp on {opportunity.quantity:g}")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every console can write the name of every market
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
