"""Whether a peer's book is right: held to the independent reference, as far as the peer can know.

Of each side, the thousand best levels of the reference are looked at, as floats. A peer that throws away what is beyond
its limit cannot know those levels again when the ones before them are gone. So for such a peer everything from the
innermost price at which a correct trim would ever have cut is left out.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from bench_recordings import Market

LEVELS_COMPARED_MAX = 1000

Levels = dict[float, float]


class Verdict(NamedTuple):
    """What the comparison of one book said."""

    compared: int
    """Levels of both sides together."""
    wrong: str
    """The first difference of each side, or an empty text."""


def innermost_cuts(market: Market, levels_max: int) -> tuple[float, float]:
    """Return the best bid and the best ask that a trim to the best levels after each update would ever throw away."""
    body = json.loads(market.snapshot)
    cuts = [0.0, float("inf")]
    sides = [{float(price): float(held) for price, held in body[side]} for side in ("bids", "asks")]
    for frame in market.frames:
        event = json.loads(frame)["data"]
        for number, key in enumerate("ba"):
            side = sides[number]
            for price, quantity in event[key]:
                if float(quantity):
                    side[float(price)] = float(quantity)
                else:
                    side.pop(float(price), None)
            if len(side) > levels_max:
                thrown = sorted(side, reverse=number == 0)[levels_max:]
                cuts[number] = max(cuts[0], thrown[0]) if number == 0 else min(cuts[1], thrown[0])
                for price in thrown:
                    del side[price]
    return cuts[0], cuts[1]


def judge(found: tuple[Levels, Levels], market: Market, levels_max: int | None) -> Verdict:
    """Compare both sides of a book with the reference."""
    cuts = (0.0, float("inf")) if levels_max is None else innermost_cuts(market, levels_max)
    compared, wrong = 0, []
    for name, side, expected, cut, is_better in (
        ("bid", found[0], market.bids, cuts[0], float.__gt__),
        ("ask", found[1], market.asks, cuts[1], float.__lt__),
    ):
        count, difference = _judge_side(side, expected, cut, is_better)
        compared += count
        if difference:
            wrong.append(f"{market.name}, {name} {difference}")
    return Verdict(compared, "; ".join(wrong))


def _judge_side(
    found: Levels, reference: dict[Decimal, Decimal], cut: float, is_better: Callable[[Any, Any], bool]
) -> tuple[int, str]:
    ordered = sorted(reference, key=lambda price: -price if is_better(1.0, 0.0) else price)
    expected = {float(price): float(reference[price]) for price in ordered[:LEVELS_COMPARED_MAX]}
    last = float(ordered[:LEVELS_COMPARED_MAX][-1])
    expected = {price: quantity for price, quantity in expected.items() if is_better(price, cut)}
    within = {price: held for price, held in found.items() if is_better(price, cut) and not is_better(last, price)}
    if within == expected:
        return len(expected), ""
    different = [price for price in {*expected, *within} if expected.get(price) != within.get(price)]
    first = max(different) if is_better(1.0, 0.0) else min(different)
    rank = sum(is_better(price, first) for price in expected)
    return len(expected), (
        f"{first} is {within.get(first, 'missing')}, and should be {expected.get(first, 'missing')} "
        f"(level {rank + 1}; {len(different)} of {len(expected)} differ)"
    )
