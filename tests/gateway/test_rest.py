"""REST in the exchange's dialect: the true book at its id, the exchange's errors, 503 with the cause, and horizons."""

import json
from decimal import Decimal

import pytest
from gateway_kit import Served, caught_up, deepened, served, until
from simulator_kit import decimals

from ldc.simulator import SimulatedExchange
from ldc.venues import VENUES
from ldc.wire.families import family_of

VENUE_NAMES = ["binance.com", "binance.com-futures", "binance.com-coin_futures", "binance.com-vanilla-options"]


def depth_path(venue: str) -> str:
    return VENUES[venue].depth_path


@pytest.fixture(scope="module")
def spot():
    with served() as row:
        yield row


@pytest.mark.parametrize("venue", VENUE_NAMES)
def test_a_snapshot_is_the_true_book_in_the_words_of_its_family(venue: str):
    with served(venue) as row:
        update_id = caught_up(row)
        reply = row.get(depth_path(venue), symbol=row.market, limit=20)
        assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/json;charset=UTF-8")
        body = reply.json()
        assert tuple(body) == family_of(VENUES[venue]).snapshot
        assert body["lastUpdateId"] == update_id
        true_book = row.exchange.true_book(row.market, update_id, 20)
        assert (tuple(decimals(body["bids"])), tuple(decimals(body["asks"]))) == (true_book.bids, true_book.asks)


@pytest.mark.parametrize("query", [
    {}, {"symbol": ""}, {"symbol": "btcusdt"}, {"symbol": "BTC/USDT"}, {"symbol": "NOPEUSDT"},
    {"symbol": "BTCUSDT", "limit": "x"}, {"symbol": "BTCUSDT", "limit": "0"}, {"symbol": "BTCUSDT", "limit": "-5"},
    {"symbol": "BTCUSDT", "limit": "9" * 21}, {"symbol": "../../etc/passwd"},
])  # fmt: skip
def test_a_wrong_request_gets_the_exchange_s_own_error(spot: Served, query: dict[str, str]):
    import requests

    ours = spot.get("/api/v3/depth", **query)
    theirs = requests.get(spot.exchange.restful_base_uri + "/api/v3/depth", params=query, timeout=10)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


@pytest.mark.parametrize("path", ["ping", "time", "exchangeInfo", "depth?symbol=BTCUSDT", "ticker/bookTicker"])
def test_an_answer_says_that_no_weight_was_used(spot: Served, path: str):
    """UBLDC takes no snapshot before it has read the weight, and the time of its answer."""
    headers = spot.get(f"/api/v3/{path}").headers
    assert (headers["X-MBX-USED-WEIGHT"], headers["X-MBX-USED-WEIGHT-1M"]) == ("0", "0")
    assert headers["Date"].endswith(" GMT")


def test_what_clients_ask_first_is_answered(spot: Served):
    assert spot.get("/api/v3/ping").json() == {}
    assert isinstance(spot.get("/api/v3/time").json()["serverTime"], int)
    info = spot.get("/api/v3/exchangeInfo").json()
    assert [symbol["symbol"] for symbol in info["symbols"]] == ["BTCUSDT"]
    assert spot.get("/api/v3/exchangeInfo", symbol="ETHUSDT").status_code == 400
    requests_before = spot.exchange.statistics()["requests"]
    assert spot.get("/api/v3/exchangeInfo", symbols='["BTCUSDT"]').json()["symbols"] == info["symbols"]
    assert spot.exchange.statistics()["requests"] == requests_before  # it was kept


@pytest.mark.parametrize("venue", VENUE_NAMES[:3])
def test_the_best_prices_are_those_of_the_book(venue: str):
    with served(venue) as row:
        deepened(row)
        caught_up(row)
        caught_up(row)  # a snapshot may stand at the id of the update that follows it
        path = depth_path(venue).removesuffix("depth") + "ticker/bookTicker"
        body = row.get(path, symbol=row.market).json()
        [of_all] = row.get(path).json()
        family = family_of(VENUES[venue])
        assert of_all == (body[0] if family.rest_ticker_is_list else body)
        assert tuple(of_all) == family.rest_ticker
        reader = row.manager.get_depth_cache(row.market).reader
        best = (reader.best_bid, reader.best_ask)
        names = (("bidPrice", "bidQty"), ("askPrice", "askQty"))
        assert tuple(tuple(float(of_all[name]) for name in pair) for pair in names) == best


def test_a_book_out_of_sync_is_refused_with_its_cause_and_served_again_later():
    with served() as row:
        row.exchange.inject("snapshot_503", count=50)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        until(lambda: not row.manager.is_depth_cache_synchronized("BTCUSDT"))
        reply = row.get("/api/v3/depth", symbol="BTCUSDT", limit=5)
        body = reply.json()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert (body["code"], body["cause"], body["market"]) == (-1001, "REQUESTED", "BTCUSDT")
        assert "BTCUSDT" in body["msg"]
        assert row.get("/api/v3/ticker/bookTicker", symbol="BTCUSDT").status_code == 503
        assert row.get("/api/v3/ticker/bookTicker").json() == []
        assert (row.get("/readyz").status_code, row.get("/healthz").status_code) == (503, 200)
        assert row.get("/readyz", market="BTCUSDT").status_code == 503
        row.exchange.clear_faults()
        row.exchange.resume("BTCUSDT")
        until(lambda: row.get("/api/v3/depth", symbol="BTCUSDT", limit=5).status_code == 200)
        until(lambda: row.get("/readyz").status_code == 200)


def test_a_stopped_market_and_a_stopped_manager_are_refused_as_such():
    with served(markets=("BTCUSDT", "ETHUSDT")) as row:
        row.manager.stop_depth_cache("ETHUSDT")
        reply = row.get("/api/v3/depth", symbol="ETHUSDT", limit=5)
        assert (reply.status_code, reply.json()["cause"]) == (503, "STOPPED")
        row.manager.stop_manager()
        assert row.get("/api/v3/depth", symbol="BTCUSDT", limit=5).json()["cause"] == "STOPPED"
        assert (row.get("/healthz").status_code, row.get("/readyz").status_code) == (503, 503)


def test_a_side_that_ends_at_its_horizon_says_so():
    with served(exchange_settings={"levels": 400}, manager_settings={"snapshot_limit": 100}) as row:
        caught_up(row)
        view = row.manager.get_depth_cache("BTCUSDT").reader.view(number=Decimal)
        body = row.get("/api/v3/depth", symbol="BTCUSDT", limit=1000).json()
        assert list(body) == ["lastUpdateId", "bids", "asks", "bidHorizon", "askHorizon"]
        assert (Decimal(body["bidHorizon"]), Decimal(body["askHorizon"])) == (view.bid_horizon, view.ask_horizon)
        assert len(body["bids"]) == len(view.bids)
        assert "bidHorizon" not in row.get("/api/v3/depth", symbol="BTCUSDT", limit=20).json()


def test_a_complete_book_has_no_horizon_whatever_was_requested(spot: Served):
    assert isinstance(spot.exchange, SimulatedExchange)
    deepened(spot)
    body = spot.get("/api/v3/depth", symbol="BTCUSDT", limit=5000).json()
    assert "bidHorizon" not in body
    assert len(body["bids"]) == spot.manager.get_depth_cache("BTCUSDT").reader.bid_count


def test_the_status_has_every_market_and_no_address(spot: Served):
    text = spot.get("/ldc/status").text
    body = json.loads(text)
    [market] = body["markets"]
    assert (market["market"], market["state"], market["cause"]) == ("BTCUSDT", "SYNCHRONIZED", None)
    assert market["price_decimals"] == 8
    assert body["progress"]["synchronized"] == 1
    assert body["gateway"]["requests"] > 0
    assert spot.exchange.restful_base_uri not in text
    assert spot.exchange.websocket_base_uri not in text
    assert spot.get("/ldc/status", market="btcusdt").json()["market"] == "BTCUSDT"
    assert spot.get("/ldc/status", market="ETHUSDT").status_code == 404


def test_an_exchange_info_that_cannot_be_fetched_is_an_error_and_no_invention():
    with served() as row:
        row.exchange.stop()
        reply = row.get("/api/v3/exchangeInfo")
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")
