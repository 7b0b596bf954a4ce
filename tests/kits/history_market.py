"""One market of a simulated history as its owner drives it, and the oracles that look on at every step.

Rule 1: this is the caller that docs/synchronizer.md describes, and nothing more: the hot path, the actions, the timers.
Rule 2: after every step the oracles look. What can be read is what the engine had at that id, or the seed has failed.
"""

import random
import zlib
from bisect import bisect_right
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from history_engine import EngineMarket, Level, Truth
from sync_kit import check

from ldc.errors import MalformedMessage
from ldc.sync.handlers import IMPLAUSIBLE_IN_A_ROW_MAX
from ldc.sync.machine import Synchronizer
from ldc.sync.parts import (
    CancelSnapshot,
    Purpose,
    Refreshed,
    RefreshResult,
    RequestSnapshot,
    SnapshotDrop,
    StateChanged,
    UpdateDrop,
)
from ldc.types import Cause, SyncState

if TYPE_CHECKING:
    from ldc.book import OrderBook

__all__ = ["SimulatedMarket"]

REFRESH_S_MAX = 6.0
"""A refresh takes a download, and a quiet stream may have to come up to it."""

_RANKS: dict[int, Callable[[Level], float]] = {1: lambda level: -level[0], -1: lambda level: level[0]}

ALL_HELD_EVERY = 8
"""Of so many looks one also compares what is held beyond the horizon, and the reads that end at the horizon."""


class SimulatedMarket:
    """A market's book and synchronizer, their caller, and what the oracles know."""

    def __init__(
        self,
        books: ModuleType,
        engine: EngineMarket,
        dice: random.Random,
        *,
        limits: tuple[int, ...],
        refresh_interval_s: float | None,
        request: Callable[["SimulatedMarket", RequestSnapshot], None],
        cancel: Callable[["SimulatedMarket", int], None],
    ) -> None:
        rule = "futures" if engine.style.is_futures else "spot"
        self.engine = engine
        self.book: OrderBook = books.OrderBook(rule, market=engine.symbol, symbol=engine.symbol)
        self.synchronizer = Synchronizer(
            self.book,
            make_book=lambda: books.OrderBook(rule, market=engine.symbol),
            read_header=books.read_header,
            random=dice.random,
            limits=limits,
            now=0.0,
            symbol=engine.symbol,
            refresh_interval_s=refresh_interval_s,
        )
        self.limits = limits
        self.refresh_interval_s = refresh_interval_s
        self.request: RequestSnapshot | None = None
        self.due: float | None = None
        self.log: list[object] | None = None
        self.digest = 0
        """A hash of all that this market was told to do, and when, and of where its book stood after each input."""
        self._request = request
        self._cancel = cancel

        self.frames = 0
        """Delivered."""
        self.resyncs_allowed = 0
        self.is_poisoned = False
        """A snapshot has lied where nothing could notice; the next audits must."""
        self.has_been_read = False
        self.unsynchronized_s = 0.0
        self.looks = 0
        self._unsynchronized_since: float | None = 0.0
        self._changes: dict[Cause, int] = {}
        self._resyncs: dict[Cause, int] = {}
        self._refreshed: dict[RefreshResult, int] = {}
        self._doubted_before = 0
        self._seen: tuple[int | None, int, int] = (None, 0, 0)
        self._last_id = 0
        self._last_epoch = 0
        self._last_loads = 0

    @property
    def may_go_back(self) -> bool:
        """Whether the exchange did what makes ids go back: it counted anew, or had a node that was behind."""
        return self.engine.restarts > 0

    @property
    def doubted(self) -> int:
        """Snapshots that were refused as suspicious since the book was last synchronized."""
        return self._doubted_ever - self._doubted_before

    @property
    def _doubted_ever(self) -> int:
        dropped = self.synchronizer.requests.dropped
        return dropped[SnapshotDrop.LAGGING] + dropped[SnapshotDrop.WRONG_PRICES]

    # -- the caller

    def receive(self, connection_id: int, frame: bytes, now: float) -> None:
        """What the owner of the socket does with a frame: the hot path."""
        self.frames += 1
        synchronizer = self.synchronizer
        if synchronizer.wants_every_update:
            synchronizer.receive_update(connection_id, memoryview(frame), None, now)
        else:
            try:
                verdict = self.book.apply(frame, None)
            except MalformedMessage:
                synchronizer.update_malformed(now)
            else:
                if verdict or self.book.needs_attention:
                    self.look()
                    synchronizer.after_apply(connection_id, verdict, frame, None, now)
        if self.log is not None:
            self.log.append((now, connection_id, self.book.last_header))
        self.after_input(now)

    def after_input(self, now: float) -> None:
        """Carry out the actions, and let the oracles look."""
        for action in self.synchronizer.drain():
            if self.log is not None:
                self.log.append(action)
            self.digest = zlib.crc32(repr((now, action)).encode(), self.digest)
            match action:
                case CancelSnapshot():
                    assert self.request is not None, "a request was cancelled that nobody has"
                    assert self.request.epoch == action.epoch
                    self.request = None
                    self._cancel(self, action.epoch)
                case RequestSnapshot():
                    assert self.request is None, "two requests at a time"
                    assert action.due >= now
                    self.request = action
                    self._request(self, action)
                case StateChanged():
                    self._note_change(action, now)
                case Refreshed():
                    self._refreshed[action.result] = self._refreshed.get(action.result, 0) + 1
        self.digest = zlib.crc32(b"%d" % (self.book.last_update_id or 0), self.digest)
        check(self.synchronizer, self.request)
        self.due = self.synchronizer.next_due()
        self.look()

    def tick(self, now: float) -> None:
        """Time has passed, and the market wanted to be told."""
        self.synchronizer.tick(now)
        self.after_input(now)
        assert self.due is None or self.due > now, "tick() did nothing at the time that next_due() gave"

    def _note_change(self, change: StateChanged, now: float) -> None:
        self._changes[change.cause] = self._changes.get(change.cause, 0) + 1
        if change.state is SyncState.SYNCHRONIZED:
            assert self._unsynchronized_since is not None
            self.unsynchronized_s += now - self._unsynchronized_since
            self._unsynchronized_since = None
        elif change.previous_state is SyncState.SYNCHRONIZED:
            self._unsynchronized_since = now
            self._doubted_before = self._doubted_ever
            if change.state in (SyncState.BUFFERING, SyncState.IDLE):
                self._resyncs[change.cause] = self._resyncs.get(change.cause, 0) + 1

    # -- the oracles of every step

    def look(self) -> None:
        """What can be read is what the engine had; and what was readable does not go back."""
        book = self.book
        if book.suspended_by is not None:
            assert self.doubted <= IMPLAUSIBLE_IN_A_ROW_MAX, "a snapshot was doubted once too often"
            return
        if book.is_crossed:  # it cannot be read, though it is not suspended yet
            assert book.unreadable_cause == Cause.CROSSED
            return
        counters = book.counters
        seen = book.last_update_id, counters.books_adopted, counters.snapshots_loaded
        if seen == self._seen:
            return
        self._seen = seen
        self._judge_place(counters.snapshots_loaded)
        truth = self.engine.truth(book.last_update_id)
        assert truth is not None, f"the exchange never had the id {book.last_update_id}"
        self.looks += 1
        self.has_been_read = True
        if not self.is_poisoned:
            self.judge_levels(truth, is_thorough=self.looks % ALL_HELD_EVERY == 0)

    def judge_levels(self, truth: Truth, *, is_thorough: bool) -> None:
        """Compare the book with the engine's."""
        view = self.book.view(beyond_horizon=True)
        kept = []
        for held, true, horizon, sign in (
            (view.bids, truth.bids, view.bid_horizon, 1),
            (view.asks, truth.asks, view.ask_horizon, -1),
        ):
            if horizon is None:
                assert held == true, "a side that is called complete differs"
                kept.append(held)
                continue
            inside = true[: bisect_right(true, -sign * horizon, key=_RANKS[sign])]
            assert held[: len(inside)] == inside, "inside the horizon the book differs"
            assert len(held) == len(inside) or sign * held[len(inside)][0] < sign * horizon, "a level that is not there"
            kept.append(inside)
            if is_thorough:
                assert set(held) <= set(true), "beyond the horizon there are levels that the exchange has not"
        if is_thorough:
            book = self.book
            for levels, horizon, read in (
                (kept[0], view.bid_horizon, book.bids),
                (kept[1], view.ask_horizon, book.asks),
            ):
                if levels or horizon is None:
                    assert tuple(tuple(level) for level in read()) == levels, "a read crosses the horizon unasked"
            assert book.is_readable == all(
                levels or horizon is None
                for levels, horizon in zip(kept, (view.bid_horizon, view.ask_horizon), strict=True)
            )

    def _judge_place(self, loads: int) -> None:
        """Inside an epoch the ids that can be read do not go back; after a snapshot only if the exchange's did."""
        update_id, epoch = self.book.last_update_id, self.synchronizer.epoch
        assert update_id is not None
        assert (epoch, update_id) >= (self._last_epoch, self._last_id), "the pair of epoch and id went back"
        if update_id < self._last_id:
            assert loads > self._last_loads, "ids went back without a snapshot"
            assert self.may_go_back, "ids went back, although the exchange's did not"
        self._last_id, self._last_epoch, self._last_loads = update_id, epoch, loads

    # -- the oracles of the end

    def judge_accounts(self) -> None:
        """Whatever came in has one end, and every change one cause."""
        synchronizer, requests, counters = self.synchronizer, self.synchronizer.requests, self.book.counters
        dropped = sum(synchronizer.updates_dropped.values())
        assert self.frames == counters.updates_applied + dropped + synchronizer.buffered_count, (
            "an update is unaccounted"
        )
        assert {cause: count for cause, count in synchronizer.state_changes.items() if count} == self._changes
        assert {cause: count for cause, count in synchronizer.resyncs.items() if count} == self._resyncs
        refresher = synchronizer.refresher
        assert {result: count for result, count in refresher.ended.items() if count} == self._refreshed
        started, ended = sum(refresher.started.values()), sum(refresher.ended.values())
        assert started == ended + refresher.aborted + refresher.is_under_way, "a refresh is unaccounted"
        if self._unsynchronized_since is None:
            assert abs(synchronizer.unsynchronized_s - self.unsynchronized_s) < 1e-6
        resyncs = sum(synchronizer.resyncs.values())
        assert resyncs <= self.resyncs_allowed, f"{resyncs} resyncs, but only {self.resyncs_allowed} faults"
        # Every snapshot was asked for once for the beginning or a resync, or again because an answer was of no use.
        late = requests.dropped[SnapshotDrop.LATE]
        again = requests.cancelled + requests.failed + sum(requests.dropped.values()) - late
        assert requests.issued[Purpose.SYNCHRONIZE] <= 1 + resyncs + again, "a needless snapshot"
        if not self.is_poisoned and not self.engine.restarts:
            assert refresher.ended[RefreshResult.AUDIT_CURED] == 0, "an audit has cured a book that was right"

    def judge_clean(self, elapsed_s: float, *, is_starved: bool) -> None:
        """Without a fault nothing needless happens, and what is due does."""
        synchronizer, requests = self.synchronizer, self.synchronizer.requests
        assert sum(synchronizer.resyncs.values()) == 0, "a resync without a fault"
        # Of two feeds the later one may be ahead when the snapshot comes; its id can lie in the hole between the two.
        wasted = min(1, synchronizer.updates_dropped[UpdateDrop.HOLE])
        assert requests.issued[Purpose.SYNCHRONIZE] <= 1 + wasted, "a needless snapshot"
        assert sum(requests.dropped.values()) <= wasted, "a snapshot was wasted"
        assert requests.issued[Purpose.CONFIRM] == requests.issued[Purpose.REQUESTED] == 0, (
            "a snapshot that nobody needed"
        )
        assert requests.issued[Purpose.DEEPEN] <= len(self.limits) - 1
        interval_s = self.refresh_interval_s
        assert requests.issued[Purpose.INTERVAL] <= (elapsed_s / interval_s if interval_s else 0)
        refreshed_at = synchronizer.refresher.refreshed_at
        if interval_s and not is_starved:
            assert refreshed_at is not None
            assert elapsed_s - refreshed_at <= interval_s + REFRESH_S_MAX, "a refresh that is due does not come"
        assert requests.failed == 0
        assert requests.cancelled <= requests.issued[Purpose.HORIZON]  # which took over a less urgent one
        dropped = {why.value for why, count in synchronizer.updates_dropped.items() if count}
        assert dropped <= {"STALE", "REPEATED", "HOLE"}, dropped
        assert self.book.counters.updates_malformed == 0
