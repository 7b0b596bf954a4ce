"""The command line as users run it: arguments, exit status, lines, the view in a real terminal, Ctrl-C."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import cli_kit
import pytest
from cli_kit import Program, frames

import ldc
from ldc.cli.completion import SHELLS
from ldc.cli.main import KINDS, main, make_parser
from ldc.cli.plain import FIELDS
from ldc.cli.signals import Interruption
from ldc.cli.watch import ExitStatus, selected_by

on_terminals = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

WITHOUT_RICH = "import sys; sys.modules['rich'] = None\n"
WITHOUT_AIOHTTP = "import sys; sys.modules['aiohttp'] = None\n"


# ------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["watch"], "MARKET"),
        (["fly"], "invalid choice"),
        (["watch", "BTCUSDT", "--seconds", "0"], "no positive number"),
        (["watch", "BTCUSDT", "--seconds", "nan"], "no positive number"),
        (["watch", "BTCUSDT", "--seconds", "soon"], "--seconds"),
        (["watch", "BTCUSDT", "--levels", "0"], "not 1 or more"),
        (["demo", "--exchange", "moon"], "invalid choice"),
        (["completion", "moon"], "invalid choice"),
        (["simulate", "--port", "70000"], "no port"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_says_what_is_wrong(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == ExitStatus.USAGE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["watch", "BTC/USDT"], "cannot be a market"),
        (["watch", "BTCUSDT", "--exchange", "moon"], "the exchanges are binance.com"),
        (["watch", "BTCUSDT", "--update-interval", "7"], "choose one of 100, 1000"),
        (["watch", "BTCUSDT", "--websocket-base-uri", "http://x"], "ws://"),
        (["watch", "BTCUSDT", "--proxy", "moon://x"], "proxy is a URL"),
        (["demo", "NOPE"], "'NOPE' cannot be a market"),
        (["demo", "BTCUSDT", "--count", "2"], "not both"),
        (["demo", "--fault", "moon"], "there is no fault 'moon'; the faults are drop"),
        (["demo", "--fault", "drop:2"], "probability"),
        (["simulate", "--exchange", "moon"], "the exchanges are binance.com"),
        (["simulate", "NOPE"], "'NOPE' cannot be a market"),
    ],
)
def test_errors_of_the_parts_are_status_2_too_with_their_messages(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("ldc: ")
    assert said.count("\n") == 1


def test_the_version_says_which_order_book_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ldc {ldc.__version__} ({ldc.IMPLEMENTATION})\n"


def test_help_documents_every_field_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["watch", "--help"])
    text = capsys.readouterr().out
    for name in FIELDS:
        assert f"\n  {name} " in text
    for status in ExitStatus:
        assert f"\n  {status.value} " in text


def test_help_of_the_program_has_examples_that_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.partition("examples:")[2].splitlines()
    examples = [line.split("   ")[0].partition(" | ")[0].split()[1:] for line in lines if line.startswith("  ldc ")]
    assert len(examples) > 5
    for example in examples:
        make_parser().parse_args(example)


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        (["demo", "BTCUSDT"], ["demo", "--market", "BTCUSDT"]),
        (
            ["demo", "--exchange", "simulator-futures", "--count", "3"],
            ["demo", "--exchange-kind", "futures", "--markets", "3"],
        ),
        (["simulate", "BTCUSDT", "--exchange", "x"], ["simulate", "--markets", "BTCUSDT", "--venue", "x"]),
        (["node", "A", "B", "--cluster", "c"], ["node", "--cluster", "c", "--markets", "A,B"]),
    ],
)
def test_words_of_earlier_versions_are_accepted(arguments: list[str], meaning: list[str]) -> None:
    def said(line: list[str]) -> dict[str, object]:
        options = vars(make_parser().parse_args(line))
        texts = [*options.get("named", []), *options.get("market", []), *options["markets"]]
        kind = KINDS.get(options.pop("exchange_kind", None), options["exchange"])
        names = [name for text in texts for name in text.split(",")]
        return {"exchange": kind, "names": names, "count": options.get("count")}

    assert said(arguments) == said(meaning)


@pytest.mark.parametrize("command", ["watch", "demo", "simulate", "serve", "feed", "node"])
def test_every_command_names_markets_and_exchange_by_the_same_words(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "[MARKET ...]" in text
    assert "--exchange" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ldc", "wa"], ["watch"]),
        (["ldc", "demo", "--co"], ["--count"]),
        (["ldc", "watch", "BTCUSDT", "--exchange", "binance.us"], ["binance.us"]),
        (["ldc", "demo", "--exchange-k"], []),
    ],
)
def test_bash_completes_commands_options_and_exchanges(
    typed: list[str], offered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == ExitStatus.SYNCHRONIZED
    words = f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; _ldc; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    script = capsys.readouterr().out + words
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_has_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == ExitStatus.SYNCHRONIZED
    script = capsys.readouterr().out
    assert all(command in script for command in ("watch", "demo", "simulate", "feed", "serve", "node", "completion"))
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, capture_output=True)


def test_output_does_not_die_of_an_encoding() -> None:
    code = "import os, sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')\n" + cli_kit.RUN
    with Program("demo", "币安人生USDT", "--seconds", "2", code=code) as program:
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert b"market=\\u5e01" in program.written
        assert program.errors() == ""


def test_a_taken_port_is_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["simulate", "--port", str(taken.getsockname()[1])]) == ExitStatus.UNAVAILABLE
    assert capsys.readouterr().err.startswith("ldc: ")


# ----------------------------------------------------------------------------------------------------------- lines


def test_seconds_end_it_and_the_lines_are_one_a_second_and_market_and_need_no_rich() -> None:
    with Program("demo", "--count", "2", "--seconds", "3.2", code=WITHOUT_RICH + cli_kit.RUN) as program:
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert [line["market"] for line in program.lines] == ["BTCUSDT", "ETHUSDT"] * 4
        assert all(list(line) == list(FIELDS) for line in program.lines)
        for line in program.lines[-2:]:
            assert line["state"] == "SYNCHRONIZED"
            assert float(line["bid"]) < float(line["ask"])
        assert program.errors() == ""


def test_an_unknown_market_ends_it_at_once_with_status_1_and_an_error() -> None:
    with Program("watch", "NOPE", "--exchange", "simulator") as program:
        assert program.end() == ExitStatus.OUT_OF_SYNC
        assert program.lines[-1]["state"] == "FAILED"
        assert program.lines[-1]["cause"] == "UNKNOWN_MARKET"
        said = program.errors().splitlines()[-1]
        assert "'NOPE'" in said
        assert ".." not in said


def test_an_exchange_that_does_not_answer_is_status_1_and_no_number_is_shown() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # reserved, without a listener
        port = bound.getsockname()[1]
        uris = ["--restful-base-uri", f"http://127.0.0.1:{port}", "--websocket-base-uri", f"ws://127.0.0.1:{port}"]
        with Program("watch", "BTCUSDT", "--seconds", "0.2", *uris) as program:
            assert program.end() == ExitStatus.OUT_OF_SYNC
            [line] = program.lines
            assert (line["state"], line["cause"], line["bid"]) == ("IDLE", "NOT_LOADED", "-")
            assert "Traceback" not in program.errors()


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.check)])
def test_a_signal_ends_it_cleanly_with_a_last_line_and_the_same_status(name: str) -> None:
    with Program("demo") as program:
        program.read_until(lambda written: b"state=SYNCHRONIZED" in written)
        before = len(program.lines)
        program.interrupt(signal.Signals[name])
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert len(program.lines) > before
        assert program.errors() == ""


def test_a_closed_pipe_ends_it_cleanly() -> None:
    with Program("demo") as program:
        program.read_until(lambda written: b"state=SYNCHRONIZED" in written)
        assert program.process.stdout is not None
        program.process.stdout.close()
        assert program.process.wait(cli_kit.GIVE_UP_S) == ExitStatus.SYNCHRONIZED
        assert program.errors() == ""


@pytest.mark.check
def test_a_fault_fires_when_the_markets_are_in_sync_and_the_lines_show_the_resync() -> None:
    with Program("demo", "--fault", "drop", "--seed", "7") as program:
        program.read_until(lambda written: b"resyncs_by_cause=GAP:1" in written)
        assert program.lines[0]["resyncs"] == "0"
        program.interrupt()
        program.end()
        assert "BTCUSDT is out of sync (GAP)" in program.errors()


def test_a_simulated_exchange_can_be_watched_from_another_process() -> None:
    with Program("simulate", "--port", "0", "--exchange", "binance.com-futures") as exchange:
        said = exchange.read_until(lambda written: b"curl" in written).decode()
        [watch] = [line.split() for line in said.splitlines() if line.strip().startswith("ldc watch")]
        with Program(*watch[1:], "--seconds", "3") as program:
            assert program.end() == ExitStatus.SYNCHRONIZED
            assert program.lines[-1]["market"] == "BTCUSDT"
        exchange.interrupt()
        assert exchange.end() == 0
        assert exchange.errors() == ""
        assert b"connects 1" in exchange.written


# --------------------------------------------------------------------------------------------------- missing extras


@on_terminals
def test_a_view_without_rich_is_plain_lines_and_says_what_to_install() -> None:
    with Program("demo", "--seconds", "3", terminal=(80, 24), code=WITHOUT_RICH + cli_kit.RUN) as program:
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert b"market=BTCUSDT" in program.written
        said = program.errors()
        assert "pip install rich" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [("demo",), ("simulate",)])
def test_an_embedded_exchange_without_aiohttp_is_status_3_and_names_the_package(arguments: tuple[str, ...]) -> None:
    with Program(*arguments, code=WITHOUT_AIOHTTP + cli_kit.RUN) as program:
        assert program.end() == ExitStatus.UNAVAILABLE
        said = program.errors()
        assert "pip install aiohttp" in said
        assert said.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- terminals


@on_terminals
def test_a_view_fills_the_terminal_follows_its_size_and_ends_at_ctrl_c() -> None:
    with Program("demo", terminal=(80, 24)) as program:
        written = program.read_until(lambda written: any("in sync" in frame[0] for frame in frames(written)))
        assert b"\x1b[?1049h" in written
        frame = frames(written)[-1]
        assert [len(line) for line in frame] == [80] * 24
        assert any("spread" in line for line in frame)

        program.resize(132, 43)
        written = program.read_until(lambda written: any(len(frame) == 43 for frame in frames(written)))
        assert [len(line) for line in frames(written)[-1]] == [132] * 43
        program.resize(50, 12)
        program.read_until(lambda written: frames(written) and len(frames(written)[-1]) == 12)

        program.press(b"\x03")
        assert program.end() == ExitStatus.SYNCHRONIZED
        screen, _, after = program.written.partition(b"\x1b[?1049l")
        assert screen
        assert b"\x1b[?25h" in after + screen[-20:]
        assert b"BTCUSDT: SYNCHRONIZED at update id" in after
        assert program.errors() == ""


@on_terminals
def test_the_first_line_says_how_long_the_others_will_take_until_all_can_be_read() -> None:
    simulator = pytest.importorskip("ldc.simulator")
    with simulator.SimulatedExchange(["BTCUSDT", "ETHUSDT"], seed=1) as exchange:
        exchange.inject("snapshot_slow", market="ETHUSDT", duration_s=4.0)
        uris = ("--restful-base-uri", exchange.restful_base_uri, "--websocket-base-uri", exchange.websocket_base_uri)
        with Program("watch", "BTCUSDT", "ETHUSDT", *uris, terminal=(100, 24)) as program:
            program.read_until(lambda written: any("1 of 2" in frame[0] for frame in frames(written)))
            program.read_until(lambda written: any(" left" in frame[0] for frame in frames(written)))
            program.read_until(lambda written: any("2 markets in sync" in frame[0] for frame in frames(written)))
            assert " left" not in frames(program.written)[-1][0]
            program.press(b"q")
            assert program.end() == ExitStatus.SYNCHRONIZED


@on_terminals
def test_keys_show_one_market_alone_and_all_again() -> None:
    with Program("demo", "BTCUSDT", "ETHUSDT", terminal=(120, 30)) as program:

        def shows(*names: str) -> None:
            def has(written: bytes) -> bool:
                text = "\n".join(frames(written)[-1][1:-1]) if frames(written) else ""
                return {name for name in ("BTCUSDT", "ETHUSDT") if name in text} == set(names)

            program.read_until(has)

        shows("BTCUSDT", "ETHUSDT")
        program.press(b"n")
        shows("BTCUSDT")
        program.press(b"n")
        shows("ETHUSDT")
        program.press(b"A")
        shows("BTCUSDT", "ETHUSDT")
        program.press(b"q")
        program.end()
        assert program.errors() == ""


@pytest.mark.parametrize(
    ("keys", "selected"), [("n", 0), ("nn", 1), ("nnn", 2), ("nnnn", 0), ("p", 2), ("pp", 1), ("na", None), ("x", None)]
)
def test_which_market_keys_select(keys: str, selected: int | None) -> None:
    shown = None
    for key in keys:
        shown = selected_by(key, shown, 3)
    assert shown == selected


@on_terminals
def test_the_last_line_of_a_view_repeats_the_error() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # reserved, without a listener
        port = bound.getsockname()[1]
        uris = ["--restful-base-uri", f"http://127.0.0.1:{port}", "--websocket-base-uri", f"ws://127.0.0.1:{port}"]
        with Program("watch", "BTCUSDT", *uris, terminal=(100, 24)) as program:
            program.read_until(lambda written: b"refused" in written)
            program.press(b"q")
            assert program.end() == ExitStatus.OUT_OF_SYNC
            last = program.written.partition(b"\x1b[?1049l")[2].decode()
            assert "BTCUSDT: IDLE (NOT_LOADED)" in last
            assert "cannot connect to" in last


def fresh_terminal() -> list[object]:
    import pty
    import termios

    outside, inside = pty.openpty()
    try:
        return termios.tcgetattr(outside)
    finally:
        os.close(inside)
        os.close(outside)


@on_terminals
def test_the_key_q_ends_the_view_and_the_terminal_is_restored() -> None:
    import termios

    before = fresh_terminal()  # of another terminal, because the program may have changed this one already
    with Program("demo", terminal=(80, 24)) as program:
        program.read_until(lambda written: any("in sync" in frame[0] for frame in frames(written)))
        assert not termios.tcgetattr(program.output)[3] & termios.ECHO
        program.press(b"x\nq")
        program.read_until(lambda written: b"\x1b[?1049l" in written and b"at update id" in written)
        assert termios.tcgetattr(program.output) == before
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert program.errors() == ""


@pytest.mark.check
@on_terminals
def test_the_view_shows_a_resync_happening() -> None:
    faults = ["--fault", "drop", "--fault", "snapshot_slow~4"]
    with Program("demo", *faults, terminal=(80, 24)) as program:

        def is_lost(written: bytes) -> bool:
            return any("GAP: an update was lost" in line for frame in frames(written) for line in frame)

        def is_back(written: bytes) -> bool:
            drawn = frames(written)
            return bool(drawn) and "in sync" in drawn[-1][0]

        lost = program.read_until(is_lost)
        [frame] = [frame for frame in frames(lost) if any("GAP: an update" in line for line in frame)][:1]
        assert not any("spread" in line for line in frame)
        program.read_until(is_back, since=len(lost))
        program.press(b"\x03")
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert b"1 resync (GAP 1)" in program.written


@pytest.mark.check
@on_terminals
@pytest.mark.parametrize(("arguments", "term"), [(["--plain"], "xterm"), ([], "dumb")])
def test_plain_writes_lines_to_a_terminal_too(arguments: list[str], term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM_OF_TEST", term)
    with Program("demo", "--seconds", "3", *arguments, terminal=(80, 24)) as program:
        assert program.end() == ExitStatus.SYNCHRONIZED
        assert b"\x1b[" not in program.written
        assert program.written.startswith(b"time=")


# ---------------------------------------------------------------------------------------------------------- signals


def test_a_signal_ends_a_wait_and_the_second_one_does_what_it_usually_does() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert not interruption.wait(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.wait(cli_kit.GIVE_UP_S)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no terminals that hang up")
def test_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    """As `nohup ldc watch` needs it: it continues when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.is_requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.wait(cli_kit.GIVE_UP_S)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
