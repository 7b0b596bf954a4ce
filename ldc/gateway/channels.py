"""Channels: the latest state of a book, as one text for all who listen.

Rule 1: a state is made into text once, and into bytes once for each form, however many listen.
Rule 2: a book that cannot be read has no state: nothing of it is sent. A channel may say so instead.
Rule 3: a client that reads slowly gets the newest state once it has read; the states between are left out.
"""

import asyncio
from collections.abc import Callable, Hashable

import ldc
from ldc.gateway.books import Books
from ldc.gateway.limits import LOOK_S
from ldc.gateway.listeners import Listener

Encode = Callable[[str, Hashable], bytes]
"""(text, form) -> the bytes to write."""


class Channel:
    """One market in one form of content, and those who listen to it.

    Args:
        symbol: the market.
        levels: levels a side.
        interval_s: seconds between two states at least.
        render: the text of a state; None: nothing that the listeners see has changed.
        render_loss: the text that a book cannot be read, from its error; None: the channel falls silent.
        encode: the bytes of a text.
    """

    def __init__(
        self,
        symbol: str,
        levels: int,
        interval_s: float,
        render: Callable[[ldc.BookTexts], str | None],
        render_loss: Callable[[ldc.DepthCacheError], str] | None,
        encode: Encode,
    ) -> None:
        self.symbol, self.levels = symbol, levels
        self.listeners: dict[Listener, Hashable] = {}
        """With the form of their messages."""
        self._interval_s, self._render, self._render_loss, self._encode = interval_s, render, render_loss, encode
        self._waiting: set[Listener] = set()
        self._seen: tuple[object, ...] = ()
        self._text: str | None = None
        self._due = 0.0

    def add(self, listener: Listener, form: Hashable) -> None:
        """Add a listener, who gets the present state at the next look."""
        self.listeners[listener] = form
        self._waiting.add(listener)

    def remove(self, listener: Listener) -> None:
        """Remove a listener."""
        self.listeners.pop(listener, None)
        self._waiting.discard(listener)

    def look(self, books: Books, now: float) -> None:
        """Send the state of the book, if it is another one and its time has come."""
        if now >= self._due:
            text = self._changed(books)
            if text is not None:
                self._due = now + self._interval_s
                self._publish(text)
                return
        if self._waiting and self._text is not None:
            frames: dict[Hashable, bytes] = {}
            for listener in [each for each in self._waiting if each.reads]:
                self._send(listener, self._text, frames)

    def _changed(self, books: Books) -> str | None:
        try:
            cache = books.cache(self.symbol)
        except ldc.DepthCacheError as error:
            return self._lost(error, (type(error), error.cause))
        reader = cache.reader
        seen = (cache, reader.last_update_id, reader.unreadable_cause)
        if seen == self._seen:
            return None
        try:
            texts = reader.texts(self.levels)
        except ldc.DepthCacheError as error:
            error = cache.explain(error)
            return self._lost(error, (cache, reader.last_update_id, error.cause))
        self._seen = (cache, texts.last_update_id, None)
        return self._render(texts)

    def _lost(self, error: ldc.DepthCacheError, seen: tuple[object, ...]) -> str | None:
        if seen == self._seen:
            return None
        self._seen, self._text = seen, None
        return None if self._render_loss is None else self._render_loss(error)

    def _publish(self, text: str) -> None:
        self._text = text
        frames: dict[Hashable, bytes] = {}
        for listener in list(self.listeners):
            self._send(listener, text, frames)

    def _send(self, listener: Listener, text: str, frames: dict[Hashable, bytes]) -> None:
        form = self.listeners[listener]
        frame = frames.get(form)
        if frame is None:
            frame = frames[form] = self._encode(text, form)
        if listener.send_latest(frame):
            self._waiting.discard(listener)
        else:
            self._waiting.add(listener)


class Hub:
    """All channels that somebody listens to. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._loop = asyncio.get_running_loop()
        self._channels: dict[Hashable, Channel] = {}
        self._timer: asyncio.TimerHandle | None = None

    def listen(self, key: Hashable, listener: Listener, form: Hashable, make: Callable[[], Channel]) -> None:
        """Add a listener to the channel of that key, which `make` makes if nobody listens to it yet."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = make()
        channel.add(listener, form)
        if self._timer is None:
            self._timer = self._loop.call_soon(self._look)  # type: ignore[assignment]

    def forget(self, key: Hashable, listener: Listener) -> None:
        """Remove a listener from the channel of that key."""
        channel = self._channels.get(key)
        if channel is not None:
            channel.remove(listener)
            if not channel.listeners:
                del self._channels[key]

    @property
    def listener_count(self) -> int:
        """How many listen, each counted once for each of its channels."""
        return sum(len(channel.listeners) for channel in self._channels.values())

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        for channel in list(self._channels.values()):
            channel.look(self._books, now)
        self._timer = self._loop.call_later(LOOK_S, self._look) if self._channels else None
