"""Options that several commands share.

Each command has one dataclass of options: its fields are the options, its docstring is the
help, and `exit_codes` has the exit codes beside those that every command has. `commands`
joins the dataclasses with the functions that do the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from signedwire.cli.errors import BadInput
from signedwire.cli.exit_codes import ExitCode
from signedwire.config import TransportConfig
from signedwire.names import Names
from signedwire.settings import Settings, read_settings

__all__ = ["CommonOptions", "NodeOptions", "ProbeOptions", "StoreFileOptions"]


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of every command."""

    exit_codes: ClassVar[tuple[ExitCode, ...]] = ()
    """The exit codes of this command beside those that every command has."""

    unused: ClassVar[tuple[str, ...]] = ()
    """The options that this command accepts but does not use; its help leaves them out."""

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
            envvar="SIGNEDWIRE_PEERS",
            help='TOML file with a table [peers]: "DID" = "host:port" or "unix:/path". '
            "A name of the configuration may stand for the DID.",
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Results and errors as JSON lines.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr.")] = False

    @cached_property
    def settings(self) -> Settings:
        """The settings of --config and of the environment; read once, at first use."""
        return read_settings(self.config)

    @cached_property
    def names(self) -> Names:
        """The names of the configuration.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        return self.settings.config().names

    def load_config(self) -> TransportConfig:
        """Return the configuration from --config and the environment.

        Raises:
            ConfigError: the configuration cannot be used.
            BadInput: the configured network works inside one process only.
        """
        config = self.settings.config()
        if config.network == "memory":
            raise BadInput(
                "network='memory' stays inside one process, so the command line cannot use it",
                'Set network = "tcp", or another preset than development',
            )
        return config


@dataclass(frozen=True, kw_only=True)
class NodeOptions(CommonOptions):
    """The options of commands that run a node with a store."""

    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where messages wait, so that no crash loses them. Its folder must exist. By "
            "default `store` of the configuration, else one for this key in the user's state "
            "folder, which is made.",
        ),
    ] = None
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Keep waiting messages in memory only.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class StoreFileOptions(CommonOptions):
    """The options of commands that work on the file of a store."""

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
class ProbeOptions(CommonOptions):
    """The options of commands that link to peers and send no message."""

    v1: Annotated[
        bool,
        typer.Option(
            "--v1",
            help="If the peer hangs up on TLS, test whether a v1 peer may listen there.",
        ),
    ] = False
    own_identity: Annotated[
        bool,
        typer.Option(
            "--own-identity",
            help="Use our identity, for peers that let in only DIDs on their access list. "
            "It measures the handshake, and disturbs no node that runs with that identity.",
        ),
    ] = False
