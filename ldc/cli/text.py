"""Lines of styled text for a screen of fixed cells: cutting, filling, aligning.

Rule 1: a line is a list of spans, a span is text and the name of a style. `ldc.cli.terminal` defines the styles.
Rule 2: widths are cells of a terminal, not characters: a market may be called 币安人生USDT.
Rule 3: nothing here knows a market, a clock or a terminal.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

Span = tuple[str, str]
Line = list[Span]


class Glyphs(NamedTuple):
    """The characters to draw with."""

    eighths: str
    """Characters of a bar's last cell, from an eighth to the whole."""
    upright: str
    level: str
    dot: str
    more: str
    has_braille: bool


UNICODE = Glyphs("▏▎▍▌▋▊▉█", "│", "─", "●", "…", has_braille=True)
ASCII = Glyphs("#", "|", "-", "*", "~", has_braille=False)
"""For terminals whose encoding lacks the others."""


def width_of(text: str) -> int:
    """Return the width of a text in cells."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def fitted(line: Line, width: int) -> Line:
    """Return the line cut, or filled with blanks, to exactly `width` cells."""
    result: Line = []
    left = width
    for text, style in line:
        cut = text if width_of(text) <= left else _cut(text, left)
        if cut:
            result.append((cut, style))
            left -= width_of(cut)
        if cut != text:
            break
    if left > 0:
        result.append((" " * left, ""))
    return result


def _cut(text: str, width: int) -> str:
    taken = 0
    for number, character in enumerate(text):
        taken += width_of(character)
        if taken > width:
            return text[:number]
    return text


def ends(left: Line, right: Line, width: int, more: str = "") -> Line:
    """Return one line with the two at its ends. If they do not fit, the left one is cut.

    `more` and a blank mark the cut.
    """
    right_width = sum(width_of(text) for text, _ in right)
    room = width - right_width
    if room <= 0:
        return fitted(right, width)
    if more and sum(width_of(text) for text, _ in left) > room - 1 >= 1:
        return [*fitted(left, room - 2), (f"{more} ", "dim"), *right]
    return [*fitted(left, room), *right]


def beside(
    columns: Sequence[Sequence[Line]], widths: Sequence[int], height: int, between: Span = ("", "")
) -> list[Line]:
    """Return blocks of lines side by side, each cut or filled to its width and to the height."""
    lines: list[Line] = []
    for row in range(height):
        line: Line = []
        for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
            if number and between[0]:
                line.append(between)
            line.extend(fitted(column[row] if row < len(column) else [], width))
        lines.append(line)
    return lines


def bar(fraction: float, width: int, glyphs: Glyphs) -> str:
    """Return a bar of that fraction of the width, to an eighth of a cell. A fraction above 0 is always visible."""
    steps = len(glyphs.eighths)
    filled = round(min(1.0, max(0.0, fraction)) * width * steps)
    if fraction > 0 and width > 0:
        filled = max(1, filled)
    whole, rest = divmod(filled, steps)
    return glyphs.eighths[-1] * whole + (glyphs.eighths[rest - 1] if rest else "")


def curve(values: Sequence[float | None], width: int, height: int, glyphs: Glyphs) -> list[str]:
    """Return the latest values as a curve of dots, two values a column and four steps a row. None leaves a gap.

    At most `height` rows; none without a value, or if the encoding lacks the characters.
    """
    shown = values[-2 * width :]
    known = [value for value in shown if value is not None]
    if not known or height < 1 or not glyphs.has_braille:
        return []
    low, high = min(known), max(known)
    top = 4 * height - 1
    cells = [[0] * -(-len(shown) // 2) for _ in range(height)]
    before: int | None = None
    for number, value in enumerate(shown):
        if value is None:
            before = None
            continue
        level = round((value - low) / (high - low) * top) if high > low else top // 2
        # Vertical strokes join values that are further apart than one step.
        start = level if before is None else before + (level > before) - (level < before)
        for step in range(min(start, level), max(start, level) + 1):
            cells[height - 1 - step // 4][number // 2] |= _DOTS[number % 2][step % 4]
        before = level
    return ["".join(chr(_BRAILLE + cell) for cell in row) for row in cells]


_BRAILLE = 0x2800
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""The bits of the left and the right column's dots, the lowest first."""


def decimals_of(values: Iterable[Decimal]) -> int:
    """Return how many decimals these values need, trailing zeros not counted."""
    most = 0
    for value in values:
        exponent = value.normalize().as_tuple().exponent
        if isinstance(exponent, int):
            most = max(most, -exponent)
    return most


def fixed(value: Decimal | float, decimals: int) -> str:
    """Return a number with that many decimals, never in scientific notation."""
    return f"{value:.{decimals}f}"


def aligned(numbers: Sequence[str]) -> list[str]:
    """Return numbers of different decimals with aligned points; a text without a point ends there."""
    whole = max((width_of(number.partition(".")[0]) for number in numbers), default=0)
    rest = max((len(number) - len(number.partition(".")[0]) for number in numbers), default=0)
    return [
        " " * (whole - width_of(before)) + before + (point + after).ljust(rest)
        for before, point, after in (number.partition(".") for number in numbers)
    ]


def duration(seconds: float) -> str:
    """Return a duration in a readable unit, in at most 8 characters: 43 ms, 1.2 s, 4 min, 2 h 05."""
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 100 * 60:
        return f"{minutes // 60} h {minutes % 60:02}"
    return f"{minutes // 1440} d"


def plural(count: int, noun: str) -> str:
    """Return "1 market", "2 markets"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
