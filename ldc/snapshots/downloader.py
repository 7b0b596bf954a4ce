"""Downloads snapshots for all managers of a process: a worker pool around the decisions of `ldc.snapshots.queue`.

Rule 1: no decision here. The queue decides what is next and when; `ldc.snapshots.reply` decides what an answer means.
Rule 2: every download has one deadline for all of it: address, proxy, TLS, headers, body. At the deadline the failure
    is reported, whatever the worker is doing.
Rule 3: no redirects, no cookies; certificates are verified, bodies are bounded.
Rule 4: nothing is reported under a lock. A report that raises is logged, and the other requests continue.

Theory of operation. A *client* is one manager's access. The process has one `SnapshotDownloader` (`shared_downloader`),
because all its managers share the weight of one IP address. It has four workers and a watchdog for deadlines. The first
request starts them, and the close of the last client stops them. They are daemons: a worker that hangs in the resolver
delays neither a stop nor the interpreter's exit. It holds no lock, and ends when the resolver returns.

Any of these threads reports the news of a request: `SnapshotBegins` right before it is sent, so that updates are kept
from then on, and afterwards `SnapshotBody` or `SnapshotFailure`. A cancelled request gets no more news, except a report
that runs while `cancel` is called. The epoch identifies the request of an answer.

`ldc.network` decides which proxy leads to the exchange, whose certificates are trusted, and which address is tried.
"""

import functools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import requests

from ldc.consume.log import logger
from ldc.network.proxy import ProxyRules, address_key
from ldc.network.text import described
from ldc.snapshots.queue import QueueClient, RequestKey, SnapshotQueue, SnapshotRequest, Ticket
from ldc.snapshots.reply import (
    BODY_BYTES_MAX,
    NO_HEADERS,
    FailureKind,
    SnapshotBody,
    SnapshotFailure,
    failure,
    judge_reply,
)
from ldc.snapshots.shared_budget import RETRY_S, SharedBudget
from ldc.snapshots.sockets import KeptConnections
from ldc.snapshots.worker import Download, Worker
from ldc.sync.actions import Purpose
from ldc.venues import Venue

WORKERS = 4
"""Downloads at a time."""

DOWNLOAD_S_MAX = 10.0
"""Seconds: the deadline of a download, which then fails. The exchange itself gives up after 10 s (-1007)."""

CONNECT_S_MAX = 5.0
"""Seconds of them that one TCP connect may take."""

CLOSE_S_MAX = 0.5
"""Seconds that closing the last client waits for the threads. A thread that is still running then ends later."""


_SHARED_FAULT = "The shared budget in %s failed in an unforeseen way."

_WATCHDOG = "ldc-snapshot-watchdog"


class SnapshotBegins(NamedTuple):
    """The request is about to be sent."""

    began: float
    """A time of the downloader's clock."""


SnapshotReport = Callable[[SnapshotRequest, SnapshotBegins | SnapshotBody | SnapshotFailure], None]
"""A client's callback. The downloader's threads call it, so it must return soon: post the news to your own thread."""


@dataclass(slots=True, eq=False)
class _WorkerPool:
    """Worker and watchdog threads; started by the first request, stopped when the last client closes."""

    threads: dict[str, threading.Thread] = field(default_factory=dict)
    """By name."""
    kept: KeptConnections = field(default_factory=KeptConnections)
    is_stopping: bool = False
    has_logged: bool = False
    """That a thread could not be started."""


class SnapshotClient:
    """One manager's access to the downloader. Made by `SnapshotDownloader.open`.

    Thread-safety: any thread may call any method.
    """

    def __init__(
        self,
        downloader: "SnapshotDownloader",
        queue_client: QueueClient,
        report: SnapshotReport,
        user_agent: str,
        proxies: ProxyRules,
    ) -> None:
        self._downloader = downloader
        self.queue_client = queue_client
        """Settings and counters, to read only."""
        self.report = report
        self.user_agent = user_agent
        self.proxies = proxies

    def request(
        self,
        market: str,
        epoch: int,
        purpose: Purpose | None,
        limit: int,
        *,
        owner: int = 0,
        due: float | None = None,
        need: float = 0.0,
    ) -> None:
        """Request a snapshot (purpose None: a probe). Replaces a waiting one of that market and owner.

        `limit` must be one that the venue honours. `due` is a time of the downloader's clock; None: at once.
        If no thread can be started now, the request waits; `holds` tries again.
        Raises ``ValueError`` for another limit, for a text that cannot be a market, and after `close`.
        """
        normalized = self.queue_client.venue.normalized_market(market)
        request = SnapshotRequest(normalized, epoch, purpose, limit, need=need, owner=owner)
        self._downloader._put(self, request if due is None else request._replace(due=due))

    def cancel(self, market: str, epoch: int | None = None, *, owner: int = 0) -> None:
        """Cancel the requests of a market's owner, or those of that epoch. Does nothing if there is none."""
        self._downloader._cancel(self, self.queue_client.venue.normalized_market(market), epoch, owner)

    def holds(self, market: str, epoch: int, *, owner: int = 0, is_probe: bool = False) -> bool:
        """Return whether that request waits or is in flight. If neither, its answer was reported, or never will be.

        Starts the threads that are missing and wakes the others, so that a request which waits is served.
        O(downloads in flight).
        """
        key = self.queue_client.venue.normalized_market(market), owner, is_probe
        return self._downloader._holds(self, key, epoch)

    def estimated_s(self, count: int, limit: int) -> float | None:
        """Return about how many seconds until `count` books can be read; None: not known yet, 0 after `close`.

        `limit`: the levels that books without a request yet will request.
        """
        downloader = self._downloader
        with downloader._lock:
            if self not in downloader._clients.values():
                return 0.0
            return downloader._queue.estimated_s(self.queue_client, count, limit, WORKERS, downloader._clock())

    def close(self) -> None:
        """Cancel all requests of this client and abort its downloads. Idempotent; returns within CLOSE_S_MAX."""
        self._downloader._close(self)


class SnapshotDownloader:
    """Downloads snapshots within the limits. Use `shared_downloader`: two downloaders would not share their limits.

    Thread-safety: any thread may call any method.
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
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        # For the workers: a download may begin. Always notify_all: a notify that an exception interrupts (Ctrl-C in the
        # caller's thread) can leave a waiter behind that nobody waits for, and the next notify would be spent on it.
        self._work = threading.Condition(self._lock)
        self._watch = threading.Condition(self._lock)  # for the watchdog: a deadline was added
        self._queue = SnapshotQueue(random.random)
        self._clients: dict[QueueClient, SnapshotClient] = {}
        self._downloads: dict[Ticket, Download] = {}
        self._workers: _WorkerPool | None = None

    def open(
        self,
        venue: Venue,
        report: SnapshotReport,
        *,
        restful_base_uri: str | None = None,
        proxies: ProxyRules | None = None,
        weight_share: float = 0.8,
        init_interval_s: float | None = None,
        init_time_window_s: float | None = None,
        user_agent: str = "binance-local-depth-cache",
        weight_pool: str | None = None,
        shared_folder: Path | None = None,
    ) -> SnapshotClient:
        """Return a new client. No network I/O.

        Raises ``ValueError`` for settings that make no sense, and for a proxy of the environment that cannot be one.

        Args:
            venue: the exchange.
            report: is called with the news of each request.
            restful_base_uri: another address than the venue's first.
            proxies: which proxy leads to which host; None: what the environment says.
            weight_share: part of the venue's request weight that all clients may use together.
            init_interval_s: minimum seconds between two downloads of this client, probes included.
            init_time_window_s: seconds in which a market gets at most one download, probes included.
            user_agent: the User-Agent of the requests.
            weight_pool: names the IP address that the exchange sees; None: the proxy does, or this machine.
            shared_folder: where other processes share the budget (`ldc.snapshots.shared_budget`); None: not shared.
        """
        proxies = proxies or ProxyRules()
        address = address_key(proxies.for_url(venue.snapshot_url(restful_base_uri)), weight_pool)
        with self._lock:
            queue_client = self._queue.join(
                venue,
                self._clock(),
                restful_base_uri=restful_base_uri,
                address=address,
                weight_share=weight_share,
                init_interval_s=init_interval_s,
                init_time_window_s=init_time_window_s,
                make_shared_budget=None if shared_folder is None else functools.partial(SharedBudget, shared_folder),
            )
            client = self._clients[queue_client] = SnapshotClient(self, queue_client, report, user_agent, proxies)
            return client

    # -- called by the clients

    def _put(self, client: SnapshotClient, request: SnapshotRequest) -> None:
        with self._lock:
            self._queue.put(client.queue_client, request)
            self._start_missing_threads()
            self._work.notify_all()

    def _cancel(self, client: SnapshotClient, market: str, epoch: int | None, owner: int) -> None:
        with self._lock:
            self._queue.cancel(client.queue_client, market, epoch, owner)
            self._work.notify_all()  # a request that waited behind it may begin earlier

    def _holds(self, client: SnapshotClient, key: RequestKey, epoch: int) -> bool:
        with self._lock:
            if client.queue_client in self._clients:
                self._start_missing_threads()
                self._work.notify_all()
            return self._queue.holds(client.queue_client, key, epoch)

    def _close(self, client: SnapshotClient) -> None:
        workers = None
        with self._lock:
            aborted = self._queue.leave(client.queue_client)
            for ticket in aborted:
                self._abort(ticket)
            self._clients.pop(client.queue_client, None)
            self._work.notify_all()  # as in `_cancel`, for the requests of other clients
            if not self._clients and self._workers is not None:
                workers, self._workers = self._workers, None
                workers.is_stopping = True
                self._work.notify_all()
                self._watch.notify_all()
        for ticket in aborted:
            self._settle_shared(ticket)
        if workers is not None:
            give_up_at = time.monotonic() + CLOSE_S_MAX
            for thread in workers.threads.values():
                if thread is not threading.current_thread():
                    thread.join(max(0.0, give_up_at - time.monotonic()))

    def _abort(self, ticket: Ticket) -> None:
        download = self._downloads.pop(ticket, None)
        if download is not None:
            download.sockets.end()
        headers = NO_HEADERS if download is None else download.headers
        result = failure(ticket.request.market, FailureKind.UNREACHABLE, "the download was aborted")
        self._queue.settle(ticket, result, headers, self._clock())

    # -- the threads

    def _start_missing_threads(self) -> None:
        """Start what does not run of the watchdog and the workers. Under the lock.

        If the system has no more threads, the others do the work. The next request and the next `holds` try again.
        """
        if self._workers is None:
            self._workers = _WorkerPool()
        pool = self._workers
        # The watchdog first: no download begins that nobody ends at its deadline.
        for name in (_WATCHDOG, *(f"ldc-snapshot-{number}" for number in range(WORKERS))):
            thread = pool.threads.get(name)
            if thread is not None and thread.is_alive():
                continue
            if name == _WATCHDOG:
                thread = threading.Thread(target=self._run_watchdog, args=(pool,), name=name, daemon=True)
            else:
                worker = Worker(self._connect_s_max, self._download_s_max, self._body_bytes_max, pool.kept)
                thread = threading.Thread(target=self._run_worker, args=(pool, worker), name=name, daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:  # the system has no more threads
                if not pool.has_logged:
                    pool.has_logged = True
                    logger.warning("A thread for snapshots cannot be started: %s; ldc tries again", described(error))
                return
            pool.threads[name] = thread

    def _run_worker(self, workers: _WorkerPool, worker: Worker) -> None:
        while True:
            try:
                ticket = self._next_ticket(workers)
                if ticket is None:
                    break
                self._serve(worker, ticket)
            except BaseException:  # a thread's top
                logger.exception("A snapshot worker failed in an unforeseen way; it continues.")
                with self._lock:
                    self._work.wait(RETRY_S)  # a fault that lasts must not use up the processor
        worker.close()

    def _next_ticket(self, workers: _WorkerPool) -> Ticket | None:
        """Wait for a download that may begin; None: the pool is stopping. No lock is held while a file is touched."""
        while True:
            with self._lock:
                ticket = self._wait_for_ticket(workers)
            if ticket is None or ticket.shared_budget is None:
                return ticket
            not_before, key = _take_shared(ticket, self._clock())
            with self._lock:
                if self._queue.confirm(ticket, not_before, key, self._clock()):
                    return ticket
                self._work.notify_all()  # another worker may continue, even one of the next pool while this one stops
            if key:
                ticket.shared_budget.give_back(key, self._clock())

    def _wait_for_ticket(self, workers: _WorkerPool) -> Ticket | None:
        while not workers.is_stopping:
            now = self._clock()
            ticket = self._queue.take(now)
            if ticket is not None:
                return ticket
            self._work.wait(min(self._queue.next_time(now) - now, threading.TIMEOUT_MAX))
        return None

    def _serve(self, worker: Worker, ticket: Ticket) -> None:
        """Download, settle the ticket, and report: whatever is raised in between."""
        market = ticket.request.market
        download: Download | None = None
        result: SnapshotBody | SnapshotFailure
        try:
            with self._lock:
                if ticket.is_settled:  # its client has closed
                    return
                download = self._begin(ticket, worker)
            self._report(ticket, download.report, SnapshotBegins(ticket.began))
            result = worker.fetch(download)
        except BaseException as error:  # a thread's top: every request has an answer
            logger.exception("The download of the snapshot of %s failed in an unforeseen way.", market)
            result = failure(market, FailureKind.UNREACHABLE, f"unforeseen {type(error).__name__}")
        with self._lock:
            self._downloads.pop(ticket, None)
            client = self._clients.get(ticket.client)
            headers = NO_HEADERS if download is None else download.headers
            news = self._queue.settle(ticket, result, headers, self._clock())
        if news is not None and client is not None:
            self._report(ticket, client.report, news)
        self._settle_shared(ticket)  # last, because no answer waits for a file

    def _begin(self, ticket: Ticket, worker: Worker) -> Download:
        """Note a download in flight. Under the lock."""
        worker.sockets.begin_download()
        client, deadline = self._clients[ticket.client], ticket.began + self._download_s_max
        may_repeat = functools.partial(self._may_repeat, ticket)
        sender = client.report, client.user_agent, client.proxies
        download = Download(ticket, *sender, worker.sockets, deadline, may_repeat)
        self._downloads[ticket] = download
        self._work.notify_all()  # another worker may find one more
        self._watch.notify()
        return download

    def _may_repeat(self, ticket: Ticket) -> bool:
        """Return whether a worker may send a request once more; see `SnapshotQueue.may_repeat`."""
        now = self._clock()
        with self._lock:
            if not self._queue.may_repeat(ticket, now):
                return False
        if ticket.shared_budget is None:
            return True
        _, ticket.repeat_key = _take_shared(ticket, now)
        return bool(ticket.repeat_key)

    def _run_watchdog(self, workers: _WorkerPool) -> None:
        while not workers.is_stopping:
            try:
                self._end_late_downloads(workers)
            except BaseException:  # a thread's top
                logger.exception("The snapshot watchdog failed in an unforeseen way; it continues.")
                with self._lock:
                    self._watch.wait(RETRY_S)

    def _end_late_downloads(self, workers: _WorkerPool) -> None:
        """Wait for the next deadline; settle and report one download that is late."""
        with self._lock:
            if workers.is_stopping:
                return
            now = self._clock()
            download = min(self._downloads.values(), key=lambda each: each.deadline, default=None)
            if download is None or download.deadline > now:
                self._watch.wait(None if download is None else download.deadline - now)
                return
            download.deadline = now + RETRY_S  # should the rest fail, the others that are late come first
            news = self._time_out(download, now)
            del self._downloads[download.ticket]
        if news is not None:  # its worker settles it in the shared budget: here a file would delay others
            self._report(download.ticket, download.report, news)

    def _time_out(self, download: Download, now: float) -> SnapshotBody | SnapshotFailure | None:
        try:
            download.sockets.end()
        except BaseException:  # a thread's top: the socket is of no account beside the answer
            logger.exception("The sockets of a late download could not be ended.")
        market, status = download.ticket.request.market, download.status
        result: SnapshotBody | SnapshotFailure
        if status is None or status == requests.codes.ok:
            way = "" if download.proxy is None else f" through the proxy {download.proxy}"
            what = f"it was not complete after {self._download_s_max:g} s{way}"
            result = failure(market, FailureKind.TIMED_OUT, what, status=status)
        else:  # the status of a refusal counts even without its body
            result, download.headers = judge_reply(market, status, download.headers, b"", time.time_ns())
        return self._queue.settle(download.ticket, result, download.headers, now)

    def _settle_shared(self, ticket: Ticket) -> None:
        """Settle a download in the shared budget. Call it without the lock, because that is a file."""
        for key in (ticket.shared_key, ticket.repeat_key):
            if ticket.shared_budget is not None and key:
                try:
                    ticket.shared_budget.settle(key, ticket.paused_until, self._clock())
                except BaseException:  # a thread's top: the entry expires by itself
                    logger.exception(_SHARED_FAULT, ticket.shared_budget.folder)

    def _report(
        self, ticket: Ticket, report: SnapshotReport, news: SnapshotBegins | SnapshotBody | SnapshotFailure
    ) -> None:
        if not isinstance(news, SnapshotBegins):
            for line in ticket.lines:
                logger.log(line.level, "%s", line.text)
        try:
            report(ticket.request, news)
        except BaseException:  # a thread's top: whatever a report does, the other requests continue
            logger.exception("The report about the snapshot of %s raised.", ticket.request.market)


def _take_shared(ticket: Ticket, now: float) -> tuple[float, str]:
    """Spend a ticket's weight in the shared budget; see `SharedBudget.take`."""
    assert ticket.shared_budget is not None
    try:
        return ticket.shared_budget.take(ticket.weight, ticket.allowed, now)
    except BaseException:  # a thread's top: its weight pool must continue some time
        logger.exception(_SHARED_FAULT, ticket.shared_budget.folder)
        return now + RETRY_S, ""


_shared: list[SnapshotDownloader] = []
_shared_lock = threading.Lock()


def shared_downloader() -> SnapshotDownloader:
    """Return the downloader of this process."""
    with _shared_lock:
        if not _shared:
            _shared.append(SnapshotDownloader())
        return _shared[0]


def _reset_after_fork() -> None:
    """Reset in the child: it has no threads, a held lock is never released, and the connections are the parent's."""
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    for downloader in _shared:
        downloader._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
