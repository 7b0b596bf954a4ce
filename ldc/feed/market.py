"""One market of a feed group: its book, its synchronizer, and what the group notes about it.

Rule 1: only the group's thread writes here, but for `close`. Other threads read, and wait on `signal`.
Rule 2: no socket, no clock and no thread; `now` is an argument.
"""

import enum
import math
from collections.abc import Callable

from ldc.book import OrderBook, StreamBinding, StreamTally
from ldc.consume.log import logger
from ldc.consume.signal import UpdateSignal
from ldc.errors import MalformedMessage
from ldc.feed.silence import Evidence, ProbeAnswer, SilenceWatch, evidence_of
from ldc.limits import DEFAULT_TIMING, Timing
from ldc.network.text import described
from ldc.sync.actions import Refreshed, RefreshResult, SnapshotDrop, StateChanged
from ldc.sync.machine import Synchronizer
from ldc.types import Cause, SyncState


class MessageDrop(enum.StrEnum):
    """Why a message was dropped before it reached a market."""

    UNREADABLE = "UNREADABLE"
    """It is not JSON, or its header breaks the protocol."""
    UNKNOWN_STREAM = "UNKNOWN_STREAM"
    """It names no stream that was requested."""
    UNKNOWN_REPLY = "UNKNOWN_REPLY"
    """It answers no request of this connection, or refuses one."""


class LiveMarket:
    """A market with its book and its synchronizer, in a feed group."""

    __slots__ = (
        "binding",
        "book",
        "ended_by",
        "has_logged_malformed",
        "is_removed",
        "last_error",
        "last_restart_time",
        "market",
        "missing",
        "on_restart",
        "on_state",
        "probed_at",
        "requested",
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
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self.market = market
        """As the user spelt it first."""
        self.symbol = symbol
        """As the exchange spells it."""
        self.stream = stream
        self.serial = serial
        """Differs from that of every other `LiveMarket` of this market, so that late answers find the right one."""
        self.book = book
        self.synchronizer = synchronizer
        self.binding = StreamBinding(book, self)
        """Through it the frame readers of its connections apply updates to its book."""
        self.signal = UpdateSignal(self.binding)
        self.silence = SilenceWatch(timing)
        self.probed_at = -math.inf
        """When the last probe was requested that found the exchange at the book's id."""
        self.timer_due: float | None = None
        """When the group ticks its synchronizer next."""
        self.is_removed = False
        self.was_interrupted = False
        """Its last connection ended, and no connection has subscribed it since."""
        self.restart_count = 0
        self.last_restart_time: float | None = None
        """Unix time."""
        self.last_error: str | None = None
        """Why its last snapshot failed, or its stream was refused."""
        self.ended_by: str | None = None
        """Why its group has given it up, or None."""
        self.has_logged_malformed = False
        self.missing: dict[bool, int | None] = {}
        """Of the snapshot (False) and the probe (True) the request that the downloader did not hold when checked."""
        self.requested: set[str] = set()
        """What callers have requested and the group's thread has not begun. Any thread adds to it."""
        self.on_state = on_state
        self.on_restart = on_restart

    def note_arrival(self, tally: StreamTally | None, id_before: int | None) -> None:
        """Count an update that the synchronizer took from one of several streams. `id_before`: the book's id before."""
        if tally is None or not self.binding.is_redundant:
            return
        if self.book.last_update_id != id_before:
            tally.firsts += 1
        elif self.synchronizer.gap_since is None:
            tally.duplicates += 1

    @property
    def heard_at(self) -> float:
        """When its last update was judged, by its book or by its synchronizer."""
        return max(self.binding.heard_at, self.synchronizer.judged_at)

    def is_lost(self, epoch: int | None, *, is_held: bool) -> bool:
        """Note whether the downloader holds a request (None: the probe); return whether it was lost, and count that.

        Missing once proves nothing, because the answer may be on its way to this thread. Missing in two checks does.
        """
        is_probe = epoch is None
        was_missing = is_probe in self.missing and self.missing.pop(is_probe) == epoch
        if not is_held and not was_missing:
            self.missing[is_probe] = epoch
        is_lost = was_missing and not is_held
        self.synchronizer.requests.dropped[SnapshotDrop.LOST] += is_lost
        return is_lost

    def note_acknowledged(self, unix_time: float) -> None:
        """Note that its stream is subscribed. After an interruption that is a restart."""
        if not self.was_interrupted:
            return
        self.was_interrupted = False
        self.restart_count += 1
        self.last_restart_time = unix_time
        self.on_restart(self)

    def probe_answered(self, answer: ProbeAnswer, now: float) -> Evidence | None:
        """Note what a probe found; return the evidence if it is against the book, which is silent. None otherwise."""
        if answer.problem is not None:
            self.last_error = answer.problem
        # A book that waits behind a gap, or cannot be read, is not compared: it is known to be behind.
        is_current = self.synchronizer.state is SyncState.SYNCHRONIZED and self.synchronizer.gap_since is None
        evidence = evidence_of(answer, self.book) if is_current else Evidence.NONE
        if evidence is Evidence.CURRENT and self.silence.requested_at is not None:
            self.probed_at = self.silence.requested_at
        return evidence if self.silence.probe_answered(evidence, self.heard_at, now) else None

    def is_behind(self, last_update_id: int | None) -> bool | None:
        """Whether the exchange is past the book's id; None: one of the two ids is unknown."""
        book_id = self.book.last_update_id
        return None if last_update_id is None or book_id is None else last_update_id > book_id

    def note_state(self, change: StateChanged) -> None:
        """Report a new state, and wake the threads that wait for one."""
        self.on_state(self, change)
        self.wake_waiters()

    def note_malformed(self, error: MalformedMessage) -> None:
        """Log the first update that could not be read."""
        if not self.has_logged_malformed:
            self.has_logged_malformed = True
            logger.warning("%s; more of this market are only counted", described(error))

    def note_audit(self, audit: Refreshed) -> None:
        """Log a refresh whose comparison with the exchange's book found a difference."""
        if audit.result is not RefreshResult.EQUAL:
            logger.warning(
                "%s: audit at update id %d: %s, %s",
                self.market,
                audit.last_update_id,
                audit.result.value,
                audit.comparison,
            )

    def close(self) -> None:
        """Close the book for good and wake its waiters, from any thread, whatever the feed's thread is doing."""
        self.is_removed = True
        self.book.close(Cause.STOPPED)
        self.signal.notify()

    def wake_waiters(self) -> None:
        """Wake the threads that wait for this market. Costs one comparison while there are none."""
        if self.binding.waiting:
            self.signal.notify()
