"""Recovery over real sockets: as fast as the budgets allow, however often it happens.

The jitter is the longest there is. Deadlines are generous: what recovery takes is measured by `make bench-recovery`.
"""

from itertools import pairwise

import pytest
from live_kit import assert_exact, eventually, live, no_thread_is_left, reach, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, RestReply, RestRequest, error_reply

LONGEST_JITTER = {"_random": lambda: 0.999}


@pytest.mark.parametrize("kind", ["spot", "usdm"])
def test_a_connection_that_is_reset_again_and_again_is_back_soon_each_time(kind: str):
    """A backoff that did not forget would wait 2, 4, 8, 16, 32 s and then a minute each time."""
    with live(kind, **LONGEST_JITTER) as (exchange, manager):
        synchronize(exchange, manager)
        for number in range(1, 8):
            exchange.connection_of("BTCUSDT").reset()
            eventually(lambda number=number: manager.get_status("BTCUSDT").reconnects == number, "the reconnect")
            exchange.connection_of("BTCUSDT", after=number)
            reach(exchange, manager)
            assert_exact(exchange, manager)


def test_gaps_in_a_row_are_cured_each_time():
    """More than a market was allowed before its resyncs waited for a backoff."""
    with live(**LONGEST_JITTER) as (exchange, manager):
        synchronize(exchange, manager)
        for number in range(1, 16):
            exchange.update(is_sent=False)
            reach(exchange, manager)
            assert manager.get_status("BTCUSDT").resyncs == {"GAP": number}
        assert_exact(exchange, manager)


def test_a_host_that_ends_each_connection_before_it_answers_is_spared():
    with live(**LONGEST_JITTER) as (exchange, manager):
        exchange.on_request = lambda connection, request: connection.reset() or ()
        manager.create_depth_cache("BTCUSDT")
        exchange.wait_for(lambda: len(exchange.connections) == 2, "the second connect")
        slot = next(iter(manager.get_depth_cache("BTCUSDT").group._connections._slots))
        eventually(lambda: slot._reconnect._refusals.failures >= 2, "the second refusal")
        exchange.on_request = exchange.answer
        assert manager.wait_until_synchronized(timeout=2 * PATIENCE_S)


def test_after_a_pause_that_the_exchange_demanded_the_next_request_comes_at_once():
    """A backoff of the market on top of it would be up to a second, then two, and so on."""
    refusals = iter(range(4))

    def refuse(request: RestRequest) -> RestReply | None:
        return error_reply(429, -1003, "slow down", {"Retry-After": "1"}) if next(refusals, None) is not None else None

    with live(**LONGEST_JITTER) as (exchange, manager):
        exchange.on_rest = refuse
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        times = [request.time for request in exchange.rest_requests if request.symbol == "BTCUSDT"][:5]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert len(pauses) == 4
        assert min(pauses) > 0.9
        assert sum(pauses) < 12.0  # doubled in a row they would be 1, 2, 4 and 8 s
