"""A region and its reader: what a book says, another process reads, whatever happened to the book."""

import itertools
import os
import random
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from messages import ASKS, BIDS, loaded_book, make_snapshot, make_update, outcome
from shared_kit import Share, Wanderer, change, mutated, shared_of

from ldc.errors import DepthCacheError, DepthCacheOutOfSync, MalformedMessage
from ldc.shared.feeder import take_lock
from ldc.types import Cause

SAME_LOOKS = (
    "is_loaded", "is_readable", "unreadable_cause", "last_update_id", "event_time_ms", "transaction_time_ms",
    "received_time_ns", "is_crossed", "price_decimals", "quantity_decimals",
)  # fmt: skip
READS = {
    "best_bid": lambda book: book.best_bid,
    "best_ask": lambda book: book.best_ask,
    "bids": lambda book: book.bids(),
    "asks(3)": lambda book: book.asks(3),
    "bids(threshold)": lambda book: book.bids(threshold_volume=1000),
    "asks(str)": lambda book: book.asks(number=str),
    "view": lambda book: book.view(),
    "view(2)": lambda book: book.view(2),
    "view(Decimal)": lambda book: book.view(number=Decimal),
    "numpy": lambda book: book.to_numpy("bids", 5).tolist(),
}
HOUR_NS = 3_600_000_000_000
TICK_NS = 20_000_000
"""The clock of reads may be one tick of the kernel behind: 10 ms at 100 Hz, and the same again."""


@pytest.fixture
def made(books: ModuleType) -> SimpleNamespace:
    return shared_of(books)


def cut_cause(cause: str | None) -> str | None:
    """Return a cause as another process reads it: a plain text, unless the state of the book says it."""
    if isinstance(cause, Cause) and cause not in ("NOT_LOADED", "CROSSED", "LEFT_HORIZON"):
        return cause.value
    return cause if cause is None or len(cause) <= 32 else cause[:32]


def assert_same(share: Share) -> None:
    """Whatever a book of few levels says, the reader says."""
    book, reader = share.book, share.reader
    for name in SAME_LOOKS:
        expected = getattr(book, name)
        assert getattr(reader, name) == (cut_cause(expected) if isinstance(expected, str) else expected), name
    assert reader.suspended_by == cut_cause(book.suspended_by)
    for name, read in READS.items():
        expected, found = (outcome(lambda read=read, of=of: read(of)) for of in (book, reader))
        if isinstance(expected, tuple) and expected and isinstance(expected[0], type):
            expected = expected[0], expected[1], cut_cause(expected[2])
        assert repr(found) == repr(expected), name


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_says_what_the_book_says_whatever_happens_to_it(books: ModuleType, seed: int) -> None:
    made, wanderer = shared_of(books), Wanderer(seed)
    share = Share(made, books.OrderBook("spot", market="BTCUSDT"))
    seen = set()
    for _ in range(250):
        change(share.book, books.OrderBook, wanderer)
        assert_same(share)
        seen.add(share.reader.unreadable_cause)
    assert {None, "NOT_LOADED", "GAP"} <= seen


def test_each_implementation_reads_the_other(both_books: tuple[ModuleType, ModuleType]) -> None:
    for writes, reads in itertools.permutations(both_books):
        wanderer = Wanderer(3)
        share = Share(shared_of(writes), writes.OrderBook("spot", market="BTCUSDT"), reads=shared_of(reads))
        for _ in range(150):
            change(share.book, writes.OrderBook, wanderer)
            assert_same(share)


def test_both_write_the_same_bytes(both_books: tuple[ModuleType, ModuleType]) -> None:
    messages = []
    for books in both_books:
        wanderer, book = Wanderer(5), books.OrderBook("spot", market="BTCÜSDT")
        for _ in range(60):
            change(book, books.OrderBook, wanderer)
        book.resume()
        encoded = shared_of(books).encode_region(book, 7, exchange="x" * 70, generation=3, pid=4, created_ns=5)
        messages.append(encoded[:200] + encoded[208:])  # without the heartbeat, which is the present
    assert messages[0] == messages[1]


def test_the_region_ends_at_its_last_level_and_the_horizon_says_so(books: ModuleType, made: SimpleNamespace) -> None:
    book = loaded_book(books, market="BTCUSDT")
    reader = Share(made, book, levels=2).reader
    view = reader.view(number=str)
    assert view.bids == (("100.10", "1.000"), ("100.00", "2.500"))
    assert (view.bid_horizon, view.ask_horizon) == ("100.00", "100.40")
    assert (reader.bid_count, reader.bid_horizon, reader.ask_horizon) == (2, 100.0, 100.4)
    assert len(reader.bids(50)) == 2
    book.apply(make_update(101, bids=[("100.00", "0"), ("99.50", "0")]))  # one bid is left, and that is all there are
    assert reader.view().bid_horizon is None
    assert reader.view().ask_horizon == 100.4


def test_the_nearer_horizon_counts(books: ModuleType, made: SimpleNamespace) -> None:
    book = loaded_book(books, limit=3, market="BTCUSDT")
    reader = Share(made, book, levels=5).reader
    book.apply(make_update(101, bids=[("99.00", "1")]))  # beyond the book's own horizon: not published
    assert reader.view().bid_horizon == book.view().bid_horizon == 99.5
    assert reader.bids() == book.bids()


def test_a_market_that_left_its_horizon_is_refused_and_not_empty(books: ModuleType, made: SimpleNamespace) -> None:
    book = loaded_book(books, limit=3, market="BTCUSDT")
    reader = Share(made, book).reader
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS]))
    for read in (lambda: reader.best_bid, reader.bids, reader.view):
        with pytest.raises(DepthCacheOutOfSync, match=r"no level is left in its bids up to 99\.5") as refusal:
            read()
        assert refusal.value.cause == "LEFT_HORIZON"
    assert reader.best_ask == book.best_ask
    assert reader.unreadable_cause == "LEFT_HORIZON"


def test_prices_up_to_the_largest_are_exact(books: ModuleType, made: SimpleNamespace) -> None:
    bids = [("92233720368.54775807", "92233720368.54775807"), ("0.00000001", "0.00000001")]
    book = loaded_book(books, bids=bids, asks=[], market="BTCUSDT")
    share = Share(made, book)
    assert_same(share)
    assert share.reader.bids(number=str)[0] == list(bids[0])


# ------------------------------------------------------------------------------------------------------------ freshness


class Lock:
    """Stands for the file `feeder`: locked by another process, or by none."""

    def __init__(self, path: Any, *, is_locked: bool) -> None:
        path.touch()
        self.fds = [os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)]
        assert not is_locked or take_lock(self.fds[0])

    def __del__(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def fileno(self) -> int:
        return self.fds[1]


def write_word(share: Share, offset: int, value: int) -> None:
    share.memory[offset : offset + 8] = value.to_bytes(8, "little", signed=True)


HEARTBEAT, PROVEN, LEASE = 200, 208, 216


def attached(share: Share, feeder: Any, **named: Any) -> Any:
    made = share.made
    return made.SharedReader("BTCUSDT", attachment=made.Attachment(share.memory, feeder=feeder), **named)


def test_a_book_is_too_old_when_its_proof_is_older_than_its_lease(
    books: ModuleType, made: SimpleNamespace, tmp_path: Any
) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.lease = lease = made.Lease(HOUR_NS)
    share = Share(made, book)
    reader = attached(share, Lock(tmp_path / "feeder", is_locked=True))
    assert reader.unreadable_cause == "TOO_OLD"  # there was no proof yet
    assert reader.proof_age_ns is None
    with pytest.raises(DepthCacheOutOfSync, match="none has come yet"):
        reader.view()
    lease.renew(made.Lease.now_ns() - HOUR_NS // 2)
    book.lease = lease  # as the keeper does every 10 ms
    assert reader.is_readable
    assert reader.proof_age_ns >= HOUR_NS // 2 - TICK_NS
    lease.renew(max(made.Lease.now_ns() - 2 * HOUR_NS, 0))
    book.lease = made.Lease(1)
    with pytest.raises(DepthCacheOutOfSync) as refusal:
        _ = reader.best_bid
    assert refusal.value.cause == "TOO_OLD"
    book.lease = None
    assert reader.is_readable


def test_a_heartbeat_makes_no_old_book_young(books: ModuleType, made: SimpleNamespace, tmp_path: Any) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.lease = lease = made.Lease(1_000_000)
    lease.renew(1)
    share = Share(made, book)
    reader = attached(share, Lock(tmp_path / "feeder", is_locked=True))
    keeper = made.RegionKeeper()
    keeper.add(book)  # renews the heartbeat now
    book.apply(make_update(101))  # and so does a commit
    assert reader.unreadable_cause == "TOO_OLD"


def test_times_of_another_clock_prove_nothing(books: ModuleType, made: SimpleNamespace, tmp_path: Any) -> None:
    book = loaded_book(books, market="BTCUSDT")
    share = Share(made, book)
    now = made.Lease.now_ns()
    locked = attached(share, Lock(tmp_path / "feeder", is_locked=True))
    free = attached(share, Lock(tmp_path / "other", is_locked=False))
    write_word(share, HEARTBEAT, now + HOUR_NS)
    assert locked.is_readable
    assert free.unreadable_cause == "FEEDER_GONE"
    write_word(share, LEASE, HOUR_NS)
    write_word(share, PROVEN, now + HOUR_NS)
    assert locked.unreadable_cause == "TOO_OLD"


def test_only_a_late_heartbeat_and_a_free_lock_say_that_the_feeder_is_gone(
    books: ModuleType, made: SimpleNamespace, tmp_path: Any
) -> None:
    share = Share(made, loaded_book(books, market="BTCUSDT"))
    locked = attached(share, Lock(tmp_path / "feeder", is_locked=True))
    free = attached(share, Lock(tmp_path / "other", is_locked=False))
    for _ in range(1_000):  # it stays young for 15 ms, in which the look may not come
        write_word(share, HEARTBEAT, made.Lease.now_ns())
        if free.is_readable:
            break
    else:
        pytest.fail("a young heartbeat did not count")
    write_word(share, HEARTBEAT, max(made.Lease.now_ns() - HOUR_NS, 0))
    assert locked.is_readable
    assert free.unreadable_cause == "FEEDER_GONE"
    share.writer.end()
    assert locked.unreadable_cause == "FEEDER_GONE"
    with pytest.raises(DepthCacheOutOfSync, match="start that process"):
        locked.view()


def test_a_stricter_age_than_the_lease_counts(books: ModuleType, made: SimpleNamespace, tmp_path: Any) -> None:
    book = loaded_book(books, market="BTCUSDT")
    share = Share(made, book)
    feeder = Lock(tmp_path / "feeder", is_locked=True)
    strict = attached(share, feeder, max_age_ns=1_000_000)
    assert attached(share, feeder).is_readable
    assert strict.unreadable_cause == "TOO_OLD"  # without a lease there is no proof
    book.lease = lease = made.Lease(HOUR_NS)
    lease.renew(max(made.Lease.now_ns() - 10_000_000, 0))
    book.lease = lease
    with pytest.raises(DepthCacheOutOfSync, match=r"0\.001 s are allowed"):
        strict.view()


# ------------------------------------------------------------------------------------------------------------ messages


def test_a_message_is_a_book_of_one_moment(books: ModuleType, made: SimpleNamespace) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.lease = lease = made.Lease(HOUR_NS)
    lease.renew(made.Lease.now_ns())
    message = made.encode_region(book.reader, 2, exchange="binance.com", generation=9)
    assert len(message) == 384 + 32 * 2
    reader = made.SharedReader("BTCUSDT", attachment=made.Attachment(message))
    book.apply(make_update(101, bids=[("100.15", "1")]))
    assert (reader.last_update_id, reader.best_bid, reader.generation) == (100, (100.1, 1.0), 9)
    assert reader.exchange == "binance.com"
    book.suspend("GAP")
    late = made.SharedReader("BTCUSDT", attachment=made.Attachment(made.encode_region(book)))
    assert late.unreadable_cause == "GAP"
    assert book.region is None


def test_a_message_of_another_clock_has_the_age_that_it_had(books: ModuleType, made: SimpleNamespace) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.lease = lease = made.Lease(HOUR_NS)
    lease.renew(max(made.Lease.now_ns() - 5_000_000_000, 0))
    share = Share(made, book)
    for offset in (HEARTBEAT, PROVEN):  # as if the sender's machine had run for an hour more
        there = int.from_bytes(share.memory[offset : offset + 8], "little", signed=True)
        write_word(share, offset, there + HOUR_NS)
    reader = made.SharedReader("BTCUSDT", attachment=made.Attachment(share.memory))
    assert reader.is_readable
    assert 5_000_000_000 - TICK_NS <= reader.proof_age_ns < 60_000_000_000


# ----------------------------------------------------------------------------------------------------- arbitrary bytes


def use(made: SimpleNamespace, octets: bytearray, feeder: Any = None) -> set[str]:
    """Read everything of some bytes; return what was raised. Nothing but refusals may be."""
    raised: set[str] = set()
    try:
        reader = made.SharedReader("BTCUSDT", attachment=made.Attachment(octets, feeder=feeder))
    except MalformedMessage:
        return {"refused"}
    for read in READS.values():
        try:
            read(reader)
        except DepthCacheError as error:
            raised.add(type(error).__name__)
    for name in (*SAME_LOOKS, "suspended_by", "bid_horizon", "ask_horizon", "bid_count", "proof_age_ns", "generation"):
        getattr(reader, name)
    assert reader.wait_for_update(timeout=0) in (None, reader.last_update_id) or reader.is_readable
    return raised


def fuzz(books: ModuleType, seed: int, rounds: int) -> set[str]:
    made, rng, seen = shared_of(books), random.Random(seed), set()
    share = Share(made, loaded_book(books, market="BTCUSDT"), levels=4)
    share.book.apply(make_update(101, bids=[("100.15", "1")]))
    for _ in range(rounds):
        octets = mutated(rng, bytearray(share.memory))
        try:
            seen |= use(made, octets)
        except (MalformedMessage, DepthCacheError):
            seen.add("while waiting")
        except Exception as error:
            error.add_note(f"seed {seed}: {bytes(octets).hex()}")
            raise
    return seen


def test_no_bytes_do_more_than_raise_a_refusal(books: ModuleType) -> None:
    # Seed 4 found a malformed copy whose feeder was gone as well. One in a hundred seeds has not all three outcomes.
    assert {"refused", "MalformedMessage", "DepthCacheOutOfSync"} <= fuzz(books, 4, 1_500)
    fuzz(books, random.SystemRandom().randrange(2**32), 500)


@pytest.mark.check
def test_no_bytes_do_more_than_raise_a_refusal_for_long(books: ModuleType) -> None:
    fuzz(books, random.SystemRandom().randrange(2**32), 30_000 if books.__name__ == "ldc._book" else 5_000)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 384])
def test_what_is_no_region_is_refused(made: SimpleNamespace, size: int) -> None:
    with pytest.raises(MalformedMessage, match=f"{size} bytes are no shared book"):
        made.Attachment(bytearray(size))


def test_another_version_is_named(books: ModuleType, made: SimpleNamespace) -> None:
    message = bytearray(made.encode_region(loaded_book(books)))
    message[8] = 2
    with pytest.raises(MalformedMessage, match="has layout 2, and this ldc reads 1"):
        made.Attachment(message)


def test_a_copy_that_is_never_whole_ends_the_read(books: ModuleType, made: SimpleNamespace) -> None:
    share = Share(made, loaded_book(books, market="BTCUSDT"))
    number = int.from_bytes(share.memory[192:200], "little")
    copy = 256 + number % 2 * (128 + 3200)
    share.memory[copy] += 1
    with pytest.raises(MalformedMessage, match="changed during each of many reads"):
        share.reader.view()
    assert share.reader.unreadable_cause == "BUSY"


# ---------------------------------------------------------------------------------------------------------------- rest


def test_a_writer_checks_its_memory(made: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="has 6912 bytes"):
        made.RegionWriter(bytearray(6904), "BTCUSDT", 100)
    for wrong in (0, -1, 50_001):
        with pytest.raises(ValueError, match="from 1 to 50000"):
            made.region_bytes(wrong)
    with pytest.raises(TypeError, match="must be an int"):
        made.region_bytes(1.0)
    with pytest.raises(ValueError, match="no waiter slot 1"):
        made.RegionWriter(bytearray(6912), "BTCUSDT", 100, waiters=bytearray(8), waiter_slot=1)


def test_a_book_that_is_not_shared_any_more_writes_nowhere(books: ModuleType, made: SimpleNamespace) -> None:
    share = Share(made, loaded_book(books, market="BTCUSDT"))
    before = bytes(share.memory)
    share.book.region = None
    share.book.apply(make_update(101, bids=[("100.15", "1")]))
    share.book.suspend("GAP")
    assert bytes(share.memory) == before
    assert share.book.region is None
    share.book.resume()
    share.book.region = share.writer
    assert share.reader.last_update_id == 101
    share.book.forget_region()
    share.book.apply(make_update(102))
    assert share.reader.last_update_id == 101


def test_a_wait_ends_with_the_next_id_and_with_a_restart_of_the_ids(books: ModuleType, made: SimpleNamespace) -> None:
    book = loaded_book(books, market="BTCUSDT")
    reader = Share(made, book).reader
    assert reader.wait_for_update(99, timeout=0) == 100
    assert reader.wait_for_update(100, timeout=0) is None
    assert reader.wait_for_update(timeout=0.01) is None
    assert reader.wait_for_update(500, timeout=0.01) is None  # an id of the future
    book.load_snapshot(make_snapshot(BIDS, ASKS, 50), 1000)
    assert reader.wait_for_update(100, timeout=0) == 50
    book.suspend("GAP")
    with pytest.raises(DepthCacheOutOfSync):
        reader.wait_for_update(50, timeout=1)
    assert reader.wait_for_update(timeout=0.01) is None
    book.resume()
    assert reader.wait_for_update(50, timeout=0.01, spin_us=100) is None
    with pytest.raises(ValueError, match="NaN"):
        reader.wait_for_update(timeout=float("nan"))


# ---------------------------------------------------------------------------------------------- analytics, arrays


def answers(read: Any) -> list[Any]:
    """Everything that a reader computes, or why it refuses."""
    questions: list[Callable[[], Any]] = [
        lambda: read.mid,
        lambda: read.spread,
        lambda: read.micro_price,
        lambda: read.prices(number=Decimal),
        lambda: read.imbalance(levels=5),
        lambda: read.imbalance(bps=200, number=Decimal),
        lambda: read.fill("asks", quantity=1.5),
        lambda: read.fill("bids", notional=Decimal(7000), number=Decimal),
        lambda: read.price_at("bids", quantity=20),
        lambda: read.price_at("asks", notional=100, number=Decimal),
        lambda: read.depth("asks", to_price=125),
        lambda: read.depth("bids", bps=500, number=Decimal),
        lambda: read.grouped("bids", 0.5),
        lambda: read.grouped("asks", 1, 3, number=Decimal),
    ]
    found = []
    for question in questions:
        try:
            found.append(question())
        except (DepthCacheError, ValueError) as error:
            found.append((type(error), getattr(error, "cause", None)))
    return found


def array_answers(read: Any) -> list[Any]:
    numpy = pytest.importorskip("numpy")
    found: list[Any] = []
    try:
        for number in (None, float, int):
            for limit in (None, 3):
                made = read.arrays(limit, number=number)
                found.append([made.bids.tolist(), made.asks.tolist(), str(made.bids.dtype), *made[2:]])
        for dtype in ("float64", "int64"):
            out = numpy.zeros((4, 2), dtype), numpy.zeros((6, 2), dtype)
            found.append((read.arrays(out=out), out[0].tolist(), out[1].tolist()))
    except DepthCacheError as error:
        return [error.cause]
    for wrong in ({"number": str}, {"out": 5}, {"out": (out[0], 5)}, {"out": (out[0], out[1].astype("float64"))}):
        with pytest.raises((TypeError, ValueError)) as refusal:
            read.arrays(**wrong)
        found.append(str(refusal.value))
    return found


@pytest.mark.parametrize("levels", [4, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_a_shared_reader_computes_what_the_book_does(
    books: ModuleType, made: SimpleNamespace, levels: int, seed: int
) -> None:
    """With all levels published it answers as the book; with fewer as a view of so many, whose end is a horizon."""
    wanderer = Wanderer(seed)
    book = books.OrderBook("spot", market="BTCUSDT")
    share = Share(made, book, levels)
    is_answered = 0
    for _ in range(60):
        change(book, lambda rule: books.OrderBook(rule, market="BTCUSDT"), wanderer)
        local: Any = made.BookReader(book)
        if not (book.is_readable and share.reader.is_readable):
            continue  # `view` needs both sides
        is_answered += 1
        if levels == 1000:
            assert array_answers(share.reader) == array_answers(local)
        else:
            local = local.view(levels, number=Decimal)
            shared = share.reader.view(number=Decimal)
            assert answers(shared) == answers(local)
            local = share.reader.view()
        assert answers(share.reader) == answers(local)
    assert is_answered > 10
