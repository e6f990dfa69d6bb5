"""Values of typed calls and handlers as payloads, and back.

`None` is an empty payload, and bytes are a payload as they are. All other values go through the
codec of their type.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

from signedwire.errors import SchemaError
from signedwire.messaging.codecs import Codec, JsonCodec, MsgspecCodec, codec_for

__all__ = ["codec_of", "payload_of"]

T = TypeVar("T")
_PLAIN: Final = (bool, int, float, str, list, dict)
"""The types that need no extra."""


def codec_of(type_: Any) -> Codec:
    """Return the codec of a type, also of `bytes`, `None`, `object` and such as `list[int]`.

    Raises:
        ImportError: the type needs the extra `msgspec`, which is not installed.
    """
    if type_ in (None, type(None)):
        return _NothingCodec()
    if type_ is bytes:
        return _BytesCodec()
    if type_ is object or type_ is Any:
        return _AnyCodec()
    # JsonCodec knows the plain types alone; the format of both is the same.
    codec = codec_for(type_)
    return codec if type_ in _PLAIN or isinstance(codec, MsgspecCodec) else MsgspecCodec()


def payload_of(value: object, codec: Codec | None = None) -> bytes:
    """Return the payload of a value.

    Args:
        value: The value.
        codec: The codec; by default that of the type of the value.

    Raises:
        TypeError, ValueError: the value has no form as a payload.
        ImportError: its type needs the extra `msgspec`, which is not installed.
    """
    return (codec_of(type(value)) if codec is None else codec).encode(value)


class _NothingCodec:
    name = "nothing"

    def encode(self, value: object, /) -> bytes:
        if value is not None:
            raise TypeError(f"None is wanted here, not {type(value).__name__}")
        return b""

    def decode(self, data: bytes, type_: type[T], /) -> T:
        if data:
            raise SchemaError("expected an empty payload")
        return cast(T, None)


class _BytesCodec:
    name = "bytes"

    def encode(self, value: object, /) -> bytes:
        if not isinstance(value, bytes):
            raise TypeError(f"bytes are wanted here, not {type(value).__name__}")
        return value

    def decode(self, data: bytes, type_: type[T], /) -> T:
        return cast(T, data)


class _AnyCodec:
    """Plain JSON, and None for an empty payload."""

    name = "json"

    def encode(self, value: object, /) -> bytes:
        return payload_of(value)

    def decode(self, data: bytes, type_: type[T], /) -> T:
        return cast(T, JsonCodec().decode(data, object) if data else None)
