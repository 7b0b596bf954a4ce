"""A scripted exchange on the loopback interface: real sockets, Binance's wire protocol, and every way to misbehave.

It keeps its own books (dicts of Decimals, nothing shared with ldc), so what it says is the truth by definition. Its
websocket side is written by hand, because a library would refuse to break the protocol. What it does can be replaced
per test: `on_handshake`, `on_request`, `on_frame` and `on_rest` are functions that return what is done instead.

Nothing in here sleeps: whoever wants to know waits for a condition, with `wait_for`.
"""

import base64
import contextlib
import gzip
import hashlib
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

PATIENCE_S = 20.0
"""How long a test waits for what must happen. Generous: a slow machine is no failure."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Levels = dict[Decimal, Decimal]
Pairs = Iterable[tuple[str, str]]


def frame(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, reserved: int = 0, masked: bool = False,
    length: int | None = None,
) -> bytes:  # fmt: skip
    """Return a websocket frame as a server sends it, or as none may: with reserved bits, a mask, a false length."""
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | reserved << 4 | opcode])
    mask_bit = masked << 7
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65_536:
        head += bytes([mask_bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


@dataclass
class TrueBook:
    """A book at one update id."""

    last_update_id: int
    bids: Levels
    asks: Levels

    def side(self, name: str) -> list[tuple[Decimal, Decimal]]:
        """Return a side, best first."""
        levels = self.bids if name == "bids" else self.asks
        return sorted(levels.items(), reverse=name == "bids")


class Market:
    """One market: its book, and how it came to be so."""

    CHECKPOINT_EVERY = 128

    def __init__(self, symbol: str, last_update_id: int, bids: Pairs, asks: Pairs) -> None:
        self.symbol = symbol
        self.book = TrueBook(last_update_id, _levels(bids), _levels(asks))
        self.recording: Iterator[tuple[int, bytes]] = iter(())
        self._updates: list[tuple[int, list[tuple[str, str]], list[tuple[str, str]]]] = []
        self._checkpoints = [self._copy()]

    def _copy(self) -> TrueBook:
        return TrueBook(self.book.last_update_id, dict(self.book.bids), dict(self.book.asks))

    def apply(self, last_update_id: int, bids: Pairs, asks: Pairs) -> None:
        """Change the book. Quantities are absolute; zero removes."""
        update = last_update_id, list(bids), list(asks)
        self._updates.append(update)
        _apply(self.book, update)
        if len(self._updates) % self.CHECKPOINT_EVERY == 0:
            self._checkpoints.append(self._copy())

    def at(self, update_id: int) -> TrueBook:
        """Return the book as it was at an update id at which it stood; KeyError for any other."""
        known = [place for place, checkpoint in enumerate(self._checkpoints) if checkpoint.last_update_id <= update_id]
        if not known:
            raise KeyError(update_id)
        start = self._checkpoints[known[-1]]
        book = TrueBook(start.last_update_id, dict(start.bids), dict(start.asks))
        for update in self._updates[known[-1] * self.CHECKPOINT_EVERY :]:
            if update[0] > update_id:
                break
            _apply(book, update)
        if book.last_update_id != update_id:
            raise KeyError(update_id)
        return book


def _levels(pairs: Pairs) -> Levels:
    return {Decimal(price): Decimal(quantity) for price, quantity in pairs}


def _apply(book: TrueBook, update: tuple[int, Pairs, Pairs]) -> None:
    book.last_update_id = update[0]
    for levels, changes in ((book.bids, update[1]), (book.asks, update[2])):
        for price, quantity in changes:
            amount = Decimal(quantity)
            if amount:
                levels[Decimal(price)] = amount
            else:
                levels.pop(Decimal(price), None)


@dataclass
class Recording:
    """A recorded market from its snapshot on: updates as they came, and tops of the book by update id."""

    symbol: str
    snapshot: dict[str, Any]
    updates: list[tuple[int, bytes]]
    tops: dict[int, tuple[float, float, float, float]]

    @classmethod
    def read(cls, *paths: Path) -> "Recording":
        """Read files that continue one another."""
        snapshot: dict[str, Any] = {}
        updates, tops, symbol = [], {}, ""
        for path in paths:
            for line in gzip.decompress(path.read_bytes()).splitlines():
                payload = line.split(b" ", 1)[1].rstrip()
                if payload.startswith(b'{"lastUpdateId"'):
                    snapshot = snapshot or json.loads(payload)
                elif b"@depth" in payload[:60]:
                    event = json.loads(payload)["data"]
                    symbol = event["s"]
                    stream_end = payload.index(b'"', 11)
                    updates.append(
                        (event["u"], b'{"stream":"%s@depth@100ms' % symbol.lower().encode() + payload[stream_end:])
                    )
                elif b"@bookTicker" in payload[:60]:
                    ticker = json.loads(payload)["data"]
                    tops[ticker["u"]] = tuple(float(ticker[key]) for key in "bBaA")
        assert snapshot, f"there is no snapshot in {paths}"
        first = snapshot["lastUpdateId"]
        return cls(symbol, snapshot, [update for update in updates if update[0] > first], tops)


@dataclass
class RestRequest:
    """What was asked for by REST, and what was answered."""

    time: float
    path: str
    symbol: str
    limit: int
    weight: int
    headers: dict[str, str]
    status: int = 0


@dataclass
class RestReply:
    """An answer. `announced` is a false Content-Length, `hold` keeps the body back until it is set."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    hold: threading.Event | None = None


@dataclass
class Received:
    """One frame that a client sent."""

    time: float
    opcode: int
    payload: bytes


class Connection:
    """One client's websocket."""

    def __init__(self, exchange: "LoopbackExchange", number: int, sock: socket.socket, path: str) -> None:
        self.number = number
        self.path = path
        self.headers: dict[str, str] = {}
        self.streams: set[str] = set()
        self.received: list[Received] = []
        self.is_deaf = False
        self.is_ponging = True
        """Half open: whatever comes is noted, and nothing is answered or sent."""
        self.is_open = False
        self.ended = threading.Event()
        self._exchange = exchange
        self._is_reset = False
        self._socket = sock
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, payload: bytes | str, opcode: int = TEXT) -> None:
        """Send a whole message."""
        if not self.is_deaf:
            self.send_raw(frame(payload.encode() if isinstance(payload, str) else payload, opcode))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, whatever they are."""
        self._outgoing.put(data)

    def trickle(self, data: bytes, interval_s: float) -> None:
        """Send bytes one by one, in a thread of its own, until the end of them or of the connection."""

        def run() -> None:
            for byte in data:
                self.send_raw(bytes([byte]))
                if self.ended.wait(interval_s):
                    return

        self._exchange.start(run)

    def close(self, code: int | None = None, reason: str = "") -> None:
        """End with a close frame, or without a word."""
        if code is not None:
            self.send_raw(frame(code.to_bytes(2, "big") + reason.encode(), CLOSE))
        self._outgoing.put(None)

    def reset(self) -> None:
        """End with a TCP reset."""
        # The reset goes out when the last thread has let go of the socket; so the reader is woken, and nothing is said.
        self._is_reset = True
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.shutdown(socket.SHUT_RD)

    def requests(self, method: str | None = None) -> list[dict[str, Any]]:
        """Return the control requests that came."""
        found = [json.loads(message.payload) for message in tuple(self.received) if message.opcode == TEXT]
        return [request for request in found if method is None or request["method"] == method]

    def opcodes(self, opcode: int) -> list[Received]:
        """Return the frames of one kind that came."""
        return [message for message in tuple(self.received) if message.opcode == opcode]

    # inside

    def _serve(self, reader: Any) -> None:
        self._exchange.start(self._write)
        try:
            while True:
                message = self._read_frame(reader)
                with self._exchange.changed:
                    self.received.append(message)
                    self._exchange.changed.notify_all()
                if not self.is_deaf:
                    self._react(message)
                if message.opcode == CLOSE and not self.is_deaf:
                    return
        except (OSError, EOFError, ValueError):
            return
        finally:
            self.is_open = False
            self._outgoing.put(None)
            self.ended.set()
            self._exchange.note()

    def _read_frame(self, reader: Any) -> Received:
        first, second = _exactly(reader, 2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(_exactly(reader, 2 if length == 126 else 8), "big")
        assert second & 0x80, "a client must mask its frames"
        mask = _exactly(reader, 4)
        masked = _exactly(reader, length)
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
        return Received(time.monotonic(), first & 0x0F, payload)

    def _react(self, message: Received) -> None:
        if message.opcode == PING and self.is_ponging:
            self.send(message.payload, PONG)
        elif message.opcode == CLOSE:
            self.close(1000)
        elif message.opcode == TEXT:
            exchange = self._exchange
            # Who sees a subscription, and publishes or ends the connection, comes after its acknowledgement; unless a
            # test answers in its own way, which may block.
            with exchange.changed if exchange.on_request == exchange.answer else contextlib.nullcontext():
                for reply in exchange.on_request(self, json.loads(message.payload)):
                    self.send(reply)

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (data := self._outgoing.get()) is not None:
                self._socket.sendall(data)
        if not self._is_reset:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _exactly(reader: Any, count: int) -> bytes:
    data: bytes = reader.read(count)
    if len(data) < count:
        raise EOFError
    return data


class LoopbackExchange:
    """The exchange. One port serves REST and websockets.

    Args:
        kind: "spot", "usdm" or "coinm".
        weight_per_minute: as Binance counts it: in fixed minutes, past which it answers 429, and then 418.
    """

    PATHS: ClassVar = {
        "spot": ("/api/v3/depth", "/stream"),
        "usdm": ("/fapi/v1/depth", "/public/stream"),
        "coinm": ("/dapi/v1/depth", "/stream"),
    }
    WEIGHTS: ClassVar = {
        "spot": ((100, 5), (500, 25), (1000, 50), (5000, 250)),
        "usdm": ((50, 2), (100, 5), (500, 10), (1000, 20)),
        "coinm": ((50, 2), (100, 5), (500, 10), (1000, 20)),
    }

    def __init__(self, kind: str = "spot", *, weight_per_minute: int | None = None) -> None:
        self.kind = kind
        self.depth_path, self.stream_path = self.PATHS[kind]
        self.weight_per_minute = weight_per_minute or (6000 if kind == "spot" else 2400)
        self.markets: dict[str, Market] = {}
        self.connections: list[Connection] = []
        self.rest_requests: list[RestRequest] = []
        self.accepted_count = 0
        """TCP connections accepted, REST and websocket."""
        self.changed = threading.Condition(threading.RLock())
        self.on_handshake: Callable[[Connection, bytes], bytes | None] = lambda connection, answer: answer
        """Given the right answer, returns what is sent; None: nothing, and the connection stalls."""
        self.on_request: Callable[[Connection, dict[str, Any]], Iterable[bytes | str]] = self.answer
        """Returns the answers to a control request."""
        self.on_frame: Callable[[Connection, str, bytes], Iterable[bytes]] = lambda connection, symbol, payload: (
            payload,
        )
        """Returns what is sent in the place of a depth update."""
        self.on_rest: Callable[[RestRequest], RestReply | None] = lambda request: None
        """Returns what is answered instead, or None."""
        self._weights: dict[int, int] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._is_stopped = False
        port = self._listener.getsockname()[1]
        self.restful_base_uri = f"http://127.0.0.1:{port}"
        self.websocket_base_uri = f"ws://127.0.0.1:{port}"
        self.start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all threads and connections."""
        self._is_stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.changed:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for connection in self.connections:
            connection.close()
        for thread in list(self._threads):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), f"a thread of the loopback exchange does not end: {thread.name}"

    def refuse_connections(self) -> None:
        """From now on nobody listens."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def uris(self) -> dict[str, str]:
        """Keyword arguments for a manager."""
        return {"restful_base_uri": self.restful_base_uri, "websocket_base_uri": self.websocket_base_uri}

    # what tests do with it

    def wait_for(self, predicate: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Block until something is so; it fails when that takes unreasonably long."""
        with self.changed:
            assert self.changed.wait_for(lambda: bool(predicate()), timeout_s), f"in vain waited for: {what}"

    def note(self) -> None:
        """Something has changed."""
        with self.changed:
            self.changed.notify_all()

    def add_market(self, symbol: str = "BTCUSDT", *, levels: int = 20, last_update_id: int = 1000) -> Market:
        """List a market around 100.00."""
        bids = [(f"{100 - n * 0.01:.2f}", f"{1 + n}.5") for n in range(1, levels + 1)]
        asks = [(f"{100 + n * 0.01:.2f}", f"{2 + n}.25") for n in range(1, levels + 1)]
        with self.changed:
            self.markets[symbol] = market = Market(symbol, last_update_id, bids, asks)
        return market

    def update(
        self, symbol: str = "BTCUSDT", bids: Pairs = (), asks: Pairs = (), *, ids: int = 3, is_sent: bool = True
    ) -> int:
        """Change a market and tell everybody who listens (or nobody); return the new update id."""
        with self.changed:
            market = self.markets[symbol]
            before = market.book.last_update_id
            first = before + (1 if self.kind == "spot" else 7)
            last = first + ids - 1
            bids, asks = list(bids), list(asks)
            market.apply(last, bids, asks)
            data: dict[str, Any] = {
                "e": "depthUpdate",
                "E": int(time.time() * 1000),
                "s": symbol,
                "U": first,
                "u": last,
            }
            if self.kind != "spot":
                data["pu"] = before
            data |= {"b": [list(pair) for pair in bids], "a": [list(pair) for pair in asks]}
            payload = json.dumps(
                {"stream": self.stream(symbol), "data": data}, separators=(",", ":"), ensure_ascii=False
            )
            if is_sent:
                self.publish(symbol, payload.encode())
        return last

    def publish(self, symbol: str, payload: bytes) -> None:
        """Send bytes to everybody who listens to a market."""
        stream = self.stream(symbol)
        with self.changed:
            for connection in self.connections:
                if connection.is_open and stream in connection.streams:
                    for part in self.on_frame(connection, symbol, payload):
                        connection.send(part)

    def replay(self, recording: Recording) -> Market:
        """List a recorded market as it was at its snapshot. `step` then brings its updates."""
        market = Market(
            recording.symbol, recording.snapshot["lastUpdateId"], recording.snapshot["bids"], recording.snapshot["asks"]
        )
        market.recording = iter(recording.updates)
        with self.changed:
            self.markets[recording.symbol] = market
        return market

    def step(self, symbol: str) -> int | None:
        """Bring the next recorded update; return its id, or None at the end."""
        with self.changed:
            market = self.markets[symbol]
            following = next(market.recording, None)
            if following is None:
                return None
            last_update_id, payload = following
            event = json.loads(payload)["data"]
            market.apply(last_update_id, event["b"], event["a"])
            self.publish(symbol, payload)
            return last_update_id

    def true_book(self, symbol: str, update_id: int) -> TrueBook:
        """Return a market's book as it was at an update id; KeyError for one at which it never stood."""
        with self.changed:
            return self.markets[symbol].at(update_id)

    def stream(self, symbol: str) -> str:
        """Return the name of a market's fastest stream."""
        return f"{symbol.lower()}@depth@100ms"

    def connection(self, number: int = 1) -> Connection:
        """Wait for the websocket of that number, counted from 1, to be open, and return it."""
        self.wait_for(
            lambda: (len(self.connections) >= number and self.connections[number - 1].is_open) or None,
            f"connection {number}",
        )
        return self.connections[number - 1]

    def subscribed(self, symbol: str = "BTCUSDT", number: int = 1) -> Connection:
        """Wait until a connection has subscribed a market, and return it."""
        connection = self.connection(number)
        self.wait_for(lambda: self.stream(symbol) in connection.streams, f"a subscription of {symbol}")
        return connection

    def connection_of(self, symbol: str, *, after: int = 0) -> "Connection":
        """Wait for an open websocket that has subscribed a market, of a number above `after`; return the first one."""

        def found() -> list[Connection]:
            stream = self.stream(symbol)
            return [each for each in self.connections[after:] if each.is_open and stream in each.streams]

        with self.changed:
            self.wait_for(found, f"a connection after number {after} that has subscribed {symbol}")
            return found()[0]

    def resubscribed(self, former: "Connection") -> "Connection":
        """Wait until later websockets have subscribed all that this one had, and return the last of them."""
        symbols = [symbol for symbol in self.markets if self.stream(symbol) in former.streams]
        assert symbols, f"connection {former.number} had subscribed nothing"
        return [self.connection_of(symbol, after=former.number) for symbol in symbols][-1]

    def requests_of(self, symbol: str) -> list[RestRequest]:
        """Return the snapshots asked for a market."""
        return [request for request in tuple(self.rest_requests) if request.symbol == symbol]

    def answer(self, connection: Connection, request: dict[str, Any]) -> list[str]:
        """Do what a control request asks for; return the acknowledgement."""
        with self.changed:
            change = (
                connection.streams.update if request["method"] == "SUBSCRIBE" else connection.streams.difference_update
            )
            change(request["params"])
            self.changed.notify_all()
        return [json.dumps({"result": None, "id": request["id"]})]

    def snapshot(self, symbol: str, limit: int) -> bytes:
        """Return the body of a snapshot as of now."""
        with self.changed:
            book = self.markets[symbol].book
            sides = {
                name: [[f"{price:f}", f"{quantity:f}"] for price, quantity in book.side(name)[:limit]]
                for name in ("bids", "asks")
            }
            return json.dumps({"lastUpdateId": book.last_update_id, **sides}).encode()

    # inside

    def start(self, target: Callable[..., None], *arguments: Any) -> None:
        """Run something in a thread that `stop` waits for."""
        self._threads = [thread for thread in self._threads if thread.is_alive() or thread.ident is None]
        thread = threading.Thread(target=target, args=arguments, name=f"exchange-{target.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                self.accepted_count += 1
                self._sockets.add(sock)
            self.start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock.makefile("rb") as reader:
                while (head := _read_head(reader)) is not None:
                    target, headers = head
                    if "upgrade" in headers.get("connection", "").lower():
                        self._serve_websocket(sock, reader, target, headers)
                        return
                    if not self._serve_rest(sock, target, headers):
                        return
        except OSError:
            return
        finally:
            with self.changed:
                self._sockets.discard(sock)
            sock.close()

    def _serve_websocket(self, sock: socket.socket, reader: Any, target: str, headers: dict[str, str]) -> None:
        with self.changed:
            connection = Connection(self, len(self.connections) + 1, sock, target)
            connection.headers = headers
            self.connections.append(connection)
            self.changed.notify_all()
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        right = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        right += f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
        if target != self.stream_path:
            right = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        answer = self.on_handshake(connection, right.encode())
        if answer is None:
            with contextlib.suppress(OSError):
                reader.read(1)  # until the client gives up
            connection.ended.set()
            self.note()
            return
        sock.sendall(answer)
        if answer != right.encode() or target != self.stream_path:
            return
        with self.changed:
            connection.is_open = True
            self.changed.notify_all()
        connection._serve(reader)

    def _serve_rest(self, sock: socket.socket, target: str, headers: dict[str, str]) -> bool:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        limit = int(query.get("limit", "100"))
        weight = next((weight for up_to, weight in self.WEIGHTS[self.kind] if limit <= up_to), 0)
        request = RestRequest(time.monotonic(), parts.path, query.get("symbol", ""), limit, weight, headers)
        with self.changed:
            self.rest_requests.append(request)
            minute = int(time.time() // 60)
            self._weights[minute] = used = self._weights.get(minute, 0) + weight
        reply = self.on_rest(request) or self._depth(request, used)
        request.status = reply.status
        self.note()
        length = len(reply.body) if reply.announced is None else reply.announced
        shown = {
            "Date": formatdate(usegmt=True),
            "X-MBX-USED-WEIGHT-1M": str(used),
            "Content-Length": str(length),
            **reply.headers,
        }
        head = (
            f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{key}: {value}\r\n" for key, value in shown.items()) + "\r\n"
        )
        sock.sendall(head.encode())
        if reply.hold is not None:
            reply.hold.wait(PATIENCE_S)
        sock.sendall(reply.body)
        return length == len(reply.body)

    def _depth(self, request: RestRequest, used: int) -> RestReply:
        if used > self.weight_per_minute:
            is_banned = used > 2 * self.weight_per_minute
            return error_reply(418 if is_banned else 429, -1003, "Too many requests.", {"Retry-After": "5"})
        if request.path != self.depth_path:
            return RestReply(404, b"<html>no such page</html>")
        if request.symbol not in self.markets:
            return error_reply(400, -1121, "Invalid symbol.")
        return RestReply(200, self.snapshot(request.symbol, request.limit))


def error_reply(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> RestReply:
    """Return an error as the exchange words it."""
    return RestReply(status, json.dumps({"code": code, "msg": message}).encode(), headers or {})


def _read_head(reader: Any) -> tuple[str, dict[str, str]] | None:
    lines = []
    while (line := reader.readline(65_536)) not in (b"\r\n", b"\n", b""):
        lines.append(line.decode("latin-1").strip())
    if not lines or not line:
        return None
    headers = dict(part.split(": ", 1) for part in lines[1:] if ": " in part)
    return lines[0].split(" ")[1], {key.lower(): value for key, value in headers.items()}
