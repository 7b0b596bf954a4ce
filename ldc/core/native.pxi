# C shims: lock, allocation, SWAR digit parsing, atomics.
#
# The lock. With a GIL it is a word and a futex, or the system's smallest lock: the loop commits without the GIL, so the
# GIL protects nothing. Not a PyMutex there: a reader that meets it locked would give the GIL away and queue for it.
# Without a GIL it is a PyMutex. Nobody waits for the GIL while holding the lock: no Python runs inside it.

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    #endif

    /* Every x86-64 has SSE2. LDC_PORTABLE leaves it out: the builds that check try what other processors run. */
    #if (defined(__SSE2__) || defined(_M_X64)) && !defined(LDC_PORTABLE)
    #define LDC_SSE2 1
    #include <emmintrin.h>
    #endif

    #include <errno.h>
    #if defined(__linux__)
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    #endif

    /* Atomics. Numbers that threads share without a lock: the loop writes them without the GIL. */
    #if defined(_MSC_VER)
    #define ldc_load(number) (*(const volatile int *)(number))
    #define ldc_pause() _mm_pause()
    #else
    #define ldc_load(number) __atomic_load_n((number), __ATOMIC_RELAXED)
    #if defined(__x86_64__) || defined(__i386__)
    #define ldc_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define ldc_pause() __asm__ __volatile__("yield")
    #else
    #define ldc_pause() ((void)0)
    #endif
    #endif

    #if defined(__linux__)
    static int ldc_futex(int *word, int operation, int value, const struct timespec *timeout) {
        return (int)syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
    }
    #endif

    #if defined(Py_GIL_DISABLED)
    typedef PyMutex ldc_mutex;
    #define ldc_mutex_lock(mutex) PyMutex_Lock(mutex)
    #define ldc_mutex_unlock(mutex) PyMutex_Unlock(mutex)
    #elif defined(__linux__)
    /* 0: free, 1: locked, 2: locked, and a thread may sleep on it. A commit takes microseconds: spin, then sleep. */
    typedef int ldc_mutex;
    enum { LDC_SPINS = 100 };
    static void ldc_mutex_lock_slow(ldc_mutex *mutex) {
        for (int spin = 0; spin < LDC_SPINS; spin++) {
            int unlocked = 0;
            if (ldc_load(mutex) == 0
                    && __atomic_compare_exchange_n(mutex, &unlocked, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                return;
            ldc_pause();
        }
        while (__atomic_exchange_n(mutex, 2, __ATOMIC_ACQUIRE) != 0)
            ldc_futex(mutex, FUTEX_WAIT, 2, NULL);
    }
    static inline void ldc_mutex_lock(ldc_mutex *mutex) {
        int unlocked = 0;
        if (!__atomic_compare_exchange_n(mutex, &unlocked, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            ldc_mutex_lock_slow(mutex);
    }
    static inline void ldc_mutex_unlock(ldc_mutex *mutex) {
        if (__atomic_exchange_n(mutex, 0, __ATOMIC_RELEASE) == 2)
            ldc_futex(mutex, FUTEX_WAKE, 1, NULL);
    }
    #elif defined(__APPLE__)
    #include <os/lock.h>
    typedef os_unfair_lock ldc_mutex;
    #define ldc_mutex_lock(mutex) os_unfair_lock_lock(mutex)
    #define ldc_mutex_unlock(mutex) os_unfair_lock_unlock(mutex)
    #elif defined(_WIN32)
    #include <windows.h>
    typedef SRWLOCK ldc_mutex;
    #define ldc_mutex_lock(mutex) AcquireSRWLockExclusive(mutex)
    #define ldc_mutex_unlock(mutex) ReleaseSRWLockExclusive(mutex)
    #else
    #include <pthread.h>
    typedef pthread_mutex_t ldc_mutex;
    #define ldc_mutex_lock(mutex) pthread_mutex_lock(mutex)
    #define ldc_mutex_unlock(mutex) pthread_mutex_unlock(mutex)
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

    /* The index of the lowest bit that is set; there is one. */
    static inline int ldc_lowest_bit(uint64_t bits) {
    #if defined(_MSC_VER)
        unsigned long index;
        _BitScanForward64(&index, bits);
        return (int)index;
    #else
        return __builtin_ctzll(bits);
    #endif
    }

    /* Which of 48 bytes are '"': bit i stands for p[i]. */
    static inline uint64_t ldc_quotes48(const char *p) {
        uint64_t quotes = 0;
    #if defined(LDC_SSE2)
        const __m128i quote = _mm_set1_epi8('"');
        for (int i = 0; i < 48; i += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(p + i));
            quotes |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, quote)) << i;
        }
    #else
        for (int i = 0; i < 48; i += 8) {
            uint64_t other = ldc_load8(p + i) ^ (LDC_ONES * 0x22);
            uint64_t marks = ~(((other & ~LDC_HIGHS) + ~LDC_HIGHS) | other) & LDC_HIGHS;
            quotes |= (((marks >> 7) * 0x0102040810204080ULL) >> 56) << i;
        }
    #endif
        return quotes;
    }

    /* The last n of eight bytes, as a mask for what ldc_load8 returns. */
    static const uint64_t LDC_LAST_BYTES[9] = {
        0, 0xFF00000000000000ULL, 0xFFFF000000000000ULL, 0xFFFFFF0000000000ULL, 0xFFFFFFFF00000000ULL,
        0xFFFFFFFFFF000000ULL, 0xFFFFFFFFFFFF0000ULL, 0xFFFFFFFFFFFFFF00ULL, 0xFFFFFFFFFFFFFFFFULL};

    /* Four numbers: of the eight bytes at each `text` the last `count`, 0 to 8. Returns 0 if all are digits. */
    static inline int ldc_four_numbers(const char *const text[4], const int32_t count[4], uint32_t number[4]) {
    #if defined(LDC_SSE2)
        /* Two digits to a number of 16 bits, two of these to one of 32, and once more. */
        __m128i part[2], wrong = _mm_setzero_si128();
        for (int i = 0; i < 2; i++) {
            __m128i bytes = _mm_unpacklo_epi64(
                _mm_loadl_epi64((const __m128i *)text[2 * i]), _mm_loadl_epi64((const __m128i *)text[2 * i + 1]));
            __m128i mask = _mm_unpacklo_epi64(
                _mm_loadl_epi64((const __m128i *)&LDC_LAST_BYTES[count[2 * i]]),
                _mm_loadl_epi64((const __m128i *)&LDC_LAST_BYTES[count[2 * i + 1]]));
            __m128i digits = _mm_and_si128(_mm_xor_si128(bytes, _mm_set1_epi8('0')), mask);
            wrong = _mm_or_si128(wrong, _mm_or_si128(_mm_add_epi8(digits, _mm_set1_epi8(0x76)), digits));
            __m128i tens = _mm_mullo_epi16(_mm_and_si128(digits, _mm_set1_epi16(0xFF)), _mm_set1_epi16(10));
            __m128i pairs = _mm_add_epi16(tens, _mm_srli_epi16(digits, 8));
            part[i] = _mm_madd_epi16(pairs, _mm_set1_epi32(100 | 1 << 16));
        }
        __m128i fours = _mm_packs_epi32(part[0], part[1]);
        _mm_storeu_si128((__m128i *)number, _mm_madd_epi16(fours, _mm_set1_epi32(10000 | 1 << 16)));
        return _mm_movemask_epi8(wrong);
    #else
        uint64_t wrong = 0;
        for (int i = 0; i < 4; i++) {
            uint64_t digits = (ldc_load8(text[i]) ^ (LDC_ONES * 0x30)) & LDC_LAST_BYTES[count[i]];
            wrong |= ldc_non_digits(digits);
            number[i] = (uint32_t)ldc_eight_digits(digits);
        }
        return wrong != 0;
    #endif
    }

    /* Set a number and return what it was, as one step for all threads. */
    static inline int ldc_exchange(int *number, int value) {
    #if defined(_MSC_VER)
        return (int)_InterlockedExchange((volatile long *)number, (long)value);
    #else
        return __atomic_exchange_n(number, value, __ATOMIC_ACQ_REL);
    #endif
    }

    /* Add to a number and return what it was, as one step for all threads. */
    static inline int ldc_add(int *number, int value) {
    #if defined(_MSC_VER)
        return (int)_InterlockedExchangeAdd((volatile long *)number, (long)value);
    #else
        return __atomic_fetch_add(number, value, __ATOMIC_ACQ_REL);
    #endif
    }

    static inline int64_t ldc_add64(int64_t *number, int64_t value) {
    #if defined(_MSC_VER)
        return (int64_t)_InterlockedExchangeAdd64((volatile long long *)number, (long long)value);
    #else
        return __atomic_fetch_add(number, value, __ATOMIC_RELAXED);
    #endif
    }

    /* Look at a number that another thread changes: the number alone, ... */
    static inline int ldc_read_relaxed(const int *number) {
        return ldc_load(number);
    }

    /* ... or in one order for all threads: what was written before this look is seen by any thread that exchanges after
       it. A plain load would not do: a processor may read ahead of its own writes. */
    static inline int ldc_read_in_order(int *number) {
    #if defined(_MSC_VER)
        return (int)_InterlockedOr((volatile long *)number, 0);
    #else
        return __atomic_fetch_or(number, 0, __ATOMIC_ACQ_REL);
    #endif
    }

    /* A number that one thread writes and others read; nothing else is ordered by it. */
    static inline int64_t ldc_load_relaxed(const int64_t *number) {
    #if defined(_MSC_VER)
        return *(const volatile int64_t *)number;
    #else
        return __atomic_load_n(number, __ATOMIC_RELAXED);
    #endif
    }
    static inline double ldc_load_double(const double *number) {
    #if defined(_MSC_VER)
        return *(const volatile double *)number;
    #else
        double value;
        __atomic_load(number, &value, __ATOMIC_RELAXED);
        return value;
    #endif
    }
    static inline void ldc_store_double(double *number, double value) {
    #if defined(_MSC_VER)
        *(volatile double *)number = value;
    #else
        __atomic_store(number, &value, __ATOMIC_RELAXED);
    #endif
    }
    static inline void ldc_store_relaxed(int64_t *number, int64_t value) {
    #if defined(_MSC_VER)
        *(volatile int64_t *)number = value;
    #else
        __atomic_store_n(number, value, __ATOMIC_RELAXED);
    #endif
    }

    /* The lease clock, in ns: it never goes back, and it counts the time for which the machine sleeps. `exact` is for
       writers. `coarse` is for every read of a book: at most one tick of the kernel (1 to 10 ms) behind the other.

       On Linux both are CLOCK_BOOTTIME. It takes 23 ns: too long for a read of 50 ns. A coarse clock takes 5 ns, but
       none both counts sleep and never goes back. So `coarse` is the coarse monotonic clock and the sleep measured
       last. Sleep moves it and the wall clock apart, and so does a change of the wall clock. Whenever they have moved
       apart by LDC_WALL_MOVED_NS, the sleep is measured again. */
    #if defined(_WIN32)
    #if !defined(WIN32_LEAN_AND_MEAN)
    #define WIN32_LEAN_AND_MEAN
    #endif
    #if !defined(NOMINMAX)
    #define NOMINMAX
    #endif
    #include <windows.h>
    static inline int64_t ldc_clock_exact(void) {
        return (int64_t)GetTickCount64() * 1000000;
    }
    #define ldc_clock_coarse ldc_clock_exact
    #else
    #include <time.h>
    static inline int64_t ldc_clock(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    #if defined(__APPLE__)
    /* Here this clock counts sleep, and the other monotonic ones of Python do not. */
    static inline int64_t ldc_clock_exact(void) {
        return ldc_clock(CLOCK_MONOTONIC_RAW);
    }
    #define ldc_clock_coarse ldc_clock_exact
    #elif defined(CLOCK_BOOTTIME)
    static inline int64_t ldc_clock_exact(void) {
        return ldc_clock(CLOCK_BOOTTIME);
    }
    #else
    static inline int64_t ldc_clock_exact(void) {
        return ldc_clock(CLOCK_MONOTONIC);
    }
    #endif
    #if defined(CLOCK_BOOTTIME) && defined(CLOCK_MONOTONIC_COARSE) && defined(CLOCK_REALTIME_COARSE)
    #define LDC_WALL_MOVED_NS 100000000
    static int64_t ldc_slept_ns = 0;
    static int64_t ldc_wall_ns = INT64_MIN / 2;  /* ahead of the monotonic clock, when the sleep was measured */

    /* Measure the sleep, and return the exact time. Where the thread was held up meanwhile, the next read measures. */
    static int64_t ldc_measure_sleep(int64_t wall_ns) {
        int64_t before = ldc_clock(CLOCK_MONOTONIC);
        int64_t now = ldc_clock(CLOCK_BOOTTIME);
        if (ldc_clock(CLOCK_MONOTONIC) - before < 1000000) {
            /* In this order: who sees the new wall clock sees the sleep as well. */
            __atomic_store_n(&ldc_slept_ns, now - before, __ATOMIC_RELEASE);
            __atomic_store_n(&ldc_wall_ns, wall_ns, __ATOMIC_RELEASE);
        }
        return now;
    }
    static inline int64_t ldc_clock_coarse(void) {
        int64_t monotonic = ldc_clock(CLOCK_MONOTONIC_COARSE);
        int64_t wall_ns = ldc_clock(CLOCK_REALTIME_COARSE) - monotonic;
        int64_t moved = wall_ns - __atomic_load_n(&ldc_wall_ns, __ATOMIC_ACQUIRE);
        if (moved > LDC_WALL_MOVED_NS || moved < -LDC_WALL_MOVED_NS)
            return ldc_measure_sleep(wall_ns);
        return monotonic + __atomic_load_n(&ldc_slept_ns, __ATOMIC_ACQUIRE);
    }
    #elif !defined(ldc_clock_coarse)
    #define ldc_clock_coarse ldc_clock_exact
    #endif
    #endif

    /* Memory. In the builds that check, tests can let allocations fail. */
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

    /* Whether each of these numbers, none of which is negative, is below 2**53, and so a double without rounding. */
    static inline int ldc_are_exact(const int64_t *units, Py_ssize_t count) {
        uint64_t bits = 0;
        for (Py_ssize_t index = 0; index < count; index++)
            bits |= (uint64_t)units[index];
        return bits >> 53 == 0;
    }

    /* New pairs of two floats. Nothing waits for the divisions that the arguments are: a check of them would. */
    static inline PyObject *ldc_float_tuple(double first, double second) {
        PyObject *a = PyFloat_FromDouble(first), *b = PyFloat_FromDouble(second);
        PyObject *pair = PyTuple_New(2);
        if (a == NULL || b == NULL || pair == NULL) {
            Py_XDECREF(a);
            Py_XDECREF(b);
            Py_XDECREF(pair);
            return NULL;
        }
        PyTuple_SET_ITEM(pair, 0, a);
        PyTuple_SET_ITEM(pair, 1, b);
        return pair;
    }
    static inline PyObject *ldc_float_list(double first, double second) {
        PyObject *a = PyFloat_FromDouble(first), *b = PyFloat_FromDouble(second);
        PyObject *pair = PyList_New(2);
        if (a == NULL || b == NULL || pair == NULL) {
            Py_XDECREF(a);
            Py_XDECREF(b);
            Py_XDECREF(pair);
            return NULL;
        }
        PyList_SET_ITEM(pair, 0, a);
        PyList_SET_ITEM(pair, 1, b);
        return pair;
    }

    /* Fill a new tuple with tuples, or a new list with lists, of units by turns of the one and of the other power. */
    static int ldc_fill_tuple(
            PyObject *out, const int64_t *units, Py_ssize_t count, double power, double other_power) {
        for (Py_ssize_t index = 0; index < count; index++) {
            PyObject *pair = ldc_float_tuple(
                (double)units[2 * index] / power, (double)units[2 * index + 1] / other_power);
            if (pair == NULL)
                return -1;
            PyTuple_SET_ITEM(out, index, pair);
        }
        return 0;
    }
    static int ldc_fill_list(
            PyObject *out, const int64_t *units, Py_ssize_t count, double power, double other_power) {
        for (Py_ssize_t index = 0; index < count; index++) {
            PyObject *pair = ldc_float_list(
                (double)units[2 * index] / power, (double)units[2 * index + 1] / other_power);
            if (pair == NULL)
                return -1;
            PyList_SET_ITEM(out, index, pair);
        }
        return 0;
    }

    /* A named tuple of these fields, as tuple.__new__ makes it, without what a call from Python has to check. */
    static inline PyObject *ldc_new_record(PyObject *type, PyObject *fields) {
        PyObject *arguments = PyTuple_Pack(1, fields), *record;
        if (arguments == NULL)
            return NULL;
        record = PyTuple_Type.tp_new((PyTypeObject *)type, arguments, NULL);
        Py_DECREF(arguments);
        return record;
    }
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
    int32_t lowest_bit "ldc_lowest_bit"(uint64_t bits) noexcept nogil
    uint64_t quotes48 "ldc_quotes48"(const char* p) noexcept nogil
    bint four_numbers "ldc_four_numbers"(const char** text, const int32_t* count, uint32_t* number) noexcept nogil
    int exchange "ldc_exchange"(int* number, int value) noexcept nogil
    int add_atomically "ldc_add"(int* number, int value) noexcept nogil
    int64_t add_atomically64 "ldc_add64"(int64_t* number, int64_t value) noexcept nogil
    int read_relaxed "ldc_read_relaxed"(const int* number) noexcept nogil
    int read_in_order "ldc_read_in_order"(int* number) noexcept nogil
    int64_t load_relaxed "ldc_load_relaxed"(const int64_t* number) noexcept nogil
    double load_double "ldc_load_double"(const double* number) noexcept nogil
    void store_double "ldc_store_double"(double* number, double value) noexcept nogil
    void store_relaxed "ldc_store_relaxed"(int64_t* number, int64_t value) noexcept nogil
    int64_t clock_exact "ldc_clock_exact"() noexcept nogil
    int64_t clock_coarse "ldc_clock_coarse"() noexcept nogil
    void* malloc "ldc_malloc"(size_t size) noexcept nogil
    void* realloc "ldc_realloc"(void* memory, size_t size) noexcept nogil
    bint limit_allocations "ldc_limit_allocations"(long left) noexcept nogil
    void blank_view "ldc_blank_view"(Py_buffer* view) noexcept nogil
    bint are_exact "ldc_are_exact"(const int64_t* units, Py_ssize_t count) noexcept nogil
    object float_tuple "ldc_float_tuple"(double first, double second)
    int fill_tuple "ldc_fill_tuple"(
        tuple out, const int64_t* units, Py_ssize_t count, double power, double other_power) except -1
    int fill_list "ldc_fill_list"(
        list out, const int64_t* units, Py_ssize_t count, double power, double other_power) except -1
    object new_record "ldc_new_record"(object type, tuple fields)
    const int64_t POW10 "LDC_POW10"[19]
    const int64_t FITS_BEFORE "LDC_FITS_BEFORE"[19]
    const double POW10_DOUBLE "LDC_POW10_DOUBLE"[19]
    const int64_t NEVER_NS "INT64_MIN"
    const uint64_t LETTER_KEY "0x3A2200222CULL"                 # ,"x": as `load8` returns it
    const uint64_t LETTER_KEY_MASK "0xFFFF00FFFFULL"
    const uint64_t ASCII_ZEROS "0x3030303030303030ULL"
