"""What all processes of a machine spend of one address's request weight, or of its connects, in a file that they share.

Rule 1: nothing is sent that the ledger has not allowed. Rather late than banned.
Rule 2: the file is read and replaced whole, under a lock of the operating system, which a killed process cannot keep.
    What it spent stays in the file, and counts until its time is over.
Rule 3: a ledger that cannot be read or written allows nothing for a while, and says so in the log; nobody is banned.

A request counts from when it is sent until a minute after it was answered, as in `ldc.limits.WeightBudget`, which
proves that no minute of the server's exceeds the limit; as the requests of a process that was killed are never
answered, they count as if they had taken `IN_FLIGHT_S_MAX`. A connect counts from when it is begun. Times are those of
the monotonic clock, which is the same for all processes of a machine from one start of it to the next. Pauses (429,
418) are shared too. They last until both that clock and the one on the wall say so: a ban may outlast a start of the
machine, and the clock on the wall may be set. Where one of them says more than a pause was long, it was set back, and
the pause begins anew.
"""

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from ldc.limits import BAN_PAUSE_S_MAX, WEIGHT_WINDOW_S

__all__ = ["IN_FLIGHT_S_MAX", "LEDGER_PAUSE_S", "LOCK_S_MAX", "SharedLedger", "shared_connects", "shared_folder"]

IN_FLIGHT_S_MAX = 15.0
"""No download takes longer: it is cut off after 10 s."""

LOCK_S_MAX = 0.2
"""How long a download waits for the file; others hold it for one to three milliseconds."""

LEDGER_PAUSE_S = 1.0
"""After a try that failed, nothing is sent for so long, then it is tried again."""

_LOOK_S = 0.002
"""How often it is looked whether a file that others hold is free."""

logger = logging.getLogger("binance_local_depth_cache")


def shared_folder(shared_budget: bool | str | os.PathLike[str]) -> Path | None:
    """Return the folder that a manager's `shared_budget` means: the user's cache folder, another one, or none.

    Raises ``ValueError`` for what is neither, and where the extra that it needs is not installed.
    """
    if shared_budget is False:
        return None
    if shared_budget is not True and not isinstance(shared_budget, str | os.PathLike):
        raise ValueError(f"shared_budget is True, False or the path of a folder, not {shared_budget!r}")
    try:
        import filelock  # noqa: F401
        import platformdirs
    except ImportError as error:
        raise ValueError(
            f"shared_budget needs {error.name}: pip install 'binance-local-depth-cache[shared-budget]'"
        ) from None
    if shared_budget is True:
        return Path(platformdirs.user_cache_dir("binance-local-depth-cache", appauthor=False))
    return Path(shared_budget)


class SharedLedger:
    """What one address spends of one limit, in a folder. Thread-safe; what it does takes as long as a file takes.

    Args:
        folder: shared by all who draw on it; made if it is not there.
        name: of the budget, and of the address that it is counted for.
        limit: all that there is in a window.
        kind: of what, as the file is to be called.
        window_s: how long something counts after it was settled.
        in_flight_s: how much longer what is never settled counts; what is not to be settled: 0.
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
        self._threads = threading.Lock()  # the lock above keeps out other processes, not the threads of this one
        self._timeout = filelock.Timeout
        self._limit = limit
        self._window_s = window_s
        self._in_flight_s = in_flight_s
        self._clock = clock
        self._has_logged = False
        self._next_key = count(1)
        self._owner = os.urandom(4).hex()

    def take(self, weight: int, allowed: int, now: float) -> tuple[float, str]:
        """Spend `weight` if all together then stay within `allowed`; return (now, key), or when to ask again and "".

        `settle` takes the key.
        """
        key = f"{os.getpid()}-{self._owner}-{next(self._next_key)}"  # a forked child has the same owner

        def spend(ledger: dict[str, Any]) -> tuple[float, str]:
            paused_until = max(now + ledger["paused_until"] - time.time(), ledger["paused_until_monotonic"])
            earliest = max(paused_until, _earliest(ledger["spent"], allowed - weight, now, self._window_s))
            if earliest > now:
                return earliest, ""
            ledger["spent"][key] = [weight, now + self._in_flight_s + self._window_s]
            return now, key

        return self._change(spend, now) or (now + LEDGER_PAUSE_S, "")

    def settle(self, key: str, paused_until: float, now: float) -> None:
        """A request has been answered or given up. `paused_until`: what the exchange told; past if nothing."""

        def shorten(ledger: dict[str, Any]) -> tuple[float, str]:
            if key in ledger["spent"]:
                ledger["spent"][key][1] = now + self._window_s
            if paused_until > max(now, ledger["paused_until_monotonic"]):
                ledger["pause_s"] = paused_until - now
                ledger["paused_until"] = max(ledger["paused_until"], time.time() + paused_until - now)
                ledger["paused_until_monotonic"] = paused_until
            return now, key

        self._change(shorten, now)

    def give_back(self, key: str, now: float) -> None:
        """What was spent under this key was not sent, and does not count."""

        def remove(ledger: dict[str, Any]) -> tuple[float, str]:
            ledger["spent"].pop(key, None)
            return now, key

        self._change(remove, now)

    def used(self, now: float) -> int:
        """Return what all processes have in the file."""
        return sum(weight for weight, _until in self._read(now)["spent"].values())

    def _change(self, change: Callable[[dict[str, Any]], tuple[float, str]], now: float) -> tuple[float, str] | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._threads, self._lock.acquire(poll_interval=_LOOK_S):
                ledger = self._read(now)
                result = change(ledger)
                written = self._path.with_suffix(f".{os.getpid()}.new")
                written.write_text(json.dumps(ledger), encoding="utf-8")
                written.replace(self._path)
                return result
        except (OSError, self._timeout) as error:
            if not self._has_logged:
                self._has_logged = True
                logger.warning("Nothing is asked for while the shared budget in %s fails: %s", self._path, error)
            return None

    def _read(self, now: float) -> dict[str, Any]:
        """Return what still counts. What nobody can have written counts as everything, for a window."""
        try:
            ledger = json.loads(self._path.read_text(encoding="utf-8"))
            spent = {str(key): _entry(int(weight), float(until)) for key, (weight, until) in ledger["spent"].items()}
            pause_s = min(_time(float(ledger.get("pause_s", BAN_PAUSE_S_MAX))), BAN_PAUSE_S_MAX)
            paused_until = min(_time(float(ledger["paused_until"])), time.time() + pause_s)
            paused_until_monotonic = min(_time(float(ledger.get("paused_until_monotonic", 0.0))), now + pause_s)
        except FileNotFoundError:
            spent, pause_s, paused_until, paused_until_monotonic = {}, 0.0, 0.0, 0.0
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            spent = {"unreadable": [self._limit, now + self._window_s]}
            pause_s, paused_until, paused_until_monotonic = 0.0, 0.0, 0.0
        # Later than can be: of before the machine was started anew, when the clock began at 0 again.
        latest = now + self._in_flight_s + self._window_s
        return {
            "spent": {key: [weight, min(until, latest)] for key, (weight, until) in spent.items() if until > now},
            "pause_s": pause_s,
            "paused_until": paused_until,
            "paused_until_monotonic": paused_until_monotonic,
        }


def shared_connects(folder: Path, name: tuple[str, str], limit: int, window_s: float) -> SharedLedger:
    """Return the connects of one address, in a folder: at most `limit` in any `window_s`. Nothing of it is settled."""
    return SharedLedger(folder, name, limit, kind="connects", window_s=window_s, in_flight_s=0.0)


def _entry(weight: int, until: float) -> list[Any]:
    if weight < 0:
        raise ValueError(f"nobody spends a weight of {weight}")
    return [weight, _time(until)]


def _time(seconds: float) -> float:
    if math.isnan(seconds):
        raise ValueError("a time is a number")
    return seconds


def _earliest(spent: dict[str, list[Any]], room: int, now: float, window_s: float) -> float:
    """Return when so much has expired that what is left fits into `room`."""
    excess = sum(weight for weight, _until in spent.values()) - room
    earliest = now
    for weight, until in sorted(spent.values(), key=lambda entry: entry[1]):
        if excess <= 0:
            break
        earliest = min(until, now + window_s)  # it may be answered this moment, and then counts for less
        excess -= weight
    return earliest
