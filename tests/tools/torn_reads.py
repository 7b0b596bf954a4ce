"""One writer, many readers, at full speed: every read must be exactly one version that was published. `make torn`.

Every update changes every level, so that whatever is read says which version it is of: the quantity of each level is
the update id (plus its place in the book, in the decimals), the prices move by one step, the times are the id. A read
that mixes two versions, in any way, fails. In the second half the writer also suspends, resumes, clears, loads, adopts,
and is sent what it refuses.

It runs on any build: `PYTHONPATH=tests/kits python -P tests/tools/torn_reads.py --seconds 60`. Without the GIL the
threads really run at once; the first line says whether. Under ThreadSanitizer (docs/fuzzing.md) it also finds races
that did no harm.
"""

import argparse
import itertools
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from messages import make_snapshot, make_update

from ldc.book import IMPLEMENTATION, OrderBook
from ldc.errors import DepthCacheOutOfSync, MalformedMessage
from ldc.types import Verdict

READERS = 8
LEVELS = 20
TOP = 7
MARK = 777_777_777
"""Stands for the id in the templates of messages; ids begin past 10**8, so that all are of its length."""
FIRST_ID = 100_000_001
CAUSE = "TORN"
PERIOD = 97
"""In the disorderly half, something else than an update happens every so many updates."""
VERSIONS_TO_SEE = 10
PATIENCE = 1_000
"""The writer goes on, up to so many times its updates, until every reader has seen so many versions."""

Levels = list[tuple[str, str]]


def prices(version: int) -> tuple[list[int], list[int]]:
    """Return the prices in tenths, best first: odd and even versions have none in common."""
    now = version % 2
    return [10_000 - 2 * place - now for place in range(LEVELS)], [20_000 + 2 * place + now for place in range(LEVELS)]


def levels_of(version: int, zeros: str = "") -> tuple[Levels, Levels]:
    def side(tenths: list[int]) -> Levels:
        return [(f"{price // 10}.{price % 10}{zeros}", f"{version}.{place:02}") for place, price in enumerate(tenths)]

    bids, asks = prices(version)
    return side(bids), side(asks)


def template(version: int) -> bytes:
    """Return the update to a version; it removes all levels of the one before."""
    gone = [[(price, "0") for price, _ in side] for side in levels_of(version - 1)]
    bids, asks = levels_of(version)
    return make_update(version, bids=gone[0] + bids, asks=gone[1] + asks, E=version, T=version)


TEMPLATES = {number % 2: template(number).replace(str(number).encode(), b"@") for number in (MARK, MARK + 1)}
# A snapshot sets the scales of the book: those of odd versions print more decimals of the prices.
SNAPSHOTS = {
    number % 2: make_snapshot(*levels_of(number, "00000" * (number % 2)), number, E=number, T=number).replace(
        str(number).encode(), b"@"
    )
    for number in (MARK, MARK + 1)
}


def message(templates: dict[int, bytes], version: int) -> bytes:
    return templates[version % 2].replace(b"@", str(version).encode())


def version_of(quantity: float, place: int) -> int:
    version = round(quantity - place / 100)
    assert quantity == float(f"{version}.{place:02}"), (quantity, place)
    return version


def check_levels(levels: Any, side: int, count: int) -> int:
    """Assert that these are the first levels of one side of one version, and return it."""
    version = version_of(float(levels[0][1]), 0)
    expected = prices(version)[side]
    assert len(levels) == count, (len(levels), version)
    for place, (price, quantity) in enumerate(levels):
        assert price == expected[place] / 10, (version, place, price)
        assert quantity == float(f"{version}.{place:02}"), (version, place, quantity)
    return version


def read_view(book: Any) -> int:
    view = book.view()
    version = int(view.last_update_id)
    assert view.event_time_ms == view.transaction_time_ms == view.received_time_ns == version
    assert check_levels(view.bids, 0, LEVELS) == check_levels(view.asks, 1, LEVELS) == version
    return version


def read_top_view(book: Any) -> int:
    view = book.view(TOP)
    version = check_levels(view.bids, 0, TOP)
    assert check_levels(view.asks, 1, TOP) == version == view.last_update_id
    return version


def read_numpy(book: Any) -> int:
    return check_levels(book.to_numpy("asks").tolist(), 1, LEVELS)


def read_header(book: Any) -> int:
    header = book.last_header
    if header is None:
        return 0
    assert header.first_update_id == header.last_update_id == header.event_time_ms
    return 0  # a GAP is ahead of the book


def read_looks(book: Any) -> int:
    assert book.bid_count in (0, LEVELS)
    assert book.ask_count in (0, LEVELS)
    assert not book.is_crossed
    assert book.price_decimals in (None, 1, 6)
    assert book.quantity_decimals in (None, 2)
    assert not book.needs_attention
    assert book.is_loaded in (True, False)
    counters = book.counters
    assert counters.updates_malformed >= counters.snapshots_refused >= counters.updates_malformed - 1
    assert book.suspended_by in (None, CAUSE)
    assert book.is_readable in (True, False)
    assert book.bid_horizon in (None, prices(0)[0][-1] / 10, prices(1)[0][-1] / 10)
    return book.event_time_ms or 0


READS: dict[str, Callable[[Any], int]] = {
    "best_bid": lambda book: check_levels([book.best_bid], 0, 1),
    "best_ask": lambda book: check_levels([book.best_ask], 1, 1),
    "last_update_id": lambda book: book.last_update_id or 0,
    "bids": lambda book: check_levels(book.bids(), 0, LEVELS),
    "asks(n)": lambda book: check_levels(book.asks(TOP), 1, TOP),
    "view": read_view,
    "view(n)": read_top_view,
    "last_header": read_header,
    "looks": read_looks,
}


class Race:
    """A book, its writer and its readers."""

    def __init__(self, book: type, *, seconds: float = 0.0, updates: int | None = None, readers: int = READERS) -> None:
        """Race on a class of books. Both halves together end after so many seconds, or so many updates."""
        self.make = book
        self.seconds, self.updates = seconds, updates
        self.book = book("spot", market="TORN")
        self.version = FIRST_ID
        self.load(self.version)
        self.reads: list[dict[str, int]] = [dict.fromkeys((*READS, "numpy", "refused"), 0) for _ in range(readers)]
        self.versions = [0] * readers
        self.stop = threading.Event()
        self.start = threading.Barrier(readers + 1)
        self.failures: list[Exception] = []

    def load(self, version: int) -> None:
        self.book.load_snapshot(message(SNAPSHOTS, version), 1000, received_time_ns=version)

    def run(self) -> None:
        """Write until the end, and raise what a reader met."""
        threads = [threading.Thread(target=self.read, args=(number,)) for number in range(len(self.reads))]
        for thread in threads:
            thread.start()
        self.start.wait()
        try:
            for is_orderly in (True, False):
                self.write(is_orderly)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        if self.failures:
            raise self.failures[0]
        self.book.check()

    def write(self, is_orderly: bool) -> None:
        disorder = itertools.cycle((self.suspend, self.adopt, self.clear, self.load_again, self.refuse))
        end = time.monotonic() + self.seconds / 2
        for number in itertools.count():
            if self.failures or (number % 64 == 0 and self.is_enough(number, end)):
                return
            self.version += 1
            self.book.apply(message(TEMPLATES, self.version), self.version)
            if not is_orderly and number % PERIOD == 0:
                next(disorder)()

    def is_enough(self, number: int, end: float) -> bool:
        if self.updates is None:
            return time.monotonic() > end
        have_all_read = min(self.versions) > VERSIONS_TO_SEE
        return number >= self.updates * (1 if have_all_read else PATIENCE) / 2

    def suspend(self) -> None:
        self.book.suspend(CAUSE)
        self.version += 1
        self.book.apply(message(TEMPLATES, self.version), self.version)
        self.book.resume()

    def adopt(self) -> None:
        other = self.make("spot")
        other.load_snapshot(message(SNAPSHOTS, self.version), 1000)
        assert self.book.compare(other).is_equal
        self.book.adopt(other)

    def clear(self) -> None:
        self.book.clear()
        self.version += 1
        self.load(self.version)

    def refuse(self) -> None:
        for write in (self.book.apply, self.book.load_snapshot):
            try:
                write(b"[]")
            except MalformedMessage:
                continue
            raise AssertionError("an array was taken")
        stale, gap = (message(TEMPLATES, self.version + away) for away in (0, 2))
        assert (self.book.apply(stale), self.book.apply(gap)) == (Verdict.STALE, Verdict.GAP)

    def load_again(self) -> None:
        self.version += 1
        self.load(self.version)

    def read(self, number: int) -> None:
        book, counts = self.book.reader, self.reads[number]
        try:
            self.start.wait()
            latest = 0
            for name, read in self.kinds(number):
                if self.stop.is_set():
                    return
                try:
                    version = read(book)
                except DepthCacheOutOfSync as refusal:
                    if refusal.cause not in (CAUSE, "NOT_LOADED"):
                        raise
                    counts["refused"] += 1
                    continue
                counts[name] += 1
                # A reader never sees time run backwards; 0 says that nothing was loaded.
                assert version >= latest or version == 0, (name, version, latest)
                if version > latest:
                    self.versions[number] += 1
                    latest = version
        except Exception as failure:  # it is raised again in the thread that waits
            failure.add_note(f"reader {number}")
            self.failures.append(failure)
            self.stop.set()

    def kinds(self, number: int) -> Iterator[tuple[str, Callable[[Any], int]]]:
        """Return all kinds of reads again and again, each reader beginning elsewhere."""
        kinds = dict(READS)
        try:
            import numpy  # noqa: F401
        except ImportError:
            pass
        else:
            kinds["numpy"] = read_numpy
        return itertools.islice(itertools.cycle(kinds.items()), number, None)

    def report(self) -> str:
        """Return how much was read."""
        total = {name: sum(counts[name] for counts in self.reads) for name in self.reads[0]}
        refused = total.pop("refused")
        return (
            f"{sum(total.values()):,} reads by {len(self.reads)} threads of {self.version - FIRST_ID:,} versions, "
            f"{sum(self.versions):,} times a new one; {refused:,} refused (suspended, not loaded); none torn\n"
            + ", ".join(f"{name} {count:,}" for name, count in total.items())
        )


def main() -> None:
    """Race, and print how much was read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--updates", type=int, help="so many instead of so many seconds")
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--switch-interval", type=float, default=1e-5, help="with the GIL: seconds between turns")
    options = parser.parse_args()
    sys.setswitchinterval(options.switch_interval)
    is_free = bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and not getattr(sys, "_is_gil_enabled", bool)()
    print(f"{IMPLEMENTATION}, Python {sys.version.split()[0]}, {'without' if is_free else 'with'} the GIL", flush=True)
    race = Race(OrderBook, seconds=options.seconds, updates=options.updates, readers=options.readers)
    race.run()
    print(race.report())


if __name__ == "__main__":
    main()
