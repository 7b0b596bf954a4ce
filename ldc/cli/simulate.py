"""The embedded exchange on the command line: behind `ldc demo`, and served by `ldc simulate`.

Rule 1: only these two commands import it, because it needs aiohttp.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ldc.cli.samples import Sample
from ldc.cli.signals import Interruption
from ldc.cli.watch import ExitStatus, forget
from ldc.simulator import Fault, SimulatedExchange
from ldc.venues import venue_named

LEVELS_OF_FEW = 6000
"""Levels a side of each of a few markets: more than one snapshot has, so that the horizon shows."""

LEVELS_OF_MANY = 800
"""Levels a side of each of many markets."""

FEW = 4
"""Up to this number of markets, each has LEVELS_OF_FEW."""

FAULTS_AFTER_S = 2.0
"""Seconds for which all markets are in sync before the faults are injected, so that the viewer sees the loss."""

STATISTICS_S = 1.0
"""Seconds between two updates of the fault counts."""

CLOCK_S = 3600.0
"""Seconds that `ldc simulate` sleeps at most before it reads the clock again."""


def demo_markets(venue: str, named: Sequence[str] | None, count: int | None) -> list[str]:
    """Return the markets of a demo: the named ones, or `count` others."""
    if named:
        return list(dict.fromkeys(venue_named(venue).normalized_market(market) for market in named))
    known = SimulatedExchange(venue=venue, on_demand=True).markets
    made_up = (f"DEMO{number:03}USDT" for number in range(1, (count or 1) + 1))
    return [*known, *made_up][: count or 1]


def demo_exchange(venue: str, markets: Sequence[str], seed: int) -> SimulatedExchange:
    """Return the exchange of a demo, not started yet. Raises ``ValueError`` for a market that it cannot have."""
    levels = LEVELS_OF_FEW if len(markets) <= FEW else LEVELS_OF_MANY
    return SimulatedExchange(markets, venue=venue, seed=seed, levels=levels)


class FaultInjector:
    """Injects the requested faults once all markets are in sync; reports how often each fired."""

    def __init__(self, exchange: SimulatedExchange, faults: Sequence[Fault]) -> None:
        self._exchange = exchange
        self._waiting = list(faults)
        self._has_faults = bool(faults)
        self._in_sync_since: float | None = None
        self._counted_at: float | None = None
        self._text = ""

    def round(self, samples: Sequence[Sample], now: float) -> str:
        """Check the markets; return the fault counts as text."""
        if self._waiting and all(sample.is_readable for sample in samples):
            if self._in_sync_since is None:
                self._in_sync_since = now
            if now - self._in_sync_since >= FAULTS_AFTER_S:
                for fault in self._waiting:
                    self._exchange.inject(fault)
                self._waiting.clear()
        if self._has_faults and (self._counted_at is None or now - self._counted_at >= STATISTICS_S):
            self._counted_at = now
            fired = self._exchange.statistics()["faults"]
            self._text = "  ".join(f"{name} {count}" for name, count in sorted(fired.items())) or "none yet"
            self._text = f"faults: {self._text}"
        return self._text


def served_exchange(port: int, markets: Sequence[str], venue: str, seed: int) -> SimulatedExchange:
    """Return the exchange that `ldc simulate` serves, not started yet."""
    names = [venue_named(venue).normalized_market(market) for market in markets]
    return SimulatedExchange(names, venue=venue, on_demand=not names, seed=seed, port=port)


def serve(
    exchange: SimulatedExchange, markets: Sequence[str], venue: str, seed: int, seconds: float | None, stream: TextIO
) -> ExitStatus:
    """Print the exchange's addresses, and serve until the time is over or the user ends it."""
    with Interruption() as interruption:
        try:
            stream.write(invitation(exchange, venue, markets, seed))
            stream.flush()
            ends_at = None if seconds is None else time.monotonic() + seconds
            while not interruption.wait(CLOCK_S if ends_at is None else min(CLOCK_S, ends_at - time.monotonic())):
                if ends_at is not None and time.monotonic() >= ends_at:
                    break
            stream.write(summary(exchange.statistics()))
            stream.flush()
        except BrokenPipeError:
            forget(stream)
    return ExitStatus.SYNCHRONIZED


def summary(statistics: Mapping[str, Any]) -> str:
    """Return the statistics of an exchange as text."""
    counts = {name: value for name, value in statistics.items() if name != "faults"}
    text = ", ".join(f"{name} {value}" for name, value in counts.items()) + "\n"
    faults = ", ".join(f"{name} {count}" for name, count in statistics["faults"].items())
    return text + (f"faults: {faults}\n" if faults else "")


def invitation(exchange: SimulatedExchange, venue: str, markets: Sequence[str], seed: int) -> str:
    """Return the exchange's addresses, and the commands and code that use it."""
    restful, websocket = exchange.restful_base_uri, exchange.websocket_base_uri
    listed = exchange.markets
    first = listed[0]
    row = venue_named(venue)
    more = "" if markets else ", and every other one that is requested"
    return f"""\
The embedded exchange imitates {venue}, seed {seed}. Ctrl-C ends it.

  REST       {restful}
  websocket  {websocket}
  markets    {", ".join(listed)}{more}

In a bot:

  manager = ldc.BinanceLocalDepthCacheManager(
      "{venue}", restful_base_uri="{restful}", websocket_base_uri="{websocket}")

On another terminal:

  ldc watch {first} --exchange {venue} --restful-base-uri {restful} --websocket-base-uri {websocket}
  curl '{restful}{row.depth_path}?symbol={first}&limit=5'
"""
