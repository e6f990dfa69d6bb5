"""The options of `signedwire request` and `signedwire answer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from signedwire.cli.common_options import NodeOptions
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.option_values import (
    choices,
    read_count,
    read_priority,
    read_seconds,
    read_subject,
)
from signedwire.types import Priority

__all__ = ["AnswerOptions", "RequestOptions"]


@dataclass(frozen=True, kw_only=True)
class RequestOptions(NodeOptions):
    """Ask a peer, wait for its reply, and print the reply.

    TEXT, `-` or --file is the payload; `-` reads all of standard input. The peer answers by
    `signedwire answer`, or by a program that serves the subject. The request does not wait in a
    store: if the peer is away until --timeout, it never gets the request. The error tells whether
    the peer was reached, whether it has the request, and why it refused.
    """

    exit_codes = (
        ExitCode.NO_ANSWER,
        ExitCode.UNREACHED,
        ExitCode.REFUSED,
        ExitCode.DENIED,
        ExitCode.STORE,
    )

    to: Annotated[str, typer.Argument(metavar="DID[@HOST:PORT]", help="The peer to ask.")]
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT|-", help="The payload; by default empty.")
    ] = None
    file: Annotated[Path | None, typer.Option(help="Send the content of this file.")] = None
    subject: Annotated[
        str,
        typer.Option(
            parser=read_subject,
            metavar="TEXT",
            show_default=False,
            help="What is asked; selects who answers there.",
        ),
    ] = ""
    timeout: Annotated[
        float,
        typer.Option(
            parser=read_seconds, metavar="SECONDS", help="Time for the request and its reply."
        ),
    ] = 10.0
    priority: Annotated[
        Priority,
        typer.Option(
            parser=read_priority,
            metavar=choices(Priority),
            show_default=False,
            help="By default normal. The reply has the same.",
        ),
    ] = Priority.NORMAL


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(NodeOptions):
    """Answer the requests of one subject with a program, until Ctrl-C.

    For each request, the program of --exec runs once. It reads the payload from standard input,
    and what it writes to standard output is the reply. If it ends with another code than 0, the
    request is refused, with the first line of its standard error as the text. At the deadline of
    the request it is killed, with the processes that it has started.

    CMD is split as a shell does, and no shell runs. The program gets PATH, HOME, LANG and TMPDIR,
    and SIGNEDWIRE_SENDER, SIGNEDWIRE_SUBJECT and SIGNEDWIRE_MESSAGE_ID; no other variable, so no
    key or password, and no open file of this process. Other messages than requests are refused.
    """

    exit_codes = (ExitCode.STORE,)

    subject: Annotated[
        str,
        typer.Argument(metavar="SUBJECT", parser=read_subject, help="The subject to answer."),
    ]
    exec: Annotated[
        str, typer.Option("--exec", metavar="CMD", help="The program and its arguments.")
    ]
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; port 0 takes a free one, 0.0.0.0 is for other machines "
            "too. By default 127.0.0.1:0, this machine alone.",
        ),
    ] = None
    limit: Annotated[
        int,
        typer.Option(parser=read_count, metavar="N", help="Number of programs that run at a time."),
    ] = 4
