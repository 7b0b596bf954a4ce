"""A manager behind dead addresses, proxies, other certificates and strangers: both its ways lead to the exchange, or it
says what is wrong in one printable line without secrets. Over real sockets."""

import contextlib
import logging
import socket
from collections.abc import Iterator

import pytest
from live_kit import (  # noqa: F401
    MANAGER_PARAMETERS,
    assert_exact,
    eventually,
    no_jitter,
    no_thread_is_left,
    reach,
    synchronize,
)
from log_kit import logged
from loopback_exchange import LoopbackExchange
from network_kit import black_hole, clear_environment, fresh_addresses, refuse_by_system, resolve_to  # noqa: F401
from relays import Relay, http_tunnel, say_nothing, socks5
from scripted_server import LOOPBACK_PEM, ScriptedServer, Talk, once, tls_context

from ldc.errors import DepthCacheOutOfSync
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.network import certificates
from ldc.network.certificates import VARIABLES

pytestmark = [
    pytest.mark.usefixtures("no_jitter", "fresh_addresses"),
    # A peer that is gone when TLS is about to begin makes `SSLContext.wrap_socket` raise and forget the socket it made.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOST = "exchange.example"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def exchange() -> Iterator[LoopbackExchange]:
    with LoopbackExchange() as exchange:
        exchange.add_market()
        yield exchange


@pytest.fixture
def tls_port(exchange, tmp_path) -> Iterator[int]:
    """Where the exchange speaks TLS, with a certificate for 127.0.0.1."""
    with Relay(exchange.restful_base_uri, tls=tls_context(tmp_path)) as relay:
        yield relay.port


def port_of(exchange: LoopbackExchange) -> int:
    return int(exchange.restful_base_uri.rpartition(":")[2])


def plain(port: int, host: str = HOST) -> dict[str, str]:
    return {"restful_base_uri": f"http://{host}:{port}", "websocket_base_uri": f"ws://{host}:{port}"}


def secure(port: int, host: str = "127.0.0.1") -> dict[str, str]:
    return {"restful_base_uri": f"https://{host}:{port}", "websocket_base_uri": f"wss://{host}:{port}"}


def last_error(manager: BinanceLocalDepthCacheManager) -> str:
    """Return the first error of a market that is created now."""
    manager.create_depth_cache("BTCUSDT")
    eventually(lambda: manager.get_status("BTCUSDT").last_error, "an error")
    return manager.get_status("BTCUSDT").last_error


def rest_error(manager: BinanceLocalDepthCacheManager) -> str:
    """Return the first error of a snapshot, where websockets work."""
    manager.create_depth_cache("BTCUSDT")
    eventually(lambda: "no snapshot" in (manager.get_status("BTCUSDT").last_error or ""), "an error of a snapshot")
    return manager.get_status("BTCUSDT").last_error


# --------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("way", ["swallows", "no route"])
def test_a_dead_first_address_blocks_neither_websockets_nor_snapshots(exchange, monkeypatch, way):
    port = port_of(exchange)
    resolve_to(monkeypatch, HOST, "127.0.0.2", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        if way == "swallows":
            stack.enter_context(black_hole("127.0.0.2", port))
        else:
            refuse_by_system(monkeypatch, "127.0.0.2")
        manager = stack.enter_context(BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **plain(port)))
        synchronize(exchange, manager)
        reach(exchange, manager)
        assert_exact(exchange, manager)
        assert manager.get_status("BTCUSDT").reconnects == 0
        assert manager.get_status("BTCUSDT").last_error is None


def test_an_address_whose_handshake_fails_is_followed_by_another_one(exchange, monkeypatch):
    port = port_of(exchange)
    resolve_to(monkeypatch, HOST, "127.0.0.2", "127.0.0.1")
    deaf = ScriptedServer(lambda talk: None, host="127.0.0.2", port=port)  # takes connections, and ends them
    try:
        with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **plain(port)) as manager:
            synchronize(exchange, manager)
            assert manager.get_status("BTCUSDT").reconnects == 1
        assert deaf.connections >= 1
    finally:
        deaf.close()


# ----------------------------------------------------------------------------------------------------------- proxies


@pytest.mark.parametrize(
    ("variable", "value", "greet"),
    [
        ("all_proxy", "http://127.0.0.1:{}", http_tunnel()),
        ("ALL_PROXY", "127.0.0.1:{}", http_tunnel()),
        ("https_proxy", "127.0.0.1:{}", http_tunnel()),
        ("HTTPS_PROXY", "socks5h://127.0.0.1:{}", socks5),
    ],
)
def test_a_proxy_of_the_environment_leads_both_to_the_exchange(
    exchange, tls_port, monkeypatch, tmp_path, variable, value, greet
):
    if greet is socks5:
        pytest.importorskip("python_socks")
        pytest.importorskip("socks")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "loopback.pem"))
    with Relay(f"http://127.0.0.1:{tls_port}", greet) as relay:
        monkeypatch.setenv(variable, value.format(relay.port))
        with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **secure(4443)) as manager:
            synchronize(exchange, manager)
            reach(exchange, manager)
            assert_exact(exchange, manager)
        assert len(relay.wanted) >= 2  # the websocket and a snapshot
        assert all("127.0.0.1:4443" in wanted for wanted in relay.wanted)


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_a_host_without_a_proxy_is_reached_directly_by_both(exchange, monkeypatch, variable):
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, "other.example, 127.0.0.0/8")
    with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **exchange.uris) as manager:
        synchronize(exchange, manager)


def test_a_proxy_that_was_given_counts_although_the_environment_makes_an_exception(
    exchange, tls_port, monkeypatch, tmp_path
):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "loopback.pem"))
    monkeypatch.setenv("no_proxy", "*")
    with Relay(f"http://127.0.0.1:{tls_port}", http_tunnel()) as relay:
        with BinanceLocalDepthCacheManager(
            **MANAGER_PARAMETERS, **secure(4443), proxy=f"127.0.0.1:{relay.port}"
        ) as manager:
            synchronize(exchange, manager)
        assert len(relay.wanted) >= 2


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("of", ["websocket", "snapshot"])
def test_a_proxy_that_is_down_is_named_and_its_secrets_are_not(exchange, monkeypatch, scheme, of):
    if scheme != "http":
        pytest.importorskip("python_socks")
        pytest.importorskip("socks")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("http_proxy", f"{scheme}://someone:hushhush@127.0.0.1:{port}")
        if of == "websocket":
            with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **plain(80)) as manager:
                error = last_error(manager)
        else:
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            uris = {"restful_base_uri": f"http://{HOST}", "websocket_base_uri": exchange.websocket_base_uri}
            with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **uris) as manager:
                error = rest_error(manager)
    assert f"the proxy {scheme}://127.0.0.1:{port}" in error
    assert "hushhush" not in error
    assert "someone" not in error


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_that_swallows_everything_is_named(monkeypatch, scheme):
    if scheme != "http":
        pytest.importorskip("python_socks")
        pytest.importorskip("socks")
    soon = {"websocket_ping_interval": 0.2, "websocket_ping_timeout": 0.2}
    with Relay("http://127.0.0.1:1", say_nothing) as relay:
        proxy = f"{scheme}://127.0.0.1:{relay.port}"
        with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **secure(443, HOST), **soon, proxy=proxy) as manager:
            assert f"the proxy {proxy}" in last_error(manager)


def test_a_proxy_of_the_environment_that_cannot_be_one_is_refused_by_the_name_of_its_variable(exchange, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://user:hush#hush@127.0.0.1:9")
    with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **exchange.uris) as manager:
        with pytest.raises(ValueError, match="the environment variable http_proxy") as refused:
            manager.create_depth_cache("BTCUSDT")
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize("proxy", ["http://user:hush#hush@127.0.0.1:9", "http://user:hush@127.0.0.1:99999"])
def test_a_proxy_that_cannot_be_one_is_refused_by_the_constructor_without_repeating_it(proxy):
    with pytest.raises(ValueError, match="proxy") as refused:
        BinanceLocalDepthCacheManager(proxy=proxy)
    assert "hush" not in str(refused.value)


# ------------------------------------------------------------------------------------------------------ certificates


@pytest.mark.parametrize("variable", VARIABLES[:3])
def test_what_the_environment_trusts_is_trusted_by_both(exchange, tls_port, monkeypatch, tmp_path, variable):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(LOOPBACK_PEM)
    monkeypatch.setenv(variable, str(trusted))
    with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **secure(tls_port)) as manager:
        synchronize(exchange, manager)
        assert manager.get_status("BTCUSDT").last_error is None
    for user in ("websockets", "snapshots"):  # and nobody else: requests would add what certifi brings along
        assert len(certificates.tls_context(user).get_ca_certs()) == 1


@pytest.mark.parametrize("of", ["websocket", "snapshot"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_path_of_certificates_that_is_gone_is_named_by_both(exchange, tls_port, monkeypatch, tmp_path, variable, of):
    monkeypatch.setenv(variable, str(tmp_path / "gone.pem"))
    uris = secure(tls_port)
    if of == "snapshot":
        uris["websocket_base_uri"] = exchange.websocket_base_uri
    with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **uris) as manager:
        error = last_error(manager) if of == "websocket" else rest_error(manager)
        assert variable in error
        assert "gone.pem" in error


@pytest.mark.parametrize("of", ["websocket", "snapshot"])
def test_the_error_of_a_certificate_that_nobody_trusts_names_the_variables(exchange, tls_port, of):
    uris = secure(tls_port)
    if of == "snapshot":
        uris["websocket_base_uri"] = exchange.websocket_base_uri
    with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **uris) as manager:
        error = last_error(manager) if of == "websocket" else rest_error(manager)
        assert "certificate verify failed" in error
        assert all(variable in error for variable in VARIABLES)


# --------------------------------------------------------------------------------------------------- strangers' texts

EVIL = "no\n2026-11-30 20:00:00 INFO BTCUSDT: BUFFERING -> SYNCHRONIZED\x1b[2J\x1b]0;owned\x07\u202e x\u2028"


def page(status: str, body: str = EVIL, **headers: str) -> bytes:
    data = body.encode()
    fields = {"Content-Length": str(len(data))} | headers
    return (
        "\r\n".join([f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode()
        + data
    )


@contextlib.contextmanager
def stranger(answer: bytes) -> Iterator[str]:
    server = ScriptedServer(once(answer, Talk.hold), "ws")
    try:
        yield server.base_uri
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (page("403 Forbidden"), "HTTP status 403 and a body that begins: no\\x0a2026"),
        (page("200 OK"), "HTTP status 200 and a body that begins: no"),
        (page("503 Service Unavailable", ""), "HTTP status 503"),
        (
            page("302 Found", "", Location="http://portal.example/login\x1b[2J"),
            "HTTP 302, which leads to http://portal.ex",
        ),
        (b"HTTP/1.1 101 \x1b[2J\r\nX\x1b[2J: y\r\n\r\n", "Invalid"),
        (b"\x1b[2J\x1b]0;owned\x07\r\n\r\n", "Invalid status line"),
    ],
)
def test_a_strangers_answer_to_the_handshake_is_told_in_one_printable_line(exchange, caplog, answer, said):
    caplog.set_level(logging.DEBUG, "binance_local_depth_cache")
    with (
        stranger(answer) as uri,
        BinanceLocalDepthCacheManager(restful_base_uri=exchange.restful_base_uri, websocket_base_uri=uri) as manager,
    ):
        error = last_error(manager)
    assert said in error
    for text in (error, *(record.getMessage() for record in logged(caplog).records)):
        assert text.isprintable(), text


def test_a_strangers_answer_to_a_snapshot_is_told_in_one_printable_line(exchange):
    server = ScriptedServer(once(page("403 Forbidden")))
    try:
        uris = {"restful_base_uri": server.base_uri, "websocket_base_uri": exchange.websocket_base_uri}
        with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **uris) as manager:
            error = rest_error(manager)
            assert "HTTP 403" in error
            assert error.isprintable()
    finally:
        server.close()


def test_the_refusal_of_a_subscription_and_the_reason_of_a_close_are_told_in_one_printable_line(exchange, caplog):
    caplog.set_level(logging.DEBUG, "binance_local_depth_cache")
    reply = '{"error":"no\\n2026-11-30 INFO \\u001b[2J\\u202e","id":%d}'
    exchange.on_request = lambda connection, request: [reply % request["id"]]
    with BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **exchange.uris) as manager:
        assert "refuses" in (error := last_error(manager))
        assert error.isprintable()
        exchange.connections[0].close(1008, "go\n\x1b[2J\u202e")
        eventually(lambda: "1008" in "".join(record.getMessage() for record in logged(caplog).records), "the end of it")
        with pytest.raises(DepthCacheOutOfSync) as refused:
            manager.get_asks("BTCUSDT")
        assert str(refused.value).isprintable()
    for record in logged(caplog).records:
        assert record.getMessage().isprintable()
