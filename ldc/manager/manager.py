"""Many live depth caches of one exchange: `BinanceLocalDepthCacheManager`.

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
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from ldc._version import __version__
from ldc.analytics.view import BookView
from ldc.book import IMPLEMENTATION, OrderBook, read_header
from ldc.consume.callbacks import CallbackHandle, CallbackThread
from ldc.consume.log import logger
from ldc.consume.stream import UpdateStream
from ldc.consume.updates import UpdateNumberType
from ldc.errors import DepthCacheError, DepthCacheNotFound, refused, stopped_manager
from ldc.feed.connection import ConnectionOptions
from ldc.feed.cpus import checked_cpus
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.limits import DEFAULT_TIMING, Timing
from ldc.manager import compat, lifecycle, parameters
from ldc.manager.consumers import Consumers, run_in_thread, wait_async
from ldc.manager.depth_cache import DepthCache
from ldc.manager.routes import Routes
from ldc.manager.settings import Settings, venue_at
from ldc.manager.waiting import wait_for_any
from ldc.network.proxy import ProxyRules, address_key
from ldc.network.text import writable
from ldc.network.ubdcc import UbdccCluster
from ldc.shared.publisher import Publisher
from ldc.snapshots.downloader import SnapshotClient, shared_downloader
from ldc.snapshots.shared_budget import shared_folder
from ldc.sync.machine import Synchronizer
from ldc.types import Cause, DepthCacheStatus, Progress, SyncState
from ldc.venues import did_you_mean


class BinanceLocalDepthCacheManager(compat.CompatNames):
    """Keeps exact local copies of an exchange's order books.

    Args:
        exchange: such as "binance.com" or "binance.com-futures"; a wrong one raises `UnknownExchange` with the choices.
        default_refresh_interval: seconds between two checks of each book against a new snapshot. None: only when
            needed. The book stays readable during a refresh.
        depth_cache_update_interval: milliseconds between two updates of a stream. None: the fastest documented one.
        snapshot_limit: maximum levels a side in a snapshot. None: the exchange's maximum, reached in steps.
        weight_share: part of the exchange's request weight that all managers of the process may use together.
        markets_per_connection: markets that share a websocket and a thread; 1 gives each its own.
        redundancy: websockets that carry each market at the same time, 1 to 4; on different hosts if there are several.
            The first arrival of an update counts, so the loss of one of two interrupts nothing.
        high_performance: use the whole request weight (`weight_share` 1).
        init_interval: minimum seconds between two snapshots of this manager. None: only the weight limits them.
        init_time_window: seconds in which a market gets at most one snapshot.
        on_restart: called as ``on_restart(market, unix_time)`` after a market's stream has recovered from an
            interruption. It runs in a thread of its own and may block or raise.
        websocket_ping_interval, websocket_ping_timeout: seconds. A dead connection is detected within their sum.
        websocket_close_timeout: seconds that the exchange has to answer a close; ldc waits at most 0.3 of them.
        restful_base_uri, websocket_base_uri: other addresses, as ``scheme://host[:port]``; ldc appends the paths. Lists
            of one length: addresses that serve the same, such as two gateways; after a failure the next one is used,
            and with `redundancy` several at once.
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

    # Set by `_prepare`: the address may be unknown before.
    _urls: Sequence[str]
    _connect_budget: SharedConnectBudget
    _downloads: SnapshotClient | None = None

    _stopped: dict[str, str]  # symbol -> the market as the user spelt it
    _group_sizes: dict[FeedGroup, int]
    _ending_groups: list[FeedGroup]
    _launched: Any = None
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
            self._venue, restful, websocket = venue_at(exchange, restful_base_uri, websocket_base_uri)
            self._settings = Settings.checked(
                self._venue,
                default_refresh_interval=default_refresh_interval,
                depth_cache_update_interval=depth_cache_update_interval,
                snapshot_limit=snapshot_limit,
                weight_share=weight_share,
                high_performance=high_performance,
                markets_per_connection=markets_per_connection,
                redundancy=redundancy,
                init_interval=init_interval,
                init_time_window=init_time_window,
                restful_base_uri=restful,
                websocket_base_uri=websocket,
                max_age=max_age,
                weight_pool=weight_pool,
            )
            keepalive = websocket_ping_interval, websocket_ping_timeout, websocket_close_timeout
            self._options = self._connection_options(*keepalive, proxy, timing, feed_spin, feed_cpus)
            parameters.optional_function("on_restart", on_restart)
            self._shared_folder, self._share = shared_folder(shared_budget), lifecycle.Share(share, share_levels)
        self._callbacks, self._lock, self._random = CallbackThread(), threading.Lock(), _random
        self._routes = Routes(self._venue, self._callbacks, on_restart)
        self._consumers = Consumers(exchange, self._callbacks, self._routes)
        self._caches, self._stopped, self._group_sizes, self._ending_groups = self._routes.caches, {}, {}, []
        self._group_numbers, self._serials = count(1), count(1)
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
        """The exchange string."""
        return self._venue.exchange

    @property
    def restful_base_uris(self) -> tuple[str, ...]:
        """The REST addresses, without paths; empty for an embedded exchange before the first depth cache."""
        given = self._settings.restful_base_uri
        return self._venue.restful_base_uris if given is None else (given,)

    def create_depth_cache(self, markets: str | Iterable[str], refresh_interval: float | None = None) -> bool:
        """Start one or many depth caches and return True at once; they synchronize in the background.

        Idempotent; restarts stopped markets. Raises ``ValueError`` for a text that cannot be a market, and starts none
        then; `DepthCacheAlreadyStopped` if the manager was stopped.

        Args:
            markets: such as "BTCUSDT" or ["BTCUSDT", "ethusdt"]; case does not matter.
            refresh_interval: seconds, instead of the manager's `default_refresh_interval`.
        """
        symbols = {self._symbol(market): market for market in parameters.markets(markets)}
        if refresh_interval is not None:
            refresh_interval = parameters.seconds("refresh_interval", refresh_interval)
        with self._lock:
            if self._is_stopped:
                raise stopped_manager(Cause.STOPPED)
            self._prepare()
            for symbol, market in symbols.items():
                cache = self._caches.get(symbol)
                if cache is not None and (cache.group.has_ended or cache.live.is_removed):  # by a failure of the feed
                    del self._caches[symbol]
                    self._leave_group(cache.group)
                    cache = None
                if cache is None:
                    self._start(symbol, market, refresh_interval)
        return True

    def stop_depth_cache(self, markets: str | Iterable[str]) -> bool:
        """Stop and delete one or many depth caches. Raises `DepthCacheNotFound` for a market that never had one."""
        markets = parameters.markets(markets)
        with self._lock:
            # Found under the lock, because another thread may stop and create the market again.
            for cache in [self._found(market) for market in markets]:
                if self._caches.pop(cache.live.symbol, None) is not None:
                    self._stopped[cache.live.symbol] = cache.market
                    self._share.withdraw(cache.live.symbol)
                    cache.group.remove(cache.live)
                    self._leave_group(cache.group)
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
            groups, self._group_sizes = [*self._group_sizes, *self._ending_groups], {}
            self._ending_groups = []
            downloads, self._downloads, self._routes.downloads = self._downloads, None, None
            launched, self._launched = self._launched, None
            self._stopped |= {symbol: cache.market for symbol, cache in self._caches.items()}
            self._close_books()  # again, because a call that starts something may have been under way
            self._share.close(self._caches)
            self._caches.clear()
            self._consumers.end()
        give_up_at = time.monotonic() + self._options.timing.stop_s_max
        for group in groups:
            group.stop()
        self._callbacks.stop()
        if downloads is not None:
            downloads.close()
        for group in groups:
            if not group.join(max(0.0, give_up_at - time.monotonic())):
                logger.warning("%s did not end in time; it ends later by itself", group.name)
        self._callbacks.join(max(0.0, give_up_at - time.monotonic()))
        logger.flush(max(0.0, give_up_at - time.monotonic()))
        if launched is not None:
            launched.stop()

    def _close_books(self) -> None:
        """Let no book be read any more, and end all waits, whatever the feeds' threads are doing."""
        for cache in list(self._caches.values()):
            cache.live.close()

    def _end_in_child(self) -> None:
        """End in a forked child, which has no threads of ldc: books that look alive there would be stale."""
        self._lock = threading.Lock()
        self._callbacks, self._launched, self._downloads = CallbackThread(), None, None
        self._consumers.end_in_child(self._callbacks)
        self._routes._end_in_child()
        self._stopped |= {symbol: cache.market for symbol, cache in self._caches.items()}
        self._caches.clear()
        self._share = lifecycle.Share(None, 1)  # it is the parent's
        self._group_sizes, self._ending_groups, self._is_stopped = {}, [], True

    def renew_connections(self) -> None:
        """Replace every websocket make-before-break: the old one runs until the new one delivers updates."""
        with self._lock:
            groups = list(self._group_sizes)
        for group in groups:
            group.renew()

    def markets(self) -> list[str]:
        """Return the active markets, as the user spelt them."""
        with self._lock:
            return [cache.market for cache in self._caches.values()]

    def get_progress(self) -> Progress:
        """Return how many depth caches can be read, and about how long the others still need. O(markets)."""
        with self._lock:
            caches, downloads = list(self._caches.values()), self._downloads
        synchronized = sum(cache.is_synchronized for cache in caches)
        failed = sum(cache.state is SyncState.FAILED for cache in caches)
        left = max(0, len(caches) - synchronized - failed)
        first_limit = self._venue.snapshot_steps(self._settings.snapshot_limit)[0]
        seconds_left = downloads.estimated_s(left, first_limit) if downloads is not None and left else 0.0
        return Progress(synchronized, failed, len(caches), seconds_left)

    # ------------------------------------------------------------------------------------------ reading

    def get_asks(
        self,
        market: str,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        max_age: float | None = None,
    ) -> list[list[float]]:
        """Return the asks, lowest first, as [[price, quantity], ...].

        Args:
            limit_count: maximum levels; fewer if the known range ends before.
            threshold_volume: maximum sum of price x quantity, in the quote asset; the first level is always returned.
            max_age: seconds. Raise with the cause TOO_OLD if the last proof that the book is current is older. Proofs
                are updates, probes, and pongs of its connections (as of the ping). None: the `max_age` of the manager.
                Without one the lease decides: `websocket_ping_interval` + `websocket_ping_timeout` + 1 s.

        Raises:
            DepthCacheOutOfSync: the copy cannot be proven right at this moment; `cause` says why.
            DepthCacheNotFound, DepthCacheAlreadyStopped, UnknownMarket: the depth cache does not exist (any more).
        """
        cache = self._found(market)
        try:
            self._raise_if_older(cache, max_age)
            return cache.reader.asks(limit_count, threshold_volume=threshold_volume)
        except DepthCacheError as error:
            raise cache.explain(error) from None

    def get_bids(
        self,
        market: str,
        limit_count: int | None = None,
        threshold_volume: float | Decimal | None = None,
        *,
        max_age: float | None = None,
    ) -> list[list[float]]:
        """Return the bids, highest first; otherwise as `get_asks`."""
        cache = self._found(market)
        try:
            self._raise_if_older(cache, max_age)
            return cache.reader.bids(limit_count, threshold_volume=threshold_volume)
        except DepthCacheError as error:
            raise cache.explain(error) from None

    def get_book(self, market: str, limit_count: int | None = None, *, max_age: float | None = None) -> BookView[float]:
        """Return both sides, ids, times and horizons at one update id: a `BookView`. Raises as `get_asks`."""
        cache = self._found(market)
        try:
            self._raise_if_older(cache, max_age)
            return cache.reader.view(limit_count)
        except DepthCacheError as error:
            raise cache.explain(error) from None

    def _raise_if_older(self, cache: DepthCache, max_age_s: float | None) -> None:
        if max_age_s is None:
            max_age_s = self._settings.max_age_s
        if max_age_s is not None:
            cache.raise_if_older(max_age_s)

    def get_depth_cache(self, market: str) -> DepthCache:
        """Return the `DepthCache`, whose `reader` reads without the manager."""
        return self._found(market)

    # ------------------------------------------------------------------------------------------ state

    def is_depth_cache_synchronized(self, market: str, *, max_age: float | None = None) -> bool:
        """Return whether both sides can be read; `max_age` as for `get_asks`."""
        cache = self._found(market)
        max_age = self._settings.max_age_s if max_age is None else parameters.age(max_age)
        return cache.is_synchronized and (max_age is None or cache.proof_age_s <= max_age)

    def wait_until_synchronized(self, markets: str | Iterable[str] | None = None, timeout: float | None = None) -> bool:
        """Block until all of these markets (None: all) can be read; return False if `timeout` seconds are over first.

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
                if not cache.wait_until_synchronized(left_s):
                    return False
            # An earlier market may have been lost during the wait for a later one.
            if all(cache.is_synchronized for cache in caches):
                return True

    def wait_for_update(
        self,
        market: str,
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
        self, markets: str | Iterable[str] | None = None, timeout: float | None = None
    ) -> bool:
        """As `wait_until_synchronized`, in an event loop; but raise ``TimeoutError`` if the time runs out."""
        if markets is None and self.is_stop_request():
            raise stopped_manager(Cause.STOPPED)
        wanted = self.markets() if markets is None else parameters.markets(markets)
        caches = [self._found(market) for market in wanted]

        def are_synchronized() -> bool:
            for cache in caches:
                cache.raise_if_over()
            return all(cache.is_synchronized for cache in caches)

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
        markets: str | Iterable[str] | None = None,
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
        markets: str | Iterable[str] | None = None,
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
        self, function: Callable[..., object], markets: str | Iterable[str] | None = None
    ) -> CallbackHandle:
        """Call ``function(market, state, cause)`` when a market changes its `SyncState`; return a handle to cancel it.

        It runs where a callback of `on_update` runs that is not inline. `cause`: why the market cannot be read; when it
        becomes SYNCHRONIZED, why it could not be read until now.
        """
        return self._consumers.on_state_change(function, self._wanted(markets))

    def _wanted(self, markets: str | Iterable[str] | None) -> frozenset[str] | None:
        """Return the symbols of markets that exist; None: all."""
        if markets is None:
            return None
        return frozenset(self._found(market).live.symbol for market in parameters.markets(markets))

    def wait_for_any(
        self,
        markets: str | Iterable[str] | None = None,
        after_update_ids: Mapping[str, int] | None = None,
        timeout: float | None = None,
        *,
        spin_us: float = 0,
    ) -> dict[str, int]:
        """Block until one of many books has moved; return {market: new id} of all that have, spelt as in `markets`.

        Returns {} if `timeout` seconds are over first. So one thread follows many markets::

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
            seen = {self._symbol(market): update_id for market, update_id in after_update_ids.items()}
            after = {market: seen.get(cache.live.symbol) for market, cache in caches.items()}
        return wait_for_any(caches, after, timeout, spin_us)

    def get_status(self, market: str) -> DepthCacheStatus:
        """Return the status of a depth cache as an immutable value, with `get_progress` in it. O(markets).

        For many markets call `status` of each `DepthCache`, which is O(1), and `get_progress` once.
        """
        return self._found(market).status()._replace(progress=self.get_progress())

    def get_last_update_time(self, market: str) -> int | None:
        """Return when the last update arrived, by the local clock, in milliseconds; None before the first."""
        received_time_ns = self._found(market).reader.received_time_ns
        return None if received_time_ns is None else received_time_ns // 1_000_000

    def get_last_restart_time(self, market: str) -> float | None:
        """Return the Unix time at which the market's stream last recovered from an interruption, or None."""
        return self._found(market).live.last_restart_time

    def get_restart_count(self, market: str) -> int:
        """Return how often the market's stream has recovered from an interruption."""
        return self._found(market).live.restart_count

    # ------------------------------------------------------------------------------------------ requests

    def is_stop_request(self, market: str | None = None) -> bool:
        """Return whether the manager, or this depth cache, was stopped."""
        if market is None or self._is_stopped:
            return self._is_stopped
        symbol = self._symbol(market)
        with self._lock:
            if symbol in self._caches:
                return False
            if symbol in self._stopped:
                return True
        raise DepthCacheNotFound(market, None, self._not_found(market, symbol))

    def refresh(self, markets: str | Iterable[str]) -> bool:
        """Check the levels of these markets against a new snapshot and replace them. The books stay readable."""
        for cache in [self._found(market) for market in parameters.markets(markets)]:
            cache.group.refresh(cache.live)
        return True

    def resync(self, market: str, unsubscribe: bool = True) -> bool:
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
        title = title or f"{self.get_user_agent()}: {len(caches)} depth caches of {self.exchange}"
        table = _summary(title, [cache.status() for cache in caches], add_string, footer)
        print(writable(table, getattr(sys.stdout, "encoding", None)))  # a console may not know a market's characters

    # ------------------------------------------------------------------------------------------ inside

    @property
    def _spare_urls(self) -> tuple[str, ...]:
        """The URLs that connections try after a failure: none if each has one of its own, and the others are there."""
        urls = self._venue.all_stream_urls if self._settings.websocket_base_uri is None else ()
        return () if 1 < len(urls) <= self._settings.redundancy else urls

    def _connection_options(
        self,
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
            messages_per_second=self._venue.messages_per_second,
            user_agent=self.get_user_agent(),
            proxies=ProxyRules(proxy),
            spare_urls=self._spare_urls,
            timing=DEFAULT_TIMING if timing is None else timing,
            spins=parameters.flag("feed_spin", feed_spin),
            cpus=checked_cpus(feed_cpus),
        ).checked()

    def _symbol(self, market: str) -> str:
        return self._venue.normalized_market(market)

    def _found(self, market: str) -> DepthCache:
        # No lock, because reads come through here: one dict lookup is atomic, with and without the GIL.
        try:
            cache = self._caches.get(market)
        except TypeError:  # what cannot be hashed is no text, which the next line says
            cache = None
        symbol = market if cache is not None else self._symbol(market)
        cache = cache or self._caches.get(symbol)
        if cache is not None:
            return cache
        if symbol in self._stopped:
            raise refused(market, Cause.STOPPED)
        raise DepthCacheNotFound(market, None, self._not_found(market, symbol))

    def _not_found(self, market: str, symbol: str) -> str:
        """Return the text about a market without a depth cache."""
        hint = did_you_mean(symbol, tuple(self._caches))
        what_next = f"did you mean {hint!r}? Otherwise create it" if hint else "create it"
        return f"The depth cache of {market!r} does not exist; {what_next} with create_depth_cache() first."

    def _prepare(self) -> None:
        """Open what all depth caches share, before the first one starts. Call it under the lock."""
        if self._downloads is not None:
            return
        self._share.open()
        if self._venue.launcher is not None and self._settings.websocket_base_uri is None:
            self._launched = lifecycle.launch(self._venue)
            self._settings = self._settings.at(self._launched.restful_base_uri, self._launched.websocket_base_uri)
        self._downloads = self._routes.downloads = shared_downloader().open(
            self._venue,
            self._routes.deliver,
            restful_base_uri=self._settings.restful_base_uri,
            proxies=self._options.proxies,
            weight_share=self._settings.weight_share,
            init_interval_s=self._settings.init_interval_s,
            init_time_window_s=self._settings.init_time_window_s,
            user_agent=self.get_user_agent(),
            weight_pool=self._settings.weight_pool,
            shared_folder=self._shared_folder,
        )
        self._urls = self._venue.stream_urls(self._settings.redundancy, self._settings.websocket_base_uri)
        proxy = self._options.proxies.for_url(self._urls[0])
        self._connect_budget = lifecycle.connect_budget(
            self._venue, self._urls[0], address_key(proxy, self._settings.weight_pool), self._shared_folder
        )

    def _start(self, symbol: str, market: str, refresh_interval_s: float | None) -> None:
        """Make a depth cache and add it to a feed group. Call it under the lock."""
        venue, settings = self._venue, self._settings

        def make_book() -> OrderBook:
            return OrderBook(venue.rule, market=market, symbol=symbol)

        book = make_book()
        synchronizer = Synchronizer(
            book,
            make_book=make_book,
            read_header=read_header,
            random=self._random,
            limits=venue.snapshot_steps(settings.snapshot_limit),
            now=time.monotonic(),
            symbol=symbol,
            refresh_interval_s=settings.refresh_interval_s if refresh_interval_s is None else refresh_interval_s,
            buffers=lifecycle.process_buffers,
        )
        stream = venue.stream_name(symbol, settings.update_interval_ms)
        named = (market, symbol, stream, book, synchronizer, next(self._serials))
        live = LiveMarket(*named, self._routes.state_changed, self._routes.restarted, self._options.timing)
        group = self._group_with_room()
        self._share.publish(book, symbol, venue.exchange)
        self._group_sizes[group] += 1
        self._stopped.pop(symbol, None)
        cache = self._caches[symbol] = DepthCache(venue.exchange, live, group)
        self._consumers.market_started(cache)
        group.add(live)  # last: reports about the market may come from now on

    def _leave_group(self, group: FeedGroup) -> None:
        """Count a market that has left its group, and stop an empty group. Call it under the lock."""
        self._group_sizes[group] -= 1
        if self._group_sizes[group] == 0:
            del self._group_sizes[group]
            self._ending_groups = [ending for ending in self._ending_groups if not ending.join(0)]
            self._ending_groups.append(group)
            group.stop()

    def _group_with_room(self) -> FeedGroup:
        for group, size in self._group_sizes.items():
            if size < self._settings.markets_per_connection and not group.has_ended:
                return group
        group = FeedGroup(
            f"ldc-feed-{self._venue.exchange}-{next(self._group_numbers)}",
            self._urls,
            self._options,
            connect_budget=self._connect_budget,
            request_snapshot=self._routes.request_snapshot,
            cancel_snapshot=self._routes.cancel_snapshot,
            request_probe=self._routes.request_probe,
            holds_request=self._routes.holds_request,
            random=self._random,
        )
        self._group_sizes[group] = 0
        try:
            group.start()
        except (RuntimeError, MemoryError):  # the system has no more threads, so the group would never do anything
            del self._group_sizes[group]
            group.discard()
            raise
        return group


def _summary(title: str, statuses: Iterable[DepthCacheStatus], *texts: str | None) -> str:
    """Return a table of depth caches under a title, followed by the texts."""
    head = f"{'market':<20} {'state':<13} {'update id':>16} {'bids':>7} {'asks':>7} {'resyncs':>8}  cause"
    lines = (
        f"{each.market:<20} {each.state.value:<13} {each.last_update_id or '-':>16} {each.bid_count:>7} "
        f"{each.ask_count:>7} {sum(each.resyncs.values()):>8}  {each.cause or ''}"
        for each in statuses
    )
    return "\n".join((title, head, *lines, *filter(None, texts)))
