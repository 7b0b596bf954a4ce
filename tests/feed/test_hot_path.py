"""What the feed's thread does for an update of a synchronized market: how many calls, and of which kind."""

import contextlib
import dis
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from live_kit import live, no_jitter, no_thread_is_left, reach, synchronize  # noqa: F401
from loopback_exchange import LoopbackExchange

import ldc
from ldc.manager.manager import BinanceLocalDepthCacheManager

UPDATES = 200
PYTHON_CALLS_MAX = 13
"""Python functions that may be called for one update. It was 11.3 when this was written."""
CALLS_MAX = 30
"""All calls, those of C included. It was 26.6."""

# Parts of the names of functions that an update has no business with.
FORBIDDEN = {
    "acquire", "release", "notify", "notify_all", "wait", "wait_for", "_wait", "lock", "RLock",
    "format", "dumps", "loads", "raw_decode", "encode", "decode", "sub", "match",
    "log", "debug", "info", "warning", "error", "exception", "isEnabledFor", "print", "write",
}  # fmt: skip
FORMATTING = {"BUILD_STRING", "CONVERT_VALUE", "FORMAT_SIMPLE", "FORMAT_VALUE", "FORMAT_WITH_SPEC"}

pytestmark = [
    pytest.mark.usefixtures("no_jitter"),
    pytest.mark.skipif(sys.gettrace() is not None, reason="something else traces"),
    pytest.mark.skipif(
        ldc.IMPLEMENTATION != "cython", reason="the order book in plain Python calls Python for each level"
    ),
]


@contextlib.contextmanager
def synchronized(kind: str) -> Iterator[tuple[LoopbackExchange, BinanceLocalDepthCacheManager]]:
    with live(kind) as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        yield exchange, manager


def bring_updates(
    exchange: LoopbackExchange, manager: BinanceLocalDepthCacheManager, switch: Callable[[Any], None], hook: Any
) -> None:
    """Bring updates one by one while the feed's thread has the hook."""
    group = manager.get_depth_cache("BTCUSDT").group
    reader = manager.get_depth_cache("BTCUSDT").reader
    assert group.post(lambda now: switch(hook))
    for _ in range(UPDATES):
        last = exchange.update("BTCUSDT", bids=[("99.99", "7.25")])
        while reader.last_update_id < last:
            pass  # a waiting thread would have to be woken, which takes a lock
    assert group.post(lambda now: switch(None))
    reach(exchange, manager)


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_an_update_costs_few_calls_and_none_that_locks_logs_or_reads_text(kind):
    in_python: Counter[str] = Counter()
    in_c: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            in_python[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            in_c[getattr(argument, "__qualname__", str(argument))] += 1

    with synchronized(kind) as (exchange, manager):
        bring_updates(exchange, manager, sys.setprofile, profile)
    counted = in_python + in_c
    assert in_python["FeedConnection.receive"] >= UPDATES  # the path was seen
    assert in_python.total() / UPDATES <= PYTHON_CALLS_MAX, in_python.most_common(20)
    assert counted.total() / UPDATES <= CALLS_MAX, counted.most_common(40)
    # What is done once in a while, such as a ping, may do all that.
    often = {name for name, count in counted.items() if count >= UPDATES / 2}
    assert {name for name in often if FORBIDDEN & set(name.split("."))} == set()


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_an_update_formats_no_text(kind):
    formats: Counter[str] = Counter()
    frames: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            frames[frame.f_code.co_qualname] += 1
        elif event == "opcode" and dis.opname[frame.f_code.co_code[frame.f_lasti]] in FORMATTING:
            formats[frame.f_code.co_qualname] += 1
        return trace

    with synchronized(kind) as (exchange, manager):
        bring_updates(exchange, manager, sys.settrace, trace)
    assert frames["FeedConnection.receive"] >= UPDATES
    assert {name for name, count in formats.items() if count >= UPDATES / 2} == set()
