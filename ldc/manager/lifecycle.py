"""What the manager is made of besides its threads: small functions that know no manager.

Rule 1: nothing here is shared but what belongs to the process: the connect budgets, and who must end in its children.
"""

import importlib
import logging
import math
import os
import threading
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from ldc.book import OrderBook
from ldc.errors import DepthCacheError, DepthCacheOutOfSync, MalformedMessage
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.limits import CONNECT_WINDOW_S
from ldc.sequence import SequenceRule
from ldc.snapshots.downloader import SnapshotBegins, SnapshotBody, SnapshotFailure, SnapshotRequest
from ldc.snapshots.shared_budget import shared_connects
from ldc.sync.actions import StateChanged
from ldc.types import DepthCacheStatus, SyncState
from ldc.venues import Venue

__all__ = [
    "as_list",
    "check_compat_parameters",
    "connect_budget",
    "deliver",
    "end_in_forked_children",
    "launch",
    "log_state",
    "need_of",
    "summary",
]

logger = logging.getLogger("binance_local_depth_cache")

_DISTANCE_MIN = 1e-9  # a horizon at the best price itself

_connect_budgets: dict[str, SharedConnectBudget] = {}
_connect_budgets_lock = threading.Lock()


def connect_budget(
    venue: Venue, base_uri: str, proxy: str | None = None, folder: Path | None = None
) -> SharedConnectBudget:
    """Return the budget that all managers of this process share for that address.

    `folder`: where other processes share it. From then on everybody here who connects there goes by it, until a folder
    is named that is another one; two at a time are refused by the downloader, which shares the weight there.
    """
    limit = venue.connects_per_5_minutes
    with _connect_budgets_lock:
        budget = _connect_budgets.setdefault(base_uri, SharedConnectBudget(limit))
        if folder is not None and (budget.ledger is None or budget.ledger.folder != folder):
            budget.ledger = shared_connects(folder, (proxy or "", base_uri), limit, CONNECT_WINDOW_S)
        return budget


class EndsInChild(Protocol):
    """What must not look alive in a forked child."""

    def _end_in_child(self) -> None:
        """End without the help of any thread."""


_ending_in_children: "weakref.WeakSet[EndsInChild]" = weakref.WeakSet()


def end_in_forked_children(manager: EndsInChild) -> None:
    """Let a manager end in every child that this process forks. It goes on here."""
    _ending_in_children.add(manager)


def _end_after_fork() -> None:
    global _connect_budgets_lock  # noqa: PLW0603 - in the child it may be held by nobody, as those of the budgets
    _connect_budgets_lock = threading.Lock()
    _connect_budgets.clear()
    for manager in list(_ending_in_children):
        manager._end_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_after_fork)


def as_list(markets: str | Iterable[str]) -> list[str]:
    """Return one market or many as a list."""
    return [markets] if isinstance(markets, str) else list(markets)


def summary(title: str, statuses: Iterable[DepthCacheStatus], *texts: str | None) -> str:
    """Return a table of depth caches under a title, with more texts below."""
    head = f"{'market':<20} {'state':<13} {'update id':>16} {'bids':>7} {'asks':>7} {'resyncs':>8}  cause"
    lines = (
        f"{each.market:<20} {each.state.value:<13} {each.last_update_id or '-':>16} {each.bid_count:>7} "
        f"{each.ask_count:>7} {sum(each.resyncs.values()):>8}  {each.cause or ''}"
        for each in statuses
    )
    return "\n".join((title, head, *lines, *filter(None, texts)))


def log_state(live: LiveMarket, change: StateChanged) -> None:
    """Log that a market is in another state: as a warning if it cannot be read any more."""
    is_expected = change.state in (SyncState.SYNCHRONIZED, SyncState.STOPPED)
    logger.log(
        logging.INFO if is_expected or change.previous_state is SyncState.IDLE else logging.WARNING,
        "%s: %s -> %s (%s) at update id %s",
        live.market,
        change.previous_state.value,
        change.state.value,
        change.cause.value,
        change.last_update_id,
    )


def deliver(
    news: SnapshotBegins | SnapshotBody | SnapshotFailure,
    request: SnapshotRequest,
    live: LiveMarket,
    group: FeedGroup,
    epoch: int,
) -> None:
    """Hand what became of a download to the thread of its market."""
    if request.purpose is None:
        if not isinstance(news, SnapshotBegins):
            last_update_id = update_id_of(news, live.book.rule)
            group.post(lambda now: group.probe_answered(live, last_update_id, now))
        return
    match news:
        case SnapshotBegins():
            group.post(lambda now: group.snapshot_begins(live, epoch, now))
        case SnapshotBody(body=body, received_time_ns=received_time_ns):
            group.post(lambda now: group.snapshot_received(live, epoch, body, request.limit, received_time_ns, now))
        case SnapshotFailure():
            group.post(lambda now: group.snapshot_failed(live, epoch, news.permanent, news.retry_at, news.text, now))


def update_id_of(news: SnapshotBody | SnapshotFailure, rule: SequenceRule) -> int | None:
    """Return the update id of a market that was looked up, or None: it could not be had."""
    if isinstance(news, SnapshotFailure):
        return None
    book = OrderBook(rule)
    try:
        book.load_snapshot(news.body)
    except MalformedMessage:
        return None
    return book.last_update_id


def need_of(book: OrderBook) -> float:
    """Return how urgently a book needs a deeper snapshot: the narrower the known range, the sooner it is left.

    It is 1 over the distance from the best price to the nearer horizon, relative to that price; 0 for a book that is
    complete, infinite for one that cannot be read.
    """
    try:
        sides = ((book.best_bid, book.bid_horizon), (book.best_ask, book.ask_horizon))
    except DepthCacheOutOfSync:
        return math.inf
    distances = [
        abs(best[0] - float(horizon)) / best[0] for best, horizon in sides if best and best[0] and horizon is not None
    ]
    return 1.0 / max(min(distances), _DISTANCE_MIN) if distances else 0.0


def launch(venue: Venue) -> Any:
    """Start what an exchange needs to exist, such as the embedded one."""
    assert venue.launcher is not None
    module_name, _, function_name = venue.launcher.partition(":")
    try:
        launcher = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise DepthCacheError(
            None,
            None,
            f"The exchange {venue.exchange!r} needs {module_name}, which cannot be imported ({error}): "
            "pip install 'binance-local-depth-cache[simulator]'",
        ) from error
    return launcher(venue)


_LICENCES = ("lucit_api_secret", "lucit_license_ini", "lucit_license_profile", "lucit_license_token")
_IGNORED = frozenset({"warn_on_update", "disable_colorama", "auto_data_cleanup_stopped_streams", *_LICENCES})
_NO_CLUSTER = "depth cache clusters are not supported; markets of one manager share a process"
_REFUSED = {
    "default_update_interval": "it is called depth_cache_update_interval",
    "default_websocket_close_timeout": "it is called websocket_close_timeout",
    "default_websocket_ping_interval": "it is called websocket_ping_interval",
    "default_websocket_ping_timeout": "it is called websocket_ping_timeout",
    "ubdcc_address": _NO_CLUSTER,
    "ubdcc_port": _NO_CLUSTER,
    "ubra_manager": "snapshots need no REST manager; use restful_base_uri, proxy and weight_share",
    "ubwa_manager": "streams need no websocket manager; use websocket_base_uri and proxy",
}


def check_compat_parameters(former: dict[str, Any]) -> None:
    """Accept, with a warning, what other libraries' constructors take and ldc has no use for; refuse the rest.

    What is refused is accepted as None or False, which is what it is there when it is not used.
    """
    for name, value in former.items():
        if name not in _IGNORED and name not in _REFUSED:
            raise TypeError(f"BinanceLocalDepthCacheManager() got an unexpected keyword argument {name!r}")
        if name in _REFUSED and value is not None and value is not False:
            raise ValueError(f"{name} is not accepted: {_REFUSED[name]}")
        warnings.warn(f"{name} has no meaning in ldc and is ignored", DeprecationWarning, stacklevel=3)
