"""`signedwire id new` and `signedwire id show`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from signedwire import keysources
from signedwire.cli import keys
from signedwire.cli.errors import BadInput
from signedwire.cli.file_options import IdNewOptions, IdShowOptions
from signedwire.cli.output import emit, escape, result, say
from signedwire.errors import IdentityError, IdentityProblem
from signedwire.identity import Identity
from signedwire.keysources import KeySource
from signedwire.settings import PASSWORD_VARIABLE

__all__ = ["has_terminal", "new", "show"]


def new(options: IdNewOptions) -> int:
    """Make an identity and print its DID."""
    named = options.path or options.identity or options.settings.identity()["identity"].value
    password = _new_password(options)
    path = keysources.default_key_path() if named is None else Path(str(named))
    # A power cut may have left an empty file. It is replaced at the default path only.
    is_empty = named is None and path.is_file() and path.stat().st_size == 0
    identity = keysources.make_key_file(path, password, is_empty=is_empty)
    if identity is None:  # another process was faster
        raise IdentityError(
            f"cannot save the key to {path}: another process has just made one",
            "Load the key that is there",
            IdentityProblem.EXISTS,
        )
    say(f"made a new {'encrypted ' if password else ''}identity in {escape(str(path))}")
    _show(identity, path, as_json=options.json)
    return 0


def show(options: IdShowOptions) -> int:
    """Print the DID of an identity."""
    secrets = keys.forget_secrets()
    if options.path is not None:
        settings = options.settings.identity()
        allowed = options.key_group_readable or settings["key_group_readable"].value is True
        source = KeySource.file(options.path, group_readable=allowed)
    else:
        source = keys.choose(options, secrets)
    _show(keys.load_from(source, secrets), source.path, as_json=options.json)
    return 0


def _new_password(options: IdNewOptions) -> str | None:
    if options.password_env is not None and options.ask_password:
        raise BadInput("--password-env and --ask-password exclude each other", "Give one of them")
    if options.ask_password:
        return _asked_password()
    variable = options.password_env
    if variable is None or variable == PASSWORD_VARIABLE:
        password = keys.forget_secrets().password
    else:
        password = os.environ.pop(variable, None)
    if not password and variable is not None:
        raise BadInput(
            f"--password-env {variable}: there is no such variable in the environment, or it is "
            "empty",
            "Set it, or use --ask-password",
        )
    return password


def _asked_password() -> str:
    if not has_terminal():
        raise BadInput(
            "there is no terminal to ask for the password at",
            "Put it into a variable, and use --password-env VAR",
        )
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return asked


def has_terminal() -> bool:
    """Return whether a password can be asked for at a terminal, without showing it."""
    if sys.stdin is not None and sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


def _show(identity: Identity, path: Path | None, *, as_json: bool) -> None:
    if as_json:
        shown = None if path is None else str(path)
        emit({"did": str(identity.did), "did_hex": identity.did.hex(), "file": shown})
    else:
        result(str(identity.did))
