"""Log lines for programs: one object of JSON a line, on standard error.

Rule 1: a line is one object, whatever a message holds: line breaks and control characters are escaped.
Rule 2: a command leaves `logging` as it was. A handler that stayed would write into a stream that may be closed.
"""

import datetime
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ldc.consume.log import logger as queued_logger

FLUSH_S = 1.0
"""Seconds that the last records of ldc's threads have to be written. Then a stream that takes nothing is left."""

LEVELS = ("debug", "info", "warning", "error")


class JsonFormatter(logging.Formatter):
    """Formats a record as an object: time, level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=True)


@contextmanager
def logged_to(stream: TextIO, log_format: str = "text", level: str = "info") -> Iterator[None]:
    """Send the records of ldc to a stream, as "text" or as "json", until the block ends."""
    handler = logging.StreamHandler(stream)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logger = logging.getLogger("binance_local_depth_cache")
    previous_level = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        queued_logger.flush(FLUSH_S)
        logger.removeHandler(handler)
        logger.setLevel(previous_level)
