"""Diffs: the updates that the book has applied, byte for byte and in order, for all who listen.

Rule 1: what is sent continues what was sent before, or shows a gap. A client that checks ids resynchronizes by itself.
Rule 2: the bytes are the exchange's. Where windows of redundant connections overlap, `U` and `pu` alone are rewritten,
    so that they continue exactly: quantities are absolute, and strict clients take an overlap for a gap.
Rule 3: a book that was found wrong and put right at the same id is a gap as well, made by leaving an update out.
Rule 4: where the exchange restarts its ids below, connections end: most clients take lower ids for old updates.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Hashable

from aiohttp import WSCloseCode

import ldc
from ldc.gateway.books import Books
from ldc.gateway.following import followed
from ldc.gateway.listeners import Listener
from ldc.wire.streams import Form, framed

_FIRST_ID, _PREVIOUS_ID = re.compile(rb'"U":\s*([0-9]+)'), re.compile(rb'"pu":\s*([0-9]+)')


class Chain:
    """The updates of one market as they are sent. No socket, no clock."""

    def __init__(self) -> None:
        self._last_id: int | None = None
        """The last id that was sent, or at which the book began. None: nothing is known yet."""
        self._has_sent = False
        self._horizons: tuple[float | None, float | None] = (None, None)
        self._leaves_out_next = False
        self.went_back = False
        """Whether the last item has brought the book to a lower id than clients have."""

    def take(self, item: ldc.BookUpdate) -> bytes | None:
        """Return the bytes to send for an item, or None."""
        payload, self.went_back = item.payload, False
        if payload is None:
            self._not_an_update(item)
            return None
        last_id, self._last_id = self._last_id, item.last_update_id
        if self._leaves_out_next:
            self._leaves_out_next = self._has_sent = False
            return None
        is_continued, self._has_sent = self._has_sent, True
        return continued(payload, last_id) if is_continued and last_id is not None else payload

    def _not_an_update(self, item: ldc.BookUpdate) -> None:
        """Note the loss of the book, its return, or what a refresh has changed."""
        if item.is_lost:
            return
        horizons = item.bid_horizon, item.ask_horizon
        if item.is_snapshot:
            last_id = self._last_id
            self.went_back = last_id is not None and item.last_update_id is not None and item.last_update_id < last_id
            # An update that was sent already is not sent again, and what was left out shows by its ids.
            self._has_sent = self._has_sent and item.last_update_id == self._last_id
        elif self._has_sent and _changes_inside(item, self._horizons):
            self._leaves_out_next = True
        self._last_id, self._horizons = item.last_update_id, horizons


def continued(payload: bytes, last_id: int) -> bytes:
    """Return an update that overlaps what was sent up to `last_id` as one that continues there; any other as it is."""
    previous = _PREVIOUS_ID.search(payload)
    if previous is not None:
        if int(previous[1]) >= last_id:
            return payload
        payload = payload[: previous.start(1)] + b"%d" % last_id + payload[previous.end(1) :]
    first = _FIRST_ID.search(payload)
    if first is None or int(first[1]) > last_id:
        return payload
    return payload[: first.start(1)] + b"%d" % (last_id + 1) + payload[first.end(1) :]


def _changes_inside(item: ldc.BookUpdate, horizons: tuple[float | None, float | None]) -> bool:
    """Return whether a refresh has changed what clients believe to know: a level inside the horizons before it."""
    bid_edge, ask_edge = horizons
    return any(bid_edge is None or price >= bid_edge for price, _ in item.bids) or any(
        ask_edge is None or price <= ask_edge for price, _ in item.asks
    )


class DiffChannel:
    """The diffs of one market, and those who listen to them. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, symbol: str, counts: Counter[str]) -> None:
        self.listeners: dict[tuple[Listener, str], Form] = {}
        """(listener, name of the stream) -> the form of its messages. A client may use several names of one market."""
        self._books, self._symbol, self._counts = books, symbol, counts
        self._chain = Chain()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def close(self) -> None:
        """Follow the market no longer."""
        self._task.cancel()

    async def _follow(self) -> None:
        async with contextlib.aclosing(followed(self._books, self._symbol, "every")) as items:
            async for item in items:
                payload = None if item is None else self._chain.take(item)
                if payload is not None:
                    self._send(payload)
                elif self._chain.went_back:
                    self._end_all()

    def _end_all(self) -> None:
        """End the connections of all listeners, which then begin with another snapshot."""
        for listener in {listener for listener, _ in self.listeners}:
            self._counts["ids_went_back"] += 1
            listener.end(WSCloseCode.GOING_AWAY, "the exchange has restarted its update ids")

    def _send(self, payload: bytes) -> None:
        self._counts["diffs"] += 1
        frames: dict[Hashable, bytes] = {}
        for (listener, name), form in list(self.listeners.items()):
            key = name if form.combined else None
            frame = frames.get(key)
            if frame is None:
                text = b'{"stream":"%b","data":%b}' % (name.encode(), payload) if form.combined else payload
                frame = frames[key] = framed(text)
            listener.send(frame)


class Diffs:
    """All markets whose diffs somebody listens to."""

    def __init__(self, books: Books, counts: Counter[str]) -> None:
        self._books, self._counts = books, counts
        self._channels: dict[str, DiffChannel] = {}

    def listen(self, symbol: str, name: str, listener: Listener, form: Form) -> None:
        """Add a listener to a market, under the name of the stream that it subscribed."""
        channel = self._channels.get(symbol)
        if channel is None:
            channel = self._channels[symbol] = DiffChannel(self._books, symbol, self._counts)
        channel.listeners[listener, name] = form

    def forget(self, symbol: str, name: str, listener: Listener) -> None:
        """Remove a listener from a market."""
        channel = self._channels.get(symbol)
        if channel is not None:
            channel.listeners.pop((listener, name), None)
            if not channel.listeners:
                self._channels.pop(symbol).close()

    def close(self) -> None:
        """Follow nothing any more."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
