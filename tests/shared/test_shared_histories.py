"""Simulated histories again, with shared books: every view of a shared reader is judged as the local ones are."""

import os
import random
from typing import Any

import pytest
from history import run_seed
from history_shared import SharedHistory
from sync_kit import BOOKS

COMPILED = list(BOOKS.values())[-1]
FEW = 60
MANY = int(os.environ.get("LDC_HISTORIES", "1000"))


def run(seed: int, books: Any = COMPILED) -> SharedHistory:
    history = SharedHistory(seed, books, random.Random(seed).choice((1, 3, 7, 20, 100)))
    try:
        history.run()
    except AssertionError as error:
        error.add_note(f"again with: test_shared_histories.run({seed})")
        raise
    return history


def summed(histories: list[SharedHistory]) -> dict[str | None, int]:
    total: dict[str | None, int] = {}
    for history in histories:
        for cause, count in history.causes.items():
            total[cause] = total.get(cause, 0) + count
    return total


def test_every_view_of_a_shared_reader_is_right() -> None:
    histories = [run(seed) for seed in range(FEW)]
    assert sum(history.views for history in histories) > 50 * FEW
    assert {None, "NOT_LOADED", "GAP", "STREAM_CLOSED", "LEFT_HORIZON"} <= set(summed(histories))


def test_the_plain_book_publishes_what_is_right_too() -> None:
    assert all(run(seed, BOOKS["python"]).views for seed in range(500, 504))


@pytest.mark.check
@pytest.mark.parametrize("block", range(10))
def test_every_view_of_a_shared_reader_is_right_in_many_histories(block: int) -> None:
    size = MANY // 10
    histories = [run(seed) for seed in range(10_000 + block * size, 10_000 + (block + 1) * size)]
    assert sum(history.views for history in histories) > 50 * size


def test_sharing_a_book_changes_no_history() -> None:
    for seed in range(5):
        assert SharedHistory(seed, COMPILED, 20).run() == run_seed(seed, COMPILED)


def test_a_publication_that_is_missed_is_found() -> None:
    """The oracle sees a region that stands still."""
    history = SharedHistory(3, COMPILED, 20)
    market = history.markets[0]
    receive = market.receive

    def receive_unseen(*arguments: Any) -> None:
        writer, market.book.region = market.book.region, None
        receive(*arguments)
        market.book.region = writer

    history.at(2.0, lambda: setattr(market, "receive", receive_unseen))
    with pytest.raises(AssertionError, match="the shared book"):
        history.run()
