"""REST in the exchange's dialect: snapshots, best prices, and what clients ask before them.

Rule 1: no socket. A request is its query, an answer is a `Reply`.
"""

import re
import time
from collections.abc import Callable, Mapping

import ldc
from ldc.gateway.books import Books, event_time_ms, of_refused, refusal_of
from ldc.gateway.reply import USED_WEIGHT, Reply, json_reply
from ldc.wire.requests import Refused, depth_request, requested_symbol

Query = Mapping[str, str]


class BinanceRest:
    """Answers requests. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books) -> None:
        self._books = books
        api = books.family.depth_path.removesuffix("depth")
        self.paths: dict[str, Callable[[Query], Reply]] = {
            books.family.depth_path: self._depth,
            f"{api}ping": lambda _query: Reply(headers=USED_WEIGHT),
            f"{api}time": lambda _query: json_reply({"serverTime": time.time_ns() // 1_000_000}, 200, USED_WEIGHT),
        }
        if books.family.rest_ticker:
            self.paths[f"{api}ticker/bookTicker"] = self._book_ticker
        self.exchange_info_path = f"{api}exchangeInfo"

    def _depth(self, query: Query) -> Reply:
        try:
            body = self._books.snapshot(*depth_request(self._books.family, self._books.venue, query))
            return Reply(body=body, headers=USED_WEIGHT)
        except Refused as refused:
            return of_refused(refused)
        except ldc.DepthCacheError as error:
            return refusal_of(error)

    def _book_ticker(self, query: Query) -> Reply:
        """Return one market's best prices, or those of all that can be read."""
        family = self._books.family
        try:
            if "symbol" in query:
                ticker = self._ticker(requested_symbol(query))
                return json_reply([ticker] if family.rest_ticker_is_list else ticker, 200, USED_WEIGHT)
            if "symbols" in query:
                tickers = [self._ticker(name) for name in re.findall(r'"([^"]*)"', query["symbols"])]
                return json_reply(tickers, 200, USED_WEIGHT)
        except Refused as refused:
            return of_refused(refused)
        except ldc.DepthCacheError as error:
            return refusal_of(error)
        readable = [symbol for symbol, cache in self._books.symbols() if cache.is_synchronized]
        tickers = []
        for symbol in readable:
            try:
                tickers.append(self._ticker(symbol))
            except ldc.DepthCacheError:  # lost meanwhile
                continue
        return json_reply(tickers, 200, USED_WEIGHT)

    def _ticker(self, symbol: str) -> dict[str, object]:
        tops, view = self._books.tops(symbol)
        values = {
            "lastUpdateId": view.last_update_id,
            "symbol": symbol,
            "pair": symbol.partition("_")[0],
            "bidPrice": tops.bid,
            "bidQty": tops.bid_quantity,
            "askPrice": tops.ask,
            "askQty": tops.ask_quantity,
            "time": event_time_ms(view),
        }
        return {key: values[key] for key in self._books.family.rest_ticker}
