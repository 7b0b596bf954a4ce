"""A bot in asyncio, on three markets."""

import asyncio

import ldc


async def main() -> None:
    """Quote around mid, and pull the quotes of a book that is lost."""
    async with ldc.DepthCacheManager("simulator") as manager:
        manager.create_depth_cache(["BTCUSDT", "ETHUSDT", "SOLUSDT"])
        quoted = set()
        async for update in manager.updates():
            if update.is_lost:
                print("cancel", update.market, update.cause)
            elif mid := manager.get_depth_cache(update.market).mid:
                print("quote", update.market, mid * 0.999, mid * 1.001)
                quoted.add(update.market)
            if len(quoted) == 3:
                return


asyncio.run(main())
