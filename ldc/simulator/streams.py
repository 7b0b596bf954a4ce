"""Streams: the messages of each at the end of a window.

Rule 1: a message is encoded once for all connections with the same form.
Rule 2: no socket. The caller sends the messages.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from ldc.simulator.faults import Fault, PendingFaults, Place
from ldc.simulator.market import Market, Update
from ldc.simulator.messages import diff_of, partial_of, ticker_of
from ldc.wire.families import Family
from ldc.wire.streams import Form, StreamName, framed
from ldc.wire.texts import wrapped


class Message:
    """A message, encoded in each form on the first request for it."""

    def __init__(self, stream: str, text: Callable[[int], str], event_time_ms: int) -> None:
        self._stream, self._text, self._event_time_ms = stream, text, event_time_ms
        self._frames: dict[Form, bytes] = {}
        self.fault: Fault | None = None
        self.place_bits = 0

    def frame(self, form: Form) -> bytes:
        """Return the bytes for a connection of that form, frame header included; empty if a fault drops them."""
        found = self._frames.get(form)
        if found is None:
            event_time = self._event_time_ms * 1000 if form.microseconds else self._event_time_ms
            text = self._text(event_time)
            payload = (wrapped(self._stream, text) if form.combined else text).encode()
            if self.fault is None:
                found = framed(payload)
            else:
                found = b"".join(map(framed, _faulty_payloads(self.fault.name, payload, self.place_bits)))
            self._frames[form] = found
        return found


def _faulty_payloads(name: str, payload: bytes, place_bits: int) -> Iterable[bytes]:
    """Return the payloads that a fault sends instead of one."""
    place = 1 + (place_bits * (len(payload) - 1) >> 32)
    head, _, tail = payload.partition(b'"s":"')
    payloads: dict[str, tuple[bytes, ...]] = {
        "drop": (),
        "duplicate": (payload, payload),
        # A control character is never JSON, but valid UTF-8: the frame itself is correct.
        "corrupt": (payload[: place - 1] + b"\x01" + payload[place:],),
        "truncate": (payload[:place],),
        "trailing": (payload + b"]",),
        "wrong_symbol": (head + b'"s":"OTHER' + tail,),
    }
    return payloads.get(name, (payload,))


class Stream:
    """A stream with subscribers: it collects the changes of its market, and sends them at its own interval."""

    def __init__(self, name: StreamName, family: Family, market: Market, windows: int, faults: PendingFaults) -> None:
        self.name = name
        self._family, self._market, self._windows, self._faults = family, market, windows, faults
        self._pending: Update | None = None
        self._previous: Update | None = None
        self._tops: tuple[int, int, int, int] | None = None
        self._held: Message | None = None
        self._messages = {"diff": self._diff, "partial": self._partial, "ticker": self._ticker}[name.kind]

    def window_ended(self, update: Update | None) -> list[Message]:
        """Add the changes of a window, and return the messages to send. Call it before the next window begins."""
        return self._messages(update)

    def window_began(self) -> list[Message]:
        """Return the messages to send for the events at the beginning of a window."""
        return self._ticker(None) if self.name.kind == "ticker" else []

    def _due(self, update: Update | None) -> Update | None:
        """Return the changes since the last message, if the next one is due."""
        if update is not None:
            self._pending = update if self._pending is None else _merged(self._pending, update)
        if self._pending is None or self._market.windows % self._windows:
            return None
        due, self._pending = self._pending, None
        return due

    def _diff(self, update: Update | None) -> list[Message]:
        due = self._due(update)
        if due is None:
            return []
        market = self._market
        fault = self._faults.take(Place.UPDATE, market.listing.symbol)
        previous, self._previous = self._previous, due
        if fault is not None and fault.name == "overlap" and previous is not None:
            due = _merged(previous, due)
        message = Message(
            self.name.name, lambda time: diff_of(self._family, market.listing, due, time), due.event_time_ms
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
        bids, asks, text = market.bids.top(depth), market.asks.top(depth), partial_of
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
                lambda time: ticker_of(self._family, market.listing, update_id, time, tops),
                market.event_time_ms,
            )
        ]


def _merged(first: Update, second: Update) -> Update:
    """Return two consecutive updates as one."""
    return replace(
        second,
        first_update_id=first.first_update_id,
        previous_update_id=first.previous_update_id,
        bids=sorted((dict(first.bids) | dict(second.bids)).items(), reverse=True),
        asks=sorted((dict(first.asks) | dict(second.asks)).items()),
    )
