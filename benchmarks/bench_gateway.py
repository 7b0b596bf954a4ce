"""What the gateway costs: REST reads, the time that a diff takes to pass, and listeners. Over loopback.

    python benchmarks/bench_gateway.py [--seconds 5] [--listeners 200]

The exchange and the clients run in this process, the gateway in one of its own, so that its processor time is known.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import aiohttp

from ldc.simulator import SimulatedExchange

MARKETS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT")


def cpu_s(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))[1])


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def rest(base: str, pid: int, limit: int, seconds: float) -> str:
    """Read one market over a kept connection, one request after the other."""
    url, took = f"{base}/api/v3/depth?symbol=BTCUSDT&limit={limit}", []
    async with aiohttp.ClientSession() as session:
        cpu, ends = cpu_s(pid), time.perf_counter() + seconds
        while time.perf_counter() < ends:
            began = time.perf_counter()
            async with session.get(url) as reply:
                await reply.read()
            took.append((time.perf_counter() - began) * 1e3)
        spent = (cpu_s(pid) - cpu) / len(took) * 1e6
    middle, late = statistics.median(took), percentile(took, 0.99)
    return f"depth {limit:>5}: p50 {middle:.2f} ms, p99 {late:.2f} ms, {spent:.0f} us of processor time"


async def hop(exchange: str, gateway: str, seconds: float) -> str:
    """Compare when the same diff arrives from the exchange and by the gateway."""
    arrived: dict[str, dict[int, float]] = {exchange: {}, gateway: {}}

    async def follow(base: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{base}/ws/btcusdt@depth@100ms") as socket:
            async for message in socket:
                arrived[base].setdefault(json.loads(message.data)["u"], time.perf_counter())

    tasks = [asyncio.create_task(follow(base)) for base in arrived]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    later = [(at - arrived[exchange][u]) * 1e3 for u, at in arrived[gateway].items() if u in arrived[exchange]]
    middle, late = statistics.median(later), percentile(later, 0.99)
    return f"a diff by the gateway comes later by p50 {middle:.2f} ms, p99 {late:.2f} ms"


async def listeners(gateway: str, pid: int, count: int, seconds: float) -> str:
    """Let many listen to four markets' 20 levels, every 100 ms."""
    streams = "/".join(f"{market.lower()}@depth20@100ms" for market in MARKETS)
    before = rss_kb(pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        sockets = [await session.ws_connect(f"{gateway}/stream?streams={streams}") for _ in range(count)]
        received = 0

        async def follow(socket: aiohttp.ClientWebSocketResponse) -> None:
            nonlocal received
            async for _ in socket:
                received += 1

        tasks = [asyncio.create_task(follow(socket)) for socket in sockets]
        await asyncio.sleep(1)
        cpu, start = cpu_s(pid), received
        await asyncio.sleep(seconds)
        share, rate = (cpu_s(pid) - cpu) / seconds * 100, (received - start) / seconds
        memory = (rss_kb(pid) - before) / count
        for task in tasks:
            task.cancel()
    return (
        f"{count} listeners of 4 markets: {rate:.0f} messages/s arrive, {share:.0f} % of a core, {memory:.0f} kB each"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--listeners", type=int, default=200)
    options = parser.parse_args()
    with SimulatedExchange(MARKETS, levels=6000) as exchange:
        command = [sys.executable, "-P", "-m", "ldc", "serve", *MARKETS, "--port", "0", "--restful-base-uri",
                   exchange.restful_base_uri, "--websocket-base-uri", exchange.websocket_base_uri]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                base = re.search(r"page +(\S+)/\n", "".join(process.stdout.readline() for _ in range(3)))[1]
                while not ready(base):
                    time.sleep(0.1)
                time.sleep(2)
                asyncio.run(measure(base, exchange.websocket_base_uri, process.pid, options))
            finally:
                process.terminate()


async def measure(base: str, exchange: str, pid: int, options: argparse.Namespace) -> None:
    """Print one line for each thing that is measured."""
    websocket = base.replace("http", "ws", 1)
    for limit in (20, 1000):
        print(await rest(base, pid, limit, options.seconds))
    print(await hop(exchange, websocket, options.seconds))
    print(await listeners(websocket, pid, options.listeners, options.seconds))


def ready(base: str) -> bool:
    """Return whether all books can be read."""
    try:
        with urllib.request.urlopen(f"{base}/readyz"):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
