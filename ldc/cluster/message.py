"""The bytes that nodes and readers exchange: the best levels of a book, and proofs that books are current.

Rule 1: a book travels as one message, in the layout of shared memory: one encoder, one decoder (`ldc.shared`).
Rule 2: ages travel as durations. No clock of another machine is believed.
Rule 3: a message names its market. The transport numbers its keys, and reuses the numbers: while publishers come and
    go, a message may arrive under the key of another market.
Rule 4: readers survive any bytes. What cannot be read is a ``ValueError``.
"""

import math
import operator
import struct
from collections.abc import Iterable
from typing import NamedTuple

import ldc
from ldc.shared import decode, encode

LEVELS_MAX = 1000
"""Levels a side of a message. More are refused: whole books travel by a gateway."""

MALFORMED = frozenset({"MALFORMED", "BUSY"})
"""Causes of a message that holds what no node writes."""

CAUSE_BYTES_MAX = 24
"""Bytes of a cause. Every cause of ldc is shorter."""

_PROOF = struct.Struct(f"<BqI{CAUSE_BYTES_MAX}s")
_AGE_MS_MAX = 2**32 - 1


class Push(NamedTuple):
    """The best levels of a market on one node, or that they cannot be read there."""

    market: str
    last_update_id: int
    event_time_ms: int | None
    cause: str | None
    """Why the book cannot be read; None: it can."""
    levels: ldc.BookView[float] | None
    """None: it cannot be read. Its horizons are the nearer of the book's and of the last level."""

    def view(self, received_time_ns: int) -> ldc.BookView[float]:
        """Return the levels as the manager's reads do, with the time at which this process received them."""
        assert self.levels is not None, "a book that cannot be read has no levels"
        return self.levels._replace(received_time_ns=received_time_ns)


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
    return encode(reader, levels, market=market)


def refusal(market: str, cause: str | None) -> bytes:
    """Return the message that a node does not have a book. None: it never had one."""
    book = ldc.OrderBook("spot")
    if cause is not None:
        book.suspend(cause)
    return encode(book, 1, market=market)


def push_from(data: bytes) -> Push:
    """Return a message as values. Raises ``ValueError`` for bytes that are none. O(levels)."""
    try:
        reader = decode(data)
        view = reader.view()
    except ldc.MalformedMessage as error:
        raise ValueError(error.message) from None
    except ldc.DepthCacheError as error:
        if error.cause in MALFORMED:
            raise ValueError(error.message) from None
        return Push(reader.market, reader.last_update_id or 0, None, error.cause or "NOT_LOADED", None)
    return Push(reader.market, view.last_update_id, view.event_time_ms, None, view)


def differ(one: Push, other: Push) -> bool:
    """Return whether two readable books at the same update id contradict each other where both are complete."""
    mine, theirs = one.levels, other.levels
    if mine is None or theirs is None or (mine.bids == theirs.bids and mine.asks == theirs.asks):
        return False
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


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _cause(text: bytes) -> str | None:
    found = text.rstrip(b"\0").decode("ascii", "replace")
    return "".join(each if each.isupper() or each == "_" else "?" for each in found) or None
