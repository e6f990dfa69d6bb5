"""Every command and its options, one dataclass each.

The fields are the options, the docstring is the help, `run()` does the work and returns
the exit code. An option that all commands have is written once, in `Command`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from signedwire.cli.errors import BadInput
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.values import (
    UNTIL,
    Motion,
    read_count,
    read_motion,
    read_payload_type,
    read_priority,
    read_seconds,
    read_size,
    read_until,
    words,
)
from signedwire.types import DeliveryState, PayloadType, Priority

if TYPE_CHECKING:
    from signedwire.config import TransportConfig
    from signedwire.identity import Identity
    from signedwire.settings import Settings

__all__ = [
    "COMMANDS",
    "Bench",
    "Command",
    "ConfigCheck",
    "ConfigShow",
    "IdNew",
    "IdShow",
    "Listen",
    "Peers",
    "Ping",
    "Send",
    "Verify",
]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command has."""

    exit_codes: ClassVar[tuple[ExitCode, ...]] = ()
    """The exit codes of this command beside those that every command has."""

    config: Annotated[
        Path | None,
        typer.Option(envvar="SIGNEDWIRE_CONFIG", help="TOML file with options of the transport."),
    ] = None
    identity: Annotated[
        Path | None,
        typer.Option(
            help="Key file; by default SIGNEDWIRE_IDENTITY, or `identity` of the "
            "configuration, else identity.pem in the user's configuration folder. "
            "SIGNEDWIRE_PASSWORD opens an encrypted one.",
        ),
    ] = None
    identity_fd: Annotated[
        int | None,
        typer.Option(
            "--identity-fd", min=0, metavar="N", help="Read the key from this open descriptor."
        ),
    ] = None
    key_group_readable: Annotated[
        bool,
        typer.Option("--key-group-readable", help="Accept a key file that its group may read."),
    ] = False
    peers: Annotated[
        Path | None,
        typer.Option(
            envvar="SIGNEDWIRE_PEERS", help='TOML file with a table [peers]: "DID" = "host:port".'
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Results and errors as JSON lines.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr.")] = False

    def run(self) -> int:
        """Do it and return the exit code."""
        raise NotImplementedError

    @cached_property
    def settings(self) -> Settings:
        """What --config and the environment set; read at first use, and once."""
        from signedwire.settings import read_settings

        return read_settings(self.config)

    def load_config(self) -> TransportConfig:
        """The configuration from --config and the environment; for use between processes."""
        config = self.settings.config()
        if config.network == "memory":
            raise BadInput(
                "network='memory' stays inside one process, so the command line cannot use it",
                'Set network = "tcp", or another preset than development',
            )
        return config

    def load_identity(self) -> Identity:
        """The identity of this user; made at first use, at the default path alone."""
        from signedwire.cli import keys

        return keys.load_or_create(self)


@dataclass(frozen=True, kw_only=True)
class Storing(Command):
    """What the commands have that run a node with a store."""

    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where messages wait, so that no crash loses them. By default `store` of "
            "the configuration, else one for this key in the user's state folder.",
        ),
    ] = None
    no_store: Annotated[bool, typer.Option("--no-store", help="Let them wait in memory alone.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class _IdCommand(Command):
    path: Annotated[
        Path | None, typer.Argument(help="Key file; by default what --identity says.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class IdNew(_IdCommand):
    """Make a new identity, write its key file, and print its DID.

    A file that exists is never overwritten. Without one of the password options the
    file is encrypted where SIGNEDWIRE_PASSWORD is set, as that will be used to open it.
    """

    password_env: Annotated[
        str | None,
        typer.Option(metavar="VAR", help="Encrypt with the password in this variable."),
    ] = None
    ask_password: Annotated[
        bool, typer.Option("--ask-password", help="Encrypt; ask for the password.")
    ] = False

    def run(self) -> int:
        from signedwire.cli import keys

        return keys.new(self)


@dataclass(frozen=True, kw_only=True)
class IdShow(_IdCommand):
    """Print the DID of an identity."""

    def run(self) -> int:
        from signedwire.cli import keys

        return keys.show(self)


@dataclass(frozen=True, kw_only=True)
class Listen(Storing):
    """Receive messages and print them until Ctrl-C.

    First, on stderr, comes the `signedwire send` line that reaches this listener; then
    each message on a line of stdout. An identity and a store are made at first use. Senders
    over v2 get a signed receipt, and are told that a message is handled once its line is
    printed. One that was accepted and not printed before a crash is printed at the next
    start. What waits in the store for peers of --peers is sent.

    With --json the first line is {"event": "listening", "peer": "DID@host:port", …}, then
    one {"event": "message", …} per message, at the end {"event": "summary", …}.
    `signedwire verify` checks what was so saved. With -v it says who comes and goes.
    SIGUSR1 rotates the evidence log, where the configuration names one.
    """

    exit_codes = (
        ExitCode.NO_ANSWER,
        ExitCode.STORE,
    )

    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen; port 0 takes a free one, 0.0.0.0 is for other machines "
            "too. By default 127.0.0.1:0, this machine alone.",
        ),
    ] = None
    count: Annotated[
        int | None,
        typer.Option(parser=read_count, metavar="N", help="End after so many messages."),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=read_seconds,
            metavar="SECONDS",
            help="End after this time; a failure if --count was not reached.",
        ),
    ] = None
    v1: Annotated[bool, typer.Option("--v1", help="Take messages from v1 peers too.")] = False
    allow_unsigned: Annotated[
        bool,
        typer.Option(
            "--allow-unsigned", help="As --v1, and unsigned messages too, shown as unproven."
        ),
    ] = False

    def run(self) -> int:
        from signedwire.cli.listening import listen

        return listen(self)


@dataclass(frozen=True, kw_only=True)
class Send(Storing):
    """Send one message, or every line of standard input.

    TEXT, `-` or --file is the payload; the options of v1 payloads wrap it into what v1
    peers understand. With `-` lines go out as they come, without their line ends; a peer
    that does not keep up pauses the reading; at the first line that is too long or cannot
    be delivered it stops, and names the line.

    It returns when the peer has accepted: verified the message and signed a receipt, which
    --proof saves. The time that it shows is from writing to that. --until handled waits for
    the peer's application. v1 peers never answer: to them it says "written", which means
    that the operating system has it on a connection to the peer's address.

    A message whose peer is away, or denies us, stays in the store: it says "persisted",
    with exit code 4, or 0 where --until asks for no more. It goes out, before all later
    ones, when the next `send` to that peer or `listen` with --peers runs, so do not send it
    again; `signedwire outbox` shows it, and drops it.
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
            help="Whom; an address that neither this nor --peers has can be given later.",
        ),
    ]
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT|-]", help="The payload; - reads stdin.")
    ] = None
    file: Annotated[Path | None, typer.Option(help="Send what is in this file.")] = None
    priority: Annotated[
        Priority,
        typer.Option(parser=read_priority, metavar=words(Priority), show_default="normal"),
    ] = Priority.NORMAL
    payload_type: Annotated[
        PayloadType,
        typer.Option(parser=read_payload_type, metavar=words(PayloadType), show_default="raw"),
    ] = PayloadType.RAW
    deadline: Annotated[
        float | None,
        typer.Option(
            parser=read_seconds,
            metavar="SECONDS",
            help="After this time a message is neither written nor taken by the peer.",
        ),
    ] = None
    until: Annotated[
        DeliveryState | None,
        typer.Option(
            parser=read_until,
            metavar="|".join(UNTIL),
            show_default="accepted, or persisted where the peer is away",
            help="How far a message must have come.",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=read_seconds, metavar="SECONDS", help="Wait no longer than this for that."
        ),
    ] = None
    proof: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Save the peer's receipt, for `signedwire verify` and others."
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

    def run(self) -> int:
        from signedwire.cli.sending import send

        return send(self)


@dataclass(frozen=True, kw_only=True)
class _Probe(Command):
    """What the commands have that link to peers and send nothing."""

    v1: Annotated[
        bool,
        typer.Option(
            "--v1", help="Where TLS is hung up on, try whether a v1 peer may listen there."
        ),
    ] = False
    own_identity: Annotated[
        bool,
        typer.Option(
            "--own-identity",
            help="Knock with our identity, for peers that let in only whom they know; "
            "it measures the handshake, and disturbs no node that runs with it.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Ping(_Probe):
    """Link to a peer: is it there, is it who it should be, how far away is it?

    It makes a v2 link with a key made for this run, in which the peer proves its DID, and
    measures the round trip. No message is sent. v1 peers prove nothing: with --v1 it looks
    whether somebody listens and keeps the connection.
    """

    exit_codes = (ExitCode.UNREACHED, ExitCode.DENIED)

    to: Annotated[str, typer.Argument(metavar="DID[@HOST:PORT]", help="Whom.")]
    count: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="How often, one second apart.")
    ] = 1

    def run(self) -> int:
        from signedwire.cli.pinging import ping

        return ping(self)


@dataclass(frozen=True, kw_only=True)
class Peers(_Probe):
    """Link to every peer of the peers file, as `ping` does: one line for each.

    Exit code 6: one was not reached, or another DID answered.
    """

    exit_codes = (ExitCode.UNREACHED,)

    def run(self) -> int:
        from signedwire.cli.pinging import peers

        return peers(self)


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Check receipt proofs, and the signatures of saved envelopes.

    FILE holds a proof that `signedwire send --proof` saved, one envelope (raw or hex, also
    over several lines), one in hex per line as `signedwire outbox export` writes them, v1
    frames, or what `signedwire listen --json` printed; there, what a line says is also
    compared with the envelope in it. Exit code 1: one is invalid, 3: there is none.

    It needs little memory, however large the file is. So with --json the payload of an
    envelope of more than 2 MiB is null, and a line of JSON has a limit of 9 MiB.
    It stops after 100,000 things that are invalid, and at a byte 0 in a text, and says so.
    Of text that comes by a pipe it takes 1 GiB.
    """

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file; - reads stdin.")]

    def run(self) -> int:
        from signedwire.cli.verifying import verify

        return verify(self)


@dataclass(frozen=True, kw_only=True)
class ConfigShow(Command):
    """Show every option, its value, and where that came from.

    What is printed can be used as a configuration file, also with --explain.
    """

    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Say of each option what it does and which values it takes."
        ),
    ] = False

    def run(self) -> int:
        from signedwire.cli.configuration import show

        return show(self)


@dataclass(frozen=True, kw_only=True)
class ConfigCheck(Command):
    """Check the configuration and every file that it names, and the peers file.

    It finds all for which `listen` would not start, but for a port that is in use and what
    is inside a store or an evidence log, and names each. It makes and locks nothing, so it
    can run beside the node.
    """

    def run(self) -> int:
        from signedwire.cli.configuration import check

        return check(self)


@dataclass(frozen=True, kw_only=True)
class Bench(Command):
    """Measure a peer of your own, over the network between.

    `signedwire bench --serve --listen 0.0.0.0:9001` on one machine prints the line for
    the other, `signedwire bench DID@host:9001`. That measures messages/s, each with its
    signed receipt, at each --size, and the time there and back. A peer that is no bench
    server gets one question and nothing else. Exit code 1: it does not serve, or messages
    were lost.

    --serve receives, counts, echoes and keeps nothing, until Ctrl-C. Anybody who knows its
    DID and address can send to it meanwhile. Both sides use a key made for this run.
    """

    exit_codes = (
        ExitCode.UNREACHED,
        ExitCode.DENIED,
    )

    to: Annotated[
        str | None,
        typer.Argument(metavar="DID[@HOST:PORT]", help="A peer that runs `bench --serve`."),
    ] = None
    serve: Annotated[
        bool, typer.Option("--serve", help="Be the peer that another machine measures.")
    ] = False
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where --serve listens; 0.0.0.0 is for other machines too. By default "
            "127.0.0.1:0, this machine alone.",
        ),
    ] = None
    seconds: Annotated[
        float,
        typer.Option(parser=read_seconds, metavar="SECONDS", help="How long for each figure."),
    ] = 2.0
    rounds: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="How often each is measured.")
    ] = 3
    size: Annotated[
        list[int] | None,
        typer.Option(
            parser=read_size,
            metavar="BYTES",
            help="A payload size; may be given often.",
            show_default="64, 1000",
        ),
    ] = None
    own_identity: Annotated[
        bool,
        typer.Option(
            "--own-identity",
            help="Use our identity, for peers that let in only whom they know; no other "
            "node may run with it meanwhile.",
        ),
    ] = False

    def run(self) -> int:
        from signedwire.cli.benching import bench

        return bench(self)


COMMANDS: Final[dict[str, type[Command]]] = {
    "listen": Listen,
    "send": Send,
    "ping": Ping,
    "peers": Peers,
    "verify": Verify,
    "bench": Bench,
}
"""The commands of the first level, in the order of the help."""
