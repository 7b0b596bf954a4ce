"""UBLDC 2.14.0: the program itself."""

import time

import unicorn_binance_local_depth_cache as ubldc

with ubldc.BinanceLocalDepthCacheManager(exchange="binance.com") as manager:
    manager.create_depthcache(markets=["BTCUSDT", "ETHUSDT"])
    while not all(manager.is_depth_cache_synchronized(market=market) for market in ("BTCUSDT", "ETHUSDT")):
        time.sleep(0.1)
    print(manager.get_asks(market="BTCUSDT", limit_count=5))
    print(manager.get_bids(market="BTCUSDT", threshold_volume=300_000))
