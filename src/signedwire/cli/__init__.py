"""The command line, `signedwire`: identities, listening, sending, checking.

Results go to stdout; logs and prose go to stderr. With `--json` each result is one JSON
object on a line of stdout. An error is one sentence on stderr, or with `--json` one JSON
object on stderr, `{"error": class, "message": …, "hint": …, "exit_code": …}`. So stdout
has results only. Texts from the network or from a file are escaped before they are shown,
so they can neither colour the terminal nor move its cursor.

`exit_codes` has the exit codes. SIGTERM and SIGHUP close `listen` and `bench --serve` in
order, and then end the process by that signal: a shell sees 143, systemd a clean end.
Standard streams that are closed are opened on the null device. When the reader of our
output closes it, the run ends silently, with code 141.

Structure: `commands` is the table of commands. It joins a dataclass of options, from one
of the modules `*_options`, with a function of one of the modules `*_command(s)`, which are
imported when the command runs. `app` makes a typer application from the table. `errors`
turns exceptions into sentences and exit codes. `output` is the only module that writes.
Typer's rich mode is off: help is plain text, starts faster, and brackets stay brackets.

- `send_command`: `message_sender` sends one message, `line_sender` the lines of stdin.
  `send_payloads`: payloads. `receipt_waits`: waiting for receipts. `send_outcomes`: texts and
  figures about the messages. `kept_messages`: messages that stay in the store. `proof_file`: the
  file of `--proof`.
- `listen_command`: `node_signals` are its signals. `bench_command`, `ping_commands`: peers.
- `request_command` asks for a reply, `answer_command` replies with the output of a program.
- `outbox_commands`, `dead_letter_commands`: `stored_messages` opens, selects and shows messages.
  `store_choice`: the store of a command.
- `verify_command`, `evidence_commands`: `envelope_files` reads saved envelopes and proofs,
  `evidence_chain` the files of a log, `text_lines` large text files.
- `id_commands`, `config_commands`: `config_check` has the checks of `config check`.
- `keys`: the identity of a command. `key_locks`: locks between processes with one key.
  `redaction`: removes private keys from texts.
- `send_options`, `request_options`, `peer_options`, `file_options`, `store_options`,
  `common_options`: the options. `option_values`: parsers of their values. `addresses`: addresses
  of peers and of this node.
- `input_files`: input files and pipes. `formatting`: messages as JSON and as text.
- `signals`, `interrupts`: SIGTERM, SIGHUP and Ctrl-C. `wakeups`: what wakes a waiting command.
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
    """Run the command line of this process, and end the process with an exit code."""
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
            # A character that the encoding lacks is shown as an escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        from signedwire.cli.app import app

        restore()
        if os.getpid() == 1:
            signal.signal(signal.SIGTERM, partial(_interrupt, has_come))
    except KeyboardInterrupt:  # if another handler of Ctrl-C was in place
        sys.exit(INTERRUPTED)
    try:
        app(prog_name="signedwire")
    except SystemExit as end:
        if end.code == INTERRUPTED and has_come:
            sys.exit(ExitCode.TERMINATED)
        raise


# The kernel does not deliver a signal to the first process of a container unless it has a
# handler.


def _exit(*_: object) -> None:
    os._exit(ExitCode.TERMINATED)


def _interrupt(has_come: list[int], number: int, _: object) -> None:
    """Handle SIGTERM like Ctrl-C."""
    has_come.append(number)
    signal.raise_signal(signal.SIGINT)


def _open_streams() -> None:
    """Open closed standard streams on the null device.

    Python has `None` for a closed stream, and would print errors to stdout instead of stderr.
    """
    open_standard_descriptors()
    # stdin stays `None`: a command that reads it reports that it is closed.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
