"""`Option`: checks a value, or reads it from text, by the annotation of a field in `config`."""

from __future__ import annotations

import os
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from signedwire.arguments import shown
from signedwire.environment import expand_home
from signedwire.errors import AddressError, ConfigError, DidError, SignedWireError
from signedwire.names import Names, is_name
from signedwire.roles import Roles
from signedwire.types import Address, Did, Location, Target, parse_target

__all__ = ["Given", "Option", "Range", "read_did", "read_target", "table_class"]


class Range(NamedTuple):
    """The bounds of a number, both allowed, and its unit for messages."""

    least: float
    most: float
    unit: str = ""

    def __str__(self) -> str:
        # Underscores as in Python and TOML, so that the text can be pasted.
        return f"{self.least:_} to {self.most:_}"


_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Given(Generic[_In, _Out]):
    """The type of a field whose argument and attribute have different types.

    This is a descriptor-typed field, as in the documentation of `dataclasses`. Type checkers
    take the argument's type from `__set__` and the attribute's from `__get__`. At run time it
    only yields the default: `slots=True` replaces it by a plain slot, and `__post_init__`
    converts the argument.
    """

    def __init__(self, default: _Out) -> None:
        self._default = default

    def __get__(self, instance: object, owner: type | None = None) -> _Out:
        return self._default

    def __set__(self, instance: object, value: _In) -> NoReturn:
        raise AttributeError("a configuration is immutable; use replace()")


def read_did(value: object) -> Did:
    """Return the DID that `value` is, as a `Did` or as text.

    Raises:
        DidError: `value` is neither.
    """
    if isinstance(value, Did):
        return value
    if isinstance(value, str):
        return Did.parse(value)
    raise DidError(f"{shown(value)} is not a DID", "Give a Did or its text")


def read_target(value: object) -> Target:
    """Return the target that `value` is, as a target or as text.

    Raises:
        AddressError: `value` is neither.
    """
    host: object = value.host if isinstance(value, Address) else ""
    if not isinstance(host, str):
        raise AddressError(f"{value!r} is not an address: its host is text", "Give host:port")
    # Both are plain tuples that may have any content, so their text is parsed.
    if isinstance(value, Address):
        return Address.parse(str(value))
    if isinstance(value, Location):
        return Location.parse(str(value))
    if isinstance(value, str):
        return parse_target(value)
    raise AddressError(f"{shown(value)} is not an address", "Give an Address or host:port")


# An annotation is a union of alternatives, which may include None. An alternative is
# Annotated[number, Range], Annotated[Mapping, its class], Literal[words], an enum of words, bool,
# Target, Path or frozenset[Did]. `_expected`, `_read` and `_from_text` below handle each of them.


@dataclass(frozen=True, slots=True)
class Option:
    """One option, from the annotation of its field."""

    name: str
    default: object
    alternatives: tuple[Any, ...]
    is_optional: bool
    text: str = ""
    """The effect of the option, if it has no field with a docstring; else empty."""

    @classmethod
    def of(cls, name: str, default: object, annotation: Any) -> Option:
        if get_origin(annotation) is Given:
            annotation = get_args(annotation)[1]
        is_union = get_origin(annotation) in (Union, types.UnionType)
        parts = get_args(annotation) if is_union else (annotation,)
        # A Location is read where an Address is.
        alternatives = tuple(part for part in parts if part not in (types.NoneType, Location))
        return cls(name, default, alternatives, types.NoneType in parts)

    @property
    def expected(self) -> str:
        """The allowed values, for people, such as `a whole number from 1 to 256, or None`."""
        parts = [_expected(alternative) for alternative in self.alternatives]
        return ", or ".join(parts + ["None"] * self.is_optional)

    @property
    def tables(self) -> Any:
        """The class that reads this option, if its value is a table; else `None`."""
        return table_class(self.alternatives[0])

    def read(self, value: object) -> object:
        """Return `value` in the form of the field.

        Raises:
            ConfigError: `value` is not allowed. The text has the name, the value and what is
                allowed.
        """
        if value is None and self.is_optional:
            return None
        if self.tables is not None:
            return self.tables(value)  # its errors name the table and the key
        reason = hint = ""
        for alternative in self.alternatives:
            try:
                return _read(alternative, value)
            except SignedWireError as error:
                reason, hint = f": {error.fact}", error.hint
            except (TypeError, ValueError):
                pass
        raise self._refusal(value, reason, hint)

    def read_text(self, text: str) -> object:
        """Read the option from the text of an environment variable; a list has commas.

        Raises:
            ConfigError: the text is not allowed. The error has the name, the text and what is
                allowed.
        """
        if self.is_none(text):
            return None
        for alternative in self.alternatives:
            try:
                value = _from_text(alternative, text.strip())
            except ConfigError as error:
                raise self._refusal(text, f": {error.fact}", error.hint) from None
            except ValueError:
                continue
            return self.read(value)
        raise self._refusal(text)

    def find_names(self, value: object, names: Names) -> object:
        """Return a value of `read()` with the DIDs of the names in it.

        Raises:
            ConfigError: a name is unknown.
        """
        if isinstance(value, Roles):
            return value.found(names)
        if not isinstance(value, frozenset):
            return value
        try:
            return frozenset(names.did_of(each) for each in value)
        except DidError as error:
            raise self._refusal(sorted(map(str, value)), f": {error.fact}", error.hint) from None

    def is_none(self, value: object) -> bool:
        """Whether `value` is the word for None, for formats that have no null."""
        return self.is_optional and isinstance(value, str) and value.strip().lower() == "none"

    def _refusal(self, value: object, reason: str = "", hint: str = "") -> ConfigError:
        return ConfigError(
            f"{self.name}={shown(value, 100)} is not allowed{reason}",
            ". ".join(filter(None, (f"Expected {self.expected}", hint))),
        )


def table_class(alternative: Any) -> Any:
    """Return the class that reads the tables of an alternative; `None`: it has no tables."""
    if get_origin(alternative) is Annotated:
        found = get_args(alternative)[1]
        return found if isinstance(found, type) else None
    return None


def _expected(alternative: Any) -> str:
    kind = get_origin(alternative)
    if (tables := table_class(alternative)) is not None:
        return f"a {tables.IN_WORDS}"
    if kind is Annotated:
        number, bounds = get_args(alternative)
        noun = "a whole number" if number is int else "a number"
        return f"{noun}{f' of {bounds.unit}' * bool(bounds.unit)} from {bounds}"
    if kind is Literal:
        return " or ".join(get_args(alternative))
    if kind is frozenset:
        return "a list of DIDs or names"
    if alternative is Names:
        return "a table of names, each with a DID"
    if alternative is Path:
        return "the path of a file"
    if alternative is bool:
        return "true or false"
    return "host:port" if alternative is Address else " or ".join(alternative)


def _read(alternative: Any, value: Any) -> object:
    """Return `value` in the form of `alternative`.

    Raises:
        TypeError, ValueError, SignedWireError: `alternative` does not allow `value`.
    """
    kind = get_origin(alternative)
    if kind is Annotated:
        number, bounds = get_args(alternative)
        # bool is an int to Python, but `max_attempts=True` is a mistake.
        if isinstance(value, bool) or not isinstance(value, (int, number)):
            raise TypeError
        # In this form, the test also refuses NaN, for which every comparison is false.
        if not bounds.least <= value <= bounds.most:
            raise ValueError
        return number(value)
    if kind is Literal:
        if value not in get_args(alternative):
            raise ValueError
        return value
    if kind is frozenset:
        # These are iterable too, but their items are not DIDs.
        if isinstance(value, (str, Mapping)):
            raise TypeError
        return frozenset(_read_did_or_name(item) for item in value)
    if alternative is Names:
        return value if isinstance(value, Names) else Names(value)
    if alternative is Address:
        return read_target(value)
    if alternative is Path:
        if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
            raise TypeError
        if not str(value).strip() or "\0" in str(value):
            raise ValueError
        if any(character < " " for character in str(value)):
            raise ConfigError("it has a control character; in TOML put a path in single quotes")
        if str(value) == ":memory:" or str(value).startswith("file:"):
            raise ConfigError(
                "that is a name for SQLite, not a file: leave the option out to use memory, "
                "or write the path without file:"
            )
        return expand_home(value)
    if alternative is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    return alternative(value)


def _read_did_or_name(value: object) -> Did | str:
    # `TransportConfig` finds the DID of a name, because a source may name what another defines.
    return value if isinstance(value, str) and is_name(value) else read_did(value)


def _from_text(alternative: Any, text: str) -> object:
    """Return the argument of `_read` for a text. Raises ValueError if there is none."""
    kind = get_origin(alternative)
    if table_class(alternative) is not None:
        return tomllib.loads(f"table = {text}")["table"]
    if kind is Annotated:
        number, _ = get_args(alternative)
        return number(text)
    if kind is Literal:
        return _read(alternative, text)
    if kind is frozenset:
        return [item.strip() for item in text.split(",") if item.strip()]
    if alternative is Names:
        pairs = [item.partition("=") for item in text.split(",") if item.strip()]
        names: dict[str, str] = {}
        for name, _, did in pairs:
            if names.setdefault(name.strip(), did.strip()) != did.strip():
                raise ConfigError(f"the name {shown(name.strip())} has two DIDs")
        return names
    if alternative is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return text
