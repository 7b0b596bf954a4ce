"""Keys and endpoints: what a node says arrives, and what could be reached from outside is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc.cluster.bus import BusOptions, configured, dialled, is_private
from ldc.cluster.keys import Keys, NodeToken, ReplicaToken, checked_name
from ldc.cluster.placement import NodeInfo
from ldc.cluster.rules import NodeState

NAMES = st.text("abcXYZ019-_.", min_size=1, max_size=20)


@given(NAMES, NAMES | st.none(), st.floats(0.1, 100), st.booleans(), st.booleans(), st.text(max_size=20) | st.none())
def test_what_a_node_says_arrives(name, zone, weight, is_draining, accepts, gateway):
    keys = Keys("desk")
    state = NodeState(NodeInfo(name, zone, weight, is_draining), accepts)
    token = NodeToken(state, "0a1b", 3, "binance.com-futures", 20, 12345, gateway)
    assert keys.node_token(keys.node(token)) == token
    assert not set(keys.node(token)) & set("*$?# ")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_a_market_of_any_name_has_a_key(market):
    keys = Keys("desk")
    token = ReplicaToken(market, "a", "0a1b")
    assert keys.replica_token(keys.replica(token)) == token
    assert keys.last_of(keys.top(market, "a")) == "a"


@pytest.mark.parametrize("text", ["", "x", "a/b/c/d/e", "a/1/2/%7B%7D", "a b/1/2/{}", "a/1/x/null"])
def test_a_key_that_is_no_token_is_none(text):
    keys = Keys("desk")
    assert keys.node_token(f"ldc/1/desk/node/{text}") is None
    assert keys.replica_token(f"ldc/1/desk/replica/{text}") is None or text.count("/") == 2


@pytest.mark.parametrize("name", ["", "a/b", "a b", "é", "a*", "x" * 65])
def test_a_name_that_cannot_be_a_key_is_refused(name):
    with pytest.raises(ValueError, match="the name of a cluster must have"):
        Keys(name)
    with pytest.raises(ValueError, match="a zone must have"):
        checked_name("a zone", name)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp/127.0.0.1:7447", True),
        ("tcp/127.8.9.1:0", True),
        ("tcp/localhost:7447", True),
        ("tcp/[::1]:7447", True),
        ("tls/0.0.0.0:7447", True),
        ("quic/10.0.0.1:7447", True),
        ("unixsock-stream/some.sock", True),
        ("tcp/0.0.0.0:7447", False),
        ("tcp/[::]:7447", False),
        ("tcp/10.0.0.1:7447", False),
        ("tcp/example.org:7447", False),
        ("udp/10.0.0.1:7447", False),
        ("tcp/10.0.0.1:7447#iface=lo", False),
    ],
)
def test_an_endpoint_that_others_can_read_is_known(endpoint, expected):
    assert is_private(endpoint) is expected


def test_a_network_address_without_tls_is_refused_unless_the_user_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"tcp/0\.0\.0\.0:7447 could be reached by everybody"):
        configured(BusOptions(listen=["tcp/0.0.0.0:7447"]))
    configured(BusOptions(listen=["tcp/0.0.0.0:7447"], insecure=True))
    file = tmp_path / "zenoh.json5"
    file.write_text('{listen: {endpoints: ["tcp/0.0.0.0:7447"]}}')
    with pytest.raises(ValueError, match="could be reached by everybody"):
        configured(BusOptions(config=file))
    file.write_text("{nonsense: 1}")
    with pytest.raises(ValueError, match="cannot read the configuration"):
        configured(BusOptions(config=file))


def test_nothing_is_found_by_multicast_and_a_hang_is_noticed_after_a_second(tmp_path):
    file = tmp_path / "zenoh.json5"
    file.write_text("{scouting: {multicast: {enabled: true}}, connect: {endpoints: ['tcp/127.0.0.1:7555']}}")
    for options in (BusOptions(), BusOptions(config=file)):
        config = configured(options)
        assert config.get_json("scouting/multicast/enabled") == "false"
        assert config.get_json("transport/link/tx/lease") == "1000"
        assert "[::]" not in config.get_json("listen/endpoints")
    assert "7555" in config.get_json("connect/endpoints")


@given(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
def test_of_two_nodes_in_one_list_one_dials(endpoints):
    dials = {endpoint: dialled(endpoints, [endpoint]) for endpoint in endpoints}
    for one in endpoints:
        for other in endpoints:
            assert (other in dials[one]) + (one in dials[other]) == (one != other)


def test_who_is_not_in_the_list_dials_all():
    assert dialled(["b", "a"], []) == dialled(["b", "a"], ["c"]) == ["b", "a"]
