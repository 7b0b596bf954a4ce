"""Break the compiled order book on purpose, a little at a time, and see whether the tests notice: `make mutants-core`.

A mutant is one small change of one line of `ldc/_book.pyx` or `ldc/core/*.pxi`: a comparison off by one or turned
round, a condition that holds always or never, a number off by one, a sum turned into a difference, a statement left
out (a count, a call, a lock). All of them are built into one extension, with the checks of LDC_BUILD=checked; the
environment variable LDC_MUTANT says which one is alive. So the extension is translated and compiled once. Each mutant
is tried by a pytest of its own, with the tests of books, frames and feeds; the first failure kills it, and so does a
crash or a hang. What survives is printed, and explained in docs/evidence/mutants.md, or it is a hole in the tests.

    make mutants-core                                  150 mutants, seed 1
    make mutants-core ARGS="--count 300 --seed 2"      others
    make mutants-core ARGS="--only 17 40"              these two of them

Which mutants there are depends on the sources, the seed and the count only. Ends with 1 if fewer than 92 % died.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "build" / "mutants-core"
KILLED_SHARE_MIN = 0.92
HANGS_FACTOR = 3.0
"""A trial that takes so many times longer than the tests without a mutant hangs, and counts as killed."""

BOOK_TESTS = (
    "book/test_book_apply.py", "book/test_book_snapshot.py", "book/test_book_numbers.py", "book/test_book_reads.py",
    "book/test_book_horizon.py", "book/test_book_compare_adopt.py", "book/test_book_header.py",
    "book/test_book_json.py", "book/test_book_text.py",
    "book/test_book_refusals.py", "book/test_book_lease.py", "book/test_book_retain.py",
    "book/test_allocation_failures.py", "book/test_json_cases.py", "book/test_book_memory.py",
    "book/test_book_threads.py", "book/test_hostile.py", "book/test_book_machine.py",
)  # fmt: skip
FEED_TESTS = (
    "feed/test_native_loop.py", "book/test_frames.py", "feed/test_keepalive.py", "book/test_book_retain.py",
    "consume/test_signal.py", "manager/test_waiting.py", "feed/test_connection.py", "feed/test_tls.py",
)  # fmt: skip
NUMBER_TESTS = ("book/test_book_analytics.py", "book/test_book_arrays.py", "book/test_view_arrow.py", *BOOK_TESTS)
CONSUMER_TESTS = (
    "consume/test_signal.py", "consume/test_update_policies.py", "consume/test_update_histories.py",
    "consume/test_streams.py", "consume/test_manager_consumers.py", *BOOK_TESTS,
)  # fmt: skip
SHARED_TESTS = ("shared/test_share.py", "shared/test_regions.py", "shared/test_processes.py")
TESTS_OF = dict.fromkeys(("frames", "loop", "waiter", "wait", "keepalive"), FEED_TESTS)
TESTS_OF |= dict.fromkeys(("analytics", "arrays", "walks", "wide"), NUMBER_TESTS)
TESTS_OF |= dict.fromkeys(("shared", "mapped"), SHARED_TESTS) | dict.fromkeys(("tls", "openssl"), ("feed/test_tls.py",))
TESTS_OF |= {"commit": ("feed/test_native_loop.py", *BOOK_TESTS)} | dict.fromkeys(("queue", "updates"), CONSUMER_TESTS)
"""By the name of a part; of the others the tests of the book."""

DIRECTIVES = "boundscheck=True,wraparound=False,initializedcheck=True,cdivision=False,binding=True,embedsignature=True"

COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
CALCULATED = {"+": "-", "-": "+"}
_COMPARISON = re.compile(r"(?<=\s)(<=|>=|==|!=|<|>)(?=\s)")
_SUM = re.compile(r"(?<=[\w)\]] )([+-])(?= [\w(])")
_NUMBER = re.compile(r"(?<![\w.\"'-])(\d+)(?![\w.\"'])")
_WORD = re.compile(r"\b(and|or)\b")
_FUNCTION = re.compile(r"\s*(cdef|cpdef|def)\b.*\(|\s*(cdef|cpdef)\s+(inline\s+)?\w.*\($")
_DECLARATION = re.compile(r"cdef\s+[\w\s*]+?\s=\s")
_CHANGED = re.compile(r"[\w.\[\]\->+&* ]*[.\]][\w.\[\]]*\s[+\-*|&^<>]*=\s|\w+\s[+\-]=\s")
_OTHER_WORDS = ("cdef", "raise", "with", "for", "try", "else", "except", "finally", "def", "@", "return")
_CALL = re.compile(r"[\w.]+\(.*\)$")


class Mutant(NamedTuple):
    """One change of one line."""

    file: str
    line: int
    what: str
    before: str
    after: str
    """The line that stands instead; empty: it is left out."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.what}: {self.before}  ->  {self.after or '(left out)'}"


# ---------------------------------------------------------------------------------------------------- making mutants


def sources() -> list[Path]:
    return [PROJECT / "ldc" / "_book.pyx", *sorted((PROJECT / "ldc" / "core").glob("*.pxi"))]


def body_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (index, line) of whole statements inside functions; not texts, declarations and continued lines."""
    is_text, depth, function_indent = False, 0, -1
    for index, line in enumerate(text.splitlines()):
        was_text, was_open = is_text, depth > 0
        if line.count('"""') % 2:
            is_text = not is_text
        if was_text or is_text or '"""' in line:
            continue
        code = line.split("  #")[0].rstrip() if not line.lstrip().startswith("#") else ""
        bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", code)
        depth += sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}"))
        if not code or was_open:
            continue
        indent = len(code) - len(code.lstrip())
        if indent <= function_indent:
            function_indent = -1
        if function_indent < 0 and _FUNCTION.match(code) and "=" not in code.split("(")[0]:
            function_indent = indent
        elif function_indent >= 0 and depth == 0:
            yield index, code


def expressions(text: str) -> Iterator[tuple[str, str]]:
    """Yield what can stand instead of an expression, each with a name."""
    if '"' in text or "'" in text or "lambda" in text:
        return
    for match in _COMPARISON.finditer(text):
        yield "comparison", text[: match.start()] + COMPARED[match[1]] + text[match.end() :]
    for match in _SUM.finditer(text):
        yield "sum", text[: match.start()] + CALCULATED[match[1]] + text[match.end() :]
    for match in _NUMBER.finditer(text):
        yield "number", text[: match.start()] + str(int(match[1]) + 1) + text[match.end() :]
    for match in _WORD.finditer(text):
        other = "or" if match[1] == "and" else "and"
        yield "and/or", text[: match.start()] + other + text[match.end() :]


def mutants_of_line(line: str) -> Iterator[tuple[str, str, str]]:
    """Yield (what, the line that stands instead, how both are written) of a statement."""
    indent, code = line[: len(line) - len(line.lstrip())], line.strip()
    if match := re.match(r"(if|elif|while) (.*):$", code):
        word, condition = match.groups()
        others = list(expressions(condition))
        if word != "while":
            others += [("condition ignored", "True"), ("condition never", "False")]
        for what, other in others:
            yield what, f"{indent}{word} {other}:", f"{indent}{word} (({other}) if MUTANT_IS else ({condition})):"
    elif match := re.match(r"(return) (.+)$", code) or _DECLARATION.match(code):
        head = "return " if code.startswith("return") else match[0]
        value = code[len(head) :]
        if "," not in re.sub(r"\([^()]*\)|\[[^\]]*\]", "", value):
            for what, other in expressions(value):
                yield what, indent + head + other, f"{indent}{head}(({other}) if MUTANT_IS else ({value}))"
    elif not code.startswith(
        ("cdef", "raise", "with", "for", "try", "else", "except", "finally", "def", "@", "return")
    ):
        is_left_out = _CHANGED.match(code) or _CALL.match(code) or code == "continue"
        if is_left_out:
            yield "left out", "", f"{indent}if not MUTANT_IS:\n{indent}    {code}"
        if " = " in code or "= " in code:
            head, equals, value = re.split(r"(= )", code, maxsplit=1)
            for what, other in expressions(value):
                changed = head + equals + other
                yield (
                    what,
                    indent + changed,
                    (f"{indent}if MUTANT_IS:\n{indent}    {changed}\n{indent}else:\n{indent}    {code}"),
                )


def all_mutants() -> dict[tuple[str, int], list[tuple[Mutant, str]]]:
    """Return, by file and line, the mutants and the text with the switch."""
    found: dict[tuple[str, int], list[tuple[Mutant, str]]] = {}
    for path in sources():
        name = path.relative_to(PROJECT / "ldc").as_posix()
        for index, line in body_lines(path.read_text(encoding="utf-8")):
            for what, after, switched in mutants_of_line(line):
                mutant = Mutant(name, index + 1, what, line.strip(), after.strip())
                found.setdefault((name, index), []).append((mutant, switched))
    return found


def chosen(count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Return so many mutants, at most one of a line: a line at random, then one of its changes."""
    found = all_mutants()
    dice = random.Random(seed)
    places = dice.sample(sorted(found), min(count, len(found)))
    return [dice.choice(found[place]) for place in places]


# ---------------------------------------------------------------------------------------------------- building


def write_sources(mutants: dict[int, tuple[Mutant, str]]) -> Path:
    """Write the sources with all switches; return their folder."""
    folder = FOLDER / "sources"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROJECT / "ldc", folder / "ldc", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    for path in sources():
        name = path.relative_to(PROJECT / "ldc").as_posix()
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, (mutant, switched) in mutants.items():
            if mutant.file == name:
                lines[mutant.line - 1] = switched.replace("MUTANT_IS", f"(MUTANT == {number})")
        text = "\n".join(lines) + "\n"
        if name == "_book.pyx":
            head = 'from os import environ as _environ\ncdef int MUTANT = int(_environ.get("LDC_MUTANT", "0"))\n'
            text = text.replace('include "core/native.pxi"', head + 'include "core/native.pxi"', 1)
        (folder / "ldc" / name).write_text(text, encoding="utf-8")
    build = folder / "ldc" / "_build.py"
    build.write_text(build.read_text(encoding="utf-8").replace('"source"', '"checked"'), encoding="utf-8")
    return folder


def translate(folder: Path) -> list[tuple[str, int]]:
    """Translate to C; return the places that Cython refuses."""
    command = [sys.executable, "-m", "cython", "-3", "-X", DIRECTIVES, "ldc/_book.pyx", "-o", "_book.c"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    places = re.findall(r"^(?:.*/)?ldc/(_book\.pyx|core/\w+\.pxi):(\d+):\d+: ", ran.stderr, re.MULTILINE)
    if ran.returncode and not places:
        sys.exit(ran.stderr)
    return [(file, int(line)) for file, line in places] if ran.returncode else []


def numbered_lines(folder: Path, file: str) -> Iterator[tuple[int, int]]:
    """Yield (line, number) for each line of a source with switches that belongs to the mutant of that number."""
    number = 0
    for line, text in enumerate((folder / "ldc" / file).read_text(encoding="utf-8").splitlines(), 1):
        match = re.search(r"MUTANT == (\d+)", text)
        number = int(match[1]) if match else number
        if match or "else:" in text or text.startswith("  "):
            yield line, number


def build(mutants: dict[int, tuple[Mutant, str]]) -> tuple[Path, dict[int, tuple[Mutant, str]]]:
    """Build the extension; return the folder to import it from, and the mutants without those that are no code."""
    while True:
        folder = write_sources(mutants)
        refused = translate(folder)
        if not refused:
            break
        gone = {dict(numbered_lines(folder, file))[line] for file, line in refused} & mutants.keys()
        if not gone:
            sys.exit(f"Cython refuses {refused}, where there is no mutant")
        mutants = {number: each for number, each in mutants.items() if number not in gone}
        print(f"{len(gone)} are no code: {sorted(gone)}", flush=True)
    target = folder / "ldc" / f"_book{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-std=c11", "-DLDC_CHECKED=1", "-UNDEBUG", "-w"]
    command += [f"-I{sysconfig.get_path('include')}", f"-I{PROJECT / 'include'}", "_book.c", "-o", str(target), "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return folder, mutants


# ---------------------------------------------------------------------------------------------------- trying mutants


def tests_of(file: str) -> tuple[str, ...]:
    return TESTS_OF.get(Path(file).stem, BOOK_TESTS)


def tried(number: int, tests: tuple[str, ...], folder: Path, timeout_s: float | None) -> str:
    """Run tests with one mutant alive (0: none); return how it ended."""
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-n", "0"]
    # What is tried with the book in plain Python says nothing of this one.
    command += ["-m", "not check", "-k", "not python", "--rootdir", str(PROJECT)]
    command += [str(PROJECT / "tests" / name) for name in tests]
    environment = os.environ | {"LDC_MUTANT": str(number), "PYTHONPATH": str(folder)}
    log = FOLDER / f"{number}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "killed: it hangs"
    if code == 0:
        return "survived"
    if code in (1, 2, 3):
        return "killed by a test"
    return "killed: it crashes" if code < 0 or code == 139 else "killed: not even importable"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=150, help="how many, chosen at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-least", type=float, default=KILLED_SHARE_MIN, help="the share that must die")
    parser.add_argument("--only", type=int, nargs="+", help="only these of them, by number")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder, mutants = build(dict(enumerate(chosen(arguments.count, arguments.seed), 1)))
    began = time.monotonic()
    usual_s = {}
    for tests in {tests_of(mutant.file) for mutant, _ in mutants.values()}:
        started = time.monotonic()
        if (end := tried(0, tests, folder, None)) != "survived":
            sys.exit(f"without a mutant the tests must pass, see {FOLDER / '0.log'}: {end}")
        usual_s[tests] = time.monotonic() - started
    print(f"{len(mutants)} mutants; without one the tests take {max(usual_s.values()):.0f} s at most", flush=True)
    numbers = [number for number in mutants if arguments.only is None or number in arguments.only]
    ends: Counter[str] = Counter()
    survivors = []
    with ThreadPoolExecutor(arguments.processes) as pool:

        def trial(number: int) -> str:
            tests = tests_of(mutants[number][0].file)
            return tried(number, tests, folder, HANGS_FACTOR * usual_s[tests])

        tries = pool.map(trial, numbers)
        for number, how in zip(numbers, tries, strict=True):
            ends[how] += 1
            if how == "survived":
                survivors.append(number)
                print(f"survived: {number}: {mutants[number][0]}", flush=True)
            if sum(ends.values()) % 20 == 0:
                print(f"{sum(ends.values())} of {len(numbers)}, {len(survivors)} alive", flush=True)
    share = 1 - len(survivors) / len(numbers)
    print("\n".join(f"{count:5} {end}" for end, count in ends.most_common()))
    seconds = time.monotonic() - began
    print(f"{len(numbers)} mutants, seed {arguments.seed}: {100 * share:.1f} % died, in {seconds:.0f} s")
    return 0 if share >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
