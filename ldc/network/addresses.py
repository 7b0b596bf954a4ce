"""In which order and when the addresses of a host are tried, as RFC 8305 says. Without sockets and clocks.

Rule 1: one bad address does not block the others. The next one begins `STAGGER_S` after the one before, and at once
    when that has failed, whatever the error.
Rule 2: what failed last is tried last. An address that did not answer before another one did counts as failed.
Rule 3: memory is bounded: the failures of at most `REMEMBERED_MAX` addresses are kept, the oldest goes.

Addresses that have not failed keep the order in which the name server gave them, with the families in turn. So an
exchange that spreads its clients over its addresses still does, and redundant connections may get different ones.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

STAGGER_S = 0.25
"""The next address is tried so long after the one before (RFC 8305, section 8)."""

FAILED_S = 600.0
"""An address that failed is tried last for so long, or until it works."""

ADDRESSES_MAX = 16
"""At most so many addresses of a host are tried; the others are ignored, lest one name uses up the descriptors."""

REMEMBERED_MAX = 256
"""At most so many addresses are remembered."""


class Address(NamedTuple):
    """Where a socket can connect to, as ``socket.getaddrinfo`` says it."""

    family: int
    place: tuple[Any, ...]
    """The host as numbers, the port, and for IPv6 more."""

    @property
    def key(self) -> tuple[str, int]:
        """What an address is remembered by."""
        return str(self.place[0]), int(self.place[1])


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with the families in turn, the first one's first (RFC 8305, section 4)."""
    families: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address.family, []).append(address)
    longest = max(map(len, families.values()), default=0)
    return [of[turn] for turn in range(longest) for of in families.values() if turn < len(of)]


class AddressMemory:
    """Which addresses have failed, and when. Not thread-safe."""

    def __init__(self) -> None:
        self._failed_at: dict[tuple[str, int], float] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._failed_at)

    def ordered(self, addresses: Iterable[Address], now: float) -> list[Address]:
        """Return the addresses in the order in which to try them, at most `ADDRESSES_MAX`."""
        failed_at = {key: at for key, at in self._failed_at.items() if now - at < FAILED_S}
        ordered = sorted(interleaved(addresses), key=lambda address: failed_at.get(address.key, -math.inf))
        return ordered[:ADDRESSES_MAX]

    def failed(self, key: tuple[str, int], now: float) -> None:
        """A connection to that address could not be made, or ended by a failure."""
        self._failed_at.pop(key, None)
        self._failed_at[key] = now
        while len(self._failed_at) > REMEMBERED_MAX:
            del self._failed_at[next(iter(self._failed_at))]

    def worked(self, key: tuple[str, int]) -> None:
        """A connection to that address was made."""
        self._failed_at.pop(key, None)


class Attempts:
    """The attempts to reach one host: which address is tried next, and when."""

    def __init__(self, addresses: Sequence[Address], now: float) -> None:
        self._waiting = list(addresses)
        self._next_at = now
        self.pending: list[Address] = []
        """Begun, and not decided yet; the oldest first."""

    @property
    def next_at(self) -> float:
        """When `begin` has the next address; infinity if none is left."""
        return self._next_at if self._waiting else math.inf

    @property
    def is_over(self) -> bool:
        """Whether every address has failed."""
        return not self._waiting and not self.pending

    def begin(self, now: float) -> Address | None:
        """Return the address to try now, or None: not yet, or none is left."""
        if not self._waiting or now < self._next_at:
            return None
        address = self._waiting.pop(0)
        self.pending.append(address)
        self._next_at = now + STAGGER_S
        return address

    def overtaken_by(self, address: Address) -> list[Address]:
        """Return those that began before this one, which was connected, and had more time for it."""
        return self.pending[: self.pending.index(address)]

    def failed(self, address: Address, now: float) -> None:
        """An attempt failed: the next one begins at once."""
        self.pending.remove(address)
        self._next_at = now
