"""A feed group: some markets of one venue, their websocket connections, and the one thread that owns both.

Rule 1: the group's thread is the only writer of its books and the only caller of their synchronizers. Other threads
    reach it through `post`, which wakes it; nothing here is shared otherwise, so nothing else is locked.
Rule 2: a depth update of a synchronized market takes the short way: the connection's frame reader finds the market's
    binding by the name of the stream, and applies it. Everything else (another verdict, a snapshot, a deadline) goes
    through the market's synchronizer. `_run_actions`, which follows each call of it, says which way is open.
Rule 3: one market's trouble never touches another. A frame that cannot be read or routed is dropped and counted, and
    each market's next frame proves or disproves that nothing is missing.
Rule 4: an update that goes the short way moves no deadline, and most wake-ups bring nothing else. So deadlines are
    looked at only when the nearest one has come, or after something that may have brought one nearer: posted work, a
    call of a synchronizer, a message that is no update, a control frame, a lost connection, room to write.
Rule 5: the thread does not die while its books can be read. Whatever goes wrong that nobody foresaw ends its
    connections, which suspends every book, is logged, and is followed by a new start after `FAULT_PAUSE_S`.

There is one connection as a rule, and several when the group is redundant. Another one, for the same markets, comes
when the exchange announces a shutdown, when one nears its 24 hours, or when its pongs come late: both feed the same
books, whose ids say what is new, until the successor has taken over every market (`ldc.feed.handover`); then the old
one is closed, and no book has been out of sync.
"""

import logging
import selectors
import threading
import time
from collections.abc import Callable, Sequence

from ldc.book import read_header
from ldc.errors import MalformedMessage
from ldc.feed.connection import ConnectionLost, ConnectionOptions, ConnectionState, FeedConnection
from ldc.feed.group_markets import GroupMarkets
from ldc.feed.handover import Handover
from ldc.feed.mailbox import Mailbox
from ldc.feed.market import LiveMarket, MessageDrop
from ldc.feed.pool import ConnectionPool, SharedConnectBudget
from ldc.feed.status import connection_statuses, proven_at
from ldc.feed.subscriptions import RequestRefused
from ldc.frames import FrameEvent, Opcode
from ldc.sync.parts import (
    RequestSnapshot,
)
from ldc.types import Cause, ConnectionStatus

__all__ = ["FeedGroup"]

logger = logging.getLogger("binance_local_depth_cache")

SILENCE_CHECK_S = 2.0
"""How often the group looks for markets that have gone silent: with what a look-up takes, five seconds late at most."""

FAULT_PAUSE_S = 1.0
"""After a fault of ours the thread rests so long, lest a lasting one fills the log and the processor."""


class FeedGroup(GroupMarkets):
    """Markets that share connections. Every method may be called from any thread; they return at once.

    Args:
        name: of the thread.
        urls: of the combined-stream endpoint, one for each of the connections that are kept at a time.
        options: what all connections of the manager have in common.
        connect_budget: shared by all groups that reach the same venue.
        request_snapshot, cancel_snapshot, request_probe: carry out what a synchronizer or the silence watch asks for,
            at once and without blocking. The answers come back, by `post`, to `snapshot_...` and `probe_answered`.
        random: a number from 0 up to 1, for jitter.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        options: ConnectionOptions,
        *,
        connect_budget: SharedConnectBudget,
        request_snapshot: Callable[[LiveMarket, RequestSnapshot], None],
        cancel_snapshot: Callable[[LiveMarket, int], None],
        request_probe: Callable[[LiveMarket], None],
        random: Callable[[], float],
    ) -> None:
        self.name = name
        self.messages_dropped = dict.fromkeys(MessageDrop, 0)
        super().__init__(request_snapshot, cancel_snapshot, request_probe)
        self._has_more: set[FeedConnection] = set()
        self._mailbox = Mailbox()
        self._stop_requested = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._connections = ConnectionPool(self, urls, options, connect_budget, self._selector, random)
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
        """Connections begun after the first one of each line, renewals included."""
        return self._connections.reconnects

    def connections_of(self, market: LiveMarket) -> tuple[ConnectionStatus, ...]:
        """Return what the connections have brought of a market."""
        return connection_statuses(tuple(self._connections), market)

    def proven_at(self, market: LiveMarket) -> float:
        """Return when a market's book was last proven to be current, by the monotonic clock."""
        return proven_at(tuple(self._connections), market)

    @property
    def last_error(self) -> str | None:
        """Why the last connection was lost, or None."""
        return self._connections.last_error

    def post(self, work: Callable[[float], None]) -> bool:
        """Let the group's thread call `work(now)`. False: the group is stopped, and it will not be called."""
        return self._mailbox.post(work)

    def add(self, market: LiveMarket) -> None:
        """Take up a market."""
        self.post(lambda now: self._add(market, now))

    def remove(self, market: LiveMarket) -> None:
        """Give a market up; its synchronizer is stopped."""
        self.post(lambda now: self._remove(market, now))

    def resync(self, market: LiveMarket, unsubscribe: bool) -> None:
        """Take a market out of sync and synchronize it anew, with a new subscription if so wished."""
        self.post(lambda now: self._resync(market, Cause.REQUESTED, now, unsubscribe=unsubscribe))

    def refresh(self, market: LiveMarket) -> None:
        """Check and renew a market's levels by a snapshot, without taking it away."""
        self.post(lambda now: self._refresh(market, now))

    def renew(self) -> None:
        """Replace every connection by a new one, without an interruption."""
        self.post(self._connections.renew)

    def stop(self) -> None:
        """Begin to stop; `join` waits for the end."""
        self._stop_requested.set()
        self.post(lambda _now: None)  # wakes it

    def discard(self) -> None:
        """Give back what a group holds whose thread could not be started."""
        self._release()

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
                except Exception as error:  # see rule 5
                    logger.exception("Feed group %s failed; its connections start anew", self.name)
                    self._lose_all(f"a fault of ldc: {type(error).__name__}: {error}")
                    self._stop_requested.wait(FAULT_PAUSE_S)
        finally:
            self._release()

    def _turn(self) -> None:
        """Wait for something to happen, and do it."""
        # What is posted makes the selector return, so it need not be looked for before.
        ready = self._selector.select(0.0 if self._has_more else max(0.0, self._tick_due - time.monotonic()))
        now = time.monotonic()
        readable, self._has_more = self._has_more, set()
        for key, events in ready:
            if key.data is None:
                self._mailbox.drain_wake_ups()
            else:
                if events & selectors.EVENT_READ:
                    readable.add(key.data)
                if events & selectors.EVENT_WRITE:
                    self._tick_due = now
        # The mailbox comes before the frames: what has come since a download began shall be kept for its snapshot.
        if self._mailbox:
            self._mailbox.work_off(now)
            self._tick_due = now
        for connection in readable:
            self._read(connection, now)
        if self._connections.has_machine_slept():
            self._tick_due = now
        # Deadlines come after reading: a pong that waited for us is a pong in time.
        if self._tick_due <= now:
            self._tick(now)
            self._tick_due = self._next_due(now)

    def _next_due(self, now: float) -> float:
        due = max(now, self._silence_due) if self._markets else now + SILENCE_CHECK_S
        if self._stop_requested.is_set():
            return now if self._stop_deadline is None else min(due, self._stop_deadline)
        if self._timers.next_due is not None:
            due = min(due, self._timers.next_due)
        connections_due = self._connections.next_due(now)
        return due if connections_due is None else min(due, connections_due)

    def _tick(self, now: float) -> None:
        """Do everything whose time has come."""
        self._connections.tick(now, is_wanted=self._wants_connection)
        if self._stop_requested.is_set():
            return
        for market in self._timers.take_due(now):
            market.synchronizer.tick(now)
            self._run_actions(market, now)
        if now >= self._silence_due:
            self._silence_due = now + SILENCE_CHECK_S
            if any(connection.last_pong_at is not None for connection in self._connections):
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
            market.synchronizer.stream_closed(connection.connection_id, now)
            self._run_actions(market, now)

    def handover_ended(self, handover: Handover, connection: FeedConnection, now: float) -> bool | None:
        """Whether a successor has taken over (True), has failed to (False), or neither yet. In the group's thread."""
        if handover.is_complete(self._markets.values()):
            return True
        step = handover.step(self._markets.values(), now)
        for market in step.to_probe:
            self._request_probe(market)
        for market in step.to_resubscribe:
            logger.warning(
                "%s: %s does not come on the new connection; it is subscribed anew", self.name, market.market
            )
            connection.requests.unsubscribe([market.stream])
            self._subscribe(connection, market, now)
        has_failed = handover.has_failed(now)
        return None if has_failed is None else not has_failed

    def _subscribe(self, connection: FeedConnection, market: LiveMarket, now: float) -> None:
        # Opened before it is acknowledged: the first update may overtake the acknowledgement.
        connection.requests.subscribe([market.stream])
        connection.reader.bind(market.stream, market.binding)
        market.synchronizer.stream_opened(connection.connection_id, now)
        self._run_actions(market, now)

    def _lose_all(self, why: str) -> None:
        """Rule 5: start anew, with every book suspended meanwhile."""
        now = self._tick_due = time.monotonic()
        for connection in self._connections:
            try:
                self._connections.lose(connection, why, now, is_wanted=True)
            except Exception:
                logger.exception("%s: a connection could not be ended in order", self.name)
        for market in self._markets.values():
            try:
                market.synchronizer.request_resync(now, Cause.NOT_LOADED)  # gives up levels that are kept aside, too
                self._run_actions(market, now)
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
        for binding in connection.reader.take_touched():
            binding.owner.wake_waiters()
        if connection.has_heard_control:
            self._tick_due = now
        for event in events:
            if event.binding is None:
                self._take_other(connection, event.payload, now)
            elif event.verdict is None and event.error is None:
                self._take_update(connection, event.binding.owner, event.payload, now)
            else:
                self._take_judged(connection, event, now)
        if lost is not None:
            self._tick_due = now
            self._connections.lose(connection, str(lost), now, is_wanted=self._wants_connection)

    def _take_judged(self, connection: FeedConnection, event: FrameEvent, now: float) -> None:
        """Decide about an update that the book has judged: its reader has applied nothing to it since."""
        market: LiveMarket = event.binding.owner
        if event.error is not None:
            market.synchronizer.update_malformed(now)
            market.note_malformed(event.error)
        elif event.verdict or market.book.needs_attention:  # APPLIED is 0
            assert event.verdict is not None
            market.synchronizer.after_apply(connection.connection_id, event.verdict, event.payload, time.time_ns(), now)
        else:  # applied, and a thread waits for it
            market.binding.is_direct = not market.synchronizer.wants_every_update
            market.wake_waiters()
            return
        self._run_actions(market, now)
        market.wake_waiters()

    def _take_update(self, connection: FeedConnection, market: LiveMarket, payload: bytes, now: float) -> None:
        """Bring one depth update to its synchronizer, or, if that has just opened the short way, to its book."""
        if market.synchronizer.wants_every_update:
            id_before = market.book.last_update_id
            market.synchronizer.receive_update(connection.connection_id, payload, time.time_ns(), now)
            market.note_moved(connection.reader.tally(market.stream), id_before)
            self._run_actions(market, now)
            market.wake_waiters()
            return
        event = FrameEvent(Opcode.TEXT, payload, market.binding)
        try:
            event = event._replace(verdict=market.book.apply(payload, time.time_ns()))
            market.binding.heard_at = now
        except MalformedMessage as error:
            event = event._replace(error=error)
        self._take_judged(connection, event, now)

    def _take_other(self, connection: FeedConnection, payload: bytes, now: float) -> None:
        """Take a message that does not begin with the name of a stream that is ours."""
        self._tick_due = now
        try:
            header = read_header(payload)
        except MalformedMessage as error:
            self._drop(MessageDrop.UNREADABLE, str(error))
            return
        if header.event == "serverShutdown" or header.stream == "!serverShutdown":
            logger.info("%s: the exchange announces a shutdown; a new connection takes over", self.name)
            self._connections.renew(now, connection)
        elif header.stream is not None:
            market = self._markets.get(header.stream.encode())
            if market is not None:
                self._take_update(connection, market, payload, now)
            elif not connection.requests.may_bring(header.stream):  # or it was stopped, and the exchange knows not yet
                self._drop(MessageDrop.UNKNOWN_STREAM, f"no market of this group has the stream {header.stream!r}")
        elif header.event is not None or header.last_update_id is not None:
            self._drop(MessageDrop.UNKNOWN_STREAM, "an event outside the wrapper that names its stream")
        else:
            self._take_reply(connection, payload, now)

    def _take_reply(self, connection: FeedConnection, payload: bytes, now: float) -> None:
        try:
            acknowledged = connection.requests.take_reply(payload, now)
        except ValueError as error:
            self._drop(MessageDrop.UNKNOWN_REPLY, str(error))
            for stream in error.streams if isinstance(error, RequestRefused) else ():
                if (market := self._markets.get(stream.encode())) is not None:
                    market.last_error = str(error)
            return
        for stream in acknowledged:
            market = self._markets.get(stream.encode())
            if market is not None:
                market.note_acknowledged(time.time())
                market.synchronizer.stream_acknowledged(connection.connection_id, now)
                self._run_actions(market, now)

    def _drop(self, why: MessageDrop, text: str) -> None:
        if self.messages_dropped[why] == 0:
            logger.warning("%s: frame dropped (%s): %s; more of these are only counted", self.name, why.value, text)
        self.messages_dropped[why] += 1

    # markets

    def _add(self, market: LiveMarket, now: float) -> None:
        if self._stop_requested.is_set():
            self._remove(market, now)
            return
        if market.is_removed:
            return
        self._markets[market.stream.encode()] = market
        market.binding.heard_at = now  # nothing yet; but its silence begins here, and its snapshot will be newer
        for connection in self._connections.open_ones:
            self._subscribe(connection, market, now)
        self._run_actions(market, now)

    def _remove(self, market: LiveMarket, now: float) -> None:
        if self._markets.get(market.stream.encode()) is market:
            del self._markets[market.stream.encode()]
            for connection in self._connections:
                connection.requests.unsubscribe([market.stream])
                connection.reader.unbind(market.stream)
        self._timers.forget(market)
        self._end_market(market, now)
        if not self._markets:
            self._connections.close_all(now)

    def _resync(self, market: LiveMarket, cause: Cause, now: float, *, unsubscribe: bool) -> None:
        if market.is_removed:
            return
        market.synchronizer.request_resync(now, cause)
        if unsubscribe:
            for connection in self._connections.open_ones:
                connection.requests.unsubscribe([market.stream])
                self._subscribe(connection, market, now)
        self._run_actions(market, now)

    # the end

    def _is_over(self) -> bool:
        """Whether the thread may end: stopping, and good-byes answered or no longer waited for."""
        if not self._stop_requested.is_set():
            return False
        now = time.monotonic()
        if self._stop_deadline is None:
            self._stop_deadline = now + self._connections.say_goodbye()
            self._tick_due = now
            for market in self._markets.values():
                self._end_market(market, now)
        return not self._connections.open_ones or now >= self._stop_deadline

    def _release(self) -> None:
        """Give everything back. Nothing is posted any more."""
        self._connections.release()
        self._selector.close()
        self._mailbox.close()
        self._mailbox.work_off(time.monotonic())  # a connector's socket, a snapshot for nobody, a market to end
