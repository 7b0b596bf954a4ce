"""A connection slot by itself: when it connects and renews. The clock is the test's own, the connections are fakes."""

import math
import random
from collections.abc import Callable

import pytest

from ldc.feed.connection import ConnectionState
from ldc.feed.pool import SharedConnectBudget
from ldc.feed.slot import ConnectionSlot
from ldc.feed.subscriptions import StreamRequests
from ldc.limits import RECONNECT_S_FIRST, RECONNECT_S_LOST, RECONNECT_S_MAX, Timing


class LateConnection:
    """As much of a connection as its slot uses: open from the start, and its pong is late."""

    state, opened_at, url = ConnectionState.OPEN, 0.0, "wss://nowhere"

    def __init__(self, connection_id: int) -> None:
        self.connection_id = connection_id
        self.requests = StreamRequests(Timing())

    def next_due(self, now: float) -> float:
        return math.inf

    def is_pong_late(self, now: float) -> bool:
        return True

    def begin_close(self) -> float:
        return 0.0


class PromptConnection(LateConnection):
    """One whose pongs come in time."""

    def is_pong_late(self, now: float) -> bool:
        return False


def made_slot(
    kind: type[LateConnection],
    random: float | Callable[[], float],
    *,
    budget: SharedConnectBudget | None = None,
    taken_over: bool | None = True,
) -> tuple[ConnectionSlot, list[LateConnection]]:
    """A slot whose connections are of that kind, and the list of them. Without a budget it may connect at any time."""
    made: list[LateConnection] = []

    def connect(url: str, now: float) -> LateConnection:
        made.append(kind(len(made) + 1))
        made[-1].opened_at = now
        return made[-1]

    budget = budget or SharedConnectBudget(10**6)
    slot = ConnectionSlot(
        "wss://nowhere", Timing(), random if callable(random) else lambda: random,
        take_connect=budget.take, connect_spacing=budget.spacing_s, connect=connect, forget=lambda *_: None,
        has_taken_over=lambda *_: taken_over,
    )  # fmt: skip
    return slot, made


class RefusedConnection(PromptConnection):
    """One that never finishes its handshake."""

    state = ConnectionState.CONNECTING


class WorkingConnection(PromptConnection):
    """One whose subscription was acknowledged."""

    def __init__(self, connection_id: int) -> None:
        super().__init__(connection_id)
        self.requests.acknowledged["btcusdt@depth"] = 0.0


def connected_at(slot: ConnectionSlot, now: float) -> float:
    """Let the slot connect, as soon as it may; return when that was."""
    while not list(slot):
        now = max(now, slot.next_due(now) or now)
        slot.tick(now)
    return now


def waits_s(slot: ConnectionSlot, count: int, *, lived_s: float) -> list[float]:
    """Lose so many connections, each after `lived_s`; return how long each next one was waited for."""
    now, waits = connected_at(slot, 1_000.0), []
    for _ in range(count):
        now += lived_s
        slot.lose(list(slot)[-1], now, is_wanted=True)
        waits.append(connected_at(slot, now) - now)
        now += waits[-1]
    return waits


def test_a_pong_that_is_late_too_soon_after_another_is_checked_when_the_pause_ends():
    slot, made = made_slot(LateConnection, 0.0)
    slot.tick(0.0)  # connects, and finds the pong to be late
    slot.tick(10.0)  # opens a successor, which takes over
    assert len(made) == 2
    assert [connection.connection_id for connection in slot] == [2]
    assert slot.next_due(20.0) == Timing().trouble_pause_s
    slot.tick(Timing().trouble_pause_s)
    slot.tick(Timing().trouble_pause_s)
    assert len(made) == 3


def test_a_host_that_announces_its_end_on_each_new_connection_does_not_use_up_the_connects():
    slot, made = made_slot(PromptConnection, 0.5)
    for tenth in range(3_000):  # the five minutes in which 300 are allowed, for all
        now = tenth / 10
        slot.tick(now)
        newest = list(slot)[-1]
        slot.end_announced(newest, now)
        slot.end_announced(newest, now)
        if tenth == 3:
            assert len(made) == 2  # the first time at once
    assert len(made) <= 20


def test_after_a_quiet_while_an_announced_end_is_followed_at_once_again():
    slot, made = made_slot(PromptConnection, 0.5)
    for announced_at in (0.0, 1_000.0, 2_000.0):
        slot.tick(announced_at)
        before = len(made)
        slot.end_announced(list(slot)[-1], announced_at)
        for _ in range(3):
            slot.tick(announced_at)
        assert len(made) == before + 1


# ------------------------------------------------------------------------------------- a connection is lost, or refused


@pytest.mark.parametrize("lived_s", [0.0, 5.0, 3_600.0])
def test_a_lost_connection_is_replaced_within_a_quarter_of_a_second_however_many_were_lost_before(lived_s: float):
    slot, _ = made_slot(WorkingConnection, 0.999)
    assert waits_s(slot, 20, lived_s=lived_s) == pytest.approx([0.999 * RECONNECT_S_LOST] * 20)


def test_a_connection_that_lasted_has_worked_although_nothing_was_acknowledged():
    slot, _ = made_slot(PromptConnection, 0.5)
    assert waits_s(slot, 3, lived_s=Timing().stable_s) == pytest.approx([0.5 * RECONNECT_S_LOST] * 3)


@pytest.mark.parametrize("kind", [RefusedConnection, PromptConnection])
def test_a_host_that_refuses_or_ends_each_connection_at_once_is_spared_by_a_backoff(kind: type[LateConnection]):
    slot, _ = made_slot(kind, 0.5)
    waits = waits_s(slot, 8, lived_s=0.0)
    assert waits == pytest.approx([0.5 * min(RECONNECT_S_MAX, RECONNECT_S_FIRST * 2**n) for n in range(8)])


def test_a_loss_ends_a_series_of_refusals():
    slot, _ = made_slot(RefusedConnection, 0.5)
    waits_s(slot, 5, lived_s=0.0)
    connection = list(slot)[-1]
    connection.state = ConnectionState.OPEN
    connection.requests.acknowledged["btcusdt@depth"] = 0.0
    slot.lose(connection, 5_000.0, is_wanted=True)
    assert connected_at(slot, 5_000.0) - 5_000.0 == 0.5 * RECONNECT_S_LOST
    slot.lose(list(slot)[-1], 6_000.0, is_wanted=True)
    assert connected_at(slot, 6_000.0) - 6_000.0 == 0.5 * RECONNECT_S_FIRST


def test_the_first_reconnects_of_a_herd_are_spread():
    """15 groups, 1,500 markets, all lost in one moment."""
    draw, budget = random.Random(1).random, SharedConnectBudget(300)
    slots = [made_slot(WorkingConnection, draw, budget=budget)[0] for _ in range(15)]
    for slot in slots:
        connected_at(slot, 0.0)
        slot.lose(list(slot)[-1], 60.0, is_wanted=True)
    waits = sorted(connected_at(slot, 60.0) - 60.0 for slot in slots)
    assert len(set(waits)) == 15
    assert waits[0] < 0.1 * RECONNECT_S_LOST * 3
    assert waits[-1] <= RECONNECT_S_LOST


@pytest.mark.parametrize("slot_count", [1, 15])
def test_connections_that_are_lost_at_once_leave_some_of_the_budget_and_never_exceed_it(slot_count: int):
    draw, budget = random.Random(1).random, SharedConnectBudget(300)
    slots = [made_slot(WorkingConnection, draw, budget=budget) for _ in range(slot_count)]
    times_s: list[float] = []
    for tenth in range(9_000):  # 15 minutes
        now = tenth / 10
        for slot, made in slots:
            before = len(made)
            slot.tick(now)
            times_s += [now] * (len(made) - before)
            for connection in slot:
                slot.lose(connection, now, is_wanted=True)
    in_window = [sum(begin <= time_s < begin + 300.0 for time_s in times_s) for begin in range(0, 600, 10)]
    assert max(in_window) <= 300
    assert sum(time_s < 60.0 for time_s in times_s) > 150  # quick while there are many
    if slot_count == 1:
        assert max(in_window[35:]) < 250  # a sixth is left for the others, mostly a third


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("handshake_s", [0.0, 8.0])
def test_a_host_that_refuses_for_ten_minutes_sees_at_most_sixty_connects(seed: int, handshake_s: float):
    slot, made = made_slot(RefusedConnection, random.Random(seed).random)
    now = 0.0
    while now < 600.0:
        now = connected_at(slot, now) + handshake_s
        slot.lose(list(slot)[-1], now, is_wanted=True)
    assert 10 <= len(made) <= 60


def test_a_successor_that_fails_waits_like_a_refusal_for_its_predecessor_serves():
    slot, made = made_slot(WorkingConnection, 0.5, taken_over=None)
    now = connected_at(slot, 0.0)
    waits = []
    for _ in range(3):
        slot.renew(now)
        slot.tick(now)
        slot.lose(made[-1], now, is_wanted=True)
        due = slot.next_due(now)
        assert due is not None
        waits.append(due - now)
        now = due + 1.0
        slot.tick(due)
        assert len(list(slot)) == 1  # `renew` was requested; the next tick opens it
    assert waits == [0.5 * RECONNECT_S_FIRST * 2**n for n in range(3)]


@pytest.mark.parametrize("has_older", [False, True])
def test_a_connect_that_is_put_off_comes_at_that_time_without_a_backoff(has_older: bool):
    slot, made = made_slot(PromptConnection, 0.999)
    slot.tick(0.0)
    if has_older:
        slot.renew(10.0)
        slot.tick(10.0)
    begun = len(made)
    slot.put_off(made[-1], 100.0, 10.0)
    assert slot.connects == begun - 1
    slot.tick(99.9)
    assert len(made) == begun
    assert slot.next_due(99.9) == 100.0
    slot.tick(100.0)
    slot.tick(100.0)  # a renewal is planned in the first one
    assert len(made) == begun + 1
