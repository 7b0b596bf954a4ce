"""The REST side: the answer to each request, in the exchange's words.

Rule 1: no socket. A request is a path and a query, an answer is a `Reply`.
Rule 2: the weight of every request is counted and reported, whatever the answer.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ldc.simulator.exchange_info import exchange_info
from ldc.simulator.faults import Fault, Place
from ldc.simulator.limits import Admission, RequestWeight
from ldc.simulator.listing import Listing
from ldc.simulator.markets import Markets, RunningMarket
from ldc.simulator.messages import snapshot_of
from ldc.venues import Venue
from ldc.wire.families import Family
from ldc.wire.requests import Refused, depth_request

STALE_UPDATES = 20
"""Changes of levels that a stale snapshot lacks, about."""

_HTML = b"<html><head><title>exchange</title></head><body><h1>We will be back soon.</h1></body></html>"


@dataclass
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    is_cut: bool = False
    """The connection ends in the middle of the body."""
    announced_bytes: int | None = None
    """A false Content-Length."""
    hold: Callable[[], Awaitable[None]] | None = None
    """Awaited between the head and the body."""


class Rest:
    """Answers requests. Belongs to the thread of the event loop; it reads markets under their lock."""

    def __init__(self, family: Family, venue: Venue, markets: Markets, weight_per_minute: int, ban_s: float) -> None:
        self._family, self._venue, self._markets = family, venue, markets
        self._weight_per_minute, self._ban_s = weight_per_minute, ban_s
        self._weights: dict[str, RequestWeight] = {}
        self._lagging: dict[str, tuple[float, int]] = {}
        self.weight_used = 0
        api = family.depth_path.removesuffix("depth")
        self._answers: dict[str, Callable[[Mapping[str, str]], Reply]] = {
            family.depth_path: self._depth,
            f"{api}exchangeInfo": self._exchange_info,
            f"{api}time": lambda _query: _json({"serverTime": _now_ms()}),
            f"{api}ping": lambda _query: Reply(),
        }

    def answer(
        self, method: str, path: str, query: Mapping[str, str], address: str, replaced: Reply | None = None
    ) -> Reply:
        """Return the answer to a request from that address; `replaced` stands for what would be answered."""
        found = self._answers.get(path) if replaced is None else lambda _query: replaced
        if found is None or method not in ("GET", "HEAD"):
            return Reply(404 if found is None else 405, _HTML, {"Content-Type": "text/html"})
        weight = self._weight(path, query)
        self.weight_used += weight
        counts = self._weights.setdefault(address, RequestWeight(self._weight_per_minute, self._ban_s))
        admission = counts.charge(weight, time.time())
        reply = self._refusal(admission) if admission.status != 200 else self._answered(found, query)
        if reply.status == 418 and admission.status == 200 and replaced is None:
            counts.ban(float(reply.headers["Retry-After"]), time.time())
        for name in self._family.rate_limit_headers:
            reply.headers.setdefault(name, str(admission.used_weight))
        reply.headers.setdefault("Content-Type", "application/json;charset=UTF-8")
        return reply

    @staticmethod
    def _answered(found: Callable[[Mapping[str, str]], Reply], query: Mapping[str, str]) -> Reply:
        try:
            return found(query)
        except Refused as refusal:
            return Reply(refusal.status, refusal.body)

    def _refusal(self, admission: Admission) -> Reply:
        if admission.status == 418:
            text = f"Way too much request weight used; IP banned until {int(admission.banned_until_s * 1000)}. "
            text += "Please use WebSocket Streams for live updates to avoid bans."
        else:
            text = f"Too much request weight used; current limit is {self._weight_per_minute} request weight per "
            text += "1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API."
        reply = _json({"code": -1003, "msg": text})
        return Reply(admission.status, reply.body, {"Retry-After": str(admission.retry_after_s)})

    # ------------------------------------------------------------------------------------------ weights

    def _weight(self, path: str, query: Mapping[str, str]) -> int:
        if path == self._family.depth_path:
            try:
                limit = int(query.get("limit", self._family.default_limit))
            except ValueError:
                return 1
            return self._venue.snapshot_weight(min(max(limit, 1), self._venue.snapshot_limit_max))
        return self._family.exchange_info_weight if path.endswith("exchangeInfo") else 1

    # ------------------------------------------------------------------------------------------ answers

    def _exchange_info(self, query: Mapping[str, str]) -> Reply:
        wanted = [query["symbol"]] if "symbol" in query else None
        if "symbols" in query:
            wanted = re.findall(r'"([^"]*)"', query["symbols"])
        with self._markets.lock:
            listed: list[tuple[Listing, str]] = []
            for listing in self._markets.listed() if wanted is None else map(self._listing, wanted):
                running = self._markets.running.get(listing.symbol)
                listed.append((listing, running.status(time.monotonic()) if running else "TRADING"))
        return _json(exchange_info(self._family, listed, _now_ms(), self._weight_per_minute))

    def _listing(self, symbol: str) -> Listing:
        listing = self._markets.listing(symbol)
        if listing is None:
            raise Refused(-1121, "Invalid symbol.")
        return listing

    def _depth(self, query: Mapping[str, str]) -> Reply:
        symbol, limit = depth_request(self._family, self._venue, query)
        self._listing(symbol)
        with self._markets.lock:
            running = self._markets.run(symbol)
            if running is None:
                raise Refused(-1121, "Invalid symbol.")
            self._check_status(query, running)
            fault = self._markets.faults.take(Place.SNAPSHOT, symbol)
            if fault is None and symbol not in self._lagging:
                return Reply(body=self._snapshot(running, limit))
            return self._faulty(fault, running, limit)

    def _check_status(self, query: Mapping[str, str], running: RunningMarket) -> None:
        wanted = query.get("symbolStatus")
        if self._family.name == "spot" and wanted not in (None, running.status(time.monotonic())):
            raise Refused(-1220, "The symbol does not match the status.")

    def _snapshot(self, running: RunningMarket, limit: int, update_id: int | None = None) -> bytes:
        """Return a snapshot as of now, or as of an earlier update id."""
        market = running.market
        bids, asks = market.bids.top(limit), market.asks.top(limit)
        if update_id is not None:
            bids, asks = (side[:limit] for side in market.sides_at(update_id))
        return snapshot_of(
            self._family, market.listing, update_id or market.last_update_id, market.event_time_ms, bids, asks
        ).encode()

    # ------------------------------------------------------------------------------------------ faults

    def _faulty(self, fault: Fault | None, running: RunningMarket, limit: int) -> Reply:
        symbol, log = running.market.listing.symbol, running.market.log
        if fault is not None and fault.name == "snapshot_lagging":
            self._lagging[symbol] = time.monotonic() + fault.lasts_s, running.market.last_update_id
        until, stands_at = self._lagging.get(symbol, (0.0, 0))
        if time.monotonic() >= until or not log.oldest_update_id <= stands_at <= running.market.last_update_id:
            self._lagging.pop(symbol, None)
        if symbol in self._lagging:
            return Reply(body=self._snapshot(running, limit, stands_at))
        if fault is None:
            return Reply(body=self._snapshot(running, limit))
        if fault.name in ("snapshot_stale", "snapshot_regressed"):
            changes = STALE_UPDATES if fault.name == "snapshot_stale" else None
            return Reply(body=self._snapshot(running, limit, log.update_id_before(changes)))
        if fault.name == "snapshot_wrong_market":
            others = [other for other in self._markets.running.values() if other is not running]
            return Reply(body=self._snapshot(others[0] if others else self._markets.another(symbol), limit))
        body = self._snapshot(running, limit)
        html = {"Content-Type": "text/html"}
        retry_after = {"Retry-After": str(max(1, round(fault.lasts_s)))}
        return {
            "snapshot_cut": Reply(body=body, is_cut=True),
            "snapshot_truncated": Reply(body=body[: len(body) // 2]),
            "snapshot_slow": Reply(body=body, delay_s=fault.lasts_s),
            "snapshot_html": Reply(200, _HTML, html),
            "snapshot_500": Reply(
                500, b'{"code":-1000,"msg":"An unknown error occurred while processing the request."}'
            ),
            "snapshot_503": Reply(503, _HTML, html),
            "snapshot_403": Reply(403, _HTML, html),
            "snapshot_429": Reply(429, b'{"code":-1003,"msg":"Too many requests."}', retry_after),
            "ban": Reply(418, b'{"code":-1003,"msg":"Way too many requests; IP banned."}', retry_after),
        }[fault.name]


def _json(value: object) -> Reply:
    return Reply(body=json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
