"""Who consumes the updates of a book, in plain Python: the definition of what ldc/core/updates.pxi does.

Rule 1: a `BookWatch` is one stream's interest in one book. Its fields belong to the book's lock, as its levels do.
Rule 2: what can wait is made when it is taken: a snapshot and the coalesced changes are copied from the book, under its
    lock. So they are of the id at which the book stands then.
Rule 3: where there is no room, the consumer gets a snapshot in place of what was lost, and `missed` says how many
    updates that were. A loss is never dropped.
Rule 4: a queue is signalled at most once until its consumer arms it again.
"""

import os
import threading
from collections import deque
from decimal import Decimal
from typing import Any

from ldc.book.pure.json import Unreadable, event_text, message_text, read_update
from ldc.book.pure.side import BookSide, Level, Sides, applied_levels, converter
from ldc.errors import MalformedMessage, is_final
from ldc.types import Cause, Message

TOUCHED_PRICES_MAX = 65_536
"""Prices of one side between two items of "changes"; with more the consumer gets a snapshot."""

LOOK_AGAIN_S = 0.5
"""A waiting thread looks at least so often: no thread wakes it when a lease expires, for its writer stands still."""

LATEST, CHANGES, EVERY = range(3)

Units = list[Level]

_CAUSES: dict[str, str] = {str(cause): cause for cause in Cause}


class BookWatch:
    """One stream's interest in one book. Made by `UpdateQueue.add`."""

    __slots__ = (
        "asks",
        "bids",
        "cause",
        "dropped",
        "first_id",
        "has_news",
        "is_attached",
        "is_introduced",
        "is_lost",
        "is_over",
        "is_ready",
        "is_scaled",
        "is_stalled",
        "items",
        "needs_snapshot",
        "needs_wake",
        "owner",
        "policy",
        "queue",
        "state",
        "updates",
    )

    def __init__(self, queue: "UpdateQueue", state: Any, owner: object, policy: int, is_scaled: bool) -> None:
        self.queue = queue
        self.state = state
        self.owner = owner
        self.policy = policy
        self.is_scaled = is_scaled
        """Numbers are read at the book's scales: another scale needs a snapshot."""
        self.is_attached = True
        self.is_ready = False
        self.needs_wake = False
        self.is_introduced = False
        """An item was taken."""
        self.is_lost = True
        """The book cannot be read, and the consumer knows or will be told."""
        self.is_stalled = False
        """It is lost because the lease of the book has expired."""
        self.is_over = False
        """For good."""
        self.has_news = False
        """Something has happened that no item of the list has."""
        self.needs_snapshot = True
        self.cause: str | None = None
        """Of a loss that no item has reported."""
        self.updates = 0
        """Applied, without an item yet."""
        self.first_id: int | None = None
        """Of the first of them."""
        self.dropped = 0
        """Far levels that the book had dropped before."""
        self.items: deque[tuple[bool, tuple[Any, ...]]] = deque()
        """Those of "every", and losses: whether it counts as waiting, and the fields."""
        self.bids: set[int] = set()
        self.asks: set[int] = set()

    # what happens, under the book's lock

    def _tell(self) -> None:
        if not self.is_ready:
            self.is_ready = True
            self.queue._ready.append(self)
        if not self.queue._is_signalled:
            self.needs_wake = True

    def _want_snapshot(self) -> None:
        self.bids.clear()
        self.asks.clear()
        self.needs_snapshot = True

    def _append(self, is_counted: bool, **fields: Any) -> None:
        """Append an item that counts the updates before it as missed, but for its own."""
        missed = self.updates - ("first_id" in fields)
        self.updates, self.first_id = 0, None
        if is_counted:
            self.queue._count(1)
        self.items.append((is_counted, item_fields(self, missed=missed, **fields)))

    def _lose(self, cause: str) -> None:
        self.is_lost = True
        self.is_stalled = cause == Cause.STALLED
        self.is_over = is_final(cause)
        self._want_snapshot()
        self.has_news = self.policy == LATEST
        if self.policy != LATEST and (self.is_introduced or self.is_over):
            self._append(False, is_lost=True, cause=cause)
            self._tell()
            return
        self.cause = cause
        if self.policy == LATEST and (self.is_introduced or self.is_over):
            self._tell()

    def _regain(self) -> None:
        self.is_lost = self.is_stalled = False
        self.needs_snapshot = self.has_news = True
        self._tell()

    def note_state(self, cause: str | None, *, is_replaced: bool) -> None:
        """The book was suspended, resumed, cleared or loaded; `cause`: why it cannot be read, but for its lease."""
        if is_replaced:
            self._want_snapshot()
        if self.is_over:
            return
        if cause is not None:
            if not self.is_lost or is_final(cause):
                self._lose(cause)
        elif self.is_lost:
            if not self.is_stalled:
                self._regain()
        elif is_replaced:
            self._regain()

    def note_update(
        self, cause: str | None, payload: bytes, first_id: int, bids: Units, asks: Units, is_widened: bool
    ) -> None:
        """An update was applied."""
        if self.is_over:
            return
        self.updates += 1
        if self.first_id is None:
            self.first_id = first_id
        if cause is not None or self.is_lost:
            if cause is not None and not self.is_lost:
                self._lose(cause)
            elif cause is None and not self.is_stalled and not self.is_over:
                self._regain()
            return
        dropped = self.state.counts["levels_dropped"]
        if self.policy != LATEST and not self.needs_snapshot:
            if dropped != self.dropped or (is_widened and (self.is_scaled or self.policy == CHANGES)):
                self._want_snapshot()
            elif self.policy == EVERY:
                if self.queue._waiting < self.queue._waiting_max:
                    self._append(True, first_id=first_id, message=payload)
                else:
                    self._want_snapshot()
            else:
                self._touch(bids, asks)
        self.dropped = dropped
        self.has_news = self.has_news or self.policy != EVERY or self.needs_snapshot
        self._tell()

    def _touch(self, bids: Units, asks: Units) -> None:
        self.bids.update(price for price, _ in bids)
        self.asks.update(price for price, _ in asks)
        if max(len(self.bids), len(self.asks)) > TOUCHED_PRICES_MAX:
            self._want_snapshot()

    def note_adoption(self, cause: str | None, changed: tuple[Units, Units] | None, is_none: bool) -> None:
        """The book has adopted other levels. `changed`: which differ; None: they are at other scales."""
        self.dropped = self.state.counts["levels_dropped"]
        if self.is_over or is_none:
            return
        if self.is_lost:
            if cause is None and not self.is_stalled:
                self._regain()
            return
        if cause is not None:
            self._lose(cause)
            return
        if changed is None or self.needs_snapshot:
            if self.policy != LATEST:
                self._want_snapshot()
        elif self.policy == EVERY:
            if self.queue._waiting < self.queue._waiting_max:
                self._append(True, bids=changed[0], asks=changed[1])
            else:
                self._want_snapshot()
        elif self.policy == CHANGES:
            self._touch(*changed)
        self.has_news = self.has_news or self.policy != EVERY or self.needs_snapshot
        self._tell()

    def check_lease(self, cause: str | None) -> None:
        """Note that the lease has expired, or is renewed. `cause`: why the book cannot be read, its lease included."""
        if not self.is_attached or self.is_over:
            return
        if cause is not None and is_final(cause):
            self._lose(cause)
        elif cause == Cause.STALLED:
            if not self.is_lost:
                self._lose(cause)
        elif self.is_stalled:
            self.is_stalled = False
            if cause is None:
                self._regain()

    # taking, under the book's lock

    def take(self) -> tuple[Any, ...] | None:
        """Take the next item."""
        if self.items:
            is_counted, fields = self.items.popleft()
            if is_counted:
                self.queue._count(-1)
            self.is_introduced = True
            return fields
        if not self._has_slot:
            return None
        bids = asks = first_id = None
        is_snapshot, missed = self.needs_snapshot and not self.is_lost, self.updates
        if self.policy != LATEST and not self.is_lost:
            sides = self.state.sides
            if is_snapshot:
                bids, asks = sides.bids.top(None, True), sides.asks.top(None, True)
            else:
                bids, asks = touched_levels(sides.bids, self.bids), touched_levels(sides.asks, self.asks)
        if not is_snapshot and not self.is_lost and self.updates:
            missed, first_id = missed - 1, self.first_id
        fields = item_fields(
            self,
            is_lost=self.is_lost,
            is_snapshot=is_snapshot,
            cause=self.cause,
            missed=missed,
            first_id=first_id,
            bids=bids,
            asks=asks,
        )
        self.bids.clear()
        self.asks.clear()
        self.updates, self.first_id, self.cause = 0, None, None
        self.has_news = False
        self.needs_snapshot = self.is_lost
        self.dropped = self.state.counts["levels_dropped"]
        self.is_introduced = True
        return fields

    @property
    def _has_slot(self) -> bool:
        return self.has_news and (not self.is_lost or self.is_introduced or self.is_over)

    @property
    def has_more(self) -> bool:
        """Whether there is something to take."""
        return bool(self.items) or self._has_slot


def item_fields(
    watch: BookWatch,
    *,
    is_lost: bool = False,
    is_snapshot: bool = False,
    cause: str | None = None,
    missed: int = 0,
    first_id: int | None = None,
    message: bytes | None = None,
    bids: Units | None = None,
    asks: Units | None = None,
) -> tuple[Any, ...]:
    """Return an item as the tuple `ldc.consume.updates.Fields`: what is given, and where the book stands."""
    state, sides = watch.state, watch.state.sides
    return (
        watch.owner,
        is_lost,
        is_snapshot,
        None if cause is None else _CAUSES.get(cause, cause),
        missed,
        first_id,
        state.last_update_id,
        state.event_time_ms,
        state.transaction_time_ms,
        state.received_time_ns,
        state.epoch,
        0 if sides is None else sides.price_decimals,
        0 if sides is None else sides.quantity_decimals,
        None if sides is None else sides.bids.horizon_price,
        None if sides is None else sides.asks.horizon_price,
        message,
        bids,
        asks,
    )


def touched_levels(side: BookSide, prices: set[int]) -> Units:
    """Return the present quantity at each price, best first; 0: the side has no such level."""
    sign = side.sign
    return [(price, side.quantities.get(sign * price, 0)) for price in sorted(prices, reverse=sign < 0)]


def differences(before: Sides, after: Sides) -> tuple[Units, Units] | None:
    """Return what differs after an adoption, with the new quantities; None: the scales do."""
    scales = before.price_decimals, before.quantity_decimals
    if scales != (after.price_decimals, after.quantity_decimals):
        return None
    found: list[Units] = []
    for old, new in ((before.bids, after.bids), (before.asks, after.asks)):
        keys = sorted(old.quantities.keys() | new.quantities.keys())
        found.append(
            [
                (old.sign * key, new.quantities.get(key, 0))
                for key in keys
                if old.quantities.get(key, 0) != new.quantities.get(key, 0)
            ]
        )
    return found[0], found[1]


class UpdateQueue:
    """What waits for one consumer, of any number of books.

    Args:
        waiting_max: items of the policy "every" that may wait. With more, a consumer of a book gets a snapshot.
        is_inline: its consumer runs in the thread of the feed; `FrameReader.calls_inline` says when.

    Thread-safety: any method may be called from any thread. Each item is taken once.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_counting",
        "_descriptor",
        "_is_signalled",
        "_is_written",
        "_parent",
        "_ready",
        "_waiting",
        "_waiting_max",
        "_watches",
        "_with_consumer",
        "is_inline",
    )

    def __init__(self, waiting_max: int = 10_000, *, is_inline: bool = False) -> None:
        if waiting_max < 1:
            raise ValueError(f"waiting_max must be at least 1, not {waiting_max}")
        self.is_inline = is_inline
        self._waiting_max = waiting_max
        self._waiting = 0
        self._counting = threading.Lock()
        self._ready: deque[BookWatch] = deque()
        self._with_consumer = threading.RLock()  # a finalizer may remove a watch while its thread takes from another
        self._watches: set[BookWatch] = set()
        self._changed = threading.Condition(threading.RLock())
        self._is_signalled = False
        self._descriptor: tuple[int, int, bool] | None = None
        self._is_written = False
        self._parent: UpdateQueue | None = None

    def __del__(self) -> None:
        self.clear()

    def _count(self, step: int) -> None:
        with self._counting:
            self._waiting += step

    def add(self, book: Any, owner: object, policy: int, is_scaled: bool = False) -> BookWatch:
        """Note what happens to a book from now on; return the `BookWatch`. `policy`: 0 latest, 1 changes, 2 every."""
        if policy not in (LATEST, CHANGES, EVERY):
            raise ValueError(f"policy must be 0, 1 or 2, not {policy}")
        state = book._state
        watch = BookWatch(self, state, owner, policy, is_scaled)
        self._watches.add(watch)
        with state.lock:
            state.watches = (*state.watches, watch)
            watch.dropped = state.counts["levels_dropped"]
            cause = state.watched_cause()
            if cause is None:
                watch._regain()
            elif is_final(cause):
                watch._lose(cause)
        state.wake_consumers()
        return watch

    def remove(self, watch: BookWatch) -> None:
        """Note nothing more of a book, and drop what waits of it. Idempotent."""
        with watch.state.lock:
            watch.state.watches = tuple(each for each in watch.state.watches if each is not watch)
            watch.is_attached = watch.has_news = False
            self._count(-sum(is_counted for is_counted, _ in watch.items))
            watch.items.clear()
        with self._with_consumer:
            if watch in self._ready:
                self._ready.remove(watch)
        self._watches.discard(watch)

    def clear(self) -> None:
        """Remove all watches."""
        for watch in list(self._watches):
            self.remove(watch)

    def take(self) -> tuple[Any, ...] | None:
        """Return the next item, a tuple that `ldc.consume.updates` knows, or None: there is none. Books take turns."""
        fields = None
        with self._with_consumer:
            while fields is None and self._ready:
                watch = self._ready.popleft()
                with watch.state.lock:
                    fields = watch.take()
                    watch.is_ready = watch.has_more
                    if watch.is_ready:
                        self._ready.append(watch)
        if fields is not None and fields[1] and fields[3] is not None and is_final(fields[3]):
            self.remove(watch)
        return fields

    # waiting

    def arm(self) -> bool:
        """Ask to be signalled at the next item; return False if one waits already."""
        self.drain()
        self._is_signalled = False
        return not self._ready

    def drain(self) -> None:
        """Make the descriptor unreadable."""
        with self._changed:
            if self._is_written and self._descriptor is not None and self._descriptor[0] >= 0:
                self._is_written = False
                try:
                    while len(os.read(self._descriptor[0], 512)) == 512:
                        pass
                except BlockingIOError:
                    pass

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until the queue is signalled, at most so long. May return early. Handles signals."""
        wait_s = LOOK_AGAIN_S if timeout_s is None else min(max(timeout_s, 0.0), LOOK_AGAIN_S)
        with self._changed:
            if not self._is_signalled:
                self._changed.wait(wait_s)

    def wake(self) -> None:
        """Signal the queue, as an item does."""
        with self._changed:
            if self._is_signalled:
                return
            self._is_signalled = True
            self._changed.notify_all()
            if self._descriptor is not None:
                self._write()
            parent = self._parent
        if parent is not None:
            parent.wake()

    def _write(self) -> None:
        assert self._descriptor is not None
        _, descriptor, is_event = self._descriptor
        self._is_written = True
        try:
            os.write(descriptor, (1).to_bytes(8, "little") if is_event else b"\0")
        except BlockingIOError:
            pass

    def set_descriptor(self, read_fd: int, write_fd: int, is_event: bool) -> None:
        """Signal by a descriptor as well, which does not block; -1: by none. `is_event`: it is an eventfd.

        After the return no thread uses the descriptor that was set before: close it then.
        """
        with self._changed:
            self._descriptor = (read_fd, write_fd, is_event) if write_fd >= 0 else None
            if self._descriptor is not None and self._is_signalled:
                self._write()

    def set_parent(self, parent: "UpdateQueue | None") -> None:
        """Signal another queue together with this one, or (None) no longer."""
        with self._changed:
            self._parent = parent

    @property
    def waiting(self) -> int:
        """How many items of the policy "every" wait."""
        return self._waiting

    @property
    def has_ready(self) -> bool:
        """Whether something waits, perhaps."""
        return bool(self._ready)

    def check_leases(self) -> None:
        """Note the books whose lease has expired since the last check, and those whose lease is renewed again."""
        for watch in list(self._watches):
            state = watch.state
            with state.lock:
                cause = state.watched_cause()
                if cause is None and state.lease is not None and state.lease.is_expired(state.lease.now_ns()):
                    cause = Cause.STALLED
                watch.check_lease(cause)
            state.wake_consumers()


# --- Python's values --------------------------------------------------------------------------------------------------


def decode_levels(units: Units, price_decimals: int, quantity_decimals: int, number: type[Any]) -> list[Any]:
    """Return the levels of an item as [(price, quantity)] of that type; int: the units themselves."""
    price_of, quantity_of = _converter(number, price_decimals), _converter(number, quantity_decimals)
    return [(price_of(price), quantity_of(quantity)) for price, quantity in units]


def decode_price(units: int | None, price_decimals: int, number: type[Any]) -> Any:
    """Return the units of a price as that type, or None for None."""
    return None if units is None else _converter(number, price_decimals)(units)


def _converter(number: type[Any], decimals: int) -> Any:
    if number is int:
        return int
    if number not in (float, Decimal, str):
        raise ValueError(f"number must be float, Decimal, str or int, not {number!r}")
    return converter(number, decimals)


def decode_update(payload: Message, price_decimals: int, quantity_decimals: int, number: type[Any]) -> tuple[Any, Any]:
    """Return (bids, asks) of a depth update that a book of these decimals has applied, each as `decode_levels`.

    Raises MalformedMessage for what no such book can have applied.
    """
    try:
        update = read_update(message_text(payload))
        sides = [applied_levels(side, price_decimals, quantity_decimals) for side in (update.bids, update.asks)]
    except Unreadable as why:
        raise MalformedMessage(None, None, f"The depth update cannot be read: {why}; nothing of it was used.") from None
    return (
        decode_levels(sides[0], price_decimals, quantity_decimals, number),
        decode_levels(sides[1], price_decimals, quantity_decimals, number),
    )


def event_of(payload: Message) -> bytes:
    """Return the bytes of the event in a message: the object under `data` of a wrapper, or all of a bare event.

    Raises MalformedMessage for what is no JSON object.
    """
    try:
        return event_text(message_text(payload)).encode()
    except Unreadable as why:
        raise MalformedMessage(None, None, f"The message cannot be read: {why}; nothing of it was used.") from None
