"""Checks for descriptors and threads, which the system may refuse, with readable errors."""

from __future__ import annotations

import os
import threading
from typing import Final

from signedwire.errors import SignedWireError

__all__ = ["check_descriptors", "start_thread"]

_PIPES: Final = 6


def check_descriptors() -> None:
    """Check that the twelve descriptors that a node needs to start are available.

    uvloop ends the process, with code 134, if there is no descriptor for its own loop.

    Raises:
        SignedWireError: the process has too few descriptors left.
    """
    held: list[int] = []
    try:
        for _ in range(_PIPES):
            held += os.pipe()
    except OSError as error:
        raise SignedWireError(
            f"this process has too few descriptors left for a node ({error.strerror})",
            "Raise its limit, `ulimit -n`, or close some of what it has open",
        ) from None
    finally:
        for descriptor in held:
            os.close(descriptor)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread that the caller cannot do without.

    Raises:
        SignedWireError: the system refuses the process a further thread.
    """
    try:
        thread.start()
    except RuntimeError:
        raise SignedWireError(
            "the system gives this process no more threads",
            "Raise its limits: `ulimit -u`, the container's number of processes, or its memory",
        ) from None
