/* ldc_shared.h: an order book that an ldc feeder publishes in shared memory. Layout version 1.

   C99 and C++, header only, no dependency; little-endian processors of 64 bits. docs/shared-memory.md explains the layout,
   examples/shared/ has programs. ldc itself is compiled against this file.

       ldc_shared_book book;
       ldc_shared_view view;
       ldc_shared_level bids[20], asks[20];
       int status = ldc_shared_open(&book, "desk", "BTCUSDT");
       if (status == LDC_SHARED_READABLE)
           status = ldc_shared_read(&book, &view, bids, 20, asks, 20);

   Rule 1: a reader believes nothing. Sizes are checked before they are used, every loop has a bound.
   Rule 2: nothing is written: the mapping is read-only, and the file is opened read-only.
   Rule 3: prices and quantities are integers: units of 10**-price_scale and of 10**-quantity_scale.

   Thread-safety: any number of threads may read one book. `ldc_shared_open` and `ldc_shared_close` need it alone. */

#ifndef LDC_SHARED_H
#define LDC_SHARED_H

#if defined(__linux__) && !defined(_GNU_SOURCE) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ldc_shared.h needs a little-endian processor"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------------- the layout */

#define LDC_SHARED_MAGIC 0x004B4F4F4243444CULL      /* the bytes "LDCBOOK\0" */
#define LDC_SHARED_FEEDER_MAGIC 0x004445454643444CULL  /* the bytes "LDCFEED\0" */
#define LDC_SHARED_VERSION 1u
#define LDC_SHARED_LEVELS_MAX 50000u
#define LDC_SHARED_SCALE_MAX 18
#define LDC_SHARED_NEVER INT64_MIN                  /* proven_ns: there was no proof yet */

/* A heartbeat that is older says nothing: the reader looks whether the feeder still holds its lock. The feeder renews it
   every 10 ms. */
#define LDC_SHARED_LATE_NS 15000000LL
/* A proof that is so far in the future is of another clock. */
#define LDC_SHARED_FUTURE_NS 30000000LL

/* Copies that a reader takes in vain, because each was overwritten meanwhile, before it gives up. */
#define LDC_SHARED_ATTEMPTS 1000

enum ldc_shared_status {
    LDC_SHARED_READABLE = 1,        /* up to CROSSED they stand in ldc_shared_view.state */
    LDC_SHARED_NOT_LOADED = 2,      /* no snapshot yet */
    LDC_SHARED_SUSPENDED = 3,       /* ldc_shared_view.cause says why */
    LDC_SHARED_CROSSED = 4,         /* the best bid is not below the best ask */
    LDC_SHARED_LEFT_HORIZON = 5,    /* a side has no level inside its horizon */
    LDC_SHARED_TOO_OLD = 6,         /* the last proof that the book is current is older than the lease */
    LDC_SHARED_FEEDER_GONE = 7,     /* the feeder has ended, or was never there */
    LDC_SHARED_MALFORMED = 8,       /* the bytes are not of this layout */
    LDC_SHARED_BUSY = 9             /* each of LDC_SHARED_ATTEMPTS copies was overwritten meanwhile */
};

enum ldc_shared_flag {
    LDC_SHARED_HAS_EVENT_TIME = 1,
    LDC_SHARED_HAS_TRANSACTION_TIME = 2,
    LDC_SHARED_HAS_RECEIVED_TIME = 4,
    LDC_SHARED_HAS_BID_HORIZON = 8,     /* without it, that side is complete at every price */
    LDC_SHARED_HAS_ASK_HORIZON = 16,
    LDC_SHARED_IS_LOADED = 32
};

/* The head of a region. A message over a network has the same layout, with one copy. */
typedef struct ldc_shared_head {
    uint64_t magic;
    uint32_t version;
    uint32_t head_bytes;        /* of this struct */
    uint32_t copies;            /* 2; 1 in a message */
    uint32_t levels;            /* room for so many a side, in each copy */
    uint64_t size;              /* of the whole region, bytes */
    uint64_t generation;        /* of the feeder that has made it */
    int64_t created_ns;         /* Unix time */
    int32_t pid;                /* of the feeder, as it sees itself */
    uint32_t waiter_slot;       /* the place of this market in the file `waiters` */
    uint64_t reserved_1;
    char market[64];            /* UTF-8, ended by zeros unless it fills the room */
    char exchange[64];
    /* From here on the feeder writes all the time. */
    uint64_t latest;            /* number of the newest whole copy, which lies at place latest % copies; 0: none yet */
    int64_t heartbeat_ns;       /* when the feeder was seen running; the clock of ldc_shared_now_ns */
    int64_t proven_ns;          /* to what time the book is proven to be current; LDC_SHARED_NEVER */
    int64_t lease_ns;           /* how old that may be; 0: the book has no lease */
    uint32_t change;            /* a futex: one more for each wake-up */
    uint32_t has_ended;         /* 1: the feeder has withdrawn this book */
    uint64_t reserved_2[3];
} ldc_shared_head;

typedef struct ldc_shared_level {
    int64_t price;
    int64_t quantity;
} ldc_shared_level;

/* One copy of the book: this head, then `levels` bids, then `levels` asks, best first. */
typedef struct ldc_shared_view {
    uint64_t sequence;          /* 2 * number when it is whole, 2 * number - 1 while it is written */
    int64_t last_update_id;
    int64_t event_time_ms;
    int64_t transaction_time_ms;
    int64_t received_time_ns;   /* Unix time */
    int64_t bid_horizon;        /* the lowest price to which the bids are complete */
    int64_t ask_horizon;
    uint32_t flags;
    uint32_t state;
    char cause[32];             /* UTF-8, ended by zeros unless it fills the room; why it is suspended */
    int32_t price_scale;
    int32_t quantity_scale;
    uint32_t bid_count;
    uint32_t ask_count;
    int64_t epoch;              /* another one whenever the book could not be read in between */
    uint64_t reserved;
} ldc_shared_view;

/* The file `feeder` of a share. Its feeder holds a lock on it as long as it lives. */
typedef struct ldc_shared_feeder {
    uint64_t magic;
    uint32_t version;
    int32_t pid;
    uint64_t generation;
    int64_t since_ns;           /* Unix time */
    uint64_t reserved[4];
} ldc_shared_feeder;

typedef char ldc_shared_head_is_256_bytes[sizeof(ldc_shared_head) == 256 ? 1 : -1];
typedef char ldc_shared_view_is_128_bytes[sizeof(ldc_shared_view) == 128 ? 1 : -1];
typedef char ldc_shared_feeder_is_64_bytes[sizeof(ldc_shared_feeder) == 64 ? 1 : -1];

/* -------------------------------------------------------------------------------------- words that two processes share */

/* A word of a copy is loaded with acquire and stored with release. So who sees a word of a newer copy also sees, in the
   look after it, that the sequence has moved on. On x86 these are plain moves. */
#if defined(_MSC_VER)
#include <intrin.h>
static __inline uint64_t ldc_shared_load(const uint64_t *word) {
    uint64_t value = *(const volatile uint64_t *)word;
    _ReadWriteBarrier();
    return value;
}
static __inline uint32_t ldc_shared_load_u32(const uint32_t *word) {
    uint32_t value = *(const volatile uint32_t *)word;
    _ReadWriteBarrier();
    return value;
}
#define ldc_shared_pause() _mm_pause()
#else
static inline uint64_t ldc_shared_load(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
static inline uint32_t ldc_shared_load_u32(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
#if defined(__x86_64__) || defined(__i386__)
#define ldc_shared_pause() __builtin_ia32_pause()
#else
#define ldc_shared_pause() ((void)0)
#endif
#endif

#define LDC_SHARED_I64(field) ((int64_t)ldc_shared_load((const uint64_t *)(const void *)&(field)))

/* ------------------------------------------------------------------------------------------- reading, without any file */

/* A region of memory, checked once. What decides about sizes is kept here, and never read from the region again. */
typedef struct ldc_shared_region {
    const char *memory;         /* aligned to 8 bytes */
    uint32_t levels;
    uint32_t copies;
    size_t copy_bytes;
} ldc_shared_region;

static inline size_t ldc_shared_copy_bytes(uint32_t levels) {
    return sizeof(ldc_shared_view) + 2 * sizeof(ldc_shared_level) * (size_t)levels;
}

static inline const ldc_shared_head *ldc_shared_head_of(const ldc_shared_region *region) {
    return (const ldc_shared_head *)(const void *)region->memory;
}

/* Check that memory is a region of this layout. Returns LDC_SHARED_READABLE or LDC_SHARED_MALFORMED. */
static inline int ldc_shared_check(ldc_shared_region *region, const void *memory, size_t size) {
    ldc_shared_head head;
    if (memory == NULL || size < sizeof(head) || (uintptr_t)memory % 8 != 0)
        return LDC_SHARED_MALFORMED;
    memcpy(&head, memory, offsetof(ldc_shared_head, latest));
    if (head.magic != LDC_SHARED_MAGIC || head.version != LDC_SHARED_VERSION || head.head_bytes != sizeof(head)
            || head.copies < 1 || head.copies > 2 || head.levels < 1 || head.levels > LDC_SHARED_LEVELS_MAX)
        return LDC_SHARED_MALFORMED;
    region->memory = (const char *)memory;
    region->levels = head.levels;
    region->copies = head.copies;
    region->copy_bytes = ldc_shared_copy_bytes(head.levels);
    if (head.size != size || size != sizeof(head) + head.copies * region->copy_bytes)
        return LDC_SHARED_MALFORMED;
    return LDC_SHARED_READABLE;
}

static inline void ldc_shared_copy_words(void *to, const void *from, size_t bytes) {
    const uint64_t *words = (const uint64_t *)from;
    for (size_t index = 0; index < bytes / 8; index++) {
        uint64_t word = ldc_shared_load(words + index);
        memcpy((char *)to + 8 * index, &word, 8);
    }
}

static inline int ldc_shared_is_sane(
        const ldc_shared_region *region, const ldc_shared_view *view, const ldc_shared_level *bids, uint32_t bid_count,
        const ldc_shared_level *asks, uint32_t ask_count) {
    int64_t signs = view->last_update_id | view->bid_horizon | view->ask_horizon, zeros = 0;
    if (view->state < LDC_SHARED_READABLE || view->state > LDC_SHARED_CROSSED || view->bid_count > region->levels
            || view->ask_count > region->levels || view->price_scale < 0 || view->price_scale > LDC_SHARED_SCALE_MAX
            || view->quantity_scale < 0 || view->quantity_scale > LDC_SHARED_SCALE_MAX)
        return 0;
    for (uint32_t index = 0; index < bid_count; index++) {
        signs |= bids[index].price | bids[index].quantity;
        zeros |= bids[index].quantity == 0;
    }
    for (uint32_t index = 0; index < ask_count; index++) {
        signs |= asks[index].price | asks[index].quantity;
        zeros |= asks[index].quantity == 0;
    }
    return signs >= 0 && zeros == 0;
}

/* Take a whole copy: its head, and at most so many levels of each side (0: the pointer may be NULL).

   Returns what the feeder says of the book (READABLE, NOT_LOADED, SUSPENDED, CROSSED), or MALFORMED or BUSY with a view of
   zeros. The levels are set whatever the state; min(bid_limit, view->bid_count) of them. Time plays no part: see
   ldc_shared_liveness. */
static inline int ldc_shared_take(
        const ldc_shared_region *region, ldc_shared_view *view, ldc_shared_level *bids, uint32_t bid_limit,
        ldc_shared_level *asks, uint32_t ask_limit) {
    const ldc_shared_head *head = ldc_shared_head_of(region);
    for (int attempt = 0; attempt < LDC_SHARED_ATTEMPTS; attempt++) {
        uint64_t number = ldc_shared_load(&head->latest);
        const char *copy = region->memory + sizeof(*head) + (size_t)(number % region->copies) * region->copy_bytes;
        uint32_t bid_count, ask_count;
        if (number == 0) {
            memset(view, 0, sizeof(*view));
            view->state = LDC_SHARED_NOT_LOADED;
            return LDC_SHARED_NOT_LOADED;
        }
        if (ldc_shared_load((const uint64_t *)(const void *)copy) != 2 * number) {
            ldc_shared_pause();
            continue;
        }
        ldc_shared_copy_words(view, copy, sizeof(*view));
        bid_count = view->bid_count < bid_limit ? view->bid_count : bid_limit;
        ask_count = view->ask_count < ask_limit ? view->ask_count : ask_limit;
        if (bid_count > region->levels)     /* of a copy that is being overwritten, or malformed */
            bid_count = 0;
        if (ask_count > region->levels)
            ask_count = 0;
        ldc_shared_copy_words(bids, copy + sizeof(*view), bid_count * sizeof(ldc_shared_level));
        ldc_shared_copy_words(
            asks, copy + sizeof(*view) + region->levels * sizeof(ldc_shared_level), ask_count * sizeof(ldc_shared_level));
        if (ldc_shared_load((const uint64_t *)(const void *)copy) == 2 * number) {
            if (ldc_shared_is_sane(region, view, bids, bid_count, asks, ask_count))
                return (int)view->state;
            memset(view, 0, sizeof(*view));
            return LDC_SHARED_MALFORMED;
        }
    }
    memset(view, 0, sizeof(*view));
    return LDC_SHARED_BUSY;
}

/* Whether a book may be read at a time: READABLE, TOO_OLD, or FEEDER_GONE, which is final for this region.

   `is_late` is set if the heartbeat says nothing: look whether the feeder lives. Call it after ldc_shared_take. */
static inline int ldc_shared_liveness(const ldc_shared_region *region, int64_t now_ns, int *is_late) {
    const ldc_shared_head *head = ldc_shared_head_of(region);
    int64_t heartbeat_ns = LDC_SHARED_I64(head->heartbeat_ns);
    int64_t proven_ns = LDC_SHARED_I64(head->proven_ns);
    int64_t lease_ns = LDC_SHARED_I64(head->lease_ns);
    /* A time of the future is of another clock, as in a container with a time namespace of its own. It says nothing. */
    *is_late = heartbeat_ns < now_ns - LDC_SHARED_LATE_NS || heartbeat_ns > now_ns + LDC_SHARED_LATE_NS;
    if (ldc_shared_load_u32(&head->has_ended))
        return LDC_SHARED_FEEDER_GONE;
    if (lease_ns != 0
            && (lease_ns < 0 || proven_ns < now_ns - lease_ns || proven_ns > now_ns + LDC_SHARED_FUTURE_NS))
        return LDC_SHARED_TOO_OLD;
    return LDC_SHARED_READABLE;
}

static inline int ldc_shared_has_left(const ldc_shared_view *view) {
    return ((view->flags & LDC_SHARED_HAS_BID_HORIZON) && view->bid_count == 0)
        || ((view->flags & LDC_SHARED_HAS_ASK_HORIZON) && view->ask_count == 0);
}

/* Write units of 10**-scale as an exact decimal with all its decimals. Returns `text`. */
static inline char *ldc_shared_decimal(int64_t units, int32_t scale, char text[24]) {
    char digits[24];
    int count = 0, place = 0;
    if (units < 0 || scale < 0 || scale > LDC_SHARED_SCALE_MAX) {
        strcpy(text, "?");
        return text;
    }
    while (units != 0 || count <= scale) {
        digits[count++] = (char)('0' + units % 10);
        units /= 10;
    }
    while (count != 0) {
        if (count == scale)
            text[place++] = '.';
        text[place++] = digits[--count];
    }
    text[place] = 0;
    return text;
}

static inline const char *ldc_shared_name_of(int status) {
    static const char *const names[] = {
        "?", "READABLE", "NOT_LOADED", "SUSPENDED", "CROSSED", "LEFT_HORIZON", "TOO_OLD", "FEEDER_GONE", "MALFORMED",
        "BUSY"};
    return names[status >= 1 && status <= LDC_SHARED_BUSY ? status : 0];
}

/* -------------------------------------------------------------------------------------------------- the files of POSIX */

#if !defined(_WIN32)
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if !defined(__linux__)
#include <sys/file.h>
#endif

/* The clock of heartbeats and proofs: it never goes back, and counts the time for which the machine sleeps. */
static inline int64_t ldc_shared_now_ns(void) {
    struct timespec now;
#if defined(__linux__)
    clock_gettime((clockid_t)7, &now);          /* CLOCK_BOOTTIME */
#elif defined(__APPLE__)
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Whether the feeder that made this file `feeder` still holds its lock. Nothing is locked on Linux. */
static inline int ldc_shared_is_locked(int fd) {
#if defined(__linux__)
    struct flock lock;
    memset(&lock, 0, sizeof(lock));
    lock.l_type = F_RDLCK;                      /* in the way of the feeder's lock, and of no reader's */
    lock.l_whence = SEEK_SET;
    return fcntl(fd, 36 /* F_OFD_GETLK */, &lock) == 0 && lock.l_type != F_UNLCK;
#else
    if (flock(fd, LOCK_SH | LOCK_NB) != 0)
        return errno == EWOULDBLOCK;
    flock(fd, LOCK_UN);
    return 0;
#endif
}

/* A market of a share, mapped. */
typedef struct ldc_shared_book {
    ldc_shared_region region;
    size_t size;
    int feeder_fd;
    uint64_t generation;
} ldc_shared_book;

static inline void ldc_shared_close(ldc_shared_book *book) {
    if (book->region.memory != NULL)
        munmap((void *)(uintptr_t)book->region.memory, book->size);
    if (book->feeder_fd >= 0)
        close(book->feeder_fd);
    book->region.memory = NULL;
    book->feeder_fd = -1;
}

/* The folder of a share: in the environment's LDC_SHARED_FOLDER, or in /dev/shm/ldc-<uid>. 0 if `room` is too small. */
static inline int ldc_shared_folder(char *room, size_t size, const char *share) {
    const char *base = getenv("LDC_SHARED_FOLDER");
    int length;
    if (base != NULL && base[0] != 0) {
        length = snprintf(room, size, "%s/%s", base, share);
    } else {
#if defined(__linux__)
        length = snprintf(room, size, "/dev/shm/ldc-%lu/%s", (unsigned long)getuid(), share);
#else
        const char *temporary = getenv("TMPDIR");
        length = snprintf(room, size, "%s/ldc-%lu/%s", temporary != NULL ? temporary : "/tmp", (unsigned long)getuid(),
                          share);
#endif
    }
    return length > 0 && (size_t)length < size;
}

/* The path of a market's file: its name with all but letters, digits and _ . - ~ as %XX, also a dot at its beginning, and
   ".book". */
static inline int ldc_shared_path(char *room, size_t size, const char *share, const char *market) {
    size_t used;
    if (!ldc_shared_folder(room, size, share))
        return 0;
    used = strlen(room);
    if (used + 1 >= size)
        return 0;
    room[used++] = '/';
    for (; *market != 0; market++) {
        unsigned char byte = (unsigned char)*market;
        int is_plain = (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9')
            || byte == '_' || (byte == '.' && room[used - 1] != '/') || byte == '-' || byte == '~';
        if (used + 9 >= size)
            return 0;
        if (is_plain)
            room[used++] = (char)byte;
        else
            used += (size_t)snprintf(room + used, 4, "%%%02X", byte);
    }
    memcpy(room + used, ".book", 6);
    return 1;
}

/* Open a market of a share. Returns LDC_SHARED_READABLE, FEEDER_GONE (not there; try again later) or MALFORMED.

   A book that is open stays with its feeder. Once reads return FEEDER_GONE, close it and open it again: there may be a
   next feeder. */
static inline int ldc_shared_open(ldc_shared_book *book, const char *share, const char *market) {
    char path[1024];
    size_t folder;
    ldc_shared_feeder feeder;
    struct stat about;
    void *memory;
    int fd, status = LDC_SHARED_MALFORMED;
    memset(book, 0, sizeof(*book));
    book->feeder_fd = -1;
    if (!ldc_shared_folder(path, sizeof(path) - 8, share))
        return LDC_SHARED_MALFORMED;
    folder = strlen(path);
    memcpy(path + folder, "/feeder", 8);
    book->feeder_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (book->feeder_fd < 0)
        return LDC_SHARED_FEEDER_GONE;
    /* A folder that another user has made is not believed, unless LDC_SHARED_FOLDER names it. */
    if (fstat(book->feeder_fd, &about) != 0 || (getenv("LDC_SHARED_FOLDER") == NULL && about.st_uid != getuid())
            || read(book->feeder_fd, &feeder, sizeof(feeder)) != (ssize_t)sizeof(feeder)
            || feeder.magic != LDC_SHARED_FEEDER_MAGIC || feeder.version != LDC_SHARED_VERSION
            || !ldc_shared_path(path, sizeof(path), share, market)) {
        ldc_shared_close(book);
        return LDC_SHARED_MALFORMED;
    }
    book->generation = feeder.generation;
    fd = ldc_shared_is_locked(book->feeder_fd) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        ldc_shared_close(book);
        return LDC_SHARED_FEEDER_GONE;
    }
    if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size >= (off_t)sizeof(ldc_shared_head)) {
        book->size = (size_t)about.st_size;
        memory = mmap(NULL, book->size, PROT_READ, MAP_SHARED, fd, 0);
        if (memory != MAP_FAILED) {
            status = ldc_shared_check(&book->region, memory, book->size);
            book->region.memory = (const char *)memory;
            if (status == LDC_SHARED_READABLE && ldc_shared_head_of(&book->region)->generation != feeder.generation)
                status = LDC_SHARED_FEEDER_GONE;    /* left by a feeder before this one */
        }
    }
    close(fd);
    if (status != LDC_SHARED_READABLE)
        ldc_shared_close(book);
    return status;
}

/* Read a book: one update id, both sides, or the reason why not. Returns an ldc_shared_status. */
static inline int ldc_shared_read(
        ldc_shared_book *book, ldc_shared_view *view, ldc_shared_level *bids, uint32_t bid_limit,
        ldc_shared_level *asks, uint32_t ask_limit) {
    int is_late, liveness, state;
    if (book->region.memory == NULL)
        return LDC_SHARED_FEEDER_GONE;
    state = ldc_shared_take(&book->region, view, bids, bid_limit, asks, ask_limit);
    liveness = ldc_shared_liveness(&book->region, ldc_shared_now_ns(), &is_late);
    if (liveness == LDC_SHARED_FEEDER_GONE || (is_late && !ldc_shared_is_locked(book->feeder_fd)))
        return LDC_SHARED_FEEDER_GONE;
    if (state != LDC_SHARED_READABLE && state != LDC_SHARED_CROSSED)
        return state;
    if (liveness == LDC_SHARED_TOO_OLD)
        return LDC_SHARED_TOO_OLD;
    if (state == LDC_SHARED_CROSSED)
        return LDC_SHARED_CROSSED;
    return ldc_shared_has_left(view) ? LDC_SHARED_LEFT_HORIZON : LDC_SHARED_READABLE;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
