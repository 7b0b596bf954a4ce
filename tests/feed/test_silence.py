"""When a silent market is probed, and when its subscription is dead."""

from ldc.feed.silence import SilenceWatch
from ldc.limits import Timing


def test_the_wait_for_a_probe_doubles_and_a_dead_subscription_is_told_from_a_quiet_one():
    watch, heard_at = SilenceWatch(Timing()), 0.0
    assert not watch.is_due(heard_at, 59.0)
    assert watch.is_due(heard_at, 60.0)
    watch.probe_requested(60.0)
    assert not watch.is_due(heard_at, 1000.0)  # one probe has no answer yet
    watch.probe_answered(False, 61.0)
    assert not watch.is_due(heard_at, 119.0)
    assert watch.is_due(heard_at, 120.0)
    watch.probe_requested(120.0)
    watch.probe_answered(False, 121.0)
    assert not watch.is_due(heard_at, 239.0)
    assert watch.is_due(heard_at, 240.0)
    watch.probe_requested(240.0)
    watch.probe_answered(True, 241.0)
    assert not watch.is_dead(heard_at, 242.9)
    assert not watch.is_due(heard_at, 242.9)
    assert watch.is_dead(heard_at, 243.0)
    assert not watch.is_dead(heard_at, 244.0)  # True once only


def test_an_update_after_the_probe_shows_that_the_subscription_lives():
    watch = SilenceWatch(Timing())
    watch.probe_requested(60.0)
    watch.probe_answered(True, 61.0)
    assert not watch.is_dead(61.5, 63.0)
    assert not watch.is_due(61.5, 120.0)
    assert watch.is_due(61.5, 121.5)
