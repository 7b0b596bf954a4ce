"""ccxt 4.5.90: a bot in asyncio, on three markets."""

import asyncio

import ccxt.pro


async def main() -> None:
    """Quote around mid, and pull the quotes when a book is lost."""
    exchange = ccxt.pro.binance()
    quoted = set()
    try:
        while len(quoted) < 3:
            try:
                book = await exchange.watch_order_book_for_symbols(["BTC/USDT", "ETH/USDT", "SOL/USDT"])
            except ccxt.NetworkError as error:
                print("cancel all", error)
                continue
            mid = (book["bids"][0][0] + book["asks"][0][0]) / 2
            print("quote", book["symbol"], mid * 0.999, mid * 1.001)
            quoted.add(book["symbol"])
    finally:
        await exchange.close()


asyncio.run(main())
