"""UBLDC compatibility: names and constructor parameters of "Binance Local Depth Cache" libraries.

Renamed methods warn and forward. Methods without effect warn and do nothing. Removed ones raise ``AttributeError`` that
names the replacement, so ``hasattr`` is False. docs/migration.md has all of them in one table.

Rule 1: only names that the manager does not have itself come here, so its own methods cost nothing more.
"""

import warnings
from collections.abc import Iterable
from typing import Any

from ldc.network.ubdcc import UbdccCluster
from ldc.types import MarketName

RENAMED = {
    "create_depth_caches": "create_depth_cache",
    "stop_depth_caches": "stop_depth_cache",
    "stop_manager_with_all_caches": "stop_manager",
}
"""Old name -> the method that it is."""

WITHOUT_EFFECT = {
    "set_credentials": "depth caches need no API key",
}
"""Methods that may be called and do nothing, and why."""

_NO_VERSION_CHECK = "ldc never checks for newer versions; ask your package manager"
_NO_STREAMS = "ldc keeps its websockets private; get_status(market) reports their state"
_NO_THREAD = "the manager is no thread; use is_stop_request(), stop_manager(), or a with block"
GONE = {
    "dc_streams": _NO_STREAMS,
    "depth_caches": "read with get_book(market), or get_depth_cache(market).reader; get_status(market) has the state",
    "get_dc_stream_id": _NO_STREAMS,
    "get_latest_release_info": _NO_VERSION_CHECK,
    "get_latest_version": _NO_VERSION_CHECK,
    "get_stream_id": _NO_STREAMS,
    "get_ubra_manager": "ldc downloads snapshots itself; use a REST client of your own for the rest",
    "get_ubwa_manager": _NO_STREAMS,
    "is_alive": _NO_THREAD,
    "is_update_available": _NO_VERSION_CHECK,
    "join": _NO_THREAD,
    "print_summary_to_png": "print_summary() prints text; `ldc watch` shows live order books on a terminal",
    "stop_request": "use is_stop_request(), or is_stop_request(market)",
    "ubra": "ldc downloads snapshots itself; use a REST client of your own for the rest",
    "ubwa": _NO_STREAMS,
}
"""Methods and attributes that do not exist here, and what to use instead."""

_LICENCES = ("lucit_api_secret", "lucit_license_ini", "lucit_license_profile", "lucit_license_token")
IGNORED_PARAMETERS = frozenset({"warn_on_update", "disable_colorama", "auto_data_cleanup_stopped_streams", *_LICENCES})
"""Parameters of the constructor that are accepted with a warning and have no effect."""

REFUSED_PARAMETERS = {
    "default_update_interval": "it is called depth_cache_update_interval",
    "default_websocket_close_timeout": "it is called websocket_close_timeout",
    "default_websocket_ping_interval": "it is called websocket_ping_interval",
    "default_websocket_ping_timeout": "it is called websocket_ping_timeout",
    "ubra_manager": "snapshots need no REST manager; use restful_base_uri, proxy and weight_share",
    "ubwa_manager": "streams need no websocket manager; use websocket_base_uri and proxy",
}
"""Parameters of the constructor that are refused, and what to use instead."""


def lookup(owner: object, name: str) -> Any:
    """Return what a UBLDC name means for `owner`. Call it from ``__getattr__``: the warning names the caller's line.

    Raises ``AttributeError`` for a removed name, with the replacement, and for an unknown one.
    """
    if name in RENAMED:
        _warn(f"{name} is now called {RENAMED[name]}")
        return getattr(owner, RENAMED[name])
    if name in WITHOUT_EFFECT:
        _warn(f"{name} has no effect: {WITHOUT_EFFECT[name]}")
        return _do_nothing
    why = f": {GONE[name]}" if name in GONE else ""
    raise AttributeError(f"{type(owner).__name__} has no {name!r}{why}", name=name, obj=owner)


class CompatNames:
    """UBLDC's names of methods, without a warning because many programs use them. The manager has the methods."""

    def create_depth_cache(
        self, markets: MarketName | Iterable[MarketName], refresh_interval: float | None = None
    ) -> bool:
        """Start one or many depth caches."""
        raise NotImplementedError

    def stop_depth_cache(self, markets: MarketName | Iterable[MarketName]) -> bool:
        """Stop and delete one or many depth caches."""
        raise NotImplementedError

    def markets(self) -> list[str]:
        """Return the active markets."""
        raise NotImplementedError

    def refresh(self, markets: MarketName | Iterable[MarketName]) -> bool:
        """Check the levels of these markets against a new snapshot."""
        raise NotImplementedError

    def resync(self, market: MarketName, unsubscribe: bool = True) -> bool:
        """Take a book out of sync and synchronize it again."""
        raise NotImplementedError

    def stop(self) -> bool:
        """Stop everything."""
        raise NotImplementedError

    def create_depthcache(
        self, markets: MarketName | Iterable[MarketName], refresh_interval: float | None = None
    ) -> bool:
        """As `create_depth_cache`."""
        return self.create_depth_cache(markets, refresh_interval)

    def stop_depthcache(self, markets: MarketName | Iterable[MarketName]) -> bool:
        """As `stop_depth_cache`."""
        return self.stop_depth_cache(markets)

    def get_list_of_depth_caches(self) -> list[str]:
        """As `markets`."""
        return self.markets()

    def get_list_of_depthcaches(self) -> list[str]:
        """As `markets`."""
        return self.markets()

    def set_refresh_request(self, markets: MarketName | Iterable[MarketName]) -> bool:
        """As `refresh`."""
        return self.refresh(markets)

    def set_resync_request(self, market: MarketName, unsubscribe: bool = True) -> bool:
        """As `resync`."""
        return self.resync(market, unsubscribe)

    def stop_manager(self) -> bool:
        """As `stop`."""
        return self.stop()

    def stop_manager_with_all_depth_caches(self) -> bool:
        """As `stop`."""
        return self.stop()


def cluster_of(parameters: dict[str, Any]) -> UbdccCluster | None:
    """Return the cluster that UBLDC's parameters name; warn of ignored ones, raise for refused and for unknown ones.

    None and False are accepted for a refused parameter: in UBLDC they mean that it is not used.
    Call it from the constructor: the warning names the line of its caller.
    """
    address, port = parameters.pop("ubdcc_address", None), parameters.pop("ubdcc_port", None)
    for name, value in parameters.items():
        if name not in IGNORED_PARAMETERS and name not in REFUSED_PARAMETERS:
            raise TypeError(f"BinanceLocalDepthCacheManager() got an unexpected keyword argument {name!r}")
        if name in REFUSED_PARAMETERS and value is not None and value is not False:
            raise ValueError(f"{name} is not accepted: {REFUSED_PARAMETERS[name]}")
        warnings.warn(f"{name} has no meaning in ldc and is ignored", DeprecationWarning, stacklevel=3)
    return None if address is None else UbdccCluster(address, port)


def _warn(text: str) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=4)  # this function, lookup, __getattr__, the user's line


def _do_nothing(*_arguments: Any, **_named: Any) -> None:
    """Accept any arguments, as the UBLDC method did."""
