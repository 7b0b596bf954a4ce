"""The feeder of a share: it publishes books, says that it lives, and takes its files away at the end.

Rule 1: a share has one feeder. Another one is refused, unless it is to replace the first, which may hang.
Rule 2: files are made beside and renamed into place, so a reader finds a whole one or none.
Rule 3: at its end a feeder removes only files that are its own: there may be a next feeder by then.
"""

import atexit
import os
import threading
import time
import types
import weakref
from itertools import count
from pathlib import Path
from typing import NamedTuple, Self

from ldc.book import MappedFile, OrderBook, RegionKeeper, RegionWriter, has_system_threads, region_bytes
from ldc.errors import DepthCacheError
from ldc.shared.feeder import FEEDER_FILE, FeederFile, starting, take_lock, write_feeder
from ldc.shared.folder import BOOK_SUFFIX, base_folder, book_file, checked_share, make_folder, new_file

LEVELS = 100
"""Levels a side that are published, unless another number is given. 1,000 markets of them take 6.8 MB."""

LEVELS_MAX = 50_000
"""More are refused with a ``ValueError``: a book holds no more."""

WAITERS_FILE = "waiters"
WAITER_SLOTS = 8192
"""Markets past so many share the slots of the first ones. Then a waiter of one costs wakes of the other, too."""


class _Published(NamedTuple):
    """A market that is published."""

    book: OrderBook
    writer: RegionWriter
    path: Path
    inode: int


class Publisher:
    """Publishes order books in shared memory, for `SharedBooks` and programs in other languages.

    Args:
        name: of the share: letters, digits and ``_ . -``. It stands in the paths of the files.
        levels: levels a side that are published. A reader's horizon ends there.
        group: let the group of this user read, too.
        folder: of all shares. None: ``LDC_SHARED_FOLDER`` in the environment, or ``/dev/shm/ldc-<uid>``.
        replace: take over from a feeder that is still there, such as one that hangs. It goes on in vain.

    Raises `DepthCacheError` if another process feeds the share, and OSError where there is no room, or no support.

    Use it as a context manager, or call `close`. Thread-safe. A forked child publishes nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        levels: int = LEVELS,
        group: bool = False,
        folder: str | os.PathLike[str] | None = None,
        replace: bool = False,
    ) -> None:
        self.name = checked_share(name)
        region_bytes(levels)  # raises for a wrong number
        self.levels = levels
        base = base_folder(folder)
        make_folder(base, group=group)
        self.folder = base / name
        make_folder(self.folder, group=group)
        self._mode = 0o640 if group else 0o600
        self._lock = threading.Lock()
        self._published: dict[str, _Published] = {}
        self._slots = count()
        self._is_closed = False
        with starting(self.folder):
            self._fd, self.generation = self._begin(group=group, replace=replace)
        self._inode = os.fstat(self._fd).st_ino
        self._keeper = RegionKeeper(has_system_threads)
        self._thread = threading.Thread(target=self._keeper.run, name=f"ldc-shared-{name}", daemon=True)
        self._thread.start()
        _open_publishers.add(self)

    def _begin(self, *, group: bool, replace: bool) -> tuple[int, int]:
        """Become the feeder of the share; return the locked descriptor and the generation."""
        previous = FeederFile.open(self.folder)
        if previous is not None and previous.is_alive and not replace:
            raise DepthCacheError(
                None,
                None,
                f"The share {self.name!r} is fed by process {previous.pid}; end that process, use another name, or "
                "replace it.",
            )
        self._remove_left_files()
        now_ns = time.time_ns()
        generation = max(now_ns, previous.generation + 1 if previous is not None else 0)
        new = self.folder / f".{WAITERS_FILE}.{os.getpid()}"
        fd = new_file(new, 8 * WAITER_SLOTS, 0o660 if group else 0o600)
        try:
            self._waiters = MappedFile(fd, 8 * WAITER_SLOTS, True)
        finally:
            os.close(fd)
        new.rename(self.folder / WAITERS_FILE)
        new = self.folder / f".{FEEDER_FILE}.{os.getpid()}"
        fd = new_file(new, 64, self._mode)
        try:
            assert take_lock(fd), "a new file is locked already"
            write_feeder(fd, generation, now_ns)
            new.rename(self.folder / FEEDER_FILE)
        except BaseException:
            os.close(fd)
            raise
        return fd, generation

    def _remove_left_files(self) -> None:
        """Remove what a feeder left that was killed. Its readers keep what they have mapped."""
        for path in self.folder.iterdir():
            is_unfinished = path.name.startswith((f".{WAITERS_FILE}.", f".{FEEDER_FILE}.", ".new."))
            if is_unfinished or path.name.endswith(BOOK_SUFFIX):
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------ from any thread

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publisher of {len(self._published)} markets as {self.name!r}, {self.levels} levels>"

    @property
    def markets(self) -> list[str]:
        """The markets that are published."""
        with self._lock:
            return list(self._published)

    def publish(self, book: OrderBook, market: str | None = None, *, exchange: str = "") -> None:
        """Publish a book from now on, after each of its changes. Its writer pays some tens of ns for each.

        Args:
            book: it stays the caller's. Give it a `lease`, or readers cannot know how old it is.
            market: the name that readers use. None: that of the book.
            exchange: for readers; an exchange string or any text.

        Raises ``ValueError`` if the market or the book is published already, OSError if there is no room.
        """
        name = market if market is not None else book.market
        if name is None:
            raise ValueError("a book without a market needs a name to be published")
        path = self.folder / book_file(name)
        with self._lock:
            if self._is_closed:
                raise DepthCacheError(name, None, f"The share {self.name!r} is closed; make another Publisher.")
            if name in self._published:
                raise ValueError(f"{name!r} is published already in the share {self.name!r}")
            if book.region is not None:
                raise ValueError(f"the book of {name!r} is shared already")
            self._published[name] = self._publish(book, name, path, exchange)

    def _publish(self, book: OrderBook, name: str, path: Path, exchange: str) -> _Published:
        size = region_bytes(self.levels)
        new = path.with_name(f".new.{path.name}")
        fd = new_file(new, size, self._mode)
        try:
            memory, inode = MappedFile(fd, size, True), os.fstat(fd).st_ino
        finally:
            os.close(fd)
        writer = RegionWriter(
            memory,
            name,
            self.levels,
            exchange=exchange,
            generation=self.generation,
            pid=os.getpid(),
            created_ns=time.time_ns(),
            waiters=self._waiters,
            waiter_slot=next(self._slots) % WAITER_SLOTS,
        )
        book.region = writer
        self._keeper.add(book)
        new.rename(path)
        return _Published(book, writer, path, inode)

    def withdraw(self, market: str) -> None:
        """Publish a market no more; its readers raise FEEDER_GONE. Nothing happens if it is not published."""
        with self._lock:
            published = self._published.pop(market, None)
            if published is not None:
                self._withdraw(published)

    def _withdraw(self, published: _Published) -> None:
        self._keeper.remove(published.book)
        published.book.region = None
        published.writer.end()
        _remove_own(published.path, published.inode)

    def close(self) -> None:
        """Publish nothing more, and remove the files. Readers raise FEEDER_GONE. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            _open_publishers.discard(self)
            try:
                with starting(self.folder):
                    while self._published:
                        self._withdraw(self._published.popitem()[1])
                    _remove_own(self.folder / FEEDER_FILE, self._inode)
            finally:
                self._keeper.stop()
                os.close(self._fd)
        self._thread.join(1.0)

    def _end_in_child(self) -> None:
        """End in a forked child: the share stays the parent's, and nothing of it is touched."""
        self._lock = threading.Lock()
        if not self._is_closed:
            self._is_closed = True
            for published in self._published.values():
                published.book.forget_region()
            os.close(self._fd)


def _remove_own(path: Path, inode: int) -> None:
    """Remove a file, unless it is another one by now."""
    try:
        if path.stat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass


_open_publishers: "weakref.WeakSet[Publisher]" = weakref.WeakSet()


def _end_after_fork() -> None:
    for publisher in list(_open_publishers):
        publisher._end_in_child()
    _open_publishers.clear()


def _close_all() -> None:
    for publisher in list(_open_publishers):
        publisher.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_after_fork)
atexit.register(_close_all)
