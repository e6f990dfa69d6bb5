"""The options of the commands that run until they are ended, or try peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from signedwire.cli.common_options import CommonOptions, NodeOptions, ProbeOptions
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.option_values import read_count, read_seconds, read_size

__all__ = ["BenchOptions", "ListenOptions", "PeersOptions", "PingOptions"]


@dataclass(frozen=True, kw_only=True)
class ListenOptions(NodeOptions):
    """Receive messages and print them until Ctrl-C.

    First, the `signedwire send` line that reaches this listener is printed on stderr; then
    each message on a line of stdout. An identity and a store are made at first use. Senders
    over v2 get a signed receipt, and their message is handled once its line is printed. A
    message that was accepted but not printed before a crash is printed at the next start.
    Messages that wait in the store for peers of --peers are sent.

    With --json the first line is {"event": "listening", "peer": "DID@host:port", …}, then
    one {"event": "message", …} per message, at the end {"event": "summary", …}.
    `signedwire verify` checks these lines if you save them. With -v, connections and their
    ends are logged. SIGTERM and SIGHUP close the listener in order; with an access file,
    SIGHUP reads it again instead. SIGUSR1 rotates the evidence log, where the configuration
    names one.
    """

    exit_codes = (ExitCode.NO_ANSWER, ExitCode.STORE)

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
        typer.Option(parser=read_count, metavar="N", help="End after this number of messages."),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=read_seconds,
            metavar="SECONDS",
            help="End after this time; a failure if --count was not reached.",
        ),
    ] = None
    v1: Annotated[bool, typer.Option("--v1", help="Accept messages from v1 peers too.")] = False
    allow_unsigned: Annotated[
        bool,
        typer.Option(
            "--allow-unsigned",
            help="Like --v1, and accept unsigned messages too; their sender is shown as unproven.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class PingOptions(ProbeOptions):
    """Link to a peer: is it there, is it who it should be, how far away is it?

    The command makes a v2 link with a key made for this run, in which the peer proves its
    DID, and measures the round trip. No message is sent. v1 peers prove nothing: --v1
    tests whether something listens and keeps the connection.
    """

    exit_codes = (ExitCode.UNREACHED, ExitCode.DENIED)

    to: Annotated[str, typer.Argument(metavar="DID[@HOST:PORT]", help="The peer, by DID or name.")]
    count: Annotated[
        int,
        typer.Option(
            parser=read_count, metavar="N", help="Number of round trips, one second apart."
        ),
    ] = 1


@dataclass(frozen=True, kw_only=True)
class PeersOptions(ProbeOptions):
    """Link to every peer of the peers file, as `ping` does: one line for each.

    The line has the state: `connected`, `open` for v1 peers, or why there is no link.
    Exit code 6: one was not reached, or another DID answered.
    """

    exit_codes = (ExitCode.UNREACHED,)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(CommonOptions):
    """Measure how fast this machine and a peer of yours exchange messages.

    `signedwire bench --serve --listen 0.0.0.0:9001` on one machine prints the command for
    the other, `signedwire bench DID@host:9001`. That measures messages/s, each with its
    signed receipt, at each --size, and the round trip. A peer that is no bench server gets
    one question and nothing else. Exit code 1: the peer is no bench server, or messages
    were lost.

    --serve receives, counts, echoes and keeps nothing, until Ctrl-C. Anybody who has its
    DID and address can send to it meanwhile. Both sides use a key made for this run.
    """

    exit_codes = (ExitCode.UNREACHED, ExitCode.DENIED)

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
        typer.Option(parser=read_seconds, metavar="SECONDS", help="Duration of each measurement."),
    ] = 2.0
    rounds: Annotated[
        int, typer.Option(parser=read_count, metavar="N", help="Number of measurements of each.")
    ] = 3
    size: Annotated[
        list[int] | None,
        typer.Option(
            parser=read_size,
            metavar="BYTES",
            help="A payload size; may be given often. By default 64 and 1000.",
            show_default=False,
        ),
    ] = None
    own_identity: Annotated[
        bool,
        typer.Option(
            "--own-identity",
            help="Use our identity, for peers that let in only DIDs on their access list. No "
            "other node may run with that identity meanwhile.",
        ),
    ] = False
