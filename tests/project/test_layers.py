"""A package imports only from rows above its own; what decides touches no clock, socket, thread, log or random source.

The table is the architecture. A package, or a module that stands alone, is one entry. A new one is entered here first,
in the highest row from which it can see what it needs. A refused import says that something lives in the wrong place.
Inside a package a module may import any other, though never in a circle. Imports for type checking alone do not count.
"""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ldc"

# One row an element. `_book` is the extension with all that it includes; `__init__` is the face of the package.
ROWS = (
    {"_build", "_version", "errors", "types"},
    {"limits", "sequence", "frames", "analytics"},  # below types: `sequence.judge` returns a Verdict
    {"_book"},
    {"book", "venues"},
    {"sync", "consume", "network", "wire"},
    {"feed", "snapshots", "shared"},
    {"manager"},
    {"__init__"},
    {"metrics"},
    # The simulator is reached from above by a launcher's name only. The others see ldc as a user does.
    {"simulator", "gateway", "cluster"},
    {"cli"},
    {"__main__"},
)
ROW_OF = {entry: number for number, entries in enumerate(ROWS) for entry in entries}

LONGEST_CHAIN_MAX = 12
"""Packages that import one another in a row, from `__main__` by the gateway down to the ground."""

ENTRIES_MAX = 30
"""What `ls ldc` shows."""

# Takes the time as an argument and touches nothing outside: so it can be simulated a hundred thousand times.
PURE = {
    "cluster.placement", "cluster.rules", "cluster.wanted",
    "errors", "types", "sequence", "limits", "frames", "analytics", "venues", "book.pure", "sync",
    "network.addresses", "network.text", "wire", "feed.handover", "feed.silence", "feed.slot",
    "feed.subscriptions", "snapshots.weight", "snapshots.queue", "snapshots.reply",
}  # fmt: skip
WORLD = {
    "asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "queue", "random", "secrets",
    "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "time", "urllib", "uuid",
}  # fmt: skip
# The books are shared by threads, so the plain one has a lock as the compiled one has; it starts no thread. A lease is
# of a clock that counts the sleep of the machine; its `is_expired` takes the time as an argument as well.
MAY_TOUCH = {
    "book.pure": {"threading"},
    "book.pure.frames": {"time"},
    "book.pure.keepalive": {"time"},
    "book.pure.lease": {"time"},
    "book.pure.updates": {"os"},  # the descriptor that wakes an event loop
    "book.pure.shared": {"threading", "time"},
}

# What is not the standard library's, and who alone may know it.
FOREIGN = {
    "aiohttp": {"gateway", "simulator"},
    "certifi": {"network"},  # requests brings it along
    "filelock": {"snapshots"},
    "numpy": {"_book", "book"},
    "platformdirs": {"snapshots"},
    "prometheus_client": {"metrics"},
    "requests": {"network", "snapshots"},
    "rich": {"cli"},
    "urllib3": {"snapshots"},  # requests is built on it, and brings it along
    "websocket": {"feed"},
    "zenoh": {"cluster"},
}

# `import a.b`, `cimport a.b`, `from a.b import c`, `from a.b cimport c`, at any depth: what .pyx files have.
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?c?import\s+(\([^)]*\)|[\w., *]+)", re.MULTILINE)


def module_name(path: Path) -> str:
    """`ldc/feed/group.py` -> feed.group; `ldc/book/__init__.py` -> book; `_book.pyx` and what it includes -> _book."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if path.suffix in (".pyx", ".pxi", ".pyi"):
        return "_book"
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def entry_of(module: str) -> str:
    """Return the entry of the table that a module belongs to: feed.group -> feed."""
    return module.split(".", maxsplit=1)[0]


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those below `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imported(path: Path, source: str) -> set[str]:
    """Return the full names of all that is imported, wherever in the file: a late import is a dependency as well."""
    if path.suffix in (".pyx", ".pxi"):
        found = CYTHON_IMPORT.findall(source)
        names = [(package, names.strip("(), \n").split(",")) for package, names in found]
    else:
        names = []
        for node in statements(ast.parse(source)):
            if isinstance(node, ast.Import):
                names.append(("", [alias.name for alias in node.names]))
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}:{node.lineno}: write imports in full, as everywhere else"
                names.append((node.module or "", [alias.name for alias in node.names]))
    return {f"{package}.{name.split(' as ')[0].strip()}".strip(".") for package, of in names for name in of}


def is_module(name: str) -> bool:
    place = PACKAGE.joinpath(*name.split("."))
    return name == "_book" or place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def target_of(name: str) -> str:
    """`ldc.feed.market.Market` -> feed.market; `ldc.OrderBook` -> __init__: what is no module is the package's."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if is_module(".".join(parts[:length])):
            return ".".join(parts[:length])
    return "__init__"


def is_pure(module: str) -> bool:
    return any(module == pure or module.startswith(f"{pure}.") for pure in PURE)


def may_touch(module: str) -> set[str]:
    return {name for pure, names in MAY_TOUCH.items() if module.startswith(pure) for name in names}


def wrongs(path: Path, source: str) -> list[str]:
    """Return what this module imports and may not, one sentence each."""
    module = module_name(path)
    entry = entry_of(module)
    if entry not in ROW_OF:
        return [f"{entry} is new: give it a row in the table"]
    found = []
    for name in sorted(imported(path, source)):
        top = name.split(".")[0]
        if top == "ldc":
            target = entry_of(target_of(name))
            if target not in ROW_OF:
                found.append(f"{module} imports {target}, which has no row")
            elif target != entry and ROW_OF[target] >= ROW_OF[entry]:
                found.append(f"{module} (row {ROW_OF[entry]}) imports {target} (row {ROW_OF[target]})")
        elif top in FOREIGN:
            if entry not in FOREIGN[top]:
                found.append(f"{module} imports {top}, which only {' and '.join(sorted(FOREIGN[top]))} may know")
        elif top in WORLD:
            if is_pure(module) and top not in may_touch(module):
                found.append(f"{module} decides, so it may not touch the world: {top}")
        elif top not in sys.stdlib_module_names and top not in ("cpython", "cython", "libc"):
            found.append(f"{module} imports {top}, which is no dependency of ldc")
    return found


SOURCES = sorted(path for suffix in ("py", "pyi", "pyx", "pxi") for path in PACKAGE.rglob(f"*.{suffix}"))


def graph_of_modules() -> dict[str, set[str]]:
    """Return what each module imports, without itself."""
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        found = {target_of(name) for name in imported(path, path.read_text(encoding="utf-8")) if name.startswith("ldc")}
        graph.setdefault(module_name(path), set()).update(found - {module_name(path)})
    return graph


def graph_of_packages(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for module, targets in modules.items():
        graph.setdefault(entry_of(module), set()).update({entry_of(target) for target in targets} - {entry_of(module)})
    return graph


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the longest way down."""
    longest: dict[str, list[str]] = {}
    for entry in graphlib.TopologicalSorter(graph).static_order():
        below = [longest[target] for target in graph.get(entry, ())]
        longest[entry] = [entry, *max(below, key=len, default=[])]
    return max(longest.values(), key=len)


def test_a_module_imports_only_from_rows_above() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): wrongs(path, path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {file: what for file, what in found.items() if what} == {}


@pytest.mark.parametrize("package", ["gateway", "cluster"])
def test_what_stands_outside_sees_ldc_as_a_user_does(package: str) -> None:
    """Beside the public names it may import `metrics`, `wire`: the exchange's protocol, which knows no book; and the
    cluster `shared`, whose `encode` and `decode` are public.
    """
    allowed = {"__init__", package, "metrics", "wire"} | ({"shared"} if package == "cluster" else set())
    for path in sorted((PACKAGE / package).rglob("*.py")):
        names = {name for name in imported(path, path.read_text(encoding="utf-8")) if name.split(".")[0] == "ldc"}
        assert {entry_of(target_of(name)) for name in names} <= allowed, path.name


def test_no_modules_and_no_packages_import_each_other_in_a_circle() -> None:
    modules = graph_of_modules()
    assert "types" in modules["sequence"]
    assert list(graphlib.TopologicalSorter(modules).static_order())  # raises CycleError, which shows the circle
    assert list(graphlib.TopologicalSorter(graph_of_packages(modules)).static_order())


def test_the_longest_chain_of_packages_is_short() -> None:
    chain = longest_chain(graph_of_packages(graph_of_modules()))
    assert chain[0] == "__main__"
    assert len(chain) <= LONGEST_CHAIN_MAX, " -> ".join(chain)


def test_the_package_is_one_look_long() -> None:
    entries = {path.relative_to(PACKAGE).parts[0] for path in [*SOURCES, PACKAGE / "py.typed"]}
    assert 10 < len(entries) <= ENTRIES_MAX


def test_no_entry_stands_in_two_rows_and_none_has_gone() -> None:
    assert len(ROW_OF) == sum(len(row) for row in ROWS)
    assert [entry for entry in ROW_OF if not is_module(entry)] == []
    assert [pure for pure in PURE if not is_module(pure)] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("types.py", "from ldc.sequence import judge"),
        ("new.py", "import json"),
        ("sequence.py", "from ldc import book"),
        ("sequence.py", "import ldc.book"),
        ("sequence.py", "from ldc import OrderBook"),
        ("sync/machine.py", "def f():\n    import time"),
        ("limits.py", "from random import Random"),
        ("book/pure/book.py", "import time"),
        ("book/pure/book.py", "import orjson"),
        ("sync/buffer.py", "import time"),
        ("sync/buffer.py", "from ldc.feed.market import Market"),
        ("snapshots/queue.py", "import time"),
        ("snapshots/queue.py", "from ldc.feed.market import Market"),
        ("feed/market.py", "import requests"),
        ("manager/manager.py", "import requests"),
        ("manager/manager.py", "from ldc.simulator.exchange import SimulatedExchange"),
        ("_book.pyx", "from ldc.book.pure.book cimport OrderBook"),
        ("_book.pyx", "cdef f():\n    from ldc.book import OrderBook"),
        ("_book.pyx", "from ldc import (\n    types,\n    book,\n)"),
        ("core/side.pxi", "from ldc import book, types"),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str) -> None:
    assert len(wrongs(PACKAGE / file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("sequence.py", "from ldc.types import Verdict"),
        ("sequence.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ldc.book import OrderBook"),
        ("book/pure/book.py", "import threading\ndef f():\n    import numpy"),
        (
            "_book.pyx",
            "from libc.stdint cimport int64_t\nfrom ldc.sequence import (\n    FUTURES,\n    SPOT)\ncimport cython",
        ),
        (
            "book/pure/state.py",
            "from ldc.book.pure.json import Snapshot\nimport threading",
        ),
        ("feed/market.py", "from ldc.feed.connection import FeedConnection\nimport time\nimport websocket"),
        ("feed/group.py", "from ldc.sync.machine import Synchronizer"),
        ("cli/main.py", "import time\nimport ldc\nfrom ldc.simulator import SimulatedExchange\nimport rich.live"),
        ("simulator/rest.py", "from ldc.simulator.market import Market\nfrom aiohttp import web"),
    ],
)
def test_a_right_import_is_not_refused(file: str, source: str) -> None:
    assert wrongs(PACKAGE / file, source) == []


def test_a_circle_and_a_long_chain_would_be_found() -> None:
    assert longest_chain({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}) == ["a", "b", "c"]
    with pytest.raises(graphlib.CycleError):
        longest_chain({"a": {"b"}, "b": {"a"}})
