"""A seam for tests of clients: what the exchange answers and sends may be replaced, down to single bytes.

    class Silent(Script):
        async def handshake(self, connection, request):
            await connection.gone()     # the client waits until it gives up
            return b""

    SimulatedExchange("BTCUSDT", script=Silent())

Rule 1: every method runs in the thread of the event loop. What blocks stops the exchange; a coroutine may wait.
Rule 2: a `Script` as it is changes nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from ldc.simulator.connection import Connection
    from ldc.simulator.rest import Reply

