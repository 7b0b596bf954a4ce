"""The websocket frame reader in plain Python, without any I/O: bytes in, books updated, the rest returned as events.

Rule 1: `ldc.frames` says what a frame may be, and names the limits.
Rule 2: the reader does not look into messages, except for what a close frame must say. The reader of a text message
        checks that it is UTF-8; the order book does so while it reads.
Rule 3: a depth update of a book that is bound and direct is applied at once. Anything but a plain APPLIED is returned:
        another verdict, or a book that needs attention. From then on the binding is not direct. The updates that follow
        are returned unapplied, in their order, until the owner makes it direct again.
Rule 4: a market that several connections bring (its binding is redundant) comes in duplicates. A duplicate is counted
        here and not returned, unless the exchange may have restarted its ids. That is so in three cases: no update
        was applied since the snapshot; it is the second in a row on its stream with an event time past the book's; its
        stream has brought only duplicates for `DUPLICATES_S_MAX`.

How to drive it: `writable()` gives the memory to receive into, `received(n)` says how much arrived. Then take events
with `next_event()` until it returns None. An event owns its bytes, so it may be kept.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Self

from ldc.errors import MalformedMessage
from ldc.frames import (
    BUFFER_BYTES_KEPT,
    DUPLICATES_S_MAX,
    FRAGMENTS_MAX,
    LAGS_KEPT,
    MESSAGE_BYTES_MAX,
    RECEIVE_BYTES,
    STREAM_BYTES_LIMIT,
    STREAM_PREFIX,
    FrameError,
    FrameEvent,
    Opcode,
    check_close,
    check_first_byte,
)
from ldc.types import Verdict

PREFIX_BYTES = len(STREAM_PREFIX)


LOOK_AGAIN_S = 0.5
"""A waiting thread looks at least so often: no thread wakes it when a lease expires, for its writer stands still."""


class StreamBinding:
    """A stream's book, and who decides what becomes of its updates.

    Args:
        book: what the updates are applied to while `is_direct`.
        owner: returned in events, as `event.binding.owner`: who decides.

    Thread-safety: it belongs to the thread that reads the stream. Only `waiting` is changed by other threads.
    """

    __slots__ = (
        "_changed",
        "_listeners",
        "book",
        "change",
        "duplicates",
        "heard_at",
        "is_direct",
        "is_redundant",
        "owner",
        "waiting",
    )

    def __init__(self, book: Any, owner: Any) -> None:
        self.book = book
        self.owner = owner
        self.is_direct = False
        """Whether updates go to the book; False: they are returned."""
        self.is_redundant = False
        """Whether several streams bring this market, so that a STALE update is an ordinary duplicate: see rule 4."""
        self.duplicates = 0
        """Duplicates that were counted and not returned."""
        self.heard_at = 0.0
        """When the book last judged an update of the stream. An update that it refused does not count."""
        self.waiting = 0
        """How many threads wait for the book to change."""
        self.change = 0
        """A number that is another one after each `wake`: read it before you look at what you wait for."""
        self._changed = threading.Condition()
        self._listeners: list[UpdateWaiter] = []

    def count_waiter(self, step: int) -> None:
        """Count a waiting thread in (1) or out (-1)."""
        with self._changed:
            self.waiting += step

    def wake(self) -> None:
        """Wake all threads in `wait` and `wait_past`, here and of an `UpdateWaiter`. From any thread."""
        with self._changed:
            self.change += 1
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    def enlist(self, waiter: "UpdateWaiter") -> None:
        """Let a waiter be woken with this binding."""
        with self._changed:
            self.waiting += 1
            self._listeners.append(waiter)

    def delist(self, waiter: "UpdateWaiter") -> None:
        """Let a waiter be woken no more."""
        with self._changed:
            self.waiting -= 1
            self._listeners.remove(waiter)

    def wait(self, seen: int, timeout_s: float | None = None, spin_s: float = 0.0) -> None:
        """Block while `change` is `seen`, at most so long; spin first. May return early: look again."""
        _wait_on(self, self._changed, seen, timeout_s, spin_s)

    def wait_past(self, after: int, timeout_s: float | None = None, spin_s: float = 0.0) -> int | None:
        """Block until the book can be read and is past an id; return its id, or None: look why.

        None: the time is over, or the book cannot be read, or its id is lower.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.count_waiter(1)
        try:
            while True:
                seen = self.change
                reached: int | None = self.book.last_update_id if self.book.is_readable else None
                if reached is None or reached > after:
                    return reached
                if reached < after:  # the ids restarted, or the caller has an id of the future
                    return None
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return None
                self.wait(seen, left_s, spin_s)
        finally:
            self.count_waiter(-1)


class UpdateWaiter:
    """Waits for the first of many books that changes. Make it, wait, and `close` it: in a with block.

    Args:
        bindings: of the books, `StreamBinding`s.

    Thread-safety: one thread waits.
    """

    __slots__ = ("_bindings", "_changed", "_enlisted", "change")

    def __init__(self, bindings: Iterable[StreamBinding]) -> None:
        self._bindings = tuple(bindings)
        self._changed = threading.Condition()
        self._enlisted: list[StreamBinding] = []
        self.change = 0
        """A number that is another one after each wake-up: read it before you look at what you wait for."""
        for binding in self._bindings:
            binding.enlist(self)
            self._enlisted.append(binding)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: object, error: object, traceback: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for nothing any more. Idempotent."""
        while self._enlisted:
            self._enlisted.pop().delist(self)

    def wake(self) -> None:
        """Wake the thread that waits. From any thread."""
        with self._changed:
            self.change += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float | None = None, spin_s: float = 0.0) -> None:
        """Block while `change` is `seen`, at most so long; spin first. May return early: look again."""
        _wait_on(self, self._changed, seen, timeout_s, spin_s)

    def wait_past(self, after: Sequence[int], timeout_s: float | None = None, spin_s: float = 0.0) -> dict[int, int]:
        """Block until a book is past its id; return the ids that were reached: {place: id}.

        {}: the time is over, or a book cannot be read, or its id is lower than that: look why.
        """
        if len(after) != len(self._enlisted):
            raise ValueError(f"{len(after)} ids for {len(self._enlisted)} books")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            seen = self.change
            moved = {}
            for place, (binding, wanted) in enumerate(zip(self._bindings, after, strict=True)):
                reached = binding.book.last_update_id if binding.book.is_readable else None
                if reached is None or reached < wanted:
                    return {}
                if reached > wanted:
                    moved[place] = reached
            left_s = None if deadline is None else deadline - time.monotonic()
            if moved or (left_s is not None and left_s <= 0):
                return moved
            self.wait(seen, left_s, spin_s)


def _wait_on(
    owner: StreamBinding | UpdateWaiter,
    changed: threading.Condition,
    seen: int,
    timeout_s: float | None,
    spin_s: float,
) -> None:
    spin_end = time.monotonic() + spin_s
    while owner.change == seen and time.monotonic() < spin_end:
        pass
    with changed:
        if owner.change == seen:
            changed.wait(LOOK_AGAIN_S if timeout_s is None else min(max(timeout_s, 0.0), LOOK_AGAIN_S))


class StreamTally:
    """Counts, of one connection's stream, first arrivals and duplicates. Made by `FrameReader.bind`."""

    __slots__ = ("binding", "duplicates", "firsts", "stale_at_id", "stale_since", "stood_at_id")

    def __init__(self, binding: StreamBinding) -> None:
        self.binding = binding
        self.firsts = 0
        """Updates that arrived here first, and were applied."""
        self.duplicates = 0
        """Updates that had arrived elsewhere before."""
        self.stale_at_id: int | None = None
        """The book's id at which a STALE update with a newer event time was last ignored."""
        self.stood_at_id: int | None = None
        """The book's id at the last STALE update."""
        self.stale_since = 0.0
        """When the first STALE update arrived at that id."""


class FrameReader:
    """Splits a stream of bytes into messages, and applies those of bound books.

    Thread-safety: none; it belongs to the thread that owns the connection. After a `FrameError` it is of no more use.
    """

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
        "_touched",
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
        self._touched: set[StreamBinding] = set()  # bindings with waiters whose books have changed

    def bind(self, stream: str, binding: StreamBinding) -> None:
        """Apply the updates of a stream to a book, while it is direct. Replaces an earlier binding of the stream."""
        self._tallies[stream.encode()] = StreamTally(binding)

    def unbind(self, stream: str) -> None:
        """Remove the binding of a stream, if there is one."""
        self._tallies.pop(stream.encode(), None)

    def tally(self, stream: str) -> StreamTally | None:
        """Return the `StreamTally` of a bound stream, or None."""
        return self._tallies.get(stream.encode())

    def lags_ns(self) -> list[int]:
        """Return how much later than the first copy each of the last LAGS_KEPT redundant updates arrived."""
        return list(self._lags_ns)

    @property
    def failure(self) -> int | None:
        """None: no loop receives into this reader."""
        return None

    @property
    def received_in_loop_ns(self) -> int | None:
        """None: no loop receives into this reader."""
        return None

    @property
    def updates_in_loop(self) -> int:
        """0: no loop receives into this reader."""
        return 0

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
        """Report how many bytes were written to what `writable` returned."""
        if not 0 <= count <= len(self._buffer) - self._end:
            raise ValueError(f"{count} bytes were not written to what writable() returned")
        self._end += count

    def next_event(self, now: float, received_time_ns: int) -> FrameEvent | None:
        """Apply what can be applied, and return the next `FrameEvent`, or None: more bytes are needed.

        Args:
            now: noted as `StreamBinding.heard_at`.
            received_time_ns: the local receive time, passed to the books and returned in the event.

        Raises:
            FrameError: the server broke the protocol. The reader is of no more use.
        """
        event = None
        try:
            while event is None and (message := self._next_message()) is not None:
                first, payload = message
                event = self._take(first, payload) if first != 0x81 else self._take_text(payload, now, received_time_ns)
        finally:
            for binding in self._touched:  # their waiters are woken once, when all that arrived is applied
                binding.wake()
            self._touched.clear()
        return None if event is None else event._replace(received_time_ns=received_time_ns)

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
        """Apply an update to its book, if it is bound and direct; return None, or the event that needs a decision."""
        name_end = -1
        if payload.startswith(STREAM_PREFIX):
            name_end = payload.find(b'"', PREFIX_BYTES, PREFIX_BYTES + STREAM_BYTES_LIMIT)
        tally = self._tallies.get(payload[PREFIX_BYTES:name_end]) if name_end >= 0 else None
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
        if not verdict and not binding.book.needs_attention:  # APPLIED is 0
            if binding.waiting:
                self._touched.add(binding)
            return None
        binding.is_direct = False
        return FrameEvent(Opcode.TEXT, payload, binding, verdict)

    def _is_plain_duplicate(self, tally: StreamTally, now: float, received_time_ns: int) -> bool:
        """Count a STALE update of a redundant market; return whether nothing more is to do."""
        book, header = tally.binding.book, tally.binding.book.last_header
        if book._state.is_first_after_snapshot:  # a book of ldc.book.pure, always
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
