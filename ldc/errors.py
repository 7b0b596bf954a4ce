"""Every exception that ldc raises, with its origin.

    DepthCacheError                         the root; catch it to catch them all
    |-- DepthCacheOutOfSync                 no fault: the copy cannot be proven right at this moment; try again
    |   `-- BookNotLoaded                   no fault: no snapshot was loaded yet
    |-- DepthCacheNotFound                  the caller: no depth cache of that name
    |   `-- UnknownMarket                   the caller: the exchange does not know the market (-1121)
    |-- DepthCacheAlreadyStopped            the caller: the depth cache, or its manager, was stopped
    |-- DepthCacheClusterNotReachableError  the environment: kept for code that catches it
    |-- MalformedMessage (ValueError)       the exchange or the network: bytes that violate the protocol
    `-- UnknownExchange (ValueError)        the caller: no such exchange string

Rule 1: an exception has the market and the cause as attributes, so no program must parse the text.
Rule 2: the text says what happened, to which market, with which ids, and what to do.
Rule 3: the cause decides the class and the advice, in one table: `REFUSALS`.
Rule 4: a wrong argument is a plain ``ValueError`` or ``TypeError``; an error of ldc itself is an ``AssertionError``.
"""

from typing import Any, NamedTuple


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
        return f"{self._subject()} was stopped{self._because()}; create it again to use it."


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


# --- a read that is refused -----------------------------------------------------------------------------------------
#
# Both order books, the depth caches and the manager take these errors from the table, so that one state has one class,
# one cause and one advice. The causes are written as texts, because `ldc.types` is not above this module.


class Refusal(NamedTuple):
    """What is raised for a cause, and what its text says."""

    error: type[DepthCacheError]
    why: str
    advice: str


_WAIT = "wait until it is synchronized and read again"
_HORIZON = f"{_WAIT}, or load a new snapshot; the page 'horizon' of the documents explains it"
_PROOF = (
    "read again after the next proof; if that does not come, the thread that writes the book hangs or its connection "
    "is dead: resynchronize or restart it"
)
_STOPPED = "create it again to read it, with a new manager if that was stopped too"
_UNKNOWN = "check its spelling and the exchange string of the manager"

REFUSALS = {
    "NOT_LOADED": Refusal(BookNotLoaded, "it holds no snapshot yet", "load one first"),
    "LEFT_HORIZON": Refusal(DepthCacheOutOfSync, "no level is left inside its horizon", _HORIZON),
    "GAP": Refusal(DepthCacheOutOfSync, "an update was lost", _WAIT),
    "STREAM_CLOSED": Refusal(DepthCacheOutOfSync, "the connection that carried its updates ended", _WAIT),
    "IDS_WENT_BACK": Refusal(DepthCacheOutOfSync, "the exchange restarted its update ids", _WAIT),
    "TOO_OLD": Refusal(
        DepthCacheOutOfSync,
        "the last proof that it is current is older than max_age",
        "read again after the next update, or allow more: a market without trades has only one pong a ping interval",
    ),
    "SILENT": Refusal(DepthCacheOutOfSync, "the exchange has newer ids, but the stream delivered no update", _WAIT),
    "CROSSED": Refusal(
        DepthCacheOutOfSync, "its best bid is not below its best ask, which no matching engine shows", _WAIT
    ),
    "STALLED": Refusal(DepthCacheOutOfSync, "no proof has come yet that it is current", _PROOF),
    "HALTED": Refusal(
        DepthCacheOutOfSync,
        "the exchange has halted the market",
        "wait until the exchange resumes it; it is synchronized again then",
    ),
    "FEEDER_GONE": Refusal(
        DepthCacheOutOfSync,
        "the process that feeds the shared book has ended, or has never been there",
        "start that process and read again",
    ),
    "DIFFERENT": Refusal(DepthCacheOutOfSync, "two snapshots of the exchange differ from the book", _WAIT),
    "REQUESTED": Refusal(DepthCacheOutOfSync, "the caller requested a resync", _WAIT),
    "STOPPED": Refusal(DepthCacheAlreadyStopped, "it was stopped", _STOPPED),
    "UNKNOWN_MARKET": Refusal(UnknownMarket, "the exchange does not know the market", _UNKNOWN),
}
"""By cause. A cause that is not here was given to `suspend` by a program of its own; it is out of sync."""

_OTHER = Refusal(DepthCacheOutOfSync, "it is suspended", _WAIT)
_MORE = Refusal(
    DepthCacheOutOfSync,
    "the answer needs what lies past its horizon",
    "request less, or load a deeper snapshot; the page 'horizon' of the documents explains it",
)
FIRST_SNAPSHOT = Refusal(
    BookNotLoaded,
    "it waits for its first snapshot",
    "wait until it is synchronized; last_error in its status says why none came, if one was refused",
)


def refused(
    market: str | None, cause: str, last_update_id: int | None = None, *, why: str | None = None
) -> DepthCacheError:
    """Return the error for a book that cannot be read for this cause. `why` replaces the reason in the table."""
    return _error(REFUSALS.get(cause, _OTHER), market, cause, last_update_id, why)


def refused_unloaded(market: str | None, not_loaded: str, suspended_by: str | None) -> DepthCacheError:
    """Return the error for a book that holds no snapshot. `not_loaded` is the cause of that name.

    A book that is suspended has an owner that loads it; the reader can only wait. If it will never be loaded, the cause
    of the suspension says so.
    """
    if suspended_by is None:
        return refused(market, not_loaded)
    if is_final(suspended_by):
        return refused(market, suspended_by)
    return _error(FIRST_SNAPSHOT, market, not_loaded, None, None)


def is_final(cause: str) -> bool:
    """Return whether a book with this cause will never be readable again."""
    return not issubclass(REFUSALS.get(cause, _OTHER).error, DepthCacheOutOfSync)


def refused_as_stalled(
    market: str | None, cause: str, last_update_id: int, age_ns: int | None, allowed_ns: int
) -> DepthCacheError:
    """Return the error for a book whose lease has expired; `age_ns` is that of the last proof, None without one."""
    why = REFUSALS[cause].why if age_ns is None else f"the last proof that it is current came {age_ns / 1e9:.3f} s ago"
    return refused(market, cause, last_update_id, why=f"{why}, and {allowed_ns / 1e9:.3f} s are allowed")


def refused_past_horizon(
    market: str | None, cause: str, last_update_id: int, side: str, horizon: object
) -> DepthCacheError:
    """Return the error for a book one side of which has no level left inside its horizon."""
    why = f"no level is left in its {side} up to {horizon}, where the last snapshot ended"
    return refused(market, cause, last_update_id, why=why)


def refused_for_more(
    market: str | None, cause: str, last_update_id: int | None, side: str, horizon: object
) -> DepthCacheError:
    """Return the error for an answer that needs what lies past the horizon of a side."""
    why = f"the answer needs {side} past {horizon}, where they end that are known for certain"
    return _error(_MORE, market, cause, last_update_id, why)


def refused_as_too_old(
    market: str | None, cause: str, last_update_id: int | None, age_s: float, max_age_s: float
) -> DepthCacheError:
    """Return the error for a book whose last proof is older than the caller allows."""
    why = f"the last proof that it is current came {age_s:.3f} s ago, and max_age is {max_age_s:g} s"
    return refused(market, cause, last_update_id, why=why)


def stopped_manager(cause: str) -> DepthCacheAlreadyStopped:
    """Return the error for a call of a stopped manager that concerns no single market."""
    return DepthCacheAlreadyStopped(None, cause, f"The manager was stopped (cause: {cause}); make a new one.")


def _error(
    refusal: Refusal, market: str | None, cause: str, last_update_id: int | None, why: str | None
) -> DepthCacheError:
    subject = f"The depth cache of {market!r}" if market is not None else "The depth cache"
    place = f" at update id {last_update_id}" if last_update_id is not None else ""
    sentence = f"{subject} cannot be read{place} (cause: {cause}): {why or refusal.why}; {refusal.advice}."
    return refusal.error(market, cause, sentence)
