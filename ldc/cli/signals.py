"""Waits that the user can end: by Ctrl-C, by the signals that end programs, or by the key q.

Rule 1: the first signal only sets a flag, so that it interrupts nothing. The second one has its usual effect.
Rule 2: the terminal's settings are restored at the end.
Rule 3: a signal that was ignored at the start stays ignored, such as SIGHUP under `nohup`.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import types
from collections.abc import Iterator
from typing import Any, Self, TextIO

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Some systems lack some of them."""


class Interruption:
    """Whether the program shall end. A context manager for the main thread; other threads get no signals."""

    def __init__(self) -> None:
        self.is_requested = False
        self._reader, self._writer = socket.socketpair()
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1
        self._keys: int | None = None
        self._pressed = ""

    def __enter__(self) -> Self:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self._previous_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        self._restore()
        self._reader.close()
        self._writer.close()

    def _note(self, _number: int, _frame: types.FrameType | None) -> None:
        self.is_requested = True
        self._restore()

    def _restore(self) -> None:
        if self._previous:
            previous, self._previous = self._previous, {}
            signal.set_wakeup_fd(self._previous_wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until the user presses a key or ends the program; return whether it shall end."""
        if not self.is_requested:
            watched = [self._reader.fileno()] if self._keys is None else [self._reader.fileno(), self._keys]
            ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
            if self._keys in ready:
                self._read_keys()
        return self.is_requested

    def _read_keys(self) -> None:
        assert self._keys is not None
        try:
            keys = os.read(self._keys, 1024)
        except OSError:  # the terminal was closed
            keys = b""
        if not keys:
            self._keys = None
        elif b"q" in keys.lower():
            self.is_requested = True
        else:
            self._pressed += keys.decode("ascii", "ignore").lower()

    def pressed(self) -> str:
        """Return the keys that were pressed since the last call, in lower case."""
        keys, self._pressed = self._pressed, ""
        return keys

    @contextlib.contextmanager
    def keyboard(self, stream: TextIO | None) -> Iterator[None]:
        """Read the keys of a terminal, without echo because it would disturb the view.

        Ctrl-C stays a signal. Ctrl-Z is disabled, because it would leave the view on the screen. A file, or a terminal
        of another job, stays unchanged.
        """
        keys = own_terminal(stream)
        if keys is None:
            yield
            return
        import termios

        before, quiet = termios.tcgetattr(keys), termios.tcgetattr(keys)
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        quiet[6][termios.VSUSP] = bytes([os.fpathconf(keys, "PC_VDISABLE")])
        termios.tcsetattr(keys, termios.TCSADRAIN, quiet)
        self._keys = keys
        try:
            yield
        finally:
            self._keys = None
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(keys, termios.TCSAFLUSH, before)


def own_terminal(stream: TextIO | None) -> int | None:
    """Return the descriptor of the stream if it is a terminal of this job, or None."""
    try:
        import termios
    except ImportError:  # Windows has none
        return None
    if stream is None:
        return None
    try:
        keys = stream.fileno()
        termios.tcgetattr(keys)
        return keys if os.tcgetpgrp(keys) == os.getpgrp() else None
    except (OSError, ValueError, termios.error):
        return None
