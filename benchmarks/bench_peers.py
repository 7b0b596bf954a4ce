"""Measures ldc beside other libraries' books, on the same recordings, in one process.

    make bench-peers             installs the peers into build/peers-venv, measures, writes results and documents; then
                                 the same over loopback, with each library's own client (bench_loopback.py)
    python benchmarks/bench_peers.py --rounds 5 --updates 1500 --json benchmarks/results/peers.json

The environment variable LDC_CAPTURES names the folder with the recordings. Each peer's book is compared with an
independent reference first, and a wrong one gets no number. All of them run in every round, in rotating order,
`orjson.loads` and ldc among them; a ratio is that of two runs within one round, and the median over the rounds is
reported. Processor time is measured, because it does not grow when others use the machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import process_time, process_time_ns
from typing import Any

from bench_measure import nanoseconds, no_garbage_collection
from bench_peers_check import judge
from bench_peers_contenders import NO_BOOK, PEERS, NotSupported, Peer
from bench_peers_report import print_results
from bench_recordings import Market, Recording, load_recordings, synthetic_recording
from ldc._build import BUILD

READ_SAMPLES = 7
VERSIONS_OF = ("order-book", "msgspec", "yapic.json", "numba")
"""What the peers do their work with, beside themselves."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="measure ldc beside other libraries' books")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over each recording (default: 5)")
    parser.add_argument("--updates", type=int, default=1500, help="updates of each market (default: 1500)")
    parser.add_argument(
        "--only", nargs="*", choices=list(PEERS), default=list(PEERS), metavar="PEER", help="only these"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file")
    return parser.parse_args(given)


def venue_of(recording: Recording) -> str:
    """Return "spot", "USD-M" or "COIN-M"."""
    return recording.name.split()[0].rstrip(",").replace("synthetic", "spot")


def prepared(kind: type[Peer], market: Market, venue: str) -> tuple[Peer, list[Any]]:
    """Return a book at its snapshot, and what its socket would hand on."""
    return kind(market, venue), [kind.prepare(frame) for frame in market.frames]


def verdict(name: str, recording: Recording) -> dict[str, Any]:
    """Run a peer once over a recording; return what became of it, of which one is true: supported, right, wrong."""
    venue, kind = venue_of(recording), PEERS[name]
    compared, wrong = 0, []
    try:
        for market in recording.markets:
            peer, frames = prepared(kind, market, venue)
            peer.run(frames)
            if name != NO_BOOK:
                found = judge(peer.levels(), market, kind.levels_max)
                compared += found.compared
                wrong += [found.wrong] if found.wrong else []
    except NotSupported as reason:
        return {"not supported": str(reason)}
    except Exception as failure:
        return {"failed": f"{type(failure).__name__}: {failure}"}
    return {"levels compared": compared, "wrong": "; ".join(wrong)}


def timed(name: str, recording: Recording) -> int:
    """Return the nanoseconds of processor time of one run over a recording."""
    runs = [prepared(PEERS[name], market, venue_of(recording)) for market in recording.markets]
    with no_garbage_collection():
        started = process_time_ns()
        for peer, frames in runs:
            peer.run(frames)
        return process_time_ns() - started


def measure(recording: Recording, names: list[str], rounds: int) -> dict[str, Any]:
    """Return one recording's verdicts, and the times of those whose books are right."""
    verdicts = {name: verdict(name, recording) for name in names}
    right = [name for name in names if verdicts[name].get("wrong") == ""]
    taken: dict[str, list[int]] = {name: [] for name in right}
    for number in range(rounds):
        first = number % len(right)
        for name in right[first:] + right[:first]:
            taken[name].append(timed(name, recording))
    return {
        "name": recording.name,
        "updates": recording.updates,
        "bytes": recording.frame_bytes,
        "levels": recording.levels,
        "verdicts": verdicts,
        "ns by round": taken,
    }


def measure_reads(recording: Recording, names: list[str]) -> dict[str, dict[str, float]]:
    """Return nanoseconds of the two reads, of books as they are after a recording's first market."""
    market, venue = recording.markets[0], venue_of(recording)
    found = {}
    for name in names:
        kind = PEERS[name]
        if kind.top and verdict(name, recording).get("wrong") == "":
            peer, frames = prepared(kind, market, venue)
            peer.run(frames)
            names_of_read = peer.names()
            found[name] = {
                what: nanoseconds(read, names_of_read, READ_SAMPLES, process_time)
                for what, read in (("top", kind.top), ("ten", kind.ten))
            }
    return found


def conditions(command: str) -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].partition(":")[2]
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "processor": f"{cpu.partition(chr(10))[0].strip()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "ldc build": BUILD,
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "load before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def version_of(package: str) -> str:
    """Return the installed version, or an empty text."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def measure_all(options: argparse.Namespace, recordings: list[Recording]) -> dict[str, Any]:
    """Return everything, as it is written."""
    command = f"python benchmarks/bench_peers.py --rounds {options.rounds} --updates {options.updates}"
    results: dict[str, Any] = {"conditions": conditions(command)}
    results["peers"] = {
        name: {"package": PEERS[name].package, "version": version_of(PEERS[name].package), "how": PEERS[name].how}
        for name in options.only
    }
    results["other versions"] = {package: version_of(package) for package in VERSIONS_OF}
    results["recordings"] = []
    for recording in recordings:
        results["recordings"].append(measure(recording, options.only, options.rounds))
        print(f"{recording.name}: measured", file=sys.stderr, flush=True)
    first = recordings[0]
    results["reads"] = {
        "of": first.name,
        "levels": [len(first.markets[0].bids), len(first.markets[0].asks)],
        "ns": measure_reads(first, options.only),
    }
    results["conditions"]["load after"] = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    return results


def main() -> int:
    """Measure, print, write; return the exit code."""
    options = arguments()
    if BUILD not in ("release", "source"):
        print(f"this is the {BUILD!r} build; only the release build is worth measuring", file=sys.stderr)
        return 2
    folder = os.environ.get("LDC_CAPTURES")
    if folder:
        recordings = load_recordings(Path(folder), updates_max=options.updates)
    else:
        print("LDC_CAPTURES is not set: only made-up traffic", file=sys.stderr)
        recordings = [synthetic_recording(40, options.updates)]
    results = measure_all(options, recordings)
    print_results(results)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ours = [recording["verdicts"].get("ldc", {}) for recording in results["recordings"]]
    return 1 if any(one.get("wrong") or "failed" in one for one in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
