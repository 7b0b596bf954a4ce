"""What callers pass to the manager: types from numpy, config files and command lines, and names of other libraries."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from live_kit import live, no_thread_is_left, synchronize  # noqa: F401

from ldc.errors import DepthCacheNotFound, UnknownExchange, UnknownMarket
from ldc.manager import lifecycle, parameters
from ldc.manager.manager import BinanceLocalDepthCacheManager
from ldc.venues import OTHER_NAMES, VENUES, did_you_mean, plain_market, venue_named

numpy = pytest.importorskip("numpy")

NUMBERS = [60, 60.0, numpy.int64(60), numpy.float32(60), numpy.float64(60), Decimal(60), Fraction(60)]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["default_refresh_interval", "init_interval", "websocket_ping_interval"])
def test_seconds_are_any_number(name: str, value: Any):
    """A regression: ``np.int64(60)`` was refused as no number."""
    BinanceLocalDepthCacheManager("binance.com", **{name: value}).stop_manager()


@pytest.mark.parametrize("name", ["snapshot_limit", "markets_per_connection"])
def test_counts_are_integers_of_numpy_too(name: str):
    with BinanceLocalDepthCacheManager("binance.com", **{name: numpy.int64(100)}) as manager:
        assert type(getattr(manager._own.settings, name)) is int


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_refresh_interval", "60"),
        ("default_refresh_interval", True),
        ("depth_cache_update_interval", "100"),
        ("depth_cache_update_interval", 100.0),
        ("snapshot_limit", "1000"),
        ("snapshot_limit", True),
        ("markets_per_connection", "50"),
        ("redundancy", 2.0),
        ("weight_share", None),
        ("weight_share", "0.5"),
        ("weight_share", float("nan")),
        ("high_performance", "false"),
        ("high_performance", 0),
        ("on_restart", "notify"),
        ("websocket_ping_interval", None),
        ("restful_base_uri", 5),
        ("weight_pool", ""),
        ("weight_pool", 5),
        ("exchange", None),
        ("exchange", b"binance.com"),
        ("exchange", ["binance.com"]),
    ],
)
def test_the_constructor_names_a_parameter_of_a_wrong_type(name: str, value: Any):
    """A regression: ``high_performance="false"`` used the whole weight, ``on_restart="notify"`` failed much later."""
    with pytest.raises(ValueError, match=name):
        BinanceLocalDepthCacheManager(**{name: value})


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_each_call_names_an_argument_of_a_wrong_type(kind: str):
    with live(kind) as (exchange, manager):
        synchronize(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        calls: list[tuple[Any, str]] = [
            (lambda: manager.create_depth_cache(None), "markets"),
            (lambda: manager.create_depth_cache(b"BTCUSDT"), "markets"),
            (lambda: manager.create_depth_cache(["ETHUSDT", 5]), "markets"),
            (lambda: manager.create_depth_cache("ETHUSDT", refresh_interval="60"), "refresh_interval"),
            (lambda: manager.stop_depth_cache(5), "markets"),
            (lambda: manager.set_refresh_request([None]), "markets"),
            (lambda: manager.set_resync_request("BTCUSDT", unsubscribe="no"), "unsubscribe"),
            (lambda: manager.get_asks(["BTCUSDT"]), "market"),
            (lambda: manager.get_bids(None), "market"),
            (lambda: manager.get_book(5), "market"),
            (lambda: manager.get_asks("BTCUSDT", max_age="5"), "max_age"),
            (lambda: manager.get_book("BTCUSDT", "2"), "str"),
            (lambda: manager.is_depth_cache_synchronized("BTCUSDT", max_age="5"), "max_age"),
            (lambda: manager.wait_until_synchronized(timeout="1"), "timeout"),
            (lambda: manager.wait_for_update("BTCUSDT", timeout="1"), "timeout"),
            (lambda: manager.wait_for_update("BTCUSDT", after_update_id="5", timeout=1), "after_update_id"),
            (lambda: manager.wait_for_update("BTCUSDT", timeout=1, spin_us="5"), "spin_us"),
            (lambda: cache.wait_until_synchronized(timeout=[1]), "timeout"),
        ]
        for call, name in calls:
            with pytest.raises(TypeError, match=name):
                call()
        assert manager.get_list_of_depth_caches() == ["BTCUSDT"]
        assert manager.is_depth_cache_synchronized("BTCUSDT", max_age=numpy.float32(60))
        assert manager.wait_until_synchronized(timeout=Decimal(1))
        reached = cache.reader.last_update_id
        assert manager.wait_for_update("BTCUSDT", numpy.int64(reached - 1), numpy.int64(1)) == reached


def test_names_from_numpy_come_back_as_plain_texts():
    with live() as (_, manager):
        manager.create_depth_cache(numpy.array(["BTCUSDT"]))
        assert [type(market) for market in manager.get_list_of_depth_caches()] == [str]


def test_a_timeout_that_is_no_number_says_what_it_may_be():
    with pytest.raises(ValueError, match="without end, not nan"):
        parameters.timeout(float("nan"))
    assert parameters.timeout(None) is None
    assert parameters.timeout(1e300) < 1e12


# ------------------------------------------------------------------------------------------------ names


def test_the_name_of_an_exchange_ignores_case():
    for exchange, venue in VENUES.items():
        assert venue_named(f" {exchange.upper()} ") is venue
    with BinanceLocalDepthCacheManager("Binance.com") as manager:
        assert manager.exchange == "binance.com"


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_the_name_of_another_library_is_recognized(name: str):
    library, here = OTHER_NAMES[name]
    assert here in VENUES
    with pytest.raises(UnknownExchange, match=f"It is {library}'s name of '{here}'"):
        venue_named(name.upper())


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("binance.com-future", "binance.com-futures"),
        ("binancecom", "binance.com"),
        ("binance-us", "binance.us"),
        ("tr.binance.com", "trbinance.com"),
        ("binance.com-coin-futures", "binance.com-coin_futures"),
        ("simulater", "simulator"),
    ],
)
def test_a_misspelt_exchange_is_answered_with_the_likely_one(wrong: str, right: str):
    with pytest.raises(UnknownExchange, match=f"Did you mean '{right}'"):
        venue_named(wrong)


def test_a_name_that_is_like_none_is_answered_with_the_choices_only():
    with pytest.raises(UnknownExchange) as unknown:
        venue_named("kraken")
    assert "mean" not in str(unknown.value)
    assert did_you_mean("", ()) is None


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        ("BTC/USDT", "BTCUSDT"),
        ("btc/usdt:usdt", "BTCUSDT"),
        ("BTC-USDT", "BTCUSDT"),
        ("1000PEPE_USDT", "1000PEPEUSDT"),
        ("BTCUSDT", None),
        ("BTCUSDT_240628", None),
        ("", None),
        ("//", None),
    ],
)
def test_the_spelling_of_another_library_is_recognized(elsewhere: str, here: str | None):
    assert plain_market(elsewhere) == here


def test_a_market_in_the_spelling_of_another_library_is_answered_with_ours():
    with live() as (exchange, manager):
        with pytest.raises(ValueError, match="Other libraries spell 'BTCUSDT' so"):
            manager.create_depth_cache("BTC/USDT")
        manager.create_depth_cache("BTC-USDT")  # may be a market, so the exchange is asked
        with pytest.raises(UnknownMarket, match="did you mean 'BTCUSDT'"):
            manager.wait_until_synchronized("BTC-USDT", timeout=20)
        synchronize(exchange, manager, "BTCUSDT")
        for wrong in ("BTCUSD", "BTC_USDT", "btcusdtt"):
            with pytest.raises(DepthCacheNotFound, match="did you mean 'BTCUSDT'"):
                manager.get_asks(wrong)
        with pytest.raises(DepthCacheNotFound, match="does not exist; create it"):
            manager.is_stop_request("XRPEUR")


# ------------------------------------------------------------------------------------------------ the weight pool


def test_managers_of_one_weight_pool_share_their_budgets_whatever_proxies_they_use():
    """Two proxies may have one address towards the exchange, which only the caller can know."""
    nowhere = {"restful_base_uri": "http://127.0.0.1:9", "websocket_base_uri": "ws://127.0.0.1:9"}
    shared = [{"proxy": "http://127.0.0.1:9"}, {"proxy": "http://localhost:9"}, {}]
    given = [*shared, *({**each, "weight_pool": "office"} for each in shared)]
    managers = [BinanceLocalDepthCacheManager("binance.com", **nowhere, **each) for each in given]
    try:
        for manager in managers:
            manager.create_depth_cache("BTCUSDT")
        pools = [manager._own.downloads.queue_client.pool_name for manager in managers]
        connects = [manager._own.connect_budget for manager in managers]
        assert len(set(pools[:3])) == len({id(each) for each in connects[:3]}) == 3
        assert len(set(pools[3:])) == len({id(each) for each in connects[3:]}) == 1
        assert pools[3] not in pools[:3]
    finally:
        for manager in managers:
            manager.stop_manager()
        lifecycle._connect_budgets.clear()
