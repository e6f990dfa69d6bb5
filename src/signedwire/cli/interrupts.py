"""Ctrl-C while the command line is still importing: the process ends without a traceback.

The package imports this module first. It acts only if the process was started as
`signedwire` or as `python -m signedwire`. In a program that imports the library, Ctrl-C
does not change.
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
    """Make Ctrl-C raise KeyboardInterrupt again, which is Python's default."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(*_: object) -> None:
    os._exit(INTERRUPTED)


def _is_the_command(words: list[str]) -> bool:
    """Return whether an interpreter's command line runs `signedwire`."""
    rest = iter(words[1:])
    for word in rest:
        if word == "-m":
            return next(rest, "") in _MODULES
        if word in ("-X", "-W"):
            next(rest, "")  # the value of this option
        elif not word.startswith("-") or word == "-c":
            return PurePath(word).stem == "signedwire"
    return False


def _begin() -> None:
    # A signal that is ignored, as in background jobs of a shell, stays ignored.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual and _is_the_command(sys.orig_argv):
        try:
            signal.signal(signal.SIGINT, _exit)
        except ValueError:  # not in the main thread
            return


_begin()
