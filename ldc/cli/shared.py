"""`ldc feed`, and the shared books that `ldc watch --shared` watches.

Rule 1: `ldc feed` says little: a line at the start, one whenever another number of markets is in sync, and the log.
"""

import time
from collections.abc import Sequence
from typing import Any, TextIO

from ldc.book import SharedReader
from ldc.cli.signals import Interruption
from ldc.cli.text import plural
from ldc.cli.watch import ExitStatus
from ldc.errors import DepthCacheError
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.shared import SharedBooks
from ldc.types import BookCounters, Cause, DepthCacheStatus, Progress, SyncState

LOOK_S = 1.0
"""Seconds between two looks of `ldc feed` at how many markets are in sync."""


class SharedCache:
    """A shared book with the looks of a depth cache. What only its feeder knows is empty."""

    def __init__(self, market: str, reader: SharedReader) -> None:
        self.market = market
        self.reader = reader
        self._state = SyncState.IDLE
        self._state_since = time.time()

    @property
    def state(self) -> SyncState:
        """SYNCHRONIZED if it can be read, IDLE without a feeder, otherwise BUFFERING."""
        return _state_of(self.reader.unreadable_cause)

    def explain(self, error: DepthCacheError) -> DepthCacheError:
        """Return the error itself: it says all that is known here."""
        return error

    def status(self) -> DepthCacheStatus:
        """Return the status, as far as it is known in this process."""
        reader, cause = self.reader, self.reader.unreadable_cause
        state = _state_of(cause)
        if state is not self._state:
            self._state, self._state_since = state, time.time()
        age_ns = reader.proof_age_ns
        known: dict[str, Any] = {
            "market": self.market,
            "exchange": reader.exchange or "",
            "state": state,
            "state_since": self._state_since,
            "is_synchronized": cause is None,
            "cause": cause,
            "last_update_id": reader.last_update_id,
            "event_time_ms": reader.event_time_ms,
            "transaction_time_ms": reader.transaction_time_ms,
            "received_time_ns": reader.received_time_ns,
            "bid_count": reader.bid_count,
            "ask_count": reader.ask_count,
            "bid_horizon": reader.bid_horizon,
            "ask_horizon": reader.ask_horizon,
            "counters": BookCounters(*[0] * len(BookCounters._fields))._replace(updates_applied=reader.publications),
            "resyncs": {},
            "updates_dropped": {},
            "snapshots_dropped": {},
            "audits": {},
            "restart_count": 0,
            "reconnects": 0,
            "connections": (),
            "proof_age_s": float("inf") if age_ns is None else age_ns / 1e9,
        }
        return DepthCacheStatus._make(known.get(name) for name in DepthCacheStatus._fields)


def _state_of(cause: str | None) -> SyncState:
    if cause is None:
        return SyncState.SYNCHRONIZED
    return SyncState.IDLE if cause == Cause.FEEDER_GONE else SyncState.BUFFERING


class SharedSource:
    """The markets of a share that are watched: those named, or all that its feeder publishes at the start.

    Raises `DepthCacheError` if none are named and there is no feeder.
    """

    def __init__(self, books: SharedBooks, markets: Sequence[str]) -> None:
        names = list(dict.fromkeys(markets)) or books.markets()
        if not names:
            raise DepthCacheError(
                None,
                None,
                f"No process feeds the share {books.name!r}; name markets to wait for one, or start `ldc feed`.",
            )
        self._caches = {name: SharedCache(name, books[name]) for name in names}

    def get_list_of_depth_caches(self) -> list[str]:
        """Return the markets."""
        return list(self._caches)

    def get_depth_cache(self, market: str) -> SharedCache:
        """Return one of them."""
        return self._caches[market]

    def get_progress(self) -> Progress:
        """Return how many can be read. How long the others need, only their feeder knows."""
        readable = sum(cache.reader.is_readable for cache in self._caches.values())
        return Progress(readable, 0, len(self._caches), None)

    def wait_until_synchronized(self, markets: Any, timeout: float | None) -> bool:  # noqa: ARG002 - of a `Source`
        """Return whether all can be read."""
        return all(cache.reader.is_readable for cache in self._caches.values())


def feed(
    manager: BinanceLocalDepthCacheManager, share: str, folder: object, seconds: float | None, stream: TextIO
) -> ExitStatus:
    """Say how many markets are in sync, until the time is over or the user ends it."""
    count = len(manager.get_list_of_depth_caches())
    stream.write(f"feeding {plural(count, 'market')} of {manager.exchange} as {share!r} in {folder}; Ctrl-C ends it\n")
    stream.flush()
    ends_at = None if seconds is None else time.monotonic() + seconds
    before, is_over = -1, False
    with Interruption() as interruption:
        while not is_over:
            progress = manager.get_progress()
            if progress.synchronized != before:
                before = progress.synchronized
                stream.write(f"{before} of {plural(progress.total, 'market')} in sync\n")
                stream.flush()
            wait_s = LOOK_S if ends_at is None else min(LOOK_S, ends_at - time.monotonic())
            is_over = interruption.wait(wait_s) or (ends_at is not None and time.monotonic() >= ends_at)
    progress = manager.get_progress()
    return ExitStatus.SYNCHRONIZED if progress.synchronized == progress.total else ExitStatus.OUT_OF_SYNC
