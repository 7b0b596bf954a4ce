"""What all tests share: both order books, the recordings, and how much luck Hypothesis may try.

Helpers that are plain functions are imported (``import messages``); pyproject.toml puts this folder on the path.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
from implementations import IS_PURE, MODULES, order_book_module

# "ci" draws the same examples in every run, so that a failure is a failure of the code; "dev" draws new ones and
# remembers those that failed; "long" is for a night. HYPOTHESIS_PROFILE chooses.
COMMON = {"deadline": None, "print_blob": True}
hypothesis.settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **COMMON)
hypothesis.settings.register_profile("dev", max_examples=200, **COMMON)
hypothesis.settings.register_profile("long", max_examples=5_000, **COMMON)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell without job control has whatever it starts in the background ignore Ctrl-C. The programs that the tests start
# would inherit that, and the tests that interrupt them would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=list(MODULES))
def books(request: pytest.FixtureRequest) -> ModuleType:
    """Each implementation in turn, as the module that has OrderBook, BookReader, read_header and the limits."""
    return order_book_module(request.param)


@pytest.fixture(scope="session")
def compiled_books() -> ModuleType:
    """The compiled implementation: for the few promises that only it makes."""
    return order_book_module("cython")


@pytest.fixture(scope="session")
def both_books() -> tuple[ModuleType, ModuleType]:
    """Both implementations at once, the one in plain Python first."""
    return order_book_module("python"), order_book_module("cython")


@pytest.fixture(scope="session")
def all_books() -> list[ModuleType]:
    """Every implementation that this build has, the one in plain Python first: for what also has another judge."""
    return [order_book_module(name) for name in MODULES if name == "python" or not IS_PURE]


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of recorded traffic. It is no part of the project; without it, what needs it is skipped."""
    folder = os.environ.get("LDC_CAPTURES")
    if not folder:
        pytest.skip("LDC_CAPTURES does not name a folder of recorded traffic")
    path = Path(folder)
    assert any(path.iterdir()), f"LDC_CAPTURES={folder!r} is set, but there is nothing in it"
    return path


@pytest.fixture(autouse=True)
def nothing_is_remembered_of_addresses() -> Iterator[None]:
    """What a test spent, and the ban that it was given, are not held against the next test that gets the same port."""
    yield
    if snapshot := sys.modules.get("ldc.snapshots.downloader"):
        snapshot._shared.clear()
    if lifecycle := sys.modules.get("ldc.manager.lifecycle"):
        lifecycle._connect_budgets.clear()
