"""Log lines for programs: one object of JSON a line, on standard error.

Rule 1: a line is one object, whatever a message holds: line breaks and control characters are escaped.
"""

import datetime
import json
import logging
from typing import TextIO

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


def set_up(log_format: str, level: str, stream: TextIO) -> logging.Handler:
    """Send the records of ldc to a stream, as "text" or as "json"; return the handler."""
    handler = logging.StreamHandler(stream)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logger = logging.getLogger("binance_local_depth_cache")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    return handler
