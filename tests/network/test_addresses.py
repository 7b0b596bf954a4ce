"""The order of the addresses of a host and the times of the attempts, by a clock that the test sets."""

import itertools
import math
import random

import pytest

from ldc.network.addresses import (
    ADDRESSES_MAX,
    FAILED_S,
    REMEMBERED_MAX,
    STAGGER_S,
    Address,
    AddressMemory,
    Attempts,
    interleaved,
)

V4, V6 = 2, 10


def four(number: int) -> Address:
    return Address(V4, (f"10.0.{number // 256}.{number % 256}", 443))


def six(number: int) -> Address:
    return Address(V6, (f"2001:db8::{number:x}", 443, 0, 0))


def test_families_take_turns_and_the_first_ones_stays_first():
    assert interleaved([six(1), six(2), six(3), four(1), four(2)]) == [six(1), four(1), six(2), four(2), six(3)]
    assert interleaved([four(1), six(1)]) == [four(1), six(1)]
    assert interleaved([four(1), four(1), four(2)]) == [four(1), four(2)]
    assert interleaved([]) == []


# ------------------------------------------------------------------------------------------------------------ memory


def test_what_failed_last_is_tried_last():
    memory = AddressMemory()
    memory.failed(four(1).key, 10.0)
    memory.failed(four(3).key, 11.0)
    everyone = [four(1), four(2), four(3), four(4)]
    assert memory.ordered(everyone, 12.0) == [four(2), four(4), four(1), four(3)]
    memory.failed(four(1).key, 12.0)
    assert memory.ordered(everyone, 12.0) == [four(2), four(4), four(3), four(1)]
    memory.worked(four(1).key)
    assert memory.ordered(everyone, 12.0) == [four(1), four(2), four(4), four(3)]


def test_when_all_have_failed_the_one_that_failed_first_is_tried_first():
    memory = AddressMemory()
    for at, number in enumerate((2, 3, 1)):
        memory.failed(four(number).key, float(at))
    assert memory.ordered([four(1), four(2), four(3)], 3.0) == [four(2), four(3), four(1)]


def test_a_failure_is_forgotten_after_a_while():
    memory = AddressMemory()
    memory.failed(four(1).key, 0.0)
    assert memory.ordered([four(1), four(2)], FAILED_S - 0.1)[0] == four(2)
    assert memory.ordered([four(1), four(2)], FAILED_S)[0] == four(1)


def test_the_order_of_the_name_server_is_kept_for_what_works():
    memory = AddressMemory()
    memory.worked(four(2).key)
    assert memory.ordered([four(1), four(2)], 0.0) == [four(1), four(2)]


def test_memory_and_addresses_are_bounded():
    memory = AddressMemory()
    for number in range(REMEMBERED_MAX + 10):
        memory.failed(four(number).key, float(number))
    assert len(memory) == REMEMBERED_MAX
    assert len(memory.ordered([four(number) for number in range(300)], 400.0)) == ADDRESSES_MAX


# ---------------------------------------------------------------------------------------------------------- attempts


def test_the_next_begins_after_the_stagger():
    attempts = Attempts([four(1), four(2), four(3)], 100.0)
    assert attempts.begin(100.0) == four(1)
    assert attempts.begin(100.0) is None
    assert attempts.next_at == 100.0 + STAGGER_S
    assert attempts.begin(100.0 + STAGGER_S) == four(2)
    assert attempts.begin(100.9) == four(3)
    assert attempts.next_at == math.inf
    assert attempts.pending == [four(1), four(2), four(3)]
    assert attempts.overtaken_by(four(2)) == [four(1)]
    assert not attempts.is_over


def test_the_next_begins_at_once_after_a_failure_whatever_else_is_pending():
    attempts = Attempts([four(1), four(2), four(3)], 0.0)
    attempts.begin(0.0)
    attempts.failed(four(1), 0.1)
    assert attempts.begin(0.1) == four(2)
    assert attempts.begin(0.1 + STAGGER_S) == four(3)
    attempts.failed(four(2), 0.5)
    attempts.failed(four(3), 0.6)
    assert attempts.is_over


@pytest.mark.parametrize("seed", range(200))
def test_every_address_gets_its_turn_and_a_working_one_is_reached_soon(seed):
    dice = random.Random(seed)
    addresses = [dice.choice((four, six))(number) for number in range(dice.randrange(1, ADDRESSES_MAX + 1))]
    good = dice.choice([*addresses, None])
    fails_after = {address: dice.choice((0.0, 0.01, 0.3, math.inf)) for address in addresses}
    attempts = Attempts(addresses, 0.0)
    now, ends_at, begun = 0.0, {}, []
    while not attempts.is_over and now < 60.0:
        while (address := attempts.begin(now)) is not None:
            begun.append((now, address))
            ends_at[address] = now + fails_after[address]
        if good in attempts.pending:
            break
        for address in list(attempts.pending):
            if ends_at[address] <= now:
                attempts.failed(address, now)
        if attempts.next_at > now:
            now = min(attempts.next_at, *(ends_at[each] for each in attempts.pending), 61.0)
    assert [address for _, address in begun] == addresses[: len(begun)]
    assert all(later - earlier <= STAGGER_S + 1e-9 for (earlier, _), (later, _) in itertools.pairwise(begun))
    assert good is None or begun[-1] == (now, good)
    assert good is not None or len(begun) == len(addresses)
