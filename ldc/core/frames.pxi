# Websocket frames, from the server to us, without any I/O: bytes in, books updated, the rest returned as events.
# ldc/frames.py says what a frame may be. ldc/book/pure/frames.py is the same reader in plain Python: the definition.
#
# Rule 1: a depth update of a book that is bound and direct is applied in place, in the buffer: no copy, no object.
#         Anything but a plain APPLIED is returned with its bytes, and the binding waits for its owner's decision.
#         A plain duplicate on a redundant market is counted in place as well.
# Rule 2: a header is checked before its payload is waited for. The rare frames (fragments, control) may cost Python.
# Rule 3: nothing is kept past a named limit of ldc/frames.py.
# Rule 4: a waiting thread changes nothing of that. It is woken once, when all that arrived is applied.

cdef Py_ssize_t RECEIVE_BYTES = frames.RECEIVE_BYTES
cdef Py_ssize_t BUFFER_BYTES_KEPT = frames.BUFFER_BYTES_KEPT
cdef Py_ssize_t FRAGMENTS_MAX = frames.FRAGMENTS_MAX
assert LAGS_KEPT == frames.LAGS_KEPT
assert STREAM_BYTES_LIMIT == frames.STREAM_BYTES_LIMIT
cdef double DUPLICATES_S_MAX = frames.DUPLICATES_S_MAX
cdef object FrameError = frames.FrameError
cdef object FrameEvent = frames.FrameEvent

cdef enum:
    STREAM_BYTES_LIMIT = 256        # ldc.frames.STREAM_BYTES_LIMIT
    STREAM_PREFIX_BYTES = 11        # {"stream":"
    LAGS_KEPT = 256

cdef struct StreamSlot:
    # A place in the table of bound streams, whose size is a power of two and which is at most half full.
    uint64_t hash
    const char* name                # of a bytes object in FrameReader._tallies; NULL: the place is free
    Py_ssize_t length
    PyObject* tally                 # borrowed from FrameReader._tallies

cdef struct Listener:
    # A waiter for many books, in the list of one of them. `core/waiter.pxi` has the rules.
    int* word                       # what it sleeps on
    void* binding                   # borrowed from the waiter
    Listener* previous
    Listener* following
    int64_t after                   # the waiter's own
    int64_t reached


@cython.final
cdef class StreamBinding:
    """A stream's book, and who decides what becomes of its updates.

    Args:
        book: what the updates are applied to while `is_direct`.
        owner: returned in events, as `event.binding.owner`: who decides.

    Thread-safety: it belongs to the thread that reads the stream. Only `waiting` is changed by other threads.
    """

    cdef readonly OrderBook book
    cdef readonly object owner
    cdef public bint is_direct
    cdef public bint is_redundant
    cdef int64_t _duplicates            # the loop counts, and other threads look: relaxed
    cdef double _heard_at               # as well
    cdef int _waiting                   # threads that sleep on `_change`
    cdef int _change                    # of `wait_word`: another number after each wake
    cdef int _listening                 # waiters in `_listeners`
    cdef Mutex _listeners_lock
    cdef Listener* _listeners           # waiters for many books, this one among them
    cdef bint _is_touched               # it stands in the list of a reader
    cdef void* _next_touched

    def __cinit__(self, OrderBook book not None, owner):
        self.book = book
        self.owner = owner

    # A waiter counts itself in, then reads what was published. The writer publishes, then reads this count. Without the
    # GIL one of the two sees the other only if every thread sees both steps in order.

    @property
    def duplicates(self):
        """Duplicates that were counted and not returned."""
        return load_relaxed(&self._duplicates)

    @duplicates.setter
    def duplicates(self, int64_t count):
        store_relaxed(&self._duplicates, count)

    @property
    def heard_at(self):
        """When the book last judged an update of the stream. An update that it refused does not count."""
        return load_double(&self._heard_at)

    @heard_at.setter
    def heard_at(self, double now):
        store_double(&self._heard_at, now)

    @property
    def waiting(self):
        return read_in_order(&self._waiting) + read_in_order(&self._listening)

    def count_waiter(self, int step):
        """Count a waiting thread in (1) or out (-1)."""
        add_atomically(&self._waiting, step)

    @property
    def change(self):
        """A number that is another one after each `wake`: read it before you look at what you wait for."""
        return read_in_order(&self._change)

    def wake(self):
        """Wake all threads in `wait` and `wait_past`, here and of an `UpdateWaiter`. From any thread."""
        wake_word(&self._change)
        wake_listeners(self)

    def wait(self, int seen, timeout_s=None, double spin_s=0.0):
        """Block, without the GIL, while `change` is `seen`, at most so long; spin first. May return early."""
        wait_on(&self._change, seen, timeout_s, spin_s)

    def wait_past(self, int64_t after, timeout_s=None, double spin_s=0.0):
        """Block, without the GIL, until the book can be read and is past an id; return its id, or None: look why.

        None: the time is over, or the book cannot be read, or its id is lower. Ctrl-C and other signals are handled.
        """
        cdef OrderBook book = self.book
        cdef int64_t deadline = -1 if timeout_s is None else monotonic_ns() + ns_of(timeout_s)
        cdef int64_t spin_ns = ns_of(spin_s)
        cdef int64_t reached = -1
        self.count_waiter(1)
        try:
            while True:
                with nogil:
                    reached = self._sleep_past(book, after, deadline, spin_ns)
                if reached != -2:
                    return None if reached < 0 else reached
                PyErr_CheckSignals()
        finally:
            self.count_waiter(-1)

    cdef int64_t _sleep_past(self, OrderBook book, int64_t after, int64_t deadline, int64_t spin_ns) noexcept nogil:
        """Return the id that was reached; -1: the time is over, or the book cannot be read; -2: a signal came."""
        cdef int seen
        cdef int64_t reached
        while True:
            seen = read_in_order(&self._change)
            reached = reached_id(book)
            if reached > after or reached < 0:
                return reached
            if reached < after:         # the ids restarted, or the caller has an id of the future
                return -1
            if deadline >= 0 and monotonic_ns() >= deadline:
                return -1
            if sleep_until_changed(&self._change, seen, deadline, spin_ns) != 0:
                return -2


cdef int wait_on(int* word, int seen, object timeout_s, double spin_s) except -1:
    """Block, without the GIL, while a number is `seen`; handle signals."""
    cdef int64_t deadline = -1 if timeout_s is None else monotonic_ns() + ns_of(timeout_s)
    cdef int64_t spin_ns = ns_of(spin_s)
    cdef int status
    with nogil:
        status = sleep_until_changed(word, seen, deadline, spin_ns)
    if status != 0:
        PyErr_CheckSignals()
    return 0


cdef int64_t reached_id(OrderBook book) noexcept nogil:
    """Return the id of a book that can be read at this moment, or -1."""
    cdef Refusal refusal
    cdef int64_t reached
    mutex_lock(&book._mutex)
    reached = book._place.last_update_id if state_of_both(book, False, &refusal) == READABLE else -1
    mutex_unlock(&book._mutex)
    return reached


cdef void enlist(StreamBinding binding, Listener* listener) noexcept nogil:
    """Let a waiter be woken with a binding."""
    mutex_lock(&binding._listeners_lock)
    listener.previous = NULL
    listener.following = binding._listeners
    if binding._listeners != NULL:
        binding._listeners.previous = listener
    binding._listeners = listener
    mutex_unlock(&binding._listeners_lock)
    add_atomically(&binding._listening, 1)


cdef void delist(StreamBinding binding, Listener* listener) noexcept nogil:
    """Let a waiter be woken no more: it may be freed after this."""
    add_atomically(&binding._listening, -1)
    mutex_lock(&binding._listeners_lock)
    if listener.previous != NULL:
        listener.previous.following = listener.following
    else:
        binding._listeners = listener.following
    if listener.following != NULL:
        listener.following.previous = listener.previous
    mutex_unlock(&binding._listeners_lock)


cdef void wake_listeners(StreamBinding binding) noexcept nogil:
    cdef Listener* listener
    if read_in_order(&binding._listening) == 0:
        return
    mutex_lock(&binding._listeners_lock)
    listener = binding._listeners
    while listener != NULL:
        wake_word(listener.word)
        listener = listener.following
    mutex_unlock(&binding._listeners_lock)


@cython.final
cdef class StreamTally:
    """Counts, of one connection's stream, first arrivals and duplicates. Made by `FrameReader.bind`."""

    cdef readonly StreamBinding binding
    cdef int64_t _firsts                # the loop counts, and other threads look: relaxed
    cdef int64_t _duplicates            # as well
    cdef int64_t _stale_at_id           # the book's id at which a STALE update with a newer event time was last ignored
    cdef int64_t _stood_at_id           # the book's id at the last STALE update
    cdef double _stale_since            # when the first one came that found it there

    def __cinit__(self, StreamBinding binding not None):
        self.binding = binding
        self._stale_at_id = self._stood_at_id = -1

    @property
    def firsts(self):
        """Updates that arrived here first, and were applied."""
        return load_relaxed(&self._firsts)

    @firsts.setter
    def firsts(self, int64_t count):
        store_relaxed(&self._firsts, count)

    @property
    def duplicates(self):
        """Updates that had arrived elsewhere before."""
        return load_relaxed(&self._duplicates)

    @duplicates.setter
    def duplicates(self, int64_t count):
        store_relaxed(&self._duplicates, count)


cdef inline uint64_t hash_of_name(const char* name, Py_ssize_t length) noexcept nogil:
    """Mix the bytes of a name, eight at a time."""
    cdef uint64_t mixed = 0x9E3779B97F4A7C15ULL ^ <uint64_t>length
    cdef uint64_t word
    while length >= 8:
        mixed = (mixed ^ load8(name)) * 0xFF51AFD7ED558CCDULL
        mixed ^= mixed >> 32
        name += 8
        length -= 8
    word = 0
    memcpy(&word, name, length)
    mixed = (mixed ^ word) * 0xFF51AFD7ED558CCDULL
    return mixed ^ (mixed >> 29)


@cython.final
cdef class FrameReader:
    """Splits a stream of bytes into messages, and applies those of bound books.

    Thread-safety: none; it belongs to the thread that owns the connection. After a `FrameError` it is of no more use.
    """

    cdef object _buffer                 # a bytearray; nobody else has it
    cdef char* _memory                  # of `_buffer`
    cdef Py_ssize_t _size
    cdef int _judged                    # the verdict on the frame at `_start`, which the loop has applied; -1: none
    cdef int _failure                   # errno of the loop's last receive, 0: the end; if `_has_failed`
    cdef bint _has_failed
    cdef int64_t _received_ns           # the wall clock at the loop's last receive; 0: none
    cdef void* _touched                 # bindings with waiters whose books have changed: a list through the bindings
    cdef public bint calls_inline       # a consumer that runs in this thread has something to take
    cdef int64_t _updates               # applied or counted by the loop
    cdef Py_ssize_t _start              # of what is not consumed yet
    cdef Py_ssize_t _end
    cdef Py_ssize_t _message_bytes_max
    cdef list _fragments
    cdef Py_ssize_t _fragment_bytes
    cdef int _opcode                    # of the message whose fragments are being collected; -1: none
    cdef dict _tallies                  # name of the stream, bytes -> StreamTally
    cdef StreamSlot* _slots
    cdef Py_ssize_t _slot_count
    cdef int64_t _lags[LAGS_KEPT]       # ns; the newest lies before _lag_count % LAGS_KEPT
    cdef int64_t _lag_count

    def __cinit__(self, Py_ssize_t message_bytes_max=frames.MESSAGE_BYTES_MAX):
        self._judged = -1
        self._keep(bytearray(2 * RECEIVE_BYTES))
        self._message_bytes_max = message_bytes_max
        self._fragments = []
        self._opcode = -1
        self._tallies = {}

    def __dealloc__(self):
        free(self._slots)

    # ------------------------------------------------------------------------------------------ bindings

    def bind(self, str stream not None, StreamBinding binding not None):
        """Apply the updates of a stream to a book, while it is direct. Replaces an earlier binding of the stream."""
        self._tallies[stream.encode()] = StreamTally(binding)
        self._index_tallies()

    def unbind(self, str stream not None):
        """Remove the binding of a stream, if there is one."""
        self._tallies.pop(stream.encode(), None)
        self._index_tallies()

    def tally(self, str stream not None):
        """Return the `StreamTally` of a bound stream, or None."""
        return self._tallies.get(stream.encode())

    def lags_ns(self):
        """Return how much later than the first copy each of the last LAGS_KEPT redundant updates arrived."""
        cdef Py_ssize_t index
        cdef Py_ssize_t count = <Py_ssize_t>min(load_relaxed(&self._lag_count), <int64_t>LAGS_KEPT)
        return [load_relaxed(&self._lags[index]) for index in range(count)]

    cdef int _index_tallies(self) except -1:
        """Build the table that `_find` searches."""
        cdef Py_ssize_t count = 8, place = 0
        cdef StreamSlot* slots
        cdef StreamSlot* slot
        cdef bytes name
        while count < 2 * len(self._tallies):
            count *= 2
        slots = <StreamSlot*>malloc(count * sizeof(StreamSlot))
        if slots == NULL:
            free(self._slots)
            self._slots = NULL          # nothing is found, and everything takes the slow path
            self._slot_count = 0
            raise MemoryError()
        memset(slots, 0, count * sizeof(StreamSlot))
        for name, tally in self._tallies.items():
            place = hash_of_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) & (count - 1)
            while slots[place].name != NULL:
                place = (place + 1) & (count - 1)
            slot = &slots[place]
            slot.name = PyBytes_AS_STRING(name)
            slot.length = PyBytes_GET_SIZE(name)
            slot.hash = hash_of_name(slot.name, slot.length)
            slot.tally = <PyObject*>tally
        free(self._slots)
        self._slots = slots
        self._slot_count = count
        return 0

    cdef int _keep(self, bytearray buffer) except -1:
        """Take a new buffer."""
        self._buffer = buffer
        self._memory = PyByteArray_AS_STRING(buffer)
        self._size = PyByteArray_GET_SIZE(buffer)
        return 0

    cdef PyObject* _find(self, const char* payload, Py_ssize_t length) noexcept nogil:
        """Return the tally of the stream that a message begins with the name of, or NULL."""
        cdef const char* name = payload + STREAM_PREFIX_BYTES
        cdef const char* end
        cdef Py_ssize_t place, name_bytes
        cdef uint64_t hash
        if self._slot_count == 0 or length <= STREAM_PREFIX_BYTES:
            return NULL
        if memcmp(payload, b'{"stream":"', STREAM_PREFIX_BYTES) != 0:
            return NULL
        length -= STREAM_PREFIX_BYTES
        end = <const char*>memchr(name, c'"', min(length, STREAM_BYTES_LIMIT))
        if end == NULL:
            return NULL
        name_bytes = end - name
        hash = hash_of_name(name, name_bytes)
        place = hash & (self._slot_count - 1)
        while self._slots[place].name != NULL:
            if (self._slots[place].hash == hash and self._slots[place].length == name_bytes
                    and memcmp(self._slots[place].name, name, name_bytes) == 0):
                return self._slots[place].tally
            place = (place + 1) & (self._slot_count - 1)
        return NULL

    # ------------------------------------------------------------------------------------------ bytes in

    @property
    def is_between_frames(self):
        """Whether everything received so far has been consumed: the connection may end here."""
        return self._start == self._end

    def writable(self):
        """Return at least RECEIVE_BYTES of memory to receive into. Release it before the next call."""
        cdef Py_ssize_t held = self._end - self._start
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self._buffer)
        cdef bint is_oversized = size > BUFFER_BYTES_KEPT and held <= BUFFER_BYTES_KEPT // 8
        cdef char* memory
        if held == 0 and not is_oversized:
            self._start = self._end = 0
        elif is_oversized or size - self._end < RECEIVE_BYTES:
            if is_oversized or size - held < RECEIVE_BYTES:
                # Doubling: a long frame is copied twice.
                previous = self._buffer
                self._keep(bytearray(2 * held + 2 * RECEIVE_BYTES))
                memcpy(PyByteArray_AS_STRING(self._buffer), PyByteArray_AS_STRING(previous) + self._start, held)
            else:
                memory = PyByteArray_AS_STRING(self._buffer)
                memmove(memory, memory + self._start, held)
            self._start = 0
            self._end = held
        return memoryview(self._buffer)[self._end:]

    @property
    def failure(self):
        """Errno of the receive that failed in the loop, 0 for the end of the stream; None: none has failed."""
        return self._failure if self._has_failed else None

    @property
    def received_in_loop_ns(self):
        """When the loop last received, by the wall clock; None: never. What it left has arrived then."""
        return self._received_ns if self._received_ns != 0 else None

    @property
    def updates_in_loop(self):
        """Updates that the loop has applied, or counted as duplicates, without the GIL."""
        return load_relaxed(&self._updates)

    def received(self, Py_ssize_t count):
        """Report how many bytes were written to what `writable` returned."""
        if count < 0 or count > PyByteArray_GET_SIZE(self._buffer) - self._end:
            raise ValueError(f"{count} bytes were not written to what writable() returned")
        self._end += count

    # ------------------------------------------------------------------------------------------ events out

    def next_event(self, double now, int64_t received_time_ns):
        """Apply what can be applied, and return the next `FrameEvent`, or None: more bytes are needed.

        Args:
            now: noted as `StreamBinding.heard_at`.
            received_time_ns: the local receive time, passed to the books and returned in the event.

        Raises:
            FrameError: the server broke the protocol. The reader is of no more use.
        """
        try:
            return self._next_event(now, received_time_ns)
        finally:
            wake_touched(self)

    cdef object _next_event(self, double now, int64_t received_time_ns):
        cdef const uint8_t* p
        cdef uint8_t first
        cdef Py_ssize_t held, header_bytes
        cdef uint64_t length
        cdef PyObject* found
        while True:
            p = <const uint8_t*>PyByteArray_AS_STRING(self._buffer) + self._start
            held = self._end - self._start
            if held < 2:
                return None
            first = p[0]
            length = p[1]
            header_bytes = 2
            if length >= 126:
                if length >= 128:
                    raise FrameError(1002, "the server masked a frame")
                header_bytes = 4 if length == 126 else 10
                if held < header_bytes:
                    frames.check_first_byte(first, length)
                    return None
                length = long_length(p + 2, header_bytes - 2)
            if first != 0x81 or self._opcode >= 0:      # anything but an unfragmented text
                self._check_header(first, length)
            if length > <uint64_t>self._message_bytes_max:
                raise FrameError(
                    1009, f"a frame of {length} bytes is over the limit of {self._message_bytes_max}"
                )
            if <uint64_t>(held - header_bytes) < length:
                return None
            self._start += header_bytes + <Py_ssize_t>length
            if first != 0x81:
                event = self._take(
                    first, (<const char*>p)[header_bytes:header_bytes + <Py_ssize_t>length], received_time_ns)
            else:
                found = self._find(<const char*>p + header_bytes, <Py_ssize_t>length)
                if found == NULL:
                    event = text_event(
                        <const char*>p + header_bytes, <Py_ssize_t>length, None, None, None, received_time_ns)
                else:
                    event = take_update(
                        self, <StreamTally>found, <const char*>p + header_bytes, <Py_ssize_t>length,
                        now, received_time_ns,
                    )
            if event is not None:
                return event

    cdef int _check_header(self, uint8_t first, uint64_t length) except -1:
        """Refuse what may not come here: the order of fragments, and the size of all of them together."""
        cdef int opcode = frames.check_first_byte(first, length)
        if opcode >= 8:
            return 0
        if opcode == 0:
            if self._opcode < 0:
                raise FrameError(1002, "a continuation frame without a message to continue")
            if length > <uint64_t>(self._message_bytes_max - self._fragment_bytes):
                raise FrameError(
                    1009, f"a message of fragments is over the limit of {self._message_bytes_max} bytes"
                )
            if len(self._fragments) >= FRAGMENTS_MAX:
                raise FrameError(1009, f"a message of more than {FRAGMENTS_MAX} fragments")
        elif self._opcode >= 0:
            raise FrameError(1002, "a new message began inside a fragmented one")
        return 0

    cdef object _take(self, uint8_t first, bytes payload, int64_t received_time_ns):
        """Return the event that a frame is or completes, or None if it is a fragment."""
        cdef int opcode = first & 0x0F
        if opcode >= 8:
            if opcode == 8:
                frames.check_close(payload)
            return FrameEvent(opcode, payload, None, None, None, received_time_ns)
        if opcode != 0:
            self._opcode = opcode
        self._fragments.append(payload)
        self._fragment_bytes += PyBytes_GET_SIZE(payload)
        if not first & 0x80:
            return None
        event = FrameEvent(self._opcode, b"".join(self._fragments), None, None, None, received_time_ns)
        self._fragments.clear()
        self._fragment_bytes = 0
        self._opcode = -1
        return event


cdef inline uint64_t long_length(const uint8_t* p, Py_ssize_t count) noexcept nogil:
    """Return the number that these bytes are, the first one the most significant."""
    cdef uint64_t length = 0
    cdef Py_ssize_t place = 0
    while place < count:
        length = length << 8 | p[place]
        place += 1
    return length


cdef object text_event(
    const char* payload, Py_ssize_t length, object binding, object verdict, object error, int64_t received_time_ns
):
    return FrameEvent(1, payload[:length], binding, verdict, error, received_time_ns)


cdef inline void count_one(int64_t* number) noexcept nogil:
    """Add one to a number that only this thread writes, and others read."""
    store_relaxed(number, load_relaxed(number) + 1)


cdef inline void keep_lag(FrameReader reader, int64_t lag_ns) noexcept nogil:
    store_relaxed(&reader._lags[reader._lag_count % LAGS_KEPT], lag_ns)
    count_one(&reader._lag_count)


cdef bint is_plain_duplicate(FrameReader reader, StreamTally tally, const Place* place, double now) noexcept nogil:
    """Count a STALE update of a redundant market; return whether nothing more is to do."""
    cdef const Place* reached = &tally.binding.book._place
    if tally.binding.book._is_first_after_snapshot:
        return False
    if tally._stood_at_id != reached.last_update_id:
        tally._stood_at_id = reached.last_update_id
        tally._stale_since = now
    elif now - tally._stale_since >= DUPLICATES_S_MAX:
        return False
    if place.has_event_time and reached.has_event_time and place.event_time_ms > reached.event_time_ms:
        if tally._stale_at_id == reached.last_update_id:
            return False
        tally._stale_at_id = reached.last_update_id
    if (place.last_update_id == reached.last_update_id and reached.has_received_time
            and place.received_time_ns >= reached.received_time_ns):
        keep_lag(reader, place.received_time_ns - reached.received_time_ns)
    count_one(&tally._duplicates)
    count_one(&tally.binding._duplicates)
    return True


cdef inline void touch(FrameReader reader, StreamBinding binding) noexcept nogil:
    """A book has changed: note who waits for it. They are woken once, when all that arrived is applied.

    A plain read: the book's lock, which the update was committed under and a waiter reads under, gives the order.
    """
    if not binding._is_touched and (binding.book._has_news or binding.book._wake_address != NULL or (
            read_relaxed(&binding._waiting) | read_relaxed(&binding._listening)) != 0):
        binding._is_touched = True
        binding._next_touched = reader._touched
        reader._touched = <void*>binding


cdef void* wake_one(FrameReader reader, StreamBinding binding) noexcept nogil:
    cdef void* following = binding._next_touched
    binding._is_touched = False
    binding._next_touched = NULL
    if read_in_order(&binding._waiting) != 0:   # who counts itself in later reads the book later
        wake_word(&binding._change)
    wake_listeners(binding)
    if binding.book._has_news and wake_consumers(binding.book, True):
        reader.calls_inline = True
    published(binding.book)
    return following


cdef inline void wake_touched(FrameReader reader) noexcept nogil:
    """Wake who waits for the books that have changed."""
    cdef void* at = reader._touched
    reader._touched = NULL
    while at != NULL:
        at = wake_one(reader, <StreamBinding>at)


cdef object take_update(
    FrameReader reader, StreamTally tally, const char* payload, Py_ssize_t length, double now,
    int64_t received_time_ns,
):
    """Apply an update to its book, if it is direct; return None, or the event that needs a decision."""
    cdef StreamBinding binding = tally.binding
    cdef OrderBook book = binding.book
    cdef Place place
    cdef Cursor c
    cdef int verdict = GAP, judged = reader._judged
    reader._judged = -1
    if not binding.is_direct:
        return text_event(payload, length, binding, None, None, received_time_ns)
    if judged >= 0:                     # applied by the loop, which left the decision
        binding.is_direct = False
        return text_event(payload, length, binding, VERDICTS[judged], None, received_time_ns)
    place.has_event_time = place.has_transaction_time = False
    place.has_received_time = True
    place.received_time_ns = received_time_ns
    c.start = c.p = payload
    c.end = payload + length
    c.problem = NULL
    if length > MESSAGE_BYTES_LIMIT:
        fail(&c, b"longer than MESSAGE_BYTES_MAX")
    begin_writing(book)
    try:
        if not book._is_loaded:
            raise BookNotLoaded(book.market, Cause.NOT_LOADED)
        verdict = apply_message(book, &c, &place)
    except MalformedMessage as error:
        binding.is_direct = False
        return text_event(payload, length, binding, None, error, received_time_ns)
    finally:
        end_writing(book)
    store_double(&binding._heard_at, now)
    if binding.is_redundant:
        if verdict == APPLIED:
            count_one(&tally._firsts)
            keep_lag(reader, 0)
        elif verdict == STALE and is_plain_duplicate(reader, tally, &place, now):
            return None
    if verdict == APPLIED and not book._needs_attention:
        touch(reader, binding)
        return None
    if book._has_news:
        touch(reader, binding)
    published(book)
    binding.is_direct = False
    return text_event(payload, length, binding, VERDICTS[verdict], None, received_time_ns)
