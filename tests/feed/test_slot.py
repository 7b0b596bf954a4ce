"""A connection slot by itself: when it connects and renews. The clock is the test's own, the connections are fakes."""

import math

from ldc.feed.connection import ConnectionState
from ldc.feed.slot import ConnectionSlot
from ldc.limits import Timing


class LateConnection:
    """As much of a connection as its slot uses: open from the start, and its pong is late."""

    state, opened_at = ConnectionState.OPEN, 0.0

    def __init__(self, connection_id: int) -> None:
        self.connection_id = connection_id

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


def made_slot(kind: type[LateConnection], random: float) -> tuple[ConnectionSlot, list[LateConnection]]:
    """A slot that may connect at any time and whose successors take over at once; and the connections it makes."""
    made: list[LateConnection] = []

    def connect(url: str, now: float) -> LateConnection:
        made.append(kind(len(made) + 1))
        return made[-1]

    slot = ConnectionSlot(
        "wss://nowhere", Timing(), lambda: random,
        take_connect=lambda now: now, connect=connect, forget=lambda *_: None, has_taken_over=lambda *_: True,
    )  # fmt: skip
    return slot, made


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
