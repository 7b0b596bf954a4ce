"""To which price a book is complete, and that nothing is said of what lies past it."""

from decimal import Decimal
from types import ModuleType

import pytest
from messages import ASKS, BIDS, exact_asks, exact_bids, loaded_book, make_snapshot, make_update

from ldc.errors import BookNotLoaded, DepthCacheOutOfSync, MalformedMessage

HORIZONS = [(None, 99.5, 101.0), (1, 99.5, 101.0), (2, 99.5, 101.0), (3, 99.5, 101.0), (4, None, None)]


@pytest.mark.parametrize(("limit", "bid_horizon", "ask_horizon"), HORIZONS)
def test_a_side_with_fewer_levels_than_the_limit_is_complete(
    books: ModuleType, limit: int | None, bid_horizon: float | None, ask_horizon: float | None
) -> None:
    book = loaded_book(books, limit=limit)
    assert (book.bid_horizon, book.ask_horizon) == (bid_horizon, ask_horizon)


def test_the_sides_have_horizons_of_their_own(books: ModuleType) -> None:
    book = loaded_book(books, bids=BIDS[:2], asks=ASKS, limit=3)
    assert (book.bid_horizon, book.ask_horizon) == (None, 101.0)


def test_entries_count_as_sent_and_the_horizon_is_the_worst_price_with_a_quantity(books: ModuleType) -> None:
    bids = [("99", "0"), ("101", "1"), ("100", "1"), ("98", "0")]
    assert loaded_book(books, bids=bids, asks=[], limit=4).bid_horizon == 100.0
    assert loaded_book(books, bids=bids, asks=[], limit=5).bid_horizon is None


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_a_full_side_of_zeros_is_refused_because_nothing_could_be_said_of_it(
    books: ModuleType, limit: int | None
) -> None:
    with pytest.raises(MalformedMessage):
        books.OrderBook("spot").load_snapshot(make_snapshot([], [("1", "0"), ("2", "0")]), limit)


def test_a_short_side_of_zeros_is_complete_and_empty(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("2", "0")], asks=[("1", "0"), ("3", "0.0")], limit=3)
    assert (book.bids(), book.asks(), book.bid_horizon, book.ask_horizon) == ([], [], None, None)


def test_reads_end_at_the_horizon_inclusive(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("99.49", "1"), ("99.51", "1")], asks=[("101.01", "1"), ("100.99", "1")]))
    assert [price for price, _ in book.bids()] == [100.1, 100.0, 99.51, 99.5]
    assert [price for price, _ in book.asks()] == [100.2, 100.4, 100.99, 101.0]
    assert [price for price, _ in book.bids(number=str, beyond_horizon=True)][-1] == "99.49"
    assert [price for price, _ in book.asks(number=str, beyond_horizon=True)][-1] == "101.01"
    assert len(book.view().bids) == len(book.view().asks) == 4
    assert len(book.view(beyond_horizon=True).bids) == len(book.view(beyond_horizon=True).asks) == 5
    assert (book.bid_count, book.ask_count) == (5, 5)
    assert book.to_numpy("bids").shape == (4, 2)


def test_the_horizon_stays_when_its_level_goes(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("99.50", "0")], asks=[("101.00", "0")]))
    assert (book.bid_horizon, book.ask_horizon) == (99.5, 101.0)
    book.apply(make_update(102, bids=[("99.40", "1")]))
    assert [price for price, _ in book.bids()] == [100.1, 100.0]


def leave(book: object, side: str) -> None:
    """Remove all that a snapshot brought to a side and put a level past its horizon."""
    levels, past = (BIDS, ("99.00", "5")) if side == "bids" else (ASKS, ("102.00", "5"))
    book.apply(make_update(101, **{side: [*((price, "0") for price, _ in levels), past]}))


@pytest.mark.parametrize("side", ["bids", "asks"])
def test_a_side_that_left_its_horizon_cannot_be_read_and_the_other_can(books: ModuleType, side: str) -> None:
    book = loaded_book(books, limit=3, market="BTCUSDT")
    leave(book, side)
    other = "asks" if side == "bids" else "bids"
    best = {"bids": "best_bid", "asks": "best_ask"}
    for read in (
        lambda: getattr(book, best[side]),
        lambda: getattr(book, side)(),
        lambda: getattr(book, side)(0),
        lambda: getattr(book, side)(1, number=Decimal),
        lambda: getattr(book, side)(threshold_volume=1),
        lambda: book.to_numpy(side),
        lambda: book.view(),
        lambda: book.view(0),
    ):
        with pytest.raises(DepthCacheOutOfSync) as raised:
            read()
        assert not isinstance(raised.value, BookNotLoaded)
        assert (raised.value.market, raised.value.cause) == ("BTCUSDT", "LEFT_HORIZON")
    assert getattr(book, best[other]) is not None
    assert len(getattr(book, other)()) == len(book.to_numpy(other)) == 3
    assert not book.is_readable
    assert book.needs_attention
    assert book.is_loaded
    assert book.suspended_by is None
    assert len(getattr(book, side)(beyond_horizon=True)) == 1
    assert len(getattr(book.view(beyond_horizon=True), side)) == 1
    book.check()


def test_a_side_with_a_horizon_that_emptied_has_left_it_too(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS]))
    with pytest.raises(DepthCacheOutOfSync):
        book.bids()
    assert book.bids(beyond_horizon=True) == []
    assert book.bid_count == 0


def test_a_side_comes_back_when_a_level_inside_appears(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    leave(book, "bids")
    book.apply(make_update(102, bids=[("99.50", "1")]))
    assert book.is_readable
    assert book.best_bid == (99.5, 1.0)
    assert exact_bids(book)[1:] == [("99.00", "5.000")]


def test_a_complete_side_that_emptied_is_empty(books: ModuleType) -> None:
    book = loaded_book(books, limit=4)
    leave(book, "asks")
    assert exact_asks(book) == [("102.00", "5.000")]
    book.apply(make_update(102, asks=[("102.00", "0")]))
    assert (book.best_ask, book.asks(), book.view().asks) == (None, [], ())
    assert book.to_numpy("asks").shape == (0, 2)
    assert book.is_readable


def test_attention_is_needed_when_fewer_than_half_of_the_loaded_levels_are_left_inside(books: ModuleType) -> None:
    bids = [(str(price), "1") for price in range(100, 93, -1)]
    book = loaded_book(books, bids=bids, asks=[("200", "1")], limit=7)
    for number, price in enumerate((100, 99, 98)):
        assert not book.needs_attention
        book.apply(make_update(101 + number, bids=[(str(price), "0")]))
    assert not book.needs_attention  # 4 of 7
    book.apply(make_update(104, bids=[("97", "0"), ("93", "1"), ("92", "1"), ("91", "1")]))
    assert book.needs_attention  # 3 of 7, and three past the horizon, which do not count
    assert book.is_readable
    book.apply(make_update(105, bids=[("150", "1")]))
    assert not book.needs_attention


def test_exactly_half_is_enough(books: ModuleType) -> None:
    book = loaded_book(books, bids=[], asks=[("1", "1"), ("2", "1"), ("3", "1"), ("4", "1")], limit=4)
    book.apply(make_update(101, asks=[("1", "0"), ("2", "0")]))
    assert not book.needs_attention
    book.apply(make_update(102, asks=[("4", "0")]))
    assert book.needs_attention


def test_nothing_runs_short_on_a_complete_side(books: ModuleType) -> None:
    book = loaded_book(books, limit=4)
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS], asks=[(price, "0") for price, _ in ASKS]))
    assert not book.needs_attention


def test_a_new_snapshot_is_a_new_measure(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("100.10", "0"), ("100.00", "0")]))
    assert book.needs_attention
    book.load_snapshot(make_snapshot([("99.50", "1")], [("101", "1")], 101), 1)
    assert not book.needs_attention
    book.clear()
    assert not book.needs_attention
