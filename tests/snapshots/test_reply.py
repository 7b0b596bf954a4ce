"""The meaning of an answer: a whole snapshot, or a failure of the right kind with a helpful text."""

import gzip
import json
import zlib
from email.utils import formatdate
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from ldc.snapshots.reply import (
    BODY_BYTES_MAX,
    GZIP_MEMBERS_MAX,
    NO_HEADERS,
    BodyReader,
    BodyRefused,
    FailureKind,
    ReplyHeaders,
    SnapshotBody,
    SnapshotFailure,
    judge_reply,
    read_headers,
)
from ldc.types import Cause

SNAPSHOT = b'{"lastUpdateId":1027024,"bids":[["4.00000000","431.00000000"]],"asks":[["4.00000200","12.00000000"]]}'


def judged(status: int, body: bytes, headers: ReplyHeaders = NO_HEADERS) -> SnapshotBody | SnapshotFailure:
    return judge_reply("BTCUSDT", status, headers, body, 1)[0]


# -- bodies


@pytest.mark.parametrize(
    "body",
    [
        SNAPSHOT,
        b" \r\n" + SNAPSHOT + b"\n",
        b'{"bids":[],"asks":[],"T":1,"lastUpdateId":5}',
        b'{"lastUpdateId":5,"code":0,"bids":[],"asks":[]}',
        b'{"lastUpdateId":5,"bids":[' + b'["4.00000000","431.00000000"],' * 5000 + b'["1","1"]],"asks":[]}',
    ],
    ids=["spot", "with blanks", "empty book, options", "with an unknown key", "large"],
)
def test_a_snapshot_is_delivered_unchanged(body):
    result, _ = judge_reply("BTCUSDT", 200, ReplyHeaders(used_weight=17), body, 123)
    assert result == SnapshotBody(body, 123, 17)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (200, b"", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"<html><body>Service unavailable</body></html>", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"[]", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"{}", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"null", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b'{"serverTime":1}', FailureKind.NOT_A_SNAPSHOT, None),
        (200, SNAPSHOT[:-1], FailureKind.NOT_A_SNAPSHOT, None),
        (200, SNAPSHOT + b"x", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"x" + SNAPSHOT, FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"[" * 4000, FailureKind.NOT_A_SNAPSHOT, None),
        (200, b"\xff\xfe", FailureKind.NOT_A_SNAPSHOT, None),
        (200, b'{"code":"-1121","msg":"text, not a code"}', FailureKind.NOT_A_SNAPSHOT, None),
        (204, b"", FailureKind.NOT_A_SNAPSHOT, None),
        (206, SNAPSHOT, FailureKind.NOT_A_SNAPSHOT, None),
        (200, b'{"code":-1000,"msg":"An unknown error"}', FailureKind.REFUSED, -1000),
        (200, b'{"code":-1000,"msg":"lastUpdateId"}', FailureKind.REFUSED, -1000),
        (200, b'{"code":-1121,"msg":"Invalid symbol."}', FailureKind.UNKNOWN_MARKET, -1121),
        (400, b'{"code":-1121,"msg":"Invalid symbol."}', FailureKind.UNKNOWN_MARKET, -1121),
        (400, b'{"code":-1122,"msg":"Invalid symbolStatus."}', FailureKind.UNKNOWN_MARKET, -1122),
        (400, b'{"code":-4108,"msg":"Symbol is on delivering."}', FailureKind.UNKNOWN_MARKET, -4108),
        (400, b'{"code":-1220,"msg":"The symbol\'s status does not match."}', FailureKind.UNKNOWN_MARKET, -1220),
        (400, b'{"code":-1130,"msg":"Invalid data sent for a parameter."}', FailureKind.REFUSED, -1130),
        (400, b"", FailureKind.REFUSED, None),
        (404, b"<html>not found</html>", FailureKind.REFUSED, None),
        (400, b'{"code":-1121,"msg":"' + b"x" * 4096 + b'"}', FailureKind.REFUSED, None),
        (400, b'{"code":-1003,"msg":"Too many requests."}', FailureKind.RATE_LIMITED, -1003),
        (200, b'{"code":-1003,"msg":"Too many requests."}', FailureKind.RATE_LIMITED, -1003),
        (429, b'{"code":-1003,"msg":"Too many requests."}', FailureKind.RATE_LIMITED, -1003),
        (429, b'{"code":-1121,"msg":"Invalid symbol."}', FailureKind.RATE_LIMITED, -1121),
        (429, b"", FailureKind.RATE_LIMITED, None),
        (418, b'{"code":-1003,"msg":"Way too many requests."}', FailureKind.BANNED, -1003),
        (418, b"", FailureKind.BANNED, None),
        (403, b"<html>WAF</html>", FailureKind.FORBIDDEN, None),
        (451, b'{"code":0,"msg":"Service unavailable from a restricted location"}', FailureKind.FORBIDDEN, 0),
        (407, b"", FailureKind.PROXY, None),
        (408, b"", FailureKind.SERVER_ERROR, None),
        (500, b"", FailureKind.SERVER_ERROR, None),
        (503, b'{"code":-1008,"msg":"Server is busy."}', FailureKind.SERVER_ERROR, -1008),
        (504, b'{"code":-1007,"msg":"Timeout waiting for response."}', FailureKind.SERVER_ERROR, -1007),
        (500, b'{"code":-1121,"msg":"from a server that is not well"}', FailureKind.SERVER_ERROR, -1121),
        (301, b"", FailureKind.REDIRECTED, None),
        (307, SNAPSHOT, FailureKind.REDIRECTED, None),
        (100, b"", FailureKind.NOT_A_SNAPSHOT, None),
        (999, b"", FailureKind.NOT_A_SNAPSHOT, None),
    ],
)
def test_everything_else_is_a_failure_of_its_kind(status, body, kind, code):
    failed = judged(status, body)
    assert isinstance(failed, SnapshotFailure)
    assert (failed.kind, failed.status, failed.code) == (kind, status, code)
    assert (failed.permanent is Cause.UNKNOWN_MARKET) == (kind is FailureKind.UNKNOWN_MARKET)
    assert "BTCUSDT" in failed.text
    assert f"HTTP {status}" in failed.text
    assert code is None or str(code) in failed.text


def test_text_from_outside_is_short_and_cannot_forge_a_line_of_a_log():
    message = "\x1b[2J\r\nERROR everything is lost\n" + "x" * 3000
    for body in (json.dumps({"code": -1, "msg": message}).encode(), message.encode()):
        text = judged(400, body).text
        assert text.isprintable()
        assert len(text) < 400


@given(st.binary(max_size=200), st.integers(100, 599))
def test_no_body_makes_the_judge_raise(body, status):
    assert isinstance(judged(status, body), SnapshotFailure)


# -- headers


def test_the_headers_about_limits_are_read_in_any_case():
    headers = CaseInsensitiveDict(
        {"x-mbx-used-weight-1m": "42", "DATE": "Thu, 01 Jan 1970 00:16:40 GMT", "retry-after": "17"}
    )
    assert read_headers(headers) == ReplyHeaders(42, 1000.0, 17)


def test_the_old_name_of_the_weight_header_serves_where_the_new_one_is_missing():
    assert read_headers({"X-MBX-USED-WEIGHT": "7"}).used_weight == 7
    assert read_headers({"X-MBX-USED-WEIGHT": "7", "X-MBX-USED-WEIGHT-1M": "8"}).used_weight == 8


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "abc", "1e3", "١٢", "9" * 19, "17 s", "5, 5", "Thu, 01 Jan 1970 00:16:40 GMT"]
)
def test_a_header_that_is_not_a_number_of_seconds_or_weight_is_ignored(text):
    assert read_headers({"Retry-After": text, "X-MBX-USED-WEIGHT-1M": text}) == NO_HEADERS


@pytest.mark.parametrize(
    ("now", "until", "retry_after_s"),
    [(1000, 1300, 300.0), (1000, 1000, 0.0), (1000, 900, 0.0), (0, 259_200, 259_200.0)],
)
def test_a_retry_after_that_is_a_date_is_read_by_the_servers_clock(now, until, retry_after_s):
    headers = {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(until, usegmt=True)}
    assert read_headers(headers).retry_after_s == retry_after_s


@pytest.mark.parametrize("text", ["", "soon", "Thu, 99 Foo 1970 00:16:40 GMT", "Thu, 01 Jan 1970 00:16:40 CET", "0"])
def test_a_text_that_is_no_date_is_ignored(text):
    assert read_headers({"Date": text}).server_time_s is None


@given(st.from_regex(r"[A-Z][a-z]{2}, [0-9]{2} (Jan|Feb|Dec) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", fullmatch=True))
def test_a_date_that_no_calendar_has_does_not_raise(text):
    assert isinstance(read_headers({"Date": text}).server_time_s, float | None)


@given(st.integers(0, 4_000_000_000))
def test_every_date_is_read(seconds):
    assert read_headers({"Date": formatdate(seconds, usegmt=True)}).server_time_s == seconds


BANNED = b'{"code":-1003,"msg":"Way too much request weight used; IP banned until 1659146400000. Please use streams."}'


def test_the_end_of_a_ban_in_the_text_serves_where_retry_after_is_missing():
    headers = ReplyHeaders(server_time_s=1_659_146_300.0)
    assert judge_reply("BTCUSDT", 418, headers, BANNED, 1)[1].retry_after_s == 100.0


@pytest.mark.parametrize("headers", [NO_HEADERS, ReplyHeaders(server_time_s=1_659_146_300.0, retry_after_s=5)])
def test_the_end_of_a_ban_in_the_text_is_not_used_without_the_servers_clock_or_against_retry_after(headers):
    assert judge_reply("BTCUSDT", 418, headers, BANNED, 1)[1] == headers


# -- reading a body


def read_all(headers: dict[str, str], chunks: list[bytes], bytes_max: int = BODY_BYTES_MAX) -> bytes:
    reader = BodyReader(CaseInsensitiveDict(headers), bytes_max)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(body=st.binary(max_size=3000), places=st.lists(st.integers(0, 5000), max_size=8))
def test_a_body_is_the_same_however_it_is_cut_and_packed(body, places):
    packed = gzip.compress(body, mtime=0)
    assert read_all({"Content-Length": str(len(body))}, cut(body, places)) == body
    assert read_all({"content-encoding": "GZIP", "Content-Length": str(len(packed))}, cut(packed, places)) == body
    assert read_all({}, cut(body, places), len(body)) == body
    assert read_all({"Content-Encoding": "gzip"}, cut(packed, places), max(len(body), len(packed))) == body


@given(body=st.binary(min_size=1, max_size=500), place=st.integers(0, 5000), packs=st.booleans())
def test_a_body_that_lacks_its_end_is_refused(body, place, packs):
    wire = gzip.compress(body, mtime=0) if packs else body
    headers = {"Content-Encoding": "gzip"} if packs else {"Content-Length": str(len(wire))}
    with pytest.raises(BodyRefused) as refused:
        read_all(headers, [wire[: place % len(wire)]])
    assert refused.value.kind is FailureKind.DAMAGED


HALF = len(SNAPSHOT) // 2


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "X-GZIP", "gzip, identity", " gzip "])
@pytest.mark.parametrize(
    "wire",
    [
        gzip.compress(SNAPSHOT, mtime=0),
        gzip.compress(SNAPSHOT[:HALF], mtime=0) + gzip.compress(SNAPSHOT[HALF:], mtime=0),
        gzip.compress(SNAPSHOT, mtime=0) + gzip.compress(b"", mtime=0),
        gzip.compress(b"", mtime=0) + gzip.compress(SNAPSHOT, mtime=0),
        gzip.compress(SNAPSHOT, mtime=0) + bytes(8),
        gzip.compress(SNAPSHOT[:HALF], mtime=0) + bytes(3) + gzip.compress(SNAPSHOT[HALF:], mtime=0) + bytes(5),
        b"".join(gzip.compress(SNAPSHOT[place : place + 1], mtime=0) for place in range(50))
        + gzip.compress(SNAPSHOT[50:], mtime=0),
    ],
    ids=["one", "two", "an empty last", "an empty first", "padded", "padded twice", "many"],
)
def test_a_gzip_body_may_have_several_members_and_padding(encoding, wire):
    for chunks in ([wire], [wire[number : number + 1] for number in range(len(wire))]):
        assert read_all({"Content-Encoding": encoding}, chunks, max(len(wire), len(SNAPSHOT))) == SNAPSHOT


def test_a_gzip_body_of_members_without_measure_is_refused():
    with pytest.raises(BodyRefused) as refused:
        read_all({"Content-Encoding": "gzip"}, [gzip.compress(b"", mtime=0) * (GZIP_MEMBERS_MAX + 1)])
    assert refused.value.kind is FailureKind.DAMAGED
    assert read_all({"Content-Encoding": "gzip"}, [gzip.compress(b"", mtime=0) * GZIP_MEMBERS_MAX]) == b""


def test_a_bomb_in_a_second_member_is_not_unfolded_further_than_the_limit():
    with pytest.raises(BodyRefused) as refused:
        read_all(
            {"Content-Encoding": "gzip"}, [gzip.compress(b"x", mtime=0) + gzip.compress(bytes(10**7), mtime=0)], 10**6
        )
    assert refused.value.kind is FailureKind.TOO_LARGE


def test_a_byte_order_mark_before_the_body_is_ignored():
    result, _ = judge_reply("BTCUSDT", 200, NO_HEADERS, b"\xef\xbb\xbf" + SNAPSHOT, 7)
    assert isinstance(result, SnapshotBody)
    assert result.body == SNAPSHOT


@pytest.mark.parametrize(
    ("headers", "wire"),
    [
        ({"Content-Length": "5"}, b"123456"),
        ({"Content-Length": "7"}, b"123456"),
        ({"Content-Encoding": "gzip"}, SNAPSHOT),
        ({"Content-Encoding": "gzip"}, gzip.compress(SNAPSHOT, mtime=0) + b"more"),
        ({"Content-Encoding": "gzip"}, gzip.compress(SNAPSHOT, mtime=0) + gzip.compress(b"more", mtime=0)[:-1]),
        ({"Content-Encoding": "gzip"}, gzip.compress(SNAPSHOT, mtime=0) + bytes(8) + b"more"),
        ({"Content-Encoding": "gzip"}, bytes(8) + gzip.compress(SNAPSHOT, mtime=0)),
        ({"Content-Encoding": "gzip"}, gzip.compress(SNAPSHOT, mtime=0)[:-8] + bytes(8)),
        ({"Content-Encoding": "gzip"}, zlib.compress(SNAPSHOT)),
        ({"Content-Encoding": "gzip"}, b""),
    ],
)
def test_a_body_that_does_not_match_its_headers_is_refused(headers, wire):
    for chunks in ([wire], [wire[number : number + 1] for number in range(len(wire))]):
        with pytest.raises(BodyRefused) as refused:
            read_all(headers, chunks)
        assert refused.value.kind is FailureKind.DAMAGED


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "x\r\ny"])
def test_an_encoding_that_was_not_requested_is_refused(encoding):
    with pytest.raises(BodyRefused, match="encoded as") as refused:
        BodyReader({"Content-Encoding": encoding})
    assert refused.value.kind is FailureKind.NOT_A_SNAPSHOT
    assert str(refused.value).isprintable()


def test_a_body_longer_than_the_limit_is_refused_when_announced_and_when_it_comes():
    with pytest.raises(BodyRefused, match="announces 101 bytes") as announced:
        BodyReader({"Content-Length": "101"}, 100)
    with pytest.raises(BodyRefused, match="the limit is 100") as came:
        read_all({}, [b"x" * 60, b"x" * 41], 100)
    with pytest.raises(BodyRefused, match="decompresses to more") as unfolded:
        read_all({"Content-Encoding": "gzip"}, [gzip.compress(b"x" * 101, mtime=0)], 100)
    assert {announced.value.kind, came.value.kind, unfolded.value.kind} == {FailureKind.TOO_LARGE}
    assert len(read_all({"Content-Encoding": "gzip"}, [gzip.compress(b"x" * 100, mtime=0)], 100)) == 100


def test_a_bomb_is_not_unfolded_further_than_the_limit():
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()
    assert len(bomb) < 150_000
    reader = BodyReader({"Content-Encoding": "gzip"}, 1_000_000)
    with pytest.raises(BodyRefused, match="decompresses to more"):
        reader.feed(bomb)
    assert len(reader._body) == 1_000_001
