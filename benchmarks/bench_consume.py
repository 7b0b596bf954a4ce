"""What each way of consuming costs: from the exchange's write to the user's code. `make bench-consume`.

A process of its own plays a recording, as in `bench_loopback`, whose clients of other libraries are the other rows.
Each row runs in a process of its own, one after the other. "bare loop" is websocket-client's `recv_frame` without a
book. Every book must stand at the exchange's id in the end, and have its twenty best levels; a wrong one has no number.

    python benchmarks/bench_consume.py --seconds 5                 all rows that are installed
    python benchmarks/bench_consume.py --only inline "async for"   these rows
    python benchmarks/bench_consume.py --markets 300 --only "async for"
"""

import argparse
import asyncio
import os
import sys
import threading
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, ClassVar

import bench_loopback_clients
from bench_loopback import Truth, measure
from bench_loopback_clients import CLIENTS, NO_BOOK, Ldc, LdcManager
from bench_recordings import load_busy_spot_recording, synthetic_recording


class Style(Ldc):
    """One way of consuming."""

    how: ClassVar[str] = ""

    def follow(self) -> None:
        self.manager = LdcManager("binance.com", restful_base_uri=self.http, websocket_base_uri=self.ws)
        self.consume()

    def start(self) -> None:
        """Keep the books."""
        self.manager.create_depth_cache(self.names)
        self.manager.wait_until_synchronized(timeout=30)

    def consume(self) -> None:
        """Note updates until the process ends."""
        raise NotImplementedError

    def take(self, update: Any) -> None:
        """The user's code."""
        if not update.is_lost:
            self.note(update.market, update.last_update_id)


class Inline(Style):
    """In the thread of the feed."""

    def consume(self) -> None:
        self.manager.on_update(self.take, inline=True)
        self.start()
        threading.Event().wait()


class Callback(Style):
    """In the thread of the callbacks."""

    def consume(self) -> None:
        self.manager.on_update(self.take)
        self.start()
        threading.Event().wait()


class For(Style):
    """A blocked loop."""

    def consume(self) -> None:
        stream = self.manager.updates()
        self.start()
        for update in stream:
            self.take(update)


class AsyncFor(Style):
    """A task of asyncio."""

    def consume(self) -> None:
        asyncio.run(self.run())

    async def run(self) -> None:
        async with self.manager as manager:
            manager.create_depth_cache(self.names)
            await manager.wait_until_synchronized_async(timeout=60)
            async for update in manager.updates():
                self.take(update)


class UvloopFor(AsyncFor):
    """A task of uvloop."""

    def consume(self) -> None:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.run())


class ChangesFor(AsyncFor):
    """A task of asyncio that reads the levels that have changed."""

    async def run(self) -> None:
        async with self.manager as manager:
            manager.create_depth_cache(self.names)
            await manager.wait_until_synchronized_async(timeout=60)
            async for update in manager.updates(policy="changes"):
                _levels = update.bids, update.asks
                self.take(update)


class WaitForAny(Style):
    """One thread in `wait_for_any`."""

    def consume(self) -> None:
        self.start()
        seen: dict[str, int] = {}
        while True:
            for name, update_id in self.manager.wait_for_any(self.names, seen).items():
                seen[name] = update_id
                self.note(name, update_id)


STYLES: dict[str, type[Style]] = {
    "inline": Inline,
    "callback": Callback,
    "for": For,
    "async for": AsyncFor,
    "uvloop": UvloopFor,
    "changes": ChangesFor,
    "wait_for_any": WaitForAny,
}
PEERS = ("python-binance", "ccxt", "cryptofeed", "nautilus_trader")
ROWS = (*STYLES, NO_BOOK, *PEERS)
ROUNDS = 3
"""Rounds of all rows, in turn; of each figure the median counts."""


def run(pipe: Pipe, name: str, port: int, markets: list[str], patience_s: float) -> None:
    """Be the process of a row."""
    CLIENTS.update(STYLES)
    bench_loopback_clients.run(pipe, name, port, markets, patience_s)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a run (default: 5)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of all rows (default: {ROUNDS})")
    parser.add_argument("--only", nargs="*", default=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--markets", nargs="*", type=int, default=[1, 20])
    options = parser.parse_args()
    paces = {1: (10.0, 100.0)}
    updates_max = 1_500 + round(110 * options.seconds)
    folder = os.environ.get("LDC_CAPTURES")
    made = load_busy_spot_recording(Path(folder), updates_max) if folder else synthetic_recording(40, updates_max)
    truth = Truth(made.markets[0])
    load = f"load {os.getloadavg()[0]:.2f}, " if hasattr(os, "getloadavg") else ""
    print(f"{load}Python {sys.version.split()[0]}, {made.markets[0].name}, {options.seconds:g} s a run")
    for count in options.markets:
        runs = [(pace, max(1, round(pace * options.seconds))) for pace in paces.get(count, (10.0,))]
        found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in options.only}
        for _ in range(options.rounds):
            for name in options.only:
                found[name].append(measure(name, count, truth, runs, target=run))
        for number, (pace, _) in enumerate(runs):
            print(f"\n{count} markets, {pace:g} updates a second each: us, median of {options.rounds} rounds")
            print(f"{'':<16} {'p50':>8} {'p99':>8} {'processor time an update':>26}")
            for name, rounds in found.items():
                print(f"{name:<16} {row([each[number] for each in rounds])}")
    return 0


def row(results: list[dict[str, Any]]) -> str:
    """Return the figures of a row, or why there are none."""
    good = [each for each in results if each.get("wrong") == ""]
    if not good:
        return str(next(iter(each.get("wrong") or each.get("failed") or each.get("no client") for each in results)))
    figures = [sorted(each[what] for each in good)[len(good) // 2] for what in ("p50 us", "p99 us", "us per update")]
    return f"{figures[0]:>8.0f} {figures[1]:>8.0f} {figures[2]:>26.0f}"


if __name__ == "__main__":
    sys.exit(main())
