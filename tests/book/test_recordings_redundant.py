"""The recordings as two connections bring them whose windows differ: what comes first counts, and nothing is wrong.

The second connection's updates are those of the recording, one to four in one: as the exchange would have sent them,
had its window ended later. Now one connection is ahead, now the other one, so that updates come twice, overlap, and
begin in the middle of what is known. After each that is applied the book is the one that the recording alone makes.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from recordings import RECORDINGS, SNAPSHOT_LIMIT, messages_of

from ldc.types import Verdict

PYTHON_UPDATES_MAX = 300
"""Of each market, in the book in plain Python."""

AHEAD_MAX = 6
"""So many windows one connection may be ahead of the other."""

EXPECTED_OVERLAPS = {"spot_btcusdt": 200, "usdm_ethusdt": 200, "cm_ethusd_perp": 200, "spot_2021": 3, "usdm_2021": 15}


def joined(payloads: list[bytes]) -> bytes:
    """Return one update that tells what these tell: of each level that was touched, how it stands at the end."""
    events = [json.loads(payload)["data"] for payload in payloads]
    whole = events[-1] | {key: events[0][key] for key in ("U", "pu") if key in events[0]}
    for side in ("b", "a"):
        whole[side] = list(
            {float(price): [price, quantity] for event in events for price, quantity in event[side]}.values()
        )
    return json.dumps({"stream": json.loads(payloads[0])["stream"], "data": whole}).encode()


def windows(updates: list[bytes], dice: random.Random) -> Iterator[tuple[int, bytes]]:
    """Return the updates of the second connection, each with how many of the first one's it has told by then."""
    place = 0
    while place < len(updates):
        count = min(dice.randint(1, 4), len(updates) - place)
        yield place + count, joined(updates[place : place + count]) if count > 1 else updates[place]
        place += count


def overlaps_in(books: ModuleType, rule: str, body: bytes, updates: list[bytes], seed: int, most: int | None) -> int:
    """Bring a market on two connections; return how many updates overlapped."""
    dice = random.Random(seed)
    book, alone = books.OrderBook(rule), books.OrderBook(rule)
    for each in (book, alone):
        each.load_snapshot(body, SNAPSHOT_LIMIT)
    while alone.apply(updates[0]) is Verdict.STALE:
        updates = updates[1:]
    updates = updates[:most]
    following = iter(updates[1:])
    streams = [list(enumerate(updates, 1)), list(windows(updates, dice))]
    told, places = [0, 0], [0, 0]
    while any(places[n] < len(streams[n]) for n in (0, 1)):
        able = [n for n in (0, 1) if places[n] < len(streams[n]) and told[n] - told[1 - n] <= AHEAD_MAX]
        number = dice.choices(able, [(5, 2)[n] for n in able])[0]  # of the second there are fewer
        told[number], payload = streams[number][places[number]]
        places[number] += 1
        verdict = book.apply(payload)
        assert verdict is not Verdict.GAP, f"seed {seed}"
        if verdict is Verdict.STALE:
            continue
        while alone.last_update_id < book.last_update_id:
            assert alone.apply(next(following)) is Verdict.APPLIED
        difference = book.compare(alone)
        assert (book.last_update_id, difference.is_equal) == (alone.last_update_id, True), (f"seed {seed}", difference)
    assert book.bids(beyond_horizon=True) == alone.bids(beyond_horizon=True)
    assert book.asks(beyond_horizon=True) == alone.asks(beyond_horizon=True)
    return int(book.counters.updates_overlapping - alone.counters.updates_overlapping)


@pytest.mark.parametrize("name", RECORDINGS)
def test_an_overlap_never_leaves_a_wrong_level(name: str, books: ModuleType, captures: Path) -> None:
    bodies: dict[str, bytes] = {}
    updates: dict[str, list[bytes]] = {}
    for message in messages_of(captures, name):
        if message.kind == "snapshot":
            bodies.setdefault(message.market, message.payload)
        elif message.kind == "depthUpdate":
            updates.setdefault(message.market, []).append(message.payload)
    overlaps = 0
    is_python = books.__name__.endswith("pure.book")
    for seed, (market, body) in enumerate(bodies.items()):
        most = PYTHON_UPDATES_MAX if is_python else None
        overlaps += overlaps_in(books, RECORDINGS[name].rule, body, updates[market], seed, most)
    assert overlaps > (0 if is_python else EXPECTED_OVERLAPS[name])
