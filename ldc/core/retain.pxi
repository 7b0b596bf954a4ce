# Updates whose bytes a book keeps beside it, for a snapshot that is being downloaded.
#
# Rule 1: only the book's writer is here, so nothing is locked. The number of bytes of all books together is atomic.
# Rule 2: what is kept has no hole: the oldest is discarded for the newest. If even that is impossible, nothing is kept,
#         and the snapshot proves too old.

assert RETAINED_UPDATES_LIMIT == limits.RETAINED_UPDATES_MAX
assert RETAINED_BYTES_LIMIT == limits.RETAINED_BYTES_MAX
assert RETAINED_BYTES_LIMIT_OF_ALL == limits.RETAINED_BYTES_MAX_OF_ALL

cdef int64_t retained_bytes_of_all = 0


cdef void discard_oldest(RetainedUpdates* retained) noexcept nogil:
    cdef RetainedUpdate* oldest = retained.oldest
    retained.oldest = oldest.following
    retained.count -= 1
    retained.bytes -= oldest.length
    add_atomically64(&retained_bytes_of_all, -oldest.length)
    free(oldest)


cdef void discard_all(RetainedUpdates* retained) noexcept nogil:
    while retained.count != 0:
        discard_oldest(retained)


cdef void retain(RetainedUpdates* retained, const Cursor* c, const Place* place) noexcept nogil:
    """Keep a message that was applied."""
    cdef Py_ssize_t length = c.end - c.start
    cdef RetainedUpdate* newest
    while retained.count != 0 and (
            retained.count >= RETAINED_UPDATES_LIMIT
            or retained.bytes + length > RETAINED_BYTES_LIMIT
            or load_relaxed(&retained_bytes_of_all) + length > RETAINED_BYTES_LIMIT_OF_ALL):
        discard_oldest(retained)
    if load_relaxed(&retained_bytes_of_all) + length > RETAINED_BYTES_LIMIT_OF_ALL:
        return
    newest = <RetainedUpdate*>malloc(sizeof(RetainedUpdate) + length)
    if newest == NULL:
        discard_all(retained)
        return
    newest.following = NULL
    newest.length = length
    newest.has_received_time = place.has_received_time
    newest.received_time_ns = place.received_time_ns
    memcpy(<char*>(newest + 1), c.start, length)
    if retained.count == 0:
        retained.oldest = newest
    else:
        retained.newest.following = newest
    retained.newest = newest
    retained.count += 1
    retained.bytes += length
    add_atomically64(&retained_bytes_of_all, length)


cdef int apply_retained_updates(OrderBook book, const RetainedUpdates* retained) except -1:
    """Apply what another book has retained, until an update does not continue this one."""
    cdef const RetainedUpdate* update = retained.oldest if retained.count != 0 else NULL
    cdef Place place
    cdef Cursor c
    while update != NULL:
        place.has_event_time = place.has_transaction_time = False
        place.has_received_time = update.has_received_time
        place.received_time_ns = update.received_time_ns
        c.start = c.p = <const char*>(update + 1)
        c.end = c.start + update.length
        c.problem = NULL
        if apply_message(book, &c, &place) == GAP:
            break
        update = update.following
    return 0
