"""No read mixes two versions: tests/tools/torn_reads.py in short, and that it would notice."""

import itertools
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torn_reads
from torn_reads import FIRST_ID, LEVELS, VERSIONS_TO_SEE, Race, check_levels, levels_of

A_FEW_UPDATES = 3_000
UPDATES = {"ldc._book": 60_000, "ldc.book.pure.book": 2_000}


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def assert_whole(race: Race) -> None:
    race.run()
    assert race.version - FIRST_ID >= race.updates
    assert min(race.versions) > VERSIONS_TO_SEE


def test_reads_while_everything_is_written_are_whole(books: ModuleType) -> None:
    assert_whole(Race(books.OrderBook, updates=A_FEW_UPDATES if "_book" in books.__name__ else A_FEW_UPDATES // 10))


@pytest.mark.check
def test_reads_while_everything_is_written_for_seconds_are_whole(books: ModuleType) -> None:
    assert_whole(Race(books.OrderBook, updates=UPDATES[books.__name__]))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("place", [0, 1, LEVELS - 1])
def test_a_torn_read_would_be_noticed(side: int, place: int) -> None:
    version, other = (
        [(float(price), float(quantity)) for price, quantity in levels_of(FIRST_ID + step)[side]] for step in (0, 1)
    )
    assert check_levels(version, side, LEVELS) == FIRST_ID
    torn = [*version[:place], other[place], *version[place + 1 :]]
    quantity_only = [*version[:place], (version[place][0], other[place][1]), *version[place + 1 :]]
    for levels in (torn, quantity_only, version[:-1], [*version, other[-1]]):
        with pytest.raises(AssertionError):
            check_levels(levels, side, LEVELS)


def test_a_race_over_a_book_that_tears_fails(books: ModuleType) -> None:
    """Each second view has the bids of the version before: the race must end with an AssertionError."""

    class Tears:
        def __init__(self, *arguments, **named):
            self.book = books.OrderBook(*arguments, **named)
            self.before = None
            self.turn = itertools.count()

        @property
        def reader(self):
            return self

        def view(self, limit=None):
            view = self.book.view(limit)
            before, self.before = self.before, view
            return view._replace(bids=before.bids) if before and next(self.turn) % 2 else view

        def __getattr__(self, name):
            return getattr(self.book, name)

    with pytest.raises(AssertionError):
        Race(Tears, updates=torn_reads.PERIOD * 1_000, readers=2).run()
