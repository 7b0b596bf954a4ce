"""The rules of one node, one situation a test. What many nodes do together is in test_cluster_histories.py."""

import pytest

from ldc.cluster.placement import NodeInfo, owners
from ldc.cluster.rules import DEFAULT_RULE_TIMING, Action, ActionKind, NodeRules, NodeState, RuleTiming
from ldc.cluster.wanted import WantedMarkets

TIMING = DEFAULT_RULE_TIMING
START, STOP, DECLARE, WITHDRAW = ActionKind.START, ActionKind.STOP, ActionKind.DECLARE, ActionKind.WITHDRAW


class Cluster:
    """The rules of node "a", and a clock that never stands still for long."""

    def __init__(self, markets, replicas=1, others="", timing=TIMING):
        self.wanted = WantedMarkets()
        self.wanted.name_at_start(markets, replicas)
        self.now = 100.0
        self.rules = NodeRules(NodeInfo("a"), self.wanted, self.now, timing)
        for name in others:
            self.rules.node_seen(NodeState(NodeInfo(name)), self.now)

    def after(self, seconds):
        """Let time pass; return all actions."""
        end, actions = self.now + seconds, []
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            actions += self.rules.decide(self.now)
        return actions

    def keeping(self, *markets):
        """Return the cluster with these markets synchronized here."""
        self.after(2.0)
        for market in markets:
            self.rules.synchronized(market)
        self.after(0.25)
        return self

    def join(self, name, **state):
        self.rules.node_seen(NodeState(NodeInfo(name), **state), self.now)

    def flap(self, name, times):
        for _ in range(times):
            self.join(name)
            self.after(0.5)
            self.rules.node_gone(name, self.now)
            self.after(0.5)
        self.join(name)


def market_of(first, *others, without=""):
    """Return a market whose first choice is that node, then the others in that order."""
    names = (first, *others)
    everybody = sorted(set(names) | set("abc") - set(without))
    return next(market for number in range(10_000) if owners(market := f"M{number}", everybody, len(names)) == names)


def test_a_node_looks_around_before_it_starts_markets():
    cluster = Cluster(["BTCUSDT"])
    assert cluster.after(TIMING.join_s - 0.25) == []
    assert cluster.after(0.5) == [Action(START, "BTCUSDT")]


def test_a_token_is_declared_when_the_market_can_be_read_and_withdrawn_when_not():
    cluster = Cluster(["BTCUSDT"])
    cluster.after(2.0)
    cluster.rules.synchronized("BTCUSDT")
    assert cluster.after(1.0) == [Action(DECLARE, "BTCUSDT")]
    assert cluster.rules.holders("BTCUSDT") == {"a"}
    cluster.rules.lost("BTCUSDT", cluster.now)
    assert cluster.after(1.0) == [Action(WITHDRAW, "BTCUSDT")]
    assert cluster.rules.holders("BTCUSDT") == set()
    cluster.rules.synchronized("BTCUSDT")
    assert cluster.after(1.0) == [Action(DECLARE, "BTCUSDT")]


def test_a_market_that_another_node_owns_is_given_away_when_that_node_has_it():
    market = market_of("b", "a")
    cluster = Cluster([market]).keeping(market)
    cluster.join("b")
    assert cluster.after(60.0) == []  # b may never be ready
    cluster.rules.replica_seen(market, "b")
    assert cluster.after(TIMING.leave_s) == [Action(WITHDRAW, market)]
    assert cluster.after(0.5) == [Action(STOP, market)]
    assert cluster.rules.held == {}


@pytest.mark.parametrize("why", ["replica_gone", "node_gone"])
def test_a_node_stays_when_the_owner_loses_the_market_meanwhile(why):
    market = market_of("b", "a")
    cluster = Cluster([market]).keeping(market)
    cluster.join("b")
    cluster.rules.replica_seen(market, "b")
    assert cluster.after(TIMING.leave_s) == [Action(WITHDRAW, market)]
    if why == "replica_gone":
        cluster.rules.replica_gone(market, "b")
    else:
        cluster.rules.node_gone("b", cluster.now)
    assert cluster.after(10.0) == [Action(DECLARE, market)]


def test_a_node_that_stood_still_waits_again_before_it_leaves():
    market = market_of("b", "a")
    cluster = Cluster([market]).keeping(market)
    cluster.join("b")
    cluster.rules.replica_seen(market, "b")
    cluster.after(1.0)
    cluster.now += 3600.0
    assert cluster.rules.decide(cluster.now) == []
    assert cluster.rules.standstills == 1
    assert cluster.after(TIMING.leave_s - 0.25) == []
    assert cluster.after(0.5) == [Action(STOP, market)]


def test_a_removed_market_stops_at_once():
    cluster = Cluster(["BTCUSDT", "ETHUSDT"]).keeping("BTCUSDT", "ETHUSDT")
    cluster.wanted.remove(["ETHUSDT"], "user")
    assert cluster.after(0.25) == [Action(WITHDRAW, "ETHUSDT"), Action(STOP, "ETHUSDT")]
    assert cluster.rules.held == {"BTCUSDT": True}


def test_draining_gives_away_what_others_have_and_nothing_else():
    market = market_of("a", "b")
    cluster = Cluster([market], others="b").keeping(market)
    cluster.rules.drain()
    assert cluster.rules.can_give
    assert cluster.after(5.0) == []
    assert not cluster.rules.is_drained
    cluster.rules.replica_seen(market, "b")
    assert cluster.after(4.0) == [Action(WITHDRAW, market), Action(STOP, market)]
    assert cluster.rules.is_drained
    cluster.rules.drain(False)
    assert cluster.after(1.0) == [Action(START, market)]


def test_the_last_node_cannot_give_anything_away():
    cluster = Cluster(["BTCUSDT"]).keeping("BTCUSDT")
    cluster.rules.drain()
    assert cluster.after(60.0) == []
    assert not cluster.rules.can_give
    assert not cluster.rules.is_drained


def test_a_node_that_accepts_nothing_is_passed_over_and_keeps_what_it_has():
    market, other = market_of("a", "b"), market_of("a", "c")
    cluster = Cluster([market], others="b").keeping(market)
    cluster.rules.accept(False)
    cluster.wanted.add([other], 1, "user")
    assert cluster.after(60.0) == []
    assert cluster.rules.owners_of(market, cluster.now) == ["a"]
    assert cluster.rules.owners_of(other, cluster.now) == ["b"]
    cluster.rules.accept(True)
    assert cluster.after(1.0) == [Action(START, other)]


def test_the_markets_of_a_node_that_accepts_nothing_are_taken_over_unless_it_has_them():
    market, other = market_of("b", "a"), market_of("b", "a", without="c")
    cluster = Cluster([market])
    cluster.join("b", accepts=False)
    assert cluster.after(2.0) == [Action(START, market)]
    cluster = Cluster([other])
    cluster.join("b", accepts=False)
    cluster.rules.replica_seen(other, "b")
    assert cluster.after(60.0) == []


def test_a_market_that_does_not_synchronize_here_is_left_to_its_owners():
    market = market_of("a", "b")
    cluster = Cluster([market], others="b")
    cluster.after(2.0)
    cluster.rules.accept(False)
    assert cluster.after(5.0) == [Action(STOP, market)]


def test_a_node_that_came_and_went_is_passed_over_for_a_while():
    market = market_of("b", "a")
    cluster = Cluster([market], others="c").keeping(market)
    cluster.flap("b", TIMING.flaps_max)
    assert cluster.rules.is_damped("b", cluster.now)
    assert cluster.rules.owners_of(market, cluster.now) == ["a"]
    cluster.after(TIMING.damping_s)
    assert cluster.rules.owners_of(market, cluster.now) == ["b"]


def test_two_departures_are_no_flapping_and_neither_are_three_in_an_hour():
    market = market_of("b", "a")
    cluster = Cluster([market], others="c").keeping(market)
    cluster.flap("b", TIMING.flaps_max - 1)
    assert cluster.rules.owners_of(market, cluster.now) == ["b"]
    cluster.after(TIMING.flap_window_s)
    cluster.flap("b", 1)
    assert cluster.rules.owners_of(market, cluster.now) == ["b"]


def test_a_node_that_flaps_is_better_than_none():
    market = market_of("b", "a")
    cluster = Cluster([market], replicas=2).keeping(market)
    cluster.flap("b", TIMING.flaps_max + 1)
    assert cluster.rules.owners_of(market, cluster.now) == ["b", "a"]


def test_starts_are_spread_and_those_without_any_replica_are_first():
    markets = [f"M{number}" for number in range(10)]
    cluster = Cluster(markets, replicas=2, others="b", timing=RuleTiming(starts_max=3))
    for market in markets[:8]:
        cluster.rules.replica_seen(market, "b")
    started = [action.market for action in cluster.after(2.0)]
    assert set(started[:2]) == {"M8", "M9"}
    assert len(started) == 3
    cluster.rules.synchronized("M8")
    assert [action.kind for action in cluster.after(0.25)] == [DECLARE, START]


def test_a_market_that_is_stuck_or_refused_keeps_no_other_waiting():
    cluster = Cluster(["A", "B", "C"], timing=RuleTiming(starts_max=1))
    assert cluster.after(2.0) == [Action(START, "A")]
    assert cluster.after(TIMING.stuck_s - 5) == []
    assert cluster.after(5.0) == [Action(START, "B")]
    cluster.rules.failed("B")
    assert cluster.after(0.25) == [Action(START, "C")]


def test_a_dead_node_s_markets_are_started_after_a_moment():
    market = market_of("b", "a")
    cluster = Cluster([market], others="b")
    cluster.rules.replica_seen(market, "b")
    assert cluster.after(5.0) == []
    cluster.rules.node_gone("b", cluster.now)
    assert cluster.rules.decide(cluster.now + 0.1) == []
    cluster.now += 0.1
    assert cluster.after(0.25) == [Action(START, market)]


def test_the_number_of_replicas_may_change():
    market = market_of("b", "a")
    cluster = Cluster([market], others="b")
    cluster.rules.replica_seen(market, "b")
    assert cluster.after(3.0) == []
    cluster.wanted.add([market], 2, "user")
    assert cluster.after(0.25) == [Action(START, market)]
    cluster.rules.synchronized(market)
    cluster.after(1.0)
    assert cluster.rules.holders(market) == {"a", "b"}
    cluster.wanted.add([market], 1, "user")
    assert cluster.after(5.0) == [Action(WITHDRAW, market), Action(STOP, market)]


def test_the_next_decision_is_never_in_the_past():
    market = market_of("b", "a")
    cluster = Cluster([market]).keeping(market)
    cluster.join("b")
    cluster.rules.replica_seen(market, "b")
    cluster.rules.decide(cluster.now)
    assert cluster.now < cluster.rules.next_due(cluster.now) <= cluster.now + TIMING.rest_s
    late = cluster.now + 100
    assert cluster.rules.next_due(late) >= late
