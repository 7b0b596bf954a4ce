"""ccxt 4.5.90: figures for Prometheus, all by hand, and three of them."""

import asyncio
import time

import ccxt.pro
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

registry = CollectorRegistry()
synchronized = Gauge("book_synchronized", "1: it can be read", ["market"], registry=registry)
event_time = Gauge("book_event_time_seconds", "The exchange's time", ["market"], registry=registry)
updates = Counter("book_updates", "Updates", ["market"], registry=registry)


async def main() -> None:
    """Follow one market, and print the figures."""
    exchange = ccxt.pro.binance()
    try:
        book = await exchange.watch_order_book("BTC/USDT")
        synchronized.labels("BTCUSDT").set(1)
        event_time.labels("BTCUSDT").set((book["timestamp"] or time.time() * 1000) / 1000)
        updates.labels("BTCUSDT").inc()
        print(generate_latest(registry).decode())
    finally:
        await exchange.close()


asyncio.run(main())
