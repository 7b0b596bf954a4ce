"""How soon markets are readable again after a fault, over loopback, in front of the embedded exchange.

    python benchmarks/bench_recovery.py
    python benchmarks/bench_recovery.py --resets 3 --gaps 3 --apart 2

    resets    the one connection of 20 markets is reset, 20 times, 5 s apart; spot and USD-M
    gaps      one update of a market is lost, 10 times, 5 s apart; spot and USD-M
    cut       all connections of 200 markets are reset at once
    refusal   a host refuses for 10 minutes, in virtual time: connects of one group, the most of so many seeds

A time is from the fault, of a gap from the update that shows it, until the book can be read. Each market of a reset
counts. The exchange runs in a process of its own and counts connects and weight as the real one does. Ends with 1 if it
refused a request, or a market did not come back.
"""

import argparse
import json
import logging
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ldc
from ldc.limits import ReconnectPolicy
from ldc.sync.machine import Synchronizer
from ldc.types import SyncState

EXCHANGE = """
import json, sys
from ldc.simulator import SimulatedExchange
markets = [f"COIN{number}USDT" for number in range(int(sys.argv[2]))]
options = {"venue": sys.argv[1], "seed": 1, "levels": 1000, "updates_per_second": float(sys.argv[3])}
with SimulatedExchange(markets, **options) as exchange:
    print(exchange.restful_base_uri, exchange.websocket_base_uri, flush=True)
    server = exchange._server
    for line in sys.stdin:
        command, _, market = line.strip().partition(" ")
        if command == "cut":
            server.call(lambda: [connection.abort() for connection in list(server._connections)])
        elif command == "drop":
            exchange.inject("drop", market=market)
        print(json.dumps(exchange.statistics()), flush=True)
"""

PATIENCE_S = 60.0
LOOK_S = 0.002
REFUSAL_S = 600.0


class Recovery(NamedTuple):
    """How long markets took to come back, and what it cost."""

    name: str
    seconds: list[float]
    connects: int
    weight: int
    refused: int
    """Answers 429 and 418."""

    def __str__(self) -> str:
        times = sorted(self.seconds)
        p95 = times[max(0, round(0.95 * len(times)) - 1)]
        return (
            f"{self.name}: {len(times)} times back: median {statistics.median(times):.3f} s, p95 {p95:.3f} s, "
            f"longest {times[-1]:.3f} s; {self.connects} connects, {self.weight} weight in all, "
            f"{self.refused} requests refused"
        )


class Setup:
    """A manager in front of an exchange in another process."""

    def __init__(self, manager: ldc.BinanceLocalDepthCacheManager, exchange: "subprocess.Popen[str]") -> None:
        self._exchange = exchange
        self.synchronizers: dict[str, Synchronizer] = {
            market: manager.get_depth_cache(market).live.synchronizer for market in manager.get_list_of_depth_caches()
        }

    def tell(self, command: str) -> dict[str, Any]:
        """Let the exchange do something; return its counters."""
        assert self._exchange.stdin is not None
        assert self._exchange.stdout is not None
        self._exchange.stdin.write(f"{command}\n")
        self._exchange.stdin.flush()
        counters: dict[str, Any] = json.loads(self._exchange.stdout.readline())
        return counters

    def losses(self) -> dict[str, int]:
        """Return how often each market was lost."""
        return {market: sum(each.resyncs.values()) for market, each in self.synchronizers.items()}

    def back_after(self, before: dict[str, int], began: float) -> list[float]:
        """Wait until each of these markets was lost once more and is readable; return the seconds since `began`."""
        waiting, seconds, pause = set(before), [], threading.Event()
        while waiting:
            now = time.monotonic()
            if now - began > PATIENCE_S:
                raise TimeoutError(f"{len(waiting)} markets did not come back")
            for market in list(waiting):
                each = self.synchronizers[market]
                is_back = each.state is SyncState.SYNCHRONIZED and each.book.is_readable
                if is_back and sum(each.resyncs.values()) > before[market]:
                    waiting.remove(market)
                    seconds.append(now - began)
            pause.wait(LOOK_S)
        return seconds


@contextmanager
def setup(venue: str, count: int, updates_per_second: float) -> Iterator[Setup]:
    """Start an exchange with so many markets and a manager that follows them."""
    command = [sys.executable, "-P", "-c", EXCHANGE, venue, str(count), str(updates_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdin is not None
        assert exchange.stdout is not None
        rest, websocket = exchange.stdout.readline().split()
        try:
            with ldc.BinanceLocalDepthCacheManager(
                venue, restful_base_uri=rest, websocket_base_uri=websocket
            ) as manager:
                markets = [f"COIN{number}USDT" for number in range(count)]
                manager.create_depth_cache(markets)
                if not manager.wait_until_synchronized(timeout=PATIENCE_S):
                    raise TimeoutError("the markets were not synchronized in the beginning")
                yield Setup(manager, exchange)
        finally:
            exchange.stdin.close()


def recovery(name: str, seconds: list[float], counters: dict[str, Any]) -> Recovery:
    """Return what was measured, with the exchange's counters at the end."""
    refused = counters.get("status_429", 0) + counters.get("status_418", 0)
    return Recovery(name, seconds, counters["connects"], counters["weight_used"], refused)


def resets(venue: str, *, count: int = 20, apart_s: float = 5.0, markets: int = 20, rate: float = 10.0) -> Recovery:
    """Reset the connection again and again."""
    seconds: list[float] = []
    with setup(venue, markets, rate) as each:
        for _ in range(count):
            began, before = time.monotonic(), each.losses()
            each.tell("cut")
            seconds += each.back_after(before, began)
            threading.Event().wait(max(0.0, began + apart_s - time.monotonic()))
        return recovery(f"{venue}, {count} resets of {markets} markets", seconds, each.tell("count"))


def gaps(venue: str, *, count: int = 10, apart_s: float = 5.0, markets: int = 20, rate: float = 10.0) -> Recovery:
    """Lose an update of one market again and again."""
    seconds: list[float] = []
    with setup(venue, markets, rate) as each:
        synchronizer = each.synchronizers["COIN0USDT"]
        for _ in range(count):
            began, before = time.monotonic(), {"COIN0USDT": each.losses()["COIN0USDT"]}
            unreadable_s = synchronizer.unsynchronized_s
            each.tell("drop COIN0USDT")
            each.back_after(before, began)
            seconds.append(synchronizer.unsynchronized_s - unreadable_s)
            threading.Event().wait(max(0.0, began + apart_s - time.monotonic()))
        return recovery(f"{venue}, {count} gaps", seconds, each.tell("count"))


def cut(venue: str = "binance.com", *, markets: int = 200) -> Recovery:
    """Reset all connections at once."""
    with setup(venue, markets, 2.0) as each:
        began, before = time.monotonic(), each.losses()
        each.tell("cut")
        return recovery(f"{venue}, a cut of {markets} markets", each.back_after(before, began), each.tell("count"))


def connects_while_refused(seed: int) -> int:
    """Return how often one slot connects to a host that refuses at once for `REFUSAL_S`. In virtual time."""
    policy, now, connects = ReconnectPolicy(random.Random(seed).random), 0.0, 0
    while now < REFUSAL_S:
        connects += 1
        now += policy.after_refusal()
    return connects


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resets", type=int, default=20)
    parser.add_argument("--gaps", type=int, default=10)
    parser.add_argument("--apart", type=float, default=5.0, help="seconds between two faults")
    parser.add_argument("--rate", type=float, default=10.0, help="updates of each market a second; not of the cut")
    parser.add_argument("--seeds", type=int, default=10_000)
    arguments = parser.parse_args()
    logging.getLogger("binance_local_depth_cache").setLevel(logging.ERROR)  # each loss is a warning
    measures: list[Callable[[], Recovery]] = [
        *(
            lambda venue=venue: resets(venue, count=arguments.resets, apart_s=arguments.apart, rate=arguments.rate)
            for venue in ("binance.com", "binance.com-futures")
        ),
        *(
            lambda venue=venue: gaps(venue, count=arguments.gaps, apart_s=arguments.apart, rate=arguments.rate)
            for venue in ("binance.com", "binance.com-futures")
        ),
        cut,
    ]
    refused = 0
    for measure in measures:
        result = measure()
        refused += result.refused
        print(result, flush=True)
    connects = [connects_while_refused(seed) for seed in range(arguments.seeds)]
    print(
        f"a host that refuses for {REFUSAL_S / 60:.0f} minutes sees {statistics.mean(connects):.0f} connects of a slot "
        f"on average, {max(connects)} at most ({len(connects)} seeds)"
    )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
