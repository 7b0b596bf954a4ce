"""An exchange inside this process: Binance's REST and websocket protocol, simulated markets, and faults to inject.

    with SimulatedExchange(["BTCUSDT"], venue="binance.com", seed=1) as exchange:
        exchange.restful_base_uri, exchange.websocket_base_uri
        exchange.true_book("BTCUSDT", exchange.last_update_id("BTCUSDT"))
        exchange.inject("drop", market="BTCUSDT", count=1)

``docs/simulator.md`` describes what it simulates and what it does not.
"""

try:
    import aiohttp  # noqa: F401 - imported first, so that the error names the missing extra
except ModuleNotFoundError as error:
    raise ImportError("ldc.simulator needs aiohttp: pip install aiohttp") from error

from ldc.simulator.changelog import TrueBook
from ldc.simulator.exchange import SimulatedExchange, launch
from ldc.simulator.faults import FAULTS, Fault, parse_fault
from ldc.simulator.script import Script

__all__ = ["FAULTS", "Fault", "Script", "SimulatedExchange", "TrueBook", "launch", "parse_fault"]
