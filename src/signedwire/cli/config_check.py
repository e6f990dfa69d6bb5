"""Checks of `signedwire config check`: everything for which a node would not start.

Nothing is made, locked or changed, and no port is tried. So the checks can run beside the
node that uses the same files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from signedwire.cli import keys
from signedwire.cli.common_options import CommonOptions
from signedwire.cli.errors import BadFile
from signedwire.cli.redaction import key_as_path
from signedwire.config import TransportConfig
from signedwire.delivery.access import read_access_file
from signedwire.environment import state_folder
from signedwire.errors import ConfigError, SignedWireError
from signedwire.names import Names
from signedwire.routing import RoutingTable
from signedwire.settings import find_faults

__all__ = ["Checked", "check_all"]

_SQLITE: Final = b"SQLite format 3\0"


class Checked(NamedTuple):
    """The result of all checks."""

    faults: list[SignedWireError]
    """Errors that prevent a node from starting."""
    warnings: list[str]
    """Settings that have no effect, or another one than they seem to have."""
    routes: int | None
    """Number of peers in the peers file; `None`: there is no such file."""


def check_all(options: CommonOptions) -> Checked:
    """Check the configuration and every file that it names."""
    faults: list[SignedWireError] = []
    warnings: list[str] = []
    routes: list[int] = []

    def attempt(look: Callable[[], object]) -> None:
        try:
            look()
        except SignedWireError as error:
            faults.append(error)

    try:
        config = options.settings.config()
    except ConfigError as error:
        # Only a regular file can be read again, to find all faults; a pipe is empty by now.
        is_there = options.config is None or options.config.is_file()
        faults += (is_there and find_faults(options.config)) or [error]
    else:
        if config.access_file is not None:
            path = config.access_file
            attempt(lambda: read_access_file(path, config.names))
        attempt(lambda: keys.check(options))
        attempt(lambda: _check_store(options, config))
        attempt(lambda: _check_file("evidence log", config.evidence))
        warnings = _warnings(options, config)
    if options.peers is not None:
        peers, names = options.peers, _names(options)
        attempt(lambda: routes.append(len(RoutingTable.load(peers, names))))
    return Checked(faults, warnings, routes[0] if routes else None)


def _names(options: CommonOptions) -> Names:
    """Return the names of the configuration, also if something else in it is wrong."""
    try:
        given = options.settings.given.get("names")
    except ConfigError:
        return Names()
    return given.value if given is not None and isinstance(given.value, Names) else Names()


def _check_store(options: CommonOptions, config: TransportConfig) -> None:
    _check_file("store", config.store, _SQLITE)
    if "store" not in options.settings.given:
        state_folder()  # raises without a home folder, in which the user's own store is made


def _check_file(what: str, path: Path | None, begins: bytes = b"") -> None:
    """Raise if a node could neither open nor make a file.

    Args:
        what: The kind of file, for the error.
        path: The file; `None`: there is nothing to check.
        begins: The first bytes of such a file.

    Raises:
        BadFile: names the file and the cause.
    """
    if path is None:
        return
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if fact := key_as_path(path, what):
            raise BadFile(fact, "Give the path of a file") from None
        folder = path.parent
        if not folder.is_dir():
            raise BadFile(
                f"the {what} {path} cannot be made: there is no folder {folder}",
                "Make it, or name a file elsewhere",
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BadFile(
                f"the {what} {path} cannot be made: this user may not write to {folder}",
                "Give the folder to this user, or name a file elsewhere",
            ) from None
        return
    except OSError as error:
        raise BadFile(
            f"the {what} {path} cannot be used: {error.strerror}", "Check the path"
        ) from None
    if not stat.S_ISREG(mode):
        raise BadFile(f"the {what} {path} cannot be used: it is no regular file", "Name a file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise BadFile(
            f"the {what} {path} cannot be used: this user may not read and write it",
            "Give the file to this user, or name another",
        )
    with path.open("rb") as file:
        start = file.read(len(begins))
    if start and start != begins:
        raise BadFile(f"the {what} {path} cannot be used: it is another file", "Name another")


def _warnings(options: CommonOptions, config: TransportConfig) -> list[str]:
    warnings = []
    if config.network == "memory":
        warnings.append(
            "network = memory stays inside one process: `listen` and `send` will refuse it"
        )
    rotates = config.evidence_max_bytes is not None or config.evidence_max_age is not None
    if config.evidence is None and (rotates or config.evidence_keep is not None):
        warnings.append("the limits of the evidence log have no effect: evidence names no file")
    elif config.evidence_keep is not None and not rotates:
        warnings.append(
            "evidence_keep removes files when the log rotates, and without evidence_max_bytes "
            "or evidence_max_age that happens on SIGUSR1 alone"
        )
    key = options.settings.identity()
    if key["identity"].value is not None and key["identity_fd"].value is not None:
        warnings.append("identity has no effect: identity_fd comes first")
    return warnings
