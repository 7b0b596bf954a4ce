"""The durations of a manager's feeds: what is refused, and that a manager passes them on."""

import math

import pytest

from ldc.limits import DEFAULT_TIMING, Timing
from ldc.manager.manager import BinanceLocalDepthCacheManager


@pytest.mark.parametrize("seconds", [-0.1, math.nan, True, "1", None])
def test_a_duration_that_makes_no_sense_is_refused_by_name(seconds):
    with pytest.raises(ValueError, match=r"^pong_late_s is a number of seconds, not "):
        Timing(pong_late_s=seconds)


def test_a_duration_may_be_zero_or_endless():
    assert Timing(quiet_s_first=0, quiet_s_max=math.inf).quiet_s_max == math.inf


def test_a_timing_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"^timing is an ldc.limits.Timing or None, not "):
        BinanceLocalDepthCacheManager(timing=5)


def test_a_manager_without_a_timing_has_the_default_one():
    with BinanceLocalDepthCacheManager() as manager:
        assert manager._options.timing is DEFAULT_TIMING
    with BinanceLocalDepthCacheManager(timing=Timing(stop_s_max=0.5)) as manager:
        assert manager._options.timing.stop_s_max == 0.5
