"""The REST calls of a depth cache cluster (UBDCC), or of a gateway, as UBLDC's `cluster` has them.

Rule 1: an answer is the server's JSON as it is; `result` is "OK" or "ERROR". Nothing of it enters a book.
Rule 2: what does not arrive is no exception, as in UBLDC: the answer is {"error": why}.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import requests

from ldc.errors import DepthCacheClusterNotReachableError

TIMEOUT_S = 10.0
"""Seconds to connect, and between two bytes; then the answer is an error."""

ANSWER_BYTES_MAX = 64 << 20
"""Bytes of an answer; a longer one is an error."""

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")

Answer = dict[str, Any]


class UbdccCluster:
    """A cluster's REST calls. Thread-safe. Each call has a twin for asyncio: its name with `_async`, run in a thread.

    Args:
        address: the host, without a scheme.
        port: of its REST interface.

    Raises ``ValueError`` for an address that is none, `DepthCacheClusterNotReachableError` if nothing there answers as
    a cluster does.
    """

    def __init__(self, address: str, port: int | None = 80) -> None:
        if not isinstance(address, str) or _HOST.fullmatch(address) is None:
            raise ValueError(f"ubdcc_address must be a host such as 'localhost', without a scheme, not {address!r}")
        port = 80 if port is None else port
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError(f"ubdcc_port must be a port from 1 to 65535, not {port!r}")
        self.address, self.port = address, port
        self.url = f"http://{address}/" if port == 80 else f"http://{address}:{port}/"
        self._threads = threading.local()
        answer = self.get_test()
        if not _is_cluster(answer):
            why = answer.get("error", "the answer to its test is not that of a cluster")
            raise DepthCacheClusterNotReachableError(
                self.url, None, f"The depth cache cluster at {self.url} cannot be reached: {why}."
            )

    # ------------------------------------------------------------------------------------------ reads

    def get_asks(
        self,
        exchange: str,
        market: str,
        limit_count: int | None = None,
        threshold_volume: float | None = None,
        debug: bool = False,
    ) -> Answer:
        """Return {"asks": [[price, quantity], ...]}, best first."""
        return self._call("get_asks", debug, exchange=exchange, market=market, limit_count=limit_count,
                          threshold_volume=threshold_volume)  # fmt: skip

    def get_bids(
        self,
        exchange: str,
        market: str,
        limit_count: int | None = None,
        threshold_volume: float | None = None,
        debug: bool = False,
    ) -> Answer:
        """Return {"bids": [[price, quantity], ...]}, best first."""
        return self._call("get_bids", debug, exchange=exchange, market=market, limit_count=limit_count,
                          threshold_volume=threshold_volume)  # fmt: skip

    def get_book(self, exchange: str, market: str, limit_count: int | None = None, debug: bool = False) -> Answer:
        """Return both sides of one update id. Gateways alone have this call."""
        return self._call("get_book", debug, exchange=exchange, market=market, limit_count=limit_count)

    def get_depthcache_list(self, debug: bool = False) -> Answer:
        """Return the markets of each exchange."""
        return self._call("get_depthcache_list", debug)

    def get_depthcache_info(self, exchange: str, market: str, debug: bool = False) -> Answer:
        """Return the status of a market."""
        return self._call("get_depthcache_info", debug, exchange=exchange, market=market)

    def get_cluster_info(self, debug: bool = False) -> Answer:
        """Return the status of everything."""
        return self._call("get_cluster_info", debug)

    def get_test(self) -> Answer:
        """Return who answers."""
        return self._call("test", False)

    def test_connection(self) -> bool:
        """Return whether a cluster answers."""
        return _is_cluster(self.get_test())

    # ------------------------------------------------------------------------------------------ changes

    def create_depthcache(
        self,
        exchange: str,
        market: str,
        desired_quantity: int | None = None,
        update_interval: int | None = None,
        refresh_interval: int | None = None,
        debug: bool = False,
    ) -> Answer:
        """Create a depth cache there."""
        return self._post("create_depthcache", debug, exchange=exchange, market=market,
                          desired_quantity=desired_quantity, update_interval=update_interval,
                          refresh_interval=refresh_interval)  # fmt: skip

    def create_depthcaches(
        self,
        exchange: str,
        markets: Iterable[str],
        desired_quantity: int | None = None,
        update_interval: int | None = None,
        refresh_interval: int | None = None,
        debug: bool = False,
    ) -> Answer:
        """Create depth caches there."""
        return self._post("create_depthcaches", debug, exchange=exchange, markets=list(markets),
                          desired_quantity=desired_quantity, update_interval=update_interval,
                          refresh_interval=refresh_interval)  # fmt: skip

    def stop_depthcache(self, exchange: str, market: str, debug: bool = False) -> Answer:
        """Stop a depth cache there."""
        return self._call("stop_depthcache", debug, exchange=exchange, market=market)

    # ------------------------------------------------------------------------------------------ for asyncio

    async def get_asks_async(self, *given: Any, **named: Any) -> Answer:
        """As `get_asks`."""
        return await asyncio.to_thread(self.get_asks, *given, **named)

    async def get_bids_async(self, *given: Any, **named: Any) -> Answer:
        """As `get_bids`."""
        return await asyncio.to_thread(self.get_bids, *given, **named)

    async def get_book_async(self, *given: Any, **named: Any) -> Answer:
        """As `get_book`."""
        return await asyncio.to_thread(self.get_book, *given, **named)

    async def get_depthcache_list_async(self, *given: Any, **named: Any) -> Answer:
        """As `get_depthcache_list`."""
        return await asyncio.to_thread(self.get_depthcache_list, *given, **named)

    async def get_depthcache_info_async(self, *given: Any, **named: Any) -> Answer:
        """As `get_depthcache_info`."""
        return await asyncio.to_thread(self.get_depthcache_info, *given, **named)

    async def get_cluster_info_async(self, *given: Any, **named: Any) -> Answer:
        """As `get_cluster_info`."""
        return await asyncio.to_thread(self.get_cluster_info, *given, **named)

    async def get_test_async(self) -> Answer:
        """As `get_test`."""
        return await asyncio.to_thread(self.get_test)

    async def test_connection_async(self) -> bool:
        """As `test_connection`."""
        return await asyncio.to_thread(self.test_connection)

    async def create_depthcache_async(self, *given: Any, **named: Any) -> Answer:
        """As `create_depthcache`."""
        return await asyncio.to_thread(self.create_depthcache, *given, **named)

    async def create_depthcaches_async(self, *given: Any, **named: Any) -> Answer:
        """As `create_depthcaches`."""
        return await asyncio.to_thread(self.create_depthcaches, *given, **named)

    async def stop_depthcache_async(self, *given: Any, **named: Any) -> Answer:
        """As `stop_depthcache`."""
        return await asyncio.to_thread(self.stop_depthcache, *given, **named)

    # ------------------------------------------------------------------------------------------ the wire

    def _call(self, name: str, debug: bool, **given: Any) -> Answer:
        return self._answer("GET", name, debug, {"params": _present(given, debug)})

    def _post(self, name: str, debug: bool, **given: Any) -> Answer:
        return self._answer("POST", name, debug, {"json": _present(given, debug)})

    def _answer(self, method: str, name: str, debug: bool, given: dict[str, Any]) -> Answer:
        began = time.perf_counter()
        try:
            answer = self._request(method, name, given)
        except (requests.RequestException, ValueError) as error:  # ValueError: no JSON, too long, or no object
            return {"error": str(error)}
        figures = answer.get("debug")
        if debug and isinstance(figures, dict):
            figures["request_time"] = time.perf_counter() - began
            figures["transmission_time"] = figures["request_time"] - figures.get("cluster_execution_time", 0.0)
        return answer

    def _request(self, method: str, name: str, given: dict[str, Any]) -> Answer:
        session = getattr(self._threads, "session", None)
        if session is None:  # one for each thread, because a session is not thread-safe
            session = self._threads.session = requests.Session()
        url = self.url + name
        with session.request(method, url, timeout=TIMEOUT_S, stream=True, allow_redirects=False, **given) as reply:
            reply.raise_for_status()
            body = reply.raw.read(ANSWER_BYTES_MAX + 1, decode_content=True)
        if len(body) > ANSWER_BYTES_MAX:
            raise ValueError(f"the answer of {url} is longer than {ANSWER_BYTES_MAX} bytes")
        answer = json.loads(body)
        if not isinstance(answer, dict):
            raise ValueError(f"the answer of {url} is no object")  # noqa: TRY004 - of a server, not a caller
        return answer


def _present(given: Mapping[str, Any], debug: bool) -> dict[str, Any]:
    """Return the parameters that have a value."""
    return {name: value for name, value in given.items() if value is not None} | ({"debug": "true"} if debug else {})


def _is_cluster(answer: Answer) -> bool:
    app = answer.get("app")
    return isinstance(app, dict) and app.get("name") == "ubdcc-restapi" and answer.get("result") == "OK"
