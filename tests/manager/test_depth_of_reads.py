"""How many levels a read returns: the first snapshot has 100, and a caller that needs more says so."""

from decimal import Decimal

import pytest

import ldc

pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")

PATIENCE_S = 60


@pytest.fixture(scope="module")
def manager():
    simulator = pytest.importorskip("ldc.simulator")
    with (
        simulator.SimulatedExchange(["BTCUSDT"], venue="binance.com", seed=1, levels=3000) as exchange,
        ldc.DepthCacheManager(
            "binance.com", restful_base_uri=exchange.restful_base_uri, websocket_base_uri=exchange.websocket_base_uri
        ) as manager,
    ):
        manager.create_depth_cache("BTCUSDT")
        yield manager


def test_a_wait_for_levels_ends_when_both_sides_have_them(manager):
    assert manager.wait_until_synchronized("BTCUSDT", timeout=PATIENCE_S, levels=1000)
    book = manager.get_book("BTCUSDT", 1000, min_levels=1000)
    assert (len(book.bids), len(book.asks)) == (1000, 1000)
    # At most the 3,000 that the exchange has: a complete side is enough, however many levels are wanted.
    assert manager.wait_until_synchronized(timeout=PATIENCE_S, levels=100_000)
    assert manager.get_book("BTCUSDT", min_levels=100_000).bid_horizon is None


def test_a_book_that_is_known_to_fewer_levels_than_needed_is_refused():
    simulator = pytest.importorskip("ldc.simulator")
    with (
        simulator.SimulatedExchange(["BTCUSDT"], venue="binance.com", seed=1, levels=3000) as exchange,
        ldc.DepthCacheManager(
            "binance.com", snapshot_limit=100,
            restful_base_uri=exchange.restful_base_uri, websocket_base_uri=exchange.websocket_base_uri,
        ) as manager,
    ):  # fmt: skip
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        exchange.pause("BTCUSDT")
        assert not manager.wait_until_synchronized("BTCUSDT", timeout=0, levels=1000)
        for read in (manager.get_book, manager.get_asks, manager.get_bids):
            assert read("BTCUSDT", min_levels=10)
            with pytest.raises(ldc.DepthCacheOutOfSync, match=r"min_levels is 1000") as refused:
                read("BTCUSDT", min_levels=1000)
            assert refused.value.cause == "LEFT_HORIZON"


def test_reads_of_the_manager_have_limit_and_number(manager):
    assert manager.wait_until_synchronized("BTCUSDT", timeout=PATIENCE_S)
    assert len(manager.get_asks("BTCUSDT", limit=2)) == len(manager.get_bids("BTCUSDT", limit_count=2)) == 2
    [[price, quantity]] = manager.get_bids("BTCUSDT", limit=1, number=Decimal)
    assert {type(price), type(quantity)} == {Decimal}
    assert isinstance(manager.get_book("BTCUSDT", limit=1, number=str).asks[0][0], str)


@pytest.mark.parametrize(
    ("named", "error", "words"),
    [
        ({"limit_count": 1, "limit": 1}, TypeError, "two names of one thing"),
        ({"threshold_volume": -1}, ValueError, "not -1"),
        ({"min_levels": "many"}, TypeError, "min_levels is an int"),
        ({"min_levels": 5, "limit": 4}, ValueError, "more than the limit of 4"),
        ({"min_levels": 5, "threshold_volume": 4}, ValueError, "exclude each other"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(manager, named, error, words):
    with pytest.raises(error, match=words):
        manager.get_asks("BTCUSDT", **named)


def test_a_timeout_in_the_place_of_an_update_id_is_refused_and_does_not_spin(manager):
    assert manager.wait_until_synchronized("BTCUSDT", timeout=PATIENCE_S)
    with pytest.raises(ValueError, match="timeout=5"):
        manager.wait_for_update("BTCUSDT", 5)
    update_id = manager.get_book("BTCUSDT", 1).last_update_id
    assert manager.wait_for_update("BTCUSDT", 0) >= update_id
    assert manager.wait_for_update("BTCUSDT", update_id, PATIENCE_S) > update_id


def test_a_manager_says_how_many_of_its_markets_are_in_sync(manager):
    assert manager.wait_until_synchronized("BTCUSDT", timeout=PATIENCE_S)
    assert repr(manager) == "<BinanceLocalDepthCacheManager binance.com: 1 of 1 in sync>"
