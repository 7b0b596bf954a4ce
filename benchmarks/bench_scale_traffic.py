"""The traffic of `bench_scale`: many markets at the pace of real ones, sent by `bench_sender`.

Each market repeats what one of a few recorded markets did, under a name of its own. A market has its window of 100 ms,
as Binance's streams have, and updates in some of them; every few seconds all of them update at nearly the same time.
"""

import os
import random
import re
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from bench_recordings import Market, load_recordings, synthetic_recording
from bench_sender import Sender, frame

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
    sender = Sender()
    pipe.send((sender.port, [(market.rule, market.snapshot) for market in found]))
    assert sender.order(pipe) == "go"
    streams = [Relabelled(found[kind], number) for number, kind in enumerate(chosen)]
    sockets = [sender.listeners_of(stream_of(number))[0].socket for number in range(markets)]
    numbers, stamps = array("l"), array("q")
    began = time.monotonic()
    for due, number in schedule(chosen, seconds, seed):
        text = streams[number].next()
        sender.serve_until(began + due)
        if text:
            numbers.append(number)
            stamps.append(time.monotonic_ns())
            sockets[number].sendall(text)
    pipe.send((numbers.tobytes(), stamps.tobytes()))
    sender.order(pipe)
