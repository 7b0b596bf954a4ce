"""When the next snapshot may be requested. The random source returns 0.5: a backoff is half of its ceiling."""

import pytest

from ldc.sync.retry import RETRY_S_MAX, USELESS_S_MAX, RetryPolicy

NOW = 1_000.0


@pytest.fixture
def retry() -> RetryPolicy:
    return RetryPolicy(lambda: 0.5, NOW)


def delays_after_failures(retry: RetryPolicy, count: int) -> list[float]:
    delays = []
    for _ in range(count):
        retry.note_failed(NOW)
        delays.append(retry.earliest(NOW) - NOW)
    return delays


def test_the_first_snapshot_may_be_requested_at_once(retry: RetryPolicy) -> None:
    assert retry.earliest(NOW) == NOW
    assert retry.earliest(NOW + 5.0) == NOW + 5.0


def test_after_a_failed_download_the_next_one_comes_at_once_then_with_a_growing_backoff(retry: RetryPolicy) -> None:
    assert delays_after_failures(retry, 8) == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, RETRY_S_MAX / 2, RETRY_S_MAX / 2]


def test_after_a_useless_snapshot_the_backoff_stays_short(retry: RetryPolicy) -> None:
    """The exchange works: what was too old, lagging or locked may fit the next time."""
    delays, now = [], NOW
    for _ in range(20):
        retry.note_useless(now)
        delays.append(retry.earliest(now) - now)
        now = retry.earliest(now)
    assert delays == [0.0, 0.5] + [USELESS_S_MAX / 2] * 18


def test_a_snapshot_that_came_shows_that_the_host_works(retry: RetryPolicy) -> None:
    assert delays_after_failures(retry, 5)[-1] == 4.0
    retry.note_useless(NOW + 4.0)
    retry.note_failed(NOW + 5.0)
    assert retry.earliest(NOW + 5.0) == NOW + 5.5


def test_the_backoff_starts_again_once_the_market_was_readable(retry: RetryPolicy) -> None:
    delays_after_failures(retry, 5)
    retry.note_published()
    later = NOW + 10.0
    retry.note_failed(later)
    assert retry.earliest(later) == later
    retry.note_failed(later)
    assert retry.earliest(later) == later + 0.5


def test_what_the_exchange_said_is_waited_for_and_not_longer(retry: RetryPolicy) -> None:
    delays_after_failures(retry, 8)
    for pause_s in (7.0, 3_600.0, 0.1):
        now = retry.earliest(NOW)
        retry.note_failed(now, retry_at=now + pause_s)
        assert retry.earliest(now) == now + pause_s
    retry.note_failed(now, retry_at=now - 1.0)
    assert retry.earliest(now) == now


def test_a_pause_by_the_exchange_does_not_count_as_a_failure_of_the_host(retry: RetryPolicy) -> None:
    for number in range(5):
        retry.note_failed(NOW, retry_at=NOW + number)
    later = NOW + 10.0
    retry.note_failed(later)
    assert retry.earliest(later) == later
