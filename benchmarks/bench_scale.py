"""A thousand markets in one process: processor time, memory, and how soon an update can be read.

    python benchmarks/bench_scale.py [--markets 1000] [--seconds 30]           (LDC_CAPTURES names the recordings)

Another process sends, over loopback, recorded traffic under a thousand names at the pace of real markets: 4 to 10
updates a second each, and every five seconds all of them within 10 ms. Here they are kept as a manager keeps them: 100
markets share a connection and a thread. The sender notes the monotonic clock before it hands a frame to its socket; for
every fifth market, the thread that has just applied an update notes it as well, at the moment at which it would wake a
thread that waits for that market. In the end, each book is compared with one that was fed without a socket.
"""

import argparse
import gc
import multiprocessing
import os
import random
import sys
import threading
import time
import types
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from bench_memory import resident_bytes
from bench_scale_traffic import kinds_of, serve, sources, stream_of
from ldc.book import OrderBook, read_header
from ldc.feed.connection import ConnectionOptions
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.network.proxy import ProxyRules
from ldc.sync.actions import Purpose
from ldc.sync.machine import Synchronizer
from ldc.types import SyncState

PATIENCE_S = 60.0
PER_CONNECTION = 100
WATCHED_EVERY = 5
SEED = 20
COMPLETE = 5000
"""Levels a side that the snapshots are said to have been asked for: more than they hold, so the books are complete."""

MUSTS = (("us an update", 20.0), ("p99 ms", 1.5), ("p99.9 ms", 5.0))
"""Of a thousand markets: at most so much."""

MEMORY_MUST = 150_000
"""Bytes of one market with 1,000 levels a side: book, synchronizer and feed."""

OPTIONS = ConnectionOptions(
    ping_interval_s=60,
    ping_timeout_s=60,
    close_timeout_s=2,
    messages_per_second=3,
    user_agent="ldc benchmark",
    proxies=ProxyRules(),
)


class Sent(NamedTuple):
    """What the sender noted, frame by frame."""

    numbers: "array[int]"
    stamps_ns: "array[int]"


class Found(NamedTuple):
    """What was measured."""

    markets: int
    updates: int
    elapsed_s: float
    computed_s: float
    latencies_us: list[float]
    levels: int
    resident: float
    """Bytes a market, as the operating system sees them, at the snapshots; 0 where it does not say."""
    own: float
    """Bytes a market, by the objects' own account, at the snapshots."""
    own_after: float
    wrong: list[str]


LOOK_S = 0.01
"""How often the recorded markets are looked at. Each changes ten times a second."""


class Recorder:
    """Notes when each update of a market was received, and how far its book was: by looks at the book."""

    def __init__(self, feed: LiveMarket) -> None:
        self._book = feed.book
        self.ids, self.stamps_ns = array("q"), array("q")
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._seen_id = feed.book.last_update_id

    def look(self) -> None:
        """Note the update that the book stands at, unless it was noted before."""
        if self._book.last_update_id == self._seen_id:
            return
        view = self._book.view(0)
        if view.last_update_id != self._seen_id:
            self._seen_id = view.last_update_id
            self.stamps_ns.append((view.received_time_ns or 0) - self._offset_ns)
            self.ids.append(view.last_update_id)


class Watcher:
    """A thread that looks at all recorded markets, more often than any of them changes."""

    def __init__(self, recorders: Iterable[Recorder]) -> None:
        self._recorders, self._over = list(recorders), threading.Event()
        self.computed_s = 0.0
        """Processor time of this thread, which is taken off."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            for recorder in self._recorders:
                recorder.look()
            self.computed_s = time.thread_time()

    def end(self) -> None:
        """Look once more, and end."""
        self._over.set()
        self._thread.join()
        for recorder in self._recorders:
            recorder.look()


class Markets:
    """All markets in their feed groups, synchronized from snapshots that are at hand."""

    def __init__(self, url: str, snapshots: list[tuple[str, bytes]], kinds: list[int]) -> None:
        self._snapshots, self._kinds = snapshots, kinds
        self.groups: list[FeedGroup] = []
        self.feeds: list[LiveMarket] = []
        self._all_there = threading.Event()
        self._missing, self._lock = len(kinds), threading.Lock()
        budget = SharedConnectBudget(300)
        for number, kind in enumerate(kinds):
            if number % PER_CONNECTION == 0:
                self.groups.append(self._group(url, budget))
                self.groups[-1].start()
            self._add(self.groups[-1], number, snapshots[kind][0])

    def _group(self, url: str, budget: SharedConnectBudget) -> FeedGroup:
        group: FeedGroup

        def answer(feed: LiveMarket, action: Any) -> None:
            if action.purpose is Purpose.SYNCHRONIZE:
                body = self._snapshots[self._kinds[feed.serial]][1]
                group.post(lambda now: group.snapshot_begins(feed, action.epoch, now))
                group.post(lambda now: group.snapshot_received(feed, action.epoch, body, COMPLETE, None, now))

        group = FeedGroup(
            "benchmark", [url], OPTIONS, connect_budget=budget, request_snapshot=answer,
            cancel_snapshot=_ignore, request_probe=_ignore, holds_request=_holds_all, random=random.Random(1).random,
        )  # fmt: skip
        return group

    def _add(self, group: FeedGroup, number: int, rule: str) -> None:
        book = OrderBook(rule)
        synchronizer = Synchronizer(
            book, make_book=lambda: OrderBook(rule), read_header=read_header, random=random.Random(number).random,
            limits=(COMPLETE,), now=time.monotonic(),
        )  # fmt: skip
        name = f"M{number:05d}USDT"
        feed = LiveMarket(name, name, stream_of(number), book, synchronizer, number, self._note_state, _ignore)
        self.feeds.append(feed)
        group.add(feed)

    def _note_state(self, feed: LiveMarket, change: Any) -> None:
        with self._lock:
            if change.state is SyncState.SYNCHRONIZED:
                self._missing -= 1
            elif change.previous_state is SyncState.SYNCHRONIZED:
                self._missing += 1
            if self._missing == 0:
                self._all_there.set()

    def wait_until_synchronized(self) -> None:
        """Block until all books can be read."""
        if not self._all_there.wait(PATIENCE_S):
            raise TimeoutError(f"{self._missing} markets are not synchronized: {self.groups[0].last_error}")

    def stop(self) -> None:
        """End all threads."""
        for group in self.groups:
            group.stop()
        for group in self.groups:
            group.join(PATIENCE_S)


def _holds_all(*_: object) -> bool:
    return True


def _ignore(*_: object) -> None:
    """Nobody listens."""


def own_bytes(feeds: list[LiveMarket]) -> int:
    """Return the bytes of all that the markets hold, by the objects' own account; what they share counts once."""
    shared = (
        type,
        types.ModuleType,
        types.FunctionType,
        types.BuiltinFunctionType,
        FeedGroup,
        Markets,
        threading.Thread,
    )
    seen: set[int] = set()
    total, todo = 0, list(feeds)
    while todo:
        thing: Any = todo.pop()
        if id(thing) in seen or isinstance(thing, shared):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        todo.extend(gc.get_referents(thing))
    return total


@contextmanager
def sending(markets: int, seconds: float) -> Iterator[tuple[str, list[tuple[str, bytes]], Pipe]]:
    """Start the process that sends; give its address, the snapshots, and the pipe that says when."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, markets, seconds, SEED), daemon=True)
    process.start()
    try:
        port, snapshots = ours.recv()
        yield f"ws://127.0.0.1:{port}/stream", snapshots, ours
    finally:
        ours.send("end")
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()


def received_sent(pipe: Pipe, seconds: float) -> Sent:
    """Wait for the end of the traffic, and return what was sent."""
    if not pipe.poll(seconds + PATIENCE_S):
        raise TimeoutError("the sender has not come to its end")
    numbers, stamps = pipe.recv()
    sent = Sent(array("l"), array("q"))
    sent.numbers.frombytes(numbers)
    sent.stamps_ns.frombytes(stamps)
    return sent


def latencies(sent: Sent, ids: list[list[int]], recorders: dict[int, Recorder]) -> list[float]:
    """Return microseconds from before the sending to the readable book, for each frame of the watched markets."""
    found, count, place = [], dict.fromkeys(recorders, 0), dict.fromkeys(recorders, 0)
    for number, sent_ns in zip(sent.numbers, sent.stamps_ns, strict=True):
        recorder = recorders.get(number)
        if recorder is None:
            continue
        wanted = ids[number][count[number]]
        count[number] += 1
        at = place[number]
        while at < len(recorder.ids) and recorder.ids[at] < wanted:
            at += 1
        place[number] = at
        if at < len(recorder.ids):
            found.append((recorder.stamps_ns[at] - sent_ns) / 1000)
    return found


def differences(
    feeds: list[LiveMarket], kinds: list[int], sent: Sent, seconds: float
) -> tuple[list[list[int]], list[str]]:
    """Return the ids of each market's updates, and what is wrong with the books: each is held to one fed by hand."""
    found = sources(updates_max=round(12 * seconds) + 50)
    ids_of = [[read_header(text).last_update_id or 0 for text in market.frames] for market in found]
    counts = [0] * len(feeds)
    for number in sent.numbers:
        counts[number] += 1
    wrong = []
    for number, feed in enumerate(feeds):
        market = found[kinds[number]]
        expected = OrderBook(market.rule)
        expected.load_snapshot(market.snapshot, COMPLETE)
        for text in market.frames[: counts[number]]:
            expected.apply(text)
        there = (feed.synchronizer.state, feed.book.last_update_id, feed.book.bids(), feed.book.asks())
        if there != (SyncState.SYNCHRONIZED, expected.last_update_id, expected.bids(), expected.asks()):
            wrong.append(f"{feed.market} is at {there[1]} and should be at {expected.last_update_id}; {there[0].name}")
    return [ids_of[kind] for kind in kinds], wrong


def measure(markets: int, seconds: float) -> Found:
    """Run it."""
    kinds = kinds_of(markets)
    is_linux = sys.platform == "linux"
    with sending(markets, seconds) as (url, snapshots, pipe):
        gc.collect()
        resident = resident_bytes() if is_linux else 0
        everything = Markets(url, snapshots, kinds)
        try:
            everything.wait_until_synchronized()
            gc.collect()
            resident = resident_bytes() - resident if is_linux else 0
            feeds = everything.feeds
            levels = sum(feed.book.bid_count + feed.book.ask_count for feed in feeds)
            own = own_bytes(feeds)
            recorders = {number: Recorder(feeds[number]) for number in range(0, markets, WATCHED_EVERY)}
            watcher = Watcher(recorders.values())
            computed, began = time.process_time(), time.monotonic()
            pipe.send("go")
            sent = received_sent(pipe, seconds)
            elapsed, computed = time.monotonic() - began, time.process_time() - computed - watcher.computed_s
            threading.Event().wait(0.5)  # what was sent last is still to be read
            watcher.end()
            own_after = own_bytes(feeds)
            ids, wrong = differences(feeds, kinds, sent, seconds)
        finally:
            everything.stop()
    return Found(
        markets, len(sent.numbers), elapsed, computed, sorted(latencies(sent, ids, recorders)),
        levels, resident / markets, own / markets, own_after / markets, wrong,
    )  # fmt: skip


def quantile(ordered: list[float], share: float) -> float:
    """Return the value that so many are not above."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def print_found(found: Found) -> None:
    """Print what was measured, or what is wrong."""
    if found.wrong:
        print(f"{len(found.wrong)} of {found.markets} books are wrong: no number. {found.wrong[0]}", flush=True)
        return
    rate = found.updates / found.elapsed_s
    print(f"{found.markets:,} markets, {found.levels / found.markets / 2:,.0f} levels a side at their snapshots")
    print(f"    updates                  {found.updates:,}, {rate:,.0f} a second, {rate / found.markets:.1f} a market")
    share = found.computed_s / found.elapsed_s
    print(
        f"    processor                {found.computed_s / found.updates * 1e6:.1f} us an update, {share:.1%} of a core"
    )
    verdict = "kept" if max(found.resident, found.own_after) < MEMORY_MUST else "MISSED"
    print(
        f"    memory of a market       {found.resident / 1000:.1f} kB resident, {found.own / 1000:.1f} kB by its own "
        f"account, {found.own_after / 1000:.1f} kB at the end (must {MEMORY_MUST / 1000:.0f} kB: {verdict})"
    )
    quantiles = [(f"p{share:.4g}", quantile(found.latencies_us, share / 100)) for share in (50, 90, 99, 99.9)]
    text = ", ".join(f"{name} {us / 1000:.2f}" for name, us in [*quantiles, ("max", found.latencies_us[-1])])
    print(f"    from socket to readable  {text} ms, of {len(found.latencies_us):,} updates", flush=True)
    measured = {f"{name} ms": us / 1000 for name, us in quantiles}
    measured["us an update"] = found.computed_s / found.updates * 1e6
    for what, must in MUSTS:
        print(f"    must {what:<19} {must:g}: {'kept' if measured[what] <= must else 'MISSED'}", flush=True)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description="measure ldc with many markets")
    parser.add_argument("--markets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{os.cpu_count()} cores, load {load}, switch interval {sys.getswitchinterval() * 1000:.0f} ms", flush=True)
    found = measure(options.markets, options.seconds)
    print_found(found)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
