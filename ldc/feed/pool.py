"""The connections of one feed group, in slots: one slot as a rule, more when the group is redundant.

Rule 1: each slot keeps itself connected (`ldc.feed.slot`). All connections bring the same markets to the same books,
    whose update ids tell what is new.
Rule 2: each connection that opened and each that closed is reported to the group, which informs its markets.
Rule 3: the group's thread calls everything here. A connector calls `SharedConnectBudget.take_shared`, which is a file.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from ldc.book import Lease
from ldc.consume.log import logger
from ldc.feed.connection import (
    ConnectionLost,
    ConnectionOptions,
    ConnectionPutOff,
    ConnectionState,
    FeedConnection,
)
from ldc.feed.handover import Handover
from ldc.feed.loop import EventLoop
from ldc.feed.slot import ConnectionSlot
from ldc.limits import ConnectBudget

if TYPE_CHECKING:
    from ldc.snapshots.shared_budget import SharedBudget


FILE_FAULT_S = 1.0
"""Seconds until the next connect after the shared budget failed in an unforeseen way. Nothing is opened until then."""


class SharedConnectBudget:
    """The connects of this process to one venue, counted by all groups together. Thread-safe.

    Other processes may share them, by a file. A file may be slow for as long as it likes, so no feed's thread touches
    it: the thread that connects does. A connect that the file puts off counts in this process nevertheless.
    """

    def __init__(self, limit: int) -> None:
        self.shared: SharedBudget | None = None
        """The file by which other processes share the same budget, or None."""
        self._budget = ConnectBudget(limit)
        self._shared_not_before = -math.inf  # until then the file allows none
        self._lock = threading.Lock()  # never held while the file is touched

    def take(self, now: float) -> float:
        """Return `now` and count a connect, or return when to try again. O(1), without I/O."""
        with self._lock:
            allowed_at = max(self._budget.earliest(now), self._shared_not_before)
            if allowed_at <= now:
                self._budget.spend(now)
            return allowed_at

    def take_shared(self, now: float) -> float:
        """Count a connect in the file; return `now`, or when to try again. Without a file always `now`.

        Blocks for as long as the file system does; for `ldc.snapshots.shared_budget.LOCK_S_MAX` if another process does
        not release the file.
        """
        shared = self.shared
        if shared is None:
            return now
        try:
            allowed_at, _ = shared.take(1, self._budget.limit, now)
        except BaseException:  # a thread's top: without an answer nothing is opened
            logger.exception("The shared budget in %s failed in an unforeseen way.", shared.folder)
            allowed_at = now + FILE_FAULT_S
        if allowed_at > now:
            with self._lock:
                self._shared_not_before = max(self._shared_not_before, allowed_at)
        return allowed_at

    def spacing_s(self, now: float) -> float:
        """Return how far apart connects should be now; see `ldc.limits.RollingLimit.spacing_s`.

        It counts the connects of this process. Those of others slow nothing down, but `take` counts them too.
        """
        with self._lock:
            return self._budget.spacing_s(now)


class ConnectionPool:
    """The connections of a group.

    Args:
        loop: of the group; reads the connections that are open.
        urls: one for each slot.
        options: what all connections of a manager have in common.
        lease: of the books; each connection renews it by its proofs.
        connect_budget: of all groups of the process.
        random: a number from 0 up to 1, for jitter.
        on_opened: called with a connection that is open, before anything is subscribed on it.
        on_closed: called with a connection that was closed, the time, and whether no other one is open.
        has_taken_over: whether a successor has taken over (True), has failed to (False), or neither yet (None).
    """

    def __init__(
        self,
        loop: EventLoop[FeedConnection],
        urls: Sequence[str],
        options: ConnectionOptions,
        *,
        lease: Lease,
        connect_budget: SharedConnectBudget,
        random: Callable[[], float],
        on_opened: Callable[[FeedConnection, float], None],
        on_closed: Callable[[FeedConnection, float, bool], None],
        has_taken_over: Callable[[Handover, FeedConnection, float], bool | None],
    ) -> None:
        self.last_error: str | None = None
        """Why the last connection was lost."""
        self._loop = loop
        self._options = options
        self._lease = lease
        self._take_shared = connect_budget.take_shared
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._slots = [
            ConnectionSlot(
                url,
                options.timing,
                random,
                take_connect=connect_budget.take,
                connect_spacing=connect_budget.spacing_s,
                connect=self._connect,
                forget=self._forget,
                has_taken_over=has_taken_over,
                spare_urls=options.spare_urls,
            )
            for url in urls
        ]
        self._connection_ids = count(1)

    def __iter__(self) -> Iterator[FeedConnection]:
        return iter([connection for slot in self._slots for connection in slot])

    @property
    def open_ones(self) -> list[FeedConnection]:
        """The connections that have finished their handshake."""
        return [connection for connection in self if connection.state is ConnectionState.OPEN]

    @property
    def reconnects(self) -> int:
        """Connections begun after the first one of each slot, renewals included."""
        return sum(max(0, slot.connects - 1) for slot in self._slots)

    @property
    def handovers(self) -> list[Handover]:
        """The handovers under way."""
        return [slot.handover for slot in self._slots if slot.handover is not None]

    def next_due(self, now: float) -> float | None:
        """Return when `tick` has something to do, or None."""
        return min((due for slot in self._slots if (due := slot.next_due(now)) is not None), default=None)

    def tick(self, now: float, *, is_wanted: bool) -> None:
        """Do what is due. `is_wanted`: there are markets to connect for."""
        for connection in self:
            try:
                connection.tick(now)
            except ConnectionPutOff as error:
                self._put_off(connection, error.until, now)
            except ConnectionLost as error:
                self.lose(connection, str(error), now, is_wanted=is_wanted)
        if is_wanted:
            for slot in self._slots:
                slot.tick(now)

    def renew(self, now: float, announced_on: FeedConnection | None = None) -> None:
        """Open a successor to every connection that has none; or to one only, whose end the exchange has announced."""
        for slot in self._slots:
            if announced_on is None:
                slot.renew(now)
            elif announced_on in slot:
                slot.end_announced(announced_on, now)

    def lose(self, connection: FeedConnection, why: str, now: float, *, is_wanted: bool) -> None:
        """Remove a connection that ended by itself."""
        for slot in self._slots:
            if connection in slot:
                if is_wanted:
                    self.last_error = why
                    lasted_s = now - connection.opened_at
                    logger.warning("%s: connection lost after %.1f s: %s", self._loop.name, lasted_s, why)
                slot.lose(connection, now, is_wanted=is_wanted)
                connection.mark_failed()

    def _put_off(self, connection: FeedConnection, until: float, now: float) -> None:
        for slot in self._slots:
            if connection in slot:
                slot.put_off(connection, until, now)

    def close(self, now: float) -> None:
        """Close everything, and plan nothing more."""
        for slot in self._slots:
            slot.close(now)

    def begin_close(self) -> float:
        """Send close frames; return how long the answers may be waited for, in seconds."""
        return max((connection.begin_close() for connection in self), default=0.0)

    def release(self) -> None:
        """Close all sockets. Nothing is reported."""
        for slot in self._slots:
            slot.release()

    def watch_room(self) -> None:
        """Let the loop watch for room to write where data waits to be sent."""
        for connection in self.open_ones:
            self._loop.watch_room(connection, is_wanted=connection.wants_to_write)
            if connection.is_kept_alive_by_loop:
                self._loop.set_keeps_alive(connection, keeps_alive=connection.is_idle)

    # for the slots

    def _connect(self, url: str, now: float) -> FeedConnection:
        connection = FeedConnection(
            next(self._connection_ids),
            url,
            self._options,
            self._loop.post,
            self._opened,
            now,
            self._lease,
            take_shared=self._take_shared,
        )
        connection.connect()
        return connection

    def _forget(self, connection: FeedConnection, now: float) -> None:
        if connection.state is ConnectionState.OPEN:
            self._loop.unwatch(connection)
        connection.close()
        self._on_closed(connection, now, not self.open_ones)

    def _opened(self, connection: FeedConnection, now: float) -> None:
        connection.is_kept_alive_by_loop = self._loop.watch(
            connection, served=connection if connection.can_be_served else None
        )
        connection.reading = "native" if connection.is_kept_alive_by_loop else "python"
        self._on_opened(connection, now)
