"""One market as a block of lines: its ladder with sizes as bars, and the facts about it.

Rule 1: no number of a book that is not in sync is shown; its place is taken by the state and the cause.
Rule 2: pure functions of a shot and a size.
"""

from collections.abc import Iterable
from decimal import Decimal
from itertools import accumulate

from ldc.cli_shots import Shot, Side
from ldc.cli_text import Glyphs, Line, bar, beside, duration, ends, fitted, fixed, sparkline, width_of
from ldc.values import SyncState

__all__ = ["FACTS_WIDTH", "PANEL_HEIGHT_MIN", "PANEL_WIDTH_MIN", "badge", "bare_panel", "horizon_text", "wide_panel"]

PANEL_WIDTH_MIN = 38
"""A ladder that is narrower has no room for bars."""

PANEL_HEIGHT_MIN = 10
"""Title, three levels a side, the middle, two lines of facts, and one blank."""

FACTS_WIDTH = 27
"""Of the column of facts beside a ladder."""

TOTAL_WIDTH_MIN = 46
"""From here on the ladder has a column of running totals."""

BAR_WIDTH_MAX = 60
"""A longer bar says no more."""

MEANING = {
    "NOT_LOADED": "no snapshot has come yet",
    "LEFT_HORIZON": "the market left the known levels",
    "GAP": "an update was lost",
    "STREAM_CLOSED": "the connection ended",
    "IDS_WENT_BACK": "the exchange counts its ids anew",
    "SILENT": "the stream fell silent",
    "CROSSED": "best bid at or above best ask",
    "REQUESTED": "a new start was asked for",
    "STOPPED": "it was stopped",
    "UNKNOWN_MARKET": "the exchange does not know it",
}
"""Causes, as long as a narrow panel is wide."""

WAITING = {
    SyncState.IDLE: "connecting",
    SyncState.BUFFERING: "keeping updates, waiting for a snapshot",
    SyncState.SYNCHRONIZED: "waiting for deeper levels",
    SyncState.STOPPED: "stopped",
    SyncState.FAILED: "given up: check the spelling",
}
"""What a market that cannot be read waits for."""


def badge(shot: Shot, glyphs: Glyphs) -> Line:
    """Return the state in a word, such as "● SYNCHRONIZED"."""
    if shot.is_readable:
        return [(f"{glyphs.dot} ", "good"), (shot.state.value, "good")]
    if shot.state is SyncState.FAILED:
        return [(f" {shot.state.value} ", "failed")]
    word = "UNREADABLE" if shot.state is SyncState.SYNCHRONIZED else shot.state.value
    return [(f" {word} ", "waiting")]


def horizon_text(depth: Decimal | None) -> str:
    """Return how far a side is known."""
    return "all" if depth is None else f"{depth:.2f} %"


def resyncs_of(shot: Shot) -> int:
    """Return how often the market was lost."""
    return sum(shot.status.resyncs.values())


# ------------------------------------------------------------------------------------------------------- the ladder


def ladder(shot: Shot, width: int, height: int, levels_max: int | None, glyphs: Glyphs) -> list[Line]:
    """Return asks, the middle, and bids: best prices next to the middle, the worst of each side outermost."""
    if shot.bids is None or shot.asks is None:
        return notice(shot, width, height, glyphs)
    rows = max(1, (height - 1) // 2)
    rows = rows if levels_max is None else min(rows, levels_max)
    bids, asks = shot.bids[:rows], shot.asks[:rows]
    bid_lines = side_lines(bids, asks, shot, width, "bid", glyphs)
    ask_lines = side_lines(asks, bids, shot, width, "ask", glyphs)
    blank: Line = []
    lines = [*([blank] * (rows - len(ask_lines))), *reversed(ask_lines), middle(shot, width, glyphs), *bid_lines]
    return [fitted(line, width) for line in (lines + [blank] * height)[:height]]


def side_lines(side: Side, other: Side, shot: Shot, width: int, style: str, glyphs: Glyphs) -> list[Line]:
    """Return one line a level: price, size, running total if there is room, and the size as a bar."""
    both = (*side, *other)
    prices = [fixed(price, shot.price_decimals) for price, _ in side]
    sizes = [fixed(size, shot.quantity_decimals) for _, size in side]
    price_width = column_width((price for price, _ in both), shot.price_decimals)
    size_width = max(column_width((size for _, size in both), shot.quantity_decimals), 7)
    totals: list[str] = []
    total_width = 0
    if width >= TOTAL_WIDTH_MIN:
        decimals = min(shot.quantity_decimals, 3)
        totals = [fixed(total, decimals) for total in accumulate(size for _, size in side)]
        most = max(sum((size for _, size in each), Decimal(0)) for each in (side, other))
        total_width = max(column_width([most], decimals), 7) + 2
    bar_width = min(BAR_WIDTH_MAX, width - price_width - size_width - total_width - 4)
    largest = max((size for _, size in both), default=Decimal(1)) or Decimal(1)
    lines: list[Line] = []
    for number, (_, size) in enumerate(side):
        line: Line = [
            (prices[number].rjust(price_width + 1), f"{style} best" if number == 0 else style),
            (sizes[number].rjust(size_width + 2), "best" if number == 0 else ""),
        ]
        if totals:
            line.append((totals[number].rjust(total_width), "dim"))
        if bar_width > 0:
            line.extend([(" ", ""), (bar(float(size / largest), bar_width, glyphs), f"{style} bar")])
        lines.append(line)
    return lines


def column_width(values: Iterable[Decimal], decimals: int) -> int:
    """Return the width of the widest of these numbers."""
    return max((len(fixed(value, decimals)) for value in values), default=0)


def middle(shot: Shot, width: int, glyphs: Glyphs) -> Line:
    """Return the line between the sides: spread and mid."""
    if shot.mid is None or shot.spread is None:
        return rule([(" one side is empty ", "dim")], width, glyphs)
    mid = fixed(shot.mid, shot.price_decimals + 1)
    text: Line = [
        (" spread ", "dim"),
        (fixed(shot.spread, shot.price_decimals), "strong"),
        ("  mid ", "dim"),
        (f"{mid} ", "strong"),
    ]
    return rule(text, width, glyphs)


def rule(text: Line, width: int, glyphs: Glyphs) -> Line:
    """Return a horizontal line with a text in it."""
    left = 2
    right = max(0, width - left - sum(width_of(part) for part, _ in text) - 1)
    return [(" " + glyphs.level * (left - 1), "faint"), *text, (glyphs.level * right, "faint")]


def notice(shot: Shot, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return what is shown in the place of a book that cannot be read."""
    cause = shot.cause or ""
    lines: list[Line] = [
        badge(shot, glyphs),
        [],
        [(cause, "strong"), (": ", "dim"), (MEANING.get(cause, ""), "")] if cause else [],
        [(WAITING[shot.state], "dim")],
        [(f"for {duration(shot.state_age_s)}", "dim")],
    ]
    if width < PANEL_WIDTH_MIN + 12 and cause:
        lines[2:3] = [[(cause, "strong")], [(MEANING.get(cause, ""), "")]]
    error = shot.status.last_error
    if error and height > len(lines) + 2:
        lines.extend([[], [(one_line(error), "dim")]])
    top = max(0, (height - len(lines)) // 2)
    return ([[]] * top + [centred(line, width) for line in lines] + [[]] * height)[:height]


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, which would tear the screen."""
    return "".join(character if character.isprintable() else " " for character in text)


def centred(line: Line, width: int) -> Line:
    """Return the line with blanks before it."""
    taken = sum(width_of(text) for text, _ in line)
    return fitted([(" " * max(1, (width - taken) // 2), ""), *line], width)


# -------------------------------------------------------------------------------------------------------- the facts


def facts(shot: Shot, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return what there is to know about a market as a column of names and values, the most needed first."""
    status = shot.status

    def value(name: str, text: str, style: str = "") -> Line:
        return ends([(name, "dim")], [(text, style)], width)

    groups: list[list[Line]] = [[ends(badge(shot, glyphs), [(duration(shot.state_age_s), "dim")], width)]]
    if shot.mid is not None and shot.spread is not None:
        groups.append(
            [
                value("mid", fixed(shot.mid, shot.price_decimals + 1), "strong"),
                value("spread", f"{fixed(shot.spread, shot.price_decimals)}  {shot.spread / shot.mid * 10_000:.2f} bp"),
            ]
        )
    groups.append(
        [
            value("updates", "-" if shot.updates_per_s is None else f"{shot.updates_per_s:.1f} /s"),
            value("last one", "-" if shot.age_s is None else f"{duration(shot.age_s)} ago"),
            value("update id", "-" if shot.update_id is None else str(shot.update_id)),
        ]
    )
    if shot.is_readable:
        groups.append(
            [
                value("bids known", f"{status.bid_count}  {horizon_text(shot.bid_depth):>7}"),
                value("asks known", f"{status.ask_count}  {horizon_text(shot.ask_depth):>7}"),
            ]
        )
    causes = sorted(status.resyncs.items(), key=lambda item: -item[1])
    groups.append(
        [
            value("resyncs", str(resyncs_of(shot)), "alert" if causes else ""),
            *(value(f"  {cause}", str(count)) for cause, count in causes),
            value("reconnects", str(status.reconnects), "alert" if status.reconnects else ""),
        ]
    )
    lines = stacked(groups, height)
    curve = sparkline(shot.mids, width, glyphs)
    if curve.strip() and len(lines) + 3 <= height:
        lines += [[]] * (height - len(lines) - 2)
        lines += [[(f"mid, last {duration(min(width, len(shot.mids)))}", "dim")], [(curve, "curve")]]
    return lines[:height]


def stacked(groups: list[list[Line]], height: int) -> list[Line]:
    """Return the groups with blank lines between them if there is room for these."""
    with_blanks = [line for group in groups for line in ([], *group)][1:]
    return with_blanks if len(with_blanks) <= height else [line for group in groups for line in group]


def short_facts(shot: Shot, width: int) -> list[Line]:
    """Return the facts in two lines."""
    status = shot.status
    rate = "-" if shot.updates_per_s is None else f"{shot.updates_per_s:.1f}"
    age = "-" if shot.age_s is None else duration(shot.age_s)
    known: Line = []
    if shot.is_readable:
        if shot.bid_depth is None and shot.ask_depth is None:
            known = [("known ", "dim"), ("all", "")]
        else:
            depths = "/".join("all" if depth is None else f"{depth:.2f}" for depth in (shot.bid_depth, shot.ask_depth))
            known = [("known ", "dim"), (f"{depths} %", "")]
    causes = sorted(status.resyncs.items(), key=lambda item: -item[1])
    by_cause = "  ".join(f"{cause} {count}" for cause, count in causes)
    return [
        ends([(f" {rate}", ""), ("/s  ", "dim"), (age, "")], [*known, (" ", "")], width),
        ends(
            [(" resyncs ", "dim"), (str(resyncs_of(shot)), "alert" if causes else ""), (f"  {by_cause}", "dim")],
            [(f"{status.bid_count}+{status.ask_count} levels " if shot.is_readable else "", "dim")],
            width,
        ),
    ]


# ------------------------------------------------------------------------------------------------------- the panels


def wide_panel(shot: Shot, width: int, height: int, levels_max: int | None, glyphs: Glyphs) -> list[Line]:
    """Return the ladder with the facts beside it."""
    left = width - FACTS_WIDTH - 2
    ladder_lines = [heading(shot, left), *ladder(shot, left, height - 1, levels_max, glyphs)]
    facts_lines = facts(shot, FACTS_WIDTH - 1, height, glyphs)
    return beside([ladder_lines, facts_lines], [left, FACTS_WIDTH], height, (f"{glyphs.upright} ", "faint"))


def bare_panel(shot: Shot, width: int, height: int, levels_max: int | None, glyphs: Glyphs) -> list[Line]:
    """Return the ladder under a title, with the facts below it."""
    title = ends([(" ", ""), (one_line(shot.status.market), "strong")], [*badge(shot, glyphs), (" ", "")], width)
    lines = ladder(shot, width, height - 3, levels_max, glyphs)
    return [title, *(fitted(line, width) for line in lines), *short_facts(shot, width)]


def heading(shot: Shot, width: int) -> Line:
    """Return the line over a ladder: the market."""
    return fitted([(" ", ""), (one_line(shot.status.market), "title"), (f"  {shot.status.exchange}", "dim")], width)
