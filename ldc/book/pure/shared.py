"""A book into shared memory and out of it, in plain Python: the definition of what include/ldc_shared.h lays out.

Rule 1: words of eight bytes are stored and loaded at once, in order. That is so on x86-64, where stores are not
        reordered. Elsewhere `RegionWriter` and `Attachment` refuse: a copy might be torn and nobody would notice.
Rule 2: nothing that stands in the memory is believed. Sizes are checked before they are used, every loop has a bound.
Rule 3: the heartbeat says that the process runs. How old a book may be is decided by the time of its last proof alone.
"""

import mmap
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, SupportsIndex

from ldc.analytics import exact
from ldc.analytics.exact import KnownBook, KnownSide
from ldc.analytics.known import KnownReads
from ldc.analytics.view import BookView
from ldc.book.pure.arrays import check_out, fill_arrays, new_arrays
from ldc.book.pure.lease import Lease
from ldc.book.pure.side import BookSide, Level, checked_threshold, converter, count_worth
from ldc.errors import (
    DepthCacheError,
    MalformedMessage,
    is_final,
    refused,
    refused_for_more,
    refused_past_horizon,
    refused_unloaded,
)
from ldc.types import ArrayCounts, BookArrays, Cause, NumberType

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    from ldc.book.pure.book import BookReader, OrderBook

MAGIC = int.from_bytes(b"LDCBOOK\0", "little")
VERSION = 1
LEVELS_MAX = 50_000
DECIMALS_MAX = 18
NEVER = -(2**63)
LATE_NS = 15_000_000
"""A heartbeat that is older says nothing: the reader looks whether the feeder lives."""
FUTURE_NS = 30_000_000
"""A proof that is so far in the future is of another clock."""
HEARTBEAT_S = 0.01
POLL_S = 0.001
SUCCESSOR_NS = 20_000_000
"""Between two looks for the next feeder while the heartbeat is late."""
ATTEMPTS_MAX = 1000
"""Copies taken in vain, because each was overwritten meanwhile, before a read gives up."""
LOOKS_MAX = 4
"""At a reader that has another attachment after each."""
NO_WAITER_SLOT = 2**32 - 1
"""A plain book wakes nobody: readers poll."""

READABLE, NOT_LOADED, SUSPENDED, CROSSED, LEFT_HORIZON, TOO_OLD, FEEDER_GONE, MALFORMED, BUSY = range(1, 10)
CAUSES = (
    None, None, Cause.NOT_LOADED, None, Cause.CROSSED, Cause.LEFT_HORIZON, Cause.TOO_OLD, Cause.FEEDER_GONE,
    "MALFORMED", "BUSY",
)  # fmt: skip
HAS_EVENT_TIME, HAS_TRANSACTION_TIME, HAS_RECEIVED_TIME, HAS_BID_HORIZON, HAS_ASK_HORIZON, IS_LOADED = (
    1 << bit for bit in range(6)
)

# The head of a region up to `latest`, and the head of a copy.
_HEAD = struct.Struct("<QIIIIQQqiIQ64s64s")
_VIEW = struct.Struct("<Q6qII32siiIIqQ")
_HEAD_BYTES = 256
_LATEST, _HEARTBEAT, _PROVEN, _LEASE, _CHANGE_AND_ENDED = (place // 8 for place in (192, 200, 208, 216, 224))
assert _HEAD.size == 192
assert _VIEW.size == 128


class _View(NamedTuple):
    """The head of a copy."""

    sequence: int
    last_update_id: int
    event_time_ms: int
    transaction_time_ms: int
    received_time_ns: int
    bid_horizon: int
    ask_horizon: int
    flags: int
    state: int
    cause: bytes
    price_scale: int
    quantity_scale: int
    bid_count: int
    ask_count: int
    epoch: int
    reserved: int


_NOTHING = _View(0, 0, 0, 0, 0, 0, 0, 0, NOT_LOADED, b"", 0, 0, 0, 0, 0, 0)


def _check_machine() -> None:
    if platform.machine() not in ("x86_64", "AMD64", "amd64"):
        raise OSError(
            f"the plain Python book cannot share memory on {platform.machine()}, where stores may be reordered; "
            "install ldc with its extension"
        )


def _cut(text: str, room: int) -> bytes:
    """Return a text as UTF-8 that fits so many bytes, without half a character at its end."""
    return text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").encode()


def _text(room: bytes) -> str:
    return room.partition(b"\0")[0].decode("utf-8", "replace")


def _checked_levels(levels: int) -> int:
    if not isinstance(levels, int):
        raise TypeError(f"levels must be an int, not {type(levels).__name__}")
    if not 1 <= levels <= LEVELS_MAX:
        raise ValueError(f"levels is an int from 1 to {LEVELS_MAX}, not {levels}")
    return levels


def _copy_bytes(levels: int) -> int:
    return _VIEW.size + 32 * levels


def region_bytes(levels: int, copies: int = 2) -> int:
    """Return how many bytes a region with so many levels a side needs."""
    return _HEAD_BYTES + copies * _copy_bytes(_checked_levels(levels))


def feeder_lives(fd: int) -> bool:
    """Return whether the feeder that made this file `feeder` still holds its lock."""
    import fcntl  # Windows has none

    if not hasattr(fcntl, "F_OFD_GETLK"):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False
    asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)
    kind: int = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


class MappedFile(mmap.mmap):
    """A file as memory. Before Python 3.13 it keeps a descriptor."""

    def __new__(cls, fd: int, size: int, is_writable: bool = False) -> Self:
        """Map a file. ``ValueError`` for a size below 1, OSError if it cannot be mapped."""
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        access = mmap.ACCESS_WRITE if is_writable else mmap.ACCESS_READ
        if sys.version_info >= (3, 13):
            return mmap.mmap.__new__(cls, fd, size, access=access, trackfd=False)
        return mmap.mmap.__new__(cls, fd, size, access=access)

    def __init__(self, fd: int, size: int, is_writable: bool = False) -> None:
        """Take what `__new__` has used."""


# --- writing ----------------------------------------------------------------------------------------------------------


def _cut_side(side: BookSide, levels: list[Level], count: int) -> int | None:
    """Drop the levels past `count`; return the nearer of the book's horizon and the last level kept."""
    if len(levels) <= count:
        return side.horizon_price
    del levels[count:]
    return levels[-1][0]


def _describe(state: Any, levels: int, sequence: int) -> tuple[bytes, list[Level], list[Level]]:
    """Return the head of a copy of a book's state, and its levels. Under the book's lock."""
    sides = state.sides
    suspended_by = state.closed_by or state.suspended_by
    cause = b"" if suspended_by is None else _cut(suspended_by, 32)
    if sides is None:
        return _VIEW.pack(*_NOTHING._replace(sequence=sequence, cause=cause, epoch=state.epoch)), [], []
    bids, asks = sides.bids.top(levels + 1, False), sides.asks.top(levels + 1, False)
    flags = IS_LOADED
    for bit, value in (
        (HAS_EVENT_TIME, state.event_time_ms),
        (HAS_TRANSACTION_TIME, state.transaction_time_ms),
        (HAS_RECEIVED_TIME, state.received_time_ns),
    ):
        flags |= bit if value is not None else 0
    bid_horizon, ask_horizon = (_cut_side(*side, levels) for side in ((sides.bids, bids), (sides.asks, asks)))
    flags |= HAS_BID_HORIZON if bid_horizon is not None else 0
    flags |= HAS_ASK_HORIZON if ask_horizon is not None else 0
    is_suspended = suspended_by is not None
    view = _View(
        sequence,
        state.last_update_id,
        state.event_time_ms or 0,
        state.transaction_time_ms or 0,
        state.received_time_ns or 0,
        bid_horizon or 0,
        ask_horizon or 0,
        flags,
        SUSPENDED if is_suspended else CROSSED if sides.is_crossed else READABLE,
        cause,
        sides.price_decimals,
        sides.quantity_decimals,
        len(bids),
        len(asks),
        state.epoch,
        0,
    )
    return _VIEW.pack(*view), bids, asks


class _Region:
    """A region that is written, as words."""

    def __init__(self, memory: Any, levels: int, copies: int) -> None:
        self.words = memoryview(memory).cast("B").cast("q")
        self.levels = levels
        self.copies = copies
        self.number = 0

    def fill_head(
        self, market: str, exchange: str, generation: int, pid: int, created_ns: int, waiter_slot: int
    ) -> None:
        size = region_bytes(self.levels, self.copies)
        sizes = (VERSION, _HEAD_BYTES, self.copies, self.levels, size)
        names = (_cut(market, 64), _cut(exchange, 64))
        head = _HEAD.pack(MAGIC, *sizes, generation, created_ns, pid, waiter_slot, 0, *names)
        self.words[: _HEAD.size // 8] = memoryview(head).cast("q")
        self.words[_PROVEN] = NEVER

    def write(self, state: Any) -> None:
        """Publish a state. Under the book's lock."""
        self.number += 1
        number, words, levels = self.number, self.words, self.levels
        start = (_HEAD_BYTES + number % self.copies * _copy_bytes(levels)) // 8
        words[start] = 2 * number - 1
        head, bids, asks = _describe(state, levels, 2 * number - 1)
        words[start + 1 : start + 16] = memoryview(head).cast("q")[1:]
        place = start + 16
        for found in (bids, asks):
            for index, (price, quantity) in enumerate(found):
                words[place + 2 * index] = price
                words[place + 2 * index + 1] = quantity
            place += 2 * levels
        words[start] = 2 * number
        words[_LATEST] = number

    def renew(self, lease: Lease | None) -> None:
        """Renew the heartbeat, and hand on the time of the last proof."""
        proven_ns = None if lease is None else lease.proven_ns
        self.words[_PROVEN] = NEVER if proven_ns is None else proven_ns
        self.words[_LEASE] = 0 if lease is None else lease.duration_ns
        self.words[_HEARTBEAT] = Lease.now_ns()

    def end(self) -> None:
        self.words[_CHANGE_AND_ENDED] |= 1 << 32


def encode_region(
    book: "OrderBook | BookReader",
    levels: int = 20,
    *,
    market: str | None = None,
    exchange: str = "",
    generation: int = 0,
    pid: int = 0,
    created_ns: int = 0,
) -> bytes:
    """Return a book, or that of a `BookReader`, as one message in the layout of a region with one copy.

    `Attachment` takes it.
    The message also has the time of the last proof. Whether the book can be read is in it, too: nothing is raised for a
    book that cannot.
    """
    message = bytearray(region_bytes(levels, 1))
    region = _Region(message, levels, 1)
    state = book._state
    region.fill_head(market if market is not None else book.market or "", exchange, generation, pid, created_ns, 0)
    with state.lock:
        region.write(state)
        region.renew(state.lease)
    return bytes(message)


class RegionWriter:
    """A region of memory into which a book publishes itself: set it as `OrderBook.region`."""

    def __init__(
        self,
        memory: Any,
        market: str,
        levels: int = 100,
        *,
        exchange: str = "",
        generation: int = 0,
        pid: int = 0,
        created_ns: int = 0,
        waiters: Any = None,
        waiter_slot: int = 0,
    ) -> None:
        _check_machine()
        if len(memoryview(memory).cast("B")) != region_bytes(levels):
            raise ValueError(f"a region of {levels} levels has {region_bytes(levels)} bytes, aligned to 8")
        if waiters is not None and len(memoryview(waiters).cast("B")) < 8 * (waiter_slot + 1):
            raise ValueError(f"there is no waiter slot {waiter_slot}")
        self.inner = _Region(memory, levels, 2)
        self.inner.fill_head(market, exchange, generation, pid, created_ns, NO_WAITER_SLOT)

    def end(self) -> None:
        """Say that the book is withdrawn: readers look for the next feeder."""
        self.inner.end()


class RegionKeeper:
    """Renews the heartbeat and the proof of shared books every 10 ms, in the thread that calls `run`."""

    def __init__(self, may_block: Callable[[], bool] | None = None) -> None:  # noqa: ARG002 - it never blocks others
        self._books: list[OrderBook] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def add(self, book: "OrderBook") -> None:
        """Keep a book from now on; at once for the first time."""
        with self._lock:
            self._books = [*self._books, book]
        self._renew(book)

    def remove(self, book: "OrderBook") -> None:
        """Keep a book no more."""
        with self._lock:
            self._books = [kept for kept in self._books if kept is not book]

    def stop(self) -> None:
        """Let `run` return."""
        self._stop.set()

    def run(self) -> None:
        """Keep the books until `stop`."""
        while not self._stop.wait(HEARTBEAT_S):
            for book in self._books:
                self._renew(book)

    @staticmethod
    def _renew(book: "OrderBook") -> None:
        state = book._state
        with state.lock:
            if state.region is not None:
                state.region.inner.renew(state.lease)


# --- reading ----------------------------------------------------------------------------------------------------------


class Attachment:
    """A region as a reader has found it: checked memory, and how to see whether its feeder lives.

    Raises `MalformedMessage` if the memory is no region of this version.
    """

    __slots__ = ("copies", "exchange", "feeder", "generation", "levels", "market", "octets", "pid", "shift_ns", "words")

    def __init__(self, memory: Any, *, feeder: Any = None, waiters: Any = None) -> None:  # noqa: ARG002 - plain: polls
        _check_machine()
        octets = memoryview(memory).cast("B")
        head = _HEAD.unpack_from(octets) if len(octets) >= _HEAD_BYTES else None
        if head is None or not self._is_sound(head, len(octets)):
            raise MalformedMessage(None, "MALFORMED", _problem(head, len(octets)))
        self.octets = octets
        self.words = octets.cast("q")
        self.copies, self.levels = head[3:5]
        self.generation: int = head[6]
        self.pid: int = head[8]
        self.market, self.exchange = _text(head[11]), _text(head[12])
        self.feeder = feeder
        self.shift_ns = 0 if feeder is not None else Lease.now_ns() - self.words[_HEARTBEAT]
        """Of a message: from the clock of its sender to this one."""

    @staticmethod
    def _is_sound(head: tuple[Any, ...], size: int) -> bool:
        magic, version, head_bytes, copies, levels, said_size = head[:6]
        if (magic, version, head_bytes) != (MAGIC, VERSION, _HEAD_BYTES):
            return False
        if not (1 <= copies <= 2 and 1 <= levels <= LEVELS_MAX):
            return False
        return said_size == size == region_bytes(levels, copies)  # type: ignore[no-any-return]

    def take(self, bid_limit: int, ask_limit: int) -> "tuple[int, _View, list[Level], list[Level]]":
        """Return what the feeder says of the book, the head of the copy, and its best levels."""
        words, copy_words = self.words, _copy_bytes(self.levels) // 8
        for _ in range(ATTEMPTS_MAX):
            number = words[_LATEST] & (2**64 - 1)
            if number == 0:
                return NOT_LOADED, _NOTHING, [], []
            start = _HEAD_BYTES // 8 + number % self.copies * copy_words
            whole = 2 * number & (2**64 - 1)
            if words[start] & (2**64 - 1) != whole:
                continue
            octets = bytes(self.octets[8 * start : 8 * (start + copy_words)])
            if words[start] & (2**64 - 1) == whole:
                return self._read(octets, bid_limit, ask_limit)
        return BUSY, _NOTHING, [], []

    def _read(self, octets: bytes, bid_limit: int, ask_limit: int) -> "tuple[int, _View, list[Level], list[Level]]":
        view = _View._make(_VIEW.unpack_from(octets))
        numbers = memoryview(octets).cast("q")
        is_sane = (
            READABLE <= view.state <= CROSSED
            and max(view.bid_count, view.ask_count) <= self.levels
            and 0 <= view.price_scale <= DECIMALS_MAX
            and 0 <= view.quantity_scale <= DECIMALS_MAX
            and min(view.last_update_id, view.bid_horizon, view.ask_horizon) >= 0
        )
        if not is_sane:
            return MALFORMED, _NOTHING, [], []
        sides: list[list[Level]] = []
        for first, count in (
            (16, min(view.bid_count, bid_limit)),
            (16 + 2 * self.levels, min(view.ask_count, ask_limit)),
        ):
            side = [(numbers[first + 2 * index], numbers[first + 2 * index + 1]) for index in range(count)]
            if any(price < 0 or quantity <= 0 for price, quantity in side):
                return MALFORMED, _NOTHING, [], []
            sides.append(side)
        return view.state, view, sides[0], sides[1]

    def state(self, state: int, now_ns: int, max_age_ns: int) -> tuple[int, bool, int, int]:
        """Return what a copy is worth now: the status, whether the heartbeat is late, the proof, what is allowed."""
        heartbeat_ns, proven_ns, lease_ns = (self.words[place] for place in (_HEARTBEAT, _PROVEN, _LEASE))
        has_ended = self.words[_CHANGE_AND_ENDED] >> 32
        # A time of the future is of another clock, and says nothing.
        is_late = self.feeder is not None and abs(heartbeat_ns - now_ns) > LATE_NS
        status = state
        if has_ended or (is_late and not feeder_lives(self.feeder.fileno())):
            status = FEEDER_GONE
        elif state in (READABLE, CROSSED):
            is_expired = lease_ns != 0 and (
                lease_ns < 0 or proven_ns < now_ns - lease_ns or proven_ns > now_ns + FUTURE_NS
            )
            if is_expired:
                status = TOO_OLD
            elif max_age_ns > 0 and proven_ns < now_ns - max_age_ns:
                status, lease_ns = TOO_OLD, max_age_ns
        return status, is_late, proven_ns, lease_ns


def _problem(head: tuple[Any, ...] | None, size: int) -> str:
    if head is not None and head[0] == MAGIC and head[1] != VERSION:
        return f"The shared book has layout {head[1]}, and this ldc reads {VERSION}; install the same ldc."
    return f"{size} bytes are no shared book of layout {VERSION}; nothing of them was used."


class _Taken(NamedTuple):
    """What a read has found."""

    status: int
    view: _View
    bids: list[Level]
    asks: list[Level]
    proof_age_ns: int | None
    allowed_ns: int


_GONE = _Taken(FEEDER_GONE, _NOTHING, [], [], None, 0)


class SharedReader(KnownReads):
    """One market of a share: the reads of `BookReader`. The compiled one's docstring says what they raise."""

    __slots__ = ("_at", "_attach", "_highest_id", "_looked_ns", "_max_age_ns", "market")

    def __init__(
        self,
        market: str,
        attach: Callable[[int | None], Attachment | None] | None = None,
        *,
        max_age_ns: int = 0,
        attachment: Attachment | None = None,
        may_block: Callable[[], bool] | None = None,  # noqa: ARG002 - all waits sleep by `time.sleep` here
    ) -> None:
        self.market = market
        self._attach = attach
        self._max_age_ns = max_age_ns
        self._at = attachment
        self._highest_id = 0
        self._looked_ns = 0

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("SharedReader cannot be subclassed")

    def __repr__(self) -> str:
        return f"<SharedReader of {self.market!r} at update id {self.last_update_id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SharedReader cannot be copied or pickled; pickle its SharedBooks")

    # inside

    def _taken_of(self, at: Attachment, bid_limit: int, ask_limit: int) -> tuple[_Taken, bool, int]:
        state, view, bids, asks = at.take(bid_limit, ask_limit)
        now_ns = Lease.now_ns() - at.shift_ns
        status, is_late, proven_ns, allowed_ns = at.state(state, now_ns, self._max_age_ns)
        proof_age_ns = None if proven_ns == NEVER else now_ns - proven_ns
        if status == READABLE:
            self._highest_id = max(self._highest_id, view.last_update_id)
        return _Taken(status, view, bids, asks, proof_age_ns, allowed_ns), is_late, now_ns

    def _take(self, bid_limit: int, ask_limit: int, *, is_look: bool) -> _Taken:
        """Take a copy, of the next feeder if this one has gone."""
        at, taken = self._at, _GONE
        if at is not None:
            taken, is_late, now_ns = self._taken_of(at, bid_limit, ask_limit)
            if taken.status != FEEDER_GONE and not (is_late and now_ns - self._looked_ns >= SUCCESSOR_NS):
                return taken
            self._looked_ns = now_ns
        if self._attach is None:
            return taken
        try:
            next_one = self._attach(at.generation if at is not None and taken.status != FEEDER_GONE else None)
        except DepthCacheError:
            if is_look:
                return taken
            raise
        if next_one is None:
            return taken
        self._at = next_one
        return self._taken_of(next_one, bid_limit, ask_limit)[0]

    def _look(self) -> _Taken:
        """Return the head of the copy and the status of both sides; without raising."""
        taken = self._take(0, 0, is_look=True)
        view = taken.view
        if taken.status == READABLE and (_has_left(view, "bids") or _has_left(view, "asks")):
            return taken._replace(status=LEFT_HORIZON)
        if taken.status in (MALFORMED, BUSY):
            return taken._replace(view=view._replace(flags=0))
        return taken

    def _refusal(self, taken: _Taken) -> DepthCacheError:
        """Return why the copy that was taken cannot be read."""
        status, market, update_id = taken.status, self.market, taken.view.last_update_id
        cause = _text(taken.view.cause)
        if status == NOT_LOADED:
            return refused_unloaded(market, Cause.NOT_LOADED, cause or None)
        if status == TOO_OLD:
            age_ns = taken.proof_age_ns
            proof = "none has come yet" if age_ns is None else f"the last one came {age_ns / 1e9:.3f} s ago"
            why = f"of the proofs that it is current, {proof}, and {taken.allowed_ns / 1e9:.3f} s are allowed"
            return refused(market, Cause.TOO_OLD, update_id, why=why)
        if status == BUSY:
            return MalformedMessage(market, "BUSY", f"The shared book of {market!r} changed during each of many reads.")
        if status == MALFORMED:
            text = f"The shared book of {market!r} holds what no feeder writes; nothing of it was used."
            return MalformedMessage(market, "MALFORMED", text)
        if status == SUSPENDED:
            return refused(market, cause, update_id)
        return refused(market, CAUSES[status] or "", update_id if status == CROSSED else None)

    def _read(self, bid_limit: int, ask_limit: int, *names: str) -> _Taken:
        """Take a copy whose named sides can be read."""
        taken = self._take(bid_limit, ask_limit, is_look=False)
        if taken.status != READABLE:
            raise self._refusal(taken)
        for name in names:
            if _has_left(taken.view, name):
                units = taken.view.bid_horizon if name == "bids" else taken.view.ask_horizon
                horizon = converter(float, taken.view.price_scale)(units)
                raise refused_past_horizon(self.market, Cause.LEFT_HORIZON, taken.view.last_update_id, name, horizon)
        return taken

    def _side(
        self,
        name: str,
        limit: SupportsIndex | None = None,
        threshold_volume: float | Decimal | None = None,
        number: NumberType = float,
    ) -> list[list[Any]]:
        wanted, threshold = _wanted_count(limit), checked_threshold(threshold_volume)
        exact.check_number(number)
        taken = self._read(wanted if name == "bids" else 0, wanted if name == "asks" else 0, name)
        levels = taken.bids if name == "bids" else taken.asks
        view = taken.view
        if threshold is not None:
            levels = levels[: count_worth(levels, view.price_scale, view.quantity_scale, threshold)]
        price_of, quantity_of = converter(number, view.price_scale), converter(number, view.quantity_scale)
        return [[price_of(price), quantity_of(quantity)] for price, quantity in levels]

    # reading

    @property
    def best_bid(self) -> tuple[float, float] | None:
        """(price, quantity) of the highest bid, or None if there is no bid."""
        levels = self._side("bids", 1)
        return (levels[0][0], levels[0][1]) if levels else None

    @property
    def best_ask(self) -> tuple[float, float] | None:
        """(price, quantity) of the lowest ask, or None if there is no ask."""
        levels = self._side("asks", 1)
        return (levels[0][0], levels[0][1]) if levels else None

    def bids(
        self,
        limit: SupportsIndex | None = None,
        *,
        threshold_volume: float | Decimal | None = None,
        number: NumberType = float,
    ) -> list[list[Any]]:
        """Return the bids, best first, as `OrderBook.bids`; at most as many as the feeder publishes."""
        return self._side("bids", limit, threshold_volume, number)

    def asks(
        self,
        limit: SupportsIndex | None = None,
        *,
        threshold_volume: float | Decimal | None = None,
        number: NumberType = float,
    ) -> list[list[Any]]:
        """Return the asks, best first; otherwise as `bids`."""
        return self._side("asks", limit, threshold_volume, number)

    def view(self, limit: SupportsIndex | None = None, *, number: NumberType = float) -> BookView[Any]:
        """Return both sides, ids, times and horizons, all of the same update id."""
        wanted = _wanted_count(limit)
        exact.check_number(number)
        taken = self._read(wanted, wanted, "bids", "asks")
        view = taken.view
        price_of, quantity_of = converter(number, view.price_scale), converter(number, view.quantity_scale)
        return BookView(
            tuple((price_of(price), quantity_of(quantity)) for price, quantity in taken.bids),
            tuple((price_of(price), quantity_of(quantity)) for price, quantity in taken.asks),
            view.last_update_id,
            _if(view, HAS_EVENT_TIME, view.event_time_ms),
            _if(view, HAS_TRANSACTION_TIME, view.transaction_time_ms),
            _if(view, HAS_RECEIVED_TIME, view.received_time_ns),
            price_of(view.bid_horizon) if view.flags & HAS_BID_HORIZON else None,
            price_of(view.ask_horizon) if view.flags & HAS_ASK_HORIZON else None,
            bids_truncated=len(taken.bids) < view.bid_count,
            asks_truncated=len(taken.asks) < view.ask_count,
            number=number,
            epoch=view.epoch,
        )

    def to_numpy(self, side: str, limit: SupportsIndex | None = None) -> "numpy.typing.NDArray[numpy.float64]":
        """Return ``"bids"`` or ``"asks"`` as an array of shape (n, 2): prices and quantities, best first."""
        if side not in ("bids", "asks"):
            raise ValueError(f'side must be "bids" or "asks", not {side!r}')
        levels = self._side(side, limit)
        import numpy  # an optional extra

        return numpy.array(levels, dtype=numpy.float64).reshape(len(levels), 2)

    # analytics

    def _known(self, *names: str, limit: int | None = None) -> KnownBook:
        wanted = [(LEVELS_MAX if limit is None else limit) if name in names else 0 for name in ("bids", "asks")]
        taken = self._read(wanted[0], wanted[1], *names)
        view = taken.view
        bids = KnownSide("bids", taken.bids, view.bid_horizon if view.flags & HAS_BID_HORIZON else None)
        asks = KnownSide("asks", taken.asks, view.ask_horizon if view.flags & HAS_ASK_HORIZON else None)
        return KnownBook(bids, asks, view.price_scale, view.quantity_scale)

    def _needs_more(self, book: KnownBook, name: str) -> DepthCacheError:
        at = exact.sum_as(book.side(name).horizon or 0, book.price_decimals, float)
        return refused_for_more(self.market, Cause.LEFT_HORIZON, self.last_update_id, name, at)

    def arrays(
        self, limit: SupportsIndex | None = None, *, number: type[float] | type[int] | None = None, out: Any = None
    ) -> BookArrays[Any] | ArrayCounts:
        """As `BookReader.arrays`."""
        wanted = _wanted_count(limit)
        if number is not None and number is not float and number is not int:
            raise ValueError(f"number must be float or int, not {number!r}")
        views = None if out is None else check_out(out, number)
        taken = self._read(wanted, wanted, "bids", "asks")
        levels, view = (taken.bids, taken.asks), taken.view
        place = view.last_update_id, view.price_scale, view.quantity_scale
        return new_arrays(levels, place, number) if views is None else fill_arrays(levels, place, views)

    # waiting

    def wait_for_update(
        self, after_update_id: int | None = None, timeout: float | None = None, *, spin_us: float = 0
    ) -> int | None:
        """Block until the book has moved past an update id; return the new id, or None after `timeout` seconds."""
        if timeout is not None and timeout != timeout:  # noqa: PLR0124 - NaN
            raise ValueError("timeout must be a number of seconds, or None to wait without end; it is NaN")
        deadline = None if timeout is None else time.monotonic() + timeout
        spin_end = time.monotonic() + spin_us / 1e6
        highest_id = self._highest_id
        taken = self._look()
        is_held = after_update_id is not None or taken.status == READABLE
        after = after_update_id if after_update_id is not None else taken.view.last_update_id
        while True:
            if taken.status == READABLE:
                reached = taken.view.last_update_id
                if not is_held or reached > after or reached < after <= max(highest_id, self._highest_id):
                    return reached
            elif is_held:
                self.view(0)  # raises why; it may have become readable meanwhile
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return None
            if now >= spin_end:
                time.sleep(POLL_S if deadline is None else min(POLL_S, deadline - now))
            taken = self._look()

    # looking at: never raises

    @property
    def is_readable(self) -> bool:
        """Whether both sides can be read at this moment."""
        return self._look().status == READABLE

    @property
    def unreadable_cause(self) -> str | None:
        """Why reading both sides would raise at this moment: the cause it would have, or None: they can be read."""
        return _cause_of(self._look())

    @property
    def suspended_by(self) -> str | None:
        """The cause for which the feeder has suspended the book, or None."""
        view = self._look().view
        return _text(view.cause) or None if view.state in (SUSPENDED, NOT_LOADED) else None

    @property
    def is_loaded(self) -> bool:
        """Whether the feeder has loaded a snapshot."""
        return bool(self._look().view.flags & IS_LOADED)

    @property
    def last_update_id(self) -> int | None:
        """The exchange's update id that the book stands at, or None: not loaded, or there was no feeder yet."""
        view = self._look().view
        return _if(view, IS_LOADED, view.last_update_id)

    @property
    def event_time_ms(self) -> int | None:
        """`E` of the message that brought the book there, or None."""
        view = self._look().view
        return _if(view, HAS_EVENT_TIME, view.event_time_ms)

    @property
    def transaction_time_ms(self) -> int | None:
        """`T` of that message (futures), or None."""
        view = self._look().view
        return _if(view, HAS_TRANSACTION_TIME, view.transaction_time_ms)

    @property
    def received_time_ns(self) -> int | None:
        """When that message arrived in the feeder, or None."""
        view = self._look().view
        return _if(view, HAS_RECEIVED_TIME, view.received_time_ns)

    @property
    def bid_horizon(self) -> float | None:
        """The lowest price to which the bids are complete here, or None: without end (or not loaded)."""
        view = self._look().view
        return _horizon(view, HAS_BID_HORIZON, view.bid_horizon)

    @property
    def ask_horizon(self) -> float | None:
        """The highest price to which the asks are complete here, or None: without end (or not loaded)."""
        view = self._look().view
        return _horizon(view, HAS_ASK_HORIZON, view.ask_horizon)

    @property
    def bid_count(self) -> int:
        """How many bids the feeder publishes."""
        view = self._look().view
        return _if(view, IS_LOADED, view.bid_count) or 0

    @property
    def ask_count(self) -> int:
        """How many asks the feeder publishes."""
        view = self._look().view
        return _if(view, IS_LOADED, view.ask_count) or 0

    @property
    def is_crossed(self) -> bool:
        """Whether the best bid is not below the best ask, which no matching engine shows."""
        return self._look().status == CROSSED

    @property
    def price_decimals(self) -> int | None:
        """How many decimals the prices have, or None before the first snapshot."""
        view = self._look().view
        return _if(view, IS_LOADED, view.price_scale)

    @property
    def quantity_decimals(self) -> int | None:
        """How many decimals the quantities have, or None before the first snapshot."""
        view = self._look().view
        return _if(view, IS_LOADED, view.quantity_scale)

    @property
    def proof_age_ns(self) -> int | None:
        """How old the last proof is that the book is current, or None: none has come, or the book has no lease."""
        at = self._at
        if at is None or at.words[_PROVEN] == NEVER:
            return None
        return max(Lease.now_ns() - at.shift_ns - at.words[_PROVEN], 0)

    @property
    def publications(self) -> int:
        """How many copies the present feeder has published; 0: none yet."""
        return 0 if self._at is None else self._at.words[_LATEST] & (2**64 - 1)

    @property
    def generation(self) -> int | None:
        """Which feeder is read: another number for each; None: none yet."""
        return None if self._at is None else self._at.generation

    @property
    def exchange(self) -> str | None:
        """The exchange string of the feeder's manager; "" if it gave none; None: there was no feeder yet."""
        return None if self._at is None else self._at.exchange


def _cause_of(taken: _Taken) -> str | None:
    """Return why both sides of a copy cannot be read, or None."""
    suspended_by = _text(taken.view.cause)
    if taken.status == SUSPENDED:
        return suspended_by
    if taken.status == NOT_LOADED and suspended_by and is_final(suspended_by):
        return suspended_by
    return CAUSES[taken.status]


class _Seen(NamedTuple):
    """What was seen of a reader last."""

    at: Attachment | None = None
    number: int = 0
    liveness: int = READABLE
    """What a readable copy was worth: READABLE, TOO_OLD, FEEDER_GONE."""
    has_ended: bool = False
    is_outdated: bool = True
    """Look again, whatever the memory says."""

    def has_moved(self) -> bool:
        """Whether another copy was published, or the book was withdrawn."""
        return self.at is not None and _at_once(self.at) != (self.number, self.has_ended)


def _at_once(at: Attachment) -> tuple[int, bool]:
    return at.words[_LATEST] & (2**64 - 1), bool(at.words[_CHANGE_AND_ENDED] >> 32)


def _worth(reader: SharedReader, at: Attachment) -> tuple[int, bool]:
    """Return what a readable copy of a region is worth now, and whether its heartbeat is late."""
    return at.state(READABLE, Lease.now_ns() - at.shift_ns, reader._max_age_ns)[:2]


class RegionWatch:
    """What was seen of several readers: finds those with news, and waits for news of any of them."""

    def __init__(self) -> None:
        self._readers: list[SharedReader] = []
        self._seen: list[_Seen] = []

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, reader: SharedReader) -> None:
        """Watch one more reader, which has news at first."""
        self._seen.append(_Seen())
        self._readers.append(reader)

    def first_changed(self, start: int, is_thorough: bool) -> int:
        """Return the place of the first reader from `start` on, and round, that has news; -1: none has."""
        count = len(self._readers)
        for offset in range(count):
            place = (start + offset) % count
            seen, reader = self._seen[place], self._readers[place]
            if seen.is_outdated or reader._at is not seen.at or seen.has_moved():
                return place
            if is_thorough and seen.at is not None and _worth(reader, seen.at)[0] != seen.liveness:
                return place
        return -1

    def expect_feeder(self) -> None:
        """Look again at each reader that has no feeder, or one whose heartbeat is late: there may be another one."""
        for place, (reader, seen) in enumerate(zip(self._readers, self._seen, strict=True)):
            if seen.at is None or seen.liveness == FEEDER_GONE or _worth(reader, seen.at)[1]:
                self._seen[place] = seen._replace(is_outdated=True)

    def look(self, place: int) -> tuple[Any, ...] | None:
        """Return what a reader says now, all of one copy, and count it as seen; None: look again."""
        reader = self._readers[place]
        for _ in range(LOOKS_MAX):
            at, seen = reader._at, _Seen(is_outdated=False)
            if at is not None:
                number, has_ended = _at_once(at)
                seen = _Seen(at, number, _worth(reader, at)[0], has_ended, is_outdated=False)
            taken = reader._look()
            is_busy = reader._at is not at or taken.status == BUSY
            if reader._at is at:
                break
        view = taken.view
        if view.flags & IS_LOADED:
            seen = seen._replace(number=view.sequence // 2)
        self._seen[place] = seen._replace(is_outdated=is_busy)
        if is_busy:
            return None
        return (
            _cause_of(taken),
            None if at is None else at.generation,
            "" if at is None else at.exchange,
            seen.number,
            view.epoch,
            _if(view, IS_LOADED, view.last_update_id),
            _if(view, HAS_EVENT_TIME, view.event_time_ms),
            _if(view, HAS_TRANSACTION_TIME, view.transaction_time_ms),
            _if(view, HAS_RECEIVED_TIME, view.received_time_ns),
            view.price_scale,
            view.quantity_scale,
            _if(view, HAS_BID_HORIZON, view.bid_horizon),
            _if(view, HAS_ASK_HORIZON, view.ask_horizon),
        )

    def wait(self, timeout_s: float) -> None:
        """Sleep until a reader has another copy or is withdrawn, at most so long."""
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0 and not any(seen.has_moved() for seen in list(self._seen)):
            time.sleep(min(POLL_S, left_s))


def _wanted_count(limit: SupportsIndex | None) -> int:
    wanted = exact.count_of(limit, "limit", 0)
    return LEVELS_MAX if wanted is None else wanted


def _if(view: _View, flag: int, value: int) -> int | None:
    return value if view.flags & flag else None


def _horizon(view: _View, flag: int, units: int) -> float | None:
    return converter(float, view.price_scale)(units) if view.flags & flag else None


def _has_left(view: _View, name: str) -> bool:
    flag, count = (HAS_BID_HORIZON, view.bid_count) if name == "bids" else (HAS_ASK_HORIZON, view.ask_count)
    return bool(view.flags & flag) and count == 0
