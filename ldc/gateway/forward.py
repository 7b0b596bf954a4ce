"""Reads of markets that another gateway has: in a cluster, the gateway of any node answers for every market.

Rule 1: only a read that names a market which this manager does not keep is passed on, and only once.
Rule 2: the token of the request goes with it: the gateways of a cluster have one token.
Rule 3: streams are not passed on. They belong to the gateway that has the market.
"""

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

import ldc
from ldc.gateway.books import Books
from ldc.gateway.reply import Reply

FORWARDED = "X-LDC-Forwarded"
"""The header of a request that was passed on. Such a request is answered here, whatever the answer is."""

ANSWER_S = 2.0
"""Seconds that the other gateway has."""

BODY_BYTES_MAX = 4 * 2**20
"""Bytes of an answer. 5,000 levels a side have 400 kB. A longer one is refused."""

Elsewhere = Callable[[str], str | None]
"""Returns the base URI of a gateway that has a market; None: there is none."""


class Forward:
    """Passes reads on. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, elsewhere: Elsewhere | None) -> None:
        self._books, self._elsewhere = books, elsewhere
        self._session: aiohttp.ClientSession | None = None

    def place(self, given: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[str, str] | None:
        """Return the market of a request and the base URI of the gateway that has it; None: it is answered here."""
        named = given.get("symbol", given.get("market"))
        if self._elsewhere is None or FORWARDED in headers or not isinstance(named, str):
            return None
        try:
            self._books.cache(named)
        except ldc.DepthCacheNotFound:
            market = self._books.venue.normalized_market(named)
            uri = self._elsewhere(market)
            return None if uri is None else (market, uri)
        except (ldc.DepthCacheError, ValueError):
            pass  # stopped here, or no market at all: the usual answer says so
        return None

    async def answer(
        self, market: str, uri: str, path: str, given: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Reply:
        """Return what the other gateway answers. Raises `DepthCacheOutOfSync` if it does not."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_S), auto_decompress=False)
        sent = {FORWARDED: "1"} | {name: headers[name] for name in ("Authorization",) if name in headers}
        parameters = {name: str(value) for name, value in given.items()}
        try:
            async with self._session.get(
                uri.rstrip("/") + path, params=parameters, headers=sent, allow_redirects=False
            ) as response:
                body = await response.content.readexactly(_length(response))
                kept = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
                return Reply(response.status, body, response.content_type, kept)
        except (aiohttp.ClientError, EOFError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            message = f"The gateway {uri}, which has {market}, does not answer: {reason}; try again."
            raise ldc.DepthCacheOutOfSync(market, "FEEDER_GONE", message) from None

    async def close(self) -> None:
        """Close the connections to other gateways."""
        if self._session is not None:
            await self._session.close()


def _length(response: aiohttp.ClientResponse) -> int:
    """Return how long a body is; raise ``ValueError`` if it is too long, or does not say."""
    length = response.content_length
    if length is None or length > BODY_BYTES_MAX:
        raise ValueError(f"its answer has {length} bytes, and {BODY_BYTES_MAX} are allowed")
    return length
