# The queue of a stream of updates: what waits for its consumer, and how that is woken without the GIL.
#
# Rule 1: a `Watch` is one stream's interest in one book. Its fields belong to the book's lock, as the levels do.
# Rule 2: a watch with something to take stands in the ready list of its queue. Pushing needs no lock, so the lock of
#         the book stays a leaf. The consumer takes the whole list at once.
# Rule 3: a queue is signalled at most once until its consumer arms it again. So a stream costs its feed at most one
#         write to a descriptor for each receive. The consumer arms, then looks; the writer pushes, then reads the
#         signal. In either order one of the two sees the other.
# Rule 4: `QueueState` is counted, because a writer may still wake a queue that its consumer has just closed. The owner
#         of a descriptor closes it after `set_descriptor(-1)`: the mutex keeps a writer from using it afterwards.

cdef extern from *:
    """
    #if defined(_WIN32)
    /* Event loops of Windows wait for no descriptors: `ldc.consume` waits in a thread there. */
    #define LDC_HAS_DESCRIPTORS 0
    static void ldc_signal(int fd, int is_event) { (void)fd; (void)is_event; }
    static void ldc_drain(int fd) { (void)fd; }
    #else
    #define LDC_HAS_DESCRIPTORS 1
    #include <unistd.h>
    /* Both descriptors do not block. A full pipe is readable, which is all that a signal has to achieve. */
    static void ldc_signal(int fd, int is_event) {
        uint64_t one = 1;
        ssize_t written = write(fd, &one, is_event ? 8 : 1);
        (void)written;
    }
    static void ldc_drain(int fd) {
        char room[512];
        while (read(fd, room, sizeof(room)) == (ssize_t)sizeof(room)) {}
    }
    #endif
    /* Push a node before the head of a list, as one step for all threads. */
    static inline void ldc_push(void **head, void **next, void *node) {
    #if defined(_MSC_VER)
        void *seen;
        do {
            seen = *(void *volatile *)head;
            *next = seen;
        } while (_InterlockedCompareExchangePointer(head, node, seen) != seen);
    #else
        void *seen = __atomic_load_n(head, __ATOMIC_RELAXED);
        do {
            *next = seen;
        } while (!__atomic_compare_exchange_n(head, &seen, node, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    #endif
    }
    static inline void *ldc_take_all(void **head) {
    #if defined(_MSC_VER)
        return _InterlockedExchangePointer(head, NULL);
    #else
        return __atomic_exchange_n(head, NULL, __ATOMIC_SEQ_CST);
    #endif
    }
    static inline int ldc_is_empty(void **head) {
    #if defined(_MSC_VER)
        return *(void *volatile *)head == NULL;
    #else
        return __atomic_load_n(head, __ATOMIC_SEQ_CST) == NULL;
    #endif
    }
    /* Read or set a number in one order for all threads: a full barrier stands between a store and a later load. */
    static inline int ldc_load_strongly(int *number) {
    #if defined(_MSC_VER)
        return (int)_InterlockedOr((volatile long *)number, 0);
    #else
        return __atomic_load_n(number, __ATOMIC_SEQ_CST);
    #endif
    }
    static inline int ldc_exchange_strongly(int *number, int value) {
    #if defined(_MSC_VER)
        return (int)_InterlockedExchange((volatile long *)number, (long)value);
    #else
        return __atomic_exchange_n(number, value, __ATOMIC_SEQ_CST);
    #endif
    }
    """
    const bint HAS_DESCRIPTORS "LDC_HAS_DESCRIPTORS"
    void signal_descriptor "ldc_signal"(int fd, int is_event) noexcept nogil
    void drain_descriptor "ldc_drain"(int fd) noexcept nogil
    void push_node "ldc_push"(void** head, void** next, void* node) noexcept nogil
    void* take_all_nodes "ldc_take_all"(void** head) noexcept nogil
    bint is_list_empty "ldc_is_empty"(void** head) noexcept nogil
    int load_strongly "ldc_load_strongly"(int* number) noexcept nogil
    int exchange_strongly "ldc_exchange_strongly"(int* number, int value) noexcept nogil

cdef enum:
    TOUCHED_PRICES_MAX = 65536  # of one side between two items; with more the consumer gets a snapshot
    TOUCHED_PRICES_MIN = 64
    WAKES_AT_ONCE = 8           # queues that are woken under one look at a book's watches
    NO_CAUSE = -1
    OTHER_CAUSE = -2            # none of `ldc.Cause`

cdef enum WatchPolicy:
    LATEST_POLICY = 0
    CHANGES_POLICY = 1
    EVERY_POLICY = 2

cdef struct SharedMessage:
    # A message as it was received, for all streams of the policy "every". Its bytes follow.
    int references
    Py_ssize_t length

cdef struct UpdateItem:
    # An item of a stream, as its consumer gets it; those of "every" wait in a list.
    UpdateItem* next
    bint is_counted             # in `QueueState.waiting`
    bint is_lost
    bint is_snapshot
    bint is_loaded              # the book was, so that the place says something
    int cause
    int64_t missed
    int64_t first_id            # 0: no update of its own
    int64_t epoch
    Place place
    int32_t price_scale
    int32_t quantity_scale
    bint has_bid_horizon
    bint has_ask_horizon
    int64_t bid_horizon
    int64_t ask_horizon
    SharedMessage* message      # owned reference; NULL: the levels are below
    Level* bids                 # owned, NULL: none
    Level* asks
    int32_t bid_count
    int32_t ask_count

cdef struct PriceSet:
    int64_t* slots              # owned; -1 is a free place
    int32_t capacity            # a power of two; 0: nothing is allocated
    int32_t count

cdef struct QueueState:
    int references
    int is_signalled            # the consumer knows, or will soon
    int change                  # of `wait_word`
    int sleepers
    int waiting                 # items of all watches that wait, without the losses
    int waiting_max
    bint is_inline              # its consumer runs in the thread of the feed
    Mutex mutex                 # of what follows
    int fd                      # -1: none
    int read_fd
    bint is_event
    int is_written              # the descriptor is readable, as far as this side knows
    QueueState* parent          # woken with this one; owned reference
    void* ready                 # list of Watch, the newest first

cdef struct Watch:
    Watch* next                 # of the same book
    Watch* next_ready           # of the same queue
    QueueState* queue           # owned reference
    void* handle                # borrowed; its BookWatch
    WatchPolicy policy
    bint is_scaled              # numbers are read at the book's scales: another scale needs a snapshot
    bint is_ready               # in the ready list, or with the consumer
    bint needs_wake
    bint is_introduced          # an item was taken
    bint is_lost                # the book cannot be read, and the consumer knows or will be told
    bint is_stalled             # it is lost because the lease of the book has expired
    bint is_over                # for good
    bint has_news               # something has happened that no item of the list has
    bint needs_snapshot
    int cause                   # of a loss that no item has reported
    int64_t updates             # applied, without an item yet
    int64_t first_id            # of the first of them; 0: none
    int64_t dropped             # far levels that the book had dropped before
    UpdateItem* first
    UpdateItem* last
    PriceSet bids
    PriceSet asks


# --------------------------------------------------------------------------------------------------------------- prices

cdef inline void prices_clear(PriceSet* prices) noexcept nogil:
    free(prices.slots)
    prices.slots = NULL
    prices.capacity = prices.count = 0


cdef inline int32_t price_slot(const PriceSet* prices, int64_t price) noexcept nogil:
    """Return where a price stands, or would."""
    cdef uint64_t mixed = <uint64_t>price * 0x9E3779B97F4A7C15ULL
    cdef int32_t place = <int32_t>((mixed >> 32) & <uint64_t>(prices.capacity - 1))
    while prices.slots[place] != -1 and prices.slots[place] != price:
        place = (place + 1) & (prices.capacity - 1)
    return place


cdef bint prices_grow(PriceSet* prices) noexcept nogil:
    cdef PriceSet larger
    cdef int32_t place
    larger.capacity = max(<int32_t>TOUCHED_PRICES_MIN, 2 * prices.capacity)
    larger.count = prices.count
    if prices.count >= TOUCHED_PRICES_MAX:
        return False
    larger.slots = <int64_t*>malloc(larger.capacity * sizeof(int64_t))
    if larger.slots == NULL:
        return False
    memset(larger.slots, 0xFF, larger.capacity * sizeof(int64_t))
    for place in range(prices.capacity):
        if prices.slots[place] != -1:
            larger.slots[price_slot(&larger, prices.slots[place])] = prices.slots[place]
    free(prices.slots)
    prices[0] = larger
    return True


cdef bint prices_add(PriceSet* prices, const Level* levels, int32_t count) noexcept nogil:
    """Add the prices of levels; False: there are too many, or there is no memory."""
    cdef int32_t index, place
    for index in range(count):
        if 2 * prices.count >= prices.capacity and not prices_grow(prices):
            return False
        place = price_slot(prices, levels[index].price)
        if prices.slots[place] == -1:
            prices.slots[place] = levels[index].price
            prices.count += 1
    return True


# ---------------------------------------------------------------------------------------------------------------- items

cdef inline void message_release(SharedMessage* message) noexcept nogil:
    if message != NULL and add_atomically(&message.references, -1) == 1:
        free(message)


cdef inline void item_clear(UpdateItem* item) noexcept nogil:
    """Free what an item owns, without the item."""
    message_release(item.message)
    free(item.bids)
    free(item.asks)
    item.message = NULL
    item.bids = item.asks = NULL


cdef void items_release(Watch* watch) noexcept nogil:
    """Drop the items that wait. Under the book's lock."""
    cdef UpdateItem* item
    while watch.first != NULL:
        item = watch.first
        watch.first = item.next
        if item.is_counted:
            add_atomically(&watch.queue.waiting, -1)
        item_clear(item)
        free(item)
    watch.last = NULL


# --------------------------------------------------------------------------------------------------------------- waking

cdef void queue_release(QueueState* queue) noexcept nogil:
    cdef QueueState* parent
    while queue != NULL and add_atomically(&queue.references, -1) == 1:
        parent = queue.parent
        free(queue)
        queue = parent


cdef void queue_wake(QueueState* queue) noexcept nogil:
    """Wake who waits for a queue. From any thread, under no other lock."""
    cdef QueueState* parent = NULL
    if exchange_strongly(&queue.is_signalled, 1) != 0:
        return
    add_atomically(&queue.change, 1)
    if load_strongly(&queue.sleepers) != 0:
        wake_word(&queue.change)
    mutex_lock(&queue.mutex)
    if queue.fd >= 0:
        exchange_strongly(&queue.is_written, 1)
        signal_descriptor(queue.fd, queue.is_event)
    if queue.parent != NULL:
        parent = queue.parent
        add_atomically(&parent.references, 1)
    mutex_unlock(&queue.mutex)
    if parent != NULL:
        queue_wake(parent)
        queue_release(parent)
