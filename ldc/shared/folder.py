"""Where the files of a share lie, what they are called, and whom they belong to.

    <folder>/<share>/feeder          who feeds it; that process holds a lock on it
    <folder>/<share>/<market>.book   a region for each market
    <folder>/<share>/waiters         where readers say that they wait; the only file that they write

Rule 1: no file is ever shortened: that would kill its readers (SIGBUS). A new one is filled, and renamed into place.
Rule 2: the memory is reserved at creation. A full file system is an error there, and not a SIGBUS later.
Rule 3: a folder that another user owns, or may write to, is refused: its files may be anything.
"""

import errno
import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

ENVIRONMENT = "LDC_SHARED_FOLDER"
"""Names the folder of all shares, instead of ``/dev/shm/ldc-<uid>``."""

BOOK_SUFFIX = ".book"
FILE_NAME_BYTES_MAX = 200
"""Of a market's file; a market with a longer name is refused."""

_SHARE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def checked_share(name: str) -> str:
    """Return the name of a share; ``ValueError`` if it cannot be the name of a folder."""
    if not isinstance(name, str) or not _SHARE.fullmatch(name):
        raise ValueError(
            f"the name of a share has 1 to 64 letters, digits and _ . - and does not begin with a dot, unlike {name!r}"
        )
    return name


def base_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of all shares: as given, of the environment, or the user's own in memory."""
    if folder is not None:
        return Path(folder)
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it is checked for its owner
    if sys.platform.startswith("linux") and memory.is_dir():
        return memory / f"ldc-{user}"
    return Path(tempfile.gettempdir()) / f"ldc-{user}"


def book_file(market: str) -> str:
    """Return the name of a market's file; ``ValueError`` for what is no name."""
    if not isinstance(market, str) or not market:
        raise ValueError(f"a market is a text that is not empty, not {market!r}")
    name = re.sub(r"\A\.", "%2E", quote(market, safe="")) + BOOK_SUFFIX
    if len(name) > FILE_NAME_BYTES_MAX:
        raise ValueError(f"the name of the market {market[:20]!r}... is too long to be shared")
    return name


def market_of(file_name: str) -> str | None:
    """Return the market whose file has this name, or None: it is another file."""
    if not file_name.endswith(BOOK_SUFFIX) or file_name.startswith("."):
        return None
    return unquote(file_name.removesuffix(BOOK_SUFFIX))


def make_folder(path: Path, *, group: bool) -> None:
    """Make a folder for this user alone, or readable by its group, unless it is there; refuse one of somebody else."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise PermissionError(
            errno.EPERM, "the folder of shared books is not this user's alone to write to; remove it", str(path)
        )
    wanted = 0o750 if group else 0o700
    if group and stat.S_IMODE(about.st_mode) | wanted != stat.S_IMODE(about.st_mode):
        path.chmod(wanted)


def new_file(path: Path, size: int, mode: int) -> int:
    """Make a file of so many zero bytes, all of them reserved, and return its descriptor. The caller renames it.

    Raises OSError, and leaves nothing behind, if there is no room.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(fd, mode)
        reserve(fd, size)
    except OSError as error:
        os.close(fd)
        path.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"there is no room for {size} bytes of a shared book; publish fewer levels, or give the file system "
                "more (Docker: --shm-size)",
                str(path),
            ) from error
        raise
    return fd


def reserve(fd: int, size: int) -> None:
    """Give a new file its size and its memory."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    while size > 0:  # macOS has no such call
        size -= os.write(fd, bytes(min(size, 1 << 20)))
