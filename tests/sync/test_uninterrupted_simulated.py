"""Handovers and redundant connections by the thousand, in virtual time, through the frame readers that feed groups use.

Two connections bring the same markets; their windows differ. Connections are rotated, killed, and lose single frames,
of which the other one has a copy. At every step the oracles of `history_market` look on: what can be read is the
engine's book at that id. It must be readable all the time, and only one snapshot may ever be taken.
"""

import random

import pytest
from history_engine import EngineMarket, Line, Style
from history_market import SimulatedMarket
from history_server import RestServer
from sync_kit import BOOKS
from wire_frames import frame

from ldc import frames
from ldc.sync.parts import UpdateDrop
from ldc.types import Verdict

MODULES = {"python": frames, "cython": BOOKS.get("cython")}
DAY_S = 86_400.0


class Market(SimulatedMarket):
    """A market whose updates come through frame readers, as a feed group handles them."""

    def __init__(self, name, dice, rule, symbol):
        self.name = name
        engine = EngineMarket(dice, symbol, Style(".2f", rule == "futures", True, False))
        super().__init__(
            BOOKS[name],
            engine,
            dice,
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

    def take(self, reader, feed, payload, now):
        """What `FeedGroup` does with what a connection has received."""
        self.frames += 1
        data = frame(payload)
        with reader.writable() as room:
            room[: len(data)] = data
        reader.received(len(data))
        while (event := reader.next_event(now, int(now * 1e9))) is not None:
            if event.verdict is None:
                self.frames -= 1
                self.receive(feed, event.payload, now)
            else:
                if event.verdict is not Verdict.APPLIED or self.book.needs_attention:
                    self.synchronizer.after_apply(feed, event.verdict, event.payload, None, now)
                self.after_input(now)
        self.look()


class Simulation:
    """Markets, and connections that bring them."""

    def __init__(self, name, seed, rule, market_count):
        self.dice = random.Random(seed)
        self.now = 0.0
        self.markets = [Market(name, self.dice, rule, f"COIN{number}USDT") for number in range(market_count)]
        self.readers = {}
        self.lines = {}
        self.next_feed = 0
        self.lost = 0
        self.unfilled = set()
        """Markets of which one connection has lost a frame that the other one has not brought yet."""

    def open(self):
        """Open a connection, and wait until every market has been heard on it."""
        feed = self.next_feed
        self.next_feed += 1
        reader = self.readers[feed] = MODULES[self.markets[0].name].FrameReader()
        for market in self.markets:
            reader.bind(market.stream, market.binding)
            market.synchronizer.stream_opened(feed, self.now)
            market.after_input(self.now)
            self.lines[feed, market] = Line(market.engine, feed)
            market.synchronizer.stream_acknowledged(feed, self.now)
            market.after_input(self.now)
        return feed

    def wait_for(self, feed):
        while not all(market.synchronizer.has_spoken(feed) for market in self.markets):
            self.trade(1)

    def begin(self):
        """The first connection, and the only snapshots."""
        feed = self.open()
        while any(market.request is None for market in self.markets):
            self.trade(1)
        server = RestServer(self.dice, 6000, 0.8)
        for market in self.markets:
            answer = server.ask(market.engine, 1000, 25, self.now, lie=None)
            request, market.request = market.request, None
            market.synchronizer.snapshot_received(request.epoch, answer.result.body, 1000, self.now)
            market.after_input(self.now)
        self.wait_for(feed)

    def close(self, feed):
        del self.readers[feed]
        for market in self.markets:
            market.engine.lines.remove(self.lines.pop((feed, market)))
            market.synchronizer.stream_closed(feed, self.now)
            market.after_input(self.now)

    def trade(self, beats, *, loses=False):
        """Let time go on; the faster connection is now this one, now that one. Single frames are lost on one of two."""
        for _ in range(beats):
            self.now += 0.05
            for market in self.markets:
                if self.dice.random() < 0.9:
                    market.engine.event()
                feeds = self.dice.sample(sorted(self.readers), len(self.readers))
                is_whole = market not in self.unfilled
                for feed in feeds:
                    if self.dice.random() < 0.3:
                        continue  # its window is longer
                    payload = self.lines[feed, market].update(1_000_000 + int(self.now * 1000))
                    if payload is None:
                        continue
                    if loses and is_whole and len(feeds) > 1 and self.dice.random() < 0.05:
                        self.lost += 1
                        self.unfilled.add(market)
                        is_whole = False
                        continue
                    market.take(self.readers[feed], feed, payload, self.now)
                if market.synchronizer.gap_since is None and all(self.lines[feed, market].is_empty for feed in feeds):
                    self.unfilled.discard(market)

    def judge(self):
        """Nothing was ever out of sync, and everything is accounted for."""
        for market in self.markets:
            duplicates = market.binding.duplicates
            market.frames -= duplicates
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
        simulation.trade(simulation.dice.randint(0, 4), loses=True)
        while simulation.unfilled:
            simulation.trade(1)  # what one has lost must not go with the other one
        simulation.close(simulation.dice.choice(sorted(simulation.readers)))
        simulation.trade(simulation.dice.randint(0, 3))
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
    assert sum(market.synchronizer.gaps_filled for market in simulation.markets) > 0


@pytest.mark.check
@pytest.mark.parametrize("rule", ["spot", "futures"])
def test_killing_either_of_two_connections_a_thousand_times_costs_nothing(rule):
    simulation = kill(list(BOOKS)[-1], 4, rule, times=1000)
    assert simulation.lost > 100
