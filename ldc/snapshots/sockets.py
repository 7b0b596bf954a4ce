"""Sockets that another thread can end: without them no deadline holds.

Rule 1: to wake a thread that waits for a slow or silent server, its socket is shut down. This works in the proxy and
    the TLS handshake, in headers and body. A socket's timeout is per read: with a byte every few seconds, a download
    would never end.
Rule 2: requests and urllib3 open, pool and read the sockets; this module only registers them.

Theory of operation. `shutdown` acts on the connection, not on the descriptor, so a duplicate of the descriptor is
enough. It is made right after the TCP connect, before TLS wraps the original, and lives as long as the connection. The
library may close the connection early (an HTTP/1.0 answer); then the duplicate lives until the end of the download,
because the body may still arrive. A wait for an address or for the TCP connect cannot be ended like this. Such a thread
is a daemon, and no other thread waits for it.
"""

import contextlib
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager


class EndableSockets:
    """The sockets of one worker's connections. Any thread may call `end`; only the worker calls the other methods."""

    def __init__(self) -> None:
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

    def add(self, connection: object, sock: socket.socket) -> None:
        """Register the new socket of a connection."""
        duplicate = socket.socket(fileno=socket.dup(sock.fileno()))
        with self._lock:
            self.retire(connection)
            self._held[connection] = duplicate
            if self._is_ended:
                _shut_down(duplicate)

    def retire(self, connection: object) -> None:
        """Note that a connection was closed; its body may still be read."""
        with self._lock:
            held = self._held.pop(connection, None)
            if held is not None:
                self._retired.append(held)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side has closed it already
        sock.shutdown(socket.SHUT_RDWR)


class EndableAdapter(HTTPAdapter):
    """The adapter of requests. It registers every connection that it opens with `sockets`, through a proxy or not."""

    def __init__(self, sockets: EndableSockets) -> None:
        self._sockets = sockets
        super().__init__(pool_connections=4, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the manager of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        _register_connections(self.poolmanager, self._sockets)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Return the manager of the connections through that proxy."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if is_new:
            _register_connections(manager, self._sockets)
        return manager


def _register_connections(manager: PoolManager, sockets: EndableSockets) -> None:
    """Replace the manager's pool classes by subclasses whose connections register themselves."""
    manager.pool_classes_by_scheme = {
        scheme: _registering(pool_class, sockets) for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }


def _registering(pool_class: Any, sockets: EndableSockets) -> Any:
    connection_class = pool_class.ConnectionCls

    def new_connection(self: Any) -> socket.socket:
        sock: socket.socket = connection_class._new_conn(self)
        sockets.add(self, sock)
        return sock

    def close(self: Any) -> None:
        connection_class.close(self)
        sockets.retire(self)

    subclass = type(connection_class.__name__, (connection_class,), {"_new_conn": new_connection, "close": close})
    return type(pool_class.__name__, (pool_class,), {"ConnectionCls": subclass})
