"""When a silent market is probed, when its subscription is dead, and what is evidence against its book."""

import pytest

from ldc.book import OrderBook
from ldc.feed.silence import CONTRADICTIONS, Evidence, ProbeAnswer, SilenceWatch, evidence_of
from ldc.limits import Timing


def test_the_wait_for_a_probe_doubles_and_a_dead_subscription_is_told_from_a_quiet_one():
    watch, heard_at = SilenceWatch(Timing()), 0.0
    assert not watch.is_due(heard_at, 59.0)
    assert watch.is_due(heard_at, 60.0)
    watch.probe_requested(60.0)
    assert not watch.is_due(heard_at, 1000.0)  # one probe has no answer yet
    watch.probe_answered(Evidence.CURRENT, heard_at, 61.0)
    assert not watch.is_due(heard_at, 119.0)
    assert watch.is_due(heard_at, 120.0)
    watch.probe_requested(120.0)
    watch.probe_answered(Evidence.NONE, heard_at, 121.0)
    assert not watch.is_due(heard_at, 239.0)
    assert watch.is_due(heard_at, 240.0)
    watch.probe_requested(240.0)
    watch.probe_answered(Evidence.BEHIND, heard_at, 241.0)
    assert not watch.is_dead(heard_at, 242.9)
    assert not watch.is_due(heard_at, 242.9)
    assert watch.is_dead(heard_at, 243.0)
    assert not watch.is_dead(heard_at, 244.0)  # True once only


def test_an_update_after_the_probe_shows_that_the_subscription_lives():
    watch = SilenceWatch(Timing())
    watch.probe_requested(60.0)
    watch.probe_answered(Evidence.BEHIND, 0.0, 61.0)
    assert not watch.is_dead(61.5, 63.0)
    assert not watch.is_due(61.5, 120.0)
    assert watch.is_due(61.5, 121.5)


@pytest.mark.parametrize("evidence", CONTRADICTIONS)
def test_contradictions_count_in_a_row_and_only_while_the_market_is_silent(evidence):
    watch = SilenceWatch(Timing())
    watch.probe_requested(60.0)
    assert watch.probe_answered(evidence, 0.0, 61.0)
    watch.confirm(61.0)
    assert not watch.is_due(0.0, 1000.0)
    assert not watch.probe_answered(Evidence.NONE, 0.0, 62.0)
    assert watch.contradictions == 1  # a probe that failed says nothing
    watch.confirm(63.0)
    assert watch.probe_answered(evidence, 0.0, 64.0)
    assert watch.contradictions == 2
    watch.confirm(65.0)
    assert not watch.probe_answered(evidence, 65.5, 66.0)  # an update came meanwhile
    assert watch.contradictions == 0
    assert not watch.probe_answered(evidence, 0.0, 67.0)  # the answer to no probe of the watch
    watch.confirm(68.0)
    watch.probe_answered(evidence, 0.0, 69.0)
    watch.confirm(70.0)
    assert not watch.probe_answered(Evidence.CURRENT, 0.0, 71.0)
    assert watch.contradictions == 0


def book_of(update_id: int, bids: str = '["10","1"],["9","1"]', limit: int = 2) -> OrderBook:
    book = OrderBook("spot", market="BTCUSDT")
    book.load_snapshot(f'{{"lastUpdateId":{update_id},"bids":[{bids}],"asks":[["11","1"],["12","1"]]}}', limit)
    return book


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [
        (ProbeAnswer(book_of(100)), Evidence.CURRENT),
        (ProbeAnswer(book_of(100, '["10","1"]', 1)), Evidence.CURRENT),
        (ProbeAnswer(book_of(101)), Evidence.BEHIND),
        (ProbeAnswer(book_of(99)), Evidence.LOWER_ID),
        (ProbeAnswer(book_of(100, '["10","2"],["9","1"]')), Evidence.OTHER_LEVELS),
        (ProbeAnswer(book_of(100, "")), Evidence.OTHER_LEVELS),
        (ProbeAnswer(problem="it timed out"), Evidence.NONE),
        (ProbeAnswer(problem="-1121", is_refused=True), Evidence.REFUSED),
    ],
)
def test_what_an_answer_says_about_the_book(answer, evidence):
    assert evidence_of(answer, book_of(100)) is evidence


def test_a_book_without_a_snapshot_has_no_evidence_against_it():
    assert evidence_of(ProbeAnswer(book_of(100)), OrderBook("spot")) is Evidence.NONE
