"""How old the book is, as the bot sees it, while the bot's own Python threads compute: `make bench-fresh`.

The exchange is a process of its own. It sends an update about every 27 ms, and writes into each when it was sent, so
that the age is known to the microsecond whatever the clocks of the protocol say. A thread of the bot observes the book
as fast as it can, beside none, one, or two threads of pure Python.

    received    when the book had the update, after it was sent
    seen        when the observing thread saw it there

Rows: this build with the loop that reads without the GIL, the same with the loop in Python (LDC_NATIVE_LOOP=0), and the
floor: another process writes the time into shared memory, and the same thread observes that. Each row runs in a process
of its own, in turn.
"""

import argparse
import base64
import hashlib
import json
import mmap
import multiprocessing
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UPDATES_PER_S = 37.0
"""Not a divisor of anything: so that updates and switch intervals are not in step."""

LEVELS = 20
BUSY = (0, 1, 2)
SAMPLES_MIN = 1_500
"""A p99 of fewer is not told."""


# ------------------------------------------------------------------------------------------------------- the exchange


def stamped(number: int, sent_ns: int) -> bytes:
    """Return the update of that number; the quantity at 1.00 is when it is sent, in seconds."""
    stamp = f"{sent_ns // 10**9}.{sent_ns % 10**9:09d}"
    bids = [["1.00", stamp], *([f"{100 - place / 100:.2f}", f"{number % 97}.5"] for place in range(LEVELS - 1))]
    data = {"e": "depthUpdate", "E": sent_ns // 10**6, "s": "BTCUSDT", "U": number, "u": number, "b": bids, "a": []}
    text = json.dumps({"stream": "btcusdt@depth@100ms", "data": data}, separators=(",", ":")).encode()
    return bytes([0x81, 126]) + struct.pack(">H", len(text)) + text


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """Return (opcode, payload) of a short frame of a client."""
    head = sock.recv(2, socket.MSG_WAITALL)
    if len(head) < 2:
        raise ConnectionError
    length = head[1] & 0x7F
    if length == 126:
        length = struct.unpack(">H", sock.recv(2, socket.MSG_WAITALL))[0]
    mask = sock.recv(4, socket.MSG_WAITALL)
    payload = sock.recv(length, socket.MSG_WAITALL) if length else b""
    return head[0] & 0x0F, bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


class Exchange:
    """REST and websocket of one market, in the process that `serve` runs in."""

    def __init__(self) -> None:
        self.number = 1_000
        self.lock = threading.Lock()

    def snapshot(self) -> bytes:
        """Return the depth as of the last update."""
        with self.lock:
            bids = [["100.00", "1.0"], ["1.00", "1.000000001"]]
            return json.dumps({"lastUpdateId": self.number, "bids": bids, "asks": [["101.00", "1.0"]]}).encode()

    def answer(self, sock: socket.socket) -> None:
        """Answer one connection, whichever it is."""
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = sock.recv(4096)
            if not chunk:
                return
            head += chunk
        if b"pgrade: websocket" not in head:
            body = self.snapshot()
            sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
        digest = hashlib.sha1(key.split(b":")[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        threading.Thread(target=self.send_updates, args=(sock,), daemon=True).start()
        while True:
            opcode, payload = read_frame(sock)
            if opcode == 1:
                reply = json.dumps({"result": None, "id": json.loads(payload)["id"]}).encode()
                sock.sendall(bytes([0x81, len(reply)]) + reply)
            elif opcode == 9:
                sock.sendall(bytes([0x8A, len(payload)]) + payload)
            elif opcode == 8:
                return

    def send_updates(self, sock: socket.socket) -> None:
        """Send updates at their pace until the connection ends."""
        dice = random.Random(1)
        due = time.monotonic()
        while True:
            due += dice.uniform(0.5, 1.5) / UPDATES_PER_S
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                with self.lock:
                    self.number += 1
                    sock.sendall(stamped(self.number, time.time_ns()))
            except OSError:
                return


def serve(port: Any) -> None:
    """Be the exchange."""
    exchange = Exchange()

    def one(sock: socket.socket) -> None:
        try:
            exchange.answer(sock)
        except (OSError, ConnectionError):
            pass
        finally:
            sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port.send(listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=one, args=(sock,), daemon=True).start()


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


def observe(look: Callable[[], tuple[int, int] | None], samples: int) -> tuple[list[float], list[float]]:
    """Return the ages, ms, at which new updates were received and seen."""
    received, seen, last = [], [], 0
    while len(seen) < samples:
        found = look()
        if found is None or found[0] == last:
            time.sleep(0.0001)
            continue
        now = time.time_ns()
        last = found[0]
        seen.append((now - last) / 1e6)
        received.append((found[1] - last) / 1e6)
    return received[5:], seen[5:]


def run_row(look: Callable[[], tuple[int, int] | None], samples: int) -> dict[str, Any]:
    """Observe beside each number of busy threads."""
    rows = {}
    for busy in BUSY:
        stop = threading.Event()
        threads = [threading.Thread(target=compute, args=(stop,), daemon=True) for _ in range(busy)]
        for thread in threads:
            thread.start()
        rows[str(busy)] = dict(zip(("received", "seen"), observe(look, samples), strict=True))
        stop.set()
        for thread in threads:
            thread.join()
    return rows


def run_ldc(port: int, samples: int) -> dict[str, Any]:
    """Be a bot with a depth cache."""
    import ldc

    with ldc.BinanceLocalDepthCacheManager(
        restful_base_uri=f"http://127.0.0.1:{port}", websocket_base_uri=f"ws://127.0.0.1:{port}"
    ) as manager:
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
        rows["reading"] = manager.get_status("BTCUSDT").connections[0].reading
        return rows


def run_floor(path: str, samples: int) -> dict[str, Any]:
    """Be a bot that looks at shared memory."""
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 16) as memory:

        def look() -> tuple[int, int] | None:
            stamp = int.from_bytes(memory[:8], "little")
            return (stamp, stamp) if stamp else None

        return run_row(look, samples)


# ------------------------------------------------------------------------------------------------------------ the table


def quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000)[int(share * 1000) - 1]


def told(name: str, rows: dict[str, Any]) -> None:
    """Print a row for each number of busy threads: medians and p99 above the idle row."""
    for what in ("received", "seen"):
        idle = rows["0"][what]
        for busy in BUSY:
            values = rows[str(busy)][what]
            above = [quantile(values, share) - quantile(idle, share) for share in (0.5, 0.99)]
            print(
                f"{name:<22} {what:<9} {busy} busy  n {len(values):>5}  p50 {quantile(values, 0.5):8.3f}  "
                f"p99 {quantile(values, 0.99):8.3f}  max {max(values):8.2f}   "
                f"above idle {above[0]:+8.3f} {above[1]:+8.3f}"
            )


def main() -> None:
    """Run each row in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=SAMPLES_MIN, help="updates of each row and number of threads")
    parser.add_argument("--row", choices=("ldc", "floor"), help="internal: be this row")
    parser.add_argument("--at", help="internal: the port, or the file")
    options = parser.parse_args()
    if options.row:
        run = (
            run_ldc(int(options.at), options.samples)
            if options.row == "ldc"
            else run_floor(options.at, options.samples)
        )
        json.dump(run, sys.stdout)
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port = str(ours.recv())
    path = f"/dev/shm/ldc-bench-{os.getpid()}"
    Path(path).write_bytes(b"\0" * 16)
    writer = context.Process(target=write_shared, args=(path,), daemon=True)
    writer.start()
    version = sys.version.split()[0]
    print(f"ages in ms; {UPDATES_PER_S:g} updates a second; load {os.getloadavg()[0]:.2f}; Python {version}")
    try:
        for name, row, at, environment in (
            ("loop without the GIL", "ldc", port, {}),
            ("loop in Python", "ldc", port, {"LDC_NATIVE_LOOP": "0"}),
            ("floor", "floor", path, {}),
        ):
            command = [sys.executable, "-P", __file__, "--row", row, "--at", at, "--samples", str(options.samples)]
            ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
            if ran.returncode:
                print(f"{name}: {ran.stderr[-2000:]}")
                continue
            told(name, json.loads(ran.stdout))
    finally:
        server.terminate()
        writer.terminate()
        Path(path).unlink()


if __name__ == "__main__":
    main()
