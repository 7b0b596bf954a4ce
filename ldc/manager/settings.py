"""A manager's parameters, checked once, as values.

Rule 1: the constructor reports every wrong parameter, by the name that the user wrote.
"""

import math
from dataclasses import dataclass, replace

from ldc.venues import Venue

REDUNDANCY_MAX = 4
"""Connections for the same markets, each with a successor during a handover. More would not be safer, and the exchange
counts connections. A larger `redundancy` is a ``ValueError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parameters of a manager that its depth caches need. Raises ``ValueError`` for a wrong one."""

    venue: Venue
    refresh_interval_s: float | None
    update_interval_ms: int | None
    snapshot_limit: int | None
    weight_share: float
    markets_per_connection: int
    redundancy: int
    init_interval_s: float | None
    init_time_window_s: float | None
    max_age_s: float | None
    restful_base_uri: str | None
    websocket_base_uri: str | None

    def __post_init__(self) -> None:
        self.venue.stream_name("BTCUSDT", self.update_interval_ms)
        self.venue.snapshot_steps(self.snapshot_limit)
        if self.restful_base_uri is not None:
            self.venue.snapshot_url(self.restful_base_uri)
        if self.websocket_base_uri is not None:
            self.venue.stream_url(self.websocket_base_uri)
        for name, seconds in (
            ("default_refresh_interval", self.refresh_interval_s),
            ("init_interval", self.init_interval_s),
            ("init_time_window", self.init_time_window_s),
            ("max_age", self.max_age_s),
        ):
            if seconds is not None:
                checked_seconds(name, seconds)
        most = self.venue.streams_per_connection
        if type(self.markets_per_connection) is not int or not 1 <= self.markets_per_connection <= most:
            raise ValueError(
                f"markets_per_connection is an int from 1 to {most} at {self.venue.exchange}, "
                f"not {self.markets_per_connection!r}"
            )

        if type(self.redundancy) is not int or not 1 <= self.redundancy <= REDUNDANCY_MAX:
            raise ValueError(f"redundancy is an int from 1 to {REDUNDANCY_MAX}, not {self.redundancy!r}")

    def at(self, restful_base_uri: str, websocket_base_uri: str) -> "Settings":
        """Return the same settings for an exchange at these addresses."""
        return replace(self, restful_base_uri=restful_base_uri, websocket_base_uri=websocket_base_uri)


def checked_seconds(name: str, seconds: float) -> float:
    """Return a positive, finite number of seconds; raise ``ValueError`` for anything else."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"{name} is a positive number of seconds, not {seconds!r}")
    return seconds
