"""Connections to hosts of which some addresses lead nowhere. Real sockets on loopback."""

import contextlib
import errno
import socket
import threading
from collections.abc import Iterator

import pytest
from network_kit import black_hole, fresh_addresses, refuse_by_system, resolve_to  # noqa: F401
from scripted_server import ScriptedServer, Talk, once

from ldc.network.connecting import (
    TUNNEL_HEAD_BYTES_MAX,
    ProxyFailed,
    connect,
    mark_failed,
    open_tunnel,
    peer_of,
    reachable_host,
)
from ldc.network.proxy import parse

pytestmark = pytest.mark.usefixtures("fresh_addresses")

HOST = "exchange.example"
LONG_S = 20.0


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


def reached(port: int, timeout_s: float = LONG_S) -> str:
    with connect(HOST, port, timeout_s) as sock:
        assert sock.gettimeout() == timeout_s
        return sock.getpeername()[0]


def test_one_address_is_connected(port):
    with connect("127.0.0.1", port, LONG_S) as sock:
        assert peer_of(sock) == ("127.0.0.1", port)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_an_address_that_swallows_everything_does_not_block_the_next(monkeypatch, port):
    resolve_to(monkeypatch, HOST, "127.0.0.2", "127.0.0.1")
    with black_hole("127.0.0.2", port):
        assert reached(port) == "127.0.0.1"


@pytest.mark.parametrize(
    "code", [errno.EHOSTUNREACH, errno.EACCES, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL]
)
def test_whatever_the_error_the_next_address_is_tried(monkeypatch, port, code):
    resolve_to(monkeypatch, HOST, "127.0.0.9", "127.0.0.1")
    tried = refuse_by_system(monkeypatch, "127.0.0.9", code)
    for _ in range(2):
        assert reached(port) == "127.0.0.1"
    assert [host for host, _ in tried] == ["127.0.0.9", "127.0.0.1", "127.0.0.1"]  # the second time it was the last


def test_refused_addresses_and_another_family_do_not_block(monkeypatch, port):
    resolve_to(monkeypatch, HOST, "127.0.0.3", "127.0.0.4", "::1", "2001:db8::1", "127.0.0.1")
    assert reached(port) == "127.0.0.1"


def test_an_address_that_did_not_answer_is_tried_last_the_next_time(monkeypatch, port):
    resolve_to(monkeypatch, HOST, "127.0.0.2", "127.0.0.1")
    with black_hole("127.0.0.2", port):
        reached(port)
        # Were the first one tried again, this would have to wait for it, which nothing else gives time for.
        monkeypatch.setattr("ldc.network.addresses.STAGGER_S", 3600.0)
        assert reached(port) == "127.0.0.1"


def test_a_connection_that_failed_later_makes_another_address_the_first(monkeypatch, port):
    resolve_to(monkeypatch, HOST, "127.0.0.1", "127.0.0.2")
    with socket.create_server(("127.0.0.2", port)):
        assert reached(port) == "127.0.0.1"
        assert reached(port) == "127.0.0.1"
        mark_failed(("127.0.0.1", port))
        assert reached(port) == "127.0.0.2"
        mark_failed(("127.0.0.2", port))
        assert reached(port) == "127.0.0.1"
        mark_failed(None)


def test_all_addresses_share_one_deadline_and_the_error_names_them(monkeypatch):
    with black_hole("127.0.0.2") as port, black_hole("127.0.0.3", port):
        resolve_to(monkeypatch, HOST, "127.0.0.2", "127.0.0.3", "127.0.0.4")
        with pytest.raises(TimeoutError, match=r"none of 3 addresses of exchange.example") as late:
            connect(HOST, port, 1.0)
        assert "127.0.0.4: Connection refused" in str(late.value)


def test_when_all_refuse_the_error_names_them(monkeypatch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=r"^\[Errno \d+\] Connection refused$"):
            connect("127.0.0.1", port, LONG_S)
        resolve_to(monkeypatch, HOST, "127.0.0.3", "127.0.0.2")
        with pytest.raises(ConnectionRefusedError, match=r"none of 2 addresses: 127.0.0.3: .*; 127.0.0.2: "):
            connect(HOST, port, LONG_S)


def test_a_host_without_an_address_says_so(monkeypatch):
    resolve_to(monkeypatch, HOST)
    with pytest.raises(socket.gaierror, match=HOST):
        connect(HOST, 443, LONG_S)


def test_no_socket_is_left(monkeypatch, port):
    made = []

    class Counted(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    resolve_to(monkeypatch, HOST, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with black_hole("127.0.0.2", port), monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Counted)
        connect(HOST, port, LONG_S).close()
        with contextlib.suppress(TimeoutError):
            connect("127.0.0.2", port, 0.1)
    assert len(made) >= 4
    assert [sock for sock in made if sock.fileno() != -1] == []


def test_a_host_is_taken_as_it_is_unless_it_has_several_addresses(monkeypatch, port):
    assert reachable_host("127.0.0.1", port, LONG_S) == "127.0.0.1"
    resolve_to(monkeypatch, HOST, "127.0.0.4")
    assert reachable_host(HOST, port, LONG_S) == HOST  # it is for the library to find out that nobody is there
    monkeypatch.undo()
    resolve_to(monkeypatch, HOST, "127.0.0.4", "127.0.0.1")
    assert reachable_host(HOST, port, LONG_S) == "127.0.0.1"


# ----------------------------------------------------------------------------------------------------------- tunnels

PROXY = parse("http://me:secret@proxy.example:8080")


@contextlib.contextmanager
def through(script, timeout_s: float = LONG_S) -> Iterator[tuple[ScriptedServer, socket.socket]]:
    server = ScriptedServer(script)
    try:
        with connect("127.0.0.1", server.port, timeout_s) as sock:
            yield server, sock
    finally:
        server.close()


def test_a_tunnel_takes_the_head_of_the_answer_and_nothing_behind_it():
    answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nthe exchange speaks"
    with through(once(answer, Talk.hold)) as (server, sock):
        open_tunnel(sock, "exchange.example", 443, PROXY, LONG_S)
        assert sock.recv(100).startswith(b"the exchange")
        [head] = server.heads
        assert head.splitlines() == [
            "CONNECT exchange.example:443 HTTP/1.1",
            "Host: exchange.example:443",
            "Proxy-Authorization: Basic bWU6c2VjcmV0",
        ]


def test_a_tunnel_to_ipv6_has_brackets_and_without_a_user_there_are_no_credentials():
    with through(once(b"HTTP/1.0 200 OK\r\n\r\n")) as (server, sock):
        open_tunnel(sock, "::1", 443, parse("http://proxy"), LONG_S)
        assert server.heads == ["CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (once(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "407 Proxy Authentication Required; check user"),
        (once(b"HTTP/1.1 502 Bad\x1b[2J\r\n\r\n"), r"502 Bad\\x1b\[2J$"),
        (once(b"SSH-2.0-OpenSSH\r\n\r\n"), "SSH-2.0-OpenSSH"),
        (once(b"\r\n\r\n"), "refuses"),
        (once(b""), "closed the connection"),
        (once(b"", Talk.reset), "failed at"),
        (once(b"HTTP/1.1 200 OK\r\nX: " + b"y" * (TUNNEL_HEAD_BYTES_MAX + 1), Talk.hold), "more than"),
    ],
)
def test_a_proxy_that_refuses_is_named_without_its_secrets(script, why):
    with through(script) as (_, sock), pytest.raises(ProxyFailed, match=why) as refused:
        open_tunnel(sock, "exchange.example", 443, PROXY, LONG_S)
    assert "the proxy http://proxy.example:8080" in str(refused.value)
    assert "exchange.example:443" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("script", [Talk.hold, lambda talk: talk.trickle(b"x")], ids=["silent", "trickling"])
def test_a_proxy_that_stalls_is_named(script):
    with through(script, 0.2) as (_, sock), pytest.raises(ProxyFailed, match="does not answer"):
        open_tunnel(sock, "exchange.example", 443, PROXY, 0.2)


def test_threads_may_connect_at_the_same_time(monkeypatch, port):
    resolve_to(monkeypatch, HOST, "127.0.0.3", "127.0.0.1")
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(reached(port))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["127.0.0.1"] * 8
