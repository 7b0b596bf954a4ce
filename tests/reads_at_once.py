"""How much one writer and some readers get done together in a time: what the GIL costs, or its absence brings.

    python -P tests/reads_at_once.py --seconds 5 --readers 3
    python -P tests/reads_at_once.py --books each              every thread has a book of its own
    python -P tests/reads_at_once.py --beside OTHER_PYTHON     this one and another in turns, and their ratio

One thread applies updates of 20 levels to a book of 1,000 levels a side, the others read the best ten bids, each as
fast as it can: of the same book, or of books that nobody else touches. The figures mean something beside those of
another interpreter on the same machine, and nothing else.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time

import ldc


def snapshot():
    """Return a snapshot of 1,000 levels a side."""
    bids = ",".join(f'["{60000 - n}.10","1.50000"]' for n in range(1000))
    asks = ",".join(f'["{60001 + n}.10","1.50000"]' for n in range(1000))
    return f'{{"lastUpdateId":1,"bids":[{bids}],"asks":[{asks}]}}'.encode()


def levels(number):
    """Return the part of an update that says ten levels a side."""
    bids = ",".join(f'["{60000 - n * 7}.10","{number + n + 1}.5"]' for n in range(10))
    asks = ",".join(f'["{60001 + n * 7}.10","{number + n + 1}.5"]' for n in range(10))
    return f'"b":[{bids}],"a":[{asks}]}}'.encode()


# Made beforehand: what is measured is the book, not how updates are made up.
LEVELS = [levels(number) for number in range(90)]


def update(update_id):
    """Return an update of ten levels a side."""
    return b'{"e":"depthUpdate","s":"BTCUSDT","U":%d,"u":%d,' % (update_id, update_id) + LEVELS[update_id % len(LEVELS)]


def make_book():
    """Return a book of 1,000 levels a side."""
    book = ldc.OrderBook("spot")
    book.load_snapshot(snapshot(), limit=1000)
    return book


def run(seconds, readers, books):
    """Return (updates applied, reads), both a second, of so many seconds."""
    book = make_book()
    to_read = [book if books == "one" else make_book() for _ in range(readers)]
    stop, begin = threading.Event(), threading.Barrier(readers + 2)
    reads, applied = [0] * readers, [0]

    def read(number):
        reader, count, is_over = to_read[number].reader, 0, stop.is_set
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
    return applied[0] / seconds, sum(reads) / seconds


def describe():
    """Return which Python this is."""
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    return f"Python {sys.version.split()[0]} {gil} the GIL, {ldc.IMPLEMENTATION}"


def compare(other, options):
    """Run this interpreter and another one in turns, each in a process of its own; print medians and their ratio."""
    results = [(sys.executable, []), (other, [])]
    for _ in range(options.rounds):
        for python, runs in results:
            command = [python, "-P", __file__, "--json", "--seconds", str(options.seconds)]
            command += ["--readers", str(options.readers), "--books", options.books]
            runs.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))
            print(line(*runs[-1], options), flush=True)
    print(f"medians of {options.rounds} rounds of {options.seconds:g} s in turns:")
    medians = []
    for _, runs in results:
        medians.append([statistics.median(run[place] for run in runs) for place in (1, 2)])
        print(line(runs[0][0], *medians[-1], options))
    applied, reads = (mine / theirs for mine, theirs in zip(*medians, strict=True))
    print(f"the first beside the second: updates x {applied:.2f}, reads x {reads:.2f}")


def line(python, applied, reads, options):
    """Return one line."""
    books = "of one book" if options.books == "one" else "each of a book of its own"
    return (
        f"{python}: one writer applied {applied:,.0f} updates a second, "
        f"{options.readers} readers, {books}, read {reads:,.0f} times a second"
    )


def main():
    """Print one line, or the lines of two interpreters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--readers", type=int, default=3)
    parser.add_argument("--books", choices=["one", "each"], default="one")
    parser.add_argument("--beside", metavar="PYTHON", help="another interpreter for which ldc is installed")
    parser.add_argument("--rounds", type=int, default=7, help="of each of the two")
    parser.add_argument("--json", action="store_true", help="print [Python, updates a second, reads a second]")
    options = parser.parse_args()
    if options.beside:
        compare(options.beside, options)
        return
    result = [describe(), *run(options.seconds, options.readers, options.books)]
    print(json.dumps(result) if options.json else line(*result, options))


if __name__ == "__main__":
    main()
