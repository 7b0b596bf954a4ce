"""What was logged, records of ldc's own threads included."""

import pytest

from ldc.consume.log import logger

FLUSH_S = 20.0


def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what was captured, when all records that wait have reached `logging`."""
    assert logger.flush(FLUSH_S)
    return caplog
