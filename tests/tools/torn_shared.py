"""One feeder process at full rate, reader processes, every view held to the true book of its id: `make torn-shared`.

Each update changes every level, so that a copy that mixes two versions, in any way, is wrong: the quantity of each
level is the update id, with its place in the decimals. tests/tools/torn_reads.py does the same between threads.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time

import torn_reads
from killed_feeders import forked
from torn_reads import FIRST_ID, LEVELS, SNAPSHOTS, TEMPLATES, check_levels, message

from ldc.book import IMPLEMENTATION, OrderBook
from ldc.shared import Publisher, SharedBooks

READERS = 4
READS = 10_000_000
KINDS = ("view", "top", "asks", "view(7)")


def feed(folder: str, ready: int) -> None:
    """Write as fast as it can until the end; each so many updates a snapshot, which changes the scales."""
    version = FIRST_ID
    book = OrderBook("spot", market="TORN")
    book.load_snapshot(message(SNAPSHOTS, version), 1000, received_time_ns=version)
    with Publisher("desk", folder=folder, levels=LEVELS) as publisher:
        publisher.publish(book)
        os.write(ready, b"+")
        while os.getppid() != 1:
            for _ in range(1000):
                version += 1
                book.apply(message(TEMPLATES, version), version)
            version += 1
            book.load_snapshot(message(SNAPSHOTS, version), 1000, received_time_ns=version)


def read(folder: str, out: int, reads: int) -> None:
    """Read so often, and judge each."""
    reader = SharedBooks("desk", folder=folder)["TORN"]
    latest = versions = 0
    for number in range(reads):
        kind = number % 4
        if kind == 0:
            version = torn_reads.read_view(reader)
        elif kind == 1:
            version = check_levels([reader.best_bid], 0, 1)
        elif kind == 2:
            version = check_levels(reader.asks(), 1, LEVELS)
        else:
            version = torn_reads.read_top_view(reader)
        assert version >= latest, (version, latest)
        versions += version > latest
        latest = version
    os.write(out, json.dumps([reads, versions, latest - FIRST_ID]).encode() + b"\n")


def race(folder: str, reads: int, readers: int = READERS) -> tuple[int, int, int]:
    """Let feeder and readers race; return the reads, how often one saw a new version, and the versions written."""
    ready, is_ready = os.pipe()
    feeder = forked(lambda: feed(folder, is_ready))
    try:
        assert os.read(ready, 1) == b"+"
        result, to_result = os.pipe()
        children = [forked(lambda: read(folder, to_result, reads // readers)) for _ in range(readers)]
        os.close(to_result)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        with os.fdopen(result) as lines:
            done = [json.loads(line) for line in lines]
    finally:
        os.kill(feeder, signal.SIGKILL)
        os.waitpid(feeder, 0)
        os.close(ready)
        os.close(is_ready)
    assert statuses == [0] * readers, "a reader has read what is wrong"
    return sum(each[0] for each in done), sum(each[1] for each in done), max(each[2] for each in done)


def main() -> None:
    """Race, and print how much was read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=READS)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: PTH112
        reads, news, versions = race(folder, options.reads)
    print(
        f"{IMPLEMENTATION}, Python {sys.version.split()[0]}: {reads:,} reads by {READERS} processes of {versions:,} "
        f"versions in {time.monotonic() - began:.0f} s, {news:,} times a new one; none torn"
    )


if __name__ == "__main__":
    main()
