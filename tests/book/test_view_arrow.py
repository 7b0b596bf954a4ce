"""A view as a table for Arrow: by hand through the C structures, and in the libraries that take it, where installed."""

import ctypes
import gc
import threading
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from messages import ASKS, BIDS, loaded_book

from ldc.analytics import arrow
from ldc.analytics.view import BookView

ROWS = [
    *(("bids", Decimal(price), Decimal(quantity)) for price, quantity in BIDS),
    *(("asks", Decimal(price), Decimal(quantity)) for price, quantity in ASKS),
]


@pytest.fixture
def nothing_is_kept() -> Any:
    """Whatever was exported has been released at the end of the test."""
    gc.collect()
    before = len(arrow._KEPT), len(arrow._CAPSULES)
    yield
    gc.collect()
    assert (len(arrow._KEPT), len(arrow._CAPSULES)) == before


pytestmark = pytest.mark.usefixtures("nothing_is_kept")


def table(books: ModuleType, number: type[Any] = float) -> Any:
    return loaded_book(books).view(number=number).to_arrow()


def taken(capsule: object, name: bytes, structure: type[Any]) -> Any:
    """Return the structure that a capsule holds, moved out of it as a consumer does."""
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )(capsule, name)
    original = structure.from_address(pointer)
    moved = structure.from_buffer_copy(original)
    original.release = type(original.release)()
    return moved


def test_a_capsule_that_nobody_takes_is_released(books: ModuleType) -> None:
    for _ in range(3):
        table(books).__arrow_c_stream__()
        table(books).__arrow_c_schema__()


def test_the_structures_say_what_is_in_the_view(books: ModuleType) -> None:
    stream = taken(table(books).__arrow_c_stream__(), b"arrow_array_stream", arrow._Stream)
    schema, array = arrow._Schema(), arrow._Array()
    assert stream.get_schema(stream, schema) == 0
    assert (schema.format, schema.n_children) == (b"+s", 3)
    children = [schema.children[index].contents for index in range(3)]
    assert [(child.name, child.format) for child in children] == [
        (b"side", b"u"),
        (b"price", b"g"),
        (b"quantity", b"g"),
    ]
    assert stream.get_next(stream, array) == 0
    assert (array.length, array.n_children, array.null_count) == (6, 3, 0)
    side, price, quantity = (array.children[index].contents for index in range(3))
    prices = (ctypes.c_double * 6).from_address(price.buffers[1])
    assert list(prices) == [float(row[1]) for row in ROWS]
    offsets = (ctypes.c_int32 * 7).from_address(side.buffers[1])
    assert list(offsets) == [0, 4, 8, 12, 16, 20, 24]
    assert ctypes.string_at(side.buffers[2], 24) == b"bids" * 3 + b"asks" * 3
    assert quantity.n_buffers == 2
    end = arrow._Array()
    assert stream.get_next(stream, end) == 0
    assert not end.release
    assert stream.get_last_error(stream) is None
    # The parts may outlive the stream, and a child that is moved away its parent.
    stream.release(stream)
    moved = arrow._Array.from_buffer_copy(array.children[1].contents)
    array.children[1].contents.release = arrow._ReleaseArray()
    array.release(array)
    assert not array.release
    assert (ctypes.c_double * 6).from_address(moved.buffers[1])[0] == 100.1
    moved.release(moved)
    schema.release(schema)


def test_any_thread_may_release(books: ModuleType) -> None:
    stream = taken(table(books).__arrow_c_stream__(), b"arrow_array_stream", arrow._Stream)
    array = arrow._Array()
    assert stream.get_next(stream, array) == 0
    thread = threading.Thread(target=lambda: (array.release(array), stream.release(stream)))
    thread.start()
    thread.join()
    assert not array.release
    assert not stream.release


def test_a_number_of_too_many_digits_is_refused(books: ModuleType) -> None:
    view = BookView(((Decimal(10) ** 38, Decimal("0.1")),), (), 1, None, None, None, None, None, number=Decimal)
    with pytest.raises(OverflowError, match="38 digits"):
        view.to_arrow()


# ------------------------------------------------------------------------------------------------- in libraries


def test_pyarrow_takes_a_view(books: ModuleType) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow runs this test")
    found = pyarrow.table(table(books))
    found.validate(full=True)
    assert found.to_pydict() == {
        "side": [row[0] for row in ROWS],
        "price": [float(row[1]) for row in ROWS],
        "quantity": [float(row[2]) for row in ROWS],
    }
    assert found.schema.metadata == {
        b"last_update_id": b"100",
        b"bids_truncated": b"False",
        b"asks_truncated": b"False",
    }
    assert len(table(books)) == len(found)


def test_pyarrow_takes_exact_numbers_and_texts(books: ModuleType) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow runs this test")
    found = pyarrow.table(table(books, Decimal))
    assert found.schema.field("price").type == pyarrow.decimal128(38, 2)
    assert [tuple(row.values()) for row in found.to_pylist()] == ROWS
    texts = pyarrow.table(table(books, str)).to_pylist()
    assert [(row["price"], row["quantity"]) for row in texts] == [*BIDS, *ASKS]


def test_an_empty_view_is_an_empty_table(books: ModuleType) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow runs this test")
    for number in (float, Decimal, str):
        found = pyarrow.table(loaded_book(books, bids=[], asks=[]).view(number=number).to_arrow())
        found.validate(full=True)
        assert (found.num_rows, found.column_names) == (0, ["side", "price", "quantity"])


def test_polars_takes_a_view(books: ModuleType) -> None:
    polars = pytest.importorskip("polars", reason="pip install polars runs this test")
    frame = polars.DataFrame(table(books))
    assert frame.rows() == [(side, float(price), float(quantity)) for side, price, quantity in ROWS]
    exact = polars.DataFrame(table(books, Decimal))
    assert exact.rows() == ROWS
    assert polars.Series(frame["price"]).sum() == pytest.approx(601.2)


def test_pandas_takes_a_view(books: ModuleType) -> None:
    pandas = pytest.importorskip("pandas", minversion="3", reason="pip install 'pandas>=3' pyarrow runs this test")
    pytest.importorskip("pyarrow", reason="pip install pyarrow runs this test")
    frame = pandas.DataFrame.from_arrow(table(books))
    assert list(frame.columns) == ["side", "price", "quantity"]
    assert frame.price.tolist() == [float(row[1]) for row in ROWS]
    assert frame.groupby("side").quantity.sum().to_dict() == {"bids": 7.5, "asks": 10.5}


def test_duckdb_takes_a_view(books: ModuleType) -> None:
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb runs this test")
    levels = table(books)
    assert len(levels) == 6
    with duckdb.connect() as connection:
        rows = connection.sql("SELECT side, sum(quantity) FROM levels GROUP BY side ORDER BY side").fetchall()
    assert rows == [("asks", 10.5), ("bids", 7.5)]
