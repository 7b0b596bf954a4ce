"""One manager with several exchanges, and markets with settings of their own, over real sockets."""

import asyncio
import contextlib
import pickle
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from live_kit import assert_exact, eventually, live, no_thread_is_left, synchronize  # noqa: F401
from loopback_exchange import PATIENCE_S, LoopbackExchange

import ldc
from ldc.errors import DepthCacheAlreadyStopped, DepthCacheNotFound, UnknownExchange
from ldc.manager import names
from ldc.venues import VENUES

Manager = ldc.BinanceLocalDepthCacheManager
FUTURES = "binance.com-futures"
NAME = f"{FUTURES}:BTCUSDT"
PAIR = (FUTURES, "BTCUSDT")
NOWHERE = ldc.Endpoints(restful_base_uri="http://127.0.0.1:9", websocket_base_uri="ws://127.0.0.1:9")


@contextlib.contextmanager
def two(**parameters: Any) -> Iterator[tuple[LoopbackExchange, LoopbackExchange, Manager]]:
    """Return a spot exchange, a futures exchange, and a manager of both: its own exchange is the first."""
    with LoopbackExchange("usdm") as futures:
        futures.add_market("BTCUSDT", last_update_id=9000)
        exchanges = {FUTURES: ldc.Endpoints(**futures.uris)}
        with live(exchanges=exchanges, **parameters) as (spot, manager):
            yield spot, futures, manager


def synchronize_futures(futures: LoopbackExchange, manager: Manager, market: Any = PAIR) -> None:
    """Create the depth cache of the futures market and wait until it can be read."""
    manager.create_depth_cache(market)
    futures.subscribed()
    futures.update()
    assert manager.wait_until_synchronized(NAME, PATIENCE_S), manager.get_status(NAME)


def assert_futures_exact(futures: LoopbackExchange, manager: Manager) -> None:
    """The book of the futures market is that of the futures exchange."""
    view = manager.get_depth_cache(NAME).reader.view(number=Decimal)
    true_book = futures.true_book("BTCUSDT", view.last_update_id)
    assert list(view.bids) == true_book.side("bids")
    assert list(view.asks) == true_book.side("asks")


def test_a_plain_name_is_of_the_own_exchange_and_both_spellings_of_an_address_of_the_other() -> None:
    with two() as (spot, futures, manager):
        synchronize(spot, manager)
        manager.create_depth_cache("btcusdt", exchange=FUTURES)
        synchronize_futures(futures, manager)  # it is there
        assert manager.exchange == "binance.com"
        assert manager.exchanges == ("binance.com", FUTURES)
        own, other = manager.get_depth_cache("BTCUSDT"), manager.get_depth_cache(NAME)
        assert own is manager.get_depth_cache("binance.com:btcusdt")
        assert own is manager.get_depth_cache(("BINANCE.com", "BTCUSDT"))
        assert other is manager.get_depth_cache(PAIR) is manager.get_depth_cache(f"{FUTURES}:btcusdt") is not own
        assert (own.exchange, other.exchange) == ("binance.com", FUTURES)
        assert manager.markets() == ["BTCUSDT", f"{FUTURES}:btcusdt"]
        assert_exact(spot, manager)
        assert_futures_exact(futures, manager)
        assert manager.get_book("BTCUSDT").last_update_id < 9000 < manager.get_book(PAIR).last_update_id
        assert manager.get_asks(PAIR, 1)
        assert manager.get_bids(NAME, 1)
        assert manager.is_depth_cache_synchronized(PAIR)
        assert manager.get_last_update_time(PAIR) is not None
        assert (manager.get_restart_count(PAIR), manager.get_last_restart_time(PAIR)) == (0, None)
        assert len(spot.connections) == len(futures.connections) == 1
        update_id = futures.update(bids=[("99.5", "3")])
        assert manager.wait_for_update(PAIR, update_id - 1, PATIENCE_S) == update_id
        assert manager.refresh([PAIR, "BTCUSDT"])
        assert manager.resync(PAIR, unsubscribe=False)
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)


def test_names_without_and_with_an_exchange_in_one_call() -> None:
    with two() as (spot, futures, manager):
        manager.create_depth_cache(["BTCUSDT", PAIR])
        spot.subscribed()
        futures.subscribed()
        spot.update()
        futures.update()
        assert manager.wait_until_synchronized(["BTCUSDT", NAME], PATIENCE_S)
        seen = {"BTCUSDT": manager.get_book("BTCUSDT").last_update_id, PAIR: manager.get_book(PAIR).last_update_id}
        update_id = futures.update(asks=[("100.5", "3")])
        moved = manager.wait_for_any(["BTCUSDT", PAIR], seen, PATIENCE_S)
        assert moved == {NAME: update_id}
        update_id = spot.update()
        assert manager.wait_for_any(after_update_ids=seen | moved, timeout=PATIENCE_S) == {"BTCUSDT": update_id}


def test_stopping_one_market_leaves_that_of_the_other_exchange() -> None:
    with two() as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        manager.stop_depth_cache("BTCUSDT")
        assert manager.markets() == [NAME]
        assert manager.is_stop_request("BTCUSDT")
        assert not manager.is_stop_request(PAIR)
        with pytest.raises(DepthCacheAlreadyStopped, match="BTCUSDT"):
            manager.get_book("BTCUSDT")
        update_id = futures.update()
        assert manager.wait_for_update(NAME, update_id - 1, PATIENCE_S) == update_id
        manager.create_depth_cache("BTCUSDT")
        manager.stop_depth_cache(PAIR)
        with pytest.raises(DepthCacheAlreadyStopped, match=re.escape(NAME)):
            manager.get_book(PAIR)
        assert manager.markets() == ["BTCUSDT"]
        manager.stop()
        for market in ("BTCUSDT", NAME, PAIR):
            with pytest.raises(DepthCacheAlreadyStopped):
                manager.get_book(market)


def test_the_loss_of_one_exchange_leaves_the_books_of_the_other() -> None:
    with two() as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        connects = len(futures.connections)
        futures.connection().reset()
        eventually(lambda: len(futures.connections) > connects, "a new connection to the futures exchange")
        assert manager.is_depth_cache_synchronized("BTCUSDT")
        assert manager.get_status("BTCUSDT").reconnects == 0
        eventually(lambda: manager.get_status(PAIR).reconnects == 1, "the reconnect of the other")
        assert len(spot.connections) == 1


@pytest.mark.parametrize("policy", ["latest", "changes", "every"])
def test_one_stream_has_the_items_of_all_exchanges_by_names_that_every_call_takes(policy: str) -> None:
    with two() as (spot, futures, manager), manager.updates(policy=policy) as stream:
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        found = {}
        while len(found) < 2:
            item = stream.get(PATIENCE_S)
            found[item.market] = item.exchange
            assert manager.get_depth_cache(item.market).exchange == item.exchange
        assert found == {"BTCUSDT": "binance.com", NAME: FUTURES}


def test_a_stream_of_one_market_has_none_of_its_namesake() -> None:
    with two() as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        with manager.updates(PAIR, policy="every") as futures_alone, manager.updates("BTCUSDT") as own_alone:
            futures_alone.get(PATIENCE_S), own_alone.get(PATIENCE_S)  # the snapshots
            spot.update()
            update_id = futures.update()
            item = futures_alone.get(PATIENCE_S)
            assert (item.exchange, item.market, item.last_update_id) == (FUTURES, NAME, update_id)
            assert own_alone.get(PATIENCE_S).exchange == "binance.com"
            with pytest.raises(TimeoutError):
                own_alone.get(0)


def test_callbacks_name_the_market_as_every_call_takes_it() -> None:
    states, restarts, items = [], [], []
    changed = threading.Condition()

    def note(into: list[Any], value: Any) -> None:
        with changed:
            into.append(value)
            changed.notify_all()

    with two(on_restart=lambda market, _time: note(restarts, market), _random=lambda: 0.0) as (spot, futures, manager):
        manager.on_state_change(lambda market, state, _cause: note(states, (market, state)))
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        alone: list[Any] = []
        manager.on_state_change(lambda market, _state, _cause: note(alone, market), [PAIR])
        handle = manager.on_update(lambda item: note(items, (item.market, item.exchange)), PAIR)
        spot.connection().reset()
        futures.connection().reset()
        with changed:
            assert changed.wait_for(lambda: {"BTCUSDT", NAME} <= set(restarts), PATIENCE_S), restarts
            assert changed.wait_for(lambda: NAME in alone, PATIENCE_S)
            assert changed.wait_for(lambda: (NAME, FUTURES) in items, PATIENCE_S)
        handle.cancel()
        assert {market for market, _state in states} == {"BTCUSDT", NAME}
        assert set(alone) == {NAME}
        assert set(items) == {(NAME, FUTURES)}


def test_the_waits_of_event_loops_take_addresses() -> None:
    async def follow(futures: LoopbackExchange, manager: Manager) -> None:
        assert await manager.wait_until_synchronized_async([PAIR], PATIENCE_S)
        seen = manager.get_book(PAIR).last_update_id
        update_id = futures.update()
        assert await manager.wait_for_update_async(PAIR, seen, PATIENCE_S) == update_id

    with two() as (_spot, futures, manager):
        manager.create_depth_cache(PAIR)
        futures.subscribed()
        futures.update()
        asyncio.run(follow(futures, manager))


def test_status_progress_and_summary_tell_the_exchanges_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with two() as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        own, other = manager.get_status("BTCUSDT"), manager.get_status(PAIR)
        assert (own.exchange, own.market) == ("binance.com", "BTCUSDT")
        assert (other.exchange, other.market) == (FUTURES, NAME)
        assert manager.get_progress()[:3] == (2, 0, 2) == other.progress[:3]
        assert manager.get_progress(FUTURES)[:3] == manager.get_progress("binance.com")[:3] == (1, 0, 1)
        assert manager.get_progress("binance.us").total == 0
        manager.print_summary()
        text = capsys.readouterr().out
        assert f"2 depth caches of binance.com, {FUTURES}" in text
        assert f"\n{NAME} " in text


def test_each_exchange_has_a_weight_budget_and_limits_of_its_own() -> None:
    with two(markets_per_connection=1000) as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        own, other = (manager._exchanges[exchange] for exchange in manager.exchanges)
        assert own.downloads.queue_client.pool_name != other.downloads.queue_client.pool_name
        assert own.connect_budget is not other.connect_budget
        assert (own.settings.markets_per_connection, other.settings.markets_per_connection) == (1000, 200)
        assert other.options.messages_per_second == VENUES[FUTURES].messages_per_second


# ------------------------------------------------------------------------------------------------ names that are wrong


def test_a_plain_name_never_means_another_exchange_and_says_where_the_market_is() -> None:
    with two() as (_spot, futures, manager):
        synchronize_futures(futures, manager)
        with pytest.raises(DepthCacheNotFound, match=re.escape(f"did you mean {NAME!r}")):
            manager.get_book("BTCUSDT")
        with pytest.raises(DepthCacheNotFound, match=re.escape(f"did you mean {NAME!r}")):
            manager.get_book((FUTURES, "BTCUSTD"))
        with pytest.raises(DepthCacheNotFound):
            manager.is_stop_request("BTCUSDT")


@pytest.mark.parametrize("call", [
    lambda manager: manager.create_depth_cache("BTCUSDT", exchange="binance.com-future"),
    lambda manager: manager.create_depth_cache("binance.com-future:BTCUSDT"),
    lambda manager: manager.create_depth_cache(("binance.com-future", "BTCUSDT")),
    lambda manager: manager.create_depth_cache(["BTCUSDT", ("binance.com-future", "BTCUSDT")]),
    lambda manager: manager.get_book(("binance.com-future", "BTCUSDT")),
    lambda manager: manager.updates("binance.com-future:BTCUSDT"),
    lambda manager: manager.get_progress("binance.com-future"),
    lambda _manager: Manager(exchanges={"binance.com-future": NOWHERE}),
])  # fmt: skip
def test_an_exchange_that_is_not_known_is_named_with_the_one_that_was_meant(call: Any) -> None:
    with Manager() as manager:
        with pytest.raises(UnknownExchange, match=r"'binance.com-future'; the exchanges are .* Did you mean '"):
            call(manager)
        assert manager.markets() == []


def test_the_name_of_an_exchange_in_another_library_is_explained() -> None:
    with Manager() as manager, pytest.raises(UnknownExchange, match="ccxt's name of 'binance.com-futures'"):
        manager.create_depth_cache(("binanceusdm", "BTCUSDT"))


def test_a_market_of_one_exchange_is_refused_at_another() -> None:
    with Manager() as manager:
        with pytest.raises(ValueError, match="is a market of binance.us, and exchange='binance.com-futures' says"):
            manager.create_depth_cache("binance.us:BTCUSDT", exchange=FUTURES)
        with pytest.raises(ValueError, match=r"cannot be a market of binance.com: .* did you mean that\?"):
            manager.get_book("BTC/USDT:USDT")
        for wrong in (("BTCUSDT", 5), ("BTCUSDT",), (FUTURES, "BTCUSDT", "ETHUSDT")):
            with pytest.raises(TypeError):
                manager.get_book(wrong)


def test_two_markets_in_a_tuple_stay_two_markets() -> None:
    manager = Manager("binance.com", restful_base_uri="http://127.0.0.1:9", websocket_base_uri="ws://127.0.0.1:9")
    with manager:
        manager.create_depth_cache(("BTCUSDT", "ETHUSDT"))
        assert manager.markets() == ["BTCUSDT", "ETHUSDT"]


@pytest.mark.parametrize("exchanges", [5, ["binance.us"], {"binance.us": "http://a"}, {"binance.us": None}])
def test_exchanges_of_wrong_types_are_refused(exchanges: Any) -> None:
    with pytest.raises(ValueError, match="exchanges"):
        Manager(exchanges=exchanges)


def test_addresses_are_given_once() -> None:
    with pytest.raises(ValueError, match="'binance.com' is the manager's own exchange: its addresses are"):
        Manager(exchanges={"binance.com": NOWHERE})
    with pytest.raises(ValueError, match="lists of one length"):
        Manager(exchanges={FUTURES: ldc.Endpoints(restful_base_uri=["http://a", "http://b"])})
    with pytest.raises(ValueError, match="websocket_base_uri is a str"):
        Manager(exchanges={FUTURES: ldc.Endpoints(websocket_base_uri=5)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="base URI"):
        Manager(exchanges={FUTURES: ldc.Endpoints(restful_base_uri="ftp://a")})


def test_endpoints_are_values_and_may_be_lists() -> None:
    endpoints = ldc.Endpoints(restful_base_uri=["http://a", "http://b"], websocket_base_uri=["ws://a", "ws://b"])
    assert pickle.loads(pickle.dumps(endpoints)) == endpoints
    with Manager(exchanges={FUTURES: endpoints}) as manager:
        assert manager._settings_of_others[FUTURES].venue.restful_base_uris == ("http://a", "http://b")
        assert manager.restful_base_uris == VENUES["binance.com"].restful_base_uris


def test_no_market_that_there_is_looks_like_an_exchange() -> None:
    for market in ("BTCUSDT", "BNBUSDT", "BNBUSDC", "BTCUSD_PERP", "BTC-261225-60000-C", "BTCUSDT_261225"):
        assert not names.is_like_exchange(market)
    assert all(names.is_like_exchange(exchange) for exchange in VENUES)


# ------------------------------------------------------------------------------------------------ embedded exchanges


def test_two_embedded_exchanges_start_and_end_with_their_manager() -> None:
    pytest.importorskip("aiohttp", reason="the embedded exchange needs aiohttp")
    with Manager("simulator") as manager:
        manager.create_depth_cache("BTCUSDT")
        manager.create_depth_cache("BTCUSDT", exchange="simulator-futures")
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        own, other = (manager._exchanges[exchange].launched for exchange in manager.exchanges)
        assert own.restful_base_uri != other.restful_base_uri
        assert manager.get_book("simulator-futures:BTCUSDT", 5).bids
        assert manager.get_status("simulator-futures:BTCUSDT").transaction_time_ms is not None
        manager.renew_connections()
    for launched in (own, other):
        with pytest.raises(RuntimeError, match="before it is started"):
            _ = launched.restful_base_uri


# ------------------------------------------------------------------------------------------------ published, measured


def test_shared_books_are_named_as_the_manager_names_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDC_SHARED_FOLDER", str(tmp_path / "shares"))
    with two(share="both") as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        books = ldc.SharedBooks("both")
        eventually(lambda: all(books[name].is_readable for name in ("BTCUSDT", NAME)), "the proofs of both")
        assert books.markets() == sorted(["BTCUSDT", NAME])
        assert books[NAME].view(3).bids == manager.get_book(PAIR, 3).bids
        assert books[f"{FUTURES}:btcusdt"].exchange in (None, FUTURES)
        assert books[f"{FUTURES}:btcusdt"].view(1).last_update_id > 9000 > books["btcusdt"].view(1).last_update_id
        manager.stop_depth_cache("BTCUSDT")
        assert books.markets() == [NAME]


def test_metrics_label_each_market_with_its_exchange() -> None:
    metrics = pytest.importorskip("ldc.metrics", reason="the metrics need prometheus-client")
    with two() as (spot, futures, manager):
        synchronize(spot, manager)
        synchronize_futures(futures, manager)
        text = metrics.exposition(metrics.collector(manager))[0].decode()
        for exchange in manager.exchanges:
            assert f'ldc_book_synchronized{{exchange="{exchange}",market="BTCUSDT"}} 1.0' in text
            assert f'ldc_markets_total{{exchange="{exchange}"}} 1.0' in text


# ------------------------------------------------------------------------------------------------ markets of their own


def test_markets_have_update_intervals_and_snapshot_limits_of_their_own() -> None:
    with live(markets=("BTCUSDT", "ETHUSDT")) as (exchange, manager):
        manager.create_depth_cache("BTCUSDT", update_interval=1000, snapshot_limit=5)
        manager.create_depth_cache("ETHUSDT")
        exchange.wait_for(
            lambda: (
                {"btcusdt@depth", "ethusdt@depth@100ms"} <= set(exchange.connections[0].streams)
                if exchange.connections
                else False
            ),
            "both subscriptions",
        )

        def limits(market: str) -> set[int]:
            return {request.limit for request in exchange.requests_of(market)}

        exchange.wait_for(lambda: limits("BTCUSDT") and limits("ETHUSDT"), "snapshots")
        assert limits("BTCUSDT") == {5}
        assert 100 in limits("ETHUSDT")
        manager.create_depth_cache("BTCUSDT", update_interval=100)  # it is there, and stays as it is
        assert manager.get_depth_cache("BTCUSDT").live.stream == "btcusdt@depth"
        manager.stop_depth_cache("BTCUSDT")
        manager.create_depth_cache("BTCUSDT", update_interval=100)
        assert manager.get_depth_cache("BTCUSDT").live.stream == "btcusdt@depth@100ms"


@pytest.mark.parametrize(("given", "error"), [
    ({"update_interval": 250}, ValueError), ({"update_interval": "100"}, TypeError), ({"exchange": 5}, TypeError),
    ({"snapshot_limit": 0}, ValueError), ({"snapshot_limit": True}, TypeError),
])  # fmt: skip
def test_a_wrong_setting_of_a_market_starts_none(given: dict[str, Any], error: type[Exception]) -> None:
    with Manager() as manager:
        said = "update_interval|no depth stream of 250|snapshot_limit|at least 1 level|exchange is a str"
        with pytest.raises(error, match=said):
            manager.create_depth_cache(["BTCUSDT", "ETHUSDT"], **given)
        assert manager.markets() == []


def test_an_interval_of_the_manager_that_another_exchange_lacks_is_said_there() -> None:
    with Manager("binance.com", depth_cache_update_interval=1000, exchanges={FUTURES: NOWHERE}) as manager:
        with pytest.raises(ValueError, match="binance.com-futures has no depth stream of 1000 ms; choose one of 100"):
            manager.create_depth_cache(PAIR)
        assert manager.markets() == []
        assert manager.create_depth_cache(PAIR, update_interval=500)
        assert manager.get_depth_cache(PAIR).live.stream == "btcusdt@depth@500ms"
