"""ccxt 4.5.90: what a program meets: a misspelt exchange, a market that does not exist, a book that is out of sync."""

import asyncio
import difflib

import ccxt.pro


async def main() -> None:
    """Print each error."""
    name = "binance.com"
    if not hasattr(ccxt.pro, name):
        print("There is no exchange", name, difflib.get_close_matches(name, ccxt.pro.exchanges))
    exchange = ccxt.pro.binance()
    try:
        for market in ("BTC/USD", "BTC/USDT"):
            try:
                await exchange.watch_order_book(market)
            except (ccxt.BadSymbol, ccxt.ChecksumError, ccxt.NetworkError) as error:
                print(error)
    finally:
        await exchange.close()


asyncio.run(main())
