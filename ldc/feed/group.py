"""A feed group: some markets of one venue, their websocket connections, and the one thread that owns both.

Rule 1: the group's thread is the only writer of its books and the only caller of their synchronizers. Other threads
    reach it through `post`, which wakes it. Nothing else is shared, so nothing else is locked.
Rule 2: fast path: the frame reader applies updates of synchronized markets in place. Everything else goes through the
    synchronizer; `_run_actions` switches between the two.
Rule 3: a fault of one market never affects another. A message that cannot be read or routed is dropped and counted. The
    next update of each market proves or disproves that nothing is missing.
Rule 4: an update on the fast path moves no deadline, and most wake-ups bring nothing else. So deadlines are checked
    only when the nearest has come, or after something that may have brought one nearer: posted work, a call of a
    synchronizer, a message that is no update, a control frame, a lost connection, room to write.
Rule 5: the thread does not end while its books can be read. An unforeseen exception suspends every book first, then
    ends the connections. Everything starts again after `Timing.fault_pause_s`. A thread that ends for whatever reason
    closes its books before anything else; their cause is STOPPED, and their waiters end. A market whose adding raised
    is added again once. If it raises again, that market is given up, and the others go on.

There is one connection as a rule, and several when the group is redundant. A successor for the same markets is opened
when the exchange announces a shutdown, before the 24 hours of a connection are over, and when its pongs come late. Both
feed the same books, whose update ids tell what is new, until the successor has taken over every market
(`ldc.feed.handover`). Then the old connection is closed, and no book has been out of sync.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence

from ldc.book import Lease, UpdateQueue, read_header
from ldc.consume.callbacks import InlineCalls
from ldc.consume.log import logger
from ldc.errors import MalformedMessage
from ldc.feed.connection import ConnectionLost, ConnectionOptions, ConnectionState, FeedConnection
from ldc.feed.handover import Handover
from ldc.feed.loop import EventLoop
from ldc.feed.market import LiveMarket, MessageDrop
from ldc.feed.market_table import MarketTable
from ldc.feed.outages import OutageLog
from ldc.feed.pool import ConnectionPool, SharedConnectBudget
from ldc.feed.silence import CONTRADICTIONS, CONTRADICTIONS_MAX, Evidence, ProbeAnswer
from ldc.feed.status import connection_statuses, proven_at
from ldc.feed.subscriptions import RequestRefused
from ldc.frames import FrameEvent
from ldc.network.text import described, printable
from ldc.sync.actions import Action, CancelSnapshot, Payload, ReadSnapshot, Refreshed, RequestSnapshot, StateChanged
from ldc.types import Cause, ConnectionStatus, SyncState

ADD_TRIES_MAX = 2
"""How often a market is added whose adding raises. Then it is given up: its readers and waiters get the reason."""


class FeedGroup:
    """Markets that share connections. Every public method may be called from any thread, unless it says otherwise.

    None of them blocks but `join`.

    Args:
        name: of the thread.
        urls: of the combined-stream endpoint, one for each connection that is kept at a time.
        options: what all connections of the manager have in common.
        connect_budget: shared by all groups that reach the same venue.
        request_snapshot, cancel_snapshot, request_probe: do what a synchronizer or the silence watch requests, at once
            and without blocking. The answers are posted to `snapshot_...` and `probe_answered`. The epoch None cancels
            all requests of a market.
        holds_request: whether the answer to a request may still come; the epoch None stands for the probe.
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
        cancel_snapshot: Callable[[LiveMarket, int | None], None],
        request_probe: Callable[[LiveMarket], None],
        holds_request: Callable[[LiveMarket, int | None], bool],
        random: Callable[[], float],
    ) -> None:
        self.name = name
        self.messages_dropped = dict.fromkeys(MessageDrop, 0)
        self._timing = options.timing
        self._request_snapshot = request_snapshot
        self._cancel_snapshot = cancel_snapshot
        self._request_probe = request_probe
        self._holds_request = holds_request
        self._requests_due = math.inf  # when it is checked that what is awaited was not lost; inf: nothing is
        self._markets = MarketTable()
        self._arriving: dict[LiveMarket, int] = {}
        """Markets from `add` on, until they are added; and how often that was tried. Any thread adds to it."""
        self._inline = InlineCalls()
        self._outages = OutageLog(name)
        self._silence_due = 0.0
        self._lease = Lease(int(options.lease_s * 1e9))
        self._loop: EventLoop[FeedConnection] = EventLoop(
            name,
            options.timing,
            read=self._read,
            tick=self._tick,
            machine_slept=self._machine_slept,
            recover=self._recover,
            begin_stop=self._begin_stop,
            has_stopped=self._has_stopped,
            release=self._release,
            spins=options.spins,
            cpus=options.cpus,
        )
        self._connections = ConnectionPool(
            self._loop,
            urls,
            options,
            lease=self._lease,
            connect_budget=connect_budget,
            random=random,
            on_opened=self._connection_opened,
            on_closed=self._connection_closed,
            has_taken_over=self._has_taken_over,
        )
        self.post = self._loop.post
        """Let the group's thread call `work(now)`. False: the group has ended and will not call it."""
        self.stop = self._loop.stop
        """Begin to stop; `join` waits for the end."""
        self.join = self._loop.join
        """Wait for so many seconds until the thread has ended; return whether it has. True for the thread itself."""
        self.discard = self._loop.close
        """Release what a group holds whose thread could not be started."""

    # from any thread

    def start(self) -> None:
        """Start the thread. Once. Raises ``RuntimeError`` if there can be no more threads; then call `discard`."""
        self._loop.start()

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is the group's thread."""
        return self._loop.is_own_thread

    @property
    def reconnects(self) -> int:
        """Connections begun after the first one of each slot, renewals included."""
        return self._connections.reconnects

    @property
    def last_error(self) -> str | None:
        """Why the last connection was lost, or None."""
        return self._connections.last_error

    def inline_queue(self) -> UpdateQueue:
        """Return the queue of the callbacks that run in the group's thread."""
        queue = self._inline.queue(self._loop.wake_fd)
        self._loop.consume = self._inline.run
        return queue

    def connections_of(self, market: LiveMarket) -> tuple[ConnectionStatus, ...]:
        """Return what the connections have brought of a market."""
        return connection_statuses(tuple(self._connections), market)

    def proven_at(self, market: LiveMarket) -> float:
        """Return when a market's book was last proven to be current, by the monotonic clock."""
        return proven_at(tuple(self._connections), market)

    @property
    def has_ended(self) -> bool:
        """Whether the thread ends, or has ended: it takes no more markets."""
        return self._loop.is_stopping

    def add(self, market: LiveMarket) -> None:
        """Subscribe a market and keep its book; close that if the group has ended."""
        self._arriving[market] = 0
        self._post_add(market)

    def _post_add(self, market: LiveMarket) -> None:
        if not self.post(lambda now: self._add(market, now)):
            self._arriving.pop(market, None)
            market.close()

    def remove(self, market: LiveMarket) -> None:
        """Close a market's book at once; then unsubscribe it and stop its synchronizer."""
        market.close()
        self.post(lambda now: self._remove(market, now))

    def resync(self, market: LiveMarket, unsubscribe: bool) -> None:
        """Take a market out of sync and synchronize it again; with a new subscription if `unsubscribe`."""
        self._post_once(
            market,
            "resubscribe" if unsubscribe else "resync",
            lambda now: self._resync(market, Cause.REQUESTED, now, unsubscribe=unsubscribe),
        )

    def refresh(self, market: LiveMarket) -> None:
        """Check and renew a market's levels by a snapshot, while its book stays readable."""
        self._post_once(market, "refresh", lambda now: self._refresh(market, now))

    def _post_once(self, market: LiveMarket, name: str, work: Callable[[float], None]) -> None:
        """Post what a caller may request in a loop. While one such request of the market waits, no other is added."""
        if name in market.requested:
            return

        def run(now: float) -> None:
            market.requested.discard(name)
            work(now)

        market.requested.add(name)
        if not self.post(run):
            market.requested.discard(name)

    def renew(self) -> None:
        """Replace every connection by a new one, make before break."""
        self.post(self._connections.renew)

    # called by the loop, in its thread

    def _tick(self, now: float) -> float:
        """Do everything that is due; return when the next thing is."""
        self._connections.tick(now, is_wanted=self._wants_connection)
        if self._loop.is_stopping:
            return math.inf
        for market in self._markets.take_due(now):
            market.synchronizer.tick(now)
            self._run_actions(market, now)
        if now >= self._silence_due:
            self._silence_due = now + self._timing.silence_check_s
            if any(connection.has_ponged for connection in self._connections):
                self._check_silence(now)
                # Updates only postpone a probe, so nothing is due before the earliest of them.
                dues = [market.silence.next_due(market.heard_at) for market in self._markets]
                self._silence_due = max(self._silence_due, min(dues, default=-math.inf))
        if now >= self._requests_due:
            self._check_requests(now)
        self._outages.tick(now, self._markets)
        self._connections.watch_room()
        return self._next_due(now)

    def _next_due(self, now: float) -> float:
        due = max(now, self._silence_due) if self._markets else now + self._timing.silence_check_s
        due = min(due, self._requests_due, self._outages.next_due)
        for other_due in (self._markets.next_due, self._connections.next_due(now)):
            if other_due is not None:
                due = min(due, other_due)
        return due

    def _machine_slept(self, slept_s: float, now: float) -> None:
        for connection in self._connections:
            why = f"the machine slept for {slept_s:.0f} s"
            self._connections.lose(connection, why, now, is_wanted=self._wants_connection)

    def _recover(self, error: BaseException, now: float) -> None:
        """Rule 5: start again, with every book suspended meanwhile: before anything else.

        What it raises ends the thread: after two faults, nothing says what is still as it should be.
        """
        for market in self._markets:
            market.book.suspend(Cause.NOT_LOADED)
            market.signal.notify()
        why = f"a fault of ldc: {type(error).__name__}: {described(error)}"
        for connection in self._connections:
            try:
                self._connections.lose(connection, why, now, is_wanted=True)
            except BaseException:  # a thread's top
                logger.exception("%s: a connection could not be ended in order", self.name)
        self._connections.release()  # what could not be ended in order, or belongs to no slot any more
        for market in list(self._markets):
            if market.is_removed:  # its removal may have been interrupted
                self._remove(market, now)
                continue
            market.synchronizer.begin_again(now)  # not by inputs: one of them may have been interrupted
            self._run_actions(market, now)
        for market, tries in list(self._arriving.items()):
            if tries > 0:  # it is the one whose adding raised
                market.last_error = why
            if tries < ADD_TRIES_MAX:
                self._post_add(market)  # a call that still waits finds that there is nothing left to do
            else:
                self._give_up(market, why, now)

    def _give_up(self, market: LiveMarket, why: str, now: float) -> None:
        """End one market for good, so that the others go on."""
        market.ended_by = why
        logger.log(logging.ERROR, "%s: %s is given up: %s", self.name, market.market, why)
        self._arriving.pop(market, None)
        self._remove(market, now)

    def _begin_stop(self, now: float) -> float:
        for market in self._markets:  # all books first, whatever follows
            market.close()
        for market in self._markets:
            self._end_market(market, now)
        return self._connections.begin_close()

    def _has_stopped(self) -> bool:
        return not self._connections.open_ones

    def _release(self) -> None:
        """Close every book, then end every market, then close the sockets. Whatever fails, the rest is done."""
        now = time.monotonic()
        try:
            markets = dict.fromkeys([*self._markets, *list(self._arriving)])
            for market in markets:
                market.close()
            for market in markets:
                try:
                    self._end_market(market, now)
                except BaseException:  # a thread's top
                    logger.exception("%s: %s could not be stopped in order", self.name, market.market)
        finally:
            self._inline.close()
            self._connections.release()

    # connections

    @property
    def _wants_connection(self) -> bool:
        return bool(self._markets) and not self._loop.is_stopping

    def _connection_opened(self, connection: FeedConnection, now: float) -> None:
        """Subscribe everything on a connection that has just been opened."""
        if self._loop.is_stopping:
            return
        for market in self._markets:
            self._subscribe(connection, market, now)
        if connection.has_unread:  # what came with the last record of the handshake
            self._loop.unread.add(connection)
        level = logging.DEBUG if self._connections.reconnects else logging.INFO  # the return of the markets says more
        logger.log(level, "%s: connected, for %d markets", self.name, len(self._markets))

    def _connection_closed(self, connection: FeedConnection, now: float, is_last: bool) -> None:
        """Inform the markets that a connection is gone."""
        for market in self._markets:
            market.was_interrupted |= is_last and connection.requests.may_bring(market.stream)
            market.synchronizer.stream_closed(connection.connection_id, now)
            self._run_actions(market, now)

    def _has_taken_over(self, handover: Handover, connection: FeedConnection, now: float) -> bool | None:
        """Whether a successor has taken over (True), has failed to (False), or neither yet (None)."""
        if handover.is_complete(self._markets):
            return True
        step = handover.step(self._markets, now)
        for market in step.to_probe:
            self._request_probe(market)
        for market in step.to_resubscribe:
            logger.warning(
                "%s: no update of %s comes on the new connection; it is resubscribed", self.name, market.market
            )
            self._resubscribe(connection, market, now)
        has_failed = handover.has_failed(now)
        return None if has_failed is None else not has_failed

    def _subscribe(self, connection: FeedConnection, market: LiveMarket, now: float) -> None:
        # Opened before it is acknowledged: the first update may overtake the acknowledgement.
        connection.requests.subscribe([market.stream])
        connection.reader.bind(market.stream, market.binding)
        market.synchronizer.stream_opened(connection.connection_id, now)
        self._run_actions(market, now)

    def _resubscribe(self, connection: FeedConnection, market: LiveMarket, now: float) -> None:
        connection.requests.unsubscribe([market.stream])
        self._subscribe(connection, market, now)

    # messages

    def _read(self, connection: FeedConnection, now: float) -> None:
        """Handle what a connection has received."""
        if connection.state is not ConnectionState.OPEN:
            return
        if connection.is_kept_alive_by_loop and (unsent := self._loop.take_unsent(connection)):
            connection.take_unsent(unsent)
        events: list[FrameEvent] = []
        lost: ConnectionLost | None = None
        try:
            if connection.receive(events, now):
                self._loop.unread.add(connection)
        except ConnectionLost as error:
            lost = error
        if connection.has_heard_control:
            self._loop.tick_due = now
        for event in events:
            if event.binding is None:
                self._handle_other(connection, event, now)
            elif event.verdict is None and event.error is None:
                self._handle_update(connection, event.binding.owner, event, now)
            else:
                self._handle_judged(connection, event, now)
        if lost is not None:
            self._loop.tick_due = now
            self._connections.lose(connection, str(lost), now, is_wanted=self._wants_connection)

    def _handle_judged(self, connection: FeedConnection, event: FrameEvent, now: float) -> None:
        """Decide about an update that the book has judged. The reader has applied nothing to the book since."""
        market: LiveMarket = event.binding.owner
        if event.error is not None:
            market.synchronizer.update_malformed(now)
            market.note_malformed(event.error)
        elif event.verdict or market.book.needs_attention:  # APPLIED is 0
            assert event.verdict is not None
            judged = event.verdict, event.payload, event.received_time_ns
            market.synchronizer.after_apply(connection.connection_id, *judged, now)
        else:  # applied, and a thread waits for it
            market.binding.is_direct = not market.synchronizer.wants_every_update
            market.wake_waiters()
            return
        self._run_actions(market, now)
        market.wake_waiters()

    def _handle_update(self, connection: FeedConnection, market: LiveMarket, event: FrameEvent, now: float) -> None:
        """Give an update to its synchronizer, or to its book if the fast path has opened since it was read."""
        if market.synchronizer.wants_every_update:
            id_before = market.book.last_update_id
            received = event.payload, event.received_time_ns
            market.synchronizer.receive_update(connection.connection_id, *received, now)
            market.note_arrival(connection.reader.tally(market.stream), id_before)
            self._run_actions(market, now)
            market.wake_waiters()
            return
        event = event._replace(binding=market.binding)
        try:
            event = event._replace(verdict=market.book.apply(event.payload, event.received_time_ns))
            market.binding.heard_at = now
        except MalformedMessage as error:
            event = event._replace(error=error)
        self._handle_judged(connection, event, now)

    def _handle_other(self, connection: FeedConnection, event: FrameEvent, now: float) -> None:
        """Handle a message that does not begin with the name of a bound stream."""
        self._loop.tick_due = now
        payload = event.payload
        try:
            header = read_header(payload)
        except MalformedMessage as error:
            self._drop(MessageDrop.UNREADABLE, str(error))
            return
        if header.event == "serverShutdown" or header.stream == "!serverShutdown":
            logger.info("%s: the exchange announces a shutdown; a new connection takes over", self.name)
            self._connections.renew(now, connection)
        elif header.stream is not None:
            market = self._markets.find(header.stream)
            if market is not None:
                self._handle_update(connection, market, event, now)
            elif not connection.requests.may_bring(header.stream):  # or its market was stopped a moment ago
                self._drop(MessageDrop.UNKNOWN_STREAM, f"no market of this group has the stream {header.stream}")
        elif header.event is not None or header.last_update_id is not None:
            self._drop(MessageDrop.UNKNOWN_STREAM, "an event outside the wrapper that names its stream")
        else:
            self._handle_reply(connection, payload, now)

    def _handle_reply(self, connection: FeedConnection, payload: bytes, now: float) -> None:
        try:
            acknowledged = connection.requests.take_reply(payload, now)
        except ValueError as error:
            self._drop(MessageDrop.UNKNOWN_REPLY, str(error))
            for stream in error.streams if isinstance(error, RequestRefused) else ():
                if (market := self._markets.find(stream)) is not None:
                    market.last_error = str(error)
            return
        for stream in acknowledged:
            market = self._markets.find(stream)
            if market is not None:
                market.note_acknowledged(time.time())
                market.synchronizer.stream_acknowledged(connection.connection_id, now)
                self._run_actions(market, now)

    def _drop(self, why: MessageDrop, text: str) -> None:
        if self.messages_dropped[why] == 0:
            said = printable(text)
            logger.warning("%s: message dropped (%s): %s; more of these are only counted", self.name, why.value, said)
        self.messages_dropped[why] += 1

    # markets

    def _add(self, market: LiveMarket, now: float) -> None:
        if market not in self._arriving:
            return  # an earlier call has added it
        self._arriving[market] += 1
        if self._loop.is_stopping:
            self._remove(market, now)
        elif not market.is_removed:
            self._take_in(market, now)
        self._arriving.pop(market, None)  # last: whatever raises before, the market is not forgotten

    def _take_in(self, market: LiveMarket, now: float) -> None:
        market.book.lease = self._lease
        self._markets.add(market)
        self._outages.added(market, now)
        market.binding.heard_at = now  # nothing yet; but its silence begins here, and its snapshot will be newer
        self._silence_due = min(self._silence_due, market.silence.next_due(now))
        for connection in self._connections.open_ones:
            self._subscribe(connection, market, now)
        self._run_actions(market, now)

    def _remove(self, market: LiveMarket, now: float) -> None:
        if self._markets.remove(market):
            for connection in self._connections:
                connection.requests.unsubscribe([market.stream])
                connection.reader.unbind(market.stream)
        self._end_market(market, now)
        if not self._markets:
            self._connections.close(now)

    def _end_market(self, market: LiveMarket, now: float) -> None:
        market.close()
        market.synchronizer.stop(now)
        self._run_actions(market, now)
        self._cancel_snapshot(market, None)

    def _resync(self, market: LiveMarket, cause: Cause, now: float, *, unsubscribe: bool) -> None:
        if market.is_removed:
            return
        market.synchronizer.request_resync(now, cause)
        if unsubscribe:
            for connection in self._connections.open_ones:
                self._resubscribe(connection, market, now)
        self._run_actions(market, now)

    def _refresh(self, market: LiveMarket, now: float) -> None:
        if not market.is_removed:
            market.synchronizer.request_refresh(now)
            self._run_actions(market, now)

    def _check_silence(self, now: float) -> None:
        """Probe markets that are silent, and resubscribe those that a probe showed to be cut off."""
        for market in list(self._markets):
            if market.synchronizer.state is not SyncState.SYNCHRONIZED:
                continue
            if market.silence.is_dead(market.heard_at, now):
                logger.warning("%s: the exchange has moved on with %s; it is resubscribed", self.name, market.market)
                self._resync(market, Cause.SILENT, now, unsubscribe=True)
            elif market.silence.is_due(market.heard_at, now):
                market.silence.probe_requested(now)
                self._request_probe(market)
                self._expect_answer(now)

    def _expect_answer(self, now: float) -> None:
        """A request was made: check later that it was not lost."""
        self._requests_due = min(self._requests_due, now + self._timing.request_check_s)

    def _check_requests(self, now: float) -> None:
        """Request again what is awaited and was lost, whoever lost it. The end of a market cancels its requests."""
        self._requests_due = math.inf
        for market in list(self._markets):
            awaited = market.synchronizer.requests.awaited
            if awaited is not None:
                self._expect_answer(now)
                if market.is_lost(awaited.epoch, is_held=self._holds_request(market, awaited.epoch)):
                    market.last_error = f"the request for the snapshot of {market.market} was lost; it is repeated"
                    logger.warning("%s: %s", self.name, market.last_error)
                    market.synchronizer.snapshot_failed(awaited.epoch, now)
                    self._run_actions(market, now)
            if market.silence.is_probing:
                self._expect_answer(now)
                if market.is_lost(None, is_held=self._holds_request(market, None)):
                    self.probe_answered(market, ProbeAnswer(problem=f"a probe of {market.market} was lost"), now)

    def _run_actions(self, market: LiveMarket, now: float) -> None:
        """Do what a market's synchronizer requests, and note when it wants to be ticked again."""
        market.binding.is_direct = not market.synchronizer.wants_every_update
        market.binding.is_redundant = market.synchronizer.has_several_streams
        actions = market.synchronizer.drain()
        cancelled = {action.epoch for action in actions if isinstance(action, CancelSnapshot)}
        for action in actions:
            if not isinstance(action, RequestSnapshot) or action.epoch not in cancelled:
                self._run_action(market, action, now)
        if actions and market.synchronizer.requests.awaited is not None:
            self._expect_answer(now)
        self._markets.plan(market, now)
        self._loop.tick_due = now

    def _run_action(self, market: LiveMarket, action: Action, now: float) -> None:
        match action:
            case RequestSnapshot():
                self._request_snapshot(market, action)
            case CancelSnapshot():
                self._cancel_snapshot(market, action.epoch)
            case StateChanged():
                self._outages.note(market, action, now)
                market.note_state(action)
            case Refreshed():
                market.note_audit(action)

    # answers of the downloader, posted to the group's thread

    def snapshot_begins(self, market: LiveMarket, epoch: int, now: float) -> None:
        """Note that a download has begun. In the group's thread."""
        if not market.is_removed:
            market.synchronizer.snapshot_begins(epoch, now)
            self._run_actions(market, now)

    def snapshot_received(
        self,
        market: LiveMarket,
        epoch: int,
        body: Payload | ReadSnapshot,
        limit: int | None,
        received_time_ns: int | None,
        now: float,
    ) -> None:
        """Give a snapshot to its synchronizer. In the group's thread."""
        if not market.is_removed:
            market.synchronizer.snapshot_received(epoch, body, limit, now, received_time_ns=received_time_ns)
            self._run_actions(market, now)
            market.wake_waiters()  # a refresh may have made a book readable that had left its horizon

    def snapshot_failed(
        self, market: LiveMarket, epoch: int, permanent: Cause | None, retry_at: float | None, text: str, now: float
    ) -> None:
        """Note why there is no snapshot. In the group's thread."""
        if not market.is_removed:
            market.last_error = text
            market.synchronizer.snapshot_failed(epoch, now, permanent=permanent, retry_at=retry_at)
            self._run_actions(market, now)

    def probe_answered(self, market: LiveMarket, answer: ProbeAnswer, now: float) -> None:
        """Note what a probe of a silent market found. In the group's thread."""
        if market.is_removed:
            return
        contradiction = market.probe_answered(answer, now)
        if contradiction is not None:
            self._contradict(market, contradiction, now)
        self._silence_due = min(self._silence_due, market.silence.next_due(market.heard_at))
        for handover in self._connections.handovers:
            handover.probe_answered(market, answer.last_update_id, now)

    def _contradict(self, market: LiveMarket, evidence: Evidence, now: float) -> None:
        """A probe contradicts the book of a silent market: confirm it at once, or synchronize the market again."""
        if market.silence.contradictions < CONTRADICTIONS_MAX:
            market.silence.confirm(now)
            self._request_probe(market)
            self._expect_answer(now)
            return
        market.silence.contradictions = 0
        said = evidence.name.lower().replace("_", " ")
        logger.warning("%s: probes contradict the book of %s (%s); it is resubscribed", self.name, market.market, said)
        self._resync(market, CONTRADICTIONS[evidence], now, unsubscribe=True)
