"""The benchmarks in small: every contender is right, and the program runs to its end. No time is judged here."""

import os
from pathlib import Path

import pytest

from bench_budgets import Budget
from bench_contenders import COMPILED, CONTENDERS
from bench_measure import bytes_to_book
from bench_recordings import Market, Recording, load_recordings, synthetic_recording
from bench_simulator import measure as measure_simulator
from bench_socket import LDC, print_socket_timing, socket_to_book
from ldc._build import BUILD


def recorded() -> list[Recording]:
    folder = os.environ.get("LDC_CAPTURES")
    if not folder:
        pytest.skip("LDC_CAPTURES names no folder with recordings")
    return load_recordings(Path(folder), updates_max=200)


def test_every_contender_ends_with_the_right_book_on_made_up_traffic() -> None:
    for levels_per_update in (1, 50):
        timing = bytes_to_book(synthetic_recording(levels_per_update, 100, levels=200), rounds=1)
        assert timing.wrong == []
        assert set(timing.rounds) == set(CONTENDERS)


def test_every_contender_ends_with_the_right_book_on_recordings() -> None:
    for recording in recorded():
        assert recording.updates > 20
        assert bytes_to_book(recording, rounds=1).wrong == []


def test_a_wrong_book_gets_no_number() -> None:
    [market] = synthetic_recording(5, 10).markets
    price = next(iter(market.bids))
    expecting_less = Market(
        market.name, market.rule, market.snapshot, market.frames, market.bids.copy(), market.asks.copy()
    )
    del expecting_less.bids[price]
    timing = bytes_to_book(Recording("altered", (expecting_less,)), rounds=1)
    assert set(timing.wrong) == set(CONTENDERS) - {"orjson.loads alone"}
    assert set(timing.rounds) == {"orjson.loads alone"}


@pytest.mark.parametrize("is_tls", [False, True])
def test_what_comes_through_a_socket_ends_with_the_right_book(is_tls: bool, monkeypatch, capsys) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    timing = socket_to_book(synthetic_recording(5, 300), 2, is_tls=is_tls)
    assert not timing.is_wrong
    assert len(timing.elapsed[LDC]) == 2
    print_socket_timing(timing)
    assert "updates/s" in capsys.readouterr().out


def test_made_up_traffic_is_the_same_for_the_same_arguments() -> None:
    assert synthetic_recording(10, 20) == synthetic_recording(10, 20)
    assert synthetic_recording(10, 20) != synthetic_recording(10, 20, seed=2)


def test_the_verdict_on_a_budget_follows_must_and_aim() -> None:
    assert [Budget("time", taken, 3, 2, "us").verdict for taken in (2, 2.5, 3.5)] == [
        "aim reached",
        "must reached",
        "MISSED",
    ]
    speed_ups = [Budget("speed", times, 15, 40, "x", more_is_better=True).verdict for times in (40, 15, 14)]
    assert speed_ups == ["aim reached", "must reached", "MISSED"]


def test_the_compiled_book_is_measured_wherever_there_is_one() -> None:
    assert (COMPILED in CONTENDERS) == (BUILD != "pure-python")


def test_the_embedded_exchange_is_measured() -> None:
    pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")
    found = measure_simulator("binance.com", markets=4, seconds=0.5, updates_per_second=50, levels=50)
    assert found["windows skipped"] == 0
    assert found["frames read"] > 50
