"""Pings, pongs and the pace of what is sent on one connection, as decisions over (state, now).

Rule 1: no clock, no socket. Times are seconds of the monotonic clock; infinity is never.
Rule 2: a ping carries a number, and only the pong with that number answers it. A peer that sends pongs of its own
    accord would otherwise prove a link alive that has been behind for seconds.
Rule 3: everything sent is paced, pings and pongs included, because the exchange counts them.
Rule 4: a ping proves that whatever the peer sent before its pong has arrived. So the proof has the time of the ping.

`ldc/core/keepalive.pxi` is the same, compiled, so that the loop can do it without the GIL.
"""

import math
import time

from ldc.book.pure.lease import Lease
from ldc.frames import Opcode
from ldc.limits import MessagePacer

PACED_MESSAGES_MAX = 64
"""The highest limit of messages a second; the compiled keep-alive holds the times of so many."""

CONTROL_PAYLOAD_MAX = 125
"""What a ping or a pong may carry (RFC 6455, 5.5); more is a ``ValueError``: the frame reader refuses it before."""

PING_NUMBER_BYTES = 8


class KeepAlive:
    """Pings, pongs and the pace of one connection: decisions over (state, now), no I/O.

    Drive it: `start` when the connection is open, `note_ping` and `note_pong` for what arrives, `next_message` while
    it returns something, again at `next_due`. Times are seconds of the monotonic clock.

    Thread-safety: none; one thread calls it. Other threads may look at the attributes.

    Args:
        ping_interval_s: between two pings.
        ping_timeout_s: how long a pong may take; then `is_dead`.
        messages_per_second: what the venue allows us to send, pings, pongs and requests together; 1 to 64.
        pong_late_s: a pong that takes longer makes the connection `is_late`.
        pong_interval_s: at most one pong in so long; it answers the last ping (RFC 6455, 5.5.3).
        lease: renewed by each proof; None: there is none.
    """

    __slots__ = (
        "_lease",
        "_owed",
        "_pace",
        "_ping_due",
        "_ping_interval_s",
        "_ping_number",
        "_ping_timeout_s",
        "_pinged_at",
        "_pong_deadline",
        "_pong_interval_s",
        "_pong_late_s",
        "_pong_not_before",
        "_was_ping_last",
        "last_pong_at",
        "proven_at",
        "unmatched_pongs",
    )

    def __init__(
        self,
        ping_interval_s: float,
        ping_timeout_s: float,
        messages_per_second: int,
        *,
        pong_late_s: float = 1.5,
        pong_interval_s: float = 1.0,
        lease: Lease | None = None,
    ) -> None:
        if not 1 <= messages_per_second <= PACED_MESSAGES_MAX:
            raise ValueError(f"messages_per_second is 1 to {PACED_MESSAGES_MAX}, not {messages_per_second}")
        self.last_pong_at = -math.inf
        """When the last pong came that answered a ping; -infinity: none has."""
        self.proven_at = -math.inf
        """When the ping was sent that was answered last, or the connection opened: up to then all has arrived."""
        self.unmatched_pongs = 0
        """Pongs that answered no ping of ours."""
        self._ping_interval_s = ping_interval_s
        self._ping_timeout_s = ping_timeout_s
        self._pong_late_s = pong_late_s
        self._pong_interval_s = pong_interval_s
        self._pace = MessagePacer(messages_per_second)
        self._ping_due = self._pong_deadline = math.inf
        self._pinged_at = 0.0
        self._pong_not_before = -math.inf
        self._ping_number = 0
        self._owed: bytes | None = None  # the payload of the last ping that is not answered
        self._was_ping_last = False
        self._lease = lease

    @property
    def waits_for_pong(self) -> bool:
        """Whether a ping waits for its pong."""
        return self._pong_deadline != math.inf

    def start(self, now: float) -> None:
        """The connection is open: the handshake has just been answered."""
        self._prove(now)
        self._ping_due = now + self._ping_interval_s

    def next_due(self, now: float, has_request: bool = False) -> float:
        """Return when there is something to do next; `has_request`: a message of the caller waits to be sent."""
        due = self._next_send(now, has_request)
        if self._pong_deadline != math.inf:
            late_at = self._pinged_at + self._pong_late_s
            due = min(due, self._pong_deadline, late_at if late_at > now else math.inf)
        return due

    def _next_send(self, now: float, has_request: bool) -> float:
        due = now if has_request else math.inf
        if self._owed is not None:
            due = min(due, self._pong_not_before)
        if self._pong_deadline == math.inf:
            due = min(due, self._ping_due)
        return max(due, self._pace.earliest(now))

    def next_message(self, now: float, has_request: bool = False) -> tuple[int, bytes] | None:
        """Return (opcode, payload) of what may be sent now, or None: PING, PONG, or TEXT with b"" for a request.

        A ping or a pong counts as sent. A request is the caller's: it sends its own text and calls `spend`.
        """
        if self._next_send(now, has_request) > now:
            return None
        # A request has its turn after each ping, however short the ping interval is.
        is_ping_due = self._pong_deadline == math.inf and self._ping_due <= now
        if is_ping_due and not (has_request and self._was_ping_last):
            self._was_ping_last = True
            self._ping_number += 1
            self._pinged_at = now
            self._pong_deadline = now + self._ping_timeout_s
            self._ping_due = now + self._ping_interval_s
            self._pace.spend(now)
            return Opcode.PING, self._ping_number.to_bytes(PING_NUMBER_BYTES, "big")
        if self._owed is not None and self._pong_not_before <= now:
            self._pong_not_before = now + self._pong_interval_s
            self._pace.spend(now)
            payload, self._owed = self._owed, None
            return Opcode.PONG, payload
        if has_request:
            self._was_ping_last = False
            return Opcode.TEXT, b""
        return None

    def spend(self, now: float) -> None:
        """Count a message that was sent now."""
        self._pace.spend(now)

    def note_ping(self, payload: bytes) -> None:
        """The peer has pinged. Only the last ping is answered, so a flood of them costs nothing."""
        if len(payload) > CONTROL_PAYLOAD_MAX:
            raise ValueError(f"a ping carries at most {CONTROL_PAYLOAD_MAX} bytes, not {len(payload)}")
        self._owed = bytes(payload)

    def note_pong(self, payload: bytes, now: float) -> bool:
        """A pong has come; return whether it answers the ping that waits. Any other is counted and proves nothing."""
        is_answer = self._pong_deadline != math.inf and payload == self._ping_number.to_bytes(PING_NUMBER_BYTES, "big")
        if not is_answer:
            self.unmatched_pongs += 1
            return False
        self._pong_deadline = math.inf
        self.last_pong_at = now
        self._prove(self._pinged_at)
        return True

    def _prove(self, at: float) -> None:
        """All that the peer had sent at that time has arrived: note it, and renew the lease."""
        self.proven_at = at
        if self._lease is not None:
            # From the monotonic clock to that of leases, which goes on while the machine sleeps.
            proven_ns = self._lease.now_ns() - int((time.monotonic() - at) * 1e9)
            if proven_ns > (self._lease.proven_ns or 0):  # of several connections the latest proof counts
                self._lease.renew(proven_ns)

    def is_dead(self, now: float) -> bool:
        """Whether a ping was not answered in time."""
        return now >= self._pong_deadline

    def is_late(self, now: float) -> bool:
        """Whether a ping has waited for its pong for `pong_late_s`."""
        return self._pong_deadline != math.inf and now - self._pinged_at >= self._pong_late_s

    def extend_deadline(self, until: float) -> None:
        """A pong may come until then: what has arrived is not read completely."""
        if self._pong_deadline != math.inf:
            self._pong_deadline = max(self._pong_deadline, until)
