"""How long a cold start takes, in front of the embedded exchange: all readable, and all at 1,000 levels.

    python benchmarks/bench_cold_start.py 200 1500
    python benchmarks/bench_cold_start.py 1500 --deepen

Prints one line for each number of markets; how far it is goes to standard error. The second command waits for most of
its 25 minutes.

The exchange counts weights as the real one does; it runs in a process of its own. The budget is what takes the time: a
minute has 6,000, of which 4,800 are used; a snapshot of 100 levels costs 5, one of 1,000 levels 50, and what only makes
books deeper leaves a quarter of the 4,800 free.
"""

import argparse
import json
import subprocess
import sys
import threading
import time

import ldc

EXCHANGE = """
import json, sys
from ldc.simulator import SimulatedExchange
markets = [f"COIN{number}USDT" for number in range(int(sys.argv[1]))]
with SimulatedExchange(markets, seed=1, levels=int(sys.argv[2]), updates_per_second=float(sys.argv[3])) as exchange:
    print(exchange.restful_base_uri, exchange.websocket_base_uri, flush=True)
    sys.stdin.read()
    print(json.dumps(exchange.statistics()), flush=True)
"""

TOLD_EVERY_S = 60.0
DEEP_LEVELS = 1000


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"    {text}", file=sys.stderr, flush=True)


def wait_until_readable(manager: ldc.BinanceLocalDepthCacheManager, count: int, began: float) -> float:
    """Return after how long all could be read."""
    while (progress := manager.get_progress()).synchronized < count:
        left = "?" if progress.seconds_left is None else f"{progress.seconds_left:.0f}"
        say(f"{progress.synchronized} readable after {time.monotonic() - began:.0f} s, {left} s left")
        manager.wait_until_synchronized(timeout=5.0)
    return time.monotonic() - began


def wait_until_deep(manager: ldc.BinanceLocalDepthCacheManager, began: float) -> float:
    """Return after how long the last snapshot of each had so many levels."""
    caches = [manager.get_depth_cache(market) for market in manager.get_list_of_depth_caches()]
    pause, told_at = threading.Event(), began
    while shallow := sum(cache.live.synchronizer.refresher.limit < DEEP_LEVELS for cache in caches):
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            say(f"{len(caches) - shallow} at {DEEP_LEVELS:,} levels after {told_at - began:.0f} s")
        pause.wait(0.5)
    return time.monotonic() - began


def measure(count: int, levels: int, updates_per_second: float, deepens: bool) -> None:
    """Start once, and print what came of it."""
    command = [sys.executable, "-c", EXCHANGE, str(count), str(levels), str(updates_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdout is not None
        rest, websocket = exchange.stdout.readline().split()
        manager = ldc.BinanceLocalDepthCacheManager(
            restful_base_uri=rest, websocket_base_uri=websocket, snapshot_limit=DEEP_LEVELS if deepens else 100
        )
        with manager:
            began = time.monotonic()
            manager.create_depth_cache([f"COIN{number}USDT" for number in range(count)])
            results = [f"{count} markets: all readable after {wait_until_readable(manager, count, began):.1f} s"]
            if deepens:
                results.append(f"all at {DEEP_LEVELS:,} levels after {wait_until_deep(manager, began):.1f} s")
            statuses = [manager.get_depth_cache(each).status() for each in manager.get_list_of_depth_caches()]
            resyncs = sum(sum(status.resyncs.values()) for status in statuses)
        statistics = json.loads(exchange.communicate("")[0])
        results.append(f"weight used {statistics['weight_used']:,}")
        results += [f"{status}s {statistics.get(f'status_{status}', 0)}" for status in (429, 418)]
        print(", ".join([*results, f"resyncs {resyncs}"]), flush=True)


def main() -> None:
    """Measure what the command line names."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("counts", nargs="*", type=int, default=[200])
    arguments.add_argument("--deepen", action="store_true", help=f"go on until all are at {DEEP_LEVELS:,} levels")
    arguments.add_argument("--levels", type=int, default=1200)
    arguments.add_argument("--updates-per-second", type=float, default=1.0)
    chosen = arguments.parse_args()
    for count in chosen.counts:
        measure(count, chosen.levels, chosen.updates_per_second, chosen.deepen)


if __name__ == "__main__":
    main()
