"""Figures for Prometheus: a collector over a manager, for an endpoint of one's own or the gateway's `/metrics`.

    from prometheus_client import REGISTRY
    REGISTRY.register(ldc.metrics.collector(manager))

Rule 1: nothing is counted for this. A scrape reads the status of each depth cache: no cost for an update.
Rule 2: every family is named `ldc_...`, has a unit at its end, and the labels `exchange` and `market`.
Rule 3: what is unknown has no sample. A book that cannot be read has no levels and no age, but a cause.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "the metrics need prometheus-client: pip install 'binance-local-depth-cache[gateway]'", name="prometheus_client"
    ) from error

import ldc

__all__ = ["collector", "exposition"]

Status = ldc.DepthCacheStatus

GAUGES: dict[str, tuple[str, Callable[[Status], float | None]]] = {
    "ldc_book_synchronized": ("1: both sides can be read", lambda status: float(status.is_synchronized)),
    "ldc_book_proof_age_seconds": ("Since the last proof that the book is current", lambda status: status.proof_age_s),
    "ldc_book_update_id": ("The exchange's update id of the book", lambda status: status.last_update_id),
    "ldc_book_event_time_seconds": (
        "The exchange's time of the last message",
        lambda status: None if status.event_time_ms is None else status.event_time_ms / 1000,
    ),
    "ldc_book_received_time_seconds": (
        "When the last message arrived, by the local clock",
        lambda status: None if status.received_time_ns is None else status.received_time_ns / 1e9,
    ),
    "ldc_book_state_since_seconds": ("When the market entered its state", lambda status: status.state_since),
    "ldc_book_connections": ("Connections that carry the market", lambda status: len(status.connections)),
}
"""Name -> what it says, and its value; None: no sample."""

COUNTERS: dict[str, tuple[str, Callable[[Status], float]]] = {
    "ldc_updates_applied": ("Depth updates applied", lambda status: status.counters.updates_applied),
    "ldc_updates_overlapping": ("Applied updates that overlapped", lambda status: status.counters.updates_overlapping),
    "ldc_updates_malformed": ("Updates that could not be read", lambda status: status.counters.updates_malformed),
    "ldc_snapshots_loaded": ("Snapshots loaded", lambda status: status.counters.snapshots_loaded),
    "ldc_restarts": ("Recoveries from an interruption of the stream", lambda status: status.restart_count),
    "ldc_reconnects": ("Connections begun after the first one, renewals included", lambda status: status.reconnects),
}
"""Name -> what it says, and its value. The suffix `_total` is added by the format."""

BY_REASON: dict[str, tuple[str, str, Callable[[Status], Mapping[str, int]]]] = {
    "ldc_resyncs": ("Losses of the synchronization", "cause", lambda status: status.resyncs),
    "ldc_updates_dropped": ("Depth updates that were not applied", "reason", lambda status: status.updates_dropped),
    "ldc_snapshots_dropped": ("Snapshots that were not used", "reason", lambda status: status.snapshots_dropped),
    "ldc_audits": ("Completed refreshes", "result", lambda status: status.audits),
}
"""Name -> what it says, the label of the reason, and counts by reason."""

_LABELS = ("exchange", "market")


class _Collector(Collector):
    """Reads a manager at each scrape."""

    def __init__(self, manager: ldc.BinanceLocalDepthCacheManager, extra: Callable[[], Mapping[str, int]]) -> None:
        self._manager, self._extra = manager, extra

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        began = time.perf_counter()
        yield InfoMetricFamily(
            "ldc", "The version of ldc", {"version": ldc.__version__, "implementation": ldc.IMPLEMENTATION}
        )
        statuses = list(self._statuses())
        yield from _families(statuses)
        progresses = {exchange: self._manager.get_progress(exchange) for exchange in self._manager.exchanges}
        for name in ("synchronized", "failed", "total"):
            gauge = GaugeMetricFamily(f"ldc_markets_{name}", f"Depth caches: {name}", labels=["exchange"])
            for exchange, progress in progresses.items():
                gauge.add_metric([exchange], getattr(progress, name))
            yield gauge
        events = CounterMetricFamily("ldc_gateway_events", "What has happened at the gateway", labels=["event"])
        for event, count in sorted(self._extra().items()):
            events.add_metric([event], count)
        yield events
        duration = GaugeMetricFamily("ldc_scrape_duration_seconds", "How long this took")
        duration.add_metric([], time.perf_counter() - began)
        yield duration

    def _statuses(self) -> Iterator[Status]:
        for market in self._manager.get_list_of_depth_caches():
            try:
                yield self._manager.get_depth_cache(market).status()
            except ldc.DepthCacheError:  # stopped meanwhile
                continue


def _names(status: Status) -> tuple[str, str]:
    """Return the labels of a market. That of another exchange than the manager's own is reported with it before it."""
    return status.exchange, status.market.removeprefix(f"{status.exchange}:")


def _families(statuses: list[Status]) -> Iterator[Metric]:
    for name, (text, value_of) in GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_LABELS)
        for status in statuses:
            value = value_of(status)
            if value is not None:
                gauge.add_metric(_names(status), value)
        yield gauge
    levels = GaugeMetricFamily("ldc_book_levels", "Levels held", labels=(*_LABELS, "side"))
    states = GaugeMetricFamily("ldc_book_state", "1: the state that the market is in", labels=(*_LABELS, "state"))
    causes = GaugeMetricFamily("ldc_book_cause", "1: why it cannot be read", labels=(*_LABELS, "cause"))
    for status in statuses:
        of = _names(status)
        levels.add_metric((*of, "bids"), status.bid_count)
        levels.add_metric((*of, "asks"), status.ask_count)
        states.add_metric((*of, status.state.value), 1)
        if status.cause is not None:
            causes.add_metric((*of, status.cause), 1)
    yield from (levels, states, causes)
    for name, (text, count_of) in COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=_LABELS)
        for status in statuses:
            counter.add_metric(_names(status), count_of(status))
        yield counter
    for name, (text, label, counts_of) in BY_REASON.items():
        counter = CounterMetricFamily(name, text, labels=(*_LABELS, label))
        for status in statuses:
            for reason, count in counts_of(status).items():
                counter.add_metric((*_names(status), reason), count)
        yield counter


def collector(manager: ldc.BinanceLocalDepthCacheManager, extra: Callable[[], Mapping[str, int]] = dict) -> Any:
    """Return a collector for a `prometheus_client` registry. O(markets) for each scrape, nothing between.

    `extra`: more counts by name, as `ldc_gateway_events`.
    """
    return _Collector(manager, extra)


def exposition(of: Any) -> tuple[bytes, str]:
    """Return the text of one collector in the format OpenMetrics, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(of)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text, CONTENT_TYPE_LATEST
