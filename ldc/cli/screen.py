"""The whole screen: as many ladders as fit, or a table where they do not, between a header and a footer.

Rule 1: pure functions: the same shots and the same size give the same lines, always exactly of that size.
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
from ldc.cli.samples import Shot
from ldc.cli.text import UNICODE, Glyphs, Line, aligned, bar, beside, duration, ends, fitted, fixed, plural, width_of
from ldc.types import SyncState

PANEL_WIDTH_MAX = 140
"""One market does not become wider."""

PROGRESS_WIDTH_MAX = 24

PROGRESS_WORDS_WIDTH = 48
"""Of everything in the first line but the title, the bar, and the time left, which is put where the bar leaves room."""

LEFT_WORDS_WIDTH = 15
"""Of the time left."""


class Screen(NamedTuple):
    """What is on a screen besides the markets."""

    title: str
    clock: str
    """The time of day."""
    event: str = ""
    """What happened last."""
    note: str = ""
    """What stands at the end of the last line."""
    levels_max: int | None = None
    """At most so many levels a side; None: as many as fit."""
    waited_s: float = 0.0
    """How long the markets have been out of sync that are."""
    seconds_left: float | None = None
    """About how long they will be, as `get_progress` of the manager tells; None: nobody knows yet."""


class Grid(NamedTuple):
    """How panels are laid out."""

    columns: int
    rows: int
    width: int
    height: int


def grid_for(markets: int, width: int, height: int) -> Grid | None:
    """Return the layout with the fewest rows in which every market has a ladder, or None: there is no room."""
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
    """Return how many levels a side are worth reading for a screen of that height."""
    most = max(1, height // 2)
    return most if levels_max is None else min(most, levels_max)


def drawn(shots: Sequence[Shot], screen: Screen, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    """Return exactly `height` lines of exactly `width` cells."""
    lines: list[Line] = [header(shots, screen, width, glyphs)]
    body_height = height - 2
    if body_height > 0:
        body = body_of(shots, screen, width, body_height, glyphs)
        lines.extend((body + [[]] * body_height)[:body_height])
    lines.append(footer(screen, width, glyphs))
    return [fitted(line, width) for line in lines[:height]]


def body_of(shots: Sequence[Shot], screen: Screen, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return what is between header and footer."""
    grid = grid_for(len(shots), width, height)
    if grid is None:
        return table(shots, width, height, glyphs)
    make = bare_panel
    if grid.width >= PANEL_WIDTH_MIN + FACTS_WIDTH + 2 and grid.height >= 14:
        make = wide_panel
    lines: list[Line] = []
    for row in range(grid.rows):
        panels = [
            make(shot, grid.width, grid.height, screen.levels_max, glyphs)
            for shot in shots[row * grid.columns : (row + 1) * grid.columns]
        ]
        if row:
            lines.append([(glyphs.level * width, "faint")])
        lines.extend(beside(panels, [grid.width] * len(panels), grid.height, (glyphs.upright, "faint")))
    return lines


def header(shots: Sequence[Shot], screen: Screen, width: int, glyphs: Glyphs) -> Line:
    """Return the first line: what this is, how many are in sync, and the time."""
    ready = sum(shot.is_readable for shot in shots)
    failed = sum(shot.state in (SyncState.FAILED, SyncState.STOPPED) for shot in shots)
    left: Line = [(f" {one_line(screen.title)} ", "header")]
    if ready + failed == len(shots):
        left.append((f"  {plural(ready, 'market')} in sync", "dim"))
        left.append((f"  {failed} failed" if failed else "", "alert"))
    else:
        room = width - width_of(screen.title) - PROGRESS_WORDS_WIDTH
        if screen.seconds_left is not None:
            room -= LEFT_WORDS_WIDTH
        left.extend(progress(ready, len(shots), screen, max(0, min(PROGRESS_WIDTH_MAX, room)), glyphs))
    return ends(left, [(f"{screen.clock} ", "dim")], width)


def progress(ready: int, count: int, screen: Screen, width: int, glyphs: Glyphs) -> Line:
    """Return how many markets of all are synchronized, as a bar and in words, and about how long the others take."""
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
    """Return the last line: what happened last, and what else is to be said."""
    note: Line = [(f" {one_line(screen.note)} ", "dim")] if screen.note else []
    return ends([(f" {one_line(screen.event)}", "dim")], note, width, glyphs.more)


# -------------------------------------------------------------------------------------------------------- the table


COLUMNS = ("market", "state", "bid", "ask", "spread", "/s", "age", "known", "resyncs")
WIDTHS_MIN = {"state": 14, "bid": 12, "ask": 12, "/s": 5, "age": 6}
"""So that columns do not jump when a market is lost, or a number gets another digit."""
RIGHT = frozenset({"/s", "age", "known", "resyncs"})
DROPPED_FIRST = ("known", "spread", "/s", "age", "resyncs", "ask", "state")
"""What a narrow screen goes without, in this order."""


def table(shots: Sequence[Shot], width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return a line for each market. When they are too many, those out of sync come first, and the rest is counted."""
    room = height - 1
    shown = list(shots)
    hidden = 0
    if len(shown) > room:
        shown = sorted(shown, key=lambda shot: shot.is_readable)[: max(0, room - 1)]
        hidden = len(shots) - len(shown)
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


def column(name: str, shots: Sequence[Shot], glyphs: Glyphs) -> list[Line]:
    """Return the cells of a column."""
    if name == "market":
        return [[(one_line(shot.status.market), "strong")] for shot in shots]
    if name == "state":
        return [badge(shot, glyphs) for shot in shots]
    numbers = texts(name, shots)
    if name == "bid":  # where there is no price, there is room to say why; so no column moves for it
        return [
            [(number, "bid") if shot.is_readable else (shot.cause or "", "")]
            for number, shot in zip(numbers, shots, strict=True)
        ]
    return [[(number, "ask" if name == "ask" else "")] for number in numbers]


def texts(name: str, shots: Sequence[Shot]) -> list[str]:
    """Return the numbers of a column; blank where a book cannot be read."""
    if name in ("bid", "ask", "spread"):
        numbers = {
            "bid": [None if shot.best_bid is None else shot.best_bid[0] for shot in shots],
            "ask": [None if shot.best_ask is None else shot.best_ask[0] for shot in shots],
            "spread": [shot.spread for shot in shots],
        }[name]
        return aligned(
            [
                "" if number is None else fixed(number, shot.price_decimals)
                for number, shot in zip(numbers, shots, strict=True)
            ]
        )
    if name == "/s":
        return ["" if shot.updates_per_s is None else f"{shot.updates_per_s:.1f}" for shot in shots]
    if name == "age":
        return ["" if shot.age_s is None else duration(shot.age_s) for shot in shots]
    if name == "known":
        return [depths_text(shot) if shot.is_readable else "" for shot in shots]
    return [str(resyncs_of(shot)) for shot in shots]
