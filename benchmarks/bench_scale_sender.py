"""The other end of `bench_scale`: the exchange's side of many websockets, with traffic at the pace of real markets.

Each market repeats what one of a few recorded markets did, under a name of its own. A market has its window of 100 ms,
as Binance's streams have, and updates in some of them; every few seconds all of them update at nearly the same time.
"""

import base64
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import struct
import threading
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from bench_recordings import Market, load_recordings, synthetic_recording

WINDOW_S = 0.1
BURST_EVERY_S = 5.0
BURST_S = 0.01
"""In a burst, all markets update within so long."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Markets of one sort: a share of all, each with so many updates a second."""

    share: float
    updates_per_second: float
    recording: str
    market: str


KINDS = (
    Kind(0.01, 10, "spot BTCUSDT", "spot BTCUSDT 100 ms"),
    Kind(0.01, 10, "USD-M ETHUSDT", "USD-M ETHUSDT 0 ms"),
    Kind(0.18, 8, "COIN-M ETHUSD", "COIN-M ETHUSD 0 ms"),
    Kind(0.80, 4, "USD-M, 4 markets", "SUSHIUSDT"),
)
"""A few of the busiest markets, some busy ones, and many quiet ones; each holds 1,000 levels a side at its snapshot."""


def stream_of(number: int) -> str:
    """Return the name of a market's stream."""
    return f"m{number:05d}usdt@depth@100ms"


def kinds_of(markets: int) -> list[int]:
    """Return the number of the kind of each market; the kinds are mixed."""
    counts = [round(kind.share * markets) for kind in KINDS[:-1]]
    counts = [max(1, count) for count in counts]
    chosen = [number for number, count in enumerate(counts) for _ in range(count)][:markets]
    chosen += [len(KINDS) - 1] * (markets - len(chosen))
    random.Random(7).shuffle(chosen)
    return chosen


def sources(updates_max: int) -> list[Market]:
    """Return what the markets of each kind repeat: recorded if LDC_CAPTURES is set, else made up."""
    folder = os.environ.get("LDC_CAPTURES")
    if not folder:
        levels = (40, 60, 8, 8)
        return [synthetic_recording(each, updates_max, seed=each).markets[0] for each in levels]
    recorded = {one.name: one for one in load_recordings(Path(folder), updates_max=updates_max)}
    found = []
    for kind in KINDS:
        [name] = [name for name in recorded if name.startswith(kind.recording)]
        found += [market for market in recorded[name].markets if market.name == kind.market]
    return found


def schedule(chosen: list[int], seconds: float, seed: int) -> list[tuple[float, int]]:
    """Return when which market updates, in seconds from the start, in order."""
    lots = random.Random(seed)
    phases = [lots.random() * WINDOW_S for _ in chosen]
    windows_per_burst = round(BURST_EVERY_S / WINDOW_S)
    plan = []
    for window in range(round(seconds / WINDOW_S)):
        is_burst = window % windows_per_burst == windows_per_burst - 1
        for number, kind in enumerate(chosen):
            if is_burst:
                plan.append((window * WINDOW_S + phases[number] * BURST_S / WINDOW_S, number))
            elif lots.random() < KINDS[kind].updates_per_second * WINDOW_S:
                plan.append((window * WINDOW_S + phases[number], number))
    plan.sort()
    return plan


def frame(payload: bytes) -> bytes:
    """Return a websocket frame of text."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes([size]) + payload
    return b"\x81" + (struct.pack(">BH", 126, size) if size < 65_536 else struct.pack(">BQ", 127, size)) + payload


class Relabelled:
    """One market's frames under other names, one after the other."""

    def __init__(self, source: Market, number: int) -> None:
        head = re.match(rb'\{"stream":"[^"]*"', source.frames[0])
        assert head is not None
        self._frames = source.frames
        self._head = head[0]
        self._label = b'{"stream":"%b"' % stream_of(number).encode()
        self.sent = 0

    def next(self) -> bytes:
        """Return the next frame, or nothing when the recording is over."""
        if self.sent == len(self._frames):
            return b""
        text = self._frames[self.sent]
        self.sent += 1
        return frame(self._label + text[len(self._head) :])


def serve(pipe: Pipe, markets: int, seconds: float, seed: int) -> None:
    """Tell the port and the snapshots, take all subscriptions, send on "go", then tell what was sent when."""
    chosen = kinds_of(markets)
    found = sources(updates_max=round(12 * seconds) + 50)
    sockets: dict[str, socket.socket] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send((listener.getsockname()[1], [(market.rule, market.snapshot) for market in found]))
        threading.Thread(target=_accept, args=(listener, sockets), daemon=True).start()
        assert pipe.recv() == "go"
        streams = [Relabelled(found[kind], number) for number, kind in enumerate(chosen)]
        numbers, stamps = array("l"), array("q")
        began = time.monotonic()
        for due, number in schedule(chosen, seconds, seed):
            text = streams[number].next()
            wait_s = began + due - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            if text:
                numbers.append(number)
                stamps.append(time.monotonic_ns())
                sockets[stream_of(number)].sendall(text)
        pipe.send((numbers.tobytes(), stamps.tobytes()))
        pipe.recv()


def _accept(listener: socket.socket, sockets: dict[str, socket.socket]) -> None:
    with contextlib.suppress(OSError):  # until the listener is closed
        while True:
            talk, _ = listener.accept()
            talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer, args=(talk, sockets), daemon=True).start()


def _answer(talk: socket.socket, sockets: dict[str, socket.socket]) -> None:
    """Shake hands; then acknowledge every request, and remember who wants which stream."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += talk.recv(4096)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    digest = hashlib.sha1(key.split(b":")[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    talk.sendall(answer + base64.b64encode(digest) + b"\r\n\r\n")
    received = b""
    with contextlib.suppress(OSError):
        while more := talk.recv(65_536):
            received += more
            while (taken := _unmasked(received)) is not None:
                body, received = taken
                if body.startswith(b"{"):
                    request = json.loads(body)
                    talk.sendall(frame(json.dumps({"result": None, "id": request["id"]}).encode()))
                    sockets.update(dict.fromkeys(request["params"], talk))


def _unmasked(received: bytes) -> tuple[bytes, bytes] | None:
    """Return the first frame's payload and what comes after it, or None if it is not all there."""
    if len(received) < 2:
        return None
    size, start = received[1] & 127, 2
    if size > 125:
        start = 4 if size == 126 else 10
        size = int.from_bytes(received[2:start], "big")
    end = start + 4 + size
    if len(received) < end:
        return None
    mask = received[start : start + 4] * (size // 4 + 1)
    masked = received[start + 4 : end]
    return bytes(a ^ b for a, b in zip(masked, mask, strict=False)), received[end:]
