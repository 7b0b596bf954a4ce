"""The refresh of a synchronized market: it takes in a newer or deeper snapshot while the book stays readable.

Rule 1: only `adopt` changes the live book, at equal update ids, after a comparison.
Rule 2: the stream is believed before a snapshot. Two snapshots must show a difference before the book is corrected
    or synchronized again.
Rule 3: no clock, socket, thread, log or random source: `now` and `random` are arguments.

Theory of operation. A refresh requests a snapshot. From the beginning of its download, every update that the live book
applies is also *retained*, by the book itself. The snapshot is loaded into a second book, the *candidate*, and the
retained updates are applied to it. Then

    candidate behind the live book   an update between the two is missing: the snapshot is too old; refetch
    candidate ahead of it            the candidate waits until the live book has reached it (`attend_at`)
    both at one id                   the audit: compare them inside both horizons

An equal candidate is adopted: its levels and its horizon, which is what a refresh is for. A different one is not, and a
second snapshot is requested, to confirm it. A difference is a price with its two quantities. Then

    nothing differs                 the first snapshot was wrong (SNAPSHOT_INCOHERENT; COIN-M had such ones in 2021)
    what differs did so before,     no update has touched it and two snapshots agree on it: the live book is wrong, and
    exactly so                      the second one is adopted (AUDIT_CURED)
    some of it did, and more does   the live book is wrong, and no snapshot can be trusted elsewhere: the market is
                                    synchronized again (RESYNCED)
    nothing of it did               neither snapshot is confirmed: one more is requested, `CONFIRMS_MAX` in total, and
                                    judged in the same way; then the market is synchronized again (RESYNCED)

So no difference outlasts its confirmations. They are requested late, because an incoherent snapshot was seen to last.
A book that has left its horizon takes what lies past it from the first snapshot already, so that it can be read
meanwhile.

Updates are retained from the download on, not from the request on. Requests wait for weight: with 200 markets that
deepen at once for minutes. A snapshot is as old as its download, so it needs only what follows that.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from ldc.errors import MalformedMessage
from ldc.limits import Backoff
from ldc.sync.actions import (
    Action,
    Payload,
    Purpose,
    ReadSnapshot,
    Refreshed,
    RefreshResult,
    RequestSnapshot,
    SnapshotDrop,
    SnapshotRequests,
)
from ldc.sync.plausibility import are_sides_far_apart
from ldc.sync.retry import REFUSALS_MAX, RETRY_S_FIRST, RETRY_S_MAX, USELESS_S_MAX
from ldc.types import Comparison

if TYPE_CHECKING:
    from ldc.book import OrderBook

REFRESH_PAUSE_S = 1.0
"""Between two refreshes of a market. It limits the requests of a market that leaves every horizon at once."""

DEEPEN_PAUSE_S = 10.0
"""From a synchronization to the request for a deeper snapshot, if the one before did not last `STABLE_S`. Each loss
makes the deeper levels void, and the next loss needs their weight."""

STABLE_S = 60.0
"""A market that was SYNCHRONIZED for so long deepens at once after it was lost."""

AHEAD_S_MAX = 300.0
"""How long a candidate ahead of the live book waits for the stream. Then it is discarded (EXPIRED) and refetched. A
quiet market may be silent for minutes, and waiting costs only the candidate's memory."""

AHEAD_UPDATES_MAX = 200
"""Updates that the live book applies before a candidate still ahead of it is discarded (EXPIRED) and refetched."""

AHEAD_UPDATES_MAX_UNREADABLE = 20
"""The same while the live book has left its horizon. It needs a snapshot more than a wait: a candidate of another
numbering would keep it unreadable for `AHEAD_S_MAX`."""

CONFIRMS_MAX = 2
"""Snapshots that are to confirm a difference. If the last one shows yet another, the market is synchronized again."""

AUDIT_CONFIRM_S = 30.0
"""From a difference to the next request, while the live book is readable. An incoherent snapshot was seen to stay
incoherent for more than 20 s."""

INCOHERENT_SHARE_MAX = 0.1
"""From a snapshot that differs at more than this share of the comparable levels nothing is taken."""


class Difference(NamedTuple):
    """A price at which two books differ. A quantity is None where the book does not hold the price."""

    is_bid: bool
    price: Decimal
    live_quantity: Decimal | None
    candidate_quantity: Decimal | None


class Refresher:
    """The refreshes of one market, one at a time. Only `ldc.sync.machine.Synchronizer` drives it.

    Thread-safety: one thread calls it. Other threads may read its counters, whose keys never change.
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
        """The limit of the snapshot that the live book's levels come from; 0 before the first one."""
        self.refreshed_at: float | None = None
        """When the levels last came from a snapshot."""

        self._purpose: Purpose | None = None  # of the refresh under way
        self._wanted_limit = 0
        self._candidate: OrderBook | None = None
        self._candidate_limit = 0
        self._candidate_expires_at = 0.0
        self._applied_before = 0  # of the live book's updates, when the candidate began to wait
        self._difference: frozenset[Difference] | None = None  # of the last snapshot, to be confirmed
        self._confirms = 0
        self._is_contradicted = False
        self._refusals = 0
        self._not_before = 0.0
        self._deepen_pause_s = 0.0
        self._interval_due: float | None = None

    # -- what the synchronizer asks

    @property
    def is_under_way(self) -> bool:
        """Whether a refresh has started and not ended."""
        return self._purpose is not None

    @property
    def has_candidate(self) -> bool:
        """Whether a snapshot is loaded that is ahead of the live book."""
        return self._candidate is not None

    @property
    def next_due(self) -> float | None:
        """When `tick` is due next; None: never, as things are."""
        if self._candidate is not None:
            return self._candidate_expires_at
        return None if self.is_under_way else self._interval_due

    # -- what the synchronizer reports

    def start(self, now: float, limit: int) -> None:
        """A snapshot of that limit has synchronized the market."""
        self.limit = limit
        self.refreshed_at = now
        self._backoff.reset()
        self._not_before = now
        self._set_interval(now)
        self._deepen(now, self._deepen_pause_s)

    def resume(self, now: float) -> None:
        """The market has resumed without a snapshot."""
        self._deepen(
            now, self._deepen_pause_s
        )  # the interval goes on, or a market that resumes often would never be refreshed

    def abort(self, lasted_s: float) -> None:
        """The market has left SYNCHRONIZED after `lasted_s`: there is nothing to refresh."""
        self._deepen_pause_s = DEEPEN_PAUSE_S if lasted_s < STABLE_S else 0.0
        if self._purpose is None:
            return
        self._requests.cancel()
        if self._candidate is not None:
            self._requests.dropped[SnapshotDrop.ABANDONED] += 1
        self.aborted += 1
        self._forget()

    def want(self, purpose: Purpose, now: float, not_before: float = 0.0) -> None:
        """Refresh the market, not before that time.

        If a refresh is under way, a more urgent purpose replaces a request not yet served.
        """
        if self._purpose is None:
            self._purpose = purpose
            self.started[purpose] += 1
            self._wanted_limit = self._limit_for(purpose)
            self._requests.issue(purpose, self._wanted_limit, max(now, not_before, self._not_before))
            return
        waiting = self._requests.awaited
        if waiting is None or self._requests.has_begun or purpose >= self._purpose:
            return
        if self._difference is not None and self._book.is_readable:
            return  # a confirmation is requested late on purpose
        self._purpose = purpose
        self._requests.cancel()
        self._requests.issue(purpose, self._wanted_limit, max(now, self._not_before))

    def begin(self) -> None:
        """The download of the awaited snapshot begins: retain what the live book applies from now on."""
        self._book.retain_updates()

    def note_applied(self, now: float, payload: Payload) -> None:
        """The live book has applied this update, and needs attention or may do so."""
        if self._candidate is not None:
            self._bring_up_to_date(now, payload)
            self._attend()

    def snapshot_received(
        self, now: float, request: RequestSnapshot, body: Payload | ReadSnapshot, limit: int | None
    ) -> None:
        """The awaited snapshot is here."""
        self._refusals = 0
        candidate = ReadSnapshot.of(self._make_book, body, limit).book
        if candidate is None:
            self._drop_and_retry(SnapshotDrop.MALFORMED, now)
            return
        if are_sides_far_apart(candidate, self._book):
            self._drop_and_retry(SnapshotDrop.WRONG_PRICES, now)
            return
        try:
            candidate.apply_retained(self._book)
        except MalformedMessage:  # too many decimals beside the snapshot's; the live book could apply it
            self._drop_and_retry(SnapshotDrop.MALFORMED, now)
            return
        assert candidate.last_update_id is not None
        assert self._book.last_update_id is not None
        if candidate.last_update_id < self._book.last_update_id:
            # The retaining goes on: if REST lags behind the stream, the next snapshot finds what it needs.
            self._drop_and_retry(SnapshotDrop.TOO_OLD, now, keep_retaining=True)
            return
        self._book.forget_retained()
        self._candidate = candidate
        self._candidate_limit = request.limit
        self._candidate_expires_at = now + AHEAD_S_MAX
        self._applied_before = self._book.counters.updates_applied
        self._compare_if_equal_ids(now)
        self._attend()

    def snapshot_failed(self, now: float, retry_at: float | None, *, is_permanent: bool) -> bool:
        """The download has failed. Return True if the exchange has refused the market for good."""
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

    def take_contradiction(self) -> bool:
        """Return once whether snapshots contradict the live book for good: the market must be synchronized again."""
        is_contradicted, self._is_contradicted = self._is_contradicted, False
        return is_contradicted

    # -- internals

    def _limit_for(self, purpose: Purpose) -> int:
        """Return the limit to request: a deeper one if that is the purpose, or if the horizon proved too near."""
        deeper = [step for step in self._limits if step > self.limit]
        return deeper[0] if deeper and purpose in (Purpose.HORIZON, Purpose.DEEPEN) else self.limit

    def _deepen(self, now: float, pause_s: float = 0.0) -> None:
        """Request the next deeper limit after a pause, if there is one and the book is not complete."""
        is_complete = self._book.bid_horizon is None and self._book.ask_horizon is None
        if not is_complete and self._limit_for(Purpose.DEEPEN) > self.limit:
            self.want(Purpose.DEEPEN, now, now + pause_s)

    def _set_interval(self, now: float) -> None:
        self._interval_due = None if self._interval_s is None else now + self._interval_s

    def _attend(self) -> None:
        """Let the live book draw attention when it has reached the candidate, or has had time enough for that."""
        if self._candidate is None:
            self._book.attend_at(None)
        else:
            self._book.attend_at(self._candidate.last_update_id, max(1, self._updates_left))

    @property
    def _updates_left(self) -> int:
        """How many updates the live book may apply before the candidate is discarded."""
        updates_max = AHEAD_UPDATES_MAX if self._book.is_readable else AHEAD_UPDATES_MAX_UNREADABLE
        return updates_max - (self._book.counters.updates_applied - self._applied_before)

    def _bring_up_to_date(self, now: float, payload: Payload) -> None:
        """Apply to the candidate what the live book has just applied. What came before was in the candidate already."""
        assert self._candidate is not None
        try:
            self._candidate.apply(payload)
        except MalformedMessage:
            self._drop_and_retry(SnapshotDrop.MALFORMED, now)
            return
        self._compare_if_equal_ids(now)
        if self._candidate is not None and self._updates_left <= 0:
            self._drop_and_retry(SnapshotDrop.EXPIRED, now)

    def _compare_if_equal_ids(self, now: float) -> None:
        """If both books stand at one id, compare them; then end the refresh or request a confirmation."""
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
            was_different = self._difference is not None
            result = RefreshResult.SNAPSHOT_INCOHERENT if was_different else RefreshResult.EQUAL
            self._end(now, result, comparison)
            return
        difference, compared_count = differences(live, candidate)
        assert difference, "compare() and differences() disagree"
        before = self._difference
        if before is not None and difference <= before:
            live.adopt(candidate)
            self._end(now, RefreshResult.AUDIT_CURED, comparison)
            return
        self._requests.dropped[SnapshotDrop.DIFFERENT] += 1
        is_confirmed = before is not None and not difference.isdisjoint(before)  # and there is more
        if is_confirmed or self._confirms >= CONFIRMS_MAX:
            self._note_end(RefreshResult.RESYNCED, comparison)
            self._is_contradicted = True
            return
        if len(difference) <= INCOHERENT_SHARE_MAX * compared_count and not live.is_readable:
            self._extend(candidate)  # so that it can be read meanwhile
        self._difference = difference
        self._confirms += 1
        self._candidate = None
        self._purpose = Purpose.CONFIRM
        self._requests.issue(Purpose.CONFIRM, self._wanted_limit, now + AUDIT_CONFIRM_S if live.is_readable else now)

    def _extend(self, candidate: "OrderBook") -> None:
        """Take what lies past the live book's horizon, if that is possible."""
        deeper = extended(self._book, candidate, self._make_book)
        if deeper is not None:
            self._book.adopt(deeper)

    def _note_end(self, result: RefreshResult, comparison: Comparison) -> None:
        """Count and report a result, and end the refresh under way."""
        assert self._purpose is not None
        assert self._book.last_update_id is not None
        self.ended[result] += 1
        ended = Refreshed(result, self._purpose, self._candidate_limit, self._book.last_update_id, comparison)
        self._actions.append(ended)
        self._forget()

    def _end(self, now: float, result: RefreshResult, comparison: Comparison) -> None:
        """The snapshot was adopted."""
        self._note_end(result, comparison)
        self._set_interval(now)
        self._requests.used += 1
        self.limit = self._candidate_limit
        self.refreshed_at = now
        self._backoff.reset()
        self._not_before = now + REFRESH_PAUSE_S
        self._deepen(now)

    def _forget(self) -> None:
        """End the refresh under way."""
        self._purpose = None
        self._candidate = None
        self._difference = None
        self._confirms = 0
        self._refusals = 0
        self._book.forget_retained()
        self._attend()

    def _drop_and_retry(self, why: SnapshotDrop, now: float, *, keep_retaining: bool = False) -> None:
        self._requests.dropped[why] += 1
        self._candidate = None
        self._attend()
        self._retry(now, None, keep_retaining=keep_retaining)

    def _retry(self, now: float, retry_at: float | None, *, keep_retaining: bool = False) -> None:
        """Request another snapshot, after a backoff, or when the exchange has said that it is allowed.

        A refresh goes on until it succeeds or the market leaves SYNCHRONIZED. Its tries are limited in their rate, not
        in their number.
        """
        assert self._purpose is not None
        if not keep_retaining:
            self._book.forget_retained()
        if retry_at is not None:
            self._not_before = max(now, retry_at)
        else:
            # A book that has left its horizon waits for the levels, and is not spared more than an unsynchronized one.
            longest_s = RETRY_S_MAX if self._book.is_readable else USELESS_S_MAX
            self._not_before = now + min(longest_s, self._backoff.next_delay_s())
        self._requests.issue(self._purpose, self._wanted_limit, self._not_before)


def differences(live: "OrderBook", candidate: "OrderBook") -> tuple[frozenset[Difference], int]:
    """Return where two books differ inside both horizons, and how many prices were compared.

    O(levels) in Python. It is called only when `compare` has found a difference, which is rare.
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
    """Return a book with live's levels inside its horizons and candidate's past them; None if that is impossible.

    A book takes levels only from a snapshot, so one is written in the exchange's format. O(levels).
    """
    ours: Any = live.held_levels(number=Decimal)
    theirs: Any = candidate.held_levels(number=Decimal)
    bids = _joined(True, ours.bids, ours.bid_horizon, theirs.bids, theirs.bid_horizon)
    asks = _joined(False, ours.asks, ours.ask_horizon, theirs.asks, theirs.ask_horizon)
    # A side without levels would be taken for an empty one. Of a side with a horizon that is not known.
    if not (bids.levels or bids.is_complete) or not (asks.levels or asks.is_complete):
        return None
    book = make_book()
    texts = [",".join(f'["{price:f}","{quantity:f}"]' for price, quantity in side.levels) for side in (bids, asks)]
    body = f'{{"lastUpdateId":{live.last_update_id},"bids":[{texts[0]}],"asks":[{texts[1]}]}}'
    try:
        book.load_snapshot(body, _limit_for_horizons(bids, asks))
    except MalformedMessage:  # so different that the joined book would be crossed
        return None
    return book


class _Side(NamedTuple):
    levels: list[tuple[Decimal, Decimal]]
    is_complete: bool


def _is_within(is_bid: bool, price: Decimal, *horizons: Decimal | None) -> bool:
    """Return whether a price lies inside all these horizons. None is no horizon."""
    return all(horizon is None or (price >= horizon if is_bid else price <= horizon) for horizon in horizons)


def _joined(is_bid: bool, ours: Any, our_horizon: Any, theirs: Any, their_horizon: Any) -> _Side:
    """Return our levels inside our horizon, then theirs past it and inside theirs."""
    levels = [level for level in ours if _is_within(is_bid, level[0], our_horizon)]
    if our_horizon is None:
        return _Side(levels, is_complete=True)
    levels += [
        level
        for level in theirs
        if not _is_within(is_bid, level[0], our_horizon) and _is_within(is_bid, level[0], their_horizon)
    ]
    return _Side(levels, is_complete=their_horizon is None)


def _limit_for_horizons(bids: _Side, asks: _Side) -> int | None:
    """Return the limit that makes a snapshot of these sides complete on just those sides that are.

    There is no such limit for a longer complete side beside a shorter incomplete one. Then neither is called complete,
    which claims less than is known and is never wrong.
    """
    sides = bids, asks
    limit = 1 + max(side.is_complete * len(side.levels) for side in sides)
    return limit if all(side.is_complete or limit <= len(side.levels) for side in sides) else None
