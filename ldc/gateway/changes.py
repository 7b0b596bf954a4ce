"""Changes: each client keeps the whole book of a market, from a snapshot and the levels that change after it.

Rule 1: a client without a snapshot gets no changes. It gets a snapshot when it subscribes, after a loss, and when it
    has read so slowly that changes were left out: never a silent hole.
Rule 2: one stream of updates a market, and one text a message, however many listen.
Rule 3: a snapshot for one client may be newer than changes that follow. Quantities are absolute and an item ends at the
    book's present id, so that these change nothing that the snapshot has.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterable

import ldc
from ldc.gateway.books import Books
from ldc.gateway.following import followed
from ldc.gateway.limits import SLOW_CLIENT_S
from ldc.gateway.listeners import Listener
from ldc.wire.streams import framed


class ChangeChannel:
    """The changes of one market, and those who listen to them. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, symbol: str, counts: Counter[str]) -> None:
        self._books, self._symbol, self._counts = books, symbol, counts
        self._listeners: dict[Listener, None] = {}
        self._without: set[Listener] = set()
        """Clients that have no snapshot that the next changes continue."""
        self._informed: set[Listener] = set()
        """Those of them that know that the book cannot be read."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._has_begun = False
        """Whether an item has come. The first one of a book that can be read is a snapshot for all."""
        self._task = self._loop.create_task(self._follow())

    def add(self, listener: Listener) -> None:
        """Add a client, which gets the present state at once."""
        self._listeners[listener] = None
        self._without.add(listener)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(0.0 if self._has_begun else SLOW_CLIENT_S, self._look)

    def remove(self, listener: Listener) -> bool:
        """Remove a client; return whether it was the last."""
        self._listeners.pop(listener, None)
        self._without.discard(listener)
        self._informed.discard(listener)
        return not self._listeners

    def close(self) -> None:
        """Follow the market no longer."""
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def _follow(self) -> None:
        async with contextlib.aclosing(followed(self._books, self._symbol, "changes", str)) as items:
            async for item in items:
                self._take(item)

    def _take(self, item: ldc.BookUpdate | None) -> None:
        self._has_begun = True
        if item is None or item.is_lost:
            known = self._informed if item is None else ()
            self._without.update(self._listeners)
            self._informed.clear()
            self._inform([each for each in self._listeners if each not in known], item)
            self._informed.update(known)
        elif item.is_snapshot:
            self._counts["change_snapshots"] += 1
            self._send(list(self._listeners), item)
        elif len(self._without) < len(self._listeners):
            self._counts["changes"] += 1
            self._send([each for each in self._listeners if each not in self._without], item)
        self._look_later()

    def _send(self, listeners: Iterable[Listener], item: ldc.BookUpdate) -> None:
        frame = framed(item_text(self._symbol, item).encode())
        for listener in listeners:
            self._informed.discard(listener)
            if listener.send_latest(frame):
                self._without.discard(listener)
            else:
                self._without.add(listener)

    def _inform(self, listeners: Iterable[Listener], item: ldc.BookUpdate | None) -> None:
        """Say that the book cannot be read."""
        frame = framed(self._loss(item).encode())
        self._informed.update([each for each in listeners if each.send_latest(frame)])

    def _loss(self, item: ldc.BookUpdate | None) -> str:
        cause, message = (None, None) if item is None else (item.cause, None)
        try:
            cache = self._books.cache(self._symbol)
            try:
                cache.reader.texts(1)
            except ldc.DepthCacheError as error:
                raise cache.explain(error) from None
        except ldc.DepthCacheError as error:
            cause, message = cause or error.cause, error.message
        return loss_text(self._symbol, cause, message)

    def _look(self) -> None:
        """Give the present state to those who have none and read."""
        self._timer = None
        waiting = [each for each in self._without if each not in self._informed and each.reads]
        if waiting:
            item = self._snapshot()
            if item is None:
                self._inform(waiting, None)
            else:
                self._counts["change_snapshots"] += 1
                self._send(waiting, item)
        self._look_later()

    def _look_later(self) -> None:
        if self._timer is None and len(self._informed) < len(self._without):
            self._timer = self._loop.call_later(SLOW_CLIENT_S, self._look)

    def _snapshot(self) -> ldc.BookUpdate | None:
        """Return the whole book, or None if it cannot be read. A new stream begins with it."""
        try:
            with self._books.manager.updates(self._symbol, policy="changes", number=str) as stream:
                item = stream.get(0)
                item.bids  # noqa: B018 - decoded while the stream is open
        except (ldc.DepthCacheError, TimeoutError, EOFError):
            return None
        return item if item.is_snapshot else None


class Changes:
    """All markets whose changes a client gets. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, counts: Counter[str]) -> None:
        self._books, self._counts = books, counts
        self._channels: dict[str, ChangeChannel] = {}

    def listen(self, symbol: str, listener: Listener) -> None:
        """Add a client to a market."""
        channel = self._channels.get(symbol)
        if channel is None:
            channel = self._channels[symbol] = ChangeChannel(self._books, symbol, self._counts)
        channel.add(listener)

    def forget(self, symbol: str, listener: Listener) -> None:
        """Remove a client from a market."""
        channel = self._channels.get(symbol)
        if channel is not None and channel.remove(listener):
            self._channels.pop(symbol).close()

    def close(self) -> None:
        """Follow nothing any more."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()


def item_text(symbol: str, item: ldc.BookUpdate) -> str:
    """Return the message of a snapshot or of changes."""
    values = {
        "market": symbol,
        "state": "SYNCHRONIZED",
        "snapshot": item.is_snapshot,
        "id": item.last_update_id,
        "epoch": item.epoch,
        "missed": item.missed,
        "E": item.event_time_ms,
        "received_ns": item.received_time_ns,
        "bids": item.bids,
        "asks": item.asks,
    }
    horizons = {"bidHorizon": item.bid_horizon, "askHorizon": item.ask_horizon}
    values.update({name: edge for name, edge in horizons.items() if edge is not None})
    return _json(values)


def loss_text(symbol: str, cause: object, message: str | None) -> str:
    """Return the message that a book cannot be read."""
    return _json({"market": symbol, "state": "OUT_OF_SYNC", "cause": cause, "message": message})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
