"""A console that cannot write a market's name shows it escaped; nothing dies of it."""

import os
import subprocess
import sys

import pytest
from loopback_exchange import LoopbackExchange

from ldc.network.text import writable

CHINESE = "币安人生USDT"
ESCAPED = CHINESE.encode("ascii", "backslashreplace")


def run(encoding: str, *command: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run([sys.executable, "-P", *command], capture_output=True, env=environment, check=False)


def test_a_text_is_written_as_the_encoding_allows():
    assert writable(CHINESE, "utf-8") == writable(CHINESE, None) == CHINESE
    assert writable(CHINESE, "ascii") == ESCAPED.decode()
    assert writable("größer 币", "cp1252") == "größer \\u5e01"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_watching_a_chinese_market_works_on_any_console(encoding):
    with LoopbackExchange() as exchange:
        exchange.add_market(CHINESE)
        uris = ["--restful-base-uri", exchange.restful_base_uri, "--websocket-base-uri", exchange.websocket_base_uri]
        ran = run(encoding, "-m", "ldc", "watch", CHINESE, "--plain", "--seconds", "0.5", *uris)
    assert ran.returncode in (0, 1)
    assert b"market=" + ESCAPED in ran.stdout
    assert b"Traceback" not in ran.stderr


PROGRAM = f"""
import ldc
nowhere = dict(restful_base_uri="http://127.0.0.1:9", websocket_base_uri="ws://127.0.0.1:9")
with ldc.BinanceLocalDepthCacheManager(**nowhere) as m:
    m.create_depth_cache({CHINESE!a})
    m.print_summary()
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_summary_of_a_chinese_market_is_printed_on_any_console(encoding):
    ran = run(encoding, "-c", PROGRAM)
    assert ran.returncode == 0, ran.stderr
    assert (CHINESE.encode() if encoding == "utf-8" else ESCAPED) in ran.stdout
