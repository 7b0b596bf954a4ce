"""How often we may ask: request weight, connects, messages, and the waits after failures. Arithmetic, nothing else.

Rule 1: every method takes the time as an argument, in seconds of one monotonic clock. Nothing here looks at a clock,
    sleeps, locks or draws a random number; `Backoff` is handed its source.
Rule 2: asking changes nothing. ``earliest(...)`` says from when on something is allowed if nothing else happens until
    then; ``spend(...)`` says that it was done.
Rule 3: who comes first is the caller's business. These count, they do not queue.
Rule 4: none of them is safe to share between threads; their owner locks.
Rule 5: memory is bounded by the limit itself: what is remembered costs something, and the limit bounds the cost.

Theory of operation. Binance counts the weight of requests per IP address in fixed minutes of its own clock, and a
request is counted somewhere between our sending it and our reading the answer. We hold the promise in *every* window
of 60 s, wherever it begins, so that it holds in the server's minute wherever that begins: a request counts from the
moment it is sent until 60 s after it was answered. (Proof: of the requests that the server counted in some 60 s, take
the one sent last. Each of the others was answered less than 60 s before that, or not yet, and so was still counted.)

The second source is the ``X-MBX-USED-WEIGHT-1M`` of each answer: what the server has counted in its current minute,
other programs at the same address included. Until that minute is over, what it said, plus all that it may not have
counted yet, is the least that we take for used. The larger of the two decides.

Limits per second and per five minutes are windows as well, not buckets with a burst: a bucket of five that refills
five a second lets nine through in its first second, and that is a closed connection.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

__all__ = [
    "BAN_PAUSE_S",
    "BAN_PAUSE_S_MAX",
    "CONNECT_WINDOW_S",
    "DEFAULT_TIMING",
    "LIMIT_PAUSE_S",
    "RECONNECT_S_FIRST",
    "RECONNECT_S_MAX",
    "RETRY_AFTER_S_MAX",
    "RETRY_AFTER_S_MIN",
    "WEIGHT_SHARE_MIN",
    "WEIGHT_WINDOW_S",
    "Backoff",
    "ConnectBudget",
    "MessagePacer",
    "RollingLimit",
    "Timing",
    "WeightBudget",
    "checked_weight_share",
]

WEIGHT_WINDOW_S = 60.0
"""Request weight is limited per minute."""

CONNECT_WINDOW_S = 300.0
"""Connects are limited in five minutes."""

WEIGHT_SHARE_MIN = 0.1
"""Less of a venue's weight than this would not pay for its deepest snapshot; a smaller share is a ``ValueError``."""

LIMIT_PAUSE_S = 60.0
"""The pause after a 429 that says not how long: the server's minute is over by then."""

BAN_PAUSE_S = 120.0
"""The pause after a 418 that says not how long: Binance's shortest ban. It doubles with each ban that follows."""

BAN_PAUSE_S_MAX = 3 * 86_400.0
"""Binance's longest ban; the doubling ends there."""

RETRY_AFTER_S_MIN = 1.0
"""A Retry-After below this, such as 0, is taken for this: it is no leave to ask in a loop."""

RETRY_AFTER_S_MAX = BAN_PAUSE_S_MAX
"""A Retry-After above this is taken for this: no ban is longer, and a typing error shall not end a process's work."""

RECONNECT_S_FIRST = 2.0
"""The first wait after a failure is anything up to this, so that a crowd that fell together does not come back so."""

RECONNECT_S_MAX = 60.0
"""The longest wait between two tries."""

_DOUBLINGS_MAX = 40
"""Enough for every cap, few enough for a float."""


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
    """A connection that lasted this long ends a series of failures: the next failure is a first one for the backoff.
    After an announced end, another announcement within this time waits like a failure."""

    reconnect_s_first: float = RECONNECT_S_FIRST
    """The first reconnect waits 0 to this (full jitter). The ceiling doubles with each failure."""

    reconnect_s_max: float = RECONNECT_S_MAX
    """The ceiling of the wait before a reconnect; doubling ends here."""

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

    Everyone who draws on it may have another share of it: the share is an argument, the count is common.
    Not thread-safe.
    """

    __slots__ = (
        "_ban_ends_s",
        "_bans_in_a_row",
        "_in_flight",
        "_limit_ends_s",
        "_limits_in_a_row",
        "_paused_until_s",
        "_server_minute_ends_s",
        "_server_said",
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
        # Of the answer taken last: the server's minute, and the X-MBX-USED-WEIGHT-1M; None if it had no time.
        self._server_said: tuple[int, int] | None = None
        self._server_used = 0  # what it said, plus what it cannot have counted yet
        self._server_minute_ends_s = -math.inf
        self._paused_until_s = -math.inf
        self._bans_in_a_row = self._limits_in_a_row = 0
        self._ban_ends_s = self._limit_ends_s = -math.inf

    def allowed(self, share: float = 1.0) -> int:
        """Return the weight that a share of the limit is in a minute."""
        return int(self.weight_per_minute * share)

    def used(self, now: float) -> int:
        """Return the weight that must be taken for used at the moment."""
        self._forget(now)
        own = self._in_flight + self._settled_weight
        return max(own, self._server_used)

    @property
    def paused_until_s(self) -> float:
        """When a pause ends; in the past if there is none."""
        return self._paused_until_s

    def earliest(self, weight: int, now: float, share: float = 1.0) -> float:
        """Return when `weight` may be sent without the minute's weight exceeding `share` of the limit.

        It is `now` if it may be sent at once. While much is in flight it is a lower bound: ask again when something
        is answered. Raises ``ValueError`` for a weight that the share can never pay. O(weight) at worst.
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
        # What is in flight counts for a whole window yet, even if it is answered this moment.
        return earliest_s if excess <= 0 else max(earliest_s, now + WEIGHT_WINDOW_S)

    def wait_s(self, weight: int, now: float, share: float = 1.0) -> float:
        """Return about how long it takes until that much has been sent, in as many requests as you like. An estimate.

        What does not fit into this minute waits until the first of what was sent in it no longer counts, and then goes
        out a minute's worth a minute.
        """
        allowed = max(1, self.allowed(share))
        excess = weight - max(0, allowed - self.used(now))  # what others used past that is over with their minute
        if excess <= 0:
            return max(0.0, self._paused_until_s - now)
        first_s = self._settled[0][0] - now if self._settled else WEIGHT_WINDOW_S
        return max(first_s, self._paused_until_s - now) + (math.ceil(excess / allowed) - 1) * WEIGHT_WINDOW_S

    def spend(self, weight: int, now: float) -> None:
        """Count a request that is sent now. Call `settle` when it has been answered or given up."""
        if self.earliest(weight, now) > now:
            raise AssertionError(f"a weight of {weight} was sent although earliest() does not allow it yet")
        self._in_flight += weight
        self._server_used += weight  # the server has not spoken of it yet

    def settle(self, weight: int, now: float) -> None:
        """Count a request as answered, or as given up: the server cannot count it any later than now."""
        assert 0 < weight <= self._in_flight, "only what was spent can be settled"
        self._in_flight -= weight
        self._settled.append((now + WEIGHT_WINDOW_S, weight))
        self._settled_weight += weight

    def observe(self, used_weight: int, now: float, server_time_s: float | None = None) -> None:
        """Take the ``X-MBX-USED-WEIGHT-1M`` of an answer whose request has just been settled.

        `server_time_s`: the server's own clock in that answer, in seconds since 1970 (its ``Date``), rounded down.
        Without it the server's minute is taken to have just begun.
        """
        said = None if server_time_s is None else (int(server_time_s // WEIGHT_WINDOW_S), used_weight)
        if (
            said is not None
            and self._server_said is not None
            and said < self._server_said
            and now < self._server_minute_ends_s
        ):
            return  # Within a minute the count only grows: this is an older answer that came late.
        left_s = WEIGHT_WINDOW_S if server_time_s is None else WEIGHT_WINDOW_S - server_time_s % WEIGHT_WINDOW_S
        self._server_minute_ends_s = now + left_s
        self._server_said = said
        self._server_used = used_weight + self._in_flight

    def pause_until(self, time_s: float) -> None:
        """Allow nothing before that time. A pause is never shortened."""
        self._paused_until_s = max(self._paused_until_s, time_s)

    def pause_as_told(self, retry_after_s: float | None, otherwise_s: float, now: float) -> float:
        """Take a refusal and return when the pause ends. `retry_after_s`: what it said, None if it said nothing."""
        pause_s = (
            otherwise_s if retry_after_s is None else min(max(retry_after_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
        )
        self.pause_until(now + pause_s)
        return self._paused_until_s

    def limit_exceeded(self, retry_after_s: float | None, now: float) -> float:
        """Take a 429 and return when the pause ends.

        Who goes on asking after one is banned. So the second in a row pauses for 2 s, the third for 4, up to a minute,
        where the exchange says less.
        """
        if now >= self._limit_ends_s:  # of those that were under way together one counts
            self._limits_in_a_row += 1
        doublings = min(self._limits_in_a_row - 1, _DOUBLINGS_MAX)
        if doublings > 0:
            self.pause_until(now + min(LIMIT_PAUSE_S, RETRY_AFTER_S_MIN * 2.0**doublings))
        self._limit_ends_s = self.pause_as_told(retry_after_s, LIMIT_PAUSE_S, now)
        return self._limit_ends_s

    def banned(self, retry_after_s: float | None, now: float) -> float:
        """Take a 418 and return when the pause ends."""
        if now >= self._ban_ends_s:  # nothing is sent during a ban: who is told of one then is told of the same
            self._bans_in_a_row += 1
        doublings = min(max(0, self._bans_in_a_row - 1), _DOUBLINGS_MAX)
        guessed_s = min(BAN_PAUSE_S_MAX, BAN_PAUSE_S * 2.0**doublings)
        self._ban_ends_s = self.pause_as_told(retry_after_s, guessed_s, now)
        return self._ban_ends_s

    def served(self) -> None:
        """Take an answer that shows that we may ask: the next refusal is a first one again."""
        self._bans_in_a_row = self._limits_in_a_row = 0

    def is_idle(self, now: float) -> bool:
        """True if a new budget would say the same: nothing is counted and nothing paused."""
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
        self._times_s: deque[float] = deque(maxlen=limit)  # of the last events; older ones cannot matter

    def earliest(self, now: float) -> float:
        """Return when the next event is allowed: `now` if at once. O(1)."""
        if len(self._times_s) < self.limit:
            return now
        return max(now, self._times_s[0] + self.window_s)

    def spend(self, now: float) -> None:
        """Count an event that happens now. One that could not wait is counted too, and the next ones wait for it."""
        self._times_s.append(now)


class ConnectBudget(RollingLimit):
    """New connections of one IP address to one venue: 300 in any 5 minutes, attempts that fail included."""

    __slots__ = ()

    def __init__(self, limit: int = 300, window_s: float = CONNECT_WINDOW_S) -> None:
        super().__init__(limit, window_s)


class MessagePacer(RollingLimit):
    """What we send on one connection: at most 3 in any second. Pings and pongs count: the server counts them."""

    __slots__ = ()

    def __init__(self, limit: int = 3, window_s: float = 1.0) -> None:
        super().__init__(limit, window_s)


class Backoff:
    """How long to wait after a failure: full jitter below a ceiling that doubles from the second failure on.

    `random` returns a number from 0 up to but not including 1, as ``random.random`` does. Not thread-safe.
    """

    __slots__ = ("_first_s", "_max_s", "_random", "failures")

    def __init__(
        self, random: Callable[[], float], *, first_s: float = RECONNECT_S_FIRST, max_s: float = RECONNECT_S_MAX
    ) -> None:
        if not 0 < first_s <= max_s:
            raise ValueError(f"the first wait is more than 0 s and at most the longest, not {first_s} of {max_s}")
        self._random = random
        self._first_s = first_s
        self._max_s = max_s
        self.failures = 0
        """Failures in a row."""

    def next_delay_s(self) -> float:
        """Count a failure and return how long to wait before the next try."""
        ceiling_s = min(self._max_s, self._first_s * 2.0 ** min(self.failures, _DOUBLINGS_MAX))
        self.failures += 1
        return self._random() * ceiling_s

    def reset(self) -> None:
        """Count a success: the next failure is a first one."""
        self.failures = 0
