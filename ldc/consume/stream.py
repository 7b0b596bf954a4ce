"""Streams of updates: one object for `for`, `async for`, a descriptor of any event loop, and `get`.

Rule 1: a stream only takes and waits. What an item is, the books decide, in the thread that writes them.
Rule 2: between two items that wait, nothing blocks and no system call is made. A consumer that finds nothing arms its
    queue, looks once more, and waits.
Rule 3: an event loop waits for the descriptor, in its own selector: no other thread is involved. The loop holds no
    reference to the stream, so a stream that nobody holds ends by itself.
Rule 4: a blocked consumer looks every `LOOK_AGAIN_S`, because no thread tells when the lease of a book expires.
"""

import asyncio
import contextlib
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Self

from ldc.book import UpdateQueue
from ldc.consume.signal import wait_on
from ldc.consume.updates import BookUpdate

LOOK_AGAIN_S = 0.5
"""How long a consumer waits at most before it looks at the leases of its books."""


class Descriptor:
    """A descriptor that is readable while its queue is signalled. Closed by `close`, once."""

    def __init__(self) -> None:
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self.read_fd = self.write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._sockets = socket.socketpair()
            for each in self._sockets:
                each.setblocking(False)
            self.read_fd, self.write_fd = (each.fileno() for each in self._sockets)
        self._is_open = True

    @property
    def is_event(self) -> bool:
        """Whether it is an eventfd."""
        return self._sockets is None

    def close(self) -> None:
        """Close it. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        if self._sockets is None:
            os.close(self.read_fd)
        else:
            for each in self._sockets:
                each.close()


class _LoopReader:
    """A stream's descriptor in the selector of one event loop, and the futures that wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: "Waitable", descriptor: Descriptor) -> None:
        self.loop = loop
        self._waiting: set[asyncio.Future[None]] = set()
        self._stream = weakref.ref(stream)
        self._queue = stream._queue
        self._descriptor = descriptor
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(descriptor.read_fd, self._on_readable)

    @property
    def is_in_use(self) -> bool:
        """Whether a task waits."""
        return bool(self._waiting)

    async def wait(self) -> None:
        """Wait until the queue is signalled, or for `LOOK_AGAIN_S`."""
        stream = self._stream()
        if stream is None or stream.is_closed:
            return
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiting.add(future)
        if self._timer is None:  # one for all waits: most of them end long before
            self._timer = self.loop.call_later(LOOK_AGAIN_S, self._look)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _look(self) -> None:
        self._timer = self.loop.call_later(LOOK_AGAIN_S, self._look) if self._waiting else None
        stream = self._stream()
        if stream is not None:
            stream._check_leases()
        self.wake()

    def _on_readable(self) -> None:
        # Readable no more, but still signalled: the feed writes again only after a consumer has armed the queue.
        self._queue.drain()
        self.wake()

    def wake(self) -> None:
        """Wake all tasks that wait. In the loop's thread."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def end(self) -> None:
        """Leave the loop and close the descriptor: in the loop's thread, or at once if the loop is closed."""
        if self.loop.is_closed():
            self._descriptor.close()
            return
        if _running_loop() is self.loop:
            self._end()
            return
        try:
            self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # closed meanwhile
            self._descriptor.close()

    def _end(self) -> None:
        self.loop.remove_reader(self._descriptor.read_fd)
        self._descriptor.close()
        if self._timer is not None:
            self._timer.cancel()
        self.wake()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Waitable:
    """What streams and merged streams have in common: waiting for a queue, by thread, task or descriptor."""

    _queue: UpdateQueue

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may close a stream in a thread that holds the lock of another
        self._descriptor: Descriptor | None = None
        self._reader: _LoopReader | None = None
        self._is_closed = False
        self._is_ended = False
        self._is_woken_by: MergedStream | None = None

    # to be given by a subclass

    def _take(self) -> BookUpdate | None:
        raise NotImplementedError

    def _arm(self) -> bool:
        return self._queue.arm()

    def _check_leases(self) -> None:
        self._queue.check_leases()

    # one item

    def _next(self) -> BookUpdate | None:
        """Return the next item, or None; then the queue is armed. Raises ``StopIteration`` at the end."""
        while True:
            if self._is_closed:
                raise StopIteration
            item = self._take()
            if item is not None:
                return item
            is_ended = self._has_ended  # read before the last look: what was noted before the end is taken
            if self._arm():
                if is_ended:
                    raise StopIteration
                return None

    @property
    def _has_ended(self) -> bool:
        return self._is_ended

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def get(self, timeout: float | None = None) -> BookUpdate:
        """Return the next item; wait for it, at most `timeout` seconds. 0 does not wait.

        Raises:
            TimeoutError: the time ran out.
            EOFError: the stream was closed, or its manager was stopped and every item was taken.
        """
        deadline = None if timeout is None else time.monotonic() + min(_checked(timeout), threading.TIMEOUT_MAX)
        try:
            while (item := self._next()) is None:
                left_s = LOOK_AGAIN_S if deadline is None else min(LOOK_AGAIN_S, deadline - time.monotonic())
                if left_s <= 0:
                    raise TimeoutError(f"no update came within {timeout:g} s")
                wait_on(self._queue, left_s)
                self._check_leases()
        except StopIteration:
            raise EOFError("the stream has ended: it was closed, or its manager was stopped") from None
        return item

    def __iter__(self) -> Iterator[BookUpdate]:
        return self

    def __next__(self) -> BookUpdate:
        while (item := self._next()) is None:
            wait_on(self._queue, LOOK_AGAIN_S)
            self._check_leases()
        return item

    def __aiter__(self) -> AsyncIterator[BookUpdate]:
        return self

    async def __anext__(self) -> BookUpdate:
        try:
            while (item := self._next()) is None:
                await self._readable()
        except StopIteration:
            raise StopAsyncIteration from None
        return item

    # event loops

    def fileno(self) -> int:
        """Return a descriptor that is readable when something waits: take by ``get(0)`` until it raises.

        It stays the same for the life of the stream, which closes it. Raises ``OSError`` on Windows, whose event loops
        wait for no descriptors, and ``ValueError`` after the stream was closed.
        """
        with self._lock:
            if self._is_closed:
                raise ValueError("the stream is closed and has no descriptor")
            if os.name == "nt":
                raise OSError("event loops of Windows wait for no descriptors: use a thread, or async for")
            if self._descriptor is None:
                self._descriptor = Descriptor()
                each = self._descriptor
                self._queue.set_descriptor(each.read_fd, each.write_fd, each.is_event)
            return self._descriptor.read_fd

    async def _readable(self) -> None:
        """Wait until the queue is signalled, or for `LOOK_AGAIN_S`."""
        loop = asyncio.get_running_loop()
        reader = self._reader
        if reader is None or reader.loop is not loop:
            reader = self._reader_in(loop)
        if reader is not None:
            await reader.wait()
        elif not self._is_closed:
            await loop.run_in_executor(None, self._queue.wait, LOOK_AGAIN_S)
            self._check_leases()

    def _reader_in(self, loop: asyncio.AbstractEventLoop) -> _LoopReader | None:
        """Return a reader in this event loop; None: it waits for no descriptors, or the stream is closed."""
        with self._lock:
            reader = self._reader
            if self._is_closed:
                return None
            if reader is not None:
                if reader.is_in_use and not reader.loop.is_closed():
                    raise RuntimeError("another event loop waits for this stream; use one stream for each loop")
                self._queue.set_descriptor(-1, -1, False)
                self._reader = self._descriptor = None
                reader.end()
            with contextlib.suppress(OSError, NotImplementedError):
                self.fileno()
                assert self._descriptor is not None
                self._reader = _LoopReader(loop, self, self._descriptor)
            return self._reader

    # the end

    def close(self) -> None:
        """Drop what waits and end every loop over the stream. Idempotent; from any thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            descriptor, reader = self._descriptor, self._reader
            self._descriptor = self._reader = None
        self._queue.set_descriptor(-1, -1, False)
        self._drop()
        self._queue.wake()
        if reader is not None:
            reader.end()
        elif descriptor is not None:
            descriptor.close()

    def _drop(self) -> None:
        """Drop what waits."""
        self._queue.clear()

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

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True):
            self.close()


def _checked(timeout: float) -> float:
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds, or None to wait without end; it is NaN")
    return timeout


class UpdateStream(Waitable):
    """The updates of any number of markets, for one consumer. Made by the manager's ``updates``.

    Iterate over it with ``for`` or ``async for``, call `get`, or wait for its `fileno` in a loop of your own. It ends
    when it is closed, and after the last item when its manager is stopped. Use it as a context manager, or `close` it;
    a stream that nobody holds is closed.

    Thread-safety: every method may be called from any thread; each item is taken once. One event loop at a time may
    wait for it, with any number of tasks.

    Cost: the feed notes an update in less than a microsecond, and wakes a waiting consumer once for each receive.
    """

    def __init__(self, queue: UpdateQueue) -> None:
        super().__init__()
        self._queue = queue

    def __repr__(self) -> str:
        return f"<UpdateStream{', closed' if self._is_closed else ''}>"

    @property
    def queue(self) -> UpdateQueue:
        """Where the books note what happens."""
        return self._queue

    @property
    def waiting(self) -> int:
        """How many items of the policy "every" wait."""
        return self._queue.waiting

    def _leaves(self) -> "list[UpdateStream]":
        return [self]

    def _take(self) -> BookUpdate | None:
        fields = self._queue.take()
        return None if fields is None else BookUpdate(fields)

    def end(self) -> None:
        """Let loops over the stream end after the last item. From any thread."""
        self._is_ended = True
        self._queue.wake()

    def abandon(self) -> object:
        """End in a forked child without touching any lock; return what must not be freed there."""
        self._is_closed = True
        return self._queue, self._descriptor, self._reader

    async def changed(self) -> None:
        """Drop what waits, and wait until something happens or for `LOOK_AGAIN_S`."""
        while self._next() is not None:
            pass
        await self._readable()


class MergedStream(Waitable):
    """Several streams as one, such as those of several managers. Made by `merge`.

    It ends after the last of them has ended. `close` closes them all. Take from it alone, not from them.
    """

    def __init__(self, merged: "Sequence[UpdateStream | MergedStream]") -> None:
        super().__init__()
        self._queue = UpdateQueue()
        self._merged = list(merged)  # held, because a merged stream that nobody holds closes its streams
        self._streams = [stream for each in merged for stream in each._leaves()]
        self._turn = 0
        for each in self._merged:
            each._is_woken_by = self
        for stream in self._streams:
            stream._queue.set_parent(self._queue)
        self._queue.wake()  # something may wait already

    def __repr__(self) -> str:
        return f"<MergedStream of {len(self._streams)}{', closed' if self._is_closed else ''}>"

    def _take(self) -> BookUpdate | None:
        streams = self._streams
        for offset in range(1, len(streams) + 1):
            place = (self._turn + offset) % len(streams)
            item = None if streams[place]._is_closed else streams[place]._take()
            if item is not None:
                self._turn = place
                return item
        return None

    def _arm(self) -> bool:
        is_empty = self._queue.arm()
        for stream in self._streams:
            is_empty &= stream._queue.arm()
        return is_empty

    def _check_leases(self) -> None:
        for stream in self._streams:
            stream._check_leases()

    @property
    def _has_ended(self) -> bool:
        return all(stream._is_ended or stream._is_closed for stream in self._streams)

    def _leaves(self) -> list[UpdateStream]:
        return self._streams

    def _drop(self) -> None:
        for stream in self._streams:
            stream._queue.set_parent(None)
            stream.close()
        for each in self._merged:
            each.close()


def merge(*streams: UpdateStream | MergedStream) -> MergedStream:
    """Return one stream of several, of one manager or of many. They take turns. Merged ones may be merged again.

    Raises ``ValueError`` for no streams, a closed one, one twice, or one that is merged already.
    """
    if not streams:
        raise ValueError("merge() needs at least one stream")
    if len(set(map(id, streams))) < len(streams):
        raise ValueError("merge() got a stream twice")
    for stream in streams:
        if not isinstance(stream, UpdateStream | MergedStream):
            raise TypeError(
                f"merge() merges streams that updates() or merge() has returned, not {type(stream).__name__}"
            )
        if stream._is_closed:
            raise ValueError("merge() got a stream that is closed")
        if stream._is_woken_by is not None and not stream._is_woken_by.is_closed:
            raise ValueError("merge() got a stream that is merged already")
    return MergedStream(streams)
