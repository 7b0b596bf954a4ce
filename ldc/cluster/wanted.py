"""The markets that a cluster keeps: a list that every node holds, merged by "the last writer wins".

Rule 1: merging is commutative, associative and idempotent. So the order in which lists arrive does not matter.
Rule 2: "last" is counted, not timed: a writer takes one past the highest version that it has seen. No clock is used.
Rule 3: what a node's command line names has the version 0. So any later `add` or `remove` wins over a restart.
Rule 4: a removed market stays in the list, as removed. Otherwise a node that was away would bring it back.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

MARKETS_MAX = 20_000
"""Entries of the list, removed ones included. An entry beyond is refused with a ``ValueError``."""

MARKET_CHARACTERS_MAX = 64
"""Characters of a market's name. Binance's longest is half as long."""

REPLICAS_MAX = 9
"""Replicas of a market. More protect against nothing that fewer do not."""

LIST_BYTES_MAX = 4 * 2**20
"""Bytes of a list as it is sent, unpacked. A longer one is refused."""


class Entry(NamedTuple):
    """One market of the list. The fields are in the order in which entries are compared."""

    version: int
    """How late it was written: one past the highest version that its writer had seen."""
    writer: str
    """Who wrote it; "" for a command line. It decides between two that were written at the same time."""
    replicas: int
    """How many nodes keep the market; 0: it was removed."""

    @property
    def is_wanted(self) -> bool:
        """Whether the cluster shall keep the market."""
        return self.replicas > 0


def checked_replicas(replicas: int) -> int:
    """Return the number of replicas; raise ``ValueError`` for one that no market can have."""
    if not 1 <= replicas <= REPLICAS_MAX:
        raise ValueError(f"replicas is 1 to {REPLICAS_MAX}, not {replicas}")
    return replicas


def checked_market(market: str) -> str:
    """Return the name of a market; raise ``ValueError`` if it cannot be a part of a key."""
    allowed = set("/*$?#") | set(map(chr, range(33)))
    if not 0 < len(market) <= MARKET_CHARACTERS_MAX or set(market) & allowed or not market.isprintable():
        raise ValueError(f"{market!r} cannot be a market of a cluster: 1 to {MARKET_CHARACTERS_MAX} plain characters")
    return market


class WantedMarkets:
    """The list of one node. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._digest: int | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the markets that shall be kept."""
        return (market for market, entry in self._entries.items() if entry.is_wanted)

    def __contains__(self, market: object) -> bool:
        return self.replicas(str(market)) > 0

    def __len__(self) -> int:
        return sum(entry.is_wanted for entry in self._entries.values())

    def replicas(self, market: str) -> int:
        """Return how many nodes shall keep a market; 0: none."""
        entry = self._entries.get(market)
        return 0 if entry is None else entry.replicas

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All entries, removed markets included."""
        return self._entries

    @property
    def digest(self) -> int:
        """A number that is the same for equal lists, on every machine."""
        if self._digest is None:
            self._digest = zlib.crc32(self._text().encode())
        return self._digest

    def name_at_start(self, markets: Iterable[str], replicas: int) -> set[str]:
        """Take the markets of a command line; return those that changed."""
        checked_replicas(replicas)
        return self.merge({checked_market(market): Entry(0, "", replicas) for market in markets})

    def add(self, markets: Iterable[str], replicas: int, writer: str) -> set[str]:
        """Write that these markets shall be kept; return those that changed."""
        return self._write(markets, checked_replicas(replicas), writer)

    def remove(self, markets: Iterable[str], writer: str) -> set[str]:
        """Write that these markets shall not be kept any more; return those that changed."""
        return self._write(markets, 0, writer)

    def merge(self, entries: Mapping[str, Entry]) -> set[str]:
        """Take the later of each two entries; return the markets whose replicas changed."""
        if len(self._entries.keys() | entries.keys()) > MARKETS_MAX:
            raise ValueError(f"the list of markets would have more than {MARKETS_MAX} entries")
        changed = set()
        for market, entry in entries.items():
            known = self._entries.get(market)
            if known is None or entry > known:
                self._entries[market] = entry
                self._digest = None
                if entry.replicas != (0 if known is None else known.replicas):
                    changed.add(market)
        return changed

    def to_bytes(self) -> bytes:
        """Return the list as it is sent."""
        return zlib.compress(self._text().encode())

    def _write(self, markets: Iterable[str], replicas: int, writer: str) -> set[str]:
        names = [checked_market(market) for market in markets]
        version = 1 + max((entry.version for entry in self._entries.values()), default=0)
        new = {name: Entry(version, writer, replicas) for name in names if self.replicas(name) != replicas}
        return self.merge(new)

    def _text(self) -> str:
        return json.dumps({market: list(entry) for market, entry in sorted(self._entries.items())})


def entries_from_bytes(data: bytes) -> dict[str, Entry]:
    """Return the entries of a list that another node sent. Raises ``ValueError`` for bytes that are none."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, LIST_BYTES_MAX)
    except zlib.error as error:
        raise ValueError(f"a list of markets cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"a list of markets has more than {LIST_BYTES_MAX} bytes, or was cut")
    found: Any = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("a list of markets is no JSON object")  # noqa: TRY004 - the value of bytes, not a type
    return {checked_market(market): _entry(fields) for market, fields in found.items()}


def _entry(fields: Any) -> Entry:
    match fields:
        case [int(version), str(writer), int(replicas)] if version >= 0 and 0 <= replicas <= REPLICAS_MAX:
            return Entry(version, writer, replicas)
    raise ValueError(f"{fields!r} is no entry of a list of markets")
