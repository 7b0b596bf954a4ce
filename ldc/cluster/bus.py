"""The transport: publish, subscribe, serve, ask, members. Zenoh, in one module, so that another could replace it.

Rule 1: nothing is found by multicast. A process knows the endpoints that it is given, and what those know.
Rule 2: an endpoint that others can reach is encrypted, or the user says that it need not be.
Rule 3: callbacks run on one thread of the session, in the order of arrival. They return soon. Pushes of books are
    taken on the transport's thread, because each thread that must wake costs a tenth of a millisecond.
Rule 4: two nodes have one link: of two endpoints in one list, the later one dials. With two links, what is on the way
    on one that ends is lost while the other keeps the session: tokens never arrive, and keys are mixed up.
"""

import contextlib
import ipaddress
import json
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, NamedTuple, Self

try:
    import zenoh
    import zenoh.handlers
except ModuleNotFoundError as error:
    raise ImportError("ldc.cluster needs Zenoh: pip install 'binance-local-depth-cache[cluster]'") from error

LEASE_MS = 1000
"""Milliseconds without a sign of life after which a link is closed: so a process that hangs is noticed. Zenoh's own
default is 10,000."""

RETRY_MS = (100, 1000)
"""Milliseconds between two tries to connect to an endpoint: the first and the longest."""

logger = logging.getLogger("binance_local_depth_cache")

CONNECT_MS = -1
"""Tries to connect never end. With 0, an endpoint that is not there yet would be tried once."""

ENCRYPTED = ("tls", "quic")
"""Protocols of endpoints that are encrypted."""

LOCAL = ("unixsock-stream", "unixpipe")
"""Protocols that do not leave the machine."""


class BusOptions(NamedTuple):
    """How a process reaches a cluster."""

    connect: Sequence[str] = ()
    """Endpoints of other processes, such as "tcp/10.0.0.1:7447": the same list, with its own, for each node."""
    listen: Sequence[str] = ()
    """Endpoints of this process. Readers need none."""
    config: str | PathLike[str] | None = None
    """A file of Zenoh's own configuration (JSON5): TLS, users, access control. The other fields win over it."""
    insecure: bool = False
    """Whether an endpoint that is not encrypted may be reached from other machines."""


def is_private(endpoint: str) -> bool:
    """Return whether an endpoint is encrypted, or cannot be reached from another machine."""
    protocol, _, rest = endpoint.partition("/")
    if protocol in ENCRYPTED or protocol in LOCAL:
        return True
    host = rest.partition("#")[0].partition("?")[0].rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def dialled(connect: Sequence[str], listen: Sequence[str]) -> list[str]:
    """Return the endpoints that a process dials: if its own is in the list, those before it in the alphabet.

    The other ones dial this process, because they have the same list. Who is not in the list, as a reader, dials all.
    """
    own = sorted(set(connect) & set(listen))
    return [endpoint for endpoint in connect if endpoint not in own and (not own or endpoint < own[0])]


def configured(options: BusOptions) -> zenoh.Config:
    """Return the configuration of a session. Raises ``ValueError`` for endpoints that are not private."""
    try:
        config = zenoh.Config() if options.config is None else zenoh.Config.from_file(str(options.config))
    except zenoh.ZError as error:
        raise ValueError(f"Zenoh cannot read the configuration {options.config}: {error}") from None
    connect = list(options.connect) or _endpoints(config, "connect", options.config)
    listen = list(options.listen) or _endpoints(config, "listen", options.config)
    for endpoint in listen:
        if not options.insecure and not is_private(endpoint):
            raise ValueError(
                f"{endpoint} could be reached by everybody in its network: listen on tls/..., or on 127.0.0.1, or say "
                "that it may be insecure"
            )
    settings: dict[str, Any] = {
        "mode": "peer",
        "listen/endpoints": listen,
        "connect/endpoints": dialled(connect, listen),
        "connect/timeout_ms": CONNECT_MS,
        "connect/exit_on_failure": False,
        "connect/retry": {
            "period_init_ms": RETRY_MS[0],
            "period_max_ms": RETRY_MS[1],
            "period_increase_factor": 2,
        },
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": True,
        # What the list has is dialled by rule 4; what gossip tells of is dialled by those that are in no list.
        "scouting/gossip/autoconnect": {"peer": [] if set(connect) & set(listen) else ["peer"]},
        "scouting/gossip/autoconnect_strategy": {
            "peer": {"to_router": "always", "to_peer": "greater-zid" if listen else "always"}
        },
        "transport/link/tx/lease": LEASE_MS,
        "transport/shared_memory/enabled": False,
    }
    for key, value in settings.items():
        try:
            config.insert_json5(key, json.dumps(value))
        except zenoh.ZError as error:
            raise ValueError(f"Zenoh refuses {key} = {value!r}: {error}") from None
    return config


def _endpoints(config: zenoh.Config, kind: str, file: object) -> list[str]:
    """Return the endpoints of a configuration file. Zenoh's default, to listen everywhere, does not count."""
    found = config.get_json(f"{kind}/endpoints")
    if file is None or found == zenoh.Config().get_json(f"{kind}/endpoints"):
        return []
    endpoints = json.loads(found)
    if isinstance(endpoints, dict):
        endpoints = endpoints.get("peer", [])
    return [str(endpoint) for endpoint in endpoints or []]


class Question:
    """A question of another process, to be answered once. Thread-safe as Zenoh's queries are."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self.key = str(query.key_expr)
        payload = query.payload
        self.payload = b"" if payload is None else bytes(payload.to_bytes())

    def answer(self, data: bytes) -> None:
        """Answer it."""
        self._query.reply(self.key, data)
        self._query.drop()


class BusPublisher:
    """Publishes under one key. Thread-safe: Zenoh's own publisher raises if it ends while another thread publishes."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self._lock = threading.Lock()
        self._is_closed = False

    def put(self, data: bytes) -> bool:
        """Publish; return False if the session or the publisher has ended."""
        with self._lock:
            if self._is_closed:
                return False
            try:
                self._publisher.put(data)
            except zenoh.ZError:
                return False
            return True

    def close(self) -> None:
        """End it. Idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._publisher.undeclare()


class Bus:
    """One session of a process with a cluster. Thread-safe. Use it as a context manager, or call `close`.

    All callbacks run on one thread of its own, one after another. So they may ask and declare, and no thread of Zenoh
    waits for Python. A session that was not closed ends with the interpreter.

    Raises ``ValueError`` for wrong endpoints, ``OSError`` if an endpoint cannot be listened on.
    """

    def __init__(self, options: BusOptions) -> None:
        config = configured(options)
        try:
            self._session = zenoh.open(config)
        except zenoh.ZError as error:
            raise OSError(f"the session with the cluster cannot be opened: {error}") from None
        self._declared: list[Any] = []
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._latest: dict[str, bytes] = {}
        self._latest_lock = threading.Lock()
        self._thread = threading.Thread(target=_call_all, args=(self._calls,), name="ldc-bus", daemon=True)
        self._thread.start()
        # Also at the end of the interpreter, before Zenoh's threads would call what is gone.
        self._end = weakref.finalize(self, _close, self._session, self._calls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session, with all that it declared. Idempotent."""
        self._end()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def publisher(self, key: str) -> "BusPublisher":
        """Return what publishes under a key. A message that cannot leave at once is dropped."""
        drop, priority = zenoh.CongestionControl.DROP, zenoh.Priority.INTERACTIVE_HIGH
        return BusPublisher(
            self._session.declare_publisher(key, congestion_control=drop, priority=priority, express=True)
        )

    def subscribe_directly(self, key: str, take: Callable[[str, bytes], None]) -> Any:
        """Call `take(key, data)` for each message under these keys, on the transport's thread: no thread must wake.

        It must return at once, and neither ask nor declare: `call` does that for it. What is not taken in time is
        dropped where it was sent.
        """

        def took(sample: Any) -> None:
            try:
                take(str(sample.key_expr), sample.payload.to_bytes())
            except Exception:  # one message must not end all others; it is logged
                logger.exception("a message of the cluster is dropped: this is a fault of ldc")

        return self._kept(self._session.declare_subscriber(key, _direct(took)))

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the thread of the callbacks, soon."""
        self._calls.put(function)

    def subscribe(self, key: str, take: Callable[[str, bytes], None]) -> Any:
        """Call `take(key, data)` for the latest message under each of these keys.

        A message that waits is replaced by a later one of its key. So what waits is bounded by the number of keys.
        """

        def took(sample: Any) -> None:
            name, data = str(sample.key_expr), sample.payload.to_bytes()
            with self._latest_lock:
                is_waiting = name in self._latest
                self._latest[name] = data
            if not is_waiting:
                self._calls.put(lambda: take(name, self._taken(name)))

        return self._kept(self._session.declare_subscriber(key, _direct(took)))

    def serve(self, key: str, take: Callable[[Question], None]) -> Any:
        """Call `take(question)` for each question under these keys."""

        def took(query: Any) -> None:
            question = Question(query)
            self._calls.put(lambda: take(question))

        return self._kept(self._session.declare_queryable(key, _direct(took)))

    def ask(self, key: str, payload: bytes, take: Callable[[bytes], None], timeout_s: float) -> None:
        """Ask; call `take(answer)` if an answer comes in time."""

        def took(reply: Any) -> None:
            if reply.ok is not None:
                data = reply.ok.payload.to_bytes()
                self._calls.put(lambda: take(data))

        with contextlib.suppress(zenoh.ZError):  # the session has ended: no answer comes
            self._session.get(key, _direct(took), payload=payload, timeout=timeout_s)

    def ask_and_wait(self, key: str, payload: bytes, timeout_s: float) -> bytes | None:
        """Ask, and return the answer; None if none came in time. Not for a callback."""
        for reply in self._session.get(key, payload=payload, timeout=timeout_s):
            if reply.ok is not None:
                return bytes(reply.ok.payload.to_bytes())
        return None

    def declare(self, key: str) -> Any:
        """Declare a liveliness token; the result has `undeclare()`. It ends with this process."""
        return self._session.liveliness().declare_token(key)

    def watch(self, key: str, take: Callable[[str, bool], None]) -> Any:
        """Call `take(key, is_there)` for each token that is there, comes, or goes."""

        def took(sample: Any) -> None:
            name, is_there = str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT
            self._calls.put(lambda: take(name, is_there))

        return self._kept(self._session.liveliness().declare_subscriber(key, _direct(took), history=True))

    def present(self, key: str, timeout_s: float) -> list[str]:
        """Return the tokens that are there now."""
        replies = self._session.liveliness().get(key, timeout=timeout_s)
        return [str(reply.ok.key_expr) for reply in replies if reply.ok is not None]

    def _taken(self, name: str) -> bytes:
        with self._latest_lock:
            return self._latest.pop(name)

    def _kept(self, declared: Any) -> Any:
        """Keep what was declared, as long as the session."""
        self._declared.append(declared)
        return declared


def _direct(took: Callable[[Any], None]) -> Any:
    """Return a handler that is called on Zenoh's thread. Otherwise Zenoh starts a thread for each, which never ends."""
    return zenoh.handlers.Callback(took, indirect=False)


def _call_all(calls: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    """Call what the session delivers, until the end."""
    while (call := calls.get()) is not None:
        try:
            call()
        except Exception:  # one message must not end all others; it is logged
            logger.exception("a message of the cluster is dropped: this is a fault of ldc")


def _close(session: Any, calls: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    session.close()
    calls.put(None)
