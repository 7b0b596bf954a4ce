"""A book at an earlier update id: a log of changes that are undone, the latest first.

Rule 1: memory is bounded. An id that is too old, or that has not come yet, is a `KeyError` with the known ones.
"""

from array import array
from dataclasses import dataclass
from decimal import Decimal

Levels = list[tuple[int, int]]
"""(price, quantity) as integers in units of the last printed decimal."""

CHANGES_MAX = 16_384
"""Changes of levels that a market's log keeps at least; it keeps at most twice as many. That is minutes of usual
trading. An id from before them is a ``KeyError``."""

_FIELDS = 3  # update id; price, bids negative; quantity before
_PLACES_MAX = 2 * CHANGES_MAX * _FIELDS


class ChangeLog:
    """The changes of a book, the latest last."""

    __slots__ = ("_entries", "oldest_update_id")

    def __init__(self, update_id: int) -> None:
        self.oldest_update_id = update_id
        """The earliest update id that `undo` can restore."""
        self._entries = array("q")

    def note(self, update_id: int, is_bid: bool, price: int, before: int) -> None:
        """Log that this id changed a price whose quantity was `before`."""
        entries = self._entries
        entries.extend((update_id, -price if is_bid else price, before))
        if len(entries) >= _PLACES_MAX:
            cut = _PLACES_MAX // 2
            # All changes of an id are dropped together.
            self.oldest_update_id = entries[cut - _FIELDS]
            while entries[cut] == self.oldest_update_id:
                cut += _FIELDS
            del entries[:cut]

    def undo(self, bids: dict[int, int], asks: dict[int, int], update_id: int) -> None:
        """Restore copies of the present sides to an update id, which must not be before the oldest."""
        entries = self._entries
        for place in range(len(entries) - _FIELDS, -1, -_FIELDS):
            if entries[place] <= update_id:
                return
            price, before = entries[place + 1], entries[place + 2]
            levels = bids if price < 0 else asks
            if before:
                levels[abs(price)] = before
            else:
                levels.pop(abs(price), None)

    def update_id_before(self, changes: int | None) -> int:
        """Return the update id before the last `changes` changes; None: the oldest."""
        wanted = None if changes is None else len(self._entries) - changes * _FIELDS
        return self.oldest_update_id if wanted is None or wanted < 0 else self._entries[wanted]


@dataclass(frozen=True, slots=True)
class TrueBook:
    """The exchange's own book at an update id: its levels, best first, exact."""

    last_update_id: int
    bids: tuple[tuple[Decimal, Decimal], ...]
    asks: tuple[tuple[Decimal, Decimal], ...]
