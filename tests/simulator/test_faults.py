"""Faults by name: their spelling, and what a client sees of each."""

import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
import requests
import websocket
from simulator_kit import Client, Fold, get, simulated

from ldc.simulator import FAULTS, Fault, parse_fault
from ldc.simulator.faults import PendingFaults, Place, kind_of
from ldc.simulator.limits import REFUSALS_BEFORE_BAN, RequestWeight, RollingCount

URL = "/stream?streams=btcusdt@depth@100ms"


# ----------------------------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop", Fault(name="drop")),
        ("drop:0.01", Fault(name="drop", count=None, probability=0.01)),
        ("drop*3", Fault(name="drop", count=3)),
        ("reset@btcusdt", Fault(name="reset", market="BTCUSDT")),
        ("halt@BTCUSD_PERP~5", Fault(name="halt", market="BTCUSD_PERP", duration_s=5.0)),
        ("snapshot_slow@BTCUSDT*2~0.5", Fault(name="snapshot_slow", market="BTCUSDT", count=2, duration_s=0.5)),
        ("close_1008:1", Fault(name="close_1008", count=None, probability=1.0)),
    ],
)
def test_a_fault_is_written_in_one_word(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dorp", "drop, duplicate"),
        ("drop:2", "at most 1"),
        ("drop:0", "above 0"),
        ("drop*0", "0 times"),
        ("drop:1.2.3", "number"),
        ("drop 3", "is no fault"),
        ("", "is no fault"),
        ("drop~3", "no duration"),
        ("slow_handshake@BTCUSDT", "cannot be limited"),
    ],
)
def test_a_wrong_fault_is_refused_with_the_valid_form(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_fault(text)


def test_every_name_has_a_place_and_a_sentence():
    assert {kind_of(name).place for name in FAULTS} == set(Place)
    assert all(len(text) > 20 for text in FAULTS.values())


def test_the_table_in_the_documentation_is_the_one_in_the_code():
    text = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    rows = [
        f"| `{name}` | {kind.place} | {kind.text}{f' ({kind.duration_s:g} s)' if kind.duration_s else ''} |"
        for name, kind in ((name, kind_of(name)) for name in FAULTS)
    ]
    head = "| fault | where | what a client sees |\n| --- | --- | --- |\n"
    assert head + "\n".join(rows) + "\n\n" in text


def test_a_fault_that_no_market_has_is_refused():
    with simulated() as exchange:
        with pytest.raises(ValueError, match="BTCUSDT"):
            exchange.inject("drop", market="NOSUCHUSDT")
        with pytest.raises(ValueError, match="duplicate"):
            exchange.inject("dorp")


def test_random_faults_are_seeded_and_fire_about_as_often_as_they_should():
    def fired(seed):
        pending = PendingFaults(seed)
        pending.add(Fault(name="drop", count=None, probability=0.1))
        return [pending.take(Place.UPDATE, "BTCUSDT") is not None for _ in range(2000)]

    assert fired(1) == fired(1) != fired(2)
    assert 140 <= sum(fired(1)) <= 260


def test_a_fault_fires_as_often_as_requested_and_only_at_its_place():
    pending = PendingFaults(1)
    pending.add(Fault(name="drop", market="BTCUSDT", count=2))
    assert pending.take(Place.UPDATE, "ETHUSDT") is None
    assert pending.take(Place.CONNECTION, "BTCUSDT") is None
    assert pending.take(Place.UPDATE, "BTCUSDT").name == "drop"
    assert pending.take(Place.UPDATE, "BTCUSDT").count == 1
    assert pending.take(Place.UPDATE, "BTCUSDT") is None
    assert pending.fired == {"drop": 2}
    assert pending.places == frozenset()
    pending.add(Fault(name="drop"))
    pending.clear()
    assert pending.take(Place.UPDATE, "BTCUSDT") is None


# --------------------------------------------------------------------------------------------------- the rate limits


def test_weight_is_counted_in_minutes_of_the_clock():
    weight = RequestWeight(100, ban_s=120)
    assert weight.charge(60, 59.0) == (200, 60, 0, 0.0)
    assert weight.charge(60, 59.5).status == 429
    assert weight.charge(60, 59.5).retry_after_s == 1
    assert weight.charge(60, 60.0) == (200, 60, 0, 0.0)


def test_an_address_that_continues_is_banned_and_each_ban_is_longer():
    weight = RequestWeight(100, ban_s=120)
    answers = [weight.charge(101, 0.5) for _ in range(REFUSALS_BEFORE_BAN)]
    assert [answer.status for answer in answers] == [429] * (REFUSALS_BEFORE_BAN - 1) + [418]
    assert answers[-1].retry_after_s == 121
    assert weight.charge(1, 120.0).status == 418
    assert weight.charge(1, 120.6).status == 200
    again = [weight.charge(101, 121.0) for _ in range(REFUSALS_BEFORE_BAN)][-1]
    assert (again.status, again.retry_after_s) == (418, 241)


def test_a_rolling_count_has_no_minutes():
    count = RollingCount(2, 1.0)
    assert [count.admits(now) for now in (0.0, 0.9, 0.95, 1.0, 1.96, 2.1)] == [True, True, False, False, True, True]


# ------------------------------------------------------------------------------------------------------- on the wire


def updates_after(exchange, client, fault, count=4, **parameters):
    """Inject a fault of an update; return the messages that are sent for `count` updates."""
    exchange.pause("BTCUSDT")
    exchange.advance("BTCUSDT")
    client.message()  # so that an update precedes the faulty one
    read_to_the_end(exchange, client)
    exchange.inject(fault, market="BTCUSDT", **parameters)
    exchange.advance("BTCUSDT", count)
    exchange.inject("eof")
    return [payload.decode() for _, payload in client.until_end()[0]]


def read_to_the_end(exchange, client):
    """Read until an update that ends at the market's update id."""
    last = exchange.advance("BTCUSDT")
    client.message(lambda message: message["data"]["u"] == last)


def ids(texts):
    return [(json.loads(text)["data"]["U"], json.loads(text)["data"]["u"]) for text in texts]


@pytest.mark.parametrize("fault", [name for name in FAULTS if kind_of(name).place is Place.UPDATE])
def test_a_fault_of_an_update_is_seen_on_the_wire(fault):
    with simulated() as exchange, Client(exchange, URL) as client:
        texts = updates_after(exchange, client, fault)
        assert exchange.statistics()["faults"][fault] == 1
        if fault in ("corrupt", "truncate", "trailing"):
            with pytest.raises(ValueError, match="."):
                json.loads(texts[0])
            assert [second[0] for second in ids(texts[2:])] == [first[1] + 1 for first in ids(texts[1:-1])]
            assert len(texts) == 4
            return
        told = ids(texts)
        starts_right = [after[0] == before[1] + 1 for before, after in pairwise(told)]
        if fault == "drop":
            assert (len(told), all(starts_right)) == (3, True)
        elif fault == "duplicate":
            assert told[0] == told[1]
            assert starts_right == [False, True, True, True]
        elif fault == "reorder":
            assert sorted(told) == [told[1], told[0], *told[2:]]
        elif fault == "overlap":
            assert all(starts_right)
        elif fault == "wrong_symbol":
            assert json.loads(texts[0])["data"]["s"] == "OTHERBTCUSDT"


def test_an_overlap_repeats_the_previous_update():
    with simulated() as exchange:
        exchange.pause("BTCUSDT")  # before the subscription, so that only `advance` sends updates
        with Client(exchange, URL) as client:
            exchange.advance("BTCUSDT")
            first = client.message()["data"]
            exchange.inject("overlap")
            exchange.advance("BTCUSDT")
            second = client.message()["data"]
    assert first["U"] == second["U"] < first["u"] < second["u"]
    assert {price for price, _ in first["b"]} <= {price for price, _ in second["b"]}


@pytest.mark.parametrize(("fault", "code"), [
    ("close_1000", 1000), ("close_1001", 1001), ("close_1008", 1008), ("close_1011", 1011),
])  # fmt: skip
def test_a_close_code_is_sent(fault, code):
    with simulated() as exchange, Client(exchange, URL) as client:
        client.message()
        exchange.inject(fault, market="BTCUSDT")
        assert client.close_code() == code


@pytest.mark.parametrize("fault", ["reset", "eof"])
def test_a_connection_ends_without_a_close_frame(fault):
    with simulated() as exchange, Client(exchange, URL) as client:
        client.message()
        exchange.inject(fault)
        expected = ConnectionResetError if fault == "reset" else websocket.WebSocketConnectionClosedException
        frames, end = client.until_end()
        assert {opcode for opcode, _ in frames} <= {websocket.ABNF.OPCODE_TEXT}
        assert isinstance(end, expected)


@pytest.mark.parametrize("fault", ["half_open", "stall", "no_pong"])
def test_a_frozen_connection_stays_open(fault):
    with simulated() as exchange, Client(exchange, URL) as client:
        client.message()
        exchange.inject(fault)
        exchange.advance("BTCUSDT", 2)
        client.socket.ping("x")
        if fault == "no_pong":
            assert {client.frame()[0] for _ in range(20)} == {websocket.ABNF.OPCODE_TEXT}
            return
        client.socket.settimeout(0.3)
        frames, end = client.until_end()
        assert {opcode for opcode, _ in frames} <= {websocket.ABNF.OPCODE_TEXT}
        assert isinstance(end, websocket.WebSocketTimeoutException)
        if fault == "stall":
            assert client.socket.frame_buffer.header is not None  # the rest of a frame is missing
        assert exchange.statistics()["connections"] == 1


def test_a_frozen_connection_is_aborted_in_the_end():
    with simulated() as exchange, Client(exchange, URL) as client:
        exchange.inject("half_open", duration_s=0.1)
        assert not isinstance(client.until_end()[1], websocket.WebSocketTimeoutException)


@pytest.mark.parametrize("path", [URL, "/ws/btcusdt@depth@100ms"])
def test_a_shutdown_is_announced_and_happens(path):
    with simulated() as exchange, Client(exchange, path) as client:
        client.message()
        exchange.inject("server_shutdown", duration_s=0.1)
        message = client.message(lambda message: "shutdown" in json.dumps(message).lower())
        assert list(message) == (["stream", "data"] if path == URL else ["e", "E"])
        assert message.get("data", message)["e"] == "serverShutdown"
        assert message.get("stream", "!serverShutdown") == "!serverShutdown"
        assert client.close_code() == 1001


def test_a_handshake_is_slow_or_refused():
    with simulated() as exchange:
        exchange.inject("refused_handshake")
        with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
            Client(exchange, URL)
        exchange.inject("slow_handshake", duration_s=0.2)
        began = time.monotonic()
        with Client(exchange, URL):
            assert time.monotonic() - began >= 0.2


def test_a_subscription_is_not_acknowledged_or_refused():
    with simulated() as exchange, Client(exchange, "/ws") as client:
        exchange.inject("no_acknowledgement")
        client.socket.send('{"method":"SUBSCRIBE","params":["btcusdt@depth@100ms"],"id":1}')
        assert client.ask("LIST_SUBSCRIPTIONS", identity=2) == {"result": [], "id": 2}
        exchange.inject("refused_subscription")
        assert client.ask("SUBSCRIBE", ["btcusdt@depth@100ms"], 3)["code"] == 2
        assert client.ask("SUBSCRIBE", ["btcusdt@depth@100ms"], 4) == {"result": None, "id": 4}


def test_a_silent_market_trades_and_pongs():
    with simulated(markets=("BTCUSDT", "ETHUSDT")) as exchange, Client(exchange, URL) as client:
        client.message()
        exchange.pause("BTCUSDT")
        exchange.inject("silent", market="BTCUSDT", duration_s=60)
        before = exchange.advance("BTCUSDT")
        exchange.advance("BTCUSDT", 5)
        client.socket.ping("x")
        frames = []
        while not frames or frames[-1][0] != websocket.ABNF.OPCODE_PONG:
            frames.append(client.frame())
        assert all(json.loads(payload)["data"]["u"] < before for opcode, payload in frames[:-1])
        assert get(exchange, "/api/v3/depth", symbol="BTCUSDT").json()["lastUpdateId"] > before


def test_a_halted_market_stops_trading_and_has_the_status_halt():
    with simulated() as exchange:
        exchange.inject("halt", market="BTCUSDT", duration_s=60)
        with pytest.raises(RuntimeError, match="halted"):
            exchange.advance("BTCUSDT")
        [symbol] = get(exchange, "/api/v3/exchangeInfo").json()["symbols"]
        assert symbol["status"] == "HALT"
        first = get(exchange, "/api/v3/depth", symbol="BTCUSDT").json()
        assert get(exchange, "/api/v3/depth", symbol="BTCUSDT").json() == first
        refused = get(exchange, "/api/v3/depth", symbol="BTCUSDT", symbolStatus="TRADING")
        assert refused.json()["code"] == -1220


def test_ids_restart():
    with simulated() as exchange, Client(exchange, URL) as client:
        exchange.pause("BTCUSDT")
        before = exchange.advance("BTCUSDT")
        exchange.inject("id_reset")
        exchange.advance("BTCUSDT")
        after = client.message(lambda message: message["data"]["u"] < before / 2)["data"]
        assert 100_000_000 <= after["U"] < 200_000_000 < before
        fold = Fold(get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=5000).json())
        assert fold.update_id == after["u"]
        last = exchange.advance("BTCUSDT", 10)
        while fold.update_id < last:
            fold.apply(client.message()["data"])
        true_book = exchange.true_book("BTCUSDT", fold.update_id)
        assert (fold.bids, fold.asks) == (true_book.bids, true_book.asks)


# --------------------------------------------------------------------------------------------------------- snapshots


def depth(exchange, limit=100):
    return get(exchange, "/api/v3/depth", symbol="BTCUSDT", limit=limit)


@pytest.mark.parametrize(("fault", "status"), [
    ("snapshot_html", 200), ("snapshot_500", 500), ("snapshot_503", 503), ("snapshot_403", 403), ("snapshot_429", 429),
    ("snapshot_truncated", 200),
])  # fmt: skip
def test_an_answer_that_is_no_snapshot(fault, status):
    with simulated() as exchange:
        exchange.inject(fault, market="BTCUSDT")
        reply = depth(exchange)
        assert reply.status_code == status
        assert ("Retry-After" in reply.headers) is (status == 429)
        assert "x-mbx-used-weight-1m" in reply.headers
        if fault not in ("snapshot_500", "snapshot_429"):
            with pytest.raises(ValueError, match="."):
                reply.json()
        assert len(depth(exchange).json()["bids"]) == 100


@pytest.mark.parametrize("fault", ["snapshot_stale", "snapshot_regressed"])
def test_an_old_snapshot_is_an_old_book(fault):
    with simulated() as exchange:
        exchange.pause("BTCUSDT")
        first = exchange.last_update_id("BTCUSDT")
        newest = exchange.advance("BTCUSDT", 50)
        exchange.inject(fault)
        fold = Fold(depth(exchange, 5000).json())
        assert first <= fold.update_id < newest
        assert (fold.update_id == first) is (fault == "snapshot_regressed")
        true_book = exchange.true_book("BTCUSDT", fold.update_id)
        assert (fold.bids, fold.asks) == (true_book.bids, true_book.asks)
        assert depth(exchange).json()["lastUpdateId"] == newest


def test_lagging_snapshots_have_the_same_update_id_for_a_while():
    with simulated() as exchange:
        exchange.pause("BTCUSDT")
        exchange.advance("BTCUSDT", 5)
        exchange.inject("snapshot_lagging", duration_s=1.5)
        first = depth(exchange).json()
        newest = exchange.advance("BTCUSDT", 5)
        assert depth(exchange).json() == first
        later = first
        while later == first:
            later = depth(exchange).json()
        assert later["lastUpdateId"] == newest


def test_a_snapshot_of_another_market():
    with simulated(markets=("BTCUSDT", "ETHUSDT")) as exchange:
        for market in exchange.markets:
            exchange.pause(market)
        right = depth(exchange).json()
        exchange.inject("snapshot_wrong_market", market="BTCUSDT")
        assert depth(exchange).json() == get(exchange, "/api/v3/depth", symbol="ETHUSDT").json() != right
    with simulated() as exchange:
        exchange.inject("snapshot_wrong_market", market="BTCUSDT")
        assert float(depth(exchange).json()["bids"][0][0]) < 10_000


def test_a_snapshot_is_cut_or_slow():
    with simulated() as exchange:
        exchange.inject("snapshot_cut")
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
            depth(exchange)
        exchange.inject("snapshot_slow", duration_s=0.2)
        began = time.monotonic()
        assert depth(exchange).status_code == 200
        assert time.monotonic() - began >= 0.2


def test_a_ban_is_for_every_request():
    with simulated() as exchange:
        exchange.inject("ban", duration_s=3600)
        reply = depth(exchange)
        assert (reply.status_code, reply.headers["Retry-After"]) == (418, "3600")
        refused = get(exchange, "/api/v3/ping")
        assert refused.status_code == 418
        assert int(refused.headers["Retry-After"]) >= 1
