"""One market as its feed group keeps it: its book and synchronizer, and what the group remembers about it.

Rule 1: written by the group's thread only. Other threads look, and wait on `signal`.
Rule 2: no socket, no clock and no thread in here; `now` is an argument.
"""

import enum
import logging
import math
import threading
from collections.abc import Callable

from ldc.book import OrderBook, StreamBinding, StreamTally
from ldc.errors import MalformedMessage
from ldc.network.text import described
from ldc.sync.machine import Synchronizer
from ldc.sync.parts import Refreshed, RefreshResult, StateChanged

__all__ = ["LiveMarket", "MessageDrop", "SilenceWatch", "UpdateSignal"]

logger = logging.getLogger("binance_local_depth_cache")

QUIET_S_FIRST = 60.0
"""A market that was silent for so long, on a connection that answers pings, is looked up by REST."""

QUIET_S_MAX = 900.0
"""The wait doubles with each look-up that finds nothing new, up to this. A quiet market costs 96 look-ups a day."""

MOVED_ON_S = 2.0
"""How long an update may be behind what a look-up has shown; then the market's subscription is dead."""


class MessageDrop(enum.StrEnum):
    """Why a frame was dropped before it came to any market."""

    UNREADABLE = "UNREADABLE"
    """It is not JSON, or its header is not what the protocol says."""
    UNKNOWN_STREAM = "UNKNOWN_STREAM"
    """It names no stream that was asked for."""
    UNKNOWN_REPLY = "UNKNOWN_REPLY"
    """It answers no request of ours, or refuses one."""


class UpdateSignal:
    """Wakes threads that wait for a market, without costing the writer a lock when nobody waits.

    The writer publishes, then looks at `waiting`. A waiter counts itself in, then looks at what is published.
    Whichever comes first, one of the two sees the other.
    """

    __slots__ = ("_binding", "_changed")

    def __init__(self, binding: StreamBinding) -> None:
        self._changed = threading.Condition()
        self._binding = binding

    def notify(self) -> None:
        """Wake all waiting threads; each looks for itself whether that was what it waited for."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, has_happened: Callable[[], bool], timeout_s: float | None) -> bool:
        """Block until it has happened, or the time is over; return whether it has."""
        with self._changed:
            self._binding.waiting += 1
            try:
                return self._changed.wait_for(has_happened, timeout_s)
            finally:
                self._binding.waiting -= 1


class SilenceWatch:
    """When to look up a silent market, and whether what was found means that its subscription is dead."""

    __slots__ = ("_asked_at", "_expected_since", "_quiet_s", "is_asking")

    def __init__(self) -> None:
        self._quiet_s = QUIET_S_FIRST
        self._asked_at: float | None = None
        self._expected_since: float | None = None  # a look-up has shown that an update must come
        self.is_asking = False
        """Whether a look-up is under way."""

    def is_due(self, heard_at: float, now: float) -> bool:
        """Whether it is time for a look-up, when the market's last frame came at `heard_at`."""
        if self._asked_at is not None and heard_at > self._asked_at:
            self._quiet_s, self._asked_at, self._expected_since = QUIET_S_FIRST, None, None
        quiet_since = heard_at if self._asked_at is None else self._asked_at
        return not self.is_asking and self._expected_since is None and now - quiet_since >= self._quiet_s

    @property
    def asked_at(self) -> float | None:
        """When the last look-up was asked for; None if something was heard since."""
        return self._asked_at

    def ask(self, now: float) -> None:
        """A look-up is asked for."""
        if self._asked_at is not None:
            self._quiet_s = min(2 * self._quiet_s, QUIET_S_MAX)
        self._asked_at = now
        self.is_asking = True

    def answer(self, has_moved_on: bool, now: float) -> None:
        """A look-up has ended: has the exchange's id passed the book's?"""
        self.is_asking = False
        if has_moved_on:
            self._expected_since = now

    def is_dead(self, heard_at: float, now: float) -> bool:
        """Whether the exchange moved on, and no update came in the time that one may take. True once only."""
        if self._expected_since is None or now - self._expected_since < MOVED_ON_S:
            return False
        is_dead = heard_at <= self._expected_since
        self._expected_since = None
        if is_dead:
            self._asked_at = now
        return is_dead


class LiveMarket:
    """A market, its book and its synchronizer, in a feed group."""

    __slots__ = (
        "binding",
        "book",
        "has_logged_malformed",
        "is_removed",
        "last_error",
        "last_restart_time",
        "market",
        "on_restart",
        "on_state",
        "probed_at",
        "restart_count",
        "serial",
        "signal",
        "silence",
        "stream",
        "symbol",
        "synchronizer",
        "timer_due",
        "was_interrupted",
    )

    def __init__(
        self,
        market: str,
        symbol: str,
        stream: str,
        book: OrderBook,
        synchronizer: Synchronizer,
        serial: int,
        on_state: "Callable[[LiveMarket, StateChanged], None]",
        on_restart: "Callable[[LiveMarket], None]",
    ) -> None:
        self.market = market
        """As the user spelt it first."""
        self.symbol = symbol
        """As the exchange spells it."""
        self.stream = stream
        self.serial = serial
        """Tells it from others of the same market, before and after it, to which a late answer may belong."""
        self.book = book
        self.synchronizer = synchronizer
        self.binding = StreamBinding(book, self)
        """By which the frame readers of its connections bring updates to its book."""
        self.signal = UpdateSignal(self.binding)
        self.silence = SilenceWatch()
        self.probed_at = -math.inf
        """When the last look-up was asked for that found the book where the exchange is."""
        self.timer_due: float | None = None
        """When the group will call its synchronizer next."""
        self.is_removed = False
        self.was_interrupted = False
        """Its last connection ended, and no other one has taken it up yet."""
        self.restart_count = 0
        self.last_restart_time: float | None = None
        """Unix time."""
        self.last_error: str | None = None
        """Why its last snapshot failed, or its stream was refused."""
        self.has_logged_malformed = False
        self.on_state = on_state
        self.on_restart = on_restart

    def note_moved(self, tally: StreamTally | None, id_before: int | None) -> None:
        """One of several streams has brought an update the long way; the book stood at `id_before` before it."""
        if tally is None or not self.binding.is_redundant:
            return
        if self.book.last_update_id != id_before:
            tally.firsts += 1
        elif self.synchronizer.gap_since is None:
            tally.duplicates += 1

    @property
    def heard_at(self) -> float:
        """When an update of it was judged last, by its book or by its synchronizer."""
        return max(self.binding.heard_at, self.synchronizer.judged_at)

    def note_acknowledged(self, unix_time: float) -> None:
        """Its stream is subscribed; after an interruption that is a restart."""
        if not self.was_interrupted:
            return
        self.was_interrupted = False
        self.restart_count += 1
        self.last_restart_time = unix_time
        self.on_restart(self)

    def take_probe(self, last_update_id: int | None, now: float) -> bool:
        """Take the exchange's id as a look-up has shown it (None: it has not); return whether it is past the book's."""
        has_moved_on = self.is_behind(last_update_id)
        if has_moved_on is False and self.silence.asked_at is not None:
            self.probed_at = self.silence.asked_at
        self.silence.answer(has_moved_on is True, now)
        return has_moved_on is True

    def is_behind(self, last_update_id: int | None) -> bool | None:
        """Whether the exchange is past the book's id; None: one of the two is not known."""
        book_id = self.book.last_update_id
        return None if last_update_id is None or book_id is None else last_update_id > book_id

    def note_state(self, change: StateChanged) -> None:
        """It is in another state."""
        self.on_state(self, change)
        self.wake_waiters()

    def note_malformed(self, error: MalformedMessage) -> None:
        """An update of it could not be read. The first one is logged."""
        if not self.has_logged_malformed:
            self.has_logged_malformed = True
            logger.warning("%s; more of this market are only counted", described(error))

    def note_audit(self, audit: Refreshed) -> None:
        """A refresh has ended, and with it a comparison with the exchange's book."""
        if audit.result is not RefreshResult.EQUAL:
            logger.warning(
                "%s: audit at update id %d: %s, %s",
                self.market,
                audit.last_update_id,
                audit.result.value,
                audit.comparison,
            )

    def wake_waiters(self) -> None:
        """Something happened that a thread may wait for. Costs nothing when none does."""
        if self.binding.waiting:
            self.signal.notify()
