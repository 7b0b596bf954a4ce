# A snapshot into a book: bring it to the decimals it prints, refuse what is no book, and replace the old one at once.
#
# Rule: everything is built beside the book. What can fail, fails before the book's lock is taken.

cdef int message_side_sort(Cursor* c, MessageSide* side, int64_t sign) noexcept nogil:
    """Order a side best first; a price that stands twice is refused."""
    cdef int32_t index, last = side.count - 1
    cdef Level level
    if side.is_falling if sign < 0 else side.is_rising:
        return 0
    qsort(side.levels, side.count, sizeof(Level), compare_prices)
    for index in range(last):
        if side.levels[index].price == side.levels[index + 1].price:
            return fail(c, b"a price stands twice in a side")
    if sign < 0:
        for index in range(side.count // 2):
            level = side.levels[index]
            side.levels[index] = side.levels[last - index]
            side.levels[last - index] = level
    return 0


cdef int settle_snapshot(Cursor* c, Message* m, int32_t* price_scale, int32_t* quantity_scale) noexcept nogil:
    """Bring a snapshot to the decimals it prints, best levels first, and refuse what is no book."""
    price_scale[0] = quantity_scale[0] = 0
    wide_scales(&m.bids, True, price_scale, quantity_scale)
    wide_scales(&m.asks, True, price_scale, quantity_scale)
    if max(price_scale[0], quantity_scale[0]) > DECIMALS_LIMIT:
        return fail(c, b"a price or quantity with more decimals than DECIMALS_MAX")
    if message_side_settle(c, &m.bids, 0, 0, price_scale[0], quantity_scale[0], False) < 0:
        return -1
    if message_side_settle(c, &m.asks, 0, 0, price_scale[0], quantity_scale[0], False) < 0:
        return -1
    if message_side_sort(c, &m.bids, -1) < 0 or message_side_sort(c, &m.asks, 1) < 0:
        return -1
    if m.bids.count != 0 and m.asks.count != 0 and m.bids.levels[0].price >= m.asks.levels[0].price:
        return fail(c, b"the best bid is not below the best ask")
    return 0


cdef inline bint is_full(int32_t sent, int64_t honoured, bint has_horizon) noexcept nogil:
    """Whether a side of `sent` levels may have been cut: by the venue's limit (-1: not known), or by its sender."""
    return sent > 0 and (has_horizon or honoured < 0 or sent >= honoured)


cdef int fill_from_message(BookSide* side, const MessageSide* sent, bint has_horizon, int64_t sign) except -1:
    side_fill(side, sent.levels, sent.count, sign)
    if has_horizon:
        side_set_horizon(side, side_worst_key(side))
    if side.level_count > SIDE_LEVELS_LIMIT:
        side_cut(side, SIDE_LEVELS_LIMIT)
    side.known_when_filled = side.known_count
    return 0


cdef void swap_sides(OrderBook book, BookSide* bids, BookSide* asks) noexcept nogil:
    """Exchange the book's sides for new ones, which become the old ones. Under the lock."""
    cdef BookSide old_bids = book._bids
    cdef BookSide old_asks = book._asks
    book._bids = bids[0]
    book._asks = asks[0]
    book._bids.dropped += old_bids.dropped
    book._asks.dropped += old_asks.dropped
    bids[0] = old_bids
    asks[0] = old_asks
    attend(book)


cdef int load_message(OrderBook book, Cursor* c, Message* m, int64_t honoured, Place* place) except -1:
    cdef BookSide bids, asks
    cdef int32_t price_scale = 0, quantity_scale = 0
    cdef bint bids_full = False, asks_full = False
    if c.problem == NULL:
        with nogil:         # thousands of levels: the feed's thread need not wait for the one that reads them
            if read_snapshot(c, m) == 0:
                bids_full = is_full(m.bids.count, honoured, (m.seen & KEY_BID_HORIZON) != 0)
                asks_full = is_full(m.asks.count, honoured, (m.seen & KEY_ASK_HORIZON) != 0)
                if settle_snapshot(c, m, &price_scale, &quantity_scale) == 0:
                    if (bids_full and m.bids.count == 0) or (asks_full and m.asks.count == 0):
                        fail(c, b"a side of zero quantities only")
    if c.problem != NULL:
        mutex_lock(&book._mutex)
        book._counters.snapshots_refused += c.problem != OUT_OF_MEMORY
        mutex_unlock(&book._mutex)
        raise_problem(book, c, "snapshot")
    fill_from_message(&bids, &m.bids, bids_full, -1)
    try:
        fill_from_message(&asks, &m.asks, asks_full, 1)
    except MemoryError:
        side_release(&bids)
        raise
    place.last_update_id = m.last_id
    place.has_event_time = m.has_event_time
    place.event_time_ms = m.event_time_ms
    place.has_transaction_time = m.has_transaction_time
    place.transaction_time_ms = m.transaction_time_ms
    mutex_lock(&book._mutex)
    book._attend_at_id = book._attend_at_count = INT64_MAX
    swap_sides(book, &bids, &asks)
    book._place = place[0]
    book._price_scale = price_scale
    book._quantity_scale = quantity_scale
    book._is_loaded = True
    book._is_first_after_snapshot = True
    book._counters.snapshots_loaded += 1
    book._counters.quantities_saturated += count_saturated(&m.bids) + count_saturated(&m.asks)
    book._epoch += not book._is_suspended
    if book._watches != NULL:
        note_state(book, True)
    publish(book)
    mutex_unlock(&book._mutex)
    side_release(&bids)
    side_release(&asks)
    return 0


cdef void take_sides(OrderBook book, BookSide* bids, BookSide* asks) noexcept nogil:
    """Leave a book without levels, and return those. Under the lock."""
    bids[0] = book._bids
    asks[0] = book._asks
    side_blank(&book._bids)
    side_blank(&book._asks)
    book._attend_at_id = book._attend_at_count = INT64_MAX
    book._is_loaded = False
    book._is_crossed = False
    book._needs_attention = False
    book._was_lost = False
    book._header.is_set = False


cdef int load_book(OrderBook book, OrderBook other) except -1:
    """Move what another book holds into this one. One lock at a time."""
    cdef BookSide bids, asks
    cdef Place place
    cdef int64_t saturated
    cdef int32_t price_scale, quantity_scale
    cdef bint is_first
    if book.rule != other.rule:
        raise ValueError(f"the books follow different sequence rules: {book.rule.name!r} and {other.rule.name!r}")
    if not other._is_loaded:
        raise BookNotLoaded(other.market, Cause.NOT_LOADED)
    mutex_lock(&other._mutex)
    place = other._place
    price_scale = other._price_scale
    quantity_scale = other._quantity_scale
    is_first = other._is_first_after_snapshot
    saturated = other._counters.quantities_saturated
    take_sides(other, &bids, &asks)
    publish(other)
    mutex_unlock(&other._mutex)
    mutex_lock(&book._mutex)
    book._attend_at_id = book._attend_at_count = INT64_MAX
    swap_sides(book, &bids, &asks)
    book._place = place
    book._price_scale = price_scale
    book._quantity_scale = quantity_scale
    book._is_loaded = True
    book._is_first_after_snapshot = is_first
    book._counters.snapshots_loaded += 1
    book._counters.quantities_saturated += saturated
    book._epoch += not book._is_suspended
    if book._watches != NULL:
        note_state(book, True)
    publish(book)
    mutex_unlock(&book._mutex)
    side_release(&bids)
    side_release(&asks)
    return 0


cdef int load_body(OrderBook book, object body, int64_t honoured, Place* place) except -1:
    """Read a snapshot and make it the book."""
    cdef Cursor c
    cdef Message m
    cdef Py_buffer view
    blank_view(&view)
    message_open(&m, NULL, NULL)
    try:
        open_payload(&c, &view, body)
        return load_message(book, &c, &m, honoured, place)
    finally:
        message_close(&m)
        PyBuffer_Release(&view)
