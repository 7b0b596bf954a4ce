"""Some hundred histories of a market, drawn by lot: faults are injected, and three oracles look on.

Safety: whenever the book can be read, it is the engine's book at that update id, inside the horizon.
Liveness: when the faults are over, the market comes back and follows the engine.
Economy: nothing needless happens. A clean history costs one snapshot a step of the ladder and no resync; no history has
more resyncs than faults; every frame and every request is accounted for.

The engine here knows nothing of the library: a book is two dicts, an update is what was touched since the last one.
A failure names its seed; ``LDC_SEED=<seed>`` runs that one alone.
"""

import heapq
import json
import os
import random
from collections.abc import Callable
from types import ModuleType

import pytest

from ldc.errors import MalformedMessage
from ldc.synchronizer import Synchronizer
from ldc.synchronizer_parts import CancelSnapshot, FrameDrop, Purpose, RefreshResult, RequestSnapshot, SnapshotDrop
from ldc.values import Cause, SyncState
from synchronizer_kit import BOOKS, check

SEEDS = [int(os.environ["LDC_SEED"])] if "LDC_SEED" in os.environ else range(300)
FAULTS_UNTIL = 12.0  # seconds of a history in which faults happen
CALM_S = 40.0  # and then without any
BACK_S = 20.0  # of which a market has so much to come back
LIMITS = (8, 20)
TICK_S = 0.1

Levels = dict[int, int]


class Engine:
    """The exchange: a book around a moving price, its updates, and what it was at every id."""

    def __init__(self, dice: random.Random, *, is_futures: bool) -> None:
        self.dice = dice
        self.is_futures = is_futures
        self.middle = 1_000
        self.update_id = 1_000_000
        self.bids = {self.middle - 1 - depth: dice.randint(1, 99) for depth in range(30)}
        self.asks = {self.middle + 1 + depth: dice.randint(1, 99) for depth in range(30)}
        self.lines: list[Line] = []
        self.truth: dict[int, tuple[Levels, Levels]] = {}
        self.ids: list[int] = []
        self._remember()

    def event(self) -> None:
        """One change of the book, with an id of its own. On futures other markets use up ids in between."""
        self.update_id += self.dice.randint(1, 5) if self.is_futures else 1
        kind = self.dice.random()
        if kind < 0.2:
            self._move(self.dice.choice((-1, 1)) * self.dice.choice((1, 1, 1, 2, 6)))
        elif kind < 0.4:
            side, levels = self.dice.choice(((0, self.bids), (1, self.asks)))
            if len(levels) > 3:
                self._set(side, self.dice.choice(sorted(levels)), 0)
        else:
            for _ in range(self.dice.randint(1, 3)):
                depth = int(self.dice.expovariate(0.15))
                side = self.dice.randint(0, 1)
                price = self.middle - 1 - depth if side == 0 else self.middle + 1 + depth
                self._set(side, price, self.dice.randint(1, 99))
        self._remember()

    def restart_ids(self) -> None:
        """Maintenance: the ids begin low again, the book stays."""
        self.update_id = 1_000
        for line in self.lines:
            line.last_id = 999
        self._remember()

    def snapshot(self, limit: int, lag: int) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
        """What REST says, from a node that is `lag` events behind."""
        update_id = self.ids[max(0, len(self.ids) - 1 - lag)]
        bids, asks = self.truth[update_id]
        return update_id, sorted(bids.items(), reverse=True)[:limit], sorted(asks.items())[:limit]

    def _move(self, by: int) -> None:
        self.middle += by
        for price in [price for price in self.asks if price <= self.middle]:
            self._set(1, price, 0)
        for price in [price for price in self.bids if price >= self.middle]:
            self._set(0, price, 0)
        for depth in self.dice.sample(range(30), 8):
            self._set(0, self.middle - 1 - depth, self.dice.randint(1, 99))
            self._set(1, self.middle + 1 + depth, self.dice.randint(1, 99))

    def _set(self, side: int, price: int, quantity: int) -> None:
        levels = (self.bids, self.asks)[side]
        if quantity:
            levels[price] = quantity
        else:
            levels.pop(price, None)
        for line in self.lines:
            line.touched[side].add(price)
            line.first_id = line.first_id or self.update_id

    def _remember(self) -> None:
        self.truth[self.update_id] = dict(self.bids), dict(self.asks)
        self.ids.append(self.update_id)


class Line:
    """One subscription on one connection: what it has not sent yet."""

    def __init__(self, engine: Engine, feed: int) -> None:
        self.engine = engine
        self.feed = feed
        self.last_id = engine.update_id
        self.first_id: int | None = None
        self.touched: tuple[set[int], set[int]] = (set(), set())
        engine.lines.append(self)

    def frame(self, time_ms: int) -> bytes | None:
        """The depth update since the last one, or None if nothing happened."""
        if self.first_id is None:
            return None
        engine = self.engine
        event: dict[str, object] = {"e": "depthUpdate", "E": time_ms, "s": "X", "u": engine.update_id}
        event["U"] = self.first_id if engine.is_futures else self.last_id + 1
        if engine.is_futures:
            event["pu"] = self.last_id
        for key, levels, touched in (("b", engine.bids, self.touched[0]), ("a", engine.asks, self.touched[1])):
            event[key] = [[f"{price}.0", f"{levels.get(price, 0)}.00"] for price in sorted(touched)]
        self.last_id, self.first_id, self.touched = engine.update_id, None, (set(), set())
        return json.dumps({"stream": "x@depth", "data": event}).encode()


class History:
    """A market, the exchange, the network between them, and time. One seed, one history."""

    def __init__(self, seed: int, books: ModuleType) -> None:
        self.dice = dice = random.Random(seed)
        is_futures = seed % 2 == 1
        self.engine = Engine(dice, is_futures=is_futures)
        rule = "futures" if is_futures else "spot"
        self.now = 0.0
        self.book = books.OrderBook(rule, market="X")
        self.synchronizer = Synchronizer(
            self.book,
            make_book=lambda: books.OrderBook(rule, market="X"),
            read_header=books.read_header,
            random=dice.random,
            limits=LIMITS,
            now=0.0,
            refresh_interval_s=dice.choice((None, 5.0)),
        )
        self.feed_count = dice.choice((1, 2))
        self.faults_left = dice.choice((0, 0, 1, 2, 4, 8))
        self.is_clean = self.faults_left == 0
        self.fault_count = 0
        self.lag_count = 0
        self.lies = 0
        self.stream_end_count = 0
        self.frames_delivered = 0
        self.next_feed = 0
        self.request: RequestSnapshot | None = None
        self.snapshot_faults: list[str] = []
        self.frame_faults: dict[int, list[str]] = {}
        self.held_back: dict[int, bytes] = {}
        self.last_seen: tuple[int, int] = (0, 0)
        self.checked: tuple[int | None, int] = (None, 0)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def run(self) -> None:
        """Live through the history; an oracle that objects raises ``AssertionError``."""
        for _ in range(self.feed_count):
            self.connect()
        self.at(0.0, self.beat)
        for _ in range(self.faults_left):
            self.at(self.dice.uniform(1.0, FAULTS_UNTIL), self.fault)
        end = FAULTS_UNTIL + CALM_S
        while True:
            due = self.synchronizer.next_due()
            coming = self._queue[0][0] if self._queue else end
            if min(coming, end if due is None else due) >= end:
                break
            if due is not None and due <= coming:
                self.now = max(self.now, due)
                self.synchronizer.tick(self.now)
                self.after_input()
            else:
                self.now, _, happen = heapq.heappop(self._queue)
                happen()
        self.judge_the_end()

    # -- the exchange and the network

    def at(self, time: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (time, self._order, happen))

    def beat(self) -> None:
        """A tenth of a second at the exchange; in the calm, traffic is slow, for the tests' sake."""
        is_calm = self.now > FAULTS_UNTIL
        if is_calm:
            self.snapshot_faults.clear()
            self.frame_faults.clear()
        for _ in range(self.dice.choice((0, 1, 1, 2, 3))):
            self.engine.event()
        for line in list(self.engine.lines):
            if self.dice.random() < 0.7 or len(self.engine.lines) == 1:  # the windows of two connections differ
                frame = line.frame(int(1_000_000 + self.now * 1000))
                if frame is not None:
                    self.send(line, frame)
        self.at(self.now + (10 * TICK_S if is_calm else TICK_S), self.beat)

    def send(self, line: Line, frame: bytes) -> None:
        """Put a frame on the wire, or do to it what a fault wants."""
        faults = self.frame_faults.get(line.feed, [])
        what = faults.pop(0) if faults else None
        if what == "drop":
            return
        if what == "hold back":
            self.held_back[line.feed] = frame
            return
        if what == "corrupt":
            frame = frame[: self.dice.randrange(len(frame))]
        elif what == "unreadable level":
            frame = frame.replace(b'.00"', b'.0x"', 1)
        self.deliver(line.feed, frame)
        if what == "twice":
            self.deliver(line.feed, frame)
        late = self.held_back.pop(line.feed, None)
        if late is not None:
            self.deliver(line.feed, late)

    def connect(self) -> None:
        """A new connection: updates may come before the acknowledgement."""
        feed = self.next_feed
        self.next_feed += 1
        self.synchronizer.feed_opened(feed, self.now)
        self.after_input()
        line = Line(self.engine, feed)

        def acknowledge() -> None:
            if line in self.engine.lines:
                self.synchronizer.feed_acknowledged(feed, self.now)
                self.after_input()

        self.at(self.now + self.dice.uniform(0.0, 0.3), acknowledge)

    def disconnect(self, line: Line) -> None:
        self.engine.lines.remove(line)
        self.held_back.pop(line.feed, None)
        self.synchronizer.feed_closed(line.feed, self.now)
        self.after_input()

    # -- the caller

    def deliver(self, feed: int, frame: bytes) -> None:
        """What the owner of the socket does with a frame: the hot path."""
        self.frames_delivered += 1
        if self.synchronizer.wants_every_update:
            self.synchronizer.receive_update(feed, memoryview(frame), None, self.now)
        else:
            try:
                verdict = self.book.apply(frame, None)
            except MalformedMessage:
                self.synchronizer.update_malformed(self.now)
            else:
                if verdict or self.book.needs_attention:
                    self.synchronizer.after_apply(feed, verdict, frame, None, self.now)
        self.after_input()

    def download(self, request: RequestSnapshot) -> None:
        if self.request != request:
            return  # cancelled
        self.synchronizer.snapshot_begins(request.epoch, self.now)
        self.after_input()
        lag = 0 if self.is_clean else self.dice.choice((0,) * 12 + (1, 3))
        self.lag_count += lag > 0
        latency_s = self.dice.uniform(0.05, 0.4)
        update_id, bids, asks = self.engine.snapshot(request.limit, lag)
        what = self.snapshot_faults.pop(0) if self.snapshot_faults else None
        if what == "incoherent":
            self.lie(bids, request)
        sides = {
            key: [[f"{price}.0", f"{quantity}.00"] for price, quantity in levels]
            for key, levels in (("bids", bids), ("asks", asks))
        }
        body = json.dumps({"lastUpdateId": update_id, **sides}).encode()
        if what == "cut body":
            body = body[: len(body) // 2]

        def answer() -> None:
            if self.request == request:
                self.request = None
            if what == "failure":
                self.synchronizer.snapshot_failed(request.epoch, self.now)
            elif what == "retry after":
                self.synchronizer.snapshot_failed(request.epoch, self.now, retry_at=self.now + 3.0)
            else:
                self.synchronizer.snapshot_received(request.epoch, body, request.limit, self.now)
            self.after_input()

        self.at(self.now + latency_s, answer)

    def lie(self, bids: list[tuple[int, int]], request: RequestSnapshot) -> None:
        """Falsify a level where it can be noticed: inside the horizon of a live book, and never twice the same."""
        if request.purpose is Purpose.SYNCHRONIZE:
            return
        horizon = self.book.bid_horizon or 0
        places = [place for place, (price, _) in enumerate(bids) if price >= horizon]
        if places:
            self.lies += 1
            place = self.dice.choice(places)
            bids[place] = (bids[place][0], bids[place][1] + 100 * self.lies)

    def after_input(self) -> None:
        """Carry out the actions, and let the oracles look."""
        for action in self.synchronizer.drain():
            if isinstance(action, CancelSnapshot):
                assert self.request is not None
                assert self.request.epoch == action.epoch
                self.request = None
            elif isinstance(action, RequestSnapshot):
                assert self.request is None
                assert action.due >= self.now
                self.request = action
                self.at(action.due, lambda request=action: self.download(request))
        check(self.synchronizer, self.request)
        self.judge_safety()

    # -- faults

    def fault(self) -> None:
        dice = self.dice
        self.fault_count += 1
        lines = self.engine.lines
        line = dice.choice(lines) if lines else None
        kind = dice.choice(
            (
                "frames",
                "frames",
                "frames",
                "reconnect",
                "reconnect",
                "snapshots",
                "restart",
                "handover",
                "resync",
                "refresh",
            )
        )
        if kind == "frames" and line is not None:
            what = dice.choice(("drop", "twice", "hold back", "corrupt", "unreadable level"))
            self.frame_faults.setdefault(line.feed, []).extend([what] * (dice.randint(1, 3) if what == "drop" else 1))
        elif kind == "reconnect" and line is not None:
            self.stream_end_count += 1
            self.disconnect(line)
            self.at(self.now + dice.choice((0.0, 0.0, dice.uniform(0.0, 2.0))), self.connect)
        elif kind == "snapshots":
            self.snapshot_faults += [
                dice.choice(("failure", "retry after", "cut body", "incoherent")) for _ in range(dice.randint(1, 3))
            ]
            self.synchronizer.request_refresh(self.now)
            self.after_input()
        elif kind == "restart" and self.engine.update_id > 500_000:
            self.engine.restart_ids()
        elif kind == "handover" and line is not None:
            self.stream_end_count += 1
            self.connect()
            self.at(self.now + 1.0, lambda: self.disconnect(line) if line in self.engine.lines else None)
        elif kind == "resync":
            self.synchronizer.request_resync(self.now)
            self.after_input()
        else:
            self.synchronizer.request_refresh(self.now)
            self.after_input()

    # -- oracles

    def judge_safety(self) -> None:
        """What can be read is what the engine had."""
        book = self.book
        if not book.is_readable:
            return
        position = self.synchronizer.epoch, book.last_update_id
        assert position >= self.last_seen, "the pair of epoch and id went back"
        self.last_seen = position
        version = book.last_update_id, book.counters.books_adopted
        if version == self.checked:
            return
        self.checked = version
        view = book.view()
        bids, asks = self.truth_at(book.last_update_id)
        bid_horizon = view.bid_horizon if view.bid_horizon is not None else 0
        ask_horizon = view.ask_horizon if view.ask_horizon is not None else 10**9
        assert dict(view.bids) == {price: quantity for price, quantity in bids.items() if price >= bid_horizon}
        assert dict(view.asks) == {price: quantity for price, quantity in asks.items() if price <= ask_horizon}

    def truth_at(self, update_id: int) -> tuple[Levels, Levels]:
        assert update_id in self.engine.truth, "no event of the engine had this id"
        return self.engine.truth[update_id]

    def judge_the_end(self) -> None:
        synchronizer, requests = self.synchronizer, self.synchronizer.requests
        assert synchronizer.state is SyncState.SYNCHRONIZED
        assert synchronizer.state_since <= FAULTS_UNTIL + BACK_S
        assert self.book.last_update_id == self.engine.update_id or self.engine.lines[0].first_id is not None
        assert self.book.last_update_id >= self.engine.ids[-12]
        self.book.check()
        applied = self.book.counters.updates_applied
        assert (
            self.frames_delivered == applied + sum(synchronizer.frames_dropped.values()) + synchronizer.buffered_count
        )
        resyncs = sum(synchronizer.resyncs.values())
        assert resyncs <= self.fault_count + self.lag_count
        assert synchronizer.resyncs[Cause.CROSSED] == synchronizer.resyncs[Cause.NOT_LOADED] == 0
        assert synchronizer.refresher.ended[RefreshResult.AUDIT_CURED] == 0
        # Every snapshot was asked for once for the beginning or a resync, or again because an answer was of no use.
        again = (
            requests.cancelled + requests.failed + sum(requests.dropped.values()) - requests.dropped[SnapshotDrop.LATE]
        )
        assert requests.issued[Purpose.SYNCHRONIZE] <= 1 + resyncs + self.stream_end_count + again
        if self.is_clean:
            assert resyncs == 0
            assert requests.issued[Purpose.SYNCHRONIZE] == 1
            assert {why for why, count in synchronizer.frames_dropped.items() if count} <= {
                FrameDrop.STALE,
                FrameDrop.REPEATED,
            }
            assert not any(requests.dropped.values())
            assert requests.issued[Purpose.DEEPEN] + requests.issued[Purpose.HORIZON] >= len(LIMITS) - 1


@pytest.mark.parametrize("block", range(0, len(SEEDS), 50))
def test_histories(block: int) -> None:
    for seed in SEEDS[block : block + 50]:
        # The plain book is slow: where there is a compiled one, the plain one has one history in twenty.
        for name, books in BOOKS.items():
            if name == "python" and len(BOOKS) > 1 and seed % 20:
                continue
            history = History(seed, books)
            try:
                history.run()
            except Exception as error:
                error.add_note(f"seed {seed} on the {name} book at {history.now:.3f} s; run LDC_SEED={seed} alone")
                raise
