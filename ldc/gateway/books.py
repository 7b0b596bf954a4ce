"""The books of a manager as the gateway serves them: their texts, and why one cannot be served."""

import json
from collections.abc import Iterator

import ldc
from ldc.gateway.reply import Reply, error_reply, json_reply
from ldc.wire.families import rows_of
from ldc.wire.requests import Refused
from ldc.wire.texts import Tops, snapshot_text

OUT_OF_SYNC_CODE = -1001
"""The exchange's code for "try again"."""

RETRY_AFTER_S = 1
"""Seconds that a client is advised to wait for a book that is being synchronized."""


class Books:
    """The books of a manager. Belongs to the thread of the gateway's event loop."""

    def __init__(self, manager: ldc.BinanceLocalDepthCacheManager) -> None:
        self.manager = manager
        self.venue, self.family = rows_of(manager.exchange)

    def cache(self, symbol: str) -> ldc.DepthCache:
        """Return the depth cache of a market; raise `DepthCacheNotFound` or `DepthCacheAlreadyStopped`."""
        return self.manager.get_depth_cache(symbol)

    def symbols(self) -> Iterator[tuple[str, ldc.DepthCache]]:
        """Return the symbol and the depth cache of each market of the gateway's exchange, in order of creation."""
        for market in self.manager.get_list_of_depth_caches():
            try:
                cache = self.manager.get_depth_cache(market)
            except ldc.DepthCacheError:  # stopped meanwhile
                continue
            if cache.exchange == self.venue.exchange:
                yield self.venue.normalized_market(market), cache

    def snapshot(self, symbol: str, limit: int) -> bytes:
        """Return the body of a REST snapshot. Raises what the read raises."""
        cache = self.cache(symbol)
        try:
            texts = cache.reader.texts(limit)
        except ldc.DepthCacheError as error:
            raise cache.explain(error) from None
        levels = texts.bids, texts.asks
        horizons = texts.horizons(limit)
        update_id, time_ms = texts.last_update_id, event_time_ms(texts)
        return snapshot_text(self.family, symbol, update_id, time_ms, *levels, horizons).encode()

    def tops(self, symbol: str) -> tuple[Tops, ldc.BookView[str]]:
        """Return the best levels as text, and their view. An empty side has zeros, as at the exchange."""
        cache = self.cache(symbol)
        try:
            view = cache.reader.view(1, number=str)
        except ldc.DepthCacheError as error:
            raise cache.explain(error) from None
        return tops_of(view), view


def tops_of(view: ldc.BookView[str]) -> Tops:
    """Return the best levels of a view whose numbers are text."""
    zero = ("0", "0")
    bid, ask = (side[0] if side else zero for side in (view.bids, view.asks))
    return Tops(str(bid[0]), str(bid[1]), str(ask[0]), str(ask[1]))


def tops_of_texts(texts: ldc.BookTexts) -> Tops:
    """Return the best levels of texts of one level a side."""
    sides = [json.loads(side) or [["0", "0"]] for side in (texts.bids, texts.asks)]
    return Tops(*sides[0][0], *sides[1][0])


def event_time_ms(read: ldc.BookTexts | ldc.BookView[str]) -> int:
    """Return the value of E and T: the exchange's, or when the message arrived."""
    return (read.received_time_ns or 0) // 1_000_000 if read.event_time_ms is None else read.event_time_ms


def refusal_of(error: ldc.DepthCacheError) -> Reply:
    """Return the answer, in the exchange's form, for a book that cannot be read.

    | error | answer |
    | --- | --- |
    | the exchange or the gateway has no such market | 400, -1121, which clients take as permanent |
    | stopped, or out of sync | 503, -1001, Retry-After, and the cause |
    """
    if isinstance(error, ldc.DepthCacheNotFound):
        return of_refused(Refused(-1121, "Invalid symbol."))
    body = {"code": OUT_OF_SYNC_CODE, "msg": error.message, "cause": error.cause, "market": error.market}
    return json_reply(body, 503, {"Retry-After": str(RETRY_AFTER_S)})


def of_refused(refused: Refused) -> Reply:
    """Return the exchange's error for a wrong request."""
    return Reply(refused.status, refused.body)


def not_found() -> Reply:
    """Return the answer for a path that is not served."""
    return error_reply(404, "the gateway serves nothing at this path; /ldc/openapi.json lists all")
