"""The gateways of nodes: each answers for every market of the cluster, those of other nodes as well."""

import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
from cluster_kit import wait_until
from network_kit import free_port

import ldc.cluster
import ldc.gateway
from ldc.cli.cluster import made_gateway, made_node
from ldc.cli.main import make_parser
from ldc.cluster.placement import owners
from ldc.gateway.forward import FORWARDED
from ldc.simulator import SimulatedExchange

MARKETS = [f"M{number}USDT" for number in range(6)]
TOKEN = "one-token-for-all-gateways-of-the-cluster"


def get(uri, path, headers=None, **parameters):
    """Return the status and the body of an answer."""
    query = urllib.parse.urlencode(parameters)
    given = {"Authorization": f"Bearer {TOKEN}"} | (headers or {})
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{uri}{path}?{query}", headers=given), timeout=10) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def gateways(tmp_path_factory):
    """Two nodes, each market on one of them, with their gateways as the command line makes them."""
    folder = tmp_path_factory.mktemp("gateway")
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    endpoints = {name: f"tcp/127.0.0.1:{free_port()}" for name in "ab"}
    made = {}
    with SimulatedExchange(MARKETS, levels=200) as exchange, pytest.MonkeyPatch.context() as environment:
        environment.setenv("LDC_SHARED_FOLDER", str(folder))
        for name, endpoint in endpoints.items():
            words = ["node", "--cluster", "desk", "--name", name, "--replicas", "1", "--markets", ",".join(MARKETS)]
            words += ["--listen", endpoint, *(word for each in endpoints.values() for word in ("--connect", each))]
            words += ["--restful-base-uri", exchange.restful_base_uri]
            words += ["--websocket-base-uri", exchange.websocket_base_uri]
            options = make_parser().parse_args(
                [*words, "--gateway", "0", "--token-file", str(token_file), "--share", name]
            )
            node = made_node(options)
            gateway = made_gateway(node, options)
            node.start()
            gateway.start()
            node.announce_gateway(gateway.restful_base_uri)
            made[name] = node, gateway
        with ldc.cluster.connect("desk", connect=list(endpoints.values()), markets=MARKETS) as books:
            wait_until(
                lambda: all(books.holders(market) == set(owners(market, "ab", 1)) for market in MARKETS), "the start"
            )
            wait_until(lambda: all(node.gateway for node in books.nodes()), "the addresses of the gateways")
            for market in MARKETS:
                [owner] = owners(market, "ab", 1)
                other, _ = made["b" if owner == "a" else "a"]
                wait_until(lambda market=market, other=other: other.gateway_of(market) is not None, market)
        yield {name: gateway.restful_base_uri for name, (_, gateway) in made.items()}
        for node, gateway in made.values():
            gateway.stop()
            node.stop()


def test_there_are_markets_on_both_nodes():
    assert {owners(market, "ab", 1) for market in MARKETS} == {("a",), ("b",)}


@pytest.mark.parametrize("name", ["a", "b"])
def test_each_gateway_answers_for_every_market(gateways, name):
    for market in MARKETS:
        status, body = get(gateways[name], "/api/v3/depth", symbol=market, limit=5)
        assert (status, len(body["bids"]), len(body["asks"])) == (200, 5, 5), market
        status, body = get(gateways[name], "/api/v3/ticker/bookTicker", symbol=market)
        assert (status, body["symbol"]) == (200, market)
        status, body = get(gateways[name], "/get_book", exchange="binance.com", market=market.lower(), limit_count=3)
        assert (status, body["result"], len(body["bids"])) == (200, "OK", 3)


def test_the_books_of_a_node_are_shared_on_its_machine(gateways, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "gateway0"
    for name in "ab":
        own = [market for market in MARKETS if owners(market, "ab", 1) == (name,)]
        shared = ldc.SharedBooks(name, folder=folder)
        assert sorted(shared.markets()) == sorted(own)
        assert all(shared[market].best_bid < shared[market].best_ask for market in own)


def test_a_market_that_nobody_has_is_answered_here(gateways):
    status, body = get(gateways["a"], "/api/v3/depth", symbol="NONEUSDT")
    assert (status, body["code"]) == (400, -1121)
    status, body = get(gateways["a"], "/get_asks", exchange="binance.com", market="NONEUSDT")
    assert (status, body["error_id"]) == (200, "#7000")


def test_a_request_is_passed_on_once(gateways):
    market = next(market for market in MARKETS if owners(market, "ab", 1) == ("b",))
    status, body = get(gateways["a"], "/api/v3/depth", {FORWARDED: "1"}, symbol=market)
    assert (status, body["code"]) == (400, -1121)


def test_a_gateway_without_the_token_of_the_others_passes_nothing_on(gateways):
    market = next(market for market in MARKETS if owners(market, "ab", 1) == ("b",))
    status, _ = get(gateways["a"], "/api/v3/depth", {"Authorization": "Bearer wrong"}, symbol=market)
    assert status == 401


def test_a_node_s_gateway_changes_nothing(gateways):
    status, body = get(gateways["a"], "/create_depthcache", exchange="binance.com", market="ADAUSDT")
    assert (status, body["error_id"]) == (200, "#9000")


def test_a_gateway_that_does_not_answer_is_named():
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        ldc.BinanceLocalDepthCacheManager("binance.com") as manager,
        ldc.gateway.Gateway(manager, port=0, elsewhere=lambda _market: nobody) as gateway,
    ):
        status, body = get(gateway.restful_base_uri, "/api/v3/depth", symbol="BTCUSDT")
        assert (status, body["cause"]) == (503, "FEEDER_GONE")
        assert nobody in body["msg"]
        status, body = get(gateway.restful_base_uri, "/get_asks", exchange="binance.com", market="BTCUSDT")
        assert (status, body["error_id"], body["cause"]) == (200, "#6000", "FEEDER_GONE")
