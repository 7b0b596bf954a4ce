"""Processes of one machine that share the request weight and the connects by a file."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from live_kit import (
    assert_exact,
    eventually,
    live,
    no_thread_is_left,  # noqa: F401 - used by its name
    reach,
    synchronize,
)
from log_kit import logged
from loopback_exchange import PATIENCE_S

from ldc.feed.pool import FILE_FAULT_S, SharedConnectBudget
from ldc.limits import CONNECT_WINDOW_S, WEIGHT_WINDOW_S
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.snapshots.downloader import shared_downloader
from ldc.snapshots.queue import SnapshotQueue, SnapshotRequest
from ldc.snapshots.shared_budget import IN_FLIGHT_S_MAX, RETRY_S, SharedBudget, shared_connects
from ldc.sync.actions import Purpose
from ldc.venues import venue_named

pytest.importorskip("filelock", reason="the extra shared-budget is not installed")

NAME = ("", "api.example.com")
TAKER = """
import sys, time
from pathlib import Path
from ldc.snapshots.shared_budget import SharedBudget
budget = SharedBudget(Path(sys.argv[1]), ("", "api.example.com"), 1200)
taken = 0
while taken < int(sys.argv[2]):
    _, key = budget.take(5, 1000, time.monotonic())
    taken += bool(key)
    if not key:
        break
print(taken, flush=True)
if len(sys.argv) > 3:
    with budget._lock:
        print("locked", flush=True)
        sys.stdin.read()
"""


def budget_in(folder: Path) -> SharedBudget:
    return SharedBudget(folder, NAME, 1200)


def test_what_one_process_has_spent_the_other_cannot_spend(tmp_path):
    one, other = budget_in(tmp_path / "new"), budget_in(tmp_path / "new")
    assert one.take(600, 1000, 100.0)[0] == 100.0
    when, key = other.take(600, 1000, 101.0)
    assert (when, key) == (101.0 + WEIGHT_WINDOW_S, "")
    assert other.take(400, 1000, 101.0)[1]
    assert one.used(101.0) == 1000


def test_what_was_answered_counts_for_a_minute_and_what_never_was_for_longer(tmp_path):
    one, other = budget_in(tmp_path), budget_in(tmp_path)
    _, key = one.take(600, 1000, 100.0)
    one.settle(key, 0.0, 102.0)
    one.take(300, 1000, 102.0)
    assert other.take(400, 1000, 103.0)[0] == 102.0 + WEIGHT_WINDOW_S
    assert other.used(162.5) == 300
    assert other.take(400, 1000, 162.5)[1]
    assert other.used(102.0 + IN_FLIGHT_S_MAX + WEIGHT_WINDOW_S) == 400


def test_a_pause_applies_to_all_processes(tmp_path):
    one, other = budget_in(tmp_path), budget_in(tmp_path)
    _, key = one.take(5, 1000, 100.0)
    one.settle(key, 220.0, 100.0)
    when, key = other.take(5, 1000, 100.0)
    assert not key
    assert 219.0 < when <= 220.0


def test_a_refusal_of_the_shared_budget_does_not_hold_for_more_urgent_requests(tmp_path):
    """Others have spent the part that deepening may use, but not the part for unreadable books."""
    queue = SnapshotQueue(lambda: 0.0)
    client = queue.join(
        venue_named("binance.com"), 100.0, make_shared_budget=lambda name, weight: SharedBudget(tmp_path, name, weight)
    )
    others = SharedBudget(tmp_path, client.pool_name, 6000)
    assert others.take(3590, 4800, 100.0)[1]
    queue.put(client, SnapshotRequest("BTCUSDT", 1, Purpose.DEEPEN, 1000))
    assert begin_next(queue) is None  # 50 more than the 3,600 that it may use
    assert queue.next_time(100.0) > 130.0
    queue.put(client, SnapshotRequest("ETHUSDT", 1, Purpose.SYNCHRONIZE, 100))
    ticket = begin_next(queue)
    assert ticket is not None
    assert ticket.request.market == "ETHUSDT"
    assert begin_next(queue) is None
    assert queue.next_time(100.0) > 130.0


def begin_next(queue):
    """Return the ticket that begins now, taken as the downloader takes it."""
    ticket = queue.take(100.0)
    if ticket is None:
        return None
    return (
        ticket
        if queue.confirm(ticket, *ticket.shared_budget.take(ticket.weight, ticket.allowed, 100.0), 100.0)
        else None
    )


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0])
def test_a_pause_is_neither_stretched_nor_forgotten_when_the_clock_on_the_wall_is_set(tmp_path, monkeypatch, step_s):
    one, other = budget_in(tmp_path), budget_in(tmp_path)
    wall_s = 1_700_000_000.0
    monkeypatch.setattr("ldc.snapshots.shared_budget.time.time", lambda: wall_s)
    _, key = one.take(5, 1000, 100.0)
    one.settle(key, 110.0, 100.0)
    wall_s += step_s + 1.0
    assert other.take(5, 1000, 101.0)[1] == ""
    wall_s += 8.0
    assert other.take(5, 1000, 109.0)[1] == ""
    wall_s += 3.0
    assert other.take(5, 1000, 112.0)[1]


def test_a_pause_outlasts_a_restart_of_the_machine(tmp_path, monkeypatch):
    one, other = budget_in(tmp_path), budget_in(tmp_path)
    wall_s = 1_700_000_000.0
    monkeypatch.setattr("ldc.snapshots.shared_budget.time.time", lambda: wall_s)
    _, key = one.take(5, 1000, 5_000_000.0)
    one.settle(key, 5_000_600.0, 5_000_000.0)
    wall_s += 500.0
    when, key = other.take(5, 1000, 20.0)
    assert (when > 119.0, key) == (True, "")


def test_two_budgets_do_not_share_their_weight(tmp_path):
    budget_in(tmp_path).take(1000, 1000, 100.0)
    assert SharedBudget(tmp_path, ("", "fapi.example.com"), 1200).take(1000, 1000, 100.0)[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"spent": {"a": 1}, "paused_until": 0}',
        '{"spent": {}}',
        '{"spent": {"a": [Infinity, 160]}, "paused_until": 0}',
        '{"spent": {"a": [-1000, 160]}, "paused_until": 0}',
        '{"spent": {"a": [1000, NaN]}, "paused_until": 0}',
        '{"spent": {}, "paused_until": NaN}',
        "[" * 100_000,
    ],
)
def test_a_file_that_cannot_be_read_counts_as_a_minute_that_is_used_up(tmp_path, text):
    one = budget_in(tmp_path)
    one.take(5, 1000, 100.0)
    (found,) = tmp_path.glob("*.json")
    found.write_text(text)
    when, key = one.take(5, 1000, 100.0)
    assert not key
    assert when > 100.0


def test_times_from_before_a_restart_of_the_machine_expire(tmp_path):
    one = budget_in(tmp_path)
    one.take(1000, 1000, 5_000_000.0)
    assert not one.take(1000, 1000, 10.0)[1]
    (found,) = tmp_path.glob("*.json")
    assert one.take(1000, 1000, 10.0)[0] <= 10.0 + WEIGHT_WINDOW_S
    assert json.loads(found.read_text())["spent"]


def test_a_folder_that_cannot_be_written_allows_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    one = budget_in(tmp_path / "file" / "folder")
    assert one.take(5, 1000, 100.0) == (100.0 + RETRY_S, "")
    assert one.take(5, 1000, 102.0) == (102.0 + RETRY_S, "")
    assert len(logged(caplog).records) == 1


def taker(folder: Path, count: int, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-P", "-c", TAKER, str(folder), str(count), *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_take_at_once_never_take_more_than_there_is(tmp_path):
    processes = [taker(tmp_path, 1000) for _ in range(3)]
    taken = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(taken) <= 1000 // 5
    assert budget_in(tmp_path).used(time.monotonic()) == 5 * sum(taken)


def test_a_killed_process_keeps_no_lock(tmp_path):
    process = taker(tmp_path, 2, "keep it")
    assert process.stdout.readline() == "2\n"
    assert process.stdout.readline() == "locked\n"
    one = budget_in(tmp_path)
    assert one.take(5, 1000, time.monotonic())[1] == ""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert one.take(5, 1000, time.monotonic())[1]
    assert one.used(time.monotonic()) == 15


def test_managers_share_what_the_folder_says(tmp_path):
    with live(weight_share=0.5, shared_budget=tmp_path, snapshot_limit=100) as (exchange, manager):
        family = manager._own.venue.weight_budget_name(exchange.restful_base_uri)
        foreign = SharedBudget(tmp_path, ("", family), 6000)
        assert foreign.take(2990, 3000, time.monotonic())[1]
        synchronize(exchange, manager)
        assert foreign.used(time.monotonic()) == 2995
        exchange.add_market("ETHUSDT")
        exchange.add_market("XRPUSDT")
        manager.create_depth_cache(["ETHUSDT", "XRPUSDT"])
        eventually(lambda: len(exchange.rest_requests) == 2, "a second snapshot")
        assert not manager.wait_until_synchronized(timeout=1)  # the third must wait a minute
        assert len(exchange.rest_requests) == 2


def test_one_process_shares_a_budget_in_one_place(tmp_path):
    with live(shared_budget=tmp_path / "one") as (exchange, manager):
        synchronize(exchange, manager)
        with (
            BinanceLocalDepthCacheManager(**exchange.uris, shared_budget=str(tmp_path / "other")) as other,
            pytest.raises(ValueError, match="shared in .*one already"),
        ):
            other.create_depth_cache("BTCUSDT")


@pytest.mark.parametrize("shared_budget", [1, None, b"folder"])
def test_what_is_no_folder_is_refused(shared_budget):
    with pytest.raises(ValueError, match="shared_budget is True, False or the path"):
        BinanceLocalDepthCacheManager(shared_budget=shared_budget)


# ------------------------------------------------------------------------------------------------ connects


CONNECTOR = """
import sys, time
from pathlib import Path
from ldc.manager.lifecycle import connect_budget
from ldc.venues import venue_named
budget = connect_budget(venue_named("binance.com"), "wss://stream.example.com", "", Path(sys.argv[1]))
taken = 0
while taken < int(sys.argv[2]):
    allowed_at = budget.take(now := time.monotonic())
    if allowed_at <= now:
        allowed_at = budget.take_shared(now)
    if allowed_at > now + 2:  # less: the other process held the file too long
        break
    taken += allowed_at <= now
print(taken, flush=True)
sys.stdin.read()
"""


def connector(folder: Path, count: int) -> subprocess.Popen:
    command = [sys.executable, "-P", "-c", CONNECTOR, str(folder), str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_connect_at_once_never_connect_more_than_300_times_in_five_minutes(tmp_path):
    processes = [connector(tmp_path, 200) for _ in range(2)]
    taken = [int(process.stdout.readline()) for process in processes]
    for process in processes:
        process.kill()  # its connects still count, and it keeps no lock
        process.communicate(timeout=60)
    assert sum(taken) == 300
    now = time.monotonic()
    budget = shared_connects(tmp_path, ("", "wss://stream.example.com"), 300, CONNECT_WINDOW_S)
    assert budget.used(now) == 300
    when, key = budget.take(1, 300, now)
    assert not key
    assert now + CONNECT_WINDOW_S - 60 < when <= now + CONNECT_WINDOW_S
    assert budget.take(1, 300, when + 0.001)[1]


def test_a_connect_that_other_processes_leave_no_room_for_waits(tmp_path):
    with live(shared_budget=tmp_path) as (exchange, manager):
        url = manager._own.venue.stream_urls(1, exchange.websocket_base_uri)[0]
        foreign = shared_connects(tmp_path, ("", url), 300, CONNECT_WINDOW_S)
        long_ago = time.monotonic() - CONNECT_WINDOW_S + 2.0
        assert foreign.take(300, 300, long_ago)[1]
        began = time.monotonic()
        synchronize(exchange, manager)
        assert time.monotonic() >= long_ago + CONNECT_WINDOW_S > began
        assert foreign.used(time.monotonic()) == 1


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_a_file_that_stalls_stops_no_feed(tmp_path, monkeypatch, kind):
    """A regression: a slow home directory stopped the reading of live connections, of all groups of the process."""
    with live(kind, shared_budget=tmp_path) as (exchange, manager):
        synchronize(exchange, manager)
        asked, go_on = threading.Event(), threading.Event()
        take = SharedBudget.take

        def stalled(*arguments: Any) -> tuple[float, str]:
            asked.set()
            assert go_on.wait(PATIENCE_S)
            return take(*arguments)

        monkeypatch.setattr(SharedBudget, "take", stalled)
        group = manager.get_depth_cache("BTCUSDT").group
        group.renew()
        assert asked.wait(PATIENCE_S)
        for _ in range(3):
            reach(exchange, manager)
        assert_exact(exchange, manager)
        assert group._connections._slots[0].connects == 2
        go_on.set()
        exchange.wait_for(lambda: len(exchange.connections) == 2, "the successor")


def test_a_file_that_fails_in_an_unforeseen_way_opens_nothing_and_is_tried_again(tmp_path):
    budget = SharedConnectBudget(300)
    budget.shared = shared_connects(tmp_path, ("", "wss://stream.example.com"), 300, CONNECT_WINDOW_S)

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    budget.shared.take = fail
    assert budget.take(1000.0) == 1000.0
    assert budget.take_shared(1000.0) == 1000.0 + FILE_FAULT_S
    assert budget.take(1000.0) == 1000.0 + FILE_FAULT_S  # nor does another slot touch it before
    del budget.shared.take
    assert budget.take(1000.0 + FILE_FAULT_S) == budget.take_shared(1000.0 + FILE_FAULT_S) == 1000.0 + FILE_FAULT_S


def test_the_file_is_read_without_the_lock_of_the_downloader(tmp_path):
    """While another process holds the file, requests can be queued and cancelled."""
    with live(shared_budget=tmp_path, snapshot_limit=100) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.add_market("ETHUSDT")
        downloader = shared_downloader()
        asked, go_on = threading.Event(), threading.Event()
        take = SharedBudget.take

        def slow_take(self, weight, allowed, now):
            asked.set()
            assert go_on.wait(60)
            return take(self, weight, allowed, now)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SharedBudget, "take", slow_take)
            manager.create_depth_cache("ETHUSDT")
            assert asked.wait(60)
            assert downloader._lock.acquire(timeout=30)
            downloader._lock.release()
            go_on.set()
            assert manager.wait_until_synchronized(timeout=60)


def test_weight_taken_for_a_cancelled_request_is_given_back(tmp_path):
    with live(shared_budget=tmp_path, snapshot_limit=100) as (exchange, manager):
        synchronize(exchange, manager)
        exchange.add_market("ETHUSDT")
        family = manager._own.venue.weight_budget_name(exchange.restful_base_uri)
        budget = SharedBudget(tmp_path, ("", family), 6000)
        used = budget.used(time.monotonic())
        taken, go_on = threading.Event(), threading.Event()
        take = SharedBudget.take

        def late_take(self, weight, allowed, now):
            answer = take(self, weight, allowed, now)
            if weight > 1:
                taken.set()
                assert go_on.wait(60)
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SharedBudget, "take", late_take)
            manager.create_depth_cache("ETHUSDT")
            assert taken.wait(60)
            assert budget.used(time.monotonic()) == used + 5
            manager.stop_depth_cache("ETHUSDT")
            waiting = manager._own.downloads.queue_client
            eventually(lambda: waiting.waiting_count == 0, "the request to end")
            go_on.set()
            eventually(lambda: budget.used(time.monotonic()) == used, "the weight to be given back")
        assert len(exchange.rest_requests) == 1


MANAGER = """
import sys
from ldc import BinanceLocalDepthCacheManager
rest, websocket, folder, begin = sys.argv[1:]
with BinanceLocalDepthCacheManager(
    restful_base_uri=rest, websocket_base_uri=websocket, shared_budget=folder, snapshot_limit=100, weight_share=0.1
) as manager:
    manager.create_depth_cache([f"COIN{number}USDT" for number in range(int(begin), int(begin) + 150)])
    print("began", flush=True)
    sys.stdin.read()
"""


@pytest.mark.check
def test_two_processes_with_150_markets_each_never_exceed_the_budget_together(tmp_path):
    """A tenth of 6,000 a minute: 120 snapshots. One process is killed in the middle; the other continues.

    It has 30 markets left even if it began first, and has had all the 120.
    """
    pytest.importorskip("aiohttp")
    from simulator_kit import simulated

    markets = tuple(f"COIN{number}USDT" for number in range(300))
    with simulated(markets=markets, levels=50, updates_per_second=2.0) as exchange:
        uris = exchange.restful_base_uri, exchange.websocket_base_uri
        processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-c", MANAGER, *uris, str(tmp_path), str(begin)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for begin in (0, 150)
        ]
        try:
            eventually(lambda: exchange.statistics().get("status_200", 0) >= 120, "the first minute's snapshots", 60)
            began = time.monotonic()
            eventually(lambda: time.monotonic() > began + 5, "some seconds more")
            assert exchange.statistics()["status_200"] == 120
            processes[0].kill()
            eventually(lambda: exchange.statistics()["status_200"] >= 150, "the next minute's", 120)
            statistics = exchange.statistics()
            assert statistics.get("status_429", 0) == statistics.get("status_418", 0) == 0
        finally:
            for process in processes:
                process.kill()
                process.communicate(timeout=60)
