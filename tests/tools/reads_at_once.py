"""How long one writer and some readers need for a piece of work together: what the GIL costs, or its absence brings.

    python -P tests/tools/reads_at_once.py                8,000 updates, and 20,000 reads by each of three readers
    python -P tests/tools/reads_at_once.py --books each   every thread has a book of its own
    python -P tests/tools/reads_at_once.py --readers 0    the writer alone
    python -P tests/tools/reads_at_once.py --beside OTHER_PYTHON    this one and another in turns, and their ratio

One thread applies updates of 20 levels to a book of 1,000 levels a side, the others read the best ten bids, each as
fast as it can: of the same book, or of books that nobody else touches. The quickest of many short rounds counts, since
on a machine that others use most rounds are not one's own. The figures mean something beside those of another
interpreter on the same machine, and nothing else.
"""

import argparse
import json
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


def work(options):
    """Return the seconds that one round took."""
    book = make_book()
    to_read = [book if options.books == "one" else make_book() for _ in range(options.readers)]
    begin = threading.Barrier(options.readers + 2)

    def read(reader):
        begin.wait()
        for _ in range(options.reads):
            reader.bids(10)

    def write():
        begin.wait()
        for update_id in range(2, options.updates + 2):
            assert book.apply(update(update_id)) is ldc.Verdict.APPLIED

    threads = [threading.Thread(target=read, args=(each.reader,)) for each in to_read]
    threads.append(threading.Thread(target=write))
    for thread in threads:
        thread.start()
    begin.wait()
    since = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - since
    book.check()
    return elapsed


def quickest(options):
    """Return the seconds of the quickest round."""
    return min(work(options) for _ in range(options.rounds))


def describe():
    """Return which Python this is."""
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    return f"Python {sys.version.split()[0]} {gil} the GIL, {ldc.IMPLEMENTATION}"


def compare(other, options):
    """Run this interpreter and another in turns, in processes of their own; print the quickest and their ratio."""
    results = [(sys.executable, []), (other, [])]
    for _ in range(options.turns):
        for python, runs in results:
            command = [python, "-P", __file__, "--json", "--rounds", str(options.rounds), "--books", options.books]
            for name in ("readers", "reads", "updates"):
                command += [f"--{name}", str(getattr(options, name))]
            runs.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))
            print(line(*runs[-1], options), flush=True)
    print(f"the quickest of {options.turns} x {options.rounds} rounds, in turns:")
    best = [min(runs, key=lambda run: run[1]) for _, runs in results]
    for python, seconds in best:
        print(line(python, seconds, options))
    print(f"the first needs {best[0][1] / best[1][1]:.2f} of the time of the second")


def line(python, seconds, options):
    """Return one line."""
    books = "of the same book" if options.books == "one" else "each of a book of its own"
    readers = f", and {options.readers} readers {options.reads:,} reads each, {books}" if options.readers else ""
    return f"{python}: one writer applied {options.updates:,} updates{readers}: {seconds * 1000:,.0f} ms"


def main():
    """Print one line, or the lines of two interpreters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=8_000)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--readers", type=int, default=3)
    parser.add_argument("--books", choices=["one", "each"], default="one")
    parser.add_argument("--rounds", type=int, default=10, help="of one process; the quickest counts")
    parser.add_argument("--beside", metavar="PYTHON", help="another interpreter for which ldc is installed")
    parser.add_argument("--turns", type=int, default=5, help="processes of each of the two")
    parser.add_argument("--json", action="store_true", help="print [Python, seconds]")
    options = parser.parse_args()
    if options.beside:
        compare(options.beside, options)
        return
    result = [describe(), quickest(options)]
    print(json.dumps(result) if options.json else line(*result, options))


if __name__ == "__main__":
    main()
