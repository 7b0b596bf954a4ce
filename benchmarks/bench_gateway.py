"""What the gateway costs: REST reads, the way of a diff, listeners, and what it refuses. Over loopback.

    python benchmarks/bench_gateway.py [--seconds 5] [--listeners 200] [--parts rest,hop,listeners,idle,refused,unread]

The exchange and the clients run in this process, the gateway in one of its own, so that its processor time is known.
What it spends on the books themselves is measured first, and taken off.
"""

import argparse
import asyncio
import http.client
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

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


def idle_share(pid: int, seconds: float) -> float:
    """Return the processor time per second that the gateway's books take, without a client."""
    cpu, began = cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    return (cpu_s(pid) - cpu) / (time.perf_counter() - began)


def rest(base: str, pid: int, limit: int, seconds: float, share: float) -> str:
    """Read one market over a kept connection, one request after the other, with a client that costs next to nothing."""
    host, port = urlsplit(base).hostname, urlsplit(base).port
    request = f"GET /api/v3/depth?symbol=BTCUSDT&limit={limit} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    took: list[float] = []
    with socket.create_connection((host, port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cpu, starts = cpu_s(pid), time.perf_counter()
        while time.perf_counter() - starts < seconds:
            began = time.perf_counter()
            client.sendall(request)
            head, _, body = client.recv(1 << 16).partition(b"\r\n\r\n")
            left = int(re.search(rb"Content-Length: (\d+)", head)[1]) - len(body)
            while left:
                left -= len(client.recv(1 << 18))
            took.append((time.perf_counter() - began) * 1e3)
        spent = (cpu_s(pid) - cpu - share * (time.perf_counter() - starts)) / len(took) * 1e6
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


async def idle(gateway: str, pid: int, count: int) -> str:
    """Let many websockets listen to nothing, and say what one costs."""
    before = rss_kb(pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        sockets = [await session.ws_connect(f"{gateway}/ldc/ws") for _ in range(count)]
        await asyncio.sleep(1)
        memory, cpu = (rss_kb(pid) - before) / len(sockets), cpu_s(pid)
        await asyncio.sleep(2)
        share = (cpu_s(pid) - cpu) / 2 * 100
    return f"{count} idle websockets: {memory:.1f} kB each, {share:.1f} % of a core with the books"


def refused(base: str, pid: int, count: int) -> str:
    """Open ever more connections, and keep them; say how many stay, and whether one from before is still answered."""
    host, port = urlsplit(base).hostname, urlsplit(base).port
    early = http.client.HTTPConnection(host, port)

    def ask(path: str) -> bytes:
        early.request("GET", path)
        return early.getresponse().read()

    ask("/healthz")
    before, kept, most = rss_kb(pid), [], 0.0
    began = time.perf_counter()
    for number in range(count):
        kept.append(socket.create_connection((host, port)))
        if number % 200 == 0:
            asked_at = time.perf_counter()
            ask("/healthz")
            most = max(most, time.perf_counter() - asked_at)
    took, memory = time.perf_counter() - began, (rss_kb(pid) - before) / 1024
    counts = json.loads(ask("/ldc/status"))["gateway"]
    for each in (early, *kept):
        each.close()
    return (
        f"{count} connections in {took:.1f} s: {counts['connections_max']} refused, {counts.get('head_s', 0)} ended "
        f"because they said nothing, {memory:.0f} MB more; one from before is answered within {most * 1e3:.0f} ms"
    )


async def unread(base: str, gateway: str, exchange: SimulatedExchange, pid: int, count: int) -> str:
    """Let clients subscribe to diffs and never read; say what they cost at most, and how they end."""
    host, port = urlsplit(base).hostname, urlsplit(base).port
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, port))
        client.sendall(
            b"GET /ws/btcusdt@depth@100ms HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        clients.append(client)
    await asyncio.sleep(1)
    before = most = rss_kb(pid)
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{gateway}/ws/btcusdt@bookTicker") as reader:

        async def gateway_counts() -> dict[str, int]:
            async with session.get(f"{base}/ldc/status") as reply:
                return (await reply.json())["gateway"]

        while (await gateway_counts()).get("unsent_bytes_max", 0) < count:
            await asyncio.to_thread(exchange.advance, "BTCUSDT", 500)
            await reader.receive()
            most = max(most, rss_kb(pid))
    for client in clients:
        client.close()
    return (
        f"{count} clients of diffs that never read: {(most - before) / count / 1024:.1f} MB each at most, all aborted"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--unread", type=int, default=10)
    parser.add_argument("--parts", default="rest,hop,listeners,idle,refused,unread")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with SimulatedExchange(MARKETS, levels=6000) as exchange:
        command = [sys.executable, "-P", "-m", "ldc", "serve", *MARKETS, "--port", "0", "--restful-base-uri",
                   exchange.restful_base_uri, "--websocket-base-uri", exchange.websocket_base_uri]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                base = re.search(r"page +(\S+)/\n", "".join(process.stdout.readline() for _ in range(3)))[1]
                while not ready(base):
                    time.sleep(0.1)
                time.sleep(2)
                measure(base, exchange, process.pid, options)
            finally:
                process.terminate()


def measure(base: str, exchange: SimulatedExchange, pid: int, options: argparse.Namespace) -> None:
    """Print one line for each thing that is measured."""
    websocket, seconds = base.replace("http", "ws", 1), options.seconds
    parts = options.parts.split(",")
    if "rest" in parts:
        share = idle_share(pid, seconds)
        print(f"the books of {len(MARKETS)} markets, without a client: {share * 100:.1f} % of a core")
        for limit in (20, 1000):
            print(rest(base, pid, limit, seconds, share))
    if "hop" in parts:
        print(asyncio.run(hop(exchange.websocket_base_uri, websocket, seconds)))
    if "idle" in parts:  # before the others have made the process larger
        print(asyncio.run(idle(websocket, pid, options.idle)))
    if "listeners" in parts:
        print(asyncio.run(listeners(websocket, pid, options.listeners, seconds)))
    if "unread" in parts:
        print(asyncio.run(unread(base, websocket, exchange, pid, options.unread)))
    if "refused" in parts:
        print(refused(base, pid, options.connections))


def ready(base: str) -> bool:
    """Return whether all books can be read."""
    try:
        with urllib.request.urlopen(f"{base}/readyz"):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
