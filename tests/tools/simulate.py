"""Live through simulated histories by the thousand: `make simulate SEEDS=0..99999`, on all cores, resumable.

What is done is remembered in build/simulate, by commit, Python and book, so that an interrupted run goes on where it
was; not while there are changes that were not committed. With ``--record`` the result becomes a row of
docs/evidence/runs.md. Ends with 1 if an oracle objected to any seed.

The hash is of every action of every history: the same on every Python, and with LDC_PURE_PYTHON=1.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RUNS_PAGE, RUNS_HEADING = "docs/evidence/runs.md", "### Results\n"
"""Where ``--record`` appends a row to the first table."""
sys.path.insert(0, str(PROJECT / "tests" / "kits"))

from history import run_seed  # noqa: E402
from history_server import LATENCY_S_MAX  # noqa: E402

import ldc.book  # noqa: E402
import ldc.book.pure.book  # noqa: E402

BLOCK = 500
TWIN_EVERY = 20
"""Of so many seeds one is lived through on the book in plain Python as well."""

FAILURES_SHOWN_MAX = 20


def live_through_block(first: int, end: int) -> dict[str, object]:
    """Run the seeds from first up to but not including end; return what came of them, as JSON can hold it."""
    sums = dict.fromkeys(("histories", "twins", "updates", "faults", "resyncs", "cured", "late", "held_up", "hash"), 0)
    recovery_s_max, held_up_s_max, failures = 0.0, 0.0, []
    for seed in range(first, end):
        has_twin = seed % TWIN_EVERY == 0 and ldc.book.IMPLEMENTATION != "python"
        sums["histories"] += 1
        sums["twins"] += has_twin
        try:
            outcome = run_seed(seed, ldc.book, ldc.book.pure.book if has_twin else None)
        except Exception:
            failures.append((seed, traceback.format_exc()))
            continue
        for name in ("updates", "faults", "resyncs", "cured", "hash"):
            sums[name] += getattr(outcome, name)
        sums["late"] += outcome.recovery_s > 1.0
        sums["held_up"] += outcome.held_up_s > LATENCY_S_MAX + 1e-6
        recovery_s_max = max(recovery_s_max, outcome.recovery_s)
        held_up_s_max = max(held_up_s_max, outcome.held_up_s)
    longest = {"recovery_s_max": recovery_s_max, "held_up_s_max": held_up_s_max}
    return {"first": first, "end": end, **longest, "failures": failures, **sums}


def commit() -> str:
    """Return what the sources are, with a mark if they were changed since."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def run(first: int, last: int, processes: int, state_file: Path) -> list[dict[str, object]]:
    """Run what the state file does not have yet; show the progress."""
    done: dict[tuple[int, int], dict[str, object]] = {}
    if state_file.exists():
        lines = map(json.loads, state_file.read_text().splitlines())
        done = {(block["first"], block["end"]): block for block in lines}
    blocks = [(start, min(start + BLOCK, last + 1)) for start in range(first, last + 1, BLOCK)]
    waiting = [block for block in blocks if block not in done]
    if len(waiting) < len(blocks):
        print(f"{len(blocks) - len(waiting)} of {len(blocks)} blocks were done before: {state_file}")
    state_file.parent.mkdir(parents=True, exist_ok=True)
    started, shown = time.monotonic(), 0
    with concurrent.futures.ProcessPoolExecutor(processes) as pool, state_file.open("a") as state:
        futures = [pool.submit(live_through_block, *block) for block in waiting]
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            block = future.result()
            state.write(json.dumps(block) + "\n")
            state.flush()
            done[block["first"], block["end"]] = block
            for seed, text in block["failures"]:
                shown += 1
                if shown <= FAILURES_SHOWN_MAX:
                    print(f"\nseed {seed} failed\n{text}")
            rate = number * BLOCK / (time.monotonic() - started)
            print(f"{number} of {len(waiting)} blocks, about {rate:.0f} histories/s", flush=True)
    return [done[block] for block in blocks]


def record(row: str, heading: str) -> None:
    """Append a row to the table under that heading of the page."""
    path = PROJECT / RUNS_PAGE
    before, found, after = path.read_text(encoding="utf-8").partition(heading)
    assert found, f"{path} has no {heading!r}"
    table, end, rest = after.partition("|\n\n")
    path.write_text(f"{before}{heading}{table}|\n{row}\n{end[2:]}{rest}" if end else f"{before}{heading}{after}{row}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", help="first..last, both included")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help="append the result to docs/evidence/runs.md")
    arguments = parser.parse_args()
    first, _, last = (int(part) if part.isdigit() else part for part in arguments.seeds.partition(".."))
    revision = commit()
    python = f"{platform.python_implementation().lower()}-{platform.python_version()}"
    state_file = PROJECT / "build" / "simulate" / f"{revision}-{python}-{ldc.book.IMPLEMENTATION}.jsonl"
    if revision.endswith(("-dirty", "unknown")):
        state_file.unlink(missing_ok=True)  # it may be of other sources
    started = time.monotonic()
    blocks = run(first, last, arguments.processes, state_file)
    total = {
        name: sum(block[name] for block in blocks) for name in ("histories", "twins", "updates", "faults", "cured")
    }
    late, held_up = (sum(block[name] for block in blocks) for name in ("late", "held_up"))
    failed = [seed for block in blocks for seed, _ in block["failures"]]
    recovery_s_max, held_up_s_max = (
        max(block[name] for block in blocks) for name in ("recovery_s_max", "held_up_s_max")
    )
    digest = f"{sum(block['hash'] for block in blocks) % 2**64:016x}"
    result = "all oracles agree" if not failed else f"{len(failed)} FAILED, the first is {failed[0]}"
    histories = total["histories"]
    print(
        f"seeds {arguments.seeds} at {revision}, {python}, {ldc.book.IMPLEMENTATION} book: {histories} histories "
        f"({total['twins']} on both books), {total['updates']} updates, {total['faults']} faults, {total['cured']} "
        f"cured by audits; back within 1 s of the last fault: {100 * (1 - late / histories):.2f} %, the latest after "
        f"{recovery_s_max:.1f} s; held up by the library for at most one round trip: "
        f"{100 * (1 - held_up / histories):.2f} %, at most for {held_up_s_max:.1f} s; "
        f"hash {digest}; {time.monotonic() - started:.0f} s; {result}"
    )
    if arguments.record:
        today = datetime.datetime.now(tz=datetime.UTC).date()
        cells = (
            today,
            revision,
            arguments.seeds,
            total["histories"],
            total["updates"],
            total["faults"],
            digest,
            result,
        )
        record(f"| {' | '.join(map(str, cells))} |", RUNS_HEADING)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
