"""What reading costs the writer: four threads, each reading a thousand times a second, beside a feed at full speed.

    python benchmarks/bench_readers.py [--rounds 9]           (LDC_CAPTURES names the recordings)

The feed takes a recording from a socket as fast as it can, as in `bench_socket`; with readers and without, by turns.
Each reader looks at the best prices and at the view of the best 20 levels, of one market after the other. A ratio is
that of two runs one after the other, the median of the rounds is reported: of the elapsed time, and of the process's
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
READS_PER_SECOND = 1000
BEHIND_S_MAX = 0.05
RATE_HELD = 0.98
"""A reader that does this share of its reads has held its rate; without that the ratio says less than it seems to."""

SLOW_DOWN_MUST = 1.15
UPDATES_MIN = 20_000
"""A shorter recording is over before readers that read a thousand times a second have done much."""


class Reader(threading.Thread):
    """Reads at its pace. A read that comes late does not put off the next one, so that the rate is held.

    What is late by more than BEHIND_S_MAX is left out: the machine does not give what is asked for.
    """

    def __init__(self, books: list[OrderBook]) -> None:
        super().__init__(daemon=True)
        self._books = [book.reader for book in books]
        self._end = threading.Event()
        self.reads = 0

    def run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._end.is_set():
            book = self._books[number % len(self._books)]
            number += 1
            assert book.best_bid is not None
            assert len(book.view(20).bids) == 20
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


def run(recording: Recording, url: str, pipe: object, readers: int) -> Run:
    """Receive everything into books, while so many threads read them."""
    last = [read_header(market.frames[-1]).last_update_id for market in recording.markets]
    group = Group(recording, url)
    try:
        group.wait_for(group.are_synchronized)
        books = [feed.book for feed in group.feeds]
        threads = [Reader(books) for _ in range(readers)]
        for thread in threads:
            thread.start()
        reads = sum(thread.reads for thread in threads)
        pipe.send("go")  # type: ignore[attr-defined]
        elapsed, computed = timed(lambda: group.wait_for(lambda: [book.last_update_id for book in books] == last))
        reads = sum(thread.reads for thread in threads) - reads
        for thread in threads:
            thread.stop()
        return Run(elapsed, computed, reads / elapsed / max(1, readers), group.are_correct())
    finally:
        group.stop()


def measure(recording: Recording, rounds: int) -> list[tuple[Run, Run]]:
    """Return pairs of runs, without readers and with them."""
    pairs = []
    with sending(wire(recording), None) as (url, pipe):
        for number in range(rounds):
            order = (0, READERS) if number % 2 else (READERS, 0)
            runs = {readers: run(recording, url, pipe, readers) for readers in order}
            pairs.append((runs[0], runs[READERS]))
    return pairs


def print_pairs(recording: Recording, pairs: list[tuple[Run, Run]]) -> bool:
    """Print what was measured; return whether all books were right."""
    if not all(each.is_correct for pair in pairs for each in pair):
        print(f"{recording.name}: wrong at the end: no number", flush=True)
        return False
    elapsed = statistics.median(both.elapsed_s / alone.elapsed_s for alone, both in pairs)
    computed = statistics.median(both.computed_s / alone.computed_s for alone, both in pairs)
    reads = statistics.median(both.reads_per_second for _, both in pairs)
    rate = statistics.median(recording.updates / alone.elapsed_s for alone, _ in pairs)
    print(f"{recording.name}: {rate:,.0f} updates/s without readers")
    verdict = "kept" if elapsed < SLOW_DOWN_MUST else "MISSED"
    held = "" if reads >= RATE_HELD * READS_PER_SECOND else f" of {READS_PER_SECOND:,}: the rate was NOT HELD"
    print(
        f"    {READERS} readers, {reads:,.0f} reads/s each{held}: elapsed x {elapsed:.3f}, processor x {computed:.3f} "
        f"(must {SLOW_DOWN_MUST} elapsed: {verdict})",
        flush=True,
    )
    return True


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description="measure what readers cost the writer")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    folder = os.environ.get("LDC_CAPTURES")
    recordings = [each for each in load_recordings(Path(folder)) if each.updates >= UPDATES_MIN] if folder else []
    made_up = [synthetic_recording(5, 200_000), synthetic_recording(40, 60_000)]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{os.cpu_count()} cores, load {load}", flush=True)
    correct = [print_pairs(each, measure(each, rounds)) for each in [*recordings, *made_up]]
    return 0 if all(correct) else 1


if __name__ == "__main__":
    sys.exit(main())
