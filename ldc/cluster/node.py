"""A node: a process that keeps markets for a cluster, and shows them to its readers.

Rule 1: the rules decide (`ldc.cluster.rules`); this module carries out, and reports to them what happens.
Rule 2: one thread talks to the rules. What the session delivers is put into its queue, and wake it.
Rule 3: pushes have a thread of their own, so that no decision delays them. The updates of the manager wake it.
Rule 4: a proof is read before the update id that it proves. So a reader never takes an old book for a proven one.
"""

import json
import logging
import math
import os
import random
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import ldc
from ldc.cluster.bus import Bus, BusOptions, BusPublisher, Question
from ldc.cluster.keys import Keys, NodeToken, ReplicaToken, checked_name
from ldc.cluster.message import LEVELS_MAX, Proof, proofs_to_bytes, push_of, refusal
from ldc.cluster.placement import NodeInfo, checked_weight
from ldc.cluster.roster import (
    HELLO_S,
    Doubt,
    Hello,
    Roster,
    RosterChange,
    RosterEvent,
    digest_of,
    hello_from_bytes,
    replicas_from_bytes,
    replicas_to_bytes,
)
from ldc.cluster.rules import DEFAULT_RULE_TIMING, ActionKind, NodeRules, RuleTiming
from ldc.cluster.wanted import WantedMarkets, checked_market, checked_replicas, entries_from_bytes

LEVELS = 20
"""Levels a side that a node pushes, unless told otherwise."""

LOOK_S = 0.25
"""Seconds between two looks at all markets. The updates of the manager report nearly everything before: not that a
market was refused permanently."""

ASK_S = 2.0
"""Seconds that another node has for an answer."""

BUDGET_S = 1.0
"""Seconds between two looks at the request weight."""

WAIT_S_MAX = 60.0
"""A node on which the next market would wait longer for request weight, as in a ban, accepts none."""

NAME_S = 3.0
"""Seconds that the token of a predecessor of the same name has to end: longer than the lease of the transport."""

DRAIN_S = 30.0
"""Seconds that a node waits for others to take its markets, unless told otherwise."""

logger = logging.getLogger("binance_local_depth_cache")

_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Kept:
    """A market that this node keeps."""

    market: str
    reader: ldc.BookReader
    cache: ldc.DepthCache
    publisher: BusPublisher
    token: Any = None
    is_readable: bool = False
    pushed_id: int | None = None
    pushed_cause: str | None = None


class NodeStatus(NamedTuple):
    """What a node does at one moment."""

    name: str
    state: str
    """"running", "draining", "drained" or "stopped"."""
    markets: int
    """Markets that it keeps."""
    synchronized: int
    """Those of them that can be read."""
    members: tuple[str, ...]
    """The other nodes that it sees."""
    wanted: int
    """Markets that the cluster shall keep."""
    pushes: int
    """Messages that it has pushed."""
    starts: int
    """Markets that it has started."""
    accepts: bool
    """Whether it takes more markets."""


class Node:
    """A node of a cluster. Starts nothing before `start`; use it as a context manager, or call `stop`.

    Args:
        cluster: the name of the cluster.
        name: of this node, unique in the cluster. None: the name of the machine.
        exchange: as of the manager; all nodes of a cluster have the same.
        markets: that the cluster shall keep, as far as this node's command line knows.
        replicas: how many nodes keep each of these markets.
        connect: endpoints of other nodes, such as "tcp/10.0.0.1:7447"; the same list on each node is right.
        listen: endpoints of this node. Each node needs one that the others can reach.
        zone: where it runs. The replicas of a market are in different zones while there are enough.
        weight: its share of the markets, relative to the others.
        levels: levels a side that it pushes to readers; all nodes should push the same number.
        config: a file of Zenoh's own configuration, for TLS, users and access control.
        insecure: whether `listen` may be an address of the network without TLS.
        gateway: base URI of this node's gateway, for readers of whole books.
        manager: keyword arguments of the `BinanceLocalDepthCacheManager` that it drives.
        timing: of the rules.

    Thread-safe. Raises ``ValueError`` for wrong arguments, ``OSError`` from `start` if an endpoint is taken.
    """

    def __init__(
        self,
        cluster: str,
        name: str | None = None,
        *,
        exchange: str = "binance.com",
        markets: Iterable[str] = (),
        replicas: int = 2,
        connect: Sequence[str] = (),
        listen: Sequence[str] = (),
        zone: str | None = None,
        weight: float = 1.0,
        levels: int = LEVELS,
        config: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        gateway: str | None = None,
        manager: dict[str, Any] | None = None,
        timing: RuleTiming = DEFAULT_RULE_TIMING,
    ) -> None:
        self.keys = Keys(cluster)
        self.name = checked_name("the name of a node", socket.gethostname() if name is None else name)
        if zone is not None:
            checked_name("a zone", zone)
        if not 1 <= levels <= LEVELS_MAX:
            raise ValueError(f"levels is 1 to {LEVELS_MAX}, not {levels}")
        self._options = BusOptions(connect, listen, config, insecure)
        self._levels = levels
        self._gateway = gateway
        self._wanted = WantedMarkets()
        self._wanted.name_at_start([checked_market(market.upper()) for market in markets], checked_replicas(replicas))
        self._manager = ldc.BinanceLocalDepthCacheManager(exchange, **(manager or {}))
        self._info = NodeInfo(self.name, zone, checked_weight(weight))
        self._timing = timing
        self._rules = NodeRules(self._info, self._wanted, time.monotonic(), timing)
        self._instance = secrets.token_hex(6)
        self._kept: dict[str, _Kept] = {}
        self._roster = Roster()
        self._asked_lists: dict[str, float] = {}
        self._declared: set[str] = set()
        self._declared_digest = digest_of(())
        self._hello_at = self._declared_at = 0.0
        self._events: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._ends = threading.Event()
        self._is_drained = threading.Event()
        self._own_token: Any = None
        self._own_version = 0
        self._own_said: tuple[object, ...] | None = None
        self._budget_at = self._accepts_at = 0.0
        self._pushes = self._starts = 0
        self._bus: Bus | None = None
        self._threads: list[threading.Thread] = []

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def manager(self) -> ldc.BinanceLocalDepthCacheManager:
        """The manager that it drives. Its markets are those of this node only."""
        return self._manager

    def start(self) -> Self:
        """Join the cluster. Raises ``ValueError`` for a taken name or another exchange, ``OSError`` for an endpoint."""
        if self._bus is not None:
            return self
        bus = Bus(self._options)
        try:
            self._check_place(bus)
        except BaseException:
            bus.close()
            raise
        self._bus = bus
        self._rules = NodeRules(self._info, self._wanted, time.monotonic(), self._timing)
        bus.serve(self.keys.ask(self.name, "*"), self._take_question)
        self._say_state()
        bus.watch(self.keys.nodes, lambda key, is_there: self._post(lambda: self._node_token(key, is_there)))
        bus.watch(self.keys.replicas, lambda key, is_there: self._post(lambda: self._replica_token(key, is_there)))
        bus.subscribe(self.keys.hellos, lambda key, data: self._post(lambda: self._take_hello(key, data)))
        self._hello_publisher = bus.publisher(self.keys.hello(self.name))
        self._updates = self._manager.updates()
        self._threads = [
            threading.Thread(target=self._run, name=f"ldc-node-{self.name}", daemon=True),
            threading.Thread(target=self._push_all, name=f"ldc-push-{self.name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def announce_gateway(self, base_uri: str | None) -> None:
        """Say where this node's gateway is. None: it has none any more."""

        def announce() -> None:
            self._gateway = base_uri

        self._post(announce)

    def gateway_of(self, market: str) -> str | None:
        """Return the base URI of the gateway of another node that has a market; None: there is none."""
        names = sorted(self._roster.holders.get(market, ()))
        found = [token.gateway for name in names if (token := self._roster.tokens.get(name)) and token.gateway]
        return random.choice(found) if found else None

    def drain(self, is_draining: bool = True) -> None:
        """Give all markets away, and serve on until others have them; or, with False, take markets again."""
        self._post(lambda: self._rules.drain(is_draining))

    def wait_until_drained(self, timeout: float | None = None) -> bool:
        """Block until all markets were given away; return False after `timeout` seconds, or if nobody can take them."""
        give_up_at = time.monotonic() + (math.inf if timeout is None else timeout)
        while not self._is_drained.wait(0.05):
            if self._ends.is_set() or time.monotonic() >= give_up_at:
                return False
            rules = self._rules
            if rules.state.info.is_draining and not rules.can_give:
                return False
        return True

    def stop(self) -> None:
        """Leave the cluster at once, and stop the manager. `drain` first, to leave no gap. Idempotent."""
        self._ends.set()
        self._wake.set()
        if self._bus is not None:
            self._updates.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5.0)
        if self._bus is not None:
            self._bus.close()
        self._manager.stop_manager()

    def status(self) -> NodeStatus:
        """Return what it does now."""
        rules = self._rules
        held = dict(rules.held)
        state = "draining" if rules.state.info.is_draining else "running"
        if self._is_drained.is_set():
            state = "drained"
        if self._ends.is_set():
            state = "stopped"
        return NodeStatus(
            self.name,
            state,
            len(held),
            sum(held.values()),
            tuple(sorted(rules.members)),
            len(self._wanted),
            self._pushes,
            self._starts,
            rules.state.accepts,
        )

    def _check_place(self, bus: Bus) -> None:
        """Raise ``ValueError`` if the name is taken, or the cluster keeps another exchange."""
        give_up_at = time.monotonic() + NAME_S
        if self._options.connect:
            time.sleep(0.2)  # until the links are there
        while True:
            keys = bus.present(self.keys.nodes, 1.0)
            tokens = [token for key in keys if (token := self.keys.node_token(key)) is not None]
            for token in tokens:
                if token.exchange != self._manager.exchange:
                    raise ValueError(
                        f"the cluster {self.keys.cluster!r} keeps {token.exchange}, and this node has "
                        f"{self._manager.exchange}: give its cluster another name"
                    )
            if all(token.state.info.name != self.name for token in tokens):
                return
            if time.monotonic() >= give_up_at:
                raise ValueError(
                    f"the cluster {self.keys.cluster!r} has a node {self.name!r} already: take another name"
                )
            time.sleep(0.1)

    # ------------------------------------------------------------------------------------------ the node's thread

    def _post(self, event: Callable[[], None]) -> None:
        self._events.append(event)
        self._wake.set()

    def _run(self) -> None:
        try:
            decides_at = 0.0
            while not self._ends.is_set():
                has_news = self._take_events()
                now = time.monotonic()
                has_news |= self._look_at_books(now)
                self._look_at_budget(now)
                self._say_state()
                if has_news or now >= decides_at:
                    for action in self._rules.decide(now):
                        self._carry_out(action.kind, action.market)
                    self._note_drained()
                    decides_at = self._rules.next_due(now)
                self._ask_lists(now)
                self._say_hello(now)
                self._wake.wait(max(0.0, min(decides_at, now + LOOK_S) - time.monotonic()))
                self._wake.clear()
        except BaseException:
            logger.exception("the node %s ends: this is a fault of ldc", self.name)
            self._ends.set()
            raise

    def _take_events(self) -> bool:
        count = len(self._events)
        for _ in range(count):
            self._events.popleft()()
        return count > 0

    def _look_at_books(self, now: float) -> bool:
        """Report to the rules which markets became readable, and which were lost."""
        has_news = False
        for kept in list(self._kept.values()):
            is_readable = kept.reader.is_readable
            if is_readable != kept.is_readable:
                kept.is_readable, has_news = is_readable, True
                if is_readable:
                    self._rules.synchronized(kept.market)
                else:
                    self._rules.lost(kept.market, now)
            elif not is_readable and kept.cache.state is ldc.SyncState.FAILED:
                self._rules.failed(kept.market)
        return has_news

    def _look_at_budget(self, now: float) -> None:
        """Accept no markets while the next one would wait too long for request weight: in a ban, for example."""
        if now < self._budget_at:
            return
        self._budget_at = now + BUDGET_S
        seconds_left = self._manager.get_progress().seconds_left
        if seconds_left is not None and seconds_left > WAIT_S_MAX:
            self._accepts_at = now + seconds_left
        accepts = now >= self._accepts_at
        if accepts != self._rules.state.accepts:
            self._rules.accept(accepts)
            if not accepts:
                wait_s = self._accepts_at - now
                logger.warning("node %s accepts no markets for %.0f s: no request weight is left", self.name, wait_s)

    def _note_drained(self) -> None:
        if self._rules.is_drained:
            self._is_drained.set()
        else:
            self._is_drained.clear()

    def _say_state(self) -> None:
        """Publish what this node says about itself, if it changed: the new token first, then the end of the old one."""
        said = (self._rules.state, self._wanted.digest, self._gateway)
        if said == self._own_said or self._bus is None:
            return
        self._own_said, before = said, self._own_token
        self._declared_at = time.monotonic()
        self._own_version += 1
        token = NodeToken(
            self._rules.state,
            self._instance,
            self._own_version,
            self._manager.exchange,
            self._levels,
            self._wanted.digest,
            self._gateway,
        )
        self._own_token = self._bus.declare(self.keys.node(token))
        if before is not None:
            before.undeclare()

    # ------------------------------------------------------------------------------------------ other nodes

    def _node_token(self, key: str, is_there: bool) -> None:
        token = self.keys.node_token(key)
        if token is None or token.state.info.name == self.name:
            return
        if is_there and token.exchange != self._manager.exchange:
            name = token.state.info.name
            logger.error("node %s keeps %s, and is ignored: this cluster keeps another exchange", name, token.exchange)
            return
        self._take_changes(self._roster.take_node(token, is_there))

    def _replica_token(self, key: str, is_there: bool) -> None:
        token = self.keys.replica_token(key)
        if token is not None and token.name != self.name:
            self._take_changes(self._roster.take_replica(token, is_there))

    def _take_changes(self, changes: list[RosterChange]) -> None:
        """Report changes of the roster to the rules."""
        for event, name, market in changes:
            match event:
                case RosterEvent.JOINED | RosterEvent.CHANGED:
                    self._rules.node_seen(self._roster.tokens[name].state, time.monotonic())
                case RosterEvent.GONE:
                    self._asked_lists.pop(name, None)
                    self._rules.node_gone(name, time.monotonic())
                case RosterEvent.SYNCHRONIZED if market is not None:
                    self._rules.replica_seen(market, name)
                case RosterEvent.WITHDRAWN if market is not None:
                    self._rules.replica_gone(market, name)
            if event is RosterEvent.JOINED:
                logger.info("node %s joined", name)
            elif event is RosterEvent.GONE:
                logger.info("node %s is gone", name)

    def _say_hello(self, now: float) -> None:
        """Say which tokens this node has, so that a process that misses one notices it."""
        if now < self._hello_at:
            return
        self._hello_at = now + HELLO_S
        hello = Hello(self.name, self._instance, self._own_version, self._declared_digest)
        self._hello_publisher.put(hello.to_bytes())

    def _take_hello(self, key: str, data: bytes) -> None:
        name = self.keys.last_of(key)
        try:
            hello = hello_from_bytes(data)
        except ValueError as error:
            logger.warning("a message of node %r about its tokens is dropped: %s", name, error)
            return
        if self.name in (name, hello.name) or hello.name != name:
            return  # its own, or one that arrived under a wrong key
        doubt = self._roster.take_hello(hello)
        if doubt is None:
            return
        assert self._bus is not None
        logger.info("node %s is asked for what the transport did not deliver: %s", name, doubt.name)
        question = self.keys.ask(name, doubt.value)
        if doubt is Doubt.NODE:
            self._bus.ask(question, b"", lambda _data: None, ASK_S)
        else:
            self._bus.ask(question, b"", lambda data: self._post(lambda: self._take_replicas(name, data)), ASK_S)

    def _take_replicas(self, name: str, data: bytes) -> None:
        try:
            self._take_changes(self._roster.take_replicas(name, *replicas_from_bytes(data)))
        except ValueError as error:
            logger.warning("a list of the replicas of node %r is not used: %s", name, error)

    def _declare_again(self) -> bytes:
        """Declare the node's token under a new key. Once a second is enough for all that ask."""
        if time.monotonic() - self._declared_at > 1.0:
            self._own_said = None
        return b""

    def _ask_lists(self, now: float) -> None:
        """Ask each node whose list of markets differs for that list."""
        assert self._bus is not None
        for name, token in self._roster.tokens.items():
            if token.wanted_digest == self._wanted.digest or now < self._asked_lists.get(name, 0.0):
                continue
            self._asked_lists[name] = now + ASK_S
            self._bus.ask(self.keys.ask(name, "wanted"), b"", lambda data: self._post(lambda: self._merge(data)), ASK_S)

    def _merge(self, data: bytes) -> None:
        try:
            self._wanted.merge(entries_from_bytes(data))
        except ValueError as error:
            logger.warning("a list of markets of another node is not used: %s", error)

    # ------------------------------------------------------------------------------------------ questions

    def _take_question(self, question: Question) -> None:
        """Answer on the session's thread. What changes the node goes through its own thread."""
        try:
            answer = self._answer(self.keys.last_of(question.key), question.payload)
        except (ValueError, KeyError, TypeError) as error:
            answer = json.dumps({"error": str(error)}).encode()
        question.answer(answer)

    def _answer(self, what: str, payload: bytes) -> bytes:
        answers: dict[str, Callable[[bytes], bytes]] = {
            "proof": lambda names: self._proofs(names.decode().split(",") if names else list(self._kept)),
            "book": lambda name: self._book(name.decode()),
            "wanted": lambda _payload: self._in_own_thread(self._wanted.to_bytes),
            "status": lambda _payload: json.dumps(self.status()._asdict()).encode(),
            "add": lambda request: self._change(json.loads(request)),
            "remove": lambda request: self._change(json.loads(request) | {"replicas": 0}),
            "drain": lambda request: self._take_drain(json.loads(request)),
            "declare": lambda _payload: self._in_own_thread(self._declare_again),
            "replicas": lambda _payload: replicas_to_bytes(self._instance, self._declared),
            "audit": lambda request: self._audit(json.loads(request)["markets"]),
        }
        if what not in answers:
            raise ValueError(f"{what!r} is no question to a node")
        return answers[what](payload)

    def _book(self, market: str) -> bytes:
        kept = self._kept.get(market)
        return refusal(market, None) if kept is None else push_of(market, kept.reader, self._levels)

    def _change(self, request: dict[str, Any]) -> bytes:
        """Add markets to the list, or with 0 replicas remove them."""
        markets, replicas = [str(market).upper() for market in request["markets"]], int(request["replicas"])

        def change() -> set[str]:
            if replicas == 0:
                return self._wanted.remove(markets, self.name)
            return self._wanted.add(markets, replicas, self.name)

        return json.dumps({"changed": sorted(self._in_own_thread(change))}).encode()

    def _take_drain(self, request: dict[str, Any]) -> bytes:
        self.drain(bool(request["is_draining"]))
        return json.dumps({"changed": [self.name]}).encode()

    def _audit(self, markets: list[str]) -> bytes:
        audited = [market for market in markets if market in self._kept]
        for market in audited:
            self._manager.set_refresh_request(market)
        return json.dumps({"changed": audited}).encode()

    def _in_own_thread(self, function: Callable[[], _Result]) -> _Result:
        """Return the result of a function that the node's thread calls. Raises ``ValueError`` as that does."""
        done = threading.Event()
        results: list[_Result] = []
        errors: list[ValueError] = []

        def call() -> None:
            try:
                results.append(function())
            except ValueError as error:
                errors.append(error)
            done.set()

        self._post(call)
        if not done.wait(ASK_S):
            raise ValueError(f"node {self.name} is too busy to answer")
        if errors:
            raise errors[0]
        return results[0]

    def _proofs(self, markets: Iterable[str]) -> bytes:
        return proofs_to_bytes(self._proof(market) for market in markets if market in self._kept)

    def _proof(self, market: str) -> Proof:
        kept = self._kept.get(market)
        if kept is None:
            return Proof(market, 0, 0.0, "NOT_LOADED")
        age_s = kept.cache.proof_age_s  # before the id: rule 4
        cause = kept.reader.unreadable_cause
        return Proof(market, kept.reader.last_update_id or 0, max(0.0, age_s), cause)

    # ------------------------------------------------------------------------------------------ actions

    def _carry_out(self, kind: ActionKind, market: str) -> None:
        match kind:
            case ActionKind.START:
                self._start_market(market)
            case ActionKind.STOP:
                self._stop_market(market)
            case ActionKind.DECLARE:
                self._declare(market)
            case ActionKind.WITHDRAW:
                self._withdraw(market)

    def _start_market(self, market: str) -> None:
        assert self._bus is not None
        self._starts += 1
        try:
            self._manager.create_depth_cache(market)
        except ValueError as error:
            logger.error("node %s cannot start %s: %s", self.name, market, error)  # noqa: TRY400 - it says all
            self._rules.failed(market)
            return
        cache = self._manager.get_depth_cache(market)
        publisher = self._bus.publisher(self.keys.top(market, self.name))
        self._kept[market] = _Kept(market, cache.reader, cache, publisher)
        logger.info("node %s starts %s", self.name, market)

    def _stop_market(self, market: str) -> None:
        kept = self._kept.pop(market, None)
        if kept is None:
            return  # it could not be started
        self._manager.stop_depth_cache(market)
        kept.publisher.put(refusal(market, "STOPPED"))
        kept.publisher.close()
        logger.info("node %s stops %s", self.name, market)

    def _declare(self, market: str) -> None:
        assert self._bus is not None
        self._kept[market].token = self._bus.declare(self.keys.replica(ReplicaToken(market, self.name, self._instance)))
        self._note_declared(self._declared | {market})

    def _withdraw(self, market: str) -> None:
        kept = self._kept[market]
        if kept.token is not None:
            kept.token.undeclare()
            kept.token = None
        self._note_declared(self._declared - {market})

    def _note_declared(self, markets: set[str]) -> None:
        """Take what this node has declared. The set is replaced, not changed: answers read it on another thread."""
        self._declared = markets
        self._declared_digest = digest_of(markets)

    # ------------------------------------------------------------------------------------------ pushes

    def _push_all(self) -> None:
        """Push what changed, until the end. All books are looked at when nothing was reported for `LOOK_S`, too."""
        looks_at = 0.0
        while not self._ends.is_set():
            try:
                update = self._updates.get(LOOK_S)
            except TimeoutError:
                update = None
            except EOFError:
                return
            if update is not None and (kept := self._kept.get(update.market)) is not None:
                self._push(kept)
                if update.is_lost or update.is_snapshot:
                    self._wake.set()  # the rules hear at once what can be read, and what cannot
            now = time.monotonic()
            if now >= looks_at:
                looks_at = now + LOOK_S
                for kept in list(self._kept.values()):
                    self._push(kept)

    def _push(self, kept: _Kept) -> None:
        reader = kept.reader
        last_update_id, cause = reader.last_update_id, reader.unreadable_cause
        if last_update_id == kept.pushed_id and cause == kept.pushed_cause:
            return
        if cause is not None and kept.pushed_id is None:
            return  # it was never readable: nobody waits for that news
        kept.pushed_id, kept.pushed_cause = last_update_id, cause
        if kept.publisher.put(push_of(kept.market, reader, self._levels)):
            self._pushes += 1
