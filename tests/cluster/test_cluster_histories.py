"""Clusters in virtual time, each history a seed: `cluster_history` says what happens in it and what must hold.

``LDC_CLUSTER_SEED=<seed>`` runs that one alone. ``LDC_CLUSTER_HISTORIES=<count>``: fewer or more than 10,000 in all.
"""

import os

import pytest
from cluster_history import ClusterHistory, run_cluster_seed

BLOCK = 250
SEEDS = [int(os.environ["LDC_CLUSTER_SEED"])] if "LDC_CLUSTER_SEED" in os.environ else range(40)
MORE_SEEDS = range(40, int(os.environ.get("LDC_CLUSTER_HISTORIES", "10000")))


def test_a_cluster_keeps_its_promises():
    for seed in SEEDS:
        run_cluster_seed(seed)


@pytest.mark.check
@pytest.mark.parametrize("first", range(MORE_SEEDS.start, MORE_SEEDS.stop, BLOCK))
def test_more_clusters_keep_their_promises(first):
    for seed in range(first, min(first + BLOCK, MORE_SEEDS.stop)):
        run_cluster_seed(seed)


def test_a_history_is_its_seed():
    one, other = ClusterHistory(9), ClusterHistory(9)
    one.run()
    other.run()
    assert one.changes == other.changes
    assert len(one.changes) > 30


def broken_rules(monkeypatch, name, replacement):
    monkeypatch.setattr(f"ldc.cluster.rules.NodeRules.{name}", replacement)


def first_objection(count):
    for seed in range(count):
        try:
            run_cluster_seed(seed)
        except AssertionError as error:
            return str(error)
    return None


def test_a_node_that_leaves_before_others_are_ready_is_found(monkeypatch):
    def leave(self, market, held, names, now, actions):
        self._stop(market, actions)

    broken_rules(monkeypatch, "_leave", leave)
    assert "are promised" in (first_objection(30) or "")


def test_a_node_that_is_never_taken_back_is_found(monkeypatch):
    broken_rules(monkeypatch, "is_damped", lambda self, name, now: name in self._departures)
    assert first_objection(30) is not None
