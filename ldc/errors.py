"""Every exception that ldc raises, with its origin.

    DepthCacheError                         the root; catch it to catch them all
    |-- DepthCacheOutOfSync                 no fault: the copy cannot be proven right at this moment; try again
    |   `-- BookNotLoaded                   no fault: no snapshot was loaded yet
    |-- DepthCacheNotFound                  the caller: no depth cache of that name
    |   `-- UnknownMarket                   the caller: the exchange does not know the market (-1121)
    |-- DepthCacheAlreadyStopped            the caller: the depth cache was stopped before
    |-- DepthCacheClusterNotReachableError  the environment: kept for code that catches it
    |-- MalformedMessage (ValueError)       the exchange or the network: bytes that violate the protocol
    `-- UnknownExchange (ValueError)        the caller: no such exchange string

Rule 1: an exception has the market and the cause as attributes, so no program must parse the text.
Rule 2: the text says what happened, to which market, with which ids, and what to do.
Rule 3: a wrong argument is a plain ``ValueError`` or ``TypeError``; an error of ldc itself is an ``AssertionError``.
"""

from typing import Any


class DepthCacheError(Exception):
    """The root of all errors of ldc.

    Attributes:
        market: the market, as the caller spelt it, or None.
        cause: a short stable name (see ``ldc.Cause``), or None.
        message: the whole text, the same as ``str(error)``.
    """

    def __init__(self, market: str | None = None, cause: str | None = None, message: str | None = None) -> None:
        self.market = market
        self.cause = cause
        self.message = message if message is not None else self._sentence()
        super().__init__(self.message)

    def _sentence(self) -> str:
        return f"{self._subject()} failed{self._because()}."

    def _subject(self) -> str:
        return f"The depth cache of {self.market!r}" if self.market is not None else "The depth cache"

    def _because(self) -> str:
        return f" (cause: {self.cause})" if self.cause is not None else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would pass the message as the market.
        return type(self), (self.market, self.cause, self.message)


class DepthCacheOutOfSync(DepthCacheError):
    """The book cannot be proven to equal the exchange's at this moment, so nothing is returned.

    ldc is already resynchronizing. Wait (``wait_until_synchronized``) or try again.
    """

    def _sentence(self) -> str:
        return f"{self._subject()} is out of sync{self._because()}; wait until it is synchronized and read again."


class BookNotLoaded(DepthCacheOutOfSync):
    """No snapshot was loaded yet: the book has nothing to read or to update."""

    def _sentence(self) -> str:
        return f"{self._subject()} holds no snapshot yet{self._because()}; load one first."


class DepthCacheNotFound(DepthCacheError):
    """No depth cache of this name was ever created."""

    def _sentence(self) -> str:
        return f"{self._subject()} does not exist{self._because()}; create it with create_depth_cache() first."


class UnknownMarket(DepthCacheNotFound):
    """The exchange does not know this market (its error -1121): it is misspelt or delisted."""

    def _sentence(self) -> str:
        return f"The exchange does not know the market {self.market!r}{self._because()}; check its spelling."


class DepthCacheAlreadyStopped(DepthCacheError):
    """The depth cache was stopped; create it again to read it."""

    def _sentence(self) -> str:
        return f"{self._subject()} is already stopped{self._because()}; create it again to use it."


class DepthCacheClusterNotReachableError(DepthCacheError):
    """A depth cache cluster did not answer. The argument is its address, as in UBLDC."""

    def __init__(self, url: str | None = None, cause: str | None = None, message: str | None = None) -> None:
        self.url = url
        super().__init__(None, cause, message)

    def _sentence(self) -> str:
        return f"The depth cache cluster at {self.url!r} cannot be reached{self._because()}."

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.cause, self.message)


class MalformedMessage(DepthCacheError, ValueError):
    """A message violates the protocol. Nothing of it was used: the book is unchanged."""

    def _sentence(self) -> str:
        whose = f" for {self.market!r}" if self.market is not None else ""
        return f"The message{whose} cannot be read{self._because()}; nothing of it was used."


class UnknownExchange(DepthCacheError, ValueError):
    """ldc does not know the exchange string."""

    def _sentence(self) -> str:
        return f"The exchange is not known{self._because()}."


# What both order books say when they refuse to be read. The cause is an argument, for `ldc.types` is not above this.


def stalled(
    market: str | None, cause: str, last_update_id: int, age_ns: int | None, allowed_ns: int
) -> DepthCacheOutOfSync:
    """Return the error for a book whose lease has expired; `age_ns` is that of the last proof, None without one."""
    allowed = f"{allowed_ns / 1e9:.3f} s are allowed"
    why = f"no proof has come yet that it is current, and {allowed}"
    if age_ns is not None:
        why = f"the last proof that it is current came {age_ns / 1e9:.3f} s ago, and {allowed}"
    what_to_do = (
        "read again after the next proof; if that does not come, the thread that writes the book hangs or its "
        "connection is dead: resynchronize or restart it"
    )
    return _unreadable(market, cause, last_update_id, why, what_to_do)


def crossed(market: str | None, cause: str, last_update_id: int) -> DepthCacheOutOfSync:
    """Return the error for a book whose best bid is not below its best ask."""
    why = "its best bid is not below its best ask, which no matching engine shows"
    return _unreadable(market, cause, last_update_id, why, _SYNCHRONIZE)


def left_horizon(market: str | None, cause: str, last_update_id: int, side: str, horizon: float) -> DepthCacheOutOfSync:
    """Return the error for a book one side of which has no level left inside its horizon."""
    why = f"no level is left in its {side} up to {horizon}, where the last snapshot ended"
    return _unreadable(market, cause, last_update_id, why, _SYNCHRONIZE)


_SYNCHRONIZE = "load a new snapshot, or wait until it is synchronized and read again"


def _unreadable(market: str | None, cause: str, last_update_id: int, why: str, what_to_do: str) -> DepthCacheOutOfSync:
    subject = f"The depth cache of {market!r}" if market is not None else "The depth cache"
    sentence = f"{subject} cannot be read at update id {last_update_id} (cause: {cause}): {why}; {what_to_do}."
    return DepthCacheOutOfSync(market, cause, sentence)
