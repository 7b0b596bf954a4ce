"""The fifteen short programs run, type-check without a cast, and are shorter than those of other libraries.

What other libraries need for the same lies in examples/short/peers. Those are read and counted here, not run.
"""

import ast
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_kit import no_thread_is_left  # noqa: F401 - used by its name

pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")

PROJECT = Path(__file__).parents[2]
SHORT = PROJECT / "examples" / "short"
PROGRAMS = sorted(SHORT.glob("*.py"))

PRINTS = {
    "a_top_of_five": r"(?s)(?=.*\bBTCUSDT)(?=.*\bXRPUSDT)(\w+USDT [\d.]+ [\d.]+\n){5,}",
    "b_asyncio_bot": r"(?s)(?=.*quote BTCUSDT [\d.]+ [\d.]+\n)(quote \w+ [\d.]+ [\d.]+\n){3,}",
    "c_callback": r"BTCUSDT \d+ \[\([\d.]+, [\d.]+\), .+\n(BTCUSDT \d+ \[.*\] \[.*\] 0\n)+",
    "d_prices": r"buy 2 at [\d.]+\nPrices\(mid=Decimal.+\)\nimbalance -?[\d.]+\n",
    "e_record": r"best bid [\d.]+ at update \d+\n",
    "f_spot_and_futures": r"buy spot \[\[[\d., ]+\]\] sell futures \[\[[\d., ]+\]\]\n",
    "g_many_markets": r"Progress\(synchronized=20, failed=0, total=20, seconds_left=0.0\)\n",
    "h_arrays": r"\d+ [\d.]+ [\d.]+\n",
    "i_other_process": r"the other process sees \([\d.]+, [\d.]+\)\n\n",
    "j_prometheus": r'(?s).*ldc_book_synchronized\{exchange="simulator",market="BTCUSDT"\} 1.0\n.*',
    "k_test_of_a_strategy": r"\{'GAP': 1\}\n",
    "l_ubldc": r"(\[(\[[\d., ]+\](, )?)+\]\n){2}",
    "m_errors": r"There is no exchange 'binanceusdm'.*\n.*did you mean 'BTCUSDT'\?.*\n(.*NOT_LOADED.*\n)?",
    "n_notebook": r"BookView\(bids=.+\)\n",
}
"""Program -> what it prints. o_sigterm has a test of its own."""

NEEDS = {"h_arrays": "numpy", "j_prometheus": "prometheus_client"}

BOTS = [
    "async_market_maker", "callback_arbitrage", "market_maker", "record_tops", "spot_futures_arbitrage", "top_of_book",
]  # fmt: skip
"""Ordinary bots beside the fifteen."""

UNTYPED = "l_ubldc"
"""It imports a single module, which by PEP 561 cannot say that it is typed; `ldc` says so."""


def lines_of_code(file: Path) -> int:
    """Return the number of lines without blank ones, comments and docstrings, in the formatter's layout."""
    text = file.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented) and ast.get_docstring(node)]
    left_out = {line for node in nodes for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    numbered = enumerate(text.splitlines(), 1)
    return sum(bool(re.match(r"\s*[^\s#]", line)) and number not in left_out for number, line in numbered)


def test_there_are_fifteen():
    assert [path.stem[0] for path in PROGRAMS] == list("abcdefghijklmno")
    assert {path.stem for path in PROGRAMS} == {*PRINTS, "o_sigterm"}


@pytest.mark.parametrize("name", PRINTS)
def test_a_short_program_prints_what_it_is_for(name, monkeypatch, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.setattr(sys, "argv", [name, "20"])
    runpy.run_path(str(SHORT / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.fullmatch(PRINTS[name], printed), printed


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_the_program_that_ends_at_sigterm_does():
    program = [sys.executable, "-P", "-W", "error", str(SHORT / "o_sigterm.py")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bot:
        try:
            assert re.match(r"BTCUSDT \d+\n", bot.stdout.readline())
            bot.send_signal(signal.SIGTERM)
            _, errors = bot.communicate(timeout=60)
        finally:
            bot.kill()
    assert (bot.returncode, errors) == (1, "stopped by SIGTERM\n")


def test_each_is_shorter_than_its_best_peer_s_and_the_page_has_the_counts():
    page = (PROJECT / "docs" / "how-to" / "short-programs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]+\| `(\w+)\.py` \| (\d+) \| [^|]+ \| (\d+|–) \|$", page, re.MULTILINE)
    counted = {path.stem: lines_of_code(path) for path in PROGRAMS}
    of_peers = {path.stem: lines_of_code(path) for path in (SHORT / "peers").glob("*.py")}
    assert {name: int(lines) for name, lines, _ in rows} == counted
    assert {name: int(lines) for name, _, lines in rows if lines != "–"} == of_peers
    assert [name for name in of_peers if counted[name] >= of_peers[name]] == []
    assert set(counted) - set(of_peers) == {"e_record"}  # the page says why


@pytest.mark.check
def test_twenty_ordinary_programs_pass_mypy_strict_without_a_cast(tmp_path):
    """`make lint` runs it, which installs mypy. Outside the project, so that the installed types are what is read."""
    pytest.importorskip("mypy", reason="make lint installs mypy")
    programs = [*(each for each in PROGRAMS if each.stem != UNTYPED)]
    programs += [PROJECT / "examples" / f"{name}.py" for name in BOTS]
    assert len(programs) == 20
    for program in programs:
        text = program.read_text(encoding="utf-8")
        assert re.findall(r"\bcast\(|type: *ignore|\bAny\b", text) == [], program.name
        # One module may not have the name of another; their folder is not on the path.
        (tmp_path / program.name).write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-P", "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.stdout == "Success: no issues found in 20 source files\n", checked.stdout + checked.stderr
