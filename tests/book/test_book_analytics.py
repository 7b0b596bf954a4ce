"""What a book amounts to: prices, fills, depth, groups. Exact, inside the horizon, alike in books and in views."""

import os
import random
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction
from types import ModuleType
from typing import Any

import analytics_cases
import numpy
import pytest
from messages import ASKS, BIDS, loaded_book, make_snapshot, make_update

from ldc.errors import DepthCacheOutOfSync
from ldc.types import Depth, Fill, Prices

CALLS: dict[str, Any] = {
    "prices": lambda book: book.prices(),
    "imbalance(levels)": lambda book: book.imbalance(levels=2),
    "imbalance(bps)": lambda book: book.imbalance(bps=30),
    "fill(quantity)": lambda book: book.fill("asks", quantity=1),
    "fill(notional)": lambda book: book.fill("asks", notional=100),
    "price_at(quantity)": lambda book: book.price_at("asks", quantity=1),
    "price_at(notional)": lambda book: book.price_at("asks", notional=100),
    "depth(to_price)": lambda book: book.depth("asks", to_price=100.5),
    "depth(bps)": lambda book: book.depth("asks", bps=30),
    "grouped": lambda book: book.grouped("asks", 0.5),
}
LOOKS = {"mid": lambda book: book.mid, "spread": lambda book: book.spread, "micro_price": lambda book: book.micro_price}


def faces(book: Any) -> list[Any]:
    """Whatever analytics can be asked of: the book, its reader, and views of it."""
    return [book, book.reader, book.view(), book.view(number=Decimal), book.view(number=str)]


# ----------------------------------------------------------------------------------------------- against the judge


@pytest.mark.parametrize("seed", range(4))
def test_random_questions_are_answered_as_plain_decimals_answer_them(all_books: list[ModuleType], seed: int) -> None:
    wrong = list(analytics_cases.failures(seed, 1500, all_books))
    assert wrong[:3] == []


@pytest.mark.check
def test_many_random_questions_are_answered_as_plain_decimals_answer_them(all_books: list[ModuleType]) -> None:
    first = int(os.environ.get("LDC_SEED") or random.SystemRandom().randrange(2**32))
    for seed in range(first, first + 20):
        assert list(analytics_cases.failures(seed, 2000, all_books))[:3] == []


def test_the_judge_finds_an_answer_that_is_wrong_in_its_last_digit() -> None:
    assert analytics_cases.same((1.5, 2), (1.5, 2))
    assert not analytics_cases.same((1.5, 2), (1.5000000000000002, 2))
    assert not analytics_cases.same(Decimal("0.1"), Decimal("0.1000000000000000000000000001"))
    assert not analytics_cases.same(1, 1.0)
    assert not analytics_cases.same(None, "LEFT_HORIZON")


# ----------------------------------------------------------------------------------------------------- by hand


def test_the_prices_between_the_best(books: ModuleType) -> None:
    book = loaded_book(books)  # 100.10 x 1.000, 100.20 x 0.500
    for face in faces(book)[:3]:
        assert face.prices() == Prices(100.15, 0.1, 100.16666666666667)
        assert (face.mid, face.spread, face.micro_price) == face.prices()
        assert type(face.prices()) is Prices
    micro = Decimal("100.1666666666666666666666667")
    for face in faces(book):
        assert face.prices(number=Decimal) == Prices(Decimal("100.15"), Decimal("0.1"), micro)
    assert book.view(number=Decimal).mid == Decimal("100.15")
    assert book.view(number=str).micro_price == str(micro)


def test_a_fill_takes_the_best_levels_first_and_the_last_in_part(books: ModuleType) -> None:
    book = loaded_book(books)
    for face in faces(book):
        assert face.fill("asks", quantity=1.2, number=float) == Fill(1.2, 120.38, 120.38 / 1.2, 100.4, 2, True)
        assert face.fill("bids", quantity=Decimal("3.5"), number=Decimal) == Fill(
            Decimal("3.5"), Decimal("350.1"), Decimal("100.0285714285714285714285714"), Decimal(100), 2, True
        )
        assert face.fill("asks", quantity=20, number=float) == Fill(10.5, 1058.3, 1058.3 / 10.5, 101.0, 3, False)
        bought = face.fill("asks", notional=100, number=Decimal)
        assert bought == (
            Decimal("0.9970119521912350597609561753"), 100, Decimal("100.2997002997002997002997003"), Decimal("100.4"),
            2, True,
        )  # fmt: skip
        assert type(bought) is Fill


def test_a_fill_that_ends_with_a_level_takes_no_other(books: ModuleType) -> None:
    for face in faces(loaded_book(books)):
        assert face.fill("asks", quantity=0.5, number=float)[3:] == (100.2, 1, True)
        assert face.fill("asks", quantity=Decimal("0.50000000000000000000000001"), number=float)[3:] == (100.4, 2, True)
        assert face.fill("bids", notional=Decimal("100.1"), number=float)[3:] == (100.1, 1, True)


def test_price_at_is_the_worst_price_that_is_needed(books: ModuleType) -> None:
    for face in faces(loaded_book(books)):
        assert face.price_at("asks", quantity=0.5, number=float) == 100.2
        assert face.price_at("asks", quantity=3.51, number=float) == 101.0
        assert face.price_at("bids", notional=Decimal("350.11"), number=Decimal) == Decimal("99.5")
        assert face.price_at("asks", quantity=11) is None


def test_depth_is_what_rests_up_to_a_price_inclusive(books: ModuleType) -> None:
    for face in faces(loaded_book(books)):
        assert face.depth("asks", to_price=100.4, number=float) == Depth(3.5, 351.3, 2, True)
        assert face.depth("asks", to_price=Decimal("100.39999999999999"), number=float) == Depth(0.5, 50.1, 1, True)
        assert face.depth("bids", to_price=100, number=Decimal) == Depth(Decimal("3.5"), Decimal("350.1"), 2, True)
        assert face.depth("bids", to_price=0, number=float) == Depth(7.5, 748.1, 3, True)
        assert face.depth("asks", to_price=0, number=float) == Depth(0.0, 0.0, 0, True)
        # Mid is 100.15. 25 basis points from it are 99.899625 and 100.400375.
        assert face.depth("asks", bps=25, number=float) == Depth(3.5, 351.3, 2, True)
        assert face.depth("bids", bps=Decimal("14.9775"), number=float).levels == 1  # to 100.0000003375
        assert face.depth("bids", bps=Decimal("14.9776"), number=float).levels == 2  # to 99.999999336
        assert face.depth("bids", bps=20_000, number=float).levels == 3


def test_imbalance_compares_the_quantities_of_both_sides(books: ModuleType) -> None:
    for face in faces(loaded_book(books)):
        assert face.imbalance(levels=1, number=float) == float(Fraction(1, 3))
        assert face.imbalance(levels=2, number=Decimal) == 0
        assert face.imbalance(levels=numpy.int32(99), number=Decimal) == Decimal("-0.1666666666666666666666666667")
        assert face.imbalance(bps=6, number=float) == float(Fraction(1, 3))
        assert face.imbalance(bps=Decimal("0.001")) is None


def test_groups_round_bids_down_and_asks_up(books: ModuleType) -> None:
    for face in faces(loaded_book(books)):
        assert face.grouped("bids", 1, number=float) == ((100.0, 3.5), (99.0, 4.0))
        assert face.grouped("asks", 1, number=float) == ((101.0, 10.5),)
        assert face.grouped("asks", Decimal("0.3"), number=float) == ((100.2, 0.5), (100.5, 3.0), (101.1, 7.0))
        assert (
            face.grouped("asks", Decimal("0.0000001"), 2, number=str)[0][1]
            == face.grouped("asks", 0.1, number=str)[0][1]
        )
        assert face.grouped("bids", 1000, number=float) == ((0.0, 7.5),)
        assert face.grouped("bids", 10**30, number=float) == ((0.0, 7.5),)
        assert face.grouped("asks", 10**30, number=float) == ((1e30, 10.5),)
        assert face.grouped("asks", 1, 0) == ()


def test_sums_past_128_bits_are_exact(books: ModuleType) -> None:
    most = 2**63 - 1
    asks = [(str(most - step), str(most)) for step in range(100)]
    book = loaded_book(books, bids=[("1", "1")], asks=asks)
    notional = sum((most - step) * most for step in range(100))
    assert notional > 2**132
    assert book.fill("asks", quantity=10**30, number=Decimal)[:2] == (100 * most, notional)
    assert book.fill("asks", quantity=10**30).notional == float(notional)
    assert book.depth("asks", to_price=10**30, number=Decimal)[:2] == (100 * most, notional)
    assert book.fill("asks", notional=notional - 1, number=Decimal)[4:] == (100, True)
    assert book.fill("asks", notional=notional + 1, number=Decimal)[4:] == (100, False)
    assert book.fill("asks", quantity=100 * most - 1).is_complete


# ------------------------------------------------------------------------------------------ empty, and past the horizon


def test_an_empty_complete_side_has_no_prices_and_fills_nothing(books: ModuleType) -> None:
    for face in faces(loaded_book(books, bids=[])):
        assert face.prices() is None
        assert (face.mid, face.spread, face.micro_price) == (None, None, None)
        assert face.depth("asks", bps=10) is None
        assert face.imbalance(bps=10) is None
        assert face.imbalance(levels=3, number=float) == -1.0
        assert face.fill("bids", quantity=1, number=float) == Fill(0.0, 0.0, None, None, 0, False)
        assert face.price_at("bids", quantity=1) is None
        assert face.depth("bids", to_price=1, number=float) == Depth(0.0, 0.0, 0, True)
        assert face.grouped("bids", 1) == ()
    for face in faces(loaded_book(books, bids=[], asks=[])):
        assert face.imbalance(levels=3) is None


def test_the_numbers_of_an_empty_view_have_its_type(books: ModuleType) -> None:
    view = loaded_book(books, bids=[], asks=[]).view(number=Decimal)
    assert repr(view.depth("bids", to_price=1).quantity) == "Decimal('0')"


def assert_needs_more(call: Any, side: str) -> None:
    with pytest.raises(DepthCacheOutOfSync, match=f"needs {side} past") as raised:
        call()
    assert raised.value.cause == "LEFT_HORIZON"
    assert "request less" in str(raised.value)


def test_what_lies_past_the_horizon_is_not_guessed(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    for face in faces(book):
        assert face.fill("asks", quantity=11).is_complete is False
        assert face.fill("asks", quantity=10.5).is_complete is True
        assert_needs_more(lambda face=face: face.price_at("asks", quantity=11), "asks")
        assert face.depth("asks", to_price=101).is_complete is True
        assert face.depth("asks", to_price=101.001, number=float) == Depth(10.5, 1058.3, 3, False)
        assert face.depth("bids", to_price=99.4999).is_complete is False
        assert face.depth("bids", bps=20_000).is_complete is False
        assert_needs_more(lambda face=face: face.imbalance(levels=4), "bids")
        assert_needs_more(lambda face=face: face.imbalance(bps=500), "bids")
        assert face.imbalance(levels=3) is not None
        assert face.grouped("bids", 1, number=float) == ((100.0, 3.5),)  # 99.5 is in the group of 99, which is cut
        assert face.grouped("asks", 1, number=float) == ((101.0, 10.5),)
        assert face.grouped("asks", Decimal("1.5"), number=float) == ((100.5, 3.5),)  # and 101 in that of 102


def test_levels_past_the_horizon_do_not_count(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("99", "1000")], asks=[("200", "1000")]))
    for face in [*faces(book), book.view(beyond_horizon=True)]:
        assert face.fill("asks", quantity=11, number=float)[4:] == (3, False)
        assert face.depth("bids", to_price=1, number=float).quantity == 7.5


def test_a_side_that_has_left_its_horizon_refuses_what_needs_it_and_nothing_else(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS]))
    view = book.view(beyond_horizon=True)
    for face in (book, book.reader, view):
        assert face.fill("asks", quantity=1).is_complete
        assert face.depth("asks", to_price=101).levels == 3
        for call in (
            lambda face=face: face.fill("bids", quantity=1),
            lambda face=face: face.depth("asks", bps=10),
            lambda face=face: face.prices(),
            lambda face=face: face.mid,
            lambda face=face: face.imbalance(levels=1),
            lambda face=face: face.grouped("bids", 1),
        ):
            with pytest.raises(DepthCacheOutOfSync, match="no level is left in its bids"):
                call()


def test_the_end_of_a_view_is_a_horizon_for_it(books: ModuleType) -> None:
    book = loaded_book(books)
    view = book.view(2)
    assert (view.bids_truncated, view.asks_truncated) == (True, True)
    assert (book.view(3).bids_truncated, book.view().asks_truncated) == (False, False)
    assert view.mid == book.mid
    assert view.fill("asks", quantity=4) == Fill(
        3.5, 351.3, float(Fraction("351.3") / Fraction("3.5")), 100.4, 2, False
    )
    assert view.depth("bids", to_price=99).is_complete is False
    assert view.depth("bids", to_price=100).is_complete is True
    assert view.grouped("bids", 1) == ((100.0, 3.5),)
    assert_needs_more(lambda: view.imbalance(levels=3), "bids")
    assert_needs_more(lambda: view.price_at("asks", quantity=4), "asks")
    with pytest.raises(DepthCacheOutOfSync, match="LEFT_HORIZON"):
        book.view(0).mid  # noqa: B018
    assert loaded_book(books, bids=[], asks=[]).view(0).mid is None


def test_a_horizon_inside_a_view_of_all_that_is_held_is_its_end(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[("99", "1000"), ("98", "1")]))
    view = book.view(4, beyond_horizon=True)
    assert view.bids_truncated
    assert view.depth("bids", to_price=99) == Depth(7.5, 748.1, 3, False)


# ----------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda book: book.fill("asks"), TypeError, "exactly one of quantity and notional"),
        (lambda book: book.fill("asks", quantity=1, notional=1), TypeError, "exactly one"),
        (lambda book: book.price_at("asks"), TypeError, "exactly one"),
        (lambda book: book.depth("asks"), TypeError, "exactly one of to_price and bps"),
        (lambda book: book.imbalance(), TypeError, "exactly one of levels and bps"),
        (lambda book: book.imbalance(levels=1, bps=1), TypeError, "exactly one"),
        (lambda book: book.fill("ask", quantity=1), ValueError, 'must be "bids" or "asks"'),
        (lambda book: book.price_at(None, quantity=1), ValueError, "side"),
        (lambda book: book.depth(b"bids", bps=1), ValueError, "side"),
        (lambda book: book.grouped(["bids"], 1), ValueError, "side"),
        (lambda book: book.fill("asks", quantity=0), ValueError, "quantity must be above 0, and is 0"),
        (lambda book: book.fill("asks", quantity=-1.5), ValueError, "quantity must be above 0"),
        (lambda book: book.fill("asks", notional=Decimal(0)), ValueError, "notional must be above 0"),
        (lambda book: book.fill("asks", quantity="1"), TypeError, "must be an int, a float or a Decimal, not str"),
        (lambda book: book.fill("asks", notional=Fraction(1, 3)), TypeError, "notional .* not Fraction"),
        (lambda book: book.fill("asks", quantity=1j), TypeError, "not complex"),
        (lambda book: book.fill("asks", quantity=float("nan")), ValueError, "finite"),
        (lambda book: book.fill("asks", quantity=float("inf")), ValueError, "finite"),
        (lambda book: book.fill("asks", quantity=Decimal("NaN")), ValueError, "finite"),
        (lambda book: book.fill("asks", quantity=Decimal("sNaN")), ValueError, "finite"),
        (lambda book: book.fill("asks", quantity=Decimal("-Infinity")), ValueError, "finite"),
        (lambda book: book.fill("asks", quantity=Decimal("1E-401")), ValueError, "at most 400 digits"),
        (lambda book: book.fill("asks", quantity=Decimal("1E+400")), ValueError, "at most 400 digits"),
        (lambda book: book.fill("asks", quantity=Decimal("1E+999999")), ValueError, "at most 400 digits"),
        (lambda book: book.depth("asks", to_price=-1), ValueError, "to_price must not be negative, and is -1"),
        (lambda book: book.depth("asks", bps=0), ValueError, "bps must be above 0"),
        (lambda book: book.imbalance(levels=0), ValueError, "levels must be at least 1, and is 0"),
        (lambda book: book.imbalance(levels=1.0), TypeError, "levels must be an int or None, not float"),
        (lambda book: book.grouped("asks", 0), ValueError, "step must be above 0"),
        (lambda book: book.grouped("asks", [1]), TypeError, "step must be an int, a float or a Decimal, not list"),
        (lambda book: book.grouped("asks", 1, -1), ValueError, "limit must not be negative, and is -1"),
        (lambda book: book.grouped("asks", 1, "1"), TypeError, "limit must be an int or None, not str"),
        *((lambda book, call=call: call(book, int), ValueError, "number must be float, Decimal or str")
          for call in (
              lambda book, number: book.prices(number=number),
              lambda book, number: book.imbalance(bps=1, number=number),
              lambda book, number: book.fill("asks", quantity=1, number=number),
              lambda book, number: book.price_at("asks", quantity=1, number=number),
              lambda book, number: book.depth("asks", bps=1, number=number),
              lambda book, number: book.grouped("asks", 1, number=number),
          )),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_whatever_the_state(
    books: ModuleType, call: Any, error: type[Exception], words: str
) -> None:
    suspended = loaded_book(books)
    suspended.suspend("GAP")
    for face in (books.OrderBook("spot"), suspended, *faces(loaded_book(books))):
        with pytest.raises(error, match=words):
            call(face)


@pytest.mark.parametrize(
    "amount",
    [
        1,
        True,
        numpy.int64(1),
        numpy.uint8(1),
        1.0,
        numpy.float64(1.0),
        numpy.float32(1.0),
        Decimal(1),
        Decimal("1.000"),
    ],
    ids=repr,
)
def test_an_amount_may_be_any_kind_of_number(books: ModuleType, amount: Any) -> None:
    for face in faces(loaded_book(books)):
        assert face.fill("asks", quantity=amount, number=float).notional == 100.3
        assert face.depth("asks", bps=amount, number=float).levels == 0
        assert face.grouped("asks", amount, number=float) == ((101.0, 10.5),)


def test_a_float_means_its_repr(books: ModuleType) -> None:
    book = loaded_book(books, asks=[("1", "10")], bids=[])
    for amount in (0.1, 0.1 + 0.2, 1 / 3, 1e-7, 5e-324, 1.7e-8, 0.00123456789012345678, 9.999999999999998):
        for face in faces(book):
            assert face.fill("asks", quantity=amount, number=Decimal).quantity == Decimal(repr(amount))
    assert book.fill("asks", quantity=numpy.float32(0.1), number=Decimal).quantity == Decimal("0.1")
    assert book.fill("asks", quantity=1e300).is_complete is False


def test_no_context_of_the_thread_has_an_influence(books: ModuleType) -> None:
    book = loaded_book(books)
    expected = [repr(call(face)) for face in faces(book) for call in CALLS.values()]
    with localcontext() as context:
        context.prec = 2
        context.clear_flags()
        context.traps = dict.fromkeys(context.traps, True)
        assert [repr(call(face)) for face in faces(book) for call in CALLS.values()] == expected
        assert not any(context.flags.values())
    assert getcontext().prec > 2


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("call", [*CALLS.values(), *LOOKS.values()], ids=[*CALLS, *LOOKS])
def test_analytics_are_refused_as_reads_are(books: ModuleType, call: Any) -> None:
    book = books.OrderBook("spot", market="X")
    for cause, change in (
        ("NOT_LOADED", lambda: None),
        (None, lambda: book.load_snapshot(make_snapshot(BIDS, ASKS), 1000)),
        ("GAP", lambda: book.suspend("GAP")),
        (None, lambda: book.resume()),
        ("STALLED", lambda: setattr(book, "lease", books.Lease(1000))),
        (None, lambda: setattr(book, "lease", None)),
        ("CROSSED", lambda: book.apply(make_update(101, bids=[("100.3", "1")]))),
    ):
        change()
        if cause is None:
            call(book)
            continue
        with pytest.raises(DepthCacheOutOfSync) as raised:
            call(book)
        assert (raised.value.market, raised.value.cause) == ("X", cause)


def test_an_amount_past_64_bits_is_refused_as_well(books: ModuleType) -> None:
    book = loaded_book(books, market="X")
    book.suspend("GAP")
    for call in (
        lambda: book.fill("asks", quantity=10**40),
        lambda: book.price_at("asks", notional=10**40),
        lambda: book.depth("asks", to_price=10**40),
        lambda: book.imbalance(bps=10**40),
        lambda: book.grouped("asks", 10**40),
    ):
        with pytest.raises(DepthCacheOutOfSync, match="GAP"):
            call()
