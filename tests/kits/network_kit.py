"""What the tests of the way to a host share: addresses that lead nowhere, and an environment without settings."""

import contextlib
import errno
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ldc.network import connecting
from ldc.network.certificates import VARIABLES

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

Place = tuple[str, int]


def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the proxies and the certificates of the environment."""
    for name in (*PROXY_VARIABLES, *map(str.upper, PROXY_VARIABLES), *VARIABLES, "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    """Return a port that nobody listens on, for a process that is started later.

    It lies below those that systems give to connections, so that none takes it meanwhile.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.2", port: int = 0) -> Iterator[int]:
    """A port that neither takes nor refuses a connection: its queue is full, so the first packet is dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect((host, port))
            except TimeoutError:
                break
        yield port


def resolve_to(monkeypatch: pytest.MonkeyPatch, name: str, *hosts: str) -> None:
    """Let a name have these addresses, in this order. Other names are resolved as ever."""
    resolve: Callable[..., list] = socket.getaddrinfo

    def getaddrinfo(host, port, *rest, **more):
        if host != name:
            return resolve(host, port, *rest, **more)
        return [found for each in hosts for found in resolve(each, port, 0, socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def refuse_by_system(monkeypatch: pytest.MonkeyPatch, host: str, code: int = errno.EHOSTUNREACH) -> list[Any]:
    """Let connecting to that address fail at once with that error, as a missing route makes it fail.

    Returns where connections were tried, from now on.
    """
    tried = []

    class Socket(socket.socket):
        def connect_ex(self, place):
            tried.append(place)
            return code if place[0] == host else super().connect_ex(place)

        def connect(self, place):
            tried.append(place)
            if place[0] == host:
                raise OSError(code, "as the test wants it")
            super().connect(place)

    monkeypatch.setattr(socket, "socket", Socket)
    return tried


@pytest.fixture
def fresh_addresses() -> Iterator[None]:
    """No address has failed before or after the test."""
    connecting.forget_addresses()
    yield
    connecting.forget_addresses()
