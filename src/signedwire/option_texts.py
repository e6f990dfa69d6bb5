"""A text about each option, for `signedwire config show --explain` and docs/configuration.md.

The texts are the docstrings below the fields of `TransportConfig`. Python does not keep them at
run time, so they are read from the source when they are needed.
"""

from __future__ import annotations

import ast
import enum
import inspect
import itertools
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

from signedwire import config
from signedwire.errors import ConfigError
from signedwire.names import Names
from signedwire.options import Option, table_class
from signedwire.settings import IDENTITY_OPTIONS, variable_of
from signedwire.types import Address

__all__ = ["OptionText", "describe_options", "facts_of"]

_MIB: Final = 2**20


class OptionText(NamedTuple):
    """The facts about one option as texts. A fact that does not apply is empty."""

    name: str
    """The field of `TransportConfig`, and the key in a file."""
    type: str
    """The type in words, such as `whole number, or None`."""
    unit: str
    """Unit of a number, such as `seconds`, `bytes` or `messages`."""
    range: str
    """Least and greatest value of a number, both allowed."""
    default: str
    """The default as Python text; large numbers of bytes also in MiB."""
    variable: str
    """The environment variable that sets it."""
    text: str
    """The effect of the option, on one line."""


def describe_options() -> dict[str, OptionText]:
    """Return the texts of all options by name: first those of `TransportConfig`, in its order.

    The options of the key follow. The call reads the source of signedwire, which takes some
    milliseconds.

    Raises:
        ConfigError: there is no source, as in some frozen programs.
    """
    texts = _docstrings()
    described = {}
    for name, option in (*config.OPTIONS.items(), *IDENTITY_OPTIONS.items()):
        described[name] = _describe(option, option.text or texts[name])
    return described


def facts_of(option: Option) -> str:
    """Return the last paragraph of an option's docstring, from its annotation and default."""
    return f"Allowed: {option.expected}; default {_default(option.default)}."


def _docstrings() -> Mapping[str, str]:
    """Return the docstring of each field of `TransportConfig`, without its last paragraph."""
    try:
        tree = ast.parse(inspect.getsource(config))
    except (OSError, SyntaxError) as error:
        raise ConfigError(
            f"the texts of the options cannot be read: {error}",
            "They are in the source of signedwire, which is not installed here; "
            "docs/configuration.md has them, too",
        ) from None
    (fields,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == config.TransportConfig.__name__
    )
    return {
        field.target.id: " ".join(str(below.value.value).rpartition("\n\n")[0].split())
        for field, below in itertools.pairwise(fields)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def _describe(option: Option, text: str) -> OptionText:
    kinds = [_type(alternative) for alternative in option.alternatives]
    bounds = [
        get_args(alternative)[1]
        for alternative in option.alternatives
        if get_origin(alternative) is Annotated and table_class(alternative) is None
    ]
    return OptionText(
        name=option.name,
        type=", or ".join(kinds + ["None"] * option.is_optional),
        unit=bounds[0].unit if bounds else "",
        range=str(bounds[0]) if bounds else "",
        default=_default(option.default),
        variable=variable_of(option.name),
        text=text,
    )


def _type(alternative: Any) -> str:
    """Return the name of an alternative of an annotation."""
    kind = get_origin(alternative)
    if (tables := table_class(alternative)) is not None:
        return str(tables.IN_WORDS)
    if kind is Annotated:
        return "whole number" if get_args(alternative)[0] is int else "number"
    if kind is Literal:
        return " or ".join(f'"{word}"' for word in get_args(alternative))
    if isinstance(alternative, type) and issubclass(alternative, enum.Enum):
        return " or ".join(f'"{member.value}"' for member in alternative)
    if kind is frozenset:
        return "list of DIDs or names"
    return _TYPES[alternative]


_TYPES: Final[Mapping[Any, str]] = types.MappingProxyType(
    {
        bool: "true or false",
        Address: "host:port",
        Path: "path",
        Names: "table of names and DIDs",
    }
)


def _default(value: object) -> str:
    if isinstance(value, Mapping):
        return "an empty table"
    if value == frozenset():
        return "an empty list"
    if isinstance(value, Names):
        return "an empty table"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, (int, float)):
        is_mib = isinstance(value, int) and value >= _MIB and value % _MIB == 0
        return f"{value:_}" + f" ({value // _MIB:_} MiB)" * is_mib
    return f'"{value}"'
