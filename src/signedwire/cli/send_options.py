"""The options of `signedwire send`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from signedwire.cli.common_options import NodeOptions
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.option_values import (
    UNTIL,
    Motion,
    choices,
    read_motion,
    read_payload_type,
    read_priority,
    read_seconds,
    read_subject,
    read_until,
)
from signedwire.types import DeliveryState, PayloadType, Priority

__all__ = ["SendOptions"]


@dataclass(frozen=True, kw_only=True)
class SendOptions(NodeOptions):
    """Send one message, or every line of standard input.

    TEXT, `-` or --file is the payload. With `-` each line is sent as soon as it is read,
    without its line end. Reading pauses while the peer does not keep up. Sending stops at
    the first line that is too long or cannot be delivered, and the error names that line.

    v1 is the protocol of an older network, whose peers expect payloads of certain forms.
    The options that say "v1" below make such payloads.

    The command returns when the peer has accepted the message: verified it and signed a
    receipt, which --proof saves. It saves a refusal too. The time that is shown runs from
    writing to acceptance.
    --until handled waits for the peer's application. v1 peers never answer: for them the
    result is "written", which means that the operating system has the message, on a
    connection to the peer's address.

    If the peer is away or denies us, the message stays in the store. The result is
    "persisted", with exit code 4, or 0 where --until asks for no more. The message goes
    out before all later ones, when the next `send` to that peer with its address, or `listen`
    with --peers, runs. So do not send it again; `signedwire outbox` shows it, and drops it.
    """

    exit_codes = (
        ExitCode.STORED,
        ExitCode.NO_ANSWER,
        ExitCode.UNREACHED,
        ExitCode.REFUSED,
        ExitCode.DENIED,
        ExitCode.STORE,
    )

    to: Annotated[
        str,
        typer.Argument(
            metavar="DID[@HOST:PORT]",
            help="The recipient, by DID or name. An address that neither this nor --peers has can "
            "be given later.",
        ),
    ]
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT|-", help="The payload; - reads stdin.")
    ] = None
    file: Annotated[Path | None, typer.Option(help="Send the content of this file.")] = None
    priority: Annotated[
        Priority,
        typer.Option(
            parser=read_priority,
            metavar=choices(Priority),
            show_default=False,
            help="By default normal.",
        ),
    ] = Priority.NORMAL
    payload_type: Annotated[
        PayloadType,
        typer.Option(
            parser=read_payload_type,
            metavar=choices(PayloadType),
            show_default=False,
            help="A label for the recipient; by default raw.",
        ),
    ] = PayloadType.RAW
    subject: Annotated[
        str,
        typer.Option(
            parser=read_subject,
            metavar="TEXT",
            show_default=False,
            help="What the message is about, at most 255 bytes.",
        ),
    ] = ""
    deadline: Annotated[
        float | None,
        typer.Option(
            parser=read_seconds,
            metavar="SECONDS",
            help="After this time the message is neither written nor accepted by the peer.",
        ),
    ] = None
    until: Annotated[
        DeliveryState | None,
        typer.Option(
            parser=read_until,
            metavar="|".join(UNTIL),
            show_default=False,
            help="The state to wait for. By default accepted, or persisted if the peer is away.",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=read_seconds, metavar="SECONDS", help="Wait at most this long for that state."
        ),
    ] = None
    proof: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save the peer's receipt or refusal, for `signedwire verify` and others.",
        ),
    ] = None
    v1: Annotated[
        bool,
        typer.Option("--v1", help="The peer may speak v1. The options for v1 payloads imply it."),
    ] = False
    agent_command: Annotated[
        str | None, typer.Option(metavar="NAME", help="v1 AgentCommand; TEXT is its payload.")
    ] = None
    target: Annotated[str, typer.Option(help="The target of --agent-command.")] = ""
    heartbeat: Annotated[
        bool, typer.Option("--heartbeat", help="v1 Heartbeat: our DID and this host's uptime.")
    ] = False
    motion: Annotated[
        Motion | None,
        typer.Option(
            parser=read_motion,
            metavar="LX,LY,LZ,AX,AY,AZ",
            help="v1 MotionCommand, in m/s and rad/s.",
        ),
    ] = None
    llm_query: Annotated[
        bool, typer.Option("--llm-query", help="v1 LlmQuery; TEXT is the prompt.")
    ] = False
    system_prompt: Annotated[str, typer.Option(help="For --llm-query.")] = ""
    model: Annotated[str, typer.Option(help="For --llm-query.")] = ""
