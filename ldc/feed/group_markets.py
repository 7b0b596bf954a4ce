"""The markets of a feed group: what becomes of snapshots, look-ups and deadlines, and of what synchronizers ask for.

Rule 1: the group's thread calls everything here, and is the only caller of the synchronizers.
Rule 2: what has to do with connections and frames is `ldc.feed.group`'s, which builds on this.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from ldc.feed.market import MOVED_ON_S, LiveMarket
from ldc.feed.pool import ConnectionPool
from ldc.feed.timers import MarketTimers
from ldc.sync.actions import Action, CancelSnapshot, Payload, Refreshed, RequestSnapshot, StateChanged
from ldc.types import Cause, SyncState

__all__ = ["GroupMarkets"]

logger = logging.getLogger("binance_local_depth_cache")


class GroupMarkets(ABC):
    """What a feed group is apart from its connections."""

    name: str
    _connections: ConnectionPool

    def __init__(
        self,
        request_snapshot: Callable[[LiveMarket, RequestSnapshot], None],
        cancel_snapshot: Callable[[LiveMarket, int], None],
        request_probe: Callable[[LiveMarket], None],
    ) -> None:
        self._request_snapshot = request_snapshot
        self._cancel_snapshot = cancel_snapshot
        self._request_probe = request_probe
        self._markets: dict[bytes, LiveMarket] = {}  # by the name of the stream
        self._timers = MarketTimers()
        self._silence_due = 0.0
        self._tick_due = -math.inf
        """When deadlines are to be looked at next. Whatever may bring one nearer sets it to the present."""

    @abstractmethod
    def _resync(self, market: LiveMarket, cause: Cause, now: float, *, unsubscribe: bool) -> None:
        """Take a market out of sync, with a new subscription if so wished."""

    def _end_market(self, market: LiveMarket, now: float) -> None:
        market.is_removed = True
        market.synchronizer.stop(now)
        self._run_actions(market, now)
        market.signal.notify()

    def _refresh(self, market: LiveMarket, now: float) -> None:
        if not market.is_removed:
            market.synchronizer.request_refresh(now)
            self._run_actions(market, now)

    def snapshot_begins(self, market: LiveMarket, epoch: int, now: float) -> None:
        """Hand in that a download has begun. In the group's thread."""
        if not market.is_removed:
            market.synchronizer.snapshot_begins(epoch, now)
            self._run_actions(market, now)

    def snapshot_received(
        self, market: LiveMarket, epoch: int, body: Payload, limit: int | None, received_time_ns: int | None, now: float
    ) -> None:
        """Hand in a snapshot. In the group's thread."""
        if not market.is_removed:
            market.synchronizer.snapshot_received(epoch, body, limit, now, received_time_ns=received_time_ns)
            self._run_actions(market, now)
            market.wake_waiters()  # a refresh may have made a book readable that had left its horizon

    def snapshot_failed(
        self, market: LiveMarket, epoch: int, permanent: Cause | None, retry_at: float | None, text: str, now: float
    ) -> None:
        """Hand in why there is no snapshot. In the group's thread."""
        if not market.is_removed:
            market.last_error = text
            market.synchronizer.snapshot_failed(epoch, now, permanent=permanent, retry_at=retry_at)
            self._run_actions(market, now)

    def _check_silence(self, now: float) -> None:
        """Ask by REST whether a market that has been silent for long has really nothing to say."""
        for market in list(self._markets.values()):
            if market.synchronizer.state is not SyncState.SYNCHRONIZED:
                continue
            if market.silence.is_dead(market.heard_at, now):
                logger.warning("%s: %s moves on without us; it is subscribed anew", self.name, market.market)
                self._resync(market, Cause.SILENT, now, unsubscribe=True)
            elif market.silence.is_due(market.heard_at, now):
                market.silence.ask(now)
                self._request_probe(market)

    def probe_answered(self, market: LiveMarket, last_update_id: int | None, now: float) -> None:
        """Hand in the exchange's id of a silent market, or None: it could not be had. In the group's thread."""
        if market.take_probe(last_update_id, now):
            self._silence_due = min(self._silence_due, now + MOVED_ON_S)
        for handover in self._connections.handovers:
            handover.probe_answered(market, last_update_id, now)

    def _run_actions(self, market: LiveMarket, now: float) -> None:
        """Do what a market's synchronizer asks for, and remember when it wants to be called again."""
        market.binding.is_direct = not market.synchronizer.wants_every_update
        market.binding.is_redundant = market.synchronizer.has_several_streams
        actions = market.synchronizer.drain()
        cancelled = {action.epoch for action in actions if isinstance(action, CancelSnapshot)}
        for action in actions:
            if not isinstance(action, RequestSnapshot) or action.epoch not in cancelled:
                self._run_action(market, action)
        self._timers.plan(market, now)
        self._tick_due = now

    def _run_action(self, market: LiveMarket, action: Action) -> None:
        match action:
            case RequestSnapshot():
                self._request_snapshot(market, action)
            case CancelSnapshot():
                self._cancel_snapshot(market, action.epoch)
            case StateChanged():
                market.note_state(action)
            case Refreshed():
                market.note_audit(action)
