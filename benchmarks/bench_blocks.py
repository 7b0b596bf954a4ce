"""From bytes to book on a machine that is not quiet: sums, over each 100 updates, of the quickest of many rounds.

    make bench-blocks [ARGS="--rounds 25"]                         (LDC_CAPTURES names the recordings)
    make bench-blocks ARGS="--also before=/some/where/_book.so"    another build of ldc._book, in turn with this one

On a shared machine a whole round is always disturbed somewhere, 100 updates are not. So each contender goes over a
recording round after round, in turn with the others, and of every 100 updates the quickest round counts. `make bench`
reports medians of whole rounds, which are a little slower.

Each build goes over the recording twice: once from the snapshot on, and once with the book at its end, so that every
update is one that it has already: it is read and judged, and nothing more. The difference is the commit.
"""

import argparse
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import orjson

from bench_contenders import PlainPython
from bench_measure import no_garbage_collection
from bench_recordings import Market, Recording, load_recordings, synthetic_recording
from ldc import _book
from ldc.types import Verdict

BLOCK_UPDATES = 100
ORJSON = "orjson.loads"
THIS = "this build"

Applier = Callable[[bytes], object]


class Row(NamedTuple):
    """What a build took on one recording; nanoseconds an update."""

    build: str
    taken: float
    reading: float
    """Of updates that the book has already."""


class Blocks(NamedTuple):
    """One recording's figures."""

    recording: Recording
    orjson: float
    rows: list[Row]
    wrong: list[str]


class Run(NamedTuple):
    """One way of going over one market."""

    name: str
    applier: Callable[[Market], Applier]


def build_of(module: Any) -> type[PlainPython]:
    """Return the contender whose order book is a module's."""
    return type("Build", (PlainPython,), {"module": module})


def load_build(file: Path) -> Any:
    """Import another build of `ldc._book` beside this one."""
    # The name's last part is what the file's init function is called after.
    name = f"build_{abs(hash(str(file)))}._book"
    loader = importlib.machinery.ExtensionFileLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def at_its_end(contender: type[PlainPython], market: Market) -> Applier:
    """Return the `apply` of a book that has had all updates."""
    apply = contender(market).apply
    for frame in market.frames:
        apply(frame)
    assert apply(market.frames[0]) == apply(market.frames[-1]) == Verdict.STALE
    return apply


def quickest(runs: list[Run], markets: tuple[Market, ...], rounds: int) -> dict[str, int]:
    """Return the nanoseconds of each run over all markets: of every BLOCK_UPDATES updates, the quickest round's."""
    sums = dict.fromkeys((run.name for run in runs), 0)
    for market in markets:
        starts = range(0, len(market.frames), BLOCK_UPDATES)
        blocks = [market.frames[start : start + BLOCK_UPDATES] for start in starts]
        best: dict[str, list[int]] = {}
        for number in range(rounds):
            first = number % len(runs)
            for run in runs[first:] + runs[:first]:
                taken = timed(run.applier(market), blocks)
                best[run.name] = [min(pair) for pair in zip(best.get(run.name, taken), taken, strict=True)]
        for name, taken in best.items():
            sums[name] += sum(taken)
    return sums


def timed(apply: Applier, blocks: list[tuple[bytes, ...]]) -> list[int]:
    """Return the nanoseconds of each block."""
    taken = []
    with no_garbage_collection():
        for block in blocks:
            began = perf_counter_ns()
            for frame in block:
                apply(frame)
            taken.append(perf_counter_ns() - began)
    return taken


def measure(recording: Recording, builds: dict[str, type[PlainPython]], rounds: int) -> Blocks:
    """Measure one recording. A build whose book is wrong at the end has no row."""
    wrong = []
    for name, contender in builds.items():
        for market in recording.markets:
            book = contender(market)
            for frame in market.frames:
                book.apply(frame)
            if not book.is_correct():
                wrong.append(name)
    right = {name: contender for name, contender in builds.items() if name not in wrong}
    runs = [Run(ORJSON, lambda _market: orjson.loads)]
    for name, contender in right.items():
        runs.append(Run(name, lambda market, contender=contender: contender(market).apply))
        runs.append(Run(f"{name}, reading", lambda market, contender=contender: at_its_end(contender, market)))
    sums = {name: taken / recording.updates for name, taken in quickest(runs, recording.markets, rounds).items()}
    rows = [Row(name, sums[name], sums[f"{name}, reading"]) for name in right]
    return Blocks(recording, sums[ORJSON], rows, wrong)


def print_blocks(found: Blocks) -> None:
    """Print one recording's table."""
    levels = found.recording.levels / found.recording.updates
    print(f"{found.recording.name}: {found.recording.updates} updates, {levels:.1f} levels each")
    print(f"    {ORJSON:<24}{found.orjson:>8.0f} ns")
    for row in found.rows:
        commit = row.taken - row.reading
        print(
            f"    {row.build:<24}{row.taken:>8.0f} ns   {row.taken / found.orjson:.3f} x orjson   "
            f"reading {row.reading:.0f} ns, commit {commit:.0f} ns, {commit / levels:.1f} ns a level"
        )
    for name in found.wrong:
        print(f"    {name:<24} wrong at the end: no number")
    print(flush=True)


def main(words: list[str] | None = None) -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description="measure the compiled order book, block by block")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FILE", help="another build of ldc._book")
    parser.add_argument("--updates", type=int, help="only the first so many updates of each market")
    options = parser.parse_args(words)
    builds = {THIS: build_of(_book)}
    for name, _, file in (also.partition("=") for also in options.also):
        builds[name] = build_of(load_build(Path(file)))
    folder = os.environ.get("LDC_CAPTURES")
    recordings = (
        load_recordings(Path(folder), options.updates)
        if folder
        else [synthetic_recording(levels, options.updates or 1500) for levels in (5, 40)]
    )
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{os.cpu_count()} cores, load {load}; {options.rounds} rounds\n", flush=True)
    is_wrong = False
    for recording in recordings:
        found = measure(recording, builds, options.rounds)
        print_blocks(found)
        is_wrong |= bool(found.wrong)
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
