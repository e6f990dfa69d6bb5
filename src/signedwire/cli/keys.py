"""The identity that a command uses, and the secrets of its environment."""

from __future__ import annotations

import os
import sys
from typing import Final

import typer

from signedwire import keysources
from signedwire.cli.common_options import CommonOptions
from signedwire.cli.errors import BadInput
from signedwire.cli.output import escape, say
from signedwire.errors import IdentityError, IdentityProblem
from signedwire.identity import Identity
from signedwire.keysources import KeySource, Secrets

__all__ = [
    "check",
    "choose",
    "forget_secrets",
    "load",
    "load_from",
    "load_or_create",
    "take_secrets",
]

_STANDARD_INPUT: Final = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


class _Taken:
    """The secrets that this run took out of the environment, until they are used."""

    secrets = Secrets()


def take_secrets() -> None:
    """Take the key and the password out of the environment, for this run of a command."""
    _Taken.secrets = keysources.take_secrets()


def forget_secrets() -> Secrets:
    """Return the secrets that are not used yet, and keep them here no longer."""
    secrets, _Taken.secrets = _Taken.secrets, Secrets()
    return secrets


def check(options: CommonOptions) -> None:
    """Raise if the identity could not be loaded. Nothing is made, and nobody is asked.

    A descriptor is not read, because it can be read only once.

    Raises:
        IdentityError: names the source, what is wrong and what to do.
    """
    secrets = forget_secrets()
    source = choose(options, secrets)
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


def load(options: CommonOptions) -> Identity:
    """Return the identity of this user, which must exist.

    Raises:
        IdentityError: the key cannot be loaded.
        BadInput: the key and a message would both be read from standard input.
    """
    secrets = forget_secrets()
    return load_from(choose(options, secrets), secrets)


def load_or_create(options: CommonOptions) -> Identity:
    """Return the identity of this user; at the default path a missing one is made.

    Raises:
        IdentityError: the key cannot be loaded or saved.
        BadInput: the key and a message would both be read from standard input.
    """
    secrets = forget_secrets()
    source = choose(options, secrets)
    if not source.is_default:
        return load_from(source, secrets)
    try:
        identity, is_new = source.load_or_create(secrets.password)
    except IdentityError as error:
        return _unlock(source, error)
    if is_new:
        say(f"made a new identity, {identity.did}, in {escape(str(source.path))}")
    return identity


def choose(options: CommonOptions, secrets: Secrets) -> KeySource:
    """Return the source of the key that the options, the settings or the environment name.

    Raises:
        IdentityError, ConfigError: they name none that can be used.
        BadInput: the key and a message would both be read from standard input.
    """
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


def _check_input(options: CommonOptions) -> None:
    """Raise if both the key and a message are read from standard input: one would get nothing."""
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


def load_from(source: KeySource, secrets: Secrets) -> Identity:
    """Return the key of a source; its password is asked for at a terminal if it is missing.

    Raises:
        IdentityError: the key cannot be loaded.
    """
    try:
        return source.load(secrets.password)
    except IdentityError as error:
        return _unlock(source, error)


def _unlock(source: KeySource, error: IdentityError) -> Identity:
    """Ask at the terminal for the missing password; without a terminal, raise `error`."""
    is_asked_for = error.problem is IdentityProblem.ENCRYPTED and source.path is not None
    if is_asked_for and sys.stdin.isatty():
        question = f"Password of {escape(str(source.path))}"
        asked: str = typer.prompt(question, hide_input=True, err=True)
        return source.load(asked)
    error.hint = keysources.hint_about_password(error)
    raise error
