"""Lists of base URIs: addresses that serve the same. With redundancy the death of one costs nothing."""

import pytest
from loopback_exchange import PATIENCE_S
from relays import Relay
from simulator_kit import simulated

import ldc
from ldc.venues import venue_named


def addresses(*relays: Relay) -> dict[str, list[str]]:
    return {
        "restful_base_uri": [f"http://127.0.0.1:{relay.port}" for relay in relays],
        "websocket_base_uri": [f"ws://127.0.0.1:{relay.port}" for relay in relays],
    }


def test_with_redundancy_the_death_of_one_address_takes_no_book_away():
    with (
        simulated(updates_per_second=50.0) as exchange,
        Relay(exchange.websocket_base_uri) as first,
        Relay(exchange.websocket_base_uri) as second,
        ldc.BinanceLocalDepthCacheManager(
            "binance.com", redundancy=2, websocket_ping_interval=1, **addresses(first, second)
        ) as manager,
    ):
        manager.create_depth_cache("BTCUSDT")
        assert manager.wait_until_synchronized(timeout=PATIENCE_S)
        cache = manager.get_depth_cache("BTCUSDT")
        while len(cache.status().connections) < 2 or not all(
            each.first_arrivals + each.duplicates for each in cache.status().connections
        ):
            manager.wait_for_update("BTCUSDT", timeout=PATIENCE_S)
        urls = {each.url.rpartition(":")[2] for each in cache.status().connections}
        assert urls == {f"{first.port}/stream", f"{second.port}/stream"}
        first.__exit__()
        update_id = cache.reader.last_update_id
        for _ in range(60):
            update_id = manager.wait_for_update("BTCUSDT", update_id, timeout=PATIENCE_S)  # raises at a loss
            assert update_id is not None
        assert sum(cache.status().resyncs.values()) == 0


def test_a_dead_address_is_passed_over_at_the_start():
    with simulated() as exchange, Relay(exchange.websocket_base_uri) as alive:
        with Relay(exchange.websocket_base_uri) as dead:
            pass
        manager = ldc.BinanceLocalDepthCacheManager("binance.com", _random=lambda: 0.0, **addresses(dead, alive))
        with manager:
            manager.create_depth_cache("BTCUSDT")
            assert manager.wait_until_synchronized(timeout=PATIENCE_S)
            assert manager.restful_base_uris == tuple(addresses(dead, alive)["restful_base_uri"])


@pytest.mark.parametrize(("restful", "websocket"), [
    (["http://a", "http://b"], ["ws://a"]), (["http://a"], None), (None, ["ws://a"]), ([], []),
    ("http://a", ["ws://a", "ws://b"]),
    (["ftp://a"], ["ws://a"]), (["http://a/path"], ["ws://a"]),
])  # fmt: skip
def test_lists_that_do_not_belong_together_are_refused(restful, websocket):
    with pytest.raises(ValueError, match="base URI|lists of one length"):
        ldc.BinanceLocalDepthCacheManager("binance.com", restful_base_uri=restful, websocket_base_uri=websocket)


def test_what_is_no_address_is_named():
    with pytest.raises((TypeError, ValueError), match="restful_base_uri"):
        ldc.BinanceLocalDepthCacheManager("binance.com", restful_base_uri=[5], websocket_base_uri=["ws://a"])


def test_other_addresses_have_a_budget_of_their_own():
    row = venue_named("binance.com").at(["http://a", "http://b"], ["ws://a", "ws://b"])
    assert row.weight_budget_name() != venue_named("binance.com").weight_budget_name()
    assert row.stream_urls(2) == ("ws://a/stream", "ws://b/stream")
    assert row.snapshot_urls() == ("http://a/api/v3/depth", "http://b/api/v3/depth")
