"""A host or a port that fails is followed by the venue's next one, for websockets and for snapshots."""

import dataclasses
import socket
import types
from collections.abc import Iterator

import pytest
from live_kit import MANAGER_PARAMETERS, no_jitter, no_thread_is_left, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, LoopbackExchange
from network_kit import clear_environment, fresh_addresses, resolve_to  # noqa: F401

import ldc.venues
from ldc.feed.connection import ConnectionState
from ldc.feed.slot import ConnectionSlot
from ldc.feed.subscriptions import StreamRequests
from ldc.limits import Timing
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.snapshots.queue import SnapshotQueue, SnapshotRequest, Ticket
from ldc.snapshots.reply import NO_HEADERS, FailureKind, SnapshotBody, failure
from ldc.sync.actions import Purpose
from ldc.venues import venue_named

pytestmark = pytest.mark.usefixtures("no_jitter", "fresh_addresses")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses, as a firewall may refuse 9443."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("dead", ["websocket", "rest", "both"])
def test_an_exchange_whose_first_address_is_dead_is_reached_by_its_second(monkeypatch, dead_port, dead):
    with LoopbackExchange() as exchange:
        exchange.add_market()
        row = dataclasses.replace(
            venue_named("binance.com"),
            websocket_base_uris=(
                exchange.websocket_base_uri if dead == "rest" else f"ws://127.0.0.1:{dead_port}",
                exchange.websocket_base_uri,
            ),
            restful_base_uris=(
                exchange.restful_base_uri if dead == "websocket" else f"http://127.0.0.1:{dead_port}",
                exchange.restful_base_uri,
            ),
        )
        monkeypatch.setattr(ldc.venues, "VENUES", types.MappingProxyType({**ldc.venues.VENUES, "binance.com": row}))
        with BinanceLocalDepthCacheManager("binance.com", **MANAGER_PARAMETERS) as manager:
            synchronize(exchange, manager)


def test_an_address_whose_open_connection_was_lost_is_tried_last(monkeypatch):
    with LoopbackExchange() as exchange:
        exchange.add_market()
        port = int(exchange.websocket_base_uri.rpartition(":")[2])
        resolve_to(monkeypatch, "exchange.example", "127.0.0.1", "127.0.0.2")
        uris = {"restful_base_uri": exchange.restful_base_uri, "websocket_base_uri": f"ws://exchange.example:{port}"}
        with (
            socket.create_server(("127.0.0.2", port)) as other,
            BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **uris) as manager,
        ):
            synchronize(exchange, manager)
            exchange.connections[0].reset()
            other.settimeout(PATIENCE_S)
            other.accept()[0].close()  # the next one goes there, and the one after it back


# ---------------------------------------------------------------------------------------------------------- decisions


class Connection:
    """A connection that can be lost."""

    def __init__(self, number: int, url: str) -> None:
        self.connection_id, self.url = number, url
        self.state = ConnectionState.CONNECTING
        self.opened_at = 0.0
        self.requests = StreamRequests(Timing())

    def next_due(self, now: float) -> float:
        return now + 1.0

    def is_pong_late(self, now: float) -> bool:
        return False


def made_slot(url: str, spare_urls: tuple[str, ...] = ()) -> tuple[ConnectionSlot, list[Connection]]:
    """Return a slot, and the list to which its connections are added."""
    made: list[Connection] = []

    def connect(url: str, now: float) -> Connection:
        made.append(Connection(len(made) + 1, url))
        return made[-1]

    slot = ConnectionSlot(
        url,
        Timing(),
        lambda: 0.0,
        take_connect=lambda now: now,
        connect_spacing=lambda now: 0.0,
        connect=connect,
        forget=lambda *_: None,
        has_taken_over=lambda *_: True,
        spare_urls=spare_urls,
    )
    return slot, made


URLS = ("wss://a", "wss://b", "wss://c")


def connected_and_lost(slot: ConnectionSlot, made: list[Connection], now: float, lasted_s: float | None) -> str:
    slot.tick(now)
    connection = made[-1]
    if lasted_s is not None:
        connection.state, connection.opened_at = ConnectionState.OPEN, now
    slot.lose(connection, now + (lasted_s or 0.0), is_wanted=True)
    return connection.url


def test_a_connection_that_fails_is_followed_by_one_to_the_next_url_and_so_on_round():
    slot, made = made_slot("wss://b", URLS)
    urls = [connected_and_lost(slot, made, 100.0 * number, None) for number in range(5)]
    assert urls == ["wss://b", "wss://c", "wss://a", "wss://b", "wss://c"]


def test_a_connection_that_lasted_is_followed_by_one_to_the_same_url():
    slot, made = made_slot("wss://b", URLS)
    urls = [connected_and_lost(slot, made, 1000.0 * number, Timing().stable_s) for number in range(3)]
    assert urls == ["wss://b"] * 3
    assert connected_and_lost(slot, made, 9000.0, Timing().stable_s - 1) == "wss://b"
    assert slot.url == "wss://c"


def test_with_one_url_there_is_no_other():
    slot, made = made_slot("ws://gateway")
    assert [connected_and_lost(slot, made, 100.0 * number, None) for number in range(3)] == ["ws://gateway"] * 3


def test_the_urls_of_a_venue_go_round_its_hosts_before_its_ports():
    assert venue_named("binance.com").all_stream_urls == (
        "wss://stream.binance.com:9443/stream",
        "wss://data-stream.binance.vision/stream",
        "wss://stream.binance.com:443/stream",
    )
    assert venue_named("simulator").all_stream_urls == ()
    assert venue_named("binance.com").snapshot_urls("http://127.0.0.1:80") == ("http://127.0.0.1:80/api/v3/depth",)
    urls = venue_named("binance.com").snapshot_urls()
    assert urls[0] == venue_named("binance.com").snapshot_url()
    assert len(urls) == len(set(urls)) == len(venue_named("binance.com").restful_base_uris)


def begun(queue: SnapshotQueue, client, market: str, now: float) -> Ticket:
    queue.put(client, SnapshotRequest(market, 1, Purpose.SYNCHRONIZE, 100))
    ticket = queue.take(now)
    assert ticket is not None
    return ticket


def test_a_host_that_fails_is_followed_by_the_next_one_and_failures_in_flight_together_count_once():
    queue = SnapshotQueue(lambda: 0.0)
    client = queue.join(venue_named("binance.com"), 0.0)
    urls = venue_named("binance.com").snapshot_urls()
    together = [begun(queue, client, market, 1.0) for market in ("A", "B", "C")]
    assert {ticket.url for ticket in together} == {urls[0]}
    for ticket in together:
        queue.settle(ticket, failure("A", FailureKind.TIMED_OUT, "late"), NO_HEADERS, 2.0)
    ticket = begun(queue, client, "D", 10.0)
    assert ticket.url == urls[1]
    queue.settle(ticket, SnapshotBody(b"{}", 0, None), NO_HEADERS, 11.0)
    assert client.url == urls[1]


@pytest.mark.parametrize(
    "kind", [FailureKind.FORBIDDEN, FailureKind.RATE_LIMITED, FailureKind.BANNED, FailureKind.PROXY]
)
def test_a_refusal_and_the_proxy_are_no_reason_to_go_to_another_host(kind):
    queue = SnapshotQueue(lambda: 0.0)
    client = queue.join(venue_named("binance.com"), 0.0)
    queue.settle(begun(queue, client, "A", 1.0), failure("A", kind, "no"), NO_HEADERS, 2.0)
    assert client.url == venue_named("binance.com").snapshot_urls()[0]
