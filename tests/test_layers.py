"""A module imports only from rows above its own, and what decides has no clock, no socket, no thread, no log, no dice.

The table is the architecture. A new module is entered here first, in the highest row from which it can see what it
needs; an import that is refused is a sign that something lives in the wrong place, not that the table wants a new row.
What grew too long for one file has parts: `feed_market` is a part of `feed`, and stands in its row. The parts of a
module may import each other, though never in a circle.
"""

import ast
import graphlib
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ldc"

# One row an element.
ROWS = (
    {"_build", "_version", "errors", "values"},
    {"sequence", "frames"},  # below values: its `judge` returns a Verdict
    {"_book", "pybook", "limits"},
    {"book", "venue"},
    {"synchronizer", "settings"},
    {"snapshot", "feed", "callbacks"},
    {"cache"},
    {"manager"},
    {"__init__"},
    {"simulator"},
    {"cli"},
    {"__main__"},
)
ROW_OF = {module: number for number, modules in enumerate(ROWS) for module in modules}

# Takes the time as an argument and touches nothing outside: so it can be simulated a hundred thousand times.
PURE = {
    "errors", "values", "sequence", "pybook", "limits", "frames", "venue", "synchronizer",
    "feed_requests", "snapshot_lane", "snapshot_queue", "snapshot_reply",
}  # fmt: skip
WORLD = {
    "asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "queue", "random", "secrets",
    "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time", "urllib", "uuid",
}  # fmt: skip
# The books are shared by threads, so the plain one has a lock as the compiled one has; it starts no thread.
MAY_TOUCH = {"pybook": {"threading"}}

# What is not the standard library's, and who alone may know it.
FOREIGN = {
    "aiohttp": {"simulator"},
    "certifi": {"feed"},  # requests brings it along
    "filelock": {"snapshot"},
    "numpy": {"_book", "pybook"},
    "platformdirs": {"snapshot"},
    "requests": {"snapshot"},
    "rich": {"cli"},
    "urllib3": {"snapshot"},  # requests is built on it, and brings it along
    "websocket": {"feed"},
}

# `import a.b`, `cimport a.b`, `from a.b import c`, `from a.b cimport c`, at any depth: what .pyx files have.
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?c?import\s+(\([^)]*\)|[\w., *]+)", re.MULTILINE)


def module_of(name: str) -> str:
    """Return the module in the table that a name belongs to, or the name: feed_market -> feed, _pyjson -> pybook."""
    if name.startswith("_py"):
        return "pybook"
    owners = [module for module in ROW_OF if name == module or name.startswith(f"{module}_")]
    return max(owners, key=len, default=name)


def file_name(path: Path) -> str:
    """`ldc/feed.py` -> feed; `ldc/simulator/rest.py` -> simulator.rest; `_book.pyx` and what it includes -> _book."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "_book" if path.suffix in (".pyx", ".pxi", ".pyi") else ".".join(parts)


def imported(path: Path, source: str) -> set[str]:
    """Return the full names of all that is imported, wherever in the file: a late import is a dependency as well."""
    if path.suffix in (".pyx", ".pxi"):
        found = CYTHON_IMPORT.findall(source)
        statements = [(package, names.strip("(), \n").split(",")) for package, names in found]
    else:
        statements = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                statements.append(("", [alias.name for alias in node.names]))
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}:{node.lineno}: write imports in full, as everywhere else"
                statements.append((node.module or "", [alias.name for alias in node.names]))
    return {f"{package}.{name.split(' as ')[0].strip()}".strip(".") for package, names in statements for name in names}


def target_of(name: str) -> str:
    """`ldc.feed_market.MarketFeed` -> feed_market; `ldc.OrderBook` -> __init__: what is no module is the package's."""
    parts = name.split(".")
    if len(parts) > 1 and (module_of(parts[1]) in ROW_OF or (PACKAGE / f"{parts[1]}.py").exists()):
        return parts[1]
    return "__init__"


def wrongs(path: Path, source: str) -> list[str]:
    """Return what this module imports and may not, one sentence each."""
    module = module_of(file_name(path).split(".")[0])
    if module not in ROW_OF:
        return [f"{module} is new: give it a row in the table"]
    found = []
    for name in sorted(imported(path, source)):
        top = name.split(".")[0]
        if top == "ldc":
            target = module_of(target_of(name))
            if target not in ROW_OF:
                found.append(f"{module} imports {target}, which has no row")
            elif target != module and ROW_OF[target] >= ROW_OF[module]:
                found.append(f"{module} (row {ROW_OF[module]}) imports {target} (row {ROW_OF[target]})")
        elif top in FOREIGN:
            if module not in FOREIGN[top]:
                found.append(f"{module} imports {top}, which only {' and '.join(sorted(FOREIGN[top]))} may know")
        elif top in WORLD:
            if (module in PURE or path.stem in PURE) and top not in MAY_TOUCH.get(module, set()):
                found.append(f"{module} decides, so it may not touch the world: {top}")
        elif top not in sys.stdlib_module_names and top not in ("cpython", "cython", "libc"):
            found.append(f"{module} imports {top}, which is no dependency of ldc")
    return found


SOURCES = sorted(path for suffix in ("py", "pyi", "pyx", "pxi") for path in PACKAGE.rglob(f"*.{suffix}"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_has_a_row_and_imports_only_from_rows_above(path: Path) -> None:
    assert wrongs(path, path.read_text(encoding="utf-8")) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        file_name(path): {
            target_of(name) for name in imported(path, path.read_text(encoding="utf-8")) if name.startswith("ldc")
        }
        for path in SOURCES
        if path.suffix == ".py" and path.parent == PACKAGE
    }
    assert "values" in graph["sequence"]
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which shows the circle


def test_no_module_stands_in_two_rows() -> None:
    assert len(ROW_OF) == sum(len(row) for row in ROWS)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("values.py", "from ldc.errors import DepthCacheError"),
        ("new.py", "import json"),
        ("sequence.py", "from ldc import book"),
        ("sequence.py", "import ldc.book"),
        ("sequence.py", "from ldc import OrderBook"),
        ("synchronizer.py", "def f():\n    import time"),
        ("limits.py", "from random import Random"),
        ("pybook.py", "import time"),
        ("pybook.py", "import orjson"),
        ("synchronizer_parts.py", "import time"),
        ("synchronizer_parts.py", "from ldc.feed_market import MarketFeed"),
        ("feed_market.py", "import requests"),
        ("manager.py", "import requests"),
        ("manager.py", "from ldc.simulator.exchange import SimulatedExchange"),
        ("_book.pyx", "from ldc.pybook cimport OrderBook"),
        ("_book.pyx", "cdef f():\n    from ldc.book import OrderBook"),
        ("_book.pyx", "from ldc import (\n    values,\n    book,\n)"),
        ("_ladder.pxi", "from ldc import book, values"),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str) -> None:
    assert len(wrongs(PACKAGE / file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("sequence.py", "from ldc.values import Verdict"),
        ("pybook.py", "import threading\ndef f():\n    import numpy"),
        (
            "_book.pyx",
            "from libc.stdint cimport int64_t\nfrom ldc.sequence import (\n    FUTURES,\n    SPOT)\ncimport cython",
        ),
        ("_pystate.py", "from ldc._pyjson import Snapshot\nfrom ldc.values import Cause\nimport threading"),
        ("feed_market.py", "from ldc.feed_connection import FeedConnection\nimport time\nimport websocket"),
        ("feed.py", "from ldc.synchronizer_parts import Action"),
        ("cli.py", "import time\nimport ldc\nfrom ldc.simulator import SimulatedExchange\nimport rich.live"),
        ("simulator/rest.py", "from ldc.simulator.market import Market\nfrom aiohttp import web"),
    ],
)
def test_a_right_import_is_not_refused(file: str, source: str) -> None:
    assert wrongs(PACKAGE / file, source) == []
