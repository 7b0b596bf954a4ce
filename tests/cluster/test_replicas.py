"""What a reader makes of the replicas of one market: the newest, its age, and whether they agree."""

import pytest

import ldc
from ldc.cluster.message import Proof, Push
from ldc.cluster.replicas import DOUBT_S, IDS_KEPT, NEVER, MarketReplicas, is_newer


def push(update_id, bid=100.0, event_ms=None, cause=None):
    view = ldc.BookView(((bid, 1.0),), ((bid + 1, 1.0),), update_id, event_ms, None, None, None, None)
    return Push("BTCUSDT", update_id, event_ms, cause, view if cause is None else None)


def proof(update_id, age_s=0.0, cause=None):
    return Proof("BTCUSDT", update_id, age_s, cause)


@pytest.fixture
def market():
    return MarketReplicas("BTCUSDT")


def shown(market):
    return market.shown and (market.shown.push.last_update_id, market.shown.node)


def test_the_newest_replica_is_shown_and_never_an_older_one(market):
    market.pushed("a", push(5), 0, 1.0)
    market.pushed("b", push(7), 0, 1.0)
    market.pushed("a", push(6), 0, 1.0)
    assert shown(market) == (7, "b")
    market.node_gone("b")
    assert shown(market) == (7, "b")
    market.pushed("a", push(8), 0, 1.0)
    assert shown(market) == (8, "a")


def test_ids_that_were_restarted_are_noticed_by_the_event_times(market):
    market.pushed("a", push(1000, event_ms=50_000), 0, 1.0)
    market.pushed("b", push(1001, event_ms=50_100), 0, 1.0)
    market.pushed("a", push(3, event_ms=50_500), 0, 1.0)
    assert shown(market) == (1001, "b")  # half a second may be a replica that lags
    market.pushed("a", push(9, event_ms=51_200), 0, 1.0)
    assert shown(market) == (9, "a")
    assert not is_newer(push(1002, event_ms=50_100), push(9, event_ms=51_200))


def test_an_age_counts_from_the_question_and_adds_what_the_node_named(market):
    market.pushed("a", push(5), 0, 10.0)
    assert market.summary.proven_at == NEVER
    market.proven("a", proof(5, age_s=0.5), asked_at=10.0)
    assert market.summary.proven_at == 9.5
    assert market.summary.answered_at == 10.0


def test_a_message_alone_proves_nothing(market):
    market.pushed("a", push(5), 0, 10.0)
    market.proven("a", proof(5), asked_at=10.0)
    market.pushed("a", push(6), 0, 3600.0)  # it may have been under way for an hour
    assert market.summary.proven_at == 10.0


def test_any_node_proves_a_book_that_it_is_not_past(market):
    market.pushed("a", push(7), 0, 1.0)
    market.pushed("b", push(6), 0, 1.0)
    market.proven("b", proof(6), asked_at=2.0)
    assert market.summary.proven_at == 2.0
    market.proven("b", proof(8), asked_at=3.0)  # b is past what is shown: its push is under way
    assert market.summary.proven_at == 2.0
    market.pushed("b", push(8), 0, 1.0)
    assert market.summary.proven_at == 3.0


def test_a_missing_push_is_noticed(market):
    market.pushed("a", push(7), 0, 1.0)
    assert not market.proven("a", proof(7), asked_at=2.0)
    assert market.proven("a", proof(8), asked_at=2.0)
    assert market.proven("b", proof(8), asked_at=2.0)
    assert not market.proven("a", proof(8, cause="GAP"), asked_at=2.0)


def test_a_proof_never_makes_a_book_older(market):
    market.pushed("a", push(7), 0, 1.0)
    market.proven("a", proof(7), asked_at=2.0)
    for number in range(100):
        market.proven("a", proof(8 + number), asked_at=3.0 + number)
        assert market.summary.proven_at == 2.0
    market.pushed("a", push(106), 0, 1.0)
    assert market.summary.proven_at == 3.0 + 98


def test_an_answer_that_was_overtaken_proves_nothing_new(market):
    market.pushed("a", push(7), 0, 1.0)
    market.proven("a", proof(7), asked_at=5.0)
    market.proven("a", proof(6), asked_at=4.0)
    assert market.summary.proven_at == 5.0


def test_the_last_proof_of_a_node_outlives_it(market):
    market.pushed("a", push(7), 0, 1.0)
    market.proven("a", proof(7), asked_at=2.0)
    market.node_gone("a")
    market.node_gone("a")
    assert market.summary.proven_at == market.summary.answered_at == 2.0
    assert not market.summary.has_nodes


def test_a_cause_counts_when_no_replica_can_be_read(market):
    market.pushed("a", push(7), 0, 1.0)
    market.pushed("b", push(7), 0, 1.0)
    market.pushed("a", push(7, cause="GAP"), 0, 1.0)
    assert market.summary.cause is None
    market.pushed("b", push(7, cause="STREAM_CLOSED"), 0, 1.0)
    assert market.summary.cause in ("GAP", "STREAM_CLOSED")
    market.node_gone("b")
    assert market.summary.cause == "GAP"
    market.pushed("a", push(8), 0, 1.0)
    assert market.summary.cause is None


def test_two_replicas_that_differ_are_both_doubted(market):
    market.pushed("a", push(7, bid=100.0), 0, 1.0)
    found = market.pushed("b", push(7, bid=99.0), 0, 1.0)
    assert found == ("BTCUSDT", 7, ("a", "b"))
    assert market.disagreements == 1
    assert market.summary.doubted_until == 1.0 + DOUBT_S
    market.pushed("a", push(8), 0, 2.0)
    assert shown(market)[0] == 7
    assert all(each.is_doubted for each in market.statuses(2.0))


def test_replicas_that_agree_again_are_believed(market):
    market.pushed("a", push(7, bid=100.0), 0, 1.0)
    market.pushed("b", push(7, bid=99.0), 0, 1.0)
    market.pushed("a", push(8), 0, 2.0)
    assert market.pushed("b", push(8), 0, 2.0) is None
    assert market.summary.doubted_until == NEVER
    assert shown(market) == (8, "b")


def test_a_doubt_ends(market):
    market.pushed("a", push(7, bid=100.0), 0, 1.0)
    market.pushed("b", push(7, bid=99.0), 0, 1.0)
    market.pushed("a", push(9), 0, 1.0 + DOUBT_S)
    assert shown(market) == (9, "a")


@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_a_majority_is_believed(market, order):
    bids = {"a": 100.0, "b": 100.0, "c": 99.0}
    for name in order:
        market.pushed(name, push(7, bid=bids[name]), 0, 1.0)
    assert {each.node: each.is_doubted for each in market.statuses(1.5)}["c"]
    assert market.shown.push.view(0).bids == ((100.0, 1.0),)
    market.pushed("a", push(8), 0, 2.0)
    market.pushed("b", push(8), 0, 2.0)
    assert market.summary.doubted_until == NEVER
    assert shown(market) == (8, "b") or shown(market) == (8, "a")


def test_replicas_are_compared_at_the_last_ids_only(market):
    for update_id in range(1, IDS_KEPT + 2):
        market.pushed("a", push(update_id), 0, 1.0)
    assert market.pushed("b", push(1, bid=99.0), 0, 1.0) is None
    assert market.pushed("b", push(IDS_KEPT + 1, bid=99.0), 0, 1.0) is not None


def test_the_statuses_say_how_far_behind_each_is(market):
    market.pushed("b", push(9), 0, 1.0)
    market.pushed("a", push(7), 0, 1.0)
    market.proven("a", proof(7, age_s=0.25), asked_at=1.0)
    market.proven("c", proof(0, cause="NOT_LOADED"), asked_at=1.0)
    one, two, three = market.statuses(2.0)
    assert (one.node, one.synchronized, one.last_update_id, one.age_ms, one.lag) == ("a", True, 7, 1250.0, 2)
    assert (two.node, two.age_ms, two.lag) == ("b", None, 0)
    assert (three.node, three.synchronized, three.cause, three.lag) == ("c", False, "NOT_LOADED", None)
