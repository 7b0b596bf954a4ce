"""The way to the exchange: TLS whose certificates are checked, proxies, and both together. Over real sockets."""

import contextlib
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
from loopback_exchange import LoopbackExchange
from network_kit import clear_environment
from relays import Relay, http_tunnel, say_nothing, socks5
from scripted_server import LOOPBACK_PEM, tls_context

from ldc.manager.manager import BinanceLocalDepthCacheManager

pytestmark = [
    pytest.mark.usefixtures("no_jitter"),
    # A peer that is gone when TLS is about to begin makes `SSLContext.wrap_socket` raise and forget the socket it made.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXCHANGE = "exchange.invalid"  # a name that no resolver knows: only a proxy reaches it


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies and no certificates but those of the test."""
    clear_environment(monkeypatch)


@contextlib.contextmanager
def exchange_behind_tls(tmp_path) -> Iterator[tuple[LoopbackExchange, int]]:
    """An exchange with one market, and its TLS port."""
    with LoopbackExchange() as exchange:
        exchange.add_market()
        with Relay(exchange.restful_base_uri, tls=tls_context(tmp_path)) as relay:
            yield exchange, relay.port


def uris(host: str, port: int) -> dict[str, str]:
    return MANAGER_PARAMETERS | {
        "restful_base_uri": f"https://{host}:{port}",
        "websocket_base_uri": f"wss://{host}:{port}",
    }


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_exchange_is_trusted_whose_certificate_the_environment_trusts(variable, monkeypatch, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(LOOPBACK_PEM)
    monkeypatch.setenv(variable, str(trusted))
    with (
        exchange_behind_tls(tmp_path) as (exchange, port),
        BinanceLocalDepthCacheManager(**uris("127.0.0.1", port)) as manager,
    ):
        synchronize(exchange, manager)
        for _ in range(20):
            reach(exchange, manager)
        assert_exact(exchange, manager)
        assert manager.get_status("BTCUSDT").reconnects == 0


def test_an_untrusted_certificate_is_refused_by_both(tmp_path):
    with exchange_behind_tls(tmp_path) as (exchange, port):
        with BinanceLocalDepthCacheManager(**uris("127.0.0.1", port)) as manager:
            manager.create_depth_cache("BTCUSDT")
            eventually(lambda: manager.get_status("BTCUSDT").last_error, "an error")
            assert "certificate" in manager.get_status("BTCUSDT").last_error.lower()
        assert exchange.connections == exchange.rest_requests == []


def test_a_certificate_of_another_name_is_refused(monkeypatch, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(LOOPBACK_PEM)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    with exchange_behind_tls(tmp_path) as (exchange, port):
        with BinanceLocalDepthCacheManager(**uris("localhost", port)) as manager:
            manager.create_depth_cache("BTCUSDT")
            eventually(lambda: manager.get_status("BTCUSDT").last_error, "an error")
            assert "localhost" in manager.get_status("BTCUSDT").last_error
        assert exchange.connections == exchange.rest_requests == []


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_proxy_leads_to_the_exchange(scheme, tls, monkeypatch, tmp_path):
    if scheme != "http":
        pytest.importorskip("python_socks")
        pytest.importorskip("socks")
    with LoopbackExchange() as exchange:
        exchange.add_market()
        with contextlib.ExitStack() as stack:
            target = exchange.restful_base_uri
            if tls:
                trusted = tmp_path / "trusted.pem"
                trusted.write_text(LOOPBACK_PEM)
                monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
                behind = stack.enter_context(Relay(target, tls=tls_context(tmp_path)))
                target = f"http://127.0.0.1:{behind.port}"
            relay = stack.enter_context(Relay(target, http_tunnel() if scheme == "http" else socks5))
            # The certificate is that of 127.0.0.1, so this is where TLS must want to go; another port shows the proxy.
            host = "127.0.0.1" if tls else EXCHANGE
            addresses = {
                "restful_base_uri": f"https://{host}:4443" if tls else exchange.restful_base_uri,
                "websocket_base_uri": f"{'wss' if tls else 'ws'}://{host}:4443",
            }
            if not tls and scheme != "http":
                addresses["restful_base_uri"] = f"http://{EXCHANGE}:4443"
            proxy = f"{scheme}://127.0.0.1:{relay.port}"
            if not tls and scheme == "http":
                # Plain HTTP is not tunnelled, so the proxy itself would have to be a web server: only the feed here.
                monkeypatch.setenv("http_proxy", proxy)
                monkeypatch.setenv("no_proxy", "127.0.0.1")
                proxy = None
            manager = stack.enter_context(BinanceLocalDepthCacheManager(**MANAGER_PARAMETERS, **addresses, proxy=proxy))
            synchronize(exchange, manager)
            reach(exchange, manager)
            assert_exact(exchange, manager)
            assert any(f"{host}:4443" in wanted for wanted in relay.wanted)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n"],
)
def test_a_proxy_that_refuses_is_named_as_the_culprit(answer):
    with Relay("http://127.0.0.1:1", http_tunnel(answer)) as relay:
        proxy = f"http://me:secret@127.0.0.1:{relay.port}"
        with BinanceLocalDepthCacheManager(**uris(EXCHANGE, 443), proxy=proxy) as manager:
            manager.create_depth_cache("BTCUSDT")
            eventually(lambda: manager.get_status("BTCUSDT").last_error, "an error")
            error = manager.get_status("BTCUSDT").last_error
            assert "proxy" in error
            assert answer.decode().split()[1] in error
            assert "secret" not in error
            assert f"CONNECT {EXCHANGE}:443 HTTP/1.1" in relay.wanted


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_that_stalls_is_noticed_in_time(scheme, monkeypatch):
    if scheme != "http":
        pytest.importorskip("python_socks")
        pytest.importorskip("socks")

    soon = {"websocket_ping_interval": 0.3, "websocket_ping_timeout": 0.3}
    with Relay("http://127.0.0.1:1", say_nothing) as relay:
        proxy = f"{scheme}://127.0.0.1:{relay.port}"
        with BinanceLocalDepthCacheManager(**uris(EXCHANGE, 443), **soon, proxy=proxy) as manager:
            manager.create_depth_cache("BTCUSDT")
            eventually(lambda: relay.connections >= 3, "two more tries")
            assert manager.get_status("BTCUSDT").last_error


def test_a_socks_proxy_without_its_packages_is_refused_with_their_names(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install PySocks python-socks"):
        BinanceLocalDepthCacheManager(proxy="socks5://127.0.0.1:1080")
