# What C has and Cython has not: the book's lock, memory, eight bytes at a time, an exchange that other threads see.
#
# The lock. From CPython 3.13 on it is a PyMutex: one byte, about 1 ns when nobody else wants it, and right with and
# without the GIL. Before 3.13 there is always the GIL, and it is the lock: what stands between `mutex_lock` and
# `mutex_unlock` runs no Python and releases nothing, so that no other thread runs meanwhile. A lock of those versions
# (PyThread_type_lock) would cost each call 26 ns for nothing. For the same reason: never release the GIL around either.

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    #endif

    #if PY_VERSION_HEX >= 0x030D0000
    typedef PyMutex ldc_mutex;
    #define ldc_mutex_lock(mutex) PyMutex_Lock(mutex)
    #define ldc_mutex_unlock(mutex) PyMutex_Unlock(mutex)
    #else
    typedef char ldc_mutex;
    #define ldc_mutex_lock(mutex) ((void)(mutex))
    #define ldc_mutex_unlock(mutex) ((void)(mutex))
    #endif

    #define LDC_ONES 0x0101010101010101ULL
    #define LDC_HIGHS 0x8080808080808080ULL

    /* Eight bytes as a number whose lowest byte is the first one. */
    static inline uint64_t ldc_load8(const char *p) {
        uint64_t word;
        memcpy(&word, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }

    /* The index of the first byte that is marked by its highest bit; `marks` is not 0. */
    static inline int ldc_first_byte(uint64_t marks) {
    #if defined(_MSC_VER)
        unsigned long index;
        _BitScanForward64(&index, marks);
        return (int)(index >> 3);
    #else
        return __builtin_ctzll(marks) >> 3;
    #endif
    }

    /* Marks the bytes that are not 0..9, given ASCII ^ "00000000". Marks above the first one may be wrong. */
    static inline uint64_t ldc_non_digits(uint64_t digits) {
        return ((digits + 0x7676767676767676ULL) | digits) & LDC_HIGHS;
    }

    /* The number that eight bytes 0..9 stand for, the first one the most significant. */
    static inline uint64_t ldc_eight_digits(uint64_t digits) {
        digits = (digits * 10 + (digits >> 8)) & 0x00FF00FF00FF00FFULL;
        digits = (digits * 100 + (digits >> 16)) & 0x0000FFFF0000FFFFULL;
        return (digits * 10000 + (digits >> 32)) & 0xFFFFFFFFULL;
    }

    /* Marks what a JSON string does not simply go on over: " \\ control characters, non-ASCII. */
    static inline uint64_t ldc_string_stops(uint64_t word) {
        uint64_t quote = word ^ (LDC_ONES * 0x22);
        uint64_t backslash = word ^ (LDC_ONES * 0x5C);
        uint64_t marks = (quote - LDC_ONES) & ~quote;
        marks |= (backslash - LDC_ONES) & ~backslash;
        marks |= (word - LDC_ONES * 0x20) & ~word;
        return (marks | word) & LDC_HIGHS;
    }

    /* A guess, put right: the same as `found`, but where `guess` was right nothing that follows waits for `found`.
     * Numbers in a message have the same shape again and again. Were the place of the next one computed from the
     * length found for this one, each would wait for the one before; so the length is guessed, and the processor goes
     * on while it checks the guess. The empty assembler statement keeps compilers from seeing that both are equal. */
    static inline int ldc_guessed(int guess, int found) {
        if (found != guess) {
    #if defined(__GNUC__)
            __asm__ volatile("" : "+r"(found));
    #endif
            return found;
        }
        return guess;
    }

    /* Set a flag and return what it was, as one step for all threads. */
    static inline int ldc_exchange(int *flag, int value) {
    #if defined(_MSC_VER)
        return (int)_InterlockedExchange((volatile long *)flag, (long)value);
    #else
        return __atomic_exchange_n(flag, value, __ATOMIC_ACQ_REL);
    #endif
    }

    /* Memory. The builds that check can be told to run out of it, so that tests see what happens then. */
    #if defined(LDC_CHECKED)
    static long ldc_allocations_left = -1;  /* -1: no end */
    static inline int ldc_allocation_fails(void) {
        if (ldc_allocations_left > 0) {
            ldc_allocations_left--;
        }
        return ldc_allocations_left == 0;
    }
    static inline int ldc_limit_allocations(long left) {
        ldc_allocations_left = left;
        return 1;
    }
    #else
    #define ldc_allocation_fails() 0
    static inline int ldc_limit_allocations(long left) {
        (void)left;
        return 0;
    }
    #endif
    static inline void *ldc_malloc(size_t size) {
        return ldc_allocation_fails() ? NULL : malloc(size);
    }
    static inline void *ldc_realloc(void *memory, size_t size) {
        return ldc_allocation_fails() ? NULL : realloc(memory, size);
    }

    /* A view that holds nothing, so that releasing it does nothing. */
    static inline void ldc_blank_view(Py_buffer *view) {
        view->obj = NULL;
    }

    static const int64_t LDC_POW10[19] = {
        1LL, 10LL, 100LL, 1000LL, 10000LL, 100000LL, 1000000LL, 10000000LL, 100000000LL, 1000000000LL, 10000000000LL,
        100000000000LL, 1000000000000LL, 10000000000000LL, 100000000000000LL, 1000000000000000LL,
        10000000000000000LL, 100000000000000000LL, 1000000000000000000LL};

    /* The largest number that fits int64 after it is multiplied by 10**n and less than 10**n is added. */
    static const int64_t LDC_FITS_BEFORE[19] = {
        INT64_MAX - 1, 922337203685477579LL, 92233720368547757LL, 9223372036854774LL, 922337203685476LL,
        92233720368546LL, 9223372036853LL, 922337203684LL, 92233720367LL, 9223372035LL, 922337202LL, 92233719LL,
        9223371LL, 922336LL, 92232LL, 9222LL, 921LL, 91LL, 8LL};

    static const double LDC_POW10_DOUBLE[19] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18};
    """
    ctypedef struct Mutex "ldc_mutex":
        pass    # zeroed memory is an unlocked one
    void mutex_lock "ldc_mutex_lock"(Mutex* mutex) noexcept nogil
    void mutex_unlock "ldc_mutex_unlock"(Mutex* mutex) noexcept nogil
    uint64_t load8 "ldc_load8"(const char* p) noexcept nogil
    int32_t first_byte "ldc_first_byte"(uint64_t marks) noexcept nogil
    uint64_t non_digits "ldc_non_digits"(uint64_t digits) noexcept nogil
    uint64_t eight_digits "ldc_eight_digits"(uint64_t digits) noexcept nogil
    uint64_t string_stops "ldc_string_stops"(uint64_t word) noexcept nogil
    int32_t guessed "ldc_guessed"(int32_t guess, int32_t found) noexcept nogil
    int exchange "ldc_exchange"(int* flag, int value) noexcept nogil
    void* malloc "ldc_malloc"(size_t size) noexcept nogil
    void* realloc "ldc_realloc"(void* memory, size_t size) noexcept nogil
    bint limit_allocations "ldc_limit_allocations"(long left) noexcept nogil
    void blank_view "ldc_blank_view"(Py_buffer* view) noexcept nogil
    const int64_t POW10 "LDC_POW10"[19]
    const int64_t FITS_BEFORE "LDC_FITS_BEFORE"[19]
    const double POW10_DOUBLE "LDC_POW10_DOUBLE"[19]
    const uint64_t ASCII_ZEROS "0x3030303030303030ULL"
