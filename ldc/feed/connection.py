"""One websocket of a feed group: opened by websocket-client, then read and written without blocking.

Rule 1: `ldc.feed.opening` opens it. That blocks, so it runs in a thread of its own. That thread touches nothing else
    and may be left behind, for a resolver cannot be interrupted.
Rule 2: everything else happens in the group's thread: a non-blocking socket, a frame reader, an outbox for writing.
    Nothing here waits; `next_due` returns when to come back.
Rule 3: liveness has total deadlines. A connection must be open within `ConnectionOptions.connect_timeout_s` of its
    start. An open one is pinged. A pong that is late ends it, and in the middle of a frame no pong can come. So one
    clock finds a half-open link, a peer that stalls, and a peer that trickles bytes.
Rule 4: what we send is paced, pings and pongs included, because the exchange counts them. `ldc.feed.subscriptions`
    decides what is requested.

The facts of the wire are in sections 3 and 3.2 of the design paper PROTOCOL; the important ones are repeated here.
"""

import contextlib
import enum
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import websocket

from ldc.book import FrameReader, KeepAlive, Lease, TlsSocket
from ldc.feed.cpus import run_on_all_cpus
from ldc.feed.opening import new_websocket, open_websocket
from ldc.feed.subscriptions import NotAcknowledged, StreamRequests
from ldc.frames import FrameError, FrameEvent, Opcode
from ldc.limits import DEFAULT_TIMING, Timing
from ldc.network.connecting import mark_failed, peer_of
from ldc.network.proxy import Proxy, ProxyRules
from ldc.network.text import described, printable

_REASON_CHARACTERS_MAX = 123  # of a close frame, by RFC 6455

LEASE_MARGIN_S = 1.0
"""Seconds that a lease outlasts a pong in time, which a busy machine may bring late. Then reads raise STALLED."""

LEASE_S_MAX = 9e9
"""A lease counts ns in 64 bits. Longer ping intervals and timeouts mean as much as this: 285 years."""

RECEIVES_PER_TURN_MAX = 16
"""Receives of one connection in one turn of the loop. What is left is read in the next turn, after the others."""


class ConnectionLost(Exception):
    """The connection has ended; the text tells the reason, for a log."""


class ConnectionPutOff(ConnectionLost):
    """Other processes have used up the connects of this address. Nothing was opened."""

    def __init__(self, until: float) -> None:
        super().__init__("the connects that this machine shares are used up")
        self.until = until
        """When to try again."""


class ConnectionState(enum.Enum):
    """The life of a connection: each state follows the one above it."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class ConnectionOptions(NamedTuple):
    """What all connections of a manager have in common."""

    ping_interval_s: float
    ping_timeout_s: float
    close_timeout_s: float
    messages_per_second: int
    user_agent: str
    proxies: ProxyRules
    spare_urls: tuple[str, ...] = ()
    """URLs that serve the same, in the order in which they are tried after a failure; empty: there is one URL only."""
    timing: Timing = DEFAULT_TIMING
    spins: bool = False
    """Whether the loop never sleeps, which takes a whole CPU for each feed group."""
    cpus: frozenset[int] | None = None
    """The CPUs that feed threads run on; None: all that the process may use."""

    def checked(self) -> "ConnectionOptions":
        """Return these; raise ``ValueError`` for a value that makes no sense."""
        for name in ("ping_interval", "ping_timeout", "close_timeout"):
            seconds = getattr(self, f"{name}_s")
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise ValueError(f"websocket_{name} is a positive number of seconds, not {seconds!r}")
        if not isinstance(self.timing, Timing):
            raise ValueError(f"timing is an ldc.limits.Timing or None, not {self.timing!r}")  # noqa: TRY004 - as all
        if not isinstance(self.spins, bool):
            raise ValueError(f"feed_spin is True or False, not {self.spins!r}")  # noqa: TRY004 - as all
        return self

    @property
    def lease_s(self) -> float:
        """Seconds for which a book may be read without another proof: as long as a dead link may stay unnoticed."""
        return min(self.ping_interval_s + self.ping_timeout_s + LEASE_MARGIN_S, LEASE_S_MAX)

    @property
    def connect_timeout_s(self) -> float:
        """Seconds for DNS, TCP, proxy, TLS and handshake together: as many as a dead peer may stay unnoticed."""
        return self.ping_interval_s + self.ping_timeout_s


class FeedConnection:
    """One websocket. All methods but the connector's belong to the group's thread.

    Args:
        connection_id: its number, by which synchronizers know it; used once in a group.
        url: of the combined-stream endpoint.
        options: what all connections of a manager have in common.
        post: lets the group's thread call a function; False when that thread has ended.
        on_opened: called in the group's thread when the handshake has succeeded.
        now: when its life begins.
        lease: renewed by each proof that the link is alive.
        take_shared: counts the connect in a budget that is shared by a file; returns the time it was given, or when to
            try again. Called by the connector, because a file may block.
    """

    def __init__(
        self,
        connection_id: int,
        url: str,
        options: ConnectionOptions,
        post: Callable[[Callable[[float], None]], bool],
        on_opened: Callable[["FeedConnection", float], None],
        now: float,
        lease: Lease | None = None,
        *,
        take_shared: Callable[[float], float] = lambda now: now,
    ) -> None:
        self.connection_id = connection_id
        self.url = url
        self.state = ConnectionState.CONNECTING
        self.opened_at = now
        self.requests = StreamRequests(options.timing)
        self.reader = FrameReader()
        """Decodes frames, and applies updates to the books of the streams bound to it."""
        self.has_heard_control = False
        """Whether a ping or a pong came since the last `tick`. Then `next_due` may be nearer than before."""
        self.keepalive = KeepAlive(
            options.ping_interval_s,
            options.ping_timeout_s,
            options.messages_per_second,
            pong_late_s=options.timing.pong_late_s,
            pong_interval_s=options.timing.pong_s_min,
            lease=lease,
        )
        """Pings, pongs, and the pace of all that is sent."""
        self.is_kept_alive_by_loop = False
        """Whether the loop watches the deadlines of pongs, and sends pings while nothing else is to be sent."""
        self.reading: Literal["native", "python"] = "python"
        """What reads the socket, once it is open: see `ConnectionStatus`."""
        self._options = options
        self._timing = options.timing
        self._post = post
        self._on_opened = on_opened
        self._deadline = now + options.connect_timeout_s
        self._problem: ConnectionLost | None = None  # for the next `tick`
        self._take_shared = take_shared
        self._is_counted = False  # in the shared budget
        self._proxy: Proxy | None = None  # known when the connector has begun
        self._peer: tuple[str, int] | None = None
        self._websocket = new_websocket()
        self._socket: socket.socket | TlsSocket | None = None
        self._pending: Callable[[], int] | None = None  # whether TLS holds bytes, which no selector sees
        self._outbox = bytearray()

    # connecting

    def connect(self) -> None:
        """Begin to connect, in a thread of its own."""
        name = f"ldc-connect-{self.connection_id}"
        try:
            threading.Thread(target=self._open, name=name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # there can be no more threads: a failure of this connection only
            self._problem = ConnectionLost(f"cannot connect to {self.url}: {error}")

    def _open(self) -> None:
        """Open the websocket and pass it to the group's thread. Runs in the connector; each step has a timeout."""
        opened, options = self._websocket, self._options
        problem: str | None
        try:
            if options.cpus is not None:
                run_on_all_cpus()  # a new thread runs where the thread that started it does: beside a loop that spins
            now = time.monotonic()
            allowed_at = self._take_shared(now)
            if allowed_at > now:
                self._post(lambda _now: self._put_off(allowed_at))
                return
            self._is_counted = True
            if self._was_given_up():
                return
            self._proxy = options.proxies.for_url(self.url)
            problem = open_websocket(
                opened, self.url, self._proxy, user_agent=options.user_agent, timeout_s=options.connect_timeout_s
            )
        except ValueError as error:
            problem = str(error)
        except BaseException as error:  # noqa: BLE001 - a thread's top: without a report the group waits in vain
            problem = f"{type(error).__name__}: {described(error)}"
        if self._was_given_up() or not self._post(lambda now: self._opened(problem, now)):
            _close_socket(opened.sock)

    def _was_given_up(self) -> bool:
        return self.state is ConnectionState.CLOSED

    def _put_off(self, until: float) -> None:
        self._problem = ConnectionPutOff(until)

    def _opened(self, problem: str | None, now: float) -> None:
        """Take the socket from the connector."""
        if self.state is ConnectionState.CLOSED:
            _close_socket(self._websocket.sock)
        elif problem is not None:
            self._problem = ConnectionLost(f"cannot connect to {self.url}: {problem}")
            _close_socket(self._websocket.sock)
        else:
            self._socket = self._websocket.sock
            assert self._socket is not None
            self._peer = peer_of(self._socket)
            self._socket.setblocking(False)
            if isinstance(self._socket, TlsSocket):
                self._pending = self._socket.has_pending
            elif isinstance(self._socket, ssl.SSLSocket):
                self._pending = self._socket.pending
            self.state = ConnectionState.OPEN
            self.opened_at = now
            self.keepalive.start(now)
            self._on_opened(self, now)

    # input and output, never blocking

    def fileno(self) -> int:
        """Return the descriptor, for the selector."""
        return self._socket.fileno() if self._socket is not None else -1

    @property
    def proven_at(self) -> float:
        """When the last ping was sent that has its pong. What the exchange sent before that has been received."""
        return self.keepalive.proven_at

    @property
    def has_ponged(self) -> bool:
        """Whether a pong has answered a ping."""
        return self.keepalive.last_pong_at != -math.inf

    @property
    def tls_socket(self) -> TlsSocket | None:
        """The TLS connection that the loop can read, or None: a plain socket."""
        return self._socket if isinstance(self._socket, TlsSocket) else None

    @property
    def can_be_served(self) -> bool:
        """Whether the loop can read it without the GIL: not where Python's `ssl` does the TLS."""
        return not isinstance(self._socket, ssl.SSLSocket)

    @property
    def wants_to_write(self) -> bool:
        """Whether data waits for room to write."""
        return bool(self._outbox)

    @property
    def has_unread(self) -> bool:
        """Whether something was received that has not been read, so that no selector sees it."""
        return self._pending is not None and self._pending() > 0

    def receive(self, events: list[FrameEvent], now: float) -> bool:
        """Receive what has arrived; return whether more may be waiting where no selector sees it.

        Updates of direct bindings go to their books. Other text messages are added to `events`. Answers pings, notes
        pongs. Raises `ConnectionLost`; what arrived before that has been applied or added.
        """
        assert self._socket is not None
        if self.is_kept_alive_by_loop:
            self._take_over(events, now)
        for _ in range(RECEIVES_PER_TURN_MAX):
            with self.reader.writable() as room:
                room_bytes = len(room)
                try:
                    count = self._socket.recv_into(room)
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return False
                except (OSError, ValueError) as error:
                    raise ConnectionLost(f"{type(error).__name__}: {described(error)}") from error
            if count == 0:
                raise ConnectionLost(self._why_ended(0))
            self.reader.received(count)
            self._take_events(events, now, time.time_ns())
            # Over TLS a receive returns one record at most, however much room there is.
            if count < room_bytes if self._pending is None else self._pending() == 0:
                return False  # that was all; the selector sees what comes next
        # The pong may be in what is not read yet. A peer that sends more than we read is not dead.
        self.keepalive.extend_deadline(now + self._timing.unread_s)
        return True

    def _take_over(self, events: list[FrameEvent], now: float) -> None:
        """Take what the loop has received, and left for a decision."""
        self._take_events(events, now, self.reader.received_in_loop_ns or time.time_ns())
        if self.keepalive.is_late(now):
            self.has_heard_control = True  # the rest is for `tick`
        if self.reader.failure is not None:
            raise ConnectionLost(self._why_ended(self.reader.failure))

    def _why_ended(self, error_number: int) -> str:
        """Return the reason for an end of the stream (0), or for a receive that failed."""
        if error_number:
            error = OSError(error_number, os.strerror(error_number))
            return f"{type(error).__name__}: {described(error)}"
        where = "" if self.reader.is_between_frames else " in the middle of a frame"
        return f"the exchange closed the connection without a close frame{where}"

    def _take_events(self, events: list[FrameEvent], now: float, received_time_ns: int) -> None:
        next_event = self.reader.next_event
        try:
            while (event := next_event(now, received_time_ns)) is not None:
                if event.opcode == Opcode.TEXT:
                    events.append(event)
                else:
                    self._take_control(event, now)
        except FrameError as error:
            self._send_close(error.close_code)
            raise ConnectionLost(f"the exchange broke the websocket protocol: {described(error)}") from error

    def _take_control(self, event: FrameEvent, now: float) -> None:
        self.has_heard_control = True
        opcode, payload = event.opcode, event.payload
        if opcode == Opcode.PING:
            self.keepalive.note_ping(payload)
        elif opcode == Opcode.PONG:
            self.keepalive.note_pong(payload, now)
        elif opcode == Opcode.CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else 1000
            reason = printable(payload[2:].decode(), _REASON_CHARACTERS_MAX)
            self._send_close(code if payload else 1000)
            raise ConnectionLost(f"the exchange closed the connection with code {code} '{reason}'")
        # A binary message is ignored: JSON streams have none.

    def flush(self) -> None:
        """Send what the socket takes. Raises `ConnectionLost`."""
        assert self._socket is not None
        while self._outbox:
            try:
                sent = self._socket.send(self._outbox)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ValueError) as error:
                raise ConnectionLost(f"{type(error).__name__}: {described(error)}") from error
            del self._outbox[:sent]

    def _queue(self, opcode: int, payload: bytes | str) -> None:
        self._outbox += websocket.ABNF.create_frame(payload, opcode).format()

    # time

    def tick(self, now: float) -> None:
        """Send what is due: pings, pongs, requests. Raises `ConnectionLost` at a deadline."""
        self.has_heard_control = False
        if self._problem is not None:
            raise self._problem
        if self.state is ConnectionState.CONNECTING:
            if now >= self._deadline:
                who = "the name server, the network or the handshake stalls"
                if self._proxy is not None:
                    who = f"the proxy {self._proxy} stalls, or what lies behind it"
                if not self._is_counted:
                    who = "the file of the shared budget stalls"
                raise ConnectionLost(f"no connection to {self.url} within {self._options.connect_timeout_s} s: {who}")
            return
        if self.keepalive.is_dead(now):
            raise ConnectionLost(f"no pong within {self._options.ping_timeout_s} s of a ping: the link is dead")
        try:
            self.requests.expire(now)
        except NotAcknowledged as error:
            raise ConnectionLost(str(error)) from None
        while (sendable := self.keepalive.next_message(now, self.requests.has_next)) is not None:
            opcode, payload = sendable
            if opcode != Opcode.TEXT:
                self._queue(opcode, payload)
            elif (message := self.requests.next_message(now)) is not None:
                self.keepalive.spend(now)
                self._queue(opcode, message)
        if self._outbox:
            self.flush()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent but pings and pongs."""
        return not self._outbox and not self.requests.has_next

    def take_unsent(self, unsent: bytes) -> None:
        """Send first what the socket did not take of a ping or a pong of the loop."""
        self._outbox[:0] = unsent
        self.has_heard_control = True

    def next_due(self, now: float) -> float:
        """Return when `tick` has something to do next."""
        if self._problem is not None:
            return now
        if self.state is ConnectionState.CONNECTING:
            return self._deadline
        if self.is_kept_alive_by_loop and self.is_idle:
            return self.requests.next_due()
        return min(self.keepalive.next_due(now, self.requests.has_next), self.requests.next_due())

    def is_pong_late(self, now: float) -> bool:
        """Whether a ping has waited for its pong for `Timing.pong_late_s`."""
        return self.keepalive.is_late(now)

    # the end

    def mark_failed(self) -> None:
        """The connection has failed: the next one begins with another address of the host, if there is one."""
        if self._proxy is None:
            mark_failed(self._peer)

    def _send_close(self, code: int) -> None:
        """Try to send a close frame. Does not wait for the answer."""
        if self._socket is None:
            return
        self._outbox += websocket.ABNF.create_frame(code.to_bytes(2, "big"), Opcode.CLOSE).format()
        with contextlib.suppress(ConnectionLost):
            self.flush()

    def begin_close(self) -> float:
        """Send a close frame; return how long its answer may be waited for, in seconds."""
        if self.state is not ConnectionState.OPEN:
            return 0.0
        self._send_close(1000)
        return min(self._options.close_timeout_s, self._timing.close_s_max)

    def close(self) -> None:
        """Close the socket; a connector that is still running ends by itself. Idempotent."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        if self._socket is not None:
            _close_socket(self._socket)
            self._socket = None
        else:
            # This wakes a connector that waits for the handshake. The connector closes the socket itself: if it were
            # closed here, the connector could read on from another socket with the same descriptor.
            _shutdown_socket(self._websocket.sock)


def _close_socket(sock: socket.socket | TlsSocket | None) -> None:
    if not isinstance(sock, TlsSocket):  # which does both, in an order of its own
        _shutdown_socket(sock)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()


def _shutdown_socket(sock: socket.socket | TlsSocket | None) -> None:
    """End a connection, so that a thread which waits for it goes on."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(sock, TlsSocket):
            sock.shutdown(socket.SHUT_RDWR)
        elif sock is not None:
            # Not SSLSocket.shutdown, which removes the TLS object under a thread that reads.
            plain_shutdown = getattr(socket.socket, "shutdown", None)
            if plain_shutdown is not None:
                plain_shutdown(sock, socket.SHUT_RDWR)
            else:  # eventlet's class has none, only its instances
                sock.shutdown(socket.SHUT_RDWR)
