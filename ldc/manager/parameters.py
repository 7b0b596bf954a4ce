"""Checks of what a caller passes: one rule for each type, wherever a parameter of that type is.

Rule 1: a wrong type is a ``TypeError``, a wrong value a ``ValueError``. The text names the parameter and repeats what
    was passed. The constructor of the manager raises ``ValueError`` for both.
Rule 2: numbers of numpy, ``Fraction`` and ``Decimal`` are numbers. ``bool`` is none, and neither is a text.

| a parameter is | accepted | returned |
| --- | --- | --- |
| an integer | ``int``, and what has ``__index__``, as the integers of numpy | ``int`` |
| a number | every ``numbers.Real``, ``Decimal`` | ``float`` |
| a flag | ``True``, ``False`` | as it is |
| markets | one ``str``, one (exchange, market), or an iterable of them | a list of ``str`` |
"""

import contextlib
import math
import numbers
import operator
import threading
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from ldc.manager import names


@contextlib.contextmanager
def wrong_types_as_values() -> Iterator[None]:
    """Raise ``ValueError`` for a wrong type, as for a wrong value."""
    try:
        yield
    except TypeError as error:
        raise ValueError(str(error)) from None


def integer(name: str, value: Any) -> int:
    """Return an integer."""
    if type(value) is int:  # what nearly all callers pass, found without an exception's machinery
        return value
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return operator.index(value)
    raise TypeError(f"{name} is an int, not {value!r}")


def number(name: str, value: Any) -> float:
    """Return a number; NaN is none."""
    if type(value) is int:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise TypeError(f"{name} is a number, not {value!r}")
    as_float = float(value)
    if math.isnan(as_float):
        raise ValueError(f"{name} is a number, not NaN")
    return as_float


def seconds(name: str, value: Any) -> float:
    """Return a positive, finite number of seconds."""
    try:
        found = number(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} is a positive number of seconds, not {value!r}") from None
    if not 0 < found < math.inf:
        raise ValueError(f"{name} is a positive number of seconds, not {value!r}")
    return found


def age(value: Any) -> float:
    """Return a `max_age`. NaN is one: it allows nothing."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise TypeError(f"max_age is a number of seconds, or None, not {value!r}")
    return float(value)


def timeout(value: Any) -> float | None:
    """Return a timeout, at most ``threading.TIMEOUT_MAX``; None: without end."""
    if value is None:
        return None
    try:
        return min(number("timeout", value), threading.TIMEOUT_MAX)
    except (TypeError, ValueError) as error:
        raise type(error)(f"timeout is a number of seconds, or None to wait without end, not {value!r}") from None


def flag(name: str, value: Any) -> bool:
    """Return True or False. No text and no number stands for one."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}")
    return value


def optional_function(name: str, value: Any) -> Any:
    """Return what can be called, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} is a function, or None, not {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """Return a text, as a plain ``str``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {value!r}")
    return str(value)


def base_uris(restful: Any, websocket: Any) -> tuple[list[str], list[str]] | None:
    """Return both as lists, if one of them is a list; otherwise None: each is one address or none."""
    if not any(isinstance(value, list | tuple) for value in (restful, websocket)):
        return None
    lists: list[list[str]] = []
    for name, value in (("restful_base_uri", restful), ("websocket_base_uri", websocket)):
        values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
        lists.append([text(name, each) for each in values])
    return lists[0], lists[1]


def markets(value: Any) -> list[str]:
    """Return one market or many as a list of texts; a pair of an exchange and a market becomes "exchange:market"."""
    if isinstance(value, str):
        return [str(value)]
    if is_address(value):
        return [names.joined(*value)]
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"markets is a str such as 'BTCUSDT', or several in a list, not {value!r}")
    found = list(value)
    for market in found:
        if not isinstance(market, str) and not _is_pair(market):
            raise TypeError(f"markets holds texts such as 'BTCUSDT', not {market!r}")
    return [names.joined(*market) if isinstance(market, tuple) else str(market) for market in found]


def address(value: tuple[Any, ...]) -> str:
    """Return a pair of an exchange and a market as "exchange:market"."""
    if not _is_pair(value):
        raise TypeError(f"a market is a text such as 'BTCUSDT', or (exchange, market), not {value!r}")
    return names.joined(*value)


def is_address(value: Any) -> bool:
    """Whether a value is one market as (exchange, market). Two markets in a tuple are not: the first is no exchange."""
    return _is_pair(value) and names.is_like_exchange(value[0])


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, str) for each in value)


SECONDS_MAX = 3600
"""An id up to this is taken for a timeout in the wrong place, if the book's own is above UPDATE_ID_MIN."""

UPDATE_ID_MIN = 1_000_000
"""Below it a book may be so young that a small id is a real one."""


def update_id(value: Any, present: int | None) -> int:
    """Return an `after_update_id`. A timeout in its place would make a loop of waits spin."""
    found = integer("after_update_id", value)
    if 0 < found <= SECONDS_MAX and present is not None and present > UPDATE_ID_MIN:
        raise ValueError(
            f"after_update_id={found} is no update id of a book that stands at {present}; a timeout is passed by its "
            f"name, timeout={found}"
        )
    return found


def levels_wanted(
    limit_count: int | None, limit: int | None, min_levels: Any = None, threshold_volume: Any = None
) -> int | None:
    """Return the maximum number of levels, which has two names."""
    if limit is not None:
        if limit_count is not None:
            raise TypeError("limit_count and limit are two names of one thing; pass one of them")
        limit_count = limit
    if isinstance(threshold_volume, numbers.Real | Decimal) and float(threshold_volume) < 0:
        raise ValueError(f"threshold_volume is a sum of price x quantity, not {threshold_volume!r}")
    if min_levels is not None:
        least = integer("min_levels", min_levels)
        if threshold_volume is not None:
            raise ValueError("min_levels and threshold_volume exclude each other")
        if limit_count is not None and limit_count < least:
            raise ValueError(f"min_levels={least} is more than the limit of {limit_count} levels")
    return limit_count
