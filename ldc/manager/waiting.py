"""One thread that waits for many depth caches.

Rule 1: for each market the rules are those of `DepthCache.wait_for_update`.
Rule 2: while every book can be read, the wait is one call in C. Otherwise Python looks after each wake-up.
"""

import time
from collections.abc import Mapping

from ldc.book import UpdateWaiter, has_system_threads
from ldc.consume.signal import GREENLET_LOOK_S
from ldc.manager import parameters
from ldc.manager.depth_cache import DepthCache


def wait_for_any(
    caches: Mapping[str, DepthCache],
    after_update_ids: Mapping[str, int | None],
    timeout: float | None = None,
    spin_us: float = 0,
) -> dict[str, int]:
    """Block until one of the books has moved past its id; return the new ids of all that have.

    Args:
        caches: by the names that are returned.
        after_update_ids: by the same names; None: as soon as the book can be read.
        timeout: seconds; when they are over, the result is empty.
        spin_us: microseconds to look, without the GIL, before the thread sleeps.

    Raises what `DepthCache.wait_for_update` raises, for the first market that it has to be raised for.
    """
    timeout_s = parameters.timeout(timeout)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    spin_s = spin_us / 1e6
    for cache in caches.values():
        cache.raise_if_own_thread()
    with UpdateWaiter([cache.live.binding for cache in caches.values()]) as waiter:
        after = [after_update_ids[name] for name in caches]
        can_sleep = has_system_threads()
        if can_sleep and None not in after:
            names = list(caches)
            if moved := waiter.wait_past(after, timeout_s, spin_s):  # type: ignore[arg-type]
                return {names[place]: reached for place, reached in moved.items()}
        while True:
            seen = waiter.change
            if moved_ids := _moved(caches, after_update_ids):
                return moved_ids
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return {}
            if can_sleep:
                waiter.wait(seen, left_s, spin_s)
            else:
                time.sleep(GREENLET_LOOK_S)


def _moved(caches: Mapping[str, DepthCache], after_update_ids: Mapping[str, int | None]) -> dict[str, int]:
    """Return the ids of the books that have moved; raise for one that was lost, or that will never move."""
    moved = {}
    for name, cache in caches.items():
        after = after_update_ids[name]
        reached = cache.id_past(after)
        if reached is not None:
            moved[name] = reached
            continue
        cache.raise_if_over()
        if after is not None and not cache.is_synchronized and (error := cache.why_refused()) is not None:
            raise error
    return moved
