"""What each stream of one market has shown: whether it is live, what it skipped, and whether its ids restarted.

Rule 1: a stream is one subscription on one connection, under the number of that connection. Sockets are unknown here.
Rule 2: this is bookkeeping. `ldc.sync.machine` decides what follows from it.
"""

from ldc.sync.buffer import is_later
from ldc.types import Header

RESYNC_AFTER_STALE = 3
"""STALE updates in a row, with event times past the book's, that show that the ids restarted."""

STALE_S_MAX = 10.0
"""How long `RESYNC_AFTER_STALE` STALE updates, and nothing else, must have come to show it whatever their event times
are. The exchange's clock may be set back, and one event time may be of another unit: then no next one is later."""

STEP_BACK_IDS_MAX = 1_000_000
"""How far below its last id an update may end that shows by itself that the ids stepped back. After a larger step the
next updates end below as well, and `RESYNC_AFTER_STALE` of them show it."""

STREAMS_MAX = 16
"""Streams of one market at a time; one more is a ``ValueError``. Redundant streams and their successors are a few."""


class _Stream:
    __slots__ = (
        "gaps_filled",
        "has_skipped",
        "has_spoken",
        "is_acknowledged",
        "later_in_a_row",
        "reached_event_time_ms",
        "reached_id",
        "stale_at_id",
        "stale_count",
        "stale_since",
    )

    def __init__(self) -> None:
        self.is_acknowledged = False
        self.has_spoken = False
        self.has_skipped = False
        self.gaps_filled = 0
        self.reached_id: int | None = None  # of the last update that was seen here; others went straight to the book
        self.reached_event_time_ms: int | None = None
        self.stale_at_id: int | None = None  # the id at or below which the STALE updates end
        self.stale_since = 0.0
        self.stale_count = 0
        self.later_in_a_row = 0  # of them, with an event time past that of the id

    @property
    def is_live(self) -> bool:
        # An update may come before the acknowledgement, and proves more.
        return self.is_acknowledged or self.has_spoken


class Streams:
    """The open streams of one market.

    Thread-safety: none; one thread calls it.
    """

    __slots__ = ("_market", "_others_id", "_streams")

    def __init__(self, market: str | None) -> None:
        self._market = market
        self._streams: dict[int, _Stream] = {}
        self._others_id = 0  # a book past it was brought there by the only open stream

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, connection_id: int) -> bool:
        return connection_id in self._streams

    @property
    def is_any_live(self) -> bool:
        """Whether an open stream was acknowledged or has brought an update."""
        return any(stream.is_live for stream in self._streams.values())

    @property
    def have_all_spoken(self) -> bool:
        """Whether every open stream has brought an update."""
        return all(stream.has_spoken for stream in self._streams.values())

    def open(self, connection_id: int) -> None:
        """A stream that is not open begins. Raise ``ValueError`` if there are too many."""
        assert connection_id not in self._streams
        if len(self._streams) >= STREAMS_MAX:
            raise ValueError(
                f"{STREAMS_MAX} streams of {self._market!r} are open; close one before opening {connection_id}"
            )
        self._streams[connection_id] = _Stream()

    def acknowledge(self, connection_id: int) -> None:
        """The exchange has accepted the subscription."""
        self._streams[connection_id].is_acknowledged = True

    def close(self, connection_id: int) -> None:
        """The stream has ended."""
        del self._streams[connection_id]

    def clear(self) -> None:
        """All streams have ended."""
        self._streams.clear()

    def has_spoken(self, connection_id: int) -> bool:
        """Return whether this stream is open and has brought an update."""
        return connection_id in self._streams and self._streams[connection_id].has_spoken

    def is_live(self, connection_id: int) -> bool:
        """Return whether this stream is open, and was acknowledged or has brought an update."""
        return connection_id in self._streams and self._streams[connection_id].is_live

    def note_update(self, connection_id: int, header: Header) -> None:
        """The stream has brought an update."""
        stream = self._streams[connection_id]
        stream.has_spoken = True
        stream.reached_id, stream.reached_event_time_ms = header.last_update_id, header.event_time_ms

    def note_others(self, reached_id: int | None) -> None:
        """A snapshot, or a stream that is not the only open one, has brought the book to this id."""
        self._others_id = reached_id or 0

    def has_stepped_back(
        self, connection_id: int, header: Header, book_id: int | None, book_event_time_ms: int | None
    ) -> bool:
        """Return whether an update shows that the ids of its stream stepped back. Call it before `note_update`.

        A connection keeps the order. An update that ends at or below an earlier one of the same stream is repeated or
        late, and then it has an old event time; or the ids stepped back. Of another stream it would prove nothing: the
        windows of two connections differ, and one lags behind the other.

        Updates that went straight to the book were not seen here. Those of the only open stream are known all the same:
        they brought the book to its id. With several open streams a step back in that time is not noticed here.
        """
        stream = self._streams[connection_id]
        reached_id, reached_ms = stream.reached_id, stream.reached_event_time_ms
        if (
            len(self._streams) == 1
            and book_id is not None
            and book_id > self._others_id
            and book_id > (reached_id or 0)
        ):
            reached_id, reached_ms = book_id, book_event_time_ms
        assert header.last_update_id is not None
        return (
            reached_id is not None
            and 0 <= reached_id - header.last_update_id < STEP_BACK_IDS_MAX
            and is_later(header.event_time_ms, reached_ms)
        )

    def note_skip(self, connection_id: int) -> None:
        """The stream has brought an update past a gap. It keeps the order, so it will not fill the gap."""
        self._streams[connection_id].has_skipped = True

    def note_filled(self, connection_id: int) -> None:
        """The stream has brought the missing updates."""
        self._streams[connection_id].gaps_filled += 1

    def gaps_filled_by(self, connection_id: int) -> int:
        """Return how many gaps the stream has filled since it opened; 0 if it is not open."""
        found = self._streams.get(connection_id)
        return 0 if found is None else found.gaps_filled

    def forget_skips(self) -> None:
        """There is no gap any more, or another one."""
        for stream in self._streams.values():
            stream.has_skipped = False

    @property
    def have_all_skipped(self) -> bool:
        """Whether no live stream is left that could fill the gap."""
        return all(stream.has_skipped for stream in self._streams.values() if stream.is_live)

    def note_stale(
        self, connection_id: int, header: Header, reached_id: int, reached_event_time_ms: int | None, now: float
    ) -> bool:
        """Note an update that ends at or below `reached_id`; return whether the ids restarted.

        They did when each live stream has brought `RESYNC_AFTER_STALE` such updates in a row, each with an event time
        past that of `reached_id`; in a row means that nothing else was reached in between. Repeated and late updates
        have old event times. The window of a second connection may end later with nothing new in it, but not three
        times. The ids also restarted when each live stream has brought as many, the first of them `STALE_S_MAX` ago.
        """
        shown = self._streams[connection_id]
        if shown.stale_at_id != reached_id:
            shown.stale_at_id, shown.stale_since = reached_id, now
            shown.stale_count = shown.later_in_a_row = 0
        shown.stale_count += 1
        shown.later_in_a_row = shown.later_in_a_row + 1 if is_later(header.event_time_ms, reached_event_time_ms) else 0
        live = [other for other in self._streams.values() if other.is_live]
        if any(other.stale_at_id != reached_id or other.stale_count < RESYNC_AFTER_STALE for other in live):
            return False
        return all(other.later_in_a_row >= RESYNC_AFTER_STALE for other in live) or all(
            now - other.stale_since >= STALE_S_MAX for other in live
        )
