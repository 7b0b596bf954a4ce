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
#     PARTIAL_WILDCARD, WILDCARD    str*.exchange.test; *.exchange.test
#     COMMON_NAME                   exchange.test as the common name, and no other names

AUTHORITY_HASH = "b66328af"
"""The name of the authority's file, before the dot, in a folder of certificates."""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzfbdv8V7h7rCPoTl
MUpqQetQkmGa0myyPpEaTUzWiLqhRANCAASJL2fsm+o4Kk7D7rcobltSAo4RO82Y
kuYQ8UyOhPvq8tYFr7atcTfixj2fFXgkaB3mT1BPBU356vrcKLR5XYJ8
-----END PRIVATE KEY-----
"""
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBjjCCATSgAwIBAgIBAjAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMB0x
GzAZBgNVBAMMEmxkYyB0ZXN0IGF1dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49
AwEHA0IABIXkYYgmusLfpDZHVQfFVe5fymXAZgyMAYX2pV2lVPsYMs0HYf4cBpdr
SlJyyT5ruQhkmgy6s7iw3uejb6qjinejYzBhMA8GA1UdEwEB/wQFMAMBAf8wHQYD
VR0OBBYEFLYccOta/klRPChMP2HmENUbAmR4MB8GA1UdIwQYMBaAFLYccOta/klR
PChMP2HmENUbAmR4MA4GA1UdDwEB/wQEAwIBBjAKBggqhkjOPQQDAgNIADBFAiAb
HhAbp7wRIJeNSlS5Clt/BPuY9pRmWY/5nfHRArFWjwIhAKnaVv/In1i17N8iLsL3
xvBJx84AIj2zR99vI7kL9nw8
-----END CERTIFICATE-----
"""
GOOD = """\
-----BEGIN CERTIFICATE-----
MIIB0zCCAXmgAwIBAgIBAzAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBMx
ETAPBgNVBAMMCGV4Y2hhbmdlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiS9n
7JvqOCpOw+63KG5bUgKOETvNmJLmEPFMjoT76vLWBa+2rXE34sY9nxV4JGgd5k9Q
TwVN+er63Ci0eV2CfKOBsTCBrjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTBg2O8
CzCIMFmchR8NuS65s/MiSTAfBgNVHSMEGDAWgBS2HHDrWv5JUTwoTD9h5hDVGwJk
eDAOBgNVHQ8BAf8EBAMCB4AwTgYDVR0RBEcwRYINZXhjaGFuZ2UudGVzdIIReG4t
LWJyc2UtNXFhLnRlc3SCCWxvY2FsaG9zdIcEfwAAAYcQAAAAAAAAAAAAAAAAAAAA
ATAKBggqhkjOPQQDAgNIADBFAiAIiX8dMdWGP66y59A9bmNw3OYvkkVGuEMYdqjR
UMdhyQIhAIryFGCisKPEl9sO7C0U0RWB7esHn82R+qyH3BEurn0T
-----END CERTIFICATE-----
"""
OTHER = """\
-----BEGIN CERTIFICATE-----
MIIBoDCCAUagAwIBAgIBBDAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBAx
DjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiS9n7Jvq
OCpOw+63KG5bUgKOETvNmJLmEPFMjoT76vLWBa+2rXE34sY9nxV4JGgd5k9QTwVN
+er63Ci0eV2CfKOBgTB/MAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFMGDY7wLMIgw
WZyFHw25Lrmz8yJJMB8GA1UdIwQYMBaAFLYccOta/klRPChMP2HmENUbAmR4MA4G
A1UdDwEB/wQEAwIHgDAfBgNVHREEGDAWgg5lbHNld2hlcmUudGVzdIcEfwAACTAK
BggqhkjOPQQDAgNIADBFAiEAu3so+7HkT9xKRisxbmgsG/KvikHxBWJyh/VTE3T3
OSMCIFqMMQbWTHrfD+42CogbEY/65ul8/qnjNFoqTsteufiu
-----END CERTIFICATE-----
"""
EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIBuDCCAV6gAwIBAgIBBTAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwHhcNMDEwMTAxMDAwMDAwWhcNMDIwMTAxMDAwMDAwWjASMRAw
DgYDVQQDDAdleHBpcmVkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiS9n7Jvq
OCpOw+63KG5bUgKOETvNmJLmEPFMjoT76vLWBa+2rXE34sY9nxV4JGgd5k9QTwVN
+er63Ci0eV2CfKOBmTCBljAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTBg2O8CzCI
MFmchR8NuS65s/MiSTAfBgNVHSMEGDAWgBS2HHDrWv5JUTwoTD9h5hDVGwJkeDAO
BgNVHQ8BAf8EBAMCB4AwNgYDVR0RBC8wLYINZXhjaGFuZ2UudGVzdIIReG4tLWJy
c2UtNXFhLnRlc3SCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNIADBFAiEAx6854fY7
CZadYZH53M+nTablXEO7gkCy6pRrOsZAcI0CIHeE0DZn3Oj3uRnTxNt4GGF3KeUd
Aqg4ullZO2krLy6c
-----END CERTIFICATE-----
"""
FUTURE = """\
-----BEGIN CERTIFICATE-----
MIIBvDCCAWGgAwIBAgIBBjAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIhgPMjExOTAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFow
ETEPMA0GA1UEAwwGZnV0dXJlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiS9n
7JvqOCpOw+63KG5bUgKOETvNmJLmEPFMjoT76vLWBa+2rXE34sY9nxV4JGgd5k9Q
TwVN+er63Ci0eV2CfKOBmTCBljAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTBg2O8
CzCIMFmchR8NuS65s/MiSTAfBgNVHSMEGDAWgBS2HHDrWv5JUTwoTD9h5hDVGwJk
eDAOBgNVHQ8BAf8EBAMCB4AwNgYDVR0RBC8wLYINZXhjaGFuZ2UudGVzdIIReG4t
LWJyc2UtNXFhLnRlc3SCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNJADBGAiEAhfe2
bmSxQ9afBJYxt4e4h2QB4ByF/uMGycRLDTG9QFUCIQCNyUlQRuG5X10PQVI8HULm
VAsx/LNHekjnP+BdZP29yA==
-----END CERTIFICATE-----
"""
PARTIAL_WILDCARD = """\
-----BEGIN CERTIFICATE-----
MIIBnTCCAUKgAwIBAgIBBzAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMA8x
DTALBgNVBAMMBHdpbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASJL2fsm+o4
Kk7D7rcobltSAo4RO82YkuYQ8UyOhPvq8tYFr7atcTfixj2fFXgkaB3mT1BPBU35
6vrcKLR5XYJ8o38wfTAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTBg2O8CzCIMFmc
hR8NuS65s/MiSTAfBgNVHSMEGDAWgBS2HHDrWv5JUTwoTD9h5hDVGwJkeDAOBgNV
HQ8BAf8EBAMCB4AwHQYDVR0RBBYwFIISc3RyKi5leGNoYW5nZS50ZXN0MAoGCCqG
SM49BAMCA0kAMEYCIQC7DbcLm9iIIlpS1nXdNyIAb3BTTNO5gP2v36H2olt/+QIh
AIndfGWuOpiMHUy92ObZSI6sgALpm10mNDVGEY+XXWuC
-----END CERTIFICATE-----
"""
WILDCARD = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAT+gAwIBAgIBCDAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMA8x
DTALBgNVBAMMBHdpbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASJL2fsm+o4
Kk7D7rcobltSAo4RO82YkuYQ8UyOhPvq8tYFr7atcTfixj2fFXgkaB3mT1BPBU35
6vrcKLR5XYJ8o3wwejAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTBg2O8CzCIMFmc
hR8NuS65s/MiSTAfBgNVHSMEGDAWgBS2HHDrWv5JUTwoTD9h5hDVGwJkeDAOBgNV
HQ8BAf8EBAMCB4AwGgYDVR0RBBMwEYIPKi5leGNoYW5nZS50ZXN0MAoGCCqGSM49
BAMCA0kAMEYCIQCbsNtkFqEBkS7GSNA8u1Nk4gTtMDDPwlRL5nWadhYG+AIhAIy9
MuHb2mUMbmrHDmFpxpUIxEDNYHeJAzwEEMZozRIH
-----END CERTIFICATE-----
"""
COMMON_NAME = """\
-----BEGIN CERTIFICATE-----
MIIBhjCCASygAwIBAgIBCTAKBggqhkjOPQQDAjAdMRswGQYDVQQDDBJsZGMgdGVz
dCBhdXRob3JpdHkwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBgx
FjAUBgNVBAMMDWV4Y2hhbmdlLnRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASJL2fsm+o4Kk7D7rcobltSAo4RO82YkuYQ8UyOhPvq8tYFr7atcTfixj2fFXgk
aB3mT1BPBU356vrcKLR5XYJ8o2AwXjAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTB
g2O8CzCIMFmchR8NuS65s/MiSTAfBgNVHSMEGDAWgBS2HHDrWv5JUTwoTD9h5hDV
GwJkeDAOBgNVHQ8BAf8EBAMCB4AwCgYIKoZIzj0EAwIDSAAwRQIgDWL0nEJO1Av1
txi9OkZ00iMKexB0s0mAjbMYE5ChKAwCIQDmRZrZlfsRWWDxNAEUZikP/7g2leWY
0eKtRRweS06OzA==
-----END CERTIFICATE-----
"""
SELF_SIGNED = """\
-----BEGIN CERTIFICATE-----
MIIBuzCCAWGgAwIBAgIBCjAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1leGNoYW5n
ZS50ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1leGNoYW5nZS50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiS9n
7JvqOCpOw+63KG5bUgKOETvNmJLmEPFMjoT76vLWBa+2rXE34sY9nxV4JGgd5k9Q
TwVN+er63Ci0eV2CfKOBmTCBljAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTBg2O8
CzCIMFmchR8NuS65s/MiSTAfBgNVHSMEGDAWgBTBg2O8CzCIMFmchR8NuS65s/Mi
STAOBgNVHQ8BAf8EBAMCB4AwNgYDVR0RBC8wLYINZXhjaGFuZ2UudGVzdIIReG4t
LWJyc2UtNXFhLnRlc3SCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNIADBFAiA9cVoZ
AIgTmsB0FVF3Hj/1ZmXdNwqcDsFE3ZqDLPCRawIhANA/0QWNrC/+gXN6tDkmgT/r
k11YGEndyavh0MpVb42g
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
