"""The best bid and ask of one market, printed whenever the book has moved.

    python examples/top_of_book.py BTCUSDT --exchange binance.com

Without --exchange it runs on the embedded exchange, which needs no network: pip install '.[simulator]'.
"""

import argparse
import io
import sys
from collections.abc import Sequence

import ldc


def main(arguments: Sequence[str] | None = None) -> None:
    """Print so many tops, or go on until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", nargs="?", default="BTCUSDT")
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--updates", type=int, help="end after so many (default: never)")
    options = parser.parse_args(arguments)

    with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.market)
        if not manager.wait_until_synchronized(timeout=30):
            raise SystemExit(f"not synchronized in 30 s: {manager.get_status(options.market).last_error}")
        printed = 0
        while options.updates is None or printed < options.updates:
            try:
                manager.wait_for_update(options.market)  # sleeps until there is something to read
                book = manager.get_book(options.market, limit_count=1)
            except ldc.DepthCacheOutOfSync as error:
                print(error)  # ldc is already resynchronizing; the next wait ends when it is done
                continue
            (bid, bid_size), (ask, ask_size) = book.bids[0], book.asks[0]
            print(f"{book.last_update_id}  {bid_size:>12} x {bid:<12}  {ask:>12} x {ask_size}")
            printed += 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every console can write the name of every market
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
