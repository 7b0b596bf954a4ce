"""The frame reader: what RFC 6455 allows comes out whole, what it forbids is refused, and nothing grows without end."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc import frames
from ldc.frames import FrameError, FrameReader, WebsocketMessage
from loopback_exchange import BINARY, CLOSE, PING, PONG, TEXT, frame

CONTINUATION = 0


def feed(reader: FrameReader, data: bytes) -> list[WebsocketMessage]:
    """Hand bytes in, as much at a time as there is room for, and take all messages out."""
    messages = []
    while data:
        with reader.writable() as room:
            count = min(len(room), len(data))
            room[:count] = data[:count]
        data = data[count:]
        reader.received(count)
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return messages


def refusal(data: bytes, reader: FrameReader | None = None) -> FrameError:
    with pytest.raises(FrameError) as caught:
        feed(reader or FrameReader(), data)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_length_comes_out_as_it_was_sent(size, opcode):
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    reader = FrameReader()
    assert feed(reader, frame(payload, opcode)) == [(opcode, payload)]
    assert reader.is_between_frames


@pytest.mark.parametrize("size", [0, 125])
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_control_frame_comes_out_as_it_was_sent(size, opcode):
    assert feed(FrameReader(), frame(b"p" * size, opcode)) == [(opcode, b"p" * size)]


def test_fragments_are_joined_and_control_frames_between_them_come_out_first():
    data = frame(b"one ", TEXT, fin=False) + frame(b"?", PING) + frame(b"", CONTINUATION, fin=False)
    data += frame(b"!", PONG) + frame(b"two", CONTINUATION) + frame(b"next")
    expected = [(PING, b"?"), (PONG, b"!"), (TEXT, b"one two"), (TEXT, b"next")]
    assert feed(FrameReader(), data) == expected


def test_a_text_that_is_no_utf_8_is_left_to_whoever_reads_it():
    assert feed(FrameReader(), frame(b"\xff\xfe")) == [(TEXT, b"\xff\xfe")]


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
def test_what_may_not_come_is_refused_with_the_right_close_code(data, close_code, word):
    error = refusal(data)
    assert (error.close_code, word in str(error)) == (close_code, True), str(error)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_a_close_code_that_may_not_be_sent_is_refused(code):
    assert refusal(frame(code.to_bytes(2, "big"), CLOSE)).close_code == 1002


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_code_that_may_be_sent_is_passed_on(code):
    payload = code.to_bytes(2, "big") + "Grund: ü".encode()
    assert feed(FrameReader(), frame(payload, CLOSE)) == [(CLOSE, payload)]


def test_a_frame_that_is_refused_is_refused_at_its_header():
    for data in (frame(b"x" * 300, PING), frame(b"x", reserved=4), frame(b"", length=2**40)):
        assert refusal(data[:10])


def test_a_message_may_be_as_long_as_the_limit_and_not_longer():
    limit = 1000
    assert feed(FrameReader(limit), frame(b"x" * limit)) == [(TEXT, b"x" * limit)]
    assert refusal(frame(b"x" * (limit + 1)), FrameReader(limit)).close_code == 1009
    halves = frame(b"x" * 500, fin=False)
    assert len(feed(FrameReader(limit), halves + frame(b"x" * 500, CONTINUATION))[0].payload) == limit
    assert refusal(halves + frame(b"x" * 501, CONTINUATION), FrameReader(limit)).close_code == 1009


def test_fragments_without_end_are_refused_even_if_they_are_empty():
    reader = FrameReader()
    flood = itertools.chain([frame(b"", fin=False)], itertools.repeat(frame(b"", CONTINUATION, fin=False)))
    for piece in itertools.islice(flood, frames.FRAGMENTS_MAX):
        feed(reader, piece)
    assert "fragments" in str(refusal(next(flood), reader))


def test_the_buffer_holds_one_unfinished_frame_and_shrinks_again():
    reader = FrameReader()
    long = frame(b"x" * 8_000_000)
    following = frame(b"y" * 100)
    feed(reader, long[:-1])
    with reader.writable() as room:
        assert len(room) < 4 * len(long)
    # The tail of the next frame is always there: the reader must not depend on being empty at some moment.
    feed(reader, long[-1:] + following[:50])
    for _ in range(2 * frames.BUFFER_BYTES_KEPT // len(following)):
        assert feed(reader, following[50:] + following[:50]) == [(TEXT, b"y" * 100)]
    assert len(reader._buffer) <= frames.BUFFER_BYTES_KEPT


messages = st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=125))
long_messages = st.tuples(
    st.sampled_from([TEXT, BINARY]), st.sampled_from([126, 300, 65_535, 65_536, 70_000]).map(lambda size: b"z" * size)
)


@given(
    st.lists(st.one_of(messages, long_messages), max_size=8),
    st.lists(st.integers(1, 3), max_size=8),
    st.lists(st.integers(1, 100_000), max_size=40),
)
def test_however_a_stream_is_cut_and_fragmented_the_messages_are_the_same(sent, fragments, cuts):
    data = b""
    for (opcode, payload), pieces in itertools.zip_longest(sent, fragments[: len(sent)], fillvalue=1):
        if opcode in (PING, PONG) or pieces == 1:
            data += frame(payload, opcode)
            continue
        size = max(1, -(-len(payload) // pieces))
        parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        for place, part in enumerate(parts):
            data += frame(part, CONTINUATION if place else opcode, fin=place == len(parts) - 1)
    reader, received, start = FrameReader(), [], 0
    for cut in [*cuts, len(data)]:
        received += feed(reader, data[start : start + cut])
        start += cut
    received += feed(reader, data[start:])
    assert received == sent
    assert reader.is_between_frames


@given(st.binary(max_size=600), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_any_bytes_give_the_same_result_whole_and_in_pieces(data, cuts):
    def run(pieces: list[bytes]) -> tuple[list[WebsocketMessage], str | None]:
        reader, received = FrameReader(message_bytes_max=400), []
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
