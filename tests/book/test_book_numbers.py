"""Which texts are prices and quantities, the scales of a book, and the numbers that come out of it, which are exact."""

import decimal
import re
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from messages import BIDS, dumps, everything_but_counters, exact_bids, loaded_book, make_snapshot, make_update

from ldc.analytics.view import BookView
from ldc.errors import MalformedMessage
from ldc.types import Verdict

INT64_MAX = 2**63 - 1

NOT_NUMBERS = [
    "", " ", "nan", "NaN", "inf", "Infinity", "1e3", "1E3", "1e-3", "+1", "-1", "-0", " 1", "1 ", "\t1", "1\n", "\n1",
    "1_000", "1,5", "1,000", ".5", "1.", ".", "..", "1..5", "1.5.", "1.2.3", "0x10", "0b1", "1.5e2", "1.5f", "1L", "½",
    "١٢٣", "１２", "1٫5", "1．5", "²", "1\x00", "\x001", "1.\u0660", "true", "null",
    "--1", "1-", "1+1", "1\u00a0", "\ufeff1",
]  # fmt: skip

DO_NOT_FIT = [
    "9223372036854775808",
    "9223372036854775.808000000000000001",
    "922337203685477580.80000001",
    "99999999999999999999",
    "1" + "0" * 30,
    "0.0000000000000000001",
    "0.1234567890123456789",
    "10.000000000000000001",
    "9" * 5000,
    "0." + "0" * 5000 + "1",
]

FIT = {
    "0": "0",
    "9223372036854775807": "9223372036854775807",
    "0.000000000000000001": "0.000000000000000001",
    "9.223372036854775807": "9.223372036854775807",
    "92233720368.54775807": "92233720368.54775807",
    "000123": "123",
    "0" * 5000 + "7": "7",
    "7." + "0" * 5000: "7",
    "00.10": "0.1",
    "123456789.0123456789": "123456789.0123456789",
}


@pytest.mark.parametrize("place", ["price", "quantity"])
@pytest.mark.parametrize("text", NOT_NUMBERS + DO_NOT_FIT)
def test_what_is_no_number_or_does_not_fit_is_refused_wherever_it_stands(
    books: ModuleType, text: str, place: str
) -> None:
    level = (text, "1") if place == "price" else ("1", text)
    book = loaded_book(books)
    before = everything_but_counters(book)
    for payload in (
        make_update(101, bids=[level]),
        make_update(101, asks=[("200", "1"), level]),
        make_update(50, asks=[level]),
    ):
        with pytest.raises(MalformedMessage):
            book.apply(payload)
    with pytest.raises(MalformedMessage):
        book.load_snapshot(make_snapshot([("99", "1"), level], []))
    assert everything_but_counters(book) == before


@pytest.mark.parametrize("text", NOT_NUMBERS + DO_NOT_FIT)
def test_a_price_to_delete_must_be_a_number_that_fits_all_the_same(books: ModuleType, text: str) -> None:
    with pytest.raises(MalformedMessage):
        loaded_book(books).apply(make_update(101, bids=[(text, "0")]))


@pytest.mark.parametrize("text", FIT)
def test_what_fits_is_exact_as_a_price_and_as_a_quantity(books: ModuleType, text: str) -> None:
    value = Decimal(FIT[text])
    book = loaded_book(books, bids=[], asks=[])
    assert book.apply(make_update(101, asks=[(text, "1")])) is Verdict.APPLIED
    [[price, quantity]] = book.asks(number=Decimal)
    assert (price, quantity) == (value, 1)
    assert book.asks() == [[float(text), 1.0]]
    if value:
        book = loaded_book(books, bids=[], asks=[])
        book.apply(make_update(101, bids=[("1", text)]))
        assert book.bids(number=Decimal) == [[1, value]]
        assert book.bids() == [[1.0, float(text)]]


@pytest.mark.parametrize("zero", ["0", "0.0", "000", "0.00000000", "00.0000000000000000000000000000"])
def test_every_zero_removes(books: ModuleType, zero: str) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[("100.1", zero)]))
    assert exact_bids(book) == BIDS[1:]
    assert (book.price_decimals, book.quantity_decimals) == (2, 3)


def test_a_price_is_the_same_however_it_is_printed(books: ModuleType) -> None:
    for text in ("100.1", "100.10", "100.1000000000000000000000000", "000100.1", "0100.10"):
        book = loaded_book(books)
        book.apply(make_update(101, bids=[(text, "0")]))
        assert exact_bids(book) == BIDS[1:], text


def test_a_snapshot_sets_the_scales_to_the_most_decimals_it_prints(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("1.5", "2"), ("1.250", "1.00")], asks=[("2", "3.0000"), ("3.123456", "0.123456")])
    assert (book.price_decimals, book.quantity_decimals) == (6, 6)
    book = loaded_book(books, bids=[("1.50", "2.0000")], asks=[("2.123", "0.00000"), ("3", "7")])
    assert (book.price_decimals, book.quantity_decimals) == (2, 4)
    assert exact_bids(book) == [("1.50", "2.0000")]


def test_levels_of_quantity_zero_have_no_say_in_the_scales_of_a_snapshot(books: ModuleType) -> None:
    tiny = ("0.000000000000000000", "0.0000000000000000000000")
    book = loaded_book(books, bids=[("1.5", "2")], asks=[tiny, ("2", "1"), ("9223372036854775807", "0")])
    assert (book.price_decimals, book.quantity_decimals) == (1, 0)


def test_a_snapshot_that_prints_too_many_decimals_is_refused(books: ModuleType) -> None:
    book = books.OrderBook("spot")
    for level in (("1." + "0" * 19, "1"), ("1", "1." + "0" * 19)):
        with pytest.raises(MalformedMessage):
            book.load_snapshot(make_snapshot([level]))
    book.load_snapshot(make_snapshot([("1." + "0" * 18, "9." + "2" * 18)]))
    assert (book.price_decimals, book.quantity_decimals) == (18, 18)
    assert exact_bids(book) == [("1." + "0" * 18, "9." + "2" * 18)]


def test_a_snapshot_whose_levels_do_not_fit_its_own_scales_is_refused(books: ModuleType) -> None:
    book = books.OrderBook("spot")
    with pytest.raises(MalformedMessage):
        book.load_snapshot(make_snapshot([("92233720368.54775808", "1")]))
    with pytest.raises(MalformedMessage):
        book.load_snapshot(make_snapshot([("92233720369", "1")], [("92233720370.00000000", "1")]))
    with pytest.raises(MalformedMessage):
        book.load_snapshot(make_snapshot([("1", "92233720368.547758070")]))
    book.load_snapshot(make_snapshot([("92233720368.54775807", "92233720368.54775807")]))
    assert exact_bids(book) == [("92233720368.54775807", "92233720368.54775807")]


def test_an_applied_update_widens_the_scales_as_far_as_it_must(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("1.5", "2")], asks=[("2.0", "3")], limit=1)
    book.apply(make_update(101, bids=[("1.25", "1"), ("1.125000", "0.50")]))
    assert (book.price_decimals, book.quantity_decimals) == (3, 1)
    assert exact_bids(book) == [("1.500", "2.0"), ("1.250", "1.0"), ("1.125", "0.5")]
    assert book.asks(number=str) == [["2.000", "3.0"]]
    assert (book.bid_horizon, book.ask_horizon) == (1.5, 2.0)
    book.check()
    book.apply(make_update(102, bids=[("1.125", "0"), ("1.25", "0")]))
    assert (book.price_decimals, book.quantity_decimals) == (3, 1)


def test_trailing_zeros_do_not_widen_a_scale(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[("99.0000000000", "1.0000000000")], asks=[("100.200", "2.5000")]))
    assert (book.price_decimals, book.quantity_decimals) == (2, 3)
    assert ("99.00", "1.000") in exact_bids(book)


def test_an_entry_that_is_replaced_in_the_same_update_widens_all_the_same(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[("50.123", "1.12345"), ("50.123", "1"), ("50.123", "0")]))
    assert (book.price_decimals, book.quantity_decimals) == (3, 5)
    assert book.bid_count == 3
    assert book.counters.prices_repeated == 2


def test_a_delete_does_not_widen_and_finds_its_price_at_the_scale_that_others_widened(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[("100.1001", "0"), ("50.1234", "0")]))
    assert (book.price_decimals, exact_bids(book)) == (2, BIDS)
    book.apply(make_update(102, bids=[("50.1234", "1")]))
    assert book.price_decimals == 4
    book.apply(make_update(103, bids=[("50.1234", "0"), ("50.12345", "0")]))
    assert (book.price_decimals, book.bid_count) == (4, 3)


def test_stale_and_gap_updates_change_no_scale_and_are_not_refused_for_it(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("92233720368547758.07", "1")], asks=[])
    wide = [("1.123", "1.12345"), ("9223372036854775807", "9223372036854775807")]
    assert book.apply(make_update(50, bids=wide)) is Verdict.STALE
    assert book.apply(make_update(150, bids=wide)) is Verdict.GAP
    assert (book.price_decimals, book.quantity_decimals) == (2, 0)
    with pytest.raises(MalformedMessage):
        book.apply(make_update(101, bids=wide))
    assert book.counters.updates_malformed == 1


UNFIT = {
    "a price named, at the book's scale": ([("92233720368547758.08", "1")], None),
    "a price named, at the widened scale": ([("92233720368547758", "1"), ("0.001", "1")], None),
    "a quantity named, at the book's scale": ([("1", "9223372036854776")], None),
    "a quantity named, at the widened scale": ([("1", "922337203685477.5807"), ("2", "0.00001")], None),
    "a price held, at the widened scale": ([("0.001", "1")], [("92233720368547758.07", "1.000")]),
    "a quantity held, at the widened scale": ([("1", "0.0001")], [("1.00", "9223372036854775.807")]),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_update_that_does_not_fit_is_refused_whole(books: ModuleType, name: str) -> None:
    levels, held = UNFIT[name]
    book = loaded_book(books, bids=BIDS if held is None else held, asks=[])
    before, counters = everything_but_counters(book), book.counters
    with pytest.raises(MalformedMessage):
        book.apply(make_update(101, bids=levels))
    assert everything_but_counters(book) == before
    assert book.counters == counters._replace(updates_malformed=1)
    book.check()


def test_a_horizon_is_held_although_its_level_is_gone(books: ModuleType) -> None:
    book = loaded_book(books, bids=[], asks=[("1.00", "1"), ("92233720368547758.07", "1")], limit=2)
    book.apply(make_update(101, asks=[("92233720368547758.07", "0")]))
    with pytest.raises(MalformedMessage):
        book.apply(make_update(102, asks=[("1.001", "1")]))
    assert book.price_decimals == 2


def test_a_delete_of_a_price_too_large_for_the_scale_is_a_no_op(books: ModuleType) -> None:
    book = loaded_book(books)
    update = make_update(
        101, bids=[("9223372036854775807", "0"), ("92233720368547758.07", "0")], asks=[("0.12345", "1")]
    )
    assert book.apply(update) is Verdict.APPLIED
    assert book.price_decimals == 5
    assert book.bid_count == 3


def test_saturated_quantities_are_counted_and_exact(books: ModuleType) -> None:
    most = "92233720368.54775807"
    book = loaded_book(books, bids=[("1", most), ("2", "92233720368.54775806")], asks=[])
    assert book.counters.quantities_saturated == 1
    assert exact_bids(book)[1] == ("1", most)
    assert book.bids()[1] == [1.0, 92233720368.54775807]
    book.apply(make_update(101, bids=[("3", most), ("3", "1"), ("4", most + "000")], asks=[("5", most)]))
    assert book.counters.quantities_saturated == 4
    assert book.apply(make_update(90, bids=[("3", most)])) is Verdict.STALE
    assert book.counters.quantities_saturated == 4
    book = loaded_book(books, bids=[], asks=[("1", "9223372036854775807")])
    assert book.counters.quantities_saturated == 1


def test_a_saturated_price_is_not_a_saturated_quantity(books: ModuleType) -> None:
    book = loaded_book(books, bids=[], asks=[("9223372036854775807", "1")])
    book.apply(make_update(101, asks=[("9223372036854775807", "2")]))
    assert book.counters.quantities_saturated == 0


def test_a_price_of_zero_is_a_price(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("0.00", "1")], asks=[("0.01", "1")])
    assert book.bids(number=str) == [["0.00", "1"]]
    assert book.best_bid == (0.0, 1.0)


@st.composite
def numbers_that_fit(draw: st.DrawFn) -> tuple[int, int]:
    """Return (units, decimals); among them many about 2**53, 2**63 and the powers of ten."""
    near = st.sampled_from([0, 1, 2**53, 2**54, 2**62, INT64_MAX, *(10**n for n in range(19))])
    close = st.builds(lambda base, step: min(max(base + step, 0), INT64_MAX), near, st.integers(-3, 3))
    return draw(st.one_of(st.integers(0, INT64_MAX), close)), draw(st.integers(0, 18))


def text_of(units: int, decimals: int) -> str:
    digits = str(units).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits


@given(price=numbers_that_fit(), quantity=numbers_that_fit())
def test_numbers_come_out_as_they_came_in(books: ModuleType, price: tuple[int, int], quantity: tuple[int, int]) -> None:
    assume(quantity[0] > 0)
    texts = text_of(*price), text_of(*quantity)
    book = books.OrderBook("spot")
    book.load_snapshot(make_snapshot([], [texts]))
    assert book.asks(number=str) == [list(texts)]
    [[as_decimal, _]] = book.asks(number=Decimal)
    assert (as_decimal, as_decimal.as_tuple().exponent) == (Decimal(texts[0]), -price[1])
    floats = [float(texts[0]), float(texts[1])]
    assert book.asks() == [floats]
    assert book.best_ask == tuple(floats)
    assert book.view().asks == (tuple(floats),)
    assert book.ask_horizon == floats[0]
    assert book.view(number=str).ask_horizon == texts[0]


def test_levels_that_a_float_holds_exactly_and_others_are_read_side_by_side(books: ModuleType) -> None:
    quantities = [2**53 - 1, 2**53, 2**53 + 1, INT64_MAX, 7]
    bids = [(f"{9 - place}.07", text_of(units, 2)) for place, units in enumerate(quantities)]
    book = loaded_book(books, bids=bids, asks=[("9.99", text_of(2**53 + 3, 2)), ("10.00", "0.30")])
    expected = [[float(price), float(quantity)] for price, quantity in bids]
    for count in range(1, len(bids) + 1):
        assert book.bids(count) == expected[:count]
        assert book.view(count).bids == tuple(map(tuple, expected[:count]))
    assert book.best_bid == tuple(expected[0])
    assert book.best_ask == (9.99, float(text_of(2**53 + 3, 2)))
    assert book.view().asks == (book.best_ask, (10.0, 0.3))
    assert type(book.view()) is BookView


def test_decimals_are_exact_in_any_context(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("92233720368.54775807", "1.10")], asks=[])
    with decimal.localcontext(decimal.Context(prec=3, Emax=2, Emin=-2, traps=[decimal.Inexact, decimal.Rounded])):
        read = book.bids(number=Decimal)
    assert [[str(number) for number in level] for level in read] == [["92233720368.54775807", "1.10"]]


def test_a_bare_json_number_is_no_price(books: ModuleType) -> None:
    for level in ([1, "1"], ["1", 1], [1.5, "1"], ["1", None], [True, "1"]):
        with pytest.raises(MalformedMessage):
            loaded_book(books).apply(dumps({"U": 101, "u": 101, "b": [level], "a": []}))


@pytest.mark.parametrize("price_decimals", [0, 1, 2, 8, 9, 10, 11])
@pytest.mark.parametrize("quantity_decimals", [0, 3, 8, 10])
def test_levels_are_exact_however_long_their_numbers_are(
    books: ModuleType, price_decimals: int, quantity_decimals: int
) -> None:
    """Every number of digits before the point, printed with all decimals of the book, with fewer, and in turn."""
    snapshot = make_snapshot(bids=[(printed("3", price_decimals), printed("7", quantity_decimals))])
    for decimals in (price_decimals, price_decimals // 2):
        for quantity_digits in range(1, 8 + 1 if quantity_decimals == 10 else 10 + 1):
            book = books.OrderBook("spot")
            book.load_snapshot(snapshot)
            expected = held_bids(book)
            changes = []
            for digits in (*range(1, 8 + 1), 5, 1):
                price = printed("1234567890"[:digits], decimals if digits % 2 else price_decimals)
                quantity = printed("9876543210"[:quantity_digits], quantity_decimals)
                changes.append((price, quantity))
                expected[Decimal(price)] = Decimal(quantity)
            assert book.apply(make_update(101, bids=changes)) is Verdict.APPLIED
            assert held_bids(book) == expected


def held_bids(book: Any) -> dict[Decimal, Decimal]:
    return {Decimal(price): Decimal(quantity) for price, quantity in exact_bids(book)}


def printed(whole: str, decimals: int) -> str:
    return f"{whole}.{'4725836190123'[:decimals]}" if decimals else whole


@pytest.mark.parametrize("damaged", '"[],.0:/;eE-+ \\\x00\x7fé')
@pytest.mark.parametrize("levels", [1, 6])
def test_no_byte_of_a_level_can_be_another_one(books: ModuleType, damaged: str, levels: int) -> None:
    """Wherever a byte is replaced, the update is what the decimals that are left say, or it is refused."""
    level = '["1234.50","0.250"]'
    for at in range(len(level)):
        changed = level[:at] + damaged + level[at + 1 :]
        book = loaded_book(books, bids=[("1234.50", "1.000")], asks=[])
        before = everything_but_counters(book)
        others = ",".join(f'["{number}.50","0.250"]' for number in range(2000, 2000 + levels))
        update = f'{{"e":"depthUpdate","E":1,"s":"X","U":101,"u":101,"b":[{changed},{others}],"a":[]}}'
        pieces = changed.split('"')
        texts = [pieces[0], pieces[2], pieces[-1]] == ["[", ",", "]"] and len(pieces) == 5 and (pieces[1], pieces[3])
        if texts and all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) for text in texts):
            assert book.apply(update.encode()) is Verdict.APPLIED
            assert held_bids(book)[Decimal(texts[0])] == Decimal(texts[1])
        else:
            with pytest.raises(MalformedMessage):
                book.apply(update.encode())
            assert everything_but_counters(book) == before
