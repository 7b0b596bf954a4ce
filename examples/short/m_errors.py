"""What a program meets: a misspelt exchange, a market that does not exist, a book that is out of sync."""

import ldc

try:
    ldc.DepthCacheManager("binanceusdm")
except ldc.UnknownExchange as error:
    print(error)
with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    for market in ("BTCUSD", "BTCUSDT"):
        try:
            manager.get_book(market)
        except (ldc.DepthCacheNotFound, ldc.DepthCacheOutOfSync) as error:
            print(error)
