"""One websocket of a feed group: opened by websocket-client, then read and written without ever blocking.

Rule 1: a connection is opened by `ldc.feed.opening`. That blocks, so it has a thread of its own, which touches nothing
    else and may be left behind (the resolver cannot be interrupted).
Rule 2: everything else happens in the group's thread: a non-blocking socket, a frame reader, an outbox for writing.
    Nothing here waits; `next_due` says when to come back.
Rule 3: liveness has total deadlines. A connection must be open CONNECT grace after it was begun. An open one is pinged;
    a pong that does not come in time ends it, and in the middle of a frame none can come. So a link
    that is half open, a peer that stalls, and one that trickles bytes are all noticed by the same clock.
Rule 4: what we send is paced, pings and pongs included, because the exchange counts them. What is asked for is decided
    by `ldc.feed.subscriptions`.

The wire facts are in PROTOCOL sections 3 and 3.2 of the design papers; the ones that matter are said where they matter.
"""

import contextlib
import enum
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import websocket

from ldc.book import FrameReader
from ldc.feed.opening import new_websocket, open_websocket
from ldc.feed.subscriptions import NotAcknowledged, StreamRequests
from ldc.frames import FrameError, FrameEvent, Opcode
from ldc.limits import MessagePacer
from ldc.network.connecting import mark_failed, peer_of
from ldc.network.proxy import Proxy, ProxyRules
from ldc.network.text import described, printable

__all__ = [
    "CLOSE_S_MAX",
    "PONG_LATE_S",
    "ConnectionLost",
    "ConnectionOptions",
    "ConnectionState",
    "FeedConnection",
]

PONG_LATE_S = 1.5
"""A pong that takes longer is trouble, though not death yet: a successor is opened while the link still works. Of no
effect where the user's ping timeout is shorter: such a link is dead before."""

PONG_S_MIN = 1.0
"""At most one pong in this time, for the last ping (RFC 6455, 5.5.3): a flood of pings does not stop our requests."""

_REASON_CHARACTERS_MAX = 123  # of a close frame, by RFC 6455

CLOSE_S_MAX = 0.3
"""The longest that a closing handshake is waited for, whatever the caller allows: stopping must not take a second."""

RECEIVES_PER_TURN_MAX = 16
"""Receives of one connection before the others get their turn; what is left is read in the next one."""

UNREAD_S = 1.0
"""A pong may still come so long after a turn that left something unread, which happens after a standstill of ours."""


class ConnectionLost(Exception):
    """The connection is over; the text says why, in words for a log."""


class ConnectionState(enum.Enum):
    """The life of a connection: each state can only follow the one above it."""

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

    def checked(self) -> "ConnectionOptions":
        """Return these; raise ``ValueError`` for a time that is none."""
        for name in ("ping_interval", "ping_timeout", "close_timeout"):
            seconds = getattr(self, f"{name}_s")
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise ValueError(f"websocket_{name} is a positive number of seconds, not {seconds!r}")
        return self

    @property
    def connect_timeout_s(self) -> float:
        """How long DNS, TCP, proxy, TLS and handshake may take together: as long as a dead peer stays unnoticed."""
        return self.ping_interval_s + self.ping_timeout_s


class FeedConnection:
    """One websocket. All methods but the connector's belong to the group's thread."""

    def __init__(
        self,
        connection_id: int,
        url: str,
        options: ConnectionOptions,
        post: Callable[[Callable[[float], None]], bool],
        on_opened: Callable[["FeedConnection", float], None],
        now: float,
    ) -> None:
        self.connection_id = connection_id
        """The number by which synchronizers know it; never used twice in a group."""
        self.url = url
        self.state = ConnectionState.CONNECTING
        self.opened_at = now
        self.requests = StreamRequests()
        self.reader = FrameReader()
        """Knows which streams go to which books."""
        self.has_heard_control = False
        """Whether a ping or a pong has come since the last `tick`: `next_due` may be nearer than it was."""
        self.last_pong_at: float | None = None
        self.proven_at: float | None = None
        """When the ping was sent that was answered last: what the exchange had sent by then has been received."""
        self._options = options
        self._post = post
        self._on_opened = on_opened
        self._deadline = now + options.connect_timeout_s
        self._problem: str | None = None
        self._proxy: Proxy | None = None  # known when the connector has begun
        self._peer: tuple[str, int] | None = None
        self._websocket = new_websocket()
        self._socket: socket.socket | None = None
        self._is_tls = False  # then a receive brings one record, and the next may wait where no selector sees it
        self._pacer = MessagePacer(options.messages_per_second)
        self._outbox = bytearray()
        self._pong: bytes | None = None  # the payload of the last ping that is not answered yet
        self._pong_not_before = now
        self._was_ping_last = False
        self._ping_due = now
        self._pinged_at = now
        self._pong_deadline: float | None = None

    # connecting

    def connect(self) -> None:
        """Begin to connect, in a thread of its own."""
        name = f"ldc-connect-{self.connection_id}"
        try:
            threading.Thread(target=self._connect, name=name, daemon=True).start()
        except RuntimeError as error:  # no more threads to be had: the trouble of this connection, and of no other one
            self._problem = f"cannot connect to {self.url}: {error}"

    def _connect(self) -> None:
        """Open the websocket and hand it over. Runs in the connector; blocking, within per-step time-outs."""
        opened, options = self._websocket, self._options
        try:
            self._proxy = options.proxies.for_url(self.url)
        except ValueError as error:
            problem: str | None = str(error)
        else:
            problem = open_websocket(
                opened, self.url, self._proxy, user_agent=options.user_agent, timeout_s=options.connect_timeout_s
            )
        if self.state is ConnectionState.CLOSED or not self._post(lambda now: self._connected(problem, now)):
            _shut(opened.sock)

    def _connected(self, problem: str | None, now: float) -> None:
        """Take over from the connector."""
        if self.state is ConnectionState.CLOSED:
            _shut(self._websocket.sock)
        elif problem is not None:
            self._problem = f"cannot connect to {self.url}: {problem}"
            _shut(self._websocket.sock)
        else:
            self._socket = self._websocket.sock
            assert self._socket is not None
            self._peer = peer_of(self._socket)
            self._socket.setblocking(False)
            self._is_tls = isinstance(self._socket, ssl.SSLSocket)
            self.state = ConnectionState.OPEN
            self.opened_at = now
            self._ping_due = now + self._options.ping_interval_s
            self._on_opened(self, now)

    # input and output, never blocking

    def fileno(self) -> int:
        """For the selector."""
        return self._socket.fileno() if self._socket is not None else -1

    @property
    def wants_to_write(self) -> bool:
        """Whether the selector shall watch for room to write."""
        return bool(self._outbox)

    def receive(self, events: list[FrameEvent], now: float) -> bool:
        """Receive what is there; return whether more may be waiting where no selector sees it.

        Updates of direct bindings go to their books. Other text messages are added to `events`. Answers pings, notes
        pongs. Raises `ConnectionLost`; what arrived before that has been applied or added.
        """
        assert self._socket is not None
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
                where = "" if self.reader.is_between_frames else " in the middle of a frame"
                raise ConnectionLost(f"the exchange closed the connection without a word{where}")
            self.reader.received(count)
            self._take_events(events, now)
            if count < room_bytes and not self._is_tls:
                return False  # that was all; what comes from now on the selector sees
        if self._pong_deadline is not None:
            # The pong may be in what is not read yet. Who brings more than we read is not dead.
            self._pong_deadline = max(self._pong_deadline, now + UNREAD_S)
        return True

    def _take_events(self, events: list[FrameEvent], now: float) -> None:
        received_time_ns = time.time_ns()
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
            # Only the last one needs an answer (RFC 6455, 5.5.3), so a flood of pings costs us nothing.
            self._pong = payload
        elif opcode == Opcode.PONG:
            self._pong_deadline = None
            self.last_pong_at = now
            self.proven_at = self._pinged_at
        elif opcode == Opcode.CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else 1000
            reason = printable(payload[2:].decode(), _REASON_CHARACTERS_MAX)
            self._send_close(code if payload else 1000)
            raise ConnectionLost(f"the exchange closed the connection with code {code} '{reason}'")
        # A binary message is not for us: JSON streams have none.

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

    def _queue(self, opcode: int, payload: bytes | str, now: float) -> None:
        self._pacer.spend(now)
        self._outbox += websocket.ABNF.create_frame(payload, opcode).format()

    # time

    def tick(self, now: float) -> None:
        """Do what is due: pongs first, then pings, then requests. Raises `ConnectionLost` at a deadline."""
        self.has_heard_control = False
        if self._problem is not None:
            raise ConnectionLost(self._problem)
        if self.state is ConnectionState.CONNECTING:
            if now >= self._deadline:
                who = "the name server, the network or the handshake stalls"
                if self._proxy is not None:
                    who = f"the proxy {self._proxy} stalls, or what lies behind it"
                raise ConnectionLost(f"no connection to {self.url} within {self._options.connect_timeout_s} s: {who}")
            return
        if self._pong_deadline is not None and now >= self._pong_deadline:
            raise ConnectionLost(f"no pong within {self._options.ping_timeout_s} s of a ping: the link is dead")
        try:
            self.requests.expire(now)
        except NotAcknowledged as error:
            raise ConnectionLost(str(error)) from None
        while self._next_send(now) <= now:
            self._send_next(now)
        if self._outbox:
            self.flush()

    def _next_send(self, now: float) -> float:
        """Return when something is to be sent next: when it is due, and when it is allowed."""
        due = now if self.requests.has_next else math.inf
        if self._pong is not None:
            due = min(due, self._pong_not_before)
        if self._pong_deadline is None:
            due = min(due, self._ping_due)
        return max(due, self._pacer.earliest(now))

    def _send_next(self, now: float) -> None:
        # A request has its turn after each ping, however short a ping interval the user chose.
        is_ping_due = self._pong_deadline is None and self._ping_due <= now
        if is_ping_due and not (self.requests.has_next and self._was_ping_last):
            self._was_ping_last = True
            self._queue(Opcode.PING, b"", now)
            self._pinged_at = now
            self._pong_deadline = now + self._options.ping_timeout_s
            self._ping_due = now + self._options.ping_interval_s
        elif self._pong is not None and self._pong_not_before <= now:
            self._queue(Opcode.PONG, self._pong, now)
            self._pong = None
            self._pong_not_before = now + PONG_S_MIN
        elif self.requests.has_next:
            self._was_ping_last = False
            message = self.requests.next_message(now)
            if message is not None:
                self._queue(Opcode.TEXT, message, now)

    def next_due(self, now: float) -> float:
        """Return when `tick` has something to do next."""
        if self._problem is not None:
            return now
        if self.state is ConnectionState.CONNECTING:
            return self._deadline
        due = self._next_send(now)
        if self._pong_deadline is not None:
            late_at = self._pinged_at + PONG_LATE_S
            due = min(due, self._pong_deadline, late_at if late_at > now else math.inf)
        return min(due, self.requests.next_due())

    def is_pong_late(self, now: float) -> bool:
        """Whether a ping has waited for its pong for `PONG_LATE_S`."""
        return self._pong_deadline is not None and now - self._pinged_at >= PONG_LATE_S

    # the end

    def mark_failed(self) -> None:
        """The connection has failed: the next one begins with another address of the host, if there is one."""
        if self._proxy is None:
            mark_failed(self._peer)

    def _send_close(self, code: int) -> None:
        """Try to say good-bye; nobody waits for it."""
        if self._socket is None:
            return
        self._outbox += websocket.ABNF.create_frame(code.to_bytes(2, "big"), Opcode.CLOSE).format()
        with contextlib.suppress(ConnectionLost):
            self.flush()

    def say_goodbye(self) -> float:
        """Send a close frame and return how long its answer may be waited for, in seconds."""
        if self.state is not ConnectionState.OPEN:
            return 0.0
        self._send_close(1000)
        return min(self._options.close_timeout_s, CLOSE_S_MAX)

    def close(self) -> None:
        """Release the socket; a connector that is still under way ends by itself. Idempotent."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        if self._socket is not None:
            _shut(self._socket)
            self._socket = None
        else:
            # Wakes a connector that waits for the handshake. It closes the socket itself: were it done here, the number
            # of the descriptor could be another socket's by the time that the connector reads on.
            _shut_down(self._websocket.sock)


def _shut(sock: socket.socket | None) -> None:
    _shut_down(sock)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()


def _shut_down(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):
            # Not SSLSocket's own, which takes the TLS away from under a thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
