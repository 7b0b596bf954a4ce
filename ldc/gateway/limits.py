"""What one client may use up, and all of them together. What happens at a limit is written beside it.

Each limit has a counter of the same name in `/ldc/status`: how often it was reached.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """The limits of a gateway. Raises ``ValueError`` for one that is not above 0."""

    connections_max: int = 2000
    """TCP connections. One more is aborted at once."""
    head_s: float = 10.0
    """Seconds for a request line and its headers, from their first byte; also for the first one, from the connect. Then
    the connection is aborted."""
    handshake_s: float = 5.0
    """Seconds for a TLS handshake. Then the connection is aborted."""
    request_s: float = 30.0
    """Seconds for a request and its whole answer, and of silence between two. Then the connection is aborted."""
    line_bytes_max: int = 8190
    """Bytes of a request line. A longer one is answered with 400."""
    head_bytes_max: int = 8190
    """Bytes of one header. A longer one is answered with 400."""
    body_bytes_max: int = 64 << 10
    """Bytes of a request's body. A longer one is answered with 413, unread."""
    message_bytes_max: int = 64 << 10
    """Bytes of a websocket message from a client. A longer one ends the connection with 1009."""
    messages_per_second: int = 5
    """Websocket messages from a client in any second, pings and pongs included, as at the exchange. One more ends the
    connection with 1008."""
    markets_max: int = 1000
    """Markets that clients may create, with those that there are. One more is refused."""
    conflated_bytes: int = 64 << 10
    """Bytes that wait for a client. With more, it gets no state of a book before it has read: then the newest."""
    unsent_bytes_max: int = 4 << 20
    """Bytes that wait for a client that must get every message. The connection is aborted: never a silent hole."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise ValueError(f"{each.name} must be above 0, and is {getattr(self, each.name)!r}")


PONG_S = 60.0
"""Seconds that a websocket client has for a pong; then the connection is aborted."""

LINGER_S = 1.0
"""Seconds for which a websocket that the gateway closes is read on, so that its client gets the close frame."""

PING_S = 20.0
"""Seconds between two pings of the gateway to a websocket client."""

REQUEST_AGAIN_S = 0.5
"""Seconds until a market that is not served yet, or no longer, is requested of the manager again."""

SLOW_CLIENT_S = 0.02
"""Seconds between two looks whether a client that reads slowly has read. Nobody looks while all clients read."""

EXCHANGE_INFO_S = 3600.0
"""Seconds for which the exchange's `exchangeInfo` is kept. It is fetched again at the first request after them."""

EXCHANGE_INFO_TIMEOUT_S = 20.0
"""Seconds for fetching it; then the request is answered with 503, or with an older one if there is one."""

EXCHANGE_INFO_BYTES_MAX = 64 << 20
"""Bytes of it; a longer one is refused as a failure of the exchange."""

STOP_S = 5.0
"""Seconds that `stop` waits for the thread."""

STATUS_AGE_S = 0.2
"""Seconds for which a status is kept for further requests."""
