"""The loop without the GIL does what the reader does in Python, and leaves to Python what needs a decision."""

import contextlib
import ctypes
import selectors
import socket
import struct
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import messages
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implementations import IS_PURE

from ldc.frames import RECEIVE_BYTES, Opcode

if IS_PURE:
    pytest.skip("this is a build in plain Python: it has no loop", allow_module_level=True)

from ldc._book import FrameReader, KeepAlive, NativeLoop, OrderBook, StreamBinding, UpdateWaiter
from ldc.types import Verdict

STREAM = "btcusdt@depth@100ms"
DEADLINE_S = 20.0
"""How long a test waits for what must happen."""


def frame(payload: bytes, opcode: int = Opcode.TEXT) -> bytes:
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65_536:
        return head + b"\x7e" + struct.pack(">H", len(payload)) + payload
    return head + b"\x7f" + struct.pack(">Q", len(payload)) + payload


def unmasked(data: bytes) -> list[tuple[int, bytes]]:
    """Return (opcode, payload) of the short frames that a client has sent."""
    found = []
    while data:
        length, mask = data[1] & 0x7F, data[2:6]
        assert data[1] & 0x80, "a client masks"
        found.append((data[0] & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(data[6 : 6 + length]))))
        data = data[6 + length :]
    return found


def update(first: int, last: int, price: str = "99.00", quantity: str = "1.0") -> bytes:
    return messages.make_update(first, last, bids=[(price, quantity)], stream=STREAM)


class Link:
    """A loop with one connection, and the server's end of it."""

    def __init__(self, *, ping_interval_s: float = 3600.0, ping_timeout_s: float = 3600.0) -> None:
        self.server, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.book = OrderBook("spot")
        self.book.load_snapshot(messages.make_snapshot([("100.00", "1")], [("101.00", "1")]), limit=1000)
        self.reader = FrameReader()
        self.binding = StreamBinding(self.book, self)
        self.binding.is_direct = True
        self.reader.bind(STREAM, self.binding)
        self.keepalive = KeepAlive(ping_interval_s, ping_timeout_s, 3, pong_late_s=3600.0)
        self.keepalive.start(time.monotonic())
        self.loop = NativeLoop()
        self.tls_socket = None
        self.loop.register(self.client, selectors.EVENT_READ, self, self)
        self.loop.set_sends_here(self.client, True)

    def events(self) -> list[Any]:
        """Return what the reader has left for Python."""
        found = []
        while (event := self.reader.next_event(1.0, 1)) is not None:
            found.append(event)
        return found

    def serve(self, seconds: float = 0.05) -> list[Any]:
        return [(key.data, events) for key, events in self.loop.select(seconds)]

    def close(self) -> None:
        self.loop.close()
        self.server.close()
        self.client.close()


@contextlib.contextmanager
def link(**options: float) -> Iterator[Link]:
    made = Link(**options)
    try:
        yield made
    finally:
        made.close()


def test_updates_are_applied_without_a_return() -> None:
    with link() as one:
        for last in range(101, 151):
            one.server.sendall(frame(update(last, last, quantity=f"{last}.5")))
        assert one.serve() == []
        assert one.book.last_update_id == 150
        assert one.book.bids(2) == [[100.0, 1.0], [99.0, 150.5]]
        assert one.reader.updates_in_loop == 50
        assert one.loop.returns == 1
        assert one.events() == []


def test_a_frame_that_arrives_in_parts_is_taken_when_it_is_complete() -> None:
    data = frame(update(101, 101)) + frame(b"x", Opcode.PING) + frame(update(102, 102))
    for cut in range(1, len(data)):
        with link() as one:
            one.server.sendall(data[:cut])
            assert one.serve(0.0) == []
            one.server.sendall(data[cut:])
            assert one.serve(0.01) == []
            assert one.book.last_update_id == 102


def test_what_needs_a_decision_is_left_to_python_uncounted() -> None:
    with link() as one:
        one.server.sendall(frame(update(101, 101)) + frame(update(105, 106)) + frame(update(107, 107)))
        assert one.serve() == [(one, selectors.EVENT_READ)]
        assert one.book.counters.updates_gap == 0
        first, second = one.events()
        assert (first.verdict, first.binding) == (Verdict.GAP, one.binding)
        assert (second.verdict, second.payload) == (None, update(107, 107))  # not direct any more
        assert one.book.counters.updates_gap == 1
        assert one.book.last_update_id == 101


def test_an_update_that_leaves_its_book_crossed_is_applied_once_and_reported() -> None:
    with link() as one:
        one.server.sendall(frame(update(101, 101, price="102.00")))
        assert one.serve() == [(one, selectors.EVENT_READ)]
        [event] = one.events()
        assert event.verdict is Verdict.APPLIED
        assert one.book.is_crossed
        assert one.book.counters.updates_applied == 1


@pytest.mark.parametrize("payload", [b"{", b'{"result":null,"id":1}', b"\xff\xfe", b""])
def test_other_messages_are_left_to_python(payload: bytes) -> None:
    with link() as one:
        one.server.sendall(frame(update(101, 101)) + frame(payload))
        assert one.serve() == [(one, selectors.EVENT_READ)]
        assert [event.payload for event in one.events()] == [payload]
        assert one.book.last_update_id == 101


def test_a_binding_that_is_not_direct_is_left_alone() -> None:
    with link() as one:
        one.binding.is_direct = False
        one.server.sendall(frame(update(101, 101)))
        assert one.serve() == [(one, selectors.EVENT_READ)]
        assert one.book.last_update_id == 100


def test_pings_are_answered_and_pongs_counted_without_python() -> None:
    with link() as one:
        one.server.sendall(frame(b"first", Opcode.PING) + frame(b"last", Opcode.PING) + frame(b"stray", Opcode.PONG))
        assert one.serve() == []
        assert unmasked(one.server.recv(4096)) == [(Opcode.PONG, b"last")]
        assert one.keepalive.unmatched_pongs == 1


def test_while_python_has_something_to_send_it_sends_the_pongs_too() -> None:
    with link() as one:
        one.loop.set_sends_here(one.client, False)
        one.server.sendall(frame(b"x", Opcode.PING))
        assert one.serve() == []
        one.server.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.server.recv(4096)
        assert one.keepalive.next_message(time.monotonic()) == (Opcode.PONG, b"x")


def test_pings_are_sent_and_their_pongs_prove() -> None:
    with link(ping_interval_s=0.02, ping_timeout_s=10.0) as one:
        began = one.keepalive.proven_at
        assert one.serve() == []
        [(opcode, payload)] = unmasked(one.server.recv(4096))
        assert opcode == Opcode.PING
        one.server.sendall(frame(payload, Opcode.PONG))
        assert one.serve(0.0) == []
        assert one.keepalive.proven_at > began


def test_a_ping_without_its_pong_in_time_is_reported() -> None:
    with link(ping_interval_s=0.01, ping_timeout_s=0.02) as one:
        assert one.loop.select(DEADLINE_S)[0][0].data is one
        assert one.keepalive.is_dead(time.monotonic())


def test_the_end_of_the_stream_and_a_reset_are_told_apart() -> None:
    with link() as one:
        one.server.sendall(frame(update(101, 101)))
        one.server.close()
        assert one.serve() == [(one, selectors.EVENT_READ)]
        assert one.reader.failure == 0
        assert one.book.last_update_id == 101
    listener = socket.create_server(("127.0.0.1", 0))
    with link() as one, listener:
        one.loop.unregister(one.client)
        one.client.close()
        one.client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        one.client.setblocking(False)
        one.loop.register(one.client, selectors.EVENT_READ, one, one)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert one.serve(DEADLINE_S) == [(one, selectors.EVENT_READ)]
        assert one.reader.failure == 104  # ECONNRESET


def test_a_long_frame_grows_the_buffer_in_python() -> None:
    with link() as one:
        levels = [(f"{90 - place / 1000:.3f}", "1.0") for place in range(8_000)]
        payload = messages.make_update(101, 101, bids=levels, stream=STREAM)
        assert len(payload) > 2 * RECEIVE_BYTES
        sender = threading.Thread(target=one.server.sendall, args=(frame(payload),))
        sender.start()
        deadline = time.monotonic() + DEADLINE_S
        while one.book.last_update_id == 100 and time.monotonic() < deadline:
            if one.loop.select(0.1):
                with one.reader.writable() as room, contextlib.suppress(BlockingIOError):
                    count = one.client.recv_into(room)
                    one.reader.received(count)
                one.events()
        sender.join()
        assert one.book.bid_count == 8_001


def test_what_python_reads_comes_first() -> None:
    mailbox, sender = socket.socketpair()
    with link() as one, mailbox, sender:
        one.loop.register(mailbox, selectors.EVENT_READ)
        one.server.sendall(frame(update(101, 101)))
        sender.send(b"\0")
        assert one.serve() == [(None, selectors.EVENT_READ)]
        assert one.book.last_update_id == 100
        mailbox.recv(10)
        assert one.serve() == []
        assert one.book.last_update_id == 101


def test_room_to_write_is_reported() -> None:
    with link() as one:
        one.loop.modify(one.client, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert one.serve() == [(one, selectors.EVENT_WRITE)]


def test_a_descriptor_that_somebody_closed_is_reported() -> None:
    with link() as one:
        one.client.close()
        assert one.serve() == [(one, selectors.EVENT_READ)]
        one.loop.unregister(one.client)


def test_leaving_is_for_good() -> None:
    with link() as one:
        done = threading.Event()
        waker, wake = socket.socketpair()
        one.loop.register(waker, selectors.EVENT_READ)

        def run() -> None:
            one.loop.select(None)
            done.set()

        thread = threading.Thread(target=run)
        thread.start()
        one.loop.leave()
        wake.send(b"\0")
        assert done.wait(DEADLINE_S)
        thread.join()
        assert [key.data for key, _ in one.loop.select(None)] == [None]
        waker.close()
        wake.close()


def test_a_waiting_thread_is_woken_without_python() -> None:
    with link() as one:
        reached: list[int | None] = []
        thread = threading.Thread(target=lambda: reached.append(one.binding.wait_past(100, DEADLINE_S)))
        thread.start()
        while not one.binding.waiting:
            pass
        one.server.sendall(frame(update(101, 101)))
        assert one.serve() == []
        thread.join(DEADLINE_S)
        assert reached == [101]
        assert one.binding.waiting == 0


def test_updates_are_retained_without_a_return_and_the_id_that_is_waited_for_makes_one() -> None:
    with link() as one:
        one.book.retain_updates()
        one.book.attend_at(150)
        for last in range(101, 150):
            one.server.sendall(frame(update(last, last, quantity=f"{last}.5")))
        assert one.serve() == []
        assert one.reader.updates_in_loop == one.book.retained_count == 49
        one.server.sendall(frame(update(150, 155)))
        assert one.serve() == [(one, selectors.EVENT_READ)]
        assert [(event.payload, event.verdict) for event in one.events()] == [(update(150, 155), Verdict.APPLIED)]
        other = OrderBook("spot")
        other.load_snapshot(messages.make_snapshot([("100.00", "1")], [("101.00", "1")]), limit=1000)
        other.apply_retained(one.book)
        assert other.last_update_id == 155
        assert other.compare(one.book).is_equal


def test_a_loop_that_spins_never_sleeps_and_keeps_its_deadline() -> None:
    with link() as one:
        assert one.serve(0.05) == []
        assert one.loop.turns <= 3  # a signal may have ended a sleep
        one.loop.spins = True
        before, began = one.loop.turns, time.monotonic()
        assert one.serve(0.05) == []
        assert time.monotonic() - began >= 0.05
        assert one.loop.turns - before > 10
        one.server.sendall(frame(update(101, 101)))
        assert one.serve() == []
        assert one.book.last_update_id == 101


def test_a_waiter_for_many_is_woken_by_the_loop() -> None:
    with link() as one, UpdateWaiter([one.binding]) as waiter:
        reached = []
        thread = threading.Thread(target=lambda: reached.append(waiter.wait_past([100], DEADLINE_S)))
        thread.start()
        one.server.sendall(frame(update(101, 101)))
        assert one.serve() == []
        thread.join(DEADLINE_S)
        assert reached == [{0: 101}]
        assert waiter.change == 1


def test_the_book_is_fresh_while_another_thread_holds_the_gil() -> None:
    """The update arrives, and is applied, while no Python at all can run."""
    if not hasattr(ctypes, "PyDLL"):
        pytest.skip("there is no way to hold the GIL in C here")
    hold = ctypes.PyDLL(None).usleep  # PyDLL keeps the GIL during the call
    with link() as one:
        thread = threading.Thread(target=one.loop.select, args=(0.6,))
        thread.start()
        while not one.loop.is_in_c:
            pass
        one.server.sendall(frame(update(101, 101)))
        hold(200_000)
        held_until_ns = time.time_ns()
        assert one.book.last_update_id == 101
        assert one.book.received_time_ns < held_until_ns - 100_000_000
        thread.join()


def python_only(data: list[bytes]) -> tuple[Any, ...]:
    one = Link()
    found = []
    for chunk in data:
        with one.reader.writable() as room:
            room[: len(chunk)] = chunk
        one.reader.received(len(chunk))
        found += one.events()
    one.close()
    return outcome(one, found)


def by_loop(data: list[bytes]) -> tuple[Any, ...]:
    one = Link()
    one.loop.set_sends_here(one.client, False)
    found = []
    for chunk in data:
        one.server.sendall(chunk)
        one.loop.select(0.0)
        found += one.events()
        while True:  # as the feed does: what is left in the socket is received by Python
            with one.reader.writable() as room:
                try:
                    count = one.client.recv_into(room)
                except BlockingIOError:
                    break
            one.reader.received(count)
            found += one.events()
    one.close()
    return outcome(one, found)


def outcome(one: Link, found: list[Any]) -> tuple[Any, ...]:
    texts = [(e.opcode, e.payload, e.verdict, type(e.error)) for e in found if e.opcode == Opcode.TEXT]
    book = one.book
    return (
        texts,
        book.last_update_id,
        book.held_levels()._replace(received_time_ns=0),
        book.counters,
        one.binding.is_direct,
    )


PART = st.one_of(
    st.tuples(st.integers(99, 106), st.integers(0, 3)).map(lambda ids: frame(update(ids[0], ids[0] + ids[1]))),
    st.just(frame(b"ping", Opcode.PING)),
    st.just(frame(b'{"id":1}')),
    st.just(frame(update(101, 101)[:-1])),
    st.just(frame(update(101, 101, price="150"))),
)


@settings(max_examples=80)
@given(parts=st.lists(PART, max_size=12), cuts=st.lists(st.integers(1, 400), max_size=12))
def test_the_loop_and_the_reader_in_python_do_the_same(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    chunks, start = [], 0
    for length in cuts:
        chunks.append(data[start : start + length])
        start += length
    chunks = [chunk for chunk in [*chunks, data[start:]] if chunk]
    assert by_loop(chunks) == python_only(chunks)


def test_what_is_no_connection_is_refused() -> None:
    no_connection = types.SimpleNamespace(reader=1, keepalive=2, tls_socket=None)
    with link() as one, pytest.raises(TypeError):
        one.loop.register(one.server, selectors.EVENT_READ, None, no_connection)
