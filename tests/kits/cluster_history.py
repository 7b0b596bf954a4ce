"""A cluster in virtual time: nodes with the real rules, a network that delays and parts, an exchange that bans.

`ClusterHistory` lives through a random history of joins, deaths, hangs, partitions, bans, drains and changes of the
list, drawn from a seed. The oracles look at the truth, which no node sees:

* Promise: a node that stops a readable market leaves the promised replicas behind, by all that could be known
  `KNOWN_S` before. If no fault happened for `QUIET_S`, it leaves them behind in truth.
* Recovery: `RECOVERY_S` after the last disturbance each market has its replicas, on exactly the nodes that `owners`
  names, and none elsewhere.
* Rest: after that, nothing starts, stops or changes its token any more.
* Economy: a market starts on a node at most once for each disturbance, and once at the beginning.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from ldc.cluster.placement import NodeInfo, owners
from ldc.cluster.rules import NodeRules
from ldc.cluster.wanted import WantedMarkets

DELAY_S = (0.001, 0.05)
"""How long a message travels."""
NOTICE_S = (0.005, 0.03)
"""How long it takes until a death is noticed."""
LEASE_S = (0.9, 1.3)
"""The same for a node that hangs, and for a partition."""
SYNCHRONIZE_S = (0.2, 2.5)
"""How long a market takes to synchronize."""
LOST_SHARE = 0.02
"""Part of the tokens that the transport loses."""
REPAIR_S = (1.0, 1.8)
"""How long it takes until a lost token is missed, asked for, and there: `ldc.cluster.roster`."""
KNOWN_S = 1.9
"""What happened earlier is known everywhere: the longest lease, the longest repair, and the longest delay."""
QUIET_S = 20.0
RECOVERY_S = 30.0
END_S = 60.0
"""The time between the last disturbance and the end of the history."""


@dataclass
class SimulatedNode:
    """A process with its rules, and the truth about it."""

    name: str
    info: NodeInfo
    rules: NodeRules | None = None
    instance: int = 0
    is_hung: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)
    is_banned: bool = False
    readable: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    side: int = 0
    due_at: float = 0.0
    able_since: float = 0.0
    """When it began to run, to be seen, or to accept markets."""

    @property
    def runs(self) -> bool:
        return self.rules is not None and not self.is_hung


class ClusterHistory:
    """One history. `run` raises an ``AssertionError`` when an oracle objects."""

    def __init__(self, seed: int, disturbances: int = 12) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.serials = count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        zones = self.random.choice([None, None, ("x", "y"), ("x", "y", "z")])
        self.nodes = {
            name: SimulatedNode(
                name,
                NodeInfo(name, self.random.choice(zones) if zones else None, self.random.choice([1.0, 1.0, 2.0])),
            )
            for name in "abcdef"[: self.random.randint(2, 6)]
        }
        self.replicas = self.random.choice([1, 2, 2, 2, 3])
        self.markets = [f"M{number}" for number in range(self.random.randint(1, 6))]
        self.wanted = WantedMarkets()  # one list for all: its merging has tests of its own
        self.wanted.name_at_start(self.markets, self.replicas)
        self.disturbances = disturbances
        self.disturbed_at = 0.0
        self.faults: list[float] = []
        """When something happened that takes replicas away."""
        self.starts: Counter[tuple[str, str]] = Counter()
        self.served_until: dict[tuple[str, str], float] = {}
        """When a node could last be read, if it was lost by a fault."""
        self.changes: list[tuple[float, str]] = []
        self.disturbance_count = 0

    # ------------------------------------------------------------------------------------------ events

    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + delay_s, next(self.serials), what))

    def on(self, node: SimulatedNode, delay_s: float, what: Callable[[NodeRules], None]) -> None:
        """Let a process do something later: not if it has ended by then; when it goes on, if it hangs."""
        instance = node.instance

        def happen() -> None:
            if node.instance != instance or node.rules is None:
                return
            if node.is_hung:
                node.waiting.append(happen)
                return
            what(node.rules)
            self.decide(node)

        self.at(delay_s, happen)

    def delay(self) -> float:
        return self.random.uniform(*DELAY_S)

    def token_delay(self) -> float:
        """Return how long a token travels: one that the transport loses arrives when it is asked for."""
        return self.random.uniform(*REPAIR_S) if self.random.random() < LOST_SHARE else self.delay()

    def sees(self, one: SimulatedNode, other: SimulatedNode) -> bool:
        return one is not other and one.rules is not None and other.rules is not None and one.side == other.side

    def run(self) -> None:
        for node in self.nodes.values():
            self.at(self.random.uniform(0, 3.0), lambda node=node: self.join(node))
        at_s = 5.0
        for _ in range(self.disturbances):
            at_s += self.random.choice([0.3, 1.0, 3.0, 8.0, 25.0]) * self.random.uniform(0.5, 1.5)
            self.at(at_s, self.disturb)
        self.at(at_s + 30.0, self.end_faults)
        self.at(at_s + 30.0 + END_S, lambda: self.check_end())
        while self.queue:
            self.now, _, what = heapq.heappop(self.queue)
            what()
            if self.now > at_s + 30.0 + END_S:
                break

    # ------------------------------------------------------------------------------------------ what nodes do

    def decide(self, node: SimulatedNode) -> None:
        if not node.runs:
            return
        assert node.rules is not None
        before = node.rules.state
        for action in node.rules.decide(self.now):
            getattr(self, action.kind.value)(node, action.market)
        assert before == node.rules.state
        due_at = node.rules.next_due(self.now)
        if not self.now < node.due_at <= due_at:
            node.due_at = max(due_at, self.now + 0.001)
            self.on(node, node.due_at - self.now, lambda _rules: None)

    def start(self, node: SimulatedNode, market: str) -> None:
        self.note(f"{node.name} starts {market}")
        self.starts[node.name, market] += 1
        node.started.add(market)
        if not node.is_banned:
            self.synchronize_later(node, market)

    def synchronize_later(self, node: SimulatedNode, market: str) -> None:
        self.on(node, self.random.uniform(*SYNCHRONIZE_S), lambda _rules: self.synchronize(node, market))

    def synchronize(self, node: SimulatedNode, market: str) -> None:
        if market in node.started and not node.is_banned and market not in node.readable:
            node.readable.add(market)
            assert node.rules is not None
            node.rules.synchronized(market)

    def stop(self, node: SimulatedNode, market: str) -> None:
        self.note(f"{node.name} stops {market}")
        was_readable = market in node.readable
        node.started.discard(market)
        node.readable.discard(market)
        if was_readable and market in self.wanted:
            self.check_promise(node, market)

    def declare(self, node: SimulatedNode, market: str) -> None:
        self.note(f"{node.name} declares {market}")
        node.tokens.add(market)
        for other in self.nodes.values():
            if self.sees(node, other):
                self.tell_replica(other, node, market)

    def withdraw(self, node: SimulatedNode, market: str) -> None:
        self.note(f"{node.name} withdraws {market}")
        node.tokens.discard(market)
        for other in self.nodes.values():
            if self.sees(node, other):
                self.tell_replica(other, node, market)

    def tell_replica(self, to: SimulatedNode, about: SimulatedNode, market: str) -> None:
        """Report the token as it is on arrival: one link keeps the order."""

        def arrive(rules: NodeRules) -> None:
            if about.name in rules.members and self.sees(to, about):
                (rules.replica_seen if market in about.tokens else rules.replica_gone)(market, about.name)

        self.on(to, self.token_delay(), arrive)

    def tell_state(self, to: SimulatedNode, about: SimulatedNode) -> None:
        def arrive(rules: NodeRules) -> None:
            if self.sees(to, about) and about.rules is not None:
                rules.node_seen(about.rules.state, self.now)
                for market in about.tokens:
                    rules.replica_seen(market, about.name)

        self.on(to, self.token_delay(), arrive)

    def tell_gone(self, to: SimulatedNode, about: SimulatedNode, delay_s: float) -> None:
        instance = about.instance

        def arrive(rules: NodeRules) -> None:
            is_back = about.instance == instance and self.sees(to, about) and not about.is_hung
            if not is_back:
                rules.node_gone(about.name, self.now)
                if self.sees(to, about) and not about.is_hung:  # it was restarted meanwhile
                    self.tell_state(to, about)

        self.on(to, delay_s, arrive)

    def publish(self, node: SimulatedNode) -> None:
        for other in self.nodes.values():
            if self.sees(node, other):
                self.tell_state(other, node)

    # ------------------------------------------------------------------------------------------ disturbances

    def note(self, text: str) -> None:
        self.changes.append((self.now, text))

    def disturb(self) -> None:
        self.disturbance_count += 1
        self.disturbed_at = self.now
        node = self.random.choice(list(self.nodes.values()))
        kinds = [self.kill, self.hang, self.part, self.ban, self.drain, self.lose, self.relist, self.flap]
        kind = self.random.choice(kinds)
        self.note(f"-- {kind.__name__} {node.name}")
        kind(node)

    def fault(self) -> None:
        self.faults.append(self.now)

    def lost(self, node: SimulatedNode) -> None:
        for market in node.readable:
            self.served_until[node.name, market] = self.now
        node.readable.clear()

    def join(self, node: SimulatedNode) -> None:
        if node.rules is not None:
            return
        node.instance += 1
        node.rules = NodeRules(node.info, self.wanted, self.now)
        node.started, node.tokens, node.due_at, node.able_since = set(), set(), 0.0, self.now
        node.rules.accept(not node.is_banned)
        self.note(f"-- join {node.name}")
        self.disturbed_at = self.now
        self.meet(node)
        self.decide(node)

    def meet(self, node: SimulatedNode) -> None:
        """Let a node and all that it can see learn of each other."""
        for other in self.nodes.values():
            if self.sees(node, other) and not other.is_hung and not node.is_hung:
                self.tell_state(node, other)
                self.tell_state(other, node)

    def end(self, node: SimulatedNode, notice_s: tuple[float, float]) -> None:
        if node.rules is None:
            return
        self.lost(node)
        others = [other for other in self.nodes.values() if self.sees(other, node)]
        node.rules, node.is_hung, node.waiting, node.tokens = None, False, [], set()
        node.started = set()
        for other in others:
            self.tell_gone(other, node, self.random.uniform(*notice_s))
        node.instance += 1

    def kill(self, node: SimulatedNode) -> None:
        self.fault()
        self.end(node, NOTICE_S)
        if self.random.random() < 0.8:
            self.at(self.random.choice([0.1, 1.0, 5.0, 20.0]), lambda: self.join(node))

    def flap(self, node: SimulatedNode) -> None:
        """Kill a node four times in ten seconds."""
        for number in range(4):
            self.at(2.5 * number, lambda: (self.fault(), self.end(node, NOTICE_S)))
            self.at(2.5 * number + self.random.uniform(0.3, 2.0), lambda: self.join(node))

    def hang(self, node: SimulatedNode) -> None:
        if not node.runs:
            return
        self.fault()
        self.lost(node)
        node.is_hung = True
        instance = node.instance
        for other in self.nodes.values():
            if self.sees(other, node):
                self.tell_gone(other, node, self.random.uniform(*LEASE_S))

        def go_on() -> None:
            if node.instance != instance or node.rules is None:
                return
            self.disturbed_at = self.now
            node.is_hung, node.able_since = False, self.now
            # Its links were closed meanwhile, if it hung long enough; its books need a proof.
            rules = node.rules
            for market in list(node.started):
                rules.lost(market, self.now)
                self.on(
                    node,
                    self.random.uniform(*SYNCHRONIZE_S),
                    lambda _rules, market=market: self.synchronize(node, market),
                )
            waiting, node.waiting = node.waiting, []
            for what in waiting:
                what()
            if self.now - hung_at > LEASE_S[0]:
                for other in self.nodes.values():
                    if other is not node:
                        rules.node_gone(other.name, self.now)
            self.decide(node)
            self.meet(node)

        hung_at = self.now
        self.at(self.random.choice([0.3, 1.1, 4.0, 15.0]), go_on)

    def part(self, node: SimulatedNode) -> None:
        """Part the cluster in two, and heal it."""
        self.fault()
        for each in self.nodes.values():
            for market in each.readable:  # it can be read on its own side only
                self.served_until[each.name, market] = self.now
            each.side, each.able_since = self.random.randint(0, 1), self.now
        seen_before = [(one, other) for one in self.nodes.values() for other in self.nodes.values() if one is not other]
        for one, other in seen_before:
            if one.side != other.side and one.rules is not None and other.rules is not None:
                self.tell_gone(one, other, self.random.uniform(*LEASE_S))
        for each in self.nodes.values():  # those whom an earlier partition had parted may see each other now
            self.meet(each)
        self.at(self.random.choice([0.2, 2.0, 12.0]), self.heal)

    def heal(self) -> None:
        self.disturbed_at = self.now
        for node in self.nodes.values():
            node.side, node.able_since = 0, self.now
        for node in self.nodes.values():
            self.meet(node)

    def ban(self, node: SimulatedNode) -> None:
        """No market synchronizes any more; those that are synchronized stay so."""
        if node.is_banned:
            return
        node.is_banned = True
        self.accept(node, False)

        def pardon() -> None:
            node.is_banned = False
            self.disturbed_at = self.now
            self.accept(node, True)
            for market in node.started - node.readable:
                self.on(
                    node,
                    self.random.uniform(*SYNCHRONIZE_S),
                    lambda _rules, market=market: self.synchronize(node, market),
                )

        self.at(self.random.choice([2.0, 10.0, 20.0]), pardon)

    def accept(self, node: SimulatedNode, accepts: bool) -> None:
        def take(rules: NodeRules) -> None:
            rules.accept(accepts)
            node.able_since = self.now
            self.publish(node)

        self.on(node, self.random.uniform(0.05, 0.5), take)

    def drain(self, node: SimulatedNode) -> None:
        """Drain a node, end it when it is empty or after 25 s, and restart it: as a rolling update does."""

        def begin(rules: NodeRules) -> None:
            rules.drain()
            self.publish(node)

        instance = node.instance
        self.on(node, 0.0, begin)

        def look(until: float) -> None:
            if node.rules is None or node.instance != instance:
                return
            if node.rules.is_drained or self.now >= until:
                if not node.rules.is_drained:
                    self.fault()  # nobody took its markets in time
                self.disturbed_at = self.now
                self.end(node, NOTICE_S)
                self.at(self.random.uniform(0.2, 2.0), lambda: self.join(node))
            else:
                self.at(0.2, lambda: look(until))

        self.at(0.2, lambda: look(self.now + 25.0))

    def lose(self, node: SimulatedNode) -> None:
        """A gap: one market of a node is out of sync for a moment."""
        if not node.runs or not node.readable:
            return
        self.fault()
        market = self.random.choice(sorted(node.readable))
        node.readable.discard(market)
        self.served_until[node.name, market] = self.now
        assert node.rules is not None
        node.rules.lost(market, self.now)
        self.decide(node)
        self.on(node, self.random.uniform(*SYNCHRONIZE_S), lambda _rules: self.synchronize(node, market))

    def relist(self, _node: SimulatedNode) -> None:
        """Change the list: another market, one less, or another number of replicas."""
        market = self.random.choice([*self.markets, "N1", "N2"])
        if market in self.wanted and self.random.random() < 0.5:
            self.wanted.remove([market], "user")
        else:
            self.wanted.add([market], self.random.choice([1, 2, 3]), "user")
            self.faults.append(self.now)  # more replicas are promised than there are
        for each in self.nodes.values():
            self.on(each, self.delay(), lambda _rules: None)

    # ------------------------------------------------------------------------------------------ oracles

    def serving(self, market: str, side: int) -> set[str]:
        return {n.name for n in self.nodes.values() if n.runs and n.side == side and market in n.readable}

    def check_promise(self, leaver: SimulatedNode, market: str) -> None:
        """The leaver believed that the promised replicas are left; so they were, `KNOWN_S` ago."""
        serving = self.serving(market, leaver.side)
        # A node that was lost since then counts: nobody could know.
        recently = {
            name for (name, of), at in self.served_until.items() if of == market and self.now - at <= KNOWN_S
        } - {leaver.name}
        able = [node for node in self.nodes.values() if node is not leaver and node.side == leaver.side and node.runs]
        known = [each for each in able if self.now - each.able_since > KNOWN_S]
        willing = [n for n in known if n.rules is not None and n.rules.state.accepts and not n.is_banned]
        willing = [n for n in willing if n.rules is not None and not n.rules.state.info.is_draining]
        promised = min(self.wanted.replicas(market), len({n.name for n in willing} | serving))
        is_quiet = not any(self.now - at <= QUIET_S for at in self.faults)
        counted = serving if is_quiet else serving | recently
        if is_quiet or len(willing) >= self.wanted.replicas(market):
            assert len(counted) >= promised, self.story(
                f"{leaver.name} stopped {market}, and left {sorted(serving)} where {promised} are promised"
            )

    def end_faults(self) -> None:
        """End what lasts, and let everybody run."""
        self.disturbed_at = self.now
        self.note("-- end of faults")
        self.heal()
        for node in self.nodes.values():
            if node.rules is None:
                self.join(node)

    def check_end(self) -> None:
        infos = [node.info for node in self.nodes.values()]
        for market in [*self.markets, "N1", "N2"]:
            replicas = self.wanted.replicas(market)
            right = set(owners(market, infos, replicas)) if replicas else set()
            assert self.serving(market, 0) == right, self.story(
                f"{market} is on {self.serving(market, 0)}, not {right}"
            )
            tokens = {node.name for node in self.nodes.values() if market in node.tokens}
            assert tokens == right, self.story(f"{market} has the tokens {tokens}, not {right}")
        late = [text for at, text in self.changes if at > self.disturbed_at + RECOVERY_S]
        assert late == [], self.story(f"there is no rest: {late}")
        for (name, market), starts in self.starts.items():
            most = 1 + 2 * self.disturbance_count + 8
            assert starts <= most, self.story(f"{market} was started {starts} times on {name}")

    def story(self, what: str) -> str:
        lines = [f"{at:8.3f} {text}" for at, text in self.changes[-60:]]
        return "\n".join([f"{what} at {self.now:.3f}", *lines])


def run_cluster_seed(seed: int) -> ClusterHistory:
    """Live through one history; an ``AssertionError`` names the seed."""
    history = ClusterHistory(seed)
    try:
        history.run()
    except AssertionError as error:
        command = f"LDC_CLUSTER_SEED={seed} make test ARGS='-n 0 tests/cluster/test_cluster_histories.py'"
        raise AssertionError(f"seed {seed} (repeat it: {command}): {error}") from error
    return history
