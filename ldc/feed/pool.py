"""The connections of one feed group, in lines: one line as a rule, more when the group is redundant.

Rule 1: each line looks after itself (`ldc.feed.slot`). All of them bring the same markets to the same books, whose ids
    say what is new.
Rule 2: the group is told of each connection that opened and of each that closed, and tells its markets.
Rule 3: the group's thread calls everything but `SharedConnectBudget.take`.
"""

import logging
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Protocol

from ldc.feed.connection import ConnectionLost, ConnectionOptions, ConnectionState, FeedConnection
from ldc.feed.handover import Handover
from ldc.feed.slot import ConnectionSlot
from ldc.limits import ConnectBudget

__all__ = ["ConnectLedger", "ConnectionPool", "SharedConnectBudget"]

logger = logging.getLogger("binance_local_depth_cache")

SLEPT_S_MAX = 5.0
"""A machine that slept longer than this has lost what was sent meanwhile: its connections are given up at once, and
with them the books, instead of only when a ping is found to be unanswered."""

_CLOCK_OF_SLEEP = next(
    (getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW") if hasattr(time, name)), None
)


def clock_of_sleep() -> float:
    """Return the seconds that the machine has slept, from an arbitrary beginning; where it cannot be told, 0 always.

    The monotonic clock that all deadlines go by stands still while a Linux or a macOS machine is suspended.
    """
    return time.clock_gettime(_CLOCK_OF_SLEEP) - time.monotonic() if _CLOCK_OF_SLEEP is not None else 0.0


class ConnectLedger(Protocol):
    """What several processes connect to one venue; see `ldc.snapshots.shared_budget`."""

    @property
    def folder(self) -> object:
        """Where it is kept."""

    def take(self, weight: int, allowed: int, now: float) -> tuple[float, str]:
        """Count so many if all together stay within `allowed`: (now, key); or return when to ask again, and ""."""


class SharedConnectBudget:
    """The connects of this process to one venue, counted by all groups together. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.ledger: ConnectLedger | None = None
        """The same budget, as other processes draw on it."""
        self._budget = ConnectBudget(limit)
        self._lock = threading.Lock()

    def take(self, now: float) -> float:
        """Return `now` and count a connection, or return when to ask again.

        With a ledger it takes as long as a file takes, which is a millisecond; if another process does not
        let go of it, `ldc.snapshots.shared_budget.LOCK_S_MAX`.
        """
        with self._lock:
            allowed_at = self._budget.earliest(now)
            if allowed_at <= now and self.ledger is not None:
                allowed_at, _ = self.ledger.take(1, self._budget.limit, now)
            if allowed_at <= now:
                self._budget.spend(now)
            return allowed_at


class PoolOwner(Protocol):
    """What the connections need of their group."""

    name: str

    def post(self, work: Callable[[float], None]) -> bool:
        """Call work(now) in the group's thread."""

    def connection_opened(self, connection: FeedConnection, now: float) -> None:
        """Subscribe what is wanted of it."""

    def connection_closed(self, connection: FeedConnection, now: float, *, is_last: bool) -> None:
        """Tell the markets."""

    def handover_ended(self, handover: Handover, connection: FeedConnection, now: float) -> bool | None:
        """Whether this successor has taken over (True), has failed to (False), or neither yet (None)."""


class ConnectionPool:
    """The connections of a group. `urls`: one for each line."""

    def __init__(
        self,
        owner: PoolOwner,
        urls: Sequence[str],
        options: ConnectionOptions,
        budget: SharedConnectBudget,
        selector: selectors.BaseSelector,
        random: Callable[[], float],
    ) -> None:
        self.last_error: str | None = None
        self.take_connect = budget.take
        self.handover_ended = owner.handover_ended
        self._owner = owner
        self._options = options
        self._selector = selector
        self._lines = [ConnectionSlot(self, url, random, options.spare_urls) for url in urls]
        self._feeds = count(1)
        self._slept_s = clock_of_sleep()

    def __iter__(self) -> Iterator[FeedConnection]:
        return iter([connection for line in self._lines for connection in line])

    @property
    def lines(self) -> Sequence[ConnectionSlot]:
        """The lines, to look at."""
        return self._lines

    @property
    def open_ones(self) -> list[FeedConnection]:
        """Those that have finished their handshake."""
        return [connection for connection in self if connection.state is ConnectionState.OPEN]

    @property
    def reconnects(self) -> int:
        """Connections begun after the first one of each line, renewals included."""
        return sum(max(0, line.connects - 1) for line in self._lines)

    @property
    def handovers(self) -> list[Handover]:
        """Those under way."""
        return [line.handover for line in self._lines if line.handover is not None]

    def next_due(self, now: float) -> float | None:
        """Return when `tick` has something to do, or None."""
        return min((due for line in self._lines if (due := line.next_due(now)) is not None), default=None)

    def tick(self, now: float, *, is_wanted: bool) -> None:
        """Do what is due. `is_wanted`: there are markets to connect for."""
        self._give_up_after_sleep(now, is_wanted=is_wanted)
        for connection in self:
            try:
                connection.tick(now)
            except ConnectionLost as error:
                self.lose(connection, str(error), now, is_wanted=is_wanted)
        if is_wanted:
            for line in self._lines:
                line.tick(now)

    def has_machine_slept(self) -> bool:
        """Whether the machine slept since the last `tick`, which then has something to do at once."""
        return clock_of_sleep() - self._slept_s > SLEPT_S_MAX

    def _give_up_after_sleep(self, now: float, *, is_wanted: bool) -> None:
        slept_s = clock_of_sleep()
        just_slept_s, self._slept_s = slept_s - self._slept_s, slept_s
        if just_slept_s > SLEPT_S_MAX:
            for connection in self:
                self.lose(connection, f"the machine slept for {just_slept_s:.0f} s", now, is_wanted=is_wanted)

    def renew(self, now: float, announced_on: FeedConnection | None = None) -> None:
        """Open a successor to every connection, unless one is under way; or to that one, which is going to end."""
        for line in self._lines:
            if announced_on is None:
                line.renew(now)
            elif announced_on in line:
                line.end_announced(announced_on, now)

    def lose(self, connection: FeedConnection, why: str, now: float, *, is_wanted: bool) -> None:
        """A connection ended by itself."""
        for line in self._lines:
            if connection in line:
                if is_wanted:
                    self.last_error = why
                    lasted_s = now - connection.opened_at
                    logger.warning("%s: connection lost after %.1f s: %s", self._owner.name, lasted_s, why)
                line.lose(connection, now, is_wanted=is_wanted)
                connection.mark_failed()

    def close_all(self, now: float) -> None:
        """Close everything, and want nothing any more."""
        for line in self._lines:
            line.close(now)

    def say_goodbye(self) -> float:
        """Send close frames, and return how long the answers may be waited for, in seconds."""
        return max((connection.say_goodbye() for connection in self), default=0.0)

    def release(self) -> None:
        """Close all sockets; nobody is told."""
        for line in self._lines:
            line.release()

    def watch_writers(self) -> None:
        """Let the selector watch for room to write where something waits to be sent."""
        for connection in self.open_ones:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.wants_to_write else 0)
            if self._selector.get_key(connection).events != events:
                self._selector.modify(connection, events, connection)

    # for the lines

    def make_connection(self, url: str, now: float) -> FeedConnection:
        """Return a connection that has begun to connect."""
        connection = FeedConnection(next(self._feeds), url, self._options, self._owner.post, self._opened, now)
        connection.connect()
        return connection

    def forget(self, connection: FeedConnection, now: float) -> None:
        """Close a connection that no line has any more, and tell the markets."""
        if connection.state is ConnectionState.OPEN:
            self._selector.unregister(connection)
        connection.close()
        self._owner.connection_closed(connection, now, is_last=not self.open_ones)

    def _opened(self, connection: FeedConnection, now: float) -> None:
        self._selector.register(connection, selectors.EVENT_READ, connection)
        self._owner.connection_opened(connection, now)
