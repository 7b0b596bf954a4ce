"""A second opinion on messages: what docs/order-book.md says, written apart from both books, with Decimals.

Slow, and without regard for hostile sizes; for tests that ask what a damaged message should do.
"""

import json
import re
from decimal import Context, Decimal
from typing import Any

EVENT_KEYS = ("e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st")
INT64_MAX = 2**63 - 1
EXACT = Context(prec=200)


class RefusedError(Exception):
    """The message must be refused."""


class Object(list):  # type: ignore[type-arg]
    """A JSON object as pairs, in order."""


class Float(str):
    """A JSON number with a fraction or an exponent, unread."""

    __slots__ = ()


def demand(condition: object) -> None:
    if not condition:
        raise RefusedError


def read_json(payload: bytes) -> Any:
    def refuse(_: str) -> None:
        raise RefusedError

    def integer(text: str) -> int | Float:
        return int(text) if len(text) <= 20 else Float(text)  # Python refuses to read what is very long

    try:
        value = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=Object, parse_int=integer, parse_float=Float, parse_constant=refuse,
        )  # fmt: skip
    except (ValueError, RecursionError):  # also what is not UTF-8; a thousand containers are more than 32
        raise RefusedError from None
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise RefusedError from None  # a lone surrogate
    demand(depth(value) <= 32)
    return value


def depth(value: Any) -> int:
    if isinstance(value, Object):
        return 1 + max((depth(child) for _, child in value), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def known(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    demand(isinstance(value, Object))
    pairs = [(key, child) for key, child in value if key in keys]
    demand(len(dict(pairs)) == len(pairs))
    return dict(pairs)


def read_id(fields: dict[str, Any], key: str, *, needed: bool) -> int | None:
    if key not in fields:
        demand(not needed)
        return None
    demand(type(fields[key]) is int)
    demand(1 <= fields[key] <= INT64_MAX)
    return int(fields[key])


def read_number(text: Any) -> Decimal:
    demand(type(text) is str)
    demand(re.fullmatch(r"[0-9]+(\.[0-9]+)?", text))
    value = Decimal(text).normalize(EXACT)
    sign, digits, exponent = value.as_tuple()
    assert (sign, isinstance(exponent, int)) == (0, True)
    decimals = max(-int(exponent), 0)
    demand(decimals <= 18)
    demand(value.scaleb(decimals, EXACT) <= INT64_MAX)
    return value + 0


def decimals_of(value: Decimal) -> int:
    return max(-int(value.normalize(EXACT).as_tuple().exponent), 0)


Level = tuple[Decimal, Decimal]


def read_levels(fields: dict[str, Any], key: str) -> list[Level]:
    levels = fields.get(key)
    demand(type(levels) is list)
    assert levels is not None
    for level in levels:
        demand(type(level) is list)
        demand(len(level) == 2)
    return [(read_number(price), read_number(quantity)) for price, quantity in levels]


def printed_decimals(text: str) -> int:
    return len(text.partition(".")[2])


def read_time(fields: dict[str, Any], key: str) -> int | None:
    value = fields.get(key)
    return value if type(value) is int and -INT64_MAX - 1 <= value <= INT64_MAX else None


def read_text(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if type(value) is str else None


class Update:
    """What an update says."""

    def __init__(self, payload: Any, *, chains_by_previous_id: bool) -> None:
        """Read it, bytes or what `read_json` made of them, or raise `RefusedError`."""
        outermost = read_json(payload) if isinstance(payload, bytes) else payload
        fields = known(outermost, ("stream", "data", *EVENT_KEYS))
        self.stream = read_text(fields, "stream")
        if "data" in fields:
            demand(not set(EVENT_KEYS) & set(fields))
            fields = known(fields["data"], EVENT_KEYS)
        self.event = read_text(fields, "e")
        demand(self.event in (None, "depthUpdate"))
        self.symbol = read_text(fields, "s")
        self.event_time, self.transaction_time = read_time(fields, "E"), read_time(fields, "T")
        first, last = read_id(fields, "U", needed=True), read_id(fields, "u", needed=True)
        assert first is not None
        assert last is not None
        self.first, self.last = first, last
        self.previous = read_id(fields, "pu", needed=chains_by_previous_id)
        demand(self.first <= self.last)
        demand(self.previous is None or self.previous < self.last)
        self.bids, self.asks = read_levels(fields, "b"), read_levels(fields, "a")


def applied(sides: list[dict[Decimal, Decimal]], decimals: tuple[int, int], update: Update) -> None:
    """Apply an update to (bids, asks) in place, or raise `RefusedError` if it does not fit the book's scales."""
    named = [level for level in update.bids + update.asks if level[1]]
    prices = [price for side in sides for price in side] + [price for price, _ in named]
    quantities = [quantity for side in sides for quantity in side.values()] + [quantity for _, quantity in named]
    for own, numbers, new in (
        (decimals[0], prices, [price for price, _ in named]),
        (decimals[1], quantities, [quantity for _, quantity in named]),
    ):
        scale = max([own, *map(decimals_of, new)])
        demand(all(number.scaleb(scale, EXACT) <= INT64_MAX for number in numbers))
    for side, levels in zip(sides, (update.bids, update.asks), strict=True):
        for price, quantity in levels:
            if quantity:
                side[price] = quantity
            else:
                side.pop(price, None)


class Snapshot:
    """What a snapshot says: the book that it makes, as far as a message of no great size can."""

    def __init__(self, payload: Any, limit: int | None) -> None:
        """Read it, bytes or what `read_json` made of them, or raise `RefusedError`."""
        value = read_json(payload) if isinstance(payload, bytes) else payload
        fields = known(value, ("lastUpdateId", "bids", "asks", "E", "T", "bidHorizon", "askHorizon"))
        last = read_id(fields, "lastUpdateId", needed=True)
        assert last is not None
        self.last = last
        self.event_time, self.transaction_time = read_time(fields, "E"), read_time(fields, "T")
        sides = [read_levels(fields, key) for key in ("bids", "asks")]
        printed = [
            [printed_decimals(text) for text in level]
            for levels, key in zip(sides, ("bids", "asks"), strict=True)
            for level, (_, quantity) in zip(fields[key], levels, strict=True)
            if quantity
        ]
        self.decimals = tuple(max((each[number] for each in printed), default=0) for number in (0, 1))
        demand(max(self.decimals) <= 18)
        held = [[level for level in levels if level[1]] for levels in sides]
        for level in held[0] + held[1]:
            for number, decimals in zip(level, self.decimals, strict=True):
                demand(number.scaleb(decimals, EXACT) <= INT64_MAX)
        self.sides = [dict(levels) for levels in held]
        demand([len(side) for side in self.sides] == [len(levels) for levels in held])
        demand(not all(self.sides) or max(self.sides[0]) < min(self.sides[1]))
        self.horizons: list[Decimal | None] = []
        for levels, side, worst, edge in zip(sides, self.sides, (min, max), ("bidHorizon", "askHorizon"), strict=True):
            is_full = bool(levels) and (limit is None or len(levels) >= limit or edge in fields)
            demand(side or not is_full)
            self.horizons.append(worst(side) if is_full else None)
