"""Which CPUs a feed's thread runs on, where the system lets a thread choose: Linux."""

import os
import threading
from collections.abc import Iterable

CAN_CHOOSE = hasattr(os, "sched_setaffinity")


def checked_cpus(cpus: Iterable[int] | None) -> frozenset[int] | None:
    """Return the numbers of CPUs, or None for all; raise ``ValueError`` for those that this process may not use."""
    if cpus is None:
        return None
    try:
        chosen = frozenset(cpus)
    except TypeError:
        raise ValueError(f"feed_cpus is a set of CPU numbers or None, not {cpus!r}") from None
    if not CAN_CHOOSE:
        raise ValueError("feed_cpus needs a system on which a thread can choose its CPUs, such as Linux; leave it out")
    allowed = os.sched_getaffinity(os.getpid())
    if not chosen or not chosen <= allowed:
        raise ValueError(f"feed_cpus is a set of numbers out of {sorted(allowed)}, or None, not {cpus!r}")
    return chosen


def run_on(cpus: frozenset[int]) -> None:
    """Let the calling thread run on these CPUs only. Raises ``OSError`` if the system has taken them away."""
    os.sched_setaffinity(threading.get_native_id(), cpus)


def run_on_all_cpus() -> None:
    """Let the calling thread run where the main thread may."""
    os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(os.getpid()))
