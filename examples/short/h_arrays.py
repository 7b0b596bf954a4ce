"""Both sides of one update id as arrays of numpy."""

import ldc

with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    manager.wait_until_synchronized(timeout=30)
    book = manager.get_depth_cache("BTCUSDT").arrays(100)
    print(book.last_update_id, book.bids[:, 1].cumsum()[-1], book.asks[:, 1].cumsum()[-1])
