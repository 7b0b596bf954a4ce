"""What can go wrong, by name, and when it does.

Rule 1: a fault has a name, a place where it strikes, and a sentence that says what the client sees.
Rule 2: luck is seeded: the same seed and the same traffic meet the same faults.
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
    """Where a fault strikes."""

    FRAME = "frame"
    """One depth update of a market, for everybody who listens."""
    MARKET = "market"
    """The market itself."""
    LINK = "link"
    """One websocket connection."""
    HANDSHAKE = "handshake"
    """The opening of a websocket connection."""
    CONTROL = "control"
    """One SUBSCRIBE request."""
    SNAPSHOT = "snapshot"
    """One REST answer with a snapshot."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What is known of a name."""

    place: Place
    text: str
    duration_s: float | None = None
    """How long it lasts unless told; None: it is over at once."""


_KINDS = {
    "drop": FaultKind(Place.FRAME, "a depth update is not sent"),
    "duplicate": FaultKind(Place.FRAME, "a depth update is sent twice"),
    "reorder": FaultKind(Place.FRAME, "a depth update is sent after the next one"),
    "overlap": FaultKind(
        Place.FRAME, "a depth update tells what the one before it told as well, and begins where that did"
    ),
    "corrupt": FaultKind(Place.FRAME, "a byte of a depth update is no JSON"),
    "truncate": FaultKind(Place.FRAME, "a depth update ends early, in a frame that is whole"),
    "trailing": FaultKind(Place.FRAME, "something follows behind a depth update in the same frame"),
    "wrong_symbol": FaultKind(Place.FRAME, "a depth update names another market than its stream does"),
    "silent": FaultKind(Place.MARKET, "the market trades, pings are answered, but no frame of it is sent", 3.0),
    "halt": FaultKind(Place.MARKET, "trading stands still; exchangeInfo says HALT", 3.0),
    "id_reset": FaultKind(Place.MARKET, "update ids begin again at a low number"),
    "half_open": FaultKind(Place.LINK, "the connection stays open, but nothing is read or sent any more", 60.0),
    "stall": FaultKind(Place.LINK, "a frame stops in its middle, and nothing comes any more", 60.0),
    "no_pong": FaultKind(Place.LINK, "frames go on, but the client's pings are not answered", 60.0),
    "reset": FaultKind(Place.LINK, "the connection ends with a TCP reset"),
    "eof": FaultKind(Place.LINK, "the connection ends without a close frame"),
    "close_1000": FaultKind(Place.LINK, "the exchange closes with code 1000 (normal)"),
    "close_1001": FaultKind(Place.LINK, "the exchange closes with code 1001 (going away), as at the end of 24 hours"),
    "close_1008": FaultKind(Place.LINK, "the exchange closes with code 1008 (policy), as after too many requests"),
    "close_1011": FaultKind(Place.LINK, "the exchange closes with code 1011 (internal error)"),
    "server_shutdown": FaultKind(
        Place.LINK, "the exchange says serverShutdown (spot), and closes the connection some time later", 1.0
    ),
    "slow_handshake": FaultKind(Place.HANDSHAKE, "the handshake is answered late", 30.0),
    "refused_handshake": FaultKind(Place.HANDSHAKE, "the handshake is answered with HTTP 503"),
    "no_acknowledgement": FaultKind(Place.CONTROL, "a SUBSCRIBE is neither answered nor obeyed"),
    "refused_subscription": FaultKind(Place.CONTROL, "a SUBSCRIBE is answered with an error"),
    "snapshot_stale": FaultKind(Place.SNAPSHOT, "the snapshot is that of some updates ago"),
    "snapshot_regressed": FaultKind(Place.SNAPSHOT, "the snapshot is the oldest that the exchange still knows"),
    "snapshot_lagging": FaultKind(
        Place.SNAPSHOT, "all snapshots of the market are, for a while, what it was at the first of them", 2.0
    ),
    "snapshot_cut": FaultKind(Place.SNAPSHOT, "the connection ends in the middle of the snapshot"),
    "snapshot_truncated": FaultKind(Place.SNAPSHOT, "the snapshot ends early, with a length that says so"),
    "snapshot_wrong_market": FaultKind(Place.SNAPSHOT, "the snapshot is that of another market"),
    "snapshot_slow": FaultKind(Place.SNAPSHOT, "the snapshot comes late", 2.0),
    "snapshot_html": FaultKind(Place.SNAPSHOT, "the answer is a page of HTML, with status 200"),
    "snapshot_500": FaultKind(Place.SNAPSHOT, "the answer is HTTP 500"),
    "snapshot_503": FaultKind(Place.SNAPSHOT, "the answer is HTTP 503, with a page of HTML"),
    "snapshot_403": FaultKind(Place.SNAPSHOT, "the answer is HTTP 403, as the exchange's firewall gives it"),
    "snapshot_429": FaultKind(Place.SNAPSHOT, "the answer is HTTP 429, and Retry-After says for how long", 1.0),
    "ban": FaultKind(
        Place.SNAPSHOT, "the address is banned: every request is answered with HTTP 418 and Retry-After", 2.0
    ),
}

FAULTS: Mapping[str, str] = MappingProxyType({name: kind.text for name, kind in _KINDS.items()})
"""Every fault by name, and what a client sees of it."""


def kind_of(name: str) -> FaultKind:
    """Return what is known of a fault; ``ValueError`` with all names for an unknown one."""
    kind = _KINDS.get(name)
    if kind is None:
        raise ValueError(f"there is no fault {name!r}; the faults are {', '.join(_KINDS)}")
    return kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that was ordered. Either it strikes `count` times, or each time with a `probability`."""

    name: str
    market: str | None = None
    """None: any market, any connection."""
    count: int | None = 1
    """How often it strikes yet; None: without end."""
    probability: float | None = None
    duration_s: float | None = None
    """None: as long as the kind of fault usually lasts."""

    def __post_init__(self) -> None:
        kind = kind_of(self.name)
        if self.market is not None and kind.place in (Place.HANDSHAKE, Place.CONTROL):
            raise ValueError(f"{self.name} happens to a connection, and cannot be limited to {self.market}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"a fault strikes once or more, not {self.count} times")
        if self.probability is not None and not 0 < self.probability <= 1:
            raise ValueError(f"a probability is above 0 and at most 1, not {self.probability}")
        if self.duration_s is not None and (kind.duration_s is None or not self.duration_s >= 0):
            raise ValueError(f"{self.name} has no duration of {self.duration_s} s")

    @property
    def place(self) -> Place:
        """Where it strikes."""
        return kind_of(self.name).place

    @property
    def lasts_s(self) -> float:
        """How long it lasts."""
        return self.duration_s if self.duration_s is not None else kind_of(self.name).duration_s or 0.0


_FAULT_TEXT = re.compile(
    r"(?P<name>[a-z_0-9]+)(?:@(?P<market>[^:*~]+))?(?::(?P<probability>[0-9.]+)|\*(?P<count>[0-9]+))?"
    r"(?:~(?P<duration>[0-9.]+))?"
)


def parse_fault(text: str) -> Fault:
    """Return the fault that a command line names.

    ``drop`` strikes once, ``drop*3`` three times, ``drop:0.01`` one update in a hundred, ``reset@BTCUSDT`` a connection
    that listens to that market, ``halt@BTCUSDT~5`` for five seconds. ``ValueError`` says what is wrong with another.
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
        raise ValueError(f"{text!r} has a number that is none") from None
    count = int(match["count"]) if match["count"] else None if probability is not None else 1
    market = match["market"] and match["market"].upper()
    return Fault(
        name=match["name"],
        market=market,
        count=count,
        probability=None if probability is None else float(probability),
        duration_s=None if duration_s is None else float(duration_s),
    )


class FaultBoard:
    """The faults that wait to strike. Thread-safe."""

    def __init__(self, seed: int) -> None:
        self.injected: Counter[str] = Counter()
        """How often each has struck."""
        self.places: frozenset[Place] = frozenset()
        """Where any waits. A look at it costs nothing, which is what most traffic pays."""
        self._bits = Random(seed).getrandbits
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Let it wait for its moment."""
        with self._lock:
            self._waiting.append(fault)
            self._look()

    def clear(self) -> None:
        """Forget those that wait; what lasts already goes on."""
        with self._lock:
            self._waiting.clear()
            self._look()

    def take(self, place: Place, market: str | None, *, certain_only: bool = False) -> Fault | None:
        """Return the fault that strikes there now, and count it; or None.

        A market of None stands for a moment that is no market's: only faults for any market strike in it.
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
                self._look()
                self.injected[fault.name] += 1
                return fault
        return None

    def bits(self, count: int) -> int:
        """Return so many random bits, for where in a frame a fault strikes."""
        with self._lock:
            return self._bits(count)

    def _look(self) -> None:
        self.places = frozenset(fault.place for fault in self._waiting)
