"""Waiting for a book that another thread writes: no wake-up is lost."""

import threading

from loopback_exchange import PATIENCE_S

from ldc.book import OrderBook, StreamBinding
from ldc.consume.signal import UpdateSignal


def test_a_signal_wakes_all_who_wait_and_no_wake_up_is_lost():
    binding = StreamBinding(OrderBook("spot"), None)
    signal, number, reached = UpdateSignal(binding), [0], []
    rounds = 2_000

    def follow():
        for target in range(1, rounds + 1, 7):
            assert signal.wait_for(lambda target=target: number[0] >= target, PATIENCE_S)
        reached.append(number[0])

    followers = [threading.Thread(target=follow) for _ in range(4)]
    for follower in followers:
        follower.start()
    for value in range(1, rounds + 1):
        number[0] = value
        if binding.waiting:
            signal.notify()
    for follower in followers:
        follower.join(PATIENCE_S)
    assert len(reached) == 4
    assert binding.waiting == 0
