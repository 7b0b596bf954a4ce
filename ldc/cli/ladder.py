"""One market as a block of lines: a ladder of its two sides with sizes as bars, and a column of facts.

Rule 1: a book that is not in sync shows no number, but its state and the cause.
Rule 2: pure functions of a sample and a size.
"""

import textwrap
from collections.abc import Iterable
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple, Self

from ldc.cli.samples import Sample, Side
from ldc.cli.text import Glyphs, Line, bar, beside, curve, duration, ends, fitted, fixed, width_of
from ldc.types import SyncState

PANEL_WIDTH_MIN = 38
"""Cells; a narrower ladder has no room for bars."""

PANEL_HEIGHT_MIN = 10
"""Lines: title, three levels a side, the middle, two lines of facts, and one blank."""

FACTS_WIDTH = 27
"""Cells of the column of facts beside a ladder."""

NAMED_HEIGHT_MIN = 16
"""Lines; a ladder of this height has a line of column names."""

CURVE_HEIGHT_MAX = 5
"""Lines of the curve of mid prices."""

ERROR_LINES_MAX = 4
"""Lines of the last error; the rest is cut."""

SIZE_WIDTH_MIN = 7
"""Cells; the column keeps its width when sizes get another digit."""

TOTAL_WIDTH_MIN = 46
"""Cells; a ladder of this width has a column of running totals."""

BAR_WIDTH_MAX = 60
"""Cells; a longer bar shows no more."""

MEANING = {
    "NOT_LOADED": "no snapshot has come yet",
    "FEEDER_GONE": "the feeding process has gone",
    "HALTED": "the exchange halted the market",
    "LEFT_HORIZON": "the market left the known levels",
    "STALLED": "its feed gives no sign of life",
    "TOO_OLD": "nothing shows that it is current",
    "GAP": "an update was lost",
    "STREAM_CLOSED": "the connection ended",
    "IDS_WENT_BACK": "the exchange restarted its ids",
    "SILENT": "the stream fell silent",
    "CROSSED": "best bid at or above best ask",
    "DIFFERENT": "snapshots contradict the copy",
    "REQUESTED": "a resync was requested",
    "STOPPED": "it was stopped",
    "UNKNOWN_MARKET": "the exchange does not know it",
}
"""The meaning of each cause, short enough for a narrow panel."""

WAITING = {
    SyncState.IDLE: "connecting",
    SyncState.BUFFERING: "waiting for a snapshot that fits",
    SyncState.SYNCHRONIZED: "waiting for deeper levels",
    SyncState.STOPPED: "stopped",
    SyncState.FAILED: "given up: check the spelling",
}
"""What an unreadable market waits for, by state."""


def badge(sample: Sample, glyphs: Glyphs) -> Line:
    """Return the state as one word, such as "● SYNCHRONIZED"."""
    if sample.is_readable:
        return [(f"{glyphs.dot} ", "good"), (sample.state.value, "good")]
    if sample.state is SyncState.FAILED:
        return [(f" {sample.state.value} ", "failed")]
    word = "UNREADABLE" if sample.state is SyncState.SYNCHRONIZED else sample.state.value
    return [(f" {word} ", "waiting")]


def depth_text(depth: Decimal | None) -> str:
    """Return how far from the mid price a side is known."""
    if depth is None:
        return "all"
    return f"{depth:.2f} %" if depth >= Decimal("0.1") else f"{depth:.3f} %"


def depths_text(sample: Sample) -> str:
    """Return how far both sides are known; once if both are the same."""
    bids, asks = depth_text(sample.bid_depth), depth_text(sample.ask_depth)
    return bids if bids == asks else f"{bids.removesuffix(' %')}/{asks}"


def resyncs_of(sample: Sample) -> int:
    """Return how often the book was lost."""
    return sum(sample.status.resyncs.values())


# ------------------------------------------------------------------------------------------------------- the ladder


def ladder(sample: Sample, width: int, height: int, levels_max: int | None, glyphs: Glyphs) -> list[Line]:
    """Return asks, the middle, and bids. The best prices are next to the middle."""
    if sample.bids is None or sample.asks is None:
        return notice(sample, width, height, glyphs)
    has_names = height >= NAMED_HEIGHT_MIN
    rows = max(1, (height - 1 - has_names) // 2)
    rows = rows if levels_max is None else min(rows, levels_max)
    bids, asks = sample.bids[:rows], sample.asks[:rows]
    columns = Columns.of(bids, asks, sample, width)
    largest = max((size for _, size in (*bids, *asks)), default=Decimal(1)) or Decimal(1)
    blank: Line = []
    lines = [
        *([names_line(columns)] * has_names),
        *([blank] * (rows - len(asks))),
        *reversed(side_lines(asks, largest, sample, columns, "ask", glyphs)),
        middle(sample, width, glyphs),
        *side_lines(bids, largest, sample, columns, "bid", glyphs),
    ]
    return [fitted(line, width) for line in (lines + [blank] * height)[:height]]


class Columns(NamedTuple):
    """Widths of a ladder's columns in cells, with the blanks before them."""

    price: int
    size: int
    total: int
    """0: no room for running totals."""
    bar: int

    @classmethod
    def of(cls, bids: Side, asks: Side, sample: Sample, width: int) -> Self:
        """Return the widths that these levels need; the bars get the rest."""
        both = (*bids, *asks)
        price = 1 + column_width((price for price, _ in both), sample.price_decimals)
        size = 2 + max(SIZE_WIDTH_MIN, column_width((size for _, size in both), sample.quantity_decimals))
        total = 0
        if width >= TOTAL_WIDTH_MIN:
            largest = max(sum((size for _, size in side), Decimal(0)) for side in (bids, asks))
            total = 2 + max(SIZE_WIDTH_MIN, column_width([largest], sample.quantity_decimals))
        return cls(price, size, total, max(0, min(BAR_WIDTH_MAX, width - price - size - total - 2)))


def names_line(columns: Columns) -> Line:
    """Return the names of the columns."""
    names = "price".rjust(columns.price) + "size".rjust(columns.size)
    return [(names + ("total".rjust(columns.total) if columns.total else ""), "dim")]


def side_lines(
    side: Side, largest: Decimal, sample: Sample, columns: Columns, style: str, glyphs: Glyphs
) -> list[Line]:
    """Return one line a level: price, size, running total if it fits, and the size as a bar."""
    totals = accumulate(size for _, size in side)
    lines: list[Line] = []
    for number, ((price, size), total) in enumerate(zip(side, totals, strict=True)):
        is_best = number == 0
        line: Line = [
            (fixed(price, sample.price_decimals).rjust(columns.price), f"{style} best" if is_best else style),
            (fixed(size, sample.quantity_decimals).rjust(columns.size), "best" if is_best else ""),
        ]
        if columns.total:
            line.append((fixed(total, sample.quantity_decimals).rjust(columns.total), "dim"))
        line.extend([(" ", ""), (bar(float(size / largest), columns.bar, glyphs), f"{style} bar")])
        lines.append(line)
    return lines


def column_width(values: Iterable[Decimal], decimals: int) -> int:
    """Return the width of the widest of these numbers."""
    return max((len(fixed(value, decimals)) for value in values), default=0)


def middle(sample: Sample, width: int, glyphs: Glyphs) -> Line:
    """Return the line between the sides: spread and mid."""
    if sample.mid is None or sample.spread is None:
        return rule([(" one side is empty ", "dim")], width, glyphs)
    text: Line = [(" spread ", "dim"), (fixed(sample.spread, sample.price_decimals), "strong")]
    if width >= TOTAL_WIDTH_MIN:
        text.append((f" {float(sample.spread / sample.mid) * 10_000:.2g} bp", "dim"))
    text.extend([("  mid ", "dim"), (f"{fixed(sample.mid, sample.price_decimals + 1)} ", "strong")])
    return rule(text, width, glyphs)


def rule(text: Line, width: int, glyphs: Glyphs) -> Line:
    """Return a horizontal line with a text in it."""
    left = 2
    right = max(0, width - left - sum(width_of(part) for part, _ in text) - 1)
    return [(" " + glyphs.level * (left - 1), "faint"), *text, (glyphs.level * right, "faint")]


def notice(sample: Sample, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return the lines that replace an unreadable book."""
    cause = sample.cause or ""
    lines: list[Line] = [
        badge(sample, glyphs),
        [],
        [(cause, "strong"), (": ", "dim"), (MEANING.get(cause, ""), "")] if cause else [],
        [(WAITING[sample.state], "dim")],
        [(f"for {duration(sample.state_age_s)}", "dim")],
    ]
    if width < PANEL_WIDTH_MIN + 12 and cause:
        lines[2:3] = [[(cause, "strong")], [(MEANING.get(cause, ""), "")]]
    error = sample.status.last_error
    if error and height > len(lines) + 2:
        lines.extend([[], *([(part, "dim")] for part in textwrap.wrap(one_line(error), width - 4)[:ERROR_LINES_MAX])])
    top = max(0, (height - len(lines)) // 2)
    return ([[]] * top + [centred(line, width) for line in lines] + [[]] * height)[:height]


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, which would break the screen."""
    return "".join(character if character.isprintable() else " " for character in text)


def centred(line: Line, width: int) -> Line:
    """Return the line with blanks before it."""
    taken = sum(width_of(text) for text, _ in line)
    return fitted([(" " * max(1, (width - taken) // 2), ""), *line], width)


# -------------------------------------------------------------------------------------------------------- the facts


def facts(sample: Sample, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return the facts about a market as a column of names and values, the most important first."""
    status = sample.status

    def value(name: str, text: str, style: str = "") -> Line:
        return ends([(name, "dim")], [(text, style)], width)

    market = ends([(one_line(status.market), "title")], [(status.exchange, "dim")], width)
    groups: list[list[Line]] = [[market, ends(badge(sample, glyphs), [(duration(sample.state_age_s), "dim")], width)]]
    groups.append(
        [
            value("updates", "-" if sample.updates_per_s is None else f"{sample.updates_per_s:.1f} /s"),
            value("last update", "-" if sample.age_s is None else f"{duration(sample.age_s)} ago"),
            value("update id", "-" if sample.update_id is None else str(sample.update_id)),
        ]
    )
    if sample.is_readable:
        groups.append(
            [
                value("bids known", f"{status.bid_count}  {depth_text(sample.bid_depth):>7}"),
                value("asks known", f"{status.ask_count}  {depth_text(sample.ask_depth):>7}"),
            ]
        )
    causes = sorted(status.resyncs.items(), key=lambda item: -item[1])
    groups.append(
        [
            value("resyncs", str(resyncs_of(sample)), "alert" if causes else ""),
            *(value(f"  {cause}", str(count)) for cause, count in causes),
            value("reconnects", str(status.reconnects), "alert" if status.reconnects else ""),
        ]
    )
    lines = stacked(groups, height)
    drawing = curve(sample.mids, width, min(CURVE_HEIGHT_MAX, height - len(lines) - 2), glyphs)
    if drawing:
        lines += [[]] * (height - len(lines) - 1 - len(drawing))
        lines += [curve_name(sample, width), *([(row, "curve")] for row in drawing)]
    return lines[:height]


def curve_name(sample: Sample, width: int) -> Line:
    """Return the caption of the curve: its duration, and the range between its lowest and highest point."""
    shown = [mid for mid in sample.mids[-2 * width :] if mid is not None]
    span = fixed(max(shown) - min(shown), sample.price_decimals + 1)
    return ends([(f"mid, {duration(len(sample.mids[-2 * width :]))}", "dim")], [(f"range {span}", "dim")], width)


def stacked(groups: list[list[Line]], height: int) -> list[Line]:
    """Return the groups, with blank lines between them if those fit."""
    with_blanks = [line for group in groups for line in ([], *group)][1:]
    return with_blanks if len(with_blanks) <= height else [line for group in groups for line in group]


def short_facts(sample: Sample, width: int, glyphs: Glyphs) -> list[Line]:
    """Return the facts in two lines."""
    status = sample.status
    rate = "-" if sample.updates_per_s is None else f"{sample.updates_per_s:.1f}"
    age = "-" if sample.age_s is None else duration(sample.age_s)
    known: Line = [("known ", "dim"), (depths_text(sample), "")] if sample.is_readable else []
    causes = sorted(status.resyncs.items(), key=lambda item: -item[1])
    by_cause = "  ".join(f"{cause} {count}" for cause, count in causes)
    return [
        ends([(f" {rate}", ""), ("/s  ", "dim"), (age, "")], [("  ", ""), *known, (" ", "")], width, glyphs.more),
        ends(
            [(" resyncs ", "dim"), (str(resyncs_of(sample)), "alert" if causes else ""), (f"  {by_cause}", "dim")],
            [(f"  {status.bid_count}+{status.ask_count} levels " if sample.is_readable else "", "dim")],
            width,
            glyphs.more,
        ),
    ]


# ------------------------------------------------------------------------------------------------------- the panels


def wide_panel(sample: Sample, width: int, height: int, levels_max: int | None, glyphs: Glyphs) -> list[Line]:
    """Return the ladder with the facts beside it."""
    left = width - FACTS_WIDTH - 1
    return beside(
        [ladder(sample, left, height, levels_max, glyphs), facts(sample, FACTS_WIDTH - 2, height, glyphs)],
        [left, FACTS_WIDTH - 1],
        height,
        (f"{glyphs.upright} ", "faint"),
    )


def bare_panel(sample: Sample, width: int, height: int, levels_max: int | None, glyphs: Glyphs) -> list[Line]:
    """Return the ladder under a title, with the facts below it."""
    title = ends([(" ", ""), (one_line(sample.status.market), "strong")], [*badge(sample, glyphs), (" ", "")], width)
    lines = ladder(sample, width, height - 3, levels_max, glyphs)
    return [title, *(fitted(line, width) for line in lines), *short_facts(sample, width, glyphs)]
