"""`ldc serve`: books by HTTP and websockets, until the user or the system ends it.

Rule 1: the markets exist before the port is open, so that no client is told that there is no such market.
Rule 2: SIGTERM ends it with the exit status 0, as service managers expect; a second signal ends it at once.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ldc.cli.signals import Interruption
from ldc.cli.watch import ExitStatus, forget
from ldc.gateway import Gateway
from ldc.manager.manager import BinanceLocalDepthCacheManager

CLOCK_S = 3600.0
"""Seconds that it sleeps at most before it reads the clock again."""


def read_token(path: str) -> str:
    """Return the first line of a file. Raises ``OSError``; ``ValueError`` for an empty one."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    if not lines[0].strip():
        raise ValueError(f"{path} has no token in its first line; `openssl rand -hex 32` makes one")
    return lines[0].strip()


def run(
    manager: BinanceLocalDepthCacheManager,
    gateway: Gateway,
    markets: Sequence[str],
    *,
    seconds: float | None,
    opens_browser: bool,
    stream: TextIO,
) -> ExitStatus:
    """Serve until the time is over or a signal ends it; return whether all markets were in sync then."""
    with Interruption() as interruption:
        try:
            stream.write(invitation(manager, gateway, markets))
            stream.flush()
        except BrokenPipeError:
            forget(stream)
        if opens_browser:
            import webbrowser

            webbrowser.open(gateway.restful_base_uri)
        ends_at = None if seconds is None else time.monotonic() + seconds
        while not interruption.wait(CLOCK_S if ends_at is None else min(CLOCK_S, ends_at - time.monotonic())):
            if ends_at is not None and time.monotonic() >= ends_at:
                break
        progress = manager.get_progress()
    if seconds is None or progress.synchronized == progress.total:
        return ExitStatus.SYNCHRONIZED
    return ExitStatus.OUT_OF_SYNC


def invitation(manager: BinanceLocalDepthCacheManager, gateway: Gateway, markets: Sequence[str]) -> str:
    """Return the gateway's addresses, and commands and code that use it."""
    restful, websocket, first = gateway.restful_base_uri, gateway.websocket_base_uri, markets[0].upper()
    return f"""\
The gateway serves {len(markets)} markets of {manager.exchange}. Ctrl-C ends it.

  page       {restful}/
  REST       {restful}{gateway.depth_path}?symbol={first}&limit=20
  websocket  {websocket}{gateway.stream_path}?streams={first.lower()}@depth20@100ms
  push       {restful}/ldc/events/{first}   {websocket}/ldc/ws
  state      {restful}/ldc/status   /healthz   /readyz

Another ldc takes its books from here:

  manager = ldc.BinanceLocalDepthCacheManager(
      "{manager.exchange}", restful_base_uri="{restful}", websocket_base_uri="{websocket}")
"""
