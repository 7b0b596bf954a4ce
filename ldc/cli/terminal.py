"""The terminal: rich draws the lines. The only module that knows rich, and what a style looks like.

Rule 1: only the sixteen colours that a terminal's theme defines, so that dark and light ones both can be read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

try:
    import rich  # noqa: F401 - asked here first, so that the answer names what is missing
except ModuleNotFoundError as error:
    raise ImportError("the live view needs rich: pip install 'binance-local-depth-cache[cli]'") from error

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.theme import Theme

from ldc.cli.text import Line

STYLES = {
    "alert": "bold magenta",
    "ask": "red",
    "ask bar": "dim red",
    "ask best": "bold red",
    "best": "bold",
    "bid": "green",
    "bid bar": "dim green",
    "bid best": "bold green",
    "curve": "",
    "dim": "dim",
    "failed": "bold white on red",
    "faint": "dim",
    "good": "green",
    "header": "bold reverse",
    "progress": "green",
    "strong": "bold",
    "title": "bold",
    "waiting": "black on yellow",
}
"""What the styles of lines look like."""


class Terminal:
    """A screen of its own, which is put away at the end; what was there before comes back."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as they are now."""
        return self._console.size.width, self._console.size.height

    def show(self, lines: Sequence[Line]) -> None:
        """Draw the lines in the place of those before."""
        text = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            for part, style in line:
                text.append(part, STYLES.get(style, ""))
        self._live.update(text, refresh=True)


@contextmanager
def opened(stream: TextIO) -> Iterator[Terminal]:
    """Take the terminal over for the time of a `with` block."""
    console = Console(file=stream, theme=Theme(inherit=False), highlight=False, markup=False, emoji=False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with live:
        yield Terminal(console, live)
