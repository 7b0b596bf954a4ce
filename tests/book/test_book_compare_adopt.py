"""How two books at the same update id are compared, and what one takes over from the other."""

from types import ModuleType
from typing import Any

import pytest
from messages import (
    ASKS,
    BIDS,
    everything,
    everything_but_counters,
    exact_asks,
    exact_bids,
    loaded_book,
    make_snapshot,
    make_update,
)

from ldc.errors import BookNotLoaded
from ldc.sequence import SPOT, SequenceRule
from ldc.types import Comparison, Verdict


def test_equal_books_are_equal(books: ModuleType) -> None:
    book, other = loaded_book(books), loaded_book(books)
    before = everything(book), everything(other)
    assert book.compare(other) == Comparison(0, 0, 0, 0)
    assert type(book.compare(other)) is Comparison
    assert book.compare(other).is_equal
    assert book.compare(book).is_equal
    assert (everything(book), everything(other)) == before


def test_differences_are_counted_by_kind_over_both_sides(books: ModuleType) -> None:
    ours = loaded_book(books, bids=[("10", "1"), ("9", "1"), ("8", "1")], asks=[("11", "1"), ("12", "1"), ("15", "1")])
    theirs = loaded_book(
        books, bids=[("10", "2"), ("8", "3"), ("7", "1")], asks=[("11", "1"), ("13", "1"), ("14", "1")]
    )
    assert ours.compare(theirs) == Comparison(wrong_quantities=2, missing=3, extra=3, outside=0)
    assert theirs.compare(ours) == Comparison(wrong_quantities=2, missing=3, extra=3, outside=0)
    del_one = loaded_book(books, bids=[("10", "1"), ("9", "1")], asks=[("11", "1"), ("12", "1"), ("15", "1")])
    assert ours.compare(del_one) == Comparison(0, 0, 1, 0)
    assert del_one.compare(ours) == Comparison(0, 1, 0, 0)
    assert not del_one.compare(ours).is_equal


def test_values_are_compared_whatever_the_scales(books: ModuleType) -> None:
    ours = loaded_book(books, bids=[("10.50", "1.000")], asks=[("11", "2.5")])
    theirs = loaded_book(books, bids=[("10.5", "1")], asks=[("11.000000", "2.50000000")])
    assert ours.compare(theirs).is_equal
    assert theirs.compare(ours).is_equal
    other = loaded_book(books, bids=[("10.500001", "1")], asks=[("11.000000", "2.50000001")])
    assert ours.compare(other) == Comparison(wrong_quantities=1, missing=1, extra=1, outside=0)


def test_values_that_fit_only_their_own_scale_are_compared_all_the_same(books: ModuleType) -> None:
    large = "9223372036854775807"
    ours = loaded_book(books, bids=[(large, large)], asks=[])
    theirs = loaded_book(books, bids=[("1.000000000000000001", "0.000000000000000001")], asks=[])
    assert ours.compare(theirs) == Comparison(0, 1, 1, 0)
    same = loaded_book(books, bids=[("9.223372036854775807", "1")], asks=[])
    assert ours.compare(same) == Comparison(0, 1, 1, 0)
    other = loaded_book(books, bids=[("922337203685477580.7", large)], asks=[])
    assert ours.compare(other) == Comparison(0, 1, 1, 0)
    assert loaded_book(books, bids=[("1", large)], asks=[]).compare(
        loaded_book(books, bids=[("1.0", "922337203685477580.7")], asks=[])
    ) == Comparison(1, 0, 0, 0)


def test_a_level_at_a_horizon_is_inside_though_neither_fits_the_scale_of_the_other_book(books: ModuleType) -> None:
    fine = loaded_book(books, bids=[("0.000000000000000001", "1")], asks=[], limit=None)
    coarse = loaded_book(books, bids=[], asks=[("100.01", "1")], limit=None)
    assert fine.compare(coarse) == Comparison(wrong_quantities=0, missing=1, extra=1, outside=0)
    assert coarse.compare(fine) == Comparison(wrong_quantities=0, missing=1, extra=1, outside=0)


def test_the_common_range_ends_at_the_tighter_horizon(books: ModuleType) -> None:
    prices = ["101", "102", "103", "104", "105"]
    deep = loaded_book(books, bids=[], asks=[(price, "1") for price in prices], limit=None)
    shallow = loaded_book(books, bids=[], asks=[(price, "1") for price in prices[:3]], limit=3)
    assert deep.compare(shallow) == Comparison(0, 0, 0, outside=2)
    assert shallow.compare(deep) == Comparison(0, 0, 0, outside=2)
    shallow.apply(make_update(101, asks=[("104", "9"), ("104.5", "1")]))
    deep.apply(make_update(101))
    assert deep.compare(shallow) == Comparison(0, 0, 0, outside=4)


def test_the_sides_end_at_horizons_of_their_own(books: ModuleType) -> None:
    ours = loaded_book(books, bids=[("10", "1"), ("9", "1"), ("8", "1")], asks=[("11", "1"), ("12", "1")], limit=3)
    theirs = loaded_book(books, bids=[("10", "1"), ("8.5", "1")], asks=[("11", "1"), ("12", "2"), ("14", "1")], limit=3)
    assert (ours.bid_horizon, ours.ask_horizon, theirs.bid_horizon, theirs.ask_horizon) == (8.0, None, None, 14.0)
    assert ours.compare(theirs) == Comparison(wrong_quantities=1, missing=2, extra=2, outside=0)


def test_a_level_at_the_horizon_is_inside(books: ModuleType) -> None:
    ours = loaded_book(books, bids=[("10", "1"), ("9", "1")], asks=[], limit=2)
    theirs = loaded_book(books, bids=[("10", "1"), ("9", "2")], asks=[])
    assert ours.compare(theirs) == Comparison(1, 0, 0, 0)


def test_horizons_are_compared_by_value_too(books: ModuleType) -> None:
    ours = loaded_book(books, bids=[], asks=[("1.5", "1")], limit=1)
    theirs = loaded_book(books, bids=[], asks=[("1.500000", "1"), ("1.500001", "1")], limit=2)
    assert ours.compare(theirs) == Comparison(0, 0, 0, outside=1)
    assert theirs.compare(ours) == Comparison(0, 0, 0, outside=1)


def both(call: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", call.split())


@both("compare adopt")
def test_both_books_must_be_loaded(books: ModuleType, call: str) -> None:
    book = loaded_book(books, market="ours")
    empty = books.OrderBook("spot", market="empty")
    before = everything(book)
    for caller, other in ((book, empty), (empty, book), (empty, empty)):
        with pytest.raises(BookNotLoaded) as raised:
            getattr(caller, call)(other)
        assert (raised.value.market, raised.value.cause) == ("empty", "NOT_LOADED")
    assert everything(book) == before


@both("compare adopt")
@pytest.mark.parametrize("other", ["rule", "equal name", "earlier", "later"])
def test_rules_and_ids_must_be_the_same(books: ModuleType, call: str, other: str) -> None:
    book = loaded_book(books)
    before = everything(book)
    equal_name = SequenceRule("spot", chains_by_previous_id=True, first_update_may_end_at_snapshot=False)
    stranger = {
        "rule": lambda: loaded_book(books, "futures"),
        "equal name": lambda: loaded_book(books, equal_name),
        "earlier": lambda: loaded_book(books, last_update_id=99),
        "later": lambda: loaded_book(books, last_update_id=101),
    }[other]()
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        getattr(book, call)(stranger)
    assert type(raised.value) is ValueError
    assert everything(book) == before


@both("compare adopt")
def test_only_a_book_of_the_same_implementation_will_do(
    both_books: tuple[ModuleType, ModuleType], books: ModuleType, call: str
) -> None:
    book = loaded_book(books)
    others: list[Any] = [None, "spot", book.reader, object()]
    others += [loaded_book(module) for module in both_books if module is not books]
    for other in others:
        with pytest.raises(TypeError):
            getattr(book, call)(other)
    assert book.counters.books_adopted == 0


def test_an_equal_rule_is_the_same_rule(books: ModuleType) -> None:
    twin = SequenceRule(SPOT.name, SPOT.chains_by_previous_id, SPOT.first_update_may_end_at_snapshot)
    assert loaded_book(books).compare(loaded_book(books, twin)).is_equal


def test_suspension_hinders_neither(books: ModuleType) -> None:
    book, other = loaded_book(books), loaded_book(books)
    book.suspend("GAP")
    other.suspend("CROSSED")
    assert book.compare(other).is_equal
    book.adopt(other)
    assert (book.suspended_by, other.suspended_by) == ("GAP", "CROSSED")


def test_adopting_takes_levels_scales_and_horizons_and_keeps_the_place(books: ModuleType) -> None:
    book = books.OrderBook("futures", market="ours")
    book.load_snapshot(make_snapshot(BIDS, ASKS, 50, E=1, T=2), 3, received_time_ns=3)
    book.apply(make_update(45, 100, 44, stream="x", E=11, T=12), 13)
    book.suspend("REQUESTED")
    header, counters = book.last_header, book.counters
    other = books.OrderBook("futures", market="theirs")
    other.load_snapshot(make_snapshot([("5.12345", "1.5")], [("6", "2"), ("7", "2")], 100, E=21, T=22), 2)
    theirs = everything(other)

    assert book.adopt(other) is None
    assert (book.last_update_id, book.event_time_ms, book.transaction_time_ms) == (100, 11, 12)
    assert (book.received_time_ns, book.last_header, book.market) == (13, header, "ours")
    assert book.suspended_by == "REQUESTED"
    assert book.counters == counters._replace(books_adopted=1)
    book.resume()
    assert exact_bids(book) == [("5.12345", "1.5")]
    assert exact_asks(book) == [("6.00000", "2.0"), ("7.00000", "2.0")]
    assert (book.bid_horizon, book.ask_horizon) == (None, 7.0)
    assert (book.price_decimals, book.quantity_decimals) == (5, 1)
    assert everything(other) == theirs
    book.check()


def test_the_books_share_nothing_afterwards(books: ModuleType) -> None:
    book, other = loaded_book(books), loaded_book(books)
    book.adopt(other)
    book.apply(make_update(101, bids=[("100.10", "0"), ("1", "1")]))
    assert exact_bids(other) == BIDS
    other.apply(make_update(101, asks=[("100.20", "0")]))
    assert exact_asks(book) == ASKS
    other.clear()
    assert exact_asks(book) == ASKS
    book.check()


def test_the_measure_of_attention_comes_along(books: ModuleType) -> None:
    asks = [(str(price), "1") for price in range(200, 210)]
    book = loaded_book(books, bids=[], asks=asks[:2], limit=2)
    other = loaded_book(books, bids=[], asks=asks, limit=10)
    deletes = [(price, "0") for price, _ in asks[:6]]
    other.apply(make_update(101, asks=deletes))
    book.apply(make_update(101, asks=[("300", "1")]))
    assert (other.needs_attention, book.needs_attention) == (True, False)
    book.adopt(other)
    assert book.needs_attention


def test_whether_it_is_the_first_update_after_the_snapshot_stays_this_books(books: ModuleType) -> None:
    fresh, used = loaded_book(books, "futures"), loaded_book(books, "futures", last_update_id=90)
    assert used.apply(make_update(85, 100, 84)) is Verdict.APPLIED
    fresh_too = loaded_book(books, "futures")
    used_too = loaded_book(books, "futures", last_update_id=90)
    used_too.apply(make_update(85, 100, 84))
    fresh.adopt(used)
    assert fresh.apply(make_update(85, 100, 84)) is Verdict.APPLIED
    used_too.adopt(fresh_too)
    assert used_too.apply(make_update(85, 100, 84)) is Verdict.STALE


def test_adopting_itself_changes_nothing_but_the_count(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("99.49", "1")]))
    before, counters = everything_but_counters(book), book.counters
    book.adopt(book)
    assert everything_but_counters(book) == before
    assert book.counters == counters._replace(books_adopted=1)
    book.check()
