"""Channels: the latest state of a book, as one text for all who listen.

Rule 1: a state is made into text once, and into bytes once for each form, however many listen.
Rule 2: a book that cannot be read has no state: nothing of it is sent. A channel may say so instead.
Rule 3: a client that reads slowly gets the newest state once it has read; the states between are left out.
Rule 4: the updates of the book wake a channel. A timer runs only while a state is too early, a client reads slowly, or
    the book is lost, because the cause of a loss may change without an update.
"""

import asyncio
import contextlib
from collections.abc import Callable, Hashable

import ldc
from ldc.gateway.books import Books
from ldc.gateway.following import followed
from ldc.gateway.limits import REQUEST_AGAIN_S, SLOW_CLIENT_S
from ldc.gateway.listeners import Listener

Encode = Callable[[str, Hashable], bytes]
"""(text, form) -> the bytes to write."""

Render = Callable[[ldc.BookTexts], str | None]
"""The text of a state; None: nothing that the listeners see has changed."""

_NEVER = float("inf")


class Channel:
    """One market in one form of content, and those who listen to it. Belongs to the thread of the event loop.

    Args:
        books: where the market is read.
        symbol: the market.
        levels: levels a side.
        interval_s: seconds between two states; two of them may be half as far apart.
        make_render: returns what makes a state into text; another one after each loss of the book.
        render_loss: the text that a book cannot be read, from its error; None: the channel falls silent.
        encode: the bytes of a text.
    """

    def __init__(
        self,
        books: Books,
        symbol: str,
        levels: int,
        interval_s: float,
        make_render: Callable[[], Render],
        render_loss: Callable[[ldc.DepthCacheError], str] | None,
        encode: Encode,
    ) -> None:
        self.symbol = symbol
        self.listeners: dict[Listener, Hashable] = {}
        """With the form of their messages."""
        self._books, self._levels, self._interval_s = books, levels, interval_s
        self._make_render, self._render_loss, self._encode = make_render, render_loss, encode
        self._render = make_render()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: set[Listener] = set()
        self._text: str | None = None
        self._loss: tuple[object, ...] | None = None
        """Of a book that cannot be read: the error and its cause."""
        self._is_changed = True
        self._due = 0.0

    def add(self, listener: Listener, form: Hashable) -> None:
        """Add a listener, who gets the present state at once."""
        self.listeners[listener] = form
        self._waiting.add(listener)
        self._look_at(0.0)

    def remove(self, listener: Listener) -> None:
        """Remove a listener."""
        self.listeners.pop(listener, None)
        self._waiting.discard(listener)

    def changed(self) -> None:
        """Send the state of the book, now or when its time has come."""
        self._is_changed = True
        self._look()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if self._is_changed and now >= self._due:
            self._is_changed = False
            text = self._state()
            if text is not None:
                # In the rhythm of those before, so that a late timer does not make the next state later still.
                self._due = max(self._due, now - self._interval_s / 2) + self._interval_s
                self._publish(text)
        if self._waiting and self._text is not None:
            frames: dict[Hashable, bytes] = {}
            for listener in [each for each in self._waiting if each.reads]:
                self._send(listener, self._text, frames)
        at = self._due if self._is_changed else _NEVER
        if self._loss is not None:
            at = min(at, now + REQUEST_AGAIN_S)
        if self._waiting and self._text is not None:
            at = min(at, now + SLOW_CLIENT_S)
        if at < _NEVER:
            self._look_at(at)

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = None
        self._is_changed = self._is_changed or self._loss is not None
        self._look()

    def _state(self) -> str | None:
        """Return the text of the state, if it is another one."""
        try:
            cache = self._books.cache(self.symbol)
        except ldc.DepthCacheError as error:
            return self._lost(error)
        try:
            texts = cache.reader.texts(self._levels)
        except ldc.DepthCacheError as error:
            return self._lost(cache.explain(error))
        self._loss = None
        text = self._render(texts)
        return None if text == self._text else text

    def _lost(self, error: ldc.DepthCacheError) -> str | None:
        loss = type(error), error.cause
        if loss == self._loss:
            return None
        self._loss, self._text, self._render = loss, None, self._make_render()
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


class _Market:
    """The channels of one market, and the task that wakes them."""

    def __init__(self, books: Books, symbol: str) -> None:
        self.channels: set[Channel] = set()
        self._books, self._symbol = books, symbol
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        async with contextlib.aclosing(followed(self._books, self._symbol, "latest")) as items:
            async for _ in items:
                for channel in list(self.channels):
                    channel.changed()

    def close(self) -> None:
        """Follow the market no longer."""
        self._task.cancel()
        for channel in self.channels:
            channel.close()


class Hub:
    """All channels that have a listener. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._channels: dict[Hashable, Channel] = {}
        self._markets: dict[str, _Market] = {}

    def listen(self, key: Hashable, listener: Listener, form: Hashable, make: Callable[[], Channel]) -> None:
        """Add a listener to the channel of that key, which `make` makes if nobody listens to it yet."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = make()
            market = self._markets.get(channel.symbol)
            if market is None:
                market = self._markets[channel.symbol] = _Market(self._books, channel.symbol)
            market.channels.add(channel)
        channel.add(listener, form)

    def forget(self, key: Hashable, listener: Listener) -> None:
        """Remove a listener from the channel of that key."""
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.remove(listener)
        if not channel.listeners:
            channel.close()
            del self._channels[key]
            market = self._markets[channel.symbol]
            market.channels.discard(channel)
            if not market.channels:
                self._markets.pop(channel.symbol).close()

    @property
    def listener_count(self) -> int:
        """How many listen, each counted once for each of its channels."""
        return sum(len(channel.listeners) for channel in self._channels.values())

    def close(self) -> None:
        """Follow nothing any more."""
        for market in self._markets.values():
            market.close()
        self._markets.clear()
        self._channels.clear()
