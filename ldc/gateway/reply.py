"""An answer as a value, and the answers that every part gives."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json;charset=UTF-8"

USED_WEIGHT = {"X-MBX-USED-WEIGHT": "0", "X-MBX-USED-WEIGHT-1M": "0"}
"""Headers of each answer in the exchange's dialect that is no error. The gateway counts no weight, but some clients
take no snapshot before they have read it.
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a value as JSON."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Reply(status, body, JSON, headers or {})


def error_reply(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    """Return an error in the exchange's form; the code is its status, as no exchange's code is a positive number."""
    return json_reply({"code": status, "msg": message, **more}, status, headers)
