"""What begins and ends with a manager: connect budgets, memory for buffers, forked children, launchers, a share.

Rule 1: nothing here knows what a manager does; it only calls `_end_in_child`.
"""

import importlib
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from ldc.book import OrderBook, region_bytes
from ldc.errors import DepthCacheError
from ldc.feed.pool import SharedConnectBudget
from ldc.limits import CONNECT_WINDOW_S
from ldc.shared.folder import checked_share
from ldc.shared.publisher import Publisher
from ldc.snapshots.shared_budget import shared_connects
from ldc.sync.buffer import BufferBudget
from ldc.venues import Venue

process_buffers = BufferBudget(lock=threading.Lock())
"""What the buffered updates of all markets of this process hold together."""

_connect_budgets: dict[tuple[str, str], SharedConnectBudget] = {}
_connect_budgets_lock = threading.Lock()


def connect_budget(venue: Venue, url: str, address: str = "", folder: Path | None = None) -> SharedConnectBudget:
    """Return the budget that all managers of this process share for connects to a URL from one IP address.

    `address`: the key of that IP address (`ldc.network.proxy.address_key`). `folder`: where other processes share the
    budget too. It then applies to all these managers, until another folder is given. The downloader refuses two folders
    at a time, because it shares the weight there.
    """
    limit = venue.connects_per_5_minutes
    with _connect_budgets_lock:
        budget = _connect_budgets.setdefault((address, url), SharedConnectBudget(limit))
        if folder is not None and (budget.shared is None or budget.shared.folder != folder):
            budget.shared = shared_connects(folder, (address, url), limit, CONNECT_WINDOW_S)
        return budget


class EndsInChild(Protocol):
    """What must not look alive in a forked child."""

    def _end_in_child(self) -> None:
        """End without the help of any thread."""


_ending_in_children: "weakref.WeakSet[EndsInChild]" = weakref.WeakSet()


def end_in_forked_children(manager: EndsInChild) -> None:
    """End a manager in every child that this process forks. In this process it continues."""
    _ending_in_children.add(manager)


def _end_after_fork() -> None:
    # In the child no thread is left that would release a lock that was held during the fork.
    global _connect_budgets_lock  # noqa: PLW0603
    _connect_budgets_lock = threading.Lock()
    process_buffers.lock = threading.Lock()
    _connect_budgets.clear()
    for manager in list(_ending_in_children):
        manager._end_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_after_fork)


def launch(venue: Venue) -> Any:
    """Start the exchange of a venue that has a launcher, such as the embedded one.

    Raises `DepthCacheError`, with the package to install, if its module cannot be imported.
    """
    assert venue.launcher is not None
    module_name, _, function_name = venue.launcher.partition(":")
    try:
        launcher = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise DepthCacheError(
            None,
            None,
            f"The exchange {venue.exchange!r} needs {module_name}, which cannot be imported: {error}",
        ) from error
    return launcher(venue)


class Share:
    """The share of a manager, if its books are published: opened with its first depth cache, closed with it.

    Args:
        share: the name, or a `Publisher` that stays the caller's, or None: nothing is published.
        levels: levels a side, for a name.

    Raises ``ValueError`` for a name or a number that cannot be. The manager's lock guards the rest.
    """

    def __init__(self, share: str | Publisher | None, levels: int) -> None:
        region_bytes(levels)
        self._is_own = isinstance(share, str)
        self._name = checked_share(share) if isinstance(share, str) else None
        self._levels = levels
        if share is not None and not isinstance(share, str | Publisher):
            raise TypeError(f"share is a name, an ldc.shared.Publisher or None, not {share!r}")
        self._publisher = None if isinstance(share, str) else share

    def open(self) -> None:
        """Become the feeder of the share. `DepthCacheError` if another process is."""
        if self._name is not None and self._publisher is None:
            self._publisher = Publisher(self._name, levels=self._levels)

    def publish(self, book: OrderBook, market: str, exchange: str) -> None:
        """Publish a book from now on. OSError if there is no room."""
        if self._publisher is not None:
            self._publisher.publish(book, market, exchange=exchange)

    def withdraw(self, market: str) -> None:
        """Publish a market no more."""
        if self._publisher is not None:
            self._publisher.withdraw(market)

    def close(self, markets: Iterable[str]) -> None:
        """Publish these markets no more, and end the share if it was opened here."""
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return
        if self._is_own:
            publisher.close()
        else:
            for market in markets:
                publisher.withdraw(market)
