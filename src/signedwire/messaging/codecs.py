"""Codecs: typed payloads as bytes, and back. The bytes that come from a peer are hostile.

`JsonCodec` needs no extra, and knows the plain types of JSON alone. `MsgspecCodec` needs the
extra `msgspec`, and knows dataclasses and Structs. A codec of your own is any object with the
attributes of `Codec`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Protocol, TypeVar, cast

from signedwire.arguments import shown
from signedwire.delivery.message import Message
from signedwire.errors import SchemaError
from signedwire.types import Reason

if TYPE_CHECKING:
    import types

__all__ = [
    "NACKED",
    "Codec",
    "JsonCodec",
    "MsgspecCodec",
    "Nacked",
    "codec_for",
    "decode_or_nack",
]

T = TypeVar("T")

MAX_DEPTH: Final = 64
"""Maximum number of lists and objects of JSON that stand in one another."""
_MAX_NUMBER_SIZE: Final = 1000
"""Maximum number of characters of a number in JSON."""
_LEAST_INT: Final = -(2**63)
_MOST_INT: Final = 2**64 - 1
# A string of JSON, also one that does not end: so the text is scanned once, whatever it is.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_PLAIN: Final = (dict, list, str, int, float, bool, type(None))
"""The types that JSON has."""


class Codec(Protocol):
    """Turns values into payloads, and payloads into values.

    Nodes call a codec in the event loop, so `decode()` must not take long for any payload.
    """

    @property
    def name(self) -> str:
        """The name of the format for people, such as "json"."""

    def encode(self, value: object, /) -> bytes:
        """Return the payload of a value.

        Raises:
            TypeError, ValueError: this format does not have such a value.
        """

    def decode(self, data: bytes, type_: type[T], /) -> T:
        """Return the value of a payload, which is a `type_`.

        Args:
            data: The payload: any bytes that a peer has sent.
            type_: The type that the value must have.

        Raises:
            SchemaError: the payload is not of this type. The error names the field.
            TypeError: the codec does not know such a type.
        """


class Nacked(enum.Enum):
    """The type of `NACKED`."""

    NACKED = "nacked"


NACKED: Final = Nacked.NACKED
"""Result of `decode_or_nack()` for a message that was refused. Compare it with `is`."""


def decode_or_nack(
    message: Message, type_: type[T], codec: Codec | None = None
) -> T | Literal[Nacked.NACKED]:
    """Decode the payload of a message, or refuse the message if it is not of this type.

    The refusal is `message.nack("malformed", detail=…)`. So the text of the error reaches the
    receipt of the sender. Any thread may call this.

    Args:
        message: The message; it is not acknowledged here.
        type_: The type that the value must have.
        codec: The codec; by default `codec_for(type_)`.

    Returns:
        The value, or `NACKED` if the message was refused.

    Raises:
        TypeError: the codec does not know such a type; the message was not refused.
        ImportError: the default codec needs an extra that is not installed.
        ClosedError, WrongContextError: see `Message.nack()`.
    """
    codec = codec or codec_for(type_)
    try:
        return codec.decode(message.payload, type_)
    except SchemaError as error:
        message.nack(Reason.MALFORMED, error.detail)
        return NACKED


def codec_for(type_: object) -> Codec:
    """Return the default codec of a type.

    Args:
        type_: The type of the values.

    Returns:
        A `MsgspecCodec` for a dataclass or a msgspec Struct, else a `JsonCodec`.

    Raises:
        ImportError: `type_` is a dataclass, and the extra `msgspec` is not installed.
    """
    is_class = isinstance(type_, type)
    if is_class and (dataclasses.is_dataclass(type_) or _is_struct(type_)):
        return MsgspecCodec()
    return JsonCodec()


def _is_struct(type_: Any) -> bool:
    # Only a program that has imported msgspec can have a Struct.
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(type_, msgspec.Struct)


# -- JSON -------------------------------------------------------------------------------


class JsonCodec:
    """JSON in UTF-8 with plain types alone: None, bool, int, float, str, list, dict.

    Equal values have equal bytes: keys are sorted, and there are no spaces. A float is never
    NaN or infinite, and an int is from -2**63 to 2**64 - 1. Keys of objects are texts, each
    once. Lists and objects stand in one another at most 64 deep. Text has no lone surrogates.
    """

    name: Final = "json"

    def __repr__(self) -> str:
        return "JsonCodec()"

    def encode(self, value: object, /) -> bytes:
        """Return a value as JSON.

        Raises:
            TypeError: a part of the value has another type; the error names the part.
            ValueError: a number, a text or the depth is out of range; the error names the part.
        """
        _check_plain(value, "$", 0)
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
        return text.encode()

    def decode(self, data: bytes, type_: type[T], /) -> T:
        """Return the value that JSON text stands for.

        Args:
            data: The text in UTF-8. Text of 1 MiB takes some 100 ms at most, whatever it is.
            type_: One of the plain types, or `object` for any of them. For `float`, a whole
                number is accepted too.

        Raises:
            SchemaError: the text is not strict JSON, or the value has another type.
            TypeError: `type_` is not a plain type.
        """
        if type_ is not object and type_ not in _PLAIN:
            raise TypeError(
                f"JsonCodec does not check {shown(type_)}: it knows None, bool, int, float, str, "
                "list, dict and object; use MsgspecCodec for other types"
            )
        value = _read_json(data)
        if type_ is object or type(value) is type_:
            return cast(T, value)
        if type_ is float and type(value) is int:
            return cast(T, float(value))
        raise SchemaError(f"expected {_name_of(type_)}, got {_name_of(type(value))} - at $")


def _name_of(type_: type) -> str:
    return "None" if type_ is type(None) else type_.__name__


def _check_plain(value: object, path: str, depth: int) -> None:
    """Raise if a value, or a part of it, has no exact form in JSON."""
    kind = type(value)
    if kind in (list, dict) and depth == MAX_DEPTH:
        raise ValueError(f"lists and dicts are more than {MAX_DEPTH} deep at {path[:60]}…")
    if isinstance(value, list) and kind is list:
        for place, item in enumerate(value):
            _check_plain(item, f"{path}[{place}]", depth + 1)
    elif isinstance(value, dict) and kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"a key of {path} is {shown(key)}; JSON has keys of type str alone")
            _check_plain(key, f"a key of {path}", depth)
            _check_plain(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, str) and kind is str:
        if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
            raise ValueError(f"{path} is {shown(value)}, which has a lone surrogate")
    elif isinstance(value, int) and kind is int:
        if not _LEAST_INT <= value <= _MOST_INT:
            raise ValueError(f"{path} is {shown(value)}; an int is from -2**63 to 2**64 - 1")
    elif isinstance(value, float) and kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}, which JSON does not have")
    elif kind not in _PLAIN:
        raise TypeError(
            f"{path} is of type {kind.__name__}; JsonCodec takes None, bool, int, float, str, "
            "list and dict. MsgspecCodec takes dataclasses and Structs"
        )


def _read_json(data: bytes) -> object:
    """Return the value of JSON text.

    Raises:
        SchemaError: the text is not strict JSON.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SchemaError(f"not UTF-8 at byte {error.start}") from None
    _check_depth(data)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_of,
            parse_int=_int_of,
            parse_float=_float_of,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise SchemaError(f"not JSON at character {error.pos}: {error.msg}") from None
    # An escape such as \ud800 may be a lone surrogate, which has no form in UTF-8.
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise SchemaError("a text has a lone surrogate") from None
    return value


def _check_depth(data: bytes) -> None:
    """Raise SchemaError if brackets stand too deep in one another: the parser is recursive."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise SchemaError(f"lists and objects are more than {MAX_DEPTH} deep")


def _object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise SchemaError(f"an object has the key {shown(key)} twice")
            seen.add(key)
    return found


def _int_of(text: str) -> int:
    # The length comes first: a conversion takes the square of the digits, or raises.
    value = int(text) if len(text) <= 20 else 2**64
    if not _LEAST_INT <= value <= _MOST_INT:
        raise SchemaError(f"the number {shown(text)} is not from -2**63 to 2**64 - 1")
    return value


def _float_of(text: str) -> float:
    value = float(text) if len(text) <= _MAX_NUMBER_SIZE else math.inf
    if not math.isfinite(value):
        raise SchemaError(f"the number {shown(text)} is too large, or too long")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise SchemaError(f"not JSON: {text} is no number there")


# -- msgspec ----------------------------------------------------------------------------


class MsgspecCodec:
    """Dataclasses, msgspec Structs and all other types that msgspec checks.

    Needs the extra `signedwire[msgspec]`. Equal values have equal bytes. As JSON, NaN and
    infinite floats are encoded as null, and a key that occurs twice has its last value.

    Args:
        format: "json", the default, or "msgpack".

    Raises:
        ImportError: msgspec is not installed.
        ValueError: the format is unknown.
    """

    def __init__(self, format: Literal["json", "msgpack"] = "json") -> None:
        msgspec = _import_msgspec()
        formats: dict[str, Any] = {"json": msgspec.json, "msgpack": msgspec.msgpack}
        if format not in formats:
            raise ValueError(f"format={shown(format)} is unknown; known are json, msgpack")
        self._format = format
        self._encoder = formats[format].Encoder(order="deterministic")
        self._decoder_of = lru_cache(maxsize=256)(formats[format].Decoder)
        self._errors = msgspec.MsgspecError, RecursionError, UnicodeDecodeError

    def __repr__(self) -> str:
        return f"MsgspecCodec({self._format!r})"

    @property
    def name(self) -> str:
        """The format: "json" or "msgpack"."""
        return self._format

    def encode(self, value: object, /) -> bytes:
        """Return a value in the format.

        Raises:
            TypeError, ValueError: msgspec cannot encode the value.
        """
        return cast(bytes, self._encoder.encode(value))

    def decode(self, data: bytes, type_: type[T], /) -> T:
        """Return the value of a payload.

        Args:
            data: The payload.
            type_: A dataclass, a Struct, or any other type that msgspec knows.

        Raises:
            SchemaError: the payload is not of this type. The error names the field.
            TypeError: msgspec does not know such a type.
        """
        decoder = self._decoder_of(cast(Any, type_))
        try:
            return cast(T, decoder.decode(data))
        except RecursionError:
            raise SchemaError("the value is nested too deep") from None
        except self._errors as error:
            text = str(error)
            raise SchemaError(f"{text[:1].lower()}{text[1:600]}") from None


def _import_msgspec() -> types.ModuleType:
    try:
        import msgspec
        import msgspec.json
        import msgspec.msgpack
    except ImportError:
        raise ImportError(
            "dataclasses and Structs need msgspec: pip install 'signedwire[msgspec]', "
            "or '.[msgspec]' in a checkout"
        ) from None
    return msgspec
