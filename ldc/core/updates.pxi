# Who consumes the updates of a book, and what they get: the policies "latest", "changes" and "every".
#
# Rule 1: every change of a book comes here, under its lock: commit, snapshot, adoption, suspension, resumption. So each
#         path of the feed, with and without the GIL, tells the consumers by the same few functions.
# Rule 2: a book without consumers pays one comparison with NULL.
# Rule 3: nothing here fails. Where there is no memory, or no room, the consumer gets a snapshot in place of what was
#         lost, and `missed` says how many updates that were. A loss is never dropped.
# Rule 4: what can wait is made when it is taken: a snapshot and the coalesced changes are copied from the book, under
#         its lock. So they are of the id at which the book stands then.

cdef tuple CAUSE_NAMES = tuple(Cause)
cdef dict CAUSE_NUMBERS = {str(cause): number for number, cause in enumerate(CAUSE_NAMES)}
cdef bint CAUSE_IS_FINAL[64]
for _number, _cause in enumerate(CAUSE_NAMES):
    CAUSE_IS_FINAL[_number] = is_final(_cause)
cdef int NUMBER_OF_NOT_LOADED = CAUSE_NUMBERS["NOT_LOADED"]
cdef int NUMBER_OF_CROSSED = CAUSE_NUMBERS["CROSSED"]
cdef int NUMBER_OF_LEFT_HORIZON = CAUSE_NUMBERS["LEFT_HORIZON"]
cdef int NUMBER_OF_STALLED = CAUSE_NUMBERS["STALLED"]


cdef inline bint is_final_number(int cause) noexcept nogil:
    return cause >= 0 and CAUSE_IS_FINAL[cause]


cdef ReadState watched_state(OrderBook book, int* cause) noexcept nogil:
    """Whether the book can be read, but for its lease, and if not, why. Under the lock."""
    cause[0] = NO_CAUSE
    if not book._is_loaded:
        cause[0] = NUMBER_OF_NOT_LOADED
        if book._is_suspended and is_final_number(book._cause_number):
            cause[0] = book._cause_number
        return NOT_LOADED
    if book._is_suspended:
        cause[0] = book._cause_number
        return SUSPENDED
    if book._is_crossed:
        cause[0] = NUMBER_OF_CROSSED
        return CROSSED
    if has_no_known_level(&book._bids) or has_no_known_level(&book._asks):
        cause[0] = NUMBER_OF_LEFT_HORIZON
        return LEFT_HORIZON
    return READABLE


cdef void fill_item(OrderBook book, UpdateItem* item) noexcept nogil:
    """Write into an item where the book stands. Under the lock."""
    memset(item, 0, sizeof(UpdateItem))
    item.cause = NO_CAUSE
    item.is_loaded = book._is_loaded
    item.epoch = book._epoch
    item.place = book._place
    item.price_scale = book._price_scale
    item.quantity_scale = book._quantity_scale
    item.has_bid_horizon = book._bids.has_horizon
    item.has_ask_horizon = book._asks.has_horizon
    item.bid_horizon = -book._bids.horizon_key
    item.ask_horizon = book._asks.horizon_key


# ----------------------------------------------------------------------------------------- what happens, under the lock

cdef void tell(OrderBook book, Watch* watch) noexcept nogil:
    """There is something to take: put the watch into the ready list of its queue."""
    if not watch.is_ready:
        watch.is_ready = True
        push_node(&watch.queue.ready, <void**>&watch.next_ready, watch)
    if load_strongly(&watch.queue.is_signalled) == 0:
        watch.needs_wake = True
        book._has_news = True


cdef void want_snapshot(Watch* watch) noexcept nogil:
    """The next item has all levels; what was noted of single ones is of no use."""
    prices_clear(&watch.bids)
    prices_clear(&watch.asks)
    watch.needs_snapshot = True


cdef UpdateItem* new_item(OrderBook book, Watch* watch) noexcept nogil:
    """Append an item that counts the updates before it as missed; NULL: no memory."""
    cdef UpdateItem* item = <UpdateItem*>malloc(sizeof(UpdateItem))
    if item == NULL:
        return NULL
    fill_item(book, item)
    item.missed = watch.updates
    watch.updates = 0
    watch.first_id = 0
    if watch.last == NULL:
        watch.first = item
    else:
        watch.last.next = item
    watch.last = item
    return item


cdef void lose(OrderBook book, Watch* watch, int cause) noexcept nogil:
    """The book cannot be read any more."""
    cdef UpdateItem* item
    watch.is_lost = True
    watch.is_stalled = cause == NUMBER_OF_STALLED
    watch.is_over = is_final_number(cause)
    want_snapshot(watch)
    watch.has_news = watch.policy == LATEST_POLICY
    if watch.policy != LATEST_POLICY and (watch.is_introduced or watch.is_over):
        item = new_item(book, watch)
        if item != NULL:
            item.is_lost = True
            item.cause = cause
            tell(book, watch)
            return
    watch.cause = cause
    if watch.policy == LATEST_POLICY and (watch.is_introduced or watch.is_over):
        tell(book, watch)


cdef void regain(OrderBook book, Watch* watch) noexcept nogil:
    """The book can be read again."""
    watch.is_lost = watch.is_stalled = False
    watch.needs_snapshot = True
    watch.has_news = True
    tell(book, watch)


cdef void note_state(OrderBook book, bint is_replaced) noexcept nogil:
    """The book was suspended, resumed, cleared, or (`is_replaced`) loaded."""
    cdef Watch* watch = book._watches
    cdef int cause = NO_CAUSE
    cdef bint is_readable = watched_state(book, &cause) == READABLE
    while watch != NULL:
        if is_replaced:
            want_snapshot(watch)
        if watch.is_over:
            pass
        elif not is_readable:
            if not watch.is_lost or is_final_number(cause):
                lose(book, watch, cause)
        elif watch.is_lost:
            if not watch.is_stalled:
                regain(book, watch)
        elif is_replaced:
            regain(book, watch)
        watch = watch.next


cdef int suspend_book(OrderBook book, object cause, bint is_final) except -1:
    """Let every read raise with a cause; `is_final`: for good. The first final cause stays."""
    cdef int number = CAUSE_NUMBERS.get(str(cause), OTHER_CAUSE)
    cdef bytes text = cut_text(cause, sizeof(book._cause_text))
    with cython.critical_section(book):
        if not book._is_closed:
            book._cause = cause
        mutex_lock(&book._mutex)
        if not book._is_closed:
            book._cause_number = number
            keep_cause(book, text)
        book._is_suspended = True
        book._is_closed = book._is_closed or is_final
        if book._watches != NULL:
            note_state(book, False)
        publish(book)
        mutex_unlock(&book._mutex)
    if book._has_news:
        wake_consumers(book, False)
    published(book)
    return 0


cdef void forget_watches(OrderBook book) noexcept nogil:
    """Let no consumer of the parent be told anything in a forked child: a thread of the parent may hold its locks."""
    cdef Watch* watch = book._watches
    book._has_news = False
    while watch != NULL:
        watch.is_over = True
        watch.needs_wake = False
        watch = watch.next


cdef SharedMessage* shared_message(const Cursor* c) noexcept nogil:
    cdef Py_ssize_t length = c.end - c.start
    cdef SharedMessage* message = <SharedMessage*>malloc(sizeof(SharedMessage) + length)
    if message != NULL:
        message.references = 1
        message.length = length
        memcpy(<char*>message + sizeof(SharedMessage), c.start, length)
    return message


cdef void append_update(
    OrderBook book, Watch* watch, const Cursor* c, const Message* m, SharedMessage** message
) noexcept nogil:
    """Append an applied update for a consumer of "every"; or let it take a snapshot."""
    cdef UpdateItem* item = NULL
    if load_strongly(&watch.queue.waiting) < watch.queue.waiting_max:
        if message[0] == NULL:
            message[0] = shared_message(c)
        if message[0] != NULL:
            item = new_item(book, watch)
    if item == NULL:
        want_snapshot(watch)
        watch.has_news = True
        return
    item.missed -= 1                # this one has an item of its own
    item.first_id = m.first_id
    item.message = message[0]
    item.is_counted = True
    add_atomically(&item.message.references, 1)
    add_atomically(&watch.queue.waiting, 1)


cdef void note_update(OrderBook book, const Cursor* c, const Message* m, const Settled* settled) noexcept nogil:
    """An update was applied."""
    cdef Watch* watch = book._watches
    cdef SharedMessage* message = NULL
    cdef int64_t dropped = book._bids.dropped + book._asks.dropped
    cdef int cause = NO_CAUSE
    cdef bint is_readable = watched_state(book, &cause) == READABLE
    cdef bint is_widened = settled.price_steps != 0 or settled.quantity_steps != 0
    while watch != NULL:
        if watch.is_over:
            watch = watch.next
            continue
        watch.updates += 1
        if watch.first_id == 0:
            watch.first_id = m.first_id
        if not is_readable or watch.is_lost:
            if not is_readable and not watch.is_lost:
                lose(book, watch, cause)
            elif is_readable and not watch.is_stalled and not watch.is_over:
                regain(book, watch)
            watch = watch.next
            continue
        if watch.policy != LATEST_POLICY and not watch.needs_snapshot:
            if dropped != watch.dropped or (is_widened and (watch.is_scaled or watch.policy == CHANGES_POLICY)):
                want_snapshot(watch)
            elif watch.policy == EVERY_POLICY:
                append_update(book, watch, c, m, &message)
            elif not (prices_add(&watch.bids, m.bids.levels, m.bids.count)
                      and prices_add(&watch.asks, m.asks.levels, m.asks.count)):
                want_snapshot(watch)
        watch.dropped = dropped
        watch.has_news = watch.has_news or watch.policy != EVERY_POLICY or watch.needs_snapshot
        tell(book, watch)
        watch = watch.next
    message_release(message)


# ------------------------------------------------------------------------------------------------------------- adoption

cdef struct Differences:
    # What adoption changes, at the scales of the book before it. The quantity is the new one; 0 removes.
    bint is_known               # False: another scale, or no memory
    bint is_none
    Level* bids                 # owned
    Level* asks
    int32_t bid_count
    int32_t ask_count


cdef Level* side_differences(
    const BookSide* before, const SideCopy* after, int64_t sign, int32_t* count
) noexcept nogil:
    """Walk two sides, best first; return the levels that differ. NULL: no memory."""
    cdef Level* found = <Level*>malloc((before.level_count + after.count + 1) * sizeof(Level))
    cdef Level* held = <Level*>malloc((before.level_count + 1) * sizeof(Level))
    cdef int32_t i = 0, j = 0, held_count
    cdef int64_t order
    count[0] = 0
    if found == NULL or held == NULL:
        free(found)
        free(held)
        return NULL
    held_count = side_best_levels(before, INT32_MAX, False, held, sign)
    while i < held_count or j < after.count:
        if i == held_count:
            order = 1
        elif j == after.count:
            order = -1
        else:
            order = (held[i].price > after.levels[j].price) - (held[i].price < after.levels[j].price)
            order *= sign
        if order < 0:
            found[count[0]] = Level(price=held[i].price, quantity=0)
            count[0] += 1
        elif order > 0 or held[i].quantity != after.levels[j].quantity:
            found[count[0]] = after.levels[j]
            count[0] += 1
        i += order <= 0
        j += order >= 0
    free(held)
    return found


cdef void find_differences(OrderBook book, const BookCopy* copy, Differences* found) noexcept nogil:
    """Note what adopting a copy would change. For the writer, which alone changes the book: without the lock."""
    found.bids = found.asks = NULL
    found.bid_count = found.ask_count = 0
    found.is_known = found.is_none = False
    if book._watches == NULL or book._price_scale != copy.price_scale or book._quantity_scale != copy.quantity_scale:
        return
    found.bids = side_differences(&book._bids, &copy.bids, -1, &found.bid_count)
    found.asks = side_differences(&book._asks, &copy.asks, 1, &found.ask_count)
    found.is_known = found.bids != NULL and found.asks != NULL
    found.is_none = (
        found.bid_count == 0 and found.ask_count == 0
        and book._bids.has_horizon == copy.bids.has_horizon and book._asks.has_horizon == copy.asks.has_horizon
        and (not copy.bids.has_horizon or -book._bids.horizon_key == copy.bids.horizon)
        and (not copy.asks.has_horizon or book._asks.horizon_key == copy.asks.horizon))


cdef void append_differences(OrderBook book, Watch* watch, const Differences* found) noexcept nogil:
    """Append what adoption has changed, for a consumer of "every"; or let it take a snapshot."""
    cdef UpdateItem* item
    cdef Level* bids = <Level*>malloc((found.bid_count + 1) * sizeof(Level))
    cdef Level* asks = <Level*>malloc((found.ask_count + 1) * sizeof(Level))
    item = NULL
    if bids != NULL and asks != NULL and load_strongly(&watch.queue.waiting) < watch.queue.waiting_max:
        item = new_item(book, watch)
    if item == NULL:
        free(bids)
        free(asks)
        want_snapshot(watch)
        watch.has_news = True
        return
    memcpy(bids, found.bids, found.bid_count * sizeof(Level))
    memcpy(asks, found.asks, found.ask_count * sizeof(Level))
    item.bids = bids
    item.asks = asks
    item.bid_count = found.bid_count
    item.ask_count = found.ask_count
    item.is_counted = True
    add_atomically(&watch.queue.waiting, 1)


cdef void note_adoption(OrderBook book, const Differences* found) noexcept nogil:
    """The book has adopted other levels."""
    cdef Watch* watch = book._watches
    cdef int64_t dropped = book._bids.dropped + book._asks.dropped
    cdef int cause = NO_CAUSE
    cdef bint is_readable = watched_state(book, &cause) == READABLE
    while watch != NULL:
        watch.dropped = dropped
        if watch.is_over or (found.is_known and found.is_none):
            pass
        elif watch.is_lost:
            if is_readable and not watch.is_stalled:
                regain(book, watch)
        elif not is_readable:
            lose(book, watch, cause)
        else:
            if watch.policy == EVERY_POLICY and found.is_known and not watch.needs_snapshot:
                append_differences(book, watch, found)
            elif watch.policy != LATEST_POLICY and not (
                    found.is_known and not watch.needs_snapshot
                    and prices_add(&watch.bids, found.bids, found.bid_count)
                    and prices_add(&watch.asks, found.asks, found.ask_count)):
                want_snapshot(watch)
            watch.has_news = watch.has_news or watch.policy != EVERY_POLICY or watch.needs_snapshot
            tell(book, watch)
        watch = watch.next


# ------------------------------------------------------------------------------------------------------------- wake-ups

cdef bint wake_consumers(OrderBook book, bint is_feed) noexcept nogil:
    """Wake the queues that have news of a book. `is_feed`: return whether one is inline: its consumer runs here."""
    cdef QueueState* found[WAKES_AT_ONCE]
    cdef Watch* watch
    cdef int index, count = WAKES_AT_ONCE
    cdef bint calls = False
    while count == WAKES_AT_ONCE:
        count = 0
        mutex_lock(&book._mutex)
        book._has_news = False
        watch = book._watches
        while watch != NULL and count < WAKES_AT_ONCE:
            if watch.needs_wake:
                watch.needs_wake = False
                found[count] = watch.queue
                add_atomically(&watch.queue.references, 1)
                count += 1
            watch = watch.next
        mutex_unlock(&book._mutex)
        for index in range(count):
            if is_feed and found[index].is_inline:
                calls = True
            else:
                queue_wake(found[index])
            queue_release(found[index])
    return calls


# ----------------------------------------------------------------------------------------------- taking, under the lock

cdef int64_t side_quantity(const BookSide* side, int64_t key) noexcept nogil:
    cdef const Slot* slot = &side.slots[side_locate(side, 0, key)]
    cdef int32_t at = block_find(slot.block.keys, key)
    return slot.block.quantities[at] if at < slot.count and slot.block.keys[at] == key else 0


cdef Level* touched_levels(const BookSide* side, const PriceSet* prices, int64_t sign) noexcept nogil:
    cdef Level* levels = <Level*>malloc((prices.count + 1) * sizeof(Level))
    cdef int32_t place, count = 0
    if levels == NULL:
        return NULL
    for place in range(prices.capacity):
        if prices.slots[place] != -1:
            levels[count].price = prices.slots[place]
            levels[count].quantity = side_quantity(side, sign * prices.slots[place])
            count += 1
    return levels


cdef Level* held_by_side(const BookSide* side, int64_t sign) noexcept nogil:
    cdef Level* levels = <Level*>malloc((side.level_count + 1) * sizeof(Level))
    if levels != NULL:
        side_best_levels(side, INT32_MAX, False, levels, sign)
    return levels


cdef int take_item(OrderBook book, Watch* watch, UpdateItem* item) noexcept nogil:
    """Take the next item; 1: here it is, 0: there is none, -1: no memory, and nothing has changed."""
    cdef UpdateItem* first = watch.first
    if first != NULL:
        watch.first = first.next
        if watch.first == NULL:
            watch.last = NULL
        item[0] = first[0]
        free(first)
        if item.is_counted:
            add_atomically(&watch.queue.waiting, -1)
        watch.is_introduced = True
        return 1
    if not watch.has_news or (watch.is_lost and not watch.is_introduced and not watch.is_over):
        return 0
    fill_item(book, item)
    item.is_lost = watch.is_lost
    item.is_snapshot = watch.needs_snapshot and not watch.is_lost
    if watch.policy != LATEST_POLICY and not watch.is_lost:
        if watch.needs_snapshot:
            item.bids = held_by_side(&book._bids, -1)
            item.asks = held_by_side(&book._asks, 1)
            item.bid_count = book._bids.level_count
            item.ask_count = book._asks.level_count
        else:
            item.bids = touched_levels(&book._bids, &watch.bids, -1)
            item.asks = touched_levels(&book._asks, &watch.asks, 1)
            item.bid_count = watch.bids.count
            item.ask_count = watch.asks.count
        if item.bids == NULL or item.asks == NULL:
            item_clear(item)
            return -1
    item.cause = watch.cause
    item.missed = watch.updates
    if not item.is_snapshot and not item.is_lost and watch.updates > 0:
        item.missed -= 1            # the last update has this item
        item.first_id = watch.first_id
    prices_clear(&watch.bids)
    prices_clear(&watch.asks)
    watch.updates = 0
    watch.first_id = 0
    watch.cause = NO_CAUSE
    watch.has_news = False
    watch.needs_snapshot = watch.is_lost
    watch.dropped = book._bids.dropped + book._asks.dropped
    watch.is_introduced = True
    return 1


cdef inline bint has_more(const Watch* watch) noexcept nogil:
    return watch.first != NULL or (watch.has_news and (not watch.is_lost or watch.is_introduced or watch.is_over))


# ---------------------------------------------------------------------------------------------------------- the objects

@cython.final
@cython.no_gc_clear
cdef class BookWatch:
    """One stream's interest in one book. Made by `UpdateQueue.add`; dropping it ends the interest."""

    cdef Watch _watch
    cdef OrderBook _book                # set once, by `UpdateQueue.add`
    cdef bint _is_attached              # under the book's lock
    cdef readonly object owner

    def __dealloc__(self):
        self._detach()

    cdef int _detach(self) except -1:
        """Leave the book: from now on nothing is noted."""
        cdef Watch** place
        cdef OrderBook book = self._book
        cdef bint was_attached = False
        if book is None:
            return 0
        mutex_lock(&book._mutex)
        was_attached = self._is_attached
        if was_attached:
            self._is_attached = False
            place = &book._watches
            while place[0] != &self._watch:
                place = &place[0].next
            place[0] = self._watch.next
            items_release(&self._watch)
            prices_clear(&self._watch.bids)
            prices_clear(&self._watch.asks)
            self._watch.has_news = False
        mutex_unlock(&book._mutex)
        if was_attached:
            queue_release(self._watch.queue)
        return 0


@cython.final
@cython.no_gc_clear
cdef class UpdateQueue:
    """What waits for one consumer, of any number of books.

    Args:
        waiting_max: items of the policy "every" that may wait. With more, a consumer of a book gets a snapshot.
        is_inline: its consumer runs in the thread of the feed; `FrameReader.calls_inline` says when.

    Thread-safety: any method may be called from any thread. Each item is taken once.
    """

    cdef QueueState* _state             # owned reference
    cdef Mutex _mutex                   # of the list below; the books' locks come after it
    cdef Watch* _first                  # watches that were taken from the ready list, oldest first
    cdef Watch* _last
    cdef set _watches

    def __cinit__(self, int waiting_max=10_000, *, bint is_inline=False):
        if waiting_max < 1:
            raise ValueError(f"waiting_max must be at least 1, not {waiting_max}")
        self._watches = set()
        self._state = <QueueState*>malloc(sizeof(QueueState))
        if self._state == NULL:
            raise MemoryError()
        memset(self._state, 0, sizeof(QueueState))
        self._state.references = 1
        self._state.waiting_max = waiting_max
        self._state.fd = self._state.read_fd = -1
        self._state.is_inline = is_inline

    def __dealloc__(self):
        if self._state != NULL:
            self.set_descriptor(-1, -1, False)
            queue_release(self._state)

    def add(self, OrderBook book not None, owner, int policy, bint is_scaled=False):
        """Note what happens to a book from now on; return the `BookWatch`. `policy`: 0 latest, 1 changes, 2 every."""
        cdef BookWatch handle
        cdef int cause = NO_CAUSE
        cdef bint needs_wake = False
        if policy not in (LATEST_POLICY, CHANGES_POLICY, EVERY_POLICY):
            raise ValueError(f"policy must be 0, 1 or 2, not {policy}")
        handle = BookWatch()
        handle.owner = owner
        handle._watch.queue = self._state
        handle._watch.handle = <void*>handle
        handle._watch.policy = <WatchPolicy>policy
        handle._watch.is_scaled = is_scaled
        handle._watch.cause = NO_CAUSE
        handle._watch.is_lost = handle._watch.needs_snapshot = True
        add_atomically(&self._state.references, 1)
        self._watches.add(handle)
        handle._book = book
        mutex_lock(&book._mutex)
        handle._is_attached = True
        handle._watch.next = book._watches
        book._watches = &handle._watch
        handle._watch.dropped = book._bids.dropped + book._asks.dropped
        if watched_state(book, &cause) == READABLE:
            regain(book, &handle._watch)
        elif is_final_number(cause):
            lose(book, &handle._watch, cause)
        needs_wake = book._has_news
        mutex_unlock(&book._mutex)
        if needs_wake:
            wake_consumers(book, False)
        return handle

    def remove(self, BookWatch watch not None):
        """Note nothing more of a book, and drop what waits of it. Idempotent."""
        cdef Watch* at
        cdef Watch* before = NULL
        watch._detach()
        mutex_lock(&self._mutex)
        self._refill()
        at = self._first
        while at != NULL and at != &watch._watch:
            before = at
            at = at.next_ready
        if at != NULL:
            if before == NULL:
                self._first = at.next_ready
            else:
                before.next_ready = at.next_ready
            if self._last == at:
                self._last = before
        mutex_unlock(&self._mutex)
        self._watches.discard(watch)

    def clear(self):
        """Remove all watches."""
        for watch in list(self._watches):
            self.remove(watch)

    cdef void _refill(self) noexcept nogil:
        """Append what has become ready, oldest first. Under the mutex."""
        cdef Watch* at = <Watch*>take_all_nodes(&self._state.ready)
        cdef Watch* older = NULL
        cdef Watch* following
        cdef Watch* newest = at
        while at != NULL:
            following = at.next_ready
            at.next_ready = older
            older = at
            at = following
        if older == NULL:
            return
        if self._last == NULL:
            self._first = older
        else:
            self._last.next_ready = older
        self._last = newest

    cdef int _take(self, UpdateItem* item, PyObject** handle) noexcept nogil:
        """Take the next item of any book; 1, 0 or -1 as `take_item`. Under the mutex."""
        cdef Watch* watch
        cdef int found = 0
        cdef bint stays = False
        handle[0] = NULL
        while found == 0:
            if self._first == NULL:
                self._refill()
            watch = self._first
            if watch == NULL:
                return 0
            self._first = watch.next_ready
            if self._first == NULL:
                self._last = NULL
            watch.next_ready = NULL
            found = take_ready(<BookWatch>watch.handle, item, &stays)
            if stays:
                if self._last == NULL:
                    self._first = watch
                else:
                    self._last.next_ready = watch
                self._last = watch
            handle[0] = <PyObject*>watch.handle
        return found

    def take(self):
        """Return the next item, a tuple that `ldc.consume.updates` knows, or None: there is none.

        Books take turns. Raises MemoryError, and has changed nothing then.
        """
        cdef UpdateItem item
        cdef PyObject* handle = NULL
        cdef BookWatch watch
        cdef int found = 0
        mutex_lock(&self._mutex)
        found = self._take(&item, &handle)
        if handle != NULL:
            Py_INCREF(<object>handle)
        mutex_unlock(&self._mutex)
        if handle == NULL:
            return None
        watch = <BookWatch>handle
        Py_DECREF(watch)
        if found < 0:
            raise MemoryError()
        if found == 0:
            return None
        try:
            taken = item_fields(watch, &item)
        finally:
            item_clear(&item)
        if item.is_lost and is_final_number(item.cause):
            self.remove(watch)
        return taken

    # ------------------------------------------------------------------------------------------ waiting

    def arm(self):
        """Ask to be signalled at the next item; return False if one waits already."""
        self.drain()
        exchange_strongly(&self._state.is_signalled, 0)
        return self._first == NULL and is_list_empty(&self._state.ready)

    def drain(self):
        """Make the descriptor unreadable."""
        if load_strongly(&self._state.is_written) != 0:
            mutex_lock(&self._state.mutex)
            exchange_strongly(&self._state.is_written, 0)
            if self._state.read_fd >= 0:
                drain_descriptor(self._state.read_fd)
            mutex_unlock(&self._state.mutex)

    def wait(self, timeout_s=None):
        """Block, without the GIL, until the queue is signalled, at most so long. May return early. Handles signals."""
        cdef int64_t deadline = -1 if timeout_s is None else monotonic_ns() + ns_of(timeout_s)
        cdef int seen, status = 0
        cdef QueueState* state = self._state
        add_atomically(&state.sleepers, 1)
        seen = load_strongly(&state.change)
        if load_strongly(&state.is_signalled) == 0:
            with nogil:
                status = sleep_until_changed(&state.change, seen, deadline, 0)
        add_atomically(&state.sleepers, -1)
        if status != 0:
            PyErr_CheckSignals()

    def wake(self):
        """Signal the queue, as an item does."""
        queue_wake(self._state)

    def set_descriptor(self, int read_fd, int write_fd, bint is_event):
        """Signal by a descriptor as well, which does not block; -1: by none. `is_event`: it is an eventfd.

        After the return no thread uses the descriptor that was set before: close it then.
        """
        mutex_lock(&self._state.mutex)
        self._state.read_fd = read_fd
        self._state.fd = write_fd
        self._state.is_event = is_event
        if write_fd >= 0 and load_strongly(&self._state.is_signalled) != 0:
            exchange_strongly(&self._state.is_written, 1)
            signal_descriptor(write_fd, is_event)
        mutex_unlock(&self._state.mutex)

    def set_parent(self, UpdateQueue parent):
        """Signal another queue together with this one, or (None) no longer."""
        cdef QueueState* before
        mutex_lock(&self._state.mutex)
        before = self._state.parent
        self._state.parent = NULL if parent is None else parent._state
        if parent is not None:
            add_atomically(&parent._state.references, 1)
        mutex_unlock(&self._state.mutex)
        queue_release(before)

    @property
    def waiting(self):
        """How many items of the policy "every" wait."""
        return load_strongly(&self._state.waiting)

    @property
    def has_ready(self):
        """Whether something waits, perhaps."""
        return self._first != NULL or not is_list_empty(&self._state.ready)

    def check_leases(self):
        """Note the books whose lease has expired since the last check, and those whose lease is renewed again."""
        cdef BookWatch watch
        for watch in list(self._watches):
            check_lease(watch._book, watch)
            if watch._book._has_news:
                wake_consumers(watch._book, False)


cdef void check_lease(OrderBook book, BookWatch handle) noexcept:
    cdef Watch* watch = &handle._watch
    cdef Refusal refusal
    cdef int cause = NO_CAUSE
    mutex_lock(&book._mutex)
    if handle._is_attached and not watch.is_over and watched_state(book, &cause) == READABLE:
        if state_of_book(book, &refusal) == STALLED:
            if not watch.is_lost:
                lose(book, watch, NUMBER_OF_STALLED)
        elif watch.is_stalled:
            regain(book, watch)
    elif watch.is_stalled:              # lost for another reason meanwhile, and regained as any loss is
        watch.is_stalled = False
    mutex_unlock(&book._mutex)


cdef inline int take_locked(OrderBook book, Watch* watch, UpdateItem* item, bint* stays) noexcept nogil:
    """`take_item` under the lock of its book; `stays`: there is more."""
    cdef int found
    mutex_lock(&book._mutex)
    found = take_item(book, watch, item)
    stays[0] = found < 0 or has_more(watch)
    watch.is_ready = stays[0]
    mutex_unlock(&book._mutex)
    return found


cdef int take_ready(BookWatch handle, UpdateItem* item, bint* stays) noexcept nogil:
    return take_locked(handle._book, &handle._watch, item, stays)


# ------------------------------------------------------------------------------------------------------ Python's values

cdef object units_of_levels(const Level* levels, int32_t count):
    """Return levels as the bytes of their integers, which `decode_levels` reads."""
    return PyBytes_FromStringAndSize(<const char*>levels, count * sizeof(Level)) if levels != NULL else None


cdef Level* sorted_levels(Level* levels, int32_t count, bint is_bids) noexcept nogil:
    cdef int32_t index
    cdef Level level
    if levels != NULL:
        qsort(levels, count, sizeof(Level), compare_prices)
        if is_bids:
            for index in range(count // 2):
                level = levels[index]
                levels[index] = levels[count - 1 - index]
                levels[count - 1 - index] = level
    return levels


cdef object cause_text(BookWatch watch, int cause):
    if cause == NO_CAUSE:
        return None
    if cause >= 0:
        return CAUSE_NAMES[cause]
    text = cause_of(watch._book)
    return "SUSPENDED" if text is None else text


cdef object item_fields(BookWatch watch, UpdateItem* item):
    """Return an item as the tuple `ldc.consume.updates.Fields`."""
    cdef const Place* place = &item.place
    message = None
    if item.message != NULL:
        message = PyBytes_FromStringAndSize(<const char*>item.message + sizeof(SharedMessage), item.message.length)
    elif not item.is_snapshot:
        sorted_levels(item.bids, item.bid_count, True)
        sorted_levels(item.asks, item.ask_count, False)
    return (
        watch.owner,
        item.is_lost,
        item.is_snapshot,
        cause_text(watch, item.cause),
        item.missed,
        item.first_id if item.first_id != 0 else None,
        place.last_update_id if item.is_loaded else None,
        place.event_time_ms if item.is_loaded and place.has_event_time else None,
        place.transaction_time_ms if item.is_loaded and place.has_transaction_time else None,
        place.received_time_ns if item.is_loaded and place.has_received_time else None,
        item.epoch,
        item.price_scale,
        item.quantity_scale,
        item.bid_horizon if item.has_bid_horizon else None,
        item.ask_horizon if item.has_ask_horizon else None,
        message,
        units_of_levels(item.bids, item.bid_count),
        units_of_levels(item.asks, item.ask_count),
    )


cdef list pairs_of(const Level* levels, int32_t count, int32_t price_scale, int32_t quantity_scale, object number):
    cdef int32_t index
    if number is int:
        return [(levels[index].price, levels[index].quantity) for index in range(count)]
    return list(levels_as_tuples(levels, count, price_scale, quantity_scale, number_type(number)))


def decode_levels(units, int32_t price_decimals, int32_t quantity_decimals, number):
    """Return the levels of an item as [(price, quantity)] of that type; int: the units themselves.

    `units`: what an item of either implementation has.
    """
    cdef Py_ssize_t size
    if type(units) is not bytes:
        return [
            (decode_price(price, price_decimals, number), decode_price(quantity, quantity_decimals, number))
            for price, quantity in units
        ]
    size = PyBytes_GET_SIZE(units)
    return pairs_of(
        <const Level*>PyBytes_AS_STRING(units), <int32_t>(size // <Py_ssize_t>sizeof(Level)),
        price_decimals, quantity_decimals, number)


def decode_price(units, int32_t price_decimals, number):
    """Return the units of a price as that type, or None for None."""
    if units is None or number is int:
        return units
    return units_number(units, price_decimals, number_type(number))


def decode_update(payload, int32_t price_decimals, int32_t quantity_decimals, number):
    """Return (bids, asks) of a depth update that a book of these decimals has applied, each as `decode_levels`.

    Raises MalformedMessage for what no such book can have applied.
    """
    cdef Level bid_stack[STACK_LEVELS]
    cdef Level ask_stack[STACK_LEVELS]
    cdef Cursor c
    cdef Message m
    cdef Py_buffer view
    blank_view(&view)
    message_open(&m, bid_stack, ask_stack)
    try:
        open_payload(&c, &view, payload)
        if c.problem == NULL and read_update(&c, &m, True, price_decimals, quantity_decimals) == 0:
            if m.bids.wide != NULL:
                message_side_settle(&c, &m.bids, 0, 0, price_decimals, quantity_decimals, True)
            if m.asks.wide != NULL and c.problem == NULL:
                message_side_settle(&c, &m.asks, 0, 0, price_decimals, quantity_decimals, True)
        if c.problem != NULL:
            raise_problem(None, &c, "depth update")
        return (
            pairs_of(m.bids.levels, m.bids.count, price_decimals, quantity_decimals, number),
            pairs_of(m.asks.levels, m.asks.count, price_decimals, quantity_decimals, number),
        )
    finally:
        message_close(&m)
        PyBuffer_Release(&view)


def event_of(payload):
    """Return the bytes of the event in a message: the object under `data` of a wrapper, or all of a bare event.

    Raises MalformedMessage for what is no JSON object.
    """
    cdef Cursor c
    cdef Text key
    cdef Py_buffer view
    cdef bint is_first = True
    cdef const char* start
    cdef int status
    blank_view(&view)
    try:
        open_payload(&c, &view, payload)
        if c.problem == NULL and open_object(&c) == 0:
            while True:
                status = next_key(&c, &is_first, &key)
                if status <= 0:
                    break
                start = c.p
                if skip_value(&c, 1) < 0:
                    break
                if text_is(&key, b"data", 4):
                    return start[:c.p - start]
        if c.problem != NULL:
            raise_problem(None, &c, "message")
        return c.start[:c.end - c.start]
    finally:
        PyBuffer_Release(&view)
