"""The options of the commands that make, show or check a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from signedwire.cli.common_options import CommonOptions
from signedwire.cli.option_values import read_hash

__all__ = [
    "ConfigCheckOptions",
    "ConfigShowOptions",
    "EvidenceShowOptions",
    "EvidenceVerifyOptions",
    "IdNewOptions",
    "IdShowOptions",
    "VerifyOptions",
]

_KEYS_AND_PEERS: Final = ("identity", "identity_fd", "key_group_readable", "peers")


@dataclass(frozen=True, kw_only=True)
class _IdOptions(CommonOptions):
    unused = ("peers",)

    path: Annotated[
        Path | None, typer.Argument(help="Key file; by default that of --identity.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class IdNewOptions(_IdOptions):
    """Make a new identity, write its key file, and print its DID.

    A file that exists is never overwritten. Without a password option the file is encrypted
    if SIGNEDWIRE_PASSWORD is set, because that password will be used to open it. The folder
    of the file is made if there is none.
    """

    password_env: Annotated[
        str | None,
        typer.Option(metavar="VAR", help="Encrypt with the password in this variable."),
    ] = None
    ask_password: Annotated[
        bool, typer.Option("--ask-password", help="Encrypt; ask for the password.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class IdShowOptions(_IdOptions):
    """Print the DID of an identity."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(CommonOptions):
    """Check receipt proofs, and the signatures of saved envelopes.

    FILE holds a proof that `signedwire send --proof` saved, v1 frames, or envelopes. One
    envelope may be raw or in hex, also over several lines. Several are in hex, one per
    line, as `signedwire outbox export` writes them. The output of `signedwire listen
    --json` is accepted too, and each line is compared with its envelope. Exit code 1: one
    is invalid, 3: there is none.

    The command needs little memory, however large the file is. So with --json the payload
    of an envelope of more than 2 MiB is null, and a line of JSON has a limit of 9 MiB. The
    command stops after 100,000 invalid things, and at a byte 0 in a text, and reports that.
    It accepts 1 GiB of text by a pipe.
    """

    unused = _KEYS_AND_PEERS

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file; - reads stdin.")]


@dataclass(frozen=True, kw_only=True)
class ConfigShowOptions(CommonOptions):
    """Show every option, its value, and where the value came from.

    The output can be used as a configuration file, also with --explain.
    """

    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show for each option what it does and which values it takes."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ConfigCheckOptions(CommonOptions):
    """Check the configuration and every file that it names, and the peers file.

    The command finds everything for which `listen` would not start, and names each fault.
    It does not test ports, and does not look inside a store or an evidence log. It makes
    and locks nothing, so it can run beside the node.
    """


@dataclass(frozen=True, kw_only=True)
class EvidenceVerifyOptions(CommonOptions):
    """Check an evidence log: its chain and every signature in it. Needs nothing else.

    A log that was rotated is in several files: give them all, in any order, and they are
    checked as one chain. A missing file in the middle is an error. Files before the first
    may be missing; the head that the first file continues is shown.

    The command prints the head, a hash of everything in the log. Write it down elsewhere:
    cutting off the end or rewriting the log changes it, and --head finds that. A log that
    has grown since passes. Exit code 1: something is wrong, and the first bad record is
    named; 3: it is no evidence log.
    """

    unused = _KEYS_AND_PEERS

    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="The files of the log.")]

    head: Annotated[
        bytes | None,
        typer.Option(
            parser=read_hash, metavar="HASH", help="A head of this log that was written down."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvidenceShowOptions(CommonOptions):
    """Show every record of an evidence log, each checked as `verify` does.

    With --json each line has all fields of an envelope, its bytes and the record's hash.
    The command stops at the first bad record, with exit code 1.
    """

    unused = _KEYS_AND_PEERS

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The evidence log.")]
