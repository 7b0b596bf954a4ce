"""From the socket to the book: a feed group against websocket-client's bare loop, over loopback, with and without TLS.

    python benchmarks/bench_socket.py [--rounds N]           (LDC_CAPTURES names the recordings, as for run.py)
    python benchmarks/bench_socket.py --frame-bytes 20000 --only spot USD-M       frames as large, made of recorded ones

Another process sends a recording's frames as fast as they are taken. One contender only receives them with
``WebSocket.recv_frame`` (its UTF-8 check is off) and forgets them; the other is ldc's feed group, which also finds the
market, checks, judges and applies every update. They take turns within each round, and a ratio is taken within a round.
What the group's books hold in the end is compared with the recording's own account first; a wrong book gets no number.

Two more rows are ldc with a thread that waits for each update of each market in turn, and ldc with a refresh under way
for every market, whose snapshot never comes: each update is applied, and its bytes are kept. The core alone applies
the same bytes in this process, from memory, without a socket; and the bytes alone are received into memory, as many at
once as there are, and forgotten. Both together are what no way of receiving into books goes below.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import websocket

from bench_recordings import Market, Recording, load_recordings, synthetic_recording, with_larger_frames
from bench_sender import frame, serve
from ldc.book import OrderBook, UpdateWaiter, read_header
from ldc.feed.connection import ConnectionOptions
from ldc.feed.group import FeedGroup
from ldc.feed.market import LiveMarket
from ldc.feed.pool import SharedConnectBudget
from ldc.frames import RECEIVE_BYTES
from ldc.network.proxy import ProxyRules
from ldc.sync.actions import Purpose
from ldc.sync.machine import Synchronizer
from ldc.types import SyncState

PATIENCE_S = 120.0
UPDATES_MIN = 2_000
"""A shorter recording is over too soon."""

LOOK_S = 0.001
LOOK_NEAR_END_S = 0.0001
"""How often the end is looked for, near the end of a market; rarely before, because a look takes time."""

COMPLETE = 5000
"""Levels a side that the snapshots are said to have been asked for: more than they hold, so the books are complete."""

BARE, LDC = "websocket-client recv_frame", "ldc feed group"
WITH_REFRESH, WITH_WAITER = "ldc, a refresh under way", "ldc, a thread that waits"
CORE, BYTES = "the core alone, no socket", "the bytes alone, no book"
CONTENDERS = (BARE, LDC, WITH_REFRESH, WITH_WAITER, CORE, BYTES)
OPTIONS = ConnectionOptions(
    ping_interval_s=60,
    ping_timeout_s=60,
    close_timeout_s=2,
    messages_per_second=3,
    user_agent="ldc benchmark",
    proxies=ProxyRules(),
)


@dataclass(slots=True)
class SocketTiming:
    """Seconds of each contender, by round: the clock's, and those that this process computed."""

    recording: Recording
    is_tls: bool
    elapsed: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CONTENDERS})
    computed: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CONTENDERS})
    is_wrong: bool = False

    def throughput_ratio(self, contender: str = LDC) -> float:
        """Return how many times the bare loop's throughput the feed group has: the median of the rounds."""
        return statistics.median(a / b for a, b in zip(self.elapsed[BARE], self.elapsed[contender], strict=True))

    def computed_us(self, contender: str) -> float:
        """Return the processor time of one update in this process."""
        return statistics.median(self.computed[contender]) / self.recording.updates * 1e6


def stream_of(market: Market) -> str:
    """Return a name for a market's stream."""
    return f"{market.name.lower()}@depth@100ms"


def in_turn(recording: Recording) -> list[tuple[Market, int]]:
    """Return which market's update of which number comes when: those of several markets by turns."""
    places = [
        (number / len(market.frames), market, number)
        for market in recording.markets
        for number in range(len(market.frames))
    ]
    return [(market, number) for _, market, number in sorted(places, key=lambda place: place[0])]


def wire(recording: Recording) -> bytes:
    """Return all updates as websocket frames."""
    frames = []
    for market, number in in_turn(recording):
        payload = market.frames[number]
        if not payload.startswith(b'{"stream":'):
            payload = b'{"stream":"%s","data":%s}' % (stream_of(market).encode(), payload)
        frames.append(frame(payload))
    return b"".join(frames)


def stream_in(market: Market) -> str:
    """Return the name of the stream that a market's frames carry."""
    return read_header(market.frames[0]).stream or stream_of(market)


@contextmanager
def sending(data: bytes, folder: Path | None) -> Iterator[tuple[str, Pipe]]:
    """Start the process that sends; give its address, and the pipe that says when."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, data, folder), daemon=True)
    process.start()
    try:
        port = ours.recv()
        yield f"{'wss' if folder else 'ws'}://127.0.0.1:{port}/stream", ours
    finally:
        ours.send("end")
        process.join(PATIENCE_S)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds by the clock and the seconds computed by this process."""
    computed, began = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - began, time.process_time() - computed


def receive_bare(url: str, pipe: Pipe, count: int, trusted: Path | None) -> tuple[float, float]:
    """Receive all frames and forget them."""
    client = websocket.WebSocket(skip_utf8_validation=True, sslopt={"ca_certs": str(trusted)} if trusted else {})
    client.connect(url)

    def receive() -> None:
        pipe.send("go")
        for _ in range(count):
            client.recv_frame()

    try:
        return timed(receive)
    finally:
        client.shutdown()


def receive_bytes(url: str, pipe: Pipe, count: int, trusted: Path | None) -> tuple[float, float]:
    """Receive so many bytes, by large receives, and forget them."""
    client = websocket.WebSocket(skip_utf8_validation=True, sslopt={"ca_certs": str(trusted)} if trusted else {})
    client.connect(url)
    room = bytearray(2 * RECEIVE_BYTES)

    def receive() -> None:
        pipe.send("go")
        take, missing = client.sock.recv_into, count
        while missing:
            missing -= take(room)

    try:
        return timed(receive)
    finally:
        client.shutdown()


def apply_alone(recording: Recording) -> tuple[float, float, bool]:
    """Apply all frames from memory, each as it came, those of several markets by turns."""
    books = {}
    for market in recording.markets:
        books[market.name] = OrderBook(market.rule)
        books[market.name].load_snapshot(market.snapshot, COMPLETE)
    frames = [(books[market.name].apply, market.frames[number]) for market, number in in_turn(recording)]

    def apply() -> None:
        for apply_one, frame_ in frames:
            apply_one(frame_)

    elapsed, computed = timed(apply)
    return elapsed, computed, all(are_right(books[market.name], market) for market in recording.markets)


def are_right(book: OrderBook, market: Market) -> bool:
    """Whether a book is what the recording's own account says."""
    return dict(book.bids(number=Decimal)) == market.bids and dict(book.asks(number=Decimal)) == market.asks


class Group:
    """A feed group of a recording's markets, whose snapshots come from the recording."""

    def __init__(self, recording: Recording, url: str) -> None:
        self.markets = recording.markets
        self.feeds: list[LiveMarket] = []
        self._by_feed: dict[int, Market] = {}
        self.group = FeedGroup(
            "benchmark", [url], OPTIONS, connect_budget=SharedConnectBudget(300), request_snapshot=self._answer,
            cancel_snapshot=lambda feed, epoch: None, request_probe=lambda feed: None,
            holds_request=lambda feed, epoch: True, random=lambda: 0.0,
        )  # fmt: skip
        self.group.start()
        for number, market in enumerate(self.markets):
            book = OrderBook(market.rule)
            synchronizer = Synchronizer(
                book, make_book=lambda rule=market.rule: OrderBook(rule), read_header=read_header, random=lambda: 0.0,
                limits=(COMPLETE,), now=time.monotonic(),
            )  # fmt: skip
            feed = LiveMarket(
                market.name, market.name, stream_in(market), book, synchronizer, number, _ignore, lambda feed: None
            )
            self.feeds.append(feed)
            self._by_feed[number] = market
            self.group.add(feed)

    def _answer(self, feed: LiveMarket, action: Any) -> None:
        if action.purpose is Purpose.SYNCHRONIZE:
            body = self._by_feed[feed.serial].snapshot
            self.group.post(lambda now: self.group.snapshot_begins(feed, action.epoch, now))
            self.group.post(lambda now: self.group.snapshot_received(feed, action.epoch, body, COMPLETE, None, now))

    def wait_for(self, has_happened: Callable[[], bool]) -> None:
        """Look, now and then: a thread that waits properly would be told of each update, which costs."""
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
        while not has_happened():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    [(feed.market, feed.synchronizer.state, self.group.last_error) for feed in self.feeds]
                )
            pause.wait(LOOK_S)

    def wait_for_ids(self, last: list[int]) -> None:
        """Wait until the books stand at these ids, and note it soon after."""
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
        books = [feed.book for feed in self.feeds]
        begun = [book.last_update_id or 0 for book in books]
        near = [end - (end - begin) // 8 for begin, end in zip(begun, last, strict=True)]
        while (reached := [book.last_update_id or 0 for book in books]) != last:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the books are at {reached}, and should be at {last}")
            is_near = any(now >= end for now, end in zip(reached, near, strict=True))
            pause.wait(LOOK_NEAR_END_S if is_near else LOOK_S)

    def are_synchronized(self) -> bool:
        """Whether all books can be read."""
        return all(feed.synchronizer.state is SyncState.SYNCHRONIZED for feed in self.feeds)

    def are_correct(self) -> bool:
        """Whether all books are what the recording's own account says."""
        return all(are_right(feed.book, market) for feed, market in zip(self.feeds, self.markets, strict=True))

    def begin_refreshes(self) -> None:
        """Request a refresh of every market, and begin a download that never ends."""
        for feed in self.feeds:
            self.group.refresh(feed)
        self.wait_for(lambda: all(feed.synchronizer.requests.awaited is not None for feed in self.feeds))
        for feed in self.feeds:
            epoch = feed.synchronizer.epoch
            self.group.post(lambda now, feed=feed, epoch=epoch: self.group.snapshot_begins(feed, epoch, now))
        self.wait_for(lambda: all(feed.synchronizer.requests.has_begun for feed in self.feeds))

    def stop(self) -> None:
        """End the thread."""
        self.group.stop()
        self.group.join(PATIENCE_S)


def _ignore(feed: LiveMarket, change: object) -> None:
    """Nobody listens."""


def follow(feeds: list[LiveMarket], last: list[int]) -> None:
    """Wait for each update of all markets in one thread, until the last ones."""
    seen = [feed.book.last_update_id or 0 for feed in feeds]
    with UpdateWaiter([feed.binding for feed in feeds]) as waiter:
        while seen != last:
            for place, reached in waiter.wait_past(seen, 1.0).items():
                seen[place] = reached


def receive_with_ldc(recording: Recording, url: str, pipe: Pipe, contender: str = LDC) -> tuple[float, float, bool]:
    """Receive all frames into books."""
    last = [read_header(market.frames[-1]).last_update_id or 0 for market in recording.markets]
    group = Group(recording, url)
    try:
        group.wait_for(group.are_synchronized)
        if contender == WITH_REFRESH:
            group.begin_refreshes()
        elif contender == WITH_WAITER:
            threading.Thread(target=follow, args=(group.feeds, last), daemon=True).start()
            group.wait_for(lambda: all(feed.binding.waiting for feed in group.feeds))

        def receive() -> None:
            pipe.send("go")
            group.wait_for_ids(last)

        elapsed, computed = timed(receive)
        return elapsed, computed, group.are_correct()
    finally:
        group.stop()


def socket_to_book(recording: Recording, rounds: int, *, is_tls: bool) -> SocketTiming:
    """Time both contenders over one recording."""
    timing = SocketTiming(recording, is_tls)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if is_tls else None
        frames = wire(recording)
        with sending(frames, folder) as (url, pipe):
            trusted = folder / "loopback.pem" if folder is not None else None
            if trusted is not None:
                os.environ["REQUESTS_CA_BUNDLE"] = str(trusted)
            for number in range(rounds):
                for contender in CONTENDERS if number % 2 else CONTENDERS[::-1]:
                    if contender is BARE:
                        elapsed, computed = receive_bare(url, pipe, recording.updates, trusted)
                    elif contender is BYTES:
                        elapsed, computed = receive_bytes(url, pipe, len(frames), trusted)
                    elif contender is CORE:
                        elapsed, computed, is_correct = apply_alone(recording)
                        timing.is_wrong |= not is_correct
                    else:
                        elapsed, computed, is_correct = receive_with_ldc(recording, url, pipe, contender)
                        timing.is_wrong |= not is_correct
                    timing.elapsed[contender].append(elapsed)
                    timing.computed[contender].append(computed)
    return timing


def print_socket_timing(timing: SocketTiming) -> None:
    """Print one recording's table."""
    recording = timing.recording
    over = "TLS over loopback" if timing.is_tls else "loopback"
    size = recording.frame_bytes / recording.updates
    print(f"{recording.name}, {over}: {recording.updates} updates, {size:.0f} bytes each")
    if timing.is_wrong:
        print("    wrong at the end: no number", flush=True)
        return
    for contender in CONTENDERS:
        seconds = statistics.median(timing.elapsed[contender])
        rate = recording.updates / seconds
        computed_us = timing.computed_us(contender)
        print(
            f"    {contender:<30}{rate:>12,.0f} updates/s{computed_us:>9.2f} us of processor each; "
            f"relative {timing.throughput_ratio(contender):.2f}, by processor time "
            f"{timing.computed_us(BARE) / computed_us:.2f}",
            flush=True,
        )
    for parts in ((CORE,), (CORE, BYTES)):
        alone = [sum(several) for several in zip(*(timing.elapsed[part] for part in parts), strict=True)]
        times = statistics.median(a / b for a, b in zip(timing.elapsed[LDC], alone, strict=True))
        print(f"    {LDC}: {times:.2f} times as long as {' and '.join(parts)}", flush=True)


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description="measure ldc from the socket to the book")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frame-bytes", type=int, help="make frames of about so many bytes of the recorded ones")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="recordings whose names begin so")
    options = parser.parse_args()
    folder = os.environ.get("LDC_CAPTURES")
    recordings = [each for each in load_recordings(Path(folder)) if each.updates >= UPDATES_MIN] if folder else []
    is_any_wrong = False
    for recording in [*recordings, synthetic_recording(5, 20_000)]:
        if not recording.name.startswith(tuple(options.only)):
            continue
        if options.frame_bytes:
            recording = with_larger_frames(recording, options.frame_bytes)  # noqa: PLW2901
        for is_tls in (False, True):
            timing = socket_to_book(recording, options.rounds, is_tls=is_tls)
            print_socket_timing(timing)
            is_any_wrong |= timing.is_wrong
    return 1 if is_any_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
