"""Which snapshot is next, and when: order, budget, pauses, intervals, cancellation; without a thread or a clock."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc.limits import BAN_PAUSE_S, LIMIT_PAUSE_S, WEIGHT_SHARE_MIN, WEIGHT_WINDOW_S
from ldc.snapshots.queue import DEAD_MAX, FORBIDDEN_PAUSE_S, QueueClient, SnapshotQueue, SnapshotRequest, Ticket
from ldc.snapshots.reply import NO_HEADERS, FailureKind, ReplyHeaders, SnapshotBody, SnapshotFailure, failure
from ldc.snapshots.weight import (
    HOST_PAUSE_S_FIRST,
    HOST_PAUSE_S_MAX,
    REPEATS_FREE,
    WeightPool,
)
from ldc.sync.actions import Purpose
from ldc.venues import VENUES, Venue, venue_named

SPOT = venue_named("binance.com")
BODY = SnapshotBody(b"{}", 1, None)
NOW = 1000.0


def queue_of(drawn: float = 1.0) -> SnapshotQueue:
    return SnapshotQueue(lambda: drawn)


def client_of(queue: SnapshotQueue, venue: Venue = SPOT, **settings: Any) -> QueueClient:
    return queue.join(venue, NOW, **settings)


def wanted(
    market: str, purpose: Purpose | None = Purpose.SYNCHRONIZE, limit: int = 100, **rest: Any
) -> SnapshotRequest:
    return SnapshotRequest(market, rest.pop("epoch", 1), purpose, limit, **rest)


def taken(queue: SnapshotQueue, now: float = NOW) -> Ticket:
    ticket = queue.take(now)
    assert ticket is not None
    return ticket


def markets_taken(queue: SnapshotQueue, now: float = NOW) -> list[str]:
    markets = []
    while (ticket := queue.take(now)) is not None:
        markets.append(ticket.request.market)
        queue.settle(ticket, BODY, NO_HEADERS, now)
    return markets


def failed(kind: FailureKind) -> SnapshotFailure:
    return failure("BTCUSDT", kind, "because")


def settle_next(queue: SnapshotQueue, client: QueueClient, kind: FailureKind | None, now: float, **headers: Any) -> Any:
    """Let one more download of the client end with that failure, or None."""
    queue.put(client, wanted("NEXT"))
    result = BODY if kind is None else failed(kind)
    return queue.settle(taken(queue, now), result, ReplyHeaders(**headers) if headers else NO_HEADERS, now)


# -- order


def test_the_purpose_decides_first_and_probes_come_last():
    queue = queue_of()
    client = client_of(queue)
    for purpose in (None, *reversed(Purpose)):
        queue.put(client, wanted("PROBE" if purpose is None else purpose.name, purpose))
    assert markets_taken(queue) == [*(purpose.name for purpose in Purpose), "PROBE"]


def test_among_equals_fewer_levels_then_the_greater_need_then_first_come():
    queue = queue_of()
    client = client_of(queue)
    for market, limit, need in [
        ("DEEP", 1000, 9.0),
        ("FIRST", 100, 0.0),
        ("SECOND", 100, 0.0),
        ("NEEDY", 100, 2.0),
        ("NEEDIEST", 100, 3.0),
    ]:
        queue.put(client, wanted(market, Purpose.DEEPEN, limit, need=need))
    assert markets_taken(queue) == ["NEEDIEST", "NEEDY", "FIRST", "SECOND", "DEEP"]


def test_the_order_holds_across_clients_and_exchanges():
    queue = queue_of()
    spot, margin = client_of(queue), client_of(queue, venue_named("binance.com-margin"))
    futures = client_of(queue, venue_named("binance.com-futures"))
    queue.put(spot, wanted("SPOT", Purpose.INTERVAL))
    queue.put(margin, wanted("MARGIN", Purpose.DEEPEN))
    queue.put(futures, wanted("FUTURES", Purpose.REQUESTED))
    assert markets_taken(queue) == ["FUTURES", "MARGIN", "SPOT"]


def test_a_request_that_is_not_due_waits_and_delays_no_other():
    queue = queue_of()
    client = client_of(queue)
    queue.put(client, wanted("LATER", due=NOW + 5))
    queue.put(client, wanted("SOON", due=NOW + 0.5))
    assert queue.take(NOW) is None
    assert queue.next_time(NOW) == NOW + 0.5
    assert markets_taken(queue, NOW + 0.5) == ["SOON"]
    queue.put(client, wanted("LESS_URGENT", Purpose.INTERVAL))
    assert markets_taken(queue) == ["LESS_URGENT"]
    assert markets_taken(queue, NOW + 5) == ["LATER"]
    assert queue.next_time(NOW + 5) == math.inf


def test_a_heavy_request_is_not_overtaken_by_lighter_ones_while_it_waits_for_the_budget():
    queue = queue_of()
    client = client_of(queue, weight_share=0.1)  # 600, of which 450 are spare
    queue.put(client, wanted("DEEP", Purpose.DEEPEN, 5000))
    assert markets_taken(queue) == ["DEEP"]
    queue.put(client, wanted("DEEPER", Purpose.DEEPEN, 5000))
    queue.put(client, wanted("LIGHT", Purpose.INTERVAL, 5))
    assert queue.take(NOW + 1) is None
    assert queue.next_time(NOW + 1) == NOW + 60
    assert markets_taken(queue, NOW + 60) == ["DEEPER", "LIGHT"]


# -- budget


def test_unreadable_books_are_served_at_once_during_a_long_deepening():
    queue = queue_of()
    client = client_of(queue)
    for number in range(50):
        queue.put(client, wanted(f"DEEP{number}", Purpose.DEEPEN, 5000))
    assert len(markets_taken(queue)) == 14  # 3500 of 3600, which are three quarters of 4800
    for number in range(1000):
        queue.put(client, wanted(f"HORIZON{number}", Purpose.HORIZON))
    assert len(markets_taken(queue)) == 164  # the remaining 820 of nine tenths
    for number in range(1000):
        queue.put(client, wanted(f"GAP{number}"))
    assert len(markets_taken(queue)) == 96  # the remaining 480
    assert queue.take(NOW + 59) is None


def test_probes_use_at_most_a_tenth():
    queue = queue_of()
    client = client_of(queue)
    for number in range(200):
        queue.put(client, wanted(f"QUIET{number}", None, 5))
    assert len(markets_taken(queue)) == 96  # 480 of 4800
    queue.put(client, wanted("GAP"))
    assert markets_taken(queue) == ["GAP"]
    assert queue.next_time(NOW) == NOW + 60
    assert len(markets_taken(queue, NOW + 60)) == 96


def test_two_hundred_cold_markets_get_their_first_levels_before_any_gets_more():
    queue = queue_of()
    client = client_of(queue)
    order = []
    for number in range(200):
        queue.put(client, wanted(f"M{number}"))
    now = NOW
    while (ticket := queue.take(now)) is not None:
        order.append(ticket.request.limit)
        queue.settle(ticket, BODY, NO_HEADERS, now)
        if ticket.request.limit == 100:
            queue.put(client, wanted(ticket.request.market, Purpose.DEEPEN, 1000))
    assert order[:200] == [100] * 200
    assert order[200:] == [1000] * 52  # of the spare 3600, 1000 are spent


def test_markets_of_one_address_share_the_weight_that_the_exchange_counts_together():
    queue = queue_of()
    usd_m, coin_m = (client_of(queue, venue_named(f"binance.com-{name}")) for name in ("futures", "coin_futures"))
    for number in range(1000):
        queue.put(usd_m, wanted(f"A{number}", limit=1000))
    assert len(markets_taken(queue)) == 96  # 1920 of 20 each
    queue.put(coin_m, wanted("BTCUSD_PERP", limit=1000))
    assert queue.take(NOW) is None
    for settings in ({"address": "127.0.0.1:3128"}, {"restful_base_uri": "http://127.0.0.1:8080"}):
        elsewhere = client_of(queue, venue_named("binance.com-coin_futures"), **settings)
        queue.put(elsewhere, wanted("BTCUSD_PERP", limit=1000))
        assert markets_taken(queue) == ["BTCUSD_PERP"]


def test_a_client_with_a_larger_share_may_use_more_than_another():
    queue = queue_of()
    modest, high_performance = client_of(queue), client_of(queue, weight_share=1.0)
    for number in range(2000):
        queue.put(modest, wanted(f"M{number}"))
    assert len(markets_taken(queue)) == 960
    queue.leave(modest)
    for number in range(2000):
        queue.put(high_performance, wanted(f"M{number}"))
    assert len(markets_taken(queue)) == 240


def test_a_book_of_a_larger_share_does_not_wait_for_a_smaller_share_to_have_room():
    queue = queue_of()
    modest, high_performance = client_of(queue, weight_share=0.1), client_of(queue)
    for number in range(200):
        queue.put(modest, wanted(f"M{number}"))
    assert len(markets_taken(queue)) == 120
    for number in range(10):
        queue.put(high_performance, wanted(f"H{number}"))
        queue.put(high_performance, wanted(f"D{number}", Purpose.DEEPEN, 1000))
    assert queue.next_time(NOW + 1) == NOW + 1
    assert markets_taken(queue, NOW + 1) == [f"H{number}" for number in range(10)]  # the deepening is less urgent
    after = markets_taken(queue, NOW + 61)
    assert after[:80] == [f"M{number}" for number in range(120, 200)]
    assert len(after) == 90


def test_the_weight_of_other_programs_is_respected():
    queue = queue_of()
    client = client_of(queue)
    settle_next(queue, client, None, NOW, used_weight=4790, server_time_s=100.0)
    queue.put(client, wanted("DEEP", limit=1000))
    assert queue.take(NOW) is None
    assert queue.next_time(NOW) == NOW + 20
    assert markets_taken(queue, NOW + 20) == ["DEEP"]


@pytest.mark.parametrize("exchange", [exchange for exchange, venue in VENUES.items() if venue.launcher is None])
def test_even_the_smallest_share_of_every_venue_pays_for_every_request(exchange):
    queue, venue = queue_of(), venue_named(exchange)
    client = client_of(queue, venue, weight_share=WEIGHT_SHARE_MIN)
    for purpose in (*Purpose, None):
        limit = venue.honoured_limit(5) if purpose is None else venue.snapshot_limit_max
        queue.put(client, wanted("M", purpose, limit))
        now = NOW + 100 * (len(Purpose) if purpose is None else purpose)
        assert markets_taken(queue, now) == ["M"]


# -- intervals of the client


def test_the_init_interval_separates_the_snapshots_of_one_client_only():
    queue = queue_of()
    slow, fast = client_of(queue, init_interval_s=4.0), client_of(queue)
    for market in ("A", "B"):
        queue.put(slow, wanted(f"SLOW_{market}"))
        queue.put(fast, wanted(f"FAST_{market}", Purpose.INTERVAL))
    assert markets_taken(queue) == ["SLOW_A", "FAST_A", "FAST_B"]
    assert queue.next_time(NOW) == NOW + 4
    assert markets_taken(queue, NOW + 3.9) == []
    assert markets_taken(queue, NOW + 4) == ["SLOW_B"]


def test_the_init_time_window_lets_one_snapshot_of_a_market_through():
    queue = queue_of()
    client = client_of(queue, init_time_window_s=5.0)
    queue.put(client, wanted("BTCUSDT"))
    queue.put(client, wanted("ETHUSDT"))
    assert markets_taken(queue) == ["BTCUSDT", "ETHUSDT"]
    queue.put(client, wanted("BTCUSDT"))
    queue.put(client, wanted("BNBUSDT"))
    assert markets_taken(queue, NOW + 1) == ["BNBUSDT"]
    assert queue.next_time(NOW + 1) == NOW + 5
    assert markets_taken(queue, NOW + 5) == ["BTCUSDT"]
    # Stopping and starting a market does not avoid it.
    queue.cancel(client, "BTCUSDT")
    queue.put(client, wanted("BTCUSDT"))
    assert markets_taken(queue, NOW + 9) == []
    assert markets_taken(queue, NOW + 10) == ["BTCUSDT"]


def test_the_window_forgets_markets_after_its_end():
    queue = queue_of()
    client = client_of(queue, init_time_window_s=5.0)
    for number in range(100):
        queue.put(client, wanted(f"M{number}"))
        taken(queue, NOW + number)
    assert len(client._began_at) <= 5


# -- replacing and cancelling


def test_a_newer_request_of_a_market_replaces_the_one_that_waits_and_a_probe_stands_beside_it():
    queue = queue_of()
    client = client_of(queue)
    queue.put(client, wanted("BTCUSDT", Purpose.INTERVAL, epoch=1, due=NOW + 100))
    queue.put(client, wanted("BTCUSDT", None, 5, epoch=0))
    queue.put(client, wanted("BTCUSDT", Purpose.SYNCHRONIZE, epoch=2))
    assert client.waiting_count == 2
    assert [taken(queue).request.epoch for _ in range(2)] == [2, 0]
    assert queue.take(NOW + 100) is None
    assert client.cancelled == 1


def test_an_earlier_owner_of_a_market_neither_replaces_nor_cancels_the_requests_of_a_later_one():
    """A regression: a feed that was held up replaced the request of the market that was created again."""
    queue = queue_of()
    client = client_of(queue)
    for purpose, limit in ((Purpose.SYNCHRONIZE, 100), (None, 5)):
        queue.put(client, wanted("BTCUSDT", purpose, limit, epoch=2, owner=2))
        queue.put(client, wanted("BTCUSDT", purpose, limit, epoch=2, owner=1))
    queue.cancel(client, "BTCUSDT", 2, owner=1)
    assert [taken(queue).request.owner for _ in range(2)] == [2, 2]
    assert queue.take(NOW) is None
    assert queue.cancel(client, "BTCUSDT", owner=1) == []
    assert len(queue.cancel(client, "BTCUSDT", owner=2)) == 2


def test_a_request_is_held_while_it_waits_and_while_it_is_in_flight():
    queue = queue_of()
    client, other = client_of(queue), client_of(queue)
    key = ("BTCUSDT", 3, False)

    def is_held(epoch: int = 7, **changed: Any) -> bool:
        of = changed.pop("client", client)
        return queue.holds(of, changed.pop("key", key), epoch)

    assert not is_held()
    queue.put(client, wanted("BTCUSDT", epoch=7, owner=3))
    assert is_held()
    others = (
        is_held(6),
        is_held(client=other),
        is_held(key=("BTCUSDT", 2, False)),
        is_held(key=("BTCUSDT", 3, True)),
        is_held(key=("ETHUSDT", 3, False)),
    )
    assert not any(others)
    ticket = taken(queue)
    assert is_held()
    queue.settle(ticket, BODY, NO_HEADERS, NOW)
    assert not is_held()
    queue.put(client, wanted("BTCUSDT", epoch=8, owner=3))
    taken(queue)
    queue.cancel(client, "BTCUSDT", 8, owner=3)
    assert not is_held(8)


@pytest.mark.parametrize("is_due", [False, True])
@pytest.mark.parametrize("way", ["cancelled", "replaced"])
def test_the_work_of_cancelling_each_of_many_grows_as_their_number_does(monkeypatch, is_due, way):
    """A regression: each cancel rebuilt both heaps, under the lock that all feeds and workers need."""
    checks = []
    is_dead = QueueClient._is_dead

    def counting(client: QueueClient, waiting: Any) -> bool:
        checks.append(waiting)
        return is_dead(client, waiting)

    queue = queue_of()
    client = client_of(queue)
    count = 2000
    for number in range(count):
        queue.put(client, wanted(f"M{number}", Purpose.DEEPEN, due=-math.inf if is_due else NOW + number))
    queue.next_time(NOW)  # what is due is in the other heap
    monkeypatch.setattr(QueueClient, "_is_dead", counting)
    for number in reversed(range(count)):  # the last ones first: what is dead lies behind what is alive
        if way == "cancelled":
            queue.cancel(client, f"M{number}", 1)
        else:
            queue.put(client, wanted(f"M{number}", Purpose.DEEPEN, epoch=2, due=NOW + 2 * count - number))
        assert len(client._ready) + len(client._later) <= 2 * client.waiting_count + DEAD_MAX
    assert client.cancelled == count
    assert len(checks) < 20 * count
    assert client.waiting_count == (0 if way == "cancelled" else count)
    assert len(markets_taken(queue, NOW + 3 * count)) > 0 or way == "cancelled"


def test_clients_do_not_replace_or_cancel_each_others_requests():
    queue = queue_of()
    one, other = client_of(queue), client_of(queue)
    queue.put(one, wanted("BTCUSDT", epoch=1))
    queue.put(other, wanted("BTCUSDT", epoch=2))
    queue.cancel(one, "BTCUSDT")
    assert [ticket.request.epoch for ticket in [taken(queue)]] == [2]
    assert queue.take(NOW) is None


def test_waiting_requests_can_be_cancelled_by_market_and_by_epoch():
    queue = queue_of()
    client = client_of(queue)
    for market in ("BTCUSDT", "ETHUSDT"):
        queue.put(client, wanted(market, epoch=7))
        queue.put(client, wanted(market, None, 5, epoch=0, due=NOW + 1))
    queue.cancel(client, "BTCUSDT", epoch=6)
    assert client.waiting_count == 4
    queue.cancel(client, "BTCUSDT", epoch=7)
    queue.cancel(client, "ETHUSDT")
    assert client.waiting_count == 1
    assert markets_taken(queue, NOW + 1) == ["BTCUSDT"]
    assert client.cancelled == 3


def test_cancelling_keeps_the_order_of_the_rest():
    queue = queue_of()
    client = client_of(queue)
    purposes = [list(Purpose)[number * 5 % len(Purpose)] for number in range(60)]
    for number, purpose in enumerate(purposes):
        queue.put(client, wanted(f"READY{number}", purpose))
        queue.put(client, wanted(f"LATER{number}", due=NOW + 1 + number * 7 % 60))
    assert queue.take(NOW - 1) is not None  # now they are in the two heaps
    for number in range(0, 60, 3):
        queue.cancel(client, f"READY{number}")
        queue.cancel(client, f"LATER{number}")
    ready = [purposes[int(market.removeprefix("READY"))] for market in markets_taken(queue)]
    assert ready == sorted(ready)
    assert len(ready) == 40
    later = [(now, market) for now in range(61) for market in markets_taken(queue, NOW + now)]
    assert [now for now, _ in later] == [1 + int(market.removeprefix("LATER")) * 7 % 60 for _, market in later]
    assert len(later) == 40


def test_cancelling_returns_the_downloads_of_that_client_only():
    queue = queue_of()
    one, other = client_of(queue), client_of(queue)
    for client in (one, other):
        queue.put(client, wanted("BTCUSDT"))
    tickets = [taken(queue), taken(queue)]
    assert queue.cancel(other) == [tickets[1]]
    assert [queue.settle(ticket, BODY, NO_HEADERS, NOW) for ticket in tickets] == [BODY, None]


def test_the_answer_to_a_cancelled_download_is_counted_and_not_delivered():
    queue = queue_of()
    client = client_of(queue)
    queue.put(client, wanted("BTCUSDT"))
    ticket = taken(queue)
    assert queue.cancel(client, "BTCUSDT", epoch=2) == []
    assert queue.cancel(client, "BTCUSDT") == [ticket]
    assert queue.cancel(client, "BTCUSDT") == []
    assert queue.settle(ticket, BODY, ReplyHeaders(used_weight=4800, server_time_s=0.0), NOW) is None
    assert (client.started, client.bodies, client.cancelled) == (1, 0, 1)
    queue.put(client, wanted("ETHUSDT"))
    assert queue.next_time(NOW) == NOW + 60


def test_leaving_cancels_everything_and_a_client_that_left_cannot_request():
    queue = queue_of()
    client, other = client_of(queue), client_of(queue)
    queue.put(client, wanted("UNDER_WAY"))
    ticket = taken(queue)
    queue.put(client, wanted("WAITING"))
    queue.put(other, wanted("OTHER"))
    assert queue.leave(client) == [ticket]
    assert queue.leave(client) == []
    assert markets_taken(queue) == ["OTHER"]
    assert queue.settle(ticket, BODY, NO_HEADERS, NOW) is None
    with pytest.raises(ValueError, match="BTCUSDT was requested by a client that is closed"):
        queue.put(client, wanted("BTCUSDT"))


def test_only_the_first_result_of_a_download_counts():
    queue = queue_of()
    client = client_of(queue)
    queue.put(client, wanted("BTCUSDT"))
    ticket = taken(queue)
    assert queue.settle(ticket, failed(FailureKind.TIMED_OUT), NO_HEADERS, NOW) is not None
    assert queue.settle(ticket, BODY, NO_HEADERS, NOW) is None
    assert (client.bodies, client.failures) == (0, Counter({FailureKind.TIMED_OUT: 1}))


# -- pauses


@pytest.mark.parametrize(
    ("kind", "retry_after_s", "pause_s"),
    [
        (FailureKind.RATE_LIMITED, 17, 17.0),
        (FailureKind.RATE_LIMITED, None, LIMIT_PAUSE_S),
        (FailureKind.BANNED, 7200, 7200.0),
        (FailureKind.BANNED, None, BAN_PAUSE_S),
        (FailureKind.FORBIDDEN, None, FORBIDDEN_PAUSE_S),
        (FailureKind.FORBIDDEN, 300, 300.0),
        (FailureKind.SERVER_ERROR, 120, 120.0),
    ],
)
def test_a_limit_a_ban_and_a_firewall_pause_all_clients_of_this_address_and_no_other(kind, retry_after_s, pause_s):
    queue = queue_of()
    one, other = client_of(queue), client_of(queue)
    futures = client_of(queue, venue_named("binance.com-futures"))
    result = settle_next(queue, one, kind, NOW, retry_after_s=retry_after_s)
    assert (result.kind, result.retry_at) == (kind, NOW + pause_s)
    assert one.failures == {kind: 1}
    for client in (one, other, futures):
        queue.put(client, wanted("BTCUSDT"))
    assert taken(queue).client is futures
    assert queue.take(NOW + pause_s - 0.001) is None
    assert queue.next_time(NOW) == NOW + pause_s
    assert len(markets_taken(queue, NOW + pause_s)) == 2


def test_a_ban_outlives_the_manager_that_caused_it():
    queue = queue_of()
    first = client_of(queue)
    settle_next(queue, first, FailureKind.BANNED, NOW, retry_after_s=7200)
    queue.leave(first)
    second = client_of(queue)
    queue.put(second, wanted("BTCUSDT"))
    assert queue.next_time(NOW) == NOW + 7200


def test_an_idle_weight_pool_is_dropped():
    queue = queue_of()
    for number in range(100):
        now = NOW + 100 * number
        client = queue.join(SPOT, now, restful_base_uri=f"http://127.0.0.1:{8000 + number}")
        settle_next(queue, client, None, now)
        queue.leave(client)
    assert len(queue._weight_pools) <= 2


def test_bans_double_and_a_good_answer_in_between_restarts_the_doubling():
    queue = queue_of()
    client = client_of(queue)
    now, waits_s = NOW, []
    for kind in (FailureKind.BANNED, FailureKind.BANNED, None, FailureKind.BANNED):
        result = settle_next(queue, client, kind, now)
        if kind is not None:
            waits_s.append(result.retry_at - now)
            now = result.retry_at
    assert waits_s == [BAN_PAUSE_S, 2 * BAN_PAUSE_S, BAN_PAUSE_S]


def test_the_second_failure_of_a_host_in_a_row_pauses_it_shortly_and_longer_with_each_more_up_to_a_cap():
    queue = queue_of()
    client = client_of(queue)
    now, waits_s = NOW, []

    def waited_s(time: float) -> float:
        """Let a download fail at that time; return how long the pool is paused. The exchange itself forbids nothing."""
        assert settle_next(queue, client, FailureKind.SERVER_ERROR, time).retry_at is None
        queue.put(client, wanted("NEXT"))
        return queue.next_time(time) - time

    for _ in range(8):
        waits_s.append(waited_s(now))
        now += waits_s[-1] + 1
    assert waits_s == [0.0, HOST_PAUSE_S_FIRST, 1.0, 2.0, 4.0, HOST_PAUSE_S_MAX, HOST_PAUSE_S_MAX, HOST_PAUSE_S_MAX]
    settle_next(queue, client, None, now)
    assert waited_s(now + 1) == 0.0
    assert waited_s(now + 2) == HOST_PAUSE_S_FIRST


def test_failures_that_were_in_flight_together_count_as_one():
    queue = queue_of()
    client = client_of(queue)
    for number in range(4):
        queue.put(client, wanted(f"M{number}"))
    tickets = [taken(queue) for _ in range(4)]
    for ticket in tickets:
        queue.settle(ticket, failed(FailureKind.UNREACHABLE), NO_HEADERS, NOW + 1)
    queue.put(client, wanted("NEXT"))
    assert queue.take(NOW + 1) is not None


@pytest.mark.parametrize("kind", [FailureKind.UNKNOWN_MARKET, FailureKind.REFUSED])
def test_a_failure_of_one_market_pauses_nothing_and_shows_that_the_host_works(kind):
    queue = queue_of()
    client = client_of(queue)
    for number in range(10):
        settle_next(queue, client, FailureKind.SERVER_ERROR, NOW + 2 * number)
        settle_next(queue, client, kind, NOW + 2 * number + 1)
    queue.put(client, wanted("NEXT"))
    assert queue.take(NOW + 20) is not None


def test_a_refusal_for_good_is_confirmed_by_another_host():
    queue = queue_of()
    client = client_of(queue)
    first = client.url
    settle_next(queue, client, FailureKind.REFUSED, NOW)
    assert client.url == first
    settle_next(queue, client, FailureKind.UNKNOWN_MARKET, NOW)
    assert client.url != first


def test_downloads_that_were_aborted_on_purpose_do_not_count_as_failures_of_the_host():
    queue = queue_of()
    client = client_of(queue)
    for number in range(5):
        queue.put(client, wanted("BTCUSDT"))
        ticket = taken(queue, NOW + number)
        queue.cancel(client)
        queue.settle(ticket, failed(FailureKind.UNREACHABLE), NO_HEADERS, NOW + number)
    queue.put(client, wanted("BTCUSDT"))
    assert queue.take(NOW + 5) is not None


def test_a_limit_that_a_cancelled_download_hit_holds_too():
    queue = queue_of()
    client = client_of(queue)
    queue.put(client, wanted("BTCUSDT"))
    ticket = taken(queue)
    queue.cancel(client)
    queue.settle(ticket, failed(FailureKind.RATE_LIMITED), ReplyHeaders(retry_after_s=30), NOW)
    queue.put(client, wanted("BTCUSDT"))
    assert queue.next_time(NOW) == NOW + 30


# -- markets that are synchronized again and again


def spend(queue: SnapshotQueue, client: QueueClient, weight: int, now: float) -> None:
    """Use up weight by snapshots of other markets, 50 each."""
    for number in range(weight // 50):
        queue.put(client, wanted(f"OTHER{number}", limit=1000))
        queue.settle(taken(queue, now), BODY, NO_HEADERS, now)


def repeat_times(queue: SnapshotQueue, client: QueueClient, count: int, now: float) -> list[float]:
    """Synchronize one market so often, each time as soon as it may; return when, after `now`."""
    times = []
    for _ in range(count):
        queue.put(client, wanted("AGAIN", limit=1000, due=now))
        while (ticket := queue.take(now)) is None:
            assert now < queue.next_time(now) < math.inf
            now = queue.next_time(now)
        assert ticket.request.market == "AGAIN"
        queue.settle(ticket, BODY, NO_HEADERS, now)
        times.append(now - NOW)
    return times


def test_while_more_than_half_of_the_share_is_left_a_market_is_synchronized_again_at_once():
    queue = queue_of()
    client = client_of(queue, weight_share=0.8)  # 4,800
    spend(queue, client, 1_000, NOW)
    assert repeat_times(queue, client, 28, NOW) == [0.0] * 28
    assert repeat_times(queue, client, 3, NOW)[-1] > 5.0  # 2,400 are used


def test_below_half_the_fourth_in_a_minute_waits():
    queue = queue_of()
    client = client_of(queue, weight_share=0.8)
    spend(queue, client, 2_400, NOW)
    spend(queue, client, 2_000, NOW + 50)  # so that it is scarce for longer than a minute
    times = repeat_times(queue, client, 6, NOW + 50)
    assert times[:REPEATS_FREE] == [50.0] * REPEATS_FREE
    assert times[REPEATS_FREE:] == [60.0] * 3  # the first 2,400 count no more


def test_the_wait_of_a_market_that_repeats_grows_as_the_weight_is_used_up():
    def wait_s(tries: int, used: int) -> float:
        pool = WeightPool.of(6_000, lambda: 0.5)  # of which the share is 4,800
        pool.spend(used, Purpose.SYNCHRONIZE, NOW)
        return pool.repeat_earliest(50, 0.8, [NOW] * tries, NOW) - NOW

    assert [wait_s(tries, 2_400) for tries in (2, 3, 16)] == pytest.approx([0.0, 5.0, 5.0])
    assert [wait_s(3, used) for used in (2_399, 3_000, 3_600, 4_600, 4_800)] == pytest.approx([0, 60 / 9, 10, 60, 60])


def test_a_deepening_that_used_all_it_may_makes_no_gap_last_long():
    pool = WeightPool.of(6_000, lambda: 0.5)
    pool.spend(3_600, Purpose.DEEPEN, NOW)  # three quarters of a share of 4,800
    waits_s = [pool.repeat_earliest(5, 0.8, [NOW] * tries, NOW) - NOW for tries in (2, 3, 10)]
    assert waits_s == pytest.approx([0.0, 1.0, 1.0])


def test_a_wait_for_weight_ends_when_half_of_it_is_left_again():
    queue = queue_of()
    client = client_of(queue, weight_share=0.8)
    spend(queue, client, 4_000, NOW)
    assert repeat_times(queue, client, 3, NOW + 58.0) == [58.0] * 3
    assert repeat_times(queue, client, 1, NOW + 58.0) == [60.0]


def test_a_market_that_waits_for_weight_delays_no_other():
    queue = queue_of()
    client = client_of(queue, weight_share=0.8)
    spend(queue, client, 4_000, NOW)
    repeat_times(queue, client, REPEATS_FREE, NOW)
    queue.put(client, wanted("AGAIN"))
    assert queue.take(NOW) is None
    queue.put(client, wanted("OTHER"))
    queue.put(client, wanted("DEEP", Purpose.HORIZON))
    assert markets_taken(queue) == ["OTHER", "DEEP"]


def test_a_market_waits_at_most_a_minute_for_weight_however_little_is_left():
    pool = WeightPool.of(6_000, lambda: 0.5)
    for number in range(40):
        pool.spend(150, Purpose.SYNCHRONIZE, NOW)
        if number < 20:
            pool.settle(150, Purpose.SYNCHRONIZE, NOW)
    assert pool.repeat_earliest(50, 1.0, [NOW] * REPEATS_FREE, NOW) == NOW + 60.0
    assert pool.repeat_earliest(50, 1.0, [NOW - 60.0] * REPEATS_FREE, NOW) == NOW


@pytest.mark.parametrize(("count", "part"), [(1, 0.99), (3, 0.95), (10, 0.5), (20, 0.3)])
def test_markets_whose_updates_never_fit_do_not_use_up_the_weight_of_all(count, part):
    """They request again at once, for ten minutes. What others may use stays free most of the time."""
    queue = queue_of()
    client = client_of(queue, weight_share=0.8)
    pool = next(iter(queue._weight_pools.values()))
    now, free, steps = NOW, 0, 0
    for number in range(count):
        queue.put(client, wanted(f"NEVER{number}", limit=1000))
    while now < NOW + 600:
        while (ticket := queue.take(now)) is not None:
            queue.settle(ticket, BODY, NO_HEADERS, now)
            queue.put(client, ticket.request._replace(due=now + 0.1))
        now += 0.1
        steps += 1
        free += pool.earliest(250, Purpose.DEEPEN, 0.8, now) <= now
    assert free > part * steps


def test_what_is_known_of_markets_that_were_synchronized_is_forgotten_after_a_minute():
    queue = queue_of()
    client = client_of(queue)
    for number in range(1_000):
        queue.put(client, wanted(f"M{number}", limit=5))
        queue.settle(taken(queue, NOW + number), BODY, NO_HEADERS, NOW + number)
    assert len(client._synchronizing) <= 61


# -- misuse


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_share": 0.0}, "weight_share"),
        ({"weight_share": 1.5}, "weight_share"),
        ({"init_interval_s": -1.0}, "init_interval"),
        ({"init_interval_s": math.nan}, "init_interval"),
        ({"init_time_window_s": math.inf}, "init_time_window"),
        ({"restful_base_uri": "127.0.0.1"}, "base URI"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        client_of(queue_of(), **settings)


def test_a_limit_that_the_venue_does_not_honour_is_refused():
    queue = queue_of()
    client = client_of(queue, venue_named("binance.com-futures"))
    with pytest.raises(ValueError, match="serves no snapshot of 700 levels of BTCUSDT"):
        queue.put(client, wanted("BTCUSDT", limit=700))


def test_a_request_that_the_share_can_never_pay_is_refused_and_not_waited_for():
    queue = queue_of()
    client = client_of(queue, weight_share=0.1)
    with pytest.raises(ValueError, match=r"5000 levels of BTCUSDT costs 250, .* weight_share of 0.1"):
        queue.put(client, wanted("BTCUSDT", None, 5000))
    assert queue.take(NOW) is None


# -- any history


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # client
        st.integers(0, 5),  # market
        st.sampled_from([*Purpose, None]),
        st.sampled_from([5, 100, 1000, 5000]),
        st.integers(0, 90),  # due in
        st.sampled_from([None, None, None, *FailureKind]),
        st.integers(0, 30),  # seconds until the next step
        st.sampled_from(["put", "put", "put", "put", "cancel"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_in_any_history_every_request_is_answered_once_within_the_limits(steps):
    queue = queue_of(0.5)
    settings = ({"weight_share": 0.1}, {"weight_share": 0.2}, {"weight_share": 0.2, "init_interval_s": 3.0})
    clients = [client_of(queue, **setting) for setting in settings]
    put, answered, spent = Counter(), Counter(), []
    pauses: list[tuple[float, float]] = []
    outcomes = iter([step[5] for step in steps] * 2)
    now = NOW

    def run_until(end: float) -> None:
        nonlocal now
        for _ in range(10_000):
            ticket = queue.take(now)
            if ticket is not None:
                assert ticket.request.due <= now
                assert not any(begin <= now < until for begin, until in pauses)
                spent.append((now, ticket.weight, ticket.client.weight_share))
                kind = next(outcomes, None)
                result = BODY if kind is None else failed(kind)
                news = queue.settle(ticket, result, NO_HEADERS, now)
                assert news is not None
                answered[ticket.request.epoch] += 1
                if isinstance(news, SnapshotFailure) and news.retry_at is not None:
                    pauses.append((now, news.retry_at))
                continue
            next_time = queue.next_time(now)
            assert next_time > now
            if next_time > end:
                break
            now = next_time
        else:
            pytest.fail("no progress")
        now = max(now, end)

    for epoch, (who, market, purpose, limit, due_in, _kind, pause_s, action) in enumerate(steps):
        client = clients[who]
        if action == "put":
            levels = 5 if purpose is None else limit
            queue.put(client, wanted(f"M{market}", purpose, levels, due=now + due_in, epoch=epoch))
            put[epoch] += 1
        else:
            queue.cancel(client, f"M{market}")
        run_until(now + pause_s)
    # Long enough for all waiting requests, including the longest pause after 60 bans.
    run_until(now + 86_400 * 300)
    cancelled = sum(client.cancelled for client in clients)
    assert max(answered.values(), default=0) <= 1
    assert sum(put.values()) == sum(answered.values()) + cancelled
    assert sum(client.waiting_count for client in clients) == 0
    for begin, _, _ in spent:
        window = [(weight, share) for time, weight, share in spent if begin <= time < begin + WEIGHT_WINDOW_S]
        assert sum(weight for weight, _ in window) <= 6000 * max(share for _, share in window)


# ------------------------------------------------------------------------------------------------ estimates


def test_how_long_is_estimated_by_the_weights_that_wait_and_the_budget_of_a_minute():
    queue = queue_of()
    one, other = client_of(queue), client_of(queue)
    assert queue.estimated_s(one, 0, 100, 4, NOW) == 0.0
    assert queue.estimated_s(one, 3, 100, 4, NOW) is None  # no download has ended yet
    queue.put(one, wanted("FIRSTUSDT"))
    queue.settle(taken(queue), BODY, NO_HEADERS, NOW + 0.2)
    now = NOW + 1.0
    for number in range(100):
        queue.put(one, wanted(f"COIN{number}USDT"))
    assert queue.estimated_s(one, 100, 100, 4, now) == pytest.approx(100 * 0.2 / 4)
    # 958 fit beside the first one into 4,800; with 60 of another manager, equally urgent, they do not.
    for number in range(100, 930):
        queue.put(one, wanted(f"COIN{number}USDT"))
    assert queue.estimated_s(one, 930, 100, 4, now) == pytest.approx(930 * 0.2 / 4)
    for number in range(60):
        queue.put(other, wanted(f"COIN{number}USDT"))
    first_counts_no_more_s = NOW + 0.2 + WEIGHT_WINDOW_S - now
    assert queue.estimated_s(one, 930, 100, 4, now) == pytest.approx(first_counts_no_more_s + 990 * 0.2 / 4)
    # Requests that only make a book deeper do not delay it.
    for number in range(60):
        queue.put(other, wanted(f"DEEP{number}USDT", Purpose.DEEPEN, 1000))
    assert queue.estimated_s(one, 930, 100, 4, now) == pytest.approx(first_counts_no_more_s + 990 * 0.2 / 4)


def test_books_without_a_request_are_estimated_too_and_requests_in_flight_are_paid_for():
    queue = queue_of()
    one = client_of(queue, weight_share=0.5)
    queue.put(one, wanted("FIRSTUSDT"))
    queue.settle(taken(queue), BODY, NO_HEADERS, NOW + 0.2)
    now = NOW + 0.2
    assert queue.estimated_s(one, 599, 100, 4, now) == pytest.approx(599 * 0.2 / 4)  # 2,995 of the 3,000
    assert queue.estimated_s(one, 600, 100, 4, now) == pytest.approx(WEIGHT_WINDOW_S + 600 * 0.2 / 4)
    queue.put(one, wanted("SECONDUSDT"))
    taken(queue, now)
    assert queue.estimated_s(one, 599, 100, 4, now) == pytest.approx(599 * 0.2 / 4)


def test_an_interval_between_snapshots_is_part_of_the_estimate():
    queue = queue_of()
    one = client_of(queue, init_interval_s=3.0)
    queue.put(one, wanted("FIRSTUSDT"))
    queue.settle(taken(queue), BODY, NO_HEADERS, NOW + 0.2)
    assert queue.estimated_s(one, 10, 100, 4, NOW + 0.2) == pytest.approx(30.0)
