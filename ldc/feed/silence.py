"""When to probe a market that is silent, and what the answer means.

Rule 1: no I/O, and `now` is an argument. The group requests the probes.
Rule 2: every answer is evidence for the book or against it, whatever form it has. Evidence against it is confirmed by
    another probe at once, because one host may be wrong. Then the market is synchronized again.

| the answer | evidence |
| --- | --- |
| the same id, the same first levels | the book is current |
| a higher id | the stream must bring an update within `Timing.moved_on_s`, or the subscription is dead |
| a lower id | the exchange has restarted its ids, and the subscription is dead |
| the same id, other levels or none | the book is wrong, or belongs to a market that has ended |
| the exchange does not know the market | it was delisted |
| any other failure | none; `last_error` tells it |
"""

import enum
import math
from typing import TYPE_CHECKING, NamedTuple

from ldc.limits import Timing
from ldc.types import Cause

if TYPE_CHECKING:
    from ldc.book import OrderBook

CONTRADICTIONS_MAX = 2
"""Probes in a row that contradict a silent book. Then it is synchronized again, with a new subscription."""


class ProbeAnswer(NamedTuple):
    """What a probe found."""

    book: "OrderBook | None" = None
    """The exchange's first levels; None: the probe has failed."""
    problem: str | None = None
    """Why it has failed."""
    is_refused: bool = False
    """The exchange says that it does not know the market."""

    @property
    def last_update_id(self) -> int | None:
        """The exchange's id, if it is known."""
        return None if self.book is None else self.book.last_update_id


class Evidence(enum.Enum):
    """What a probe says about a book."""

    NONE = enum.auto()
    CURRENT = enum.auto()
    BEHIND = enum.auto()
    LOWER_ID = enum.auto()
    OTHER_LEVELS = enum.auto()
    REFUSED = enum.auto()


CONTRADICTIONS = {
    Evidence.LOWER_ID: Cause.IDS_WENT_BACK,
    Evidence.OTHER_LEVELS: Cause.DIFFERENT,
    Evidence.REFUSED: Cause.SILENT,
}
"""The evidence against a book whose market is silent, and the cause under which it is synchronized again."""


def evidence_of(answer: ProbeAnswer, book: "OrderBook") -> Evidence:
    """Return what a probe says about a book."""
    if answer.is_refused:
        return Evidence.REFUSED
    found_id, book_id = answer.last_update_id, book.last_update_id
    if answer.book is None or found_id is None or book_id is None:
        return Evidence.NONE
    if found_id != book_id:
        return Evidence.BEHIND if found_id > book_id else Evidence.LOWER_ID
    return Evidence.CURRENT if book.compare(answer.book).is_equal else Evidence.OTHER_LEVELS


class SilenceWatch:
    """Decides when to probe a silent market, and whether its subscription is dead."""

    __slots__ = ("_expected_since", "_quiet_s", "_timing", "contradictions", "is_probing", "requested_at")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._quiet_s = timing.quiet_s_first
        self._expected_since: float | None = None  # a probe has shown that an update must come
        self.requested_at: float | None = None
        """When the last probe was requested; None if an update came since."""
        self.is_probing = False
        """Whether the answer to a probe is awaited."""
        self.contradictions = 0
        """Answers in a row that contradicted the book, no update having come since the probe was requested."""

    def is_due(self, heard_at: float, now: float) -> bool:
        """Whether to probe a market whose last update was judged at `heard_at`."""
        if self.requested_at is not None and heard_at > self.requested_at:
            self._quiet_s, self.requested_at, self._expected_since = self._timing.quiet_s_first, None, None
        quiet_since = heard_at if self.requested_at is None else self.requested_at
        return not self.is_probing and self._expected_since is None and now - quiet_since >= self._quiet_s

    def next_due(self, heard_at: float) -> float:
        """Return when `is_due` or `is_dead` may be true at the earliest, if no update comes."""
        if self._expected_since is not None:
            return self._expected_since + self._timing.moved_on_s
        if self.is_probing:
            return math.inf
        if self.requested_at is None or heard_at > self.requested_at:
            return heard_at + self._timing.quiet_s_first
        return self.requested_at + self._quiet_s

    def probe_requested(self, now: float) -> None:
        """Note a probe. The wait for the next one doubles, unless an update comes."""
        if self.requested_at is not None:
            self._quiet_s = min(2 * self._quiet_s, self._timing.quiet_s_max)
        self.requested_at = now
        self.is_probing = True

    def probe_answered(self, evidence: Evidence, heard_at: float, now: float) -> bool:
        """Note the end of a probe; return whether the book is contradicted, and it is to be confirmed or believed."""
        was_probing, self.is_probing = self.is_probing, False
        if evidence is Evidence.BEHIND:
            self._expected_since = now
        is_silent = was_probing and self.requested_at is not None and heard_at <= self.requested_at
        if evidence in CONTRADICTIONS and is_silent:
            self.contradictions += 1
            return True
        if evidence is not Evidence.NONE or not is_silent:
            self.contradictions = 0
        return False

    def confirm(self, now: float) -> None:
        """Note a probe that is to confirm the last one."""
        self.requested_at = now
        self.is_probing = True

    def is_dead(self, heard_at: float, now: float) -> bool:
        """Whether the exchange has moved on and no update came within `Timing.moved_on_s`. True once only."""
        if self._expected_since is None or now - self._expected_since < self._timing.moved_on_s:
            return False
        is_dead = heard_at <= self._expected_since
        self._expected_since = None
        if is_dead:
            self.requested_at = now
        return is_dead
