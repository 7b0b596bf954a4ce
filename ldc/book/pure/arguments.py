"""Arguments of reads, checked: the same for a book and for a shared one."""

import math
import operator
from decimal import Decimal
from typing import SupportsIndex


def wanted_levels(limit: SupportsIndex | None) -> int | None:
    """Return how many levels a read may return, or None: all. ``ValueError`` for a negative number."""
    if limit is None:
        return None
    wanted = operator.index(limit)
    if wanted < 0:
        raise ValueError(f"limit must not be negative, and is {wanted}")
    return wanted


def checked_threshold(value: float | Decimal | None) -> float | None:
    """Return a threshold volume as a float, or None. ``ValueError`` for NaN."""
    if value is None:
        return None
    if math.isnan(value):  # raises TypeError itself for what is no real number
        raise ValueError("threshold_volume must not be NaN")
    return float(value)


def check_number(number: object) -> None:
    """Raise ``ValueError`` unless it is a type that prices and quantities may be read as."""
    if not (number is float or number is Decimal or number is str):
        raise ValueError(f"number must be float, Decimal or str, not {number!r}")
