"""The whole screen: a header, a ladder for each market or a table if they do not fit, and a footer.

Rule 1: pure functions. The same samples and size give the same lines, always of exactly that size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ldc.cli.ladder import (
    FACTS_WIDTH,
    PANEL_HEIGHT_MIN,
    PANEL_WIDTH_MIN,
    badge,
    bare_panel,
    depths_text,
    one_line,
    resyncs_of,
    wide_panel,
)
from ldc.cli.samples import Sample
from ldc.cli.text import UNICODE, Glyphs, Line, aligned, bar, beside, duration, ends, fitted, fixed, plural, width_of
from ldc.types import SyncState

PANEL_WIDTH_MAX = 140
"""Cells: the widest panel of one market."""

PROGRESS_WIDTH_MAX = 24
"""Cells: the longest progress bar."""

PROGRESS_WORDS_WIDTH = 48
"""Cells of the first line except the title, the bar, and the time left."""

LEFT_WORDS_WIDTH = 15
"""Cells of the time left."""


class Screen(NamedTuple):
    """The content of a screen besides the markets."""

    title: str
    clock: str
    """The time of day."""
    event: str = ""
    """The latest log message."""
    note: str = ""
    """The end of the last line."""
    selected: int | None = None
    """The market that is shown alone; None: all of them."""
    levels_max: int | None = None
    """Maximum levels a side; None: as many as fit."""
    waited_s: float = 0.0
    """Seconds since all markets were last in sync."""
    seconds_left: float | None = None
    """About how many seconds until they are, from the manager's `get_progress`; None: not known yet."""


class Grid(NamedTuple):
    """The layout of the panels."""

    columns: int
    rows: int
    width: int
    height: int


def grid_for(markets: int, width: int, height: int) -> Grid | None:
    """Return the layout with the fewest rows in which every market has a ladder, or None if they do not fit."""
    if width < PANEL_WIDTH_MIN or markets == 0:
        return None
    columns = min(markets, (width + 1) // (PANEL_WIDTH_MIN + 1))
    rows = -(-markets // columns)
    columns = -(-markets // rows)  # no column more than these rows need
    panel_height = (height - (rows - 1)) // rows
    if panel_height < PANEL_HEIGHT_MIN:
        return None
    return Grid(columns, rows, min(PANEL_WIDTH_MAX, (width - (columns - 1)) // columns), panel_height)


def levels_for(height: int, levels_max: int | None) -> int:
    """Return how many levels a side a screen of that height can show."""
    most = max(1, height // 2)
    return most if levels_max is None else min(most, levels_max)


def drawn(samples: Sequence[Sample], screen: Screen, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    """Return exactly `height` lines of exactly `width` cells."""
    lines: list[Line] = [header(samples, screen, width, glyphs)]
    body_height = height - 2
    if body_height > 0:
        shown = samples if screen.selected is None else samples[screen.selected : screen.selected + 1]
        body = body_of(shown, screen, width, body_height, glyphs)
        lines.extend((body + [[]] * body_height)[:body_height])
    lines.append(footer(screen, width, glyphs))
    return [fitted(line, width) for line in lines[:height]]


def body_of(samples: Sequence[Sample], screen: Screen, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return the lines between header and footer."""
    grid = grid_for(len(samples), width, height)
    if grid is None:
        return table(samples, width, height, glyphs)
    make = bare_panel
    if grid.width >= PANEL_WIDTH_MIN + FACTS_WIDTH + 2 and grid.height >= 14:
        make = wide_panel
    lines: list[Line] = []
    for row in range(grid.rows):
        panels = [
            make(sample, grid.width, grid.height, screen.levels_max, glyphs)
            for sample in samples[row * grid.columns : (row + 1) * grid.columns]
        ]
        if row:
            lines.append([(glyphs.level * width, "faint")])
        lines.extend(beside(panels, [grid.width] * len(panels), grid.height, (glyphs.upright, "faint")))
    return lines


def header(samples: Sequence[Sample], screen: Screen, width: int, glyphs: Glyphs) -> Line:
    """Return the first line: the title, how many markets are in sync, and the time."""
    ready = sum(sample.is_readable for sample in samples)
    failed = sum(sample.state in (SyncState.FAILED, SyncState.STOPPED) for sample in samples)
    left: Line = [(f" {one_line(screen.title)} ", "header")]
    if ready + failed == len(samples):
        left.append((f"  {plural(ready, 'market')} in sync", "dim"))
        left.append((f"  {failed} failed" if failed else "", "alert"))
    else:
        room = width - width_of(screen.title) - PROGRESS_WORDS_WIDTH
        if screen.seconds_left is not None:
            room -= LEFT_WORDS_WIDTH
        left.extend(progress(ready, len(samples), screen, max(0, min(PROGRESS_WIDTH_MAX, room)), glyphs))
    return ends(left, [(f"{screen.clock} ", "dim")], width)


def progress(ready: int, count: int, screen: Screen, width: int, glyphs: Glyphs) -> Line:
    """Return how many markets are synchronized, as a bar and in words, and about how long the others need."""
    filled = bar(ready / count, width, glyphs)
    seconds_left = screen.seconds_left
    return [
        ("  synchronizing ", "dim"),
        (filled, "progress"),
        (glyphs.level * (width - width_of(filled)), "faint"),
        (f" {ready} of {count}", ""),
        (f"  {duration(screen.waited_s)}", "dim"),
        ("" if seconds_left is None else f"  ~{duration(math.ceil(seconds_left))} left", ""),
    ]


def footer(screen: Screen, width: int, glyphs: Glyphs) -> Line:
    """Return the last line: the latest log message, and the note."""
    note: Line = [(f" {one_line(screen.note)} ", "dim")] if screen.note else []
    return ends([(f" {one_line(screen.event)}", "dim")], note, width, glyphs.more)


# -------------------------------------------------------------------------------------------------------- the table


COLUMNS = ("market", "state", "bid", "ask", "spread", "/s", "age", "known", "resyncs")
WIDTHS_MIN = {"state": 14, "bid": 12, "ask": 12, "/s": 5, "age": 6}
"""Cells. The columns keep their widths when a market is lost or a number gets another digit."""
RIGHT = frozenset({"/s", "age", "known", "resyncs"})
DROPPED_FIRST = ("known", "spread", "/s", "age", "resyncs", "ask", "state")
"""The columns that a narrow screen omits, in this order."""


def table(samples: Sequence[Sample], width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return a line for each market. If they do not fit, those out of sync come first, and the rest is counted."""
    room = height - 1
    shown = list(samples)
    hidden = 0
    if len(shown) > room:
        shown = sorted(shown, key=lambda sample: sample.is_readable)[: max(0, room - 1)]
        hidden = len(samples) - len(shown)
    cells = {name: column(name, shown, glyphs) for name in COLUMNS}
    names = list(COLUMNS)
    widths = {
        name: max([WIDTHS_MIN.get(name, len(name)), *(sum(width_of(text) for text, _ in cell) for cell in cells[name])])
        for name in names
    }
    for name in DROPPED_FIRST:
        if sum(widths[each] + 2 for each in names) <= width:
            break
        names.remove(name)
    lines = [row_of([[(name, "dim")] for name in names], names, widths)]
    lines.extend(row_of([cells[name][number] for name in names], names, widths) for number in range(len(shown)))
    if hidden:
        lines.append([(f" {glyphs.more} and {hidden} more", "dim")])
    return lines


def row_of(cells: Sequence[Line], names: Sequence[str], widths: dict[str, int]) -> Line:
    """Return one line of the table."""
    line: Line = []
    for name, cell in zip(names, cells, strict=True):
        blanks = " " * (widths[name] - sum(width_of(text) for text, _ in cell))
        line.extend([(" ", ""), (blanks, ""), *cell] if name in RIGHT else [(" ", ""), *cell, (blanks, "")])
        line.append((" ", ""))
    return line


def column(name: str, samples: Sequence[Sample], glyphs: Glyphs) -> list[Line]:
    """Return the cells of a column."""
    if name == "market":
        return [[(one_line(sample.status.market), "strong")] for sample in samples]
    if name == "state":
        return [badge(sample, glyphs) for sample in samples]
    numbers = texts(name, samples)
    if name == "bid":  # the cause takes the place of a missing price, so that no column moves
        return [
            [(number, "bid") if sample.is_readable else (sample.cause or "", "")]
            for number, sample in zip(numbers, samples, strict=True)
        ]
    return [[(number, "ask" if name == "ask" else "")] for number in numbers]


def texts(name: str, samples: Sequence[Sample]) -> list[str]:
    """Return the numbers of a column; blank for an unreadable book."""
    if name in ("bid", "ask", "spread"):
        numbers = {
            "bid": [None if sample.best_bid is None else sample.best_bid[0] for sample in samples],
            "ask": [None if sample.best_ask is None else sample.best_ask[0] for sample in samples],
            "spread": [sample.spread for sample in samples],
        }[name]
        return aligned(
            [
                "" if number is None else fixed(number, sample.price_decimals)
                for number, sample in zip(numbers, samples, strict=True)
            ]
        )
    if name == "/s":
        return ["" if sample.updates_per_s is None else f"{sample.updates_per_s:.1f}" for sample in samples]
    if name == "age":
        return ["" if sample.age_s is None else duration(sample.age_s) for sample in samples]
    if name == "known":
        return [depths_text(sample) if sample.is_readable else "" for sample in samples]
    return [str(resyncs_of(sample)) for sample in samples]
