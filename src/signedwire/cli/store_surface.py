"""The commands that look into a store and change it; see `surface` for how they are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.surface import Command

__all__ = ["GROUPS", "StoreCommand"]


@dataclass(frozen=True, kw_only=True)
class StoreCommand(Command):
    """What they all have."""

    exit_codes = (ExitCode.STORE,)

    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The store. By default `store` of the configuration, else that of this key "
            "in the user's state folder.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Listing(StoreCommand):
    to: Annotated[str | None, typer.Option(metavar="DID", help="Only what is for this peer.")] = (
        None
    )
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show no more than so many.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class _OfOne(StoreCommand):
    id: Annotated[int, typer.Argument(metavar="ID", help="As `list` shows it.")]


@dataclass(frozen=True, kw_only=True)
class _OfSome(StoreCommand):
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="As `list` shows them.")
    ] = None
    to: Annotated[str | None, typer.Option(metavar="DID", help="All that are for this peer.")] = (
        None
    )
    all: Annotated[bool, typer.Option("--all", help="All of them.")] = False


@dataclass(frozen=True, kw_only=True)
class OutboxList(_Listing):
    """List what waits to be sent: for whom, since when, and why it still waits.

    In the order in which it will be sent, peer by peer. The first number is the ID that the
    other commands want.
    """

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.list_outbox(self)


@dataclass(frozen=True, kw_only=True)
class OutboxShow(_OfOne):
    """Show one message that waits, with its payload."""

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.show_outbox(self)


@dataclass(frozen=True, kw_only=True)
class OutboxRetry(StoreCommand):
    """Forget that peers could not be reached: whoever runs next tries them anew.

    That is the next `signedwire send` to such a peer, or `signedwire listen` where --peers
    has its address.
    """

    to: Annotated[str | None, typer.Option(metavar="DID", help="Only this peer.")] = None

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.retry_outbox(self)


@dataclass(frozen=True, kw_only=True)
class OutboxDrop(_OfSome):
    """Take messages out, so that they are never sent.

    One that a node has sent may have arrived all the same. Exit code 1: one was not there.
    """

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.drop_outbox(self)


@dataclass(frozen=True, kw_only=True)
class OutboxExport(StoreCommand):
    """Write what waits, and what was accepted and is not done, with signatures.

    One envelope in hex per line, which `signedwire verify FILE` checks anywhere. Those that
    wait are signed with the identity; of those that were accepted it is their sender's
    signature.
    """

    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not be there yet.")]

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.export_outbox(self)


@dataclass(frozen=True, kw_only=True)
class DeadList(_Listing):
    """List what was refused or given up, and why; the oldest first."""

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.list_dead(self)


@dataclass(frozen=True, kw_only=True)
class DeadShow(_OfOne):
    """Show one dead letter, with its payload."""

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.show_dead(self)


@dataclass(frozen=True, kw_only=True)
class DeadRetry(_OfSome):
    """Put the payloads of dead letters back into the outbox, as new messages.

    They have no deadline, and go out behind what waits there. The dead letters are gone
    then. Exit code 1: one was not there.
    """

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.retry_dead(self)


@dataclass(frozen=True, kw_only=True)
class DeadDrop(_OfSome):
    """Forget dead letters. Exit code 1: one was not there."""

    def run(self) -> int:
        from signedwire.cli import waiting

        return waiting.drop_dead(self)


GROUPS: Final[dict[str, tuple[str, dict[str, type[Command]]]]] = {
    "outbox": (
        "See and change what waits to be sent.",
        {
            "list": OutboxList,
            "show": OutboxShow,
            "retry": OutboxRetry,
            "drop": OutboxDrop,
            "export": OutboxExport,
        },
    ),
    "dead": (
        "See and change what was refused or given up.",
        {"list": DeadList, "show": DeadShow, "retry": DeadRetry, "drop": DeadDrop},
    ),
}
"""The groups with their help and their commands, in the order of the help."""
