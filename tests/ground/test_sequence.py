"""The sequence rules, comparison by comparison, and both order books against them."""

import itertools
from types import ModuleType

import pytest
from messages import make_snapshot, make_update

from ldc.sequence import FUTURES, RULES, SPOT, UPDATE_ID_MAX, SequenceRule, check_ids, judge, resolve_rule, start_id
from ldc.types import Verdict

APPLIED, STALE, GAP = Verdict

# The verdict of a book at 100 on an update: U, u, pu, verdict. Consecutive lines differ by one step.
SPOT_TABLE = [
    (90, 99, None, STALE),
    (90, 100, None, STALE),
    (100, 100, None, STALE),
    (90, 101, None, APPLIED),
    (100, 101, None, APPLIED),
    (101, 101, None, APPLIED),
    (101, 200, None, APPLIED),
    (102, 102, None, GAP),
    (102, 200, None, GAP),
    # pu does not count.
    (101, 102, 1, APPLIED),
    (101, 102, 101, APPLIED),
    (102, 103, 100, GAP),
    (90, 100, 99, STALE),
]
FUTURES_TABLE = [
    (90, 99, 89, STALE),
    (90, 100, 89, STALE),
    (90, 101, 89, APPLIED),
    (100, 101, 99, APPLIED),
    (101, 101, 100, APPLIED),
    (105, 110, 100, APPLIED),
    (102, 110, 101, GAP),
    # U does not count.
    (110, 110, 100, APPLIED),
    (50, 110, 101, GAP),
]
FIRST_FUTURES_TABLE = [
    (90, 99, 89, STALE),
    (90, 100, 89, APPLIED),
    (100, 100, 99, APPLIED),
    (90, 101, 89, APPLIED),
    (101, 101, 100, APPLIED),
    (105, 110, 100, APPLIED),
    (105, 110, 101, GAP),
    (102, 110, 101, GAP),
    # pu past the snapshot, but U not: Binance's own procedure starts here.
    (100, 110, 101, APPLIED),
    (99, 110, 105, APPLIED),
    (101, 110, 105, GAP),
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("first", "last", "previous", "verdict"), SPOT_TABLE)
def test_spot(first: int, last: int, previous: int | None, verdict: Verdict, is_first: bool) -> None:
    assert judge(SPOT, 100, is_first, first, last, previous) is verdict


@pytest.mark.parametrize(("first", "last", "previous", "verdict"), FUTURES_TABLE)
def test_futures(first: int, last: int, previous: int, verdict: Verdict) -> None:
    assert judge(FUTURES, 100, False, first, last, previous) is verdict


@pytest.mark.parametrize(("first", "last", "previous", "verdict"), FIRST_FUTURES_TABLE)
def test_the_first_futures_update_after_a_snapshot(first: int, last: int, previous: int, verdict: Verdict) -> None:
    assert judge(FUTURES, 100, True, first, last, previous) is verdict


@pytest.mark.parametrize(
    ("first", "last", "previous", "spot", "futures"),
    [
        (1, 1, 1, False, False),
        (2, 2, 1, True, True),
        (2, 2, 2, False, False),
        (1, 2, 3, False, False),
        (2, 1, None, False, False),
        (2, 1, 0, False, False),
        (1, 1, None, True, False),
        (1, 2, None, True, False),
        (None, 2, 1, False, False),
        (1, None, 1, False, False),
        (None, None, None, False, False),
    ],
)
def test_ids_that_cannot_be_are_named(
    first: int | None, last: int | None, previous: int | None, spot: bool, futures: bool
) -> None:
    for rule, is_right in ((SPOT, spot), (FUTURES, futures)):
        wrong = check_ids(rule, first, last, previous)
        assert wrong is None if is_right else isinstance(wrong, str)


def test_where_an_update_starts() -> None:
    assert start_id(SPOT, 101, 50) == 100
    assert start_id(SPOT, 101, None) == 100
    assert start_id(FUTURES, 101, 50) == 50


def test_names_and_rules() -> None:
    assert RULES == {"spot": SPOT, "futures": FUTURES}
    assert resolve_rule("spot") is SPOT
    assert resolve_rule(FUTURES) is FUTURES
    own = SequenceRule("own", chains_by_previous_id=True, first_update_may_end_at_snapshot=False)
    assert resolve_rule(own) is own
    assert UPDATE_ID_MAX == 2**63 - 1
    for unknown in ("margin", None, 5, ["spot"], b"spot"):
        with pytest.raises(ValueError, match="'spot', 'futures'"):
            resolve_rule(unknown)


ALL_RULES = [SequenceRule("any", chains, grace) for chains in (False, True) for grace in (False, True)]


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
@pytest.mark.parametrize("is_first", [True, False])
def test_books_judge_as_the_definition_does_on_every_small_grid_of_ids(
    books: ModuleType, rule: SequenceRule, is_first: bool
) -> None:
    book_id, ids = 6, range(1, 12)
    book = books.OrderBook(rule)
    verdicts = set()
    for first, last, previous in itertools.product(ids, ids, [None, *ids]):
        if check_ids(rule, first, last, previous) is not None:
            continue
        book.load_snapshot(make_snapshot([("1", "1")], last_update_id=book_id if is_first else book_id - 1))
        if not is_first:
            book.apply(make_update(book_id, book_id, book_id - 1))
        overlapping = book.counters.updates_overlapping
        expected = judge(rule, book_id, is_first, first, last, previous)
        assert book.apply(make_update(first, last, previous)) is expected, (first, last, previous)
        is_applied = expected is APPLIED
        assert book.last_update_id == (last if is_applied else book_id)
        is_overlapping = is_applied and start_id(rule, first, previous) < book_id
        assert book.counters.updates_overlapping == overlapping + is_overlapping
        verdicts.add(expected)
    assert verdicts == {APPLIED, STALE, GAP}
    assert sum(book.counters[3:6]) >= 400


def test_a_verdict_is_the_number_that_the_compiled_book_knows() -> None:
    assert [(verdict.name, int(verdict)) for verdict in Verdict] == [("APPLIED", 0), ("STALE", 1), ("GAP", 2)]
