"""Many live depth caches of one exchange, or of several: `BinanceLocalDepthCacheManager`.

Rule 1: the constructor opens nothing: no socket and no thread, and it never checks for a newer version.
Rule 2: every method may be called from any thread, callbacks included. None holds a lock while it waits.
Rule 3: a read goes to one depth cache without a lock. It costs what the book's own read costs, plus a dict lookup.
Rule 4: names, parameters and behaviour are those of UBLDC ("Binance Local Depth Cache"); `compat` has its other names.
"""

import os
import platform
import random
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, overload

from ldc._version import __version__
from ldc.analytics.view import BookView
from ldc.book import IMPLEMENTATION
from ldc.consume.callbacks import CallbackHandle, CallbackThread
from ldc.consume.log import logger
from ldc.consume.stream import UpdateStream
from ldc.consume.updates import UpdateNumberType
from ldc.errors import DepthCacheError, DepthCacheNotFound, refused, stopped_manager
from ldc.feed.connection import ConnectionOptions
from ldc.feed.cpus import checked_cpus
from ldc.limits import DEFAULT_TIMING, Timing
from ldc.manager import compat, lifecycle, names, parameters
from ldc.manager.consumers import Consumers, run_in_thread, wait_async
from ldc.manager.depth_cache import DepthCache
from ldc.manager.exchange import ExchangeFeeds, MarketPlan
from ldc.manager.routes import Routes, StateCallbacks
from ldc.manager.settings import Endpoints, Settings, settings_of_others, venue_at
from ldc.manager.waiting import wait_for_any
from ldc.network.proxy import ProxyRules
from ldc.network.text import writable
from ldc.network.ubdcc import UbdccCluster
from ldc.shared.publisher import Publisher
from ldc.snapshots.shared_budget import shared_folder
from ldc.types import Cause, DepthCacheStatus, MarketName, N, Progress
from ldc.venues import Venue, did_you_mean, venue_named


class BinanceLocalDepthCacheManager(compat.CompatNames):
    """Keeps exact local copies of the order books of an exchange, and of others beside it.

    A market is "BTCUSDT" at the manager's own exchange, whatever other exchanges it holds. At another exchange it is
    ``("binance.com-futures", "BTCUSDT")`` or "binance.com-futures:BTCUSDT", in every call that takes a market, and
    the latter in everything that reports one. `create_depth_cache` takes the exchange as a parameter, too.

    Args:
        exchange: the manager's own, such as "binance.com" or "binance.com-futures"; a wrong one raises
            `UnknownExchange` with the choices.
        default_refresh_interval: seconds between two checks of each book against a new snapshot. None: only when
            needed. The book stays readable during a refresh.
        depth_cache_update_interval: milliseconds between two updates of a stream. None: the fastest documented one.
            `create_depth_cache` may give a market another one.
        snapshot_limit: maximum levels a side in a snapshot. None: the exchange's maximum, reached in steps.
            `create_depth_cache` may give a market another one.
        weight_share: part of the exchange's request weight that all managers of the process may use together.
        markets_per_connection: markets that share a websocket and a thread; 1 gives each its own.
        redundancy: websockets that carry each market at the same time, 1 to 4; on different hosts if there are several.
            The first arrival of an update counts, so the loss of one of two interrupts nothing.
        high_performance: use the whole request weight (`weight_share` 1).
        init_interval: minimum seconds between two snapshots of this manager at one exchange. None: only the weight
            limits them.
        init_time_window: seconds in which a market gets at most one snapshot.
        on_restart: called as ``on_restart(market, unix_time)`` after a market's stream has recovered from an
            interruption. It runs in a thread of its own and may block or raise.
        websocket_ping_interval, websocket_ping_timeout: seconds. A dead connection is detected within their sum.
        websocket_close_timeout: seconds that the exchange has to answer a close; ldc waits at most 0.3 of them.
        restful_base_uri, websocket_base_uri: other addresses, as ``scheme://host[:port]``; ldc appends the paths. Lists
            of one length: addresses that serve the same, such as two gateways; after a failure the next one is used,
            and with `redundancy` several at once. They are those of `exchange`; `exchanges` has those of others.
        exchanges: other addresses of other exchanges, such as
            ``{"binance.com-futures": ldc.Endpoints(restful_base_uri=..., websocket_base_uri=...)}``.
        proxy: URL of an HTTP or SOCKS proxy for both. None: the usual environment variables apply.
        share: publish the books in shared memory under this name, for `ldc.SharedBooks` in other processes; or an
            `ldc.shared.Publisher`, which stays the caller's. Another process that feeds the same name is an error at
            the first `create_depth_cache`.
        share_levels: levels a side that are published there.
        weight_pool: a name for the IP address that the exchange sees. Managers with the same name share one request
            weight and one budget of connects, whatever proxies they use. None: the proxy's host and port name it.
        shared_budget: share the request weight and the connects with other processes that do so too. True: by files in
            the user's cache folder; a path: by files in that folder. Needs the extra ``shared-budget``.
        max_age: seconds; what `get_asks`, `get_bids`, `get_book` and `is_depth_cache_synchronized` take for their own
            `max_age` where a call has none. A call undoes it by ``math.inf``. None: the lease alone decides.
        timing: an `ldc.limits.Timing`: how long feeds wait for what. None: the defaults, which suit an exchange.
        feed_spin: let each feed thread look at its sockets without ever sleeping. It saves the wake-up of a sleeping
            thread, and takes a whole CPU for each feed group; on a machine without a free one everything gets slower.
        feed_cpus: numbers of the CPUs that feed threads run on (Linux). None: all that the process may use.
        _random: the source of all jitter, a number from 0 up to 1. For tests.
        compat_parameters: of UBLDC. ``ubdcc_address`` and ``ubdcc_port`` are host and port of a depth cache cluster
            (UBDCC) or of a gateway, whose REST calls `cluster` then has. It is tried at once. It changes nothing for
            the books of this manager. docs/migration.md has the others.

    Use it as a context manager, with or without ``async``, or call `stop`. Thread-safe.
    """

    cluster: UbdccCluster | None
    """The REST calls of the cluster at `ubdcc_address`."""

    _caches: dict[str, DepthCache]  # by the symbol; of another exchange "exchange:symbol"
    _stopped: dict[str, str]  # the same key -> the market as the user spelt it
    _exchanges: dict[str, ExchangeFeeds]
    _is_stopped = False

    def __init__(
        self,
        exchange: str = "binance.com",
        *,
        default_refresh_interval: float | None = None,
        depth_cache_update_interval: int | None = None,
        snapshot_limit: int | None = None,
        weight_share: float = 0.8,
        markets_per_connection: int = 100,
        redundancy: int = 1,
        high_performance: bool = False,
        init_interval: float | None = None,
        init_time_window: float | None = None,
        on_restart: Callable[[str, float], object] | None = None,
        websocket_ping_interval: float = 5,
        websocket_ping_timeout: float = 3,
        websocket_close_timeout: float = 2,
        restful_base_uri: str | Sequence[str] | None = None,
        websocket_base_uri: str | Sequence[str] | None = None,
        exchanges: Mapping[str, Endpoints] | None = None,
        proxy: str | None = None,
        share: str | Publisher | None = None,
        share_levels: int = 100,
        weight_pool: str | None = None,
        shared_budget: bool | str | os.PathLike[str] = False,
        max_age: float | None = None,
        timing: Timing | None = None,
        feed_spin: bool = False,
        feed_cpus: Iterable[int] | None = None,
        _random: Callable[[], float] = random.random,
        **compat_parameters: Any,
    ) -> None:
        self.cluster = compat.cluster_of(compat_parameters)
        with parameters.wrong_types_as_values():
            venue, uris = venue_at(exchange, restful_base_uri, websocket_base_uri)
            settings = Settings.checked(
                venue,
                default_refresh_interval=default_refresh_interval,
                depth_cache_update_interval=depth_cache_update_interval,
                snapshot_limit=snapshot_limit,
                weight_share=weight_share,
                high_performance=high_performance,
                markets_per_connection=markets_per_connection,
                redundancy=redundancy,
                init_interval=init_interval,
                init_time_window=init_time_window,
                max_age=max_age,
                weight_pool=weight_pool,
                **uris,
            )
            self._settings_of_others = settings_of_others(settings, exchanges or {})
            keepalive = websocket_ping_interval, websocket_ping_timeout, websocket_close_timeout
            self._options = self._connection_options(venue, *keepalive, proxy, timing, feed_spin, feed_cpus)
            self._states = StateCallbacks(parameters.optional_function("on_restart", on_restart))
            self._shared_folder, self._share = shared_folder(shared_budget), lifecycle.Share(share, share_levels)
        self._callbacks, self._lock, self._random = CallbackThread(), threading.Lock(), _random
        self._caches, self._stopped, self._own = {}, {}, self._feeds_for(settings)
        self._exchanges = {venue.exchange: self._own}
        self._consumers = Consumers(self._callbacks, self._caches, self._states)
        lifecycle.end_in_forked_children(self)

    if not TYPE_CHECKING:  # type checkers must still report misspelt names

        def __getattr__(self, name: str) -> Any:
            """Resolve UBLDC names that the manager does not have itself."""
            return compat.lookup(self, name)

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        await self.stop_manager_async()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        """Warn that its depth caches continue, and that nobody can stop them any more."""
        caches = self.__dict__.get("_caches")  # not there if the constructor raised
        if caches and not self._is_stopped:
            markets = f"{len(caches)} depth caches of {self.exchange}, such as {next(iter(caches))!r}, continue"
            advice = "call stop_manager(), or use the manager in a with block"
            _warn(f"A manager that nobody holds was never stopped: {markets}; {advice}", ResourceWarning, source=self)

    @property
    def exchange(self) -> str:
        """The manager's own exchange."""
        return self._own.venue.exchange

    @property
    def exchanges(self) -> tuple[str, ...]:
        """The manager's own exchange, then the others that it has had markets of."""
        with self._lock:
            return tuple(self._exchanges)

    @property
    def restful_base_uris(self) -> tuple[str, ...]:
        """Its REST addresses, without paths; empty for an embedded exchange before the first depth cache."""
        return self._own.restful_base_uris

    def create_depth_cache(
        self,
        markets: MarketName | Iterable[MarketName],
        refresh_interval: float | None = None,
        *,
        exchange: str | None = None,
        update_interval: int | None = None,
        snapshot_limit: int | None = None,
    ) -> bool:
        """Start one or many depth caches and return True at once; they synchronize in the background.

        Idempotent: a market that is there stays as it is. Restarts stopped markets. Raises ``ValueError`` for a text
        that cannot be a market, and starts none then; `DepthCacheAlreadyStopped` if the manager was stopped.

        Args:
            markets: such as "BTCUSDT" or ["BTCUSDT", "ethusdt"]; case does not matter.
            refresh_interval: seconds, instead of the manager's `default_refresh_interval`.
            exchange: of these markets; None: as their names say, or the manager's own. `UnknownExchange` for a wrong
                one.
            update_interval: milliseconds, instead of the manager's `depth_cache_update_interval`. ``ValueError``, with
                the choices, if the exchange has no such stream.
            snapshot_limit: levels a side, instead of the manager's.
        """
        wanted = parameters.markets(markets)
        if exchange is not None:
            wanted = [names.at_exchange(market, parameters.text("exchange", exchange)) for market in wanted]
        if refresh_interval is not None:
            refresh_interval = parameters.seconds("refresh_interval", refresh_interval)
        if update_interval is not None:
            update_interval = parameters.integer("update_interval", update_interval)
        if snapshot_limit is not None:
            snapshot_limit = parameters.integer("snapshot_limit", snapshot_limit)
        with self._lock:
            if self._is_stopped:
                raise stopped_manager(Cause.STOPPED)
            plans: dict[str, tuple[ExchangeFeeds, MarketPlan]] = {}
            feeds_at: dict[str, ExchangeFeeds] = {}
            for name in wanted:
                venue, market = names.split(name, self._own.venue)
                feeds = feeds_at.get(venue.exchange) or self._feeds_at(venue)
                feeds_at[venue.exchange] = feeds
                plan = feeds.plan(market, self._name(venue, market), refresh_interval, update_interval, snapshot_limit)
                plans[self._name(venue, plan.symbol)] = feeds, plan
            self._share.open()
            for feeds in feeds_at.values():  # every market can be one, so the exchanges are kept
                self._exchanges[feeds.venue.exchange] = feeds
                feeds.open()
            for key, (feeds, plan) in plans.items():
                self._start_unless_there(key, feeds, plan)
        return True

    def stop_depth_cache(self, markets: MarketName | Iterable[MarketName]) -> bool:
        """Stop and delete one or many depth caches. Raises `DepthCacheNotFound` for a market that never had one."""
        markets = parameters.markets(markets)
        with self._lock:
            # Found under the lock, because another thread may stop and create the market again.
            for cache in dict.fromkeys(self._found(market) for market in markets):
                key = self._key_of(cache)
                self._stopped[key] = cache.market
                self._share.withdraw(key)
                cache.group.remove(cache.live)
                self._forget(cache)
        return True

    def stop(self) -> bool:
        """Stop everything within a second, from any state. Idempotent.

        Callbacks and signal handlers may call it. If a handler interrupted a call that starts something, the stop is
        completed after that call returns.
        """
        self._is_stopped = True
        self._close_books()  # without the lock, which a signal handler may have interrupted
        give_up_at = time.monotonic() + self._options.timing.stop_s_max
        if threading.current_thread() is not threading.main_thread() and self._is_lock_free_by(give_up_at):
            self._stop_all()
            return True
        # A signal handler may have interrupted this thread while it held the lock, so no wait for the lock here.
        stopper = threading.Thread(target=self._stop_all, name="ldc-stop", daemon=True)
        try:
            stopper.start()
        except (RuntimeError, MemoryError):  # the system has no more threads
            self._stop_all()
        else:
            stopper.join(max(0.0, give_up_at - time.monotonic()))
        return True

    def _is_lock_free_by(self, give_up_at: float) -> bool:
        """Wait for the lock, at most until then; return whether nobody holds it."""
        is_free = self._lock.acquire(timeout=max(0.0, give_up_at - time.monotonic()))
        if is_free:
            self._lock.release()
        return is_free

    async def stop_manager_async(self) -> bool:
        """As `stop`, without blocking the event loop. If it is cancelled, the stop goes on in its thread."""
        self._is_stopped = True
        self._close_books()  # without the lock, as `stop` does
        await run_in_thread(self._stop_all, "ldc-stop")
        return True

    def _stop_all(self) -> None:
        with self._lock:
            ending = [feeds.end() for feeds in self._exchanges.values()]
            self._stopped |= {key: cache.market for key, cache in self._caches.items()}
            self._close_books()  # again, because a call that starts something may have been under way
            self._share.close(self._caches)
            self._caches.clear()
            self._consumers.end()
        give_up_at = time.monotonic() + self._options.timing.stop_s_max
        groups = [group for each in ending for group in each.groups]
        for group in groups:
            group.stop()
        self._callbacks.stop()
        for each in ending:
            if each.downloads is not None:
                each.downloads.close()
        for group in groups:
            if not group.join(max(0.0, give_up_at - time.monotonic())):
                logger.warning("%s did not end in time; it ends later by itself", group.name)
        self._callbacks.join(max(0.0, give_up_at - time.monotonic()))
        logger.flush(max(0.0, give_up_at - time.monotonic()))
        for each in ending:
            if each.launched is not None:
                each.launched.stop()

    def _close_books(self) -> None:
        """Let no book be read any more, and end all waits, whatever the feeds' threads are doing."""
        for cache in list(self._caches.values()):
            cache.live.close()

    def _end_in_child(self) -> None:
        """End in a forked child, which has no threads of ldc: books that look alive there would be stale."""
        self._lock = threading.Lock()
        self._callbacks = CallbackThread()
        self._consumers.end_in_child(self._callbacks)
        for feeds in self._exchanges.values():
            feeds.end_in_child()
        self._stopped |= {key: cache.market for key, cache in self._caches.items()}
        self._caches.clear()
        self._share = lifecycle.Share(None, 1)  # it is the parent's
        self._is_stopped = True

    def renew_connections(self) -> None:
        """Replace every websocket make-before-break: the old one runs until the new one delivers updates."""
        with self._lock:
            groups = [group for feeds in self._exchanges.values() for group in feeds.group_sizes]
        for group in groups:
            group.renew()

    def markets(self) -> list[str]:
        """Return the active markets, as the user spelt them; those of another exchange as "exchange:market"."""
        with self._lock:
            return [cache.market for cache in self._caches.values()]

    def get_progress(self, exchange: str | None = None) -> Progress:
        """Return how many depth caches can be read, and about how long the others still need. O(markets).

        `exchange`: count those of this one alone; None: of all. Two exchanges synchronize at the same time.
        """
        wanted = None if exchange is None else venue_named(parameters.text("exchange", exchange)).exchange
        with self._lock:
            counted = [feeds for name, feeds in self._exchanges.items() if wanted in (None, name)]
            progresses = [feeds.progress() for feeds in counted]
        left = [each.seconds_left for each in progresses]
        return Progress(
            sum(each.synchronized for each in progresses),
            sum(each.failed for each in progresses),
            sum(each.total for each in progresses),
            None if None in left else max(filter(None, left), default=0.0),
        )

    def __repr__(self) -> str:
        progress = self.get_progress()
        return f"<{type(self).__name__} {self.exchange}: {progress.synchronized} of {progress.total} in sync>"

    # ------------------------------------------------------------------------------------------ reading

    @overload
    def get_asks(
        self,
        market: MarketName,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        limit: int | None = None,
        number: type[float] = ...,
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> list[list[float]]: ...

    @overload
    def get_asks(
        self,
        market: MarketName,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        limit: int | None = None,
        number: type[N],
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> list[list[N]]: ...

    def get_asks(
        self,
        market: MarketName,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        limit: int | None = None,
        number: type[Any] = float,
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> Any:
        """Return the asks, lowest first, as [[price, quantity], ...].

        Args:
            limit_count, limit: maximum levels; fewer if the known range ends before. Two names of one thing.
            threshold_volume: maximum sum of price x quantity, in the quote asset; the first level is always returned.
            number: of prices and quantities: float, Decimal, or str as the exchange prints them.
            min_levels: raise with the cause LEFT_HORIZON if fewer levels are known, and the side is not complete. The
                first snapshot of a market has 100.
            max_age: seconds. Raise with the cause TOO_OLD if the last proof that the book is current is older. Proofs
                are updates, probes, and pongs of its connections (as of the ping). None: the `max_age` of the manager.
                Without one the lease decides: `websocket_ping_interval` + `websocket_ping_timeout` + 1 s.

        Raises:
            DepthCacheOutOfSync: the copy cannot be proven right at this moment; `cause` says why.
            DepthCacheNotFound, DepthCacheAlreadyStopped, UnknownMarket: the depth cache does not exist (any more).
        """
        cache = self._found(market)
        wanted = parameters.levels_wanted(limit_count, limit, min_levels, threshold_volume)
        try:
            self._raise_if_older(cache, max_age)
            levels = cache.reader.asks(wanted, threshold_volume=threshold_volume, number=number)
        except DepthCacheError as error:
            raise cache.explain(error) from None
        if min_levels is not None:
            cache.raise_if_shallow(min_levels, asks=len(levels))
        return levels

    @overload
    def get_bids(
        self,
        market: MarketName,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        limit: int | None = None,
        number: type[float] = ...,
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> list[list[float]]: ...

    @overload
    def get_bids(
        self,
        market: MarketName,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        limit: int | None = None,
        number: type[N],
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> list[list[N]]: ...

    def get_bids(
        self,
        market: MarketName,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        limit: int | None = None,
        number: type[Any] = float,
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> Any:
        """Return the bids, highest first; otherwise as `get_asks`."""
        cache = self._found(market)
        wanted = parameters.levels_wanted(limit_count, limit, min_levels, threshold_volume)
        try:
            self._raise_if_older(cache, max_age)
            levels = cache.reader.bids(wanted, threshold_volume=threshold_volume, number=number)
        except DepthCacheError as error:
            raise cache.explain(error) from None
        if min_levels is not None:
            cache.raise_if_shallow(min_levels, bids=len(levels))
        return levels

    @overload
    def get_book(
        self,
        market: MarketName,
        limit_count: int | None = None,
        *,
        limit: int | None = None,
        number: type[float] = ...,
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> BookView[float]: ...

    @overload
    def get_book(
        self,
        market: MarketName,
        limit_count: int | None = None,
        *,
        limit: int | None = None,
        number: type[N],
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> BookView[N]: ...

    def get_book(
        self,
        market: MarketName,
        limit_count: int | None = None,
        *,
        limit: int | None = None,
        number: type[Any] = float,
        min_levels: int | None = None,
        max_age: float | None = None,
    ) -> Any:
        """Return both sides, ids, times and horizons at one update id: a `BookView`. Otherwise as `get_asks`."""
        cache = self._found(market)
        wanted = parameters.levels_wanted(limit_count, limit, min_levels)
        try:
            self._raise_if_older(cache, max_age)
            view = cache.reader.view(wanted, number=number)
        except DepthCacheError as error:
            raise cache.explain(error) from None
        if min_levels is not None:
            cache.raise_if_shallow(min_levels, bids=len(view.bids), asks=len(view.asks))
        return view

    def _raise_if_older(self, cache: DepthCache, max_age_s: float | None) -> None:
        if max_age_s is None:
            max_age_s = self._own.settings.max_age_s
        if max_age_s is not None:
            cache.raise_if_older(max_age_s)

    def get_depth_cache(self, market: MarketName) -> DepthCache:
        """Return the `DepthCache`, whose `reader` reads without the manager."""
        return self._found(market)

    # ------------------------------------------------------------------------------------------ state

    def is_depth_cache_synchronized(self, market: MarketName, *, max_age: float | None = None) -> bool:
        """Return whether both sides can be read; `max_age` as for `get_asks`."""
        cache = self._found(market)
        max_age = self._own.settings.max_age_s if max_age is None else parameters.age(max_age)
        return cache.is_synchronized and (max_age is None or cache.proof_age_s <= max_age)

    def wait_until_synchronized(
        self,
        markets: MarketName | Iterable[MarketName] | None = None,
        timeout: float | None = None,
        *,
        levels: int | None = None,
    ) -> bool:
        """Block until all of these markets (None: all) can be read; return False if `timeout` seconds are over first.

        `levels`: also until each side has so many, or all that the exchange has. The first snapshot has 100.

        Raises `DepthCacheNotFound` for a market without a depth cache, `UnknownMarket` if the exchange has none,
        and `DepthCacheAlreadyStopped` if it or the manager was stopped.
        """
        if markets is None and self.is_stop_request():  # no markets are left, and "all can be read" would mislead
            raise stopped_manager(Cause.STOPPED)
        wanted = self.markets() if markets is None else parameters.markets(markets)
        caches = [self._found(market) for market in wanted]
        timeout_s = parameters.timeout(timeout)
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            for cache in caches:
                left_s = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
                if not cache.wait_until_synchronized(left_s, levels=levels):
                    return False
            # An earlier market may have been lost during the wait for a later one.
            if all(cache.has_levels(levels) for cache in caches):
                return True

    def wait_for_update(
        self,
        market: MarketName,
        after_update_id: int | None = None,
        timeout: float | None = None,
        *,
        spin_us: float = 0,
    ) -> int | None:
        """Block until the book has moved past an update id (None: its present id); return the new id.

        Returns None if `timeout` seconds are over first. A loss of the book ends the wait:

        - With an id, it raises `DepthCacheOutOfSync` if the book cannot be read, before the call or during it. Then
          wait with `wait_until_synchronized`, or with None as the id.
        - With None, it raises when a book that was readable at the call is lost. It waits for a book that was not.
        - After the exchange has restarted its ids, an older id counts as past. The new, lower id is returned at once.

        `spin_us`: microseconds to look at the book, without the GIL, before the thread sleeps. It costs a core then.

        Otherwise raises as `wait_until_synchronized`.
        """
        return self._found(market).wait_for_update(after_update_id, timeout, spin_us=spin_us)

    async def wait_until_synchronized_async(
        self,
        markets: MarketName | Iterable[MarketName] | None = None,
        timeout: float | None = None,
        *,
        levels: int | None = None,
    ) -> bool:
        """As `wait_until_synchronized`, in an event loop; but raise ``TimeoutError`` if the time runs out."""
        if markets is None and self.is_stop_request():
            raise stopped_manager(Cause.STOPPED)
        wanted = self.markets() if markets is None else parameters.markets(markets)
        caches = [self._found(market) for market in wanted]

        def are_synchronized() -> bool:
            for cache in caches:
                cache.raise_if_over()
            return all(cache.has_levels(levels) for cache in caches)

        await wait_async(caches, are_synchronized, timeout, "not all markets were synchronized")
        return True

    async def wait_for_update_async(
        self, market: str, after_update_id: int | None = None, timeout: float | None = None
    ) -> int:
        """As `wait_for_update`, in an event loop; but raise ``TimeoutError`` if the time runs out."""
        cache = self._found(market)
        look = cache.look_for_update(after_update_id)
        await wait_async([cache], lambda: look() is not None, timeout, f"no update of {market} came")
        reached = look()
        assert reached is not None
        return reached

    # ------------------------------------------------------------------------------------------ consuming

    def updates(
        self,
        markets: MarketName | Iterable[MarketName] | None = None,
        *,
        policy: str = "latest",
        number: UpdateNumberType = float,
        queue_max: int = 10_000,
    ) -> UpdateStream:
        """Return a stream of `BookUpdate` items, for ``for``, ``async for``, ``get`` or a descriptor.

        The first item of a market is a snapshot, once it can be read. The loss of a book is an item, and so is its
        return. `missed` of an item counts the updates since the previous one that have no item of their own.

        Args:
            markets: None: all, also those that are created later. A market that is stopped and created again goes on.
            policy: "latest": at most one item a market waits, without levels; read the book. "changes": the levels that
                differ since the last item of the market, coalesced. "every": each applied update by itself, in order.
            number: of prices and quantities: float, Decimal, str, or int (units of 10**-decimals).
            queue_max: items of "every" that may wait. Beyond that, the consumer gets `missed` and a snapshot.

        Raises:
            DepthCacheNotFound, DepthCacheAlreadyStopped: one of the markets has no depth cache.
        """
        return self._consumers.updates(self._wanted(markets), policy, number, queue_max)

    def on_update(
        self,
        function: Callable[..., object],
        markets: MarketName | Iterable[MarketName] | None = None,
        *,
        policy: str = "latest",
        number: UpdateNumberType = float,
        inline: bool = False,
    ) -> CallbackHandle:
        """Call ``function(update)`` with each item of a stream of these markets; return a handle that can cancel it.

        It runs in the thread of the callbacks, and may block or raise. A coroutine function runs as a task of the event
        loop that registers it, one call after the other.

        Args:
            inline: run it in the thread of the feed, right after the receive. All books of that feed wait meanwhile:
                `handle.slowest_ms` tells, and a slow call is logged. A function that raises is cancelled. It is called
                in more than one thread if the markets have several feeds (`markets_per_connection`).

        Otherwise as `updates`.
        """
        return self._consumers.on_update(function, self._wanted(markets), policy, number, inline)

    def on_state_change(
        self, function: Callable[..., object], markets: MarketName | Iterable[MarketName] | None = None
    ) -> CallbackHandle:
        """Call ``function(market, state, cause)`` when a market changes its `SyncState`; return a handle to cancel it.

        It runs where a callback of `on_update` runs that is not inline. `cause`: why the market cannot be read; when it
        becomes SYNCHRONIZED, why it could not be read until now.
        """
        return self._consumers.on_state_change(function, self._wanted(markets))

    def _wanted(self, markets: MarketName | Iterable[MarketName] | None) -> frozenset[tuple[str, str]] | None:
        """Return (exchange, symbol) of markets that exist; None: all."""
        if markets is None:
            return None
        found = (self._found(market) for market in parameters.markets(markets))
        return frozenset((cache.exchange, cache.live.symbol) for cache in found)

    def wait_for_any(
        self,
        markets: MarketName | Iterable[MarketName] | None = None,
        after_update_ids: Mapping[str, int] | Mapping[MarketName, int] | None = None,
        timeout: float | None = None,
        *,
        spin_us: float = 0,
    ) -> dict[str, int]:
        """Block until one of many books has moved; return {market: new id} of all that have, spelt as in `markets`.

        A pair (exchange, market) is returned as "exchange:market". Returns {} if `timeout` seconds are over first. So
        one thread follows many markets::

            seen = {}
            while True:
                moved = manager.wait_for_any(markets, seen, timeout=1)
                seen |= moved

        Args:
            markets: None: all.
            after_update_ids: the ids that the caller has seen. A market without one has moved as soon as its book can
                be read. None: the present ids, and for a book that cannot be read, none.
            spin_us: as for `wait_for_update`.

        Raises ``ValueError`` if there is no market to wait for. Otherwise it raises as `wait_for_update`, for the first
        market that it has to be raised for: `DepthCacheOutOfSync`, if a book whose id is given cannot be read. The
        error's `market` says which. Remove its id to wait for the others, and for its return.

        Cost: O(markets). For hundreds of markets one thread for each part of them is cheaper than one for all.
        """
        wanted = self.get_list_of_depth_caches() if markets is None else parameters.markets(markets)
        caches = {market: self._found(market) for market in wanted}
        if not caches:
            raise stopped_manager(Cause.STOPPED) if self.is_stop_request() else ValueError("no market to wait for")
        after: dict[str, int | None]
        if after_update_ids is None:
            after = {market: cache.id_past(None) for market, cache in caches.items()}
        else:
            seen = {self._key(market): update_id for market, update_id in after_update_ids.items()}
            after = {market: seen.get(self._key_of(cache)) for market, cache in caches.items()}
        return wait_for_any(caches, after, timeout, spin_us)

    def get_status(self, market: MarketName) -> DepthCacheStatus:
        """Return the status of a depth cache as an immutable value, with `get_progress` in it. O(markets).

        For many markets call `status` of each `DepthCache`, which is O(1), and `get_progress` once.
        """
        return self._found(market).status()._replace(progress=self.get_progress())

    def get_last_update_time(self, market: MarketName) -> int | None:
        """Return when the last update arrived, by the local clock, in milliseconds; None before the first."""
        received_time_ns = self._found(market).reader.received_time_ns
        return None if received_time_ns is None else received_time_ns // 1_000_000

    def get_last_restart_time(self, market: MarketName) -> float | None:
        """Return the Unix time at which the market's stream last recovered from an interruption, or None."""
        return self._found(market).live.last_restart_time

    def get_restart_count(self, market: MarketName) -> int:
        """Return how often the market's stream has recovered from an interruption."""
        return self._found(market).live.restart_count

    # ------------------------------------------------------------------------------------------ requests

    def is_stop_request(self, market: MarketName | None = None) -> bool:
        """Return whether the manager, or this depth cache, was stopped."""
        if market is None or self._is_stopped:
            return self._is_stopped
        key = self._key(market)
        with self._lock:
            if key in self._caches:
                return False
            if key in self._stopped:
                return True
        raise DepthCacheNotFound(key, None, self._not_found(market, key))

    def refresh(self, markets: MarketName | Iterable[MarketName]) -> bool:
        """Check the levels of these markets against a new snapshot and replace them. The books stay readable."""
        for cache in [self._found(market) for market in parameters.markets(markets)]:
            cache.group.refresh(cache.live)
        return True

    def resync(self, market: MarketName, unsubscribe: bool = True) -> bool:
        """Take a book out of sync and synchronize it again; with a new subscription, unless `unsubscribe` is False."""
        cache = self._found(market)
        cache.group.resync(cache.live, parameters.flag("unsubscribe", unsubscribe))
        return True

    # ------------------------------------------------------------------------------------------ about

    def get_version(self) -> str:
        """Return the version of ldc."""
        return __version__

    def get_user_agent(self) -> str:
        """Return the User-Agent of requests and websockets."""
        python = f"{platform.python_implementation()} {platform.python_version()}"
        return f"binance-local-depth-cache/{__version__} ({IMPLEMENTATION}; {python})"

    def print_summary(self, add_string: str | None = None, footer: str | None = None, title: str | None = None) -> None:
        """Print a table of all depth caches to standard output, with these texts. No other method prints."""
        with self._lock:
            caches = list(self._caches.values())
        title = title or f"{self.get_user_agent()}: {len(caches)} depth caches of {', '.join(self.exchanges)}"
        table = _summary(title, [cache.status() for cache in caches], add_string, footer)
        print(writable(table, getattr(sys.stdout, "encoding", None)))  # a console may not know a market's characters

    # ------------------------------------------------------------------------------------------ inside

    def _connection_options(
        self,
        venue: Venue,
        ping_interval: float,
        ping_timeout: float,
        close_timeout: float,
        proxy: str | None,
        timing: Timing | None,
        feed_spin: bool,
        feed_cpus: Iterable[int] | None,
    ) -> ConnectionOptions:
        return ConnectionOptions(
            ping_interval_s=parameters.seconds("websocket_ping_interval", ping_interval),
            ping_timeout_s=parameters.seconds("websocket_ping_timeout", ping_timeout),
            close_timeout_s=parameters.seconds("websocket_close_timeout", close_timeout),
            messages_per_second=venue.messages_per_second,
            user_agent=self.get_user_agent(),
            proxies=ProxyRules(proxy),
            timing=DEFAULT_TIMING if timing is None else timing,
            spins=parameters.flag("feed_spin", feed_spin),
            cpus=checked_cpus(feed_cpus),
        ).checked()

    def _name(self, venue: Venue, market: str) -> str:
        """Return how the manager reports a market."""
        return market if venue.exchange == self.exchange else names.joined(venue.exchange, market)

    def _key(self, market: MarketName) -> str:
        """Return by what the manager finds a market."""
        if isinstance(market, tuple):
            market = parameters.address(market)
        if not isinstance(market, str) or names.SEPARATOR not in market:  # most of them
            return self._own.venue.normalized_market(market)
        venue, plain = names.split(market, self._own.venue)
        return self._name(venue, venue.normalized_market(plain))

    def _key_of(self, cache: DepthCache) -> str:
        return self._name(self._exchanges[cache.exchange].venue, cache.live.symbol)

    def _found(self, market: MarketName) -> DepthCache:
        # No lock, because reads come through here: one dict lookup is atomic, with and without the GIL.
        try:
            cache = self._caches.get(market)  # type: ignore[arg-type]
        except TypeError:  # what cannot be hashed is no text, which the next line says
            cache = None
        if cache is not None:
            return cache
        key = self._key(market)
        cache = self._caches.get(key)
        if cache is not None:
            return cache
        name = market if isinstance(market, str) else key
        if key in self._stopped:
            raise refused(name, Cause.STOPPED)
        raise DepthCacheNotFound(name, None, self._not_found(name, key))

    def _not_found(self, market: MarketName, key: str) -> str:
        """Return the text about a market without a depth cache."""
        there = tuple(self._caches)
        # Only another exchange has it, or there is one of nearly that name.
        elsewhere = [each for each in there if each.rpartition(names.SEPARATOR)[2] == key]
        hint = elsewhere[0] if elsewhere else did_you_mean(key, there)
        what_next = f"did you mean {hint!r}? Otherwise create it" if hint else "create it"
        return f"The depth cache of {market!r} does not exist; {what_next} with create_depth_cache() first."

    def _feeds_for(self, settings: Settings) -> ExchangeFeeds:
        routes = Routes(settings.venue, self._callbacks, self._states)
        return ExchangeFeeds(settings, self._options, routes, self._random, self._shared_folder)

    def _feeds_at(self, venue: Venue) -> ExchangeFeeds:
        """Return the feeds of an exchange; new ones if it has had no market. Call it under the lock."""
        feeds = self._exchanges.get(venue.exchange)
        if feeds is None:
            settings = self._settings_of_others.get(venue.exchange)
            feeds = self._feeds_for(settings or self._own.settings.of_exchange(venue.exchange, Endpoints()))
        return feeds

    def _start_unless_there(self, key: str, feeds: ExchangeFeeds, plan: MarketPlan) -> None:
        """Make a depth cache and let its feed group feed it. Call it under the lock."""
        cache = self._caches.get(key)
        if cache is not None:
            if not cache.group.has_ended and not cache.live.is_removed:
                return
            self._forget(cache)  # a failure of the feed has ended it
        cache = feeds.make(plan)
        self._share.publish(cache.live.book, key, feeds.venue.exchange)
        feeds.count_in(cache)
        self._stopped.pop(key, None)
        self._caches[key] = cache
        self._consumers.market_started(cache)
        cache.group.add(cache.live)  # last: reports about the market may come from now on

    def _forget(self, cache: DepthCache) -> None:
        """Hold a depth cache no longer that its feed group has ended, or ends. Call it under the lock."""
        del self._caches[self._key_of(cache)]
        self._exchanges[cache.exchange].leave(cache)


def _summary(title: str, statuses: Iterable[DepthCacheStatus], *texts: str | None) -> str:
    """Return a table of depth caches under a title, followed by the texts."""
    head = f"{'market':<20} {'state':<13} {'update id':>16} {'bids':>7} {'asks':>7} {'resyncs':>8}  cause"
    lines = (
        f"{each.market:<20} {each.state.value:<13} {each.last_update_id or '-':>16} {each.bid_count:>7} "
        f"{each.ask_count:>7} {sum(each.resyncs.values()):>8}  {each.cause or ''}"
        for each in statuses
    )
    return "\n".join((title, head, *lines, *filter(None, texts)))
