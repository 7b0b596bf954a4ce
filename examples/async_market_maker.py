"""A market maker in asyncio: many markets in one loop, and no quote while a book may be wrong.

    python examples/async_market_maker.py BTCUSDT ETHUSDT --edge 0.0002

It sends no orders: put your own client in the place of the prints. The stream of the policy "latest" has at most one
item a market waiting. So a loop that is slow quotes late, but never on a book that it has not looked at.
"""

import argparse
import asyncio
import io
import sys
from collections.abc import Sequence

import ldc


class AsyncMarketMaker:
    """Quotes around the price that the sizes at the top speak for."""

    def __init__(self, manager: ldc.BinanceLocalDepthCacheManager, edge: float) -> None:
        self._manager = manager
        self._edge = edge  # what a quote is to earn, as a part of the price
        self._quoted: dict[str, tuple[float, float]] = {}

    async def run(self, updates: int | None) -> None:
        """Quote until so many updates have come."""
        seen = 0
        async with self._manager.updates() as stream:
            async for update in stream:
                if update.is_lost:
                    await self.cancel(update.market, f"the book is lost: {update.cause}")
                else:
                    await self.quote(update.market)
                seen += 1
                if seen == updates:
                    break
        for market in list(self._quoted):
            await self.cancel(market, "the bot ends")

    async def quote(self, market: str) -> None:
        """Replace the quotes of a market."""
        try:
            book = self._manager.get_book(market, 1)
        except ldc.DepthCacheOutOfSync as error:  # lost since the item: the next one says so
            await self.cancel(market, str(error))
            return
        if not book.bids or not book.asks:
            await self.cancel(market, "one side of the book is empty")
            return
        (bid, bid_size), (ask, ask_size) = (tuple(map(float, side[0])) for side in (book.bids, book.asks))
        fair = (bid * ask_size + ask * bid_size) / (bid_size + ask_size)
        quotes = round(fair * (1 - self._edge), 2), round(fair * (1 + self._edge), 2)
        if quotes != self._quoted.get(market):
            self._quoted[market] = quotes
            print(f"quote  {market} {quotes[0]} / {quotes[1]}")
            await asyncio.sleep(0)  # here an order would be sent, and the loop does other work meanwhile

    async def cancel(self, market: str, why: str) -> None:
        """Have nothing in that market."""
        if self._quoted.pop(market, None) is not None:
            print(f"cancel {market}: {why}")
            await asyncio.sleep(0)


async def trade(options: argparse.Namespace) -> None:
    """Keep books, and quote them."""
    async with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.markets)
        await manager.wait_until_synchronized_async(timeout=30)
        await AsyncMarketMaker(manager, options.edge).run(options.updates)


def main(arguments: Sequence[str] | None = None) -> None:
    """Quote for so many updates, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("markets", nargs="*", default=["BTCUSDT", "ETHUSDT"])
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--edge", type=float, default=0.0002, help="part of the price (default 2 bp)")
    parser.add_argument("--updates", type=int, help="end after so many (default: never)")
    asyncio.run(trade(parser.parse_args(arguments)))


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every console can write the name of every market
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
