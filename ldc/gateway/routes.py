"""Which path means what: the checks that every request passes, then the part that answers.

Rule 1: Host before everything, Origin before the token, the token before what it protects.
Rule 2: no path reaches the file system. Files of the page are in a dict, filled at the start.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

import ldc
from ldc.gateway.access import SUBPROTOCOL, Access
from ldc.gateway.binance_streams import BinanceSession, BinanceStreams
from ldc.gateway.books import Books, not_found, refusal_of
from ldc.gateway.changes import Changes
from ldc.gateway.channels import Hub
from ldc.gateway.connections import Connections
from ldc.gateway.diffs import Diffs
from ldc.gateway.exchange_info import ExchangeInfo
from ldc.gateway.forward import Forward
from ldc.gateway.limits import PING_S
from ldc.gateway.listeners import Listener
from ldc.gateway.openapi import document
from ldc.gateway.page import Page
from ldc.gateway.push import EVENTS, LEVELS, Push, PushSession, clamped_levels, event
from ldc.gateway.reply import Reply, error_reply, json_reply
from ldc.gateway.rest import BinanceRest
from ldc.gateway.status import Status
from ldc.gateway.ubdcc import Ubdcc
from ldc.wire.streams import requested_streams

Query = Mapping[str, str]

_EVERY_ANSWER = {
    "Server": "ldc",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

_PUBLIC = frozenset({"/healthz", "/readyz"})
"""Paths that need no token, because probes have none. They name no market. The files of the page need none either."""


@dataclass(slots=True)
class Parts:
    """The parts of a gateway."""

    access: Access
    books: Books
    hub: Hub
    diffs: Diffs
    changes: Changes
    connections: Connections
    rest: BinanceRest
    exchange_info: ExchangeInfo
    status: Status
    page: Page
    ubdcc: Ubdcc
    forward: Forward


class Routes:
    """Answers requests. Belongs to the thread of the gateway's event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._counts = parts.connections.counts
        self._streams = BinanceStreams(parts.books, parts.hub, parts.diffs)
        self._push = Push(parts.books, parts.hub, parts.changes)
        self._answers: dict[str, Callable[[Query], Reply]] = {
            **parts.rest.paths,
            "/healthz": parts.status.health,
            "/readyz": parts.status.readiness,
            "/ldc/status": parts.status.status,
            "/metrics": parts.status.metrics,
            "/ldc/openapi.json": lambda _query: json_reply(document(parts.books.family)),
        }
        self._changes = parts.ubdcc.changes | {"/ldc/session"}
        """Paths that change something."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        connection = self._parts.connections.by_handler.get(request.protocol)
        if connection is None or request.transport is None:
            return web.Response(status=400)  # the client has gone
        connection.request_begins()
        self._counts["requests"] += 1
        try:
            answer = await self._answered(request)
        except (ValueError, TypeError, RecursionError) as error:  # of a URL that aiohttp has let pass, or of a body
            answer = error_reply(400, f"the request cannot be understood: {type(error).__name__}")
        finally:
            connection.request_ends()
        if isinstance(answer, web.StreamResponse):
            return answer
        self._counts[f"status_{answer.status}"] += 1
        headers = {**_EVERY_ANSWER, **answer.headers, "Content-Type": answer.content_type}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _answered(self, request: web.BaseRequest) -> Reply | web.StreamResponse:
        path, method, headers = request.path, request.method, request.headers
        access = self._parts.access
        is_websocket = headers.get("Upgrade", "").lower() == "websocket"
        refusal = access.refused_host(headers.get("Host")) or access.refused_origin(
            method, is_websocket, path in self._changes, headers
        )
        if refusal is None and self._is_too_long(request):
            refusal = error_reply(413, "this path takes no body so long", {"Connection": "close"})
        if refusal is not None:
            return self._refused(refusal)
        if (file := self._parts.page.files.get(path)) is not None and method in ("GET", "HEAD"):
            return file
        subprotocols = [name.strip() for name in headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if path not in _PUBLIC and (refusal := access.refused_token(headers, subprotocols)) is not None:
            return self._refused(refusal)
        if is_websocket:
            return await self._websocket(request, path, SUBPROTOCOL in subprotocols)
        return await self._http(request, path, method)

    def _is_too_long(self, request: web.BaseRequest) -> bool:
        """Whether a body is longer than allowed, or does not say how long it is."""
        length = request.content_length
        return request.body_exists and (length is None or length > self._parts.connections.limits.body_bytes_max)

    def _refused(self, refusal: Reply) -> Reply:
        """Count a refusal."""
        self._counts[f"refused_{refusal.status}"] += 1
        return refusal

    async def _http(self, request: web.BaseRequest, path: str, method: str) -> Reply | web.StreamResponse:
        if path == "/ldc/session":
            return self._session(method)
        ubdcc = self._parts.ubdcc
        if path in ubdcc.calls and method in ("GET", "POST"):
            given = await _parameters(request)
            found = None if path in ubdcc.changes else self._elsewhere(request, path, given)
            return await (ubdcc.answer(path, given) if found is None else found)
        if method not in ("GET", "HEAD"):
            return error_reply(405, "this path is read with GET", {"Allow": "GET, HEAD"})
        if (answers := self._answers.get(path)) is not None:
            found = self._elsewhere(request, path, request.query) if path in self._parts.rest.paths else None
            return answers(request.query) if found is None else await found
        if path.startswith("/ldc/events/"):
            return await self._events(request, path.removeprefix("/ldc/events/"))
        is_info = path == self._parts.rest.exchange_info_path
        return await self._parts.exchange_info.answer(request.query) if is_info else not_found()

    def _elsewhere(self, request: web.BaseRequest, path: str, given: Query) -> Awaitable[Reply] | None:
        """Return the answer of the gateway that has the market of a read; None: it is answered here."""
        forward, headers = self._parts.forward, request.headers
        place = forward.place(given, headers)
        if place is None:
            return None

        async def answer() -> Reply:
            try:
                return await forward.answer(*place, path, given, headers)
            except ldc.DepthCacheOutOfSync as error:
                is_call = path in self._parts.ubdcc.calls
                return self._parts.ubdcc.refused(path, error) if is_call else refusal_of(error)

        return answer()

    def _session(self, method: str) -> Reply:
        """Give a page that has shown the token a cookie, because a browser's websocket can carry no header."""
        if method != "POST":
            return error_reply(405, "a session is begun with POST", {"Allow": "POST"})
        access = self._parts.access
        return Reply(headers={"Set-Cookie": access.cookie} if access.needs_token else {})

    # ------------------------------------------------------------------------------------------ open ends

    async def _websocket(
        self, request: web.BaseRequest, path: str, has_subprotocol: bool
    ) -> Reply | web.StreamResponse:
        query, books = request.query, self._parts.books
        names, is_combined = requested_streams(books.family, path, query)
        if path != "/ldc/ws" and names is None:
            return not_found()
        if query.get("timeUnit", "MILLISECOND").upper() != "MILLISECOND":
            return error_reply(400, "the gateway relays milliseconds, as the exchange has sent them")
        limits = self._parts.connections.limits
        websocket = web.WebSocketResponse(
            autoping=False,
            autoclose=False,
            compress=False,
            max_msg_size=limits.message_bytes_max,
            timeout=0.1,
            protocols=(SUBPROTOCOL,) if has_subprotocol else (),
        )
        await websocket.prepare(request)
        self._counts["websockets"] += 1
        listener = self._listener(request)
        if names is None:
            await listener.serve(websocket, PushSession(self._push))
            return websocket
        session = BinanceSession(self._streams, listener, is_combined)
        if session.subscribe(names):
            await listener.serve(websocket, session)
        else:
            await listener.refuse(websocket, 1008, "Too many streams")
        return websocket

    async def _events(self, request: web.BaseRequest, market: str) -> Reply | web.StreamResponse:
        try:
            symbol, levels = self._push.symbol(market), clamped_levels(request.query.get("levels", LEVELS))
            self._parts.books.cache(symbol)
        except ldc.DepthCacheError as error:
            return refusal_of(error)
        except ValueError as error:
            return error_reply(400, f"the request cannot be understood: {error}")
        headers = {**_EVERY_ANSWER, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._counts["events"] += 1
        listener = self._listener(request)
        self._push.listen(symbol, levels, listener, EVENTS)
        try:
            await listener.serve_events(event(b": alive\n\n"), PING_S)
        finally:
            self._push.forget(symbol, levels, listener)
        return response

    def _listener(self, request: web.BaseRequest) -> Listener:
        connections = self._parts.connections
        connections.by_handler[request.protocol].lives_on()
        assert isinstance(request.transport, asyncio.Transport)
        return Listener(request.transport, connections.limits, self._counts)


async def _parameters(request: web.BaseRequest) -> Query:
    """Return the parameters of a call: of the URL, and of a body of JSON. Its length was checked before."""
    body = await request.read() if request.body_exists else b""
    given = json.loads(body) if body else {}
    if not isinstance(given, dict):
        raise TypeError("a body is an object of JSON")
    return {**request.query, **given}
