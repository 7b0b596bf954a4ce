"""The examples run, against the embedded exchange, as their users start them.

examples/test_market_maker.py is itself a test, and is collected with these.
"""

import csv
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from live_kit import no_thread_is_left  # noqa: F401 - used by its name
from loopback_exchange import PATIENCE_S

pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    """Run an example in this process, with these arguments."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


@pytest.fixture
def printed(capsys):
    """Run an example; return the lines that it printed."""

    def run_and_read(name, *arguments):
        run(name, *arguments)
        return capsys.readouterr().out.splitlines()

    return run_and_read


def test_each_example_is_tried_here():
    tried = set(re.findall(r'(?:printed|run|started)\(\s*"(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("test_")} == tried


def test_top_of_book(printed):
    lines = printed("top_of_book", "BTCUSDT", "--updates", 3)
    tops = [re.fullmatch(r"(\d+) +[\d.]+ x ([\d.]+) +([\d.]+) x [\d.]+", line) for line in lines]
    assert len(tops) == 3
    assert all(float(top[2]) < float(top[3]) for top in tops)
    assert int(tops[0][1]) < int(tops[2][1])


def test_many_markets(printed):
    lines = printed("many_markets", "--rounds", 3, "--interval", 0.3)
    assert len(lines) == 3
    assert all(re.match(r"\d+ of 20 in sync   widest: ", line) for line in lines)


def test_many_markets_names_what_does_not_exist(printed):
    lines = printed("many_markets", "NOSUCHMARKET", "--rounds", 12, "--interval", 0.3)
    assert any("NOSUCHMARKET: " in line and "-1121" in line for line in lines)


def test_a_market_maker(printed):
    lines = printed("market_maker", "ETHUSDT", "--steps", 3)
    assert re.fullmatch(r"quote  [\d.]+ / [\d.]+", lines[0])
    assert lines[-1] == "cancel: the bot ends"


def test_spot_futures_arbitrage(printed):
    lines = printed("spot_futures_arbitrage", "--updates", 3)
    assert any(re.match(r"(TRADE|wait)  buy (spot, sell futures|futures, sell spot): [+-]", line) for line in lines)


def test_a_market_maker_in_asyncio(printed):
    lines = printed("async_market_maker", "BTCUSDT", "ETHUSDT", "--updates", 12)
    assert re.fullmatch(r"quote  (BTC|ETH)USDT [\d.]+ / [\d.]+", lines[0])
    assert {line.split()[1] for line in lines} >= {"BTCUSDT", "ETHUSDT"}
    assert lines[-1].startswith("cancel ")


def test_an_arbitrage_by_callbacks(printed):
    lines = printed("callback_arbitrage", "--fees", -1, "--trades", 3)
    assert [bool(re.match(r"TRADE  buy (spot, sell futures|futures, sell spot): ", line)) for line in lines[:3]] == [
        True
    ] * 3
    assert all(re.fullmatch(r"\d+ calls, the slowest took [\d.]+ ms", line) for line in lines[3:])
    assert len(lines) == 5


def test_recording_tops(printed):
    rows = list(csv.DictReader(io.StringIO("\n".join(printed("record_tops", "BTCUSDT", "ETHUSDT", "--lines", 6)))))
    assert len(rows) == 6
    assert {row["market"] for row in rows} == {"BTCUSDT", "ETHUSDT"}
    assert all(float(row["bid"]) < float(row["ask"]) and row["out_of_sync"] == "" for row in rows)


def test_a_book_as_arrays(printed):
    pytest.importorskip("numpy")
    lines = printed("book_as_arrays", "--quantity", 0.5)
    assert re.fullmatch(r"\d+ bids, [\d.]+ of them within 0.1 % of the best", lines[0])
    [buy], [sell] = (re.findall(rf"^{side} 0.5: ([\d.]+)$", "\n".join(lines), re.MULTILINE) for side in ("buy", "sell"))
    assert float(sell) < float(buy)


def test_a_book_as_a_table(printed):
    pytest.importorskip("pandas", reason="pip install pandas runs this test")
    lines = printed("book_as_arrays", "--pandas")
    assert lines[-6].split() == ["price", "quantity", "total"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="there, Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_an_example_without_a_traceback():
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-P", str(EXAMPLES / "top_of_book.py")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as example:  # fmt: skip
        give_up = threading.Timer(3 * PATIENCE_S, example.kill)  # on a busy machine it takes long to begin
        give_up.start()
        try:
            assert re.match(r"\d+ ", example.stdout.readline())
            example.send_signal(signal.SIGINT)
            rest = example.stdout.read()
            assert example.wait() == 0
        finally:
            give_up.cancel()
    assert rest.splitlines()[-1] == "stopped"
    assert "Traceback" not in rest
