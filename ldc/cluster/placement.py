"""Which nodes keep a market: `owners`, a pure function that every node and every reader computes alike.

Rule 1: rendezvous hashing. Each node has a score for each market; the best scores keep it. Nothing is agreed upon.
Rule 2: the score depends on the market and on that node only. So a death moves the markets of the dead node alone, and
    a node that joins takes its share from all others.
Rule 3: zones first. The replicas of a market are in different zones while there are enough zones.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MANTISSA_BITS = 53
"""Bits of a hash that are used: as many as a float has, so that no two hashes round to 1."""

WEIGHT_MAX = 1000.0
"""The largest weight of a node. A larger one is an error in a configuration."""


class NodeInfo(NamedTuple):
    """A node, as placement sees it."""

    name: str
    """Its name, unique in the cluster."""
    zone: str | None = None
    """Where it runs: nodes of one zone may fail together, or share an IP address. None: a zone of its own."""
    weight: float = 1.0
    """Its share of the markets, relative to the other nodes; above 0."""
    is_draining: bool = False
    """Whether it gives its markets away. It owns none then."""

    @property
    def place(self) -> tuple[str, str]:
        """What must differ between the replicas of a market, if possible: the zone, or the node without one."""
        return ("node", self.name) if self.zone is None else ("zone", self.zone)


def checked_weight(weight: float) -> float:
    """Return the weight; raise ``ValueError`` if no node can have it."""
    if not 0 < weight <= WEIGHT_MAX:
        raise ValueError(f"the weight of a node is above 0 and at most {WEIGHT_MAX:g}, not {weight}")
    return weight


def score(market: str, node: NodeInfo) -> float:
    """Return how far a node is from a market; the smallest scores keep it. Exponential, with the weight as its rate.

    The minimum of such scores belongs to each node with a probability in proportion to its weight.
    """
    digest = hashlib.blake2b(f"{node.name}\0{market}".encode(), digest_size=8).digest()
    uniform = ((int.from_bytes(digest, "big") >> (64 - MANTISSA_BITS)) + 0.5) / 2**MANTISSA_BITS
    return -math.log(uniform) / node.weight


def ranking(market: str, nodes: Iterable[NodeInfo]) -> list[NodeInfo]:
    """Return the nodes in the order in which they keep a market, the first choice first."""
    return sorted(nodes, key=lambda node: (score(market, node), node.name))


def chosen(ranked: Sequence[NodeInfo], replicas: int) -> list[NodeInfo]:
    """Return the owners of a market from its ranking: the first of each zone, then whatever is next."""
    places: set[tuple[str, str]] = set()
    first: list[NodeInfo] = []
    rest: list[NodeInfo] = []
    for node in ranked:
        if node.is_draining:
            continue
        if node.place not in places and len(first) < replicas:
            places.add(node.place)
            first.append(node)
        else:
            rest.append(node)
    return first + rest[: replicas - len(first)]


def owners(market: str, nodes: Iterable[str | NodeInfo], replicas: int) -> tuple[str, ...]:
    """Return the names of the nodes that keep a market, the first choice first. Pure; O(nodes x log nodes).

    Args:
        market: as the exchange spells it. Another spelling is another market.
        nodes: names, or `NodeInfo` with zones, weights and draining. Their order does not matter.
        replicas: how many keep it. Fewer are returned if there are not enough nodes.

    Raises ``ValueError`` for a wrong number of replicas, a wrong weight, or two nodes of one name.
    """
    if replicas < 1:
        raise ValueError(f"replicas must be at least 1, not {replicas}")
    known = [NodeInfo(node) if isinstance(node, str) else node for node in nodes]
    if len({node.name for node in known}) != len(known):
        raise ValueError(f"two nodes have the same name: {sorted(node.name for node in known)}")
    for node in known:
        checked_weight(node.weight)
    return tuple(node.name for node in chosen(ranking(market, known), replicas))
