"""Certificates, and servers that speak TLS as a test wants it. Real sockets on loopback, a thread each."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE_S = 30.0
"""A busy machine has so long; where nothing is wrong, everything takes milliseconds."""

# A key, and what an authority of our own, which nobody trusts, says of it. They guard nothing. Made with the package
# "cryptography": EC P-256, with key ids, valid from 2020 to 2120, but for EXPIRED (2001) and FUTURE (2119).
#
#     GOOD                          exchange.test, xn--brse-5qa.test, localhost, 127.0.0.1, ::1
#     EXPIRED, FUTURE, SELF_SIGNED  the same names, and no addresses
#     OTHER                         elsewhere.test, 127.0.0.9
#     PARTIAL_WILDCARD, WILDCARD    exch*.test; *.exchange.test
#     COMMON_NAME                   exchange.test as the common name, and no other names

AUTHORITY_HASH = "b66328af"
"""The name of the authority's file, before the dot, in a folder of certificates."""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUnQWPEYXDjtRCujl
Ck2pnc73mVDJ8PLj/3Wuzhudi9ShRANCAARCNlGNBXEqIbVJQ+5FUQVDfmd3xTtp
hEevvVCMM5hDzL8byZXX9rR6h4wKJKWbVG1P18MxyC8xZoTmdG8dIuMt
-----END PRIVATE KEY-----
"""
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBjTCCATSgAwIBAgIBAjAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMB0x
GzAZBgNVBAMMEmxkYyB0ZXN0IGF1dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49
AwEHA0IABHSK0+BOPa0KJhL/zbOee+q63TF1NYOLLXvE+P/L8Wsl5ZXKWQoezBXJ
R6VZjY2IpKTFkyp9BLb46a8hwo/qW4ajYzBhMA8GA1UdEwEB/wQFMAMBAf8wHQYD
VR0OBBYEFLmPFphDGGVaNUjhko+9F7yDNvPWMB8GA1UdIwQYMBaAFLmPFphDGGVa
NUjhko+9F7yDNvPWMA4GA1UdDwEB/wQEAwIBBjAKBggqhkjOPQQDAgNHADBEAiAG
wziYA6UU0iMc5ageD6P4m9/559jfZyvgFjLMXAscewIgOF6LypHcgA9R4lmdIvtT
fx8QGlPeXGjfr6vogGgJE80=
-----END CERTIFICATE-----
"""
GOOD = """\
-----BEGIN CERTIFICATE-----
MIIB0jCCAXmgAwIBAgIBAzAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBMx
ETAPBgNVBAMMCGV4Y2hhbmdlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQjZR
jQVxKiG1SUPuRVEFQ35nd8U7aYRHr71QjDOYQ8y/G8mV1/a0eoeMCiSlm1RtT9fD
McgvMWaE5nRvHSLjLaOBsTCBrjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTpciDk
dq/W9Nd4mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBS5jxaYQxhlWjVI4ZKPvRe8gzbz
1jAOBgNVHQ8BAf8EBAMCB4AwTgYDVR0RBEcwRYINZXhjaGFuZ2UudGVzdIIReG4t
LWJyc2UtNXFhLnRlc3SCCWxvY2FsaG9zdIcEfwAAAYcQAAAAAAAAAAAAAAAAAAAA
ATAKBggqhkjOPQQDAgNHADBEAiBT2nZ+SJQ8eRONmQxhvi0n/i9+10OLoGauSgYy
LSXCkwIga+v2ghl5NGonX/5Cx/gNrtNlh3PDcTE0ahiGPdbEUwg=
-----END CERTIFICATE-----
"""
OTHER = """\
-----BEGIN CERTIFICATE-----
MIIBnzCCAUagAwIBAgIBBDAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBAx
DjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQjZRjQVx
KiG1SUPuRVEFQ35nd8U7aYRHr71QjDOYQ8y/G8mV1/a0eoeMCiSlm1RtT9fDMcgv
MWaE5nRvHSLjLaOBgTB/MAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFOlyIOR2r9b0
13iYeUX0gmSZtGSsMB8GA1UdIwQYMBaAFLmPFphDGGVaNUjhko+9F7yDNvPWMA4G
A1UdDwEB/wQEAwIHgDAfBgNVHREEGDAWgg5lbHNld2hlcmUudGVzdIcEfwAACTAK
BggqhkjOPQQDAgNHADBEAiAEfTc5hGRcOUHRjjXFwV7f5vCGFgLu2kXVxqeVpqu4
xAIgRcQdmG0bVQNvay9fk9pMntwL8Bon8T/m9gyXJUwUMeU=
-----END CERTIFICATE-----
"""
EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIBuTCCAV6gAwIBAgIBBTAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwHhcNMDEwMTAxMDAwMDAwWhcNMDIwMTAxMDAwMDAwWjASMRAw
DgYDVQQDDAdleHBpcmVkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQjZRjQVx
KiG1SUPuRVEFQ35nd8U7aYRHr71QjDOYQ8y/G8mV1/a0eoeMCiSlm1RtT9fDMcgv
MWaE5nRvHSLjLaOBmTCBljAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTpciDkdq/W
9Nd4mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBS5jxaYQxhlWjVI4ZKPvRe8gzbz1jAO
BgNVHQ8BAf8EBAMCB4AwNgYDVR0RBC8wLYINZXhjaGFuZ2UudGVzdIIReG4tLWJy
c2UtNXFhLnRlc3SCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNJADBGAiEAy8v4hLM6
kzd8AJxr2O69NaXR5SwxhacRvMP6N+DsXLkCIQCNgsLqYQKCr0CjancoLGp+Za9h
iD/LHW6HU2+T2o5KzQ==
-----END CERTIFICATE-----
"""
FUTURE = """\
-----BEGIN CERTIFICATE-----
MIIBujCCAWGgAwIBAgIBBjAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIhgPMjExOTAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFow
ETEPMA0GA1UEAwwGZnV0dXJlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQjZR
jQVxKiG1SUPuRVEFQ35nd8U7aYRHr71QjDOYQ8y/G8mV1/a0eoeMCiSlm1RtT9fD
McgvMWaE5nRvHSLjLaOBmTCBljAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTpciDk
dq/W9Nd4mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBS5jxaYQxhlWjVI4ZKPvRe8gzbz
1jAOBgNVHQ8BAf8EBAMCB4AwNgYDVR0RBC8wLYINZXhjaGFuZ2UudGVzdIIReG4t
LWJyc2UtNXFhLnRlc3SCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNHADBEAiA5FGjz
eYDgEk9m5HR1gZhk/VTbdsrHiJhK6hSppEMa6QIgICib38AqWg+sUYmtJCEXbrU0
0ELZuav/vQrDsYGIIwk=
-----END CERTIFICATE-----
"""
PARTIAL_WILDCARD = """\
-----BEGIN CERTIFICATE-----
MIIBlDCCATqgAwIBAgIBBzAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMA8x
DTALBgNVBAMMBHdpbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARCNlGNBXEq
IbVJQ+5FUQVDfmd3xTtphEevvVCMM5hDzL8byZXX9rR6h4wKJKWbVG1P18MxyC8x
ZoTmdG8dIuMto3cwdTAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTpciDkdq/W9Nd4
mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBS5jxaYQxhlWjVI4ZKPvRe8gzbz1jAOBgNV
HQ8BAf8EBAMCB4AwFQYDVR0RBA4wDIIKZXhjaCoudGVzdDAKBggqhkjOPQQDAgNI
ADBFAiAC2Nwb084E0fs5AICin3VbUA8ClezTZ1JdKidCvDuERQIhANt6wtSA/4Fi
9XOVNBPXMw0OIvwbbtzUIePzB+LlxMMX
-----END CERTIFICATE-----
"""
WILDCARD = """\
-----BEGIN CERTIFICATE-----
MIIBmTCCAT+gAwIBAgIBCDAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMA8x
DTALBgNVBAMMBHdpbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARCNlGNBXEq
IbVJQ+5FUQVDfmd3xTtphEevvVCMM5hDzL8byZXX9rR6h4wKJKWbVG1P18MxyC8x
ZoTmdG8dIuMto3wwejAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTpciDkdq/W9Nd4
mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBS5jxaYQxhlWjVI4ZKPvRe8gzbz1jAOBgNV
HQ8BAf8EBAMCB4AwGgYDVR0RBBMwEYIPKi5leGNoYW5nZS50ZXN0MAoGCCqGSM49
BAMCA0gAMEUCIFRSPtspI11U6iDJ4zI0SPQ1gG63XGBgmWmYdiQdpqmmAiEAp5Yz
Ylz5rtdkCTRPn+roet5sSeZqOS6Vg4GP8iFbPYs=
-----END CERTIFICATE-----
"""
COMMON_NAME = """\
-----BEGIN CERTIFICATE-----
MIIBhjCCASygAwIBAgIBCTAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBgx
FjAUBgNVBAMMDWV4Y2hhbmdlLnRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AARCNlGNBXEqIbVJQ+5FUQVDfmd3xTtphEevvVCMM5hDzL8byZXX9rR6h4wKJKWb
VG1P18MxyC8xZoTmdG8dIuMto2AwXjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTp
ciDkdq/W9Nd4mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBS5jxaYQxhlWjVI4ZKPvRe8
gzbz1jAOBgNVHQ8BAf8EBAMCB4AwCgYIKoZIzj0EAwIDSAAwRQIgWfrbA89gvBOn
B2MnWsCskihEaR2SrNDObxQD5m63d7YCIQD0Fnqz4qrDvpBx3BMalN2Iyay9CkI8
XNJSsdUMbbrVJQ==
-----END CERTIFICATE-----
"""
SELF_SIGNED = """\
-----BEGIN CERTIFICATE-----
MIIBvDCCAWGgAwIBAgIBCjAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1leGNoYW5n
ZS50ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1leGNoYW5nZS50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQjZR
jQVxKiG1SUPuRVEFQ35nd8U7aYRHr71QjDOYQ8y/G8mV1/a0eoeMCiSlm1RtT9fD
McgvMWaE5nRvHSLjLaOBmTCBljAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTpciDk
dq/W9Nd4mHlF9IJkmbRkrDAfBgNVHSMEGDAWgBTpciDkdq/W9Nd4mHlF9IJkmbRk
rDAOBgNVHQ8BAf8EBAMCB4AwNgYDVR0RBC8wLYINZXhjaGFuZ2UudGVzdIIReG4t
LWJyc2UtNXFhLnRlc3SCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNJADBGAiEAlajd
nhD7jaNXSnnYCVGcFs6BhJ/anMZwy0YKq68y7pUCIQCAnnPk75PJz97AYIUt14hQ
2xdyittBkIpD/QIIL7Asww==
-----END CERTIFICATE-----
"""

Script = Callable[[ssl.SSLSocket], None]


def server_context(folder: Path, certificate: str = GOOD) -> ssl.SSLContext:
    """Return a server's TLS with a certificate."""
    pem = folder / "server.pem"
    pem.write_text(KEY + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@contextlib.contextmanager
def serving(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """Let a script talk to each connection, in a thread of its own; give the port. An OSError ends the talk."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def serve(sock: socket.socket, copy: socket.socket) -> None:
        with contextlib.suppress(OSError), copy, sock:
            sock.settimeout(PATIENCE_S)
            script(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets.append(sock.dup())  # TLS takes the other one over
                threads.append(threading.Thread(target=serve, args=(sock, sockets[-1]), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        for each in (listener, *sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        acceptor.join(PATIENCE_S)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        listener.close()


def over_tls(context: ssl.SSLContext, script: Script) -> Callable[[socket.socket], None]:
    """Return a script for `serving` that speaks TLS first."""

    def talk(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            script(tls)

    return talk


class Records:
    """A server's TLS whose records are in the hands of the test: `encrypted` makes bytes, to be sent as it likes."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._until_done(self._tls.do_handshake)

    def _until_done(self, call: Callable[[], bytes | None]) -> bytes | None:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                pass
            finally:
                self.sock.sendall(self._outgoing.read())
            received = self.sock.recv(65_536)
            if not received:
                raise OSError("the client hung up")
            self._incoming.write(received)

    def read(self) -> bytes:
        """Return what the client sent, at least a byte."""
        return self._until_done(lambda: self._tls.read(65_536)) or b""

    def encrypted(self, *data: bytes) -> bytes:
        """Return one record or more for each, without sending them."""
        for each in data:
            self._tls.write(each)
        return self._outgoing.read()


@contextlib.contextmanager
def byte_by_byte(port: int) -> Iterator[int]:
    """Pass on what comes from a server in single bytes, and to it as it is; give the port."""

    def pump(here: socket.socket, there: socket.socket, *, is_split: bool) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65_536):
                for piece in (data[i : i + 1] for i in range(len(data))) if is_split else [data]:
                    there.sendall(piece)
            there.shutdown(socket.SHUT_WR)

    def talk(sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            to_server = threading.Thread(target=pump, args=(sock, server), kwargs={"is_split": False}, daemon=True)
            to_server.start()
            pump(server, sock, is_split=True)
            sock.shutdown(socket.SHUT_RDWR)
            to_server.join(PATIENCE_S)

    with serving(talk) as own_port:
        yield own_port
