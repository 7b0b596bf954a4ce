"""Updates that a book keeps for a snapshot, books that take over a loaded one, and ids that draw attention."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from messages import BIDS, everything, loaded_book, make_snapshot, make_update

from ldc.errors import BookNotLoaded, MalformedMessage
from ldc.limits import RETAINED_BYTES_MAX, RETAINED_BYTES_MAX_OF_ALL, RETAINED_UPDATES_MAX
from ldc.types import Verdict


def update(last: int, quantity: str = "1", size: int = 0) -> bytes:
    """Return the update of one id, with so many bytes of white space in it."""
    payload = make_update(last, bids=[("99.00", quantity)])
    return payload[:1] + b" " * (size - len(payload)) + payload[1:]


def caught_up(books: ModuleType, live: Any, last_update_id: int) -> Any:
    """Return a book that was loaded at that id and has applied what another one has kept."""
    candidate = loaded_book(books, last_update_id=last_update_id)
    candidate.apply_retained(live)
    return candidate


def test_a_book_keeps_what_it_applies_and_another_one_catches_up(books: ModuleType) -> None:
    live = loaded_book(books)
    live.apply(update(101, "7"))
    live.retain_updates()
    assert live.retained_count == 0
    assert live.apply(update(102, "2"), 1_002) is Verdict.APPLIED
    assert live.apply(update(102, "3")) is Verdict.STALE
    assert live.apply(update(105, "4")) is Verdict.GAP
    with pytest.raises(MalformedMessage):
        live.apply(b"{}")
    live.retain_updates()  # once more changes nothing
    changing = bytearray(update(103, "5"))
    assert live.apply(changing) is Verdict.APPLIED
    changing[:] = bytes(len(changing))  # what is kept is a copy
    assert live.apply(update(104, "6").decode()) is Verdict.APPLIED
    assert live.retained_count == 3
    for start, reached in ((99, 99), (100, 100), (101, 104), (102, 104), (103, 104), (104, 104), (200, 200)):
        assert caught_up(books, live, start).last_update_id == reached
    candidate = caught_up(books, live, 101)
    assert candidate.compare(live).is_equal
    assert candidate.received_time_ns is None
    assert caught_up(books, live, 101).counters.updates_applied == 3
    live.forget_retained()
    assert live.retained_count == 0
    live.apply(update(105))
    assert live.retained_count == 0
    assert caught_up(books, live, 104).last_update_id == 104


def test_the_time_of_arrival_is_kept_with_an_update(books: ModuleType) -> None:
    live = loaded_book(books)
    live.retain_updates()
    live.apply(update(101), 77)
    assert caught_up(books, live, 100).received_time_ns == 77


def test_an_update_that_only_the_other_book_refuses_is_reported_and_what_came_before_is_applied(
    books: ModuleType,
) -> None:
    live = loaded_book(books)
    live.retain_updates()
    live.apply(update(101))
    live.apply(make_update(102, bids=[("0.000000000001", "1")]))  # 12 decimals, and no large price
    candidate = books.OrderBook("spot")
    candidate.load_snapshot(make_snapshot([("9000000000", "1")], last_update_id=100), limit=1000)
    with pytest.raises(MalformedMessage):
        candidate.apply_retained(live)
    assert candidate.last_update_id == 101
    assert candidate.apply(update(102)) is Verdict.APPLIED  # it can still be written to
    assert live.apply(update(103)) is Verdict.APPLIED


def test_a_book_without_a_snapshot_catches_up_with_nothing(books: ModuleType) -> None:
    live = loaded_book(books)
    with pytest.raises(BookNotLoaded):
        books.OrderBook("spot").apply_retained(live)
    live.retain_updates()
    with pytest.raises(BookNotLoaded):
        books.OrderBook("spot").apply_retained(live)


def test_the_number_of_updates_kept_is_bounded_and_the_newest_stay(books: ModuleType) -> None:
    live = loaded_book(books)
    live.retain_updates()
    for last in range(101, 101 + RETAINED_UPDATES_MAX):
        live.apply(update(last))
    assert live.retained_count == RETAINED_UPDATES_MAX
    assert caught_up(books, live, 100).last_update_id == live.last_update_id
    live.apply(update(live.last_update_id + 1))
    assert live.retained_count == RETAINED_UPDATES_MAX
    assert caught_up(books, live, 100).last_update_id == 100
    assert caught_up(books, live, 101).last_update_id == live.last_update_id


def test_the_bytes_kept_are_bounded_and_the_newest_stays_whatever_its_size(books: ModuleType) -> None:
    live, half = loaded_book(books), RETAINED_BYTES_MAX // 2
    live.retain_updates()
    before = live.__sizeof__()
    for last, kept in ((101, 1), (102, 2), (103, 2), (104, 2)):
        live.apply(update(last, size=half))
        assert live.retained_count == kept
    if books.__name__ == "ldc._book":
        assert live.__sizeof__() - before >= RETAINED_BYTES_MAX
    live.apply(update(105, size=half + 1))
    assert live.retained_count == 1
    live.apply(update(106, size=2 * RETAINED_BYTES_MAX))
    assert live.retained_count == 1
    assert caught_up(books, live, 105).last_update_id == 106
    live.apply(update(107))
    assert live.retained_count == 1
    assert caught_up(books, live, 106).last_update_id == 107


def test_the_bytes_kept_by_all_books_are_bounded_and_a_book_that_ends_gives_its_own_back(books: ModuleType) -> None:
    size = 15 * 1024 * 1024
    room = RETAINED_BYTES_MAX_OF_ALL // size
    lives = [loaded_book(books) for _ in range(room + 1)]
    for live in lives:
        live.retain_updates()
        live.apply(update(101, size=size))
    assert [live.retained_count for live in lives] == [1] * room + [0]
    assert lives[-1].last_update_id == 101  # it is applied all the same
    lives[-1].apply(update(102))
    assert caught_up(books, lives[-1], 101).last_update_id == 102
    assert caught_up(books, lives[-1], 100).last_update_id == 100  # there is no hole in what is kept
    lives[0].apply(update(102, size=size))  # its own oldest makes room
    assert lives[0].retained_count == 1
    lives[1].forget_retained()
    lives[-1].apply(update(103, size=size))
    assert lives[-1].retained_count == 1
    del lives[2], live
    lives[1].retain_updates()
    lives[1].apply(update(102, size=size))
    assert lives[1].retained_count == 1


# ------------------------------------------------------------------------------------------------ taking over a book


@pytest.mark.parametrize("rule", ["spot", "futures"])
def test_a_book_that_loads_from_another_is_as_one_that_has_read_the_snapshot(books: ModuleType, rule: str) -> None:
    body = make_snapshot(BIDS, [("100.20", "0.5")], 300, E=5, T=6)
    direct, moved, read = (books.OrderBook(rule, market="BTCUSDT") for _ in range(3))
    for book in (direct, moved):
        book.load_snapshot(make_snapshot(BIDS, [], 100), 2)
    direct.load_snapshot(body, 3, received_time_ns=9)
    read.load_snapshot(body, 3, received_time_ns=9)
    moved.load_from(read)
    assert everything(moved) == everything(direct)
    assert not read.is_loaded
    assert (read.last_update_id, read.bid_count, read.is_crossed, read.needs_attention) == (None, 0, False, False)
    for book in (direct, moved):
        book.check()
        book.apply(make_update(299, 300, 298))  # the first one after a futures snapshot may end at it
        book.apply(make_update(301, 302, 300, bids=[("100.05", "1")]))
    assert everything(moved) == everything(direct)
    read.check()
    read.load_snapshot(body, 3)
    assert read.last_update_id == 300


def test_a_book_that_cannot_load_from_another_stays_what_it_was(books: ModuleType) -> None:
    book = loaded_book(books)
    before = everything(book)
    with pytest.raises(BookNotLoaded):
        book.load_from(books.OrderBook("spot"))
    with pytest.raises(ValueError, match="rules"):
        book.load_from(loaded_book(books, "futures"))
    with pytest.raises(RuntimeError):
        book.load_from(book)
    with pytest.raises(TypeError):
        book.load_from(None)
    assert everything(book) == before
    assert book.apply(update(101)) is Verdict.APPLIED


# ------------------------------------------------------------------------------------------------ attention


def test_a_book_draws_attention_from_an_id_on(books: ModuleType) -> None:
    book = loaded_book(books)
    book.attend_at(103)
    for last, expected in ((101, False), (102, False), (103, True), (104, True)):
        book.apply(update(last))
        assert book.needs_attention is expected
    book.attend_at(None)
    assert not book.needs_attention
    book.attend_at(104)
    assert book.needs_attention  # at once
    book.attend_at(110)
    assert not book.needs_attention
    book.apply(make_update(105, 120))  # past it
    assert book.needs_attention


def test_a_book_draws_attention_after_so_many_updates(books: ModuleType) -> None:
    book = loaded_book(books)
    book.attend_at(1_000, 2)
    book.apply(update(101))
    book.apply(update(101))  # STALE does not count
    assert not book.needs_attention
    book.apply(update(102))
    assert book.needs_attention
    book.attend_at(1_000, 1)
    assert not book.needs_attention
    book.apply(update(103))
    assert book.needs_attention
    book.attend_at(1_000)
    assert not book.needs_attention


ENDS: dict[str, Callable[[Any, Any], object]] = {
    "load_snapshot": lambda book, _other: book.load_snapshot(make_snapshot(BIDS, [], 500), 1000),
    "load_from": lambda book, other: book.load_from(other),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_new_snapshot_ends_the_attention_to_an_id(books: ModuleType, end: str) -> None:
    book, other = loaded_book(books), loaded_book(books, last_update_id=500)
    other.attend_at(1)
    book.attend_at(1, 0)
    assert book.needs_attention
    ENDS[end](book, other)
    assert book.last_update_id == 500
    assert not book.needs_attention
    book.attend_at(1)
    book.clear()
    assert not book.needs_attention
    book.attend_at(1)  # a book without a snapshot stands nowhere
    assert not book.needs_attention
