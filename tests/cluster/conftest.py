"""Without Zenoh, as on a Python without the GIL, none of these tests can be imported."""

import importlib.util
from collections.abc import Iterator

import pytest
from live_kit import assert_no_thread_is_left

collect_ignore_glob = [] if importlib.util.find_spec("zenoh") else ["test_*.py"]


@pytest.fixture(scope="module", autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The tests of a module share a cluster. After them, all its threads have ended."""
    yield
    assert_no_thread_is_left()
