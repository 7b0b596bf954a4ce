"""What a manager has at one exchange: addresses, downloads, connections, and the feed groups of its markets.

Rule 1: two exchanges of one manager share no feed group, no connection and no request weight.
Rule 2: the caller holds the manager's lock around every call that starts or ends something.
Rule 3: nothing here refers to the manager, whose threads hold what is here.
"""

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from ldc.book import OrderBook, read_header
from ldc.feed.connection import ConnectionOptions
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.manager import lifecycle
from ldc.manager.depth_cache import DepthCache
from ldc.manager.routes import Routes
from ldc.manager.settings import Settings
from ldc.network.proxy import address_key
from ldc.snapshots.downloader import SnapshotClient, shared_downloader
from ldc.sync.machine import Synchronizer
from ldc.types import Progress, SyncState


class MarketPlan(NamedTuple):
    """A depth cache that is to be made, with its parameters checked."""

    symbol: str
    """As the exchange spells it."""
    name: str
    """As everything reports it."""
    stream: str
    snapshot_limits: tuple[int, ...]
    refresh_interval_s: float | None


class Ending(NamedTuple):
    """What is left to stop at one exchange, which takes time."""

    groups: list[FeedGroup]
    downloads: SnapshotClient | None
    launched: Any
    """The embedded exchange, or None."""


class ExchangeFeeds:
    """The feed groups of one manager at one exchange, and what they have in common.

    Args:
        settings: those of the manager, for this exchange.
        options: of all connections of the manager.
        routes: for this exchange.
        random: the source of jitter, a number from 0 up to 1.
        shared_folder: where other processes share the budgets; None: they do not.
    """

    connect_budget: SharedConnectBudget
    """Of connects. Set by `open`, because the address may be unknown before."""

    def __init__(
        self,
        settings: Settings,
        options: ConnectionOptions,
        routes: Routes,
        random: Callable[[], float],
        shared_folder: Path | None,
    ) -> None:
        self.venue, self.settings, self.routes = settings.venue, settings, routes
        self.options = options._replace(
            messages_per_second=self.venue.messages_per_second, spare_urls=_spare_urls(settings)
        )
        self.group_sizes: dict[FeedGroup, int] = {}
        self.downloads: SnapshotClient | None = None
        """None before `open` and after `end`."""
        self.launched: Any = None
        """The exchange, if it is an embedded one and was started here."""
        self._random, self._shared_folder = random, shared_folder
        self._ending_groups: list[FeedGroup] = []
        self._group_numbers, self._serials = count(1), count(1)

    # a market

    def plan(
        self,
        market: str,
        name: str,
        refresh_interval_s: float | None,
        update_interval_ms: int | None,
        snapshot_limit: int | None,
    ) -> MarketPlan:
        """Return the plan of a depth cache; None: as the manager's settings are. ``ValueError`` for what cannot be."""
        venue, settings = self.venue, self.settings
        return MarketPlan(
            symbol=venue.normalized_market(market),
            name=name,
            stream=venue.stream_name(
                market, settings.update_interval_ms if update_interval_ms is None else update_interval_ms
            ),
            snapshot_limits=venue.snapshot_steps(settings.snapshot_limit if snapshot_limit is None else snapshot_limit),
            refresh_interval_s=settings.refresh_interval_s if refresh_interval_s is None else refresh_interval_s,
        )

    def make(self, plan: MarketPlan) -> DepthCache:
        """Return a new depth cache in a feed group that runs. `start` lets that feed it."""
        rule = self.venue.rule

        def make_book() -> OrderBook:
            return OrderBook(rule, market=plan.name, symbol=plan.symbol)

        book = make_book()
        synchronizer = Synchronizer(
            book,
            make_book=make_book,
            read_header=read_header,
            random=self._random,
            limits=plan.snapshot_limits,
            now=time.monotonic(),
            symbol=plan.symbol,
            refresh_interval_s=plan.refresh_interval_s,
            buffers=lifecycle.process_buffers,
        )
        named = (plan.name, plan.symbol, plan.stream, book, synchronizer, next(self._serials))
        live = LiveMarket(*named, self.routes.state_changed, self.routes.restarted, self.options.timing)
        return DepthCache(self.venue.exchange, live, self._group_with_room())

    def count_in(self, cache: DepthCache) -> None:
        """Count a depth cache in its group, and let its snapshots find it."""
        self.group_sizes[cache.group] += 1
        self.routes.caches[cache.live.symbol] = cache

    def leave(self, cache: DepthCache) -> None:
        """Count a depth cache that has left its group, and stop an empty group."""
        if self.routes.caches.get(cache.live.symbol) is cache:
            del self.routes.caches[cache.live.symbol]
        group = cache.group
        self.group_sizes[group] -= 1
        if self.group_sizes[group] == 0:
            del self.group_sizes[group]
            self._ending_groups = [ending for ending in self._ending_groups if not ending.join(0)]
            self._ending_groups.append(group)
            group.stop()

    def _group_with_room(self) -> FeedGroup:
        for group, size in self.group_sizes.items():
            if size < self.settings.markets_per_connection and not group.has_ended:
                return group
        group = FeedGroup(
            f"ldc-feed-{self.venue.exchange}-{next(self._group_numbers)}",
            self._urls,
            self.options,
            connect_budget=self.connect_budget,
            request_snapshot=self.routes.request_snapshot,
            cancel_snapshot=self.routes.cancel_snapshot,
            request_probe=self.routes.request_probe,
            holds_request=self.routes.holds_request,
            random=self._random,
        )
        self.group_sizes[group] = 0
        try:
            group.start()
        except (RuntimeError, MemoryError):  # the system has no more threads, so the group would never do anything
            del self.group_sizes[group]
            group.discard()
            raise
        return group

    # the exchange

    @property
    def restful_base_uris(self) -> tuple[str, ...]:
        """The REST addresses, without paths; empty for an embedded exchange before `open`."""
        given = self.settings.restful_base_uri
        return self.venue.restful_base_uris if given is None else (given,)

    def open(self) -> None:
        """Open what all depth caches share, before the first one is made. Idempotent."""
        if self.downloads is not None:
            return
        venue = self.venue
        if venue.launcher is not None and self.settings.websocket_base_uri is None:
            self.launched = lifecycle.launch(venue)
            self.settings = self.settings.at(self.launched.restful_base_uri, self.launched.websocket_base_uri)
        settings = self.settings
        self.downloads = self.routes.downloads = shared_downloader().open(
            venue,
            self.routes.deliver,
            restful_base_uri=settings.restful_base_uri,
            proxies=self.options.proxies,
            weight_share=settings.weight_share,
            init_interval_s=settings.init_interval_s,
            init_time_window_s=settings.init_time_window_s,
            user_agent=self.options.user_agent,
            weight_pool=settings.weight_pool,
            shared_folder=self._shared_folder,
        )
        self._urls = venue.stream_urls(settings.redundancy, settings.websocket_base_uri)
        address = address_key(self.options.proxies.for_url(self._urls[0]), settings.weight_pool)
        self.connect_budget = lifecycle.connect_budget(venue, self._urls[0], address, self._shared_folder)

    def end(self) -> "Ending":
        """Return what the caller has to stop, and hold it no longer."""
        groups, self.group_sizes = [*self.group_sizes, *self._ending_groups], {}
        self._ending_groups = []
        downloads, self.downloads, self.routes.downloads = self.downloads, None, None
        launched, self.launched = self.launched, None
        self.routes.caches.clear()
        return Ending(groups, downloads, launched)

    def end_in_child(self) -> None:
        """End in a forked child, which has no threads of ldc."""
        self.routes._end_in_child()
        self.routes.caches.clear()
        self.downloads, self.launched, self.group_sizes, self._ending_groups = None, None, {}, []

    def progress(self) -> Progress:
        """Return how many depth caches can be read, and about how long the others still need. O(markets)."""
        caches, downloads = list(self.routes.caches.values()), self.downloads
        synchronized = sum(cache.is_synchronized for cache in caches)
        failed = sum(cache.state is SyncState.FAILED for cache in caches)
        left = max(0, len(caches) - synchronized - failed)
        first_limit = self.venue.snapshot_steps(self.settings.snapshot_limit)[0]
        seconds_left = downloads.estimated_s(left, first_limit) if downloads is not None and left else 0.0
        return Progress(synchronized, failed, len(caches), seconds_left)


def _spare_urls(settings: Settings) -> tuple[str, ...]:
    """Return the URLs that connections try after a failure; none if each has its own and the others are there."""
    urls = settings.venue.all_stream_urls if settings.websocket_base_uri is None else ()
    return () if 1 < len(urls) <= settings.redundancy else urls
