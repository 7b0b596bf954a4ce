"""What the tests of the gateway share: exchange, manager and gateway in a row, and a raw HTTP client."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import requests

pytest.importorskip("aiohttp", reason="the gateway needs aiohttp")

from loopback_exchange import PATIENCE_S
from simulator_kit import MARKETS, managed, simulated

from ldc.gateway import Gateway
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.simulator import SimulatedExchange


class Served(NamedTuple):
    """A row of three."""

    exchange: SimulatedExchange
    manager: BinanceLocalDepthCacheManager
    gateway: Gateway
    market: str

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET", **query: Any) -> Any:
        """Ask the gateway by REST."""
        url = self.gateway.restful_base_uri + path
        return requests.request(method, url, params=query, headers=headers, timeout=PATIENCE_S)


@contextlib.contextmanager
def served(
    venue: str = "binance.com",
    markets: tuple[str, ...] | None = None,
    exchange_settings: dict[str, Any] | None = None,
    manager_settings: dict[str, Any] | None = None,
    **gateway_settings: Any,
) -> Iterator[Served]:
    """A paused exchange, a synchronized manager, and a gateway at a free port."""
    names = markets or (MARKETS[venue],)
    with simulated(venue, names, **exchange_settings or {}) as exchange:
        for name in names:
            exchange.pause(name)
            exchange.advance(name, 5)
        with managed(exchange, venue, **manager_settings or {}) as manager:
            manager.create_depth_cache(names)
            moved_until_synchronized(exchange, manager, names)
            with Gateway(manager, port=0, **gateway_settings) as gateway:
                yield Served(exchange, manager, gateway, names[0])


def moved_until_synchronized(
    exchange: SimulatedExchange, manager: BinanceLocalDepthCacheManager, markets: tuple[str, ...]
) -> None:
    """Move the markets until the manager's books stand where the exchange's do.

    A stream without updates would have half a second for its first one, before a snapshot is requested. The id of a
    snapshot may lie past that of the last update.
    """
    update_ids: dict[str, int] = {}

    def is_synchronized() -> bool:
        update_ids.update({market: exchange.advance(market) for market in markets})
        return manager.wait_until_synchronized(timeout=0.02)

    until(is_synchronized)
    for market, update_id in update_ids.items():
        reader = manager.get_depth_cache(market).reader
        until(lambda reader=reader, update_id=update_id: reader.last_update_id >= update_id)


def caught_up(served: Served, market: str | None = None) -> int:
    """Advance the exchange by one update; return where the manager's book stands once it has it.

    A snapshot, such as that of a deepening, may lie past the last update.
    """
    market = market or served.market
    update_id = served.exchange.advance(market)
    reader = served.manager.get_depth_cache(market).reader
    until(lambda: (reader.last_update_id or 0) >= update_id)
    return reader.last_update_id


def deepened(served: Served) -> None:
    """Wait until the book has every level. A deepening changes its horizon, and its times at the same update id."""
    until(lambda: served.manager.get_depth_cache(served.market).reader.bid_horizon is None)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; it must come true."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        time.sleep(0.002)


def raw(gateway: Gateway, *parts: bytes) -> bytes:
    """Send bytes as they are; return all that comes back until the gateway ends the connection."""
    host, _, port = gateway.restful_base_uri.removeprefix("http://").rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        with contextlib.suppress(OSError):  # the gateway may end it before it has read all
            for part in parts:
                connection.sendall(part)
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(1 << 16):
                received += chunk
    return received
