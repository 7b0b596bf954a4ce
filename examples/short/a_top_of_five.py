"""The top of book of five markets, at each change of it."""

import ldc

tops: dict[str, tuple[float, float]] = {}
with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache(["BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"])
    for update in manager.updates():
        if update.is_lost:
            continue
        book = manager.get_book(update.market, 1)
        top = book.bids[0][0], book.asks[0][0]
        if tops.get(update.market) != top:
            tops[update.market] = top
            print(update.market, *top)
        if len(tops) == 5:
            break
