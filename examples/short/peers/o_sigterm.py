"""ccxt 4.5.90: a bot in a container ends when SIGTERM comes, and leaves nothing behind."""

import asyncio
import contextlib
import signal

import ccxt.pro


async def main() -> None:
    """Print each update until the signal comes."""
    task = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    exchange = ccxt.pro.binance()
    with contextlib.suppress(asyncio.CancelledError):
        try:
            while True:
                book = await exchange.watch_order_book("BTC/USDT")
                print(book["symbol"], book["nonce"], flush=True)
        finally:
            await exchange.close()
    print("stopped by SIGTERM")


asyncio.run(main())
