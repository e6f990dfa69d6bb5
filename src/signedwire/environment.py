"""The environment of the process: foreign variables, and the folders of this user."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from signedwire.errors import ConfigError

__all__ = [
    "SERVICE_LINK_CAUSE",
    "expand_home",
    "home_folder",
    "is_service_link",
    "looks_like_service_link",
    "state_folder",
]

# Variables that Kubernetes, and Docker's links before it, set for a service called
# "signedwire" or "signedwire-…":
# https://kubernetes.io/docs/concepts/services-networking/service/
_URL: Final = r"(?:tcp|udp|sctp)://\S+:\d{1,5}"
_HOST: Final = r"[0-9a-fA-F.:]+"
_PORT: Final = r"\d{1,5}"
_SERVICE_LINKS: Final = tuple(
    (re.compile(f".+_{name}"), re.compile(value))
    for name, value in (
        ("SERVICE_HOST", _HOST),
        ("SERVICE_PORT(?:_[A-Z0-9_]+)?", _PORT),
        ("PORT", _URL),
        (r"PORT_\d{1,5}_(?:TCP|UDP|SCTP)", _URL),
        (r"PORT_\d{1,5}_(?:TCP|UDP|SCTP)_PROTO", "tcp|udp|sctp"),
        (r"PORT_\d{1,5}_(?:TCP|UDP|SCTP)_PORT", _PORT),
        (r"PORT_\d{1,5}_(?:TCP|UDP|SCTP)_ADDR", _HOST),
    )
)

SERVICE_LINK_CAUSE: Final = (
    "Kubernetes sets such variables for a service whose name begins with signedwire: put "
    "enableServiceLinks: false into the pod's spec, or give the service another name"
)
"""Hint for a variable that resembles a service link but is not exactly one."""


def is_service_link(variable: str, value: str) -> bool:
    """Whether name and value are exactly those that Kubernetes sets for a service."""
    return any(name.fullmatch(variable) and of.fullmatch(value) for name, of in _SERVICE_LINKS)


def looks_like_service_link(variable: str, value: str) -> bool:
    """Whether name or value is that of a service link, so that Kubernetes may have set it."""
    return re.fullmatch(_URL, value) is not None or any(
        name.fullmatch(variable) for name, _ in _SERVICE_LINKS
    )


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return this user's home folder, an absolute path other than the root of the file system.

    `environ` is `os.environ` by default.

    Raises:
        ConfigError: HOME is empty or not such a path. Or HOME is not set and the user has no
            entry in the system, as in a container with a numeric user.
    """
    given = (os.environ if environ is None else environ).get("HOME")
    try:
        if os.name != "posix":
            home = Path.home()
        else:
            import pwd

            home = Path(pwd.getpwuid(os.getuid()).pw_dir if given is None else given)
    except (RuntimeError, KeyError):
        home = Path()
    # A container's user without an entry has "/", which must not get our files.
    if home.is_absolute() and home != Path(home.anchor):
        return home
    raise ConfigError(
        "there is no home folder", "Give --identity and --store, or set HOME to a folder"
    )


def state_folder() -> Path:
    """Return the folder for this user's durable state; it may not exist yet.

    Raises:
        ConfigError: there is no home folder.
    """
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else home_folder() / "AppData" / "Local") / "signedwire"
    if sys.platform == "darwin":
        return home_folder() / "Library" / "Application Support" / "signedwire"
    # "All paths must be absolute; others are to be ignored." (XDG base directories)
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else home_folder() / ".local/state") / "signedwire"


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return `path` with the home folder for `~` or `~user` at its start.

    A file whose own name begins with `~` is given as `./~…`.

    Raises:
        ConfigError: there is no such home folder.
        TypeError: `path` is neither text nor a path of text.
    """
    text = os.fspath(path)
    given: object = text
    if not isinstance(given, str):
        raise TypeError(f"a path is text or a Path, not {type(given).__name__}: os.fsdecode(path)")
    if not text.startswith("~"):
        return Path(path)
    first, *rest = Path(text).parts
    if first == "~":
        return home_folder().joinpath(*rest)
    expanded = Path(os.path.expanduser(first))
    if not expanded.is_absolute():
        raise ConfigError(
            f"there is no user {first[1:]!r} on this system, whose home folder {first} would be",
            f"Write the whole path, or ./{first} for a file of that name",
        )
    return expanded.joinpath(*rest)
