"""The markets of an exchange: the listed ones, the running ones, and their subscribers.

Rule 1: a market runs from the first request for it; until then it costs nothing.
Rule 2: access to a running market needs `lock`. The event loop's thread holds it while it ticks a market.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ldc.simulator.connection import Connection
from ldc.simulator.faults import PendingFaults, Place
from ldc.simulator.listing import DEFAULT_MARKETS, Listing, listing_of
from ldc.simulator.market import Market
from ldc.simulator.streams import Message, Stream
from ldc.wire.families import Family
from ldc.wire.streams import StreamName

MARKETS_MAX = 2000
"""Running markets; one more is an invalid symbol for clients."""

WINDOW_MS = 100
"""Milliseconds of a window in the names of streams, whatever its real duration. Streams of 100 ms send each window by
itself, those of 500 ms five in one message."""


@dataclass(eq=False)
class RunningMarket:
    """A market, and the connections that subscribe it."""

    market: Market
    streams: dict[str, Stream] = field(default_factory=dict)
    listeners: dict[str, list[Connection]] = field(default_factory=dict)
    is_paused: bool = False
    halted_until: float = 0.0
    silent_until: float = 0.0

    def status(self, now: float) -> str:
        """Return its status in exchangeInfo."""
        return "HALT" if now < self.halted_until else "TRADING"


class Markets:
    """All markets of an exchange.

    Args:
        symbols: the listed ones.
        on_demand: whether every valid name of the family becomes a market when it is requested.
        start_time_ms: the event time at which each market begins; None: event times follow `clock_ms`.
    """

    def __init__(
        self,
        family: Family,
        symbols: Iterable[str],
        *,
        on_demand: bool,
        seed: int,
        levels: int,
        start_time_ms: int | None,
        interval_ms: int,
        faults: PendingFaults,
        clock_ms: Callable[[], int],
    ) -> None:
        self.lock = threading.RLock()
        self.faults = faults
        self.running: dict[str, RunningMarket] = {}
        self.started: list[RunningMarket] = []
        """Markets that are not ticked yet."""
        self._family, self._on_demand, self._seed = family, on_demand, seed
        self._levels, self._start_time_ms, self._interval_ms = levels, start_time_ms, interval_ms
        self._clock_ms = clock_ms
        self._listings: dict[str, Listing] = {}
        for symbol in (*symbols, *(DEFAULT_MARKETS[family.name] if on_demand else ())):
            self.add(symbol)

    def add(self, symbol: str) -> None:
        """List a market; raise ``ValueError`` for a name that cannot be one."""
        listing = listing_of(self._family.name, symbol)
        if listing is None:
            raise ValueError(
                f"{symbol!r} cannot be a market of this exchange: choose a name such as "
                f"{DEFAULT_MARKETS[self._family.name][0]!r}"
            )
        with self.lock:
            self._listings[symbol] = listing

    def listed(self) -> Iterator[Listing]:
        """Return the listings of exchangeInfo."""
        return iter(list(self._listings.values()))

    def listing(self, symbol: str) -> Listing | None:
        """Return the listing of a market that exists or, on demand, can exist."""
        return self._listings.get(symbol) or (listing_of(self._family.name, symbol) if self._on_demand else None)

    def run(self, symbol: str) -> RunningMarket | None:
        """Return a market, started now if it does not run; None: no market of that name."""
        with self.lock:
            running = self.running.get(symbol)
            listing = self.listing(symbol)
            if running is not None or listing is None or len(self.running) >= MARKETS_MAX:
                return running
            self._listings[symbol] = listing
            running = self.running[symbol] = RunningMarket(self._made(listing))
            self.started.append(running)
            return running

    def another(self, symbol: str) -> RunningMarket:
        """Return another market, without subscribers."""
        names = (name for name in DEFAULT_MARKETS[self._family.name] if name != symbol)
        listing = listing_of(self._family.name, next(names, symbol))
        assert listing is not None
        return RunningMarket(self._made(listing))

    def _made(self, listing: Listing) -> Market:
        digest = hashlib.sha256(f"{self._seed}/{self._family.name}/{listing.symbol}".encode()).digest()
        return Market(
            listing,
            seed=int.from_bytes(digest[:8], "big"),
            levels=self._levels,
            engine_ids=self._family.engine_ids,
            start_time_ms=self._clock_ms() if self._start_time_ms is None else self._start_time_ms,
            interval_ms=self._interval_ms,
        )

    # ------------------------------------------------------------------------------------------ listeners

    def add_listener(self, name: StreamName, connection: Connection) -> None:
        """Add a connection to a stream. A name without a market is accepted, and stays silent."""
        running = self.run(name.symbol)
        if running is None:
            return
        with self.lock:
            if name.name not in running.streams:
                windows = max(1, name.interval_ms // WINDOW_MS)
                running.streams[name.name] = Stream(name, self._family, running.market, windows, self.faults)
            running.listeners.setdefault(name.name, []).append(connection)

    def remove_listener(self, name: StreamName, connection: Connection) -> None:
        """Remove a connection from a stream."""
        running = self.running.get(name.symbol)
        if running is None:
            return
        with self.lock:
            listeners = running.listeners.get(name.name, [])
            if connection in listeners:
                listeners.remove(connection)
            if not listeners:
                running.streams.pop(name.name, None)
                running.listeners.pop(name.name, None)

    # ------------------------------------------------------------------------------------------ time

    def tick(self, running: RunningMarket, now: float) -> tuple[bool, list[tuple[Connection, bytes]]]:
        """Trade in a market to the end of a window.

        Returns whether anything changed, and the frames to send to each connection.
        """
        outgoing: list[tuple[Connection, bytes]] = []
        with self.lock:
            market = running.market
            while (fault := self.faults.take(Place.MARKET, market.listing.symbol)) is not None:
                if fault.name == "halt":
                    running.halted_until = now + fault.lasts_s
                elif fault.name == "silent":
                    running.silent_until = now + fault.lasts_s
                else:
                    market.restart_ids()
            if now < running.halted_until:
                return False, outgoing
            update = market.end_window(self._clock_ms() if self._start_time_ms is None else None)
            for name, stream in running.streams.items():
                self._address(running, name, stream.window_ended(update), outgoing)
            market.begin_window()
            for name, stream in running.streams.items():
                self._address(running, name, stream.window_began(), outgoing)
        return update is not None, [] if now < running.silent_until else outgoing

    @staticmethod
    def _address(
        running: RunningMarket, name: str, messages: list[Message], outgoing: list[tuple[Connection, bytes]]
    ) -> None:
        for message in messages:
            outgoing += [
                (connection, message.frame(connection.subscriptions.form)) for connection in running.listeners[name]
            ]
