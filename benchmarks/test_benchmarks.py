"""The benchmarks in small: every contender is right, and the program runs to its end. No time is judged here."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

import bench_fresh
import bench_loopback
import bench_loopback_report
import bench_pace
import bench_peers
import bench_peers_check
import bench_peers_report
import bench_readers
import bench_recovery
import bench_scale
import bench_scale_traffic
from bench_budgets import Budget
from bench_contenders import COMPILED, CONTENDERS
from bench_measure import bytes_to_book
from bench_recordings import Market, Recording, load_recordings, synthetic_recording, with_larger_frames
from bench_simulator import measure as measure_simulator
from bench_socket import LDC, print_socket_timing, socket_to_book
from ldc._build import BUILD

PROJECT = Path(__file__).parent.parent


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


@pytest.mark.parametrize("rule", ["spot", "futures"])
def test_larger_frames_lead_to_the_same_book(rule: str) -> None:
    if rule == "futures":
        recording = next(one for one in recorded() if one.name.startswith("USD-M ETHUSDT"))
    else:
        recording = synthetic_recording(5, 300, levels=500)
    larger = with_larger_frames(recording, 5_000)
    assert len(larger.markets[0].frames) < recording.updates / 5
    assert min(map(len, larger.markets[0].frames[:-1])) > 5_000
    assert bytes_to_book(larger, rounds=1).wrong == []


def test_blocks_are_measured_of_several_builds_and_not_of_a_wrong_one(capsys) -> None:
    if BUILD == "pure-python":
        pytest.skip("only compiled books are measured by blocks")
    import bench_blocks
    from ldc import _book

    recording = synthetic_recording(5, 250, levels=100)
    also = bench_blocks.load_build(Path(_book.__file__))

    class Wrong(bench_blocks.build_of(also)):
        def is_correct(self) -> bool:
            return False

    builds = {"this": bench_blocks.build_of(_book), "also": bench_blocks.build_of(also), "wrong": Wrong}
    found = bench_blocks.measure(recording, builds, rounds=2)
    assert [row.build for row in found.rows] == ["this", "also"]
    assert found.wrong == ["wrong"]
    assert all(row.taken > 0 and row.reading > 0 for row in found.rows)
    bench_blocks.print_blocks(found)
    assert "wrong at the end: no number" in capsys.readouterr().out


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
    assert found["windows a second"] > 0
    assert found["frames read"] > 20


def peers_results(rounds: int = 3) -> dict:
    """What `bench_peers.py` writes, with two peers that need not be installed and one that is wrong."""
    recording = synthetic_recording(5, 50)
    options = bench_peers.arguments(["--rounds", str(rounds), "--only", "ldc", "orjson.loads", "sortedcontainers"])
    results = bench_peers.measure_all(options, [recording])
    results["peers"]["other"] = {"package": "other", "version": "1.0", "how": "guesses"}
    results["recordings"][0]["verdicts"]["other"] = {"wrong": "bid 1.0 is missing", "levels compared": 10}
    return results


def test_the_tables_of_the_peers_have_a_row_for_each_and_say_what_is_wrong() -> None:
    results = json.loads(json.dumps(peers_results()))
    updates, reads = list(bench_peers_report.rows(results)), list(bench_peers_report.read_rows(results))
    assert [row[0].split()[0] for row in updates[2:]] == ["ldc", "orjson.loads", "sortedcontainers", "other"]
    assert updates[2][1].endswith(" us")
    assert updates[3][1].endswith("x)")
    assert updates[5][1] == "wrong book"
    assert [row[0] for row in reads[1:]] == ["ldc", "sortedcontainers"]
    text = bench_peers_report.markdown(results)
    assert "bid 1.0 is missing" in text
    document = f"above\n{bench_peers_report.BEGIN}\nold\n{bench_peers_report.END}\nbelow\n"
    once = bench_peers_report.insert(document, text)
    assert once.startswith("above\n")
    assert once.endswith("\nbelow\n")
    assert "old" not in once
    assert bench_peers_report.insert(once, text) == once
    with pytest.raises(ValueError, match="no lines"):
        bench_peers_report.insert("no marks", text)


def test_the_plot_of_the_peers_has_a_bar_for_each_right_book() -> None:
    results = peers_results(rounds=1)
    picture = ElementTree.fromstring(bench_peers_report.plot(results))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f"{svg}rect")) == 3
    texts = [element.text or "" for element in picture.findall(f"{svg}text")]
    assert any("wrong book" in text for text in texts)
    results["recordings"][0]["ns by round"] = {}
    with pytest.raises(ValueError, match="nothing to plot"):
        bench_peers_report.plot(results)


def test_a_peers_book_is_compared_as_far_as_it_can_know() -> None:
    [market] = synthetic_recording(5, 100, levels=50).markets
    right = ({float(p): float(q) for p, q in market.bids.items()}, {float(p): float(q) for p, q in market.asks.items()})
    judge = bench_peers_check.judge
    assert judge(right, market, None) == (len(market.bids) + len(market.asks), "")
    best, worst = max(right[0]), min(right[0])
    for changed, about in (
        ({price: held for price, held in right[0].items() if price != best}, "(level 1; 1 of"),
        (right[0] | {best: 77.0}, "77.0"),
        (right[0] | {best - 0.0025: 1.0}, "should be missing"),
        ({price: held for price, held in right[0].items() if price != worst}, f"{worst} is missing"),
    ):
        assert about in judge((changed, right[1]), market, None).wrong
    # A book that is trimmed to 20 levels does not know what stands beyond them, and need not.
    cuts = bench_peers_check.innermost_cuts(market, 20)
    kept = ({p: q for p, q in right[0].items() if p > cuts[0]}, {p: q for p, q in right[1].items() if p < cuts[1]})
    assert judge(kept, market, 20).wrong == ""
    assert 10 < judge(kept, market, 20).compared <= 40
    del kept[0][best]
    assert "(level 1;" in judge(kept, market, 20).wrong
    assert judge(kept, market, None).wrong != ""


@pytest.mark.parametrize(("report", "name", "marks"), [
    (bench_peers_report, "peers", (bench_peers_report.BEGIN, bench_peers_report.END)),
    (bench_loopback_report, "peers-loopback", bench_loopback_report.MARKS),
])  # fmt: skip
def test_the_committed_results_of_the_peers_are_what_the_documents_show(report, name, marks) -> None:
    results = json.loads((PROJECT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    document = (PROJECT / "docs/evidence/peers.md").read_text(encoding="utf-8")
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert bench_peers_report.insert(document, report.markdown(results), marks) == document
    assert (PROJECT / f"docs/images/{name}.svg").read_text(encoding="utf-8") == report.plot(results)
    assert bench_peers_report.insert(readme, report.headline(results), report.README_MARKS, around="") == readme


def test_over_loopback_the_books_of_ldc_s_own_client_are_right(monkeypatch) -> None:
    monkeypatch.setattr(bench_loopback, "SETTLE_S", 0)
    [recorded] = synthetic_recording(5, 700, levels=200).markets
    found = bench_loopback.measure("ldc", 3, bench_loopback.Truth(recorded), [(50.0, 10), (0.0, 100)])
    assert [run.get("wrong") for run in found] == ["", ""], found
    assert 0 < found[0]["p50 us"] <= found[0]["p99 us"]
    assert found[1]["updates a second"] > 0
    assert all(run["us per update"] > 0 for run in found)


def test_over_loopback_a_library_without_a_client_or_not_installed_says_so() -> None:
    [recorded] = synthetic_recording(5, 20, levels=20).markets
    truth = bench_loopback.Truth(recorded)
    assert "no client" in bench_loopback.measure("sortedcontainers", 1, truth, [(10.0, 1)])[0]


def test_over_loopback_a_wrong_book_gets_no_number() -> None:
    [recorded] = synthetic_recording(5, 50, levels=100).markets
    truth = bench_loopback.Truth(recorded)
    last = json.loads(recorded.frames[-1])["data"]["u"]
    bids, asks = truth.top(last)
    assert bids == [(float(price), float(recorded.bids[price])) for price in sorted(recorded.bids, reverse=True)[:20]]
    assert asks == [(float(price), float(recorded.asks[price])) for price in sorted(recorded.asks)[:20]]
    wrong_with = bench_loopback.wrong_with
    assert wrong_with({"A": (last, bids, asks)}, {"A": last}, truth) == ""
    for tops, about in (
        ({}, "no book"),
        ({"A": (last - 3, bids, asks)}, f"should be at {last}"),
        ({"A": (last, bids[:19], asks)}, "bid 20 is missing"),
        ({"A": (last, bids, [(asks[0][0], 0.5), *asks[1:]])}, "ask 1 is"),
    ):
        assert about in wrong_with(tops, {"A": last}, truth)


def test_a_thread_that_waits_is_measured_over_tls(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bench_loopback, "SETTLE_S", 0)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "loopback.pem"))
    [recorded] = synthetic_recording(5, 700, levels=200).markets
    found = bench_pace.measured(bench_pace.ROWS["waiting-tls"], 0.5, bench_loopback.Truth(recorded), tmp_path)
    numbers = bench_pace.figures([found, found])
    assert numbers["n"] == 2 * 5
    text = bench_pace.said("waiting-tls", numbers, numbers)
    assert "p50 1.00, processor 1.00" in text
    assert text.count("kept") == 2
    spinning = bench_pace.figures([found | {"woken ns": [3_000, 4_000, 9_000]}] * 200)
    assert "received to woken, p50 4.0" in bench_pace.said("spinning", spinning, numbers)
    assert "must p99 us 300: not judged" in bench_pace.said("spinning", numbers, numbers)


def test_the_age_of_a_book_is_measured_beside_threads_that_compute(monkeypatch, capsys) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rows = bench_fresh.measured_ldc("ldc-tls", 5)
    assert [len(rows[str(busy)][what]) for busy in (0, 1, 2) for what in ("received", "seen")] == [5] * 6
    bench_fresh.told("ldc-tls", rows, rows)
    assert capsys.readouterr().out.count("must") == 4


def test_latency_is_until_the_book_stands_at_the_update_or_past_it() -> None:
    sent = [("A", 1, 100), ("B", 1, 150), ("A", 2, 200), ("A", 3, 300), ("B", 2, 400)]
    noted = [("A", 1, 110), ("A", 3, 350), ("B", 1, 151)]
    assert bench_loopback.latencies_ns(sent, noted) == [10, 1, 150, 50]


def test_of_the_runs_without_a_pace_the_quickest_counts_unless_one_is_wrong() -> None:
    runs = [{"wrong": "", "us per update": us, "updates a second": speed} for us, speed in ((5, 10), (6, 30), (9, 20))]
    paced = {"wrong": "", "us per update": 100}
    assert bench_loopback.merged([paced, *runs]) == [
        paced,
        {"wrong": "", "us per update": 6, "updates a second": 30},
    ]
    wrong = {"wrong": "ask 1"}
    assert bench_loopback.merged([paced, runs[0], wrong, runs[2]]) == [paced, wrong]


def loopback_results() -> dict:
    """What `bench_loopback.py` writes: libraries that are right, slower, wrong, and without a client."""
    right = {"wrong": "", "us per update": 10.0}
    paced, flat = {"p50 us": 100.0, "p99 us": 300.0}, {"updates a second": 50_000.0}
    slower = [right | {"us per update": 40.0} | paced, right | {"us per update": 70.0, "updates a second": 2_500.0}]
    return {
        "conditions": dict.fromkeys(("date", "processor", "system", "Python", "command"), "x")
        | {"commit": "abc", "load before": [1.0, 1.0, 1.0]},
        "recording": "made up",
        "libraries": {name: {"version": "1.0", "how": "somehow"} for name in ("ldc", "slow", "bad", "container")},
        "runs": [{"markets": 1, "pace": 10.0, "updates": 50}, {"markets": 20, "pace": 0.0, "updates": 3000}],
        "found": {
            "ldc": [right | paced, right | flat],
            "slow": slower,
            "bad": [{"wrong": "bid 1 is missing"}] * 2,
            "container": [{"no client": "a container"}] * 2,
        },
    }


def test_the_tables_and_the_plot_of_the_loopback_have_a_row_for_each_client() -> None:
    results = loopback_results()
    computed, speed, latency = (list(rows) for _, rows in bench_loopback_report.tables(results))
    assert computed[0] == ["", "1 market, 10/s", "20 markets, as fast as read"]
    assert computed[1:] == [
        ["ldc 1.0", "10.0 us", "10.0 us"],
        ["slow 1.0", "40.0 us (4.00x)", "70.0 us (7.00x)"],
        ["bad 1.0", "wrong book", "wrong book"],
    ]
    assert [row[1] for row in speed[1:]] == ["50,000/s", "2,500/s (1/20.0)", "wrong book"]
    assert [row[1] for row in latency[1:]] == ["100 / 300 us", "100 / 300 us", "wrong book"]
    text = bench_loopback_report.markdown(results)
    assert "- bad, wrong: bid 1 is missing" in text
    assert "- container, no client: a container" in text
    assert "50,000 updates a second; slow 2,500" in bench_loopback_report.headline(results)
    picture = ElementTree.fromstring(bench_loopback_report.plot(results))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f"{svg}rect")) == 4
    results["found"] = {"bad": results["found"]["bad"]}
    with pytest.raises(ValueError, match="nothing to plot"):
        bench_loopback_report.plot(results)


def test_many_markets_end_with_the_right_books_and_are_accounted_for(capsys) -> None:
    found = bench_scale.measure(markets=110, seconds=2)
    assert found.wrong == []
    assert found.updates > 500
    assert found.levels > 110 * 2 * 900
    assert 0 < len(found.latencies_us) <= found.updates
    assert found.latencies_us[0] > 0
    assert found.own > 20_000
    bench_scale.print_found(found)
    bench_scale.print_found(found._replace(wrong=["M00001USDT is at 1 and should be at 2"]))
    printed = capsys.readouterr().out
    assert "p99.9" in printed
    assert "no number. M00001USDT is at 1" in printed


def test_all_markets_update_in_a_burst_and_else_at_their_own_pace() -> None:
    kinds = bench_scale_traffic.kinds_of(1000)
    assert [kinds.count(number) for number in range(4)] == [10, 10, 180, 800]
    plan = bench_scale_traffic.schedule(kinds, seconds=10, seed=1)
    assert plan == sorted(plan) == bench_scale_traffic.schedule(kinds, seconds=10, seed=1)
    assert 4_500 < len(plan) / 10 < 5_500
    in_burst = [number for due, number in plan if 4.9 <= due < 4.9 + bench_scale_traffic.BURST_S]
    assert sorted(in_burst) == list(range(1000))


def test_what_is_read_beside_the_writer_leaves_the_books_right(capsys) -> None:
    recording = synthetic_recording(5, 3000, levels=100)
    measured = bench_readers.measure(recording, rounds=2)
    assert [set(runs) for runs in measured] == 2 * [{"nobody", "wakers", "readers"}]
    assert bench_readers.print_runs(recording, measured)
    measured[1]["readers"] = measured[1]["readers"]._replace(is_correct=False)
    assert not bench_readers.print_runs(recording, measured)
    assert "no number" in capsys.readouterr().out


@pytest.mark.parametrize("venue", ["binance.com", "binance.com-futures"])
def test_recovery_is_measured_in_small(venue: str) -> None:
    found = bench_recovery.resets(venue, count=2, apart_s=0.0, markets=2)
    assert (len(found.seconds), found.connects, found.refused) == (4, 3, 0)
    assert "longest" in str(found)
    assert len(bench_recovery.gaps(venue, count=2, apart_s=0.0, markets=2).seconds) == 2
    assert len(bench_recovery.cut(venue, markets=3).seconds) == 3


def test_a_host_that_refuses_for_ten_minutes_sees_few_connects() -> None:
    assert max(bench_recovery.connects_while_refused(seed) for seed in range(1_000)) <= 60
