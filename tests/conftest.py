"""What every test may rely on, whoever started pytest."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

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


if "WITHOUT_V1" in os.environ:
    # The package is not there: see test_without_v1.py. A test that needs it says so itself.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
        """Skip a test where the node or an import finds no v1."""
        try:
            yield
        except Exception as error:
            if needs_v1(error):
                pytest.skip("needs the v1 wire")
            raise

    def pytest_ignore_collect(collection_path: Path) -> bool | None:
        """Do not collect what imports the package."""
        is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
        return True if is_test and "transport.v1" in collection_path.read_text() else None


def needs_v1(error: BaseException | None) -> bool:
    """Whether an error, or any that it came from, is for want of v1."""
    if error is None:
        return False
    if isinstance(error, BaseExceptionGroup):
        return any(map(needs_v1, error.exceptions))
    is_it = "speaks v2 alone" in str(error) or "signedwire.transport.v1" in str(error)
    return is_it or needs_v1(error.__cause__) or needs_v1(error.__context__)
