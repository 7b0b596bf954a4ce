"""Feeders that are killed, stopped, replaced, closed at random moments; readers that must say why: `make feeders`.

Reader processes read one shared book all the time. Feeder processes come and go. A view must never be older than the
lease. Each end must be named by each reader: FEEDER_GONE for one that was killed or closed, TOO_OLD for one that was
stopped for longer than the lease. The next feeder must be read. Prints how long each took, and the longest read.

A kill has two parts: "ended" is how long the system took to end the process, "named" how long a reader took from there.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from messages import loaded_book, make_update

import ldc.book
from ldc.errors import DepthCacheError
from ldc.shared import Publisher, SharedBooks

READERS = 3
LEASE_NS = 200_000_000
PAUSE_S = 0.001
"""Between two reads, and between two updates."""
SLACK_NS = 30_000_000
"""What a view may be older than the lease: the pause of the feeder, a tick of the coarse clock, and the scheduler."""
PATIENCE_S = 20.0
WAYS = ("kill",) * 6 + ("stop", "go on", "replace", "close")


def now_ns() -> int:
    return ldc.book.Lease.now_ns()


def feed(folder: str, ready: int, *, is_replacing: bool) -> None:
    """Feed until the end."""
    book = loaded_book(ldc.book, market="BTCUSDT")
    book.lease = lease = ldc.book.Lease(LEASE_NS)
    lease.renew(now_ns())
    book.apply(make_update(101), now_ns())
    is_over: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(1))
    with Publisher("desk", folder=folder, replace=is_replacing) as publisher:
        publisher.publish(book)
        os.write(ready, b"+")
        last_id = 101
        while not is_over:
            last_id += 1
            proven = now_ns()
            lease.renew(proven)
            book.apply(make_update(last_id), proven)
            time.sleep(PAUSE_S)


def read(folder: str, out: int) -> None:
    """Read until SIGTERM; write each change of what a read says, and at the end the longest read."""
    is_over: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(1))
    reader = SharedBooks("desk", folder=folder)["BTCUSDT"]
    said: tuple[str | None, int | None] = ("", None)
    longest, count, oldest = 0, 0, 0
    while not is_over:
        began = now_ns()
        cause = None
        try:
            view = reader.view(5)
            oldest = max(oldest, began - (view.received_time_ns or 0))
        except DepthCacheError as error:
            cause = str(error.cause)
        ended = now_ns()
        longest, count = max(longest, ended - began), count + 1
        if (cause, reader.generation) != said:
            said = cause, reader.generation
            os.write(out, json.dumps([ended, cause, reader.generation]).encode() + b"\n")
        time.sleep(PAUSE_S)
    os.write(out, json.dumps([longest, "END", count, oldest]).encode() + b"\n")


def forked(work: Callable[[], None]) -> int:
    """Run work in a child, and return its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:  # the top of a process is a thread's top
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(status)
    return child


class Rounds:
    """Feeders by the dozen, one after the other."""

    def __init__(self, folder: str, seed: int, readers: int = READERS) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.pipes = [os.pipe() for _ in range(readers)]
        self.readers = [forked(lambda pipe=pipe: read(folder, pipe[1])) for pipe in self.pipes]
        for pipe in self.pipes:
            os.close(pipe[1])
            os.set_blocking(pipe[0], False)
        self.buffers = [b""] * readers
        self.said: list[list[Any]] = [[0, "", None] for _ in range(readers)]
        self.ends: list[list[Any]] = []
        self.delays: dict[str, list[float]] = {}

    def take(self) -> None:
        """Take what the readers have said."""
        for number, (pipe, _) in enumerate(self.pipes):
            try:
                self.buffers[number] += os.read(pipe, 1 << 16)
            except BlockingIOError:
                continue
            *lines, self.buffers[number] = self.buffers[number].split(b"\n")
            for line in lines:
                said = json.loads(line)
                if said[1] == "END":
                    self.ends.append(said)
                else:
                    self.said[number] = said

    def wait(self, what: str, since_ns: int, is_so: Callable[[list[Any]], bool]) -> None:
        """Wait until all readers say so, and note how long each took."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            self.take()
            if all(is_so(said) for said in self.said):
                break
            assert time.monotonic() < give_up_at, f"{what} was not noticed: {self.said}"
            time.sleep(0.001)
        self.delays.setdefault(what, []).extend((said[0] - since_ns) / 1e6 for said in self.said)

    def start(self, *, is_replacing: bool = False) -> int:
        """Start a feeder and wait until every reader reads it."""
        before = {said[2] for said in self.said}
        ready, is_ready = os.pipe()
        feeder = forked(lambda: feed(self.folder, is_ready, is_replacing=is_replacing))
        os.close(is_ready)
        assert os.read(ready, 1) == b"+", "the feeder did not start"
        os.close(ready)
        self.wait("started", now_ns(), lambda said: said[1] is None and said[2] not in before)
        return feeder

    def end(self, feeder: int, number: int, what: str) -> None:
        """End a feeder by a signal, and wait until every reader says that it has gone."""
        since = now_ns()
        os.kill(feeder, number)
        os.waitpid(feeder, 0)
        ended = now_ns()
        self.wait(what, since, lambda said: said[1] == "FEEDER_GONE")
        if what == "killed":
            self.delays.setdefault("ended", []).append((ended - since) / 1e6)
            self.delays.setdefault("named", []).extend(max(said[0] - ended, 0) / 1e6 for said in self.said)

    def run(self, rounds: int) -> None:
        """Let so many feeders come and go."""
        for _ in range(rounds):
            feeder = self.start()
            way = self.rng.choice(WAYS)
            time.sleep(self.rng.random() * 0.05)
            if way == "close":
                self.end(feeder, signal.SIGTERM, "closed")
                continue
            if way != "kill":
                since = now_ns()
                os.kill(feeder, signal.SIGSTOP)
                self.wait("stopped", since, lambda said: said[1] == "TOO_OLD")
            if way == "replace":
                successor = self.start(is_replacing=True)
                os.kill(feeder, signal.SIGKILL)
                os.waitpid(feeder, 0)
                feeder = successor
            elif way == "go on":
                since = now_ns()
                os.kill(feeder, signal.SIGCONT)
                self.wait("went on", since, lambda said: said[1] is None)
            self.end(feeder, signal.SIGKILL, "killed")

    def close(self) -> None:
        """End the readers, and judge what they saw."""
        for reader in self.readers:
            os.kill(reader, signal.SIGTERM)
        for reader in self.readers:
            assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0, "a reader failed"
        self.take()
        for pipe, _ in self.pipes:
            os.close(pipe)
        assert len(self.ends) == len(self.readers)
        oldest = max(end[3] for end in self.ends)
        assert oldest <= LEASE_NS + SLACK_NS, f"a view was {oldest / 1e6:.1f} ms old"

    def report(self) -> str:
        """Return how long each thing took."""
        lines = []
        for what, delays in self.delays.items():
            ordered = sorted(delays)
            p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
            lines.append(f"{what:8} {len(ordered):6} times: p50 {p50:.1f} p99 {p99:.1f} max {ordered[-1]:.1f} ms")
        reads, longest = sum(end[2] for end in self.ends), max(end[0] for end in self.ends) / 1e6
        oldest = max(end[3] for end in self.ends) / 1e6
        lines.append(f"{reads:,} reads; the longest took {longest:.1f} ms; the oldest view was {oldest:.1f} ms old")
        return "\n".join(lines)


def main() -> None:
    """Run, and print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}, lease {LEASE_NS / 1e6:.0f} ms, {READERS} readers", flush=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: PTH112
        rounds = Rounds(folder, options.seed)
        try:
            rounds.run(options.rounds)
        finally:
            rounds.close()
    print(rounds.report())


if __name__ == "__main__":
    main()
