# How threads sleep until a number changes, and are woken without the GIL.
#
# Rule 1: a waiter reads the number, looks whether what it waits for has happened, and sleeps only while the number is
#         still the same. A waker adds one and wakes. So no wake-up is lost, whichever comes first.
# Rule 2: Linux has futexes. Other POSIX systems get a few condition variables that share the numbers by address: a
#         waiter may be woken for another number, and looks again. On Windows a waiter looks every millisecond.

cdef extern from *:
    """
    #if defined(_WIN32)
    static int64_t ldc_monotonic_ns(void) {
        LARGE_INTEGER count, frequency;
        QueryPerformanceCounter(&count);
        QueryPerformanceFrequency(&frequency);
        return (int64_t)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
    }
    static inline int64_t ldc_realtime_ns(void) { return 0; }
    /* Looks every millisecond, or two. */
    static int ldc_wait_word(int *word, int seen, int64_t timeout_ns) {
        if (ldc_load(word) == seen && timeout_ns != 0)
            Sleep(1);
        return EINTR;
    }
    static void ldc_wake_word(int *word) { ldc_add(word, 1); }
    #else
    #include <time.h>
    static inline int64_t ldc_monotonic_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    static inline int64_t ldc_realtime_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    #if defined(__linux__)
    /* Sleep while *word is `seen`, at most so long (negative: without end). Returns EINTR after a signal, else 0. */
    static int ldc_wait_word(int *word, int seen, int64_t timeout_ns) {
        struct timespec t;
        if (timeout_ns >= 0) {
            t.tv_sec = (time_t)(timeout_ns / 1000000000LL);
            t.tv_nsec = (long)(timeout_ns % 1000000000LL);
        }
        return ldc_futex(word, FUTEX_WAIT, seen, timeout_ns >= 0 ? &t : NULL) < 0 && errno == EINTR ? EINTR : 0;
    }
    static void ldc_wake_word(int *word) {
        __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
        ldc_futex(word, FUTEX_WAKE, INT_MAX, NULL);
    }
    #else
    #include <pthread.h>
    enum { LDC_LOTS = 64, LDC_NAP_NS = 50000000 };
    static struct { pthread_mutex_t mutex; pthread_cond_t changed; } ldc_lots[LDC_LOTS] = {
        [0 ... LDC_LOTS - 1] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER}};
    #define LDC_LOT(word) (&ldc_lots[((uintptr_t)(word) >> 4) % LDC_LOTS])
    /* A condition variable is not interrupted by signals: wake up now and then, and say so. */
    static int ldc_wait_word(int *word, int seen, int64_t timeout_ns) {
        struct timespec t;
        int64_t nap = timeout_ns >= 0 && timeout_ns < LDC_NAP_NS ? timeout_ns : LDC_NAP_NS;
        int64_t end = ldc_realtime_ns() + nap;
        int late = 0;
        t.tv_sec = (time_t)(end / 1000000000LL);
        t.tv_nsec = (long)(end % 1000000000LL);
        pthread_mutex_lock(&LDC_LOT(word)->mutex);
        while (ldc_load(word) == seen && !late)
            late = pthread_cond_timedwait(&LDC_LOT(word)->changed, &LDC_LOT(word)->mutex, &t) != 0;
        pthread_mutex_unlock(&LDC_LOT(word)->mutex);
        return late ? EINTR : 0;
    }
    static void ldc_wake_word(int *word) {
        pthread_mutex_lock(&LDC_LOT(word)->mutex);
        __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
        pthread_cond_broadcast(&LDC_LOT(word)->changed);
        pthread_mutex_unlock(&LDC_LOT(word)->mutex);
    }
    #endif
    #endif
    """
    int64_t monotonic_ns "ldc_monotonic_ns"() noexcept nogil
    int64_t realtime_ns "ldc_realtime_ns"() noexcept nogil
    int wait_word "ldc_wait_word"(int* word, int seen, int64_t timeout_ns) noexcept nogil
    void wake_word "ldc_wake_word"(int* word) noexcept nogil
    void pause_cpu "ldc_pause"() noexcept nogil


cdef int64_t NS_PER_S = 1_000_000_000
cdef int64_t LOOK_AGAIN_NS = NS_PER_S // 2
# A waiting thread looks at least so often: no thread wakes it when a lease expires, for its writer stands still.

cdef int64_t WAIT_NS_MAX = 9_000_000_000 * NS_PER_S     # 285 years: longer waits are as good as without end


cdef inline int64_t ns_of(double seconds) noexcept nogil:
    """Return seconds as nanoseconds; what is longer than `WAIT_NS_MAX` is that."""
    return WAIT_NS_MAX if seconds >= WAIT_NS_MAX / 1e9 else <int64_t>(max(seconds, 0.0) * 1e9)


cdef int sleep_until_changed(int* word, int seen, int64_t deadline_ns, int64_t spin_ns) noexcept nogil:
    """Spin, then sleep, while `word` is `seen`, until a time of the monotonic clock (-1: without end).

    Return 0 if it may have changed or the time is over, EINTR after a signal: the caller looks and decides.
    """
    cdef int64_t now, spin_end
    if spin_ns > 0:
        spin_end = monotonic_ns() + spin_ns
        while read_relaxed(word) == seen:
            now = monotonic_ns()
            if now >= spin_end or (deadline_ns >= 0 and now >= deadline_ns):
                break
            pause_cpu()
    if read_relaxed(word) != seen:
        return 0
    if deadline_ns < 0:
        return wait_word(word, seen, LOOK_AGAIN_NS)
    now = monotonic_ns()
    return 0 if now >= deadline_ns else wait_word(word, seen, min(deadline_ns - now, LOOK_AGAIN_NS))
