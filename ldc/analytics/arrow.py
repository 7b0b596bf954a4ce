"""A view of a book as a table for Arrow, by its PyCapsule interface, without a library.

The C structures are those of https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html; the
capsules those of https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html.

Rule 1: whatever a structure points to is kept in `_KEPT` until its release callback is called, by any thread.
Rule 2: a consumer may move a structure: it copies it and clears `release` of the original. So a callback finds what it
        releases by `private_data`, and each child keeps what it needs by itself.
Rule 3: all memory is filled before a capsule exists. A callback, which could not report a failure, cannot fail.
"""

import ctypes
import itertools
import sys
from array import array
from collections.abc import Callable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    PYFUNCTYPE,
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int,
    c_int64,
    c_void_p,
    py_object,
)
from decimal import Decimal
from typing import Any, NamedTuple

from ldc.analytics.exact import read

DECIMAL128_DIGITS = 38
"""Digits that a decimal128 holds. A view of Decimal whose numbers have more is an ``OverflowError``."""


class _Schema(Structure):
    """ArrowSchema."""


class _Array(Structure):
    """ArrowArray."""


class _Stream(Structure):
    """ArrowArrayStream."""


_ReleaseSchema = CFUNCTYPE(None, POINTER(_Schema))
_ReleaseArray = CFUNCTYPE(None, POINTER(_Array))
_ReleaseStream = CFUNCTYPE(None, POINTER(_Stream))
_GetSchema = CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Schema))
_GetNext = CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Array))
_GetLastError = CFUNCTYPE(c_void_p, POINTER(_Stream))

_Schema._fields_ = [
    ("format", c_char_p),
    ("name", c_char_p),
    ("metadata", c_void_p),
    ("flags", c_int64),
    ("n_children", c_int64),
    ("children", POINTER(POINTER(_Schema))),
    ("dictionary", c_void_p),
    ("release", _ReleaseSchema),
    ("private_data", c_void_p),
]
_Array._fields_ = [
    ("length", c_int64),
    ("null_count", c_int64),
    ("offset", c_int64),
    ("n_buffers", c_int64),
    ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)),
    ("children", POINTER(POINTER(_Array))),
    ("dictionary", c_void_p),
    ("release", _ReleaseArray),
    ("private_data", c_void_p),
]
_Stream._fields_ = [
    ("get_schema", _GetSchema),
    ("get_next", _GetNext),
    ("get_last_error", _GetLastError),
    ("release", _ReleaseStream),
    ("private_data", c_void_p),
]

_KEPT: dict[int, Any] = {}
"""By `private_data`."""
_CAPSULES: dict[int, Any] = {}
"""The structures that capsules point to, by their address."""
_numbers = itertools.count(1)


def _keep(what: Any) -> int:
    number = next(_numbers)
    _KEPT[number] = what
    return number


# --- the table --------------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    name: bytes
    format: bytes
    buffers: "tuple[array[Any], ...]"
    """Without the first one, of nulls: there are none."""


class LevelTable:
    """The levels of a `BookView` as a table for Arrow: `side`, `price`, `quantity`, bids first, best first.

    It has the methods of the Arrow PyCapsule interface and no others. Each call of them makes a stream of its own.
    """

    __slots__ = ("_columns", "_length", "_metadata")

    def __init__(self, columns: tuple[_Column, ...], length: int, metadata: bytes) -> None:
        self._columns = columns
        self._length = length
        self._metadata = metadata

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<LevelTable of {self._length} levels>"

    def __arrow_c_schema__(self) -> object:
        """Return a capsule "arrow_schema" with the types of the columns."""
        schema = _Schema()
        _fill_schema(schema, self._columns, self._metadata)
        return _capsule(schema, b"arrow_schema")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a capsule "arrow_array_stream" with all levels in one batch. Another schema is not offered."""
        stream = _Stream(_GET_SCHEMA, _GET_NEXT, _GET_LAST_ERROR, _RELEASE_STREAM)
        stream.private_data = _keep([self, False])
        return _capsule(stream, b"arrow_array_stream")


def table_of(view: Any) -> LevelTable:
    """Return the levels of a `BookView` as a table."""
    levels = [*view.bids, *view.asks]
    sides = ["bids"] * len(view.bids) + ["asks"] * len(view.asks)
    column = _COLUMNS[view.number]
    columns = (
        _text_column("side", sides),
        column("price", [price for price, _ in levels]),
        column("quantity", [quantity for _, quantity in levels]),
    )
    fields = view._asdict()
    noted = {name: fields[name] for name in fields if name not in ("bids", "asks", "number")}
    return LevelTable(
        columns, len(levels), _encoded({name: str(value) for name, value in noted.items() if value is not None})
    )


def _text_column(name: str, texts: list[str]) -> _Column:
    encoded = [text.encode() for text in texts]
    offsets = array("i", itertools.accumulate(map(len, encoded), initial=0))
    return _Column(name.encode(), b"u", (offsets, array("b", b"".join(encoded))))


def _float_column(name: str, values: list[float]) -> _Column:
    return _Column(name.encode(), b"g", (array("d", values),))


def _decimal_column(name: str, values: list[Decimal]) -> _Column:
    scale = max((-int(value.as_tuple().exponent) for value in values), default=0)
    scale = max(scale, 0)
    words = array("q")  # aligned as 16 bytes are
    for value in values:
        units = read(value).at(scale)
        if abs(units) >= 10**DECIMAL128_DIGITS:
            raise OverflowError(f"a {name} of more than {DECIMAL128_DIGITS} digits does not fit decimal128: {value}")
        words.frombytes(units.to_bytes(16, sys.byteorder, signed=True))
    return _Column(name.encode(), f"d:{DECIMAL128_DIGITS},{scale}".encode(), (words,))


_COLUMNS: dict[type[Any], Callable[[str, Any], _Column]] = {
    float: _float_column,
    Decimal: _decimal_column,
    str: _text_column,
}


def _encoded(metadata: dict[str, str]) -> bytes:
    """Return pairs of texts as the C data interface wants them: each length in four bytes, in the machine's order."""
    parts = [len(metadata).to_bytes(4, sys.byteorder)]
    for text in itertools.chain.from_iterable(metadata.items()):
        encoded = text.encode()
        parts += [len(encoded).to_bytes(4, sys.byteorder), encoded]
    return b"".join(parts)


# --- the structures ---------------------------------------------------------------------------------------------------


def _fill_schema(schema: _Schema, columns: tuple[_Column, ...], metadata: bytes) -> None:
    children = [_Schema() for _ in columns]
    for child, column in zip(children, columns, strict=True):
        child.format, child.name = column.format, column.name
        child.release, child.private_data = _RELEASE_SCHEMA, _keep(column)
    pointers = (POINTER(_Schema) * len(children))(*map(ctypes.pointer, children))
    noted = ctypes.create_string_buffer(metadata, len(metadata) + 1)
    schema.format, schema.name, schema.metadata = b"+s", b"", addressof(noted)
    schema.n_children, schema.children = len(children), pointers
    schema.release, schema.private_data = _RELEASE_SCHEMA, _keep((children, pointers, noted))


def _fill_array(out: _Array, table: LevelTable) -> None:
    children = [_Array() for _ in table._columns]
    for child, column in zip(children, table._columns, strict=True):
        addresses = [None, *(buffer.buffer_info()[0] or None for buffer in column.buffers)]
        buffers = (c_void_p * len(addresses))(*addresses)
        child.length, child.n_buffers, child.buffers = table._length, len(addresses), buffers
        child.release, child.private_data = _RELEASE_ARRAY, _keep((column, buffers))
    pointers = (POINTER(_Array) * len(children))(*map(ctypes.pointer, children))
    no_nulls = (c_void_p * 1)(None)
    out.length, out.n_buffers, out.buffers = table._length, 1, no_nulls
    out.n_children, out.children = len(children), pointers
    out.release, out.private_data = _RELEASE_ARRAY, _keep((children, pointers, no_nulls))


def _release(structure: Any, no_callback: Any) -> None:
    """Release the children that were not moved away, and what the structure needed."""
    for index in range(structure.n_children):
        child = structure.children[index]
        if child.contents.release:
            child.contents.release(child)
    _KEPT.pop(structure.private_data, None)
    structure.release = no_callback


def _release_schema(schema: Any) -> None:
    _release(schema.contents, _ReleaseSchema())


def _release_array(out: Any) -> None:
    _release(out.contents, _ReleaseArray())


def _release_stream(stream: Any) -> None:
    _KEPT.pop(stream.contents.private_data, None)
    stream.contents.release = _ReleaseStream()


def _get_schema(stream: Any, out: Any) -> int:
    table, _ = _KEPT[stream.contents.private_data]
    ctypes.memset(out, 0, ctypes.sizeof(_Schema))
    _fill_schema(out.contents, table._columns, table._metadata)
    return 0


def _get_next(stream: Any, out: Any) -> int:
    state = _KEPT[stream.contents.private_data]
    ctypes.memset(out, 0, ctypes.sizeof(_Array))
    if not state[1]:  # an array that is released is the end of the stream
        state[1] = True
        _fill_array(out.contents, state[0])
    return 0


def _get_last_error(_stream: Any) -> int | None:
    return None


# Callbacks live as long as the module: a consumer may call them at any time.
_RELEASE_SCHEMA = _ReleaseSchema(_release_schema)
_RELEASE_ARRAY = _ReleaseArray(_release_array)
_RELEASE_STREAM = _ReleaseStream(_release_stream)
_GET_SCHEMA = _GetSchema(_get_schema)
_GET_NEXT = _GetNext(_get_next)
_GET_LAST_ERROR = _GetLastError(_get_last_error)


# --- the capsules -----------------------------------------------------------------------------------------------------

_Destructor = PYFUNCTYPE(None, c_void_p)
_new_capsule = PYFUNCTYPE(py_object, c_void_p, c_char_p, _Destructor)(("PyCapsule_New", ctypes.pythonapi))
# The address of the capsule, not the capsule: a reference to what is being destroyed would bring it back to life.
_capsule_name = PYFUNCTYPE(c_char_p, c_void_p)(("PyCapsule_GetName", ctypes.pythonapi))
_capsule_pointer = PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))


def _capsule(structure: Any, name: bytes) -> object:
    address = addressof(structure)
    _CAPSULES[address] = structure
    return _new_capsule(address, name, _DESTROY)


def _destroy(capsule: int) -> None:
    """Release what nobody took from a capsule."""
    address = _capsule_pointer(capsule, _capsule_name(capsule))
    structure = _CAPSULES[address]
    if structure.release:
        structure.release(byref(structure))
    del _CAPSULES[address]


_DESTROY = _Destructor(_destroy)
