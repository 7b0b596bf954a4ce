"""Websockets in the exchange's dialect: diffs, partial depths, best prices, and the requests of a connection.

Rule 1: a stream of a book that cannot be read is silent.
Rule 2: a name that means nothing is accepted and stays silent, as at the exchange.
"""

from collections.abc import Hashable

import ldc
from ldc.gateway.books import Books, event_time_ms, tops_of_texts
from ldc.gateway.channels import Channel, Hub, Render
from ldc.gateway.diffs import Diffs
from ldc.gateway.listeners import Listener
from ldc.wire.control import Subscriptions, answer
from ldc.wire.streams import Form, StreamName, framed, parse_stream
from ldc.wire.texts import UpdateIds, partial_text, ticker_text, wrapped


class BinanceStreams:
    """Makes the channels of streams. Belongs to the thread of the gateway's event loop."""

    def __init__(self, books: Books, hub: Hub, diffs: Diffs) -> None:
        self.books, self.hub, self.diffs = books, hub, diffs

    def listen(self, stream: StreamName, listener: Listener, form: Form) -> None:
        """Subscribe a listener to a stream."""
        if stream.kind == "diff":
            self.diffs.listen(stream.symbol, stream.name, listener, form)
            return
        self.hub.listen(("stream", stream.name), listener, form, lambda: self._channel(stream))

    def forget(self, stream: StreamName, listener: Listener) -> None:
        """Unsubscribe it."""
        if stream.kind == "diff":
            self.diffs.forget(stream.symbol, stream.name, listener)
            return
        self.hub.forget(("stream", stream.name), listener)

    def _channel(self, stream: StreamName) -> Channel:
        def encode(text: str, form: Hashable) -> bytes:
            assert isinstance(form, Form)
            return framed((wrapped(stream.name, text) if form.combined else text).encode())

        def make_render() -> Render:
            return _Partial(self.books, stream) if stream.kind == "partial" else _Ticker(self.books, stream)

        levels = stream.depth if stream.kind == "partial" else 1
        return Channel(self.books, stream.symbol, levels, stream.interval_ms / 1000, make_render, None, encode)


class _Partial:
    """The text of a partial depth, if it is another one. Its ids continue those of the one before."""

    def __init__(self, books: Books, stream: StreamName) -> None:
        self._family, self._symbol = books.family, stream.symbol
        self._last_id: int | None = None
        self._sides: tuple[str, str] | None = None

    def __call__(self, texts: ldc.BookTexts) -> str | None:
        last_id, sides = texts.last_update_id, (texts.bids, texts.asks)
        if last_id == self._last_id and sides == self._sides:
            return None  # a refresh has changed what lies farther away
        self._sides = sides
        previous = last_id - 1 if self._last_id is None or self._last_id >= last_id else self._last_id
        self._last_id = last_id
        ids = UpdateIds(previous + 1, last_id, previous)
        return partial_text(self._family, self._symbol, ids, event_time_ms(texts), *sides)


class _Ticker:
    """The text of a bookTicker, if the best prices or quantities are others."""

    def __init__(self, books: Books, stream: StreamName) -> None:
        self._family, self._symbol = books.family, stream.symbol
        self._sides: tuple[str, str] | None = None

    def __call__(self, texts: ldc.BookTexts) -> str | None:
        sides = texts.bids, texts.asks
        if sides == self._sides:
            return None
        self._sides = sides
        tops = tops_of_texts(texts)
        return ticker_text(self._family, self._symbol, texts.last_update_id, event_time_ms(texts), tops)


class BinanceSession:
    """The subscriptions of one connection."""

    def __init__(self, streams: BinanceStreams, listener: Listener, is_combined: bool) -> None:
        self._streams, self._listener = streams, listener
        self._subscriptions = Subscriptions(is_combined, False, streams.books.venue.streams_per_connection)
        self._current: dict[str, StreamName] = {}
        self._form = self._subscriptions.form

    def subscribe(self, names: list[str]) -> bool:
        """Subscribe the streams of the URL; return whether they are not too many."""
        is_added = self._subscriptions.add(names)
        self._apply()
        return is_added

    def text(self, listener: Listener, text: str) -> None:
        """Execute a request, and answer it."""
        listener.send(framed(answer(self._subscriptions, text).encode()))
        self._apply()

    def ended(self, listener: Listener) -> None:
        """Unsubscribe everything."""
        for stream in self._current.values():
            self._streams.forget(stream, listener)
        self._current.clear()

    def _apply(self) -> None:
        """Listen to what is subscribed now, and to nothing else."""
        wanted, form, books = self._subscriptions.streams, self._subscriptions.form, self._streams.books
        for name in [name for name in self._current if name not in wanted or form != self._form]:
            self._streams.forget(self._current.pop(name), self._listener)
        self._form = form
        for name in wanted:
            if name not in self._current:
                stream = parse_stream(books.family, books.venue, name)
                if stream is not None:
                    self._current[name] = stream
                    self._streams.listen(stream, self._listener, form)
