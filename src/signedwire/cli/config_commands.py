"""`signedwire config show` and `signedwire config check`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from signedwire.cli.config_check import check_all
from signedwire.cli.errors import report
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.file_options import ConfigCheckOptions, ConfigShowOptions
from signedwire.cli.formatting import count_of
from signedwire.cli.output import emit, escape, result, say
from signedwire.cli.redaction import value_without_keys, without_keys
from signedwire.config import PRESET_OPTION, PRESETS
from signedwire.environment import state_folder
from signedwire.errors import ConfigError
from signedwire.option_texts import OptionText, describe_options
from signedwire.settings import Setting, variable_of
from signedwire.subject_options import SubjectOptions
from signedwire.types import Address, Did, Location

__all__ = ["check", "show"]

_WIDTH: Final = 78
_DEFAULT: Final = "default"
"""The origin of a value that nothing sets."""
_DEFAULT_WORDS: Final = {
    "preset": "none is chosen",
    "identity": "identity.pem in the user's configuration folder",
}
_TEXT_OF_PRESET: Final = OptionText(
    PRESET_OPTION.name,
    f"one of {', '.join(PRESETS)}, or None",
    "",
    "",
    "None",
    variable_of(PRESET_OPTION.name),
    "Sets several options at once; the file and the environment override them.",
)


def show(options: ConfigShowOptions) -> int:
    """Print every option as TOML, with the origin of its value as a comment."""
    given = options.settings
    preset = given.given.get(PRESET_OPTION.name, Setting(PRESET_OPTION.name, None, _DEFAULT))
    settings = [preset, *given.explain(), *given.identity().values()]
    texts = describe_options() if options.explain else {}
    if texts:
        texts[preset.name] = _TEXT_OF_PRESET
    if options.json:
        for setting in settings:
            note = {"note": words} if (words := _default_words(setting)) else {}
            value = _plain(setting.value)
            origin = without_keys(setting.origin)
            facts = _words(texts[setting.name]) if texts else {}
            emit({"name": setting.name, "value": value, "origin": origin, **note, **facts})
        return 0
    # TOML has no null; the settings read "none" as `None`.
    lines = [(setting, _line(setting)) for setting in settings]
    width = min(44, max(len(line) for _, line in lines))
    for number, (setting, line) in enumerate(lines):
        for comment in _comments(texts[setting.name], is_first=not number) if texts else ():
            result(comment)
        result(f"{line:<{width}}  # {escape(without_keys(setting.origin))}")
    return 0


def _words(option: OptionText) -> dict[str, str | None]:
    """Return the fields that `--explain --json` adds to an option; null for an empty text."""
    words = option._asdict()
    del words["name"]
    return {name: text or None for name, text in words.items()}


def _comments(option: OptionText, *, is_first: bool) -> list[str]:
    """Return the comments that `--explain` prints above an option."""
    facts = [
        option.type,
        option.unit,
        option.range,
        f"default {option.default}",
        option.variable,
    ]
    paragraphs = [option.text, "; ".join(filter(None, facts))]
    wrap = textwrap.TextWrapper(_WIDTH, break_on_hyphens=False, break_long_words=False).wrap
    lines = [line for paragraph in paragraphs for line in wrap(paragraph)]
    return [*[""] * (not is_first), *(f"# {line}" for line in lines)]


def check(options: ConfigCheckOptions) -> int:
    """Check the configuration and its files; print every fault on a line of its own."""
    found = check_all(options)
    if found.faults:
        for fault in found.faults:
            report(fault, as_json=options.json)
        return ExitCode.FILE
    if options.json:
        emit(
            {
                "ok": True,
                "config": None if options.config is None else str(options.config),
                "peers": None if options.peers is None else str(options.peers),
                "routes": found.routes,
                "warnings": found.warnings,
            }
        )
        return 0
    source = "the defaults" if options.config is None else escape(str(options.config))
    peers = ""
    if found.routes is not None:
        peers = f", {count_of(found.routes, 'peer')} in {escape(str(options.peers))}"
    result(f"ok: {source} with the environment{peers}")
    for warning in found.warnings:
        say(warning)
    return 0


def _line(setting: Setting) -> str:
    """Return a setting as a line of TOML.

    The defaults of `store`, `identity` and `preset` are comments: with "none", whoever uses
    the output as a configuration would lose the user's own store.
    """
    if words := _default_words(setting):
        return f"# {setting.name}: {escape(words)}"
    value = "none" if setting.value is None else _plain(setting.value)
    return f"{setting.name} = {_toml(value)}"


def _toml(value: object) -> str:
    """Return a value as TOML on one line."""
    if not isinstance(value, dict):
        return json.dumps(value)
    pairs = ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def _default_words(setting: Setting) -> str:
    """Return what the command line uses for an option that is not set; empty: its default."""
    if setting.origin != _DEFAULT:
        return ""
    if setting.name != "store":
        return _DEFAULT_WORDS.get(setting.name, "")
    try:
        return f"one for each key, in {state_folder()}"
    except ConfigError:  # without a home folder
        return "one for each key, in the user's state folder"


def _plain(value: object) -> object:
    """Return `value` for JSON and TOML; keys in it are hidden."""
    if isinstance(value, (str, Address, Location, Path)):
        return value_without_keys(str(value))
    if isinstance(value, Mapping):
        return {value_without_keys(key): _plain(each) for key, each in value.items()}
    if isinstance(value, SubjectOptions):
        return _plain(value.as_table())
    if isinstance(value, Did):
        return str(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]
    if isinstance(value, Iterable):
        return sorted(str(item) for item in value)
    return value
