"""A manager's parameters, checked once, as values.

Rule 1: the constructor reports every wrong parameter, by the name that the user wrote.
"""

from dataclasses import dataclass, replace
from typing import Any

from ldc.limits import checked_weight_share
from ldc.manager import parameters
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
    weight_pool: str | None

    @classmethod
    def checked(cls, venue: Venue, *, high_performance: Any, **given: Any) -> "Settings":
        """Return the settings for parameters of any type, by their names in the manager's constructor."""

        def optional(check: Any, name: str) -> Any:
            return None if given[name] is None else check(name, given[name])

        share = checked_weight_share(parameters.number("weight_share", given["weight_share"]))
        return cls(
            venue=venue,
            refresh_interval_s=optional(parameters.seconds, "default_refresh_interval"),
            update_interval_ms=optional(parameters.integer, "depth_cache_update_interval"),
            snapshot_limit=optional(parameters.integer, "snapshot_limit"),
            weight_share=1.0 if parameters.flag("high_performance", high_performance) else share,
            markets_per_connection=parameters.integer("markets_per_connection", given["markets_per_connection"]),
            redundancy=parameters.integer("redundancy", given["redundancy"]),
            init_interval_s=optional(parameters.seconds, "init_interval"),
            init_time_window_s=optional(parameters.seconds, "init_time_window"),
            max_age_s=optional(parameters.seconds, "max_age"),
            restful_base_uri=optional(parameters.text, "restful_base_uri"),
            websocket_base_uri=optional(parameters.text, "websocket_base_uri"),
            weight_pool=optional(parameters.text, "weight_pool"),
        )

    def __post_init__(self) -> None:
        self.venue.stream_name("BTCUSDT", self.update_interval_ms)
        self.venue.snapshot_steps(self.snapshot_limit)
        if self.restful_base_uri is not None:
            self.venue.snapshot_url(self.restful_base_uri)
        if self.websocket_base_uri is not None:
            self.venue.stream_url(self.websocket_base_uri)
        most = self.venue.streams_per_connection
        if not 1 <= self.markets_per_connection <= most:
            raise ValueError(
                f"markets_per_connection is an int from 1 to {most} at {self.venue.exchange}, "
                f"not {self.markets_per_connection!r}"
            )
        if self.weight_pool == "":
            raise ValueError("weight_pool is a name, or None, not ''")
        if not 1 <= self.redundancy <= REDUNDANCY_MAX:
            raise ValueError(f"redundancy is an int from 1 to {REDUNDANCY_MAX}, not {self.redundancy!r}")

    def at(self, restful_base_uri: str, websocket_base_uri: str) -> "Settings":
        """Return the same settings for an exchange at these addresses."""
        return replace(self, restful_base_uri=restful_base_uri, websocket_base_uri=websocket_base_uri)
