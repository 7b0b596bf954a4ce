# Several shared books at once: which of them has news, and a wait for news of any. A stream of updates is made of it.
#
# Rule 1: what counts as seen is what was there before the look. What comes during a look is found by the next one.
# Rule 2: to find that nothing has happened costs no Python object and, while the heartbeats are in time, no call of
#         the system.
# Rule 3: a wait sleeps on all books at once where the system can do that (Linux 5.16, up to 128 books). It polls
#         elsewhere.

cdef extern from *:
    """
    #if defined(__linux__) && !defined(__alpha__)
    #include <sys/syscall.h>
    #define LDC_FUTEX_WAITV 449
    #define LDC_FUTEX_32 2
    struct ldc_futex_waitv { uint64_t value; uint64_t address; uint32_t flags; uint32_t reserved; };
    static void ldc_expect_word(struct ldc_futex_waitv *one, const uint32_t *word, uint32_t seen) {
        one->value = seen;
        one->address = (uint64_t)(uintptr_t)word;
        one->flags = LDC_FUTEX_32;
        one->reserved = 0;
    }
    /* Sleep until one of the words is not as expected. 0: this system cannot; then nobody has slept. */
    static int ldc_wait_words(struct ldc_futex_waitv *words, unsigned count, int64_t end_ns) {
        struct timespec t = {(time_t)(end_ns / 1000000000LL), (long)(end_ns % 1000000000LL)};
        if (syscall(LDC_FUTEX_WAITV, words, count, 0, &t, CLOCK_MONOTONIC) >= 0)
            return 1;
        return errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR;
    }
    #else
    struct ldc_futex_waitv { uint64_t value; };
    #define ldc_expect_word(one, word, seen) ((void)(one), (void)(word), (void)(seen))
    #define ldc_wait_words(words, count, end_ns) ((void)(words), (void)(count), (void)(end_ns), 0)
    #endif
    """
    ctypedef struct WaitedWord "struct ldc_futex_waitv":
        pass
    void expect_word "ldc_expect_word"(WaitedWord* one, const uint32_t* word, uint32_t seen) noexcept nogil
    bint wait_words "ldc_wait_words"(WaitedWord* words, unsigned int count, int64_t end_ns) noexcept nogil

cdef enum:
    WAITED_WORDS_MAX = 128      # FUTEX_WAITV_MAX of Linux
    LOOKS_MAX = 4               # at a reader that has another attachment after each

cdef struct Seen:
    # What was seen of a reader last.
    uint64_t number             # of the copy
    int liveness                # what a readable copy was worth: READABLE, TOO_OLD, FEEDER_GONE
    bint has_ended
    bint is_outdated            # look again, whatever the memory says


cdef inline bint has_moved(const SharedHead* head, const Seen* seen) noexcept nogil:
    """Whether another copy was published, or the book was withdrawn."""
    return shared_load(&head.latest) != seen.number or (shared_load_u32(&head.has_ended) != 0) != seen.has_ended


@cython.final
cdef class RegionWatch:
    """What was seen of several readers: finds those with news, and waits for news of any of them.

    Thread-safety: any thread may wait; one at a time calls the other methods. Cost: some ns a reader to find that there
    is nothing; with `is_thorough` some 100 ns, and a system call while its heartbeat is late.
    """

    cdef list _readers
    cdef list _attachments              # as they were seen; None: none
    cdef Seen* _seen
    cdef Py_ssize_t _room

    def __cinit__(self):
        self._readers = []
        self._attachments = []

    def __dealloc__(self):
        free(self._seen)

    def __len__(self):
        return len(self._readers)

    def add(self, SharedReader reader not None):
        """Watch one more reader, which has news at first."""
        cdef Seen* larger
        with cython.critical_section(self):
            if len(self._readers) == self._room:
                larger = <Seen*>realloc(self._seen, (2 * self._room + 8) * sizeof(Seen))
                if larger == NULL:
                    raise MemoryError()
                self._seen = larger
                self._room = 2 * self._room + 8
            memset(&self._seen[len(self._readers)], 0, sizeof(Seen))
            self._seen[len(self._readers)].is_outdated = True
            self._readers.append(reader)
            self._attachments.append(None)

    def first_changed(self, Py_ssize_t start, bint is_thorough):
        """Return the place of the first reader from `start` on, and round, that has news; -1: none has.

        News are another copy, a withdrawal, and another attachment of the reader. `is_thorough`: also that the feeder
        has gone, or that the book has become too old, or is so no more.
        """
        cdef Py_ssize_t offset, place, count, found = -1
        cdef SharedTaken taken
        cdef SharedReader reader
        cdef Attachment at
        cdef Seen* seen
        with cython.critical_section(self):
            count = len(self._readers)
            for offset in range(count):
                place = (start + offset) % count
                seen = &self._seen[place]
                at = self._attachments[place]
                reader = self._readers[place]
                if seen.is_outdated or reader._attached() is not at:
                    found = place
                elif at is None:
                    continue
                elif has_moved(shared_head_of(&at._region), seen):
                    found = place
                elif is_thorough:
                    if seen.liveness != attachment_state(at, &taken, SHARED_READABLE, reader._max_age_ns):
                        found = place
                if found >= 0:
                    break
        return found

    def expect_feeder(self):
        """Look again at each reader that has no feeder, or one whose heartbeat is late: there may be another one."""
        cdef Py_ssize_t place
        cdef SharedTaken taken
        cdef SharedReader reader
        cdef Attachment at
        with cython.critical_section(self):
            for place in range(len(self._readers)):
                at = self._attachments[place]
                reader = self._readers[place]
                if at is None or self._seen[place].liveness == SHARED_FEEDER_GONE:
                    self._seen[place].is_outdated = True
                    continue
                taken_open(&taken)
                attachment_state(at, &taken, SHARED_READABLE, reader._max_age_ns)
                self._seen[place].is_outdated = self._seen[place].is_outdated or taken.is_late

    def look(self, Py_ssize_t place):
        """Return what a reader says now, all of one copy, and count it as seen; None: look again.

        (cause or None, generation, exchange, number of the copy, epoch, last update id, event time, transaction time,
        received time, price scale, quantity scale, bid horizon, ask horizon); None for what is not known.
        """
        cdef SharedReader reader
        cdef Attachment at = None
        cdef SharedTaken taken
        cdef SharedView view
        cdef Seen seen
        cdef const SharedHead* head
        cdef int status = SHARED_BUSY, attempt
        with cython.critical_section(self):
            reader = self._readers[place]
        for attempt in range(LOOKS_MAX):
            at = reader._attached()
            memset(&seen, 0, sizeof(seen))
            if at is not None:
                head = shared_head_of(&at._region)
                seen.number = shared_load(&head.latest)
                seen.has_ended = shared_load_u32(&head.has_ended) != 0
                seen.liveness = attachment_state(at, &taken, SHARED_READABLE, reader._max_age_ns)
            memset(&view, 0, sizeof(view))
            status = reader._look(&view)
            if reader._attached() is at:
                break
            status = SHARED_BUSY        # it has found the next feeder, or another thread has
        if at is None:
            memset(&view, 0, sizeof(view))
        if view.flags & IS_LOADED:
            seen.number = view.sequence // 2
        seen.is_outdated = status == SHARED_BUSY
        with cython.critical_section(self):
            self._attachments[place] = at
            self._seen[place] = seen
        if status == SHARED_BUSY:
            return None
        return (
            shared_cause(status, &view),
            at.generation if at is not None else None,
            at.exchange if at is not None else "",
            seen.number,
            view.epoch,
            view.last_update_id if view.flags & IS_LOADED else None,
            view.event_time_ms if view.flags & HAS_EVENT_TIME else None,
            view.transaction_time_ms if view.flags & HAS_TRANSACTION_TIME else None,
            view.received_time_ns if view.flags & HAS_RECEIVED_TIME else None,
            view.price_scale,
            view.quantity_scale,
            view.bid_horizon if view.flags & HAS_BID_HORIZON else None,
            view.ask_horizon if view.flags & HAS_ASK_HORIZON else None,
        )

    def wait(self, double timeout_s):
        """Sleep without the GIL until a reader has another copy or is withdrawn, at most so long. May return early."""
        cdef int64_t end = monotonic_ns() + ns_of(timeout_s)
        cdef list kept = []             # keeps the memory mapped
        cdef Py_ssize_t place, count = 0
        cdef const SharedHead** heads
        cdef uint64_t** waiters
        cdef Seen* seen
        cdef Attachment at
        with cython.critical_section(self):
            heads = <const SharedHead**>malloc((len(self._readers) + 1) * sizeof(void*))
            waiters = <uint64_t**>malloc((len(self._readers) + 1) * sizeof(void*))
            seen = <Seen*>malloc((len(self._readers) + 1) * sizeof(Seen))
            if heads != NULL and waiters != NULL and seen != NULL:
                for place in range(len(self._readers)):
                    at = self._attachments[place]
                    if at is None or self._seen[place].liveness == SHARED_FEEDER_GONE:
                        continue
                    kept.append(at)
                    heads[count] = shared_head_of(&at._region)
                    waiters[count] = at._waiter
                    seen[count] = self._seen[place]
                    count += 1
        if heads != NULL and waiters != NULL and seen != NULL:
            with nogil:
                wait_for_any(heads, waiters, seen, count, end)
        free(heads)
        free(waiters)
        free(seen)


cdef bint has_any_moved(const SharedHead** heads, const Seen* seen, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(count):
        if has_moved(heads[index], &seen[index]):
            return True
    return False


cdef void wait_for_any(
    const SharedHead** heads, uint64_t** waiters, const Seen* seen, Py_ssize_t count, int64_t end
) noexcept nogil:
    """Sleep until one has moved on, or the time is over."""
    cdef WaitedWord words[WAITED_WORDS_MAX]
    cdef bint can_sleep = HAS_SHARED_FUTEX and 0 < count <= WAITED_WORDS_MAX
    cdef Py_ssize_t index
    cdef int64_t now = monotonic_ns(), until
    for index in range(count):
        can_sleep = can_sleep and waiters[index] != NULL
    if can_sleep:
        until = clock_exact() + WAITER_NS
        for index in range(count):
            store_in_order(waiters[index], <uint64_t>until)
            expect_word(&words[index], &heads[index].change, shared_load_u32(&heads[index].change))
        if has_any_moved(heads, seen, count) or wait_words(words, <unsigned int>count, end):
            return
    while now < end and not has_any_moved(heads, seen, count):
        nap(min(POLL_NS, end - now))
        now = monotonic_ns()
