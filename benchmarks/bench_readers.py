"""What reading costs the writer: four threads, each reading a thousand times a second, beside a feed at full speed.

    python benchmarks/bench_readers.py [--rounds 9]           (LDC_CAPTURES names the recordings)
    python benchmarks/bench_readers.py --readers 3 --rounds 5    held to the 5 % that three readers may cost

The feed takes a recording from a socket as fast as it can, as in `bench_socket`; with readers and without, by turns.
Each reader looks at the best prices and at the view of the best 20 levels, of one market after the other. A third run
has threads that wake as often and read nothing: what the interpreter and the system take, whatever is read. A ratio is
that of runs one after the other, the median of the rounds is reported: of the elapsed time, and of the process's
processor time, which includes the readers' own and does not grow when others use the machine.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from bench_recordings import Recording, load_recordings, synthetic_recording
from bench_socket import Group, sending, timed, wire
from ldc.book import OrderBook, read_header

READERS = 4
OTHERS = ("nobody", "wakers", "readers")
"""Who is there beside the writer."""

READS_PER_SECOND = 1000
BEHIND_S_MAX = 0.05
RATE_HELD = 0.98
"""A reader that does this share of its reads has held its rate; without that the ratio says less than it seems to."""

SLOW_DOWN_MUST = {3: 1.05, 4: 1.15}
"""By the number of readers: elapsed time at most, relative to that without."""
UPDATES_MIN = 20_000
"""A shorter recording is over before readers that read a thousand times a second have done much."""


class Reader(threading.Thread):
    """Reads at its pace. A read that comes late does not put off the next one, so that the rate is held.

    What is late by more than BEHIND_S_MAX is left out: the machine does not give what is asked for. Without books it
    only wakes, as often.
    """

    def __init__(self, books: list[OrderBook]) -> None:
        super().__init__(daemon=True)
        self._books = [book.reader for book in books]
        self._end = threading.Event()
        self.reads = 0

    def run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._end.is_set():
            if self._books:
                book = self._books[number % len(self._books)]
                assert book.best_bid is not None
                assert len(book.view(20).bids) == 20
            number += 1
            self.reads += 1
            now = time.monotonic()
            due = max(due + 1 / READS_PER_SECOND, now - BEHIND_S_MAX)
            if due > now:
                time.sleep(due - now)

    def stop(self) -> None:
        """End it."""
        self._end.set()
        self.join()


class Run(NamedTuple):
    """One recording, once."""

    elapsed_s: float
    computed_s: float
    reads_per_second: float
    """Of one reader."""
    is_correct: bool


def run(recording: Recording, url: str, pipe: object, others: str, readers: int) -> Run:
    """Receive everything into books, while others (one of OTHERS) do what they do, in so many threads."""
    last = [read_header(market.frames[-1]).last_update_id for market in recording.markets]
    group = Group(recording, url)
    try:
        group.wait_for(group.are_synchronized)
        books = [feed.book for feed in group.feeds]
        threads = [Reader(books if others == "readers" else []) for _ in range(0 if others == "nobody" else readers)]
        for thread in threads:
            thread.start()
        reads = sum(thread.reads for thread in threads)
        pipe.send("go")  # type: ignore[attr-defined]
        elapsed, computed = timed(lambda: group.wait_for(lambda: [book.last_update_id for book in books] == last))
        reads = sum(thread.reads for thread in threads) - reads
        for thread in threads:
            thread.stop()
        return Run(elapsed, computed, reads / elapsed / max(1, len(threads)), group.are_correct())
    finally:
        group.stop()


def measure(recording: Recording, rounds: int, readers: int = READERS) -> list[dict[str, Run]]:
    """Return a run for each of OTHERS, for each round; their order changes."""
    measured = []
    with sending(wire(recording), None) as (url, pipe):
        for number in range(rounds):
            order = list(OTHERS) if number % 2 else list(reversed(OTHERS))
            measured.append({others: run(recording, url, pipe, others, readers) for others in order})
    return measured


def print_runs(recording: Recording, measured: list[dict[str, Run]], readers: int = READERS) -> bool:
    """Print what was measured; return whether all books were right."""
    if not all(each.is_correct for runs in measured for each in runs.values()):
        print(f"{recording.name}: wrong at the end: no number", flush=True)
        return False
    rate = statistics.median(recording.updates / runs["nobody"].elapsed_s for runs in measured)
    print(f"{recording.name}: {rate:,.0f} updates/s alone")
    for others in OTHERS[1:]:
        elapsed = statistics.median(runs[others].elapsed_s / runs["nobody"].elapsed_s for runs in measured)
        computed = statistics.median(runs[others].computed_s / runs["nobody"].computed_s for runs in measured)
        times = statistics.median(runs[others].reads_per_second for runs in measured)
        held = "" if times >= RATE_HELD * READS_PER_SECOND else f" of {READS_PER_SECOND:,}: the rate was NOT HELD"
        must = SLOW_DOWN_MUST.get(readers, 0.0) if others == "readers" else 0.0
        verdict = f" (must {must} elapsed: {'kept' if elapsed < must else 'MISSED'})" if must else ""
        print(
            f"    {readers} {others}, {times:,.0f} times/s each{held}: elapsed x {elapsed:.3f}, "
            f"processor x {computed:.3f}{verdict}",
            flush=True,
        )
    return True


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description="measure what readers cost the writer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--readers", type=int, default=READERS)
    options = parser.parse_args()
    folder = os.environ.get("LDC_CAPTURES")
    recordings = [each for each in load_recordings(Path(folder)) if each.updates >= UPDATES_MIN] if folder else []
    made_up = [synthetic_recording(5, 200_000), synthetic_recording(40, 60_000)]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{os.cpu_count()} cores, load {load}", flush=True)
    correct = [
        print_runs(each, measure(each, options.rounds, options.readers), options.readers)
        for each in [*recordings, *made_up]
    ]
    return 0 if all(correct) else 1


if __name__ == "__main__":
    sys.exit(main())
