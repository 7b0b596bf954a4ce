"""Records the best bid and ask of markets as CSV: one line whenever a top has changed, and one for every gap.

    python examples/record_tops.py --exchange binance.com BTCUSDT ETHUSDT > tops.csv

Prices and sizes are written as the exchange means them, without a detour over floats. While a book is out of sync its
line has no prices, but the cause: a hole in a recording must be seen. Where updates come faster than they are looked
at, the top in between is not written; `last_update_id` says which update each line belongs to.
"""

import argparse
import contextlib
import csv
import sys
import threading
from collections.abc import Iterator, Sequence

import ldc

COLUMNS = (
    *("received_time_ns", "event_time_ms", "market", "last_update_id"),
    *("bid", "bid_size", "ask", "ask_size", "out_of_sync"),
)
LOOK_S = 0.5


def tops(cache: ldc.DepthCache, stop: threading.Event) -> Iterator[Sequence[object]]:
    """Yield a row for each top that differs from the one before, until it is told to stop."""
    last: Sequence[object] = ()
    seen = None
    while not stop.is_set():
        try:
            book = cache.reader.view(1, number=str)
        except ldc.DepthCacheOutOfSync as error:
            top: Sequence[object] = ("", "", "", "", error.cause)
            times: Sequence[object] = ("", "")
            seen = None
        else:
            bid, ask = (side[0] if side else ("", "") for side in (book.bids, book.asks))
            top, times, seen = (*bid, *ask, ""), (book.received_time_ns, book.event_time_ms), book.last_update_id
        if top != last:
            yield (*times, cache.market, seen or "", *top)
            last = top
        with contextlib.suppress(ldc.DepthCacheOutOfSync):  # it says so to the next look
            cache.wait_for_update(seen, LOOK_S)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write to standard output: so many lines, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("markets", nargs="*", default=["BTCUSDT", "ETHUSDT"])
    parser.add_argument("--exchange", default="simulator")
    parser.add_argument("--lines", type=int, help="end after so many (default: never)")
    options = parser.parse_args(arguments)

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    lock, done = threading.Lock(), threading.Event()
    lines = 0

    def record(cache: ldc.DepthCache) -> None:
        nonlocal lines
        for row in tops(cache, done):
            with lock:
                if not done.is_set():
                    writer.writerow(row)
                    lines += 1
                if lines == options.lines:
                    done.set()

    with ldc.BinanceLocalDepthCacheManager(options.exchange) as manager:
        manager.create_depth_cache(options.markets)
        manager.wait_until_synchronized(timeout=30)
        # A thread that waits costs nothing; each market has its own, so that none waits for another.
        threads = [
            threading.Thread(target=record, args=(manager.get_depth_cache(market),), name=f"record-{market}")
            for market in options.markets
        ]
        for thread in threads:
            thread.start()
        try:
            done.wait()
        finally:
            done.set()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
