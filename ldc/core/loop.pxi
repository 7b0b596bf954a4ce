# The steady state of a feed thread without the GIL: wait, receive, cut frames, apply, wake, ping, wait again.
#
# Rule 1: `NativeLoop` looks like a selector. `select` returns when there is something for Python: a descriptor without
#         a frame reader is ready, a frame needs a decision, a receive failed, there is room to write, a pong is late or
#         missing, the machine has slept, or the time is over.
# Rule 2: hand-over. What needs a decision is left in the reader's buffer, uncounted, and Python reads it again by
#         `next_event`: one place decides, and no Python object is made here. One exception: an update that was applied
#         and left its book needing attention. `_judged` tells `next_event` its verdict.
# Rule 3: ownership. The thread is either in Python or in `select`, never in both. What C reaches (readers, keep-alives,
#         bindings, books, TLS objects, descriptors) is kept alive by Python references that only this thread changes.
#         So nothing is counted, no table is locked, and nothing is freed or closed under it.
# Rule 4: descriptors that Python reads come first. Work that was posted before a download began is done before the
#         frames that arrived after it.
#
# It waits with poll: a feed has a handful of descriptors, for which it is as fast as epoll, it is everywhere, and it
# reports a descriptor that somebody closed instead of forgetting it.

cdef extern from *:
    """
    #if defined(_WIN32)
    #define LDC_HAS_LOOP 0
    typedef struct { int fd; short events; short revents; } ldc_pollfd;
    #define ldc_poll(fds, count, timeout_ns) ((void)(fds), (void)(count), (void)(timeout_ns), -1)
    #define ldc_receive(fd, room, size) ((void)(fd), (void)(room), (void)(size), -1)
    #define ldc_send(fd, data, size) ((void)(fd), (void)(data), (void)(size), -1)
    static int64_t ldc_suspended_ns(void) { return 0; }
    #define POLLIN 1
    #define POLLOUT 4
    #else
    #define LDC_HAS_LOOP 1
    #include <poll.h>
    #include <sys/socket.h>
    typedef struct pollfd ldc_pollfd;
    static int ldc_poll(ldc_pollfd *fds, int count, int64_t timeout_ns) {
    #if defined(__linux__)
        struct timespec t = {(time_t)(timeout_ns / 1000000000LL), (long)(timeout_ns % 1000000000LL)};
        return (int)syscall(SYS_ppoll, fds, count, timeout_ns >= 0 ? &t : NULL, NULL, 0);
    #else
        int64_t ms = (timeout_ns + 999999) / 1000000;
        return poll(fds, (nfds_t)count, timeout_ns < 0 ? -1 : ms > INT_MAX ? INT_MAX : (int)ms);
    #endif
    }
    /* > 0 bytes, 0: the end, -1: nothing there now, < -1: minus errno. */
    static Py_ssize_t ldc_receive(int fd, char *room, Py_ssize_t size) {
        Py_ssize_t count = recv(fd, room, (size_t)size, MSG_DONTWAIT);
        if (count >= 0)
            return count;
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : errno == 1 ? -EIO : -errno;
    }
    static Py_ssize_t ldc_send(int fd, const char *data, Py_ssize_t size) {
    #if defined(MSG_NOSIGNAL)
        Py_ssize_t count = send(fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    #else
        Py_ssize_t count = send(fd, data, (size_t)size, MSG_DONTWAIT);
    #endif
        if (count >= 0)
            return count;
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : errno == 1 ? -EIO : -errno;
    }
    /* How long the machine has been suspended since some moment, ns: the monotonic clock stands still meanwhile. */
    static int64_t ldc_suspended_ns(void) {
    #if defined(CLOCK_BOOTTIME)
        struct timespec t;
        clock_gettime(CLOCK_BOOTTIME, &t);
        return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec - ldc_monotonic_ns();
    #else
        return 0;
    #endif
    }
    #endif
    """
    const bint HAS_LOOP "LDC_HAS_LOOP"
    ctypedef struct PollFd "ldc_pollfd":
        int fd
        short events
        short revents
    int poll_all "ldc_poll"(PollFd* fds, int count, int64_t timeout_ns) noexcept nogil
    Py_ssize_t receive_bytes "ldc_receive"(int fd, char* room, Py_ssize_t size) noexcept nogil
    Py_ssize_t send_bytes "ldc_send"(int fd, const char* data, Py_ssize_t size) noexcept nogil
    int64_t suspended_ns "ldc_suspended_ns"() noexcept nogil
    short POLLIN, POLLOUT

cdef enum:
    CHANNELS_MAX = 64           # descriptors of one loop: connections, their successors, the mailbox
    RECEIVES_PER_TURN = 16      # of one connection before the others get their turn
    CONTROL_FRAME_MAX = 6 + CONTROL_PAYLOAD_MAX
    READABLE_EVENT = 1          # selectors.EVENT_READ
    WRITABLE_EVENT = 2          # selectors.EVENT_WRITE
    CALLS_EVENT = 4             # consumers that run in this thread have something to take

cdef int64_t SLEPT_NS_MAX = 5 * NS_PER_S
# A machine that was suspended for longer has lost what was sent meanwhile: Python closes the connections.

cdef double UNREAD_S = 1.0
# A pong may still come so long after a turn that left something unread.

cdef enum Received:
    NOTHING_THERE
    ALL_OF_IT
    PERHAPS_MORE
    RECEIVE_FAILED              # or there is no room: Python receives, and finds out

cdef struct Channel:
    void* key                   # borrowed; its LoopKey
    void* reader                # borrowed; NULL: Python reads this descriptor
    KeepAliveState* keepalive
    Tls* tls                    # NULL: a plain socket
    int fd
    int events                  # for Python, of this turn
    bint sends_here             # Python has nothing to send: pings and pongs are sent here
    bint has_more               # bytes may wait where poll does not see them
    bint is_late_reported
    int unsent_length           # of a control frame that the socket took a part of; Python sends the rest
    char unsent[CONTROL_FRAME_MAX]


# ------------------------------------------------------------------------------------------------ frames without Python

cdef inline bint take_plain(
    FrameReader reader, StreamTally tally, StreamBinding binding, OrderBook book, const char* payload,
    Py_ssize_t length, double now, int64_t received_time_ns
) noexcept nogil:
    """Apply an update of a direct binding; return whether that was all there is to do about it."""
    cdef Place place
    cdef Cursor c
    cdef int verdict
    if not binding.is_direct or not book._is_loaded or length > MESSAGE_BYTES_LIMIT:
        return False
    place.has_event_time = place.has_transaction_time = False
    place.has_received_time = True
    place.received_time_ns = received_time_ns
    c.start = c.p = payload
    c.end = payload + length
    c.problem = NULL
    if exchange(&book._writers, 1) != 0:
        return False                    # somebody writes to this book who must not: Python raises
    verdict = apply_plain(book, &c, &place, binding.is_redundant)
    exchange(&book._writers, 0)
    if verdict < 0:
        return False
    store_double(&binding._heard_at, now)
    count_one(&reader._updates)
    if binding.is_redundant:
        if verdict == APPLIED:
            count_one(&tally._firsts)
            keep_lag(reader, 0)
        elif is_plain_duplicate(reader, tally, &place, now):
            return True
    if verdict != APPLIED or book._needs_attention:
        published(book)
        reader._judged = verdict
        if book._has_news:
            touch(reader, binding)
        return False
    touch(reader, binding)
    return True


cdef bint take_found(
    FrameReader reader, PyObject* tally, const char* payload, Py_ssize_t length, double now, int64_t received_time_ns
) noexcept nogil:
    return take_plain(
        reader, <StreamTally>tally, (<StreamTally>tally).binding, (<StreamTally>tally).binding.book,
        payload, length, now, received_time_ns)


cdef bint take_control(
    KeepAliveState* keepalive, uint8_t first, const char* payload, int length, double now
) noexcept nogil:
    """Note a ping or a pong; return whether that was all."""
    if keepalive == NULL:
        return False
    if first == 0x89:
        note_ping(keepalive, payload, length)
        return True
    if first == 0x8A:
        note_pong(keepalive, payload, length, now)
        return True
    return False


cdef bint take_frames(
    FrameReader reader, KeepAliveState* keepalive, double now, int64_t received_time_ns
) noexcept nogil:
    """Take the frames that have arrived; False: the one at `_start` is for `next_event`."""
    cdef const uint8_t* p
    cdef Py_ssize_t held, header_bytes
    cdef uint64_t length
    cdef PyObject* found
    while True:
        p = <const uint8_t*>reader._memory + reader._start
        held = reader._end - reader._start
        if held < 2:
            return True
        length = p[1]
        header_bytes = 2
        if p[0] != 0x81:
            if p[0] & 0x78 != 0x08 or length > CONTROL_PAYLOAD_MAX:     # no control frame, or one that may not be
                return False
            if <uint64_t>(held - 2) < length:
                return True
            if not take_control(keepalive, p[0], <const char*>p + 2, <int>length, now):
                return False
            reader._start += 2 + <Py_ssize_t>length
            continue
        if reader._opcode >= 0 or length >= 128:
            return False
        if length >= 126:
            header_bytes = 4 if length == 126 else 10
            if held < header_bytes:
                return True
            length = long_length(p + 2, header_bytes - 2)
        if length > <uint64_t>reader._message_bytes_max:
            return False
        if <uint64_t>(held - header_bytes) < length:
            return True
        found = reader._find(<const char*>p + header_bytes, <Py_ssize_t>length)
        if found == NULL:
            return False
        if not take_found(reader, found, <const char*>p + header_bytes, <Py_ssize_t>length, now, received_time_ns):
            return False
        reader._start += header_bytes + <Py_ssize_t>length


# ------------------------------------------------------------------------------------------------ input and output

cdef Received receive_once(FrameReader reader, Tls* tls, int fd) noexcept nogil:
    cdef Py_ssize_t held = reader._end - reader._start, room, count
    if reader._size > BUFFER_BYTES_KEPT and held <= BUFFER_BYTES_KEPT // 8:
        return RECEIVE_FAILED           # `writable` gives the large buffer back
    if held == 0:
        reader._start = reader._end = 0
    elif reader._size - reader._end < RECEIVE_BYTES:
        if reader._size - held < RECEIVE_BYTES:
            return RECEIVE_FAILED       # `writable` makes a larger one
        memmove(reader._memory, reader._memory + reader._start, held)
        reader._start = 0
        reader._end = held
    room = reader._size - reader._end
    if tls != NULL:
        count = tls_read(tls, reader._memory + reader._end, room)
    else:
        count = receive_bytes(fd, reader._memory + reader._end, room)
    if count == -1 or (tls != NULL and count == TLS_WANT_WRITE):
        return NOTHING_THERE
    if count <= 0:
        if tls == NULL or count == 0:
            # A second receive would say something else: after a reset, the end.
            reader._failure = <int>-count
            reader._has_failed = True
        return RECEIVE_FAILED
    reader._end += count
    if tls != NULL:
        return PERHAPS_MORE if tls_has_pending(tls) else ALL_OF_IT
    return PERHAPS_MORE if count == room else ALL_OF_IT


cdef bint serve(Channel* channel, FrameReader reader) noexcept nogil:
    """Take what a connection has received; return whether Python is needed."""
    cdef int turn
    cdef Received status = NOTHING_THERE
    cdef bint is_done = True
    for turn in range(RECEIVES_PER_TURN):
        status = receive_once(reader, channel.tls, channel.fd)
        if status == NOTHING_THERE or status == RECEIVE_FAILED:
            break
        reader._received_ns = realtime_ns()
        is_done = take_frames(reader, channel.keepalive, monotonic_ns() * 1e-9, reader._received_ns)
        wake_touched(reader)
        if not is_done or status == ALL_OF_IT:
            break
    else:
        # The pong may be in what is not read yet. A peer that sends more than we read is not dead.
        if channel.keepalive != NULL and channel.keepalive.pong_deadline != INFINITY:
            channel.keepalive.pong_deadline = max(channel.keepalive.pong_deadline, monotonic_ns() * 1e-9 + UNREAD_S)
    channel.has_more = status == PERHAPS_MORE
    return not is_done or status == RECEIVE_FAILED


cdef bint serve_channel(Channel* channel) noexcept nogil:
    cdef bint is_for_python = serve(channel, <FrameReader>channel.reader)
    if (<FrameReader>channel.reader).calls_inline:
        (<FrameReader>channel.reader).calls_inline = False
        channel.events |= CALLS_EVENT
    return is_for_python


cdef bint send_control(Channel* channel, int opcode, const char* payload, int length, uint32_t mask) noexcept nogil:
    """Send a ping or a pong; False: the socket did not take all of it, and the rest is Python's to send."""
    cdef char* frame = channel.unsent
    cdef Py_ssize_t sent
    cdef int place, size = 6 + length
    frame[0] = <char>(0x80 | opcode)
    frame[1] = <char>(0x80 | length)
    for place in range(4):
        frame[2 + place] = <char>(mask >> 8 * place)
    for place in range(length):
        frame[6 + place] = payload[place] ^ frame[2 + (place & 3)]
    sent = tls_write(channel.tls, frame, size) if channel.tls != NULL else send_bytes(channel.fd, frame, size)
    if sent == size:
        return True
    # What failed for good will fail again when Python sends it, and that knows what to say.
    sent = max(sent, 0)
    memmove(frame, frame + sent, size - sent)
    channel.unsent_length = size - <int>sent
    return False


cdef bint keep_alive(Channel* channel, double now, uint64_t* randomness) noexcept nogil:
    """Send the pings and pongs that are due; return whether Python is needed."""
    cdef KeepAliveState* k = channel.keepalive
    cdef char number[PING_NUMBER_BYTES]
    cdef Sendable what
    if k.pong_deadline == INFINITY:
        channel.is_late_reported = False
    elif now >= k.pong_deadline:
        return True
    elif now - k.pinged_at >= k.pong_late and not channel.is_late_reported:
        channel.is_late_reported = True
        return True
    if not channel.sends_here:
        return False
    while True:
        what = take_sendable(k, now, False)
        if what == SEND_NOTHING:
            return False
        randomness[0] ^= randomness[0] << 13
        randomness[0] ^= randomness[0] >> 7
        randomness[0] ^= randomness[0] << 17
        if what == SEND_PING:
            write_ping_number(k.ping_number, number)
            if not send_control(channel, SEND_PING, number, PING_NUMBER_BYTES, <uint32_t>(randomness[0] >> 16)):
                return True
        else:
            if not send_control(channel, SEND_PONG, k.owed, k.owed_length, <uint32_t>(randomness[0] >> 16)):
                k.owed_length = -1
                return True
            k.owed_length = -1


cdef inline double channel_due(const Channel* channel, double now) noexcept nogil:
    """Return when a connection needs care next."""
    cdef const KeepAliveState* k = channel.keepalive
    cdef double late_at
    if channel.sends_here:
        if channel.is_late_reported:
            return min(k.pong_deadline, next_send(k, now, False))
        return keepalive_due(k, now, False)
    if k.pong_deadline == INFINITY:
        return INFINITY
    late_at = k.pinged_at + k.pong_late
    return k.pong_deadline if channel.is_late_reported else min(k.pong_deadline, late_at)


# ------------------------------------------------------------------------------------------------------------- the loop

@cython.final
cdef class LoopKey:
    """What `NativeLoop.select` returns, as selectors.SelectorKey."""

    cdef Channel channel
    cdef readonly object fileobj
    cdef readonly object data
    cdef readonly int events
    cdef object _reader                 # keeps alive what `channel` points to
    cdef object _keepalive
    cdef object _tls


@cython.final
cdef class NativeLoop:
    """A selector that serves bound and direct streams by itself, without the GIL.

    What `register` gets as `served` has the attributes `reader` (FrameReader), `keepalive` (KeepAlive) and `tls_socket`
    (TlsSocket, or None for a plain socket). None: Python reads that descriptor.

    Thread-safety: none; it belongs to the feed's thread. `is_in_c` and the counters may be looked at by others.

    Raises OSError where the system has no poll (Windows).
    """

    cdef dict _keys                     # file object -> LoopKey
    cdef Channel* _channels[CHANNELS_MAX]
    cdef PollFd _fds[CHANNELS_MAX]
    cdef int _count
    cdef int _is_leaving                # set by another thread: `select` returns at once from now on
    cdef int64_t _slept_ns
    cdef uint64_t _randomness
    cdef public bint spins              # never sleep: a processor for this thread alone
    cdef readonly bint is_in_c
    cdef readonly int64_t turns         # waits that ended, in C
    cdef readonly int64_t returns       # to Python

    def __cinit__(self):
        if not HAS_LOOP:
            raise OSError("this system has no poll")
        self._keys = {}
        self._slept_ns = suspended_ns()
        self._randomness = int.from_bytes(os_urandom(8), "little") | 1

    def register(self, fileobj, int events, data=None, served=None):
        """Wait for a descriptor as well. Raises ValueError if there are too many, or it is registered already."""
        cdef LoopKey key
        if self._count >= CHANNELS_MAX:
            raise ValueError(f"a loop waits for at most {CHANNELS_MAX} descriptors")
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        key = LoopKey()
        key.fileobj = fileobj
        key.data = data
        key.events = events
        key.channel.fd = fileobj.fileno()
        key.channel.key = <void*>key
        if served is not None:
            key._reader = <FrameReader?>served.reader
            key._keepalive = <KeepAlive?>served.keepalive
            key._tls = served.tls_socket
            key.channel.reader = <void*>key._reader
            key.channel.keepalive = &(<KeepAlive>key._keepalive).state
            key.channel.tls = NULL if key._tls is None else &(<TlsSocket?>key._tls)._tls
        self._keys[fileobj] = key
        self._index()
        return key

    def modify(self, fileobj, int events, data=None):
        """Wait for other events of a descriptor; `data` stays what it was registered with."""
        cdef LoopKey key = self._keys[fileobj]
        key.events = events
        self._index()
        return key

    def unregister(self, fileobj):
        """Forget a descriptor; before it is closed."""
        key = self._keys.pop(fileobj)
        self._index()
        return key

    def get_key(self, fileobj):
        """Return the key of a registered descriptor; KeyError if there is none."""
        return self._keys[fileobj]

    def close(self):
        """Forget everything."""
        self._keys.clear()
        self._index()

    cdef int _index(self) except -1:
        cdef LoopKey key
        self._count = 0
        for key in self._keys.values():
            self._channels[self._count] = &key.channel
            self._fds[self._count].fd = key.channel.fd
            self._fds[self._count].events = (POLLIN if key.events & READABLE_EVENT else 0) | (
                POLLOUT if key.events & WRITABLE_EVENT else 0)
            self._count += 1
        return 0

    def set_sends_here(self, fileobj, bint sends_here):
        """Say whether pings and pongs of a connection are sent here: while Python has nothing to send on it."""
        cdef LoopKey key = self._keys[fileobj]
        key.channel.sends_here = sends_here

    def take_unsent(self, fileobj):
        """Return what the socket did not take of a ping or a pong, mostly b"", and forget it. The caller sends it."""
        cdef LoopKey key = self._keys[fileobj]
        unsent = key.channel.unsent[:key.channel.unsent_length]
        key.channel.unsent_length = 0
        return unsent

    def leave(self):
        """Let `select` return at once from now on; wake it by a registered descriptor. From any thread."""
        exchange(&self._is_leaving, 1)

    def select(self, timeout=None):
        """Serve until there is something for Python, or `timeout` seconds are over; return [(key, events)]."""
        cdef int64_t deadline = -1 if timeout is None else monotonic_ns() + ns_of(timeout)
        cdef int ready
        self.is_in_c = True
        with nogil:
            ready = self._serve_until(deadline)
        self.is_in_c = False
        self.returns += 1
        found = []
        if ready:
            for index in range(self._count):
                if self._channels[index].events:
                    found.append((<LoopKey>self._channels[index].key, self._channels[index].events))
        return found

    cdef int _serve_until(self, int64_t deadline) noexcept nogil:
        """Return how many channels have something for Python."""
        cdef int64_t now_ns, wait_ns
        cdef double due, now
        cdef int index, ready
        while True:
            now_ns = monotonic_ns()
            now = now_ns * 1e-9
            due = INFINITY
            wait_ns = -1 if deadline < 0 else max(<int64_t>0, deadline - now_ns)
            for index in range(self._count):
                self._channels[index].events = 0
                if self._channels[index].has_more:
                    wait_ns = 0
                if self._channels[index].keepalive != NULL:
                    due = min(due, channel_due(self._channels[index], now))
            if due != INFINITY and (wait_ns < 0 or due - now < wait_ns * 1e-9):
                wait_ns = ns_of(due - now)
            if self.spins or read_relaxed(&self._is_leaving):
                wait_ns = 0
            if poll_all(self._fds, self._count, wait_ns) < 0:
                for index in range(self._count):    # EINTR, or a descriptor that is none: its owner finds out
                    self._fds[index].revents = 0
            self.turns += 1
            ready = self._serve_ready()
            if ready or read_relaxed(&self._is_leaving):
                return ready
            if deadline >= 0 and monotonic_ns() >= deadline:
                return 0
            if self._has_slept():
                return 0

    cdef int _serve_ready(self) noexcept nogil:
        cdef Channel* channel
        cdef double now
        cdef int index, ready = 0
        for index in range(self._count):            # rule 4
            channel = self._channels[index]
            if channel.reader == NULL and self._fds[index].revents:
                channel.events = self._events(index)
                ready += 1
        if ready:
            return ready
        for index in range(self._count):
            channel = self._channels[index]
            if channel.reader == NULL:
                continue
            if self._fds[index].revents & ~POLLOUT or channel.has_more:
                if serve_channel(channel):
                    channel.events |= READABLE_EVENT
            if self._fds[index].revents & POLLOUT:
                channel.events |= WRITABLE_EVENT
        now = monotonic_ns() * 1e-9
        for index in range(self._count):            # after reading: a pong that waited for us is a pong in time
            channel = self._channels[index]
            if channel.reader != NULL and keep_alive(channel, now, &self._randomness):
                channel.events |= READABLE_EVENT
            if channel.events:
                ready += 1
        return ready

    cdef int _events(self, int index) noexcept nogil:
        return (READABLE_EVENT if self._fds[index].revents & ~POLLOUT else 0) | (
            WRITABLE_EVENT if self._fds[index].revents & POLLOUT else 0)

    cdef bint _has_slept(self) noexcept nogil:
        cdef int64_t slept = suspended_ns()
        if slept - self._slept_ns > SLEPT_NS_MAX:
            self._slept_ns = slept
            return True
        self._slept_ns = max(self._slept_ns, slept)
        return False
