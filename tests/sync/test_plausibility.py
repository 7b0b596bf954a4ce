"""Whether the prices of two books, or of a book and some updates, can be of one market: on each book."""

import json
from types import ModuleType
from typing import Any

import pytest
from sync_kit import ASKS, BIDS, BOOKS, Levels, entries, snapshot

from ldc.sync.buffer import Update
from ldc.sync.plausibility import (
    PRICED_UPDATES_MAX,
    are_prices_far_apart,
    are_sides_far_apart,
    is_far_from_updates,
    middle_price,
)

FAR_BIDS, FAR_ASKS = {"10.00": "1"}, {"11.00": "1"}


@pytest.fixture(params=BOOKS.values(), ids=BOOKS)
def books(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def loaded(books: ModuleType, limit: int | None = None, bids: Levels = BIDS, asks: Levels = ASKS) -> Any:
    book = books.OrderBook("spot")
    book.load_snapshot(snapshot(100, bids=bids, asks=asks), limit)
    return book


def kept(start: int, *, bids: Levels | None = None, asks: Levels | None = None) -> Update:
    body = {"U": start + 1, "u": start + 10, "b": entries(bids or {}), "a": entries(asks or {})}
    return Update(start, start + 1, start + 10, None, json.dumps(body).encode(), None)


def test_prices_are_far_apart_past_a_factor_of_two() -> None:
    assert not are_prices_far_apart(100.0, 200.0)
    assert are_prices_far_apart(100.0, 200.1)
    assert are_prices_far_apart(200.1, 100.0)
    assert not are_prices_far_apart(None, 100.0)
    assert not are_prices_far_apart(100.0, None)
    assert not are_prices_far_apart(0.0, 100.0)


def test_the_middle_price_is_of_the_best_prices_that_are_known(books: ModuleType) -> None:
    assert middle_price(loaded(books)) == 100.5
    assert middle_price(loaded(books, asks={})) == 100.0
    assert middle_price(loaded(books, bids={})) == 101.0
    assert middle_price(loaded(books, bids={}, asks={})) is None


def test_a_best_price_at_its_horizon_is_known_and_one_past_it_is_not(books: ModuleType) -> None:
    book = loaded(books, 1, {"100.00": "1"}, {"101.00": "1"})
    assert (book.bid_horizon, book.ask_horizon) == (100.0, 101.0)
    assert middle_price(book) == 100.5
    book.apply('{"U":101,"u":101,"b":[["100.00","0"],["40.00","1"]],"a":[]}')
    assert middle_price(book) == 101.0
    book.apply('{"U":102,"u":102,"b":[],"a":[["101.00","0"],["400.00","1"]]}')
    assert middle_price(book) is None


def test_of_two_prices_that_cross_by_far_neither_is_known(books: ModuleType) -> None:
    book = loaded(books)
    book.apply('{"U":101,"u":101,"b":[["202.00","1"]],"a":[]}')
    assert middle_price(book) == 151.5  # by the factor, no more
    book.apply('{"U":102,"u":102,"b":[["202.01","1"]],"a":[]}')
    assert middle_price(book) is None


def test_two_books_are_far_apart_if_every_side_that_both_know_is(books: ModuleType) -> None:
    book = loaded(books)
    assert are_sides_far_apart(book, loaded(books, bids=FAR_BIDS, asks=FAR_ASKS))
    assert not are_sides_far_apart(book, loaded(books))
    assert not are_sides_far_apart(book, loaded(books, bids=FAR_BIDS))
    assert are_sides_far_apart(book, loaded(books, bids=FAR_BIDS, asks={}))
    assert not are_sides_far_apart(book, loaded(books, bids={}, asks={}))


@pytest.mark.parametrize(
    ("updates", "is_far"),
    [
        ([kept(100, bids=FAR_BIDS, asks=FAR_ASKS)], True),
        ([kept(100, bids=FAR_BIDS), kept(110, asks=FAR_ASKS)], True),
        ([kept(100, bids=FAR_BIDS)], False),  # it may be a level far out
        ([kept(100, bids=FAR_BIDS, asks={"101.00": "1"})], False),
        ([kept(100, bids=FAR_BIDS, asks=FAR_ASKS), kept(110, bids={"10.00": "0"})], False),
        ([kept(0, bids=FAR_BIDS, asks=FAR_ASKS)], True),  # no snapshot has the id 0
        ([], False),
    ],
)
def test_a_book_is_far_from_updates_if_both_their_best_prices_are_far_from_its_middle(
    books: ModuleType, updates: list[Update], is_far: bool
) -> None:
    assert is_far_from_updates(loaded(books), updates, books.OrderBook("spot")) is is_far


def test_an_update_that_cannot_be_read_says_nothing_about_prices(books: ModuleType) -> None:
    updates = [kept(100)._replace(payload=b"<html>"), kept(100, bids=FAR_BIDS, asks=FAR_ASKS)]
    assert is_far_from_updates(loaded(books), updates, books.OrderBook("spot"))


def test_only_so_many_updates_are_compared(books: ModuleType) -> None:
    near = {"bids": {"100.00": "1", "10.00": "0"}, "asks": {"101.00": "1", "11.00": "0"}}
    updates = [kept(100, bids=FAR_BIDS, asks=FAR_ASKS)] * PRICED_UPDATES_MAX
    assert is_far_from_updates(loaded(books), [*updates, kept(110, **near)], books.OrderBook("spot"))
    assert not is_far_from_updates(loaded(books), [*updates[1:], kept(110, **near)], books.OrderBook("spot"))
