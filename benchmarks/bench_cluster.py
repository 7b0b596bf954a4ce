"""A cluster on one machine: what a local read costs, how much later a push arrives, a thousand markets.

    make bench-cluster [ARGS="--parts read,message,push,scale --markets 1000 --nodes 4"]

The exchange is a process of its own, and each node is one. Times of the part push are of one process, which has a depth
cache of its own and a reader of the cluster: how much later the reader knew an update id than the depth cache. The part
scale counts the processor time of the nodes between two moments at which all is at rest.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import ldc
import ldc.cluster
from ldc.cluster.message import push_from, push_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kits"))
from cluster_kit import ClusterProcesses, is_covered, wait_until
from network_kit import free_port

MARKETS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]
PUSH_S = 20.0
REST_S = 10.0
READ_MUST_US, PUSH_MUST_MS = 5.0, 0.6


@contextmanager
def exchange_of(markets: list[str], updates_per_second: float) -> Iterator[SimpleNamespace]:
    """Run the embedded exchange as a process; yield its addresses."""
    port = free_port()
    program = (
        "import sys\nfrom ldc.simulator import SimulatedExchange\n"
        f"with SimulatedExchange(sys.argv[1].split(','), port={port}, levels=200,\n"
        f"                       updates_per_second={updates_per_second}):\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-P", "-c", program, ",".join(markets)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield SimpleNamespace(
            restful_base_uri=f"http://127.0.0.1:{port}", websocket_base_uri=f"ws://127.0.0.1:{port}", process=process
        )
    finally:
        process.kill()
        process.wait()


def read() -> None:
    """Print what reads cost that are local."""
    with (
        exchange_of(MARKETS, 10) as exchange,
        ClusterProcesses(exchange, MARKETS, "ab").start_all() as nodes,
        nodes.connect(markets=MARKETS) as books,
    ):
        assert books.wait_until_synchronized(MARKETS, timeout=60)
        for levels in (1, 5, 20):
            timer = timeit.Timer(lambda levels=levels: books.get_book("BTCUSDT", levels))
            best_us = min(timer.repeat(20, 500)) / 500 * 1e6
            must = f" (at most {READ_MUST_US:g})" if levels == 20 else ""
            print(f"read    {levels:>5} levels   {best_us:7.2f} us{must}")


def message() -> None:
    """Print what a push costs a node and a reader."""
    book = ldc.OrderBook("spot", market="BTCUSDT")
    sides = {"bids": [[str(100 - each), "1.5"] for each in range(50)]}
    sides["asks"] = [[str(101 + each), "1.5"] for each in range(50)]
    book.load_snapshot(json.dumps({"lastUpdateId": 1, **sides}))
    data = push_of("BTCUSDT", book.reader, 20)
    for what, function in (("node", lambda: push_of("BTCUSDT", book.reader, 20)), ("reader", lambda: push_from(data))):
        best_us = min(timeit.repeat(function, number=2000, repeat=10)) / 2000 * 1e6
        print(f"message {len(data):>5} bytes    {best_us:7.2f} us on the {what}")


def follow(wait: object, known: dict[int, float], ends: threading.Event) -> None:
    """Note when each update id was known."""
    last = None
    while not ends.is_set():
        last = wait("BTCUSDT", last, 1.0) or last  # type: ignore[operator]
        known.setdefault(last, time.perf_counter())


def push() -> None:
    """Print how much later than a depth cache of the same process a reader knows an update."""
    with (
        exchange_of(MARKETS, 10) as exchange,
        ClusterProcesses(exchange, MARKETS, "ab").start_all() as nodes,
        nodes.connect(markets=MARKETS) as books,
        ldc.BinanceLocalDepthCacheManager(
            "binance.com",
            restful_base_uri=exchange.restful_base_uri,
            websocket_base_uri=exchange.websocket_base_uri,
        ) as manager,
    ):
        manager.create_depth_cache("BTCUSDT")
        assert books.wait_until_synchronized(MARKETS, timeout=60)
        assert manager.wait_until_synchronized("BTCUSDT", timeout=60)
        ends, local, remote = threading.Event(), {}, {}
        threads = [
            threading.Thread(target=follow, args=(wait, known, ends))
            for wait, known in ((manager.wait_for_update, local), (books.wait_for_update, remote))
        ]
        for thread in threads:
            thread.start()
        time.sleep(PUSH_S)
        ends.set()
        for thread in threads:
            thread.join()
    later_ms = sorted((remote[each] - local[each]) * 1000 for each in local.keys() & remote.keys() if each is not None)
    p50, p99 = statistics.median(later_ms), later_ms[int(0.99 * len(later_ms))]
    print(f"push    {len(later_ms):>5} updates  {p50:+.2f} ms p50 (at most {PUSH_MUST_MS:+g}), {p99:+.2f} ms p99")


def usage(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the processor seconds of a process, and its proportional memory in MB."""
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(rollup) / 1000


def scale(count: int, names: str, updates_per_second: float) -> None:
    """Print how soon so many markets are there twice, and what they cost."""
    markets = [f"M{number:04}USDT" for number in range(count)]
    with exchange_of(markets, updates_per_second) as exchange, ClusterProcesses(exchange, markets, names) as nodes:
        started = time.monotonic()
        nodes.start_all()
        with nodes.connect() as books:
            wait_until(lambda: is_covered(books, markets, 1), "one replica of each market", 170)
            first_s = time.monotonic() - started
            wait_until(lambda: is_covered(books, markets, 2), "two replicas of each market", 170)
            print(f"scale   {count} markets x 2 on {len(names)} nodes, {updates_per_second:g} updates/s each")
            print(f"        one replica of each after {first_s:.1f} s, two after {time.monotonic() - started:.1f} s")
            before, at = [usage(each) for each in nodes.processes.values()], time.monotonic()
            own_before = resource.getrusage(resource.RUSAGE_SELF)
            time.sleep(REST_S)
            after, took_s = [usage(each) for each in nodes.processes.values()], time.monotonic() - at
            own_after = resource.getrusage(resource.RUSAGE_SELF)
            busy = sum(now[0] - then[0] for now, then in zip(after, before, strict=True)) / took_s
            memory = sum(each[1] for each in after)
            replicas = 2 * count
            print(f"        nodes: {100 * busy:.0f} % of a core, {1e6 * busy / replicas:.0f} us a second and replica")
            print(f"        memory: {memory:.0f} MB of all nodes, {1000 * memory / replicas:.0f} kB a replica")
            spent = sum(getattr(own_after, each) - getattr(own_before, each) for each in ("ru_utime", "ru_stime"))
            print(f"        a reader of the tokens alone: {100 * spent / took_s:.1f} % of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="read,message,push,scale")
    parser.add_argument("--markets", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--updates", type=float, default=1.0, help="a second and market, in the part scale")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if "read" in parts:
        read()
    if "message" in parts:
        message()
    if "push" in parts:
        push()
    if "scale" in parts:
        scale(options.markets, "abcdefgh"[: options.nodes], options.updates)


if __name__ == "__main__":
    main()
