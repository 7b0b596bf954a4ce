"""Waiting that somebody ends: by Ctrl-C, by what systems send to end a program, or by the key q.

Rule 1: the first signal only says that it came, so nothing is torn down in the middle of something; the second one
does what signals usually do.
Rule 2: a terminal is left as it was found.
Rule 3: a signal that the program was started to ignore stays ignored: `nohup` has it ignore the end of its terminal.
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
"""Not every system has them all."""


class Interruption:
    """Whether the program was asked to end. A context manager, for the main thread; in others no signal arrives."""

    def __init__(self) -> None:
        self.is_asked = False
        self._reader, self._writer = socket.socketpair()
        self._former: dict[int, Any] = {}
        self._former_wakeup = -1
        self._keys: int | None = None

    def __enter__(self) -> Self:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self._former_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:
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
        """Wait so long, or until somebody wants the end; return whether somebody does. Another key ends a wait too."""
        if not self.is_asked:
            watched = [self._reader.fileno()] if self._keys is None else [self._reader.fileno(), self._keys]
            ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
            if self._keys in ready:
                self._read_keys()
        return self.is_asked

    def _read_keys(self) -> None:
        assert self._keys is not None
        try:
            keys = os.read(self._keys, 1024)
        except OSError:  # the terminal was closed
            keys = b""
        if not keys:
            self._keys = None
        elif b"q" in keys.lower():
            self.is_asked = True

    @contextlib.contextmanager
    def keyboard(self, stream: TextIO | None) -> Iterator[None]:
        """Listen to the keys of a terminal, which does not show them meanwhile: they would tear the view.

        Ctrl-C stays a signal; Ctrl-Z does nothing, because it would leave the view behind on the screen. What is no
        terminal of ours (a file, a terminal that another job has) is left alone.
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
    """Return the descriptor of a terminal that is ours to listen to, or None."""
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
