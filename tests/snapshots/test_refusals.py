"""What the log says about refused snapshots: one warning with the advice, one line when it is over."""

import logging

import pytest
from live_kit import eventually, live, no_thread_is_left, synchronize  # noqa: F401
from log_kit import logged
from loopback_exchange import PATIENCE_S, RestReply, error_reply

from ldc.errors import BookNotLoaded
from ldc.snapshots.refusals import AGAIN_S, RefusalLog
from ldc.snapshots.reply import FailureKind, SnapshotBody, failure

BODY = SnapshotBody(b"{}", 1, None)


def refused(kind: FailureKind, market: str = "BTCUSDT") -> object:
    return failure(market, kind, "HTTP 503")


def noted(log: RefusalLog, result: object, now: float, market: str = "BTCUSDT") -> list[tuple[int, str]]:
    return [(line.level, line.text) for line in log.note("binance.com", market, result, now)]


def test_a_series_of_refusals_is_one_warning_and_one_line_when_it_is_over():
    log = RefusalLog()
    assert noted(log, BODY, 0.0) == []
    [(level, text)] = noted(log, refused(FailureKind.SERVER_ERROR), 10.0)
    assert level == logging.WARNING
    assert text.startswith("binance.com: snapshots are refused")
    assert "There is no snapshot of BTCUSDT: HTTP 503; ldc retries." in text
    for second in range(11, 30):
        assert noted(log, refused(FailureKind.TIMED_OUT, f"M{second}"), second, f"M{second}") == []
    [(level, text)] = noted(log, BODY, 40.0, "ANY")
    assert level == logging.INFO
    assert text == "binance.com: snapshots are served again after 30.0 s and 20 refusals"
    assert noted(log, BODY, 41.0) == []


def test_what_is_refused_again_and_again_with_answers_between_is_warned_of_once_a_minute():
    log = RefusalLog()
    lines = []
    for second in range(int(3 * AGAIN_S)):
        lines += noted(log, refused(FailureKind.SERVER_ERROR), second) + noted(log, BODY, second + 0.5)
    levels = [level for level, _ in lines]
    assert (levels.count(logging.WARNING), levels.count(logging.INFO)) == (3, 3)


def test_a_refusal_of_one_market_is_its_own_and_ends_with_its_own_snapshot():
    log = RefusalLog()
    [(level, text)] = noted(log, refused(FailureKind.REFUSED), 0.0)
    assert level == logging.WARNING
    assert "a snapshot is refused" in text
    assert noted(log, BODY, 1.0, "ETHUSDT") == []
    [(level, text)] = noted(log, refused(FailureKind.FORBIDDEN, "ETHUSDT"), 2.0, "ETHUSDT")
    assert level == logging.WARNING
    assert len(noted(log, BODY, 3.0, "BTCUSDT")) == 2
    assert noted(log, refused(FailureKind.UNKNOWN_MARKET), 4.0) == []  # the state of the market says it


def test_a_pause_that_the_exchange_demands_is_named():
    [(_, text)] = noted(RefusalLog(), refused(FailureKind.BANNED)._replace(retry_at=130.0), 10.0)
    assert text.endswith("The next one is requested in 120 s.")


REFUSALS = {
    "403": (lambda: RestReply(403, b"<html>forbidden"), "403 (forbidden, by a firewall)"),
    "418": (lambda: error_reply(418, -1003, "banned", {"Retry-After": "1"}), "reduce the requests of other programs"),
    "429": (lambda: error_reply(429, -1003, "slow down", {"Retry-After": "1"}), "429 (too many requests)"),
    "451": (lambda: RestReply(451, b"Unavailable"), "does not serve this location"),
    "503": (lambda: RestReply(503, b"busy"), "HTTP 503"),
    "html": (lambda: RestReply(200, b"<html>maintenance</html>"), "maintenance"),
    "-1100": (lambda: error_reply(400, -1100, "Illegal characters"), "-1100"),
}


def test_a_read_of_a_book_that_was_never_loaded_says_why_no_snapshot_came():
    """A regression: it said "load one first", and the reason stood in `last_error` only."""
    with live(_random=lambda: 0.0) as (exchange, manager):
        exchange.on_rest = lambda _request: RestReply(451, b"Unavailable")
        manager.create_depth_cache("BTCUSDT")
        eventually(lambda: manager.get_status("BTCUSDT").last_error, "the refusal")
        with pytest.raises(BookNotLoaded, match="waits for its first snapshot.*does not serve this location") as caught:
            manager.get_asks("BTCUSDT")
        assert (caught.value.market, caught.value.cause) == ("BTCUSDT", "NOT_LOADED")


@pytest.mark.parametrize("how", REFUSALS)
def test_a_refused_snapshot_is_logged_once_with_the_advice_and_once_when_it_is_over(caplog, monkeypatch, how):
    """A regression: nothing was logged, and the reason stood in `last_error` only."""
    monkeypatch.setattr("ldc.snapshots.queue.FORBIDDEN_PAUSE_S", 0.2)
    caplog.set_level(logging.INFO)
    reply, words = REFUSALS[how]
    refusals = iter(range(2))
    with live(_random=lambda: 0.0, snapshot_limit=100) as (exchange, manager):
        exchange.on_rest = lambda _request: reply() if next(refusals, None) is not None else None
        synchronize(exchange, manager)
        [warning] = [each.getMessage() for each in logged(caplog).records if each.levelno == logging.WARNING]
        assert words in warning
        over = [each.getMessage() for each in caplog.records if "served again" in each.getMessage()]
        assert len(over) == 1
        assert "2 refusals" in over[0]
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
