"""The embedded exchange as its users see it: `SimulatedExchange`."""

import time
from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Any, Self

from ldc.simulator.changelog import Levels, TrueBook
from ldc.simulator.connection import ConnectionTiming
from ldc.simulator.faults import Fault, PendingFaults
from ldc.simulator.listing import Listing
from ldc.simulator.markets import Markets, RunningMarket
from ldc.simulator.rest import Rest
from ldc.simulator.script import Script
from ldc.simulator.server import Server
from ldc.venues import Venue, venue_named
from ldc.wire.families import family_of

UPDATES_PER_SECOND_MAX = 1000.0
"""Event times are whole milliseconds, and each window has one; a higher rate is a ``ValueError``."""

BAN_S = 120.0
"""Seconds of an address's first ban; each further one is twice as long."""

_EXACT = Context(prec=60)


class SimulatedExchange:
    """A real REST and websocket server on this machine, in front of markets that trade by themselves.

    Args:
        markets: the listed markets, as the exchange spells them: "BTCUSDT". One name or many.
        venue: the exchange to imitate: any exchange of ldc, by name, or a row of `ldc.venues`.
        on_demand: whether every name with a suffix of the family ("...USDT", "...USD_PERP") becomes a market when it
            is requested. The usual markets are then listed from the start.
        seed: the same seed gives the same markets.
        host, port: the address to listen on; port 0 is any free one.
        updates_per_second: windows a second. The fastest stream sends one message for each window with a change. The
            exchange has 10.
        levels: levels a side of each market, about; 10 to 20,000.
        start_time_ms: the event time of the first window, Unix milliseconds. Later ones follow from the number of
            windows, never from the clock. None: event times are the clock's, also after a halt or a pause.
        connection_lifetime_s: seconds after which a connection is closed.
        latency_ms: milliseconds by which everything is sent later.
        ping_interval_s, pong_timeout_s: seconds, of the server's pings; None: as the exchange documents.
        weight_per_minute: request weight of an address in a minute; None: as the exchange documents.
        ban_s: seconds of an address's first ban.
        script: for tests of clients: replaces answers and sent frames; see `ldc.simulator.script`.

    Use it as a context manager, or call `start` and `stop`. Thread-safe.
    """

    def __init__(
        self,
        markets: str | Iterable[str] = (),
        *,
        venue: str | Venue = "binance.com",
        on_demand: bool = False,
        seed: int = 1,
        port: int = 0,
        host: str = "127.0.0.1",
        updates_per_second: float = 10.0,
        levels: int = 2000,
        start_time_ms: int | None = None,
        connection_lifetime_s: float = 86_400.0,
        latency_ms: float = 0,
        ping_interval_s: float | None = None,
        pong_timeout_s: float | None = None,
        weight_per_minute: int | None = None,
        ban_s: float = BAN_S,
        script: Script | None = None,
    ) -> None:
        if not 0 < updates_per_second <= UPDATES_PER_SECOND_MAX:
            raise ValueError(f"updates_per_second is above 0 and at most {UPDATES_PER_SECOND_MAX:g}")
        row = venue if isinstance(venue, Venue) else venue_named(venue)
        family = family_of(row)
        interval_ms = max(1, round(1000 / updates_per_second))
        self._faults = PendingFaults(seed)
        self._markets = Markets(
            family,
            [markets] if isinstance(markets, str) else markets,
            on_demand=on_demand,
            seed=seed,
            levels=levels,
            start_time_ms=start_time_ms,
            interval_ms=interval_ms,
            faults=self._faults,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        weight = row.weight_per_minute if weight_per_minute is None else weight_per_minute
        self._rest = Rest(family, row, self._markets, weight, ban_s)
        timing = ConnectionTiming(
            family.ping_interval_s if ping_interval_s is None else ping_interval_s,
            family.pong_timeout_s if pong_timeout_s is None else pong_timeout_s,
            connection_lifetime_s,
            latency_ms / 1000,
        )
        self._server = Server(family, row, self._markets, self._rest, timing, interval_ms / 1000, script)
        self._host, self._port = host, port
        self._is_started = False

    # ------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start to listen. Idempotent. Raises ``OSError`` if the port cannot be opened."""
        if not self._is_started:
            self._server.start(self._host, self._port)
            self._is_started = True
        return self

    def stop(self) -> None:
        """Abort all connections and stop to listen. Idempotent. Raises ``RuntimeError`` if the server had failed."""
        if self._is_started:
            self._is_started = False
            self._server.stop()

    @property
    def restful_base_uri(self) -> str:
        """Such as "http://127.0.0.1:40001", without the exchange's paths."""
        return f"http://{self._address}"

    @property
    def websocket_base_uri(self) -> str:
        """Such as "ws://127.0.0.1:40001"."""
        return f"ws://{self._address}"

    @property
    def _address(self) -> str:
        if not self._is_started:
            raise RuntimeError("the embedded exchange has no address before it is started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._server.port}"

    # ------------------------------------------------------------------------------------------ markets

    @property
    def markets(self) -> tuple[str, ...]:
        """The listed markets."""
        with self._markets.lock:
            return tuple(listing.symbol for listing in self._markets.listed())

    def add_market(self, market: str) -> None:
        """List another market. Raises ``ValueError`` for a name that cannot be a market."""
        self._markets.add(market)

    def true_book(self, market: str, update_id: int, limit: int | None = None) -> TrueBook:
        """Return the exchange's own book at an update id: all levels, or at most `limit` a side.

        Raises ``KeyError`` for an id that has not come yet, or is too old: minutes, in usual trading.
        """
        running = self._running(market)
        with self._markets.lock:
            bids, asks = running.market.sides_at(update_id)
        listing = running.market.listing
        return TrueBook(update_id, _exact(listing, bids[:limit]), _exact(listing, asks[:limit]))

    def last_update_id(self, market: str) -> int:
        """Return the update id at the end of the last window, which is the last one that streams have sent."""
        running = self._running(market)
        with self._markets.lock:
            return running.market.sent_update_id

    def pause(self, market: str) -> None:
        """Pause the trading of a market until `resume`; `advance` moves it by hand."""
        with self._markets.lock:  # a market that starts in this call does not trade before
            self._running(market).is_paused = True
        self._server.call(lambda: None)  # waits until a tick in progress has ended

    def resume(self, market: str) -> None:
        """Resume the trading of a market."""
        running = self._running(market)
        self._server.call(lambda: setattr(running, "is_paused", False))

    def advance(self, market: str, updates: int = 1) -> int:
        """Trade in a market until it has sent that many updates; return the last update id.

        Raises ``RuntimeError`` for a halted market.
        """
        running = self._running(market)
        return self._server.call(lambda: self._server.advance(running, updates))

    def _running(self, market: str) -> RunningMarket:
        running = self._markets.run(market)
        if running is None:
            raise ValueError(f"{market!r} is no market of this exchange; it has {', '.join(self.markets) or 'none'}")
        return running

    # ------------------------------------------------------------------------------------------ faults

    def inject(
        self,
        name: str | Fault,
        *,
        market: str | None = None,
        count: int | None = None,
        probability: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        """Inject a fault; `FAULTS` has the names.

        Args:
            name: of the fault, or a `Fault` as `parse_fault` makes it from text such as "drop:0.01".
            market: the only market in which it fires; None: any.
            count: how often it fires; None: once, or without end if there is a probability.
            probability: with which it fires at each occasion; None: at the next one.
            duration_s: seconds, for a fault that lasts, such as "halt".

        Raises ``ValueError`` for a fault or a market that does not exist, with the valid ones.
        """
        if isinstance(name, Fault):
            fault = name
        else:
            times = 1 if count is None and probability is None else count
            fault = Fault(name=name, market=market, count=times, probability=probability, duration_s=duration_s)
        if fault.market is not None:
            self._running(fault.market)  # raises for a misspelt one
        self._server.call(lambda: self._server.inject(fault))

    def clear_faults(self) -> None:
        """Remove the faults that have not fired yet."""
        self._faults.clear()

    def statistics(self) -> dict[str, Any]:
        """Return counters of what has happened so far.

        | key | meaning |
        | --- | --- |
        | `connections`, `connects` | open now; attempts |
        | `ticks`, `updates` | windows; windows with a change |
        | `late_ms_max`, `ticks_skipped` | the latest end of a window; windows left out |
        | `status_...` | REST answers by status |
        | `faults` | how often each fault has fired, by name |
        """

        def collect() -> dict[str, Any]:
            counts = self._server.counts
            named = ("connects", "frames_sent", "requests", "ticks", "ticks_skipped", "updates")
            return {
                "connections": self._server.connection_count,
                **{name: counts[name] for name in named},
                "late_ms_max": round(self._server.late_s_max * 1000, 1),
                "weight_used": self._rest.weight_used,
                **{name: count for name, count in sorted(counts.items()) if name.startswith("status_")},
                "faults": dict(self._faults.fired),
            }

        return self._server.call(collect)


def _exact(listing: Listing, levels: Levels) -> tuple[tuple[Decimal, Decimal], ...]:
    price_exponent, quantity_exponent = -listing.price_decimals, -listing.quantity_decimals
    return tuple(
        (Decimal(price).scaleb(price_exponent, _EXACT), Decimal(quantity).scaleb(quantity_exponent, _EXACT))
        for price, quantity in levels
    )


def launch(venue: Venue) -> SimulatedExchange:
    """Start an exchange for a manager with ``exchange="simulator"``: it has every market that is requested."""
    return SimulatedExchange(venue=venue, on_demand=True).start()
