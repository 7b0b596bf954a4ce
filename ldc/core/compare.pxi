# Two books at the same update id: compare them, or let one adopt the other's levels.
#
# Rule: never two locks at once. Each book is copied under its own lock, and the copies are worked on under none.

cdef struct SideCopy:
    Level* levels               # owned
    int32_t count
    int32_t known_when_filled
    bint has_horizon
    int64_t horizon             # a price

cdef struct BookCopy:
    bint is_loaded
    SideCopy bids
    SideCopy asks
    int32_t price_scale
    int32_t quantity_scale
    int64_t last_update_id


cdef void copy_side(const BookSide* side, SideCopy* copy, int64_t sign) noexcept nogil:
    copy.count = side.level_count
    copy.known_when_filled = side.known_when_filled
    copy.has_horizon = side.has_horizon
    copy.horizon = sign * side.horizon_key
    copy.levels = <Level*>malloc((copy.count + 1) * sizeof(Level))
    if copy.levels != NULL:
        side_best_levels(side, INT32_MAX, False, copy.levels, sign)


cdef void free_copy(BookCopy* copy) noexcept nogil:
    free(copy.bids.levels)
    free(copy.asks.levels)


cdef int copy_book(OrderBook book, BookCopy* copy) except -1:
    """Copy all levels of a book, in one moment. The caller frees."""
    copy.bids.levels = copy.asks.levels = NULL
    mutex_lock(&book._mutex)
    copy.is_loaded = book._is_loaded
    if copy.is_loaded:
        copy.price_scale = book._price_scale
        copy.quantity_scale = book._quantity_scale
        copy.last_update_id = book._place.last_update_id
        copy_side(&book._bids, &copy.bids, -1)
        copy_side(&book._asks, &copy.asks, 1)
    mutex_unlock(&book._mutex)
    if not copy.is_loaded:
        raise BookNotLoaded(book.market, Cause.NOT_LOADED)
    if copy.bids.levels == NULL or copy.asks.levels == NULL:
        free_copy(copy)
        raise MemoryError()
    return 0


cdef int check_same_place(OrderBook book, int64_t book_id, OrderBook other, int64_t other_id) except -1:
    if book.rule != other.rule:
        raise ValueError(f"the books follow different sequence rules: {book.rule.name!r} and {other.rule.name!r}")
    if book_id != other_id:
        raise ValueError(f"the books stand at different update ids: {book_id} and {other_id}")
    return 0


cdef int fill_from_copy(BookSide* side, const SideCopy* copy, int64_t sign) except -1:
    side_fill(side, copy.levels, copy.count, sign)
    side.known_when_filled = copy.known_when_filled
    if copy.has_horizon:
        side_set_horizon(side, sign * copy.horizon)
    return 0


cdef int adopt_book(OrderBook book, OrderBook other) except -1:
    cdef BookCopy copy
    cdef BookSide bids, asks
    cdef Differences changed
    if not book._is_loaded:
        raise BookNotLoaded(book.market, Cause.NOT_LOADED)
    copy_book(other, &copy)
    try:
        check_same_place(book, book._place.last_update_id, other, copy.last_update_id)
        fill_from_copy(&bids, &copy.bids, -1)
        try:
            fill_from_copy(&asks, &copy.asks, 1)
        except MemoryError:
            side_release(&bids)
            raise
        find_differences(book, &copy, &changed)
    finally:
        free_copy(&copy)
    mutex_lock(&book._mutex)
    swap_sides(book, &bids, &asks)
    book._price_scale = copy.price_scale
    book._quantity_scale = copy.quantity_scale
    book._counters.books_adopted += 1
    if book._watches != NULL:
        note_adoption(book, &changed)
    publish(book)
    mutex_unlock(&book._mutex)
    side_release(&bids)
    side_release(&asks)
    free(changed.bids)
    free(changed.asks)
    return 0


cdef inline int compare_units(int64_t a, int32_t a_steps, int64_t b, int32_t b_steps) noexcept nogil:
    """Compare two numbers by value, each multiplied by 10**steps; what would not fit is the larger one."""
    if a_steps == b_steps:
        return (a > b) - (a < b)
    if not rescale(&a, a_steps):
        return 1
    if not rescale(&b, b_steps):
        return -1
    return (a > b) - (a < b)


cdef bint is_past(int64_t price, int32_t steps, const SideCopy* side, int32_t side_steps, int64_t sign) noexcept nogil:
    return side.has_horizon and sign * compare_units(price, steps, side.horizon, side_steps) > 0


cdef void compare_sides(
    const SideCopy* mine, int32_t my_price_steps, int32_t my_quantity_steps,
    const SideCopy* theirs, int32_t their_price_steps, int32_t their_quantity_steps, int64_t sign, int64_t* counts
) noexcept nogil:
    """Walk two sides, best first, and add to counts[4]: wrong quantities, missing, extra, outside."""
    cdef int32_t i = 0, j = 0
    cdef int64_t order, price
    cdef int32_t steps
    while i < mine.count or j < theirs.count:
        if i == mine.count:
            order = 1
        elif j == theirs.count:
            order = -1
        else:
            order = sign * compare_units(
                mine.levels[i].price, my_price_steps, theirs.levels[j].price, their_price_steps)
        price = mine.levels[i].price if order <= 0 else theirs.levels[j].price
        steps = my_price_steps if order <= 0 else their_price_steps
        if is_past(price, steps, mine, my_price_steps, sign) or is_past(price, steps, theirs, their_price_steps, sign):
            counts[3] += 2 if order == 0 else 1
        elif order > 0:
            counts[1] += 1
        elif order < 0:
            counts[2] += 1
        elif compare_units(
                mine.levels[i].quantity, my_quantity_steps, theirs.levels[j].quantity, their_quantity_steps) != 0:
            counts[0] += 1
        i += order <= 0
        j += order >= 0


cdef object compare_books(OrderBook book, OrderBook other):
    cdef BookCopy mine, theirs
    cdef int64_t counts[4]
    cdef int32_t price_scale, quantity_scale
    copy_book(book, &mine)
    try:
        copy_book(other, &theirs)
    except BaseException:
        free_copy(&mine)
        raise
    try:
        check_same_place(book, mine.last_update_id, other, theirs.last_update_id)
        price_scale = max(mine.price_scale, theirs.price_scale)
        quantity_scale = max(mine.quantity_scale, theirs.quantity_scale)
        memset(counts, 0, sizeof(counts))
        compare_sides(
            &mine.bids, price_scale - mine.price_scale, quantity_scale - mine.quantity_scale,
            &theirs.bids, price_scale - theirs.price_scale, quantity_scale - theirs.quantity_scale, -1, counts)
        compare_sides(
            &mine.asks, price_scale - mine.price_scale, quantity_scale - mine.quantity_scale,
            &theirs.asks, price_scale - theirs.price_scale, quantity_scale - theirs.quantity_scale, 1, counts)
    finally:
        free_copy(&mine)
        free_copy(&theirs)
    return Comparison(counts[0], counts[1], counts[2], counts[3])


cdef object check_book(OrderBook book):
    cdef const char* problem = NULL
    mutex_lock(&book._mutex)
    if book._is_loaded:
        problem = side_problem(&book._bids)
        if problem == NULL:
            problem = side_problem(&book._asks)
        if problem == NULL and max(book._bids.level_count, book._asks.level_count) > SIDE_LEVELS_LIMIT:
            problem = b"more levels than LEVELS_PER_SIDE_MAX"
        if problem == NULL and (
                max(book._price_scale, book._quantity_scale) > DECIMALS_LIMIT or book._place.last_update_id < 1):
            problem = b"a scale or the update id is out of range"
        if problem == NULL and book._is_crossed != is_crossed(&book._bids, &book._asks):
            problem = b"is_crossed is wrong"
    elif book._bids.slots != NULL or book._asks.slots != NULL:
        problem = b"a book that is not loaded holds memory"
    mutex_unlock(&book._mutex)
    if problem != NULL:
        raise AssertionError(f"order book of {book.market!r}: {(<bytes>problem).decode('ascii')}")
    return None
