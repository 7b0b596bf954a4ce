"""Measures ldc beside other libraries' live clients, over loopback: from the socket to the readable book.

    make bench-peers             the recordings, then this
    python benchmarks/bench_loopback.py --seconds 5 --updates 1500 --json benchmarks/results/peers-loopback.json

A process of its own plays a recording as the exchange would, as one market and as twenty. Each library follows it with
its own client, in a process of its own, one library after the other: at a pace, where processor time and latency are
taken, and as fast as it reads, where the throughput is taken. In the end every book must stand at the last update id
and have the exchange's twenty best levels on each side; a wrong book gets no number, and the word why.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import bench_loopback_clients
import bench_loopback_exchange
from bench_loopback_clients import CLIENTS, TOP, YARDSTICKS, Levels, Top
from bench_loopback_report import print_results
from bench_peers import conditions, version_of
from bench_recordings import Market, load_busy_spot_recording, synthetic_recording
from ldc._build import BUILD

PATIENCE_S = 45.0
"""For a client to begin, and to end after everything was sent."""

SETTLE_S = 2.0
"""What comes after the first books are there (deeper snapshots, connections that are checked) is let pass."""

PACES = {1: (10.0, 100.0), 20: (10.0,)}
"""Updates a second of each market, by the number of markets."""

UNPACED_ROUNDS = 3
"""Runs without a pace. The quickest counts: by the clock, whatever else the machine does makes a run slower only."""

STAND_STILL = (1.0, 0)
"""To send nothing, at a pace: so the warming up ends before anything is measured."""

WARM_UP_UPDATES = 1_000
"""Updates of a market that may pass until its client is ready."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="measure ldc beside other libraries' live clients, over loopback")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a run at a pace (default: 5)")
    parser.add_argument(
        "--updates", type=int, default=1500, help="updates of a run without a pace, of all markets (default: 1500)"
    )
    parser.add_argument(
        "--only", nargs="*", choices=list(CLIENTS), default=list(CLIENTS), metavar="LIBRARY", help="only these"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file")
    return parser.parse_args(given)


# ------------------------------------------------------------------------------------------------------------ judging


class Truth:
    """What the exchange's book was: the recording folded anew, by `Decimal`."""

    def __init__(self, recorded: Market) -> None:
        self.recorded = recorded
        self._known: dict[int, tuple[Levels, Levels]] = {}

    def top(self, update_id: int) -> tuple[Levels, Levels]:
        """Return the best levels at an update id."""
        if update_id not in self._known:
            self._known[update_id] = self._folded(update_id)
        return self._known[update_id]

    def _folded(self, update_id: int) -> tuple[Levels, Levels]:
        body = json.loads(self.recorded.snapshot)
        sides = [{Decimal(price): Decimal(held) for price, held in body[side]} for side in ("bids", "asks")]
        for event in (json.loads(frame)["data"] for frame in self.recorded.frames):
            if event["u"] > update_id:
                break
            for side, key in zip(sides, "ba", strict=True):
                for price, quantity in event[key]:
                    side[Decimal(price)] = Decimal(quantity)
                    if not side[Decimal(price)]:
                        del side[Decimal(price)]
        bids, asks = (sorted(side.items(), reverse=number == 0)[:TOP] for number, side in enumerate(sides))
        return [(float(p), float(q)) for p, q in bids], [(float(p), float(q)) for p, q in asks]


def wrong_with(tops: dict[str, Top], last: dict[str, int], truth: Truth | None) -> str:
    """Return what is wrong with the first wrong book, or an empty text; without the truth, only ids are looked at."""
    for name, update_id in last.items():
        if name not in tops:
            return f"{name}: there is no book"
        found_id, *sides = tops[name]
        if found_id != update_id:
            return f"{name}: the book is at update id {found_id}, and should be at {update_id}"
        true_sides = truth.top(update_id) if truth else ([], [])
        for what, found, expected in zip(("bid", "ask"), sides, true_sides, strict=True):
            for rank in range(len(expected)):
                level = tuple(found[rank]) if rank < len(found) else "missing"
                if level != expected[rank]:
                    return f"{name}: {what} {rank + 1} is {level}, and should be {expected[rank]}"
    return ""


def latencies_ns(sent: Sequence[tuple[str, int, int]], noted: Sequence[tuple[str, int, int]]) -> list[int]:
    """Return for each update how long it took until its market's book could be read at its id, or a later one."""
    seen: dict[str, list[tuple[int, int]]] = {}
    for name, update_id, at_ns in noted:
        seen.setdefault(name, []).append((update_id, at_ns))
    places, found = dict.fromkeys(seen, 0), []
    for name, update_id, sent_ns in sent:
        market = seen.get(name, [])
        while places.get(name, 0) < len(market) and market[places[name]][0] < update_id:
            places[name] += 1
        if places.get(name, 0) < len(market):
            found.append(market[places[name]][1] - sent_ns)
    return found


# ---------------------------------------------------------------------------------------------------------- measuring


@contextmanager
def process(target: Any, *given: Any) -> Iterator[Pipe]:
    """Run a function in a process of its own, with a pipe to it as its first argument."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    running = context.Process(target=target, args=(theirs, *given), daemon=True)
    running.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        running.join(2)
        if running.is_alive():
            running.kill()
            running.join()


def answer(pipe: Pipe, order: tuple[Any, ...], patience_s: float) -> Any:
    """Order something, and return the answer; what prevents one is an answer as well."""
    try:
        pipe.send(order)
    except OSError:
        pass  # it has ended, and said why
    try:
        return pipe.recv() if pipe.poll(patience_s) else {"failed": f"no answer within {patience_s:.0f} s"}
    except (EOFError, OSError):
        return {"failed": "its process ended"}


def measure_run(
    client: Pipe, server: Pipe, pace: float, updates: int, truth: Truth | None, patience_s: float
) -> dict[str, Any]:
    """Return what one run of a client that is ready took, or what was wrong with it."""
    begun = answer(client, ("begin",), patience_s)
    if begun is not True:
        return dict(begun)
    server.send((pace, updates))
    limit_s = patience_s + (updates / pace if pace else 0)
    if not server.poll(limit_s):
        return {"wrong": f"it stopped reading: not everything could be sent within {limit_s:.0f} s"}
    last, which, when = server.recv()
    found = answer(client, ("end", last), patience_s + 5)
    if "tops" not in found:
        return dict(found)
    wrong, names = wrong_with(found["tops"], last, truth), list(last)
    if wrong:
        return {"wrong": wrong}
    result = {"wrong": "", "us per update": found["computed s"] / updates / len(names) * 1e6}
    sent_ns = array("q", when)
    if pace:
        ids = array("q", which)
        sent = [(names[place % len(names)], ids[place], sent_ns[place]) for place in range(len(ids))]
        delays = sorted(latencies_ns(sent, found["noted"]))
        result |= {"p50 us": delays[len(delays) // 2] / 1000, "p99 us": delays[len(delays) * 99 // 100] / 1000}
        result |= {"delays ns": delays, "woken ns": found["woken"]}
    else:
        ends = [min(at_ns for name, at, at_ns in found["noted"] if name == each and at >= last[each]) for each in last]
        result["updates a second"] = updates * len(names) / (max(ends) - sent_ns[0]) * 1e9
    return result


def runs_of(count: int, options: argparse.Namespace) -> list[tuple[float, int]]:
    """Return pace and updates of each market for the runs with so many markets; the last has no pace."""
    paced = [(pace, max(1, round(pace * options.seconds))) for pace in PACES[count]]
    return [*paced, *[(bench_loopback_exchange.ALL_OF_IT, max(1, options.updates // count))] * UNPACED_ROUNDS]


def merged(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results with the last ones, which have no pace, made one: what is wrong with one, or the quickest."""
    paced, unpaced = results[:-UNPACED_ROUNDS], results[-UNPACED_ROUNDS:]
    for result in unpaced:
        if "updates a second" not in result:
            return [*paced, result]
    quickest = max(unpaced, key=lambda result: float(result["updates a second"]))
    paced = [{what: found for what, found in run.items() if not what.endswith(" ns")} for run in paced]
    return [*paced, quickest | {"us per update": statistics.median(one["us per update"] for one in unpaced)}]


def measure(
    name: str,
    count: int,
    truth: Truth,
    runs: list[tuple[float, int]],
    patience_s: float = PATIENCE_S,
    target: Any = bench_loopback_clients.run,
    tls_folder: Path | None = None,
    makes_book: bool | None = None,
) -> list[dict[str, Any]]:
    """Return the results of all runs of one library with so many markets.

    Args:
        target: the process of its client.
        tls_folder: where the certificate is put, if it is served over TLS.
        makes_book: whether a book is judged; None: as its name says.
    """
    names = bench_loopback_exchange.names_of(count)
    if makes_book is None:
        makes_book = name not in YARDSTICKS
    with process(bench_loopback_exchange.serve, names, truth.recorded, tls_folder) as server:
        port = server.recv()
        with process(target, name, port, names, patience_s) as client:
            ready = answer(client, ("ready",), patience_s + 5)
            if "failed" in ready or "no client" in ready:
                return [ready for _ in runs]
            if not all(ready.values()):
                return [{"failed": f"no book within {patience_s:.0f} s"} for _ in runs]
            time.sleep(SETTLE_S)
            answer(server, STAND_STILL, patience_s)
            results: list[dict[str, Any]] = []
            for pace, updates in runs:
                # A book that is wrong once says nothing afterwards.
                held_to = truth if makes_book else None
                lost = results and results[-1].get("wrong") != ""
                results.append(
                    dict(results[-1]) if lost else measure_run(client, server, pace, updates, held_to, patience_s)
                )
            return results


def measure_all(options: argparse.Namespace, recorded: Market) -> dict[str, Any]:
    """Return everything, as it is written."""
    command = f"python benchmarks/bench_loopback.py --seconds {options.seconds:g} --updates {options.updates}"
    results: dict[str, Any] = {"conditions": conditions(command), "recording": recorded.name}
    results["libraries"] = {
        name: {"version": version_of(CLIENTS[name].package), "how": CLIENTS[name].how} for name in options.only
    }
    results["runs"] = [
        {"markets": count, "pace": pace, "updates": updates * count}
        for count in PACES
        for pace, updates in runs_of(count, options)[: 1 - UNPACED_ROUNDS]
    ]
    results["found"], truth = {name: [] for name in options.only}, Truth(recorded)
    for name in options.only:
        for count in PACES:
            results["found"][name] += merged(measure(name, count, truth, runs_of(count, options)))
            print(f"{name}, {count} markets: measured", file=sys.stderr, flush=True)
    results["conditions"]["load after"] = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    return results


def main() -> int:
    """Measure, print, write; return the exit code."""
    options = arguments()
    if BUILD not in ("release", "source"):
        print(f"this is the {BUILD!r} build; only the release build is worth measuring", file=sys.stderr)
        return 2
    needed = WARM_UP_UPDATES + sum(updates for _, updates in runs_of(1, options))
    folder = os.environ.get("LDC_CAPTURES")
    if folder:
        [recorded] = load_busy_spot_recording(Path(folder), updates_max=needed).markets
    else:
        print("LDC_CAPTURES is not set: only made-up traffic", file=sys.stderr)
        [recorded] = synthetic_recording(40, needed).markets
    if len(recorded.frames) < needed - WARM_UP_UPDATES // 2:
        print(f"the recording has {len(recorded.frames)} updates, and {needed} are wanted: take less", file=sys.stderr)
        return 2
    results = measure_all(options, recorded)
    print_results(results)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if any(run.get("wrong") != "" for run in results["found"].get("ldc", [])) else 0


if __name__ == "__main__":
    sys.exit(main())
