"""The calls of UBDCC: its envelope and error ids, by GET and POST; and what only a page of this gateway may change."""

import asyncio
import json

import pytest
from gateway_kit import PATIENCE_S, Served, served, until

import ldc
from ldc.gateway import GatewayLimits


@pytest.fixture(scope="module")
def row():
    with served(markets=("BTCUSDT", "ETHUSDT"), limits=GatewayLimits(markets_max=3)) as served_row:
        yield served_row


OF = {"exchange": "binance.com", "market": "BTCUSDT"}


def test_the_test_is_what_their_client_looks_for(row: Served):
    body = row.get("/test").json()
    assert (body["app"]["name"], body["result"], body["event"]) == ("ubdcc-restapi", "OK", "TEST")


def test_sides_and_the_book_are_those_of_the_manager(row: Served):
    asks = row.get("/get_asks", **OF, limit_count=3).json()
    assert (asks["result"], asks["event"], asks["asks"]) == ("OK", "GET_ASKS", row.manager.get_asks("BTCUSDT", 3))
    bids = row.get("/get_bids", **OF, threshold_volume="100000").json()["bids"]
    assert bids == row.manager.get_bids("BTCUSDT", threshold_volume=100000)
    book = row.get("/get_book", **OF, limit_count=2).json()
    view = row.manager.get_book("BTCUSDT", 2)
    assert (book["last_update_id"], len(book["bids"])) == (view.last_update_id, 2)
    assert tuple(map(tuple, book["asks"])) == view.asks
    assert row.get("/get_asks", **OF, debug="true").json()["debug"]["cluster_execution_time"] >= 0


@pytest.mark.parametrize(("path", "parameters", "error_id"), [
    ("/get_asks", {"exchange": "binance.com"}, "#1015"),
    ("/get_bids", {}, "#1015"),
    ("/get_asks", OF | {"market": "NOPE"}, "#7000"),
    ("/get_asks", OF | {"exchange": "binance.us"}, "#7000"),
    ("/get_asks", OF | {"market": "B/C"}, "#1020"),
    ("/get_asks", OF | {"limit_count": "x"}, "#1020"),
    ("/get_asks", OF | {"limit_count": "-1"}, "#1020"),
    ("/get_asks", OF | {"threshold_volume": "nan"}, "#1020"),
    ("/get_depthcache_info", OF | {"market": "NOPE"}, "#7000"),
    ("/stop_depthcache", OF | {"market": "NOPE"}, "#7000"),
    ("/create_depthcache", OF | {"update_interval": "1000"}, "#1020"),
    ("/create_depthcaches", {"exchange": "binance.com", "markets": "A,B,C"}, "#9000"),
])  # fmt: skip
def test_errors_have_their_ids_and_the_status_200(row: Served, path, parameters, error_id):
    for reply in (row.get(path, **parameters), row.get(path, method="POST", **parameters)):
        body = reply.json()
        assert (reply.status_code, body["result"], body["error_id"]) == (200, "ERROR", error_id), body
        assert body["message"]


def test_what_is_out_of_sync_is_6000():
    with served() as row:
        row.exchange.inject("snapshot_503", count=100)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        until(lambda: not row.manager.is_depth_cache_synchronized("BTCUSDT"))
        body = row.get("/get_bids", **OF).json()
        assert (body["error_id"], body["cause"]) == ("#6000", "REQUESTED")


def test_markets_are_listed_created_and_stopped():
    with served(markets=("BTCUSDT", "ETHUSDT")) as row:
        row.manager.stop_depth_cache("ETHUSDT")
        assert row.get("/get_depthcache_list").json()["depthcache_list"] == {"binance.com": ["BTCUSDT"]}
        import requests

        url = row.gateway.restful_base_uri + "/create_depthcaches"
        body = {"exchange": "binance.com", "markets": ["ethusdt"], "refresh_interval": None, "update_interval": None}
        assert requests.post(url, json=body, timeout=PATIENCE_S).json()["result"] == "OK"
        assert row.manager.wait_until_synchronized("ETHUSDT", timeout=PATIENCE_S)
        info = row.get("/get_depthcache_info", exchange="binance.com", market="ETHUSDT").json()["depthcache_info"]
        assert info["state"] == "SYNCHRONIZED"
        assert row.get("/stop_depthcache", exchange="binance.com", market="ETHUSDT").json()["result"] == "OK"
        assert row.get("/get_cluster_info").json()["cluster_info"]["depthcaches"]["binance.com"].keys() == {"BTCUSDT"}
        assert requests.post(url, data=b"[" * 100_0, timeout=PATIENCE_S).status_code == 400
        assert requests.post(url, data=b"[]", timeout=PATIENCE_S).status_code == 400


def test_another_site_changes_nothing_and_a_read_only_gateway_neither(row: Served):
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert row.get("/stop_depthcache", headers, **OF).status_code == 403
        assert row.get("/create_depthcache", headers, "POST", **OF).status_code == 403
    with served(read_only=True) as only:
        assert only.get("/stop_depthcache", **OF).json()["error_id"] == "#9000"
        assert only.get("/get_asks", **OF).json()["result"] == "OK"


def test_the_openapi_document_names_every_path_that_is_served(row: Served):
    document = row.get("/ldc/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    served_paths = row.gateway.call(
        lambda parts: {*parts.rest.paths, parts.rest.exchange_info_path, *parts.ubdcc.calls, "/healthz", "/readyz"}
    )
    hidden = {"/add_credentials", "/remove_credentials", "/get_credentials_list"}
    assert served_paths - hidden <= document["paths"].keys()
    assert json.dumps(document)


# ------------------------------------------------------------------------------------------ ldc as a client


@pytest.fixture
def cluster(row: Served):
    with ldc.BinanceLocalDepthCacheManager(
        "binance.com", ubdcc_address="127.0.0.1", ubdcc_port=row.gateway.port
    ) as manager:
        yield manager.cluster


def test_ldc_reads_a_cluster_as_ubldc_does(row: Served, cluster):
    assert cluster.test_connection() is True
    assert cluster.get_asks(**OF, limit_count=3)["asks"] == row.manager.get_asks("BTCUSDT", 3)
    assert cluster.get_bids("binance.com", "BTCUSDT", threshold_volume=100_000)["bids"] == row.manager.get_bids(
        "BTCUSDT", threshold_volume=100_000
    )
    view = row.manager.get_book("BTCUSDT", 2)
    assert cluster.get_book(**OF, limit_count=2)["last_update_id"] == view.last_update_id
    assert cluster.get_asks(**OF | {"market": "NOPE"})["error_id"] == "#7000"
    assert cluster.get_depthcache_info(**OF)["depthcache_info"]["is_synchronized"] is True
    assert cluster.get_cluster_info()["cluster_info"]["depthcaches"]["binance.com"].keys() == {"BTCUSDT", "ETHUSDT"}
    figures = cluster.get_asks(**OF, debug=True)["debug"]
    assert 0 <= figures["transmission_time"] <= figures["request_time"]


def test_ldc_changes_a_cluster_as_ubldc_does():
    with (
        served(markets=("BTCUSDT", "ETHUSDT")) as row,
        ldc.BinanceLocalDepthCacheManager(ubdcc_address="localhost", ubdcc_port=row.gateway.port) as manager,
    ):
        cluster = manager.cluster
        assert cluster.stop_depthcache("binance.com", "ETHUSDT")["result"] == "OK"
        assert cluster.get_depthcache_list()["depthcache_list"] == {"binance.com": ["BTCUSDT"]}
        assert cluster.create_depthcaches("binance.com", ["ETHUSDT"])["result"] == "OK"
        assert cluster.create_depthcache("binance.com", "BTCUSDT")["result"] == "OK"
        assert cluster.get_depthcache_list()["depthcache_list"] == {"binance.com": ["BTCUSDT", "ETHUSDT"]}
        assert manager.get_list_of_depth_caches() == []


def test_the_twins_for_asyncio_answer_the_same(row: Served, cluster):
    async def read() -> list[object]:
        given = {**OF, "limit_count": 2}
        return [
            (await cluster.get_asks_async(**given))["asks"],
            (await cluster.get_bids_async(**given))["bids"],
            (await cluster.get_book_async(**given))["last_update_id"],
            (await cluster.get_depthcache_list_async())["result"],
            (await cluster.get_depthcache_info_async(**OF))["result"],
            (await cluster.get_cluster_info_async())["result"],
            (await cluster.get_test_async())["result"],
            await cluster.test_connection_async(),
            (await cluster.create_depthcache_async(**OF))["result"],
            (await cluster.create_depthcaches_async("binance.com", ["BTCUSDT"]))["result"],
            (await cluster.stop_depthcache_async("binance.com", "NOPE"))["error_id"],
        ]

    view = row.manager.get_book("BTCUSDT", 2)
    sides = [[list(level) for level in side] for side in (view.asks, view.bids)]
    assert asyncio.run(read()) == [*sides, view.last_update_id, "OK", "OK", "OK", "OK", True, "OK", "OK", "#7000"]


def test_what_is_no_cluster_is_an_error_of_the_constructor(row: Served):
    port = int(row.exchange.restful_base_uri.rpartition(":")[2])
    with pytest.raises(ldc.DepthCacheClusterNotReachableError, match=f"127.0.0.1:{port}"):
        ldc.BinanceLocalDepthCacheManager(ubdcc_address="127.0.0.1", ubdcc_port=port)
    for port in (0, 65536, "80", True):
        with pytest.raises(ValueError, match="ubdcc_port"):
            ldc.BinanceLocalDepthCacheManager(ubdcc_address="127.0.0.1", ubdcc_port=port)  # type: ignore[arg-type]
    assert ldc.BinanceLocalDepthCacheManager().cluster is None


def test_a_cluster_that_is_gone_is_an_answer_and_no_exception():
    with served() as row:
        manager = ldc.BinanceLocalDepthCacheManager(ubdcc_address="127.0.0.1", ubdcc_port=row.gateway.port)
        row.gateway.stop()
        assert "127.0.0.1" in manager.cluster.get_asks(**OF)["error"]
        assert manager.cluster.test_connection() is False
