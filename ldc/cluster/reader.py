"""The readers of a cluster: `connect`, and `ClusterBooks` with the reads of a manager.

Rule 1: a read is local: no lock, no message, no wait, but for the first read of a market.
Rule 2: each market comes from all its replicas. The loss of one is no event for a read.
Rule 3: freshness is proven by questions. Every `proof_s` each node is asked how current its books are. A book is as old
    as the time since the question whose answer proved it, plus the age that the node named.
Rule 4: what nobody can prove any more is refused: TOO_OLD, FEEDER_GONE, or the cause that the nodes name.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import ldc
from ldc.cluster.bus import Bus, BusOptions
from ldc.cluster.keys import Keys
from ldc.cluster.message import proofs_from_bytes, push_from
from ldc.cluster.replicas import Disagreement, MarketReplicas, ReplicaStatus, Summary
from ldc.cluster.roster import Doubt, Roster, RosterChange, RosterEvent, hello_from_bytes, replicas_from_bytes
from ldc.cluster.wanted import checked_market

PROOF_S = 0.25
"""Seconds between two questions to each node."""

ANSWER_S = 2.0
"""Seconds that a node has for an answer. A later one would prove nothing."""

MAX_AGE_S = 9.0
"""How old the proof of a book may be. A quiet market is proven by pongs every 5 s, and ldc's own lease is 9 s."""

LEASE_S = 3.0
"""How long the link to all nodes of a market may say nothing before its reads are refused."""

FIRST_READ_S = 2.0
"""How long the first read of a market waits for a replica."""

MARKETS_NAMED_MAX = 200
"""A question names at most so many markets; for more it asks for all that the node keeps."""

logger = logging.getLogger("binance_local_depth_cache")


class MarketStatus(NamedTuple):
    """A market of a cluster, as a reader sees it."""

    market: str
    is_synchronized: bool
    """Whether a read succeeds."""
    cause: str | None
    """Why not."""
    last_update_id: int | None
    """Of the book that reads return."""
    age_ms: float | None
    """How long ago that book was proven to be current, at most."""
    replicas: tuple[ReplicaStatus, ...]
    """Its replicas, by the name of their nodes."""
    disagreements: int
    """How often two replicas differed at the same update id."""


class ClusterNodeStatus(NamedTuple):
    """A node of a cluster, as a reader sees it."""

    name: str
    state: str
    """"running", "draining", or "full": it accepts no markets (banned, or no request weight is left)."""
    zone: str | None
    weight: float
    replicas: int
    """Markets that it has synchronized, and will keep."""
    gateway: str | None
    """The base URI of its gateway."""


class _Market:
    """One market of a reader."""

    __slots__ = ("changed", "name", "replicas", "subscription")

    def __init__(self, name: str) -> None:
        self.name = name
        self.replicas = MarketReplicas(name)
        self.changed = threading.Condition()
        """Its lock guards `replicas`."""
        self.subscription: Any = None


class ClusterBooks:
    """The books of a cluster, read as a manager's are. Made by `connect`; thread-safe.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        cluster: str,
        *,
        connect: Sequence[str],
        markets: Iterable[str] = (),
        max_age: float = MAX_AGE_S,
        lease: float = LEASE_S,
        proof_interval: float = PROOF_S,
        on_disagreement: Callable[[Disagreement], object] | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        for what, value in (("max_age", max_age), ("lease", lease), ("proof_interval", proof_interval)):
            if not 0 < value < math.inf:
                raise ValueError(f"{what} is a positive number of seconds, not {value}")
        if not connect and config is None:
            raise ValueError("connect names at least one endpoint of a node, such as tcp/127.0.0.1:7447")
        self.keys = Keys(cluster)
        self.cluster = cluster
        self._max_age_s, self._lease_s, self._proof_s = max_age, lease, proof_interval
        self._on_disagreement = on_disagreement
        self._observer: Callable[[str, str, str | None], object] | None = None
        self.endpoints = tuple(connect)
        self._markets: dict[str, _Market] = {}
        self._lock = threading.Lock()
        self._roster = Roster()
        """Guarded by the lock."""
        self._ends = threading.Event()
        self._bad_messages = self._misrouted_messages = 0
        self._bus = Bus(BusOptions(connect, (), config))
        self._bus.watch(self.keys.nodes, self._node_token)
        self._bus.watch(self.keys.replicas, self._replica_token)
        self._bus.subscribe(self.keys.hellos, self._take_hello)
        self._thread = threading.Thread(target=self._prove, name=f"ldc-cluster-{cluster}", daemon=True)
        self._thread.start()
        self.subscribe(markets)

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster. Reads raise `DepthCacheAlreadyStopped` from then on. Idempotent."""
        self._ends.set()
        for market in list(self._markets.values()):
            with market.changed:
                market.changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._bus.close()

    def subscribe(self, markets: str | Iterable[str]) -> None:
        """Take the pushes of these markets from now on. A read of another market subscribes it."""
        for name in [markets] if isinstance(markets, str) else list(markets):
            self._subscribed(checked_market(name.upper()))

    # ------------------------------------------------------------------------------------------ reads

    def get_book(
        self, market: str, limit_count: int | None = None, *, max_age: float | None = None
    ) -> ldc.BookView[float]:
        """Return the newest book of all replicas: both sides at one update id. Local, some microseconds.

        A read has at most the levels that nodes push; the horizons of the view say where it ends.

        Args:
            market: such as "BTCUSDT"; case does not matter.
            limit_count: maximum levels a side.
            max_age: seconds; stricter than that of `connect`. The age is an upper bound, and grows up to
                `proof_interval` between two proofs.

        Raises:
            DepthCacheOutOfSync: nobody can prove the book now. Causes beside those of nodes: TOO_OLD, FEEDER_GONE (no
                node has the market), DIFFERENT (replicas contradict each other).
            DepthCacheNotFound: the cluster does not keep the market.
            DepthCacheAlreadyStopped: `close` was called.
        """
        found = self._markets.get(market) or self._subscribed(checked_market(market.upper()))
        if found.replicas.summary.shown is None:
            self._wait_for_first(found)
        summary = found.replicas.summary
        cause = self._why_refused(summary, max_age)
        if cause is not None:
            raise self._refusal(found, cause, max_age)
        assert summary.shown is not None, "a market without a book is refused"
        view = summary.shown.view
        return view if limit_count is None else _cut(view, limit_count)

    def get_asks(
        self, market: str, limit_count: int | None = None, *, max_age: float | None = None
    ) -> list[list[float]]:
        """Return the asks, lowest first, as [[price, quantity], ...]; otherwise as `get_book`."""
        return _as_lists(self.get_book(market, limit_count, max_age=max_age).asks)

    def get_bids(
        self, market: str, limit_count: int | None = None, *, max_age: float | None = None
    ) -> list[list[float]]:
        """Return the bids, highest first; otherwise as `get_asks`."""
        return _as_lists(self.get_book(market, limit_count, max_age=max_age).bids)

    def is_depth_cache_synchronized(self, market: str) -> bool:
        """Return whether a read would succeed."""
        found = self._subscribed(checked_market(market.upper()))
        return self._why_refused(found.replicas.summary) is None

    def wait_until_synchronized(self, markets: str | Iterable[str] | None = None, timeout: float | None = None) -> bool:
        """Block until these markets (None: all of the cluster) can be read; return False after `timeout` seconds."""
        give_up_at = time.monotonic() + (math.inf if timeout is None else timeout)
        names = [markets] if isinstance(markets, str) else None if markets is None else list(markets)
        while not self._ends.is_set():
            wanted = self.markets() if names is None else names
            found = [self._subscribed(checked_market(name.upper())) for name in wanted]
            if found and all(self._why_refused(market.replicas.summary) is None for market in found):
                return True
            if time.monotonic() >= give_up_at:
                return False
            self._ends.wait(0.02)
        raise self._stopped()

    def wait_for_update(
        self, market: str, after_update_id: int | None = None, timeout: float | None = None
    ) -> int | None:
        """Block until the book is past an update id (None: its present one); return the new id, or None at the timeout.

        With an id, it raises `DepthCacheOutOfSync` when the book cannot be read. With None it waits until it can.
        """
        found = self._subscribed(checked_market(market.upper()))
        give_up_at = time.monotonic() + (math.inf if timeout is None else timeout)
        first = found.replicas.shown
        with found.changed:
            while True:
                if self._ends.is_set():
                    raise self._stopped()
                shown = found.replicas.shown
                cause = self._why_refused(found.replicas.summary)
                if cause is None and shown is not None and _is_past(shown, first, after_update_id):
                    return shown.push.last_update_id
                if cause is not None and after_update_id is not None:
                    raise self._refusal(found, cause, None)
                left_s = give_up_at - time.monotonic()
                if left_s <= 0:
                    return None
                found.changed.wait(min(left_s, self._proof_s))

    # ------------------------------------------------------------------------------------------ state

    def markets(self) -> list[str]:
        """Return the markets of which at least one replica is synchronized."""
        with self._lock:
            return sorted(self._roster.holders)

    def holders(self, market: str) -> frozenset[str]:
        """Return the nodes that have declared a market: synchronized, and to stay. Case matters. For `ldc cluster`."""
        with self._lock:
            return frozenset(self._roster.holders.get(market, ()))

    def nodes(self) -> list[ClusterNodeStatus]:
        """Return the nodes that are there."""
        with self._lock:
            tokens = sorted(self._roster.tokens.items())
            counts = {name: len(self._roster.replicas_of(name)) for name, _ in tokens}
        return [
            ClusterNodeStatus(
                name,
                "draining" if token.state.info.is_draining else "running" if token.state.accepts else "full",
                token.state.info.zone,
                token.state.info.weight,
                counts[name],
                token.gateway,
            )
            for name, token in tokens
        ]

    def status(self, market: str) -> MarketStatus:
        """Return the status of a market with all its replicas."""
        found = self._subscribed(checked_market(market.upper()))
        now = time.monotonic()
        with found.changed:
            replicas = found.replicas
            shown, proven_at = replicas.shown, replicas.summary.proven_at
            cause = self._why_refused(found.replicas.summary)
            return MarketStatus(
                found.name,
                cause is None,
                cause,
                None if shown is None else shown.push.last_update_id,
                None if proven_at == -math.inf else round((now - proven_at) * 1000, 1),
                tuple(replicas.statuses(now)),
                replicas.disagreements,
            )

    @property
    def bad_messages(self) -> int:
        """Messages that could not be read, and were dropped."""
        return self._bad_messages

    @property
    def misrouted_messages(self) -> int:
        """Messages that arrived under the key of another market, and were dropped.

        The next message of their market, or the next proof, brings what they said.
        """
        return self._misrouted_messages

    def observe(self, observer: Callable[[str, str, str | None], object] | None) -> None:
        """Call `observer(event, node, market)` on a thread of the transport for each change; None: no more.

        Events: "joined", "changed", "gone" of a node; "synchronized", "withdrawn" of a market on a node.
        """
        self._observer = observer

    def _note(self, event: str, node: str, market: str | None = None) -> None:
        observer = self._observer
        if observer is not None:
            observer(event, node, market)

    def ask(self, node: str, question: str, payload: bytes = b"", timeout: float = ANSWER_S) -> bytes | None:
        """Ask a node something, and return its answer as it came; None if none came. For `ldc cluster`."""
        return self._bus.ask_and_wait(self.keys.ask(node, question), payload, timeout)

    # ------------------------------------------------------------------------------------------ refusals

    def _why_refused(self, summary: Summary, max_age: float | None = None) -> str | None:
        """Return the cause for which a read is refused; None: it is not."""
        if self._ends.is_set():
            return "STOPPED"
        if summary.cause is not None:
            return summary.cause
        if summary.shown is None:
            return "NOT_LOADED" if summary.has_nodes else "FEEDER_GONE"
        now = time.monotonic()
        if summary.doubted_until > now:
            return "DIFFERENT"
        if now - summary.answered_at > self._lease_s:
            return "TOO_OLD" if summary.has_nodes else "FEEDER_GONE"
        allowed_s = self._max_age_s if max_age is None else min(max_age, self._max_age_s)
        return None if now - summary.proven_at <= allowed_s else "TOO_OLD"

    def _refusal(self, market: _Market, cause: str, max_age: float | None) -> ldc.DepthCacheError:
        """Return the error for a cause, with what to do."""
        name, replicas = market.name, market.replicas
        if cause == "STOPPED" and self._ends.is_set():
            return self._stopped()
        if replicas.shown is None and cause == "FEEDER_GONE" and self._roster.tokens:
            return ldc.DepthCacheNotFound(
                name,
                cause,
                f"No node of the cluster {self.cluster!r} has {name!r} (cause: {cause}): add it with 'ldc cluster add "
                f"{name}', or check its spelling.",
            )
        age_s = time.monotonic() - replicas.summary.proven_at
        allowed_s = self._max_age_s if max_age is None else min(max_age, self._max_age_s)
        known = {
            "FEEDER_GONE": f"no node of the cluster {self.cluster!r} that has it can be reached; start one, or check "
            f"{', '.join(self.endpoints)}",
            "TOO_OLD": f"the last proof that it is current came {age_s:.3f} s ago, and {allowed_s:g} s are allowed; "
            "read again after the next one",
            "DIFFERENT": f"its replicas on {', '.join(replicas.nodes)} differ at the same update id; both are being "
            "audited: read again when they agree",
        }
        why = known.get(cause, f"it is so on {', '.join(replicas.nodes) or 'every node'}; read again later")
        place = "" if replicas.shown is None else f" at update id {replicas.shown.push.last_update_id}"
        kind = ldc.BookNotLoaded if cause == "NOT_LOADED" else ldc.DepthCacheOutOfSync
        return kind(name, cause, f"The book of {name!r} cannot be read{place} (cause: {cause}): {why}.")

    def _stopped(self) -> ldc.DepthCacheError:
        text = f"The connection to the cluster {self.cluster!r} was closed (cause: STOPPED); connect again."
        return ldc.DepthCacheAlreadyStopped(None, "STOPPED", text)

    # ------------------------------------------------------------------------------------------ inside

    def _subscribed(self, name: str) -> _Market:
        found = self._markets.get(name)
        if found is not None:
            return found
        if self._ends.is_set():
            raise self._stopped()
        with self._lock:
            found = self._markets.get(name)
            if found is None:
                found = _Market(name)
                self._markets[name] = found
        if found.subscription is None:
            found.subscription = self._bus.subscribe_directly(
                self.keys.top(name, "*"), lambda key, data: self._pushed(found, self.keys.last_of(key), data)
            )
            self._ask_for_book(found)
        return found

    def _wait_for_first(self, market: _Market) -> None:
        """Wait until a first book and its proof are there, or the time is over."""
        give_up_at = time.monotonic() + FIRST_READ_S
        asks_at = 0.0
        with market.changed:
            while self._why_refused(market.replicas.summary) is not None and not self._ends.is_set():
                now = time.monotonic()
                if now >= give_up_at:
                    return
                if now >= asks_at:
                    asks_at = now + 0.1
                    self._ask_for_book(market)
                market.changed.wait(0.02)

    def _ask_for_book(self, market: _Market) -> None:
        """Ask every node that has a market for its book and its proof: after the subscription, so nothing is missed."""
        for name in self.holders(market.name):
            self._ask_proof(name, [market.name])
            self._bus.ask(
                self.keys.ask(name, "book"),
                market.name.encode(),
                lambda data, name=name: self._pushed(market, name, data),  # type: ignore[misc]
                ANSWER_S,
            )

    def _pushed(self, market: _Market, name: str, data: bytes) -> None:
        """Take a push, on any thread of the transport or the session."""
        try:
            push = push_from(data)
        except ValueError as error:
            self._bad_messages += 1
            logger.warning("a push of %r from node %r is dropped: %s", market.name, name, error)
            return
        if push.market != market.name:
            self._misrouted_messages += 1
            return
        with market.changed:
            found = market.replicas.pushed(name, push, time.time_ns(), time.monotonic())
            market.changed.notify_all()
        if found is not None:
            self._bus.call(lambda: self._tell(found))

    def _tell(self, found: Disagreement) -> None:
        """Report that replicas differ: to the log, to the nodes, which audit the market, and to the user."""
        logger.error(
            "the replicas of %s on %s differ at update id %d: they are not read until they agree",
            found.market,
            ", ".join(found.nodes),
            found.last_update_id,
        )
        payload = f'{{"markets": ["{found.market}"]}}'.encode()
        for name in found.nodes:
            self._bus.ask(self.keys.ask(name, "audit"), payload, lambda _data: None, ANSWER_S)
        if self._on_disagreement is not None:
            self._on_disagreement(found)

    def _node_token(self, key: str, is_there: bool) -> None:
        token = self.keys.node_token(key)
        if token is not None:
            with self._lock:
                changes = self._roster.take_node(token, is_there)
            self._take_changes(changes)

    def _replica_token(self, key: str, is_there: bool) -> None:
        token = self.keys.replica_token(key)
        if token is not None:
            with self._lock:
                changes = self._roster.take_replica(token, is_there)
            self._take_changes(changes)

    def _take_changes(self, changes: list[RosterChange]) -> None:
        """Carry out what changes of the roster mean for reads, on the session's thread."""
        for event, name, changed in changes:
            self._note(event.value, name, changed)
            if event is RosterEvent.GONE:
                for market in list(self._markets.values()):
                    with market.changed:
                        market.replicas.node_gone(name)
                        market.changed.notify_all()
            elif event is RosterEvent.SYNCHRONIZED and changed in self._markets:
                self._ask_for_book(self._markets[changed])

    def _take_hello(self, key: str, data: bytes) -> None:
        """Take what a node says about its tokens; ask it for what the transport did not deliver."""
        name = self.keys.last_of(key)
        try:
            hello = hello_from_bytes(data)
        except ValueError as error:
            self._bad_messages += 1
            logger.warning("a message of node %r about its tokens is dropped: %s", name, error)
            return
        if hello.name != name:
            self._misrouted_messages += 1
            return
        with self._lock:
            doubt = self._roster.take_hello(hello)
        if doubt is None:
            return
        take = self._take_nothing if doubt is Doubt.NODE else lambda data: self._take_replicas(name, data)
        self._bus.ask(self.keys.ask(name, doubt.value), b"", take, ANSWER_S)

    def _take_nothing(self, _data: bytes) -> None:
        """Take an answer that says nothing: what was asked for arrives as a token."""

    def _take_replicas(self, name: str, data: bytes) -> None:
        try:
            instance, markets = replicas_from_bytes(data)
        except ValueError as error:
            self._bad_messages += 1
            logger.warning("a list of the replicas of node %r is not used: %s", name, error)
            return
        with self._lock:
            changes = self._roster.take_replicas(name, instance, markets)
        self._take_changes(changes)

    def _prove(self) -> None:
        """Ask every node how current its books are, until the end."""
        while not self._ends.wait(self._proof_s):
            with self._lock:
                names = list(self._roster.tokens)
                by_node: dict[str, dict[str, None]] = {name: {} for name in names}  # sets that keep their order
                for market, holders in self._roster.holders.items():
                    if market in self._markets:
                        for name in holders:
                            by_node[name][market] = None
                # A node that leaves a market has withdrawn its token, and serves on.
                for each in self._markets.values():
                    with each.changed:
                        names_heard = each.replicas.nodes
                    for name in names_heard:
                        if name in by_node:
                            by_node[name][each.name] = None
            for name, markets in by_node.items():
                if markets:
                    self._ask_proof(name, list(markets) if len(markets) <= MARKETS_NAMED_MAX else [])

    def _ask_proof(self, name: str, markets: list[str]) -> None:
        asked_at = time.monotonic()
        self._bus.ask(
            self.keys.ask(name, "proof"),
            ",".join(markets).encode(),
            lambda data: self._proven(name, data, asked_at, markets),
            ANSWER_S,
        )

    def _proven(self, name: str, data: bytes, asked_at: float, asked: list[str]) -> None:
        """Take proofs, on the session's thread. A market that was asked for and is not among them is not there."""
        try:
            proofs = proofs_from_bytes(data)
        except ValueError as error:
            self._bad_messages += 1
            logger.warning("the proofs of node %r are dropped: %s", name, error)
            return
        for absent in set(asked or list(self._markets)) - {proof.market for proof in proofs}:
            stopped = self._markets[absent]  # the push that says so is one message, and may be lost
            with stopped.changed:
                stopped.replicas.node_gone(name)
        for proof in proofs:
            market = self._markets.get(proof.market)
            if market is None:
                continue
            with market.changed:
                is_missing = market.replicas.proven(name, proof, asked_at)
                market.changed.notify_all()
            if is_missing:
                self._bus.ask(
                    self.keys.ask(name, "book"),
                    market.name.encode(),
                    lambda data, market=market: self._pushed(market, name, data),  # type: ignore[misc]
                    ANSWER_S,
                )


def connect(
    cluster: str,
    *,
    connect: Sequence[str],
    markets: Iterable[str] = (),
    max_age: float = MAX_AGE_S,
    lease: float = LEASE_S,
    proof_interval: float = PROOF_S,
    on_disagreement: Callable[[Disagreement], object] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> ClusterBooks:
    """Return the books of a cluster. Nothing is waited for: the first read of a market waits up to 2 s for it.

    Args:
        cluster: its name.
        connect: endpoints of nodes, such as "tcp/10.0.0.1:7447". One is enough to find all others; name two.
        markets: to be subscribed at once; others are by their first read.
        max_age: seconds; how old the proof of a book may be.
        lease: seconds; how long no node of a market may answer before its reads are refused.
        proof_interval: seconds between two questions to each node.
        on_disagreement: called on a thread of the transport when two replicas differ at the same update id. It must
            return soon.
        config: a file of Zenoh's own configuration, for TLS, users and access control.

    Raises ``ValueError`` for wrong arguments.
    """
    return ClusterBooks(
        cluster,
        connect=connect,
        markets=markets,
        max_age=max_age,
        lease=lease,
        proof_interval=proof_interval,
        on_disagreement=on_disagreement,
        config=config,
    )


def _as_lists(levels: Iterable[tuple[Any, Any]]) -> list[list[float]]:
    """Return levels in the form of the manager's reads."""
    return [[price, quantity] for price, quantity in levels]


def _cut(view: ldc.BookView[float], limit: int) -> ldc.BookView[float]:
    """Return the first levels of a view, which says whether levels were left out."""
    if limit < 0:
        raise ValueError(f"limit_count must not be negative, and is {limit}")
    return view._replace(
        bids=view.bids[:limit],
        asks=view.asks[:limit],
        bids_truncated=len(view.bids) > limit,
        asks_truncated=len(view.asks) > limit,
    )


def _is_past(shown: Any, first: Any, after_update_id: int | None) -> bool:
    """Return whether a book is past an id, or past the one that was shown first."""
    if after_update_id is not None:
        return bool(shown.push.last_update_id > after_update_id)
    return first is None or shown is not first
