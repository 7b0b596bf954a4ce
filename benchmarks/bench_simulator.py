"""What the embedded exchange costs: how much of a core it takes to serve many markets, and how late it gets.

    python benchmarks/bench_simulator.py --markets 200 --seconds 20

The exchange runs in a process of its own; here, a client on two websockets reads everything and does nothing with it.
"""

import argparse
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import websocket


def markets_of(count: int) -> list[str]:
    """Return so many names."""
    return [f"M{number:03d}USDT" for number in range(count)]


def serve(pipe: Connection, options: dict[str, Any]) -> None:
    """Serve until something comes through the pipe; answer with statistics and CPU seconds since the last time."""
    from ldc.simulator import SimulatedExchange  # needs aiohttp, which only this process has to have

    with SimulatedExchange(markets_of(options.pop("markets")), **options) as exchange:
        pipe.send(exchange.websocket_base_uri)
        while pipe.recv():
            pipe.send((exchange.statistics(), time.process_time(), time.monotonic()))


def read(url: str, seconds: float) -> tuple[int, int]:
    """Read for so long; return frames and bytes."""
    client = websocket.create_connection(url, skip_utf8_validation=True, timeout=10)
    frames = size = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _, data = client.recv_data()
        frames, size = frames + 1, size + len(data)
    client.shutdown()
    return frames, size


def measure(venue: str, markets: int, seconds: float, updates_per_second: float, levels: int) -> dict[str, float]:
    """Return what was measured, by name."""
    context = multiprocessing.get_context("spawn")
    pipe, far_end = context.Pipe()
    options = {"markets": markets, "venue": venue, "updates_per_second": updates_per_second, "levels": levels}
    process = context.Process(target=serve, args=(far_end, options), daemon=True)
    process.start()
    base = pipe.recv()
    names = [f"{name.lower()}@depth@100ms" for name in markets_of(markets)]
    path = "/public/stream" if "futures" in venue else "/stream"
    totals: list[tuple[int, int]] = []
    threads = [
        threading.Thread(
            target=lambda part: totals.append(read(f"{base}{path}?streams={'/'.join(part)}", seconds + 2)), args=(part,)
        )
        for part in (names[::2], names[1::2])
        if part
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)  # the markets begin to trade when somebody listens
    before = ask(pipe)
    time.sleep(seconds)
    after = ask(pipe)
    for thread in threads:
        thread.join()
    pipe.send(False)
    process.join()
    elapsed_s = after[2] - before[2]
    return {
        "windows a second": (after[0]["ticks"] - before[0]["ticks"]) / elapsed_s,
        "updates a second": (after[0]["updates"] - before[0]["updates"]) / elapsed_s,
        "frames sent a second": (after[0]["frames_sent"] - before[0]["frames_sent"]) / elapsed_s,
        "CPU share of one core": (after[1] - before[1]) / elapsed_s,
        "CPU us a window": (after[1] - before[1]) / max(1, after[0]["ticks"] - before[0]["ticks"]) * 1e6,
        "latest window, ms late": after[0]["late_ms_max"],
        "windows skipped": after[0]["ticks_skipped"],
        "frames read": sum(frames for frames, _ in totals),
        "bytes a frame": sum(size for _, size in totals) / max(1, sum(frames for frames, _ in totals)),
    }


def ask(pipe: Connection) -> tuple[dict[str, Any], float, float]:
    """Return (statistics, CPU seconds, time) of the exchange's process."""
    pipe.send(True)
    answer: tuple[dict[str, Any], float, float] = pipe.recv()
    return answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="measure the embedded exchange")
    parser.add_argument("--venue", default="binance.com")
    parser.add_argument("--markets", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--updates-per-second", type=float, default=10)
    parser.add_argument("--levels", type=int, default=500)
    found = measure(**vars(parser.parse_args()))
    for name, value in found.items():
        print(f"{name:>24}: {value:,.2f}")


if __name__ == "__main__":
    main()
