"""Three hundred markets."""

import sys

import ldc

markets = [f"M{number}USDT" for number in range(int(sys.argv[1]))]
with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache(markets)
    manager.wait_until_synchronized(timeout=300)
    print(manager.get_progress())
