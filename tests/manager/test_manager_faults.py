"""Faults of frames, sockets, acknowledgements and HTTP, over real sockets: each ends as it should.

In every test a second market shares the connection or the manager. Its counters are checked in the end.
`make check` runs them again with a connection for each market: LDC_MARKETS_PER_CONNECTION=1.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from live_kit import (  # noqa: F401
    NOTICED_S,
    SHORT_PING,
    SLOW_S,
    assert_exact,
    assert_polite,
    connection_count,
    eventually,
    live,
    needs_shared_connection,
    no_jitter,
    no_thread_is_left,
    reach,
    sent_at,
    synchronize,
)
from log_kit import logged
from loopback_exchange import PATIENCE_S, Connection, LoopbackExchange, RestReply, error_reply
from wire_frames import BINARY, CLOSE, PING, PONG, frame

from ldc.errors import DepthCacheOutOfSync, UnknownMarket
from ldc.feed.group import FeedGroup
from ldc.limits import Timing
from ldc.manager import lifecycle
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.snapshots.queue import SnapshotQueue
from ldc.types import SyncState

pytestmark = pytest.mark.usefixtures("no_jitter")

BOTH = ("BTCUSDT", "ETHUSDT")
CONNECTIONS = connection_count(BOTH)
"""How many both markets need: one, which they share, or one each."""
Live = tuple[LoopbackExchange, BinanceLocalDepthCacheManager]


@contextlib.contextmanager
def both(kind: str = "spot", **parameters: object) -> Iterator[Live]:
    """Two markets, synchronized."""
    with live(kind, BOTH, **parameters) as (exchange, manager):
        synchronize(exchange, manager)
        yield exchange, manager


def assert_all_well(exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager) -> None:
    """Both markets are followed, and exact."""
    for market in BOTH:
        reach(exchange, manager, market)
        assert_exact(exchange, manager, market)


def assert_undisturbed(manager: BinanceLocalDepthCacheManager, market: str = "ETHUSDT") -> None:
    """Nothing at all has happened to this market."""
    status = manager.get_status(market)
    dropped = dict(status.updates_dropped)
    assert dropped.pop("STALE", 0) <= 1  # the first one, if the first snapshot was faster
    assert (status.resyncs, dropped, status.restart_count) == ({}, {}, 0)
    assert status.counters.updates_gap == status.counters.updates_malformed == 0


# ------------------------------------------------------------------------------------------------ frames with content


@pytest.mark.parametrize("kind", ["spot", "usdm", "coinm"])
@pytest.mark.parametrize("lost", [1, 5])
def test_lost_updates_are_noticed_at_the_next_one_and_cost_one_snapshot(kind, lost):
    with both(kind) as (exchange, manager):
        for _ in range(lost):
            exchange.update("BTCUSDT", asks=[("100.01", "77")], is_sent=False)
        assert_all_well(exchange, manager)
        assert manager.get_status("BTCUSDT").resyncs == {"GAP": 1}
        assert len(exchange.requests_of("BTCUSDT")) == 2
        assert_undisturbed(manager)


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_repeated_updates_are_ignored(kind):
    with both(kind) as (exchange, manager):
        exchange.on_frame = lambda connection, symbol, payload: (
            (payload, payload) if symbol == "BTCUSDT" else (payload,)
        )
        for _ in range(10):
            assert_all_well(exchange, manager)
        assert manager.get_status("BTCUSDT").resyncs == {}
        assert manager.get_status("BTCUSDT").counters.updates_stale >= 9


def test_swapped_updates_cost_a_snapshot_and_nothing_else():
    with both() as (exchange, manager):
        held: list[bytes] = []

        def swap(connection: Connection, symbol: str, payload: bytes) -> tuple[bytes, ...]:
            if symbol != "BTCUSDT" or len(held) == 2:
                return (payload,)
            held.append(payload)
            return tuple(reversed(held)) if len(held) == 2 else ()

        exchange.on_frame = swap
        exchange.update("BTCUSDT", bids=[("99.98", "1")])
        exchange.update("BTCUSDT", bids=[("99.98", "2")])
        assert_all_well(exchange, manager)
        assert manager.get_status("BTCUSDT").resyncs == {"GAP": 1}
        assert_undisturbed(manager)


UPDATE = (
    b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":999999,"b":[],"a":[]}}'
)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"not json",
        b'\xef\xbb\xbf{"e":"depthUpdate"}',
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        UPDATE[:-1],
        UPDATE[: len(UPDATE) // 2],
        UPDATE + b"x",
        UPDATE + UPDATE,
        UPDATE.replace(b'"s":"BTCUSDT"', b'"s":"ETHUSDT"'),
        UPDATE.replace(b"btcusdt", b"xrpusdt"),
        UPDATE.replace(b'"u":999999', b'"u":"999999"'),
        UPDATE.replace(b'"u":999999', b'"u":999999,"u":999999'),
        UPDATE.replace(b'"U":1', b'"U":0'),
        UPDATE.replace(b'"b":[]', b'"b":[["NaN","1"]]'),
        UPDATE.replace(b'"b":[]', b'"b":[["1e5","1"]]'),
        UPDATE.replace(b'"b":[],', b""),
        UPDATE.replace(b"depthUpdate", b"aggTrade"),
        b'{"data":{},"stream":"btcusdt@depth@100ms"}',
        b'{"stream":"btcusdt@depth@100ms"}',
        b'{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":999999,"b":[],"a":[]}',
        b'{"result":null,"id":12345}',
        b'{"result":null,"id":null}',
        b'{"id":"1","result":null}',
        b'{"code":2,"msg":"Invalid request"}',
        b'{"error":{"code":3,"msg":"Invalid JSON"}}',
    ],
    ids=lambda payload: payload[:24].decode("latin-1") + f"..{len(payload)}",
)
def test_a_frame_that_cannot_be_read_or_routed_is_dropped_and_counted(payload):
    with both() as (exchange, manager):
        exchange.connection_of("BTCUSDT").send(payload)
        assert_all_well(exchange, manager)
        group = manager.get_depth_cache("BTCUSDT").group

        def dropped() -> int:  # the books are ahead: updates in the same receive were applied before
            return sum(group.messages_dropped.values()) + manager.get_status("BTCUSDT").counters.updates_malformed

        eventually(lambda: dropped() == 1, "the message is dropped")
        assert manager.get_status("BTCUSDT").resyncs == {}
        assert len(exchange.connections) == CONNECTIONS
        assert_undisturbed(manager)


def test_keys_in_another_order_and_blanks_change_nothing():
    with both() as (exchange, manager):

        def reorder(connection: Connection, symbol: str, payload: bytes) -> tuple[bytes]:
            whole = json.loads(payload)
            data = dict(reversed(whole["data"].items())) | {"new": [{"x": None}]}
            return (json.dumps({"data": data, "stream": whole["stream"]}, indent=1).encode(),)

        exchange.on_frame = reorder
        for _ in range(5):
            assert_all_well(exchange, manager)
        assert_undisturbed(manager, "BTCUSDT")
        assert_undisturbed(manager)


def test_a_market_whose_name_is_not_ascii_is_followed():
    with live(markets=("这是测试币456", "BTCUSDT")) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.on_frame = lambda connection, symbol, payload: (json.dumps(json.loads(payload)).encode(),)
        reach(exchange, manager, "这是测试币456")
        exchange.on_frame = lambda connection, symbol, payload: (payload,)
        reach(exchange, manager, "这是测试币456")
        assert_exact(exchange, manager, "这是测试币456")


def test_an_update_may_come_before_the_acknowledgement():
    with live() as (exchange, manager):
        release = threading.Event()

        def late(connection: Connection, request: dict) -> list[str]:
            replies = exchange.answer(connection, request)
            exchange.update("BTCUSDT")
            assert release.wait(PATIENCE_S)
            return replies

        exchange.on_request = late
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        release.set()
        reach(exchange, manager)
        assert_exact(exchange, manager)


# ------------------------------------------------------------------------------------------------ frames as such

FLOOD = b"".join([frame(b"x", fin=False), *[frame(b"", 0, fin=False)] * 5_000])


@pytest.mark.parametrize(
    ("data", "close_code"),
    [
        (frame(b"{}", masked=True), 1002),
        (frame(b"{}", reserved=4), 1002),
        (frame(b"{}", 3), 1002),
        (frame(b"{}", 0), 1002),
        (frame(b"x" * 126, PING), 1002),
        (frame(b"x", fin=False) + frame(b"y"), 1002),
        (frame(b"", length=2**62), 1009),
        (frame(b"", length=2**64 - 1), 1009),
        (frame(b"", length=17 * 1024 * 1024), 1009),
        (FLOOD, 1009),
        (frame(b"\x03\xed", CLOSE), 1002),
    ],
    ids=[
        "masked",
        "reserved",
        "opcode",
        "continuation",
        "long ping",
        "interleaved",
        "2^62",
        "2^64",
        "17 MB",
        "flood",
        "1005",
    ],
)
def test_a_broken_protocol_ends_the_connection_at_once_with_its_code(data, close_code):
    with both() as (exchange, manager):
        bad = exchange.connection_of("BTCUSDT")
        began = time.monotonic()
        bad.send_raw(data)
        assert bad.ended.wait(PATIENCE_S)
        assert time.monotonic() - began < 4.0  # by its own deadlines it would be after 8 s
        assert [message.payload for message in bad.opcodes(CLOSE)] == [close_code.to_bytes(2, "big")]
        exchange.resubscribed(bad)
        assert_all_well(exchange, manager)
        assert "protocol" in manager.get_status("BTCUSDT").last_error


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.reset(),
        lambda connection: connection.close(),
        lambda connection: connection.close(1001, "going away"),
        lambda connection: connection.close(1008, "Too many requests"),
        lambda connection: connection.close(1012),
        lambda connection: connection.send_raw(frame(b"", CLOSE)),
        lambda connection: (connection.send_raw(frame(b"x" * 1000)[:500]), connection.close()),
        lambda connection: connection.send_raw(frame(b"x" * 200_000)[:100] + b"") or connection.reset(),
    ],
    ids=["reset", "no word", "1001", "1008", "1012", "empty close", "in mid frame", "reset in mid frame"],
)
def test_a_connection_that_ends_is_replaced_and_what_was_missed_is_fetched(end):
    with both() as (exchange, manager):
        bad = exchange.connection_of("BTCUSDT")
        end(bad)
        assert bad.ended.wait(PATIENCE_S)
        exchange.update("BTCUSDT", bids=[("99.97", "5")], is_sent=False)
        exchange.resubscribed(bad)
        assert_all_well(exchange, manager)
        status = manager.get_status("BTCUSDT")
        assert (status.resyncs["STREAM_CLOSED"], status.restart_count) == (1, 1)
        assert len(exchange.requests_of("BTCUSDT")) == 2
        # ETHUSDT has missed nothing: its first update continues the book that was kept aside.
        assert len(exchange.requests_of("ETHUSDT")) == 1


def test_what_came_before_the_end_is_used():
    with both() as (exchange, manager):
        connection = exchange.connection_of("BTCUSDT")
        exchange.update("BTCUSDT", bids=[("99.96", "3")])
        connection.close()
        exchange.resubscribed(connection)
        assert_all_well(exchange, manager)
        assert len(exchange.requests_of("BTCUSDT")) == 1


def test_messages_in_fragments_and_crumbs_are_whole_again():
    with both() as (exchange, manager):

        def cut(connection: Connection, symbol: str, payload: bytes) -> tuple[()]:
            third = len(payload) // 3
            data = (
                frame(payload[:third], fin=False) + frame(b"hm", PING) + frame(payload[third : 2 * third], 0, fin=False)
            )
            for byte in data + frame(payload[2 * third :], 0):
                connection.send_raw(bytes([byte]))
            return ()

        exchange.on_frame = cut
        assert_all_well(exchange, manager)
        exchange.wait_for(lambda: exchange.connection_of("BTCUSDT").opcodes(PONG), "the pong")
        assert_undisturbed(manager, "BTCUSDT")


def test_a_long_message_is_read_whole():
    with both() as (exchange, manager):
        levels = [(f"{50 + n / 10_000:.4f}", "1.25") for n in range(50_000)]
        last = exchange.update("BTCUSDT", bids=levels)
        assert manager.wait_for_update("BTCUSDT", last - 1, PATIENCE_S) == last
        assert_all_well(exchange, manager)


def test_a_binary_message_is_ignored():
    with both() as (exchange, manager):
        exchange.connection_of("BTCUSDT").send(UPDATE, BINARY)
        assert_all_well(exchange, manager)
        assert_undisturbed(manager, "BTCUSDT")


def test_pings_are_answered_with_their_payload():
    with both() as (exchange, manager):
        connection = exchange.connection_of("BTCUSDT")
        for payload in (b"", b"1763835600000", b"\x00\xff" * 62):
            before = len(connection.opcodes(PONG))
            connection.send(payload, PING)
            exchange.wait_for(lambda before=before: len(connection.opcodes(PONG)) > before, "the pong")
            assert connection.opcodes(PONG)[-1].payload == payload


def test_a_flood_of_pings_neither_starves_requests_nor_floods_the_exchange(sent_at):  # noqa: F811 - the fixture
    with both() as (exchange, manager):
        exchange.add_market("XRPUSDT")
        connection = exchange.connection_of("BTCUSDT")
        for number in range(20_000):
            connection.send(str(number).encode(), PING)
        synchronize(exchange, manager, "XRPUSDT")
        exchange.wait_for(
            lambda: connection.opcodes(PONG)[-1:] and connection.opcodes(PONG)[-1].payload == b"19999", "the last pong"
        )
        assert len(connection.opcodes(PONG)) < 20
        assert_polite(exchange, sent_at)


# ----------------------------------------------------------------------------------------------- links that die quietly


def stall_in_mid_frame(connection: Connection) -> None:
    connection.send_raw(frame(b"x" * 5_000)[:1_000])
    connection.is_deaf = True


def trickle_a_frame(connection: Connection) -> None:
    connection.is_deaf = True
    connection.trickle(frame(b"x" * 5_000), 0.05)


def trickle_fragments(connection: Connection) -> None:
    connection.is_deaf = True
    connection.trickle(frame(b"x", fin=False) + frame(b"", 0, fin=False) * 1_000, 0.05)


def stop_answering(connection: Connection) -> None:
    connection.is_deaf = True


@pytest.mark.parametrize("fault", [stop_answering, stall_in_mid_frame, trickle_a_frame, trickle_fragments])
def test_a_dead_link_is_noticed_within_ping_interval_and_timeout_and_a_second(fault):
    with both(**SHORT_PING) as (exchange, manager):
        cache = manager.get_depth_cache("BTCUSDT")
        bad = exchange.connection_of("BTCUSDT")
        fault(bad)
        began = time.monotonic()
        eventually(lambda: len(exchange.connections) > CONNECTIONS, "the next connection")
        assert time.monotonic() - began < NOTICED_S + SLOW_S
        exchange.resubscribed(bad)
        assert_all_well(exchange, manager)
        assert "no pong" in manager.get_status("BTCUSDT").last_error
        assert cache.status().resyncs == {"STREAM_CLOSED": 1}


HANDSHAKES: dict[str, Callable[[Connection, bytes], bytes | None]] = {
    "never answered": lambda connection, answer: None,
    "slow": lambda connection, answer: connection.trickle(answer, 0.05),
    "closed": lambda connection, answer: b"",
    "garbage": lambda connection, answer: b"\x00\xff garbage \r\n\r\n",
    "one word": lambda connection, answer: b"garbage\r\n\r\n",
    "no number": lambda connection, answer: b"HTTP/1.1 abc OK\r\n\r\n",
    "200": lambda connection, answer: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "302": lambda connection, answer: b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/x\r\n\r\n",
    "403": lambda connection, answer: b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "429": lambda connection, answer: b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "503": lambda connection, answer: b"HTTP/1.1 503 Unavailable\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
    "wrong key": lambda connection, answer: answer.replace(b"Accept: ", b"Accept: x"),
}


@pytest.mark.parametrize("how", HANDSHAKES)
def test_a_handshake_that_fails_or_stalls_is_tried_again(how):
    with live(markets=BOTH, **SHORT_PING) as (exchange, manager):
        fault = HANDSHAKES[how]
        exchange.on_handshake = lambda connection, answer: (
            fault(connection, answer) if connection.number <= CONNECTIONS else answer
        )
        manager.create_depth_cache(BOTH)
        began = time.monotonic()
        eventually(lambda: len(exchange.connections) > CONNECTIONS, "the next connection")
        assert time.monotonic() - began < NOTICED_S + SLOW_S
        for market in BOTH:
            exchange.connection_of(market)
        assert_all_well(exchange, manager)
        # Where each market has its own connection, one of them may meet the fault twice and the other never.
        errors = [error for market in BOTH if (error := manager.get_status(market).last_error)]
        assert errors
        assert all(exchange.websocket_base_uri in error and len(error) < 500 for error in errors)


def test_an_exchange_that_cannot_be_reached_is_tried_again_at_a_bounded_rate():
    began = time.monotonic()
    with live(_random=lambda: 0.1) as (exchange, manager):
        exchange.refuse_connections()
        manager.create_depth_cache("BTCUSDT")
        cache = manager.get_depth_cache("BTCUSDT")
        eventually(lambda: cache.group.reconnects >= 2, "two more tries")
        assert time.monotonic() - began > 0.1 * 2 + 0.1 * 4 - 0.05
        assert "refused" in cache.status().last_error
        with pytest.raises(DepthCacheOutOfSync):
            manager.get_bids("BTCUSDT")


# ------------------------------------------------------------------------------------------------ acknowledgements


def test_a_request_that_is_not_acknowledged_is_sent_again_and_then_the_connection_given_up():
    with live(markets=BOTH, timing=Timing(acknowledge_s=0.5)) as (exchange, manager):
        exchange.on_request = lambda connection, request: (
            () if connection.number <= CONNECTIONS else exchange.answer(connection, request)
        )
        manager.create_depth_cache(BOTH)
        for market in BOTH:
            exchange.connection_of(market)
        assert_all_well(exchange, manager)
        asked = set()
        for connection in exchange.connections[:CONNECTIONS]:
            requests = connection.requests()
            assert [request["method"] for request in requests] == ["SUBSCRIBE"] * 3
            assert len({request["id"] for request in requests}) == 3
            assert len({tuple(sorted(request["params"])) for request in requests}) == 1
            asked.update(requests[0]["params"])
        assert asked == {"btcusdt@depth@100ms", "ethusdt@depth@100ms"}
        assert "not acknowledged" in manager.get_status("BTCUSDT").last_error


def test_a_late_acknowledgement_is_as_good():
    with live(markets=BOTH, timing=Timing(acknowledge_s=0.3)) as (exchange, manager):

        def second_time_only(connection: Connection, request: dict) -> list[str]:
            return exchange.answer(connection, request) if request["id"] > 1 else []

        exchange.on_request = second_time_only
        manager.create_depth_cache(BOTH)
        for market in BOTH:
            exchange.connection_of(market)
        assert_all_well(exchange, manager)
        assert len(exchange.connections) == CONNECTIONS


@needs_shared_connection
def test_the_end_of_a_subscription_that_is_sent_again_does_not_end_a_new_one():
    with both(timing=Timing(acknowledge_s=0.3)) as (exchange, manager):

        def lose_ends(connection: Connection, request: dict) -> list[str]:
            return [] if request["method"] == "UNSUBSCRIBE" else exchange.answer(connection, request)

        exchange.on_request = lose_ends
        connection = exchange.connection_of("BTCUSDT")
        manager.stop_depth_cache("BTCUSDT")
        exchange.wait_for(lambda: connection.requests("UNSUBSCRIBE"), "the end of the subscription")
        synchronize(exchange, manager, "BTCUSDT")
        exchange.on_request = exchange.answer
        manager.set_refresh_request("ETHUSDT")
        own_end = manager.get_depth_cache("ETHUSDT").group._connections.open_ones[0]
        eventually(lambda: own_end.requests.are_all_answered, "all requests to be answered")
        assert_all_well(exchange, manager)
        assert len(exchange.connections) == CONNECTIONS


@pytest.mark.parametrize("nested", [True, False])
def test_a_stream_that_is_refused_does_not_cost_the_others_theirs(nested):
    with live(markets=(*BOTH, "BADUSDT", "XRPUSDT"), timing=Timing(acknowledge_s=0.3)) as (exchange, manager):

        def refuse(connection: Connection, request: dict) -> list[str]:
            if "badusdt@depth@100ms" not in request["params"]:
                return exchange.answer(connection, request)
            error = {"code": 2, "msg": "Invalid request: BADUSDT"}
            return [json.dumps({"error": error, "id": request["id"]} if nested else error | {"id": request["id"]})]

        exchange.on_request = refuse
        manager.create_depth_cache([*BOTH, "BADUSDT", "XRPUSDT"])
        for market in (*BOTH, "XRPUSDT"):
            exchange.connection_of(market)
            reach(exchange, manager, market)
        assert len(exchange.connections) == connection_count((*BOTH, "BADUSDT", "XRPUSDT"))
        assert not manager.is_depth_cache_synchronized("BADUSDT")
        eventually(lambda: manager.get_status("BADUSDT").last_error, "the refusal")
        assert "Invalid request: BADUSDT" in manager.get_status("BADUSDT").last_error
        assert_undisturbed(manager, "XRPUSDT")


# ------------------------------------------------------------------------------------------------ planned ends


@pytest.mark.parametrize(
    "announcement",
    [
        '{"e":"serverShutdown","E":1770123456789}',
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
def test_an_announced_shutdown_costs_no_book_a_moment(announcement):
    with both() as (exchange, manager):
        caches = [manager.get_depth_cache(market) for market in BOTH]
        announced = exchange.connection_of("BTCUSDT")
        announced.send(announcement)
        announced.send(announcement)

        def is_taken_over() -> bool:
            for market in BOTH:
                exchange.update(market)
            assert all(cache.is_synchronized for cache in caches)
            return announced.ended.is_set()

        eventually(is_taken_over, "the end of the handover")
        assert_all_well(exchange, manager)
        assert len(exchange.connections) == CONNECTIONS + 1
        assert_resyncs(manager, {})


def assert_resyncs(manager: BinanceLocalDepthCacheManager, resyncs: dict[str, int]) -> None:
    """How often a successor was ahead of the old connection, which then fills the gap, is the machine's business."""
    for market in BOTH:
        assert manager.get_status(market).resyncs == resyncs


BRISK = Timing(handover_quiet_s=0.1, handover_check_s=0.05, probe_again_s=0.2, moved_on_s=0.3)
"""A handover probes quiet markets after a tenth of a second, not after five."""


def test_a_market_too_quiet_for_an_update_is_handed_over_by_a_probe():
    with both(timing=BRISK) as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")
        refused = [error_reply(500, -1000, "later"), error_reply(500, -1000, "later")]
        exchange.on_rest = lambda request: refused.pop() if refused and request.limit == 5 else None
        manager.renew_connections()
        assert first.ended.wait(PATIENCE_S)
        assert {request.symbol for request in exchange.rest_requests if request.limit == 5} >= set(first_symbols(first))
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})


def first_symbols(connection: Connection) -> list[str]:
    return [stream.partition("@")[0].upper() for stream in connection.streams]


def test_a_successor_that_lacks_a_market_is_not_left_alone_with_it():
    with both(timing=BRISK) as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")
        exchange.on_rest = lambda request: error_reply(500, -1000, "no") if request.limit == 5 else None
        manager.renew_connections()
        second = exchange.connection_of("BTCUSDT", after=CONNECTIONS)
        second.streams.discard(exchange.stream("BTCUSDT"))  # acknowledged, and forgotten

        def is_subscribed_again() -> bool:
            for market in BOTH:
                exchange.update(market)
            return exchange.stream("BTCUSDT") in second.streams

        eventually(is_subscribed_again, "the new subscription")
        eventually(lambda: [exchange.update(market) for market in BOTH] and first.ended.is_set(), "the handover")
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})


def test_a_successor_that_never_brings_a_market_is_given_up():
    no_second_try = replace(BRISK, handover_s_max=3.0, reconnect_s_first=3600.0, reconnect_s_max=3600.0)
    with both(timing=no_second_try, _random=lambda: 0.99) as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")
        exchange.on_frame = lambda connection, symbol, payload: (
            () if is_successor(connection) and symbol == "BTCUSDT" else (payload,)
        )
        manager.renew_connections()
        second = exchange.connection_of("BTCUSDT", after=CONNECTIONS)
        eventually(
            lambda: exchange.update("BTCUSDT") and len(second.requests("SUBSCRIBE")) >= 2, "another subscription"
        )
        # Quiet from here on: a probe finds nothing new, which proves nothing of a market that has never arrived.
        eventually(lambda: exchange.update("ETHUSDT") and second.ended.is_set(), "the end of it")
        assert not first.ended.is_set()
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})


def test_a_late_pong_brings_a_successor_before_the_link_is_dead():
    pings = {"websocket_ping_interval": 0.2, "websocket_ping_timeout": 60}
    with both(timing=Timing(pong_late_s=0.2), **pings) as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")
        first.is_ponging = False
        eventually(lambda: [exchange.update(market) for market in BOTH] and first.ended.is_set(), "the handover")
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})
        assert manager.get_restart_count("BTCUSDT") == 0


def test_an_old_connection_that_dies_in_a_handover_leaves_no_trace_in_the_next_one():
    with both() as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")
        manager.renew_connections()
        second = exchange.resubscribed(first)
        first.reset()
        assert first.ended.wait(PATIENCE_S)
        assert_all_well(exchange, manager)
        group = manager.get_depth_cache("BTCUSDT").group
        eventually(lambda: not group._connections.handovers, "the end of the handover")
        manager.renew_connections()
        exchange.resubscribed(second)
        assert not second.ended.wait(0.3)  # it stays until its successor has spoken
        assert_all_well(exchange, manager)
        assert second.ended.wait(PATIENCE_S)


def is_successor(connection: Connection) -> bool:
    """Whether it is the successor of the first handover."""
    return CONNECTIONS < connection.number <= 2 * CONNECTIONS


def test_a_successor_that_cannot_connect_leaves_the_old_connection_alone():
    with both(**SHORT_PING) as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")
        exchange.on_handshake = lambda connection, answer: b"" if is_successor(connection) else answer
        manager.renew_connections()
        exchange.resubscribed(first)
        assert len(exchange.connections) > 2 * CONNECTIONS
        eventually(lambda: [exchange.update(market) for market in BOTH] and first.ended.is_set(), "the handover")
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})


def test_an_old_connection_that_dies_before_its_successor_is_open_is_an_interruption():
    with both(**SHORT_PING) as (exchange, manager):
        exchange.on_handshake = lambda connection, answer: None if is_successor(connection) else answer
        manager.renew_connections()
        exchange.wait_for(lambda: len(exchange.connections) == 2 * CONNECTIONS, "the successors")
        firsts = exchange.connections[:CONNECTIONS]
        for first in firsts:  # all of them at once: a successor that stalls is given up soon
            first.reset()
        for first in firsts:
            exchange.resubscribed(first)
        assert_all_well(exchange, manager)
        for market in BOTH:
            assert (manager.get_status(market).resyncs, manager.get_restart_count(market)) == ({"STREAM_CLOSED": 1}, 1)


def test_a_connection_is_renewed_before_the_exchange_would_cut_it():
    with both(timing=Timing(connection_s_max=1.0)) as (exchange, manager):
        first = exchange.connection_of("BTCUSDT")

        def is_renewed() -> bool:
            for market in BOTH:
                exchange.update(market)
            return first.ended.is_set()

        eventually(is_renewed, "the renewal")
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})


# ------------------------------------------------------------------------------------------------ silence


def test_a_market_that_is_silent_although_it_moves_is_subscribed_again():
    brisk = Timing(silence_check_s=0.1, quiet_s_first=0.3, moved_on_s=0.3)
    with both(timing=brisk, websocket_ping_interval=0.2) as (exchange, manager):
        connection = exchange.connection_of("BTCUSDT")
        connection.streams.discard("btcusdt@depth@100ms")  # the exchange has forgotten it
        exchange.update("BTCUSDT", bids=[("99.98", "8")])
        exchange.wait_for(lambda: "btcusdt@depth@100ms" in connection.streams, "the new subscription")
        exchange.update("BTCUSDT")
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        assert_all_well(exchange, manager)
        assert manager.get_status("BTCUSDT").resyncs == {"SILENT": 1}
        assert 5 in {request.limit for request in exchange.requests_of("BTCUSDT")}
        assert len(exchange.connections) == CONNECTIONS
        assert_undisturbed(manager)


def test_a_market_that_is_silent_because_nothing_happens_is_left_alone():
    brisk = Timing(silence_check_s=0.05, quiet_s_first=0.1)
    with both(timing=brisk, websocket_ping_interval=0.2) as (exchange, manager):
        exchange.wait_for(lambda: sum(request.limit == 5 for request in exchange.rest_requests) >= 4, "four probes")
        assert_all_well(exchange, manager)
        assert_resyncs(manager, {})
        times = [request.time for request in exchange.requests_of("BTCUSDT") if request.limit == 5]
        assert len(exchange.connections[0].requests()) == 1
        assert len(times) < 8  # the wait doubles


def with_another_quantity(exchange: LoopbackExchange, symbol: str) -> RestReply:
    body = json.loads(exchange.snapshot(symbol, 5))
    body["bids"][0][1] = "77"
    return RestReply(200, json.dumps(body).encode())


DELISTED = {
    "unknown": (lambda exchange, symbol: error_reply(400, -1121, "Invalid symbol."), "SILENT"),
    "empty": (
        lambda exchange, symbol: RestReply(
            200, b'{"lastUpdateId":%d,"bids":[],"asks":[]}' % exchange.markets[symbol].book.last_update_id
        ),
        "DIFFERENT",
    ),
    "other levels": (with_another_quantity, "DIFFERENT"),
    "a lower id": (lambda exchange, symbol: RestReply(200, FAR_AWAY % 7), "IDS_WENT_BACK"),
}


@pytest.mark.parametrize("kind", ["spot", "usdm"])
@pytest.mark.parametrize("answer", DELISTED)
def test_what_a_probe_says_against_a_silent_book_is_confirmed_and_believed(monkeypatch, answer, kind):
    """A regression: a delisted market was read for ever, because a probe only asked whether the id was higher."""
    monkeypatch.setattr("ldc.sync.retry.SPEAKS_S", 0.1)  # the silence is as short
    brisk = Timing(silence_check_s=0.05, quiet_s_first=0.2, quiet_s_max=0.2)
    reply, cause = DELISTED[answer]
    with live(kind, timing=brisk, websocket_ping_interval=0.1) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.on_rest = lambda request: reply(exchange, request.symbol) if request.limit == 5 else None
        eventually(lambda: manager.get_status("BTCUSDT").resyncs.get(cause), "the resync")
        exchange.on_rest = None if answer != "unknown" else lambda request: reply(exchange, request.symbol)
        if answer == "unknown":
            with pytest.raises(UnknownMarket, match="-1121"):
                manager.wait_until_synchronized(timeout=PATIENCE_S)
            with pytest.raises(UnknownMarket):
                manager.get_book("BTCUSDT")
        else:
            assert manager.wait_until_synchronized(timeout=PATIENCE_S)
            reach(exchange, manager)
            assert_exact(exchange, manager)


@pytest.mark.parametrize("answer", [*DELISTED, "404"])
def test_one_answer_against_a_silent_book_is_not_believed(answer):
    """One host may be wrong; and a failure that says nothing about the market is evidence of nothing."""
    brisk = Timing(silence_check_s=0.05, quiet_s_first=0.2, quiet_s_max=0.2)
    reply = DELISTED[answer][0] if answer in DELISTED else lambda exchange, symbol: RestReply(404, b"nothing here")
    with live(timing=brisk, websocket_ping_interval=0.1) as (exchange, manager):
        synchronize(exchange, manager)
        probes = []

        def every_other_one(request) -> RestReply | None:
            if request.limit == 5:
                probes.append(request)
                return reply(exchange, request.symbol) if len(probes) % 2 or answer == "404" else None
            return None

        exchange.on_rest = every_other_one
        eventually(lambda: len(probes) >= 6, "some probes")
        assert_exact(exchange, manager)
        status = manager.get_status("BTCUSDT")
        assert status.resyncs == {}
        assert (answer in ("unknown", "404")) == (status.last_error is not None)


# ------------------------------------------------------------------------------------------------ snapshots

CROSSED = b'{"lastUpdateId":5000,"bids":[["101","1"]],"asks":[["100","1"]]}'

REFUSALS: dict[str, Callable[[LoopbackExchange, str], RestReply]] = {
    "html": lambda exchange, symbol: RestReply(200, b"<html>maintenance</html>"),
    "empty": lambda exchange, symbol: RestReply(200, b""),
    "code": lambda exchange, symbol: error_reply(200, -1000, "unknown"),
    "cut": lambda exchange, symbol: RestReply(200, exchange.snapshot(symbol, 100)[:300], announced=5_000),
    "too short": lambda exchange, symbol: RestReply(200, exchange.snapshot(symbol, 100)[:-30]),
    "500": lambda exchange, symbol: RestReply(500, b"oops"),
    "503": lambda exchange, symbol: RestReply(503, b"<html>busy</html>"),
    "400": lambda exchange, symbol: error_reply(400, -1100, "Illegal characters"),
    "redirect": lambda exchange, symbol: RestReply(302, b"", {"Location": "http://127.0.0.1:1/"}),
    "crossed": lambda exchange, symbol: RestReply(200, CROSSED),
    "429": lambda exchange, symbol: error_reply(429, -1003, "Too many requests", {"Retry-After": "1"}),
    "418": lambda exchange, symbol: error_reply(418, -1003, "banned", {"Retry-After": "1"}),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_snapshot_that_fails_or_is_none_is_requested_again(how):
    with live(markets=BOTH) as (exchange, manager):
        failures: list[float] = []

        def fail_once(request) -> RestReply | None:
            if request.symbol == "BTCUSDT" and not failures:
                failures.append(time.monotonic())
                return REFUSALS[how](exchange, request.symbol)
            return None

        exchange.on_rest = fail_once
        synchronize(exchange, manager)
        assert_all_well(exchange, manager)
        requests = exchange.requests_of("BTCUSDT")
        assert requests[0].status in (200, 302, 400, 418, 429, 500, 503)
        assert len(requests) == 2
        if how in ("429", "418"):
            assert requests[1].time - failures[0] > 0.9
        status = manager.get_status("BTCUSDT")
        assert status.last_error or status.snapshots_dropped == {"MALFORMED": 1}
        assert_undisturbed(manager)


def test_a_snapshot_older_than_the_stream_is_fetched_again():
    with live() as (exchange, manager):
        old = exchange.snapshot("BTCUSDT", 100)
        replies = [RestReply(200, old), RestReply(200, old)]
        exchange.on_rest = lambda request: replies.pop() if replies else None
        exchange.update("BTCUSDT", bids=[("99.90", "9")], is_sent=False)
        synchronize(exchange, manager)
        assert_exact(exchange, manager)
        assert manager.get_status("BTCUSDT").snapshots_dropped == {"TOO_OLD": 2}


def test_a_ban_stops_all_requests_and_leaves_live_books_live():
    with both() as (exchange, manager):
        exchange.add_market("XRPUSDT")
        exchange.add_market("LTCUSDT")
        exchange.on_rest = lambda request: error_reply(418, -1003, "banned", {"Retry-After": "600"})
        added = ("XRPUSDT", "LTCUSDT")
        manager.create_depth_cache(added)
        for market in added:
            exchange.connection_of(market)
        exchange.update("XRPUSDT")

        def errors() -> list[str]:
            return [error for market in added if (error := manager.get_status(market).last_error)]

        eventually(errors, "the ban")  # which the first request gets; the other one may never be sent
        banned_at = len(exchange.rest_requests)
        for market in added:
            exchange.update(market)
        for _ in range(20):
            assert_all_well(exchange, manager)
        assert len(exchange.rest_requests) <= banned_at + 1  # what was under way
        assert "418" in errors()[0]
        assert_undisturbed(manager)


def test_a_ban_that_outlasts_its_own_end_is_believed_each_time():
    with live() as (exchange, manager):
        bans = [error_reply(418, -1003, "banned", {"Retry-After": "1"}) for _ in range(3)]
        exchange.on_rest = lambda request: bans.pop() if bans else None
        synchronize(exchange, manager)
        assert_exact(exchange, manager)
        times = [request.time for request in exchange.rest_requests[:4]]
        assert [request.status for request in exchange.rest_requests[:4]] == [418, 418, 418, 200]
        assert all(later - earlier > 0.9 for earlier, later in pairwise(times))


FAR_AWAY = b'{"lastUpdateId":%d,"bids":[["3000.10","1"]],"asks":[["3000.20","1"]]}'


def test_a_snapshot_of_another_market_is_not_taken_for_this_one():
    with both() as (exchange, manager):
        wrong = [1, 1]

        def answer(request) -> RestReply | None:
            if request.symbol == "BTCUSDT" and wrong:
                wrong.pop()
                return RestReply(200, FAR_AWAY % (exchange.markets["BTCUSDT"].book.last_update_id + 1))
            return None

        exchange.on_rest = answer
        exchange.update("BTCUSDT", bids=[("99.90", "9")], is_sent=False)
        exchange.update("BTCUSDT")  # shows the gap
        assert_all_well(exchange, manager)
        assert manager.get_status("BTCUSDT").snapshots_dropped["WRONG_PRICES"] == 2
        assert_undisturbed(manager)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-1121, "Invalid symbol."),
        (-1122, "Invalid symbolStatus."),
        (-1220, "The symbol's status does not match"),
        (-4108, "Symbol is on delivering or delivered or settling or closed or pre-trading."),
    ],
)
def test_an_unknown_market_fails_permanently_and_disturbs_no_other(code, text):
    with both() as (exchange, manager):
        exchange.on_rest = lambda request: error_reply(400, code, text) if request.symbol == "BTCUSTD" else None
        manager.create_depth_cache("BTCUSTD")
        exchange.connection_of("BTCUSTD")
        with pytest.raises(UnknownMarket, match=rf"BTCUSTD.*{code}"):
            manager.wait_until_synchronized("BTCUSTD", PATIENCE_S)
        assert manager.get_status("BTCUSTD").state is SyncState.FAILED
        assert_all_well(exchange, manager)
        assert_undisturbed(manager)
        assert_undisturbed(manager, "BTCUSDT")
        assert len(exchange.requests_of("BTCUSTD")) == 2  # the second one confirms the first


def test_a_snapshot_that_never_comes_delays_no_other_market():
    with live(markets=BOTH) as (exchange, manager):
        hold = threading.Event()
        exchange.on_rest = lambda request: (
            RestReply(200, exchange.snapshot("BTCUSDT", 100), hold=hold) if request.symbol == "BTCUSDT" else None
        )
        manager.create_depth_cache(BOTH)
        assert manager.wait_until_synchronized("ETHUSDT", PATIENCE_S)
        reach(exchange, manager, "ETHUSDT")
        assert not manager.is_depth_cache_synchronized("BTCUSDT")
        hold.set()
        exchange.connection_of("BTCUSDT")
        assert_all_well(exchange, manager)


# ------------------------------------------------------------------------------------------------ faults of our own


def test_a_fault_of_ours_suspends_every_book_and_is_survived(caplog):
    with both(timing=Timing(fault_pause_s=0.05)) as (exchange, manager):
        group = manager.get_depth_cache("BTCUSDT").group
        first = exchange.connection_of("BTCUSDT")

        def fail(now: float) -> None:
            raise RuntimeError("nobody foresaw this")

        group.post(fail)
        exchange.resubscribed(first)
        assert_all_well(exchange, manager)
        assert "nobody foresaw this" in manager.get_status("BTCUSDT").last_error
    assert "nobody foresaw this" in logged(caplog).text


def test_after_the_machine_slept_no_old_connection_is_trusted():
    with both() as (exchange, manager):
        first = tuple(exchange.connections)

        def oversleep(group: FeedGroup) -> None:
            group._loop._slept_s_before -= 3600  # as if the clock that counts sleep had gone on by so much

        for group in {manager.get_depth_cache(market).group for market in BOTH}:
            group.post(lambda now, group=group: oversleep(group))
        for connection in first:
            exchange.resubscribed(connection)
        assert_all_well(exchange, manager)
        for market in BOTH:
            assert "slept for 3600 s" in manager.get_status(market).last_error
            assert manager.get_status(market).resyncs == {"STREAM_CLOSED": 1}


def test_after_a_standstill_of_ours_a_pong_that_waited_is_a_pong_in_time():
    with both(**SHORT_PING) as (exchange, manager):
        group = manager.get_depth_cache("BTCUSDT").group
        connection = exchange.connection_of("BTCUSDT")
        exchange.wait_for(lambda: connection.opcodes(PING), "a ping")
        group.post(lambda now: threading.Event().wait(sum(SHORT_PING.values()) + 0.5))
        for _ in range(200):
            exchange.update("BTCUSDT", bids=[("99.97", "5")])
        assert_all_well(exchange, manager)
        assert len(exchange.connections) == CONNECTIONS
        assert_undisturbed(manager)


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_markets_that_wait_for_a_snapshot_share_the_memory_for_their_updates(monkeypatch, kind):
    """A regression: through a ban of two minutes a thousand markets held 1.3 GB."""
    monkeypatch.setattr(lifecycle.process_buffers, "bytes_max", 6000)
    with live(kind, markets=BOTH) as (exchange, manager):
        exchange.on_rest = lambda _request: error_reply(418, -1003, "banned", {"Retry-After": "2"})
        manager.create_depth_cache(BOTH)
        for market in BOTH:
            exchange.connection_of(market)
        lives = [manager.get_depth_cache(market).live for market in BOTH]
        for _ in range(60):
            for market in BOTH:
                exchange.update(market)
        eventually(lambda: all(live.synchronizer.updates_dropped["BUFFER_FULL"] for live in lives), "full buffers")

        def is_bounded() -> bool:
            """A buffer returns to its even part when it grows, so each is made to grow once more."""
            for market in BOTH:
                exchange.update(market)
            return lifecycle.process_buffers.held <= 7000

        eventually(is_bounded, "buffers that together are as small as they may be")
        assert lifecycle.process_buffers.discarded > 0
        exchange.on_rest = None
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        for market in BOTH:
            reach(exchange, manager, market)
            assert_exact(exchange, manager, market)
        eventually(lambda: lifecycle.process_buffers.change(0) is None, "the release")


# ------------------------------------------------------------------------------------------------ requests


def test_a_request_of_a_stopped_market_neither_replaces_nor_cancels_that_of_its_successor(monkeypatch):
    """A regression: the old feed was held up, and requested after the new one did. The new book waited for ever."""
    with live() as (exchange, manager):
        synchronize(exchange, manager)
        old = manager.get_depth_cache("BTCUSDT").live
        manager.stop_depth_cache("BTCUSDT")
        with monkeypatch.context() as held:
            held.setattr(SnapshotQueue, "take", lambda _queue, _now: None)  # requests wait
            manager.create_depth_cache("BTCUSDT")
            new = manager.get_depth_cache("BTCUSDT").live
            eventually(lambda: new.synchronizer.requests.awaited is not None, "the request of the new market")
            action = new.synchronizer.requests.awaited
            routes = manager._own.routes
            eventually(lambda: routes.holds_request(new, action.epoch), "the request in the queue")
            routes.request_snapshot(old, action)
            routes.cancel_snapshot(old, action.epoch)
            assert routes.holds_request(new, action.epoch)
            assert not routes.holds_request(old, action.epoch)
        routes.request_snapshot(old, action)  # wakes a worker
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
