"""What a compiled book costs in memory: what it says itself, and what the operating system sees.

Run as a program it prints the resident bytes that a level costs, a book's fixed bytes and all slack included; for that,
nothing else may have happened in the process.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_recordings import Market, synthetic_recording

BOOKS = 500
"""So many that the allocator's pages and the interpreter's own moves do not show."""


def own_account(market: Market, module: Any) -> dict[str, float]:
    """Return bytes a level after the snapshot, at the worst moment and after the updates; and a book's fixed bytes."""
    book = module.OrderBook(market.rule)
    empty = sys.getsizeof(book)

    def per_level() -> float:
        return (sys.getsizeof(book) - empty) / (book.bid_count + book.ask_count)

    book.load_snapshot(market.snapshot, 1000)
    loaded = worst = per_level()
    for frame in market.frames:
        book.apply(frame)
        worst = max(worst, per_level())
    return {"loaded": loaded, "worst": worst, "after all updates": per_level(), "fixed": empty}


def resident_bytes() -> int:
    """Return what of this process lies in memory. Linux only."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def resident_account() -> dict[str, float] | None:
    """Return resident bytes a level, from a process of its own, or None where they cannot be read."""
    if sys.platform != "linux":
        return None
    told = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=300)
    account: dict[str, float] = json.loads(told.stdout)
    return account


def _main() -> None:
    from ldc import _book

    [market] = synthetic_recording(40, 100).markets
    _book.OrderBook(market.rule).load_snapshot(market.snapshot, 1000)
    before = resident_bytes()
    books = [_book.OrderBook(market.rule) for _ in range(BOOKS)]
    for book in books:
        book.load_snapshot(market.snapshot, 1000)
    levels_loaded = sum(book.bid_count + book.ask_count for book in books)
    loaded = resident_bytes()
    for book in books:
        for frame in market.frames:
            book.apply(frame)
    used = resident_bytes()
    levels_used = sum(book.bid_count + book.ask_count for book in books)
    account = {
        "loaded": (loaded - before) / levels_loaded,
        "after all updates": (used - before) / levels_used,
    }
    sys.stdout.write(json.dumps(account))


if __name__ == "__main__":
    _main()
