"""For the tests of the command line: samples made by hand, and the command run as a program."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Self

from ldc.cli.samples import Sample
from ldc.cli.text import Line, width_of
from ldc.types import BookCounters, DepthCacheStatus, SyncState

GIVE_UP_S = 60
"""Seconds; the awaited output comes in one. This only ends a broken test."""


def status(market: str = "BTCUSDT", **changes: object) -> DepthCacheStatus:
    values = dict.fromkeys(DepthCacheStatus._fields)
    values |= {
        "market": market,
        "exchange": "binance.com",
        "state": SyncState.SYNCHRONIZED,
        "state_since": 0.0,
        "is_synchronized": True,
        "last_update_id": 1009639641,
        "bid_count": 4998,
        "ask_count": 5001,
        "counters": BookCounters(*range(len(BookCounters._fields))),
        "resyncs": {},
        "updates_dropped": {},
        "snapshots_dropped": {},
        "audits": {},
        "restart_count": 0,
        "reconnects": 0,
        "connections": (),
        "proof_age_s": 0.0,
        "progress": None,
    }
    return DepthCacheStatus(**(values | changes))


def sample(
    market: str = "BTCUSDT",
    *,
    levels: int = 40,
    mid: str = "61840.00",
    step: str = "0.01",
    size: str = "0.00500",
    **rest: object,
) -> Sample:
    """A market in sync: best bid and ask one step from the middle, each size larger than the one before."""
    middle, gap, quantity = Decimal(mid), Decimal(step), Decimal(size)
    bids = tuple((middle - number * gap, number * quantity) for number in range(1, levels + 1))
    asks = tuple((middle + number * gap, number * quantity) for number in range(1, levels + 1))
    decimals = [-int(value.normalize().as_tuple().exponent) for value in (gap, quantity)]
    values = {
        "status": status(market),
        "state": SyncState.SYNCHRONIZED,
        "cause": None,
        "bids": bids,
        "asks": asks,
        "update_id": 1009639641,
        "price_decimals": decimals[0],
        "quantity_decimals": decimals[1],
        "bid_depth": Decimal("0.4211"),
        "ask_depth": None,
        "updates_per_s": 9.96,
        "age_s": 0.043,
        "state_age_s": 31.0,
        "mids": tuple(61840 + number % 7 for number in range(100)),
    }
    return Sample(**(values | rest))


def lost_sample(market: str = "BTCUSDT", cause: str = "GAP", state: SyncState = SyncState.BUFFERING) -> Sample:
    """A market that cannot be read, and was in sync before."""
    changes = {"state": state, "is_synchronized": False, "cause": cause, "resyncs": {cause: 2}}
    return sample(market)._replace(
        status=status(market, **changes), state=state, cause=cause, bids=None, asks=None, bid_depth=None, ask_depth=None
    )


def text_of(line: Line) -> str:
    return "".join(text for text, _ in line)


def texts_of(lines: list[Line]) -> list[str]:
    return [text_of(line) for line in lines]


def widths_of(lines: list[Line]) -> set[int]:
    return {width_of(text_of(line)) for line in lines}


COMMAND = [sys.executable, "-P", "-m", "ldc"]

RUN = "import sys; from ldc.cli.main import main; sys.exit(main())"

# Makes Ctrl-C in the terminal a signal.
TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"


class Program:
    """`ldc` as a process; its output is read until it contains something."""

    def __init__(self, *arguments: str, terminal: tuple[int, int] | None = None, code: str | None = None) -> None:
        command = COMMAND if code is None else [sys.executable, "-P", "-c", code]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
        environment["TERM"] = os.environ.get("TERM_OF_TEST", "xterm-256color")
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.written = b""
        if terminal is None:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            )
            assert self.process.stdout is not None
            self.output = self.process.stdout.fileno()
        else:
            import pty

            self.output, inside = pty.openpty()
            self.resize(*terminal)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", TAKE_TERMINAL + (code or RUN), *arguments],
                stdin=inside,
                stdout=inside,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            os.close(inside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def resize(self, columns: int, rows: int) -> None:
        import termios

        termios.tcsetwinsize(self.output, (rows, columns))

    def read_until(self, is_enough: Callable[[bytes], object], since: int = 0) -> bytes:
        """Return what was written from a position on, as soon as it is enough."""
        while not is_enough(self.written[since:]):
            ready, _, _ = select.select([self.output], [], [], GIVE_UP_S)
            assert ready, f"nothing comes any more; there was {self.written[-2000:]!r}"
            chunk = self._read()
            assert chunk, f"it ended; there was {self.written[-2000:]!r} and {self.errors()!r}"
            self.written += chunk
        return self.written[since:]

    def _read(self) -> bytes:
        try:
            return os.read(self.output, 65536)
        except OSError:  # how a terminal reports that it has no writer any more
            return b""

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def press(self, keys: bytes) -> None:
        os.write(self.output, keys)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def end(self) -> int:
        """Read the rest; return the exit status."""
        while chunk := self._read():
            self.written += chunk
        return self.process.wait(GIVE_UP_S)

    @property
    def lines(self) -> list[dict[str, str]]:
        """The complete plain lines, as dicts of their fields."""
        whole = self.written.decode().rpartition("\n")[0]
        return [dict(field.split("=", 1) for field in line.split(" ")) for line in whole.splitlines()]


def frames(written: bytes) -> list[list[str]]:
    """The drawn screens, each as its lines without colours."""
    parts = written.decode(errors="replace").split("\x1b[H")[1:-1]
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part).replace("\r", "").split("\n") for part in parts]
