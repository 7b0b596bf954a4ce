"""The bytes that nodes and readers exchange: the best levels of a book, and proofs that books are current.

Rule 1: a book travels as one message, so that both sides belong to one update id.
Rule 2: ages travel as durations. No clock of another machine is believed.
Rule 3: a message names its market. The transport numbers its keys, and reuses the numbers: while publishers come and
    go, a message may arrive under the key of another market.
Rule 4: readers survive any bytes. What cannot be read is a ``ValueError``.
"""

import math
import operator
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import ldc

MAGIC = b"LDCT"
VERSION = 1

LEVELS_MAX = 1000
"""Levels a side of a message. More are refused: whole books travel by a gateway."""

CAUSE_BYTES_MAX = 24
"""Bytes of a cause. Every cause of ldc is shorter."""

_HEAD = struct.Struct(f"<4sHHqqqddII{CAUSE_BYTES_MAX}s")
_PROOF = struct.Struct(f"<BqI{CAUSE_BYTES_MAX}s")
_NO_TIME = -1
_AGE_MS_MAX = 2**32 - 1


class Push(NamedTuple):
    """The best levels of a market on one node, or that they cannot be read there."""

    market: str
    last_update_id: int
    event_time_ms: int | None
    transaction_time_ms: int | None
    bid_horizon: float | None
    """The lowest price to which these bids are complete: the nearer of the book's horizon and the last level."""
    ask_horizon: float | None
    cause: str | None
    """Why the book cannot be read; None: it can."""
    counts: tuple[int, int]
    """Bids and asks."""
    levels: bytes
    """Bids, then asks: price and quantity of each as float64, little endian."""

    def view(self, received_time_ns: int) -> ldc.BookView[float]:
        """Return the levels as the manager's reads do. O(levels)."""
        bid_count, ask_count = self.counts
        numbers = struct.unpack(f"<{2 * (bid_count + ask_count)}d", self.levels)
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        return ldc.BookView(
            pairs[:bid_count],
            pairs[bid_count:],
            self.last_update_id,
            self.event_time_ms,
            self.transaction_time_ms,
            received_time_ns,
            self.bid_horizon,
            self.ask_horizon,
        )


class Proof(NamedTuple):
    """What a node says about one market when it is asked: how current its book is."""

    market: str
    last_update_id: int
    age_s: float
    """Seconds since the last proof that the book was current, when the question arrived."""
    cause: str | None
    """Why it cannot be read there; None: it can."""


def push_of(market: str, reader: ldc.BookReader, levels: int) -> bytes:
    """Return the message with the best levels of a book. One atomic read; a book that cannot be read says why."""
    try:
        view = reader.view(levels)
    except ldc.DepthCacheError as error:
        return refusal(market, reader.last_update_id or 0, error.cause or "NOT_LOADED")
    bids, asks, name = view.bids, view.asks, market.encode()
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        len(name),
        view.last_update_id,
        _NO_TIME if view.event_time_ms is None else view.event_time_ms,
        _NO_TIME if view.transaction_time_ms is None else view.transaction_time_ms,
        _horizon(bids, view.bid_horizon, view.bids_truncated),
        _horizon(asks, view.ask_horizon, view.asks_truncated),
        len(bids),
        len(asks),
        b"",
    )
    numbers = [number for side in (bids, asks) for level in side for number in level]
    return head + name + struct.pack(f"<{len(numbers)}d", *numbers)


def refusal(market: str, last_update_id: int, cause: str) -> bytes:
    """Return the message that a book cannot be read."""
    name, text = market.encode(), cause.encode()[:CAUSE_BYTES_MAX]
    nothing = (_NO_TIME, _NO_TIME, math.nan, math.nan, 0, 0)
    return _HEAD.pack(MAGIC, VERSION, len(name), last_update_id, *nothing, text) + name


def push_from(data: bytes) -> Push:
    """Return a message as values. Raises ``ValueError`` for bytes that are none. O(1): levels are decoded later."""
    if len(data) < _HEAD.size:
        raise ValueError(f"a push has {len(data)} bytes, and {_HEAD.size} are the least")
    fields = _HEAD.unpack_from(data)
    magic, version, length, last_update_id, event_ms, transaction_ms, *horizons, bids, asks, cause = fields
    bid_horizon, ask_horizon = horizons
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"a push begins with {magic!r}, version {version}; {MAGIC!r}, version {VERSION} is known")
    start = _HEAD.size + length
    if max(bids, asks) > LEVELS_MAX or len(data) != start + 16 * (bids + asks):
        raise ValueError(f"a push of {len(data)} bytes claims {bids} bids and {asks} asks")
    return Push(
        data[_HEAD.size : start].decode(),
        last_update_id,
        None if event_ms < 0 else event_ms,
        None if transaction_ms < 0 else transaction_ms,
        None if math.isnan(bid_horizon) else bid_horizon,
        None if math.isnan(ask_horizon) else ask_horizon,
        _cause(cause),
        (bids, asks),
        data[start:],
    )


def differ(one: Push, other: Push) -> bool:
    """Return whether two readable books at the same update id contradict each other where both are complete."""
    if one.counts == other.counts and one.levels == other.levels:
        return False
    mine, theirs = one.view(0), other.view(0)
    bid_end = max(_or(mine.bid_horizon, -math.inf), _or(theirs.bid_horizon, -math.inf))
    ask_end = min(_or(mine.ask_horizon, math.inf), _or(theirs.ask_horizon, math.inf))
    bids = ([level for level in view.bids if level[0] >= bid_end] for view in (mine, theirs))
    asks = ([level for level in view.asks if level[0] <= ask_end] for view in (mine, theirs))
    return bool(operator.ne(*bids) or operator.ne(*asks))


def proofs_to_bytes(proofs: Iterable[Proof]) -> bytes:
    """Return proofs as they are sent."""
    parts = []
    for proof in proofs:
        name = proof.market.encode()
        age_ms = min(_AGE_MS_MAX, math.ceil(proof.age_s * 1000))
        cause = b"" if proof.cause is None else proof.cause.encode()[:CAUSE_BYTES_MAX]
        parts.append(_PROOF.pack(len(name), proof.last_update_id, age_ms, cause) + name)
    return b"".join(parts)


def proofs_from_bytes(data: bytes) -> list[Proof]:
    """Return proofs as values. Raises ``ValueError`` for bytes that are none."""
    proofs, start = [], 0
    while start < len(data):
        if len(data) - start < _PROOF.size:
            raise ValueError("a proof was cut")
        length, last_update_id, age_ms, cause = _PROOF.unpack_from(data, start)
        start += _PROOF.size
        name = data[start : start + length]
        if len(name) != length:
            raise ValueError("the name of a proof's market was cut")
        start += length
        proofs.append(Proof(name.decode(), last_update_id, age_ms / 1000, _cause(cause)))
    return proofs


def _horizon(side: Sequence[tuple[float, float]], horizon: float | None, is_truncated: bool) -> float:
    """Return the price to which the levels of a side are complete; NaN: to every price."""
    return side[-1][0] if is_truncated else _or(horizon, math.nan)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _cause(text: bytes) -> str | None:
    found = text.rstrip(b"\0").decode("ascii", "replace")
    return "".join(each if each.isupper() or each == "_" else "?" for each in found) or None
