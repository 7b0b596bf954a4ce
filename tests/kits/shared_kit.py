"""What the tests of shared books share: both implementations of a region, and a market that changes in every way."""

import importlib
import random
from types import ModuleType, SimpleNamespace
from typing import Any

from messages import make_snapshot, make_update

from ldc.types import Cause

NAMES = ("Attachment", "RegionKeeper", "RegionWriter", "SharedReader", "encode_region", "region_bytes")


def shared_of(books: ModuleType) -> SimpleNamespace:
    """Return an implementation with its regions: the compiled one has all in one module."""
    regions = books if hasattr(books, "RegionWriter") and "pure" not in books.__name__ else None
    regions = regions or importlib.import_module("ldc.book.pure.shared")
    return SimpleNamespace(
        OrderBook=books.OrderBook,
        Lease=books.Lease,
        BookReader=books.BookReader,
        **{name: getattr(regions, name) for name in NAMES},
    )


class Share:
    """A book, the memory that it publishes itself into, and a reader of that memory."""

    def __init__(
        self, made: SimpleNamespace, book: Any, levels: int = 100, reads: SimpleNamespace | None = None
    ) -> None:
        self.made, self.book = made, book
        self.memory = bytearray(made.region_bytes(levels))
        self.writer = made.RegionWriter(self.memory, "BTCUSDT", levels, exchange="binance.com", generation=7, pid=11)
        book.region = self.writer
        reads = reads or made
        self.reader = reads.SharedReader("BTCUSDT", attachment=reads.Attachment(self.memory))


class Wanderer:
    """Messages of a market that wanders: snapshots and updates with levels, decimals and gaps at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.id = 1_000

    def level(self, base: int) -> tuple[str, str]:
        rng = self.rng
        decimals = rng.choice((1, 2, 2, 2, 4))
        quantity = rng.choice(("0", "0", f"{rng.randint(1, 9999) / 100:.2f}", f"{rng.randint(1, 99) / 1000:.5f}"))
        return f"{base + rng.randint(0, 200) / 10:.{decimals}f}", quantity

    def snapshot(self) -> bytes:
        self.id += 1
        prices = [{f"{base + self.rng.randint(0, 200) / 10:.2f}" for _ in range(30)} for base in (100, 121)]
        bids, asks = ([(price, f"{self.rng.randint(1, 999)}.50") for price in side] for side in prices)
        return make_snapshot(bids, asks, self.id, E=self.id, T=self.id)

    def update(self) -> bytes:
        self.id += 1
        sides = [[self.level(base) for _ in range(self.rng.randint(0, 6))] for base in (100, 121)]
        return make_update(self.id, bids=sides[0], asks=sides[1], E=self.id)


def change(book: Any, make: Any, wanderer: Wanderer) -> None:
    """Change a book in one of all the ways that there are."""
    rng = wanderer.rng
    what = rng.random()
    if what < 0.06 or not book.is_loaded:
        book.load_snapshot(wanderer.snapshot(), rng.choice((None, 10, 1000)), received_time_ns=wanderer.id)
    elif what < 0.09:
        book.suspend(rng.choice((Cause.GAP, "STREAM_CLOSED", "a cause of a program's own, too long for the room")))
    elif what < 0.2:
        book.resume()
    elif what < 0.22:
        book.clear()
    elif what < 0.25:
        other = make("spot")
        other.load_snapshot(wanderer.snapshot(), 10)
        wanderer.id = book.last_update_id
        other.load_snapshot(make_snapshot([("99.123456", "2")], [("150", "1")], wanderer.id), 1000)
        book.adopt(other)
    else:
        book.apply(wanderer.update(), wanderer.id if rng.random() < 0.5 else None)


SIZES = (8, 16, 20, 24, 192, 56 + 256, 60 + 256, 96 + 256, 104 + 256, 108 + 256, 312)
"""Places of what decides about sizes, loops and scales."""


def mutated(rng: random.Random, octets: bytearray) -> bytearray:
    """Return the bytes of a region with some of them changed, or cut."""
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.choice(SIZES) if rng.random() < 0.4 else rng.randrange(len(octets))
        width = rng.choice((1, 4, 8))
        value = rng.choice((0, 1, 2, 255, 2**31, 2**63, 2**64 - 1, rng.getrandbits(64))) % (1 << 8 * width)
        octets[place : place + width] = value.to_bytes(width, "little")[: len(octets) - place]
    return octets if rng.random() < 0.95 else octets[: rng.randrange(len(octets))]
