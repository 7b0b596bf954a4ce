"""What all processes of a machine spend of one address's request weight, in a file that they share.

Rule 1: nothing is sent that the ledger has not allowed. Rather late than banned.
Rule 2: the file is read and replaced whole, under a lock of the operating system, which a killed process cannot keep.
    What it spent stays in the file, and counts until its time is over.
Rule 3: a ledger that cannot be read or written allows nothing for a while, and says so in the log; nobody is banned.

A request counts from when it is sent until a minute after it was answered, as in `ldc.limits.WeightBudget`, which
proves that no minute of the server's exceeds the limit; as the requests of a process that was killed are never
answered, they count as if they had taken `IN_FLIGHT_S_MAX`. Times are those of the monotonic clock, which is the same
for all processes of a machine from one start of it to the next. Pauses (429, 418) are shared too, by the clock on the
wall, because a ban may outlast a start of the machine.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldc.limits import BAN_PAUSE_S_MAX, WEIGHT_WINDOW_S

__all__ = ["IN_FLIGHT_S_MAX", "LEDGER_PAUSE_S", "LOCK_S_MAX", "SharedLedger", "shared_folder"]

IN_FLIGHT_S_MAX = 15.0
"""No download takes longer: it is cut off after 10 s."""

LOCK_S_MAX = 0.2
"""How long a download waits for the file; others hold it for less than a millisecond."""

LEDGER_PAUSE_S = 1.0
"""After a try that failed, nothing is sent for so long, then it is tried again."""

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
    """One address's weight, in a folder. Not thread-safe: the downloader locks.

    Args:
        folder: shared by all who draw on the weight; made if it is not there.
        name: of the budget, and of the address that it is counted for.
        weight_per_minute: its limit.
        clock: the monotonic one.
    """

    def __init__(
        self, folder: Path, name: tuple[str, str], weight_per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        import filelock

        digest = hashlib.sha256(repr(name).encode()).hexdigest()[:16]  # a proxy's URL may hold a password
        self.folder = folder
        self._path = folder / f"weight-{digest}.json"
        self._lock = filelock.FileLock(folder / f"weight-{digest}.lock", timeout=LOCK_S_MAX, thread_local=False)
        self._timeout = filelock.Timeout
        self._weight_per_minute = weight_per_minute
        self._clock = clock
        self._has_logged = False
        self._next_key = 0
        self._owner = f"{os.getpid()}-{os.urandom(4).hex()}"

    def take(self, weight: int, allowed: int, now: float) -> tuple[float, str]:
        """Spend `weight` if all together then stay within `allowed`; return (now, key), or when to ask again and "".

        `settle` takes the key.
        """
        self._next_key += 1
        key = f"{self._owner}-{self._next_key}"

        def spend(ledger: dict[str, Any]) -> tuple[float, str]:
            paused_until = now + min(ledger["paused_until"] - time.time(), BAN_PAUSE_S_MAX)
            earliest = max(paused_until, _earliest(ledger["spent"], allowed - weight, now))
            if earliest > now:
                return earliest, ""
            ledger["spent"][key] = [weight, now + IN_FLIGHT_S_MAX + WEIGHT_WINDOW_S]
            return now, key

        return self._change(spend, now) or (now + LEDGER_PAUSE_S, "")

    def settle(self, key: str, paused_until: float, now: float) -> None:
        """A request has been answered or given up. `paused_until`: what the exchange told; past if nothing."""

        def shorten(ledger: dict[str, Any]) -> tuple[float, str]:
            if key in ledger["spent"]:
                ledger["spent"][key][1] = now + WEIGHT_WINDOW_S
            if paused_until > now:
                ledger["paused_until"] = max(ledger["paused_until"], time.time() + paused_until - now)
            return now, key

        self._change(shorten, now)

    def used(self, now: float) -> int:
        """Return the weight that all processes have in the file."""
        return sum(weight for weight, _until in self._read(now)["spent"].values())

    def _change(self, change: Callable[[dict[str, Any]], tuple[float, str]], now: float) -> tuple[float, str] | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                ledger = self._read(now)
                result = change(ledger)
                written = self._path.with_suffix(f".{os.getpid()}.new")
                written.write_text(json.dumps(ledger), encoding="utf-8")
                written.replace(self._path)
                return result
        except (OSError, self._timeout) as error:
            if not self._has_logged:
                self._has_logged = True
                logger.warning("No snapshot is asked for while the shared budget in %s fails: %s", self.folder, error)
            return None

    def _read(self, now: float) -> dict[str, Any]:
        """Return what still counts. What nobody can have written counts as everything, for a minute."""
        try:
            ledger = json.loads(self._path.read_text(encoding="utf-8"))
            spent = {str(key): [int(weight), float(until)] for key, (weight, until) in ledger["spent"].items()}
            paused_until = float(ledger["paused_until"])
        except FileNotFoundError:
            spent, paused_until = {}, 0.0
        except (ValueError, TypeError, KeyError, AttributeError):
            spent, paused_until = {"unreadable": [self._weight_per_minute, now + WEIGHT_WINDOW_S]}, 0.0
        # Later than can be: of before the machine was started anew, when the clock began at 0 again.
        latest = now + IN_FLIGHT_S_MAX + WEIGHT_WINDOW_S
        spent = {key: [weight, min(until, latest)] for key, (weight, until) in spent.items() if until > now}
        return {"spent": spent, "paused_until": paused_until}


def _earliest(spent: dict[str, list[Any]], room: int, now: float) -> float:
    """Return when so much has expired that what is left fits into `room`."""
    excess = sum(weight for weight, _until in spent.values()) - room
    earliest = now
    for weight, until in sorted(spent.values(), key=lambda entry: entry[1]):
        if excess <= 0:
            break
        earliest = min(until, now + WEIGHT_WINDOW_S)  # it may be answered this moment, and then counts for less
        excess -= weight
    return earliest
