"""TLS of the feeds, over real sockets: without the GIL and by Python's `ssl`, each case with the same outcome."""

import base64
import concurrent.futures
import contextlib
import ctypes
import hashlib
import logging
import os
import queue
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tls_kit
from implementations import IS_PURE
from log_kit import logged
from tls_kit import (
    AUTHORITY,
    COMMON_NAME,
    EXPIRED,
    FUTURE,
    GOOD,
    OTHER,
    PARTIAL_WILDCARD,
    PATIENCE_S,
    SELF_SIGNED,
    WILDCARD,
    Records,
    byte_by_byte,
    over_tls,
    server_context,
    serving,
)

import ldc.feed.tls
from ldc.book import TlsContext, TlsSocket, tls_problem
from ldc.feed.connection import ConnectionLost, ConnectionOptions, FeedConnection
from ldc.frames import FrameEvent
from ldc.network.certificates import CertificatesNotLoaded, Trusted
from ldc.network.proxy import ProxyRules

HOST = "exchange.test"
BYTES = bytes(range(256)) * 20_480  # 5 MB

needs_native = pytest.mark.skipif(tls_problem() is not None, reason=f"no TLS without the GIL: {tls_problem()}")

# A peer that is gone when TLS is about to begin makes `SSLContext.wrap_socket` raise and forget the socket it made.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificates but those of the test."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ldc.feed.tls, "_contexts", {})


class Client:
    """One of the two ways to do TLS."""

    def __init__(self, name: str, folder: Path) -> None:
        self.is_native = name == "native"
        self.folder = folder
        self._make = ldc.feed.tls.native_context if self.is_native else ldc.feed.tls.python_context

    def make_context(self, file: str | None) -> Any:
        """Return a context that trusts that file or folder; None: the default."""
        is_folder = file is not None and Path(file).is_dir()
        return self._make(Trusted(folder=file) if is_folder else Trusted(file))

    def file(self, *certificates: str, name: str = "trusted.pem") -> str:
        path = self.folder / name
        path.write_text("".join(certificates))
        return str(path)

    def connect(
        self, port: int, host: str = HOST, *, trusted: str | None = "", timeout: float | None = PATIENCE_S, **how: Any
    ) -> Any:
        """Return a socket that has done no handshake yet, unless `how` says so. It trusts the authority by default."""
        context = self.make_context(self.file(AUTHORITY) if trusted == "" else trusted)
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        raw.settimeout(timeout)
        try:
            return context.wrap_socket(raw, server_hostname=host, **({"do_handshake_on_connect": False} | how))
        except BaseException:
            raw.close()
            raise

    @contextlib.contextmanager
    def talking_to(self, script: Callable[[socket.socket], None], host: str = HOST, **how: Any) -> Iterator[Any]:
        """Give a socket that is connected to a script."""
        with serving(script) as port, contextlib.closing(self.connect(port, host, **how)) as sock:
            yield sock


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "python"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    return Client(request.param, tmp_path)


@pytest.fixture
def native(tmp_path: Path) -> Client:
    if tls_problem() is not None:
        pytest.skip(f"no TLS without the GIL: {tls_problem()}")
    return Client("native", tmp_path)


def echo(tls: ssl.SSLSocket) -> None:
    while data := tls.recv(65_536):
        tls.sendall(data)


def exactly(sock: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, "the end came too early"
        data += part
    return data


def receive_now(sock: Any, room: int = 65_536) -> bytes | None:
    """Return what a non-blocking socket has, None if that is nothing."""
    buffer = bytearray(room)
    try:
        return bytes(buffer[: sock.recv_into(buffer)])
    except ssl.SSLWantReadError:
        return None


# ----------------------------------------------------------------------------------------- who is trusted, and as whom


@pytest.mark.parametrize(
    ("certificate", "host"),
    [
        (GOOD, HOST),
        (GOOD, "EXCHANGE.TEST"),
        (GOOD, "börse.test"),
        (GOOD, "127.0.0.1"),
        (GOOD, "::1"),
        (GOOD, "0:0:0:0:0:0:0:1"),
        (OTHER, "127.0.0.9"),
        (WILDCARD, "stream.exchange.test"),
        (COMMON_NAME, HOST),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_the_right_name_or_address_is_accepted(client, certificate, host, tmp_path):
    with client.talking_to(over_tls(server_context(tmp_path, certificate), echo), host) as sock:
        assert sock.version() is None
        sock.sendall(b"hello")
        assert sock.version() == "TLSv1.3"
        assert exactly(sock, 5) == b"hello"


NO_NAME, NO_ADDRESS = (
    "Hostname mismatch, certificate is not valid for",
    "IP address mismatch, certificate is not valid for",
)


@pytest.mark.parametrize(
    ("certificate", "host", "why"),
    [
        (GOOD, "nowhere.test", f"{NO_NAME} 'nowhere.test'."),
        (GOOD, "bücher.test", f"{NO_NAME} 'xn--bcher-kva.test'."),
        (GOOD, "127.0.0.2", f"{NO_ADDRESS} '127.0.0.2'."),
        (GOOD, "::2", f"{NO_ADDRESS} '::2'."),
        (EXPIRED, "127.0.0.1", f"{NO_ADDRESS} '127.0.0.1'."),
        (COMMON_NAME, "127.0.0.1", f"{NO_ADDRESS} '127.0.0.1'."),
        (OTHER, HOST, f"{NO_NAME} 'exchange.test'."),
        (PARTIAL_WILDCARD, "stream.exchange.test", f"{NO_NAME} 'stream.exchange.test'."),
        (WILDCARD, HOST, f"{NO_NAME} 'exchange.test'."),
        (WILDCARD, "a.b.exchange.test", f"{NO_NAME} 'a.b.exchange.test'."),
        (EXPIRED, HOST, "certificate has expired"),
        (FUTURE, HOST, "certificate is not yet valid"),
        (SELF_SIGNED, HOST, "self-signed certificate"),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
@pytest.mark.parametrize("how", ["handshake", "write", "read"])
def test_another_certificate_is_refused_with_the_reason(client, certificate, host, why, how, tmp_path):
    heard: list[bytes] = []
    with client.talking_to(
        over_tls(server_context(tmp_path, certificate), lambda tls: heard.append(tls.recv(100))), host
    ) as sock:
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            {"handshake": sock.do_handshake, "write": lambda: sock.send(b"x"), "read": lambda: sock.recv(1)}[how]()
        with pytest.raises(OSError, match="certificate verify failed|EOF|[Bb]roken|closed|shutdown"):  # for good
            sock.send(b"x")
    assert b"x" not in heard
    error = refused.value
    assert (error.verify_message, error.reason, error.library) == (why, "CERTIFICATE_VERIFY_FAILED", "SSL")
    assert f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {why}" in str(error)
    assert isinstance(error, ValueError)
    assert error.errno == ssl.SSL_ERROR_SSL


def outcome(client: Client, port: int, trusted: str | None) -> str:
    """Return "accepted", or why it is refused."""
    with contextlib.closing(client.connect(port, trusted=trusted)) as sock:
        try:
            sock.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return "accepted"


def test_the_authorities_of_the_system_do_not_vouch_for_ours(client, tmp_path):
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        assert outcome(client, port, None) == "unable to get local issuer certificate"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_openssl_trusts_by_itself_is_what_its_variables_say(client, variable, monkeypatch, tmp_path):
    file = client.file(AUTHORITY, name=f"{tls_kit.AUTHORITY_HASH}.0")
    monkeypatch.setenv(variable, file if variable == "SSL_CERT_FILE" else str(Path(file).parent))
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        assert outcome(client, port, None) == "accepted"


def test_a_bundle_may_be_a_folder(client, tmp_path):
    folder = tmp_path / "trusted"
    folder.mkdir()
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        assert outcome(client, port, str(folder)) == "unable to get local issuer certificate"
        (folder / f"{tls_kit.AUTHORITY_HASH}.0").write_text(AUTHORITY)
        assert outcome(client, port, str(folder)) == "accepted"


def test_a_bundle_excludes_everybody_else(client, tmp_path):
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        assert outcome(client, port, client.file(SELF_SIGNED)) == "unable to get local issuer certificate"


@pytest.mark.parametrize("certificate", [SELF_SIGNED, GOOD], ids=["self-signed", "issued"])
def test_a_certificate_that_is_no_authority_can_be_trusted_as_ssl_does(client, certificate, tmp_path):
    """`SSLContext.get_ca_certs` does not list it: who took over only what that lists would refuse the first."""
    python = Client("python", tmp_path)
    with serving(over_tls(server_context(tmp_path, certificate), echo)) as port:
        bundle = client.file(certificate)
        assert outcome(client, port, bundle) == outcome(python, port, bundle)
        if certificate is SELF_SIGNED:
            assert outcome(client, port, bundle) == "accepted"


@pytest.mark.parametrize("content", [None, "", "no certificate", GOOD.replace("MII", "AAA")])
def test_a_bundle_that_is_none_is_an_error(client, content, tmp_path):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(CertificatesNotLoaded) as refused:
        client.make_context(str(bundle))
    if client.is_native:
        assert str(bundle) in str(refused.value)


@pytest.mark.parametrize(
    ("host", "name"), [(HOST, HOST), ("börse.test", "xn--brse-5qa.test"), ("127.0.0.1", None), ("::1", None)]
)
def test_a_name_is_sent_and_an_address_is_not(client, host, name, tmp_path):
    names: list[str | None] = []
    context = server_context(tmp_path)
    context.sni_callback = lambda sock, name, context: names.append(name)
    with serving(over_tls(context, echo)) as port:
        client.connect(port, host, do_handshake_on_connect=True).close()
    assert names == [name]


@pytest.mark.parametrize("host", ["", ".exchange.test", "exchange\0.test", "a" * 64 + ".test"])
def test_a_name_that_is_none_is_refused(client, host, tmp_path):
    script = over_tls(server_context(tmp_path), echo)
    with serving(script) as port, pytest.raises((ValueError, TypeError), match="server_hostname|null|label"):
        client.connect(port, host)


# ------------------------------------------------------------------------------------------- versions and their changes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(client, version, tmp_path):
    context = server_context(tmp_path)
    context.minimum_version = context.maximum_version = version
    with client.talking_to(over_tls(context, echo)) as sock:
        sock.sendall(b"hello")
        assert (sock.version(), exactly(sock, 5)) == (version.name.replace("_", "."), b"hello")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_older_version_is_refused(client, tmp_path):
    context = server_context(tmp_path)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with client.talking_to(over_tls(context, echo)) as sock, pytest.raises(ssl.SSLError) as refused:
        sock.do_handshake()
    assert refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


def test_what_is_no_tls_is_refused(client):
    def answer(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        sock.recv(10_000)

    with client.talking_to(answer) as sock, pytest.raises(ssl.SSLError) as refused:
        sock.do_handshake()
    assert refused.value.reason == "WRONG_VERSION_NUMBER"


class OpensslServer:
    """The program `openssl s_server`, whose keyboard this is: a line is sent, a single letter is a command."""

    def __init__(self, folder: Path, *options: str) -> None:
        server_context(folder)  # writes its file
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.said = ""
        where = ["-accept", f"127.0.0.1:{self.port}", "-cert", folder / "server.pem"]
        self.process = subprocess.Popen(
            ["openssl", "s_server", "-msg", *where, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
        )  # fmt: skip
        self.wait_for("ACCEPT")

    def wait_for(self, text: str) -> None:
        """Wait for a line. What is sent to the server makes it say what it has done before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        pytest.fail(f"openssl has ended: {self.said}")

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@pytest.fixture
def openssl_server(tmp_path: Path) -> Iterator[Callable[..., OpensslServer]]:
    if shutil.which("openssl") is None:
        pytest.skip("the program openssl is not here")
    servers: list[OpensslServer] = []

    def start(*options: str) -> OpensslServer:
        servers.append(OpensslServer(tmp_path, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate()


@pytest.mark.parametrize(
    ("option", "command", "shown_by"),
    [("-tls1_3", "k", ">>> TLS 1.3, Handshake [length 0005], KeyUpdate"),
     ("-tls1_3", "K", "<<< TLS 1.3, Handshake [length 0005], KeyUpdate"),
     ("-tls1_2", "r", ">>> TLS 1.2, Handshake [length 0004], HelloRequest")],
    ids=["key update", "key update of both", "renegotiation"],
)  # fmt: skip
def test_keys_may_change_in_mid_stream(client, openssl_server, option, command, shown_by):
    server = openssl_server(option)
    with contextlib.closing(client.connect(server.port)) as sock:
        sock.sendall(b"first\n")
        server.wait_for("first")
        for number in range(3):
            for line in (f"{number} before", command, f"{number} after"):
                server.type(line)
                if line != command:
                    assert exactly(sock, len(line) + 1).decode() == f"{line}\n"
                # The server looks at its keyboard first: when this has come, the command was obeyed.
                sock.sendall(f"heard {line}\n".encode())
                server.wait_for(f"heard {line}")
        sock.sendall(b"last\n")
        server.wait_for("last")
    assert server.said.count(shown_by) == 3
    if command == "r":
        assert server.said.count("<<< TLS 1.2, Handshake") - server.said.count("ClientKeyExchange") >= 4


# ---------------------------------------------------------------------------------------------------------------- ends


def test_a_goodbye_is_an_end(client, tmp_path):
    def say_goodbye(tls: ssl.SSLSocket) -> None:
        tls.sendall(tls.recv(100))
        tls.unwrap()

    with client.talking_to(over_tls(server_context(tmp_path), say_goodbye), suppress_ragged_eofs=False) as sock:
        sock.sendall(b"bye")
        assert exactly(sock, 3) == b"bye"
        assert sock.recv(10) == sock.recv(10) == b""
        assert sock.recv_into(bytearray(10)) == 0


def test_we_say_goodbye(native, tmp_path):
    """Python's `ssl` does not."""
    ends: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()

    def listen(tls: ssl.SSLSocket) -> None:
        tls.suppress_ragged_eofs = False
        tls.recv(100)
        try:
            ends.put(tls.recv(100))
        except OSError as error:
            ends.put(error)

    with serving(over_tls(server_context(tmp_path), listen)) as port:
        sock = native.connect(port)
        sock.sendall(b"hello")
        sock.close()
        assert ends.get(timeout=PATIENCE_S) == b""


@pytest.mark.parametrize("suppresses", [True, False])
def test_an_end_without_goodbye_is_told_from_one_only_if_wanted(client, suppresses, tmp_path):
    def cut(tls: ssl.SSLSocket) -> None:
        tls.sendall(tls.recv(100))

    with client.talking_to(over_tls(server_context(tmp_path), cut), suppress_ragged_eofs=suppresses) as sock:
        sock.sendall(b"cut")
        assert exactly(sock, 3) == b"cut"
        for _ in range(2):
            if suppresses:
                assert sock.recv(10) == b""
            else:
                with pytest.raises(ssl.SSLEOFError, match="EOF occurred in violation of protocol"):
                    sock.recv(10)


def test_an_end_in_the_middle_of_a_record_is_one_without_goodbye(client, tmp_path):
    def cut(sock: socket.socket) -> None:
        records = Records(server_context(tmp_path), sock)
        records.read()
        sock.sendall(records.encrypted(b"never complete")[:-1])

    with client.talking_to(cut, suppress_ragged_eofs=False) as sock:
        sock.sendall(b"x")
        with pytest.raises(ssl.SSLEOFError):
            sock.recv(100)


def test_an_end_in_the_handshake_is_an_error(client):
    errors = (ssl.SSLEOFError, ConnectionResetError)
    with client.talking_to(lambda sock: sock.recv(10_000)) as sock, pytest.raises(errors):
        sock.do_handshake()


def test_a_reset_is_an_error_or_an_end(client, tmp_path):
    def reset(sock: socket.socket) -> None:
        tls = server_context(tmp_path).wrap_socket(sock, server_side=True)
        tls.sendall(tls.recv(100))
        tls.recv(100)
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tls.close()

    with client.talking_to(reset) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"
        sock.sendall(b"x")
        if client.is_native:
            for _ in range(2):
                with pytest.raises(ConnectionResetError, match="reset"):
                    sock.recv(10)
        else:  # up to Python 3.12.2, `ssl` takes it for an end
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(10) == b""


def test_a_record_that_was_altered_is_an_error(client, tmp_path):
    def alter(sock: socket.socket) -> None:
        records = Records(server_context(tmp_path), sock)
        records.read()
        record = bytearray(records.encrypted(b"hello"))
        record[-1] ^= 1
        sock.sendall(record)
        sock.recv(1000)

    with client.talking_to(alter) as sock:
        sock.sendall(b"x")
        with pytest.raises(ssl.SSLError) as refused:
            sock.recv(100)
    assert refused.value.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"


def test_a_closed_one_is_closed(client, tmp_path):
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        sock = client.connect(port, do_handshake_on_connect=True)
        sock.close()
        sock.close()
        assert sock.fileno() == -1
        for call in (lambda: sock.recv(1), lambda: sock.send(b"x"), sock.do_handshake, sock.getpeername):
            with pytest.raises((OSError, ValueError)):
                call()


# -------------------------------------------------------------------------------------------------- bytes and deadlines


def test_much_goes_through_both_ways_at_once(client, tmp_path):
    with client.talking_to(over_tls(server_context(tmp_path), echo), do_handshake_on_connect=True) as sock:
        sock.setblocking(False)
        received, unsent = bytearray(), memoryview(BYTES)
        while len(received) < len(BYTES):
            assert any(select.select([sock], [sock] if unsent else [], [], PATIENCE_S))
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if unsent:
                    unsent = unsent[sock.send(unsent[:100_000]) :]
            while data := receive_now(sock):
                received += data
        assert received == BYTES


def test_sendall_sends_all(client, tmp_path):
    digests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with client.talking_to(
        over_tls(server_context(tmp_path), lambda tls: digests.put(exactly(tls, len(BYTES))))
    ) as sock:
        sock.sendall(memoryview(BYTES))
        assert digests.get(timeout=PATIENCE_S) == BYTES


def test_a_peer_that_stops_reading_costs_no_byte(client, tmp_path):
    goes_on = threading.Event()
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read_late(tls: ssl.SSLSocket) -> None:
        assert goes_on.wait(PATIENCE_S)
        arrived.put(exactly(tls, len(BYTES)))

    with client.talking_to(over_tls(server_context(tmp_path), read_late), do_handshake_on_connect=True) as sock:
        sock.setblocking(False)
        outbox = bytearray(BYTES)
        with contextlib.suppress(ssl.SSLWantWriteError):
            while True:
                del outbox[: sock.send(outbox)]
        assert outbox
        if client.is_native:  # Python's `ssl` counts a piece when all of it was sent
            assert len(outbox) < len(BYTES)
        outbox = bytearray(outbox)  # the same bytes in another place
        with pytest.raises(ssl.SSLWantWriteError):
            sock.send(outbox)
        goes_on.set()
        while outbox:
            select.select([], [sock], [], PATIENCE_S)
            with contextlib.suppress(ssl.SSLWantWriteError):
                del outbox[: sock.send(outbox)]
        assert arrived.get(timeout=PATIENCE_S) == BYTES


def test_records_may_come_byte_by_byte(client, tmp_path):
    payload = BYTES[:3000]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(over_tls(server_context(tmp_path), echo)))
        port = stack.enter_context(byte_by_byte(port))
        sock = stack.enter_context(contextlib.closing(client.connect(port)))
        sock.sendall(payload)
        sock.setblocking(False)
        received = b""
        while len(received) < len(payload):
            assert select.select([sock], [], [], PATIENCE_S)[0]
            while data := receive_now(sock, 700):
                received += data
        assert received == payload


def test_records_that_come_together_are_read_without_the_selector(client, tmp_path):
    """`has_pending`, and for Python's `ssl` `pending`, say whether a selector can be trusted."""
    goes_on = threading.Event()

    def send(sock: socket.socket) -> None:
        records = Records(server_context(tmp_path), sock)
        records.read()
        data = records.encrypted(b"one", b"two", b"three")
        sock.sendall(data[:-1])
        assert goes_on.wait(PATIENCE_S)
        sock.sendall(data[-1:])
        sock.recv(100)

    with client.talking_to(send) as sock:
        sock.sendall(b"x")
        sock.setblocking(False)
        found = []
        while len(found) < 3:
            assert select.select([sock], [], [], PATIENCE_S)[0]
            is_first = True
            while is_first or (sock.has_pending() if client.is_native else sock.pending()):
                is_first = False
                data = receive_now(sock)
                if data is None:
                    break
                found.append(data)
            if len(found) == 2:
                goes_on.set()
        assert found == [b"one", b"two", b"three"]
        assert receive_now(sock) is None


def test_what_is_left_of_a_record_is_pending(client, tmp_path):
    with client.talking_to(over_tls(server_context(tmp_path), echo)) as sock:
        sock.sendall(b"0123456789")
        assert sock.recv(3) == b"012"
        assert sock.pending() == 7
        room = bytearray(100)
        assert sock.recv_into(memoryview(room)[10:]) == 7
        assert room[9:18] == b"\x003456789\x00"
        assert sock.pending() == 0
        assert sock.recv(0) == b""


def test_without_blocking_nothing_there_is_an_exception(client, tmp_path):
    with client.talking_to(over_tls(server_context(tmp_path), echo), do_handshake_on_connect=True) as sock:
        sock.setblocking(False)
        assert sock.gettimeout() == 0
        for _ in range(3):
            with pytest.raises(ssl.SSLWantReadError) as nothing:
                sock.recv(10)
        assert nothing.value.args == (ssl.SSL_ERROR_WANT_READ, nothing.value.args[1])
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError, match="The read operation timed out"):
            sock.recv(10)
        sock.settimeout(PATIENCE_S)
        sock.sendall(b"still there")
        assert exactly(sock, 11) == b"still there"


def test_a_handshake_without_blocking(client, tmp_path):
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        with pytest.raises(ValueError, match="do_handshake_on_connect"):
            client.connect(port, timeout=0, do_handshake_on_connect=True).close()
        with contextlib.closing(client.connect(port, timeout=0)) as sock:
            while True:
                try:
                    sock.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    select.select([sock], [], [], PATIENCE_S)
            assert sock.version() == "TLSv1.3"


@pytest.mark.parametrize("how", ["handshake", "write"])
@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "trickling"])
def test_a_handshake_that_stalls_ends_at_the_deadline(client, how, trickles):
    """A time-out for each receive would never come while bytes trickle."""
    is_over = threading.Event()

    def stall(sock: socket.socket) -> None:
        if trickles:
            sock.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 kB begins
            while not is_over.wait(0.005):
                sock.sendall(b"\0")
        else:
            while sock.recv(1000):
                pass

    with client.talking_to(stall, timeout=0.3) as sock:
        with pytest.raises(TimeoutError, match="timed out"):
            sock.do_handshake() if how == "handshake" else sock.send(b"x")
        is_over.set()


# ------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["blocking", "with a time-out"])
def test_another_thread_may_end_a_read(client, timeout, tmp_path):
    with client.talking_to(over_tls(server_context(tmp_path), echo), timeout=timeout) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"
        ends: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()

        def read() -> None:
            try:
                ends.put(sock.recv(10))
            except OSError as error:
                ends.put(error)

        reader = threading.Thread(target=read)
        reader.start()
        socket.socket.shutdown(sock.raw if client.is_native else sock, socket.SHUT_RDWR)
        end = ends.get(timeout=PATIENCE_S)
        assert end == b"" or isinstance(
            end, ConnectionResetError
        )  # the second if the server is quick to say that it saw
        reader.join()


class Alarm(Exception):
    """Raised by a signal's handler."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that signal")
@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["blocking", "with a time-out"])
def test_a_signal_is_handled_while_nothing_comes(client, timeout, monkeypatch, tmp_path):
    calls = []

    def handle(*_arguments: object) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise Alarm
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # after the first one the call goes on

    with client.talking_to(
        over_tls(server_context(tmp_path), echo), timeout=timeout, do_handshake_on_connect=True
    ) as sock:
        raw = sock.raw if client.is_native else sock
        rescue = threading.Timer(PATIENCE_S, socket.socket.shutdown, (raw, socket.SHUT_RDWR))
        rescue.start()
        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                sock.recv(1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            rescue.cancel()
            rescue.join()
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_lock_that_another_thread_held_at_a_fork_is_free_in_the_child():
    code = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")
import ldc.feed.tls
held, lock = threading.Event(), ldc.feed.tls._lock
def hold():
    with lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    ldc.feed.tls.tls_context()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "7"


@needs_native
def test_a_second_thread_at_the_same_time_is_refused(native, tmp_path):
    with native.talking_to(
        over_tls(server_context(tmp_path), echo), timeout=None, do_handshake_on_connect=True
    ) as sock:

        def read() -> None:
            with contextlib.suppress(ConnectionResetError):
                while True:
                    try:
                        return sock.recv(10)
                    except RuntimeError:  # the other thread was inside
                        continue

        reader = threading.Thread(target=read)
        reader.start()

        def is_refused() -> bool:
            try:
                sock.pending()
            except RuntimeError:
                return True
            return False

        while not is_refused():  # until the reader is inside
            pass
        for call in (lambda: sock.recv(1), lambda: sock.send(b"x"), sock.do_handshake, sock.close, sock.pending):
            with pytest.raises(RuntimeError, match="another thread"):
                call()
        assert not sock.has_pending()
        assert sock.fileno() >= 0
        sock.shutdown(socket.SHUT_RDWR)
        reader.join()


@needs_native
def test_many_connections_in_many_threads(native, tmp_path):
    context = native.make_context(native.file(AUTHORITY))
    with serving(over_tls(server_context(tmp_path), echo)) as port:

        def talk(number: int) -> bytes:
            raw = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
            with contextlib.closing(context.wrap_socket(raw, server_hostname=HOST)) as sock:
                sock.sendall(BYTES[number : number + 50_000])
                return exactly(sock, 50_000)

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert list(threads.map(talk, range(40))) == [BYTES[number : number + 50_000] for number in range(40)]


@needs_native
def test_a_failure_that_another_library_left_is_not_ours(native, tmp_path):
    import _ssl

    openssl = ctypes.CDLL(_ssl.__file__)
    with native.talking_to(over_tls(server_context(tmp_path), echo)) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"  # after the session's tickets, whose reading empties the queue as well
        sock.setblocking(False)
        openssl.ERR_new()
        openssl.ERR_set_error(20, 134, None)  # in OpenSSL's queue of this thread: a certificate that was refused
        with pytest.raises(ssl.SSLWantReadError):
            sock.recv(1)


@needs_native
def test_a_failure_is_not_left_to_pythons_ssl(native, tmp_path):
    """What stands in OpenSSL's error queue of the thread would be taken for a failure of the next call there."""
    with serving(over_tls(server_context(tmp_path), echo)) as port:
        python = Client("python", tmp_path).connect(port)
        python.sendall(b"x")
        assert exactly(python, 1) == b"x"
        python.setblocking(False)
        for host in ("nowhere.test", "127.0.0.2"):
            with contextlib.closing(native.connect(port, host)) as sock, pytest.raises(ssl.SSLError):
                sock.do_handshake()
            with pytest.raises(ssl.SSLWantReadError):
                python.recv(1)
        with pytest.raises(CertificatesNotLoaded):
            native.make_context(native.file("no certificate", name="none.pem"))
        with pytest.raises(ssl.SSLWantReadError):
            python.recv(1)
        python.close()


# ------------------------------------------------------------------------------------------- what cannot be done here


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SAY = "from ldc.book import tls_problem; print(tls_problem())"


@pytest.mark.skipif(IS_PURE, reason="the extension is missing anyway")
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0", "LDC_NATIVE_TLS=0 in the environment switches it off"),
        ("no", "LDC_NATIVE_TLS='no' is neither '1' nor '0'"),
    ],
)
def test_the_environment_switches_it_off(value, why):
    assert run(SAY, LDC_NATIVE_TLS=value) == why


def test_the_plain_python_book_has_none():
    assert "needs the extension" in run(SAY, LDC_PURE_PYTHON="1")
    code = "import pytest, ldc.book\nwith pytest.raises(RuntimeError, match='extension'): ldc.book.TlsContext(1)"
    run(code, LDC_PURE_PYTHON="1")


@needs_native
@pytest.mark.parametrize("name", ["OpenSSL_version_num", "SSL_read_ex", "SSL_has_pending", "SSL_shutdown"])
def test_a_function_that_is_missing_is_named(name):
    from ldc._book import _find_openssl

    assert f"OpenSSL's function {name} cannot be found" in _find_openssl(without=name)
    assert _find_openssl() is None


@needs_native
def test_a_file_that_is_none_or_has_no_openssl_is_named(tmp_path):
    import _ctypes

    from ldc._book import _find_openssl

    assert _find_openssl(str(tmp_path / "none.so")).startswith(f"{tmp_path}/none.so cannot be opened")
    assert "OpenSSL_version_num" in _find_openssl(_ctypes.__file__)


@needs_native
@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("LibreSSL 3.8.2", "Python's ssl uses LibreSSL 3.8.2"),
        ("AWS-LC 1.40.0", "Python's ssl uses AWS-LC"),
        ("OpenSSL 1.1.1w  11 Sep 2023", "Python's ssl uses OpenSSL 1.1.1w"),
        ("OpenSSL 3.99.0 of a dream", "and Python's ssl uses OpenSSL 3.99.0 of a dream"),
    ],
)
def test_another_library_than_pythons_is_refused(version, why, monkeypatch):
    from ldc._book import _find_openssl

    monkeypatch.setattr(ssl, "OPENSSL_VERSION", version)
    assert why in _find_openssl()


@needs_native
def test_an_interpreter_with_openssl_inside_is_refused(monkeypatch):
    import _ssl

    from ldc._book import _find_openssl

    monkeypatch.delattr(_ssl, "__file__")
    assert "linked into this interpreter itself" in _find_openssl()


def settings_with(*, ciphers: str = "DEFAULT", **attributes: Any) -> ssl.SSLContext:
    settings = ssl.create_default_context(capath=os.devnull)
    settings.set_ciphers(ciphers)
    for name, value in attributes.items():
        setattr(settings, name, value)
    return settings


class ElsewhereDecided(ssl.SSLContext):
    """As truststore and others put in the place of `ssl.SSLContext`."""


@needs_native
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: settings_with(check_hostname=False), "always checked"),
        (lambda folder: settings_with(check_hostname=False, verify_mode=ssl.CERT_NONE), "always checked"),
        (lambda folder: settings_with(keylog_filename=str(folder / "keys")), "SSLKEYLOGFILE"),
        (lambda folder: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "not for clients"),
        (lambda folder: ElsewhereDecided(ssl.PROTOCOL_TLS_CLIENT), "decides itself whom to trust"),
    ],
)
def test_a_context_that_cannot_be_followed_is_refused(make, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        TlsContext(make(tmp_path))


@contextlib.contextmanager
def made_with(settings: ssl.SSLContext, native: Client, server: ssl.SSLContext, script: Any = echo) -> Iterator[Any]:
    """Give a socket whose context follows some settings."""
    context = TlsContext(settings, files=[native.file(AUTHORITY)])
    with serving(over_tls(server, script)) as port:
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        with contextlib.closing(context.wrap_socket(raw, server_hostname=HOST, do_handshake_on_connect=False)) as sock:
            yield sock


@needs_native
def test_versions_and_ciphers_of_the_settings_are_followed(native, tmp_path):
    settings = settings_with(ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", maximum_version=ssl.TLSVersion.TLSv1_2)
    spoken = []

    def note(tls: ssl.SSLSocket) -> None:
        spoken.append(tls.cipher()[0])
        echo(tls)

    with made_with(settings, native, server_context(tmp_path), note) as sock:
        sock.sendall(b"x")
        assert (exactly(sock, 1), sock.version()) == (b"x", "TLSv1.2")
    assert spoken == ["ECDHE-ECDSA-AES128-GCM-SHA256"]


@needs_native
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"hostname_checks_common_name": False}, "Hostname mismatch"),
        ({"verify_flags": ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_CRL_CHECK_LEAF}, "unable to get certificate CRL"),
        ({"ciphers": "DEFAULT:@SECLEVEL=5"}, "handshake failure"),  # no key exchange of ours is strong enough
    ],
    ids=["common name", "flags", "level"],
)
def test_what_the_settings_refuse_is_refused(native, settings, why, tmp_path):
    server = server_context(tmp_path, COMMON_NAME)
    with made_with(settings_with(**settings), native, server) as sock, pytest.raises(ssl.SSLError, match=why):
        sock.do_handshake()


@needs_native
def test_a_socket_that_is_none_is_refused(native, tmp_path):
    context = native.make_context(native.file(AUTHORITY))
    with pytest.raises(TypeError):
        TlsSocket(context, object(), HOST)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(ValueError, match="stream"):
        TlsSocket(context, datagrams, HOST)
    with socket.socket() as unconnected, pytest.raises(OSError, match="not connected"):
        TlsSocket(context, unconnected, HOST)


# ---------------------------------------------------------------------------------------------------------- connections


@pytest.mark.skipif(IS_PURE, reason="the extension is missing anyway")
@pytest.mark.parametrize("how", ["SSLKEYLOGFILE", "replaced"])
def test_where_pythons_ssl_is_needed_it_is_used_and_the_log_says_why_once(how, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", Client("python", tmp_path).file(AUTHORITY))
    if how == "replaced":
        made = ElsewhereDecided(ssl.PROTOCOL_TLS_CLIENT)
        monkeypatch.setattr(ssl, "create_default_context", lambda **_how: made)
    else:
        monkeypatch.setenv(how, str(tmp_path / "keys.txt"))
    with caplog.at_level(logging.DEBUG, "binance_local_depth_cache"):
        contexts = {ldc.feed.tls.tls_context() for _ in range(3)}
        [record] = logged(caplog).records
    assert [type(context) for context in contexts] == [ElsewhereDecided if how == "replaced" else ssl.SSLContext]
    assert record.getMessage().startswith("TLS is done by Python's ssl: ")


def test_a_context_is_made_once_for_each_bundle(monkeypatch, tmp_path):
    python = Client("python", tmp_path)
    found = []
    for name in ("one.pem", "two.pem", "one.pem"):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", python.file(AUTHORITY, name=name))
        found.append(ldc.feed.tls.tls_context())
    assert found[0] is found[2]
    assert found[0] is not found[1]
    assert isinstance(found[0], ssl.SSLContext if tls_problem() else TlsContext)


class Exchange:
    """The other end of one websocket over TLS. What it sends with the answer to the handshake is in the same record."""

    def __init__(self, folder: Path, with_the_answer: bytes) -> None:
        self._context = server_context(folder)
        self._with_the_answer = with_the_answer
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.to_send: queue.SimpleQueue[tuple[bytes, ...]] = queue.SimpleQueue()
        """What is sent together, in a record each; nothing: the end."""

    def __call__(self, sock: socket.socket) -> None:
        records = Records(self._context, sock)
        head = b""
        while b"\r\n\r\n" not in head:
            head += records.read()
        [key] = [line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        )
        sock.sendall(records.encrypted(answer + accept + b"\r\n\r\n" + self._with_the_answer))
        threading.Thread(target=self._send, args=(sock, records), daemon=True).start()
        while True:
            self.heard.put(records.read())

    def _send(self, sock: socket.socket, records: Records) -> None:
        with contextlib.suppress(OSError):
            while data := self.to_send.get():
                sock.sendall(records.encrypted(*data))


@contextlib.contextmanager
def connection_to(exchange: Exchange, client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeedConnection]:
    """A connection in the hands of the test, open."""
    if not client.is_native:
        monkeypatch.setattr(ldc.feed.tls, "tls_problem", lambda: "the test says so")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", client.file(AUTHORITY))
    posted: queue.SimpleQueue[Callable[[float], None]] = queue.SimpleQueue()
    options = ConnectionOptions(
        ping_interval_s=5,
        ping_timeout_s=3,
        close_timeout_s=2,
        messages_per_second=3,
        user_agent="test",
        proxies=ProxyRules(),
    )
    with serving(exchange) as port:
        connection = FeedConnection(
            1, f"wss://127.0.0.1:{port}/stream", options, lambda work: posted.put(work) or True, lambda *_: None, 0.0
        )
        connection.connect()
        posted.get(timeout=PATIENCE_S)(0.0)
        try:
            yield connection
        finally:
            exchange.to_send.put(())
            connection.close()


def text_frame(text: bytes) -> bytes:
    return bytes([0x81, len(text)]) + text


def test_a_connection_is_read_and_says_whether_the_loop_can_read_it(client, monkeypatch, tmp_path):
    exchange = Exchange(tmp_path, b"")
    with connection_to(exchange, client, monkeypatch) as connection:
        assert connection.can_be_served == client.is_native  # by the loop without the GIL
        events: list[FrameEvent] = []
        for text in (b"one", b"two"):
            exchange.to_send.put((text_frame(text),))
            assert select.select([connection], [], [], PATIENCE_S)[0]
            while not connection.receive(events, 0.0) and (not events or events[-1].payload != text):
                select.select([connection], [], [], PATIENCE_S)
        assert [event.payload for event in events] == [b"one", b"two"]
        connection.tick(1000.0)
        assert exchange.heard.get(timeout=PATIENCE_S)[0] == 0x89  # a ping


def test_records_that_come_together_are_read_by_a_connection(client, monkeypatch, tmp_path):
    """What TLS has read along is in no selector's sight, and nothing else comes."""
    exchange = Exchange(tmp_path, b"")
    texts = [b"one", b"two", b"three"]
    with connection_to(exchange, client, monkeypatch) as connection:
        exchange.to_send.put(tuple(map(text_frame, texts)))
        events: list[FrameEvent] = []
        while len(events) < 3:
            assert select.select([connection], [], [], PATIENCE_S)[0], "the rest is not seen"
            while connection.receive(events, 0.0):
                pass
        assert [event.payload for event in events] == texts


def test_frames_in_the_record_of_the_handshake_are_seen_without_the_selector(client, monkeypatch, tmp_path):
    exchange = Exchange(tmp_path, text_frame(b"one") + text_frame(b"two"))
    with connection_to(exchange, client, monkeypatch) as connection:
        assert connection.has_unread
        events: list[FrameEvent] = []
        assert not connection.receive(events, 0.0)
        assert [event.payload for event in events] == [b"one", b"two"]
        assert not connection.has_unread


def test_an_end_is_a_lost_connection(client, monkeypatch, tmp_path):
    exchange = Exchange(tmp_path, text_frame(b"one"))
    with connection_to(exchange, client, monkeypatch) as connection:
        events: list[FrameEvent] = []
        connection.receive(events, 0.0)
        connection._websocket.sock.shutdown(socket.SHUT_RDWR) if client.is_native else socket.socket.shutdown(
            connection._websocket.sock, socket.SHUT_RDWR
        )
        with pytest.raises(ConnectionLost, match="without a close frame"):
            connection.receive(events, 0.0)


def test_a_group_answers_a_ping_that_came_with_the_handshake(client, monkeypatch, tmp_path):
    """Nothing else is ever sent: were it left to the selector, it would be left for ever."""
    from ldc.manager.manager import BinanceLocalDepthCacheManager

    if not client.is_native:
        monkeypatch.setattr(ldc.feed.tls, "tls_problem", lambda: "the test says so")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", client.file(AUTHORITY))
    exchange = Exchange(tmp_path, bytes([0x89, 4]) + b"ping")
    with serving(exchange) as port:
        uris = {"restful_base_uri": "http://127.0.0.1:1", "websocket_base_uri": f"wss://127.0.0.1:{port}"}
        with BinanceLocalDepthCacheManager(**uris) as manager:
            manager.create_depth_cache("BTCUSDT")
            opcodes = {exchange.heard.get(timeout=PATIENCE_S)[0] for _ in range(2)}
            assert opcodes == {0x81, 0x8A}  # the subscription, and the pong
            [status] = manager.get_status("BTCUSDT").feeds
            assert status.reading == ("native" if client.is_native else "python")
        exchange.to_send.put(())
