"""Random books and questions, and a judge of the answers that is written in plain Decimals and Fractions.

The judge knows nothing of ldc: it goes over the levels as they were printed. A sum is a Decimal in a context that never
rounds. A quotient is a Fraction, which becomes a float, or a Decimal of 28 digits, in one step.
"""

import random
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from types import ModuleType
from typing import Any, NamedTuple

import numpy
from messages import make_snapshot, make_update

from ldc.errors import DepthCacheOutOfSync

NUMBERS = (float, Decimal, str)
QUESTIONS_PER_BOOK = 25

Levels = list[tuple[Decimal, Decimal]]


class Known(NamedTuple):
    """A side inside its horizon."""

    is_bids: bool
    levels: Levels
    horizon: Decimal | None

    def is_past(self, price: Decimal, bound: Decimal) -> bool:
        return price < bound if self.is_bids else price > bound


class Question(NamedTuple):
    method: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


# ------------------------------------------------------------------------------------------------------- the judge


def as_number(value: Decimal | Fraction, number: type[Any]) -> Any:
    """Round once."""
    if number is float:
        return float(Fraction(value))
    if isinstance(value, Fraction):
        context = Context(prec=28, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999)
        value = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return value if number is Decimal else format(value, "f")


def exact_of(argument: Any) -> Decimal:
    if isinstance(argument, Decimal):
        return argument
    return Decimal(float.__repr__(argument)) if isinstance(argument, float) else Decimal(int(argument))


def judge(bids: Known, asks: Known, question: Question) -> Any:
    """Return the answer, or the cause of the refusal."""
    named = dict(question.named)
    number = named.pop("number", float)
    with localcontext(Context(prec=2000, Emin=-999999, Emax=999999)):
        for each in (bids, asks):
            if each.horizon is not None and not each.levels and reads(question, each):
                return "LEFT_HORIZON"
        return ANSWERS[question.method](bids, asks, number, *question.arguments, **named)


def reads(question: Question, side: Known) -> bool:
    if question.method in ("prices", "imbalance") or "bps" in question.named:
        return True
    return (question.arguments[0] == "bids") is side.is_bids


def prices(bids: Known, asks: Known, number: type[Any]) -> Any:
    if not bids.levels or not asks.levels:
        return None
    (bid, bid_size), (ask, ask_size) = bids.levels[0], asks.levels[0]
    micro = Fraction(bid * ask_size + ask * bid_size) / Fraction(bid_size + ask_size)
    return tuple(as_number(value, number) for value in ((bid + ask) / 2, ask - bid, micro))


def imbalance(bids: Known, asks: Known, number: type[Any], levels: Any = None, bps: Any = None) -> Any:
    sums = []
    for side in (bids, asks):
        if levels is not None:
            if side.horizon is not None and len(side.levels) < levels:
                return "LEFT_HORIZON"
            sums.append(sum((size for _, size in side.levels[: int(levels)]), Decimal(0)))
        else:
            found = total_to(side, bound_of(bids, asks, side, bps))
            if found is None:
                return None
            if not found[3]:
                return "LEFT_HORIZON"
            sums.append(found[0])
    total = sum(sums)
    return as_number(Fraction(sums[0] - sums[1]) / Fraction(total), number) if total else None


def bound_of(bids: Known, asks: Known, side: Known, bps: Any) -> Decimal | None:
    if not bids.levels or not asks.levels:
        return None
    share = exact_of(bps) / 10_000
    return (bids.levels[0][0] + asks.levels[0][0]) / 2 * (1 - share if side.is_bids else 1 + share)


def total_to(side: Known, bound: Decimal | None) -> Any:
    if bound is None:
        return None
    inside = [level for level in side.levels if not side.is_past(level[0], bound)]
    quantity = sum((size for _, size in inside), Decimal(0))
    notional = sum((price * size for price, size in inside), Decimal(0))
    return quantity, notional, len(inside), side.horizon is None or not side.is_past(bound, side.horizon)


def depth(bids: Known, asks: Known, number: type[Any], name: str, to_price: Any = None, bps: Any = None) -> Any:
    side = bids if name == "bids" else asks
    found = total_to(side, exact_of(to_price) if bps is None else bound_of(bids, asks, side, bps))
    if found is None:
        return None
    return as_number(found[0], number), as_number(found[1], number), *found[2:]


def taken(side: Known, quantity: Any, notional: Any) -> Any:
    """Return quantity, notional, worst price, levels, whether it is enough; as exact numbers."""
    got: Decimal | Fraction = Decimal(0)
    paid, worst, count = Decimal(0), None, 0
    wanted = exact_of(notional if quantity is None else quantity)
    for price, size in side.levels:
        left = wanted - (paid if quantity is None else got)
        if left <= 0:
            return got, paid, worst, count, True
        worst, count = price, count + 1
        if quantity is None and price * size > left:
            return Fraction(got) + Fraction(left) / Fraction(price), wanted, worst, count, True
        if quantity is not None and size > left:
            return wanted, paid + left * price, worst, count, True
        got, paid = got + size, paid + price * size
    return got, paid, worst, count, wanted <= (paid if quantity is None else got)


def fill(bids: Known, asks: Known, number: type[Any], name: str, quantity: Any = None, notional: Any = None) -> Any:
    got, paid, worst, count, enough = taken(bids if name == "bids" else asks, quantity, notional)
    average = as_number(Fraction(paid) / Fraction(got), number) if got else None
    return (
        as_number(got, number), as_number(paid, number), average, None if worst is None else as_number(worst, number),
        count, enough,
    )  # fmt: skip


def price_at(bids: Known, asks: Known, number: type[Any], name: str, quantity: Any = None, notional: Any = None) -> Any:
    side = bids if name == "bids" else asks
    *_, worst, _, enough = taken(side, quantity, notional)
    if enough:
        return as_number(worst, number)
    return None if side.horizon is None else "LEFT_HORIZON"


def grouped(bids: Known, asks: Known, number: type[Any], name: str, step: Any, limit: Any = None) -> Any:
    side = bids if name == "bids" else asks
    width = exact_of(step)
    groups: dict[Decimal, Decimal] = {}
    for price, size in side.levels:
        count = price // width
        if not side.is_bids and count * width != price:
            count += 1
        groups[count * width] = groups.get(count * width, Decimal(0)) + size
    whole = [each for each in groups.items() if side.horizon is None or not side.is_past(each[0], side.horizon)]
    return tuple((as_number(price, number), as_number(size, number)) for price, size in whole[:limit])


ANSWERS: dict[str, Callable[..., Any]] = {
    "prices": prices, "imbalance": imbalance, "depth": depth, "fill": fill, "price_at": price_at, "grouped": grouped,
}  # fmt: skip


def same(answer: Any, judged: Any) -> bool:
    """Whether an answer has the types and values that were judged; texts of numbers are equal by value."""
    if isinstance(judged, tuple):
        return isinstance(answer, tuple) and len(answer) == len(judged) and all(map(same, answer, judged))
    if isinstance(judged, str) and isinstance(answer, str) and judged != "LEFT_HORIZON":
        return "e" not in answer.lower() and Decimal(answer) == Decimal(judged)
    return type(answer) is type(judged) and answer == judged


def answer_of(book: Any, question: Question) -> Any:
    try:
        return getattr(book, question.method)(*question.arguments, **question.named)
    except DepthCacheOutOfSync as error:
        return str(error.cause)


# ------------------------------------------------------------------------------------------------------- the cases


class Case(NamedTuple):
    """One book, as its messages and as its levels."""

    snapshot: bytes
    limit: int | None
    update: bytes | None
    bids: Known
    asks: Known

    def load(self, module: ModuleType) -> Any:
        book = module.OrderBook("spot")
        book.load_snapshot(self.snapshot, self.limit)
        if self.update is not None:
            book.apply(self.update)
        return book


def text(units: int, decimals: int) -> str:
    digits = str(units).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits


def random_case(dice: random.Random) -> Case:
    """Draw a book: usually of small numbers near each other, at times of the largest there are."""
    is_wild = dice.random() < 0.25
    price_decimals, quantity_decimals = (dice.choice((0, 1, 2, 8, 18) if is_wild else (0, 2, 2, 3, 8)) for _ in "pq")
    mid = dice.randrange(10, 2**63 - 200) if is_wild else dice.randrange(60, 10**7)
    reach = dice.choice((3, 12, 60)) if mid < 10**6 or is_wild else dice.choice((12, 10_000))
    size_max = dice.choice((5, 2**63 - 1)) if is_wild else dice.choice((5, 1000, 10**12))

    def side(sign: int) -> dict[int, int]:
        count = dice.choice((0, 1, 2, 3, 5, 8, 20, 70))
        drawn = {mid + sign * dice.randrange(1, reach + 1) for _ in range(count)}
        return {price: dice.randint(1, size_max) for price in drawn if 0 <= price < 2**63}

    bids, asks = side(-1), side(1)
    limit = dice.choice((None, 1000, 1000, max(len(bids), 1), max(len(asks), 1)))
    horizons = [
        (worst(held) if held and (limit is None or len(held) >= limit) else None)
        for held, worst in ((bids, min), (asks, max))
    ]
    snapshot = make_snapshot(*([(text(p, price_decimals), text(q, quantity_decimals)) for p, q in held.items()]
                               for held in (bids, asks)))  # fmt: skip
    update = None
    if dice.random() < 0.5:
        changes: list[dict[int, int]] = []
        for held, sign in ((bids, -1), (asks, 1)):
            change = {price: 0 for price in held if dice.random() < dice.choice((0.1, 0.5, 1))}
            change |= {
                mid + sign * dice.randrange(1, 2 * reach): dice.randint(1, size_max)
                for _ in range(dice.choice((0, 1, 4)))
            }
            changes.append({price: quantity for price, quantity in change.items() if 0 <= price < 2**63})
        texts = [[(text(p, price_decimals), text(q, quantity_decimals)) for p, q in each.items()] for each in changes]
        update = make_update(101, bids=texts[0], asks=texts[1])
        bids.update(changes[0])
        asks.update(changes[1])
    known = []
    for held, horizon, is_bids in ((bids, horizons[0], True), (asks, horizons[1], False)):
        inside = [
            (price, quantity) for price, quantity in sorted(held.items(), reverse=is_bids)
            if quantity and (horizon is None or (price >= horizon if is_bids else price <= horizon))
        ]  # fmt: skip
        levels = [(Decimal(text(p, price_decimals)), Decimal(text(q, quantity_decimals))) for p, q in inside]
        known.append(Known(is_bids, levels, None if horizon is None else Decimal(text(horizon, price_decimals))))
    return Case(snapshot, limit, update, *known)


def random_question(dice: random.Random, case: Case) -> Question:
    name = dice.choice(("bids", "asks"))
    side = case.bids if name == "bids" else case.asks
    method = dice.choice(
        ("prices", "imbalance", "imbalance", "depth", "depth", "fill", "fill", "fill", "price_at", "grouped")
    )
    named: dict[str, Any] = {}
    if dice.random() < 0.7:
        named["number"] = dice.choice(NUMBERS)
    if method == "prices":
        return Question(method, (), named)
    if method == "imbalance":
        if dice.random() < 0.5:
            levels = dice.choice((1, 2, 5, 20, 200))
            return Question(method, (), named | {"levels": dice.choice((levels, numpy.int64(levels)))})
        return Question(method, (), named | {"bps": random_bps(dice)})
    if method == "depth":
        if dice.random() < 0.5:
            return Question(method, (name,), named | {"bps": random_bps(dice)})
        return Question(method, (name,), named | {"to_price": random_price(dice, side)})
    if method == "grouped":
        prices = [price for price, _ in side.levels] or [Decimal(1)]
        step = varied(
            dice, dice.choice((max(prices) / 7, abs(prices[0] - prices[-1]) / 3, Decimal(1), Decimal("0.05")))
        )
        arguments = (name, step) if dice.random() < 0.5 else (name, step, dice.choice((0, 1, 3, 100)))
        return Question(method, arguments, named)
    key = dice.choice(("quantity", "notional"))
    count = dice.randrange(len(side.levels) + 1)
    sums = sum(((p * q if key == "notional" else q) for p, q in side.levels[:count]), Decimal(0))
    return Question(method, (name,), named | {key: varied(dice, sums or Decimal(1))})


def random_bps(dice: random.Random) -> Any:
    return varied(dice, Decimal(dice.choice((1, 3, 10, 250, 4_000, 10_000, 20_000))))


def random_price(dice: random.Random, side: Known) -> Any:
    prices = [price for price, _ in side.levels] + [Decimal(1), Decimal(0)]
    if side.horizon is not None:
        prices.append(side.horizon)
    price = dice.choice(prices)
    return price if price == 0 else varied(dice, price)


def varied(dice: random.Random, amount: Decimal) -> Any:
    """Return an amount that is this one, near it, finer, or far from it; an int, a float or a Decimal, above 0."""
    with localcontext(Context(prec=2000)):
        found: Any = +amount.quantize(Decimal(1).scaleb(-30))
        kind = dice.randrange(8)
        if kind == 0:
            found *= Decimal(dice.choice(("0.5", "0.999999999999999999999", "1.000000000000000000001", "3")))
        elif kind == 1:
            found += Decimal(dice.choice((1, -1))).scaleb(dice.randrange(-12, 3))
        elif kind == 2:
            found = Decimal(dice.choice(("1E-30", "1E+25", "1E+60", "123456789.123456789", "0.1", "7")))
        elif kind in (3, 4):
            found = float(found) * dice.choice((1.0, 0.3, 1.1))
        elif kind == 5:
            found = max(int(found), 1)
        if found <= 0:
            found = Decimal("0.01")
        return found


def failures(seed: int, cases: int, modules: list[ModuleType]) -> Iterator[str]:
    """Yield what went wrong in so many questions of one seed: a text that says how to see it again."""
    dice = random.Random(seed)
    done = 0
    while done < cases:
        case = random_case(dice)
        books = {module.__name__: case.load(module) for module in modules}
        books["view"] = books[modules[-1].__name__].held_levels(number=Decimal)
        for _ in range(min(QUESTIONS_PER_BOOK, cases - done)):
            done += 1
            question = random_question(dice, case)
            judged = judge(case.bids, case.asks, question)
            asked = question
            for name, book in books.items():
                if name == "view":
                    asked = Question(question.method, question.arguments, {"number": float} | question.named)
                answer = answer_of(book, asked)
                if not same(answer, judged):
                    yield f"seed {seed}, case {done}, {name}: {asked}: {answer!r} is not {judged!r}; {case}"
