"""The limits keep their promise: never too much in any window, and never an unnecessary wait.

Times are multiples of 1/1024 s, so that sums of them are exact and a window's edge is where it seems to be.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldc.limits import (
    BAN_PAUSE_S,
    BAN_PAUSE_S_MAX,
    LIMIT_PAUSE_S,
    RECONNECT_S_FIRST,
    RECONNECT_S_LOST,
    RECONNECT_S_MAX,
    RETRY_AFTER_S_MAX,
    RETRY_AFTER_S_MIN,
    WEIGHT_SHARE_MIN,
    WEIGHT_WINDOW_S,
    Backoff,
    ConnectBudget,
    MessagePacer,
    ReconnectPolicy,
    RollingLimit,
    WeightBudget,
    checked_weight_share,
)
from ldc.venues import VENUES, Venue

TICK_S = 1 / 1024


def seconds(longest_s: float) -> st.SearchStrategy[float]:
    return st.integers(0, int(longest_s / TICK_S)).map(lambda ticks: ticks * TICK_S)


# -- a rolling limit


def worst_window(times_s: list[float], window_s: float) -> int:
    """Return the most events in any window that includes its begin and not its end."""
    return max((sum(begin_s <= time_s < begin_s + window_s for time_s in times_s) for begin_s in times_s), default=0)


@given(limit=st.integers(1, 5), window_s=st.sampled_from([1.0, 300.0]), pauses_s=st.lists(seconds(400), max_size=30))
def test_a_rolling_limit_holds_in_every_window_and_waits_no_longer_than_needed(limit, window_s, pauses_s):
    rolling = RollingLimit(limit, window_s)
    now, times_s = 1000.0, []
    for pause_s in pauses_s:
        now += pause_s
        allowed_s = rolling.earliest(now)
        if allowed_s > now:
            assert worst_window([*times_s, allowed_s - TICK_S], window_s) > limit
        now = allowed_s
        rolling.spend(now)
        times_s.append(now)
        assert worst_window(times_s, window_s) <= limit


def test_three_messages_go_at_once_and_the_fourth_a_second_after_the_first():
    pacer = MessagePacer()
    for _ in range(3):
        assert pacer.earliest(10.0) == 10.0
        pacer.spend(10.0)
    assert pacer.earliest(10.0) == pacer.earliest(10.75) == 11.0
    assert pacer.earliest(11.0) == 11.0


def test_a_pong_that_could_not_wait_makes_the_next_message_wait():
    pacer = MessagePacer()
    for sent_s in (10.0, 10.25, 10.5, 10.75):
        pacer.spend(sent_s)
    assert pacer.earliest(11.0) == 11.25


def test_three_hundred_connects_in_five_minutes():
    connects = ConnectBudget()
    for number in range(300):
        assert connects.earliest(float(number)) == number
        connects.spend(float(number))
    assert connects.earliest(299.5) == 300.0


def test_connects_need_no_spacing_until_half_of_them_are_used_up():
    connects = ConnectBudget()
    for number in range(149):
        connects.spend(float(number))
        assert connects.spacing_s(float(number)) == 0.0
    connects.spend(149.0)
    assert connects.spacing_s(149.0) == 300.0 / 150
    assert connects.spacing_s(300.0) == 0.0  # the first one counts no more


def test_the_spacing_grows_as_the_budget_empties_up_to_the_whole_window():
    connects = ConnectBudget()
    for _ in range(300):
        connects.spend(0.0)
    spacings_s = [connects.spacing_s(0.0)]
    connects = ConnectBudget()
    for number in range(300):
        connects.spend(float(number) / 1000)
        spacings_s.append(connects.spacing_s(0.3))
    assert spacings_s[0] == spacings_s[-1] == spacings_s[-2] == 300.0
    assert spacings_s[-101] == 3.0
    assert all(earlier <= later for earlier, later in pairwise(spacings_s[1:]))


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="allows nothing"):
        RollingLimit(0, 1.0)
    with pytest.raises(ValueError, match="allows nothing"):
        WeightBudget(0)


# -- request weight: our own promise


@dataclass
class Exchange:
    """Counts weight as Binance does: in minutes of its own clock, at some time between sending and answer."""

    clock_offset_s: float
    counted: list[tuple[float, int]] = field(default_factory=list)  # (time, weight), ours
    foreign: list[tuple[float, int]] = field(default_factory=list)

    def minute(self, time_s: float) -> int:
        return int((time_s + self.clock_offset_s) // 60)

    def used(self, time_s: float) -> int:
        return sum(
            weight
            for counted_s, weight in self.counted + self.foreign
            if counted_s <= time_s and self.minute(counted_s) == self.minute(time_s)
        )


@dataclass
class Request:
    weight: int
    sent_s: float
    counted_s: float
    answered_s: float


@dataclass
class Client:
    """Sends requests as early as the budget allows, at most `parallel` at a time."""

    budget: WeightBudget
    share: float
    exchange: Exchange
    parallel: int = 4
    hears: bool = True
    knows_the_date: bool = True
    now: float = 5000.0
    sent: list[Request] = field(default_factory=list)
    open: list[Request] = field(default_factory=list)
    reports: list[tuple[float, float, int]] = field(default_factory=list)  # (received, server's time, used weight)
    before_sending: Callable[[float, int], None] = lambda _now, _weight: None

    def advance(self, until_s: float) -> None:
        while self.open and (first := min(self.open, key=lambda request: request.answered_s)).answered_s <= until_s:
            self.answer(first)
        self.now = max(self.now, until_s)

    def answer(self, request: Request) -> None:
        self.open.remove(request)
        self.now = max(self.now, request.answered_s)
        self.budget.settle(request.weight, self.now)
        if self.hears:
            # The header is written when the request is counted, and rounded down to seconds.
            server_time_s = request.counted_s + self.exchange.clock_offset_s
            used_weight = self.exchange.used(request.counted_s)
            self.reports.append((self.now, server_time_s, used_weight))
            self.budget.observe(used_weight, self.now, server_time_s // 1 if self.knows_the_date else None)

    def send(self, weight: int, to_server_s: float, back_s: float) -> None:
        while True:
            if len(self.open) == self.parallel:
                self.answer(min(self.open, key=lambda request: request.answered_s))
            earliest_s = self.budget.earliest(weight, self.now, self.share)
            assert earliest_s >= self.now
            if earliest_s == self.now:
                break
            # While requests are in flight it is a lower bound: check again at each answer.
            answers_s = [request.answered_s for request in self.open]
            self.advance(min([earliest_s, *answers_s]))
        self.before_sending(self.now, weight)
        self.budget.spend(weight, self.now)
        request = Request(weight, self.now, self.now + to_server_s, self.now + to_server_s + back_s)
        self.exchange.counted.append((request.counted_s, weight))
        self.sent.append(request)
        self.open.append(request)


REQUESTS = st.lists(
    st.tuples(seconds(90), st.sampled_from([1, 2, 5, 20, 50]), seconds(8), seconds(8)), min_size=1, max_size=40
)


def client_of(share: float, offset_s: float, **options: object) -> Client:
    return Client(WeightBudget(120), share, Exchange(offset_s), **options)  # type: ignore[arg-type]


@given(
    requests=REQUESTS,
    share=st.sampled_from([0.5, 0.8, 1.0]),
    offset_s=seconds(60),
    hears=st.booleans(),
    knows_the_date=st.booleans(),
    foreign=st.lists(st.tuples(seconds(1000), st.integers(1, 60)), max_size=20),
)
def test_the_weight_that_the_exchange_counts_is_within_the_share_in_every_minute_wherever_it_begins(
    requests, share, offset_s, hears, knows_the_date, foreign
):
    client = client_of(share, offset_s, hears=hears, knows_the_date=knows_the_date)
    client.exchange.foreign = [(5000.0 + time_s, weight) for time_s, weight in foreign]
    for pause_s, weight, to_server_s, back_s in requests:
        client.advance(client.now + pause_s)
        client.send(weight, to_server_s, back_s)
    counted = client.exchange.counted
    for begin_s, _ in counted:
        window = [weight for counted_s, weight in counted if begin_s <= counted_s < begin_s + WEIGHT_WINDOW_S]
        assert sum(window) <= int(120 * share)


@given(
    requests=REQUESTS,
    offset_s=seconds(60),
    knows_the_date=st.booleans(),
    foreign=st.lists(st.tuples(seconds(1000), st.integers(1, 60)), max_size=20),
)
def test_nothing_is_sent_beyond_the_weight_that_the_exchange_reported_in_the_same_minute(
    requests, offset_s, knows_the_date, foreign
):
    client = client_of(0.8, offset_s, knows_the_date=knows_the_date)
    client.exchange.foreign = [(5000.0 + time_s, weight) for time_s, weight in foreign]

    def check(now: float, weight: int) -> None:
        newest_s = max((server_time_s for _, server_time_s, _ in client.reports), default=0.0)
        for received_s, server_time_s, used_weight in client.reports:
            if server_time_s // 60 == client.exchange.minute(now) and (knows_the_date or server_time_s == newest_s):
                since = sum(request.weight for request in client.sent if request.sent_s > received_s)
                assert used_weight + since + weight <= 96

    client.before_sending = check
    for pause_s, weight, to_server_s, back_s in requests:
        client.advance(client.now + pause_s)
        # One at a time without the Date, because then the latest answer counts.
        client.send(weight, to_server_s, back_s)
        if not knows_the_date:
            client.advance(client.now + 16)


@given(requests=REQUESTS, share=st.sampled_from([0.5, 0.8, 1.0]))
def test_a_request_waits_exactly_until_the_own_weight_leaves_room(requests, share):
    client = client_of(share, 0.0, hears=False)

    def is_allowed(time_s: float, weight: int) -> bool:
        counted = [
            request.weight for request in client.sent if request in client.open or request.answered_s + 60 > time_s
        ]
        return sum(counted) + weight <= int(120 * share)

    for pause_s, weight, to_server_s, back_s in requests:
        client.advance(client.now + pause_s)
        earliest_s = client.budget.earliest(weight, client.now, share)
        assert (earliest_s == client.now) == is_allowed(client.now, weight)
        if earliest_s > client.now:
            assert not is_allowed(earliest_s - TICK_S, weight)
            # With nothing in flight the result is exact.
            assert client.open or is_allowed(earliest_s, weight)
        client.send(weight, to_server_s, back_s)


@given(requests=st.lists(st.tuples(seconds(30), st.sampled_from([1, 5, 20, 50])), max_size=40), offset_s=seconds(60))
def test_a_report_of_only_our_own_weight_never_delays_anything(requests, offset_s):
    clients = [client_of(0.8, offset_s, hears=hears) for hears in (True, False)]
    for client in clients:
        for pause_s, weight in requests:
            client.advance(client.now + pause_s)
            client.send(weight, 0.0, 0.0)
            client.advance(client.now)
    assert [request.sent_s for request in clients[0].sent] == [request.sent_s for request in clients[1].sent]


def test_a_full_minute_of_deep_snapshots_goes_at_once_and_again_a_minute_later():
    budget, now = WeightBudget(6000), 100.0
    for _ in range(19):
        assert budget.earliest(250, now, 0.8) == now
        budget.spend(250, now)
        budget.settle(250, now)
    assert budget.used(now) == 4750
    assert budget.earliest(50, now, 0.8) == now
    assert budget.earliest(51, now, 0.8) == 160.0
    assert budget.earliest(250, 160.0, 0.8) == 160.0
    assert budget.used(160.0) == 0


def test_shares_differ_and_the_count_is_common():
    budget = WeightBudget(1000)
    budget.spend(800, 0.0)
    assert budget.earliest(200, 1.0, 1.0) == 1.0
    assert budget.earliest(200, 1.0, 0.9) > 1.0


def test_a_request_in_flight_counts_however_long_it_takes():
    budget = WeightBudget(100)
    budget.spend(100, 0.0)
    assert budget.earliest(1, 500.0) == 560.0
    budget.settle(100, 500.0)
    assert budget.earliest(1, 559.0) == 560.0
    assert budget.earliest(1, 560.0) == 560.0


def test_a_weight_that_never_fits_is_refused_instead_of_waited_for():
    with pytest.raises(ValueError, match="a weight of 250 never fits into 0.1 of 2400"):
        WeightBudget(2400).earliest(250, 0.0, 0.1)
    with pytest.raises(ValueError, match="a weight of 0"):
        WeightBudget(2400).earliest(0, 0.0)


def test_spending_what_is_not_allowed_and_settling_what_was_not_spent_are_bugs_of_ours():
    budget = WeightBudget(10)
    budget.spend(10, 0.0)
    with pytest.raises(AssertionError, match="earliest"):
        budget.spend(1, 59.0)
    with pytest.raises(AssertionError, match="settled"):
        budget.settle(11, 0.0)


def test_memory_is_bounded_by_the_limit():
    budget, now = WeightBudget(50), 0.0
    for _ in range(1000):
        now = budget.earliest(1, now)
        budget.spend(1, now)
        budget.settle(1, now)
    assert len(budget._settled) <= 50


# -- request weight: the exchange's reports


def test_weight_of_other_programs_is_respected_until_the_servers_minute_ends():
    budget = WeightBudget(6000)
    budget.spend(5, 1000.0)
    budget.settle(5, 1000.25)
    budget.observe(4790, 1000.25, server_time_s=1_600_000_000 + 45.0 - 1_600_000_000 % 60)
    assert budget.used(1000.25) == 4790
    assert budget.earliest(10, 1000.25, 0.8) == 1000.25
    assert budget.earliest(11, 1000.25, 0.8) == 1015.25
    assert budget.earliest(11, 1015.25, 0.8) == 1015.25
    assert budget.used(1015.25) == 5


def test_without_the_servers_time_its_minute_is_taken_to_have_just_begun():
    budget = WeightBudget(6000)
    budget.observe(6000, 1000.0)
    assert budget.earliest(5, 1000.0) == 1060.0


def test_weight_sent_after_an_answer_is_added_to_its_report():
    budget = WeightBudget(100)
    budget.observe(60, 0.0, server_time_s=0.0)
    budget.spend(30, 1.0)
    assert budget.used(1.0) == 90
    budget.settle(30, 2.0)
    assert budget.used(2.0) == 90
    budget.observe(90, 2.0, server_time_s=2.0)
    assert budget.used(2.0) == 90


def test_weight_in_flight_at_an_answer_is_added_to_its_report():
    budget = WeightBudget(100)
    budget.spend(30, 0.0)
    budget.spend(20, 0.0)
    budget.settle(20, 1.0)
    budget.observe(40, 1.0, server_time_s=1.0)
    assert budget.used(1.0) == 70


def test_an_answer_with_the_same_report_had_counted_the_weight_in_flight():
    budget = WeightBudget(100)
    budget.spend(30, 0.0)
    budget.spend(20, 0.0)
    budget.settle(30, 1.0)
    budget.observe(50, 1.0, server_time_s=1.0)
    assert budget.used(1.0) == 70
    budget.settle(20, 1.25)
    budget.observe(50, 1.25, server_time_s=1.0)
    assert budget.used(1.25) == 50


def test_an_older_answer_that_comes_late_does_not_lower_the_count():
    budget = WeightBudget(100)
    budget.observe(90, 10.0, server_time_s=9.0)
    budget.observe(50, 10.5, server_time_s=8.0)
    budget.observe(20, 10.75, server_time_s=-2.0)
    assert budget.used(11.0) == 90


def test_the_smallest_budget_allows_one_weight_a_minute():
    budget = WeightBudget(1)
    budget.spend(1, 0.0)
    budget.settle(1, 0.0)
    assert budget.earliest(1, 0.0) == 60.0


def test_an_answer_without_a_time_does_not_decide_which_one_is_older():
    budget = WeightBudget(100)
    budget.observe(90, 10.0, server_time_s=9.0)
    budget.observe(70, 10.5)
    assert budget.used(10.5) == 70
    budget.observe(50, 11.0, server_time_s=10.0)
    assert budget.used(11.0) == 50


def test_an_answer_of_the_next_minute_replaces_the_count():
    budget = WeightBudget(100)
    budget.observe(90, 10.0, server_time_s=59.0)
    budget.observe(5, 10.5, server_time_s=60.0)
    assert budget.used(10.5) == 5


def test_a_clock_of_the_server_that_once_was_wrong_is_forgotten_within_a_minute():
    budget = WeightBudget(100)
    budget.observe(10, 0.0, server_time_s=86_400.0)
    budget.observe(90, 60.0, server_time_s=60.0)
    assert budget.used(60.0) == 90


# -- request weight: refusals


@pytest.mark.parametrize(
    ("retry_after_s", "pause_s"),
    [
        (None, LIMIT_PAUSE_S),
        (17.0, 17.0),
        (0.0, RETRY_AFTER_S_MIN),
        (-5.0, RETRY_AFTER_S_MIN),
        (1e12, RETRY_AFTER_S_MAX),
    ],
)
def test_retry_after_is_obeyed_to_the_second(retry_after_s, pause_s):
    budget = WeightBudget(100)
    assert budget.limit_exceeded(retry_after_s, 1000.0) == 1000.0 + pause_s
    assert budget.paused_until_s == 1000.0 + pause_s
    assert budget.earliest(1, 1000.0) == 1000.0 + pause_s
    assert budget.earliest(1, 1000.0 + pause_s) == 1000.0 + pause_s


def test_bans_without_a_retry_after_are_waited_out_doubling_up_to_three_days():
    budget, now, waits_s = WeightBudget(100), 0.0, []
    for _ in range(2000):
        until_s = budget.banned(None, now)
        waits_s.append(until_s - now)
        now = until_s
    assert waits_s[:4] == [120.0, 240.0, 480.0, 960.0]
    assert waits_s[-1] == BAN_PAUSE_S_MAX == max(waits_s)
    budget.served()
    assert budget.banned(None, now) == now + BAN_PAUSE_S


def test_several_answers_may_report_one_ban():
    budget = WeightBudget(100)
    assert budget.banned(None, 0.0) == 120.0
    assert budget.banned(None, 0.5) == 120.5  # it was sent before the first arrived
    budget.served()  # and so was this
    assert budget.banned(None, 1.0) == 121.0
    assert budget.banned(None, 121.0) == 121.0 + 120.0
    assert budget.banned(None, 241.0) == 241.0 + 240.0


def test_a_ban_with_a_retry_after_ends_at_that():
    budget = WeightBudget(100)
    assert budget.banned(3600.0, 0.0) == 3600.0


def test_a_pause_is_never_shortened():
    budget = WeightBudget(100)
    budget.banned(3600.0, 0.0)
    assert budget.limit_exceeded(5.0, 1.0) == 3600.0
    budget.pause_until(10.0)
    assert budget.earliest(1, 20.0) == 3600.0


def test_a_budget_is_idle_when_it_equals_a_new_one():
    budget = WeightBudget(100)
    assert budget.is_idle(0.0)
    budget.spend(5, 0.0)
    assert not budget.is_idle(1000.0)
    budget.settle(5, 1000.0)
    assert not budget.is_idle(1059.0)
    assert budget.is_idle(1060.0)
    budget.banned(None, 1060.0)
    assert not budget.is_idle(1060.0 + BAN_PAUSE_S)
    budget.served()
    assert budget.is_idle(1060.0 + BAN_PAUSE_S)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.01, -1.0, float("nan"), float("inf")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="from 0.1 to 1"):
        checked_weight_share(share)


@pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))
def test_the_smallest_share_pays_for_every_snapshot_of_every_venue(venue: Venue):
    budget = WeightBudget(venue.weight_per_minute)
    share = checked_weight_share(WEIGHT_SHARE_MIN)
    assert budget.earliest(venue.snapshot_weight(venue.snapshot_limit_max), 0.0, share) == 0.0


# -- backoff


def test_the_first_wait_is_anything_up_to_two_seconds_and_the_ceiling_doubles_up_to_the_cap():
    backoff = Backoff(lambda: 1.0)
    ceilings_s = [backoff.next_delay_s() for _ in range(2000)]
    assert ceilings_s[:6] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(ceilings_s[6:]) == {RECONNECT_S_MAX}
    assert ceilings_s[0] == RECONNECT_S_FIRST
    assert backoff.failures == 2000


def test_the_jitter_is_full():
    for drawn in (0.0, 0.25, 0.5):
        backoff = Backoff(lambda drawn=drawn: drawn)
        assert [backoff.next_delay_s() for _ in range(3)] == [2.0 * drawn, 4.0 * drawn, 8.0 * drawn]


def test_a_wait_may_begin_at_its_longest():
    backoff = Backoff(lambda: 0.5, first_s=4.0, max_s=4.0)
    assert [backoff.next_delay_s() for _ in range(3)] == [2.0, 2.0, 2.0]


def test_weight_that_fits_into_this_minute_waits_only_for_a_pause_to_end():
    budget = WeightBudget(100)
    assert budget.wait_s(50, 1_000.0) == 0.0
    budget.pause_until(1_010.0)
    assert budget.wait_s(50, 1_000.0) == 10.0


def test_a_success_makes_the_next_failure_a_first_one():
    backoff = Backoff(lambda: 1.0, first_s=1.0, max_s=5.0)
    delays_s = [backoff.next_delay_s() for _ in range(4)]
    assert delays_s == [1.0, 2.0, 4.0, 5.0]
    assert all(earlier <= later for earlier, later in pairwise(delays_s))
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_delay_s() == 1.0


def test_a_working_connection_that_was_lost_is_replaced_at_once_and_a_refusal_backs_off():
    policy = ReconnectPolicy(lambda: 1.0, first_s=2.0, max_s=60.0)
    assert [policy.after_loss(0.0) for _ in range(5)] == [RECONNECT_S_LOST] * 5
    assert [policy.after_refusal() for _ in range(7)] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert policy.after_loss(0.0) == RECONNECT_S_LOST
    assert policy.after_refusal() == 2.0
    policy.succeeded()
    assert policy.after_refusal() == 2.0


def test_a_loss_waits_longer_only_as_the_budget_empties():
    policy = ReconnectPolicy(lambda: 0.5)
    assert [policy.after_loss(spacing_s) for spacing_s in (0.0, 0.1, 2.0, 300.0)] == [0.125, 0.125, 1.0, 150.0]


@pytest.mark.parametrize(("first_s", "max_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_ceilings_that_make_no_sense_are_refused(first_s, max_s):
    with pytest.raises(ValueError, match="the first ceiling"):
        Backoff(lambda: 0.5, first_s=first_s, max_s=max_s)


def test_how_long_a_weight_takes_is_estimated_by_the_minute():
    budget = WeightBudget(6000)
    assert budget.wait_s(4800, 100.0, 0.8) == 0.0
    assert budget.wait_s(7500, 100.0, 0.8) == 60.0
    budget.spend(4800, 100.0)
    budget.settle(4800, 110.0)
    assert budget.wait_s(2700, 130.0, 0.8) == 40.0
    assert budget.wait_s(4800 + 1, 130.0, 0.8) == 100.0
    budget.pause_until(230.0)
    assert budget.wait_s(2700, 130.0, 0.8) == 100.0


def test_weight_of_others_past_our_share_is_not_waited_for_twice():
    budget = WeightBudget(6000)
    budget.spend(4800, 100.0)
    budget.settle(4800, 110.0)
    assert budget.wait_s(600, 130.0, 0.1) == 40.0
    budget.observe(10**17, 130.0)
    assert budget.wait_s(601, 130.0, 0.1) == 100.0


def test_a_budget_that_was_limited_and_banned_as_often_is_not_idle():
    budget = WeightBudget(6000)
    budget.limit_exceeded(1.0, 0.0)
    budget.banned(1.0, 1.0)
    assert not budget.is_idle(1_000.0)


@pytest.mark.parametrize("retry_after_s", [1.0, 2.0, 17.0, 600.0])
def test_limits_in_a_row_pause_exactly_as_long_as_the_exchange_says(retry_after_s):
    budget = WeightBudget(6000)
    now = 100.0
    for _ in range(8):
        assert budget.limit_exceeded(retry_after_s, now) == now + retry_after_s
        now += retry_after_s


def test_limits_in_a_row_that_name_no_time_pause_longer_up_to_a_minute():
    budget = WeightBudget(6000)
    now, pauses_s = 100.0, []
    for _ in range(8):
        pauses_s.append(budget.limit_exceeded(0.0, now) - now)
        budget.limit_exceeded(0.0, now)  # it was in flight meanwhile
        now = budget.paused_until_s
    assert pauses_s == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert budget.limit_exceeded(100.0, now) == now + 100.0
    assert not budget.is_idle(now + 1_000.0)
    budget.served()
    assert budget.is_idle(now + 1_000.0)
    assert budget.limit_exceeded(0.0, now + 1_000.0) == now + 1_001.0
