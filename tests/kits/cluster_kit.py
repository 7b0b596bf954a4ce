"""A cluster of real processes on this machine, and a reader that judges every view by the exchange's own book."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self

from network_kit import free_port

from ldc.cluster.reader import ClusterBooks
from ldc.errors import DepthCacheError
from ldc.simulator import SimulatedExchange

PATIENCE_S = 30.0
"""A test fails after so long without what it waits for."""


def wait_until(is_done: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
    """Wait; return how long it took."""
    started = time.monotonic()
    while not is_done():
        waited_s = time.monotonic() - started
        assert waited_s < patience_s, f"{what}: not after {waited_s:.1f} s"
        time.sleep(0.01)
    return time.monotonic() - started


class ClusterProcesses:
    """Nodes as processes: `python -m ldc node`."""

    def __init__(
        self,
        exchange: SimulatedExchange,
        markets: Iterable[str],
        names: Iterable[str],
        replicas: int = 2,
        options: Iterable[str] = (),
    ) -> None:
        self.exchange, self.markets, self.replicas = exchange, list(markets), replicas
        self.endpoints = {name: f"tcp/127.0.0.1:{free_port()}" for name in names}
        self.options = list(options)
        self.dials: dict[str, list[str]] = {}
        """The endpoints of nodes that shall not get those of all."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

    def command(self, name: str, *options: str) -> list[str]:
        endpoints = self.dials.get(name, list(self.endpoints.values()))
        connect = [option for endpoint in endpoints for option in ("--connect", endpoint)]
        return [
            *(sys.executable, "-P", "-m", "ldc", "node", "--cluster", "desk", "--name", name),
            *("--replicas", str(self.replicas), "--markets", ",".join(self.markets)),
            *("--listen", self.endpoints[name], *connect),
            *("--restful-base-uri", self.exchange.restful_base_uri),
            *("--websocket-base-uri", self.exchange.websocket_base_uri),
            *self.options,
            *options,
        ]

    def start(self, name: str, *options: str, before: Iterable[str] = (), **environment: str) -> None:
        self.processes[name] = subprocess.Popen(
            [*before, *self.command(name, *options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("LDC_CLUSTER_LOG") else subprocess.DEVNULL,
            env=os.environ | environment,
        )

    def start_all(self) -> Self:
        for name in self.endpoints:
            self.start(name)
        return self

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def end(self, name: str) -> int:
        """Let it drain and end; return its exit status."""
        self.signal(name, signal.SIGTERM)
        return self.processes[name].wait(PATIENCE_S + 15)

    def connect(self, **parameters: Any) -> ClusterBooks:
        return ClusterBooks("desk", connect=list(self.endpoints.values()), **parameters)

    def operate(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `ldc cluster`."""
        action, *rest = words
        connect = [option for endpoint in self.endpoints.values() for option in ("--connect", endpoint)]
        command = [sys.executable, "-P", "-m", "ldc", "cluster", action, "--cluster", "desk", *connect, *rest]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


RELAY = """
import asyncio, sys

async def pass_on(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

def serve(target):
    async def served(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer), return_exceptions=True)
    return served

async def main():
    for pair in sys.argv[1:]:
        port, target = map(int, pair.split(":"))
        await asyncio.start_server(serve(target), "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Partition:
    """A relay between one node and all others: a process that is stopped, so that nothing passes and nothing ends."""

    def __init__(self, nodes: ClusterProcesses, apart: str) -> None:
        """Let a node, not started yet, dial all others by the relay only, and let nobody dial it."""
        others = {name: endpoint for name, endpoint in nodes.endpoints.items() if name != apart}
        own = nodes.endpoints[apart]
        ports = {}
        while len(ports) < len(others):
            port = free_port()
            if f"tcp/127.0.0.1:{port}" < own:  # of two endpoints in one list, the later one dials
                ports[port] = list(others.values())[len(ports)].rsplit(":", 1)[1]
        nodes.dials |= {name: list(others.values()) for name in others}
        nodes.dials[apart] = [own, *(f"tcp/127.0.0.1:{port}" for port in ports)]
        pairs = [f"{port}:{target}" for port, target in ports.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", RELAY, *pairs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def begin(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def heal(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def is_covered(books: ClusterBooks, markets: Iterable[str], replicas: int) -> bool:
    """Whether each market has its replicas, as the tokens say."""
    return all(len(books.holders(market)) >= replicas for market in markets)


class Judge:
    """Reads all markets as fast as it can, on a thread, and holds each view to the exchange's own book."""

    def __init__(self, books: ClusterBooks, exchange: SimulatedExchange, markets: Iterable[str]) -> None:
        self.books, self.exchange, self.markets = books, exchange, list(markets)
        self.reads = 0
        self.refusals: Counter[str] = Counter()
        self.refused_at: list[tuple[float, str, str]] = []
        self.wrong: list[str] = []
        self.oldest_ms = 0.0
        self.slowest_s = 0.0
        self._seen: dict[str, int] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(0.005):
            for market in self.markets:
                self._read(market)

    def _read(self, market: str) -> None:
        started = time.monotonic()
        try:
            view = self.books.get_book(market, 20)
        except DepthCacheError as error:
            self.refusals[f"{error.cause}"] += 1
            self.refused_at.append((time.monotonic(), market, str(error)))
            return
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.reads += 1
        if view.last_update_id < self._seen.get(market, 0):
            self.wrong.append(f"{market} went back from {self._seen[market]} to {view.last_update_id}")
        if view.last_update_id == self._seen.get(market):
            return
        self._seen[market] = view.last_update_id
        age_ms = self.books.status(market).age_ms
        self.oldest_ms = max(self.oldest_ms, age_ms or 0.0)
        try:
            true = self.exchange.true_book(market, view.last_update_id, 20)
        except KeyError as error:
            self.wrong.append(f"{error}, from node {self.books._markets[market].replicas.shown.node}")
            return
        sides = ((view.bids, view.bid_horizon, true.bids), (view.asks, view.ask_horizon, true.asks))
        for mine, horizon, theirs in sides:
            right = tuple((float(price), float(quantity)) for price, quantity in theirs[: len(mine)])
            # A book whose first snapshot was short, and could not be refreshed yet, ends sooner, and says so.
            is_short = len(mine) < 20 and (horizon is None or not mine)
            if mine != right or is_short:
                self.wrong.append(
                    f"{market} at {view.last_update_id}: {len(mine)} levels, {mine[:2]} where {right[:2]} is right"
                )

    def check(self, refusals_max: int = 0) -> None:
        """Fail unless all reads were right."""
        assert self.wrong == []
        assert sum(self.refusals.values()) <= refusals_max, (self.refusals, self.refused_at[:3])
        assert self.reads > 0
