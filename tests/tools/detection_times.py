"""How long each fault of the embedded exchange takes to be noticed, and to be over, with the usual time-outs.

    make detect                                   every fault, once each, spot and USD-M; minutes
    make detect ARGS="--venue binance.com --faults stall,half_open --rounds 5"

A fault is noticed when the depth cache says anything at all of it: it is suspended, a frame or a snapshot is dropped
and counted, a connection is begun anew, an error is noted. It is over when the book can be read past the update id at
which the exchange stood when it was noticed. All the while two threads read, and every view is compared with the true
book at its id; a single wrong one ends the program with 1. Nothing here judges a time: it is printed.
"""

import argparse
import logging
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from ldc.errors import DepthCacheOutOfSync
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.simulator import FAULTS, SimulatedExchange
from ldc.simulator.faults import Place, kind_of

PATIENCE_S = 120.0
PAUSE_S = 0.002
MARKETS = {"binance.com": "BTCUSDT", "binance.com-futures": "BTCUSDT"}

NOTHING_TO_NOTICE = {
    "halt",
    "duplicate",
    "overlap",
    "snapshot_slow",
    "snapshot_lagging",
    "snapshot_stale",
    "snapshot_regressed",
}
"""The right reaction is none, or to count it where it matters: these are timed as far as they are noticed."""

LASTS_S = {"silent_for_long": ("silent", 100.0)}
"""Faults that last longer than the exchange's own. Nothing but a look-up by REST notices a connection that answers
pings and says nothing of a market, for a quiet market looks the same; and that is made after a minute of silence."""


@dataclass
class Watch:
    """Threads that read all the while, and what was wrong."""

    exchange: SimulatedExchange
    manager: BinanceLocalDepthCacheManager
    market: str
    wrong: list[str] = field(default_factory=list)
    views: int = 0

    def __enter__(self) -> Self:
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _read(self) -> None:
        reader = self.manager.get_depth_cache(self.market).reader
        while not self._is_over.wait(PAUSE_S):
            try:
                view = reader.view(20, number=Decimal)
            except DepthCacheOutOfSync:
                continue
            try:
                true_book = self.exchange.true_book(self.market, view.last_update_id)
            except KeyError as error:
                self.wrong.append(f"{view.last_update_id} is no id of the exchange: {error}")
                return
            for name, levels in (("bids", view.bids), ("asks", view.asks)):
                if [tuple(map(Decimal, level)) for level in getattr(true_book, name)[: len(levels)]] != list(levels):
                    self.wrong.append(f"{name} at {view.last_update_id}")
                    return
            self.views += 1


def signs(manager: BinanceLocalDepthCacheManager, market: str) -> tuple[Any, ...]:
    """Return everything in which a depth cache says that something has happened to it."""
    status, cache = manager.get_status(market), manager.get_depth_cache(market)
    counters = status.counters
    return (
        sum(count for cause, count in status.resyncs.items() if cause != "REQUESTED"),
        sum(status.snapshots_dropped.values()), status.reconnects, status.last_error,
        status.restart_count, counters.updates_malformed, counters.updates_gap, counters.updates_overlapping,
        counters.updates_stale, sum(status.updates_dropped.values()), sum(cache.group.messages_dropped.values()),
    )  # fmt: skip


def wait(has_happened: Any, timeout_s: float = PATIENCE_S) -> bool:
    """Look every two milliseconds; return whether it has happened."""
    pause, give_up_at = threading.Event(), time.monotonic() + timeout_s
    while not has_happened():
        if time.monotonic() > give_up_at:
            return False
        pause.wait(PAUSE_S)
    return True


def provoke(exchange: SimulatedExchange, manager: BinanceLocalDepthCacheManager, market: str, place: Place) -> None:
    """Do what makes a fault of that place strike."""
    if place is Place.SNAPSHOT:
        manager.set_resync_request(market, unsubscribe=False)
    elif place is Place.CONTROL:
        manager.set_resync_request(market)
    elif place is Place.HANDSHAKE:
        exchange.inject("reset")


def measure(venue: str, name: str, seed: int) -> tuple[float | None, float | None, list[str], int]:
    """Return the seconds until it was noticed and until it was over, what was wrong, and how many views were read."""
    name, lasts_s = LASTS_S.get(name, (name, None))
    market, place = MARKETS[venue], kind_of(name).place
    with ExitStack() as stack:
        exchange = stack.enter_context(SimulatedExchange([market, "ETHUSDT"], venue=venue, seed=seed))
        manager = stack.enter_context(
            BinanceLocalDepthCacheManager(
                venue,
                restful_base_uri=exchange.restful_base_uri,
                websocket_base_uri=exchange.websocket_base_uri,
                snapshot_limit=100,
            )
        )
        manager.create_depth_cache(market)
        if not manager.wait_until_synchronized(market, PATIENCE_S):
            raise TimeoutError(manager.get_status(market))
        first_id = manager.get_status(market).last_update_id
        manager.wait_for_update(market, first_id, PATIENCE_S)
        watch = stack.enter_context(Watch(exchange, manager, market))
        before = signs(manager, market)
        exchange.inject(name, duration_s=lasts_s)
        provoke(exchange, manager, market, place)
        if not wait(lambda: exchange.statistics()["faults"].get(name)):
            raise TimeoutError(f"{name} did not strike")
        struck_at = time.monotonic()
        if place is Place.HANDSHAKE:  # what led to the handshake was noticed, too
            before = signs(manager, market)
        noticed_after = None
        lasts_s = lasts_s or kind_of(name).duration_s or 0.0
        if wait(
            lambda: watch.wrong or signs(manager, market) != before, 5.0 if name in NOTHING_TO_NOTICE else PATIENCE_S
        ):
            noticed_after = time.monotonic() - struck_at
        stood_at = exchange.last_update_id(market)

        def is_over() -> bool:
            reader = manager.get_depth_cache(market).reader
            return bool(watch.wrong) or (reader.is_readable and reader.last_update_id > stood_at)

        is_done = (
            wait(is_over, PATIENCE_S + lasts_s)
            if name != "id_reset"
            else wait(lambda: manager.is_depth_cache_synchronized(market))
        )
        over_after = time.monotonic() - struck_at if is_done else None
        return noticed_after, over_after, watch.wrong, watch.views


def shown(seconds: list[float | None]) -> str:
    """Return a median and a maximum, or a dash."""
    known = [each for each in seconds if each is not None]
    return f"{statistics.median(known):8.3f} {max(known):8.3f}" if known else f"{'-':>8} {'-':>8}"


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description="measure how soon each fault is noticed, and how soon it is over")
    parser.add_argument("--venue", choices=list(MARKETS), action="append")
    parser.add_argument("--faults", default=",".join((*FAULTS, *LASTS_S)), help="names, with commas between them")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable()  # what the library says of it is not what is measured
    print(f"{'venue':<20} {'fault':<24} {'noticed':>17} {'over':>17}  seconds: median, most")
    failed = 0
    views = 0
    for venue in options.venue or list(MARKETS):
        for name in options.faults.split(","):
            rounds = [measure(venue, name, options.seed + number) for number in range(options.rounds)]
            wrong = [text for _, _, texts, _ in rounds for text in texts]
            views += sum(count for *_, count in rounds)
            never = sum(over is None for _, over, _, _ in rounds)
            failed += len(wrong) + never
            trouble = f"  WRONG: {wrong[0]}" if wrong else "  NEVER OVER" if never else ""
            noticed, over = shown([each[0] for each in rounds]), shown([each[1] for each in rounds])
            print(f"{venue:<20} {name:<24} {noticed} {over}{trouble}", flush=True)
    print(f"{views} views were read meanwhile; {failed} faults ended badly")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
