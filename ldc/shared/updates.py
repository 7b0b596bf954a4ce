"""Updates of shared books as a stream: `SharedUpdates`, what `SharedBooks.updates` returns.

Rule 1: an item is made when it is taken, of one copy of the book at that moment. So at most one item a market waits,
        and a consumer that is slow gets newer items, not more of them.
Rule 2: no thread is started. A consumer that finds nothing sleeps as `SharedReader.wait_for_update` does, and looks
        every `LOOK_S` whether feeders live and books are young enough: nobody wakes it for that.
Rule 3: a market without a feeder costs nothing until the folder of the share changes.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ldc.book import RegionWatch, SharedReader, has_system_threads
from ldc.consume.updates import BookUpdate, Source, UpdateNumberType, checked_number
from ldc.errors import is_final
from ldc.types import Cause

LOOK_S = 0.015
"""Between two looks at what wakes nobody: the life of feeders, the age of books, the folder of the share."""

POLL_S = 0.001
"""Between two looks of a task of an event loop, and of a greenlet: neither may sleep in the system."""

FOLDER_SETTLED_NS = 100_000_000
"""A folder whose last change is younger may have changed again within one tick of its clock: it is read again."""

FOLDER_LOOK_S = 1.0
"""The folder is read again after so long, whatever its times say."""

_TIME_CAUSES = (Cause.TOO_OLD, Cause.FEEDER_GONE)
"""Losses that no copy of the book reports."""


class _Folder:
    """Tells whether the files of a share may have changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._is_settled = False
        self._read_again_at = 0.0

    def may_have_changed(self, now: float, now_ns: int) -> bool:
        """Whether it may have, since the last call; `now` of the monotonic clock, `now_ns` of Unix time."""
        try:
            about = self._path.stat()
        except OSError:
            found = None
        else:
            found = about.st_ino, about.st_mtime_ns
        if found == self._seen and self._is_settled and now < self._read_again_at:
            return False
        self._seen = found
        self._is_settled = found is None or now_ns - found[1] > FOLDER_SETTLED_NS
        self._read_again_at = now + FOLDER_LOOK_S
        return True


class _Followed:
    """A market of a stream, and what its consumer was told last."""

    def __init__(self, market: str, number: UpdateNumberType) -> None:
        self.market = market
        self.source = Source(market, "", number)
        self.is_introduced = False
        self.is_lost = True
        self.generation: int | None = None
        self.epoch = 0
        self.copy = 0

    def item(self, said: tuple[Any, ...]) -> BookUpdate | None:
        """Return the item for what `RegionWatch.look` has returned; None: it is no news."""
        cause, generation, exchange, copy, epoch, *place = said
        if exchange != self.source.exchange:
            self.source = self.source._replace(exchange=exchange)
        is_same_feeder = generation == self.generation
        copies = max(copy - self.copy, 0) if self.is_introduced and is_same_feeder else 0
        if cause is not None:
            if self.is_lost and not (is_final(cause) and not self.is_introduced):
                return None
            self.is_lost = self.is_introduced = True
            self.copy = copy
            missed = copies if cause in _TIME_CAUSES else max(copies - 1, 0)
            return self._made(True, False, cause, missed, epoch, place)
        is_new_feeder = self.is_introduced and not is_same_feeder
        is_snapshot = self.is_lost or is_new_feeder or epoch != self.epoch
        if not is_snapshot and copies == 0:
            return None
        why = Cause.FEEDER_GONE if is_new_feeder and not self.is_lost else None
        self.is_introduced, self.is_lost = True, False
        self.generation, self.epoch, self.copy = generation, epoch, copy
        return self._made(False, is_snapshot, why, max(copies - 1, 0), epoch, place)

    def _made(
        self, is_lost: bool, is_snapshot: bool, cause: str | None, missed: int, epoch: int, place: list[Any]
    ) -> BookUpdate:
        last_update_id, *rest = place
        times, (price_scale, quantity_scale, *horizons) = rest[:3], rest[3:]
        ids = None, last_update_id, *times, epoch, price_scale, quantity_scale
        return BookUpdate((self.source, is_lost, is_snapshot, cause, missed, *ids, *horizons, None, None, None))


class SharedUpdates:
    """A stream of the updates of shared books: ``for``, ``async for``, ``get``. Made by `SharedBooks.updates`.

    Thread-safe: each item goes to one of its takers. It ends by `close` alone: the end of a feeder is an item of each
    market, and the next feeder's books go on. Close it, use it as a context manager, or just drop it: it has no thread.
    """

    def __init__(
        self,
        folder: Path,
        reader_of: Callable[[str], SharedReader],
        markets_now: Callable[[], list[str]],
        markets: Iterable[str] | None,
        number: UpdateNumberType,
    ) -> None:
        self._reader_of, self._markets_now = reader_of, markets_now
        self._number = checked_number(number)
        self._follows_all = markets is None
        self._watch = RegionWatch()
        self._followed: dict[str, _Followed] = {}
        self._places: list[_Followed] = []
        self._folder = _Folder(folder)
        self._lock = threading.Lock()
        self._turn = 0
        self._look_at = 0.0
        self._is_thorough = False
        self._is_closed = False
        for market in markets or ():
            self._follow(market)

    def __repr__(self) -> str:
        return f"<SharedUpdates of {len(self._places)} markets{', closed' if self._is_closed else ''}>"

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """End every loop over the stream, within 15 ms. Idempotent; from any thread."""
        self._is_closed = True

    # ------------------------------------------------------------------------------------------ taking

    def get(self, timeout: float | None = None) -> BookUpdate:
        """Return the next item; wait for it, at most `timeout` seconds. 0 does not wait.

        Raises:
            TimeoutError: the time ran out.
            EOFError: the stream was closed.
        """
        if timeout is not None and math.isnan(timeout):
            raise ValueError("timeout must be a number of seconds, or None to wait without end; it is NaN")
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self._is_closed:
            item = self._take()
            if item is not None:
                return item
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no update came within {timeout:g} s")
            self._sleep(min(LOOK_S, left_s))
        raise EOFError("the stream was closed")

    def __iter__(self) -> Iterator[BookUpdate]:
        return self

    def __next__(self) -> BookUpdate:
        try:
            return self.get()
        except EOFError:
            raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[BookUpdate]:
        return self

    async def __anext__(self) -> BookUpdate:
        while not self._is_closed:
            item = self._take()
            if item is not None:
                return item
            await asyncio.sleep(POLL_S)
        raise StopAsyncIteration

    # ------------------------------------------------------------------------------------------ inside

    def _follow(self, market: str) -> None:
        if market not in self._followed:
            self._watch.add(self._reader_of(market))
            self._followed[market] = followed = _Followed(market, self._number)
            self._places.append(followed)

    def _take(self) -> BookUpdate | None:
        """Return an item, or None: there is no news. The markets take turns."""
        with self._lock:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + LOOK_S
                self._is_thorough = True
                self._look_around(now)
            for _ in range(len(self._places) + 1):  # a market that changes all the time does not hold up a timeout
                place = self._watch.first_changed(self._turn, self._is_thorough)
                if place < 0:
                    self._is_thorough = False
                    break
                said = self._watch.look(place)
                self._turn = (place + 1) % len(self._places)
                item = None if said is None else self._places[place].item(said)
                if item is not None:
                    return item
            return None

    def _look_around(self, now: float) -> None:
        """Look for markets and feeders that are new."""
        if not self._folder.may_have_changed(now, time.time_ns()):
            return
        if self._follows_all:
            for market in self._markets_now():
                self._follow(market)
        self._watch.expect_feeder()

    def _sleep(self, timeout_s: float) -> None:
        if has_system_threads():
            self._watch.wait(timeout_s)
        else:
            time.sleep(min(POLL_S, timeout_s))

    # ------------------------------------------------------------------------------------------ with

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
