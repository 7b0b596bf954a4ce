"""What a script puts in the place of the embedded exchange reaches the client byte by byte, and the rest goes on."""

import asyncio
import socket
import threading

import pytest
import websocket
from loopback_exchange import PATIENCE_S
from simulator_kit import Client, get, simulated, stream_path

from ldc.simulator import Script, SimulatedExchange
from ldc.simulator.rest import Reply
from ldc.wire.streams import CLOSE, PING, TEXT

STREAM = stream_path("binance.com") + "?streams=btcusdt@depth@100ms"


def spoken(exchange: SimulatedExchange, request: str) -> tuple[bytes, bytes]:
    """Send a request; return the head of the answer, and all bytes behind it up to the end."""
    port = int(exchange.restful_base_uri.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client, client.makefile("rb") as reader:
        client.sendall(request.encode())
        head, _, rest = reader.read().partition(b"\r\n\r\n")
    return head, rest


def test_a_script_as_it_is_changes_nothing():
    with simulated(script=Script()) as exchange, Client(exchange, STREAM) as client:
        assert client.message()["stream"] == "btcusdt@depth@100ms"
        assert client.ask("LIST_SUBSCRIPTIONS")["result"] == ["btcusdt@depth@100ms"]
        assert get(exchange, "/api/v3/depth", symbol="BTCUSDT").json()["bids"]


@pytest.mark.parametrize(
    "data",
    [b"\xc1\x02{}", b"\x81\x7e\xff\xffxxx", b"\x83\x00", b"\x81\x7f" + b"\xff" * 8],
    ids=["reserved", "half", "opcode", "length"],
)
def test_bytes_that_no_server_sends_are_sent_as_they_are(data):
    class Raw(Script):
        def opened(self, connection):
            connection.send_raw(data)
            connection.end()

    with simulated(script=Raw(), updates_per_second=1.0) as exchange:
        head, rest = spoken(
            exchange,
            f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
    assert head.startswith(b"HTTP/1.1 101 ")
    assert rest == data


def test_an_answer_to_the_handshake_is_replaced_and_the_connection_ends():
    ended = threading.Event()

    class Refuses(Script):
        async def handshake(self, connection, request):
            return b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"

        def ended(self, connection):
            ended.set()

    with simulated(script=Refuses()) as exchange:
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            Client(exchange, STREAM)
        assert refused.value.status_code == 429
        assert refused.value.resp_headers["retry-after"] == "7"
        assert ended.wait(PATIENCE_S)
        assert exchange.statistics()["connections"] == 0


def test_a_handshake_may_be_left_without_an_answer_until_the_client_goes():
    ended = threading.Event()

    class Stalls(Script):
        async def handshake(self, connection, request):
            await connection.gone()
            return b""

        def ended(self, connection):
            ended.set()

    with simulated(script=Stalls()) as exchange:
        client = websocket.WebSocket()
        with pytest.raises(websocket.WebSocketTimeoutException):
            client.connect(exchange.websocket_base_uri + STREAM, timeout=0.05)
        client.shutdown()
        assert ended.wait(PATIENCE_S)


def test_frames_of_the_client_are_seen_and_may_be_left_unanswered():
    seen = []

    class Watches(Script):
        async def received(self, connection, opcode, payload):
            seen.append((opcode, payload))
            return opcode == PING

    with simulated(script=Watches()) as exchange, Client(exchange, stream_path("binance.com")) as client:
        client.socket.ping(b"x")
        client.socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        assert client.frame() == (TEXT, b'{"result":[],"id":1}')  # and no pong before it
        client.socket.send_close(4000, b"bye")
        assert client.close_code() == 4000
    assert [opcode for opcode, _ in seen] == [PING, TEXT, CLOSE]
    assert (seen[0][1], seen[2][1]) == (b"x", (4000).to_bytes(2, "big") + b"bye")


def test_an_answer_to_a_rest_request_is_replaced_and_its_weight_counts_all_the_same():
    class Answers(Script):
        async def rest(self, request, usual):
            await asyncio.sleep(0)
            return usual(Reply(503, b"busy")) if request.query.get("limit") == "5000" else usual(None)

    with simulated(script=Answers(), weight_per_minute=300) as exchange:
        busy = get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=5000)
        assert (busy.status_code, busy.content, busy.headers["x-mbx-used-weight-1m"]) == (503, b"busy", "250")
        assert get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=1000).headers["x-mbx-used-weight-1m"] == "300"
        assert get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=5000).status_code == 429


def test_a_body_may_be_shorter_than_announced_and_wait():
    release = asyncio.Event()

    class Cuts(Script):
        async def rest(self, request, usual):
            asyncio.get_running_loop().call_later(0.01, release.set)
            return Reply(200, b"{}", announced_bytes=10, hold=release.wait)

    with simulated(script=Cuts()) as exchange:
        head, body = spoken(exchange, "GET /api/v3/depth HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 10" in head
    assert body == b"{}"


def test_the_exchange_may_listen_no_longer_while_connections_go_on():
    with simulated() as exchange, Client(exchange, STREAM) as client:
        assert exchange._server.sockets_open == 1
        exchange._server.refuse_connections()
        with pytest.raises(ConnectionRefusedError):
            Client(exchange, STREAM)
        assert client.message()["data"]["e"] == "depthUpdate"
