"""The notebook of the examples runs, cell by cell, as a kernel runs it.

A kernel needs a message broker and thirty packages, so the first test compiles and awaits the cells as IPython does, in
one namespace and one event loop. The second one has a kernel, where nbclient is installed: `make check-notebook`.
"""

import ast
import asyncio
import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from live_kit import no_thread_is_left  # noqa: F401 - used by its name

NOTEBOOK = Path(__file__).parents[2] / "examples" / "order_book.ipynb"
MISSING = frozenset(
    f"needs-{name}" for name in ("matplotlib",) if importlib.util.find_spec(name) is None
)  # tags of cells that cannot run here


def cells() -> list[dict[str, Any]]:
    """Return the cells of code that can run here."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in code if MISSING.isdisjoint(cell["metadata"].get("tags", ()))]


async def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as IPython does; return the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    found = None
    parts: list[tuple[ast.AST, str]] = [(tree, "exec")]
    if isinstance(last, ast.Expr):
        parts.append((ast.Expression(last.value), "eval"))
    for part, mode in parts:
        found = eval(compile(part, str(NOTEBOOK), mode, flags=flags), names)
        if inspect.iscoroutine(found):
            found = await found
    return found


def test_each_cell_runs_in_one_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "__main__"}

    async def run_all() -> list[Any]:
        return [await run_cell("".join(cell["source"]), names) for cell in cells()]

    found = asyncio.run(run_all(), debug=True)
    progress, (update_id, bids, asks), figures, seen = found[:4]
    assert progress.synchronized == progress.total == 2
    assert update_id > 0
    assert len(bids) == len(asks) == 5
    assert figures["spread"] > 0
    assert figures["buy 100,000"].is_complete
    assert len(seen) == 10
    assert {market for market, *_rest in seen} <= {"BTCUSDT", "ETHUSDT"}
    assert found[-1] is True
    assert names["manager"].is_stop_request()


def test_the_notebook_has_no_output_in_it() -> None:
    for cell in cells():
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.check
def test_a_kernel_runs_the_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel runs this test")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel runs this test")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    notebook.cells = [cell for cell in notebook.cells if MISSING.isdisjoint(cell["metadata"].get("tags", ()))]
    away = {"metadata": {"path": str(tmp_path)}}  # from the sources, where no kernel finds a compiled book
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources=away).execute()
    texts = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    assert texts[0].startswith("Progress(synchronized=2")
    assert texts[-1] == "True"
