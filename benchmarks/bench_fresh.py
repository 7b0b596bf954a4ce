"""How old the book is, as the bot sees it, while the bot's own Python threads compute: `make bench-fresh`.

The exchange is a process of its own. It sends an update about every 27 ms, and writes into each when it was sent, so
that the age is known to the microsecond whatever the clocks of the protocol say. A thread of the bot observes the book
as fast as it can, beside none, one, or two threads of pure Python.

    received    when the book had the update, after it was sent
    seen        when the observing thread saw it there; of other libraries: when their client handed the update on

Each row runs in a process of its own, one after the other; the name of a row is what `--rows` takes:

    ldc, ldc-tls                this build, with the loop that reads without the GIL
    python-loop                 the same with the loop in Python (LDC_NATIVE_LOOP=0)
    floor                       another process writes the time into shared memory, and the same thread observes that
    ldc-waiting, python-binance, ccxt, cryptofeed, UBLDC
                                the clients of `bench_loopback_clients`, which follow a recorded market, 37 updates a
                                second; a book that is wrong in the end gets no number
    websocket-client, picows    the same, and they make no book

A row takes two to three minutes with the usual 1,500 updates, so three rows are a call of less than eight minutes:

    python benchmarks/bench_fresh.py                                        ldc, ldc-tls, floor
    python benchmarks/bench_fresh.py --rows ldc-waiting websocket-client picows
    python benchmarks/bench_fresh.py --rows python-binance ccxt cryptofeed
"""

import argparse
import json
import mmap
import multiprocessing
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import bench_loopback_clients
from bench_loopback import WARM_UP_UPDATES, Truth, measure
from bench_recordings import load_busy_spot_recording, synthetic_recording
from bench_sender import Sender, tls_in

UPDATES_PER_S = 37.0
"""Not a divisor of anything: so that updates and switch intervals are not in step."""

LEVELS = 20
BUSY = (0, 1, 2)
SAMPLES_MIN = 1_500
"""A p99 of fewer is not told."""

FIRST = 5
"""Updates that are left out, when the threads that compute have just begun."""

OWN = {"ldc": {}, "ldc-tls": {}, "python-loop": {"LDC_NATIVE_LOOP": "0"}}
FLOOR = "floor"
CLIENTS = {"ldc-waiting": "ldc"} | {
    name: name for name in ("websocket-client", "picows", "python-binance", "ccxt", "cryptofeed", "UBLDC")
}
ROWS = (*OWN, FLOOR, *CLIENTS)
USUAL = ("ldc", "ldc-tls", FLOOR)

MUSTS_MS = {("received", 1): (0.1, 1.0), ("received", 2): (0.1, 3.0)}
"""Above the idle row, at most: the median and the p99."""

SEEN_MUSTS_MS = {1: 0.3, 2: 2.0}
"""The p99 of what is seen, above that of the floor, at most."""


# ------------------------------------------------------------------------------------------------------- the exchange


def stamped(number: int, sent_ns: int) -> bytes:
    """Return the update of that number; the quantity at 1.00 is when it is sent, in seconds."""
    stamp = f"{sent_ns // 10**9}.{sent_ns % 10**9:09d}"
    bids = [["1.00", stamp], *([f"{100 - place / 100:.2f}", f"{number % 97}.5"] for place in range(LEVELS - 1))]
    data = {"e": "depthUpdate", "E": sent_ns // 10**6, "s": "BTCUSDT", "U": number, "u": number, "b": bids, "a": []}
    text = json.dumps({"stream": "btcusdt@depth@100ms", "data": data}, separators=(",", ":")).encode()
    return bytes([0x81, 126]) + struct.pack(">H", len(text)) + text


def serve(pipe: Pipe, folder: Path | None) -> None:
    """Be the exchange, over TLS if there is a folder for its certificate: tell the port, and send until the end."""
    number = 1_000

    def snapshot(_path: str, _query: dict[str, str]) -> bytes:
        bids = [["100.00", "1.0"], ["1.00", "1.000000001"]]
        return json.dumps({"lastUpdateId": number, "bids": bids, "asks": [["101.00", "1.0"]]}).encode()

    sender = Sender(snapshot, tls_in(folder))
    pipe.send(sender.port)
    dice, due = random.Random(1), time.monotonic()
    while not pipe.poll():
        due += dice.uniform(0.5, 1.5) / UPDATES_PER_S
        sender.serve_until(due)
        number += 1
        for client in sender.listeners_of("btcusdt@depth@100ms"):
            try:
                client.socket.sendall(stamped(number, time.time_ns()))
            except OSError:  # its end is noticed when it is read
                pass


@contextmanager
def exchange(folder: Path | None) -> Iterator[int]:
    """Start the exchange; give its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, folder), daemon=True)
    server.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()  # which it reads as the end
        server.join(5)
        server.kill()


def write_shared(path: str) -> None:
    """Be the floor: write the time into shared memory, at the same pace."""
    dice = random.Random(1)
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 16) as memory:
        due = time.monotonic()
        while True:
            due += dice.uniform(0.5, 1.5) / UPDATES_PER_S
            time.sleep(max(0.0, due - time.monotonic()))
            memory[:8] = time.time_ns().to_bytes(8, "little")


# ----------------------------------------------------------------------------------------------------------- the bot


def compute(stop: threading.Event) -> None:
    """Be a thread that computes in Python."""
    while not stop.is_set():
        sum(range(1_000))


@contextmanager
def computing(busy: int) -> Iterator[None]:
    """Compute in so many threads."""
    stop = threading.Event()
    threads = [threading.Thread(target=compute, args=(stop,), daemon=True) for _ in range(busy)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def observe(look: Callable[[], tuple[int, int] | None], samples: int) -> tuple[list[float], list[float]]:
    """Return the ages, ms, at which new updates were received and seen."""
    received, seen, last = [], [], 0
    while len(seen) < samples + FIRST:
        found = look()
        if found is None or found[0] == last:
            time.sleep(0.0001)
            continue
        now = time.time_ns()
        last = found[0]
        seen.append((now - last) / 1e6)
        received.append((found[1] - last) / 1e6)
    return received[FIRST:], seen[FIRST:]


def run_row(look: Callable[[], tuple[int, int] | None], samples: int) -> dict[str, Any]:
    """Observe beside each number of busy threads."""
    rows = {}
    for busy in BUSY:
        with computing(busy):
            rows[str(busy)] = dict(zip(("received", "seen"), observe(look, samples), strict=True))
    return rows


def run_ldc(url: str, samples: int) -> dict[str, Any]:
    """Be a bot with a depth cache."""
    import ldc

    with ldc.BinanceLocalDepthCacheManager(restful_base_uri=f"http{url}", websocket_base_uri=f"ws{url}") as manager:
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized(timeout=20)
        time.sleep(2)
        reader = manager.get_depth_cache("BTCUSDT").reader

        def look() -> tuple[int, int] | None:
            try:
                view = reader.view(number=str)
            except ldc.DepthCacheOutOfSync:
                return None
            seconds, _, fraction = view.bids[-1][1].partition(".")
            return int(seconds) * 10**9 + int(f"{fraction:0<9}"), view.received_time_ns or 0

        rows = run_row(look, samples)
        rows["reading"] = str(manager.get_status("BTCUSDT").connections[0].reading)
        return rows


def run_floor(path: str, samples: int) -> dict[str, Any]:
    """Be a bot that looks at shared memory."""
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 16) as memory:

        def look() -> tuple[int, int] | None:
            stamp = int.from_bytes(memory[:8], "little")
            return (stamp, stamp) if stamp else None

        return run_row(look, samples)


def run_client(busy: int, pipe: Pipe, name: str, port: int, markets: list[str], patience_s: float) -> None:
    """Be the process of a client of `bench_loopback_clients`, beside busy threads."""
    with computing(busy):
        bench_loopback_clients.run(pipe, name, port, markets, patience_s)


# ------------------------------------------------------------------------------------------------------ starting rows


def own_process(row: str, at: str, samples: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run a row of ldc, or the floor, in a process of its own."""
    command = [sys.executable, __file__, "--row", row, "--at", at, "--samples", str(samples)]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        return {"failed": ran.stderr[-2000:]}
    return dict(json.loads(ran.stdout))


def measured_ldc(name: str, samples: int) -> dict[str, Any]:
    """Return the ages of a row of ldc."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text) if name.endswith("tls") else None
        with exchange(folder) as port:
            trusted = {"REQUESTS_CA_BUNDLE": str(folder / "loopback.pem")} if folder else {}
            return own_process("ldc", f"{'s' if folder else ''}://127.0.0.1:{port}", samples, OWN[name] | trusted)


def measured_floor(samples: int) -> dict[str, Any]:
    """Return the ages of the floor."""
    path = f"/dev/shm/ldc-bench-{os.getpid()}"
    Path(path).write_bytes(b"\0" * 16)
    writer = multiprocessing.get_context("spawn").Process(target=write_shared, args=(path,), daemon=True)
    writer.start()
    try:
        return own_process(FLOOR, path, samples, {})
    finally:
        writer.kill()
        Path(path).unlink()


def measured_client(name: str, samples: int, truth: Truth) -> dict[str, Any]:
    """Return the ages of a client's row."""
    rows = {}
    for busy in BUSY:
        [found] = measure(CLIENTS[name], 1, truth, [(UPDATES_PER_S, samples)], target=partial(run_client, busy))
        if found.get("wrong") != "":
            return {"failed": f"beside {busy} busy threads: {found}"}
        rows[str(busy)] = {"seen": [each / 1e6 for each in found["delays ns"]]}
    return rows


def truth_of(samples: int) -> Truth:
    """Return the market that the clients follow: recorded if LDC_CAPTURES is set, else made up."""
    folder, needed = os.environ.get("LDC_CAPTURES"), samples + WARM_UP_UPDATES
    recording = load_busy_spot_recording(Path(folder), needed) if folder else synthetic_recording(40, needed)
    return Truth(recording.markets[0])


# ------------------------------------------------------------------------------------------------------------ the table


def quantile(values: list[float], share: float) -> float:
    """Return a quantile; of fewer than a hundred values the p99 is a guess."""
    return statistics.quantiles(values, n=1000)[int(share * 1000) - 1]


def above_idle(rows: dict[str, Any], what: str, busy: int) -> list[float]:
    """Return by how much the median and the p99 are above those of the idle row."""
    values, idle = rows[str(busy)][what], rows["0"][what]
    return [quantile(values, share) - quantile(idle, share) for share in (0.5, 0.99)]


def told(name: str, rows: dict[str, Any], floor: dict[str, Any] | None) -> None:
    """Print a row for each number of busy threads: medians and p99, and both above the idle row."""
    for what in ("received", "seen"):
        if what not in rows["0"] or (name == FLOOR and what == "received"):
            continue
        for busy in BUSY:
            values = rows[str(busy)][what]
            above = above_idle(rows, what, busy)
            verdict = ""
            if name in OWN and (musts := MUSTS_MS.get((what, busy))):
                is_kept = all(found <= must for found, must in zip(above, musts, strict=True))
                verdict = f"must {musts[0]:+} {musts[1]:+}: {'kept' if is_kept else 'MISSED'}"
            elif name in OWN and what == "seen" and busy and floor is not None:
                must = above_idle(floor, "seen", busy)[1] + SEEN_MUSTS_MS[busy]
                verdict = f"must p99 {must:+.3f}: {'kept' if above[1] <= must else 'MISSED'}"
            print(
                f"{name:<17} {what:<9} {busy} busy  n {len(values):>5}  p50 {quantile(values, 0.5):8.3f}  "
                f"p99 {quantile(values, 0.99):8.3f}  max {max(values):8.2f}   "
                f"above idle {above[0]:+8.3f} {above[1]:+8.3f}  {verdict}",
                flush=True,
            )


def measured(name: str, samples: int) -> dict[str, Any]:
    """Run a row."""
    if name == FLOOR:
        return measured_floor(samples)
    return measured_ldc(name, samples) if name in OWN else measured_client(name, samples, truth_of(samples))


def main() -> int:
    """Run each row in a process of its own, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=SAMPLES_MIN, help="updates of each row and number of threads")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(USUAL), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--row", choices=("ldc", FLOOR), help="internal: be this row")
    parser.add_argument("--at", help="internal: the address, or the file")
    options = parser.parse_args()
    if options.row:
        run = run_ldc if options.row == "ldc" else run_floor
        json.dump(run(options.at, options.samples), sys.stdout)
        return 0
    version = sys.version.split()[0]
    print(
        f"ages in ms; {UPDATES_PER_S:g} updates a second; load {os.getloadavg()[0]:.2f}; Python {version}", flush=True
    )
    if options.samples < SAMPLES_MIN:
        print(f"fewer than {SAMPLES_MIN:,} updates: a p99 says nothing", flush=True)
    has_failed, floor = False, None
    # What is seen is held against the floor, which therefore comes first.
    for name in sorted(options.rows, key=lambda row: row != FLOOR):
        rows = measured(name, options.samples)
        if "failed" in rows:
            print(f"{name}: {rows['failed']}", flush=True)
            has_failed = True
            continue
        floor = rows if name == FLOOR else floor
        told(name, rows, floor)
        if "reading" in rows:
            print(f"    {name} was read by: {rows['reading']}", flush=True)
    return 1 if has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
