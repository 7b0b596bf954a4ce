"""What a manager tells: books, states, waiting. All of it goes to one depth cache, and holds no lock.

Rule 1: a read costs what the book's own read costs, and the look at a dict that finds it.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from decimal import Decimal

from ldc.errors import DepthCacheAlreadyStopped, DepthCacheOutOfSync
from ldc.manager import lifecycle
from ldc.manager.depth_cache import DepthCache, clamp_timeout
from ldc.types import BookView, DepthCacheStatus, Progress

__all__ = ["ManagerReads"]


class ManagerReads(ABC):
    """The reading side of `BinanceLocalDepthCacheManager`. Thread-safe."""

    @abstractmethod
    def _found(self, market: str) -> DepthCache:
        """Return a depth cache; raise if there is none (any more)."""

    @abstractmethod
    def get_list_of_depth_caches(self) -> list[str]:
        """Return the active markets, as they were spelt."""

    @abstractmethod
    def get_progress(self) -> Progress:
        """Return how far all depth caches are."""

    @abstractmethod
    def is_stop_request(self, market: str | None = None) -> bool:
        """Return whether the manager, or this depth cache, was stopped."""

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
            limit_count: at most so many; fewer if the known range ends before.
            threshold_volume: only while the sum of price x quantity stays within this; the first is always kept.
            max_age: seconds; raise with the cause TOO_OLD if the last proof that the book is current is older. Its
                updates prove it, the pongs of its connections (as of the ping), and look-ups. None: read every book
                whose stream is not known to be broken, which takes up to `websocket_ping_interval` +
                `websocket_ping_timeout` to be known.

        Raises:
            DepthCacheOutOfSync: the copy cannot be proven right at this moment; `cause` says why.
            DepthCacheNotFound, DepthCacheAlreadyStopped, UnknownMarket: there is no such depth cache (any more).
        """
        cache = self._found(market)
        try:
            if max_age is not None:
                cache.raise_if_older(max_age)
            return cache.reader.asks(limit_count, threshold_volume=threshold_volume)
        except DepthCacheOutOfSync as error:
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
            if max_age is not None:
                cache.raise_if_older(max_age)
            return cache.reader.bids(limit_count, threshold_volume=threshold_volume)
        except DepthCacheOutOfSync as error:
            raise cache.explain(error) from None

    def get_book(self, market: str, limit_count: int | None = None, *, max_age: float | None = None) -> BookView:
        """Return both sides, ids, times and horizons at one update id: a `BookView`. Raises as `get_asks`."""
        cache = self._found(market)
        try:
            if max_age is not None:
                cache.raise_if_older(max_age)
            return cache.reader.view(limit_count)
        except DepthCacheOutOfSync as error:
            raise cache.explain(error) from None

    def get_depth_cache(self, market: str) -> DepthCache:
        """Return the `DepthCache`: its `reader` reads without going through the manager."""
        return self._found(market)

    # ------------------------------------------------------------------------------------------ state

    def is_depth_cache_synchronized(self, market: str, *, max_age: float | None = None) -> bool:
        """Return whether both sides can be read; with `max_age`, by the same as `get_asks`."""
        cache = self._found(market)
        return cache.is_synchronized and (max_age is None or cache.proof_age_s <= max_age)

    def wait_until_synchronized(self, markets: str | Iterable[str] | None = None, timeout: float | None = None) -> bool:
        """Block until all of these (None: all there are) can be read; False when `timeout` seconds are over first.

        Raises `DepthCacheNotFound` for one that does not exist, `UnknownMarket` for one unknown to the exchange,
        `DepthCacheAlreadyStopped` for one, or a manager, that was stopped.
        """
        if markets is None and self.is_stop_request():  # there are none: all of them can be read, which helps nobody
            raise DepthCacheAlreadyStopped(None, None, "The manager was stopped; make a new one.")
        wanted = self.get_list_of_depth_caches() if markets is None else lifecycle.as_list(markets)
        caches = [self._found(market) for market in wanted]
        patience_s = clamp_timeout(timeout)
        give_up_at = None if patience_s is None else time.monotonic() + patience_s
        while True:
            for cache in caches:
                left_s = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
                if not cache.wait_until_synchronized(left_s):
                    return False
            # An earlier one may have been lost while a later one was waited for.
            if all(cache.is_synchronized for cache in caches):
                return True

    def wait_for_update(
        self, market: str, after_update_id: int | None = None, timeout: float | None = None
    ) -> int | None:
        """Block until the book has moved past an update id (None: past where it stands); return the new id.

        None when `timeout` seconds are over first. It does not wait through a loss of the book:

        - With an id, which says that the caller has read the book there, it raises `DepthCacheOutOfSync` as soon as the
          book cannot be read, be it lost before the call or during it. Then wait with `wait_until_synchronized`, or
          with None as the id.
        - With None it raises when a book that could be read at the call is lost; one that could not is waited for.
        - An id that was read before the exchange began to count anew is past: the new, lower id is returned at once.

        Otherwise raises as `wait_until_synchronized`.
        """
        return self._found(market).wait_for_update(after_update_id, timeout)

    def get_status(self, market: str) -> DepthCacheStatus:
        """Return all there is to know about a depth cache, as an immutable value; and `get_progress` in it. O(markets).

        Who looks at many markets in a loop calls `status` of each `DepthCache`, which is O(1), and `get_progress` once.
        """
        return self._found(market).status()._replace(progress=self.get_progress())

    def get_last_update_time(self, market: str) -> int | None:
        """Return when the last update arrived, by the local clock, in milliseconds; None before the first."""
        received_time_ns = self._found(market).reader.received_time_ns
        return None if received_time_ns is None else received_time_ns // 1_000_000

    def get_last_restart_time(self, market: str) -> float | None:
        """Return the Unix time at which its stream last came back after an interruption, or None."""
        return self._found(market).live.last_restart_time

    def get_restart_count(self, market: str) -> int:
        """Return how often its stream came back after an interruption."""
        return self._found(market).live.restart_count
