"""`ldc serve`: it prints addresses that work, ends by SIGTERM with status 0, and refuses what is not safe."""

import logging
import re
import signal
import subprocess
import sys

import pytest
import requests

pytest.importorskip("aiohttp", reason="ldc serve needs aiohttp")

from loopback_exchange import PATIENCE_S
from simulator_kit import simulated

from ldc.cli.main import main


def command(exchange, *more: str) -> list[str]:
    addresses = ["--restful-base-uri", exchange.restful_base_uri, "--websocket-base-uri", exchange.websocket_base_uri]
    return [sys.executable, "-P", "-m", "ldc", "serve", "BTCUSDT", "--port", "0", *addresses, *more]


def test_it_serves_until_sigterm_and_ends_with_status_0(tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    with simulated() as exchange:
        arguments = command(exchange, "--token-file", str(token))
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
            try:
                head = "".join(served.stdout.readline() for _ in range(7))
                url = re.search(r"REST +(\S+)\?", head)[1]
                headers = {"Authorization": "Bearer 0123456789abcdef"}
                base = url.removesuffix("/api/v3/depth")
                assert requests.get(url, timeout=PATIENCE_S).status_code == 401
                assert requests.get(f"{base}/ldc/status", headers=headers, timeout=PATIENCE_S).status_code == 200
                assert "0123456789abcdef" not in head
            finally:
                served.send_signal(signal.SIGTERM)
                output, errors = served.communicate(timeout=PATIENCE_S)
        assert served.returncode == 0, errors
        assert "0123456789abcdef" not in output + errors


@pytest.mark.parametrize(("arguments", "status", "says"), [
    (["--host", "0.0.0.0"], 2, "--token-file"),
    (["--tls-cert", "x.pem"], 2, "both"),
    (["--token-file", "/nowhere/at/all"], 3, "No such file"),
    (["--exchange", "nasdaq"], 2, "exchanges are"),
    (["B/C"], 2, "cannot be a market"),
])  # fmt: skip
def test_what_cannot_be_served_is_refused_before_anything_starts(capsys, arguments, status, says):
    assert main(["serve", "BTCUSDT", *arguments, "--port", "0", "--seconds", "0.1"]) == status
    assert says in capsys.readouterr().err
    assert logging.getLogger("binance_local_depth_cache").handlers == []
