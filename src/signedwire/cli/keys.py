"""`signedwire id`, and the identity that the other commands use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from signedwire.cli.errors import BadFile, BadInput
from signedwire.cli.output import emit, escape, result, say
from signedwire.errors import IdentityError
from signedwire.identity import Identity

if TYPE_CHECKING:
    from signedwire.cli.surface import IdNew, IdShow

__all__ = ["load", "load_or_create", "new", "show"]

_PASSWORD_VARIABLE = "SIGNEDWIRE_PASSWORD"


def new(options: IdNew) -> int:
    """`signedwire id new`."""
    path = options.path or options.identity or _default_path()
    password = _new_password(options)
    identity = _create(path, password)
    _show(identity, path, as_json=options.json)
    say(f"made a new {'encrypted ' if password else ''}identity in {escape(str(path))}")
    return 0


def show(options: IdShow) -> int:
    """`signedwire id show`."""
    path = options.path or options.identity or _default_path()
    _show(load(path), path, as_json=options.json)
    return 0


def load(path: Path | None) -> Identity:
    """The identity in `path`, by default this user's, which is there already."""
    path = path or _default_path()
    if not path.exists():
        raise BadFile(f"there is no key file {path}", f"`signedwire id new {path}` makes one")
    return _load(path)


def load_or_create(path: Path | None) -> Identity:
    """The identity in `path`, by default this user's; made if there is none yet."""
    path = path or _default_path()
    if path.exists():
        return _load(path)
    try:
        identity = _create(path, os.environ.get(_PASSWORD_VARIABLE))
    except IdentityError:
        if path.exists():  # another process was faster
            return _load(path)
        raise
    say(f"made a new identity, {identity.did}, in {escape(str(path))}")
    return identity


def _default_path() -> Path:
    return Path(typer.get_app_dir("signedwire")) / "identity.pem"


def _load(path: Path) -> Identity:
    password = os.environ.get(_PASSWORD_VARIABLE)
    try:
        return Identity.load(path, password)
    except IdentityError as error:
        if "it is encrypted" not in error.fact:
            raise
        if sys.stdin.isatty():
            asked: str = typer.prompt(f"Password of {escape(str(path))}", hide_input=True, err=True)
            return Identity.load(path, asked)
        raise IdentityError(error.fact, f"Put its password into {_PASSWORD_VARIABLE}") from None


def _create(path: Path, password: str | None) -> Identity:
    identity = Identity.generate()
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise IdentityError(
                f"cannot make the folder {path.parent}: {error.strerror}",
                "Name another file with --identity",
            ) from None
    identity.save(path, password)
    return identity


def _new_password(options: IdNew) -> str | None:
    if options.password_env is not None and options.ask_password:
        raise BadInput("--password-env and --ask-password exclude each other", "Give one of them")
    if options.ask_password:
        asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    variable = options.password_env or _PASSWORD_VARIABLE
    password = os.environ.get(variable)
    if password is None and options.password_env is not None:
        raise BadInput(
            f"--password-env {variable}: there is no such variable in the environment",
            "Set it, or use --ask-password",
        )
    return password


def _show(identity: Identity, path: Path, *, as_json: bool) -> None:
    if as_json:
        emit({"did": str(identity.did), "did_hex": identity.did.hex(), "path": str(path)})
    else:
        result(str(identity.did))
