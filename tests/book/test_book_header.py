"""What read_header says of a message of any event, without a look at its levels."""

from types import ModuleType

import pytest
from messages import dumps, make_snapshot, make_update

from ldc.errors import MalformedMessage
from ldc.types import Header

NOTHING = Header(None, None, None, None, None, None, None)


def test_the_header_of_a_depth_update(books: ModuleType) -> None:
    header = books.read_header(make_update(5, 7, 4, bids=[("1", "2")], stream="btcusdt@depth", E=9))
    assert header == Header("btcusdt@depth", "depthUpdate", "BTCUSDT", 5, 7, 4, 9)
    assert type(header) is Header
    assert books.read_header(make_update(5, 7)) == Header(None, "depthUpdate", "BTCUSDT", 5, 7, None, 1_700_000_000_000)


def test_any_event_has_a_header(books: ModuleType) -> None:
    ticker = {"u": 400900217, "s": "BNBUSDT", "b": "25.35190000", "B": "31.21", "a": "25.36520000", "A": "40.66"}
    assert books.read_header(dumps(ticker)) == NOTHING._replace(symbol="BNBUSDT", last_update_id=400900217)
    wrapped = {"stream": "bnbusdt@bookTicker", "data": ticker | {"e": "bookTicker", "E": 5, "T": 4}}
    assert books.read_header(dumps(wrapped)) == (
        "bnbusdt@bookTicker",
        "bookTicker",
        "BNBUSDT",
        None,
        400900217,
        None,
        5,
    )
    shutdown = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'
    assert books.read_header(shutdown) == ("!serverShutdown", "serverShutdown", None, None, None, None, 1770123456789)
    trade = b'{"e":"trade","E":1,"s":"X","t":2,"p":"0.001","q":"100","T":3,"m":true,"M":false}'
    assert books.read_header(trade) == NOTHING._replace(event="trade", symbol="X", event_time_ms=1)


def test_what_is_no_event_has_an_empty_header(books: ModuleType) -> None:
    for payload in (b'{"result":null,"id":1}', b"{}", b'{"data":{}}', b'{"error":{"code":2,"msg":"u"},"id":"x"}'):
        assert books.read_header(payload) == NOTHING


@pytest.mark.parametrize(
    "levels", ["null", "5", '"x"', "{}", "[[]]", '[["x","y"]]', "[1,[2,[3,[4]]]]", '{"b":1,"b":2}']
)
def test_levels_are_skipped_whatever_they_are(books: ModuleType, levels: str) -> None:
    payload = f'{{"U":1,"b":{levels},"u":2,"a":{levels}}}'.encode()
    assert books.read_header(payload) == NOTHING._replace(first_update_id=1, last_update_id=2)
    assert books.read_header(b'{"data":' + payload + b"}") == books.read_header(payload)


def test_any_number_of_levels_is_skipped(books: ModuleType) -> None:
    levels = b"[" + b",".join([b'["1","0"]'] * (books.LEVELS_PER_MESSAGE_MAX + 1)) + b"]"
    assert books.read_header(b'{"U":1,"u":2,"b":' + levels + b"}").last_update_id == 2


def test_levels_are_skipped_as_strict_json(books: ModuleType) -> None:
    for levels in ("[1,]", "[[]", '["\\ud800"]', "NaN", "[01]", "[" * 31 + "]" * 31 + "[", "{'a':1}"):
        with pytest.raises(MalformedMessage):
            books.read_header(f'{{"b":{levels}}}'.encode())


def test_levels_may_not_be_nested_too_deeply(books: ModuleType) -> None:
    most = books.NESTING_MAX - 1
    for key in ("b", "a"):
        assert books.read_header(f'{{"{key}":{"[" * most}{"]" * most}}}') == NOTHING
        assert books.read_header(f'{{"data":{{"{key}":{"[" * (most - 1)}{"]" * (most - 1)}}}}}') == NOTHING
        with pytest.raises(MalformedMessage):
            books.read_header(f'{{"{key}":{"[" * (most + 1)}{"]" * (most + 1)}}}')
        with pytest.raises(MalformedMessage):
            books.read_header(f'{{"data":{{"{key}":{"[" * most}{"]" * most}}}}}')


def test_ids_need_not_agree_with_each_other(books: ModuleType) -> None:
    assert books.read_header(b'{"U":9,"u":5,"pu":7}')[3:6] == (9, 5, 7)


@pytest.mark.parametrize("key", ["U", "u", "pu"])
@pytest.mark.parametrize("value", ["0", "-1", "1.0", "1e0", '"1"', "true", "null", "[]", "{}", "9223372036854775808"])
def test_an_id_of_a_wrong_type_is_refused(books: ModuleType, key: str, value: str) -> None:
    with pytest.raises(MalformedMessage) as raised:
        books.read_header(f'{{"{key}":{value}}}'.encode())
    assert (raised.value.market, raised.value.cause) == (None, None)


@pytest.mark.parametrize("key", ["stream", "e", "s", "E"])
@pytest.mark.parametrize("value", ["true", "null", "[]", "{}", "1.5", "9223372036854775808", "-9223372036854775809"])
def test_a_text_or_time_of_a_wrong_type_reads_as_none(books: ModuleType, key: str, value: str) -> None:
    assert books.read_header(f'{{"{key}":{value}}}'.encode()) == NOTHING


@pytest.mark.parametrize("key", ["stream", "data", "e", "E", "T", "s", "U", "u", "pu", "b", "a", "ps", "st"])
def test_a_known_key_that_stands_twice_is_refused(books: ModuleType, key: str) -> None:
    value = "{}" if key == "data" else "1"
    with pytest.raises(MalformedMessage):
        books.read_header(f'{{"{key}":{value},"x":1,"{key}":{value}}}'.encode())


def test_texts_of_any_length_and_script_come_out_whole(books: ModuleType) -> None:
    for text in ("", "这是测试币456", "a" * 10_000, "\u0000", "😀", '"\\/'):
        assert books.read_header(dumps({"stream": text, "data": {"s": text, "e": text}}))[:3] == (text, text, text)


def test_what_follows_an_empty_event_needs_its_comma(books: ModuleType) -> None:
    assert books.read_header(b'{"data":{},"stream":"x"}').stream == "x"
    assert books.read_header(b'{"data":{ } , "x":1}') == (None,) * 7
    for payload in (b'{"data":{}"stream":"x"}', b'{"data":{} "x":1}', b'{"data":{},}', b'{"data":{},,"x":1}'):
        with pytest.raises(MalformedMessage):
            books.read_header(payload)


def test_empty_texts_are_texts(books: ModuleType) -> None:
    book = books.OrderBook("spot")
    book.load_snapshot(make_snapshot())
    book.apply(make_update(101, stream="", s=""))
    assert (book.last_header.stream, book.last_header.symbol) == ("", "")
