"""A manager's parameters, checked once, as values.

Rule 1: the constructor reports every wrong parameter, by the name that the user wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ldc.limits import checked_weight_share
from ldc.manager import parameters
from ldc.venues import Venue, venue_named

REDUNDANCY_MAX = 4
"""Connections for the same markets, each with a successor during a handover. More would not be safer, and the exchange
counts connections. A larger `redundancy` is a ``ValueError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Other addresses of one exchange, for the parameter `exchanges` of a manager.

    Each is ``scheme://host[:port]``, or a list of addresses that serve the same, as the manager's own parameters of
    these names are.
    """

    restful_base_uri: str | Sequence[str] | None = None
    websocket_base_uri: str | Sequence[str] | None = None


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
        update_interval_ms = optional(parameters.integer, "depth_cache_update_interval")
        venue.stream_name("BTCUSDT", update_interval_ms)  # another exchange may have others: its first market shows it
        return cls(
            venue=venue,
            refresh_interval_s=optional(parameters.seconds, "default_refresh_interval"),
            update_interval_ms=update_interval_ms,
            snapshot_limit=optional(parameters.integer, "snapshot_limit"),
            weight_share=1.0 if parameters.flag("high_performance", high_performance) else share,
            markets_per_connection=parameters.integer("markets_per_connection", given["markets_per_connection"]),
            redundancy=parameters.integer("redundancy", given["redundancy"]),
            init_interval_s=optional(parameters.seconds, "init_interval"),
            init_time_window_s=optional(parameters.seconds, "init_time_window"),
            max_age_s=optional(parameters.seconds, "max_age"),
            restful_base_uri=given["restful_base_uri"],
            websocket_base_uri=given["websocket_base_uri"],
            weight_pool=optional(parameters.text, "weight_pool"),
        )

    def __post_init__(self) -> None:
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

    def of_exchange(self, name: str, endpoints: Endpoints) -> "Settings":
        """Return the settings for another exchange. It has addresses of its own, and perhaps fewer streams."""
        venue, uris = venue_at(name, endpoints.restful_base_uri, endpoints.websocket_base_uri)
        return replace(
            self,
            venue=venue,
            markets_per_connection=min(self.markets_per_connection, venue.streams_per_connection),
            restful_base_uri=uris["restful_base_uri"],
            websocket_base_uri=uris["websocket_base_uri"],
        )

    def at(self, restful_base_uri: str, websocket_base_uri: str) -> "Settings":
        """Return the same settings for an exchange at these addresses."""
        return replace(self, restful_base_uri=restful_base_uri, websocket_base_uri=websocket_base_uri)


def venue_at(exchange: Any, restful: Any, websocket: Any) -> tuple[Venue, dict[str, Any]]:
    """Return an exchange's row and the two base URIs by name; of lists, a row at those addresses and no base URI."""
    venue = venue_named(parameters.text("exchange", exchange))
    lists = parameters.base_uris(restful, websocket)
    uris = {"restful_base_uri": restful, "websocket_base_uri": websocket}
    if lists is not None:
        return venue.at(*lists), dict.fromkeys(uris)
    return venue, {name: None if uri is None else parameters.text(name, uri) for name, uri in uris.items()}


def settings_of_others(own: Settings, exchanges: Any) -> dict[str, Settings]:
    """Return the settings of the exchanges whose addresses a caller gives, by their names here."""
    if not isinstance(exchanges, Mapping):
        raise TypeError(f"exchanges maps names of exchanges to ldc.Endpoints, and {exchanges!r} does not")
    found = {}
    for name, endpoints in exchanges.items():
        if not isinstance(endpoints, Endpoints):
            raise TypeError(f"exchanges has an ldc.Endpoints for {name!r}, not {endpoints!r}")
        settings = own.of_exchange(name, endpoints)
        if settings.venue.exchange == own.venue.exchange:
            raise ValueError(
                f"{name!r} is the manager's own exchange: its addresses are restful_base_uri and websocket_base_uri"
            )
        found[settings.venue.exchange] = settings
    return found
