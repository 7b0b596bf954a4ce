"""Clients of other libraries, unchanged except for the address, get the true book from the embedded exchange.

They are no dependencies: `pip install python-binance ccxt` runs these tests, without it they are skipped.
"""

import asyncio
import gc
import warnings
from decimal import Decimal

import pytest
from loopback_exchange import PATIENCE_S
from simulator_kit import decimals, simulated


def imported(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their warnings do not concern ldc
        return pytest.importorskip(name, reason=f"{name} is not installed")


pytestmark = [pytest.mark.check, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def nothing_is_left_for_other_tests():
    """Collect the resources that they leave open, whose warnings do not concern ldc."""
    yield
    gc.collect()


def test_python_binance_s_order_book_is_the_true_book():
    binance = imported("binance")
    with simulated() as exchange:
        exchange.pause("BTCUSDT")
        update_id = exchange.advance("BTCUSDT", 20)
        client = binance.Client(ping=False)
        client.API_URL = f"{exchange.restful_base_uri}/api"
        assert client.ping() == {}
        book = client.get_order_book(symbol="BTCUSDT", limit=1000)
        client.close_connection()
        true_book = exchange.true_book("BTCUSDT", update_id)
        assert book["lastUpdateId"] == update_id
        assert (tuple(decimals(book["bids"])), tuple(decimals(book["asks"]))) == (true_book.bids, true_book.asks)


def test_python_binance_s_futures_order_book_is_the_true_book():
    binance = imported("binance")
    with simulated("binance.com-futures") as exchange:
        exchange.pause("BTCUSDT")
        exchange.advance("BTCUSDT", 20)
        client = binance.Client(ping=False)
        client.FUTURES_URL = f"{exchange.restful_base_uri}/fapi"
        book = client.futures_order_book(symbol="BTCUSDT", limit=1000)
        client.close_connection()
        true_book = exchange.true_book("BTCUSDT", book["lastUpdateId"])
        assert (tuple(decimals(book["bids"])), tuple(decimals(book["asks"]))) == (true_book.bids, true_book.asks)


def test_python_binance_s_depth_cache_manager_follows_the_true_book():
    binance = imported("binance")

    async def follow(exchange):
        client = binance.AsyncClient()
        client.API_URL = f"{exchange.restful_base_uri}/api"
        sockets = binance.BinanceSocketManager(client)
        sockets.STREAM_URL = f"{exchange.websocket_base_uri}/"
        manager = binance.DepthCacheManager(
            client, symbol="BTCUSDT", bm=sockets, limit=5000, ws_interval=100, conv_type=Decimal
        )
        compared = 0
        try:
            async with manager:
                for _ in range(30):
                    await asyncio.to_thread(exchange.advance, "BTCUSDT")
                    cache = await asyncio.wait_for(manager.recv(), PATIENCE_S)
                    true_book = exchange.true_book("BTCUSDT", manager._last_update_id)
                    bids, asks = (tuple(map(tuple, side)) for side in (cache.get_bids(), cache.get_asks()))
                    assert (bids, asks) == (true_book.bids, true_book.asks)
                    compared += 1
        finally:
            await client.close_connection()
        return compared

    with simulated() as exchange:
        exchange.pause("BTCUSDT")
        assert asyncio.run(follow(exchange)) == 30


@pytest.mark.parametrize(("venue", "kind", "api", "symbol"), [
    ("binance.com", "spot", "api/v3", "BTC/USDT"),
    ("binance.com-futures", "swap", "fapi/v1", "BTC/USDT:USDT"),
])  # fmt: skip
def test_ccxt_s_order_book_is_the_true_book(venue, kind, api, symbol):
    ccxt = imported("ccxt")
    with simulated(venue) as exchange:
        exchange.pause("BTCUSDT")
        exchange.advance("BTCUSDT", 20)
        name, fetched = ("public", "spot") if kind == "spot" else ("fapiPublic", "linear")
        client = ccxt.binance({"options": {"defaultType": kind, "fetchMarkets": {"types": [fetched]}}})
        client.urls["api"][name] = f"{exchange.restful_base_uri}/{api}"
        book = client.fetch_order_book(symbol, limit=1000)
        true_book = exchange.true_book("BTCUSDT", book["nonce"])
        for side in ("bids", "asks"):
            assert book[side] == [[float(price), float(quantity)] for price, quantity in getattr(true_book, side)]
