"""ccxt 4.5.90: what buying 2 BTC costs, mid, spread, micro-price, imbalance."""

import asyncio

import ccxt.pro


async def main() -> None:
    """Print the prices, all by hand."""
    exchange = ccxt.pro.binance()
    try:
        book = await exchange.watch_order_book("BTC/USDT")
    finally:
        await exchange.close()
    left, cost = 2.0, 0.0
    for price, quantity in book["asks"]:
        taken = min(left, quantity)
        left, cost = left - taken, cost + taken * price
        if not left:
            break
    print("buy 2 at", cost / 2 if not left else None)
    (bid, bid_quantity), (ask, ask_quantity) = book["bids"][0], book["asks"][0]
    micro_price = (ask * bid_quantity + bid * ask_quantity) / (bid_quantity + ask_quantity)
    print((bid + ask) / 2, ask - bid, micro_price)
    bids, asks = (sum(quantity for _, quantity in book[side][:5]) for side in ("bids", "asks"))
    print("imbalance", (bids - asks) / (bids + asks))


asyncio.run(main())
