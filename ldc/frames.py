"""Websocket frames, from the server to us: limits, events, and what a frame may be. RFC 6455 sections 5 and 7.

Rule 1: nothing is read or kept past a named limit. A frame that claims too much is refused at its header.
Rule 2: what the RFC forbids a server to send raises `FrameError`, with the close code to answer. The connection is then
        of no more use.

The two frame readers share this module: `ldc/core/frames.pxi`, compiled, and `ldc/book/pure/frames.py`.
"""

import enum
from typing import Any, NamedTuple

from ldc.errors import MalformedMessage
from ldc.types import Verdict

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of a message, all its fragments together. More are refused with close code 1009. The order book's own limit."""

CONTROL_BYTES_MAX = 125
"""Bytes that a ping, pong or close may carry (RFC 6455, 5.5). More are refused with close code 1002."""

RECEIVE_BYTES = 65_536
"""Bytes that one receive may bring. The buffer holds these and at most one unfinished frame."""

BUFFER_BYTES_KEPT = 16 * RECEIVE_BYTES
"""A buffer that a long frame made larger is given back once it holds at most an eighth of this."""

FRAGMENTS_MAX = 4_096
"""Fragments of one message; more are refused with close code 1009. Each costs memory whatever it carries."""

LAGS_KEPT = 256
"""Updates of redundant markets whose delay a reader remembers: 2 kB a connection. The oldest is forgotten."""

DUPLICATES_S_MAX = 5.0
"""Seconds for which a stream may bring only duplicates while the book stays at one id. Later ones are returned."""

STREAM_PREFIX = b'{"stream":"'
"""How a message of a combined stream begins. A message that begins otherwise is returned without a binding."""

STREAM_BYTES_LIMIT = 256
"""Bytes of a stream's name. A message with a longer name is returned without a binding."""


class Opcode(enum.IntEnum):
    """What a frame is."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class FrameEvent(NamedTuple):
    """Something that arrived and needs a decision: a whole message, or a control frame."""

    opcode: int
    payload: bytes
    """Of a message in fragments, all of them."""
    binding: Any = None
    """The `StreamBinding` whose stream the message names, if it is bound and the message came in one frame."""
    verdict: Verdict | None = None
    """What the bound book decided; None: the book has not seen the message, or refused it."""
    error: MalformedMessage | None = None
    """Why the bound book refused it."""
    received_time_ns: int | None = None
    """The local receive time of its last bytes, as given to `next_event`."""


class FrameError(Exception):
    """The server broke the protocol, or a limit. `close_code` is what to answer."""

    def __init__(self, close_code: int, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


def check_first_byte(first: int, length: int) -> int:
    """Return the opcode; refuse reserved bits and opcodes, and control frames that are too long or fragmented."""
    if first & 0x70:
        raise FrameError(1002, "a reserved bit is set although no extension was agreed on")
    opcode = first & 0x0F
    if opcode not in (0, 1, 2, 8, 9, 10):
        raise FrameError(1002, f"opcode {opcode} is not defined")
    if opcode >= Opcode.CLOSE:
        if not first & 0x80:
            raise FrameError(1002, "a control frame is fragmented")
        if length > CONTROL_BYTES_MAX:
            raise FrameError(1002, "a control frame carries more than 125 bytes")
    return opcode


def check_close(payload: bytes) -> None:
    """Refuse a close frame whose code may not be sent, or whose reason is no UTF-8 (RFC 6455, 7.4 and 5.5.1)."""
    if not payload:
        return
    if len(payload) == 1:
        raise FrameError(1002, "a close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(1002, f"close code {code} may not be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError as error:
        raise FrameError(1007, "the reason of a close frame is not UTF-8") from error
