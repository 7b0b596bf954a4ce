"""What a depth update does to a book: judged by its ids, applied whole or not at all, and counted."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from messages import (
    ASKS,
    BIDS,
    READS,
    dumps,
    everything,
    everything_but_counters,
    exact_asks,
    exact_bids,
    loaded_book,
    make_snapshot,
    make_update,
    outcome,
)

from ldc.errors import BookNotLoaded, DepthCacheOutOfSync, MalformedMessage, refused
from ldc.sequence import FUTURES, SequenceRule
from ldc.types import Cause, Header, Verdict


def test_an_update_changes_inserts_and_removes(books: ModuleType) -> None:
    book = loaded_book(books)
    bids = [("100.10", "9.000"), ("99.80", "1.125"), ("99.50", "0.000")]
    asks = [("100.15", "2.000"), ("100.40", "0")]
    assert book.apply(make_update(101, 105, bids=bids, asks=asks)) is Verdict.APPLIED
    assert exact_bids(book) == [("100.10", "9.000"), ("100.00", "2.500"), ("99.80", "1.125")]
    assert exact_asks(book) == [("100.15", "2.000"), ("100.20", "0.500"), ("101.00", "7.000")]
    assert book.last_update_id == 105
    assert book.counters.updates_applied == 1
    book.check()


def test_removing_what_is_not_there_is_a_no_op(books: ModuleType) -> None:
    book = loaded_book(books)
    deletes = [
        ("0.01", "0"),
        ("100.05", "0.000"),
        ("99999", "0"),
        ("100.123456789", "0"),
        ("92233720368547758.07", "0"),
    ]
    assert book.apply(make_update(101, bids=deletes, asks=deletes)) is Verdict.APPLIED
    assert (exact_bids(book), exact_asks(book)) == (BIDS, ASKS)


def test_a_side_may_empty(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS]))
    assert (book.best_bid, book.bids(), book.bid_count) == (None, [], 0)
    assert book.best_ask == (100.2, 0.5)
    assert not book.is_crossed
    assert book.is_readable
    book.apply(make_update(102, bids=[("1", "1")]))
    assert book.best_bid == (1.0, 1.0)


def test_an_update_without_levels_moves_the_id(books: ModuleType) -> None:
    book = loaded_book(books)
    assert book.apply(make_update(101, 110)) is Verdict.APPLIED
    assert book.last_update_id == 110


def test_times_are_those_of_the_last_applied_update(books: ModuleType) -> None:
    book = loaded_book(books, "futures")
    book.apply(make_update(99, 101, 98, E=11, T=12), 13)
    assert (book.event_time_ms, book.transaction_time_ms, book.received_time_ns) == (11, 12, 13)
    assert book.view()[3:6] == (11, 12, 13)
    book.apply(make_update(90, 95, 89, E=21, T=22), received_time_ns=23)
    assert (book.event_time_ms, book.transaction_time_ms, book.received_time_ns) == (11, 12, 13)
    book.apply(make_update(102, 102, 101, E="31", T=None))
    assert (book.event_time_ms, book.transaction_time_ms, book.received_time_ns) == (None, None, None)


@pytest.mark.parametrize(("first", "last"), [(90, 99), (90, 100), (100, 100)])
def test_a_stale_update_changes_nothing(books: ModuleType, first: int, last: int) -> None:
    book = loaded_book(books)
    before, counters = everything_but_counters(book), book.counters
    assert book.apply(make_update(first, last, bids=[("50", "1")])) is Verdict.STALE
    assert everything_but_counters(book) == before | {"last_header": repr(book.last_header)}
    assert book.counters == counters._replace(updates_stale=1)
    assert book.last_header.last_update_id == last


def test_a_gap_changes_nothing_and_the_book_stays_readable_where_it_stands(books: ModuleType) -> None:
    book = loaded_book(books)
    before, counters = everything_but_counters(book), book.counters
    assert book.apply(make_update(102, 103, bids=[("50", "1")])) is Verdict.GAP
    assert everything_but_counters(book) == before | {"last_header": repr(book.last_header)}
    assert book.counters == counters._replace(updates_gap=1)
    assert book.last_header.first_update_id == 102
    assert book.apply(make_update(101, 101)) is Verdict.APPLIED


def test_an_overlap_is_applied_and_counted(books: ModuleType) -> None:
    book = loaded_book(books)
    assert book.apply(make_update(90, 105, bids=[("50", "1")])) is Verdict.APPLIED
    assert book.apply(make_update(106, 106)) is Verdict.APPLIED
    assert book.apply(make_update(106, 107)) is Verdict.APPLIED
    assert book.counters.updates_overlapping == 2
    assert book.counters.updates_applied == 3


def test_the_first_update_after_a_futures_snapshot_may_end_at_its_id_but_no_later_one(books: ModuleType) -> None:
    book = loaded_book(books, "futures")
    assert book.apply(make_update(90, 100, 89, bids=[("50", "1")])) is Verdict.APPLIED
    assert book.counters.updates_overlapping == 1
    assert book.apply(make_update(90, 100, 89)) is Verdict.STALE
    book.load_snapshot(make_snapshot(BIDS, ASKS, 100))
    assert book.apply(make_update(90, 100, 89)) is Verdict.APPLIED


def test_stale_and_gap_do_not_end_the_grace_after_a_futures_snapshot(books: ModuleType) -> None:
    book = loaded_book(books, "futures")
    assert book.apply(make_update(90, 99, 89)) is Verdict.STALE
    assert book.apply(make_update(200, 201, 199)) is Verdict.GAP
    assert book.apply(make_update(95, 100, 99)) is Verdict.APPLIED


def test_futures_updates_chain_by_their_previous_id_over_holes(books: ModuleType) -> None:
    book = loaded_book(books, "futures")
    assert book.apply(make_update(98, 120, 95)) is Verdict.APPLIED
    assert book.apply(make_update(5000, 5001, 120)) is Verdict.APPLIED
    assert book.apply(make_update(5002, 5003, 5002)) is Verdict.GAP
    assert book.counters.updates_overlapping == 1


def test_spot_ignores_the_previous_id_but_reads_it(books: ModuleType) -> None:
    book = loaded_book(books)
    assert book.apply(make_update(101, 102, 7)) is Verdict.APPLIED
    assert book.last_header.previous_update_id == 7


def test_a_rule_of_ones_own_is_followed(books: ModuleType) -> None:
    chained = SequenceRule("chained", chains_by_previous_id=True, first_update_may_end_at_snapshot=False)
    book = loaded_book(books, chained)
    assert book.rule is chained
    assert book.apply(make_update(90, 100, 89)) is Verdict.STALE
    assert book.apply(make_update(500, 501, 100)) is Verdict.APPLIED
    graceful = SequenceRule("graceful", chains_by_previous_id=False, first_update_may_end_at_snapshot=True)
    book = loaded_book(books, graceful)
    assert book.apply(make_update(101, 100 + 5)) is Verdict.APPLIED
    book = loaded_book(books, graceful)
    assert book.apply(make_update(90, 100)) is Verdict.APPLIED


@pytest.mark.parametrize("rule", ["Spot", "", None, 5, b"spot", ["spot"]])
def test_an_unknown_rule_is_refused_with_the_names_of_the_known(books: ModuleType, rule: Any) -> None:
    with pytest.raises(ValueError, match="'spot', 'futures'"):
        books.OrderBook(rule)


def test_a_name_is_as_good_as_its_rule(books: ModuleType) -> None:
    assert books.OrderBook("futures").rule is FUTURES


REFUSED_IDS = {
    "U missing": {"U": None},
    "u missing": {"u": None},
    "U past u": {"U": 103, "u": 102},
    "pu at u": {"pu": 102},
    "pu past u": {"pu": 103},
    "U zero": {"U": 0},
    "u zero": {"U": 0, "u": 0},
    "pu zero": {"pu": 0},
    "U negative": {"U": -5},
    "pu negative": {"pu": -5},
    "u past int64": {"u": 2**63},
    "pu past int64": {"pu": 2**63},
    "U as text": {"U": "101"},
    "u as text": {"u": "102"},
    "pu as text": {"pu": "100"},
    "U true": {"U": True},
    "u a fraction": {"u": 102.0},
    "pu a fraction": {"pu": 100.5},
    "u an array": {"u": [102]},
}


@pytest.mark.parametrize("rule", ["spot", "futures"])
@pytest.mark.parametrize("name", REFUSED_IDS)
def test_an_update_with_wrong_ids_is_refused(books: ModuleType, rule: str, name: str) -> None:
    event = {"e": "depthUpdate", "U": 101, "u": 102, "pu": 100, "b": [], "a": []} | REFUSED_IDS[name]
    book = loaded_book(books, rule)
    with pytest.raises(MalformedMessage):
        book.apply(dumps({key: value for key, value in event.items() if value is not None}))
    event |= {"U": 101, "u": 102, "pu": 100}
    assert book.apply(dumps(event)) is Verdict.APPLIED


@pytest.mark.parametrize("key", ["U", "u", "pu"])
def test_an_id_of_null_is_not_a_missing_id(books: ModuleType, key: str) -> None:
    with pytest.raises(MalformedMessage):
        loaded_book(books).apply(dumps({"U": 101, "u": 102, "b": [], "a": []} | {key: None}))


def test_a_futures_update_without_previous_id_is_refused(books: ModuleType) -> None:
    with pytest.raises(MalformedMessage):
        loaded_book(books, "futures").apply(make_update(101, 102))


def test_ids_reach_to_the_end_of_int64(books: ModuleType) -> None:
    book = loaded_book(books, last_update_id=2**63 - 3)
    assert book.apply(make_update(2**63 - 2, 2**63 - 1)) is Verdict.APPLIED
    assert book.last_update_id == 2**63 - 1
    assert book.apply(make_update(2**63 - 1, 2**63 - 1)) is Verdict.STALE
    book = loaded_book(books, "futures", last_update_id=2**63 - 2)
    assert book.apply(make_update(1, 2**63 - 1, 2**63 - 2)) is Verdict.APPLIED


def test_a_price_that_stands_twice_takes_its_last_quantity(books: ModuleType) -> None:
    book = loaded_book(books)
    bids = [("50", "1"), ("60", "1"), ("50.00", "2"), ("050.0", "3")]
    asks = [("200", "1"), ("200", "0"), ("100.20", "0"), ("100.20", "4")]
    book.apply(make_update(101, bids=bids, asks=asks))
    assert [("50.00", "3.000")] == [level for level in exact_bids(book) if level[0] == "50.00"]
    assert exact_asks(book)[0] == ("100.20", "4.000")
    assert "200.00" not in dict(exact_asks(book))
    assert book.counters.prices_repeated == 4
    book.check()


def test_the_same_price_on_both_sides_is_not_repeated(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[("50", "0")], asks=[("50", "0")]))
    assert book.counters.prices_repeated == 0


def test_entries_that_cannot_be_held_are_not_counted_as_repeated(books: ModuleType) -> None:
    book = loaded_book(books)
    too_fine = [("50.001", "0"), ("50.001", "0"), ("0.001", "0"), ("0.0010", "0")]
    too_large = [("9223372036854775807", "0"), ("9223372036854775807.0", "0")]
    book.apply(make_update(101, bids=[*too_fine, *too_large, ("50.00", "0"), ("50.0", "0")]))
    assert book.counters.prices_repeated == 1


def test_a_crossed_book_cannot_be_read_from_the_commit_on(books: ModuleType) -> None:
    book = loaded_book(books)
    assert not book.needs_attention
    book.apply(make_update(101, bids=[("100.20", "1")]))
    assert book.is_crossed
    assert book.needs_attention
    assert not book.is_readable
    assert book.unreadable_cause == Cause.CROSSED
    for name, read in READS.items():
        for face in (book, book.reader):
            with pytest.raises(DepthCacheOutOfSync) as raised:
                read(face)
            assert (raised.value.market, raised.value.cause) == (book.market, Cause.CROSSED), name
            assert "at update id 101" in str(raised.value)
    # What it takes to repair it goes on, and so does what its owner looks at.
    book.check()
    assert (book.last_update_id, book.bid_count) == (101, len(BIDS) + 1)
    assert book.held_levels(1, number=str)[:2] == ((("100.20", "1.000"),), (("100.20", "0.500"),))
    assert book.compare(book).is_equal
    book.suspend("GAP")
    assert book.unreadable_cause == outcome(lambda: book.best_bid)[2] == "GAP"
    book.resume()
    assert book.unreadable_cause == Cause.CROSSED
    book.apply(make_update(102, bids=[("100.20", "0")]))
    assert not book.is_crossed
    assert not book.needs_attention
    assert book.is_readable
    assert book.unreadable_cause is None
    assert book.best_bid is not None


def test_a_crossed_book_is_readable_again_by_whatever_uncrosses_it(books: ModuleType) -> None:
    def crossed() -> Any:
        book = loaded_book(books)
        book.apply(make_update(101, bids=[("100.20", "1")]))
        assert not book.is_readable
        return book

    book = crossed()
    book.load_snapshot(make_snapshot(last_update_id=200))
    assert book.unreadable_cause is None
    book = crossed()
    sound = loaded_book(books, last_update_id=101)
    book.adopt(sound)
    assert book.unreadable_cause is None
    sound.adopt(crossed())
    assert sound.unreadable_cause == Cause.CROSSED
    book = crossed()
    book.clear()
    assert (book.is_crossed, book.unreadable_cause) == (False, Cause.NOT_LOADED)
    book.check()


def test_last_header_is_of_the_update_judged_last(books: ModuleType) -> None:
    book = loaded_book(books, "futures")
    book.apply(make_update(101, 102, 100, stream="btcusdt@depth", E=5))
    assert book.last_header == Header("btcusdt@depth", "depthUpdate", "BTCUSDT", 101, 102, 100, 5)
    with pytest.raises(MalformedMessage):
        book.apply(make_update(103, 104, 102, bids=[("x", "1")]))
    assert book.last_header.last_update_id == 102
    with pytest.raises(MalformedMessage):
        book.apply(make_update(103, 104, 102, bids=[("92233720368547758.07", "1")], asks=[("0.001", "1")]))
    assert book.last_header.last_update_id == 102
    assert book.apply(dumps({"U": 200, "u": 200, "pu": 199, "b": [], "a": []})) is Verdict.GAP
    assert book.last_header == Header(None, None, None, 200, 200, 199, None)


def test_an_update_of_another_event_is_refused(books: ModuleType) -> None:
    book = loaded_book(books)
    for event in ("bookTicker", "depthupdate", "", "depthUpdate "):
        with pytest.raises(MalformedMessage):
            book.apply(make_update(101, e=event))
    for event in (None, 5, ["depthUpdate"], {}):
        book = loaded_book(books)
        assert book.apply(make_update(101, e=event)) is Verdict.APPLIED
        assert book.last_header.event is None


def test_an_update_without_an_event_name_is_accepted(books: ModuleType) -> None:
    book = loaded_book(books)
    assert book.apply(b'{"U":101,"u":101,"b":[["100.10","0"]],"a":[]}') is Verdict.APPLIED
    assert exact_bids(book) == BIDS[1:]


@pytest.mark.parametrize("key", ["b", "a"])
@pytest.mark.parametrize(
    "value", ["missing", None, {}, "", 0, [[]], [["1"]], [["1", "1", "1"]], [["1", 1]], [[1, "1"]]]
)
def test_levels_of_a_wrong_shape_are_refused(books: ModuleType, key: str, value: Any) -> None:
    event = {"U": 101, "u": 101, "b": [], "a": [], key: value}
    if value == "missing":
        del event[key]
    with pytest.raises(MalformedMessage):
        loaded_book(books).apply(dumps(event))


@pytest.mark.parametrize("level", ["12", {"1": "2", "3": "4"}, [["1", "2"]], [None, "1"], ["1", True], ["1", ["2"]]])
def test_a_level_that_is_not_two_strings_is_refused(books: ModuleType, level: Any) -> None:
    with pytest.raises(MalformedMessage):
        loaded_book(books).apply(dumps({"U": 101, "u": 101, "b": [["100.10", "5"], level], "a": []}))


def test_a_refused_update_changes_nothing_even_if_only_its_last_level_is_wrong(books: ModuleType) -> None:
    book = loaded_book(books, market="BTCUSDT")
    before, counters = everything_but_counters(book), book.counters
    with pytest.raises(MalformedMessage) as raised:
        book.apply(make_update(101, bids=[("100.10", "0"), ("1", "1")], asks=[("100.20", "0"), ("1.", "1")]))
    assert (raised.value.market, raised.value.cause) == ("BTCUSDT", None)
    assert everything_but_counters(book) == before
    assert book.counters == counters._replace(updates_malformed=1)


def test_a_stale_update_is_read_as_strictly_as_any(books: ModuleType) -> None:
    book = loaded_book(books)
    with pytest.raises(MalformedMessage):
        book.apply(make_update(50, 51, bids=[("1e5", "1")]))
    assert book.counters.updates_stale == 0


def test_apply_before_a_snapshot_is_refused_whatever_the_payload_is(books: ModuleType) -> None:
    book = books.OrderBook("spot", market="BTCUSDT")
    for payload in (make_update(101), b"", None):
        with pytest.raises(BookNotLoaded) as raised:
            book.apply(payload)
        assert (raised.value.market, raised.value.cause) == ("BTCUSDT", "NOT_LOADED")
    assert set(book.counters) == {0}


def test_a_book_with_a_symbol_refuses_the_updates_of_another(books: ModuleType) -> None:
    book = loaded_book(books, symbol="btcUSDT")
    counters = book.counters
    for symbol in ("ETHUSDT", "BTCUSD", "BTCUSDTT", ""):
        with pytest.raises(MalformedMessage):
            book.apply(make_update(101, s=symbol))
    assert book.counters == counters._replace(updates_malformed=4)
    assert book.last_header is None
    for number, symbol in enumerate(("BTCUSDT", "btcusdt", "BtcUsdt", None, 5)):
        assert book.apply(make_update(101 + number, s=symbol)) is Verdict.APPLIED
    assert book.apply(dumps({"U": 106, "u": 106, "b": [], "a": []})) is Verdict.APPLIED


def test_only_ascii_letters_of_a_symbol_compare_in_any_case(books: ModuleType) -> None:
    book = loaded_book(books, symbol="这是测试币456")
    assert book.apply(make_update(101, s="这是测试币456")) is Verdict.APPLIED
    book = loaded_book(books, symbol="ÄK")
    for symbol in ("äK", "Ä\u212a", "AK"):  # the Kelvin sign is a K to str.lower()
        with pytest.raises(MalformedMessage):
            book.apply(make_update(101, s=symbol))
    assert book.apply(make_update(101, s="Äk")) is Verdict.APPLIED


@pytest.mark.parametrize("symbol", [5, b"BTCUSDT"])
def test_a_symbol_must_be_text(books: ModuleType, symbol: Any) -> None:
    with pytest.raises(TypeError):
        books.OrderBook("spot", symbol=symbol)


def test_a_suspended_book_goes_on_applying(books: ModuleType) -> None:
    book = loaded_book(books, market="BTCUSDT")
    book.suspend("STREAM_CLOSED")
    assert book.suspended_by == "STREAM_CLOSED"
    assert not book.is_readable
    assert book.apply(make_update(101, bids=[("100.10", "0")])) is Verdict.APPLIED
    assert (book.last_update_id, book.bid_count) == (101, 2)
    with pytest.raises(DepthCacheOutOfSync) as raised:
        book.bids(beyond_horizon=True)
    assert (raised.value.market, raised.value.cause) == ("BTCUSDT", "STREAM_CLOSED")
    book.suspend("GAP")
    assert book.suspended_by == "GAP"
    book.resume()
    book.resume()
    assert book.suspended_by is None
    assert exact_bids(book) == BIDS[1:]


@pytest.mark.parametrize(("cause", "error"), [("", ValueError), (None, TypeError), (5, TypeError), (b"GAP", TypeError)])
def test_a_suspension_needs_a_cause(books: ModuleType, cause: Any, error: type[Exception]) -> None:
    book = loaded_book(books)
    before = everything(book)
    for suspend in (book.suspend, book.close, book.close_after_fork):
        with pytest.raises(error):
            suspend(cause)
        assert everything(book) == before


@pytest.mark.parametrize("cause", ["STOPPED", "GAP"])
@pytest.mark.parametrize("close", ["close", "close_after_fork"])
def test_a_closed_book_is_never_read_again(books: ModuleType, cause: str, close: str) -> None:
    book = loaded_book(books, market="BTCUSDT")
    reader = book.reader
    book.suspend("STREAM_CLOSED")
    getattr(book, close)(cause)
    for change in (
        lambda: book.resume(),
        lambda: book.suspend("STREAM_CLOSED"),
        lambda: book.close("REQUESTED"),
        lambda: book.load_snapshot(make_snapshot(BIDS, ASKS)),
        lambda: book.apply(make_update(101, bids=[("100.10", "0")])),
        lambda: book.clear(),
        lambda: book.resume(),
    ):
        change()
        assert (reader.is_readable, reader.unreadable_cause, reader.suspended_by) == (False, cause, cause)
        kind = type(refused("BTCUSDT", cause))
        for read in (reader.view, lambda: reader.best_bid, lambda: reader.bids(1)):
            with pytest.raises(kind) as raised:
                read()
            assert (type(raised.value), raised.value.cause) == (kind, cause)


def test_a_book_that_is_closed_after_a_fork_holds_nothing_of_what_may_be_half_written(books: ModuleType) -> None:
    book = loaded_book(books)
    book.apply(make_update(101, bids=[("100.10", "0")]))
    book.retain_updates()
    book.close_after_fork("STOPPED")
    assert book.retained_count == 0
    assert (book.is_loaded, book.last_update_id, book.bid_count, book.ask_count, book.last_header) == (
        False, None, 0, 0, None,
    )  # fmt: skip
    with pytest.raises(BookNotLoaded):
        book.held_levels()


def test_a_side_that_grows_too_long_is_cut(books: ModuleType) -> None:
    most = books.LEVELS_PER_SIDE_MAX
    asks = [(str(price), "1") for price in range(1001, 1001 + most)]
    book = loaded_book(books, bids=[("1", "1")], asks=asks, limit=10**6)
    assert book.ask_horizon is None
    better = [(str(price), "1") for price in range(500, 503)]
    worse = [(str(10**6 + price), "1") for price in range(5)]
    book.apply(make_update(101, asks=better + worse))
    assert book.ask_count == most
    assert book.counters.levels_dropped == 8
    assert book.ask_horizon == 1000.0 + most - 3
    assert book.best_ask == (500.0, 1.0)
    book.check()


def test_cutting_never_widens_a_horizon(books: ModuleType) -> None:
    most = books.LEVELS_PER_SIDE_MAX
    book = loaded_book(books, bids=[("1", "1")], asks=[("1001", "1"), ("1002", "1")], limit=2)
    book.apply(make_update(101, asks=[(str(price), "1") for price in range(2000, 2000 + most)]))
    assert book.ask_count == most
    assert book.counters.levels_dropped == 2
    assert book.ask_horizon == 1002.0


def test_what_was_cut_is_what_attention_is_measured_by(books: ModuleType) -> None:
    most = books.LEVELS_PER_SIDE_MAX
    prices = [str(price) for price in range(1001, 1001 + most + most // 5)]
    book = loaded_book(books, bids=[("1", "1")], asks=[(price, "1") for price in prices], limit=None)
    half = most // 2
    book.apply(make_update(101, asks=[(price, "0") for price in prices[:half]]))
    assert (book.ask_count, book.needs_attention) == (half, False)
    book.apply(make_update(102, asks=[(prices[half], "0")]))
    assert (book.ask_count, book.needs_attention) == (half - 1, True)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, bytes.decode])
def test_a_payload_may_be_any_bytes_or_text(books: ModuleType, kind: Any) -> None:
    book = books.OrderBook("spot")
    book.load_snapshot(kind(make_snapshot(BIDS, ASKS)))
    assert book.apply(kind(make_update(101, s="这是测试币456"))) is Verdict.APPLIED
    assert books.read_header(kind(make_update(101, s="这是测试币456"))).symbol == "这是测试币456"


def test_a_payload_is_not_held_after_it_was_read(books: ModuleType) -> None:
    payload = bytearray(make_update(101, bids=[("100.10", "7")]))
    book = loaded_book(books)
    book.apply(payload)
    payload.extend(b" " * 10_000)  # BufferError while a view of it is held
    payload[:] = b"x" * len(payload)
    assert exact_bids(book)[0] == ("100.10", "7.000")
    assert book.last_header.symbol == "BTCUSDT"
    broken = bytearray(b'{"U":101')
    with pytest.raises(MalformedMessage):
        book.apply(broken)
    broken.extend(b" " * 10_000)


def test_scattered_bytes_are_refused(books: ModuleType) -> None:
    book = loaded_book(books)
    before = everything(book)
    with pytest.raises((BufferError, ValueError)) as raised:
        book.apply(memoryview(make_update(101))[::2])
    assert not isinstance(raised.value, MalformedMessage)
    released = memoryview(make_update(101))
    released.release()
    with pytest.raises(ValueError, match="released"):
        book.apply(released)
    assert everything(book) == before


@pytest.mark.parametrize("time", ["5", 5.0])
def test_a_receive_time_must_be_an_int(books: ModuleType, time: Any) -> None:
    book = loaded_book(books)
    before = everything(book)
    with pytest.raises(TypeError):
        book.apply(make_update(101), time)
    with pytest.raises(TypeError):
        book.load_snapshot(make_snapshot(), received_time_ns=time)
    assert everything(book) == before


"""The modules of the plain Python book that change it."""


def interrupt_at(call: Callable[[], Any], line: int) -> bool:
    """Run a call, raise KeyboardInterrupt where it comes to that line of what changes a book; return whether it did."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "call":
            code, place = frame.f_code, Path(frame.f_code.co_filename)
            # What changes a book, and is called under its lock: not what takes and gives back the lock.
            is_change = place.name == "side.py" or (place.name == "book.py" and code.co_qualname.startswith("_State."))
            return trace if place.parent.name == "pure" and is_change else None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("change", ["apply", "widen", "load_snapshot"])
def test_an_interruption_leaves_a_whole_book_or_none(books: ModuleType, change: str) -> None:
    """Only a program in Python can be interrupted between two steps; the compiled book passes without a choice."""
    payload = {
        "apply": make_update(101, bids=[("100.10", "0"), ("99.00", "1")], asks=[("100.15", "1")]),
        "widen": make_update(101, bids=[("100.10", "0"), ("99.123", "1.12345")]),
        "load_snapshot": make_snapshot([("1.5", "1")], [("2.5", "1")], 77),
    }[change]
    method = "load_snapshot" if change == "load_snapshot" else "apply"
    after = loaded_book(books)
    getattr(after, method)(payload)
    known = {(100, str(BIDS), str(ASKS)), (after.last_update_id, str(exact_bids(after)), str(exact_asks(after)))}
    left, lost = set(), 0
    line, reached = 0, True
    while reached:
        line += 1
        book = loaded_book(books)
        reached = interrupt_at(lambda book=book: getattr(book, method)(payload), line)
        book.check()
        if book.is_loaded:
            state = book.last_update_id, str(exact_bids(book)), str(exact_asks(book))
            assert state in known, line
            left.add(state)
        else:
            lost += 1
    if books.__name__ == "ldc.book.pure.book":
        assert left == known
        assert lost > 0
