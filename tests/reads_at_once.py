"""How much one writer and some readers get done together in a time: what the GIL costs, or its absence brings.

    python -P tests/reads_at_once.py --seconds 5 --readers 3

One thread applies updates of 20 levels to a book of 1,000 levels a side, the others read its best ten bids, each as
fast as it can. The figures mean something beside those of another interpreter on the same machine, and nothing else.
"""

import argparse
import sys
import threading
import time

import ldc


def snapshot():
    """Return a snapshot of 1,000 levels a side."""
    bids = ",".join(f'["{60000 - n}.10","1.50000"]' for n in range(1000))
    asks = ",".join(f'["{60001 + n}.10","1.50000"]' for n in range(1000))
    return f'{{"lastUpdateId":1,"bids":[{bids}],"asks":[{asks}]}}'.encode()


def update(update_id):
    """Return an update of ten levels a side."""
    bids = ",".join(f'["{60000 - n * 7}.10","{update_id % 90 + n + 1}.5"]' for n in range(10))
    asks = ",".join(f'["{60001 + n * 7}.10","{update_id % 90 + n + 1}.5"]' for n in range(10))
    return f'{{"e":"depthUpdate","s":"BTCUSDT","U":{update_id},"u":{update_id},"b":[{bids}],"a":[{asks}]}}'.encode()


def run(seconds, readers):
    """Return (updates applied, reads) of so many seconds."""
    book = ldc.OrderBook("spot")
    book.load_snapshot(snapshot(), limit=1000)
    stop, begin = threading.Event(), threading.Barrier(readers + 2)
    reads, applied = [0] * readers, [0]

    def read(number):
        reader, count, is_over = book.reader, 0, stop.is_set
        begin.wait()
        while not is_over():
            for _ in range(100):
                reader.bids(10)
            count += 100
        reads[number] = count

    def write():
        update_id, is_over = 1, stop.is_set
        begin.wait()
        while not is_over():
            update_id += 1
            assert book.apply(update(update_id)) is ldc.Verdict.APPLIED
        applied[0] = update_id - 1

    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    threads.append(threading.Thread(target=write))
    for thread in threads:
        thread.start()
    begin.wait()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    book.check()
    return applied[0], sum(reads)


def main():
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--readers", type=int, default=3)
    options = parser.parse_args()
    applied, reads = run(options.seconds, options.readers)
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    print(
        f"Python {sys.version.split()[0]} {gil} the GIL, {ldc.IMPLEMENTATION}: "
        f"one writer applied {applied / options.seconds:,.0f} updates a second, "
        f"{options.readers} readers read {reads / options.seconds:,.0f} times a second"
    )


if __name__ == "__main__":
    main()
