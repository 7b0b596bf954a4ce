"""The peers: other libraries' books, each fed through the code that its own users' messages go through.

What arrives is what the peer's own socket would hand on: a text or bytes, of a combined or of a single stream. From
there the peer's own code decodes it, judges the ids and changes the book. What the peer does around it (sockets,
queues, tasks, threads) is left out, which favours it. Nothing here uses the network: a request for a snapshot is
answered from the recording.

Everything of a peer is imported when it is made, so that one that is missing or broken costs only its own row.
"""

import asyncio
import contextlib
import gzip
import io
import math
import tempfile
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import orjson

from bench_contenders import OrjsonAndSortedDict
from bench_recordings import Market
from ldc.book import OrderBook

Levels = dict[float, float]


class NotSupported(Exception):
    """The peer has no book for such a market; the text says why."""


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise RuntimeError("the coroutine waits for something")


def symbol_of(market: Market) -> str:
    """Return the name that the market's own frames carry."""
    return str(orjson.loads(market.frames[0])["data"]["s"])


class Peer:
    """One market's book of a peer, at its snapshot when made."""

    package: ClassVar[str]
    how: ClassVar[str]
    """Which code of the peer runs, and what it decodes JSON with."""

    top: ClassVar[str] = ""
    ten: ClassVar[str] = ""
    """How its users read price and quantity of the best level of both sides, and of the ten best; an expression."""

    levels_max: ClassVar[int | None] = None
    """Levels a side beyond which the peer throws away."""

    apply: Callable[[Any], object]

    def __init__(self, market: Market, venue: str) -> None:
        self.market = market

    @staticmethod
    def prepare(frame: bytes) -> Any:
        """Return what the peer's socket hands on for a frame; not timed."""
        return frame

    def run(self, frames: Iterable[Any]) -> None:
        """Apply everything; timed."""
        apply = self.apply
        for frame in frames:
            apply(frame)

    def levels(self) -> tuple[Levels, Levels]:
        """Return all bids and asks."""
        raise NotImplementedError

    def names(self) -> dict[str, object]:
        """Return what the names in `top` and `ten` stand for."""
        return {}


class Ldc(Peer):
    """This library."""

    package = "ldc"
    how = "`OrderBook.apply(bytes)`"
    top = "book.best_bid, book.best_ask"
    ten = "book.bids(10), book.asks(10)"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        self.book = OrderBook(market.rule)
        self.book.load_snapshot(market.snapshot, 1000)
        self.apply = self.book.apply

    def levels(self) -> tuple[Levels, Levels]:
        bids = self.book.bids(number=Decimal, beyond_horizon=True)
        asks = self.book.asks(number=Decimal, beyond_horizon=True)
        return _floats(bids), _floats(asks)

    def names(self) -> dict[str, object]:
        return {"book": self.book}


class Yardstick(Peer):
    """Bytes to Python objects, and no book."""

    package = "orjson"
    how = "`orjson.loads` alone: no book"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        self.apply = orjson.loads


class SortedContainers(Peer):
    """What one writes oneself."""

    package = "sortedcontainers"
    how = "orjson, two `SortedDict` of float, 20 lines of our own that judge the ids"
    top = "bids.peekitem(-1), asks.peekitem(0)"
    ten = "bids.items()[:-11:-1], asks.items()[:10]"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        self.book = OrjsonAndSortedDict(market)
        self.apply = self.book.apply

    def levels(self) -> tuple[Levels, Levels]:
        return dict(self.book.bids), dict(self.book.asks)

    def names(self) -> dict[str, object]:
        return {"bids": self.book.bids, "asks": self.book.asks}


class PythonBinance(Peer):
    """`DepthCacheManager` of python-binance."""

    package = "python-binance"
    how = "`ReconnectingWebsocket._handle_message` (orjson), `DepthCacheManager._depth_event`"
    top = "cache.get_bids()[0], cache.get_asks()[0]"
    ten = "cache.get_bids()[:10], cache.get_asks()[:10]"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        if venue != "spot":
            raise NotSupported("its futures cache replaces the book by each message: it is for partial depth only")
        from binance.ws.depthcache import DepthCacheManager
        from binance.ws.reconnecting_websocket import ReconnectingWebsocket

        class Client:
            async def get_order_book(self, **_: object) -> Any:
                return orjson.loads(market.snapshot)

        loop = _event_loop()
        self.manager = DepthCacheManager(Client(), symbol_of(market), loop=loop, bm=object(), limit=1000)
        finish(self.manager._init_cache())
        socket = ReconnectingWebsocket.__new__(ReconnectingWebsocket)
        socket._is_binary = False
        socket._log = self.manager._log
        decode, depth_event = socket._handle_message, self.manager._depth_event
        self.apply = lambda text: finish(depth_event(decode(text)))

    @staticmethod
    def prepare(frame: bytes) -> str:
        # Its cache subscribes to a single stream, whose messages have no envelope.
        return frame[frame.index(b'"data":') + len(b'"data":') : -1].decode()

    def levels(self) -> tuple[Levels, Levels]:
        cache = self.manager.get_depth_cache()
        return _floats(cache.get_bids()), _floats(cache.get_asks())

    def names(self) -> dict[str, object]:
        return {"cache": self.manager.get_depth_cache()}


class Ccxt(Peer):
    """The order book of ccxt.pro."""

    package = "ccxt"
    how = "`Client.handle_text_or_binary_message` (orjson), `binance.handle_message`"
    top = "book['bids'][0], book['asks'][0]"
    ten = "book['bids'][:10], book['asks'][:10]"
    _exchanges: ClassVar[dict[str, Any]] = {}

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        import ccxt.pro
        from ccxt.async_support.base.ws.client import Client

        exchange = ccxt.pro.binance()
        name = symbol_of(market)
        is_spot = venue == "spot"
        about = exchange.safe_market_structure(
            {"id": name, "symbol": name, "type": "spot" if is_spot else "swap", "spot": is_spot, "swap": not is_spot}
        )
        exchange.set_markets([about])
        url = exchange.urls["api"]["ws"][{"spot": "spot", "USD-M": "linear", "COIN-M": "inverse"}[venue]]
        _event_loop()
        client = Client(url, exchange.handle_message, *[lambda *_: None] * 3)
        self.exchange, self.name = exchange, name
        exchange.orderbooks[name] = exchange.order_book({}, 1000)
        body = orjson.loads(market.snapshot)
        snapshot = exchange.parse_order_book(body, name, exchange.safe_integer(body, "T"))
        exchange.orderbooks[name].reset(snapshot | {"nonce": body["lastUpdateId"]})
        self.apply = client.handle_text_or_binary_message

    @staticmethod
    def prepare(frame: bytes) -> str:
        return frame.decode()

    def levels(self) -> tuple[Levels, Levels]:
        book = self.exchange.orderbooks[self.name]
        return _floats(book["bids"]), _floats(book["asks"])

    def names(self) -> dict[str, object]:
        return {"book": self.exchange.orderbooks[self.name]}


class Cryptofeed(Peer):
    """cryptofeed, with its compiled sorted book of `Decimal`."""

    package = "cryptofeed"
    how = "`Binance.message_handler` (yapic.json), `order_book.OrderBook` of Decimal"
    top = "book.bids.index(0), book.asks.index(0)"
    ten = "[book.bids.index(n) for n in range(10)], [book.asks.index(n) for n in range(10)]"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        from cryptofeed.defines import L2_BOOK
        from cryptofeed.exchanges import Binance, BinanceDelivery, BinanceFutures
        from cryptofeed.symbols import Symbols

        kind = {"spot": Binance, "USD-M": BinanceFutures, "COIN-M": BinanceDelivery}[venue]
        name = symbol_of(market)
        Symbols.set(kind.id, {name: name}, {})

        class Rest:
            async def read(self, *_: object, **__: object) -> str:
                return market.snapshot.decode()

        async def called(book: object, at: float) -> None:
            pass

        feed = kind(symbols=[name], channels=[L2_BOOK], callbacks={L2_BOOK: called})
        feed.http_conn = Rest()
        finish(feed._snapshot(name))
        self.feed, self.name = feed, name
        handle = feed.message_handler
        self.apply = lambda text: finish(handle(text, None, 0.0))

    @staticmethod
    def prepare(frame: bytes) -> str:
        return frame.decode()

    def levels(self) -> tuple[Levels, Levels]:
        book = self.feed._l2_book[self.name].book
        return _floats(book.bids.to_dict().items()), _floats(book.asks.to_dict().items())

    def names(self) -> dict[str, object]:
        return {"book": self.feed._l2_book[self.name].book}


class Nautilus(Peer):
    """nautilus_trader's adapter for Binance, and its book in Rust."""

    package = "nautilus_trader"
    how = "the adapter's decoders (msgspec), `parse_to_order_book_deltas`, `OrderBook.apply_deltas`"
    top = "book.best_bid_price(), book.best_bid_size(), book.best_ask_price(), book.best_ask_size()"
    ten = "[(it.price, it.size()) for it in book.bids()[:10]], [(it.price, it.size()) for it in book.asks()[:10]]"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        import msgspec
        from nautilus_trader.adapters.binance.common.schemas.market import (
            BinanceDataMsgWrapper,
            BinanceDepth,
            BinanceOrderBookMsg,
        )
        from nautilus_trader.model.book import OrderBook as RustBook
        from nautilus_trader.model.enums import BookType
        from nautilus_trader.model.identifiers import InstrumentId

        instrument = InstrumentId.from_str(f"{symbol_of(market)}.BINANCE")
        book = RustBook(instrument, BookType.L2_MBP)
        depth = msgspec.json.decode(market.snapshot, type=BinanceDepth)
        book.apply_deltas(depth.parse_to_order_book_snapshot(instrument, 0))
        decode_envelope = msgspec.json.Decoder(BinanceDataMsgWrapper).decode
        decode = msgspec.json.Decoder(BinanceOrderBookMsg).decode

        def apply(frame: bytes) -> None:
            # What `_handle_ws_message` and `_handle_book_diff_update` do, without the engine between them and the book.
            if "@depth@" in decode_envelope(frame).stream:
                book.apply_deltas(decode(frame).data.parse_to_order_book_deltas(instrument_id=instrument, ts_init=0))

        self.book, self.apply = book, apply

    def levels(self) -> tuple[Levels, Levels]:
        bids, asks = (
            # Its numbers are exact, and their conversion to float is not.
            {float(level.price.as_decimal()): round(level.size(), 8) for level in side}
            for side in (self.book.bids(), self.book.asks())
        )
        return bids, asks

    def names(self) -> dict[str, object]:
        return {"book": self.book}


class Ubldc(Peer):
    """UNICORN Binance Local Depth Cache: its own loop over a stream, which waits for one message after the other."""

    package = "unicorn-binance-local-depth-cache"
    how = "orjson (as its stream library does), `_manage_depth_cache_async` of the compiled wheel"
    top = "bids(market=name, limit_count=1), asks(market=name, limit_count=1)"
    ten = "bids(market=name, limit_count=10), asks(market=name, limit_count=10)"
    levels_max = 1000

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        if venue == "COIN-M":
            raise NotSupported("it has no COIN-M")
        from unicorn_binance_local_depth_cache import BinanceLocalDepthCacheManager

        # The constructor needs the network and starts threads: only what it would have set is set.
        manager = BinanceLocalDepthCacheManager.__new__(BinanceLocalDepthCacheManager)
        threading.Thread.__init__(manager)
        manager.exchange = "binance.com" if venue == "spot" else "binance.com-futures"
        manager.stop_request, manager.high_performance = False, False
        manager.depth_caches, manager.threading_lock_ask, manager.threading_lock_bid = {}, {}, {}
        manager.dc_streams, manager.dc_streams_lock = {}, threading.Lock()
        manager.default_refresh_interval = None
        manager.ubra, manager.ubwa = _UbldcRest(market), _UbldcStream()
        self.manager, self.name = manager, symbol_of(market).lower()
        manager._add_depthcache(self.name)
        manager.depth_caches[self.name]["refresh_request"] = False
        assert manager._init_depth_cache(self.name)
        loop = manager._manage_depth_cache_async("stream")
        loop.send(None)
        self.apply = loop.send

    @staticmethod
    def prepare(frame: bytes) -> str:
        return frame.decode()

    def levels(self) -> tuple[Levels, Levels]:
        return _floats(self.manager.get_bids(self.name)), _floats(self.manager.get_asks(self.name))

    def names(self) -> dict[str, object]:
        return {"bids": self.manager.get_bids, "asks": self.manager.get_asks, "name": self.name}


class _UbldcRest:
    def __init__(self, market: Market) -> None:
        self._market = market

    def get_order_book(self, **_: object) -> Any:
        return orjson.loads(self._market.snapshot)

    futures_order_book = get_order_book


class _NextText:
    def __await__(self) -> Generator[None, str, str]:
        return (yield)


class _UbldcStream:
    """Stands in for the stream library: hands on one decoded message after the other."""

    def is_stop_request(self, stream_id: str) -> bool:
        return False

    def get_stream_label(self, stream_id: str) -> str:
        return stream_id

    async def get_stream_data_from_asyncio_queue(self, stream_id: str) -> Any:
        return orjson.loads(await _NextText())

    def asyncio_queue_task_done(self, stream_id: str) -> None:
        pass


class HftBacktest(Peer):
    """hftbacktest converts a file and replays it; live messages cannot be given to it from Python."""

    package = "hftbacktest"
    how = "`data.utils.binancefutures.convert` of a file (json), replay into its hash-map book; not live"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        if venue == "spot":
            raise NotSupported("its converter of recorded streams reads the futures' messages only")
        import hftbacktest
        from hftbacktest.data.utils import binancefutures

        self.library, self.convert = hftbacktest, binancefutures.convert
        self.file = tempfile.NamedTemporaryFile(suffix=".gz")  # noqa: SIM115 - lives as long as the book
        body = orjson.loads(market.snapshot)
        first_ms = orjson.loads(market.frames[0])["data"]["T"]
        # The snapshot goes before the first update, which may have begun before it.
        lines = [(first_ms - 1, orjson.dumps(body | {"T": first_ms - 1}))]
        lines += [(orjson.loads(frame)["data"]["T"], frame) for frame in market.frames]
        text = b"".join(b"%d %b\n" % (ms * 1_000_000 + 500_000, line) for ms, line in lines)
        Path(self.file.name).write_bytes(gzip.compress(text, compresslevel=0))
        self.rows_max = sum(frame.count(b'["') for frame in (market.snapshot, *market.frames)) + 2
        prices = [price for side in (market.bids, market.asks) for price in side]
        prices += [Decimal(price) for side in ("bids", "asks") for price, _ in body[side]]
        self.tick = _common_step(prices)

    def converted(self) -> Any:
        """Return the file's updates as an array of levels."""
        with contextlib.redirect_stdout(io.StringIO()):
            return self.convert(self.file.name, buffer_size=self.rows_max)

    def run(self, frames: Iterable[Any]) -> None:
        self.replay(self.converted())

    def replay(self, events: Any) -> None:
        """Run a back-test without a strategy over all events."""
        asset = self.library.BacktestAsset().data(events).linear_asset(1.0).constant_latency(0, 0)
        asset = asset.risk_adverse_queue_model().no_partial_fill_exchange().trading_value_fee_model(0.0, 0.0)
        asset = asset.tick_size(float(self.tick)).lot_size(1e-8)
        self.backtest = self.library.HashMapMarketDepthBacktest([asset])
        self.backtest.elapse(10**15)

    def levels(self) -> tuple[Levels, Levels]:
        events = self.backtest.depth(0).snapshot()
        is_bid = (events["ev"] & self.library.BUY_EVENT) == self.library.BUY_EVENT
        # It keeps a price as a number of ticks, and gives back their product with the tick.
        bids, asks = (
            {round(float(event["px"]), 8): round(float(event["qty"]), 8) for event in side}
            for side in (events[is_bid], events[~is_bid])
        )
        return bids, asks


class HftBacktestReplay(HftBacktest):
    """The same without the conversion: from an array of numbers to the book."""

    how = "the replay alone, of what was decoded and converted before"

    def __init__(self, market: Market, venue: str) -> None:
        super().__init__(market, venue)
        self.events = self.converted()

    def run(self, frames: Iterable[Any]) -> None:
        self.replay(self.events)


def _common_step(prices: list[Decimal]) -> Decimal:
    scale = max(-int(price.as_tuple().exponent) for price in prices)
    return Decimal(math.gcd(*(int(price.scaleb(scale)) for price in prices))).scaleb(-scale)


def _floats(levels: Iterable[Any]) -> Levels:
    return {float(price): float(quantity) for price, quantity in levels}


def _event_loop() -> asyncio.AbstractEventLoop:
    """Some constructors want one; it never runs."""
    global _LOOP  # noqa: PLW0603
    if _LOOP is None:
        _LOOP = asyncio.new_event_loop()
        asyncio.set_event_loop(_LOOP)
    return _LOOP


_LOOP: asyncio.AbstractEventLoop | None = None

PEERS: dict[str, type[Peer]] = {
    "ldc": Ldc,
    "orjson.loads": Yardstick,
    "sortedcontainers": SortedContainers,
    "python-binance": PythonBinance,
    "ccxt": Ccxt,
    "cryptofeed": Cryptofeed,
    "nautilus_trader": Nautilus,
    "hftbacktest": HftBacktest,
    "hftbacktest, decoded before": HftBacktestReplay,
    "UBLDC": Ubldc,
}
NO_BOOK = "orjson.loads"
