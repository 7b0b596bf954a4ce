"""The refresh of a synchronized market: a newer or deeper snapshot, taken in without taking the book away.

Rule 1: the live book is touched by `adopt` only, at equal update ids, after a comparison. It stays readable throughout.
Rule 2: the stream is believed before a snapshot. What a snapshot says against the live book must be said twice.
Rule 3: no clock, no random source, no socket, no thread, no log: `now` is an argument.

Theory of operation. A refresh asks for a snapshot. From the moment its download begins, every update that the live book
applies is also *retained*. The snapshot is loaded into a second book, the *candidate*, and the retained updates are
applied to it; then

    candidate behind the live book   an update between the two is missing: the snapshot is too old, refetch
    candidate ahead of it            the candidate waits; every further update goes to both books
    both at one id                   the audit: compare them inside both horizons

An equal candidate is adopted: its levels, and its horizon, which is the purpose of it all. A different one is not, and
a second snapshot is taken. Each difference is a price with the two quantities; one that shows again exactly as before
was not touched in between, and two snapshots witness it: the live book is wrong (AUDIT_CURED). Otherwise a snapshot
was (SNAPSHOT_INCOHERENT; COIN-M had such snapshots in 2021), and the live book takes only what lies past its horizon.
The second snapshot is asked for late, because such an error was seen to last; a book that has left its horizon takes
what lies past it from the first one, so that it can be read meanwhile.

Why the retaining begins with the download and not with the request: requests wait for weight, 200 markets on their
second step of the ladder for minutes. What a snapshot needs is what follows it, and it is as old as its download.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from ldc.errors import MalformedMessage
from ldc.limits import Backoff
from ldc.sync.parts import (
    RETRY_S_FIRST,
    RETRY_S_MAX,
    Action,
    Payload,
    Purpose,
    Refreshed,
    RefreshResult,
    RequestSnapshot,
    SnapshotDrop,
    SnapshotRequests,
    Update,
    UpdateBuffer,
    are_sides_far_apart,
)
from ldc.types import Comparison, Verdict

if TYPE_CHECKING:
    from ldc.book import OrderBook

__all__ = [
    "AHEAD_S_MAX",
    "AHEAD_UPDATES_MAX",
    "AHEAD_UPDATES_MAX_UNREADABLE",
    "AUDIT_CONFIRM_S",
    "INCOHERENT_SHARE_MAX",
    "REFRESH_PAUSE_S",
    "REFUSALS_MAX",
    "Difference",
    "Refresher",
    "differences",
    "extended",
]

REFRESH_PAUSE_S = 1.0
"""Between two refreshes of a market. Where a market leaves every horizon at once, this is what limits the requests."""

AHEAD_S_MAX = 300.0
"""How long a candidate ahead of the live book waits for the stream; then it is discarded (EXPIRED) and refetched.
A quiet market says nothing for minutes, and waiting costs only its memory."""

AHEAD_UPDATES_MAX = 200
"""How many updates the live book applies before a candidate still ahead of it is discarded (EXPIRED) and refetched."""

AHEAD_UPDATES_MAX_UNREADABLE = 20
"""The same while the live book has left its horizon: it needs a snapshot more than a wait, and one of another numbering
would keep it unreadable for `AHEAD_S_MAX`."""

AUDIT_CONFIRM_S = 30.0
"""After a difference, how long until the second snapshot is asked for, while the live book is readable. An incoherent
snapshot was seen to stay so for more than 20 s."""

REFUSALS_MAX = 2
"""So many permanent refusals in a row fail the market: its stream contradicts the first one."""

INCOHERENT_SHARE_MAX = 0.1
"""Of a snapshot that differs at more than this share of the levels that can be compared, nothing is taken at all."""


class Difference(NamedTuple):
    """A price at which two books differ. A quantity is None where the book does not hold the price."""

    is_bid: bool
    price: Decimal
    live_quantity: Decimal | None
    candidate_quantity: Decimal | None


class Refresher:
    """The refreshes of one market, one at a time. Driven by `ldc.Synchronizer`; not for anybody else.

    Thread-safety: none; one thread calls it.
    """

    def __init__(
        self,
        book: "OrderBook",
        make_book: "Callable[[], OrderBook]",
        requests: SnapshotRequests,
        actions: list[Action],
        limits: Sequence[int],
        interval_s: float | None,
        random: Callable[[], float],
    ) -> None:
        self._book = book
        self._make_book = make_book
        self._requests = requests
        self._actions = actions
        self._limits = tuple(limits)
        self._interval_s = interval_s
        self._backoff = Backoff(random, first_s=RETRY_S_FIRST, max_s=RETRY_S_MAX)  # reset when a refresh succeeds

        self.audits = 0
        """Comparisons of the live book with a snapshot."""
        self.started = dict.fromkeys(Purpose, 0)
        self.ended = dict.fromkeys(RefreshResult, 0)
        self.aborted = 0
        """Refreshes that ended because the market lost its synchronization."""
        self.limit = 0
        """The limit of the snapshot that the live book's levels come from; 0 before the first."""
        self.refreshed_at: float | None = None
        """When the levels last came from a snapshot."""

        self._purpose: Purpose | None = None  # of the refresh under way
        self._wanted_limit = 0
        self._retained = UpdateBuffer()
        self._is_retaining = False
        self._candidate: OrderBook | None = None
        self._candidate_limit = 0
        self._candidate_expires_at = 0.0
        self._updates_while_ahead = 0
        self._first_difference: frozenset[Difference] | None = None
        self._refusals = 0
        self._not_before = 0.0
        self._interval_due: float | None = None

    # -- what the synchronizer looks at

    @property
    def is_under_way(self) -> bool:
        """Whether a refresh has started and not ended."""
        return self._purpose is not None

    @property
    def wants_every_update(self) -> bool:
        """Whether `note_applied` must see every update that the live book applies."""
        return self._is_retaining or self._candidate is not None

    @property
    def next_due(self) -> float | None:
        """When `tick` has something to do."""
        if self._candidate is not None:
            return self._candidate_expires_at
        return None if self.is_under_way else self._interval_due

    # -- what the synchronizer tells

    def start(self, now: float, limit: int) -> None:
        """The market has been synchronized by a snapshot of that limit."""
        self.limit = limit
        self.refreshed_at = now
        self._backoff.reset()
        self._not_before = now
        self._set_interval(now)
        self._deepen(now)

    def resume(self, now: float) -> None:
        """The market has been synchronized again without a snapshot."""
        self._deepen(now)  # the interval goes on: a market that resumes often is to be refreshed all the same

    def abort(self) -> None:
        """The market is synchronized no longer, so there is nothing to refresh."""
        if self._purpose is None:
            return
        self._requests.cancel()
        if self._candidate is not None:
            self._requests.dropped[SnapshotDrop.ABANDONED] += 1
        self.aborted += 1
        self._forget()

    def want(self, purpose: Purpose, now: float) -> None:
        """Refresh the market. If that is under way, a more urgent purpose takes over a request not yet served."""
        if self._purpose is None:
            self._purpose = purpose
            self.started[purpose] += 1
            self._wanted_limit = self._limit_for(purpose)
            self._requests.issue(purpose, self._wanted_limit, max(now, self._not_before))
            return
        waiting = self._requests.awaited
        if waiting is None or self._requests.has_begun or purpose >= self._purpose:
            return
        if self._first_difference is not None and self._book.is_readable:
            return  # the second snapshot is late on purpose
        self._purpose = purpose
        self._requests.cancel()
        self._requests.issue(purpose, self._wanted_limit, max(now, self._not_before))

    def begin(self) -> None:
        """The download of the awaited snapshot begins: retain what is applied from now on."""
        self._is_retaining = True

    def note_applied(self, now: float, payload: Payload, received_time_ns: int | None) -> None:
        """The live book has applied this update."""
        if self._candidate is not None:
            self._bring_up_to_date(now, payload)
        elif self._is_retaining:
            header = self._book.last_header
            assert header is not None
            # The oldest may fall out of the full buffer: they were applied, so nothing is lost but this snapshot.
            self._retained.add(Update.of(self._book.rule, header, payload, received_time_ns))

    def snapshot_received(self, now: float, request: RequestSnapshot, body: Payload, limit: int | None) -> None:
        """The snapshot of the awaited request is here."""
        self._refusals = 0
        candidate = self._make_book()
        try:
            candidate.load_snapshot(body, limit)
        except MalformedMessage:
            self._drop_and_retry(SnapshotDrop.MALFORMED, now)
            return
        if are_sides_far_apart(candidate, self._book):
            self._drop_and_retry(SnapshotDrop.WRONG_PRICES, now)
            return
        try:
            for update in self._retained:
                if candidate.apply(update.payload, update.received_time_ns) is Verdict.GAP:
                    break
        except MalformedMessage:  # the live book could apply it, the candidate cannot: for the snapshot's decimals
            self._drop_and_retry(SnapshotDrop.MALFORMED, now)
            return
        assert candidate.last_update_id is not None
        assert self._book.last_update_id is not None
        if candidate.last_update_id < self._book.last_update_id:
            # The retaining goes on: where REST lags behind the stream, the next one finds what it needs.
            self._drop_and_retry(SnapshotDrop.TOO_OLD, now, keep_retaining=True)
            return
        self._stop_retaining()
        self._candidate = candidate
        self._candidate_limit = request.limit
        self._candidate_expires_at = now + AHEAD_S_MAX
        self._updates_while_ahead = 0
        self._settle_if_level(now)

    def snapshot_failed(self, now: float, retry_at: float | None, *, is_permanent: bool) -> bool:
        """The download has failed; return True if the exchange has refused the market for good."""
        self._refusals = self._refusals + 1 if is_permanent else 0
        if self._refusals >= REFUSALS_MAX:
            return True
        self._retry(now, retry_at)
        return False

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._candidate is not None and now >= self._candidate_expires_at:
            self._drop_and_retry(SnapshotDrop.EXPIRED, now)
        if self._interval_due is not None and now >= self._interval_due and not self.is_under_way:
            self.want(Purpose.INTERVAL, now)

    # -- inside

    def _limit_for(self, purpose: Purpose) -> int:
        """Return the limit to ask for: deeper where that is the purpose, or where the horizon proved too near."""
        deeper = [step for step in self._limits if step > self.limit]
        return deeper[0] if deeper and purpose in (Purpose.HORIZON, Purpose.DEEPEN) else self.limit

    def _deepen(self, now: float) -> None:
        """Ask for the next step of the ladder, if there is one and there can be levels that are not held."""
        is_complete = self._book.bid_horizon is None and self._book.ask_horizon is None
        if not is_complete and self._limit_for(Purpose.DEEPEN) > self.limit:
            self.want(Purpose.DEEPEN, now)

    def _set_interval(self, now: float) -> None:
        self._interval_due = None if self._interval_s is None else now + self._interval_s

    def _bring_up_to_date(self, now: float, payload: Payload) -> None:
        """Give the candidate the update that the live book has just applied."""
        assert self._candidate is not None
        try:
            self._candidate.apply(payload)
        except MalformedMessage:
            self._drop_and_retry(SnapshotDrop.MALFORMED, now)
            return
        self._updates_while_ahead += 1
        self._settle_if_level(now)
        updates_max = AHEAD_UPDATES_MAX if self._book.is_readable else AHEAD_UPDATES_MAX_UNREADABLE
        if self._candidate is not None and self._updates_while_ahead >= updates_max:
            self._drop_and_retry(SnapshotDrop.EXPIRED, now)

    def _settle_if_level(self, now: float) -> None:
        """Compare the two books if they stand at one id, and end the refresh or ask for a second snapshot."""
        live, candidate = self._book, self._candidate
        assert candidate is not None
        if candidate.last_update_id != live.last_update_id:
            return
        if candidate.is_crossed:
            self._drop_and_retry(SnapshotDrop.CROSSED, now)
            return
        self.audits += 1
        comparison = live.compare(candidate)
        if comparison.is_equal:
            live.adopt(candidate)
            first_was_wrong = self._first_difference is not None
            result = RefreshResult.SNAPSHOT_INCOHERENT if first_was_wrong else RefreshResult.EQUAL
            self._end(now, result, comparison, is_taken=True)
            return
        difference, compared_count = differences(live, candidate)
        assert difference, "compare() and differences() disagree"
        can_extend = len(difference) <= INCOHERENT_SHARE_MAX * compared_count
        if self._first_difference is None:
            if can_extend and not live.is_readable:
                self._extend(candidate)  # so that it can be read until the second snapshot is here
            self._first_difference = difference
            self._requests.dropped[SnapshotDrop.DIFFERENT] += 1
            self._candidate = None
            self._purpose = Purpose.CONFIRM
            due = now + AUDIT_CONFIRM_S if live.is_readable else now
            self._requests.issue(Purpose.CONFIRM, self._wanted_limit, due)
        elif difference <= self._first_difference:
            live.adopt(candidate)
            self._end(now, RefreshResult.AUDIT_CURED, comparison, is_taken=True)
        else:
            is_taken = can_extend and self._extend(candidate)
            self._end(now, RefreshResult.SNAPSHOT_INCOHERENT, comparison, is_taken=is_taken)

    def _extend(self, candidate: "OrderBook") -> bool:
        """Take only what lies past the live book's horizon; return whether that was possible."""
        deeper = extended(self._book, candidate, self._make_book)
        if deeper is not None:
            self._book.adopt(deeper)
        return deeper is not None

    def _end(self, now: float, result: RefreshResult, comparison: Comparison, *, is_taken: bool) -> None:
        assert self._purpose is not None
        assert self._book.last_update_id is not None
        purpose = self._purpose
        self.ended[result] += 1
        self._actions.append(Refreshed(result, purpose, self._candidate_limit, self._book.last_update_id, comparison))
        self._forget()
        self._set_interval(now)
        if is_taken:
            self._requests.used += 1
            self.limit = self._candidate_limit
            self.refreshed_at = now
            self._backoff.reset()
            self._not_before = now + REFRESH_PAUSE_S
        else:
            self._requests.dropped[SnapshotDrop.DIFFERENT] += 1
            self._not_before = now + max(REFRESH_PAUSE_S, self._backoff.next_delay_s())
        self._deepen(now)

    def _forget(self) -> None:
        """There is no refresh under way any more."""
        self._purpose = None
        self._candidate = None
        self._first_difference = None
        self._refusals = 0
        self._stop_retaining()

    def _stop_retaining(self) -> None:
        self._is_retaining = False
        self._retained.clear()

    def _drop_and_retry(self, why: SnapshotDrop, now: float, *, keep_retaining: bool = False) -> None:
        self._requests.dropped[why] += 1
        self._candidate = None
        self._retry(now, None, keep_retaining=keep_retaining)

    def _retry(self, now: float, retry_at: float | None, *, keep_retaining: bool = False) -> None:
        """Ask once more, after a back-off.

        A refresh goes on until it succeeds or the market is synchronized no longer: its tries are limited in their
        rate, not in their number.
        """
        assert self._purpose is not None
        if not keep_retaining:
            self._stop_retaining()
        self._not_before = max(now + self._backoff.next_delay_s(), retry_at or now)
        self._requests.issue(self._purpose, self._wanted_limit, self._not_before)


def differences(live: "OrderBook", candidate: "OrderBook") -> tuple[frozenset[Difference], int]:
    """Return where two books differ inside both horizons, and how many prices were compared.

    O(levels), in Python: it is called when `compare` has found a difference, which is rare.
    """
    ours: Any = live.held_levels(number=Decimal)
    theirs: Any = candidate.held_levels(number=Decimal)
    found: set[Difference] = set()
    compared_count = 0
    for is_bid, our_side, their_side, horizons in (
        (True, ours.bids, theirs.bids, (ours.bid_horizon, theirs.bid_horizon)),
        (False, ours.asks, theirs.asks, (ours.ask_horizon, theirs.ask_horizon)),
    ):
        our_levels = dict(level for level in our_side if _is_within(is_bid, level[0], *horizons))
        their_levels = dict(level for level in their_side if _is_within(is_bid, level[0], *horizons))
        prices = our_levels.keys() | their_levels.keys()
        compared_count += len(prices)
        for price in prices:
            if our_levels.get(price) != their_levels.get(price):
                found.add(Difference(is_bid, price, our_levels.get(price), their_levels.get(price)))
    return frozenset(found), compared_count


def extended(live: "OrderBook", candidate: "OrderBook", make_book: "Callable[[], OrderBook]") -> "OrderBook | None":
    """Return a book with live's levels inside its horizons and candidate's past them, or None if there is no such book.

    A book takes levels only from a snapshot, so one is written, in the exchange's format. O(levels).
    """
    ours: Any = live.held_levels(number=Decimal)
    theirs: Any = candidate.held_levels(number=Decimal)
    bids = _joined(True, ours.bids, ours.bid_horizon, theirs.bids, theirs.bid_horizon)
    asks = _joined(False, ours.asks, ours.ask_horizon, theirs.asks, theirs.ask_horizon)
    # A side without levels would be read as an empty one, which is more than is known of a side that has a horizon.
    if not (bids.levels or bids.is_complete) or not (asks.levels or asks.is_complete):
        return None
    book = make_book()
    texts = [",".join(f'["{price:f}","{quantity:f}"]' for price, quantity in side.levels) for side in (bids, asks)]
    body = f'{{"lastUpdateId":{live.last_update_id},"bids":[{texts[0]}],"asks":[{texts[1]}]}}'
    try:
        book.load_snapshot(body, _limit_that_tells(bids, asks))
    except MalformedMessage:  # the two are so different that the joined book would be crossed
        return None
    return book


class _Side(NamedTuple):
    levels: list[tuple[Decimal, Decimal]]
    is_complete: bool


def _is_within(is_bid: bool, price: Decimal, *horizons: Decimal | None) -> bool:
    """Whether a price lies inside all these horizons; None is no horizon."""
    return all(horizon is None or (price >= horizon if is_bid else price <= horizon) for horizon in horizons)


def _joined(is_bid: bool, ours: Any, our_horizon: Any, theirs: Any, their_horizon: Any) -> _Side:
    """Return our levels inside our horizon, then theirs past it inside theirs."""
    levels = [level for level in ours if _is_within(is_bid, level[0], our_horizon)]
    if our_horizon is None:
        return _Side(levels, is_complete=True)
    levels += [
        level
        for level in theirs
        if not _is_within(is_bid, level[0], our_horizon) and _is_within(is_bid, level[0], their_horizon)
    ]
    return _Side(levels, is_complete=their_horizon is None)


def _limit_that_tells(bids: _Side, asks: _Side) -> int | None:
    """Return the limit with which a snapshot of these sides says of each whether it is complete.

    One number cannot say it of a longer complete side beside a shorter incomplete one. Then neither is called complete,
    which claims less than is known and is never wrong.
    """
    sides = bids, asks
    limit = 1 + max(side.is_complete * len(side.levels) for side in sides)
    return limit if all(side.is_complete or limit <= len(side.levels) for side in sides) else None
