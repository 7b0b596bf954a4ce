"""Measures ldc against the budgets it has set itself, prints every figure, and says which budget is kept.

    make bench                                   in the environment that make test uses
    make bench ARGS="--rounds 25 --json results.json"

The recordings are those in the folder that the environment variable LDC_CAPTURES names; without it there is only
made-up traffic. A contender whose book is wrong at the end gets no number, and the program then ends with 1. A budget
that is missed leaves the exit code alone: the machine may be busy.
"""

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ldc
from bench_budgets import Budget, budgets, print_budgets
from bench_contenders import COMPILED, CONTENDERS, PLAIN_PYTHON, YARDSTICK
from bench_measure import PAIRS_ALONE, Timing, bytes_to_book, pairs_alone, reads
from bench_memory import own_account, resident_account
from bench_recordings import Recording, load_recordings, synthetic_recording
from ldc import _book
from ldc._build import BUILD
from ldc.book.pure import book as pybook


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="measure ldc against its budgets")
    parser.add_argument("--rounds", type=int, default=11, help="rounds over each recording (default: 11)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to this file")
    return parser.parse_args()


def machine() -> dict[str, str]:
    """Return what the figures depend on beside the code."""
    try:
        cpu = (
            Path("/proc/cpuinfo")
            .read_text(encoding="utf-8")
            .partition("model name")[2]
            .partition(":")[2]
            .split("\n")[0]
        )
    except OSError:
        cpu = platform.processor()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("orjson", "sortedcontainers"))
    return {
        "processor": f"{cpu.strip()}, {os.cpu_count()} cores",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "ldc": f"{ldc.__version__}, build {BUILD!r}",
        "libraries": libraries,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def recordings() -> list[Recording]:
    """Return what to run on: the real ones if there are any, and made-up ones of three sizes."""
    made_up = [synthetic_recording(5, 4000), synthetic_recording(40, 1500), synthetic_recording(400, 150)]
    folder = os.environ.get("LDC_CAPTURES")
    if not folder:
        print("LDC_CAPTURES is not set: there are no recordings of real traffic, only made-up ones\n")
        return made_up
    return load_recordings(Path(folder)) + made_up


def print_timing(timing: Timing) -> None:
    """Print one recording's table."""
    recording = timing.recording
    size = recording.frame_bytes / recording.updates
    per_update = recording.levels / recording.updates
    print(f"{recording.name}: {recording.updates} updates, {size:.0f} bytes and {per_update:.1f} levels each")
    for name in timing.rounds:
        ns = timing.ns_per_update(name)
        throughput = size / ns * 1000
        print(
            f"    {name:<30}{ns / 1000:>9.2f} us{timing.ratio(name, YARDSTICK):>9.3f} x orjson{throughput:>9.0f} MB/s"
        )
    for name in timing.wrong:
        print(f"    {name:<30}    wrong at the end: no number")
    print(flush=True)


def print_reads(title: str, times: dict[str, float]) -> None:
    """Print what reads take."""
    print(f"reads of 1,000 levels a side, {title}: ", end="")
    print(", ".join(f"{read} {ns:.0f} ns" for read, ns in times.items()), flush=True)


def main() -> int:
    """Measure everything; return the exit code."""
    options = arguments()
    if BUILD not in ("release", "source"):
        print(f"this is the {BUILD!r} build; only the release build is worth measuring", file=sys.stderr)
        return 2
    conditions = machine()
    print("\n".join(f"{what}: {value}" for what, value in conditions.items()) + "\n", flush=True)

    timings = []
    for recording in recordings():
        timings.append(bytes_to_book(recording, options.rounds))
        print_timing(timings[-1])

    [market] = synthetic_recording(40, 1500).markets
    read_times = {}
    for name, module in ((COMPILED, _book), (PLAIN_PYTHON, pybook)):
        read_times[name] = reads(lambda module=module: loaded(module, market), options.rounds)
        print_reads(name, read_times[name])
    pairs_ns = pairs_alone(options.rounds)
    print(f"40 pairs of floats, by the interpreter alone: {pairs_ns:.0f} ns")
    memory = own_account(market, _book)
    resident = resident_account()
    for account, values in (("its own account", memory), ("resident", resident or {})):
        print(f"bytes a level, {account}: " + ", ".join(f"{what} {value:.1f}" for what, value in values.items()))
    print(flush=True)

    table = budgets(timings, read_times[COMPILED], memory, resident)
    print_budgets(table)
    if options.json:
        all_reads = read_times | {"the interpreter alone": {PAIRS_ALONE: pairs_ns}}
        write_json(options.json, conditions, timings, all_reads, {"own": memory, "resident": resident}, table)
    return 1 if any(timing.wrong for timing in timings) else 0


def loaded(module: Any, market: Any) -> Any:
    """Return a book of 1,000 levels a side."""
    book = module.OrderBook(market.rule)
    book.load_snapshot(market.snapshot, 1000)
    return book


def write_json(
    file: Path, conditions: dict[str, str], timings: list[Timing], read_times: Any, memory: Any, table: list[Budget]
) -> None:
    """Write everything that was measured, every round of it."""
    results = {
        "conditions": conditions,
        "contenders": list(CONTENDERS),
        "bytes to book": [
            {
                "recording": timing.recording.name,
                "updates": timing.recording.updates,
                "bytes": timing.recording.frame_bytes,
                "levels": timing.recording.levels,
                "ns by round": timing.rounds,
                "wrong": timing.wrong,
            }
            for timing in timings
        ],
        "reads ns": read_times,
        "memory bytes": memory,
        "budgets": [budget._asdict() for budget in table],
    }
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
