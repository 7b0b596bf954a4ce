"""What the tests of the synchronizer share: messages in the exchange's format, and a market that a test drives.

The random source of a driven market always returns 0.5. So a backoff is half of its ceiling: 0.5 s, then 1 s, 2 s, ...
"""

import json
from types import ModuleType

import ldc.book
import ldc.book.pure.book
from ldc.errors import MalformedMessage
from ldc.sequence import RULES, SequenceRule
from ldc.sync.actions import Action, CancelSnapshot, Purpose, Refreshed, RequestSnapshot, StateChanged
from ldc.sync.machine import Input, Synchronizer
from ldc.types import Cause, SyncState

BOOKS: dict[str, ModuleType] = {"python": ldc.book.pure.book, ldc.book.IMPLEMENTATION: ldc.book}
"""The implementations of the order book that this process has."""

BIDS = {"100.00": "1.000", "99.00": "2.000", "98.00": "3.000", "97.00": "4.000"}
ASKS = {"101.00": "1.000", "102.00": "2.000", "103.00": "3.000", "104.00": "4.000"}

Levels = dict[str, str]


def entries(levels: Levels) -> list[list[str]]:
    return [[price, quantity] for price, quantity in levels.items()]


def update(
    start: int,
    last: int,
    *,
    rule: SequenceRule,
    bids: Levels | None = None,
    asks: Levels | None = None,
    event_time_ms: int | None = None,
) -> bytes:
    """A depth update that covers the ids from `start`, exclusive, to `last`. On futures `U` lies past a hole."""
    event: dict[str, object] = {
        "e": "depthUpdate",
        "E": last * 10 if event_time_ms is None else event_time_ms,
        "s": "BTCUSDT",
    }
    event["U"] = min(start + 3, last) if rule.chains_by_previous_id else start + 1
    event["u"] = last
    if rule.chains_by_previous_id:
        event["pu"] = start
    event["b"] = entries(bids or {})
    event["a"] = entries(asks or {})
    return json.dumps({"stream": "btcusdt@depth@100ms", "data": event}).encode()


def snapshot(update_id: int, *, bids: Levels | None = None, asks: Levels | None = None) -> bytes:
    """The body of a REST snapshot."""
    sides = {"bids": entries(BIDS if bids is None else bids), "asks": entries(ASKS if asks is None else asks)}
    return json.dumps({"lastUpdateId": update_id, **sides}).encode()


class RecordingSynchronizer(Synchronizer):
    """Records which cells of the table were used, and where they led."""

    def _take(self, event: Input, now: float, *arguments: object) -> None:
        state = self.state
        super()._take(event, now, *arguments)
        self.steps = [*getattr(self, "steps", []), (event, state, self.state)]


class Market:
    """A synchronizer, its book, and its actions so far. Only `wait` lets time pass."""

    def __init__(
        self,
        rule: str = "spot",
        *,
        books: ModuleType = ldc.book.pure.book,
        limits: tuple[int, ...] = (100,),
        refresh_interval_s: float | None = None,
        gap_wait_ms: float = 500,
    ) -> None:
        self.rule = RULES[rule]
        self.books = books
        self.now = 1_000.0
        self.book = books.OrderBook(rule, market="BTCUSDT", symbol="BTCUSDT")
        self.synchronizer = RecordingSynchronizer(
            self.book,
            make_book=lambda: books.OrderBook(rule, market="BTCUSDT"),
            read_header=books.read_header,
            random=lambda: 0.5,
            limits=limits,
            now=self.now,
            symbol="BTCUSDT",
            refresh_interval_s=refresh_interval_s,
            gap_wait_ms=gap_wait_ms,
        )
        self.actions: list[Action] = []
        self.drained: list[Action] = []
        self.request: RequestSnapshot | None = None

    # -- inputs

    def open(self, connection_id: int = 0) -> "Market":
        self.synchronizer.stream_opened(connection_id, self.now)
        return self._drain()

    def acknowledge(self, connection_id: int = 0) -> "Market":
        self.synchronizer.stream_acknowledged(connection_id, self.now)
        return self._drain()

    def close(self, connection_id: int = 0) -> "Market":
        self.synchronizer.stream_closed(connection_id, self.now)
        return self._drain()

    def update(self, start: int, last: int, *, connection_id: int = 0, **what: object) -> "Market":
        """A depth update in the exchange's format."""
        payload = update(start, last, rule=self.rule, **what)  # type: ignore[arg-type]
        return self.receive(payload, connection_id=connection_id)

    def receive(self, payload: bytes | bytearray | memoryview | str, *, connection_id: int = 0) -> "Market":
        """Any bytes, received as the hot path prescribes."""
        if self.synchronizer.wants_every_update:
            self.synchronizer.receive_update(connection_id, payload, None, self.now)
        else:
            try:
                verdict = self.book.apply(payload, None)
            except MalformedMessage:
                self.synchronizer.update_malformed(self.now)
            else:
                if verdict or self.book.needs_attention:
                    self.synchronizer.after_apply(connection_id, verdict, payload, None, self.now)
        return self._drain()

    def begin(self) -> "Market":
        """The awaited download begins."""
        assert self.request is not None
        self.synchronizer.snapshot_begins(self.request.epoch, self.now)
        return self._drain()

    def answer(self, body: bytes, limit: int | None = None) -> "Market":
        """The awaited snapshot arrives."""
        request = self.request
        assert request is not None
        self.request = None
        self.synchronizer.snapshot_received(request.epoch, body, limit or request.limit, self.now)
        return self._drain()

    def snapshot(self, update_id: int, limit: int | None = None, **sides: Levels) -> "Market":
        """The awaited snapshot arrives, and is a good one."""
        return self.answer(snapshot(update_id, **sides), limit)

    def fail(self, permanent: Cause | None = None, retry_at: float | None = None) -> "Market":
        """There is no snapshot."""
        request = self.request
        assert request is not None
        self.request = None
        self.synchronizer.snapshot_failed(request.epoch, self.now, permanent=permanent, retry_at=retry_at)
        return self._drain()

    def wait(self, seconds: float) -> "Market":
        """Let time pass; `tick` is called when it is due, and only then."""
        end = self.now + seconds
        while (due := self.synchronizer.next_due()) is not None and due <= end:
            self.now = max(self.now, due)
            self.synchronizer.tick(self.now)
            self._drain()
            assert self.synchronizer.next_due() != due, "tick() did nothing at the time that next_due() gave"
        self.now = end
        return self

    def resync(self, cause: Cause = Cause.REQUESTED) -> "Market":
        self.synchronizer.request_resync(self.now, cause)
        return self._drain()

    def refresh(self) -> "Market":
        self.synchronizer.request_refresh(self.now)
        return self._drain()

    def stop(self) -> "Market":
        self.synchronizer.stop(self.now)
        return self._drain()

    def _drain(self) -> "Market":
        """Run the actions as a caller does, and check what must always hold."""
        self.drained = self.synchronizer.drain()
        self.actions += self.drained
        for action in self.drained:
            if isinstance(action, RequestSnapshot):
                assert self.request is None, "two requests at a time"
                assert action.due >= self.now
                self.request = action
            elif isinstance(action, CancelSnapshot):
                assert self.request is not None
                assert self.request.epoch == action.epoch
                self.request = None
        check(self.synchronizer, self.request)
        assert sum(self.synchronizer.state_changes.values()) == len(self.changes), "every change has a cause"
        return self

    # -- what can be seen

    @property
    def state(self) -> SyncState:
        return self.synchronizer.state

    @property
    def requests(self) -> list[RequestSnapshot]:
        return [action for action in self.actions if isinstance(action, RequestSnapshot)]

    @property
    def changes(self) -> list[tuple[SyncState, Cause]]:
        return [(action.state, action.cause) for action in self.actions if isinstance(action, StateChanged)]

    @property
    def refreshes(self) -> list[Refreshed]:
        return [action for action in self.actions if isinstance(action, Refreshed)]

    @property
    def purposes(self) -> list[Purpose]:
        return [request.purpose for request in self.requests]

    def dropped(self) -> dict[str, int]:
        """The causes of discarded updates that occurred."""
        return {why.value: count for why, count in self.synchronizer.updates_dropped.items() if count}

    def snapshots_dropped(self) -> dict[str, int]:
        """The causes of discarded snapshots that occurred."""
        return {why.value: count for why, count in self.synchronizer.requests.dropped.items() if count}

    def bids(self) -> dict[float, float]:
        return dict(self.book.bids())


def check(synchronizer: Synchronizer, request: RequestSnapshot | None) -> None:
    """Assert what holds after every input, whatever it was."""
    book, state, requests = synchronizer.book, synchronizer.state, synchronizer.requests
    assert (book.suspended_by is None) == (state is SyncState.SYNCHRONIZED), "suspended in every other state"
    assert book.suspended_by == (None if synchronizer.cause is None else synchronizer.cause.value)
    assert requests.awaited == request, "the caller and the synchronizer disagree about what is awaited"
    assert sum(synchronizer.state_changes.values()) >= sum(synchronizer.resyncs.values())
    assert synchronizer.gap.filled <= synchronizer.gap.waits
    # A request ends once: its snapshot was used or dropped, it failed, or it was cancelled.
    late = requests.dropped["LATE"]  # type: ignore[index]
    ends = requests.used + sum(requests.dropped.values()) - late + requests.failed + requests.cancelled
    held = int(synchronizer.refresher.has_candidate and requests.awaited is None)
    assert sum(requests.issued.values()) == ends + held + (requests.awaited is not None)
    if state is SyncState.BUFFERING and synchronizer._streams.is_any_live:
        assert request is not None or synchronizer.next_due() is not None, "the market waits for nothing"
    if not synchronizer.wants_every_update:
        assert synchronizer.buffered_count == 0
    if state in (SyncState.STOPPED, SyncState.FAILED, SyncState.IDLE):
        assert requests.awaited is None
        assert synchronizer.next_due() is None
        assert synchronizer.buffered_count == 0


def market_in(state: SyncState, rule: str = "spot", **options: object) -> Market:
    """Return a market in that state: on connection 0, and at the update id 100 once it has a book."""
    market = Market(rule, **options)  # type: ignore[arg-type]
    if state is SyncState.IDLE:
        return market
    market.open().acknowledge()
    if state is SyncState.SYNCHRONIZED:
        market.update(90, 100).snapshot(95)
        assert market.book.last_update_id == 100
    elif state is SyncState.STOPPED:
        market.stop()
    elif state is SyncState.FAILED:
        market.update(90, 100).fail(permanent=Cause.UNKNOWN_MARKET)
        market.wait(10.0).fail(permanent=Cause.UNKNOWN_MARKET)  # the stream is silent since
    assert market.state is state
    return market
