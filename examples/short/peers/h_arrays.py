"""ccxt 4.5.90: both sides as arrays of numpy."""

import asyncio

import ccxt.pro
import numpy as np


async def main() -> None:
    """Print the totals."""
    exchange = ccxt.pro.binance()
    try:
        book = await exchange.watch_order_book("BTC/USDT")
        bids, asks = np.array(book["bids"][:100]), np.array(book["asks"][:100])
        print(book["nonce"], bids[:, 1].cumsum()[-1], asks[:, 1].cumsum()[-1])
    finally:
        await exchange.close()


asyncio.run(main())
