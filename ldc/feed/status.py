"""What the connections have brought of a market: which is first, by how much, and when its book was proven current.

Rule 1: any thread may call this while the group's thread runs. It reads single values and keeps none. Two values of one
    result may be a moment apart.
"""

import math
from collections.abc import Sequence
from statistics import median

from ldc.feed.connection import ConnectionState, FeedConnection
from ldc.feed.market import LiveMarket
from ldc.types import ConnectionStatus


def connection_statuses(connections: Sequence[FeedConnection], market: LiveMarket) -> tuple[ConnectionStatus, ...]:
    """Return the status of each connection that brings a market, oldest first."""
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

    Three events are a proof. The latest counts:
    - An update of its stream was judged.
    - A ping was sent that has its pong, on a connection whose subscription had been acknowledged by then. What happened
      before the ping came before the pong.
    - A probe was requested that found nothing new.

    While a gap waits to be filled, nothing after its beginning is proven.
    """
    proofs = [market.heard_at, market.probed_at]
    for connection in connections:
        pinged_at = connection.proven_at
        if pinged_at >= connection.requests.acknowledged.get(market.stream, math.inf):
            proofs.append(pinged_at)
    gap_since = market.synchronizer.gap_since
    return max(proofs) if gap_since is None else min(gap_since, max(proofs))
