"""The keys under which a cluster speaks, and what a node says about itself in the key of its token.

| key | what |
| --- | --- |
| `ldc/1/<cluster>/node/<name>/<instance>/<version>/<state>` | token of a node; a new state, a new version |
| `ldc/1/<cluster>/replica/<market>/<name>/<instance>` | token: the node has the market synchronized, and stays |
| `ldc/1/<cluster>/top/<market>/<name>` | pushes of a market's best levels |
| `ldc/1/<cluster>/hello/<name>` | which tokens a node has, every 0.25 s: `ldc.cluster.roster` |
| `ldc/1/<cluster>/ask/<name>/<question>` | questions to one node |

Tokens are Zenoh's liveliness tokens.

Rule 1: everything that rules decide upon is in tokens. They are delivered reliably, and end with their node.
Rule 2: a token names the instance. So the end of a process that was restarted is not taken for that of the new one.
"""

import json
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ldc.cluster.placement import NodeInfo, checked_weight
from ldc.cluster.rules import NodeState

PROTOCOL = "ldc/1"
"""The head of all keys. What is incompatible has another number, so that two versions do not mix."""

NAME_CHARACTERS_MAX = 64
"""Characters of the name of a cluster, a node or a zone."""


def checked_name(what: str, name: str) -> str:
    """Return a name; raise ``ValueError`` if it cannot be a part of a key."""
    is_plain = all(each.isascii() and (each.isalnum() or each in "-_.") for each in name)
    if not is_plain or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise ValueError(
            f"{what} must have 1 to {NAME_CHARACTERS_MAX} of the characters a-z A-Z 0-9 - _ . and is {name!r}"
        )
    return name


class NodeToken(NamedTuple):
    """What the key of a node's token says."""

    state: NodeState
    instance: str
    """Another one for each start of a process."""
    version: int
    """Counts the states of an instance."""
    exchange: str
    levels: int
    """Levels a side that it pushes."""
    wanted_digest: int
    """Of its list of markets."""
    gateway: str | None
    """The base URI of its gateway, if it has one."""


class ReplicaToken(NamedTuple):
    """What the key of a replica's token says."""

    market: str
    name: str
    instance: str


class Keys:
    """The keys of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.cluster = checked_name("the name of a cluster", cluster)
        self._root = f"{PROTOCOL}/{cluster}"

    def node(self, token: NodeToken) -> str:
        """Return the key of a node's token."""
        info = token.state.info
        fields = {
            "zone": info.zone,
            "weight": info.weight,
            "is_draining": info.is_draining,
            "accepts": token.state.accepts,
            "exchange": token.exchange,
            "levels": token.levels,
            "wanted_digest": token.wanted_digest,
            "gateway": token.gateway,
        }
        text = quote(json.dumps(fields, separators=(",", ":")), safe="")
        return f"{self._root}/node/{info.name}/{token.instance}/{token.version}/{text}"

    @property
    def nodes(self) -> str:
        """All tokens of nodes."""
        return f"{self._root}/node/*/*/*/*"

    def nodes_named(self, name: str) -> str:
        """All tokens of nodes of that name."""
        return f"{self._root}/node/{name}/*/*/*"

    def replica(self, token: ReplicaToken) -> str:
        """Return the key of a replica's token."""
        return f"{self._root}/replica/{quote(token.market, safe='')}/{token.name}/{token.instance}"

    @property
    def replicas(self) -> str:
        """All tokens of replicas."""
        return f"{self._root}/replica/*/*/*"

    def hello(self, name: str) -> str:
        """Return the key of what a node says about its tokens."""
        return f"{self._root}/hello/{name}"

    @property
    def hellos(self) -> str:
        """What all nodes say about their tokens."""
        return self.hello("*")

    def top(self, market: str, name: str) -> str:
        """Return the key of a node's pushes of a market; "*" is every node."""
        return f"{self._root}/top/{quote(market, safe='')}/{name}"

    def ask(self, name: str, question: str) -> str:
        """Return the key of a question to a node; "*" is every question."""
        return f"{self._root}/ask/{name}/{question}"

    def node_token(self, key: str) -> NodeToken | None:
        """Return what the key of a node's token says; None for one that is none: another version may write others."""
        try:
            name, instance, version, text = key.removeprefix(f"{self._root}/node/").split("/")
            fields: Any = json.loads(unquote(text))
            zone, gateway = fields["zone"], fields["gateway"]
            info = NodeInfo(
                checked_name("the name of a node", name),
                None if zone is None else checked_name("a zone", str(zone)),
                checked_weight(float(fields["weight"])),
                bool(fields["is_draining"]),
            )
            return NodeToken(
                NodeState(info, bool(fields["accepts"])),
                instance,
                int(version),
                str(fields["exchange"]),
                int(fields["levels"]),
                int(fields["wanted_digest"]),
                None if gateway is None else str(gateway),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def replica_token(self, key: str) -> ReplicaToken | None:
        """Return what the key of a replica's token says; None for one that is none."""
        parts = key.removeprefix(f"{self._root}/replica/").split("/")
        return ReplicaToken(unquote(parts[0]), parts[1], parts[2]) if len(parts) == 3 else None

    def last_of(self, key: str) -> str:
        """Return the last part of a key: the question, or the node that pushed."""
        return key.rsplit("/", 1)[-1]
