"""The weight pool: what all clients share that draw on one request weight of one address.

Rule 1: pure, as `ldc.snapshots.queue` is, which decides what is requested and when.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ldc.limits import WEIGHT_WINDOW_S, Backoff, WeightBudget
from ldc.snapshots.refusals import RefusalLog
from ldc.sync.actions import Purpose

if TYPE_CHECKING:
    from ldc.snapshots.shared_budget import SharedBudget

PART_OF_SHARE = {Purpose.SYNCHRONIZE: 1.0, Purpose.HORIZON: 0.9}
"""The part of a client's share that a purpose may use, with all more urgent ones."""

SPARE_PART = 0.75
"""The part of a share that every other purpose may use."""

PROBE_PART = 0.1
"""The part of a share that probes may use, within `SPARE_PART`."""

REPEATS_FREE = 3
"""So many snapshots in a minute may synchronize one market before it is slowed, however scarce the weight is."""

REPEAT_PART = 0.25
"""The part of the weight that is left which a slowed market may use in a minute. One or a few leave all that others may
use. Beside ten of them, less urgent snapshots are still served for half of the time."""

HOST_PAUSE_S_FIRST = 0.5
"""Seconds: the ceiling of the random pause after a host's second failure in a row. It doubles with each further one."""

HOST_PAUSE_S_MAX = 5.0
"""Seconds: the highest ceiling of such a pause. Short, because the failures may concern one market only; each market
has a longer backoff of its own."""


@dataclass(slots=True, eq=False)
class WeightPool:
    """The budgets, the pauses and the shared budget of one request weight of one address."""

    budget: WeightBudget
    probe_budget: WeightBudget
    backoff: Backoff
    last_failure_at: float = -math.inf
    has_failed_once: bool = False
    shared_budget: "SharedBudget | None" = None
    """The same weight as all processes of the machine spend it; None: this process does not share it."""
    shared_not_before: float = -math.inf
    """Until then the shared budget has refused requests that may use no more than `shared_allowed`."""
    shared_allowed: int = 0
    refusals: RefusalLog = field(default_factory=RefusalLog)
    is_taking_shared: bool = False
    """A worker is taking from the shared budget, which is a file. Until it returns, no other request of the pool
    begins."""

    @classmethod
    def of(cls, weight_per_minute: int, random: Callable[[], float]) -> "WeightPool":
        """Return a pool of which nothing has been spent."""
        backoff = Backoff(random, first_s=HOST_PAUSE_S_FIRST, max_s=HOST_PAUSE_S_MAX)
        return cls(WeightBudget(weight_per_minute), WeightBudget(weight_per_minute), backoff)

    def can_pay(self, weight: int, purpose: Purpose | None, share: float) -> bool:
        """Whether the share, or its part for this purpose, can ever pay for that weight."""
        return weight <= self.budget.allowed(share * (PROBE_PART if purpose is None else part_for(purpose)))

    def earliest(self, weight: int, purpose: Purpose | None, share: float, now: float) -> float:
        """Return when that weight may be sent, as far as this process knows; see `WeightBudget.earliest`."""
        earliest = self.budget.earliest(weight, now, share * part_for(purpose))
        earliest = max(earliest, self.refused_until(purpose, share))
        if purpose is None:
            earliest = max(earliest, self.probe_budget.earliest(weight, now, share * PROBE_PART))
        return earliest

    def refused_until(self, purpose: Purpose | None, share: float) -> float:
        """Return until when the shared budget refuses this purpose. A refusal does not hold for more urgent ones."""
        is_refused = self.budget.allowed(share * part_for(purpose)) <= self.shared_allowed
        return self.shared_not_before if is_refused else -math.inf

    def repeat_earliest(self, weight: int, share: float, began_at: Sequence[float], now: float) -> float:
        """Return when a market may be synchronized that was before, at these times, the latest last; `now` if at once.

        It waits only while at most half of the share is left, and after `REPEATS_FREE` times in a minute. Then its
        tries are so far apart that it uses `REPEAT_PART` of what is left in a minute; a minute at most.
        """
        allowed = self.budget.allowed(share)
        left = allowed - self.budget.used(now)
        is_repeated = len(began_at) >= REPEATS_FREE and began_at[-REPEATS_FREE] > now - WEIGHT_WINDOW_S
        if not is_repeated or 2 * left > allowed:
            return now
        wait_s = min(WEIGHT_WINDOW_S, WEIGHT_WINDOW_S * weight / max(1.0, REPEAT_PART * left))
        not_scarce_at = self.budget.earliest(allowed // 2 + 1, now, share)
        return max(now, min(began_at[-1] + wait_s, not_scarce_at))

    def spend(self, weight: int, purpose: Purpose | None, now: float) -> None:
        """Count a request that is sent now."""
        self.budget.spend(weight, now)
        if purpose is None:
            self.probe_budget.spend(weight, now)

    def settle(self, weight: int, purpose: Purpose | None, now: float) -> None:
        """Count that request as answered."""
        self.budget.settle(weight, now)
        if purpose is None:
            self.probe_budget.settle(weight, now)

    def count_host_failure(self, began: float, now: float) -> None:
        """Count a download, begun at `began`, that the host did not answer as it should."""
        if began < self.last_failure_at:
            return  # it was in flight when the last failure was counted: the same trouble
        self.last_failure_at = now
        if self.has_failed_once:
            self.budget.pause_until(now + self.backoff.next_delay_s())
        self.has_failed_once = True

    def count_answer(self) -> None:
        """Count an answer that shows that the host works."""
        self.budget.served()
        self.backoff.reset()
        self.has_failed_once = False


def part_for(purpose: Purpose | None) -> float:
    """Return the part of a share that a purpose may use (None: a probe)."""
    return SPARE_PART if purpose is None else PART_OF_SHARE.get(purpose, SPARE_PART)
