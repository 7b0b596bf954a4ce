"""Books in shared memory: one process feeds them, any number of processes on the machine read them.

    publisher.py   the feeder: its lock, its files, its heartbeat
    books.py       the readers
    updates.py     their stream of updates
    folder.py      where the files lie, and whom they belong to
    feeder.py      the file that says who feeds a share, and its lock
    message.py     a book as bytes in the same layout, for other transports

Rule 1: `ldc.book` writes and reads the memory; this package knows files, locks and processes.
Rule 2: a reader never writes to a book, takes no lock that a feeder needs, and cannot keep a feeder from starting.
"""

from ldc.shared.books import SharedBooks
from ldc.shared.feeder import Feeder
from ldc.shared.message import decode, encode
from ldc.shared.publisher import Publisher
from ldc.shared.updates import SharedUpdates

__all__ = ["Feeder", "Publisher", "SharedBooks", "SharedUpdates", "decode", "encode"]
