"""A consumer of updates that keeps a book of its own, in two dicts, and knows nothing else."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ldc import BookView
from ldc.consume.updates import BookUpdate, Source

POLICIES = {"latest": 0, "changes": 1, "every": 2}

Levels = dict[Any, Any]


class Follower:
    """Applies the items of one market of one stream, and holds them to the rules of docs/consuming.md."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.bids: Levels = {}
        self.asks: Levels = {}
        self.last: BookUpdate | None = None
        self.is_lost = True
        self.items = 0
        self.losses = 0
        self.snapshots = 0
        self.counted = 0
        """Updates that an item had for itself, or that were missed."""

    def take(self, item: BookUpdate) -> None:
        """Apply an item."""
        before = self.last
        assert before is not None or item.is_snapshot or item.is_lost, "the first item is no snapshot"
        assert item.missed >= 0
        self.counted += item.missed + (item.first_update_id is not None)
        self.items += 1
        self.last = item
        if item.is_lost:
            assert item.cause is not None
            assert not item.bids
            assert not item.asks
            assert not item.is_snapshot
            self.losses += 1
            self.is_lost = True
            return
        if before is not None:
            assert (item.epoch, item.last_update_id) >= (before.epoch, before.last_update_id or 0), "it went back"
            was_seamless = not before.is_lost and not item.is_snapshot
            assert not was_seamless or item.epoch == before.epoch, "a new epoch without a snapshot"
        assert not (self.is_lost and not item.is_snapshot), "a return without a snapshot"
        self.is_lost = False
        self.snapshots += item.is_snapshot
        if self.policy == "latest":
            assert not item.bids
            assert not item.asks
            return
        for levels, changes in ((self.bids, item.bids), (self.asks, item.asks)):
            if item.is_snapshot:
                levels.clear()
            for price, quantity in changes:
                if quantity:
                    levels[price] = quantity
                else:
                    levels.pop(price, None)

    def inside(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the levels inside the horizons of the last item, best first."""
        assert self.last is not None
        bid_horizon, ask_horizon = self.last.bid_horizon, self.last.ask_horizon
        return (
            tuple(
                each
                for each in sorted(self.bids.items(), reverse=True)
                if bid_horizon is None or each[0] >= bid_horizon
            ),
            tuple(each for each in sorted(self.asks.items()) if ask_horizon is None or each[0] <= ask_horizon),
        )

    def assert_is(self, view: BookView) -> None:
        """The dicts are the book, read with `beyond_horizon`, and its place is that of the last item."""
        assert self.last is not None
        place = self.last.last_update_id, self.last.epoch, self.last.bid_horizon, self.last.ask_horizon
        assert place == (view.last_update_id, view.epoch, view.bid_horizon, view.ask_horizon)
        if self.policy != "latest":
            assert tuple(sorted(self.bids.items(), reverse=True)) == view.bids
            assert tuple(sorted(self.asks.items())) == view.asks


def follow(queue: Any, book: Any, policy: str, number: Any = float) -> Any:
    """Let a queue follow a book."""
    return queue.add(
        book, Source(book.market or "BTCUSDT", "binance.com", number), POLICIES[policy], number in (str, int)
    )


def taken(queue: Any) -> Iterator[BookUpdate]:
    """Yield what waits; then the queue is armed."""
    while True:
        while (fields := queue.take()) is not None:
            yield BookUpdate(fields)
        if queue.arm():
            return


def decode_by(books: ModuleType) -> Callable[..., Any]:
    """Return `decode_update` of an implementation."""
    return books.decode_update
