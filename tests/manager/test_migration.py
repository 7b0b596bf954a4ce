"""Programs written for UBLDC 2.14 and earlier: every name of its API is called as its users call it, old and new.

The names and signatures were read from the released package by introspection. docs/migration.md lists the meaning of
each, and these tests verify it.
"""

import re
import warnings
from pathlib import Path

import pytest
from live_kit import eventually, no_thread_is_left  # noqa: F401 - used by its name
from loopback_exchange import PATIENCE_S
from simulator_kit import managed, simulated

import binance_local_depth_cache as ubldc
from ldc.manager import compat

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
NAMES_ON_PAGE = set(re.findall(r"`(\w+)`", PAGE))

PARAMETERS = {
    "default_refresh_interval": 3600,
    "depth_cache_update_interval": 100,
    "high_performance": False,
    "auto_data_cleanup_stopped_streams": True,
    "init_interval": 4.0,
    "init_time_window": 5,
    "on_restart": None,
    "websocket_close_timeout": 2,
    "websocket_ping_interval": 10,
    "websocket_ping_timeout": 20,
    "disable_colorama": True,
    "ubdcc_address": None,
    "ubdcc_port": 80,
    "ubra_manager": None,
    "warn_on_update": False,
}
"""All of 2.14 behind `exchange`, as programs give them."""

METHODS = {
    "create_depth_cache", "create_depthcache", "get_asks", "get_bids", "get_dc_stream_id", "get_last_restart_time",
    "get_last_update_time", "get_latest_release_info", "get_latest_version", "get_list_of_depth_caches",
    "get_list_of_depthcaches", "get_restart_count", "get_ubra_manager", "get_ubwa_manager", "get_user_agent",
    "get_version", "is_depth_cache_synchronized", "is_stop_request", "is_update_available", "print_summary",
    "print_summary_to_png", "set_credentials", "set_refresh_request", "set_resync_request", "stop_depth_cache",
    "stop_depthcache", "stop_manager",
}  # fmt: skip
ATTRIBUTES = {"cluster", "dc_streams", "depth_caches", "is_alive", "join", "stop_request", "ubra", "ubwa"}
OLDER_METHODS = {
    "create_depth_caches", "get_stream_id", "stop_depth_caches", "stop_manager_with_all_caches",
    "stop_manager_with_all_depth_caches",
}  # fmt: skip
OLDER_PARAMETERS = {
    "default_update_interval", "default_websocket_close_timeout", "default_websocket_ping_interval",
    "default_websocket_ping_timeout", "lucit_api_secret", "lucit_license_ini", "lucit_license_profile",
    "lucit_license_token", "ubwa_manager",
}  # fmt: skip
EXCEPTIONS = {
    "DepthCacheAlreadyStopped", "DepthCacheClusterNotReachableError", "DepthCacheNotFound", "DepthCacheOutOfSync",
}  # fmt: skip
EXCHANGES = [
    "binance.com", "binance.com-testnet", "binance.com-margin", "binance.com-margin-testnet",
    "binance.com-isolated_margin", "binance.com-isolated_margin-testnet", "binance.com-futures",
    "binance.com-futures-testnet", "binance.com-vanilla-options", "binance.com-vanilla-options-testnet",
    "binance.us", "trbinance.com",
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("error", "ignore:.* has no meaning in ldc:DeprecationWarning")


@pytest.fixture
def manager():
    """A manager made with all parameters of 2.14, in front of an exchange, with two synchronized markets."""
    with simulated(markets=("BTCUSDT", "ETHUSDT", "BNBUSDT"), updates_per_second=50.0) as exchange:
        parameters = PARAMETERS | {"init_interval": 0.01, "init_time_window": 0.01}
        with managed(exchange, "binance.com", **parameters) as manager:
            assert manager.create_depthcache(markets=["BTCUSDT", "ethusdt"], refresh_interval=3600) is True
            eventually(
                lambda: all(manager.is_depth_cache_synchronized(market=each) for each in ("btcusdt", "ETHUSDT")),
                "both to be in sync",
            )
            yield manager


# ------------------------------------------------------------------------------------------------------ the page


def test_the_page_names_the_whole_surface():
    surface = {"exchange", *PARAMETERS, *METHODS, *ATTRIBUTES, *EXCEPTIONS}
    assert surface | OLDER_METHODS | OLDER_PARAMETERS <= NAMES_ON_PAGE


def test_every_compat_name_of_the_code_is_on_the_page():
    known = {*compat.RENAMED, *compat.WITHOUT_EFFECT, *compat.GONE}
    assert known | {*compat.IGNORED_PARAMETERS, *compat.REFUSED_PARAMETERS} <= NAMES_ON_PAGE


def test_the_page_is_right_about_what_warns_and_what_is_missing():
    rows = {
        name: line
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    for name in METHODS | ATTRIBUTES | OLDER_METHODS:
        warns = name in compat.RENAMED or name in compat.WITHOUT_EFFECT
        assert ("`DeprecationWarning`" in rows[name], "`AttributeError`" in rows[name]) == (
            warns,
            name in compat.GONE,
        ), name


# ------------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_every_exchange_is_understood(exchange):
    with ubldc.BinanceLocalDepthCacheManager(exchange=exchange) as manager:
        assert manager.is_stop_request() is False


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_parameter_is_taken(parameter):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ubldc.BinanceLocalDepthCacheManager("binance.com", **{parameter: PARAMETERS[parameter]})
    is_compat = parameter in compat.IGNORED_PARAMETERS or parameter in compat.REFUSED_PARAMETERS
    assert [parameter in str(warning.message) for warning in caught] == [True] * is_compat
    assert {warning.filename for warning in caught} <= {__file__}  # the line of the user, not of ldc


@pytest.mark.parametrize("parameter", sorted(OLDER_PARAMETERS | {"ubra_manager"}))
def test_a_parameter_that_would_change_something_is_taken_without_effect_or_refused_with_the_way_out(parameter):
    if parameter.startswith("lucit"):
        with pytest.warns(DeprecationWarning, match=parameter):
            ubldc.BinanceLocalDepthCacheManager(**{parameter: "something"})
    else:
        with pytest.raises(ValueError, match=rf"{parameter} is not accepted: .{{20}}"):
            ubldc.BinanceLocalDepthCacheManager(**{parameter: 100})


def test_the_present_name_of_a_refused_parameter_exists():
    for removed, why in compat.REFUSED_PARAMETERS.items():
        if why.startswith("it is called "):
            ubldc.BinanceLocalDepthCacheManager(**{why.removeprefix("it is called "): 100})
            assert removed.endswith(why.removeprefix("it is called ").removeprefix("depth_cache_"))


# ------------------------------------------------------------------------------------------------------ methods


def test_reading(manager):
    asks = manager.get_asks(market="BTCUSDT", limit_count=5, threshold_volume=None)
    bids = manager.get_bids("btcusdt", 5)
    assert len(asks) == len(bids) == 5
    assert all(type(number) is float for level in asks + bids for number in level)
    assert [price for price, _ in asks] == sorted(price for price, _ in asks)
    assert [price for price, _ in bids] == sorted((price for price, _ in bids), reverse=True)
    assert len(manager.get_asks(market="BTCUSDT", threshold_volume=1)) == 1
    assert len(manager.get_bids(market="BTCUSDT")) > 20
    assert manager.get_asks("BTCUSDT", limit_count=0) == []


def test_reads_of_the_migration_page(manager, capsys):
    assert sorted(manager.get_list_of_depthcaches()) == sorted(manager.get_list_of_depth_caches())
    assert sorted(manager.get_list_of_depth_caches()) == ["BTCUSDT", "ethusdt"]
    assert isinstance(manager.get_last_update_time(market="BTCUSDT"), int)
    assert manager.get_last_restart_time(market="BTCUSDT") is None
    assert manager.get_restart_count(market="BTCUSDT") == 0
    assert manager.is_stop_request(market="BTCUSDT") is False
    assert manager.get_version() in manager.get_user_agent()
    assert capsys.readouterr().out == ""
    manager.print_summary(add_string="added below", footer="at the end", title="My bot")
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-2:]) == ("My bot", ["added below", "at the end"])


def test_requests(manager):
    assert manager.set_refresh_request(markets=["BTCUSDT", "ETHUSDT"]) is True
    assert manager.set_refresh_request("ETHUSDT") is True
    assert manager.set_resync_request(market="BTCUSDT", unsubscribe=False) is True
    assert manager.set_resync_request("BTCUSDT") is True
    eventually(lambda: manager.get_status("BTCUSDT").resyncs.get("REQUESTED"), "the resync")
    assert manager.wait_until_synchronized(timeout=PATIENCE_S)


def test_stopping(manager):
    assert manager.stop_depthcache(markets="ETHUSDT") is True
    assert manager.get_list_of_depthcaches() == ["BTCUSDT"]
    assert manager.is_stop_request(market="ETHUSDT") is True
    with pytest.raises(ubldc.DepthCacheAlreadyStopped, match="ETHUSDT"):
        manager.get_asks(market="ETHUSDT")
    assert manager.create_depth_cache(markets="BNBUSDT") is True
    assert manager.stop_depth_cache(markets=["BNBUSDT", "BTCUSDT"]) is True
    for call in (manager.get_bids, manager.get_last_update_time, manager.stop_depthcache, manager.set_refresh_request):
        with pytest.raises(ubldc.DepthCacheNotFound, match="NEVERUSDT"):
            call("NEVERUSDT")
    assert manager.stop_manager() is True
    assert manager.is_stop_request() is True
    with pytest.raises(ubldc.DepthCacheAlreadyStopped) as raised:
        manager.get_asks(market="BTCUSDT")
    assert raised.value.message == str(raised.value)


def test_a_read_of_a_book_out_of_sync_raises(manager):
    manager.create_depthcache("NOSUCHMARKETUSDT")
    with pytest.raises((ubldc.DepthCacheOutOfSync, ubldc.DepthCacheNotFound), match="NOSUCHMARKETUSDT"):
        manager.get_asks(market="NOSUCHMARKETUSDT")


def test_the_oldest_names_run_and_say_what_they_are_called_now(manager):
    with pytest.warns(DeprecationWarning, match="create_depth_caches is now called create_depth_cache") as warned:
        assert manager.create_depth_caches(markets=["BNBUSDT"]) is True
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="stop_depth_caches is now called stop_depth_cache"):
        assert manager.stop_depth_caches(markets=["BNBUSDT"]) is True
    with pytest.warns(DeprecationWarning, match="set_credentials has no effect"):
        assert manager.set_credentials(api_key="key", api_secret="secret") is None
    assert manager.stop_manager_with_all_depth_caches() is True
    with pytest.warns(DeprecationWarning, match="stop_manager_with_all_caches is now called stop_manager"):
        assert manager.stop_manager_with_all_caches() is True


@pytest.mark.parametrize("name", sorted((METHODS | ATTRIBUTES | OLDER_METHODS) & set(compat.GONE)))
def test_a_removed_name_raises_and_names_the_replacement(name):
    manager = ubldc.BinanceLocalDepthCacheManager()
    assert not hasattr(manager, name)
    with pytest.raises(AttributeError, match=re.escape(compat.GONE[name])):
        getattr(manager, name)


def test_a_misspelt_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="BinanceLocalDepthCacheManager has no 'get_askz'$"):
        _ = ubldc.BinanceLocalDepthCacheManager().get_askz


def test_on_restart_is_called_with_the_market_and_the_time():
    calls = []
    with (
        simulated(markets=("BTCUSDT",), updates_per_second=50.0) as exchange,
        managed(exchange, "binance.com", on_restart=lambda market, when: calls.append((market, when))) as manager,
    ):
        manager.create_depthcache("BTCUSDT")
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        exchange.inject("reset")
        eventually(lambda: calls, "the call")
        assert calls == [("BTCUSDT", manager.get_last_restart_time("BTCUSDT"))]


# ------------------------------------------------------------------------------------------------------ exceptions


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_exceptions_are_made_and_caught_as_before(name):
    exception = getattr(ubldc, name)
    error = exception("BTCUSDT")
    assert "BTCUSDT" in error.message
    assert isinstance(error, Exception)
    assert exception().message
    named = {"url": "host"} if name == "DepthCacheClusterNotReachableError" else {"market": "BTCUSDT"}
    assert exception(**named).message == str(exception(**named))
