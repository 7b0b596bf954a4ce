"""What the feed's thread does for an update of a synchronized market: which lines run, and what stands in them."""

import ast
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from live_kit import live, no_jitter, no_thread_is_left, reach, synchronize  # noqa: F401

import ldc

pytestmark = pytest.mark.usefixtures("no_jitter")

PACKAGE = Path(ldc.__file__).parent
LOCKS = {"acquire", "notify", "notify_all", "wait", "wait_for"}
TEXT = {"format", "dumps", "loads", "log", "debug", "info", "warning", "error", "exception", "str", "repr"}
# `recv_into` gets a view of the reader's buffer, which must be given back; the mailbox looks whether it is empty.
CONTEXTS = {"self.reader.writable()"}


def what_stands_in(line: int, tree: ast.Module) -> set[str]:
    """Return what of a line formats text, reads JSON or takes a lock."""
    found = set()
    for node in ast.walk(tree):
        if not hasattr(node, "lineno") or not node.lineno <= line <= node.lineno:
            continue
        if isinstance(node, ast.JoinedStr):
            found.add("an f-string")
        elif isinstance(node, ast.With):
            found.update(ast.unparse(item.context_expr) for item in node.items)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found.update({name} & (LOCKS | TEXT))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            found.add("%")
    return found - CONTEXTS


@pytest.mark.skipif(sys.gettrace() is not None, reason="something else traces")
@pytest.mark.skipif(ldc.IMPLEMENTATION != "cython", reason="the order book in plain Python reads JSON, under a lock")
@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_an_update_costs_no_formatting_no_json_in_python_and_no_lock(kind):
    lines: dict[tuple[str, int], int] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            lines[place] = lines.get(place, 0) + 1
        return trace

    with live(kind) as (exchange, manager):
        synchronize(exchange, manager)
        reach(exchange, manager)
        group = manager.get_depth_cache("BTCUSDT").group
        reader = manager.get_depth_cache("BTCUSDT").reader
        assert group.post(lambda now: sys.settrace(trace))
        for _ in range(150):
            last = exchange.update("BTCUSDT", bids=[("99.99", "7.25")])
            while reader.last_update_id < last:
                pass  # a waiting thread would have to be woken, which takes a lock
        assert group.post(lambda now: sys.settrace(None))
        reach(exchange, manager)
    # `Event.is_set`, which every turn calls, is Python that takes no lock: its lines are looked at as ours are.
    looked_at = (PACKAGE, Path(threading.__file__))
    ours = {place: count for place, count in lines.items() if any(map(Path(place[0]).is_relative_to, looked_at))}
    elsewhere = {name for (name, line), count in lines.items() if count >= 100 and (name, line) not in ours}
    assert {Path(name).stem for name in elsewhere} <= {"selectors", "<string>"}  # the latter makes the named tuples
    trees = {name: ast.parse(Path(name).read_text(encoding="utf-8")) for name, _ in ours}
    often = {place: count for place, count in ours.items() if count >= 100}
    assert any(name.endswith("feed/connection.py") for name, _ in often)  # the path was seen
    found = {place: what for place in often if (what := what_stands_in(place[1], trees[place[0]]))}
    assert found == {}
