"""Style that a tool can check is a test, not a paragraph: what ruff and mypy do not look at, or not in Cython's files.

A rule that bites somebody becomes a check here. Each check is a function over text, and is itself shown to find what it
looks for, so that none can pass by seeing nothing.
"""

import __future__

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from network_kit import free_port

import ldc

PROJECT = Path(__file__).parents[2]

LINES_PER_FILE_MAX = 1000
LINES_PER_FUNCTION_MAX = 60
COLUMNS_MAX = 120

# What is not part of the project, although it may lie in its folder.
NOT_OURS = re.compile(r"^(\.(?!ci|git(ignore|hub))|build$|dist$|htmlcov$|__pycache__$|.*\.egg-info$)")

# (file, function) of the few places whose purpose is to print.
MAY_PRINT = {("ldc/manager/manager.py", "print_summary")}


def ours(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if NOT_OURS.match(path.name):
            continue
        if path.is_dir():
            yield from ours(path)
        else:
            yield path


def named(paths: list[Path]) -> pytest.MarkDecorator:
    assert paths, "the files to look at were not found"
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.relative_to(PROJECT).as_posix())


TEXTS = [path for path in ours(PROJECT) if path.suffix not in (".so", ".pyd", ".c", ".html", ".png", ".gz")]
CODE = [path for path in TEXTS if path.suffix in (".py", ".pyi", ".pyx", ".pxi")]
PACKAGE = [path for path in CODE if PROJECT / "ldc" in path.parents]
DOCUMENTS = [path for path in TEXTS if path.suffix == ".md"]
WITH_CODE = [path for path in DOCUMENTS if "```python\n" in path.read_text(encoding="utf-8")]


def wrong_in(paths: list[Path], check: Callable[[str, Path], list[str]]) -> dict[str, list[str]]:
    """Return what is wrong in which file."""
    assert paths, "the files to look at were not found"
    found = {path.relative_to(PROJECT).as_posix(): check(path.read_text(encoding="utf-8"), path) for path in paths}
    return {name: wrong for name, wrong in found.items() if wrong}


# -------------------------------------------------------------------------------------------------- checks of the code


def untidy_lines(source: str) -> list[str]:
    """Return what is wrong with single lines of code of any kind."""
    rules: dict[str, Callable[[str], object]] = {
        f"longer than {COLUMNS_MAX} columns": lambda line: len(line) > COLUMNS_MAX,
        "white space at the end": re.compile(r"\s$").search,
        "a tab": re.compile("\t").search,
        "left to do": re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b").search,
        "swallows what it catches": re.compile(r"^\s*except Exception\b.*:\s*pass\b").search,
    }
    lines = source.splitlines()
    return [f"line {n}: {what}" for n, line in enumerate(lines, 1) for what, has in rules.items() if has(line)]


def swallowing_handlers(source: str) -> list[str]:
    """Return the handlers that catch everything, the interpreter's own signals as well, and do not raise it again.

    The top of a thread may: it says so.
    """
    handler = re.compile(r"^( *)except(?: +BaseException\b.*)? *:(.*\n(?:\1 .*\n|\n)*)", re.MULTILINE)
    return [
        f"line {source.count(chr(10), 0, found.start()) + 1}: swallows everything"
        for found in handler.finditer(source)
        if not re.search(r"^\s*raise\s*(#.*)?$", found[2], re.MULTILINE) and "a thread's top" not in found[0]
    ]


def long_functions(source: str) -> list[str]:
    """Return the functions that want splitting. The docstring does not count: a contract is as long as it has to be."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            has_docstring = ast.get_docstring(node, clean=False) is not None
            docstring_lines = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
            lines = node.end_lineno - node.lineno + 1 - docstring_lines
            if lines > LINES_PER_FUNCTION_MAX:
                found.append(f"{node.name}: {lines} lines")
    return found


def long_cython_functions(source: str) -> list[str]:
    """The same for Cython, by indentation: from the `def` to the last line that is indented deeper."""
    found = []
    lines = source.splitlines()
    for start, line in enumerate(lines):
        head = re.match(r"^( *)(?:cp?def|def) (?!class|struct|enum|extern|packed)[^=]*?(\w+)\(", line)
        if head is None:
            continue
        deeper = re.compile(rf"^ {{{len(head[1]) + 1},}}\S|^\s*$|^ {{{len(head[1])}}}\)")
        end = start + 1
        while end < len(lines) and deeper.match(lines[end]):
            end += 1
        length = len("\n".join(lines[start:end]).rstrip().splitlines())
        if length > LINES_PER_FUNCTION_MAX:
            found.append(f"{head[2]}: {length} lines")
    return found


def prints(source: str, file: str) -> list[str]:
    """Return the functions that print and may not: what a library says, it says to a logger or by an exception."""
    tree = ast.parse(source)
    printers = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and (file, node.name) in MAY_PRINT]
    allowed = {node for printer in printers for node in ast.walk(printer)}
    return [
        f"line {node.lineno}: prints"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print" and node not in allowed
    ]


def unsorted_names(source: str) -> list[str]:
    """Return what is wrong with `__all__`: constants first, then classes, then the rest, each in alphabetical order."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["__all__"]:
            names = ast.literal_eval(node.value)
            right = sorted(set(names), key=lambda name: (not name.isupper(), not name[:1].isupper(), name))
            return [] if names == right else [f"__all__ should be {right}"]
    return []


def test_files_of_the_package_are_short_enough_to_be_read() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE}
    assert {path: length for path, length in lengths.items() if length > LINES_PER_FILE_MAX} == {}


def test_lines_of_code_are_tidy() -> None:
    assert wrong_in(CODE, lambda source, _: untidy_lines(source) + swallowing_handlers(source)) == {}
    assert wrong_in(CODE, lambda source, _: ["no end of line"] if source and not source.endswith("\n") else []) == {}


def test_functions_are_short_enough_to_be_understood() -> None:
    def measure(source: str, path: Path) -> list[str]:
        return (long_functions if path.suffix in (".py", ".pyi") else long_cython_functions)(source)

    assert wrong_in(PACKAGE, measure) == {}


def test_the_package_does_not_print_and_its_public_names_are_in_order() -> None:
    in_python = [path for path in PACKAGE if path.suffix == ".py"]
    assert wrong_in(in_python, lambda source, path: prints(source, path.relative_to(PROJECT).as_posix())) == {}
    assert wrong_in(in_python, lambda source, _: unsorted_names(source)) == {}


def test_what_the_package_offers_is_what_it_names() -> None:
    submodules = {path.stem for path in PACKAGE} | {path.parent.name for path in PACKAGE}
    offered = {name for name in vars(ldc) if not name.startswith("_")} - submodules
    assert offered == set(ldc.__all__) - {"__version__"}


def test_the_tests_are_no_package() -> None:
    """With it, pytest would put the project's folder on the path, and test the sources, not what is installed."""
    assert not (PROJECT / "tests" / "__init__.py").exists()


# --------------------------------------------------------------------------------------------- checks of all the texts


def foreign_places(text: str) -> list[str]:
    """Return the paths that exist on one machine only, and the registries that only one network has."""
    path = r"(?<![\w.~*-])/(?:home|root|Users|work|opt|mnt)/\w[\w./-]*"
    host = r"\b(?:py[p]i\.org|python[h]osted\.org|registry\.np[m]js\.org)\b"
    return re.findall(f"{path}|{host}", text)


def test_no_text_names_a_place_of_one_machine() -> None:
    assert wrong_in(TEXTS, lambda text, _: foreign_places(text)) == {}


# ------------------------------------------------------------------------------------------------ checks of documents


def python_blocks(document: str) -> list[tuple[int, str]]:
    """Return (line number, code) of the blocks that say that they are Python."""
    found = re.finditer(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    return [(document.count("\n", 0, block.start()) + 2, block[1]) for block in found]


def needs_of(document: str) -> list[str]:
    """Return the packages that a page says it needs, as in "<!-- needs: pandas>=3 pyarrow -->"."""
    found = re.search(r"^<!-- needs: (.+) -->$", document, re.MULTILINE)
    return found[1].split() if found else []


def run_document(document: str, name: str) -> None:
    """Run the blocks one after another, as a reader would. Annotations may name what was not imported."""
    namespace: dict[str, object] = {"__name__": "__document__"}
    # Another run of the tests on this machine may have the ports that a page names.
    free = defaultdict[str, str](lambda: f"127.0.0.1:{free_port()}")
    for line, code in python_blocks(document):
        with_ports = re.sub(r"127\.0\.0\.1:[1-9]\d{3,4}\b", lambda address: free[address[0]], code)
        in_place = "\n" * (line - 1) + with_ports  # so that a traceback shows the line of the document
        exec(compile(in_place, name, "exec", __future__.annotations.compiler_flag), namespace)


@named(WITH_CODE)
def test_the_code_in_documents_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = path.read_text(encoding="utf-8")
    for needed in needs_of(document):
        name, _, least = needed.partition(">=")
        pytest.importorskip(name, minversion=least or None, reason=f"pip install '{needed}' runs this page")
    run_document(document, str(path))


def long_prose(document: str) -> list[str]:
    """Return the lines of prose that want wrapping.

    Excepted are tables, blocks of code, what a program writes between two marks, and what has no blank to wrap at.
    """
    found = []
    in_code = in_generated = False
    for number, line in enumerate(document.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif re.fullmatch(r"<!-- .*: begin -->", line):
            in_generated = True
        elif re.fullmatch(r"<!-- .*: end -->", line):
            in_generated = False
        elif not in_code and not in_generated and not line.lstrip().startswith("|") and len(line) > COLUMNS_MAX:
            can_wrap = re.search(r"\s", re.sub(r"^\s*(?:[-*]|\d+\.|#+)?\s*", "", line))
            found += [f"line {number}: {len(line)} columns"] if can_wrap else []
    return found


def test_prose_is_wrapped() -> None:
    assert wrong_in(DOCUMENTS, lambda text, _path: long_prose(text)) == {}


def test_the_files_that_documents_link_to_exist() -> None:
    def missing(text: str, path: Path) -> list[str]:
        links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
        return [link for link in links if not (path.parent / link).exists()]

    assert wrong_in(DOCUMENTS, missing) == {}


def test_the_places_that_contributing_names_exist() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`([\w.-]+(?:/[\w.*-]+)*(?:/[\w.*-]+|\.md|\.py|\.yml|file))`", text))
    places = {place for place in places if not place.startswith(("build/", "cli/"))}
    assert len(places) > 20
    suffixes = ("", ".py", ".pyx")
    assert [place for place in places if not any(list(PROJECT.glob(place + suffix)) for suffix in suffixes)] == []


# ---------------------------------------------------------------------------------------- the checks see what they seek


def test_every_file_is_looked_at_and_a_wrong_one_is_named() -> None:
    here = Path(__file__)
    found = wrong_in([PROJECT / "Makefile", here], lambda text, path: ["wrong"] if path == here else [])
    assert found == {"tests/project/test_tidy.py": ["wrong"]}
    assert len(CODE) > 100 < len(TEXTS)
    with pytest.raises(AssertionError, match="were not found"):
        wrong_in([], lambda text, path: [])


@pytest.mark.parametrize(
    "line",
    ["x = 1 ", "\tx = 1", "x" * (COLUMNS_MAX + 1), "# TO" + "DO: later", "except Exception: pass"],
)
def test_an_untidy_line_is_found(line: str) -> None:
    assert len(untidy_lines(f"first = 1\n{line}\nlast = 1\n")) == 1


def test_a_handler_that_swallows_everything_is_found() -> None:
    tidy_up = "try:\n    f()\nexcept BaseException:\n    g()\n\n    raise\nh()\n"
    assert swallowing_handlers(tidy_up) == []
    assert swallowing_handlers(tidy_up.replace("    raise\n", "")) == ["line 3: swallows everything"]
    assert swallowing_handlers("if x:\n    try:\n        f()\n    except:\n        g()\nraise\n") != []


def test_a_long_function_is_found() -> None:
    body = "    a = 1\n" * LINES_PER_FUNCTION_MAX
    assert long_functions(f"def f():\n{body}") == ["f: 61 lines"]
    assert long_functions(f"def f():\n    '''Long\n\n    contract.\n    '''\n{body[10:]}") == []
    assert long_cython_functions(f"cdef inline int f(int x) noexcept nogil:\n{body}\ncdef int g():\n    pass\n") == [
        "f: 61 lines"
    ]
    assert long_cython_functions(f"class A:\n    def f(self):\n    {body[10:]}") == []


def test_printing_is_found() -> None:
    assert prints("def f():\n    print(1)\n", "ldc/x.py") == ["line 2: prints"]


def test_disorder_in_the_public_names_is_found() -> None:
    assert unsorted_names('__all__ = ["LIMIT", "Book", "read"]') == []
    assert unsorted_names('__all__ = ["Book", "LIMIT"]') == ["__all__ should be ['LIMIT', 'Book']"]


def test_a_place_of_one_machine_is_found() -> None:
    assert len(foreign_places("see /hom" + "e/me/file, or ask py" + "pi.org")) == 2
    assert foreign_places("GET /api/v3/depth, ../shared/captures, https://example.org/work/x") == []


def test_a_long_line_of_prose_is_found() -> None:
    long = "word " * 30
    assert long_prose(f"short\n{long}\n- {long}\n") == ["line 2: 150 columns", "line 3: 152 columns"]
    link = "- [page](" + "x" * COLUMNS_MAX + ")"
    generated = f"<!-- figures: begin -->\n{long}\n<!-- figures: end -->"
    assert long_prose(f"| {long} |\n```\n{long}\n```\n{link}\n{generated}\n") == []
    assert long_prose(f"{generated}\n```\n```\n{long}") == ["line 6: 150 columns"]


def test_broken_code_in_a_document_is_found() -> None:
    with pytest.raises(AssertionError):
        run_document("Text.\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "document.md")
