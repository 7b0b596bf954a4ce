"""The terminal: rich draws the lines. Only this module uses rich and defines the styles.

Rule 1: only the sixteen colours of the terminal's theme, which are readable on dark and on light ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

try:
    import rich  # noqa: F401 - imported first, so that the error names the missing extra
except ModuleNotFoundError as error:
    raise ImportError("the live view needs rich: pip install rich") from error

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
"""Name of a style in `Line` -> its look in rich."""


class Terminal:
    """The terminal's alternate screen. Its end restores the previous content."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live

    @property
    def size(self) -> tuple[int, int]:
        """The present width and height in cells."""
        return self._console.size.width, self._console.size.height

    def show(self, lines: Sequence[Line]) -> None:
        """Draw the lines instead of the previous ones."""
        text = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            for part, style in line:
                text.append(part, STYLES.get(style, ""))
        self._live.update(text, refresh=True)


@contextmanager
def opened(stream: TextIO) -> Iterator[Terminal]:
    """Use the terminal's alternate screen during a `with` block."""
    console = Console(file=stream, theme=Theme(inherit=False), highlight=False, markup=False, emoji=False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with live:
        yield Terminal(console, live)
