"""What can be told of a market's feeds: who is first, by how much, and since when the book is proven to be current.

Rule 1: any thread may call this while the group's thread goes on: it looks at single values and keeps none. What it
    tells of several values may be a moment apart.
"""

import math
from collections.abc import Sequence
from statistics import median

from ldc.feed.connection import ConnectionState, FeedConnection
from ldc.feed.market import LiveMarket
from ldc.types import ConnectionStatus

__all__ = ["connection_statuses", "proven_at"]


def connection_statuses(connections: Sequence[FeedConnection], market: LiveMarket) -> tuple[ConnectionStatus, ...]:
    """Return what there is to know about each connection that brings a market, oldest first."""
    open_ones = [each for each in connections if each.state is ConnectionState.OPEN]
    lags_ms = [median(lags_ns) / 1e6 if (lags_ns := each.reader.lags_ns()) else None for each in open_ones]
    found = []
    for place, connection in enumerate(open_ones):
        tally = connection.reader.tally(market.stream)
        if tally is None:
            continue
        others_ms = [lag_ms for lag_ms in (*lags_ms[:place], *lags_ms[place + 1 :]) if lag_ms is not None]
        own_ms = lags_ms[place]
        found.append(
            ConnectionStatus(
                connection.connection_id,
                connection.url,
                market.stream in connection.requests.acknowledged,
                tally.firsts,
                tally.duplicates,
                min(others_ms) - own_ms if others_ms and own_ms is not None else None,
                market.synchronizer.gaps_filled_by(connection.connection_id),
                connection.reading,
            )
        )
    return tuple(found)


def proven_at(connections: Sequence[FeedConnection], market: LiveMarket) -> float:
    """Return when the book was last proven to be current, by the monotonic clock.

    That is when an update of its stream was judged last; or when the last ping was sent that was answered on a
    connection whose subscription of it had been acknowledged by then: what happened before has come before the pong; or
    when a look-up was asked for that found nothing new. While a gap waits nothing is proven that came after it.
    """
    proofs = [market.heard_at, market.probed_at]
    for connection in connections:
        pinged_at = connection.proven_at
        if pinged_at is not None and pinged_at >= connection.requests.acknowledged.get(market.stream, math.inf):
            proofs.append(pinged_at)
    gap_since = market.synchronizer.gap_since
    return max(proofs) if gap_since is None else min(gap_since, max(proofs))
