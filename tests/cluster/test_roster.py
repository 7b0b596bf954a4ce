"""Who is there, by tokens; and how a token that the transport lost is noticed."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc.cluster.keys import NodeToken, ReplicaToken
from ldc.cluster.placement import NodeInfo
from ldc.cluster.roster import (
    HELLOS_MAX,
    Doubt,
    Hello,
    Roster,
    RosterChange,
    RosterEvent,
    digest_of,
    hello_from_bytes,
    replicas_from_bytes,
    replicas_to_bytes,
)
from ldc.cluster.rules import NodeState

JOINED, CHANGED, GONE = RosterEvent.JOINED, RosterEvent.CHANGED, RosterEvent.GONE
SYNCHRONIZED, WITHDRAWN = RosterEvent.SYNCHRONIZED, RosterEvent.WITHDRAWN


def token(name="a", instance="1", version=1):
    return NodeToken(NodeState(NodeInfo(name)), instance, version, "binance.com", 20, 0, None)


def replica(market="BTCUSDT", name="a", instance="1"):
    return ReplicaToken(market, name, instance)


@pytest.fixture
def roster():
    """One node, "a", with one market."""
    made = Roster()
    assert made.take_replica(replica(), True) == []  # tokens have no order
    assert made.take_node(token(), True) == [RosterChange(JOINED, "a"), RosterChange(SYNCHRONIZED, "a", "BTCUSDT")]
    return made


def test_a_node_that_goes_takes_its_replicas_with_it(roster):
    assert roster.holders == {"BTCUSDT": {"a"}}
    assert roster.take_node(token(), False) == [RosterChange(GONE, "a")]
    assert (roster.tokens, roster.holders) == ({}, {})
    assert roster.take_replica(replica(), False) == []


def test_a_new_state_is_a_change_and_the_end_of_the_old_one_is_none(roster):
    assert roster.take_node(token(version=2), True) == [RosterChange(CHANGED, "a")]
    assert roster.take_node(token(version=1), False) == []
    assert roster.take_node(token(version=1), True) == []
    assert roster.tokens["a"].version == 2


def test_a_restarted_process_is_another_one(roster):
    assert roster.take_node(token(instance="2"), True) == [RosterChange(GONE, "a"), RosterChange(JOINED, "a")]
    assert roster.holders == {}
    assert roster.take_node(token(instance="1"), False) == []
    assert roster.take_replica(replica(instance="1"), False) == []
    assert roster.take_replica(replica(instance="2"), True) == [RosterChange(SYNCHRONIZED, "a", "BTCUSDT")]


def test_a_replica_comes_and_goes(roster):
    assert roster.take_replica(replica("ETHUSDT"), True) == [RosterChange(SYNCHRONIZED, "a", "ETHUSDT")]
    assert roster.take_replica(replica("ETHUSDT"), True) == []
    assert roster.take_replica(replica(), False) == [RosterChange(WITHDRAWN, "a", "BTCUSDT")]
    assert roster.replicas_of("a") == {"ETHUSDT"}


def answers(roster, hello, times):
    return [roster.take_hello(hello) for _ in range(times)]


def test_what_fits_is_never_asked_for(roster):
    assert answers(roster, Hello("a", "1", 1, digest_of(["BTCUSDT"])), 20) == [None] * 20


def test_a_lost_token_of_a_node_is_asked_for_until_it_is_there(roster):
    hello = Hello("b", "1", 1, digest_of(()))
    assert answers(roster, hello, HELLOS_MAX) == [None] * (HELLOS_MAX - 1) + [Doubt.NODE]
    assert answers(roster, hello, HELLOS_MAX) == [None] * (HELLOS_MAX - 1) + [Doubt.NODE]
    roster.take_node(token("b", version=2), True)
    assert answers(roster, hello._replace(version=2), 20) == [None] * 20


def test_lost_tokens_of_replicas_are_taken_from_a_list(roster):
    hello = Hello("a", "1", 1, digest_of(["ETHUSDT", "SOLUSDT"]))
    assert answers(roster, hello, HELLOS_MAX)[-1] is Doubt.REPLICAS
    assert roster.take_replicas("a", *replicas_from_bytes(replicas_to_bytes("1", ["SOLUSDT", "ETHUSDT"]))) == [
        RosterChange(WITHDRAWN, "a", "BTCUSDT"),
        RosterChange(SYNCHRONIZED, "a", "ETHUSDT"),
        RosterChange(SYNCHRONIZED, "a", "SOLUSDT"),
    ]
    assert answers(roster, hello, 20) == [None] * 20


def test_a_list_of_a_predecessor_changes_nothing(roster):
    assert roster.take_replicas("a", "0", {"ETHUSDT"}) == []
    assert roster.holders == {"BTCUSDT": {"a"}}


def test_a_node_that_changes_all_the_time_is_not_asked(roster):
    assert [roster.take_hello(Hello("a", "1", 1, number)) for number in range(20)] == [None] * 20


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from("XYZ"), st.booleans())))
def test_the_index_of_holders_is_what_the_tokens_say(steps):
    roster, there = Roster(), set()
    for (name, instance, market, is_there), version in zip(steps, count(1)):
        if market == "Z":
            roster.take_node(token(name, instance, version), True)
        else:
            roster.take_replica(replica(market, name, instance), is_there)
            (there.add if is_there else there.discard)((market, name, instance))
        found = {(market, name) for market, names in roster.holders.items() for name in names}
        assert found == {(m, n) for m, n, i in there if n in roster.tokens and roster.tokens[n].instance == i}


@pytest.mark.parametrize("data", [b"", b"{}", b"[1, 2, 3]", b'["a", 1]', b'["a", 1, 1, 1]', b"\xff", b"null"])
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011 - the words are of json, or of ours
        hello_from_bytes(data)
    with pytest.raises(ValueError):  # noqa: PT011
        replicas_from_bytes(data)


def test_a_message_arrives_as_it_was_sent():
    assert hello_from_bytes(Hello("a", "0a1b", 3, 12345).to_bytes()) == Hello("a", "0a1b", 3, 12345)
