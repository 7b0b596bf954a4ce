"""Many machines: N markets x R replicas on M nodes.

A node is a process that keeps markets for a cluster (`ldc node`). Which node keeps which market is a pure function,
`owners`. Readers take the newest replica and notice when nobody can prove a book any more.
"""

from ldc.cluster.placement import NodeInfo, owners

__all__ = ["NodeInfo", "owners"]
