"""The order book in plain Python: the definition one can read, the oracle of the tests, the base of the benchmarks.

Rule 1: it does exactly what docs/order-book.md says, as the compiled book does. Obvious comes before fast.
Rule 2: decode, judge, commit. Whatever can be refused is refused before anything changes.
Rule 3: one lock per book, and never two at once: `compare` and `adopt` copy the other book under its lock first.
Rule 4: the lock is held while integers are copied. Floats, Decimals, texts and lists are made after it.
Rule 5: a book is whole or it is none. Nothing in a commit can fail, except by Ctrl-C or a lack of memory. Then the book
        is forgotten, because half an update must not be read.

`ldc.book.pure.json` reads the bytes of a message. `ldc.book.pure.side` has levels, scales and horizons.
"""

import math
import operator
import sys
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from ldc.analytics import exact
from ldc.analytics.exact import KnownBook, KnownSide
from ldc.analytics.known import KnownReads
from ldc.analytics.view import BookView
from ldc.book.pure.arrays import check_out, fill_arrays, new_arrays
from ldc.book.pure.json import (
    DECIMALS_MAX,
    INT64_MAX,
    LEVELS_PER_MESSAGE_MAX,
    MESSAGE_BYTES_MAX,
    NESTING_MAX,
    Unreadable,
    message_text,
    read_message_header,
    read_snapshot,
    read_update,
)
from ldc.book.pure.lease import Lease
from ldc.book.pure.retain import RetainedUpdates
from ldc.book.pure.shared import RegionWriter
from ldc.book.pure.side import (
    LEVELS_PER_SIDE_MAX,
    Sides,
    checked_threshold,
    compare_sides,
    converter,
    count_worth,
    load_sides,
)
from ldc.book.pure.state import State
from ldc.book.pure.updates import (
    BookWatch,
    UpdateQueue,
    decode_levels,
    decode_price,
    decode_update,
    event_of,
)
from ldc.errors import (
    DepthCacheError,
    MalformedMessage,
    refused_for_more,
)
from ldc.sequence import SequenceRule, resolve_rule
from ldc.types import (
    ArrayCounts,
    BookArrays,
    BookCounters,
    BookTexts,
    Cause,
    Comparison,
    Header,
    Message,
    NumberType,
    Verdict,
)

if TYPE_CHECKING:
    import numpy
    import numpy.typing

__all__ = [
    "DECIMALS_MAX",
    "LEVELS_PER_MESSAGE_MAX",
    "LEVELS_PER_SIDE_MAX",
    "MESSAGE_BYTES_MAX",
    "NESTING_MAX",
    "BookReader",
    "BookWatch",
    "Lease",
    "OrderBook",
    "UpdateQueue",
    "decode_levels",
    "decode_price",
    "decode_update",
    "event_of",
    "read_header",
]

_MOVED = (
    "sides", "last_update_id", "event_time_ms", "transaction_time_ms", "received_time_ns", "is_first_after_snapshot",
)  # fmt: skip


def read_header(payload: Message) -> Header:
    """Return what a message of any event says about itself, wrapped by its stream or not; its levels are skipped.

    Raises ``MalformedMessage`` where it is not strict JSON, repeats a known key, or has a `U`, `u` or `pu` that is
    no update id.
    """
    try:
        return read_message_header(message_text(payload))
    except Unreadable as why:
        raise MalformedMessage(None, None, f"The message cannot be read: {why}; nothing of it was used.") from None


class _Reads(KnownReads):
    """Every read and property of a book: what `OrderBook` and `BookReader` have in common."""

    __slots__ = ("_state",)

    _state: State

    # reading: raises the error of `ldc.errors.REFUSALS` when the book cannot be proven right

    @property
    def best_bid(self) -> tuple[float, float] | None:
        """The highest bid, (price, quantity); None if nobody bids."""
        return self._best("bids")

    @property
    def best_ask(self) -> tuple[float, float] | None:
        """The lowest ask, (price, quantity); None if nobody asks."""
        return self._best("asks")

    def bids(
        self,
        limit: SupportsIndex | None = None,
        *,
        threshold_volume: float | Decimal | None = None,
        number: NumberType = float,
        beyond_horizon: bool = False,
    ) -> list[list[Any]]:
        """Return new ``[price, quantity]`` lists, best first: at most `limit`, worth at most `threshold_volume`.

        The worth is the sum of price x quantity; the first level is always there, whatever it is worth. `number` is
        float, Decimal or str; the last two are exact. `beyond_horizon` returns all that is held, gaps included.
        """
        return self._levels("bids", limit, threshold_volume, number, beyond_horizon)

    def asks(
        self,
        limit: SupportsIndex | None = None,
        *,
        threshold_volume: float | Decimal | None = None,
        number: NumberType = float,
        beyond_horizon: bool = False,
    ) -> list[list[Any]]:
        """As `bids`."""
        return self._levels("asks", limit, threshold_volume, number, beyond_horizon)

    def view(
        self, limit: SupportsIndex | None = None, *, number: NumberType = float, beyond_horizon: bool = False
    ) -> BookView[Any]:
        """Return both sides, ids, times and horizons, all of the same update id."""
        return self._view(limit, number, beyond_horizon, False)

    def _view(
        self, limit: SupportsIndex | None, number: NumberType, beyond_horizon: bool, whatever_state: bool
    ) -> BookView[Any]:
        wanted = exact.count_of(limit, "limit", 0)
        exact.check_number(number)
        state = self._state
        with state.lock:
            if whatever_state:
                sides = state.loaded()
            else:
                sides = state.readable() if beyond_horizon else state.readable_inside("bids", "asks")
            bids = sides.bids.top(wanted, beyond_horizon)
            asks = sides.asks.top(wanted, beyond_horizon)
            horizons = sides.bids.horizon_price, sides.asks.horizon_price
            truncated = [
                len(levels) < (len(side.keys) if beyond_horizon else side.inside_count)
                for side, levels in ((sides.bids, bids), (sides.asks, asks))
            ]
            price_decimals, quantity_decimals = sides.price_decimals, sides.quantity_decimals
            assert state.last_update_id is not None
            last_update_id = state.last_update_id
            times = state.event_time_ms, state.transaction_time_ms, state.received_time_ns
            epoch = state.epoch
        price_of, quantity_of = converter(number, price_decimals), converter(number, quantity_decimals)
        return BookView(
            tuple((price_of(price), quantity_of(quantity)) for price, quantity in bids),
            tuple((price_of(price), quantity_of(quantity)) for price, quantity in asks),
            last_update_id,
            *times,
            None if horizons[0] is None else price_of(horizons[0]),
            None if horizons[1] is None else price_of(horizons[1]),
            bids_truncated=truncated[0],
            asks_truncated=truncated[1],
            number=number,
            epoch=epoch,
        )

    def texts(self, limit: SupportsIndex | None = None) -> BookTexts:
        """Return both sides as JSON text, with the ids, times and horizons of the same update id."""
        view = self._view(limit, str, False, False)
        bids, asks = (
            "[" + ",".join(f'["{price}","{quantity}"]' for price, quantity in side) + "]"
            for side in (view.bids, view.asks)
        )
        return BookTexts(bids, asks, len(view.bids), len(view.asks), *view[2:8])

    def to_json(self, limit: SupportsIndex | None = None) -> bytes:
        """Return both sides as the body of a REST snapshot, with the horizons of sides that end there."""
        return self.texts(limit).to_json(None if limit is None else operator.index(limit))

    def to_numpy(self, side: str, limit: SupportsIndex | None = None) -> "numpy.typing.NDArray[numpy.float64]":
        """Return ``"bids"`` or ``"asks"`` as an array of shape (n, 2): prices and quantities, best first."""
        if side not in ("bids", "asks"):
            raise ValueError(f"no side {side!r}; the sides are 'bids' and 'asks'")
        levels = self._levels(side, limit)
        import numpy  # an optional extra: only who asks for an array needs it

        return numpy.array(levels, dtype=numpy.float64).reshape(len(levels), 2)

    def arrays(
        self, limit: SupportsIndex | None = None, *, number: type[float] | type[int] | None = None, out: Any = None
    ) -> BookArrays[Any] | ArrayCounts:
        """Return both sides of one update id as arrays of numpy, or write them into the arrays `out`."""
        wanted = exact.count_of(limit, "limit", 0)
        if number is not None and number is not float and number is not int:
            raise ValueError(f"number must be float or int, not {number!r}")
        views = None if out is None else check_out(out, number)
        state = self._state
        with state.lock:
            sides = state.readable_inside("bids", "asks")
            levels = sides.bids.top(wanted, False), sides.asks.top(wanted, False)
            place = state.last_update_id, sides.price_decimals, sides.quantity_decimals
        return new_arrays(levels, place, number) if views is None else fill_arrays(levels, place, views)

    def _known(self, *names: str, limit: int | None = None) -> KnownBook:
        """Return the levels of these sides inside their horizons, of one update id."""
        state = self._state
        with state.lock:
            sides = state.readable_inside(*names)
            bids, asks = (
                KnownSide(name, side.top(limit, False) if name in names else [], side.horizon_price)
                for name, side in (("bids", sides.bids), ("asks", sides.asks))
            )
            return KnownBook(bids, asks, sides.price_decimals, sides.quantity_decimals)

    def _needs_more(self, book: KnownBook, name: str) -> DepthCacheError:
        horizon = book.side(name).horizon
        assert horizon is not None
        at = exact.sum_as(horizon, book.price_decimals, float)
        return refused_for_more(self.market, Cause.LEFT_HORIZON, self.last_update_id, name, at)

    # looking at: never raises

    @property
    def rule(self) -> SequenceRule:
        return self._state.rule

    @property
    def market(self) -> str | None:
        return self._state.market

    @property
    def is_loaded(self) -> bool:
        return self._state.sides is not None

    @property
    def is_readable(self) -> bool:
        """Whether both sides can be read at this moment."""
        return self.unreadable_cause is None

    @property
    def unreadable_cause(self) -> str | None:
        """Why reading both sides would raise at this moment: the cause it would have, or None: they can be read."""
        with self._state.lock:
            try:
                self._state.readable_inside("bids", "asks")
            except DepthCacheError as error:
                return error.cause
        return None

    @property
    def suspended_by(self) -> str | None:
        """The cause given to `suspend` or `close`."""
        return self._state.closed_by or self._state.suspended_by

    @property
    def last_update_id(self) -> int | None:
        """The exchange's id that the book stands at; None until a snapshot is loaded."""
        return self._state.last_update_id

    @property
    def epoch(self) -> int:
        """A number that grows whenever the book can be read again after it could not, or has other levels at once.

        The pair of epoch and update id never goes back, not even when the exchange restarts its ids.
        """
        return self._state.epoch

    @property
    def event_time_ms(self) -> int | None:
        return self._state.event_time_ms

    @property
    def transaction_time_ms(self) -> int | None:
        return self._state.transaction_time_ms

    @property
    def received_time_ns(self) -> int | None:
        return self._state.received_time_ns

    @property
    def bid_horizon(self) -> float | None:
        """The lowest price to which the bids are complete; None: complete without end, or nothing loaded."""
        return self._horizon("bids")

    @property
    def ask_horizon(self) -> float | None:
        """The highest price to which the asks are complete; None: complete without end, or nothing loaded."""
        return self._horizon("asks")

    @property
    def bid_count(self) -> int:
        """All bids held, also past the horizon."""
        return self._count("bids")

    @property
    def ask_count(self) -> int:
        """All asks held, also past the horizon."""
        return self._count("asks")

    @property
    def is_crossed(self) -> bool:
        """The best bid held is not below the best ask held."""
        with self._state.lock:
            return self._state.sides is not None and self._state.sides.is_crossed

    @property
    def needs_attention(self) -> bool:
        """Crossed, or fewer than half of the loaded levels are left inside a horizon, or at `attend_at`."""
        with self._state.lock:
            return self._state.needs_attention

    @property
    def last_header(self) -> Header | None:
        """The header of the update that `apply` judged last."""
        return self._state.last_header

    @property
    def counters(self) -> BookCounters:
        with self._state.lock:
            return BookCounters(**self._state.counts)

    @property
    def price_decimals(self) -> int | None:
        """The scale of the prices; None until a snapshot is loaded."""
        sides = self._state.sides
        return None if sides is None else sides.price_decimals

    @property
    def quantity_decimals(self) -> int | None:
        """The scale of the quantities; None until a snapshot is loaded."""
        sides = self._state.sides
        return None if sides is None else sides.quantity_decimals

    def compare(self, other: "OrderBook") -> Comparison:
        """Count how this book differs from another of the same rule at the same update id. O(levels)."""
        theirs, their_id = self._other(other)
        ours, our_id = self._state.copy_sides()
        _check_ids_equal(our_id, their_id)
        return compare_sides(ours, theirs)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled; view() is a copy of its levels")

    # inside

    def _other(self, other: "OrderBook") -> tuple[Sides, int]:
        """Return a copy of the levels of a book that can be compared with this one, and its update id."""
        if not isinstance(other, OrderBook):
            raise TypeError(f"a book of the same implementation is needed, not a {type(other).__qualname__}")
        self._state.loaded()
        copied = other._state.copy_sides()
        if self.rule != other.rule:
            raise ValueError(f"the books differ in their rules: {self.rule.name!r} and {other.rule.name!r}")
        return copied

    def _best(self, name: str) -> tuple[float, float] | None:
        levels = self._levels(name, 1)
        return (levels[0][0], levels[0][1]) if levels else None

    def _levels(
        self,
        name: str,
        limit: SupportsIndex | None = None,
        threshold_volume: float | Decimal | None = None,
        number: NumberType = float,
        beyond_horizon: bool = False,
    ) -> list[list[Any]]:
        wanted = exact.count_of(limit, "limit", 0)
        threshold = checked_threshold(threshold_volume)
        exact.check_number(number)
        with self._state.lock:
            sides = self._state.readable() if beyond_horizon else self._state.readable_inside(name)
            levels = getattr(sides, name).top(wanted, beyond_horizon)
            price_decimals, quantity_decimals = sides.price_decimals, sides.quantity_decimals
        if threshold is not None:
            levels = levels[: count_worth(levels, price_decimals, quantity_decimals, threshold)]
        price_of, quantity_of = converter(number, price_decimals), converter(number, quantity_decimals)
        return [[price_of(price), quantity_of(quantity)] for price, quantity in levels]

    def _horizon(self, name: str) -> float | None:
        with self._state.lock:
            sides = self._state.sides
            if sides is None or getattr(sides, name).horizon is None:
                return None
            price: int = getattr(sides, name).horizon_price
            decimals = sides.price_decimals
        return converter(float, decimals)(price)  # type: ignore[no-any-return]

    def _count(self, name: str) -> int:
        with self._state.lock:
            sides = self._state.sides
            return 0 if sides is None else len(getattr(sides, name).keys)


class BookReader(_Reads):
    """A read-only face of an order book: all its reads and properties, and nothing that changes it.

    Thread-safety: any thread, at any time.
    """

    __slots__ = ()

    def __init__(self, book: "OrderBook") -> None:
        if not isinstance(book, OrderBook):
            raise TypeError(f"a BookReader reads an OrderBook, not a {type(book).__qualname__}")
        self._state = book._state

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("BookReader cannot be subclassed")


class OrderBook(_Reads):
    """An exact copy of one market's order book: a snapshot, and the depth updates that continue it.

    Args:
        rule: ``"spot"``, ``"futures"`` or a `SequenceRule`: how the market numbers its updates.
        market: a name for error messages.
        symbol: if given, an update that names another one in `s` is refused; ASCII letters compare in any case.

    Thread-safety: one thread writes at a time, any thread reads at any time.
    """

    __slots__ = ()

    def __init__(self, rule: str | SequenceRule, *, market: str | None = None, symbol: str | None = None) -> None:
        if symbol is not None and not isinstance(symbol, str):
            raise TypeError(f"symbol must be a str or None, not {type(symbol).__qualname__}")
        self._state = State(resolve_rule(rule), market, symbol)

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("OrderBook cannot be subclassed")

    @property
    def reader(self) -> BookReader:
        """A read-only face of this book, for other threads and callers."""
        return BookReader(self)

    def load_snapshot(
        self, body: Message, limit: SupportsIndex | None = None, *, received_time_ns: SupportsIndex | None = None
    ) -> None:
        """Replace everything by a REST snapshot, or raise ``MalformedMessage`` and change nothing. O(levels).

        `limit` is the number of levels a side that the venue honoured: a side with fewer is complete. Without it, every
        side that has levels may have more.
        """
        honoured = exact.count_of(limit, "limit", 1)
        received_time_ns = _check_received_time(received_time_ns)
        state = self._state
        try:
            snapshot = read_snapshot(message_text(body))
            sides = load_sides(snapshot, honoured)
            with state.lock:
                state.load(snapshot, sides, received_time_ns)
            state.wake_consumers()
        except Unreadable as why:
            with state.lock:
                state.counts["snapshots_refused"] += 1
                raise state.malformed("snapshot", why) from None

    def apply(self, payload: Message, received_time_ns: SupportsIndex | None = None) -> Verdict:
        """Judge a depth update and, if it continues the book, apply it; return what became of it.

        Raises ``BookNotLoaded`` before the first snapshot, ``MalformedMessage`` for what is no depth update; the book
        is then what it was. After ``Verdict.GAP`` it stands where it stood: load a snapshot.
        """
        try:
            return self._apply(payload, received_time_ns)
        finally:
            self._state.wake_consumers()

    def _apply(self, payload: Message, received_time_ns: SupportsIndex | None = None) -> Verdict:
        """As `apply`; but the consumers are not woken: the caller does it, by `wake_consumers`."""
        state = self._state
        state.loaded()
        received_time_ns = _check_received_time(received_time_ns)
        try:
            update = read_update(message_text(payload))
            with state.lock:
                verdict = state.apply(update, received_time_ns, payload)
                if verdict is Verdict.APPLIED and state.retained is not None:
                    state.retained.add(payload, received_time_ns)
                return verdict
        except Unreadable as why:
            with state.lock:
                state.counts["updates_malformed"] += 1
                raise state.malformed("depth update", why) from None

    def adopt(self, other: "OrderBook") -> None:
        """Take over the levels, scales and horizons of a book of the same rule at the same update id. O(levels)."""
        theirs, their_id = self._other(other)
        state = self._state
        with state.lock:
            state.loaded()
            assert state.last_update_id is not None
            _check_ids_equal(state.last_update_id, their_id)
            before = state.loaded()
            state.sides = theirs
            state.counts["books_adopted"] += 1
            state.note_epoch()
            state.note_adoption(before)
            state.publish()
        state.wake_consumers()

    def load_from(self, other: "OrderBook") -> None:
        """Become what another book is that has loaded a snapshot, and clear that one."""
        if not isinstance(other, OrderBook):
            raise TypeError(f"another OrderBook is needed, not a {type(other).__qualname__}")
        if other is self:
            raise RuntimeError("a book cannot load from itself")
        state, theirs = self._state, other._state
        if state.rule != theirs.rule:
            raise ValueError(f"the books follow different rules: {state.rule.name!r} and {theirs.rule.name!r}")
        with theirs.lock:
            theirs.loaded()
            moved = {name: getattr(theirs, name) for name in _MOVED}
            counts = {name: theirs.counts[name] for name in ("quantities_saturated", "levels_dropped")}
            theirs.forget()
            theirs.publish()
        with state.lock:
            for name, value in moved.items():
                setattr(state, name, value)
            state.attend_nowhere()
            state.counts["snapshots_loaded"] += 1
            for name, count in counts.items():
                state.counts[name] += count
            state.epoch += state.suspended_by is None and state.closed_by is None
            state.note_epoch()
            state.note_state(is_replaced=True)
            state.publish()
        state.wake_consumers()

    def retain_updates(self) -> None:
        """Keep the bytes of every update that is applied from now on, until `forget_retained`. Idempotent."""
        if self._state.retained is None:
            self._state.retained = RetainedUpdates()

    def forget_retained(self) -> None:
        """Forget the updates that were kept, and keep no more."""
        retained, self._state.retained = self._state.retained, None
        if retained is not None:
            retained.clear()

    @property
    def retained_count(self) -> int:
        """How many updates are kept."""
        return len(self._state.retained or ())

    def apply_retained(self, other: "OrderBook") -> None:
        """Apply the updates that another book has kept, oldest first, until one does not continue this book."""
        self._state.loaded()
        for payload, received_time_ns in other._state.retained or ():
            if self.apply(payload, received_time_ns) is Verdict.GAP:
                break

    def attend_at(self, update_id: int | None, updates: int | None = None) -> None:
        """Let `needs_attention` be true from an update id on, or after so many more updates. None: no longer."""
        state = self._state
        with state.lock:
            state.attend_at_id = math.inf if update_id is None else update_id
            state.attend_at_count = math.inf if updates is None else state.counts["updates_applied"] + updates

    def clear(self) -> None:
        """Forget levels, ids, times, horizons and scales; the counters and the suspension stay."""
        with self._state.lock:
            self._state.forget()
            self._state.note_state()
            self._state.publish()
        self._state.wake_consumers()

    def suspend(self, cause: str) -> None:
        """Refuse to be read, with this cause, until `resume`."""
        _check_cause(cause)
        with self._state.lock:
            self._state.suspended_by = cause
            self._state.note_state()
            self._state.publish()
        self._state.wake_consumers()

    def resume(self) -> None:
        """Undo `suspend`, but not `close`. After a suspension that begins an epoch."""
        with self._state.lock:
            self._state.epoch += self._state.suspended_by is not None and self._state.closed_by is None
            self._state.suspended_by = None
            self._state.note_state()
            self._state.publish()
        self._state.wake_consumers()

    def close(self, cause: str) -> None:
        """Refuse to be read, with this cause, for good: nothing undoes it, and the first cause stays. From any thread.

        It waits for no lock, because a signal handler may have interrupted a read of its own thread. Where the lock is
        held, the consumers of its updates are told by the next suspension, or when they look at its lease.
        """
        _check_cause(cause)
        state = self._state
        if state.closed_by is None:
            state.closed_by = cause
        if (state.watches or state.region is not None) and state.lock.acquire(blocking=False):
            try:
                state.note_state()
                state.publish()  # otherwise who holds the lock publishes with its next change
                queues = state.queues_to_wake()
            finally:
                state.lock.release()
            for queue in queues:
                queue.wake()

    def close_after_fork(self, cause: str) -> None:
        """Close the book in a forked child, and forget what it holds: a thread of the parent may have held its lock."""
        self._state.watches = ()
        self._state.lock = threading.Lock()
        self.forget_region()
        self.close(cause)
        self._state.forget()
        self.forget_retained()

    @property
    def lease(self) -> Lease | None:
        """The `Lease` that its writer renews, or None: the book never stalls. Set it before the book is shared."""
        return self._state.lease

    @lease.setter
    def lease(self, lease: Lease | None) -> None:
        if lease is not None and not isinstance(lease, Lease):
            raise TypeError(f"a lease of the same implementation is needed, not a {type(lease).__qualname__}")
        with self._state.lock:
            self._state.lease = lease
            if self._state.region is not None:
                self._state.region.inner.renew(lease)

    @property
    def region(self) -> RegionWriter | None:
        """The `RegionWriter` through which other processes read the book, or None. See `ldc.shared.Publisher`."""
        return self._state.region

    @region.setter
    def region(self, writer: RegionWriter | None) -> None:
        if writer is not None and not isinstance(writer, RegionWriter):
            raise TypeError(f"a region of the same implementation is needed, not a {type(writer).__qualname__}")
        with self._state.lock:
            self._state.region = writer
            if writer is not None:
                writer.inner.renew(self._state.lease)
                self._state.publish()

    def forget_region(self) -> None:
        """Share the book no more, in a forked child: no thread is left there that would free the book's lock."""
        self._state.region = None

    def held_levels(self, limit: SupportsIndex | None = None, *, number: NumberType = float) -> BookView[Any]:
        """Return a `BookView` of what is held, whether it can be trusted or not: for the writer, who decides that.

        It is a `view` with `beyond_horizon=True` that is not refused to a book that is suspended, stalled or crossed.
        Only `BookNotLoaded` is raised. A `BookReader` does not have it.
        """
        return self._view(limit, number, True, True)

    def check(self) -> None:
        """Raise ``AssertionError`` if an invariant is broken: a fault of ldc, never of its input. O(levels)."""
        with self._state.lock:
            self._state.check()

    def __sizeof__(self) -> int:
        """Return all memory that the book holds, in bytes."""
        state = self._state
        with state.lock:
            held: list[object] = [state, state.counts]
            if state.sides is not None:
                held.append(state.sides)
            return object.__sizeof__(self) + sum(map(sys.getsizeof, held))


# --- arguments --------------------------------------------------------------------------------------------------------


def _check_cause(cause: object) -> None:
    if not isinstance(cause, str):
        raise TypeError(f"a cause must be a str, not {type(cause).__qualname__}")
    if not cause:
        raise ValueError("a cause must not be empty; see ldc.Cause for the usual ones")


def _check_received_time(time_ns: SupportsIndex | None) -> int | None:
    time_ns = exact.whole(time_ns, "received_time_ns")
    if time_ns is not None and abs(time_ns) > INT64_MAX:
        raise OverflowError("received_time_ns must fit int64")
    return time_ns


def _check_ids_equal(our_id: int, their_id: int) -> None:
    if our_id != their_id:
        raise ValueError(f"the books stand at different update ids: {our_id} and {their_id}")
