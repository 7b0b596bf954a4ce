"""One market as its user sees it: a compiled reader, a state, a status, and waiting without polling.

Rule 1: a read goes straight to the book through `reader`.
Rule 2: any thread may call everything here. Changes of the market are posted to its feed group.
"""

import time
from collections.abc import Callable

from ldc.book import BookReader, has_system_threads
from ldc.errors import BookNotLoaded, DepthCacheError, refused, refused_as_too_old, refused_unloaded
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.manager import parameters
from ldc.sequence import SequenceRule
from ldc.types import BookCounters, Cause, DepthCacheStatus, Header, SyncState
from ldc.venues import plain_market


class DepthCache:
    """A live local copy of one market's order book. Made by the manager's ``create_depth_cache``.

    It is a reader of its book: it has every read, look and analysis of `BookReader`, at the same cost. They raise what
    the manager's reads raise.

    Thread-safety: every method may be called from any thread.
    """

    __slots__ = (
        "_group",
        "_live",
        "arrays",
        "asks",
        "bids",
        "compare",
        "depth",
        "exchange",
        "fill",
        "grouped",
        "imbalance",
        "market",
        "price_at",
        "prices",
        "reader",
        "texts",
        "to_json",
        "to_numpy",
        "view",
    )

    def __init__(self, exchange: str, live: LiveMarket, group: FeedGroup) -> None:
        self.exchange = exchange
        """Its exchange."""
        self.market = live.market
        """As the user spelt it; at another exchange than the manager's own, "exchange:market"."""
        self.reader: BookReader = live.book.reader
        """A read-only view of the compiled book, at the book's own cost: ``best_bid``, ``bids``, ``view``, ...

        Reads raise what the manager's raise, with the same cause: `DepthCacheOutOfSync` whenever the copy cannot be
        proven right, `DepthCacheAlreadyStopped` after the stop, `UnknownMarket` if the exchange has no such market.
        """
        self._live = live
        self._group = group
        # The reader's own methods, with their signatures and types: nothing stands between the caller and the book.
        self.bids = self.reader.bids
        self.asks = self.reader.asks
        self.view = self.reader.view
        self.texts = self.reader.texts
        self.to_json = self.reader.to_json
        self.to_numpy = self.reader.to_numpy
        self.arrays = self.reader.arrays
        self.prices = self.reader.prices
        self.imbalance = self.reader.imbalance
        self.fill = self.reader.fill
        self.price_at = self.reader.price_at
        self.depth = self.reader.depth
        self.grouped = self.reader.grouped
        self.compare = self.reader.compare

    def __repr__(self) -> str:
        return f"<DepthCache {self.market} at {self.exchange}: {self.state.value}, id {self.reader.last_update_id}>"

    @property
    def state(self) -> SyncState:
        """The state of its synchronization."""
        return self._live.synchronizer.state

    @property
    def is_synchronized(self) -> bool:
        """Whether both sides can be read."""
        return self.reader.is_readable

    @property
    def group(self) -> FeedGroup:
        """The feed group that carries it."""
        return self._group

    @property
    def live(self) -> LiveMarket:
        """The market as its feed group keeps it."""
        return self._live

    def explain(self, error: DepthCacheError) -> DepthCacheError:
        """Return the error for a read that raised this one: that no wait can help, or the same with its reason."""
        over, problem = self._why_over(), self._live.last_error
        if over is None and isinstance(error, BookNotLoaded) and problem is not None:
            return refused_unloaded(self.market, Cause.NOT_LOADED, self._live.book.suspended_by, problem=problem)
        return over or error

    def _why_over(self) -> DepthCacheError | None:
        """Return the error that says why it will never be readable again, or None: it may be."""
        live, last_update_id = self._live, self.reader.last_update_id
        state, cause = live.synchronizer.state, live.synchronizer.cause
        if live.is_removed or state is SyncState.STOPPED:
            why = None if live.ended_by is None else f"its feed has given it up: {live.ended_by.rstrip('.')}"
            return refused(self.market, Cause.STOPPED, last_update_id, why=why)
        if state is not SyncState.FAILED or cause is None:
            return None
        said = f", and says: {live.last_error.rstrip('.')}" if live.last_error else ""
        plain = plain_market(live.symbol)
        hint = f"; did you mean {plain!r}?" if plain is not None else ""
        why = f"{self.exchange} does not know the market{said}{hint}" if cause is Cause.UNKNOWN_MARKET else None
        return refused(self.market, cause, last_update_id, why=why)

    def why_refused(self) -> DepthCacheError | None:
        """Return the error that a read of both sides raises at this moment, or None: they can be read."""
        try:
            self.reader.view(0)
        except DepthCacheError as error:
            return self.explain(error)
        return None

    @property
    def _is_over(self) -> bool:
        """Whether it will never be readable again."""
        return self._live.is_removed or self._live.synchronizer.state in (SyncState.FAILED, SyncState.STOPPED)

    def raise_if_over(self) -> None:
        """Raise the error that says why it will never be readable again, if that is so."""
        if (error := self._why_over()) is not None:
            raise error

    # what the reader shows

    @property
    def best_bid(self) -> tuple[float, float] | None:
        """As `BookReader.best_bid`."""
        return self.reader.best_bid

    @property
    def best_ask(self) -> tuple[float, float] | None:
        """As `BookReader.best_ask`."""
        return self.reader.best_ask

    @property
    def mid(self) -> float | None:
        """As `BookReader.mid`."""
        return self.reader.mid

    @property
    def spread(self) -> float | None:
        """As `BookReader.spread`."""
        return self.reader.spread

    @property
    def micro_price(self) -> float | None:
        """As `BookReader.micro_price`."""
        return self.reader.micro_price

    @property
    def is_loaded(self) -> bool:
        """As `BookReader.is_loaded`."""
        return self.reader.is_loaded

    @property
    def is_readable(self) -> bool:
        """As `BookReader.is_readable`."""
        return self.reader.is_readable

    @property
    def suspended_by(self) -> str | None:
        """As `BookReader.suspended_by`."""
        return self.reader.suspended_by

    @property
    def epoch(self) -> int:
        """As `BookReader.epoch`."""
        return self.reader.epoch

    @property
    def last_update_id(self) -> int | None:
        """As `BookReader.last_update_id`."""
        return self.reader.last_update_id

    @property
    def event_time_ms(self) -> int | None:
        """As `BookReader.event_time_ms`."""
        return self.reader.event_time_ms

    @property
    def transaction_time_ms(self) -> int | None:
        """As `BookReader.transaction_time_ms`."""
        return self.reader.transaction_time_ms

    @property
    def received_time_ns(self) -> int | None:
        """As `BookReader.received_time_ns`."""
        return self.reader.received_time_ns

    @property
    def bid_horizon(self) -> float | None:
        """As `BookReader.bid_horizon`."""
        return self.reader.bid_horizon

    @property
    def ask_horizon(self) -> float | None:
        """As `BookReader.ask_horizon`."""
        return self.reader.ask_horizon

    @property
    def bid_count(self) -> int:
        """As `BookReader.bid_count`."""
        return self.reader.bid_count

    @property
    def ask_count(self) -> int:
        """As `BookReader.ask_count`."""
        return self.reader.ask_count

    @property
    def is_crossed(self) -> bool:
        """As `BookReader.is_crossed`."""
        return self.reader.is_crossed

    @property
    def needs_attention(self) -> bool:
        """As `BookReader.needs_attention`."""
        return self.reader.needs_attention

    @property
    def last_header(self) -> Header | None:
        """As `BookReader.last_header`."""
        return self.reader.last_header

    @property
    def counters(self) -> BookCounters:
        """As `BookReader.counters`."""
        return self.reader.counters

    @property
    def price_decimals(self) -> int | None:
        """As `BookReader.price_decimals`."""
        return self.reader.price_decimals

    @property
    def quantity_decimals(self) -> int | None:
        """As `BookReader.quantity_decimals`."""
        return self.reader.quantity_decimals

    @property
    def rule(self) -> SequenceRule:
        """As `BookReader.rule`."""
        return self.reader.rule

    @property
    def unreadable_cause(self) -> str | None:
        """The cause of the error that a read of both sides raises at this moment, or None: they can be read."""
        return self._unreadable_cause()

    # waiting

    def has_levels(self, levels: int | None) -> bool:
        """Return whether both sides can be read, and each has so many levels or all of the exchange. O(levels)."""
        if levels is None or not self.is_synchronized:
            return self.is_synchronized
        try:
            view = self.reader.view(levels)
        except DepthCacheError:
            return False
        sides = ((view.bids, view.bid_horizon), (view.asks, view.ask_horizon))
        return all(len(side) >= levels or horizon is None for side, horizon in sides)

    def raise_if_shallow(self, min_levels: int, **known: int) -> None:
        """Raise with the cause LEFT_HORIZON if a side that is not complete has fewer levels."""
        horizons = {"bids": self.reader.bid_horizon, "asks": self.reader.ask_horizon}
        for side, count in known.items():
            if count < min_levels and horizons[side] is not None:
                why = f"{count} {side} are known, and min_levels is {min_levels}"
                raise refused(self.market, Cause.LEFT_HORIZON, self.reader.last_update_id, why=why)

    def wait_until_synchronized(self, timeout: float | None = None, *, levels: int | None = None) -> bool:
        """Block until both sides can be read; return False if `timeout` seconds are over first.

        `levels`: also until each side has so many, or all that the exchange has. The first snapshot has 100.

        Raises `UnknownMarket` or `DepthCacheAlreadyStopped` as soon as no wait can help.
        """

        def is_decided() -> bool:
            return self.has_levels(levels) or self._is_over

        levels = None if levels is None else parameters.integer("levels", levels)
        decided = self._wait_for(is_decided, timeout)
        if self.has_levels(levels):
            return True
        if decided:
            self.raise_if_over()
        return False

    def wait_for_update(
        self, after_update_id: int | None = None, timeout: float | None = None, *, spin_us: float = 0
    ) -> int | None:
        """Block until the book has moved past an update id; return the new id, or None after `timeout` seconds.

        With an id, it raises `DepthCacheOutOfSync`, with the cause, if the book cannot be read before the call or
        during it. Then wait with `wait_until_synchronized`, or with None as the id.

        With None, it waits for an id past the present one; if the book cannot be read now, until it can. It raises when
        a book that was readable at the call is lost.

        After the exchange has restarted its ids, an older id counts as past. The new, lower one is returned at once.

        `spin_us`: microseconds to look at the book before the thread sleeps, without the GIL. It costs a core for that
        time, and saves the wake-up of a sleeping thread, some tens of microseconds.

        Raises `UnknownMarket` or `DepthCacheAlreadyStopped` as `wait_until_synchronized`.
        """
        if after_update_id is not None:
            after_update_id = parameters.update_id(after_update_id, self.reader.last_update_id)
        spin_us = parameters.number("spin_us", spin_us)
        after, is_held = after_update_id, after_update_id is not None or self.is_synchronized
        if after is None and is_held:
            after = self.reader.last_update_id
        timeout_s = parameters.timeout(timeout)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        # Between two updates a waiting thread runs little else than this, with cold caches: so it asks C first.
        if after is not None and has_system_threads() and not self._group.is_own_thread:
            reached = self._live.binding.wait_past(after, timeout_s, spin_us / 1e6)
            if reached is not None:
                return reached
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        lost_by: list[DepthCacheError] = []

        def is_decided() -> bool:
            if self.id_past(after) is not None or self._is_over:
                return True
            if is_held and not self.is_synchronized and (error := self.why_refused()) is not None:
                lost_by.append(error)
            return bool(lost_by)

        self._wait_for(is_decided, timeout)
        reached = self.id_past(after)
        if reached is None:
            self.raise_if_over()
            if lost_by:
                raise lost_by[0]
        return reached

    def look_for_update(self, after_update_id: int | None) -> Callable[[], int | None]:
        """Return a function that looks for what `wait_for_update` waits for.

        It returns the new id, or None: not yet. It raises what `wait_for_update` raises.
        """
        if after_update_id is not None:
            after_update_id = parameters.update_id(after_update_id, self.reader.last_update_id)
        after, is_held = after_update_id, after_update_id is not None or self.is_synchronized
        if after is None and is_held:
            after = self.reader.last_update_id

        def look() -> int | None:
            reached = self.id_past(after)
            if reached is None:
                self.raise_if_over()
                if is_held and not self.is_synchronized and (error := self.why_refused()) is not None:
                    raise error
            return reached

        return look

    def id_past(self, after: int | None) -> int | None:
        """Return the book's update id, if it can be read and is past that id (None: any); otherwise None."""
        reached = self.reader.last_update_id if self.is_synchronized else None
        if reached is None or after is None or reached > after:
            return reached
        id_before_restart = self._live.synchronizer.id_before_restart
        return reached if id_before_restart is not None and reached < after <= id_before_restart else None

    def _wait_for(self, is_decided: Callable[[], bool], timeout: float | None) -> bool:
        timeout_s = parameters.timeout(timeout)
        if is_decided():
            return True
        self.raise_if_own_thread()
        return self._live.signal.wait_for(is_decided, timeout_s)

    def raise_if_own_thread(self) -> None:
        """Raise ``RuntimeError`` in the thread that feeds it, which would wait for itself."""
        if self._group.is_own_thread:
            raise RuntimeError(f"the thread that feeds {self.market!r} cannot wait for it; wait in another thread")

    @property
    def proof_age_s(self) -> float:
        """Seconds since the last proof that the book is current: an update, a pong, a probe. O(connections)."""
        return time.monotonic() - self._group.proven_at(self._live)

    def raise_if_older(self, max_age_s: float) -> None:
        """Raise `DepthCacheOutOfSync` with the cause TOO_OLD if the last proof is older than that.

        A book that cannot be read whatever its age raises the error of that.
        """
        max_age_s = parameters.age(max_age_s)
        age_s = self.proof_age_s
        if not age_s <= max_age_s:  # written this way, NaN allows nothing
            last_update_id = self.reader.last_update_id
            too_old = refused_as_too_old(self.market, Cause.TOO_OLD, last_update_id, age_s, max_age_s)
            raise self.why_refused() or too_old

    def status(self) -> DepthCacheStatus:
        """Return the status as an immutable value; `progress` is None, only the manager knows it. O(1)."""
        live, reader, synchronizer = self._live, self.reader, self._live.synchronizer
        cause = self._unreadable_cause()
        return DepthCacheStatus(
            market=self.market,
            exchange=self.exchange,
            state=synchronizer.state,
            state_since=time.time() - (time.monotonic() - synchronizer.state_since),
            is_synchronized=cause is None,
            cause=cause,
            last_update_id=reader.last_update_id,
            event_time_ms=reader.event_time_ms,
            transaction_time_ms=reader.transaction_time_ms,
            received_time_ns=reader.received_time_ns,
            bid_count=reader.bid_count,
            ask_count=reader.ask_count,
            bid_horizon=reader.bid_horizon,
            ask_horizon=reader.ask_horizon,
            counters=reader.counters,
            resyncs={cause.value: count for cause, count in synchronizer.resyncs.items() if count},
            updates_dropped=self._updates_dropped(),
            snapshots_dropped={why.value: count for why, count in synchronizer.requests.dropped.items() if count},
            audits={result.value: count for result, count in synchronizer.refresher.ended.items() if count},
            restart_count=live.restart_count,
            last_restart_time=live.last_restart_time,
            reconnects=self._group.reconnects,
            last_error=live.last_error or self._group.last_error,
            connections=self._group.connections_of(live),
            proof_age_s=self.proof_age_s,
            progress=None,
            epoch=reader.epoch,
        )

    def _unreadable_cause(self) -> str | None:
        """Return the cause of the error that a read of both sides raises at this moment, or None."""
        cause = self.reader.unreadable_cause
        over = None if cause is None else self._why_over()
        return cause if over is None else over.cause

    def _updates_dropped(self) -> dict[str, int]:
        """Return the counts by reason. The duplicates that the frame readers have counted are STALE."""
        counts = {why.value: count for why, count in self._live.synchronizer.updates_dropped.items() if count}
        if duplicates := self._live.binding.duplicates:
            counts["STALE"] = counts.get("STALE", 0) + duplicates
        return counts
