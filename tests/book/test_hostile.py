"""Damaged frames: cut anywhere, or with a byte changed. A book takes them whole and right, or not at all.

What is right is decided by tests/kits/strict_reading.py, which shares no line with either book.
"""

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import strict_reading
from hypothesis import given
from hypothesis import strategies as st
from messages import everything_but_counters, make_snapshot, make_update
from recordings import RECORDINGS, messages_of

from ldc.errors import MalformedMessage
from ldc.sequence import RULES, judge
from ldc.types import Verdict

CHANGES_PER_FRAME = 1_500
SEED = 20_240_808

BIDS = [("61737.63000000", "1.00000000"), ("61730.17000000", "0.50000000"), ("56854.58000000", "2.00000000")]
ASKS = [("61837.64000000", "0.10000000"), ("61839.85000000", "1.00000000"), ("61848.49000000", "3.00000000")]

FRAMES = {
    "spot": make_update(
        50093239189,
        50093239202,
        bids=[("61737.63000000", "0.00000000"), ("56854.58000000", "0.12345678")],
        asks=[("61837.64000000", "1.54698000"), ("61839.85000000", "0.00000000")],
        stream="btcusdt@depth@100ms",
    ),
    "futures": make_update(
        5123107832349,
        5123107837896,
        5123107832175,
        bids=[("2671.65", "20.506")],
        asks=[("2689.9", "0.000")],
        T=1723161256302,
    ),
    "other": b'{ "u" : 103, "b":[ ["1.5","2"] ],\t"a":[], "x":{"y":[1e5,-0.5,true,null,"\\u0041\\n"]}, "U":101,'
    b' "s":"\xe5\xb8\x81" }',
}


class Victim:
    """A book that is replaced whenever something was applied to it, and the opinion of the second reader."""

    def __init__(self, module: ModuleType, rule: str, frame: bytes) -> None:
        self.book = module.OrderBook(rule, market="X")
        self.rule = RULES[rule]
        sound = strict_reading.Update(frame, chains_by_previous_id=self.rule.chains_by_previous_id)
        self.start = (sound.previous if self.rule.chains_by_previous_id else sound.first - 1) or 1
        self.accepted = 0
        self.renew()

    def renew(self) -> None:
        self.book.load_snapshot(make_snapshot(BIDS, ASKS, self.start), 3)
        self.sides = [{Decimal(price): Decimal(quantity) for price, quantity in side} for side in (BIDS, ASKS)]
        self.before = everything_but_counters(self.book)
        self.is_first = True

    def suffer(self, payload: bytes) -> None:
        try:
            update = strict_reading.Update(payload, chains_by_previous_id=self.rule.chains_by_previous_id)
            ids = update.first, update.last, update.previous
            verdict = judge(self.rule, self.start, self.is_first, *ids)
            if verdict is Verdict.APPLIED:
                strict_reading.applied(self.sides, (8, 8), update)
        except strict_reading.RefusedError:
            with pytest.raises(MalformedMessage):
                self.book.apply(payload)
            assert self.book.last_update_id == self.start, payload
            return
        self.accepted += 1
        assert self.book.apply(payload) is verdict, payload
        assert self.book.last_update_id == (update.last if verdict is Verdict.APPLIED else self.start), payload
        # Whatever a refused message before this one might have left behind would show here as well.
        held = self.book.held_levels(number=Decimal)
        assert [dict(held.bids), dict(held.asks)] == list(self.sides), payload
        self.renew()

    def is_unharmed(self) -> None:
        assert everything_but_counters(self.book) == self.before
        self.book.check()


def damage(frame: bytes, seed: int) -> list[bytes]:
    """Return every truncation of a frame, and many copies with one byte changed, added or left out."""
    dice = random.Random(seed)
    damaged = [frame[:length] for length in range(len(frame))]
    likely = b'0123456789.,:"{}[]\\eEuUpstba -+x\x00\x7f\x80\xff'
    for _ in range(CHANGES_PER_FRAME):
        at = dice.randrange(len(frame))
        byte = bytes([dice.choice(likely) if dice.random() < 0.7 else dice.randrange(256)])
        damaged.append(frame[:at] + byte + frame[at + dice.choice((0, 1, 1, 1)) :])
    damaged += [frame[:at] + frame[at + 1 :] for at in range(len(frame))]
    return damaged


def assert_damage_is_refused_or_right(module: ModuleType, rule: str, frame: bytes) -> None:
    victim = Victim(module, rule, frame)
    for payload in damage(frame, SEED):
        victim.suffer(payload)
    victim.is_unharmed()
    # Not all is refused, or nothing would be learnt of what is accepted: a digit may become another one.
    assert victim.accepted > 20


@pytest.mark.parametrize("name", FRAMES)
def test_a_damaged_frame_is_refused_or_right(books: ModuleType, name: str) -> None:
    assert_damage_is_refused_or_right(books, "futures" if name == "futures" else "spot", FRAMES[name])


@pytest.mark.parametrize("name", ["spot_btcusdt", "usdm_ethusdt", "cm_ethusd_perp"])
def test_a_damaged_frame_of_the_exchange_is_refused_or_right(books: ModuleType, captures: Path, name: str) -> None:
    frames = [message.payload for message in messages_of(captures, name) if message.kind == "depthUpdate"]
    [frame] = random.Random(SEED).sample([frame for frame in frames if 300 < len(frame) < 600], 1)
    assert_damage_is_refused_or_right(books, RECORDINGS[name].rule, frame)


def test_damage_to_a_snapshot_leaves_the_book_or_replaces_it_whole(books: ModuleType) -> None:
    body = make_snapshot(BIDS, ASKS, 123456, E=1723161256567)
    book = books.OrderBook("spot")
    book.load_snapshot(make_snapshot([("1", "1")], [], 5))
    before = everything_but_counters(book)
    refused = 0
    for payload in damage(body, SEED):
        try:
            book.load_snapshot(payload, 3)
        except MalformedMessage:
            refused += 1
            assert book.last_update_id == 5, payload
            continue
        assert 0 <= book.bid_count <= 3
        assert not book.is_crossed
        assert payload.count(b'"') == body.count(b'"')
        book.check()
        book.load_snapshot(make_snapshot([("1", "1")], [], 5))
    assert without_epoch(everything_but_counters(book)) == without_epoch(before)
    assert book.counters.snapshots_refused == refused > 1000


def without_epoch(looks: dict[str, str]) -> dict[str, str]:
    """Each snapshot that was loaded began an epoch."""
    return {
        name: re.sub(r"epoch=\d+|^\d+$" if name == "epoch" else r"epoch=\d+", "", said) for name, said in looks.items()
    }


def test_both_books_refuse_the_same_damaged_snapshots(both_books: tuple[ModuleType, ModuleType]) -> None:
    body = make_snapshot(BIDS, ASKS, 123456, E=1723161256567)
    pair = [module.OrderBook("spot") for module in both_books]
    for payload in damage(body, SEED + 1):
        for book in pair:
            book.load_snapshot(make_snapshot([("1", "1")], [], 5))
            try:
                book.load_snapshot(payload, 3)
            except MalformedMessage:
                pass
        assert everything_but_counters(pair[0]) == everything_but_counters(pair[1]), payload


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.sampled_from(["1", "0", "1.50", "x", "", "1e3", "9223372036854775807", "0.000000000000000001"]) | st.text(
    max_size=4
)
IDS = st.integers(99, 103) | st.sampled_from([0, -1, 2**63 - 1, 2**63, "101", None, 1.0, True])
FIELDS = st.fixed_dictionaries(
    {"U": IDS, "u": IDS, "b": st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=2), "a": st.just([])},
    optional={
        "pu": IDS,
        "e": st.just("depthUpdate") | JSON_VALUES,
        "s": JSON_VALUES,
        "E": JSON_VALUES,
        "x": JSON_VALUES,
    },
)


@given(fields=FIELDS, wrapped=st.booleans(), ascii_only=st.booleans(), rule=st.sampled_from(list(RULES)))
def test_made_up_updates_are_refused_or_right(
    books: ModuleType, fields: dict[str, Any], wrapped: bool, ascii_only: bool, rule: str
) -> None:
    text = json.dumps({"stream": "x", "data": fields} if wrapped else fields, ensure_ascii=ascii_only)
    victim = Victim(books, rule, make_update(101, 101, 100))
    victim.suffer(text.encode("utf-8", "surrogatepass"))
