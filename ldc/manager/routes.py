"""What the threads of a manager's feeds and of the downloader call: snapshots out, news back, restarts to the user.

Rule 1: nothing here refers to the manager. The threads hold this object, so a manager that nobody holds is noticed.
"""

import time
from collections.abc import Callable

from ldc.consume.callbacks import CallbackThread
from ldc.consume.log import logger
from ldc.feed.market import LiveMarket
from ldc.feed.silence import ProbeAnswer
from ldc.manager.depth_cache import DepthCache
from ldc.manager.lifecycle import end_in_forked_children
from ldc.snapshots.downloader import SnapshotBegins, SnapshotClient
from ldc.snapshots.queue import SnapshotRequest, need_of
from ldc.snapshots.reply import SnapshotBody, SnapshotFailure, loaded
from ldc.sync.actions import Purpose, RequestSnapshot, StateChanged
from ldc.types import Cause, SyncState
from ldc.venues import Venue

PROBE_LEVELS = 5
"""Levels a side that a probe of a silent market requests: the fewest, because only the update id matters."""

_PROBE_EPOCH = 0  # the synchronizer's epochs, which name snapshots, begin at 1


StateCallback = Callable[[str, LiveMarket, StateChanged], object]


class StateCallbacks:
    """What all exchanges of one manager call at a restart of a market, and at a change of its state."""

    def __init__(self, on_restart: Callable[[str, float], object] | None) -> None:
        self.on_restart = on_restart
        """The user's, called with the market and the Unix time."""
        self.functions: tuple[StateCallback, ...] = ()
        """Called with the exchange, the live market and the change. The consumers of the manager write here."""


class Routes:
    """Connects a manager's feed groups at one exchange with the downloader and with the user's callbacks."""

    def __init__(self, venue: Venue, callbacks: CallbackThread, states: StateCallbacks) -> None:
        self.caches: dict[str, DepthCache] = {}
        """By symbol; `ExchangeFeeds` writes here."""
        self.downloads: SnapshotClient | None = None
        """None before the first depth cache, and after the stop."""
        self._venue, self._callbacks, self._states = venue, callbacks, states
        end_in_forked_children(self)

    def _end_in_child(self) -> None:
        """End every depth cache in a forked child. Idempotent."""
        lives = [cache.live for cache in self.caches.values() if not cache.live.is_removed]
        self.downloads = None
        for live in lives:
            live.is_removed = True
            live.book.close_after_fork(Cause.STOPPED)  # first, because its thread may have held its lock
        for live in lives:  # last, because the fork may have interrupted its thread in the middle of a change
            live.synchronizer.stop(time.monotonic())

    # Called by the groups' threads.

    def request_snapshot(self, live: LiveMarket, action: RequestSnapshot) -> None:
        """Request a snapshot for a synchronizer."""
        self._download(live, action.epoch, action.purpose, action.limit, action.due, need_of(live.book))

    def request_probe(self, live: LiveMarket) -> None:
        """Request the exchange's update id of a silent market."""
        self._download(live, _PROBE_EPOCH, None, self._venue.honoured_limit(PROBE_LEVELS))

    def _download(
        self,
        live: LiveMarket,
        epoch: int,
        purpose: Purpose | None,
        limit: int,
        due: float | None = None,
        need: float = 0.0,
    ) -> None:
        downloads = self.downloads
        if downloads is None:
            return
        try:
            downloads.request(live.symbol, epoch, purpose, limit, owner=live.serial, due=due, need=need)
        except ValueError:  # the client was closed meanwhile
            if self.downloads is not None:
                raise

    def cancel_snapshot(self, live: LiveMarket, epoch: int | None) -> None:
        """Cancel a request, if it still waits; None: all requests of the market, probes too."""
        downloads = self.downloads
        if downloads is not None:
            downloads.cancel(live.symbol, epoch, owner=live.serial)

    def holds_request(self, live: LiveMarket, epoch: int | None) -> bool:
        """Return whether the answer to a request (None: to the probe) may still come."""
        downloads = self.downloads
        if downloads is None:
            return True
        is_probe = epoch is None
        return downloads.holds(live.symbol, epoch or _PROBE_EPOCH, owner=live.serial, is_probe=is_probe)

    def restarted(self, live: LiveMarket) -> None:
        """Queue the callback that the user gave."""
        on_restart = self._states.on_restart
        if on_restart is not None:
            self._callbacks.call(on_restart, live.market, live.last_restart_time)

    def state_changed(self, live: LiveMarket, change: StateChanged) -> None:
        """Log the new state of a market in detail, and queue the callbacks. `ldc.feed.outages` logs what matters."""
        logger.debug(
            "%s: %s -> %s (%s%s) at update id %s",
            live.market,
            change.previous_state.value,
            change.state.value,
            "it was " if change.state is SyncState.SYNCHRONIZED else "",
            change.cause.value,
            change.last_update_id,
        )
        for function in self._states.functions:
            function(self._venue.exchange, live, change)

    # Called by the downloader's threads.

    def deliver(self, request: SnapshotRequest, news: SnapshotBegins | SnapshotBody | SnapshotFailure) -> None:
        """Post the news of a download to the feed thread of its market."""
        cache = self.caches.get(request.market)
        if cache is None or cache.live.serial != request.owner:
            return  # stopped meanwhile, and perhaps created again
        live, group, epoch = cache.live, cache.group, request.epoch
        if request.purpose is None:
            if not isinstance(news, SnapshotBegins):
                answer = _probe_answer(news, live, request.limit)
                group.post(lambda now: group.probe_answered(live, answer, now))
            return
        match news:
            case SnapshotBegins():
                group.post(lambda now: group.snapshot_begins(live, epoch, now))
            case SnapshotBody(body=body, received_time_ns=received_time_ns):
                # Read here, in the downloader's thread: the feed's thread only takes it over.
                snapshot = live.synchronizer.read_snapshot(body, request.limit, received_time_ns)
                group.post(
                    lambda now: group.snapshot_received(live, epoch, snapshot, request.limit, received_time_ns, now)
                )
            case SnapshotFailure():
                group.post(
                    lambda now: group.snapshot_failed(live, epoch, news.permanent, news.retry_at, news.text, now)
                )


def _probe_answer(news: SnapshotBody | SnapshotFailure, live: LiveMarket, limit: int) -> ProbeAnswer:
    """Return what a probe found. Parses the body, in the thread of the download."""
    if isinstance(news, SnapshotFailure):
        return ProbeAnswer(problem=news.text, is_refused=news.permanent is not None)
    book = loaded(news, live.book.rule, limit)
    return ProbeAnswer(book, None if book is not None else f"The probe of {live.market} brought no order book.")
