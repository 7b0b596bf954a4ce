"""Which snapshot is downloaded next, and when: the decisions of the downloader, without its threads.

Rule 1: pure. `now` is an argument (seconds of one monotonic clock), the random source was passed in, nothing is locked.
Rule 2: nothing is asked that a limit forbids. Rather late than banned.
Rule 3: a request that was put in is answered exactly once, unless it was cancelled or replaced by its own requester.
Rule 4: memory is bounded: of a market there wait at most one snapshot and one probe per requester.

Theory of operation. A *requester* is one manager with its settings. Requesters that draw on the same weight of the
same address share a *lane*: one budget, one order. In a lane the most urgent request goes first, and nothing overtakes
it while it waits for the budget; or a heavy request would starve behind light ones. (But a book that cannot be read, of
a requester with a larger share, does not wait for a smaller one to have room.) Requests that are not due, or whose
requester has to keep an interval, do not count yet. Urgent is, in this order:

    the purpose       the synchronizer's order: what cannot be read comes first, the periodic refresh last, then probes
    fewer levels      so that all markets get their first levels before one gets its deepest
    the greater need  as the requester measures it
    first come

What makes a book readable may use a requester's whole share of the budget. What keeps it readable leaves a tenth of it,
and everything else a quarter, so that a gap during a long deepening, or when all markets run out of their horizons at
once, is cured immediately and not a minute later. Probes get a tenth.

A lane is *paused* as a whole after 429, 418 and 403, and shortly when the host fails twice in a row, whoever asked:
two hundred markets that each try again politely are a storm. Failures of requests that were under way together count
as one. A Retry-After is obeyed to the second, whatever it came with. What concerns one request only (`UNKNOWN_MARKET`,
`REFUSED`) pauses nobody.

How to drive it: `take` whenever a download could begin; if it returns None, again at `next_time`, or after any other
call. `settle` each ticket once, whatever came of it.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from ldc.limits import checked_weight_share
from ldc.snapshots.reply import NO_HEADERS, FailureKind, ReplyHeaders, SnapshotBody, SnapshotFailure
from ldc.snapshots.weight import HOST_PAUSE_S_FIRST, HOST_PAUSE_S_MAX, Lane, Ledger, part_for
from ldc.sync.actions import Purpose
from ldc.venues import Venue

__all__ = [
    "FORBIDDEN_PAUSE_S",
    "HOST_PAUSE_S_FIRST",
    "HOST_PAUSE_S_MAX",
    "Requester",
    "SnapshotQueue",
    "SnapshotRequest",
    "Ticket",
]

FORBIDDEN_PAUSE_S = 60.0
"""The pause after a 403: the firewall that sends it counts requests too, and tells nobody how."""

_CONCERNS_ONE_REQUEST = frozenset({FailureKind.UNKNOWN_MARKET, FailureKind.REFUSED})


class SnapshotRequest(NamedTuple):
    """What somebody wants. Handed back with the answer."""

    market: str
    """As the venue spells it (`Venue.normalized_market`)."""
    epoch: int
    """The requester's number, by which it tells its requests apart."""
    purpose: Purpose | None
    """What for; None for a probe, which asks whether the ids have moved on and fills no book."""
    limit: int
    """Levels a side, one that the venue honours (`Venue.honoured_limit`)."""
    due: float = -math.inf
    """Not before this time."""
    need: float = 0.0
    """Among equals the greater goes first."""

    @property
    def key(self) -> tuple[str, bool]:
        """The market, and whether this is a probe: what one requester has waiting only once."""
        return self.market, self.purpose is None


class _Waiting(NamedTuple):
    """A request in a heap. The sequence number is unique, so that nothing after it is ever compared."""

    rank: tuple[int, int, float]
    sequence: int
    weight: int
    request: SnapshotRequest


class Requester:
    """One manager's settings, its waiting requests, and what became of them. Made by `SnapshotQueue.join`."""

    def __init__(
        self,
        venue: Venue,
        *,
        restful_base_uri: str | None,
        proxy: str | None,
        weight_share: float,
        init_interval_s: float | None,
        init_time_window_s: float | None,
    ) -> None:
        self.venue = venue
        self.url = venue.snapshot_url(restful_base_uri)
        self.proxy = proxy
        self.weight_share = checked_weight_share(weight_share)
        self.init_interval_s = _checked_interval("init_interval", init_interval_s)
        self.init_time_window_s = _checked_interval("init_time_window", init_time_window_s)
        self.lane_name = (proxy or "", venue.weight_budget_name(restful_base_uri))
        self.started = 0
        """Downloads begun."""
        self.bodies = 0
        """Downloads that brought a body."""
        self.failures: Counter[FailureKind] = Counter()
        """Downloads that did not, by kind."""
        self.download_s = 0.0
        """How long they all took together."""
        self.cancelled = 0
        """Requests that were cancelled, or replaced by a newer one of the same market."""
        self._ready: list[_Waiting] = []  # a heap: the most urgent first
        self._later: list[tuple[float, int, _Waiting]] = []  # a heap: the first due first
        self._keys: set[tuple[str, bool]] = set()  # of all that wait
        self._began_at: dict[str, float] = {}  # by market, while init_time_window may forbid another one
        self._not_before = -math.inf  # init_interval

    @property
    def waiting_count(self) -> int:
        """Requests that wait."""
        return len(self._ready) + len(self._later)

    def _weights_of(self, purpose: Purpose) -> list[int]:
        """Return the weights of what waits for that purpose."""
        waiting = (*self._ready, *(later[2] for later in self._later))
        return [each.weight for each in waiting if each.request.purpose is purpose]

    def _add(self, waiting: _Waiting) -> None:
        request = waiting.request
        due = request.due
        if self.init_time_window_s is not None and request.market in self._began_at:
            due = max(due, self._began_at[request.market] + self.init_time_window_s)
        heapq.heappush(self._later, (due, waiting.sequence, waiting))
        self._keys.add(request.key)

    def _remove(self, is_unwanted: Callable[[SnapshotRequest], bool]) -> None:
        before = self.waiting_count
        self._ready = [waiting for waiting in self._ready if not is_unwanted(waiting.request)]
        self._later = [later for later in self._later if not is_unwanted(later[2].request)]
        removed = before - self.waiting_count
        if removed:
            heapq.heapify(self._ready)
            heapq.heapify(self._later)
            self._keys = {waiting.request.key for waiting in (*self._ready, *(later[2] for later in self._later))}
            self.cancelled += removed

    def _head(self, now: float) -> _Waiting | None:
        """Return the request that may begin now as far as this requester is concerned."""
        while self._later and self._later[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._later)[2])
        return self._ready[0] if self._ready and self._not_before <= now else None

    def _next_time(self) -> float:
        """Return when `_head` may next have another answer, if nothing is added."""
        first_due = self._later[0][0] if self._later else math.inf
        return min(first_due, self._not_before if self._ready else math.inf)

    def _begin(self, now: float) -> None:
        """Take the head out and keep what the intervals need."""
        request = heapq.heappop(self._ready).request
        self._keys.remove(request.key)
        self.started += 1
        if self.init_interval_s is not None:
            self._not_before = now + self.init_interval_s
        if self.init_time_window_s is not None:
            window_began = now - self.init_time_window_s
            self._began_at = {market: began for market, began in self._began_at.items() if began > window_began}
            self._began_at[request.market] = now


class Ticket:
    """A download that has begun; or, if there is a `ledger`, that begins when this allows it."""

    def __init__(
        self, requester: Requester, request: SnapshotRequest, weight: int, began: float, lane: Lane, allowed: int
    ) -> None:
        self.requester = requester
        self.request = request
        self.weight = weight
        self.began = began
        self.lane = lane
        self.ledger = lane.ledger
        self.allowed = allowed
        """What may be spent in a minute, by all together, for this to be sent: what the ledger is asked with."""
        self.ledger_key = ""
        self.paused_until = -math.inf
        """How long its answer, and those before it, forbid more; for the ledger."""
        self.is_cancelled = False
        """The requester does not want the answer any more."""
        self.is_settled = False


class SnapshotQueue:
    """The waiting requests of all requesters of a process. Not thread-safe: the downloader locks."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._requesters: dict[Requester, Lane] = {}
        self._under_way: set[Ticket] = set()
        self._sequence = 0

    def join(
        self,
        venue: Venue,
        now: float,
        *,
        restful_base_uri: str | None = None,
        proxy: str | None = None,
        weight_share: float = 0.8,
        init_interval_s: float | None = None,
        init_time_window_s: float | None = None,
        make_ledger: Callable[[tuple[str, str], int], Ledger] | None = None,
    ) -> Requester:
        """Register a requester. Raises ``ValueError`` for settings that make no sense.

        `make_ledger`: makes the ledger of a budget of that name and limit, when other processes draw on it as well.
        From then on everybody here who draws on that budget goes by it.
        """
        requester = Requester(
            venue,
            restful_base_uri=restful_base_uri,
            proxy=proxy,
            weight_share=weight_share,
            init_interval_s=init_interval_s,
            init_time_window_s=init_time_window_s,
        )
        self._forget_idle_lanes(now)
        lane = self._lanes.get(requester.lane_name)
        if lane is None:
            lane = self._lanes[requester.lane_name] = Lane.of(venue.weight_per_minute, self._random)
        if make_ledger is not None:
            ledger = make_ledger(requester.lane_name, venue.weight_per_minute)
            if lane.ledger is not None and lane.ledger.folder != ledger.folder:
                raise ValueError(
                    f"the weight of {venue.exchange} is shared in {lane.ledger.folder} already; "
                    "one process cannot share it in two places"
                )
            lane.ledger = lane.ledger or ledger
        self._requesters[requester] = lane
        return requester

    def leave(self, requester: Requester) -> list[Ticket]:
        """Remove a requester with all its requests; return its downloads under way, which are cancelled."""
        under_way = self.cancel(requester)
        self._requesters.pop(requester, None)
        return under_way

    def put(self, requester: Requester, request: SnapshotRequest) -> None:
        """Let a request wait. One that waits for the same market (snapshot or probe) is replaced: nobody reads it.

        Raises ``ValueError`` for what is never served: a limit that the venue has not, a weight that the share has not.
        """
        venue = requester.venue
        lane = self._requesters.get(requester)
        if lane is None:
            raise ValueError(f"the snapshot of {request.market} was asked for by a requester that has left")
        if venue.honoured_limit(request.limit) != request.limit:
            raise ValueError(f"{venue.exchange} serves no snapshot of {request.limit} levels of {request.market}")
        weight = venue.snapshot_weight(request.limit)
        if not lane.can_pay(weight, request.purpose, requester.weight_share):
            raise ValueError(
                f"a snapshot of {request.limit} levels of {request.market} costs {weight}, more than there ever is for "
                f"it with a weight_share of {requester.weight_share}; ask for fewer levels"
            )
        if request.key in requester._keys:
            requester._remove(lambda other: other.key == request.key)
        self._sequence += 1
        purpose = len(Purpose) if request.purpose is None else request.purpose
        rank = (int(purpose), request.limit, -request.need)
        requester._add(_Waiting(rank, self._sequence, weight, request))

    def cancel(self, requester: Requester, market: str | None = None, epoch: int | None = None) -> list[Ticket]:
        """Forget requests: all, those of a market, or that of an epoch of a market.

        Those that wait are gone. Downloads under way are returned: their answers will not be handed out.
        """

        def is_unwanted(request: SnapshotRequest) -> bool:
            return (market is None or request.market == market) and (epoch is None or request.epoch == epoch)

        requester._remove(is_unwanted)
        found = [
            ticket
            for ticket in self._under_way
            if ticket.requester is requester and not ticket.is_cancelled and is_unwanted(ticket.request)
        ]
        for ticket in found:
            ticket.is_cancelled = True
            requester.cancelled += 1
        return found

    def take(self, now: float) -> Ticket | None:
        """Return the download to begin now, or None. Its weight is spent: `settle` it in the end.

        If it has a `ledger` it has not begun: ask that what it says, without any lock, because it takes a while, and
        hand the answer to `confirm`, whatever it is. Meanwhile nothing else begins in its lane.
        """
        found: tuple[_Waiting, Requester, Lane] | None = None
        for lane, head, requester in self._heads(now):
            is_first = found is None or head < found[0]
            if is_first and _earliest(lane, head, requester, now) <= now:
                found = head, requester, lane
        if found is None:
            return None
        head, requester, lane = found
        allowed = lane.budget.allowed(requester.weight_share * part_for(head.request.purpose))
        ticket = Ticket(requester, head.request, head.weight, now, lane, allowed)
        if lane.ledger is None:
            self._begin(ticket)
        else:
            lane.is_asking_ledger = True
        return ticket

    def confirm(self, ticket: Ticket, not_before: float, key: str, now: float) -> bool:
        """Take what the ledger said of a ticket; return whether its download begins now.

        If not although there is a key, it is not wanted any more: give the key back to the ledger.
        """
        lane, requester = ticket.lane, ticket.requester
        lane.is_asking_ledger = False
        if not key:
            lane.ledger_not_before, lane.ledger_allowed = not_before, ticket.allowed
        head = requester._head(now) if key and requester in self._requesters else None
        if head is None or head.request is not ticket.request or _earliest(lane, head, requester, now) > now:
            return False
        ticket.ledger_key, ticket.began = key, now
        self._begin(ticket)
        return True

    def _begin(self, ticket: Ticket) -> None:
        ticket.requester._begin(ticket.began)
        ticket.lane.spend(ticket.weight, ticket.request.purpose, ticket.began)
        self._under_way.add(ticket)

    def next_time(self, now: float) -> float:
        """Return when `take` may next have something, if nothing else happens; infinity if nothing waits.

        It may be too early: then `take` returns None, and this says a later time. It is never too late.
        """
        times = [_earliest(lane, head, requester, now) for lane, head, requester in self._heads(now)]
        times += [time for requester in self._requesters if (time := requester._next_time()) > now]
        return min(times, default=math.inf)

    def estimated_s(self, requester: Requester, count: int, limit: int, workers: int, now: float) -> float | None:
        """Return about how long it takes until `count` books can be read, or None: nothing has been downloaded yet.

        What waits for that is counted with its weights, that of all who draw on the same budget. Of books that have
        asked for nothing yet, each will ask for `limit` levels. O(what waits).
        """
        done = requester.bodies + sum(requester.failures.values())
        if count == 0 or not done:
            return 0.0 if count == 0 else None
        lane = self._requesters[requester]
        sharing = [each for each, other_lane in self._requesters.items() if other_lane is lane]
        waiting = {each: each._weights_of(Purpose.SYNCHRONIZE) for each in sharing}
        under_way = sum(
            ticket.requester is requester and ticket.request.purpose is Purpose.SYNCHRONIZE
            for ticket in self._under_way
        )
        unasked = max(0, count - len(waiting[requester]) - under_way)
        weight = sum(map(sum, waiting.values())) + unasked * requester.venue.snapshot_weight(limit)
        refused_until = lane.refused_until(Purpose.SYNCHRONIZE, requester.weight_share)
        wait_s = max(lane.budget.wait_s(weight, now, requester.weight_share), refused_until - now)
        downloads = sum(map(len, waiting.values())) + unasked + under_way
        spent_s = downloads * requester.download_s / done / workers
        return max(wait_s + spent_s, (requester.init_interval_s or 0.0) * (count - under_way))

    def settle(
        self, ticket: Ticket, result: SnapshotBody | SnapshotFailure, headers: ReplyHeaders, now: float
    ) -> SnapshotBody | SnapshotFailure | None:
        """Count what came of a download; return what the requester is to be told, None for nothing.

        Only the first result of a ticket counts. `headers`: of the answer, NO_HEADERS if there was none. The ledger is
        to be told `ticket.paused_until`, without any lock.
        """
        if ticket.is_settled:
            return None
        ticket.is_settled = True
        ticket.requester.download_s += now - ticket.began
        self._under_way.discard(ticket)
        lane = ticket.lane
        lane.settle(ticket.weight, ticket.request.purpose, now)
        if headers.used_weight is not None:
            lane.budget.observe(headers.used_weight, now, headers.server_time_s)
        # A download that was cut off on purpose says nothing of the host; but an answer that had come still does.
        if not ticket.is_cancelled or headers is not NO_HEADERS:
            _learn(lane, ticket, result, headers, now)
        ticket.paused_until = lane.budget.paused_until_s
        if ticket.is_cancelled:
            return None
        if isinstance(result, SnapshotBody):
            ticket.requester.bodies += 1
            return result
        ticket.requester.failures[result.kind] += 1
        paused_until = lane.budget.paused_until_s
        return result._replace(retry_at=paused_until) if paused_until > now else result

    def _heads(self, now: float) -> list[tuple[Lane, _Waiting, Requester]]:
        """Return the first request of each lane that has one, and those that may overtake it.

        Who waits for a small share to have room shall not hold up a book that cannot be read, of a larger share.
        """
        found: list[tuple[Lane, _Waiting, Requester]] = []
        for requester, lane in self._requesters.items():
            head = None if lane.is_asking_ledger else requester._head(now)
            if head is not None:
                found.append((lane, head, requester))
        found.sort(key=lambda each: each[1])
        heads = []
        shares: dict[int, float] = {}  # of each lane, the largest so far
        for lane, head, requester in found:
            may_overtake = head.request.purpose is Purpose.SYNCHRONIZE and requester.weight_share > shares.get(
                id(lane), 0.0
            )
            if may_overtake or id(lane) not in shares:
                shares[id(lane)] = requester.weight_share
                heads.append((lane, head, requester))
        return heads

    def _forget_idle_lanes(self, now: float) -> None:
        """Keep what a stopped manager has spent, and a ban, as long as they matter; and no longer."""
        used = {id(lane) for lane in self._requesters.values()}
        for name, lane in list(self._lanes.items()):
            if id(lane) not in used and lane.budget.is_idle(now) and lane.probe_budget.is_idle(now):
                del self._lanes[name]


def _earliest(lane: Lane, head: _Waiting, requester: Requester, now: float) -> float:
    return lane.earliest(head.weight, head.request.purpose, requester.weight_share, now)


def _learn(
    lane: Lane, ticket: Ticket, result: SnapshotBody | SnapshotFailure, headers: ReplyHeaders, now: float
) -> None:
    """Take from a result what it says about everybody's requests."""
    kind = None if isinstance(result, SnapshotBody) else result.kind
    if kind is None or kind in _CONCERNS_ONE_REQUEST:
        lane.count_answer()
    elif kind is FailureKind.RATE_LIMITED:
        lane.budget.limit_exceeded(headers.retry_after_s, now)
    elif kind is FailureKind.BANNED:
        lane.budget.banned(headers.retry_after_s, now)
    elif kind is FailureKind.FORBIDDEN:
        lane.budget.pause_as_told(headers.retry_after_s, FORBIDDEN_PAUSE_S, now)
    else:
        lane.count_host_failure(ticket.began, now)
        lane.budget.pause_as_told(headers.retry_after_s, 0.0, now)


def _checked_interval(name: str, interval_s: float | None) -> float | None:
    if interval_s is not None and not 0 <= interval_s < math.inf:
        raise ValueError(f"{name} is a number of seconds, or None for no limit, not {interval_s!r}")
    return interval_s
