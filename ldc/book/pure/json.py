"""Read Binance's messages strictly, in plain Python: bytes in, ids, times and the texts of the levels out.

Rule 1: what is not exactly what docs/order-book.md allows is `Unreadable`; nothing is guessed, rounded or repaired.
Rule 2: the time is linear in the size of the message, whatever the message says.
Rule 3: nothing here knows a book; scales, horizons and the judging of ids are the book's.

Theory of operation. The decoder of the standard library reads the JSON. It is strict but for five things, which are
added here: it takes NaN and Infinity (`parse_constant` refuses them), integers without end (`parse_int` reads what fits
in int64), repeated keys (an object is read as a tuple of (key, value) pairs, an array as a list, so that repeated keys
stay visible), lone surrogates (searched where there is a backslash at all), and any nesting that the stack can bear
(measured where there are brackets enough for it, besides those of the levels).
"""

import json
import re
import sys
from typing import Any, NamedTuple

from ldc.sequence import UPDATE_ID_MAX
from ldc.types import Header, Message

NESTING_MAX = 32
"""Containers in containers, the outermost counted; Binance's messages have 4. A deeper message is refused."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of a message. A longer one is refused before it is read. (A snapshot of 5,000 levels a side has 300 kB.)"""
LEVELS_PER_MESSAGE_MAX = 100_000
"""Both sides together. A message with more is refused."""
DECIMALS_MAX = 18
"""10**18 is the last power of ten that fits int64. A number with more decimals is refused."""
INT64_MAX = 2**63 - 1
POWERS_OF_TEN: tuple[int, ...] = tuple(10**decimals for decimals in range(DECIMALS_MAX + 1))

_EVENT_KEYS = frozenset({"e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st"})
_OUTERMOST_KEYS = _EVENT_KEYS | {"stream", "data"}
_SNAPSHOT_KEYS = frozenset({"lastUpdateId", "bids", "asks", "E", "T", "bidHorizon", "askHorizon"})

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)
_SOUND_ESCAPE = re.compile(
    r"""\\(?: [^u]
          | u (?![dD][89a-fA-F]) [0-9a-fA-F]{4}
          | u [dD][89abAB][0-9a-fA-F]{2} \\u [dD][c-fC-F][0-9a-fA-F]{2} )""",
    re.VERBOSE,
)


class Unreadable(Exception):
    """Why a message is refused. The book makes a ``MalformedMessage`` of it, which also names the market."""


class DepthUpdate(NamedTuple):
    """A depth update whose JSON is right; its ids are not compared, and its levels are still texts."""

    header: Header
    transaction_time_ms: int | None
    bids: list[list[str]]
    asks: list[list[str]]


class Snapshot(NamedTuple):
    """A snapshot whose JSON is right; its levels are still texts."""

    last_update_id: int
    event_time_ms: int | None
    transaction_time_ms: int | None
    bids: list[list[str]]
    asks: list[list[str]]
    has_bid_horizon: bool
    """Whether its sender, a gateway, knows the bids no further than sent."""
    has_ask_horizon: bool


class Number(NamedTuple):
    """An exact decimal: ``units / 10**decimals``, without trailing zeros in the fraction."""

    units: int
    decimals: int


def message_text(payload: Message) -> str:
    """Return the text of a message; raise ``TypeError`` if it is none, ``BufferError`` if its bytes are scattered."""
    if isinstance(payload, str):
        _check_size(len(payload))  # Its bytes are not fewer.
        try:
            _check_size(len(payload.encode()))
        except UnicodeEncodeError as error:
            raise Unreadable(f"character {error.start} is a lone surrogate") from None
        return payload
    view = memoryview(payload)
    if not view.c_contiguous:
        raise BufferError("the bytes of a message must be contiguous")
    _check_size(view.nbytes)
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not UTF-8") from None


def _check_size(size: int) -> None:
    if size > MESSAGE_BYTES_MAX:
        raise Unreadable(f"it is longer than {MESSAGE_BYTES_MAX} bytes")


def read_update(text: str) -> DepthUpdate:
    """Read a depth update, wrapped by its stream or not. The relations between its ids are not checked."""
    stream, event = _stream_and_event(text)
    header = _header(stream, event)
    if header.event is not None and header.event != "depthUpdate":
        raise Unreadable(f"it is a {_quoted(header.event)}, not a depthUpdate")
    bids, asks = _levels(event, "b", "a")
    _check_nesting(text, len(bids) + len(asks))
    return DepthUpdate(header, _time(event, "T"), bids, asks)


def read_message_header(text: str) -> Header:
    """Read what a message of any event says about itself; its levels are skipped, whatever they are."""
    stream, event = _stream_and_event(text)
    _check_nesting(text)
    return _header(stream, event)


def event_text(text: str) -> str:
    """Return the text of the object under `data` of a wrapper, as it was sent; of a bare event, all of it."""
    _fields(_decode(text), frozenset(), "it")
    place = _skip_space(text, text.index("{") + 1)
    while text[place] != "}":
        key, place = _decode_any(text, place)
        start = _skip_space(text, _skip_space(text, place) + 1)
        _, place = _decode_any(text, start)
        if key == "data":
            return text[start:place]
        place = _skip_space(text, place)
        if text[place] == ",":
            place = _skip_space(text, place + 1)
    return text


def _skip_space(text: str, place: int) -> int:
    while text[place] in " \t\n\r":
        place += 1
    return place


def read_snapshot(text: str) -> Snapshot:
    """Read a snapshot, as the REST endpoint sends it."""
    body = _fields(_decode(text), _SNAPSHOT_KEYS, "it")
    last_update_id = _id(body, "lastUpdateId")
    if last_update_id is None:
        raise Unreadable("lastUpdateId is missing")
    bids, asks = _levels(body, "bids", "asks")
    _check_nesting(text, len(bids) + len(asks))
    horizons = "bidHorizon" in body, "askHorizon" in body
    return Snapshot(last_update_id, _time(body, "E"), _time(body, "T"), bids, asks, *horizons)


def read_number(text: str) -> Number:
    """Read a price or a quantity exactly, or refuse it."""
    if _NUMBER.fullmatch(text) is None:
        raise Unreadable(f"{_quoted(text)} is not a number of ASCII digits")
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > DECIMALS_MAX:
        raise Unreadable(f"{_quoted(text)} has more than {DECIMALS_MAX} decimals")
    digits = (whole + fraction).lstrip("0") or "0"
    if len(digits) > len(str(INT64_MAX)) or int(digits) > INT64_MAX:
        raise Unreadable(f"{_quoted(text)} does not fit int64")
    return Number(int(digits), len(fraction))


def printed_decimals(text: str) -> int:
    """Return how many decimals a number shows, trailing zeros included."""
    return len(text.partition(".")[2])


# --- JSON -------------------------------------------------------------------------------------------------------------


def _integer(text: str) -> int | None:
    # 20 characters hold every int64. A longer number fits no known key, so it need not be converted.
    return int(text) if len(text) <= 20 else None


def _no_integer(_: str) -> None:
    return None


def _refuse_constant(text: str) -> None:
    raise Unreadable(f"{text} is not JSON")


_decode_any = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=_integer, parse_float=_no_integer, parse_constant=_refuse_constant
).raw_decode
_decode_short = json.JSONDecoder(
    object_pairs_hook=tuple, parse_float=_no_integer, parse_constant=_refuse_constant
).raw_decode
_SHORT = sys.int_info.str_digits_check_threshold
"""No integer in a text of so many characters is long enough to be slow to convert, or refused by Python."""


def _decode(text: str) -> Any:
    """Return the value of a JSON text: an object is a tuple of (key, value) pairs, an array a list."""
    text = text.strip(" \t\n\r")
    try:
        value, end = _decode_short(text) if len(text) <= _SHORT else _decode_any(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        if not _is_nested_too_deeply(text):
            raise  # The caller's own stack is at its end; the message is not to blame.
        raise Unreadable(f"it is nested more than {NESTING_MAX} deep") from None
    if end != len(text):
        raise Unreadable(f"something follows its end at character {end}")
    if "\\" in text and "\\" in _SOUND_ESCAPE.sub("", text):
        raise Unreadable("a string holds a lone surrogate")
    return value


def _is_nested_too_deeply(text: str) -> bool:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        first = text[match.start()]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
        if depth > NESTING_MAX:
            return True
    return False


def _check_nesting(text: str, level_count: int = 0) -> None:
    """Refuse a message that is nested too deeply, of which so many brackets are known to open levels."""
    if text.count("[") + text.count("{") - level_count > NESTING_MAX and _is_nested_too_deeply(text):
        raise Unreadable(f"it is nested more than {NESTING_MAX} deep")


# --- fields -----------------------------------------------------------------------------------------------------------


def _fields(pairs: Any, known: frozenset[str], what: str) -> dict[str, Any]:
    """Return the fields of an object; refuse what is no object, or repeats a known key."""
    if type(pairs) is not tuple:
        raise Unreadable(f"{what} is not a JSON object")
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in known and key in seen:
                raise Unreadable(f"the key {key!r} stands twice")
            seen.add(key)
    return fields


def _stream_and_event(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the outermost object and those of the event: one and the same if there is no wrapper."""
    outermost = _fields(_decode(text), _OUTERMOST_KEYS, "it")
    if "data" not in outermost:
        return outermost, outermost
    if not _EVENT_KEYS.isdisjoint(outermost):
        raise Unreadable(f"{min(_EVENT_KEYS.intersection(outermost))!r} stands beside data")
    return outermost, _fields(outermost["data"], _EVENT_KEYS, "data")


def _header(outermost: dict[str, Any], event: dict[str, Any]) -> Header:
    return Header(
        _string(outermost, "stream"),
        _string(event, "e"),
        _string(event, "s"),
        _id(event, "U"),
        _id(event, "u"),
        _id(event, "pu"),
        _time(event, "E"),
    )


def _string(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if type(value) is str else None


def _time(fields: dict[str, Any], key: str) -> int | None:
    value = fields.get(key)
    return value if type(value) is int and -INT64_MAX - 1 <= value <= INT64_MAX else None


def _id(fields: dict[str, Any], key: str) -> int | None:
    """Return an update id, or None if it is not there; refuse anything else."""
    value = fields.get(key)
    if type(value) is int and 1 <= value <= UPDATE_ID_MAX:
        return value
    if key in fields:
        raise Unreadable(f"{key} is not an integer from 1 to {UPDATE_ID_MAX}")
    return None


def _levels(fields: dict[str, Any], bids: str, asks: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return the levels of both sides; refuse a level that is not an array of exactly two strings."""
    for key in (bids, asks):
        levels = fields.get(key)
        if type(levels) is not list:
            raise Unreadable(f"{key} is missing" if key not in fields else f"{key} is not an array")
        for level in levels:
            if type(level) is not list or len(level) != 2 or type(level[0]) is not str or type(level[1]) is not str:
                raise Unreadable(f"a level in {key} is not an array of two strings")
    if len(fields[bids]) + len(fields[asks]) > LEVELS_PER_MESSAGE_MAX:
        raise Unreadable(f"it has more than {LEVELS_PER_MESSAGE_MAX} levels")
    return fields[bids], fields[asks]


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}... ({len(text)} characters)"
