"""Streams: what their names and URLs mean, and the frames in which a server sends them.

Rule 1: no socket. A name that means nothing is None; a server accepts it and stays silent, as the exchange does.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ldc.venues import Venue
from ldc.wire.families import Family

_PARTIAL_DEPTHS = (5, 10, 20)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def framed(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a websocket frame as a server sends it."""
    size = len(payload)
    first = bytes((0x80 | opcode,))
    if size < 126:
        return first + bytes((size,)) + payload
    if size < 65_536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


class StreamName(NamedTuple):
    """The name of a stream that exists."""

    name: str
    symbol: str
    kind: str
    """ "diff", "partial" or "ticker"."""
    interval_ms: int
    depth: int
    """Levels of a partial depth."""


def parse_stream(family: Family, venue: Venue, name: str) -> StreamName | None:
    """Return the meaning of a name, or None: this exchange has no such stream, and it stays silent."""
    lower, separator, suffix = name.partition("@")
    symbol = lower.upper()
    # In stream names, the ASCII letters of symbols are lower case.
    if not separator or any("A" <= letter <= "Z" for letter in lower):
        return None
    if suffix == "bookTicker":
        return StreamName(name, symbol, "ticker", 0, 0)
    for speed in venue.update_speeds:
        if f"@{suffix}" == speed.suffix:
            return StreamName(name, symbol, "diff", speed.interval_ms, 0)
    for depth in _PARTIAL_DEPTHS:
        for ending, interval_ms in family.partial_intervals.items():
            if suffix == f"depth{depth}{ending}":
                return StreamName(name, symbol, "partial", interval_ms, depth)
    return None


class Form(NamedTuple):
    """The form of a connection's messages."""

    combined: bool
    microseconds: bool


def requested_streams(family: Family, path: str, query: Mapping[str, str]) -> tuple[list[str] | None, bool]:
    """Return the streams that a URL requests, and whether they are combined; None: no such endpoint."""
    for prefix in family.stream_prefixes:
        if path in (f"{prefix}/ws", f"{prefix}/ws/"):
            return [], False
        if path.startswith(f"{prefix}/ws/"):
            return [name for name in path[len(prefix) + 4 :].split("/") if name], False
        if path == f"{prefix}/stream":
            return [name for name in query.get("streams", "").split("/") if name], True
    return None, False
