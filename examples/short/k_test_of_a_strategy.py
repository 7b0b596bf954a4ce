"""A strategy is tested without a network: the market moves when the test says so, and an update is lost."""

import ldc
from ldc.simulator import SimulatedExchange

with (
    SimulatedExchange(["BTCUSDT"], venue="binance.com", seed=1) as exchange,
    ldc.DepthCacheManager(
        "binance.com", restful_base_uri=exchange.restful_base_uri, websocket_base_uri=exchange.websocket_base_uri
    ) as manager,
):
    manager.create_depth_cache("BTCUSDT")
    manager.wait_until_synchronized(timeout=30)
    exchange.pause("BTCUSDT")
    exchange.inject("drop")
    update_id = exchange.advance("BTCUSDT", updates=2)
    while manager.get_status("BTCUSDT").last_update_id != update_id:
        manager.wait_until_synchronized(timeout=30)
    truth = exchange.true_book("BTCUSDT", update_id, limit=1)
    assert manager.get_book("BTCUSDT", 1).bids[0][0] == float(truth.bids[0][0])
    print(manager.get_status("BTCUSDT").resyncs)
