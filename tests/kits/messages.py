"""Messages as Binance sends them, to be loaded and applied in tests, and everything that can be read of a book."""

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from types import ModuleType
from typing import Any

Levels = Iterable[tuple[str, str]]


def make_snapshot(bids: Levels = (), asks: Levels = (), last_update_id: int = 100, **fields: Any) -> bytes:
    """Return the body of a REST snapshot; `fields` are added, such as E and T."""
    return dumps({"lastUpdateId": last_update_id, **fields, "bids": pairs(bids), "asks": pairs(asks)})


def make_update(
    first_update_id: int,
    last_update_id: int | None = None,
    previous_update_id: int | None = None,
    *,
    bids: Levels = (),
    asks: Levels = (),
    stream: str | None = None,
    **fields: Any,
) -> bytes:
    """Return a depth update, with `pu` if it is given, in a wrapper if a stream is. `fields` are added, or replace."""
    event: dict[str, Any] = {"e": "depthUpdate", "E": 1_700_000_000_000, "s": "BTCUSDT", "U": first_update_id}
    event["u"] = first_update_id if last_update_id is None else last_update_id
    if previous_update_id is not None:
        event["pu"] = previous_update_id
    event |= {"b": pairs(bids), "a": pairs(asks)} | fields
    return dumps(event if stream is None else {"stream": stream, "data": event})


def pairs(levels: Levels) -> list[list[str]]:
    return [list(level) for level in levels]


def dumps(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


BIDS = [("100.10", "1.000"), ("100.00", "2.500"), ("99.50", "4.000")]
ASKS = [("100.20", "0.500"), ("100.40", "3.000"), ("101.00", "7.000")]


def loaded_book(
    books: ModuleType,
    rule: str = "spot",
    *,
    bids: Levels = BIDS,
    asks: Levels = ASKS,
    last_update_id: int = 100,
    limit: int | None = 1000,
    **arguments: Any,
) -> Any:
    """Return a book with a small snapshot, complete on both sides unless another limit is given."""
    book = books.OrderBook(rule, **arguments)
    book.load_snapshot(make_snapshot(bids, asks, last_update_id), limit)
    return book


def exact_bids(book: Any) -> list[tuple[str, str]]:
    """Return all bids held, as text."""
    return list(book.held_levels(number=str).bids)


def exact_asks(book: Any) -> list[tuple[str, str]]:
    """Return all asks held, as text."""
    return list(book.held_levels(number=str).asks)


LOOKS = (
    "rule", "market", "is_loaded", "is_readable", "unreadable_cause", "suspended_by", "last_update_id", "event_time_ms",
    "transaction_time_ms", "received_time_ns", "bid_horizon", "ask_horizon", "bid_count", "ask_count", "is_crossed",
    "needs_attention", "last_header", "counters", "price_decimals", "quantity_decimals", "epoch",
)  # fmt: skip

READS: dict[str, Callable[[Any], Any]] = {
    "best_bid": lambda book: book.best_bid,
    "best_ask": lambda book: book.best_ask,
    "bids": lambda book: book.bids(),
    "asks": lambda book: book.asks(),
    "bids(3)": lambda book: book.bids(3),
    "asks(3)": lambda book: book.asks(3),
    "bids(threshold)": lambda book: book.bids(threshold_volume=1000),
    "asks(threshold)": lambda book: book.asks(threshold_volume=1000),
    "view(2)": lambda book: book.view(2),
    "view(str)": lambda book: book.view(number=str),
    "view(Decimal)": lambda book: book.view(number=Decimal, beyond_horizon=True),
    "view(all)": lambda book: book.view(beyond_horizon=True),
}


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or what it raises as (type, market, cause)."""
    try:
        return call()
    except Exception as error:
        return type(error), getattr(error, "market", None), getattr(error, "cause", None)


def everything(book: Any) -> dict[str, Any]:
    """Return all that can be read of a book; repr tells 1 from 1.0, and 1.0 from Decimal("1.00")."""
    looks = {name: repr(getattr(book, name)) for name in LOOKS}
    return looks | {name: repr(outcome(lambda read=read: read(book))) for name, read in READS.items()}


def everything_but_counters(book: Any) -> dict[str, Any]:
    return {name: value for name, value in everything(book).items() if name not in ("counters", "epoch")}
