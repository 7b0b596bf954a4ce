"""The public layout: the document, the header for C and both books agree, and programs in other languages read it."""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from messages import loaded_book, make_update
from shared_kit import mutated, shared_of

import ldc.book
import ldc.book.pure.shared as plain
from ldc.shared import Publisher, SharedBooks

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples" / "shared"
HEADER = PROJECT / "include" / "ldc_shared.h"
WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
COMPILE: dict[str, Callable[[str, Path, Path], list[str]]] = {
    "c": lambda cc, source, to: [cc, "-std=c99", *WARNINGS, "-O2", f"-I{HEADER.parent}", str(source), "-o", str(to)],
    "cpp": lambda cc, source, to: [cc, "-std=c++17", *WARNINGS, f"-I{HEADER.parent}", str(source), "-o", str(to)],
    "rs": lambda cc, source, to: [cc, "--edition", "2021", "-D", "warnings", str(source), "-o", str(to)],
    "go": lambda cc, source, to: [cc, "build", "-o", str(to), str(source)],
}
COMPILERS = [("c", "gcc"), ("c", "clang"), ("cpp", "g++"), ("cpp", "clang++"), ("rs", "rustc"), ("go", "go")]
HOUR_NS = 3_600_000_000_000


# ------------------------------------------------------------------------------------------------- one layout in three


def table(title: str) -> list[tuple[str, str, str]]:
    """Return (offset, type, field) of each row of a table of the document."""
    text = (PROJECT / "docs" / "shared-memory.md").read_text(encoding="utf-8")
    rows = text.partition(f"### {title}\n")[2].partition("\n### ")[0]
    return [
        (offset.strip(), kind.strip(), field.strip().strip("`"))
        for offset, kind, field in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", rows, re.MULTILINE)
        if offset.strip(" -:").isdigit()
    ]


LAYOUT_PROGRAM = """
#include "ldc_shared.h"
#include <stdio.h>
#define SHOW(type, field) printf("%zu %zu %s\\n", offsetof(type, field), sizeof(((type *)0)->field), #field)
int main(void) {
    @
    return 0;
}
"""
CONSTANT = r"#define LDC_SHARED_(\w+) ((?:0x)?[0-9A-F]+)(?:U?LL|u)?\s"
SIZES = {"u64": 8, "u32": 4, "i64": 8, "i32": 4}


def size_of(kind: str) -> int:
    count = re.search(r"\[(\d+)\]", kind)
    base = kind.partition("[")[0]
    return (1 if base == "char" else SIZES[base]) * (int(count[1]) if count else 1)


def needs(compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")


def test_the_document_and_the_header_have_the_same_fields_at_the_same_places(tmp_path: Path) -> None:
    needs("gcc")
    for title, kind in (
        ("Head", "ldc_shared_head"),
        ("Copy", "ldc_shared_view"),
        ("File `feeder`", "ldc_shared_feeder"),
    ):
        rows = [row for row in table(title) if "(" not in row[1]]
        assert len(rows) > 5
        source = tmp_path / "layout.c"
        shows = "\n".join(f"SHOW({kind}, {field});" for _, _, field in rows)
        source.write_text(LAYOUT_PROGRAM.replace("@", shows), encoding="utf-8")
        subprocess.run(COMPILE["c"]("gcc", source, tmp_path / "layout"), check=True)
        printed = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
        assert printed.splitlines() == [f"{offset} {size_of(of)} {field}" for offset, of, field in rows]
        ends = [int(offset) + size_of(of) for offset, of, _ in rows]
        assert [int(offset) for offset, _, _ in rows[1:]] == ends[:-1]  # nothing is left out


def test_the_plain_book_has_the_constants_of_the_header() -> None:
    text = HEADER.read_text(encoding="utf-8")
    defined = {name: int(value, 0) for name, value in re.findall(CONSTANT, text)}
    assert defined["MAGIC"] == plain.MAGIC
    assert defined["VERSION"] == plain.VERSION
    assert defined["LEVELS_MAX"] == plain.LEVELS_MAX
    assert defined["SCALE_MAX"] == plain.DECIMALS_MAX
    assert defined["LATE_NS"] == plain.LATE_NS
    assert defined["FUTURE_NS"] == plain.FUTURE_NS
    assert defined["ATTEMPTS"] == plain.ATTEMPTS_MAX
    for name, value in re.findall(r"LDC_SHARED_(\w+) = (\d+)", text):
        assert getattr(plain, name) == int(value), name


# ---------------------------------------------------------------------------------------------------- other languages


def compiled(language: str, compiler: str, folder: Path) -> Path:
    needs(compiler)
    environment = os.environ | {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off"}
    program = folder / "top_of_book"
    command = COMPILE[language](compiler, EXAMPLES / f"top_of_book.{language}", program)
    subprocess.run(command, check=True, env=environment)
    return program


def run(program: Path, folder: Path, market: str = "BTCUSDT") -> tuple[int, str]:
    done = subprocess.run(
        [program, "desk", market],
        env=os.environ | {"LDC_SHARED_FOLDER": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout or done.stderr).strip()


def line_of(reader: Any) -> str:
    view = reader.view(1, number=str)
    sides = zip(("bid", "ask"), (view.bids, view.asks), strict=True)
    return " ".join([str(view.last_update_id), *(f"{name} {level[0]} {level[1]}" for name, [level] in sides)])


@pytest.mark.parametrize(
    ("language", "compiler"),
    [("c", "gcc"), *(pytest.param(*each, marks=pytest.mark.check) for each in COMPILERS if each != ("c", "gcc"))],
)
def test_a_program_reads_what_python_reads(language: str, compiler: str, tmp_path: Path) -> None:
    program = compiled(language, compiler, tmp_path)
    folder = tmp_path / "shares"
    assert run(program, folder) == (1, "BTCUSDT: FEEDER_GONE")
    reader = SharedBooks("desk", folder=folder)["BTCUSDT"]
    book = loaded_book(ldc.book, market="BTCUSDT")
    with Publisher("desk", folder=folder, levels=3) as publisher:
        assert run(program, folder) == (1, "BTCUSDT: FEEDER_GONE")
        publisher.publish(book)
        assert run(program, folder) == (0, "100 bid 100.10 1.000 ask 100.20 0.500") == (0, line_of(reader))
        book.apply(make_update(101, bids=[("100.12345678", "92233720368.5")]))
        assert run(program, folder) == (0, line_of(reader))
        book.suspend("GAP")
        status, text = run(program, folder)
        assert (status, text.split()[1]) == (1, "SUSPENDED")
        book.resume()
        book.lease = ldc.book.Lease(HOUR_NS)
        assert run(program, folder) == (1, "BTCUSDT: TOO_OLD")
        book.lease = None
        book.load_snapshot(b'{"lastUpdateId":7,"bids":[["1","1"]],"asks":[["2","1"]]}', 1)
        book.apply(make_update(8, bids=[("1", "0")]))
        assert run(program, folder) == (1, "BTCUSDT: LEFT_HORIZON")
        book.apply(make_update(9, bids=[("3", "1")]))
        assert run(program, folder) == (1, "BTCUSDT: CROSSED")
        book.clear()
        assert run(program, folder) == (1, "BTCUSDT: NOT_LOADED")
        odd = loaded_book(ldc.book, market=".币安/USDT")
        publisher.publish(odd)
        assert run(program, folder, ".币安/USDT") == (0, "100 bid 100.10 1.000 ask 100.20 0.500")
        assert run(program, folder, "ETHUSDT") == (1, "ETHUSDT: FEEDER_GONE")
        (publisher.folder / "BAD.book").write_bytes(b"x" * 1000)
        assert run(program, folder, "BAD") == (1, "BAD: MALFORMED")
    assert run(program, folder) == (1, "BTCUSDT: FEEDER_GONE")


RACE = r"""
#include "ldc_shared.h"
#include <pthread.h>
#include <stdio.h>

/* One thread writes as ldc does, four read by the header: no race, and no copy is torn. */
enum { LEVELS = 20, ROUNDS = @ };
static uint64_t memory[(256 + 2 * (128 + 32 * LEVELS)) / 8];
static int is_over;

static void store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

static void write_copy(uint64_t number) {
    uint64_t *copy = memory + (256 + number % 2 * ldc_shared_copy_bytes(LEVELS)) / 8, words[16];
    ldc_shared_view view;
    memset(&view, 0, sizeof(view));
    view.last_update_id = (int64_t)number;
    view.state = LDC_SHARED_READABLE;
    view.bid_count = view.ask_count = LEVELS;
    memcpy(words, &view, sizeof(view));
    store(copy, 2 * number - 1);
    for (int place = 1; place < 16; place++)
        store(copy + place, words[place]);
    for (int place = 16; place < 16 + 4 * LEVELS; place++)
        store(copy + place, number);
    store(copy, 2 * number);
    store(memory + 24, number);
}

static void *reader(void *unused) {
    ldc_shared_region region;
    ldc_shared_view view;
    ldc_shared_level bids[LEVELS], asks[LEVELS];
    long reads = 0;
    int64_t before = 0;
    (void)unused;
    if (ldc_shared_check(&region, memory, sizeof(memory)) != LDC_SHARED_READABLE)
        return (void *)-1L;
    while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED) || reads < 100) {
        int status = ldc_shared_take(&region, &view, bids, LEVELS, asks, LEVELS);
        if (status == LDC_SHARED_BUSY)
            continue;
        if (status != LDC_SHARED_READABLE || view.last_update_id < before)
            return (void *)-2L;
        before = view.last_update_id;
        for (int place = 0; place < LEVELS; place++)
            if (bids[place].price != before || bids[place].quantity != before || asks[place].price != before
                    || asks[place].quantity != before)
                return (void *)-3L;
        reads++;
    }
    return (void *)reads;
}

int main(void) {
    ldc_shared_head head;
    pthread_t threads[4];
    long total = 0;
    memset(&head, 0, sizeof(head));
    head.magic = LDC_SHARED_MAGIC;
    head.version = LDC_SHARED_VERSION;
    head.head_bytes = sizeof(head);
    head.copies = 2;
    head.levels = LEVELS;
    head.size = sizeof(memory);
    memcpy(memory, &head, sizeof(head));
    write_copy(1);
    for (int place = 0; place < 4; place++)
        pthread_create(&threads[place], NULL, reader, NULL);
    for (uint64_t number = 2; number < ROUNDS; number++)
        write_copy(number);
    __atomic_store_n(&is_over, 1, __ATOMIC_RELAXED);
    for (int place = 0; place < 4; place++) {
        void *reads;
        pthread_join(threads[place], &reads);
        if ((long)reads < 0)
            return 1;
        total += (long)reads;
    }
    printf("%ld reads\n", total);
    return 0;
}
"""


def race(folder: Path, rounds: int, *flags: str) -> Path:
    needs("gcc")
    source, program = folder / "race.c", folder / "race"
    source.write_text(RACE.replace("@", str(rounds)), encoding="utf-8")
    command = [
        "gcc",
        "-std=c99",
        "-O2",
        "-g",
        "-pthread",
        *flags,
        f"-I{HEADER.parent}",
        str(source),
        "-o",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and flags:
        pytest.skip(f"gcc has no {flags[0]}: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.check
def test_the_header_reads_without_a_race_under_thread_sanitizer(tmp_path: Path) -> None:
    program = race(tmp_path, 200_000, "-fsanitize=thread")
    done = subprocess.run(["setarch", "-R", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]


@pytest.mark.check
def test_the_header_reads_without_a_fault_under_valgrind(tmp_path: Path) -> None:
    needs("valgrind")
    program = compiled("c", "gcc", tmp_path)
    folder = tmp_path / "shares"
    with Publisher("desk", folder=folder) as publisher:
        publisher.publish(loaded_book(ldc.book, market="BTCUSDT"))
        command = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", str(program), "desk", "BTCUSDT"]
        environment = os.environ | {"LDC_SHARED_FOLDER": str(folder)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "100 bid 100.10 1.000 ask 100.20 0.500\n"), done.stderr


def test_no_copy_is_torn_between_threads(tmp_path: Path) -> None:
    done = subprocess.run([race(tmp_path, 200_000)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert int(done.stdout.split()[0]) >= 400


FUZZ = r"""
#include "ldc_shared.h"
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
    long seen[16] = {0};
    for (int place = 1; place < count; place++) {
        FILE *file = fopen(arguments[place], "rb");
        unsigned size;
        while (fread(&size, sizeof(size), 1, file) == 1) {
            ldc_shared_region region;
            ldc_shared_view view;
            ldc_shared_level bids[8], asks[8];
            int is_late, status;
            char text[24], *octets = malloc(size + 1);
            if (fread(octets, 1, size, file) != size)
                return 2;
            status = ldc_shared_check(&region, octets, size);
            if (status == LDC_SHARED_READABLE) {
                status = ldc_shared_take(&region, &view, bids, 8, asks, 8);
                ldc_shared_liveness(&region, ldc_shared_now_ns(), &is_late);
                ldc_shared_decimal(view.bid_horizon, view.price_scale, text);
                for (unsigned level = 0; level < 8 && level < view.bid_count; level++)
                    ldc_shared_decimal(bids[level].price, view.price_scale, text);
                ldc_shared_has_left(&view);
            }
            seen[status]++;
            free(octets);
        }
        fclose(file);
    }
    printf("%ld %ld %ld\n", seen[LDC_SHARED_READABLE], seen[LDC_SHARED_MALFORMED], seen[LDC_SHARED_BUSY]);
    return 0;
}
"""


@pytest.mark.check
def test_no_bytes_do_the_header_any_harm(tmp_path: Path) -> None:
    needs("gcc")
    made = shared_of(ldc.book)
    book = loaded_book(ldc.book, market="BTCUSDT")
    rng = random.Random(5)
    message = made.encode_region(book, 4)
    with (tmp_path / "inputs").open("wb") as file:
        for _ in range(50_000):
            octets = mutated(rng, bytearray(message))
            file.write(len(octets).to_bytes(4, "little") + octets)
    source, program = tmp_path / "fuzz.c", tmp_path / "fuzz"
    source.write_text(FUZZ, encoding="utf-8")
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    command = ["gcc", "-std=c99", "-O1", *sanitize, f"-I{HEADER.parent}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program, tmp_path / "inputs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(int(count) > 100 for count in done.stdout.split())


def test_a_wrong_call_of_an_example_is_status_2(tmp_path: Path) -> None:
    program = compiled("c", "gcc", tmp_path)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, "NAME MARKET" in done.stderr) == (2, True)
