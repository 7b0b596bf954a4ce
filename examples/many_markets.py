"""Many markets on one connection: how many are in sync, and which spreads are the widest.

    python examples/many_markets.py --exchange binance.com BTCUSDT ETHUSDT SOLUSDT

Without markets it follows 20 made-up ones of the embedded exchange: pip install '.[simulator]'.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterator, Sequence

import ldc


def spreads(caches: Sequence[ldc.DepthCache]) -> Iterator[tuple[float, str]]:
    """Yield (spread in basis points, market) of every book that can be read at this moment."""
    for cache in caches:
        try:
            book = cache.reader.view(1)
        except ldc.DepthCacheError:  # out of sync, or no market of the exchange
            continue
        if book.bids and book.asks:
            bid, ask = float(book.bids[0][0]), float(book.asks[0][0])
            yield (ask - bid) / bid * 1e4, cache.market


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("markets", nargs="*", default=[f"DEMO{number:02}USDT" for number in range(1, 21)])
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, help="end after so many lines (default: never)")
    options = parser.parse_args(arguments)

    with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.markets)
        # Do not wait for all: each market can be read as soon as its own snapshot is there.
        caches = [manager.get_depth_cache(market) for market in options.markets]
        rounds = 0
        while options.rounds is None or rounds < options.rounds:
            time.sleep(options.interval)
            readable = sorted(spreads(caches), reverse=True)
            widest = "  ".join(f"{market} {points:.2f} bp" for points, market in readable[:3])
            print(f"{len(readable)} of {len(caches)} in sync   widest: {widest or '-'}")
            for cache in caches:
                if cache.state is ldc.SyncState.FAILED:
                    print(f"{cache.market}: {cache.status().last_error}")
            rounds += 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every console can write the name of every market
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
