"""When the next snapshot may be requested. The random source returns 0.5: a backoff is half of its ceiling."""

import pytest

from ldc.sync.retry import RESYNCS_AT_ONCE_MAX, RETRY_S_MAX, STABLE_S, RetryPolicy

NOW = 1_000.0


@pytest.fixture
def retry() -> RetryPolicy:
    return RetryPolicy(lambda: 0.5, NOW)


def delays_after_useless(retry: RetryPolicy, count: int) -> list[float]:
    delays = []
    for _ in range(count):
        retry.note_useless(NOW)
        delays.append(retry.earliest(NOW) - NOW)
    return delays


def test_the_first_snapshot_may_be_requested_at_once(retry: RetryPolicy) -> None:
    assert retry.earliest(NOW) == NOW
    assert retry.earliest(NOW + 5.0) == NOW + 5.0


def test_after_a_useless_snapshot_the_next_one_comes_at_once_then_with_a_growing_backoff(retry: RetryPolicy) -> None:
    assert delays_after_useless(retry, 8) == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, RETRY_S_MAX / 2, RETRY_S_MAX / 2]


def test_the_backoff_starts_again_once_the_market_was_readable(retry: RetryPolicy) -> None:
    delays_after_useless(retry, 5)
    retry.note_published()
    assert delays_after_useless(retry, 2) == [0.0, 0.5]


def test_a_retry_after_is_obeyed_if_it_is_later_than_the_backoff(retry: RetryPolicy) -> None:
    retry.note_useless(NOW, retry_at=NOW + 7.0)
    assert retry.earliest(NOW) == NOW + 7.0
    retry.note_useless(NOW, retry_at=NOW + 0.1)
    assert retry.earliest(NOW) == NOW + 0.5


def test_resyncs_that_do_not_last_are_delayed_after_some(retry: RetryPolicy) -> None:
    delays = []
    for _ in range(RESYNCS_AT_ONCE_MAX + 3):
        retry.note_lost(NOW, STABLE_S - 0.1)
        delays.append(retry.earliest(NOW) - NOW)
    assert delays == [0.0] * RESYNCS_AT_ONCE_MAX + [0.5, 1.0, 2.0]


def test_a_market_that_lasted_counts_its_resyncs_from_zero(retry: RetryPolicy) -> None:
    for _ in range(RESYNCS_AT_ONCE_MAX + 2):
        retry.note_lost(NOW, 0.0)
    later = NOW + 90.0
    retry.note_lost(later, STABLE_S)
    for _ in range(RESYNCS_AT_ONCE_MAX - 1):
        retry.note_lost(later, 0.0)
    assert retry.earliest(later) == later
    retry.note_lost(later, 0.0)
    assert retry.earliest(later) == later + 0.5
