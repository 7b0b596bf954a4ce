"""Selects the order book: the compiled one, unless the plain Python one was requested.

Rule 1: never fall back in silence. The two agree in everything but speed. A bot that runs 20 times slower than its
        author measured loses money without an error. So a missing extension is an ImportError that says what to do.
Rule 2: Python is requested by `LDC_PURE_PYTHON=1` in the environment, or by a wheel that was built so on purpose.
Rule 3: compiled code that waits blocks a thread of the system. Where threads share one, nothing compiled waits.
"""

import _thread
import os
import types
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ldc._build import BUILD

__all__ = [
    "DECIMALS_MAX",
    "IMPLEMENTATION",
    "LEVELS_PER_MESSAGE_MAX",
    "LEVELS_PER_SIDE_MAX",
    "MESSAGE_BYTES_MAX",
    "NESTING_MAX",
    "Attachment",
    "BookReader",
    "BookWatch",
    "FrameReader",
    "KeepAlive",
    "Lease",
    "MappedFile",
    "NativeLoop",
    "OrderBook",
    "RegionKeeper",
    "RegionWatch",
    "RegionWriter",
    "SharedReader",
    "StreamBinding",
    "StreamTally",
    "TlsContext",
    "TlsSocket",
    "UpdateQueue",
    "UpdateWaiter",
    "decode_levels",
    "decode_price",
    "decode_update",
    "encode_region",
    "event_of",
    "has_system_threads",
    "read_header",
    "region_bytes",
    "tls_problem",
]


def _is_python_requested() -> bool:
    """Whether the plain Python book is to be used; raise ImportError if the environment cannot be understood."""
    value = os.environ.get("LDC_PURE_PYTHON", "")
    if value not in ("", "0", "1"):
        raise ImportError(f"LDC_PURE_PYTHON={value!r} is neither '1' (the order book in plain Python) nor '0'")
    return value == "1" or BUILD == "pure-python"


def has_system_threads() -> bool:
    """Whether `threading` starts threads of the system at this moment.

    Libraries such as gevent and eventlet replace them by greenlets, all of which share one thread of the system. A wait
    in compiled code would block them all, the one that it waits for included. They also replace what identifies a
    thread, by which they are recognized.
    """
    get_ident = _thread.get_ident
    return type(get_ident) is types.BuiltinFunctionType and get_ident.__module__ == "_thread"


def _what_is_wrong(error: ImportError) -> str:
    """Return why the compiled order book cannot be used, and what to do."""
    if error.name != "ldc._book":
        reason = f"The compiled order book cannot be loaded: {error}. "
    elif BUILD == "source":
        reason = (
            f"The compiled order book is not built in {str(Path(__file__).parents[1])!r}, which is a source folder. "
            "If ldc is also installed, Python found this folder first: `pip install -e .` builds ldc in it. "
            "Or start Python elsewhere, or as `python -P`. "
        )
    else:
        reason = "The compiled order book is missing from this installation. "
    return (
        f"{reason}Install ldc with a C compiler at hand (`pip install -e .` in its sources), "
        "or set LDC_PURE_PYTHON=1 to use the same order book in plain Python, which is many times slower."
    )


IMPLEMENTATION: Literal["cython", "python"] = "python" if _is_python_requested() else "cython"
"""Which order book this process uses: "cython" or "python"."""

# Type checkers read the stub of the compiled book; the tests hold the other to the same surface.
if TYPE_CHECKING or IMPLEMENTATION == "cython":
    try:
        from ldc._book import (
            DECIMALS_MAX,
            LEVELS_PER_MESSAGE_MAX,
            LEVELS_PER_SIDE_MAX,
            MESSAGE_BYTES_MAX,
            NESTING_MAX,
            Attachment,
            BookReader,
            BookWatch,
            FrameReader,
            KeepAlive,
            Lease,
            MappedFile,
            NativeLoop,
            OrderBook,
            RegionKeeper,
            RegionWatch,
            RegionWriter,
            SharedReader,
            StreamBinding,
            StreamTally,
            TlsContext,
            TlsSocket,
            UpdateQueue,
            UpdateWaiter,
            decode_levels,
            decode_price,
            decode_update,
            encode_region,
            event_of,
            read_header,
            region_bytes,
            tls_problem,
        )
    except ImportError as error:
        raise ImportError(_what_is_wrong(error), name=error.name, path=error.path) from error
else:
    from ldc.book.pure.book import (
        DECIMALS_MAX,
        LEVELS_PER_MESSAGE_MAX,
        LEVELS_PER_SIDE_MAX,
        MESSAGE_BYTES_MAX,
        NESTING_MAX,
        BookReader,
        BookWatch,
        Lease,
        OrderBook,
        UpdateQueue,
        decode_levels,
        decode_price,
        decode_update,
        event_of,
        read_header,
    )
    from ldc.book.pure.frames import FrameReader, StreamBinding, StreamTally, UpdateWaiter
    from ldc.book.pure.keepalive import KeepAlive
    from ldc.book.pure.native import NativeLoop
    from ldc.book.pure.shared import (
        Attachment,
        MappedFile,
        RegionKeeper,
        RegionWatch,
        RegionWriter,
        SharedReader,
        encode_region,
        region_bytes,
    )
    from ldc.book.pure.tls import TlsContext, TlsSocket, tls_problem
