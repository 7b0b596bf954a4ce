"""What a book was at an earlier update id: a log of changes, undone from the present backwards.

Rule 1: bounded. An id that is too old, or that has not come yet, is a `KeyError` that says which are known.
"""

from array import array
from dataclasses import dataclass
from decimal import Decimal

Levels = list[tuple[int, int]]
"""(price, quantity) in the last printed decimals."""

CHANGES_MAX = 16_384
"""At least so many changes of levels are remembered for each market, and at most twice as many: minutes of usual
trading. An id from before them cannot be asked for any more."""

_FIELDS = 3  # update id; price, bids negative; quantity before
_PLACES_MAX = 2 * CHANGES_MAX * _FIELDS


class ChangeLog:
    """What to undo, newest last."""

    __slots__ = ("_entries", "oldest_update_id")

    def __init__(self, update_id: int) -> None:
        self.oldest_update_id = update_id
        """The earliest update id that can be returned to."""
        self._entries = array("q")

    def note(self, update_id: int, is_bid: bool, price: int, before: int) -> None:
        """Remember that this id changed a price, at which there was `before`."""
        entries = self._entries
        entries.extend((update_id, -price if is_bid else price, before))
        if len(entries) >= _PLACES_MAX:
            cut = _PLACES_MAX // 2
            # All changes of an id go together: what is left begins with a whole id.
            self.oldest_update_id = entries[cut - _FIELDS]
            while entries[cut] == self.oldest_update_id:
                cut += _FIELDS
            del entries[:cut]

    def undo(self, bids: dict[int, int], asks: dict[int, int], update_id: int) -> None:
        """Turn copies of the present sides back to what they were at an id that is not before the oldest."""
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
        """Return the update id of so many changes ago; None: the oldest there is."""
        wanted = None if changes is None else len(self._entries) - changes * _FIELDS
        return self.oldest_update_id if wanted is None or wanted < 0 else self._entries[wanted]


@dataclass(frozen=True, slots=True)
class TrueBook:
    """The exchange's own book at an update id: all of its levels, best first, exact."""

    last_update_id: int
    bids: tuple[tuple[Decimal, Decimal], ...]
    asks: tuple[tuple[Decimal, Decimal], ...]
