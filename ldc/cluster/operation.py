"""What an operator asks of a cluster: who is there, who keeps what, and changes of the list of markets.

Rule 1: a status asks every node. What a node does not answer in time is not there.
Rule 2: a change is made by one node, whichever answers first. The others merge its list.
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ldc
from ldc.cluster.message import Proof, proofs_from_bytes
from ldc.cluster.reader import ClusterBooks, ClusterNodeStatus
from ldc.cluster.wanted import Entry, checked_market, checked_replicas, entries_from_bytes

ANSWER_S = 2.0
"""Seconds that a node has for an answer."""


class ReplicaReport(NamedTuple):
    """One replica, as its node reports it."""

    node: str
    synchronized: bool
    last_update_id: int | None
    age_ms: float | None
    """How long ago its book was proven to be current, at most; None: it cannot be read."""


class ClusterReport(NamedTuple):
    """The whole cluster at one moment."""

    nodes: tuple[ClusterNodeStatus, ...]
    markets: Mapping[str, tuple[ReplicaReport, ...]]
    """The wanted markets, and those that a node still keeps."""
    promised: Mapping[str, int]
    """How many nodes shall keep each market; 0: it was removed."""

    @property
    def uncovered(self) -> list[str]:
        """The markets with fewer synchronized replicas than promised."""
        return [
            market
            for market, reports in self.markets.items()
            if sum(report.synchronized for report in reports) < self.promised.get(market, 0)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return it as `ldc cluster status --json` prints it."""
        return {
            "nodes": [node._asdict() for node in self.nodes],
            "markets": {
                market: {"replicas": [report._asdict() for report in reports]}
                for market, reports in self.markets.items()
            },
        }


def wait_for_nodes(books: ClusterBooks, timeout: float) -> list[ClusterNodeStatus]:
    """Return the nodes, as soon as one is there and no other follows.

    Raises `DepthCacheClusterNotReachableError` after `timeout` seconds without any.
    """
    give_up_at = time.monotonic() + timeout
    nodes: list[ClusterNodeStatus] = []
    while time.monotonic() < give_up_at:
        before, nodes = nodes, books.nodes()
        if nodes and nodes == before:
            return nodes
        time.sleep(0.2)
    if nodes:
        return nodes
    url = ", ".join(books.endpoints) or "the endpoints of the configuration"
    raise ldc.DepthCacheClusterNotReachableError(
        url,
        None,
        f"No node of the cluster {books.cluster!r} can be reached at {url}: start one, or check the endpoint.",
    )


def wanted_list(books: ClusterBooks) -> dict[str, Entry]:
    """Return the list of markets of the first node that answers."""
    for node in books.nodes():
        data = books.ask(node.name, "wanted", timeout=ANSWER_S)
        if data is not None:
            return entries_from_bytes(data)
    raise ldc.DepthCacheClusterNotReachableError(books.cluster, None, f"No node of {books.cluster!r} answers.")


def report(books: ClusterBooks) -> ClusterReport:
    """Ask every node, and return what they say. Seconds pass if one of them hangs."""
    entries = wanted_list(books)
    found: dict[str, list[ReplicaReport]] = {market: [] for market, entry in entries.items() if entry.is_wanted}
    nodes = books.nodes()
    for node in nodes:
        asked_at = time.monotonic()
        data = books.ask(node.name, "proof", timeout=ANSWER_S)
        took_s = time.monotonic() - asked_at
        for proof in () if data is None else proofs_from_bytes(data):
            found.setdefault(proof.market, []).append(_reported(node.name, proof, took_s))
    return ClusterReport(
        tuple(nodes),
        {market: tuple(reports) for market, reports in sorted(found.items())},
        {market: entry.replicas for market, entry in entries.items()},
    )


def _reported(node: str, proof: Proof, took_s: float) -> ReplicaReport:
    is_readable = proof.cause is None
    age_ms = round((proof.age_s + took_s) * 1000, 1) if is_readable else None
    return ReplicaReport(node, is_readable, proof.last_update_id or None, age_ms)


def add(books: ClusterBooks, markets: Iterable[str], replicas: int) -> list[str]:
    """Let the cluster keep these markets; return those for which that is a change."""
    checked_replicas(replicas)
    return _change(books, "add", {"markets": [checked_market(each.upper()) for each in markets], "replicas": replicas})


def remove(books: ClusterBooks, markets: Iterable[str]) -> list[str]:
    """Let the cluster keep these markets no more; return those for which that is a change."""
    return _change(books, "remove", {"markets": [checked_market(each.upper()) for each in markets]})


def drain(books: ClusterBooks, node: str, is_draining: bool = True) -> None:
    """Let a node give all its markets away, or with False take markets again. It serves on until others have them.

    Raises ``ValueError`` for a node that does not answer.
    """
    if _asked(books, node, "drain", {"is_draining": is_draining}) is None:
        known = ", ".join(each.name for each in books.nodes())
        raise ValueError(f"node {node!r} does not answer; the nodes of {books.cluster!r} are {known}")


def _change(books: ClusterBooks, question: str, request: dict[str, Any]) -> list[str]:
    for node in books.nodes():
        answer = _asked(books, node.name, question, request)
        if answer is not None:
            return [str(market) for market in answer["changed"]]
    raise ldc.DepthCacheClusterNotReachableError(books.cluster, None, f"No node of {books.cluster!r} answers.")


def _asked(books: ClusterBooks, node: str, question: str, request: dict[str, Any]) -> dict[str, Any] | None:
    data = books.ask(node, question, json.dumps(request).encode(), timeout=ANSWER_S)
    if data is None:
        return None
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise ValueError(f"node {node!r} refuses: {answer['error']}")
    return answer
