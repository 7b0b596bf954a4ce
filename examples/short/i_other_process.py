"""Books that another process reads, such as a dashboard."""

import os
import subprocess
import sys

import ldc

share = f"desk-{os.getpid()}"
READER = f"import ldc; print('the other process sees', ldc.SharedBooks('{share}')['BTCUSDT'].best_bid)"
with ldc.DepthCacheManager("simulator", share=share) as manager:
    manager.create_depth_cache("BTCUSDT")
    manager.wait_until_synchronized(timeout=30)
    print(subprocess.run([sys.executable, "-P", "-c", READER], check=True, capture_output=True, text=True).stdout)
