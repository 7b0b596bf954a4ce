"""The requests of a market and their epochs."""

import pytest

from ldc.sync.actions import Action, CancelSnapshot, Purpose, RequestSnapshot, SnapshotDrop, SnapshotRequests


def test_every_request_has_an_epoch_of_its_own_and_only_its_answer_answers_it() -> None:
    actions: list[Action] = []
    requests = SnapshotRequests(actions)
    requests.issue(Purpose.SYNCHRONIZE, 100, 5.0)
    assert requests.take(0) is None
    assert requests.take(2) is None
    assert requests.take(1) == RequestSnapshot(1, Purpose.SYNCHRONIZE, 100, 5.0)
    assert requests.take(1) is None
    requests.issue(Purpose.DEEPEN, 1000, 6.0)
    requests.cancel()
    requests.cancel()
    assert requests.take(2) is None
    assert requests.dropped[SnapshotDrop.LATE] == 4
    assert requests.cancelled == 1
    assert actions[2:] == [CancelSnapshot(2)]
    assert requests.epoch == 2


def test_a_download_begins_for_the_awaited_request_only() -> None:
    requests = SnapshotRequests([])
    assert not requests.has_begun
    assert not requests.begin(1)
    requests.issue(Purpose.DEEPEN, 100, 0.0)
    assert not requests.begin(2)
    assert not requests.has_begun
    assert requests.begin(1)
    assert requests.has_begun
    requests.take(1)
    requests.issue(Purpose.DEEPEN, 100, 0.0)
    assert not requests.has_begun


def test_two_requests_at_a_time_are_a_programming_error() -> None:
    requests = SnapshotRequests([])
    requests.issue(Purpose.DEEPEN, 100, 0.0)
    with pytest.raises(AssertionError):
        requests.issue(Purpose.DEEPEN, 100, 0.0)
