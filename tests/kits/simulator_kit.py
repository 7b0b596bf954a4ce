"""What the tests of the embedded exchange share: a plain websocket client, REST by requests, a strict comparison."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Self

import pytest
import requests
import websocket

pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")

from live_kit import MANAGER_PARAMETERS
from loopback_exchange import PATIENCE_S

from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.simulator import SimulatedExchange
from ldc.venues import VENUES

MARKETS = {
    "binance.com": "BTCUSDT",
    "binance.com-futures": "BTCUSDT",
    "binance.com-coin_futures": "BTCUSD_PERP",
    "binance.com-vanilla-options": "BTC-261225-60000-C",
}


SILENCE_S = 15.0
"""A test fails after so long without a frame. Less than the server's pings take, which would keep it waiting."""


class Client:
    """A websocket client that does nothing by itself. Text is returned parsed, in the order of the keys."""

    def __init__(self, exchange: SimulatedExchange, path: str) -> None:
        self.socket = websocket.WebSocket(fire_cont_frame=False, skip_utf8_validation=False)
        self.socket.connect(exchange.websocket_base_uri + path, timeout=SILENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.shutdown()

    def frame(self) -> tuple[int, bytes]:
        """Return (opcode, payload) of the next frame, whatever it is."""
        opcode, frame = self.socket.recv_data_frame(control_frame=True)
        return opcode, frame.data

    def text(self) -> str:
        """Return the next text, with pings answered."""
        while True:
            opcode, payload = self.socket.recv_data(control_frame=False)
            assert opcode == websocket.ABNF.OPCODE_TEXT, (opcode, payload)
            return payload.decode()

    def message(self, accept: Callable[[Any], object] = lambda _message: True) -> Any:
        """Return the next message that is accepted."""
        while True:
            message = json.loads(self.text())
            if accept(message):
                return message

    def ask(self, method: str | None, params: Any = None, identity: Any = 1) -> Any:
        """Send a request; return the answer to it."""
        request = {"method": method, **({} if params is None else {"params": params}), "id": identity}
        return self.ask_text(json.dumps(request))

    def ask_text(self, text: str) -> Any:
        """Send a text; return the first message that is no event."""
        self.socket.send(text)
        return self.message(lambda message: not {"e", "stream", "lastUpdateId"} & set(message) and "B" not in message)

    def until_end(self) -> tuple[list[tuple[int, bytes]], Exception]:
        """Return all frames up to the end, and how it came."""
        frames = []
        give_up_at = time.monotonic() + PATIENCE_S
        try:
            while time.monotonic() < give_up_at:
                frames.append(self.frame())
            raise AssertionError(f"the connection does not end: {frames[-3:]}")
        except (OSError, websocket.WebSocketConnectionClosedException, websocket.WebSocketTimeoutException) as end:
            return frames, end

    def close_code(self) -> int:
        """Read to the close frame; return its code."""
        while True:
            opcode, payload = self.frame()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(payload[:2], "big")


def get(exchange: SimulatedExchange, path: str, **query: Any) -> requests.Response:
    """Ask by REST."""
    return requests.get(exchange.restful_base_uri + path, params=query, timeout=PATIENCE_S)


def decimals(pairs: Any) -> list[tuple[Decimal, Decimal]]:
    """Return levels as they are printed, exactly."""
    return [(Decimal(price), Decimal(quantity)) for price, quantity in pairs]


class Fold:
    """A book by the rules of the documentation, in two dicts: nothing of ldc in it."""

    def __init__(self, snapshot: Any) -> None:
        self.update_id = snapshot["lastUpdateId"]
        self.sides = {"b": dict(decimals(snapshot["bids"])), "a": dict(decimals(snapshot["asks"]))}

    def apply(self, event: Any) -> None:
        """Take an update in that continues the book."""
        if event["u"] <= self.update_id:
            return
        assert event.get("pu", event["U"] - 1) <= self.update_id
        self.update_id = event["u"]
        for side, levels in self.sides.items():
            for price, quantity in decimals(event[side]):
                if quantity:
                    levels[price] = quantity
                else:
                    levels.pop(price, None)

    @property
    def bids(self) -> tuple[tuple[Decimal, Decimal], ...]:
        """Best first."""
        return tuple(sorted(self.sides["b"].items(), reverse=True))

    @property
    def asks(self) -> tuple[tuple[Decimal, Decimal], ...]:
        """Best first."""
        return tuple(sorted(self.sides["a"].items()))


def stream_path(venue: str) -> str:
    """Return the endpoint of combined streams."""
    return VENUES[venue].stream_path


@contextlib.contextmanager
def simulated(
    venue: str = "binance.com", markets: tuple[str, ...] | None = None, **parameters: Any
) -> Iterator[SimulatedExchange]:
    """An exchange with a market of that venue. It is small, quick, and the same each time."""
    settings = {"seed": 1, "levels": 200, "updates_per_second": 200.0, "start_time_ms": 1_700_000_000_000} | parameters
    with SimulatedExchange(markets or (MARKETS[venue],), venue=venue, **settings) as exchange:
        yield exchange


@contextlib.contextmanager
def managed(exchange: SimulatedExchange, venue: str, **parameters: Any) -> Iterator[BinanceLocalDepthCacheManager]:
    """A manager that talks to it."""
    with BinanceLocalDepthCacheManager(
        venue,
        restful_base_uri=exchange.restful_base_uri,
        websocket_base_uri=exchange.websocket_base_uri,
        **MANAGER_PARAMETERS | parameters,
    ) as manager:
        yield manager


def assert_true(exchange: SimulatedExchange, market: str, view: Any) -> None:
    """A view whose numbers are Decimals is the exchange's book at its id, inside its horizon."""
    true_book = exchange.true_book(market, view.last_update_id)
    for name, horizon in (("bids", view.bid_horizon), ("asks", view.ask_horizon)):
        levels = getattr(true_book, name)
        if horizon is not None:
            edge = Decimal(str(horizon))
            levels = tuple(level for level in levels if (level[0] >= edge if name == "bids" else level[0] <= edge))
        assert getattr(view, name) == levels, f"{name} of {market} at {view.last_update_id}"
