"""ccxt 4.5.90: three hundred markets."""

import asyncio
import sys

import ccxt.pro


async def main() -> None:
    """Wait until each has a book."""
    exchange = ccxt.pro.binance()
    try:
        markets = [name for name in await exchange.load_markets() if name.endswith("/USDT")][: int(sys.argv[1])]
        ready = set()
        while len(ready) < len(markets):
            ready.add((await exchange.watch_order_book_for_symbols(markets))["symbol"])
        print(len(ready))
    finally:
        await exchange.close()


asyncio.run(main())
