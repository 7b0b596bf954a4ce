"""The rules of a node: which markets it starts, which it gives away, and when. Without I/O; `now` is an argument.

Every node runs the same rules on what it sees of the others. Nothing is agreed upon: two halves of a cluster that do
not see each other both keep all markets, which is safe, because a replica is proven by its update ids.

Rule 1: make before break. A node that loses a market keeps it until all new owners are synchronized.
Rule 2: leaving is announced. The node withdraws its token, serves on for `leave_s`, and looks again. If an owner has
    withdrawn its own token meanwhile, it stays. So two nodes cannot leave in reliance on each other.
Rule 3: a node that does not accept markets (banned, or no request weight left) keeps those that it has synchronized,
    and is passed over for the others.
Rule 4: damping. A node that came and went `flaps_max` times in `flap_window_s` is passed over for `damping_s` after its
    return, unless fewer than the promised replicas are left without it.
Rule 5: starts are spread. At most `starts_max` markets synchronize at a time; those with the fewest replicas first.
Rule 6: a node that stood still (SIGSTOP, a debugger) trusts nothing that it saw before: all that it leaves waits again.
"""

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ldc.cluster.placement import NodeInfo, chosen, ranking
from ldc.cluster.wanted import WantedMarkets


@dataclass(frozen=True, slots=True)
class RuleTiming:
    """How long the rules wait for what, in seconds, and their limits."""

    join_s: float = 1.0
    """A node that starts looks around for so long before its first decision."""
    settle_s: float = 0.2
    """Starts wait for so long after a node came or went: several often do so together."""
    leave_s: float = 3.0
    """A node that leaves a market serves on for so long after it withdrew its token. Longer than it takes to notice a
    node that hangs (the lease of the transport, 1 s) and for the notice to arrive."""
    flaps_max: int = 3
    """Departures of a node in `flap_window_s` from which on it is damped."""
    flap_window_s: float = 60.0
    damping_s: float = 10.0
    """A damped node is taken back after so long without another departure."""
    starts_max: int = 100
    """Markets that synchronize at the same time. 100 first snapshots weigh 500 of 4,800 that a minute allows."""
    stuck_s: float = 30.0
    """A market that has synchronized for so long counts no more against `starts_max`: others must not wait for it."""
    standstill_s: float = 1.0
    """A node that has not decided for so long has stood still."""
    rest_s: float = 1.0
    """The longest time between two decisions."""


DEFAULT_RULE_TIMING = RuleTiming()


class NodeState(NamedTuple):
    """What a node says about itself."""

    info: NodeInfo
    accepts: bool = True
    """Whether it takes more markets: it is not banned, and has request weight left."""


class ActionKind(enum.Enum):
    """What a node shall do with a market."""

    START = "start"
    """Create its depth cache."""
    STOP = "stop"
    """Stop its depth cache."""
    DECLARE = "declare"
    """Declare its replica token: the market is synchronized here, and will stay."""
    WITHDRAW = "withdraw"
    """Withdraw that token. The market is served on, if it is synchronized."""


class Action(NamedTuple):
    """One action, to be carried out at once."""

    kind: ActionKind
    market: str


@dataclass(slots=True)
class _Held:
    """A market that this node keeps."""

    started_at: float
    is_synchronized: bool = False
    has_failed: bool = False
    is_declared: bool = False
    leaving_since: float | None = None


@dataclass(slots=True)
class _Member:
    """Another node."""

    state: NodeState
    seen_at: float


@dataclass(slots=True)
class _Market:
    """What is known about one market."""

    ranked: list[NodeInfo] | None = None
    """All nodes in the order of their scores; None: to be computed."""
    holders: set[str] = field(default_factory=set)
    """Other nodes that have declared a replica."""


class NodeRules:
    """The state machine of one node. Not thread-safe.

    Report what happens with the methods that take `now`. Then carry out what `decide` returns, and call it again at
    `next_due` or after the next report.
    """

    def __init__(
        self, info: NodeInfo, wanted: WantedMarkets, now: float, timing: RuleTiming = DEFAULT_RULE_TIMING
    ) -> None:
        self.state = NodeState(info)
        """What this node says about itself; to be published when it changes."""
        self.timing = timing
        self._wanted = wanted
        self._members: dict[str, _Member] = {}
        self._departures: dict[str, deque[float]] = {}
        self._markets: dict[str, _Market] = {}
        self._held: dict[str, _Held] = {}
        self._decided_at = now
        self._settled_at = now + timing.join_s
        self.standstills = 0
        """How often this node stood still."""

    # ------------------------------------------------------------------------------------------ other nodes

    def node_seen(self, state: NodeState, now: float) -> None:
        """Take the state of another node: it joined, or has a new one."""
        name = state.info.name
        assert name != self.state.info.name, "a node does not report itself"
        known = self._members.get(name)
        if known is None:
            self._members[name] = _Member(state, now)
            self._settled_at = max(self._settled_at, now + self.timing.settle_s)
            self._forget_rankings()
            return
        before, known.state = known.state, state
        if before.info != state.info:
            self._forget_rankings()

    def node_gone(self, name: str, now: float) -> None:
        """Take the departure of another node, with all its replicas. Unknown ones are ignored."""
        if self._members.pop(name, None) is None:
            return
        self._departures.setdefault(name, deque(maxlen=self.timing.flaps_max)).append(now)
        for market in self._markets.values():
            market.holders.discard(name)
        self._settled_at = max(self._settled_at, now + self.timing.settle_s)
        self._forget_rankings()

    def replica_seen(self, market: str, name: str) -> None:
        """Take the replica token of another node."""
        self._market(market).holders.add(name)

    def replica_gone(self, market: str, name: str) -> None:
        """Take the end of such a token."""
        self._market(market).holders.discard(name)

    # ------------------------------------------------------------------------------------------ this node

    def synchronized(self, market: str) -> None:
        """Take that a market of this node can be read. A market that it does not hold is ignored."""
        if held := self._held.get(market):
            held.is_synchronized, held.has_failed = True, False

    def lost(self, market: str, now: float) -> None:
        """Take that a market of this node cannot be read any more; it synchronizes again by itself."""
        held = self._held.get(market)
        if held is not None and held.is_synchronized:
            held.is_synchronized, held.started_at = False, now

    def failed(self, market: str) -> None:
        """Take that the exchange refuses a market permanently."""
        if held := self._held.get(market):
            held.is_synchronized, held.has_failed = False, True

    def drain(self, is_draining: bool = True) -> None:
        """Give all markets away, or take markets again."""
        self.state = self.state._replace(info=self.state.info._replace(is_draining=is_draining))
        self._forget_rankings()

    def accept(self, accepts: bool) -> None:
        """Take whether this node can start more markets."""
        self.state = self.state._replace(accepts=accepts)

    @property
    def held(self) -> dict[str, bool]:
        """The markets that this node keeps, and whether each is synchronized."""
        return {market: held.is_synchronized for market, held in self._held.items()}

    @property
    def is_drained(self) -> bool:
        """Whether this node drains and has given all markets away."""
        return self.state.info.is_draining and not self._held

    @property
    def can_give(self) -> bool:
        """Whether another node could take markets: it does not drain, and accepts."""
        return any(each.state.accepts and not each.state.info.is_draining for each in self._members.values())

    @property
    def members(self) -> dict[str, NodeState]:
        """The other nodes, by name."""
        return {name: member.state for name, member in self._members.items()}

    def holders(self, market: str) -> frozenset[str]:
        """Return the nodes that have declared a replica of a market, this one included."""
        known = self._markets.get(market)
        held = self._held.get(market)
        own = {self.state.info.name} if held is not None and held.is_declared else set()
        return frozenset(own | (known.holders if known is not None else set()))

    # ------------------------------------------------------------------------------------------ decisions

    def decide(self, now: float) -> list[Action]:
        """Return what to do now, in order. O(markets x replicas), and O(markets x nodes) after a node came or went."""
        if now - self._decided_at > self.timing.standstill_s:
            self.standstills += 1
            self._settled_at = max(self._settled_at, now + self.timing.settle_s)
            for each in self._held.values():
                each.leaving_since = None if each.leaving_since is None else now
        self._decided_at = now
        actions: list[Action] = []
        startable: list[tuple[int, int, str]] = []
        me = self.state.info.name
        for market in self._wanted:
            names = self.owners_of(market, now)
            held = self._held.get(market)
            if me in names:
                if held is None:
                    startable.append((len(self._market(market).holders), names.index(me), market))
                else:
                    self._stay(market, held, actions)
            elif held is not None:
                self._leave(market, held, names, now, actions)
        for market in [market for market in self._held if market not in self._wanted]:
            self._stop(market, actions)
        if now >= self._settled_at:
            self._start(startable, now, actions)
        return actions

    def next_due(self, now: float) -> float:
        """Return when to decide again, if nothing is reported before."""
        due = now + self.timing.rest_s
        if self._settled_at > now:
            due = min(due, self._settled_at)
        for held in self._held.values():
            if held.leaving_since is not None:
                due = min(due, max(now, held.leaving_since + self.timing.leave_s))
        return due

    def owners_of(self, market: str, now: float) -> list[str]:
        """Return the nodes that shall keep a market, as this node sees it: the first choice first."""
        replicas = self._wanted.replicas(market)
        if replicas == 0:
            return []
        known = self._market(market)
        if known.ranked is None:
            infos = [self.state.info, *(member.state.info for member in self._members.values())]
            known.ranked = ranking(market, infos)
        first = known.ranked[:replicas]
        if len({node.place for node in first}) == replicas and all(
            self._is_steady(market, node, now) for node in first
        ):
            return [node.name for node in first]  # as the lines below, for what is usual
        able = [node for node in known.ranked if self._may_keep(market, node)]
        steady = [node for node in able if self._is_steady(market, node, now)]
        return [node.name for node in chosen(steady if len(steady) >= replicas else able, replicas)]

    def is_damped(self, name: str, now: float) -> bool:
        """Return whether a node came and went too often to be trusted at once."""
        departures, member = self._departures.get(name), self._members.get(name)
        if departures is None or member is None or len(departures) < self.timing.flaps_max:
            return False
        is_flapping = departures[-1] - departures[0] <= self.timing.flap_window_s
        return is_flapping and now - member.seen_at < self.timing.damping_s

    # ------------------------------------------------------------------------------------------ inside

    def _may_keep(self, market: str, node: NodeInfo) -> bool:
        """Return whether a node may be an owner: it does not drain; it accepts markets, or has this one already."""
        if node.is_draining:
            return False
        if node.name == self.state.info.name:
            held = self._held.get(market)
            return self.state.accepts or (held is not None and held.is_synchronized)
        return self._members[node.name].state.accepts or node.name in self._market(market).holders

    def _is_steady(self, market: str, node: NodeInfo, now: float) -> bool:
        return self._may_keep(market, node) and not self.is_damped(node.name, now)

    def _stay(self, market: str, held: _Held, actions: list[Action]) -> None:
        held.leaving_since = None
        self._declare(market, held, held.is_synchronized, actions)

    def _leave(self, market: str, held: _Held, names: list[str], now: float, actions: list[Action]) -> None:
        """Leave a market that others own, once all of them have it; a market that is not readable here, soon."""
        are_ready = bool(names) and self._market(market).holders.issuperset(names)
        if not are_ready and (held.is_synchronized or not names):
            self._stay(market, held, actions)
            return
        self._declare(market, held, False, actions)
        if held.leaving_since is None:
            held.leaving_since = now
        elif now - held.leaving_since >= self.timing.leave_s:
            self._stop(market, actions)

    def _declare(self, market: str, held: _Held, is_declared: bool, actions: list[Action]) -> None:
        if held.is_declared != is_declared:
            held.is_declared = is_declared
            actions.append(Action(ActionKind.DECLARE if is_declared else ActionKind.WITHDRAW, market))

    def _stop(self, market: str, actions: list[Action]) -> None:
        self._declare(market, self._held[market], False, actions)
        del self._held[market]
        actions.append(Action(ActionKind.STOP, market))

    def _start(self, startable: list[tuple[int, int, str]], now: float, actions: list[Action]) -> None:
        running = sum(
            not held.is_synchronized and not held.has_failed and now - held.started_at < self.timing.stuck_s
            for held in self._held.values()
        )
        room = max(0, self.timing.starts_max - running)
        for _, _, market in sorted(startable)[:room]:
            self._held[market] = _Held(now)
            actions.append(Action(ActionKind.START, market))

    def _market(self, market: str) -> _Market:
        known = self._markets.get(market)
        if known is None:
            known = self._markets[market] = _Market()
        return known

    def _forget_rankings(self) -> None:
        for market in self._markets.values():
            market.ranked = None
