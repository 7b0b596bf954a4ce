"""REST requests: what a query means, and the error with which the exchange answers a wrong one."""

import json
import re
from collections.abc import Mapping

from ldc.venues import Venue
from ldc.wire.families import Family

_SYMBOL = re.compile(r"[\w.\-]{1,50}")


class Refused(Exception):
    """The error with which a request is answered."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        self.status = status
        self.body = json.dumps({"code": code, "msg": message}, separators=(",", ":")).encode()
        super().__init__(message)


def requested_symbol(query: Mapping[str, str]) -> str:
    """Return the symbol of a query, which must be there and be spelt as the exchange spells symbols."""
    symbol = query.get("symbol", "")
    if not symbol:
        raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if _SYMBOL.fullmatch(symbol) is None or any("a" <= letter <= "z" for letter in symbol):
        raise Refused(
            -1100, r"Illegal characters found in parameter 'symbol'; legal range is '^[\w\-._&&[^a-z]]{1,50}$'."
        )
    return symbol


def depth_request(family: Family, venue: Venue, query: Mapping[str, str]) -> tuple[str, int]:
    """Return the symbol and the levels a side that a snapshot is requested of; raise `Refused` for a wrong request."""
    symbol = requested_symbol(query)
    text = query.get("limit", str(family.default_limit))
    if re.fullmatch(r"-?[0-9]{1,20}", text) is None:
        raise Refused(-1100, "Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'.")
    limit, served = int(text), venue.snapshot_limits
    if served is not None and limit not in served:
        raise Refused(-4021, f"{limit} is not valid depth limit.")
    if limit < 1:
        raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
    return symbol, min(limit, venue.snapshot_limit_max)
