"""Shared books: what publishing and reading cost, how soon a reader wakes, a thousand markets: `make bench-shared`.

    LDC_CAPTURES=folder make bench-shared [ARGS="--rounds 10 --parts publish,read,wake,scale"]

On a machine that is not quiet, of every 100 updates the quickest round counts, as in bench_blocks.py; the books that
are compared go over the recording in turn. Times of waking are of another process, by a clock that both have.
"""

import argparse
import os
import signal
import statistics
import struct
import sys
import tempfile
import time
import timeit
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from bench_measure import no_garbage_collection
from bench_recordings import Market, load_recordings, synthetic_recording
from ldc.book import OrderBook, RegionWriter, region_bytes
from ldc.shared import Publisher, SharedBooks

BLOCK_UPDATES = 100
UPDATES_MAX = 20_000
LEVELS = (1, 20, 100, 1000)
MUST_NS = {20: 100, 100: 400}
"""Nanoseconds that a publication may add to an update."""
READ_MUST_NS = 250
VIEW_MUST = 1.1
WAKES = 2_000
SCALE_MARKETS, SCALE_READERS, SCALE_S = 1_000, 10, 4.0
WAKE_PERIOD_S = 0.002


# ------------------------------------------------------------------------------------------------------------- publish


def over(market: Market, levels: int | None) -> list[int]:
    """Apply a market's updates to a book that publishes so many levels; return what each 100 took, in ns."""
    book = OrderBook(market.rule, market=market.name)
    book.load_snapshot(market.snapshot)
    if levels is not None:
        book.region = RegionWriter(bytearray(region_bytes(levels)), market.name, levels, waiters=bytearray(8))
    apply, frames = book.apply, market.frames[:UPDATES_MAX]
    taken = []
    for start in range(0, len(frames) - BLOCK_UPDATES + 1, BLOCK_UPDATES):
        block = frames[start : start + BLOCK_UPDATES]
        began = perf_counter_ns()
        for frame in block:
            apply(frame)
        taken.append(perf_counter_ns() - began)
    book.region = None
    return taken


def publish(markets: list[tuple[str, Market]], rounds: int) -> None:
    """Print what a publication adds to an update."""
    print(f"{'publishing, ns an update':34}{'alone':>8}" + "".join(f"{f'N={levels}':>9}" for levels in LEVELS))
    for name, market in markets:
        best: dict[int | None, list[int]] = {}
        for _ in range(rounds):
            for levels in (None, *LEVELS):
                taken = over(market, levels)
                best[levels] = list(map(min, best.get(levels, taken), taken))
        updates = len(best[None]) * BLOCK_UPDATES
        alone = sum(best[None]) / updates
        added = {levels: sum(best[levels]) / updates - alone for levels in LEVELS}
        print(f"{name:34}{alone:8.0f}" + "".join(f"{f'+{added[levels]:.0f}':>9}" for levels in LEVELS), flush=True)
    print("  must: " + ", ".join(f"N={levels} +{limit}" for levels, limit in MUST_NS.items()) + "\n")


# ---------------------------------------------------------------------------------------------------------------- read


def deep_book(market: str = "BTCUSDT", levels: int = 1000) -> OrderBook:
    """Return a book of so many levels a side."""
    sides = [
        [f'["{base + sign * place / 100:.2f}","1.5"]' for place in range(levels)]
        for base, sign in ((60000, -1), (60001, 1))
    ]
    book = OrderBook("spot", market=market)
    book.load_snapshot(f'{{"lastUpdateId":7,"bids":[{",".join(sides[0])}],"asks":[{",".join(sides[1])}]}}', 5000)
    return book


def read(folder: str) -> None:
    """Print what reads cost, from the region and from the book."""
    book = deep_book()
    with Publisher("read", folder=folder, levels=1000) as publisher:
        publisher.publish(book)
        shared = SharedBooks("read", folder=folder)["BTCUSDT"]
        print(f"{'reads, ns':34}{'local':>8}{'shared':>9}{'ratio':>8}")
        for name in ("best_bid", "last_update_id", "view(5)", "view(20)", "view(100)", "view(1000)", "bids(20)"):
            number = 200 if "1000" in name else 20_000
            times = [
                min(timeit.repeat(f"of.{name}", globals={"of": of}, number=number, repeat=9)) / number * 1e9
                for of in (book.reader, shared)
            ]
            print(f"{name:34}{times[0]:8.0f}{times[1]:9.0f}{times[1] / times[0]:8.2f}")
    print(f"  must: best_bid {READ_MUST_NS} ns, view(20) {VIEW_MUST} of the local read\n", flush=True)


# ---------------------------------------------------------------------------------------------------------------- wake


def waiter(folder: str, out: int, way: str) -> None:
    """In another process: note the time at which each update is seen."""
    reader = SharedBooks("wake", folder=folder)["BTCUSDT"]
    while not reader.is_readable:
        time.sleep(0.001)
    last_id = reader.last_update_id
    os.write(out, b"+")
    while last_id is not None and last_id < 7 + WAKES:
        if way == "sleep":
            while reader.last_update_id == last_id:
                time.sleep(0.001)
            last_id = reader.last_update_id
        else:
            last_id = reader.wait_for_update(last_id, timeout=5, spin_us=1e6 if way == "spin" else 0)
        os.write(out, struct.pack("qq", last_id or 0, time.monotonic_ns()))


def forked(work: Any) -> int:
    """Run work in a child."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def wake(folder: str) -> None:
    """Print how long after an update a reader of another process has its id."""
    print(f"{'update to reader, us':34}{'p50':>8}{'p99':>9}")
    for way in ("sleep", "futex", "spin"):
        pipe, out = os.pipe()
        child = forked(lambda out=out, way=way: waiter(folder, out, way))
        book = deep_book(levels=20)
        sent = {}
        with Publisher("wake", folder=folder, levels=20) as publisher:
            publisher.publish(book)
            os.read(pipe, 1)
            os.close(out)
            for last_id in range(8, 8 + WAKES):
                time.sleep(WAKE_PERIOD_S)
                update = (
                    f'{{"e":"depthUpdate","s":"X","U":{last_id},"u":{last_id},"b":[["60000.00","{last_id}"]],"a":[]}}'
                )
                payload = update.encode()
                sent[last_id] = time.monotonic_ns()
                book.apply(payload)
            seen = b""
            while chunk := os.read(pipe, 1 << 16):
                seen += chunk
            os.waitpid(child, 0)
        os.close(pipe)
        delays = sorted((at - sent[last_id]) / 1e3 for last_id, at in struct.iter_unpack("qq", seen) if last_id in sent)
        print(
            f"{way:34}{delays[len(delays) // 2]:8.1f}{delays[int(len(delays) * 0.99)]:9.1f}   of {len(delays)}",
            flush=True,
        )
    print("  from before apply() until wait_for_update() has returned; must: spin p50 2 us\n", flush=True)


# --------------------------------------------------------------------------------------------------------------- scale


def scale(folder: str) -> None:
    """Print the processor time of a feeder of 1,000 markets: alone, publishing, and with ten readers."""
    books = [deep_book(f"M{number}USDT", 100) for number in range(SCALE_MARKETS)]
    ids = [7] * SCALE_MARKETS
    levels = [f'["{60000 - place / 100:.2f}","@"]' for place in range(20)]
    template = '{"e":"depthUpdate","s":"X","U":#,"u":#,"b":[' + ",".join(levels) + '],"a":[]}'

    def beat(seconds: float) -> float:
        """Update each market ten times a second; return the processor time a second."""
        began, used = time.monotonic(), time.process_time()
        due, count = began, 0
        while time.monotonic() - began < seconds:
            for number, book in enumerate(books):
                ids[number] += 1
                book.apply(template.replace("#", str(ids[number])).replace("@", f"{ids[number] % 97 + 1}").encode())
                count += 1
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))
        return (time.process_time() - used) / count * 1e6

    def look() -> None:
        reads = SharedBooks("scale", folder=folder)
        while True:
            for number in range(0, SCALE_MARKETS, 7):
                reads[f"M{number}USDT"].view(20)
            time.sleep(0.05)

    alone, shared, looked_at = [], [], []
    for _ in range(3):
        alone.append(beat(SCALE_S))
        with Publisher("scale", folder=folder) as publisher:
            for book in books:
                publisher.publish(book)
            shared.append(beat(SCALE_S))
            children = [forked(look) for _ in range(SCALE_READERS)]
            looked_at.append(beat(SCALE_S))
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    base = min(alone)
    print(f"{SCALE_MARKETS} markets, us of processor time an update: alone {base:.2f}", end="")
    for name, taken in (("shared", shared), (f"{SCALE_READERS} readers", looked_at)):
        print(f", {name} {min(taken):.2f} (+{(min(taken) / base - 1) * 100:.0f} %)", end="")
    print(
        f"; medians {statistics.median(alone):.2f}, {statistics.median(shared):.2f}, {statistics.median(looked_at):.2f}"
    )
    print("  must: +10 %", flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--parts", default="publish,read,wake,scale")
    options = parser.parse_args()
    parts = options.parts.split(",")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n", flush=True)
    captures = os.environ.get("LDC_CAPTURES")
    if "publish" in parts:
        recordings = load_recordings(Path(captures)) if captures else [synthetic_recording(40, UPDATES_MAX)]
        markets = [(f"{each.name} {each.markets[0].name}"[:33], each.markets[0]) for each in recordings]
        with no_garbage_collection():
            publish(markets, options.rounds)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: PTH112
        for name, part in (("read", read), ("wake", wake), ("scale", scale)):
            if name in parts:
                part(folder)


if __name__ == "__main__":
    main()
