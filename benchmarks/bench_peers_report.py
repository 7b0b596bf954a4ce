"""Makes the table and the plot out of the results that `bench_peers.py` has written; it needs no peer, and no clock.

python benchmarks/bench_peers_report.py benchmarks/results/peers.json docs/evidence/peers.md docs/images/peers.svg \
    README.md

The last may be left out: it is where the headline goes.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

YARDSTICK, OURS = "orjson.loads", "ldc"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
"""What is between these two lines of the document is replaced."""

README_MARKS = ("<!-- peers: begin -->", "<!-- peers: end -->")

PLOTTED = ("spot BTCUSDT", "USD-M ETHUSDT", "USD-M, 4 markets")
"""Recordings that have a panel, by the start of their names; all if none of them is there."""

Results = dict[str, Any]


def microseconds(recording: Results, name: str) -> float:
    """Return the median time of one update."""
    return float(statistics.median(recording["ns by round"][name])) / float(recording["updates"]) / 1000


def ratio(recording: Results, name: str, to: str) -> float:
    """Return how many times as long as another it took: the median of the rounds' ratios."""
    rounds = recording["ns by round"]
    return statistics.median(a / b for a, b in zip(rounds[name], rounds[to], strict=True))


def said(value: float) -> str:
    """Return a number with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def without_number(recording: Results, name: str) -> str:
    """Return why there is none."""
    verdict = recording["verdicts"].get(name, {})
    return "wrong book" if verdict.get("wrong") else "failed" if "failed" in verdict else "–"


def cell(recording: Results, name: str) -> str:
    """Return time and multiple of ldc's."""
    if name not in recording["ns by round"]:
        return without_number(recording, name)
    if OURS not in recording["ns by round"] or name == OURS:
        return f"{said(microseconds(recording, name))} us"
    return f"{said(microseconds(recording, name))} us ({said(ratio(recording, name, OURS))}x)"


def rows(results: Results) -> Iterator[list[str]]:
    """Return the table of updates: its head, then a row for each peer."""
    recordings = results["recordings"]
    yield ["", *(recording["name"] for recording in recordings)]
    yield ["levels an update", *(f"{recording['levels'] / recording['updates']:.1f}" for recording in recordings)]
    for name, peer in results["peers"].items():
        yield [f"{name} {peer['version']}".strip(), *(cell(recording, name) for recording in recordings)]


def read_rows(results: Results) -> Iterator[list[str]]:
    """Return the table of reads: its head, then a row for each peer that has any."""
    bids, asks = results["reads"]["levels"]
    yield [f"{results['reads']['of']}, {bids:,} bids, {asks:,} asks", "best bid and ask", "10 best of both sides"]
    for name, times in results["reads"]["ns"].items():
        yield [name, *(f"{said(times[what] / 1000)} us" for what in ("top", "ten"))]


def as_markdown(table: Iterator[list[str]]) -> str:
    """Return a table for a document."""
    head, *body = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def remarks(results: Results) -> Iterator[str]:
    """Return a line for everything that has no number, and why."""
    reasons: dict[str, list[str]] = {}
    for recording in results["recordings"]:
        for name, verdict in recording["verdicts"].items():
            for what in ("wrong", "failed", "not supported"):
                if verdict.get(what):
                    reasons.setdefault(f"{name}, {what}: {verdict[what]}", []).append(recording["name"])
    for reason, names in reasons.items():
        yield f"- {reason} ({'; '.join(names)})"


def markdown(results: Results) -> str:
    """Return what goes into the document."""
    about = results["conditions"]
    load = ", ".join(f"{value:.1f}" for value in about["load before"] or [])
    fed = [f"- {name}: {peer['how']}" for name, peer in results["peers"].items()]
    parts = [
        (
            f"Measured {about['date']} on {about['processor']}, {about['system']}, {about['Python']}; "
            f"load {load}; commit `{about['commit'][:12]}`; `{about['command']}`."
        ),
        "From bytes to book, one update, in microseconds of processor time; in brackets how many times ldc's time:",
        as_markdown(rows(results)),
        "Reads, of price and quantity:",
        as_markdown(read_rows(results)),
        "What ran:",
        "\n".join(fed),
    ]
    missing = "\n".join(remarks(results))
    parts += ["Without a number:", missing] if missing else []
    return "\n\n".join(parts)


def insert(document: str, text: str, marks: tuple[str, str] = (BEGIN, END), around: str = "\n") -> str:
    """Return the document with the text between its two marks."""
    before, begin, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the document has no lines {marks[0]} and {marks[1]}")
    return f"{before}{begin}{around}{text}{around}{end}{after}"


def span(results: Results, name: str, to: str, digits: int = 0) -> str:
    """Return from how many to how many times as long it took as another, over the recordings."""
    ratios = [ratio(one, name, to) for one in results["recordings"] if name in one["ns by round"]]
    ends = sorted({f"{min(ratios):.{digits}f}", f"{max(ratios):.{digits}f}"}, key=float)
    return " to ".join(ends)


def headline(results: Results) -> str:
    """Return the sentence of the README."""
    peers = [
        f"{span(results, name, OURS)} times as {name}{whose}"
        for name, whose in (("python-binance", ""), ("ccxt", ""), ("cryptofeed", ""), ("nautilus_trader", "'s adapter"))
        if any(name in one["ns by round"] for one in results["recordings"])
    ]
    first = f"from bytes to an exact book {span(results, YARDSTICK, OURS, 1)} times as fast as `{YARDSTICK}` alone"
    return "; ".join([f"{first}, which makes no book", ", ".join(peers)])


def print_results(results: Results) -> None:
    """Print both tables for a terminal."""
    for table in (rows(results), read_rows(results)):
        lines = list(table)
        widths = [max(len(line[column]) for line in lines) + 3 for column in range(len(lines[0]))]
        for line in lines:
            print("".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        print()
    print("\n".join(remarks(results)), flush=True)


# ------------------------------------------------------------------------------------------------------------- plot

ROW, LEFT, WIDTH, BARS, HEAD = 22, 200, 860, 480, 44
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .quiet { fill: #57606a; font-size: 12px }
.bar { fill: #8c959f } .ours { fill: #0969da } .line { stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet { fill: #9198a1 }
.bar { fill: #6e7681 } .ours { fill: #4493f8 } .line { stroke: #3d444d } }
"""


def plot(results: Results) -> str:
    """Return an SVG: a panel for each of some recordings, a bar for each peer, on a logarithmic scale."""
    recordings = [one for one in results["recordings"] if one["name"].startswith(PLOTTED)] or results["recordings"]
    parts, y = [], 10
    times = [microseconds(one, name) for one in recordings for name in one["ns by round"]]
    if not times:
        raise ValueError("there is nothing to plot: no book was right")
    lowest, highest = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times)))
    for recording in recordings:
        panel, height = _panel(recording, list(results["peers"]), y, lowest, highest)
        parts.append(panel)
        y += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
    title = "<title>Time from bytes to book for one update, by library, logarithmic</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _panel(recording: Results, names: list[str], top: int, lowest: float, highest: float) -> tuple[str, int]:
    span = math.log10(highest / lowest)
    levels = recording["levels"] / recording["updates"]
    parts = [f'<text x="0" y="{top + 14}">{escape(recording["name"])}, {levels:.0f} levels an update</text>']
    parts.append(
        f'<text class="quiet" x="{LEFT}" y="{top + 32}">us of processor time from bytes to book, logarithmic</text>'
    )
    rows_of_panel = sorted(
        (name for name in names if name in recording["ns by round"]), key=lambda name: microseconds(recording, name)
    )
    rows_of_panel += [name for name in names if without_number(recording, name) == "wrong book"]
    bottom = top + HEAD + ROW * len(rows_of_panel)
    for power in range(round(span) + 1):
        x = LEFT + BARS * power / span
        parts.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 6}" y2="{bottom}"/>')
    for number, name in enumerate(rows_of_panel):
        y = top + HEAD + ROW * number
        parts.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        if name not in recording["ns by round"]:
            parts.append(f'<text class="quiet" x="{LEFT + 6}" y="{y + 12}">wrong book: no number</text>')
            continue
        length = BARS * math.log10(microseconds(recording, name) / lowest) / span
        kind = "bar ours" if name == OURS else "bar"
        parts.append(
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(length, 1):.1f}" height="{ROW - 7}" rx="2"/>'
        )
        label = escape(cell(recording, name)) + (" – no book" if name == YARDSTICK else "")
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 12}">{label}</text>')
    return "\n".join(parts), HEAD + ROW * len(rows_of_panel) + 16


def write_report(
    markdown: Callable[[Any], str],
    plot: Callable[[Any], str],
    headline: Callable[[Any], str],
    marks: tuple[str, str],
    readme_marks: tuple[str, str],
) -> None:
    """Write the tables into the document, the plot beside it, and the headline into the README if one is named."""
    results_file, document, picture = map(Path, sys.argv[1:4])
    results = json.loads(results_file.read_text(encoding="utf-8"))
    document.write_text(insert(document.read_text(encoding="utf-8"), markdown(results), marks), encoding="utf-8")
    picture.write_text(plot(results), encoding="utf-8")
    if len(sys.argv) > 4:
        readme = Path(sys.argv[4])
        before = readme.read_text(encoding="utf-8")
        text = insert(before, headline(results), readme_marks, around="")
        if text != before:  # a newer file would have the package built again
            readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_report(markdown, plot, headline, (BEGIN, END), README_MARKS)
