"""Who is there, and who has declared what: the tokens of a cluster, as one process sees them. Without I/O.

Rule 1: tokens say it. They arrive at once, and they end with their node.
Rule 2: a token may get lost while two processes connect again (seen with Zenoh 1.10.2, after a process was stopped and
    continued, with two links between them). The session is there, other messages arrive, and the token never does.
Rule 3: so each node says every `HELLO_S` which tokens it has. A process that misses one for `HELLOS_MAX` messages asks:
    the node declares its own token again under a new key, which arrives; its replicas are taken from a list.
Rule 4: a message of rule 3 ends nothing and begins nothing by itself. It only leads to a question.
"""

import enum
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ldc.cluster.keys import NodeToken, ReplicaToken
from ldc.cluster.wanted import MARKETS_MAX, checked_market

HELLO_S = 0.25
"""Seconds between two messages of a node about its tokens."""

HELLOS_MAX = 4
"""Equal messages in a row that do not fit what is known, before the node is asked. Tokens are faster than three."""


class RosterEvent(enum.Enum):
    """What has changed."""

    JOINED = "joined"
    CHANGED = "changed"
    """A node says something else about itself."""
    GONE = "gone"
    """A node, with all its replicas. No WITHDRAWN follows."""
    SYNCHRONIZED = "synchronized"
    WITHDRAWN = "withdrawn"


class RosterChange(NamedTuple):
    """One change."""

    event: RosterEvent
    name: str
    """Of the node."""
    market: str | None = None


class Hello(NamedTuple):
    """What a node says about its tokens."""

    name: str
    """Of the node, because a message may arrive under a wrong key."""
    instance: str
    version: int
    """Of its own token."""
    replicas_digest: int
    """Of the markets that it has declared: `digest_of`."""

    def to_bytes(self) -> bytes:
        """Return it as it is sent."""
        return json.dumps(self).encode()


class Doubt(enum.Enum):
    """What a process misses of a node, and the question to that node."""

    NODE = "declare"
    REPLICAS = "replicas"


def hello_from_bytes(data: bytes) -> Hello:
    """Return the message. Raises ``ValueError`` for bytes that are none."""
    match json.loads(data):
        case [str(name), str(instance), int(version), int(digest)]:
            return Hello(name, instance, version, digest)
    raise ValueError("a message about tokens has a name, an instance, a version and a digest")


def digest_of(markets: Iterable[str]) -> int:
    """Return a number that is the same for equal sets of markets, on every machine."""
    return zlib.crc32("\n".join(sorted(markets)).encode())


def replicas_to_bytes(instance: str, markets: Iterable[str]) -> bytes:
    """Return the list of the markets that an instance has declared, as it is sent."""
    return json.dumps({"instance": instance, "markets": sorted(markets)}).encode()


def replicas_from_bytes(data: bytes) -> tuple[str, set[str]]:
    """Return the instance and its markets. Raises ``ValueError`` for bytes that are none."""
    found: Any = json.loads(data)
    match found:
        case {"instance": str(instance), "markets": list(markets)} if len(markets) <= MARKETS_MAX:
            return instance, {checked_market(str(market)) for market in markets}
    raise ValueError("a list of replicas has an instance and markets")


class Roster:
    """The nodes that are there and the replicas that they have declared. Not thread-safe."""

    def __init__(self) -> None:
        self._tokens: dict[str, NodeToken] = {}
        self._replicas: dict[tuple[str, str], set[str]] = {}
        """Declared markets by node and instance, whether or not the node's own token is there already."""
        self._digests: dict[tuple[str, str], int] = {}
        self._holders: dict[str, set[str]] = {}
        self._doubts: dict[str, tuple[Hello, int]] = {}
        """The last message that did not fit, and how many like it came in a row."""

    @property
    def tokens(self) -> Mapping[str, NodeToken]:
        """The nodes that are there, by name."""
        return self._tokens

    @property
    def holders(self) -> Mapping[str, set[str]]:
        """The nodes that have declared a market, by market. No market has an empty set."""
        return self._holders

    def replicas_of(self, name: str) -> set[str]:
        """Return the markets that a node has declared."""
        token = self._tokens.get(name)
        return set() if token is None else self._replicas.get((name, token.instance), set())

    def take_node(self, token: NodeToken, is_there: bool) -> list[RosterChange]:
        """Take that the token of a node came or went."""
        name = token.state.info.name
        known = self._tokens.get(name)
        if not is_there:
            if known is not None and (known.instance, known.version) == (token.instance, token.version):
                return self._forget(name)
            return []
        if known is not None and known.instance == token.instance:
            if known.version >= token.version:
                return []
            self._tokens[name] = token
            return [RosterChange(RosterEvent.CHANGED, name)]
        changes = [] if known is None else self._forget(name)
        self._tokens[name] = token
        changes.append(RosterChange(RosterEvent.JOINED, name))
        changes += [self._hold(name, market) for market in sorted(self.replicas_of(name))]
        return changes

    def take_replica(self, token: ReplicaToken, is_there: bool) -> list[RosterChange]:
        """Take that the token of a replica came or went."""
        known = self._replicas.get((token.name, token.instance), set())
        if (token.market in known) == is_there:
            return []
        return self.take_replicas(
            token.name, token.instance, known | {token.market} if is_there else known - {token.market}
        )

    def take_replicas(self, name: str, instance: str, markets: set[str]) -> list[RosterChange]:
        """Take all markets that an instance of a node has declared."""
        before = self._replicas.pop((name, instance), set())
        self._digests.pop((name, instance), None)
        if markets:
            self._replicas[name, instance] = set(markets)
        token = self._tokens.get(name)
        if token is None or token.instance != instance:
            return []
        changes = [self._release(name, market) for market in sorted(before - markets)]
        return changes + [self._hold(name, market) for market in sorted(markets - before)]

    def take_hello(self, hello: Hello) -> Doubt | None:
        """Take what a node says about its tokens; return what to ask it, if one is missing here."""
        name = hello.name
        doubt = self._doubt(name, hello)
        before, count = self._doubts.pop(name, (None, 0))
        if doubt is None:
            return None
        count = count + 1 if before == hello else 1
        self._doubts[name] = hello, count % HELLOS_MAX
        return doubt if count >= HELLOS_MAX else None

    def _doubt(self, name: str, hello: Hello) -> Doubt | None:
        token = self._tokens.get(name)
        if token is None or (token.instance, token.version) != (hello.instance, hello.version):
            return Doubt.NODE
        place = name, hello.instance
        digest = self._digests.get(place)
        if digest is None:
            digest = self._digests[place] = digest_of(self._replicas.get(place, ()))
        return None if digest == hello.replicas_digest else Doubt.REPLICAS

    def _forget(self, name: str) -> list[RosterChange]:
        for market in self.replicas_of(name):
            self._release(name, market)
        del self._tokens[name]
        return [RosterChange(RosterEvent.GONE, name)]

    def _hold(self, name: str, market: str) -> RosterChange:
        self._holders.setdefault(market, set()).add(name)
        return RosterChange(RosterEvent.SYNCHRONIZED, name, market)

    def _release(self, name: str, market: str) -> RosterChange:
        holders = self._holders[market]
        holders.discard(name)
        if not holders:
            del self._holders[market]
        return RosterChange(RosterEvent.WITHDRAWN, name, market)
