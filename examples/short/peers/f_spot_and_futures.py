"""ccxt 4.5.90: the same market on spot and on futures."""

import asyncio

import ccxt.pro


async def main() -> None:
    """Read both books."""
    spot, futures = ccxt.pro.binance(), ccxt.pro.binanceusdm()
    try:
        one, other = await asyncio.gather(spot.watch_order_book("BTC/USDT"), futures.watch_order_book("BTC/USDT:USDT"))
        print("buy spot", one["asks"][0], "sell futures", other["bids"][0])
    finally:
        await asyncio.gather(spot.close(), futures.close())


asyncio.run(main())
