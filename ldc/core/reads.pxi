# A book into Python values: copy under the lock, build after it.

cdef enum:
    STACK_READ_LEVELS = 128     # a read of no more levels needs no allocation but the result

# By ReadState; a suspended book has the cause given to it.
cdef tuple CAUSES = (None, Cause.NOT_LOADED, None, Cause.STALLED, Cause.CROSSED, Cause.LEFT_HORIZON)

cdef int32_t limit_of(object limit) except -1:
    """Return how many levels are wanted; None is all."""
    cdef Py_ssize_t wanted
    if limit is None:
        return INT32_MAX
    if not isinstance(limit, int) and not hasattr(limit, "__index__"):
        raise TypeError(f"limit must be an int or None, not {type(limit).__name__}")
    wanted = PyNumber_AsSsize_t(limit, NULL)
    if wanted < 0:
        raise ValueError(f"limit must not be negative, and is {limit}")
    return <int32_t>min(wanted, INT32_MAX)


cdef double threshold_of(object threshold) except? -1.0:
    if isinstance(threshold, (str, bytes, bytearray)):
        raise TypeError(f"threshold_volume must be a number, not {type(threshold).__name__}")
    cdef double value = float(threshold)
    if value != value:
        raise ValueError("threshold_volume must not be NaN")
    return value


cdef struct Refusal:
    # What a book that cannot be read says of the moment in which it was asked.
    int64_t last_update_id
    int64_t proven_ns           # STALLED: by the lease clock; NEVER_NS: never
    int64_t now_ns
    int64_t duration_ns
    const BookSide* side        # LEFT_HORIZON: the side that has
    int64_t horizon_key
    int32_t price_scale


cdef inline ReadState state_of_book(OrderBook book, Refusal* refusal) noexcept nogil:
    """Whether the book can be read, whatever the side. Under the lock. The order is that of docs/order-book.md."""
    cdef const LeaseTerms* terms = book._terms
    if book._is_closed:
        return SUSPENDED
    if not book._is_loaded:
        return NOT_LOADED
    refusal.last_update_id = book._place.last_update_id
    if book._is_suspended:
        return SUSPENDED
    if terms != NULL:
        refusal.now_ns = clock_coarse()
        if terms_ended(terms, refusal.now_ns):
            refusal.proven_ns = load_relaxed(&terms.proven_ns)
            refusal.duration_ns = terms.duration_ns
            return STALLED
    return CROSSED if book._is_crossed else READABLE


cdef inline bint has_left(OrderBook book, const BookSide* side, Refusal* refusal) noexcept nogil:
    """Whether a side holds no level inside its horizon. Under the lock."""
    if not side.has_horizon or side.known_count != 0:
        return False
    refusal.side = side
    refusal.horizon_key = side.horizon_key
    refusal.price_scale = book._price_scale
    return True


cdef inline ReadState state_of_side(
    OrderBook book, const BookSide* side, bint beyond_horizon, Refusal* refusal
) noexcept nogil:
    """Whether a side can be read. Under the lock."""
    cdef ReadState state = state_of_book(book, refusal)
    if state == READABLE and not beyond_horizon and has_left(book, side, refusal):
        return LEFT_HORIZON
    return state


cdef inline ReadState state_of_both(OrderBook book, bint beyond_horizon, Refusal* refusal) noexcept nogil:
    """Whether both sides can be read. Under the lock."""
    cdef ReadState state = state_of_side(book, &book._bids, beyond_horizon, refusal)
    if state == READABLE and not beyond_horizon and has_left(book, &book._asks, refusal):
        return LEFT_HORIZON
    return state


cdef ReadState decide(OrderBook book, Refusal* refusal) noexcept:
    """Return whether both sides can be read at this moment."""
    cdef ReadState state = NOT_LOADED
    mutex_lock(&book._mutex)
    state = state_of_both(book, False, refusal)
    mutex_unlock(&book._mutex)
    return state


cdef int check_cause(object cause) except -1:
    if not isinstance(cause, str):
        raise TypeError(f"cause must be a str, not {type(cause).__name__}")
    if not cause:
        raise ValueError("cause must not be empty")
    return 0


cdef object cause_of(OrderBook book):
    with cython.critical_section(book):
        cause = book._cause
    return cause


cdef object read_cause(OrderBook book):
    cdef Refusal refusal
    cdef ReadState state = decide(book, &refusal)
    if state == SUSPENDED:
        return cause_of(book)
    if state == NOT_LOADED:
        suspended_by = book.suspended_by
        if suspended_by is not None and is_final(suspended_by):
            return suspended_by
    return CAUSES[<int>state]


cdef object refuse_read(OrderBook book, ReadState state, const Refusal* refusal):
    """Raise why a book cannot be read. `ldc.errors` has the class and the advice of each cause."""
    if state == NOT_LOADED:
        raise refused_unloaded(book.market, Cause.NOT_LOADED, book.suspended_by)
    if state == SUSPENDED:
        raise refused(book.market, cause_of(book), book.last_update_id)
    if state == STALLED:
        age_ns = refusal.now_ns - refusal.proven_ns if refusal.proven_ns != NEVER_NS else None
        raise refused_as_stalled(book.market, Cause.STALLED, refusal.last_update_id, age_ns, refusal.duration_ns)
    if state == CROSSED:
        raise refused(book.market, Cause.CROSSED, refusal.last_update_id)
    is_bids = refusal.side == &book._bids
    horizon = units_float(-refusal.horizon_key if is_bids else refusal.horizon_key, refusal.price_scale)
    raise refused_past_horizon(
        book.market, Cause.LEFT_HORIZON, refusal.last_update_id, "bids" if is_bids else "asks", horizon)


cdef object read_best(OrderBook book, const BookSide* side, int64_t sign):
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef int32_t price_scale = 0, quantity_scale = 0
    cdef Level best
    cdef bint is_empty = True
    best.price = best.quantity = 0
    mutex_lock(&book._mutex)
    state = state_of_side(book, side, False, &refusal)
    is_empty = side.known_count == 0
    if not is_empty:
        best.price = sign * side.slots[0].block.keys[0]
        best.quantity = side.slots[0].block.quantities[0]
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    mutex_unlock(&book._mutex)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    if is_empty:
        return None
    if are_exact(<const int64_t*>&best, 2):
        return float_tuple(
            <double>best.price / POW10_DOUBLE[price_scale], <double>best.quantity / POW10_DOUBLE[quantity_scale])
    return units_float(best.price, price_scale), units_float(best.quantity, quantity_scale)


cdef inline Level* copy_levels(
    const BookSide* side, int32_t limit, bint beyond_horizon, int64_t sign, Level* stack, int32_t* count
) noexcept nogil:
    """Copy the best levels to `stack`, or to the heap if it is too small; NULL: no memory. Under the lock."""
    cdef int32_t wanted = min(limit, side.level_count if beyond_horizon else side.known_count)
    cdef Level* levels = stack
    if wanted > STACK_READ_LEVELS:
        levels = <Level*>malloc(wanted * sizeof(Level))
    if levels != NULL:
        count[0] = side_best_levels(side, wanted, not beyond_horizon, levels, sign)
    return levels


cdef object read_side(
    OrderBook book, const BookSide* side, int64_t sign, object limit, object threshold, object number,
    bint beyond_horizon
):
    cdef Level stack[STACK_READ_LEVELS]
    cdef Level* levels = stack
    cdef int32_t count = 0, price_scale = 0, quantity_scale = 0, wanted = limit_of(limit)
    cdef NumberType as_type = number_type(number)
    cdef double notional = threshold_of(threshold) if threshold is not None else 0.0
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    mutex_lock(&book._mutex)
    state = state_of_side(book, side, beyond_horizon, &refusal)
    if state == READABLE:
        levels = copy_levels(side, wanted, beyond_horizon, sign, stack, &count)
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    mutex_unlock(&book._mutex)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    if levels == NULL:
        raise MemoryError()
    try:
        if threshold is not None:
            count = notional_count(levels, count, price_scale, quantity_scale, notional)
        return levels_as_lists(levels, count, price_scale, quantity_scale, as_type)
    finally:
        if levels != stack:
            free(levels)


cdef object horizon_number(bint has_horizon, int64_t price, int32_t price_scale, NumberType as_type):
    return units_number(price, price_scale, as_type) if has_horizon else None


cdef object read_view(OrderBook book, object limit, object number, bint beyond_horizon, bint whatever_state):
    cdef Level bid_stack[STACK_READ_LEVELS]
    cdef Level ask_stack[STACK_READ_LEVELS]
    cdef Level* bids = bid_stack
    cdef Level* asks = ask_stack
    cdef int32_t bid_count = 0, ask_count = 0, price_scale = 0, quantity_scale = 0, wanted = limit_of(limit)
    cdef bint has_bid_horizon = False, has_ask_horizon = False, bids_truncated = False, asks_truncated = False
    cdef int64_t bid_horizon = 0, ask_horizon = 0
    cdef NumberType as_type = number_type(number)
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef Place place
    mutex_lock(&book._mutex)
    state = state_of_both(book, beyond_horizon, &refusal)
    if whatever_state:
        state = READABLE if book._is_loaded else NOT_LOADED
    if state == READABLE:
        bids = copy_levels(&book._bids, wanted, beyond_horizon, -1, bid_stack, &bid_count)
        asks = copy_levels(&book._asks, wanted, beyond_horizon, 1, ask_stack, &ask_count)
    bids_truncated = bid_count < (book._bids.level_count if beyond_horizon else book._bids.known_count)
    asks_truncated = ask_count < (book._asks.level_count if beyond_horizon else book._asks.known_count)
    place = book._place
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    has_bid_horizon = book._bids.has_horizon
    has_ask_horizon = book._asks.has_horizon
    bid_horizon = -book._bids.horizon_key
    ask_horizon = book._asks.horizon_key
    mutex_unlock(&book._mutex)
    try:
        if whatever_state and state == NOT_LOADED:      # for the writer, who may load it
            raise BookNotLoaded(book.market, Cause.NOT_LOADED)
        if state != READABLE:
            refuse_read(book, state, &refusal)
        if bids == NULL or asks == NULL:
            raise MemoryError()
        return new_record(BookView, (
            levels_as_tuples(bids, bid_count, price_scale, quantity_scale, as_type),
            levels_as_tuples(asks, ask_count, price_scale, quantity_scale, as_type),
            place.last_update_id,
            place.event_time_ms if place.has_event_time else None,
            place.transaction_time_ms if place.has_transaction_time else None,
            place.received_time_ns if place.has_received_time else None,
            horizon_number(has_bid_horizon, bid_horizon, price_scale, as_type),
            horizon_number(has_ask_horizon, ask_horizon, price_scale, as_type),
            bids_truncated,
            asks_truncated,
            number,
        ))
    finally:
        if bids != bid_stack:
            free(bids)
        if asks != ask_stack:
            free(asks)


cdef object read_array(OrderBook book, const BookSide* side, int64_t sign, object limit):
    import numpy

    cdef Level stack[STACK_READ_LEVELS]
    cdef Level* levels = stack
    cdef int32_t count = 0, index, price_scale = 0, quantity_scale = 0, wanted = limit_of(limit)
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef Py_buffer view
    cdef double* out
    mutex_lock(&book._mutex)
    state = state_of_side(book, side, False, &refusal)
    if state == READABLE:
        levels = copy_levels(side, wanted, False, sign, stack, &count)
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    mutex_unlock(&book._mutex)
    if state != READABLE:
        refuse_read(book, state, &refusal)
    if levels == NULL:
        raise MemoryError()
    try:
        array = numpy.empty((count, 2), dtype=numpy.float64)
        PyObject_GetBuffer(array, &view, PyBUF_CONTIG)
        try:
            out = <double*>view.buf
            for index in range(count):
                out[2 * index] = units_float(levels[index].price, price_scale)
                out[2 * index + 1] = units_float(levels[index].quantity, quantity_scale)
        finally:
            PyBuffer_Release(&view)
        return array
    finally:
        if levels != stack:
            free(levels)


cdef int32_t read_count(OrderBook book, const int32_t* field) noexcept:
    """Return a count of levels: without the lock it could be that of a commit half done."""
    cdef int32_t count = 0
    mutex_lock(&book._mutex)
    count = field[0]
    mutex_unlock(&book._mutex)
    return count


cdef bint read_flag(OrderBook book, const bint* field) noexcept:
    cdef bint flag = False
    mutex_lock(&book._mutex)
    flag = field[0]
    mutex_unlock(&book._mutex)
    return flag


cdef object read_scale(OrderBook book, const int32_t* field):
    """Return a scale, or None: not loaded."""
    cdef int32_t scale = -1
    mutex_lock(&book._mutex)
    if book._is_loaded:
        scale = field[0]
    mutex_unlock(&book._mutex)
    return scale if scale >= 0 else None


cdef bint copy_place(OrderBook book, Place* place) noexcept:
    """Copy where the book stands; False: it is not loaded."""
    cdef bint is_loaded = False
    mutex_lock(&book._mutex)
    is_loaded = book._is_loaded
    place[0] = book._place
    mutex_unlock(&book._mutex)
    return is_loaded


cdef object read_horizon(OrderBook book, const BookSide* side, int64_t sign):
    cdef bint has_horizon = False
    cdef int64_t price = 0
    cdef int32_t scale = 0
    mutex_lock(&book._mutex)
    has_horizon = side.has_horizon
    price = sign * side.horizon_key
    scale = book._price_scale
    mutex_unlock(&book._mutex)
    return units_float(price, scale) if has_horizon else None


# ----------------------------------------------------------------------------------------------- headers

cdef object text_object(const Text* text, const char* start):
    """Return what a scanned string says, its bytes lying at `start`. They are UTF-8, unless they have changed."""
    cdef Text here = text[0]
    cdef char* plain
    here.start = start
    if not here.has_escapes:
        return start[:here.length].decode("utf-8", "replace")
    plain = <char*>malloc(here.length + 1)
    if plain == NULL:
        raise MemoryError()
    try:
        return plain[:unescape(&here, plain)].decode("utf-8", "replace")
    finally:
        free(plain)


cdef object header_of(object payload):
    cdef Cursor c
    cdef Message m
    cdef Py_buffer view
    blank_view(&view)
    message_open(&m, NULL, NULL)
    try:
        open_payload(&c, &view, payload)
        if c.problem != NULL or read_update(&c, &m, False, -1, -1) < 0:
            raise_problem(None, &c, "message")
        return Header(
            text_object(&m.stream, m.stream.start) if m.has_stream else None,
            text_object(&m.event, m.event.start) if m.has_event else None,
            text_object(&m.symbol, m.symbol.start) if m.has_symbol else None,
            m.first_id if m.seen & KEY_FIRST_ID else None,
            m.last_id if m.seen & KEY_LAST_ID else None,
            m.previous_id if m.seen & KEY_PREVIOUS_ID else None,
            m.event_time_ms if m.has_event_time else None,
        )
    finally:
        PyBuffer_Release(&view)


cdef object read_last_header(OrderBook book):
    cdef char stack[256]
    cdef char* texts = stack
    cdef HeaderCopy header
    cdef Py_ssize_t length = 0
    mutex_lock(&book._mutex)
    header = book._header
    if header.is_set:
        length = header.stream.length + header.symbol.length
        if length > <Py_ssize_t>sizeof(stack):
            texts = <char*>malloc(length)
        if texts != NULL and length != 0:
            memcpy(texts, header.text, length)
    mutex_unlock(&book._mutex)
    if not header.is_set:
        return None
    if texts == NULL:
        raise MemoryError()
    try:
        return Header(
            text_object(&header.stream, texts) if header.has_stream else None,
            "depthUpdate" if header.has_event else None,
            text_object(&header.symbol, texts + header.stream.length) if header.has_symbol else None,
            header.first_id,
            header.last_id,
            header.previous_id if header.previous_id != 0 else None,
            header.event_time_ms if header.has_event_time else None,
        )
    finally:
        if texts != stack:
            free(texts)
