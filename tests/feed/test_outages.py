"""What the log says of a group's markets: a line for each loss and return, one for what concerns a connection."""

import logging
from typing import Any

import pytest
from live_kit import eventually, live, no_thread_is_left, reach, synchronize  # noqa: F401
from log_kit import logged
from loopback_exchange import PATIENCE_S

from ldc.feed.outages import SINGLE_LOSSES_MAX, STILL_S, OutageLog
from ldc.sync.actions import StateChanged
from ldc.types import Cause, SyncState

BUFFERING, SYNCHRONIZED = SyncState.BUFFERING, SyncState.SYNCHRONIZED


class NamedMarket:
    """As much of a market as its log line uses."""

    def __init__(self, market: str) -> None:
        self.market = market
        self.last_error: str | None = None


class Kit:
    """A log with markets that are told to it by hand."""

    def __init__(self, caplog: pytest.LogCaptureFixture, count: int) -> None:
        caplog.set_level(logging.INFO)
        self.caplog = caplog
        self.log = OutageLog("feed")
        self.markets: list[Any] = [NamedMarket(f"M{number}") for number in range(count)]
        for market in self.markets:
            self.log.added(market, 0.0)

    def lose(self, market: Any, now: float, cause: Cause = Cause.STREAM_CLOSED, state: SyncState = BUFFERING) -> None:
        self.log.note(market, StateChanged(state, SYNCHRONIZED, cause, 7, None, None), now)

    def back(self, market: Any, now: float, cause: Cause = Cause.STREAM_CLOSED) -> None:
        self.log.note(market, StateChanged(SYNCHRONIZED, BUFFERING, cause, 8, None, None), now)

    def lines(self) -> list[tuple[str, str]]:
        """Return level and text of what was logged since the last call."""
        found = [(each.levelname, each.getMessage()) for each in logged(self.caplog).records]
        self.caplog.clear()
        return found


@pytest.fixture
def kit(caplog: pytest.LogCaptureFixture) -> Kit:
    return Kit(caplog, 100)


def all_back(kit: Kit, now: float) -> None:
    for market in kit.markets:
        kit.back(market, now)


def test_a_hundred_markets_are_one_line_when_all_are_synchronized_and_one_after_each_loss(kit):
    all_back(kit, 3.0)
    assert kit.lines() == [("INFO", "feed: all 100 markets are synchronized, after 3.00 s")]
    for market in kit.markets:
        kit.lose(market, 10.0)
    assert kit.lines() == []  # the connection's own line says it
    all_back(kit, 10.5)
    assert kit.lines() == [("INFO", "feed: all 100 markets are synchronized again, after 0.50 s")]


def test_markets_that_stay_behind_are_told_with_an_example_and_less_and_less_often(kit):
    for market in kit.markets[:97]:
        kit.back(market, 1.0)
    kit.markets[98].last_error = "HTTP 503"
    kit.back(kit.markets[97], 1.0)
    assert kit.log.next_due == STILL_S
    told = []
    for second in range(200):
        kit.log.tick(float(second), kit.markets)
        told += [second] * len(lines) if (lines := kit.lines()) else []
    assert told == [10, 30, 70, 150]
    kit.log.tick(1000.0, kit.markets)
    assert kit.lines() == [
        ("INFO", "feed: 2 of 100 markets cannot be read after 1000.0 s, such as M98: HTTP 503"),
    ]
    kit.lose(kit.markets[98], 1001.0, Cause.STOPPED, SyncState.STOPPED)
    kit.back(kit.markets[99], 1002.0)
    assert kit.lines() == [("INFO", "feed: all 99 markets are synchronized, after 1002.00 s")]
    assert kit.log.next_due == float("inf")


@pytest.mark.parametrize(("cause", "level"), [(Cause.GAP, "WARNING"), (Cause.REQUESTED, "INFO")])
def test_a_market_that_is_lost_by_itself_is_a_line_and_its_return_another(kit, cause, level):
    all_back(kit, 1.0)
    kit.lines()
    kit.lose(kit.markets[3], 10.0, cause)
    kit.back(kit.markets[3], 10.25, cause)
    assert kit.lines() == [
        (level, f"feed: M3 is out of sync ({cause.value}) at update id 7; ldc synchronizes it again"),
        ("INFO", f"feed: M3 is synchronized again after 0.25 s ({cause.value})"),
    ]


def test_losses_of_single_markets_are_bounded_in_a_minute_and_the_rest_is_counted(kit):
    all_back(kit, 1.0)
    kit.lines()
    for market in kit.markets:
        kit.lose(market, 10.0, Cause.GAP)
    all_back(kit, 10.5)
    assert len(kit.lines()) == 2 * SINGLE_LOSSES_MAX
    kit.lose(kit.markets[0], 100.0, Cause.GAP)
    [(_, text)] = kit.lines()
    assert text.endswith("; 90 more were lost meanwhile")
    kit.lose(kit.markets[1], 100.0, Cause.GAP)
    assert "meanwhile" not in kit.lines()[0][1]


def test_a_market_that_fails_is_a_warning_with_the_reason_and_one_that_is_stopped_is_nothing(kit):
    kit.markets[0].last_error = "There is no snapshot of M0: -1121"
    kit.lose(kit.markets[0], 1.0, Cause.UNKNOWN_MARKET, SyncState.FAILED)
    assert kit.lines() == [
        ("WARNING", "feed: M0 has failed (UNKNOWN_MARKET): There is no snapshot of M0: -1121"),
    ]
    kit.lose(kit.markets[1], 1.0, Cause.STOPPED, SyncState.STOPPED)
    for market in kit.markets[3:]:
        kit.back(market, 2.0)
    assert kit.lines() == []
    kit.lose(kit.markets[2], 2.5, Cause.UNKNOWN_MARKET, SyncState.FAILED)
    assert kit.lines()[-1] == ("INFO", "feed: all 97 markets are synchronized, after 2.50 s")


def test_a_stop_says_nothing_of_the_markets_that_were_waiting(kit):
    for market in kit.markets[:99]:
        kit.back(market, 1.0)
    for market in kit.markets:
        kit.lose(market, 2.0, Cause.STOPPED, SyncState.STOPPED)
    assert kit.lines() == []
    assert kit.log.next_due == float("inf")


@pytest.mark.parametrize(
    ("kind", "count", "each"),
    [("spot", 30, 10), ("usdm", 30, 10), pytest.param("spot", 300, 100, marks=pytest.mark.check)],
)
def test_three_resets_are_at_most_twelve_lines_however_many_markets_there_are(caplog, kind, count, each):
    """A regression: 300 markets and three resets were 300 warnings and 600 other lines."""
    markets = tuple(f"M{number}USDT" for number in range(count))
    caplog.set_level(logging.INFO)
    with live(kind, markets, markets_per_connection=each, snapshot_limit=100) as (exchange, manager):
        manager.create_depth_cache(markets)
        assert manager.wait_until_synchronized(timeout=2 * PATIENCE_S)
        logged(caplog).clear()
        for number in range(3):
            exchange.connections[number].reset()
        eventually(
            lambda: sum("synchronized again" in each.getMessage() for each in logged(caplog).records) == 3,
            "the return of all",
        )
        assert manager.wait_until_synchronized(timeout=2 * PATIENCE_S)
        lines = [(record.levelname, record.getMessage()) for record in logged(caplog).records]
        assert len(lines) <= 12, lines
        assert [level for level, _ in lines].count("WARNING") == 3
        caplog.clear()
        manager.set_resync_request(markets[0])
        eventually(lambda: len(logged(caplog).records) == 2, "the lines of a requested resync")
        assert not [each for each in caplog.records if each.levelno > logging.INFO]


def test_an_exchange_that_refuses_is_one_warning_a_minute(caplog):
    caplog.set_level(logging.INFO)
    with live(_random=lambda: 0.0) as (exchange, manager):
        synchronize(exchange, manager)
        logged(caplog).clear()
        connects = len(exchange.connections)
        exchange.on_handshake = lambda *_: b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        exchange.connections[0].reset()
        group = manager.get_depth_cache("BTCUSDT").group
        eventually(lambda: group.reconnects >= connects + 3, "some tries")
        lines = [record.getMessage() for record in logged(caplog).records if record.levelno >= logging.WARNING]
        assert len(lines) == 2, lines
        assert "connection lost" in lines[0]
        assert "no connection, by 1 tries" in lines[1]
