"""Break the rules on purpose, a little at a time, and see whether the tests notice: `make mutants`.

A mutant is one small change of one of the modules that decide: a comparison off by one, a condition negated or ignored,
a call or an assignment left out, a constant changed. Each is tried in a process of its own, which imports the changed
module instead of the file: nothing on the disk changes. First some simulated histories look at it, then the unit tests;
the first objection kills it. What survives is printed, and explained in docs/evidence/runs.md, or it is a hole in the
tests.

    make mutants                                 200 mutants, seed 1
    make mutants ARGS="--count 400 --seed 2"     others
    make mutants ARGS="--only sync.streams --count 0"    all of one module

Which mutants there are depends on the sources and the seed only. Ends with 1 if fewer than 95 % died.
"""

import argparse
import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
TESTS = PROJECT / "tests"

MODULES = (
    "sequence", "limits",
    "sync.machine", "sync.streams", "sync.numbering", "sync.gap", "sync.retry", "sync.actions", "sync.buffer",
    "sync.plausibility", "sync.refresh",
)  # fmt: skip

KILLED_SHARE_MIN = 0.95
SEEDS = range(120)
TRIAL_CPU_S_MAX = 60
"""A mutant that computes for longer hangs, and counts as killed."""

TRIAL_S_MAX = 600.0
"""So does one that takes longer in all: it waits for something. It is much more, for the machine may be busy otherwise,
and a mutant that was only slow would be called dead."""

MEMORY_BYTES_MAX = 4 << 30
SYNCHRONIZER_TESTS = tuple(
    f"sync/test_{name}.py"
    for name in (
        "machine", "actions", "buffer", "streams", "numbering", "gap", "retry", "plausibility",
        "machine_streams", "machine_faults", "refresh",
    )
)  # fmt: skip
UNIT_TESTS = {
    "sequence": ("ground/test_sequence.py", "book/test_book_apply.py", *SYNCHRONIZER_TESTS),
    "limits": ("ground/test_limits.py", "snapshots/test_queue.py"),
}
ENDS = ("survived", "killed by a history", "killed by a unit test", "killed: not even importable", "killed: it hangs")

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One change."""

    module: str
    line: int
    what: str
    before: str
    after: str
    source: str
    """Of the whole module, changed."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.what}: {self.before}  ->  {self.after}"


# ---------------------------------------------------------------------------------------------------- making mutants


def changes_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what can stand instead of a node, each with a name."""
    yield from changes_of_statement(node) if isinstance(node, ast.stmt) else changes_of_expression(node)


def changes_of_expression(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(left, operators, rights):
            for place, operator in enumerate(operators):
                others = [*operators[:place], _COMPARED[type(operator)](), *operators[place + 1 :]]
                yield "comparison", ast.Compare(left, others, rights)
        case ast.BoolOp(operator, values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield "not left out", operand
        case ast.BinOp(left, operator, right) if type(operator) in _CALCULATED:
            yield "calculation", ast.BinOp(left, _CALCULATED[type(operator)](), right)
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.Call(ast.Name(name), arguments, keywords) if name in _CALLED:
            yield "call", ast.Call(ast.Name(_CALLED[name], ast.Load()), arguments, keywords)
        case ast.IfExp(test, body, orelse):
            yield "condition negated", ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)


def changes_of_statement(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.If(test, body, orelse):
            yield "condition ignored", ast.If(ast.Constant(True), body, orelse)
            yield "condition never", ast.If(ast.Constant(False), body, orelse)
            if not isinstance(test, ast.Compare | ast.UnaryOp):
                yield "condition negated", ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Continue():
            yield "left out", ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()], _):
            yield "left out", ast.Pass()


def changeable(node: ast.AST, *, is_inside: bool = False) -> Iterator[ast.AST]:
    """Yield the nodes of function bodies; not what checks itself, explains, or says a type."""
    if isinstance(node, ast.Assert | ast.AnnAssign | ast.Raise):
        return
    if is_inside:
        yield node
    is_function = isinstance(node, ast.FunctionDef)
    for name, field in ast.iter_fields(node):
        if name in ("decorator_list", "returns", "annotation", "args" if is_function else "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from changeable(child, is_inside=is_inside or (is_function and name == "body"))


def replaced(tree: ast.AST, old: ast.AST, new: ast.AST) -> str:
    """Return the source of a tree in which one node stands for another."""

    class Replacing(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return ast.copy_location(new, node) if node is old else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Replacing().visit(tree)))


def mutants_of(module: str) -> Iterator[Callable[[], Mutant]]:
    """Yield a maker for each mutant of a module; a maker, because there are many more than will be tried."""
    source = (PROJECT / "ldc" / f"{module.replace(chr(46), chr(47))}.py").read_text(encoding="utf-8")
    count = 0
    for node in changeable(ast.parse(source)):
        count += sum(1 for _ in changes_of(node))

    def make(number: int) -> Mutant:
        tree = ast.parse(source)
        found = [(node, change) for node in changeable(tree) for change in changes_of(node)]
        node, (what, new) = found[number]
        before, line = _short(node), node.lineno
        return Mutant(module, line, what, before, _short(new), replaced(tree, node, new))

    for number in range(count):
        yield lambda number=number: make(number)


def _short(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0][:90]


def chosen(modules: tuple[str, ...], count: int, seed: int) -> list[Mutant]:
    """Return so many mutants, drawn by lot; 0: all there are."""
    makers = [maker for module in modules for maker in mutants_of(module)]
    if count:
        makers = random.Random(seed).sample(makers, min(count, len(makers)))
    return [maker() for maker in makers]


# ---------------------------------------------------------------------------------------------------- trying mutants


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a text."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, f"<mutant of {self.name}>", "exec"), module.__dict__)


def judge(mutant: Mutant) -> int:
    """Try a mutant in this process, which ends afterwards; return a place in ENDS."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (TRIAL_CPU_S_MAX, TRIAL_CPU_S_MAX))
    sys.meta_path.insert(0, _Instead(f"ldc.{mutant.module}", mutant.source))
    if mutant.module == "sequence":
        os.environ["LDC_PURE_PYTHON"] = "1"  # the compiled book has rules of its own
    try:
        from history import run_seed

        import ldc.book
        import ldc.sync.machine
    except Exception:
        return 3
    try:
        for seed in SEEDS[:: 3 if ldc.book.IMPLEMENTATION == "python" else 1]:
            run_seed(seed, ldc.book)
    except Exception:
        return 1
    import pytest

    tests = [str(TESTS / name) for name in UNIT_TESTS.get(mutant.module, SYNCHRONIZER_TESTS)]
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "--no-header",
        "--rootdir",
        str(PROJECT),
    ]
    return 0 if pytest.main([*options, "-m", "not check", *tests]) == 0 else 2


def try_in_a_child(mutant: Mutant) -> int:
    """Begin to try a mutant; return the child's process id."""
    child = os.fork()
    if child:
        return child
    end = 4
    try:
        with (
            Path(os.devnull).open("w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            end = judge(mutant)
    finally:
        os._exit(end)


def tried(mutants: list[Mutant], processes: int, told: Callable[[Mutant, int], None]) -> None:
    """Try all mutants, so many at a time."""
    waiting = mutants[::-1]
    running: dict[int, tuple[Mutant, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            mutant = waiting.pop()
            running[try_in_a_child(mutant)] = mutant, time.monotonic()
        for child, (mutant, began) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del running[child]
                told(mutant, os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 4)
            elif time.monotonic() - began > TRIAL_S_MAX:
                os.kill(child, signal.SIGKILL)
        signal.sigtimedwait([signal.SIGCHLD], 0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="how many, drawn by lot; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-least", type=float, default=KILLED_SHARE_MIN, help="the share that must die")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many of them: to go on")
    parser.add_argument("--only", choices=MODULES, help="of this module only")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    sys.path[:0] = [str(TESTS / "kits"), str(TESTS / "tools")]
    import hypothesis  # noqa: F401 - once, instead of in every child
    import pytest  # noqa: F401

    assert not any(name.split(".")[0] == "ldc" for name in sys.modules), "a child must import ldc itself"
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for module in ("sequence", "sync.machine", "limits"):
        source = (PROJECT / "ldc" / f"{module.replace(chr(46), chr(47))}.py").read_text(encoding="utf-8")
        _, status = os.waitpid(try_in_a_child(Mutant(module, 0, "nothing", "", "", source)), 0)
        assert status == 0, (
            f"without a mutant the tests of {module} must pass: {ENDS[os.waitstatus_to_exitcode(status)]}"
        )
    mutants = chosen((arguments.only,) if arguments.only else MODULES, arguments.count, arguments.seed)[
        arguments.skip :
    ]
    ends: Counter[str] = Counter()
    survivors: list[Mutant] = []
    began = time.monotonic()

    def told(mutant: Mutant, end: int) -> None:
        ends[ENDS[end]] += 1
        if end == 0:
            survivors.append(mutant)
            print(f"survived: {mutant}", flush=True)
        elif sum(ends.values()) % 20 == 0:
            print(f"{sum(ends.values())} of {len(mutants)}, {len(survivors)} alive", flush=True)

    tried(mutants, arguments.processes, told)
    share = 1 - len(survivors) / len(mutants)
    print("\n".join(f"{count:5} {end}" for end, count in ends.most_common()))
    print(
        f"{len(mutants)} mutants of {arguments.only or 'all the rules'}, seed {arguments.seed}: "
        f"{100 * share:.1f} % died, in {time.monotonic() - began:.0f} s"
    )
    return 0 if share >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
