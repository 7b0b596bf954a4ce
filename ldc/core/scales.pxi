# Units of 10**-decimals: bringing a message and a book to the same two scales, and units to Python numbers.
#
# Rule 1: a value is never rounded and never wraps. What does not fit int64 at a scale is refused, and nothing changes.
# Rule 2: a scale only widens, and only for a level that the book will hold.

cdef enum NumberType:
    AS_FLOAT = 0
    AS_DECIMAL = 1
    AS_TEXT = 2

cdef const char* DOES_NOT_FIT = b"a price or quantity does not fit 64 bits at the decimals of this book"


cdef inline bint rescale(int64_t* value, int32_t steps) noexcept nogil:
    """Multiply by 10**steps; False, and nothing changed, if that does not fit."""
    if value[0] > INT64_MAX // POW10[steps]:
        return False
    value[0] *= POW10[steps]
    return True


cdef void wide_scales(
    const MessageSide* side, bint printed, int32_t* price_scale, int32_t* quantity_scale
) noexcept nogil:
    """Raise two scales to the decimals of the levels that a book would hold."""
    cdef const WideLevel* level
    cdef int32_t index
    if side.wide == NULL:
        return
    for index in range(side.count):
        level = &side.wide[index]
        if level.quantity != 0:
            price_scale[0] = max(price_scale[0], level.price_printed if printed else level.price_decimals)
            quantity_scale[0] = max(quantity_scale[0], level.quantity_printed if printed else level.quantity_decimals)


cdef void message_side_order(MessageSide* side) noexcept nogil:
    cdef int32_t index
    side.is_rising = side.is_falling = True
    for index in range(1, side.count):
        side.is_rising &= side.levels[index].price > side.levels[index - 1].price
        side.is_falling &= side.levels[index].price < side.levels[index - 1].price


cdef int message_side_settle(
    Cursor* c, MessageSide* side, int32_t price_steps, int32_t quantity_steps, int32_t price_scale,
    int32_t quantity_scale, bint keep_zeros
) noexcept nogil:
    """Bring the levels of a message to the scales of the book.

    Levels read at the book's own scales go up by the steps by which these widened; wide ones each by what it lacks. A
    level of quantity zero whose price cannot be held names no level of the book and is left out, as are all of them
    unless `keep_zeros`.
    """
    cdef WideLevel* level
    cdef Level* settled
    cdef int32_t index, kept = 0
    cdef bint fits
    if side.wide == NULL:
        if price_steps == 0 and quantity_steps == 0:
            return 0
        settled = side.levels
    else:
        settled = <Level*>realloc(side.heap, (side.count + 1) * sizeof(Level))
        if settled == NULL:
            return fail(c, OUT_OF_MEMORY)
        side.heap = settled
    for index in range(side.count):
        if side.wide == NULL:
            settled[kept] = side.levels[index]
            fits = rescale(&settled[kept].price, price_steps)
            if settled[kept].quantity != 0:
                fits = fits and rescale(&settled[kept].quantity, quantity_steps)
        else:
            level = &side.wide[index]
            settled[kept].price = level.price
            settled[kept].quantity = level.quantity
            fits = level.price_decimals <= price_scale and rescale(
                &settled[kept].price, price_scale - level.price_decimals)
            if level.quantity != 0:
                fits = fits and rescale(&settled[kept].quantity, quantity_scale - level.quantity_decimals)
        if not fits and settled[kept].quantity != 0:
            return fail(c, DOES_NOT_FIT)
        kept += fits and (keep_zeros or settled[kept].quantity != 0)
    side.levels = settled
    side.count = kept
    message_side_order(side)
    return 0


cdef bint side_can_rescale(const BookSide* side, int32_t price_steps, int32_t quantity_steps) noexcept nogil:
    """Whether every key and quantity fits int64 after multiplying."""
    cdef int64_t key_limit = INT64_MAX // POW10[price_steps]
    cdef int64_t quantity_limit = INT64_MAX // POW10[quantity_steps]
    cdef int64_t key
    cdef int32_t index, at
    cdef const Block* block
    for index in range(side.slot_count):
        block = side.slots[index].block
        for at in range(side.slots[index].count):
            key = block.keys[at]
            if key > key_limit or key < -key_limit or block.quantities[at] > quantity_limit:
                return False
    # The horizon may lie where nothing is held any more.
    return not side.has_horizon or -key_limit <= side.horizon_key <= key_limit


cdef void side_rescale(BookSide* side, int32_t price_steps, int32_t quantity_steps) noexcept nogil:
    cdef int32_t index, at
    cdef Block* block
    for index in range(side.slot_count):
        block = side.slots[index].block
        for at in range(side.slots[index].count):
            block.keys[at] *= POW10[price_steps]
            block.quantities[at] *= POW10[quantity_steps]
        side.slots[index].first_key = block.keys[0]
    if side.has_horizon:
        side.horizon_key *= POW10[price_steps]


cdef int compare_prices(const void* left, const void* right) noexcept nogil:
    cdef int64_t a = (<const Level*>left).price
    cdef int64_t b = (<const Level*>right).price
    return (a > b) - (a < b)


cdef int64_t count_repeats(Cursor* c, const MessageSide* side) noexcept nogil:
    """Return how many entries of a side name a price that another one named before; -1 without memory."""
    cdef Level* sorted_levels
    cdef int32_t index
    cdef int64_t repeats = 0
    if side.is_rising or side.is_falling:
        return 0
    sorted_levels = <Level*>malloc(side.count * sizeof(Level))
    if sorted_levels == NULL:
        return fail(c, OUT_OF_MEMORY)
    memcpy(sorted_levels, side.levels, side.count * sizeof(Level))
    qsort(sorted_levels, side.count, sizeof(Level), compare_prices)
    for index in range(1, side.count):
        repeats += sorted_levels[index].price == sorted_levels[index - 1].price
    free(sorted_levels)
    return repeats


cdef int64_t count_saturated(const MessageSide* side) noexcept nogil:
    """Return how many quantities are 2**63 - 1 units. It ends in 7, so no other number of decimals can spell it."""
    cdef int32_t index
    cdef int64_t saturated = 0
    for index in range(side.count):
        saturated += side.levels[index].quantity == INT64_MAX
    return saturated


# ----------------------------------------------------------------------------------------------- Python numbers
#
# A level is two numbers side by side, which is what `fill_tuple` and `fill_list` go through.
assert sizeof(Level) == 2 * sizeof(int64_t)

cdef str units_text(int64_t units, int32_t decimals):
    """Return the exact decimal with all its decimals, as a venue prints it."""
    cdef str digits = str(units)
    if decimals == 0:
        return digits
    digits = digits.rjust(decimals + 1, "0")
    return digits[:-decimals] + "." + digits[-decimals:]


cdef double units_float_by_text(int64_t units, int32_t decimals) except? -1.0:
    return float(units_text(units, decimals))


cdef inline double units_float(int64_t units, int32_t decimals) except? -1.0:
    """Return exactly float(text). Up to 2**53 both operands are exact, so that the division rounds once, correctly."""
    if units <= 9007199254740992:
        return <double>units / POW10_DOUBLE[decimals]
    return units_float_by_text(units, decimals)


cdef inline object units_number(int64_t units, int32_t decimals, NumberType number):
    if number == AS_FLOAT:
        return units_float(units, decimals)
    if number == AS_DECIMAL:
        return Decimal(units_text(units, decimals))
    return units_text(units, decimals)


cdef NumberType number_type(object number) except *:
    if number is float:
        return AS_FLOAT
    if number is Decimal:
        return AS_DECIMAL
    if number is str:
        return AS_TEXT
    raise ValueError(f"number must be float, Decimal or str, not {number!r}")


cdef list levels_as_lists(
    const Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale, NumberType number
):
    cdef list result = PyList_New(count)
    cdef list pair
    cdef int32_t index
    if number == AS_FLOAT and are_exact(<const int64_t*>levels, 2 * count):
        fill_list(
            result, <const int64_t*>levels, count, POW10_DOUBLE[price_scale], POW10_DOUBLE[quantity_scale])
        return result
    for index in range(count):
        pair = [
            units_number(levels[index].price, price_scale, number),
            units_number(levels[index].quantity, quantity_scale, number),
        ]
        Py_INCREF(pair)
        PyList_SET_ITEM(result, index, pair)
    return result


cdef tuple levels_as_tuples(
    const Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale, NumberType number
):
    cdef tuple result = PyTuple_New(count)
    cdef tuple pair
    cdef int32_t index
    if number == AS_FLOAT and are_exact(<const int64_t*>levels, 2 * count):
        fill_tuple(
            result, <const int64_t*>levels, count, POW10_DOUBLE[price_scale], POW10_DOUBLE[quantity_scale])
        return result
    for index in range(count):
        pair = (
            units_number(levels[index].price, price_scale, number),
            units_number(levels[index].quantity, quantity_scale, number),
        )
        Py_INCREF(pair)
        PyTuple_SET_ITEM(result, index, pair)
    return result


cdef int32_t notional_count(
    const Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale, double threshold
) except -1:
    """Return how many levels, best first, stay within a cumulative notional; one is kept while the sum is still 0."""
    cdef double total = 0.0, notional
    cdef int32_t index
    for index in range(count):
        notional = units_float(levels[index].price, price_scale) * units_float(levels[index].quantity, quantity_scale)
        if not (total + notional <= threshold or total == 0.0):
            return index
        total += notional
    return count
