"""How long a cold start takes, in front of the embedded exchange: all readable, and all at 1,000 levels.

    python benchmarks/bench_cold_start.py 200 1500

The exchange counts weights as the real one does; it runs in a process of its own. The budget is what takes the time: a
minute has 6,000, of which 4,800 are used; a snapshot of 100 levels costs 5, one of 1,000 levels 50.
"""

import argparse
import subprocess
import sys
import threading
import time

import ldc

EXCHANGE = """
import sys
from ldc.simulator import SimulatedExchange
markets = [f"COIN{number}USDT" for number in range(int(sys.argv[1]))]
with SimulatedExchange(markets, seed=1, levels=int(sys.argv[2]), updates_per_second=float(sys.argv[3])) as exchange:
    print(exchange.restful_base_uri, exchange.websocket_base_uri, flush=True)
    sys.stdin.read()
    print(exchange.statistics(), flush=True)
"""


def measure(count: int, levels: int, updates_per_second: float, deepens: bool) -> None:
    """Start once, and print what came of it."""
    command = [sys.executable, "-c", EXCHANGE, str(count), str(levels), str(updates_per_second)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdout is not None
        rest, websocket = exchange.stdout.readline().split()
        limit = 1000 if deepens else 100
        manager = ldc.BinanceLocalDepthCacheManager(
            restful_base_uri=rest, websocket_base_uri=websocket, snapshot_limit=limit
        )
        with manager:
            began = time.monotonic()
            manager.create_depth_cache([f"COIN{number}USDT" for number in range(count)])
            said: list[str] = []
            pause = threading.Event()
            while (progress := manager.get_progress()).synchronized < count:
                left = "?" if progress.seconds_left is None else f"{progress.seconds_left:.0f}"
                said.append(f"{progress.synchronized} after {time.monotonic() - began:.0f} s, {left} s left")
                manager.wait_until_synchronized(timeout=5.0)
            print(f"{count} markets readable after {time.monotonic() - began:.1f} s", flush=True)
            print("   ", "; ".join(said), flush=True)
            if deepens:
                caches = [manager.get_depth_cache(market) for market in manager.get_list_of_depth_caches()]
                while sum(min(cache.reader.bid_count, cache.reader.ask_count) < 800 for cache in caches):
                    pause.wait(0.5)
                print(f"{count} markets at 1,000 levels after {time.monotonic() - began:.1f} s", flush=True)
        print("   ", exchange.communicate("")[0].strip(), flush=True)


def main() -> None:
    """Measure what the command line names."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("counts", nargs="*", type=int, default=[200])
    arguments.add_argument("--deepen", action="store_true", help="go on until all are at 1,000 levels")
    arguments.add_argument("--levels", type=int, default=1200)
    arguments.add_argument("--updates-per-second", type=float, default=1.0)
    chosen = arguments.parse_args()
    for count in chosen.counts:
        measure(count, chosen.levels, chosen.updates_per_second, chosen.deepen)


if __name__ == "__main__":
    main()
