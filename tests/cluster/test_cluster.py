"""Nodes and readers in one process, over real sockets, against the embedded exchange."""

import json
import subprocess
import sys
import threading
import time

import pytest
from cluster_kit import Judge, is_covered, wait_until
from network_kit import free_port

import ldc
import ldc.cluster
from ldc.cli.main import main
from ldc.cluster.bus import Bus, BusOptions
from ldc.cluster.keys import ReplicaToken
from ldc.cluster.message import push_of
from ldc.cluster.rules import RuleTiming
from ldc.simulator import SimulatedExchange

TIMING = RuleTiming(join_s=0.5, settle_s=0.1, leave_s=1.0)
MARKETS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]


@pytest.fixture(scope="module")
def exchange():
    with SimulatedExchange([*MARKETS, "ADAUSDT"], levels=200) as running:
        yield running


class Cluster:
    """Two nodes and a reader."""

    def __init__(self, exchange):
        self.endpoints = {name: f"tcp/127.0.0.1:{free_port()}" for name in "abc"}
        self.addresses = {
            "restful_base_uri": exchange.restful_base_uri,
            "websocket_base_uri": exchange.websocket_base_uri,
        }
        self.nodes = {name: self.node(name).start() for name in "ab"}
        self.books = ldc.cluster.connect("desk", connect=list(self.endpoints.values())[:2], markets=MARKETS)

    def node(self, name, **parameters):
        settings = {
            "markets": MARKETS,
            "connect": list(self.endpoints.values())[:2],
            "listen": [self.endpoints[name]],
            "manager": self.addresses,
            "timing": TIMING,
        }
        return ldc.cluster.Node("desk", name, **settings | parameters)

    def run(self, *words):
        """Run `ldc cluster` on it; return the exit status."""
        return main(["cluster", words[0], "--cluster", "desk", "--connect", self.endpoints["a"], *words[1:]])

    def close(self):
        self.books.close()
        for node in self.nodes.values():
            node.stop()


@pytest.fixture(scope="module")
def cluster(exchange):
    made = Cluster(exchange)
    assert made.books.wait_until_synchronized(MARKETS, timeout=20)
    wait_until(lambda: is_covered(made.books, MARKETS, 2), "two replicas of each market")
    yield made
    made.close()


def test_each_view_is_the_exchange_s_book(cluster, exchange):
    with Judge(cluster.books, exchange, MARKETS) as judge:
        wait_until(lambda: judge.reads > 200, "reads")
    judge.check()
    assert judge.oldest_ms < 9000


def test_reads_have_the_forms_of_the_manager_s(cluster):
    books = cluster.books
    view = books.get_book("btcusdt")
    assert len(view.bids) == len(view.asks) == 20
    assert (view.bid_horizon, view.ask_horizon) == (view.bids[-1][0], view.asks[-1][0])
    assert len(books.get_book("BTCUSDT", 3).bids) == 3
    assert len(books.get_asks("BTCUSDT", 2)) == len(books.get_bids("BTCUSDT", 2)) == 2
    assert books.get_asks("BTCUSDT", 1)[0][0] > books.get_bids("BTCUSDT", 1)[0][0]
    assert books.is_depth_cache_synchronized("BTCUSDT")
    with pytest.raises(ValueError, match="limit_count"):
        books.get_book("BTCUSDT", -1)


def test_an_update_ends_a_wait(cluster):
    first = cluster.books.wait_for_update("BTCUSDT", timeout=10)
    assert cluster.books.wait_for_update("BTCUSDT", first, timeout=10) > first
    assert cluster.books.wait_for_update("BTCUSDT", 2**62, timeout=0.05) is None


def test_the_status_names_the_replicas(cluster):
    status = cluster.books.status("BTCUSDT")
    assert [each.node for each in status.replicas] == ["a", "b"]
    assert all(each.synchronized for each in status.replicas)
    assert 0 <= status.age_ms < 9000
    assert status.is_synchronized
    assert (status.cause, status.disagreements) == (None, 0)
    assert sorted(cluster.books.markets()) == sorted(MARKETS)
    assert [(each.name, each.state, each.replicas) for each in cluster.books.nodes()] == [
        ("a", "running", 4),
        ("b", "running", 4),
    ]


def test_a_message_under_the_key_of_another_market_is_dropped(cluster):
    """Zenoh numbers its keys and reuses the numbers, so a push may be delivered under a wrong one."""
    books = cluster.books
    reader = cluster.nodes["a"].manager.get_depth_cache("ETHUSDT").reader
    before = books.misrouted_messages
    books._pushed(books._markets["BTCUSDT"], "a", push_of("ETHUSDT", reader, 20))
    assert books.misrouted_messages == before + 1
    market = books._markets["BTCUSDT"].replicas
    assert market.shown.push.market == "BTCUSDT"


def test_a_token_that_the_transport_lost_is_noticed_and_comes_back(cluster):
    """As after a SIGCONT: the link is there, but a node and a reader never get what b has declared."""
    node, books = cluster.nodes["a"], cluster.books
    token = books._roster.tokens["b"]
    key = books.keys.node(token)
    node._post(lambda: node._node_token(key, False))
    books._bus._calls.put(lambda: books._node_token(key, False))
    wait_until(lambda: node.status().members == () and len(books.nodes()) == 1, "the loss")
    wait_until(lambda: node.status().members == ("b",) and len(books.nodes()) == 2, "the token", 10)
    assert books._roster.tokens["b"].version > token.version
    wait_until(lambda: is_covered(books, MARKETS, 2), "its replicas", 10)


def test_a_token_of_a_replica_that_the_transport_lost_comes_back(cluster):
    node, books = cluster.nodes["a"], cluster.books
    key = books.keys.replica(ReplicaToken("BTCUSDT", "b", books._roster.tokens["b"].instance))
    node._post(lambda: node._replica_token(key, False))
    books._bus._calls.put(lambda: books._replica_token(key, False))
    wait_until(lambda: books.holders("BTCUSDT") == {"a"}, "the loss")
    wait_until(lambda: books.holders("BTCUSDT") == {"a", "b"}, "the replica", 10)
    wait_until(lambda: node._rules.holders("BTCUSDT") == {"a", "b"}, "the replica on a", 10)


def test_a_publisher_may_end_while_another_thread_publishes():
    """Zenoh's raises "Already borrowed" then. That ended nodes that gave a market away while it was pushed."""
    with Bus(BusOptions(listen=[f"tcp/127.0.0.1:{free_port()}"])) as bus:
        publishers, ends = [], threading.Event()

        def publish():
            while not ends.is_set():
                for publisher in publishers[-2:]:
                    publisher.put(bytes(100_000))

        thread = threading.Thread(target=publish)
        thread.start()
        for number in range(300):
            publishers.append(bus.publisher(f"test/{number}"))
            time.sleep(0)
            publishers[-1].put(b"")
            publishers[-1].close()
        ends.set()
        thread.join()
        assert not publishers[-1].put(b"")
        publishers[-1].close()


def test_too_strict_an_age_is_refused_with_what_was_found(cluster):
    time.sleep(0.001)  # the age that is allowed, and more: not for another thread
    with pytest.raises(ldc.DepthCacheOutOfSync, match=r"BTCUSDT.*TOO_OLD.*0\.0001 s are allowed") as raised:
        cluster.books.get_book("BTCUSDT", max_age=0.0001)
    assert raised.value.cause == "TOO_OLD"


def test_a_market_that_nobody_keeps_is_named(cluster, monkeypatch):
    monkeypatch.setattr("ldc.cluster.reader.FIRST_READ_S", 0.3)
    with pytest.raises(ldc.DepthCacheNotFound, match="ldc cluster add NONEUSDT"):
        cluster.books.get_book("NONEUSDT")


def test_the_status_is_printed_for_programs_and_for_people(cluster, capsys):
    assert cluster.run("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [node["name"] for node in found["nodes"]] == ["a", "b"]
    assert {node["state"] for node in found["nodes"]} == {"running"}
    assert set(found["markets"]) == set(MARKETS)
    for market in found["markets"].values():
        assert [set(each) for each in market["replicas"]] == [{"node", "synchronized", "last_update_id", "age_ms"}] * 2
        assert all(each["synchronized"] and each["age_ms"] >= 0 for each in market["replicas"])
    assert cluster.run("status") == 0
    assert "BTCUSDT                   2/2  a " in capsys.readouterr().out


def test_the_list_of_markets_can_be_changed(cluster, capsys):
    assert cluster.run("add", "adausdt", "--replicas", "1") == 0
    assert capsys.readouterr().out == "ADAUSDT added\n"
    assert cluster.books.wait_until_synchronized(["ADAUSDT"], timeout=20)
    [owner] = cluster.books.holders("ADAUSDT")
    reader = cluster.nodes[owner].manager.get_depth_cache("ADAUSDT").reader
    # As if the other node had stopped it, and its last message had been lost: its silence is noticed.
    market = cluster.books._markets["ADAUSDT"]
    cluster.books._pushed(market, "b" if owner == "a" else "a", push_of("ADAUSDT", reader, 20))
    assert len(market.replicas.nodes) == 2
    wait_until(lambda: market.replicas.nodes == [owner], "the end of a replica that is not there", 10)
    assert cluster.run("markets", "--json") == 0
    assert json.loads(capsys.readouterr().out)["markets"]["ADAUSDT"] == 1
    wait_until(lambda: all("ADAUSDT" in node._wanted for node in cluster.nodes.values()), "the list on both nodes")
    assert cluster.run("remove", "ADAUSDT", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": ["ADAUSDT"]}
    assert cluster.run("remove", "ADAUSDT") == 0
    assert capsys.readouterr().out == "nothing to change\n"
    wait_until(lambda: "ADAUSDT" not in cluster.books.markets(), "the end of its replicas")


def test_wrong_words_and_an_absent_cluster_have_their_statuses(cluster, capsys):
    assert cluster.run("drain", "zebra") == 2
    assert "node 'zebra' does not answer; the nodes of 'desk' are a, b" in capsys.readouterr().err
    assert cluster.run("add", "A/B") == 2
    assert "cannot be a market" in capsys.readouterr().err
    nobody = f"tcp/127.0.0.1:{free_port()}"
    assert main(["cluster", "status", "--cluster", "desk", "--connect", nobody, "--timeout", "0.5"]) == 3
    assert f"can be reached at {nobody}" in capsys.readouterr().err
    assert main(["cluster", "status", "--cluster", "desk"]) == 2
    assert "connect names at least one endpoint" in capsys.readouterr().err


def test_a_taken_name_and_another_exchange_are_refused(cluster, monkeypatch):
    monkeypatch.setattr("ldc.cluster.node.NAME_S", 0.2)
    with pytest.raises(ValueError, match="has a node 'a' already"):
        cluster.node("a", listen=[]).start()
    with pytest.raises(ValueError, match=r"keeps binance\.com, and this node has binance\.com-futures"):
        cluster.node("c", exchange="binance.com-futures").start()
    with pytest.raises(OSError, match="cannot be opened"):
        cluster.node("c", listen=[cluster.endpoints["a"]]).start()


def test_a_replica_that_differs_is_told_and_not_read(cluster, exchange):
    told, books = [], cluster.books
    books._on_disagreement = told.append
    market = books._markets["SOLUSDT"]
    truth = cluster.nodes["a"].manager.get_depth_cache("SOLUSDT").reader
    liar = ldc.OrderBook("spot")
    audits = {name: sum(node.manager.get_status("SOLUSDT").audits.values()) for name, node in cluster.nodes.items()}

    def lie():
        """Push what b does not have, at the id at which a is; until it was seen."""
        view = truth.view(20, number=str)
        wrong = [[price, "12345"] for price, _ in view.bids]
        body = {"lastUpdateId": view.last_update_id, "bids": wrong, "asks": [list(each) for each in view.asks]}
        liar.load_snapshot(json.dumps(body))
        books._pushed(market, "liar", push_of("SOLUSDT", liar.reader, 20))
        return told

    wait_until(lie, "a disagreement")
    assert "liar" in told[0].nodes
    assert books.status("SOLUSDT").disagreements >= 1
    books._on_disagreement = None
    with market.changed:
        market.replicas.node_gone("liar")
    wait_until(lambda: books.is_depth_cache_synchronized("SOLUSDT"), "agreement")
    if set(told[0].nodes) - {"liar"}:
        wait_until(
            lambda: any(
                sum(node.manager.get_status("SOLUSDT").audits.values()) > audits[name]
                for name, node in cluster.nodes.items()
            ),
            "an audit",
        )


def test_a_node_drains_and_others_take_its_markets_first(cluster, exchange):
    third = cluster.node("c").start()
    try:
        wait_until(lambda: len(cluster.nodes["a"].status().members) == 2, "the third node")
        with Judge(cluster.books, exchange, MARKETS) as judge:
            cluster.nodes["b"].drain()
            assert cluster.nodes["b"].wait_until_drained(30)
            assert is_covered(cluster.books, MARKETS, 2)
            assert cluster.nodes["b"].status().markets == 0
            assert cluster.nodes["b"].status().state == "drained"
            cluster.nodes["b"].drain(False)
            wait_until(lambda: cluster.nodes["b"].status().synchronized > 0, "its markets again")
        judge.check()
    finally:
        third.stop()


def test_the_last_node_s_drain_waits_for_nobody(cluster):
    listen = [f"tcp/127.0.0.1:{free_port()}"]
    with cluster.node("a", listen=listen, connect=[]) as alone:
        wait_until(lambda: alone.status().synchronized == len(MARKETS), "its markets")
        alone.drain()
        assert not alone.wait_until_drained(30)
        assert alone.status().synchronized == len(MARKETS)


def test_a_reader_that_was_closed_says_so(monkeypatch):
    monkeypatch.setattr("ldc.cluster.reader.FIRST_READ_S", 0.2)
    ended = []

    def wait():
        try:
            books.wait_for_update("BTCUSDT")
        except ldc.DepthCacheAlreadyStopped as error:
            ended.append(error)

    with ldc.cluster.connect("desk", connect=["tcp/127.0.0.1:1"]) as books:
        waiter = threading.Thread(target=wait)
        waiter.start()
        with pytest.raises(ldc.DepthCacheOutOfSync, match=r"FEEDER_GONE.*tcp/127\.0\.0\.1:1"):
            books.get_book("BTCUSDT")
    books.close()
    waiter.join(10)
    assert ended
    with pytest.raises(ldc.DepthCacheAlreadyStopped, match="connect again"):
        books.get_book("BTCUSDT")


def test_a_program_that_closes_nothing_ends(cluster):
    """Zenoh's own callbacks would keep the interpreter from ending."""
    program = (
        "import ldc.cluster\n"
        f"books = ldc.cluster.connect('desk', connect=[{cluster.endpoints['a']!r}], markets={MARKETS!r})\n"
        f"assert books.wait_until_synchronized({MARKETS!r}, timeout=20)\n"
        "print(books.get_book('BTCUSDT').last_update_id > 0)\n"
    )
    told = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "True\n"


@pytest.mark.parametrize(
    ("parameters", "what"),
    [({"connect": []}, "at least one endpoint"), ({"connect": ["tcp/127.0.0.1:1"], "lease": 0}, "lease is a positive")],
)
def test_wrong_arguments_of_a_reader_are_named(parameters, what):
    with pytest.raises(ValueError, match=what):
        ldc.cluster.connect("desk", **parameters)


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"levels": 0}, "levels is 1 to 1000"),
        ({"replicas": 10}, "replicas is 1 to 9"),
        ({"markets": ["A B"]}, "cannot be a market"),
        ({"zone": "a b"}, "a zone must have"),
        ({"weight": -1}, "the weight of a node"),
        ({"exchange": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_arguments_of_a_node_are_named(parameters, what):
    with pytest.raises(ValueError, match=what):
        ldc.cluster.Node("desk", "a", **parameters)
