"""The lines for programs: one a second and market, `name=value` separated by single blanks.

Rule 1: the names and their order are stable: a new one is added at the end. No value contains a blank.
Rule 2: `-` is an unknown value, or one of a book that is not in sync.
"""

import datetime

from ldc.cli.samples import Sample
from ldc.cli.text import fixed

FIELDS = {
    "time": "of the sample, UTC",
    "market": "as the user spelt it",
    "state": "IDLE, BUFFERING, SYNCHRONIZED, STOPPED or FAILED",
    "cause": "why the book cannot be read",
    "id": "the update id of all prices in the line",
    "bid": "the best bid",
    "bid_size": "its quantity",
    "ask": "the best ask",
    "ask_size": "its quantity",
    "spread": "ask - bid",
    "mid": "(bid + ask) / 2",
    "updates_per_s": "over the last 5 s",
    "age_ms": "since the last update arrived",
    "bids": "levels in the book",
    "asks": "levels in the book",
    "bid_depth": "how far below mid the bids are known, in %, or all",
    "ask_depth": "how far above mid the asks are known, in %, or all",
    "resyncs": "how often the book was lost",
    "resyncs_by_cause": "such as GAP:2,STREAM_CLOSED:1",
    "reconnects": "of the connections that carry the market",
}
"""The names in their order, and their meaning."""


def plain_line(sample: Sample, unix_time_ns: int) -> str:
    """Return one market's line, without a line break."""
    time = datetime.datetime.fromtimestamp(unix_time_ns // 1_000_000 / 1000, datetime.UTC)
    status, decimals = sample.status, sample.price_decimals
    bid, ask = sample.best_bid, sample.best_ask
    depths = ["all" if depth is None else f"{depth:.3f}" for depth in (sample.bid_depth, sample.ask_depth)]
    is_known = sample.mid is not None
    values = (
        time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z",
        status.market,
        sample.state.value,
        sample.cause,
        sample.update_id if sample.is_readable else None,
        None if bid is None else fixed(bid[0], decimals),
        None if bid is None else fixed(bid[1], sample.quantity_decimals),
        None if ask is None else fixed(ask[0], decimals),
        None if ask is None else fixed(ask[1], sample.quantity_decimals),
        None if sample.spread is None else fixed(sample.spread, decimals),
        None if sample.mid is None else fixed(sample.mid, decimals + 1),
        None if sample.updates_per_s is None else f"{sample.updates_per_s:.1f}",
        None if sample.age_s is None else round(sample.age_s * 1000),
        status.bid_count if sample.is_readable else None,
        status.ask_count if sample.is_readable else None,
        depths[0] if is_known else None,
        depths[1] if is_known else None,
        sum(status.resyncs.values()),
        ",".join(f"{cause}:{count}" for cause, count in sorted(status.resyncs.items())) or None,
        status.reconnects,
    )
    return " ".join(f"{name}={'-' if value is None else value}" for name, value in zip(FIELDS, values, strict=True))
