"""A feed group: some markets of one venue, their websocket connections, and the one thread that owns both.

Rule 1: the group's thread is the only writer of its books and the only caller of their synchronizers. Other threads
    reach it through `post`, which wakes it; nothing here is shared otherwise, so nothing else is locked.
Rule 2: a depth update of a synchronized market takes the short way: the connection's frame reader finds the market's
    binding by the name of the stream, and applies it. Everything else (another verdict, a snapshot, a deadline) goes
    through the market's synchronizer. `_carry_out`, which follows each call of it, says which way is open.
Rule 3: one market's trouble never touches another. A frame that cannot be read or routed is dropped and counted, and
    each market's next frame proves or disproves that nothing is missing.
Rule 4: the thread does not die while its books can be read. Whatever goes wrong that nobody foresaw ends its
    connections, which suspends every book, is logged, and is followed by a new start after `FAULT_PAUSE_S`.

There is one connection as a rule. A second one, for the same markets, comes when the exchange announces a
shutdown or the first one nears its 24 hours: both feed the same books, whose ids say what is new, until the second has
spoken for every market (or `HANDOVER_S` is over); then the first one is closed, and no book has been out of sync.
"""

import heapq
import logging
import selectors
import threading
import time
from collections.abc import Callable
from itertools import count

from ldc.book import read_header
from ldc.errors import MalformedMessage
from ldc.feed_connection import ConnectionLost, ConnectionOptions, ConnectionState, FeedConnection
from ldc.feed_connections import FeedConnections, SharedConnectBudget
from ldc.feed_mailbox import Mailbox
from ldc.feed_market import MOVED_ON_S, FeedDrop, MarketFeed
from ldc.feed_requests import RequestRefused
from ldc.frames import FrameEvent, Opcode
from ldc.synchronizer_parts import (
    Action,
    CancelSnapshot,
    Payload,
    Refreshed,
    RequestSnapshot,
    StateChanged,
)
from ldc.values import Cause, SyncState

__all__ = ["FeedGroup"]

logger = logging.getLogger("binance_local_depth_cache")

SILENCE_CHECK_S = 5.0
"""How often the group looks for markets that have gone silent."""

FAULT_PAUSE_S = 1.0
"""After a fault of ours the thread rests so long, lest a lasting one fills the log and the processor."""


class FeedGroup:
    """Markets that share connections. Every method may be called from any thread; they return at once.

    Args:
        name: of the thread.
        url: of the combined-stream endpoint.
        options: what all connections of the manager have in common.
        connect_budget: shared by all groups that reach the same venue.
        request_snapshot, cancel_snapshot, request_probe: carry out what a synchronizer or the silence watch asks for,
            at once and without blocking. The answers come back, by `post`, to `snapshot_...` and `probe_answered`.
        random: a number from 0 up to 1, for jitter.
    """

    def __init__(
        self,
        name: str,
        url: str,
        options: ConnectionOptions,
        *,
        connect_budget: SharedConnectBudget,
        request_snapshot: Callable[[MarketFeed, RequestSnapshot], None],
        cancel_snapshot: Callable[[MarketFeed, int], None],
        request_probe: Callable[[MarketFeed], None],
        random: Callable[[], float],
    ) -> None:
        self.name = name
        self.frames_dropped = dict.fromkeys(FeedDrop, 0)
        self._request_snapshot = request_snapshot
        self._cancel_snapshot = cancel_snapshot
        self._request_probe = request_probe
        self._markets: dict[bytes, MarketFeed] = {}  # by the name of the stream
        self._timers: list[tuple[float, int, MarketFeed]] = []
        self._timer_order = count()
        self._silence_due = 0.0
        self._has_more: set[FeedConnection] = set()
        self._mailbox = Mailbox()
        self._stop_requested = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._connections = FeedConnections(self, url, options, connect_budget, self._selector, random)
        self._selector.register(self._mailbox.receiver, selectors.EVENT_READ)
        self._stop_deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # from any thread

    def start(self) -> None:
        """Start the thread. Once."""
        self._thread.start()

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is the group's thread."""
        return threading.current_thread() is self._thread

    @property
    def reconnects(self) -> int:
        """Connections begun after the first one, renewals included."""
        return self._connections.reconnects

    @property
    def last_error(self) -> str | None:
        """Why the last connection was lost, or None."""
        return self._connections.last_error

    def post(self, work: Callable[[float], None]) -> bool:
        """Let the group's thread call `work(now)`. False: the group is stopped, and it will not be called."""
        return self._mailbox.post(work)

    def add(self, market: MarketFeed) -> None:
        """Take up a market."""
        self.post(lambda now: self._add(market, now))

    def remove(self, market: MarketFeed) -> None:
        """Give a market up; its synchronizer is stopped."""
        self.post(lambda now: self._remove(market, now))

    def resync(self, market: MarketFeed, unsubscribe: bool) -> None:
        """Take a market out of sync and synchronize it anew, with a new subscription if so wished."""
        self.post(lambda now: self._resync(market, Cause.REQUESTED, now, unsubscribe=unsubscribe))

    def refresh(self, market: MarketFeed) -> None:
        """Check and renew a market's levels by a snapshot, without taking it away."""
        self.post(lambda now: self._refresh(market, now))

    def renew(self) -> None:
        """Replace the connection by a new one, without an interruption."""
        self.post(self._connections.renew)

    def stop(self) -> None:
        """Begin to stop; `join` waits for the end."""
        self._stop_requested.set()
        self.post(lambda _now: None)  # wakes it

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended; return whether it has. True at once for the thread itself."""
        if self._thread.ident is None or self.is_own_thread:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # the thread

    def _run(self) -> None:
        try:
            while not self._is_over():
                try:
                    self._turn()
                except Exception as error:  # see rule 4
                    logger.exception("Feed group %s failed; its connections start anew", self.name)
                    self._lose_all(f"a fault of ldc: {type(error).__name__}: {error}")
                    self._stop_requested.wait(FAULT_PAUSE_S)
        finally:
            self._release()

    def _turn(self) -> None:
        """Wait for something to happen, and do it."""
        now = time.monotonic()
        timeout_s = 0.0 if self._has_more or self._mailbox else max(0.0, self._next_due(now) - now)
        ready = self._selector.select(timeout_s)
        now = time.monotonic()
        readable = self._has_more
        self._has_more = set()
        for key, events in ready:
            if key.data is None:
                self._mailbox.drain_wake_ups()
            elif events & selectors.EVENT_READ:
                readable.add(key.data)
        # The mailbox comes before the frames: what has come since a download began shall be kept for its snapshot.
        self._mailbox.work_off(now)
        for connection in readable:
            self._read(connection, now)
        # Deadlines come after reading: a pong that waited for us is a pong in time.
        self._tick(now)

    def _next_due(self, now: float) -> float:
        due = max(now, self._silence_due) if self._markets else now + SILENCE_CHECK_S
        if self._stop_requested.is_set():
            return now if self._stop_deadline is None else min(due, self._stop_deadline)
        if self._timers:
            due = min(due, self._timers[0][0])
        connections_due = self._connections.next_due(now)
        return due if connections_due is None else min(due, connections_due)

    def _tick(self, now: float) -> None:
        """Do everything whose time has come."""
        self._connections.tick(now, is_wanted=self._wants_connection)
        if self._stop_requested.is_set():
            return
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for market in due:
            if market.timer_due is not None and market.timer_due <= now and not market.is_removed:
                market.timer_due = None
                market.synchronizer.tick(now)
                self._carry_out(market, now)
        if now >= self._silence_due:
            self._silence_due = now + SILENCE_CHECK_S
            self._check_silence(now)
        self._connections.watch_writers()

    # connections

    @property
    def _wants_connection(self) -> bool:
        return bool(self._markets) and not self._stop_requested.is_set()

    def connection_opened(self, connection: FeedConnection, now: float) -> None:
        """Subscribe everything on a connection that has just been opened. In the group's thread."""
        if self._stop_requested.is_set():
            return
        for market in self._markets.values():
            self._subscribe(connection, market, now)
        logger.info("%s: connected, for %d markets", self.name, len(self._markets))

    def connection_closed(self, connection: FeedConnection, now: float, *, is_last: bool) -> None:
        """Tell the markets that a connection is gone. In the group's thread."""
        self._has_more.discard(connection)
        for market in self._markets.values():
            market.was_interrupted |= is_last and connection.requests.may_bring(market.stream)
            market.synchronizer.feed_closed(connection.feed, now)
            self._carry_out(market, now)

    def is_taken_over(self, connection: FeedConnection) -> bool:
        """Whether every market that can be read has heard from this connection."""
        return all(
            market.synchronizer.has_spoken(connection.feed)
            for market in self._markets.values()
            if market.synchronizer.state is SyncState.SYNCHRONIZED
        )

    def _subscribe(self, connection: FeedConnection, market: MarketFeed, now: float) -> None:
        # Opened before it is acknowledged: the first update may overtake the acknowledgement.
        connection.requests.subscribe([market.stream])
        connection.reader.bind(market.stream, market.binding)
        market.synchronizer.feed_opened(connection.feed, now)
        self._carry_out(market, now)

    def _lose_all(self, why: str) -> None:
        """Rule 4: start anew, with every book suspended meanwhile."""
        now = time.monotonic()
        for connection in self._connections:
            try:
                self._connections.lose(connection, why, now, is_wanted=True)
            except Exception:
                logger.exception("%s: a connection could not be ended in order", self.name)
        for market in self._markets.values():
            try:
                market.synchronizer.request_resync(now, Cause.NOT_LOADED)  # gives up levels that are kept aside, too
                self._carry_out(market, now)
            except Exception:
                market.book.suspend(Cause.NOT_LOADED)
                logger.exception("%s: %s could not be given up in order", self.name, market.market)

    # messages

    def _read(self, connection: FeedConnection, now: float) -> None:
        """Take what a connection has received."""
        if connection.state is not ConnectionState.OPEN:
            return
        events: list[FrameEvent] = []
        lost: ConnectionLost | None = None
        try:
            if connection.receive(events, now):
                self._has_more.add(connection)
        except ConnectionLost as error:
            lost = error
        for event in events:
            if event.binding is None:
                self._take_other(connection, event.payload, now)
            elif event.verdict is None and event.error is None:
                self._take_update(connection, event.binding.owner, event.payload, now)
            else:
                self._take_judged(connection, event, now)
        if lost is not None:
            self._connections.lose(connection, str(lost), now, is_wanted=self._wants_connection)

    def _take_judged(self, connection: FeedConnection, event: FrameEvent, now: float) -> None:
        """Decide about an update that the book has judged: its reader has applied nothing to it since."""
        market: MarketFeed = event.binding.owner
        if event.error is not None:
            market.synchronizer.update_malformed(now)
            market.note_malformed(event.error)
        elif event.verdict or market.book.needs_attention:  # APPLIED is 0
            assert event.verdict is not None
            market.synchronizer.after_apply(connection.feed, event.verdict, event.payload, time.time_ns(), now)
        else:  # applied, and a thread waits for it
            market.binding.is_direct = not market.synchronizer.wants_every_update
            market.wake_waiters()
            return
        self._carry_out(market, now)
        market.wake_waiters()

    def _take_update(self, connection: FeedConnection, market: MarketFeed, payload: bytes, now: float) -> None:
        """Bring one depth update to its synchronizer, or, if that has just opened the short way, to its book."""
        if market.synchronizer.wants_every_update:
            market.synchronizer.receive_update(connection.feed, payload, time.time_ns(), now)
            self._carry_out(market, now)
            market.wake_waiters()
            return
        event = FrameEvent(Opcode.TEXT, payload, market.binding)
        try:
            event = event._replace(verdict=market.book.apply(payload, time.time_ns()))
        except MalformedMessage as error:
            event = event._replace(error=error)
        self._take_judged(connection, event, now)

    def _take_other(self, connection: FeedConnection, payload: bytes, now: float) -> None:
        """Take a message that does not begin with the name of a stream that is ours."""
        try:
            header = read_header(payload)
        except MalformedMessage as error:
            self._drop(FeedDrop.UNREADABLE, str(error))
            return
        if header.event == "serverShutdown" or header.stream == "!serverShutdown":
            logger.info("%s: the exchange announces a shutdown; a new connection takes over", self.name)
            self._connections.renew(now)
        elif header.stream is not None:
            market = self._markets.get(header.stream.encode())
            if market is not None:
                market.binding.heard_at = now
                self._take_update(connection, market, payload, now)
            elif not connection.requests.may_bring(header.stream):  # or it was stopped, and the exchange knows not yet
                self._drop(FeedDrop.UNKNOWN_STREAM, f"no market of this group has the stream {header.stream!r}")
        elif header.event is not None or header.last_update_id is not None:
            self._drop(FeedDrop.UNKNOWN_STREAM, "an event outside the wrapper that names its stream")
        else:
            self._take_reply(connection, payload, now)

    def _take_reply(self, connection: FeedConnection, payload: bytes, now: float) -> None:
        try:
            acknowledged = connection.requests.take_reply(payload, now)
        except ValueError as error:
            self._drop(FeedDrop.UNKNOWN_REPLY, str(error))
            for stream in error.streams if isinstance(error, RequestRefused) else ():
                if (market := self._markets.get(stream.encode())) is not None:
                    market.last_error = str(error)
            return
        for stream in acknowledged:
            market = self._markets.get(stream.encode())
            if market is not None:
                market.note_acknowledged(time.time())
                market.synchronizer.feed_acknowledged(connection.feed, now)
                self._carry_out(market, now)

    def _drop(self, why: FeedDrop, text: str) -> None:
        if self.frames_dropped[why] == 0:
            logger.warning("%s: frame dropped (%s): %s; more of these are only counted", self.name, why.value, text)
        self.frames_dropped[why] += 1

    # markets

    def _add(self, market: MarketFeed, now: float) -> None:
        if self._stop_requested.is_set():
            self._remove(market, now)
            return
        if market.is_removed:
            return
        self._markets[market.stream.encode()] = market
        market.binding.heard_at = now
        for connection in self._connections.open_ones:
            self._subscribe(connection, market, now)
        self._carry_out(market, now)

    def _remove(self, market: MarketFeed, now: float) -> None:
        if self._markets.get(market.stream.encode()) is market:
            del self._markets[market.stream.encode()]
            for connection in self._connections:
                connection.requests.unsubscribe([market.stream])
                connection.reader.unbind(market.stream)
        self._timers = [timer for timer in self._timers if timer[2] is not market]
        heapq.heapify(self._timers)
        self._end_market(market, now)
        if not self._markets:
            self._connections.close_all(now)

    def _end_market(self, market: MarketFeed, now: float) -> None:
        market.is_removed = True
        market.synchronizer.stop(now)
        self._carry_out(market, now)
        market.signal.notify()

    def _resync(self, market: MarketFeed, cause: Cause, now: float, *, unsubscribe: bool) -> None:
        if market.is_removed:
            return
        market.synchronizer.request_resync(now, cause)
        if unsubscribe:
            for connection in self._connections.open_ones:
                connection.requests.unsubscribe([market.stream])
                self._subscribe(connection, market, now)
        self._carry_out(market, now)

    def _refresh(self, market: MarketFeed, now: float) -> None:
        if not market.is_removed:
            market.synchronizer.request_refresh(now)
            self._carry_out(market, now)

    def snapshot_begins(self, market: MarketFeed, epoch: int, now: float) -> None:
        """Hand in that a download has begun. In the group's thread."""
        if not market.is_removed:
            market.synchronizer.snapshot_begins(epoch, now)
            self._carry_out(market, now)

    def snapshot_received(
        self, market: MarketFeed, epoch: int, body: Payload, limit: int | None, received_time_ns: int | None, now: float
    ) -> None:
        """Hand in a snapshot. In the group's thread."""
        if not market.is_removed:
            market.synchronizer.snapshot_received(epoch, body, limit, now, received_time_ns=received_time_ns)
            self._carry_out(market, now)
            market.wake_waiters()  # a refresh may have made a book readable that had left its horizon

    def snapshot_failed(
        self, market: MarketFeed, epoch: int, permanent: Cause | None, retry_at: float | None, text: str, now: float
    ) -> None:
        """Hand in why there is no snapshot. In the group's thread."""
        if not market.is_removed:
            market.last_error = text
            market.synchronizer.snapshot_failed(epoch, now, permanent=permanent, retry_at=retry_at)
            self._carry_out(market, now)

    def _check_silence(self, now: float) -> None:
        """Ask by REST whether a market that has been silent for long has really nothing to say."""
        if not any(connection.last_pong_at is not None for connection in self._connections):
            return
        for market in list(self._markets.values()):
            if market.synchronizer.state is not SyncState.SYNCHRONIZED:
                continue
            if market.silence.is_dead(market.heard_at, now):
                logger.warning("%s: %s moves on without us; it is subscribed anew", self.name, market.market)
                self._resync(market, Cause.SILENT, now, unsubscribe=True)
            elif market.silence.is_due(market.heard_at, now):
                market.silence.ask(now)
                self._request_probe(market)

    def probe_answered(self, market: MarketFeed, last_update_id: int | None, now: float) -> None:
        """Hand in the exchange's id of a silent market, or None: it could not be had. In the group's thread."""
        book_id = market.book.last_update_id
        has_moved_on = last_update_id is not None and book_id is not None and last_update_id > book_id
        market.silence.answer(has_moved_on, now)
        if has_moved_on:
            self._silence_due = min(self._silence_due, now + MOVED_ON_S)

    def _carry_out(self, market: MarketFeed, now: float) -> None:
        """Do what a market's synchronizer asks for, and remember when it wants to be called again."""
        market.binding.is_direct = not market.synchronizer.wants_every_update
        actions = market.synchronizer.drain()
        cancelled = {action.epoch for action in actions if isinstance(action, CancelSnapshot)}
        for action in actions:
            if not isinstance(action, RequestSnapshot) or action.epoch not in cancelled:
                self._carry_out_one(market, action)
        due = market.synchronizer.next_due()
        if due is not None and (market.timer_due is None or due < market.timer_due or market.timer_due <= now):
            market.timer_due = due
            heapq.heappush(self._timers, (due, next(self._timer_order), market))

    def _carry_out_one(self, market: MarketFeed, action: Action) -> None:
        match action:
            case RequestSnapshot():
                self._request_snapshot(market, action)
            case CancelSnapshot():
                self._cancel_snapshot(market, action.epoch)
            case StateChanged():
                market.note_state(action)
            case Refreshed():
                market.note_audit(action)

    # the end

    def _is_over(self) -> bool:
        """Whether the thread may end: stopping, and good-byes answered or no longer waited for."""
        if not self._stop_requested.is_set():
            return False
        now = time.monotonic()
        if self._stop_deadline is None:
            self._stop_deadline = now + self._connections.say_goodbye()
            for market in self._markets.values():
                self._end_market(market, now)
        return not self._connections.open_ones or now >= self._stop_deadline

    def _release(self) -> None:
        """Give everything back. Nothing is posted any more."""
        self._connections.release()
        self._selector.close()
        self._mailbox.close()
        self._mailbox.work_off(time.monotonic())  # a connector's socket, a snapshot for nobody, a market to end
