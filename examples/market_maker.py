"""A market maker's quoting loop: a bid and an ask around the fair price, and none while the book may be wrong.

    python examples/market_maker.py BTCUSDT --tick 0.01

It sends no orders: put your own in the place of `PaperOrders`. examples/test_market_maker.py tests it with faults.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Protocol

import ldc

LOOK_S = 0.2
"""How long the loop sleeps at most before it looks whether the book can still be read."""


class Orders(Protocol):
    """Where quotes go to."""

    def quote(self, bid: Decimal, ask: Decimal) -> None:
        """Replace the quotes in the market."""

    def cancel(self, why: str) -> None:
        """Take the quotes out of the market."""


class PaperOrders:
    """Prints what it is told."""

    def quote(self, bid: Decimal, ask: Decimal) -> None:
        """Print the quotes."""
        print(f"quote  {bid} / {ask}")

    def cancel(self, why: str) -> None:
        """Print why there are none."""
        print(f"cancel: {why}")


class MarketMaker:
    """Quotes one market."""

    def __init__(
        self, manager: ldc.BinanceLocalDepthCacheManager, market: str, orders: Orders, tick: Decimal, edge: Decimal
    ) -> None:
        self._cache = manager.get_depth_cache(market)
        self._orders = orders
        self._tick = tick
        self._edge = edge  # what a quote is to earn, as a part of the price
        self._seen: int | None = None
        self._quoted: tuple[Decimal, Decimal] | None = None

    def step(self) -> bool:
        """Wait for the next update, and quote accordingly; return whether it has anything in the market."""
        try:
            self._cache.wait_for_update(self._seen, LOOK_S)  # an update, or the time: a look is due in both cases
            book = self._cache.reader.view(1, number=Decimal)
        except ldc.DepthCacheOutOfSync as error:
            self.cancel(str(error))
            self._seen = None  # the next wait ends when it can be read again
            return False
        self._seen = book.last_update_id
        quotes = self.quotes(book)
        if quotes is None:
            self.cancel("one side of the book is empty")
        elif quotes != self._quoted:
            self._orders.quote(*quotes)
            self._quoted = quotes
        return quotes is not None

    def quotes(self, book: ldc.BookView[Decimal]) -> tuple[Decimal, Decimal] | None:
        """Return bid and ask around the price that the sizes at the top speak for, on the tick, away from it."""
        if not book.bids or not book.asks:
            return None
        (bid, bid_size), (ask, ask_size) = book.bids[0], book.asks[0]
        fair = (bid * ask_size + ask * bid_size) / (bid_size + ask_size)
        return self.on_tick(fair * (1 - self._edge), ROUND_FLOOR), self.on_tick(fair * (1 + self._edge), ROUND_CEILING)

    def on_tick(self, price: Decimal, rounding: str) -> Decimal:
        """Return the next price that the exchange accepts."""
        return (price / self._tick).quantize(Decimal(1), rounding) * self._tick

    def cancel(self, why: str) -> None:
        """Have nothing in the market."""
        if self._quoted is not None:
            self._orders.cancel(why)
            self._quoted = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Quote for so many steps, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", nargs="?", default="BTCUSDT")
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--tick", type=Decimal, default=Decimal("0.01"))
    parser.add_argument("--edge", type=Decimal, default=Decimal("0.0002"), help="part of the price (default 2 bp)")
    parser.add_argument("--steps", type=int, help="end after so many (default: never)")
    options = parser.parse_args(arguments)

    with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.market)
        if not manager.wait_until_synchronized(timeout=30):
            raise SystemExit(f"not synchronized in 30 s: {manager.get_status(options.market).last_error}")
        maker = MarketMaker(manager, options.market, PaperOrders(), options.tick, options.edge)
        steps = 0
        try:
            while options.steps is None or steps < options.steps:
                maker.step()
                steps += 1
        finally:
            maker.cancel("the bot ends")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every console can write the name of every market
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
