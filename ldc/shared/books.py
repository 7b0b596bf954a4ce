"""The readers of a share: `SharedBooks`.

Rule 1: a reader may start before its feeder, outlive it, and go on with the next one.
Rule 2: nothing here writes to a book. The only file that a reader writes to says that it waits.
Rule 3: a read goes straight to the memory. What is here runs when a reader has no feeder, or its heartbeat is late.
"""

import contextlib
import math
import os
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ldc.book import Attachment, MappedFile, SharedReader, has_system_threads
from ldc.consume.updates import UpdateNumberType, policy_number
from ldc.errors import DepthCacheError, MalformedMessage, refused
from ldc.shared.feeder import FEEDER_FILE, Feeder, FeederFile
from ldc.shared.folder import base_folder, book_file, checked_share, market_of
from ldc.shared.publisher import WAITERS_FILE
from ldc.shared.updates import SharedUpdates
from ldc.types import Cause


class SharedBooks:
    """The order books that another process of this machine feeds. No manager, no thread, no network.

    Args:
        name: of the share, as the feeder calls it.
        max_age: seconds; reads raise TOO_OLD if the last proof of a book is older. None: only its lease counts, which
            its manager has by its pings. A book without a lease then never grows old while its feeder lives.
        folder: of all shares, if that is not the usual one: see `ldc.shared.Publisher`.

    ``books["BTCUSDT"]`` is a `SharedReader`. It needs no feeder: without one, its reads raise `DepthCacheOutOfSync`
    with the cause FEEDER_GONE. Thread-safe. It can be pickled, so that processes can be given one.
    """

    def __init__(
        self, name: str, *, max_age: float | None = None, folder: str | os.PathLike[str] | None = None
    ) -> None:
        self.name = checked_share(name)
        if max_age is not None and (math.isnan(max_age) or max_age <= 0):
            raise ValueError(f"max_age is a positive number of seconds, not {max_age!r}")
        self._max_age = max_age
        self._given_folder = folder
        self.folder: Path = base_folder(folder) / name
        self._is_own_folder = folder is None
        self._readers: dict[str, SharedReader] = {}
        self._lock = threading.Lock()
        self._feeder: FeederFile | None = None
        self._waiters: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SharedBooks, max_age=self._max_age, folder=self._given_folder), (self.name,)

    def __repr__(self) -> str:
        return f"<SharedBooks {self.name!r} in {self.folder}>"

    def __getitem__(self, market: str) -> SharedReader:
        """Return the reader of a market, the same one each time. It need not be published yet."""
        reader = self._readers.get(market)
        if reader is None:
            book_file(market)  # raises for what is no name
            max_age_ns = 0 if self._max_age is None else max(1, int(min(self._max_age, 1e9) * 1e9))
            attach = partial(self._attach, market)
            made = SharedReader(market, attach, max_age_ns=max_age_ns, may_block=has_system_threads)
            reader = self._readers.setdefault(market, made)
        return reader

    def __iter__(self) -> Iterator[str]:
        return iter(self.markets())

    def __contains__(self, market: object) -> bool:
        return market in self.markets()

    def markets(self) -> list[str]:
        """Return the markets that the present feeder publishes, in alphabetical order; none without a feeder."""
        feeder = self.feeder
        if feeder is None or not feeder.is_alive:
            return []
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - only the names are wanted
        except OSError:
            return []
        return sorted(market for name in names if (market := market_of(name)) is not None)

    @property
    def feeder(self) -> Feeder | None:
        """Who feeds the share, or did so last; None: there was nobody, or it ended in order."""
        try:
            feeder = self._present_feeder()
        except OSError:
            return None
        return None if feeder is None else feeder.status()

    def updates(
        self,
        markets: str | Iterable[str] | None = None,
        *,
        policy: str = "latest",
        number: UpdateNumberType = float,
    ) -> SharedUpdates:
        """Return a stream of `BookUpdate` items, for ``for``, ``async for`` or ``get``, as `manager.updates` does.

        The first item of a market is a snapshot, once it can be read. The loss of a book is an item, and so is its
        return. The end of a feeder is a loss, with the cause FEEDER_GONE, and its books go on with the next feeder.

        Items have no levels: read the book. Their `first_update_id` is None, which a shared book does not have.
        `missed` counts what the feeder has published since the last item without an item of its own; it begins again
        with each feeder. A snapshot whose `epoch` is another one, without a loss before it: the book was lost and is
        back, and nobody has looked meanwhile.

        Args:
            markets: None: all, also those that appear later. Named ones need not be published yet.
            policy: "latest", the only one: at most one item a market waits.
            number: of the horizons of an item: float, Decimal, str, or int (units of 10**-decimals).

        Cost: an item some us. A wait is woken by the feeder, up to 128 markets on Linux 5.16; otherwise it looks every
        millisecond, and so does ``async for``. No thread is started.
        """
        if policy_number(policy) != 0:
            raise ValueError(f'shared books have the policy "latest" alone, not {policy!r}: a feeder keeps no updates')
        wanted = [markets] if isinstance(markets, str) else markets
        return SharedUpdates(self.folder, self.__getitem__, self.markets, wanted, number)

    # ------------------------------------------------------------------------------------------ inside

    def _present_feeder(self) -> FeederFile | None:
        """Return the file `feeder` as it is now."""
        with self._lock:
            try:
                about = (self.folder / FEEDER_FILE).stat()
            except FileNotFoundError:
                return None
            if self._is_own_folder and about.st_uid != os.geteuid():
                raise PermissionError(f"{self.folder} belongs to another user")
            if self._feeder is None or self._feeder.inode != about.st_ino:
                self._feeder, self._waiters = FeederFile.open(self.folder), None
                with contextlib.suppress(OSError):  # a reader that may not write there polls
                    self._waiters = self._map_waiters()
            return self._feeder

    def _map_waiters(self) -> Any:
        fd = os.open(self.folder / WAITERS_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            return MappedFile(fd, os.fstat(fd).st_size, True)
        finally:
            os.close(fd)

    def _attach(self, market: str, generation: int | None) -> Attachment | None:
        """Return the region of a market of the present feeder; None if that has this generation.

        With a generation, of a feeder whose heartbeat is late, also None if there is no successor. Without one, raises
        `DepthCacheOutOfSync` with the cause FEEDER_GONE.
        """
        try:
            return self._region(market, generation)
        except MalformedMessage:
            raise
        except (DepthCacheError, OSError) as error:
            if generation is not None:
                return None
            if isinstance(error, DepthCacheError):
                raise
            why = f"the share {self.name!r} cannot be opened ({error})"
            raise refused(market, Cause.FEEDER_GONE, why=why) from error

    def _region(self, market: str, generation: int | None) -> Attachment | None:
        feeder = self._present_feeder()
        if feeder is None:
            why = f"no process feeds the share {self.name!r} in {self.folder}"
            raise refused(market, Cause.FEEDER_GONE, why=why)
        if feeder.generation == generation:
            return None
        if not feeder.is_alive:
            why = f"the process {feeder.pid} that fed the share {self.name!r} has ended"
            raise refused(market, Cause.FEEDER_GONE, why=why)
        fd = self._open_book(market)
        if fd is not None:
            try:
                size = os.fstat(fd).st_size
                memory = MappedFile(fd, size) if size else b""
            finally:
                os.close(fd)
            attachment = Attachment(memory, feeder=feeder, waiters=self._waiters)
            if attachment.generation == feeder.generation:
                return attachment
        why = f"the process {feeder.pid} that feeds the share {self.name!r} does not publish this market"
        raise refused(market, Cause.FEEDER_GONE, why=why)

    def _open_book(self, market: str) -> int | None:
        """Return a descriptor of a market's file, or None. The case of the market does not matter."""
        exchange, separator, symbol = market.rpartition(":")  # published by a manager of several exchanges
        for name in dict.fromkeys((market, exchange + separator + symbol.upper())):
            try:
                return os.open(self.folder / book_file(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
        return None
