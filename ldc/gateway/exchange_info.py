"""The exchange's `exchangeInfo`, fetched once and cut to the markets that the gateway serves.

Rule 1: it is the exchange's own text about each market. If it cannot be fetched, the gateway says so.
Rule 2: one download at a time, whoever asks.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from ldc.gateway.books import Books
from ldc.gateway.limits import EXCHANGE_INFO_BYTES_MAX, EXCHANGE_INFO_S, EXCHANGE_INFO_TIMEOUT_S
from ldc.gateway.reply import USED_WEIGHT, Reply, error_reply, json_reply

_LISTS = ("symbols", "optionSymbols")


class ExchangeInfo:
    """Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, path: str) -> None:
        self._books, self._path = books, path
        self._body: dict[str, Any] | None = None
        self._fetched_at = 0.0
        self._lock = asyncio.Lock()

    async def answer(self, query: Mapping[str, str]) -> Reply:
        """Return it for the markets of the gateway, or for those of them that `symbol` or `symbols` name."""
        try:
            body = await self._current()
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            why = f"exchangeInfo cannot be fetched from the exchange ({type(error).__name__}); try again"
            return error_reply(503, why, {"Retry-After": "5"})
        served = {symbol for symbol, _ in self._books.symbols()}
        if "symbol" in query or "symbols" in query:
            wanted = {query["symbol"]} if "symbol" in query else set(_names(query["symbols"]))
            if wanted - served:
                return json_reply({"code": -1121, "msg": "Invalid symbol."}, 400)
            served = wanted
        cut = {key: [each for each in body[key] if each.get("symbol") in served] for key in _LISTS if key in body}
        return json_reply(body | cut | {"serverTime": time.time_ns() // 1_000_000}, 200, USED_WEIGHT)

    async def _current(self) -> dict[str, Any]:
        async with self._lock:
            now = time.monotonic()
            if self._body is None or now - self._fetched_at > EXCHANGE_INFO_S:
                try:
                    self._body = await self._fetch()
                except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
                    if self._body is None:
                        raise
                self._fetched_at = now
            return self._body

    async def _fetch(self) -> dict[str, Any]:
        manager = self._books.manager
        timeout = aiohttp.ClientTimeout(total=EXCHANGE_INFO_TIMEOUT_S)
        headers = {"User-Agent": manager.get_user_agent()}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session:
            url = manager.restful_base_uris[0] + self._path
            async with session.get(url, allow_redirects=False, raise_for_status=True) as response:
                data = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    data += chunk
                    if len(data) > EXCHANGE_INFO_BYTES_MAX:
                        raise ValueError("exchangeInfo is too long")
        body = json.loads(data)
        if not isinstance(body, dict) or not any(isinstance(body.get(key), list) for key in _LISTS):
            raise ValueError("exchangeInfo has no list of symbols")
        return body


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        return [""]
    return [str(name) for name in names] if isinstance(names, list) else [""]
