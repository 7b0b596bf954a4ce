"""Figures for Prometheus."""

from prometheus_client import CollectorRegistry, generate_latest

import ldc
import ldc.metrics

with ldc.DepthCacheManager("simulator") as manager:
    manager.create_depth_cache("BTCUSDT")
    manager.wait_until_synchronized(timeout=30)
    registry = CollectorRegistry()
    registry.register(ldc.metrics.collector(manager))
    print(generate_latest(registry).decode())
