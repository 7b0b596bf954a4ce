"""Push for everybody: events (SSE) and a plain websocket. A message is a book's latest state, or why there is none.

By the policy "changes" a websocket gets the whole book and then its changes: see `ldc.gateway.changes`.

    {"market":"BTCUSDT","state":"SYNCHRONIZED","id":7,"E":8,"bids":[["1.50","2"]],"asks":[...],"bidHorizon":"1.20"}
    {"market":"BTCUSDT","state":"OUT_OF_SYNC","cause":"GAP","message":"..."}

Rule 1: the state is in every message, so that nobody shows levels of a book that cannot be read.
"""

import json
from collections.abc import Hashable, Mapping

import ldc
from ldc.gateway.books import Books
from ldc.gateway.changes import Changes, loss_text
from ldc.gateway.channels import Channel, Hub
from ldc.gateway.listeners import Listener
from ldc.wire.streams import framed

LEVELS_MAX = 1000
"""Levels a side of a message; more are cut to these."""

LEVELS = 20
"""Levels a side without a request for another number."""

INTERVAL_S = 0.1
"""Seconds between two messages of a market at least."""

SUBSCRIPTIONS_MAX = 200
"""Markets of one websocket. A request for more is answered with an error."""

EVENTS, WEBSOCKET = "events", "websocket"
"""The forms."""


class Push:
    """Makes the channels. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, hub: Hub, changes: Changes) -> None:
        self._books, self._hub, self.changes = books, hub, changes

    def listen(self, symbol: str, levels: int, listener: Listener, form: str) -> None:
        """Add a listener to the latest state of a market."""
        self._hub.listen(("push", symbol, levels), listener, form, lambda: self._channel(symbol, levels))

    def forget(self, symbol: str, levels: int, listener: Listener) -> None:
        """Remove a listener from the latest state of a market."""
        self._hub.forget(("push", symbol, levels), listener)

    def symbol(self, market: str) -> str:
        """Return the symbol of a market; raise ``ValueError`` for a text that cannot be one."""
        return self._books.venue.normalized_market(market)

    def _channel(self, symbol: str, levels: int) -> Channel:
        market = json.dumps(symbol, ensure_ascii=False)

        def render(texts: ldc.BookTexts) -> str:
            horizons = "".join([f',"{name}":{edge}' for name, edge in texts.horizons(None).items()])
            times = f'"E":{json.dumps(texts.event_time_ms)},"received_ns":{json.dumps(texts.received_time_ns)}'
            head = f'"market":{market},"state":"SYNCHRONIZED","id":{texts.last_update_id},{times}'
            return f'{{{head},"bids":{texts.bids},"asks":{texts.asks}{horizons}}}'

        def render_loss(error: ldc.DepthCacheError) -> str:
            return loss_text(symbol, error.cause, error.message)

        return Channel(self._books, symbol, levels, INTERVAL_S, lambda: render, render_loss, _encoded)


def _encoded(text: str, form: Hashable) -> bytes:
    payload = text.encode()
    return framed(payload) if form == WEBSOCKET else event(b"data: " + payload + b"\n\n")


def event(text: bytes) -> bytes:
    """Return a part of an answer whose end is open: a chunk, as HTTP/1.1 has it."""
    return b"%x\r\n%b\r\n" % (len(text), text)


def clamped_levels(text: object) -> int:
    """Return a number of levels from a request; raise ``ValueError`` for a text that is none."""
    levels = int(str(text))
    if levels < 1:
        raise ValueError("levels is 1 or more")
    return min(levels, LEVELS_MAX)


class PushSession:
    """The markets of one websocket.

    Requests: {"subscribe": [markets], "policy": "latest", "levels": 20}, {"unsubscribe": [markets]}.
    """

    def __init__(self, push: Push) -> None:
        self._push = push
        self._markets: dict[str, int | None] = {}
        """With their levels; None: by the policy "changes"."""

    def text(self, listener: Listener, text: str) -> None:
        """Execute a request; answer only a wrong one."""
        try:
            self._execute(listener, json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            answer = json.dumps({"error": f"the request cannot be executed: {error}"}, ensure_ascii=False)
            listener.send(framed(answer.encode()))

    def _execute(self, listener: Listener, request: object) -> None:
        if not isinstance(request, dict) or not {"subscribe", "unsubscribe"} & request.keys():
            raise ValueError("a request is an object with subscribe or unsubscribe")
        levels = _requested_levels(request)
        for symbol in self._symbols(request.get("unsubscribe", [])):
            self._drop(symbol, listener)
        wanted = self._symbols(request.get("subscribe", []))
        if len(self._markets.keys() | set(wanted)) > SUBSCRIPTIONS_MAX:
            raise ValueError(f"a connection has at most {SUBSCRIPTIONS_MAX} markets")
        for symbol in wanted:
            self._drop(symbol, listener)
            self._markets[symbol] = levels
            if levels is None:
                self._push.changes.listen(symbol, listener)
            else:
                self._push.listen(symbol, levels, listener, WEBSOCKET)

    def _symbols(self, markets: object) -> list[str]:
        if not isinstance(markets, list):
            raise TypeError("subscribe and unsubscribe are lists of markets")
        return [self._push.symbol(market) for market in markets]

    def _drop(self, symbol: str, listener: Listener) -> None:
        if symbol not in self._markets:
            return
        levels = self._markets.pop(symbol)
        if levels is None:
            self._push.changes.forget(symbol, listener)
        else:
            self._push.forget(symbol, levels, listener)

    def ended(self, listener: Listener) -> None:
        """Unsubscribe everything."""
        for symbol in list(self._markets):
            self._drop(symbol, listener)


def _requested_levels(request: Mapping[str, object]) -> int | None:
    """Return the levels a side of a request; None: it wants the policy "changes", which has all."""
    policy = request.get("policy", "latest")
    if policy == "latest":
        return clamped_levels(request.get("levels", LEVELS))
    if policy != "changes":
        raise ValueError("policy is latest or changes")
    if "levels" in request:
        raise ValueError("the policy changes has all levels; leave levels out")
    return None
