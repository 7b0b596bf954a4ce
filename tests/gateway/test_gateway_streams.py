"""Websockets and events: states of the true book, silence while it cannot be read, and limits for slow clients."""

import contextlib
import itertools
import json
import socket
import time
from decimal import Decimal
from typing import Any

import pytest
import requests
import websocket
from gateway_kit import PATIENCE_S, Served, caught_up, deepened, served, until
from simulator_kit import Client, decimals

from ldc.gateway import GatewayLimits
from ldc.venues import VENUES
from ldc.wire.families import family_of

VENUE_NAMES = ["binance.com", "binance.com-futures", "binance.com-coin_futures"]


class ClientOf(Client):
    """A websocket client of a gateway."""

    def __init__(self, row: Served, path: str) -> None:
        super().__init__(row.gateway, path)  # type: ignore[arg-type]


def prefix(venue: str) -> str:
    return VENUES[venue].stream_path.removesuffix("/stream")


@pytest.mark.parametrize("venue", VENUE_NAMES)
def test_a_partial_depth_is_the_true_book_s_best_levels(venue: str):
    with served(venue) as row:
        name = f"{row.market.lower()}@depth5@100ms"
        with ClientOf(row, f"{prefix(venue)}/ws/{name}") as client:
            first = client.message()  # at once, without a change
            seen = [first]
            for _ in range(3):
                update_id = caught_up(row)
                id_key = "lastUpdateId" if venue == "binance.com" else "u"
                while seen[-1][id_key] != update_id:  # a snapshot may stand at the id of the update that follows it
                    seen.append(client.message())
                message = seen[-1]
                assert tuple(message) == family_of(VENUES[venue]).partial
                true_book = row.exchange.true_book(row.market, update_id, 5)
                sides = [decimals(message[key]) for key in (("bids", "asks") if "bids" in message else ("b", "a"))]
                assert tuple(map(tuple, sides)) == (true_book.bids, true_book.asks)
        if venue != "binance.com":
            assert all(after["pu"] >= before["u"] for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize("venue", VENUE_NAMES)
def test_a_book_ticker_comes_when_the_best_prices_change_and_only_then(venue: str):
    with (
        served(venue) as row,
        ClientOf(row, f"{prefix(venue)}/stream?streams={row.market.lower()}@bookTicker") as client,
    ):
        first = client.message()["data"]
        tops: list[Any] = [tuple(Decimal(first[key]) for key in "bBaA")]
        for _ in range(40):
            update_id = caught_up(row)
            true_book = row.exchange.true_book(row.market, update_id, 1)
            top = (*true_book.bids[0], *true_book.asks[0])
            if tops[-1] != top:
                message = client.message(lambda message, at=update_id: message["data"]["u"] == at)
                assert message["stream"] == f"{row.market.lower()}@bookTicker"
                assert tuple(message["data"]) == family_of(VENUES[venue]).ticker
                assert tuple(Decimal(message["data"][key]) for key in "bBaA") == top
                tops.append(top)
        assert 1 < len(tops)


def test_subscriptions_are_made_listed_and_ended_as_at_the_exchange():
    with served(markets=("BTCUSDT", "ETHUSDT")) as row, ClientOf(row, "/ws") as client:
        assert client.ask("SUBSCRIBE", ["btcusdt@bookTicker", "nope@depth5"]) == {"result": None, "id": 1}
        assert client.message()["s"] == "BTCUSDT"
        assert client.ask("LIST_SUBSCRIPTIONS")["result"] == ["btcusdt@bookTicker", "nope@depth5"]
        assert client.ask("SET_PROPERTY", ["combined", True])["result"] is None
        assert client.message()["stream"] == "btcusdt@bookTicker"
        client.ask("UNSUBSCRIBE", ["btcusdt@bookTicker"])
        until(lambda: row.gateway.call(lambda parts: parts.hub.listener_count) == 1)


@pytest.mark.parametrize("path", ["/nowhere", "/public/ws/btcusdt@depth5", "/ws/x?timeUnit=microsecond"])
def test_what_is_no_stream_endpoint_is_refused(path: str):
    with served() as row, pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(row.gateway.websocket_base_uri + path, PATIENCE_S)
    assert caught.value.status_code in (400, 404)


def test_streams_of_a_lost_book_are_silent_and_push_says_why():
    with (
        served() as row,
        ClientOf(row, "/ws/btcusdt@depth5@100ms") as partial,
        ClientOf(row, "/ldc/ws") as push,
    ):
        push.socket.send('{"subscribe":["btcusdt"],"levels":3}')
        message = push.message()
        assert (message["market"], message["state"], len(message["bids"])) == ("BTCUSDT", "SYNCHRONIZED", 3)
        first = partial.message()
        row.exchange.inject("snapshot_503", count=100)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        lost = push.message(lambda message: message["state"] != "SYNCHRONIZED")
        assert (lost["state"], lost["cause"]) == ("OUT_OF_SYNC", "REQUESTED")
        assert "bids" not in lost
        partial.socket.settimeout(0.3)
        with pytest.raises(websocket.WebSocketTimeoutException):
            partial.text()
        row.exchange.clear_faults()
        row.exchange.resume("BTCUSDT")
        partial.socket.settimeout(PATIENCE_S)
        assert partial.message()["lastUpdateId"] > first["lastUpdateId"]
        push.message(lambda message: message["state"] == "SYNCHRONIZED")


def test_a_ticker_that_is_subscribed_during_an_outage_comes_with_the_return_of_the_book():
    """Also if the best prices are those of before: the market is paused."""
    with served() as row, ClientOf(row, "/ws/btcusdt@bookTicker") as early:
        before = early.message()
        row.exchange.inject("snapshot_503", count=100)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        until(lambda: not row.manager.is_depth_cache_synchronized("BTCUSDT"))
        with ClientOf(row, "/ws/btcusdt@bookTicker") as late:
            until(lambda: row.gateway.call(lambda parts: parts.hub.listener_count) == 2)
            row.exchange.clear_faults()
            after = late.message()
            assert [after[key] for key in "bBaA"] == [before[key] for key in "bBaA"]


def test_no_timer_runs_while_nothing_happens():
    """The updates of the book wake the gateway; it looks at no book by itself."""
    with served() as row, ClientOf(row, "/ws/btcusdt@depth5@100ms/btcusdt@bookTicker") as client:
        deepened(row)
        client.message()
        client.message()

        def timers() -> list[Any]:
            return row.gateway.call(lambda parts: [each._timer for each in parts.hub._channels.values()])

        until(lambda: timers() == [None, None])
        update_id = caught_up(row)
        assert client.message(lambda message: message.get("lastUpdateId", 0) >= update_id)


def test_a_market_that_is_stopped_says_so_and_goes_on_when_it_is_created_again():
    with served(markets=("BTCUSDT", "ETHUSDT")) as row, ClientOf(row, "/ldc/ws") as client:
        client.socket.send('{"subscribe":["BTCUSDT","ETHUSDT"],"levels":1}')
        assert {client.message()["market"] for _ in range(2)} == {"BTCUSDT", "ETHUSDT"}
        row.manager.stop_depth_cache("BTCUSDT")
        client.message(lambda message: (message["market"], message.get("cause")) == ("BTCUSDT", "STOPPED"))
        row.exchange.resume("BTCUSDT")
        row.manager.create_depth_cache("BTCUSDT")
        client.message(lambda message: (message["market"], message["state"]) == ("BTCUSDT", "SYNCHRONIZED"))


def test_events_are_states_of_the_true_book():
    with served() as row:
        url = f"{row.gateway.restful_base_uri}/ldc/events/btcusdt?levels=4"
        with requests.get(url, stream=True, timeout=PATIENCE_S) as reply:
            assert reply.headers["Content-Type"] == "text/event-stream"
            lines = (line for line in reply.iter_lines(chunk_size=1) if line.startswith(b"data: "))
            for _ in range(3):
                update_id = caught_up(row)
                message = json.loads(next(line for line in lines if b'"id":%d' % update_id in line)[6:])
                true_book = row.exchange.true_book("BTCUSDT", update_id, 4)
                assert (tuple(decimals(message["bids"])), tuple(decimals(message["asks"]))) == (
                    true_book.bids,
                    true_book.asks,
                )
        assert row.get("/ldc/events/NOPE").status_code == 400
        assert row.get("/ldc/events/BTCUSDT", levels="x").status_code == 400
        until(lambda: row.gateway.call(lambda parts: parts.hub.listener_count) == 0)


@pytest.mark.parametrize("text", [
    "{", "[]", "{}", '{"subscribe":"BTCUSDT"}', '{"subscribe":["B/C"]}', '{"subscribe":[5]}',
    '{"subscribe":[],"levels":0}', '{"subscribe":[],"levels":[]}', "[" * 5000, '{"unsubscribe":{"a":1}}',
    '{"subscribe":' + json.dumps([f"M{number}USDT" for number in range(201)]) + "}",
], ids=lambda text: text[:20])  # fmt: skip
def test_a_wrong_request_of_push_is_answered_and_harms_nobody(text: str):
    with served() as row, ClientOf(row, "/ldc/ws") as client:
        client.socket.send(text)
        assert "error" in client.message()
        client.socket.send('{"subscribe":["BTCUSDT"]}')
        assert client.message()["market"] == "BTCUSDT"


def test_too_many_and_too_long_messages_end_the_connection():
    with served() as row:
        with ClientOf(row, "/ldc/ws") as client:
            with contextlib.suppress(OSError):  # the gateway may have closed it before the last one
                for _ in range(8):
                    client.socket.ping()
            assert client.close_code() == 1008
        with ClientOf(row, "/ws") as client:
            client.socket.send("x" * 100_000)
            until(lambda: row.gateway.counts["message_bytes_max"] == 1)
        names = "/".join(f"m{number}@depth5" for number in range(VENUES["binance.com"].streams_per_connection + 1))
        with ClientOf(row, "/ws") as client:
            client.socket.send(json.dumps({"method": "SUBSCRIBE", "params": names.split("/"), "id": 1}))
            assert client.message()["error"]["code"] == 4
        assert row.gateway.counts["messages_per_second"] == 1


def test_a_client_that_never_reads_costs_its_limit_and_gets_the_newest_state_later():
    limits = GatewayLimits(conflated_bytes=50_000)
    settings = {"levels": 1200, "updates_per_second": 200.0}
    with served(exchange_settings=settings, limits=limits) as row:
        port = int(row.gateway.restful_base_uri.rpartition(":")[2])
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /ldc/events/BTCUSDT?levels=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        row.exchange.resume("BTCUSDT")

        def unsent() -> int:
            waits = row.gateway.call(
                lambda parts: [
                    connection._transport.get_write_buffer_size()
                    for connection in parts.connections.by_handler.values()
                    if connection._transport is not None
                ]
            )
            return max(waits, default=0)

        until(lambda: row.gateway.counts["conflated_bytes"] > 5)
        message_bytes = len(row.get("/api/v3/depth", symbol="BTCUSDT", limit=1000).content)
        assert unsent() <= limits.conflated_bytes + 2 * message_bytes
        row.exchange.pause("BTCUSDT")
        update_id = caught_up(row)
        received = b""
        slow.settimeout(PATIENCE_S)
        give_up_at = time.monotonic() + PATIENCE_S
        while b'"id":%d' % update_id not in received:
            received = received[-200:] + slow.recv(1 << 16)
            assert time.monotonic() < give_up_at
        slow.close()
