"""The manager with the embedded exchange: every view is the true book at its id, during every fault.

Four threads read without pause while a market trades five times as fast as real ones. Each view that they get is looked
up in the exchange's own history. A failure prints the seed.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from live_kit import SHORT_PING, eventually, no_jitter, no_thread_is_left  # noqa: F401 - used by their names
from loopback_exchange import PATIENCE_S
from simulator_kit import MARKETS, assert_true, managed, simulated

from ldc import BinanceLocalDepthCacheManager, DepthCacheError, DepthCacheOutOfSync
from ldc.simulator import FAULTS
from ldc.simulator.faults import Place, kind_of

SEED = int(os.environ.get("LDC_SEED", "1"))
STORM_S = float(os.environ.get("LDC_STORM_S", "20"))
"""Seconds of many faults at once; LDC_STORM_S=600 for a long run."""

READERS = 4
VENUES_TRIED = ("binance.com", "binance.com-futures")

# A spot snapshot does not name its market. The book that it is compared with may be wrong itself among many faults.
UNPROVABLE = {"snapshot_wrong_market"}


# After a firewall's 403 ldc pauses for a minute, which is right, but too long for a test.
SLOW = {"snapshot_403"}


@dataclass
class Readers:
    """Threads that read views and check that they are true."""

    exchange: object
    manager: object
    market: str
    views: int = 0
    refusals: int = 0
    wrong: list[str] = field(default_factory=list)
    last_id: int = 0

    def __enter__(self):
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._read, name=f"reader-{n}") for n in range(READERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _read(self):
        reader = self.manager.get_depth_cache(self.market).reader
        while not self._stop.is_set():
            try:
                view = reader.view(number=Decimal)
            except DepthCacheOutOfSync:
                with self._lock:
                    self.refusals += 1
                self._stop.wait(0.002)
                continue
            try:
                assert_true(self.exchange, self.market, view)
            except (AssertionError, KeyError) as error:
                self.wrong.append(f"LDC_SEED={SEED}: {str(error)[:500]}")
                return
            with self._lock:
                self.views += 1
                self.last_id = view.last_update_id
            self._stop.wait(0.001)

    def read_more(self, views=40):
        """Wait for `views` views that are newer than all before."""
        wanted, last_id = self.views + views, self.last_id
        try:
            eventually(lambda: self.wrong or (self.views >= wanted and self.last_id != last_id), f"{views} more views")
        except AssertionError as error:
            raise AssertionError(f"LDC_SEED={SEED}: {error}: {self.manager.get_status(self.market)}") from None
        assert self.wrong == []


@pytest.mark.parametrize("venue", MARKETS)
def test_every_view_is_the_true_book(venue):
    market = MARKETS[venue]
    with simulated(venue, seed=SEED, updates_per_second=50.0) as exchange, managed(exchange, venue) as manager:
        manager.create_depth_cache(market)
        assert manager.wait_until_synchronized(market, PATIENCE_S)
        with Readers(exchange, manager, market) as readers:
            readers.read_more(100)
        status = manager.get_status(market)
        assert status.resyncs == {}
        assert readers.refusals == 0


@pytest.mark.parametrize("venue", VENUES_TRIED)
def test_a_deep_book_is_true_inside_its_horizon_while_it_deepens_and_is_refreshed(venue):
    market = MARKETS[venue]
    with (
        simulated(venue, seed=SEED, levels=3000, updates_per_second=20.0) as exchange,
        managed(exchange, venue, snapshot_limit=1000) as manager,
    ):
        manager.create_depth_cache(market)
        assert manager.wait_until_synchronized(market, PATIENCE_S)
        with Readers(exchange, manager, market) as readers:
            readers.read_more(20)
            manager.set_refresh_request(market)
            eventually(lambda: manager.get_status(market).audits or readers.wrong, "an audit")
            readers.read_more(20)
        assert manager.get_status(market).resyncs == {}


# `make test` runs a few that differ most, `make check` the others.
QUICK = {"drop", "corrupt", "reset", "snapshot_stale", "id_reset"}
SHORT_S = {"silent": 0.5, "halt": 0.5, "snapshot_lagging": 0.5, "snapshot_slow": 0.3, "slow_handshake": 0.5, "ban": 1.0}
FAULTS_TRIED = [
    pytest.param(venue, name, marks=[] if name in QUICK else [pytest.mark.check])
    for venue in VENUES_TRIED
    for name in FAULTS
]


@pytest.mark.parametrize(("venue", "name"), FAULTS_TRIED)
def test_every_view_is_true_during_each_fault(venue, name, no_jitter):  # noqa: F811 - the fixture
    market, place = MARKETS[venue], kind_of(name).place
    with (
        simulated(venue, seed=SEED, updates_per_second=50.0) as exchange,
        managed(exchange, venue, **SHORT_PING) as manager,
    ):
        manager.create_depth_cache(market)
        assert manager.wait_until_synchronized(market, PATIENCE_S)
        with Readers(exchange, manager, market) as readers:
            readers.read_more(20)
            exchange.inject(name, duration_s=SHORT_S.get(name))
            provoke(exchange, manager, market, place)
            eventually(lambda: readers.wrong or exchange.statistics()["faults"].get(name), f"{name} to fire")
            if name in SLOW:
                eventually(lambda: "HTTP 403" in (manager.get_status(market).last_error or ""), "that it was noticed")
                assert readers.wrong == []
                return
            readers.read_more(60)
        assert exchange.statistics()["faults"][name] == 1
        assert manager.wait_until_synchronized(market, PATIENCE_S)


def provoke(exchange, manager, market, place):
    """Give a fault of that place an occasion to fire."""
    if place is Place.SNAPSHOT:
        manager.set_resync_request(market, unsubscribe=False)
    elif place is Place.CONTROL:
        manager.set_resync_request(market)
    elif place is Place.HANDSHAKE:
        exchange.inject("reset")


@pytest.mark.check
@pytest.mark.parametrize("venue", VENUES_TRIED)
def test_every_view_is_true_during_many_faults_at_once(venue, no_jitter):  # noqa: F811 - the fixture
    """All kinds at once, at random, for a while. Then they stop, and the books recover."""
    market = MARKETS[venue]
    names = [name for name in FAULTS if name not in UNPROVABLE | SLOW | {"ban", "slow_handshake", "id_reset"}]
    with (
        simulated(venue, seed=SEED, updates_per_second=50.0) as exchange,
        managed(exchange, venue, **SHORT_PING) as manager,
    ):
        manager.create_depth_cache(market)
        assert manager.wait_until_synchronized(market, PATIENCE_S)
        with Readers(exchange, manager, market) as readers:
            for name in names:
                exchange.inject(name, probability=0.01, duration_s=SHORT_S.get(name))
            exchange.inject("id_reset")  # once, because the exchange keeps the books before one restart only
            until = time.monotonic() + STORM_S
            eventually(lambda: readers.wrong or time.monotonic() > until, "the end of the storm", STORM_S + PATIENCE_S)
            exchange.clear_faults()
            readers.read_more(100)
        assert sum(exchange.statistics()["faults"].values()) > 10


@pytest.mark.check
def test_a_first_snapshot_of_another_market_is_found_out():
    """Its prices do not fit those of the updates."""
    with (
        simulated(markets=("BTCUSDT", "ETHUSDT"), updates_per_second=50.0) as exchange,
        managed(exchange, "binance.com") as manager,
    ):
        assert exchange.last_update_id("ETHUSDT") > exchange.last_update_id("BTCUSDT") + 1_000_000
        exchange.inject("snapshot_wrong_market", market="BTCUSDT")
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized("BTCUSDT", PATIENCE_S)
        assert manager.get_status("BTCUSDT").snapshots_dropped == {"WRONG_PRICES": 1}
        assert manager.get_status("BTCUSDT").resyncs == {}
        with Readers(exchange, manager, "BTCUSDT") as readers:
            readers.read_more()


def test_without_aiohttp_the_error_names_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ldc.simulator")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("ldc.simulator")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    names_it = pytest.raises(DepthCacheError, match=r"pip install aiohttp")
    with BinanceLocalDepthCacheManager("simulator") as manager, names_it:
        manager.create_depth_cache("BTCUSDT")


@pytest.mark.parametrize("exchange", ["simulator", "simulator-futures"])
def test_the_manager_starts_an_exchange_of_its_own(exchange):
    with BinanceLocalDepthCacheManager(exchange) as manager:
        manager.create_depth_cache(["BTCUSDT", "MADEUPUSDT"])
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        assert manager.get_asks("BTCUSDT", limit_count=3)
        launched = manager._own.launched
        assert_true(launched, "MADEUPUSDT", manager.get_depth_cache("MADEUPUSDT").reader.view(number=Decimal))
        manager.create_depth_cache("NOSUCHMARKET")
        with pytest.raises(DepthCacheError, match="NOSUCHMARKET"):
            manager.wait_until_synchronized("NOSUCHMARKET", PATIENCE_S)
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = launched.restful_base_uri
    # The log's thread ends by itself, once nothing has been logged for a while.
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("ldc-")}
    assert names <= {"ldc-log"}
