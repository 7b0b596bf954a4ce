"""What the answer to a snapshot request means: a body that can be a snapshot, or a failure of some kind.

Rule 1: pure. Bytes, a status and headers go in, a value comes out; no socket, no clock.
Rule 2: whatever a server or a proxy sends costs bounded memory. The bound is on the decompressed body, because ten
    compressed kilobytes can hold ten megabytes.
Rule 3: a body passes only if it has the announced length, is decompressed to its end, and has a snapshot's shape. The
    order book judges its content.
Rule 4: a failure says what happened to which market, and what happens next.

What follows from a failure, by kind (`ldc.snapshots.queue` acts on it):

    UNKNOWN_MARKET      permanent; no retry
    RATE_LIMITED        429, or the error -1003: no request to this exchange until Retry-After is over (default 60 s)
    BANNED              418: the same; the default is 2 min, doubled by each further ban
    FORBIDDEN           403, 451: no request to this exchange for a minute
    REFUSED             any other 4xx: concerns this request only
    all others          concern the host or the path to it: from the second in a row on, a short pause for all requests
"""

import codecs
import enum
import json
import re
import zlib
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any, NamedTuple

from ldc.book import OrderBook
from ldc.errors import MalformedMessage
from ldc.network.certificates import ADVICE
from ldc.network.text import printable
from ldc.sequence import SequenceRule
from ldc.types import Cause
from ldc.venues import PERMANENT_ERROR_CODES

BODY_BYTES_MAX = 16 * 1024 * 1024
"""Bytes before and after decompression; a longer body is refused. A snapshot of 5000 levels a side has 0.4 MB."""

ERROR_BODY_BYTES_MAX = 4096
"""Bytes; a longer body is not searched for an error code, because the exchange's errors are one line."""

GZIP_MEMBERS_MAX = 100
"""Members of a gzip body; a body with more is refused, because each costs time, however short it is."""

_EXCERPT_CHARACTERS_MAX = 160

_TOO_MANY_REQUESTS = -1003
_BANNED_UNTIL = re.compile(r"banned until ([0-9]{13})\b")
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
_DIGITS = re.compile(r"[0-9]{1,18}")


class FailureKind(enum.StrEnum):
    """Why there is no snapshot."""

    UNKNOWN_MARKET = "UNKNOWN_MARKET"
    """The exchange does not know the market, or not with this status (-1121, -1122, -1220, -4108)."""
    RATE_LIMITED = "RATE_LIMITED"
    """Too many requests (429, -1003)."""
    BANNED = "BANNED"
    """The address is banned (418)."""
    FORBIDDEN = "FORBIDDEN"
    """A firewall or the law forbids the request (403, 451)."""
    REFUSED = "REFUSED"
    """The request was refused for another reason (other 4xx)."""
    SERVER_ERROR = "SERVER_ERROR"
    """The exchange failed (5xx, 408)."""
    REDIRECTED = "REDIRECTED"
    """The answer redirects, which is never followed (3xx)."""
    NOT_A_SNAPSHOT = "NOT_A_SNAPSHOT"
    """The body is something else: HTML, nothing, other JSON, or in an unknown encoding."""
    DAMAGED = "DAMAGED"
    """The body is truncated, has another length than announced, or cannot be decompressed."""
    TOO_LARGE = "TOO_LARGE"
    """The body is longer than `BODY_BYTES_MAX`."""
    TIMED_OUT = "TIMED_OUT"
    """The download was not complete before its deadline."""
    UNREACHABLE = "UNREACHABLE"
    """No connection: refused, reset, or the host has no address."""
    UNTRUSTED = "UNTRUSTED"
    """TLS failed, or the certificate is not the exchange's."""
    PROXY = "PROXY"
    """The proxy refused (407) or cannot be reached."""


class SnapshotBody(NamedTuple):
    """A whole body that looks like a snapshot."""

    body: bytes
    received_time_ns: int
    """Local clock when its last byte had arrived, Unix nanoseconds."""
    used_weight: int | None
    """The weight that the exchange has counted for this address in its current minute; None if it does not say."""


class SnapshotFailure(NamedTuple):
    """Why there is no snapshot."""

    kind: FailureKind
    text: str
    """A sentence for logs and errors."""
    permanent: Cause | None = None
    """The cause for which no retry can help; None if one can."""
    retry_at: float | None = None
    """The exchange has forbidden requests until this time of the queue's clock; None: it has not."""
    status: int | None = None
    """The HTTP status, if there was one."""
    code: int | None = None
    """The exchange's error code, if it gave one."""


class ReplyHeaders(NamedTuple):
    """The headers of an answer that concern limits; None for a missing or malformed one."""

    used_weight: int | None = None
    server_time_s: float | None = None
    retry_after_s: float | None = None


NO_HEADERS = ReplyHeaders()


def read_headers(headers: Mapping[str, str]) -> ReplyHeaders:
    """Read the headers that concern limits. `headers` must ignore the case of its keys."""
    server_time_s = _seconds_of(headers.get("Date", ""))
    retry_after_s: float | None = _digits(headers.get("Retry-After"))
    retry_at_s = _seconds_of(headers.get("Retry-After", ""))  # HTTP also allows a date, of the server's clock
    if retry_at_s is not None and server_time_s is not None:
        retry_after_s = max(0.0, retry_at_s - server_time_s)
    return ReplyHeaders(
        used_weight=_digits(headers.get("X-MBX-USED-WEIGHT-1M", headers.get("X-MBX-USED-WEIGHT"))),
        server_time_s=server_time_s,
        retry_after_s=retry_after_s,
    )


def _digits(text: str | None) -> int | None:
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


def _seconds_of(date_text: str) -> float | None:
    # The parser of e-mail dates accepts nearly any text; HTTP allows one form.
    date = parsedate_tz(date_text) if _HTTP_DATE.fullmatch(date_text) else None
    return None if date is None else float(mktime_tz(date))


class BodyRefused(Exception):
    """A body cannot be read to its end."""

    def __init__(self, kind: FailureKind, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what


class BodyReader:
    """Collects a body in chunks and returns it whole and decompressed; raises `BodyRefused` if it cannot.

    It holds at most `bytes_max` decompressed bytes and one chunk. Call `feed` for each chunk, then `finish` once.
    """

    def __init__(self, headers: Mapping[str, str], bytes_max: int = BODY_BYTES_MAX) -> None:
        encoding = headers.get("Content-Encoding", "").lower()
        codings = [coding for part in encoding.split(",") if (coding := part.strip()) not in ("", "identity")]
        if codings not in ([], ["gzip"], ["x-gzip"]):  # RFC 9110, 8.4.1.3: both names mean the same
            raise BodyRefused(FailureKind.NOT_A_SNAPSHOT, f"the body is encoded as {_printable(encoding)}")
        self._bytes_max = bytes_max
        self._body = bytearray()
        self._wire_bytes = 0
        self._length = _digits(headers.get("Content-Length"))
        if self._length is not None and self._length > bytes_max:
            raise self._too_large(f"announces {self._length} bytes")
        self._is_gzip = bool(codings)
        self._member: Any = None  # of a gzip body the member that has begun and not ended
        self._members = 0

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes received."""
        self._wire_bytes += len(chunk)
        if self._wire_bytes > self._bytes_max:
            raise self._too_large("has more bytes")
        if not self._is_gzip:
            self._body += chunk
            return
        while chunk:
            if self._member is None and not (chunk := self._begin_member(chunk)):
                return
            try:
                # One byte more than fits, to distinguish a body of exactly the limit from a longer one.
                self._body += self._member.decompress(chunk, self._bytes_max - len(self._body) + 1)
            except zlib.error as error:
                raise BodyRefused(FailureKind.DAMAGED, f"the body cannot be decompressed ({error})") from error
            if len(self._body) > self._bytes_max:
                raise self._too_large("decompresses to more bytes")
            chunk = b""
            if self._member.eof:
                chunk, self._member = self._member.unused_data, None

    def _begin_member(self, chunk: bytes) -> bytes:
        """Begin a member of a gzip body (RFC 1952, 2.2: there may be several); return its bytes.

        Zeros after a member are padding, which gzip ignores as well. Anything else there is no member, and refused.
        """
        chunk = chunk.lstrip(b"\0") if self._members else chunk
        if chunk:
            self._members += 1
            if self._members > GZIP_MEMBERS_MAX:
                raise BodyRefused(FailureKind.DAMAGED, f"the body has more than {GZIP_MEMBERS_MAX} gzip members")
            self._member = zlib.decompressobj(wbits=31)
        return chunk

    def finish(self) -> bytes:
        """Return the body after its last chunk."""
        if self._length is not None and self._length != self._wire_bytes:
            raise BodyRefused(FailureKind.DAMAGED, f"{self._wire_bytes} of {self._length} announced bytes came")
        if self._is_gzip and (self._member is not None or not self._members):
            raise BodyRefused(FailureKind.DAMAGED, "the compressed body ends early")
        return bytes(self._body)

    def _too_large(self, what: str) -> BodyRefused:
        return BodyRefused(FailureKind.TOO_LARGE, f"the body {what}, and the limit is {self._bytes_max}")


_KIND_OF_STATUS = {
    403: FailureKind.FORBIDDEN,
    407: FailureKind.PROXY,
    408: FailureKind.SERVER_ERROR,
    418: FailureKind.BANNED,
    429: FailureKind.RATE_LIMITED,
    451: FailureKind.FORBIDDEN,
}
_STATUS_IN_WORDS = {
    403: " (forbidden, by a firewall)",
    418: " (this address is banned)",
    429: " (too many requests)",
    451: " (the exchange does not serve this location, for legal reasons)",
}
_KIND_OF_HUNDRED = {
    2: FailureKind.NOT_A_SNAPSHOT,
    3: FailureKind.REDIRECTED,
    4: FailureKind.REFUSED,
    5: FailureKind.SERVER_ERROR,
}

_WHAT_NEXT = {
    FailureKind.UNKNOWN_MARKET: "ldc does not retry; check the spelling of the market",
    FailureKind.RATE_LIMITED: "ldc retries when the exchange allows it; reduce the requests of other programs here",
    FailureKind.BANNED: "ldc retries when the ban ends; reduce the requests of other programs here",
    FailureKind.FORBIDDEN: "ldc retries later; check whether this address may use the exchange",
    FailureKind.UNTRUSTED: f"ldc retries; {ADVICE}",
    FailureKind.PROXY: "ldc retries; check the address, the user and the password of the proxy",
}
_WHAT_NEXT_OTHERWISE = "ldc retries"


def failure(
    market: str, kind: FailureKind, what: str, *, status: int | None = None, code: int | None = None
) -> SnapshotFailure:
    """Return a failure of that kind, with its sentence."""
    next_step = _WHAT_NEXT.get(kind, _WHAT_NEXT_OTHERWISE)
    permanent = Cause.UNKNOWN_MARKET if kind is FailureKind.UNKNOWN_MARKET else None
    return SnapshotFailure(
        kind, f"There is no snapshot of {market}: {what}; {next_step}.", permanent, status=status, code=code
    )


def judge_reply(
    market: str, status: int, headers: ReplyHeaders, body: bytes, received_time_ns: int
) -> tuple[SnapshotBody | SnapshotFailure, ReplyHeaders]:
    """Return the result, and the headers with the end of a ban if the body states it.

    `body` is whole. O(size of the body), without parsing a snapshot.
    """
    body = body.removeprefix(codecs.BOM_UTF8)  # RFC 8259, 8.1 lets a reader ignore it
    code, message = _error_in(body)
    if status == 200 and code is None and _looks_like_snapshot(body):
        return SnapshotBody(body, received_time_ns, headers.used_weight), headers
    kind = _KIND_OF_STATUS.get(status) or _KIND_OF_HUNDRED.get(status // 100, FailureKind.NOT_A_SNAPSHOT)
    if status < 500 and kind not in (FailureKind.BANNED, FailureKind.RATE_LIMITED):
        if code in PERMANENT_ERROR_CODES:
            kind = FailureKind.UNKNOWN_MARKET
        elif code == _TOO_MANY_REQUESTS:
            kind = FailureKind.RATE_LIMITED
        elif code is not None and kind is FailureKind.NOT_A_SNAPSHOT:
            kind = FailureKind.REFUSED
    if headers.retry_after_s is None and headers.server_time_s is not None:
        ends = _BANNED_UNTIL.search(message)
        if ends is not None:
            headers = headers._replace(retry_after_s=int(ends[1]) / 1000 - headers.server_time_s)
    said = f"error {code} ({_printable(message)})" if code is not None else _excerpt(body)
    what = f"HTTP {status}{_STATUS_IN_WORDS.get(status, '')} with {said}"
    return failure(market, kind, what, status=status, code=code), headers


def loaded(result: SnapshotBody, rule: SequenceRule, limit: int) -> OrderBook | None:
    """Return the book that a body of so many levels holds, or None if it holds none. O(levels)."""
    book = OrderBook(rule)
    try:
        book.load_snapshot(result.body, limit)
    except MalformedMessage:
        return None
    return book


def _looks_like_snapshot(body: bytes) -> bool:
    text = body.strip(b" \t\r\n")
    return text.startswith(b"{") and text.endswith(b"}") and b'"lastUpdateId"' in text


def _error_in(body: bytes) -> tuple[int | None, str]:
    """Return the code and the message of ``{"code":-1121,"msg":"Invalid symbol."}``; None for any other body."""
    if len(body) > ERROR_BODY_BYTES_MAX:
        return None, ""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None, ""
    if not isinstance(parsed, dict) or type(parsed.get("code")) is not int or "lastUpdateId" in parsed:
        return None, ""
    return parsed["code"], str(parsed.get("msg", ""))


def _excerpt(body: bytes) -> str:
    if not body:
        return "an empty body"
    begin = body[: _EXCERPT_CHARACTERS_MAX * 4].decode(errors="replace")
    return f"a body of {len(body)} bytes that begins {_printable(begin)}"


def _printable(text: str) -> str:
    """Return text from outside as a log may hold it: short, without line breaks and control characters."""
    return f'"{printable(text, _EXCERPT_CHARACTERS_MAX)}"'
