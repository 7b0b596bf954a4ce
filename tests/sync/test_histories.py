"""Simulated histories, each a seed: the exchange, the network with its faults, and the library that must be right.

`history.History` says what a history is. Three kinds of oracles check it. Safety: at every step, what can be read is
the engine's book at that update id, inside the horizon. Liveness: after the last fault every market is back in bounded
time. Economy: without a fault nothing needless happens, with faults there are no more resyncs than faults, and no limit
of the exchange is ever exceeded. Every update and every request is accounted for.

A failure names its seed and the command that repeats it. ``LDC_SEED=<seed>`` runs that one alone, and
``LDC_HISTORIES=<count>`` fewer or more of them than 1,000.
"""

import ast
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import history_bounds
import pytest
from history import History, Outcome, run_seed
from history_engine import EngineMarket, Style, Subscription
from history_market import SimulatedMarket
from history_server import Answer, Falsehood, RestServer
from history_times import HistoryOfOddTimes
from sync_kit import BOOKS

from ldc.sync.actions import RequestSnapshot

COMPILED = list(BOOKS.values())[-1]
TWIN = BOOKS["python"]
TWIN_EVERY = 20
BLOCK = 100

SEEDS = (
    [int(os.environ["LDC_SEED"])] if "LDC_SEED" in os.environ else range(int(os.environ.get("LDC_HISTORIES", "1000")))
)
MORE_SEEDS = range(1_000, 10_000)
ONCE_FAILED = (8_042, 247_427, 421_772)


def run_all(seeds: "range | list[int]") -> list[Outcome]:
    return [
        run_seed(seed, COMPILED, TWIN if seed % TWIN_EVERY == 0 and COMPILED is not TWIN else None) for seed in seeds
    ]


@pytest.mark.parametrize("block", range(0, len(SEEDS), BLOCK))
def test_a_history_is_survived(block: int) -> None:
    run_all(SEEDS[block : block + BLOCK])


@pytest.mark.check
@pytest.mark.parametrize("block", range(0, len(MORE_SEEDS), 10 * BLOCK))
def test_more_histories_are_survived(block: int) -> None:
    run_all(MORE_SEEDS[block : block + 10 * BLOCK])


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_a_history_that_once_failed_is_survived(seed: int) -> None:
    """Failures among hundreds of thousands of seeds are tried again in every run."""
    run_all([seed])


@pytest.mark.parametrize("block", range(0, 100, 25))
def test_a_history_with_wrong_event_times_is_survived(block: int) -> None:
    for seed in range(block, block + 25):
        try:
            HistoryOfOddTimes(seed, COMPILED).run()
        except AssertionError as error:
            error.add_note(f"again with: HistoryOfOddTimes({seed}, ldc.book).run()")
            raise


def test_a_seed_is_a_history() -> None:
    assert run_seed(7, COMPILED) == run_seed(7, COMPILED)
    assert run_seed(7, COMPILED) != run_seed(8, COMPILED)


def digest_in_another_process(**environment: str) -> str:
    """Return the hash of some histories, as a Python that was started for it finds it."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import simulate; print(simulate.live_through_block(0, 16))"
    command = [sys.executable, "-P", "-c", script, str(Path(__file__).parents[1] / "tools")]
    report = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300
    ).stdout
    sums = ast.literal_eval(report)
    assert (sums["histories"], sums["failures"]) == (16, [])
    return str(sums["hash"])


def test_a_seed_is_the_same_history_under_any_order_of_hashes_and_on_either_book() -> None:
    """Between Pythons and machines: `make simulate` prints the hash of its run."""
    digest = digest_in_another_process(PYTHONHASHSEED="1")
    assert digest == digest_in_another_process(PYTHONHASHSEED="2")
    assert digest == digest_in_another_process(PYTHONHASHSEED="3", LDC_PURE_PYTHON="1")


def test_what_the_histories_are_made_of() -> None:
    """The faults happen and have an effect, so no oracle agrees because it has seen nothing."""
    outcomes = [run_seed(seed, COMPILED) for seed in range(2_000, 2_100)]
    assert 50 <= sum(outcome.updates for outcome in outcomes) / len(outcomes) <= 300
    assert sum(outcome.faults == 0 for outcome in outcomes) > 5
    assert sum(outcome.resyncs for outcome in outcomes) > 50


def test_a_writer_that_stands_still_leaves_books_whose_lease_has_ended() -> None:
    histories = [History(seed, COMPILED) for seed in range(100)]
    for history in histories:
        history.run()
    assert sum(any(market.stalled_checks for market in history.markets) for history in histories) >= 3


def test_audits_cure_what_a_snapshot_has_falsified() -> None:
    """Nothing can notice a false first snapshot. The audits find it, and at the end the book is right."""
    falsified = [seed for seed in range(1_500) if History(seed, COMPILED).is_falsified]
    assert sum(run_seed(seed, COMPILED).cured for seed in falsified) > 0


def test_the_bounds_of_the_oracles_are_those_of_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    stated = {name: float(value) for name, value in re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", text, re.MULTILINE)}
    bounds = {name: float(value) for name, value in vars(history_bounds).items() if name.isupper()}
    assert {name: stated.get(name) for name in bounds} == bounds


# ------------------------------------------------------------------------------------ the oracles find what they seek


def assert_found(break_it: Callable[[History], None], message: str, seeds: range = range(40)) -> None:
    """Some of these histories fail, with that message, when something is broken."""
    found = []
    for seed in seeds:
        history = History(seed, COMPILED)
        break_it(history)
        try:
            history.run()
        except AssertionError as error:
            found.append(str(error))
            if message in str(error):
                return
    pytest.fail(f"no oracle said {message!r}, only {found}")


def test_a_wrong_level_is_found() -> None:
    def lose_a_level(history: History) -> None:
        for market in history.markets:

            def receive(connection_id: int, payload: bytes, now: float, receive: Any = market.receive) -> None:
                receive(connection_id, payload.replace(b'.75"],', b'.50"],', 1), now)

            market.receive = receive  # type: ignore[method-assign]

    assert_found(lose_a_level, "the book differs")


@pytest.mark.parametrize("is_ignored", [True, False])
def test_a_lease_that_is_ignored_or_never_renewed_is_found(is_ignored: bool) -> None:
    def ignore_lease(history: History) -> None:
        for market in history.markets:
            market.book.lease = None

    def renew_nothing(history: History) -> None:
        history.note_proof = lambda connection: None  # type: ignore[method-assign]

    if is_ignored:
        assert_found(ignore_lease, "not what the lease says", seeds=range(100))
    else:
        assert_found(renew_nothing, "never settles")


def test_an_unnoticed_loss_is_found() -> None:
    def ignore_ids(history: History) -> None:
        for market in history.markets:
            apply_snapshot = market.synchronizer.snapshot_received
            market.synchronizer.snapshot_received = (  # type: ignore[method-assign]
                lambda epoch, body, *rest, apply=apply_snapshot: apply(
                    epoch, body.replace(b'"lastUpdateId":1', b'"lastUpdateId":2'), *rest
                )
            )

    assert_found(ignore_ids, "the exchange never had the id")


def test_a_delay_after_the_faults_is_found() -> None:
    def delay_answers(history: History) -> None:
        answer_at_once = history.server.answer

        def answer_late(*arguments: Any, falsehood: Falsehood | None) -> Answer:
            answer = answer_at_once(*arguments, falsehood=falsehood)
            return answer if history.faults_over_at is None else answer._replace(latency_s=answer.latency_s + 15.0)

        history.server.answer = answer_late  # type: ignore[method-assign]

    assert_found(delay_answers, "was held up", seeds=range(60, 160))


def test_a_needless_snapshot_is_found() -> None:
    def request_twice(history: History) -> None:
        if history.is_clean:
            history.at(2.0, lambda: history.request_refresh(history.markets[0]))

    assert_found(request_twice, "a snapshot without a need")


def test_a_request_that_is_never_answered_is_found() -> None:
    def forget(history: History) -> None:
        def put(market: SimulatedMarket, request: RequestSnapshot) -> None:
            if request.epoch % 3:
                history.put_request(market, request)

        for market in history.markets:
            market._request = put

    assert_found(forget, "has not come back")


def test_a_request_during_a_pause_is_found() -> None:
    def pause_nothing(history: History) -> None:
        pool = next(iter(history.queue._weight_pools.values()))
        history.server.faults = ["429", "418", "429"]
        history.at(1.5, lambda: setattr(pool.budget, "_paused_until_s", 0.0))

    assert_found(pause_nothing, "although an answer")


def test_a_count_of_implausible_snapshots_that_outlives_a_success_is_found() -> None:
    """The first wrong snapshot of a later outage would be believed."""

    def keep_count(history: History) -> None:
        for market in history.markets:

            def publish(*arguments: Any, synchronizer: Any = market.synchronizer) -> None:
                count = synchronizer._numbering._implausible_in_a_row
                type(synchronizer)._publish(synchronizer, *arguments)
                synchronizer._numbering._implausible_in_a_row = count

            market.synchronizer._publish = publish  # type: ignore[method-assign]

    assert_found(keep_count, "a level that is not there", seeds=range(400))


def test_a_market_that_never_believes_a_snapshot_is_found() -> None:
    def forget_count(history: History) -> None:
        for market in history.markets:

            def load(*arguments: Any, synchronizer: Any = market.synchronizer) -> Any:
                synchronizer._numbering._implausible_in_a_row = 0
                return type(synchronizer)._load(synchronizer, *arguments)

            market.synchronizer._load = load  # type: ignore[method-assign]

    assert_found(forget_count, "refused once too often", seeds=range(400))


# ------------------------------------------------------------------------------------------------------ a virtual year


def run_a_year(seed: int, rule: str, days: int = 365) -> SimulatedMarket:
    """A connection a day; each is closed after the next one was heard, while the market trades on."""
    rng = random.Random(seed)
    engine = EngineMarket(rng, "BTCUSDT", Style(".2f", rule == "futures", True, False))
    requests: list[RequestSnapshot] = []
    market = SimulatedMarket(
        COMPILED,
        engine,
        rng,
        limits=(1000,),
        refresh_interval_s=None,
        request=lambda _, request: requests.append(request),
        cancel=lambda *_: None,
    )
    server = RestServer(rng, 6000, 0.8)
    subscriptions: dict[int, Subscription] = {}
    now = 0.0

    def trade(beats: int) -> None:
        nonlocal now
        for _ in range(beats):
            now += 0.1
            engine.event()
            for connection_id in rng.sample(
                sorted(subscriptions), len(subscriptions)
            ):  # the faster connection is sometimes the new one
                if rng.random() < 0.7 and (payload := subscriptions[connection_id].update(int(now * 1000))):
                    market.receive(connection_id, payload, now)

    for day in range(days):
        market.synchronizer.stream_opened(day, now)
        subscriptions[day] = Subscription(engine, day)
        market.synchronizer.stream_acknowledged(day, now)
        market.after_input(now)
        trade(2)
        if day == 0:
            answer = server.answer(engine, 1000, 25, now, falsehood=None)
            request, market.request = market.request, None
            assert request is not None
            market.synchronizer.snapshot_received(request.epoch, answer.result.body, 1000, now)
            market.after_input(now)
        while not market.synchronizer.has_spoken(day):
            trade(1)
        if day > 0:
            engine.subscriptions.remove(subscriptions.pop(day - 1))
            market.synchronizer.stream_closed(day - 1, now)
            market.after_input(now)
        trade(4)
        now += 23 * 3600.0
    market.judge_accounts()
    assert sum(market.synchronizer.resyncs.values()) == 0
    assert len(requests) == 1
    assert market.unsynchronized_s < 1.0
    return market


@pytest.mark.parametrize("rule", ["spot", "futures"])
def test_a_year_of_daily_handovers_costs_nothing(rule: str) -> None:
    assert run_a_year(1, rule).checks > 1_500


@pytest.mark.check
@pytest.mark.parametrize("seed", range(20))
def test_more_years_of_daily_handovers_cost_nothing(seed: int) -> None:
    run_a_year(seed, "futures" if seed % 2 else "spot")
