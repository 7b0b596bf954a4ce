"""Samples: the values of one market at one moment, from which the view and the plain lines are made.

Rule 1: only a read decides whether a book is shown.
Rule 2: the time is an argument.
"""

from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from ldc.cli.text import decimals_of
from ldc.errors import DepthCacheError
from ldc.types import DepthCacheStatus, SyncState

RATE_S = 5.0
"""Seconds over which the update rate is measured."""

MIDS_MAX = 240
"""Mid prices kept, one a second; the oldest is dropped."""

Side = tuple[tuple[Decimal, Decimal], ...]
"""(price, quantity), best first."""


class Sample(NamedTuple):
    """One market at one moment. Unreadable and unknown values are None."""

    status: DepthCacheStatus
    state: SyncState
    cause: str | None
    """Why it cannot be read; None if it can."""
    bids: Side | None
    """Of the same update id as `asks`; both None while the book is unreadable."""
    asks: Side | None
    update_id: int | None
    """The update id of both sides."""
    price_decimals: int
    """The most decimals that any price so far has needed, so that the columns keep their width."""
    quantity_decimals: int
    """The same for quantities."""
    bid_depth: Decimal | None
    """How far below the mid price the bids are known, in %; None: at every price."""
    ask_depth: Decimal | None
    """How far above the mid price the asks are known, in %; None: at every price."""
    updates_per_s: float | None
    age_s: float | None
    """Seconds since the last update arrived."""
    state_age_s: float
    """Seconds since the market entered its state."""
    mids: Sequence[float | None] = ()
    """The mid price, once a second; None while the book was unreadable."""

    @property
    def is_readable(self) -> bool:
        """Whether the book can be shown."""
        return self.bids is not None

    @property
    def best_bid(self) -> tuple[Decimal, Decimal] | None:
        """The best bid, or None."""
        return self.bids[0] if self.bids else None

    @property
    def best_ask(self) -> tuple[Decimal, Decimal] | None:
        """The best ask, or None."""
        return self.asks[0] if self.asks else None

    @property
    def mid(self) -> Decimal | None:
        """The mean of the best prices."""
        return (self.bids[0][0] + self.asks[0][0]) / 2 if self.bids and self.asks else None

    @property
    def spread(self) -> Decimal | None:
        """The difference of the best prices."""
        return self.asks[0][0] - self.bids[0][0] if self.bids and self.asks else None


class Watched(Protocol):
    """A market that can be sampled: a depth cache, or a shared book."""

    @property
    def reader(self) -> Any:
        """Its reads."""

    @property
    def state(self) -> SyncState:
        """The state of its synchronization."""

    def status(self) -> DepthCacheStatus:
        """Return its status."""

    def explain(self, error: DepthCacheError) -> DepthCacheError:
        """Return the error to report for a read that raised this one."""


class Sampler:
    """Samples one market, and keeps what one sample cannot have: the update rate and earlier mid prices."""

    def __init__(self, cache: Watched) -> None:
        self.cache = cache
        self._price_decimals = 0
        self._quantity_decimals = 0
        self._counts: deque[tuple[float, int]] = deque()
        self._mids: deque[float | None] = deque(maxlen=MIDS_MAX)
        self._mid_at: float | None = None

    def sample(self, levels: int, now: float, unix_time_ns: int) -> Sample:
        """Sample the market with `levels` a side. `now` is monotonic, `unix_time_ns` the time of day."""
        bids: Side | None = None
        asks: Side | None = None
        status = self.cache.status()
        state, cause, update_id = status.state, status.cause, status.last_update_id
        bid_depth = ask_depth = None
        try:
            view = self.cache.reader.view(levels, number=Decimal)
        except DepthCacheError as error:
            state = self.cache.state  # it may have been lost since the status was taken
            cause = self.cache.explain(error).cause or cause
        else:
            state, cause, update_id = SyncState.SYNCHRONIZED, None, view.last_update_id
            bids, asks = view.bids, view.asks
            self._note_decimals(bids, asks)
            if bids and asks:
                mid = (bids[0][0] + asks[0][0]) / 2
                bid_depth, ask_depth = (_depth(mid, horizon) for horizon in (view.bid_horizon, view.ask_horizon))
        sample = Sample(
            status,
            state,
            cause,
            bids,
            asks,
            update_id,
            self._price_decimals,
            self._quantity_decimals,
            bid_depth,
            ask_depth,
            self._rate(status.counters.updates_applied, now),
            None if status.received_time_ns is None else max(0.0, (unix_time_ns - status.received_time_ns) / 1e9),
            max(0.0, unix_time_ns / 1e9 - status.state_since),
        )
        self._note_mid(sample.mid, now)
        return sample._replace(mids=tuple(self._mids))

    def _note_decimals(self, bids: Side, asks: Side) -> None:
        for side in (bids, asks):
            self._price_decimals = max(self._price_decimals, decimals_of(price for price, _ in side))
            self._quantity_decimals = max(self._quantity_decimals, decimals_of(quantity for _, quantity in side))

    def _note_mid(self, mid: Decimal | None, now: float) -> None:
        if self._mid_at is None or now - self._mid_at >= 1:
            self._mid_at = now
            self._mids.append(None if mid is None else float(mid))

    def _rate(self, count: int, now: float) -> float | None:
        """Return the updates a second over the last RATE_S."""
        self._counts.append((now, count))
        while len(self._counts) > 2 and now - self._counts[1][0] >= RATE_S:
            self._counts.popleft()
        began_at, began = self._counts[0]
        return (count - began) / (now - began_at) if now - began_at >= 0.5 else None


def _depth(mid: Decimal, horizon: Decimal | None) -> Decimal | None:
    return None if horizon is None else abs(horizon - mid) / mid * 100
