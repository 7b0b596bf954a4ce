"""One market of a simulated history as its caller drives it, and the oracles that check every step.

Rule 1: this is the caller that docs/synchronizer.md describes, and nothing more: the hot path, the actions, the timers.
Rule 2: the oracles check every step. What can be read is what the engine had at that id, or the seed has failed.
"""

import random
import zlib
from bisect import bisect_right
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from history_bounds import REFUSED_IN_A_ROW_MAX
from history_engine import EngineMarket, Level, Truth
from sync_kit import check

from ldc.errors import MalformedMessage
from ldc.sync.actions import (
    CancelSnapshot,
    Purpose,
    Refreshed,
    RefreshResult,
    RequestSnapshot,
    SnapshotDrop,
    StateChanged,
    UpdateDrop,
)
from ldc.sync.machine import Synchronizer
from ldc.types import Cause, SyncState

if TYPE_CHECKING:
    from ldc.book import OrderBook

REFRESH_S_MAX = 6.0
"""How late an interval refresh may be: a download, and a quiet stream that has to reach its snapshot."""

_RANKS: dict[int, Callable[[Level], float]] = {1: lambda level: -level[0], -1: lambda level: level[0]}

ALL_HELD_EVERY = 8
"""One of so many checks also compares what is held past the horizon, and the reads that end at the horizon."""


class SimulatedMarket:
    """A market's book and synchronizer, their caller, and what the oracles know."""

    def __init__(
        self,
        books: ModuleType,
        engine: EngineMarket,
        rng: random.Random,
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
            random=rng.random,
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
        """A hash of all actions with their times, and of the book's id after each input."""
        self._request = request
        self._cancel = cancel

        self.delivered = 0
        """Updates that were delivered."""
        self.resyncs_allowed = 0
        self.is_falsified = False
        """A snapshot was false where nothing could notice it. The next audits must."""
        self.has_been_read = False
        self.is_stalled = False
        """Whether the lease has ended."""
        self.stalled_checks = 0
        """Checks of a book that could be read if the lease had not ended."""
        self.unsynchronized_s = 0.0
        self.checks = 0
        self._unsynchronized_since: float | None = 0.0
        self._changes: dict[Cause, int] = {}
        self._resyncs: dict[Cause, int] = {}
        self._refreshed: dict[RefreshResult, int] = {}
        self._implausible_before = 0
        self._seen: tuple[int | None, int, int] = (None, 0, 0)
        self._last_id = 0
        self._last_epoch = 0
        self._last_loads = 0

    @property
    def may_go_back(self) -> bool:
        """Whether the ids of the exchange have restarted."""
        return self.engine.restarts + self.engine.step_backs > 0

    @property
    def implausible_count(self) -> int:
        """Snapshots that were refused as implausible since the book was last synchronized."""
        return self._implausible_ever - self._implausible_before

    @property
    def _implausible_ever(self) -> int:
        dropped = self.synchronizer.requests.dropped
        return dropped[SnapshotDrop.LAGGING] + dropped[SnapshotDrop.WRONG_PRICES]

    # -- the caller

    def receive(self, connection_id: int, payload: bytes, now: float) -> None:
        """Handle an update on the hot path, as the owner of a socket does."""
        self.delivered += 1
        synchronizer = self.synchronizer
        if synchronizer.wants_every_update:
            synchronizer.receive_update(connection_id, memoryview(payload), None, now)
        else:
            try:
                verdict = self.book.apply(payload, None)
            except MalformedMessage:
                synchronizer.update_malformed(now)
            else:
                if verdict or self.book.needs_attention:
                    self.check_readable()
                    synchronizer.after_apply(connection_id, verdict, payload, None, now)
        if self.log is not None:
            self.log.append((now, connection_id, self.book.last_header))
        self.after_input(now)

    def after_input(self, now: float) -> None:
        """Run the actions, and let the oracles check the step."""
        for action in self.synchronizer.drain():
            if self.log is not None:
                self.log.append(action)
            self.digest = zlib.crc32(repr((now, action)).encode(), self.digest)
            match action:
                case CancelSnapshot():
                    assert self.request is not None, "a request was cancelled that is not awaited"
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
        self.check_readable()

    def tick(self, now: float) -> None:
        """Time has passed to `due`."""
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
            self._implausible_before = self._implausible_ever
            if change.state in (SyncState.BUFFERING, SyncState.IDLE):
                self._resyncs[change.cause] = self._resyncs.get(change.cause, 0) + 1

    # -- the oracles of every step

    def check_readable(self) -> None:
        """What can be read is what the engine had, and ids do not go back."""
        book = self.book
        if book.suspended_by is not None:
            assert self.implausible_count <= REFUSED_IN_A_ROW_MAX, "a snapshot was refused once too often"
            return
        assert (book.unreadable_cause == Cause.STALLED) == self.is_stalled, "not what the lease says"
        if self.is_stalled:
            self.stalled_checks += 1
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
        self.checks += 1
        self.has_been_read = True
        if not self.is_falsified:
            self.judge_levels(truth, is_thorough=self.checks % ALL_HELD_EVERY == 0)

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
                    assert tuple(tuple(level) for level in read()) == levels, (
                        "a read crosses the horizon without beyond_horizon"
                    )
            assert book.is_readable == all(
                levels or horizon is None
                for levels, horizon in zip(kept, (view.bid_horizon, view.ask_horizon), strict=True)
            )

    def _judge_place(self, loads: int) -> None:
        """Readable ids do not go back within an epoch, and after a snapshot only if the exchange's did."""
        update_id, epoch = self.book.last_update_id, self.synchronizer.epoch
        assert update_id is not None
        assert (epoch, update_id) >= (self._last_epoch, self._last_id), "the pair of epoch and id went back"
        if update_id < self._last_id:
            assert loads > self._last_loads, "ids went back without a snapshot"
            assert self.may_go_back, "ids went back, although the exchange's did not"
        self._last_id, self._last_epoch, self._last_loads = update_id, epoch, loads

    # -- the oracles of the end

    def judge_accounts(self) -> None:
        """Every update and request has one end, every change of state one cause."""
        synchronizer, requests, counters = self.synchronizer, self.synchronizer.requests, self.book.counters
        dropped = sum(synchronizer.updates_dropped.values())
        assert self.delivered == counters.updates_applied + dropped + synchronizer.buffered_count, (
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
        # A snapshot is requested for the beginning, for a resync, or because the last answer was useless.
        late = requests.dropped[SnapshotDrop.LATE]
        again = requests.cancelled + requests.failed + sum(requests.dropped.values()) - late
        assert requests.issued[Purpose.SYNCHRONIZE] <= 1 + resyncs + again, "a needless snapshot"
        if not self.is_falsified and not self.may_go_back:
            assert refresher.ended[RefreshResult.AUDIT_CURED] == 0, "an audit has cured a book that was right"

    def judge_clean(self, elapsed_s: float, *, is_starved: bool) -> None:
        """Without a fault nothing needless happens, and what is due does."""
        synchronizer, requests = self.synchronizer, self.synchronizer.requests
        assert sum(synchronizer.resyncs.values()) == 0, "a resync without a fault"
        # Of two streams the later one may be ahead when the snapshot comes. Its id can lie in the hole between them.
        wasted = min(1, synchronizer.updates_dropped[UpdateDrop.HOLE])
        assert requests.issued[Purpose.SYNCHRONIZE] <= 1 + wasted, "a needless snapshot"
        assert sum(requests.dropped.values()) <= wasted, "a snapshot was wasted"
        assert requests.issued[Purpose.CONFIRM] == requests.issued[Purpose.REQUESTED] == 0, "a snapshot without a need"
        assert requests.issued[Purpose.DEEPEN] <= len(self.limits) - 1
        interval_s = self.refresh_interval_s
        assert requests.issued[Purpose.INTERVAL] <= (elapsed_s / interval_s if interval_s else 0)
        refreshed_at = synchronizer.refresher.refreshed_at
        if interval_s and not is_starved:
            assert refreshed_at is not None
            assert elapsed_s - refreshed_at <= interval_s + REFRESH_S_MAX, "a refresh that is due does not come"
        assert requests.failed == 0
        assert requests.cancelled <= requests.issued[Purpose.HORIZON]  # which replaced a less urgent one
        dropped = {why.value for why, count in synchronizer.updates_dropped.items() if count}
        assert dropped <= {"STALE", "REPEATED", "HOLE"}, dropped
        assert self.book.counters.updates_malformed == 0
