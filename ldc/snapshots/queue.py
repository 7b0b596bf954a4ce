"""Which snapshot is downloaded next, and when: the decisions of the downloader, without its threads.

Rule 1: pure. `now` is an argument (seconds of one monotonic clock), randomness comes from `random`, nothing is locked.
Rule 2: no request is sent that a limit forbids. Rather late than banned.
Rule 3: each request is answered exactly once, unless its client cancels or replaces it.
Rule 4: memory is bounded: each owner has at most one snapshot and one probe waiting. A cancelled request may keep its
    place in a heap for a while (`DEAD_MAX`).

Theory of operation. A *client* is one manager with its settings. Clients that draw on the same weight of the same
address share a *weight pool*: one budget, one order. The most urgent request of a pool goes first. No other request
overtakes it while it waits for the budget, or light requests would starve a heavy one. One exception: an unreadable
book of a larger share does not wait until a smaller share has room. Requests that are not due, or whose client must
keep an interval, do not count yet. The order of urgency:

    1. the purpose       the synchronizer's order: unreadable books first, the periodic refresh last, then probes
    2. fewer levels      all markets get their first levels before one gets its deepest
    3. the greater need  as the client measures it
    4. first come

Requests that make a book readable may use a client's whole share of the budget. Those that keep it readable leave a
tenth of it, all others a quarter. So a gap is cured at once and not a minute later: during a long deepening, and when
all markets leave their horizons together. Probes get a tenth.

A pool is *paused* as a whole after 429, 418 and 403, and for a short time after two failures of the host in a row. The
failures of all clients count: two hundred markets that each retry politely are a storm. Failures of requests that were
in flight together count as one. A Retry-After is obeyed to the second, with any status. Failures that concern one
request only (`UNKNOWN_MARKET`, `REFUSED`) pause nothing. After a pause the most urgent request goes first.

A market that is synchronized again and again slows down once less than half of the share is left
(`WeightPool.repeat_earliest`), so that one whose updates never fit does not use up the weight of all.

How to drive it: call `take` when a download could begin. If it returns None, call it again at `next_time`, or after any
other call. `settle` each ticket once, whatever its result.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ldc.errors import DepthCacheError
from ldc.limits import WEIGHT_WINDOW_S, checked_weight_share
from ldc.snapshots.reply import NO_HEADERS, FailureKind, ReplyHeaders, SnapshotBody, SnapshotFailure
from ldc.snapshots.weight import REPEATS_FREE, WeightPool, part_for
from ldc.sync.actions import Purpose
from ldc.venues import Venue

if TYPE_CHECKING:
    from ldc.book import OrderBook
    from ldc.snapshots.shared_budget import SharedBudget

FORBIDDEN_PAUSE_S = 60.0
"""Seconds of pause after a 403: the firewall that sends it counts requests too, and does not say how."""

_CONCERNS_ONE_REQUEST = frozenset({FailureKind.UNKNOWN_MARKET, FailureKind.REFUSED})
_FORBIDS_REQUESTS = frozenset({FailureKind.RATE_LIMITED, FailureKind.BANNED, FailureKind.FORBIDDEN})

DEAD_MAX = 64
"""Cancelled requests that may stay in a heap, besides as many as there are live ones. One more, and the heap is rebuilt
without them. So cancelling n requests costs O(n log n) in all, and memory stays bounded."""

_DISTANCE_MIN = 1e-9  # relative; a horizon at the best price itself


class SnapshotRequest(NamedTuple):
    """A request for a snapshot or a probe. It is returned with the answer."""

    market: str
    """As the venue spells it (`Venue.normalized_market`)."""
    epoch: int
    """The client's number for the request."""
    purpose: Purpose | None
    """None for a probe, which checks whether the update ids have moved on and fills no book."""
    limit: int
    """Levels a side, one that the venue honours (`Venue.honoured_limit`)."""
    due: float = -math.inf
    """Not to be sent before this time."""
    need: float = 0.0
    """Among equals the greater goes first; see `need_of`."""
    owner: int = 0
    """Who awaits the answer: a number that the client gives to each depth cache, also to a later one of this market."""

    @property
    def key(self) -> "RequestKey":
        """A client has at most one request of a key waiting. One owner's request never replaces another's."""
        return self.market, self.owner, self.purpose is None


RequestKey = tuple[str, int, bool]
"""The market, its owner, and whether it is a probe."""


class _Waiting(NamedTuple):
    """A request in a heap. The sequence number is unique, so the fields after it are never compared."""

    rank: tuple[int, int, float]
    sequence: int
    weight: int
    request: SnapshotRequest


class QueueClient:
    """One client's settings, waiting requests and counters. Made by `SnapshotQueue.join`."""

    def __init__(
        self,
        venue: Venue,
        *,
        restful_base_uri: str | None,
        address: str,
        weight_share: float,
        init_interval_s: float | None,
        init_time_window_s: float | None,
    ) -> None:
        self.venue = venue
        self._urls = venue.snapshot_urls(restful_base_uri)
        self.weight_share = checked_weight_share(weight_share)
        self.init_interval_s = _checked_interval("init_interval", init_interval_s)
        self.init_time_window_s = _checked_interval("init_time_window", init_time_window_s)
        self.pool_name = (address, venue.weight_budget_name(restful_base_uri))
        self.started = 0
        """Downloads begun."""
        self.bodies = 0
        """Downloads that returned a body."""
        self.failures: Counter[FailureKind] = Counter()
        """Downloads that did not, by kind."""
        self.download_s = 0.0
        """Seconds that all downloads took together."""
        self.cancelled = 0
        """Requests that were cancelled, or replaced by a newer one of the same owner."""
        self._waiting: dict[RequestKey, _Waiting] = {}  # what waits; whatever else is in a heap is dead
        self._ready: list[_Waiting] = []  # a heap: the most urgent first
        self._later: list[tuple[float, int, _Waiting]] = []  # a heap: the first due first
        self._began_at: dict[str, float] = {}  # by market, while init_time_window may forbid another one
        self._not_before = -math.inf  # init_interval
        self._synchronizing: dict[str, deque[float]] = {}  # by market, when such downloads began; the latest is last

    @property
    def url(self) -> str:
        """The URL of the next download."""
        return self._urls[0]

    def url_failed(self, url: str) -> None:
        """A download from that URL failed: the next one is from another host of the venue, if it documents several."""
        if url == self.url:  # of downloads that were in flight together one counts
            self._urls = (*self._urls[1:], url)

    @property
    def waiting_count(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def _weights_of(self, purpose: Purpose) -> list[int]:
        """Return the weights of the waiting requests with that purpose."""
        return [each.weight for each in self._waiting.values() if each.request.purpose is purpose]

    def _add(self, waiting: _Waiting) -> None:
        request = waiting.request
        due = request.due
        if self.init_time_window_s is not None and request.market in self._began_at:
            due = max(due, self._began_at[request.market] + self.init_time_window_s)
        self._cancel(request.key)  # an earlier one of the same owner
        heapq.heappush(self._later, (due, waiting.sequence, waiting))
        self._waiting[request.key] = waiting

    def _cancel(self, key: RequestKey, epoch: int | None = None) -> None:
        """Cancel the request of a key, if it waits and has that epoch. O(log n) on average: see `DEAD_MAX`."""
        waiting = self._waiting.get(key)
        if waiting is None or (epoch is not None and waiting.request.epoch != epoch):
            return
        del self._waiting[key]
        self.cancelled += 1
        self._forget_dead()

    def _cancel_all(self) -> None:
        self.cancelled += len(self._waiting)
        self._waiting.clear()
        self._ready.clear()
        self._later.clear()

    def _is_dead(self, waiting: _Waiting) -> bool:
        """Whether a request in a heap was cancelled or replaced."""
        return self._waiting.get(waiting.request.key) is not waiting

    def _forget_dead(self) -> None:
        """Remove the dead at the heads of the heaps. If there are too many of them behind the heads, rebuild."""
        if len(self._ready) + len(self._later) > 2 * len(self._waiting) + DEAD_MAX:
            self._ready = [waiting for waiting in self._ready if not self._is_dead(waiting)]
            self._later = [later for later in self._later if not self._is_dead(later[2])]
            heapq.heapify(self._ready)
            heapq.heapify(self._later)
        while self._ready and self._is_dead(self._ready[0]):
            heapq.heappop(self._ready)
        while self._later and self._is_dead(self._later[0][2]):
            heapq.heappop(self._later)

    def _head(self, pool: WeightPool, now: float) -> _Waiting | None:
        """Return the request that this client's own settings allow to begin now."""
        while self._later and self._later[0][0] <= now:
            waiting = heapq.heappop(self._later)[2]
            if self._is_dead(waiting):
                continue
            request, earliest = waiting.request, now
            if request.purpose is Purpose.SYNCHRONIZE and (began_at := self._synchronizing.get(request.market)):
                earliest = pool.repeat_earliest(waiting.weight, self.weight_share, began_at, now)
            if earliest > now:
                heapq.heappush(self._later, (earliest, waiting.sequence, waiting))
            else:
                heapq.heappush(self._ready, waiting)
        self._forget_dead()
        return self._ready[0] if self._ready and self._not_before <= now else None

    def _next_time(self) -> float:
        """Return when the result of `_head` may next change, if nothing is added."""
        first_due = self._later[0][0] if self._later else math.inf
        return min(first_due, self._not_before if self._ready else math.inf)

    def _begin(self, now: float) -> None:
        """Remove the head, and note its time for the intervals."""
        request = heapq.heappop(self._ready).request
        del self._waiting[request.key]
        self._forget_dead()
        self.started += 1
        if request.purpose is Purpose.SYNCHRONIZE:
            self._note_synchronizing(request.market, now)
        if self.init_interval_s is not None:
            self._not_before = now + self.init_interval_s
        if self.init_time_window_s is not None:
            window_began = now - self.init_time_window_s
            self._began_at = {market: began for market, began in self._began_at.items() if began > window_began}
            self._began_at[request.market] = now

    def _note_synchronizing(self, market: str, now: float) -> None:
        began_at = self._synchronizing.pop(market, None) or deque(maxlen=REPEATS_FREE)
        began_at.append(now)
        self._synchronizing[market] = began_at
        while next(iter(self._synchronizing.values()))[-1] <= now - WEIGHT_WINDOW_S:
            del self._synchronizing[next(iter(self._synchronizing))]


class Ticket:
    """Permission for one download. With a `shared_budget`, the download begins only after that allows it as well."""

    def __init__(
        self,
        client: QueueClient,
        request: SnapshotRequest,
        weight: int,
        began: float,
        weight_pool: WeightPool,
        allowed: int,
    ) -> None:
        self.client = client
        self.request = request
        self.weight = weight
        self.began = began
        self.weight_pool = weight_pool
        self.shared_budget = weight_pool.shared_budget
        self.allowed = allowed
        """The weight that all processes together may have spent in a minute with this one: for the shared budget."""
        self.shared_key = ""
        """The key of this download in the shared budget."""
        self.paused_until = -math.inf
        """Until when this answer and earlier ones forbid more: for the shared budget."""
        self.url = client.url
        self.times_sent = 1
        """2: the request was repeated on another connection (`SnapshotQueue.may_repeat`)."""
        self.repeat_key = ""
        """The key of the repeated request in the shared budget."""
        self.is_cancelled = False
        """The client does not want the answer any more."""
        self.is_settled = False


class SnapshotQueue:
    """The waiting requests of all clients of a process. Not thread-safe: the downloader locks."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._weight_pools: dict[tuple[str, str], WeightPool] = {}
        self._clients: dict[QueueClient, WeightPool] = {}
        self._in_flight: set[Ticket] = set()
        self._sequence = 0

    def join(
        self,
        venue: Venue,
        now: float,
        *,
        restful_base_uri: str | None = None,
        address: str = "",
        weight_share: float = 0.8,
        init_interval_s: float | None = None,
        init_time_window_s: float | None = None,
        make_shared_budget: "Callable[[tuple[str, str], int], SharedBudget] | None" = None,
    ) -> QueueClient:
        """Register a client. Raises ``ValueError`` for settings that make no sense.

        `address`: the key of the IP address that the exchange sees (`ldc.network.proxy.address_key`).
        `make_shared_budget`: returns the shared budget of that name and limit, if other processes draw on it as well.
        From then on it applies to all clients of the pool.
        """
        client = QueueClient(
            venue,
            restful_base_uri=restful_base_uri,
            address=address,
            weight_share=weight_share,
            init_interval_s=init_interval_s,
            init_time_window_s=init_time_window_s,
        )
        self._forget_idle_pools(now)
        pool = self._weight_pools.get(client.pool_name)
        if pool is None:
            pool = self._weight_pools[client.pool_name] = WeightPool.of(venue.weight_per_minute, self._random)
        if make_shared_budget is not None:
            shared_budget = make_shared_budget(client.pool_name, venue.weight_per_minute)
            if pool.shared_budget is not None and pool.shared_budget.folder != shared_budget.folder:
                raise ValueError(
                    f"the weight of {venue.exchange} is shared in {pool.shared_budget.folder} already; "
                    "one process cannot share it in two places"
                )
            pool.shared_budget = pool.shared_budget or shared_budget
        self._clients[client] = pool
        return client

    def leave(self, client: QueueClient) -> list[Ticket]:
        """Remove a client with all its requests; return its downloads in flight, which are cancelled."""
        in_flight = self.cancel(client)
        self._clients.pop(client, None)
        return in_flight

    def put(self, client: QueueClient, request: SnapshotRequest) -> None:
        """Queue a request. Replaces a waiting request of this client with the same key (market, owner, kind).

        Raises ``ValueError`` for a request that can never be served: the venue does not honour its limit, its weight
        exceeds the share, or its client has left.
        """
        venue = client.venue
        pool = self._clients.get(client)
        if pool is None:
            raise ValueError(f"the snapshot of {request.market} was requested by a client that is closed")
        if venue.honoured_limit(request.limit) != request.limit:
            raise ValueError(f"{venue.exchange} serves no snapshot of {request.limit} levels of {request.market}")
        weight = venue.snapshot_weight(request.limit)
        if not pool.can_pay(weight, request.purpose, client.weight_share):
            raise ValueError(
                f"a snapshot of {request.limit} levels of {request.market} costs {weight}, more than its part of a "
                f"weight_share of {client.weight_share} ever has; request fewer levels"
            )
        self._sequence += 1
        purpose = len(Purpose) if request.purpose is None else request.purpose
        rank = (int(purpose), request.limit, -request.need)
        client._add(_Waiting(rank, self._sequence, weight, request))

    def cancel(
        self, client: QueueClient, market: str | None = None, epoch: int | None = None, owner: int = 0
    ) -> list[Ticket]:
        """Cancel requests of a client: all, the snapshot and the probe of an owner, or those of them with that epoch.

        What waits is removed. Downloads in flight are returned; their answers will not be delivered.
        """
        if market is None:
            client._cancel_all()
            return self._cancel_in_flight(client, lambda _request: True)
        keys: list[RequestKey] = [(market, owner, False), (market, owner, True)]
        for key in keys:
            client._cancel(key, epoch)
        return self._cancel_in_flight(client, lambda request: request.key in keys and epoch in (None, request.epoch))

    def holds(self, client: QueueClient, key: RequestKey, epoch: int) -> bool:
        """Return whether that request waits or is in flight, so that an answer will come."""
        waiting = client._waiting.get(key)
        return (waiting is not None and waiting.request.epoch == epoch) or any(
            ticket.client is client
            and not ticket.is_cancelled
            and ticket.request.key == key
            and ticket.request.epoch == epoch
            for ticket in self._in_flight
        )

    def _cancel_in_flight(self, client: QueueClient, is_unwanted: Callable[[SnapshotRequest], bool]) -> list[Ticket]:
        found = [
            ticket
            for ticket in self._in_flight
            if ticket.client is client and not ticket.is_cancelled and is_unwanted(ticket.request)
        ]
        for ticket in found:
            ticket.is_cancelled = True
            client.cancelled += 1
        return found

    def take(self, now: float) -> Ticket | None:
        """Return the download that may begin now, or None. Its weight is spent: `settle` it in the end.

        With a `shared_budget` it has not begun yet. Take from that without any lock, because it is a file, and pass any
        result to `confirm`. Meanwhile nothing else begins in its pool.
        """
        found: tuple[_Waiting, QueueClient, WeightPool] | None = None
        for pool, head, client in self._heads(now):
            is_first = found is None or head < found[0]
            if is_first and _earliest(pool, head, client, now) <= now:
                found = head, client, pool
        if found is None:
            return None
        head, client, pool = found
        allowed = pool.budget.allowed(client.weight_share * part_for(head.request.purpose))
        ticket = Ticket(client, head.request, head.weight, now, pool, allowed)
        if pool.shared_budget is None:
            self._begin(ticket)
        else:
            pool.is_taking_shared = True
        return ticket

    def confirm(self, ticket: Ticket, not_before: float, key: str, now: float) -> bool:
        """Accept the shared budget's answer for a ticket; return whether its download begins now.

        If it does not begin although there is a key, give the key back to the shared budget.
        """
        pool, client = ticket.weight_pool, ticket.client
        pool.is_taking_shared = False
        if not key:
            pool.shared_not_before, pool.shared_allowed = not_before, ticket.allowed
        head = client._head(pool, now) if key and client in self._clients else None
        if head is None or head.request is not ticket.request or _earliest(pool, head, client, now) > now:
            return False
        ticket.shared_key, ticket.began = key, now
        self._begin(ticket)
        return True

    def _begin(self, ticket: Ticket) -> None:
        ticket.client._begin(ticket.began)
        ticket.weight_pool.spend(ticket.weight, ticket.request.purpose, ticket.began)
        self._in_flight.add(ticket)

    def may_repeat(self, ticket: Ticket, now: float) -> bool:
        """Return whether the request of a download may be sent once more now. If so, its weight is spent again.

        For a request that was sent on a connection that turned out to be dead. It may have arrived, so it counts.
        """
        client, pool, purpose = ticket.client, ticket.weight_pool, ticket.request.purpose
        if ticket.is_settled or ticket.is_cancelled or ticket.times_sent > 1 or client.init_interval_s is not None:
            return False
        if pool.earliest(ticket.weight, purpose, client.weight_share, now) > now:
            return False
        pool.spend(ticket.weight, purpose, now)
        ticket.times_sent += 1
        return True

    def next_time(self, now: float) -> float:
        """Return when `take` may next return a ticket, if nothing else happens; infinity if nothing waits.

        The time may be too early: then `take` returns None, and this returns a later one. It is never too late.
        """
        times = [_earliest(pool, head, client, now) for pool, head, client in self._heads(now)]
        times += [time for client in self._clients if (time := client._next_time()) > now]
        return min(times, default=math.inf)

    def estimated_s(self, client: QueueClient, count: int, limit: int, workers: int, now: float) -> float | None:
        """Return about how many seconds until `count` books can be read, or None before the first download has ended.

        Requests that wait for that count with their weights, those of all clients of the pool. Each of the books
        without a request yet will request `limit` levels. O(waiting requests).
        """
        done = client.bodies + sum(client.failures.values())
        if count == 0 or not done:
            return 0.0 if count == 0 else None
        pool = self._clients[client]
        sharing = [each for each, other_pool in self._clients.items() if other_pool is pool]
        waiting = {each: each._weights_of(Purpose.SYNCHRONIZE) for each in sharing}
        in_flight = sum(
            ticket.client is client and ticket.request.purpose is Purpose.SYNCHRONIZE for ticket in self._in_flight
        )
        unrequested = max(0, count - len(waiting[client]) - in_flight)
        weight = sum(map(sum, waiting.values())) + unrequested * client.venue.snapshot_weight(limit)
        refused_until = pool.refused_until(Purpose.SYNCHRONIZE, client.weight_share)
        wait_s = max(pool.budget.wait_s(weight, now, client.weight_share), refused_until - now)
        downloads = sum(map(len, waiting.values())) + unrequested + in_flight
        spent_s = downloads * client.download_s / done / workers
        return max(wait_s + spent_s, (client.init_interval_s or 0.0) * (count - in_flight))

    def settle(
        self, ticket: Ticket, result: SnapshotBody | SnapshotFailure, headers: ReplyHeaders, now: float
    ) -> SnapshotBody | SnapshotFailure | None:
        """Count the result of a download; return what to report to the client, or None for nothing.

        Only the first result of a ticket counts. `headers`: of the answer, NO_HEADERS if there was none. Afterwards
        settle the ticket's key in the shared budget with `ticket.paused_until`, without any lock.
        """
        if ticket.is_settled:
            return None
        ticket.is_settled = True
        ticket.client.download_s += now - ticket.began
        self._in_flight.discard(ticket)
        pool = ticket.weight_pool
        for _ in range(ticket.times_sent):
            pool.settle(ticket.weight, ticket.request.purpose, now)
        if headers.used_weight is not None:
            pool.budget.observe(headers.used_weight, now, headers.server_time_s)
        # A download that was aborted on purpose says nothing about the host, unless its answer had come.
        if not ticket.is_cancelled or headers is not NO_HEADERS:
            _learn(pool, ticket, result, headers, now)
        ticket.paused_until = pool.budget.paused_until_s
        if ticket.is_cancelled:
            return None
        if isinstance(result, SnapshotBody):
            ticket.client.bodies += 1
            return result
        ticket.client.failures[result.kind] += 1
        is_forbidden = result.kind in _FORBIDS_REQUESTS or headers.retry_after_s is not None
        return result._replace(retry_at=pool.budget.paused_until_s) if is_forbidden else result

    def _heads(self, now: float) -> list[tuple[WeightPool, _Waiting, QueueClient]]:
        """Return the first request of each pool, and those that may overtake it.

        An unreadable book of a larger share may overtake a request that waits until a smaller share has room.
        """
        found: list[tuple[WeightPool, _Waiting, QueueClient]] = []
        for client, pool in self._clients.items():
            head = None if pool.is_taking_shared else client._head(pool, now)
            if head is not None:
                found.append((pool, head, client))
        found.sort(key=lambda each: each[1])
        heads = []
        shares: dict[int, float] = {}  # of each pool, the largest so far
        for pool, head, client in found:
            may_overtake = head.request.purpose is Purpose.SYNCHRONIZE and client.weight_share > shares.get(
                id(pool), 0.0
            )
            if may_overtake or id(pool) not in shares:
                shares[id(pool)] = client.weight_share
                heads.append((pool, head, client))
        return heads

    def _forget_idle_pools(self, now: float) -> None:
        """Drop pools without clients, but not before their spent weight has expired and their pauses are over."""
        used = {id(pool) for pool in self._clients.values()}
        for name, pool in list(self._weight_pools.items()):
            if id(pool) not in used and pool.budget.is_idle(now) and pool.probe_budget.is_idle(now):
                del self._weight_pools[name]


def need_of(book: "OrderBook") -> float:
    """Return how urgently a book needs a deeper snapshot. The market leaves a narrow known range sooner.

    It is 1 over the distance from the best price to the nearer horizon, relative to that price. A complete book has 0,
    an unreadable one infinity.
    """
    try:
        sides = ((book.best_bid, book.bid_horizon), (book.best_ask, book.ask_horizon))
    except DepthCacheError:  # also of a market that was stopped meanwhile
        return math.inf
    distances = [
        abs(best[0] - float(horizon)) / best[0] for best, horizon in sides if best and best[0] and horizon is not None
    ]
    return 1.0 / max(min(distances), _DISTANCE_MIN) if distances else 0.0


def _earliest(pool: WeightPool, head: _Waiting, client: QueueClient, now: float) -> float:
    return pool.earliest(head.weight, head.request.purpose, client.weight_share, now)


def _learn(
    pool: WeightPool, ticket: Ticket, result: SnapshotBody | SnapshotFailure, headers: ReplyHeaders, now: float
) -> None:
    """Apply to the pool what a result says about requests of all clients."""
    kind = None if isinstance(result, SnapshotBody) else result.kind
    if kind is None or kind in _CONCERNS_ONE_REQUEST:
        pool.count_answer()
        if kind is FailureKind.UNKNOWN_MARKET:  # another host is to confirm it
            ticket.client.url_failed(ticket.url)
    elif kind is FailureKind.RATE_LIMITED:
        pool.budget.limit_exceeded(headers.retry_after_s, now)
    elif kind is FailureKind.BANNED:
        pool.budget.banned(headers.retry_after_s, now)
    elif kind is FailureKind.FORBIDDEN:
        pool.budget.pause_after(headers.retry_after_s, FORBIDDEN_PAUSE_S, now)
    else:
        if kind is not FailureKind.PROXY:
            ticket.client.url_failed(ticket.url)
        pool.count_host_failure(ticket.began, now)
        pool.budget.pause_after(headers.retry_after_s, 0.0, now)


def _checked_interval(name: str, interval_s: float | None) -> float | None:
    if interval_s is not None and not 0 <= interval_s < math.inf:
        raise ValueError(f"{name} is a number of seconds, or None for no limit, not {interval_s!r}")
    return interval_s
