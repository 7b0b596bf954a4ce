"""docs/faults.md says which test shows what: each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_every_fault_has_a_row_and_every_row_a_test_that_exists():
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    rows = ROW.findall((ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    assert [int(number) for number, *_ in rows] == list(range(1, 49))
    for number, _, _, shown_by in rows:
        named = re.findall(r"`(\w+)`", shown_by)
        assert named, f"fault {number} names no test"
        assert set(named) <= defined, f"fault {number}: {set(named) - defined}"
