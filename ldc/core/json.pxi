# Strict JSON, read where it lies: a cursor over bytes, and what it can step over.
#
# Rule 1: no byte outside [start, end) is ever read, no byte is read as anything but JSON (RFC 8259) in UTF-8.
# Rule 2: no recursion, no allocation, no Python. A function returns -1 after `fail`, the cursor where it failed.
# Rule 3: nothing here knows what a depth update is.
# Rule 4: the bytes may change while they are read: another process can write to a mapped file, another thread to a
#         bytearray. What is read then may be any message, or none. But no read and no write leaves its memory: a byte
#         that was tested and is read again is tested again, and every loop ends where its bytes end.

cdef enum:
    NESTING_LIMIT = 32          # containers within each other; the outermost is 1. Deeper: refused
    SLACK_BYTES = 24            # what `fast_integer` may read ahead

cdef struct Cursor:
    const char* start
    const char* p
    const char* end
    const char* problem         # what is wrong at `p`, in words; NULL while all is well

cdef struct Text:
    const char* start           # the bytes between the quotes, escapes and all
    Py_ssize_t length
    bint has_escapes

cdef enum NumberKind:
    NUMBER_REFUSED = -1
    NUMBER_OTHER = 0            # a fraction, an exponent, or more than int64 holds
    NUMBER_INTEGER = 1


cdef inline int fail(Cursor* c, const char* problem) noexcept nogil:
    if c.problem == NULL:
        c.problem = problem
    return -1


cdef inline void skip_space(Cursor* c) noexcept nogil:
    # The first comparison settles it for most: nothing but white space is left to be skipped at or below a space.
    while c.p < c.end and c.p[0] <= c' ' and (
            c.p[0] == c' ' or c.p[0] == c'\n' or c.p[0] == c'\r' or c.p[0] == c'\t'):
        c.p += 1


cdef inline int expect(Cursor* c, char wanted, const char* problem) noexcept nogil:
    """Step over white space and this one byte."""
    skip_space(c)
    if c.p >= c.end or c.p[0] != wanted:
        return fail(c, problem)
    c.p += 1
    return 0


# ----------------------------------------------------------------------------------------------- strings

cdef inline bint is_continuation(char byte) noexcept nogil:
    return (<uint8_t>byte & 0xC0) == 0x80


cdef int skip_utf8(Cursor* c) noexcept nogil:
    """Step over one character outside ASCII: the well-formed sequences of Unicode (table 3-7), and no others."""
    cdef const char* p = c.p
    cdef Py_ssize_t left = c.end - p
    cdef uint8_t first = <uint8_t>p[0]
    cdef uint8_t second = <uint8_t>p[1] if left > 1 else 0
    if 0xC2 <= first <= 0xDF:
        if left >= 2 and is_continuation(p[1]):
            c.p += 2
            return 0
    elif 0xE0 <= first <= 0xEF:
        # Overlong forms (E0) and surrogates (ED) have no place in UTF-8.
        if (left >= 3 and is_continuation(p[1]) and is_continuation(p[2])
                and (first != 0xE0 or second >= 0xA0) and (first != 0xED or second <= 0x9F)):
            c.p += 3
            return 0
    elif 0xF0 <= first <= 0xF4:
        if (left >= 4 and is_continuation(p[1]) and is_continuation(p[2]) and is_continuation(p[3])
                and (first != 0xF0 or second >= 0x90) and (first != 0xF4 or second <= 0x8F)):
            c.p += 4
            return 0
    return fail(c, b"invalid UTF-8")


cdef inline int32_t hex_value(char byte) noexcept nogil:
    if c'0' <= byte <= c'9':
        return byte - c'0'
    if c'a' <= byte <= c'f':
        return byte - c'a' + 10
    if c'A' <= byte <= c'F':
        return byte - c'A' + 10
    return -1


cdef inline int32_t read_hex4(const char* p, const char* end) noexcept nogil:
    """Return the number that four hexadecimal digits at `p` stand for, or -1."""
    cdef int32_t value = 0, digit, index
    if end - p < 4:
        return -1
    for index in range(4):
        digit = hex_value(p[index])
        if digit < 0:
            return -1
        value = value * 16 + digit
    return value


cdef int32_t read_escape(const char** position, const char* end) noexcept nogil:
    """Step over an escape and return its character, or -1: no such escape, or half of a surrogate pair."""
    cdef const char* p = position[0] + 1
    cdef int32_t unit, low
    if p >= end:
        return -1
    position[0] = p + 1
    if p[0] == c'"' or p[0] == c'\\' or p[0] == c'/':
        return p[0]
    if p[0] == c'b':
        return 8
    if p[0] == c'f':
        return 12
    if p[0] == c'n':
        return 10
    if p[0] == c'r':
        return 13
    if p[0] == c't':
        return 9
    if p[0] != c'u':
        return -1
    unit = read_hex4(p + 1, end)
    if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
        return -1
    position[0] = p + 5
    if 0xD800 <= unit <= 0xDBFF:
        p += 5
        if end - p < 6 or p[0] != c'\\' or p[1] != c'u':
            return -1
        low = read_hex4(p + 2, end)
        if not 0xDC00 <= low <= 0xDFFF:
            return -1
        position[0] = p + 6
        return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
    return unit


cdef int scan_string(Cursor* c, Text* text) noexcept nogil:
    """Step over a string; the cursor stands at its opening quote."""
    cdef const char* p = c.p + 1
    cdef uint64_t stop
    text.start = p
    text.has_escapes = False
    while True:
        while c.end - p >= 8:
            stop = string_stops(load8(p))
            if stop != 0:
                p += first_byte(stop)
                break
            p += 8
        c.p = p
        if p >= c.end:
            return fail(c, b"a string without its closing quote")
        if p[0] == c'"':
            text.length = p - text.start
            c.p = p + 1
            return 0
        if p[0] == c'\\':
            text.has_escapes = True
            if read_escape(&p, c.end) < 0:
                return fail(c, b"an invalid escape in a string")
        elif <uint8_t>p[0] < 0x20:
            return fail(c, b"a control character in a string")
        elif <uint8_t>p[0] >= 0x80:
            if skip_utf8(c) < 0:
                return -1
            p = c.p
        else:
            p += 1


cdef Py_ssize_t unescape(const Text* text, char* out) noexcept nogil:
    """Write what a scanned string says, in UTF-8, and return its length, which is never more than `text.length`.

    A string that has changed since it was scanned (rule 4) ends before its first invalid escape.
    """
    cdef const char* p = text.start
    cdef const char* end = text.start + text.length
    cdef char* q = out
    cdef int32_t character
    while p < end:
        if p[0] != c'\\':
            q[0] = p[0]
            p += 1
            q += 1
            continue
        character = read_escape(&p, end)
        if character < 0:
            break
        if character < 0x80:
            q[0] = <char>character
            q += 1
        elif character < 0x800:
            q[0] = <char>(0xC0 | (character >> 6))
            q[1] = <char>(0x80 | (character & 0x3F))
            q += 2
        elif character < 0x10000:
            q[0] = <char>(0xE0 | (character >> 12))
            q[1] = <char>(0x80 | ((character >> 6) & 0x3F))
            q[2] = <char>(0x80 | (character & 0x3F))
            q += 3
        else:
            q[0] = <char>(0xF0 | (character >> 18))
            q[1] = <char>(0x80 | ((character >> 12) & 0x3F))
            q[2] = <char>(0x80 | ((character >> 6) & 0x3F))
            q[3] = <char>(0x80 | (character & 0x3F))
            q += 4
    return q - out


# ----------------------------------------------------------------------------------------------- numbers

cdef inline bint is_digit(char byte) noexcept nogil:
    return c'0' <= byte <= c'9'


cdef inline uint64_t digit_value(char byte) noexcept nogil:
    """Return what a digit stands for, or more than 9 for any other byte: one read, to be tested and used."""
    return <uint64_t><uint8_t>(<uint8_t>byte - <uint8_t>c'0')


cdef inline const char* fast_integer(const char* p, int64_t* value) noexcept nogil:
    """Read 1 to 15 digits that do not begin with 0 and are no fraction; NULL otherwise. Reads SLACK_BYTES bytes."""
    cdef uint64_t digits = load8(p) ^ ASCII_ZEROS
    cdef uint64_t stop = non_digits(digits)
    cdef int32_t count
    if p[0] == c'0':
        return NULL
    if stop != 0:
        count = first_byte(stop)
        if count == 0:
            return NULL
        value[0] = <int64_t>eight_digits(digits << (64 - 8 * count))
        p += count
    else:
        value[0] = <int64_t>eight_digits(digits)
        p += 8
        digits = load8(p) ^ ASCII_ZEROS
        stop = non_digits(digits)
        if stop == 0:
            return NULL
        count = first_byte(stop)
        if count != 0:
            value[0] = value[0] * POW10[count] + <int64_t>eight_digits(digits << (64 - 8 * count))
            p += count
    if p[0] == c'.' or p[0] == c'e' or p[0] == c'E':
        return NULL
    return p


cdef NumberKind scan_any_number(Cursor* c, int64_t* value) noexcept nogil:
    cdef bint negative = False, fits = True, is_integer = True
    cdef uint64_t total = 0, limit, digit
    cdef const char* begin
    if c.p < c.end and c.p[0] == c'-':
        negative = True
        c.p += 1
    begin = c.p
    limit = <uint64_t>INT64_MAX + negative
    while c.p < c.end:
        digit = digit_value(c.p[0])
        if digit > 9:
            break
        if fits:
            fits = total <= (limit - digit) // 10
            total = total * 10 + digit
        c.p += 1
    if c.p == begin or (begin[0] == c'0' and c.p - begin > 1):
        fail(c, b"not a JSON number")
        return NUMBER_REFUSED
    if c.p < c.end and c.p[0] == c'.':
        is_integer = False
        c.p += 1
        begin = c.p
        while c.p < c.end and is_digit(c.p[0]):
            c.p += 1
        if c.p == begin:
            fail(c, b"a fraction without digits")
            return NUMBER_REFUSED
    if c.p < c.end and (c.p[0] == c'e' or c.p[0] == c'E'):
        is_integer = False
        c.p += 1
        if c.p < c.end and (c.p[0] == c'+' or c.p[0] == c'-'):
            c.p += 1
        begin = c.p
        while c.p < c.end and is_digit(c.p[0]):
            c.p += 1
        if c.p == begin:
            fail(c, b"an exponent without digits")
            return NUMBER_REFUSED
    if not (is_integer and fits):
        return NUMBER_OTHER
    value[0] = <int64_t>(0 - total) if negative else <int64_t>total
    return NUMBER_INTEGER


cdef inline NumberKind scan_number(Cursor* c, int64_t* value) noexcept nogil:
    """Step over a number of any length; `value` is set if it is an integer that fits int64."""
    cdef const char* fast
    if c.end - c.p >= SLACK_BYTES:
        fast = fast_integer(c.p, value)
        if fast != NULL:
            c.p = fast
            return NUMBER_INTEGER
    return scan_any_number(c, value)


# ----------------------------------------------------------------------------------------------- values and keys

cdef int skip_word(Cursor* c) noexcept nogil:
    """Step over `true`, `false` or `null`."""
    cdef Py_ssize_t left = c.end - c.p
    if left >= 4 and (memcmp(c.p, b"true", 4) == 0 or memcmp(c.p, b"null", 4) == 0):
        c.p += 4
        return 0
    if left >= 5 and memcmp(c.p, b"false", 5) == 0:
        c.p += 5
        return 0
    return fail(c, b"not a JSON value")


cdef int skip_key(Cursor* c) noexcept nogil:
    """Step over a key and its colon."""
    cdef Text key
    skip_space(c)
    if c.p >= c.end or c.p[0] != c'"':
        return fail(c, b"a key was expected")
    if scan_string(c, &key) < 0:
        return -1
    return expect(c, c':', b"a colon was expected")


cdef int skip_scalar(Cursor* c) noexcept nogil:
    cdef Text text
    cdef int64_t number = 0
    if c.p[0] == c'"':
        return scan_string(c, &text)
    if c.p[0] == c'-' or is_digit(c.p[0]):
        return -1 if scan_number(c, &number) == NUMBER_REFUSED else 0
    return skip_word(c)


cdef int skip_value(Cursor* c, int32_t depth) noexcept nogil:
    """Step over any value inside `depth` open containers; deeper than NESTING_LIMIT is refused."""
    cdef uint64_t objects = 0       # a bit for each container opened here, the innermost lowest: 1 is an object
    cdef int32_t opened = 0
    cdef char close
    while True:
        skip_space(c)
        if c.p >= c.end:
            return fail(c, b"a value was expected")
        if c.p[0] == c'{' or c.p[0] == c'[':
            if depth + opened >= NESTING_LIMIT:
                return fail(c, b"nested too deeply (NESTING_MAX)")
            opened += 1
            objects = (objects << 1) | (c.p[0] == c'{')
            c.p += 1
            skip_space(c)
            close = c'}' if objects & 1 else c']'
            if c.p >= c.end or c.p[0] != close:
                if objects & 1 and skip_key(c) < 0:
                    return -1
                continue
        elif skip_scalar(c) < 0:
            return -1
        # A value has ended (or an empty container is about to).
        while True:
            if opened == 0:
                return 0
            skip_space(c)
            close = c'}' if objects & 1 else c']'
            if c.p < c.end and c.p[0] == close:
                c.p += 1
                opened -= 1
                objects >>= 1
            elif c.p < c.end and c.p[0] == c',':
                c.p += 1
                if objects & 1 and skip_key(c) < 0:
                    return -1
                break
            else:
                return fail(c, b"a comma or a closing bracket was expected")


cdef inline bint at_letter_key(const char* p) noexcept nogil:
    """Whether eight bytes are `,"x":` with any letter, and a value behind without white space before it."""
    cdef char letter = p[2] | 32
    return load8(p) & LETTER_KEY_MASK == LETTER_KEY and c'a' <= letter <= c'z' and p[5] > c' '


cdef inline int next_key(Cursor* c, bint* is_first, Text* key) noexcept nogil:
    """Step to the value of an object's next key: 1, or 0 at its end (stepped over), or -1.

    The cursor stands behind `{` (and `is_first` is true) or behind a value.
    """
    if not is_first[0] and c.end - c.p >= 8 and at_letter_key(c.p):
        key.start = c.p + 2
        key.length = 1
        key.has_escapes = False
        c.p += 5
        return 1
    return next_any_key(c, is_first, key)


cdef int next_any_key(Cursor* c, bint* is_first, Text* key) noexcept nogil:
    skip_space(c)
    if c.p < c.end and c.p[0] == c'}':
        c.p += 1
        return 0
    if not is_first[0]:
        if expect(c, c',', b"a comma or a closing brace was expected") < 0:
            return -1
        skip_space(c)
    is_first[0] = False
    if c.p >= c.end or c.p[0] != c'"':
        return fail(c, b"a key was expected")
    if scan_string(c, key) < 0 or expect(c, c':', b"a colon was expected") < 0:
        return -1
    skip_space(c)
    if c.p >= c.end:
        return fail(c, b"a value was expected")
    return 1
