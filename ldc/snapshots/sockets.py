"""Sockets that another thread can end: without them no deadline holds.

Rule 1: a thread that waits for a slow or silent server is woken by shutting its socket down, whatever it is doing with
    it: proxy handshake, TLS handshake, headers or body. A timeout of the socket is per read, so one byte every few
    seconds would keep a download alive for ever.
Rule 2: opening, pooling and reading stay with requests and urllib3; this only learns of their sockets.

Theory of operation. `shutdown` acts on the connection, not on the descriptor, so a duplicate of the descriptor will do.
The duplicate is made right after the TCP connect, before TLS takes the original away, and lives as long as the
connection; if the library closes the connection early (an HTTP/1.0 answer), until the end of the download, because the
body may still be under way. Waiting for an address or for the TCP connect cannot be ended like this: whoever does is a
daemon thread, and nobody waits for it.
"""

import contextlib
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager

__all__ = ["EndableAdapter", "EndableSockets"]


class EndableSockets:
    """The sockets of one worker's connections. `end` may be called from any thread; the rest by the worker."""

    def __init__(self) -> None:
        # Reentrant, because the garbage collector may close a connection while this very thread is in here.
        self._lock = threading.RLock()
        self._held: dict[object, socket.socket] = {}  # by connection
        self._retired: list[socket.socket] = []  # of connections closed while their body may still come
        self._is_ended = False

    def begin_download(self) -> None:
        """From now on connections may be used."""
        with self._lock:
            self._is_ended = False

    def end(self) -> None:
        """End whatever the worker is doing: its reads return at once, and connections made from now on are dead."""
        with self._lock:
            self._is_ended = True
            for held in (*self._held.values(), *self._retired):
                _shut_down(held)

    def finish_download(self) -> None:
        """Let go of connections that were closed meanwhile."""
        with self._lock:
            retired, self._retired = self._retired, []
        for held in retired:
            held.close()

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            for held in (*self._held.values(), *self._retired):
                held.close()

    def add(self, connection: object, sock: socket.socket) -> None:
        """A connection has a new socket."""
        duplicate = socket.socket(fileno=socket.dup(sock.fileno()))
        with self._lock:
            self.retire(connection)
            self._held[connection] = duplicate
            if self._is_ended:
                _shut_down(duplicate)

    def retire(self, connection: object) -> None:
        """A connection was closed; its body may still be read."""
        with self._lock:
            held = self._held.pop(connection, None)
            if held is not None:
                self._retired.append(held)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        sock.shutdown(socket.SHUT_RDWR)


class EndableAdapter(HTTPAdapter):
    """The adapter of requests, telling `sockets` of every connection that it opens, through a proxy or not."""

    def __init__(self, sockets: EndableSockets) -> None:
        self._sockets = sockets
        super().__init__(pool_connections=4, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the manager of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        _tell_of_sockets(self.poolmanager, self._sockets)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Return the manager of the connections through that proxy."""
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if is_new:
            _tell_of_sockets(manager, self._sockets)
        return manager


def _tell_of_sockets(manager: PoolManager, sockets: EndableSockets) -> None:
    """Replace the manager's classes of pools by heirs whose connections report."""
    manager.pool_classes_by_scheme = {
        scheme: _reporting(pool_class, sockets) for scheme, pool_class in manager.pool_classes_by_scheme.items()
    }


def _reporting(pool_class: Any, sockets: EndableSockets) -> Any:
    connection_class = pool_class.ConnectionCls

    def new_connection(self: Any) -> socket.socket:
        sock: socket.socket = connection_class._new_conn(self)
        sockets.add(self, sock)
        return sock

    def close(self: Any) -> None:
        connection_class.close(self)
        sockets.retire(self)

    heir = type(connection_class.__name__, (connection_class,), {"_new_conn": new_connection, "close": close})
    return type(pool_class.__name__, (pool_class,), {"ConnectionCls": heir})
