"""How to test a bot on the embedded exchange: move the market by hand, break things on purpose, look what the bot did.

    pytest examples/test_market_maker.py

Nothing here waits for a clock: the market stands still until the test moves it.
"""

from collections.abc import Iterator
from decimal import Decimal

import pytest

import ldc

pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")

from ldc.simulator import SimulatedExchange
from market_maker import MarketMaker

MARKET = "BTCUSDT"
TICK = Decimal("0.01")
EDGE = Decimal("0.001")
STEPS_MAX = 200
"""A bot that has not done it by then never will."""


class RecordedOrders:
    """Remembers what the bot wants in the market."""

    def __init__(self) -> None:
        self.quotes: tuple[Decimal, Decimal] | None = None
        self.cancelled: list[str] = []

    def quote(self, bid: Decimal, ask: Decimal) -> None:
        """Replace the quotes."""
        self.quotes = (bid, ask)

    def cancel(self, why: str) -> None:
        """Take them back."""
        self.quotes = None
        self.cancelled.append(why)


class Bench:
    """An exchange whose market stands still, a manager, the bot, and its orders."""

    def __init__(self, exchange: SimulatedExchange, manager: ldc.BinanceLocalDepthCacheManager) -> None:
        self.exchange = exchange
        self.manager = manager
        self.orders = RecordedOrders()
        self.maker = MarketMaker(manager, MARKET, self.orders, TICK, EDGE)

    def move(self, updates: int = 1) -> int:
        """Move the market, let the bot see it, return the update id."""
        update_id = self.exchange.advance(MARKET, updates)
        self.step_until(lambda: self.manager.get_status(MARKET).last_update_id == update_id)
        return update_id

    def step_until(self, is_done) -> None:
        """Let the bot work until something is so."""
        for _ in range(STEPS_MAX):
            self.maker.step()
            if is_done():
                return
        raise AssertionError(f"not after {STEPS_MAX} steps: {self.manager.get_status(MARKET)}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with (
        SimulatedExchange([MARKET], venue="binance.com", seed=1, levels=200) as exchange,
        ldc.BinanceLocalDepthCacheManager(
            "binance.com",
            restful_base_uri=exchange.restful_base_uri,
            websocket_base_uri=exchange.websocket_base_uri,
        ) as manager,
    ):
        manager.create_depth_cache(MARKET)
        assert manager.wait_until_synchronized(timeout=30)
        exchange.pause(MARKET)
        yield Bench(exchange, manager)


def test_quotes_stand_on_both_sides_of_the_exchange_s_own_book(bench: Bench) -> None:
    for _ in range(20):
        truth = bench.exchange.true_book(MARKET, bench.move(), limit=1)
        bid, ask = bench.orders.quotes
        assert bid < truth.bids[0][0]
        assert ask > truth.asks[0][0]
        assert bid % TICK == ask % TICK == 0


def test_nothing_is_quoted_while_the_book_is_out_of_sync(bench: Bench) -> None:
    bench.move()
    assert bench.orders.quotes is not None
    # An update is lost, and every snapshot that could mend the book takes a second.
    bench.exchange.inject("drop", market=MARKET)
    bench.exchange.inject("snapshot_slow", market=MARKET, probability=1.0, duration_s=1.0)
    bench.exchange.advance(MARKET, 2)
    bench.step_until(lambda: bench.orders.cancelled)
    assert bench.orders.quotes is None
    assert "(cause: GAP)" in bench.orders.cancelled[0]
    bench.step_until(lambda: bench.orders.quotes)  # and it comes back by itself
    assert bench.manager.get_status(MARKET).resyncs == {"GAP": 1}


@pytest.mark.parametrize("fault", ["duplicate", "overlap"])
def test_what_does_no_harm_does_not_stop_the_bot(bench: Bench, fault: str) -> None:
    bench.move()
    bench.exchange.inject(fault, market=MARKET)
    for _ in range(5):
        bench.move()
    assert bench.exchange.statistics()["faults"] == {fault: 1}
    assert bench.orders.cancelled == []


def test_a_lost_connection_is_survived(bench: Bench) -> None:
    bench.move()
    bench.exchange.inject("reset", market=MARKET)
    bench.step_until(lambda: bench.manager.get_restart_count(MARKET) == 1)
    bench.move()
    assert bench.orders.quotes is not None
