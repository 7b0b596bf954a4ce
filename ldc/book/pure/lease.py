"""A lease in plain Python: until when a book may be read without another proof that it is current.

Rule: one number, written by one thread and read by all. The clock never goes back, and counts the sleep of the machine.
"""

import time
from typing import NoReturn, SupportsIndex

from ldc.analytics.exact import index

_CLOCK = next((getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW") if hasattr(time, name)), None)
"""CLOCK_BOOTTIME on Linux. macOS counts sleep in CLOCK_MONOTONIC_RAW, Windows in its only monotonic clock."""


class Lease:
    """The time until which books may be read without another proof that they are current.

    The writer of some books renews one lease for all of them. A book whose `lease` is expired refuses to be read, with
    the cause STALLED: its writer hangs, or its connection is dead. A lease that was never renewed is expired.

    Args:
        duration_ns: how old the last proof may be, in ns; at least 1.

    Thread-safety: one thread renews, any thread reads, without a lock.
    """

    __slots__ = ("_duration_ns", "_proven_ns")

    def __init__(self, duration_ns: SupportsIndex) -> None:
        duration_ns = index(duration_ns, "duration_ns")
        if duration_ns < 1:
            raise ValueError(f"duration_ns must be at least 1, not {duration_ns}")
        _check_fits(duration_ns)
        self._duration_ns = duration_ns
        self._proven_ns: int | None = None

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Lease cannot be subclassed")

    def __repr__(self) -> str:
        return f"<Lease of {self.duration_ns / 1e9:g} s, proven at {self.proven_ns}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Lease cannot be copied or pickled: its clock is of this machine")

    @staticmethod
    def now_ns() -> int:
        """Return the time of the lease clock, in ns: it never goes back, and counts the sleep of the machine."""
        return time.monotonic_ns() if _CLOCK is None else time.clock_gettime_ns(_CLOCK)

    def renew(self, proven_ns: SupportsIndex) -> None:
        """Note the time of a proof, by the lease clock. O(1): one store.

        It is the time that is proven, such as when an answered ping was sent. After a standstill the present is not
        proven. An earlier time than before is taken as well: the caller decides.
        """
        proven_ns = index(proven_ns, "proven_ns")
        if proven_ns < 0:
            raise ValueError(f"proven_ns must not be negative, and is {proven_ns}")
        _check_fits(proven_ns)
        self._proven_ns = proven_ns

    def is_expired(self, now_ns: int | None = None) -> bool:
        """Return whether the last proof is older than `duration_ns` at a time: at the present, unless given."""
        now = self.now_ns() if now_ns is None else now_ns
        proven_ns = self._proven_ns
        return proven_ns is None or now - proven_ns > self._duration_ns

    @property
    def duration_ns(self) -> int:
        """How old the last proof may be."""
        return self._duration_ns

    @property
    def proven_ns(self) -> int | None:
        """The time of the last proof, by the lease clock, or None: there was none."""
        return self._proven_ns

    @property
    def age_ns(self) -> int | None:
        """How old the last proof is, or None: there was none."""
        proven_ns = self._proven_ns
        return None if proven_ns is None else max(self.now_ns() - proven_ns, 0)


def _check_fits(time_ns: int) -> None:
    if time_ns > 2**63 - 1:
        raise OverflowError(f"{time_ns} ns do not fit int64")
