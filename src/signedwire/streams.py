"""Opens the standard descriptors 0 to 2 if they are closed.

Otherwise the next opened file gets the free number. Then the program, or a library in C,
would write its messages into a socket or a store. And uvloop ends the process if its own
descriptors have these numbers.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["open_standard_descriptors"]


def open_standard_descriptors() -> list[int]:
    """Open closed standard descriptors on the null device; return their numbers."""
    opened = []
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        try:
            got = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        except OSError:  # no such device, or no descriptor left
            break
        if got != number:  # another thread was faster
            os.close(got)
            continue
        os.set_inheritable(got, True)  # like every standard stream
        opened.append(got)
    return opened
