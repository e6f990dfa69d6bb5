"""Descriptors 0 to 2: what is opened while one of them is closed gets its number.

Then a socket or a store would be where the program, or a library in C, writes its
messages; and uvloop ends the process when it finds its own descriptors there.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["open_standard_descriptors"]


def open_standard_descriptors() -> list[int]:
    """Open those of 0, 1 and 2 that are closed on the null device; returns which those were."""
    opened = []
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        try:
            got = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        except OSError:  # there is no such device, or no descriptor left
            break
        if got != number:  # another thread was quicker
            os.close(got)
            continue
        os.set_inheritable(got, True)  # as of every standard stream
        opened.append(got)
    return opened
