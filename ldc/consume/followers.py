"""Which consumers follow which books: the streams and callbacks of one manager.

Rule 1: a follower wants some markets, or all, also those that are created later and those that start again.
Rule 2: the caller serializes the calls: a market does not start while a consumer is added. Streams are held weakly.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ldc.book import BookWatch, OrderBook, UpdateQueue
from ldc.consume.stream import UpdateStream
from ldc.consume.updates import Source, UpdateNumberType, checked_number, policy_number

FollowedName = tuple[str, str]
"""(exchange, symbol): of the markets of one manager, that of one."""


class Followed(NamedTuple):
    """A market that can be followed."""

    name: FollowedName
    market: str
    """As items report it."""
    book: OrderBook
    inline_queue: Callable[[], UpdateQueue]
    """The queue of the callbacks that run in the thread of its feed."""


class Wish(NamedTuple):
    """What a follower wants to have of which markets."""

    names: frozenset[FollowedName] | None
    """None: all, also those of the future."""
    policy: int
    number: UpdateNumberType

    def wants(self, market: Followed) -> bool:
        """Whether it follows a market."""
        return self.names is None or market.name in self.names

    def add(self, queue: UpdateQueue, market: Followed, handle: object = None) -> BookWatch:
        """Let a queue note what happens to a market."""
        source = Source(market.market, market.name[0], self.number, handle)
        return queue.add(market.book, source, self.policy, self.number in (str, int))


def wish(names: Iterable[FollowedName] | None, policy: str, number: UpdateNumberType) -> Wish:
    """Return a wish whose arguments are checked."""
    wanted = None if names is None else frozenset(names)
    return Wish(wanted, policy_number(policy), checked_number(number))


_Entry = tuple[Wish, Callable[[Followed], UpdateQueue], list[tuple[UpdateQueue, BookWatch]]]
"""Of a callback: what it wants, which queue it is called from, and what it has there."""


class Followers:
    """The streams and callbacks of one manager. The caller holds a lock around each call."""

    def __init__(self) -> None:
        self._streams: weakref.WeakKeyDictionary[UpdateStream, Wish] = weakref.WeakKeyDictionary()
        self._callbacks: dict[object, _Entry] = {}
        self._is_ended = False

    def open_stream(self, wanted: Wish, markets: Iterable[Followed], queue_max: int) -> UpdateStream:
        """Return a stream of these markets, as far as it wants them, and of those that start later."""
        stream = UpdateStream(UpdateQueue(queue_max))
        self._streams[stream] = wanted
        for market in markets:
            self._attach(stream, wanted, market)
        if self._is_ended:
            stream.end()
        return stream

    def add_callback(
        self,
        handle: object,
        wanted: Wish,
        markets: Iterable[Followed],
        queue_of: Callable[[Followed], UpdateQueue],
    ) -> None:
        """Let a handle be called from the queue that `queue_of` names for a market."""
        entry = self._callbacks[handle] = wanted, queue_of, []
        for market in markets:
            self._add_to(entry, handle, market)

    def remove_callback(self, handle: object) -> None:
        """Let a handle be called no more. Idempotent."""
        entry = self._callbacks.pop(handle, None)
        for queue, watch in entry[2] if entry is not None else ():
            queue.remove(watch)

    def market_started(self, market: Followed) -> None:
        """Attach all that want a market which has just started."""
        for stream, wanted in list(self._streams.items()):
            if not stream.is_closed:
                self._attach(stream, wanted, market)
        for handle, entry in self._callbacks.items():
            self._add_to(entry, handle, market)

    def end(self) -> None:
        """Let every stream end after its last item, and every callback after the present one."""
        self._is_ended = True
        for stream in list(self._streams):
            stream.end()
        for handle in list(self._callbacks):
            self.remove_callback(handle)

    def abandon(self) -> list[object]:
        """End in a forked child, whose locks may be held by threads that are not there. Return what must not be freed.

        The caller keeps that for the life of the process.
        """
        kept = [*self._callbacks.items(), *(stream.abandon() for stream in list(self._streams))]
        self._streams.clear()
        self._callbacks.clear()
        self._is_ended = True
        return kept

    def _attach(self, stream: UpdateStream, wanted: Wish, market: Followed) -> None:
        if wanted.wants(market):
            wanted.add(stream.queue, market)

    def _add_to(self, entry: "_Entry", handle: object, market: Followed) -> None:
        wanted, queue_of, watches = entry
        if wanted.wants(market):
            queue = queue_of(market)
            watches.append((queue, wanted.add(queue, market, handle)))
