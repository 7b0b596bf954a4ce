# An update into a book: judge the ids, settle the scales, commit.
#
# Rule 1: functions that return `except -1` raise before they change anything.
# Rule 2: what stands between mutex_lock and mutex_unlock cannot fail.

cdef int begin_writing(OrderBook book) except -1:
    if exchange(&book._writers, 1) != 0:
        raise RuntimeError(f"two threads write to the order book of {book.market!r} at once; only one may")
    return 0


cdef inline void end_writing(OrderBook book) noexcept:
    exchange(&book._writers, 0)


cdef inline int place_open(Place* place, object received_time_ns) except -1:
    """Start a place with the receive time that the caller gives."""
    place.has_event_time = place.has_transaction_time = False
    place.has_received_time = received_time_ns is not None
    if place.has_received_time:
        if not isinstance(received_time_ns, int):
            received_time_ns = exact.whole(received_time_ns, "received_time_ns")
        place.received_time_ns = received_time_ns
    return 0


cdef int raise_problem(OrderBook book, const Cursor* c, str what) except -1:
    """Raise what a cursor says went wrong, and where."""
    if c.problem == OUT_OF_MEMORY:
        raise MemoryError()
    market = book.market if book is not None else None
    whose = f" of {market!r}" if market is not None else ""
    stands = f"; the book stays at update id {book.last_update_id}" if book is not None and book._is_loaded else ""
    problem = (<bytes>c.problem).decode("ascii")
    raise MalformedMessage(market, None, f"{what}{whose} refused: {problem}, at byte {c.p - c.start}{stands}")


cdef int open_payload(Cursor* c, Py_buffer* view, object payload) except -1:
    """Point a cursor at the bytes of a message. `view` must be released; it is empty where nothing need be."""
    cdef Py_ssize_t length = 0
    c.start = b""
    c.problem = NULL
    if type(payload) is bytes:
        c.start = PyBytes_AS_STRING(payload)
        length = PyBytes_GET_SIZE(payload)
    elif isinstance(payload, str):
        try:
            c.start = PyUnicode_AsUTF8AndSize(payload, &length)
        except UnicodeEncodeError:
            fail(c, b"text with a lone surrogate")
    else:
        PyObject_GetBuffer(payload, view, PyBUF_SIMPLE)
        c.start = <const char*>view.buf
        length = view.len
    c.p = c.start
    c.end = c.start + length
    if length > MESSAGE_BYTES_LIMIT:
        fail(c, b"longer than MESSAGE_BYTES_MAX")
    return 0


# ----------------------------------------------------------------------------------------------- updates

cdef enum:
    SYMBOL_ROOM = 6 * 64    # a symbol of 64 characters, each spelt as an escape; a longer one with escapes is another


cdef inline char to_lower(char byte) noexcept nogil:
    return byte + 32 if c'A' <= byte <= c'Z' else byte


cdef inline int judge(OrderBook book, const Message* m) noexcept nogil:
    """`judge` of sequence.py, which is the definition."""
    cdef int64_t book_id = book._place.last_update_id
    cdef int64_t start = m.previous_id if book._chains_by_previous_id else m.first_id - 1
    if book._is_first_after_snapshot and book._first_may_end_at_snapshot:
        if min(start, m.first_id) <= book_id <= m.last_id:
            return APPLIED
    if m.last_id <= book_id:
        return STALE
    return APPLIED if start <= book_id else GAP


cdef bint is_other_symbol(OrderBook book, const Message* m) noexcept nogil:
    """Whether an update names a symbol, and not the book's; ASCII letters in any case."""
    cdef const char* wanted = book._symbol_text
    cdef Py_ssize_t length = book._symbol_bytes, index
    cdef char room[SYMBOL_ROOM]
    cdef Text symbol = m.symbol
    if not m.has_symbol:
        return False
    undo_escapes(&symbol, room, SYMBOL_ROOM)
    if symbol.length != length:
        return True
    for index in range(length):
        if to_lower(symbol.start[index]) != to_lower(wanted[index]):
            return True
    return False


cdef struct Settled:
    # What committing an update will do besides its levels.
    int32_t price_steps         # decimals by which the book's scales widen
    int32_t quantity_steps
    int64_t repeated
    int64_t saturated


cdef int settle(OrderBook book, Cursor* c, Message* m, Settled* settled) noexcept nogil:
    """Bring an update to the book's scales, widened if it must be; -1 if it cannot be."""
    cdef int32_t price_scale = book._price_scale, quantity_scale = book._quantity_scale
    if m.bids.wide != NULL or m.asks.wide != NULL:
        wide_scales(&m.bids, False, &price_scale, &quantity_scale)
        wide_scales(&m.asks, False, &price_scale, &quantity_scale)
        settled.price_steps = price_scale - book._price_scale
        settled.quantity_steps = quantity_scale - book._quantity_scale
        if settled.price_steps != 0 or settled.quantity_steps != 0:
            if not (side_can_rescale(&book._bids, settled.price_steps, settled.quantity_steps)
                    and side_can_rescale(&book._asks, settled.price_steps, settled.quantity_steps)):
                return fail(c, DOES_NOT_FIT)
        if message_side_settle(
                c, &m.bids, settled.price_steps, settled.quantity_steps, price_scale, quantity_scale, True) < 0:
            return -1
        if message_side_settle(
                c, &m.asks, settled.price_steps, settled.quantity_steps, price_scale, quantity_scale, True) < 0:
            return -1
        # Only the careful reader reads a quantity of 2**63 - 1.
        settled.saturated = count_saturated(&m.bids) + count_saturated(&m.asks)
    settled.repeated = count_repeats(c, &m.bids)
    if settled.repeated >= 0:
        settled.repeated += count_repeats(c, &m.asks)
    return -1 if c.problem != NULL else 0


cdef void keep_header(HeaderCopy* header, const Message* m) noexcept nogil:
    """Remember what an update said of itself; `text` has room, and is NULL if there never was any text."""
    header.is_set = True
    header.has_event = m.has_event
    header.has_stream = m.has_stream
    header.has_symbol = m.has_symbol
    header.has_event_time = m.has_event_time
    header.event_time_ms = m.event_time_ms
    header.first_id = m.first_id
    header.last_id = m.last_id
    header.previous_id = m.previous_id
    header.stream.length = header.symbol.length = 0
    if m.has_stream:
        header.stream = m.stream
        if m.stream.length != 0:
            memcpy(header.text, m.stream.start, m.stream.length)
    if m.has_symbol:
        header.symbol = m.symbol
        if m.symbol.length != 0:
            memcpy(header.text + header.stream.length, m.symbol.start, m.symbol.length)


cdef inline bint is_crossed(const BookSide* bids, const BookSide* asks) noexcept nogil:
    return (bids.level_count != 0 and asks.level_count != 0
            and -bids.slots[0].block.keys[0] >= asks.slots[0].block.keys[0])


cdef inline void attend(OrderBook book) noexcept nogil:
    """Note what the owner has to see, and whether the book can be read at all. After every change, under the lock."""
    cdef bint needed_attention = book._needs_attention
    book._is_crossed = is_crossed(&book._bids, &book._asks)
    book._needs_attention = (
        book._is_crossed or side_is_short(&book._bids) or side_is_short(&book._asks)
        or book._place.last_update_id >= book._attend_at_id
        or book._counters.updates_applied >= book._attend_at_count)
    if needed_attention or book._needs_attention:
        note_epoch(book)


cdef void note_epoch(OrderBook book) noexcept nogil:
    """A book that could not be read where it stood can be again: that begins an epoch."""
    cdef bint is_lost = book._is_crossed or has_no_known_level(&book._bids) or has_no_known_level(&book._asks)
    book._epoch += book._was_lost and not is_lost
    book._was_lost = is_lost


cdef void commit_update(OrderBook book, const Message* m, const Place* place, const Settled* settled) noexcept nogil:
    """Make an update part of the book. Under the lock."""
    if settled.price_steps != 0 or settled.quantity_steps != 0:
        side_rescale(&book._bids, settled.price_steps, settled.quantity_steps)
        side_rescale(&book._asks, settled.price_steps, settled.quantity_steps)
        book._price_scale += settled.price_steps
        book._quantity_scale += settled.quantity_steps
    side_commit(&book._bids, m.bids.levels, m.bids.count, -1)
    side_commit(&book._asks, m.asks.levels, m.asks.count, 1)
    if book._bids.level_count > SIDE_LEVELS_LIMIT:
        side_cut(&book._bids, SIDE_LEVELS_LIMIT)
    if book._asks.level_count > SIDE_LEVELS_LIMIT:
        side_cut(&book._asks, SIDE_LEVELS_LIMIT)
    book._counters.updates_applied += 1
    book._counters.updates_overlapping += book._place.last_update_id > (
        m.previous_id if book._chains_by_previous_id else m.first_id - 1)
    book._counters.prices_repeated += settled.repeated
    book._counters.quantities_saturated += settled.saturated
    book._place = place[0]
    book._is_first_after_snapshot = False
    attend(book)
    publish(book)


cdef int read_and_judge(OrderBook book, Cursor* c, Message* m, Settled* settled) noexcept nogil:
    """Read an update, judge it, and settle it if it continues the book; -1: `c.problem` says why it is refused."""
    cdef const char* problem
    cdef int verdict = GAP
    memset(settled, 0, sizeof(Settled))
    if c.problem == NULL and read_update(c, m, True, book._price_scale, book._quantity_scale) == 0:
        problem = update_problem(m, book._chains_by_previous_id)
        if problem == NULL and is_other_event(m):
            problem = b"the event is not a depthUpdate"
        if problem == NULL and book._symbol_text != NULL and is_other_symbol(book, m):
            problem = b"the symbol is not that of this book"
        if problem != NULL:
            fail(c, problem)
        else:
            verdict = judge(book, m)
            if verdict == APPLIED:
                settle(book, c, m, settled)
    return verdict if c.problem == NULL else -1


cdef int commit_verdict(
    OrderBook book, Cursor* c, const Message* m, Place* place, const Settled* settled, int verdict
) noexcept nogil:
    """Make a judged update part of the book, or count it; -1: there is no memory, and nothing has changed."""
    cdef char* larger = NULL
    cdef Py_ssize_t text_length
    text_length = (m.stream.length if m.has_stream else 0) + (m.symbol.length if m.has_symbol else 0)
    if text_length > book._header.capacity:
        larger = <char*>malloc(2 * text_length)
        if larger == NULL:
            return fail(c, OUT_OF_MEMORY)
    place.last_update_id = m.last_id
    place.has_event_time = m.has_event_time
    place.event_time_ms = m.event_time_ms
    place.has_transaction_time = m.has_transaction_time
    place.transaction_time_ms = m.transaction_time_ms
    mutex_lock(&book._mutex)
    if larger != NULL:
        free(book._header.text)
        book._header.text = larger
        book._header.capacity = 2 * text_length
    keep_header(&book._header, m)
    if verdict == APPLIED:
        commit_update(book, m, place, settled)
        if book._watches != NULL:
            note_update(book, c, m, settled)
    elif verdict == STALE:
        book._counters.updates_stale += 1
    else:
        book._counters.updates_gap += 1
    mutex_unlock(&book._mutex)
    if verdict == APPLIED and book._retained.is_wanted:
        retain(&book._retained, c, place)
    return verdict


cdef int read_and_commit(OrderBook book, Cursor* c, Message* m, Place* place) except -1:
    cdef Settled settled
    cdef int verdict = read_and_judge(book, c, m, &settled)
    if verdict >= 0:
        verdict = commit_verdict(book, c, m, place, &settled, verdict)
    if verdict < 0:
        mutex_lock(&book._mutex)
        book._counters.updates_malformed += c.problem != OUT_OF_MEMORY
        mutex_unlock(&book._mutex)
        raise_problem(book, c, "depth update")
    return verdict


cdef int apply_plain(OrderBook book, Cursor* c, Place* place, bint counts_stale) noexcept nogil:
    """Apply an update that continues the book; with `counts_stale` also count one that is STALE. -1: it was left alone.

    For the loop: nothing is counted for an update that it leaves, because Python reads that one again. The caller holds
    `book._writers`.
    """
    cdef Level bid_stack[STACK_LEVELS]
    cdef Level ask_stack[STACK_LEVELS]
    cdef Message m
    cdef Settled settled
    cdef int verdict
    message_open(&m, bid_stack, ask_stack)
    verdict = read_and_judge(book, c, &m, &settled)
    if verdict == APPLIED or (verdict == STALE and counts_stale):
        verdict = commit_verdict(book, c, &m, place, &settled, verdict)
    else:
        verdict = -1
    message_close(&m)
    return verdict


cdef int apply_message(OrderBook book, Cursor* c, Place* place) except -1:
    """Read an update, judge it, and apply it if it continues the book."""
    cdef Level bid_stack[STACK_LEVELS]
    cdef Level ask_stack[STACK_LEVELS]
    cdef Message m
    message_open(&m, bid_stack, ask_stack)
    try:
        return read_and_commit(book, c, &m, place)
    finally:
        message_close(&m)
