"""Every frame of the recordings, once lost, once repeated, once too early: what the book says to it.

At each position, in one pass: the next update of the market is tried first, as if this one had been lost: a GAP, and
nothing has changed. Then this one: APPLIED, no false gap. Then this one again: STALE, and nothing has changed.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from messages import everything_but_counters
from recordings import RECORDINGS, SNAPSHOT_LIMIT, messages_of

from ldc.types import Verdict

# Updates of each recording that continue a snapshot.
EXPECTED = {
    "spot_btcusdt": 6_493,
    "usdm_ethusdt": 6_581,
    "cm_ethusd_perp": 22_887,
    "spot_2021": 172,
    "usdm_2021": 752,
}

COMPARE_ALL_EVERY = 500

PYTHON_POSITIONS_MAX = 400
"""Of each market, in the book in plain Python."""


def place(book: Any) -> tuple[Any, ...]:
    """What can be read of a book at little cost."""
    tops = book.bids(3, beyond_horizon=True), book.asks(3, beyond_horizon=True)
    return book.last_update_id, book.event_time_ms, book.bid_count, book.ask_count, *tops


def try_refused(book: Any, payload: bytes, verdict: Verdict, *, is_thorough: bool) -> None:
    """Apply an update that must be refused with that verdict, and change nothing."""
    look = (lambda book: {**everything_but_counters(book), "last_header": None}) if is_thorough else place
    before, counters = look(book), book.counters
    assert book.apply(payload) is verdict
    assert look(book) == before
    name = "updates_gap" if verdict is Verdict.GAP else "updates_stale"
    assert book.counters == counters._replace(**{name: getattr(counters, name) + 1})


def positions_tried(book: Any, body: bytes, updates: list[bytes], positions_max: int | None) -> int:
    """Go through a market's updates; return how many positions there were."""
    book.load_snapshot(body, SNAPSHOT_LIMIT)
    first = 0
    while (verdict := book.apply(updates[first])) is Verdict.STALE:
        first += 1  # older than the snapshot
    assert verdict is Verdict.APPLIED
    # Without the first one nothing need be lost: a futures snapshot may stand at its last id.
    last = len(updates) if positions_max is None else min(len(updates), first + positions_max)
    tried = 1
    for number in range(first + 1, last):
        is_thorough = number % COMPARE_ALL_EVERY == 0
        if number + 1 < len(updates):
            try_refused(book, updates[number + 1], Verdict.GAP, is_thorough=is_thorough)
        assert book.apply(updates[number]) is Verdict.APPLIED
        try_refused(book, updates[number], Verdict.STALE, is_thorough=is_thorough)
        tried += 1
    book.check()
    return tried


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_loss_is_noticed_and_a_repetition_ignored_at_every_position(
    books: ModuleType, captures: Path, name: str
) -> None:
    snapshots: dict[str, bytes] = {}
    updates: dict[str, list[bytes]] = {}
    for message in messages_of(captures, name):
        if message.kind == "snapshot":
            snapshots[message.market] = message.payload
        elif message.kind == "depthUpdate":
            updates.setdefault(message.market, []).append(message.payload)
    positions_max = PYTHON_POSITIONS_MAX if books.__name__ == "ldc.book.pure.book" else None
    tried = 0
    for market, body in snapshots.items():
        book = books.OrderBook(RECORDINGS[name].rule, market=market, symbol=market)
        tried += positions_tried(book, body, updates[market], positions_max)
    assert tried == EXPECTED[name] or positions_max is not None
    assert tried > 100
