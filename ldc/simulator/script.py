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


class Script:
    """Override what is to be different."""

    async def handshake(self, _connection: "Connection", _request: "web.Request") -> bytes | None:
        """Return the bytes that are sent instead of the handshake's answer, after which the connection ends.

        None accepts the handshake. `Connection.send_raw` works already.
        """
        return None

    def opened(self, _connection: "Connection") -> None:
        """The websocket is open."""

    async def received(self, _connection: "Connection", _opcode: int, _payload: bytes) -> bool:
        """A frame has come. Return True if nothing else is to happen; False: it is answered as usual."""
        return False

    def ended(self, _connection: "Connection") -> None:
        """The TCP connection of a handshake or of a websocket has ended, whichever side ended it."""

    async def rest(self, _request: "web.Request", usual: "Callable[[Reply | None], Reply]") -> "Reply":
        """Return the answer to a REST request.

        `usual(None)` is the exchange's own. `usual(reply)` is `reply`, unless the request weight is used up; the
        weight is counted, and the headers that tell it are added.
        """
        return usual(None)
