/* Between libFuzzer and the compiled order book. Built by run.py as an extension of Python, named `driver`.
 *
 * `run(arguments, target, oracle, books)` hands libFuzzer's inputs to a judge:
 *     books None          every input goes to `oracle`, a Python function that raises where something is wrong;
 *     books (one, other)  two builds of ldc._book must agree in all that can be read, and `oracle` sees a sample.
 * What a message may be is not written here: two builds are compared with one another, through public methods only.
 * `blind(seeds, tokens, runs, seed, target, oracle, books)` changes the seeds without looking at what that does.
 * `replay(inputs, target, oracle, books)` judges some inputs once more.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#ifdef LDC_LIBFUZZER
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*judge)(const uint8_t *data, size_t size));
#endif

enum { INPUT_MAX = 4096, SAMPLE_EVERY = 64 };

/* The books begin with these; fuzz_targets.py has the same. */
static const char *const RULES[2] = {"spot", "futures"};
static const char *const BASE[2] = {
    "{\"lastUpdateId\":%lld,\"bids\":[[\"61737.63000000\",\"1.00000000\"],[\"61730.17000000\",\"0.50000000\"],"
    "[\"56854.58000000\",\"2.00000000\"]],\"asks\":[[\"61837.64000000\",\"0.10000000\"],"
    "[\"61839.85000000\",\"1.00000000\"],[\"61848.49000000\",\"3.00000000\"]]}",
    "{\"lastUpdateId\":%lld,\"bids\":[[\"2671.65\",\"20.506\"],[\"2671.60\",\"1.000\"]],"
    "\"asks\":[[\"2689.90\",\"0.100\"],[\"2690.01\",\"7.250\"]]}",
};
enum { FIRST_ID = 3, PREVIOUS_ID = 5, LIMIT = 3 };

static const char *const SHOWN[] = {
    "last_update_id", "last_header", "event_time_ms", "transaction_time_ms", "price_decimals", "quantity_decimals",
    "bid_count", "ask_count", "is_loaded", "needs_attention", "counters",
};
enum { SHOWN_COUNT = sizeof(SHOWN) / sizeof(*SHOWN) };

static PyObject *refused, *held_keywords, *oracle, *limit;
static PyObject *apply, *load_snapshot, *held_levels, *check, *shown_name[SHOWN_COUNT];
static PyObject *read_header[2], *book[2][2]; /* of each build; under each rule */
static long long book_id[2];
static const uint8_t *shown;
static size_t shown_size;
static unsigned long long executions, accepted;
static struct timespec began;

static void fail(const char *what) {
    if (PyErr_Occurred()) {
        PyErr_Print();
    }
    fprintf(stderr, "the book is wrong: %s\n", what);
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

/* Call with the bytes of a message; return the result, or the text of the refusal. */
static PyObject *call(PyObject *callable, PyObject *method, const uint8_t *data, size_t size, PyObject *second,
                      bool *is_refused) {
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
    *is_refused = !result;
    if (!result) {
        PyObject *type, *value, *traceback;
        if (!PyErr_ExceptionMatches(refused)) {
            fail("another exception");
        }
        PyErr_Fetch(&type, &value, &traceback);
        result = must(PyObject_Str(value), "a text");
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
    }
    return result;
}

/* Fail unless two objects are equal; take them. */
static void same(PyObject *one, PyObject *other, const char *what) {
    if (PyObject_RichCompareBool(one, other, Py_EQ) != 1) {
        fprintf(stderr, "one: ");
        PyObject_Print(one, stderr, 0);
        fprintf(stderr, "\nother: ");
        PyObject_Print(other, stderr, 0);
        fprintf(stderr, "\n");
        fail(what);
    }
    Py_DECREF(one);
    Py_DECREF(other);
}

static PyObject *view_of(PyObject *of) {
    PyObject *arguments[2] = {of, (PyObject *)&PyUnicode_Type};
    return must(PyObject_VectorcallMethod(held_levels, arguments, 1, held_keywords), "held_levels");
}

static void compare_books(int rule) {
    PyObject **pair = book[rule];
    for (int i = 0; i < SHOWN_COUNT; i++) {
        same(must(PyObject_GetAttr(pair[0], shown_name[i]), SHOWN[i]),
             must(PyObject_GetAttr(pair[1], shown_name[i]), SHOWN[i]), SHOWN[i]);
    }
    same(view_of(pair[0]), view_of(pair[1]), "the view");
    for (int build = 0; build < 2; build++) {
        Py_DECREF(must(PyObject_VectorcallMethod(check, &pair[build], 1, NULL), "an invariant"));
    }
}

static void renew(int rule, long long id) {
    char body[1000];
    int length = snprintf(body, sizeof(body), BASE[rule], id);
    for (int build = 0; build < 2; build++) {
        bool is_refused;
        Py_DECREF(call(book[rule][build], load_snapshot, (const uint8_t *)body, (size_t)length, limit, &is_refused));
        if (is_refused) {
            fail("the base is refused");
        }
    }
    book_id[rule] = id;
}

/* Let both builds do the same; return whether they took the message. */
static bool both(PyObject *const callables[2], PyObject *method, PyObject *second, const char *what) {
    bool is_refused[2];
    PyObject *one = call(callables[0], method, shown, shown_size, second, &is_refused[0]);
    PyObject *other = call(callables[1], method, shown, shown_size, second, &is_refused[1]);
    if (is_refused[0] != is_refused[1]) {
        fail(is_refused[0] ? "refused, and taken by the portable build" : "taken, and refused by the portable build");
    }
    same(one, other, what);
    return !is_refused[0];
}

/* Return the id that an update continues, by its header; 1 if it has none that a book can stand at. */
static long long wanted_id(int rule) {
    bool is_refused;
    long long id = 0;
    PyObject *header = call(read_header[0], NULL, shown, shown_size, NULL, &is_refused);
    if (!is_refused) {
        PyObject *number = PyTuple_GET_ITEM(header, rule ? PREVIOUS_ID : FIRST_ID);
        id = PyLong_Check(number) ? PyLong_AsLongLong(number) - !rule : 0;
        PyErr_Clear();
    }
    Py_DECREF(header);
    return id > 0 ? id : 1;
}

static void compare_update(void) {
    both(read_header, NULL, NULL, "read_header");
    for (int rule = 0; rule < 2; rule++) {
        long long id = wanted_id(rule);
        if (id != book_id[rule]) {
            renew(rule, id);
        }
        bool is_taken = both(book[rule], apply, NULL, "apply");
        accepted += is_taken;
        /* That nothing has changed is looked at now and then: what a refused message did would stay. */
        if (is_taken || executions % 16 == 0) {
            compare_books(rule);
        }
        if (is_taken) {
            renew(rule, 1);
        }
    }
}

static void compare_snapshot(void) {
    for (int limited = 0; limited < 2; limited++) {
        bool is_taken = both(book[0], load_snapshot, limited ? limit : NULL, "load_snapshot");
        accepted += is_taken;
        if (is_taken || executions % 16 == 0) {
            compare_books(0);
        }
        if (is_taken) {
            renew(0, 1);
        }
    }
}

static void ask_oracle(void) {
    PyObject *payload = must(PyBytes_FromStringAndSize((const char *)shown, (Py_ssize_t)shown_size), "memory");
    PyObject *result = must(PyObject_CallOneArg(oracle, payload), "the oracle says otherwise, see above");
    accepted += result == Py_True;
    Py_DECREF(result);
    Py_DECREF(payload);
}

/* A sample by content, so that an input that fails once fails always. */
static bool is_in_sample(void) {
    uint64_t hash = 0xCBF29CE484222325ULL; /* FNV-1a */
    for (size_t i = 0; i < shown_size; i++) {
        hash = (hash ^ shown[i]) * 0x100000001B3ULL;
    }
    return hash >> 32 & 1 && (hash >> 33) % (SAMPLE_EVERY / 2) == 0;
}

/* The same messages as NumberTarget of tests/kits/fuzz_targets.py. */
static void compare_number(void) {
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
    const uint8_t *data = shown;
    size_t size = shown_size;
    for (int which = 0; which < 5; which++) {
        size_t length = 0;
        for (int i = 0; i < 7; i++) {
            bool is_input = parts[which][i][0] == '@';
            size_t part = is_input ? size : strlen(parts[which][i]);
            memcpy(built + length, is_input ? (const void *)data : parts[which][i], part);
            length += part;
        }
        shown = built;
        shown_size = length;
        which == 2 ? compare_snapshot() : compare_update();
    }
    shown = data;
    shown_size = size;
}

static void (*compare)(void);

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
        shown = data;
        shown_size = size;
        if (compare) {
            compare();
        }
        if (!compare || is_in_sample()) {
            ask_oracle();
        }
    }
    return 0;
}

/* Make ready to judge; false with an exception. */
static bool choose(const char *target, PyObject *books) {
    compare = NULL;
    if (books == Py_None) {
        return true;
    }
    compare = strcmp(target, "update") == 0     ? compare_update
              : strcmp(target, "snapshot") == 0 ? compare_snapshot
              : strcmp(target, "number") == 0   ? compare_number
                                                : NULL;
    if (!compare || !PyTuple_Check(books) || PyTuple_GET_SIZE(books) != 2) {
        PyErr_SetString(PyExc_ValueError, "a target that there is, and two builds of the book");
        return false;
    }
    for (int build = 0; build < 2; build++) {
        PyObject *module = PyTuple_GET_ITEM(books, build);
        read_header[build] = must(PyObject_GetAttrString(module, "read_header"), "read_header");
        PyObject *class = must(PyObject_GetAttrString(module, "OrderBook"), "OrderBook");
        for (int rule = 0; rule < 2; rule++) {
            book[rule][build] = must(PyObject_CallFunction(class, "s", RULES[rule]), "a book");
        }
        Py_DECREF(class);
    }
    for (int rule = 0; rule < 2; rule++) {
        renew(rule, 1);
        compare_books(rule);
    }
    return true;
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
    PyObject *seeds, *tokens, *books;
    const char *target;
    static uint8_t data[INPUT_MAX];
    unsigned long long runs, seed;
    if (!PyArg_ParseTuple(arguments, "O!O!KKsOO", &PyList_Type, &seeds, &PyList_Type, &tokens, &runs, &seed, &target,
                          &oracle, &books) ||
        !choose(target, books)) {
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
    PyObject *words, *books;
    const char *target;
    if (!PyArg_ParseTuple(arguments, "O!sOO", &PyList_Type, &words, &target, &oracle, &books) || !choose(target, books)) {
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
    PyObject *inputs, *books;
    const char *target;
    if (!PyArg_ParseTuple(arguments, "O!sOO", &PyList_Type, &inputs, &target, &oracle, &books) ||
        !choose(target, books)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(inputs); i++) {
        PyObject *input = PyList_GET_ITEM(inputs, i);
        execute((const uint8_t *)PyBytes_AS_STRING(input), (size_t)PyBytes_GET_SIZE(input));
    }
    return Py_BuildValue("KK", executions, accepted);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(arguments, target, oracle, books): fuzz; libFuzzer ends the process."},
    {"blind", blind, METH_VARARGS, "blind(seeds, tokens, runs, seed, target, oracle, books): judge changed seeds."},
    {"replay", replay, METH_VARARGS,
     "replay(inputs, target, oracle, books): judge a list of bytes; return (executions, accepted)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "driver", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_driver(void) {
    PyObject *errors = must(PyImport_ImportModule("ldc.errors"), "ldc.errors");
    refused = must(PyObject_GetAttrString(errors, "MalformedMessage"), "MalformedMessage");
    apply = PyUnicode_InternFromString("apply");
    load_snapshot = PyUnicode_InternFromString("load_snapshot");
    held_levels = PyUnicode_InternFromString("held_levels");
    check = PyUnicode_InternFromString("check");
    for (int i = 0; i < SHOWN_COUNT; i++) {
        shown_name[i] = PyUnicode_InternFromString(SHOWN[i]);
    }
    held_keywords = Py_BuildValue("(s)", "number");
    limit = PyLong_FromLong(LIMIT);
    return PyModule_Create(&definition);
}
