# cython: language_level=3, autotestdict=False
"""The compiled order book: bytes in, an exact book out, no Python object on the way.

docs/order-book.md fixes what it does, case by case. ldc/book/pure/book.py is the same in plain Python.

Rule 1: decode, judge, commit. Everything that can raise happens before anything changes; the commit cannot fail.
Rule 2: the book's lock is a leaf: no Python, no second lock and no raise inside it. Readers hold it while they copy
        what they return, the writer while it commits.
Rule 3: C functions that can fail return -1 or set `Cursor.problem`; only the methods at the end raise.

The parts, each included so that the C compiler sees one unit:

    core/native.pxi    C shims: lock, allocation, SWAR digit parsing, atomics, clocks
    core/lease.pxi     until when a book may be read without another proof
    core/json.pxi      strict JSON
    core/side.pxi      one side of a book
    core/levels.pxi    the levels of a message
    core/depth.pxi     depth updates and snapshots
    core/scales.pxi    decimals, and Python's numbers
    core/commit.pxi    an update into a book
    core/retain.pxi    updates that are kept for a snapshot
    core/snapshot.pxi  a snapshot into a book
    core/compare.pxi   two books at the same update id
    core/reads.pxi     a book into Python's values
    core/wide.pxi      whole numbers of 192 bits
    core/walks.pxi     sums, fills and groups of levels
    core/analytics.pxi what a book amounts to
    core/arrays.pxi    a book into arrays of numpy
    core/text.pxi      a book into JSON text
    core/reader.pxi    the read-only face
    core/shared.pxi    a book into shared memory
    core/mapped.pxi    a book out of shared memory
    core/frames.pxi    websocket frames, whose updates are applied in place
    core/openssl.pxi   the OpenSSL that the interpreter's `ssl` uses, found at run time
    core/tls.pxi       TLS connections
    core/waiter.pxi    one thread that waits for many books
    core/keepalive.pxi pings, pongs, and the pace of what is sent
    core/wait.pxi      threads that sleep until a number changes
    core/loop.pxi      a feed's steady state without the GIL
    core/queue.pxi     what waits for the consumers of updates, and how they are woken
    core/updates.pxi   what happens to a book, for its consumers
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.buffer cimport (
    PyBUF_CONTIG, PyBUF_FORMAT, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer)
from cpython.exc cimport PyErr_CheckSignals
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.math cimport INFINITY
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

import time
from decimal import Decimal
from os import urandom as os_urandom

from ldc import frames, limits
from ldc.errors import (
    BookNotLoaded,
    DepthCacheError,
    MalformedMessage,
    is_final,
    refused,
    refused_as_stalled,
    refused_for_more,
    refused_past_horizon,
    refused_unloaded,
)
from ldc.sequence import resolve_rule
from ldc.analytics import exact
from ldc.analytics.known import KnownReads
from ldc.analytics.view import BookView
from ldc.types import (
    ArrayCounts,
    BookArrays,
    BookCounters,
    BookTexts,
    Cause,
    Comparison,
    Depth,
    Fill,
    Header,
    Prices,
    Verdict,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    char* PyOS_double_to_string(double number, char format, int precision, int flags, int* kind) except NULL
    void PyMem_Free(void* memory)
    Py_ssize_t PyNumber_AsSsize_t(object number, PyObject* overflow) except? -1

include "core/native.pxi"
include "core/wait.pxi"
include "core/lease.pxi"
include "core/json.pxi"
include "core/side.pxi"
include "core/levels.pxi"
include "core/depth.pxi"
include "core/scales.pxi"

NESTING_MAX = NESTING_LIMIT
MESSAGE_BYTES_MAX = MESSAGE_BYTES_LIMIT
LEVELS_PER_MESSAGE_MAX = MESSAGE_LEVELS_LIMIT
LEVELS_PER_SIDE_MAX = SIDE_LEVELS_LIMIT
DECIMALS_MAX = DECIMALS_LIMIT

cdef enum VerdictCode:
    # The ints of ldc.Verdict, which a test holds to these.
    APPLIED = 0
    STALE = 1
    GAP = 2

cdef tuple VERDICTS = (Verdict.APPLIED, Verdict.STALE, Verdict.GAP)

cdef enum ReadState:
    # In the order in which they are checked.
    READABLE = 0
    NOT_LOADED = 1
    SUSPENDED = 2
    STALLED = 3
    CROSSED = 4
    LEFT_HORIZON = 5

cdef struct Place:
    # Where in its stream a book stands, and what the message that brought it there said of the time.
    int64_t last_update_id
    int64_t event_time_ms
    int64_t transaction_time_ms
    int64_t received_time_ns
    bint has_event_time
    bint has_transaction_time
    bint has_received_time

include "core/queue.pxi"

cdef enum:
    RETAINED_UPDATES_LIMIT = 1_000                  # ldc.limits.RETAINED_UPDATES_MAX
    RETAINED_BYTES_LIMIT = 4 * 1024 * 1024          # ldc.limits.RETAINED_BYTES_MAX
    RETAINED_BYTES_LIMIT_OF_ALL = 64 * 1024 * 1024  # ldc.limits.RETAINED_BYTES_MAX_OF_ALL

cdef struct RetainedUpdate:
    # The bytes of the message follow it in memory.
    RetainedUpdate* following
    Py_ssize_t length
    int64_t received_time_ns
    bint has_received_time

cdef struct RetainedUpdates:
    bint is_wanted
    int32_t count
    Py_ssize_t bytes
    RetainedUpdate* oldest      # owned, and what follows it; meaningless if `count` is 0, as `newest`
    RetainedUpdate* newest

cdef struct Counters:
    int64_t snapshots_loaded
    int64_t snapshots_refused
    int64_t books_adopted
    int64_t updates_applied
    int64_t updates_stale
    int64_t updates_gap
    int64_t updates_malformed
    int64_t updates_overlapping
    int64_t prices_repeated
    int64_t quantities_saturated

cdef struct HeaderCopy:
    # The header of the update judged last. Its texts lie one behind the other in `text`, as they were sent. The event
    # has none: only "depthUpdate", or none at all, is ever judged.
    char* text                  # owned
    Py_ssize_t capacity
    bint is_set
    Text stream                 # `start` is meaningless here
    Text symbol
    bint has_stream
    bint has_event
    bint has_symbol
    bint has_event_time
    int64_t event_time_ms
    int64_t first_id
    int64_t last_id
    int64_t previous_id         # 0: there was none


cdef struct RegionState:
    # What the writer of a shared region knows of it, without a look at the region, which others might change.
    char* memory
    uint32_t levels
    uint32_t copies
    size_t copy_bytes
    uint64_t number             # of the copy written last
    int64_t heartbeat_ns
    uint64_t* waiter            # until when another process waits; NULL: no process can say so


@cython.final
cdef class OrderBook:
    """An exact local copy of one market's order book.

    Load a snapshot, apply the depth updates of its stream, read. A STALE or GAP update changes nothing; any exception
    leaves the book what it was. Reads return the exchange's book at `last_update_id`, inside the range in which it is
    provably complete (the horizon), or raise `DepthCacheOutOfSync`. A book with a `lease` is read only while that is
    renewed, and a crossed book is not read at all.

    Args:
        rule: "spot" or "futures", or a `SequenceRule`: how the market numbers its updates.
        market: a name for error messages.
        symbol: if given, an update that names another one in `s` is refused. The case of ASCII letters does not matter
            (options were seen in both).

    Memory: under 1 kB, and 16 bytes a level in blocks of 1 kB that are at least 3/8 full on average (21 to 24 bytes a
    level in practice). `sys.getsizeof` tells.

    Thread-safety: one thread may write (`apply`, `load_snapshot`, `adopt`, `clear`, `suspend`, `resume`), any number
    may read at the same time. A second writer gets a `RuntimeError`.
    """

    cdef Mutex _mutex
    cdef BookSide _bids
    cdef BookSide _asks
    cdef Place _place
    cdef Counters _counters
    cdef HeaderCopy _header
    cdef int32_t _price_scale
    cdef int32_t _quantity_scale
    cdef int _writers                       # 0 or 1; see `begin_writing`
    cdef bint _is_loaded
    cdef bint _is_suspended
    cdef bint _is_closed                    # for good: `resume` does not undo it
    cdef bint _is_crossed                   # of what is held; 0 in a book that is not loaded
    cdef bint _is_first_after_snapshot
    cdef bint _needs_attention
    cdef int64_t _attend_at_id              # see `attend_at`; INT64_MAX: never
    cdef int64_t _attend_at_count           # of `updates_applied`; INT64_MAX: never
    cdef RetainedUpdates _retained          # the writer's
    cdef bint _chains_by_previous_id        # of the rule, in C
    cdef bint _first_may_end_at_snapshot
    cdef bint _has_news                     # for the queue of a watch that must be woken
    cdef bint _was_lost                     # it could not be read where it stood: crossed, or past its horizon
    cdef int _cause_number                  # of what was given to suspend() or close()
    cdef int64_t _epoch
    cdef Watch* _watches                    # the consumers of its updates; NULL: there is none
    cdef object _cause                      # given to suspend() or close(); read and written in a critical section
    cdef bytes _symbol                      # None: any symbol will do
    cdef const char* _symbol_text           # of `_symbol`; NULL: None
    cdef Py_ssize_t _symbol_bytes
    cdef Lease _lease                       # keeps `_terms` alive; read and written in a critical section
    cdef const LeaseTerms* _terms           # NULL: there is no lease; read and written under the lock
    cdef object _writer                     # a RegionWriter: keeps `_region` alive
    cdef RegionState* _region               # NULL: the book is not shared; read and written under the lock
    cdef const uint32_t* _wake_address      # where threads of other processes are to be woken; NULL: nowhere
    cdef char _cause_text[32]               # the cause, as other processes read it; under the lock
    cdef readonly object rule
    cdef readonly object market

    def __cinit__(self, rule, *, market=None, symbol=None):
        self.rule = resolve_rule(rule)
        self.market = market
        if symbol is not None and not isinstance(symbol, str):
            raise TypeError(f"symbol must be a str or None, not {type(symbol).__name__}")
        self._symbol = symbol.encode() if symbol is not None else None
        if symbol is not None:
            self._symbol_text = PyBytes_AS_STRING(self._symbol)
            self._symbol_bytes = PyBytes_GET_SIZE(self._symbol)
        self._chains_by_previous_id = self.rule.chains_by_previous_id
        self._first_may_end_at_snapshot = self.rule.first_update_may_end_at_snapshot
        self._attend_at_id = self._attend_at_count = INT64_MAX
        side_blank(&self._bids)
        side_blank(&self._asks)

    def __dealloc__(self):
        discard_all(&self._retained)
        side_release(&self._bids)
        side_release(&self._asks)
        free(self._header.text)

    def __sizeof__(self):
        """Return all memory that the book holds, in bytes."""
        cdef size_t held = 0
        mutex_lock(&self._mutex)
        held = side_bytes(&self._bids) + side_bytes(&self._asks) + self._header.capacity + self._retained.bytes
        mutex_unlock(&self._mutex)
        return object.__sizeof__(self) + held

    def __repr__(self):
        return f"<OrderBook {self.market or self.rule.name} at update id {self.last_update_id}>"

    def __reduce__(self):
        raise TypeError("an OrderBook cannot be copied or pickled; load its snapshot into another one")

    # ------------------------------------------------------------------------------------------ writing

    def load_snapshot(self, body, limit=None, *, received_time_ns=None):
        """Replace the book by a REST snapshot, exactly as the endpoint sent it.

        Args:
            body: the response body (bytes-like or str).
            limit: the levels a side that were requested and that the venue honours. A side that has fewer is complete.
                One that has as many, or any side without a limit, is known up to its worst price: its horizon.
            received_time_ns: the local receive time, returned in views.

        Raises:
            MalformedMessage: it is no snapshot, a price stands twice, or the sides cross. Nothing has changed.
            ValueError, TypeError: `limit` is not an int of at least 1.

        Cost: O(levels).
        """
        cdef Place place
        cdef int64_t honoured = -1
        if limit is not None:
            honoured = min(exact.count_of(limit, "limit", 1), INT32_MAX)
        place_open(&place, received_time_ns)
        begin_writing(self)
        try:
            load_body(self, body, honoured, &place)
        finally:
            end_writing(self)
        if self._has_news:
            wake_consumers(self, False)
        published(self)

    def apply(self, payload, received_time_ns=None):
        """Apply a depth update, bare or in a combined-stream wrapper, and return a `Verdict`.

        APPLIED: every level is in, and the book stands at its `u`. STALE (the book has it already) and GAP (updates in
        between are missing): nothing has changed.

        Args:
            payload: the message as it was sent (bytes-like or str).
            received_time_ns: the local receive time, returned in views.

        Raises:
            BookNotLoaded: there is no snapshot to apply it to.
            MalformedMessage: it is not a depth update, or holds a number that the book cannot. Nothing has changed.

        Cost: O(levels x log(blocks)) at worst, O(levels) for sorted ones near each other, as venues send them.
        `make bench` measures it.
        """
        cdef Place place
        cdef Py_buffer view
        cdef Cursor c
        cdef int verdict
        place_open(&place, received_time_ns)
        blank_view(&view)
        begin_writing(self)
        try:
            if not self._is_loaded:
                raise BookNotLoaded(self.market, Cause.NOT_LOADED)
            open_payload(&c, &view, payload)
            verdict = apply_message(self, &c, &place)
        finally:
            PyBuffer_Release(&view)
            end_writing(self)
        if self._has_news:
            wake_consumers(self, False)
        published(self)
        return VERDICTS[verdict]

    def adopt(self, OrderBook other not None):
        """Take over the levels, scales and horizons of a book at the same update id; keep the place in the stream.

        Raises ValueError if the rules or ids differ, BookNotLoaded if either is not loaded; nothing has changed then.
        Cost: O(levels).
        """
        begin_writing(self)
        try:
            adopt_book(self, other)
        finally:
            end_writing(self)
        if self._has_news:
            wake_consumers(self, False)
        published(self)

    def clear(self):
        """Forget the book. Counters and suspension stay; reads and `apply` raise `BookNotLoaded` until a snapshot."""
        cdef BookSide bids, asks
        begin_writing(self)
        mutex_lock(&self._mutex)
        take_sides(self, &bids, &asks)
        if self._watches != NULL:
            note_state(self, False)
        publish(self)
        mutex_unlock(&self._mutex)
        published(self)
        side_release(&bids)
        side_release(&asks)
        end_writing(self)
        if self._has_news:
            wake_consumers(self, False)

    def load_from(self, OrderBook other not None):
        """Become what another book is that has loaded a snapshot, and clear that one: a snapshot is read only once.

        Another thread may have made and loaded the other book. Raises ValueError if the rules differ, BookNotLoaded if
        the other is not loaded; nothing has changed then. Cost: O(1), and freeing the levels that were held.
        """
        begin_writing(self)
        try:
            begin_writing(other)
            try:
                load_book(self, other)
            finally:
                end_writing(other)
        finally:
            end_writing(self)
        if self._has_news:
            wake_consumers(self, False)
        published(self)
        published(other)

    def retain_updates(self):
        """Keep the bytes of every update that is applied from now on, until `forget_retained`. Idempotent.

        At `RETAINED_UPDATES_MAX`, at `RETAINED_BYTES_MAX`, and at `RETAINED_BYTES_MAX_OF_ALL` of all books of the
        process (`ldc.limits`), the oldest of this book is discarded.
        """
        self._retained.is_wanted = True

    def forget_retained(self):
        """Forget the updates that were kept, and keep no more."""
        begin_writing(self)
        self._retained.is_wanted = False
        discard_all(&self._retained)
        end_writing(self)

    @property
    def retained_count(self):
        """How many updates are kept."""
        return self._retained.count

    def apply_retained(self, OrderBook other not None):
        """Apply the updates that another book has kept, oldest first, until one does not continue this book.

        Raises as `apply`; what came before is applied then. Cost: as `apply`, for each update.
        """
        begin_writing(self)
        try:
            begin_writing(other)
            try:
                if not self._is_loaded:
                    raise BookNotLoaded(self.market, Cause.NOT_LOADED)
                apply_retained_updates(self, &other._retained)
            finally:
                end_writing(other)
        finally:
            end_writing(self)
        if self._has_news:
            wake_consumers(self, False)
        published(self)

    def attend_at(self, update_id, updates=None):
        """Let `needs_attention` be true from an update id on, or after so many more updates. None: no longer.

        `load_snapshot`, `load_from` and `clear` end that.
        """
        cdef int64_t at_id = INT64_MAX if update_id is None else update_id
        cdef int64_t count = -1 if updates is None else updates
        mutex_lock(&self._mutex)
        self._attend_at_id = at_id
        self._attend_at_count = INT64_MAX if count < 0 else self._counters.updates_applied + count
        if self._is_loaded:
            attend(self)
        mutex_unlock(&self._mutex)

    def suspend(self, cause):
        """Let every read raise with this cause, a non-empty str, until `resume`.

        The class is `DepthCacheOutOfSync`, unless `ldc.errors.REFUSALS` has another for the cause.
        """
        check_cause(cause)
        suspend_book(self, cause, False)

    def resume(self):
        """Let reads return again what the book holds, unless it is closed. After a suspension that begins an epoch."""
        mutex_lock(&self._mutex)
        self._epoch += self._is_suspended and not self._is_closed
        self._is_suspended = self._is_closed
        if self._watches != NULL:
            note_state(self, False)
        publish(self)
        mutex_unlock(&self._mutex)
        if self._has_news:
            wake_consumers(self, False)
        published(self)

    def close(self, cause):
        """Let every read raise with this cause, a non-empty str, for good: as `suspend`, but nothing undoes it.

        The first cause stays. The writer may continue to write, and nobody can read it. Any thread may call it, also a
        signal handler, whatever the writer is doing; it waits at most for one commit.
        """
        check_cause(cause)
        suspend_book(self, cause, True)

    def close_after_fork(self, cause):
        """Close the book in a forked child, and forget what it holds. Only for a child of one thread.

        A thread of the parent may have been in the middle of a commit, and holds the lock of this copy for good. So the
        lock is made again, and the levels are left where they are: their memory is not freed.
        """
        check_cause(cause)
        memset(&self._mutex, 0, sizeof(self._mutex))
        self.forget_region()
        side_blank(&self._bids)
        side_blank(&self._asks)
        self._is_loaded = False
        self._is_crossed = False
        self._needs_attention = False
        self._header.is_set = False
        self._header.text = NULL
        self._header.capacity = 0
        self._attend_at_id = self._attend_at_count = INT64_MAX
        add_atomically64(&retained_bytes_of_all, -self._retained.bytes)
        memset(&self._retained, 0, sizeof(self._retained))
        exchange(&self._writers, 0)
        forget_watches(self)
        self.close(cause)

    @property
    def lease(self):
        """The `Lease` that its writer renews, or None: the book never stalls. Set it before the book is shared."""
        with cython.critical_section(self):
            lease = self._lease
        return lease

    @lease.setter
    def lease(self, Lease lease):
        with cython.critical_section(self):
            previous = self._lease      # alive until no reader can be at its terms
            mutex_lock(&self._mutex)
            self._terms = &lease._terms if lease is not None else NULL
            renew(self, clock_exact())
            mutex_unlock(&self._mutex)
            self._lease = lease

    @property
    def region(self):
        """The `RegionWriter` through which other processes read the book, or None. See `ldc.shared.Publisher`."""
        with cython.critical_section(self):
            writer = self._writer
        return writer

    @region.setter
    def region(self, RegionWriter writer):
        with cython.critical_section(self):
            previous = self._writer     # alive until nobody can be at its memory
            mutex_lock(&self._mutex)
            self._region = &writer._state if writer is not None else NULL
            self._wake_address = NULL
            renew(self, clock_exact())
            publish(self)
            mutex_unlock(&self._mutex)
            self._writer = writer

    def forget_region(self):
        """Share the book no more, in a forked child: no thread is left there that would free the book's lock."""
        self._region = NULL
        self._wake_address = NULL

    def held_levels(self, limit=None, *, number=float):
        """Return a `BookView` of what is held, whether it can be trusted or not: for the writer, who decides that.

        It is a `view` with `beyond_horizon=True` that is not refused to a book that is suspended, stalled or crossed.
        Only `BookNotLoaded` is raised. A `BookReader` does not have it.
        """
        return read_view(self, limit, number, True, True)

    # ------------------------------------------------------------------------------------------ reading

    @property
    def reader(self):
        """A read-only face of this book, for other threads and callers: a new `BookReader`."""
        return BookReader(self)

    @property
    def best_bid(self):
        """(price, quantity) as floats of the highest bid, or None if there is no bid. Raises as `bids`. O(1)."""
        return read_best(self, &self._bids, -1)

    @property
    def best_ask(self):
        """(price, quantity) as floats of the lowest ask, or None if there is no ask. Raises as `asks`. O(1)."""
        return read_best(self, &self._asks, 1)

    def bids(self, limit=None, *, threshold_volume=None, number=float, beyond_horizon=False):
        """Return the bids, best (highest) first, as a new list of [price, quantity] lists.

        Args:
            limit: at most so many; fewer if the horizon ends before.
            threshold_volume: only while the sum of price x quantity stays within this quote notional; the first level
                is always kept.
            number: float (exactly ``float(text)``), Decimal or str (exact, all decimals of the book).
            beyond_horizon: all levels held, also where some may be missing.

        Raises:
            DepthCacheOutOfSync: not loaded, suspended (its cause), the lease has expired (STALLED), the best bid is not
                below the best ask (CROSSED), or the market has left the known range (LEFT_HORIZON).

        Cost: O(levels returned).
        """
        return read_side(self, &self._bids, -1, limit, threshold_volume, number, beyond_horizon)

    def asks(self, limit=None, *, threshold_volume=None, number=float, beyond_horizon=False):
        """Return the asks, best (lowest) first; otherwise as `bids`."""
        return read_side(self, &self._asks, 1, limit, threshold_volume, number, beyond_horizon)

    def view(self, limit=None, *, number=float, beyond_horizon=False):
        """Return one atomic `BookView`: both sides, ids, times and horizons of one update id. Raises as `bids`."""
        return read_view(self, limit, number, beyond_horizon, False)

    def texts(self, limit=None):
        """Return both sides as JSON text, with the ids, times and horizons of one update id: a `BookTexts`.

        At most `limit` levels a side, inside the horizon. Raises as `bids`. The digits are written in C: 20 levels a
        side take a microsecond or two.
        """
        return read_texts(self, limit)

    def to_json(self, limit=None):
        """Return the body of a REST snapshot, as bytes: ``{"lastUpdateId":7,"bids":[["1.50","2"],...],...}``.

        `E` and `T` are there if the book's last message had them. A side that ends before `limit` because its horizon
        ends has the horizon in `bidHorizon` or `askHorizon`. Raises as `bids`.
        """
        return read_texts(self, limit).to_json(None if limit is None else limit_of(limit))

    def to_numpy(self, side, limit=None):
        """Return "bids" or "asks", best first, as a new float64 array of shape (n, 2). Needs numpy."""
        if side == "bids":
            return read_array(self, &self._bids, -1, limit)
        if side == "asks":
            return read_array(self, &self._asks, 1, limit)
        raise ValueError(f'side must be "bids" or "asks", not {side!r}')

    # ---------------------------------------------------------------------------------------- analytics
    #
    # Exact, of one moment, inside the horizon; `ldc.analytics.exact` is their definition.

    @property
    def mid(self):
        """(best bid + best ask) / 2 as a float, or None while a complete side is empty. Raises as `view`. O(1)."""
        return read_mid(self)

    @property
    def spread(self):
        """Best ask - best bid as a float, or None while a complete side is empty. Raises as `view`. O(1)."""
        return read_spread(self)

    @property
    def micro_price(self):
        """The mean of both best prices, each weighed by the quantity at the other: it lies nearer to the smaller side.

        A float, or None while a complete side is empty. Raises as `view`. O(1).
        """
        return read_micro_price(self)

    def prices(self, *, number=float):
        """Return `Prices`: mid, spread and micro-price of one moment; or None while a complete side is empty.

        As Decimal or str mid and spread are exact, and the micro-price has 28 digits. Raises as `view`. O(1).
        """
        return read_prices(self, number)

    def imbalance(self, *, levels=None, bps=None, number=float):
        """Return (bids - asks) / (bids + asks) of quantities, from -1 to 1; None: there is nothing to compare.

        Args:
            levels: of so many best levels a side, at least 1; a complete side may have fewer.
            bps: of all levels within so many basis points from mid, above 0; None is returned while a side is empty.
            number: float (the nearest), Decimal or str (28 digits).

        Raises:
            DepthCacheOutOfSync: as `view`; LEFT_HORIZON also where it needs what lies past a horizon.

        Cost: O(levels), under the lock.
        """
        return read_imbalance(self, levels, bps, number)

    def fill(self, side, *, quantity=None, notional=None, number=float):
        """Return what an order gets that takes a quantity, or the worth of a notional, from a side: a `Fill`.

        Args:
            side: "asks" for an order that buys, "bids" for one that sells.
            quantity, notional: exactly one of both, an int, float or Decimal above 0. A float means its repr.
            number: the type of the result. Sums are exact as Decimal or str; quotients have 28 digits; a float is the
                one nearest to the exact value.

        Where the levels inside the horizon are not enough, `is_complete` is False, and the result is all there is.

        Raises:
            DepthCacheOutOfSync: as `bids` or `asks`.

        Cost: O(levels taken), under the lock.
        """
        return read_fill(self, side, quantity, notional, number)

    def price_at(self, side, *, quantity=None, notional=None, number=float):
        """Return the worst price that a `fill` needs, or None: the side is complete and has not enough.

        Raises:
            DepthCacheOutOfSync: as `fill`; LEFT_HORIZON also where a level past the horizon is needed.

        Cost: O(levels taken), under the lock.
        """
        return read_price_at(self, side, quantity, notional, number)

    def depth(self, side, *, to_price=None, bps=None, number=float):
        """Return what rests on a side up to a price, inclusive: a `Depth`.

        Args:
            side: "bids" or "asks".
            to_price: the price. Exactly one of this and `bps`.
            bps: so many basis points from mid, above 0; None is returned while a complete side is empty.
            number: as in `fill`.

        Where the price lies past the horizon, `is_complete` is False, and the result is of what lies before it.

        Raises:
            DepthCacheOutOfSync: as `bids` or `asks`; with `bps` as `view`.

        Cost: O(levels), under the lock.
        """
        return read_depth(self, side, to_price, bps, number)

    def grouped(self, side, step, limit=None, *, number=float):
        """Return (price, quantity) of groups at multiples of a step, best first: bids round down, asks up.

        Args:
            side: "bids" or "asks".
            step: above 0; not only a multiple of the tick. One finer than the prices of the book copies the levels.
            limit: at most so many groups.
            number: as in `fill`.

        A group that the horizon cuts is left out. Raises as `bids` or `asks`. Cost: O(levels), under the lock.
        """
        return read_grouped(self, side, step, limit, number)

    def arrays(self, limit=None, *, number=None, out=None):
        """Return both sides of one update id as `BookArrays` of numpy; or write them into `out`, without numpy.

        Args:
            limit: at most so many levels a side.
            number: float: float64, as `to_numpy`; int: int64, price x 10**price_decimals and quantity x
                10**quantity_decimals. None: float, or the type of `out`.
            out: (bids, asks): two writable, contiguous arrays of the shape (n, 2), both of float64 or both of int64.
                Their first rows are overwritten, as many as there are levels, and `ArrayCounts` returned. No other
                thread may use them meanwhile.

        Raises:
            DepthCacheOutOfSync: as `view`.
            TypeError, ValueError: `out` is no such pair.

        Cost: O(levels returned). With `out` nothing is allocated but the result.
        """
        return read_arrays(self, limit, number, out)

    # ------------------------------------------------------------------------------------------ looking at

    @property
    def is_loaded(self):
        """Whether a snapshot has been loaded."""
        return read_flag(self, &self._is_loaded)

    @property
    def is_readable(self):
        """Whether both sides can be read at this moment."""
        cdef Refusal refusal
        return decide(self, &refusal) == READABLE

    @property
    def unreadable_cause(self):
        """Why reading both sides would raise at this moment: the cause it would have, or None: they can be read."""
        return read_cause(self)

    @property
    def suspended_by(self):
        """The cause given to `suspend` or `close`, or None."""
        cdef bint is_suspended = False
        mutex_lock(&self._mutex)
        is_suspended = self._is_suspended
        mutex_unlock(&self._mutex)
        return cause_of(self) if is_suspended else None

    @property
    def epoch(self):
        """A number that grows whenever the book can be read again after it could not, or has other levels at once.

        The pair of epoch and update id never goes back, not even when the exchange restarts its ids.
        """
        cdef int64_t epoch = 0
        mutex_lock(&self._mutex)
        epoch = self._epoch
        mutex_unlock(&self._mutex)
        return epoch

    @property
    def last_update_id(self):
        """The exchange's update id that the book stands at, or None before the first snapshot."""
        cdef Place place
        return place.last_update_id if copy_place(self, &place) else None

    @property
    def event_time_ms(self):
        """`E` of the message that brought the book there, or None."""
        cdef Place place
        return place.event_time_ms if copy_place(self, &place) and place.has_event_time else None

    @property
    def transaction_time_ms(self):
        """`T` of that message (futures), or None."""
        cdef Place place
        return place.transaction_time_ms if copy_place(self, &place) and place.has_transaction_time else None

    @property
    def received_time_ns(self):
        """The receive time given with that message, or None."""
        cdef Place place
        return place.received_time_ns if copy_place(self, &place) and place.has_received_time else None

    @property
    def bid_horizon(self):
        """The lowest price to which the bids are complete, or None: without end (or not loaded)."""
        return read_horizon(self, &self._bids, -1)

    @property
    def ask_horizon(self):
        """The highest price to which the asks are complete, or None: without end (or not loaded)."""
        return read_horizon(self, &self._asks, 1)

    @property
    def bid_count(self):
        """How many bids are held, also past the horizon."""
        return read_count(self, &self._bids.level_count)

    @property
    def ask_count(self):
        """How many asks are held, also past the horizon."""
        return read_count(self, &self._asks.level_count)

    @property
    def is_crossed(self):
        """Whether the best bid held is not below the best ask held, which no matching engine shows."""
        return read_flag(self, &self._is_crossed)

    @property
    def needs_attention(self):
        """Whether it is crossed, has fewer than half of a snapshot's levels inside a horizon, or is at `attend_at`."""
        return read_flag(self, &self._needs_attention)

    @property
    def last_header(self):
        """The `Header` of the update that `apply` judged last, or None."""
        return read_last_header(self)

    @property
    def counters(self):
        """What has happened to this book: `BookCounters`."""
        cdef Counters k
        cdef int64_t dropped = 0
        mutex_lock(&self._mutex)
        k = self._counters
        dropped = self._bids.dropped + self._asks.dropped
        mutex_unlock(&self._mutex)
        return BookCounters(
            k.snapshots_loaded, k.snapshots_refused, k.books_adopted, k.updates_applied, k.updates_stale, k.updates_gap,
            k.updates_malformed, k.updates_overlapping, k.prices_repeated, k.quantities_saturated, dropped,
        )

    @property
    def price_decimals(self):
        """How many decimals the prices of this book have, or None before the first snapshot."""
        return read_scale(self, &self._price_scale)

    @property
    def quantity_decimals(self):
        """How many decimals the quantities of this book have, or None before the first snapshot."""
        return read_scale(self, &self._quantity_scale)

    def compare(self, OrderBook other not None):
        """Return a `Comparison` with a book at the same update id, by value, whatever the scales.

        Raises ValueError if the rules or ids differ, BookNotLoaded if either is not loaded. Cost: O(levels).
        """
        return compare_books(self, other)

    def check(self):
        """Raise AssertionError if an invariant of the book is broken: a fault of ldc, never of its input. O(levels)."""
        check_book(self)


include "core/reader.pxi"
include "core/shared.pxi"
include "core/frames.pxi"
include "core/waiter.pxi"
include "core/keepalive.pxi"
include "core/openssl.pxi"
include "core/tls.pxi"
include "core/loop.pxi"


def read_header(payload):
    """Return the `Header` of any message of a stream, without reading its levels; what is missing is None.

    Raises MalformedMessage if it is not strict JSON, a known key stands twice, or an update id is no update id.
    Cost: O(bytes), no allocation but the result.
    """
    return header_of(payload)


def _limit_allocations(left):
    """For tests: let every allocation of the order books after the first `left` - 1 fail; -1: none, which is usual.

    Raises RuntimeError in builds that do not check (LDC_BUILD): there it has no effect.
    """
    if not limit_allocations(left):
        raise RuntimeError("allocations fail on purpose only in a build that checks (LDC_BUILD=checked)")


include "core/commit.pxi"
include "core/retain.pxi"
include "core/snapshot.pxi"
include "core/compare.pxi"
include "core/reads.pxi"
include "core/updates.pxi"
include "core/mapped.pxi"
include "core/regionwatch.pxi"
include "core/wide.pxi"
include "core/walks.pxi"
include "core/analytics.pxi"
include "core/arrays.pxi"
include "core/text.pxi"
