"""The downloader over real sockets: whatever a server or a proxy does, one right report arrives in time."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import SNAPSHOT, ScriptedServer, Talk, always, once, reply
from snapshot_kit import LONG_S, STALLS, Clock, Kit, downloader_threads, every_stall, made_kit, wait_for_the_end_of

from ldc.snapshots.downloader import SnapshotBegins, SnapshotBody, SnapshotRequest
from ldc.snapshots.reply import FailureKind
from ldc.snapshots.worker import Worker
from ldc.sync.actions import Purpose
from ldc.types import Cause


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with made_kit(tmp_path, monkeypatch) as kit:
        yield kit


# -- good answers


def test_a_snapshot_is_announced_and_then_delivered_unchanged(kit):
    server = kit.serve(always(reply(X_MBX_USED_WEIGHT_1M=7, Date="Thu, 01 Jan 1970 00:16:40 GMT")))
    client = kit.client_of(server.base_uri, user_agent="tester/1")
    client.ask("btcusdt", 1000, epoch=42)
    request, begins = client.hear()
    assert request == SnapshotRequest("BTCUSDT", 42, Purpose.SYNCHRONIZE, 1000)
    assert isinstance(begins, SnapshotBegins)
    again, body = client.hear()
    assert again is request
    assert isinstance(body, SnapshotBody)
    assert (body.body, body.used_weight) == (SNAPSHOT, 7)
    [head] = server.heads
    assert head.startswith("GET /api/v3/depth?symbol=BTCUSDT&limit=1000 HTTP/1.1\r\n")
    assert "\r\nAccept-Encoding: gzip\r\n" in head
    assert "\r\nUser-Agent: tester/1" in head
    assert client.client.queue_client.bodies == client.client.queue_client.started == 1


def test_nothing_is_opened_or_started_before_the_first_request(kit):
    server = kit.serve(always(reply()))
    kit.client_of(server.base_uri)
    assert downloader_threads() == []
    assert server.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        reply(gzip.compress(SNAPSHOT), Content_Encoding="gzip"),
        reply(b"%x\r\n%s\r\n0\r\n\r\n" % (len(SNAPSHOT), SNAPSHOT), Content_Length=None, Transfer_Encoding="chunked"),
        reply(Connection="close"),
    ],
    ids=["gzip", "chunked", "closing"],
)
def test_a_body_may_be_packed_as_http_allows(kit, answer):
    client = kit.client_of(kit.serve(always(answer)).base_uri)
    for _ in range(3):
        body = client.get()
        assert isinstance(body, SnapshotBody)
        assert body.body == SNAPSHOT


def test_a_body_without_a_length_ends_with_the_connection(kit):
    body = kit.client_of(kit.serve(once(reply(Content_Length=None))).base_uri).get()
    assert isinstance(body, SnapshotBody)
    assert body.body == SNAPSHOT


def test_a_market_in_other_letters_is_sent_as_utf_8(kit):
    server = kit.serve(always(reply()))
    kit.client_of(server.base_uri).get("这456usdt")
    assert "symbol=%E8%BF%99456USDT&" in server.heads[0]


def test_connections_are_kept(kit):
    server = kit.serve(always(reply()))
    client = kit.client_of(server.base_uri)
    for _ in range(12):
        assert isinstance(client.get(), SnapshotBody)
    assert len(server.heads) == 12
    assert server.connections <= 4


def test_a_kept_connection_that_the_server_closed_is_replaced(kit):
    closed = threading.Semaphore(0)

    def script(talk: Talk) -> None:
        if talk.read_head() is not None:
            talk.send(reply())
            talk.hang_up()
            closed.release()

    client = kit.client_of(kit.serve(script).base_uri)
    for _ in range(8):
        assert isinstance(client.get(), SnapshotBody)
        assert closed.acquire(timeout=LONG_S)


def test_four_downloads_run_at_a_time(kit):
    together = threading.Barrier(4)

    def script(talk: Talk) -> None:
        while talk.read_head() is not None:
            together.wait(LONG_S)  # raises, and ends the connection, unless four arrive
            talk.send(reply())

    client = kit.client_of(kit.serve(script).base_uri)
    for number in range(8):
        client.ask(f"M{number}")
    assert all(isinstance(client.result(), SnapshotBody) for _ in range(8))


# -- bad answers


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port without a listener, which no other test gets."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


BIG = b'{"lastUpdateId":1,"bids":[' + b'["4.00000000","431.00000000"],' * 700_000 + b'["1","1"]],"asks":[]}'


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        (FailureKind.RATE_LIMITED, always(reply(b"", "429 Too Many Requests"))),
        (FailureKind.BANNED, always(reply(b"", "418 I'm a teapot"))),
        (FailureKind.FORBIDDEN, always(reply(b"<html>", "403 Forbidden"))),
        (FailureKind.SERVER_ERROR, always(reply(b"", "500 Internal Server Error"))),
        (FailureKind.SERVER_ERROR, always(reply(b"", "503 Service Unavailable"))),
        (FailureKind.PROXY, always(reply(b"", "407 Proxy Authentication Required"))),
        (FailureKind.REFUSED, always(reply(b"", "404 Not Found"))),
        (FailureKind.REFUSED, once(reply(b"cut", "400 Bad Request", Content_Length=100))),
        (FailureKind.RATE_LIMITED, once(reply(b"cut", "429 Too Many Requests", Content_Length=100))),
        (FailureKind.SERVER_ERROR, once(reply(b"x", "500 Internal Server Error", Content_Encoding="br"))),
        (FailureKind.UNKNOWN_MARKET, always(reply(b'{"code":-1121,"msg":"Invalid symbol."}', "400 Bad Request"))),
        (FailureKind.UNKNOWN_MARKET, always(reply(b'{"code":-1220,"msg":"Status."}', "400 Bad Request"))),
        (FailureKind.UNKNOWN_MARKET, always(reply(b'{"code":-1121,"msg":"Invalid symbol."}'))),
        (FailureKind.NOT_A_SNAPSHOT, always(reply(b"<html>maintenance</html>"))),
        (FailureKind.NOT_A_SNAPSHOT, always(reply(b""))),
        (FailureKind.NOT_A_SNAPSHOT, always(reply(status="206 Partial Content"))),
        (FailureKind.NOT_A_SNAPSHOT, always(reply(Content_Encoding="br"))),
        (FailureKind.NOT_A_SNAPSHOT, once(reply(SNAPSHOT[:-5], Content_Length=None))),
        (FailureKind.DAMAGED, once(reply(SNAPSHOT[:-5], Content_Length=len(SNAPSHOT)))),
        (FailureKind.DAMAGED, once(reply(gzip.compress(SNAPSHOT)[:-5], Content_Encoding="gzip"))),
        (FailureKind.DAMAGED, once(reply(Content_Encoding="gzip"))),
        (FailureKind.DAMAGED, once(reply(b"5\r\n{", Content_Length=None, Transfer_Encoding="chunked"))),
        (FailureKind.DAMAGED, once(reply(b"xyz\r\n{", Content_Length=None, Transfer_Encoding="chunked"))),
        (FailureKind.DAMAGED, once(reply(SNAPSHOT[:-5], Content_Length=len(SNAPSHOT)), Talk.reset)),
        (FailureKind.TOO_LARGE, once(reply(b"{", Content_Length=2**40))),
        (FailureKind.TOO_LARGE, once(reply(b"{", Content_Length=None), lambda talk: talk.trickle(b"x" * 1_000_000))),
        (FailureKind.TOO_LARGE, always(reply(gzip.compress(BIG), Content_Encoding="gzip"))),
        (FailureKind.UNREACHABLE, once(b"")),
        (FailureKind.UNREACHABLE, once(b"", Talk.reset)),
        (FailureKind.UNREACHABLE, once(b"hello\r\n\r\n")),
        (FailureKind.UNREACHABLE, once(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n")),
        (FailureKind.UNREACHABLE, once(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000)),
    ],
)
def test_a_bad_answer_is_a_failure_of_its_kind_and_the_next_download_is_not_harmed(kit, kind, script):
    server = kit.serve(script)
    client = kit.client_of(server.base_uri)
    failed = client.failure()
    assert failed.kind is kind, failed
    assert failed.permanent is (Cause.UNKNOWN_MARKET if kind is FailureKind.UNKNOWN_MARKET else None)
    assert "There is no snapshot of BTCUSDT: " in failed.text
    assert client.client.queue_client.failures == {kind: 1}
    well = kit.client_of(kit.serve(always(reply())).base_uri, downloader=client.downloader)
    for _ in range(4):  # each of the workers, probably
        assert isinstance(well.get(), SnapshotBody)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"])
@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/api/v3/depth", "http://[", None])
def test_a_redirect_is_not_followed(kit, status, location):
    elsewhere = kit.serve(always(reply()))
    where = None if location is None else location.format(port=elsewhere.port)
    failed = kit.client_of(kit.serve(always(reply(b"", status, Location=where))).base_uri).failure()
    assert failed.kind is FailureKind.REDIRECTED
    assert elsewhere.connections == 0


def test_cookies_are_not_kept(kit):
    server = kit.serve(always(reply(Set_Cookie="who=you; Path=/")))
    client = kit.client_of(server.base_uri)
    for _ in range(8):
        client.get()
    assert "Cookie" not in "".join(server.heads)


def test_a_refused_connection_and_a_host_without_an_address_are_unreachable(kit, monkeypatch, refused_port):
    assert kit.client_of(f"http://127.0.0.1:{refused_port}").failure().kind is FailureKind.UNREACHABLE

    def no_address(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    failed = kit.client_of("http://exchange.invalid").failure()
    assert failed.kind is FailureKind.UNREACHABLE
    assert "exchange.invalid" in failed.text


# -- deadlines


def clock_that_waits_for(server: ScriptedServer) -> Callable[[], float]:
    """Return a clock that stands still until the server stalls, so that a busy machine changes nothing."""
    began = time.monotonic()
    return lambda: time.monotonic() if server.is_held.is_set() else began


@every_stall
def test_a_download_ends_at_its_deadline_however_the_server_stalls(kit, script):
    server = kit.serve(script)
    client = kit.client_of(server.base_uri, download_s_max=0.3, clock=clock_that_waits_for(server))
    failed = client.failure()
    assert failed.kind is FailureKind.TIMED_OUT
    assert "BTCUSDT" in failed.text
    assert server.was_hung_up.wait(LONG_S)
    assert client.reports.empty()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_stalled_handshake_ends_at_the_deadline(kit, scheme):
    server = kit.serve(Talk.hold, scheme)
    client = kit.client_of(server.base_uri, download_s_max=0.3, clock=clock_that_waits_for(server))
    assert client.failure().kind is FailureKind.TIMED_OUT
    assert server.was_hung_up.wait(LONG_S)


def test_a_stalled_proxy_tunnel_ends_at_the_deadline(kit):
    proxy = kit.serve(once(b"HTTP/1.1 200 Connection established\r\n\r\n", Talk.hold))
    clock = clock_that_waits_for(proxy)
    client = kit.client_of("https://exchange.invalid", proxy=proxy.base_uri, download_s_max=0.3, clock=clock)
    failed = client.failure()
    assert failed.kind is FailureKind.TIMED_OUT
    assert f"through the proxy {proxy.base_uri}" in failed.text
    assert proxy.was_hung_up.wait(LONG_S)


def test_a_resolver_that_hangs_delays_neither_the_failure_nor_the_end(kit, monkeypatch):
    answers = threading.Event()

    def hang(*_: object, **__: object) -> None:
        answers.wait(LONG_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    client = kit.client_of("http://exchange.invalid", download_s_max=0.3)
    assert client.failure().kind is FailureKind.TIMED_OUT
    client.ask("ETHUSDT")
    client.client.close()
    answers.set()
    wait_for_the_end_of(downloader_threads())


def test_the_deadline_is_the_downloaders_and_the_failure_names_it(kit):
    clock = Clock()
    server = kit.serve(STALLS["in the body"])
    client = kit.client_of(server.base_uri, clock=clock, download_s_max=2000.0)
    client.ask()
    assert server.is_held.wait(LONG_S)
    clock.now += 2000
    client.ask("ETHUSDT")  # lets the watchdog read the clock
    failed = client.result()
    assert failed.kind is FailureKind.TIMED_OUT
    assert "There is no snapshot of BTCUSDT: it was not complete after 2000 s; ldc retries." == failed.text
    assert server.was_hung_up.wait(LONG_S)


def test_a_limit_is_obeyed_even_if_the_body_of_the_refusal_stalls(kit, monkeypatch):
    clock, reads = Clock(), threading.Event()
    read = Worker._read

    def note_and_read(worker: Worker, response: Any) -> bytes:
        reads.set()
        return read(worker, response)

    monkeypatch.setattr(Worker, "_read", note_and_read)
    server = kit.serve(once(reply(b"{", "429 Too Many Requests", Retry_After=33, Content_Length=100), Talk.hold))
    client = kit.client_of(server.base_uri, clock=clock)
    client.ask()
    assert reads.wait(LONG_S)
    clock.now += 3600
    client.ask("ETHUSDT")  # lets the watchdog read the clock
    failed = client.result()
    assert (failed.kind, failed.retry_at) == (FailureKind.RATE_LIMITED, clock.now + 33)


# -- TLS


def test_an_untrusted_certificate_is_refused_before_anything_is_sent(kit):
    server = kit.serve(always(reply()), "https", with_tls=True)
    failed = kit.client_of(server.base_uri).failure()
    assert failed.kind is FailureKind.UNTRUSTED
    assert server.heads == []


def test_a_server_without_tls_is_refused(kit):
    def script(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        talk.hold()

    assert kit.client_of(kit.serve(script, "https").base_uri).failure().kind is FailureKind.UNTRUSTED


def test_a_certificate_that_the_environment_trusts_serves_for_its_own_host_only(kit, monkeypatch, tmp_path):
    server = kit.serve(always(reply()), "https", with_tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "loopback.pem"))
    assert isinstance(kit.client_of(server.base_uri).get(), SnapshotBody)
    assert kit.client_of(f"https://localhost:{server.port}").failure().kind is FailureKind.UNTRUSTED
    assert len(server.heads) == 1


# -- proxies


def test_a_proxy_is_used_and_given_its_password(kit):
    proxy = kit.serve(always(reply()))
    client = kit.client_of("http://exchange.invalid", proxy=f"http://me:secret@127.0.0.1:{proxy.port}")
    for _ in range(8):
        assert isinstance(client.get(), SnapshotBody)
    assert proxy.connections <= 4
    assert proxy.heads[0].startswith("GET http://exchange.invalid/api/v3/depth?symbol=BTCUSDT&limit=100 HTTP/1.1\r\n")
    assert "\r\nProxy-Authorization: Basic bWU6c2VjcmV0" in proxy.heads[0]


def test_a_proxy_of_the_environment_is_used(kit, monkeypatch):
    proxy = kit.serve(always(reply()))
    monkeypatch.setenv("http_proxy", proxy.base_uri)
    assert isinstance(kit.client_of("http://exchange.invalid").get(), SnapshotBody)
    assert proxy.heads[0].startswith("GET http://exchange.invalid/")


def test_a_tunnel_leads_to_the_exchange_and_the_certificate_must_be_the_exchanges(kit):
    proxy = kit.serve(once(b"HTTP/1.1 200 Connection established\r\n\r\n", lambda talk: talk.send(b"no TLS at all")))
    failed = kit.client_of("https://exchange.invalid", proxy=proxy.base_uri).failure()
    assert failed.kind is FailureKind.UNTRUSTED
    assert proxy.heads[0].startswith("CONNECT exchange.invalid:443 HTTP/1.")


@pytest.mark.parametrize("base_uri", ["http://exchange.invalid", "https://exchange.invalid"])
def test_a_proxy_that_refuses_is_named_as_the_culprit_and_the_password_is_not(kit, base_uri):
    port = kit.serve(always(reply(b"", "407 Proxy Authentication Required"))).port
    failed = kit.client_of(base_uri, proxy=f"http://me:secret@127.0.0.1:{port}").failure()
    assert failed.kind is FailureKind.PROXY
    assert "407" in failed.text
    assert "secret" not in failed.text


@pytest.mark.parametrize("base_uri", ["http://exchange.invalid", "https://exchange.invalid"])
def test_a_proxy_that_does_not_answer_is_named_as_the_culprit(kit, base_uri, refused_port):
    failed = kit.client_of(base_uri, proxy=f"http://me:secret@127.0.0.1:{refused_port}").failure()
    assert failed.kind is FailureKind.PROXY
    assert "secret" not in failed.text
