"""The description of all paths, in the form of OpenAPI: for people who look, and for programs that make clients."""

from collections.abc import Iterable
from typing import Any

import ldc
from ldc.wire.families import Family

_MARKET = ("market", "query", "such as BTCUSDT", False)
_EXCHANGE = ("exchange", "query", "the exchange string of the gateway", True)
_CALL_MARKET = ("market", "query", "such as BTCUSDT", True)
_LIMIT = ("limit_count", "query", "levels a side", False)
_SYMBOL = ("symbol", "query", "such as BTCUSDT, upper case", True)


def document(family: Family) -> dict[str, Any]:
    """Return the document of a gateway that speaks the dialect of this family."""
    api = family.depth_path.removesuffix("depth")
    paths: dict[str, Any] = {
        family.depth_path: _get("The book", _SYMBOL, ("limit", "query", "levels a side", False), lost=True),
        f"{api}ping": _get("Nothing"),
        f"{api}time": _get("The time of this machine"),
        f"{api}exchangeInfo": _get("The exchange's own exchangeInfo, cut to the markets that are served", lost=True),
        "/ldc/status": _get("State, cause, ids, horizons and counters of each market, and of the gateway", _MARKET),
        "/ldc/events/{market}": _get(
            "Server-sent events: the latest state of the book",
            ("market", "path", "such as BTCUSDT", True),
            ("levels", "query", "levels a side, 20 unless said otherwise", False),
        ),
        "/ldc/session": {"post": _operation("Exchange the token for a cookie", ())},
        "/healthz": _get("200: the process works"),
        "/readyz": _get("200: all books can be read, or that of the market", _MARKET),
        "/metrics": _get("Figures for Prometheus, if prometheus-client is installed"),
        "/test": _get("UBDCC: that it is there"),
        "/get_asks": _get("UBDCC: asks", _EXCHANGE, _CALL_MARKET, _LIMIT),
        "/get_bids": _get("UBDCC: bids", _EXCHANGE, _CALL_MARKET, _LIMIT),
        "/get_book": _get("Both sides of one update id, in UBDCC's envelope", _EXCHANGE, _CALL_MARKET, _LIMIT),
        "/get_depthcache_list": _get("UBDCC: the markets"),
        "/get_depthcache_info": _get("UBDCC: the status of a market", _EXCHANGE, _CALL_MARKET),
        "/get_cluster_info": _get("UBDCC: the status of all"),
        "/create_depthcache": _get_and_post("UBDCC: create a depth cache", _EXCHANGE, _CALL_MARKET),
        "/create_depthcaches": _get_and_post("UBDCC: create depth caches", _EXCHANGE),
        "/stop_depthcache": _get_and_post("UBDCC: stop a depth cache", _EXCHANGE, _CALL_MARKET),
    }
    if family.rest_ticker:
        paths[f"{api}ticker/bookTicker"] = _get("The best prices", (*_SYMBOL[:3], False), lost=True)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ldc gateway", "version": ldc.__version__, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


def _get(summary: str, *parameters: tuple[str, str, str, bool], lost: bool = False) -> dict[str, Any]:
    return {"get": _operation(summary, parameters, lost)}


def _get_and_post(summary: str, *parameters: tuple[str, str, str, bool]) -> dict[str, Any]:
    return {method: _operation(summary, parameters) for method in ("get", "post")}


def _operation(summary: str, parameters: Iterable[tuple[str, str, str, bool]], lost: bool = False) -> dict[str, Any]:
    answers = {"200": {"description": "the answer"}, "401": {"description": "the token is missing or wrong"}}
    if lost:
        answers["503"] = {"description": "the book cannot be proven right; `cause` says why"}
    listed = [
        {"name": name, "in": place, "description": what, "required": is_required, "schema": {"type": "string"}}
        for name, place, what, is_required in parameters
    ]
    return {"summary": summary, "parameters": listed, "responses": answers}
