# What Binance sends about depth: the update and the snapshot, from bytes to a `Message`.
#
# Rule 1: a message is read completely before anything is done with it. What is read goes to a `Message` on the caller's
#         stack; no book is touched here.
# Rule 2: no Python in here; the caller raises what `Cursor.problem` says.

cdef enum:
    MESSAGE_BYTES_LIMIT = 16777216  # a message of more bytes is refused before it is read

cdef enum:
    # Keys, as bits of what has been seen in an object.
    KEY_STREAM = 1
    KEY_DATA = 2
    KEY_EVENT = 4           # e
    KEY_EVENT_TIME = 8      # E
    KEY_TRANSACTION_TIME = 16   # T
    KEY_SYMBOL = 32         # s
    KEY_FIRST_ID = 64       # U
    KEY_LAST_ID = 128       # u
    KEY_PREVIOUS_ID = 256   # pu
    KEY_BIDS = 512          # b
    KEY_ASKS = 1024         # a
    KEY_PAIR = 2048         # ps
    KEY_PRODUCT = 4096      # st
    KEY_BID_HORIZON = 8192  # of a snapshot, as `KEY_ASK_HORIZON`: a gateway's, whose knowledge of the side ends
    KEY_ASK_HORIZON = 16384
    KEYS_OF_EVENT = 8188    # e to st

cdef struct Message:
    int32_t seen                # KEY_ bits of the event, and KEY_STREAM, KEY_DATA of the outermost object
    Text stream
    Text event
    Text symbol
    bint has_stream
    bint has_event
    bint has_symbol
    bint has_event_time
    bint has_transaction_time
    int64_t event_time_ms
    int64_t transaction_time_ms
    int64_t first_id
    int64_t last_id             # of a snapshot: its lastUpdateId
    int64_t previous_id         # 0: there was none
    MessageSide bids
    MessageSide asks

cdef void message_open(Message* m, Level* bid_stack, Level* ask_stack) noexcept nogil:
    m.seen = 0
    m.has_stream = m.has_event = m.has_symbol = m.has_event_time = m.has_transaction_time = False
    m.first_id = m.last_id = m.previous_id = 0
    message_side_open(&m.bids, bid_stack)
    message_side_open(&m.asks, ask_stack)


cdef void message_close(Message* m) noexcept nogil:
    """Free what the message owns: nothing, as a rule."""
    if m.bids.heap != NULL or m.bids.wide != NULL:
        free(m.bids.heap)
        free(m.bids.wide)
    if m.asks.heap != NULL or m.asks.wide != NULL:
        free(m.asks.heap)
        free(m.asks.wide)


cdef inline bint text_is(const Text* text, const char* word, Py_ssize_t length) noexcept nogil:
    return text.length == length and memcmp(text.start, word, length) == 0


cdef void undo_escapes(Text* word, char* room, Py_ssize_t capacity) noexcept nogil:
    """Make a word with escapes plain, in `room`; one that is too long to be a known word becomes empty."""
    if not word.has_escapes:
        return
    word.length = unescape(word, room) if word.length <= capacity else 0
    word.start = room


cdef inline int32_t update_key(Text* key) noexcept nogil:
    """Return the KEY_ bit of a key of an update, or 0 for one that is not known."""
    cdef char room[6 * 6]       # the longest known key, each letter as \uXXXX
    cdef char first
    undo_escapes(key, room, sizeof(room))
    if key.length == 0:
        return 0
    first = key.start[0]
    if key.length == 1:
        if first == c'E':
            return KEY_EVENT_TIME
        if first == c'U':
            return KEY_FIRST_ID
        if first == c'u':
            return KEY_LAST_ID
        if first == c'b':
            return KEY_BIDS
        if first == c'a':
            return KEY_ASKS
        if first == c's':
            return KEY_SYMBOL
        if first == c'e':
            return KEY_EVENT
        if first == c'T':
            return KEY_TRANSACTION_TIME
        return 0
    if key.length == 2:
        if key.start[1] == c'u' and first == c'p':
            return KEY_PREVIOUS_ID
        if key.start[1] == c's' and first == c'p':
            return KEY_PAIR
        if key.start[1] == c't' and first == c's':
            return KEY_PRODUCT
        return 0
    if text_is(key, b"data", 4):
        return KEY_DATA
    if text_is(key, b"stream", 6):
        return KEY_STREAM
    return 0


cdef inline int32_t snapshot_key(Text* key) noexcept nogil:
    """Return the KEY_ bit of a key of a snapshot, or 0 for one that is not known."""
    cdef char room[12 * 6]
    undo_escapes(key, room, sizeof(room))
    if text_is(key, b"bids", 4):
        return KEY_BIDS
    if text_is(key, b"asks", 4):
        return KEY_ASKS
    if text_is(key, b"lastUpdateId", 12):
        return KEY_LAST_ID
    if text_is(key, b"E", 1):
        return KEY_EVENT_TIME
    if text_is(key, b"T", 1):
        return KEY_TRANSACTION_TIME
    if text_is(key, b"bidHorizon", 10):
        return KEY_BID_HORIZON
    if text_is(key, b"askHorizon", 10):
        return KEY_ASK_HORIZON
    return 0


cdef inline bint at_number(const Cursor* c) noexcept nogil:
    return c.p[0] == c'-' or is_digit(c.p[0])


cdef inline int read_id(Cursor* c, int64_t* value) noexcept nogil:
    """Read an update id: an integer from 1 to 2**63 - 1 and nothing else."""
    cdef const char* start = c.p
    if not at_number(c) or scan_number(c, value) != NUMBER_INTEGER or value[0] < 1:
        c.p = start
        return fail(c, b"an update id must be an integer from 1 to 2**63 - 1")
    return 0


cdef inline int read_time(Cursor* c, bint* has_value, int64_t* value, int32_t depth) noexcept nogil:
    """Read a time; what is not an integer in int64 is stepped over and counts as none."""
    cdef NumberKind kind
    if not at_number(c):
        return skip_value(c, depth)
    kind = scan_number(c, value)
    has_value[0] = kind == NUMBER_INTEGER
    return -1 if kind == NUMBER_REFUSED else 0


cdef inline int read_text(Cursor* c, bint* has_value, Text* value, int32_t depth) noexcept nogil:
    """Read a string; any other value is stepped over and counts as none."""
    if c.p[0] != c'"':
        return skip_value(c, depth)
    has_value[0] = True
    return scan_string(c, value)


cdef int open_object(Cursor* c) noexcept nogil:
    skip_space(c)
    if c.p >= c.end or c.p[0] != c'{':
        return fail(c, b"the message is not a JSON object")
    c.p += 1
    return 0


cdef int close_message(Cursor* c) noexcept nogil:
    skip_space(c)
    if c.p != c.end:
        return fail(c, b"bytes behind the end of the message")
    return 0


cdef int read_update_value(
    Cursor* c, Message* m, int32_t code, int32_t depth, bint with_levels, int32_t price_scale, int32_t quantity_scale
) noexcept nogil:
    """Read or step over the value of one key of an update."""
    if code == KEY_FIRST_ID:
        return read_id(c, &m.first_id)
    if code == KEY_LAST_ID:
        return read_id(c, &m.last_id)
    if code == KEY_PREVIOUS_ID:
        return read_id(c, &m.previous_id)
    if code == KEY_BIDS and with_levels:
        return read_levels(c, &m.bids, price_scale, quantity_scale)
    if code == KEY_ASKS and with_levels:
        return read_levels(c, &m.asks, price_scale, quantity_scale)
    if code == KEY_EVENT_TIME:
        return read_time(c, &m.has_event_time, &m.event_time_ms, depth)
    if code == KEY_TRANSACTION_TIME:
        return read_time(c, &m.has_transaction_time, &m.transaction_time_ms, depth)
    if code == KEY_SYMBOL:
        return read_text(c, &m.has_symbol, &m.symbol, depth)
    if code == KEY_EVENT:
        return read_text(c, &m.has_event, &m.event, depth)
    if code == KEY_STREAM:
        return read_text(c, &m.has_stream, &m.stream, depth)
    return skip_value(c, depth)


cdef int read_update(
    Cursor* c, Message* m, bint with_levels, int32_t price_scale, int32_t quantity_scale
) noexcept nogil:
    """Read a whole update, bare or in a combined-stream wrapper; without levels, any message with a header."""
    cdef Text key
    cdef int32_t code, seen = 0, seen_outside = 0
    cdef bint is_first = True, in_data = False
    cdef int status
    if open_object(c) < 0:
        return -1
    while True:
        status = next_key(c, &is_first, &key)
        if status < 0:
            return -1
        if status == 0:
            m.seen |= seen
            if not in_data:
                return close_message(c)
            in_data = False
            is_first = False        # of the outermost object: `data` was a key of it, also if it was empty
            seen = seen_outside
            continue
        code = update_key(&key)
        if in_data:
            code &= KEYS_OF_EVENT
        if seen & code:
            return fail(c, b"a key stands twice")
        seen |= code
        if seen & KEY_DATA and seen & KEYS_OF_EVENT:
            return fail(c, b"fields of an event beside its data")
        if code == KEY_DATA:
            if open_object(c) < 0:
                return -1
            seen_outside = seen
            seen = 0
            in_data = True
            is_first = True
        elif read_update_value(c, m, code, 2 if in_data else 1, with_levels, price_scale, quantity_scale) < 0:
            return -1


cdef const char* update_problem(const Message* m, bint needs_previous_id) noexcept nogil:
    """Return what a message that was read lacks to be a depth update, or NULL. (`check_ids` in sequence.py)"""
    if not m.seen & KEY_FIRST_ID:
        return b"U is missing"
    if not m.seen & KEY_LAST_ID:
        return b"u is missing"
    if needs_previous_id and not m.seen & KEY_PREVIOUS_ID:
        return b"pu is missing, and these updates chain by it"
    if not m.seen & KEY_BIDS:
        return b"b is missing"
    if not m.seen & KEY_ASKS:
        return b"a is missing"
    if m.first_id > m.last_id:
        return b"U is past u"
    if m.seen & KEY_PREVIOUS_ID and m.previous_id >= m.last_id:
        return b"pu is not before u"
    if m.bids.count + m.asks.count > MESSAGE_LEVELS_LIMIT:
        return b"more levels than LEVELS_PER_MESSAGE_MAX"
    return NULL


cdef bint is_other_event(const Message* m) noexcept nogil:
    """Whether the message says that it is something else than a depth update."""
    cdef char room[11 * 6]
    cdef Text event = m.event
    if not m.has_event:
        return False
    undo_escapes(&event, room, sizeof(room))
    return not text_is(&event, b"depthUpdate", 11)


cdef int read_snapshot(Cursor* c, Message* m) noexcept nogil:
    """Read a whole snapshot, its levels wide."""
    cdef Text key
    cdef int32_t code
    cdef bint is_first = True
    cdef int status
    if open_object(c) < 0:
        return -1
    while True:
        status = next_key(c, &is_first, &key)
        if status < 0:
            return -1
        if status == 0:
            break
        code = snapshot_key(&key)
        if m.seen & code:
            return fail(c, b"a key stands twice")
        m.seen |= code
        if read_update_value(c, m, code, 1, True, -1, -1) < 0:
            return -1
    if close_message(c) < 0:
        return -1
    if not m.seen & KEY_LAST_ID:
        return fail(c, b"lastUpdateId is missing")
    if not m.seen & KEY_BIDS or not m.seen & KEY_ASKS:
        return fail(c, b"bids or asks are missing")
    if m.bids.count + m.asks.count > MESSAGE_LEVELS_LIMIT:
        return fail(c, b"more levels than LEVELS_PER_MESSAGE_MAX")
    return 0
