"""The shared budget: what all processes of a machine spend of one address's request weight or connects, in one file.

Rule 1: nothing is sent that the shared budget has not allowed. Rather late than banned.
Rule 2: the file is read and replaced whole, under a lock of the operating system. A killed process cannot keep that
    lock; what it spent stays in the file, and expires there.
Rule 3: a file that cannot be read or written allows nothing for a while, and a warning is logged.

A request counts from its sending until a minute after its answer, as in `ldc.limits`. There is the proof that no minute
of the server's exceeds the limit. Requests of a killed process are never answered, so they count as if they had taken
`IN_FLIGHT_S_MAX`. A connect counts from its beginning.

Times are those of the monotonic clock, which all processes share until the machine restarts. Pauses (429, 418) are
shared too. A pause lasts until both the monotonic and the wall clock have passed its end. A ban may outlast a restart
of the machine, and the wall clock may be set. If a clock shows more time left than the pause was long, it was set back,
and the pause restarts.
"""

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from ldc.consume.log import logger
from ldc.limits import BAN_PAUSE_S_MAX, WEIGHT_WINDOW_S
from ldc.network.text import described

IN_FLIGHT_S_MAX = 15.0
"""Seconds: the longest download. The downloader aborts it after 10 s."""

LOCK_S_MAX = 0.2
"""Seconds that a download waits for the lock of the file. Other processes hold it for 1 to 3 ms."""

RETRY_S = 1.0
"""Seconds for which nothing is sent after the file could not be used; then it is tried again."""

_POLL_S = 0.002
"""Seconds between two tries to lock the file."""


def shared_folder(shared_budget: bool | str | os.PathLike[str]) -> Path | None:
    """Return the folder of a manager's `shared_budget`: the user's cache folder, the given one, or None.

    Raises ``ValueError`` for another type, and if the extra that it needs is not installed.
    """
    if shared_budget is False:
        return None
    if shared_budget is not True and not isinstance(shared_budget, str | os.PathLike):
        raise ValueError(f"shared_budget is True, False or the path of a folder, not {shared_budget!r}")
    try:
        import filelock  # noqa: F401
        import platformdirs
    except ImportError as error:
        raise ValueError(f"shared_budget needs {error.name}: pip install filelock platformdirs") from None
    if shared_budget is True:
        return Path(platformdirs.user_cache_dir("binance-local-depth-cache", appauthor=False))
    return Path(shared_budget)


class SharedBudget:
    """One limit of one address, spent by several processes. Thread-safe; each call costs a locked file, about 1 ms.

    Args:
        folder: shared by all processes that draw on it; created if missing.
        name: of the proxy and of the budget.
        limit: the weight or the connects in a window.
        kind: "weight" or "connects"; the prefix of the file's name.
        window_s: seconds that an entry counts after it was settled.
        in_flight_s: seconds that an unsettled entry counts longer; 0 for entries that are never settled.
        clock: the monotonic one.
    """

    def __init__(
        self,
        folder: Path,
        name: tuple[str, str],
        limit: int,
        *,
        kind: str = "weight",
        window_s: float = WEIGHT_WINDOW_S,
        in_flight_s: float = IN_FLIGHT_S_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import filelock

        digest = hashlib.sha256(repr(name).encode()).hexdigest()[:16]  # a proxy's URL may hold a password
        self.folder = folder
        self._path = folder / f"{kind}-{digest}.json"
        self._lock = filelock.FileLock(folder / f"{kind}-{digest}.lock", timeout=LOCK_S_MAX, thread_local=False)
        self._threads = threading.Lock()  # the file lock keeps out other processes, not the threads of this one
        self._timeout = filelock.Timeout
        self._limit = limit
        self._window_s = window_s
        self._in_flight_s = in_flight_s
        self._clock = clock
        self._has_logged = False
        self._next_key = count(1)
        self._owner = os.urandom(4).hex()

    def take(self, weight: int, allowed: int, now: float) -> tuple[float, str]:
        """Spend `weight` if all processes together then stay within `allowed`.

        Returns (now, key), where `settle` takes the key; otherwise (when to try again, "").
        """
        key = f"{os.getpid()}-{self._owner}-{next(self._next_key)}"  # a forked child has the same owner

        def spend(entries: dict[str, Any]) -> tuple[float, str]:
            paused_until = max(now + entries["paused_until"] - time.time(), entries["paused_until_monotonic"])
            earliest = max(paused_until, _earliest(entries["spent"], allowed - weight, now, self._window_s))
            if earliest > now:
                return earliest, ""
            entries["spent"][key] = [weight, now + self._in_flight_s + self._window_s]
            return now, key

        return self._change(spend, now) or (now + RETRY_S, "")

    def settle(self, key: str, paused_until: float, now: float) -> None:
        """Count the request of a key as answered or given up. `paused_until`: the exchange's pause; past if none."""

        def shorten(entries: dict[str, Any]) -> tuple[float, str]:
            if key in entries["spent"]:
                entries["spent"][key][1] = now + self._window_s
            if paused_until > max(now, entries["paused_until_monotonic"]):
                entries["pause_s"] = paused_until - now
                entries["paused_until"] = max(entries["paused_until"], time.time() + paused_until - now)
                entries["paused_until_monotonic"] = paused_until
            return now, key

        self._change(shorten, now)

    def give_back(self, key: str, now: float) -> None:
        """Remove the entry of a key: its request was not sent."""

        def remove(entries: dict[str, Any]) -> tuple[float, str]:
            entries["spent"].pop(key, None)
            return now, key

        self._change(remove, now)

    def used(self, now: float) -> int:
        """Return what all processes have spent that still counts."""
        return sum(weight for weight, _until in self._read(now)["spent"].values())

    def _change(self, change: Callable[[dict[str, Any]], tuple[float, str]], now: float) -> tuple[float, str] | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._threads, self._lock.acquire(poll_interval=_POLL_S):
                entries = self._read(now)
                result = change(entries)
                written = self._path.with_suffix(f".{os.getpid()}.new")
                written.write_text(json.dumps(entries), encoding="utf-8")
                written.replace(self._path)
                return result
        except (OSError, self._timeout) as error:
            if not self._has_logged:
                self._has_logged = True
                logger.warning(
                    "Nothing is requested while the shared budget in %s fails: %s", self._path, described(error)
                )
            return None

    def _read(self, now: float) -> dict[str, Any]:
        """Return the entries that still count. A file that ldc cannot have written counts as a full window."""
        try:
            read = json.loads(self._path.read_text(encoding="utf-8"))
            spent = {str(key): _entry(int(weight), float(until)) for key, (weight, until) in read["spent"].items()}
            pause_s = min(_time(float(read.get("pause_s", BAN_PAUSE_S_MAX))), BAN_PAUSE_S_MAX)
            paused_until = min(_time(float(read["paused_until"])), time.time() + pause_s)
            paused_until_monotonic = min(_time(float(read.get("paused_until_monotonic", 0.0))), now + pause_s)
        except FileNotFoundError:
            spent, pause_s, paused_until, paused_until_monotonic = {}, 0.0, 0.0, 0.0
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            spent = {"unreadable": [self._limit, now + self._window_s]}
            pause_s, paused_until, paused_until_monotonic = 0.0, 0.0, 0.0
        # A later time is from before a restart of the machine, when the clock began at 0 again.
        latest = now + self._in_flight_s + self._window_s
        return {
            "spent": {key: [weight, min(until, latest)] for key, (weight, until) in spent.items() if until > now},
            "pause_s": pause_s,
            "paused_until": paused_until,
            "paused_until_monotonic": paused_until_monotonic,
        }


def shared_connects(folder: Path, name: tuple[str, str], limit: int, window_s: float) -> SharedBudget:
    """Return the shared budget of one address's connects: at most `limit` in any `window_s`. They are never settled."""
    return SharedBudget(folder, name, limit, kind="connects", window_s=window_s, in_flight_s=0.0)


def _entry(weight: int, until: float) -> list[Any]:
    if weight < 0:
        raise ValueError(f"a weight is 0 or more, not {weight}")
    return [weight, _time(until)]


def _time(seconds: float) -> float:
    if math.isnan(seconds):
        raise ValueError("a time is a number, not NaN")
    return seconds


def _earliest(spent: dict[str, list[Any]], room: int, now: float, window_s: float) -> float:
    """Return when enough has expired that the rest fits into `room`."""
    excess = sum(weight for weight, _until in spent.values()) - room
    earliest = now
    for weight, until in sorted(spent.values(), key=lambda entry: entry[1]):
        if excess <= 0:
            break
        earliest = min(until, now + window_s)  # an answer may come at any moment, and shorten the time of its entry
        excess -= weight
    return earliest
