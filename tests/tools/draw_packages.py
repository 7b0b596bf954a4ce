"""Draw the packages of ldc as docs/architecture.md shows them: `python tests/tools/draw_packages.py`.

The drawing is made from `ROWS`, the layer table that tests/project/test_layers.py enforces. A test compares the two.
"""

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGE = "docs/architecture.md"
TABLE = PROJECT / "tests" / "project" / "test_layers.py"

BEGIN, END = "<!-- packages: begin -->", "<!-- packages: end -->"


def rows() -> list[set[str]]:
    """Return the layer table. It is read, not imported: this runs without pytest."""
    for node in ast.parse(TABLE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["ROWS"]:
            return [set(row) for row in ast.literal_eval(node.value)]
    raise ValueError(f"{TABLE} has no ROWS")


def diagram() -> str:
    """Return the table as Mermaid: one box a row, row 0 at the top; an arrow leads to what may be imported."""
    lines = ["```mermaid", "flowchart BT"]
    drawn = rows()
    for number, row in reversed(list(enumerate(drawn))):
        lines.append(f'    subgraph row{number} ["row {number}"]')
        lines += [f"        {name.strip('_')}_{number}[{name}]" for name in sorted(row)]
        lines.append("    end")
    lines += [f"    row{number} --> row{number - 1}" for number in range(len(drawn) - 1, 0, -1)]
    return "\n".join([*lines, "```"])


def redrawn(page: str) -> str:
    """Return the page with the drawing as it should be."""
    between = re.compile(f"{re.escape(BEGIN)}\n.*?\n{re.escape(END)}", re.DOTALL)
    if between.search(page) is None:
        raise ValueError(f"{PAGE} has no lines {BEGIN} and {END}")
    return between.sub(lambda _: f"{BEGIN}\n{diagram()}\n{END}", page)


if __name__ == "__main__":
    path = PROJECT / PAGE
    path.write_text(redrawn(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"drew {PAGE}")
