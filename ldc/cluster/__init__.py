"""Many machines: N markets x R replicas on M nodes.

    with ldc.cluster.connect("desk", connect=["tcp/10.0.0.1:7447"]) as books:
        books.get_book("BTCUSDT", 20)

A node is a process that keeps markets for a cluster (`ldc node`, or `Node`). Which node keeps which market is a pure
function, `owners`. Readers take the newest replica, and notice when nobody can prove a book any more.
"""

from ldc.cluster.node import Node, NodeStatus
from ldc.cluster.placement import NodeInfo, owners
from ldc.cluster.reader import ClusterBooks, ClusterNodeStatus, MarketStatus, connect
from ldc.cluster.replicas import Disagreement, ReplicaStatus

__all__ = [
    "ClusterBooks",
    "ClusterNodeStatus",
    "Disagreement",
    "MarketStatus",
    "Node",
    "NodeInfo",
    "NodeStatus",
    "ReplicaStatus",
    "connect",
    "owners",
]
