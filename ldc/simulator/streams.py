"""Streams: what their names mean, and what each tells when its market has come to the end of a window.

Rule 1: a message is encoded once for all who get it in the same form.
Rule 2: no socket here; whoever ticks a market hands the messages on.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from ldc.simulator.faults import Fault, FaultBoard, Place
from ldc.simulator.market import Market, Update
from ldc.simulator.wire import Family, diff_text, partial_text, ticker_text, wrapped
from ldc.venues import Venue

_PARTIAL_DEPTHS = (5, 10, 20)

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


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
    """A stream that this exchange has."""

    name: str
    symbol: str
    kind: str
    """ "diff", "partial" or "ticker"."""
    interval_ms: int
    depth: int
    """Levels of a partial depth."""


def parse_stream(family: Family, venue: Venue, name: str) -> StreamName | None:
    """Return what a name means, or None: no stream of this exchange is spelt so, and it stays silent."""
    lower, separator, suffix = name.partition("@")
    symbol = lower.upper()
    # Symbols are lower case in the names of streams, in their ASCII letters.
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
    """In which form a connection wants its messages."""

    combined: bool
    microseconds: bool


class Message:
    """Something to send, in every form that is asked for."""

    def __init__(self, stream: str, text: Callable[[int], str], event_time_ms: int) -> None:
        self._stream, self._text, self._event_time_ms = stream, text, event_time_ms
        self._frames: dict[Form, bytes] = {}
        self.fault: Fault | None = None
        self.place_bits = 0

    def frame(self, form: Form) -> bytes:
        """Return the bytes for a connection of that form, frame header included; none if the fault says so."""
        found = self._frames.get(form)
        if found is None:
            event_time = self._event_time_ms * 1000 if form.microseconds else self._event_time_ms
            text = self._text(event_time)
            payload = (wrapped(self._stream, text) if form.combined else text).encode()
            if self.fault is None:
                found = framed(payload)
            else:
                found = b"".join(map(framed, _struck(self.fault.name, payload, self.place_bits)))
            self._frames[form] = found
        return found


def _struck(name: str, payload: bytes, place_bits: int) -> Iterable[bytes]:
    """Return the payloads that are sent in the place of one."""
    place = 1 + (place_bits * (len(payload) - 1) >> 32)
    head, _, tail = payload.partition(b'"s":"')
    struck: dict[str, tuple[bytes, ...]] = {
        "drop": (),
        "duplicate": (payload, payload),
        # A control character is no JSON anywhere, but valid UTF-8: the frame itself is in order.
        "corrupt": (payload[: place - 1] + b"\x01" + payload[place:],),
        "truncate": (payload[:place],),
        "trailing": (payload + b"]",),
        "wrong_symbol": (head + b'"s":"OTHER' + tail,),
    }
    return struck.get(name, (payload,))


class Stream:
    """A stream with listeners: collects what its market does, and tells it in its own time."""

    def __init__(self, name: StreamName, family: Family, market: Market, windows: int, faults: FaultBoard) -> None:
        self.name = name
        self._family, self._market, self._windows, self._faults = family, market, windows, faults
        self._joined: Update | None = None
        self._told: Update | None = None
        self._tops: tuple[int, int, int, int] | None = None
        self._held: Message | None = None
        self._tell = {"diff": self._diff, "partial": self._partial, "ticker": self._ticker}[name.kind]

    def window_ended(self, update: Update | None) -> list[Message]:
        """Take in what a window changed, and return what is to be sent now. Before the next window begins."""
        return self._tell(update)

    def window_began(self) -> list[Message]:
        """Return what is to be sent because of what has happened at the beginning of a window."""
        return self._ticker(None) if self.name.kind == "ticker" else []

    def _due(self, update: Update | None) -> Update | None:
        """Return what has changed since the last message, if it is time to tell it."""
        if update is not None:
            self._joined = update if self._joined is None else _joined(self._joined, update)
        if self._joined is None or self._market.windows % self._windows:
            return None
        due, self._joined = self._joined, None
        return due

    def _diff(self, update: Update | None) -> list[Message]:
        due = self._due(update)
        if due is None:
            return []
        market = self._market
        fault = self._faults.take(Place.FRAME, market.listing.symbol)
        told, self._told = self._told, due
        if fault is not None and fault.name == "overlap" and told is not None:
            due = _joined(told, due)
        message = Message(
            self.name.name, lambda time: diff_text(self._family, market.listing, due, time), due.event_time_ms
        )
        if fault is not None:
            message.fault, message.place_bits = fault, self._faults.bits(32)
        if fault is not None and fault.name == "reorder" and self._held is None:
            self._held = message
            return []
        messages = [message] if self._held is None else [message, self._held]
        self._held = None
        return messages

    def _partial(self, update: Update | None) -> list[Message]:
        due = self._due(update)
        if due is None:
            return []
        market, depth = self._market, self.name.depth
        bids, asks, text = market.bids.top(depth), market.asks.top(depth), partial_text
        return [
            Message(
                self.name.name,
                lambda time: text(self._family, market.listing, due, time, bids, asks),
                due.event_time_ms,
            )
        ]

    def _ticker(self, _update: Update | None) -> list[Message]:
        market = self._market
        tops, update_id = market.tops, market.last_update_id
        if tops == self._tops:
            return []
        self._tops = tops
        return [
            Message(
                self.name.name,
                lambda time: ticker_text(self._family, market.listing, update_id, time, tops),
                market.event_time_ms,
            )
        ]


def _joined(first: Update, second: Update) -> Update:
    """Return two updates that follow one another as one."""
    return replace(
        second,
        first_update_id=first.first_update_id,
        previous_update_id=first.previous_update_id,
        bids=sorted((dict(first.bids) | dict(second.bids)).items(), reverse=True),
        asks=sorted((dict(first.asks) | dict(second.asks)).items()),
    )
