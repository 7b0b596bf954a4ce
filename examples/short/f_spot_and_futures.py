"""The same market on spot and on futures."""

import ldc

with ldc.DepthCacheManager("simulator") as spot, ldc.DepthCacheManager("simulator-futures") as futures:
    for manager in (spot, futures):
        manager.create_depth_cache("BTCUSDT")
        manager.wait_until_synchronized(timeout=30)
    print("buy spot", spot.get_asks("BTCUSDT", 1), "sell futures", futures.get_bids("BTCUSDT", 1))
