"""What the feed's thread does in Python for an update of a synchronized market: how many calls, and which."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from live_kit import live, no_jitter, no_thread_is_left, reach, synchronize  # noqa: F401

import ldc

pytestmark = pytest.mark.usefixtures("no_jitter")

UPDATES = 150
PACKAGE = Path(ldc.__file__).parent

CALLS_MAX = 18
"""Calls that ldc's Python code makes for one update: of Python functions, and of functions in C other than the book's.
The selector's own calls are not counted, for they differ between interpreters; there are six on CPython 3.11."""

WITHOUT_LOCK = {"Event.is_set"}
"""What may be called of `threading`."""


class Profile:
    """Counts calls by (file of the callee or "C", its name), and those that ldc's own code makes."""

    def __init__(self) -> None:
        self.all: Counter[tuple[str, str]] = Counter()
        self.by_ldc: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        caller: FrameType | None
        if event == "call":
            callee, caller = (frame.f_code.co_filename, frame.f_code.co_qualname), frame.f_back
        elif event == "c_call" and type(getattr(argument, "__self__", None)).__module__ != "ldc._book":
            callee, caller = ("C", argument.__qualname__), frame
        else:
            return
        self.all[callee] += 1
        if caller is not None and PACKAGE in Path(caller.f_code.co_filename).parents:
            self.by_ldc[callee] += 1

    @staticmethod
    def each_time(calls: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the calls of an update: what happens now and then, such as a ping, does not count."""
        return {callee: times for callee, count in calls.items() if (times := round(count / UPDATES))}


def takes_lock(file: str, name: str) -> bool:
    """Whether a function is one of a lock, or of what `threading` builds on locks."""
    if file == "C":
        return name.partition(".")[0].lower() in ("lock", "rlock") or name.endswith(("acquire", "release"))
    return Path(file).name == "threading.py" and name not in WITHOUT_LOCK


def test_what_takes_a_lock_is_recognized():
    assert takes_lock("C", "lock.acquire")
    assert takes_lock("C", "RLock.__enter__")
    assert takes_lock("/python/threading.py", "Condition.notify")
    assert not takes_lock("/python/threading.py", "Event.is_set")
    assert not takes_lock("C", "list.append")


@pytest.mark.skipif(sys.getprofile() is not None, reason="another profiler runs")
@pytest.mark.skipif(ldc.IMPLEMENTATION != "cython", reason="the order book in plain Python reads JSON, under a lock")
@pytest.mark.parametrize("kind", ["spot", "usdm"])
@pytest.mark.parametrize("loop", ["native", "python"])
def test_an_update_costs_few_calls_and_none_of_logging_json_or_a_lock(loop, kind, monkeypatch):
    """In the loop without the GIL it costs none at all."""
    monkeypatch.setenv("LDC_NATIVE_LOOP", "1" if loop == "native" else "0")
    profile = Profile()
    with live(kind) as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        cache = manager.get_depth_cache("BTCUSDT")
        assert cache.group.post(lambda now: sys.setprofile(profile))
        for _ in range(UPDATES):
            last = exchange.update("BTCUSDT", bids=[("99.99", "7.25")])
            while cache.reader.last_update_id < last:
                pass  # a waiting thread would have to be woken, which takes a lock
        assert cache.group.post(lambda now: sys.setprofile(None))
        reach(exchange, manager)
    made, made_by_ldc = profile.each_time(profile.all), profile.each_time(profile.by_ldc)
    if loop == "native":
        assert made == {}
        return
    assert any(name == "FeedConnection.receive" for _, name in made_by_ldc)  # the path was seen
    assert sum(made_by_ldc.values()) <= CALLS_MAX, made_by_ldc
    assert [callee for callee in made if Path(callee[0]).parent.name in ("logging", "json")] == []
    assert [callee for callee in made if takes_lock(*callee)] == []
