"""Spot against futures by callbacks: the two feeds call, right after the receive, and nothing waits in between.

    python examples/callback_arbitrage.py BTCUSDT --spot binance.com --futures binance.com-futures --fees 0.0012

It sends no orders. An inline callback has the lowest latency there is without spinning. It runs in the thread of its
feed, and all books of that feed wait meanwhile: so it only compares, and leaves the rest to another thread.
"""

import argparse
import io
import queue
import sys
import threading
from collections.abc import Sequence

import ldc


class Tops:
    """The best prices of both markets, as the callbacks have left them."""

    def __init__(self, fees: float) -> None:
        self.found: queue.SimpleQueue[str] = queue.SimpleQueue()
        """What there is to do, for the thread that trades."""
        self._fees = fees
        self._lock = threading.Lock()
        self._tops: dict[str, tuple[float, float]] = {}

    def listen(self, manager: ldc.BinanceLocalDepthCacheManager, market: str, name: str) -> ldc.CallbackHandle:
        """Let the feed of a market call."""
        reader = manager.get_depth_cache(market).reader

        def on_update(update: ldc.BookUpdate) -> None:
            try:
                bid, ask = (None, None) if update.is_lost else (reader.best_bid, reader.best_ask)
            except ldc.DepthCacheOutOfSync:
                bid = ask = None
            if bid is None or ask is None:
                self.forget(name)
            else:
                self.compare(name, bid[0], ask[0])

        return manager.on_update(on_update, market, inline=True)

    def forget(self, name: str) -> None:
        """A book cannot be read: what was compared with it is void."""
        with self._lock:
            self._tops.pop(name, None)

    def compare(self, name: str, bid: float, ask: float) -> None:
        """Note a top, and compare both, if both are there."""
        with self._lock:
            self._tops[name] = bid, ask
            if len(self._tops) < 2:
                return
            (spot_bid, spot_ask), (futures_bid, futures_ask) = self._tops["spot"], self._tops["futures"]
        for what, buy, sell in (
            ("buy spot, sell futures", spot_ask, futures_bid),
            ("buy futures, sell spot", futures_ask, spot_bid),
        ):
            gain = (sell - buy) / buy
            if gain > self._fees:
                self.found.put(f"TRADE  {what}: {gain * 1e4:+.2f} bp")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what there is to earn, as soon as one of the two books shows it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", nargs="?", default="BTCUSDT")
    parser.add_argument("--spot", default="simulator", metavar="EXCHANGE")
    parser.add_argument("--futures", default="simulator-futures", metavar="EXCHANGE")
    parser.add_argument("--fees", type=float, default=0.0012, help="of both trades, as a part of the price")
    parser.add_argument("--trades", type=int, help="end after so many (default: never)")
    options = parser.parse_args(arguments)

    with (
        ldc.BinanceLocalDepthCacheManager(options.spot) as spot,
        ldc.BinanceLocalDepthCacheManager(options.futures) as futures,
    ):
        tops = Tops(options.fees)
        handles = []
        for name, manager in (("spot", spot), ("futures", futures)):
            manager.create_depth_cache(options.market)
            handles.append(tops.listen(manager, options.market, name))
        done = 0
        while options.trades is None or done < options.trades:
            print(tops.found.get())
            done += 1
        for handle in handles:
            handle.cancel()
            print(f"{handle.calls} calls, the slowest took {handle.slowest_ms:.3f} ms")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every console can write the name of every market
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
