"""Control requests of a websocket client: text in, text out.

Rule 1: no socket. A request changes a `Subscriptions`, and the answer is returned.
"""

import json
from typing import Any

from ldc.wire.streams import Form


class Subscriptions:
    """The streams of a connection, and the form of their messages.

    Args:
        combined: whether messages have the wrapper that names their stream.
        microseconds: whether event times are in microseconds.
        streams_max: maximum streams.
    """

    def __init__(self, combined: bool, microseconds: bool, streams_max: int) -> None:
        self.form = Form(combined, microseconds)
        self.streams: dict[str, None] = {}
        """Names in the order of their subscription, whether the stream exists or not."""
        self.streams_max = streams_max

    def add(self, names: list[str]) -> bool:
        """Subscribe these as well, or none of them if they would be too many; return whether it did."""
        wanted = self.streams | dict.fromkeys(names)
        if len(wanted) > self.streams_max:
            return False
        self.streams = wanted
        return True

    def remove(self, names: list[str]) -> None:
        """Unsubscribe these."""
        for name in names:
            self.streams.pop(name, None)


def answer(subscriptions: Subscriptions, text: str) -> str:
    """Execute a request; return the answer."""
    identity = None
    try:
        request = _object(text)
        identity = _identity(request)
        result = _executed(subscriptions, request)
    except _Refused as refusal:
        code, message = refusal.args
        return _text({"code": code, "msg": message} | ({} if identity is None else {"id": identity}))
    except _TooMany:
        return _text({"error": {"code": 4, "msg": "Too many subscriptions"}, "id": identity})
    return _text({"result": result, "id": identity})


class _Refused(Exception):
    """(code, message)."""


class _TooMany(Exception):
    """Its answer has a form of its own."""


def _object(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except ValueError as error:
        raise _Refused(3, f"Invalid JSON: {error}") from None
    if not isinstance(request, dict):
        raise _Refused(2, "Invalid request: request must be an object")
    return request


def _identity(request: dict[str, Any]) -> Any:
    identity = request.get("id")
    if isinstance(identity, bool | float | list | dict) or (isinstance(identity, str) and len(identity) > 36):
        raise _Refused(2, "Invalid request: id must be an integer, a string of at most 36 characters, or null")
    return identity


def _executed(subscriptions: Subscriptions, request: dict[str, Any]) -> Any:
    parameters = request.get("params", [])
    if not isinstance(parameters, list):
        raise _Refused(2, "Invalid request: params must be an array")
    match request.get("method"):
        case "SUBSCRIBE":
            # A stream that does not exist is accepted like any other, and stays silent.
            if not subscriptions.add(_names(parameters)):
                raise _TooMany
            return None
        case "UNSUBSCRIBE":
            return subscriptions.remove(_names(parameters))
        case "LIST_SUBSCRIPTIONS":
            return list(subscriptions.streams)
        case "SET_PROPERTY" | "GET_PROPERTY" as method:
            return _property(subscriptions, method, parameters)
        case other:
            raise _Refused(2, f"Invalid request: unknown variant `{other}`")


def _names(parameters: list[Any]) -> list[str]:
    if not parameters or not all(isinstance(name, str) for name in parameters):
        raise _Refused(2, "Invalid request: params must be an array of stream names")
    return parameters


def _property(subscriptions: Subscriptions, method: str, parameters: list[Any]) -> bool | None:
    if not parameters or parameters[0] != "combined":
        raise _Refused(0, "Unknown property")
    if method == "GET_PROPERTY":
        return subscriptions.form.combined
    if len(parameters) != 2 or not isinstance(parameters[1], bool):
        raise _Refused(1, "Invalid value type: expected Boolean")
    subscriptions.form = subscriptions.form._replace(combined=parameters[1])
    return None


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
