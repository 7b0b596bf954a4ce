# A book into JSON text: integers to digits, without a Python object for a level.

cdef enum:
    LEVEL_TEXT_MAX = 48         # bytes of a level: two numbers of at most 20, and ["","",], in all 7

# "00" to "99": two digits for a division.
cdef bytes PAIRS_OF_DIGITS = b"".join([b"%02d" % pair for pair in range(100)])
cdef const char* DIGIT_PAIRS = PAIRS_OF_DIGITS


cdef inline char* write_digits(char* end, uint64_t value, int32_t width) noexcept nogil:
    """Write at least `width` digits before `end`, zeros in front; return where they begin."""
    cdef char* start = end
    cdef uint64_t rest
    while value >= 100:
        rest = value // 100
        start -= 2
        memcpy(start, DIGIT_PAIRS + 2 * (value - 100 * rest), 2)
        value = rest
    if value >= 10:
        start -= 2
        memcpy(start, DIGIT_PAIRS + 2 * value, 2)
    else:
        start -= 1
        start[0] = <char>(48 + value)
    while end - start < width:
        start -= 1
        start[0] = c'0'
    return start


cdef inline char* write_units(char* out, int64_t units, int32_t decimals) noexcept nogil:
    """Write an exact decimal with all its decimals, as a venue prints it; return where it ends."""
    cdef char digits[24]
    cdef char* end = digits + 24
    cdef char* start = write_digits(end, <uint64_t>units, decimals + 1)
    cdef Py_ssize_t whole = end - start - decimals
    memcpy(out, start, whole)
    out += whole
    if decimals:
        out[0] = c'.'
        memcpy(out + 1, start + whole, decimals)
        out += 1 + decimals
    return out


cdef char* write_levels(
    char* out, const Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale
) noexcept nogil:
    """Write [["price","quantity"],...]; return where it ends."""
    cdef int32_t index
    out[0] = c'['
    out += 1
    for index in range(count):
        memcpy(out, b'["', 2)
        out = write_units(out + 2, levels[index].price, price_scale)
        memcpy(out, b'","', 3)
        out = write_units(out + 3, levels[index].quantity, quantity_scale)
        memcpy(out, b'"],', 3)
        out += 3
    if count:
        out -= 1        # the last comma
    out[0] = c']'
    return out + 1


cdef str levels_as_text(const Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale):
    cdef char stack[STACK_READ_LEVELS * LEVEL_TEXT_MAX + 2]
    cdef char* text = stack
    if count > STACK_READ_LEVELS:
        text = <char*>malloc(<size_t>count * LEVEL_TEXT_MAX + 2)
        if text == NULL:
            raise MemoryError()
    try:
        return text[:write_levels(text, levels, count, price_scale, quantity_scale) - text].decode("ascii")
    finally:
        if text != stack:
            free(text)


cdef object read_texts(OrderBook book, object limit):
    cdef Level bid_stack[STACK_READ_LEVELS]
    cdef Level ask_stack[STACK_READ_LEVELS]
    cdef Level* bids = bid_stack
    cdef Level* asks = ask_stack
    cdef int32_t bid_count = 0, ask_count = 0, price_scale = 0, quantity_scale = 0, wanted = limit_of(limit)
    cdef bint has_bid_horizon = False, has_ask_horizon = False
    cdef int64_t bid_horizon = 0, ask_horizon = 0
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    cdef Place place
    mutex_lock(&book._mutex)
    state = state_of_both(book, False, &refusal)
    if state == READABLE:
        bids = copy_levels(&book._bids, wanted, False, -1, bid_stack, &bid_count)
        asks = copy_levels(&book._asks, wanted, False, 1, ask_stack, &ask_count)
    place = book._place
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    has_bid_horizon = book._bids.has_horizon
    has_ask_horizon = book._asks.has_horizon
    bid_horizon = -book._bids.horizon_key
    ask_horizon = book._asks.horizon_key
    mutex_unlock(&book._mutex)
    try:
        if state != READABLE:
            refuse_read(book, state, &refusal)
        if bids == NULL or asks == NULL:
            raise MemoryError()
        return new_record(BookTexts, (
            levels_as_text(bids, bid_count, price_scale, quantity_scale),
            levels_as_text(asks, ask_count, price_scale, quantity_scale),
            bid_count,
            ask_count,
            place.last_update_id,
            place.event_time_ms if place.has_event_time else None,
            place.transaction_time_ms if place.has_transaction_time else None,
            place.received_time_ns if place.has_received_time else None,
            horizon_number(has_bid_horizon, bid_horizon, price_scale, AS_TEXT),
            horizon_number(has_ask_horizon, ask_horizon, price_scale, AS_TEXT),
        ))
    finally:
        if bids != bid_stack:
            free(bids)
        if asks != ask_stack:
            free(asks)
