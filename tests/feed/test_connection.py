"""One websocket, driven by hand: what it sends when, and when it is lost. The clock is the test's own."""

import json
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from live_kit import eventually
from loopback_exchange import PATIENCE_S, Connection, LoopbackExchange
from wire_frames import CLOSE, PING, PONG, TEXT, frame

from ldc.book import KeepAlive
from ldc.feed.connection import (
    RECEIVES_PER_TURN_MAX,
    ConnectionLost,
    ConnectionOptions,
    ConnectionPutOff,
    ConnectionState,
    FeedConnection,
)
from ldc.feed.subscriptions import ACKNOWLEDGE_TRIES_MAX, STREAMS_PER_REQUEST_MAX
from ldc.frames import FrameEvent
from ldc.limits import Timing
from ldc.network.proxy import ProxyRules

OPTIONS = ConnectionOptions(
    ping_interval_s=5,
    ping_timeout_s=3,
    close_timeout_s=2,
    messages_per_second=3,
    user_agent="test",
    proxies=ProxyRules(),
)


class Driver:
    """A connection with the time in the hands of the test, and its other end."""

    def __init__(self, exchange: LoopbackExchange) -> None:
        self.exchange = exchange
        self.now = 1000.0
        self._posted: queue.SimpleQueue[Callable[[float], None]] = queue.SimpleQueue()
        self.connection = FeedConnection(
            1, exchange.websocket_base_uri + exchange.stream_path, OPTIONS, self._post, lambda *_: None, self.now
        )
        self.events: list[FrameEvent] = []

    def _post(self, work: Callable[[float], None]) -> bool:
        self._posted.put(work)
        return True

    def open(self) -> Connection:
        self.connection.connect()
        self.wait_connector()
        assert self.connection.state is ConnectionState.OPEN
        return self.exchange.connection()

    def wait_connector(self) -> None:
        self._posted.get(timeout=PATIENCE_S)(self.now)

    def pass_time(self, seconds: float, *, step_s: float = 0.05) -> None:
        """Let time pass in steps; nothing arrives meanwhile."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step_s)
            self.connection.tick(self.now)

    @property
    def messages(self) -> list[bytes]:
        return [event.payload for event in self.events]

    def receive(self, until: Callable[[], object]) -> None:
        """Take what arrives until something is so."""

        def look() -> object:
            self.connection.receive(self.events, self.now)
            return until()

        while not look():
            assert select.select([self.connection], [], [], PATIENCE_S)[0], "nothing came"

    def sent(self, opcode: int, count: int) -> list[bytes]:
        """Wait until so many frames of a kind have arrived; return their payloads."""
        other = self.exchange.connections[-1]
        self.exchange.wait_for(lambda: len(other.opcodes(opcode)) >= count, f"{count} frames")
        return [message.payload for message in other.opcodes(opcode)]

    def requests(self, count: int) -> list[dict]:
        return [json.loads(payload) for payload in self.sent(TEXT, count)]


def ping_number(number: int) -> bytes:
    """Return what that ping of a connection carries."""
    return number.to_bytes(8, "big")


@pytest.fixture
def driver() -> Iterator[Driver]:
    with LoopbackExchange() as exchange:
        driver = Driver(exchange)
        yield driver
        driver.connection.close()


def test_a_connection_that_the_shared_budget_puts_off_opens_nothing_and_is_no_failure(driver):
    until = time.monotonic() + 60.0
    driver.connection._take_shared = lambda now: until
    driver.connection.connect()
    driver.wait_connector()
    assert driver.connection.next_due(driver.now) == driver.now
    with pytest.raises(ConnectionPutOff) as put_off:
        driver.connection.tick(driver.now)
    assert put_off.value.until == until
    assert not driver.exchange.connections


def test_a_shared_budget_that_stalls_is_named_at_the_deadline(driver):
    go_on = threading.Event()

    def stall(now: float) -> float:
        assert go_on.wait(PATIENCE_S)
        return now

    driver.connection._take_shared = stall
    driver.connection.connect()
    with pytest.raises(ConnectionLost, match="the file of the shared budget stalls"):
        driver.connection.tick(driver.now + OPTIONS.connect_timeout_s)
    driver.connection.close()
    go_on.set()
    eventually(lambda: not any(each.name == "ldc-connect-1" for each in threading.enumerate()), "the connector's end")
    assert not driver.exchange.connections  # what was given up meanwhile does not connect


def test_streams_subscribed_one_by_one_go_out_in_requests_of_at_most_100(driver):
    driver.open()
    for number in range(250):
        driver.connection.requests.subscribe([f"m{number}@depth"])
    driver.connection.tick(driver.now)
    assert [len(request["params"]) for request in driver.requests(3)] == [STREAMS_PER_REQUEST_MAX, 100, 50]


def test_no_more_than_three_messages_go_out_in_a_second_and_all_go_out(driver):
    driver.open()
    driver.exchange.on_request = lambda connection, request: ()
    driver.connection.requests.subscribe(f"m{number}@depth" for number in range(700))
    driver.connection.tick(driver.now)
    assert len(driver.requests(3)) == 3
    driver.pass_time(0.99)
    assert len(driver.exchange.connections[0].requests()) == 3
    driver.pass_time(0.05)
    assert len(driver.requests(6)) == 6
    driver.pass_time(1.0)
    assert len(driver.requests(7)) == 7


def test_next_due_is_never_in_the_past_while_the_pacer_says_no(driver):
    driver.open()
    driver.exchange.on_request = lambda connection, request: ()
    driver.now += 5.0  # a ping is due as well
    driver.connection.requests.subscribe(f"m{number}@depth" for number in range(700))
    while driver.now < 1007.9:  # at 8 s the ping has had no pong
        driver.connection.tick(driver.now)
        assert driver.connection.next_due(driver.now) > driver.now
        driver.now = driver.connection.next_due(driver.now)


def test_a_stream_that_is_unwanted_before_its_request_goes_out_is_never_requested(driver):
    driver.open()
    driver.connection.requests.subscribe(["a", "b"])
    driver.connection.requests.unsubscribe(["a"])
    driver.connection.tick(driver.now)
    assert [(request["method"], request["params"]) for request in driver.requests(1)] == [("SUBSCRIBE", ["b"])]


def test_a_new_subscription_follows_the_end_of_the_old_one(driver):
    driver.open()
    driver.connection.requests.subscribe(["a", "b"])
    driver.connection.tick(driver.now)
    driver.connection.requests.unsubscribe(["a"])
    driver.connection.requests.subscribe(["a", "c"])
    driver.connection.requests.unsubscribe(["a"])
    driver.connection.requests.subscribe(["a"])
    driver.connection.tick(driver.now)
    sent = [(request["method"], request["params"]) for request in driver.requests(3)]
    assert sent == [("SUBSCRIBE", ["a", "b"]), ("UNSUBSCRIBE", ["a"]), ("SUBSCRIBE", ["c", "a"])]


def test_an_acknowledgement_returns_the_streams_still_wanted(driver):
    driver.open()
    driver.connection.requests.subscribe(["a", "b"])
    driver.connection.tick(driver.now)
    driver.connection.requests.unsubscribe(["b"])
    assert driver.connection.requests.may_bring("b")
    assert driver.connection.requests.take_reply(b'{"result":null,"id":1}', driver.now) == ("a",)
    driver.connection.tick(driver.now)
    assert driver.connection.requests.take_reply(b'{"result":null,"id":2}', driver.now) == ()
    assert not driver.connection.requests.may_bring("b")


@pytest.mark.parametrize("is_requested_before_the_answer", [False, True])
def test_the_answer_to_an_old_subscription_does_not_acknowledge_the_new_one(is_requested_before_the_answer, driver):
    """Otherwise the new one would count as done: never requested again, and every pong a proof of currency."""
    driver.open()
    requests = driver.connection.requests
    requests.subscribe(["a", "b"])
    driver.connection.tick(driver.now)
    requests.unsubscribe(["a"])
    requests.subscribe(["a"])
    if is_requested_before_the_answer:
        driver.connection.tick(driver.now)
    assert requests.take_reply(b'{"result":null,"id":1}', driver.now) == ("b",)
    driver.connection.tick(driver.now)
    assert requests.take_reply(b'{"result":null,"id":2}', driver.now) == ()
    assert set(requests.acknowledged) == {"b"}
    driver.now += Timing().acknowledge_s
    requests.expire(driver.now)
    driver.connection.tick(driver.now)
    sent = [(request["method"], request["params"], request["id"]) for request in driver.requests(4)]
    assert sent[2:] == [("SUBSCRIBE", ["a"], 3), ("SUBSCRIBE", ["a"], 4)]
    assert requests.take_reply(b'{"result":null,"id":4}', driver.now) == ("a",)


@pytest.mark.parametrize("reply", [b"[]", b"{}", b"no", b'{"id":99}', b'{"id":true}', b'{"id":"1","result":null}'])
def test_what_answers_no_request_is_refused(reply, driver):
    driver.open()
    driver.connection.requests.subscribe(["a"])
    driver.connection.tick(driver.now)
    with pytest.raises(ValueError, match=r"not the answer|Expecting"):
        driver.connection.requests.take_reply(reply, driver.now)


def test_a_request_without_an_answer_is_repeated_and_in_the_end_the_connection_is_lost(driver):
    driver.connection.keepalive = KeepAlive(5.0, 3600.0, 3)
    driver.open()
    driver.exchange.on_request = lambda connection, request: ()
    driver.connection.requests.subscribe(["a"])

    def wait_in_vain():
        while driver.now < 1020:
            driver.pass_time(0.5)

    with pytest.raises(ConnectionLost, match=f"not acknowledged in {ACKNOWLEDGE_TRIES_MAX} tries"):
        wait_in_vain()
    assert [request["id"] for request in driver.requests(3)] == [1, 2, 3]
    assert driver.now >= 1000 + 3 * Timing().acknowledge_s


def test_a_ping_without_a_pong_in_time_ends_the_connection(driver):
    driver.open().is_deaf = True
    driver.pass_time(7.9)
    assert driver.sent(PING, 1) == [ping_number(1)]
    with pytest.raises(ConnectionLost, match="no pong within 3 s"):
        driver.pass_time(0.2)


def test_a_pong_in_time_keeps_the_connection(driver):
    driver.open()
    for number in range(1, 5):
        driver.pass_time(5.05)
        driver.sent(PING, number)
        driver.receive(lambda: not driver.connection.keepalive.waits_for_pong)
    assert driver.connection.keepalive.last_pong_at == driver.now


def test_a_pong_may_be_in_what_is_not_read_yet(driver):
    other = driver.open()
    other.is_deaf = True
    counting = driver.connection._socket = CountingSocket(driver.connection._socket)
    driver.pass_time(5.05)
    other.send_raw(frame(b"x" * 1000) * 3 * 16 * 66)  # half as much again as one turn may receive
    other.send_raw(frame(ping_number(1), PONG))
    driver.now += 10.0  # a standstill of ours
    assert select.select([driver.connection], [], [], PATIENCE_S)[0]
    counting.fills_room = True
    assert driver.connection.receive(driver.events, driver.now)  # and there is more
    assert counting.receives == RECEIVES_PER_TURN_MAX
    counting.fills_room = False
    driver.connection.tick(driver.now)
    driver.receive(lambda: driver.connection.has_ponged)
    driver.pass_time(2.0)


class CountingSocket(socket.socket):
    """Counts what it receives, waits until there is enough to fill the room if told so, and keeps what is sent."""

    def __init__(self, actual: socket.socket) -> None:
        timeout_s = actual.gettimeout()
        super().__init__(fileno=actual.detach())
        self.settimeout(timeout_s)
        self.receives = 0
        self.fills_room = False
        self.sent = b""

    def send(self, data: bytes) -> int:
        count = super().send(data)
        self.sent += bytes(data[:count])
        return count

    def recv_into(self, room: memoryview) -> int:
        self.receives += 1
        count = super().recv_into(room)
        while self.fills_room and count < len(room):
            assert select.select([self], [], [], PATIENCE_S)[0]
            count += super().recv_into(room[count:])
        return count


def test_what_is_sent_is_masked(driver):
    """A server must refuse a client's frame that is not; the embedded exchange does not look."""
    driver.open()
    watched = driver.connection._socket = CountingSocket(driver.connection._socket)
    driver.connection.requests.subscribe(["a"])
    driver.connection.tick(driver.now)
    [text] = driver.sent(TEXT, 1)
    assert watched.sent[:2] == bytes([0x80 | TEXT, 0x80 | len(text)])
    assert len(watched.sent) == 2 + 4 + len(text)


def test_a_receive_that_left_room_is_not_followed_by_another(driver):
    other = driver.open()
    counting = driver.connection._socket = CountingSocket(driver.connection._socket)
    other.send("one")
    assert select.select([driver.connection], [], [], PATIENCE_S)[0]
    assert not driver.connection.receive(driver.events, driver.now)
    assert driver.messages == [b"one"]
    assert counting.receives == 1
    with driver.connection.reader.writable() as room:
        other.send(b"x" * (len(room) - 10))  # with its header, as many bytes as there is room
    assert select.select([driver.connection], [], [], PATIENCE_S)[0]
    counting.receives, counting.fills_room = 0, True
    driver.connection.receive(driver.events, driver.now)
    assert counting.receives == 2
    assert len(driver.messages) == 2


def test_pings_in_short_intervals_leave_room_for_requests(driver):
    driver.connection.keepalive = KeepAlive(0.01, 3.0, 3)
    driver.open()

    def ping_for(seconds):
        end = driver.now + seconds
        while driver.now < end:
            driver.pass_time(0.02, step_s=0.02)
            for number in range(1, 100):  # the pong of the ping that waits is among these
                driver.connection.keepalive.note_pong(ping_number(number), driver.now)

    ping_for(0.9)  # as many as may be sent
    driver.connection.requests.subscribe(["a"])
    ping_for(0.7)  # there is room for them again, and for the request
    assert not driver.connection.requests.are_all_answered
    assert len(driver.requests(1)) == 1


def test_of_a_flood_of_pings_only_the_last_is_answered_and_at_most_once_a_second(driver):
    other = driver.open()
    for payload in (b"1", b"2", b"3"):
        other.send(payload, PING)
    other.send("end")
    driver.receive(lambda: driver.messages)
    driver.connection.tick(driver.now)
    assert driver.sent(PONG, 1) == [b"3"]
    other.send(b"4", PING)
    other.send("end")
    driver.receive(lambda: len(driver.messages) == 2)
    driver.pass_time(0.9)
    assert driver.sent(PONG, 1) == [b"3"]
    driver.pass_time(0.2)
    assert driver.sent(PONG, 2) == [b"3", b"4"]


def test_what_came_before_the_end_is_handed_out_with_it(driver):
    other = driver.open()
    other.send("one")
    other.send("two")
    other.send_raw(frame(b"\x03\xe9bye", CLOSE))
    with pytest.raises(ConnectionLost, match="1001 'bye'"):
        driver.receive(lambda: False)
    assert driver.messages == [b"one", b"two"]


def test_an_end_in_the_middle_of_a_frame_is_told_from_one_between_frames(driver):
    other = driver.open()
    other.send_raw(frame(b"x" * 50)[:20])
    other.close()
    with pytest.raises(ConnectionLost, match="in the middle of a frame"):
        driver.receive(lambda: False)


def test_no_answer_to_the_handshake_ends_it_at_the_total_deadline(driver):
    driver.exchange.on_handshake = lambda connection, answer: None
    driver.connection.connect()
    driver.exchange.wait_for(lambda: driver.exchange.connections, "the handshake")
    driver.pass_time(7.9)
    with pytest.raises(ConnectionLost, match="stalls"):
        driver.pass_time(0.2)
    driver.connection.close()  # the connector is woken, although its own time-out is far
    assert driver.exchange.connections[0].ended.wait(PATIENCE_S)
    assert driver.connection.next_due(driver.now)


def test_a_connector_that_finishes_after_the_end_gives_its_socket_back(driver):
    driver.connection.connect()
    work = driver._posted.get(timeout=PATIENCE_S)
    driver.connection.close()
    work(driver.now)
    assert driver.connection.state is ConnectionState.CLOSED
    assert driver.exchange.connections[0].ended.wait(PATIENCE_S)


def test_a_close_frame_is_sent_and_its_answer_waited_for_at_most_a_third_of_a_second(driver):
    assert driver.connection.begin_close() == 0.0  # nothing is open yet
    driver.open()
    assert driver.connection.begin_close() == 0.3
    assert driver.sent(CLOSE, 1) == [(1000).to_bytes(2, "big")]
