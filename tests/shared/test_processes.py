"""Between processes: tests/tools/torn_shared.py and killed_feeders.py in short; the manager and the command line."""

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import killed_feeders
import pytest
import torn_shared

import ldc
from ldc.cli.main import main
from ldc.errors import DepthCacheError, DepthCacheOutOfSync
from ldc.shared import Publisher, SharedBooks
from ldc.simulator import SimulatedExchange

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
MARKETS = ["BTCUSDT", "ETHUSDT"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, as usual, and not in the folder of pytest, whose name is long."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# -------------------------------------------------------------------------------------------------------- torn, killed


def test_no_view_is_torn_between_processes(folder: Path) -> None:
    reads, news, versions = torn_shared.race(str(folder), 4_000, readers=2)
    assert (reads, news > 0, versions > 100) == (4_000, True, True)


@pytest.mark.check
def test_no_view_is_torn_between_processes_for_longer(folder: Path) -> None:
    assert torn_shared.race(str(folder), 400_000)[0] == 400_000


def let_feeders_come_and_go(folder: Path, count: int) -> killed_feeders.Rounds:
    seed = random.SystemRandom().randrange(2**32)
    rounds = killed_feeders.Rounds(str(folder), seed)
    try:
        rounds.run(count)
    except AssertionError as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        rounds.close()
    return rounds


def test_readers_name_the_end_of_each_feeder_and_go_on_with_the_next(folder: Path) -> None:
    assert "killed" in let_feeders_come_and_go(folder, 6).report()


@pytest.mark.check
def test_readers_name_the_end_of_many_feeders(folder: Path) -> None:
    let_feeders_come_and_go(folder, 60)


# ------------------------------------------------------------------------------------------------------------- manager


def manager_of(exchange: SimulatedExchange, **named: object) -> ldc.BinanceLocalDepthCacheManager:
    return ldc.BinanceLocalDepthCacheManager(
        "binance.com",
        restful_base_uri=exchange.restful_base_uri,
        websocket_base_uri=exchange.websocket_base_uri,
        **named,  # type: ignore[arg-type]
    )


@pytest.fixture
def exchange() -> Iterator[SimulatedExchange]:
    with SimulatedExchange(MARKETS, seed=1) as exchange:
        yield exchange


def test_a_manager_feeds_its_markets_and_the_exchange_had_each_view(
    exchange: SimulatedExchange, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDC_SHARED_FOLDER", str(folder))
    books = SharedBooks("desk")
    reader = books["BTCUSDT"]
    with manager_of(exchange, share="desk", share_levels=7) as manager:
        assert books.feeder is None  # the constructor opens nothing
        manager.create_depth_cache(MARKETS)
        assert books.markets() == MARKETS
        assert reader.unreadable_cause in ("NOT_LOADED", "TOO_OLD", "STREAM_CLOSED", None)
        last_id = reader.wait_for_update(timeout=30)
        for _ in range(5):
            last_id = reader.wait_for_update(last_id, timeout=30)
            assert last_id is not None
            view = reader.view(7, number=Decimal)
            true = exchange.true_book("BTCUSDT", view.last_update_id)
            assert (view.bids, view.asks) == (tuple(true.bids[:7]), tuple(true.asks[:7]))
        assert reader.proof_age_ns is not None
        assert reader.exchange == "binance.com"
        with manager_of(exchange, share="desk") as second, pytest.raises(DepthCacheError, match="is fed by process"):
            second.create_depth_cache("BTCUSDT")
        manager.stop_depth_cache("BTCUSDT")
        with pytest.raises(DepthCacheOutOfSync, match="does not publish this market"):
            reader.view()
        assert books.markets() == ["ETHUSDT"]
        manager.create_depth_cache("BTCUSDT")
        assert reader.wait_for_update(timeout=30) is not None
    assert reader.unreadable_cause == "FEEDER_GONE"


def test_a_publisher_that_is_given_stays_open(exchange: SimulatedExchange, folder: Path) -> None:
    with Publisher("desk", folder=folder) as publisher:
        for _ in range(2):
            with manager_of(exchange, share=publisher) as manager:
                manager.create_depth_cache("BTCUSDT")
                assert SharedBooks("desk", folder=folder)["BTCUSDT"].wait_for_update(timeout=30) is not None
            assert publisher.markets == []


def test_parameters_that_cannot_be_are_refused_by_the_constructor(exchange: SimulatedExchange) -> None:
    for wrong in ({"share": "a/b"}, {"share": "desk", "share_levels": 0}):
        with pytest.raises(ValueError, match=r"share|levels"):
            manager_of(exchange, **wrong)
    with pytest.raises(ValueError, match="share is a name"):
        manager_of(exchange, share=7)


# -------------------------------------------------------------------------------------------------------- command line


def test_ldc_feed_feeds_and_ldc_watch_shows_it(
    exchange: SimulatedExchange, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDC_SHARED_FOLDER", str(folder))
    addresses = ["--restful-base-uri", exchange.restful_base_uri, "--websocket-base-uri", exchange.websocket_base_uri]
    command = [sys.executable, "-P", "-m", "ldc", "feed", *MARKETS, "--share", "desk", "--levels", "5", *addresses]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as feeder:
        assert feeder.stdout is not None
        assert feeder.stdout.readline() == (
            f"feeding 2 markets of binance.com as 'desk' in {folder}/desk; Ctrl-C ends it\n"
        )
        while "2 of 2 markets in sync" not in feeder.stdout.readline():
            pass
        assert main(["watch", "--shared", "desk", "--plain", "--seconds", "0.3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[1:3] for line in lines] == [[f"market={name}", "state=SYNCHRONIZED"] for name in MARKETS]
        assert all(" cause=- " in line and " bids=5 " in line for line in lines)
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (again.returncode, f"is fed by process {feeder.pid}" in again.stderr) == (3, True)
        feeder.send_signal(signal.SIGINT)
        assert feeder.wait(30) == 0
    assert main(["watch", "--shared", "desk", "BTCUSDT", "--plain", "--seconds", "0.3"]) == 1
    assert "state=IDLE cause=FEEDER_GONE" in capsys.readouterr().out
    assert main(["watch", "--shared", "desk", "--plain", "--seconds", "0.3"]) == 3
    assert "No process feeds the share 'desk'" in capsys.readouterr().err
