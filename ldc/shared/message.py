"""A book as bytes: the layout of a shared region with one copy, for transports other than shared memory."""

from ldc.book import Attachment, BookReader, OrderBook, SharedReader, encode_region

LEVELS = 20
"""Levels a side in a message, unless another number is given."""


def encode(
    book: OrderBook | BookReader, levels: int = LEVELS, *, market: str | None = None, exchange: str = ""
) -> bytes:
    """Return a book as bytes: its best levels, ids, times, horizons, state, and how old its last proof is.

    Nothing is raised for a book that cannot be read: the message says why. It has 384 + 32 * `levels` bytes, whatever
    the book holds. docs/shared-memory.md has the layout. Cost: of a publication, and of making the bytes.
    """
    return encode_region(book, levels, market=market, exchange=exchange)


def decode(message: bytes | bytearray | memoryview, *, max_age: float | None = None) -> SharedReader:
    """Return a reader of what `encode` returned: the reads of `BookReader`, of one moment.

    Its book grows old. The time of the last proof is that of the sender, moved to the clock of this machine at the
    call: TOO_OLD is raised when the lease of the book is over, or after `max_age` seconds, if that is shorter. The time
    that the message was on its way does not count. Raises `MalformedMessage` for anything that is no such message.
    """
    attachment = Attachment(bytes(message))
    max_age_ns = 0 if max_age is None else max(1, int(min(max_age, 1e9) * 1e9))
    return SharedReader(attachment.market, max_age_ns=max_age_ns, attachment=attachment)
