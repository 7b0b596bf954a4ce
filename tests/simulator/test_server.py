"""The embedded exchange on the wire, tested with clients that are not ldc's."""

import json
import re
import threading
import time
from itertools import islice, pairwise

import pytest
import requests
import websocket
from aiohttp import web
from recordings import RECORDINGS, lines_of
from simulator_kit import MARKETS, Client, Fold, decimals, get, simulated, stream_path

from ldc.simulator import SimulatedExchange
from ldc.simulator.listing import DEFAULT_MARKETS
from ldc.venues import VENUES

API = {
    "binance.com": "/api/v3/",
    "binance.com-futures": "/fapi/v1/",
    "binance.com-coin_futures": "/dapi/v1/",
    "binance.com-vanilla-options": "/eapi/v1/",
}


def diff_url(venue: str, suffix: str = "@depth@100ms") -> str:
    return f"{stream_path(venue)}?streams={MARKETS[venue].lower()}{suffix}"


# ------------------------------------------------------------------------------------------------------ the true book


@pytest.mark.parametrize("venue", MARKETS)
def test_a_book_folded_from_what_is_sent_is_the_true_book(venue):
    market = MARKETS[venue]
    with simulated(venue, levels=300) as exchange, Client(exchange, diff_url(venue)) as client:
        first = client.message()["data"]
        fold = Fold(get(exchange, f"{API[venue]}depth", symbol=market, limit=1000).json())
        assert fold.update_id >= first["u"]
        assert len(fold.bids) > 200  # the whole side
        for _ in range(60):
            fold.apply(client.message()["data"])
            true_book = exchange.true_book(market, fold.update_id)
            assert (fold.bids, fold.asks) == (true_book.bids, true_book.asks)


@pytest.mark.parametrize("venue", MARKETS)
def test_book_tickers_are_those_of_the_book_at_their_id(venue):
    market = MARKETS[venue]
    with simulated(venue) as exchange, Client(exchange, diff_url(venue, "@bookTicker")) as client:
        for _ in range(30):
            ticker = client.message()["data"]
            true_book = exchange.true_book(market, ticker["u"], limit=1)
            assert true_book.bids == tuple(decimals([(ticker["b"], ticker["B"])]))
            assert true_book.asks == tuple(decimals([(ticker["a"], ticker["A"])]))


@pytest.mark.parametrize("venue", MARKETS)
def test_partial_depths_are_the_best_levels_at_their_id(venue):
    market = MARKETS[venue]
    with simulated(venue) as exchange, Client(exchange, diff_url(venue, "@depth5@100ms")) as client:
        for _ in range(20):
            data = client.message()["data"]
            update_id, bids, asks = (
                (data["lastUpdateId"], data["bids"], data["asks"])
                if "lastUpdateId" in data
                else (data["u"], data["b"], data["a"])
            )
            true_book = exchange.true_book(market, update_id, limit=5)
            assert (tuple(decimals(bids)), tuple(decimals(asks))) == (true_book.bids, true_book.asks)


@pytest.mark.parametrize(("venue", "suffix", "windows"), [
    ("binance.com", "@depth", 10), ("binance.com-futures", "@depth", 2), ("binance.com-futures", "@depth@500ms", 5),
    ("binance.com-coin_futures", "@depth@500ms", 5),
])  # fmt: skip
def test_a_slower_stream_sends_several_windows_in_one_message(venue, suffix, windows):
    market = MARKETS[venue]
    with simulated(venue, updates_per_second=10.0) as exchange, Client(exchange, diff_url(venue, suffix)) as client:
        exchange.pause(market)
        ticks = exchange.statistics()["ticks"]
        exchange.advance(market, 4 * windows)
        first = client.message()["data"]
        fold = Fold(get(exchange, f"{API[venue]}depth", symbol=market, limit=1000).json())
        assert client.message()["data"]["U"] > first["u"]
        exchange.advance(market, 3 * windows)
        seen = 0
        while fold.update_id != exchange.last_update_id(market) and seen < 3:
            event = client.message()["data"]
            assert (event["E"] - 1_700_000_000_000) % (windows * 100) == 0
            fold.apply(event)
            seen += event["u"] > fold.update_id - 1
            if event["u"] == fold.update_id:
                true_book = exchange.true_book(market, fold.update_id)
                assert (fold.bids, fold.asks) == (true_book.bids, true_book.asks)
        assert seen >= 2
        assert exchange.statistics()["ticks"] - ticks >= 7 * windows


# ------------------------------------------------------------------------------------------------------ the wire format


def shape(value):
    """Keys in their order with the types of their values; prices and quantities with their decimals."""
    if isinstance(value, dict):
        return [(key, shape(each)) for key, each in value.items()]
    if isinstance(value, list):
        return sorted({str(shape(each)) for each in value})[:1]
    return type(value).__name__


@pytest.mark.parametrize(("venue", "recording", "later"), [
    ("binance.com", "spot_btcusdt", ()),
    ("binance.com-futures", "usdm_ethusdt", ("ps", "st")),
    ("binance.com-coin_futures", "cm_ethusd_perp", ("st",)),
])  # fmt: skip
def test_messages_have_the_shape_of_recorded_ones(venue, recording, later, captures):
    """`later` has the keys that are newer than the recordings; they are last."""
    market, recorded, heard = MARKETS[venue], {}, {}
    for _, message in islice(lines_of(captures / RECORDINGS[recording].files[0], market), 2000):
        value = json.loads(message.payload)
        if message.kind != "depthUpdate" or (value["data"]["b"] and value["data"]["a"]):
            recorded.setdefault(message.kind, value)
    streams = f"{market.lower()}@depth@100ms/{market.lower()}@bookTicker"
    with simulated(venue) as exchange, Client(exchange, f"{stream_path(venue)}?streams={streams}") as client:
        heard["snapshot"] = json.loads(get(exchange, f"{API[venue]}depth", symbol=market, limit=100).text)
        heard["depthUpdate"] = client.message(
            lambda message: message["data"].get("U") and message["data"]["b"] and message["data"]["a"]
        )
        heard["bookTicker"] = client.message(lambda message: "B" in message["data"])
    for kind, message in heard.items():
        if "data" in message:
            assert not later or list(message["data"])[-len(later) :] == list(later)
            message["data"] = {key: each for key, each in message["data"].items() if key not in later}
        assert set(recorded) == {"snapshot", "depthUpdate", "bookTicker"}
        assert shape(message) == shape(recorded[kind]), kind


def test_the_texts_are_those_of_the_documentation():
    """Byte for byte, with the decimals of each family."""
    heard = {}
    for venue, market in MARKETS.items():
        with simulated(venue, seed=5) as exchange:
            exchange.pause(market)
            with Client(exchange, diff_url(venue)) as client:
                exchange.advance(market, 1)
                heard[venue] = client.text()
    number, time_ms = r"[0-9]+", "17000000[0-9]{5}"
    spot, usd_m, coin_m, option = (
        rf'(\["{price}","{quantity}"\],?)*'
        for price, quantity in (
            (r"[0-9]+\.[0-9]{8}", r"[0-9]+\.[0-9]{8}"),
            (r"[0-9]+\.[0-9]{2}", r"[0-9]+\.[0-9]{3}"),
            (r"[0-9]+\.[0-9]", "[0-9]+"),
            (r"[0-9]+\.[0-9]", r"[0-9]+\.[0-9]{2}"),
        )
    )
    texts = {
        "binance.com": rf'{{"stream":"btcusdt@depth@100ms","data":{{"e":"depthUpdate","E":{time_ms},"s":"BTCUSDT",'
        rf'"U":{number},"u":{number},"b":\[{spot}\],"a":\[{spot}\]}}}}',
        "binance.com-futures": rf'{{"stream":"btcusdt@depth@100ms","data":{{"e":"depthUpdate","E":{time_ms},'
        rf'"T":{time_ms},"s":"BTCUSDT","U":{number},"u":{number},"pu":{number},"b":\[{usd_m}\],"a":\[{usd_m}\],'
        rf'"ps":"BTCUSDT","st":1}}}}',
        "binance.com-coin_futures": rf'{{"stream":"btcusd_perp@depth@100ms","data":{{"e":"depthUpdate","E":{time_ms},'
        rf'"T":{time_ms},"s":"BTCUSD_PERP","ps":"BTCUSD","U":{number},"u":{number},"pu":{number},'
        rf'"b":\[{coin_m}\],"a":\[{coin_m}\],"st":2}}}}',
        "binance.com-vanilla-options": rf'{{"stream":"btc-261225-60000-c@depth@100ms","data":{{"e":"depthUpdate",'
        rf'"E":{time_ms},"T":{time_ms},"s":"BTC-261225-60000-C","U":{number},"u":{number},"pu":{number},'
        rf'"b":\[{option}\],"a":\[{option}\]}}}}',
    }
    for venue, text in texts.items():
        assert re.fullmatch(text, heard[venue]), (heard[venue], text)


def test_sides_of_an_update_are_best_first_on_spot_and_ascending_on_futures():
    for venue, is_descending in (("binance.com", True), ("binance.com-futures", False)):
        with simulated(venue) as exchange, Client(exchange, diff_url(venue)) as client:
            event = client.message(lambda message: len(message["data"]["b"]) > 2 and len(message["data"]["a"]) > 2)
            bids, asks = ([price for price, _ in decimals(event["data"][side])] for side in "ba")
            assert bids == sorted(bids, reverse=is_descending)
            assert asks == sorted(asks)


def test_event_times_are_in_microseconds_on_request():
    with simulated() as exchange, Client(exchange, diff_url("binance.com") + "&timeUnit=MICROSECOND") as client:
        assert 1_700_000_000_000_000 <= client.message()["data"]["E"] < 1_700_001_000_000_000


# --------------------------------------------------------------------------------------------------------------- REST


@pytest.mark.parametrize("venue", MARKETS)
def test_rest_answers_on_the_paths_of_the_family(venue):
    with simulated(venue) as exchange:
        api = API[venue]
        assert get(exchange, f"{api}ping").json() == {}
        assert abs(get(exchange, f"{api}time").json()["serverTime"] / 1000 - time.time()) < 60
        information = get(exchange, f"{api}exchangeInfo").json()
        [symbol] = information.get("optionSymbols") or information["symbols"]
        assert symbol["symbol"] == MARKETS[venue]
        assert symbol.get("status", symbol.get("contractStatus")) == "TRADING"
        assert {each["filterType"] for each in symbol["filters"]} == {"PRICE_FILTER", "LOT_SIZE"}
        assert information["rateLimits"][0]["limit"] == VENUES[venue].weight_per_minute
        reply = get(exchange, f"{api}depth", symbol=MARKETS[venue], limit=10)
        assert reply.headers["Content-Type"] == "application/json;charset=UTF-8"
        assert len(reply.json()["bids"]) == len(reply.json()["asks"]) == 10
        assert get(exchange, "/api/v1/depth", symbol="BTCUSDT").status_code == 404
        assert requests.post(exchange.restful_base_uri + f"{api}depth", timeout=10).status_code == 405


@pytest.mark.parametrize(("venue", "query", "status", "code"), [
    ("binance.com", {}, 400, -1102),
    ("binance.com", {"symbol": "btcusdt"}, 400, -1100),
    ("binance.com", {"symbol": "BTC/USDT"}, 400, -1100),
    ("binance.com", {"symbol": "NOSUCHUSDT"}, 400, -1121),
    ("binance.com", {"symbol": "BTCUSDT", "limit": "many"}, 400, -1100),
    ("binance.com", {"symbol": "BTCUSDT", "limit": "0"}, 400, -1130),
    ("binance.com", {"symbol": "BTCUSDT", "symbolStatus": "BREAK"}, 400, -1220),
    ("binance.com-futures", {"symbol": "BTCUSDT", "limit": "7"}, 400, -4021),
    ("binance.com-futures", {"symbol": "NOSUCH"}, 400, -1121),
])  # fmt: skip
def test_a_wrong_question_gets_the_exchange_s_error(venue, query, status, code):
    with simulated(venue) as exchange:
        reply = get(exchange, f"{API[venue]}depth", **query)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.json()["msg"]


def test_spot_serves_any_limit_and_cuts_it_to_5000():
    with simulated(levels=5200) as exchange:
        for limit, levels in ((1, 1), (77, 77), (5000, 5000), (6000, 5000)):
            assert len(get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=limit).json()["bids"]) == levels
        assert len(get(exchange, "/api/v3/depth", symbol="BTCUSDT").json()["bids"]) == 100


@pytest.mark.parametrize(("venue", "limits"), [
    ("binance.com", {5: 5, 100: 5, 101: 25, 500: 25, 501: 50, 1000: 50, 1001: 250, 5000: 250}),
    ("binance.com-futures", {5: 2, 50: 2, 100: 5, 500: 10, 1000: 20}),
    ("binance.us", {100: 1, 500: 5, 1000: 10, 5000: 50}),
])  # fmt: skip
def test_weights_are_counted_and_reported(venue, limits):
    with SimulatedExchange(["BTCUSDT"], venue=venue, levels=20, weight_per_minute=100_000) as exchange:
        used = 0
        for limit, weight in limits.items():
            path = VENUES[venue].depth_path
            headers = get(exchange, path, symbol="BTCUSDT", limit=limit).headers
            before, used = used, int(headers["X-MBX-USED-WEIGHT-1M"])
            assert used in (before + weight, weight), limit  # a new minute may have begun
            assert ("X-MBX-USED-WEIGHT" in headers) is (venue != "binance.com-futures")
        assert exchange.statistics()["weight_used"] == sum(limits.values())


def test_too_much_weight_is_refused_and_an_address_that_continues_is_banned():
    with simulated(weight_per_minute=100, ban_s=0.05) as exchange:
        statuses, replies = [], {}
        for _ in range(30):  # they may fall in two minutes
            reply = get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=1000)
            statuses.append(reply.status_code)
            replies.setdefault(reply.status_code, reply)
            if reply.status_code == 418:
                break
        assert statuses[:2] == [200, 200]
        assert set(statuses) == {200, 429, 418}
        assert 1 <= int(replies[429].headers["Retry-After"]) <= 60
        assert replies[429].json()["code"] == -1003
        assert replies[418].headers["Retry-After"] == "1"
        assert "IP banned until" in replies[418].json()["msg"]
        assert exchange.statistics()["status_418"] == 1


def test_markets_can_be_added_and_are_made_on_demand_if_enabled():
    with simulated() as exchange:
        assert exchange.markets == ("BTCUSDT",)
        exchange.add_market("ETHUSDT")
        assert exchange.markets == ("BTCUSDT", "ETHUSDT")
        assert get(exchange, "/api/v3/depth", symbol="ETHUSDT").status_code == 200
        with pytest.raises(ValueError, match="BTCUSDT"):
            exchange.add_market("ETH/USDT")
        with pytest.raises(ValueError, match="BTCUSDT, ETHUSDT"):
            exchange.last_update_id("LTCUSDT")
    with simulated(on_demand=True) as exchange:
        assert set(exchange.markets) == {*DEFAULT_MARKETS["spot"]}
        assert get(exchange, "/api/v3/depth", symbol="FOOUSDT").status_code == 200
        assert "FOOUSDT" in exchange.markets
        assert get(exchange, "/api/v3/depth", symbol="NOSUCHMARKET").json()["code"] == -1121


# --------------------------------------------------------------------------------------------------------- websockets


@pytest.mark.parametrize(("venue", "path"), [
    ("binance.com", "/ws/btcusdt@depth@100ms"),
    ("binance.com", "/ws/ethusdt@depth/btcusdt@depth@100ms"),
    ("binance.com-futures", "/public/ws/btcusdt@depth@100ms"),
    ("binance.com-futures", "/ws/btcusdt@depth@100ms"),
])  # fmt: skip
def test_a_raw_connection_has_no_wrapper(venue, path):
    with simulated(venue) as exchange, Client(exchange, path) as client:
        assert client.message()["s"] == "BTCUSDT"


@pytest.mark.parametrize(("venue", "path"), [
    ("binance.com", "/"), ("binance.com", "/public/stream"), ("binance.com-coin_futures", "/public/stream"),
    ("binance.com-vanilla-options", "/stream"), ("binance.com-futures", "/market/stream"),
])  # fmt: skip
def test_another_endpoint_is_not_there(venue, path):
    with simulated(venue) as exchange, pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        Client(exchange, path)


def test_requests_are_answered_as_documented():
    with simulated() as exchange, Client(exchange, "/ws") as client:
        exchange.pause("BTCUSDT")
        assert client.ask("SUBSCRIBE", ["btcusdt@depth@100ms", "nosuch@depth"], 7) == {"result": None, "id": 7}
        assert client.ask("LIST_SUBSCRIPTIONS", None, "x") == {
            "result": ["btcusdt@depth@100ms", "nosuch@depth"], "id": "x"
        }  # fmt: skip
        exchange.advance("BTCUSDT")
        assert client.message()["s"] == "BTCUSDT"
        assert client.ask("SET_PROPERTY", ["combined", True]) == {"result": None, "id": 1}
        assert client.ask("GET_PROPERTY", ["combined"]) == {"result": True, "id": 1}
    with simulated() as exchange, Client(exchange, "/stream") as client:
        exchange.pause("BTCUSDT")
        client.ask("SUBSCRIBE", ["btcusdt@depth@100ms"])
        exchange.advance("BTCUSDT")
        assert client.message()["stream"] == "btcusdt@depth@100ms"
        assert client.ask("UNSUBSCRIBE", ["btcusdt@depth@100ms"]) == {"result": None, "id": 1}
        sent = exchange.statistics()["frames_sent"]
        exchange.advance("BTCUSDT", 3)
        assert exchange.statistics()["frames_sent"] == sent


@pytest.mark.parametrize(("text", "code"), [
    ("{", 3),
    ("[1]", 2),
    ('{"method":"SUBSCRIBE","params":"btcusdt@depth","id":1}', 2),
    ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2),
    ('{"method":"JUMP","params":[],"id":1}', 2),
    ('{"method":"LIST_SUBSCRIPTIONS","id":1.5}', 2),
    ('{"method":"SET_PROPERTY","params":["loud",true],"id":1}', 0),
    ('{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}', 1),
])  # fmt: skip
def test_a_wrong_request_gets_the_documented_error(text, code):
    with simulated() as exchange, Client(exchange, "/ws") as client:
        answer = client.ask_text(text)
        assert answer["code"] == code
        assert answer["msg"]


def test_the_sixth_message_in_a_second_ends_the_connection():
    with simulated() as exchange, Client(exchange, "/ws") as client:
        for _ in range(3):
            client.socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        client.socket.ping("a")
        client.socket.pong("")
        client.socket.ping("b")
        assert client.close_code() == 1008


def test_there_is_a_limit_to_the_streams_of_a_connection():
    names = [f"m{number}usdt@depth" for number in range(201)]
    with simulated("binance.com-futures") as exchange, Client(exchange, "/public/ws") as client:
        assert client.ask("SUBSCRIBE", names[:150])["result"] is None
        answer = client.ask("SUBSCRIBE", names[150:], 19)
        assert answer == {"error": {"code": 4, "msg": "Too many subscriptions"}, "id": 19}
        assert client.ask("SUBSCRIBE", names[150:200])["result"] is None


def test_a_url_with_too_many_streams_is_closed():
    names = "/".join(f"m{number}usdt@depth" for number in range(201))
    with simulated("binance.com-futures") as exchange, Client(exchange, f"/public/stream?streams={names}") as client:
        assert client.close_code() == 1008


@pytest.mark.check
def test_the_connection_of_a_client_that_does_not_read_is_aborted(monkeypatch):
    monkeypatch.setattr("ldc.simulator.connection.UNSENT_BYTES_MAX", 1 << 16)
    with simulated(levels=5000) as exchange, Client(exchange, diff_url("binance.com")) as client:
        exchange.pause("BTCUSDT")
        advanced = 0
        while exchange.statistics()["connections"] and advanced < 200_000:
            exchange.advance("BTCUSDT", 1000)
            advanced += 1000
        assert exchange.statistics()["connections"] == 0
        assert not isinstance(client.until_end()[1], websocket.WebSocketTimeoutException)


@pytest.mark.parametrize(("venue", "answer", "is_kept"), [
    ("binance.com", None, True),
    ("binance.com", "something else", False),
    ("binance.com-futures", "something else", True),
])  # fmt: skip
def test_pings_carry_a_payload_and_on_spot_only_its_copy_keeps_a_connection(venue, answer, is_kept):
    path = stream_path(venue).replace("stream", "ws")
    with simulated(venue, ping_interval_s=0.4, pong_timeout_s=1.5) as exchange, Client(exchange, path) as client:
        pong = client.socket.pong  # this client answers pings itself, with a copy of the payload
        client.socket.pong = lambda payload: pong(answer or payload)
        if is_kept:
            for _ in range(5):  # takes longer than the timeout
                opcode, payload = client.frame()
                assert opcode == websocket.ABNF.OPCODE_PING
                assert payload.isdigit()
        else:
            assert not isinstance(client.until_end()[1], websocket.WebSocketTimeoutException)


def test_a_ping_that_is_not_answered_ends_a_connection():
    with simulated(ping_interval_s=0.1, pong_timeout_s=0.2) as exchange, Client(exchange, "/ws") as client:
        client.socket.pong = lambda payload: None
        assert not isinstance(client.until_end()[1], websocket.WebSocketTimeoutException)


def test_a_ping_is_answered_with_its_payload():
    with simulated() as exchange, Client(exchange, "/ws") as client:
        client.socket.ping("hello")
        assert client.frame() == (websocket.ABNF.OPCODE_PONG, b"hello")


def test_a_connection_ends_when_its_time_is_over():
    with simulated(connection_lifetime_s=0.2) as exchange, Client(exchange, "/ws/btcusdt@depth@100ms") as client:
        assert client.close_code() == 1001


def test_a_close_is_answered():
    with simulated() as exchange, Client(exchange, "/ws") as client:
        client.socket.send_close(1000, b"bye")
        assert client.close_code() == 1000


def test_connection_attempts_are_limited():
    with simulated() as exchange:
        for _ in range(VENUES["binance.com"].connects_per_5_minutes):
            with Client(exchange, "/ws"):
                pass
        with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
            Client(exchange, "/ws")


def test_latency_delays_everything_and_keeps_the_order():
    with simulated(latency_ms=50, updates_per_second=100.0) as exchange:
        began = time.monotonic()
        get(exchange, "/api/v3/ping")
        assert time.monotonic() - began >= 0.05
        with Client(exchange, diff_url("binance.com")) as client:
            events = [client.message()["data"] for _ in range(20)]
            assert all(b["U"] == a["u"] + 1 for a, b in pairwise(events))


# --------------------------------------------------------------------------------------------------------- life


def test_a_paused_market_does_not_trade():
    with simulated() as exchange:
        exchange.pause("BTCUSDT")
        before = exchange.last_update_id("BTCUSDT")
        assert exchange.advance("BTCUSDT", 0) == before
        assert exchange.advance("BTCUSDT", 2) > before
        with Client(exchange, diff_url("binance.com")) as client:
            exchange.resume("BTCUSDT")
            assert client.message()["data"]["u"] > before


def test_stopping_leaves_nothing_behind_and_is_idempotent():
    exchange = SimulatedExchange(["BTCUSDT"])
    exchange.stop()
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = exchange.restful_base_uri
    exchange.start()
    exchange.start()
    client = Client(exchange, "/ws/btcusdt@depth@100ms")
    client.message()
    exchange.stop()
    exchange.stop()
    assert not isinstance(client.until_end()[1], websocket.WebSocketTimeoutException)
    client.socket.shutdown()
    assert not [thread for thread in threading.enumerate() if thread.name == "ldc-simulator"]
    with exchange:
        assert get(exchange, "/api/v3/ping").status_code == 200


def test_a_port_that_is_taken_is_an_error_at_the_start():
    with simulated() as exchange:
        port = int(exchange.restful_base_uri.rpartition(":")[2])
        with pytest.raises(OSError, match="address"):
            SimulatedExchange(["BTCUSDT"], port=port).start()


def test_two_exchanges_of_a_process_never_have_the_same_port(monkeypatch):
    """A client remembers a ban by address, so the next exchange must have another one."""
    with simulated() as exchange:
        had = exchange.restful_base_uri
    port = int(had.rsplit(":", 1)[1])
    given = iter([port])

    class Site(web.TCPSite):
        """The system returns the port that was just closed, as it sometimes does."""

        def __init__(self, runner, host, port, **settings):
            super().__init__(runner, host, next(given, 0) if port == 0 else port, **settings)

    monkeypatch.setattr("ldc.simulator.server.web.TCPSite", Site)
    with simulated() as exchange:
        assert list(given) == []  # the system returned it
        assert exchange.restful_base_uri != had
        assert get(exchange, "/api/v3/time").ok
        with pytest.raises(requests.ConnectionError):
            requests.get(had, timeout=1)
    with simulated(port=port) as exchange:  # but an explicit request for it succeeds
        assert exchange.restful_base_uri == had


@pytest.mark.parametrize("updates", [0, -1, 1001])
def test_a_speed_out_of_range_is_refused(updates):
    with pytest.raises(ValueError, match="1000"):
        SimulatedExchange(["BTCUSDT"], updates_per_second=updates)
