"""Write docs/configuration.md from the docstrings of the options: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from signedwire.config import PRESETS
from signedwire.option_texts import OptionText, describe_options
from signedwire.settings import IDENTITY_OPTIONS

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_HEAD: Final = """\
# Configuration

Every option of a node. This page is made from the docstrings of `TransportConfig`: `make docs`
writes it, and a test compares.

An option is a keyword of `TransportConfig`, a key of the TOML file, and an environment variable.
A later source wins: default, preset, file, environment. In a file and in a variable the word
"none" stands for None, and a list in a variable has commas. An unknown key or variable is an
error. `signedwire config show --explain` prints each option with its value, where that came from,
and the text that is here. `signedwire config check` finds all for which a node would not start.
[Running it for years](operations.md#a-configuration-and-a-peers-file) shows a whole file.

```sh
SIGNEDWIRE_LISTEN=0.0.0.0:9001 signedwire config show --explain
```

## The preset

### `preset`

"""
# The first option of each group, and the group's heading.
_GROUPS: Final = {
    "listen": "Addresses, signatures and v1",
    "names": "Names, and who may link",
    "wire": "The wire, and credit",
    "ping_interval": "Links and connections",
    "send_queue_limit": "Queues",
    "max_frame_size": "v1 frames",
    "store": "Files",
    "ack": "When a message is handled",
    "outbox_limit": "Limits of the store",
    "max_attempts": "Retries and time limits",
    "replay_memory": "Signatures",
    "identity": "The key of the process",
}


def render() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    yield (
        "Where the values start from; every other source is laid over it. It is set by "
        "`TransportConfig.preset(…)`, by the key `preset`, or by `SIGNEDWIRE_PRESET`.\n\n"
    )
    yield "| preset | sets |\n|---|---|\n"
    for name, values in PRESETS.items():
        settings = ", ".join(f"`{key} = {_toml(value)}`" for key, value in values.items())
        yield f"| `{name}` | {settings} |\n"
    for name, option in describe_options().items():
        if name in _GROUPS:
            yield f"\n## {_GROUPS[name]}\n"
            if name in IDENTITY_OPTIONS:
                yield (
                    "\nThese options are keys and variables only: a program gives the key to "
                    "`Node`, and `load_identity()` reads them.\n"
                )
        yield from _section(option)


def _toml(value: object) -> str:
    if isinstance(value, frozenset):
        return "[]"
    return f'"{value}"'


def _section(option: OptionText) -> Iterator[str]:
    facts = {
        "type": option.type,
        "unit": option.unit,
        "range": option.range,
        "default": option.default,
        "variable": f"`{option.variable}`",
    }
    yield f"\n### `{option.name}`\n\n{option.text}\n\n"
    yield " · ".join(f"{what}: {value}" for what, value in facts.items() if value) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
