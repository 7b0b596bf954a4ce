"""Both sides of one update id as arrays, new ones or the caller's own."""

from decimal import Decimal
from types import ModuleType
from typing import Any

import numpy
import pytest
from messages import ASKS, BIDS, loaded_book, make_update

from ldc.errors import DepthCacheOutOfSync
from ldc.types import ArrayCounts, BookArrays


def test_both_sides_come_as_arrays_of_one_update_id(books: ModuleType) -> None:
    book = loaded_book(books)
    for face in (book, book.reader):
        arrays = face.arrays()
        assert type(arrays) is BookArrays
        assert arrays[2:] == (100, 2, 3)
        for array, side in ((arrays.bids, "bids"), (arrays.asks, "asks")):
            assert array.dtype == numpy.float64
            assert array.tolist() == book.to_numpy(side).tolist()


def test_whole_numbers_are_those_of_the_scales(books: ModuleType) -> None:
    arrays = loaded_book(books).arrays(2, number=int)
    assert arrays.bids.dtype == numpy.int64
    assert arrays.bids.tolist() == [[10010, 1000], [10000, 2500]]
    assert arrays.asks.tolist() == [[10020, 500], [10040, 3000]]
    assert (arrays.price_decimals, arrays.quantity_decimals) == (2, 3)


@pytest.mark.parametrize("dtype", [numpy.float64, numpy.int64])
def test_given_arrays_are_filled_from_their_beginning(books: ModuleType, dtype: Any) -> None:
    book = loaded_book(books)
    bids, asks = numpy.full((2, 2), 7, dtype), numpy.full((5, 2), 7, dtype)
    counts = book.arrays(out=(bids, asks))
    assert counts == ArrayCounts(2, 3, 100, 2, 3)
    assert type(counts) is ArrayCounts
    expected = book.arrays(number=int if dtype is numpy.int64 else float)
    assert bids.tolist() == expected.bids[:2].tolist()
    assert asks.tolist() == [*expected.asks.tolist(), [7, 7], [7, 7]]
    asks[:] = 7
    assert book.arrays(1, out=(bids, asks))[:2] == (1, 1)
    assert asks.tolist() == [expected.asks[0].tolist(), *[[7, 7]] * 4]
    assert book.arrays(out=(numpy.empty((0, 2), dtype), numpy.empty((0, 2), dtype)))[:2] == (0, 0)


def test_a_memoryview_can_be_filled(books: ModuleType) -> None:
    memory = bytearray(32)
    out = memoryview(memory).cast("B").cast("d", (2, 2))
    assert loaded_book(books).arrays(out=(out, numpy.zeros((1, 2)))).bids == 2
    assert numpy.frombuffer(memory, numpy.float64).tolist() == [100.1, 1.0, 100.0, 2.5]


def test_floats_are_the_nearest_also_past_53_bits(books: ModuleType) -> None:
    bids = [("9.223372036854775807", "0.000000000000000001"), ("0.100000000000000001", "9.007199254740993001")]
    book = loaded_book(books, bids=bids, asks=[])
    expected = [[float(price), float(size)] for price, size in bids]
    out = numpy.zeros((2, 2)), numpy.zeros((0, 2))
    book.arrays(out=out)
    assert book.arrays().bids.tolist() == book.to_numpy("bids").tolist() == out[0].tolist() == expected


def test_more_levels_than_the_stack_holds(books: ModuleType) -> None:
    bids = [(str(1000 - index), "1") for index in range(500)]
    arrays = loaded_book(books, bids=bids, asks=[]).arrays()
    assert arrays.bids[:, 0].tolist() == [1000 - index for index in range(500)]
    assert arrays.asks.shape == (0, 2)


FLOATS = numpy.zeros((3, 2))
READ_ONLY = numpy.zeros((3, 2))
READ_ONLY.setflags(write=False)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"number": str}, ValueError, "number must be float or int"),
        ({"number": Decimal}, ValueError, "number must be float or int"),
        ({"limit": -1}, ValueError, "limit must not be negative"),
        ({"limit": 1.5}, TypeError, "limit must be an int or None, not float"),
        ({"out": [FLOATS, FLOATS]}, TypeError, "out must be a tuple of two arrays"),
        ({"out": (FLOATS,)}, TypeError, "out must be a tuple of two arrays"),
        ({"out": (FLOATS, [])}, TypeError, "the array for asks in out must be an array, not list"),
        ({"out": (FLOATS[:, 0], FLOATS)}, ValueError, "bids in out must be writable, contiguous and of the shape"),
        ({"out": (FLOATS[:, 0].copy(), FLOATS)}, ValueError, "of the shape"),
        ({"out": (FLOATS, numpy.zeros((3, 3)))}, ValueError, "asks in out must be .* of the shape"),
        ({"out": (FLOATS, numpy.asfortranarray(FLOATS))}, ValueError, "asks in out must be .* contiguous"),
        ({"out": (READ_ONLY, FLOATS)}, ValueError, "bids in out must be writable"),
        ({"out": (b"12", FLOATS)}, ValueError, "bids in out must be writable"),
        ({"out": (numpy.zeros((3, 2), numpy.float32), FLOATS)}, ValueError, "of float64 or int64"),
        ({"out": (numpy.zeros((3, 2), numpy.uint64), FLOATS)}, ValueError, "of float64 or int64"),
        ({"out": (numpy.zeros((3, 2), ">f8"), FLOATS)}, ValueError, "of float64 or int64"),
        (
            {"out": (FLOATS, numpy.zeros((3, 2), numpy.int64))},
            ValueError,
            "both arrays in out must be of",
        ),
        ({"out": (FLOATS, FLOATS), "number": int}, ValueError, "number is int"),
    ],
)
def test_what_is_no_pair_of_arrays_is_refused(
    books: ModuleType, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    for book in (loaded_book(books), books.OrderBook("spot")):
        with pytest.raises(error, match=words):
            book.arrays(**arguments)
    assert not FLOATS.any()


def test_arrays_are_refused_as_views_are_and_given_ones_stay_what_they_were(books: ModuleType) -> None:
    book = loaded_book(books, limit=3)
    book.apply(make_update(101, bids=[(price, "0") for price, _ in BIDS]))
    out = numpy.zeros((3, 2)), numpy.zeros((3, 2))
    for arguments in ({}, {"out": out}):
        with pytest.raises(DepthCacheOutOfSync, match="LEFT_HORIZON"):
            book.arrays(**arguments)
    assert not out[0].any()
    assert not out[1].any()
    assert len(ASKS) == 3
