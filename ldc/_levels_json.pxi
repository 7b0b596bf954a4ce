# The levels of a message, from text to integers.
#
# Rule: levels are read twice as carefully as they are read fast. `read_levels_fast` knows one form, the one that venues
# send: no white space, no escapes, at most 8 decimals and no more than the book's scale. It judges nothing: at anything
# else it gives up, and `read_levels_wide` reads that array from its start, with every form that JSON allows and every
# reason to refuse. What is read goes to arrays that belong to the message; no book is touched here.

cdef enum:
    MESSAGE_LEVELS_LIMIT = 100000   # both sides together; more are refused
    DECIMALS_LIMIT = 18             # 10**18 is the last power of ten in int64
    STACK_LEVELS = 512              # a side of an update that fits needs no allocation (real ones: p99 200, max 900)
    FAST_LEVEL_BYTES = 64           # what reading one level may look at: 2 x (15 + 1 + 8) characters and punctuation

cdef struct WideLevel:
    # Numbers each at their own decimals, without the trailing zeros of the fraction.
    int64_t price
    int64_t quantity
    uint8_t price_decimals
    uint8_t quantity_decimals
    uint8_t price_printed       # decimals with the trailing zeros; DECIMALS_LIMIT + 1 stands for more
    uint8_t quantity_printed

cdef struct Side:
    Level* levels               # `stack` of the caller, or `heap`
    Level* heap                 # owned; NULL while the caller's array is enough
    WideLevel* wide             # owned; not NULL: the levels are here and `levels` is empty
    int32_t count
    int32_t capacity
    bint is_rising              # prices rise strictly
    bint is_falling             # prices fall strictly

cdef const char* OUT_OF_MEMORY = b"out of memory"


cdef void side_open(Side* side, Level* stack) noexcept nogil:
    side.levels = stack
    side.heap = NULL
    side.wide = NULL
    side.count = 0
    side.capacity = STACK_LEVELS
    side.is_rising = True
    side.is_falling = True


cdef int side_grow(Cursor* c, Side* side) noexcept nogil:
    """Make room for more levels in `levels`, on the heap."""
    cdef Level* larger = <Level*>realloc(side.heap, 4 * side.capacity * sizeof(Level))
    if larger == NULL:
        return fail(c, OUT_OF_MEMORY)
    if side.heap == NULL:
        memcpy(larger, side.levels, side.count * sizeof(Level))
    side.heap = larger
    side.levels = larger
    side.capacity *= 4
    return 0


# ----------------------------------------------------------------------------------------------- levels, fast

cdef struct Shape:
    # How many digits the last number had; the next one is guessed to have as many (see `ldc_guessed`).
    int32_t whole
    int32_t fraction


cdef inline const char* fast_number(const char* p, int32_t scale, Shape* shape, int64_t* value) noexcept nogil:
    """Read a price or quantity and its closing quote, as units of 10**-scale; NULL when it is not of the usual form.

    Up to 15 digits before the point and 8 after it, eight at a time. Whatever might not fit int64 is left to the
    careful reader.
    """
    cdef uint64_t digits = load8(p) ^ ASCII_ZEROS
    cdef uint64_t stop = non_digits(digits)
    cdef int64_t total
    cdef int32_t count
    if stop != 0:
        count = guessed(shape.whole, first_byte(stop))
        if count == 0:
            return NULL
        shape.whole = count
        total = <int64_t>eight_digits(digits << (64 - 8 * count))
        p += count
    else:
        total = <int64_t>eight_digits(digits)
        p += 8
        digits = load8(p) ^ ASCII_ZEROS
        stop = non_digits(digits)
        if stop == 0:
            return NULL
        count = first_byte(stop)
        if count != 0:
            total = total * POW10[count] + <int64_t>eight_digits(digits << (64 - 8 * count))
            p += count
    if p[0] == c'.':
        digits = load8(p + 1) ^ ASCII_ZEROS
        stop = non_digits(digits)
        if stop == 0:
            count = 8
        else:
            count = guessed(shape.fraction, first_byte(stop))
            if count == 0:
                return NULL
            shape.fraction = count
            digits <<= 64 - 8 * count
        if total > FITS_BEFORE[count]:
            return NULL
        total = total * POW10[count] + <int64_t>eight_digits(digits)
        p += count + 1
        scale -= count
    if p[0] != c'"':
        return NULL
    if scale != 0:
        if scale < 0 or total > FITS_BEFORE[scale]:
            return NULL
        total *= POW10[scale]
    value[0] = total
    return p + 1


cdef const char* fast_levels(
    Cursor* c, const char* p, const char* last, Side* side, int32_t price_scale, int32_t quantity_scale, bint* ended
) noexcept nogil:
    """Read levels while they begin at or before `last`; return where to go on, or NULL. `ended`: the `]` was read."""
    cdef Shape price_shape = Shape(whole=5, fraction=2)
    cdef Shape quantity_shape = Shape(whole=1, fraction=3)
    cdef int64_t price = 0, quantity = 0
    cdef int64_t before = side.levels[side.count - 1].price if side.count != 0 else 0
    cdef bint is_rising = side.is_rising, is_falling = side.is_falling
    while p <= last:
        if p[0] != c'[' or p[1] != c'"':
            return NULL
        p = fast_number(p + 2, price_scale, &price_shape, &price)
        if p == NULL or p[0] != c',' or p[1] != c'"':
            return NULL
        p = fast_number(p + 2, quantity_scale, &quantity_shape, &quantity)
        if p == NULL or p[0] != c']':
            return NULL
        if side.count == side.capacity and side_grow(c, side) < 0:
            return NULL
        if side.count != 0:
            is_rising &= price > before
            is_falling &= price < before
        before = price
        side.levels[side.count].price = price
        side.levels[side.count].quantity = quantity
        side.count += 1
        if p[1] == c']':
            ended[0] = True
            p += 2
            break
        if p[1] != c',':
            return NULL
        p += 2
    side.is_rising = is_rising
    side.is_falling = is_falling
    return p


cdef bint read_levels_fast(Cursor* c, Side* side, int32_t price_scale, int32_t quantity_scale) noexcept nogil:
    """Read an array of levels of the usual form. False: it is not, and the cursor has not moved."""
    cdef char tail[2 * FAST_LEVEL_BYTES]
    cdef const char* p = c.p + 1
    cdef const char* q
    cdef size_t left
    cdef bint ended = False
    if c.end - p >= 1 and p[0] == c']':
        c.p += 2
        return True
    if c.end - p > FAST_LEVEL_BYTES:
        p = fast_levels(c, p, c.end - FAST_LEVEL_BYTES, side, price_scale, quantity_scale, &ended)
        if p == NULL:
            return False
    if not ended:
        # Near the end of the message the reader could look past it: it goes on in a copy with room behind.
        left = <size_t>(c.end - p)
        memcpy(tail, p, left)
        memset(tail + left, 0, sizeof(tail) - left)
        q = fast_levels(c, tail, tail + FAST_LEVEL_BYTES, side, price_scale, quantity_scale, &ended)
        if q == NULL or not ended:
            return False
        p += q - tail
    c.p = p
    return True


# ----------------------------------------------------------------------------------------------- levels, careful

cdef int read_decimal(
    Cursor* c, const char* p, const char* end, int64_t* mantissa, uint8_t* decimals, uint8_t* printed
) noexcept nogil:
    """Read `[0-9]+` or `[0-9]+.[0-9]+` that fills [p, end): a mantissa without the trailing zeros of the fraction."""
    cdef const char* point = p
    cdef const char* last
    cdef uint64_t total = 0
    while point < end and is_digit(point[0]):
        point += 1
    if point == p:
        return fail(c, b"a price or quantity that is not a plain decimal number")
    last = end
    if point < end:
        if point[0] != c'.' or point + 1 == end:
            return fail(c, b"a price or quantity that is not a plain decimal number")
        last = point + 1
        while last < end and is_digit(last[0]):
            last += 1
        if last != end:
            return fail(c, b"a price or quantity that is not a plain decimal number")
        printed[0] = <uint8_t>min(end - point - 1, <Py_ssize_t>DECIMALS_LIMIT + 1)
        while (last - 1)[0] == c'0':
            last -= 1
        if last - 1 == point:
            last = point
        if last - point - 1 > DECIMALS_LIMIT:
            return fail(c, b"a price or quantity with more decimals than DECIMALS_MAX")
        decimals[0] = <uint8_t>(last - point - 1) if last > point else 0
    else:
        printed[0] = 0
        decimals[0] = 0
    while p < last:
        if p != point:
            if total > (<uint64_t>INT64_MAX - <uint64_t>(p[0] - c'0')) // 10:
                return fail(c, b"a price or quantity that does not fit 64 bits")
            total = total * 10 + <uint64_t>(p[0] - c'0')
        p += 1
    mantissa[0] = <int64_t>total
    return 0


cdef int read_decimal_string(Cursor* c, int64_t* mantissa, uint8_t* decimals, uint8_t* printed) noexcept nogil:
    """Read a JSON string that holds a price or quantity."""
    cdef Text text
    cdef char* plain
    cdef Py_ssize_t length
    cdef int status
    cdef const char* start = c.p
    if c.p >= c.end or c.p[0] != c'"':
        return fail(c, b"a price or quantity must be a string")
    if scan_string(c, &text) < 0:
        return -1
    if text.has_escapes:
        plain = <char*>malloc(text.length)
        if plain == NULL:
            return fail(c, OUT_OF_MEMORY)
        length = unescape(&text, plain)
        status = read_decimal(c, plain, plain + length, mantissa, decimals, printed)
        free(plain)
    else:
        status = read_decimal(c, text.start, text.start + text.length, mantissa, decimals, printed)
    if status < 0:
        c.p = start
    return status


cdef int read_levels_wide(Cursor* c, Side* side) noexcept nogil:
    """Read an array of levels in any form that JSON allows; the cursor stands at its `[`."""
    cdef int32_t capacity = 64
    cdef WideLevel* larger
    cdef WideLevel* level
    side.count = 0
    side.wide = <WideLevel*>malloc(capacity * sizeof(WideLevel))
    if side.wide == NULL:
        return fail(c, OUT_OF_MEMORY)
    c.p += 1
    skip_space(c)
    if c.p < c.end and c.p[0] == c']':
        c.p += 1
        return 0
    while True:
        if side.count == MESSAGE_LEVELS_LIMIT:
            return fail(c, b"more levels than LEVELS_PER_MESSAGE_MAX")
        if side.count == capacity:
            capacity *= 2
            larger = <WideLevel*>realloc(side.wide, capacity * sizeof(WideLevel))
            if larger == NULL:
                return fail(c, OUT_OF_MEMORY)
            side.wide = larger
        level = &side.wide[side.count]
        if expect(c, c'[', b"a level [price, quantity] was expected") < 0:
            return -1
        skip_space(c)
        if read_decimal_string(c, &level.price, &level.price_decimals, &level.price_printed) < 0:
            return -1
        if expect(c, c',', b"a level has exactly a price and a quantity") < 0:
            return -1
        skip_space(c)
        if read_decimal_string(c, &level.quantity, &level.quantity_decimals, &level.quantity_printed) < 0:
            return -1
        if expect(c, c']', b"a level has exactly a price and a quantity") < 0:
            return -1
        side.count += 1
        skip_space(c)
        if c.p < c.end and c.p[0] == c']':
            c.p += 1
            return 0
        if expect(c, c',', b"a comma or the end of the levels was expected") < 0:
            return -1


cdef int read_levels(Cursor* c, Side* side, int32_t price_scale, int32_t quantity_scale) noexcept nogil:
    """Read an array of levels at the scales given, or, if they are negative or do not do, wide."""
    if c.p[0] != c'[':
        return fail(c, b"the levels of a side must be an array")
    if price_scale >= 0 and read_levels_fast(c, side, price_scale, quantity_scale):
        return 0
    if c.problem != NULL:
        return -1
    return read_levels_wide(c, side)
