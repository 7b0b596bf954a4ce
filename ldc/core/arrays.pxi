# Both sides of a book as arrays of numpy, or into arrays that the caller has.
#
# Rule: under the lock the levels are copied as they are, whole numbers side by side. Those are the rows of an int64
#       array. Floats are made of them after the lock, in the same eight bytes each.

cdef void floats_in_place(
    Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale
) noexcept nogil:
    """Turn rows of whole numbers into rows of doubles, each the nearest to its decimal."""
    cdef Wide units, price_power = power_of_ten(price_scale), quantity_power = power_of_ten(quantity_scale)
    cdef double row[2]
    cdef int32_t index
    for index in range(count):
        wide_set(&units, levels[index].price)
        row[0] = wide_ratio(&units, &price_power)
        wide_set(&units, levels[index].quantity)
        row[1] = wide_ratio(&units, &quantity_power)
        memcpy(&levels[index], row, sizeof(Level))


cdef bint open_rows(object array, str name, Py_buffer* view) except -1:
    """Open one array of `out`; return whether it is of floats."""
    try:
        PyObject_GetBuffer(array, view, PyBUF_CONTIG | PyBUF_FORMAT)
    except TypeError:
        raise TypeError(f"the array for {name} in out must be an array, not {type(array).__name__}") from None
    except (BufferError, ValueError):
        raise ValueError(f"the array for {name} in out must be writable, contiguous and of the shape (n, 2)") from None
    if view.ndim != 2 or view.shape[1] != 2:
        PyBuffer_Release(view)
        raise ValueError(f"the array for {name} in out must be writable, contiguous and of the shape (n, 2)")
    if view.itemsize != 8 or view.format == NULL or view.format[0] not in b"dlq" or view.format[1] != 0:
        PyBuffer_Release(view)
        raise ValueError(f"the array for {name} in out must be of float64 or int64")
    return view.format[0] == c"d"


cdef bint open_both_rows(object out, object number, Py_buffer* bids, Py_buffer* asks) except -1:
    """Open the two arrays of `out`; return whether they are of floats. The caller releases both, after an error too."""
    cdef bint is_float
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError("out must be a tuple of two arrays, for bids and asks")
    is_float = open_rows(out[0], "bids", bids)
    if open_rows(out[1], "asks", asks) != is_float:
        raise ValueError("both arrays in out must be of the same type")
    if number is not None and (number is float) != is_float:
        raise ValueError(f"number is {number.__name__}, and the arrays in out are of another type")
    return is_float


cdef object fill_rows(OrderBook book, int32_t wanted, object number, object out):
    """Write the best levels of both sides into two arrays."""
    cdef Py_buffer bids, asks
    cdef int32_t bid_count = 0, ask_count = 0, price_scale = 0, quantity_scale = 0
    cdef int64_t last_update_id = 0
    cdef bint is_float
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    blank_view(&bids)
    blank_view(&asks)
    try:
        is_float = open_both_rows(out, number, &bids, &asks)
        mutex_lock(&book._mutex)
        state = state_of_both(book, False, &refusal)
        if state == READABLE:
            bid_count = side_best_levels(
                &book._bids, <int32_t>min(<Py_ssize_t>wanted, bids.shape[0]), True, <Level*>bids.buf, -1)
            ask_count = side_best_levels(
                &book._asks, <int32_t>min(<Py_ssize_t>wanted, asks.shape[0]), True, <Level*>asks.buf, 1)
        price_scale = book._price_scale
        quantity_scale = book._quantity_scale
        last_update_id = book._place.last_update_id
        mutex_unlock(&book._mutex)
        if state != READABLE:
            refuse_read(book, state, &refusal)
        if is_float:
            floats_in_place(<Level*>bids.buf, bid_count, price_scale, quantity_scale)
            floats_in_place(<Level*>asks.buf, ask_count, price_scale, quantity_scale)
    finally:
        PyBuffer_Release(&bids)
        PyBuffer_Release(&asks)
    return new_record(ArrayCounts, (bid_count, ask_count, last_update_id, price_scale, quantity_scale))


cdef object rows_as_array(Level* levels, int32_t count, object dtype):
    import numpy

    cdef Py_buffer view
    array = numpy.empty((count, 2), dtype=dtype)
    if count != 0:
        PyObject_GetBuffer(array, &view, PyBUF_CONTIG)
        memcpy(view.buf, levels, count * sizeof(Level))
        PyBuffer_Release(&view)
    return array


cdef object new_rows(OrderBook book, int32_t wanted, bint is_float):
    """Return both sides as new arrays."""
    cdef Level bid_stack[STACK_READ_LEVELS]
    cdef Level ask_stack[STACK_READ_LEVELS]
    cdef Level* bids = bid_stack
    cdef Level* asks = ask_stack
    cdef int32_t bid_count = 0, ask_count = 0, price_scale = 0, quantity_scale = 0
    cdef int64_t last_update_id = 0
    cdef Refusal refusal
    cdef ReadState state = NOT_LOADED
    mutex_lock(&book._mutex)
    state = state_of_both(book, False, &refusal)
    if state == READABLE:
        bids = copy_levels(&book._bids, wanted, False, -1, bid_stack, &bid_count)
        asks = copy_levels(&book._asks, wanted, False, 1, ask_stack, &ask_count)
    price_scale = book._price_scale
    quantity_scale = book._quantity_scale
    last_update_id = book._place.last_update_id
    mutex_unlock(&book._mutex)
    try:
        if state != READABLE:
            refuse_read(book, state, &refusal)
        if bids == NULL or asks == NULL:
            raise MemoryError()
        if is_float:
            floats_in_place(bids, bid_count, price_scale, quantity_scale)
            floats_in_place(asks, ask_count, price_scale, quantity_scale)
        dtype = "float64" if is_float else "int64"
        return new_record(BookArrays, (
            rows_as_array(bids, bid_count, dtype), rows_as_array(asks, ask_count, dtype), last_update_id, price_scale,
            quantity_scale))
    finally:
        if bids != bid_stack:
            free(bids)
        if asks != ask_stack:
            free(asks)


cdef object read_arrays(OrderBook book, object limit, object number, object out):
    cdef int32_t wanted = limit_of(limit)
    if number is not None and number is not float and number is not int:
        raise ValueError(f"number must be float or int, not {number!r}")
    if out is not None:
        return fill_rows(book, wanted, number, out)
    return new_rows(book, wanted, number is not int)
