"""How long books cannot be read after each of a series of faults: `make bench-recovery`.

The embedded exchange runs in a process of its own. Every 5 seconds it resets the connection that brings all markets,
or leaves out one update of one market. The time counts from the first look that finds a book unreadable to the first
that finds all readable again; a look comes every 2 ms. A series shows whether a fault makes the next one dearer.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import ldc

EXCHANGE = """
import sys
from ldc.simulator import SimulatedExchange
with SimulatedExchange(sys.argv[2:], venue=sys.argv[1], seed=1, updates_per_second=20.0) as exchange:
    print(exchange.restful_base_uri, exchange.websocket_base_uri, flush=True)
    for line in sys.stdin:
        name, market = line.split()
        exchange.inject(name, market=None if market == "-" else market)
"""

LOOK_EVERY_S = 0.002
NOTICED_WITHIN_S = 3.0
"""A fault that no look has noticed after so long counts as 0 seconds."""
BACK_WITHIN_S = 120.0


def wait_for(happened: Callable[[], bool], at_most_s: float) -> bool:
    """Look until it has happened; return whether it has."""
    ends, pause = time.monotonic() + at_most_s, threading.Event()
    while not happened():
        if time.monotonic() > ends:
            return False
        pause.wait(LOOK_EVERY_S)
    return True


def outages_s(manager: ldc.BinanceLocalDepthCacheManager, inject: Callable[[], None], count: int) -> list[float]:
    """Inject so many faults, 5 seconds apart; return for each how long not all books could be read."""
    total, found, pause = len(manager.get_list_of_depth_caches()), [], threading.Event()
    for _ in range(count):
        begun = time.monotonic()
        inject()
        if wait_for(lambda: manager.get_progress().synchronized < total, NOTICED_WITHIN_S):
            lost = time.monotonic()
            if not wait_for(lambda: manager.get_progress().synchronized == total, BACK_WITHIN_S):
                raise SystemExit(f"not all books are readable {BACK_WITHIN_S:.0f} s after a fault")
            found.append(time.monotonic() - lost)
        else:
            found.append(0.0)
        pause.wait(max(0.0, 5.0 - (time.monotonic() - begun)))
    return found


def run(name: str, markets: int, resets: int, gaps: int) -> dict[str, list[float]]:
    """Return the outages of one kind of exchange by fault."""
    names = [f"COIN{number}USDT" for number in range(markets)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", EXCHANGE, name, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    rest, stream = process.stdout.readline().split()

    def inject(fault: str, market: str) -> None:
        process.stdin.write(f"{fault} {market}\n")
        process.stdin.flush()

    try:
        with ldc.BinanceLocalDepthCacheManager(name, websocket_base_uri=stream, restful_base_uri=rest) as manager:
            manager.create_depth_cache(names)
            if not manager.wait_until_synchronized(timeout=BACK_WITHIN_S):
                raise SystemExit("the books were never readable")
            return {
                "reset": outages_s(manager, lambda: inject("reset", "-"), resets),
                "gap": outages_s(manager, lambda: inject("drop", names[0]), gaps),
            }
    finally:
        process.stdin.close()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--exchange", nargs="+", default=["binance.com", "binance.com-futures"])
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--resets", type=int, default=20)
    parser.add_argument("--gaps", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print every outage, for programs")
    arguments = parser.parse_args()
    for name in arguments.exchange:
        for fault, found in run(name, arguments.markets, arguments.resets, arguments.gaps).items():
            if arguments.json:
                print(json.dumps({"exchange": name, "fault": fault, "outages_s": found}), flush=True)
                continue
            p95 = sorted(found)[max(0, round(0.95 * len(found)) - 1)] if found else 0.0
            print(
                f"{name:22}{fault:8}{len(found):3} times, 5 s apart, {arguments.markets} markets: "
                f"p50 {statistics.median(found or [0]):.2f} s, p95 {p95:.2f} s, longest {max(found or [0]):.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
