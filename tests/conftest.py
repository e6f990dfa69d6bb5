"""What every test may rely on, whoever started pytest."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

# A shell starts its background jobs with SIGINT ignored, and so would every child
# that a test starts be: then nothing of Ctrl-C could be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # and nohup has that one ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _same_logging() -> Iterator[None]:
    """A command that runs with --verbose in this process sets the logger for good.

    Tests that count objects would then count the records that pytest keeps.
    """
    logger = logging.getLogger("signedwire")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
