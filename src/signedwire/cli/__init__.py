"""The command line, `signedwire`: identities, listening, sending, checking.

Results go to stdout; logs and prose go to stderr. With `--json` each result is one JSON
object on a line of its own on stdout. An error is one sentence on stderr, with `--json`
one JSON object on stderr, `{"error": class, "message": …, "hint": …, "exit_code": …}`,
so that stdout holds nothing but results. Text that came from the network or from a file
is escaped before it is shown: it can neither colour nor move anything.

`exit_codes` has the exit codes. SIGTERM and SIGHUP end `listen` and `bench --serve` in
order, and then the process by that very signal, so that whoever sent it sees what it asked
for: a shell 143, systemd a clean end. Standard streams that are closed are opened on the
null device. A reader that closes our output ends the run without a word, with code 141.

How it is made: `surface` has one dataclass per command, whose fields are its options and
whose `run()` calls the module that does the work, imported only then. `app` turns those
into a typer application; `errors` is the one place where an exception becomes a sentence
and an exit code; `output` is the only module that writes. Typer's rich mode is off: help
is plain text, starts faster, and brackets in it are brackets.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from functools import partial

from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.interrupts import INTERRUPTED, restore
from signedwire.streams import open_standard_descriptors

__all__ = ["main"]

_MISSING = (
    "the command line needs typer and rich: "
    "pip install 'signedwire[cli]', or '.[cli]' in a checkout"
)


def main() -> None:
    """The entry point of the script `signedwire`; ends the process with an exit code."""
    _open_streams()
    has_come: list[int] = []
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _exit)
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        print(_MISSING, file=sys.stderr)
        sys.exit(1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Where the encoding lacks a character, show its escape instead of failing.
            stream.reconfigure(errors="backslashreplace")
    try:
        from signedwire.cli.app import app

        restore()
        if os.getpid() == 1:
            signal.signal(signal.SIGTERM, partial(_interrupt, has_come))
    except KeyboardInterrupt:  # where Ctrl-C is another's
        sys.exit(INTERRUPTED)
    try:
        app(prog_name="signedwire")
    except SystemExit as end:
        if end.code == INTERRUPTED and has_come:
            sys.exit(ExitCode.TERMINATED)
        raise


# The first process of a container: the kernel keeps signals from it that it does not handle.


def _exit(*_: object) -> None:
    os._exit(ExitCode.TERMINATED)


def _interrupt(has_come: list[int], number: int, _: object) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    has_come.append(number)
    signal.raise_signal(signal.SIGINT)


def _open_streams() -> None:
    """Where one was closed Python has None: what is printed to stderr would go to stdout then."""
    open_standard_descriptors()
    # Not stdin: whoever asks for what comes there is told that it is closed.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
