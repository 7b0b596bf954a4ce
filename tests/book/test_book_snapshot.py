"""What a snapshot does to a book, and which snapshots are refused."""

from types import ModuleType
from typing import Any

import pytest
from messages import (
    ASKS,
    BIDS,
    everything,
    everything_but_counters,
    exact_asks,
    exact_bids,
    loaded_book,
    make_snapshot,
    make_update,
)

import ldc
from ldc.errors import BookNotLoaded, MalformedMessage


def test_a_new_book_is_not_loaded(books: ModuleType) -> None:
    book = books.OrderBook("spot", market="BTCUSDT")
    assert not book.is_loaded
    assert not book.is_readable
    assert not book.is_crossed
    assert not book.needs_attention
    assert (book.market, book.rule.name) == ("BTCUSDT", "spot")
    assert (book.bid_count, book.ask_count) == (0, 0)
    unknown = ("last_update_id", "event_time_ms", "transaction_time_ms", "received_time_ns", "bid_horizon")
    unknown += ("ask_horizon", "last_header", "price_decimals", "quantity_decimals", "suspended_by")
    assert [getattr(book, name) for name in unknown] == [None] * len(unknown)
    assert set(book.counters) == {0}
    with pytest.raises(BookNotLoaded) as raised:
        book.bids()
    assert (raised.value.market, raised.value.cause) == ("BTCUSDT", "NOT_LOADED")
    book.check()


def test_a_snapshot_makes_the_book(books: ModuleType) -> None:
    book = books.OrderBook("futures")
    body = make_snapshot(BIDS, ASKS, 4_605_731_905_112, E=1_723_161_256_567, T=1_723_161_256_561)
    assert book.load_snapshot(body, 1000, received_time_ns=1_723_161_256_600_000_001) is None
    assert book.is_loaded
    assert book.is_readable
    assert book.last_update_id == 4_605_731_905_112
    assert (book.event_time_ms, book.transaction_time_ms) == (1_723_161_256_567, 1_723_161_256_561)
    assert book.received_time_ns == 1_723_161_256_600_000_001
    assert exact_bids(book) == BIDS
    assert exact_asks(book) == ASKS
    assert (book.bid_count, book.ask_count) == (3, 3)
    assert book.counters.snapshots_loaded == 1
    book.check()


def test_a_spot_snapshot_has_no_times(books: ModuleType) -> None:
    book = loaded_book(books)
    assert (book.event_time_ms, book.transaction_time_ms, book.received_time_ns) == (None, None, None)


def test_an_unsorted_snapshot_is_sorted(books: ModuleType) -> None:
    book = loaded_book(books, bids=[BIDS[2], BIDS[0], BIDS[1]], asks=[ASKS[1], ASKS[2], ASKS[0]])
    assert exact_bids(book) == BIDS
    assert exact_asks(book) == ASKS


def test_prices_are_sorted_as_numbers_not_as_texts(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("9.5", "1"), ("100.5", "1"), ("99.5", "1")], asks=[("1000", "1"), ("101", "1")])
    assert [price for price, _ in book.bids()] == [100.5, 99.5, 9.5]
    assert [price for price, _ in book.asks()] == [101.0, 1000.0]


def test_a_level_of_quantity_zero_is_skipped(books: ModuleType) -> None:
    book = loaded_book(
        books, bids=[("100.10", "0.000"), ("100.00", "1.000")], asks=[("100.05", "0"), ("100.20", "1.000")]
    )
    assert exact_bids(book) == [("100.00", "1.000")]
    assert exact_asks(book) == [("100.20", "1.000")]


def test_the_texts_of_a_skipped_level_are_read_all_the_same(books: ModuleType) -> None:
    book = books.OrderBook("spot")
    for level in (("1e2", "0"), ("100", "0x0"), ("-100", "0"), ("100", "-0")):
        with pytest.raises(MalformedMessage):
            book.load_snapshot(make_snapshot([level, ("99", "1")]))


def test_empty_sides_are_legal_and_complete(books: ModuleType) -> None:
    book = loaded_book(books, bids=[], asks=[], limit=None)
    assert book.is_readable
    assert (book.best_bid, book.best_ask, book.bids(), book.asks()) == (None, None, [], [])
    assert (book.bid_horizon, book.ask_horizon) == (None, None)
    assert (book.price_decimals, book.quantity_decimals) == (0, 0)


REFUSED_BOOKS = {
    "a price twice": make_snapshot([("100", "1"), ("100", "1")]),
    "a price twice by value": make_snapshot([("100.0", "1"), ("100.00", "2")]),
    "a price twice, apart": make_snapshot((), [("100", "1"), ("101", "1"), ("100", "2")]),
    "crossed": make_snapshot([("100.3", "1")], [("100.2", "1")]),
    "locked": make_snapshot([("100.2", "1")], [("100.20", "1")]),
    "crossed though unsorted": make_snapshot([("99", "1"), ("101", "1")], [("102", "1"), ("100", "1")]),
    "only zeros": make_snapshot([("100", "0"), ("99", "0.0")], [("101", "1")]),
}


@pytest.mark.parametrize("name", REFUSED_BOOKS)
def test_a_snapshot_that_is_no_book_is_refused(books: ModuleType, name: str) -> None:
    with pytest.raises(MalformedMessage):
        books.OrderBook("spot").load_snapshot(REFUSED_BOOKS[name], 2)


def test_a_price_that_stands_twice_but_rests_once_is_accepted(books: ModuleType) -> None:
    book = loaded_book(books, bids=[("100", "0"), ("100", "1"), ("100.0", "0")], asks=[("99", "0"), ("101", "1")])
    assert book.bids() == [[100.0, 1.0]]


REFUSED_BODIES = {
    "no id": b'{"bids":[],"asks":[]}',
    "no bids": b'{"lastUpdateId":1,"asks":[]}',
    "no asks": b'{"lastUpdateId":1,"bids":[]}',
    "bids null": b'{"lastUpdateId":1,"bids":null,"asks":[]}',
    "bids an object": b'{"lastUpdateId":1,"bids":{},"asks":[]}',
    "a level of one": b'{"lastUpdateId":1,"bids":[["1"]],"asks":[]}',
    "a level of three": b'{"lastUpdateId":1,"bids":[["1","1","1"]],"asks":[]}',
    "a bare price": b'{"lastUpdateId":1,"bids":[[1,"1"]],"asks":[]}',
    "a bare quantity": b'{"lastUpdateId":1,"bids":[["1",1.5]],"asks":[]}',
    "a level as a string": b'{"lastUpdateId":1,"bids":["12"],"asks":[]}',
    "a level as an object": b'{"lastUpdateId":1,"bids":[{"1":"1","2":"2"}],"asks":[]}',
    "an id of zero": b'{"lastUpdateId":0,"bids":[],"asks":[]}',
    "a negative id": b'{"lastUpdateId":-1,"bids":[],"asks":[]}',
    "an id past int64": b'{"lastUpdateId":9223372036854775808,"bids":[],"asks":[]}',
    "an id far past int64": b'{"lastUpdateId":1' + b"0" * 5000 + b',"bids":[],"asks":[]}',
    "an id with a fraction": b'{"lastUpdateId":1.0,"bids":[],"asks":[]}',
    "an id with an exponent": b'{"lastUpdateId":1e2,"bids":[],"asks":[]}',
    "an id as text": b'{"lastUpdateId":"1","bids":[],"asks":[]}',
    "an id true": b'{"lastUpdateId":true,"bids":[],"asks":[]}',
    "an id null": b'{"lastUpdateId":null,"bids":[],"asks":[]}',
    "lastUpdateId twice": b'{"lastUpdateId":1,"lastUpdateId":1,"bids":[],"asks":[]}',
    "bids twice": b'{"lastUpdateId":1,"bids":[],"bids":[],"asks":[]}',
    "asks twice": b'{"lastUpdateId":1,"bids":[],"asks":[],"asks":[]}',
    "E twice": b'{"lastUpdateId":1,"E":1,"bids":[],"asks":[],"E":1}',
    "T twice": b'{"lastUpdateId":1,"T":1,"bids":[],"asks":[],"T":1}',
    "an array": b'[{"lastUpdateId":1,"bids":[],"asks":[]}]',
    "wrapped": b'{"data":{"lastUpdateId":1,"bids":[],"asks":[]}}',
    "an error of the exchange": b'{"code":-1121,"msg":"Invalid symbol."}',
    "a web page": b"<html><body>403 Forbidden</body></html>",
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED_BODIES)
def test_a_body_that_is_no_snapshot_is_refused_and_changes_nothing(books: ModuleType, name: str) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.apply(make_update(101))
    before, counters = everything_but_counters(book), book.counters
    with pytest.raises(MalformedMessage) as raised:
        book.load_snapshot(REFUSED_BODIES[name], 10)
    assert (raised.value.market, raised.value.cause) == ("BTCUSDT", None)
    assert everything_but_counters(book) == before
    assert book.counters == counters._replace(snapshots_refused=1)
    book.check()


def test_other_keys_of_a_snapshot_are_skipped_also_twice(books: ModuleType) -> None:
    book = books.OrderBook("futures")
    other = b'"pair":"BTCUSD","symbol":{"b":[[]],"U":0},"pair":[1e400,-0.5],"b":1,"b":2,"data":null,'
    book.load_snapshot(b'{"lastUpdateId":7,' + other + b'"bids":[["1","2"]],"asks":[]}')
    assert (book.last_update_id, book.bids()) == (7, [[1.0, 2.0]])


def test_the_order_of_the_keys_of_a_snapshot_does_not_matter(books: ModuleType) -> None:
    book = books.OrderBook("futures")
    book.load_snapshot(b'{"bids":[["1","2"]],"asks":[["3","4"]],"T":5,"E":6,"lastUpdateId":7}')
    assert book.view()[:8] == (((1.0, 2.0),), ((3.0, 4.0),), 7, 6, 5, None, 1.0, 3.0)


@pytest.mark.parametrize("time", ['"5"', "5.0", "5e0", "null", "true", "9223372036854775808", "-9223372036854775809"])
def test_a_time_that_is_no_int64_reads_as_none(books: ModuleType, time: str) -> None:
    book = books.OrderBook("futures")
    book.load_snapshot(f'{{"lastUpdateId":7,"E":{time},"T":{time},"bids":[],"asks":[]}}')
    assert (book.event_time_ms, book.transaction_time_ms) == (None, None)


@pytest.mark.parametrize("time", [0, -1, 2**63 - 1, -(2**63)])
def test_every_int64_is_a_time(books: ModuleType, time: int) -> None:
    book = books.OrderBook("futures")
    book.load_snapshot(make_snapshot(E=time, T=time), received_time_ns=None)
    assert (book.event_time_ms, book.transaction_time_ms) == (time, time)


def test_a_snapshot_replaces_everything_but_counters_suspension_and_last_header(books: ModuleType) -> None:
    book = loaded_book(books, "futures", bids=[("1.123456", "1.5")], asks=[])
    book.apply(make_update(99, 101, 98, bids=[("1.1234567", "1")], T=5), received_time_ns=6)
    header = book.last_header
    book.suspend("GAP")
    book.load_snapshot(make_snapshot([("50", "1")], [("60.5", "2")], 42), 1)
    assert book.suspended_by == "GAP"
    assert book.last_header == header
    book.resume()
    assert book.view(number=str)[:8] == ((("50.0", "1"),), (("60.5", "2"),), 42, None, None, None, "50.0", "60.5")
    assert (book.price_decimals, book.quantity_decimals) == (1, 0)
    assert book.counters.snapshots_loaded == 2
    assert book.counters.updates_applied == 1


def test_a_second_snapshot_may_go_back(books: ModuleType) -> None:
    book = loaded_book(books, last_update_id=100)
    book.load_snapshot(make_snapshot(BIDS, ASKS, 50))
    assert book.last_update_id == 50


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("5", TypeError)])
def test_a_wrong_limit_is_the_callers_mistake(books: ModuleType, limit: Any, error: type[Exception]) -> None:
    book = loaded_book(books)
    before = everything(book)
    with pytest.raises(error) as raised:
        book.load_snapshot(make_snapshot([("1", "1")]), limit)
    assert not isinstance(raised.value, MalformedMessage)
    assert everything(book) == before


def test_a_huge_limit_is_a_limit(books: ModuleType) -> None:
    assert loaded_book(books, limit=10**30).bid_horizon is None


@pytest.mark.parametrize("body", [None, 5, ["{}"], object()])
def test_what_is_no_message_at_all_is_a_type_error_and_not_counted(books: ModuleType, body: Any) -> None:
    book = loaded_book(books)
    before = everything(book)
    with pytest.raises(TypeError):
        book.load_snapshot(body)
    with pytest.raises(TypeError):
        book.apply(body)
    with pytest.raises(TypeError):
        books.read_header(body)
    assert everything(book) == before


def test_clear_forgets_all_but_counters_and_suspension(books: ModuleType) -> None:
    book = loaded_book(books, "futures", market="X")
    book.apply(make_update(99, 101, 98, T=5), received_time_ns=6)
    book.suspend("GAP")
    counters = book.counters
    book.clear()
    assert book.counters == counters
    assert book.suspended_by == "GAP"
    book.resume()
    fresh = books.OrderBook("futures", market="X")
    assert everything_but_counters(book) == everything_but_counters(fresh)
    with pytest.raises(BookNotLoaded):
        book.apply(make_update(102, 102, 101))
    book.check()
    book.clear()
    book.load_snapshot(make_snapshot(BIDS, ASKS))
    assert exact_bids(book) == BIDS


def test_too_many_levels_in_one_message_are_refused(books: ModuleType) -> None:
    half = books.LEVELS_PER_MESSAGE_MAX // 2
    bids = [(str(price), "1") for price in range(half, 0, -1)]
    asks = [(str(half + price), "1") for price in range(1, half + 1)]
    book = loaded_book(books, bids=bids, asks=asks)
    assert (book.bid_count, book.ask_count) == (half, half)
    with pytest.raises(MalformedMessage):
        book.load_snapshot(make_snapshot(bids, [*asks, ("999999", "1")]))
    with pytest.raises(MalformedMessage):
        book.apply(make_update(101, bids=[*bids, ("0", "0")], asks=asks))
    assert book.apply(make_update(101, bids=bids, asks=asks)) is ldc.Verdict.APPLIED


def test_a_side_that_is_too_long_is_cut_and_its_horizon_moves(books: ModuleType) -> None:
    most = books.LEVELS_PER_SIDE_MAX
    levels = [(str(price), "1") for price in range(1, most + 11)]
    book = loaded_book(books, bids=levels, asks=[("100000", "1")], limit=None)
    assert (book.bid_count, book.bid_horizon) == (most, 11.0)
    assert book.bids()[-1] == [11.0, 1.0]
    assert book.counters.levels_dropped == 10
    book.check()
    complete = loaded_book(books, bids=[], asks=levels, limit=10**6)
    assert (complete.ask_count, complete.ask_horizon) == (most, float(most))
    assert complete.asks()[-1] == [float(most), 1.0]
    assert complete.counters.levels_dropped == 10
    complete.check()


def test_the_limits_are_what_the_contract_says(books: ModuleType) -> None:
    assert books.NESTING_MAX == 32
    assert books.MESSAGE_BYTES_MAX == 16 * 1024 * 1024
    assert books.LEVELS_PER_MESSAGE_MAX == 100_000
    assert books.LEVELS_PER_SIDE_MAX == 50_000
    assert books.DECIMALS_MAX == 18
