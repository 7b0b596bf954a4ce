"""What happens when memory runs out: MemoryError and an unchanged book, or a book that says where it now ends.

Only a build that checks can let allocations fail, so `make check` runs these.
"""

from collections.abc import Callable, Iterator

import pytest

from ldc.book import IMPLEMENTATION, OrderBook

ALLOCATIONS = range(1, 60)


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    if IMPLEMENTATION != "cython":
        pytest.skip("the Python book does not allocate by hand")
    from ldc._book import _limit_allocations

    try:
        _limit_allocations(-1)
    except RuntimeError as error:
        pytest.skip(str(error))
    yield _limit_allocations
    _limit_allocations(-1)


def levels(prices: range, quantity: str) -> str:
    return "[" + ",".join(f'["{price}","{quantity}"]' for price in prices) + "]"


def snapshot(bids: range, asks: range) -> str:
    return f'{{"lastUpdateId":1,"bids":{levels(bids, "1")},"asks":{levels(asks, "1")}}}'


def update(bids: range, asks: range, quantity: str) -> str:
    return f'{{"U":2,"u":2,"b":{levels(bids, quantity)},"a":{levels(asks, quantity)}}}'


def loaded() -> OrderBook:
    book = OrderBook("spot")
    book.load_snapshot(snapshot(range(4000, 2000, -2), range(4002, 6002, 2)), limit=5000)
    return book


@pytest.mark.parametrize("left", ALLOCATIONS)
def test_a_snapshot_without_memory_changes_nothing(limit: Callable[[int], None], left: int) -> None:
    book = loaded()
    before = book.view(beyond_horizon=True)
    limit(left)
    try:
        book.load_snapshot(snapshot(range(500, 1, -1), range(501, 1001)), limit=1000)
    except MemoryError:
        limit(-1)
        assert book.view(beyond_horizon=True) == before
    limit(-1)
    book.check()


@pytest.mark.parametrize("left", ALLOCATIONS)
def test_an_update_without_memory_changes_nothing_or_gives_up_the_far_end(
    limit: Callable[[int], None], left: int
) -> None:
    book, whole = loaded(), loaded()
    before = book.view(beyond_horizon=True)
    payload = update(range(3999, 2001, -2), range(4003, 6001, 2), "2")
    whole.apply(payload)
    limit(left)
    try:
        book.apply(payload)
    except MemoryError:
        limit(-1)
        assert book.view(beyond_horizon=True) == before
    else:
        limit(-1)
        comparison = book.compare(whole)
        assert comparison.is_equal
        assert (comparison.outside > 0) == (book.counters.levels_dropped > 0)
    book.check()


def test_an_update_gives_up_the_far_end_where_it_finds_no_block(limit: Callable[[int], None]) -> None:
    book, whole = loaded(), loaded()
    payload = update(range(3999, 3001, -2), range(4003, 5001, 2), "2")  # small enough to be read without allocating
    whole.apply(payload)
    limit(1)
    book.apply(payload)
    limit(-1)
    book.check()
    assert book.counters.levels_dropped > 0
    assert book.bid_horizon is not None
    assert book.ask_horizon is not None
    assert book.best_bid == whole.best_bid
    assert book.compare(whole).is_equal


def test_an_update_that_cannot_be_kept_is_applied_and_what_was_kept_is_forgotten(limit: Callable[[int], None]) -> None:
    book, other = loaded(), loaded()
    book.retain_updates()
    book.apply(update(range(3999, 3997, -2), range(4003, 4005, 2), "2"))
    assert book.retained_count == 1
    limit(1)
    book.apply(update(range(4000, 3998, -2), range(4002, 4004, 2), "3").replace('"U":2,"u":2', '"U":3,"u":3'))
    limit(-1)
    assert book.last_update_id == 3
    assert book.retained_count == 0
    other.apply_retained(book)
    assert other.last_update_id == 1
    book.check()


@pytest.mark.parametrize("left", ALLOCATIONS)
def test_adopting_and_comparing_without_memory_change_nothing(limit: Callable[[int], None], left: int) -> None:
    book, other = loaded(), loaded()
    before = book.view(beyond_horizon=True)
    limit(left)
    for act in (book.adopt, book.compare, lambda _: book.bids(), lambda _: book.view()):
        try:
            act(other)
        except MemoryError:
            pass
    limit(-1)
    assert book.view(beyond_horizon=True) == before
    book.check()
