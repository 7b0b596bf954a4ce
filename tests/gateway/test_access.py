"""Who may ask: loopback or a token, the right Host, the own Origin. Attacks on the sockets cost their limit."""

import socket
import ssl
import time

import pytest
import requests
import websocket
from gateway_kit import PATIENCE_S, Served, raw, served, until
from hypothesis import given, settings
from hypothesis import strategies as st
from tls_kit import AUTHORITY, GOOD, KEY

import ldc
from ldc.gateway import Gateway, GatewayLimits
from ldc.gateway.access import Access, is_loopback

TOKEN = "a-token.of_32~characters-or-so-0"
DEPTH = "/api/v3/depth?symbol=BTCUSDT&limit=5"


@pytest.fixture(scope="module")
def row():
    with served(allowed_hosts=["books.example"]) as served_row:
        yield served_row


@pytest.fixture(scope="module")
def locked():
    with served(token=TOKEN) as served_row:
        yield served_row


# ------------------------------------------------------------------------------------------ what is not safe


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "books.example", ""])
def test_another_host_demands_a_token_or_that_it_is_said_to_be_public(host: str):
    manager = ldc.BinanceLocalDepthCacheManager("simulator")
    with pytest.raises(ValueError, match="token"):
        Gateway(manager, host=host)
    Gateway(manager, host=host, no_token=True)
    Gateway(manager, host=host, token=TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_this_machine_needs_none(host: str):
    assert is_loopback(host)
    Gateway(ldc.BinanceLocalDepthCacheManager("simulator"), host=host)


@pytest.mark.parametrize("token", ["", "short", "x" * 201, "with blank in it....", "ümlaut-ümlaut-ümlaut", "a/b=" * 8])
def test_a_token_that_cannot_be_sent_in_every_way_is_refused_without_being_repeated(token: str):
    with pytest.raises(ValueError, match="16 to 200") as caught:
        Gateway(ldc.BinanceLocalDepthCacheManager("simulator"), token=token)
    assert token == "" or token not in str(caught.value)


def test_half_of_tls_and_a_limit_of_nothing_are_refused():
    with pytest.raises(ValueError, match="both"):
        Gateway(ldc.BinanceLocalDepthCacheManager("simulator"), tls_cert="x")
    with pytest.raises(ValueError, match="connections_max"):
        GatewayLimits(connections_max=0)


def test_a_taken_port_is_an_error_of_start_and_leaves_nothing(row: Served):
    port = int(row.gateway.restful_base_uri.rpartition(":")[2])
    other = Gateway(row.manager, port=port)
    with pytest.raises(OSError, match="address already in use"):
        other.start()
    other.stop()


# ------------------------------------------------------------------------------------------ Host and Origin


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("LOCALHOST:8080", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("books.example:8080", 200),
    ("evil.example", 421), ("localhost.evil.example", 421), ("books.example.evil", 421), ("", 421),
    ("127.0.0.1.evil.example", 421), ("a b", 421), ("localhost, evil.example", 421), ("localhost@evil.example", 421),
])  # fmt: skip
def test_a_name_that_dns_may_have_been_rebound_to_is_misdirected(row: Served, host: str, status: int):
    assert row.get("/api/v3/ping", {"Host": host}).status_code == status
    assert row.get("/", {"Host": host}).status_code == status


def test_a_request_without_host_is_misdirected(row: Served):
    assert raw(row.gateway, b"GET /api/v3/ping HTTP/1.0\r\n\r\n").split(b"\r\n")[0].split()[1] == b"421"


@pytest.mark.parametrize(("origin", "is_own"), [
    (None, True), ("http://{host}", True), ("https://{host}", True), ("null", False), ("http://evil.example", False),
    ("http://{host}.evil.example", False), ("http://evil.example/{host}", False), ("http://{host}@evil.example", False),
    ("file://", False),
])  # fmt: skip
def test_a_websocket_of_another_site_is_refused(row: Served, origin: str | None, is_own: bool):
    host = row.gateway.websocket_base_uri.removeprefix("ws://")
    own = None if origin is None else origin.format(host=host)
    for path in ("/ws/btcusdt@depth", "/stream?streams=btcusdt@depth5", "/ldc/ws"):
        arguments = {"origin": own} if own is not None else {"suppress_origin": True}
        if is_own:
            websocket.create_connection(row.gateway.websocket_base_uri + path, PATIENCE_S, **arguments).close()
        else:
            with pytest.raises(websocket.WebSocketBadStatusException) as caught:
                websocket.create_connection(row.gateway.websocket_base_uri + path, PATIENCE_S, **arguments)
            assert caught.value.status_code == 403


def test_a_page_of_another_site_can_neither_read_nor_change(row: Served):
    reply = row.get(DEPTH, {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"})
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert row.get(DEPTH, {"Origin": "http://evil.example"}, "OPTIONS").status_code == 403
    assert row.get("/ldc/session", {"Origin": "http://evil.example"}, "POST").status_code == 403
    assert row.get("/ldc/session", {"Sec-Fetch-Site": "cross-site"}, "POST").status_code == 403
    assert row.get("/ldc/session", method="POST").status_code == 200


# ------------------------------------------------------------------------------------------ the token


@pytest.mark.parametrize("headers", [
    {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"bearer  {TOKEN}"}, {"X-MBX-APIKEY": TOKEN},
])  # fmt: skip
def test_the_right_token_opens(locked: Served, headers: dict[str, str]):
    assert locked.get(DEPTH, headers).status_code == 200


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": "Bearer "},
    {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}, {"X-MBX-APIKEY": ""}, {"Cookie": "ldc_session="},
    {"Cookie": f"ldc_session={TOKEN}"}, {"Authorization": "Bearer \udce4\udcf6"}, {"Cookie": 'ldc_session="\\073;;='},
])  # fmt: skip
def test_a_wrong_token_does_not(locked: Served, headers: dict[str, str]):
    encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    for path in (DEPTH, "/ldc/status", "/ldc/events/BTCUSDT", "/api/v3/ping", "/nowhere"):
        reply = locked.get(path, encoded)
        assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert TOKEN not in reply.text


def test_a_token_in_the_url_opens_nothing(locked: Served):
    assert locked.get(f"{DEPTH}&token={TOKEN}&access_token={TOKEN}").status_code == 401


def test_probes_and_the_page_need_no_token_and_name_no_market(locked: Served):
    for path in ("/healthz", "/readyz", "/"):
        reply = locked.get(path)
        assert reply.status_code == 200
        assert "BTCUSDT" not in reply.text


def test_a_browser_s_websocket_opens_by_subprotocol_or_by_the_cookie_of_a_session(locked: Served):
    url = locked.gateway.websocket_base_uri + "/ws/btcusdt@bookTicker"
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(url, PATIENCE_S)
    assert caught.value.status_code == 401
    opened = websocket.create_connection(url, PATIENCE_S, subprotocols=["ldc", f"ldc.bearer.{TOKEN}"])
    assert opened.getsubprotocol() == "ldc"  # never the one with the token
    opened.close()
    assert locked.get("/ldc/session", method="POST").status_code == 401
    given = locked.get("/ldc/session", {"Authorization": f"Bearer {TOKEN}"}, "POST").headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in given.split(";")}
    assert TOKEN not in given
    websocket.create_connection(url, PATIENCE_S, cookie=given.split(";")[0]).close()
    assert locked.get(DEPTH, {"Cookie": given.split(";")[0]}).status_code == 200


def test_a_cookie_of_another_gateway_opens_nothing():
    mine, other = Access(TOKEN, (), False), Access(TOKEN, (), False)
    assert mine.refused_token({"Cookie": mine.cookie}) is None
    assert mine.refused_token({"Cookie": other.cookie}).status == 401


def test_over_tls_the_cookie_is_secure_and_plain_http_is_not_served(tmp_path):
    certificate = key = tmp_path / "server.pem"
    certificate.write_text(KEY + GOOD)
    authority = tmp_path / "authority.pem"
    authority.write_text(AUTHORITY)
    with served(token=TOKEN, tls_cert=certificate, tls_key=key) as row:
        url = row.gateway.restful_base_uri
        assert url.startswith("https://")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        reply = requests.post(f"{url}/ldc/session", headers=headers, verify=str(authority), timeout=PATIENCE_S)
        assert "Secure" in reply.headers["Set-Cookie"]
        with pytest.raises(requests.ConnectionError):
            requests.get(url.replace("https", "http"), timeout=PATIENCE_S)
        opened = websocket.create_connection(
            row.gateway.websocket_base_uri + "/ldc/ws", PATIENCE_S, sslopt={"cert_reqs": ssl.CERT_NONE}, header=headers
        )
        opened.close()


# ------------------------------------------------------------------------------------------ attacks on the sockets

HEAD = b"GET /api/v3/ping HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(("request_bytes", "status"), [
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    (HEAD + b"X: " + b"a" * 20_000 + b"\r\n\r\n", b"400"),
    (HEAD + b"Content-Length: 1000000\r\n\r\n", b"413"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"413"),
    (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
    (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    (b"GET  HTTP/9.9\r\n\r\n", b"400"),
    (b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    (b"PUT /api/v3/depth HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b"405"),
], ids=lambda value: repr(value)[:30])  # fmt: skip
def test_what_is_too_long_or_no_http_is_refused(row: Served, request_bytes: bytes, status: bytes):
    parts = request_bytes, b"\r\n"
    answer = raw_with_end(row.gateway, *parts)
    assert answer.split(b"\r\n")[0].split()[1] == status
    assert row.get("/api/v3/ping").status_code == 200


def raw_with_end(gateway: Gateway, *parts: bytes) -> bytes:
    """Send, end the own direction, and return what comes back."""
    host, _, port = gateway.restful_base_uri.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(1 << 16)


@pytest.mark.parametrize("path", [
    "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/static/../index.html", "/%2e%2e/index.html", "//etc/passwd",
    "/index.html%00.js", "/./index.html", "/ldc/events/..%2f..%2fetc%2fpasswd", "/static", "/__init__.py", "/page.py",
])  # fmt: skip
def test_no_path_reaches_a_file(row: Served, path: str):
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    answer = raw(row.gateway, request)
    assert answer.split(b"\r\n")[0].split()[1] in (b"400", b"404") or answer.endswith(row.get("/").content)
    assert b"root:" not in answer
    assert b"import" not in answer


def test_a_request_that_never_ends_costs_its_limit():
    with served(limits=GatewayLimits(head_s=0.3, request_s=2.0)) as row:
        port = int(row.gateway.restful_base_uri.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            connection.sendall(b"GET /api/v3/ping HTTP/1.1\r\nHost: localhost\r\n")
            with pytest.raises(ConnectionError):
                send_headers_for_ever(connection)
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as silent:
            assert reads_end(silent)
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as again:
            again.sendall(HEAD + b"\r\n")
            assert again.recv(1 << 16).startswith(b"HTTP/1.1 200")
            again.sendall(b"G")
            assert reads_end(again)
        assert row.gateway.counts["head_s"] == 3


def send_headers_for_ever(connection: socket.socket) -> None:
    """Send a header now and then, and never the end of the head."""
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        connection.sendall(b"X-A: b\r\n")
        time.sleep(0.02)


def reads_end(connection: socket.socket) -> bool:
    """Whether the gateway ends the connection, without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_one_connection_too_many_is_refused_and_the_others_go_on():
    with served(limits=GatewayLimits(connections_max=20)) as row:
        port = int(row.gateway.restful_base_uri.rpartition(":")[2])
        held = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(20)]
        until(lambda: row.gateway.call(lambda parts: len(parts.connections.by_handler)) == 20)
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as refused:
                assert reads_end(refused)
        assert row.gateway.counts["connections_max"] == 30
        held[0].sendall(HEAD + b"\r\n")
        assert held[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
        for connection in held:
            connection.close()
        until(lambda: row.gateway.call(lambda parts: len(parts.connections.by_handler)) == 0)
        assert row.get("/api/v3/ping").status_code == 200


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_bytes_leave_the_gateway_as_it_was(row_of_fuzz: Served, data: bytes):
    raw_bytes(row_of_fuzz.gateway, data)
    raw_bytes(row_of_fuzz.gateway, HEAD + data)
    assert row_of_fuzz.get("/api/v3/ping").status_code == 200


@pytest.fixture(scope="module")
def row_of_fuzz():
    with served() as served_row:
        yield served_row


def raw_bytes(gateway: Gateway, data: bytes) -> None:
    host, _, port = gateway.restful_base_uri.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        connection.sendall(data + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(1 << 16):
                pass
        except ConnectionError:
            pass
