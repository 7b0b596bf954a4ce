"""Many live depth caches of one exchange: `BinanceLocalDepthCacheManager`.

Rule 1: the constructor opens nothing: no socket, no thread, no look at whether there is a newer version.
Rule 2: every method may be called from any thread, callbacks included. None holds a lock while it waits.
Rule 3: names, parameters and behaviour are those that users of "Binance Local Depth Cache" libraries know.
"""

import logging
import os
import platform
import random
import threading
import time
import types
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Self

from ldc._version import __version__
from ldc.book import IMPLEMENTATION, OrderBook, read_header
from ldc.consume.callbacks import CallbackThread
from ldc.errors import DepthCacheAlreadyStopped, DepthCacheNotFound
from ldc.feed.connection import ConnectionOptions
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.limits import DEFAULT_TIMING, Timing, checked_weight_share
from ldc.manager import compat, lifecycle
from ldc.manager.depth_cache import DepthCache
from ldc.manager.reads import ManagerReads
from ldc.manager.settings import Settings, checked_seconds, proxy_options
from ldc.snapshots.downloader import (
    SnapshotBegins,
    SnapshotBody,
    SnapshotClient,
    SnapshotFailure,
    SnapshotRequest,
    shared_downloader,
)
from ldc.snapshots.shared_budget import shared_folder
from ldc.sync.actions import Purpose, RequestSnapshot
from ldc.sync.machine import Synchronizer
from ldc.types import Cause, Progress, SyncState
from ldc.venues import venue_named

__all__ = ["BinanceLocalDepthCacheManager"]

logger = logging.getLogger("binance_local_depth_cache")

PROBE_LEVELS = 5
"""What a look-up of a silent market asks for: the least, because only its id matters."""

_EPOCH_BITS = 32  # above these, an epoch as the downloader sees it carries whose it is: `LiveMarket.serial`
_EPOCH_MASK = (1 << _EPOCH_BITS) - 1


class BinanceLocalDepthCacheManager(ManagerReads, compat.CompatNames):
    """Keeps exact local copies of an exchange's order books.

    Args:
        exchange: such as "binance.com" or "binance.com-futures"; a wrong one raises `UnknownExchange` with the choices.
        default_refresh_interval: seconds between two checks of each book against a new snapshot; None: only when
            needed. A refresh never takes a book away.
        depth_cache_update_interval: milliseconds between two updates of a stream; None: the fastest that is documented.
        snapshot_limit: at most so many levels a side in a snapshot; None: in the end as many as the exchange serves.
        weight_share: the part of the exchange's request weight that may be used, by all managers of the process.
        markets_per_connection: markets that share a websocket and a thread; 1 gives each its own.
        redundancy: websockets that bring each market at the same time, from different hosts where the exchange has
            several. What comes first counts, so that losing one of two interrupts nothing. 1 to 4.
        high_performance: use the whole request weight (`weight_share` 1).
        init_interval: at least so many seconds between two snapshots of this manager; None: the weight decides alone.
        init_time_window: at most one snapshot of a market in so many seconds.
        on_restart: called as ``on_restart(market, unix_time)`` after a market's stream came back from an interruption,
            in a thread of its own. It may block or raise; nothing else suffers.
        websocket_ping_interval, websocket_ping_timeout: seconds. A dead link is noticed within their sum.
        websocket_close_timeout: seconds that the exchange has to answer a close; at most 0.3 are waited.
        restful_base_uri, websocket_base_uri: other addresses, as ``scheme://host[:port]``; the paths are added.
        proxy: URL of an HTTP or SOCKS proxy for both. Without it, the usual environment variables count.
        shared_budget: True: share the request weight and the connects with the other processes of this user that do so
            too, by files in the user's cache folder; or a path: by files in that folder. Needs the extra
            ``shared-budget``.
        timing: an `ldc.limits.Timing`: how long feeds wait for what; None: its defaults, which suit an exchange.
        _random: the source of all jitter, a number from 0 up to 1. For tests.

    Use it as a context manager, or call `stop_manager`. Thread-safe.
    """

    # Set before the first depth cache: the address is not known earlier.
    _urls: Sequence[str]
    _connect_budget: SharedConnectBudget

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
        restful_base_uri: str | None = None,
        websocket_base_uri: str | None = None,
        proxy: str | None = None,
        shared_budget: bool | str | os.PathLike[str] = False,
        timing: Timing | None = None,
        _random: Callable[[], float] = random.random,
        **former: Any,
    ) -> None:
        lifecycle.check_compat_parameters(former)
        self._venue = venue_named(exchange)
        self._settings = Settings(
            venue=self._venue,
            refresh_interval_s=default_refresh_interval,
            update_interval_ms=depth_cache_update_interval,
            snapshot_limit=snapshot_limit,
            weight_share=1.0 if high_performance else checked_weight_share(weight_share),
            markets_per_connection=markets_per_connection,
            redundancy=redundancy,
            init_interval_s=init_interval,
            init_time_window_s=init_time_window,
            restful_base_uri=restful_base_uri,
            websocket_base_uri=websocket_base_uri,
            proxy=proxy,
        )
        self._options = ConnectionOptions(
            ping_interval_s=websocket_ping_interval,
            ping_timeout_s=websocket_ping_timeout,
            close_timeout_s=websocket_close_timeout,
            messages_per_second=self._venue.messages_per_second,
            user_agent=self.get_user_agent(),
            proxy=proxy_options(proxy),
            timing=DEFAULT_TIMING if timing is None else timing,
        ).checked()
        self._shared_folder = shared_folder(shared_budget)
        self._on_restart, self._random = on_restart, _random
        self._callbacks, self._lock = CallbackThread(), threading.Lock()
        self._caches: dict[str, DepthCache] = {}
        self._stopped: dict[str, str] = {}  # symbol -> the market as it was spelt
        self._group_sizes: dict[FeedGroup, int] = {}
        self._ending_groups: list[FeedGroup] = []
        self._group_numbers, self._serials = count(1), count(1)
        self._downloads: SnapshotClient | None = None
        lifecycle.end_in_forked_children(self)

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.stop_manager()

    @property
    def exchange(self) -> str:
        """The exchange string."""
        return self._venue.exchange

    def create_depth_cache(self, markets: str | Iterable[str], refresh_interval: float | None = None) -> bool:
        """Start one or many depth caches and return True at once; they synchronize by themselves.

        One that exists is left alone, one that was stopped starts again. Raises ``ValueError`` for what cannot be the
        name of a market (then none is started), and `DepthCacheAlreadyStopped` if the manager was stopped.

        Args:
            markets: such as "BTCUSDT" or ["BTCUSDT", "ethusdt"]; case does not matter.
            refresh_interval: seconds, instead of the manager's `default_refresh_interval`.
        """
        symbols = {self._symbol(market): market for market in lifecycle.as_list(markets)}
        if refresh_interval is not None:
            checked_seconds("refresh_interval", refresh_interval)
        with self._lock:
            if self._is_stopped:
                raise DepthCacheAlreadyStopped(None, None, "The manager was stopped; make a new one.")
            self._prepare()
            for symbol, market in symbols.items():
                if symbol not in self._caches:
                    self._start(symbol, market, refresh_interval)
        return True

    def stop_depth_cache(self, markets: str | Iterable[str]) -> bool:
        """Stop and delete one or many depth caches. Raises `DepthCacheNotFound` for one that never was."""
        markets = lifecycle.as_list(markets)
        with self._lock:
            # Found under the lock: what another thread stops and creates anew meanwhile is not what was found before.
            for cache in [self._found(market) for market in markets]:
                if self._caches.pop(cache.live.symbol, None) is not None:
                    self._stopped[cache.live.symbol] = cache.market
                    cache.group.remove(cache.live)
                    self._give_back_place(cache.group)
        return True

    def stop_manager(self) -> bool:
        """Stop everything, within a second, from whatever state. Idempotent.

        May be called from a callback, and from a signal handler: what cannot be stopped before the handler returns,
        because it interrupted a call that starts something, is stopped as soon as that call is over.
        """
        self._is_stopped = True
        if threading.current_thread() is not threading.main_thread():
            self._stop_all()
            return True
        # A signal handler may have interrupted this very thread while it held a lock: it must not wait for that here.
        stopper = threading.Thread(target=self._stop_all, name="ldc-stop", daemon=True)
        try:
            stopper.start()
        except RuntimeError:  # no more threads to be had
            self._stop_all()
        else:
            stopper.join(self._options.timing.stop_s_max)
        return True

    def _stop_all(self) -> None:
        with self._lock:
            groups, self._group_sizes = [*self._group_sizes, *self._ending_groups], {}
            self._ending_groups = []
            downloads, self._downloads = self._downloads, None
            launched, self._launched = self._launched, None
            self._stopped |= {symbol: cache.market for symbol, cache in self._caches.items()}
            self._caches.clear()
        give_up_at = time.monotonic() + self._options.timing.stop_s_max
        for group in groups:
            group.stop()
        self._callbacks.stop()
        if downloads is not None:
            downloads.close()
        for group in groups:
            if not group.join(max(0.0, give_up_at - time.monotonic())):
                logger.warning("%s did not end in time; it ends by itself", group.name)
        self._callbacks.join(max(0.0, give_up_at - time.monotonic()))
        if launched is not None:
            launched.stop()

    def _end_in_child(self) -> None:
        """End in a forked child, which has none of our threads: what looks alive there would silently stand still."""
        self._lock = threading.Lock()
        self._callbacks, self._launched, self._downloads = CallbackThread(), None, None
        for symbol, cache in self._caches.items():
            cache.live.is_removed = True
            cache.live.book.suspend(Cause.STOPPED)
            self._stopped[symbol] = cache.market
        lives = [cache.live for cache in self._caches.values()]
        self._caches, self._group_sizes, self._ending_groups, self._is_stopped = {}, {}, [], True
        for live in lives:  # last, for its thread may have been in the middle of something
            live.synchronizer.stop(time.monotonic())

    def renew_connections(self) -> None:
        """Replace every websocket by a new one while both run, so that no book is out of sync for it."""
        with self._lock:
            groups = list(self._group_sizes)
        for group in groups:
            group.renew()

    def get_list_of_depth_caches(self) -> list[str]:
        """Return the active markets, as they were spelt."""
        with self._lock:
            return [cache.market for cache in self._caches.values()]

    # Names of old that many programs use.
    create_depthcache = create_depth_cache
    stop_depthcache = stop_depth_cache
    get_list_of_depthcaches = get_list_of_depth_caches
    stop_manager_with_all_depth_caches = stop_manager

    def get_progress(self) -> Progress:
        """Return how many depth caches can be read, and about how long the others will take. O(markets)."""
        with self._lock:
            caches, downloads = list(self._caches.values()), self._downloads
        synchronized = sum(cache.is_synchronized for cache in caches)
        failed = sum(cache.state is SyncState.FAILED for cache in caches)
        left = max(0, len(caches) - synchronized - failed)
        first_limit = self._venue.snapshot_steps(self._settings.snapshot_limit)[0]
        seconds_left = downloads.estimated_s(left, first_limit) if downloads is not None and left else 0.0
        return Progress(synchronized, failed, len(caches), seconds_left)

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
        raise DepthCacheNotFound(market)

    def set_refresh_request(self, markets: str | Iterable[str]) -> bool:
        """Check and renew the levels of these from a new snapshot, without taking the books away."""
        for cache in [self._found(market) for market in lifecycle.as_list(markets)]:
            cache.group.refresh(cache.live)
        return True

    def set_resync_request(self, market: str, unsubscribe: bool = True) -> bool:
        """Take a book out of sync and synchronize it anew; with a new subscription, unless `unsubscribe` is False."""
        cache = self._found(market)
        cache.group.resync(cache.live, unsubscribe)
        return True

    # ------------------------------------------------------------------------------------------ about

    def get_version(self) -> str:
        """Return the version of ldc."""
        return __version__

    def get_user_agent(self) -> str:
        """Return what requests and websockets say about who they are."""
        python = f"{platform.python_implementation()} {platform.python_version()}"
        return f"binance-local-depth-cache/{__version__} ({IMPLEMENTATION}; {python})"

    def print_summary(self, add_string: str | None = None, footer: str | None = None, title: str | None = None) -> None:
        """Print a table of all depth caches to standard output, with these texts. The only method that prints."""
        with self._lock:
            caches = list(self._caches.values())
        title = title or f"{self.get_user_agent()}: {len(caches)} depth caches of {self.exchange}"
        print(lifecycle.summary(title, [cache.status() for cache in caches], add_string, footer))

    # ------------------------------------------------------------------------------------------ inside

    def _symbol(self, market: str) -> str:
        return self._venue.normalized_market(market)

    def _found(self, market: str) -> DepthCache:
        # No lock: one look at a dict is atomic, with and without the GIL. Reads come through here.
        cache = self._caches.get(market) or self._caches.get(self._symbol(market))
        if cache is not None:
            return cache
        if self._symbol(market) in self._stopped:
            raise DepthCacheAlreadyStopped(market)
        raise DepthCacheNotFound(market)

    def _prepare(self) -> None:
        """Open what all depth caches share, before the first one. Under the lock."""
        if self._downloads is not None:
            return
        if self._venue.launcher is not None and self._settings.websocket_base_uri is None:
            self._launched = lifecycle.launch(self._venue)
            self._settings = self._settings.at(self._launched.restful_base_uri, self._launched.websocket_base_uri)
        self._downloads = shared_downloader().open(
            self._venue,
            self._report,
            restful_base_uri=self._settings.restful_base_uri,
            proxy=self._settings.proxy,
            weight_share=self._settings.weight_share,
            init_interval_s=self._settings.init_interval_s,
            init_time_window_s=self._settings.init_time_window_s,
            user_agent=self.get_user_agent(),
            shared_folder=self._shared_folder,
        )
        self._urls = self._venue.stream_urls(self._settings.redundancy, self._settings.websocket_base_uri)
        self._connect_budget = lifecycle.connect_budget(
            self._venue, self._urls[0], self._settings.proxy, self._shared_folder
        )

    def _start(self, symbol: str, market: str, refresh_interval_s: float | None) -> None:
        """Make a depth cache and hand it to a group. Under the lock."""
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
        )
        stream = venue.stream_name(symbol, settings.update_interval_ms)
        named = (market, symbol, stream, book, synchronizer, next(self._serials))
        live = LiveMarket(*named, lifecycle.log_state, self._restarted, self._options.timing)
        group = self._group_with_room()
        self._group_sizes[group] += 1
        self._stopped.pop(symbol, None)
        self._caches[symbol] = DepthCache(venue.exchange, live, group)
        group.add(live)  # last: from now on reports about it may come

    def _give_back_place(self, group: FeedGroup) -> None:
        """A market has left its group; an empty one ends. Under the lock."""
        self._group_sizes[group] -= 1
        if self._group_sizes[group] == 0:
            del self._group_sizes[group]
            self._ending_groups = [ending for ending in self._ending_groups if not ending.join(0)]
            self._ending_groups.append(group)
            group.stop()

    def _group_with_room(self) -> FeedGroup:
        for group, size in self._group_sizes.items():
            if size < self._settings.markets_per_connection:
                return group
        group = FeedGroup(
            f"ldc-feed-{self._venue.exchange}-{next(self._group_numbers)}",
            self._urls,
            self._options,
            connect_budget=self._connect_budget,
            request_snapshot=self._request_snapshot,
            cancel_snapshot=self._cancel_snapshot,
            request_probe=self._request_probe,
            random=self._random,
        )
        self._group_sizes[group] = 0
        try:
            group.start()
        except RuntimeError:  # no more threads to be had: nobody would ever do what is asked of it
            del self._group_sizes[group]
            group.discard()
            raise
        return group

    # From the groups' threads.

    def _request_snapshot(self, live: LiveMarket, action: RequestSnapshot) -> None:
        serial, need = live.serial << _EPOCH_BITS, lifecycle.need_of(live.book)
        self._download(live.symbol, serial | action.epoch, action.purpose, action.limit, action.due, need)

    def _request_probe(self, live: LiveMarket) -> None:
        self._download(live.symbol, live.serial << _EPOCH_BITS, None, self._venue.honoured_limit(PROBE_LEVELS))

    def _download(
        self, symbol: str, epoch: int, purpose: Purpose | None, limit: int, due: float | None = None, need: float = 0.0
    ) -> None:
        downloads = self._downloads
        if downloads is None:
            return
        try:
            downloads.request(symbol, epoch, purpose, limit, due=due, need=need)
        except ValueError:  # it was closed this moment
            if not self._is_stopped:
                raise

    def _cancel_snapshot(self, live: LiveMarket, epoch: int) -> None:
        downloads = self._downloads
        if downloads is not None:
            downloads.cancel(live.symbol, live.serial << _EPOCH_BITS | epoch)

    def _restarted(self, live: LiveMarket) -> None:
        if self._on_restart is not None:
            self._callbacks.call(self._on_restart, live.market, live.last_restart_time)

    # From the downloader's threads.

    def _report(self, request: SnapshotRequest, news: SnapshotBegins | SnapshotBody | SnapshotFailure) -> None:
        """Hand what became of a download to the thread of its market."""
        cache = self._caches.get(request.market)
        if cache is None or cache.live.serial != request.epoch >> _EPOCH_BITS:
            return  # stopped meanwhile, and perhaps created again
        lifecycle.deliver(news, request, cache.live, cache.group, request.epoch & _EPOCH_MASK)
