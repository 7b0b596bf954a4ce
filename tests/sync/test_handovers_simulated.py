"""Handovers and redundant connections by the thousand, in virtual time, through the frame readers of `ldc.feed`.

Two connections bring the same markets; their windows differ. Connections are rotated, killed, and lose single frames,
of which the other one has a copy. At every step the oracles of `history_market` check it: what can be read is the
engine's book at that id. It must be readable all the time, and only one snapshot may ever be taken.
"""

import random

import pytest
from history_engine import EngineMarket, Style, Subscription
from history_market import SimulatedMarket
from history_server import RestServer
from sync_kit import BOOKS
from wire_frames import frame

from ldc.book.pure import frames
from ldc.sync.actions import UpdateDrop
from ldc.types import Verdict

MODULES = {"python": frames, "cython": BOOKS.get("cython")}
DAY_S = 86_400.0


class Market(SimulatedMarket):
    """A market whose updates come through frame readers, as `ldc.feed.group` handles them."""

    def __init__(self, name, rng, rule, symbol):
        self.name = name
        engine = EngineMarket(rng, symbol, Style(".2f", rule == "futures", True, False))
        super().__init__(
            BOOKS[name],
            engine,
            rng,
            limits=(1000,),
            refresh_interval_s=None,
            request=lambda *_: None,
            cancel=lambda *_: None,
        )
        self.stream = f"{symbol.lower()}@depth@100ms"
        self.binding = MODULES[name].StreamBinding(self.book, self)

    def after_input(self, now):
        super().after_input(now)
        self.binding.is_direct = not self.synchronizer.wants_every_update
        self.binding.is_redundant = self.synchronizer.has_several_streams

    def take(self, reader, connection_id, payload, now):
        """What `FeedGroup` does with what a connection has received."""
        self.delivered += 1
        data = frame(payload)
        with reader.writable() as room:
            room[: len(data)] = data
        reader.received(len(data))
        while (event := reader.next_event(now, int(now * 1e9))) is not None:
            if event.verdict is None:
                self.delivered -= 1
                self.receive(connection_id, event.payload, now)
            else:
                if event.verdict is not Verdict.APPLIED or self.book.needs_attention:
                    self.synchronizer.after_apply(connection_id, event.verdict, event.payload, None, now)
                self.after_input(now)
        self.check_readable()


class Simulation:
    """Markets, and connections that bring them."""

    def __init__(self, name, seed, rule, market_count):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.markets = [Market(name, self.rng, rule, f"COIN{number}USDT") for number in range(market_count)]
        self.readers = {}
        self.subscriptions = {}
        self.next_connection_id = 0
        self.lost = 0
        self.unfilled = set()
        """Markets of which one connection has lost a frame that the other one has not brought yet."""

    def open(self):
        """Open a connection, and subscribe every market on it."""
        connection_id = self.next_connection_id
        self.next_connection_id += 1
        reader = self.readers[connection_id] = MODULES[self.markets[0].name].FrameReader()
        for market in self.markets:
            reader.bind(market.stream, market.binding)
            market.synchronizer.stream_opened(connection_id, self.now)
            market.after_input(self.now)
            self.subscriptions[connection_id, market] = Subscription(market.engine, connection_id)
            market.synchronizer.stream_acknowledged(connection_id, self.now)
            market.after_input(self.now)
        return connection_id

    def wait_for(self, connection_id):
        while not all(market.synchronizer.has_spoken(connection_id) for market in self.markets):
            self.trade(1)

    def begin(self):
        """The first connection, and the only snapshots."""
        connection_id = self.open()
        while any(market.request is None for market in self.markets):
            self.trade(1)
        server = RestServer(self.rng, 6000, 0.8)
        for market in self.markets:
            answer = server.answer(market.engine, 1000, 25, self.now, falsehood=None)
            request, market.request = market.request, None
            market.synchronizer.snapshot_received(request.epoch, answer.result.body, 1000, self.now)
            market.after_input(self.now)
        self.wait_for(connection_id)

    def close(self, connection_id):
        del self.readers[connection_id]
        for market in self.markets:
            market.engine.subscriptions.remove(self.subscriptions.pop((connection_id, market)))
            market.synchronizer.stream_closed(connection_id, self.now)
            market.after_input(self.now)

    def trade(self, beats, *, loses=False):
        """Let time pass. The faster connection is a random one. Single frames are lost on one of two."""
        for _ in range(beats):
            self.now += 0.05
            for market in self.markets:
                if self.rng.random() < 0.9:
                    market.engine.event()
                connection_ids = self.rng.sample(sorted(self.readers), len(self.readers))
                is_whole = market not in self.unfilled
                for connection_id in connection_ids:
                    if self.rng.random() < 0.3:
                        continue  # its window is longer
                    payload = self.subscriptions[connection_id, market].update(1_000_000 + int(self.now * 1000))
                    if payload is None:
                        continue
                    if loses and is_whole and len(connection_ids) > 1 and self.rng.random() < 0.05:
                        self.lost += 1
                        self.unfilled.add(market)
                        is_whole = False
                        continue
                    market.take(self.readers[connection_id], connection_id, payload, self.now)
                if market.synchronizer.gap_since is None and all(
                    self.subscriptions[connection_id, market].is_empty for connection_id in connection_ids
                ):
                    self.unfilled.discard(market)

    def judge(self):
        """No market was ever out of sync, and everything is accounted for."""
        for market in self.markets:
            duplicates = market.binding.duplicates
            market.delivered -= duplicates
            market.judge_accounts()
            assert sum(market.synchronizer.resyncs.values()) == 0
            assert market.book.counters.snapshots_loaded == 1
            assert market.unsynchronized_s < 1.0
            stale = market.synchronizer.updates_dropped[UpdateDrop.STALE]
            assert market.book.counters.updates_stale == duplicates + stale
        return self


def rotate(name, seed, rule, *, rotations, markets, days):
    simulation = Simulation(name, seed, rule, markets)
    simulation.begin()
    old = 0
    for _ in range(rotations):
        simulation.now += days * DAY_S / rotations
        simulation.trade(1)
        new = simulation.open()
        simulation.wait_for(new)
        simulation.close(old)
        old = new
    return simulation.judge()


def kill(name, seed, rule, *, times, markets=2):
    simulation = Simulation(name, seed, rule, markets)
    simulation.begin()
    simulation.wait_for(simulation.open())
    for _ in range(times):
        simulation.trade(simulation.rng.randint(0, 4), loses=True)
        while simulation.unfilled:
            simulation.trade(1)  # what one connection has lost must not be lost with the other one
        simulation.close(simulation.rng.choice(sorted(simulation.readers)))
        simulation.trade(simulation.rng.randint(0, 3))
        simulation.wait_for(simulation.open())
    simulation.judge()
    for market in simulation.markets:
        assert market.binding.duplicates > times / 2
    return simulation


@pytest.mark.parametrize("rule", ["spot", "futures"])
@pytest.mark.parametrize("name", list(BOOKS))
def test_rotations_cost_nothing(name, rule):
    rotate(name, 1, rule, rotations=30, markets=3, days=30)


@pytest.mark.check
@pytest.mark.parametrize("rule", ["spot", "futures"])
def test_a_thousand_rotations_of_20_markets_in_a_year_cost_nothing(rule):
    simulation = rotate(list(BOOKS)[-1], 2, rule, rotations=1000, markets=20, days=365)
    assert simulation.now >= 365 * DAY_S


@pytest.mark.parametrize("rule", ["spot", "futures"])
@pytest.mark.parametrize("name", list(BOOKS))
def test_killing_either_of_two_connections_costs_nothing(name, rule):
    simulation = kill(name, 3, rule, times=50)
    assert simulation.lost > 0
    assert sum(market.synchronizer.gap.filled for market in simulation.markets) > 0


@pytest.mark.check
@pytest.mark.parametrize("rule", ["spot", "futures"])
def test_killing_either_of_two_connections_a_thousand_times_costs_nothing(rule):
    simulation = kill(list(BOOKS)[-1], 4, rule, times=1000)
    assert simulation.lost > 100
