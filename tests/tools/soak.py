"""Recordings, looped at twenty times their speed, with a fault a minute, for as long as is asked for.

    make soak MINUTES=60                 LDC_CAPTURES names the recordings

Another process is the exchange: spot, USD-M and COIN-M, each with a recorded market that begins anew when it has ended
(its ids and times go on), and a fault on one of them every minute, by lot. In this process managers follow; two threads
read all the while, and some of what they see is compared with the exchange's own book at that id. Memory, descriptors
and threads are printed every minute. The end is bad (1) if a view was wrong, if a book is not back, or if memory or
descriptors have grown: the second half of the run is compared with its first quarter.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time
from decimal import Decimal
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from loopback_exchange import LoopbackExchange, Market, Recording, RestReply, TrueBook, error_reply

from ldc.errors import DepthCacheOutOfSync
from ldc.manager.manager import BinanceLocalDepthCacheManager

RECORDINGS = {
    "spot": ("binance.com", ["spot_btcusdt_20240808.gz"]),
    "usdm": ("binance.com-futures", ["usdm_ethusdt_20240808.gz"]),
    "coinm": ("binance.com-coin_futures", ["cm_ethusd_perp_20240808.gz"]),
}
SPEED = 20
STEPS_PER_TURN_MAX = 100
FAULT_EVERY_S = 60.0
LEVELS = 20
GROWTH_MAX = 1.05
"""What the memory may have grown by after the first quarter of the run, which fills what is kept."""

FAULTS = ("drop", "duplicate", "corrupt", "reset", "close", "half-open", "stall", "503", "429", "html", "id leap")


# ----------------------------------------------------------------------------------------------- the exchange's process


class LoopedMarket:
    """A recorded market without an end."""

    def __init__(self, exchange: LoopbackExchange, recording: Recording) -> None:
        self.exchange = exchange
        self.recording = recording
        self.symbol = recording.symbol
        self.id_offset = self.time_offset = 0
        self.loops = 0
        self._due = time.monotonic()
        self._steps = self._forever()
        exchange.replay(recording)

    def run_until(self, now: float) -> None:
        """Bring what is due; a machine that is too slow for the speed plays more slowly."""
        for _ in range(STEPS_PER_TURN_MAX):
            if self._due > now:
                return
            self._due += next(self._steps)
        self._due = max(self._due, now)

    def _forever(self) -> Any:
        """Bring one update after the other; yield the seconds to the next one."""
        first_time = json.loads(self.recording.updates[0][1])["data"]["E"]
        while True:
            last_time = first_time
            for _, payload in self.recording.updates:
                whole = json.loads(payload)
                event = whole["data"]
                pause_s = max(0, event["E"] - last_time) / 1000 / SPEED
                last_time = event["E"]
                yield pause_s
                self._publish(whole)
            self._begin_anew(last_time - first_time + 1000)
            yield 1.0 / SPEED

    def _publish(self, whole: dict[str, Any]) -> None:
        event = whole["data"]
        for key in ("U", "u", "pu"):
            if key in event:
                event[key] += self.id_offset
        for key in ("E", "T"):
            if key in event:
                event[key] += self.time_offset
        with self.exchange.changed:
            self.exchange.markets[self.symbol].apply(event["u"], event["b"], event["a"])
            self.exchange.publish(self.symbol, json.dumps(whole, separators=(",", ":")).encode())

    def _begin_anew(self, took_ms: int) -> None:
        """Lead the book back to the recording's snapshot by one update, and go on from there with higher ids."""
        with self.exchange.changed:
            book = self.exchange.markets[self.symbol].book
            snapshot = self.recording.snapshot
            changes: dict[str, list[list[str]]] = {}
            for name, levels in (("bids", book.bids), ("asks", book.asks)):
                wanted = {Decimal(price): quantity for price, quantity in snapshot[name]}
                changes[name] = [[f"{price:f}", "0"] for price in levels if price not in wanted]
                changes[name] += [[f"{price:f}", quantity] for price, quantity in wanted.items()]
            before, last = book.last_update_id, book.last_update_id + 10
            self.id_offset = last - snapshot["lastUpdateId"]
            self.time_offset += took_ms
            event = {"e": "depthUpdate", "E": self.time_offset, "s": self.symbol, "U": before + 1, "u": last}
            if self.exchange.kind != "spot":
                event["pu"] = before
            event |= {"b": changes["bids"], "a": changes["asks"]}
            first_time = json.loads(self.recording.updates[0][1])["data"]["E"]
            event["E"] = first_time + self.time_offset - 500
            # A new market, so that what is remembered of the old ids does not pile up.
            self.exchange.markets[self.symbol] = Market(self.symbol, last, snapshot["bids"], snapshot["asks"])
            whole = {"stream": self.exchange.stream(self.symbol), "data": event}
            self.exchange.publish(self.symbol, json.dumps(whole, separators=(",", ":")).encode())
            self.loops += 1


def strike(exchange: LoopbackExchange, symbol: str, fault: str) -> None:
    """Let a fault happen, once."""
    left = [1]

    def once(instead: Any) -> Any:
        def on_frame(connection: Any, market: str, payload: bytes) -> tuple[bytes, ...]:
            if market != symbol or not left:
                return (payload,)
            left.pop()
            return instead(payload)

        return on_frame

    open_ones = [connection for connection in exchange.connections if connection.is_open]
    instead = {
        "drop": lambda payload: (),
        "duplicate": lambda payload: (payload, payload),
        "corrupt": lambda payload: (payload[:-9],),
        "id leap": lambda payload: (payload.replace(b'"u":', b'"u":9', 1),),
    }
    replies = {
        "503": RestReply(503, b"<html>busy</html>"),
        "429": error_reply(429, -1003, "Too many requests", {"Retry-After": "2"}),
        "html": RestReply(200, b"<html>maintenance</html>"),
    }
    if fault in replies:
        exchange.on_rest = lambda request: left.pop() and replies[fault] if left else None
        exchange.on_frame = once(instead["drop"])  # so that a snapshot is needed
    elif fault in instead:
        exchange.on_frame = once(instead[fault])
    for connection in open_ones:
        if fault == "reset":
            connection.reset()
        elif fault == "close":
            connection.close(1001, "going away")
        elif fault in ("half-open", "stall"):
            if fault == "stall":
                connection.send_raw(b"\x81\x7e\xff\xffxxx")
            connection.is_deaf = True
    # Ended connections would pile up here.
    exchange.connections[:] = [each for each in exchange.connections if not each.ended.is_set()]
    del exchange.rest_requests[:]


def be_the_exchange(pipe: Pipe, folder: Path, seed: int) -> None:
    """Play until told to end; answer what the true book was."""
    dice = random.Random(seed)
    exchanges = {kind: LoopbackExchange(kind) for kind in RECORDINGS}
    markets = {}
    for kind, (_, names) in RECORDINGS.items():
        markets[kind] = LoopedMarket(exchanges[kind], Recording.read(*(folder / name for name in names)))
    pipe.send({kind: (markets[kind].symbol, exchange.uris) for kind, exchange in exchanges.items()})
    fault_due, faults = time.monotonic() + FAULT_EVERY_S, []
    while True:
        now = time.monotonic()
        for market in markets.values():
            market.run_until(now)
        if now >= fault_due:
            fault_due = now + FAULT_EVERY_S
            kind, fault = dice.choice(list(RECORDINGS)), FAULTS[len(faults) % len(FAULTS)]
            strike(exchanges[kind], markets[kind].symbol, fault)
            faults.append(f"{kind} {fault}")
        while pipe.poll(0.001):
            asked = pipe.recv()
            if asked == "end":
                pipe.send((sum(market.loops for market in markets.values()), faults))
                return
            pipe.send(_truth(exchanges[asked[0]], *asked[1:]))


def _truth(exchange: LoopbackExchange, symbol: str, update_id: int) -> tuple[Any, Any] | None:
    try:
        book: TrueBook = exchange.true_book(symbol, update_id)
    except KeyError:
        return None  # of the loop before this one
    return book.side("bids")[: 2 * LEVELS], book.side("asks")[: 2 * LEVELS]


# ----------------------------------------------------------------------------------------------- this process


class Reader(threading.Thread):
    """Reads a market without a pause worth mentioning, and has some views compared."""

    def __init__(self, kind: str, market: str, manager: BinanceLocalDepthCacheManager, ask: Any) -> None:
        super().__init__(name=f"reader-{kind}", daemon=True)
        self.kind, self.market, self.manager, self.ask = kind, market, manager, ask
        self.is_over = threading.Event()
        self.reads = self.compared = self.refused = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        reader = self.manager.get_depth_cache(self.market).reader
        while not self.is_over.wait(0.005):
            try:
                view = reader.view(LEVELS, number=Decimal)
            except DepthCacheOutOfSync:
                self.refused += 1
                continue
            self.reads += 1
            if self.reads % 40:
                continue
            truth = self.ask((self.kind, self.market, view.last_update_id))
            if truth is None:
                continue
            self.compared += 1
            for name, levels, true_levels in (("bids", view.bids, truth[0]), ("asks", view.asks, truth[1])):
                if list(levels) != [tuple(level) for level in true_levels[: len(levels)]]:
                    self.wrong.append(f"{name} of {self.market} at {view.last_update_id}")


def held() -> tuple[float, int, int]:
    """Return the resident memory in MB, the open descriptors, and the threads of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
    )


def follow(minutes: float, pipe: Pipe) -> int:
    """Follow the exchange for so long; print, judge, and return the exit code."""
    lock = threading.Lock()

    def ask(what: Any) -> Any:
        with lock:
            pipe.send(what)
            return pipe.recv()

    managers, readers = {}, []
    for kind, (market, uris) in pipe.recv().items():
        managers[market] = BinanceLocalDepthCacheManager(
            RECORDINGS[kind][0], **uris, snapshot_limit=1000, default_refresh_interval=60
        )
        managers[market].create_depth_cache(market)
        readers.append(Reader(kind, market, managers[market], ask))
        readers[-1].start()
    samples, pause = [], threading.Event()
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        pause.wait(min(10.0, max(0.0, end - time.monotonic())))
        samples.append(held())
        if len(samples) % 6 == 0:
            memory, descriptors, threads = samples[-1]
            read, compared = sum(each.reads for each in readers), sum(each.compared for each in readers)
            print(
                f"minute {len(samples) // 6}: {memory:.1f} MB, {descriptors} descriptors, {threads} threads, "
                f"{read} views, {compared} compared, {sum(each.refused for each in readers)} refused",
                flush=True,
            )
    are_back = all(manager.wait_until_synchronized(timeout=60) for manager in managers.values())
    for reader in readers:
        reader.is_over.set()
        reader.join()
    statuses = {market: manager.get_status(market) for market, manager in managers.items()}
    for manager in managers.values():
        manager.stop_manager()
    loops, faults = ask("end")
    return judge(samples, readers, statuses, are_back=are_back, played=f"{loops} loops, faults: {', '.join(faults)}")


def judge(samples: list[Any], readers: list[Reader], statuses: dict[str, Any], *, are_back: bool, played: str) -> int:
    """Say what came of it; return the exit code."""
    quarter = max(1, len(samples) // 4)
    before, after = samples[quarter - 1 : 2 * quarter], samples[-2 * quarter :]
    memory = [statistics.median(sample[0] for sample in part) for part in (before, after)]
    descriptors = [statistics.median(sample[1] for sample in part) for part in (before, after)]
    wrong = [text for reader in readers for text in reader.wrong]
    for market, status in statuses.items():
        print(
            f"{market}: {status.counters.updates_applied} updates applied, resyncs {status.resyncs}, reconnects "
            f"{status.reconnects}, audits {status.audits}, snapshots dropped {status.snapshots_dropped}"
        )
    print(played)
    print(f"memory {memory[0]:.1f} -> {memory[1]:.1f} MB, descriptors {descriptors[0]:.0f} -> {descriptors[1]:.0f}")
    print(
        f"{sum(each.compared for each in readers)} views compared, {len(wrong)} wrong{': ' + wrong[0] if wrong else ''}"
    )
    is_flat = memory[1] <= GROWTH_MAX * memory[0] and descriptors[1] <= descriptors[0] + 2
    is_good = is_flat and are_back and not wrong
    print("flat, back, and right" if is_good else f"flat: {is_flat}, back: {are_back}, wrong views: {len(wrong)}")
    return 0 if is_good else 1


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description="loop recordings with a fault a minute")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = os.environ.get("LDC_CAPTURES")
    if not folder:
        print("LDC_CAPTURES names no folder with recordings", file=sys.stderr)
        return 2
    logging.disable()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=be_the_exchange, args=(theirs, Path(folder), options.seed), daemon=True)
    process.start()
    try:
        return follow(options.minutes, ours)
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    sys.exit(main())
