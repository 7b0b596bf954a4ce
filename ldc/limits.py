"""Rate limits (request weight, connects, messages), the backoff after failures, and the durations of feeds.

Also how much the order books of a process retain for snapshots that are being downloaded.

Pure arithmetic.

Rule 1: every method takes the time as an argument, in seconds of one monotonic clock. Nothing here reads a clock,
    sleeps, locks or draws a random number; `Backoff` takes its random source as an argument.
Rule 2: queries change nothing. ``earliest(...)`` returns when something is allowed if nothing else happens before;
    ``spend(...)`` counts that it was done.
Rule 3: the caller decides the order. These classes count, they do not queue.
Rule 4: none of them is thread-safe; their owner locks.
Rule 5: memory is bounded by the limit itself: each remembered event costs something, and the limit bounds the cost.

Theory of operation. Binance counts the weight of requests per IP address in fixed minutes of its own clock. It counts a
request at some time between our sending it and our reading the answer. So a request counts from its sending until 60 s
after its answer. This keeps us within the limit in *every* window of 60 s, including the server's minute. (Proof: of
the requests that the server counted in some 60 s, take the one sent last. Each of the others was answered less than
60 s before that, or not yet. So it was still counted.)

The second source is the ``X-MBX-USED-WEIGHT-1M`` of each answer. It is the weight that the server has counted in its
current minute, including other programs at the same address. Until that minute is over, at least that weight counts as
used, plus all that the server may not have counted yet. The larger of the two sources decides.

Limits per second and per five minutes are windows too, not buckets with a burst. A bucket of five that refills five a
second lets nine through in its first second. Then the exchange closes the connection.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

WEIGHT_WINDOW_S = 60.0
"""Seconds in which request weight is limited."""

PACE_WINDOW_S = 1.0
"""The window in which exchanges count the messages of one connection."""

CONNECT_WINDOW_S = 300.0
"""Seconds in which connects are limited."""

WEIGHT_SHARE_MIN = 0.1
"""Smallest allowed `weight_share`: the deepest snapshot must still be affordable. A smaller one is a ``ValueError``."""

LIMIT_PAUSE_S = 60.0
"""Seconds of pause after a 429 without Retry-After: the server's minute is over by then."""

BAN_PAUSE_S = 120.0
"""Seconds of pause after a 418 without Retry-After: Binance's shortest ban. Each further ban doubles it."""

BAN_PAUSE_S_MAX = 3 * 86_400.0
"""Seconds: Binance's longest ban, where the doubling ends."""

RETRY_AFTER_S_MIN = 1.0
"""Seconds: a smaller Retry-After, such as 0, names no time to wait. It counts as this; in a row as more."""

RETRY_AFTER_S_MAX = BAN_PAUSE_S_MAX
"""Seconds: a larger Retry-After counts as this. No ban is longer, and a wrong header must not stop the process."""

RETAINED_UPDATES_MAX = 1_000
"""Updates that a book retains while the snapshot of a refresh is downloaded: 100 s at ten updates a second. At the
limit the oldest is discarded. The book has applied it, so only a snapshot that is older than that is lost."""

RETAINED_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of those updates (recorded ones have 1.6 kB on average, 35 kB at most). At the limit the oldest is discarded.
The newest is kept whatever its size."""

RETAINED_BYTES_MAX_OF_ALL = 64 * 1024 * 1024
"""The same for all books of the process together. At the limit a book discards its own oldest updates, and retains
nothing if that is not enough. Then the snapshot proves too old and is requested again, with a backoff."""

RECONNECT_S_LOST = 0.25
"""Seconds: the ceiling of the random wait after a working connection was lost, while connects are not scarce. Full
jitter spreads the groups of a process that lost theirs together."""

RECONNECT_S_FIRST = 2.0
"""Seconds: the ceiling of the random wait after a host has refused once. It doubles with each refusal in a row."""

RECONNECT_S_MAX = 60.0
"""Seconds: the highest ceiling of that wait. A host that refuses for 10 minutes sees about 25 connects of a slot."""

_DOUBLINGS_MAX = 40
"""Enough for every ceiling, and few enough for a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a manager's feeds wait for what, all in seconds. The defaults are right unless a test is in a hurry.

    Raises ``ValueError`` for a duration that is negative or no number.
    """

    # a connection

    connection_s_max: float = 23 * 3600.0
    """The age at which a connection is renewed: its successor is opened while it runs. The exchange cuts at 24 h."""

    renewal_spread_s: float = 1800.0
    """Renewals come earlier by a random part of this, so that connections opened together are not renewed together."""

    stable_s: float = 60.0
    """A connection that ended sooner is followed by one to the next of the URLs that serve the same, if there are any.
    After an announced end, another announcement within this time waits like a refusal."""

    reconnect_s_first: float = RECONNECT_S_FIRST
    """After a host has refused, the next connect waits 0 to this (full jitter). The ceiling doubles with each refusal.
    After a working connection was lost, the wait is shorter: see `ReconnectPolicy`."""

    reconnect_s_max: float = RECONNECT_S_MAX
    """The ceiling of the wait after refusals; doubling ends here."""

    pong_late_s: float = 1.5
    """A pong later than this is trouble, not death: a successor is opened while the link still works.
    Without effect where the user's ping timeout is shorter, for such a link is dead before."""

    trouble_pause_s: float = 300.0
    """A late pong renews a connection at most once in this time: renewing does not help a link that is always slow."""

    pong_s_min: float = 1.0
    """At most one pong is sent in this time, for the last ping (RFC 6455, 5.5.3). A flood of pings stops no request."""

    unread_s: float = 1.0
    """The deadline of a pong is extended by this when a turn left data unread, as after a standstill of the process."""

    slept_s_max: float = 5.0
    """If the machine slept longer than this, all connections are given up at once, and with them the books.
    What was sent meanwhile is lost, and a ping would show that only later."""

    close_s_max: float = 0.3
    """A closing handshake is waited for at most this long, whatever the user allows. Then the socket is closed."""

    # its subscriptions

    acknowledge_s: float = 5.0
    """A request without an answer is sent again after this, and after the third try the connection is given up."""

    refused_s_max: float = 600.0
    """A refused stream is requested again after `acknowledge_s`, then after twice that; doubling ends here."""

    # a handover

    handover_quiet_s: float = 5.0
    """A market of which the successor has brought nothing for this long is probed by REST."""

    handover_check_s: float = 1.0
    """The markets that have not moved are checked this often, once `handover_quiet_s` is over."""

    probe_again_s: float = 30.0
    """A probe of the handover that brought no answer is repeated after this. Probes have a small budget of their own:
    when hundreds of markets are quiet, an answer may take a minute."""

    handover_s_max: float = 600.0
    """The longest handover. Then the old connection is closed, unless it brings markets that its successor does not:
    then the successor is closed."""

    # silence

    quiet_s_first: float = 60.0
    """Probe by REST after this long without an update while pongs still arrive."""

    quiet_s_max: float = 900.0
    """The wait for the next probe doubles with each that finds nothing new, up to this: 96 probes a day."""

    moved_on_s: float = 2.0
    """An update may come this long after a probe that showed it. Then the subscription is dead and is made again."""

    silence_check_s: float = 2.0
    """Silent markets are searched this often, so a dead subscription is found up to this much later."""

    # requests

    request_check_s: float = 5.0
    """It is checked this often that the downloader holds what markets await. What it lacks twice is requested again."""

    # the threads

    fault_pause_s: float = 1.0
    """A feed's thread pauses this long after a fault of its own, so that a lasting fault fills neither log nor CPU."""

    stop_s_max: float = 0.9
    """`stop_manager` waits at most this long for its threads together. A thread that is late ends by itself."""

    def __post_init__(self) -> None:
        for field in fields(self):
            seconds = getattr(self, field.name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
                raise ValueError(f"{field.name} is a number of seconds, not {seconds!r}")


DEFAULT_TIMING = Timing()
"""The timing of a manager that is given no other."""


def checked_weight_share(weight_share: float) -> float:
    """Return the share; raise ``ValueError`` unless it is from WEIGHT_SHARE_MIN to 1."""
    if not WEIGHT_SHARE_MIN <= weight_share <= 1:
        raise ValueError(f"weight_share is a part of the limit, from {WEIGHT_SHARE_MIN} to 1, not {weight_share!r}")
    return weight_share


class WeightBudget:
    """The request weight of one IP address at one API family.

    Clients may have different shares of it: the share is an argument, the count is common. Not thread-safe.
    """

    __slots__ = (
        "_ban_ends_s",
        "_bans_in_a_row",
        "_in_flight",
        "_limit_ends_s",
        "_limits_in_a_row",
        "_paused_until_s",
        "_server_minute_ends_s",
        "_server_report",
        "_server_used",
        "_settled",
        "_settled_weight",
        "weight_per_minute",
    )

    def __init__(self, weight_per_minute: int) -> None:
        if weight_per_minute < 1:
            raise ValueError(f"a budget of {weight_per_minute} weight a minute allows nothing")
        self.weight_per_minute = weight_per_minute
        self._in_flight = 0  # weight sent and not yet answered
        self._settled: deque[tuple[float, int]] = deque()  # (counts until, weight), oldest first
        self._settled_weight = 0
        # Of the latest answer: the server's minute and its X-MBX-USED-WEIGHT-1M; None if the answer had no time.
        self._server_report: tuple[int, int] | None = None
        self._server_used = 0  # the reported weight, plus what the server may not have counted yet
        self._server_minute_ends_s = -math.inf
        self._paused_until_s = -math.inf
        self._bans_in_a_row = self._limits_in_a_row = 0
        self._ban_ends_s = self._limit_ends_s = -math.inf

    def allowed(self, share: float = 1.0) -> int:
        """Return a share of the limit as weight in a minute."""
        return int(self.weight_per_minute * share)

    def used(self, now: float) -> int:
        """Return the weight that counts as used now."""
        self._forget(now)
        own = self._in_flight + self._settled_weight
        return max(own, self._server_used)

    @property
    def paused_until_s(self) -> float:
        """When a pause ends; in the past if there is none."""
        return self._paused_until_s

    def earliest(self, weight: int, now: float, share: float = 1.0) -> float:
        """Return when `weight` may be sent without the minute's weight exceeding `share` of the limit.

        It is `now` if the weight may be sent at once. While requests are in flight it is a lower bound: call it again
        when one is answered. Raises ``ValueError`` for a weight that the share can never pay. O(weight) at worst.
        """
        room = self.allowed(share) - weight
        if room < 0 or weight < 1:
            raise ValueError(f"a weight of {weight} never fits into {share} of {self.weight_per_minute} a minute")
        self._forget(now)
        earliest_s = max(now, self._paused_until_s)
        if self._server_used > room:
            earliest_s = max(earliest_s, self._server_minute_ends_s)
        excess = self._in_flight + self._settled_weight - room
        for counts_until_s, settled_weight in self._settled:
            if excess <= 0:
                return earliest_s
            earliest_s = max(earliest_s, counts_until_s)
            excess -= settled_weight
        # Requests in flight count for a whole window more, even if they are answered now.
        return earliest_s if excess <= 0 else max(earliest_s, now + WEIGHT_WINDOW_S)

    def wait_s(self, weight: int, now: float, share: float = 1.0) -> float:
        """Return about how many seconds until that weight has been sent, in any number of requests. An estimate.

        Weight that does not fit into this minute waits until the oldest request of the minute expires. Then one
        minute's weight is sent in each minute.
        """
        allowed = max(1, self.allowed(share))
        excess = weight - max(0, allowed - self.used(now))  # excess use by others ends with their minute
        if excess <= 0:
            return max(0.0, self._paused_until_s - now)
        first_s = self._settled[0][0] - now if self._settled else WEIGHT_WINDOW_S
        return max(first_s, self._paused_until_s - now) + (math.ceil(excess / allowed) - 1) * WEIGHT_WINDOW_S

    def spend(self, weight: int, now: float) -> None:
        """Count a request that is sent now. Call `settle` when it was answered or given up."""
        if self.earliest(weight, now) > now:
            raise AssertionError(f"a weight of {weight} was sent although earliest() does not allow it yet")
        self._in_flight += weight
        self._server_used += weight  # the server has not reported it yet

    def settle(self, weight: int, now: float) -> None:
        """Count a request as answered or given up: the server cannot count it later than now."""
        assert 0 < weight <= self._in_flight, "only what was spent can be settled"
        self._in_flight -= weight
        self._settled.append((now + WEIGHT_WINDOW_S, weight))
        self._settled_weight += weight

    def observe(self, used_weight: int, now: float, server_time_s: float | None = None) -> None:
        """Apply the ``X-MBX-USED-WEIGHT-1M`` of an answer whose request was just settled.

        `server_time_s`: the server's clock in that answer (its ``Date``), in seconds since 1970, rounded down.
        Without it the server's minute is assumed to have just begun.
        """
        report = None if server_time_s is None else (int(server_time_s // WEIGHT_WINDOW_S), used_weight)
        if (
            report is not None
            and self._server_report is not None
            and report < self._server_report
            and now < self._server_minute_ends_s
        ):
            return  # Within a minute the count only grows: this is an older answer that came late.
        left_s = WEIGHT_WINDOW_S if server_time_s is None else WEIGHT_WINDOW_S - server_time_s % WEIGHT_WINDOW_S
        self._server_minute_ends_s = now + left_s
        self._server_report = report
        self._server_used = used_weight + self._in_flight

    def pause_until(self, time_s: float) -> None:
        """Allow nothing before that time. A pause is never shortened."""
        self._paused_until_s = max(self._paused_until_s, time_s)

    def pause_after(self, retry_after_s: float | None, default_s: float, now: float) -> float:
        """Pause after a refusal; return when the pause ends. `retry_after_s`: its Retry-After, None if it had none."""
        pause_s = default_s if retry_after_s is None else min(max(retry_after_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
        self.pause_until(now + pause_s)
        return self._paused_until_s

    def limit_exceeded(self, retry_after_s: float | None, now: float) -> float:
        """Pause after a 429, for exactly as long as its Retry-After says; return when the pause ends.

        The exchange bans clients that continue after a 429 (rest-api.md, "IP Limits"). Retry-After is its own answer to
        how long to wait "to prevent a ban", so nothing is added to it, in a row either. Without one the pause is
        LIMIT_PAUSE_S. What remains is the protection from a Retry-After below RETRY_AFTER_S_MIN, which names no time:
        the second such 429 in a row pauses for 2 s, the third for 4 s, up to a minute.
        """
        if now >= self._limit_ends_s:  # answers to requests that were in flight together count as one
            self._limits_in_a_row += 1
        if retry_after_s is not None and retry_after_s < RETRY_AFTER_S_MIN:
            doublings = min(self._limits_in_a_row - 1, _DOUBLINGS_MAX)
            retry_after_s = min(LIMIT_PAUSE_S, RETRY_AFTER_S_MIN * 2.0**doublings)
        self._limit_ends_s = self.pause_after(retry_after_s, LIMIT_PAUSE_S, now)
        return self._limit_ends_s

    def banned(self, retry_after_s: float | None, now: float) -> float:
        """Pause after a 418; return when the pause ends."""
        if now >= self._ban_ends_s:  # nothing is sent during a ban, so a 418 during it reports the same ban
            self._bans_in_a_row += 1
        doublings = min(max(0, self._bans_in_a_row - 1), _DOUBLINGS_MAX)
        default_s = min(BAN_PAUSE_S_MAX, BAN_PAUSE_S * 2.0**doublings)
        self._ban_ends_s = self.pause_after(retry_after_s, default_s, now)
        return self._ban_ends_s

    def served(self) -> None:
        """Count an answer that shows that requests are allowed: the next refusal is the first in a row."""
        self._bans_in_a_row = self._limits_in_a_row = 0

    def is_idle(self, now: float) -> bool:
        """True if the budget equals a new one: nothing is counted and nothing paused."""
        in_a_row = self._bans_in_a_row + self._limits_in_a_row
        return self.used(now) == 0 and self._paused_until_s <= now and in_a_row == 0

    def _forget(self, now: float) -> None:
        while self._settled and self._settled[0][0] <= now:
            self._settled_weight -= self._settled.popleft()[1]
        if now >= self._server_minute_ends_s:
            self._server_used = 0


class RollingLimit:
    """At most `limit` events in any window of `window_s` seconds. Not thread-safe."""

    __slots__ = ("_times_s", "limit", "window_s")

    def __init__(self, limit: int, window_s: float) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} allows nothing")
        self.limit = limit
        self.window_s = window_s
        self._times_s: deque[float] = deque(maxlen=limit)  # of the latest events; older ones do not matter

    def earliest(self, now: float) -> float:
        """Return when the next event is allowed: `now` if at once. O(1)."""
        if len(self._times_s) < self.limit:
            return now
        return max(now, self._times_s[0] + self.window_s)

    def spacing_s(self, now: float) -> float:
        """Return how far apart events should be now: 0 while more than half of the limit is left. O(limit).

        Below half it is the window divided by what is left. So whatever repeats events slows down as the limit is used
        up: one client that waits half of it on average leaves about a third of the limit for the others.
        """
        used = sum(time_s + self.window_s > now for time_s in self._times_s)
        left = self.limit - used
        return 0.0 if 2 * left > self.limit else self.window_s / max(1, left)

    def spend(self, now: float) -> None:
        """Count an event that happens now, even if the limit does not allow it; the next ones wait longer then."""
        self._times_s.append(now)


class ConnectBudget(RollingLimit):
    """New connections of one IP address to one venue: 300 in any 5 minutes, failed attempts included."""

    __slots__ = ()

    def __init__(self, limit: int = 300, window_s: float = CONNECT_WINDOW_S) -> None:
        super().__init__(limit, window_s)


class MessagePacer(RollingLimit):
    """Messages that we send on one connection: at most 3 in any second. The server counts pings and pongs, too."""

    __slots__ = ()

    def __init__(self, limit: int = 3, window_s: float = PACE_WINDOW_S) -> None:
        super().__init__(limit, window_s)


class Backoff:
    """The wait after a failure: full jitter below a ceiling that doubles from the second failure on.

    `random` returns a number in [0, 1), as ``random.random`` does. Not thread-safe.
    """

    __slots__ = ("_first_s", "_max_s", "_random", "failures")

    def __init__(
        self, random: Callable[[], float], *, first_s: float = RECONNECT_S_FIRST, max_s: float = RECONNECT_S_MAX
    ) -> None:
        if not 0 < first_s <= max_s:
            raise ValueError(f"the first ceiling is more than 0 s and at most the highest, not {first_s} of {max_s}")
        self._random = random
        self._first_s = first_s
        self._max_s = max_s
        self.failures = 0
        """Failures in a row."""

    def next_delay_s(self) -> float:
        """Count a failure; return the seconds to wait before the next try."""
        ceiling_s = min(self._max_s, self._first_s * 2.0 ** min(self.failures, _DOUBLINGS_MAX))
        self.failures += 1
        return self._random() * ceiling_s

    def reset(self) -> None:
        """Count a success: the next failure is the first in a row."""
        self.failures = 0


class ReconnectPolicy:
    """How long a slot waits before it connects again. Not thread-safe.

    Two cases differ. A host that *refuses* (no handshake, or no answer to the first request) is spared by an
    exponential backoff. A working connection that was *lost* leaves books unreadable, and the host most likely serves
    the next one: the wait is as short as the connect budget allows. No number of losses makes it longer.

    `random`, `first_s` and `max_s` are those of a `Backoff`.
    """

    __slots__ = ("_random", "_refusals")

    def __init__(
        self, random: Callable[[], float], *, first_s: float = RECONNECT_S_FIRST, max_s: float = RECONNECT_S_MAX
    ) -> None:
        self._random = random
        self._refusals = Backoff(random, first_s=first_s, max_s=max_s)

    def after_loss(self, spacing_s: float) -> float:
        """Count the loss of a working connection; return the seconds to wait: full jitter below the ceiling.

        `spacing_s`: `RollingLimit.spacing_s` of the connect budget.
        """
        self._refusals.reset()
        return self._random() * max(RECONNECT_S_LOST, spacing_s)

    def after_refusal(self) -> float:
        """Count a refusal, or a successor that failed while its predecessor works; return the seconds to wait."""
        return self._refusals.next_delay_s()

    def succeeded(self) -> None:
        """Count a successor that has taken over: the next refusal is the first in a row."""
        self._refusals.reset()
