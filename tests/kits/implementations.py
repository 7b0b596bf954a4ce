"""The two implementations of the order book, by name."""

import importlib
import os
from types import ModuleType

import pytest

from ldc._build import BUILD

MODULES = {"python": "ldc.book.pure.book", "cython": "ldc._book"}


# Only a build that has no extension on purpose may lack the compiled book.
IS_PURE = BUILD == "pure-python" or os.environ.get("LDC_PURE_PYTHON") == "1"


def order_book_module(name: str) -> ModuleType:
    if name == "cython" and IS_PURE:
        pytest.skip("this is a build in plain Python: it has no compiled order book")
    return importlib.import_module(MODULES[name])
