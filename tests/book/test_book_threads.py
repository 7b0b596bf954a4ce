"""One thread writes, many read: each read is of one update id, and is what the book was then."""

import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from messages import make_snapshot, make_update

from ldc.types import Verdict

READERS = 3
VERSIONS_TO_SEE = 25
"""How many versions each reader must have met; the writer goes on until then."""
UPDATES_MAX = 1_000_000
LEVELS = 40
PATIENCE_S = 60.0


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def version(number: int) -> dict[str, Any]:
    """Return the levels of an update after which every quantity in the book is its number; half of the prices move."""
    now, before = number % 2, (number + 1) % 2
    bids = [(f"{100 - level}.{now}", str(number)) for level in range(LEVELS)]
    asks = [(f"{200 + level}.{now}", str(number)) for level in range(LEVELS)]
    bids += [(f"{100 - level}.{before}", "0") for level in range(LEVELS)]
    asks += [(f"{200 + level}.{before}", "0") for level in range(LEVELS)]
    return {"bids": bids, "asks": asks, "E": number}


def updates() -> Iterator[tuple[int, bytes]]:
    """Return update after update, faster than they could be made one by one."""
    mark = 777_777
    templates = [make_update(mark, **version(mark) | {"E": mark}) for mark in (mark + 1, mark)]
    for number in range(2, UPDATES_MAX):
        is_odd = number % 2
        yield number, templates[is_odd].replace(str(mark + 1 - is_odd).encode(), str(number).encode())


def check_view(view: Any) -> int:
    number = view.last_update_id
    assert view.event_time_ms == view.received_time_ns == number
    assert [level[1] for level in view.bids] == [float(number)] * LEVELS
    assert [level[1] for level in view.asks] == [float(number)] * LEVELS
    assert view.bids[0][0] == 100.0 + number % 2 / 10
    assert view.asks[0][0] == 200.0 + number % 2 / 10
    return int(number)


def check_sides(reader: Any) -> None:
    for levels in (reader.bids(), reader.asks(10), reader.to_numpy("bids").tolist()):
        assert len(levels) in (LEVELS, 10)
        assert len({quantity for _, quantity in levels}) == 1
        assert len({round(price * 10) % 10 for price, _ in levels}) == 1
    assert reader.best_bid[0] < reader.best_ask[0]
    assert not reader.is_crossed


@pytest.mark.usefixtures("restless")
def test_every_read_is_of_one_version(books: ModuleType) -> None:
    book = books.OrderBook("spot")
    first = version(1)
    book.load_snapshot(make_snapshot(first["bids"], first["asks"], 1, E=1), 1000, received_time_ns=1)
    start = threading.Barrier(READERS + 1)
    stop = threading.Event()
    failures: list[Exception] = []
    seen: list[list[int]] = [[0] for _ in range(READERS)]

    def read(numbers: list[int]) -> None:
        reader = book.reader
        start.wait(PATIENCE_S)
        try:
            while not stop.is_set():
                number = check_view(reader.view())
                if number != numbers[-1]:
                    numbers.append(number)
                check_sides(reader)
        except Exception as failure:  # it is raised again in the thread of the test
            failures.append(failure)

    threads = [threading.Thread(target=read, args=(numbers,), daemon=True) for numbers in seen]
    for thread in threads:
        thread.start()
    start.wait(PATIENCE_S)
    for number, update in updates():
        assert book.apply(update, number) is Verdict.APPLIED
        if failures or min(map(len, seen)) > VERSIONS_TO_SEE:
            break
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]
    for numbers in seen:
        assert numbers == sorted(numbers)
        assert len(numbers) > VERSIONS_TO_SEE
    book.check()


@pytest.mark.usefixtures("restless")
def test_two_books_may_compare_and_adopt_each_other_at_once(books: ModuleType) -> None:
    levels = version(1)
    body = make_snapshot(levels["bids"], levels["asks"], 1)
    pair = [books.OrderBook("spot"), books.OrderBook("spot")]
    for book in pair:
        book.load_snapshot(body)
    start = threading.Barrier(2)
    equal: list[bool] = []

    def trade(ours: Any, theirs: Any) -> None:
        start.wait(PATIENCE_S)
        for _ in range(100):
            equal.append(ours.compare(theirs).is_equal)
            ours.adopt(theirs)

    threads = [threading.Thread(target=trade, args=books_of, daemon=True) for books_of in (pair, pair[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "each waits for the lock of the other"
    assert equal == [True] * 200
    assert [book.counters.books_adopted for book in pair] == [100, 100]
    for book in pair:
        book.check()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a buffer cannot be made in Python before 3.12")
def test_a_second_writer_is_told_and_the_first_goes_on(compiled_books: ModuleType) -> None:
    book = compiled_books.OrderBook("spot")
    book.load_snapshot(make_snapshot([("1", "1")], [], 1))
    second: list[str] = []

    class Payload:
        """Its bytes are requested in the midst of an apply()."""

        def __buffer__(self, _: int) -> memoryview:
            for write in (lambda: book.apply(make_update(2)), lambda: book.load_snapshot(b"{}"), book.clear):
                try:
                    write()
                except RuntimeError as error:
                    second.append(str(error))
            return memoryview(make_update(2, bids=[("1", "0")]))

    assert book.apply(Payload()) is Verdict.APPLIED
    assert len(second) == 3
    assert (book.last_update_id, book.bid_count) == (2, 0)
    assert book.apply(make_update(3)) is Verdict.APPLIED


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has the GIL")
def test_importing_ldc_leaves_the_gil_off() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    program = "import sys, ldc; print(ldc.IMPLEMENTATION, sys._is_gil_enabled())"
    said = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert said.stdout.split()[1:] == ["False"], said.stderr
