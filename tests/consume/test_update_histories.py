"""Consumers in simulated histories: at any item, what they have applied is the exchange's book at its id.

Histories have gaps, resyncs, handovers, two connections, refreshes, restarted ids and sleeping machines. Each has three
consumers for each policy: one that takes at once, one that takes seldom, and one whose queue is full after two items.
"""

import os
import random
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from history import History
from history_market import SimulatedMarket
from stream_kit import POLICIES, Follower, follow, taken
from sync_kit import BOOKS

from ldc.consume.updates import BookUpdate

COMPILED = list(BOOKS.values())[-1]
SEEDS = range(int(os.environ.get("LDC_HISTORIES", "1000")) // 20)
MORE_SEEDS = range(10_000, 14_000)

KINDS = {"quick": (1.0, 10_000), "slow": (0.05, 10_000), "full": (0.1, 2)}
"""Of consumers: how often they take, and how many items may wait."""


class Logged(NamedTuple):
    """An item, as the log of a consumer has it."""

    last_update_id: int | None
    missed: int
    is_snapshot: bool
    cause: str | None
    epoch: int
    payload: bytes | None
    bids: Any
    asks: Any
    is_refresh: bool

    @classmethod
    def of(cls, item: BookUpdate) -> "Logged":
        """Return the log's entry for an item."""
        is_refresh = item.first_update_id is None and not item.is_snapshot and not item.is_lost
        place = item.last_update_id, item.missed, item.is_snapshot, item.cause, item.epoch
        return cls(*place, item.payload, item.bids, item.asks, is_refresh)


class Consumer:
    """One stream of one market, with a taste for looking."""

    def __init__(self, books: ModuleType, market: SimulatedMarket, policy: str, kind: str, rng: random.Random) -> None:
        self.share, waiting_max = KINDS[kind]
        self.market = market
        self.draw = rng.random
        self.queue = books.UpdateQueue(waiting_max)
        self.follower = Follower(policy)
        self.is_quick = kind == "quick"
        self.applied_before = market.book.counters.updates_applied
        self.log: list[Logged] = []
        follow(self.queue, market.book, policy)

    def look(self, *, always: bool = False) -> None:
        """Take what waits, perhaps, and judge it."""
        if not always and self.draw() >= self.share:
            return
        book, follower = self.market.book, self.follower
        self.queue.check_leases()  # as a stream does while it waits
        for item in taken(self.queue):
            self.log.append(Logged.of(item))
            follower.take(item)
            if item.is_lost or follower.policy == "latest":
                continue
            # After a step back the exchange has other books at the ids that a slow consumer still has to take.
            if not self.market.is_falsified and (self.is_quick or not self.market.engine.step_backs):
                self.judge(item.last_update_id)
        if follower.last is None or follower.is_lost:
            assert follower.last is None or not book.is_readable or book.is_crossed, "a return was not told"
            return
        assert book.is_readable, "a loss was not told"
        follower.assert_is(book.view(beyond_horizon=True))
        assert follower.counted == book.counters.updates_applied - self.applied_before, "missed does not add up"

    def judge(self, update_id: int | None) -> None:
        """What the consumer has is the engine's book at that id, inside the horizons."""
        assert update_id is not None
        truth = self.market.engine.truth(update_id)
        assert truth is not None, f"the exchange never had the id {update_id}"
        last = self.follower.last
        assert last is not None
        bids, asks = self.follower.inside()
        assert bids == tuple(each for each in truth.bids if last.bid_horizon is None or each[0] >= last.bid_horizon)
        assert asks == tuple(each for each in truth.asks if last.ask_horizon is None or each[0] <= last.ask_horizon)


class HistoryWithConsumers(History):
    """A history whose markets are followed by consumers of every policy and kind."""

    def __init__(self, seed: int, books: ModuleType) -> None:
        super().__init__(seed, books)
        rng = random.Random(f"consumers {seed}")
        self.consumers = [
            Consumer(books, market, policy, kind, rng)
            for market in self.markets
            for policy in POLICIES
            for kind in KINDS
        ]
        for market in self.markets:
            market.check_readable = self.checked(market)  # type: ignore[method-assign]

    def checked(self, market: SimulatedMarket) -> Any:
        """Return the market's oracle, after which its consumers look."""
        check = market.check_readable
        mine = [each for each in self.consumers if each.market is market]

        def check_and_look() -> None:
            check()
            for consumer in mine:
                consumer.look()

        return check_and_look


def run(seed: int, books: ModuleType) -> HistoryWithConsumers:
    history = HistoryWithConsumers(seed, books)
    try:
        history.run()
        for consumer in history.consumers:
            consumer.look(always=True)
    except AssertionError as error:
        error.add_note(f"again with: run({seed}, {books.__name__})")
        raise
    return history


@pytest.mark.parametrize("block", range(0, len(SEEDS), 25))
def test_what_consumers_have_applied_is_the_exchange_s_book(block: int) -> None:
    for seed in SEEDS[block : block + 25]:
        run(seed, COMPILED)


@pytest.mark.check
@pytest.mark.parametrize("block", range(0, len(MORE_SEEDS), 500))
def test_more_consumers_have_the_exchange_s_book(block: int) -> None:
    for seed in MORE_SEEDS[block : block + 500]:
        run(seed, COMPILED)


def test_both_books_tell_their_consumers_the_same() -> None:
    if COMPILED is BOOKS["python"]:
        pytest.skip("this is a build in plain Python")
    for seed in range(500, 508):
        logs = [[each.log for each in run(seed, books).consumers] for books in (COMPILED, BOOKS["python"])]
        assert logs[0] == logs[1], f"the books differ in history {seed}"


def test_what_the_consumers_of_histories_have_seen() -> None:
    """Losses, overflows, refreshes and coalescing happen, so no consumer agrees because it has seen nothing."""
    consumers = [each for seed in range(3_000, 3_030) for each in run(seed, COMPILED).consumers]
    of = {
        (policy, kind): [
            each.follower for each in consumers if each.follower.policy == policy and each.share == KINDS[kind][0]
        ]
        for policy in POLICIES
        for kind in KINDS
    }
    assert all(sum(each.losses for each in of[policy, "quick"]) > 10 for policy in POLICIES)
    assert all(sum(each.snapshots for each in of[policy, "quick"]) > 30 for policy in POLICIES)
    stalls = [
        [log.cause for each in consumers if each.follower.policy == policy for log in each.log].count("STALLED")
        for policy in POLICIES
    ]
    assert min(stalls) > 5
    overflows = [sum(each.snapshots for each in of["every", kind]) for kind in ("full", "slow")]
    assert overflows[0] > overflows[1] + 30
    refreshes = [
        each
        for consumer in consumers
        if consumer.follower.policy == "every"
        for each in consumer.log
        if each.is_refresh
    ]
    assert len(refreshes) > 10
    assert any(bids or asks for *_, bids, asks, _ in refreshes)
