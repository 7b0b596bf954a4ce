"""python-binance 1.0.37: a strategy is tested without a network: a stub is the exchange, and an update is lost."""

import asyncio
from typing import Any, Self

from binance import AsyncClient
from binance.ws.depthcache import FuturesDepthCacheManager


class Socket:
    """Sends what the test has written."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages

    async def __aenter__(self) -> Self:
        """Open nothing."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close nothing."""

    async def recv(self) -> dict[str, Any]:
        """Return the next message."""
        return self.messages.pop(0)


class Manager(FuturesDepthCacheManager):
    """A manager on the socket of the test."""

    def _get_socket(self) -> Socket:
        def message(first: int, last: int, bid: str) -> dict[str, Any]:
            data = {"e": "depthUpdate", "E": last, "U": first, "u": last, "pu": first - 1}
            return {"data": data | {"b": [[bid, "1"]], "a": [[str(float(bid) + 1), "1"]]}}

        return Socket([message(1, 2, "100"), message(4, 5, "101")])  # the third is lost


async def main() -> None:
    """Feed the messages, and look at the book."""
    async with Manager(AsyncClient(), "BTCUSDT") as manager:
        await manager.recv()
        cache = await manager.recv()
        assert cache.get_bids()[0][0] == 101.0
        print("the loss was not noticed")


asyncio.run(main())
