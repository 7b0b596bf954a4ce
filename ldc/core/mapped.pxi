# A book out of shared memory, or out of a message with the same layout: the reads of `BookReader`.
#
# Rule 1: nothing that stands in the memory is believed. include/ldc_shared.h checks sizes before they are used, and
#         every loop there has a bound: whatever the bytes are, a read returns or raises.
# Rule 2: a read takes no lock and makes no system call, but one: while the heartbeat is late, a look whether the feeder
#         lives.
# Rule 3: an attachment never changes. A reader whose feeder has gone replaces it by that of the next feeder, and a
#         thread that reads keeps the one that it began with.

@cython.final
cdef class MappedFile:
    """A file as memory. It keeps no descriptor, unlike `mmap.mmap` before Python 3.13.

    Raises OSError where the system has no such mapping (Windows), or no memory.
    """

    cdef void* _memory
    cdef Py_ssize_t _size
    cdef bint _is_writable

    def __cinit__(self, int fd, Py_ssize_t size, bint is_writable=False):
        if not HAS_MAPPING:
            raise OSError("this system has no mmap")
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self._memory = map_file(fd, size, is_writable)
        if self._memory == NULL:
            raise OSError(f"{size} bytes of descriptor {fd} cannot be mapped")
        self._size = size
        self._is_writable = is_writable

    def __dealloc__(self):
        if self._memory != NULL:
            unmap_file(self._memory, self._size)

    def __len__(self):
        return self._size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._memory, self._size, not self._is_writable, flags)


@cython.no_gc_clear     # it would forget `_view.obj` without releasing the buffer
@cython.final
cdef class Attachment:
    """A region as a reader has found it: checked memory, and how to see whether its feeder lives.

    Args:
        memory: a buffer with a region, aligned to 8 bytes; it is kept.
        feeder: what has the `fileno` of the file whose lock the feeder holds; None: a message, which has no feeder.
        waiters: a writable buffer in which readers say that they wait; None: they poll.

    Raises MalformedMessage if the memory is no region of this version.
    """

    cdef SharedRegion _region
    cdef Py_buffer _view
    cdef Py_buffer _waiters
    cdef uint64_t* _waiter
    cdef int _feeder_fd                 # -1: none
    cdef object _feeder
    cdef int64_t _shift_ns              # of a message: from the clock of its sender to this one
    cdef readonly object generation
    cdef readonly object market
    cdef readonly object exchange
    cdef readonly object pid

    def __cinit__(self, memory, *, feeder=None, waiters=None):
        cdef const SharedHead* head
        blank_view(&self._view)
        blank_view(&self._waiters)
        self._feeder_fd = -1
        PyObject_GetBuffer(memory, &self._view, PyBUF_SIMPLE)
        if shared_check(&self._region, self._view.buf, self._view.len) != SHARED_READABLE:
            raise MalformedMessage(None, "MALFORMED", region_problem(self._view.buf, self._view.len))
        head = shared_head_of(&self._region)
        self.generation = shared_load(&head.generation)
        self.market = fixed_text(head.market, 64)
        self.exchange = fixed_text(head.exchange, 64)
        self.pid = head.pid
        if feeder is not None:
            self._feeder_fd = feeder.fileno()
            self._feeder = feeder
        else:
            self._shift_ns = clock_exact() - <int64_t>shared_load(<const uint64_t*>&head.heartbeat_ns)
        if waiters is not None:
            PyObject_GetBuffer(waiters, &self._waiters, PyBUF_CONTIG)
            if 8 * (<Py_ssize_t>head.waiter_slot + 1) <= self._waiters.len:
                self._waiter = <uint64_t*>self._waiters.buf + head.waiter_slot

    def __dealloc__(self):
        PyBuffer_Release(&self._waiters)
        PyBuffer_Release(&self._view)


cdef str region_problem(const void* memory, Py_ssize_t size):
    """Say what is wrong with memory that is no region."""
    cdef uint64_t magic = 0
    cdef uint32_t version = 0
    if size >= <Py_ssize_t>sizeof(SharedHead):
        memcpy(&magic, memory, 8)
        memcpy(&version, <const char*>memory + 8, 4)
        if magic == SHARED_MAGIC and version != SHARED_VERSION:
            return f"The shared book has layout {version}, and this ldc reads {SHARED_VERSION}; install the same ldc."
    return f"{size} bytes are no shared book of layout {SHARED_VERSION}; nothing of them was used."


cdef str fixed_text(const char* room, Py_ssize_t size):
    """Return a text that ends with its room or at the first zero."""
    cdef Py_ssize_t length = 0
    cdef bytes copied = room[:size]
    length = copied.find(b"\0")
    return copied[:length if length >= 0 else size].decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------ taking a copy

cdef struct SharedTaken:
    # What a read has found. `bids` and `asks` are the stacks, or memory that `taken_close` frees.
    SharedView view
    SharedLevel bid_stack[STACK_READ_LEVELS]
    SharedLevel ask_stack[STACK_READ_LEVELS]
    SharedLevel* bids
    SharedLevel* asks
    uint32_t bid_count
    uint32_t ask_count
    int64_t now_ns
    int64_t proven_ns
    int64_t allowed_ns
    int is_late


cdef inline void taken_close(SharedTaken* taken) noexcept nogil:
    if taken.bids != taken.bid_stack:
        free(taken.bids)
    if taken.asks != taken.ask_stack:
        free(taken.asks)
    taken.bids = taken.bid_stack
    taken.asks = taken.ask_stack


cdef inline void taken_open(SharedTaken* taken) noexcept nogil:
    taken.bids = taken.bid_stack
    taken.asks = taken.ask_stack
    taken.view.flags = 0
    taken.is_late = False
    taken.now_ns = 0        # no copy was looked at yet: `_looked_ns` takes it


cdef inline SharedLevel* room_for(SharedLevel* stack, uint32_t count) noexcept nogil:
    return stack if count <= STACK_READ_LEVELS else <SharedLevel*>malloc(count * sizeof(SharedLevel))


cdef int attachment_state(Attachment at, SharedTaken* taken, int state, int64_t max_age_ns) noexcept nogil:
    """Return what a copy is worth now that its book is in this state."""
    cdef const SharedHead* head = shared_head_of(&at._region)
    cdef int liveness
    taken.now_ns = clock_coarse() - at._shift_ns
    liveness = shared_liveness(&at._region, taken.now_ns, &taken.is_late)
    if at._feeder_fd < 0:
        taken.is_late = False
    if liveness == SHARED_FEEDER_GONE or (taken.is_late and not feeder_lives(at._feeder_fd)):
        return SHARED_FEEDER_GONE
    if state != SHARED_READABLE and state != SHARED_CROSSED:
        return state
    if liveness == SHARED_TOO_OLD or max_age_ns > 0:
        taken.proven_ns = <int64_t>shared_load(<const uint64_t*>&head.proven_ns)
        taken.allowed_ns = <int64_t>shared_load(<const uint64_t*>&head.lease_ns)
        if liveness == SHARED_TOO_OLD:
            return SHARED_TOO_OLD
        if taken.proven_ns < taken.now_ns - max_age_ns:
            taken.allowed_ns = max_age_ns
            return SHARED_TOO_OLD
    return state


cdef int attachment_take(
    Attachment at, SharedTaken* taken, uint32_t bid_limit, uint32_t ask_limit, int64_t max_age_ns
) noexcept nogil:
    """Take a copy and decide whether it can be read, whatever the side. 0: there is no memory."""
    cdef int state
    bid_limit = min(bid_limit, at._region.levels)
    ask_limit = min(ask_limit, at._region.levels)
    taken.bids = room_for(taken.bid_stack, bid_limit)
    taken.asks = room_for(taken.ask_stack, ask_limit)
    if taken.bids == NULL or taken.asks == NULL:
        taken_close(taken)
        return 0
    state = shared_take(&at._region, &taken.view, taken.bids, bid_limit, taken.asks, ask_limit)
    taken.bid_count = min(taken.view.bid_count, bid_limit)
    taken.ask_count = min(taken.view.ask_count, ask_limit)
    return attachment_state(at, taken, state, max_age_ns)


cdef inline bint left_bids(const SharedTaken* taken) noexcept nogil:
    return (taken.view.flags & HAS_BID_HORIZON) != 0 and taken.view.bid_count == 0


cdef inline bint left_asks(const SharedTaken* taken) noexcept nogil:
    return (taken.view.flags & HAS_ASK_HORIZON) != 0 and taken.view.ask_count == 0


# --------------------------------------------------------------------------------------------------------- the reader

# By the status of ldc_shared.h; a suspended book has the cause given to it.
cdef tuple SHARED_CAUSES = (
    None, None, Cause.NOT_LOADED, None, Cause.CROSSED, Cause.LEFT_HORIZON, Cause.TOO_OLD, Cause.FEEDER_GONE,
    "MALFORMED", "BUSY")


cdef object shared_cause(int status, const SharedView* view):
    """Return why both sides of a copy cannot be read, or None."""
    if status == SHARED_SUSPENDED:
        return fixed_text(view.cause, 32)
    if status == SHARED_NOT_LOADED:
        suspended_by = fixed_text(view.cause, 32)
        if suspended_by and is_final(suspended_by):
            return suspended_by
    return SHARED_CAUSES[status]


@cython.final
cdef class SharedReader:
    """One market of a share, read without a lock, a thread or a network: it has the reads of `BookReader`.

    `SharedBooks` makes it. Each read is the exchange's book at one update id, up to the horizon: the nearer of the
    book's own and the last level that the feeder publishes. Otherwise it raises, as in the feeder:
    `DepthCacheOutOfSync` with the feeder's cause; with FEEDER_GONE if the feeder has ended or was never there; with
    TOO_OLD if the last proof that the book is current is older than its lease. Reads after that find the next feeder by
    themselves. `MalformedMessage`: the memory holds no book of this layout.

    Args:
        market: for error messages.
        attach: called with the generation that the reader has (None: that feeder has gone); returns the `Attachment`
            of a feeder with another one, or None, or raises the refusal.
        max_age_ns: how old a proof may be, if that is stricter than the lease; 0: only the lease counts.
        attachment: what to read at first.
        may_block: called before each sleep of a wait: whether it may block the thread of the system. False: the wait
            sleeps by `time.sleep`, which libraries of greenlets replace. None: it may.

    Thread-safety: any thread may read. Cost: of the same read in the feeder; 1 to 9 us more for a read at which the
    heartbeat is late.
    """

    cdef Attachment _at
    cdef object _attach
    cdef int64_t _max_age_ns
    cdef int64_t _highest_id
    cdef int64_t _looked_ns             # when a successor was searched for last
    cdef object _may_block
    cdef readonly object market

    def __cinit__(self, market, attach=None, *, max_age_ns=0, Attachment attachment=None, may_block=None):
        self.market = market
        self._attach = attach
        self._max_age_ns = max_age_ns
        self._at = attachment
        self._may_block = may_block

    def __repr__(self):
        return f"<SharedReader of {self.market!r} at update id {self.last_update_id}>"

    def __reduce__(self):
        raise TypeError("a SharedReader cannot be copied or pickled; pickle its SharedBooks")

    # ------------------------------------------------------------------------------------------ inside

    cdef Attachment _attached(self):
        cdef Attachment at
        with cython.critical_section(self):
            at = self._at
        return at

    cdef int _take(self, SharedTaken* taken, uint32_t bid_limit, uint32_t ask_limit, bint is_look) except -1:
        """Take a copy, of the next feeder if this one has gone; return the status. The caller closes `taken`."""
        cdef Attachment at = self._attached()
        cdef int status = SHARED_FEEDER_GONE
        taken_open(taken)
        if at is not None:
            status = attachment_take(at, taken, bid_limit, ask_limit, self._max_age_ns)
            if status != SHARED_FEEDER_GONE and not (
                    taken.is_late and taken.now_ns - self._looked_ns >= SUCCESSOR_NS):
                return self._noted(taken, status)
        if self._attach is None:
            return self._noted(taken, status)
        try:
            next_one = self._attach(at.generation if at is not None and status != SHARED_FEEDER_GONE else None)
        except BaseException as error:
            if is_look and isinstance(error, DepthCacheError):
                return status
            taken_close(taken)
            raise
        self._looked_ns = taken.now_ns
        if next_one is None:
            return self._noted(taken, status)
        taken_close(taken)
        at = next_one
        with cython.critical_section(self):
            self._at = at
        status = attachment_take(at, taken, bid_limit, ask_limit, self._max_age_ns)
        return self._noted(taken, status)

    cdef int _noted(self, SharedTaken* taken, int status) except -1:
        if status == 0:
            raise MemoryError()
        if status == SHARED_READABLE and taken.view.last_update_id > self._highest_id:
            self._highest_id = taken.view.last_update_id
        return status

    cdef int _look(self, SharedView* view) except -1:
        """Return the status of both sides without raising, and the head of the copy; no flags: there is none."""
        cdef SharedTaken taken
        cdef int status = self._take(&taken, 0, 0, True)
        if status == SHARED_READABLE and shared_has_left(&taken.view):
            status = SHARED_LEFT_HORIZON
        if status == SHARED_MALFORMED or status == SHARED_BUSY:
            taken.view.flags = 0
        view[0] = taken.view
        return status

    cdef object _refuse(self, int status, SharedTaken* taken):
        """Raise why the copy that was taken cannot be read."""
        market, update_id = self.market, taken.view.last_update_id
        if status == SHARED_FEEDER_GONE:
            raise refused(market, Cause.FEEDER_GONE)
        if status == SHARED_NOT_LOADED:
            raise refused_unloaded(market, Cause.NOT_LOADED, fixed_text(taken.view.cause, 32) or None)
        if status == SHARED_SUSPENDED:
            raise refused(market, fixed_text(taken.view.cause, 32), update_id)
        if status == SHARED_TOO_OLD:
            age_s = (taken.now_ns - taken.proven_ns) / 1e9
            proof = "none has come yet" if taken.proven_ns == NEVER_NS else f"the last one came {age_s:.3f} s ago"
            raise refused(
                market, Cause.TOO_OLD, update_id,
                why=f"of the proofs that it is current, {proof}, and {taken.allowed_ns / 1e9:.3f} s are allowed")
        if status == SHARED_CROSSED:
            raise refused(market, Cause.CROSSED, update_id)
        if status == SHARED_BUSY:
            raise MalformedMessage(market, "BUSY", f"The shared book of {market!r} changed during each of many reads.")
        raise MalformedMessage(
            market, "MALFORMED", f"The shared book of {market!r} holds what no feeder writes; nothing of it was used.")

    cdef object _refuse_left(self, str side, SharedTaken* taken):
        is_bids = side == "bids"
        horizon = units_float(taken.view.bid_horizon if is_bids else taken.view.ask_horizon, taken.view.price_scale)
        raise refused_past_horizon(self.market, Cause.LEFT_HORIZON, taken.view.last_update_id, side, horizon)

    cdef object _best(self, bint is_bids):
        cdef SharedTaken taken
        cdef SharedLevel best
        cdef int status = self._take(&taken, is_bids, not is_bids, False)
        cdef int32_t price_scale = taken.view.price_scale, quantity_scale = taken.view.quantity_scale
        if status != SHARED_READABLE:
            self._refuse(status, &taken)
        if is_bids:
            if left_bids(&taken):
                self._refuse_left("bids", &taken)
            if taken.bid_count == 0:
                return None
            best = taken.bids[0]
        else:
            if left_asks(&taken):
                self._refuse_left("asks", &taken)
            if taken.ask_count == 0:
                return None
            best = taken.asks[0]
        if are_exact(<const int64_t*>&best, 2):
            return float_tuple(
                <double>best.price / POW10_DOUBLE[price_scale], <double>best.quantity / POW10_DOUBLE[quantity_scale])
        return units_float(best.price, price_scale), units_float(best.quantity, quantity_scale)

    cdef object _side(self, bint is_bids, object limit, object threshold, object number):
        cdef SharedTaken taken
        cdef uint32_t wanted = <uint32_t>limit_of(limit)
        cdef NumberType as_type = number_type(number)
        cdef double notional = threshold_of(threshold) if threshold is not None else 0.0
        cdef int status = self._take(&taken, wanted if is_bids else 0, 0 if is_bids else wanted, False)
        cdef Level* levels = <Level*>(taken.bids if is_bids else taken.asks)
        cdef int32_t count = <int32_t>(taken.bid_count if is_bids else taken.ask_count)
        try:
            if status != SHARED_READABLE:
                self._refuse(status, &taken)
            if left_bids(&taken) if is_bids else left_asks(&taken):
                self._refuse_left("bids" if is_bids else "asks", &taken)
            if threshold is not None:
                count = notional_count(levels, count, taken.view.price_scale, taken.view.quantity_scale, notional)
            return levels_as_lists(levels, count, taken.view.price_scale, taken.view.quantity_scale, as_type)
        finally:
            taken_close(&taken)

    # ------------------------------------------------------------------------------------------ reading

    @property
    def best_bid(self):
        """(price, quantity) as floats of the highest bid, or None if there is no bid. Raises as `bids`."""
        return self._best(True)

    @property
    def best_ask(self):
        """(price, quantity) as floats of the lowest ask, or None if there is no ask. Raises as `bids`."""
        return self._best(False)

    def bids(self, limit=None, *, threshold_volume=None, number=float):
        """Return the bids, best first, as `OrderBook.bids`; at most as many as the feeder publishes."""
        return self._side(True, limit, threshold_volume, number)

    def asks(self, limit=None, *, threshold_volume=None, number=float):
        """Return the asks, best first; otherwise as `bids`."""
        return self._side(False, limit, threshold_volume, number)

    def view(self, limit=None, *, number=float):
        """Return one atomic `BookView`: both sides, ids, times and horizons of one update id. Raises as `bids`."""
        cdef SharedTaken taken
        cdef uint32_t wanted = <uint32_t>limit_of(limit)
        cdef NumberType as_type = number_type(number)
        cdef int status = self._take(&taken, wanted, wanted, False)
        cdef SharedView* view = &taken.view
        cdef int32_t price_scale = view.price_scale
        try:
            if status != SHARED_READABLE:
                self._refuse(status, &taken)
            if left_bids(&taken):
                self._refuse_left("bids", &taken)
            if left_asks(&taken):
                self._refuse_left("asks", &taken)
            return new_record(BookView, (
                levels_as_tuples(
                    <Level*>taken.bids, <int32_t>taken.bid_count, price_scale, view.quantity_scale, as_type),
                levels_as_tuples(
                    <Level*>taken.asks, <int32_t>taken.ask_count, price_scale, view.quantity_scale, as_type),
                view.last_update_id,
                view.event_time_ms if view.flags & HAS_EVENT_TIME else None,
                view.transaction_time_ms if view.flags & HAS_TRANSACTION_TIME else None,
                view.received_time_ns if view.flags & HAS_RECEIVED_TIME else None,
                horizon_number((view.flags & HAS_BID_HORIZON) != 0, view.bid_horizon, price_scale, as_type),
                horizon_number((view.flags & HAS_ASK_HORIZON) != 0, view.ask_horizon, price_scale, as_type),
                taken.bid_count < view.bid_count,
                taken.ask_count < view.ask_count,
                number,
                view.epoch,
            ))
        finally:
            taken_close(&taken)

    def to_numpy(self, side, limit=None):
        """Return "bids" or "asks", best first, as a new float64 array of shape (n, 2). Needs numpy."""
        if side not in ("bids", "asks"):
            raise ValueError(f'side must be "bids" or "asks", not {side!r}')
        import numpy

        levels = self._side(side == "bids", limit, None, float)
        return numpy.array(levels, dtype=numpy.float64).reshape(len(levels), 2)

    # ------------------------------------------------------------------------------------------ analytics
    # In Python, of the whole numbers that are published.

    @property
    def mid(self):
        """As `BookReader.mid`. It and the other analytics know what the feeder publishes; the last level is the end."""
        return KnownReads.mid.fget(self)

    @property
    def spread(self):
        """As `BookReader.spread`."""
        return KnownReads.spread.fget(self)

    @property
    def micro_price(self):
        """As `BookReader.micro_price`."""
        return KnownReads.micro_price.fget(self)

    def prices(self, *, number=float):
        """As `BookReader.prices`."""
        return KnownReads.prices(self, number=number)

    def imbalance(self, *, levels=None, bps=None, number=float):
        """As `BookReader.imbalance`."""
        return KnownReads.imbalance(self, levels=levels, bps=bps, number=number)

    def fill(self, side, *, quantity=None, notional=None, number=float):
        """As `BookReader.fill`."""
        return KnownReads.fill(self, side, quantity=quantity, notional=notional, number=number)

    def price_at(self, side, *, quantity=None, notional=None, number=float):
        """As `BookReader.price_at`."""
        return KnownReads.price_at(self, side, quantity=quantity, notional=notional, number=number)

    def depth(self, side, *, to_price=None, bps=None, number=float):
        """As `BookReader.depth`."""
        return KnownReads.depth(self, side, to_price=to_price, bps=bps, number=number)

    def grouped(self, side, step, limit=None, *, number=float):
        """As `BookReader.grouped`."""
        return KnownReads.grouped(self, side, step, limit, number=number)

    def _known(self, *names, limit=None):
        """Return the levels of these sides as `ldc.analytics.known` wants them."""
        cdef SharedTaken taken
        cdef SharedView* view = &taken.view
        cdef uint32_t wanted = <uint32_t>limit_of(limit)
        cdef bint has_bids = "bids" in names, has_asks = "asks" in names
        cdef int status = self._take(&taken, wanted if has_bids else 0, wanted if has_asks else 0, False)
        try:
            if status != SHARED_READABLE:
                self._refuse(status, &taken)
            if has_bids and left_bids(&taken):
                self._refuse_left("bids", &taken)
            if has_asks and left_asks(&taken):
                self._refuse_left("asks", &taken)
            return exact.KnownBook(
                exact.KnownSide("bids", units_of(taken.bids, taken.bid_count),
                                view.bid_horizon if view.flags & HAS_BID_HORIZON else None),
                exact.KnownSide("asks", units_of(taken.asks, taken.ask_count),
                                view.ask_horizon if view.flags & HAS_ASK_HORIZON else None),
                view.price_scale, view.quantity_scale)
        finally:
            taken_close(&taken)

    def _needs_more(self, book, name):
        at = exact.sum_as(book.side(name).horizon or 0, book.price_decimals, float)
        return refused_for_more(self.market, Cause.LEFT_HORIZON, self.last_update_id, name, at)

    def arrays(self, limit=None, *, number=None, out=None):
        """As `BookReader.arrays`. No object for a level."""
        cdef SharedTaken taken
        cdef uint32_t wanted = <uint32_t>limit_of(limit)
        cdef int status
        if number is not None and number is not float and number is not int:
            raise ValueError(f"number must be float or int, not {number!r}")
        status = self._take(&taken, wanted, wanted, False)
        try:
            if status != SHARED_READABLE:
                self._refuse(status, &taken)
            if left_bids(&taken):
                self._refuse_left("bids", &taken)
            if left_asks(&taken):
                self._refuse_left("asks", &taken)
            return taken_rows(&taken, number, out)
        finally:
            taken_close(&taken)

    # ------------------------------------------------------------------------------------------ waiting

    def wait_for_update(self, after_update_id=None, timeout=None, *, spin_us=0):
        """Block until the book has moved past an update id; return the new id, or None after `timeout` seconds.

        As `DepthCache.wait_for_update`: with an id it raises if the book cannot be read, before the call or during it.
        With None it waits for an id past the present one; if the book cannot be read now, until it can, also until
        there is a feeder. After the exchange has restarted its ids, the new, lower one is returned at once.

        `spin_us`: microseconds to look at the memory, without the GIL, before the thread sleeps. It costs a core then.
        """
        cdef int64_t deadline = -1 if timeout is None else monotonic_ns() + ns_of(timeout)
        cdef int64_t spin_ns = ns_of(spin_us / 1e6)
        cdef int64_t after = -1, reached = -1, seen = self._highest_id
        cdef SharedView view
        cdef int status = self._look(&view)
        cdef bint is_held = after_update_id is not None or status == SHARED_READABLE
        cdef bint has_id = is_held
        if timeout is not None and timeout != timeout:
            raise ValueError("timeout must be a number of seconds, or None to wait without end; it is NaN")
        if is_held:
            after = after_update_id if after_update_id is not None else view.last_update_id
        while True:
            if status == SHARED_READABLE:
                reached = view.last_update_id
                if not has_id or reached > after or reached < after <= max(seen, self._highest_id):
                    return reached
            elif is_held:
                self.view(0)        # raises why; it may have become readable meanwhile
            if deadline >= 0 and monotonic_ns() >= deadline:
                return None
            self._sleep(status == SHARED_READABLE, reached, deadline, spin_ns)
            PyErr_CheckSignals()
            status = self._look(&view)

    cdef int _sleep(self, bint is_readable, int64_t stands, int64_t deadline, int64_t spin_ns) except -1:
        """Sleep without the GIL until the book may have changed, at most until the heartbeat has to be looked at."""
        cdef Attachment at
        if self._may_block is not None and not self._may_block():
            time.sleep(POLL_NS / 1e9)   # looked up each time: a library may have replaced it since
            return 0
        at = self._attached()
        cdef int64_t now = monotonic_ns()
        cdef int64_t longest = LIFE_LOOK_NS if deadline < 0 else max(<int64_t>0, min(LIFE_LOOK_NS, deadline - now))
        with nogil:
            if at is None or not is_readable:
                nap(longest)
            else:
                sleep_until_published(at, stands, now, longest, spin_ns)
        return 0

    # ------------------------------------------------------------------------------------------ looking at

    @property
    def is_readable(self):
        """Whether both sides can be read at this moment."""
        cdef SharedView view
        return self._look(&view) == SHARED_READABLE

    @property
    def unreadable_cause(self):
        """Why reading both sides would raise at this moment: the cause it would have, or None: they can be read."""
        cdef SharedView view
        cdef int status = self._look(&view)
        return shared_cause(status, &view)

    @property
    def suspended_by(self):
        """The cause for which the feeder has suspended the book, or None."""
        cdef SharedView view
        view.cause[0] = 0
        self._look(&view)
        return (fixed_text(view.cause, 32) or None) if view.state in (SHARED_SUSPENDED, SHARED_NOT_LOADED) else None

    @property
    def is_loaded(self):
        """Whether the feeder has loaded a snapshot."""
        cdef SharedView view
        self._look(&view)
        return (view.flags & IS_LOADED) != 0

    @property
    def last_update_id(self):
        """The exchange's update id that the book stands at, or None: not loaded, or there was no feeder yet."""
        cdef SharedView view
        self._look(&view)
        return view.last_update_id if view.flags & IS_LOADED else None

    @property
    def event_time_ms(self):
        """`E` of the message that brought the book there, or None."""
        cdef SharedView view
        self._look(&view)
        return view.event_time_ms if view.flags & HAS_EVENT_TIME else None

    @property
    def transaction_time_ms(self):
        """`T` of that message (futures), or None."""
        cdef SharedView view
        self._look(&view)
        return view.transaction_time_ms if view.flags & HAS_TRANSACTION_TIME else None

    @property
    def received_time_ns(self):
        """When that message arrived in the feeder, or None."""
        cdef SharedView view
        self._look(&view)
        return view.received_time_ns if view.flags & HAS_RECEIVED_TIME else None

    @property
    def bid_horizon(self):
        """The lowest price to which the bids are complete here, or None: without end (or not loaded)."""
        cdef SharedView view
        self._look(&view)
        return units_float(view.bid_horizon, view.price_scale) if view.flags & HAS_BID_HORIZON else None

    @property
    def ask_horizon(self):
        """The highest price to which the asks are complete here, or None: without end (or not loaded)."""
        cdef SharedView view
        self._look(&view)
        return units_float(view.ask_horizon, view.price_scale) if view.flags & HAS_ASK_HORIZON else None

    @property
    def bid_count(self):
        """How many bids the feeder publishes."""
        cdef SharedView view
        self._look(&view)
        return view.bid_count if view.flags & IS_LOADED else 0

    @property
    def ask_count(self):
        """How many asks the feeder publishes."""
        cdef SharedView view
        self._look(&view)
        return view.ask_count if view.flags & IS_LOADED else 0

    @property
    def is_crossed(self):
        """Whether the best bid is not below the best ask, which no matching engine shows."""
        cdef SharedView view
        return self._look(&view) == SHARED_CROSSED

    @property
    def price_decimals(self):
        """How many decimals the prices have, or None before the first snapshot."""
        cdef SharedView view
        self._look(&view)
        return view.price_scale if view.flags & IS_LOADED else None

    @property
    def quantity_decimals(self):
        """How many decimals the quantities have, or None before the first snapshot."""
        cdef SharedView view
        self._look(&view)
        return view.quantity_scale if view.flags & IS_LOADED else None

    @property
    def proof_age_ns(self):
        """How old the last proof is that the book is current, or None: none has come, or the book has no lease."""
        cdef Attachment at = self._attached()
        cdef int64_t proven_ns
        if at is None:
            return None
        proven_ns = <int64_t>shared_load(<const uint64_t*>&shared_head_of(&at._region).proven_ns)
        return max(clock_coarse() - at._shift_ns - proven_ns, <int64_t>0) if proven_ns != NEVER_NS else None

    @property
    def publications(self):
        """How many copies the present feeder has published; 0: none yet."""
        cdef Attachment at = self._attached()
        return shared_load(&shared_head_of(&at._region).latest) if at is not None else 0

    @property
    def generation(self):
        """Which feeder is read: another number for each; None: none yet."""
        cdef Attachment at = self._attached()
        return at.generation if at is not None else None

    @property
    def exchange(self):
        """The exchange string of the feeder's manager; "" if it gave none; None: there was no feeder yet."""
        cdef Attachment at = self._attached()
        return at.exchange if at is not None else None


cdef list units_of(const SharedLevel* levels, uint32_t count):
    """Return (price, quantity) of levels, in units."""
    cdef uint32_t index
    return [(levels[index].price, levels[index].quantity) for index in range(count)]


cdef object taken_rows(SharedTaken* taken, object number, object out):
    """Return both sides of a copy as arrays, or write them into the two arrays of `out`."""
    cdef Level* bids = <Level*>taken.bids
    cdef Level* asks = <Level*>taken.asks
    cdef int32_t bid_count = <int32_t>taken.bid_count, ask_count = <int32_t>taken.ask_count
    cdef int32_t price_scale = taken.view.price_scale, quantity_scale = taken.view.quantity_scale
    cdef bint is_float = number is not int
    cdef Py_buffer bid_rows, ask_rows
    blank_view(&bid_rows)
    blank_view(&ask_rows)
    try:
        if out is not None:
            is_float = open_both_rows(out, number, &bid_rows, &ask_rows)
            bid_count = <int32_t>min(<Py_ssize_t>bid_count, bid_rows.shape[0])
            ask_count = <int32_t>min(<Py_ssize_t>ask_count, ask_rows.shape[0])
        if is_float:
            floats_in_place(bids, bid_count, price_scale, quantity_scale)
            floats_in_place(asks, ask_count, price_scale, quantity_scale)
        if out is None:
            dtype = "float64" if is_float else "int64"
            return new_record(BookArrays, (
                rows_as_array(bids, bid_count, dtype), rows_as_array(asks, ask_count, dtype),
                taken.view.last_update_id, price_scale, quantity_scale))
        memcpy(bid_rows.buf, bids, bid_count * sizeof(Level))
        memcpy(ask_rows.buf, asks, ask_count * sizeof(Level))
        return new_record(ArrayCounts, (bid_count, ask_count, taken.view.last_update_id, price_scale, quantity_scale))
    finally:
        PyBuffer_Release(&bid_rows)
        PyBuffer_Release(&ask_rows)


cdef void sleep_until_published(
    Attachment at, int64_t stands, int64_t now, int64_t longest, int64_t spin_ns
) noexcept nogil:
    """Spin, then sleep, until another copy is published or the time is over."""
    cdef const SharedHead* head = shared_head_of(&at._region)
    cdef uint64_t number = shared_load(&head.latest)
    cdef int64_t end = now + longest, spin_end = now + min(spin_ns, longest)
    cdef uint32_t seen
    cdef SharedView view
    if shared_take(&at._region, &view, NULL, 0, NULL, 0) != SHARED_READABLE or view.last_update_id != stands:
        return
    while spin_ns > 0 and now < spin_end:
        if shared_load(&head.latest) != number:
            return
        pause_cpu()
        now = monotonic_ns()
    if at._waiter == NULL or not HAS_SHARED_FUTEX:
        while now < end and shared_load(&head.latest) == number:
            nap(min(POLL_NS, end - now))
            now = monotonic_ns()
        return
    store_in_order(at._waiter, <uint64_t>(clock_exact() + WAITER_NS))
    seen = shared_load_u32(&head.change)
    if shared_load(&head.latest) == number and now < end:
        wait_shared(&head.change, seen, end - now)
