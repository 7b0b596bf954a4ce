"""A bot in a container ends when SIGTERM comes, and leaves nothing behind."""

import signal
import sys

import ldc

signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    for update in manager.updates():
        print(update.market, update.last_update_id, flush=True)
