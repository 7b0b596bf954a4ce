"""Updates that wait: one of them, and a buffer of them, without a market."""

import gc
import random

import pytest

from ldc.sequence import FUTURES, SPOT, SequenceRule
from ldc.sync.buffer import (
    BUFFER_BYTES_MAX,
    PREVIOUS_NUMBERING_MS,
    BufferBudget,
    Update,
    UpdateBuffer,
)
from ldc.types import Header


def update(
    start: int, last: int, *, payload: bytes = b"x", first: int | None = None, time_ms: int | None = None
) -> Update:
    return Update(start, start + 1 if first is None else first, last, time_ms, payload, None)


def buffer_of(*windows: tuple[int, int]) -> UpdateBuffer:
    buffer = UpdateBuffer()
    for start, last in windows:
        buffer.add(update(start, last))
    return buffer


def windows(buffer: UpdateBuffer) -> list[tuple[int, int]]:
    return [(held.start, held.last_update_id) for held in buffer]


# -------------------------------------------------------------------------------------------------------------- updates


def test_an_update_keeps_bytes_that_cannot_change_as_they_are() -> None:
    header = Header(None, "depthUpdate", "X", 5, 9, 4, 1)
    payload = b"frame"
    assert Update.of(SPOT, header, payload, None).payload is payload
    assert Update.of(SPOT, header, "text", None).payload == "text"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_an_update_copies_bytes_that_can_change(kind: type) -> None:
    header = Header(None, "depthUpdate", "X", 5, 9, 4, 1)
    memory = bytearray(b"frame")
    kept = Update.of(SPOT, header, kind(memory), 7)
    memory[:] = b"other"
    assert kept == Update(4, 5, 9, 1, b"frame", 7)


def test_an_update_starts_where_its_rule_says() -> None:
    header = Header(None, "depthUpdate", "X", 5, 9, 2, 1)
    assert Update.of(SPOT, header, b"", None).start == 4
    assert Update.of(FUTURES, header, b"", None).start == 2


# --------------------------------------------------------------------------------------------------------------- buffer


def test_updates_are_kept_in_the_order_of_their_starts() -> None:
    assert windows(buffer_of((20, 30), (0, 10), (10, 20), (5, 15))) == [(0, 10), (5, 15), (10, 20), (20, 30)]


def test_of_two_updates_that_reach_equally_far_the_newest_came_last() -> None:
    buffer = UpdateBuffer()
    first, second = update(0, 10), update(5, 10)
    buffer.add(first)
    buffer.add(second)
    assert buffer.newest is second


def test_the_newest_update_is_the_one_that_reaches_furthest() -> None:
    buffer = buffer_of((0, 10), (5, 40), (10, 20))
    assert buffer.newest is not None
    assert buffer.newest.last_update_id == 40
    buffer.discard_first(2)
    assert buffer.newest is not None
    assert buffer.newest.last_update_id == 20
    buffer.clear()
    assert buffer.newest is None


def test_a_buffer_holds_what_a_neighbour_covers() -> None:
    buffer = buffer_of((0, 10), (10, 20))
    assert buffer.holds(update(0, 10))
    assert buffer.holds(update(12, 20))
    assert not buffer.holds(update(12, 21))
    assert not buffer.holds(update(-5, 0))
    assert not UpdateBuffer().holds(update(0, 1))


def test_what_lies_before_the_last_hole_is_forgotten() -> None:
    buffer = buffer_of((0, 10), (10, 20), (21, 30), (35, 40), (40, 50), (45, 60))
    assert buffer.discard_before_last_hole() == 3
    assert windows(buffer) == [(35, 40), (40, 50), (45, 60)]
    assert buffer.discard_before_last_hole() == 0


def test_a_wide_update_spans_a_hole_between_narrow_ones() -> None:
    assert buffer_of((0, 30), (5, 10), (20, 25), (30, 40)).discard_before_last_hole() == 0


def test_a_buffer_of_too_many_updates_gives_up_the_oldest() -> None:
    buffer = UpdateBuffer(updates_max=3)
    assert [buffer.add(update(start, start + 1)) for start in range(5)] == [0, 0, 0, 1, 1]
    assert windows(buffer) == [(2, 3), (3, 4), (4, 5)]


def test_a_buffer_of_too_many_bytes_gives_up_as_many_as_it_needs_to() -> None:
    buffer = UpdateBuffer(bytes_max=10)
    for start in range(4):
        assert buffer.add(update(start, start + 1, payload=b"xx")) == 0
    assert buffer.add(update(4, 5, payload=b"x" * 7)) == 3
    assert windows(buffer) == [(3, 4), (4, 5)]
    buffer.discard_first(1)
    assert buffer.add(update(5, 6, payload=b"xxx")) == 0  # what is gone does not count


def test_one_update_is_kept_whatever_its_size() -> None:
    buffer = buffer_of((0, 1))
    assert buffer.add(update(1, 2, payload=b"x" * (BUFFER_BYTES_MAX + 1))) == 1
    assert windows(buffer) == [(1, 2)]
    assert buffer.add(update(2, 3)) == 1


@pytest.mark.parametrize(
    ("rule", "first", "snapshot_id", "continues"),
    [
        (SPOT, 11, 10, True),
        (SPOT, 11, 9, False),
        (SPOT, 11, 500, True),
        (FUTURES, 14, 10, True),
        (FUTURES, 14, 9, False),
        (FUTURES, 14, 20, True),
        (FUTURES, 14, 500, True),
        (FUTURES, 8, 9, True),
    ],
)
def test_a_snapshot_is_continued_if_nothing_lies_between(
    rule: SequenceRule, first: int, snapshot_id: int, continues: bool
) -> None:
    buffer = UpdateBuffer()
    buffer.add(update(10, 20, first=first))
    assert buffer.continues(rule, snapshot_id) == continues
    assert UpdateBuffer().continues(rule, snapshot_id)


def test_a_buffer_is_what_a_sorted_list_would_be() -> None:
    rng = random.Random(7)
    for _ in range(200):
        buffer, model = UpdateBuffer(updates_max=8, bytes_max=40), []
        for _ in range(30):
            if rng.random() < 0.1:
                count = rng.randint(0, len(model))
                buffer.discard_first(count)
                del model[:count]
            start = rng.randint(0, 30)
            added = update(start, start + rng.randint(1, 9), payload=b"x" * rng.randint(1, 12))
            model.append(added)
            model.sort(key=lambda held: held.start)
            dropped = 0
            while len(model) > 8 or sum(len(held.payload) for held in model) > 40:
                del model[0]
                dropped += 1
            assert buffer.add(added) == dropped
            assert list(buffer) == model
            assert buffer.newest is not None
            assert buffer.newest.last_update_id == max(held.last_update_id for held in model)


def test_when_the_one_that_reached_furthest_is_given_up_the_next_one_does() -> None:
    buffer = buffer_of((0, 100), (10, 20), (30, 50))
    buffer.discard_first(1)
    assert buffer.newest is not None
    assert buffer.newest.last_update_id == 50


def test_what_reaches_further_than_a_much_later_update_is_of_the_previous_numbering() -> None:
    buffer = UpdateBuffer(bytes_max=9)
    held = [update(*window, time_ms=time_ms) for window, time_ms in (((8, 9), 9_000), ((9, 10), 9_000))]
    previous = [update(*window, time_ms=time_ms) for window, time_ms in (((89, 90), 5_000), ((99, 100), 5_100))]
    for one in held + previous:
        buffer.add(one)
    later = update(19, 20, time_ms=5_100 + PREVIOUS_NUMBERING_MS)
    assert buffer.discard_previous_numbering(later) == []  # the one that reaches furthest may be of then
    assert buffer.discard_previous_numbering(later._replace(event_time_ms=5_101 + PREVIOUS_NUMBERING_MS)) == previous
    assert list(buffer) == held
    assert buffer.newest is held[-1]
    for place in range(7):
        assert buffer.add(update(10 + place, 11 + place)) == 0  # their bytes are free again
    assert buffer.add(update(18, 19)) == 1


@pytest.mark.parametrize(
    "later",
    [
        update(99, 100, time_ms=100_000),  # the same id again
        update(100, 110, time_ms=100_000),
        update(19, 20),
    ],
)
def test_an_update_that_reaches_as_far_or_has_no_time_ends_no_numbering(later: Update) -> None:
    buffer = UpdateBuffer()
    assert buffer.discard_previous_numbering(later) == []
    buffer.add(update(99, 100, time_ms=5_000))
    assert buffer.discard_previous_numbering(later) == []
    assert len(buffer) == 1


def test_an_update_without_a_time_is_of_no_previous_numbering() -> None:
    buffer = buffer_of((98, 99), (99, 100))
    assert buffer.discard_previous_numbering(update(19, 20, time_ms=100_000)) == []
    assert len(buffer) == 2


# -------------------------------------------------------------------------------------------- all buffers of a process


def test_a_thousand_markets_that_buffer_through_a_ban_hold_no_more_than_the_limit_together() -> None:
    """A regression: each had a limit of its own, 4 MiB, and all of them together had none."""
    budget = BufferBudget(bytes_max=100_000)
    buffers = [UpdateBuffer(budget=budget) for _ in range(1000)]
    discarded = 0
    for start in range(50):
        for buffer in buffers:
            discarded += buffer.add(update(start, start + 1, payload=b"x" * 10))
            assert budget.held <= 100_000 + 10
    assert budget.held == sum(len(held.payload) for buffer in buffers for held in buffer)
    assert discarded == budget.discarded == 50_000 - sum(map(len, buffers))
    for buffer in buffers:
        assert [held.start for held in buffer] == list(range(50 - len(buffer), 50))  # the newest, and of each alike
        assert 9 <= len(buffer) <= 11


def test_a_buffer_that_holds_more_than_its_part_gives_way_to_the_others() -> None:
    budget = BufferBudget(bytes_max=100)
    large, small = UpdateBuffer(budget=budget), UpdateBuffer(budget=budget)
    for start in range(10):
        large.add(update(start, start + 1, payload=b"x" * 10))
    for start in range(5):
        assert small.add(update(start, start + 1, payload=b"x" * 10)) == 0
    assert large.add(update(10, 11, payload=b"x" * 10)) == 6
    assert (len(large), len(small), budget.held) == (5, 5, 100)


def test_what_a_buffer_no_longer_holds_counts_no_longer() -> None:
    budget = BufferBudget(bytes_max=100)

    def filled() -> UpdateBuffer:
        buffer = UpdateBuffer(budget=budget)
        for start in range(3):
            buffer.add(update(start, start + 1, payload=b"x" * 10))
        return buffer

    one, other, third = filled(), filled(), filled()
    assert (budget.held, budget.buffers) == (90, 3)
    one.discard_first(1)
    assert (budget.held, budget.buffers) == (80, 3)
    one.clear()
    other.discard_first(3)
    assert (budget.held, budget.buffers) == (30, 1)
    assert one.clear() == other.discard_first(0) == 0
    assert (budget.held, budget.buffers) == (30, 1)
    del third  # with the market that it was of
    gc.collect()
    budget.change(0)
    assert (budget.held, budget.buffers) == (0, 0)


def test_updates_of_a_previous_numbering_count_no_longer() -> None:
    budget = BufferBudget()
    buffer = UpdateBuffer(budget=budget)
    buffer.add(update(100, 101, time_ms=1_000, payload=b"x" * 10))
    assert len(buffer.discard_previous_numbering(update(1, 2, time_ms=9_000))) == 1
    assert (budget.held, budget.buffers) == (0, 0)
