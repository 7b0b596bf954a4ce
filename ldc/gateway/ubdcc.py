"""The REST calls of UBDCC, the depth cache cluster of UBLDC: its names, its envelope, its error ids.

Every answer has the status 200; `result` says OK or ERROR. `get_book` is an addition: both sides of one update id.

Rule 1: no socket. A request is its parameters, from the URL or from a body of JSON; an answer is a `Reply`.
Rule 2: a call that creates or stops something is refused by a gateway that is read-only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ldc
from ldc.gateway.books import Books
from ldc.gateway.limits import GatewayLimits
from ldc.gateway.reply import Reply, json_reply
from ldc.gateway.status import market_status

Parameters = Mapping[str, Any]

MISSING, WRONG, OUT_OF_SYNC, UNKNOWN, REFUSED = "#1015", "#1020", "#6000", "#7000", "#9000"
"""The ids of errors: #6000 and #7000 are UBDCC's own; #9000 is of this gateway."""


class CallError(Exception):
    """(id, message) of an answer that is an error."""


class Ubdcc:
    """Answers calls. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, limits: GatewayLimits, is_read_only: bool, started_ms: int) -> None:
        self._books, self._limits, self._is_read_only, self._started_ms = books, limits, is_read_only, started_ms
        self.calls: dict[str, Callable[[Parameters], Awaitable[dict[str, Any]]]] = {
            "/test": self._test,
            "/get_asks": lambda given: self._side(given, "asks"),
            "/get_bids": lambda given: self._side(given, "bids"),
            "/get_book": self._book,
            "/get_depthcache_list": self._list,
            "/get_depthcache_info": self._info,
            "/get_cluster_info": self._cluster,
            "/create_depthcache": self._create,
            "/create_depthcaches": self._create,
            "/stop_depthcache": self._stop,
            "/add_credentials": self._credentials,
            "/remove_credentials": self._credentials,
            "/get_credentials_list": self._credentials,
        }
        self.changes = frozenset(path for path in self.calls if path.split("_")[0] in ("/create", "/stop"))
        """The calls that change something."""

    async def answer(self, path: str, given: Parameters) -> Reply:
        """Return the answer to a call."""
        began = time.perf_counter()
        event = path[1:].upper()
        try:
            self._check_may_change(path)
            fields = {"event": event, "message": "", "result": "OK", **await self.calls[path](given)}
        except CallError as error:
            error_id, message = error.args
            fields = {"event": event, "message": message, "result": "ERROR", "error_id": error_id}
        except ldc.DepthCacheOutOfSync as error:
            return self.refused(path, error)
        except ldc.DepthCacheError as error:  # unknown, or stopped
            fields = {"event": event, "message": error.message, "result": "ERROR", "error_id": UNKNOWN}
        if str(given.get("debug", "")).lower() == "true":
            fields["debug"] = {"cluster_execution_time": time.perf_counter() - began}
        return json_reply(fields)

    def refused(self, path: str, error: ldc.DepthCacheError) -> Reply:
        """Return the answer to a call for a book that cannot be read now."""
        fields = {"event": path[1:].upper(), "message": error.message, "result": "ERROR", "error_id": OUT_OF_SYNC}
        return json_reply(fields | {"cause": error.cause})

    # ------------------------------------------------------------------------------------------ parameters

    def _check_may_change(self, path: str) -> None:
        if path in self.changes and self._is_read_only:
            raise CallError(REFUSED, "this gateway is read-only")

    def _market(self, given: Parameters) -> str:
        """Return the market of a call, after a look at its exchange."""
        exchange, market = given.get("exchange"), given.get("market")
        if not exchange or not market:
            raise CallError(MISSING, "Missing mandatory parameter: exchange, market")
        self._check_exchange(exchange)
        return self._symbol(market)

    def _check_exchange(self, exchange: object) -> None:
        if exchange != self._books.manager.exchange:
            raise CallError(UNKNOWN, f"this gateway serves {self._books.manager.exchange} alone")

    def _symbol(self, market: object) -> str:
        try:
            return self._books.venue.normalized_market(market)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise CallError(WRONG, str(error)) from None

    @staticmethod
    def _number(given: Parameters, name: str, kind: type[int] | type[float]) -> Any:
        text = given.get(name)
        if text in (None, "", "None"):
            return None
        try:
            value = kind(text)
        except (TypeError, ValueError, OverflowError):
            raise CallError(WRONG, f"{name} is no number") from None
        if not value >= 0:
            raise CallError(WRONG, f"{name} is 0 or more")
        return value

    # ------------------------------------------------------------------------------------------ reads

    async def _test(self, _given: Parameters) -> dict[str, Any]:
        # The name is what UBLDC's cluster client looks for.
        app = {"name": "ubdcc-restapi", "version": ldc.__version__, "server": "ldc"}
        return {"app": app, "message": "Hello World!"}

    async def _side(self, given: Parameters, side: str) -> dict[str, Any]:
        market = self._market(given)
        limit, threshold = self._number(given, "limit_count", int), self._number(given, "threshold_volume", float)
        read = self._books.manager.get_asks if side == "asks" else self._books.manager.get_bids
        return {side: read(market, limit, threshold)}

    async def _book(self, given: Parameters) -> dict[str, Any]:
        view = self._books.manager.get_book(self._market(given), self._number(given, "limit_count", int))
        fields = ("last_update_id", "event_time_ms", "bid_horizon", "ask_horizon")
        return {"bids": view.bids, "asks": view.asks} | {name: getattr(view, name) for name in fields}

    async def _list(self, _given: Parameters) -> dict[str, Any]:
        return {"depthcache_list": {self._books.manager.exchange: [symbol for symbol, _ in self._books.symbols()]}}

    async def _info(self, given: Parameters) -> dict[str, Any]:
        return {"depthcache_info": market_status(self._books.cache(self._market(given)))}

    async def _cluster(self, _given: Parameters) -> dict[str, Any]:
        progress = self._books.manager.get_progress()._asdict()
        markets = {symbol: {"is_synchronized": cache.is_synchronized} for symbol, cache in self._books.symbols()}
        info = {"depthcaches": {self._books.manager.exchange: markets}, "progress": progress, "pods": {}}
        return {"cluster_info": info | {"version": ldc.__version__, "started_ms": self._started_ms}}

    async def _credentials(self, _given: Parameters) -> dict[str, Any]:
        return {"message": "not needed: order books are public", "credentials": []}

    # ------------------------------------------------------------------------------------------ changes

    async def _create(self, given: Parameters) -> dict[str, Any]:
        """Create one or many. They synchronize in the background."""
        exchange, markets = given.get("exchange"), given.get("markets", given.get("market"))
        if not exchange or not markets:
            raise CallError(MISSING, "Missing mandatory parameter: exchange, market")
        self._check_exchange(exchange)
        names = markets.split(",") if isinstance(markets, str) else markets
        if not isinstance(names, list):
            raise CallError(WRONG, "markets is a list")
        symbols = {self._symbol(name) for name in names}
        if self._number(given, "update_interval", int) not in (None, self._books.venue.default_interval_ms):
            raise CallError(WRONG, f"update_interval is {self._books.venue.default_interval_ms} here")
        there = {symbol for symbol, _ in self._books.symbols()}
        if len(there | symbols) > self._limits.markets_max:
            raise CallError(REFUSED, f"this gateway has at most {self._limits.markets_max} markets")
        refresh_interval = self._number(given, "refresh_interval", float) or None
        manager = self._books.manager
        await asyncio.to_thread(manager.create_depth_cache, sorted(symbols), refresh_interval)
        return {"message": f"{len(symbols)} depth caches are there, and synchronize in the background"}

    async def _stop(self, given: Parameters) -> dict[str, Any]:
        await asyncio.to_thread(self._books.manager.stop_depth_cache, self._market(given))
        return {"message": "stopped"}
