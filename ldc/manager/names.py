"""How a manager names a market of one of its exchanges.

A plain name is a market of the manager's own exchange, whatever other exchanges it holds. A market of another one is
"exchange:market", which is also what everything reports that names it: items, errors, states, callbacks, logs.

Rule 1: pure functions. A name with an exchange that is not known raises `UnknownExchange`, with the one that was meant.
"""

from ldc.venues import OTHER_NAMES, VENUES, Venue, did_you_mean, plain_market, venue_named

SEPARATOR = ":"
"""Between an exchange and a market. Neither has one: a market is letters, digits and ``_ - .``."""


def joined(exchange: str, market: str) -> str:
    """Return the name of a market of an exchange."""
    return f"{exchange}{SEPARATOR}{market}"


def is_like_exchange(text: str) -> bool:
    """Whether a text is the name of an exchange, here or in another library, or nearly."""
    wanted = text.strip().lower()
    return wanted in VENUES or wanted in OTHER_NAMES or "." in wanted or did_you_mean(wanted, tuple(VENUES)) is not None


def at_exchange(market: str, exchange: str) -> str:
    """Return the name of a market at an exchange; ``ValueError`` if the market's name has another exchange in it."""
    venue = venue_named(exchange)
    found, plain = split(market, venue)
    if found is not venue:
        raise ValueError(f"{market!r} is a market of {found.exchange}, and exchange={exchange!r} says another one")
    return joined(venue.exchange, plain)


def split(name: str, own: Venue) -> tuple[Venue, str]:
    """Return the exchange and the market of a name; without an exchange in it, `own`.

    Raises `UnknownExchange`. A market as other libraries spell it, such as BTC/USDT:USDT, has no exchange in it.
    """
    exchange, separator, market = name.partition(SEPARATOR)
    if not separator or (plain_market(name) is not None and not is_like_exchange(exchange)):
        return own, name
    return venue_named(exchange), market
