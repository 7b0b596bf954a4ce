"""One simulated history: an address with its markets, the exchange, the network between them, and time. A seed is one.

Rule 1: the library's own synchronizer, books, snapshot queue and limits, driven as their documents say. No socket, no
        thread, no clock: time is a number that this file moves.
Rule 2: everything is drawn from one source, so that a seed and a commit are a history; on both books the same one.
Rule 3: faults happen for some seconds, then never again. From then on the market must come back, in bounded time.

What may happen to a history is in `FAULTS`, by lot. `History.run` returns an `Outcome`, or raises what an oracle said.
"""

import heapq
import random
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

from history_engine import EngineMarket, Line, Style
from history_faults import MALFORMED, spoilt
from history_market import SimulatedMarket
from history_server import BODY_FAULTS, HTTP_FAULTS, LATENCY_S_MAX, Answer, Lie, RestServer

from ldc.limits import Backoff, ConnectBudget, MessagePacer
from ldc.snapshots.queue import SnapshotQueue, SnapshotRequest, Ticket
from ldc.snapshots.reply import SnapshotBody
from ldc.sync.handlers import IMPLAUSIBLE_IN_A_ROW_MAX, STALE_AFTER_SNAPSHOT_S
from ldc.sync.parts import RETRY_S_FIRST, RETRY_S_MAX, Purpose, RefreshResult, RequestSnapshot, UpdateDrop
from ldc.sync.refresh import AHEAD_S_MAX
from ldc.types import Cause, SyncState
from ldc.venues import VENUES, WeightStep

__all__ = ["History", "Outcome", "live_through"]

BEAT_S = 0.1
"""Between two depth updates of a market."""

CALM_BEAT_S = 0.5
"""The same when nothing happens any more but waiting."""

CALM_WITHIN_S = 2_000.0
"""So long after the last fault the connections must be back, whatever bans and back-offs came together."""

SETTLES_WITHIN_S = AHEAD_S_MAX + 30.0
"""How long a refresh may take after that: a snapshot of another numbering is waited for in vain for so long."""

UPDATES_AFTER = 8
"""So many updates a market must follow after it has come back."""

WORKERS = 4
"""Downloads at a time."""

_LADDERS = ((8,), (8, 20), (8, 20, 1000), (20, 1000))
_VENUE = replace(
    VENUES["binance.com"],
    snapshot_limits=None,
    snapshot_weights=(WeightStep(8, 1), WeightStep(20, 5), WeightStep(1000, 25)),
)

FAULTS = (
    *("frames",) * 8, *("server",) * 3, "disconnect", "disconnect", "handover", "resubscribe", "stall", "restart",
    "jump", "resync", "refresh", "refresh", "sleep", "connect fails", "foreign weight", "lie", "quiet",
)  # fmt: skip
FRAME_FAULTS = (
    "drop", "drop", "drop", "drop more", "twice", "twice", "late", "late", "malformed", "malformed", "with last",
    "crossing", "later twice",
)  # fmt: skip


class Outcome(NamedTuple):
    """What came of a history."""

    seed: int
    updates: int
    faults: int
    resyncs: int
    cured: int
    """Audits that found and cured a book that a snapshot had falsified."""
    recovery_s: float
    """From when the last fault was over until the last market had come back; 0 if none was away."""
    held_up_s: float
    """What of that the library answers for: without the waits for weight, and for a stream that said nothing yet."""
    hash: int
    """Of every action, and of how it ended; equal on both books, on every machine and Python, for one commit."""


class Connection:
    """One connection: a number, the lines of its markets, and what is on its way."""

    def __init__(self, connection_id: int, slot: int) -> None:
        self.connection_id = connection_id
        self.slot = slot
        self.is_open = False
        self.lines: dict[str, Line] = {}
        self.delay_s = 0.0
        self.held_until = 0.0
        self.faults: list[str] = []
        self.late: list[tuple[int, SimulatedMarket, bytes]] = []
        self.queue: deque[tuple[float, SimulatedMarket, bytes]] = deque()
        self.pacer = MessagePacer()
        self.sent_at: deque[float] = deque(maxlen=6)
        self.successor: Connection | None = None
        self.successor_until = 0.0


class History:
    """See the top of this file."""

    def __init__(self, seed: int, books: ModuleType, *, log: list[object] | None = None) -> None:
        self.seed = seed
        self.dice = dice = random.Random(seed)
        self.lot = lot = dice.random
        self.now = 0.0
        self.log = log
        self._timeline: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        style = Style(dice.choice((".2f", ".8f", "g")), lot() < 0.5, lot() < 0.7, lot() < 0.2)
        self.market_count = dice.choice((1, 1, 1, 1, 2, 2, 3))
        self.fault_count = 0 if lot() < 0.15 else 1 + int(lot() * 8)
        self.is_clean = self.fault_count == 0
        fate = 1.0 if self.is_clean else lot()
        self.is_poisonous = fate < 0.05
        self.is_slandered = 0.05 <= fate < 0.15
        """Until the faults are over, what a market needs to come back has another market's prices: as often as that
        is to be noticed, each time anew."""
        self.has_tight_budget = lot() < 0.1 and not self.is_poisonous
        self.faults_until = 3.0 + lot() * (7.0 if self.market_count == 1 else 3.0)
        self.activity = dice.choice((0.3, 0.8, 0.95))
        self.quiet_until = 0.0
        self.redundancy = 2 if lot() < 0.3 else 1
        venue = replace(_VENUE, weight_per_minute=60 if self.has_tight_budget else 6000)
        share = 0.8
        self.server = RestServer(dice, venue.weight_per_minute, share)
        self.queue = SnapshotQueue(lot)
        self.requester = self.queue.join(venue, 0.0, weight_share=share)
        self.under_way = 0
        self.pump_at = 0.0
        self.connect_budget = ConnectBudget()
        self.connected_at: deque[float] = deque()
        self.backoffs = [Backoff(lot) for _ in range(self.redundancy)]
        self.connections: list[Connection] = []
        self.connects_due = 0
        self.next_feed = 1
        self.fault_total = 0
        self.slept_s = 0.0
        self.connect_failures = 0
        self.has_lied = False
        self.lies_wanted = 0
        interval_s = None if self.is_poisonous else dice.choice((None, None, 3.0, 8.0))
        limits = dice.choice(_LADDERS)
        self.markets = [
            SimulatedMarket(
                books,
                EngineMarket(dice, f"COIN{n}USDT", style),
                dice,
                limits=limits,
                refresh_interval_s=interval_s,
                request=self.put_request,
                cancel=self.cancel_request,
            )
            for n in range(self.market_count)
        ]
        for market in self.markets:
            market.log = log
        self.calm_at: float | None = None
        self.deadlines: dict[str, float] = {}
        self.back_at: dict[str, float] = {}
        self.held_up_s = dict.fromkeys((market.engine.symbol for market in self.markets), 0.0)
        self.held_up_s_max: dict[str, float] = {}
        self.updates_when_back: dict[str, int] = {}
        self.is_over = False
        self.asked_for_audit = False

    def run(self) -> Outcome:
        """Live through the history; an oracle that objects raises ``AssertionError``."""
        for slot in range(self.redundancy):
            self.at(self.lot() * 0.2, lambda slot=slot: self.connect(slot))
        self.at(0.0, self.beat)
        for _ in range(self.fault_count):
            self.at(0.2 + self.lot() * (self.faults_until - 0.2), self.fault)
        if self.is_poisonous:
            self.at(1.5, lambda: self.fault_lie(self.markets[0]))
        timeline, markets = self._timeline, self.markets
        while not self.is_over:
            before = self.now
            held_up = [] if self.calm_at is None else [market for market in markets if self.is_held_up(market)]
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
        return self.judge_the_end()

    def is_held_up(self, market: SimulatedMarket) -> bool:
        """Whether a market that is away waits for what the library does or has decided: a download, or a back-off.

        It does not while its stream has said nothing since it was opened, nor while there is no weight for a request.
        """
        synchronizer, request = market.synchronizer, market.request
        if synchronizer.state is not SyncState.BUFFERING or request is None:
            return False
        return synchronizer.requests.has_begun or request.due > self.now

    def at(self, time: float, happen: Callable[[], None]) -> None:
        """Let something happen then."""
        self._order += 1
        heapq.heappush(self._timeline, (time, self._order, happen))

    # -- the stream side of the exchange, and the network

    def beat(self) -> None:
        """The exchange speaks, and what is due arrives."""
        if self.now >= self.faults_until and self.calm_at is None:
            self.see_whether_it_is_calm()
        for connection in list(self.connections):
            self.arrive(connection)
        for market in self.markets:
            engine = market.engine
            if self.lot() < self.activity and self.now >= self.quiet_until:
                for _ in range((1, 1, 2, 3)[int(self.lot() * 4)]):
                    engine.event()
        for connection in list(self.connections):
            for market in self.markets:
                line = connection.lines.get(market.engine.symbol)
                # The windows of two connections differ.
                if line is not None and not line.is_empty and (self.redundancy == 1 or self.lot() < 0.7):
                    self.send(connection, market, line)
        for connection in list(self.connections):
            if connection.successor is not None:
                self.hand_over(connection)
        if self.calm_at is not None:
            self.see_whether_it_is_over()
        is_waiting = self.now > (self.calm_at or self.faults_until) + 3.0
        self.at(self.now + (CALM_BEAT_S if is_waiting else BEAT_S), self.beat)

    def send(self, connection: Connection, market: SimulatedMarket, line: Line) -> None:
        """Put a line's update on the wire, or do to it what a fault wants."""
        what = connection.faults.pop(0) if connection.faults else None
        frame = line.update(1_000_000 + int(self.now * 1000), with_last=what == "with last")
        if frame is None:
            return
        if what is None or what == "with last":
            self.post(connection, market, frame)
        else:
            self.send_with_fault(connection, market, frame, what)
        for entry in [entry for entry in connection.late if entry[0] <= market.engine.updates]:
            connection.late.remove(entry)
            self.post(connection, entry[1], entry[2])

    def send_with_fault(self, connection: Connection, market: SimulatedMarket, frame: bytes, what: str) -> None:
        """Do what a fault wants."""
        self.fault_total += 1
        if what == "twice":
            self.post(connection, market, frame)
            self.post(connection, market, frame)
            return
        if what == "later twice":
            self.post(connection, market, frame)
            connection.late.append((market.engine.updates + 1 + int(self.lot() * 3), market, frame))
            return
        market.resyncs_allowed += 1
        if what == "late":
            connection.late.append((market.engine.updates + 1 + int(self.lot() * 2), market, frame))
        elif what == "malformed":
            self.post(connection, market, spoilt(frame, self.dice.choice(MALFORMED), self.lot))
        elif what == "crossing":
            market.resyncs_allowed += 2  # what crosses may also cross the next snapshot
            self.post(connection, market, frame.replace(b'"b":[', b'"b":[["900","1"],').replace(b"],]", b"]]"))

    def post(self, connection: Connection, market: SimulatedMarket, frame: bytes) -> None:
        """Put bytes on the wire."""
        arrives_at = max(self.now + connection.delay_s, connection.held_until)
        if connection.queue or arrives_at > self.now:
            connection.queue.append((arrives_at, market, frame))
        else:
            self.deliver(connection, market, frame)

    def arrive(self, connection: Connection) -> None:
        """Hand over what has come by now."""
        queue = connection.queue
        while queue and queue[0][0] <= self.now:
            _, market, frame = queue.popleft()
            self.deliver(connection, market, frame)

    def deliver(self, connection: Connection, market: SimulatedMarket, frame: bytes) -> None:
        """One frame reaches the library."""
        market.receive(connection.connection_id, frame, self.now)
        self.pump()

    # -- the connections, as a feed group keeps them

    def connect(self, slot: int, predecessor: Connection | None = None) -> None:
        """Try to connect, as soon as the budget allows."""
        allowed_at = self.connect_budget.earliest(self.now)
        if allowed_at > self.now:
            self.at(allowed_at, lambda: self.connect(slot, predecessor))
            return
        self.connect_budget.spend(self.now)
        self.connected_at.append(self.now)
        while self.connected_at[0] <= self.now - 300.0:
            self.connected_at.popleft()
        assert len(self.connected_at) <= 300, "too many connects"
        if self.connect_failures > 0 and self.calm_at is None:
            self.connect_failures -= 1
            if predecessor is None:
                self.at(self.now + self.backoffs[slot].next_delay_s(), lambda: self.connect(slot))
            return
        connection = Connection(self.next_feed, slot)
        self.next_feed += 1
        if predecessor is not None:
            predecessor.successor = connection
            predecessor.successor_until = self.now + 10.0
        self.connections.append(connection)
        connection.delay_s = self.dice.choice((0.0, 0.0, 0.05, 0.15))
        self.at(self.now + 0.02 + self.lot() * 0.2, lambda: self.open(connection))

    def open(self, connection: Connection) -> None:
        """The handshake is done: subscribe."""
        if connection not in self.connections:
            return
        connection.is_open = True
        self.backoffs[connection.slot].reset()
        for market in self.markets:
            self.subscribe(connection, market)

    def subscribe(self, connection: Connection, market: SimulatedMarket) -> None:
        """Send a subscription as soon as the pacing allows."""
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
        serving_at = self.now + self.lot() * 0.1
        self.at(serving_at, lambda: self.serve(connection, market))
        self.at(serving_at + self.lot() * 0.3, lambda: self.acknowledge(connection, market))

    def serve(self, connection: Connection, market: SimulatedMarket) -> None:
        """The exchange begins to send this market."""
        symbol = market.engine.symbol
        if connection in self.connections and symbol not in connection.lines:
            connection.lines[symbol] = Line(market.engine, connection.connection_id)

    def acknowledge(self, connection: Connection, market: SimulatedMarket) -> None:
        """The exchange's acknowledgement arrives."""
        if connection in self.connections and market.engine.symbol in connection.lines:
            market.synchronizer.stream_acknowledged(connection.connection_id, self.now)
            market.after_input(self.now)
            self.pump()

    def disconnect(self, connection: Connection, *, is_lost: bool) -> None:
        """A connection ends. One that was lost is connected anew, and costs every market at most one resync."""
        self.connections.remove(connection)
        for market in self.markets:
            line = connection.lines.pop(market.engine.symbol, None)
            if line is not None:
                market.engine.lines.remove(line)
            if is_lost:
                market.resyncs_allowed += 1
            market.synchronizer.stream_closed(connection.connection_id, self.now)
            market.after_input(self.now)
        self.pump()
        successors = [other for other in self.connections if other.slot == connection.slot]
        if not successors:
            self.at(self.now + self.backoffs[connection.slot].next_delay_s(), lambda: self.connect(connection.slot))

    def hand_over(self, connection: Connection) -> None:
        """Close a connection when every market has moved to its successor, or after a while.

        As in `ldc.feed.handover`: a synchronized one has heard from it; of another one it is enough that it will. What
        that one lacks in between, where the older connection lags, it makes good by the snapshot that it needs anyway.
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
        """A market wants a snapshot."""
        self.queue.put(
            self.requester,
            SnapshotRequest(market.engine.symbol, request.epoch, request.purpose, request.limit, request.due),
        )
        self.pump_at = min(self.pump_at, self.now)

    def cancel_request(self, market: SimulatedMarket, epoch: int) -> None:
        """A market does not want it any more."""
        self.queue.cancel(self.requester, market.engine.symbol, epoch)

    def pump(self) -> None:
        """Begin the downloads that may begin."""
        if self.pump_at > self.now:
            return
        while self.under_way < WORKERS:
            ticket = self.queue.take(self.now)
            if ticket is None:
                self.pump_at = self.queue.next_time(self.now)
                assert self.pump_at > self.now, "the queue has something, and does not give it"
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
        lie = self.lie_for(market, request.purpose)
        answer = self.server.ask(market.engine, request.limit, ticket.weight, self.now, lie=lie)
        self.at(self.now + answer.latency_s, lambda: self.settle(ticket, market, answer))

    def settle(self, ticket: Ticket, market: SimulatedMarket, answer: Answer) -> None:
        """An answer has come."""
        self.under_way -= 1
        self.server.note_told(answer, self.now)
        told = self.queue.settle(ticket, answer.result, answer.headers, self.now)
        if told is not None:
            epoch = ticket.request.epoch
            if market.request is not None and market.request.epoch == epoch:
                market.request = None
            if isinstance(told, SnapshotBody):
                market.synchronizer.snapshot_received(epoch, told.body, ticket.request.limit, self.now)
            else:
                market.synchronizer.snapshot_failed(epoch, self.now, permanent=told.permanent, retry_at=told.retry_at)
            market.after_input(self.now)
        self.pump_at = self.now
        self.pump()

    def lie_for(self, market: SimulatedMarket, purpose: Purpose) -> Lie | None:
        """Return the falsehood that this snapshot is to tell, if it is to tell one."""
        # Where a falsehood cannot be noticed, none is told; but the prices of another market can.
        are_prices_noticed = (
            market.synchronizer._published_price is not None and market.doubted < IMPLAUSIBLE_IN_A_ROW_MAX
        )
        if self.is_slandered and purpose is Purpose.SYNCHRONIZE and are_prices_noticed and self.now < self.faults_until:
            return Lie("prices", 0.0)
        if not self.lies_wanted:
            return None
        horizon, kinds = 0.0, ("quantity", "missing")
        if self.is_poisonous:
            if purpose is not Purpose.SYNCHRONIZE:
                return None
            market.is_poisoned = True
        elif self.has_lied or purpose is Purpose.CONFIRM:
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
        self.lies_wanted -= 1
        self.has_lied = True
        return Lie(self.dice.choice(kinds), horizon)

    # -- faults

    def fault(self) -> None:
        """Let one thing go wrong."""
        dice = self.dice
        self.fault_total += 1
        kind = dice.choice(FAULTS)
        connection = dice.choice(self.connections) if self.connections else None
        market = dice.choice(self.markets)
        if kind in ("frames", "disconnect", "handover", "resubscribe", "stall"):
            if connection is not None:
                getattr(self, f"fault_{kind}")(connection, market)
        else:
            getattr(self, f"fault_{kind.replace(' ', '_')}")(market)

    def fault_frames(self, connection: Connection, _market: SimulatedMarket) -> None:
        what = self.dice.choice(FRAME_FAULTS)
        connection.faults += ["drop"] * self.dice.randint(2, 5) if what == "drop more" else [what]

    def fault_disconnect(self, connection: Connection, _market: SimulatedMarket) -> None:
        self.disconnect(connection, is_lost=True)

    def fault_handover(self, connection: Connection, _market: SimulatedMarket) -> None:
        if connection.is_open and connection.successor is None:
            self.connect(connection.slot, connection)

    def fault_resubscribe(self, connection: Connection, market: SimulatedMarket) -> None:
        """One market's subscription is renewed, under the number that it had."""
        line = connection.lines.pop(market.engine.symbol, None)
        if line is None:
            return
        market.engine.lines.remove(line)
        # What is still on its way comes under the same number, and seems to be the beginning of the new one.
        market.resyncs_allowed += 2 if connection.queue or connection.late else 1
        market.synchronizer.stream_closed(connection.connection_id, self.now)
        market.after_input(self.now)
        self.subscribe(connection, market)

    def fault_stall(self, connection: Connection, _market: SimulatedMarket) -> None:
        """Nothing arrives for a while, then all of it at once."""
        connection.held_until = self.now + 0.3 + self.lot() * 2.0
        for market in self.markets:  # another connection may be so far ahead that the gap is not waited for
            market.resyncs_allowed += 1

    def fault_server(self, _market: SimulatedMarket) -> None:
        names = BODY_FAULTS if self.lot() < 0.5 else HTTP_FAULTS
        faults = [self.dice.choice(names) for _ in range(self.dice.randint(1, 3))]
        self.server.faults += faults
        for market in self.markets:
            market.resyncs_allowed += faults.count("lagging")
            if self.lot() < 0.7:
                self.request_refresh(market)

    def fault_lie(self, market: SimulatedMarket) -> None:
        if self.is_poisonous or not self.has_lied:
            self.lies_wanted += 1
            if self.is_poisonous:
                self.fault_resync(market)
            else:
                self.request_refresh(market)

    def fault_restart(self, market: SimulatedMarket) -> None:
        if market.engine.restarts < 2:
            market.resyncs_allowed += 3  # an update and a snapshot of the old numbering may follow
            market.engine.restart_ids()

    def fault_jump(self, market: SimulatedMarket) -> None:
        market.resyncs_allowed += 1
        market.engine.jump_ids()

    def fault_resync(self, market: SimulatedMarket) -> None:
        market.resyncs_allowed += 1
        market.synchronizer.request_resync(self.now, self.dice.choice((Cause.REQUESTED, Cause.SILENT)))
        market.after_input(self.now)

    def fault_refresh(self, market: SimulatedMarket) -> None:
        self.request_refresh(market)

    def request_refresh(self, market: SimulatedMarket) -> None:
        """The user asks for a refresh."""
        market.synchronizer.request_refresh(self.now)
        market.after_input(self.now)

    def fault_sleep(self, _market: SimulatedMarket) -> None:
        """The machine sleeps; the exchange does not, and when it wakes up the connections are dead."""
        for market in self.markets:
            for _ in range(3):
                market.engine.event()
        slept_s = self.dice.choice((5.0, 60.0, 3600.0))
        self.slept_s += slept_s
        self.now += slept_s
        self.faults_until = max(self.faults_until, self.now + 1.0)
        for connection in list(self.connections):
            self.disconnect(connection, is_lost=True)

    def fault_connect_fails(self, _market: SimulatedMarket) -> None:
        self.connect_failures += self.dice.randint(1, 3)
        if self.connections and self.lot() < 0.5:
            self.disconnect(self.dice.choice(self.connections), is_lost=True)

    def fault_foreign_weight(self, _market: SimulatedMarket) -> None:
        if not self.is_poisonous:  # whose audits must be able to come
            self.server.use_weight_elsewhere(self.dice.choice((10, 40, 6000)), self.now)

    def fault_quiet(self, _market: SimulatedMarket) -> None:
        """The markets say nothing for a while."""
        self.quiet_until = self.now + 0.5 + self.lot() * 3.0

    # -- after the faults

    def see_whether_it_is_calm(self) -> None:
        """The last fault is over when all connections are back, and nobody forbids us to ask."""
        assert self.now < self.faults_until + CALM_WITHIN_S, "the connections never come back"
        self.server.faults.clear()
        self.lies_wanted = 0
        self.connect_failures = 0
        for connection in self.connections:
            connection.faults.clear()
        if len({connection.slot for connection in self.connections}) < self.redundancy:
            return
        if any(
            len(connection.lines) < self.market_count or connection.late or connection.held_until > self.now
            for connection in self.connections
        ):
            if any(connection.late for connection in self.connections):
                for connection in self.connections:
                    for _, market, frame in connection.late:
                        self.post(connection, market, frame)
                    connection.late.clear()
            return
        if self.now < self.quiet_until or self.under_way or self.queue_paused_until > self.now:
            return
        self.calm_at = self.now
        if self.is_poisonous:
            self.activity = 0.1  # or the stream would heal the book before an audit can
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
        """Return how long a market may take to come back: what it waits for already, and three rounds of back-off."""
        synchronizer = market.synchronizer
        waiting_s = max(0.0, synchronizer._not_before - self.now)
        if market.request is not None:
            waiting_s = max(waiting_s, market.request.due - self.now)
        first = synchronizer._backoff.failures
        rounds = IMPLAUSIBLE_IN_A_ROW_MAX + 2
        backoff_s = sum(min(RETRY_S_MAX, 2.0 ** (first + n)) for n in range(rounds))
        resyncs_s = min(RETRY_S_MAX, 2.0**synchronizer._resync_backoff.failures)
        bound_s = waiting_s + backoff_s + resyncs_s + rounds * LATENCY_S_MAX + 5.0
        if market.engine.restarts:
            bound_s += 2 * STALE_AFTER_SNAPSHOT_S
        return bound_s + (130.0 if self.is_starved else 0.0)

    def three_rounds_s(self, market: SimulatedMarket) -> float:
        """Return what the library may use of that: three times a snapshot's round trip and the step of its back-off."""
        synchronizer = market.synchronizer
        step_s = max(
            min(RETRY_S_MAX, RETRY_S_FIRST * 2.0**synchronizer._backoff.failures), synchronizer._not_before - self.now
        )
        return 3 * (LATENCY_S_MAX + step_s)

    def see_whether_it_is_over(self) -> None:
        """Every market has to come back before its deadline, and to follow the exchange for some updates."""
        is_over = True
        for market in self.markets:
            symbol, synchronizer = market.engine.symbol, market.synchronizer
            if synchronizer.state is SyncState.FAILED:
                continue
            if synchronizer.state is not SyncState.SYNCHRONIZED:
                assert self.now < self.deadlines[symbol], f"{symbol} has not come back: {synchronizer.cause}"
                self.back_at.pop(symbol, None)
                is_over = False
                continue
            if symbol not in self.back_at:
                self.back_at[symbol] = synchronizer.state_since
                self.updates_when_back[symbol] = market.engine.updates
            is_followed = (
                market.engine.updates >= self.updates_when_back[symbol] + UPDATES_AFTER
                and market.book.last_update_id in market.engine.ids[-20:]
            )
            is_refreshing = synchronizer.refresher.is_under_way and (self.is_poisonous or not self.is_starved)
            if not is_followed or not market.book.is_readable or is_refreshing:
                assert self.now < self.deadlines[symbol] + SETTLES_WITHIN_S, f"{symbol} never settles"
                is_over = False
        if is_over and self.is_poisonous and not self.asked_for_audit:
            self.asked_for_audit = True
            for market in self.markets:
                self.request_refresh(market)
            self.pump()
            is_over = False
        self.is_over = is_over

    def judge_the_end(self) -> Outcome:
        """The last look: everything, and the accounts."""
        recovery_s, summary = 0.0, []
        assert self.calm_at is not None
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
                recovery_s = max(recovery_s, self.back_at[symbol] - self.calm_at)
            if self.is_clean:
                assert self.redundancy > 1 or synchronizer.updates_dropped[UpdateDrop.HOLE] == 0
                market.judge_clean(self.now, is_starved=self.is_starved)
            counters = tuple(market.book.counters)
            summary.append((market.book.last_update_id, market.frames, counters, synchronizer.epoch, market.digest))
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


def live_through(seed: int, books: ModuleType, twin: ModuleType | None = None) -> Outcome:
    """Run a history; where a twin is given, on both books, step by step alike. A failure says how to see it again."""
    history = None
    try:
        log: list[object] | None = None if twin is None else []
        history = History(seed, books, log=log)
        outcome = history.run()
        if twin is not None:
            twin_log: list[object] = []
            assert History(seed, twin, log=twin_log).run() == outcome, "the books differ in the outcome"
            assert repr(twin_log) == repr(log), "the books differ on the way"
    except Exception as error:
        at = "" if history is None else f" at {history.now:.3f} s"
        error.add_note(f"seed {seed}{at}; again with: make simulate SEEDS={seed}..{seed}")
        raise
    return outcome
