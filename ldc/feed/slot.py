"""A connection slot: one websocket, two during a make-before-break handover. `redundancy=n` means n slots.

Rule 1: opening is paced by `ldc.limits.ReconnectPolicy`, and by the connect budget that all groups share. Nothing here
    opens in a loop. A lost connection is replaced within a quarter of a second while connects are not scarce.
Rule 2: make before break. A connection is closed when its successor has taken over every market (`ldc.feed.handover`),
    not before. If the successor fails, the old connection stays.
Rule 3: no I/O, and `now` is an argument. The pool opens and closes what a slot wants opened and closed.
"""

from collections.abc import Callable, Iterator, Sequence

from ldc.feed.connection import ConnectionState, FeedConnection
from ldc.feed.handover import Handover
from ldc.limits import Backoff, ReconnectPolicy, Timing


class ConnectionSlot:
    """A connection to one address, renewed for as long as it is wanted. The group's thread calls everything.

    Args:
        url: of the combined-stream endpoint.
        timing: how long a connection lasts, and how long is waited between two.
        random: a number from 0 up to 1, for jitter.
        take_connect: returns `now` and counts a connect, or returns when to try again.
        connect_spacing: how far apart connects should be now, in seconds; see `ldc.limits.RollingLimit.spacing_s`.
        connect: returns a connection to an address that has begun to connect.
        forget: closes a connection that has left the slot, and reports it to the markets.
        has_taken_over: whether a successor has taken over (True), has failed to (False), or neither yet (None).
        spare_urls: URLs that serve the same, this one among them; after a failure the next one is tried.
    """

    def __init__(
        self,
        url: str,
        timing: Timing,
        random: Callable[[], float],
        *,
        take_connect: Callable[[float], float],
        connect_spacing: Callable[[float], float],
        connect: Callable[[str, float], FeedConnection],
        forget: Callable[[FeedConnection, float], None],
        has_taken_over: Callable[[Handover, FeedConnection, float], bool | None],
        spare_urls: Sequence[str] = (),
    ) -> None:
        self.url = url
        """Of the next connection. After a failure it is the next one of `spare_urls`."""
        self._spare_urls = spare_urls
        self.connects = 0
        """Connections begun."""
        self.handover: Handover | None = None
        """The handover under way, from when the successor is open."""
        self._timing = timing
        self._random = random
        self._take_connect = take_connect
        self._connect_spacing = connect_spacing
        self._connect = connect
        self._forget = forget
        self._has_taken_over = has_taken_over
        ceilings_s = {"first_s": timing.reconnect_s_first, "max_s": timing.reconnect_s_max}
        self._reconnect = ReconnectPolicy(random, **ceilings_s)
        self._announcements = Backoff(random, **ceilings_s)
        self._connections: list[FeedConnection] = []  # oldest first
        self._connect_due: float | None = None
        self._renew_due = 0.0
        self._trouble_not_before = 0.0
        self._announced_on: int | None = None  # the last connection whose end the exchange has announced
        self._announced_again_at = 0.0  # an announcement before this waits like a refusal

    def __iter__(self) -> Iterator[FeedConnection]:
        return iter(tuple(self._connections))

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections

    def _is_single(self) -> bool:
        """Whether there is one connection, open, and no successor is due."""
        is_single = len(self._connections) == 1 and self._connections[0].state is ConnectionState.OPEN
        return is_single and self._connect_due is None

    def next_due(self, now: float) -> float | None:
        """Return when `tick` has something to do, or None."""
        dues = [connection.next_due(now) for connection in self._connections]
        if self._connect_due is not None:
            dues.append(self._connect_due)
        if self.handover is not None:
            dues.append(self.handover.next_due)
        if self._is_single():
            dues.append(self._renew_due)
            if self._connections[0].is_pong_late(now) and now < self._trouble_not_before:
                dues.append(self._trouble_not_before)
        return min(dues, default=None)

    def tick(self, now: float) -> None:
        """Do what is due: connect, renew, or end a handover. Only while connections are wanted."""
        if not self._connections and self._connect_due is None:
            self._connect_due = now
        if self._connect_due is not None and self._connect_due <= now:
            allowed_at = self._take_connect(now)
            self._connect_due = None if allowed_at <= now else allowed_at
            if self._connect_due is None:
                self._open(now)
        if len(self._connections) < 2:
            self.handover = None  # the older connection may have ended by itself
            if now >= self._renew_due or self._is_in_trouble(now):
                self.renew(now)
            return
        self._tick_handover(now)

    def _is_in_trouble(self, now: float) -> bool:
        """Whether a pong is so late that a successor is opened now, while the link still works."""
        if not self._is_single() or not self._connections[0].is_pong_late(now) or now < self._trouble_not_before:
            return False
        self._trouble_not_before = now + self._timing.trouble_pause_s
        return True

    def _tick_handover(self, now: float) -> None:
        successor = self._connections[-1]
        if successor.state is not ConnectionState.OPEN:
            return
        if self.handover is None:
            self.handover = Handover(successor.connection_id, now, self._timing)
        has_taken_over = self._has_taken_over(self.handover, successor, now)
        if has_taken_over is None:
            return
        self.handover = None
        for connection in self._connections[:-1] if has_taken_over else [successor]:
            connection.begin_close()
            self._remove(connection, now)
        if has_taken_over:
            self._reconnect.succeeded()
        else:
            self._renew_due = now + self._reconnect.after_refusal()

    def _open(self, now: float) -> None:
        self.connects += 1
        self._connections.append(self._connect(self.url, now))
        self._renew_due = now + self._timing.connection_s_max - self._random() * self._timing.renewal_spread_s

    def renew(self, now: float) -> None:
        """Open a successor to the one connection, unless one is under way."""
        if self._is_single():
            self._connect_due = now

    def end_announced(self, connection: FeedConnection, now: float) -> None:
        """Plan a successor to a connection that the exchange is going to end; `tick` opens it.

        If the connection is a successor itself, its own successor waits until it has taken over. A host that announces
        its end on each new connection must not use up the connects of all groups: another announcement within
        `Timing.stable_s` waits like a refusal.
        """
        if connection is not self._connections[-1] or connection.connection_id == self._announced_on:
            return
        if now >= self._announced_again_at:
            self._announcements.reset()
        delay_s = self._announcements.next_delay_s() if now < self._announced_again_at else 0.0
        self._announced_on = connection.connection_id
        self._renew_due = min(self._renew_due, now + delay_s)
        self._announced_again_at = self._renew_due + self._timing.stable_s

    def lose(self, connection: FeedConnection, now: float, *, is_wanted: bool) -> None:
        """Remove a connection that ended by itself. Unless there is a newer one, plan the next."""
        is_open = connection.state is ConnectionState.OPEN
        has_lasted = is_open and now - connection.opened_at >= self._timing.stable_s
        has_worked = has_lasted or (is_open and bool(connection.requests.acknowledged))
        if not has_lasted and connection.url == self.url and self.url in self._spare_urls:
            place = self._spare_urls.index(self.url)
            self.url = self._spare_urls[(place + 1) % len(self._spare_urls)]
        was_newest = connection is self._connections[-1]
        self._remove(connection, now)
        if not was_newest or not is_wanted:
            return
        self.handover = None
        if self._connections:  # no book waits for this successor, so its failure is taken for a refusal
            self._renew_due = now + self._reconnect.after_refusal()
        elif has_worked:
            self._connect_due = now + self._reconnect.after_loss(self._connect_spacing(now))
        else:
            self._connect_due = now + self._reconnect.after_refusal()

    def put_off(self, connection: FeedConnection, until: float, now: float) -> None:
        """Remove a connection that may not connect yet. That is no failure; the next one comes at that time."""
        self.connects -= 1
        was_newest = connection is self._connections[-1]
        self._remove(connection, now)
        if was_newest and self._connections:
            self._renew_due = until
        elif was_newest:
            self._connect_due = until

    def close(self, now: float) -> None:
        """Close everything, and plan nothing more."""
        self._connect_due = self.handover = None
        for connection in self:
            connection.begin_close()
            self._remove(connection, now)

    def release(self) -> None:
        """Close all sockets. Nothing is reported."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _remove(self, connection: FeedConnection, now: float) -> None:
        self._connections.remove(connection)
        self._forget(connection, now)
