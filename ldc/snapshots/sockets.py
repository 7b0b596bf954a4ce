"""Sockets that another thread can end: without them no deadline holds.

Rule 1: to wake a thread that waits for a slow or silent server, its socket is shut down. This works in the proxy and
    the TLS handshake, in headers and body. A socket's timeout is per read: with a byte every few seconds, a download
    would never end.
Rule 2: `ldc.network.connecting` opens the sockets, requests and urllib3 pool and read them; this module registers them.
Rule 3: a connection that was idle may be dead without a sign, because a router between has forgotten it. So it is used
    again only within `IDLE_S_MAX`, and has `REUSED_ANSWER_S` to answer. After one that did not answer, none that was
    idle at that time is used again.

Theory of operation. `shutdown` acts on the connection, not on the descriptor, so a duplicate of the descriptor is
enough. It is made right after the TCP connect, before TLS wraps the original, and lives as long as the connection. The
library may close the connection early (an HTTP/1.0 answer); then the duplicate lives until the end of the download,
because the body may still arrive. A wait for an address or for the TCP connect cannot be ended like this. Such a thread
is a daemon, and no other thread waits for it.
"""

import contextlib
import math
import socket
import ssl
import threading
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3 import exceptions as urllib3_exceptions

from ldc.network.connecting import connect, peer_of, reachable_host

IDLE_S_MAX = 30.0
"""Seconds; a connection that was idle for longer is closed instead of used. Routers forget one after 60 s or more."""

REUSED_ANSWER_S = 3.0
"""Seconds until the answer begins on a connection that was idle. Then the request is repeated on a new one."""


class KeptConnections:
    """Which idle connections may be used again. All workers of a downloader share it. Thread-safe."""

    def __init__(self) -> None:
        self._distrusted_at = -math.inf

    def distrust(self, now: float) -> None:
        """A connection that was idle did not answer: others that are idle now may be as dead."""
        self._distrusted_at = now

    def may_reuse(self, idle_since: float, now: float) -> bool:
        """Return whether a connection that has been idle since that time may be used."""
        return idle_since > self._distrusted_at and now - idle_since <= IDLE_S_MAX


class EndableSockets:
    """The sockets of one worker's connections. Any thread may call `end`; only the worker calls the other methods."""

    def __init__(self, kept: KeptConnections | None = None) -> None:
        self.is_reused = False
        """Whether the connection that was used last had been idle before."""
        self.peer: tuple[str, int] | None = None
        """The address of the connection that was used last."""
        self._kept = kept or KeptConnections()
        self._idle_since: dict[object, float] = {}
        # Reentrant, because the garbage collector may close a connection while this thread holds the lock.
        self._lock = threading.RLock()
        self._held: dict[object, socket.socket] = {}  # by connection
        self._retired: list[socket.socket] = []  # of connections closed while their body may still come
        self._is_ended = False

    def begin_download(self) -> None:
        """Allow connections from now on."""
        with self._lock:
            self._is_ended = False

    def end(self) -> None:
        """Shut all connections down: the worker's reads return at once, and new connections are shut down too."""
        with self._lock:
            self._is_ended = True
            for held in (*self._held.values(), *self._retired):
                _shut_down(held)

    def finish_download(self) -> None:
        """Close the duplicates of connections that were closed during the download."""
        with self._lock:
            retired, self._retired = self._retired, []
        for held in retired:
            held.close()

    def close(self) -> None:
        """Close all duplicates."""
        with self._lock:
            for held in (*self._held.values(), *self._retired):
                held.close()

    def use(self, connection: Any) -> None:
        """A connection of a pool is going to be used. One that was idle for too long is closed; it opens again."""
        idle_since = self._idle_since.pop(connection, None)
        self.is_reused = idle_since is not None and connection.sock is not None
        if self.is_reused:
            assert idle_since is not None
            if self._kept.may_reuse(idle_since, time.monotonic()):
                self.peer = peer_of(connection.sock)
            else:
                connection.close()
                self.is_reused = False

    def keep(self, connection: object) -> None:
        """A connection is idle in its pool from now on."""
        if connection is not None:
            self._idle_since[connection] = time.monotonic()

    def add(self, connection: object, sock: socket.socket) -> None:
        """Register the new socket of a connection."""
        self.peer = peer_of(sock)
        duplicate = socket.socket(fileno=socket.dup(sock.fileno()))
        with self._lock:
            self.retire(connection)
            self._held[connection] = duplicate
            if self._is_ended:
                _shut_down(duplicate)

    def retire(self, connection: object) -> None:
        """Note that a connection was closed; its body may still be read."""
        with self._lock:
            self._idle_since.pop(connection, None)
            held = self._held.pop(connection, None)
            if held is not None:
                self._retired.append(held)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side has closed it already
        sock.shutdown(socket.SHUT_RDWR)


class EndableAdapter(HTTPAdapter):
    """The adapter of requests. It registers every connection that it opens with `sockets`, through a proxy or not."""

    def __init__(self, sockets: EndableSockets, context: ssl.SSLContext | None = None) -> None:
        self._sockets = sockets
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the manager of direct connections."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        _register_connections(self.poolmanager, self._sockets)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Return the manager of the connections through that proxy."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **proxy_kwargs)
        if is_new:
            _register_connections(manager, self._sockets)
        return manager

    def cert_verify(self, conn: Any, url: str, verify: object, cert: object) -> None:  # noqa: ARG002
        """Let the context decide whom to trust; requests would add the certificates of certifi."""
        conn.cert_reqs = "CERT_REQUIRED"
        conn.ca_certs = conn.ca_cert_dir = None


def _register_connections(manager: PoolManager, sockets: EndableSockets) -> None:
    """Replace the manager's pool classes by subclasses whose connections register themselves."""
    manager.pool_classes_by_scheme = {
        scheme: _registering(pool_class, sockets) for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }


def _registering(pool_class: Any, sockets: EndableSockets) -> Any:
    connection_class = pool_class.ConnectionCls

    def new_connection(self: Any) -> socket.socket:
        is_socks = hasattr(self, "_socks_options")
        sock = _through_socks(self, connection_class) if is_socks else _connected(self)
        sockets.add(self, sock)
        return sock

    def get_response(self: Any) -> Any:
        sock = self.sock
        if not sockets.is_reused or sock is None:
            return connection_class.getresponse(self)
        timeout_s = max(self.timeout or 0.0, sock.gettimeout() or 0.0)
        self.timeout = REUSED_ANSWER_S
        sock.settimeout(REUSED_ANSWER_S)
        response = connection_class.getresponse(self)
        with contextlib.suppress(OSError):  # it was closed with the head; the body is read from what is left
            sock.settimeout(timeout_s)
        return response

    def close(self: Any) -> None:
        connection_class.close(self)
        sockets.retire(self)

    def get_connection(self: Any, timeout: float | None = None) -> Any:
        connection = pool_class._get_conn(self, timeout)
        sockets.use(connection)
        return connection

    def put_connection(self: Any, connection: Any) -> None:
        sockets.keep(connection)
        pool_class._put_conn(self, connection)

    methods = {"_new_conn": new_connection, "getresponse": get_response, "close": close}
    subclass = type(connection_class.__name__, (connection_class,), methods)
    of_pool = {"ConnectionCls": subclass, "_get_conn": get_connection, "_put_conn": put_connection}
    return type(pool_class.__name__, (pool_class,), of_pool)


def _connected(connection: Any) -> socket.socket:
    """Connect to the exchange or to an HTTP proxy; raise what urllib3 raises."""
    host = connection._dns_host
    try:
        return connect(host, connection.port, connection.timeout)
    except TimeoutError as error:
        raise urllib3_exceptions.ConnectTimeoutError(connection, f"cannot connect to {host}: {error}") from error
    except OSError as error:
        raise urllib3_exceptions.NewConnectionError(connection, f"cannot connect to {host}: {error}") from error


def _through_socks(connection: Any, connection_class: Any) -> socket.socket:
    options = connection._socks_options
    try:
        host = reachable_host(options["proxy_host"], int(options["proxy_port"]), connection.timeout)
        connection._socks_options = {**options, "proxy_host": host}
        sock: socket.socket = connection_class._new_conn(connection)
    except (OSError, urllib3_exceptions.HTTPError) as error:
        raise urllib3_exceptions.ProxyError("the SOCKS proxy does not connect to the exchange", error) from error
    return sock
