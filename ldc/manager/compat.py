"""Names that managers of other depth cache libraries have or had: what they mean here, or what to use instead.

Rule 1: data and one look-up. What the manager offers itself never comes through here, so it costs nothing.
Rule 2: what does nothing warns; what cannot be had is an ``AttributeError`` that says what to use, and ``hasattr`` is
    False. Nothing pretends.

docs/migration.md has all of them in one table.
"""

import warnings
from typing import TYPE_CHECKING, Any

__all__ = ["GONE", "RENAMED", "WITHOUT_EFFECT", "CompatNames"]

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

_NO_LOOK = "ldc never looks for newer versions; ask your package manager"
_NO_STREAMS = "websockets are an inside matter of ldc; get_status(market) says what there is to know"
_NO_THREAD = "the manager is no thread; use is_stop_request(), stop_manager(), or a with block"
GONE = {
    "cluster": "depth cache clusters are not supported",
    "dc_streams": _NO_STREAMS,
    "depth_caches": "read with get_book(market), or get_depth_cache(market).reader; get_status(market) has the state",
    "get_dc_stream_id": _NO_STREAMS,
    "get_latest_release_info": _NO_LOOK,
    "get_latest_version": _NO_LOOK,
    "get_stream_id": _NO_STREAMS,
    "get_ubra_manager": "ldc downloads snapshots itself; use a REST client of your own for the rest",
    "get_ubwa_manager": _NO_STREAMS,
    "is_alive": _NO_THREAD,
    "is_update_available": _NO_LOOK,
    "join": _NO_THREAD,
    "print_summary_to_png": "print_summary() prints text; `ldc watch` shows live order books on a terminal",
    "stop_request": "use is_stop_request(), or is_stop_request(market)",
    "ubra": "ldc downloads snapshots itself; use a REST client of your own for the rest",
    "ubwa": _NO_STREAMS,
}
"""Methods and attributes that do not exist here, and what to use instead."""


class CompatNames:
    """What a manager answers when it is asked for a name that it does not have itself."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker is to go on finding names that are misspelt

        def __getattr__(self, name: str) -> Any:
            if name in RENAMED:
                _warn(f"{name} is now called {RENAMED[name]}")
                return getattr(self, RENAMED[name])
            if name in WITHOUT_EFFECT:
                _warn(f"{name} has no effect: {WITHOUT_EFFECT[name]}")
                return _nothing
            why = f": {GONE[name]}" if name in GONE else ""
            raise AttributeError(f"{type(self).__name__} has no {name!r}{why}", name=name, obj=self)


def _warn(text: str) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=3)


def _nothing(*_arguments: Any, **_named: Any) -> None:
    """Take whatever a former method took."""
