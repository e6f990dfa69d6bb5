"""`signedwire id`, and the identity that the other commands use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from signedwire import keysources
from signedwire.cli.errors import BadInput
from signedwire.cli.output import emit, escape, result, say
from signedwire.errors import IdentityError, IdentityProblem
from signedwire.identity import Identity
from signedwire.keysources import KeySource, Secrets
from signedwire.settings import PASSWORD_VARIABLE

if TYPE_CHECKING:
    from signedwire.cli.surface import Command, IdNew, IdShow

__all__ = [
    "check",
    "forget_secrets",
    "has_terminal",
    "load",
    "load_or_create",
    "new",
    "show",
    "take_secrets",
]


_STANDARD_INPUT: Final = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


class _Taken:
    """What this run of the command line took out of the environment, until it is used."""

    secrets = Secrets()


def take_secrets() -> None:
    """Take the key and the password out of the environment, for this run of a command."""
    _Taken.secrets = keysources.take_secrets()


def forget_secrets() -> Secrets:
    """What was taken and not used yet. Nothing here keeps it any longer."""
    secrets, _Taken.secrets = _Taken.secrets, Secrets()
    return secrets


def new(options: IdNew) -> int:
    """`signedwire id new`."""
    named = options.path or options.identity or options.settings.identity()["identity"].value
    password = _new_password(options)
    path = keysources.default_key_path() if named is None else Path(str(named))
    # A power cut may have left an empty file; at a path that somebody chose it stays.
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


def show(options: IdShow) -> int:
    """`signedwire id show`."""
    secrets = forget_secrets()
    if options.path is not None:
        settings = options.settings.identity()
        allowed = options.key_group_readable or settings["key_group_readable"].value is True
        source = KeySource.file(options.path, group_readable=allowed)
    else:
        source = _choose(options, secrets)
    _show(_load(source, secrets), source.path, as_json=options.json)
    return 0


def check(options: Command) -> None:
    """Refuse an identity that could not be loaded. Nothing is made or asked for.

    A descriptor is left alone: it can be read only once.

    Raises:
        IdentityError: naming the source, what is wrong and what to do.
    """
    secrets = forget_secrets()
    source = _choose(options, secrets)
    if source.descriptor is not None:
        return
    try:
        source.load(secrets.password)
    except IdentityError as error:
        vacant = (IdentityProblem.ABSENT, IdentityProblem.EMPTY)
        if source.is_default and error.problem in vacant:
            return  # made at first use
        error.hint = keysources.hint_about_password(error)
        raise


def load(options: Command) -> Identity:
    """The identity of this user, which is there already."""
    secrets = forget_secrets()
    return _load(_choose(options, secrets), secrets)


def load_or_create(options: Command) -> Identity:
    """The identity of this user; made if nobody named one and there is none yet."""
    secrets = forget_secrets()
    source = _choose(options, secrets)
    if not source.is_default:
        return _load(source, secrets)
    try:
        identity, is_new = source.load_or_create(secrets.password)
    except IdentityError as error:
        return _unlock(source, error)
    if is_new:
        say(f"made a new identity, {identity.did}, in {escape(str(source.path))}")
    return identity


def _choose(options: Command, secrets: Secrets) -> KeySource:
    source = keysources.choose_key(
        options.settings.identity(),
        os.environ,
        secrets,
        path=options.identity,
        descriptor=options.identity_fd,
        group_readable=options.key_group_readable,
    )
    if source.descriptor == 0:
        _check_input(options)
    return source


def _check_input(options: Command) -> None:
    """Refuse a message from standard input where the key comes from there: one gets nothing."""
    text, file = getattr(options, "text", None), getattr(options, "file", None)
    what = "-" if text == "-" else f"--file {file}" if str(file) in _STANDARD_INPUT else None
    if what is not None:
        key = (
            "identity_fd = 0 of the settings" if options.identity_fd is None else "--identity-fd 0"
        )
        raise BadInput(
            f"{what} and {key} both read standard input",
            "Open the key file as another descriptor: `--identity-fd 3 3< FILE`",
        )


def _load(source: KeySource, secrets: Secrets) -> Identity:
    try:
        return source.load(secrets.password)
    except IdentityError as error:
        return _unlock(source, error)


def _unlock(source: KeySource, error: IdentityError) -> Identity:
    """Ask for the password that is missing, where somebody is there; else raise."""
    is_asked_for = error.problem is IdentityProblem.ENCRYPTED and source.path is not None
    if is_asked_for and sys.stdin.isatty():
        question = f"Password of {escape(str(source.path))}"
        asked: str = typer.prompt(question, hide_input=True, err=True)
        return source.load(asked)
    error.hint = keysources.hint_about_password(error)
    raise error


def _new_password(options: IdNew) -> str | None:
    if options.password_env is not None and options.ask_password:
        raise BadInput("--password-env and --ask-password exclude each other", "Give one of them")
    if options.ask_password:
        return _asked_password()
    variable = options.password_env
    if variable is None or variable == PASSWORD_VARIABLE:
        password = forget_secrets().password
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
    """Whether a password can be asked for at a terminal, without showing it."""
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
