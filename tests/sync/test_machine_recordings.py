"""Recorded markets go through the synchronizer as they came: no needless snapshot, no resync, the right tops."""

import json
from pathlib import Path

import pytest
from recordings import RECORDINGS, SNAPSHOT_LIMIT, messages_of
from sync_kit import BOOKS, check

from ldc.sync.actions import Purpose, RequestSnapshot, UpdateDrop
from ldc.sync.machine import Synchronizer
from ldc.types import SyncState

BOOK = BOOKS.get("cython", BOOKS["python"])  # what concerns the book itself is tested on both elsewhere


class RecordedMarket:
    """A market whose frames and snapshot were recorded. A snapshot before the first update waits for its request."""

    def __init__(self, rule: str) -> None:
        self.book = BOOK.OrderBook(rule)
        self.synchronizer = Synchronizer(
            self.book,
            make_book=lambda: BOOK.OrderBook(rule),
            read_header=BOOK.read_header,
            random=lambda: 0.5,
            limits=(SNAPSHOT_LIMIT,),
            now=0.0,
        )
        self.synchronizer.stream_opened(0, 0.0)
        self.snapshot: bytes | None = None
        self.request: RequestSnapshot | None = None
        self.requests: list[RequestSnapshot] = []
        self.tickers: dict[int, dict[str, str]] = {}
        self.updates = self.tops = 0

    def take_update(self, payload: bytes) -> None:
        self.updates += 1
        if self.synchronizer.wants_every_update:
            self.synchronizer.receive_update(0, payload, None, 0.0)
        else:
            verdict = self.book.apply(payload, None)
            if verdict or self.book.needs_attention:
                self.synchronizer.after_apply(0, verdict, payload, None, 0.0)
        self.run_actions()

    def run_actions(self) -> None:
        for action in self.synchronizer.drain():
            if isinstance(action, RequestSnapshot):
                self.requests.append(action)
                self.request = action
        if self.snapshot is not None and self.request is not None and self.request.purpose is Purpose.SYNCHRONIZE:
            body, request, self.snapshot, self.request = self.snapshot, self.request, None, None
            self.synchronizer.snapshot_received(request.epoch, body, SNAPSHOT_LIMIT, 0.0)
            self.run_actions()

    def take_ticker(self, payload: bytes) -> None:
        ticker = json.loads(payload)["data"]
        self.tickers[ticker["u"]] = ticker

    def compare_top(self) -> None:
        """Where a ticker had the id that the book is of now, both show the same top."""
        ticker = self.tickers.get(self.book.last_update_id)
        if ticker is not None and self.book.is_readable:
            self.tops += 1
            assert self.book.best_bid == (float(ticker["b"]), float(ticker["B"]))
            assert self.book.best_ask == (float(ticker["a"]), float(ticker["A"]))
        self.tickers.clear()


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recorded_market_is_synchronized_by_its_snapshot_and_stays_so(captures: Path, name: str) -> None:
    markets: dict[str, RecordedMarket] = {}
    for message in messages_of(captures, name):
        market = markets.setdefault(message.market, RecordedMarket(RECORDINGS[name].rule))
        if message.kind == "snapshot":
            market.snapshot = message.payload
            market.run_actions()
        elif message.kind == "depthUpdate":
            market.take_update(message.payload)
            market.compare_top()
        else:
            market.take_ticker(message.payload)
    assert sum(market.updates for market in markets.values()) > 20
    assert sum(market.tops for market in markets.values()) > 0
    for market in markets.values():
        synchronizer = market.synchronizer
        check(synchronizer, market.request)
        assert synchronizer.state is SyncState.SYNCHRONIZED
        assert sum(synchronizer.resyncs.values()) == 0
        assert [request.purpose for request in market.requests].count(Purpose.SYNCHRONIZE) == 1
        assert not any(synchronizer.requests.dropped.values())
        assert {why for why, count in synchronizer.updates_dropped.items() if count} <= {UpdateDrop.STALE}
        applied = market.book.counters.updates_applied
        assert applied + synchronizer.updates_dropped[UpdateDrop.STALE] == market.updates
