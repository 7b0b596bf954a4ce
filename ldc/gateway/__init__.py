"""The gateway: a manager's books for programs in every language, for browsers and for operators. Extra `gateway`.

    with ldc.BinanceLocalDepthCacheManager("binance.com") as manager:
        manager.create_depth_cache("BTCUSDT")
        with ldc.gateway.Gateway(manager, port=8080) as gateway:
            gateway.restful_base_uri, gateway.websocket_base_uri

Rule 1: it sees ldc as a user does, through ``import ldc``; `ldc.wire` is what it shares with the embedded exchange.
Rule 2: a book that cannot be read is never served. REST says why, streams fall silent and then show a gap.
Rule 3: whatever a client may use up has a limit with a name in `limits`, and a counter.
"""

try:
    import aiohttp as _aiohttp  # noqa: F401 - reported here, by the name of the extra
except ImportError as error:
    raise ImportError(
        "the gateway needs aiohttp: pip install 'binance-local-depth-cache[gateway]'", name="aiohttp"
    ) from error

from ldc.gateway.limits import GatewayLimits
from ldc.gateway.server import Gateway

__all__ = ["Gateway", "GatewayLimits"]
