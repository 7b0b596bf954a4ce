"""Downloads snapshots for all managers of a process: four threads around the decisions of `ldc.snapshots.queue`.

Rule 1: no decision here. What is next and when says the queue, what an answer means says `ldc.snapshots.reply`.
Rule 2: every download has one deadline for all of it: address, proxy, TLS, headers, body. At the deadline its requester
    is told, whatever the thread is doing.
Rule 3: nothing is followed, nothing is trusted: no redirects, no cookies; certificates are verified, bodies bounded.
Rule 4: nothing is reported under a lock, and a report that raises hurts nobody else.

Theory of operation. A *client* is one manager's access. The process has one `SnapshotDownloader` (`shared_downloader`),
because an IP address has one weight, however many managers there are. Its threads, four workers and a watcher of
deadlines, begin with the first request and end with the last client. They are daemons: one that hangs in the resolver
delays neither a stop nor the interpreter's exit; it holds nothing, and ends when the resolver does.

Of a request the client is told, in this order, from any of these threads: `SnapshotBegins` right before it is sent, so
that updates can be kept from then on; then `SnapshotBody` or `SnapshotFailure`. Of a cancelled request nothing more is
told, but for a report that is under way while `cancel` is called; so tell the answers apart by the epoch.

An environment's proxy variables and certificate bundles are respected, as requests does it.
"""

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests

from ldc.snapshots.queue import Requester, SnapshotQueue, SnapshotRequest, Ticket
from ldc.snapshots.reply import (
    BODY_BYTES_MAX,
    FailureKind,
    SnapshotBody,
    SnapshotFailure,
    failure,
    judge_reply,
)
from ldc.snapshots.shared_budget import LEDGER_PAUSE_S, SharedLedger
from ldc.snapshots.worker import Download, Worker
from ldc.sync.actions import Purpose
from ldc.venues import Venue

__all__ = [
    "CLOSE_S_MAX",
    "CONNECT_S_MAX",
    "DOWNLOAD_S_MAX",
    "WORKERS",
    "FailureKind",
    "SnapshotBegins",
    "SnapshotBody",
    "SnapshotClient",
    "SnapshotDownloader",
    "SnapshotFailure",
    "SnapshotReport",
    "SnapshotRequest",
    "shared_downloader",
]

WORKERS = 4
"""Downloads at a time."""

DOWNLOAD_S_MAX = 10.0
"""A download that takes longer has failed: the exchange itself gives up after 10 s (-1007)."""

CONNECT_S_MAX = 5.0
"""The part of it that one TCP connect may take."""

CLOSE_S_MAX = 0.5
"""Closing the last client waits at most so long for the threads to end; one that does not is left to itself."""

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
logger = logging.getLogger("binance_local_depth_cache")


class SnapshotBegins(NamedTuple):
    """The request is about to be sent."""

    began: float
    """By the clock of the downloader."""


SnapshotReport = Callable[[SnapshotRequest, SnapshotBegins | SnapshotBody | SnapshotFailure], None]
"""What a client gives to be told. Called by the downloader's threads; must return soon, so hand over to your own."""


def _checked_proxy(proxy: str | None) -> str | None:
    if proxy is None:
        return None
    try:
        parts = urlsplit(proxy)
        is_one = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        # The refused text is not repeated: it may hold a password.
        raise ValueError(f"a proxy is scheme://[user:password@]host[:port] with one of {', '.join(_PROXY_SCHEMES)}")
    return proxy


@dataclass(slots=True, eq=False)
class _WorkerPool:
    """The threads from the first request to the last client's end."""

    threads: list[threading.Thread] = field(default_factory=list)
    is_dismissed: bool = False


class SnapshotClient:
    """One manager's access to the downloader. Made by `SnapshotDownloader.open`.

    Thread-safety: any thread may call anything.
    """

    def __init__(
        self, downloader: "SnapshotDownloader", requester: Requester, report: SnapshotReport, user_agent: str
    ) -> None:
        self._downloader = downloader
        self.requester = requester
        """Settings and counters, to look at."""
        self.report = report
        self.user_agent = user_agent

    def request(
        self,
        market: str,
        epoch: int,
        purpose: Purpose | None,
        limit: int,
        *,
        due: float | None = None,
        need: float = 0.0,
    ) -> None:
        """Ask for a snapshot (purpose None: a probe). Replaces one of that market that waits.

        `limit` must be one that the venue honours; `due` is a time of the downloader's clock, None is at once.
        Raises ``ValueError`` for another limit, for what cannot be a market, and after `close`.
        """
        normalized = self.requester.venue.normalized_market(market)
        request = SnapshotRequest(normalized, epoch, purpose, limit, need=need)
        self._downloader._put(self, request if due is None else request._replace(due=due))

    def cancel(self, market: str, epoch: int | None = None) -> None:
        """Forget the requests of a market, or the one of that epoch. One that is not there is nothing to forget."""
        self._downloader._cancel(self, self.requester.venue.normalized_market(market), epoch)

    def estimated_s(self, count: int, limit: int) -> float | None:
        """Return about how long it takes until so many books can be read, or None: nobody knows yet.

        0 after `close`. `limit`: the levels that those will ask for that have not asked yet.
        """
        downloader = self._downloader
        with downloader._lock:
            if self not in downloader._clients.values():
                return 0.0
            return downloader._queue.estimated_s(self.requester, count, limit, WORKERS, downloader._clock())

    def close(self) -> None:
        """End all requests of this client, cutting off downloads under way. Idempotent; returns within CLOSE_S_MAX."""
        self._downloader._close(self)


class SnapshotDownloader:
    """Downloads snapshots under the limits. Use `shared_downloader`; more than one would not know of each other.

    Thread-safety: any thread may call anything.
    """

    def __init__(
        self,
        *,
        download_s_max: float = DOWNLOAD_S_MAX,
        connect_s_max: float = CONNECT_S_MAX,
        body_bytes_max: int = BODY_BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._download_s_max = download_s_max
        self._connect_s_max = connect_s_max
        self._body_bytes_max = body_bytes_max
        self._clock = clock
        self._start_anew()

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # for the workers: there may be something to download
        self._watch = threading.Condition(self._lock)  # for the watcher: there is a deadline
        self._queue = SnapshotQueue(random.random)
        self._clients: dict[Requester, SnapshotClient] = {}
        self._flights: dict[Ticket, Download] = {}
        self._crew: _WorkerPool | None = None

    def open(
        self,
        venue: Venue,
        report: SnapshotReport,
        *,
        restful_base_uri: str | None = None,
        proxy: str | None = None,
        weight_share: float = 0.8,
        init_interval_s: float | None = None,
        init_time_window_s: float | None = None,
        user_agent: str = "binance-local-depth-cache",
        shared_folder: Path | None = None,
    ) -> SnapshotClient:
        """Return a new client. Raises ``ValueError`` for settings that make no sense. No network I/O.

        Args:
            venue: the exchange.
            report: is told what becomes of each request.
            restful_base_uri: another address than the venue's first.
            proxy: the URL of a proxy; SOCKS needs what requests needs for it.
            weight_share: the part of the venue's request weight that may be used, by all clients together.
            init_interval_s: at least so long between two downloads of this client, probes included.
            init_time_window_s: at most one download for a market in so long, probes included.
            user_agent: what requests say about who sends them.
            shared_folder: where other processes share the budget (`ldc.snapshots.shared_budget`); None: they do not.
        """
        with self._lock:
            requester = self._queue.join(
                venue,
                self._clock(),
                restful_base_uri=restful_base_uri,
                proxy=_checked_proxy(proxy),
                weight_share=weight_share,
                init_interval_s=init_interval_s,
                init_time_window_s=init_time_window_s,
                make_ledger=None if shared_folder is None else functools.partial(SharedLedger, shared_folder),
            )
            client = self._clients[requester] = SnapshotClient(self, requester, report, user_agent)
            return client

    # -- for the clients

    def _put(self, client: SnapshotClient, request: SnapshotRequest) -> None:
        with self._lock:
            self._queue.put(client.requester, request)
            if self._crew is None:
                self._crew = self._hire()
            self._work.notify()

    def _cancel(self, client: SnapshotClient, market: str, epoch: int | None) -> None:
        with self._lock:
            self._queue.cancel(client.requester, market, epoch)
            self._work.notify()  # what waited behind it need not wait as long

    def _close(self, client: SnapshotClient) -> None:
        crew = None
        with self._lock:
            cut_off = self._queue.leave(client.requester)
            for ticket in cut_off:
                self._cut_off(ticket)
            self._clients.pop(client.requester, None)
            self._work.notify()  # as in `_cancel`, for what others have asked for
            if not self._clients and self._crew is not None:
                crew, self._crew = self._crew, None
                crew.is_dismissed = True
                self._work.notify_all()
                self._watch.notify_all()
        for ticket in cut_off:
            self._tell_ledger(ticket)
        if crew is not None:
            give_up_at = time.monotonic() + CLOSE_S_MAX
            for thread in crew.threads:
                if thread is not threading.current_thread():
                    thread.join(max(0.0, give_up_at - time.monotonic()))

    def _cut_off(self, ticket: Ticket) -> None:
        flight = self._flights.pop(ticket)
        flight.sockets.end()
        nothing = failure(ticket.request.market, FailureKind.UNREACHABLE, "the download was cut off")
        self._queue.settle(ticket, nothing, flight.headers, self._clock())

    # -- the threads

    def _hire(self) -> _WorkerPool:
        crew = _WorkerPool()
        crew.threads.append(threading.Thread(target=self._watch_deadlines, args=(crew,), name="ldc-snapshot-watcher"))
        for number in range(WORKERS):
            worker = Worker(self._connect_s_max, self._download_s_max, self._body_bytes_max)
            name = f"ldc-snapshot-{number}"
            crew.threads.append(threading.Thread(target=self._work_off, args=(crew, worker), name=name))
        try:
            for thread in crew.threads:
                thread.daemon = True
                thread.start()
        except RuntimeError:  # no more threads to be had
            crew.is_dismissed = True
            raise
        return crew

    def _work_off(self, crew: _WorkerPool, worker: Worker) -> None:
        """Be a worker."""
        while (flight := self._next_flight(crew, worker)) is not None:
            request = flight.ticket.request
            self._tell(flight, SnapshotBegins(flight.ticket.began))
            try:
                result = worker.download(flight)
            except Exception as error:  # a bug of ours, but the next download may still succeed
                logger.exception("The download of the snapshot of %s failed in an unforeseen way.", request.market)
                result = failure(request.market, FailureKind.UNREACHABLE, f"unforeseen {type(error).__name__}")
            with self._lock:
                self._flights.pop(flight.ticket, None)
                told = self._queue.settle(flight.ticket, result, flight.headers, self._clock())
            self._tell_ledger(flight.ticket)
            if told is not None:
                self._tell(flight, told)
        worker.close()

    def _next_flight(self, crew: _WorkerPool, worker: Worker) -> Download | None:
        """Wait for something to download. What other processes share is asked without the lock: it is a file."""
        while True:
            with self._lock:
                ticket = self._wait_for_ticket(crew)
                if ticket is None or ticket.ledger is None:
                    return None if ticket is None else self._begin(ticket, worker)
            not_before, key = _ask_ledger(ticket, self._clock())
            with self._lock:
                if self._queue.confirm(ticket, not_before, key, self._clock()):
                    return self._begin(ticket, worker)
                self._work.notify()  # others may go on in its lane; they may be of the next crew, and this one not
            if key:
                ticket.ledger.give_back(key, self._clock())

    def _wait_for_ticket(self, crew: _WorkerPool) -> Ticket | None:
        while not crew.is_dismissed:
            now = self._clock()
            ticket = self._queue.take(now)
            if ticket is not None:
                return ticket
            self._work.wait(min(self._queue.next_time(now) - now, threading.TIMEOUT_MAX))
        return None

    def _begin(self, ticket: Ticket, worker: Worker) -> Download:
        worker.sockets.begin_download()
        client, deadline = self._clients[ticket.requester], ticket.began + self._download_s_max
        flight = self._flights[ticket] = Download(ticket, client.report, client.user_agent, worker.sockets, deadline)
        self._work.notify()  # there may be more, for another worker
        self._watch.notify()
        return flight

    def _watch_deadlines(self, crew: _WorkerPool) -> None:
        """Be the watcher."""
        while True:
            with self._lock:
                if crew.is_dismissed:
                    return
                now = self._clock()
                late = [flight for flight in self._flights.values() if flight.deadline <= now]
                told = [(flight, self._time_out(flight, now)) for flight in late]
                if not late:
                    first = min((flight.deadline for flight in self._flights.values()), default=None)
                    self._watch.wait(None if first is None else first - now)
            for flight, result in told:
                self._tell_ledger(flight.ticket)
                if result is not None:
                    self._tell(flight, result)

    def _time_out(self, flight: Download, now: float) -> SnapshotBody | SnapshotFailure | None:
        flight.sockets.end()
        del self._flights[flight.ticket]
        market, status = flight.ticket.request.market, flight.status
        result: SnapshotBody | SnapshotFailure
        if status is None or status == requests.codes.ok:
            what = f"it was not complete after {self._download_s_max:g} s"
            result = failure(market, FailureKind.TIMED_OUT, what, status=status)
        else:  # what a refusal means must not be lost with its body
            result, flight.headers = judge_reply(market, status, flight.headers, b"", time.time_ns())
        return self._queue.settle(flight.ticket, result, flight.headers, now)

    def _tell_ledger(self, ticket: Ticket) -> None:
        """Tell the other processes what came of a download. Without the lock."""
        if ticket.ledger is not None and ticket.ledger_key:
            ticket.ledger.settle(ticket.ledger_key, ticket.paused_until, self._clock())

    def _tell(self, flight: Download, news: SnapshotBegins | SnapshotBody | SnapshotFailure) -> None:
        try:
            flight.report(flight.ticket.request, news)
        except Exception:  # whatever a report does, the other requests go on
            logger.exception("The report about the snapshot of %s raised.", flight.ticket.request.market)


def _ask_ledger(ticket: Ticket, now: float) -> tuple[float, str]:
    """Spend a ticket's weight where all processes do: `Ledger.take`."""
    assert ticket.ledger is not None
    try:
        return ticket.ledger.take(ticket.weight, ticket.allowed, now)
    except Exception:  # a bug of ours; but its lane must go on some time
        logger.exception("The shared budget in %s failed in an unforeseen way.", ticket.ledger.folder)
        return now + LEDGER_PAUSE_S, ""


_shared: list[SnapshotDownloader] = []
_shared_lock = threading.Lock()


def shared_downloader() -> SnapshotDownloader:
    """Return the downloader of this process."""
    with _shared_lock:
        if not _shared:
            _shared.append(SnapshotDownloader())
        return _shared[0]


def _begin_after_fork() -> None:
    """In the child there are no threads, locks may be held by nobody, and the connections are the parent's."""
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    for downloader in _shared:
        downloader._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_after_fork)
