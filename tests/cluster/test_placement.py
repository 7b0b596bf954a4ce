"""`owners` is a pure function: balanced, stable, and with each replica in a zone of its own while there are enough."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc.cluster.placement import NodeInfo, owners

MARKETS = [f"M{number}USDT" for number in range(400)]
NAMES = st.lists(st.text("abcdefgh-0123", min_size=1, max_size=8), min_size=2, max_size=9, unique=True)
REPLICAS = st.integers(1, 4)


def kept(nodes, replicas, markets=MARKETS):
    return {market: set(owners(market, nodes, replicas)) for market in markets}


def with_zones(names, zones):
    return [NodeInfo(name, zones[number % len(zones)]) for number, name in enumerate(names)]


@given(NAMES, REPLICAS, st.randoms(use_true_random=False))
def test_everybody_computes_the_same(names, replicas, random):
    shuffled = random.sample(names, len(names))
    for market in MARKETS[:10]:
        found = owners(market, names, replicas)
        assert found == owners(market, shuffled, replicas)
        assert len(found) == len(set(found)) == min(replicas, len(names))


@pytest.mark.parametrize("count", [3, 6, 10])
def test_the_load_is_balanced_within_a_tenth(count):
    names = [f"node-{number}" for number in range(count)]
    markets = [f"M{number}" for number in range(20_000)]
    load = Counter(name for market in markets for name in owners(market, names, 2))
    mean = 2 * len(markets) / count
    assert all(abs(load[name] - mean) < 0.1 * mean for name in names), load


def test_a_node_of_twice_the_weight_has_twice_the_markets():
    nodes = [NodeInfo("a", weight=2.0), *map(NodeInfo, "bcd")]
    load = Counter(name for number in range(20_000) for name in owners(f"M{number}", nodes, 1))
    assert load["a"] / 20_000 == pytest.approx(2 / 5, rel=0.05)


@given(NAMES, REPLICAS, st.data())
def test_a_death_moves_the_markets_of_the_dead_node_only(names, replicas, data):
    zones = data.draw(st.sampled_from([(None,), ("x", "y"), ("x", "y", "z")]))
    nodes = with_zones(names, zones)
    dead = data.draw(st.sampled_from(nodes))
    before, after = kept(nodes, replicas), kept([node for node in nodes if node != dead], replicas)
    for market in MARKETS:
        if dead.name not in before[market]:
            assert after[market] == before[market]
        elif zones == (None,):
            assert before[market] - {dead.name} <= after[market]


@given(NAMES, REPLICAS)
def test_a_join_moves_markets_to_the_new_node_only(names, replicas):
    before, after = kept(names, replicas), kept([*names, "the-new-one"], replicas)
    assert all(after[market] - before[market] <= {"the-new-one"} for market in MARKETS)


def test_a_join_moves_one_of_n():
    markets = [f"M{number}" for number in range(20_000)]
    names = [f"node-{number}" for number in range(5)]
    before, after = kept(names, 2, markets), kept([*names, "new"], 2, markets)
    moved = sum(len(after[market] - before[market]) for market in markets)
    assert moved / (2 * len(markets)) == pytest.approx(1 / 6, rel=0.05)


@given(NAMES, st.integers(2, 3))
def test_replicas_are_in_different_zones_while_there_are_enough(names, replicas):
    nodes = with_zones(names, ("x", "y", "z"))
    zone_of = {node.name: node.zone for node in nodes}
    enough = len(set(zone_of.values()))
    for market, found in kept(nodes, replicas).items():
        assert len({zone_of[name] for name in found}) == min(replicas, enough, len(found)), market


@given(NAMES, REPLICAS, st.data())
def test_a_node_that_drains_owns_nothing_and_changes_nothing_else(names, replicas, data):
    leaver = data.draw(st.sampled_from(names))
    draining = [NodeInfo(name, is_draining=name == leaver) for name in names]
    assert kept(draining, replicas) == kept([name for name in names if name != leaver], replicas)


def test_all_draining_is_nobody():
    assert owners("BTCUSDT", [NodeInfo("a", is_draining=True)], 2) == ()


def test_the_function_is_that_of_every_other_version():
    """Nodes of two versions must agree during a rolling restart."""
    assert owners("BTCUSDT", "abcdef", 3) == FIXED[0]
    assert owners("ETHUSDT", [NodeInfo("a", "x"), NodeInfo("b", "x"), NodeInfo("c", "y", 0.1)], 2) == FIXED[1]


FIXED = (("b", "f", "c"), ("a", "c"))


@pytest.mark.parametrize(
    ("nodes", "replicas", "what"),
    [
        (["a"], 0, "replicas must be at least 1"),
        (["a", "a"], 1, "two nodes have the same name"),
        ([NodeInfo("a", weight=0.0)], 1, "the weight of a node is above 0"),
        ([NodeInfo("a", weight=float("nan"))], 1, "the weight of a node is above 0"),
    ],
)
def test_a_wrong_argument_is_named(nodes, replicas, what):
    with pytest.raises(ValueError, match=what):
        owners("BTCUSDT", nodes, replicas)
