"""A program for UBLDC, with its import changed."""

import binance_local_depth_cache as ubldc

with ubldc.BinanceLocalDepthCacheManager(exchange="simulator") as manager:
    manager.create_depth_cache(markets=["BTCUSDT", "ETHUSDT"])
    manager.wait_until_synchronized(timeout=30)
    print(manager.get_asks(market="BTCUSDT", limit_count=5))
    print(manager.get_bids(market="BTCUSDT", threshold_volume=300_000))
