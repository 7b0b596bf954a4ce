"""The clients of `bench_loopback.py`: each library's own live client, pointed at loopback, in a process of its own.

A client follows all markets as the library's documents show it, and notes each time that a book becomes readable at a
further update id. Nothing of a library is replaced but the addresses; what else had to be set is said in `how`.

Everything of a library is imported when its client starts, so that one that is missing costs only its own row.
"""

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any, ClassVar

from ldc.manager.manager import BinanceLocalDepthCacheManager as LdcManager

TOP = 20
"""Levels of each side that are compared."""

LOOK_S = 0.01
"""How often the end of a run is looked for; only after everything was sent."""

POLL_S = 0.001
"""How often a reader looks whose library has nothing to wait on."""

NOTED_MIN = 5
"""A client is ready when each of its books has been seen at so many update ids."""

QUEUE_MAX = 1_000_000
"""Updates that python-binance may keep waiting."""

Levels = list[tuple[float, float]]
Top = tuple[int, Levels, Levels]


class NoLiveClient(Exception):
    """There is nothing that could be pointed at loopback; the text says why."""


def best(levels: Iterable[Any]) -> Levels:
    """Return the first levels as floats."""
    return [(float(price), float(quantity)) for (price, quantity), _ in zip(levels, range(TOP), strict=False)]


class Client:
    """Follows markets. `follow` runs in the main thread until the process ends; the rest is asked from another one."""

    package: ClassVar[str]
    how: ClassVar[str]

    def __init__(self, port: int, names: list[str]) -> None:
        self.http, self.ws, self.names = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}", names
        self.ids = dict.fromkeys(names, 0)
        self.noted: list[tuple[str, int, int]] = []
        """Market, update id, and the time at which that could be read, in nanoseconds of the monotonic clock."""
        self.woken_ns: list[int] = []
        """Of a client that says so: from the receive to the woken thread."""
        self.polled_s = 0.0
        """Processor time of a reader that polls; it is taken off."""

    def note(self, name: str, update_id: int) -> None:
        """A book can be read at an id."""
        self.noted.append((name, update_id, time.monotonic_ns()))
        self.ids[name] = update_id

    def follow(self) -> None:
        """Follow all markets."""
        raise NotImplementedError

    def top(self, name: str) -> Top:
        """Return the id and the best levels of a book that stands still."""
        raise NotImplementedError


class Ldc(Client):
    """This library."""

    package = "ldc"
    how = "`BinanceLocalDepthCacheManager`; a thread for each market in `wait_for_update`"

    def follow(self) -> None:
        self.manager = LdcManager("binance.com", restful_base_uri=self.http, websocket_base_uri=self.ws)
        self.manager.create_depth_cache(self.names)
        self.manager.wait_until_synchronized(timeout=30)
        threads = [threading.Thread(target=self._wait, args=(name,), daemon=True) for name in self.names]
        for thread in threads:
            thread.start()
        threads[0].join()

    def _wait(self, name: str) -> None:
        wait, update_id = self.manager.wait_for_update, None
        while True:
            update_id = wait(name, update_id)
            self.note(name, update_id or 0)

    def top(self, name: str) -> Top:
        view = self.manager.get_book(name, limit_count=TOP)
        return view.last_update_id, best(view.bids), best(view.asks)


class Yardstick(Client):
    """Receives, and makes no book: what the socket and the waking cost whoever reads from Python."""

    package = "websocket-client"
    how = "`WebSocket.recv_frame` in a loop, its UTF-8 check off, that looks for the names and ids: no book"

    def follow(self) -> None:
        import websocket

        socket = websocket.WebSocket(skip_utf8_validation=True)
        streams = {f"{name.lower()}@depth@100ms".encode(): name for name in self.names}
        socket.connect(f"{self.ws}/stream?streams={b'/'.join(streams).decode()}")
        while True:
            text = socket.recv_frame().data
            id_at = text.index(b'"u":') + 4
            self.note(streams[text[11 : text.index(b'"', 11)]], int(text[id_at : text.index(b",", id_at)]))

    def top(self, name: str) -> Top:
        return self.ids[name], [], []


class Picows(Client):
    """Receives with picows, and makes no book."""

    package = "picows"
    how = "`ws_connect` with a listener that looks for the names and ids: no book"

    def follow(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        import picows

        note = self.note
        streams = {f"{name.lower()}@depth@100ms".encode(): name for name in self.names}

        class Listener(picows.WSListener):  # type: ignore[misc]
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if frame.msg_type == picows.WSMsgType.PING:
                    transport.send_pong(frame.get_payload_as_bytes())
                    return
                text = frame.get_payload_as_bytes()
                id_at = text.index(b'"u":') + 4
                note(streams[text[11 : text.index(b'"', 11)]], int(text[id_at : text.index(b",", id_at)]))

        url = f"{self.ws}/stream?streams={b'/'.join(streams).decode()}"
        transport, _ = await picows.ws_connect(Listener, url)
        await transport.wait_disconnected()

    def top(self, name: str) -> Top:
        return self.ids[name], [], []


class PythonBinance(Client):
    """`DepthCacheManager` of python-binance."""

    package = "python-binance"
    how = (
        "`DepthCacheManager(limit=1000, ws_interval=100)`, one for each market, `await recv()`; "
        "`max_queue_size` is raised: with its 100 updates, a longer burst ends its reading for good"
    )

    def follow(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        import binance

        client = binance.AsyncClient()
        client.API_URL = f"{self.http}/api"
        sockets = binance.BinanceSocketManager(client, max_queue_size=QUEUE_MAX)
        sockets.STREAM_URL = f"{self.ws}/"
        self.managers = {
            name: binance.DepthCacheManager(client, symbol=name, bm=sockets, limit=1000, ws_interval=100)
            for name in self.names
        }
        await asyncio.gather(*map(self._read, self.names))

    async def _read(self, name: str) -> None:
        async with self.managers[name] as manager:
            while True:
                await manager.recv()
                self.note(name, manager._last_update_id)

    def top(self, name: str) -> Top:
        manager = self.managers[name]
        cache = manager.get_depth_cache()
        return manager._last_update_id, best(cache.get_bids()), best(cache.get_asks())


class Ccxt(Client):
    """ccxt.pro."""

    package = "ccxt"
    how = "`await watch_order_book(symbol)`, a task for each market"

    def follow(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        import ccxt.pro

        self.books: dict[str, Any] = {}
        self.exchange = ccxt.pro.binance({"options": {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}}})
        self.exchange.urls["api"]["public"] = f"{self.http}/api/v3"
        self.exchange.urls["api"]["ws"]["spot"] = f"{self.ws}/ws"
        await self.exchange.load_markets()
        await asyncio.gather(*map(self._read, self.names))

    async def _read(self, name: str) -> None:
        symbol = f"{name.removesuffix('USDT')}/USDT"
        while True:
            book = self.books[name] = await self.exchange.watch_order_book(symbol)
            self.note(name, book["nonce"])

    def top(self, name: str) -> Top:
        book = self.books[name]
        return book["nonce"], best(book["bids"]), best(book["asks"])


class Cryptofeed(Client):
    """cryptofeed's handler of feeds."""

    package = "cryptofeed"
    how = "`FeedHandler`, `Binance(channels=[L2_BOOK])`, a callback"

    def follow(self) -> None:
        from cryptofeed import FeedHandler
        from cryptofeed.connection import RestEndpoint, WebsocketEndpoint
        from cryptofeed.defines import L2_BOOK
        from cryptofeed.exchanges import Binance

        asyncio.set_event_loop(asyncio.new_event_loop())
        self.books: dict[str, Any] = {}
        Binance.rest_endpoints = [RestEndpoint(self.http, routes=Binance.rest_endpoints[0].routes)]
        Binance.websocket_endpoints = [WebsocketEndpoint(self.ws.replace("ws:", "wss:"))]

        class WithoutTls(Binance):  # type: ignore[misc]
            def connect(self) -> Any:
                # It takes addresses with TLS only.
                found = super().connect()
                for connection, *_ in found:
                    connection.address = connection.address.replace("wss:", "ws:")
                return found

        handler = FeedHandler(config={"log": {"disabled": True}})
        symbols = [f"{name.removesuffix('USDT')}-USDT" for name in self.names]
        handler.add_feed(WithoutTls(symbols=symbols, channels=[L2_BOOK], callbacks={L2_BOOK: self._called}))
        handler.run()

    async def _called(self, book: Any, _received_at: float) -> None:
        name = book.symbol.replace("-", "")
        self.books[name] = book
        self.note(name, book.sequence_number)

    def top(self, name: str) -> Top:
        book = self.books[name]
        bids, asks = (
            [side.index(rank) for rank in range(min(TOP, len(side)))] for side in (book.book.bids, book.book.asks)
        )
        return book.sequence_number, best(bids), best(asks)


class Nautilus(Client):
    """A trading node of nautilus_trader with its adapter for Binance."""

    package = "nautilus_trader"
    how = "`TradingNode` with the Binance data client, an actor, `subscribe_order_book_deltas`, `cache.order_book`"

    def follow(self) -> None:
        from nautilus_trader.adapters.binance.config import BinanceDataClientConfig
        from nautilus_trader.adapters.binance.factories import BinanceLiveDataClientFactory
        from nautilus_trader.common.actor import Actor
        from nautilus_trader.config import InstrumentProviderConfig, LoggingConfig, TradingNodeConfig
        from nautilus_trader.live.node import TradingNode
        from nautilus_trader.model.identifiers import InstrumentId

        note, instruments = self.note, [InstrumentId.from_str(f"{name}.BINANCE") for name in self.names]

        class Reader(Actor):  # type: ignore[misc]
            def on_start(self) -> None:
                for instrument in instruments:
                    self.subscribe_order_book_deltas(instrument)

            def on_order_book_deltas(self, deltas: Any) -> None:
                note(deltas.instrument_id.symbol.value, self.cache.order_book(deltas.instrument_id).sequence)

        provider = InstrumentProviderConfig(load_all=True)
        data = BinanceDataClientConfig(
            api_key="none",
            api_secret="none",
            base_url_http=self.http,
            base_url_ws=self.ws,
            instrument_provider=provider,
        )
        node = TradingNode(
            TradingNodeConfig(
                trader_id="BENCHMARK-001", logging=LoggingConfig(log_level="OFF"), data_clients={"BINANCE": data}
            )
        )
        node.add_data_client_factory("BINANCE", BinanceLiveDataClientFactory)
        node.trader.add_actor(Reader())
        node.build()
        self.books = lambda name: node.cache.order_book(InstrumentId.from_str(f"{name}.BINANCE"))
        node.run()

    def top(self, name: str) -> Top:
        book = self.books(name)
        bids, asks = (
            # Its numbers are exact, and their conversion to float is not.
            [(float(level.price.as_decimal()), round(level.size(), 8)) for level in side[:TOP]]
            for side in (book.bids(), book.asks())
        )
        return book.sequence, bids, asks


class Ubldc(Client):
    """UNICORN Binance Local Depth Cache."""

    package = "unicorn-binance-local-depth-cache"
    how = (
        "`BinanceLocalDepthCacheManager(depth_cache_update_interval=100, init_interval=0.2, init_time_window=1)`; "
        "it has nothing to wait on: a thread looks at the ids each millisecond, whose own time is taken off"
    )

    def follow(self) -> None:
        from unicorn_binance_local_depth_cache import BinanceLocalDepthCacheManager
        from unicorn_binance_rest_api import BinanceRestApiManager

        http = self.http

        class Rest(BinanceRestApiManager):  # type: ignore[misc]
            def _init_session(self) -> Any:
                # The constructor asks for the time as soon as it has a session.
                self.API_URL = f"{http}/api"
                return super()._init_session()

        quiet = {"disable_colorama": True, "warn_on_update": False}
        self.manager = BinanceLocalDepthCacheManager(
            depth_cache_update_interval=100, init_interval=0.2, init_time_window=1,
            ubra_manager=Rest(exchange="binance.com", **quiet), **quiet,
        )  # fmt: skip
        self.manager.ubwa.websocket_base_uri = f"{self.ws}/"
        self.manager.create_depth_cache(markets=self.names)
        caches, known = self.manager.depth_caches, dict.fromkeys(self.names, 0)
        while True:
            for name in self.names:
                cache = caches[name.lower()]
                update_id = cache["last_update_id"]
                if cache["is_synchronized"] and update_id is not None and update_id != known[name]:
                    known[name] = update_id
                    self.note(name, update_id)
            self.polled_s = time.thread_time()
            time.sleep(POLL_S)

    def top(self, name: str) -> Top:
        bids, asks = (get(market=name, limit_count=TOP) for get in (self.manager.get_bids, self.manager.get_asks))
        return self.manager.depth_caches[name.lower()]["last_update_id"], best(bids), best(asks)


class SortedContainers(Client):
    """A container."""

    package = "sortedcontainers"
    how = "no client"

    def follow(self) -> None:
        raise NoLiveClient("it is a container: it has no client")


class HftBacktest(Client):
    """A back-test."""

    package = "hftbacktest"
    how = "no client in Python"

    def follow(self) -> None:
        raise NoLiveClient("its live bots read from a connector in Rust, which the wheel does not have")


NO_BOOK = "websocket-client"
YARDSTICKS = (NO_BOOK, Picows.package)
"""They make no book."""

CLIENTS: dict[str, type[Client]] = {
    "ldc": Ldc,
    NO_BOOK: Yardstick,
    Picows.package: Picows,
    "python-binance": PythonBinance,
    "ccxt": Ccxt,
    "cryptofeed": Cryptofeed,
    "nautilus_trader": Nautilus,
    "UBLDC": Ubldc,
    "sortedcontainers": SortedContainers,
    "hftbacktest": HftBacktest,
}


# ------------------------------------------------------------------------------------------------------- the process


def _obey(client: Client, pipe: Pipe, patience_s: float) -> None:
    """Do what the pipe says, until it is closed."""
    computed_s = 0.0
    try:
        while True:
            order, *about = pipe.recv()
            if order == "ready":
                wait_until(lambda: all(_seen(client).get(name, 0) >= NOTED_MIN for name in client.names), patience_s)
                pipe.send({name: client.ids[name] for name in client.names})
            elif order == "begin":
                client.noted, client.woken_ns = [], []
                computed_s = time.process_time() - client.polled_s
                pipe.send(True)
            else:
                [last] = about
                wait_until(partial(_stands_at, client, last), patience_s)
                spent_s = time.process_time() - client.polled_s - computed_s
                tops = {name: client.top(name) for name in client.names if client.ids[name]}
                pipe.send({"computed s": spent_s, "noted": client.noted, "tops": tops, "woken": client.woken_ns})
    except EOFError:
        os._exit(0)
    except Exception:
        pipe.send({"failed": traceback.format_exc(limit=-2)})
        os._exit(1)


def _stands_at(client: Client, last: dict[str, int]) -> bool:
    return all(client.ids[name] >= update_id for name, update_id in last.items())


def _seen(client: Client) -> dict[str, int]:
    seen: dict[str, int] = {}
    for name, _, _ in list(client.noted):
        seen[name] = seen.get(name, 0) + 1
    return seen


def wait_until(is_so: Callable[[], bool], patience_s: float) -> None:
    """Look now and then; give up silently, because what is there then is judged by somebody else."""
    give_up_at = time.monotonic() + patience_s
    while not is_so() and time.monotonic() < give_up_at:
        time.sleep(LOOK_S)


def run(pipe: Pipe, name: str, port: int, markets: list[str], patience_s: float) -> None:
    """Be a process that follows the markets with one library. What the library prints is thrown away."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    nothing = os.open(os.devnull, os.O_WRONLY)
    if "LDC_LOOPBACK_OUTPUT" not in os.environ:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    client = CLIENTS[name](port, markets)
    threading.Thread(target=_obey, args=(client, pipe, patience_s), daemon=True).start()
    try:
        client.follow()
        pipe.send({"failed": "it ended by itself"})
    except NoLiveClient as reason:
        pipe.send({"no client": str(reason)})
    except ModuleNotFoundError as missing:
        pipe.send({"failed": f"{missing}"})
    except (Exception, SystemExit, asyncio.CancelledError) as failure:
        pipe.send({"failed": f"{type(failure).__name__}: {failure}"})
    sys.stderr.flush()
    os._exit(1)
