# A lease: until when a book may be read without another proof that it is current.
#
# Rule: one number, written by one thread and read by all. The clock is the lease clock of native.pxi.

cdef struct LeaseTerms:
    int64_t proven_ns           # NEVER_NS: there was no proof
    int64_t duration_ns


cdef inline bint terms_ended(const LeaseTerms* terms, int64_t now_ns) noexcept nogil:
    # No difference overflows: a duration is positive, and the clock is not negative.
    return load_relaxed(&terms.proven_ns) < now_ns - terms.duration_ns


@cython.final
cdef class Lease:
    """The time until which books may be read without another proof that they are current.

    The writer of some books renews one lease for all of them. A book whose `lease` is expired refuses to be read, with
    the cause STALLED: its writer hangs, or its connection is dead. A lease that was never renewed is expired.

    Args:
        duration_ns: how old the last proof may be, in ns; at least 1.

    Thread-safety: one thread renews, any thread reads, without a lock.
    """

    cdef LeaseTerms _terms

    def __cinit__(self, duration_ns):
        duration_ns = exact.index(duration_ns, "duration_ns")
        if duration_ns < 1:
            raise ValueError(f"duration_ns must be at least 1, not {duration_ns}")
        self._terms.duration_ns = duration_ns
        self._terms.proven_ns = NEVER_NS

    def __repr__(self):
        return f"<Lease of {self.duration_ns / 1e9:g} s, proven at {self.proven_ns}>"

    def __reduce__(self):
        raise TypeError("a Lease cannot be copied or pickled: its clock is of this machine")

    @staticmethod
    def now_ns():
        """Return the time of the lease clock, in ns: it never goes back, and counts the sleep of the machine."""
        return clock_exact()

    def renew(self, proven_ns):
        """Note the time of a proof, by the lease clock. O(1): one store.

        It is the time that is proven, such as when an answered ping was sent. After a standstill the present is not
        proven. An earlier time than before is taken as well: the caller decides.
        """
        proven_ns = exact.index(proven_ns, "proven_ns")
        if proven_ns < 0:
            raise ValueError(f"proven_ns must not be negative, and is {proven_ns}")
        store_relaxed(&self._terms.proven_ns, proven_ns)

    def is_expired(self, now_ns=None):
        """Return whether the last proof is older than `duration_ns` at a time: at the present, unless given."""
        cdef int64_t now = clock_coarse() if now_ns is None else now_ns
        return terms_ended(&self._terms, max(now, <int64_t>0))

    @property
    def duration_ns(self):
        """How old the last proof may be."""
        return self._terms.duration_ns

    @property
    def proven_ns(self):
        """The time of the last proof, by the lease clock, or None: there was none."""
        cdef int64_t proven_ns = load_relaxed(&self._terms.proven_ns)
        return proven_ns if proven_ns != NEVER_NS else None

    @property
    def age_ns(self):
        """How old the last proof is, or None: there was none."""
        cdef int64_t proven_ns = load_relaxed(&self._terms.proven_ns)
        return max(clock_coarse() - proven_ns, <int64_t>0) if proven_ns != NEVER_NS else None
