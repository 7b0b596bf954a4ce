"""A callback with each single update, and what it changed."""

import threading

import ldc

done = threading.Event()


def on_update(update: ldc.BookUpdate) -> None:
    """Print the levels that changed; quantity 0 removes one."""
    print(update.market, update.last_update_id, update.bids[:2], update.asks[:2], update.missed)
    if not update.is_snapshot:
        done.set()


with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    manager.on_update(on_update, policy="every")
    done.wait(timeout=60)
