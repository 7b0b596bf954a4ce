"""The order book in plain Python: the definition one can read, the oracle of the tests, the base of the benchmarks.

Rule 1: it does exactly what docs/order-book.md says, as the compiled book does; obvious comes before fast.
Rule 2: one lock per book, and never two at once: `compare` and `adopt` copy the other book out under its lock first.
Rule 3: the lock is held while integers are copied; floats, Decimals, texts and lists are made after it.

How the bytes of a message are read is in `ldc.book.pure.json`, what levels, scales and horizons are in
`ldc.book.pure.side`, how an update is judged and applied in `ldc.book.pure.state`. Here is what a user sees.
"""

import math
import operator
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

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
from ldc.book.pure.side import LEVELS_PER_SIDE_MAX, Ladders, compare_ladders, converter, count_worth, load_ladders
from ldc.book.pure.state import State
from ldc.errors import MalformedMessage
from ldc.sequence import SequenceRule, resolve_rule
from ldc.types import BookCounters, BookView, Comparison, Header, Message, NumberType, Verdict

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
    "OrderBook",
    "read_header",
]


def read_header(payload: Message) -> Header:
    """Return what a message of any event says about itself, wrapped by its stream or not; its levels are skipped.

    Raises ``MalformedMessage`` where it is not strict JSON, repeats a known key, or has a `U`, `u` or `pu` that is
    no update id.
    """
    try:
        return read_message_header(message_text(payload))
    except Unreadable as why:
        raise MalformedMessage(None, None, f"The message cannot be read: {why}; nothing of it was used.") from None


class _Reads:
    """Every read and look of a book; what `OrderBook` and `BookReader` have in common."""

    __slots__ = ("_state",)

    _state: State

    # reading: raises DepthCacheOutOfSync when the book cannot be proven right

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
    ) -> BookView:
        """Return both sides, ids, times and horizons, all of the same update id."""
        wanted = _wanted(limit)
        _check_number(number)
        state = self._state
        with state.lock:
            ladders = state.readable()
            if not beyond_horizon:
                self._check_horizon(ladders, "bids")
                self._check_horizon(ladders, "asks")
            bids = ladders.bids.top(wanted, beyond_horizon)
            asks = ladders.asks.top(wanted, beyond_horizon)
            horizons = ladders.bids.horizon_price, ladders.asks.horizon_price
            price_decimals, quantity_decimals = ladders.price_decimals, ladders.quantity_decimals
            assert state.last_update_id is not None
            ids_and_times = (
                state.last_update_id,
                state.event_time_ms,
                state.transaction_time_ms,
                state.received_time_ns,
            )
        price_of, quantity_of = converter(number, price_decimals), converter(number, quantity_decimals)
        return BookView(
            tuple((price_of(price), quantity_of(quantity)) for price, quantity in bids),
            tuple((price_of(price), quantity_of(quantity)) for price, quantity in asks),
            *ids_and_times,
            *(None if horizon is None else price_of(horizon) for horizon in horizons),
        )

    def to_numpy(self, side: str, limit: SupportsIndex | None = None) -> "numpy.typing.NDArray[numpy.float64]":
        """Return ``"bids"`` or ``"asks"`` as an array of shape (n, 2): prices and quantities, best first."""
        if side not in ("bids", "asks"):
            raise ValueError(f"no side {side!r}; the sides are 'bids' and 'asks'")
        levels = self._levels(side, limit)
        import numpy  # an optional extra: only who asks for an array needs it

        return numpy.array(levels, dtype=numpy.float64).reshape(len(levels), 2)

    # looking at: never raises

    @property
    def rule(self) -> SequenceRule:
        return self._state.rule

    @property
    def market(self) -> str | None:
        return self._state.market

    @property
    def is_loaded(self) -> bool:
        return self._state.ladders is not None

    @property
    def is_readable(self) -> bool:
        """Loaded, not suspended, and neither side has left its horizon."""
        state = self._state
        with state.lock:
            return state.ladders is not None and state.suspended_by is None and not state.ladders.has_left

    @property
    def suspended_by(self) -> str | None:
        """The cause given to `suspend`."""
        return self._state.suspended_by

    @property
    def last_update_id(self) -> int | None:
        """The exchange's id that the book stands at; None until a snapshot is loaded."""
        return self._state.last_update_id

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
            return self._state.ladders is not None and self._state.ladders.is_crossed

    @property
    def needs_attention(self) -> bool:
        """Crossed, or fewer than half of the loaded levels are left inside a horizon."""
        with self._state.lock:
            ladders = self._state.ladders
            return ladders is not None and (ladders.is_crossed or ladders.bids.is_short or ladders.asks.is_short)

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
        ladders = self._state.ladders
        return None if ladders is None else ladders.price_decimals

    @property
    def quantity_decimals(self) -> int | None:
        """The scale of the quantities; None until a snapshot is loaded."""
        ladders = self._state.ladders
        return None if ladders is None else ladders.quantity_decimals

    def compare(self, other: "OrderBook") -> Comparison:
        """Count how this book differs from another of the same rule at the same update id. O(levels)."""
        theirs, their_id = self._other(other)
        ours, our_id = self._state.ladders_copy()
        _check_ids_equal(our_id, their_id)
        return compare_ladders(ours, theirs)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled; view() is a copy of its levels")

    # inside

    def _other(self, other: "OrderBook") -> tuple[Ladders, int]:
        """Return a copy of the levels of a book that can be compared with this one, and its update id."""
        if not isinstance(other, OrderBook):
            raise TypeError(f"a book of the same implementation is needed, not a {type(other).__qualname__}")
        self._state.loaded()
        copied = other._state.ladders_copy()
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
        wanted = _wanted(limit)
        threshold = _threshold(threshold_volume)
        _check_number(number)
        with self._state.lock:
            ladders = self._state.readable()
            if not beyond_horizon:
                self._check_horizon(ladders, name)
            levels = getattr(ladders, name).top(wanted, beyond_horizon)
            price_decimals, quantity_decimals = ladders.price_decimals, ladders.quantity_decimals
        if threshold is not None:
            levels = levels[: count_worth(levels, price_decimals, quantity_decimals, threshold)]
        price_of, quantity_of = converter(number, price_decimals), converter(number, quantity_decimals)
        return [[price_of(price), quantity_of(quantity)] for price, quantity in levels]

    def _check_horizon(self, ladders: Ladders, name: str) -> None:
        side = getattr(ladders, name)
        if side.has_left:
            self._state.raise_left_horizon(name, converter(float, ladders.price_decimals)(side.horizon_price))

    def _horizon(self, name: str) -> float | None:
        with self._state.lock:
            ladders = self._state.ladders
            if ladders is None or getattr(ladders, name).horizon is None:
                return None
            price: int = getattr(ladders, name).horizon_price
            decimals = ladders.price_decimals
        return converter(float, decimals)(price)  # type: ignore[no-any-return]

    def _count(self, name: str) -> int:
        with self._state.lock:
            ladders = self._state.ladders
            return 0 if ladders is None else len(getattr(ladders, name).keys)


class BookReader(_Reads):
    """A read-only face of an order book: all its reads and looks, and nothing that changes it.

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
        """A read-only face of this book, to hand out."""
        return BookReader(self)

    def load_snapshot(self, body: Message, limit: int | None = None, *, received_time_ns: int | None = None) -> None:
        """Replace everything by a REST snapshot, or raise ``MalformedMessage`` and change nothing. O(levels).

        `limit` is the number of levels a side that the venue honoured: a side with fewer is complete. Without it, every
        side that has levels may have more.
        """
        _check_honoured(limit)
        _check_received_time(received_time_ns)
        state = self._state
        try:
            snapshot = read_snapshot(message_text(body))
            ladders = load_ladders(snapshot, limit)
            with state.lock:
                state.load(snapshot, ladders, received_time_ns)
        except Unreadable as why:
            with state.lock:
                state.counts["snapshots_refused"] += 1
                raise state.malformed("snapshot", why) from None

    def apply(self, payload: Message, received_time_ns: int | None = None) -> Verdict:
        """Judge a depth update and, if it continues the book, apply it; return what became of it.

        Raises ``BookNotLoaded`` before the first snapshot, ``MalformedMessage`` for what is no depth update; the book
        is then what it was. After ``Verdict.GAP`` it stands where it stood: load a snapshot.
        """
        state = self._state
        state.loaded()
        if received_time_ns is not None:
            _check_received_time(received_time_ns)
        try:
            update = read_update(message_text(payload))
            with state.lock:
                return state.apply(update, received_time_ns)
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
            state.ladders = theirs
            state.counts["books_adopted"] += 1

    def clear(self) -> None:
        """Forget levels, ids, times, horizons and scales; the counters and the suspension stay."""
        with self._state.lock:
            self._state.forget()

    def suspend(self, cause: str) -> None:
        """Refuse to be read, with this cause, until `resume`."""
        if not isinstance(cause, str):
            raise TypeError(f"a cause must be a str, not {type(cause).__qualname__}")
        if not cause:
            raise ValueError("a cause must not be empty; see ldc.Cause for the usual ones")
        with self._state.lock:
            self._state.suspended_by = cause

    def resume(self) -> None:
        """Undo `suspend`."""
        with self._state.lock:
            self._state.suspended_by = None

    def check(self) -> None:
        """Raise ``AssertionError`` if an invariant is broken: a fault of ldc, never of its input. O(levels)."""
        with self._state.lock:
            self._state.check()

    def __sizeof__(self) -> int:
        """Return all memory that the book holds, in bytes."""
        state = self._state
        with state.lock:
            held: list[object] = [state, state.counts]
            if state.ladders is not None:
                held.append(state.ladders)
            return object.__sizeof__(self) + sum(map(sys.getsizeof, held))


# --- arguments --------------------------------------------------------------------------------------------------------


def _wanted(limit: SupportsIndex | None) -> int | None:
    if limit is None:
        return None
    wanted = operator.index(limit)
    if wanted < 0:
        raise ValueError(f"limit must not be negative, and is {wanted}")
    return wanted


def _check_honoured(limit: int | None) -> None:
    if limit is None:
        return
    if not isinstance(limit, int):
        raise TypeError(f"limit must be an int or None, not {type(limit).__qualname__}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")


def _check_received_time(time_ns: int | None) -> None:
    if time_ns is None:
        return
    if not isinstance(time_ns, int):
        raise TypeError(f"received_time_ns must be an int or None, not {type(time_ns).__qualname__}")
    if abs(time_ns) > INT64_MAX:
        raise OverflowError("received_time_ns must fit int64")


def _threshold(value: float | Decimal | None) -> float | None:
    if value is None:
        return None
    if math.isnan(value):  # raises TypeError itself for what is no real number
        raise ValueError("threshold_volume must not be NaN")
    return float(value)


def _check_number(number: object) -> None:
    if not (number is float or number is Decimal or number is str):
        raise ValueError(f"number must be float, Decimal or str, not {number!r}")


def _check_ids_equal(our_id: int, their_id: int) -> None:
    if our_id != their_id:
        raise ValueError(f"the books stand at different update ids: {our_id} and {their_id}")
