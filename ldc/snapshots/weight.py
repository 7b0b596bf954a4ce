"""What all requesters share that draw on one weight of one address: its budgets, its pauses, and its ledger.

Rule 1: pure, as `ldc.snapshots.queue` is, which says what is asked and when.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ldc.limits import Backoff, WeightBudget
from ldc.sync.actions import Purpose

__all__ = ["HOST_PAUSE_S_FIRST", "HOST_PAUSE_S_MAX", "PART_OF_SHARE", "PROBE_PART", "SPARE_PART", "Lane", "Ledger"]

PART_OF_SHARE = {Purpose.SYNCHRONIZE: 1.0, Purpose.HORIZON: 0.9}
"""The part of a share that a purpose may use, in all."""

SPARE_PART = 0.75
"""The part of a share that everything else may use."""

PROBE_PART = 0.1
"""The part of a share that probes may use, within the above."""

HOST_PAUSE_S_FIRST = 0.5
"""The pause after the second failure of a host in a row is anything up to this; it doubles with each that follows."""

HOST_PAUSE_S_MAX = 5.0
"""The longest such pause. Short, because one market's broken answers may be all that is asked for; each market has a
longer back-off of its own."""


class Ledger(Protocol):
    """What several processes spend of one budget; see `ldc.snapshots.shared_budget`."""

    @property
    def folder(self) -> object:
        """Where it is kept."""

    def take(self, weight: int, allowed: int, now: float) -> tuple[float, str]:
        """Spend a weight if all together stay within `allowed`: (now, key); or return when to ask again, and ""."""

    def settle(self, key: str, paused_until: float, now: float) -> None:
        """What was spent under this key has been answered."""

    def give_back(self, key: str, now: float) -> None:
        """What was spent under this key was not sent."""


@dataclass(slots=True, eq=False)
class Lane:
    """What all the requesters share that draw on one weight of one address."""

    budget: WeightBudget
    probe_budget: WeightBudget
    backoff: Backoff
    last_failure_at: float = -math.inf
    has_failed_once: bool = False
    ledger: Ledger | None = None
    """The same budget, as other processes draw on it."""
    ledger_not_before: float = -math.inf
    """Until then the ledger has refused whoever may draw on no more of the weight than `ledger_allowed`."""
    ledger_allowed: int = 0
    is_asking_ledger: bool = False
    """Somebody is reading that file, which takes a while: until it is answered nobody else begins anything here."""

    @classmethod
    def of(cls, weight_per_minute: int, random: Callable[[], float]) -> "Lane":
        """Return the lane of a budget of which nothing has been spent."""
        backoff = Backoff(random, first_s=HOST_PAUSE_S_FIRST, max_s=HOST_PAUSE_S_MAX)
        return cls(WeightBudget(weight_per_minute), WeightBudget(weight_per_minute), backoff)

    def can_pay(self, weight: int, purpose: Purpose | None, share: float) -> bool:
        """Whether the share, or the part of it for this purpose, can ever pay for that."""
        return weight <= self.budget.allowed(share * (PROBE_PART if purpose is None else part_for(purpose)))

    def earliest(self, weight: int, purpose: Purpose | None, share: float, now: float) -> float:
        """Return when that may be sent, as far as is known here; see `WeightBudget.earliest`."""
        earliest = self.budget.earliest(weight, now, share * part_for(purpose))
        earliest = max(earliest, self.refused_until(purpose, share))
        if purpose is None:
            earliest = max(earliest, self.probe_budget.earliest(weight, now, share * PROBE_PART))
        return earliest

    def refused_until(self, purpose: Purpose | None, share: float) -> float:
        """Return until when the ledger has refused this purpose: what it keeps for a more urgent one is not refused."""
        is_refused = self.budget.allowed(share * part_for(purpose)) <= self.ledger_allowed
        return self.ledger_not_before if is_refused else -math.inf

    def spend(self, weight: int, purpose: Purpose | None, now: float) -> None:
        """Count what is sent now."""
        self.budget.spend(weight, now)
        if purpose is None:
            self.probe_budget.spend(weight, now)

    def settle(self, weight: int, purpose: Purpose | None, now: float) -> None:
        """Count it as answered."""
        self.budget.settle(weight, now)
        if purpose is None:
            self.probe_budget.settle(weight, now)

    def count_host_failure(self, began: float, now: float) -> None:
        """A download that began then has met a host that does not answer as it should."""
        if began < self.last_failure_at:
            return  # it was under way when the last one was counted: the same trouble
        self.last_failure_at = now
        if self.has_failed_once:
            self.budget.pause_until(now + self.backoff.next_delay_s())
        self.has_failed_once = True

    def count_answer(self) -> None:
        """The host is well."""
        self.budget.served()
        self.backoff.reset()
        self.has_failed_once = False


def part_for(purpose: Purpose | None) -> float:
    """Return the part of a share that a purpose may use, in all."""
    return SPARE_PART if purpose is None else PART_OF_SHARE.get(purpose, SPARE_PART)
