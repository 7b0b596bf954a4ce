"""The frame reader: what RFC 6455 allows comes out whole, what it forbids is refused, and nothing grows without end."""

import gc
import itertools
import threading
import tracemalloc
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from implementations import order_book_module
from messages import loaded_book, make_update
from wire_frames import BINARY, CLOSE, PING, PONG, TEXT, frame

from ldc import frames
from ldc.book.pure import frames as pure_frames
from ldc.frames import DUPLICATES_S_MAX, FrameError, FrameEvent
from ldc.types import Verdict

CONTINUATION = 0


@pytest.fixture(scope="session", params=["python", "cython"])
def readers(request: pytest.FixtureRequest) -> ModuleType:
    """Each frame reader in turn, as the module that has FrameReader and StreamBinding."""
    return readers_of(order_book_module(request.param))


def readers_of(books: ModuleType) -> ModuleType:
    """Return the module with the frame reader that goes with an order book."""
    return pure_frames if books.__name__ == "ldc.book.pure.book" else books


def books_of(readers: ModuleType) -> ModuleType:
    """Return the module with the order book that goes with a frame reader."""
    return order_book_module("python" if readers is pure_frames else "cython")


def events(reader: Any, data: bytes, now: float = 1.0, received_time_ns: int = 7) -> list[FrameEvent]:
    """Deliver bytes, as much at a time as there is room for, and take all events out."""
    found = []
    while data:
        with reader.writable() as room:
            count = min(len(room), len(data))
            room[:count] = data[:count]
        data = data[count:]
        reader.received(count)
        while (event := reader.next_event(now, received_time_ns)) is not None:
            found.append(event)
    assert {event.received_time_ns for event in found} <= {received_time_ns}
    return found


def returned(payload: bytes, binding: Any = None, verdict: Verdict | None = None) -> FrameEvent:
    """Return the event of a text that was received at 7, as `events` does unless it is given another time."""
    return FrameEvent(TEXT, payload, binding, verdict, None, 7)


def feed(reader: Any, data: bytes) -> list[tuple[int, bytes]]:
    """Deliver bytes, and take all messages out."""
    found = events(reader, data)
    assert {event[2:5] for event in found} <= {(None, None, None)}
    return [event[:2] for event in found]


def refusal(data: bytes, reader: Any) -> FrameError:
    with pytest.raises(FrameError) as caught:
        feed(reader, data)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_length_comes_out_as_it_was_sent(readers, size, opcode):
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    reader = readers.FrameReader()
    assert feed(reader, frame(payload, opcode)) == [(opcode, payload)]
    assert reader.is_between_frames


@pytest.mark.parametrize("size", [0, 125])
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_control_frame_comes_out_as_it_was_sent(readers, size, opcode):
    assert feed(readers.FrameReader(), frame(b"p" * size, opcode)) == [(opcode, b"p" * size)]


def test_fragments_are_joined_and_control_frames_between_them_come_out_first(readers):
    data = frame(b"one ", TEXT, fin=False) + frame(b"?", PING) + frame(b"", CONTINUATION, fin=False)
    data += frame(b"!", PONG) + frame(b"two", CONTINUATION) + frame(b"next")
    expected = [(PING, b"?"), (PONG, b"!"), (TEXT, b"one two"), (TEXT, b"next")]
    assert feed(readers.FrameReader(), data) == expected


def test_a_text_that_is_no_utf_8_is_left_to_its_reader(readers):
    assert feed(readers.FrameReader(), frame(b"\xff\xfe")) == [(TEXT, b"\xff\xfe")]


@pytest.mark.parametrize("rest", [b"?", b'x","data":{}}', b"x" * 300 + b'","data":{}}'])
def test_a_name_that_is_cut_off_or_too_long_belongs_to_no_binding(readers, rest):
    """To the market it would prove that its stream is alive."""
    book = books_of(readers).OrderBook("spot")
    binding = readers.StreamBinding(book, None)
    reader = readers.FrameReader()
    reader.bind("btcusdt@depth", binding)
    payload = b'{"stream":"btcusdt@depth' + rest
    assert events(reader, frame(payload)) == [returned(payload)]
    assert binding.heard_at == 0.0


@pytest.mark.parametrize(
    ("data", "close_code", "word"),
    [
        (frame(b"x", masked=True), 1002, "masked"),
        (frame(b"x" * 200, masked=True), 1002, "masked"),
        (frame(b"x", reserved=4), 1002, "reserved"),
        (frame(b"x", reserved=2), 1002, "reserved"),
        (frame(b"x", reserved=1), 1002, "reserved"),
        *((frame(b"x", opcode), 1002, "opcode") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (frame(b"x", PING, fin=False), 1002, "fragmented"),
        (frame(b"x", CLOSE, fin=False), 1002, "fragmented"),
        (frame(b"x" * 126, PING), 1002, "125"),
        (frame(b"x" * 126, CLOSE), 1002, "125"),
        (frame(b"x", CONTINUATION), 1002, "without a message"),
        (frame(b"x", CONTINUATION, fin=False), 1002, "without a message"),
        (frame(b"x", fin=False) + frame(b"y"), 1002, "inside a fragmented"),
        (frame(b"x", fin=False) + frame(b"y", BINARY), 1002, "inside a fragmented"),
        (frame(b"\x03", CLOSE), 1002, "one byte"),
        (frame(b"\x03\xe8\xff", CLOSE), 1007, "UTF-8"),
        (frame(b"", length=2**63), 1009, "limit"),
        (frame(b"", length=2**64 - 1), 1009, "limit"),
        (frame(b"", length=2**62), 1009, "limit"),
        (frame(b"", length=frames.MESSAGE_BYTES_MAX + 1), 1009, "limit"),
    ],
)  # fmt: skip
def test_what_may_not_come_is_refused_with_the_right_close_code(readers, data, close_code, word):
    error = refusal(data, readers.FrameReader())
    assert (error.close_code, word in str(error)) == (close_code, True), str(error)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_a_close_code_that_may_not_be_sent_is_refused(readers, code):
    assert refusal(frame(code.to_bytes(2, "big"), CLOSE), readers.FrameReader()).close_code == 1002


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_code_that_may_be_sent_is_passed_on(readers, code):
    payload = code.to_bytes(2, "big") + "Grund: ü".encode()
    assert feed(readers.FrameReader(), frame(payload, CLOSE)) == [(CLOSE, payload)]


def test_a_frame_that_is_refused_is_refused_at_its_header(readers):
    for data in (frame(b"x" * 300, PING), frame(b"x", reserved=4), frame(b"", length=2**40)):
        assert refusal(data[:10], readers.FrameReader())


def test_a_message_may_be_as_long_as_the_limit_and_not_longer(readers):
    limit = 1000
    assert feed(readers.FrameReader(limit), frame(b"x" * limit)) == [(TEXT, b"x" * limit)]
    assert refusal(frame(b"x" * (limit + 1)), readers.FrameReader(limit)).close_code == 1009
    halves = frame(b"x" * 500, fin=False)
    assert len(feed(readers.FrameReader(limit), halves + frame(b"x" * 500, CONTINUATION))[0][1]) == limit
    assert refusal(halves + frame(b"x" * 501, CONTINUATION), readers.FrameReader(limit)).close_code == 1009


def test_fragments_without_end_are_refused_even_if_they_are_empty(readers):
    reader = readers.FrameReader()
    flood = itertools.chain([frame(b"", fin=False)], itertools.repeat(frame(b"", CONTINUATION, fin=False)))
    for piece in itertools.islice(flood, frames.FRAGMENTS_MAX):
        feed(reader, piece)
    assert "fragments" in str(refusal(next(flood), reader))


def test_the_buffer_holds_one_unfinished_frame_and_shrinks_again(readers):
    reader = readers.FrameReader()
    long = frame(b"x" * 8_000_000)
    following = frame(b"y" * 100)
    feed(reader, long[:-1])
    with reader.writable() as room:
        assert len(room) < 4 * len(long)
    # The tail of the next frame is always there: the reader must not depend on being empty at some moment.
    feed(reader, long[-1:] + following[:50])
    for _ in range(2 * frames.BUFFER_BYTES_KEPT // len(following)):
        assert feed(reader, following[50:] + following[:50]) == [(TEXT, b"y" * 100)]
    with reader.writable() as room:
        assert len(room) <= frames.BUFFER_BYTES_KEPT


messages = st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=125))
long_messages = st.tuples(
    st.sampled_from([TEXT, BINARY]), st.sampled_from([126, 300, 65_535, 65_536, 70_000]).map(lambda size: b"z" * size)
)


@given(
    st.lists(st.one_of(messages, long_messages), max_size=8),
    st.lists(st.integers(1, 3), max_size=8),
    st.lists(st.integers(1, 100_000), max_size=40),
)
def test_however_a_stream_is_cut_and_fragmented_the_messages_are_the_same(readers, sent, fragments, cuts):
    data = b""
    for (opcode, payload), pieces in itertools.zip_longest(sent, fragments[: len(sent)], fillvalue=1):
        if opcode in (PING, PONG) or pieces == 1:
            data += frame(payload, opcode)
            continue
        size = max(1, -(-len(payload) // pieces))
        parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        for place, part in enumerate(parts):
            data += frame(part, CONTINUATION if place else opcode, fin=place == len(parts) - 1)
    reader, received, start = readers.FrameReader(), [], 0
    for cut in [*cuts, len(data)]:
        received += feed(reader, data[start : start + cut])
        start += cut
    received += feed(reader, data[start:])
    assert received == sent
    assert reader.is_between_frames


@given(st.binary(max_size=600), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_any_bytes_give_the_same_result_whole_and_in_pieces(readers, data, cuts):
    def run(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], str | None]:
        reader, received = readers.FrameReader(message_bytes_max=400), []
        try:
            for piece in pieces:
                received += feed(reader, piece)
        except FrameError as error:
            return received, str(error)
        return received, None

    ends = list(itertools.accumulate(cuts))
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    bytewise = run([bytes([byte]) for byte in data])
    assert run(pieces)[1] == bytewise[1]
    assert run([data])[1] == bytewise[1]


# ------------------------------------------------------------------------------------------------ bound books

STREAM = "btcusdt@depth@100ms"


def bound(readers: ModuleType, stream: str = STREAM) -> tuple[Any, Any]:
    """Return a reader, and a direct binding of a book that stands at 100."""
    reader = readers.FrameReader()
    books = books_of(readers)
    binding = readers.StreamBinding(loaded_book(books), "the owner")
    binding.is_direct = True
    reader.bind(stream, binding)
    return reader, binding


def update(first: int, last: int | None = None, stream: str = STREAM, **fields: Any) -> bytes:
    return make_update(first, last, stream=stream, **fields)


def test_an_update_of_a_direct_binding_goes_to_its_book(readers):
    reader, binding = bound(readers)
    data = frame(update(101, bids=[("100.15", "3")])) + frame(update(102, 105, bids=[("100.10", "0")]))
    assert events(reader, data, now=5.0, received_time_ns=123) == []
    assert (binding.book.last_update_id, binding.book.received_time_ns, binding.heard_at) == (105, 123, 5.0)
    assert binding.book.bids(2) == [[100.15, 3.0], [100.0, 2.5]]
    assert binding.is_direct


@pytest.mark.parametrize(("first", "last", "verdict"), [(90, 100, Verdict.STALE), (103, 104, Verdict.GAP)])
def test_another_verdict_is_returned_and_what_follows_is_not_applied(readers, first, last, verdict):
    reader, binding = bound(readers)
    payloads = [update(first, last), update(101), update(102)]
    found = events(reader, b"".join(map(frame, payloads)))
    assert found == [
        returned(payloads[0], binding, verdict),
        *(returned(each, binding) for each in payloads[1:]),
    ]
    assert found[0].binding is binding
    assert found[0].binding.owner == "the owner"
    assert (binding.book.last_update_id, binding.is_direct) == (100, False)
    binding.is_direct = True
    assert events(reader, frame(payloads[1])) == []
    assert binding.book.last_update_id == 101


def test_a_binding_that_is_not_direct_hands_everything_out(readers):
    reader, binding = bound(readers)
    binding.is_direct = False
    assert events(reader, frame(update(101)), now=9.0) == [returned(update(101), binding)]
    assert (binding.book.last_update_id, binding.heard_at) == (100, 0.0)  # nobody has judged it yet


def test_what_the_book_refuses_is_returned_with_its_error(readers):
    reader, binding = bound(readers)
    bad = update(101, bids=[("1e5", "1")])
    found = events(reader, frame(bad) + frame(update(101)), now=9.0)
    assert binding.heard_at == 0.0
    assert [(each.payload, each.verdict, bool(each.error)) for each in found] == [
        (bad, None, True),
        (update(101), None, False),
    ]
    assert "100" in str(found[0].error)  # where the book stays
    assert binding.book.counters.updates_malformed == 1
    assert binding.book.last_update_id == 100


def test_a_waiting_thread_never_makes_its_book_older(readers):
    """400 updates in one buffer: all are applied before the reader returns, and then waiters are woken, once."""
    reader, binding = bound(readers)
    _, other = bound(readers)
    other.count_waiter(1)
    reader.bind("ethusdt@depth@100ms", other)
    data = b"".join(frame(update(number)) for number in range(101, 501))
    assert len(data) < frames.RECEIVE_BYTES
    binding.count_waiter(1)
    change, other_change = binding.change, other.change
    assert events(reader, data) == []
    assert (binding.book.last_update_id, binding.is_direct) == (500, True)
    assert binding.change == change + 1
    assert events(reader, frame(update(501))) == []
    assert binding.change == change + 2
    binding.count_waiter(-1)
    assert events(reader, frame(update(502))) == []
    assert binding.change == change + 2  # nobody waits
    assert other.change == other_change


def test_waiters_are_woken_by_what_has_changed_and_was_not_returned(readers):
    reader, binding = bound(readers)
    binding.count_waiter(2)
    change = binding.change
    crossing = update(102, bids=[("100.30", "1")])
    data = frame(update(90, 100)) + frame(update(101)) + frame(crossing) + frame(update(103))
    assert [event.verdict for event in events(reader, data)] == [Verdict.STALE, None, None, None]
    assert binding.change == change
    binding.is_direct = True
    assert events(reader, frame(update(101))) == []
    assert events(reader, frame(crossing)) == [returned(crossing, binding, Verdict.APPLIED)]
    assert binding.change == change + 1


def test_waiters_of_a_binding_of_two_readers_are_woken_by_each(readers):
    first, second, binding = twice_bound(readers)
    binding.count_waiter(1)
    change = binding.change
    assert events(first, frame(update(102))) == events(second, frame(update(103))) == []
    assert binding.change == change + 2


def test_a_wait_ends_at_an_id_past_the_one_given(readers):
    reader, binding = bound(readers)
    reached = []
    thread = threading.Thread(target=lambda: reached.append(binding.wait_past(100, 20.0)))
    thread.start()
    while not binding.waiting:
        pass
    assert events(reader, frame(update(101))) == []
    thread.join(20.0)
    assert reached == [101]
    assert binding.waiting == 0


def test_a_wait_is_over_at_once_where_it_cannot_help(readers):
    _, binding = bound(readers)
    assert binding.wait_past(99) == 100
    assert binding.wait_past(100, 0.0) is None
    assert binding.wait_past(101) is None  # an id of the future: the caller decides
    binding.book.suspend("GAP")
    assert binding.wait_past(100) is None
    assert binding.waiting == 0


def test_a_wait_for_a_change_ends_by_a_wake_or_the_time(readers):
    _, binding = bound(readers)
    seen = binding.change
    binding.wait(seen, 0.001)
    binding.wait(seen, 0.001, 0.0005)
    woken = threading.Event()

    def wait():
        while binding.change == seen:
            binding.wait(seen)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    binding.wake()
    assert woken.wait(20.0)
    thread.join()


def two_bound(readers):
    """Return a reader with two books in it, at 100, and their bindings."""
    reader = readers.FrameReader()
    bindings = [readers.StreamBinding(loaded_book(books_of(readers)), name) for name in ("one", "two")]
    for binding in bindings:
        binding.is_direct = True
        reader.bind(binding.owner, binding)
    return reader, bindings


def test_one_waiter_is_woken_by_each_of_its_books_and_learns_which_have_moved(readers):
    reader, bindings = two_bound(readers)
    found = []

    def follow():
        seen = [100, 100]
        with readers.UpdateWaiter(bindings) as waiter:
            while min(seen) < 102:
                moved = waiter.wait_past(seen, 20.0)
                assert moved, "the time is over"
                found.append(moved)
                for place, reached in moved.items():
                    seen[place] = reached

    thread = threading.Thread(target=follow)
    thread.start()
    while not all(binding.waiting for binding in bindings):
        pass
    for name, last, expected in (("two", 101, {1: 101}), ("one", 101, {0: 101}), ("two", 102, {1: 102})):
        count = len(found)
        assert events(reader, frame(update(last, stream=name))) == []
        while len(found) == count and thread.is_alive():
            pass
        assert found[-1] == expected
    assert events(reader, frame(update(102, stream="one"))) == []
    thread.join(20.0)
    assert [binding.waiting for binding in bindings] == [0, 0]


def test_a_wait_for_many_returns_at_once_what_has_moved_and_nothing_where_it_cannot_help(readers):
    reader, bindings = two_bound(readers)
    with readers.UpdateWaiter(bindings) as waiter:
        assert waiter.wait_past([99, 98]) == {0: 100, 1: 100}
        assert waiter.wait_past([100, 98]) == {1: 100}
        assert waiter.wait_past([100, 100], 0.0) == {}
        assert waiter.wait_past([99, 101]) == {}  # an id of the future: the caller decides
        bindings[1].book.suspend("GAP")
        assert waiter.wait_past([99, 100]) == {}  # the loss comes before the news
        with pytest.raises(ValueError, match="1 ids for 2 books"):
            waiter.wait_past([100])
    assert [binding.waiting for binding in bindings] == [0, 0]
    waiter.close()  # once more means nothing
    assert [binding.waiting for binding in bindings] == [0, 0]


def test_a_waiter_for_many_is_woken_by_hand_and_one_that_is_gone_is_not_touched(readers):
    _, bindings = two_bound(readers)
    waiters = [readers.UpdateWaiter(bindings) for _ in range(3)]
    changes = [0, 0, 0]
    open_ones = {0, 1, 2}
    for gone in (1, 0, 2):  # out of the middle, from the end, the last one
        for binding in bindings:
            binding.wake()
        changes = [count + 2 * (place in open_ones) for place, count in enumerate(changes)]
        assert [waiter.change for waiter in waiters] == changes
        waiters[gone].close()
        open_ones.remove(gone)
        assert [binding.waiting for binding in bindings] == [len(open_ones)] * 2
    waiters.clear()
    if readers is not pure_frames:  # whose bindings keep it alive
        waiter = readers.UpdateWaiter(bindings)
        del waiter  # without a close
        gc.collect()
    assert [binding.waiting for binding in bindings] == [0, 0]
    bindings[0].wake()


def test_a_wait_for_a_change_of_many_ends_by_a_wake_or_the_time(readers):
    _, bindings = two_bound(readers)
    with readers.UpdateWaiter(bindings) as waiter:
        seen = waiter.change
        waiter.wait(seen, 0.001)
        waiter.wait(seen, 0.001, 0.0005)
        thread = threading.Timer(0.0, bindings[1].wake)
        thread.start()
        while waiter.change == seen:
            waiter.wait(seen)
        thread.join()


def test_waiters_for_many_come_and_go_while_their_books_change(readers):
    reader, bindings = two_bound(readers)
    stopping = threading.Event()

    def come_and_go():
        while not stopping.is_set():
            with readers.UpdateWaiter(bindings) as waiter:
                waiter.wait_past([binding.book.last_update_id for binding in bindings], 0.001)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for last in range(101, 601):
        for name in ("one", "two"):
            assert events(reader, frame(update(last, stream=name))) == []
    stopping.set()
    for thread in threads:
        thread.join(20.0)
    assert [binding.book.last_update_id for binding in bindings] == [600, 600]
    assert [binding.waiting for binding in bindings] == [0, 0]


def test_an_event_carries_the_time_of_its_last_receive(readers):
    reader = readers.FrameReader()
    assert events(reader, frame(b"one ", TEXT, fin=False), received_time_ns=1) == []
    found = events(reader, frame(b"?", PING) + frame(b"two", CONTINUATION), received_time_ns=2)
    assert [(event.opcode, event.received_time_ns) for event in found] == [(PING, 2), (TEXT, 2)]
    reader, binding = bound(readers)
    binding.is_direct = False
    assert events(reader, frame(update(101)), received_time_ns=3)[0].received_time_ns == 3


def test_a_book_that_needs_attention_is_returned(readers):
    reader, binding = bound(readers)
    crossing = update(101, bids=[("100.30", "1")])
    assert events(reader, frame(crossing)) == [returned(crossing, binding, Verdict.APPLIED)]
    assert binding.book.is_crossed


def test_every_stream_finds_its_own_book_and_others_none(readers):
    reader = readers.FrameReader()
    books = books_of(readers)
    names = [f"m{number}usdt@depth@100ms" for number in range(700)] + ["这是测试币456@depth@100ms", "a", "x" * 200]
    bindings = {}
    for name in names:
        bindings[name] = readers.StreamBinding(loaded_book(books), name)
        bindings[name].is_direct = True
        reader.bind(name, bindings[name])
    for gone in names[::7]:
        reader.unbind(gone)
        reader.unbind(gone)  # once more means nothing
    for number, name in enumerate(names):
        payload = update(101, stream=name)
        expected = [returned(payload)] if number % 7 == 0 else []
        assert events(reader, frame(payload)) == expected
        assert bindings[name].book.last_update_id == (100 if number % 7 == 0 else 101)
    assert events(reader, frame(update(102, stream="m1usdt@depth@100m"))) != []
    assert events(reader, frame(update(102, stream="m1usdt@depth@100ms2"))) != []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b'{"stream":"',
        b'{"stream":"btcusdt@depth@100ms',
        b'{"stream" :"btcusdt@depth@100ms","data":{}}',
        b'{"data":{},"stream":"btcusdt@depth@100ms"}',
        update(101)[11:],
        update(101).replace(b"btcusdt", b"btc\\u0075sdt"),
        update(101, stream="x" * 300),
        b"\xff" * 400,
    ],
)
def test_a_message_that_does_not_begin_with_a_bound_name_is_returned_without_a_binding(readers, payload):
    reader, binding = bound(readers)
    assert events(reader, frame(payload)) == [returned(payload)]
    assert (binding.book.last_update_id, binding.heard_at) == (100, 0.0)


def test_a_message_in_fragments_is_returned_without_a_binding(readers):
    reader, binding = bound(readers)
    whole = update(101)
    data = frame(whole[:50], fin=False) + frame(whole[50:], CONTINUATION)
    assert events(reader, data) == [returned(whole)]
    assert binding.book.last_update_id == 100


def test_a_stream_that_is_bound_again_goes_to_the_new_book(readers):
    reader, first = bound(readers)
    second = readers.StreamBinding(first.book, "another owner")
    reader.bind(STREAM, second)
    assert [each.binding.owner for each in events(reader, frame(update(101)))] == ["another owner"]


def test_no_more_bytes_than_there_is_room_for_can_have_been_received(readers):
    reader = readers.FrameReader()
    with reader.writable() as room:
        size = len(room)
    for count in (-1, size + 1):
        with pytest.raises(ValueError, match="were not written"):
            reader.received(count)


# ------------------------------------------------------------------------------------------------ duplicates


def twice_bound(readers: ModuleType) -> tuple[Any, Any, Any]:
    """Return two readers with the same redundant binding, whose book has applied an update since its snapshot."""
    first, binding = bound(readers)
    second = readers.FrameReader()
    second.bind(STREAM, binding)
    binding.is_redundant = True
    assert events(first, frame(update(101, E=1_000)), received_time_ns=5_000) == []
    return first, second, binding


def test_a_duplicate_of_a_redundant_market_is_counted_and_not_returned(readers):
    first, second, binding = twice_bound(readers)
    data = frame(update(101, E=1_000)) + frame(update(90, 100, E=900)) + frame(update(101, E=1_000))
    assert events(second, data, now=8.0, received_time_ns=7_000) == []
    assert (binding.is_direct, binding.duplicates, binding.heard_at) == (True, 3, 8.0)
    assert (first.tally(STREAM).firsts, first.tally(STREAM).duplicates) == (1, 0)
    assert (second.tally(STREAM).firsts, second.tally(STREAM).duplicates) == (0, 3)
    assert (first.lags_ns(), second.lags_ns()) == ([0], [2_000, 2_000])  # of the older one nothing can be said
    assert binding.book.counters.updates_stale == 3
    assert events(second, frame(update(102, E=1_100)), received_time_ns=9_000) == []
    assert (second.tally(STREAM).firsts, second.lags_ns()) == (1, [2_000, 2_000, 0])


def test_without_redundancy_a_stale_update_is_returned(readers):
    _, second, binding = twice_bound(readers)
    binding.is_redundant = False
    assert events(second, frame(update(101, E=1_000)))[0].verdict is Verdict.STALE
    assert binding.duplicates == 0


def test_of_newer_duplicates_only_the_first_at_an_id_is_ignored(readers):
    """The window of a second connection may end later with nothing new in it. Twice is worth a look: ids went back?"""
    _, second, binding = twice_bound(readers)
    assert events(second, frame(update(101, E=1_001))) == []
    assert events(second, frame(update(50, 60, E=900))) == []  # an old one says nothing
    handed_out = events(second, frame(update(50, 60, E=1_002)))
    assert [event.verdict for event in handed_out] == [Verdict.STALE]
    assert (binding.is_direct, binding.duplicates) == (False, 2)
    binding.is_direct = True
    assert events(second, frame(update(102, E=1_100)) + frame(update(102, E=1_101))) == []


def test_nothing_but_duplicates_for_long_is_returned_whatever_their_event_times(readers):
    """The exchange may restart its ids while its clock is set back: nothing is newer then."""
    _, second, binding = twice_bound(readers)
    old = frame(update(50, 60, E=900))
    assert events(second, old, now=1.0) == []
    assert events(second, old, now=0.9 + DUPLICATES_S_MAX) == []
    assert [event.verdict for event in events(second, old, now=1.0 + DUPLICATES_S_MAX)] == [Verdict.STALE]
    binding.is_direct = True
    assert events(second, frame(update(102, E=1_100)) + old, now=20.0) == []
    assert events(second, old, now=24.9) == []
    assert binding.duplicates == 4


def test_right_after_a_snapshot_duplicates_are_returned(readers):
    reader, binding = bound(readers)
    binding.is_redundant = True
    assert events(reader, frame(update(90, 100)))[0].verdict is Verdict.STALE


def test_a_stream_that_is_bound_again_is_counted_again(readers):
    _, second, binding = twice_bound(readers)
    events(second, frame(update(101)))
    second.bind(STREAM, binding)
    assert (second.tally(STREAM).duplicates, binding.duplicates) == (0, 1)
    second.unbind(STREAM)
    assert second.tally(STREAM) is None


def test_the_lags_of_a_reader_are_bounded(readers):
    first, _, _ = twice_bound(readers)
    for number in range(2 * frames.LAGS_KEPT):
        events(first, frame(update(102 + number)), received_time_ns=10_000 + number)
    assert first.lags_ns() == [0] * frames.LAGS_KEPT


streams_of_updates = st.lists(
    st.tuples(st.integers(0, 2), st.integers(-2, 3), st.sampled_from(["whole", "cut", "ping", "other"])), max_size=30
)


@given(streams_of_updates, st.lists(st.integers(1, 700), min_size=1, max_size=30))
def test_both_readers_do_the_same(both_books, sent, cuts):
    """Updates of three markets, in order or not, damaged or not, in pieces: the same events, the same books."""
    data, at = b"", [100, 100, 100]
    for market, step, kind in sent:
        at[market] = max(1, at[market] + step)
        payload = update(at[market], stream=f"market{market}", bids=[("99.00", str(abs(step)))])
        payload = payload[:-3] if kind == "cut" else payload
        data += frame(payload, PING if kind == "ping" else TEXT) if kind != "ping" else frame(b"?", PING)
        data += frame(b'{"result":null,"id":1}') if kind == "other" else b""

    def run(books: ModuleType) -> tuple[list, list, list, list]:
        module = readers_of(books)
        reader, seen = module.FrameReader(), []
        bindings = [module.StreamBinding(loaded_book(books), number) for number in range(3)]
        for number, binding in enumerate(bindings):
            reader.bind(f"market{number}", binding)
            binding.is_direct = number != 2
            binding.is_redundant = number == 1
        place = 0
        for cut in itertools.cycle(cuts):
            if place >= len(data):
                break
            for event in events(reader, data[place : place + cut], now=float(place)):
                owner = None if event.binding is None else event.binding.owner
                seen.append((event.opcode, event.payload, owner, event.verdict, bool(event.error)))
                if event.verdict is Verdict.STALE:
                    event.binding.is_direct = True
            place += cut
        state = [(b.book.last_update_id, b.book.bids(), b.book.counters, b.heard_at, b.is_direct) for b in bindings]
        tallies = [reader.tally(f"market{number}") for number in range(3)]
        counts = [(tally.firsts, tally.duplicates, tally.binding.duplicates) for tally in tallies]
        return seen, state, counts, sorted(reader.lags_ns())

    first, second = map(run, both_books)
    assert first == second


@pytest.mark.parametrize("piece_bytes", [1, 1_000, 65_536, 1_000_000])
def test_a_peer_that_never_ends_a_message_costs_the_limit_and_little_more(readers, piece_bytes):
    limit = 4 * 1024 * 1024
    reader = readers.FrameReader(limit)
    begin, following = (frame(b"x" * piece_bytes, opcode, fin=False) for opcode in (TEXT, CONTINUATION))

    def receive_for_ever() -> None:
        for piece in itertools.chain([begin], itertools.repeat(following)):
            events(reader, piece)

    tracemalloc.start()
    try:
        with pytest.raises(FrameError) as caught:
            receive_for_ever()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.close_code == 1009
    # What is kept, the frame that is being received, and the buffer doubled for it.
    assert most < limit + 4 * piece_bytes + 4 * frames.RECEIVE_BYTES


@pytest.mark.parametrize("length", [2**62, 2**63, 2**64 - 1, frames.MESSAGE_BYTES_MAX + 1])
def test_a_length_that_is_only_claimed_costs_nothing(readers, length):
    reader = readers.FrameReader()
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            events(reader, frame(b"", length=length))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100_000
