/* What a message says: docs/order-book.md once more, in plain C, sharing no line with the books.
 *
 * Slow where that is simpler: it builds a tree of the whole message, decodes every string, and keeps numbers as 128 bit
 * integers at 18 decimals. It is itself held to tests/kits/strict_reading.py (json and Decimal): `make fuzz` runs both.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NODES_MAX = 70000, TEXT_MAX = 140000, LEVELS_MAX = 20000, DEPTH_MAX = 32 };

typedef unsigned __int128 wide;

enum kind { OBJECT, ARRAY, STRING, INTEGER, NUMBER, WORD };

typedef struct node {
    enum kind kind;
    const char *text; /* of a string, decoded */
    size_t length;
    int64_t integer;
    const char *key; /* in the object around it, decoded */
    size_t key_length;
    struct node *child, *next;
} node;

typedef struct {
    const uint8_t *p, *end;
    bool bad;
    int depth, nodes;
    size_t texts;
    node node[NODES_MAX];
    char text[TEXT_MAX];
} tree;

static tree T;

static void spaces(void) {
    while (T.p < T.end && strchr(" \t\r\n", *T.p) && *T.p) {
        T.p++;
    }
}

static int peek(void) {
    return T.p < T.end ? *T.p : -1;
}

static bool take(int byte) {
    if (peek() != byte) {
        return false;
    }
    T.p++;
    return true;
}

static void put_utf8(uint32_t c) {
    char *q = T.text + T.texts;
    if (c < 0x80) {
        *q++ = (char)c;
    } else if (c < 0x800) {
        *q++ = (char)(0xC0 + c / 64);
        *q++ = (char)(0x80 + c % 64);
    } else if (c < 0x10000) {
        *q++ = (char)(0xE0 + c / 4096);
        *q++ = (char)(0x80 + c / 64 % 64);
        *q++ = (char)(0x80 + c % 64);
    } else {
        *q++ = (char)(0xF0 + c / 262144);
        *q++ = (char)(0x80 + c / 4096 % 64);
        *q++ = (char)(0x80 + c / 64 % 64);
        *q++ = (char)(0x80 + c % 64);
    }
    T.texts = (size_t)(q - T.text);
}

static int32_t four_hex(void) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdefABCDEF", *at;
        int byte = peek();
        if (byte <= 0 || !(at = strchr(digits, byte))) {
            return -1;
        }
        T.p++;
        value = value * 16 + (int32_t)(at - digits < 16 ? at - digits : at - digits - 6);
    }
    return value;
}

/* One character outside ASCII, by arithmetic: decode it, then ask whether it needed so many bytes. */
static int32_t from_utf8(void) {
    int first = *T.p++;
    int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
    int32_t least[] = {0, 0x80, 0x800, 0x10000};
    int32_t c = first - (more == 3 ? 0xF0 : more == 2 ? 0xE0 : 0xC0);
    if (first < 0xC0 || first >= 0xF8) {
        return -1;
    }
    for (int i = 0; i < more; i++) {
        int byte = peek();
        if (byte < 0x80 || byte > 0xBF) {
            return -1;
        }
        T.p++;
        c = c * 64 + (byte - 0x80);
    }
    return c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? -1 : c;
}

static bool string(const char **text, size_t *length) {
    size_t begin = T.texts;
    if (!take('"')) {
        return false;
    }
    for (;;) {
        int byte = peek();
        if (byte < 0x20) {
            return false;
        }
        if (take('"')) {
            break;
        }
        if (byte >= 0x80) {
            int32_t c = from_utf8();
            if (c < 0) {
                return false;
            }
            put_utf8((uint32_t)c);
            continue;
        }
        T.p++;
        if (byte != '\\') {
            put_utf8((uint32_t)byte);
            continue;
        }
        const char *names = "\"\\/bfnrt", *meanings = "\"\\/\b\f\n\r\t", *at;
        byte = peek();
        if (byte <= 0) {
            return false;
        }
        T.p++;
        if (byte == 'u') {
            int32_t c = four_hex();
            if (c >= 0xD800 && c < 0xDC00) {
                int32_t low = take('\\') && take('u') ? four_hex() : -1;
                if (low < 0xDC00 || low > 0xDFFF) {
                    return false;
                }
                c = 0x10000 + (c - 0xD800) * 1024 + (low - 0xDC00);
            } else if (c < 0 || (c >= 0xDC00 && c < 0xE000)) {
                return false;
            }
            put_utf8((uint32_t)c);
        } else if ((at = strchr(names, byte))) {
            put_utf8((uint32_t)meanings[at - names]);
        } else {
            return false;
        }
    }
    *text = T.text + begin;
    *length = T.texts - begin;
    return true;
}

static int digits(void) {
    int count = 0;
    while (peek() >= '0' && peek() <= '9') {
        T.p++;
        count++;
    }
    return count;
}

static bool number(node *n) {
    bool negative = take('-');
    const uint8_t *begin = T.p;
    int count = digits();
    wide value = 0;
    n->kind = INTEGER;
    if (count == 0 || (count > 1 && *begin == '0')) {
        return false;
    }
    for (int i = 0; i < count && i < 25; i++) {
        value = value * 10 + (wide)(begin[i] - '0');
    }
    if (count > 25 || value > (wide)INT64_MAX + negative) {
        n->kind = NUMBER;
    }
    n->integer = (int64_t)(negative ? 0 - (uint64_t)value : (uint64_t)value);
    if (take('.')) {
        n->kind = NUMBER;
        if (digits() == 0) {
            return false;
        }
    }
    if (peek() == 'e' || peek() == 'E') {
        n->kind = NUMBER;
        T.p++;
        if (peek() == '+' || peek() == '-') {
            T.p++;
        }
        if (digits() == 0) {
            return false;
        }
    }
    return true;
}

static node *value(void);

static bool members(node *n, int close) {
    node **last = &n->child;
    T.p++;
    if (++T.depth > DEPTH_MAX) {
        return false;
    }
    spaces();
    if (!take(close)) {
        do {
            const char *key = NULL;
            size_t length = 0;
            spaces();
            if (close == '}') {
                if (!string(&key, &length)) {
                    return false;
                }
                spaces();
                if (!take(':')) {
                    return false;
                }
            }
            node *child = value();
            if (!child) {
                return false;
            }
            child->key = key;
            child->key_length = length;
            *last = child;
            last = &child->next;
            spaces();
        } while (take(','));
        if (!take(close)) {
            return false;
        }
    }
    T.depth--;
    return true;
}

static bool word(const char *letters) {
    size_t length = strlen(letters);
    if ((size_t)(T.end - T.p) < length || memcmp(T.p, letters, length) != 0) {
        return false;
    }
    T.p += length;
    return true;
}

static node *value(void) {
    node *n = &T.node[T.nodes++];
    bool good;
    memset(n, 0, sizeof(*n));
    spaces();
    switch (peek()) {
    case '{':
        n->kind = OBJECT;
        good = members(n, '}');
        break;
    case '[':
        n->kind = ARRAY;
        good = members(n, ']');
        break;
    case '"':
        n->kind = STRING;
        good = string(&n->text, &n->length);
        break;
    case 't':
    case 'f':
    case 'n':
        n->kind = WORD;
        good = word("true") || word("false") || word("null");
        break;
    default:
        good = number(n);
    }
    return good ? n : NULL;
}

/* The whole message as a tree, or NULL. */
static node *message(const uint8_t *data, size_t size) {
    T.p = data;
    T.end = data + size;
    T.depth = T.nodes = 0;
    T.texts = 0;
    node *n = value();
    spaces();
    return n && T.p == T.end ? n : NULL;
}

static bool named(const node *n, const char *name) {
    return n->key_length == strlen(name) && memcmp(n->key, name, n->key_length) == 0;
}

/* The member of that name; `*twice` is set when there is more than one. */
static node *member(const node *object, const char *name, bool *twice) {
    node *found = NULL;
    for (node *n = object->child; n; n = n->next) {
        if (named(n, name)) {
            *twice |= found != NULL;
            found = n;
        }
    }
    return found;
}

/* ------------------------------------------------------------------------------------------------- what it says */

typedef struct {
    wide value; /* times 10**18 */
    int decimals, printed;
} decimal;

typedef struct {
    decimal price, quantity;
} level;

typedef struct {
    int count;
    level level[LEVELS_MAX];
} side;

typedef struct {
    bool has_event_time, has_time;
    int64_t event_time, time, first, last, previous; /* previous, first, last: 0, there is none */
    const node *stream, *event, *symbol;             /* strings, or NULL */
    side bids, asks;
} said;

static wide power(int exponent) {
    wide result = 1;
    while (exponent-- > 0) {
        result *= 10;
    }
    return result;
}

static bool fits(wide value, int decimals) {
    return value / power(18 - decimals) <= (wide)INT64_MAX;
}

static bool plain_decimal(const node *n, decimal *out) {
    wide mantissa = 0;
    size_t i = 0, whole, last;
    if (n->kind != STRING) {
        return false;
    }
    while (i < n->length && n->text[i] >= '0' && n->text[i] <= '9') {
        i++;
    }
    whole = i;
    if (whole == 0) {
        return false;
    }
    last = n->length;
    if (i < n->length) {
        if (n->text[i++] != '.' || i == n->length) {
            return false;
        }
        for (; i < n->length; i++) {
            if (n->text[i] < '0' || n->text[i] > '9') {
                return false;
            }
        }
        out->printed = (int)(n->length - whole - 1);
        while (n->text[last - 1] == '0') {
            last--;
        }
        out->decimals = (int)(last - whole - 1);
    } else {
        out->printed = out->decimals = 0;
    }
    if (out->decimals > 18) {
        return false;
    }
    for (i = 0; i < last; i++) {
        if (i != whole) {
            mantissa = mantissa * 10 + (wide)(n->text[i] - '0');
            if (mantissa > (wide)INT64_MAX) {
                return false;
            }
        }
    }
    out->value = mantissa * power(18 - out->decimals);
    return true;
}

static bool say_levels(const node *array, side *out) {
    out->count = 0;
    if (!array || array->kind != ARRAY) {
        return false;
    }
    for (node *n = array->child; n; n = n->next) {
        level *l = &out->level[out->count++];
        if (n->kind != ARRAY || !n->child || !n->child->next || n->child->next->next) {
            return false;
        }
        if (!plain_decimal(n->child, &l->price) || !plain_decimal(n->child->next, &l->quantity)) {
            return false;
        }
    }
    return true;
}

static bool say_id(const node *n, int64_t *out) {
    *out = n ? n->integer : 0;
    return !n || (n->kind == INTEGER && n->integer >= 1);
}

static void say_time(const node *n, bool *has, int64_t *out) {
    *has = n && n->kind == INTEGER;
    *out = n ? n->integer : 0;
}

static const node *say_text(const node *n) {
    return n && n->kind == STRING ? n : NULL;
}

static const char *const EVENT_KEYS[] = {"e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st"};

/* The header of any message; `*event` is the object that has the levels. False: refused. */
static bool say_header(const node *outermost, said *out, const node **event) {
    bool twice = false;
    if (!outermost || outermost->kind != OBJECT) {
        return false;
    }
    out->stream = say_text(member(outermost, "stream", &twice));
    *event = member(outermost, "data", &twice);
    for (size_t i = 0; i < sizeof(EVENT_KEYS) / sizeof(*EVENT_KEYS); i++) {
        if (member(outermost, EVENT_KEYS[i], &twice) && *event) {
            return false;
        }
        if (*event) {
            member(*event, EVENT_KEYS[i], &twice);
        }
    }
    if (twice || (*event && (*event)->kind != OBJECT)) {
        return false;
    }
    if (!*event) {
        *event = outermost;
    }
    out->event = say_text(member(*event, "e", &twice));
    out->symbol = say_text(member(*event, "s", &twice));
    say_time(member(*event, "E", &twice), &out->has_event_time, &out->event_time);
    say_time(member(*event, "T", &twice), &out->has_time, &out->time);
    return say_id(member(*event, "U", &twice), &out->first) && say_id(member(*event, "u", &twice), &out->last) &&
           say_id(member(*event, "pu", &twice), &out->previous);
}

/* An update whose header is good. False: refused. */
static bool say_update(const node *event, bool chains, said *out) {
    bool twice = false;
    if (out->event && (out->event->length != 11 || memcmp(out->event->text, "depthUpdate", 11) != 0)) {
        return false;
    }
    if (!out->first || !out->last || out->first > out->last || out->previous >= out->last || (chains && !out->previous)) {
        return false;
    }
    return say_levels(member(event, "b", &twice), &out->bids) && say_levels(member(event, "a", &twice), &out->asks);
}

static bool say_snapshot(const node *body, said *out) {
    static const char *const keys[] = {"lastUpdateId", "bids", "asks", "E", "T"};
    bool twice = false;
    if (!body || body->kind != OBJECT) {
        return false;
    }
    for (int i = 0; i < 5; i++) {
        member(body, keys[i], &twice);
    }
    say_time(member(body, "E", &twice), &out->has_event_time, &out->event_time);
    say_time(member(body, "T", &twice), &out->has_time, &out->time);
    return !twice && say_id(member(body, "lastUpdateId", &twice), &out->last) && out->last &&
           say_levels(member(body, "bids", &twice), &out->bids) && say_levels(member(body, "asks", &twice), &out->asks);
}

/* ------------------------------------------------------------------------------------------ what becomes of a book */

typedef struct {
    int count;
    wide price[LEVELS_MAX], quantity[LEVELS_MAX]; /* best first */
} held_side;

typedef struct {
    int price_decimals, quantity_decimals;
    held_side bids, asks;
    bool has_bid_horizon, has_ask_horizon;
    wide bid_horizon, ask_horizon;
} held;

static void put(held_side *s, wide price, wide quantity, bool falling) {
    int at = 0;
    while (at < s->count && (falling ? s->price[at] > price : s->price[at] < price)) {
        at++;
    }
    bool there = at < s->count && s->price[at] == price;
    int behind = s->count - at;
    if (quantity && there) {
        s->quantity[at] = quantity;
    } else if (quantity) {
        memmove(s->price + at + 1, s->price + at, sizeof(wide) * (size_t)behind);
        memmove(s->quantity + at + 1, s->quantity + at, sizeof(wide) * (size_t)behind);
        s->price[at] = price;
        s->quantity[at] = quantity;
        s->count++;
    } else if (there) {
        memmove(s->price + at, s->price + at + 1, sizeof(wide) * (size_t)(behind - 1));
        memmove(s->quantity + at, s->quantity + at + 1, sizeof(wide) * (size_t)(behind - 1));
        s->count--;
    }
}

static int more(int a, int b) {
    return a > b ? a : b;
}

static void widest(const side *s, bool printed, int *price, int *quantity) {
    for (int i = 0; i < s->count; i++) {
        const level *l = &s->level[i];
        if (l->quantity.value) {
            *price = more(*price, printed ? l->price.printed : l->price.decimals);
            *quantity = more(*quantity, printed ? l->quantity.printed : l->quantity.decimals);
        }
    }
}

static bool side_fits(const held_side *s, int price, int quantity) {
    for (int i = 0; i < s->count; i++) {
        if (!fits(s->price[i], price) || !fits(s->quantity[i], quantity)) {
            return false;
        }
    }
    return true;
}

static bool named_fit(const side *s, int price, int quantity) {
    for (int i = 0; i < s->count; i++) {
        const level *l = &s->level[i];
        if (l->quantity.value && (!fits(l->price.value, price) || !fits(l->quantity.value, quantity))) {
            return false;
        }
    }
    return true;
}

/* Apply an update. False: it does not fit the book. */
static bool held_apply(held *book, const said *s) {
    int price = book->price_decimals, quantity = book->quantity_decimals;
    widest(&s->bids, false, &price, &quantity);
    widest(&s->asks, false, &price, &quantity);
    if (!side_fits(&book->bids, price, quantity) || !side_fits(&book->asks, price, quantity) ||
        !named_fit(&s->bids, price, quantity) || !named_fit(&s->asks, price, quantity)) {
        return false;
    }
    book->price_decimals = price;
    book->quantity_decimals = quantity;
    for (int i = 0; i < s->bids.count; i++) {
        put(&book->bids, s->bids.level[i].price.value, s->bids.level[i].quantity.value, true);
    }
    for (int i = 0; i < s->asks.count; i++) {
        put(&book->asks, s->asks.level[i].price.value, s->asks.level[i].quantity.value, false);
    }
    return true;
}

/* How many levels there are of a quantity other than zero; they are put into `out`. -1: a price stands twice. */
static int fill(held_side *out, const side *s, bool falling) {
    int count = 0;
    out->count = 0;
    for (int i = 0; i < s->count; i++) {
        if (s->level[i].quantity.value) {
            put(out, s->level[i].price.value, s->level[i].quantity.value, falling);
            count++;
        }
    }
    return count == out->count ? count : -1;
}

/* Make the book of a snapshot; `limit` 0: none was given. False: refused. */
static bool held_load(held *book, const said *s, int limit) {
    int price = 0, quantity = 0;
    widest(&s->bids, true, &price, &quantity);
    widest(&s->asks, true, &price, &quantity);
    if (price > 18 || quantity > 18 || !named_fit(&s->bids, price, quantity) || !named_fit(&s->asks, price, quantity)) {
        return false;
    }
    book->price_decimals = price;
    book->quantity_decimals = quantity;
    if (fill(&book->bids, &s->bids, true) < 0 || fill(&book->asks, &s->asks, false) < 0) {
        return false;
    }
    if (book->bids.count && book->asks.count && book->bids.price[0] >= book->asks.price[0]) {
        return false;
    }
    book->has_bid_horizon = s->bids.count && s->bids.count >= limit;
    book->has_ask_horizon = s->asks.count && s->asks.count >= limit;
    if ((book->has_bid_horizon && !book->bids.count) || (book->has_ask_horizon && !book->asks.count)) {
        return false;
    }
    book->bid_horizon = book->bids.count ? book->bids.price[book->bids.count - 1] : 0;
    book->ask_horizon = book->asks.count ? book->asks.price[book->asks.count - 1] : 0;
    return true;
}

/* A number as the book prints it; `out` has 48 bytes. */
static size_t print_decimal(wide value, int decimals, char *out) {
    char reversed[48];
    size_t length = 0, written = 0;
    value /= power(18 - decimals);
    do {
        if (decimals && (int)length == decimals) {
            reversed[length++] = '.';
        }
        reversed[length++] = (char)('0' + (int)(value % 10));
        value /= 10;
    } while (value || (decimals && (int)length <= decimals + 1) );
    while (length) {
        out[written++] = reversed[--length];
    }
    return written;
}
