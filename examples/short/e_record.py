"""Record each update, and make the bids from the recording again."""

import ldc

with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    recorded = []
    for update in manager.updates(policy="every"):
        recorded.append(update)
        if len(recorded) == 10:
            break
bids: dict[float, float] = {}
for update in recorded:
    bids = dict(update.bids) if update.is_snapshot else bids | dict(update.bids)
best = max(price for price, quantity in bids.items() if quantity)
print("best bid", best, "at update", recorded[-1].last_update_id)
