"""cryptofeed 2.4.1: a callback with each single update, and what it changed."""

import asyncio
from typing import Any

from cryptofeed import FeedHandler
from cryptofeed.defines import L2_BOOK
from cryptofeed.exchanges import Binance

handler = FeedHandler()


async def on_update(book: Any, _: float) -> None:
    """Print the levels that changed; quantity 0 removes one."""
    if book.delta is None:
        print(book.symbol, book.sequence_number, book.book.bids.to_list()[:2], book.book.asks.to_list()[:2])
    else:
        print(book.symbol, book.sequence_number, book.delta["bid"][:2], book.delta["ask"][:2])
        asyncio.get_running_loop().stop()


handler.add_feed(Binance(symbols=["BTC-USDT"], channels=[L2_BOOK], callbacks={L2_BOOK: on_update}))
handler.run()
