"""The faults that can be injected, by name, and when they fire.

Rule 1: a fault has a name, a place where it fires, and a sentence that describes what the client sees.
Rule 2: randomness is seeded: the same seed and the same traffic have the same faults.
"""

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from types import MappingProxyType


class Place(StrEnum):
    """Where a fault fires."""

    UPDATE = "update"
    """One depth update of a market, for all its subscribers."""
    MARKET = "market"
    """The market itself."""
    CONNECTION = "connection"
    """One websocket connection."""
    HANDSHAKE = "handshake"
    """The opening of a websocket connection."""
    CONTROL = "control"
    """One SUBSCRIBE request."""
    SNAPSHOT = "snapshot"
    """One REST answer with a snapshot."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """The definition of a fault."""

    place: Place
    text: str
    """What a client sees of it."""
    duration_s: float | None = None
    """Seconds that it lasts by default; None: it has no duration."""


_KINDS = {
    "drop": FaultKind(Place.UPDATE, "a depth update is not sent"),
    "duplicate": FaultKind(Place.UPDATE, "a depth update is sent twice"),
    "reorder": FaultKind(Place.UPDATE, "a depth update is sent after the next one"),
    "overlap": FaultKind(
        Place.UPDATE, "a depth update repeats the changes of the one before it, and begins where that began"
    ),
    "corrupt": FaultKind(Place.UPDATE, "a byte of a depth update is no JSON"),
    "truncate": FaultKind(Place.UPDATE, "a depth update ends early, in a frame that is whole"),
    "trailing": FaultKind(Place.UPDATE, "a depth update has extra bytes behind it in the same frame"),
    "wrong_symbol": FaultKind(Place.UPDATE, "a depth update names another market than its stream does"),
    "silent": FaultKind(Place.MARKET, "the market trades, pings are answered, but its updates are not sent", 3.0),
    "halt": FaultKind(Place.MARKET, "trading is halted; exchangeInfo has the status HALT", 3.0),
    "id_reset": FaultKind(Place.MARKET, "update ids restart at a low number"),
    "half_open": FaultKind(Place.CONNECTION, "the connection stays open, but nothing is read or sent any more", 60.0),
    "stall": FaultKind(Place.CONNECTION, "a frame stops in its middle, and nothing is sent any more", 60.0),
    "no_pong": FaultKind(Place.CONNECTION, "frames are sent, but the client's pings are not answered", 60.0),
    "reset": FaultKind(Place.CONNECTION, "the connection ends with a TCP reset"),
    "eof": FaultKind(Place.CONNECTION, "the connection ends without a close frame"),
    "close_1000": FaultKind(Place.CONNECTION, "the exchange closes with code 1000 (normal)"),
    "close_1001": FaultKind(Place.CONNECTION, "the exchange closes with code 1001 (going away), as after 24 hours"),
    "close_1008": FaultKind(Place.CONNECTION, "the exchange closes with code 1008 (policy), as for too many requests"),
    "close_1011": FaultKind(Place.CONNECTION, "the exchange closes with code 1011 (internal error)"),
    "server_shutdown": FaultKind(
        Place.CONNECTION, "the exchange sends serverShutdown (spot), and closes the connection some time later", 1.0
    ),
    "slow_handshake": FaultKind(Place.HANDSHAKE, "the handshake is answered late", 30.0),
    "refused_handshake": FaultKind(Place.HANDSHAKE, "the handshake is answered with HTTP 503"),
    "no_acknowledgement": FaultKind(Place.CONTROL, "a SUBSCRIBE is neither answered nor executed"),
    "refused_subscription": FaultKind(Place.CONTROL, "a SUBSCRIBE is answered with an error"),
    "snapshot_stale": FaultKind(Place.SNAPSHOT, "the snapshot is some updates old"),
    "snapshot_regressed": FaultKind(Place.SNAPSHOT, "the snapshot is the oldest that the exchange still has"),
    "snapshot_lagging": FaultKind(
        Place.SNAPSHOT, "all snapshots of the market have, for a while, the update id of the first of them", 2.0
    ),
    "snapshot_cut": FaultKind(Place.SNAPSHOT, "the connection ends in the middle of the snapshot"),
    "snapshot_truncated": FaultKind(Place.SNAPSHOT, "the snapshot ends early, and its announced length agrees"),
    "snapshot_wrong_market": FaultKind(Place.SNAPSHOT, "the snapshot is that of another market"),
    "snapshot_slow": FaultKind(Place.SNAPSHOT, "the snapshot arrives late", 2.0),
    "snapshot_html": FaultKind(Place.SNAPSHOT, "the answer is a page of HTML, with status 200"),
    "snapshot_500": FaultKind(Place.SNAPSHOT, "the answer is HTTP 500"),
    "snapshot_503": FaultKind(Place.SNAPSHOT, "the answer is HTTP 503, with a page of HTML"),
    "snapshot_403": FaultKind(Place.SNAPSHOT, "the answer is HTTP 403, as from the exchange's firewall"),
    "snapshot_429": FaultKind(Place.SNAPSHOT, "the answer is HTTP 429, with a Retry-After", 1.0),
    "ban": FaultKind(
        Place.SNAPSHOT, "the address is banned: every request is answered with HTTP 418 and Retry-After", 2.0
    ),
}

FAULTS: Mapping[str, str] = MappingProxyType({name: kind.text for name, kind in _KINDS.items()})
"""Every fault by name, and what a client sees of it."""


def kind_of(name: str) -> FaultKind:
    """Return the definition of a fault; raise ``ValueError``, with all names, for an unknown one."""
    kind = _KINDS.get(name)
    if kind is None:
        raise ValueError(f"there is no fault {name!r}; the faults are {', '.join(_KINDS)}")
    return kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault to inject. It fires `count` times, at the next occasions or at each with a `probability`."""

    name: str
    market: str | None = None
    """None: any market, any connection."""
    count: int | None = 1
    """How many more times it fires; None: without end."""
    probability: float | None = None
    """With which it fires at an occasion; None: at the next one."""
    duration_s: float | None = None
    """Seconds; None: the default of the fault."""

    def __post_init__(self) -> None:
        kind = kind_of(self.name)
        if self.market is not None and kind.place in (Place.HANDSHAKE, Place.CONTROL):
            raise ValueError(f"{self.name} happens to a connection, and cannot be limited to {self.market}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"a fault fires once or more, not {self.count} times")
        if self.probability is not None and not 0 < self.probability <= 1:
            raise ValueError(f"a probability is above 0 and at most 1, not {self.probability}")
        if self.duration_s is not None and (kind.duration_s is None or not self.duration_s >= 0):
            raise ValueError(f"{self.name} has no duration of {self.duration_s} s")

    @property
    def place(self) -> Place:
        """Where it fires."""
        return kind_of(self.name).place

    @property
    def lasts_s(self) -> float:
        """Seconds that it lasts."""
        return self.duration_s if self.duration_s is not None else kind_of(self.name).duration_s or 0.0


_FAULT_TEXT = re.compile(
    r"(?P<name>[a-z_0-9]+)(?:@(?P<market>[^:*~]+))?(?::(?P<probability>[0-9.]+)|\*(?P<count>[0-9]+))?"
    r"(?:~(?P<duration>[0-9.]+))?"
)


def parse_fault(text: str) -> Fault:
    """Return the fault of a text such as the command line has. Raises ``ValueError`` for another text.

    | text | fires |
    | --- | --- |
    | ``drop``, ``drop*3`` | once, three times |
    | ``drop:0.01`` | for one update in a hundred |
    | ``reset@BTCUSDT`` | on a connection that has that market |
    | ``halt@BTCUSDT~5`` | for five seconds |
    """
    match = _FAULT_TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is no fault: write name, name*count or name:probability, with @MARKET behind the name "
            "and ~seconds at the end if wanted, such as drop:0.01 or halt@BTCUSDT~5"
        )
    try:
        probability, duration_s = (match[key] and float(match[key]) for key in ("probability", "duration"))
    except ValueError:
        raise ValueError(f"{text!r} has a number that cannot be read") from None
    count = int(match["count"]) if match["count"] else None if probability is not None else 1
    market = match["market"] and match["market"].upper()
    return Fault(
        name=match["name"],
        market=market,
        count=count,
        probability=None if probability is None else float(probability),
        duration_s=None if duration_s is None else float(duration_s),
    )


class PendingFaults:
    """The injected faults that have not fired yet. Thread-safe."""

    def __init__(self, seed: int) -> None:
        self.fired: Counter[str] = Counter()
        """How often each has fired, by name."""
        self.places: frozenset[Place] = frozenset()
        """The places of the pending faults. A check costs nothing, so traffic without faults is not slower."""
        self._bits = Random(seed).getrandbits
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Add a fault, which fires at its next occasion."""
        with self._lock:
            self._waiting.append(fault)
            self._update_places()

    def clear(self) -> None:
        """Remove the pending faults. A fault that lasts already continues."""
        with self._lock:
            self._waiting.clear()
            self._update_places()

    def take(self, place: Place, market: str | None, *, certain_only: bool = False) -> Fault | None:
        """Return the fault that fires there now, and count it; or None.

        `market` None: the occasion has no market, so only faults for any market fire.
        """
        if place not in self.places:
            return None
        with self._lock:
            for number, fault in enumerate(self._waiting):
                if fault.place is not place or fault.market not in (None, market):
                    continue
                if fault.probability is not None and (
                    certain_only or self._bits(32) >= int(fault.probability * 0x1_0000_0000)
                ):
                    continue
                if fault.count == 1:
                    del self._waiting[number]
                elif fault.count is not None:
                    self._waiting[number] = replace(fault, count=fault.count - 1)
                self._update_places()
                self.fired[fault.name] += 1
                return fault
        return None

    def bits(self, count: int) -> int:
        """Return that many random bits, for the place in a frame where a fault fires."""
        with self._lock:
            return self._bits(count)

    def _update_places(self) -> None:
        self.places = frozenset(fault.place for fault in self._waiting)
