"""One simulated history: one IP address with its markets, the exchange, the network between them, and virtual time.

Rule 1: the library's own synchronizer, books, snapshot queue and limits are driven as their documents say. There is no
        socket, thread or clock: time is a number that this file moves.
Rule 2: all randomness comes from one seeded source. So a seed and a commit are one history, the same on both books.
Rule 3: faults happen for some seconds, then never again. From then on every market must come back in bounded time.

`FAULTS` is what may happen, at random. `History.run` returns an `Outcome`, or raises the objection of an oracle.
"""

import heapq
import random
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

from history_bounds import (
    BACKOFF_S_FIRST,
    BACKOFF_S_MAX,
    LEASE_S,
    REFRESH_AHEAD_S_MAX,
    REFUSED_IN_A_ROW_MAX,
    RESTART_AFTER_SNAPSHOT_S,
    USELESS_S_MAX,
)
from history_engine import EngineMarket, Style, Subscription
from history_faults import MALFORMED, malformed
from history_market import SimulatedMarket
from history_server import BODY_FAULTS, HTTP_FAULTS, LATENCY_S_MAX, Answer, Falsehood, RestServer

from ldc.book import KeepAlive
from ldc.frames import Opcode
from ldc.limits import ConnectBudget, MessagePacer, ReconnectPolicy
from ldc.snapshots.queue import SnapshotQueue, SnapshotRequest, Ticket
from ldc.snapshots.reply import SnapshotBody
from ldc.sync.actions import Purpose, RefreshResult, RequestSnapshot, UpdateDrop
from ldc.types import Cause, SyncState
from ldc.venues import VENUES, WeightStep

STEP_S = 0.1
"""Between two depth updates of a market."""

IDLE_STEP_S = 0.5
"""The same after the faults, once the markets only wait."""

CONNECTED_WITHIN_S = 2_000.0
"""From the last fault until all connections must be back, whatever bans and backoffs came together."""

SETTLES_WITHIN_S = REFRESH_AHEAD_S_MAX + 30.0
"""How long a refresh may take after that: its snapshot may be of another numbering, which the stream never reaches."""

UPDATES_AFTER = 8
"""Updates that a market must follow after it has come back."""

STANDSTILLS_S = (0.5, 4.0, LEASE_S - 1.5, LEASE_S + 1.5, 2 * LEASE_S)
"""How long the library's thread may stand still while the exchange goes on."""

WORKERS = 4
"""Downloads at a time."""

_LIMITS = ((8,), (8, 20), (8, 20, 1000), (20, 1000))
_VENUE = replace(
    VENUES["binance.com"],
    snapshot_limits=None,
    snapshot_weights=(WeightStep(8, 1), WeightStep(20, 5), WeightStep(1000, 25)),
)

FAULTS = (
    *("updates",) * 8, *("server",) * 3, "disconnect", "disconnect", "handover", "resubscribe", "stall", "restart",
    "jump", "resync", "refresh", "refresh", "sleep", "connect fails", "foreign weight", "falsehood", "quiet",
    "step back", "standstill", "half open",
)  # fmt: skip
UPDATE_FAULTS = (
    "drop", "drop", "drop", "drop more", "twice", "twice", "late", "late", "malformed", "malformed", "with last",
    "crossing", "later twice",
)  # fmt: skip


class Outcome(NamedTuple):
    """How a history ended."""

    seed: int
    updates: int
    faults: int
    resyncs: int
    cured: int
    """Audits that found and corrected what a false snapshot had put into a book."""
    recovery_s: float
    """From the end of the last fault until the last market had come back; 0 if none was out of sync."""
    held_up_s: float
    """The part of it that the library causes: without waits for weight or for a stream's first update."""
    hash: int
    """Of every action and of the end. For one commit it is equal on both books, on every machine and Python."""


class Connection:
    """One connection: its number, the subscriptions of its markets, and the updates on their way."""

    def __init__(self, connection_id: int, slot: int) -> None:
        self.connection_id = connection_id
        self.slot = slot
        self.is_open = False
        self.subscriptions: dict[str, Subscription] = {}
        self.is_half_open = False
        """Nothing arrives any more, and nothing says so."""
        self.keepalive = KeepAlive(5.0, 3.0, 5)
        self.delay_s = 0.0
        self.held_until = 0.0
        self.faults: list[str] = []
        self.late: list[tuple[int, SimulatedMarket, bytes]] = []
        self.queue: deque[tuple[float, SimulatedMarket | None, bytes]] = deque()
        """Updates, and pongs, which are of no market."""
        self.pacer = MessagePacer()
        self.sent_at: deque[float] = deque(maxlen=6)
        self.successor: Connection | None = None
        self.successor_until = 0.0


class History:
    """See the top of this file."""

    def __init__(self, seed: int, books: ModuleType, *, log: list[object] | None = None) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.draw = draw = rng.random
        self.now = 0.0
        self.log = log
        self._timeline: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        style = Style(rng.choice((".2f", ".8f", "g")), draw() < 0.5, draw() < 0.7, draw() < 0.2)
        self.market_count = rng.choice((1, 1, 1, 1, 2, 2, 3))
        self.fault_count = 0 if draw() < 0.15 else 1 + int(draw() * 8)
        self.is_clean = self.fault_count == 0
        kind = 1.0 if self.is_clean else draw()
        self.is_falsified = kind < 0.05
        """The first snapshot is false where nothing can notice it. An audit must."""
        self.has_wrong_prices = 0.05 <= kind < 0.15
        """Until the faults are over, snapshots that are to synchronize have another market's prices: in each outage
        as many as must be refused."""
        self.false_confirmations = random.Random(f"confirmations {seed}").choice((0, 0, 0, 1, 2))
        """So many of the snapshots that are to confirm a difference are false as well, each in another way."""
        self.has_tight_budget = draw() < 0.1 and not self.is_falsified
        self.faults_until = 3.0 + draw() * (7.0 if self.market_count == 1 else 3.0)
        self.activity = rng.choice((0.3, 0.8, 0.95))
        self.quiet_until = 0.0
        self.redundancy = 2 if draw() < 0.3 else 1
        venue = replace(_VENUE, weight_per_minute=60 if self.has_tight_budget else 6000)
        share = 0.8
        self.server = RestServer(rng, venue.weight_per_minute, share)
        self.queue = SnapshotQueue(draw)
        self.requester = self.queue.join(venue, 0.0, weight_share=share)
        self.under_way = 0
        self.pump_at = 0.0
        self.connect_budget = ConnectBudget()
        self.connected_at: deque[float] = deque()
        self.reconnects = [ReconnectPolicy(draw) for _ in range(self.redundancy)]
        self.connections: list[Connection] = []
        self.connects_due = 0
        self.next_connection_id = 1
        self.fault_total = 0
        self.slept_s = 0.0
        self.connect_failures = 0
        self.has_falsified = False
        self.falsehoods_due = 0
        interval_s = None if self.is_falsified else rng.choice((None, None, 3.0, 8.0))
        limits = rng.choice(_LIMITS)
        self.markets = [
            SimulatedMarket(
                books,
                EngineMarket(rng, f"COIN{n}USDT", style),
                rng,
                limits=limits,
                refresh_interval_s=interval_s,
                request=self.put_request,
                cancel=self.cancel_request,
            )
            for n in range(self.market_count)
        ]
        for market in self.markets:
            market.log = log
        self.lease = books.Lease(int(LEASE_S * 1e9))
        """Of all books. Its clock is that of the machine, so virtual time decides whether it is fresh or has ended."""
        self.proven_at = -1e9
        for market in self.markets:
            market.book.lease = self.lease
        self.faults_over_at: float | None = None
        self.deadlines: dict[str, float] = {}
        self.back_at: dict[str, float] = {}
        self.held_up_s = dict.fromkeys((market.engine.symbol for market in self.markets), 0.0)
        self.held_up_s_max: dict[str, float] = {}
        self.updates_when_back: dict[str, int] = {}
        self.contradicted_late: set[str] = set()
        """Markets that may resync after the faults, because the snapshot that was to confirm a difference was false."""
        self.is_over = False
        self.has_requested_audit = False

    def run(self) -> Outcome:
        """Run the history. An oracle that objects raises ``AssertionError``."""
        for slot in range(self.redundancy):
            self.at(self.draw() * 0.2, lambda slot=slot: self.connect(slot))
        self.at(0.0, self.step)
        for _ in range(self.fault_count):
            self.at(0.2 + self.draw() * (self.faults_until - 0.2), self.fault)
        if self.is_falsified:
            self.at(1.5, lambda: self.fault_falsehood(self.markets[0]))
        timeline, markets = self._timeline, self.markets
        while not self.is_over:
            self.age_lease()
            before = self.now
            held_up = [] if self.faults_over_at is None else [market for market in markets if self.is_held_up(market)]
            coming = timeline[0][0]
            due, who = coming, None
            for market in markets:
                if market.due is not None and market.due <= due:
                    due, who = market.due, market
            if self.pump_at < due:
                self.now = max(self.now, self.pump_at)
                self.pump()
            elif who is not None:
                self.now = max(self.now, due)
                who.tick(self.now)
                self.pump()
            else:
                time, _, happen = heapq.heappop(timeline)
                self.now = max(self.now, time)
                happen()
            for market in held_up:
                self.held_up_s[market.engine.symbol] += self.now - before
        return self.judge_end()

    def is_held_up(self, market: SimulatedMarket) -> bool:
        """Return whether a market that is out of sync waits for what the library does: a download, or a backoff.

        It does not while its stream has brought nothing since it opened, nor while there is no weight for its request.
        """
        synchronizer, request = market.synchronizer, market.request
        if synchronizer.state is not SyncState.BUFFERING or request is None:
            return False
        return synchronizer.requests.has_begun or request.due > self.now

    def age_lease(self) -> None:
        """Let the lease end when its last proof is too old in virtual time, for readers and for the library."""
        has_ended = self.now - self.proven_at > LEASE_S
        self.lease.renew(0 if has_ended else self.lease.now_ns())
        for market in self.markets:
            market.is_stalled = has_ended

    def at(self, time: float, happen: Callable[[], None]) -> None:
        """Call `happen` at that time."""
        self._order += 1
        heapq.heappush(self._timeline, (time, self._order, happen))

    # -- the stream side of the exchange, and the network

    def step(self) -> None:
        """The exchange sends updates, and those that are due arrive."""
        if self.now >= self.faults_until and self.faults_over_at is None:
            self.check_whether_faults_are_over()
        for connection in list(self.connections):
            self.arrive(connection)
        for connection in list(self.connections):
            self.keep_alive(connection)
        self.move()
        for connection in list(self.connections):
            if connection.successor is not None:
                self.hand_over(connection)
        if self.faults_over_at is not None:
            self.check_whether_it_is_over()
        is_waiting = self.now > (self.faults_over_at or self.faults_until) + 3.0
        self.at(self.now + (IDLE_STEP_S if is_waiting else STEP_S), self.step)

    def move(self) -> None:
        """The markets move, and the exchange sends what has changed."""
        for market in self.markets:
            engine = market.engine
            if self.draw() < self.activity and self.now >= self.quiet_until:
                for _ in range((1, 1, 2, 3)[int(self.draw() * 4)]):
                    engine.event()
        for connection in list(self.connections):
            for market in self.markets:
                subscription = connection.subscriptions.get(market.engine.symbol)
                # The windows of two connections differ.
                if (
                    subscription is not None
                    and not subscription.is_empty
                    and (self.redundancy == 1 or self.draw() < 0.7)
                ):
                    self.send(connection, market, subscription)

    def keep_alive(self, connection: Connection) -> None:
        """Ping, as the library does, and find out that nothing answers. The exchange's pong takes its turn."""
        if not connection.is_open or connection not in self.connections:
            return
        if connection.keepalive.is_dead(self.now):
            self.disconnect(connection, is_lost=True)
            return
        message = connection.keepalive.next_message(self.now)
        if message is not None and not connection.is_half_open:
            assert message[0] == Opcode.PING
            arrives_at = max(self.now + connection.delay_s, connection.held_until)
            connection.queue.append((arrives_at, None, message[1]))

    def send(self, connection: Connection, market: SimulatedMarket, subscription: Subscription) -> None:
        """Send a subscription's update, or do to it what a fault demands."""
        what = connection.faults.pop(0) if connection.faults else None
        payload = subscription.update(1_000_000 + int(self.now * 1000), with_last=what == "with last")
        if payload is None:
            return
        if what is None or what == "with last":
            self.post(connection, market, payload)
        else:
            self.send_with_fault(connection, market, payload, what)
        for entry in [entry for entry in connection.late if entry[0] <= market.engine.updates]:
            connection.late.remove(entry)
            self.post(connection, entry[1], entry[2])

    def send_with_fault(self, connection: Connection, market: SimulatedMarket, payload: bytes, what: str) -> None:
        """Do what a fault demands."""
        self.fault_total += 1
        if what == "twice":
            self.post(connection, market, payload)
            self.post(connection, market, payload)
            return
        if what == "later twice":
            self.post(connection, market, payload)
            connection.late.append((market.engine.updates + 1 + int(self.draw() * 3), market, payload))
            return
        market.resyncs_allowed += 1
        if what == "late":
            connection.late.append((market.engine.updates + 1 + int(self.draw() * 2), market, payload))
        elif what == "malformed":
            self.post(connection, market, malformed(payload, self.rng.choice(MALFORMED), self.draw))
        elif what == "crossing":
            market.resyncs_allowed += 2  # the same update may cross the next snapshot too
            self.post(connection, market, payload.replace(b'"b":[', b'"b":[["900","1"],').replace(b"],]", b"]]"))

    def post(self, connection: Connection, market: SimulatedMarket, payload: bytes) -> None:
        """Send bytes."""
        if connection.is_half_open:
            return
        arrives_at = max(self.now + connection.delay_s, connection.held_until)
        if connection.queue or arrives_at > self.now:
            connection.queue.append((arrives_at, market, payload))
        else:
            self.deliver(connection, market, payload)

    def arrive(self, connection: Connection) -> None:
        """Deliver what has arrived by now."""
        queue = connection.queue
        while queue and queue[0][0] <= self.now:
            _, market, payload = queue.popleft()
            if market is not None:
                self.deliver(connection, market, payload)
            elif connection.keepalive.note_pong(payload, self.now):
                self.note_proof(connection)

    def note_proof(self, connection: Connection) -> None:
        """Something proves that all has arrived that was sent before."""
        self.proven_at = max(self.proven_at, connection.keepalive.proven_at)
        self.age_lease()

    def deliver(self, connection: Connection, market: SimulatedMarket, payload: bytes) -> None:
        """One update reaches the library."""
        market.receive(connection.connection_id, payload, self.now)
        self.pump()

    # -- the connections, as `ldc.feed` keeps them

    def connect(self, slot: int, predecessor: Connection | None = None) -> None:
        """Connect as soon as the budget allows."""
        allowed_at = self.connect_budget.earliest(self.now)
        if allowed_at > self.now:
            self.at(allowed_at, lambda: self.connect(slot, predecessor))
            return
        self.connect_budget.spend(self.now)
        self.connected_at.append(self.now)
        while self.connected_at[0] <= self.now - 300.0:
            self.connected_at.popleft()
        assert len(self.connected_at) <= 300, "too many connects"
        if self.connect_failures > 0 and self.faults_over_at is None:
            self.connect_failures -= 1
            if predecessor is None:
                self.at(self.now + self.reconnects[slot].after_refusal(), lambda: self.connect(slot))
            return
        connection = Connection(self.next_connection_id, slot)
        self.next_connection_id += 1
        if predecessor is not None:
            predecessor.successor = connection
            predecessor.successor_until = self.now + 10.0
        self.connections.append(connection)
        connection.delay_s = self.rng.choice((0.0, 0.0, 0.05, 0.15))
        self.at(self.now + 0.02 + self.draw() * 0.2, lambda: self.open(connection))

    def open(self, connection: Connection) -> None:
        """The handshake is complete: subscribe."""
        if connection not in self.connections:
            return
        connection.is_open = True
        connection.keepalive.start(self.now)
        self.note_proof(connection)
        for market in self.markets:
            self.subscribe(connection, market)

    def subscribe(self, connection: Connection, market: SimulatedMarket) -> None:
        """Subscribe as soon as the pacing allows."""
        if connection not in self.connections:
            return
        allowed_at = connection.pacer.earliest(self.now)
        if allowed_at > self.now:
            self.at(allowed_at, lambda: self.subscribe(connection, market))
            return
        connection.pacer.spend(self.now)
        connection.sent_at.append(self.now)
        assert sum(time > self.now - 1.0 + 1e-9 for time in connection.sent_at) <= 3, "too many messages in a second"
        market.synchronizer.stream_opened(connection.connection_id, self.now)
        market.after_input(self.now)
        self.pump()
        serving_at = self.now + self.draw() * 0.1
        self.at(serving_at, lambda: self.serve(connection, market))
        self.at(serving_at + self.draw() * 0.3, lambda: self.acknowledge(connection, market))

    def serve(self, connection: Connection, market: SimulatedMarket) -> None:
        """The exchange begins to send this market's updates."""
        symbol = market.engine.symbol
        if connection in self.connections and symbol not in connection.subscriptions:
            connection.subscriptions[symbol] = Subscription(market.engine, connection.connection_id)

    def acknowledge(self, connection: Connection, market: SimulatedMarket) -> None:
        """The exchange's acknowledgement arrives."""
        if connection in self.connections and market.engine.symbol in connection.subscriptions:
            market.synchronizer.stream_acknowledged(connection.connection_id, self.now)
            market.after_input(self.now)
            self.pump()

    def disconnect(self, connection: Connection, *, is_lost: bool) -> None:
        """A connection ends. A lost one is replaced, and costs every market at most one resync."""
        self.connections.remove(connection)
        for market in self.markets:
            subscription = connection.subscriptions.pop(market.engine.symbol, None)
            if subscription is not None:
                market.engine.subscriptions.remove(subscription)
            if is_lost:
                market.resyncs_allowed += 1
            market.synchronizer.stream_closed(connection.connection_id, self.now)
            market.after_input(self.now)
        self.pump()
        successors = [other for other in self.connections if other.slot == connection.slot]
        if not successors:
            policy = self.reconnects[connection.slot]
            spacing_s = self.connect_budget.spacing_s(self.now)
            delay_s = policy.after_loss(spacing_s) if connection.is_open else policy.after_refusal()
            self.at(self.now + delay_s, lambda: self.connect(connection.slot))

    def hand_over(self, connection: Connection) -> None:
        """Close a connection when every market has moved to its successor, or after a while.

        As in `ldc.feed.handover`: a synchronized market must have an update of the successor, another one only its
        acknowledgement. What that one misses of an older connection that lags, its snapshot brings.
        """
        successor = connection.successor
        assert successor is not None
        if successor not in self.connections:
            connection.successor = None
            return
        is_taken_over = successor.is_open and all(
            market.synchronizer.has_spoken(successor.connection_id)
            or market.synchronizer.state is SyncState.FAILED
            or (
                market.synchronizer.state is not SyncState.SYNCHRONIZED
                and market.synchronizer.is_live(successor.connection_id)
            )
            for market in self.markets
        )
        if is_taken_over or self.now >= connection.successor_until:
            for market in self.markets:
                market.resyncs_allowed += not market.synchronizer.has_spoken(successor.connection_id)
            self.disconnect(connection, is_lost=False)

    # -- the snapshots, as the downloader serves them

    def put_request(self, market: SimulatedMarket, request: RequestSnapshot) -> None:
        """A market requests a snapshot."""
        self.queue.put(
            self.requester,
            SnapshotRequest(market.engine.symbol, request.epoch, request.purpose, request.limit, request.due),
        )
        self.pump_at = min(self.pump_at, self.now)

    def cancel_request(self, market: SimulatedMarket, epoch: int) -> None:
        """A market cancels its request."""
        self.queue.cancel(self.requester, market.engine.symbol, epoch)

    def pump(self) -> None:
        """Begin all downloads that are allowed."""
        if self.pump_at > self.now:
            return
        while self.under_way < WORKERS:
            ticket = self.queue.take(self.now)
            if ticket is None:
                self.pump_at = self.queue.next_time(self.now)
                assert self.pump_at > self.now, "the queue holds back a request that may be sent"
                return
            self.begin(ticket)
        self.pump_at = float("inf")

    def begin(self, ticket: Ticket) -> None:
        """Begin a download."""
        self.under_way += 1
        request = ticket.request
        market = next(market for market in self.markets if market.engine.symbol == request.market)
        assert request.purpose is not None
        market.synchronizer.snapshot_begins(request.epoch, self.now)
        market.after_input(self.now)
        falsehood = self.falsehood_for(market, request.purpose)
        answer = self.server.answer(market.engine, request.limit, ticket.weight, self.now, falsehood=falsehood)
        self.at(self.now + answer.latency_s, lambda: self.settle(ticket, market, answer))

    def settle(self, ticket: Ticket, market: SimulatedMarket, answer: Answer) -> None:
        """An answer has arrived."""
        self.under_way -= 1
        self.server.note_received(answer, self.now)
        report = self.queue.settle(ticket, answer.result, answer.headers, self.now)
        if report is not None:
            epoch = ticket.request.epoch
            if market.request is not None and market.request.epoch == epoch:
                market.request = None
            if isinstance(report, SnapshotBody):
                market.synchronizer.snapshot_received(epoch, report.body, ticket.request.limit, self.now)
            else:
                market.synchronizer.snapshot_failed(
                    epoch, self.now, permanent=report.permanent, retry_at=report.retry_at
                )
            market.after_input(self.now)
        self.pump_at = self.now
        self.pump()

    def falsehood_for(self, market: SimulatedMarket, purpose: Purpose) -> Falsehood | None:
        """Return how this snapshot is to be false, or None."""
        # A falsehood must be noticeable. The prices of another market are, if there are prices to compare them with.
        are_prices_noticed = (
            market.synchronizer._numbering.readable_price is not None
            and market.implausible_count < REFUSED_IN_A_ROW_MAX
        )
        if (
            self.has_wrong_prices
            and purpose is Purpose.SYNCHRONIZE
            and are_prices_noticed
            and self.now < self.faults_until
        ):
            return Falsehood("prices", 0.0)
        if purpose is Purpose.CONFIRM and self.false_confirmations and market.book.is_readable:
            kind = f"quantity {self.false_confirmations}"
            self.false_confirmations -= 1
            market.resyncs_allowed += 1
            if self.faults_over_at is not None:
                self.contradicted_late.add(market.engine.symbol)
            return Falsehood(kind, float(market.book.bid_horizon or 0.0))
        if not self.falsehoods_due:
            return None
        horizon, kinds = 0.0, ("quantity", "missing")
        if self.is_falsified:
            if purpose is not Purpose.SYNCHRONIZE:
                return None
            market.is_falsified = True
        elif self.has_falsified or purpose is Purpose.CONFIRM:
            return None
        elif purpose is Purpose.SYNCHRONIZE:
            if not are_prices_noticed:
                return None
            kinds = ("prices",)
        else:
            if not market.book.is_readable:
                return None
            kinds = ("quantity", "missing", "prices")
            horizon = float(market.book.bid_horizon or 0.0)
        self.falsehoods_due -= 1
        self.has_falsified = True
        return Falsehood(self.rng.choice(kinds), horizon)

    # -- faults

    def fault(self) -> None:
        """Inject one random fault."""
        rng = self.rng
        self.fault_total += 1
        kind = rng.choice(FAULTS)
        connection = rng.choice(self.connections) if self.connections else None
        market = rng.choice(self.markets)
        if kind in ("updates", "disconnect", "handover", "resubscribe", "stall"):
            if connection is not None:
                getattr(self, f"fault_{kind}")(connection, market)
        else:
            getattr(self, f"fault_{kind.replace(' ', '_')}")(market)

    def fault_updates(self, connection: Connection, _market: SimulatedMarket) -> None:
        what = self.rng.choice(UPDATE_FAULTS)
        connection.faults += ["drop"] * self.rng.randint(2, 5) if what == "drop more" else [what]

    def fault_disconnect(self, connection: Connection, _market: SimulatedMarket) -> None:
        self.disconnect(connection, is_lost=True)

    def fault_handover(self, connection: Connection, _market: SimulatedMarket) -> None:
        if connection.is_open and connection.successor is None:
            self.connect(connection.slot, connection)

    def fault_resubscribe(self, connection: Connection, market: SimulatedMarket) -> None:
        """One market is unsubscribed and subscribed again, on the same connection."""
        subscription = connection.subscriptions.pop(market.engine.symbol, None)
        if subscription is None:
            return
        market.engine.subscriptions.remove(subscription)
        # What is still on its way has the same connection id, and looks like the beginning of the new stream.
        market.resyncs_allowed += 2 if connection.queue or connection.late else 1
        market.synchronizer.stream_closed(connection.connection_id, self.now)
        market.after_input(self.now)
        self.subscribe(connection, market)

    def fault_stall(self, connection: Connection, _market: SimulatedMarket) -> None:
        """Nothing arrives for a while, then everything at once."""
        connection.held_until = self.now + 0.3 + self.draw() * 2.0
        for market in self.markets:  # another connection may be so far ahead that no gap waits
            market.resyncs_allowed += 1

    def fault_half_open(self, _market: SimulatedMarket) -> None:
        """Nothing arrives any more on a connection, and nothing says so."""
        if not self.connections:
            return
        connection = self.rng.choice(self.connections)
        connection.is_half_open = True
        connection.queue.clear()
        connection.late.clear()
        for market in self.markets:  # another connection may be so far ahead that no gap waits
            market.resyncs_allowed += 1

    def fault_standstill(self, _market: SimulatedMarket) -> None:
        """The library's thread stands still, and the exchange goes on. Other threads read."""
        until = self.now + self.rng.choice(STANDSTILLS_S)
        for connection in self.connections:
            connection.held_until = max(connection.held_until, until)
        for market in self.markets:
            market.resyncs_allowed += 1  # as after a stall
        while self.now < until:
            self.now = min(self.now + STEP_S, until)
            self.age_lease()
            for market in self.markets:
                market.check_readable()
            self.move()
        for connection in list(self.connections):  # an answer that waited for this thread came in time
            self.arrive(connection)
        self.faults_until = max(self.faults_until, self.now + 1.0)

    def fault_server(self, _market: SimulatedMarket) -> None:
        names = BODY_FAULTS if self.draw() < 0.5 else HTTP_FAULTS
        faults = [self.rng.choice(names) for _ in range(self.rng.randint(1, 3))]
        self.server.faults += faults
        for market in self.markets:
            market.resyncs_allowed += faults.count("lagging")
            if self.draw() < 0.7:
                self.request_refresh(market)

    def fault_falsehood(self, market: SimulatedMarket) -> None:
        if self.is_falsified or not self.has_falsified:
            self.falsehoods_due += 1
            if self.is_falsified:
                self.fault_resync(market)
            else:
                self.request_refresh(market)

    def fault_restart(self, market: SimulatedMarket) -> None:
        if market.engine.restarts < 2:
            market.resyncs_allowed += 3  # an update and a snapshot of the previous numbering may follow
            market.engine.restart_ids()

    def fault_step_back(self, market: SimulatedMarket) -> None:
        """The ids step back by a few, and the next update shows it: it ends at or below the last one, and is newer.

        With several connections, with an update lost just then, or behind a snapshot that was ahead, no id shows it:
        docs/reliability.md says so.
        """
        engine = market.engine
        connection = self.connections[0] if len(self.connections) == 1 else None
        subscription = None if connection is None else connection.subscriptions.get(engine.symbol)
        if connection is None or subscription is None or market.synchronizer.state is not SyncState.SYNCHRONIZED:
            return
        if connection.queue or connection.faults or connection.late or connection.held_until > self.now:
            return
        is_heard = market.synchronizer.has_spoken(connection.connection_id)
        if not is_heard or market.book.last_update_id != engine.event_id or not subscription.is_empty:
            return
        streams = market.synchronizer._streams
        reached_id = streams._streams[connection.connection_id].reached_id
        if engine.event_id not in (reached_id, max(streams._others_id + 1, engine.event_id)):
            return  # a snapshot was ahead of the stream, which may come up to it with lower ids
        engine.step_back_ids(5 + int(self.draw() * 20))
        market.resyncs_allowed += 1
        engine.event()
        payload = subscription.update(1_000_050 + int(self.now * 1000))
        assert payload is not None
        self.deliver(connection, market, payload)
        assert market.synchronizer.state is not SyncState.SYNCHRONIZED, "a step back was not noticed"

    def fault_jump(self, market: SimulatedMarket) -> None:
        market.resyncs_allowed += 1
        market.engine.jump_ids()

    def fault_resync(self, market: SimulatedMarket) -> None:
        market.resyncs_allowed += 1
        market.synchronizer.request_resync(self.now, self.rng.choice((Cause.REQUESTED, Cause.SILENT)))
        market.after_input(self.now)

    def fault_refresh(self, market: SimulatedMarket) -> None:
        self.request_refresh(market)

    def request_refresh(self, market: SimulatedMarket) -> None:
        """The user requests a refresh."""
        market.synchronizer.request_refresh(self.now)
        market.after_input(self.now)

    def fault_sleep(self, _market: SimulatedMarket) -> None:
        """The machine sleeps while the exchange goes on. When it wakes up, its connections are dead."""
        for market in self.markets:
            for _ in range(3):
                market.engine.event()
        slept_s = self.rng.choice((5.0, 60.0, 3600.0))
        self.slept_s += slept_s
        self.now += slept_s
        self.faults_until = max(self.faults_until, self.now + 1.0)
        for connection in list(self.connections):
            self.disconnect(connection, is_lost=True)

    def fault_connect_fails(self, _market: SimulatedMarket) -> None:
        self.connect_failures += self.rng.randint(1, 3)
        if self.connections and self.draw() < 0.5:
            self.disconnect(self.rng.choice(self.connections), is_lost=True)

    def fault_foreign_weight(self, _market: SimulatedMarket) -> None:
        if not self.is_falsified:  # or its audits might never come
            self.server.use_weight_elsewhere(self.rng.choice((10, 40, 6000)), self.now)

    def fault_quiet(self, _market: SimulatedMarket) -> None:
        """Nothing happens on the markets for a while."""
        self.quiet_until = self.now + 0.5 + self.draw() * 3.0

    # -- after the faults

    def check_whether_faults_are_over(self) -> None:
        """End the faults. They are over when all connections are back and no pause forbids requests."""
        assert self.now < self.faults_until + CONNECTED_WITHIN_S, "the connections never come back"
        self.server.faults.clear()
        self.falsehoods_due = 0
        self.connect_failures = 0
        for connection in self.connections:
            connection.faults.clear()
        if len({connection.slot for connection in self.connections}) < self.redundancy:
            return
        if any(
            len(connection.subscriptions) < self.market_count
            or connection.late
            or connection.held_until > self.now
            or connection.is_half_open
            for connection in self.connections
        ):
            if any(connection.late for connection in self.connections):
                for connection in self.connections:
                    for _, market, payload in connection.late:
                        self.post(connection, market, payload)
                    connection.late.clear()
            return
        if self.now < self.quiet_until or self.under_way or self.queue_paused_until > self.now:
            return
        self.faults_over_at = self.now
        if self.is_falsified:
            self.activity = 0.1  # or the stream would correct the book before an audit can
        for market in self.markets:
            self.deadlines[market.engine.symbol] = self.now + self.recovery_s_max(market)
            self.held_up_s_max[market.engine.symbol] = self.three_rounds_s(market)

    @property
    def queue_paused_until(self) -> float:
        """When the library asks again."""
        return max(pool.budget.paused_until_s for pool in self.queue._weight_pools.values())

    @property
    def is_starved(self) -> bool:
        """Whether there is too little weight for every refresh that is due."""
        return self.has_tight_budget or bool(self.server.foreign)

    def recovery_s_max(self, market: SimulatedMarket) -> float:
        """Return how long a market may take to come back: the wait that has begun, and some rounds of backoff."""
        synchronizer = market.synchronizer
        waiting_s = max(0.0, synchronizer._retry._not_before - self.now)
        if market.request is not None:
            waiting_s = max(waiting_s, market.request.due - self.now)
        rounds = REFUSED_IN_A_ROW_MAX + 2  # the faults are over, so every download succeeds
        bound_s = waiting_s + rounds * (USELESS_S_MAX + LATENCY_S_MAX) + 5.0
        if market.engine.restarts or market.engine.step_backs:
            bound_s += 2 * RESTART_AFTER_SNAPSHOT_S
        return bound_s + (130.0 if self.is_starved else 0.0)

    def three_rounds_s(self, market: SimulatedMarket) -> float:
        """Return how much of that the library may cause: three times a round trip and the present backoff."""
        retry = market.synchronizer._retry
        waiting_s = max(0.0, retry._not_before - self.now)
        assert waiting_s <= min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0 ** (retry._failed.failures - 1)) or (
            waiting_s <= USELESS_S_MAX
        ), f"a backoff of {waiting_s} s"
        return waiting_s + 3 * (LATENCY_S_MAX + USELESS_S_MAX)

    def check_whether_it_is_over(self) -> None:
        """Every market must come back before its deadline, and then follow the exchange for `UPDATES_AFTER` updates."""
        is_over = True
        for market in self.markets:
            symbol, synchronizer = market.engine.symbol, market.synchronizer
            if synchronizer.state is SyncState.FAILED:
                continue
            if synchronizer.state is not SyncState.SYNCHRONIZED:
                is_over = False
                if symbol in self.contradicted_late and symbol in self.back_at:
                    since_s = self.now - synchronizer.state_since
                    assert since_s < self.recovery_s_max(market), f"{symbol} has not come back: {synchronizer.cause}"
                else:
                    assert self.now < self.deadlines[symbol], f"{symbol} has not come back: {synchronizer.cause}"
                    self.back_at.pop(symbol, None)
                continue
            if symbol not in self.back_at:
                self.back_at[symbol] = synchronizer.state_since
                self.updates_when_back[symbol] = market.engine.updates
            is_followed = (
                market.engine.updates >= self.updates_when_back[symbol] + UPDATES_AFTER
                and market.book.last_update_id in market.engine.ids[-20:]
            )
            is_refreshing = synchronizer.refresher.is_under_way and (self.is_falsified or not self.is_starved)
            if not is_followed or not market.book.is_readable or is_refreshing:
                assert self.now < self.deadlines[symbol] + SETTLES_WITHIN_S, f"{symbol} never settles"
                is_over = False
        if is_over and self.is_falsified and not self.has_requested_audit:
            self.has_requested_audit = True
            for market in self.markets:
                self.request_refresh(market)
            self.pump()
            is_over = False
        self.is_over = is_over

    def judge_end(self) -> Outcome:
        """Check everything once more, and the accounts."""
        recovery_s, summary = 0.0, []
        assert self.faults_over_at is not None
        for market in self.markets:
            synchronizer, symbol = market.synchronizer, market.engine.symbol
            market.judge_accounts()
            held_up_s = self.held_up_s[symbol]
            assert held_up_s <= self.held_up_s_max[symbol], f"{symbol} was held up for {held_up_s} s"
            if synchronizer.state is SyncState.SYNCHRONIZED:
                market.book.check()
                truth = market.engine.truth(market.book.last_update_id)
                assert truth is not None
                market.judge_levels(truth, is_thorough=True)
                recovery_s = max(recovery_s, self.back_at[symbol] - self.faults_over_at)
            if self.is_clean:
                assert self.redundancy > 1 or synchronizer.updates_dropped[UpdateDrop.HOLE] == 0
                market.judge_clean(self.now, is_starved=self.is_starved)
            counters = tuple(market.book.counters)
            summary.append((market.book.last_update_id, market.delivered, counters, synchronizer.epoch, market.digest))
        return Outcome(
            self.seed,
            sum(market.engine.updates for market in self.markets),
            self.fault_total,
            sum(sum(market.synchronizer.resyncs.values()) for market in self.markets),
            sum(market.synchronizer.refresher.ended[RefreshResult.AUDIT_CURED] for market in self.markets),
            recovery_s,
            max(self.held_up_s.values()),
            zlib.crc32(repr((summary, round(self.now, 6))).encode()),
        )


def run_seed(seed: int, books: ModuleType, twin: ModuleType | None = None) -> Outcome:
    """Run a history; with a twin on both books, which must agree at every step. A failure says how to repeat it."""
    history = None
    try:
        log: list[object] | None = None if twin is None else []
        history = History(seed, books, log=log)
        outcome = history.run()
        if twin is not None:
            twin_log: list[object] = []
            assert History(seed, twin, log=twin_log).run() == outcome, "the books differ in the outcome"
            assert repr(twin_log) == repr(log), "the books differ at some step"
    except Exception as error:
        at = "" if history is None else f" at {history.now:.3f} s"
        error.add_note(f"seed {seed}{at}; again with: make simulate SEEDS={seed}..{seed}")
        raise
    return outcome
