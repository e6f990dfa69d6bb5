"""Ctrl-C while the command line is still importing: the process ends, and says nothing.

The package imports this first. It does something only where the process was started as
`signedwire` or as `python -m signedwire`; for a program that imports the library Ctrl-C
stays what it is.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import PurePath
from typing import Final

__all__ = ["INTERRUPTED", "restore"]

INTERRUPTED: Final = 130
_MODULES: Final = ("signedwire", "signedwire.cli", "signedwire.__main__", "signedwire.cli.__main__")


def restore() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again, as Python has it."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(*_: object) -> None:
    os._exit(INTERRUPTED)


def _is_the_command(words: list[str]) -> bool:
    """Whether an interpreter's command line runs ours."""
    rest = iter(words[1:])
    for word in rest:
        if word == "-m":
            return next(rest, "") in _MODULES
        if word in ("-X", "-W"):
            next(rest, "")  # has a value of its own
        elif not word.startswith("-") or word == "-c":
            return PurePath(word).stem == "signedwire"
    return False


def _begin() -> None:
    # Else somebody has it ignored, as a shell does for its background jobs.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual and _is_the_command(sys.orig_argv):
        try:
            signal.signal(signal.SIGINT, _exit)
        except ValueError:  # not in the main thread
            return


_begin()
