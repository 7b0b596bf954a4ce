"""The downloader as a whole: one budget for a process, cancelling, closing in any state, no leaks."""

import collections
import gc
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_kit import eventually
from log_kit import logged
from scripted_server import ScriptedServer, Talk, always, in_turn, once, reply
from snapshot_kit import (
    LONG_S,
    SPOT,
    STALLS,
    Client,
    Clock,
    Kit,
    downloader_threads,
    every_stall,
    made_kit,
    wait_for_the_end_of,
)

from ldc.snapshots.downloader import (
    WORKERS,
    SnapshotBegins,
    SnapshotBody,
    SnapshotDownloader,
    SnapshotRequest,
    shared_downloader,
)
from ldc.snapshots.reply import FailureKind, SnapshotFailure
from ldc.snapshots.shared_budget import SharedBudget
from ldc.sync.actions import Purpose


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with made_kit(tmp_path, monkeypatch) as kit:
        yield kit


# -- limits


def test_retry_after_is_obeyed_to_the_second(kit):
    clock = Clock()
    server = kit.serve(in_turn(reply(b"", "429 Too Many Requests", Retry_After=17), reply()))
    client = kit.client_of(server.base_uri, clock=clock)
    failed = client.failure()
    assert (failed.kind, failed.retry_at) == (FailureKind.RATE_LIMITED, 1017.0)
    other_venue = kit.client_of(kit.serve(always(reply())).base_uri, downloader=client.downloader)

    clock.now = 1016.999
    client.ask()
    assert isinstance(other_venue.get(), SnapshotBody)  # the workers have checked the queue, and sent nothing
    assert len(server.heads) == 1

    clock.now = 1017.0
    client.ask("ETHUSDT")
    assert isinstance(client.result(), SnapshotBody)
    assert isinstance(client.result(), SnapshotBody)


def test_the_clients_of_a_process_share_the_weight_of_their_address(kit):
    clock = Clock()
    server = kit.serve(always(reply()))
    poor = replace(SPOT, weight_per_minute=50)
    one = kit.client_of(server.base_uri, venue=poor, weight_share=1.0, clock=clock)
    other = kit.client_of(server.base_uri, venue=poor, weight_share=1.0, downloader=one.downloader)
    elsewhere = kit.client_of(kit.serve(always(reply())).base_uri, downloader=one.downloader)
    for number in range(7):
        one.ask(f"M{number}")
        other.ask(f"M{number}")
    for client, count in ((one, 5), (other, 5)):
        assert all(isinstance(client.result(), SnapshotBody) for _ in range(count))
    assert isinstance(elsewhere.get(), SnapshotBody)
    assert len(server.heads) == 10

    clock.now += 60
    one.ask("LAST")
    results = [client.result() for client, count in ((one, 3), (other, 2)) for _ in range(count)]
    assert all(isinstance(result, SnapshotBody) for result in results)
    assert len(server.heads) == 15


def test_all_workers_start_when_several_downloads_become_possible_at_once(kit):
    clock = Clock()
    together = threading.Barrier(4)

    def script(talk: Talk) -> None:
        while talk.read_head() is not None:
            together.wait(LONG_S)
            talk.send(reply())

    client = kit.client_of(kit.serve(script).base_uri, clock=clock)
    for number in range(3):
        client.ask(f"M{number}", due=2000.0)
    clock.now = 2000.0
    client.ask("LAST")
    assert all(isinstance(client.result(), SnapshotBody) for _ in range(4))


def test_there_is_one_downloader_in_a_process():
    assert shared_downloader() is shared_downloader()


# -- cancelling, closing


def test_a_cancelled_request_that_waits_is_never_sent(kit):
    clock = Clock()
    server = kit.serve(always(reply()))
    client = kit.client_of(server.base_uri, clock=clock)
    client.ask("BTCUSDT", epoch=5, due=2000.0)
    client.ask("ETHUSDT", epoch=6, due=2000.0)
    client.client.cancel("btcusdt", 4)
    client.client.cancel("btcusdt", 5)
    clock.now = 2000.0
    client.ask("BNBUSDT")
    assert {client.hear()[0].market for _ in range(4)} == {"ETHUSDT", "BNBUSDT"}
    assert len(server.heads) == 2


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_request_that_waits_behind_another_begins_at_once_when_that_is_cancelled(kit, end):
    """A regression: it waited until the budget had room for the cancelled one, up to a minute."""
    clock = Clock()
    server = kit.serve(always(reply()))
    poor = replace(SPOT, weight_per_minute=50)
    cancelled = kit.client_of(server.base_uri, venue=poor, weight_share=1.0, clock=clock)
    stays = kit.client_of(server.base_uri, venue=poor, weight_share=1.0, downloader=cancelled.downloader)
    assert isinstance(stays.get(), SnapshotBody)
    cancelled.ask("ETHUSDT", limit=1000)  # the whole weight of a minute
    stays.ask("BNBUSDT", purpose=Purpose.DEEPEN)
    elsewhere = kit.client_of(kit.serve(always(reply())).base_uri, downloader=stays.downloader)
    for _ in range(4):  # the workers have checked the queue, and wait
        assert isinstance(elsewhere.get(), SnapshotBody)
    assert len(server.heads) == 1
    if end == "cancel":
        cancelled.client.cancel("ETHUSDT")
    else:
        cancelled.client.close()
    assert isinstance(stays.result(), SnapshotBody)
    assert "symbol=BNBUSDT" in server.heads[1]


def test_a_close_during_a_take_from_the_shared_budget_does_not_block_the_next_client(kit, monkeypatch, tmp_path):
    """The worker that takes is stopping. A regression: it ended without waking the workers that waited for it."""
    pytest.importorskip("filelock", reason="the extra shared-budget is not installed")
    take, asked, go_on = SharedBudget.take, threading.Event(), threading.Event()

    def slow_take(budget: SharedBudget, weight: int, allowed: int, now: float) -> tuple[float, str]:
        asked.set()
        assert go_on.wait(LONG_S)
        return take(budget, weight, allowed, now)

    server = kit.serve(always(reply()))
    first = kit.client_of(server.base_uri, shared_folder=tmp_path)
    assert isinstance(first.get(), SnapshotBody)  # its spent weight outlasts it
    monkeypatch.setattr(SharedBudget, "take", slow_take)
    first.ask()
    assert asked.wait(LONG_S)
    stopping = downloader_threads()
    first.client.close()
    then = kit.client_of(server.base_uri, shared_folder=tmp_path, downloader=first.downloader)
    then.ask("ETHUSDT")
    others = [thread for thread in downloader_threads() if thread not in stopping]
    assert len(others) == WORKERS + 1
    eventually(lambda: len(first.downloader._work._waiters) == WORKERS, "that all workers wait")
    go_on.set()
    assert isinstance(then.result(), SnapshotBody)
    assert len(server.heads) == 2


def test_the_answer_to_a_cancelled_request_is_not_reported(kit):
    is_cancelled = threading.Event()
    together = threading.Barrier(4)

    def script(talk: Talk) -> None:
        while (head := talk.read_head()) is not None:
            if "symbol=CANCELLED" in head:
                talk.server.is_held.set()
                is_cancelled.wait(LONG_S)
            else:
                together.wait(LONG_S)
            talk.send(reply())

    server = kit.serve(script)
    client = kit.client_of(server.base_uri)
    client.ask("CANCELLED")
    assert server.is_held.wait(LONG_S)
    client.client.cancel("CANCELLED")
    is_cancelled.set()
    for number in range(4):  # four at a time, so the cancelled one has ended
        client.ask(f"M{number}")
    results = [client.result() for _ in range(4)]
    assert all(isinstance(result, SnapshotBody) for result in results)
    assert client.reports.empty()
    assert (client.client.queue_client.started, client.client.queue_client.bodies) == (5, 4)


def test_a_connection_with_an_answer_that_is_not_read_to_its_end_is_hung_up(kit):
    server = kit.serve(once(reply(b"{", Content_Length=2**40), Talk.hold))
    client = kit.client_of(server.base_uri)
    assert client.failure().kind is FailureKind.TOO_LARGE
    assert server.was_hung_up.wait(LONG_S)


@every_stall
def test_closing_aborts_a_download_in_any_phase(kit, script):
    server = kit.serve(script)
    client = kit.client_of(server.base_uri, download_s_max=3600.0)
    client.ask()
    assert server.is_held.wait(LONG_S)
    threads = downloader_threads()
    client.client.close()
    wait_for_the_end_of(threads)
    assert server.was_hung_up.wait(LONG_S)
    assert [news for _, news in client.reports.queue if not isinstance(news, SnapshotBegins)] == []


def assert_closing_cuts_off(kit: Kit, server: ScriptedServer, base_uri: str, **settings: str) -> None:
    client = kit.client_of(base_uri, download_s_max=3600.0, **settings)
    client.ask()
    assert server.is_held.wait(LONG_S)
    threads = downloader_threads()
    client.client.close()
    wait_for_the_end_of(threads)
    assert server.was_hung_up.wait(LONG_S)


def test_closing_aborts_a_tls_handshake(kit):
    server = kit.serve(Talk.hold, "https")
    assert_closing_cuts_off(kit, server, server.base_uri)


def test_closing_aborts_a_body_under_tls(kit, monkeypatch, tmp_path):
    server = kit.serve(once(reply(b"{", Content_Length=100), Talk.hold), "https", with_tls=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "loopback.pem"))
    assert_closing_cuts_off(kit, server, server.base_uri)


@pytest.mark.parametrize("base_uri", ["http://exchange.invalid", "https://exchange.invalid"])
def test_closing_aborts_a_download_that_a_proxy_holds_up(kit, base_uri):
    proxy = kit.serve(once(b"HTTP/1.1 200 OK\r\n\r\n", Talk.hold))
    assert_closing_cuts_off(kit, proxy, base_uri, proxy=proxy.base_uri)


def test_a_connection_that_comes_about_after_the_end_is_not_used(kit, monkeypatch):
    resolve, asked, answers = socket.getaddrinfo, threading.Event(), threading.Event()

    def resolve_late(*arguments: Any) -> Any:
        asked.set()
        answers.wait(LONG_S)
        return resolve(*arguments)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_late)
    server = kit.serve(once(b"", Talk.hold))
    client = kit.client_of(server.base_uri, download_s_max=3600.0)
    client.ask()
    assert asked.wait(LONG_S)
    threads = downloader_threads()
    client.client.close()
    answers.set()
    wait_for_the_end_of(threads)


def test_a_connection_that_is_done_with_is_hung_up(kit):
    server = kit.serve(once(reply(Connection="close"), Talk.hold))
    client = kit.client_of(server.base_uri)
    assert isinstance(client.get(), SnapshotBody)
    assert server.was_hung_up.wait(LONG_S)


def test_closing_one_client_does_not_disturb_the_others(kit):
    server = kit.serve(always(reply()))
    stalling = kit.serve(STALLS["in the body"])
    stays = kit.client_of(server.base_uri)
    goes = kit.client_of(stalling.base_uri, downloader=stays.downloader)
    goes.ask()
    assert stalling.is_held.wait(LONG_S)
    goes.client.close()
    assert stalling.was_hung_up.wait(LONG_S)
    for _ in range(8):
        assert isinstance(stays.get(), SnapshotBody)


def test_closing_twice_is_harmless_and_a_closed_client_cannot_request(kit):
    client = kit.client_of(kit.serve(always(reply())).base_uri)
    client.get()
    client.client.close()
    client.client.close()
    with pytest.raises(ValueError, match="BTCUSDT was requested by a client that is closed"):
        client.ask()


def test_a_client_may_close_and_request_from_within_a_report(kit):
    downloader = SnapshotDownloader()
    server = kit.serve(always(reply()))
    ended = threading.Event()

    def report(request: SnapshotRequest, news: object) -> None:
        if isinstance(news, SnapshotBody) and request.epoch < 5:
            client.request("BTCUSDT", request.epoch + 1, Purpose.REQUESTED, 100)
        elif isinstance(news, SnapshotBody):
            client.close()
            ended.set()

    client = downloader.open(SPOT, report, restful_base_uri=server.base_uri)
    client.request("BTCUSDT", 1, Purpose.SYNCHRONIZE, 100)
    assert ended.wait(LONG_S)
    wait_for_the_end_of(downloader_threads())
    assert len(server.heads) == 5


def test_a_report_that_raises_is_logged_and_the_other_requests_continue(kit, caplog):
    server = kit.serve(always(reply()))
    well = kit.client_of(server.base_uri)

    def report(_request: SnapshotRequest, _news: object) -> None:
        raise KeyError("mine")

    ill = well.downloader.open(SPOT, report, restful_base_uri=server.base_uri)
    with caplog.at_level(logging.ERROR, logger="binance_local_depth_cache"):
        for number in range(8):
            ill.request(f"M{number}", 1, Purpose.SYNCHRONIZE, 100)
        for _ in range(8):
            assert isinstance(well.get(), SnapshotBody)
        eventually(lambda: "The report about the snapshot of M0 raised." in logged(caplog).messages, "the log message")
    ill.close()


def test_a_bug_of_ours_is_logged_reported_and_survived(kit, caplog, monkeypatch):
    monkeypatch.setattr("ldc.snapshots.worker.read_headers", lambda headers: headers["no such"])
    client = kit.client_of(kit.serve(always(reply())).base_uri)
    with caplog.at_level(logging.ERROR, logger="binance_local_depth_cache"):
        for _ in range(2):
            assert "unforeseen KeyError" in client.failure().text
    assert "failed in an unforeseen way" in logged(caplog).text


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


counts_descriptors = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")


@pytest.mark.parametrize("room_for", [0, 1, 3])
def test_a_system_that_has_no_more_threads_costs_no_request_and_is_tried_again(kit, monkeypatch, room_for):
    """A regression: the error was raised into the feed's thread, and every market of its group lost its book."""
    client = kit.client_of(kit.serve(always(reply())).base_uri)
    start, started = threading.Thread.start, []

    def start_some(thread: threading.Thread) -> None:
        if thread.name.startswith("ldc-snapshot"):
            if len(started) == room_for:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    with monkeypatch.context() as poor:
        poor.setattr(threading.Thread, "start", start_some)
        client.ask()
        if room_for > 1:  # the watchdog, and a worker
            assert isinstance(client.result(), SnapshotBody)
        else:
            assert client.client.holds("BTCUSDT", 1)
    client.client.holds("ANY", 1)
    assert len(downloader_threads()) == WORKERS + 1
    if room_for <= 1:
        assert isinstance(client.result(), SnapshotBody)
    assert isinstance(client.get("ETHUSDT"), SnapshotBody)


class Fault(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("place", ["settle", "take", "give_back"])
def test_a_shared_budget_that_raises_ends_no_worker(kit, monkeypatch, tmp_path, place):
    """A regression: after four of these nobody downloaded any more, and each market waited for ever."""
    pytest.importorskip("filelock", reason="the extra shared-budget is not installed")
    client = kit.client_of(kit.serve(always(reply())).base_uri, shared_folder=tmp_path)
    assert isinstance(client.get(), SnapshotBody)
    threads = downloader_threads()
    raised = []

    def raising(*_arguments: object) -> Any:
        raised.append(place)
        raise Fault

    for number in range(2 * WORKERS):
        with monkeypatch.context() as faulty:
            if place != "give_back":
                faulty.setattr(SharedBudget, place, raising)
            else:  # the request is cancelled while the file is asked

                def take_late(*_arguments: object, market: str = f"M{number}") -> tuple[float, str]:
                    client.client.cancel(market)
                    return 0.0, "key"

                faulty.setattr(SharedBudget, "take", take_late)
                faulty.setattr(SharedBudget, "give_back", raising)
            client.ask(f"M{number}")
            eventually(lambda: len(raised) > number, "the fault")  # noqa: B023 - called at once
        if place != "give_back":
            assert isinstance(client.result(), SnapshotBody)
    assert downloader_threads() == threads
    assert isinstance(client.get("LAST"), SnapshotBody)


def test_a_shared_budget_that_raises_while_a_client_closes_leaves_no_thread_behind(kit, monkeypatch, tmp_path):
    pytest.importorskip("filelock", reason="the extra shared-budget is not installed")
    server = kit.serve(STALLS["in the body"])
    client = kit.client_of(server.base_uri, shared_folder=tmp_path)
    client.ask()
    assert isinstance(client.hear()[1], SnapshotBegins)
    threads = downloader_threads()

    def raising(*_arguments: object) -> None:
        raise Fault

    monkeypatch.setattr(SharedBudget, "settle", raising)
    client.client.close()
    wait_for_the_end_of(threads)


class ForgetfulWaiters(collections.deque):
    """The waiters of a condition, one of which an exception leaves behind."""

    def __init__(self, waiters: Any, error: BaseException) -> None:
        super().__init__(waiters)
        self._error: BaseException | None = error

    def remove(self, waiter: Any) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        super().remove(waiter)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["interrupted", "memory"])
def test_a_wake_up_that_is_interrupted_costs_no_request(kit, error):
    """A regression: the next wake-up went to a waiter that nobody waited for, and its request waited for ever."""
    client = kit.client_of(kit.serve(always(reply())).base_uri)
    client.ask("FIRST")
    assert isinstance(client.result(), SnapshotBody)
    work = client.downloader._work
    eventually(lambda: len(work._waiters) == WORKERS, "idle workers")
    with work:
        work._waiters = ForgetfulWaiters(work._waiters, error)
    with pytest.raises(type(error)):
        client.ask("SECOND")
    assert isinstance(client.result(), SnapshotBody)
    for number in range(WORKERS):
        client.ask(f"M{number}")
        assert isinstance(client.result(), SnapshotBody)


@pytest.mark.parametrize("fault", [Fault, SystemExit, MemoryError])
def test_a_report_that_raises_anything_ends_no_thread(kit, fault):
    """Whatever is raised: the answer is reported, and settled, by a worker or the watchdog that goes on."""
    server = kit.serve(STALLS["in the body"])
    client = kit.client_of(server.base_uri, download_s_max=0.05)
    heard = []

    def report(_request: SnapshotRequest, news: object) -> None:
        heard.append(news)
        raise fault

    client.client.report = report
    for number in range(2 * WORKERS):
        client.ask(f"M{number}")
    eventually(lambda: len(heard) == 4 * WORKERS, "all reports")
    failures = [news.kind for news in heard if isinstance(news, SnapshotFailure)]
    assert failures == [FailureKind.TIMED_OUT] * 2 * WORKERS
    threads = downloader_threads()
    assert len(threads) == WORKERS + 1
    assert all(thread.is_alive() for thread in threads)
    assert not any(client.client.holds(f"M{number}", 1) for number in range(2 * WORKERS))


def test_a_watchdog_that_fails_at_one_download_continues_with_the_others(kit, monkeypatch):
    """A regression: it tried the first one again and again, so the others were never ended."""
    client = kit.client_of(kit.serve(STALLS["in the body"]).base_uri, download_s_max=0.05)
    time_out, failures = SnapshotDownloader._time_out, []

    def failing_at_first(downloader: SnapshotDownloader, download: Any, now: float) -> Any:
        if download.ticket.request.market == "FIRST" and len(failures) < 3:
            failures.append(now)
            raise Fault
        return time_out(downloader, download, now)

    monkeypatch.setattr(SnapshotDownloader, "_time_out", failing_at_first)
    monkeypatch.setattr("ldc.snapshots.downloader.RETRY_S", 0.2)
    for market in ("FIRST", "SECOND", "THIRD"):
        client.ask(market)
    failed = [client.result() for _ in range(3)]
    assert all(isinstance(each, SnapshotFailure) and each.kind is FailureKind.TIMED_OUT for each in failed)
    assert "FIRST" in failed[-1].text
    assert len(failures) == 3


def test_a_download_that_cannot_begin_is_reported_and_leaves_no_ticket_in_flight(kit, monkeypatch):
    """A regression: its market waited for the answer until a check found the request lost."""
    client = kit.client_of(kit.serve(always(reply())).base_uri)

    def failing(*_arguments: Any) -> None:
        raise Fault

    with monkeypatch.context() as faulty:
        faulty.setattr("ldc.snapshots.downloader.Download", failing)
        failed = client.failure()
    assert "unforeseen Fault" in failed.text
    assert not client.client.holds("BTCUSDT", 1)
    assert isinstance(client.get("ETHUSDT"), SnapshotBody)


@counts_descriptors
def test_starting_and_stopping_leaks_neither_threads_nor_descriptors():
    before = descriptors()
    server = ScriptedServer(always(reply()))
    stalling = ScriptedServer(STALLS["in the body"])
    for _ in range(20):
        client = Client(server.base_uri)
        stalled = Client(stalling.base_uri, downloader=client.downloader)
        stalled.ask()
        assert isinstance(client.get(), SnapshotBody)
        stalled.client.close()
        client.client.close()
    wait_for_the_end_of(downloader_threads())
    server.close()
    stalling.close()
    assert descriptors() == before


@counts_descriptors
def test_connections_that_are_not_kept_leave_no_descriptors_behind(kit):
    before = descriptors()
    server = kit.serve(once(reply(Content_Length=None)))
    client = kit.client_of(server.base_uri)
    for _ in range(60):
        assert isinstance(client.get(), SnapshotBody)
    assert descriptors() < before + 30


# -- processes


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=120)


FORKING = """
import http.server, os, queue, threading
from ldc.snapshots.downloader import SnapshotBody, shared_downloader
from ldc.sync.actions import Purpose
from ldc.venues import venue_named

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"lastUpdateId":1,"bids":[],"asks":[]}')
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

def download():
    told = queue.Queue()
    client = shared_downloader().open(
        venue_named("binance.com"), lambda *news: told.put(news),
        restful_base_uri=f"http://127.0.0.1:{server.server_port}",
    )
    client.request("BTCUSDT", 1, Purpose.SYNCHRONIZE, 100)
    while not isinstance(told.get(timeout=10)[1], SnapshotBody):
        pass
    return client

client = download()
child = os.fork()
if child == 0:
    download().close()
    client.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
client.request("ETHUSDT", 1, Purpose.SYNCHRONIZE, 100)
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_downloads_for_itself():
    ended = subprocess.run(
        [sys.executable, "-P", "-c", FORKING], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


def test_the_interpreter_ends_while_a_download_hangs(kit):
    server = kit.serve(once(b"", Talk.hold))
    code = f"""
from ldc.snapshots.downloader import shared_downloader
from ldc.sync.actions import Purpose
from ldc.venues import venue_named
import threading
began = threading.Event()
client = shared_downloader().open(
    venue_named("binance.com"), lambda *news: began.set(), restful_base_uri={server.base_uri!r}
)
client.request("BTCUSDT", 1, Purpose.SYNCHRONIZE, 100)
began.wait(30)
"""
    ended = run(code)
    assert (ended.returncode, ended.stderr) == (0, "")
