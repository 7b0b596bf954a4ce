"""What the gateway says about the books and about itself, as values for JSON.

Rule 1: `/healthz` says whether the process works, `/readyz` whether the books can be read: so that nobody restarts a
    process because the exchange is away.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ldc
from ldc.gateway.books import Books
from ldc.gateway.limits import STATUS_AGE_S
from ldc.gateway.reply import Reply, json_reply


class Status:
    """Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, counts: Counter[str], started_ms: int) -> None:
        self._books, self._counts, self._started_ms = books, counts, started_ms
        self._kept: tuple[float, Reply] | None = None

    def health(self, _query: Mapping[str, str]) -> Reply:
        """Return 200 while the manager is not stopped. That this answers at all says the rest."""
        is_stopped = self._books.manager.is_stop_request()
        return json_reply({"status": "stopped" if is_stopped else "ok"}, 503 if is_stopped else 200)

    def readiness(self, query: Mapping[str, str]) -> Reply:
        """Return 200 if all books can be read, or that of `market`; otherwise 503."""
        if "market" in query:
            try:
                is_ready = self._books.cache(query["market"]).is_synchronized
            except ldc.DepthCacheError:
                is_ready = False
            return json_reply({"ready": is_ready}, 200 if is_ready else 503)
        progress = self._books.manager.get_progress()
        is_ready = 0 < progress.total == progress.synchronized
        counts = {"synchronized": progress.synchronized, "total": progress.total, "failed": progress.failed}
        return json_reply({"ready": is_ready, **counts}, 200 if is_ready else 503)

    def status(self, query: Mapping[str, str]) -> Reply:
        """Return the status of all markets and of the gateway, or of one `market`."""
        if "market" in query:
            try:
                return json_reply(market_status(self._books.cache(query["market"])))
            except ldc.DepthCacheError as error:
                return json_reply({"code": 404, "msg": error.message, "cause": error.cause}, 404)
        now = time.monotonic()
        if self._kept is None or now - self._kept[0] > STATUS_AGE_S:
            self._kept = now, json_reply(self._everything())
        return self._kept[1]

    def _everything(self) -> dict[str, Any]:
        manager = self._books.manager
        return {
            "exchange": manager.exchange,
            "version": ldc.__version__,
            "implementation": ldc.IMPLEMENTATION,
            "time_ms": time.time_ns() // 1_000_000,
            "started_ms": self._started_ms,
            "progress": manager.get_progress()._asdict(),
            "markets": [market_status(cache) for _, cache in self._books.symbols()],
            "gateway": dict(sorted(self._counts.items())),
        }


def market_status(cache: ldc.DepthCache) -> dict[str, Any]:
    """Return a depth cache's status with the decimals of its numbers, without its addresses."""
    status = cache.status()
    fields = status._asdict()
    del fields["progress"], fields["exchange"]
    fields["counters"] = status.counters._asdict()
    fields["connections"] = [
        {key: value for key, value in each._asdict().items() if key != "url"} for each in status.connections
    ]
    return fields | {"price_decimals": cache.reader.price_decimals, "quantity_decimals": cache.reader.quantity_decimals}
