"""The updates of one market for as long as a channel exists: also before it is served, and after it was stopped.

Rule 1: nothing polls a book. A channel waits for the manager's stream of updates, which wakes the event loop.
"""

import asyncio
from collections.abc import AsyncGenerator

import ldc
from ldc.gateway.books import Books
from ldc.gateway.limits import REQUEST_AGAIN_S


async def followed(
    books: Books, symbol: str, policy: str, number: type[float] | type[str] = float
) -> AsyncGenerator[ldc.BookUpdate | None, None]:
    """Yield each item of a market's stream; None: the market is not served, or its manager was stopped.

    Close it (``contextlib.aclosing``), so that its stream ends with it.
    """
    while True:
        try:
            with books.manager.updates(symbol, policy=policy, number=number) as stream:
                async for item in stream:
                    yield item
        except ldc.DepthCacheError:
            pass  # there is no such market yet, or no longer
        yield None
        await asyncio.sleep(REQUEST_AGAIN_S)
