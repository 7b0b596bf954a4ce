# A book in shared memory: written here after each change, read by other processes. include/ldc_shared.h is the layout.
#
# Rule 1: the writer publishes under the book's lock, with plain stores: no system call, no allocation, no clock.
# Rule 2: a copy is numbered. Its sequence is odd while it is written and 2 * number when it is whole. `latest` moves
#         only to a whole copy, so a writer that dies within a copy leaves the other one whole.
# Rule 3: words of a copy are stored with release and loaded with acquire. So a reader that sees a word of a newer copy
#         also sees that the sequence has moved on.
# Rule 4: the heartbeat says that the process runs, and nothing about a book. How old a book may be is decided by the
#         time of its last proof alone: a feeder that was stopped and goes on must not make an old book young.
# Rule 5: a wake-up costs a system call, so the writer only notes that somebody waits; the wake comes after the lock.

cdef extern from "ldc_shared.h":
    ctypedef struct SharedHead "ldc_shared_head":
        uint64_t magic
        uint32_t version
        uint32_t head_bytes
        uint32_t copies
        uint32_t levels
        uint64_t size
        uint64_t generation
        int64_t created_ns
        int32_t pid
        uint32_t waiter_slot
        char market[64]
        char exchange[64]
        uint64_t latest
        int64_t heartbeat_ns
        int64_t proven_ns
        int64_t lease_ns
        uint32_t change
        uint32_t has_ended
    ctypedef struct SharedLevel "ldc_shared_level":
        int64_t price
        int64_t quantity
    ctypedef struct SharedView "ldc_shared_view":
        uint64_t sequence
        int64_t last_update_id
        int64_t event_time_ms
        int64_t transaction_time_ms
        int64_t received_time_ns
        int64_t bid_horizon
        int64_t ask_horizon
        uint32_t flags
        uint32_t state
        char cause[32]
        int32_t price_scale
        int32_t quantity_scale
        uint32_t bid_count
        uint32_t ask_count
        int64_t epoch
    ctypedef struct SharedRegion "ldc_shared_region":
        const char* memory
        uint32_t levels
        uint32_t copies
        size_t copy_bytes
    size_t shared_copy_bytes "ldc_shared_copy_bytes"(uint32_t levels) noexcept nogil
    const SharedHead* shared_head_of "ldc_shared_head_of"(const SharedRegion* region) noexcept nogil
    int shared_check "ldc_shared_check"(SharedRegion* region, const void* memory, size_t size) noexcept nogil
    int shared_take "ldc_shared_take"(
        const SharedRegion* region, SharedView* view, SharedLevel* bids, uint32_t bid_limit, SharedLevel* asks,
        uint32_t ask_limit) noexcept nogil
    int shared_liveness "ldc_shared_liveness"(const SharedRegion* region, int64_t now, int* is_late) noexcept nogil
    bint shared_has_left "ldc_shared_has_left"(const SharedView* view) noexcept nogil
    uint64_t shared_load "ldc_shared_load"(const uint64_t* word) noexcept nogil
    uint32_t shared_load_u32 "ldc_shared_load_u32"(const uint32_t* word) noexcept nogil
    enum:
        SHARED_READABLE "LDC_SHARED_READABLE"
        SHARED_NOT_LOADED "LDC_SHARED_NOT_LOADED"
        SHARED_SUSPENDED "LDC_SHARED_SUSPENDED"
        SHARED_CROSSED "LDC_SHARED_CROSSED"
        SHARED_LEFT_HORIZON "LDC_SHARED_LEFT_HORIZON"
        SHARED_TOO_OLD "LDC_SHARED_TOO_OLD"
        SHARED_FEEDER_GONE "LDC_SHARED_FEEDER_GONE"
        SHARED_MALFORMED "LDC_SHARED_MALFORMED"
        SHARED_BUSY "LDC_SHARED_BUSY"
        HAS_EVENT_TIME "LDC_SHARED_HAS_EVENT_TIME"
        HAS_TRANSACTION_TIME "LDC_SHARED_HAS_TRANSACTION_TIME"
        HAS_RECEIVED_TIME "LDC_SHARED_HAS_RECEIVED_TIME"
        HAS_BID_HORIZON "LDC_SHARED_HAS_BID_HORIZON"
        HAS_ASK_HORIZON "LDC_SHARED_HAS_ASK_HORIZON"
        IS_LOADED "LDC_SHARED_IS_LOADED"
    const uint64_t SHARED_MAGIC "LDC_SHARED_MAGIC"
    const uint32_t SHARED_VERSION "LDC_SHARED_VERSION"
    const uint32_t SHARED_LEVELS_MAX "LDC_SHARED_LEVELS_MAX"

cdef extern from *:
    """
    #if defined(_MSC_VER)
    static inline void ldc_store_word(uint64_t *word, uint64_t value) {
        _ReadWriteBarrier();
        *(volatile uint64_t *)word = value;
    }
    static inline void ldc_store_u32(uint32_t *word, uint32_t value) {
        _ReadWriteBarrier();
        *(volatile uint32_t *)word = value;
    }
    static inline void ldc_store_in_order(uint64_t *word, uint64_t value) {
        _InterlockedExchange64((volatile __int64 *)word, (__int64)value);
    }
    #else
    static inline void ldc_store_word(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
    }
    static inline void ldc_store_u32(uint32_t *word, uint32_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
    }
    /* Of two threads that each store in order and then load what the other stores, one sees the other's value. */
    static inline void ldc_store_in_order(uint64_t *word, uint64_t value) {
        (void)__atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
    }
    #endif

    #if defined(_WIN32)
    #define LDC_HAS_MAPPING 0
    static int ldc_feeder_lives(int fd) { (void)fd; return 1; }
    #define ldc_map(fd, size, is_writable) ((void)(fd), (void)(size), (void)(is_writable), (void *)NULL)
    static void ldc_unmap(void *memory, size_t size) { (void)memory; (void)size; }
    #else
    #define LDC_HAS_MAPPING 1
    #define ldc_feeder_lives(fd) ldc_shared_is_locked(fd)
    static void *ldc_map(int fd, size_t size, int is_writable) {
        void *memory = mmap(NULL, size, is_writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
        return memory == MAP_FAILED ? NULL : memory;
    }
    #define ldc_unmap(memory, size) ((void)munmap((memory), (size)))
    #endif

    /* Threads of other processes that sleep until a word changes. A mapping may be read-only. */
    #if defined(__linux__)
    #define LDC_HAS_SHARED_FUTEX 1
    static void ldc_wake_shared(const uint32_t *word) {
        (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
    static int ldc_wait_shared(const uint32_t *word, uint32_t seen, int64_t timeout_ns) {
        struct timespec t = {(time_t)(timeout_ns / 1000000000LL), (long)(timeout_ns % 1000000000LL)};
        return syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0) < 0 && errno == EINTR ? EINTR : 0;
    }
    static int ldc_nap(int64_t timeout_ns) {
        struct timespec t = {(time_t)(timeout_ns / 1000000000LL), (long)(timeout_ns % 1000000000LL)};
        return nanosleep(&t, NULL) < 0 ? EINTR : 0;
    }
    #else
    #define LDC_HAS_SHARED_FUTEX 0
    #define ldc_wake_shared(word) ((void)(word))
    #define ldc_wait_shared(word, seen, timeout_ns) ((void)(word), (void)(seen), (void)(timeout_ns), 0)
    #if defined(_WIN32)
    static int ldc_nap(int64_t timeout_ns) { Sleep((DWORD)(timeout_ns / 1000000 + 1)); return EINTR; }
    #else
    static int ldc_nap(int64_t timeout_ns) {
        struct timespec t = {(time_t)(timeout_ns / 1000000000LL), (long)(timeout_ns % 1000000000LL)};
        return nanosleep(&t, NULL) < 0 ? EINTR : 0;
    }
    #endif
    #endif
    """
    void store_word "ldc_store_word"(uint64_t* word, uint64_t value) noexcept nogil
    void store_u32 "ldc_store_u32"(uint32_t* word, uint32_t value) noexcept nogil
    void store_in_order "ldc_store_in_order"(uint64_t* word, uint64_t value) noexcept nogil
    const bint HAS_MAPPING "LDC_HAS_MAPPING"
    const bint HAS_SHARED_FUTEX "LDC_HAS_SHARED_FUTEX"
    bint feeder_lives "ldc_feeder_lives"(int fd) noexcept nogil
    void* map_file "ldc_map"(int fd, size_t size, bint is_writable) noexcept nogil
    void unmap_file "ldc_unmap"(void* memory, size_t size) noexcept nogil
    void wake_shared "ldc_wake_shared"(const uint32_t* word) noexcept nogil
    int wait_shared "ldc_wait_shared"(const uint32_t* word, uint32_t seen, int64_t timeout_ns) noexcept nogil
    int nap "ldc_nap"(int64_t timeout_ns) noexcept nogil

cdef int64_t HEARTBEAT_NS = 10_000_000
cdef int64_t LIFE_LOOK_NS = 15_000_000   # between two looks of a waiter whether its feeder lives
cdef int64_t WAITER_NS = NS_PER_S       # a waiter that has not said so for this long waits no more
cdef int64_t POLL_NS = 1_000_000        # between two looks of a waiter where there is no futex
cdef int64_t SUCCESSOR_NS = 20_000_000  # between two looks for the next feeder while the heartbeat is late


# ------------------------------------------------------------------------------------------------------------- writing

cdef void head_text(char* room, bytes text) noexcept:
    """Put a text into 64 bytes; a longer one is cut."""
    cdef Py_ssize_t length = min(<Py_ssize_t>PyBytes_GET_SIZE(text), <Py_ssize_t>64)
    memset(room, 0, 64)
    memcpy(room, PyBytes_AS_STRING(text), length)


cdef bytes cut_text(object text, int room):
    """Return a text as UTF-8 that fits so many bytes, without half a character at its end."""
    return text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").encode()


cdef inline void keep_cause(OrderBook book, bytes text) noexcept:
    """Keep the cause of a suspension for other processes. Under the lock."""
    memset(book._cause_text, 0, sizeof(book._cause_text))
    memcpy(book._cause_text, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef void describe(OrderBook book, uint32_t levels, SharedView* view) noexcept nogil:
    """Fill the head of a copy. Under the book's lock."""
    cdef const BookSide* bids = &book._bids
    cdef const BookSide* asks = &book._asks
    memset(view, 0, sizeof(SharedView))
    view.epoch = book._epoch
    if book._is_suspended:
        memcpy(view.cause, book._cause_text, sizeof(view.cause))
    if not book._is_loaded:
        view.state = SHARED_NOT_LOADED
        return
    view.state = SHARED_SUSPENDED if book._is_suspended else SHARED_CROSSED if book._is_crossed else SHARED_READABLE
    view.flags = IS_LOADED
    view.last_update_id = book._place.last_update_id
    if book._place.has_event_time:
        view.flags |= HAS_EVENT_TIME
        view.event_time_ms = book._place.event_time_ms
    if book._place.has_transaction_time:
        view.flags |= HAS_TRANSACTION_TIME
        view.transaction_time_ms = book._place.transaction_time_ms
    if book._place.has_received_time:
        view.flags |= HAS_RECEIVED_TIME
        view.received_time_ns = book._place.received_time_ns
    view.price_scale = book._price_scale
    view.quantity_scale = book._quantity_scale
    view.bid_count = min(<uint32_t>bids.known_count, levels)
    view.ask_count = min(<uint32_t>asks.known_count, levels)
    if bids.has_horizon:
        view.flags |= HAS_BID_HORIZON
        view.bid_horizon = -bids.horizon_key
    if asks.has_horizon:
        view.flags |= HAS_ASK_HORIZON
        view.ask_horizon = asks.horizon_key


cdef int64_t store_levels(const BookSide* side, uint32_t count, int64_t sign, uint64_t* out) noexcept nogil:
    """Store the best levels of a side; return the price of the last one."""
    cdef uint32_t stored = 0
    cdef int32_t index = 0, at, here
    cdef const Block* block
    cdef int64_t price = 0
    while stored < count:
        block = side.slots[index].block
        here = min(side.slots[index].count, <int32_t>(count - stored))
        for at in range(here):
            price = sign * block.keys[at]
            store_word(&out[2 * (stored + at)], <uint64_t>price)
            store_word(&out[2 * (stored + at) + 1], <uint64_t>block.quantities[at])
        stored += here
        index += 1
    return price


cdef void region_write(RegionState* region, OrderBook book) noexcept nogil:
    """Publish what the book is now. Under the book's lock."""
    cdef SharedHead* head = <SharedHead*>region.memory
    cdef uint64_t* copy
    cdef uint64_t* levels
    cdef SharedView view
    cdef uint64_t words[16]
    cdef int index
    cdef int64_t price
    region.number += 1
    copy = <uint64_t*>(region.memory + sizeof(SharedHead) + (region.number % region.copies) * region.copy_bytes)
    store_word(copy, 2 * region.number - 1)
    describe(book, region.levels, &view)
    levels = copy + sizeof(SharedView) // 8
    price = store_levels(&book._bids, view.bid_count, -1, levels)
    if view.bid_count < <uint32_t>book._bids.known_count:       # the region ends before the book does
        view.flags |= HAS_BID_HORIZON
        view.bid_horizon = price
    price = store_levels(&book._asks, view.ask_count, 1, levels + 2 * region.levels)
    if view.ask_count < <uint32_t>book._asks.known_count:
        view.flags |= HAS_ASK_HORIZON
        view.ask_horizon = price
    memcpy(words, &view, sizeof(SharedView))
    for index in range(1, 16):
        store_word(&copy[index], words[index])
    store_word(copy, 2 * region.number)
    if region.waiter == NULL:
        store_word(&head.latest, region.number)
        return
    store_in_order(&head.latest, region.number)
    if <int64_t>shared_load(region.waiter) > region.heartbeat_ns:
        store_u32(&head.change, head.change + 1)
        book._wake_address = &head.change


cdef inline void publish(OrderBook book) noexcept nogil:
    """Publish the book, if it is shared. After every change, under the lock."""
    if book._region != NULL:
        region_write(book._region, book)


cdef void wake_readers(OrderBook book) noexcept nogil:
    """Wake the threads of other processes that wait for the book. After the lock."""
    cdef const uint32_t* word
    mutex_lock(&book._mutex)
    word = book._wake_address
    book._wake_address = NULL
    mutex_unlock(&book._mutex)
    if word != NULL:
        wake_shared(word)       # if it is not mapped any more, the system says so, and nobody waits


cdef inline void published(OrderBook book) noexcept nogil:
    """Wake whom the change that was just published concerns. A plain look: the same thread has published."""
    if book._wake_address != NULL:
        wake_readers(book)


cdef void region_renew(RegionState* region, OrderBook book, int64_t now_ns) noexcept nogil:
    """Renew the heartbeat of a region, and hand on the time of its book's last proof. Under the book's lock."""
    cdef SharedHead* head = <SharedHead*>region.memory
    cdef int64_t proven_ns = NEVER_NS, lease_ns = 0
    if book._terms != NULL:
        proven_ns = load_relaxed(&book._terms.proven_ns)
        lease_ns = book._terms.duration_ns
    if proven_ns != head.proven_ns:
        store_word(<uint64_t*>&head.proven_ns, <uint64_t>proven_ns)
    if lease_ns != head.lease_ns:
        store_word(<uint64_t*>&head.lease_ns, <uint64_t>lease_ns)
    region.heartbeat_ns = now_ns
    store_word(<uint64_t*>&head.heartbeat_ns, <uint64_t>now_ns)


cdef inline void renew(OrderBook book, int64_t now_ns) noexcept nogil:
    """Renew the heartbeat of a book, if it is shared. Under the lock."""
    if book._region != NULL:
        region_renew(book._region, book, now_ns)


cdef int head_fill(
    SharedHead* head, str market, str exchange, uint32_t levels, uint32_t copies, uint64_t generation, int32_t pid,
    int64_t created_ns, uint32_t waiter_slot
) except -1:
    memset(head, 0, sizeof(SharedHead))
    head.magic = SHARED_MAGIC
    head.version = SHARED_VERSION
    head.head_bytes = sizeof(SharedHead)
    head.copies = copies
    head.levels = levels
    head.size = sizeof(SharedHead) + copies * shared_copy_bytes(levels)
    head.generation = generation
    head.created_ns = created_ns
    head.pid = pid
    head.waiter_slot = waiter_slot
    head_text(head.market, cut_text(market, 64))
    head_text(head.exchange, cut_text(exchange, 64))
    head.proven_ns = NEVER_NS
    return 0


cdef uint32_t checked_levels(object levels) except 0:
    if not isinstance(levels, int):
        raise TypeError(f"levels must be an int, not {type(levels).__name__}")
    if not 1 <= levels <= SHARED_LEVELS_MAX:
        raise ValueError(f"levels is an int from 1 to {SHARED_LEVELS_MAX}, not {levels}")
    return levels


def region_bytes(levels, copies=2):
    """Return how many bytes a region with so many levels a side needs."""
    return sizeof(SharedHead) + <uint32_t>copies * shared_copy_bytes(checked_levels(levels))


def encode_region(book, levels=20, *, market=None, exchange="", generation=0, pid=0, created_ns=0):
    """Return a book, or that of a `BookReader`, as one message in the layout of a region with one copy.

    `Attachment` takes it.
    The message also has the time of the last proof. Whether the book can be read is in it, too: nothing is raised for a
    book that cannot. Cost: as one publication, and the bytes.
    """
    cdef uint32_t room = checked_levels(levels)
    cdef RegionState region
    cdef OrderBook shared = (<BookReader>book)._book if isinstance(book, BookReader) else <OrderBook?>book
    cdef bytes message = PyBytes_FromStringAndSize(NULL, sizeof(SharedHead) + shared_copy_bytes(room))
    name = market if market is not None else shared.market or ""
    memset(PyBytes_AS_STRING(message), 0, PyBytes_GET_SIZE(message))
    memset(&region, 0, sizeof(region))
    region.memory = PyBytes_AS_STRING(message)
    region.levels = room
    region.copies = 1
    region.copy_bytes = shared_copy_bytes(room)
    head_fill(<SharedHead*>region.memory, name, exchange, room, 1, generation, pid, created_ns, 0)
    mutex_lock(&shared._mutex)
    region_write(&region, shared)
    region_renew(&region, shared, clock_exact())
    mutex_unlock(&shared._mutex)
    return message


@cython.no_gc_clear     # it would forget `_view.obj` without releasing the buffer
@cython.final
cdef class RegionWriter:
    """A region of memory into which a book publishes itself: set it as `OrderBook.region`.

    Args:
        memory: a writable buffer of `region_bytes(levels)` bytes, aligned to 8: a mapped file. It is kept.
        market, exchange: as readers see them; at most 64 bytes of UTF-8.
        generation: of the feeder.
        waiters: a writable buffer of 8 bytes a slot, in which readers say that they wait; None: nobody is woken.
        waiter_slot: the slot of this book.

    Thread-safety: `close` from any thread. A book may have one writer, and a writer one book.
    """

    cdef RegionState _state
    cdef Py_buffer _view
    cdef Py_buffer _waiters
    cdef object _memory

    def __cinit__(
        self, memory, str market not None, levels=100, *, str exchange="", generation=0, pid=0, created_ns=0,
        waiters=None, waiter_slot=0,
    ):
        cdef uint32_t room = checked_levels(levels), slot = waiter_slot
        blank_view(&self._view)
        blank_view(&self._waiters)
        PyObject_GetBuffer(memory, &self._view, PyBUF_CONTIG)
        if self._view.len != <Py_ssize_t>(sizeof(SharedHead) + 2 * shared_copy_bytes(room)) or (
                <size_t>self._view.buf) % 8 != 0:
            raise ValueError(f"a region of {room} levels has {region_bytes(room)} bytes, aligned to 8")
        self._state.memory = <char*>self._view.buf
        self._state.levels = room
        self._state.copies = 2
        self._state.copy_bytes = shared_copy_bytes(room)
        if waiters is not None:
            PyObject_GetBuffer(waiters, &self._waiters, PyBUF_CONTIG)
            if self._waiters.len < 8 * (<Py_ssize_t>slot + 1):
                raise ValueError(f"there is no waiter slot {slot} in {self._waiters.len} bytes")
            self._state.waiter = <uint64_t*>self._waiters.buf + slot
        memset(self._state.memory, 0, self._view.len)
        head_fill(<SharedHead*>self._state.memory, market, exchange, room, 2, generation, pid, created_ns, slot)

    def __dealloc__(self):
        PyBuffer_Release(&self._waiters)
        PyBuffer_Release(&self._view)

    def end(self):
        """Say that the book is withdrawn: readers look for the next feeder."""
        store_u32(&(<SharedHead*>self._state.memory).has_ended, 1)
        store_u32(&(<SharedHead*>self._state.memory).change, (<SharedHead*>self._state.memory).change + 1)
        wake_shared(&(<SharedHead*>self._state.memory).change)


@cython.final
cdef class RegionKeeper:
    """Renews the heartbeat and the proof of shared books every 10 ms, without the GIL, in the thread that calls `run`.

    Args:
        may_block: as that of `SharedReader`.

    Thread-safety: every method from any thread.
    """

    cdef object _may_block
    cdef Mutex _mutex
    cdef void** _places                 # OrderBook, borrowed from `_books`
    cdef Py_ssize_t _count
    cdef list _books
    cdef int _stop

    def __cinit__(self, may_block=None):
        self._books = []
        self._may_block = may_block

    def __dealloc__(self):
        free(self._places)

    cdef int _index(self, list books) except -1:
        cdef void** places = <void**>malloc(max(1, len(books)) * sizeof(void*))
        cdef void** previous
        cdef Py_ssize_t index
        cdef list kept = self._books
        if places == NULL:
            raise MemoryError()
        for index in range(len(books)):
            places[index] = <void*>books[index]
        mutex_lock(&self._mutex)
        previous = self._places
        self._places = places
        self._count = len(books)
        mutex_unlock(&self._mutex)
        free(previous)
        self._books = books             # only now: `kept` was in use until the lock was free
        return 0

    def add(self, OrderBook book not None):
        """Keep a book from now on; at once for the first time."""
        with cython.critical_section(self):
            self._index([*self._books, book])
        mutex_lock(&book._mutex)
        renew(book, clock_exact())
        mutex_unlock(&book._mutex)

    def remove(self, OrderBook book not None):
        """Keep a book no more."""
        with cython.critical_section(self):
            self._index([kept for kept in self._books if kept is not book])

    def stop(self):
        """Let `run` return."""
        exchange(&self._stop, 1)
        wake_word(&self._stop)

    def run(self):
        """Keep the books until `stop`."""
        while self._may_block is not None and not self._may_block():
            if read_relaxed(&self._stop) != 0:
                return
            self._renew_all()
            time.sleep(HEARTBEAT_NS / 1e9)
        with nogil:
            while read_relaxed(&self._stop) == 0:
                self._renew_all()
                wait_word(&self._stop, 0, HEARTBEAT_NS)

    cdef void _renew_all(self) noexcept nogil:
        cdef Py_ssize_t index
        cdef int64_t now_ns = clock_exact()
        mutex_lock(&self._mutex)
        for index in range(self._count):
            renew_place(<OrderBook>self._places[index], now_ns)
        mutex_unlock(&self._mutex)


cdef void renew_place(OrderBook book, int64_t now_ns) noexcept nogil:
    mutex_lock(&book._mutex)
    renew(book, now_ns)
    mutex_unlock(&book._mutex)
