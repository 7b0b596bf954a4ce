"""Clients of other libraries, unchanged except for the address, follow a gateway under the exchange's faults.

They are no dependencies: `make check-foreign` installs them, without it their tests are skipped. LDC_FOREIGN_FAULTS=all
has each client meet every fault of the embedded exchange, which takes some minutes; LDC_FOREIGN_REPORT=file writes the
table of docs/evidence/gateway.md.
"""

import asyncio
import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import Served, caught_up, served, until

pytest.importorskip("aiohttp")

from foreign_kit import PACKAGES, Foreign

from ldc.simulator import FAULTS
from ldc.simulator.faults import Place, kind_of

pytestmark = [pytest.mark.check, pytest.mark.filterwarnings("default")]

CHOSEN = os.environ.get("LDC_FOREIGN_FAULTS", "drop,reset,snapshot_503")
REPORT = os.environ.get("LDC_FOREIGN_REPORT")
MARKET = "BTCUSDT"
READY_S = 60.0
FIRED_S = 15.0
"""A fault that has not fired after so long has no occasion here."""
CURRENT_S = 90.0
"""Seconds in which a client must stand at the gateway's id, after the fault is over."""
LIVE_S = 1.0


OF_THEIR_OWN = {("python-binance", "id_reset")}
"""What a client cannot get over by itself, wherever it connects to. Its socket reconnects without its order book, which
takes every lower id for an old update; a program has to start it again.
"""


def chosen() -> list[str]:
    return list(FAULTS) if CHOSEN == "all" else CHOSEN.split(",")


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[dict[str, dict[str, str]]]:
    rows: dict[str, dict[str, str]] = {}
    yield rows
    if REPORT is not None:
        names = list(rows)
        lines = [f"| fault | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
        lines += [f"| {fault} | {' | '.join(rows[name].get(fault, '') for name in names)} |" for fault in chosen()]
        Path(REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_client_s_book_is_the_true_book_after_each_fault_upstream(name: str, report: dict[str, dict[str, str]]):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{name} is not installed")
    found = report[name] = {}
    with served(exchange_settings={"levels": 400, "updates_per_second": 20.0}) as row:
        client: Foreign | None = None
        try:
            for fault in chosen():
                if client is None:
                    client = started(row, name)
                found[fault] = after(row, client, fault)
                if not found[fault].startswith("exact"):  # another one for the next fault
                    client.close()
                    client = None
        finally:
            if client is not None:
                client.close()
    bad = {fault: verdict for fault, verdict in found.items() if not verdict.startswith("exact")}
    assert {fault: verdict for fault, verdict in bad.items() if (name, fault) not in OF_THEIR_OWN} == {}


def started(row: Served, name: str) -> Foreign:
    row.exchange.resume(MARKET)
    client = Foreign(name, row.gateway.port, [MARKET])
    give_up_at = time.monotonic() + READY_S
    while not client.ids()[MARKET]:
        if time.monotonic() > give_up_at:
            client.close()
            pytest.fail(f"{name} does not follow the market")
        time.sleep(0.05)
    return client


def after(row: Served, client: Foreign, fault: str) -> str:
    """Let a fault strike and be over; return what the client's book is then."""
    row.exchange.resume(MARKET)
    restarts, resyncs = client.restarts(), sum(row.manager.get_status(MARKET).resyncs.values())
    strike(row, fault)
    row.exchange.clear_faults()
    until_synchronized(row)
    time.sleep(LIVE_S)  # the client follows a live market again
    until_synchronized(row)
    row.exchange.pause(MARKET)
    verdict = judged(row, client)
    losses = sum(row.manager.get_status(MARKET).resyncs.values()) - resyncs
    restarted = client.restarts() - restarts
    notes = [f"{count} {what}" for count, what in ((losses, "resync"), (restarted, "restart")) if count]
    return f"{verdict} ({', '.join(notes)})" if notes else verdict


def strike(row: Served, fault: str) -> None:
    """Do what makes a fault fire, and wait until it has."""
    before = row.exchange.statistics()["faults"].get(fault, 0)
    row.exchange.inject(fault)
    place = kind_of(fault).place
    if place is Place.SNAPSHOT:
        row.manager.set_resync_request(MARKET, unsubscribe=False)
    elif place is Place.CONTROL:
        row.manager.set_resync_request(MARKET)
    elif place is Place.HANDSHAKE:
        row.exchange.inject("reset")
    give_up_at = time.monotonic() + FIRED_S
    while row.exchange.statistics()["faults"].get(fault, 0) == before:
        assert time.monotonic() < give_up_at, f"{fault} has not fired"
        time.sleep(0.01)


def until_synchronized(row: Served) -> None:
    assert row.manager.wait_until_synchronized(timeout=90)


def judged(row: Served, client: Foreign) -> str:
    """Move the market step by step until the client stands where the gateway does; compare its best levels."""
    reader = row.manager.get_depth_cache(MARKET).reader
    give_up_at, update_id = time.monotonic() + CURRENT_S, 0
    while True:
        with contextlib.suppress(RuntimeError):  # the market is halted
            update_id = row.exchange.advance(MARKET)
        look_until = time.monotonic() + 0.5
        while time.monotonic() < look_until:
            ours = reader.last_update_id
            if ours == update_id == client.ids()[MARKET]:
                return compared(row, client)
            time.sleep(0.02)
        if time.monotonic() > give_up_at:
            return f"stands at {client.ids()[MARKET]}, not {reader.last_update_id}"


def compared(row: Served, client: Foreign) -> str:
    tops = client.tops()
    if isinstance(tops, str):
        return f"raises {tops.strip().splitlines()[-1]}"
    update_id, bids, asks = tops[MARKET]
    true_book = row.exchange.true_book(MARKET, update_id, len(bids))
    for side, levels in (("bids", bids), ("asks", asks)):
        if [(float(price), float(quantity)) for price, quantity in getattr(true_book, side)] != levels:
            return f"other {side} at {update_id}"
    return "exact"


def test_ubldc_s_cluster_client_reads_and_changes_the_gateway_s_books():
    module = pytest.importorskip("unicorn_binance_local_depth_cache.cluster", reason="UBLDC is not installed")
    with served(markets=("BTCUSDT", "ETHUSDT")) as row:
        cluster = module.Cluster(address="127.0.0.1", port=row.gateway.port)  # `ubldc.cluster` of a manager
        assert cluster.test_connection() is True
        market: dict[str, Any] = {"exchange": "binance.com", "market": "BTCUSDT"}
        for _ in range(5):
            true_book = row.exchange.true_book("BTCUSDT", caught_up(row), 10)
            for side, read in (("asks", cluster.get_asks), ("bids", cluster.get_bids)):
                levels = read(**market, limit_count=10)[side]
                expected = [[float(price), float(quantity)] for price, quantity in getattr(true_book, side)]
                assert [list(map(float, level)) for level in levels] == expected
        assert len(asyncio.run(cluster.get_asks_async(**market, limit_count=1))["asks"]) == 1
        assert cluster.stop_depthcache(exchange="binance.com", market="ETHUSDT")["result"] == "OK"
        assert cluster.get_depthcache_list()["depthcache_list"] == {"binance.com": ["BTCUSDT"]}
        assert cluster.create_depthcaches(exchange="binance.com", markets=["ETHUSDT"])["result"] == "OK"
        assert cluster.get_depthcache_list()["depthcache_list"] == {"binance.com": ["BTCUSDT", "ETHUSDT"]}
        row.exchange.inject("snapshot_503", count=100)
        row.manager.set_resync_request("BTCUSDT", unsubscribe=False)
        until(lambda: not row.manager.is_depth_cache_synchronized("BTCUSDT"))
        assert cluster.get_asks(**market)["error_id"] == "#6000"
        assert cluster.get_asks(**market | {"market": "NOPE"})["error_id"] == "#7000"
        row.exchange.clear_faults()
