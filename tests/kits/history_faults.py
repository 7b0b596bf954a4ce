"""How an update can be damaged so that no book may apply any of it."""

from collections.abc import Callable

_REPLACED: dict[str, tuple[bytes, bytes]] = {
    "repeated key": (b'"u":', b'"u":1,"u":'),
    "negative id": (b'"u":', b'"u":-'),
    "id is a float": (b'"u":', b'"u":1.5,"v":'),
    "id too large": (b'"u":', b'"u":92233720368547758'),
    "first id past last": (b'"U":', b'"U":9'),
    "no levels": (b'"b":[', b'"c":['),
    "null": (b'"a":[', b'"a":null,"c":['),
    "no UTF-8": (b'"s":"', b'"s":"\xff'),
    "other symbol": (b'"s":"', b'"s":"X'),
    "other event": (b"depthUpdate", b"kline"),
}

MALFORMED = ("cut", "two objects", "BOM", "trailing byte", "bad number", *_REPLACED)


def malformed(payload: bytes, how: str, draw: Callable[[], float]) -> bytes:
    """Return the payload with this damage; `how` is one of `MALFORMED`."""
    match how:
        case "cut":
            return payload[: int(draw() * len(payload))]
        case "two objects":
            return payload + payload
        case "BOM":
            return b"\xef\xbb\xbf" + payload
        case "trailing byte":
            return payload + b"x"
        case "bad number":
            return payload.replace(b'","', b'","x') if b'","' in payload.partition(b'"b"')[2] else payload + b"{"
    old, new = _REPLACED[how]
    assert old in payload
    return payload.replace(old, new, 1)
