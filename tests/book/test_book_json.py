"""The JSON that a message may be: all that RFC 8259 allows, in any order, and nothing that it forbids."""

import itertools
import json
from types import ModuleType

import pytest
from messages import BIDS, dumps, everything_but_counters, exact_asks, exact_bids, loaded_book

from ldc.errors import MalformedMessage
from ldc.types import Verdict

EVENT = {"e": "depthUpdate", "E": 5, "T": 6, "s": "BTCUSDT", "U": 101, "u": 103, "pu": 100}
LEVELS = {"b": [["100.10", "7"], ["99.50", "0"]], "a": [["100.20", "0"]]}
STREAM = "btcusdt@depth@100ms"


def assert_applied(books: ModuleType, payload: bytes) -> None:
    """Assert that a payload is the update made of EVENT and LEVELS."""
    book = loaded_book(books, "futures")
    assert book.apply(payload) is Verdict.APPLIED, payload
    assert exact_bids(book) == [("100.10", "7.000"), ("100.00", "2.500")]
    assert exact_asks(book) == [("100.40", "3.000"), ("101.00", "7.000")]
    assert (book.last_update_id, book.event_time_ms, book.transaction_time_ms) == (103, 5, 6)
    assert book.last_header[1:] == ("depthUpdate", "BTCUSDT", 101, 103, 100, 5)


def assert_refused(books: ModuleType, payload: bytes | str) -> None:
    book = loaded_book(books, market="BTCUSDT")
    before, counters = everything_but_counters(book), book.counters
    with pytest.raises(MalformedMessage) as raised:
        book.apply(payload)
    assert (raised.value.market, raised.value.cause) == ("BTCUSDT", None)
    assert everything_but_counters(book) == before
    assert book.counters == counters._replace(updates_malformed=1)
    with pytest.raises(MalformedMessage):
        book.load_snapshot(payload)
    with pytest.raises(MalformedMessage):
        books.read_header(payload)
    assert everything_but_counters(book) == before


def with_value(value: str) -> bytes:
    """Return a sound update with the value under a key that nobody knows."""
    return f'{{"x":{value},"U":101,"u":101,"b":[["100.10","0"]],"a":[]}}'.encode()


def assert_skipped(books: ModuleType, payload: bytes) -> None:
    book = loaded_book(books)
    assert book.apply(payload) is Verdict.APPLIED
    assert exact_bids(book) == BIDS[1:]
    assert books.read_header(payload).last_update_id == 101


@pytest.mark.parametrize("shift", range(9))
def test_keys_may_stand_in_any_order(books: ModuleType, shift: int) -> None:
    fields = list((EVENT | LEVELS).items())
    event = dict(fields[shift:] + fields[:shift])
    backwards = dict(reversed(event.items()))
    for order in (event, backwards):
        assert_applied(books, dumps(order))
        assert_applied(books, dumps({"stream": STREAM, "data": order}))
        assert_applied(books, dumps({"data": order, "stream": STREAM}))


def test_ids_and_levels_may_stand_in_each_of_their_orders(books: ModuleType) -> None:
    rest = {key: value for key, value in EVENT.items() if key not in ("U", "u", "pu")}
    keys = {key: (EVENT | LEVELS)[key] for key in ("U", "u", "pu", "b", "a")}
    for order in itertools.permutations(keys):
        assert_applied(books, dumps({key: keys[key] for key in order} | rest))


def test_white_space_may_stand_wherever_json_allows_it(books: ModuleType) -> None:
    space = " \t\r\n  \n"
    for text in (
        json.dumps(EVENT | LEVELS, indent=3),
        json.dumps({"stream": STREAM, "data": EVENT | LEVELS}, indent="\t", separators=(" \r\n,", "\t:\n ")),
        space + json.dumps(EVENT | LEVELS, separators=(space + "," + space, space + ":" + space)) + space,
        json.dumps(EVENT | LEVELS).replace("[", "[ ").replace("]", "\n]").replace("{", "{\t").replace("}", "\r}"),
    ):
        assert_applied(books, text.encode())


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\xa0", "\u2028", "\ufeff", "\x00", "\x1f", "\x85", "\u3000"])
def test_other_white_space_is_refused(books: ModuleType, space: str) -> None:
    text = with_value("1").decode()
    for payload in (space + text, text + space, text.replace(":", ":" + space, 1), text.replace(",", space + ",", 1)):
        assert_refused(books, payload.encode())
        assert_refused(books, payload)


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def test_escapes_are_decoded_before_anything_is_compared(books: ModuleType) -> None:
    plain = json.dumps({"stream": STREAM, "data": EVENT | LEVELS}, separators=(",", ":"))
    strings = {"stream", "data", "depthUpdate", "BTCUSDT", "100.10", "0", *EVENT, *LEVELS}
    for string in strings:
        assert_applied(books, plain.replace(f'"{string}"', f'"{escaped(string)}"').encode())
        assert_applied(books, plain.replace(f'"{string}"', f'"{escaped(string).upper().replace("U", "u")}"').encode())
    assert_applied(books, plain.replace("depthUpdate", "depth\\u0055pdate").encode())


def test_every_escape_of_json_is_known(books: ModuleType) -> None:
    text = r'"\" \\ \/ \b \f \n \r \t \u0041 \u00e9 \u20ac \ud83d\ude00 \uD83D\uDE00 \u0000"'
    assert_skipped(books, with_value(text))
    assert_skipped(books, with_value(f'{{{text}:"{escaped("deep")}"}}'))
    read = books.read_header(f'{{"s":{text}}}'.encode()).symbol
    assert read == '" \\ / \b \f \n \r \t A é € 😀 😀 \x00'


def test_an_escaped_text_is_not_a_number_for_what_it_escapes(books: ModuleType) -> None:
    assert_refused(books, b'{"U":101,"u":101,"b":[["100.1\\u0660","1"]],"a":[],"lastUpdateId":1,"bids":[],"asks":1}x')
    book = loaded_book(books)
    for text in ("1\\n", "\\u0661", "1\\u0000", "1\\/2"):
        with pytest.raises(MalformedMessage):
            book.apply(f'{{"U":101,"u":101,"b":[["{text}","1"]],"a":[]}}'.encode())


STRINGS_REFUSED = {
    "an unknown escape": r'"\x41"',
    "an escaped quote of another kind": r'"\'"',
    "an escape in capitals": r'"\U0041"',
    "three digits": r'"\u004"',
    "no digits": r'"\u"',
    "a sign among the digits": r'"\u+041"',
    "a blank among the digits": r'"\u 041"',
    "an underscore among the digits": r'"\u0_41"',
    "a prefix among the digits": r'"\u0x41"',
    "foreign digits": '"\\u٠٠٤١"',
    "a lone high surrogate": r'"\ud83d"',
    "a lone low surrogate": r'"\ude00"',
    "two high surrogates": r'"\ud83d\ud83d"',
    "three halves": r'"\ud83d\ud83d\ude00"',
    "surrogates in the wrong order": r'"\ude00\ud83d"',
    "a high surrogate before another escape": r'"\ud83d\u0041"',
    "a high surrogate before a letter": r'"\ud83dA"',
    "a high surrogate before a backslash": r'"\ud83d\\ude00"',
    "half a surrogate of a cut pair": r'"\ud83d\ude0"',
    "a tab": '"\t"',
    "a new line": '"\n"',
    "a control character": '"\x1f"',
    "a NUL": '"\x00"',
    "no end": '"abc',
    "an escaped end": '"abc\\"',
    "single quotes": "'abc'",
}


@pytest.mark.parametrize("name", STRINGS_REFUSED)
def test_a_string_that_json_forbids_is_refused_also_where_it_is_skipped(books: ModuleType, name: str) -> None:
    string = STRINGS_REFUSED[name]
    assert_refused(books, with_value(string))
    assert_refused(books, with_value(f'[[{{"y":{string}}}]]'))
    assert_refused(books, with_value(f"{{{string}:1}}"))
    assert_refused(books, f'{{"U":101,"u":101,"b":[],"a":[],"s":{string}}}'.encode())
    assert_refused(books, f'{{"U":101,"u":101,"b":[],"a":[],{string}:1}}'.encode())


def test_delete_and_whatever_lies_beyond_ascii_may_stand_in_a_string(books: ModuleType) -> None:
    for character in ("\x7f", "\x80", "é", "\u2028", "\ufeff", "\ufffe", "\uffff", "\ue000", "😀", "\U0010ffff"):
        assert_skipped(books, with_value(f'"{character}"'))
        assert books.read_header(f'{{"s":"{character}"}}').symbol == character


VALUES = [
    "0", "-0", "1", "-1", "10", "0.5", "-0.5", "1.50", "1e5", "1E5", "1e+5", "1e-5", "0e0", "0E-0", "-1.5e-10", "1e400",
    "-1e400", "1e-400", "123456789012345678901234567890", "1" * 4301, "0." + "1" * 4301, "1e" + "9" * 400, "true",
    "false", "null", '""', "[]", "{}", "[1,2,[3]]", '{"a":{"b":[{}]},"a":2}', '[{"U":0},{"U":0,"U":1}]',
    '"' + "x" * 9000 + '"',
]  # fmt: skip

VALUES_REFUSED = [
    "", "01", "-01", "00", "+1", ".5", "5.", "-.5", "-", "--1", "1e", "1e+", "1.e5", "e5", "0x1", "1_0", "1 0", "١",
    "1e٥", "NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "True", "TRUE", "tru", "truee", "nul", "None",
    "undefined",
    "[1,]", "[,1]", "[1 2]", "[1,,2]", "[", "]", "[1", "1]", "[1}", "{", "{]", "{,}", '{"a"}', '{"a":}', '{"a":1,}',
    '{"a":1 "b":2}', '{"a" 1}', '{"a"::1}', "{1:2}", "{a:1}", "{null:1}", "{'a':1}", '"a" "b"', "1,", "/* */ 1",
    "// 1\n 1",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:40])
def test_any_value_may_stand_under_an_unknown_key(books: ModuleType, value: str) -> None:
    assert_skipped(books, with_value(value))
    assert_skipped(books, with_value(f'{{"y":[{value},{value}],"z":{value}}}'))


@pytest.mark.parametrize("value", VALUES_REFUSED)
def test_a_value_that_json_forbids_is_refused_also_where_it_is_skipped(books: ModuleType, value: str) -> None:
    assert_refused(books, with_value(value))
    assert_refused(books, with_value(f"[0,{value}]"))


def test_a_message_is_one_object_and_nothing_else(books: ModuleType) -> None:
    update = with_value("1")
    for payload in (
        b"", b" ", b"null", b"1", b'"x"', b"[]", b"[" + update + b"]", update + update, update + b"\x00",
        b"\x00" + update, update + b"}", update + b",", update[:-1], update[1:], b"\xef\xbb\xbf" + update,
        update.decode().encode("utf-16"), update.decode().encode("utf-32-le"), b"\x00" * 1000,
    ):  # fmt: skip
        assert_refused(books, payload)
    assert_refused(books, "\ufeff" + update.decode())


def test_bytes_must_be_utf8(books: ModuleType) -> None:
    for wrong in (
        b"\x80", b"\xbf", b"\xff", b"\xfe", b"\xc3", b"\xc3(", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xe2\x82", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80", b"\xf0\x9f\x98", b"\xf8\x88\x80\x80\x80", b"\xe2\x28\xa1", b"\xe2\x82(",
    ):  # fmt: skip
        assert_refused(books, with_value('"?"').replace(b"?", wrong))
        assert_refused(books, b'{"U":101,"u":101,"b":[],"a":[],"s":"' + wrong + b'"}')
        assert_refused(books, b'{"U":101,"u":101,"b":[],"a":[],"' + wrong + b'":1}')
        assert_refused(books, with_value("1") + wrong)


def test_text_with_a_lone_surrogate_is_refused(books: ModuleType) -> None:
    for character in ("\ud800", "\udfff", "\ud83d\ude00"):
        assert_refused(books, with_value('"?"').decode().replace("?", character))


def test_a_known_key_that_stands_twice_is_refused(books: ModuleType) -> None:
    whole = EVENT | LEVELS | {"ps": "BTCUSDT", "st": 1}
    for key, value in whole.items():
        twice = dumps(whole)[:-1] + f',"{key}":{json.dumps(value)}}}'.encode()
        hidden = dumps(whole)[:-1] + f',"{escaped(key)}":{json.dumps(value)}}}'.encode()
        for event in (twice, hidden):
            assert_refused(books, event)
            assert_refused(books, b'{"stream":"x","data":' + event + b"}")
    event = dumps(whole)
    assert_refused(books, b'{"stream":"x","data":' + event + b',"stream":"x"}')
    assert_refused(books, b'{"data":' + event + b',"stream":"x","data":' + event + b"}")
    assert_refused(books, event[:-1] + b',"stream":"x","stream":"x"}')


def test_unknown_keys_may_stand_twice_and_known_ones_elsewhere_are_unknown(books: ModuleType) -> None:
    event = dumps(EVENT | LEVELS)
    assert_applied(books, event[:-1] + b',"x":1,"x":[],"X":2,"B":3,"A":4,"":5,"":6}')
    assert_applied(books, event[:-1] + b',"x":{"U":0,"U":"x","b":1,"b":2,"data":{},"data":0}}')
    inner = event[:-1] + b',"stream":1,"stream":2,"data":[],"data":{}}'
    assert_applied(books, b'{"data":' + inner + b',"x":1,"x":{"E":1,"E":2},"lastUpdateId":null}')
    assert_applied(books, event[:-1] + b',"lastUpdateId":null,"bids":5,"asks":6,"bids":7}')


def test_the_stream_is_read_from_the_outermost_object(books: ModuleType) -> None:
    event = EVENT | LEVELS
    for payload, stream in (
        (dumps({"stream": STREAM, "data": event}), STREAM),
        (dumps(event | {"stream": STREAM}), STREAM),
        (dumps({"data": event | {"stream": STREAM}}), None),
        (dumps({"stream": 5, "data": event}), None),
        (dumps({"stream": None, "data": event}), None),
        (dumps({"stream": "这是测试币456@depth", "data": event}), "这是测试币456@depth"),
    ):
        book = loaded_book(books, "futures")
        assert book.apply(payload) is Verdict.APPLIED
        assert book.last_header.stream == stream
        assert books.read_header(payload).stream == stream


@pytest.mark.parametrize("data", ["null", "[]", '"x"', "5", "true", "[{}]"])
def test_data_must_be_an_object(books: ModuleType, data: str) -> None:
    assert_refused(books, f'{{"stream":"x","data":{data}}}'.encode())


@pytest.mark.parametrize("key", ["e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st"])
def test_no_event_key_may_stand_beside_data(books: ModuleType, key: str) -> None:
    event = dumps(EVENT | LEVELS)
    assert_refused(books, b'{"stream":"x","data":' + event + f',"{key}":null}}'.encode())
    assert_refused(books, f'{{"{key}":[],"data":'.encode() + event + b"}")


@pytest.mark.parametrize("key", ["E", "T", "s", "stream", "e", "ps", "st"])
@pytest.mark.parametrize("value", ["null", "1.5", "true", "[]", "{}", "[[1]]", "99999999999999999999"])
def test_a_field_of_another_type_reads_as_none(books: ModuleType, key: str, value: str) -> None:
    payload = f'{{"{key}":{value},"U":101,"u":101,"b":[],"a":[]}}'.encode()
    book = loaded_book(books)
    assert book.apply(payload) is Verdict.APPLIED
    assert book.last_header == (None, None, None, 101, 101, None, None)
    assert (book.event_time_ms, book.transaction_time_ms) == (None, None)


def nested(depth: int, kind: str) -> str:
    """Return a value of so many containers, one inside the other."""
    if kind == "arrays":
        return "[" * depth + "]" * depth
    if kind == "objects":
        return '{"a":' * depth + "1" + "}" * depth
    return '[{"a":' * (depth // 2) + ("[]" if depth % 2 else "1") + "}]" * (depth // 2)


@pytest.mark.parametrize("kind", ["arrays", "objects", "both"])
def test_nesting_has_a_limit_to_the_container(books: ModuleType, kind: str) -> None:
    most = books.NESTING_MAX - 1  # the outermost object is one
    assert_skipped(books, with_value(nested(most, kind)))
    assert_skipped(books, with_value(f"[{nested(most - 1, kind)},{nested(most - 1, kind)}]"))
    assert_refused(books, with_value(nested(most + 1, kind)))
    assert_refused(books, with_value(f"[1,{nested(most - 1, kind)},{nested(most, kind)}]"))


@pytest.mark.parametrize("key", ["x", "E", "T", "s", "e", "ps", "st", "stream"])
def test_nesting_has_the_same_limit_under_every_key(books: ModuleType, key: str) -> None:
    event = '{{"U":101,"u":101,"b":[],"a":[],"{}":{}}}'
    most = books.NESTING_MAX - 1
    assert loaded_book(books).apply(event.format(key, nested(most, "arrays"))) is Verdict.APPLIED
    assert_refused(books, event.format(key, nested(most + 1, "arrays")).encode())
    wrapped = '{{"data":{}}}'
    assert loaded_book(books).apply(wrapped.format(event.format(key, nested(most - 1, "arrays")))) is Verdict.APPLIED
    assert_refused(books, wrapped.format(event.format(key, nested(most, "arrays"))).encode())


def test_brackets_in_strings_do_not_nest(books: ModuleType) -> None:
    assert_skipped(books, with_value('"' + "[" * 100 + '"'))
    assert_skipped(books, with_value('["' + '\\"[{' * 100 + '",' + nested(10, "both") + "]"))


def test_many_containers_side_by_side_do_not_nest(books: ModuleType) -> None:
    assert_skipped(books, with_value("[" + "[[]]," * 200 + "{}]"))


def test_nesting_of_a_million_is_refused(books: ModuleType) -> None:
    deep = 1_000_000
    for payload in (
        b"[" * deep, b'{"a":' * deep, with_value("[" * deep), with_value(nested(deep, "arrays")),
        with_value(nested(deep, "objects")), b'{"data":' * deep, b'{"U":101,"u":101,"a":[],"b":' + b"[" * deep,
    ):  # fmt: skip
        assert_refused(books, payload)


def test_a_sound_message_is_not_refused_because_the_caller_is_at_the_end_of_its_stack(books: ModuleType) -> None:
    book = loaded_book(books)
    stale = dumps({"U": 99, "u": 99, "b": LEVELS["b"], "a": LEVELS["a"]})

    def dive() -> None:
        assert book.apply(stale) is Verdict.STALE
        dive()

    with pytest.raises(RecursionError):
        dive()
    assert book.counters.updates_stale > 10
    assert book.counters.updates_malformed == 0
    book.check()


def test_what_is_too_long_is_refused_and_what_is_long_is_not(books: ModuleType) -> None:
    most = books.MESSAGE_BYTES_MAX
    update = with_value('"?"')
    longest = update.replace(b"?", b"x" * (most - len(update) + 1))
    assert len(longest) == most
    assert_skipped(books, longest)
    assert_refused(books, longest + b" ")
    assert_refused(books, (longest + b" ").decode())
    assert_refused(books, update.replace(b"?", b"x" * 30_000_000))
    characters = update.decode().replace("?", "é" * (most // 2))
    assert len(characters) < most
    assert_refused(books, characters)


def test_long_messages_of_every_kind_take_no_longer_than_their_length(books: ModuleType) -> None:
    million = 1_000_000
    for value in ('"' + "\\u0041" * million + '"', "[" + "1," * million + "1]", "1" * million, "0." + "1" * million):
        assert_skipped(books, with_value(value))
    assert_skipped(books, with_value("{" + ",".join(f'"{number}":0' for number in range(million // 10)) + "}"))
    for value in ('"' + "\\" * million, '"' + "\\u00" * million, "[" * 20 + '"' + "[" * million, "-" * million):
        assert_refused(books, with_value(value))
