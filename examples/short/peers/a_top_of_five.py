"""python-binance 1.0.37: the top of book of five markets, at each change of it."""

import threading
from typing import Any

from binance import ThreadedDepthCacheManager

MARKETS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"]
tops: dict[str, tuple[float, float]] = {}
done = threading.Event()


def on_book(cache: Any) -> None:
    """Print a top that has changed."""
    top = cache.get_bids()[0][0], cache.get_asks()[0][0]
    if tops.get(cache.symbol) != top:
        tops[cache.symbol] = top
        print(cache.symbol, *top)
    if len(tops) == 5:
        done.set()


manager = ThreadedDepthCacheManager()
manager.start()
for market in MARKETS:
    manager.start_depth_cache(on_book, market)
done.wait()
manager.stop()
