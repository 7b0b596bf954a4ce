# The levels of a message, from text to integers.
#
# Rule: what is fast judges nothing. `usual_level` knows one form, the one that venues send: no white space, no escapes,
# up to 8 digits, a point, and as many decimals as the level before had. At anything else it gives up, and `fast_level`
# reads that level: up to 15 digits, and up to 8 decimals. Where that gives up, `read_levels_wide` reads the array from
# its start, with every form that JSON allows and every reason to refuse. What is read goes to arrays that belong to the
# message; no book is touched here.

cdef enum:
    MESSAGE_LEVELS_LIMIT = 100000   # both sides together; more are refused
    DECIMALS_LIMIT = 18             # 10**18 is the last power of ten in int64
    STACK_LEVELS = 512              # a side of an update that fits needs no allocation (real ones: p99 200, max 900)
    FAST_LEVEL_BYTES = 64           # what reading one level may touch: 2 x (15 + 1 + 8) characters and punctuation
    SHORT_DECIMAL_BYTES = 18        # a number of no more characters fits int64, and has few decimals enough
    BYTES_BEFORE = 5                # and before it; what comes before the first level is longer

cdef struct WideLevel:
    # Numbers each at their own decimals, without the trailing zeros of the fraction.
    int64_t price
    int64_t quantity
    uint8_t price_decimals
    uint8_t quantity_decimals
    uint8_t price_printed       # decimals with the trailing zeros; DECIMALS_LIMIT + 1 stands for more
    uint8_t quantity_printed

cdef struct MessageSide:
    # One side of a message, as it was sent.
    Level* levels               # `stack` of the caller, or `heap`
    Level* heap                 # owned; NULL while the caller's array is enough
    WideLevel* wide             # owned; not NULL: the levels are here and `levels` is empty
    int32_t count
    int32_t capacity
    bint is_rising              # prices rise strictly
    bint is_falling             # prices fall strictly

cdef const char* OUT_OF_MEMORY = b"out of memory"


cdef void message_side_open(MessageSide* side, Level* stack) noexcept nogil:
    side.levels = stack
    side.heap = NULL
    side.wide = NULL
    side.count = 0
    side.capacity = STACK_LEVELS
    side.is_rising = True
    side.is_falling = True


cdef int message_side_grow(Cursor* c, MessageSide* side) noexcept nogil:
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

cdef struct Form:
    # How the numbers of a column are printed: as the level before had it.
    int32_t decimals
    int32_t tail                # characters from the point on; 0 without decimals
    char point                  # what stands at `tail` before the end of the string: the point, or its closing quote
    int64_t unit                # 10**decimals
    int64_t lift                # 10**(scale - decimals)


cdef inline bint form_set(Form* form, int32_t scale, int32_t decimals) noexcept nogil:
    """Expect numbers with so many decimals. False: `usual_level` is not for them."""
    # With 8 digits before the point, any number of at most 10 decimals fits int64.
    cdef bint fits = decimals <= 8 and decimals <= scale <= 10
    if not fits:
        scale = decimals = 0
    form.decimals = decimals
    form.tail = decimals + 1 if decimals > 0 else 0
    form.point = c'.' if decimals > 0 else c'"'
    form.unit = POW10[decimals]
    form.lift = POW10[scale - decimals]
    return fits


cdef inline const char* usual_level(
    const char* p, const Form* price_form, const Form* quantity_form, Level* level
) noexcept nogil:
    """Read a level of the form expected, and return what is behind its `]`; NULL: it is another form.

    It has at most 41 bytes. The quotes are found in 48 at once, so that it is known at once where the level ends:
    reading the next one can begin before the numbers of this one are made.
    """
    cdef const char* text[4]
    cdef int32_t count[4]
    cdef uint32_t number[4]
    cdef uint64_t quotes = quotes48(p) & ~<uint64_t>3
    cdef uint64_t last = quotes & (quotes - 1)
    cdef const char* price_end
    cdef const char* quantity_end
    last &= last - 1
    if last == 0:
        return NULL
    price_end = p + lowest_bit(quotes)
    quantity_end = p + lowest_bit(last)
    if memcmp(p, b'["', 2) != 0 or memcmp(price_end, b'","', 3) != 0 or memcmp(quantity_end, b'"]', 2) != 0:
        return NULL
    count[0] = <int32_t>(price_end - p) - 2 - price_form.tail
    count[2] = <int32_t>(quantity_end - price_end) - 3 - quantity_form.tail
    if not (1 <= count[0] <= 8 and 1 <= count[2] <= 8):
        return NULL
    if (price_end - price_form.tail)[0] != price_form.point:
        return NULL
    if (quantity_end - quantity_form.tail)[0] != quantity_form.point:
        return NULL
    count[1] = price_form.decimals
    count[3] = quantity_form.decimals
    text[0] = price_end - price_form.tail - 8
    text[1] = price_end - 8
    text[2] = quantity_end - quantity_form.tail - 8
    text[3] = quantity_end - 8
    if four_numbers(text, count, number):
        return NULL
    level.price = (<int64_t>number[0] * price_form.unit + <int64_t>number[1]) * price_form.lift
    level.quantity = (<int64_t>number[2] * quantity_form.unit + <int64_t>number[3]) * quantity_form.lift
    return quantity_end + 2


cdef const char* fast_number(const char* p, int32_t scale, int32_t* decimals, int64_t* value) noexcept nogil:
    """Read a price or quantity and its closing quote, as units of 10**-scale; NULL when it is not of the usual form.

    Up to 15 digits before the point and 8 after it, eight at a time. Whatever might not fit int64 is left to the
    careful reader.
    """
    cdef uint64_t digits = load8(p) ^ ASCII_ZEROS
    cdef uint64_t stop = non_digits(digits)
    cdef int64_t total
    cdef int32_t count
    if stop != 0:
        count = first_byte(stop)
        if count == 0:
            return NULL
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
    decimals[0] = 0
    if p[0] == c'.':
        digits = load8(p + 1) ^ ASCII_ZEROS
        stop = non_digits(digits)
        if stop == 0:
            count = 8
        else:
            count = first_byte(stop)
            if count == 0:
                return NULL
            digits <<= 64 - 8 * count
        if total > FITS_BEFORE[count]:
            return NULL
        total = total * POW10[count] + <int64_t>eight_digits(digits)
        p += count + 1
        scale -= count
        decimals[0] = count
    if p[0] != c'"':
        return NULL
    if scale != 0:
        if scale < 0 or total > FITS_BEFORE[scale]:
            return NULL
        total *= POW10[scale]
    value[0] = total
    return p + 1


cdef const char* fast_level(
    const char* p, int32_t price_scale, int32_t quantity_scale, int32_t* price_decimals, int32_t* quantity_decimals,
    Level* level
) noexcept nogil:
    """Read a level with `fast_number`, and return what is behind its `]`; NULL: it is for the careful reader."""
    if p[0] != c'[' or p[1] != c'"':
        return NULL
    p = fast_number(p + 2, price_scale, price_decimals, &level.price)
    if p == NULL or p[0] != c',' or p[1] != c'"':
        return NULL
    p = fast_number(p + 2, quantity_scale, quantity_decimals, &level.quantity)
    if p == NULL or p[0] != c']':
        return NULL
    return p + 1


cdef const char* fast_levels(
    Cursor* c, const char* p, const char* last, MessageSide* side, int32_t price_scale, int32_t quantity_scale,
    bint* ended
) noexcept nogil:
    """Read levels while they begin at or before `last`; return where to go on, or NULL. `ended`: the `]` was read."""
    cdef Form price_form, quantity_form
    cdef int32_t price_decimals = 0, quantity_decimals = 0, count = side.count
    cdef int64_t before = side.levels[count - 1].price if count != 0 else 0
    cdef int64_t not_rising = 0, not_falling = 0    # negative: a price did not rise, or fall
    cdef bint is_usual
    cdef Level* level
    cdef const char* next_level
    # Venues print all decimals that they have, so a book has the scales at which they print.
    is_usual = form_set(&price_form, price_scale, price_scale)
    is_usual &= form_set(&quantity_form, quantity_scale, quantity_scale)
    while p <= last:
        if count == side.capacity:
            side.count = count
            if message_side_grow(c, side) < 0:
                return NULL
        level = &side.levels[count]
        next_level = usual_level(p, &price_form, &quantity_form, level) if is_usual else NULL
        if next_level == NULL:
            next_level = fast_level(p, price_scale, quantity_scale, &price_decimals, &quantity_decimals, level)
            if next_level == NULL:
                return NULL
            is_usual = form_set(&price_form, price_scale, price_decimals)
            is_usual &= form_set(&quantity_form, quantity_scale, quantity_decimals)
        p = next_level
        if count != 0:
            # Neither overflows: no price is negative.
            not_rising |= level.price - before - 1
            not_falling |= before - level.price - 1
        before = level.price
        count += 1
        if p[0] != c',':
            if p[0] != c']':
                return NULL
            ended[0] = True
            p += 1
            break
        p += 1
    side.count = count
    side.is_rising &= not_rising >= 0
    side.is_falling &= not_falling >= 0
    return p


cdef bint read_levels_fast(Cursor* c, MessageSide* side, int32_t price_scale, int32_t quantity_scale) noexcept nogil:
    """Read an array of levels of the usual form. False: it is not, and the cursor has not moved."""
    cdef char tail[BYTES_BEFORE + 2 * FAST_LEVEL_BYTES]
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
        # Near the end of the message the reader could read past it. It goes on in a copy with room behind.
        left = <size_t>(c.end - p) + BYTES_BEFORE
        memcpy(tail, p - BYTES_BEFORE, left)
        memset(tail + left, 0, sizeof(tail) - left)
        q = tail + BYTES_BEFORE
        q = fast_levels(c, q, q + FAST_LEVEL_BYTES, side, price_scale, quantity_scale, &ended)
        if q == NULL or not ended:
            return False
        p += q - (tail + BYTES_BEFORE)
    c.p = p
    return True


# ----------------------------------------------------------------------------------------------- levels, careful

cdef const char* NOT_A_DECIMAL = b"a price or quantity that is not a plain decimal number"


cdef inline int read_short_decimal(
    Cursor* c, const char* p, const char* end, int64_t* mantissa, uint8_t* decimals, uint8_t* printed
) noexcept nogil:
    """As `read_decimal`, of at most SHORT_DECIMAL_BYTES, which always fit. Each is read once."""
    cdef const char* start = p
    cdef uint64_t total = 0, stripped, digit
    cdef uint8_t count = 0
    decimals[0] = printed[0] = 0
    while p < end:
        digit = digit_value(p[0])
        if digit > 9:
            break
        total = total * 10 + digit
        p += 1
    stripped = total            # without the trailing zeros of the fraction
    if p < end:
        if p == start or p[0] != c'.' or p + 1 == end:
            return fail(c, NOT_A_DECIMAL)
        printed[0] = <uint8_t>(end - p - 1)
        p += 1
        while p < end:
            digit = digit_value(p[0])
            if digit > 9:
                return fail(c, NOT_A_DECIMAL)
            total = total * 10 + digit
            count += 1
            if digit != 0:
                stripped = total
                decimals[0] = count
            p += 1
    elif p == start:
        return fail(c, NOT_A_DECIMAL)
    mantissa[0] = <int64_t>stripped
    return 0


cdef int read_decimal(
    Cursor* c, const char* p, const char* end, int64_t* mantissa, uint8_t* decimals, uint8_t* printed
) noexcept nogil:
    """Read `[0-9]+` or `[0-9]+.[0-9]+` that fills [p, end): a mantissa without the trailing zeros of the fraction."""
    cdef const char* point = p
    cdef const char* last
    cdef uint64_t total = 0, digit
    if end - p <= SHORT_DECIMAL_BYTES:
        return read_short_decimal(c, p, end, mantissa, decimals, printed)
    while point < end and is_digit(point[0]):
        point += 1
    if point == p:
        return fail(c, NOT_A_DECIMAL)
    last = end
    if point < end:
        if point[0] != c'.' or point + 1 == end:
            return fail(c, NOT_A_DECIMAL)
        last = point + 1
        while last < end and is_digit(last[0]):
            last += 1
        if last != end:
            return fail(c, NOT_A_DECIMAL)
        printed[0] = <uint8_t>min(end - point - 1, <Py_ssize_t>DECIMALS_LIMIT + 1)
        while last - 1 > point and (last - 1)[0] == c'0':
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
            digit = digit_value(p[0])
            if digit > 9:       # it was a digit above: the bytes have changed
                return fail(c, NOT_A_DECIMAL)
            if total > (<uint64_t>INT64_MAX - digit) // 10:
                return fail(c, b"a price or quantity that does not fit 64 bits")
            total = total * 10 + digit
        p += 1
    mantissa[0] = <int64_t>total
    return 0


cdef int read_escaped_decimal(
    Cursor* c, const Text* text, int64_t* mantissa, uint8_t* decimals, uint8_t* printed
) noexcept nogil:
    cdef int status
    cdef char* plain = <char*>malloc(text.length)
    if plain == NULL:
        return fail(c, OUT_OF_MEMORY)
    status = read_decimal(c, plain, plain + unescape(text, plain), mantissa, decimals, printed)
    free(plain)
    return status


cdef inline int read_decimal_string(
    Cursor* c, int64_t* mantissa, uint8_t* decimals, uint8_t* printed
) noexcept nogil:
    """Read a JSON string that holds a price or quantity."""
    cdef Text text
    cdef int status
    cdef const char* start = c.p
    if c.p >= c.end or c.p[0] != c'"':
        return fail(c, b"a price or quantity must be a string")
    if scan_string(c, &text) < 0:
        return -1
    if text.has_escapes:
        status = read_escaped_decimal(c, &text, mantissa, decimals, printed)
    elif text.length <= SHORT_DECIMAL_BYTES:
        status = read_short_decimal(c, text.start, text.start + text.length, mantissa, decimals, printed)
    else:
        status = read_decimal(c, text.start, text.start + text.length, mantissa, decimals, printed)
    if status < 0:
        c.p = start
    return status


cdef int read_levels_wide(Cursor* c, MessageSide* side) noexcept nogil:
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


cdef int read_levels(Cursor* c, MessageSide* side, int32_t price_scale, int32_t quantity_scale) noexcept nogil:
    """Read an array of levels at the scales given, or, if they are negative or do not do, wide."""
    if c.p[0] != c'[':
        return fail(c, b"the levels of a side must be an array")
    if price_scale >= 0 and read_levels_fast(c, side, price_scale, quantity_scale):
        return 0
    if c.problem != NULL:
        return -1
    return read_levels_wide(c, side)
