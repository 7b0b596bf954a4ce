"""Waiting that a signal ends: Ctrl-C, and what systems send to end a program.

Rule 1: the first signal only says that it came, so nothing is torn down in the middle of something; the second one
does what signals usually do.
"""

import select
import signal
import socket
import threading
import types
from typing import Any, Self

__all__ = ["Interruption"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Not every system has them all."""


class Interruption:
    """Whether the program was asked to end. A context manager, for the main thread; in others no signal arrives."""

    def __init__(self) -> None:
        self.is_asked = False
        self._reader, self._writer = socket.socketpair()
        self._former: dict[int, Any] = {}
        self._former_wakeup = -1

    def __enter__(self) -> Self:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self._former_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        self._restore()
        self._reader.close()
        self._writer.close()

    def _note(self, _number: int, _frame: types.FrameType | None) -> None:
        self.is_asked = True
        self._restore()

    def _restore(self) -> None:
        if self._former:
            former, self._former = self._former, {}
            signal.set_wakeup_fd(self._former_wakeup)
            for number, handler in former.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until a signal comes; return whether one has."""
        if not self.is_asked:
            select.select([self._reader], [], [], max(0.0, seconds))
        return self.is_asked
