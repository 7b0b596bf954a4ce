"""The embedded exchange with its answers in the hands of a test: markets moved by hand, and every way to misbehave.

Sockets, HTTP, the handshake, frames and request weight are those of `ldc.simulator`. What it says is the test's: books
of its own are the truth by definition (`moved_market`), and `on_handshake`, `on_request`, `on_frame` and `on_rest` are
functions that return what is done instead. They may block: each but `on_handshake` runs in a thread of its own.

Nothing in here sleeps: a test waits for a condition, with `wait_for`.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

from moved_market import Market, Pairs, Recording, TrueBook
from wire_frames import CLOSE, PING, PONG, TEXT, frame

from ldc.simulator import Script, SimulatedExchange
from ldc.simulator.connection import Connection as Link
from ldc.simulator.rest import Reply
from ldc.venues import VENUES

PATIENCE_S = 20.0
"""How long a test waits for what must happen. Generous: a slow machine is no failure."""

EXCHANGES = {"spot": "binance.com", "usdm": "binance.com-futures", "coinm": "binance.com-coin_futures"}

HOLD_CHECK_S = 0.005
HOOKS_AT_ONCE_MAX = 64
NEVER_S = 1e6


@dataclass
class RestRequest:
    """What was requested by REST, and what was answered."""

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


def error_reply(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> RestReply:
    """Return an error as the exchange words it."""
    return RestReply(status, json.dumps({"code": code, "msg": message}).encode(), headers or {})


@dataclass
class Received:
    """One frame that a client sent."""

    time: float
    opcode: int
    payload: bytes


class Connection:
    """One client's websocket, for any thread."""

    def __init__(
        self, exchange: "LoopbackExchange", number: int, link: Link, path: str, headers: dict[str, str]
    ) -> None:
        self.number, self.path, self.headers = number, path, headers
        self.streams: set[str] = set()
        self.received: list[Received] = []
        self.is_deaf = False
        """Half open: what comes is noted, and nothing is answered or sent."""
        self.is_ponging = True
        self.is_open = False
        self.ended = threading.Event()
        self._exchange, self._link = exchange, link

    def send(self, payload: bytes | str, opcode: int = TEXT) -> None:
        """Send a whole message."""
        if not self.is_deaf:
            self.send_raw(frame(payload.encode() if isinstance(payload, str) else payload, opcode))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._exchange.call_soon(lambda: self._link.send_raw(data))

    def trickle(self, data: bytes, interval_s: float) -> None:
        """Send bytes one by one, until the end of them or of the connection."""

        def send_from(place: int) -> None:
            if place < len(data) and not self.ended.is_set():
                self._link.send_raw(data[place : place + 1])
                asyncio.get_running_loop().call_later(interval_s, send_from, place + 1)

        self._exchange.call_soon(lambda: send_from(0))

    def close(self, code: int | None = None, reason: str = "") -> None:
        """End with a close frame, or without a word."""
        if code is not None:
            self.send_raw(frame(code.to_bytes(2, "big") + reason.encode(), CLOSE))
        self._exchange.call_soon(self._link.end)

    def reset(self) -> None:
        """End with a TCP reset."""
        self._exchange.call_soon(self._link.abort)

    def requests(self, method: str | None = None) -> list[dict[str, Any]]:
        """Return the control requests that came."""
        found = [json.loads(message.payload) for message in tuple(self.received) if message.opcode == TEXT]
        return [request for request in found if method is None or request["method"] == method]

    def opcodes(self, opcode: int) -> list[Received]:
        """Return the frames of one kind that came."""
        return [message for message in tuple(self.received) if message.opcode == opcode]


class Hooks(Script):
    """Leads what happens in the exchange's event loop to the hooks of a `LoopbackExchange`."""

    def __init__(self, exchange: "LoopbackExchange") -> None:
        self._exchange = exchange
        self._connections: dict[Link, Connection] = {}

    async def handshake(self, link: Link, request: Any) -> bytes | None:
        exchange = self._exchange
        headers = {key.lower(): value for key, value in request.headers.items()}
        with exchange.changed:
            connection = Connection(exchange, len(exchange.connections) + 1, link, request.path_qs, headers)
            self._connections[link] = connection
            exchange.connections.append(connection)
            exchange.changed.notify_all()
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        right = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        right += f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
        is_found = request.path_qs == exchange.stream_path
        if not is_found:
            right = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        answer = exchange.on_handshake(connection, right.encode())
        if answer is None:
            await link.gone()
            return b""
        return None if is_found and answer == right.encode() else answer

    def opened(self, link: Link) -> None:
        with self._exchange.changed:
            self._connections[link].is_open = True
            self._exchange.changed.notify_all()

    def ended(self, link: Link) -> None:
        if (connection := self._connections.pop(link, None)) is not None:
            connection.is_open = False
            connection.ended.set()
            self._exchange.note()

    async def received(self, link: Link, opcode: int, payload: bytes) -> bool:
        exchange, connection = self._exchange, self._connections[link]
        with exchange.changed:
            connection.received.append(Received(time.monotonic(), opcode, payload))
            exchange.changed.notify_all()
        if connection.is_deaf:
            if opcode == CLOSE:
                await link.gone()
        elif opcode == PING and connection.is_ponging:
            link.send_raw(frame(payload, PONG))
        elif opcode == TEXT:
            await self._answer(connection, link, json.loads(payload))
        return opcode != CLOSE or connection.is_deaf

    async def _answer(self, connection: Connection, link: Link, request: dict[str, Any]) -> None:
        exchange = self._exchange
        if exchange.on_request == exchange.answer:
            # A thread that sees a subscription, and publishes or ends the connection, comes after its acknowledgement.
            with exchange.changed:
                for reply in exchange.answer(connection, request):
                    link.send_raw(frame(reply.encode()))
            return
        for reply in await exchange.in_thread(lambda: list(exchange.on_request(connection, request))):
            connection.send(reply)

    async def rest(self, request: Any, usual: Callable[[Reply | None], Reply]) -> Reply:
        exchange = self._exchange
        limit = int(request.query.get("limit", "100"))
        headers = {key.lower(): value for key, value in request.headers.items()}
        weight = exchange.venue.snapshot_weight(limit)
        noted = RestRequest(time.monotonic(), request.path, request.query.get("symbol", ""), limit, weight, headers)
        with exchange.changed:
            exchange.rest_requests.append(noted)
            exchange.changed.notify_all()
        on_rest = exchange.on_rest
        reply = None if on_rest is None else await exchange.in_thread(lambda: on_rest(noted))
        reply = reply or exchange.depth(noted)
        answered = usual(Reply(reply.status, reply.body, {key.lower(): text for key, text in reply.headers.items()}))
        noted.status = answered.status
        exchange.note()
        if answered.body is reply.body:
            answered.announced_bytes = reply.announced
            if reply.hold is not None:
                answered.hold = lambda: until_set(reply.hold)
        return answered


async def until_set(event: threading.Event) -> None:
    """Wait for another thread's event, at most as long as a test waits."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not event.is_set() and time.monotonic() < give_up_at:  # noqa: ASYNC110 - it is another thread's
        await asyncio.sleep(HOLD_CHECK_S)


class LoopbackExchange:
    """The exchange. One port serves REST and websockets.

    Args:
        kind: "spot", "usdm" or "coinm".
    """

    def __init__(self, kind: str = "spot") -> None:
        self.kind, self.venue = kind, VENUES[EXCHANGES[kind]]
        self.depth_path, self.stream_path = self.venue.depth_path, self.venue.stream_path
        self.markets: dict[str, Market] = {}
        self.connections: list[Connection] = []
        self.rest_requests: list[RestRequest] = []
        self.changed = threading.Condition(threading.RLock())
        self.on_handshake: Callable[[Connection, bytes], bytes | None] = lambda connection, answer: answer
        """Given the right answer, returns what is sent; None: nothing, and the connection stalls."""
        self.on_request: Callable[[Connection, dict[str, Any]], Iterable[bytes | str]] = self.answer
        """Returns the answers to a control request."""
        self.on_frame: Callable[[Connection, str, bytes], Iterable[bytes]] = lambda connection, symbol, payload: (
            payload,
        )
        """Returns what is sent in the place of a depth update."""
        self.on_rest: Callable[[RestRequest], RestReply | None] | None = None
        """Returns what is answered instead, or None."""
        self._threads = ThreadPoolExecutor(HOOKS_AT_ONCE_MAX, thread_name_prefix="exchange")
        self._simulated = SimulatedExchange(venue=self.venue, ping_interval_s=NEVER_S, script=Hooks(self)).start()
        self._server = self._simulated._server
        self.call_soon = self._server.call_soon
        self.restful_base_uri = self._simulated.restful_base_uri
        self.websocket_base_uri = self._simulated.websocket_base_uri

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all threads and connections."""
        self._simulated.stop()
        self._threads.shutdown()

    def refuse_connections(self) -> None:
        """From now on nobody listens."""
        self._server.refuse_connections()

    @property
    def sockets_open(self) -> int:
        """How many TCP connections there are, REST and websocket."""
        return self._server.sockets_open

    @property
    def uris(self) -> dict[str, str]:
        """Keyword arguments for a manager."""
        return {"restful_base_uri": self.restful_base_uri, "websocket_base_uri": self.websocket_base_uri}

    def in_thread(self, work: Callable[[], Any]) -> Any:
        """Run something that may block; return what the event loop awaits."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

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
        """Change a market and tell all who listen (or nobody); return the new update id."""
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
            whole = {"stream": self.stream(symbol), "data": data}
            if is_sent:
                self.publish(symbol, json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode())
        return last

    def publish(self, symbol: str, payload: bytes) -> None:
        """Send bytes to all who listen to a market."""
        stream = self.stream(symbol)
        with self.changed:
            for connection in self.connections:
                if connection.is_open and stream in connection.streams:
                    for part in self.on_frame(connection, symbol, payload):
                        connection.send(part)

    def replay(self, recording: Recording) -> Market:
        """List a recorded market as it was at its snapshot. `step` then brings its updates."""
        start = recording.snapshot
        market = Market(recording.symbol, start["lastUpdateId"], start["bids"], start["asks"])
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
            lambda: len(self.connections) >= number and self.connections[number - 1].is_open, f"connection {number}"
        )
        return self.connections[number - 1]

    def subscribed(self, symbol: str = "BTCUSDT", number: int = 1) -> Connection:
        """Wait until a connection has subscribed a market, and return it."""
        connection = self.connection(number)
        self.wait_for(lambda: self.stream(symbol) in connection.streams, f"a subscription of {symbol}")
        return connection

    def connection_of(self, symbol: str, *, after: int = 0) -> Connection:
        """Wait for an open websocket that has subscribed a market, of a number above `after`; return the first one."""

        def found() -> list[Connection]:
            stream = self.stream(symbol)
            return [each for each in self.connections[after:] if each.is_open and stream in each.streams]

        with self.changed:
            self.wait_for(found, f"a connection after number {after} that has subscribed {symbol}")
            return found()[0]

    def resubscribed(self, previous: Connection) -> Connection:
        """Wait until later websockets have subscribed all that this one had, and return the last of them."""
        symbols = [symbol for symbol in self.markets if self.stream(symbol) in previous.streams]
        assert symbols, f"connection {previous.number} had subscribed nothing"
        return [self.connection_of(symbol, after=previous.number) for symbol in symbols][-1]

    def requests_of(self, symbol: str) -> list[RestRequest]:
        """Return the snapshots requested of a market."""
        return [request for request in tuple(self.rest_requests) if request.symbol == symbol]

    def answer(self, connection: Connection, request: dict[str, Any]) -> list[str]:
        """Do what a control request says; return the acknowledgement."""
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

    def depth(self, request: RestRequest) -> RestReply:
        """Return what a request for a snapshot is answered with."""
        if request.path != self.depth_path:
            return RestReply(404, b"<html>no such page</html>")
        with self.changed:
            if request.symbol not in self.markets:
                return error_reply(400, -1121, "Invalid symbol.")
            return RestReply(200, self.snapshot(request.symbol, request.limit))
