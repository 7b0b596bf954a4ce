"""Makes tables and plot out of the results that `bench_loopback.py` has written; it needs no peer, and no clock.

python benchmarks/bench_loopback_report.py benchmarks/results/peers-loopback.json docs/evidence/peers.md \
    docs/images/peers-loopback.svg README.md
"""

import math
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from bench_peers_report import BARS, HEAD, LEFT, OURS, ROW, STYLE, WIDTH, as_markdown, said, write_report

YARDSTICKS = ("websocket-client", "picows")
"""They make no book."""

MARKS = ("<!-- loopback figures: begin -->", "<!-- loopback figures: end -->")
README_MARKS = ("<!-- loopback: begin -->", "<!-- loopback: end -->")

Results = dict[str, Any]
Run = dict[str, Any]


def name_of(run: Run) -> str:
    """Return how a run is called in a table."""
    markets = f"{run['markets']} market{'s' if run['markets'] > 1 else ''}"
    if not run["pace"]:
        return f"{markets}, as fast as read"
    return f"{markets}, {run['pace']:g}/s{' each' if run['markets'] > 1 else ''}"


def without_number(found: Run) -> str:
    """Return why there is none, or an empty text."""
    for what, said_as in (("no client", "–"), ("failed", "failed"), ("wrong", "wrong book")):
        if found.get(what):
            return said_as
    return ""


def libraries(results: Results) -> list[str]:
    """Return those that have a client, in the order of the results."""
    return [name for name, found in results["found"].items() if not any("no client" in run for run in found)]


def table(results: Results, is_shown: Callable[[Run], bool], text: Callable[[Run, Run], str]) -> Iterator[list[str]]:
    """Return a table of some of the runs: its head, then a row for each library.

    Args:
        results: what was measured.
        is_shown: whether a run has a column.
        text: what stands in a cell, of a result and of ldc's result in the same run.
    """
    shown = [number for number, run in enumerate(results["runs"]) if is_shown(run)]
    yield ["", *(name_of(results["runs"][number]) for number in shown)]
    for name in libraries(results):
        row = [f"{name} {results['libraries'][name]['version']}".strip() + (", no book" if name in YARDSTICKS else "")]
        for number in shown:
            found, ours = results["found"][name][number], results["found"].get(OURS, results["found"][name])[number]
            row.append(without_number(found) or text(found, {} if name == OURS or without_number(ours) else ours))
        yield row


def _computed(found: Run, ours: Run) -> str:
    times = f" ({said(found['us per update'] / ours['us per update'])}x)" if ours else ""
    return f"{said(found['us per update'])} us{times}"


def _throughput(found: Run, ours: Run) -> str:
    share = ours["updates a second"] / found["updates a second"] if ours else 1.0
    times = (f" (1/{said(share)})" if share > 1 else f" ({said(1 / share)}x)") if ours else ""
    return f"{found['updates a second']:,.0f}/s{times}"


def _latency(found: Run, _ours: Run) -> str:
    return f"{said(found['p50 us'])} / {said(found['p99 us'])} us"


def tables(results: Results) -> list[tuple[str, Iterator[list[str]]]]:
    """Return all tables, each with the sentence above it."""
    return [
        (
            "Processor time of the client's process for one update, all threads; in brackets how many times ldc's:",
            table(results, lambda _run: True, _computed),
        ),
        (
            "Updates a second, sent as fast as they are read, to the last one readable; the quickest of three runs:",
            table(results, lambda run: not run["pace"], _throughput),
        ),
        (
            "From the exchange's write to the book readable at that update id, p50 / p99:",
            table(results, lambda run: bool(run["pace"]), _latency),
        ),
    ]


def remarks(results: Results) -> Iterator[str]:
    """Return a line for everything that has no number, and why."""
    reasons: dict[str, list[str]] = {}
    for name, found in results["found"].items():
        for run, result in zip(results["runs"], found, strict=True):
            for what in ("no client", "failed", "wrong"):
                if result.get(what):
                    reason = " ".join(str(result[what]).split())
                    reasons.setdefault(f"{name}, {what}: {reason}", []).append(name_of(run))
    for reason, runs in reasons.items():
        yield f"- {reason}" if len(runs) == len(results["runs"]) else f"- {reason} ({'; '.join(runs)})"


def markdown(results: Results) -> str:
    """Return what goes into the document."""
    about = results["conditions"]
    load = ", ".join(f"{value:.1f}" for value in about["load before"] or [])
    parts = [
        (
            f"Measured {about['date']} on {about['processor']}, {about['system']}, {about['Python']}; "
            f"load {load}; commit `{about['commit'][:12]}`; `{about['command']}`; recording {results['recording']}."
        )
    ]
    for sentence, rows in tables(results):
        parts += [sentence, as_markdown(rows)]
    followed = [f"- {name}: {results['libraries'][name]['how']}" for name in libraries(results)]
    parts += ["How each follows:", "\n".join(followed)]
    missing = "\n".join(remarks(results))
    return "\n\n".join(parts + (["Without a number:", missing] if missing else []))


def print_results(results: Results) -> None:
    """Print all tables for a terminal."""
    for sentence, rows in tables(results):
        lines = list(rows)
        widths = [max(len(line[column]) for line in lines) + 3 for column in range(len(lines[0]))]
        print(sentence)
        for line in lines:
            print("".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        print()
    print("\n".join(remarks(results)), flush=True)


def headline(results: Results) -> str:
    """Return the sentence of the README: the run with the most markets, as fast as they are read."""
    run = max((number for number, run in enumerate(results["runs"]) if not run["pace"]), default=0)
    speeds = {
        name: results["found"][name][run]["updates a second"]
        for name in libraries(results)
        if not without_number(results["found"][name][run])
    }
    others = [name for name in sorted(speeds, key=lambda name: -speeds[name]) if name not in (OURS, *YARDSTICKS)]
    ours = f"{speeds[OURS]:,.0f}" if OURS in speeds else "no"
    markets = results["runs"][run]["markets"]
    return (
        f"each library's own client over loopback, {markets} markets as fast as it reads, to the last update "
        f"readable: {ours} updates a second; {', '.join(f'{name} {speeds[name]:,.0f}' for name in others)}"
    )


# ------------------------------------------------------------------------------------------------------------- plot


def plot(results: Results) -> str:
    """Return an SVG: a panel for each run, a bar of processor time for each library, on one logarithmic scale."""
    times = [run["us per update"] for found in results["found"].values() for run in found if not without_number(run)]
    if not times:
        raise ValueError("there is nothing to plot: no book was right")
    lowest, highest = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times)))
    parts, y = [], 10
    for number, run in enumerate(results["runs"]):
        bars = {name: results["found"][name][number] for name in libraries(results)}
        panel, height = _panel(name_of(run), bars, y, lowest, highest)
        parts.append(panel)
        y += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
    title = "<title>Processor time of the client for one update over loopback, by library, logarithmic</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _panel(title: str, bars: dict[str, Run], top: int, lowest: float, highest: float) -> tuple[str, int]:
    powers = math.log10(highest / lowest)
    order = sorted(bars, key=lambda name: bars[name].get("us per update", math.inf))
    parts = [f'<text x="0" y="{top + 14}">{escape(title)}</text>']
    scale = "us of the client's processor time an update, logarithmic"
    parts.append(f'<text class="quiet" x="{LEFT}" y="{top + 32}">{scale}</text>')
    bottom = top + HEAD + ROW * len(order)
    for power in range(round(powers) + 1):
        x = LEFT + BARS * power / powers
        parts.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 6}" y2="{bottom}"/>')
    for number, name in enumerate(order):
        y, found = top + HEAD + ROW * number, bars[name]
        parts.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        if reason := without_number(found):
            parts.append(f'<text class="quiet" x="{LEFT + 6}" y="{y + 12}">{reason}: no number</text>')
            continue
        length = max(BARS * math.log10(found["us per update"] / lowest) / powers, 1)
        kind = "bar ours" if name == OURS else "bar"
        parts.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{ROW - 7}" rx="2"/>')
        label = escape(_computed(found, {}))
        if name in YARDSTICKS:
            label += " – no book"
        if "updates a second" in found:
            label += escape(f", {found['updates a second']:,.0f} updates a second")
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 12}">{label}</text>')
    return "\n".join(parts), HEAD + ROW * len(order) + 16


if __name__ == "__main__":
    write_report(markdown, plot, headline, MARKS, README_MARKS)
