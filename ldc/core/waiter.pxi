# One thread that waits for many books.
#
# Rule 1: a waiter has one number to sleep on. It stands in a list of every book's binding, and whoever wakes a binding
#         changes that number as well.
# Rule 2: a list is changed and walked under its own lock. No Python runs under it and no other lock is taken, so the
#         loop takes it without the GIL, and a waiter that leaves is not touched after it has left.

cdef enum WaitEnd:
    TIME_IS_OVER        # of `_look`: no book has moved
    SOME_MOVED
    LOOK_WHY            # a book cannot be read, or its id is lower than the one waited for
    SIGNAL_CAME


@cython.final
@cython.no_gc_clear      # it leaves the lists of its bindings when it is freed
cdef class UpdateWaiter:
    """Waits for the first of many books that changes. Make it, wait, and `close` it: in a with block.

    Args:
        bindings: of the books, `StreamBinding`s.

    Thread-safety: one thread waits. Cost: O(bindings) to make, to close, and to look after each wake-up.
    """

    cdef tuple _bindings                # keeps alive what the listeners point to
    cdef Listener* _listeners
    cdef Py_ssize_t _count              # of those that stand in a list
    cdef int _change                    # of `wait_word`

    def __cinit__(self, bindings):
        cdef StreamBinding binding
        self._bindings = tuple(bindings)
        self._listeners = <Listener*>malloc(max(1, len(self._bindings)) * sizeof(Listener))
        if self._listeners == NULL:
            raise MemoryError()
        for index in range(len(self._bindings)):
            binding = <StreamBinding?>self._bindings[index]
            self._listeners[index].word = &self._change
            self._listeners[index].binding = <void*>binding
            enlist(binding, &self._listeners[index])
            self._count += 1

    def __dealloc__(self):
        self.close()
        free(self._listeners)

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        self.close()

    cpdef close(self):
        """Wait for nothing any more. Idempotent."""
        while self._count > 0:
            self._count -= 1
            delist(<StreamBinding>self._listeners[self._count].binding, &self._listeners[self._count])

    @property
    def change(self):
        """A number that is another one after each wake-up: read it before you look at what you wait for."""
        return read_in_order(&self._change)

    def wait(self, int seen, timeout_s=None, double spin_s=0.0):
        """Block, without the GIL, while `change` is `seen`, at most so long; spin first. May return early."""
        wait_on(&self._change, seen, timeout_s, spin_s)

    def wait_past(self, after, timeout_s=None, double spin_s=0.0):
        """Block, without the GIL, until a book is past its id; return the ids that were reached: {place: id}.

        Args:
            after: an id for each binding, in their order.

        {}: the time is over, or a book cannot be read, or its id is lower than that: look why. Ctrl-C and other signals
        are handled.
        """
        cdef int64_t deadline = -1 if timeout_s is None else monotonic_ns() + ns_of(timeout_s)
        cdef int64_t spin_ns = ns_of(spin_s)
        cdef int status = SIGNAL_CAME
        if len(after) != self._count:
            raise ValueError(f"{len(after)} ids for {self._count} books")
        for index in range(self._count):
            self._listeners[index].after = after[index]
        while status == SIGNAL_CAME:
            with nogil:
                status = self._sleep_past(deadline, spin_ns)
            if status == SIGNAL_CAME:
                PyErr_CheckSignals()
        if status != SOME_MOVED:
            return {}
        return {
            index: self._listeners[index].reached
            for index in range(self._count) if self._listeners[index].reached > self._listeners[index].after
        }

    cdef WaitEnd _sleep_past(self, int64_t deadline, int64_t spin_ns) noexcept nogil:
        cdef int seen
        cdef WaitEnd end
        while True:
            seen = read_in_order(&self._change)
            end = self._look()
            if end != TIME_IS_OVER:
                return end
            if deadline >= 0 and monotonic_ns() >= deadline:
                return TIME_IS_OVER
            if sleep_until_changed(&self._change, seen, deadline, spin_ns) != 0:
                return SIGNAL_CAME

    cdef WaitEnd _look(self) noexcept nogil:
        """Note where the books stand. A loss is reported before news of other books."""
        cdef WaitEnd end = TIME_IS_OVER
        cdef Listener* listener
        cdef Py_ssize_t index
        for index in range(self._count):
            listener = &self._listeners[index]
            listener.reached = reached_id((<StreamBinding>listener.binding).book)
            if listener.reached < listener.after:
                return LOOK_WHY
            if listener.reached > listener.after:
                end = SOME_MOVED
        return end

