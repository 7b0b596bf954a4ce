"""How a frame can be spoilt so that nothing may be taken from it. Each returns bytes that no book may apply."""

from collections.abc import Callable

__all__ = ["MALFORMED", "spoilt"]

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


def spoilt(frame: bytes, how: str, lot: Callable[[], float]) -> bytes:
    """Return the frame with that damage."""
    match how:
        case "cut":
            return frame[: int(lot() * len(frame))]
        case "two objects":
            return frame + frame
        case "BOM":
            return b"\xef\xbb\xbf" + frame
        case "trailing byte":
            return frame + b"x"
        case "bad number":
            return frame.replace(b'","', b'","x') if b'","' in frame.partition(b'"b"')[2] else frame + b"{"
    old, new = _REPLACED[how]
    assert old in frame
    return frame.replace(old, new, 1)
