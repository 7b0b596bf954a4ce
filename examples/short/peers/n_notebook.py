"""ccxt 4.5.90: in a notebook, whose event loop runs already: the body of `cell` as it stands is a cell."""

import asyncio

import ccxt.pro


async def cell() -> None:
    """Read a book, and let the next cell find the exchange closed."""
    exchange = ccxt.pro.binance()
    try:
        book = await exchange.watch_order_book("BTC/USDT")
        print(book["nonce"], book["bids"][:5], book["asks"][:5])
    finally:
        await exchange.close()


asyncio.run(cell())
