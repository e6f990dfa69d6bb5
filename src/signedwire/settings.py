"""Reads a `TransportConfig` from a TOML file and from environment variables.

A later source wins: defaults, then the preset that `preset` names, then the file, then
the environment. The file has the options of `TransportConfig` as top-level keys. The
variable of an option is its name in capitals after `SIGNEDWIRE_`:

    preset = "production"                     SIGNEDWIRE_PRESET=production
    listen = "0.0.0.0:9001"                   SIGNEDWIRE_LISTEN=0.0.0.0:9001
    v1_peers = ["did:key:z6Mk…"]              SIGNEDWIRE_V1_PEERS=did:key:z6Mk…,did:key:z6Mk…
    connect_timeout = "none"                  SIGNEDWIRE_CONNECT_TIMEOUT=none

`load_identity` reads further options, for the key of the process: `identity`, the path of
its file, `identity_fd` and `key_group_readable`.

"none" stands for None. An unknown key or variable is an error. Every value is checked,
also one that a later source replaces. Only variables that Kubernetes sets for a service
called signedwire are ignored. `~` at the start of a path is the home folder.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from signedwire.arguments import did_you_mean
from signedwire.config import OPTIONS, PRESET_OPTION, PRESETS, TransportConfig
from signedwire.environment import (
    SERVICE_LINK_CAUSE,
    expand_home,
    is_service_link,
    looks_like_service_link,
)
from signedwire.errors import ConfigError
from signedwire.files import TooLargeError, cause_of, read_small_file
from signedwire.keyformats import is_key_for_path, looks_like_a_key
from signedwire.options import Option, Range

__all__ = [
    "COMMAND_LINE_VARIABLES",
    "IDENTITY_OPTIONS",
    "KEY_VARIABLE",
    "PASSWORD_VARIABLE",
    "Setting",
    "Settings",
    "find_faults",
    "load_config",
    "read_settings",
    "read_toml",
    "variable_of",
]

_PREFIX: Final = "SIGNEDWIRE_"
_MAX_FILE_SIZE: Final = 16 * 1024 * 1024
"""Maximum size of a file, in bytes; 100,000 peers need less than 10 MB."""
_PIPE_TIMEOUT: Final = 30.0
"""Limit in seconds for reading a whole document from a pipe."""
IDENTITY_OPTIONS: Final[Mapping[str, Option]] = {
    "identity": Option(
        "identity",
        None,
        (Path,),
        True,
        "The file of the key. With None, the command line uses identity.pem in the user's "
        "configuration folder.",
    ),
    "identity_fd": Option(
        "identity_fd",
        None,
        (Annotated[int, Range(0, 2**20)],),
        True,
        "The number of an open descriptor from which the key is read once, before any other "
        "source. It is closed afterwards.",
    ),
    "key_group_readable": Option(
        "key_group_readable",
        False,
        (bool,),
        False,
        "Whether a key file may be readable by its group, as a Kubernetes secret with fsGroup "
        "is. Otherwise such a file is refused.",
    ),
}
"""Options of the key of a process, which are not part of a `TransportConfig`."""
_KEYS: Final[Mapping[str, Option]] = {
    PRESET_OPTION.name: PRESET_OPTION,
    **OPTIONS,
    **IDENTITY_OPTIONS,
}
_ARE_PEERS: Final = frozenset({"peer", "peers", "route", "routes", "routing"})
"""Keys that people try for peers, which belong in the peers file."""
_VARIABLES: Final = {name.upper(): option for name, option in _KEYS.items()}

KEY_VARIABLE: Final = "SIGNEDWIRE_IDENTITY_KEY"
"""The variable that holds a key itself. `keysources` takes it out of the environment."""
PASSWORD_VARIABLE: Final = "SIGNEDWIRE_PASSWORD"
"""The variable that holds the password of the key; taken out of the environment, too."""
_CONFIG_VARIABLE: Final = "SIGNEDWIRE_CONFIG"
COMMAND_LINE_VARIABLES: Final = frozenset(
    {KEY_VARIABLE, PASSWORD_VARIABLE, _CONFIG_VARIABLE, "SIGNEDWIRE_PEERS"}
)
"""Variables that are not options. Two hold secrets, and two name the files that the command
line reads, and calls without a path."""


def variable_of(name: str) -> str:
    """Return the environment variable of the option called `name`."""
    return _PREFIX + name.upper()


@dataclass(frozen=True, slots=True)
class Setting:
    """One option as loaded, with the source of its value."""

    name: str
    """The field of `TransportConfig`."""
    value: object
    """The value of the field. A list of DIDs may still have names in it."""
    origin: str
    """"default", "preset …", the path of the file, or "environment SIGNEDWIRE_…"."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that a configuration file and the environment set, read once."""

    given: Mapping[str, Setting]
    """The options by name, each value checked on its own."""

    def config(self) -> TransportConfig:
        """Make the configuration.

        Raises:
            ConfigError: two values contradict each other; the text names their sources.
        """
        settings = self.explain()
        values: dict[str, Any] = {setting.name: setting.value for setting in settings}
        try:
            return TransportConfig(**values)
        except ConfigError as error:
            # Each value is valid on its own, so two contradict each other: name their sources.
            origins = dict.fromkeys(s.origin for s in settings if s.origin != "default")
            raise ConfigError(f"{', '.join(origins)}: {error.fact}", error.hint) from None

    def explain(self) -> list[Setting]:
        """Return every option in the order of `TransportConfig`, with value and origin."""
        settings = {
            name: Setting(name, option.default, "default") for name, option in OPTIONS.items()
        }
        preset = self.given.get(PRESET_OPTION.name)
        if preset is not None:
            for name, value in PRESETS[str(preset.value)].items():
                settings[name] = Setting(name, value, f"preset {preset.value}")
        return [self.given.get(name, setting) for name, setting in settings.items()]

    def identity(self) -> dict[str, Setting]:
        """Return the options of the key by name."""
        return {
            name: self.given.get(name, Setting(name, option.default, "default"))
            for name, option in IDENTITY_OPTIONS.items()
        }


def read_settings(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the options that a file and the environment set.

    Call this once for all uses, because a pipe can be read only once. The call blocks.

    Args:
        path: The file. By default the one that SIGNEDWIRE_CONFIG names in `environ`; if it
            names none, no file is read.
        environ: The environment, by default `os.environ`.

    Raises:
        ConfigError: a value, key or variable is wrong; the text has its source, the value
            and what is expected.
    """
    environ = os.environ if environ is None else environ
    path = path or environ.get(_CONFIG_VARIABLE)
    given = _from_file(Path(path)) if path else {}
    return Settings(given | _from_environment(environ))


def load_config(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> TransportConfig:
    """Load the configuration from a file and from the environment. The call blocks.

    Args:
        path: The TOML file. By default the one that the variable SIGNEDWIRE_CONFIG names, as
            for the command line; if it names none, no file is read.
        environ: The environment, by default `os.environ`.

    Raises:
        ConfigError: a value, key or variable is wrong; the text has its source, the value
            and what is expected.
    """
    return read_settings(path, environ).config()


def find_faults(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> list[ConfigError]:
    """Return all errors for which `load_config` with these arguments fails.

    Each value is checked on its own. Only if all are valid, their combination is checked.
    """
    found: list[ConfigError] = []

    def attempt(read: Callable[[], object]) -> None:
        try:
            read()
        except ConfigError as error:
            found.append(error)

    environ = os.environ if environ is None else environ
    path = path or environ.get(_CONFIG_VARIABLE)
    if path:
        document: dict[str, Any] = {}
        attempt(lambda: document.update(read_toml(Path(path))))
        for key, value in document.items():
            attempt(partial(_from_entry, Path(path), key, value))
    for variable, text in environ.items():
        attempt(partial(_from_environment, {variable: text}))
    if not found:
        attempt(lambda: load_config(path, environ))
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read the TOML document in the file at `path`, or from a pipe there within 30 s.

    Raises:
        ConfigError: the file cannot be read, is not TOML or is larger than 16 MiB, or the
            pipe was empty or did not end. The text has the path and the line.
    """
    path = expand_home(path)
    try:
        data, _ = read_small_file(path, _MAX_FILE_SIZE, pipe_timeout=_PIPE_TIMEOUT)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        hint = "Save it as UTF-8" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        kind = "it is UTF-16" if hint else f"not UTF-8 (at line {line})"
        raise ConfigError(f"{path} is not TOML: {kind}", hint) from None
    except TooLargeError:
        raise ConfigError(f"{path} is larger than 16 MiB", "Is it the right file?") from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {path}: {cause_of(error)}",
            "Does the file exist, and may this user read it?",
        ) from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if "at line" not in reason:
            # The parser notices an unclosed string or bracket only at the end.
            reason = f"{reason} (line {text.count(chr(10)) + 1} is the last)"
        raise ConfigError(f"{path} is not TOML: {reason}", _quotes_hint(text, reason)) from None


def _quotes_hint(text: str, reason: str) -> str:
    """Return a hint if the line has a text without quotes, or a Windows path in double ones."""
    found = re.search(r"at line (\d+)", reason)
    lines = text.split("\n")
    line = lines[int(found[1]) - 1] if found and int(found[1]) <= len(lines) else ""
    if re.match(r"\s*[\w-]+\s*=\s*[^\s\"'\[{#]", line):
        return 'Put quotes around a text, as in listen = "0.0.0.0:9001"'
    if re.search(r'"[^"]*\\', line) is None:
        return ""
    return r"In double quotes \ begins an escape: put a path in single quotes, as in 'C:\data\x.db'"


def _from_file(path: Path) -> dict[str, Setting]:
    return {key: _from_entry(path, key, value) for key, value in read_toml(path).items()}


def _from_entry(path: Path, key: str, value: object) -> Setting:
    if key not in _KEYS:
        raise ConfigError(f"{path}: unknown key {key!r}", _hint_about(key))
    option = _KEYS[key]
    # TOML has no null, so there too the word "none" stands for None.
    return _setting(option, str(path), option.read, None if option.is_none(value) else value)


def _hint_about(key: str) -> str:
    """Return a hint for an unknown key."""
    if key.lower() in _ARE_PEERS:
        # The nearest name is v1_peers, which would enable the v1 wire.
        return (
            "Peers are in a file of their own, with a table [peers]: name it with --peers FILE "
            "or SIGNEDWIRE_PEERS"
        )
    return did_you_mean(key, _KEYS)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    found = {}
    for variable, text in environ.items():
        given: tuple[object, object] = (variable, text)
        if not all(isinstance(each, str) for each in given):
            kinds = " and ".join(type(each).__name__ for each in given)
            raise TypeError(f"environ must map text to text, but {variable!r} has {kinds}")
        if not variable.startswith(_PREFIX) or variable in COMMAND_LINE_VARIABLES:
            continue
        suffix = variable.removeprefix(_PREFIX)
        if suffix not in _VARIABLES:
            if is_service_link(variable, text):
                continue
            known = [*_VARIABLES, *(name.removeprefix(_PREFIX) for name in COMMAND_LINE_VARIABLES)]
            hint = did_you_mean(suffix, sorted(known), prefix=_PREFIX)
            if looks_like_service_link(variable, text):
                hint = f"{SERVICE_LINK_CAUSE}. Else: {hint[:1].lower()}{hint[1:]}"
            raise ConfigError(f"unknown environment variable {variable}", hint)
        option = _VARIABLES[suffix]
        found[option.name] = _setting(option, f"environment {variable}", option.read_text, text)
    return found


def _setting(option: Option, origin: str, read: Callable[[Any], object], value: object) -> Setting:
    is_key = is_key_for_path if option.alternatives == (Path,) else looks_like_a_key
    # A list or a table is not a value of these options, and may be a JWK.
    if option.name in IDENTITY_OPTIONS and (
        is_key(value) if isinstance(value, str) else isinstance(value, (list, dict))
    ):
        raise ConfigError(
            f"{origin}: {option.name} is a key itself, or looks like one, so it is not shown",
            f"Put the key into a file of mode 0600 and give its path, or into {KEY_VARIABLE}; "
            "a path with ./ or / at its start is none",
        )
    try:
        return Setting(option.name, read(value), origin)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error.fact}", error.hint) from None
