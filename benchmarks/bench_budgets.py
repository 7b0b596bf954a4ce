"""The budgets: what ldc must keep, what it aims at, and the verdict on a measurement."""

from typing import NamedTuple

from bench_contenders import COMPILED, DECIMALS, PLAIN_PYTHON, YARDSTICK
from bench_measure import Timing

MANY_LEVELS = 20
"""Above so many levels an update, what an update costs whatever it says no longer counts, and the aim is higher."""

NOT_MEASURED = [
    ("throughput socket -> book, relative to a bare recv_frame loop", "1.0 x", "3 x"),
    ("200 spot markets readable from cold", "30 s", "15 s"),
]
"""Budgets of parts that do not exist yet."""


class Budget(NamedTuple):
    """One line of the table."""

    what: str
    measured: float
    must: float
    aim: float
    unit: str
    more_is_better: bool = False

    @property
    def verdict(self) -> str:
        """Return which of the two is reached."""
        sign = -1 if self.more_is_better else 1
        if sign * self.measured <= sign * self.aim:
            return "aim reached"
        return "must reached" if sign * self.measured <= sign * self.must else "MISSED"


def budgets(
    timings: list[Timing], reads: dict[str, float], memory: dict[str, float], resident: dict[str, float] | None
) -> list[Budget]:
    """Return the table. What was not correct has no line in it; made-up traffic has, if there is no other."""
    table = []
    recorded = [timing for timing in timings if not timing.recording.is_made_up]
    for timing in recorded or timings:
        name = timing.recording.name
        many = timing.recording.levels > MANY_LEVELS * timing.recording.updates
        if COMPILED in timing.rounds:
            ratio = timing.ratio(COMPILED, YARDSTICK)
            table.append(Budget(f"bytes to book / orjson.loads: {name}", ratio, 0.5, 0.25 if many else 0.5, "x"))
        if COMPILED in timing.rounds and PLAIN_PYTHON in timing.rounds:
            speed_up = timing.ratio(PLAIN_PYTHON, COMPILED)
            table.append(Budget(f"speed-up over plain Python: {name}", speed_up, 15, 40, "x", more_is_better=True))
        if PLAIN_PYTHON in timing.rounds and DECIMALS in timing.rounds:
            ratio = timing.ratio(PLAIN_PYTHON, DECIMALS)
            table.append(Budget(f"plain Python / orjson + dict of Decimal: {name}", ratio, 1.5, 1.5, "x"))
    table += [
        Budget("best_bid", reads["book.best_bid"], 100, 60, "ns"),
        Budget("bids(10)", reads["book.bids(10)"], 1200, 800, "ns"),
        Budget("view(20)", reads["book.view(20)"], 3000, 2000, "ns"),
        Budget("bytes a level, at the worst moment", memory["worst"], 48, 24, "B"),
        Budget("fixed bytes of a book", memory["fixed"], 8192, 8192, "B"),
    ]
    if resident:
        table.append(Budget("resident bytes a level, after updates", resident["after all updates"], 48, 24, "B"))
    return table


def print_budgets(table: list[Budget]) -> None:
    """Print the table, and what is not in it."""
    width = max(len(line.what) for line in table) + 2
    print(f"{'budget':<{width}}{'measured':>12}{'must':>12}{'aim':>12}   verdict")
    for line in table:
        values = "".join(
            f"{value:>9.{_decimals(value)}f} {line.unit:<2}" for value in (line.measured, line.must, line.aim)
        )
        print(f"{line.what:<{width}}{values}   {line.verdict}")
    for what, must, aim in NOT_MEASURED:
        print(f"{what:<{width}}{'-':>12}{must:>12}{aim:>12}   not there yet")


def _decimals(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2
