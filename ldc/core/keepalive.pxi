# Pings, pongs and the pace of what is sent on one connection. ldc/book/pure/keepalive.py is the same in plain Python,
# and says why. The loop calls these functions without the GIL; the methods are for Python.
#
# Rule 1: decisions over (state, now): no clock, no socket. Times are seconds of the monotonic clock; infinity is never.

cdef enum:
    CONTROL_PAYLOAD_MAX = 125
    PACED_MESSAGES_MAX = 64             # the highest limit of messages a second that a venue row may have
    PING_NUMBER_BYTES = 8

cdef double PACE_WINDOW_S = limits.PACE_WINDOW_S

cdef enum Sendable:
    # The opcodes of RFC 6455, 5.2.
    SEND_NOTHING = 0
    SEND_REQUEST = 1                    # TEXT: it is the turn of a message that Python has
    SEND_PING = 9
    SEND_PONG = 10

cdef struct KeepAliveState:
    double ping_interval
    double ping_timeout
    double pong_late
    double pong_interval
    int pace_limit
    int64_t paced_count                 # messages sent; the last `pace_limit` of them stand in `paced_at`
    double paced_at[PACED_MESSAGES_MAX]
    double ping_due
    double pinged_at
    double pong_deadline                # infinity: no ping waits for its pong
    double pong_not_before
    double last_pong_at                 # -infinity: none has come
    double proven_at                    # -infinity: nothing is proven yet
    uint64_t ping_number
    LeaseTerms* lease                   # renewed by each proof; NULL: there is none
    int64_t unmatched_pongs
    int owed_length                     # of the payload of the last ping that is not answered; -1: none
    bint was_ping_last
    char owed[CONTROL_PAYLOAD_MAX]


cdef inline double pace_earliest(const KeepAliveState* k, double now) noexcept nogil:
    cdef double oldest
    if k.paced_count < k.pace_limit:
        return now
    oldest = k.paced_at[k.paced_count % k.pace_limit]
    return max(now, oldest + PACE_WINDOW_S)


cdef inline void pace_spend(KeepAliveState* k, double now) noexcept nogil:
    k.paced_at[k.paced_count % k.pace_limit] = now
    k.paced_count += 1


cdef inline double next_send(const KeepAliveState* k, double now, bint has_request) noexcept nogil:
    """Return when something is to be sent next: when it is due, and when the pace allows it."""
    cdef double due = now if has_request else INFINITY
    if k.owed_length >= 0:
        due = min(due, k.pong_not_before)
    if k.pong_deadline == INFINITY:
        due = min(due, k.ping_due)
    return max(due, pace_earliest(k, now))


cdef inline double keepalive_due(const KeepAliveState* k, double now, bint has_request) noexcept nogil:
    """Return when there is something to do next: to send, to find a pong late, or to find the link dead."""
    cdef double due = next_send(k, now, has_request), late_at
    if k.pong_deadline != INFINITY:
        late_at = k.pinged_at + k.pong_late
        due = min(due, k.pong_deadline)
        if late_at > now:
            due = min(due, late_at)
    return due


cdef Sendable take_sendable(KeepAliveState* k, double now, bint has_request) noexcept nogil:
    """Return what may be sent now. A ping or a pong counts as sent; its payload is `ping_number`, or `owed`."""
    if next_send(k, now, has_request) > now:
        return SEND_NOTHING
    # A request has its turn after each ping, however short the ping interval is.
    if k.pong_deadline == INFINITY and k.ping_due <= now and not (has_request and k.was_ping_last):
        k.was_ping_last = True
        k.ping_number += 1
        k.pinged_at = now
        k.pong_deadline = now + k.ping_timeout
        k.ping_due = now + k.ping_interval
        pace_spend(k, now)
        return SEND_PING
    if k.owed_length >= 0 and k.pong_not_before <= now:
        k.pong_not_before = now + k.pong_interval
        pace_spend(k, now)
        return SEND_PONG
    if has_request:
        k.was_ping_last = False
        return SEND_REQUEST
    return SEND_NOTHING


cdef inline void prove(KeepAliveState* k, double at) noexcept nogil:
    """All that the peer had sent at that time has arrived: note it, and renew the lease."""
    cdef int64_t proven_ns
    store_double(&k.proven_at, at)
    if k.lease != NULL:
        # From the monotonic clock to that of leases, which goes on while the machine sleeps.
        proven_ns = clock_exact() - (monotonic_ns() - <int64_t>(at * 1e9))
        if proven_ns > load_relaxed(&k.lease.proven_ns):    # of several connections the latest proof counts
            store_relaxed(&k.lease.proven_ns, proven_ns)


cdef inline void write_ping_number(uint64_t number, char* payload) noexcept nogil:
    cdef int place
    for place in range(PING_NUMBER_BYTES):
        payload[place] = <char>(number >> 8 * (PING_NUMBER_BYTES - 1 - place))


cdef inline void note_ping(KeepAliveState* k, const char* payload, int length) noexcept nogil:
    memcpy(k.owed, payload, length)
    k.owed_length = length


cdef bint note_pong(KeepAliveState* k, const char* payload, Py_ssize_t length, double now) noexcept nogil:
    """Note a pong; return whether it answers the ping that waits."""
    cdef char expected[PING_NUMBER_BYTES]
    write_ping_number(k.ping_number, expected)
    if k.pong_deadline == INFINITY or length != PING_NUMBER_BYTES or memcmp(payload, expected, PING_NUMBER_BYTES) != 0:
        k.unmatched_pongs += 1
        return False
    k.pong_deadline = INFINITY
    store_double(&k.last_pong_at, now)
    prove(k, k.pinged_at)
    return True


@cython.final
cdef class KeepAlive:
    """Pings, pongs and the pace of one connection: decisions over (state, now), no I/O.

    Drive it: `start` when the connection is open, `note_ping` and `note_pong` for what arrives, `next_message` while
    it returns something, again at `next_due`. Times are seconds of the monotonic clock.

    Thread-safety: none; one thread calls it. Other threads may look at the attributes.

    Args:
        ping_interval_s: between two pings.
        ping_timeout_s: how long a pong may take; then `is_dead`.
        messages_per_second: what the venue allows us to send, pings, pongs and requests together; 1 to 64.
        pong_late_s: a pong that takes longer makes the connection `is_late`.
        pong_interval_s: at most one pong in so long; it answers the last ping (RFC 6455, 5.5.3).
        lease: renewed by each proof; None: there is none.
    """

    cdef KeepAliveState state
    cdef Lease _lease                   # keeps `state.lease` alive

    def __cinit__(
        self, double ping_interval_s, double ping_timeout_s, int messages_per_second, *, double pong_late_s=1.5,
        double pong_interval_s=1.0, Lease lease=None,
    ):
        if not 1 <= messages_per_second <= PACED_MESSAGES_MAX:
            raise ValueError(f"messages_per_second is 1 to {PACED_MESSAGES_MAX}, not {messages_per_second}")
        memset(&self.state, 0, sizeof(self.state))
        self.state.ping_interval = ping_interval_s
        self.state.ping_timeout = ping_timeout_s
        self.state.pong_late = pong_late_s
        self.state.pong_interval = pong_interval_s
        self.state.pace_limit = messages_per_second
        self.state.ping_due = self.state.pong_deadline = INFINITY
        self.state.last_pong_at = self.state.proven_at = self.state.pong_not_before = -INFINITY
        self.state.owed_length = -1
        self._lease = lease
        self.state.lease = &lease._terms if lease is not None else NULL

    @property
    def last_pong_at(self):
        """When the last pong came that answered a ping; -infinity: none has."""
        return load_double(&self.state.last_pong_at)

    @property
    def proven_at(self):
        """When the ping was sent that was answered last, or the connection opened: up to then all has arrived."""
        return load_double(&self.state.proven_at)

    @property
    def unmatched_pongs(self):
        """Pongs that answered no ping of ours."""
        return self.state.unmatched_pongs

    @property
    def waits_for_pong(self):
        """Whether a ping waits for its pong."""
        return self.state.pong_deadline != INFINITY

    def start(self, double now):
        """The connection is open: the handshake has just been answered."""
        prove(&self.state, now)
        self.state.ping_due = now + self.state.ping_interval

    def next_due(self, double now, bint has_request=False):
        """Return when there is something to do next; `has_request`: a message of the caller waits to be sent."""
        return keepalive_due(&self.state, now, has_request)

    def next_message(self, double now, bint has_request=False):
        """Return (opcode, payload) of what may be sent now, or None: PING, PONG, or TEXT with b"" for a request.

        A ping or a pong counts as sent. A request is the caller's: it sends its own text and calls `spend`.
        """
        cdef char number[PING_NUMBER_BYTES]
        cdef Sendable what = take_sendable(&self.state, now, has_request)
        if what == SEND_PING:
            write_ping_number(self.state.ping_number, number)
            return SEND_PING, number[:PING_NUMBER_BYTES]
        if what == SEND_PONG:
            payload = self.state.owed[:self.state.owed_length]
            self.state.owed_length = -1
            return SEND_PONG, payload
        return (SEND_REQUEST, b"") if what == SEND_REQUEST else None

    def spend(self, double now):
        """Count a message that was sent now."""
        pace_spend(&self.state, now)

    def note_ping(self, bytes payload not None):
        """The peer has pinged. Only the last ping is answered, so a flood of them costs nothing."""
        if PyBytes_GET_SIZE(payload) > CONTROL_PAYLOAD_MAX:
            raise ValueError(f"a ping carries at most {CONTROL_PAYLOAD_MAX} bytes, not {len(payload)}")
        note_ping(&self.state, PyBytes_AS_STRING(payload), <int>PyBytes_GET_SIZE(payload))

    def note_pong(self, bytes payload not None, double now):
        """A pong has come; return whether it answers the ping that waits. Any other is counted and proves nothing."""
        return note_pong(&self.state, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), now)

    def is_dead(self, double now):
        """Whether a ping was not answered in time."""
        return now >= self.state.pong_deadline

    def is_late(self, double now):
        """Whether a ping has waited for its pong for `pong_late_s`."""
        return self.state.pong_deadline != INFINITY and now - self.state.pinged_at >= self.state.pong_late

    def extend_deadline(self, double until):
        """A pong may come until then: what has arrived is not read completely."""
        if self.state.pong_deadline != INFINITY:
            self.state.pong_deadline = max(self.state.pong_deadline, until)
