"""A kept REST connection that a router has forgotten costs one repeated request, and no more than the weight allows."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from live_kit import eventually
from network_kit import fresh_addresses  # noqa: F401
from scripted_server import Talk, always, reply
from snapshot_kit import LONG_S, SPOT, Kit, made_kit

from ldc.network.proxy import ProxyRules
from ldc.snapshots import sockets
from ldc.snapshots.queue import SnapshotQueue, SnapshotRequest
from ldc.snapshots.reply import NO_HEADERS, SnapshotBody, SnapshotFailure
from ldc.snapshots.shared_budget import SharedBudget
from ldc.snapshots.sockets import IDLE_S_MAX, KeptConnections
from ldc.sync.actions import Purpose

pytestmark = pytest.mark.usefixtures("fresh_addresses")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    monkeypatch.setattr(sockets, "REUSED_ANSWER_S", 0.2)
    monkeypatch.setattr("ldc.snapshots.downloader.WORKERS", 1)
    with made_kit(tmp_path, monkeypatch) as kit:
        yield kit


class ForgetfulRouter:
    """A server whose connections answer once and are then silent; or end, where the router says so."""

    def __init__(self, then=Talk.hold) -> None:
        self.then = then
        self.is_kept = threading.Event()

    def __call__(self, talk: Talk) -> None:
        if talk.read_head() is not None:
            talk.send(reply())
            if talk.read_head() is not None:
                self.then(talk)


def test_a_request_on_a_connection_that_is_silent_is_repeated_at_once_on_a_new_one(kit):
    server = kit.serve(ForgetfulRouter())
    client = kit.client_of(server.base_uri)
    for _ in range(2):
        assert isinstance(client.get(), SnapshotBody)
    assert server.connections == 2
    assert len(server.heads) == 3
    assert client.client.queue_client.failures == {}
    assert client.client.queue_client.started == 2


def test_a_request_on_a_connection_that_is_reset_is_repeated_at_once(kit):
    server = kit.serve(ForgetfulRouter(Talk.reset))
    client = kit.client_of(server.base_uri)
    for _ in range(4):
        assert isinstance(client.get(), SnapshotBody)
    assert client.client.queue_client.failures == {}


def test_both_requests_count_and_one_that_the_weight_does_not_allow_is_not_repeated(kit):
    server = kit.serve(ForgetfulRouter())
    poor = replace(SPOT, weight_per_minute=15)  # a snapshot costs 5
    client = kit.client_of(server.base_uri, venue=poor, weight_share=1.0)
    for _ in range(2):
        assert isinstance(client.get(), SnapshotBody)
    [pool] = client.downloader._queue._weight_pools.values()
    assert pool.budget.used(client.downloader._clock()) == 15
    assert len(server.heads) == 3


def test_a_slow_answer_on_a_new_connection_is_waited_for(kit):
    slow = threading.Event()

    def script(talk: Talk) -> None:
        while talk.read_head() is not None:
            slow.wait(0.6)
            talk.send(reply())

    server = kit.serve(script)
    assert isinstance(kit.client_of(server.base_uri).get(), SnapshotBody)
    assert len(server.heads) == 1


def test_a_body_may_take_its_time_on_a_kept_connection(kit):
    slow = threading.Event()

    def script(talk: Talk) -> None:
        whole = reply()
        while talk.read_head() is not None:
            talk.send(whole[:-20])
            slow.wait(0.6)
            talk.send(whole[-20:])

    server = kit.serve(script)
    client = kit.client_of(server.base_uri)
    for _ in range(2):
        assert isinstance(client.get(), SnapshotBody)
    assert (server.connections, len(server.heads)) == (1, 2)


def test_a_refusal_for_good_is_confirmed_by_another_connection(kit):
    """One server behind the address may be wrong, and a kept connection leads to the same one again."""
    server = kit.serve(always(reply(b'{"code":-1121,"msg":"Invalid symbol."}', "400 Bad Request")))
    client = kit.client_of(server.base_uri)
    for number in range(1, 4):
        assert isinstance(client.get(), SnapshotFailure)
        assert server.connections == number


def test_a_connection_that_was_idle_for_too_long_is_not_used(kit, monkeypatch):
    monkeypatch.setattr(sockets, "IDLE_S_MAX", -1.0)
    server = kit.serve(always(reply()))
    client = kit.client_of(server.base_uri)
    for _ in range(3):
        assert isinstance(client.get(), SnapshotBody)
    assert server.connections == 3


def test_what_was_idle_when_another_one_was_found_dead_is_not_used_again():
    kept = KeptConnections()
    assert kept.may_reuse(100.0, 100.0 + IDLE_S_MAX)
    assert not kept.may_reuse(100.0, 100.1 + IDLE_S_MAX)
    kept.distrust(110.0)
    assert not kept.may_reuse(109.0, 111.0)
    assert not kept.may_reuse(110.0, 111.0)
    assert kept.may_reuse(110.1, 111.0)


def test_one_dead_connection_ends_the_others_of_all_workers(kit, monkeypatch):
    monkeypatch.setattr("ldc.snapshots.downloader.WORKERS", 2)
    together = threading.Barrier(2)
    silent = threading.Event()
    heads_of_old: list[str] = []

    def script(talk: Talk) -> None:
        is_old = not silent.is_set()
        while (head := talk.read_head()) is not None:
            if is_old and silent.is_set():
                heads_of_old.append(head)
                talk.hold()
                return
            if is_old:
                together.wait(LONG_S)  # so that each worker has a connection of its own
            talk.send(reply())

    server = kit.serve(script)
    client = kit.client_of(server.base_uri)
    for market in ("A", "B"):
        client.ask(market)
    for _ in range(2):
        assert isinstance(client.result(), SnapshotBody)
    silent.set()
    for _ in range(6):
        assert isinstance(client.get(), SnapshotBody)
    assert len(heads_of_old) == 1


# ------------------------------------------------------------------------------------------------------- the queue


def test_a_request_is_repeated_once_only_while_it_is_wanted_and_where_its_weight_fits():
    queue = SnapshotQueue(lambda: 0.0)
    client = queue.join(replace(SPOT, weight_per_minute=14), 0.0, weight_share=1.0)
    for market in ("A", "B"):
        queue.put(client, SnapshotRequest(market, 1, Purpose.SYNCHRONIZE, 100))
    one, other = queue.take(1.0), queue.take(1.0)
    assert not queue.may_repeat(one, 2.0)  # 10 of 14 are spent
    queue.settle(other, SnapshotBody(b"{}", 0, None), NO_HEADERS, 2.0)
    assert queue.may_repeat(one, 62.5)
    assert not queue.may_repeat(one, 62.5)
    queue.settle(one, SnapshotBody(b"{}", 0, None), NO_HEADERS, 63.0)
    [pool] = queue._weight_pools.values()
    assert pool.budget.used(64.0) == 10
    assert pool.budget.used(123.5) == 0
    queue.put(client, SnapshotRequest("C", 1, Purpose.SYNCHRONIZE, 100))
    third = queue.take(200.0)
    queue.cancel(client)
    assert not queue.may_repeat(third, 200.0)


def test_an_interval_between_downloads_that_the_user_set_is_kept():
    queue = SnapshotQueue(lambda: 0.0)
    client = queue.join(SPOT, 0.0, init_interval_s=1.0)
    queue.put(client, SnapshotRequest("A", 1, Purpose.SYNCHRONIZE, 100))
    assert not queue.may_repeat(queue.take(1.0), 2.0)


def test_a_repeated_request_counts_for_the_other_processes_as_well(kit, tmp_path):
    pytest.importorskip("filelock")
    pytest.importorskip("platformdirs")
    server = kit.serve(ForgetfulRouter())
    client = kit.client_of(server.base_uri, shared_folder=tmp_path / "shared")
    for _ in range(2):
        assert isinstance(client.get(), SnapshotBody)
    others = SharedBudget(tmp_path / "shared", client.client.queue_client.pool_name, SPOT.weight_per_minute)
    eventually(lambda: others.used(client.downloader._clock()) == 15, "three requests of 5")


# ---------------------------------------------------------------------------------------------- one pool an address


def test_one_proxy_has_one_weight_pool_however_it_is_spelt(kit, monkeypatch):
    proxy = kit.serve(always(reply()))
    monkeypatch.setenv("http_proxy", f"http://user:pass@127.0.0.1:{proxy.port}/")
    first = kit.client_of("http://exchange.invalid")
    spelt = [f"http://127.0.0.1:{proxy.port}", f"HTTP://a@127.0.0.1:{proxy.port}/", f"127.0.0.1:{proxy.port}"]
    for each in spelt:
        kit.client_of("http://exchange.invalid", downloader=first.downloader, proxy=each)
    assert list(first.downloader._queue._weight_pools) == [
        (f"127.0.0.1:{proxy.port}", first.client.queue_client.venue.weight_budget_name("http://exchange.invalid"))
    ]
    monkeypatch.setenv("no_proxy", "exchange.invalid")
    direct = kit.client_of("http://exchange.invalid", downloader=first.downloader)
    assert direct.client.queue_client.pool_name[0] == ""
    assert str(ProxyRules().for_url("http://other.invalid")) == f"http://127.0.0.1:{proxy.port}"
