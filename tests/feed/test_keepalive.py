"""Pings, pongs and their pace: one test for both implementations."""

import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from implementations import IS_PURE

from ldc.frames import Opcode

MODULES = {"python": "ldc.book.pure.keepalive", "cython": "ldc._book"}
Maker = Callable[..., Any]


def maker_of(name: str) -> Maker:
    if name == "cython" and IS_PURE:
        pytest.skip("this is a build in plain Python: it has no compiled keep-alive")
    return importlib.import_module(MODULES[name]).KeepAlive


@pytest.fixture(params=list(MODULES))
def make(request: pytest.FixtureRequest) -> Maker:
    """Each implementation in turn."""
    return maker_of(request.param)


@pytest.fixture
def started(make: Maker) -> Any:
    """Pings each 5 s, waits 3 s, may send 3 messages a second; open since 100.0."""
    keepalive = make(5.0, 3.0, 3)
    keepalive.start(100.0)
    return keepalive


def ping(keepalive: Any, now: float) -> bytes:
    """Send the ping that is due; return its payload."""
    opcode, payload = keepalive.next_message(now)
    assert opcode == Opcode.PING
    return payload


def test_nothing_is_due_before_the_connection_is_open(make: Maker) -> None:
    keepalive = make(5.0, 3.0, 3)
    assert keepalive.next_due(100.0) == math.inf
    assert keepalive.next_message(100.0) is None
    assert (keepalive.proven_at, keepalive.last_pong_at) == (-math.inf, -math.inf)


def test_the_handshake_is_the_first_proof(started: Any) -> None:
    assert started.proven_at == 100.0
    assert started.next_due(100.0) == 105.0


def test_a_ping_comes_at_each_interval_and_waits_for_its_pong(started: Any) -> None:
    assert started.next_message(104.9) is None
    first = ping(started, 105.0)
    assert started.waits_for_pong
    assert started.next_message(110.0) is None  # the next one waits for the answer, or the end
    assert started.note_pong(first, 110.5)
    assert not started.waits_for_pong
    assert ping(started, 110.5) != first


def test_a_pong_proves_what_was_sent_before_its_ping_and_no_more(started: Any) -> None:
    payload = ping(started, 105.0)
    started.note_pong(payload, 107.5)
    assert started.proven_at == 105.0
    assert started.last_pong_at == 107.5


def test_a_lease_is_renewed_as_of_the_ping_not_of_its_pong(make: Maker) -> None:
    """What came before the ping has been received; what came after it need not have been."""
    lease = importlib.import_module(make.__module__.replace("keepalive", "lease")).Lease(10**12)
    keepalive = make(5.0, 3.0, 3, lease=lease)
    start = time.monotonic() - 100.0
    keepalive.start(start)
    payload = ping(keepalive, start + 60.0)
    assert keepalive.note_pong(payload, start + 62.0)
    assert lease.age_ns / 1e9 == pytest.approx(40.0, abs=15.0)


@pytest.mark.parametrize("payload", [b"", b"\0" * 8, b"\0" * 7 + b"\2", b"\0" * 7 + b"\1\1", b"\0" * 7])
def test_a_pong_that_answers_no_ping_of_ours_is_counted_and_proves_nothing(started: Any, payload: bytes) -> None:
    assert not started.note_pong(payload, 101.0)
    ping(started, 105.0)
    assert not started.note_pong(payload, 106.0)
    assert started.unmatched_pongs == 2
    assert started.proven_at == 100.0
    assert started.is_dead(108.0)


def test_the_pong_of_an_earlier_ping_is_not_that_of_this_one(started: Any) -> None:
    first = ping(started, 105.0)
    started.note_pong(first, 105.1)
    ping(started, 110.0)
    assert not started.note_pong(first, 110.1)
    assert started.proven_at == 105.0


def test_a_pong_is_late_then_the_link_is_dead(started: Any) -> None:
    ping(started, 105.0)
    assert started.next_due(105.0) == 106.5
    assert not started.is_late(106.4)
    assert started.is_late(106.5)
    assert started.next_due(106.5) == 108.0
    assert not started.is_dead(107.9)
    assert started.is_dead(108.0)


def test_what_is_not_read_yet_may_be_the_pong(started: Any) -> None:
    started.extend_deadline(200.0)
    assert not started.is_dead(200.0)  # nothing waits: nothing to extend
    ping(started, 105.0)
    started.extend_deadline(107.0)  # earlier than the deadline is no reason to shorten it
    assert not started.is_dead(107.9)
    started.extend_deadline(109.0)
    assert not started.is_dead(108.9)
    assert started.is_dead(109.0)


def test_only_the_last_of_many_pings_is_answered_and_once_in_a_second(started: Any) -> None:
    started.note_ping(b"first")
    started.note_ping(b"last")
    assert started.next_message(101.0) == (Opcode.PONG, b"last")
    assert started.next_message(101.0) is None
    started.note_ping(b"again")
    assert started.next_due(101.5) == 102.0
    assert started.next_message(101.9) is None
    assert started.next_message(102.0) == (Opcode.PONG, b"again")


def test_a_ping_without_a_payload_is_answered_as_it_came(started: Any) -> None:
    started.note_ping(b"")
    assert started.next_message(101.0) == (Opcode.PONG, b"")


def test_a_ping_may_carry_125_bytes(started: Any) -> None:
    started.note_ping(bytes(range(125)))
    assert started.next_message(101.0) == (Opcode.PONG, bytes(range(125)))
    with pytest.raises(ValueError, match="125"):
        started.note_ping(b"x" * 126)


def test_everything_is_paced(started: Any) -> None:
    for _ in range(3):
        assert started.next_message(101.0, has_request=True) == (Opcode.TEXT, b"")
        started.spend(101.0)
    assert started.next_message(101.0, has_request=True) is None
    assert started.next_due(101.0, has_request=True) == 102.0
    started.note_ping(b"x")
    assert started.next_message(101.5) is None
    assert started.next_message(102.0) == (Opcode.PONG, b"x")


def test_a_request_has_its_turn_after_each_ping(make: Maker) -> None:
    keepalive = make(0.01, 3.0, 10)  # a ping interval so short that pings are always due
    keepalive.start(100.0)
    sent = []
    for step in range(6):
        now = 101.0 + step
        opcode, payload = keepalive.next_message(now, has_request=True)
        sent.append(opcode)
        if opcode == Opcode.PING:
            keepalive.note_pong(payload, now)
        else:
            keepalive.spend(now)
    assert sent == [Opcode.PING, Opcode.TEXT] * 3


@pytest.mark.parametrize("limit", [0, 65])
def test_a_limit_of_messages_that_cannot_be_is_refused(make: Maker, limit: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        make(5.0, 3.0, limit)


STEP = st.one_of(
    st.tuples(st.just("message"), st.booleans()),
    st.tuples(st.just("due"), st.booleans()),
    st.tuples(st.just("ping"), st.binary(max_size=125)),
    st.tuples(st.just("pong"), st.booleans()),
    st.tuples(st.just("spend"), st.none()),
    st.tuples(st.just("extend"), st.floats(0, 5)),
)


@given(steps=st.lists(st.tuples(st.floats(0, 2), STEP), max_size=80), limit=st.integers(1, 5))
def test_both_implementations_decide_the_same(steps: list[Any], limit: int) -> None:
    both = [maker_of(name)(1.0, 0.7, limit, pong_late_s=0.3, pong_interval_s=0.5) for name in MODULES]
    now = 100.0
    last_ping = b""
    for each in both:
        each.start(now)
    for delay, (what, value) in steps:
        now += delay
        results = []
        for each in both:
            match what:
                case "message":
                    results.append(each.next_message(now, value))
                case "due":
                    results.append((each.next_due(now, value), each.is_dead(now), each.is_late(now)))
                case "ping":
                    results.append(each.note_ping(value))
                case "pong":
                    results.append(each.note_pong(last_ping if value else b"\0" * 8, now))
                case "spend":
                    results.append(each.spend(now))
                case "extend":
                    results.append(each.extend_deadline(now + value))
            results[-1] = (results[-1], each.proven_at, each.last_pong_at, each.unmatched_pongs, each.waits_for_pong)
        assert results[0] == results[1], (what, now)
        if what == "message" and results[0][0] is not None and results[0][0][0] == Opcode.PING:
            last_ping = results[0][0][1]
