"""What documents say in tables is what the code says. That their code runs and links lead somewhere: test_tidy."""

import ast
import pydoc
import re
import types
from enum import Enum
from itertools import chain
from pathlib import Path

import pytest

import ldc
import ldc.types
from ldc.venues import VENUES

PROJECT = Path(__file__).parents[2]


def table_rows(document, head):
    """Return the cells of each row of the table whose first cell is `head`."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"| {head} |")
    assert found, f"{document} has no table that begins with {head!r}"
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_exchanges_has_all_of_them_and_their_deepest_snapshots():
    rows = table_rows("README.md", "`exchange=`")
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
    tree = ast.parse(Path(ldc.types.__file__).read_text(encoding="utf-8"))
    records = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in ldc.__all__]
    assert len(records) == 10
    for record in records:
        members = [node for node in record.body if isinstance(node, ast.AnnAssign | ast.Assign)]
        for member in members:
            following = record.body[record.body.index(member) + 1 :][:1]
            is_text = [isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in following]
            assert is_text == [True], f"{record.name}: {ast.unparse(member)}"
