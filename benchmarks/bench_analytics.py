"""What a mid, a fill, a depth costs: nanoseconds a call, at books of 1, 20 and 1,000 levels a side.

    make bench-analytics [ARGS="--rounds 200"]

The prices have 8 decimals as on Binance spot, on a tick of 0.01. Each question goes over all levels of its side, except
those about the best. Of many rounds in turn the quickest counts, as a shared machine disturbs some.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from decimal import Decimal
from time import perf_counter_ns
from typing import Any

import numpy

import ldc

COUNTS = (1, 20, 1000)
CALLS = 1000


def book_of(count: int) -> Any:
    """Return a book of so many levels a side, all of which are known."""
    bids = ",".join(f'["{60000 - 0.01 * index:.8f}","{0.5 + index % 7 / 8:.8f}"]' for index in range(count))
    asks = ",".join(f'["{60000.01 + 0.01 * index:.8f}","{0.75 + index % 5 / 16:.8f}"]' for index in range(count))
    book = ldc.OrderBook("spot")
    book.load_snapshot(f'{{"lastUpdateId":1,"bids":[{bids}],"asks":[{asks}]}}', 5000)
    return book


def questions(book: Any, count: int) -> dict[str, Callable[[], object]]:
    """Return what is measured, by its name."""
    asks = book.depth("asks", to_price=10**6, number=Decimal)
    quantity, notional = float(asks.quantity) - 0.25, round(float(asks.notional) - 10_000.0, 2)
    out = numpy.empty((count, 2)), numpy.empty((count, 2))
    assert book.fill("asks", quantity=quantity).levels == book.fill("asks", notional=notional).levels == count
    assert book.depth("asks", bps=10_000).levels == count
    return {
        "best_bid": lambda: book.best_bid,
        "mid": lambda: book.mid,
        "spread": lambda: book.spread,
        "micro_price": lambda: book.micro_price,
        "prices()": lambda: book.prices(),
        "prices(number=Decimal)": lambda: book.prices(number=Decimal),
        "fill(quantity=)": lambda: book.fill("asks", quantity=quantity),
        "fill(notional=)": lambda: book.fill("asks", notional=notional),
        "fill(quantity=), 17 digits": lambda: book.fill("asks", quantity=quantity * 0.9999999999999999),
        "fill(number=Decimal)": lambda: book.fill("asks", quantity=quantity, number=Decimal),
        "price_at(quantity=)": lambda: book.price_at("asks", quantity=quantity),
        "depth(bps=)": lambda: book.depth("asks", bps=10_000),
        "imbalance(levels=)": lambda: book.imbalance(levels=count),
        "imbalance(bps=)": lambda: book.imbalance(bps=10_000),
        "grouped(step of 10 ticks)": lambda: book.grouped("asks", 0.1),
        "arrays(out=)": lambda: book.arrays(out=out),
        "arrays()": lambda: book.arrays(),
        "view()": lambda: book.view(),
    }


def quickest(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the nanoseconds a call, of the quickest of many rounds."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            repeat = range(max(10, int(min(CALLS, 2e6 / best[name]))) if best[name] < float("inf") else 10)
            began = perf_counter_ns()
            for _ in repeat:
                call()
            best[name] = min(best[name], (perf_counter_ns() - began) / len(repeat))
    nothing = min(empty_loop() for _ in range(20))
    return {name: taken - nothing for name, taken in best.items()}


def empty_loop() -> float:
    """Return what the loop and the lambda take of each call."""
    call: Callable[[], object] = lambda: None  # noqa: E731
    began = perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (perf_counter_ns() - began) / CALLS


def main(words: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="measure the analytics of the order book")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", default="", help="questions whose name contains this")
    options = parser.parse_args(words)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    version = importlib.metadata.version("binance-local-depth-cache")
    print(
        f"ldc {version} ({ldc.IMPLEMENTATION}), Python {platform.python_version()}, {os.cpu_count()} cores, load {load}"
    )
    columns = []
    for count in COUNTS:
        calls = {name: call for name, call in questions(book_of(count), count).items() if options.only in name}
        columns.append(quickest(calls, options.rounds))
    print(f"{'ns a call':<30}" + "".join(f"{count:>9,} levels" for count in COUNTS))
    for name in columns[0]:
        print(f"{name:<30}" + "".join(f"{column[name]:>16,.0f}" for column in columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
