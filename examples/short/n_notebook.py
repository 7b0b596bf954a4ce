"""In a notebook, whose event loop runs already: the body of `cell` as it stands is a cell."""

import asyncio

import ldc


async def cell() -> None:
    """Read a book, and let the next cell find the manager stopped."""
    async with ldc.DepthCacheManager("simulator") as manager:
        manager.create_depth_cache("BTCUSDT")
        await manager.wait_until_synchronized_async(timeout=30)
        print(manager.get_book("BTCUSDT", 5))


asyncio.run(cell())
