"""A replica of two gateways, which are processes: one is killed or stopped, again and again, and no moment is lost.

LDC_GATEWAY_FAULTS=50 is what docs/evidence/gateway.md shows; three rounds are enough to see that it works.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Self

import pytest
from loopback_exchange import PATIENCE_S
from simulator_kit import assert_true, simulated

import ldc
from ldc.simulator import SimulatedExchange

ROUNDS = int(os.environ.get("LDC_GATEWAY_FAULTS", "3"))
MARKET = "BTCUSDT"
UPDATES = 8
"""That come while a gateway is away, and by each connection before the next round."""


class Process:
    """`ldc serve` at a port of its own, which it keeps when it is started again."""

    def __init__(self, exchange: SimulatedExchange) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-P", "-m", "ldc", "serve", MARKET, "--port", str(self.port),
                         "--restful-base-uri", exchange.restful_base_uri,
                         "--websocket-base-uri", exchange.websocket_base_uri]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        assert any(re.search(r"page +http", self._process.stdout.readline()) for _ in range(4))

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.contextmanager
def two_gateways(exchange: SimulatedExchange) -> Iterator[list[Process]]:
    gateways = [Process(exchange), Process(exchange)]
    try:
        for gateway in gateways:
            gateway.start()
        yield gateways
    finally:
        for gateway in gateways:
            gateway.kill()


class Reads:
    """A thread that reads all the while: how long the book could not be read, and the oldest that it was."""

    def __init__(self, cache: ldc.DepthCache) -> None:
        self._reader, self._is_over = cache.reader, threading.Event()
        self.count = 0
        self.unreadable_s = self.longest_silence_s = 0.0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        before = changed_at = time.monotonic()
        update_id: int | None = None
        while not self._is_over.wait(0.001):
            now = time.monotonic()
            try:
                seen = self._reader.view(1).last_update_id
            except ldc.DepthCacheOutOfSync:
                self.unreadable_s += now - before
            else:
                self.count += 1
                if seen != update_id:
                    update_id, changed_at = seen, now
                self.longest_silence_s = max(self.longest_silence_s, now - changed_at)
            before = now


def until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    give_up_at = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        time.sleep(0.01)


def brought(replica: Any) -> dict[int, int]:
    """Return how many updates each connection has brought."""
    connections = replica.get_status(MARKET).connections
    return {each.connection: each.first_arrivals + each.duplicates for each in connections}


def wait_for_both(replica: Any) -> None:
    """Wait until two connections have brought some updates more, so that both are alive now."""
    before = brought(replica)

    def are_both_alive() -> bool:
        counts = brought(replica)
        return len(counts) >= 2 and all(count >= before.get(number, 0) + UPDATES for number, count in counts.items())

    until(are_both_alive)


@pytest.mark.check
def test_a_replica_of_two_gateways_loses_no_moment_when_one_is_killed_or_stopped():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with simulated(updates_per_second=50.0) as exchange, two_gateways(exchange) as gateways:
        addresses = [f"127.0.0.1:{gateway.port}" for gateway in gateways]
        with ldc.BinanceLocalDepthCacheManager(
            "binance.com",
            redundancy=2,
            restful_base_uri=[f"http://{address}" for address in addresses],
            websocket_base_uri=[f"ws://{address}" for address in addresses],
            websocket_ping_interval=1,
            websocket_ping_timeout=1,
        ) as replica:
            states: list[Any] = []
            replica.on_state_change(lambda _market, state, cause: states.append((state, cause)))
            replica.create_depth_cache(MARKET)
            assert replica.wait_until_synchronized(timeout=60)
            cache = replica.get_depth_cache(MARKET)
            wait_for_both(replica)
            until(lambda: states and states[-1][0] == "SYNCHRONIZED")
            states.clear()
            with Reads(cache) as reads:
                for number in range(ROUNDS):
                    gateway = gateways[chance.randrange(2)]
                    is_killed = number % 2 == 0
                    if is_killed:
                        gateway.kill()
                    else:
                        gateway.signal(signal.SIGSTOP)
                    try:
                        followed(exchange, replica, cache)
                    finally:
                        if not is_killed:
                            if chance.random() < 0.5:  # so long that the replica has given its connection up
                                until(lambda: len(brought(replica)) < 2)
                            gateway.signal(signal.SIGCONT)
                    if is_killed:
                        gateway.start()
                    wait_for_both(replica)
            status = replica.get_status(MARKET)
            print(
                f"{ROUNDS} rounds: {reads.unreadable_s * 1e3:.0f} ms out of sync, {sum(status.resyncs.values())} "
                f"resyncs, {reads.count} reads, at most {reads.longest_silence_s * 1e3:.0f} ms without an update"
            )
            assert (reads.unreadable_s, states, sum(status.resyncs.values())) == (0.0, [], 0)
            assert reads.count > 0


def followed(exchange: SimulatedExchange, replica: Any, cache: ldc.DepthCache) -> None:
    """Let updates come; the book at the last of them is the exchange's."""
    update_id = cache.reader.last_update_id
    for _ in range(UPDATES):
        update_id = replica.wait_for_update(MARKET, update_id, timeout=PATIENCE_S)  # raises at a loss
        assert update_id is not None
    assert_true(exchange, MARKET, cache.reader.view(number=Decimal))
