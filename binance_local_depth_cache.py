"""ldc under the name that users of "Binance Local Depth Cache" import. The code is in `ldc`."""

from ldc import (
    BinanceLocalDepthCacheManager,
    DepthCacheAlreadyStopped,
    DepthCacheClusterNotReachableError,
    DepthCacheError,
    DepthCacheNotFound,
    DepthCacheOutOfSync,
    UnknownExchange,
    UnknownMarket,
    __version__,
)

__all__ = [
    "BinanceLocalDepthCacheManager",
    "DepthCacheAlreadyStopped",
    "DepthCacheClusterNotReachableError",
    "DepthCacheError",
    "DepthCacheNotFound",
    "DepthCacheOutOfSync",
    "UnknownExchange",
    "UnknownMarket",
    "__version__",
]
