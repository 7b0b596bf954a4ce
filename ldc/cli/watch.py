"""Watching markets until the time is over or somebody says stop: on a terminal as a view, elsewhere as lines.

Rule 1: the last shots decide the exit status, and the last thing that is written says the same.
Rule 2: nothing but the view writes to the terminal while it is up; what is logged goes through it.
"""

import errno
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TextIO

from ldc.cli.plain import plain_line
from ldc.cli.samples import Meter, Shot
from ldc.cli.screen import Screen, drawn, levels_for
from ldc.cli.signals import Interruption
from ldc.cli.text import ASCII, UNICODE, Glyphs, duration, plural
from ldc.errors import DepthCacheError
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.types import SyncState

REDRAW_S = 0.2
"""Between two drawings of the view. Eyes do not read faster; the book is kept at full speed whatever is drawn."""

LINE_S = 1.0
"""Between two plain lines of a market."""

EVENTS_MAX = 50
"""At most so many log messages are remembered; the oldest goes."""

GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""How a stream says that nobody reads it any more: the pipe is broken, or the terminal was closed."""

logger = logging.getLogger("binance_local_depth_cache")


class ExitStatus(IntEnum):
    """What the program's end means."""

    SYNCHRONIZED = 0
    """All markets were in sync when it ended."""
    OUT_OF_SYNC = 1
    """At least one market was not."""
    USAGE = 2
    """The command line is wrong; nothing was started."""
    UNAVAILABLE = 3
    """Something that it needs is not there: an extra that is not installed, a port that is taken."""
    INTERRUPTED = 130
    """Ctrl-C was pressed twice."""


class EventLog(logging.Handler):
    """Keeps what was logged last, for whoever draws."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.events: deque[str] = deque(maxlen=EVENTS_MAX)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep its first line, without the update id at its end: there is one on the screen already."""
        self.events.append(self.format(record).splitlines()[0].partition(" at update id ")[0])


def is_live_terminal(stream: TextIO) -> bool:
    """Return whether a view can be drawn there."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def glyphs_for(stream: TextIO) -> Glyphs:
    """Return what the stream's encoding can write."""
    drawing = f"{UNICODE.eighths}{UNICODE.upright}{UNICODE.level}{UNICODE.dot}{UNICODE.more}⣿"
    try:
        drawing.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII
    return UNICODE


@dataclass(kw_only=True, slots=True)
class Watch:
    """What to watch, for how long, and how.

    Attributes:
        manager: whose depth caches are watched: those that there are when it begins. Not stopped at the end.
        title: the first words on the screen.
        seconds: None: until somebody says stop.
        levels_max: at most so many levels a side; None: as many as fit.
        on_round: called with each round of shots; what it returns stands at the end of the last line.
    """

    manager: BinanceLocalDepthCacheManager
    title: str
    stream: TextIO
    error_stream: TextIO
    seconds: float | None = None
    levels_max: int | None = None
    on_round: Callable[[Sequence[Shot], float], str] | None = None
    note: str = ""
    meters: Sequence[Meter] = ()
    shots: Sequence[Shot] = ()

    def run(self, *, is_live: bool) -> ExitStatus:
        """Watch until the end. ``ImportError`` if a live view lacks rich."""
        with Interruption() as interruption:
            try:
                if is_live:
                    self._run_live(interruption)
                else:
                    self._run_plain(interruption)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                logger.debug("the reader of the output went away: %s", error)
                forget(self.stream)
        self._say_what_failed()
        return ExitStatus.SYNCHRONIZED if all(shot.is_readable for shot in self.shots) else ExitStatus.OUT_OF_SYNC

    def _begin(self) -> float:
        names = self.manager.get_list_of_depth_caches()
        self.meters = [Meter(self.manager.get_depth_cache(market)) for market in names]
        return time.monotonic()

    def _look(self, levels: int) -> None:
        now, unix_time_ns = time.monotonic(), time.time_ns()
        self.shots = [meter.shoot(levels, now, unix_time_ns) for meter in self.meters]
        if self.on_round is not None:
            self.note = self.on_round(self.shots, now)

    def _is_hopeless(self) -> bool:
        return all(shot.state is SyncState.FAILED for shot in self.shots)

    # ------------------------------------------------------------------------------------------ lines

    def _run_plain(self, interruption: Interruption) -> None:
        handler = logging.StreamHandler(self.error_stream)
        handler.setLevel(logging.WARNING)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            began_at = self._begin()
            ends_at = None if self.seconds is None else began_at + self.seconds
            due = began_at
            is_over = False
            while not is_over:
                due += LINE_S
                until = due if ends_at is None else min(due, ends_at)
                is_over = interruption.wait(until - time.monotonic()) or until == ends_at
                self._look(1)
                unix_time_ns = time.time_ns()
                for shot in self.shots:
                    self.stream.write(plain_line(shot, unix_time_ns) + "\n")
                self.stream.flush()
                is_over = is_over or self._is_hopeless()
        finally:
            logging.getLogger().removeHandler(handler)

    # ------------------------------------------------------------------------------------------ the view

    def _run_live(self, interruption: Interruption) -> None:
        from ldc.cli.terminal import opened

        log = EventLog()
        former_level = logger.level
        logging.getLogger().addHandler(log)
        logger.setLevel(logging.INFO)
        try:
            with opened(self.stream) as terminal, interruption.keyboard(sys.stdin):
                began_at = self._begin()
                ends_at = None if self.seconds is None else began_at + self.seconds
                in_sync_at = began_at
                glyphs = glyphs_for(self.stream)
                is_over = False
                while not is_over:
                    now = time.monotonic()
                    until = now + REDRAW_S if ends_at is None else min(now + REDRAW_S, ends_at)
                    width, height = terminal.size
                    self._look(levels_for(height, self.levels_max))
                    are_all_readable = all(shot.is_readable for shot in self.shots)
                    if are_all_readable:
                        in_sync_at = now
                    screen = Screen(
                        title=self.title,
                        clock=time.strftime("%H:%M:%S"),
                        event=log.events[-1] if log.events else "",
                        note=self.note or "q ends",
                        levels_max=self.levels_max,
                        waited_s=now - in_sync_at,
                        seconds_left=None if are_all_readable else self.manager.get_progress().seconds_left,
                    )
                    terminal.show(drawn(self.shots, screen, width, height, glyphs))
                    is_over = interruption.wait(until - time.monotonic()) or until == ends_at or self._is_hopeless()
                self._look(1)
        finally:
            logging.getLogger().removeHandler(log)
            logger.setLevel(former_level)
        self._sum_up(time.monotonic() - began_at)

    def _sum_up(self, seconds: float) -> None:
        """Leave on the terminal what the view would take away with it."""
        for shot in self.shots:
            status = shot.status
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(status.resyncs.items()))
            resyncs = plural(sum(status.resyncs.values()), "resync") + (f" ({causes})" if causes else "")
            state = shot.state.value if shot.cause is None else f"{shot.state.value} ({shot.cause})"
            self.stream.write(
                f"{status.market}: {state} at update id {shot.update_id or '-'}, "
                f"{plural(status.counters.updates_applied, 'update')} in {duration(seconds)}, {resyncs}\n"
            )
        self.stream.flush()

    def _say_what_failed(self) -> None:
        for shot in self.shots:
            if shot.state is SyncState.FAILED:
                try:
                    self.manager.wait_until_synchronized(shot.status.market, timeout=0)
                except DepthCacheError as error:
                    self.error_stream.write(f"ldc: {error}\n")


def forget(stream: TextIO) -> None:
    """Send what is still to be written nowhere, so that the interpreter does not stumble over it at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
