"""What documents say in tables is what the code says. That their code runs and links lead somewhere: test_tidy."""

import ast
import importlib
import inspect
import pydoc
import re
import types
from collections.abc import Iterator
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

import draw_packages
import pytest
import simulate

import ldc
import ldc.analytics.view
import ldc.types
from ldc.cli.main import make_parser
from ldc.venues import VENUES

PROJECT = Path(__file__).parents[2]

FOREIGN_CONSTANTS = {
    "BTCUSDT_261225",
    "BTCUSD_261225",
    "BTCUSD_PERP",
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "GET_PROPERTY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LIST_SUBSCRIPTIONS",
    "NO_PROXY",
    "RAW_REQUESTS",
    "REQUESTS_CA_BUNDLE",
    "SET_PROPERTY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
}
"""What documents name of the exchange, and of the environment."""


def table_rows(document, head):
    """Return the cells of each row of the table whose first cell is `head`."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"| {head} |")
    assert found, f"{document} has no table that begins with {head!r}"
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_exchanges_has_all_of_them_and_their_deepest_snapshots():
    rows = table_rows("docs/reference/exchanges.md", "`exchange=`")
    told = {name: int(cells[2].replace(",", "")) for cells in rows for name in re.findall("`(.+?)`", cells[0])}
    assert told == {name: venue.snapshot_limit_max for name, venue in VENUES.items()}
    assert {venue.default_interval_ms for venue in VENUES.values()} == {100}  # as the sentence below the table says


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / "docs" / "reference").glob("*.md"))
    referred = re.findall(r"^::: (?:ldc|ldc\._book)\.(\w+)$|`ldc\.(\w+)`", pages, re.MULTILINE)
    assert set(ldc.__all__) - {name for pair in referred for name in pair} == set()


def test_every_page_has_its_place_in_the_site():
    placed = set(re.findall(r"[\w/-]+\.md$", (PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    docs = PROJECT / "docs"
    assert placed == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}


def test_every_parameter_of_the_manager_is_described():
    described_ones = ldc.BinanceLocalDepthCacheManager.__doc__.partition("Args:")[2]
    heads = " ".join(re.findall(r"^        ([\w, ]+): ", described_ones, re.MULTILINE))
    parameters = inspect.signature(ldc.BinanceLocalDepthCacheManager).parameters.values()
    named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    assert len(named) > 15
    assert named - set(re.findall(r"\w+", heads)) == set()


def test_every_command_of_the_command_line_has_its_row():
    rows = "".join(first for first, *_ in table_rows("docs/watch.md", "command"))
    [commands] = [action.choices for action in make_parser()._actions if isinstance(action.choices, dict)]
    assert {"demo", "watch"} <= set(commands) == set(re.findall(r"`ldc (\w+)", rows))


def test_every_benchmark_that_can_be_run_is_named_beside_them():
    text = (PROJECT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    programs = [
        path.name
        for path in (PROJECT / "benchmarks").glob("bench_*.py")
        if "__main__" in path.read_text(encoding="utf-8") and not path.stem.endswith("_report")
    ]
    assert len(programs) > 5
    assert [name for name in programs if name not in text] == []


def test_the_constants_that_documents_name_exist():
    folders = [PROJECT / name for name in ("ldc", "tests", "benchmarks", "fuzz", ".ci")]
    files = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in ("", ".py", ".pyx", ".pxi", ".h")
    ]
    sources = [*(path for path in files if path.is_file()), PROJECT / "setup.py", PROJECT / "Makefile"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    known = set(re.findall(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+", text)) | FOREIGN_CONSTANTS
    for page in (*(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*.md")):
        named = set(re.findall(r"`_?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name}: {named - known}"


def test_the_diagram_of_the_packages_is_that_of_the_layer_table():
    page = (PROJECT / draw_packages.PAGE).read_text(encoding="utf-8")
    assert draw_packages.redrawn(page) == page, "python tests/tools/draw_packages.py draws it again"


def test_the_rows_of_the_layer_table_are_explained():
    """CONTRIBUTING names every entry of the table, once, in the order of the rows."""
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text.partition("## Layers")[2].partition("\n## ")[0], re.MULTILINE)
    named = [(int(number), set(re.findall(r"`(?:ldc/)?(.+?)`", names))) for number, names in rows]
    assert named == list(enumerate(draw_packages.rows()))


def test_a_run_of_the_simulation_is_recorded_in_the_table_of_runs(monkeypatch, tmp_path):
    page = tmp_path / simulate.RUNS_PAGE
    page.parent.mkdir(parents=True)
    before = (PROJECT / simulate.RUNS_PAGE).read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    monkeypatch.setattr(simulate, "PROJECT", tmp_path)
    simulate.record("| a row |", simulate.RUNS_HEADING)
    table = (
        page.read_text(encoding="utf-8")
        .partition(simulate.RUNS_HEADING)[2]
        .partition("| date |")[2]
        .partition("\n\n")[0]
    )
    assert table.endswith("|\n| a row |")
    assert page.read_text(encoding="utf-8").replace("| a row |\n", "") == before


def test_what_a_document_calls_a_micro_price_is_one():
    """A regression: the average price of one side was called so. It weighs each best price by the other side's size."""
    for page in (*(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*.md")):
        code = "\n".join(
            re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        )
        for line in re.findall(r"^.*\bmicro\w* *=[^=].*$", code, re.MULTILINE):
            assert "micro_price" in line.partition("=")[2], f"{page.name}: {line}"


def test_the_tests_that_documents_name_exist():
    defined = {
        name
        for folder in ("tests", "benchmarks", "examples")
        for path in (PROJECT / folder).rglob("test_*.py")
        for name in (path.stem, *re.findall(r"^ *def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    }
    for page in (*(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*.md")):
        named = set(re.findall(r"\b(test_\w+)", page.read_text(encoding="utf-8")))
        assert named <= defined, f"{page.name}: {named - defined}"


# ------------------------------------------------------------------------------------------- the stub and both books

STUB = ast.parse((PROJECT / "ldc" / "_book.pyi").read_text(encoding="utf-8"))
COMPILED_ONLY = {"LoopKey", "NativeLoop", "TlsContext", "TlsSocket"}
"""What needs no GIL, and so has no twin in plain Python."""

STUB_BASES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef) and node.name.startswith("_")}
"""What exists for type checkers only."""
STUB_CLASSES = [
    node
    for node in STUB.body
    if isinstance(node, ast.ClassDef) and node.name not in COMPILED_ONLY and node.name not in STUB_BASES
]


def twin(name: str) -> Any:
    """Return what `ldc.book` offers under that name where there is no compiled book."""
    source = Path(importlib.import_module("ldc.book").__file__ or "").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ldc.") and node.module != "ldc._book":
            if name in [alias.name for alias in node.names]:
                return getattr(importlib.import_module(str(node.module)), name)
    raise AssertionError(f"there is no {name} in plain Python")


def is_property(node: ast.FunctionDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(decorator == "property" or decorator.endswith(".setter") for decorator in decorators)


def parameters_in_the_stub(node: ast.FunctionDef) -> list[str]:
    """Return the names of a function's parameters; those by keyword only begin with an asterisk."""
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    return [*names[1:], *(f"*{argument.arg}" for argument in arguments.kwonlyargs)]


def parameters_of(function: Any) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return [f"{'*' if each.kind is each.KEYWORD_ONLY else ''}{each.name}" for each in parameters]


def functions_of(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a class of the stub, and those of its bases."""
    yield from (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name != "__reduce__")
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from functions_of(STUB_BASES[base.id])


@pytest.mark.parametrize("in_stub", STUB_CLASSES, ids=lambda node: node.name)
def test_the_stub_and_the_book_in_plain_python_have_the_same_names(in_stub: ast.ClassDef):
    """`make lint` holds the compiled one to the stub (stubtest)."""
    python = twin(in_stub.name)
    functions = list(functions_of(in_stub))
    public = {each.name for each in functions if not each.name.startswith("_")}
    public |= {
        each.target.id for each in in_stub.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    more = {name for name in dir(python) if not name.startswith("_")} - public
    assert public <= set(dir(python))
    assert not more or in_stub.name not in ldc.__all__
    for name in {each.name for each in functions if not is_property(each)}:
        in_python = parameters_of(getattr(python, "__init__" if name == "__new__" else name))
        overloads = [parameters_in_the_stub(each) for each in functions if each.name == name]
        # Each overload has some of the parameters, in their order; together they have all.
        assert set().union(*overloads) == set(in_python), name
        assert all([each for each in in_python if each in overload] == overload for overload in overloads), name


def test_the_reference_of_the_order_book_has_all_its_names():
    """mkdocstrings shows what the page lists: the extension has no source that it could read."""
    page = (PROJECT / "docs" / "reference" / "order-book.md").read_text(encoding="utf-8")
    for in_stub in (each for each in STUB_CLASSES if each.name in ("OrderBook", "BookReader", "Lease")):
        listed = page.partition(f"::: ldc._book.{in_stub.name}\n")[2].partition(":::")[0]
        assert set(re.findall(r"- (\w+)$", listed, re.MULTILINE)) == {
            each.name for each in functions_of(in_stub) if not each.name.startswith("_")
        }


def test_the_stub_s_constants_are_those_of_the_book_in_plain_python():
    names = [
        node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    names = [name for name in names if name.isupper()]
    assert len(names) == 5
    page = (PROJECT / "docs" / "order-book.md").read_text(encoding="utf-8")
    for name in names:
        assert twin(name) == getattr(importlib.import_module("ldc.book"), name)
        assert f"`{name}`" in page


# Plain members of an extension type can carry no docstring; the class says in its arguments what they are.
CANNOT_SAY = {"OrderBook.market", "OrderBook.rule"}


def described(name):
    """Return (full name, whether it has a docstring) of a public name and its public members."""
    thing = getattr(ldc, name)
    yield name, bool(thing.__doc__)
    if isinstance(thing, type):
        own = issubclass(thing, tuple | Enum) or thing.__module__.split(".")[0] != "ldc"
        # What it inherits of ours is its own: the manager's reads stand in a class of their own.
        ours = [base for base in reversed(thing.__mro__) if base.__module__.split(".")[0] == "ldc"] or [thing]
        for member, value in dict(chain.from_iterable(vars(base).items() for base in ours)).items():
            is_described = callable(value) or isinstance(value, property | types.GetSetDescriptorType)
            if not member.startswith("_") and is_described and not own:
                yield f"{name}.{member}", bool(value.__doc__)


@pytest.mark.parametrize("name", sorted(set(ldc.__all__) - {"FUTURES", "IMPLEMENTATION", "SPOT", "__version__"}))
def test_every_public_name_says_what_it_is(name):
    found = dict(described(name))
    assert {member for member, is_described in found.items() if not is_described} - CANNOT_SAY == set()
    if name in ("BinanceLocalDepthCacheManager", "OrderBook", "BookReader"):
        assert len(found) > 25


def test_help_of_the_package_begins_with_what_it_is_for():
    text = pydoc.plain(pydoc.render_doc(ldc))
    assert "Exact local copies of Binance order books" in text[:300]
    assert all(name in text for name in ldc.__all__ if name != "__version__")


def test_every_field_of_a_record_is_described():
    trees = [ast.parse(Path(module.__file__).read_text(encoding="utf-8")) for module in (ldc.types, ldc.analytics.view)]
    nodes = [node for tree in trees for node in tree.body]
    records = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name in ldc.__all__]
    assert len(records) == 16
    for record in records:
        members = [node for node in record.body if isinstance(node, ast.AnnAssign | ast.Assign)]
        for member in members:
            following = record.body[record.body.index(member) + 1 :][:1]
            is_text = [isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in following]
            assert is_text == [True], f"{record.name}: {ast.unparse(member)}"
