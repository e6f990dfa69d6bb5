"""The source of the key of a process. The first of these that exists:

1. an open descriptor, named by `identity_fd`;
2. the credential `signedwire.identity`, a file in `$CREDENTIALS_DIRECTORY` (systemd);
3. the variable SIGNEDWIRE_IDENTITY_KEY, which holds the key itself;
4. the file at the configured path, `identity`;
5. identity.pem in the user's configuration folder: the only place where a key is ever made
   without being asked for.

A source that exists and cannot be used is an error: the next one is not tried. A key is
read once. The variables with a key or a password are removed from the environment, so no
child process inherits them. No error, log or `repr` shows their values.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import threading
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from signedwire.environment import home_folder
from signedwire.errors import IdentityError, IdentityProblem
from signedwire.files import cause_of, read_to_end
from signedwire.folders import make_folders
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.keyfiles import MAX_FILE_SIZE, refuse_key_for_path
from signedwire.logs import fields
from signedwire.settings import KEY_VARIABLE, PASSWORD_VARIABLE, Setting, read_settings

__all__ = [
    "KeySource",
    "Secrets",
    "choose_key",
    "default_key_path",
    "hint_about_password",
    "load_identity",
    "make_key_file",
    "take_secrets",
]

CREDENTIAL: Final = "signedwire.identity"
"""The name of the file in `$CREDENTIALS_DIRECTORY`."""
_DESCRIPTOR_TIMEOUT: Final = 30.0
"""Limit in seconds for reading the whole key from a pipe."""
_ATTEMPTS: Final = 100
_PAUSE: Final = 0.05
"""Seconds between attempts to read a key file that another process is making."""

_PASSWORD_HINTS: Final = {
    IdentityProblem.ENCRYPTED: f"Put its password into {PASSWORD_VARIABLE}",
    IdentityProblem.NOT_ENCRYPTED: f"Unset {PASSWORD_VARIABLE}, or encrypt the key",
    IdentityProblem.WRONG_PASSWORD: f"Is the password in {PASSWORD_VARIABLE} right? If it is, "
    "restore the key from a copy",
}

_logger: Final = logging.getLogger(__name__)


class Secrets(Bound, instead="pass the path of a key file"):
    """A key and its password from the environment. The `repr` shows neither."""

    # Not a dataclass, because `asdict()` would extract the secrets.
    __slots__ = ("key", "password")

    def __init__(self, key: str | None = None, password: str | None = None) -> None:
        self.key = key
        self.password = password

    def __repr__(self) -> str:
        return "<Secrets>"


class KeySource(Bound, instead="pass the path of its file"):
    """The selected source of a key. The `repr` shows no key."""

    __slots__ = (
        *("_key", "descriptor", "group_readable", "is_credential", "is_default", "name", "path"),
    )

    def __init__(
        self,
        name: str,
        path: Path | None = None,
        *,
        descriptor: int | None = None,
        is_default: bool = False,
        is_credential: bool = False,
        group_readable: bool = False,
        key: str | None = None,
    ) -> None:
        self.name = name
        """The source as text: a path, "descriptor 3", a variable."""
        self.path = path
        """The key file; `None` if the key is not in a file."""
        self.descriptor = descriptor
        self.is_default = is_default
        """Whether the source is the default path, where a key may be made."""
        self.is_credential = is_credential
        self.group_readable = group_readable
        self._key = key

    def __repr__(self) -> str:
        return f"<KeySource {self.name}>"

    @classmethod
    def file(cls, path: Path, *, group_readable: bool) -> KeySource:
        """Return the source for a file that the user named.

        Raises:
            IdentityError: `path` is probably a key, which is not shown.
        """
        refuse_key_for_path(str(path))
        return cls(str(path), path, group_readable=group_readable)

    def load(self, password: str | None = None) -> Identity:
        """Load the identity of the source.

        Raises:
            IdentityError: the key cannot be used; the text has source, cause and hint.
        """
        if self.path is not None:
            if self.is_credential:
                # systemd gives its service access by an ACL, which looks like group access.
                return Identity._load(self.path, password, group_readable=True, warns=False)
            return Identity.load(self.path, password, group_readable=self.group_readable)
        if self.descriptor is not None:
            data = _read_descriptor(self.descriptor)
            return Identity._from_bytes(data, f"from {self.name}", password)
        data = (self._key or "").encode("utf-8", "surrogateescape")
        return Identity._from_bytes(data, f"in {self.name}", password)

    def load_or_create(self, password: str | None = None) -> tuple[Identity, bool]:
        """Load the identity, or make one; return it, and whether it was made now.

        An identity is made only at the default path, if there is no file, or an empty one
        that a power cut may have left. Of several concurrent processes, one makes it.

        Raises:
            IdentityError: for the causes of `load()`, or the new key cannot be written.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self.load(password), False
            except IdentityError as error:
                problem = error.problem
                if not self.is_default or problem not in _VACANT:
                    raise
            assert self.path is not None
            try:
                is_empty = problem is IdentityProblem.EMPTY
                identity = make_key_file(self.path, password, is_empty=is_empty)
            except IdentityError as error:
                # Another process was faster, unless the path is a dangling symbolic link.
                if error.problem is not IdentityProblem.EXISTS or not self.path.exists():
                    raise
                continue
            if identity is not None:
                return identity, True
            threading.Event().wait(_PAUSE)
        raise IdentityError(
            f"cannot load the key file {self.path}: another process holds it while it is empty",
            "End that process",
            IdentityProblem.EMPTY,
        )


_VACANT: Final = (IdentityProblem.ABSENT, IdentityProblem.EMPTY)


def take_secrets(environ: MutableMapping[str, str] | None = None) -> Secrets:
    """Remove the key and the password from the environment and return them.

    An empty password counts as none. Call this before a thread or a child process is
    started. `environ` is `os.environ` by default.
    """
    environ = os.environ if environ is None else environ
    return Secrets(environ.pop(KEY_VARIABLE, None), environ.pop(PASSWORD_VARIABLE, None) or None)


def hint_about_password(error: IdentityError) -> str:
    """Return the hint of an error, with the variable that holds the password."""
    return _PASSWORD_HINTS.get(error.problem, error.hint)


def load_identity(
    config: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    create: bool = False,
) -> Identity:
    """Load the identity that the environment and the configuration file name.

    `keysources` lists the order of the sources. SIGNEDWIRE_PASSWORD opens an encrypted key.
    Both variables with a secret are removed from `environ`. So call this once, before
    other threads and child processes are started. The call blocks.

    Args:
        config: The configuration file. By default the one that the variable
            SIGNEDWIRE_CONFIG names, if it is set.
        environ: The environment, by default `os.environ`.
        create: Whether to make a new identity at the default path, if no source names a
            key and none exists there. By default no.

    Raises:
        ConfigError: the file or a variable cannot be used, or nothing names a key and there
            is no home folder.
        IdentityError: the key cannot be used; the text has source, cause and hint.
    """
    values: MutableMapping[str, str] = os.environ if environ is None else dict(environ)
    secrets = take_secrets(values)
    source = choose_key(read_settings(config, values).identity(), values, secrets)
    try:
        if create:
            return source.load_or_create(secrets.password)[0]
        return source.load(secrets.password)
    except IdentityError as error:
        error.hint = hint_about_password(error)
        raise


def choose_key(
    settings: Mapping[str, Setting],
    environ: Mapping[str, str],
    secrets: Secrets,
    *,
    path: Path | None = None,
    descriptor: int | None = None,
    group_readable: bool = False,
) -> KeySource:
    """Select the source of the key. The last three arguments are of a command line, and win.

    `settings` are the options of the key, from `Settings.identity()`.

    Raises:
        ConfigError: nothing names a key, and there is no home folder.
        IdentityError: command line and environment contradict each other.
    """
    group_readable = group_readable or settings["key_group_readable"].value is True
    named = _named_otherwise(settings, environ, secrets, descriptor)
    if path is not None:
        source = KeySource.file(path, group_readable=group_readable)
        if named is not None:
            raise IdentityError(
                f"--identity {path} and {named.name} each name a key",
                "Remove one of the two",
                IdentityProblem.AMBIGUOUS,
            )
        return source
    file = settings["identity"]
    if named is not None:
        if file.value is not None:
            _logger.info(
                "the key comes from %s, not from the file %s",
                named.name,
                file.value,
                extra=fields("key source", path=file.value),
            )
        return named
    if file.value is not None:
        return KeySource.file(Path(str(file.value)), group_readable=group_readable)
    found = default_key_path(environ)
    return KeySource(str(found), found, is_default=True, group_readable=group_readable)


def default_key_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of identity.pem in this user's configuration folder.

    `environ` is `os.environ` by default.

    Raises:
        ConfigError: there is no home folder.
    """
    environ = os.environ if environ is None else environ
    if sys.platform == "win32":
        base = Path(environ.get("APPDATA") or home_folder(environ))
    elif sys.platform == "darwin":
        base = home_folder(environ) / "Library" / "Application Support"
    else:
        given = environ.get("XDG_CONFIG_HOME", "")
        # The XDG specification says that a relative path must be ignored.
        base = Path(given) if os.path.isabs(given) else home_folder(environ) / ".config"
    return base / "signedwire" / "identity.pem"


def make_key_file(path: Path, password: str | None, *, is_empty: bool = False) -> Identity | None:
    """Make a new identity in a new file; return `None` if another process is doing so.

    A missing folder is made. With `is_empty`, there is an empty file, which is replaced.

    Raises:
        IdentityError: the file cannot be written, or `path` is probably a key.
    """
    refuse_key_for_path(str(path))
    identity = Identity.generate()
    if is_empty:
        if not identity._save_over_empty(path, password):
            return None
        _logger.warning(
            "the key file %s was empty, so a new key was made in it",
            path,
            extra=fields("key made", path=path),
        )
        return identity
    try:
        make_folders(path.parent)
    except OSError as error:
        raise IdentityError(
            f"cannot make the folder {path.parent}: {error.strerror}",
            "`signedwire id new FILE` makes a key elsewhere, for --identity FILE",
            IdentityProblem.UNWRITABLE,
        ) from None
    identity.save(path, password)
    return identity


def _named_otherwise(
    settings: Mapping[str, Setting],
    environ: Mapping[str, str],
    secrets: Secrets,
    descriptor: int | None,
) -> KeySource | None:
    """Return the first existing source of those before the configured file, if any."""
    if descriptor is None:
        setting = settings["identity_fd"].value
        descriptor = setting if isinstance(setting, int) else None
    if descriptor is not None:
        return KeySource(f"descriptor {descriptor}", descriptor=descriptor)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        path = Path(folder) / CREDENTIAL
        # After any other error the file counts as existing, and reading it reports the cause.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with contextlib.suppress(PermissionError):
                os.lstat(path)
            return KeySource(f"the credential {path}", path, is_credential=True)
    if secrets.key is not None:
        return KeySource(KEY_VARIABLE, key=secrets.key)
    return None


def _read_descriptor(descriptor: int) -> bytes:
    """Read an open file, pipe or socket to its end, and close it."""
    try:
        mode = os.fstat(descriptor).st_mode
    except (OSError, OverflowError):
        raise _bad_descriptor(
            descriptor, "it is not open", "Open it for this process, as `3< FILE` of a shell does"
        ) from None
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise _bad_descriptor(
            descriptor, "it is neither a file nor a pipe", "Open a key file: `3< FILE`"
        )
    try:
        data = read_to_end(descriptor, MAX_FILE_SIZE, _DESCRIPTOR_TIMEOUT)
    except TimeoutError:
        raise _bad_descriptor(
            descriptor,
            f"its other end did not write a whole key within {_DESCRIPTOR_TIMEOUT:.0f} s",
            "The writer must close its end after the key",
        ) from None
    except OSError as error:
        raise _bad_descriptor(descriptor, cause_of(error), "Is it open for reading?") from None
    finally:
        if descriptor > 2:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    if len(data) > MAX_FILE_SIZE:
        raise _bad_descriptor(descriptor, "it has more than 64 KiB", "Is it a key?")
    if not data:
        raise _bad_descriptor(descriptor, "it is at its end", "Was it read before?")
    return data


def _bad_descriptor(descriptor: int, why: str, hint: str) -> IdentityError:
    return IdentityError(
        f"cannot load the key from descriptor {descriptor}: {why}",
        hint,
        IdentityProblem.UNREADABLE,
    )
