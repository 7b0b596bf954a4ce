"""A book as JSON text: the digits that `str` reads give, the fields of one update id, and horizons that are told."""

import json
from decimal import Decimal
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import IS_PURE, order_book_module
from messages import ASKS, BIDS, loaded_book, make_snapshot, make_update

from ldc.errors import BookNotLoaded, DepthCacheOutOfSync
from ldc.types import BookTexts

DIGITS_OF_INT64 = 19


def expected(book) -> tuple[list[list[str]], list[list[str]]]:
    return book.bids(number=str), book.asks(number=str)


def test_texts_are_the_levels_as_the_exchange_prints_them(books: ModuleType) -> None:
    book = books.OrderBook("futures")
    book.load_snapshot(make_snapshot(BIDS, ASKS, 7, E=8, T=9), 3, received_time_ns=10)
    texts = book.texts(2)
    assert type(texts) is BookTexts
    assert texts[2:] == (2, 2, *book.view(0, number=str)[2:8])
    assert texts[4:8] == (7, 8, 9, 10)
    assert [json.loads(texts.bids), json.loads(texts.asks)] == [side[:2] for side in expected(book)]


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_every_number_of_levels_is_written_whole(books: ModuleType, count: int) -> None:
    bids = [(f"{5000 - n}.5", f"{n + 1}") for n in range(count)]
    asks = [(f"{6000 + n}.25", f"{n + 1}.125") for n in range(count)]
    book = loaded_book(books, bids=bids, asks=asks)
    texts = book.reader.texts()
    assert texts.bids == json.dumps(book.bids(number=str), separators=(",", ":"))
    assert texts.asks == json.dumps(book.asks(number=str), separators=(",", ":"))
    assert (texts.bid_count, texts.ask_count) == (count, count)


Sides = tuple[list[tuple[str, str]], list[tuple[str, str]]]


@st.composite
def _levels(draw: st.DrawFn) -> Sides:
    """Two sides at one scale of prices and one of quantities, with numbers of every length that 64 bits hold."""
    scales = draw(st.integers(0, 18)), draw(st.integers(0, 18))
    sizes = st.integers(1, DIGITS_OF_INT64).flatmap(lambda digits: st.integers(10 ** (digits - 1), 10**digits - 1))
    numbers = sizes.filter(lambda value: value < 2**63)
    prices = sorted(draw(st.lists(numbers, min_size=2, max_size=8, unique=True)))
    quantities = draw(st.lists(numbers, min_size=len(prices), max_size=len(prices)))
    levels = [
        (_printed(price, scales[0]), _printed(quantity, scales[1]))
        for price, quantity in zip(prices, quantities, strict=True)
    ]
    middle = len(levels) // 2
    return levels[:middle][::-1], levels[middle:]


def _printed(units: int, scale: int) -> str:
    return f"{Decimal(units).scaleb(-scale):f}"


@given(_levels())
@settings(max_examples=200, deadline=None)
def test_both_books_write_every_number_as_it_was_printed(
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]],
) -> None:
    for name in ("python",) if IS_PURE else ("python", "cython"):
        book = loaded_book(order_book_module(name), bids=sides[0], asks=sides[1])
        texts = book.texts()
        assert [json.loads(texts.bids), json.loads(texts.asks)] == [[list(level) for level in side] for side in sides]


def test_json_is_a_snapshot_that_a_book_loads_again(books: ModuleType) -> None:
    book = loaded_book(books, "futures", limit=1000, market="BTCUSDT")
    book.apply(make_update(99, 101, 98, bids=[("100.05", "7")], T=5, E=6))
    again = books.OrderBook("futures")
    again.load_snapshot(book.reader.to_json(1000), limit=1000)
    assert again.view(number=str)[:5] == book.view(number=str)[:5]
    assert again.compare(book).is_equal
    body = json.loads(book.to_json())
    assert list(body) == ["lastUpdateId", "E", "T", "bids", "asks"]
    assert (body["lastUpdateId"], body["E"], body["T"]) == (101, 6, 5)


def test_json_tells_a_horizon_where_it_ends_a_side_early(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)  # three levels of three: past them, nobody knows
    assert "bidHorizon" not in json.loads(book.to_json(3))
    body = json.loads(book.to_json(4))
    bids, asks = expected(book)
    assert (body["bidHorizon"], body["askHorizon"]) == (bids[-1][0], asks[-1][0])
    assert json.loads(book.to_json()) == body
    complete = loaded_book(books, limit=10)
    assert "askHorizon" not in json.loads(complete.to_json(10))


def test_a_book_that_cannot_be_read_has_no_text(books: ModuleType) -> None:
    with pytest.raises(BookNotLoaded):
        books.OrderBook("spot").to_json(5)
    book = loaded_book(books)
    book.suspend("GAP")
    for read in (book.texts, book.to_json, book.reader.texts, book.reader.to_json):
        with pytest.raises(DepthCacheOutOfSync, match="GAP"):
            read(5)
    with pytest.raises(ValueError, match="negative"):
        book.texts(-1)
    with pytest.raises(ValueError, match="negative"):
        book.to_json(-1)
