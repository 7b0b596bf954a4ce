"""What a reader knows about one market: the newest of all replicas, how old it may be, and whether replicas agree.

Rule 1: the newest replica counts. A book that was shown is never followed by an older one.
Rule 2: an age is an upper bound by the reader's own clock: since the question was asked whose answer proves the book.
    A message that was delayed makes nothing young.
Rule 3: any node proves what is shown, if its own book is not past it: update ids are the exchange's.
Rule 4: two readable replicas that differ at the same id are both doubted, unless a majority agrees. Doubted ones are
    not read until they agree again.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import ldc
from ldc.cluster.message import Proof, Push, differ

IDS_KEPT = 32
"""Update ids of a market whose messages are kept for comparison."""

PROOFS_KEPT = 8
"""Proofs of a node that wait for the push of their book. The oldest is dropped: two seconds are over by then."""

DOUBT_S = 10.0
"""A doubted replica that did not differ again for so long is believed again: its audit has ended by then."""

RESTART_MS = 1000
"""A lower update id with an event time so much later means that the exchange restarted its ids."""


class Shown:
    """A book that can be shown."""

    __slots__ = ("_view", "node", "push", "received_time_ns")

    def __init__(self, push: Push, node: str, received_time_ns: int) -> None:
        self.push = push
        self.node = node
        self.received_time_ns = received_time_ns
        self._view: ldc.BookView[float] | None = None

    @property
    def view(self) -> ldc.BookView[float]:
        """The levels. Two threads may both make the view, with the same result."""
        view = self._view
        if view is None:
            view = self._view = self.push.view(self.received_time_ns)
        return view


NEVER = float("-inf")


class Summary(NamedTuple):
    """All that a read needs, as one immutable value: so that a read needs no lock."""

    shown: Shown | None = None
    proven_at: float = NEVER
    """When the shown book was proven to be current, at the latest, by the reader's clock."""
    answered_at: float = NEVER
    """When the last question was sent that a node answered about this market."""
    has_nodes: bool = False
    """Whether a node that is there has said something about the market."""
    cause: str | None = None
    """Why it can be read on no node, although nodes are there."""
    doubted_until: float = NEVER
    """Until when all readable replicas are doubted."""


class Disagreement(NamedTuple):
    """Two replicas had different books at the same update id."""

    market: str
    last_update_id: int
    nodes: tuple[str, ...]
    """All nodes of which one or more must be wrong; the majority, if there is one, is not among them."""


class ReplicaStatus(NamedTuple):
    """One replica of a market, as a reader sees it."""

    node: str
    synchronized: bool
    """Whether it can be read there."""
    last_update_id: int | None
    age_ms: float | None
    """How long ago its book was proven to be current, at most; None: never."""
    cause: str | None
    """Why it cannot be read there; None: it can."""
    is_doubted: bool
    """Whether it differed from another replica at the same update id."""
    lag: int | None
    """Updates by id that it is behind the newest replica; None: unknown."""


@dataclass(slots=True)
class _Replica:
    """What one node says about the market."""

    push: Push | None = None
    cause: str | None = "NOT_LOADED"
    proven_at: float = NEVER
    """By the reader's clock: when the question was sent whose answer was the last proof, less the age that it names."""
    proofs: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=PROOFS_KEPT))
    """Proofs (update id, time) of books that are newer than the one that is shown: their pushes are under way."""
    doubted_until: float = NEVER


@dataclass(slots=True)
class MarketReplicas:
    """All replicas of one market. Not thread-safe, but any thread may read `summary`."""

    market: str
    summary: Summary = field(default_factory=Summary)
    disagreements: int = 0
    _nodes: dict[str, _Replica] = field(default_factory=dict)
    _proven_at: float = NEVER
    _answered_at: float = NEVER
    _recent: "OrderedDict[int, dict[str, Push]]" = field(default_factory=OrderedDict)

    # ------------------------------------------------------------------------------------------ what nodes say

    def node_gone(self, name: str) -> None:
        """Forget a node. What it showed stays, until it is too old."""
        if self._nodes.pop(name, None) is not None:
            self._summarize(self.shown)

    def pushed(self, name: str, push: Push, received_time_ns: int, now: float) -> Disagreement | None:
        """Take a message of a node; return that it differs from another replica, if it does."""
        replica = self._nodes.setdefault(name, _Replica())
        shown, found = self.shown, None
        if push.cause is not None:
            replica.cause = push.cause
        else:
            replica.push, replica.cause = push, None
            found = self._compare(name, push, now)
            if found is not None:
                shown = self._best(received_time_ns, now) or shown
            elif replica.doubted_until <= now and (shown is None or is_newer(push, shown.push)):
                shown = Shown(push, name, received_time_ns)
        self._summarize(shown)
        return found

    def proven(self, name: str, proof: Proof, asked_at: float) -> bool:
        """Take an answer of a node; return whether a push is missing: the node has a newer book than it pushed."""
        replica = self._nodes.setdefault(name, _Replica())
        self._answered_at = max(self._answered_at, asked_at)
        replica.cause = proof.cause
        if proof.cause is None:
            replica.proven_at = max(replica.proven_at, asked_at - proof.age_s)
            replica.proofs.append((proof.last_update_id, asked_at - proof.age_s))
        self._summarize(self.shown)
        if proof.cause is not None:
            return False
        return replica.push is None or replica.push.last_update_id < proof.last_update_id

    # ------------------------------------------------------------------------------------------ what readers see

    @property
    def shown(self) -> Shown | None:
        """The newest book."""
        return self.summary.shown

    @property
    def nodes(self) -> list[str]:
        """The nodes that have said something and are still there."""
        return sorted(self._nodes)

    def statuses(self, now: float) -> list[ReplicaStatus]:
        """Return the status of each replica, by name."""
        newest = max((each.push.last_update_id for each in self._nodes.values() if each.push), default=None)
        return [
            ReplicaStatus(
                name,
                each.cause is None,
                None if each.push is None else each.push.last_update_id,
                None if each.proven_at == NEVER else round((now - each.proven_at) * 1000, 1),
                each.cause,
                each.doubted_until > now,
                None if each.push is None or newest is None else newest - each.push.last_update_id,
            )
            for name, each in sorted(self._nodes.items())
        ]

    # ------------------------------------------------------------------------------------------ inside

    def _compare(self, name: str, push: Push, now: float) -> Disagreement | None:
        """Compare a message with those of other nodes at the same id."""
        same = self._recent.setdefault(push.last_update_id, {})
        same[name] = push
        while len(self._recent) > IDS_KEPT:
            self._recent.popitem(last=False)
        others = [other for other in same if other != name]
        if not others:
            return None
        groups: list[list[str]] = []
        for each, its in same.items():
            for group in groups:
                if not differ(its, same[group[0]]):
                    group.append(each)
                    break
            else:
                groups.append([each])
        if len(groups) == 1:
            for each in same:
                if each in self._nodes:
                    self._nodes[each].doubted_until = NEVER
            return None
        groups.sort(key=len, reverse=True)
        wrong = groups[1:] if len(groups[0]) > len(groups[1]) else groups
        names = tuple(sorted(each for group in wrong for each in group))
        for each in names:
            if each in self._nodes:
                self._nodes[each].doubted_until = now + DOUBT_S
        self.disagreements += 1
        return Disagreement(self.market, push.last_update_id, names)

    def _best(self, received_time_ns: int, now: float) -> Shown | None:
        """Return the newest message of the nodes that are not doubted."""
        best: Shown | None = None
        for name, each in self._nodes.items():
            if each.push is not None and each.doubted_until <= now and (best is None or is_newer(each.push, best.push)):
                best = Shown(each.push, name, received_time_ns)
        return best

    def _use_proofs(self, replica: _Replica, shown_id: int) -> None:
        """Use the proofs of a node that hold for what is shown, and keep the others until their push is there."""
        for _ in range(len(replica.proofs)):
            proven_id, at = replica.proofs.popleft()
            if proven_id <= shown_id:
                self._proven_at = max(self._proven_at, at)
            else:
                replica.proofs.append((proven_id, at))

    def _summarize(self, shown: Shown | None) -> None:
        nodes = list(self._nodes.values())
        readable = [each for each in nodes if each.cause is None]
        if shown is not None:
            for each in nodes:
                self._use_proofs(each, shown.push.last_update_id)
        self.summary = Summary(
            shown,
            self._proven_at,
            self._answered_at,
            bool(nodes),
            nodes[0].cause if nodes and not readable else None,
            min((each.doubted_until for each in readable), default=NEVER),
        )


def is_newer(one: Push, other: Push) -> bool:
    """Return whether a book is newer than another: by its id, unless the event times say that ids were restarted."""
    if one.event_time_ms is not None and other.event_time_ms is not None:
        if abs(one.event_time_ms - other.event_time_ms) > RESTART_MS:
            return one.event_time_ms > other.event_time_ms
    return one.last_update_id > other.last_update_id
