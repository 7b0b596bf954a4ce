"""Both sides of a plain-Python book as arrays of numpy, or into buffers that the caller gives."""

from typing import TYPE_CHECKING, Any

from ldc.types import ArrayCounts, BookArrays

if TYPE_CHECKING:
    from ldc.book.pure.side import Level

Place = tuple[Any, int, int]
"""Update id, price decimals, quantity decimals."""


def new_arrays(
    levels: "tuple[list[Level], list[Level]]", place: Place, number: type[float] | type[int] | None
) -> BookArrays[Any]:
    """Return new arrays of the shape (n, 2): float64, or int64 for the number int."""
    import numpy  # an optional extra

    dtype = numpy.int64 if number is int else numpy.float64
    bids, asks = (numpy.array(_rows(side, place, number is int), dtype=dtype).reshape(len(side), 2) for side in levels)
    return BookArrays(bids, asks, *place)


def fill_arrays(levels: "tuple[list[Level], list[Level]]", place: Place, views: tuple[Any, Any]) -> ArrayCounts:
    """Write the best levels of each side into the rows of a buffer, as many as it has."""
    counts = []
    for side, view in zip(levels, views, strict=True):
        rows = _rows(side[: view.shape[0]], place, view.format != "d")
        for index, (price, quantity) in enumerate(rows):
            view[index, 0], view[index, 1] = price, quantity
        counts.append(len(rows))
    return ArrayCounts(counts[0], counts[1], *place)


def check_out(out: Any, number: type[float] | type[int] | None) -> tuple[Any, Any]:
    """Return the two buffers of `out`; raise for what is no pair of writable (n, 2) buffers of one type."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError("out must be a tuple of two arrays, for bids and asks")
    views = []
    for name, array in zip(("bids", "asks"), out, strict=True):
        try:
            view = memoryview(array)
        except TypeError:
            raise TypeError(f"the array for {name} in out must be an array, not {type(array).__name__}") from None
        if view.readonly or not view.c_contiguous or view.ndim != 2 or view.shape is None or view.shape[1] != 2:
            raise ValueError(f"the array for {name} in out must be writable, contiguous and of the shape (n, 2)")
        if view.format not in ("d", "l", "q") or view.itemsize != 8:
            raise ValueError(f"the array for {name} in out must be of float64 or int64")
        views.append(view)
    bids, asks = views
    if (bids.format == "d") != (asks.format == "d"):
        raise ValueError("both arrays in out must be of the same type")
    if number is not None and (number is float) != (bids.format == "d"):
        raise ValueError(f"number is {number.__name__}, and the arrays in out are of another type")
    return bids, asks


def _rows(levels: "list[Level]", place: Place, is_scaled: bool) -> list[tuple[Any, Any]]:
    if is_scaled:
        return list(levels)
    _, price_decimals, quantity_decimals = place
    return [(price / 10**price_decimals, quantity / 10**quantity_decimals) for price, quantity in levels]
