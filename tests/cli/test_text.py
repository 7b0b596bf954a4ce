"""Lines of cells: fitting, cutting, the format of numbers and durations."""

from decimal import Decimal

import pytest
from cli_kit import text_of

from ldc.cli.text import ASCII, UNICODE, aligned, bar, beside, curve, decimals_of, duration, ends, fitted, width_of


@pytest.mark.parametrize("width", range(14))
def test_a_fitted_line_has_exactly_its_width_also_where_characters_are_wide(width: int) -> None:
    line = [("a币安人生", "bold"), ("USDT", "")]
    assert width_of(text_of(fitted(line, width))) == width
    assert text_of(fitted(line, 13)) == "a币安人生USDT"
    assert text_of(fitted(line, 4)) == "a币 "  # half of a wide character cannot be shown


def test_two_ends_are_as_far_apart_as_the_width_allows_and_the_right_one_wins() -> None:
    left, right = [("left side", "")], [("right", "")]
    assert text_of(ends(left, right, 20)) == "left side      right"
    assert text_of(ends(left, right, 10)) == "left right"[:5] + "right"
    assert text_of(ends(left, right, 11, "~")) == "left~ right"
    assert text_of(ends(left, right, 3)) == "rig"


def test_blocks_stand_beside_each_other_whatever_their_lengths() -> None:
    lines = beside([[[("a", "")]], [[("b", "")], [("c", "")]]], [2, 3], 3, ("|", ""))
    assert [text_of(line) for line in lines] == ["a |b  ", "  |c  ", "  |   "]


def test_a_bar_is_as_long_as_its_fraction_to_an_eighth_and_never_empty_above_zero() -> None:
    assert bar(0, 10, UNICODE) == ""
    assert bar(1e-9, 10, UNICODE) == "▏"
    assert bar(0.5, 10, UNICODE) == "█████"
    assert bar(0.55, 10, UNICODE) == "█████▌"
    assert bar(2.0, 10, UNICODE) == "█" * 10
    assert bar(0.55, 10, ASCII) == "######"
    assert bar(0.5, 0, UNICODE) == ""


def test_a_curve_goes_through_its_values_and_leaves_gaps() -> None:
    assert curve([0.0, 1.0], 4, 1, UNICODE) == ["⡸"]  # the lowest dot on the left, the three above it on the right
    assert curve([0.0, 0.0, None, None, 1.0, 1.0], 4, 2, UNICODE) == ["⠀⠀⠉", "⣀⠀⠀"]
    assert curve([5.0] * 9, 3, 1, UNICODE) == ["⠤⠤⠤"]
    assert curve([None, None], 3, 1, UNICODE) == []
    assert curve([1.0, 2.0], 3, 0, UNICODE) == []
    assert curve([1.0, 2.0], 3, 1, ASCII) == []
    rising = curve([float(number) for number in range(100)], 10, 3, UNICODE)
    assert [len(row) for row in rising] == [10, 10, 10]


def test_trailing_zeros_are_not_counted_as_decimals() -> None:
    assert decimals_of([Decimal("61840.10000000"), Decimal("61840.12000000")]) == 2
    assert decimals_of([Decimal("1E+3"), Decimal("700.000")]) == 0
    assert decimals_of([Decimal("0E-8")]) == 0
    assert decimals_of([]) == 0


def test_numbers_are_aligned_at_their_points() -> None:
    assert aligned(["61840.01", "0.102931", "", "7"]) == ["61840.01    ", "    0.102931", " " * 12, "    7       "]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"), (0.0434, "43 ms"),
        (0.9994, "999 ms"), (0.9996, "1.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99, "99 s"), (100, "2 min"),
        (3569, "59 min"), (3571, "1 h 00"), (7500, "2 h 05"), (86_400 * 5, "5 d"), (86_400 * 999, "999 d"),
    ],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_a_reader_would_choose(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert len(text) <= 8
