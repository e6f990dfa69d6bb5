"""The options of the commands that show and change what a store holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from signedwire.cli.common_options import StoreFileOptions
from signedwire.cli.option_values import read_message_name

__all__ = [
    "DeadDropOptions",
    "DeadListOptions",
    "DeadRetryOptions",
    "DeadShowOptions",
    "ListOptions",
    "OutboxDropOptions",
    "OutboxExportOptions",
    "OutboxListOptions",
    "OutboxRetryOptions",
    "OutboxShowOptions",
    "SelectionOptions",
    "ShowOptions",
]

_ID_HELP: Final = "The number that `list` shows, or the first 8 or more digits of a message id."


@dataclass(frozen=True, kw_only=True)
class ListOptions(StoreFileOptions):
    """The options of commands that list messages."""

    to: Annotated[
        str | None, typer.Option(metavar="DID", help="Only messages to this peer, by DID or name.")
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show at most this number.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ShowOptions(StoreFileOptions):
    """The options of commands that show one message."""

    id: Annotated[
        str,
        typer.Argument(metavar="ID", parser=read_message_name, help=_ID_HELP),
    ]


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(StoreFileOptions):
    """The options of commands that change some messages."""

    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", parser=read_message_name, help=_ID_HELP),
    ] = None
    to: Annotated[
        str | None, typer.Option(metavar="DID", help="All messages to this peer, by DID or name.")
    ] = None
    all: Annotated[bool, typer.Option("--all", help="All messages.")] = False


@dataclass(frozen=True, kw_only=True)
class OutboxListOptions(ListOptions):
    """List the messages that wait to be sent: to whom, since when, and why they still wait.

    They are listed in the order in which they will be sent, peer by peer. A line begins with
    two names of the message, and the other commands take either: its number in the store, and
    the first 8 digits of its message id.
    """


@dataclass(frozen=True, kw_only=True)
class OutboxShowOptions(ShowOptions):
    """Show one message that waits, with its payload."""


@dataclass(frozen=True, kw_only=True)
class OutboxRetryOptions(StoreFileOptions):
    """Reset the failed attempts of peers, so that the next node to run tries them at once.

    That node is the next `signedwire send` to such a peer, or `signedwire listen` if
    --peers has its address.
    """

    to: Annotated[
        str | None, typer.Option(metavar="DID", help="Only this peer, by DID or name.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class OutboxDropOptions(SelectionOptions):
    """Remove messages, so that they are never sent.

    A message that a node has written may have arrived nevertheless. Exit code 1: one was
    not there.
    """


@dataclass(frozen=True, kw_only=True)
class OutboxExportOptions(StoreFileOptions):
    """Write the messages that wait, and those that were accepted and not acknowledged.

    The file has one envelope in hex per line, which `signedwire verify FILE` checks
    anywhere. Messages that wait are signed with the identity. Accepted messages are written
    with the proof of their sender.
    """

    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that does not exist yet.")]


@dataclass(frozen=True, kw_only=True)
class DeadListOptions(ListOptions):
    """List the messages that were refused or given up, and why; the oldest first."""


@dataclass(frozen=True, kw_only=True)
class DeadShowOptions(ShowOptions):
    """Show one dead letter, with its payload."""


@dataclass(frozen=True, kw_only=True)
class DeadRetryOptions(SelectionOptions):
    """Put the payloads of dead letters back into the outbox, as new messages.

    They have no deadline, and go out behind the messages that wait there. The dead letters
    are removed. Exit code 1: one was not there.
    """


@dataclass(frozen=True, kw_only=True)
class DeadDropOptions(SelectionOptions):
    """Remove dead letters. Exit code 1: one was not there."""
