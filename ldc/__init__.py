"""Exact local copies of Binance order books, fast enough for high-frequency bots. A copy that may be wrong is refused.

Live, from an exchange:

    with ldc.BinanceLocalDepthCacheManager("binance.com") as manager:
        manager.create_depth_cache("BTCUSDT")
        manager.wait_until_synchronized(timeout=30)
        manager.get_asks("BTCUSDT", limit_count=10)
        for update in manager.updates("BTCUSDT"):     # or async for
            print(update.market, update.last_update_id)

One book, updated by hand:

    book = ldc.OrderBook("spot")
    book.load_snapshot(rest_body, limit=1000)
    book.apply(frame_payload)
    book.best_bid, book.best_ask

Names that are not in `__all__` are private, whatever their spelling.
"""

from ldc._version import __version__
from ldc.analytics.arrow import LevelTable
from ldc.analytics.view import BookView
from ldc.book import IMPLEMENTATION, BookReader, OrderBook, read_header
from ldc.consume.callbacks import CallbackHandle
from ldc.consume.stream import MergedStream, UpdateStream, merge
from ldc.consume.updates import BookUpdate
from ldc.errors import (
    BookNotLoaded,
    DepthCacheAlreadyStopped,
    DepthCacheClusterNotReachableError,
    DepthCacheError,
    DepthCacheNotFound,
    DepthCacheOutOfSync,
    MalformedMessage,
    UnknownExchange,
    UnknownMarket,
)
from ldc.manager.depth_cache import DepthCache
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.manager.settings import Endpoints
from ldc.sequence import FUTURES, SPOT, SequenceRule
from ldc.shared import SharedBooks
from ldc.types import (
    ArrayCounts,
    BookArrays,
    BookCounters,
    BookTexts,
    Cause,
    Comparison,
    ConnectionStatus,
    Depth,
    DepthCacheStatus,
    Fill,
    Header,
    Prices,
    Progress,
    SyncState,
    Verdict,
)

DepthCacheManager = BinanceLocalDepthCacheManager
"""A short name."""

FeedStatus = ConnectionStatus
"""The name of `ConnectionStatus` up to 0.1."""

__all__ = [
    "FUTURES",
    "IMPLEMENTATION",
    "SPOT",
    "ArrayCounts",
    "BinanceLocalDepthCacheManager",
    "BookArrays",
    "BookCounters",
    "BookNotLoaded",
    "BookReader",
    "BookTexts",
    "BookUpdate",
    "BookView",
    "CallbackHandle",
    "Cause",
    "Comparison",
    "ConnectionStatus",
    "Depth",
    "DepthCache",
    "DepthCacheAlreadyStopped",
    "DepthCacheClusterNotReachableError",
    "DepthCacheError",
    "DepthCacheManager",
    "DepthCacheNotFound",
    "DepthCacheOutOfSync",
    "DepthCacheStatus",
    "Endpoints",
    "FeedStatus",
    "Fill",
    "Header",
    "LevelTable",
    "MalformedMessage",
    "MergedStream",
    "OrderBook",
    "Prices",
    "Progress",
    "SequenceRule",
    "SharedBooks",
    "SyncState",
    "UnknownExchange",
    "UnknownMarket",
    "UpdateStream",
    "Verdict",
    "__version__",
    "merge",
    "read_header",
]
