"""The file that says who feeds a share. Its feeder holds a lock on it, which the system releases when it ends.

Rule 1: a feeder locks its file before it is renamed into place, so no reader can be in the way.
Rule 2: readers look at the lock and take none, where the system can tell (Linux). There a lock belongs to the open
        file: a child that is forked closes its copy (`Publisher`), otherwise the lock would outlive the feeder.
Rule 3: two feeders that start at once meet at the file `.start`, which only their user can open.
"""

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ldc.book.pure.shared import feeder_lives

FEEDER_FILE = "feeder"
START_FILE = ".start"
START_WAIT_S = 2.0
"""A feeder waits so long for another one that starts at the same time, then it raises."""

_MAGIC = int.from_bytes(b"LDCFEED\0", "little")
_VERSION = 1
_LAYOUT = struct.Struct("<QIiQq4Q")
assert _LAYOUT.size == 64


class Feeder(NamedTuple):
    """Who feeds a share."""

    pid: int
    """Its process, as that process sees itself: in a container, of the container."""
    since: float
    """When it began to feed: Unix time, in seconds."""
    is_alive: bool
    """Whether it still runs; a process that is stopped does."""
    generation: int
    """Another, higher number for each feeder of a share."""


class FeederFile:
    """The file `feeder` as a reader has opened it. It stays that of the same feeder, whoever comes next."""

    def __init__(self, fd: int, pid: int, generation: int, since_ns: int) -> None:
        self._fd = fd
        self.pid = pid
        self.generation = generation
        self.since_ns = since_ns
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Return the present one, or None: there is none, or it is of another version. OSError if it cannot be read."""
        try:
            fd = os.open(folder / FEEDER_FILE, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return None
        octets = os.pread(fd, _LAYOUT.size, 0)
        if len(octets) == _LAYOUT.size:
            magic, version, pid, generation, since_ns, *_ = _LAYOUT.unpack(octets)
            if (magic, version) == (_MAGIC, _VERSION):
                return cls(fd, pid, generation, since_ns)
        os.close(fd)
        return None

    def __del__(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    @property
    def is_alive(self) -> bool:
        """Whether that feeder still runs."""
        return feeder_lives(self._fd)

    def status(self) -> Feeder:
        """Return who feeds, as a value."""
        return Feeder(self.pid, self.since_ns / 1e9, self.is_alive, self.generation)


def take_lock(fd: int) -> bool:
    """Lock a file for this process; False: another one holds the lock."""
    if fcntl is None:
        raise OSError("books can be shared on Linux and macOS; Windows has no lock that a reader can look at")
    try:
        if hasattr(fcntl, "F_OFD_SETLK"):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Keep other feeders of a share from starting or ending meanwhile. ``TimeoutError`` if one takes too long."""
    fd = os.open(folder / START_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        give_up_at = time.monotonic() + START_WAIT_S
        while not take_lock(fd):
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"another feeder has been starting in {folder} for {START_WAIT_S:g} s; try again")
            time.sleep(0.005)
        yield
    finally:
        os.close(fd)


def write_feeder(fd: int, generation: int, since_ns: int) -> None:
    """Say in a new file, which is locked, that this process feeds."""
    os.pwrite(fd, _LAYOUT.pack(_MAGIC, _VERSION, os.getpid(), generation, since_ns, 0, 0, 0, 0), 0)
