"""What a book costs. The budgets are measured by `sys.getsizeof`, which is held to what the process really holds."""

import ctypes
import gc
import random
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from messages import make_snapshot, make_update, outcome

from ldc._build import BUILD
from ldc.book import IMPLEMENTATION, OrderBook
from ldc.types import Verdict

FIXED_BYTES_MAX = 8 * 1024
BYTES_PER_LEVEL_MAX = 48


def prices(first: int, count: int, step: int) -> list[tuple[str, str]]:
    return [(f"{first + step * number}.50000000", f"{number + 1}.12345678") for number in range(count)]


def book_of(module: ModuleType, levels: int) -> Any:
    book = module.OrderBook("spot")
    book.load_snapshot(make_snapshot(prices(50_000, levels, -1), prices(50_001, levels, 1)))
    return book


def test_a_book_says_what_it_holds(books: ModuleType) -> None:
    empty, small, large = (sys.getsizeof(book_of(books, levels)) for levels in (0, 100, 10_000))
    assert sys.getsizeof(books.OrderBook("spot")) <= empty
    assert large - empty >= 2 * 10_000 * 16
    assert small - empty < (large - empty) / 10


def test_a_book_stays_within_its_budget(compiled_books: ModuleType) -> None:
    assert sys.getsizeof(compiled_books.OrderBook("spot")) <= FIXED_BYTES_MAX
    for levels in (1_000, 5_000, 20_000):
        book = book_of(compiled_books, levels)
        assert sys.getsizeof(book) <= FIXED_BYTES_MAX + 2 * levels * BYTES_PER_LEVEL_MAX


@pytest.mark.parametrize("seed", range(12))
def test_a_book_stays_within_its_budget_after_any_churn(compiled_books: ModuleType, seed: int) -> None:
    dice = random.Random(seed)
    book = book_of(compiled_books, 1_000)
    for number in range(100):
        held = [price for price, _ in book.bids(number=str, beyond_horizon=True)]
        gone = dice.sample(held, dice.randrange(min(len(held), 400) + 1))
        come = [str(dice.randrange(10_000, 50_000)) for _ in range(dice.randrange(400))]
        levels = [(price, "0") for price in gone] + [(price, "1") for price in come]
        dice.shuffle(levels)
        assert book.apply(make_update(101 + number, bids=levels)) is Verdict.APPLIED
    held = max(book.bid_count + book.ask_count, 2_000)
    assert sys.getsizeof(book) <= FIXED_BYTES_MAX + held * BYTES_PER_LEVEL_MAX
    book.check()


def test_halves_of_a_full_block_join_their_small_neighbours(compiled_books: ModuleType) -> None:
    book = compiled_books.OrderBook("spot")
    book.load_snapshot(make_snapshot([], [(str(10 * price), "1") for price in range(100, 158)]))  # blocks of 48 and 10
    for number in range(17):  # the first is full at 64, then split
        book.apply(make_update(101 + number, asks=[(f"{1001 + number}", "1")]))
        book.check()


@pytest.mark.parametrize("order", ["best first", "worst first", "every second"])
def test_a_book_that_shrinks_gives_its_memory_back(compiled_books: ModuleType, order: str) -> None:
    book = book_of(compiled_books, 20_000)
    full = sys.getsizeof(book)
    gone = [price for price, _ in prices(50_001, 20_000, 1)][200:]
    if order == "worst first":
        gone.reverse()
    elif order == "every second":
        gone = gone[::2] + gone[1::2]
    deletes = [(price, "0") for price in gone] + [(price, "0") for price, _ in prices(50_000, 20_000, -1)[200:]]
    for number, start in enumerate(range(0, len(deletes), 1_000)):
        some = deletes[start : start + 1_000]
        assert book.apply(make_update(101 + number, bids=some, asks=some)) is Verdict.APPLIED
    assert (book.bid_count, book.ask_count) == (200, 200)
    assert sys.getsizeof(book) <= full / 10
    assert sys.getsizeof(book) <= FIXED_BYTES_MAX + 2 * 1_000 * BYTES_PER_LEVEL_MAX
    book.check()
    book.clear()
    assert sys.getsizeof(book) <= FIXED_BYTES_MAX


def test_what_a_message_needed_is_not_kept(compiled_books: ModuleType) -> None:
    book = book_of(compiled_books, 100)
    before = sys.getsizeof(book)
    deletes = [(f"{number}.5", "0") for number in range(60_000, 100_000)]
    assert book.apply(make_update(101, bids=deletes)) is Verdict.APPLIED
    assert sys.getsizeof(book) <= before + 1_024


FOLDERS = Path(__file__).parent, Path(__file__).parents[1] / "kits"
MEASURE = """
import gc, importlib, resource, sys
sys.path[:0] = sys.argv[2:]
from test_book_memory import book_of

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

module = importlib.import_module(sys.argv[1])
warm = [book_of(module, 1000) for _ in range(20)]
before = resident()
books = [book_of(module, 1000) for _ in range(200)]
print((resident() - before) / sum(map(sys.getsizeof, books)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the resident memory is read from /proc")
@pytest.mark.skipif(BUILD == "sanitize", reason="under AddressSanitizer the resident memory is mostly its own")
def test_what_a_book_says_is_what_the_process_holds(compiled_books: ModuleType) -> None:
    command = [sys.executable, "-P", "-c", MEASURE, compiled_books.__name__, *map(str, FOLDERS)]
    measured = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert 0.7 < float(measured.stdout) < 1.4


# ------------------------------------------------------------------------------------------------ leaks


class Usage(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    ))  # fmt: skip


LONG_BIDS = [(str(price), "1") for price in range(4000, 1000, -1)]
LONG_ASKS = [(str(price), "1") for price in range(4001, 7001)]


def allocated_bytes() -> int:
    """Return how many bytes the process holds of what malloc gave it."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        pytest.skip("this C library does not say how much it has given")
    mallinfo2.restype = Usage
    usage = mallinfo2()
    return int(usage.uordblks + usage.hblkhd)


def new_book() -> Any:
    book = OrderBook("spot")
    book.load_snapshot(make_snapshot(LONG_BIDS, LONG_ASKS), limit=5000)
    return book


REFUSED = make_update(101, bids=[*LONG_BIDS, ("x", "1")])

LEAKS: dict[str, Callable[[Any, Any], object]] = {
    "a book": lambda _book, _other: new_book(),
    "load_snapshot": lambda book, _other: book.load_snapshot(make_snapshot(LONG_BIDS, LONG_ASKS), limit=5000),
    "load_from": lambda book, _other: book.load_from(new_book()),
    "a refused snapshot": lambda book, _other: outcome(lambda: book.load_snapshot(make_snapshot(LONG_ASKS, LONG_BIDS))),
    "apply": lambda book, _other: book.apply(make_update(book.last_update_id + 1, bids=LONG_BIDS, asks=LONG_ASKS)),
    "a refused update": lambda book, _other: outcome(lambda: book.apply(REFUSED)),
    "clear": lambda book, _other: (book.clear(), book.load_snapshot(make_snapshot(LONG_BIDS, LONG_ASKS), limit=5000)),
    "adopt": lambda book, other: (other.load_from(new_book()), book.load_from(new_book()), book.adopt(other)),
    "compare": lambda book, other: (other.load_from(new_book()), book.load_from(new_book()), book.compare(other)),
    "bids": lambda book, _other: book.bids(),
    "asks, exact": lambda book, _other: book.asks(number=str),
    "view": lambda book, _other: book.view(number=Decimal),
    "to_numpy": lambda book, _other: book.to_numpy("bids"),
    "to_json": lambda book, _other: book.to_json(),
    "texts": lambda book, _other: book.texts(),
    "retained updates": lambda book, _other: (
        book.retain_updates(),
        book.apply(make_update(book.last_update_id + 1, bids=LONG_BIDS)),
        book.forget_retained(),
    ),
}


@pytest.mark.skipif(IMPLEMENTATION != "cython", reason="the Python book does not allocate by hand")
@pytest.mark.parametrize("what", LEAKS)
def test_nothing_is_allocated_that_is_not_freed(what: str) -> None:
    book, other, times = new_book(), new_book(), 20
    for _ in range(3):
        LEAKS[what](book, other)
    gc.collect()
    before = allocated_bytes()
    for _ in range(times):
        LEAKS[what](book, other)
    gc.collect()
    assert allocated_bytes() - before < times * 500
