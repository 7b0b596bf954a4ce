"""A smoke of fuzzing, which `make fuzz` does at length: changed messages, judged by json and Decimal, on both books.

Without coverage, without anything to install. The seed changes with each run; a failure names it.
"""

import os
import random
from pathlib import Path
from types import ModuleType

import fuzz_seeds
import pytest
from fuzz_targets import TARGETS

EXECUTIONS = {"update": 10_000, "snapshot": 15_000, "number": 1_500}
A_FEW = 300


def fuzz(books: ModuleType, target: str, seed: int, executions: int, captures: Path | None = None) -> int:
    seeds = fuzz_seeds.corpus(target, captures)
    judge = TARGETS[target](books)
    accepted = sum(map(judge, seeds))
    dice = random.Random(seed)
    for number in range(executions):
        message = fuzz_seeds.mutated(dice, seeds)
        try:
            accepted += judge(message)
        except BaseException as failure:
            failure.add_note(
                f"LDC_FUZZ_SEED={seed} pytest tests/book/test_fuzz.py -k {target}: message {number}: {message!r}"
            )
            raise
    return accepted


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_a_few_changed_messages_are_refused_or_right(books: ModuleType, target: str) -> None:
    assert fuzz(books, target, 1, A_FEW) > 10


@pytest.mark.check
@pytest.mark.parametrize("target", TARGETS)
def test_many_changed_messages_are_refused_or_right(books: ModuleType, target: str) -> None:
    seed = int(os.environ.get("LDC_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    folder = os.environ.get("LDC_CAPTURES")
    fuzz(books, target, seed, EXECUTIONS[target], Path(folder) if folder else None)


@pytest.mark.parametrize("target", TARGETS)
def test_a_book_that_errs_is_found_out(books: ModuleType, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A target that could not fail would be none: each must notice a quantity that is off in its last decimal."""

    class Errs:
        def __init__(self, *arguments, **named):
            self.book = books.OrderBook(*arguments, **named)

        def __getattr__(self, name):
            return getattr(self.book, name)

        def apply(self, payload):
            return self.book.apply(payload.replace(b"54775807", b"54775806"))

        def load_snapshot(self, body, limit=None):
            self.book.load_snapshot(body.replace(b"54775807", b"54775806"), limit)

    errs = ModuleType("errs")
    errs.OrderBook, errs.read_header = Errs, books.read_header
    with pytest.raises(AssertionError):
        fuzz(errs, target, 1, A_FEW)
