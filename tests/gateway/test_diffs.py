"""Diffs: the exchange's bytes in their order, a chain that continues or shows a gap, and another ldc as a replica."""

import itertools
import json
import re
import socket
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from gateway_kit import PATIENCE_S, Served, caught_up, served, until
from simulator_kit import Client, Fold, assert_true, managed

import ldc
from ldc.gateway import Gateway, GatewayLimits
from ldc.gateway.diffs import Chain, continued
from ldc.venues import VENUES

VENUE_NAMES = ["binance.com", "binance.com-futures", "binance.com-coin_futures"]


class ClientOf(Client):
    """A websocket client of a gateway."""

    def __init__(self, row: Served, path: str) -> None:
        super().__init__(row.gateway, path)  # type: ignore[arg-type]


def path_of(venue: str, market: str) -> str:
    return VENUES[venue].stream_path.removesuffix("/stream") + f"/ws/{market.lower()}@depth@100ms"


@pytest.mark.parametrize("venue", VENUE_NAMES)
def test_diffs_are_those_of_the_exchange_byte_for_byte_and_in_order(venue: str):
    with (
        served(venue) as row,
        Client(row.exchange, path_of(venue, row.market)) as upstream,
        ClientOf(row, path_of(venue, row.market)) as client,
    ):
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels)) == 1)
        for _ in range(20):
            caught_up(row)
        ours = [client.text() for _ in range(18)]
        theirs = [upstream.text()]
        while theirs[-1] != ours[-1]:
            theirs.append(upstream.text())
        assert theirs[-18:] == ours
        snapshot = row.get(VENUES[venue].depth_path, symbol=row.market, limit=1000).json()
        fold = Fold(snapshot)
        for _ in range(20):
            update_id = caught_up(row)
            while fold.update_id != update_id:
                fold.apply(client.message())
            true_book = row.exchange.true_book(row.market, update_id)
            assert (fold.bids, fold.asks) == (true_book.bids, true_book.asks)
    assert row.gateway.counts["diffs"] >= 38


def test_every_name_and_form_of_one_connection_gets_its_own_message():
    names = "btcusdt@depth@100ms/btcusdt@depth/btcusdt@bookTicker"
    with served() as row, ClientOf(row, f"/stream?streams={names}") as client:
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels)) == 1)
        caught_up(row)
        got = {client.message()["stream"] for _ in range(6) if not caught_up(row) < 0}
        assert got >= {"btcusdt@depth@100ms", "btcusdt@depth"}
        client.ask("SET_PROPERTY", ["combined", False])
        caught_up(row)
        assert client.message(lambda message: message.get("e") == "depthUpdate")["s"] == "BTCUSDT"
        client.ask("UNSUBSCRIBE", names.split("/"))
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels)) == 0)


def test_an_overlap_upstream_is_sent_as_a_chain_that_continues_exactly():
    for venue in VENUE_NAMES:
        with served(venue) as row, ClientOf(row, path_of(venue, row.market)) as client:
            until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels)) == 1)
            caught_up(row)
            first = client.message()
            row.exchange.inject("overlap", count=5)
            for _ in range(10):
                caught_up(row)
            chain = [first, *(client.message() for _ in range(9))]
            assert row.manager.get_status(row.market).counters.updates_overlapping > 0
            for before, after in itertools.pairwise(chain):
                assert after["u"] > before["u"]
                assert after.get("pu", after["U"] - 1) == before["u"]


def test_connections_end_where_the_exchange_restarts_its_ids_and_others_live_on():
    """Most clients take a lower id for an old update, and would stand still for good."""
    with (
        served(exchange_settings={"updates_per_second": 50.0}) as row,
        ClientOf(row, "/ws/btcusdt@depth@100ms") as diffs,
        ClientOf(row, "/ws/btcusdt@bookTicker") as ticker,
    ):
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels)) == 1)
        last_id = ticker.message()["u"]
        row.exchange.resume("BTCUSDT")
        diffs.message()
        row.exchange.inject("id_reset")
        assert diffs.close_code() == 1001
        ticker.message(lambda message: message["u"] < last_id)
        with ClientOf(row, "/ws/btcusdt@depth@100ms") as again:
            assert again.message()["u"] < last_id
        assert row.gateway.counts["ids_went_back"] == 1


@pytest.mark.parametrize("venue", VENUE_NAMES)
@pytest.mark.parametrize("fault", ["drop", "reset", "id_reset", "close_1001", "reorder", "duplicate", "truncate"])
def test_another_ldc_is_a_replica_under_every_fault_upstream(venue: str, fault: str):
    """Its books equal the exchange's at their ids, and it synchronizes again by itself."""
    with (
        served(venue, exchange_settings={"levels": 60, "updates_per_second": 50.0}) as row,
        managed(row.gateway, venue) as replica,  # type: ignore[arg-type]
    ):
        row.exchange.resume(row.market)
        replica.create_depth_cache(row.market)
        assert replica.wait_until_synchronized(timeout=PATIENCE_S)
        row.exchange.inject(fault)
        until(lambda: row.exchange.statistics()["faults"].get(fault))
        compared: set[int] = set()
        until(lambda: compared_with_the_truth(row, replica, compared) >= 15)


def compared_with_the_truth(row: Served, replica: Any, compared: set[int]) -> int:
    """Read the replica once, if it can be read; what is read is true. Return how many ids have been compared."""
    try:
        view = replica.get_depth_cache(row.market).reader.view(number=Decimal)
    except ldc.DepthCacheOutOfSync:
        return len(compared)
    if view.last_update_id not in compared:
        assert_true(row.exchange, row.market, view)
        compared.add(view.last_update_id)
    return len(compared)


def test_a_client_of_diffs_that_never_reads_is_ended_at_its_limit_and_costs_nobody_else_a_message():
    limits = GatewayLimits(unsent_bytes_max=50_000)
    settings = {"levels": 400, "updates_per_second": 200.0}
    path = "/ws/btcusdt@depth@100ms"
    with served(exchange_settings=settings, limits=limits) as row, ClientOf(row, path) as reader:
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels)) == 1)
        silent = socket.socket()
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", row.gateway.port))
        silent.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels["BTCUSDT"].listeners)) == 2)
        row.gateway.call(shortened_buffers)
        waits = 0
        previous = None
        while not row.gateway.counts["unsent_bytes_max"]:
            update_id = caught_up(row)
            message = reader.message()
            while message["u"] < update_id:
                assert previous is None or message["U"] == previous + 1
                previous, message = message["u"], reader.message()
            previous = message["u"]
            waits = max(waits, row.gateway.call(unsent))
        assert waits <= limits.unsent_bytes_max
        until(lambda: row.gateway.call(lambda parts: len(parts.diffs._channels["BTCUSDT"].listeners)) == 1)
        silent.close()


def shortened_buffers(parts: Any) -> None:
    """Have what a client does not read wait in the gateway, not in the kernel."""
    for connection in parts.connections.by_handler.values():
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def unsent(parts: Any) -> int:
    """Return the bytes that wait for the slowest client."""
    transports = [each._transport for each in parts.connections.by_handler.values() if each._transport is not None]
    return max((each.get_write_buffer_size() for each in transports), default=0)


# ------------------------------------------------------------------------------------------ the chain alone


class Item(NamedTuple):
    """What the chain reads of a `BookUpdate`."""

    last_update_id: int
    payload: bytes | None = None
    is_lost: bool = False
    is_snapshot: bool = False
    bids: tuple[tuple[float, float], ...] = ()
    asks: tuple[tuple[float, float], ...] = ()
    bid_horizon: float | None = 90.0
    ask_horizon: float | None = 110.0


def diff(first: int, last: int, previous: int | None = None) -> Item:
    pu = "" if previous is None else f'"pu":{previous},'
    return Item(last, f'{{"e":"depthUpdate","s":"X","U":{first},"u":{last},{pu}"b":[],"a":[]}}'.encode())


def sent(chain: Chain, *items: Item) -> list[tuple[int, int]]:
    payloads = [chain.take(item) for item in items]  # type: ignore[arg-type]
    return [(message["U"], message["u"]) for message in (json.loads(each) for each in payloads if each is not None)]


def test_a_loss_is_silence_and_then_a_gap():
    chain = Chain()
    assert sent(chain, Item(5, is_snapshot=True), diff(4, 8), diff(9, 9)) == [(4, 8), (9, 9)]
    assert sent(chain, Item(9, is_lost=True), Item(20, is_snapshot=True), diff(19, 22), diff(21, 25)) == [
        (19, 22),
        (23, 25),
    ]


def test_a_loss_without_a_lost_update_is_no_gap():
    chain = Chain()
    items = Item(5, is_snapshot=True), diff(6, 8), Item(8, is_lost=True), Item(8, is_snapshot=True), diff(7, 9)
    assert sent(chain, *items) == [(6, 8), (9, 9)]


def test_ids_that_restart_below_are_noticed_and_nothing_else_is_taken_for_that():
    chain = Chain()
    items = Item(500, is_snapshot=True), diff(501, 508), Item(508, is_lost=True), Item(508, is_snapshot=True)
    for item in (*items, Item(507, is_lost=True), Item(509, is_snapshot=True)):
        chain.take(item)  # type: ignore[arg-type]
        assert not chain.went_back
    chain.take(Item(7, is_snapshot=True))  # type: ignore[arg-type]
    assert chain.went_back
    assert sent(chain, diff(8, 9)) == [(8, 9)]
    assert not chain.went_back


def test_a_deepening_changes_nothing_that_a_client_knows_and_a_cure_is_a_gap():
    chain = Chain()
    deepening = Item(8, bids=((80.0, 1.0),), bid_horizon=70.0)
    assert sent(chain, Item(5, is_snapshot=True), diff(6, 8), deepening, diff(9, 9)) == [(6, 8), (9, 9)]
    assert sent(chain, Item(9, bids=((75.0, 1.0),), bid_horizon=70.0), diff(10, 10), diff(11, 12)) == [(11, 12)]
    assert sent(chain, Item(12, asks=((109.0, 0.0),)), diff(13, 13), diff(14, 14)) == [(14, 14)]


def test_a_payload_that_continues_is_not_touched():
    for item, last in ((diff(6, 8), 5), (diff(9, 10), 5), (diff(7, 8, 5), 5), (diff(9, 10, 7), 5)):
        assert continued(item.payload, last) is item.payload  # type: ignore[arg-type]
    overlapping = diff(100, 250, 90).payload
    assert overlapping is not None
    text = continued(overlapping, 200)
    assert re.sub(rb"\d+", b"0", text) == re.sub(rb"\d+", b"0", overlapping)
    assert json.loads(text) == json.loads(overlapping) | {"U": 201, "pu": 200}


# ------------------------------------------------------------------------------------------ two gateways


@pytest.mark.check
def test_a_replica_of_two_gateways_loses_no_moment_and_no_update_when_one_dies_fifty_times():
    """Each gateway is stopped and started again 25 times, in turn; the replica is never out of sync."""
    with (
        served(exchange_settings={"updates_per_second": 50.0}) as row,
        managed(row.exchange, "binance.com") as other,
    ):
        other.create_depth_cache("BTCUSDT")
        assert other.wait_until_synchronized(timeout=PATIENCE_S)
        with Gateway(other, port=0) as second:
            gateways = [row.gateway, second]
            replica = ldc.BinanceLocalDepthCacheManager(
                "binance.com",
                redundancy=2,
                restful_base_uri=[each.restful_base_uri for each in gateways],
                websocket_base_uri=[each.websocket_base_uri for each in gateways],
                _random=lambda: 0.1,
            )
            row.exchange.resume("BTCUSDT")
            with replica:
                replica.create_depth_cache("BTCUSDT")
                assert replica.wait_until_synchronized(timeout=PATIENCE_S)
                for number in range(50):
                    until(lambda: carried_by_both(replica))
                    killed = gateways[number % 2]
                    killed.stop()
                    update_id = replica.get_depth_cache("BTCUSDT").reader.last_update_id
                    for _ in range(5):
                        update_id = replica.wait_for_update(
                            "BTCUSDT", update_id, timeout=PATIENCE_S
                        )  # raises at a loss
                        assert update_id is not None
                    assert_true(row.exchange, "BTCUSDT", replica.get_depth_cache("BTCUSDT").reader.view(number=Decimal))
                    killed.start()
                status = replica.get_status("BTCUSDT")
                assert sum(status.resyncs.values()) == 0
                assert status.restart_count == 0


def carried_by_both(replica: Any) -> bool:
    connections = replica.get_status("BTCUSDT").connections
    return len(connections) >= 2 and all(each.first_arrivals + each.duplicates for each in connections)
