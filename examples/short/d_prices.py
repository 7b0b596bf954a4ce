"""What buying 2 BTC costs, mid, spread, micro-price, imbalance."""

from decimal import Decimal

import ldc

with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    manager.wait_until_synchronized(timeout=30)
    book = manager.get_depth_cache("BTCUSDT")
    print("buy 2 at", book.fill("asks", quantity=2, number=Decimal).average_price)
    print(book.prices(number=Decimal))
    print("imbalance", book.imbalance(levels=5))
