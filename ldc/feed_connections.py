"""The connections of one feed group: when to open one, when to replace it, when to give it up.

Rule 1: one connection as a rule, two during a handover. Opening is paced by a back-off and by the budget that all
    groups share; nothing here opens in a loop.
Rule 2: the group is told of each connection that opened and of each that closed, and tells its markets.
Rule 3: the group's thread calls everything but `SharedConnectBudget.take`.
"""

import logging
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol

from ldc.feed_connection import ConnectionLost, ConnectionOptions, ConnectionState, FeedConnection
from ldc.limits import Backoff, ConnectBudget

__all__ = ["CONNECTION_S_MAX", "HANDOVER_S", "STABLE_S", "FeedConnections", "SharedConnectBudget"]

logger = logging.getLogger("binance_local_depth_cache")

CONNECTION_S_MAX = 23 * 3600.0
"""The exchange cuts every connection after 24 hours. Before that it is renewed, spread over `RENEWAL_SPREAD_S`."""

RENEWAL_SPREAD_S = 1800.0

HANDOVER_S = 10.0
"""How long two connections feed the same books before the older one is closed, spoken for or not: a market that has
stayed silent so long on both has missed nothing, or will find a gap and take a snapshot."""

STABLE_S = 60.0
"""A connection that lasted so long was good: the next failure is a first one again."""


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


class SharedConnectBudget:
    """The connects of this process to one venue, counted by all groups together. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._budget = ConnectBudget(limit)
        self._lock = threading.Lock()

    def take(self, now: float) -> float:
        """Return `now` and count a connection, or return when to ask again."""
        with self._lock:
            allowed_at = self._budget.earliest(now)
            if allowed_at <= now:
                self._budget.spend(now)
            return allowed_at


class ConnectionsOwner(Protocol):
    """What the connections need of their group."""

    name: str

    def post(self, work: Callable[[float], None]) -> bool:
        """Call work(now) in the group's thread."""

    def connection_opened(self, connection: FeedConnection, now: float) -> None:
        """Subscribe what is wanted of it."""

    def connection_closed(self, connection: FeedConnection, now: float, *, is_last: bool) -> None:
        """Tell the markets."""

    def is_taken_over(self, connection: FeedConnection) -> bool:
        """Whether every market has heard from this connection."""


class FeedConnections:
    """The connections of a group, oldest first."""

    def __init__(
        self,
        owner: ConnectionsOwner,
        url: str,
        options: ConnectionOptions,
        budget: SharedConnectBudget,
        selector: selectors.BaseSelector,
        random: Callable[[], float],
    ) -> None:
        self.reconnects = 0
        """Connections begun after the first one, renewals included."""
        self.last_error: str | None = None
        self._owner = owner
        self._url = url
        self._options = options
        self._budget = budget
        self._selector = selector
        self._random = random
        self._backoff = Backoff(random)
        self._connections: list[FeedConnection] = []
        self._feeds = count(1)
        self._connect_due: float | None = None
        self._renew_due = 0.0
        self._handover_deadline: float | None = None
        self._slept_s = clock_of_sleep()

    def __iter__(self) -> Iterator[FeedConnection]:
        return iter(tuple(self._connections))

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def open_ones(self) -> list[FeedConnection]:
        """Those that have finished their handshake."""
        return [connection for connection in self._connections if connection.state is ConnectionState.OPEN]

    def next_due(self, now: float) -> float | None:
        """Return when `tick` has something to do, or None."""
        dues = [connection.next_due(now) for connection in self._connections]
        dues += [due for due in (self._connect_due, self._handover_deadline) if due is not None]
        if self._may_renew:
            dues.append(self._renew_due)
        return min(dues, default=None)

    @property
    def _may_renew(self) -> bool:
        """Whether there is one connection, open, and none to follow it."""
        is_single = len(self._connections) == 1 and self._connections[0].state is ConnectionState.OPEN
        return is_single and self._connect_due is None

    def tick(self, now: float, *, is_wanted: bool) -> None:
        """Do what is due. `is_wanted`: there are markets to connect for."""
        self._give_up_after_sleep(now, is_wanted=is_wanted)
        for connection in self:
            try:
                connection.tick(now)
            except ConnectionLost as error:
                self.lose(connection, str(error), now, is_wanted=is_wanted)
        if not is_wanted:
            return
        if not self._connections and self._connect_due is None:
            self._connect_due = now
        if self._connect_due is not None and self._connect_due <= now:
            allowed_at = self._budget.take(now)
            self._connect_due = None if allowed_at <= now else allowed_at
            if self._connect_due is None:
                self._connect(now)
        self._tick_handover(now)

    def _give_up_after_sleep(self, now: float, *, is_wanted: bool) -> None:
        slept_s = clock_of_sleep()
        just_slept_s, self._slept_s = slept_s - self._slept_s, slept_s
        if just_slept_s > SLEPT_S_MAX:
            for connection in self:
                self.lose(connection, f"the machine slept for {just_slept_s:.0f} s", now, is_wanted=is_wanted)

    def _tick_handover(self, now: float) -> None:
        """End a handover that is complete, and begin one when the connection has grown old."""
        if len(self._connections) < 2:
            self._handover_deadline = None  # the older one may have ended by itself
            if now >= self._renew_due:
                self.renew(now)
            return
        if self._connections[-1].state is not ConnectionState.OPEN:
            return
        if self._handover_deadline is None:
            self._handover_deadline = now + HANDOVER_S
        if now >= self._handover_deadline or self._owner.is_taken_over(self._connections[-1]):
            self._handover_deadline = None
            for connection in self._connections[:-1]:
                connection.say_goodbye()
                self._forget(connection, now)

    def _connect(self, now: float) -> None:
        feed = next(self._feeds)
        self.reconnects += feed > 1
        connection = FeedConnection(feed, self._url, self._options, self._owner.post, self._opened, now)
        self._connections.append(connection)
        self._renew_due = now + CONNECTION_S_MAX - self._random() * RENEWAL_SPREAD_S
        connection.connect()

    def _opened(self, connection: FeedConnection, now: float) -> None:
        self._selector.register(connection, selectors.EVENT_READ, connection)
        self._owner.connection_opened(connection, now)

    def renew(self, now: float) -> None:
        """Open a successor to the one connection, unless one is under way."""
        if self._may_renew:
            self._connect_due = now

    def lose(self, connection: FeedConnection, why: str, now: float, *, is_wanted: bool) -> None:
        """A connection ended by itself. If no newer one is there already, plan the next one."""
        if connection not in self._connections:
            return
        if is_wanted:
            self.last_error = why
            logger.warning("%s: connection lost after %.1f s: %s", self._owner.name, now - connection.opened_at, why)
        if connection.state is ConnectionState.OPEN and now - connection.opened_at >= STABLE_S:
            self._backoff.reset()
        was_newest = connection is self._connections[-1]
        self._forget(connection, now)
        if not was_newest or not is_wanted:
            return
        self._handover_deadline = None
        if self._connections:
            self._renew_due = now + self._backoff.next_delay_s()
        else:
            self._connect_due = now + self._backoff.next_delay_s()

    def close_all(self, now: float) -> None:
        """Close everything, and want nothing any more."""
        self._connect_due = self._handover_deadline = None
        for connection in self:
            connection.say_goodbye()
            self._forget(connection, now)

    def say_goodbye(self) -> float:
        """Send close frames, and return how long the answers may be waited for, in seconds."""
        return max((connection.say_goodbye() for connection in self._connections), default=0.0)

    def release(self) -> None:
        """Close all sockets; nobody is told."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _forget(self, connection: FeedConnection, now: float) -> None:
        if connection.state is ConnectionState.OPEN:
            self._selector.unregister(connection)
        self._connections.remove(connection)
        connection.close()
        self._owner.connection_closed(connection, now, is_last=not self.open_ones)

    def watch_writers(self) -> None:
        """Let the selector watch for room to write where something waits to be sent."""
        for connection in self.open_ones:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.wants_to_write else 0)
            if self._selector.get_key(connection).events != events:
                self._selector.modify(connection, events, connection)
