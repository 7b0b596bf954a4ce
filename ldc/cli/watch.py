"""Watches markets until the time is over or the user ends it: as a view on a terminal, as lines elsewhere.

Rule 1: the last samples decide the exit status, and the last output agrees with it.
Rule 2: only the view writes to the terminal while it is open; log messages go through it.
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
from typing import Any, Protocol, TextIO

from ldc.cli.ladder import one_line
from ldc.cli.plain import plain_line
from ldc.cli.samples import Sample, Sampler, Watched
from ldc.cli.screen import Screen, drawn, levels_for
from ldc.cli.signals import Interruption
from ldc.cli.text import ASCII, UNICODE, Glyphs, duration, plural
from ldc.errors import DepthCacheError
from ldc.types import Progress, SyncState

REDRAW_S = 0.2
"""Seconds between two drawings of the view. Eyes do not read faster; the books are updated at full speed."""

LINE_S = 1.0
"""Seconds between two plain lines of a market."""

EVENTS_MAX = 50
"""Log messages kept; the oldest is dropped."""

GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""Errors of a stream without a reader: the pipe is broken, or the terminal was closed."""

logger = logging.getLogger("binance_local_depth_cache")


class ExitStatus(IntEnum):
    """The exit status of the program."""

    SYNCHRONIZED = 0
    """All markets were in sync when it ended."""
    OUT_OF_SYNC = 1
    """At least one market was not."""
    USAGE = 2
    """The command line is wrong; nothing was started."""
    UNAVAILABLE = 3
    """Something that it needs is missing: an extra is not installed, or a port is taken."""
    INTERRUPTED = 130
    """Ctrl-C was pressed twice."""


class EventLog(logging.Handler):
    """Keeps the latest log messages for the view."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.events: deque[str] = deque(maxlen=EVENTS_MAX)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line, without the update id at its end, which the screen shows already."""
        self.events.append(self.format(record).splitlines()[0].partition(" at update id ")[0])


def is_live_terminal(stream: TextIO) -> bool:
    """Return whether the stream can show the view."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def glyphs_for(stream: TextIO) -> Glyphs:
    """Return the glyphs that the stream's encoding can write."""
    drawing = f"{UNICODE.eighths}{UNICODE.upright}{UNICODE.level}{UNICODE.dot}{UNICODE.more}⣿"
    try:
        drawing.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII
    return UNICODE


def selected_by(key: str, selected: int | None, count: int) -> int | None:
    """Return which market the view shows alone after a key; None: all of them."""
    if key == "a":
        return None
    step = {"n": 1, "p": -1}.get(key)
    if step is None:
        return selected
    return (0 if step == 1 else count - 1) if selected is None else (selected + step) % count


class Source(Protocol):
    """Markets that can be watched: a manager, or a share of another process."""

    def get_list_of_depth_caches(self) -> list[str]:
        """Return the markets."""

    def get_depth_cache(self, market: str) -> Watched:
        """Return one of them."""

    def get_progress(self) -> Progress:
        """Return how many can be read."""

    def wait_until_synchronized(self, markets: Any, timeout: float | None) -> bool:
        """Raise why a market can never be read."""


@dataclass(kw_only=True, slots=True)
class Watch:
    """What to watch, for how long, and how.

    Attributes:
        manager: its depth caches at the start are watched. It is not stopped at the end.
        title: the first words on the screen.
        seconds: None: until the user ends it.
        levels_max: maximum levels a side; None: as many as fit.
        on_round: called with each round of samples; the last line of the screen ends with its result.
    """

    manager: Source
    title: str
    stream: TextIO
    error_stream: TextIO
    seconds: float | None = None
    levels_max: int | None = None
    on_round: Callable[[Sequence[Sample], float], str] | None = None
    note: str = ""
    selected: int | None = None
    samplers: Sequence[Sampler] = ()
    samples: Sequence[Sample] = ()

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
                logger.debug("the output has no reader any more: %s", error)
                forget(self.stream)
        self._write_failures()
        return ExitStatus.SYNCHRONIZED if all(sample.is_readable for sample in self.samples) else ExitStatus.OUT_OF_SYNC

    def _begin(self) -> float:
        names = self.manager.get_list_of_depth_caches()
        self.samplers = [Sampler(self.manager.get_depth_cache(market)) for market in names]
        return time.monotonic()

    def _sample(self, levels: int) -> None:
        now, unix_time_ns = time.monotonic(), time.time_ns()
        self.samples = [sampler.sample(levels, now, unix_time_ns) for sampler in self.samplers]
        if self.on_round is not None:
            self.note = self.on_round(self.samples, now)

    def _is_hopeless(self) -> bool:
        return all(sample.state is SyncState.FAILED for sample in self.samples)

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
                self._sample(1)
                unix_time_ns = time.time_ns()
                for sample in self.samples:
                    self.stream.write(plain_line(sample, unix_time_ns) + "\n")
                self.stream.flush()
                is_over = is_over or self._is_hopeless()
        finally:
            logging.getLogger().removeHandler(handler)

    # ------------------------------------------------------------------------------------------ the view

    def _run_live(self, interruption: Interruption) -> None:
        from ldc.cli.terminal import opened

        log = EventLog()
        previous_level = logger.level
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
                    self._sample(levels_for(height, self.levels_max))
                    are_all_readable = all(sample.is_readable for sample in self.samples)
                    if are_all_readable:
                        in_sync_at = now
                    screen = Screen(
                        title=self.title,
                        clock=time.strftime("%H:%M:%S"),
                        event=log.events[-1] if log.events else "",
                        note=self.note or ("q ends" if len(self.samples) == 1 else "n p a select, q ends"),
                        selected=self.selected,
                        levels_max=self.levels_max,
                        waited_s=now - in_sync_at,
                        seconds_left=None if are_all_readable else self.manager.get_progress().seconds_left,
                    )
                    terminal.show(drawn(self.samples, screen, width, height, glyphs))
                    is_over = interruption.wait(until - time.monotonic()) or until == ends_at or self._is_hopeless()
                    for key in interruption.pressed():
                        self.selected = selected_by(key, self.selected, len(self.samples))
                self._sample(1)
        finally:
            logging.getLogger().removeHandler(log)
            logger.setLevel(previous_level)
        self._write_summary(time.monotonic() - began_at)

    def _write_summary(self, seconds: float) -> None:
        """Write the result to the terminal, which the view has left."""
        for sample in self.samples:
            status = sample.status
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(status.resyncs.items()))
            resyncs = plural(sum(status.resyncs.values()), "resync") + (f" ({causes})" if causes else "")
            state = sample.state.value if sample.cause is None else f"{sample.state.value} ({sample.cause})"
            error = "" if sample.is_readable or not status.last_error else f"; {one_line(status.last_error)}"
            self.stream.write(
                f"{status.market}: {state} at update id {sample.update_id or '-'}, "
                f"{plural(status.counters.updates_applied, 'update')} in {duration(seconds)}, {resyncs}{error}\n"
            )
        self.stream.flush()

    def _write_failures(self) -> None:
        for sample in self.samples:
            if sample.state is SyncState.FAILED:
                try:
                    self.manager.wait_until_synchronized(sample.status.market, timeout=0)
                except DepthCacheError as error:
                    self.error_stream.write(f"ldc: {error}\n")


def forget(stream: TextIO) -> None:
    """Discard the unwritten output of a stream, so that the interpreter's exit raises no error for it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
