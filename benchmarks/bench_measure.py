"""How it is measured: prepared before the clock starts, no garbage collection, all contenders in turn in every round.

On a shared machine a minute differs from the next by more than contenders differ. So they run interleaved in one
process, in rotating order, and a ratio is taken within a round, from two runs a moment apart; what is reported is the
median over the rounds. A read is compared with nothing, so it is the quickest sample that counts: the machine can only
have added to it.
"""

import gc
import statistics
import timeit
from array import array
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from bench_contenders import CONTENDERS, Contender
from bench_recordings import Market, Recording

READ_LOOP_S = 0.02
"""A read is repeated for about this long for one sample; timer and loop then cost nothing to speak of."""


PAIRS_ALONE = "tuple(zip(prices[:20], quantities[:20])), tuple(zip(prices[20:], quantities[20:]))"
"""Of two arrays of doubles: the pairs of `view(20)` without a book."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Nanoseconds that each contender took for all frames, by round; a contender that was wrong is not in it."""

    recording: Recording
    rounds: dict[str, list[int]]
    wrong: list[str]

    def ns_per_update(self, contender: str) -> float:
        """Return the median."""
        return statistics.median(self.rounds[contender]) / self.recording.updates

    def ratio(self, contender: str, to: str) -> float:
        """Return how many times as long as another one it took: the median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.rounds[contender], self.rounds[to], strict=True))


@contextmanager
def no_garbage_collection() -> Any:
    """Collect first, then not at all."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def bytes_to_book(recording: Recording, rounds: int) -> Timing:
    """Time every contender from the first frame of a recording to the last, and check what each ends with."""
    names = list(CONTENDERS)
    taken: dict[str, list[int]] = {name: [] for name in names}
    wrong = []
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            runs = [(CONTENDERS[name](market), market) for market in recording.markets]
            taken[name].append(_run(runs))
            if number == 0 and not all(contender.is_correct() for contender, _ in runs):
                wrong.append(name)
    return Timing(recording, {name: taken[name] for name in names if name not in wrong}, wrong)


def _run(runs: list[tuple[Contender, Market]]) -> int:
    with no_garbage_collection():
        started = perf_counter_ns()
        for contender, market in runs:
            apply = contender.apply
            for frame in market.frames:
                apply(frame)
        return perf_counter_ns() - started


def nanoseconds(
    read: str, names: dict[str, object], samples: int, clock: Callable[[], float] = timeit.default_timer
) -> float:
    """Return the shortest time of an expression, less that of an empty loop."""
    timer, empty = timeit.Timer(read, timer=clock, globals=names), timeit.Timer("pass", timer=clock)
    once = timer.timeit(1000) / 1000
    loops = max(1, int(READ_LOOP_S / once))
    with no_garbage_collection():
        shortest = min(timer.timeit(loops) for _ in range(samples)) - min(empty.timeit(loops) for _ in range(samples))
    return shortest / loops * 1e9


def pairs_alone(samples: int) -> float:
    """Return nanoseconds of making as many pairs of floats as `view(20)` has, by the interpreter's own means."""
    prices, quantities = (array("d", [start + number / 7 for number in range(40)]) for start in (60_000, 1))
    return nanoseconds(PAIRS_ALONE, {"prices": prices, "quantities": quantities}, samples)


def reads(make_book: Callable[[], Any], samples: int) -> dict[str, float]:
    """Return nanoseconds of the usual reads of a book, from the book and from its reader."""
    book = make_book()
    expressions = [
        "book.best_bid",
        "book.bids(10)",
        "book.view(20)",
        "reader.best_bid",
        "reader.bids(10)",
        "reader.view(20)",
    ]
    return {read: nanoseconds(read, {"book": book, "reader": book.reader}, samples) for read in expressions}
