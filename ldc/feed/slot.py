"""One line of a feed group: a connection, and during a handover its successor. A redundant group has several lines.

Rule 1: one connection as a rule, two during a handover. Opening is paced by a back-off and by the budget that all
    groups share; nothing here opens in a loop.
Rule 2: make before break. A connection that is to be replaced is closed when its successor has taken over every market
    (`ldc.feed.handover`), not before; if the successor fails, the old one stays.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ldc.feed.connection import ConnectionState, FeedConnection
from ldc.feed.handover import Handover
from ldc.limits import Backoff

__all__ = ["CONNECTION_S_MAX", "STABLE_S", "TROUBLE_PAUSE_S", "ConnectionSlot", "SlotOwner"]

CONNECTION_S_MAX = 23 * 3600.0
"""The exchange cuts every connection after 24 hours. Before that it is renewed, spread over `RENEWAL_SPREAD_S`."""

RENEWAL_SPREAD_S = 1800.0

STABLE_S = 60.0
"""A connection that lasted so long was good: the next failure is a first one again."""

TROUBLE_PAUSE_S = 300.0
"""A late pong renews a connection, but not again within this time: it would not help where the link is always slow."""


class SlotOwner(Protocol):
    """What a line needs of those who keep it."""

    def take_connect(self, now: float) -> float:
        """Return `now` and count a connection, or return when to ask again."""

    def make_connection(self, url: str, now: float) -> FeedConnection:
        """Return a connection that has begun to connect."""

    def forget(self, connection: FeedConnection, now: float) -> None:
        """Close a connection that is no longer the line's, and tell the markets."""

    def handover_ended(self, handover: Handover, connection: FeedConnection, now: float) -> bool | None:
        """Whether this successor has taken over (True), has failed to (False), or neither yet (None)."""


class ConnectionSlot:
    """A connection to one address, renewed for as long as it is wanted. The group's thread calls everything."""

    def __init__(self, owner: SlotOwner, url: str, random: Callable[[], float], spare_urls: Sequence[str] = ()) -> None:
        self.url = url
        """Of the next connection. After a failure it is the next one of `spare_urls`."""
        self._spare_urls = spare_urls
        self.connects = 0
        """Connections begun."""
        self._owner = owner
        self._random = random
        self._backoff = Backoff(random)
        self._connections: list[FeedConnection] = []  # oldest first
        self._connect_due: float | None = None
        self._renew_due = 0.0
        self._handover: Handover | None = None
        self._trouble_not_before = 0.0
        self._announced_on: int | None = None  # the feed of the last one whose end the exchange has announced
        self._announced_again_at = 0.0  # another one before this is one too many

    def __iter__(self) -> Iterator[FeedConnection]:
        return iter(tuple(self._connections))

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections

    @property
    def handover(self) -> Handover | None:
        """The handover under way, from when the successor is open."""
        return self._handover

    @property
    def may_renew(self) -> bool:
        """Whether there is one connection, open, and none to follow it."""
        is_single = len(self._connections) == 1 and self._connections[0].state is ConnectionState.OPEN
        return is_single and self._connect_due is None

    def next_due(self, now: float) -> float | None:
        """Return when `tick` has something to do, or None."""
        dues = [connection.next_due(now) for connection in self._connections]
        if self._connect_due is not None:
            dues.append(self._connect_due)
        if self._handover is not None:
            dues.append(self._handover.next_due)
        if self.may_renew:
            dues.append(self._renew_due)
            if self._connections[0].is_pong_late(now) and now < self._trouble_not_before:
                dues.append(self._trouble_not_before)
        return min(dues, default=None)

    def tick(self, now: float) -> None:
        """Do what is due: connect, renew, or end a handover. Only while connections are wanted."""
        if not self._connections and self._connect_due is None:
            self._connect_due = now
        if self._connect_due is not None and self._connect_due <= now:
            allowed_at = self._owner.take_connect(now)
            self._connect_due = None if allowed_at <= now else allowed_at
            if self._connect_due is None:
                self._connect(now)
        if len(self._connections) < 2:
            self._handover = None  # the older one may have ended by itself
            if now >= self._renew_due or self._is_in_trouble(now):
                self.renew(now)
            return
        self._tick_handover(now)

    def _is_in_trouble(self, now: float) -> bool:
        """Whether a pong is so late that a successor is called for, before it is too late."""
        if not self.may_renew or not self._connections[0].is_pong_late(now) or now < self._trouble_not_before:
            return False
        self._trouble_not_before = now + TROUBLE_PAUSE_S
        return True

    def _tick_handover(self, now: float) -> None:
        successor = self._connections[-1]
        if successor.state is not ConnectionState.OPEN:
            return
        if self._handover is None:
            self._handover = Handover(successor.connection_id, now)
        has_succeeded = self._owner.handover_ended(self._handover, successor, now)
        if has_succeeded is None:
            return
        self._handover = None
        for connection in self._connections[:-1] if has_succeeded else [successor]:
            connection.say_goodbye()
            self._take_out(connection, now)
        if not has_succeeded:
            self._renew_due = now + self._backoff.next_delay_s()

    def _connect(self, now: float) -> None:
        self.connects += 1
        self._connections.append(self._owner.make_connection(self.url, now))
        self._renew_due = now + CONNECTION_S_MAX - self._random() * RENEWAL_SPREAD_S

    def renew(self, now: float) -> None:
        """Open a successor to the one connection, unless one is under way."""
        if self.may_renew:
            self._connect_due = now

    def end_announced(self, connection: FeedConnection, now: float) -> None:
        """The exchange is going to end one: `tick` opens a successor; to a successor as soon as it has taken over.

        A host that says so on each new connection must not use up the connects of all: the next one within `STABLE_S`
        waits as after a failure.
        """
        if connection is not self._connections[-1] or connection.connection_id == self._announced_on:
            return
        delay_s = self._backoff.next_delay_s() if now < self._announced_again_at else 0.0
        self._announced_on = connection.connection_id
        self._renew_due = min(self._renew_due, now + delay_s)
        self._announced_again_at = self._renew_due + STABLE_S

    def lose(self, connection: FeedConnection, now: float, *, is_wanted: bool) -> None:
        """A connection of this line ended by itself. If no newer one is there already, plan the next one."""
        if connection.state is ConnectionState.OPEN and now - connection.opened_at >= STABLE_S:
            self._backoff.reset()
        elif connection.url == self.url and self.url in self._spare_urls:
            place = self._spare_urls.index(self.url)
            self.url = self._spare_urls[(place + 1) % len(self._spare_urls)]
        was_newest = connection is self._connections[-1]
        self._take_out(connection, now)
        if not was_newest or not is_wanted:
            return
        self._handover = None
        if self._connections:
            self._renew_due = now + self._backoff.next_delay_s()
        else:
            self._connect_due = now + self._backoff.next_delay_s()

    def close(self, now: float) -> None:
        """Close everything, and want nothing any more."""
        self._connect_due = self._handover = None
        for connection in self:
            connection.say_goodbye()
            self._take_out(connection, now)

    def release(self) -> None:
        """Close all sockets; nobody is told."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _take_out(self, connection: FeedConnection, now: float) -> None:
        self._connections.remove(connection)
        self._owner.forget(connection, now)
