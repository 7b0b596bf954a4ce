"""Websocket frames, from the server to us, without any I/O: bytes in, messages out. RFC 6455 sections 5 and 7.

Rule 1: nothing is read or kept past a named limit, and a frame that claims too much is refused at its header.
Rule 2: what the RFC forbids a server to send raises `FrameError`, with the close code to answer; then it is over.
Rule 3: the reader does not look into messages, but for what a close frame must say. Whoever reads a text message
    checks that it is UTF-8 (the order book does so as it goes along).

Rule 4: a depth update of a book that is bound and direct is applied at once. Whatever is not a plain APPLIED (another
    verdict, a book that needs attention, a thread that waits for it) is handed out, and from then on its binding is not
    direct: the updates that follow are handed out unapplied, in their order, until the owner makes it direct again.

Rule 5: a market that several connections bring (its binding is redundant) comes in duplicates. One is counted here and
    not handed out, unless it could be a sign that the exchange counts its ids anew: no update was applied since the
    snapshot, or it is the second one in a row on its stream with an event time past the book's, or for
    `DUPLICATES_S_MAX` its stream has brought nothing else.

How to drive it: `writable()` gives the memory to receive into, `received(n)` says how much arrived, then take events
with `next_event()` until it returns None. What it returns is copied out, so it may be kept.

This is the reader in plain Python. `ldc/core/frames.pxi` is the same, compiled; `ldc.book` picks the one that goes with
the order book, and the tests hold both to the same.
"""

import enum
from collections import deque
from typing import Any, NamedTuple

from ldc.errors import MalformedMessage
from ldc.types import Verdict

__all__ = [
    "CONTROL_BYTES_MAX",
    "DUPLICATES_S_MAX",
    "LAGS_KEPT",
    "MESSAGE_BYTES_MAX",
    "RECEIVE_BYTES",
    "FrameError",
    "FrameEvent",
    "FrameReader",
    "Opcode",
    "StreamBinding",
    "StreamTally",
]

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""A message, all its fragments together, of more bytes is refused with close code 1009 (the order book's own limit)."""

CONTROL_BYTES_MAX = 125
"""What a ping, pong or close may carry (RFC 6455, 5.5)."""

RECEIVE_BYTES = 65_536
"""How much one receive may bring. The buffer holds this and at most one unfinished frame."""

BUFFER_BYTES_KEPT = 16 * RECEIVE_BYTES
"""A buffer that grew past this for a long frame is given back when that has been read, and little is held."""

FRAGMENTS_MAX = 4_096
"""Fragments of one message; more are refused with 1009, for each costs memory whatever it carries."""


LAGS_KEPT = 256
"""Of so many updates of redundant markets a reader remembers how late they came; 2 kB a connection."""

DUPLICATES_S_MAX = 5.0
"""A book that has stood at one id for so long while a stream brought duplicates only: the next ones are handed out."""

STREAM_PREFIX = b'{"stream":"'
"""How a message of a combined stream begins. One that is spelt otherwise is handed out without a binding."""


STREAM_BYTES_LIMIT = 256
"""A name that does not end within so many bytes is looked at by the owner, not here."""


class Opcode(enum.IntEnum):
    """What a frame is."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class StreamBinding:
    """A stream's book, and who decides what becomes of its updates.

    Args:
        book: what the updates are applied to while `is_direct`.
        owner: handed out with whatever needs a decision.

    Thread-safety: it belongs to the thread that reads the stream, but for `waiting`, which others count up and down.
    """

    __slots__ = ("book", "duplicates", "heard_at", "is_direct", "is_redundant", "owner", "waiting")

    def __init__(self, book: Any, owner: Any) -> None:
        self.book = book
        self.owner = owner
        self.is_direct = False
        """Whether updates go to the book; False: they are handed out."""
        self.is_redundant = False
        """Whether several streams bring this market, so that a STALE update is an ordinary duplicate: see rule 5."""
        self.duplicates = 0
        """Duplicates that were counted and not handed out."""
        self.heard_at = 0.0
        """When the book last judged an update of the stream. One that it refused, or has not seen, is none."""
        self.waiting = 0
        """How many threads wait for the book to change: then every change is handed out."""


class StreamTally:
    """What one connection's stream has brought of a market that others bring as well. Made by `FrameReader.bind`."""

    __slots__ = ("binding", "duplicates", "firsts", "stale_at_id", "stale_since", "stood_at_id")

    def __init__(self, binding: StreamBinding) -> None:
        self.binding = binding
        self.firsts = 0
        """Updates that were applied: they came here first."""
        self.duplicates = 0
        """Updates that had come elsewhere before."""
        self.stale_at_id: int | None = None
        """The book's id at which a STALE update with a newer event time was last ignored."""
        self.stood_at_id: int | None = None
        """The book's id at the last STALE update."""
        self.stale_since = 0.0
        """When the first one came that found it there."""


class FrameEvent(NamedTuple):
    """Something that came, and was not simply applied: a whole message, or a control frame."""

    opcode: int
    payload: bytes
    """Of a message in fragments, all of them."""
    binding: Any = None
    """The `StreamBinding` whose stream the message names, if it is bound (and the message came in one frame)."""
    verdict: Verdict | None = None
    """What the bound book said, if it was asked: it has been applied, or not."""
    error: MalformedMessage | None = None
    """Why the bound book refused it."""


class FrameError(Exception):
    """The server broke the protocol, or a limit. `close_code` is what to tell it."""

    def __init__(self, close_code: int, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


class FrameReader:
    """Cuts a stream of bytes into messages. Not thread-safe; after a `FrameError` it is of no more use."""

    __slots__ = (
        "_buffer",
        "_end",
        "_fragment_bytes",
        "_fragments",
        "_lags_ns",
        "_message_bytes_max",
        "_opcode",
        "_start",
        "_tallies",
    )

    def __init__(self, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._buffer = bytearray(2 * RECEIVE_BYTES)
        self._start = 0  # of what is not consumed yet
        self._end = 0
        self._message_bytes_max = message_bytes_max
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0
        self._opcode: int | None = None  # of the message whose fragments are being collected
        self._tallies: dict[bytes, StreamTally] = {}
        self._lags_ns: deque[int] = deque(maxlen=LAGS_KEPT)

    def bind(self, stream: str, binding: StreamBinding) -> None:
        """Apply the updates of a stream to a book, while it is direct. One that is bound already is bound anew."""
        self._tallies[stream.encode()] = StreamTally(binding)

    def unbind(self, stream: str) -> None:
        """Let go of a stream, if it is bound."""
        self._tallies.pop(stream.encode(), None)

    def tally(self, stream: str) -> StreamTally | None:
        """Return the `StreamTally` of a bound stream, or None."""
        return self._tallies.get(stream.encode())

    def lags_ns(self) -> list[int]:
        """Return, of the last LAGS_KEPT updates of redundant markets, how much later than the first copy each came."""
        return list(self._lags_ns)

    @property
    def is_between_frames(self) -> bool:
        """Whether everything received so far has been consumed: the connection may end here."""
        return self._start == self._end

    def writable(self) -> memoryview:
        """Return at least RECEIVE_BYTES of memory to receive into. Release it before the next call."""
        held_bytes = self._end - self._start
        is_oversized = len(self._buffer) > BUFFER_BYTES_KEPT and held_bytes <= BUFFER_BYTES_KEPT // 8
        if held_bytes == 0 and not is_oversized:
            self._start = self._end = 0
        elif is_oversized or len(self._buffer) - self._end < RECEIVE_BYTES:
            held = self._buffer[self._start : self._end]
            if is_oversized or len(self._buffer) - held_bytes < RECEIVE_BYTES:
                self._buffer = bytearray(2 * held_bytes + 2 * RECEIVE_BYTES)  # doubling: a long frame is copied twice
            self._buffer[:held_bytes] = held
            self._start, self._end = 0, held_bytes
        return memoryview(self._buffer)[self._end :]

    def received(self, count: int) -> None:
        """Say how many bytes were written to what `writable` returned."""
        if not 0 <= count <= len(self._buffer) - self._end:
            raise ValueError(f"{count} bytes were not written to what writable() returned")
        self._end += count

    def next_event(self, now: float, received_time_ns: int) -> FrameEvent | None:
        """Apply what can be applied, and return the next `FrameEvent`, or None: more bytes are needed.

        Args:
            now: noted as `StreamBinding.heard_at`.
            received_time_ns: the local receive time, handed on to the books.

        Raises:
            FrameError: the server broke the protocol. The reader is of no more use.
        """
        while (message := self._next_message()) is not None:
            first, payload = message
            event = self._take(first, payload) if first != 0x81 else self._take_text(payload, now, received_time_ns)
            if event is not None:
                return event
        return None

    def _next_message(self) -> tuple[int, bytes] | None:
        """Return the first byte and the payload of the next frame, or None."""
        buffer = self._buffer
        start = self._start
        held = self._end - start
        if held < 2:
            return None
        first, length = buffer[start], buffer[start + 1]
        header_bytes = 2
        if length >= 126:
            if length >= 128:
                raise FrameError(1002, "the server masked a frame")
            header_bytes = 4 if length == 126 else 10
            if held < header_bytes:
                check_first_byte(first, length)
                return None
            length = int.from_bytes(buffer[start + 2 : start + header_bytes], "big")
        if first != 0x81 or self._opcode is not None:  # anything but an unfragmented text
            self._check_header(first, length)
        if length > self._message_bytes_max:
            raise FrameError(1009, f"a frame of {length} bytes is over the limit of {self._message_bytes_max}")
        if held < header_bytes + length:
            return None
        body = start + header_bytes
        self._start = body + length
        return first, bytes(memoryview(buffer)[body : body + length])

    def _take_text(self, payload: bytes, now: float, received_time_ns: int) -> FrameEvent | None:
        """Apply an update to its book, if it is bound and direct; return None, or what there is to decide about it."""
        name_end = payload.find(b'"', 11, 11 + STREAM_BYTES_LIMIT) if payload[:11] == STREAM_PREFIX else -1
        tally = self._tallies.get(payload[11:name_end]) if name_end >= 0 else None
        if tally is None:
            return FrameEvent(Opcode.TEXT, payload)
        binding = tally.binding
        if not binding.is_direct:
            return FrameEvent(Opcode.TEXT, payload, binding)
        try:
            verdict = binding.book.apply(payload, received_time_ns)
        except MalformedMessage as error:
            binding.is_direct = False
            return FrameEvent(Opcode.TEXT, payload, binding, None, error)
        binding.heard_at = now
        if binding.is_redundant:
            if not verdict:
                tally.firsts += 1
                self._lags_ns.append(0)
            elif verdict == Verdict.STALE and self._is_plain_duplicate(tally, now, received_time_ns):
                return None
        if not verdict and not binding.book.needs_attention and not binding.waiting:  # APPLIED is 0
            return None
        binding.is_direct = False
        return FrameEvent(Opcode.TEXT, payload, binding, verdict)

    def _is_plain_duplicate(self, tally: StreamTally, now: float, received_time_ns: int) -> bool:
        """Count a STALE update of a redundant market; return whether that is all there is to do about it."""
        book, header = tally.binding.book, tally.binding.book.last_header
        if book._state.is_first_after_snapshot:  # of the book in plain Python, which this is the reader for
            return False
        reached_id, reached_ms, reached_ns = book.last_update_id, book.event_time_ms, book.received_time_ns
        if tally.stood_at_id != reached_id:
            tally.stood_at_id, tally.stale_since = reached_id, now
        elif now - tally.stale_since >= DUPLICATES_S_MAX:
            return False
        if header.event_time_ms is not None and reached_ms is not None and header.event_time_ms > reached_ms:
            if tally.stale_at_id == reached_id:
                return False
            tally.stale_at_id = reached_id
        if header.last_update_id == reached_id and reached_ns is not None and received_time_ns >= reached_ns:
            self._lags_ns.append(received_time_ns - reached_ns)
        tally.duplicates += 1
        tally.binding.duplicates += 1
        return True

    def _check_header(self, first: int, length: int) -> None:
        """Refuse what may not come here: the order of fragments, and the size of all of them together."""
        opcode = check_first_byte(first, length)
        if opcode >= Opcode.CLOSE:
            return
        if opcode == Opcode.CONTINUATION:
            if self._opcode is None:
                raise FrameError(1002, "a continuation frame without a message to continue")
            if self._fragment_bytes + length > self._message_bytes_max:
                raise FrameError(1009, f"a message of fragments is over the limit of {self._message_bytes_max} bytes")
            if len(self._fragments) >= FRAGMENTS_MAX:
                raise FrameError(1009, f"a message of more than {FRAGMENTS_MAX} fragments")
        elif self._opcode is not None:
            raise FrameError(1002, "a new message began inside a fragmented one")

    def _take(self, first: int, payload: bytes) -> FrameEvent | None:
        """Return the event that a frame is or completes, or None if it is a fragment."""
        opcode = first & 0x0F
        if opcode >= Opcode.CLOSE:
            if opcode == Opcode.CLOSE:
                check_close(payload)
            return FrameEvent(opcode, payload)
        if opcode != Opcode.CONTINUATION:
            self._opcode = opcode
        self._fragments.append(payload)
        self._fragment_bytes += len(payload)
        if not first & 0x80:
            return None
        whole = FrameEvent(self._opcode or opcode, b"".join(self._fragments))
        self._fragments.clear()
        self._fragment_bytes = 0
        self._opcode = None
        return whole


def check_first_byte(first: int, length: int) -> int:
    """Return the opcode; refuse reserved bits and opcodes, and control frames that are too long or fragmented."""
    if first & 0x70:
        raise FrameError(1002, "a reserved bit is set although no extension was agreed on")
    opcode = first & 0x0F
    if opcode not in (0, 1, 2, 8, 9, 10):
        raise FrameError(1002, f"opcode {opcode} is not defined")
    if opcode >= Opcode.CLOSE:
        if not first & 0x80:
            raise FrameError(1002, "a control frame is fragmented")
        if length > CONTROL_BYTES_MAX:
            raise FrameError(1002, "a control frame carries more than 125 bytes")
    return opcode


def check_close(payload: bytes) -> None:
    """Refuse a close frame whose code may not be sent, or whose reason is no UTF-8 (RFC 6455, 7.4 and 5.5.1)."""
    if not payload:
        return
    if len(payload) == 1:
        raise FrameError(1002, "a close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(1002, f"close code {code} may not be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError as error:
        raise FrameError(1007, "the reason of a close frame is not UTF-8") from error
