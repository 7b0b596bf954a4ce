"""What comes out of a book: fresh lists, exact numbers, one update id at a time; or an error that says why not."""

import copy
import gc
import pickle
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import ASKS, BIDS, LOOKS, everything, loaded_book, make_snapshot, make_update

from ldc.analytics.view import BookView
from ldc.errors import BookNotLoaded, DepthCacheOutOfSync
from ldc.types import BookCounters, Header

READS = {"best_bid", "best_ask", "bids", "asks", "view", "texts", "to_json", "to_numpy", "arrays"}
ANALYTICS = {"mid", "spread", "micro_price", "prices", "imbalance", "fill", "price_at", "depth", "grouped"}
WRITES = {"load_snapshot", "apply", "adopt", "clear", "suspend", "resume", "close", "lease", "held_levels"}
WRITES |= {"close_after_fork"}
WRITES |= {"load_from", "retain_updates", "forget_retained", "retained_count", "apply_retained", "attend_at"}
WRITES |= {"region", "forget_region"}


def public_names(of: Any) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_the_surface_is_that_of_the_contract(books: ModuleType) -> None:
    assert public_names(books.OrderBook) == READS | ANALYTICS | WRITES | set(LOOKS) | {"compare", "check", "reader"}


def test_a_reader_has_all_reads_and_looks_and_no_writing_method(books: ModuleType) -> None:
    names = public_names(books.BookReader)
    assert names >= READS | ANALYTICS | set(LOOKS) | {"compare"}
    assert not names & (WRITES | {"book"})


def test_a_reader_reads_what_the_book_is_at_the_moment(books: ModuleType) -> None:
    book = loaded_book(books, "futures", limit=3, market="BTCUSDT")
    reader = book.reader
    assert type(reader) is books.BookReader
    for change in (
        lambda: book.apply(make_update(99, 101, 98, bids=[("100.10", "0")], T=5), 6),
        lambda: book.suspend("GAP"),
        lambda: book.resume(),
        lambda: book.apply(make_update(102, 102, 101, asks=[(price, "0") for price, _ in ASKS])),
        lambda: book.clear(),
        lambda: book.load_snapshot(make_snapshot(BIDS, ASKS)),
    ):
        change()
        assert everything(reader) == everything(book)
    assert reader.compare(book).is_equal


def test_a_reader_keeps_its_book_alive(books: ModuleType) -> None:
    reader = loaded_book(books).reader
    gc.collect()
    assert reader.best_bid == (100.1, 1.0)


@pytest.mark.parametrize("name", ["last_update_id", "rule", "bids", "best_bid", "anything"])
def test_nothing_of_a_book_can_be_set(books: ModuleType, name: str) -> None:
    book = loaded_book(books)
    for of in (book, book.reader):
        with pytest.raises(AttributeError):
            setattr(of, name, 5)


def test_books_and_readers_cannot_be_subclassed_copied_or_pickled(books: ModuleType) -> None:
    for base in (books.OrderBook, books.BookReader):
        with pytest.raises(TypeError):
            type("Mine", (base,), {})
    book = loaded_book(books)
    for of in (book, book.reader):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                duplicate(of)


def test_levels_come_as_new_lists_each_time(books: ModuleType) -> None:
    book = loaded_book(books)
    first = book.bids()
    assert first == [[100.1, 1.0], [100.0, 2.5], [99.5, 4.0]]
    assert {type(level) for level in first} == {list}
    first[0][0] = 0.0
    first.clear()
    assert book.bids() == [[100.1, 1.0], [100.0, 2.5], [99.5, 4.0]]


def test_a_view_is_of_tuples_all_of_one_update_id(books: ModuleType) -> None:
    book = books.OrderBook("futures")
    book.load_snapshot(make_snapshot(BIDS, ASKS, 7, E=8, T=9), 3, received_time_ns=10)
    view = book.view(1)
    assert type(view) is BookView
    assert view == (((100.1, 1.0),), ((100.2, 0.5),), 7, 8, 9, 10, 99.5, 101.0, True, True, float, 1)
    assert hash(view) == hash(book.view(1))
    book.apply(make_update(5, 8, 4))
    assert view.last_update_id == 7


def test_the_best_is_a_tuple_of_floats(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("100", "1")], asks=[("200", "3")])
    assert repr((book.best_bid, book.best_ask)) == "((100.0, 1.0), (200.0, 3.0))"


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 10**6, 2**31, 2**63, 10**30, None, True, numpy.int64(2)])
def test_a_limit_takes_the_best_levels(books: ModuleType, limit: int | None) -> None:
    book = loaded_book(books)
    count = 3 if limit is None else min(int(limit), 3)
    assert [level[0] for level in book.bids(limit)] == [100.1, 100.0, 99.5][:count]
    assert [level[0] for level in book.asks(limit=limit)] == [100.2, 100.4, 101.0][:count]
    assert (len(book.view(limit).bids), len(book.view(limit).asks)) == (count, count)
    assert book.to_numpy("asks", limit).tolist() == [[100.2, 0.5], [100.4, 3.0], [101.0, 7.0]][:count]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": -1}, ValueError),
        ({"limit": -(10**30)}, ValueError),
        ({"limit": 1.0}, TypeError),
        ({"limit": "1"}, TypeError),
        ({"limit": Decimal(1)}, TypeError),
        ({"number": int}, ValueError),
        ({"number": "float"}, ValueError),
        ({"number": None}, ValueError),
        ({"number": []}, ValueError),
        ({"number": numpy.float64}, ValueError),
        ({"number": Fraction}, ValueError),
        ({"threshold_volume": float("nan")}, ValueError),
        ({"threshold_volume": Decimal("NaN")}, ValueError),
        ({"threshold_volume": "100"}, TypeError),
        ({"threshold_volume": b"100"}, TypeError),
        ({"threshold_volume": [1]}, TypeError),
        ({"threshold_volume": 1j}, TypeError),
    ],
    ids=repr,
)
def test_wrong_arguments_are_the_callers_mistake_whatever_the_state(
    books: ModuleType, arguments: dict[str, Any], error: type[Exception]
) -> None:
    suspended = loaded_book(books)
    suspended.suspend("GAP")
    for book in (books.OrderBook("spot"), suspended, loaded_book(books)):
        reads = [book.bids, book.asks]
        if "threshold_volume" not in arguments:
            reads.append(book.view)
        if "limit" in arguments:
            reads += [lambda limit, book=book: book.to_numpy("bids", limit)]
        for read in reads:
            with pytest.raises(error) as raised:
                read(**arguments)
            assert not isinstance(raised.value, DepthCacheOutOfSync)


def test_a_side_that_is_neither_is_refused(books: ModuleType) -> None:
    for side in ("bid", "Bids", "", None, 5):
        with pytest.raises(ValueError, match="bids"):
            loaded_book(books).to_numpy(side)


def test_refusals_come_in_order(books: ModuleType) -> None:
    book = books.OrderBook("spot", market="X")
    book.suspend("GAP")
    with pytest.raises(BookNotLoaded) as raised:
        book.view()
    assert raised.value.cause == "NOT_LOADED"
    book.load_snapshot(make_snapshot(BIDS, ASKS), 3)
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS]))
    for cause in ("GAP", "LEFT_HORIZON"):
        for read in (book.bids, book.view, lambda: book.best_bid, lambda: book.to_numpy("bids")):
            with pytest.raises(DepthCacheOutOfSync) as raised:
                read()
            assert (raised.value.market, raised.value.cause) == ("X", cause)
        book.resume()


def test_a_cause_comes_back_as_it_was_given(books: ModuleType) -> None:
    book = loaded_book(books)
    book.suspend("Wartung läuft")
    with pytest.raises(DepthCacheOutOfSync, match="Wartung läuft") as raised:
        book.best_bid  # noqa: B018
    assert raised.value.cause == "Wartung läuft"


def test_numbers_have_the_requested_type(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("61837.63000000", "1.50000000")], asks=[("61837.64", "2")], limit=1)
    assert repr(book.bids()) == "[[61837.63, 1.5]]"
    assert repr(book.bids(number=Decimal)) == "[[Decimal('61837.63000000'), Decimal('1.50000000')]]"
    assert repr(book.bids(number=str)) == "[['61837.63000000', '1.50000000']]"
    assert repr(book.asks(number=str)) == "[['61837.64000000', '2.00000000']]"
    view = book.view(number=Decimal)
    assert repr(view.asks) == "((Decimal('61837.64000000'), Decimal('2.00000000')),)"
    assert repr(view[6:8]) == "(Decimal('61837.63000000'), Decimal('61837.64000000'))"
    assert repr(book.view()[6:8]) == "(61837.63, 61837.64)"
    assert repr((book.bid_horizon, book.ask_horizon)) == "(61837.63, 61837.64)"


def test_there_is_no_point_at_scale_zero_and_a_zero_before_it_elsewhere(books: ModuleType) -> None:
    assert loaded_book(books, bids=[("7", "100")], asks=[]).bids(number=str) == [["7", "100"]]
    assert loaded_book(books, bids=[("0.05", ".5".rjust(3, "0"))], asks=[]).bids(number=str) == [["0.05", "0.5"]]


def test_a_threshold_keeps_levels_while_their_notional_stays_at_or_below_it(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("100", "1"), ("90", "2"), ("80", "1"), ("70", "1")], asks=[("200", "5")])
    for threshold, count in (
        (99, 1),
        (100, 1),
        (279.9, 1),
        (280, 2),
        (359, 2),
        (360, 3),
        (429, 3),
        (430, 4),
        (10**9, 4),
    ):
        assert len(book.bids(threshold_volume=threshold)) == count, threshold
    assert book.bids(threshold_volume=Decimal(280)) == [[100.0, 1.0], [90.0, 2.0]]
    assert len(book.bids(threshold_volume=Fraction(560, 2), number=str)) == 2
    assert len(book.bids(2, threshold_volume=10**9)) == 2
    assert len(book.bids(3, threshold_volume=280)) == 2
    assert book.bids(0, threshold_volume=280) == []
    for threshold in (0, -1, float("-inf")):
        assert book.asks(threshold_volume=threshold) == [[200.0, 5.0]]
    assert len(book.bids(threshold_volume=float("inf"))) == 4


def test_a_level_that_would_pass_the_threshold_ends_the_walk(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("100", "1"), ("90", "1000"), ("80", "1")], asks=[])
    assert len(book.bids(threshold_volume=500)) == 1


def test_levels_worth_nothing_do_not_use_up_the_first_place(books: ModuleType) -> None:
    book = loaded_book(books, bids=[], asks=[("0", "5"), ("10", "5"), ("20", "5")])
    assert len(book.asks(threshold_volume=1)) == 2
    assert len(book.asks(threshold_volume=50)) == 2


def test_a_threshold_ends_at_the_horizon_too(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("1", "1")]))
    assert len(book.bids(threshold_volume=10**9)) == 3
    assert len(book.bids(threshold_volume=10**9, beyond_horizon=True)) == 4


@given(
    levels=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(1, 10**9)),
        min_size=1,
        max_size=8,
        unique_by=lambda level: level[0],
    ),
    threshold=st.floats(0, 10**6) | st.integers(0, 10**6),
    limit=st.none() | st.integers(0, 9),
)
def test_a_threshold_is_summed_in_floats_best_first(
    books: ModuleType, levels: list[tuple[int, int]], threshold: float, limit: int | None
) -> None:
    book = loaded_book(books, bids=[], asks=[(f"{price / 10**5:.5f}", f"{size / 10**6:.6f}") for price, size in levels])
    kept, total = [], 0.0
    for price, quantity in book.asks():
        if total != 0.0 and total + price * quantity > threshold:
            break
        total += price * quantity
        kept.append([price, quantity])
    assert book.asks(limit, threshold_volume=threshold) == kept[:limit]


def test_an_array_is_of_floats_and_ones_own(books: ModuleType) -> None:
    book = loaded_book(books)
    array = book.to_numpy("bids")
    assert (array.dtype, array.shape) == (numpy.float64, (3, 2))
    assert array.tolist() == book.bids()
    assert array.flags.writeable
    array[:] = 0
    assert book.bids()[0] == [100.1, 1.0]
    assert book.to_numpy("asks", 2).tolist() == book.asks(2)
    assert book.to_numpy("asks", 0).shape == (0, 2)


def test_a_long_side_is_read_whole(books: ModuleType) -> None:
    asks = [(f"{price}.5", f"0.{price}") for price in range(1000, 3000)]
    book = loaded_book(books, bids=[], asks=asks)
    expected = [[float(price), float(quantity)] for price, quantity in asks]
    assert book.asks() == expected
    assert book.asks(1500) == expected[:1500]
    assert book.to_numpy("asks").tolist() == expected
    assert book.view().asks == tuple(map(tuple, expected))


def test_counters_and_header_are_the_types_of_ldc(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101))
    assert type(book.counters) is BookCounters
    assert type(book.last_header) is Header
