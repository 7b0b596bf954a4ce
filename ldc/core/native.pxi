# C shims: lock, allocation, SWAR digit parsing, atomics.
#
# The lock. From CPython 3.13 on it is a PyMutex: one byte, about 1 ns without contention, with and without the GIL.
# Before 3.13 there is always the GIL, and the GIL is the lock. The code between `mutex_lock` and `mutex_unlock` runs no
# Python and releases nothing, so that no other thread runs meanwhile. A lock of those versions (PyThread_type_lock)
# would cost each call 26 ns for nothing. For the same reason: never release the GIL around either.

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

    /* Set a flag and return what it was, as one step for all threads. With a GIL it is one anyway. */
    static inline int ldc_exchange(int *flag, int value) {
    #if !defined(Py_GIL_DISABLED)
        int before = *flag;
        *flag = value;
        return before;
    #elif defined(_MSC_VER)
        return (int)_InterlockedExchange((volatile long *)flag, (long)value);
    #else
        return __atomic_exchange_n(flag, value, __ATOMIC_ACQ_REL);
    #endif
    }

    /* Read a number that another thread changes with ldc_exchange: the number alone, ... */
    static inline int ldc_read_relaxed(const int *number) {
    #if !defined(Py_GIL_DISABLED) || defined(_MSC_VER)
        return *(const volatile int *)number;
    #else
        return __atomic_load_n(number, __ATOMIC_RELAXED);
    #endif
    }

    /* ... or in one order for all threads: a thread that exchanges after this read sees what was written before it. A
       plain read would not do: a processor may read ahead of its own writes. */
    static inline int ldc_read_in_order(int *number) {
    #if !defined(Py_GIL_DISABLED)
        return *number;
    #elif defined(_MSC_VER)
        return (int)_InterlockedOr((volatile long *)number, 0);
    #else
        return __atomic_fetch_or(number, 0, __ATOMIC_ACQ_REL);
    #endif
    }

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
    int exchange "ldc_exchange"(int* flag, int value) noexcept nogil
    int read_relaxed "ldc_read_relaxed"(const int* number) noexcept nogil
    int read_in_order "ldc_read_in_order"(int* number) noexcept nogil
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
    const uint64_t LETTER_KEY "0x3A2200222CULL"                 # ,"x": as `load8` returns it
    const uint64_t LETTER_KEY_MASK "0xFFFF00FFFFULL"
    const uint64_t ASCII_ZEROS "0x3030303030303030ULL"
