/* Between libFuzzer and the compiled order book. Built by run.py as an extension of Python, named `driver`.
 *
 * `run(arguments, judge)` hands libFuzzer's inputs to a Python function, which raises where something is wrong.
 * `run(arguments, "update")`, `"snapshot"`, `"number"` judge them in C, by opinion.h, through the book's public methods
 * only: a hundred times as fast, and independent of what the book is inside.
 * `blind(seeds, tokens, judge, runs, seed)` changes the seeds without looking at what that does: faster, for any compiler.
 * `replay(inputs, judge)` judges some inputs once more.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <time.h>

#include "opinion.h"

#ifdef LDC_LIBFUZZER
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*judge)(const uint8_t *data, size_t size));
#endif

enum { INPUT_MAX = 4096 };

static const struct {
    const char *rule;
    bool chains;
    int price_decimals, quantity_decimals, levels;
    const char *bids[3][2], *asks[3][2];
} BASE[2] = {
    {"spot", false, 8, 8, 3,
     {{"61737.63000000", "1.00000000"}, {"61730.17000000", "0.50000000"}, {"56854.58000000", "2.00000000"}},
     {{"61837.64000000", "0.10000000"}, {"61839.85000000", "1.00000000"}, {"61848.49000000", "3.00000000"}}},
    {"futures", true, 2, 3, 2,
     {{"2671.65", "20.506"}, {"2671.60", "1.000"}},
     {{"2689.90", "0.100"}, {"2690.01", "7.250"}}},
};

static PyObject *refused, *held_keywords, *judge_in_python;
static PyObject *apply, *load_snapshot, *read_header, *held_levels, *last_update_id, *last_header, *event_time_ms;
static PyObject *transaction_time_ms, *check, *price_decimals, *quantity_decimals;
static PyObject *book[2];
static int64_t book_id[2];
static held start[2], now;
static said message_says;
static const uint8_t *shown;
static size_t shown_size;
static unsigned long long executions, accepted;
static struct timespec began;

static void fail(const char *what) {
    if (PyErr_Occurred()) {
        PyErr_Print();
    }
    fprintf(stderr, "the book and the second opinion differ: %s\n", what);
    fprintf(stderr, "message (%zu bytes): ", shown_size);
    for (size_t i = 0; i < shown_size; i++) {
        fprintf(stderr, shown[i] >= 0x20 && shown[i] < 0x7F && shown[i] != '\\' ? "%c" : "\\x%02x", shown[i]);
    }
    fprintf(stderr, "\n");
    abort();
}

static PyObject *must(PyObject *object, const char *what) {
    if (!object) {
        fail(what);
    }
    return object;
}

/* Call a method with the bytes of a message. NULL: it was refused, as it may be; everything else is a failure. */
static PyObject *call(PyObject *callable, PyObject *method, const uint8_t *data, size_t size, PyObject *second) {
    /* A block of exactly this size, so that the first byte past the end is poisoned. */
    char *exact = malloc(size ? size : 1);
    memcpy(exact, data, size);
    PyObject *payload = must(PyMemoryView_FromMemory(exact, (Py_ssize_t)size, PyBUF_READ), "memory");
    PyObject *result;
    if (!method) {
        result = PyObject_CallOneArg(callable, payload);
    } else {
        PyObject *arguments[3] = {callable, payload, second};
        result = PyObject_VectorcallMethod(method, arguments, second ? 3 : 2, NULL);
    }
    Py_DECREF(payload);
    free(exact);
    if (!result) {
        if (!PyErr_ExceptionMatches(refused)) {
            fail("another exception");
        }
        PyErr_Clear();
    }
    return result;
}

static void renew(int which, int64_t id) {
    char body[1000];
    int length = snprintf(body, sizeof(body), "{\"lastUpdateId\":%lld,\"bids\":[", (long long)id);
    for (int side = 0; side < 2; side++) {
        const char *const(*levels)[2] = side ? BASE[which].asks : BASE[which].bids;
        for (int i = 0; i < BASE[which].levels; i++) {
            length += snprintf(body + length, sizeof(body) - (size_t)length, "%s[\"%s\",\"%s\"]", i ? "," : "",
                               levels[i][0], levels[i][1]);
        }
        length += snprintf(body + length, sizeof(body) - (size_t)length, side ? "]}" : "],\"asks\":[");
    }
    PyObject *three = PyLong_FromLong(3);
    Py_DECREF(must(call(book[which], load_snapshot, (const uint8_t *)body, (size_t)length, three), "the base"));
    Py_DECREF(three);
    book_id[which] = id;
}

static bool is_number(PyObject *object, bool is_there, int64_t number) {
    if (!is_there) {
        return object == Py_None;
    }
    return PyLong_Check(object) && PyLong_AsLongLong(object) == number && !PyErr_Occurred();
}

static bool is_text(PyObject *object, const node *text) {
    if (!text) {
        return object == Py_None;
    }
    Py_ssize_t length;
    const char *letters = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &length) : NULL;
    return letters && (size_t)length == text->length && memcmp(letters, text->text, text->length) == 0;
}

static bool looks(PyObject *of, PyObject *name, bool is_there, int64_t number) {
    PyObject *object = must(PyObject_GetAttr(of, name), "an attribute");
    bool good = is_number(object, is_there, number);
    Py_DECREF(object);
    return good;
}

static void check_header(PyObject *header, const said *s) {
    if (!is_text(PyTuple_GET_ITEM(header, 0), s->stream) || !is_text(PyTuple_GET_ITEM(header, 1), s->event) ||
        !is_text(PyTuple_GET_ITEM(header, 2), s->symbol) || !is_number(PyTuple_GET_ITEM(header, 3), s->first, s->first) ||
        !is_number(PyTuple_GET_ITEM(header, 4), s->last, s->last) ||
        !is_number(PyTuple_GET_ITEM(header, 5), s->previous, s->previous) ||
        !is_number(PyTuple_GET_ITEM(header, 6), s->has_event_time, s->event_time)) {
        fail("the header");
    }
}

static bool is_decimal(PyObject *text, wide value, int decimals) {
    char expected[48];
    size_t length = print_decimal(value, decimals, expected);
    Py_ssize_t got;
    const char *letters = PyUnicode_AsUTF8AndSize(text, &got);
    return letters && (size_t)got == length && memcmp(letters, expected, length) == 0;
}

static void check_side(PyObject *levels, const held_side *s, const held *h) {
    if (PyTuple_GET_SIZE(levels) != s->count) {
        fail("how many levels are held");
    }
    for (int i = 0; i < s->count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(levels, i);
        if (!is_decimal(PyTuple_GET_ITEM(pair, 0), s->price[i], h->price_decimals) ||
            !is_decimal(PyTuple_GET_ITEM(pair, 1), s->quantity[i], h->quantity_decimals)) {
            fail("a level");
        }
    }
}

static void check_horizon(PyObject *horizon, bool is_there, wide price, const held *h) {
    if (is_there ? !is_decimal(horizon, price, h->price_decimals) : horizon != Py_None) {
        fail("a horizon");
    }
}

static void check_held(int which, const held *h) {
    PyObject *arguments[2] = {book[which], (PyObject *)&PyUnicode_Type};
    PyObject *seen = must(PyObject_VectorcallMethod(held_levels, arguments, 1, held_keywords), "held_levels");
    check_side(PyTuple_GET_ITEM(seen, 0), &h->bids, h);
    check_side(PyTuple_GET_ITEM(seen, 1), &h->asks, h);
    check_horizon(PyTuple_GET_ITEM(seen, 6), h->has_bid_horizon, h->bid_horizon, h);
    check_horizon(PyTuple_GET_ITEM(seen, 7), h->has_ask_horizon, h->ask_horizon, h);
    Py_DECREF(seen);
    if (!looks(book[which], price_decimals, true, h->price_decimals) ||
        !looks(book[which], quantity_decimals, true, h->quantity_decimals)) {
        fail("the scales");
    }
}

static void check_sound(int which) {
    PyObject *arguments[1] = {book[which]};
    Py_DECREF(must(PyObject_VectorcallMethod(check, arguments, 1, NULL), "an invariant"));
}

static void copy_held(held *to, const held *from) {
    to->price_decimals = from->price_decimals;
    to->quantity_decimals = from->quantity_decimals;
    to->has_bid_horizon = from->has_bid_horizon;
    to->has_ask_horizon = from->has_ask_horizon;
    to->bid_horizon = from->bid_horizon;
    to->ask_horizon = from->ask_horizon;
    for (int side = 0; side < 2; side++) {
        held_side *t = side ? &to->asks : &to->bids;
        const held_side *f = side ? &from->asks : &from->bids;
        t->count = f->count;
        memcpy(t->price, f->price, sizeof(wide) * (size_t)f->count);
        memcpy(t->quantity, f->quantity, sizeof(wide) * (size_t)f->count);
    }
}

/* ------------------------------------------------------------------------------------------------------- targets */

static void judge_update(int which, const node *event, const uint8_t *data, size_t size) {
    said *s = &message_says;
    bool good = event && say_update(event, BASE[which].chains, s);
    if (good) {
        int64_t wanted = BASE[which].chains ? s->previous : s->first - 1;
        wanted = wanted ? wanted : 1;
        if (wanted != book_id[which]) {
            renew(which, wanted);
        }
        bool is_stale = !BASE[which].chains && s->last <= wanted;
        copy_held(&now, &start[which]);
        good = is_stale || held_apply(&now, s);
        PyObject *verdict = call(book[which], apply, data, size, NULL);
        if ((verdict != NULL) != good) {
            fail(verdict ? "applied, and does not fit" : "refused, and is good");
        }
        if (!good) {
            copy_held(&now, &start[which]);
        } else {
            accepted++;
            if (PyLong_AsLong(verdict) != is_stale) {
                fail("the verdict");
            }
            Py_DECREF(verdict);
            PyObject *header = must(PyObject_GetAttr(book[which], last_header), "last_header");
            check_header(header, s);
            Py_DECREF(header);
        }
        bool changed = good && !is_stale;
        if (!looks(book[which], last_update_id, true, changed ? s->last : wanted) ||
            (changed && (!looks(book[which], event_time_ms, s->has_event_time, s->event_time) ||
                         !looks(book[which], transaction_time_ms, s->has_time, s->time)))) {
            fail("the place");
        }
        check_held(which, &now);
        check_sound(which);
        renew(which, 1);
        return;
    }
    PyObject *verdict = call(book[which], apply, data, size, NULL);
    if (verdict) {
        fail("applied, and must be refused");
    }
    /* That nothing has changed is looked at now and then: what a refused message did would stay. */
    if (executions % 16 == 0) {
        if (!looks(book[which], last_update_id, true, book_id[which])) {
            fail("the place after a refusal");
        }
        check_held(which, &start[which]);
    }
}

static void target_update(const uint8_t *data, size_t size) {
    const node *event = NULL;
    shown = data;
    shown_size = size;
    bool has_header = say_header(message(data, size), &message_says, &event);
    PyObject *header = call(read_header, NULL, data, size, NULL);
    if ((header != NULL) != has_header) {
        fail(header ? "read_header took it" : "read_header refused it");
    }
    if (header) {
        check_header(header, &message_says);
        Py_DECREF(header);
    }
    for (int which = 0; which < 2; which++) {
        judge_update(which, has_header ? event : NULL, data, size);
    }
}

static void target_snapshot(const uint8_t *data, size_t size) {
    shown = data;
    shown_size = size;
    bool good = say_snapshot(message(data, size), &message_says);
    for (int limit = 0; limit <= 3; limit += 3) {
        bool loads = good && held_load(&now, &message_says, limit);
        PyObject *honoured = limit ? PyLong_FromLong(limit) : NULL;
        PyObject *result = call(book[0], load_snapshot, data, size, honoured);
        Py_XDECREF(honoured);
        if ((result != NULL) != loads) {
            fail(result ? "loaded, and must be refused" : "refused, and is good");
        }
        if (loads) {
            accepted++;
            Py_DECREF(result);
            if (!looks(book[0], last_update_id, true, message_says.last) ||
                !looks(book[0], event_time_ms, message_says.has_event_time, message_says.event_time) ||
                !looks(book[0], transaction_time_ms, message_says.has_time, message_says.time)) {
                fail("the place");
            }
            check_held(0, &now);
            check_sound(0);
            renew(0, 1);
        } else if (executions % 16 == 0) {
            check_held(0, &start[0]);
        }
    }
}

/* The same messages as NumberTarget of tests/kits/fuzz_targets.py. */
static void target_number(const uint8_t *data, size_t size) {
    static const char dots[] = "\"x\":\"................................................................................"
                               "................................................................................\"";
    static const char *const parts[][7] = {
        {"{\"U\":2,\"u\":3,\"pu\":1,\"a\":[],\"b\":[[\"", "@", "\",\"1.5\"],[\"7\",\"", "@", "\"]]", "}", ""},
        {"{\"U\":2,\"u\":3,\"pu\":1,\"a\":[],\"b\":[[\"", "@", "\",\"1.5\"],[\"7\",\"", "@", "\"]],", dots, "}"},
        {"{\"lastUpdateId\":5,\"bids\":[],\"asks\":[[\"", "@", "\",\"", "@", "\"]]}", "", ""},
        {"{\"b\":[],\"a\":[],\"U\":2,\"u\":3,\"pu\":1,\"E\":", "@", "}", "", "", "", ""},
        {"{\"b\":[],\"a\":[],\"U\":2,\"u\":3,\"pu\":1,\"E\":", "@", ",", dots, ",\"T\":", "@", "}"},
    };
    static uint8_t built[2 * INPUT_MAX + 1000];
    for (int which = 0; which < 5; which++) {
        size_t length = 0;
        for (int i = 0; i < 7; i++) {
            bool is_input = parts[which][i][0] == '@';
            size_t part = is_input ? size : strlen(parts[which][i]);
            memcpy(built + length, is_input ? (const void *)data : parts[which][i], part);
            length += part;
        }
        (which == 2 ? target_snapshot : target_update)(built, length);
    }
}

static void target_python(const uint8_t *data, size_t size) {
    shown = data;
    shown_size = size;
    PyObject *payload = must(PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size), "memory");
    PyObject *result = must(PyObject_CallOneArg(judge_in_python, payload), "see above");
    accepted += result == Py_True;
    Py_DECREF(result);
    Py_DECREF(payload);
}

static void (*target)(const uint8_t *data, size_t size);

/* libFuzzer ends the process itself. */
static void report(void) {
    struct timespec ended;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
    fprintf(stderr, "fuzzed: %llu executions in %.0f s, %.0f a second, %llu accepted\n", executions, seconds,
            (double)executions / seconds, accepted);
}

static int execute(const uint8_t *data, size_t size) {
    if (size <= INPUT_MAX) {
        executions++;
        target(data, size);
    }
    return 0;
}

static bool choose(PyObject *judge) {
    judge_in_python = judge;
    target = target_python;
    if (PyUnicode_Check(judge)) {
        target = PyUnicode_CompareWithASCIIString(judge, "update") == 0     ? target_update
                 : PyUnicode_CompareWithASCIIString(judge, "snapshot") == 0 ? target_snapshot
                 : PyUnicode_CompareWithASCIIString(judge, "number") == 0   ? target_number
                                                                            : NULL;
    }
    if (!target) {
        PyErr_SetString(PyExc_ValueError, "no such target");
    }
    return target;
}

/* -------------------------------------------------------------------------------------------------- blind changes */

static uint64_t dice_state;

static uint64_t dice(uint64_t sides) { /* xorshift64 */
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 7;
    dice_state ^= dice_state << 17;
    return dice_state % sides;
}

/* Put `from` over `over` bytes at `at` of a message that has `size`; return the new size. */
static size_t splice(uint8_t *data, size_t size, size_t at, size_t over, const uint8_t *from, size_t length) {
    over = over < size - at ? over : size - at;
    if (size - over + length > INPUT_MAX) {
        return size;
    }
    memmove(data + at + length, data + at + over, size - at - over);
    memcpy(data + at, from, length);
    return size - over + length;
}

static size_t change(uint8_t *data, size_t size, PyObject *seeds, PyObject *tokens) {
    static const char likely[] = "0123456789.,:\"{}[]\\eEuUbapst- \t\x7F\x80\xBF\xC3\xED\xF0";
    static uint8_t copy[INPUT_MAX];
    size_t at = dice(size + 1), length = dice(dice(4) ? 9 : size + 1);
    uint8_t byte = dice(3) ? (uint8_t)likely[dice(sizeof(likely))] : (uint8_t)dice(256);
    PyObject *other;
    length = length < size - at ? length : size - at;
    switch (dice(8)) {
    case 0:
    case 1:
        return splice(data, size, at, dice(2), &byte, 1);
    case 2:
        return splice(data, size, at, length, NULL, 0);
    case 3:
    case 4:
        other = PyList_GET_ITEM(tokens, (Py_ssize_t)dice((uint64_t)PyList_GET_SIZE(tokens)));
        return splice(data, size, at, dice(2) ? 0 : length, (const uint8_t *)PyBytes_AS_STRING(other),
                      (size_t)PyBytes_GET_SIZE(other));
    case 5: /* a piece once more, here or elsewhere */
        memcpy(copy, data + at, length);
        return splice(data, size, dice(2) ? at : dice(size + 1), 0, copy, length);
    case 6:
        other = PyList_GET_ITEM(seeds, (Py_ssize_t)dice((uint64_t)PyList_GET_SIZE(seeds)));
        size_t from = dice((uint64_t)PyBytes_GET_SIZE(other) + 1), rest = (size_t)PyBytes_GET_SIZE(other) - from;
        if (dice(2) && rest) {
            rest = dice(rest);
        }
        return splice(data, size, at, dice(2) ? size : rest, (const uint8_t *)PyBytes_AS_STRING(other) + from, rest);
    default:
        return dice(8) ? splice(data, size, at, 1, &byte, 1) : at;
    }
}

static PyObject *blind(PyObject *module, PyObject *arguments) {
    PyObject *seeds, *tokens, *judge;
    static uint8_t data[INPUT_MAX];
    unsigned long long runs, seed;
    if (!PyArg_ParseTuple(arguments, "O!O!OKK", &PyList_Type, &seeds, &PyList_Type, &tokens, &judge, &runs, &seed) ||
        !choose(judge)) {
        return NULL;
    }
    dice_state = seed * 0x9E3779B97F4A7C15ULL + 1;
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (executions < runs) {
        PyObject *base = PyList_GET_ITEM(seeds, (Py_ssize_t)dice((uint64_t)PyList_GET_SIZE(seeds)));
        size_t size = (size_t)PyBytes_GET_SIZE(base);
        size = size < INPUT_MAX ? size : INPUT_MAX;
        memcpy(data, PyBytes_AS_STRING(base), size);
        for (uint64_t changes = 1 + dice(4) * dice(2); changes; changes--) {
            size = change(data, size, seeds, tokens);
        }
        execute(data, size);
        if (executions % 4096 == 0 && PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    report();
    Py_RETURN_NONE;
}

/* --------------------------------------------------------------------------------------------------------- Python */

static PyObject *run(PyObject *module, PyObject *arguments) {
    PyObject *words, *judge;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyList_Type, &words, &judge) || !choose(judge)) {
        return NULL;
    }
#ifdef LDC_LIBFUZZER
    Dl_info who;
    void *counters = dlsym(RTLD_DEFAULT, "__sanitizer_cov_8bit_counters_init");
    if (!counters || !dladdr(counters, &who) || !strstr(who.dli_fname, "driver")) {
        PyErr_SetString(PyExc_RuntimeError, "the book's counters do not reach libFuzzer: it would be blind");
        return NULL;
    }
    int count = (int)PyList_GET_SIZE(words);
    char **argv = calloc((size_t)count + 1, sizeof(char *));
    for (int i = 0; i < count; i++) {
        argv[i] = strdup(PyUnicode_AsUTF8(PyList_GET_ITEM(words, i)));
    }
    clock_gettime(CLOCK_MONOTONIC, &began);
    atexit(report);
    LLVMFuzzerRunDriver(&count, &argv, execute);
    Py_RETURN_NONE;
#else
    PyErr_SetString(PyExc_RuntimeError, "built without libFuzzer");
    return NULL;
#endif
}

static PyObject *replay(PyObject *module, PyObject *arguments) {
    PyObject *inputs, *judge;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyList_Type, &inputs, &judge) || !choose(judge)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(inputs); i++) {
        PyObject *input = PyList_GET_ITEM(inputs, i);
        execute((const uint8_t *)PyBytes_AS_STRING(input), (size_t)PyBytes_GET_SIZE(input));
    }
    return Py_BuildValue("KK", executions, accepted);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(arguments, judge): fuzz; libFuzzer ends the process."},
    {"blind", blind, METH_VARARGS, "blind(seeds, tokens, judge, runs, seed): judge changed seeds."},
    {"replay", replay, METH_VARARGS, "replay(inputs, judge): judge a list of bytes; return (executions, accepted)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "driver", NULL, -1, methods, NULL, NULL, NULL, NULL};

static bool say_base(int which) {
    said *s = &message_says;
    for (int side = 0; side < 2; side++) {
        const char *const(*levels)[2] = side ? BASE[which].asks : BASE[which].bids;
        for (int i = 0; i < BASE[which].levels; i++) {
            level *l = &(side ? &s->asks : &s->bids)->level[i];
            node price = {.kind = STRING, .text = levels[i][0], .length = strlen(levels[i][0])};
            node quantity = {.kind = STRING, .text = levels[i][1], .length = strlen(levels[i][1])};
            if (!plain_decimal(&price, &l->price) || !plain_decimal(&quantity, &l->quantity)) {
                return false;
            }
        }
    }
    s->bids.count = s->asks.count = BASE[which].levels;
    return held_load(&start[which], s, 3);
}

PyMODINIT_FUNC PyInit_driver(void) {
    PyObject *books = must(PyImport_ImportModule("ldc._book"), "ldc._book");
    PyObject *errors = must(PyImport_ImportModule("ldc.errors"), "ldc.errors");
    PyObject *class = must(PyObject_GetAttrString(books, "OrderBook"), "OrderBook");
    struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&apply, "apply"}, {&load_snapshot, "load_snapshot"}, {&held_levels, "held_levels"}, {&check, "check"},
        {&last_update_id, "last_update_id"}, {&last_header, "last_header"}, {&event_time_ms, "event_time_ms"},
        {&transaction_time_ms, "transaction_time_ms"}, {&price_decimals, "price_decimals"},
        {&quantity_decimals, "quantity_decimals"},
    };
    refused = must(PyObject_GetAttrString(errors, "MalformedMessage"), "MalformedMessage");
    read_header = must(PyObject_GetAttrString(books, "read_header"), "read_header");
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        *names[i].name = PyUnicode_InternFromString(names[i].text);
    }
    held_keywords = Py_BuildValue("(s)", "number");
    for (int which = 0; which < 2; which++) {
        book[which] = must(PyObject_CallFunction(class, "s", BASE[which].rule), "a book");
        if (!say_base(which)) {
            fail("the base cannot be loaded");
        }
        renew(which, 1);
        check_held(which, &start[which]);
    }
    return PyModule_Create(&definition);
}
