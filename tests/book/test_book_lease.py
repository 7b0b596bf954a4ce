"""The lease: a book whose writer has not proven for too long that it lives refuses every read, and says so."""

import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from messages import READS, everything, loaded_book, make_snapshot, make_update, outcome

from ldc.errors import DepthCacheOutOfSync
from ldc.types import Cause

HOUR_NS = 3_600_000_000_000
TICK_NS = 20_000_000
"""The clock of reads may be one tick of the kernel behind: 10 ms at 100 Hz, and the same again."""


def proven(books: ModuleType, duration_ns: int = HOUR_NS) -> Any:
    """Return a lease that has just been renewed."""
    lease = books.Lease(duration_ns)
    lease.renew(books.Lease.now_ns())
    return lease


def stalled(books: ModuleType) -> Any:
    """Return a lease of 1 ns whose last proof is as old as the machine."""
    lease = books.Lease(1)
    lease.renew(0)
    return lease


def test_a_lease_expires_when_its_last_proof_is_older_than_its_duration(books: ModuleType) -> None:
    lease = books.Lease(10)
    assert (lease.duration_ns, lease.proven_ns, lease.age_ns) == (10, None, None)
    assert lease.is_expired()
    assert lease.is_expired(0)  # never proven, however early it is
    lease.renew(100)
    assert lease.proven_ns == 100
    assert [lease.is_expired(now) for now in (0, 100, 110, 111)] == [False, False, False, True]
    lease.renew(105)
    assert [lease.is_expired(now) for now in (115, 116)] == [False, True]
    lease.renew(90)  # the caller decides, also that a proof was none
    assert lease.is_expired(101)
    largest = books.Lease(2**63 - 1)
    largest.renew(0)
    assert not largest.is_expired(2**63 - 1)


def test_now_is_taken_from_the_lease_clock(books: ModuleType) -> None:
    before = books.Lease.now_ns()
    lease = proven(books)
    after = books.Lease.now_ns()
    assert before <= lease.proven_ns <= after
    assert 0 <= lease.age_ns <= books.Lease.now_ns() - lease.proven_ns + TICK_NS
    assert not lease.is_expired()
    lease.renew(books.Lease.now_ns() + HOUR_NS)
    assert lease.age_ns == 0
    lease.renew(0)
    assert books.Lease.now_ns() - TICK_NS <= lease.age_ns <= books.Lease.now_ns()


def test_both_books_have_the_same_clock(both_books: tuple[ModuleType, ModuleType]) -> None:
    plain, compiled = both_books
    times = [module.Lease.now_ns() for module in (plain, compiled, plain, compiled)]
    assert times == sorted(times)
    ages = []
    for module in (plain, compiled, plain):
        lease = module.Lease(1)
        lease.renew(0)
        ages.append(lease.age_ns)
    assert ages[0] - TICK_NS <= ages[1] <= ages[2]


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_duration_is_at_least_a_nanosecond(books: ModuleType, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {wrong}"):
        books.Lease(wrong)


@pytest.mark.parametrize("wrong", [1.5, "1", None])
def test_times_are_ints(books: ModuleType, wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be an int"):
        books.Lease(wrong)
    with pytest.raises(TypeError, match="must be an int"):
        books.Lease(1).renew(wrong)


def test_times_are_of_the_clock(books: ModuleType) -> None:
    with pytest.raises(ValueError, match="not be negative"):
        books.Lease(1).renew(-1)
    with pytest.raises(OverflowError):
        books.Lease(2**63)
    lease = books.Lease(1)
    with pytest.raises(OverflowError):
        lease.renew(2**63)
    assert lease.proven_ns is None


def test_a_lease_cannot_be_copied_or_subclassed(books: ModuleType) -> None:
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(books.Lease(1))
    with pytest.raises(TypeError):
        type("Mine", (books.Lease,), {})


def test_a_book_without_a_lease_never_stalls(books: ModuleType) -> None:
    book = loaded_book(books)
    assert book.lease is None
    assert book.is_readable
    lease = proven(books)
    book.lease = lease
    assert book.lease is lease
    assert book.is_readable
    book.lease = stalled(books)
    assert not book.is_readable
    book.lease = None
    assert book.is_readable


@pytest.mark.parametrize("read", READS)
def test_every_read_of_levels_is_refused_while_the_lease_is_expired(books: ModuleType, read: str) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.lease = lease = stalled(books)
    for face in (book, book.reader):
        with pytest.raises(DepthCacheOutOfSync) as raised:
            READS[read](face)
        assert (raised.value.market, raised.value.cause) == ("BTCUSDT", Cause.STALLED)
        assert (face.is_readable, face.unreadable_cause, face.suspended_by) == (False, Cause.STALLED, None)
    lease.renew(books.Lease.now_ns() + HOUR_NS)
    READS[read](book)
    assert (book.is_readable, book.unreadable_cause) == (True, None)


def test_an_array_is_refused_as_well(books: ModuleType) -> None:
    pytest.importorskip("numpy")
    book = loaded_book(books)
    book.lease = stalled(books)
    for face in (book, book.reader):
        assert outcome(lambda face=face: face.to_numpy("bids"))[2] == Cause.STALLED


def test_the_refusal_says_how_old_the_proof_is_and_what_to_do(books: ModuleType) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.lease = books.Lease(26_500_000_000)
    with pytest.raises(DepthCacheOutOfSync) as raised:
        book.bids()
    text = str(raised.value)
    assert "no proof has come yet" in text
    book.lease.renew(max(0, books.Lease.now_ns() - 90_000_000_000))
    if not book.lease.is_expired():
        pytest.skip("the machine has not been up for half a minute")
    with pytest.raises(DepthCacheOutOfSync) as raised:
        book.bids()
    text = str(raised.value)
    assert "'BTCUSDT' cannot be read at update id 100 (cause: STALLED)" in text
    age = float(text.partition("came ")[2].partition(" s ago")[0])
    assert 26.5 < age <= books.Lease.now_ns() / 1e9
    assert "26.500 s are allowed" in text
    assert "resynchronize or restart it" in text


def test_the_order_of_refusals_is_that_of_the_contract(books: ModuleType) -> None:
    """Each state has all that come after it: the first of them is named."""
    book = books.OrderBook("spot")
    book.lease = lease = stalled(books)
    book.suspend("GAP")
    causes = []

    def note() -> None:
        assert outcome(lambda: book.view())[2] == outcome(lambda: book.best_bid)[2] == book.unreadable_cause
        causes.append(book.unreadable_cause)

    note()
    # One level a side, up to both horizons; then the bid moves past its own, and crosses.
    book.load_snapshot(make_snapshot([("100", "1")], [("101", "1")]), 1)
    book.apply(make_update(101, bids=[("100", "0"), ("99", "1")], asks=[("101", "0"), ("98", "1")]))
    assert book.is_crossed
    note()
    book.resume()
    note()
    lease.renew(books.Lease.now_ns() + HOUR_NS)
    note()
    book.apply(make_update(102, asks=[("98", "0"), ("102", "1")]))
    note()
    assert causes == ["NOT_LOADED", "GAP", "STALLED", "CROSSED", "LEFT_HORIZON"]
    book.load_snapshot(make_snapshot())
    assert book.unreadable_cause is None


def test_a_stalled_book_can_be_written_looked_at_and_repaired(books: ModuleType) -> None:
    book, sound = loaded_book(books), loaded_book(books)
    book.lease = stalled(books)
    for each in (book, sound):
        each.apply(make_update(101, bids=[("100.05", "2")]))
    assert book.held_levels(number=str) == sound.view(number=str)
    looks = everything(book)
    assert looks["last_update_id"] == "101"
    assert looks["counters"] == everything(sound)["counters"]
    assert not book.needs_attention
    assert book.compare(sound).is_equal
    book.check()
    book.adopt(sound)
    book.load_snapshot(make_snapshot(last_update_id=200))
    book.clear()
    book.load_snapshot(make_snapshot(last_update_id=300))
    assert book.unreadable_cause == Cause.STALLED  # the lease is no part of what is forgotten


def test_only_a_lease_of_the_same_implementation_is_taken(both_books: tuple[ModuleType, ModuleType]) -> None:
    for ours, other in (both_books, both_books[::-1]):
        book = loaded_book(ours)
        for wrong in (other.Lease(1), 1, "lease"):
            with pytest.raises(TypeError):
                book.lease = wrong
        assert book.lease is None


def test_a_lease_lives_as_long_as_a_book_of_it(books: ModuleType) -> None:
    reader = loaded_book(books).reader
    kept = []
    for _ in range(100):
        book = loaded_book(books)
        book.lease = proven(books)
        book.lease = proven(books)
        kept.append(book.reader)
        del book
    reader = kept[-1]
    kept.clear()
    assert reader.is_readable


def test_a_face_for_readers_can_neither_set_a_lease_nor_read_what_is_not_proven(books: ModuleType) -> None:
    reader = loaded_book(books).reader
    assert not hasattr(reader, "lease")
    assert not hasattr(reader, "held_levels")


def test_a_lease_that_is_set_and_expires_while_others_read_is_seen_by_them(books: ModuleType) -> None:
    """One thread renews, expires and replaces the lease of a book; others read: a level or STALLED, nothing else."""
    book = loaded_book(books)
    book.lease = proven(books)
    is_over = threading.Event()
    found: set[Any] = set()

    def read() -> None:
        while not is_over.is_set():
            result = outcome(lambda: book.best_bid)
            found.add(result if isinstance(result[0], float) else result[2])
            found.add(book.unreadable_cause)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3_000):
        book.lease.renew(0)
        book.lease.renew(books.Lease.now_ns())
        book.lease = stalled(books)
        book.lease = proven(books)
    is_over.set()
    for thread in threads:
        thread.join()
    assert found <= {(100.1, 1.0), Cause.STALLED, None}
    assert book.is_readable


SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static long slept_s, wall_s;
void set_clocks(long slept, long wall) { slept_s = slept; wall_s = wall; }
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_BOOTTIME)
        time->tv_sec += slept_s;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        time->tv_sec += slept_s + wall_s;
    return result;
}
"""

SLEEPER = """
import ctypes, sys
from importlib import import_module
from messages import loaded_book

set_clocks = ctypes.CDLL(sys.argv[2]).set_clocks
module = import_module(sys.argv[1])
HOUR_S = 3600
set_clocks(HOUR_S, 0)  # it had slept before anything read the clock
lease = module.Lease(60 * 10**9)
lease.renew(module.Lease.now_ns())
assert lease.proven_ns > HOUR_S * 10**9
book = loaded_book(module)
book.lease = lease
assert book.unreadable_cause is None
for wall_s in (1, -HOUR_S, HOUR_S * 24 * 365, 0):  # set by hand, or by NTP: that is no sleep
    set_clocks(HOUR_S, wall_s)
    for _ in range(3):
        assert book.unreadable_cause is None, wall_s
for slept_s in (59, 61, 3 * HOUR_S):
    lease.renew(module.Lease.now_ns())
    assert book.unreadable_cause is None, slept_s
    set_clocks(HOUR_S + slept_s, 0)
    for _ in range(3):
        assert book.unreadable_cause == (None if slept_s < 60 else "STALLED"), slept_s
    assert slept_s * 10**9 - 10**7 <= lease.age_ns < (slept_s + 50) * 10**9
    set_clocks(HOUR_S, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the clocks are those of Linux")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="something else is loaded first")
def test_the_sleep_of_the_machine_counts_and_a_set_clock_does_not(books: ModuleType, tmp_path: Path) -> None:
    """In a process whose C library has clocks as after a sleep, or after the wall clock was set."""
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    source, shim = tmp_path / "clocks.c", tmp_path / "clocks.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-P", "-c", SLEEPER, books.__name__, shim], check=True, timeout=60, env=environment)
