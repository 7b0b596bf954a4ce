"""What the log says about snapshots that are refused: one warning with the advice, and one line when it is over.

Rule 1: pure. `now` is an argument; a line is returned to the caller, who logs it without a lock.
Rule 2: the lines are bounded: what is refused again within `AGAIN_S` of a warning, and its end, are at DEBUG.
"""

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

from ldc.snapshots.reply import FailureKind, SnapshotBody, SnapshotFailure

AGAIN_S = 60.0
"""Seconds in which no second warning about the same is logged."""

_SILENT = frozenset({FailureKind.UNKNOWN_MARKET})  # the state of the market says it


class LogLine(NamedTuple):
    """A line for the log."""

    level: int
    text: str


@dataclass(slots=True)
class _Refusal:
    """A series of refusals that is under way."""

    since: float
    count: int
    level: int


class RefusalLog:
    """The refusals of one request weight: those of the host together, those of one market by themselves."""

    def __init__(self) -> None:
        self._warned_at: dict[str, float] = {}  # by market; "" for the host
        self._open: dict[str, _Refusal] = {}

    def note(self, exchange: str, market: str, result: SnapshotBody | SnapshotFailure, now: float) -> list[LogLine]:
        """Note a result; return what to log, mostly nothing."""
        if isinstance(result, SnapshotBody):
            ended = [(key, self._open.pop(key)) for key in ("", market) if key in self._open]
            return [self._over(exchange, key, refusal, now) for key, refusal in ended]
        if result.kind in _SILENT:
            return []
        key = market if result.kind is FailureKind.REFUSED else ""
        refusal = self._open.get(key)
        if refusal is not None:
            refusal.count += 1
            return []
        is_new = now - self._warned_at.get(key, -math.inf) >= AGAIN_S
        self._warned_at = {each: at for each, at in self._warned_at.items() if now - at < AGAIN_S}
        if is_new:
            self._warned_at[key] = now
        refusal = self._open[key] = _Refusal(now, 1, logging.WARNING if is_new else logging.DEBUG)
        wait = f" The next one is requested in {result.retry_at - now:.0f} s." if result.retry_at is not None else ""
        whose = "snapshots are" if key == "" else "a snapshot is"
        text = f"{exchange}: {whose} refused, and further refusals are only counted. {result.text}{wait}"
        return [LogLine(refusal.level, text)]

    def _over(self, exchange: str, key: str, refusal: _Refusal, now: float) -> LogLine:
        whose = f"snapshots of {key}" if key else "snapshots"
        text = f"{exchange}: {whose} are served again after {now - refusal.since:.1f} s and {refusal.count} refusals"
        return LogLine(min(refusal.level, logging.INFO), text)
